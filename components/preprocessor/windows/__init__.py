"""Windows of source time: where they begin and end, what is known of them, what they give."""
