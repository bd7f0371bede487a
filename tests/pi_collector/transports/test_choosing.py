"""Which transport is in use, when a better one is tried, and what a failure says of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.transports.choosing import (
    FIRST_DENIAL,
    IN_A_ROW,
    LONGEST_DENIAL,
    LONGEST_PAUSE,
    QUICK,
    WELL,
    Choice,
    Reason,
    Way,
    failed,
)
from pi_collector.web.answers import refusal
from pi_collector.web.errors import CredentialsError, MalformedError, ThrottledError, UnreachableError


def choice(transport: str = "auto") -> Choice:
    return Choice(transport, spread=lambda: 1.0)  # type: ignore[arg-type]


def test_the_best_way_comes_first() -> None:
    assert choice().way is Way.CHANNEL
    assert choice("updates").way is Way.UPDATES
    assert choice("poll").way is Way.POLL


def test_what_cannot_be_had_makes_way_for_the_next_at_once() -> None:
    one = choice()
    one.failed(Way.CHANNEL, Reason.CANNOT, "no upgrade", 100.0)
    assert (one.way, one.pause(100.0)) == (Way.UPDATES, 0.0)
    one.failed(Way.UPDATES, Reason.CANNOT, "too old", 101.0)
    assert (one.way, one.pause(101.0)) == (Way.POLL, 0.0)
    assert one.held_against() == "channel: no upgrade; updates: too old"


def test_a_loss_is_mended_after_a_growing_pause_and_three_in_a_row_are_as_good_as_a_refusal() -> None:
    one, now = choice(), 100.0
    pauses = []
    while one.way is Way.CHANNEL:
        one.had(Way.CHANNEL, now)
        one.failed(Way.CHANNEL, Reason.LOSS, "RST", now + 1)
        now += 1
        pauses.append(one.pause(now))
        now += pauses[-1]
    assert pauses == pytest.approx([0.2, 1.0, 0.0])
    assert len(pauses) == IN_A_ROW


def test_a_way_that_lived_is_not_given_up_for_losing_it_now_and_then() -> None:
    one, now = choice(), 100.0
    for _ in range(20):
        one.had(Way.CHANNEL, now)
        now += QUICK
        one.failed(Way.CHANNEL, Reason.LOSS, "1001", now)
        assert one.way is Way.CHANNEL
        assert one.pause(now) == pytest.approx(0.2)
        now += 1


def test_a_server_that_is_away_says_nothing_of_the_way() -> None:
    one, now = choice(), 100.0
    for _ in range(20):
        one.failed(Way.CHANNEL, Reason.AWAY, "no address answers", now)
        assert one.way is Way.CHANNEL
        now += one.pause(now)
    assert one.pause(now - 1) <= LONGEST_PAUSE * 1.001


def test_a_better_way_is_tried_after_1_2_4_and_at_last_every_30_minutes() -> None:
    one, now = choice(), 0.0
    one.failed(Way.CHANNEL, Reason.CANNOT, "no", now)
    one.had(Way.UPDATES, now)
    waited = []
    for _ in range(7):
        at = one.next_trial()
        assert one.trial(at - 0.1) is None
        assert one.trial(at) is Way.CHANNEL
        waited.append(at - now)
        now = at
        one.failed(Way.CHANNEL, Reason.LOSS, "no", now)
        assert one.way is Way.UPDATES, "a trial that fails costs nothing of what works"
    assert waited == [FIRST_DENIAL, 120.0, 240.0, 480.0, 960.0, LONGEST_DENIAL, LONGEST_DENIAL]


def test_a_trial_that_succeeds_is_in_use_and_forgiven_once_it_has_lived() -> None:
    one = choice()
    one.failed(Way.CHANNEL, Reason.CANNOT, "no", 0.0)
    one.had(Way.CHANNEL, 60.0)
    assert one.way is Way.CHANNEL
    assert one.held_against() == ""
    one.lives(Way.CHANNEL, 60.0 + WELL)
    one.failed(Way.CHANNEL, Reason.CANNOT, "no", 200.0)
    assert one.next_trial() == 200.0 + FIRST_DENIAL


@pytest.mark.parametrize("transport", ["channel", "updates", "poll"])
@given(reasons=st.lists(st.sampled_from(Reason), max_size=40))
def test_a_fixed_transport_is_never_left(transport: str, reasons: list[Reason]) -> None:
    one, now = choice(transport), 0.0
    way = one.way
    for reason in reasons:
        one.failed(way, reason, "no", now)
        assert one.way is way
        assert one.trial(now + 1e9) is None
        assert 0 < one.pause(now) <= LONGEST_PAUSE * 1.001
        now += one.pause(now)


def test_a_server_that_wants_to_be_left_alone_is() -> None:
    one = choice()
    one.failed(Way.CHANNEL, Reason.LOSS, "429", 0.0, after=17.0)
    assert one.pause(0.0) == 17.0


def test_another_setting_keeps_what_was_learnt() -> None:
    one = choice()
    one.failed(Way.CHANNEL, Reason.CANNOT, "no", 0.0)
    one.fix("poll")
    assert (one.way, one.allows(Way.UPDATES)) == (Way.POLL, False)
    one.fix("auto")
    assert (one.way, one.allows(Way.UPDATES)) == (Way.UPDATES, True)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["had", "loss", "cannot", "away", "wait"]), st.floats(0.0, 2000.0)), max_size=60
)


@given(EVENTS)
def test_whatever_happens_there_is_a_way_and_every_better_one_is_tried_within_half_an_hour(
    events: list[tuple[str, float]],
) -> None:
    one, now = choice(), 0.0
    for event, seconds in events:
        way = one.trial(now) or one.way
        if event == "had":
            one.had(way, now)
        elif event != "wait":
            one.failed(way, Reason(event), event, now)
        now += seconds
        assert one.way in Way
        assert one.pause(now) <= LONGEST_PAUSE * 1.001
        if one.way is not Way.CHANNEL:
            assert one.next_trial() <= now + LONGEST_DENIAL * 1.001
            assert one.held_against()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreachableError("nobody"), Reason.AWAY),
        (CredentialsError("user.password", "no", "mend it"), Reason.AWAY),
        (refusal(401, ()), Reason.AWAY),
        (refusal(200, ()), Reason.CANNOT),
        (refusal(302, ()), Reason.CANNOT),
        (refusal(405, ()), Reason.CANNOT),
        (refusal(426, ()), Reason.CANNOT),
        (refusal(501, ()), Reason.CANNOT),
        (refusal(400, ("The protocol of the request is not supported.",)), Reason.CANNOT),
        (MalformedError("a page"), Reason.CANNOT),
        (refusal(404, ()), Reason.LOSS),
        (refusal(503, ()), Reason.LOSS),
        (ConnectionResetError(104, "reset"), Reason.LOSS),
        (asyncio.TimeoutError(), Reason.LOSS),
    ],
)
def test_what_a_failure_says_of_its_way(error: Exception, reason: Reason) -> None:
    assert failed(error).reason is reason  # type: ignore[arg-type]


def test_of_some_failures_the_streams_may_be_the_reason() -> None:
    assert failed(refusal(404, ("Unknown WebId.",))).suspects
    assert failed(refusal(403, ())).suspects
    assert not failed(refusal(503, ())).suspects
    assert failed(refusal(414, ())).too_large
    assert failed(ThrottledError((), "slow", "", 7.0)).after == 7.0
