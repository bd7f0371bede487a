"""What the preprocessor must have made of the plant's samples, worked out from the plant's own log and nothing else.

The flows that are judged (`flows()`):

    through    no steps: every sample of every collector passes. The reconciliation of samples holds for it as it is.
    windows    aggregates of 2 s over measurements of the OPC UA plant
    totals     the increments of its row numbers, added up

Windows. What a window gives is worked out here as its definition says, slowly and in fractions: the samples of the tag
whose time lies in it are counted and added up; between samples the last value holds, into the window too. The plant is
asked for its past after every disturbance, so samples come late, on another stream, and windows are closed before they
have come. Each late sample then revises its window. So a window may be given out several times, each time with `rev`
one higher: every number must be there once, and the last must be exact, whatever was killed in between. Only tags that
are always GOOD are aggregated, so that nothing depends on how quality is weighed.

Totals. The row number of a unit counts up by itself. Its total at any sample is therefore that sample's number less the
first one, however many samples between were late and passed the counter by.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from plant.log import LoggedRow, Value, read_log

SECOND = 1_000_000_000
WINDOW = 2 * SECOND
MEASUREMENTS = "*/XMEAS0*"
"""The tags that are aggregated: numbers that are always GOOD."""
COUNTED = "*/Row"
_MEASUREMENT, _COUNTED = "/XMEAS0", "/Row"

FUNCTIONS = ("count", "sum", "minimum", "maximum", "first", "last", "integral", "percentGood")
TOTAL = "total"
_SUFFIXES = tuple(f".{name}" for name in (*FUNCTIONS, TOTAL))


def flows(sources: Sequence[str]) -> dict[str, Any]:
    """The preprocessor's configuration for these streams of collectors, of which the first is the OPC UA plant's."""
    plant = {"plant": {"stream": sources[0], "tags": [MEASUREMENTS]}}
    often = {"checkpointInterval": "2s"}  # so that a run passes many of them
    return {
        "flows": {
            "through": {
                "inputs": {f"source{number}": {"stream": one} for number, one in enumerate(sources, 1)},
                **often,
            },
            "windows": {
                "inputs": plant,
                "steps": {
                    "seconds": {
                        "type": "aggregate",
                        "window": "2s",
                        "functions": list(FUNCTIONS),
                        "minGood": 0,
                        "lateness": "1s",
                        # As long as anything may still be read again from the plant's past.
                        "allowedLateness": "1h",
                        "idle": "3s",
                        "empty": "skip",
                    }
                },
                **often,
            },
            "totals": {
                "inputs": {"plant": {"stream": sources[0], "tags": [COUNTED]}},
                "steps": {"rows": {"type": "counter", "output": "total", "inputs": "drop"}},
                **often,
            },
        }
    }


def is_derived(tag: str) -> bool:
    """Whether a tag at a destination is of a window or a total, and none of the plant's."""
    return tag.endswith(_SUFFIXES)


class Row(NamedTuple):
    """A sample of a window or total as a destination received it. `rev`: how often it was revised before."""

    tag: str
    time_ns: int
    value: Value
    id: str
    rev: int = 0


@dataclass
class Verdict:
    """What became of windows and totals at one destination. `exact` + `lost` + those that are wrong = `expected`."""

    expected: int = 0
    exact: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    unexpected: int = 0
    revisions: int = 0
    totals: int = 0
    """Samples of totals, all of them compared."""
    first: str = ""
    """The first thing that is not as it should be,"""
    tag: str = ""
    time_ns: int = 0
    """and where."""

    @property
    def balances(self) -> bool:
        """Whether everything that had to be made was made once, and nothing else."""
        return not (self.lost or self.doubled or self.wrong or self.unexpected)

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {name: value for name, value in vars(self).items() if value or name not in ("first", "tag", "time_ns")}

    def blame(self, what: str, tag: str, time_ns: int, text: object) -> None:
        """Count something that is not as it should be."""
        setattr(self, what, getattr(self, what) + 1)
        if not self.first:
            self.first, self.tag, self.time_ns = f"{what}: {tag} at {time_ns}: {text}", tag, time_ns


def judge(log: Path, deliveries: Mapping[str, Iterable[Row]], *, drop_by_id: Iterable[str] = ()) -> dict[str, Verdict]:
    """Compare what each destination has of windows and totals with the plant's log.

    drop_by_id: destinations whose readers drop repeats by record id.
    """
    dropping = set(drop_by_id)
    samples = _samples(log)
    windows = {
        (f"{tag}.{name}", start): (expected, allowed)
        for tag, series in samples.items()
        if _MEASUREMENT in tag
        for start, results in windows_of(series)
        for name, (expected, allowed) in results.items()
    }
    return {name: _compare(samples, windows, rows, name in dropping) for name, rows in deliveries.items()}


def _samples(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Time and value of the samples that flows take, by tag."""
    samples: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in read_log(log):
        if isinstance(line, LoggedRow):
            for tag, value in line.values.items():
                if _MEASUREMENT in tag or tag.endswith(_COUNTED):
                    assert isinstance(value, (int, float)), f"{tag} is {value!r}, and a number was expected"
                    assert tag not in line.statuses, f"{tag} is not GOOD, and was expected to be"
                    samples[tag].append((line.time_ns, value))
    return samples


def windows_of(
    samples: Sequence[tuple[int, float]], size: int = WINDOW
) -> Iterator[tuple[int, dict[str, tuple[Fraction, Fraction]]]]:
    """Start and results of every window of a tag in which there is a sample, in order of time; each result with the
    error that it may have. samples: time in ns and value, in order of time.

    A sum of doubles that is made in any order is wrong by at most the number of terms times the largest rounding.
    """
    times = [time for time, _ in samples]
    for start in dict.fromkeys(time // size * size for time in times):
        low, high = bisect_left(times, start), bisect_left(times, start + size)
        values = [Fraction(value) for _, value in samples[low:high]]
        # With what held when the window began, unless it did for no time.
        held = samples[low if times[low] == start else max(0, low - 1) : high]
        edges = [max(start, time) for time, _ in held[1:]] + [start + size]
        since = max(start, held[0][0])
        integral = known = Fraction(0)
        for (_, value), until in zip(held, edges, strict=True):
            integral += Fraction(value) * (until - since) / SECOND
            known += until - since
            since = until
        rounding = Fraction(len(values) + 8, 2**50)
        of_sum = rounding * sum(map(abs, values))
        of_integral = rounding * max(abs(Fraction(value)) for _, value in held) * size / SECOND
        exactly = Fraction(0)
        yield (
            start,
            {
                "count": (Fraction(len(values)), exactly),
                "sum": (sum(values, Fraction(0)), of_sum),
                "minimum": (min(Fraction(value) for _, value in held), exactly),
                "maximum": (max(Fraction(value) for _, value in held), exactly),
                "first": (values[0], exactly),
                "last": (values[-1], exactly),
                "integral": (integral, of_integral),
                "percentGood": (known * 100 / size, rounding * 100),
            },
        )


def _compare(
    samples: Mapping[str, Sequence[tuple[int, float]]],
    windows: Mapping[tuple[str, int], tuple[Fraction, Fraction]],
    rows: Iterable[Row],
    drop_by_id: bool,
) -> Verdict:
    verdict = Verdict(expected=len(windows))
    seen: set[str] = set()
    given: dict[tuple[str, int], dict[int, Value]] = defaultdict(dict)
    totals: dict[str, set[int]] = {tag: set() for tag in samples if tag.endswith(_COUNTED)}
    for row in rows:
        if drop_by_id:
            if row.id in seen:
                continue
            seen.add(row.id)
        if row.tag.endswith(f".{TOTAL}"):
            _total(samples, totals, row, verdict)
            continue
        key = (row.tag, row.time_ns)
        if key not in windows:
            verdict.blame("unexpected", *key, f"{row.value}, id {row.id}: no sample lies in such a window")
        elif row.rev in given[key]:
            verdict.blame(
                "doubled", *key, f"{row.value} after {given[key][row.rev]} in revision {row.rev}, id {row.id}"
            )
        else:
            given[key][row.rev] = row.value
    for key, (expected, allowed) in windows.items():
        revisions = given.get(key)
        if not revisions:
            verdict.blame("lost", *key, float(expected))
        elif sorted(revisions) != list(range(len(revisions))):
            verdict.blame("lost", *key, f"of its revisions only {sorted(revisions)} are there")
        else:
            last = revisions[len(revisions) - 1]
            verdict.revisions += len(revisions) - 1
            if isinstance(last, (int, float)) and abs(Fraction(last) - expected) <= allowed:
                verdict.exact += 1
            else:
                verdict.blame("wrong", *key, f"{revisions}, and {float(expected)} was expected")
    for tag, times in totals.items():
        verdict.expected += 1
        if samples[tag][-1][0] in times:
            verdict.exact += 1
        else:
            verdict.blame("lost", f"{tag}.{TOTAL}", samples[tag][-1][0], "its last")
    return verdict


def _total(
    samples: Mapping[str, Sequence[tuple[int, float]]], totals: Mapping[str, set[int]], row: Row, verdict: Verdict
) -> None:
    """One sample of a total: the row number then, less the first."""
    tag = row.tag.removesuffix(f".{TOTAL}")
    series = samples.get(tag, ())
    at = bisect_right(series, row.time_ns, key=lambda sample: sample[0]) - 1
    if tag not in totals or at < 0 or series[at][0] != row.time_ns:
        verdict.blame("unexpected", row.tag, row.time_ns, f"{row.value}, id {row.id}: the plant has no such sample")
        return
    if row.time_ns in totals[tag]:
        verdict.blame("doubled", row.tag, row.time_ns, f"{row.value}, id {row.id}")
        return
    verdict.totals += 1
    if row.value == series[at][1] - series[0][1]:
        totals[tag].add(row.time_ns)
    else:
        expected = series[at][1] - series[0][1]
        verdict.blame("wrong", row.tag, row.time_ns, f"{row.value}, id {row.id}; {expected} was expected")
