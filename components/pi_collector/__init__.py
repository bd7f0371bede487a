"""Collects from PI systems over PI Web API: points without a gap, by channels, stream updates or polling."""
