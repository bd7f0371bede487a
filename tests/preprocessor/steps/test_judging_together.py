"""All that judges sensors, and alarms, in one flow: whatever comes, the ledger balances and a crash changes nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import (
    AlarmSettings,
    RangeSettings,
    RateSettings,
    SpikeSettings,
    StaleSettings,
    StuckSettings,
)
from preprocessor.steps.alarm import Alarm
from preprocessor.steps.range import Range
from preprocessor.steps.rate import Rate
from preprocessor.steps.spike import Spike
from preprocessor.steps.stale import Stale
from preprocessor.steps.stuck import Stuck
from sluice.columns import Quality, Sample

from ..flows import at, flow, pipeline, settings
from .judging import run


def make(action: str, last: str) -> Pipeline:
    context = flow()
    what: dict[str, Any] = {"action": action, "event": True}
    return pipeline(
        context,
        Range("range", settings(RangeSettings, type="range", low=-50, softHigh=40, **what), context),
        Stuck("stuck", settings(StuckSettings, type="stuck", **{"for": "2s"}, samples=2, when="{c}", **what), context),
        Spike("spike", settings(SpikeSettings, type="spike", window=3, floor=0.5, **what), context),
        Rate("rate", settings(RateSettings, type="rate", limit=5, **what), context),
        Stale("stale", settings(StaleSettings, type="stale", after="4s", action=last), context),
        Alarm("high", settings(AlarmSettings, type="alarm", limits={"high": 5}, onDelay="1s", inhibit="{c}"), context),
        Alarm("quiet", settings(AlarmSettings, type="alarm", stale="3s", exclude="c"), context),
        Alarm(
            "far", settings(AlarmSettings, type="alarm", deviation=3, setpoint="{b}", tags="a", bad="alarm"), context
        ),
        Alarm("both", settings(AlarmSettings, type="alarm", when="{a} > 5 or {c}", tags=["a", "b"]), context),
    )


VALUES = st.one_of(
    st.tuples(st.sampled_from([0.0, 1.0, 4.0, 6.0, 45.0, -99.0]), st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.sampled_from([None, "Bad"]), st.just(2)),
    st.tuples(st.integers(0, 9), st.just(0)),
    st.tuples(st.just("text"), st.just(0)),
)
ROWS = st.one_of(
    st.tuples(st.sampled_from("ab"), VALUES, st.sampled_from([0, 0, 0, -3])),
    st.tuples(st.just("c"), st.tuples(st.booleans(), st.just(0)), st.just(0)),
)


@how(max_examples=60)
@given(
    st.lists(st.lists(ROWS, max_size=4), max_size=12),
    st.sampled_from(["mark", "drop", "hold"]),
    st.sampled_from(["mark", "event"]),
    st.sets(st.integers(0, 30)),
)
def test_a_crash_anywhere_changes_nothing(
    rows: list[list[tuple[str, tuple[Any, int], int]]], action: str, last: str, cuts: set[int]
) -> None:
    turns: list[tuple[float, list[Sample]]] = []
    for second, part in enumerate(rows):
        given_ = [
            Sample(tag, at(second + place / 8 + back), value, Quality(quality))
            for place, (tag, (value, quality), back) in enumerate(part)
        ]
        turns.append((float(second), given_))
    turns += [(float(second), []) for second in range(len(rows), len(rows) + 15)]
    out, events, of = run(lambda: make(action, last), turns)
    again, events_again, other = run(lambda: make(action, last), turns, cuts)
    assert out == again
    assert events == events_again
    assert of.save() == other.save()
    assert of.held == 0
    assert of.received + of.made == of.dropped + of.sent
    begun: set[tuple[str, str]] = set()
    for event in events:
        if event["kind"] == "sensor" and event["state"] != "single":
            key = (event["check"], event["tag"])
            assert (event["state"] == "end") == (key in begun), "begin and end by turns"
            begun ^= {key}
