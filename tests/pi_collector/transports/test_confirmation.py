"""What the messages of a channel prove is never later than what was truly sent, whatever the line and the server do."""

from __future__ import annotations

import pytest
from hypothesis import given
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


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What the server, the line and we do, in any order: each with how much server time passes before."""
    kinds = ["value", "look", "empty look", "twice", "ping", "to server", "pong", "to us"]
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5)), max_size=120))


@given(lives())
def test_nothing_is_confirmed_that_was_not_sent(steps: list[tuple[str, int]]) -> None:
    """A model of the server: looks take what is there, then send; both ways of the line are queues with any delay.

    What is proven, D, must mean: every value that was there at D has been handed to us.
    """
    clock, now = 1, 0.0
    proof = Confirmation(0.0)
    arrived: list[int] = []  # times at which values reached the server, in order
    looked = 0  # values that a look has taken and not yet sent
    frame: str | None = None  # of the look under way
    frames = 0
    to_server: list[bytes] = []
    heard: list[bytes] = []  # pings that the server has read and not yet answered
    to_us: list[tuple[str, object, int]] = []
    received = 0
    for kind, passes in steps:
        clock += passes
        now += 1.0
        if kind == "value":
            arrived.append(clock)
        elif kind in ("look", "empty look"):
            # A look begins only when the one before has been sent: two steps, between which anything may happen.
            if frame is None:
                looked, frame = len(arrived), "under way"
            else:
                frames += 1
                before = max((entry[2] for entry in to_us), default=received)
                if looked > before:
                    to_us.append(("message", f"frame {frames}", looked))
                elif kind == "empty look":
                    to_us.append(("message", None, looked))
                frame = None
        elif kind == "twice" and to_us and to_us[-1][1] is not None and to_us[-1][0] == "message":
            to_us.append(to_us[-1])
        elif kind == "ping" and (payload := proof.ask(clock, now, 0.0)) is not None:
            to_server.append(payload)
        elif kind == "to server" and to_server:
            heard.append(to_server.pop(0))
        elif kind == "pong" and heard:
            to_us.append(("pong", heard.pop(0), received if not to_us else to_us[-1][2]))
        elif kind == "to us" and to_us:
            what, content, sent = to_us.pop(0)
            if what == "pong":
                assert isinstance(content, bytes)
                proof.pong(content, now)
            else:
                received = max(received, sent)
                assert content is None or isinstance(content, str)
                proof.message(content, now)
                missing = [at for at in arrived[received:] if at <= proof.proven]
                assert not missing, f"proven up to {proof.proven}, and what was there at {missing} was not sent"


# --- whether it lives ---


def test_silence_is_judged_by_the_heartbeats_that_came() -> None:
    watch = Watch(1.0, 0.0)
    now = 0.0
    for _ in range(5):
        now += 4.0
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
