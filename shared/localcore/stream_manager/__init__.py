"""A stand-in for Greengrass's stream manager that the unmodified `stream-manager` SDK talks to.

It is not AWS's server. Where the documentation is silent it models the reading that is worse for the client: sizes
count what the store adds, an export frees no space, what was not flushed may vanish in a power cut, and one wrong
message may cost the batch it travels in.
"""

from localcore.stream_manager.process import StreamManagerProcess
from localcore.stream_manager.streams import discard_unflushed

__all__ = ["StreamManagerProcess", "discard_unflushed"]
