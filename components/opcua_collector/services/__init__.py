"""The services that a server is asked for, in requests that it takes."""
