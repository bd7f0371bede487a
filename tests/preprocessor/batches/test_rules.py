"""When batches begin and end: each cell of the table in `rules`, and what is saved in the middle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.batches.rules import ABORT, ID, PHASE, START, STOP, Rules, Value
from sluice.context import OPEN, History

Changes = list[tuple[int, str, Value]]


def rules(history: History, *, ids: bool = True, longest: int = 1000) -> Rules:
    return Rules("site/r1", "flow", history, ["heat", "react"], ids=ids, longest=longest)


def fed(changes: Changes, *, ids: bool = True, longest: int = 1000, now: int = 0) -> tuple[list[Any], Rules]:
    """The frames after these changes: id, start, end, state, reason, joined."""
    history = History()
    of = rules(history, ids=ids, longest=longest)
    of.feed(changes)
    of.pass_time(now)
    return frames(history), of


def frames(history: History) -> list[Any]:
    saved = history.save()["frames"]
    return [(id_, start, end, state, reason, joined) for _, _, id_, start, end, state, reason, joined, _ in saved]


OFF: Changes = [(0, START, False), (0, STOP, False), (0, ABORT, False)]


@pytest.mark.parametrize(
    ("changes", "expected", "counted"),
    [
        pytest.param(
            [(5, START, True), (5, ID, "A"), (9, STOP, True)], [("A", 5, 9, "complete", "", False)], {}, id="whole"
        ),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (9, ABORT, True)], [("A", 5, 9, "aborted", "", False)], {}, id="abort"
        ),
        pytest.param([(5, STOP, True)], [], {"stop_without_start": 1}, id="stop without start"),
        pytest.param([(5, ABORT, True)], [], {"abort_without_start": 1}, id="abort without start"),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (6, START, False), (7, START, True)],
            [("A", 5, OPEN, "running", "", False)],
            {"same_id": 1},
            id="start again, same id",
        ),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (6, START, False), (7, ID, "B"), (8, START, True)],
            [("A", 5, 8, "complete", "next-started", False), ("B", 8, OPEN, "running", "", False)],
            {},
            id="start again, another id",
        ),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (8, ID, "B")],
            [("A", 5, 8, "complete", "next-started", False), ("B", 8, OPEN, "running", "", False)],
            {},
            id="another id while start stays",
        ),
        pytest.param(
            [(5, START, True), (8, ID, "B")], [("B", 8, OPEN, "running", "", False)], {}, id="waits for its id"
        ),
        pytest.param([(5, START, True), (6, START, False), (8, ID, "B")], [], {}, id="id too late"),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (7, STOP, True), (7, START, False), (9, START, True)],
            [("A", 5, 7, "complete", "", False), ("A", 9, OPEN, "running", "", False)],
            {},
            id="an id may come back",
        ),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (6, START, None), (7, START, True)],
            [("A", 5, OPEN, "running", "", False)],
            {},
            id="unknown changes nothing",
        ),
        pytest.param(
            [(5, ID, "A"), (5, START, True), (7, STOP, True), (7, ID, "B")],
            [("A", 5, 7, "complete", "", False), ("B", 7, OPEN, "running", "", False)],
            {},
            id="what ends comes before what begins",
        ),
    ],
)
def test_what_happens(changes: Changes, expected: list[Any], counted: dict[str, int]) -> None:
    found, of = fed([*OFF, *changes])
    assert found == expected
    assert of.counters == counted


def test_a_batch_that_runs_already_is_joined() -> None:
    assert fed([(5, START, True), (5, ID, "A")])[0] == [("A", 5, OPEN, "running", "", True)]
    assert fed([(5, START, True), (7, ID, "A")])[0] == [("A", 7, OPEN, "running", "", True)]
    found, _ = fed([(5, START, True), (5, ID, "A"), (6, ID, "B")])
    assert found[1] == ("B", 6, OPEN, "running", "", False)


def test_ids_are_made_of_asset_and_start_time() -> None:
    start = 1_700_000_000_250_000_000
    found, _ = fed([(0, START, False), (start, START, True)], ids=False)
    assert found[0][0] == "site/r1@2023-11-14T22:13:20.250Z"
    found, _ = fed([(0, START, False), (start + 1, START, True)], ids=False)
    assert found[0][0] == "site/r1@2023-11-14T22:13:20.250000001Z"


def test_one_that_runs_for_too_long_is_abandoned_at_its_limit() -> None:
    begun: Changes = [*OFF, (5, ID, "A"), (5, START, True)]
    assert fed(begun, now=1004)[0] == [("A", 5, OPEN, "running", "", False)]
    assert fed(begun, now=1005)[0] == [("A", 5, 1005, "abandoned", "too-long", False)]
    found, of = fed([*begun, (2000, STOP, True)])
    assert found == [("A", 5, 1005, "abandoned", "too-long", False)]
    assert of.counters == {"stop_without_start": 1}


def test_phases_end_one_another() -> None:
    history = History()
    of = rules(history)
    heat, react = PHASE + "heat", PHASE + "react"
    of.feed([(1, heat, True), (2, react, False), *OFF, (5, ID, "A"), (5, START, True), (7, react, True)])
    of.feed([(8, heat, False), (9, heat, True), (12, STOP, True), (13, react, False), (14, react, True)])
    assert [(one.name, one.start, one.end) for one in history.frame(1).phases] == [
        ("heat", 5, 7),  # it was on already when the batch began
        ("react", 7, 9),
        ("heat", 9, 12),
    ]
    assert [(one.what, one.time) for one in of.happened] == [
        ("started", 5), ("phase", 5), ("phase", 7), ("phase", 9), ("completed", 12),
    ]  # fmt: skip


RULES = st.sampled_from([START, STOP, ABORT, PHASE + "heat", PHASE + "react"])
CHANGE = st.one_of(
    st.tuples(st.integers(0, 3), RULES, st.sampled_from([True, False, None])),
    st.tuples(st.integers(0, 3), st.just(ID), st.sampled_from(["A", "B", "", None])),
)


@given(st.lists(st.lists(CHANGE, max_size=5), max_size=12), st.integers(0, 12), st.booleans())
def test_what_is_saved_goes_on_as_if_nothing_had_been(turns: list[Changes], cut: int, ids: bool) -> None:
    def run(cut: int) -> tuple[Any, list[Any]]:
        history = History()
        of = rules(history, ids=ids, longest=7)
        told: list[Any] = []
        for number, changes in enumerate(turns):
            if number == cut:
                saved, kept = history.save(), of.save()
                history = History()
                history.load(saved)
                of = rules(history, ids=ids, longest=7)
                of.load(kept)
            of.feed([(time + 4 * number, rule, value) for time, rule, value in changes])
            of.pass_time(4 * number + 4)
            told += [(one.what, one.time, one.frame.number, one.phase and one.phase.name) for one in of.happened]
            of.happened.clear()
        return history.save(), told

    whole = run(-1)
    assert run(cut) == whole
    intervals = [(start, end) for _, _, _, start, end, _, _, _, _ in whole[0]["frames"]]
    assert all(start <= end for start, end in intervals)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(intervals))
