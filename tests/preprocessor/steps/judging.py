"""Turns for steps that judge: run them, and run them with the state put down and taken up again in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from preprocessor.engine.pipeline import Pipeline
from sluice.columns import Quality, Sample

from ..flows import at, feed, samples

Turns = Sequence[tuple[float, Sequence[Sample]]]
"""By turn the seconds at which it is, and what comes."""


def run(
    make: Callable[[], Pipeline], turns: Turns, cuts: Iterable[int] = ()
) -> tuple[list[Sample], list[Any], Pipeline]:
    """What comes out of these turns, in the order of time, and the events. Before turns in `cuts` the state moves."""
    of, out, events = make(), [], []
    for number, (seconds, given) in enumerate(turns):
        if number in cuts:
            before, of = of, make()
            assert of.load(before.save()) == []
        outcome = feed(of, given, seconds)
        out += samples(outcome)
        events += outcome.events
    return sorted(out, key=lambda s: (s.tag, s.time)), events, of


def parts(given: Sequence[Sample], bounds: Iterable[int], step: float) -> list[tuple[float, Sequence[Sample]]]:
    """The samples in turns of their own, cut at these places, with `step` seconds from turn to turn."""
    places = [0, *sorted(bounds), len(given)]
    return [(step * i, given[a:b]) for i, (a, b) in enumerate(pairwise(places))]


def series(tag: str, values: Iterable[float | None], step: float = 1.0, begin: float = 0.0) -> list[Sample]:
    """Values of a tag, one each `step` seconds; None is BAD."""
    return [
        Sample(tag, at(begin + i * step), value, Quality.GOOD if value is not None else Quality.BAD)
        for i, value in enumerate(values)
    ]


def judged(out: Sequence[Sample], tag: str = "a") -> list[tuple[Any, int, Any]]:
    """Value, quality and status of a tag's samples."""
    return [(s.value, int(s.quality), s.status) for s in out if s.tag == tag]


def told(events: Sequence[Any], *names: str) -> list[tuple[Any, ...]]:
    """These members of each event, times as seconds."""
    return [
        tuple(at_s(event[name]) if name in ("time_ns", "since") else event.get(name) for name in names)
        for event in events
    ]


def at_s(time_ns: int) -> float:
    """Seconds after the start."""
    return (time_ns - at(0)) / 1e9
