"""High-water marks: time and status of the last sample handed on per tag, as they survive the component's end. Pure.

A mark says two things after a restart: which first notification of a recreated item only repeats what is known, and
from where on a tag lacks samples when its subscription could not be resumed (`opcua_collector.history.gaps`).

Marks are written now and then; what was handed on later is in the outbox, and rolls them forward. A connection does:

    marks = restore(outlet.position("marks"))                     # at its start; report marks.trouble
    gaps = Gaps()
    gaps.load(outlet.position("gaps"))                            # returns what was wrong with it
    async for batch in outlet.recent(marks.newest):
        gaps.replay(batch, marks)                                 # before the marks: a gap begins at the old mark
        marks.advance(batch)
    assembler = Assembler(gaps)
    assembler.restore(marks, tags)                                # before the first `add`; tags: those configured

    newest = outlet.newest                                        # every 10 s at most, without an await between
    noted = outlet.note({"marks": dump(assembler, names, newest), "gaps": gaps.dump(newest)})
    await noted; outlet.keep_after(newest)                        # once it is durable, older batches are not needed

Marks and gaps go into one transaction: gaps must never be older than marks, or what lies between is lost to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from opcua_collector.types.typed import HEARTBEAT
from sluice.batch import Columns, SampleBatch

if TYPE_CHECKING:
    from opcua_collector.values.samples import Assembler

#: A status that is not known: it equals every other.
ANY_STATUS: Final = -(2**63)

_VERSION: Final = 1
_LARGEST: Final = 256 * 2**20  # bytes that a note may unpack to
_LEVEL: Final = 3


class NoteError(ValueError):
    """A note that cannot be read; the text says why."""


@dataclass(slots=True)
class Mark:
    """The last sample of a tag: its time (ns since 1970 UTC) and its native status."""

    time: int
    status: int


@dataclass(slots=True)
class Marks:
    """Marks by tag. `newest`: number of the last live batch that they have seen."""

    newest: int = 0
    of: dict[str, Mark] = field(default_factory=dict)
    trouble: str = ""
    """Why there are none; empty when there is nothing wrong."""

    def advance(self, batch: SampleBatch) -> None:
        """Roll forward over a batch that was handed on. One that is known already changes nothing."""
        if batch.header.seq <= self.newest:
            return
        self.newest = batch.header.seq
        columns = batch.columns
        last = np.full(len(columns.series), -1, np.int64)
        rows = np.flatnonzero(news(columns))
        last[columns.s[rows]] = rows
        for series, row in zip(columns.series, last.tolist(), strict=True):
            if row < 0:
                continue
            status = 0 if columns.status is None else int(columns.status[row])
            # A word in the place of the status: the source's own is not known any more.
            self.of[series.tag] = Mark(int(columns.t[row]), ANY_STATUS if status < 0 else status)


def news(columns: Columns) -> NDArray[np.bool_]:
    """Which samples of a live batch came live. Heartbeats, which are sent among them, are none: theirs is the server's
    time, and what the tag brings after them may be older."""
    if columns.status is None or HEARTBEAT not in columns.words:
        return np.ones(len(columns), bool)
    return np.asarray(columns.status != -1 - columns.words.index(HEARTBEAT))


def dump(assembler: Assembler, names: Mapping[int, str], newest: int) -> bytes:
    """The marks as bytes. `names`: handle -> tag; `newest`: number of the last live batch handed to the outlet."""
    handles, times, statuses = assembler.marks()
    found = list(map(names.get, handles.tolist()))
    tags = [name for name in found if name is not None]
    if len(tags) < len(found):
        rows = [row for row, name in enumerate(found) if name is not None]
        times, statuses = times[rows], statuses[rows]
    waiting = assembler.parked
    if waiting:
        tags += waiting
        times = np.concatenate([times, np.array([mark.time for mark in waiting.values()], np.int64)])
        statuses = np.concatenate([statuses, np.array([mark.status for mark in waiting.values()], np.int64)])
    statuses = np.where((statuses < 0) & (statuses != ANY_STATUS), ANY_STATUS, statuses)
    return pack({"newest": newest, "tags": tags}, (times, statuses))


def restore(data: bytes | None) -> Marks:
    """The marks of a dump; none, with the trouble, of bytes that are no dump."""
    if data is None:
        return Marks()
    try:
        head, (times, statuses) = unpack(data, 2)
        tags = texts(head, "tags", len(times))
    except NoteError as error:
        return Marks(trouble=f"the marks of the last samples cannot be read and are begun anew: {error}")
    found = {tag: Mark(*mark) for tag, *mark in zip(tags, times.tolist(), statuses.tolist(), strict=True)}
    return Marks(number(head, "newest"), found)


def newest(data: bytes | None) -> int:
    """Number of the last live batch that a dump has seen; 0 for bytes that are none. Much quicker than `restore`."""
    if data is None:
        return 0
    try:
        return number(unpack(data, 2)[0], "newest")
    except NoteError:
        return 0


def pack(head: Mapping[str, Any], columns: Sequence[NDArray[np.int64]]) -> bytes:
    """A note: a JSON head and columns of equal length, compressed. The same content gives the same bytes.

    Bytes of one weight stand together, because neighbouring times differ in the light ones only.
    """
    text = orjson.dumps({"v": _VERSION, **head})
    body = [np.ascontiguousarray(column, "<i8").view(np.uint8).reshape(-1, 8).T.tobytes() for column in columns]
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join([len(text).to_bytes(4, "little"), text, *body]))


def unpack(data: bytes, columns: int) -> tuple[dict[str, Any], list[NDArray[np.int64]]]:
    """Head and columns of a note. Raises NoteError."""
    try:
        if not 0 <= zstandard.frame_content_size(data) <= _LARGEST:
            raise NoteError("its size is not believable")
        raw = zstandard.ZstdDecompressor().decompress(data)
        length = int.from_bytes(raw[:4], "little")
        head = orjson.loads(raw[4 : 4 + length])
    except (zstandard.ZstdError, ValueError) as error:
        raise NoteError(str(error)) from error
    if not isinstance(head, dict) or head.get("v") != _VERSION:
        raise NoteError(f"it is not of version {_VERSION}")
    body = np.frombuffer(raw[4 + length :], np.uint8)
    rows, rest = divmod(len(body), 8 * columns)
    if rest:
        raise NoteError(f"{len(body)} bytes are not {columns} columns")
    each = body.reshape(columns, 8, rows)
    return head, [np.ascontiguousarray(one.T).view("<i8").reshape(-1).astype(np.int64) for one in each]


def texts(head: Mapping[str, Any], key: str, count: int | None = None) -> list[str]:
    """A list of texts, `count` of them, of a note's head. Raises NoteError."""
    found = head.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise NoteError(f"its {key} are no texts")
    if count is not None and len(found) != count:
        raise NoteError(f"it has {len(found)} {key} and {count} rows")
    return found


def number(head: Mapping[str, Any], key: str) -> int:
    """A number of a note's head; 0 for what is none."""
    found = head.get(key)
    return found if isinstance(found, int) and found > 0 else 0
