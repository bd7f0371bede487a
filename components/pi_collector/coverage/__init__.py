"""What has been handed on of each stream and what has not: no sockets, no clocks, no files."""
