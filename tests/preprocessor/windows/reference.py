"""What windows must give, worked out slowly and in another way: from the log of everything that came, window by window,
moment by moment, in fractions. Nothing of the code under test is used.

A log is a list of turns. The samples of a tag count that were not before its horizon when they came; a window is what
the samples say that had come when it could still be revised for the last time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

SECOND = 1_000_000_000
GOOD, UNCERTAIN, BAD = 0, 1, 2


class Came(NamedTuple):
    """A sample as it came."""

    tag: str
    t: int
    value: float | bool | str | None
    quality: int


class Passed(NamedTuple):
    """A turn."""

    now: int
    steady: int
    trusted: bool
    samples: tuple[Came, ...]


class Value(NamedTuple):
    """What a function must give."""

    value: Fraction | bool | str | None
    quality: int
    word: str


@dataclass
class Rules:
    """The settings, in ns."""

    size: int
    slide: int
    lateness: int
    allowed: int
    idle: int
    min_good: int = 80
    empty: str = "hold"
    sloped: bool = False
    uncertain_is_good: bool = False
    offset: int = 0


@dataclass
class _Tag:
    samples: dict[int, Came] = field(default_factory=dict)
    newest: int | None = None
    mark: int | None = None
    heard: int = 0
    behind: int = 0
    windows: dict[int, list[Came]] = field(default_factory=dict)
    """By start the samples that a window that was given is made of."""
    too_late: int = 0


def windows(rules: Rules, log: Sequence[Passed], tags: Sequence[str]) -> dict[tuple[str, int], dict[str, Value]]:
    """By tag and start what each window gives in the end; only windows that give anything."""
    found = {}
    for name in tags:
        tag = followed(rules, log, name)
        for start, samples in tag.windows.items():
            end = start + rules.size
            if rules.empty == "skip" and not any(start <= one.t < end for one in samples):
                continue
            found[name, start] = functions(rules, samples, start, end)
    return found


def followed(rules: Rules, log: Sequence[Passed], name: str) -> _Tag:
    """One tag through all turns."""
    tag = _Tag()
    listened, before, lag = 0, None, 0
    seen: dict[str, int] = {}
    for passed in log:
        listened += 0 if before is None else min(passed.steady - before, 5 * SECOND)
        before = passed.steady
        behind = {}
        for other in {one.tag for one in passed.samples}:
            newest = max(one.t for one in passed.samples if one.tag == other)
            if other in seen and newest > seen[other]:
                behind[other] = max(0, passed.now - newest)
            seen[other] = max(newest, seen.get(other, newest))
        if passed.trusted and behind:
            lag = min(behind.values())
            tag.behind = min(behind.get(name, tag.behind), 600 * SECOND)
        horizon = None if tag.mark is None else tag.mark - rules.allowed
        for one in passed.samples:
            if one.tag != name:
                continue
            if horizon is not None and one.t < horizon:
                tag.too_late += 1
                continue
            tag.samples[one.t] = one
            tag.newest = one.t if tag.newest is None else max(tag.newest, one.t)
            tag.heard = listened
        if tag.newest is None:
            continue
        marks = [tag.newest - rules.lateness] + ([tag.mark] if tag.mark is not None else [])
        if passed.trusted and listened - tag.heard >= rules.idle:
            marks.append(passed.now - rules.idle - max(lag, tag.behind))
        tag.mark = max(marks)
        held = [tag.samples[t] for t in sorted(tag.samples)]
        for start in _starts(rules, held[0].t, tag.mark):
            end = start + rules.size
            if end > tag.mark or end <= held[0].t:
                continue
            if horizon is not None and end <= horizon and start in tag.windows:
                continue  # nothing changes it any more
            tag.windows[start] = held
    return tag


def _starts(rules: Rules, first: int, last: int) -> Iterator[int]:
    number = (first - rules.offset - rules.size) // rules.slide
    while number * rules.slide + rules.offset <= last:
        yield number * rules.slide + rules.offset
        number += 1


def functions(rules: Rules, samples: Sequence[Came], start: int, end: int) -> dict[str, Value]:
    """All functions of a window, from samples in order of time."""

    def usable(one: Came) -> bool:
        return one.value is not None and (one.quality == GOOD or (one.quality == UNCERTAIN and rules.uncertain_is_good))

    inside = [one for one in samples if start <= one.t < end]
    good = [one for one in inside if usable(one)]
    stretches = []  # from, to, value at both, whether it is doubtful
    moments = sorted({start, end, *(one.t for one in inside)})
    for here, there in pairwise(moments):
        earlier = [one for one in samples if one.t <= here]
        if not earlier or not usable(earlier[-1]):
            continue
        one = earlier[-1]
        later = [other for other in samples if other.t > here]
        at_both: tuple[Any, Any] = (one.value, one.value)
        if rules.sloped and later and usable(later[0]) and _is_number(one) and _is_number(later[0]):
            rise = (_exact(later[0].value) - _exact(one.value)) / (later[0].t - one.t)
            at_both = (_exact(one.value) + rise * (here - one.t), _exact(one.value) + rise * (there - one.t))
        stretches.append((here, there, *at_both, one.quality == UNCERTAIN, one.value))
    known = sum(there - here for here, there, *_ in stretches)
    texts = any(not isinstance(value, (int, float)) or isinstance(value, bool) for *_, value in stretches)
    changes = 0
    used = [one for one in samples if usable(one) and one.t < end]
    for one, after in pairwise(used):
        changes += after.t >= start and (type(one.value), one.value) != (type(after.value), after.value)

    values: dict[str, Any] = {
        "first": good[0].value if good else (stretches[0][2] if stretches else None),
        "last": good[-1].value if good else (stretches[-1][3] if stretches else None),
        "count": Fraction(len(good)),
        "duration": Fraction(sum(b - a for a, b, *_, value in stretches if value), SECOND),
        "transitions": Fraction(changes),
        "percentGood": Fraction(100 * known, end - start),
    }
    if not texts and stretches:
        ends = [_exact(value) for _, _, one, other, *_ in stretches for value in (one, other)]
        integral = sum(
            ((_exact(a) + _exact(b)) / 2 * Fraction(there - here, SECOND) for here, there, a, b, *_ in stretches),
            Fraction(0),
        )
        squares = sum(
            (
                (_exact(a) ** 2 + _exact(a) * _exact(b) + _exact(b) ** 2) / 3 * Fraction(there - here, SECOND)
                for here, there, a, b, *_ in stretches
            ),
            Fraction(0),
        )
        seconds = Fraction(known, SECOND)
        total = sum((_exact(one.value) for one in good if _is_number(one)), Fraction(0))
        values |= {
            "average": integral / seconds,
            "integral": integral,
            "deviation": squares / seconds - (integral / seconds) ** 2,  # squared
            "minimum": min(ends),
            "maximum": max(ends),
            "range": max(ends) - min(ends),
            "delta": _exact(stretches[-1][3]) - _exact(stretches[0][2]),
            "sum": total,
            "mean": total / len(good) if good else _exact(stretches[0][2]),
        }
    result = {}
    for name in _ALL:
        value = values.get(name)
        if rules.empty == "bad" and not inside:
            result[name] = Value(None, BAD, "no-data")
        elif name in ("count", "percentGood"):
            result[name] = Value(value, GOOD, "")
        elif texts and name not in ("first", "last", "duration", "transitions"):
            result[name] = Value(None, BAD, "not-numeric")
        elif not known or known * 100 < rules.min_good * (end - start):
            result[name] = Value(None, BAD, "too-little-good")
        elif known < end - start:
            result[name] = Value(value, UNCERTAIN, "partial")
        elif any(doubtful for *_, doubtful, _ in stretches):
            result[name] = Value(value, UNCERTAIN, "uncertain")
        else:
            result[name] = Value(value, GOOD, "")
    return result


def _exact(value: float | bool | str | Fraction | None) -> Fraction:
    assert isinstance(value, (int, float, Fraction))
    return Fraction(value)


def _is_number(one: Came) -> bool:
    return isinstance(one.value, (int, float)) and not isinstance(one.value, bool)


_ALL = (
    "average",
    "minimum",
    "maximum",
    "range",
    "deviation",
    "first",
    "last",
    "delta",
    "sum",
    "count",
    "mean",
    "integral",
    "duration",
    "transitions",
    "percentGood",
)
