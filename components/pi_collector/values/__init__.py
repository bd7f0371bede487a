"""Timed values as PI Web API writes them, into columns and qualities."""
