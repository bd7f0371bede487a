"""Where streams stood a while ago: in bounded memory, however long and however many."""

from __future__ import annotations

from stream_exporter.trail import CRUMBS, MAX_TRAILS, Trail

LINE = ("opcua-collector/line1", "9f2c51aa07be")


def test_a_stream_is_remembered_as_it_stood_a_lag_ago() -> None:
    trail = Trail(60.0)
    for second in range(100):
        trail.note(LINE, second, float(second))
    assert trail.stood(LINE, 99.0) == 39
    assert trail.stood(LINE, 110.0) == 50


def test_before_a_stream_was_heard_of_for_so_long_nothing_is_passed_over() -> None:
    trail = Trail(60.0)
    trail.note(LINE, 7, 10.0)
    assert trail.stood(LINE, 69.0) == 0
    assert trail.stood(("opcua-collector/line2", "9f2c51aa07be"), 10.0) == 0


def test_crumbs_do_not_add_up_while_nobody_asks() -> None:
    trail = Trail(60.0)
    for second in range(10_000):
        trail.note(LINE, second, float(second))
    assert len(trail) <= CRUMBS + 1


def test_epochs_that_are_silent_for_longest_are_forgotten_when_there_are_too_many() -> None:
    trail = Trail(10.0)
    trail.note(LINE, 1, 0.0)
    for number in range(MAX_TRAILS + 100):
        trail.note((f"opcua-collector/l{number}", "9f2c51aa07be"), 5, number / 1000)
        trail.note(LINE, number, number / 1000)
    assert len(trail) <= MAX_TRAILS + CRUMBS
    assert trail.stood(("opcua-collector/l0", "9f2c51aa07be"), 20.0) == 0
    assert trail.stood(LINE, 20.0) > 0
