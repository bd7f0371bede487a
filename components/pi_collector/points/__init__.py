"""Which points there are: looked up, kept, looked up again."""
