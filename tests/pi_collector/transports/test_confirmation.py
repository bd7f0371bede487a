"""What the messages of a channel prove is never later than what was truly sent, whatever the line and the server do."""

from __future__ import annotations

import bisect
import heapq
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_collector.transports.confirmation import MOST, OFTEN, Confirmation, Watch

HEARTBEAT = None


def asked(proof: Confirmation, lower: int, now: float) -> bytes:
    payload = proof.ask(lower, now, 10.0)
    assert payload is not None
    return payload


def test_the_second_message_after_a_pong_proves_the_time_of_the_ping() -> None:
    proof = Confirmation(0.0)
    ping = asked(proof, 1000, 1.0)
    assert not proof.message(HEARTBEAT, 2.0), "before the pong nothing counts"
    proof.pong(ping, 3.0)
    assert not proof.message("a", 4.0), "its look may have been before the ping came"
    assert proof.proven == -1
    assert proof.message("b", 5.0)
    assert proof.proven == 1000
    assert proof.unproven(8.0) == 3.0


def test_the_same_message_again_is_no_look_of_its_own() -> None:
    proof = Confirmation(0.0)
    proof.pong(asked(proof, 1000, 1.0), 1.0)
    proof.message("a", 2.0)
    assert not proof.message("a", 2.0)
    assert proof.message("b", 3.0)


def test_heartbeats_are_looks_however_alike_they_are() -> None:
    proof = Confirmation(0.0)
    proof.pong(asked(proof, 1000, 1.0), 1.0)
    proof.message(HEARTBEAT, 2.0)
    assert proof.message(HEARTBEAT, 3.0)


def test_pongs_that_nobody_asked_for_prove_nothing() -> None:
    proof = Confirmation(0.0)
    asked(proof, 1000, 1.0)
    for payload in (b"", b"1", b"sluice-2", b"sluice-x", b"sluice--1", b"sluice-" + b"9" * 40):
        proof.pong(payload, 2.0)
        proof.message("a" + repr(payload), 3.0)
        assert not proof.message("b" + repr(payload), 3.0)


def test_pings_are_bounded_and_sent_when_they_would_tell_something_new_or_for_the_line() -> None:
    proof = Confirmation(0.0)
    assert proof.ask(1000, 0.0, 10.0)
    assert proof.ask(1001, OFTEN / 2, 10.0) is None, "too soon"
    assert proof.ask(1000, 5.0, 10.0) is None, "nothing new"
    assert proof.ask(1000, 10.0, 10.0), "for the line"
    now = 10.0
    for number in range(2 * MOST):
        now += 1.0
        proof.ask(2000 + number, now, 1e9)
    assert len(proof._open) == MOST


@dataclass
class Run:
    """One life of a channel, drawn: every number is server time."""

    values: list[int]
    """When values reach the server, sorted."""
    looks: list[tuple[int, int, bool]]
    """Of each look: how long after the last message it begins, how long it takes until it has sent, whether it sends
    its message twice."""
    pings: list[int]
    """When we ask, as far as we may."""
    up: list[int]
    """How long the line takes to the server, in turn."""
    down: list[int]
    """The same to us."""


short = st.integers(0, 6)
runs = st.builds(
    Run,
    st.lists(st.integers(0, 120), max_size=40).map(sorted),
    st.lists(st.tuples(st.integers(0, 4), short, st.booleans()), min_size=4, max_size=25),
    st.lists(st.integers(0, 100), min_size=3, max_size=30, unique=True).map(sorted),
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
)


def played(run: Run, proof: Confirmation) -> int:
    """Plays it: checks each proof against what was truly sent; gives the last proof.

    What is proven, D, must mean that every value that was there at D was in a message that we have.
    """
    events: list[tuple[int, int, str, Any]] = []
    order = itertools.count()
    up, down = itertools.cycle(run.up), itertools.cycle(run.down)
    at_server = at_us = 0  # nothing overtakes on the line

    def later(at: int, what: str, content: Any) -> None:
        heapq.heappush(events, (at, next(order), what, content))

    for at in run.pings:
        later(at, "ask", None)
    time = 0
    for number, (pause, takes, twice) in enumerate(run.looks):
        time += pause
        later(time, "look", None)
        time += takes
        later(time, "send", (number, twice))
        time += 1
    there = sent = received = 0  # values: taken by a look, sent, had by us
    while events:
        now, _, what, content = heapq.heappop(events)
        if what == "ask":
            if (payload := proof.ask(now, now, 0.0)) is not None:
                at_server = max(at_server, now + next(up))
                later(at_server, "ping", payload)
        elif what == "ping":
            at_us = max(at_us, now + next(down))
            later(at_us, "pong", content)
        elif what == "pong":
            proof.pong(content, now)
        elif what == "look":
            there = bisect.bisect_right(run.values, now)
        elif what == "send":
            number, twice = content
            text = f"frame {number}" if there > sent else None
            sent = there
            for _ in range(2 if twice and text else 1):
                at_us = max(at_us, now + next(down))
                later(at_us, "message", (text, sent))
        else:
            text, upto = content
            received = upto
            proof.message(text, now)
            missing = [at for at in run.values[received:] if at <= proof.proven]
            assert not missing, f"proven up to {proof.proven}, and what was there at {missing} was not sent"
    return proof.proven


@given(runs)
@settings(max_examples=400)
def test_nothing_is_confirmed_that_was_not_sent(run: Run) -> None:
    played(run, Confirmation(0.0))


def test_a_quick_line_proves_everything_but_the_last_two_looks() -> None:
    looks = [(4, 1, False)] * 20
    assert played(Run([3, 50, 51], looks, list(range(110)), [0], [0]), Confirmation(0.0)) >= 100


# --- whether it lives ---


def test_silence_is_judged_by_the_heartbeats_that_came() -> None:
    watch = Watch(1.0, 0.0)
    now = 0.0
    for _ in range(5):
        now += 4.0
        watch.heard(now)
        assert watch.look(now, 4.0) == ""
        watch.message(now, empty=True)
    assert watch.cadence == 4.0
    for _ in range(12):
        now += 1.0
        watch.heard(now)  # pongs
        assert watch.look(now, 1.0) == "", "three times as long is allowed"
    now += 1.0
    watch.heard(now)
    assert "sent nothing for 13 s, after heartbeats every 4.0 s" in watch.look(now, 1.0)


def test_a_server_without_heartbeats_may_say_nothing_as_long_as_it_answers_pings() -> None:
    watch, now = Watch(10.0, 0.0), 0.0
    watch.message(1.0, empty=False)
    for _ in range(600):
        now += 1.0
        watch.heard(now)
        assert watch.look(now, 1.0) == ""


def test_without_any_sign_the_line_is_half_open_after_three_heartbeats() -> None:
    watch, now = Watch(10.0, 0.0), 0.0
    for _ in range(30):
        now += 1.0
        assert watch.look(now, 1.0) == ""
    assert "half-open" in watch.look(31.0, 1.0)


@pytest.mark.parametrize("late", [5.0, 100.0])
def test_what_we_were_late_ourselves_is_nobody_s_silence(late: float) -> None:
    watch = Watch(10.0, 0.0)
    watch.message(1.0, empty=True)
    watch.look(1.0, 1.0)
    assert watch.look(2.0 + late, 1.0) == ""
    watch.excuse(50.0, 60.0 + late)
    assert watch.look(60.0 + late, 58.0) == ""
