"""Nodes and their names: what filters are matched against."""
