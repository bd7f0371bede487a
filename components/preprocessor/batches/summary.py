"""What tags did over a batch and its phases: time-weighted average, minimum, maximum, samples, percent good.

A value holds until the next one of its tag (stepped), also from before the batch into it; minimum and maximum are over
values that held for some time of it. Only GOOD numbers and booleans count as good. The average is over the time for
which a good value was known; percent good says for how much of the whole that was.

Tags and rules do not come at the same time over different streams. So samples wait for 2 s before they are folded into
sums, and a batch that is over waits for 2 s until it is summed up: by then both its start and its end were known when
the samples around them were folded. A sample that is older than what is folded of its tag already is left out, counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sluice.context import OPEN, Frame

SETTLE: Final = 2_000_000_000
"""ns by the steady clock."""
MOST_TAGS: Final = 1_000
"""Tags of one asset that are summed up; further ones are left out, and counted."""
MOST_WAITING: Final = 500_000
"""Samples of one asset's tags that wait; more of them are folded at once."""
_NEVER: Final = -(2**63)

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


@dataclass(slots=True)
class _Sums:
    """What was summed up for one frame, or one of its phases, by place of the tag."""

    good: Floats
    """Seconds for which a good value was known."""
    weighted: Floats
    low: Floats
    high: Floats
    samples: Times

    @classmethod
    def of(cls, size: int) -> _Sums:
        return cls(
            np.zeros(size),
            np.zeros(size),
            np.full(size, np.inf),
            np.full(size, -np.inf),
            np.zeros(size, dtype=np.int64),
        )

    def wider(self, size: int) -> None:
        more = _Sums.of(size - len(self.good))
        for name in _SUMS:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(more, name))))


_SUMS: Final = ("good", "weighted", "low", "high", "samples")


class Summary:
    """The tags of one asset, and what they did in its batches that run or are to be summed up."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.left_out = 0
        """Samples that were older than what was folded already."""
        self.refused = 0
        """Tags beyond the 1,000th."""
        self._places: dict[int, int] = {}
        self._waiting: list[tuple[int, Times, Times, Floats]] = []
        self._last_t: Times = np.zeros(0, dtype=np.int64)
        self._last: Floats = np.zeros(0)
        """NaN: not good."""
        self._sums: dict[tuple[int, int], _Sums] = {}  # by frame and phase; -1: all of the frame

    def place(self, slot: int) -> int:
        """The place of a tag, which it gets now if it has none; -1: there is no place for it."""
        place = self._places.get(slot)
        if place is None:
            if len(self.slots) >= MOST_TAGS:
                self.refused += 1
                place = self._places[slot] = -1
                return place
            place = self._places[slot] = len(self.slots)
            self.slots.append(slot)
        return place

    def feed(self, steady: int, places: Times, times: Times, values: Floats) -> None:
        """Samples of tags with a place, in the order of arrival within a tag; NaN: not good."""
        self._waiting.append((steady, places, times, values))

    def advance(self, steady: int, frames: Mapping[int, Frame]) -> None:
        """Fold what has waited for long enough. frames: those to sum up for."""
        waiting = self._waiting
        if waiting and (
            waiting[0][0] <= steady - 2 * SETTLE or sum(len(times) for _, _, times, _ in waiting) > MOST_WAITING
        ):
            last = steady - SETTLE if waiting[0][0] <= steady - 2 * SETTLE else steady
            due = [one for one in waiting if one[0] <= last]
            self._waiting = waiting[len(due) :]
            self._fold(due, frames)

    def close(self, frame: Frame, frames: Mapping[int, Frame]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Sum a frame up that is over: (phase or -1, slot, figures) for each tag of which anything is known.

        frames: as for `advance`, this one included. Afterwards nothing is summed up for it any more.
        """
        due, later = [], []
        for steady, places, times, values in self._waiting:
            early = times < frame.end
            if early.any():
                due.append((steady, places[early], times[early], values[early]))
            if not early.all():
                later.append((steady, places[~early], times[~early], values[~early]))
        self._waiting = later
        self._fold(due, frames)
        scopes = [(-1, frame.start, frame.end)]
        scopes += [(number, phase.start, phase.end) for number, phase in enumerate(frame.phases)]
        size = len(self._last_t)
        for number, start, end in scopes:
            sums = self._sums.pop((frame.number, number), None) or _Sums.of(size)
            sums.wider(size)
            self._add(sums, start, end, np.arange(size), self._last_t, np.full(size, OPEN), self._last)
            yield from self._figures(number, sums, end - start)
        self._sums = {key: sums for key, sums in self._sums.items() if key[0] in frames}

    def _figures(self, phase: int, sums: _Sums, length: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        for place in np.flatnonzero((sums.good > 0) | (sums.samples > 0)).tolist():
            good = float(sums.good[place])
            known = good > 0
            yield (
                phase,
                self.slots[place],
                {
                    "average": float(sums.weighted[place]) / good if known else None,
                    "minimum": float(sums.low[place]) if known else None,
                    "maximum": float(sums.high[place]) if known else None,
                    "samples": int(sums.samples[place]),
                    "percent_good": round(min(100.0, 100e9 * good / length), 3) if length > 0 else 0.0,
                },
            )

    # --- folding ---

    def _fold(self, due: list[tuple[int, Times, Times, Floats]], frames: Mapping[int, Frame]) -> None:
        if not due:
            return
        size = len(self.slots)
        if len(self._last_t) < size:
            more = size - len(self._last_t)
            self._last_t = np.concatenate((self._last_t, np.full(more, _NEVER)))
            self._last = np.concatenate((self._last, np.full(more, np.nan)))
        places = np.concatenate([one[1] for one in due])
        times = np.concatenate([one[2] for one in due])
        values = np.concatenate([one[3] for one in due])
        order = np.lexsort((times, places))  # stable: of two at one time the one that came later stands last
        places, times, values = places[order], times[order], values[order]
        keep = times > self._last_t[places]
        if len(times) > 1:
            keep[:-1] &= (places[1:] != places[:-1]) | (times[1:] != times[:-1])
        self.left_out += int(len(keep) - np.count_nonzero(keep))
        places, times, values = places[keep], times[keep], values[keep]
        if not len(places):
            return
        first = np.concatenate(([True], places[1:] != places[:-1]))
        from_t = np.where(first, self._last_t[places], np.concatenate(([0], times[:-1])))
        held = np.where(first, self._last[places], np.concatenate(([np.nan], values[:-1])))
        for frame in frames.values():
            scopes = [(-1, frame.start, frame.end)]
            scopes += [(number, phase.start, phase.end) for number, phase in enumerate(frame.phases)]
            earliest, latest = int(from_t.min()), int(times.max())
            for number, start, end in scopes:
                if end <= earliest or start > latest:
                    continue
                sums = self._sums.get((frame.number, number))
                if sums is None:
                    sums = self._sums[frame.number, number] = _Sums.of(size)
                elif len(sums.good) < size:
                    sums.wider(size)
                self._add(sums, start, end, places, from_t, times, held)
                inside = (times >= start) & (times < end)
                sums.samples += np.bincount(places[inside], minlength=size)
        ends = np.concatenate((first[1:], [True]))
        self._last_t[places[ends]] = times[ends]
        self._last[places[ends]] = values[ends]

    @staticmethod
    def _add(sums: _Sums, start: int, end: int, places: Times, from_t: Times, to_t: Times, held: Floats) -> None:
        """Values that held from one time to another, as far as that lies within [start, end)."""
        lasted = np.minimum(to_t, end) - np.maximum(from_t, start)
        rows = np.flatnonzero((lasted > 0) & (from_t < end) & ~np.isnan(held))
        if not len(rows):
            return
        places, seconds, held = places[rows], lasted[rows] / 1e9, held[rows]
        size = len(sums.good)
        sums.good += np.bincount(places, seconds, size)
        sums.weighted += np.bincount(places, seconds * held, size)
        np.minimum.at(sums.low, places, held)
        np.maximum.at(sums.high, places, held)

    # --- state ---

    def save(self) -> dict[str, Any]:
        """For `load`: plain values and arrays."""
        waiting = self._waiting
        empty = np.zeros(0, dtype=np.int64)
        return {
            "slots": list(self.slots),
            "left_out": self.left_out,
            "refused": self.refused,
            "last_t": self._last_t,
            "last": self._last,
            "steady": [one[0] for one in waiting],
            "sizes": [len(one[1]) for one in waiting],
            "places": np.concatenate([empty, *(one[1] for one in waiting)]),
            "times": np.concatenate([empty, *(one[2] for one in waiting)]),
            "values": np.concatenate([np.zeros(0), *(one[3] for one in waiting)]),
            "sums": [
                {"frame": frame, "phase": phase, **{name: getattr(sums, name) for name in _SUMS}}
                for (frame, phase), sums in self._sums.items()
            ],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """What `save` gave, into an empty one. Raises ValueError or KeyError for anything else."""
        self.slots = [int(slot) for slot in saved["slots"]][:MOST_TAGS]
        self._places = {slot: place for place, slot in enumerate(self.slots)}
        self.left_out, self.refused = int(saved["left_out"]), int(saved["refused"])
        self._last_t = np.array(saved["last_t"], dtype=np.int64)
        self._last = np.array(saved["last"], dtype=np.float64)
        cuts: Any = np.cumsum(saved["sizes"], dtype=np.intp)[:-1] if saved["sizes"] else []
        columns = [
            np.split(np.array(saved[name], dtype=dtype), cuts)
            for name, dtype in (("places", np.int64), ("times", np.int64), ("values", np.float64))
        ]
        self._waiting = [
            (int(steady), places, times, values)
            for steady, places, times, values in zip(saved["steady"], *columns)  # noqa: B905 - nothing waits: one empty
        ]
        self._sums = {
            (int(one["frame"]), int(one["phase"])): _Sums(*(np.array(one[name]) for name in _SUMS))
            for one in saved["sums"]
        }
