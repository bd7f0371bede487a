"""Compares what a collector delivered of a PI system with what that system's own log says, value by value.

The log (`truth`) knows what reached PI, which frames of channels a client has read, and what the archive held at the
end. A value is (tag, time, value, quality, state); of each one there may be several, which are counted.

    archive     held by the archive at the end: must have been delivered, as often as it is there
    frames      in a frame that the client has read: must have been delivered, as often as one frame had it; but what a
                client read shortly before it was killed may be gone, in a gap that it tells
    invented    delivered, but no such value ever reached PI
    doubled     delivered more often than it reached PI
    discarded   reached PI, was compressed away before anybody could read it, and was not delivered: must lie in a gap
                that the collector has told of that tag, as one in which values cannot be had again (`listed`), else it
                was lost in silence (`unlisted`). `outside` says how much had to be delivered, whatever the gaps: gaps
                that are always open would excuse everything

and of the gaps themselves: each that was opened is filled or abandoned, once, and nothing else is.

Qualities are made of flags and states by the reference's own table, not by the collector's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from plant.pi import truth
from plant.pi.truth import GOOD, QUESTIONABLE, Sample, Value

_NO_EVENT: Final = frozenset((248, 253))  # No Data, Pt Created: what they say is no measurement
_OUT_OF_RANGE: Final = frozenset((251, 252, 258, 259))
_INTEGERS: Final = frozenset(("Int16", "Int32", "Digital"))
_TEXTS: Final = frozenset(("String", "Timestamp"))
_SHOWN: Final = 5


class Arrived(NamedTuple):
    """A value as it was delivered. `quality` is GOOD, UNCERTAIN or BAD, `status` as the batch has it."""

    tag: str
    time_ns: int
    value: float | int | bool | str | None
    quality: str
    status: int | str


class Key(NamedTuple):
    """What tells two values apart."""

    tag: str
    time_ns: int
    value: Value
    quality: str
    state: int | None


@dataclass(slots=True)
class Verdict:
    """Counts, and the first few values of each kind that is wrong."""

    archive: int = 0
    frames: int = 0
    produced: int = 0
    delivered: int = 0
    archive_missing: int = 0
    frames_missing: int = 0
    lost_at_death: int = 0
    """In frames that were read by a process that was then killed, and nowhere else: in a gap that was told."""
    invented: int = 0
    doubled: int = 0
    listed: int = 0
    unlisted: int = 0
    outside: int = 0
    """Values of promised tags that reached PI while no gap was told of them."""
    gaps: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing is missing, invented, doubled or unlisted, the gaps add up, and there was something to judge."""
        return not self.problems and self.archive > 0 and self.delivered > 0

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        counts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("gaps", "problems")}
        return {**counts, "gaps": self.gaps, "problems": self.problems, "passed": self.passed}


def judge(
    log: Path,
    arrived: Iterable[Arrived],
    gap_events: Sequence[Mapping[str, Any]],
    *,
    promised: Collection[str] | None = None,
    unsaved_ns: int = 0,
) -> Verdict:
    """Compare. Raises truth.TruthError when the log is none.

    Args:
        log: the PI system's own log, ended.
        arrived: what was delivered, in any order, repeats of the transport already dropped.
        gap_events: the collector's events of kind gap.
        promised: tags of which every value that reached PI is delivered or listed, because they are followed by channel
            or updates; None: all. Of a polled one only the archive is promised.
        unsaved_ns: server time for which a collector may hold what it has read and not stored: what it had read so
            shortly before it was killed (the log says when) may be gone, in a gap that it tells.
    """
    found = Verdict()
    tags = {number: names[0] for number, names in truth.names(log).items()}
    types = truth.types(log)
    got = Counter(key_of_arrived(one) for one in arrived)
    found.delivered = sum(got.values())

    held: Counter[Key] = Counter()
    for samples in truth.archive(log).values():
        held.update(key for one in samples if (key := key_of(one, tags, types)) is not None)
    found.archive = sum(held.values())

    deaths = [fault["at"] for fault in truth.faults(log) if fault["name"] == "killed"]
    in_frames: Counter[Key] = Counter()
    saved: set[Key] = set()
    for frame in truth.frames_read(log):
        own = Counter(
            key for one, how in frame.samples if how != "Delete" and (key := key_of(one, tags, types)) is not None
        )
        found.frames += sum(own.values())
        for key, count in own.items():
            in_frames[key] = max(in_frames[key], count)
        if not any(death - unsaved_ns <= frame.read_ns <= death for death in deaths):
            saved.update(own)

    reached: dict[Key, int] = {}
    times: Counter[Key] = Counter()
    for one in truth.produced(log):
        if one.how not in ("Delete", "Refresh") and (key := key_of(one.sample, tags, types)) is not None:
            reached[key] = one.at_ns
            times[key] += 1
    found.produced = len(reached)

    gaps = Gaps(gap_events)
    found.gaps = gaps.counts
    found.problems += gaps.problems
    missing = [key for key, count in held.items() if got[key] < count]
    found.archive_missing = sum(held[key] - got[key] for key in missing)
    _tell(found, "in the archive and not delivered", missing)
    missing = [key for key, count in in_frames.items() if got[key] < count and not 0 < held[key] <= got[key]]
    excused = {key for key in missing if key not in saved and gaps.tell_of(key.tag, reached.get(key, key.time_ns))}
    found.lost_at_death = len(excused)
    missing = [key for key in missing if key not in excused]
    found.frames_missing = len(missing)
    _tell(found, "in a frame that was read and not delivered", missing)
    invented = [key for key in got if key not in reached and key not in held]
    found.invented = len(invented)
    _tell(found, "delivered and never produced", invented)
    doubled = [key for key, count in got.items() if count > max(held[key], times[key], 1)]
    found.doubled = sum(got[key] - max(held[key], times[key], 1) for key in doubled)
    _tell(found, "delivered more than once", doubled)
    unlisted = []
    for key, at_ns in reached.items():
        if promised is not None and key.tag not in promised:
            continue
        told = gaps.tell_of(key.tag, at_ns)
        found.outside += not told
        if got[key] or key in held or key in in_frames:
            continue
        if told:
            found.listed += 1
        else:
            unlisted.append(key)
    found.unlisted = len(unlisted)
    _tell(found, "compressed away, not delivered, and in no gap that was told", unlisted)
    if not truth.ended(log):
        found.problems.append(f"{log} has no end: the PI system died")
    return found


def key_of_arrived(one: Arrived) -> Key:
    """A delivered value as the judge compares it."""
    state = None
    if one.value is None:
        head = str(one.status).partition(" ")[0]
        state = int(head) if head.isdecimal() and int(head) else None
    value = one.value
    if isinstance(value, bool):
        value = int(value)
    return Key(one.tag, one.time_ns, value, one.quality, state)


def key_of(sample: Sample, tags: Mapping[int, str], types: Mapping[int, str]) -> Key | None:
    """What a collector must make of a sample, by table 4.3 of the reference; None: no event at all."""
    tag, kind = tags[sample.point], types[sample.point]
    if sample.state is not None:
        if sample.state in _NO_EVENT:
            return None
        quality = "UNCERTAIN" if sample.state in _OUT_OF_RANGE else "BAD"
        return Key(tag, sample.time_ns, None, quality, sample.state)
    value = sample.value
    if value is None:
        return Key(tag, sample.time_ns, None, "BAD", None)
    if kind in _TEXTS:
        value = str(value)
    elif kind in _INTEGERS and not isinstance(value, str):
        value = int(value)
    elif isinstance(value, (int, float)):
        value = float(value)
        if not math.isfinite(value):
            return Key(tag, sample.time_ns, None, "BAD", None)
    if not sample.flags & GOOD:
        return Key(tag, sample.time_ns, value, "BAD", None)
    return Key(tag, sample.time_ns, value, "UNCERTAIN" if sample.flags & QUESTIONABLE else "GOOD", None)


class Gaps:
    """The gaps that a collector told: of which tags (None: all), from when until when, what became of them."""

    def __init__(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.problems: list[str] = []
        states: dict[str, set[str]] = defaultdict(set)
        final: set[str] = set()
        spans: dict[str, tuple[int, int | None]] = {}
        of: dict[str, set[str] | None] = {}
        for event in events:
            if event.get("kind") != "gap" or "id" not in event or "state" not in event:
                continue
            identity = str(event["id"])
            states[identity].add(str(event["state"]))
            if event.get("unrecoverable"):
                final.add(identity)
            if not event.get("cause"):
                self.problems.append(f"gap {identity} has no cause: {dict(event)}")
            begin, stop = spans.get(identity, (event["from_ns"], None))
            later = event.get("to_ns")
            spans[identity] = (
                min(begin, event["from_ns"]),
                later if stop is None or later is None else max(stop, later),
            )
            if event.get("all"):
                of[identity] = None
            elif of.get(identity, set()) is not None:
                of.setdefault(identity, set())
                known = of[identity]
                assert known is not None
                known.update(event.get("tags", ()))
        # Only a gap that says so excuses what cannot be had again.
        self._spans = [(*spans[identity], of.get(identity)) for identity in spans if identity in final]
        opened = {identity for identity, told in states.items() if "opened" in told}
        filled = {identity for identity, told in states.items() if "filled" in told}
        abandoned = {identity for identity, told in states.items() if "abandoned" in told}
        self.counts = {"opened": len(opened), "filled": len(filled), "abandoned": len(abandoned)}
        if opened != filled | abandoned or filled & abandoned:
            still, both = sorted(opened - filled - abandoned), sorted(filled & abandoned)
            strange = sorted((filled | abandoned) - opened)
            self.problems.append(
                f"gaps opened {len(opened)}, filled {len(filled)}, abandoned {len(abandoned)}; still open: "
                f"{still[:_SHOWN]}; both filled and abandoned: {both[:_SHOWN]}; never opened: {strange[:_SHOWN]}"
            )

    def tell_of(self, tag: str, at_ns: int) -> bool:
        """Whether a gap of the tag holds the moment, as one in which values are lost for ever."""
        return any(
            (tags is None or tag in tags) and begin <= at_ns and (stop is None or at_ns <= stop)
            for begin, stop, tags in self._spans
        )


def _tell(found: Verdict, what: str, keys: Sequence[Key]) -> None:
    if keys:
        shown = "; ".join(map(str, sorted(keys, key=lambda key: (key.time_ns, key.tag))[:_SHOWN]))
        found.problems.append(f"{len(keys)} {what}, the first: {shown}")


__all__ = ["Arrived", "Gaps", "Key", "Verdict", "judge", "key_of", "key_of_arrived"]
