"""A piece is read page by page: every value of it once, and never a time called complete that is not."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pi_collector.coverage.paging import Paging
from pi_collector.coverage.pieces import Ask, Kind, Piece

from .archives import SECOND, RefusedError, Row, Server, handles, rows_of, ticks, timed


def piece(starts: dict[int, int], stop: int) -> Piece:
    return Piece(Kind.GAP, handles(*starts), np.array(list(starts.values()), np.int64), stop)


def read(paging: Paging, server: Server, *, most_questions: int = 5_000, **odd: Any) -> list[Row]:
    """All of it; after each answer what is called complete must have been handed on."""
    shuffle: random.Random | None = odd.get("shuffle")
    foreign: list[Row] = odd.get("foreign", [])
    order: str = odd.get("order", "ascending")
    starts = dict(zip(paging.piece.streams.tolist(), paging.piece.start.tolist(), strict=True))
    got: list[Row] = []
    under_way: list[Ask] = []
    for _ in range(most_questions):
        while (ask := paging.ask()) is not None:
            taken = {int(handle) for other in under_way for handle in other.streams}
            assert not taken & set(ask.streams.tolist()), "a stream is asked for twice at a time"
            under_way.append(ask)
            if shuffle is None or shuffle.random() < 0.5:
                break
        if not under_way:
            assert paging.done
            return got
        ask = under_way.pop(shuffle.randrange(len(under_way)) if shuffle else 0)
        try:
            found, sent = server.recorded(ask)
        except RefusedError:
            paging.too_much(ask)
            continue
        if order == "descending":
            found.reverse()
        found = found + foreign
        if shuffle and order == "any":
            shuffle.shuffle(found)
        answer = timed(found)
        paged = paging.answered(ask, answer, sent)
        got += rows_of(answer.take(paged.rows))
        have = Counter(got)
        for stream, upto in zip(ask.streams.tolist(), paged.upto.tolist(), strict=True):
            assert upto <= paging.piece.stop or upto == starts[stream] - 1
            if stream in paging.stuck:
                continue
            complete = Counter(row for row in server.rows if row[0] == stream and starts[stream] <= row[1] <= upto)
            assert not complete - have, f"{stream} is not complete up to {upto}"
    raise AssertionError(f"not read after {most_questions} questions: {paging.window=} {paging.most=}")


def wanted(server: Server, starts: dict[int, int], stop: int) -> Counter[Row]:
    return Counter(row for row in server.rows if row[0] in starts and starts[row[0]] <= row[1] <= stop)


archives = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 60).map(lambda second: second * SECOND // 7 * 7), st.integers(0, 2)),
    max_size=120,
).map(lambda rows: [(stream, time // 100 * 100, value) for stream, time, value in rows])
places = st.dictionaries(st.integers(0, 6), st.integers(0, 50).map(lambda second: second * SECOND), min_size=1)


@given(archives, places, st.integers(1, 200), st.integers(1, 100), st.randoms(use_true_random=False))
def test_every_value_is_handed_on_once_however_answers_are_cut_off(
    rows: list[Row], starts: dict[int, int], limit: int, window: int, chance: random.Random
) -> None:
    server, stop = Server(rows, limit), 55 * SECOND
    paging = Paging(piece(starts, stop), most=150, window=window * SECOND)
    got = Counter(read(paging, server, shuffle=chance))
    missing = wanted(server, starts, stop) - got
    assert not got - wanted(server, starts, stop), "invented, or handed on twice"
    stuck = {(stream, time) for stream, times in paging.stuck.items() for time in times}
    assert {row[:2] for row in missing} <= stuck
    # A time is given up only when no allowed question can hold all its values.
    for stream, time in stuck:
        assert sum(row[:2] == (stream, time) for row in rows) >= min(limit, 150) // 2


@given(
    archives, places, st.integers(60, 200), st.sampled_from(["descending", "any"]), st.randoms(use_true_random=False)
)
def test_the_order_of_an_answer_does_not_matter(
    rows: list[Row], starts: dict[int, int], most: int, order: str, chance: random.Random
) -> None:
    server, stop = Server(rows), 55 * SECOND
    paging = Paging(piece(starts, stop), most=most)
    got = Counter(read(paging, server, shuffle=chance, order=order))
    missing = wanted(server, starts, stop) - got
    assert not got - wanted(server, starts, stop)
    assert {row[:2] for row in missing} <= {(stream, time) for stream, ts in paging.stuck.items() for time in ts}


@given(archives, places)
def test_rows_that_were_not_asked_for_are_dropped_and_counted(rows: list[Row], starts: dict[int, int]) -> None:
    server, stop = Server(rows), 55 * SECOND
    foreign = [(99, SECOND, 7), (min(starts), 56 * SECOND, 7), (min(starts), -SECOND, 7)]
    paging = Paging(piece(starts, stop), most=150_000)
    got = Counter(read(paging, server, foreign=foreign))
    assert got == wanted(server, starts, stop)
    assert paging.outside >= 3


def test_a_page_that_is_full_goes_on_at_its_last_time() -> None:
    rows = [(0, SECOND * second, second) for second in range(1, 11)]
    paging = Paging(piece({0: 0}, 20 * SECOND), most=4)
    first = paging.ask()
    assert first is not None
    assert first.max_count == 4
    found, sent = Server(rows).recorded(first)
    paged = paging.answered(first, timed(found), sent)
    assert paged.rows.tolist() == [True, True, True, False]
    assert paged.upto.tolist() == [4 * SECOND - 1]
    then = paging.ask()
    assert then is not None
    assert then.start == 4 * SECOND


def test_several_values_of_one_time_at_the_end_of_a_page_come_together_on_the_next() -> None:
    rows = [(0, SECOND, 1), (0, SECOND, 2), (0, 2 * SECOND, 1), (0, 2 * SECOND, 2), (0, 2 * SECOND, 2)]
    paging = Paging(piece({0: 0}, 9 * SECOND), most=4)
    assert Counter(read(paging, Server(rows))) == Counter(rows)
    assert not paging.stuck


def test_one_time_with_more_values_than_a_page_has_its_page_doubled() -> None:
    rows = [(0, SECOND, value) for value in range(700)] + [(1, SECOND, 1)]
    paging = Paging(piece({0: 0, 1: 0}, 9 * SECOND), most=1000)
    paging.most = 1000
    assert Counter(read(paging, Server(rows))) == Counter(rows)


def test_one_time_with_more_values_than_the_server_gives_is_passed_by_and_told() -> None:
    rows = [(0, SECOND, value) for value in range(700)] + [(0, 2 * SECOND, 1)]
    paging = Paging(piece({0: 0}, 9 * SECOND), most=500)
    got = read(paging, Server(rows))
    assert paging.stuck == {0: [SECOND]}
    assert len(got) == 501


def test_a_server_that_calls_it_too_much_is_asked_for_less() -> None:
    rows = [(stream, ticks(t), t) for stream in range(20) for t in range(50)]
    paging = Paging(piece(dict.fromkeys(range(20), 0), ticks(1000)), most=150_000)
    assert Counter(read(paging, Server(rows, limit=500))) == Counter(rows)
    assert paging.most <= 500


def test_a_server_that_refuses_one_value_fails_the_streams_and_ends_the_piece() -> None:
    paging = Paging(piece({0: 0, 1: 0}, SECOND), most=4)
    assert read(paging, Server([], limit=0)) == []
    assert set(paging.failures) == {0, 1}


def test_a_stream_that_fails_does_not_hold_the_others() -> None:
    paging = Paging(piece({0: 0, 1: 0}, 9 * SECOND), most=100)
    ask = paging.ask()
    assert ask is not None
    paging.failed(ask, handles(0), "PI Point not found.")
    paged = paging.answered(ask, timed([(0, SECOND, 1), (1, SECOND, 1)]), np.array([1, 1]))
    assert paged.rows.tolist() == [False, True]
    assert paged.upto.tolist() == [-1, 9 * SECOND]
    assert paging.done
    assert paging.failures == {0: "PI Point not found."}


def test_a_question_that_fails_altogether_is_not_under_way_any_more() -> None:
    paging = Paging(piece({0: 0, 1: 0}, 9 * SECOND), most=100)
    ask = paging.ask()
    assert ask is not None
    assert paging.ask() is None
    assert not paging.done
    paging.failed(ask, ask.streams, "cut off")
    assert paging.done


@pytest.mark.parametrize("per_second", [0.001, 1.0, 500.0])
def test_the_window_follows_the_density_of_values(per_second: float) -> None:
    day = 86400 * SECOND
    paging = Paging(piece(dict.fromkeys(range(100), 0), 7 * day), most=150_000)
    answers = []
    for _ in range(60):
        ask = paging.ask()
        if ask is None:
            break
        seconds = (ask.stop - ask.start) / SECOND
        sent = min(int(seconds * per_second / 100 + 0.5), ask.max_count)
        each = np.linspace(ask.start, ask.stop, max(sent, 1)).astype(np.int64)[:sent] // 100 * 100
        rows = [(stream, int(time), 1) for stream in ask.streams.tolist() for time in each]
        paging.answered(ask, timed(rows), np.full(len(ask.streams), sent))
        answers.append(len(rows))
    settled = answers[8:-1]
    assert all(15_000 <= values <= 60_000 for values in settled), settled
    if per_second < 0.01:
        assert len(answers) < 15, "a week without values is read in a few questions"


def test_a_stream_that_is_far_denser_than_the_others_goes_on_by_itself() -> None:
    rows = [(0, ticks(t), 1) for t in range(3000)] + [(s, ticks(10_000 * s), 1) for s in range(1, 50)]
    server = Server(rows)
    paging = Paging(piece(dict.fromkeys(range(50), 0), ticks(1_000_000)), most=5_000)
    questions = 0
    got: list[Row] = []
    while (ask := paging.ask()) is not None:
        found, sent = server.recorded(ask)
        paged = paging.answered(ask, timed(found), sent)
        got += rows_of(timed(found).take(paged.rows))
        questions += 1
    assert Counter(got) == Counter(rows)
    assert questions <= 4, "the dense one alone needs a second question"
