"""Reading the archive: gaps, polls, reconciliation, ranges that somebody asked for."""
