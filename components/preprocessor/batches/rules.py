"""When a batch of one asset begins and ends, by how its rules change.

    what happens            no batch runs                       a batch runs
    stop becomes true       counted: stop_without_start         complete
    abort becomes true      counted: abort_without_start        aborted
    start becomes true      begins                              the same id: counted, same_id; another: the one that
                                                                runs is complete, reason next-started, the new begins
    id changes,             begins                              complete, reason next-started; the new one begins
      start still true
    phase becomes true      -                                   the phase begins, the one before ends
    runs for `longest`      -                                   abandoned

A rule that is unknown (its tags are BAD, or have not come yet) stays as it was. A batch with an id rule begins only
when its id is known: while start is true and the id is not, it waits. When start is true the very first time that it is
known, the batch runs already: it begins at that time, as `joined`. Within one instant: what ends comes before what
begins, and phases come last; a phase that is true already when its batch begins, begins with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from sluice.context import Frame, History, Phase

START: Final = "start"
STOP: Final = "stop"
ABORT: Final = "abort"
ID: Final = "id"
PHASE: Final = "phase "
"""Before the name of a phase, in the name of its rule."""
LONGEST_ID: Final = 256

Value = bool | str | None


@dataclass(frozen=True, slots=True)
class Happened:
    """Something to tell: a frame is started, in another phase, or over."""

    what: str
    """started, phase, completed, aborted, abandoned."""
    time: int
    frame: Frame
    phase: Phase | None = None


class Rules:
    """The rules of one asset, as far as they are known, and what becomes of its batches in a `History`."""

    def __init__(
        self, asset: str, name: str, history: History, phases: Sequence[str], *, ids: bool, longest: int
    ) -> None:
        self.asset = asset
        self.name = name
        """Stands in ids that are made, where the asset path is empty."""
        self.phases = tuple(phases)
        self.ids = ids
        self.longest = longest
        self.counters: dict[str, int] = {}
        self.happened: list[Happened] = []
        """What is to be told; the caller empties it."""
        self._history = history
        self._known: dict[str, bool] = {}
        self._id = ""
        self._last_id = ""
        self._waits = False
        self._joined = False
        self._running = 0

    @property
    def running(self) -> Frame | None:
        """The batch that runs, as far as the history still knows it."""
        return self._history.get(self._running) if self._running else None

    def feed(self, changes: Iterable[tuple[int, str, Value]]) -> None:
        """What rules became at which times, in any order; None: unknown. Those of one instant are taken together."""
        instants: dict[int, dict[str, Value]] = {}
        for time, rule, value in changes:
            instants.setdefault(time, {})[rule] = value
        for time in sorted(instants):
            self._instant(time, instants[time])

    def pass_time(self, time: int) -> bool:
        """The clock is there: a batch that has run for too long is abandoned. Whether there was one."""
        frame = self.running
        if frame is None or time - frame.start < self.longest:
            return False
        self._over(frame, frame.start + self.longest, "abandon", "too-long")
        return True

    def give_up(self, time: int, reason: str) -> None:
        """Nobody will look at this asset any more: a batch that runs is abandoned."""
        if (frame := self.running) is not None:
            self._over(frame, time, "abandon", reason)

    def _instant(self, time: int, became: Mapping[str, Value]) -> None:
        self.pass_time(time)
        if became.get(ID):
            self._id = str(became[ID])[:LONGEST_ID]
        elif ID in became:
            self._id = ""
        rose = {rule: before for rule, value in became.items() if (before := self._rise(rule, value)) is not _STAYS}
        for rule, event in ((STOP, "end"), (ABORT, "abort")):
            if rule not in rose:
                continue
            if (frame := self.running) is not None:
                self._over(frame, time, event, "")
            elif rose[rule] is False:
                self._count(f"{rule}_without_start")
        begun = self._start(time, rose)
        if (frame := self.running) is None:
            return
        for phase in self.phases:
            rule = PHASE + phase
            if rule in rose or (begun and self._known.get(rule)):
                if self._history.phase(frame.number, phase, time):
                    self.happened.append(Happened("phase", time, frame, frame.phases[-1]))
                if begun and rule not in rose:
                    break

    def _rise(self, rule: str, value: Value) -> Any:
        """What the rule was before, when it becomes true now; else a mark. Unknown changes nothing."""
        if rule == ID or not isinstance(value, bool):
            return _STAYS
        before = self._known.get(rule)
        self._known[rule] = value
        return before if value and before is not True else _STAYS

    def _start(self, time: int, rose: Mapping[str, Any]) -> bool:
        """Whether a batch began."""
        if not self._known.get(START):
            self._waits = False
            return False
        if START in rose:
            self._joined = rose[START] is None
            self._waits = True
        elif self.ids and self._id and self._id != self._last_id:
            self._joined = self._joined and self._waits
            self._waits = True
        if not self._waits:
            return False
        id_ = self._id if self.ids else f"{self.asset or self.name}@{_written(time)}"
        if not id_:
            return False
        self._waits = False
        if (frame := self.running) is not None:
            if frame.id == id_:
                self._count("same_id")
                return False
            self._over(frame, time, "end", "next-started")
        begun = self._history.begin(self.asset, id_, time, joined=self._joined)
        self._joined = False
        self._running, self._last_id = begun.number, id_
        self.happened.append(Happened("started", time, begun))
        return True

    def _over(self, frame: Frame, time: int, event: str, reason: str) -> None:
        self._history.end(frame.number, time, event, reason)
        self._running = 0
        self.happened.append(Happened({"end": "completed"}.get(event, f"{event}ed"), frame.end, frame))

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    # --- state ---

    def save(self) -> dict[str, Any]:
        """Plain values, for `load`. What stands in `happened` and `counters` is not kept: the caller takes both."""
        return {
            "known": dict(self._known),
            "id": self._id,
            "last_id": self._last_id,
            "waits": self._waits,
            "joined": self._joined,
            "running": self._running,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """What `save` gave, the history being loaded already. Raises ValueError or KeyError for anything else."""
        running = int(saved["running"])
        if running and not self._history.frame(running).running:
            raise ValueError(f"frame {running} does not run")
        self._known = {str(rule): bool(value) for rule, value in saved["known"].items()}
        self._id, self._last_id = str(saved["id"]), str(saved["last_id"])
        self._waits, self._joined, self._running = bool(saved["waits"]), bool(saved["joined"]), running


_STAYS: Final = object()


def _written(time: int) -> str:
    """A time as it stands in an id: 2026-05-01T12:00:00.250Z. Exact to the ns where that is needed."""
    seconds, rest = divmod(time, 1_000_000_000)
    try:
        text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a year that the calendar does not have
        return f"{time}ns"
    return f"{text}.{rest // 1_000_000:03d}Z" if rest % 1_000_000 == 0 else f"{text}.{rest:09d}Z"
