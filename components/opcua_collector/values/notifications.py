"""PublishResponse bodies -> columns (Part 4, 5.14.5; Part 6, 5.2). Pure: bytes in, columns out, it never raises.

Theory of operation. A DataChangeNotification is a row of items without lengths or separators: client handle, mask,
variant byte, value, and the status and times that the mask announces. Mask and variant byte together, the *layout*,
fix the size of an item unless its value is a text, an array or a structure. So a message is read in two passes:

1. The *walk* finds where each item starts, and nothing more. Items of one layout in a row, the usual case, are
   crossed in one step: if item i has the layout, item i+1 starts a fixed number of bytes later, so comparing two
   bytes at that stride finds the end of the run, by induction. So are short patterns of layouts that repeat. Values of
   variable size are read here, one by one.
2. *Gathering* turns all items of one layout into columns at once: a run is a view of the message as a numpy array,
   scattered items are picked by their positions.

The results of a Read are the same row without the client handles: which is whose, the request says.

Each column set keeps the items' places in the message, so that order survives the grouping by type.

Damage costs what is damaged. An item that cannot be read is quarantined, and the walk resumes at the first place
behind it from where plausible items with known handles follow without a break. If there is none, the rest of that
notification is lost and counted; the other parts of the message are not touched. How much is tried has an end, so that
damage adds no more than some hundred milliseconds to what reading the message once takes, whatever its bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector.values.encoding import (
    FILETIME_OF_1970,
    FIXED,
    READERS,
    MalformedError,
    read_extension_object,
    read_response_header,
    read_variant_body,
)

#: Family of a value: its built-in type id (Part 6, table 1); NULL for no value; for an array that of its elements, with
#: the bit ARRAY.
NULL: Final = 0
ARRAY: Final = 64
DATE_TIME: Final = 13
_STRING: Final = 12
UINT64: Final = 9
BOOLEAN: Final = 1
INTEGERS: Final = frozenset({2, 3, 4, 5, 6, 7, 8, 19})
REALS: Final = frozenset({10, 11})
_SIZED: Final = INTEGERS | REALS | {BOOLEAN, UINT64, DATE_TIME}
_LENGTHS: Final = frozenset({_STRING, 15, 16})  # a length and as many bytes

_DATA_CHANGE: Final = "i=811"
_EVENTS: Final = "i=916"
_STATUS_CHANGE: Final = "i=820"

_VALUE, _STATUS, _SOURCE, _SERVER, _SOURCE_PICO, _SERVER_PICO = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_RUN: Final = 4  # as many neighbours of one layout make it worth looking for a run
_GLANCE: Final = 64  # items that are looked at without numpy, which pays for longer runs only
_PATTERN: Final = 8  # layouts that a pattern may have; as many again must have followed it
_RESUME_WINDOW: Final = 4096  # bytes behind a damaged item in which the next one is looked for
_RESUME_PROOF: Final = 24  # items that must follow without a break to believe in a place
_RESUME_TRIES: Final = 100_000  # items that are looked at for it, per message; 25 ms
_RESUME_READS: Final = 500  # and of these, values that have to be read to know where they end
_RESUME_READ: Final = 4096  # bytes that such a value may have
_MAX_QUARANTINED: Final = 64  # per notification; beyond it, the rest is lost and counted
_MAX_WASTED: Final = 300_000  # elements of arrays that may be read in vain, per message; beyond it the same

_DAMAGE = (MalformedError, IndexError, struct.error, ValueError, OverflowError)

_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_MESSAGE: Final = struct.Struct("<IqI")
_TEXT: Final = struct.Struct("<4xHi")  # an item with a text: mask and variant byte, length
_TEXT_ALONE: Final = struct.Struct("<Hi")  # the same without a handle

_MAX_TIME: Final = FILETIME_OF_1970 + (2**63 - 1) // 100


@dataclass(frozen=True, slots=True)
class Block:
    """Items of one family as columns of equal length."""

    family: int
    index: NDArray[np.int64]  # place of the item in its message
    handle: NDArray[np.int64]  # client handle
    value: NDArray[Any] | None  # float64, int64 (DateTime: as on the wire), uint64, bool, or object; None for NULL
    status: NDArray[np.uint32]
    time: NDArray[np.int64]  # ns since 1970 UTC: source's, else server's, else when received; or server's first

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An item that could not be read."""

    handle: int  # -1 where not even the handle could be read
    reason: str
    excerpt: str  # its first bytes, in hexadecimal


@dataclass(frozen=True, slots=True)
class Publication:
    """What one PublishResponse says. `damage` tells what could not be read of it; all else is still good."""

    subscription: int = 0
    sequence: int = 0
    published: int = 0  # ns since 1970 UTC
    keep_alive: bool = False
    more: bool = False
    available: tuple[int, ...] = ()  # sequence numbers that the server can still republish
    results: tuple[int, ...] = ()  # status code per acknowledgement of the request
    blocks: tuple[Block, ...] = ()
    events: int = 0  # events recognised; they are not collected yet
    status_changes: tuple[int, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    lost: int = 0  # items that the message counts and that could not even be told apart
    untimed: int = 0  # items without a usable time of the kind that was wanted
    from_server: int = 0  # items that have the server's time
    damage: str = ""

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in items of one mask and variant byte; `size` 0: the value's length varies."""

    mask: int
    encoding: int  # variant byte; -1: the item has no value
    family: int
    form: np.dtype[Any]  # whole item, or what follows the value when the length varies
    size: int


@lru_cache(maxsize=8192)
def _layout(key: int, head_size: int) -> _Layout:
    mask, encoding = key >> 8, key & 0xFF
    if mask & 0xC0:
        raise MalformedError(f"DataValue mask {mask:#04x} does not exist")
    tail = [
        (name, form)
        for bit, name, form in (
            (_STATUS, "status", "<u4"),
            (_SOURCE, "source", "<i8"),
            (_SOURCE_PICO, "source_pico", "<u2"),
            (_SERVER, "server", "<i8"),
            (_SERVER_PICO, "server_pico", "<u2"),
        )
        if mask & bit
    ]
    head = [("handle", "<u4"), ("mask", "u1")] if head_size else [("mask", "u1")]
    if not mask & _VALUE:
        form = np.dtype(head + tail)
        return _Layout(mask, -1, NULL, form, form.itemsize)
    head.append(("encoding", "u1"))
    if encoding == NULL:
        form = np.dtype(head + tail)
        return _Layout(mask, encoding, NULL, form, form.itemsize)
    family = encoding & 0x3F
    if family not in READERS or encoding & 0xC0 == 0x40:
        raise MalformedError(f"variant encoding {encoding:#04x} does not exist")
    if not encoding & 0x80 and family in _SIZED:
        form = np.dtype([*head, ("value", FIXED[family]), *tail])
        return _Layout(mask, encoding, family, form, form.itemsize)
    return _Layout(mask, encoding, family | ARRAY if encoding & 0x80 else family, np.dtype(tail), 0)


@dataclass(slots=True)
class _Found:
    """Items of one layout that the walk came across."""

    layout: _Layout
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # index, position, items
    index: list[int] = field(default_factory=list)  # items of varying length: index,
    position: list[int] = field(default_factory=list)  # where they start,
    tail: list[int] = field(default_factory=list)  # where the part behind the value starts,
    value: list[Any] = field(default_factory=list)  # and the value


@dataclass(slots=True)
class _Walked:
    """What the walk came across: by layout, and scattered items of a fixed size, of which the bytes tell the layout."""

    head: int
    of: dict[int, _Found] = field(default_factory=dict)
    index: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    patterns: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)  # many of them at once
    wasted: int = 0  # elements of damaged arrays that were read

    def scattered(self, bytes_: NDArray[np.uint8]) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Index and position of the scattered items, by layout."""
        if not self.index and not self.patterns:
            return {}
        index, position = np.array(self.index, np.int64), np.array(self.position, np.int64)
        if self.patterns:
            index = np.concatenate([index, *(found for found, _ in self.patterns)])
            position = np.concatenate([position, *(found for _, found in self.patterns)])
            order = np.argsort(index, kind="stable")
            index, position = index[order], position[order]
        mask = bytes_[position + self.head].astype(np.int64)
        behind = bytes_[np.minimum(position + self.head + 1, len(bytes_) - 1)]  # without a value, nothing may follow
        keys = mask << 8 | np.where(mask & _VALUE, behind, 0)
        return {key: (index[rows], position[rows]) for key in np.unique(keys).tolist() for rows in [keys == key]}


@dataclass(slots=True)
class _Notes:
    """What the parts of one message add up to."""

    received: int
    handles: int
    server_time: bool
    subscription: int = 0
    sequence: int = 0
    published: int = 0
    more: bool = False
    available: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    parts: int = -1
    pieces: dict[int, list[Block]] = field(default_factory=dict)
    items: int = 0
    events: int = 0
    status_changes: list[int] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    lost: int = 0
    untimed: int = 0
    from_server: int = 0
    tries: int = _RESUME_TRIES
    reads: int = _RESUME_READS
    wasted: int = 0
    damage: list[str] = field(default_factory=list)

    def publication(self) -> Publication:
        """All of it."""
        return Publication(
            subscription=self.subscription,
            sequence=self.sequence,
            published=self.published,
            keep_alive=self.parts == 0,
            more=self.more,
            available=self.available,
            results=self.results,
            blocks=tuple(_merged(family, pieces) for family, pieces in self.pieces.items()),
            events=self.events,
            status_changes=tuple(self.status_changes),
            quarantined=tuple(self.quarantined),
            lost=self.lost,
            untimed=self.untimed,
            from_server=self.from_server,
            damage="; ".join(self.damage),
        )


def decode(data: bytes, start: int = 0, *, received: int, handles: int, server_time: bool = False) -> Publication:
    """The PublishResponse whose type id begins at `start`.

    `received`: ns since 1970 UTC, the time of items that carry none. `handles`: client handles are below this.
    `server_time`: the server's time goes before the source's. Never raises: what cannot be read is in `quarantined`,
    `lost` and `damage` of the answer.
    """
    notes = _Notes(received, handles, server_time)
    try:
        _, position = read_response_header(data, start)
        notes.subscription = _U4.unpack_from(data, position)[0]
        notes.available, position = _u4_array(data, position + 4)
        notes.more = data[position] != 0
        position = _message(data, position + 1, notes)
        notes.results, position = _u4_array(data, position)
    except _DAMAGE as error:
        notes.damage.append(f"PublishResponse of {len(data) - start} bytes: {error}")
    return notes.publication()


def decode_republished(
    data: bytes, start: int, subscription: int, *, received: int, handles: int, server_time: bool = False
) -> Publication:
    """The same for a RepublishResponse, which does not say whose message it brings."""
    notes = _Notes(received, handles, server_time, subscription)
    try:
        _, position = read_response_header(data, start)
        _message(data, position, notes)
    except _DAMAGE as error:
        notes.damage.append(f"RepublishResponse of {len(data) - start} bytes: {error}")
    return notes.publication()


def decode_values(
    data: bytes, start: int, handles: Sequence[int], *, received: int, server_time: bool = False
) -> Publication:
    """The ReadResponse of Value attributes whose type id begins at `start`: the i-th result is of the i-th handle.

    The same otherwise. An answer with another number of results than asked for is damage as a whole.
    """
    notes = _Notes(received, 0, server_time)
    try:
        _, position = read_response_header(data, start)
        count = _I4.unpack_from(data, position)[0]
        if count != len(handles):
            notes.lost = len(handles)
            raise MalformedError(f"{max(0, count)} results for {len(handles)} nodes")
        _items(data, np.frombuffer(data, np.uint8), position, notes, np.array(handles, np.int64))
    except _DAMAGE as error:
        notes.damage.append(f"ReadResponse of {len(data) - start} bytes: {error}")
    return notes.publication()


def without(publication: Publication, handle: int) -> tuple[Publication, int]:
    """The publication without the items of a handle, and how many they were."""
    taken = 0
    blocks = []
    for block in publication.blocks:
        others = block.handle != handle
        if others.all():
            blocks.append(block)
            continue
        left = int(np.count_nonzero(others))
        taken += len(block) - left
        if left:
            value = None if block.value is None else block.value[others]
            blocks.append(
                Block(
                    block.family,
                    block.index[others],
                    block.handle[others],
                    value,
                    block.status[others],
                    block.time[others],
                )
            )
    return (replace(publication, blocks=tuple(blocks)), taken) if taken else (publication, 0)


def _message(data: bytes, position: int, notes: _Notes) -> int:
    """The NotificationMessage at `position`, into `notes`; the position behind it."""
    notes.sequence, publish_time, count = _MESSAGE.unpack_from(data, position)
    notes.published = _ns(publish_time)
    position += _MESSAGE.size
    notes.parts = 0 if count == 0xFFFFFFFF else count
    for _ in range(notes.parts):
        type_id, body, position = read_extension_object(data, position)
        _part(type_id, body, notes)
    return position


def _u4_array(data: bytes, position: int) -> tuple[tuple[int, ...], int]:
    count = _I4.unpack_from(data, position)[0]
    position += 4
    if count <= 0:
        return (), position
    if count * 4 > len(data) - position:
        raise MalformedError(f"an array of {count} at byte {position - 4} runs past the end of the message")
    return struct.unpack_from(f"<{count}I", data, position), position + 4 * count


def _part(type_id: str, body: bytes | None, notes: _Notes) -> None:
    """One member of NotificationData. Damage stays inside it."""
    if body is None:
        if type_id != "i=0":
            notes.damage.append(f"notification of type {type_id} without a body")
        return
    try:
        if type_id == _DATA_CHANGE:
            _data_change(body, notes)
        elif type_id == _EVENTS:
            notes.events += max(0, _I4.unpack_from(body, 0)[0])
        elif type_id == _STATUS_CHANGE:
            notes.status_changes.append(_U4.unpack_from(body, 0)[0])
        else:
            notes.damage.append(f"notification of unknown type {type_id}")
    except _DAMAGE as error:
        notes.damage.append(f"notification of type {type_id}: {error}")


def _data_change(body: bytes, notes: _Notes) -> None:
    _items(body, np.frombuffer(body, np.uint8), 0, notes, None)


def _items(
    data: bytes, bytes_: NDArray[np.uint8], position: int, notes: _Notes, handles: NDArray[np.int64] | None
) -> None:
    """An array of items, with the handles in front of each or known."""
    head = 4 if handles is None else 0
    count = max(0, _I4.unpack_from(data, position)[0])
    found = _Walked(head)
    index, position = 0, position + 4
    while index < count:
        index, position, reason = _walk(data, bytes_, position, index, count, found)
        if not reason:
            break
        remaining = count - index - 1
        resumed = -1
        notes.wasted, found.wasted = notes.wasted + found.wasted, 0
        if len(notes.quarantined) < _MAX_QUARANTINED:
            if handles is not None:
                handle = int(handles[index])
            else:
                handle = _U4.unpack_from(data, position)[0] if position + 4 <= len(data) else -1
                handle = handle if handle < notes.handles else -1
            notes.quarantined.append(Quarantined(handle, reason, data[position : position + 16].hex()))
            if notes.wasted <= _MAX_WASTED:
                resumed = _resume(data, position, head, remaining, notes)
        else:
            remaining += 1
        if resumed < 0:
            notes.lost += remaining
            if remaining:
                notes.damage.append(f"item {index} of {count}: {reason}; {remaining} items behind it are lost")
            break
        index, position = index + 1, resumed
    scattered = found.scattered(bytes_)
    for key, entry in found.of.items():
        _gather(data, entry, scattered.get(key, _NOWHERE), notes, handles)
    notes.items += count


def _walk(
    data: bytes, bytes_: NDArray[np.uint8], position: int, index: int, count: int, found: _Walked
) -> tuple[int, int, str]:
    """Walks from item `index` until `count` or to the first damaged item: (its index, its position, reason or "")."""
    stop, head, of = len(data), found.head, found.of
    index_of, position_of = found.index.append, found.position.append
    previous, streak, size = -1, 0, 0
    apart, look = 0, 2 * _PATTERN  # scattered items in a row, and how many make it worth looking for a pattern
    sizes = {key: entry.layout.size for key, entry in of.items()}
    try:
        while index < count:
            mask = data[position + head]
            key = mask << 8 | data[position + head + 1] if mask & _VALUE else mask << 8
            if key != previous:
                if key not in sizes:
                    of[key] = _Found(_layout(key, head))
                    sizes[key] = of[key].layout.size
                size = sizes[key]
                previous, streak = key, 0
            if size:
                if position + size > stop:
                    raise MalformedError("the message ends inside the item")
                streak += 1
                if streak == _RUN:
                    layout = of[key].layout
                    length = _run(data, bytes_, position, head, layout, min(count - index, (stop - position) // size))
                    before = _RUN - 1  # those that made it worth looking belong to it: a message of one run is one view
                    del found.index[-before:], found.position[-before:]
                    of[key].runs.append((index - before, position - before * size, length + before))
                    index += length
                    position += length * size
                    streak = apart = 0
                    continue
                index_of(index)
                position_of(position)
                position += size
                apart += 1
                if apart == look:
                    items, behind = _repeats(bytes_, found, position, index + 1, count)
                    if items:
                        index, position = index + items, behind
                        previous, apart = -1, 0
                    else:
                        look *= 4
            else:
                entry = of[key]
                layout = entry.layout
                apart = 0
                streak += 1
                if layout.encoding == _STRING and streak > 1:
                    first = index
                    index, position = _texts(data, position, head, index, count, entry)
                    if index > first:
                        continue
                start = position + head + 2
                if layout.encoding == _STRING:
                    length = _I4.unpack_from(data, start)[0]
                    value, tail = None, start + 4
                    if length >= 0:
                        tail += length
                        value = data[start + 4 : tail].decode("utf-8", "replace")
                else:
                    value, tail = read_variant_body(data, start, layout.encoding, 0)
                if tail + layout.form.itemsize > stop:
                    raise MalformedError("the message ends inside the item")
                entry.value.append(value)
                entry.index.append(index)
                entry.position.append(position)
                entry.tail.append(tail)
                position = tail + layout.form.itemsize
            index += 1
    except _DAMAGE as error:
        found.wasted += getattr(error, "elements", 0)
        return index, position, str(error)
    return index, position, ""


def _texts(data: bytes, position: int, head: int, index: int, count: int, entry: _Found) -> tuple[int, int]:
    """Takes texts in a row, up to the first that is missing, damaged, or something else: its index and position."""
    wanted, rest = entry.layout.mask | _STRING << 8, entry.layout.form.itemsize
    form = _TEXT if head else _TEXT_ALONE
    read, ahead, last = form.unpack_from, form.size, len(data) - form.size
    tails: list[int] = []
    first, stop = position, len(data)
    for _ in range(count - index):
        if position > last:
            break
        what, length = read(data, position)
        tail = position + ahead + length
        if what != wanted or length < 0 or tail + rest > stop:
            break
        tails.append(tail)
        position = tail + rest
    if not tails:
        return index, first
    # Most texts are ASCII: then each is a piece of one text, and none has to be decoded for itself.
    text = data[first:position].decode("latin-1")
    texts = []
    start, step = ahead, rest + ahead - first
    for tail in tails:
        texts.append(text[start : tail - first])
        start = tail + step
    if not "".join(texts).isascii():
        texts = [one if one.isascii() else one.encode("latin-1").decode("utf-8", "replace") for one in texts]
    entry.value += texts
    entry.tail += tails
    entry.position.append(first)
    entry.position += [tail + rest for tail in tails[:-1]]
    entry.index += range(index, index + len(tails))
    return index + len(tails), position


def _run(data: bytes, bytes_: NDArray[np.uint8], position: int, head: int, layout: _Layout, most: int) -> int:
    """How many items of `layout` follow each other from `position`; looks ahead in growing strides."""
    length, stride = min(most, _GLANCE), 4 * _GLANCE
    first, last = position + head, position + length * layout.size
    masks = data[first : last : layout.size]
    same = length - len(masks.lstrip(bytes((layout.mask,))))
    if layout.encoding >= 0:
        same = min(same, length - len(data[first + 1 : last : layout.size].lstrip(bytes((layout.encoding,)))))
    if same < length:
        return same
    while length < most:
        stop = min(most, length + stride)
        first, last = position + length * layout.size + head, position + stop * layout.size
        alike = bytes_[first : last : layout.size] == layout.mask
        if layout.encoding >= 0:
            alike &= bytes_[first + 1 : last : layout.size] == layout.encoding
        if not alike.all():
            return length + int(alike.argmin())
        length = stop
        stride *= 4
    return length


def _repeats(bytes_: NDArray[np.uint8], found: _Walked, position: int, index: int, count: int) -> tuple[int, int]:
    """Takes what follows the scattered items before `position` in the pattern of their layouts: how many, and where
    they end. None, where the last of them make no pattern that goes on for a while."""
    starts = np.array([*found.position[-2 * _PATTERN :], position], np.int64)
    masks = bytes_[starts[:-1] + found.head]
    behind = bytes_[np.minimum(starts[:-1] + found.head + 1, len(bytes_) - 1)]
    keys = list(zip(masks.tolist(), np.where(masks & _VALUE, behind, 0).tolist(), strict=True))
    for length in range(2, _PATTERN + 1):
        if keys[-length:] != keys[-2 * length : -length]:
            continue
        offsets = starts[-length - 1 : -1] - starts[-length - 1]
        size = int(starts[-1] - starts[-length - 1])
        times = _times_repeated(bytes_, position + found.head, size, offsets.tolist(), keys[-length:],
                                min((count - index) // length, (len(bytes_) - position) // size))  # fmt: skip
        if times < 2:
            continue
        places = position + np.arange(times)[:, None] * size + offsets
        found.patterns.append((np.arange(index, index + times * length), places.reshape(-1)))
        return times * length, position + times * size
    return 0, position


def _times_repeated(
    bytes_: NDArray[np.uint8], at: int, size: int, offsets: list[int], keys: list[tuple[int, int]], most: int
) -> int:
    """How often in a row the masks and variant bytes from `at` on are these, at these offsets."""
    times, stride = 0, 64
    while times < most:
        stop = min(most, times + stride)
        same = np.ones(stop - times, bool)
        for offset, (mask, encoding) in zip(offsets, keys, strict=True):
            first = at + times * size + offset
            same &= bytes_[first : first + (stop - times - 1) * size + 1 : size] == mask
            if mask & _VALUE:
                same &= bytes_[first + 1 : first + (stop - times - 1) * size + 2 : size] == encoding
        if not same.all():
            return times + int(same.argmin())
        times = stop
        stride *= 4
    return times


def _resume(data: bytes, position: int, head: int, remaining: int, notes: _Notes) -> int:
    """The first place behind the damaged item at `position` that items follow from; -1: none."""
    if remaining <= 0:
        return -1
    wanted = min(remaining, _RESUME_PROOF)
    first = position + head + 2 if head else position + 1
    for start in range(first, min(len(data) - head - 1, first + _RESUME_WINDOW)):
        at = start
        for _ in range(wanted):
            notes.tries -= 1
            at = _plausible(data, at, head, notes)
            if at < 0:
                break
        if notes.tries <= 0:
            return -1
        # Where few items are left to prove the place, the message must also end where they end: only its diagnostics,
        # an array that is empty in practice, may follow.
        if at >= 0 and (remaining > wanted or len(data) - at <= 4):
            return start
    return -1


def _plausible(data: bytes, position: int, head: int, notes: _Notes) -> int:
    """Position behind a believable item at `position`; -1: it is none."""
    try:
        mask = data[position + head]
        if not mask & (_VALUE | _STATUS) or (head and _U4.unpack_from(data, position)[0] >= notes.handles):
            return -1
        layout = _layout(mask << 8 | data[position + head + 1] if mask & _VALUE else mask << 8, head)
        if layout.size:
            position += layout.size
        else:
            position = _behind(data, position + head + 2, layout, notes) + layout.form.itemsize
    except _DAMAGE:
        return -1
    return position if position <= len(data) else -1


def _behind(data: bytes, position: int, layout: _Layout, notes: _Notes) -> int:
    """Where the value at `position` ends; raises for one that is none, or that costs too much to find out."""
    length = _I4.unpack_from(data, position)[0] if layout.encoding & 0x80 or layout.encoding in _LENGTHS else 0
    if layout.encoding in _LENGTHS:
        return position + 4 + max(0, length)
    if layout.encoding & 0xC0 == 0x80 and layout.encoding & 0x3F in FIXED:
        return position + 4 + max(0, length) * int(FIXED[layout.encoding & 0x3F][-1])
    notes.reads -= 1
    if notes.reads < 0:
        raise MalformedError("too much damage to look further")
    window = data[position : position + _RESUME_READ]
    return position + read_variant_body(window, 0, layout.encoding, 0)[1]


_NOWHERE: Final[tuple[NDArray[np.int64], NDArray[np.int64]]] = (np.empty(0, np.int64), np.empty(0, np.int64))


def _gather(
    data: bytes,
    entry: _Found,
    scattered: tuple[NDArray[np.int64], NDArray[np.int64]],
    notes: _Notes,
    handles: NDArray[np.int64] | None,
) -> None:
    """Appends the block of one layout."""
    layout = entry.layout
    index, start = scattered
    if not layout.size:
        index, start = np.array(entry.index, np.int64), np.array(entry.position, np.int64)
    if not entry.runs and not len(index):
        return
    values: NDArray[Any] | None = None
    if len(entry.runs) == 1 and not len(index):
        first, position, length = entry.runs[0]
        index = np.arange(first, first + length)
        rows = np.frombuffer(data, layout.form, length, position)
    elif layout.size:
        if entry.runs:
            index, start = _with_runs(index, start, np.array(entry.runs, np.int64), layout.size)
        rows = _everywhere(data, layout.form)[start]
    else:
        values = np.empty(len(index), object)
        values[:] = entry.value
        tail = np.array(entry.tail, np.int64)
        rows = _everywhere(data, layout.form)[tail] if layout.form.itemsize else tail
    if handles is not None:
        handle: NDArray[Any] = handles[index]
    elif layout.size:
        handle = rows["handle"]
    else:
        handle = _everywhere(data, np.dtype("<u4"))[start]
    block = _block(layout, index + notes.items, handle, rows, values, notes)  # indices count through all parts
    notes.pieces.setdefault(layout.family, []).append(block)


def _everywhere(data: bytes, form: np.dtype[Any]) -> NDArray[Any]:
    """`form` laid over each byte of the message: element p is what stands at byte p."""
    return np.ndarray((len(data) - form.itemsize + 1,), form, data, 0, (1,))


def _with_runs(
    index: NDArray[np.int64], start: NDArray[np.int64], runs: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Scattered items and runs (index, position, items) together, as index and start per item in order of index."""
    length = runs[:, 2]
    place = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)  # 0, 1, 2 … inside each run
    index = np.concatenate([index, np.repeat(runs[:, 0], length) + place])
    start = np.concatenate([start, np.repeat(runs[:, 1], length) + place * size])
    order = np.argsort(index, kind="stable")
    return index[order], start[order]


def _block(
    layout: _Layout,
    index: NDArray[np.int64],
    handle: NDArray[Any],
    rows: NDArray[Any],
    values: NDArray[Any] | None,
    notes: _Notes,
) -> Block:
    family, mask = layout.family, layout.mask
    if values is None and family != NULL:
        raw = rows["value"]
        if family in REALS:
            values = raw.astype(np.float64)
        elif family == BOOLEAN:
            values = raw != 0
        else:
            values = raw.astype(np.uint64 if family == UINT64 else np.int64)
    status = rows["status"].astype(np.uint32) if mask & _STATUS else np.zeros(len(index), np.uint32)
    return Block(family, index, handle.astype(np.int64), values, status, _times(rows, mask, len(index), notes))


def _times(rows: NDArray[Any], mask: int, length: int, notes: _Notes) -> NDArray[np.int64]:
    """ns since 1970 UTC per item: the source's time, else the server's, else when the message came; or the server's
    before the source's.

    Picoseconds count in steps of 10 ps below the 100 ns of the time (Part 6, 5.2.2.17); whole nanoseconds count.
    """
    source, server = (_SOURCE, _SOURCE_PICO, "source"), (_SERVER, _SERVER_PICO, "server")
    time: NDArray[np.int64] | None = None
    usable: NDArray[np.bool_] | None = None  # None: all that there are
    for place, (bit, fine, name) in enumerate((server, source) if notes.server_time else (source, server)):
        missing = length
        if mask & bit:
            raw = rows[name]
            there: NDArray[np.bool_] | None = None
            if raw.min() <= FILETIME_OF_1970 or raw.max() >= _MAX_TIME:
                there = (raw > FILETIME_OF_1970) & (raw < _MAX_TIME)
                raw = np.where(there, raw, FILETIME_OF_1970)
            found = (raw - FILETIME_OF_1970) * 100
            if mask & fine:
                found += np.minimum(rows[f"{name}_pico"], 9999) // 100
            if time is None or usable is None:
                time, usable = found, there
                took = length if there is None else int(np.count_nonzero(there))
            else:
                take = ~usable if there is None else ~usable & there
                time = np.where(take, found, time)
                usable = usable | take
                took = int(np.count_nonzero(take))
            missing = length - took
            if bit == _SERVER:
                notes.from_server += took
        elif time is None:
            time, usable = np.zeros(length, np.int64), np.zeros(length, bool)
        if place == 0:
            notes.untimed += missing
        if usable is None:
            return np.asarray(time, np.int64)
    assert time is not None
    assert usable is not None
    time = np.where(usable, time, notes.received)
    return np.asarray(time, np.int64)


def _merged(family: int, pieces: list[Block]) -> Block:
    if len(pieces) == 1:
        return pieces[0]
    index = np.concatenate([piece.index for piece in pieces])
    order = np.argsort(index, kind="stable")
    return Block(
        family,
        index[order],
        np.concatenate([piece.handle for piece in pieces])[order],
        None if family == NULL else np.concatenate(_values(pieces))[order],
        np.concatenate([piece.status for piece in pieces])[order],
        np.concatenate([piece.time for piece in pieces])[order],
    )


def _values(pieces: Iterable[Block]) -> list[NDArray[Any]]:
    return [piece.value for piece in pieces if piece.value is not None]


def _ns(filetime: int) -> int:
    return (filetime - FILETIME_OF_1970) * 100
