"""Silence is told from our own delays, a dead server from a subscription that ended, life from the flow of values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.subscriptions.watch import Look, Watch

STEP = 0.5
A, B = 1, 2


def awake(watch: Watch, begin: float, seconds: float) -> list[Look]:
    """Looks while nothing comes, and our loop is on time."""
    return [watch.look(begin + STEP * step, STEP) for step in range(1, round(seconds / STEP) + 1)]


def following(limit: float = 10.0, flow: float = float("inf")) -> Watch:
    watch = Watch(0.0)
    watch.follow(A, limit, 0.0, flow)
    watch.asked(0.0)
    return watch


def test_a_server_that_says_nothing_is_dead_when_its_deadline_is_over() -> None:
    watch = following()
    assert not any(look.dead or look.silent for look in awake(watch, 0.0, 10.0))
    assert awake(watch, 10.0, 1.0)[-1].dead


def test_a_subscription_beyond_its_deadline_is_silent_alone_when_the_server_has_answered() -> None:
    watch = following()
    watch.follow(B, 60.0, 0.0)
    awake(watch, 0.0, 8.0)
    watch.heard(B, 8.0)
    assert awake(watch, 8.0, 3.0)[-1] == Look(silent=(A,))
    assert awake(watch, 11.0, 10.0)[-1].dead, "and it has not said anything since for as long"


def test_each_subscription_has_its_own_deadline() -> None:
    watch = following(limit=1000.0)
    watch.follow(B, 5.0, 0.0)
    watch.answered(4.0)
    assert awake(watch, 0.0, 6.0)[-1] == Look(silent=(B,))
    watch.leave(B)
    assert awake(watch, 6.0, 100.0)[-1] == Look()


@given(st.lists(st.tuples(st.floats(0, 300), st.booleans()), max_size=30))
def test_a_busy_loop_is_never_taken_for_a_silent_server(delays: list[tuple[float, bool]]) -> None:
    """The server speaks every 4 s of the time in which we could hear it; its limit is 10 s."""
    watch = following()
    now, heard_for = 0.0, 0.0
    for delay, _ in delays * 3:
        now += STEP + delay
        heard_for += STEP + min(delay, STEP)
        look = watch.look(now, STEP)
        assert not look.dead
        assert not look.silent
        if heard_for >= 4.0:
            watch.heard(A, now)
            heard_for = 0.0


@given(st.floats(0, 600), st.floats(0, 600))
def test_a_time_in_which_nothing_was_asked_is_no_silence(before: float, idle: float) -> None:
    watch = following(limit=700.0)
    watch.look(before, before)
    watch.idle(before)
    watch.look(before + idle, idle)
    watch.asked(before + idle)
    assert watch.look(before + idle, STEP) == Look()
    assert watch.ages(A, before + idle)[0] <= before + 1e-6


def test_a_server_that_takes_one_request_only_is_watched_all_the_same() -> None:
    """Between its answer and our next request nothing is asked; that must not begin its deadline anew."""
    watch = following(limit=10.0, flow=30.0)
    now = 0.0
    for _ in range(40):
        now += 1.0
        watch.look(now, 1.0)
        watch.idle(now)
        watch.heard(A, now)
        watch.asked(now + 0.01)
    assert watch.look(now + 0.01, 0.01).still == (A,)


def test_what_answers_and_brings_nothing_stands_still() -> None:
    watch = following(limit=10.0, flow=30.0)
    for second in range(1, 30):
        watch.heard(A, float(second))
        assert watch.look(float(second), 1.0) == Look()
    watch.heard(A, 31.0)
    assert watch.look(31.0, 2.0).still == (A,)
    watch.heard(A, 32.0, data=True)
    assert watch.look(32.0, 1.0) == Look()


def test_the_longest_delay_of_the_last_minute_is_shown() -> None:
    watch = Watch(0.0)
    now = 0.0
    for lag in (0.0, 3.0, 1.0, 0.0):
        now += STEP + lag
        watch.look(now, STEP)
    assert watch.lag(now) == 3.0
    assert watch.lag(now + 58.5) == 1.0
    assert watch.lag(now + 100.0) == 0.0


def test_a_server_without_subscriptions_is_dead_when_it_answers_nothing_for_long() -> None:
    watch = Watch(0.0)
    watch.asked(0.0)
    watch.answered(10.0)
    assert not awake(watch, 0.0, 45.0)[-1].dead
    assert awake(watch, 45.0, 10.0)[-1].dead
