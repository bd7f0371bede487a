"""Batches told by tags: when they begin and end, and what their tags did meanwhile."""
