"""How new values are fetched: websocket channels, stream updates, polling, and which of them when."""
