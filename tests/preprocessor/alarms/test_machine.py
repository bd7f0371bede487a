"""The state machine of an alarm: its table is the one that its module draws, and its delays end where values held."""

from __future__ import annotations

import re

from preprocessor.alarms import machine
from preprocessor.alarms.machine import TABLE, Machine, Point, State, Stimulus, Transition
from preprocessor.engine.step import SECOND


def drawn() -> dict[tuple[State, Stimulus], tuple[State, str]]:
    """The table as it stands in the module's text: columns begin where their heads do."""
    lines = (machine.__doc__ or "").splitlines()
    head = next(number for number, line in enumerate(lines) if "ALARM     LEVEL" in line)
    starts = [(Stimulus[found[0]], found.start()) for found in re.finditer(r"\S+", lines[head])]
    found: dict[tuple[State, Stimulus], tuple[State, str]] = {}
    state = State.NORMAL
    for line in lines[head + 1 :]:
        if not line.strip():
            break
        first = line[: starts[0][1]].strip()
        state = State[first] if first else state
        for place, (stimulus, start) in enumerate(starts):
            end = starts[place + 1][1] if place + 1 < len(starts) else None
            word = line[start:end].strip()
            if word.isupper():
                found[state, stimulus] = State[word], ""
            elif word.isalpha():
                found[state, stimulus] = found[state, stimulus][0], word
    return found


def test_the_table_is_the_one_that_is_drawn() -> None:
    assert drawn() == dict(TABLE)


def see(of: Machine, point: Point, second: float, level: int, inhibited: bool = False) -> list[tuple[str, float]]:
    return brief(of.see(point, round(second * SECOND), level, None, "", inhibited, 0))


def brief(told: list[Transition]) -> list[tuple[str, float]]:
    return [(one.told, one.time / SECOND) for one in told]


def test_without_delays_everything_is_told_at_once() -> None:
    of, point = Machine(0, 0), Point()
    assert see(of, point, 1, 2) == [("raised", 1)]
    assert see(of, point, 2, 2) == []
    assert see(of, point, 3, 4) == [("changed", 3)]
    assert see(of, point, 4, 0) == [("returned", 4)]
    assert point.number == 1


def test_a_delay_that_ended_before_a_row_ended_with_the_value_that_held() -> None:
    of, point = Machine(10, 5), Point()
    assert see(of, point, 0, 2) == []
    assert see(of, point, 60, 0) == [("raised", 10)]
    assert see(of, point, 80, 2) == [("returned", 65)]


def test_what_is_shorter_than_its_delay_is_nothing() -> None:
    of, point = Machine(10, 5), Point()
    assert see(of, point, 0, 2) + see(of, point, 9, 0) + see(of, point, 12, 2) == []
    assert see(of, point, 22, 2) == [("raised", 22)]
    assert see(of, point, 23, 0) + see(of, point, 27, 2) + see(of, point, 99, 2) == []


def test_an_alarm_comes_back_at_another_level() -> None:
    of, point = Machine(0, 5), Point()
    see(of, point, 0, 4)
    see(of, point, 1, 0)
    assert see(of, point, 2, 2) == [("changed", 2)]


def test_inhibited() -> None:
    of, point = Machine(0, 5), Point()
    assert see(of, point, 0, 2, inhibited=True) == []
    assert brief(of.inhibit(point, 3 * SECOND, False, 0)) == [("raised", 3)]
    assert brief(of.inhibit(point, 4 * SECOND, True, 0)) == [("suppressed", 4)]
    assert see(of, point, 5, 0, inhibited=True) == []
    assert brief(of.inhibit(point, 6 * SECOND, False, 0)) == []
    assert point.state == State.NORMAL


def test_inhibited_while_it_was_about_to_return() -> None:
    of, point = Machine(0, 5), Point()
    see(of, point, 0, 2)
    see(of, point, 1, 0)
    assert brief(of.inhibit(point, 2 * SECOND, True, 0)) == [("suppressed", 2)]
    assert brief(of.inhibit(point, 3 * SECOND, False, 0)) == []
    assert point.state == State.NORMAL


def test_times_never_go_back() -> None:
    of, point = Machine(10, 0), Point()
    see(of, point, 0, 2)
    assert brief(of.wait_over(point)) == [("raised", 10)], "by the steady clock, before a row of the past came"
    assert see(of, point, 8, 0) == [("returned", 10)]
