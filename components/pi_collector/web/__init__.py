"""Talking to PI Web API: requests, who we are, how fast, what the server says of its time."""
