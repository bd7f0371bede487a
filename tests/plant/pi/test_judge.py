"""The judge of a PI collector: whatever is missing, invented, doubled or untold is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plant.pi.judge import Arrived, judge
from plant.pi.truth import GOOD, QUESTIONABLE, Sample, Truth

T0 = 1_795_313_720_000_000_000
SECOND = 1_000_000_000


def sample(second: int, value: float | str | None = 1.5, flags: int = GOOD, state: int | None = None) -> Sample:
    return Sample(7, T0 + second * SECOND, value, flags, state)


def arrived(second: int, value: Any = 1.5, quality: str = "GOOD", status: int | str = 0) -> Arrived:
    return Arrived("U1.A", T0 + second * SECOND, value, quality, status)


def gap(state: str, identity: str = "g1", **more: Any) -> dict[str, Any]:
    span = {"from_ns": T0, "to_ns": T0 + 10 * SECOND, "cause": "cut", "tags": ["U1.A"], "unrecoverable": "snapshots"}
    return {"kind": "gap", "id": identity, "state": state, **span, **more}


class Plant:
    """A log with one point, and what was delivered of it."""

    def __init__(self, folder: Path, kind: str = "Float64") -> None:
        self.path = folder / "truth.log"
        self._log = Truth(self.path)
        self._log.point(7, "U1.A", kind)

    def reached(self, *samples: Sample, at: int | None = None) -> None:
        for one in samples:
            self._log.note(one.time_ns if at is None else T0 + at * SECOND, [(one, "Add")])

    def frame(self, *samples: Sample, read: bool = True) -> None:
        number = self._log.frame("c", [(one, "Add") for one in samples])
        if read:
            self._log.read(samples[-1].time_ns, number)

    def killed(self, second: int) -> None:
        self._log.fault(T0 + second * SECOND, "killed", {})

    def archived(self, *samples: Sample) -> None:
        self._log.archive(7, samples)
        self._log.end()

    def verdict(self, delivered: Sequence[Arrived], gaps: Sequence[dict[str, Any]] = (), **options: Any) -> Any:
        return judge(self.path, delivered, gaps, **options)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_what_the_archive_and_the_frames_had_and_nothing_else_passes(plant: Plant) -> None:
    plant.reached(sample(1), sample(2), sample(3))
    plant.frame(sample(1), sample(2))
    plant.archived(sample(1), sample(3))
    assert plant.verdict([arrived(3), arrived(1), arrived(2)]).passed


@pytest.mark.parametrize(
    ("delivered", "count"),
    [
        ([arrived(1), arrived(2)], "archive_missing"),
        ([arrived(1), arrived(3)], "frames_missing"),
        ([arrived(1), arrived(2), arrived(3), arrived(4)], "invented"),
        ([arrived(1), arrived(2), arrived(3), arrived(3)], "doubled"),
        ([arrived(1), arrived(2), arrived(3), arrived(1, 2.5)], "invented"),
        ([arrived(1), arrived(2), arrived(3, quality="BAD")], "archive_missing"),
    ],
)
def test_one_value_too_few_or_too_many_is_found(plant: Plant, delivered: list[Arrived], count: str) -> None:
    plant.reached(sample(1), sample(2), sample(3))
    plant.frame(sample(1), sample(2))
    plant.archived(sample(1), sample(3))
    verdict = plant.verdict(delivered)
    assert not verdict.passed
    assert getattr(verdict, count) == 1


def test_a_frame_that_nobody_read_need_not_have_arrived_when_a_gap_says_so(plant: Plant) -> None:
    plant.reached(sample(1), sample(2))
    plant.frame(sample(2), read=False)
    plant.archived(sample(1))
    assert plant.verdict([arrived(1)]).unlisted == 1
    told = plant.verdict([arrived(1)], [gap("opened"), gap("filled")])
    assert (told.listed, told.unlisted, told.passed) == (1, 0, True)
    assert plant.verdict([arrived(1)], promised=()).passed  # a polled point: its archive alone is promised


def test_a_gap_of_another_tag_or_of_another_time_tells_nothing(plant: Plant) -> None:
    plant.reached(sample(1), sample(20))
    plant.archived(sample(1))
    others: tuple[dict[str, Any], ...] = ({"tags": ["U1.B"]}, {})
    for other in others:
        assert plant.verdict([arrived(1)], [gap("opened", **other), gap("filled", **other)]).unlisted == 1
    everything: dict[str, Any] = {"all": True, "to_ns": T0 + 30 * SECOND}
    assert plant.verdict([arrived(1)], [gap("opened", **everything), gap("filled", **everything)]).passed


def test_equal_values_of_one_time_are_counted(plant: Plant) -> None:
    plant.reached(sample(1), sample(1))
    plant.archived(sample(1), sample(1))
    assert plant.verdict([arrived(1)]).archive_missing == 1
    assert plant.verdict([arrived(1), arrived(1)]).passed
    assert plant.verdict([arrived(1)] * 3).doubled == 1


@pytest.mark.parametrize(
    "events",
    [
        [gap("opened")],
        [gap("filled")],
        [gap("opened"), gap("filled"), gap("abandoned")],
        [gap("opened", cause=""), gap("filled", cause="")],
    ],
)
def test_gaps_that_do_not_add_up_are_a_problem(plant: Plant, events: list[dict[str, Any]]) -> None:
    plant.reached(sample(1))
    plant.archived(sample(1))
    assert not plant.verdict([arrived(1)], events).passed


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (sample(1, None, GOOD, 246), arrived(1, None, "BAD", "246 I/O Timeout")),
        (sample(1, None, GOOD, 252), arrived(1, None, "UNCERTAIN", "252 Over Range")),
        (sample(1, 2.0, GOOD | QUESTIONABLE), arrived(1, 2.0, "UNCERTAIN", "questionable")),
        (sample(1, 2.0, 0), arrived(1, 2.0, "BAD")),
        (sample(1, float("nan")), arrived(1, None, "BAD", "nan")),
    ],
)
def test_qualities_follow_from_flags_and_states(plant: Plant, one: Sample, expected: Arrived) -> None:
    plant.reached(one)
    plant.archived(one)
    verdict = plant.verdict([expected])
    assert verdict.passed, verdict.problems


def test_what_is_no_measurement_is_not_missed(plant: Plant) -> None:
    plant.reached(sample(1, None, GOOD, 253), sample(2))
    plant.archived(sample(1, None, GOOD, 253), sample(2))
    assert plant.verdict([arrived(2)]).passed


def test_what_a_killed_process_had_read_may_be_gone_in_a_gap_that_is_told(plant: Plant) -> None:
    plant.reached(sample(1), sample(2))
    plant.frame(sample(2))
    plant.killed(4)
    plant.archived(sample(1))
    told = [gap("opened"), gap("filled")]
    assert plant.verdict([arrived(1)], told).frames_missing == 1
    assert plant.verdict([arrived(1)], told, unsaved_ns=2 * SECOND).passed
    assert plant.verdict([arrived(1)], unsaved_ns=2 * SECOND).frames_missing == 1
    assert plant.verdict([arrived(1)], told, unsaved_ns=SECOND).frames_missing == 1  # it had the time to store it


def test_nobody_who_was_not_killed_is_excused(plant: Plant) -> None:
    plant.reached(sample(1), sample(2))
    plant.frame(sample(2))
    plant.archived(sample(1))
    verdict = plant.verdict([arrived(1)], [gap("opened"), gap("filled")], unsaved_ns=100 * SECOND)
    assert (verdict.frames_missing, verdict.passed) == (1, False)


def test_a_gap_that_does_not_say_that_values_are_lost_excuses_none(plant: Plant) -> None:
    plant.reached(sample(1), sample(2))
    plant.archived(sample(1))
    told = [gap("opened", unrecoverable=""), gap("filled", unrecoverable="")]
    assert plant.verdict([arrived(1)], told).unlisted == 1


def test_a_late_value_is_lost_when_it_arrives_and_not_at_the_time_that_it_bears(plant: Plant) -> None:
    plant.reached(sample(1), sample(30))
    plant.reached(sample(2), at=30)  # it came to PI late, and was overwritten before it was read
    plant.archived(sample(1), sample(30))
    assert plant.verdict([arrived(1), arrived(30)], [gap("opened"), gap("filled")]).unlisted == 1


def test_how_much_had_to_be_delivered_whatever_the_gaps_is_counted(plant: Plant) -> None:
    plant.reached(sample(1), sample(20), sample(21))
    plant.archived(sample(1), sample(20), sample(21))
    verdict = plant.verdict([arrived(1), arrived(20), arrived(21)], [gap("opened"), gap("filled")])
    assert (verdict.outside, verdict.passed) == (2, True)
