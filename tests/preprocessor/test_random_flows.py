"""Any flow of all kinds of steps, fed with anything a plant may send: no row is lost or doubled, and a stop anywhere
changes nothing.

The configurations are drawn as people write them and go through the models of the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as how
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor import compile as compiling
from preprocessor.config import Configuration
from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import SECOND, Turn
from preprocessor.steps.compress import Compress
from preprocessor.steps.mode import Mode
from preprocessor.steps.report import Report
from preprocessor.steps.spike import Spike
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Quality, Sample, ValueType, from_samples

from .flows import START

TAGS = {"F": "m3/h", "T": "degF", "C": "", "N": "kWh", "R": "", "S": "", "X": "psi"}
"""Tags by name with their units: R is a switch, S a text, X becomes anything."""
ACTS = st.sampled_from(["mark", "drop", "hold"])
FEW = st.sampled_from([None, ["**"], ["F"], ["F", "T"], ["X", "N"], ["*.total"]])


def step(kind: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A step of a kind; members that are None are left out."""
    drawn = st.fixed_dictionaries({"type": st.just(kind), "tags": FEW, **members})
    return drawn.map(lambda found: {key: value for key, value in found.items() if value is not None})


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


STEPS = st.one_of(
    step(
        "quality",
        numbers=st.booleans(),
        uncertain=st.sampled_from(["pass", "bad", "drop", "hold"]),
        bad=st.sampled_from(["pass", "empty", "drop", "hold"]),
        statuses=maybe({"7": "good", "0x80": "bad"}),
    ),
    step("convert", units=st.just({"degF": "degC", "psi": "kPa"}), digits=maybe(0, 2), clamp=maybe([-5, 50])),
    step(
        "convert",
        gain=st.sampled_from([-1.0, 0.1]),
        valueType=maybe("double", "integer", "boolean", "string"),
    ),
    step("rename", rules=st.just([{"match": "{one}", "tag": "renamed/{one}"}])),
    step("range", low=st.just(-20), high=st.just(60), softHigh=maybe(40), action=ACTS, event=st.booleans()),
    step("stuck", **{"for": st.just("2s"), "samples": st.just(2), "when": maybe("{R}"), "action": ACTS}),
    step("spike", window=st.just(3), floor=st.just(0.5), action=ACTS, event=st.booleans()),
    step("rate", limit=st.just(5), action=ACTS),
    step("stale", after=st.just("5s"), action=st.sampled_from(["mark", "event"])),
    step("context", start=st.just("{R}"), stop=st.just("not {R}"), onlyInBatch=st.booleans(), summary=maybe(["F"])),
    step(
        "derive",
        outputs=st.just({"Sum": {"expression": "{F} + {T}"}, "Half": {"expression": "{F} / {C}"}}),
        inputs=st.sampled_from(["pass", "drop"]),
        maxAge=maybe("3s"),
    ),
    step("alarm", limits=st.just({"high": 20, "low": -5}), onDelay=maybe("2s"), bad=st.sampled_from(["hold", "alarm"])),
    step(
        "counter",
        output=st.sampled_from(["total", "delta", "both"]),
        rollover=maybe(100),
        maxRate=maybe(50),
        inputs=st.sampled_from(["pass", "drop"]),
    ),
    step(
        "totalize",
        per=st.sampled_from(["s", "h"]),
        sloped=st.booleans(),
        maxGap=st.just("3s"),
        reset=maybe("{R}"),
        inputs=st.sampled_from(["pass", "drop"]),
    ),
    step(
        "aggregate",
        window=st.just("4s"),
        slide=maybe("2s"),
        functions=st.just(["average", "last", "count", "percentGood", "transitions"]),
        lateness=st.sampled_from(["0s", "1s"]),
        allowedLateness=st.sampled_from(["0s", "5s"]),
        idle=st.just("3s"),
        empty=st.sampled_from(["skip", "bad", "hold"]),
        inputs=st.sampled_from(["pass", "drop"]),
        late=st.sampled_from(["pass", "drop"]),
        sloped=st.booleans(),
    ),
    step("aggregate", **{"while": st.just("{R}"), "inputs": st.sampled_from(["pass", "drop"])}),
    step("aggregate", by=st.just("batch"), inputs=st.sampled_from(["pass", "drop"])),
    step(
        "report",
        absolute=maybe(2.0),
        minInterval=maybe("1s"),
        maxInterval=maybe("4s"),
        heartbeat=st.sampled_from(["hold", "off"]),
        previous=st.booleans(),
    ),
    step("compress", deviation=st.sampled_from([0.5, 5.0]), minInterval=maybe("1s"), maxInterval=st.just("6s")),
)
ENDS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["onChange", "onTrue", "whileTrue"]),
            "when": st.just("{R}"),
            "publish": st.sampled_from(["all", "changes", "compressed"]),
        }
    ),
    st.fixed_dictionaries({"publish": st.sampled_from(["changes", "compressed"])}),
)
FLOWS = st.tuples(st.lists(STEPS, min_size=1, max_size=7), ENDS)

NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 10.0, 39.5, 99.0, -30.0, 1e308, -1e308, 5e-324]),
    st.floats(-50, 50),
)
INTEGERS = st.one_of(st.integers(-5, 120), st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1]))
TEXTS = st.sampled_from(["Bad", "12.5", "1,234", "", "1e400", "-0", "Scan Timeout", "running", "0x10", "NaN"])


def value_of(tag: str) -> st.SearchStrategy[Any]:
    return {
        "C": INTEGERS,
        "N": st.one_of(INTEGERS, st.just("Bad")),
        "R": st.booleans(),
        "S": TEXTS,
        "X": st.one_of(NUMBERS, INTEGERS, st.booleans(), TEXTS),
    }.get(tag, NUMBERS)


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, Any, Quality, int, float]:
    """Tag, value, quality, status, and how far its time lies from that of its turn."""
    tag = draw(st.sampled_from([*TAGS, "F", "F"]))
    quality = draw(st.sampled_from([Quality.GOOD] * 5 + [Quality.UNCERTAIN, Quality.BAD]))
    value = None if quality and draw(st.booleans()) else draw(value_of(tag))
    status = draw(st.sampled_from([0, 0, 0, 7, 0x80]))
    return tag, value, quality, status, draw(st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.5, -1.0, -4.0, 3.0]))


PART = st.tuples(st.sampled_from(["plant/a", "plant/a", "plant/b", "plant/a/backfill"]), st.lists(rows(), max_size=8))
TURNS = st.lists(st.tuples(st.sampled_from([0.1, 1.0, 1.0, 2.5, 30.0]), st.lists(PART, max_size=3)), max_size=12)


def built(of: tuple[list[dict[str, Any]], dict[str, Any]]) -> Pipeline:
    """The pipeline of a drawn configuration, as the component makes it."""
    steps, end = of
    written = {f"step{number}": one for number, one in enumerate(steps)}
    flow = {"inputs": {"all": {"stream": "*"}}, "steps": written, **end}
    config = Configuration.model_validate({"flows": {"f": flow}})
    return compiling.build("f", compiling.definition("f", config.flows["f"], config.models, Path()))


def turns(drawn: Iterable[tuple[float, Any]]) -> list[tuple[list[SampleBatch], Turn]]:
    """What comes, and when. At the end it is silent for a while."""
    found = []
    seconds = 0.0
    seq = 0
    for wait, parts in [*drawn, *[(1.0, [])] * 10]:
        seconds += wait
        batches = []
        for stream, given_ in parts:
            samples = [
                Sample(tag, START + round((seconds + off) * SECOND), value, quality, status, unit=TAGS[tag])
                for tag, value, quality, status, off in given_
            ]
            for columns in from_samples(samples):
                seq += 1
                batches.append(SampleBatch(Header(stream, "0123456789ab", seq), columns))
        now = START + round(seconds * SECOND)
        found.append((batches, Turn(now, round(seconds * SECOND) + SECOND)))
    return found


def gone_out(outcome: Outcome) -> list[tuple[Any, ...]]:
    """Everything of an outcome, and that it is sound."""
    found: list[tuple[Any, ...]] = []
    for kind, parts in (("live", outcome.live), ("backfill", outcome.backfill)):
        for columns in parts:
            assert_sound(columns)
            found += [
                (kind, one.tag, one.time, repr(one.value), int(one.quality), one.status, one.unit, one.batch, one.extra)
                for one in columns.samples()
            ]
    return found


def assert_sound(columns: Columns) -> None:
    size = len(columns.t)
    quality = np.zeros(size, dtype=np.uint8) if columns.quality is None else columns.quality
    if columns.type is ValueType.DOUBLE:
        assert not np.isinf(columns.value).any(), "no value is infinite"
        null = np.isnan(columns.value)
    elif columns.type is ValueType.STRING:
        null = np.array([one is None for one in columns.value.tolist()], dtype=np.bool_)
    else:
        null = np.zeros(size, dtype=np.bool_) if columns.null is None else columns.null
    assert (quality[null] > Quality.GOOD).all(), "null stands beside UNCERTAIN or BAD alone"


def really_held(of: Pipeline) -> int:
    """The rows that the steps have in their hands."""
    held = 0
    for one in of.steps:
        if isinstance(one, (Report, Compress)):
            held += int(one._held.sum())
        elif isinstance(one, Spike):
            held += one._waiting
        elif isinstance(one, Mode):
            held += int(one._fresh.sum())
    return held


@how(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(FLOWS, TURNS, st.sets(st.integers(0, 20), max_size=3))
def test_no_row_is_lost_or_doubled_and_a_stop_changes_nothing(
    configuration: tuple[list[dict[str, Any]], dict[str, Any]], drawn: list[tuple[float, Any]], cuts: set[int]
) -> None:
    try:
        of, other = built(configuration), built(configuration)
    except (ValidationError, compiling.FlowRefusedError):
        reject()
    for number, (batches, turn) in enumerate(turns(drawn)):
        if number in cuts:
            before, other = other, built(configuration)
            assert other.load(before.save()) == []
        outcome, again = of.turn(batches, turn), other.turn(batches, turn)
        assert gone_out(outcome) == gone_out(again)
        assert outcome.events == again.events
        assert of.held == really_held(of)
        assert of.received == of.sent + of.dropped - of.made + of.held
        assert outcome.received == sum(len(one.columns) for one in batches)
    assert of.save() == other.save()
    last = of.finish([one.name for one in of.steps], Turn(turn.now + SECOND, turn.steady + SECOND))
    gone_out(last)
    assert of.held == 0
    assert all(math.isfinite(count) for one in of.steps for count in one.counters.values())
