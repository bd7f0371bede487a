"""How coverage is kept: small binary notes under the outlet's positions.

| position      | holds                                                  | written                            |
|---------------|--------------------------------------------------------|------------------------------------|
| `journal`     | which journals there are, and the numbers of the tails | with every other one               |
| `journal/<n>` | what happened since journal n - 1                      | in the transaction of the samples  |
| `coverage`    | frontiers, gaps; which tails there are                 | by a checkpoint                    |
| `streams`     | the keys of the streams                                | by a checkpoint, if they changed   |
| `tail/<n>`    | keys of what was handed on, sorted, 8 bytes each       | by a checkpoint                    |

Order. The outbox stores puts in the order in which they were put when they share a position, and all of ours share
`journal`: so a later journal is durable later, and what is durable is always a beginning of what happened. A journal
is in the transaction of the samples that it tells of. So what is kept is never *ahead* of the samples, which would lose
some; to be *behind* is always safe: the archive is read again from there, and the tail drops what was handed on.
Should the outbox refuse a journal all the same and store later ones, frontiers stay before it; a checkpoint is only put
when all journals that it takes the place of are durable.

A note is a magic number, sections (name, length, bytes), and a CRC-32 of all that. Whoever reads one that is damaged
gets a DamagedError with words for people, and goes on without it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

JOURNAL: Final = "journal"
COVERAGE: Final = "coverage"
STREAMS: Final = "streams"

_MAGIC: Final = b"SPC1"
_PACKED: Final = b"SPZ1"
_SECTION: Final = struct.Struct("<BI")
_CRC: Final = struct.Struct("<I")
_MOST_BYTES: Final = 256 * 1024 * 1024
_COMPRESSED_FROM: Final = 4096

S = TypeVar("S", bound=np.generic)


class DamagedError(Exception):
    """A note that cannot be read: says why, for people."""


def journal_key(number: int) -> str:
    """The position of a journal."""
    return f"journal/{number}"


def tail_key(number: int) -> str:
    """The position of a segment of the tail."""
    return f"tail/{number}"


def pack(sections: Mapping[str, bytes]) -> bytes:
    """A note of these sections; a large one is compressed."""
    parts = [_MAGIC]
    for name, content in sections.items():
        encoded = name.encode()
        parts += [_SECTION.pack(len(encoded), len(content)), encoded, content]
    body = b"".join(parts)
    note = body + _CRC.pack(zlib.crc32(body))
    if len(note) >= _COMPRESSED_FROM:
        smaller = _PACKED + zstandard.ZstdCompressor(level=1).compress(note)
        if len(smaller) < len(note) * 3 // 4:
            return smaller
    return note


def unpack(note: bytes) -> dict[str, bytes]:
    """The sections of a note. Raises DamagedError."""
    if note[:4] == _PACKED:
        try:
            note = zstandard.ZstdDecompressor().decompress(note[4:], max_output_size=_MOST_BYTES)
        except zstandard.ZstdError as error:
            raise DamagedError(f"it cannot be unpacked ({error})") from None
    if len(note) < 8 or note[:4] != _MAGIC:
        raise DamagedError("it is none, or one of another version")
    body = memoryview(note)[:-4]
    if _CRC.unpack(note[-4:])[0] != zlib.crc32(body):
        raise DamagedError("its checksum is wrong")
    found: dict[str, bytes] = {}
    at = 4
    while at < len(body):
        if at + _SECTION.size > len(body):
            raise DamagedError("it is cut off")
        name_length, length = _SECTION.unpack_from(body, at)
        at += _SECTION.size
        if at + name_length + length > len(body):
            raise DamagedError("it is cut off")
        name = bytes(body[at : at + name_length]).decode("utf-8", "replace")
        at += name_length
        found[name] = bytes(body[at : at + length])
        at += length
    return found


def column(sections: Mapping[str, bytes], name: str, kind: type[S], rows: int | None = None) -> NDArray[S]:
    """A section as a column of its own; one that is not there is empty. Raises DamagedError for another length."""
    content = sections.get(name, b"")
    size = np.dtype(kind).itemsize
    if len(content) % size or (rows is not None and len(content) != rows * size):
        raise DamagedError(f"its section {name} has {len(content)} bytes")
    return np.frombuffer(content, np.dtype(kind).newbyteorder("<")).astype(kind)


def steps(handles: NDArray[np.int32]) -> bytes:
    """Handles as a section: from one to the next, which compresses to nearly nothing."""
    return content(np.diff(handles, prepend=np.int32(0)))


def from_steps(sections: Mapping[str, bytes], name: str) -> NDArray[np.int32]:
    """And back. Raises DamagedError."""
    handles = np.cumsum(column(sections, name, np.int32), dtype=np.int32)
    if len(handles) and int(handles.min()) < 0:
        raise DamagedError(f"its section {name} has handles below 0")
    return handles


def content(values: NDArray[Any]) -> bytes:
    """A column as a section."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
