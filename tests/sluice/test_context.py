"""Frames are half-open intervals, ranked, remembered with bounds, and every edit tells which times it changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.context import AFTER, MOST_FRAMES, MOST_PHASES, OPEN, Change, ContextError, History, State


def at(history: History, asset: str, *times: int) -> list[str]:
    """The ids at these times; empty where there is none."""
    numbers = history.at(asset, np.array(times, dtype=np.int64)).tolist()
    return [history.frame(number).id if number else "" for number in numbers]


def taken(history: History) -> list[Change]:
    changes = list(history.changes)
    history.changes.clear()
    return changes


def test_the_end_belongs_to_what_comes_next() -> None:
    history = History()
    first = history.begin("line", "B1", 10)
    history.end(first.number, 20)
    history.begin("line", "B2", 20)
    assert at(history, "line", 9, 10, 19, 20, 21, OPEN) == ["", "B1", "B1", "B2", "B2", "B2"]


def test_assets_below_are_covered_and_the_most_specific_wins() -> None:
    history = History()
    history.begin("site/line", "L", 10)
    reactor = history.begin("site/line/reactor", "R", 12)
    history.end(reactor.number, 14)
    assert at(history, "site/line/reactor/jacket", 11, 12, 13, 14) == ["L", "R", "R", "L"]
    assert at(history, "site/line", 13) == ["L"]
    assert at(history, "site/line2", 13) == at(history, "site", 13) == [""]
    history.begin("", "ALL", 0)
    assert at(history, "other", 5) == at(history, "site/line2", 5) == ["ALL"]


def test_of_several_that_run_the_one_that_started_last_wins() -> None:
    history = History()
    old = history.begin("a", "old", 10)
    new = history.begin("a", "new", 20)
    assert [frame.id for frame in history.running("a")] == ["new", "old"]
    history.end(new.number, 30)
    assert at(history, "a", 15, 25, 30) == ["old", "new", "old"]
    history.end(old.number, 40, "abort", "tripped")
    assert (old.state, old.reason, at(history, "a", 40)) == (State.ABORTED, "tripped", [""])


def test_what_is_told_afterwards_changes_answers_and_says_which() -> None:
    history = History()
    one = history.begin("a", "one", 10)
    history.end(one.number, 30)
    taken(history)
    two = history.begin("a", "two", 20)
    assert taken(history) == [Change("a", 20, 30, 1, 2), Change("a", 30, OPEN, 0, 2)]
    history.end(two.number, 25)
    assert taken(history) == [Change("a", 25, 30, 2, 1), Change("a", 30, OPEN, 2, 0)]
    history.move(one.number, end=22)
    assert taken(history) == [Change("a", 25, 30, 1, 0)]
    history.move(one.number, start=5)
    assert taken(history) == [Change("a", 5, 10, 0, 1)]
    history.delete(two.number)
    assert taken(history) == [Change("a", 20, 22, 2, 1), Change("a", 22, 25, 2, 0)]
    assert history.known("a", "two") is None


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", ["end", "abort", "abandon"])
def test_a_frame_ends_once(state: State, event: str) -> None:
    history = History()
    frame = history.begin("a", "x", 10)
    ways = {after: way for (_, way), after in AFTER.items()}
    if state is not State.RUNNING:
        history.end(frame.number, 20, ways[state])
    if (state, event) in AFTER:
        assert history.end(frame.number, 30, event).state is AFTER[state, event]
    else:
        with pytest.raises(ContextError, match=f"that is {state.value} cannot {event}"):
            history.end(frame.number, 30, event)
        assert frame.end == 20


def test_what_there_is_not_is_told() -> None:
    history = History()
    for refused in (
        lambda: history.end(1, 5),
        lambda: history.delete(1),
        lambda: history.move(1),
        lambda: history.frame(0),
        lambda: history.phase(1, "x", 1),
    ):
        with pytest.raises(ContextError, match="no frame"):
            refused()
    frame = history.begin("a", "x", 10)
    with pytest.raises(ContextError, match="running has no end"):
        history.move(frame.number, end=20)
    history.end(frame.number, 20)
    with pytest.raises(ContextError, match="complete cannot have another phase"):
        history.phase(frame.number, "late", 15)


def test_phases_follow_one_another_inside_their_frame() -> None:
    history = History()
    frame = history.begin("a", "x", 10)
    times = np.array([5, 10, 12, 15, 19, 20, 30], dtype=np.int64)
    assert history.phases_at(frame.number, times).tolist() == [-1] * 7
    history.phase(frame.number, "heat", 12)
    history.phase(frame.number, "react", 15)
    history.phase(frame.number, "early", 14)  # no earlier than the one before began
    history.end(frame.number, 20)
    assert [(one.name, one.start, one.end) for one in frame.phases] == [
        ("heat", 12, 15),
        ("react", 15, 15),
        ("early", 15, 20),
    ]
    assert history.phases_at(frame.number, times).tolist() == [-1, -1, 0, 2, 2, -1, -1]


def test_phases_are_bounded() -> None:
    history = History()
    frame = history.begin("a", "x", 0)
    assert [history.phase(frame.number, "p", i) for i in range(MOST_PHASES + 1)] == [True] * MOST_PHASES + [False]
    assert history.refused_phases == 1


def test_old_frames_are_forgotten_and_counted() -> None:
    history = History()
    day = 86_400 * 10**9
    for number in range(100):
        history.end(history.begin("a", str(number), number * day).number, number * day + 5)
    # those that were over for 30 days at day 99, looked for about once a day
    assert 60 <= history.forgotten <= 69
    assert at(history, "a", 99 * day, 75 * day, 10 * day) == ["99", "75", ""]
    for number in range(MOST_FRAMES + 5):
        history.end(history.begin("b", str(number), number).number, number + 1)
    assert len(history) <= MOST_FRAMES + 41
    assert at(history, "b", 5, MOST_FRAMES + 4) == ["", str(MOST_FRAMES + 4)]


def test_saved_nonsense_is_refused() -> None:
    for saved in ({}, {"next": 1, "forgotten": 0, "refused_phases": 0, "frames": [[1]]}, {"frames": 5}):
        with pytest.raises(ContextError):
            History().load(saved)


# --- against a brute-force list ---


@dataclass
class Plain:
    number: int
    asset: str
    start: int
    end: int | None = None


ASSETS = ("", "a", "a/b", "a/b/c", "d")
TIMES = range(-1, 32)


def winner(frames: list[Plain], asset: str, time: int) -> int:
    """By looking at every frame."""
    fitting = [
        (len(one.asset.split("/")) if one.asset else 0, one.start, one.number)
        for one in frames
        if (one.asset in ("", asset) or asset.startswith(one.asset + "/"))
        and one.start <= time
        and (one.end is None or time < one.end)
    ]
    return max(fitting)[2] if fitting else 0


def everywhere(frames: list[Plain]) -> dict[tuple[str, int], int]:
    return {(asset, time): winner(frames, asset, time) for asset in ASSETS for time in TIMES}


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(ASSETS), st.integers(0, 30)),
        st.tuples(st.just("end"), st.integers(0, 7), st.integers(0, 30)),
        st.tuples(st.just("start"), st.integers(0, 7), st.integers(0, 30)),
        st.tuples(st.just("delete"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("reload"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_lookup_and_changes_agree_with_a_look_at_every_frame(operations: list[tuple[str, Any, int]]) -> None:
    history, plain = History(), list[Plain]()
    for what, which, time in operations:
        alone = {asset: [one for one in plain if one.asset == asset] for asset in ASSETS}
        before = {(asset, instant): winner(alone[asset], asset, instant) for asset in ASSETS for instant in TIMES}
        if what == "begin":
            plain.append(Plain(history.begin(which, "id", time).number, which, time))
        elif what == "reload":
            saved = orjson.loads(orjson.dumps(history.save()))
            history = History()
            history.load(saved)
            assert history.save() == saved
        elif plain:
            one = plain[which % len(plain)]
            if what == "delete":
                history.delete(one.number)
                plain.remove(one)
            elif what == "start":
                history.move(one.number, start=time)
                one.start, one.end = time, one.end if one.end is None else max(one.end, time)
            elif one.end is None:
                history.end(one.number, time)
                one.end = max(time, one.start)
            else:
                history.move(one.number, end=time)
                one.end = max(time, one.start)
        found = {
            (asset, instant): number
            for asset in ASSETS
            for instant, number in zip(TIMES, history.at(asset, np.array(TIMES, dtype=np.int64)).tolist(), strict=True)
        }
        assert found == everywhere(plain)
        told = dict(before)
        for change in taken(history):
            assert change.start < change.end
            for instant in TIMES:
                if change.start <= instant < change.end:
                    assert told[change.asset, instant] == change.before
                    told[change.asset, instant] = change.after
        alone = {asset: [one for one in plain if one.asset == asset] for asset in ASSETS}
        assert told == {(asset, instant): winner(alone[asset], asset, instant) for asset in ASSETS for instant in TIMES}
