"""From what was taken to ranges: contiguous batches of one input stream, as they are delivered. No I/O.

An item is a batch of samples, or what only moves the cursor: a batch of events, and a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.batch import EventBatch, SampleBatch, ValueType
from sluice.delivery import Gap
from stream_exporter.units import Key, Unit

#: Samples of one range, so that it stays small in memory.
PACK_SAMPLES = 20_000

#: Bytes of one range, as it waits.
PACK_BYTES = 8 << 20

#: What waits is bounded in bytes too, roughly: texts may be long, and many small batches cost more than their samples.
SAMPLE_BYTES = 64
BATCH_BYTES = 1024

Item = SampleBatch | EventBatch | Gap


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers first … last of one stream's epoch. Without batches there is nothing to deliver: events, or a gap.

    unit: an earlier run had begun with exactly this range. gone: and some of it cannot be had any more.
    """

    stream: str
    epoch: str
    first: int
    last: int
    batches: tuple[SampleBatch, ...] = ()
    events: int = 0
    gaps: tuple[Gap, ...] = ()
    unit: Unit | None = None
    gone: bool = False
    bytes: int = 0  # that it took while it waited

    @property
    def key(self) -> Key:
        """The stream's epoch."""
        return self.stream, self.epoch

    @property
    def samples(self) -> int:
        """Samples of the range."""
        return count_samples(self.batches)


def cut(items: Sequence[Item]) -> list[Range]:
    """The items as ranges, at most PACK_SAMPLES samples and PACK_BYTES (or one batch) in one; a stream keeps its order.

    Batches of samples and what only moves the cursor are never in one range.
    """
    open_ranges: dict[Key, list[Item]] = {}
    sizes: dict[Key, tuple[int, int]] = {}
    found: list[list[Item]] = []
    for item in items:
        key = key_of(item)
        current = open_ranges.get(key)
        samples, size = samples_of(item), bytes_of(item)
        if current is not None and _follows(current[-1], item):
            before = sizes[key]
            if before[0] + samples <= PACK_SAMPLES and before[1] + size <= PACK_BYTES:
                current.append(item)
                sizes[key] = before[0] + samples, before[1] + size
                continue
        open_ranges[key] = [item]
        sizes[key] = samples, size
        found.append(open_ranges[key])
    return [_range(part) for part in found]


def of_unit(items: Sequence[Item], unit: Unit) -> tuple[Range, int] | None:
    """The range of an incomplete unit, from the items of its epoch, and how many of them it takes; None: not all came.

    Where nothing of the unit is in its target and its range cannot be had as it was, the items are left as they are.
    """
    part = [item for item in items if first_of(item) <= unit.last]
    if not part or last_of(part[-1]) < unit.last:
        return None
    batches = tuple(item for item in part if isinstance(item, SampleBatch))
    if len(batches) == len(part) and (first_of(part[0]), last_of(part[-1])) == (unit.first, unit.last):
        size = sum(map(bytes_of, part))
        return Range(*unit.key, unit.first, unit.last, batches, unit=unit, bytes=size), len(part)
    return given_up(part, unit)


def given_up(items: Sequence[Item], unit: Unit) -> tuple[Range, int]:
    """The range of a unit that cannot be completed, and how many of the items it takes."""
    if not unit.found:
        return Range(*unit.key, unit.first, unit.last, unit=unit, gone=True), 0
    part = [item for item in items if last_of(item) <= unit.last]
    batches = tuple(item for item in part if isinstance(item, SampleBatch))
    size = sum(map(bytes_of, part))
    return Range(*unit.key, unit.first, unit.last, batches, unit=unit, gone=True, bytes=size), len(part)


def key_of(item: Item) -> Key:
    """The stream's epoch that an item is of."""
    return (item.stream, item.epoch) if isinstance(item, Gap) else (item.header.stream, item.header.epoch)


def first_of(item: Item) -> int:
    """The first number of an item."""
    return item.first if isinstance(item, Gap) else item.header.seq


def last_of(item: Item) -> int:
    """The last number of an item."""
    return item.last if isinstance(item, Gap) else item.header.seq


def samples_of(item: Item) -> int:
    """Samples of an item."""
    return len(item.columns) if isinstance(item, SampleBatch) else 0


def bytes_of(item: Item) -> int:
    """About how much memory an item takes while it waits."""
    if isinstance(item, Gap):
        return BATCH_BYTES
    if isinstance(item, EventBatch):
        return BATCH_BYTES * (1 + len(item.events))
    columns = item.columns
    texts = 0
    if columns.type is ValueType.STRING:
        texts = sum(map(len, filter(None, columns.value.tolist())))
    return BATCH_BYTES + SAMPLE_BYTES * len(columns) + texts


def count_samples(batches: Sequence[SampleBatch]) -> int:
    """Samples of several batches."""
    return sum(len(batch.columns) for batch in batches)


def _follows(before: Item, item: Item) -> bool:
    return isinstance(before, SampleBatch) is isinstance(item, SampleBatch) and last_of(before) + 1 == first_of(item)


def _range(items: Sequence[Item]) -> Range:
    stream, epoch = key_of(items[0])
    return Range(
        stream,
        epoch,
        first_of(items[0]),
        last_of(items[-1]),
        tuple(item for item in items if isinstance(item, SampleBatch)),
        events=sum(len(item.events) for item in items if isinstance(item, EventBatch)),
        gaps=tuple(item for item in items if isinstance(item, Gap)),
        bytes=sum(map(bytes_of, items)),
    )
