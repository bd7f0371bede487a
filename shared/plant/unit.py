"""One unit of the plant: steps through a recorded run and says what it would report, row by row. No clock, no I/O.

    normal operation --fault(n)--> row FAULT_ROW of run n, onwards, again and again --fault(0)--> normal operation

Units differ in where they stand in the run (`offset`) and in when their product analyser is calibrated. During a
calibration the analyser's five values are out of service (bad, null), and after it they are uncertain until it has
settled: so qualities flow as well as values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from plant import tennessee
from plant.tags import UNIT_WIDTH

Value = float | int | bool | str | None

GOOD = 0
UNCERTAIN_SENSOR_NOT_ACCURATE = 0x40930000
BAD_OUT_OF_SERVICE = 0x808D0000

CALIBRATION_PERIOD = 100
CALIBRATION_ROWS = 4
SETTLING_ROWS = 6

_PRODUCT = tuple(i for i, v in enumerate(tennessee.VARIABLES) if "_Product" in v.name and v.area == "Analysers")
_ALL_GOOD = (GOOD,) * UNIT_WIDTH


@dataclass(frozen=True, slots=True)
class Reading:
    """What a unit reports in one row: all its values and status codes, and the columns in which something is new."""

    values: tuple[Value, ...]
    statuses: tuple[int, ...]
    changed: tuple[int, ...]


@lru_cache(maxsize=8)
def _rows(number: int, folder: Path | None) -> tuple[tuple[float, ...], ...]:
    # Plain floats, made once: every unit and every pass through the run shares them.
    return tuple(tuple(row) for row in tennessee.load(number, folder=folder).tolist())


class Unit:
    """A copy of the process, standing `offset` rows into the run of normal operation."""

    def __init__(self, offset: int = 0, *, folder: Path | None = None) -> None:
        self._folder = folder
        self._offset = offset
        self._row = 0
        self._fault = 0
        self._run = _rows(0, folder)
        self._position = offset % len(self._run)
        self._last: Reading | None = None

    @property
    def fault(self) -> int:
        """Number of the fault at work; 0 is normal operation."""
        return self._fault

    def set_fault(self, number: int) -> None:
        """Let a fault set in with the next row, or end it (0). Raises tennessee.DataError for an unknown one."""
        self._run = _rows(number, self._folder)
        self._fault = number
        self._position = tennessee.FAULT_ROW if number else (self._offset + self._row) % len(self._run)

    def step(self) -> Reading:
        """Produce the next row."""
        self._row += 1
        process = self._run[self._position]
        self._position += 1
        if self._position == len(self._run):
            self._position = tennessee.FAULT_ROW if self._fault else 0
        # Half a period ahead, so that the first unit is not calibrated while the plant starts.
        phase = (self._row + self._offset + CALIBRATION_PERIOD // 2) % CALIBRATION_PERIOD
        if phase < CALIBRATION_ROWS:
            return self._report(process, f"{self._name} (calibration)", BAD_OUT_OF_SERVICE)
        if phase < CALIBRATION_ROWS + SETTLING_ROWS:
            return self._report(process, self._name, UNCERTAIN_SENSOR_NOT_ACCURATE)
        return self._report(process, self._name, GOOD)

    def stop(self) -> Reading:
        """The closing row: the process is left as it stands."""
        self._row += 1
        last = self._last
        process = last.values[: len(tennessee.VARIABLES)] if last else self._run[self._position]
        statuses = last.statuses if last else _ALL_GOOD
        return self._reading((*process, self._row, False, "stopped"), statuses)

    @property
    def _name(self) -> str:
        return f"fault {self._fault}" if self._fault else "normal operation"

    def _report(self, process: tuple[float, ...], phase: str, analyser: int) -> Reading:
        values: list[Value] = [*process, self._row, True, phase]
        if analyser == GOOD:
            return self._reading(tuple(values), _ALL_GOOD)
        statuses = list(_ALL_GOOD)
        for column in _PRODUCT:
            statuses[column] = analyser
            if analyser >> 30 >= 2:
                values[column] = None
        return self._reading(tuple(values), tuple(statuses))

    def _reading(self, values: tuple[Value, ...], statuses: tuple[int, ...]) -> Reading:
        last = self._last
        if last is None:
            changed = tuple(range(len(values)))
        else:
            before, before_statuses = last.values, last.statuses
            changed = tuple(
                i for i in range(len(values)) if values[i] != before[i] or statuses[i] != before_statuses[i]
            )
        self._last = Reading(values, statuses, changed)
        return self._last


def samples_per_row(*, folder: Path | None = None) -> float:
    """Mean number of samples that a unit reports in a row of normal operation: what repeats is not reported again."""
    run = tennessee.load(0, folder=folder)
    return float((run[1:] != run[:-1]).sum(axis=1).mean()) + 1  # and the row number


__all__ = [
    "BAD_OUT_OF_SERVICE",
    "GOOD",
    "UNCERTAIN_SENSOR_NOT_ACCURATE",
    "Reading",
    "Unit",
    "Value",
    "samples_per_row",
]
