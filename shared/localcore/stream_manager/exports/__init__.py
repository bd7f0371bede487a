"""The stream manager's exports: one loop that batches, retries and keeps the position, and a module per destination."""
