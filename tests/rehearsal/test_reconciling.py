"""What a rehearsal counts as doubled: by the wording of the guarantee, and in a run without faults to the letter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from plant.log import PlantLog, Value
from plant.reconciliation import Delivered
from rehearsal import Rehearsal
from rehearsal.site import EXPORTER

TAG, TIME = "Unit1/Row", 1_795_325_440_605_930_000


class Held(Rehearsal):
    """A rehearsal whose SiteWise sink holds what it is given."""

    def __init__(self, root: Path, samples: list[Delivered]) -> None:
        super().__init__(root, root)
        self.site = {
            "components": {EXPORTER: {"configurationUpdate": {"merge": {"sinks": {"site": {"type": "sitewise"}}}}}}
        }
        self._samples = samples
        assert self.plant is not None
        log = PlantLog(self.plant.log)
        log.write(TIME, {TAG: 1}, {})
        log.end()

    def deliveries(self) -> dict[str, Callable[[], Iterable[Delivered]]]:
        return {"site": lambda: iter(self._samples)}


def held(tag: str = TAG, value: Value = 1, quality: str = "GOOD") -> Delivered:
    return Delivered(tag, TIME, value, quality)


@pytest.mark.parametrize(
    ("repeat", "overwritten", "duplicated", "wrong"),
    [
        (held(), False, 1, 0),
        (held(), True, 0, 0),
        (held(value=2), True, 0, 1),  # another value for the same time is no repeat
        (held(quality="BAD"), True, 0, 1),
    ],
)
def test_the_same_value_again_overwrites_itself_where_that_is_said(
    tmp_path: Path, repeat: Delivered, overwritten: bool, duplicated: int, wrong: int
) -> None:
    found = Held(tmp_path, [held(), repeat]).reconcile(overwritten=overwritten).destinations["site"]
    assert (found.delivered, found.duplicated, found.wrong) == (1, duplicated, wrong)
    assert found.raw_repeats == (0 if wrong else 1)


async def test_draining_counts_samples_or_what_arrived(tmp_path: Path) -> None:
    rehearsal = Held(tmp_path, [held(), held()])
    assert await rehearsal.drain(1, settle=0.0) == {"site": 2}
    assert await rehearsal.drain(1, settle=0.0, repeats=False) == {"site": 1}
