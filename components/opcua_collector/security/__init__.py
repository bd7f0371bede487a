"""Protection and identity: policies, whom we believe, who we are."""
