"""Alarms: what raises them, when they return, what is told, and that a crash anywhere tells nothing twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext
from preprocessor.step_settings import AlarmSettings
from preprocessor.steps.alarm import Alarm
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples, settings, turn
from .judging import Turns, at_s, run, series, told


def step(context: FlowContext, name: str = "rule", **members: Any) -> Alarm:
    return Alarm(name, settings(AlarmSettings, type="alarm", **members), context)


def make(**members: Any) -> Pipeline:
    context = flow()
    return pipeline(context, step(context, **members))


def quiet(begin: float, end: float) -> list[tuple[float, list[Sample]]]:
    return [(second, []) for second in np.arange(begin, end).tolist()]


def brief(turns: Turns, **members: Any) -> list[tuple[Any, ...]]:
    """State, level and time of the events; the same whether the state moves or not."""
    out, events, of = run(lambda: make(**members), turns)
    assert len(out) == sum(len(given_) for _, given_ in turns), "samples pass untouched"
    assert of.held == 0
    for cut in range(len(turns)):
        assert run(lambda: make(**members), turns, (cut,))[1] == events
    return told(events, "state", "level", "time_ns")


# --- what is told ---


def test_an_event_says_it_all() -> None:
    of = make(limits={"high": 90}, message="{tag} in {asset} is {value}, above {limit}{", priority=800)
    one = Sample("Temp", at(0), 95.5, asset="site/R1", batch="B-1")
    events = feed(of, [one]).events
    assert events == [
        {
            "kind": "alarm",
            "flow": "test",
            "time_ns": at(0),
            "state": "raised",
            "id": "test/rule/site/R1/Temp#1",
            "rule": "rule",
            "level": "high",
            "priority": 800,
            "tag": "Temp",
            "asset": "site/R1",
            "batch": "B-1",
            "value": 95.5,
            "limit": 90.0,
            "first_out": True,
            "message": "Temp in site/R1 is 95.5, above 90{",
        }
    ]
    (over,) = feed(of, [Sample("Temp", at(4.5), 80.0, asset="site/R1")], 4.5).events
    assert (over["state"], over["id"], over["duration_s"], over["value"]) == ("returned", events[0]["id"], 4.5, 80.0)
    (again,) = feed(of, [Sample("Temp", at(9), 99.0, asset="site/R1")], 9).events
    assert again["id"] == "test/rule/site/R1/Temp#2"


def test_what_is_put_into_a_message_is_not_read_again() -> None:
    of = make(limits={"high": 90}, message="{tag}: {value}")
    assert feed(of, [Sample("{value}", at(0), 95)]).events[0]["message"] == "{value}: 95"


def test_first_out_is_told_across_the_rules_of_an_asset() -> None:
    def both() -> Pipeline:
        context = flow()
        hot = step(context, "hot", limits={"high": 90}, tags="Temp")
        full = step(context, "full", limits={"high": 5}, tags="Level")
        return pipeline(context, hot, full)

    def at_asset(tag: str, second: float, value: float, asset: str = "R1") -> Sample:
        return Sample(tag, at(second), value, asset=asset)

    turns: Turns = [
        (0, [at_asset("Temp", 0, 99.0)]),
        (1, [at_asset("Level", 1, 9.0), at_asset("Level", 1, 9.0, "R2")]),
        (2, [at_asset("Temp", 2, 1.0), at_asset("Level", 2, 1.0)]),
        (3, [at_asset("Level", 3, 9.0)]),
    ]
    for cuts in ((), (1,), (2,), (1, 2, 3)):
        _, events, _ = run(both, turns, cuts)
        assert told(events, "state", "tag", "asset", "first_out") == [
            ("raised", "Temp", "R1", True),
            ("raised", "Level", "R1", False),
            ("raised", "Level", "R2", True),
            ("returned", "Level", "R1", False),
            ("returned", "Temp", "R1", True),
            ("raised", "Level", "R1", True),
        ]


# --- what raises one ---


def test_limits_with_levels_and_hysteresis() -> None:
    limits = {"highHigh": 20, "high": 10, "low": -10}
    assert brief(
        [(0, series("a", [0.0, 10.0, 11.0, 9.0, 21.0, 19.0, 18.0, 8.0, -11.0]))], limits=limits, hysteresis=2
    ) == [
        ("raised", "high", 2.0),
        ("changed", "high-high", 4.0),
        ("changed", "high", 6.0),
        ("returned", "high", 7.0),
        ("raised", "low", 8.0),
    ]


def test_rate() -> None:
    assert brief([(0, series("a", [0.0, 2.0])), (2, series("a", [5.0, 6.0], begin=2))], rate=2) == [
        ("raised", "rate", 2.0),
        ("returned", "rate", 3.0),
    ]


def test_deviation_from_a_setpoint_that_moves() -> None:
    turns: Turns = [
        (0, [Sample("SP", at(0), 50.0), *series("a", [50.0, 56.0, 51.0])]),
        (3, [Sample("SP", at(3), 60.0)]),
        (4, [Sample("SP", at(4), 52.0), Sample("a", at(4.5), 60.0), Sample("SP", at(5), 61.0)]),
    ]
    assert brief(turns, tags="a", deviation=5, setpoint="{SP}") == [
        ("raised", "deviation", 1.0),
        ("returned", "deviation", 2.0),
        ("raised", "deviation", 3.0),
        ("returned", "deviation", 4.0),
        ("raised", "deviation", 4.5),
        ("returned", "deviation", 5.0),
    ]


def test_without_a_setpoint_nothing_deviates() -> None:
    assert brief([(0, series("a", [50.0, 500.0]))], tags="a", deviation=5, setpoint="{SP}") == []


def test_values_that_are_an_alarm() -> None:
    def states(*values: str) -> list[Sample]:
        return [Sample("a", at(i), value) for i, value in enumerate(values)]

    assert brief([(0, states("RUN", "FAULT", "TRIP", "RUN"))], equals=["FAULT", "TRIP"]) == [
        ("raised", "equals", 1.0),
        ("returned", "equals", 3.0),
    ]
    assert brief([(0, [Sample("a", at(0), False), Sample("a", at(1), True)])], equals=[True]) == [
        ("raised", "equals", 1.0)
    ]
    assert brief([(0, [Sample("a", at(0), 3), Sample("b", at(0), 4.0)])], equals=[3, 4]) == [
        ("raised", "equals", 0.0),
        ("raised", "equals", 0.0),
    ]


def test_values_that_came_as_text_are_the_same_alarm() -> None:
    """Nucleus lite gives numbers and booleans of a list as text."""
    assert brief([(0, [Sample("a", at(0), 3), Sample("b", at(0), 4.0)])], equals=["3", "4.0"]) == [
        ("raised", "equals", 0.0),
        ("raised", "equals", 0.0),
    ]
    turns = [(0, [Sample("a", at(0), False), Sample("a", at(1), True)])]
    assert brief(turns, equals=["true"]) == [("raised", "equals", 1.0)]
    assert brief(turns, equals=["false"]) == [("raised", "equals", 0.0), ("returned", "equals", 1.0)]
    assert brief([(0, [Sample("a", at(0), "3")])], equals=[3]) == [("raised", "equals", 0.0)]
    assert brief([(0, [Sample("a", at(0), 1.0)])], equals=["FAULT"]) == []


def test_silence() -> None:
    turns: Turns = [(0, series("a", [1.0])), *quiet(1, 15), (15, series("a", [2.0], begin=15)), *quiet(16, 20)]
    assert brief(turns, stale="10s") == [("raised", "stale", 10.0), ("returned", "stale", 15.0)]


def test_an_expression_alone_is_one_alarm() -> None:
    turns: Turns = [
        (0, [Sample("T", at(0), 95.0, asset="R1"), Sample("Run", at(0), False)]),
        (1, [Sample("Run", at(1), True)]),
        (2, [Sample("T", at(2), 96.0, asset="R1")]),
        (3, [Sample("T", at(3), 80.0, asset="R1")]),
    ]
    members = {"when": "{T} > 90 and {Run}", "message": "hot at {asset}"}
    assert brief(turns, **members) == [("raised", "expression", 1.0), ("returned", "expression", 3.0)]
    _, events, _ = run(lambda: make(**members), turns)
    assert told(events, "id", "tag", "asset", "message") == [("test/rule#1", "", "R1", "hot at R1")] * 2


def test_what_is_left_out_may_be_written_out() -> None:
    given_ = settings(AlarmSettings, type="alarm", when="{T} > 90")
    context = flow()
    of = pipeline(context, Alarm("rule", AlarmSettings.model_validate(given_.model_dump(by_alias=True)), context))
    assert told(feed(of, series("T", [95.0])).events, "id", "tag") == [("test/rule#1", "")]


def test_an_expression_with_tags_is_an_alarm_of_each() -> None:
    turns: Turns = [
        (0, [Sample("Trip", at(0), False), Sample("p1", at(0), 3.0), Sample("p2", at(0), 4.0)]),
        (1, [Sample("Trip", at(1), True)]),
        (2, [Sample("p3", at(2), 5.0)]),
        (3, [Sample("Trip", at(3), False)]),
    ]
    for cuts in ((), (1,), (2,), (3,)):
        _, events, _ = run(lambda: make(tags="p*", when="{Trip}"), turns, cuts)
        assert told(events, "state", "tag", "value", "time_ns") == [
            ("raised", "p1", 3.0, 1.0),
            ("raised", "p2", 4.0, 1.0),
            ("raised", "p3", 5.0, 2.0),
            ("returned", "p1", 3.0, 3.0),
            ("returned", "p2", 4.0, 3.0),
            ("returned", "p3", 5.0, 3.0),
        ]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("hold", [("raised", "high", 1.0), ("returned", "high", 3.0)]),
        ("normal", [("raised", "high", 1.0), ("returned", "high", 2.0)]),
        ("alarm", [("raised", "high", 1.0), ("changed", "bad", 2.0), ("returned", "bad", 3.0)]),
    ],
)
def test_what_a_bad_value_means(policy: str, wanted: list[tuple[Any, ...]]) -> None:
    turns: Turns = [(0, series("a", [1.0, 11.0, None, 1.0]))]
    assert brief(turns, limits={"high": 10}, bad=policy) == wanted
    given_ = [
        Sample("a", at(i), value, Quality(quality))
        for i, (value, quality) in enumerate([(1.0, 0), (11.0, 0), (99.0, 2), (1.0, 0)])
    ]
    assert brief([(0, given_)], limits={"high": 10}, bad=policy) == wanted


def test_bad_values_alone() -> None:
    assert brief([(0, series("a", [1.0, None, None, 1.0]))], bad="alarm") == [
        ("raised", "bad", 1.0),
        ("returned", "bad", 3.0),
    ]


# --- when ---


def test_delays_end_also_when_nothing_comes() -> None:
    turns: Turns = [(0, series("a", [11.0])), *quiet(1, 8), (8, series("a", [1.0], begin=8)), *quiet(9, 20)]
    assert brief(turns, limits={"high": 10}, onDelay="3s", offDelay="4s") == [
        ("raised", "high", 3.0),
        ("returned", "high", 12.0),
    ]


def test_a_delay_does_not_end_while_nothing_was_running() -> None:
    of = make(limits={"high": 10}, onDelay="3s")
    feed(of, series("a", [11.0]))
    again = make(limits={"high": 10}, onDelay="3s")
    assert again.load(of.save()) == []
    assert feed(again, [], 3_600).events == []
    assert feed(again, series("a", [1.0], begin=1), 3_600.1).events == [], "it was waiting at the collector"


def test_late_rows_move_nothing() -> None:
    of = make(limits={"high": 10})
    feed(of, series("a", [1.0], begin=5))
    assert feed(of, series("a", [99.0], begin=4), 1).events == []


def test_inhibited_and_free_again() -> None:
    def starting(second: float, value: bool) -> Sample:
        return Sample("Start", at(second), value)

    turns: Turns = [
        (0, [starting(0, False), *series("a", [11.0])]),
        (1, [starting(1, True)]),
        (2, [*series("a", [12.0], begin=2)]),
        (3, [starting(3, False), *series("b", [11.0], begin=2.5)]),
        (4, [starting(4, True), starting(5, False), *series("a", [1.0], begin=4.5)]),
    ]
    assert brief(turns, tags=["a", "b"], limits={"high": 10}, inhibit="{Start}") == [
        ("raised", "high", 0.0),
        ("suppressed", "high", 1.0),
        ("raised", "high", 3.0),
        ("raised", "high", 3.0),
        ("suppressed", "high", 4.0),
        ("suppressed", "high", 4.0),
        ("raised", "high", 5.0),
    ]


def test_a_flood_becomes_one_event() -> None:
    turns = [(float(i), series("a", [11.0 if i % 2 == 0 else 1.0], begin=i)) for i in range(101)]
    _, events, of = run(lambda: make(limits={"high": 10}), [*turns, *quiet(101, 605)], (7, 50, 300))
    assert [event["state"] for event in events] == ["raised", "returned"] * 15 + ["flood"]
    assert (events[-1]["events"], events[-1]["active"], events[-1]["level"]) == (71, True, "high")
    assert at_s(events[-1]["time_ns"]) == 100
    assert feed(of, series("a", [1.0], begin=604), 605).events[0]["state"] == "returned", "and it is told of again"


# --- configuration that changes ---


def test_a_rule_that_is_removed_ends_its_alarms() -> None:
    of = make(limits={"high": 10})
    feed(of, series("a", [11.0]))
    assert told(of.finish(["rule"], turn(5)).events, "state", "time_ns") == [("suppressed", 5.0)]


def test_a_tag_that_is_taken_out_ends_its_alarm_and_others_go_on_under_new_limits() -> None:
    of = make(limits={"high": 10}, tags=["a", "b"])
    feed(of, [*series("a", [11.0]), *series("b", [15.0])])
    again = make(limits={"high": 12}, tags=["b"])
    assert again.load(of.save()) == []
    assert told(feed(again, [], 1).events, "state", "tag") == [("suppressed", "a")]
    assert told(feed(again, series("b", [11.0], begin=2), 2).events, "state", "tag") == [("returned", "b")]


def test_a_state_that_makes_no_sense_begins_anew() -> None:
    of = make(limits={"high": 10})
    feed(of, series("a", [11.0]))
    alarm = of.steps[0]
    state = dict(alarm.save())
    state["points"] = [[99, *state["points"][0][1:]]]
    with pytest.raises(ValueError, match="that there is not"):
        make(limits={"high": 10}).steps[0].load(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"limits": {}},
        {"limits": {"high": 1, "highHigh": 1}},
        {"limits": {"low": 2, "high": 1}},
        {"limits": {"high": 1}, "rate": 2},
        {"deviation": 1},
        {"setpoint": "{SP}", "rate": 1},
        {"equals": []},
        {"equals": [1], "hysteresis": 1},
        {"rate": 1, "hysteresis": 1},
        {"limits": {"low": 0, "high": 1}, "hysteresis": 1},
        {"limits": {"high": 1}, "message": "{unit}"},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(AlarmSettings, type="alarm", **wrong)


def test_a_wrong_expression_is_refused_with_its_place() -> None:
    with pytest.raises(Refusal) as refused:
        make(limits={"high": 1}, inhibit="{Run} +")
    assert refused.value.place == "inhibit"


# --- against a slow reference ---


def slow(
    values: dict[int, int | None], inhibits: dict[int, bool], end: int, on: int, off: int, bad: str
) -> list[tuple[str, str, int]]:
    """Second by second over whole columns: the level that holds in each second, and whether it is inhibited."""
    limits = {"high-high": 20, "high": 10}
    latched = dict.fromkeys(limits, False)
    level, now, inhibit, blocked, free = [], "", [], False, {}
    for second in range(end):
        blocked = inhibits.get(second, blocked)
        inhibit.append(blocked)
        free[second] = second > 0 and inhibit[second - 1] and not blocked
        if second in values:
            value = values[second]
            if value is None:
                if bad != "hold":
                    latched = dict.fromkeys(limits, False)
                    now = "bad" if bad == "alarm" else ""
            else:
                latched = {
                    name: value > limit or (latched[name] and value > limit - 2) for name, limit in limits.items()
                }
                now = next((name for name in limits if latched[name]), "")
        level.append(now)
    found: list[tuple[str, str, int]] = []
    active = ""
    for second in range(end):
        if not active and on and second >= on:
            span = range(second - on, second)
            if all(level[s] and not inhibit[s] for s in span):
                active = level[second - 1]
                found.append(("raised", active, second))
        elif active and off and second >= off and not any(level[second - off : second]):
            found.append(("returned", active, second))
            active = ""
        if active and inhibit[second] and not inhibit[second - 1]:
            found.append(("suppressed", active, second))
            active = ""
        if not on and not active and free[second] and level[second - 1]:
            active = level[second - 1]
            found.append(("raised", active, second))
        if not on and not active and level[second] and not inhibit[second]:
            active = level[second]
            found.append(("raised", active, second))
        if active and not off and not level[second]:
            found.append(("returned", active, second))
            active = ""
        if active and level[second] and level[second] != active:
            active = level[second]
            found.append(("changed", active, second))
    return found


@how(max_examples=300)
@given(
    st.dictionaries(st.integers(0, 40), st.sampled_from([None, 0, 7, 9, 10, 11, 17, 19, 21])),
    st.dictionaries(st.integers(0, 40), st.booleans()),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["hold", "alarm", "normal"]),
    st.integers(1, 7),
    st.sets(st.integers(0, 60)),
)
def test_as_second_by_second(
    values: dict[int, int | None],
    inhibits: dict[int, bool],
    on: int,
    off: int,
    bad: str,
    pack: int,
    cuts: set[int],
) -> None:
    given_: dict[int, list[Sample]] = {second: [] for second in range(50)}
    for second, value in values.items():
        number = None if value is None else float(value)
        given_[second].append(Sample("a", at(second), number, Quality.BAD if value is None else Quality.GOOD))
    for second, blocked in inhibits.items():
        given_[second].append(Sample("I", at(second), blocked))
    turns = [
        (float(begin + pack - 1), [one for second in range(begin, min(begin + pack, 50)) for one in given_[second]])
        for begin in range(0, 50, pack)
    ]
    members = {
        "tags": "a",
        "limits": {"high": 10, "highHigh": 20},
        "hysteresis": 2,
        "onDelay": on,
        "offDelay": off,
        "bad": bad,
        "inhibit": "{I}",
    }
    _, events, of = run(lambda: make(**members), [*turns, *quiet(57, 65)], cuts)
    assert of.held == 0
    assert told(events, "state", "level", "time_ns") == slow(values, inhibits, 57, on, off, bad)
    numbers = [event["id"] for event in events if event["state"] == "raised"]
    assert len(numbers) == len(set(numbers))
    for event in events:
        if event["state"] in ("returned", "suppressed"):
            raised = next(one for one in events if one["id"] == event["id"] and one["state"] == "raised")
            assert event["duration_s"] == (event["time_ns"] - raised["time_ns"]) / 1e9


@given(
    st.dictionaries(st.integers(0, 30), st.integers(0, 9)),
    st.dictionaries(st.integers(0, 30), st.integers(0, 9)),
    st.integers(1, 7),
    st.sets(st.integers(0, 30)),
)
def test_deviation_second_by_second(
    values: dict[int, int], setpoints: dict[int, int], pack: int, cuts: set[int]
) -> None:
    turns: list[tuple[float, list[Sample]]] = []
    for begin in range(0, 31, pack):
        span = range(begin, begin + pack)
        given_ = [Sample("SP", at(second), float(setpoints[second])) for second in span if second in setpoints]
        given_ += [Sample("a", at(second), values[second]) for second in span if second in values]
        turns.append((float(begin), given_))
    _, events, _ = run(lambda: make(tags="a", deviation=3, setpoint="{SP}", hysteresis=1), turns, cuts)
    wanted: list[tuple[str, float]] = []
    value = setpoint = None
    for second in range(31):
        value, setpoint = values.get(second, value), setpoints.get(second, setpoint)
        if value is None or setpoint is None:
            continue
        active, off = bool(wanted) and wanted[-1][0] == "raised", abs(value - setpoint)
        if not active and off > 3:
            wanted.append(("raised", second))
        elif active and off <= 2:
            wanted.append(("returned", second))
    assert told(events, "state", "time_ns") == wanted


def test_explains_itself() -> None:
    of = make(limits={"high": 10}, onDelay="3s")
    feed(of, series("a", [11.0]))
    assert of.steps[0].explain(0) == {
        "applies": True,
        "state": "rising",
        "level": "high",
        "since": at(0),
        "inhibited": False,
    }
    assert samples(feed(of, [], 1)) == []
