"""A simulated PI system behind a PI Web API: points, an archive with compression, and all that a client can meet there.

It imports nothing of Sluice and shares no code with it, so that it cannot share a mistake.
"""
