"""Figures of a batch agree with a slow reference, whatever the order in which samples and ends come."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor.batches.summary import MOST_TAGS, SETTLE, Summary
from preprocessor.engine.packing import pack, unpack
from sluice.context import Frame, History

SECOND = 1_000_000_000
Given = tuple[int, int, float]  # tag, time in s, value (NaN: not good)


def feed(summary: Summary, steady: int, samples: list[Given]) -> None:
    summary.feed(
        steady,
        np.array([summary.place(slot) for slot, _, _ in samples], dtype=np.int64),
        np.array([time * SECOND for _, time, _ in samples], dtype=np.int64),
        np.array([value for _, _, value in samples], dtype=np.float64),
    )


def reference(samples: list[Given], start: int, end: int) -> dict[int, dict[str, Any]]:
    """Second by second, over all samples sorted at the end."""
    told: dict[int, dict[str, Any]] = {}
    for tag in {slot for slot, _, _ in samples}:
        by_time = {time: value for slot, time, value in samples if slot == tag}  # the last of one time counts
        held: list[float] = []
        for second in range(start, end):
            before = [time for time in by_time if time <= second]
            if before and not math.isnan(by_time[max(before)]):
                held.append(by_time[max(before)])
        count = sum(start <= time < end for time in by_time)
        if not held and not count:
            continue
        told[tag] = {
            "average": float(sum(map(Fraction, held)) / len(held)) if held else None,
            "minimum": min(held) if held else None,
            "maximum": max(held) if held else None,
            "samples": count,
            "percent_good": round(100 * len(held) / (end - start), 3) if end > start else 0.0,
        }
    return told


def test_a_value_holds_from_before_the_batch() -> None:
    history, summary = History(), Summary()
    feed(summary, 0, [(7, 0, 10.0), (7, 12, 20.0), (7, 18, math.nan), (7, 25, 99.0)])
    frame = history.begin("a", "x", 10 * SECOND)
    history.phase(frame.number, "heat", 15 * SECOND)
    history.end(frame.number, 20 * SECOND)
    figures = {(phase, slot): of for phase, slot, of in summary.close(frame, {frame.number: frame})}
    assert figures == {
        (-1, 7): {"average": 17.5, "minimum": 10.0, "maximum": 20.0, "samples": 2, "percent_good": 80.0},
        (0, 7): {"average": 20.0, "minimum": 20.0, "maximum": 20.0, "samples": 1, "percent_good": 60.0},
    }


def test_tags_are_bounded() -> None:
    summary = Summary()
    assert [summary.place(slot) for slot in (0, *range(MOST_TAGS + 2))][-3:] == [MOST_TAGS - 1, -1, -1]
    assert summary.refused == 2


VALUES = st.one_of(st.integers(-5, 5).map(float), st.just(math.nan))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40), VALUES), max_size=40).map(
        lambda rows: sorted(rows, key=lambda row: row[1])
    ),
    st.integers(0, 30),
    st.integers(0, 12),
    st.lists(st.integers(0, 12), max_size=3).map(sorted),
    st.lists(st.integers(0, 3), min_size=40, max_size=40),
    st.integers(0, 45),
)
def test_figures_agree_with_a_slow_reference(
    samples: list[Given], start: int, length: int, phases: list[int], delays: list[int], cut: int
) -> None:
    """Samples and the rules come within 2 s of their time, in any order."""
    history, summary = History(), Summary()
    told: dict[int, dict[int, dict[str, Any]]] = {}
    frames: dict[int, Frame] = {}
    end = start + length
    slack = SETTLE // SECOND - 1
    arriving: dict[int, list[Given]] = {}
    latest: dict[int, int] = {}
    for row, delay in zip(samples, delays, strict=False):
        # of one tag samples keep their order; they come at most a second late, as the rules do
        when = latest[row[0]] = max(latest.get(row[0], 0), row[1] + min(delay, slack))
        arriving.setdefault(when, []).append(row)
    for clock in range(50):
        if clock == cut:
            saved, kept = history.save(), unpack(pack(summary.save()))
            history, summary = History(), Summary()
            history.load(saved)
            summary.load(kept)
            frames = {number: history.frame(number) for number in frames}
        if rows := arriving.get(clock):
            feed(summary, clock * SECOND, rows)
        if clock == start + slack:
            frame = history.begin("a", "x", start * SECOND)
            frames[frame.number] = frame
            for offset in phases:
                history.phase(1, str(offset), (start + offset) * SECOND)
        if clock == end + slack:
            history.end(1, end * SECOND)
        if clock == end + slack + SETTLE // SECOND:
            for phase, slot, of in summary.close(frames[1], dict(frames)):
                told.setdefault(phase, {})[slot] = of
            frames = {}
        summary.advance(clock * SECOND, frames)
    spans = [(one.start // SECOND, one.end // SECOND) for one in history.frame(1).phases]
    for number, (first, last) in [(-1, (start, end)), *enumerate(spans)]:
        expected = reference(samples, first, last)
        found = told.get(number, {})
        assert found.keys() == expected.keys()
        for slot, of in found.items():
            average, exactly = of.pop("average"), expected[slot].pop("average")
            assert average == (None if exactly is None else pytest.approx(exactly, rel=1e-12, abs=1e-12))
            assert of == expected[slot]
    assert summary.save()["sums"] == []
