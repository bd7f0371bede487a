"""A flow as it runs: a reader of the inlet, a task that makes its turns, and what is done when a turn fails.

What happens in a turn is decided in `work`; here is only what needs an outlet, a clock and a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from preprocessor import checkpoints
from preprocessor.problems import FlowProblems
from preprocessor.work import FAILURES, Attempt, Build, Commit, Cursors, Identity, Work
from sluice import crash
from sluice.batch import EventBatch, SampleBatch
from sluice.config import Problem
from sluice.database import DatabaseError
from sluice.delivery import Consumer, Gap
from sluice.outlets import Outlet
from sluice.retry import Backoff
from sluice.status import Connection
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

_SECOND: Final = 1_000_000_000
_UNDER_WAY: Final = 4
"""Commits that are under way to the disk while further turns are made."""
_MOST_SUSPECTS: Final = 100_000
_LOOK: Final = 0.5  # seconds between looks at an outbox that is full
_KEEPS: Final = "the flow keeps running as it was"


class Flow:
    """One flow: a reader of the inlet with an outlet. None of the reader's calls ever waits or raises.

    build: makes the pipeline of a definition. Make it, `configure` it, `start` it.
    """

    def __init__(
        self,
        name: str,
        outlet: Outlet,
        build: Build,
        problems: FlowProblems,
        *,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.moved: Callable[[], None] = lambda: None
        """Called when there is room again, or more is acknowledged."""
        self.failures = 0
        self._outlet = outlet
        self._build = build
        self._problems = problems
        self._wall = wall
        self._monotonic = monotonic
        self._connection = Connection("starting")
        self._wanted: Mapping[str, Any] | None = None
        self._work: Work | None = None
        self._held = checkpoints.read(outlet.positions())
        self._begins = True  # what is in memory is not to be used: there is nothing, or it is broken
        self.consumer: Consumer = Cursors({}, lambda stream: False, lambda *number: False, lambda key, number: None)
        """The cursors: of no stream, until it is known what it takes."""
        self._suspects: dict[Identity, int] = {}
        self._broken_records: dict[int, int] = {}
        self._change_failures = 0
        self._under_way: deque[tuple[asyncio.Future[None], Commit]] = deque()
        self._backoff = Backoff(1.0, 60.0)
        self._wake = asyncio.Event()
        self._stopping = False
        self._was_full = False
        self._task: asyncio.Task[None] | None = None
        outlet.recoverable = True

    # --- the reader ---

    def has_room(self) -> bool:
        """Whether a batch may come. A full outbox keeps nobody from what only rebuilds the state and gives nothing,
        nor from what our own flows gave: that stands in the same outbox, which has no room until it is processed."""
        work = self._work
        if work is None or self._begins or not work.has_room():
            return False
        return work.rebuilding or work.takes_ours or not self._outlet.full

    def take(self, batch: SampleBatch | EventBatch) -> None:
        """A batch has come, in order."""
        work = self._work
        if work is None or self._begins:
            return
        work.tick(self._monotonic())
        idle = not work.waiting
        work.take(batch)
        if idle or work.enough or work.rebuilding:
            self._wake.set()

    def missed(self, gap: Gap) -> None:
        """Batches will never come."""
        if self._work is not None and not self._begins:
            self._work.tick(self._monotonic())
            self._work.missed(gap)
            self._wake.set()

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """Up to which number it may be deleted upstream; a flow that cannot run keeps what it has not processed."""
        if self._work is not None:
            return self._work.acknowledged(stream, epoch)
        number = self._held.cursors.get((stream, epoch))
        return None if number is None else number - 1

    # --- its life ---

    @property
    def work(self) -> Work | None:
        """What it is doing; None: it cannot run."""
        return self._work

    def streams(self) -> set[str]:
        """The streams that it takes, or is about to: <producer>/<source>, with * for any."""
        definitions = (self._wanted, self._held.definition, None if self._work is None else self._work.definition)
        return {
            str(one["stream"])
            for definition in definitions
            if definition is not None
            for one in definition["settings"]["inputs"].values()
        }

    def configure(self, wanted: Mapping[str, Any] | None, problems: Sequence[Problem] = ()) -> None:
        """Run by this definition; None: it is refused, for these problems, and the last good one goes on."""
        self._problems.refused(self.name, problems)
        if wanted is not None:
            self._wanted = wanted
            self._change_failures = 0
        if self._work is not None and wanted is not None:
            self._work.change(wanted)
        elif self._work is None and not self._runnable:
            self._connection.set(
                "refused", "its configuration is wrong, and it has never run", "mend what the status lists of it"
            )
        self._wake.set()

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run(), name=f"flow {self.name}")

    async def stop(self, limit: float) -> None:
        """End with a checkpoint, within `limit` seconds. What waits comes again."""
        await self._end(limit)
        if self._work is not None and not self._begins:
            commit = self._guarded(self._work.last)
            if commit is not None:
                self._submit(commit)
        await self._settle(limit / 2)

    async def remove(self, limit: float) -> None:
        """Give out what the steps hold, and forget the state. Then the outlet can be removed."""
        await self._end(limit)
        await self._settle(limit)
        positions = self._outlet.positions()
        if self._begins and self._held.definition is not None:
            self._guarded(lambda wall, monotonic: self._begin())
        work = None if self._begins else self._work
        commit = None
        if work is not None:
            commit = self._guarded(lambda wall, monotonic: work.finish(positions, wall, monotonic))
        if commit is None:
            commit = Commit(positions=dict.fromkeys(positions))
            if positions:  # it has run
                why = "the flow was removed while it could not run: what its steps held is lost"
                commit.events.append(
                    {"kind": "state-incomplete", "flow": self.name, "time_ns": self._wall(), "why": why}
                )
        self._submit(commit)
        await self._settle(limit)
        self._problems.forget(self.name)

    def status(self) -> dict[str, Any]:
        """State, how far it is, and counters."""
        details: dict[str, Any] = {"failures": self.failures} if self.failures else {}
        if self._work is not None:
            if not self._begins:
                self._note(self._work)
            details.update(self._work.status(self._monotonic()))
        return {**self._connection.as_dict(), **details}

    # --- work ---

    @property
    def _runnable(self) -> bool:
        return self._wanted is not None or self._held.definition is not None

    def _begin(self) -> None:
        """Make the work from what is stored. Raises what building it raises."""
        positions = self._outlet.positions()
        stored = self._held = checkpoints.read(positions)
        wanted = self._wanted
        if self._change_failures >= FAILURES and stored.definition is not None:
            wanted = None
        self._work = Work(
            self.name,
            self._build,
            stored,
            positions,
            wanted,
            wall=self._wall(),
            monotonic=self._monotonic(),
            suspects=self._suspects,
            hopeless=[number for number, count in self._broken_records.items() if count >= FAILURES],
        )
        self.consumer = self._work.consumer
        self._begins = False
        self._note(self._work)
        self.moved()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._make_turns()
            except Exception as error:  # noqa: BLE001, PERF203 - whatever it is, it costs this flow alone
                await self._failed(error)

    async def _make_turns(self) -> None:
        while not self._stopping:
            self._collect()
            self._look_at_room()
            if self._begins:
                if not self._runnable:
                    await self._wait(None)
                    continue
                self._begin()
            work = self._work
            assert work is not None
            pause = work.due_in(self._monotonic())
            if len(self._under_way) >= _UNDER_WAY:
                await self._wait(_LOOK)
                continue
            if pause > 0:
                await self._wait(pause / _SECOND)
                continue
            commit = work.step(self._wall(), self._monotonic())
            self._went_well(work)
            if commit is not None:
                self._submit(commit)
                self.moved()
            self._note(work)
            await asyncio.sleep(0)

    async def _wait(self, pause: float | None) -> None:
        """Until something comes or is stored, or the time is over."""
        if self._was_full:
            pause = _LOOK if pause is None else min(pause, _LOOK)
        with contextlib.suppress(asyncio.TimeoutError):
            await within(pause, self._wake.wait())
        self._wake.clear()

    def _look_at_room(self) -> None:
        full = self._outlet.full
        if self._was_full and not full:
            self.moved()
        self._was_full = full

    def _note(self, work: Work) -> None:
        """The state for the status, and what shows while running."""
        self._problems.running(self.name, work.pipeline.flow.problems)
        if work.rebuilding:
            waits = work.waits_for()
            why = "the input since the last checkpoint is gone through again"
            why += f"; it waits for {waits}" if waits else ""
            self._connection.set("rebuilding", why, "it goes on when their sources have sent it again" if waits else "")
        elif self._outlet.full and not work.takes_ours:
            remedy = "bring the consumers back that have not acknowledged it, or raise maxSize"
            self._connection.set("paused", "the outbox is full", remedy)
        else:
            self._connection.set("running")

    # --- storing ---

    def _submit(self, commit: Commit) -> None:
        done = asyncio.ensure_future(
            self._outlet.submit_turn(
                commit.live, commit.backfill, commit.events, positions=commit.positions, filtered=commit.filtered
            )
        )
        done.add_done_callback(lambda _: self._wake.set())
        self._under_way.append((done, commit))

    def _collect(self) -> None:
        """Take note of what is on the disk. Raises what kept something from it."""
        while self._under_way and self._under_way[0][0].done():
            done, commit = self._under_way.popleft()
            done.result()
            crash.point("turn-stored")
            if commit.cursors is not None:
                crash.point("checkpoint-stored")
                if self._work is not None:
                    self._work.stored(commit)
                self.moved()

    async def _settle(self, limit: float | None) -> None:
        """Wait for what is under way."""
        if self._under_way:
            await asyncio.wait([done for done, _ in self._under_way], timeout=limit)
        try:
            self._collect()
        except DatabaseError as error:
            logger.error("flows.%s: not stored, and done again after the next start: %s", self.name, error)
            self._under_way.clear()
        except Exception:  # whatever it is: the flow begins again from what is stored, and must live to do so
            logger.exception("flows.%s: not stored, and done again", self.name)
            self._under_way.clear()

    async def _end(self, limit: float) -> None:
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=limit / 2)
            await end(self._task)
            self._task = None

    def _guarded(self, call: Callable[[int, int], Commit | None]) -> Commit | None:
        """At the end: what fails then is done again after the next start, or lost with the flow."""
        try:
            return call(self._wall(), self._monotonic())
        except Exception:
            self.failures += 1
            logger.exception("flows.%s: its last turn failed", self.name)
            return None

    # --- failures ---

    async def _failed(self, error: Exception) -> None:
        """A turn failed: what is in memory is broken, and the flow begins again from what is stored, after a pause."""
        self.failures += 1
        if self._work is not None and not self._begins:
            self._blame(self._work.attempt)
        self._begins = True  # until then the broken one stands for the cursors, and takes nothing
        pause = self._backoff.next()
        logger.error("flows.%s failed, and begins again from its last checkpoint", self.name, exc_info=error)
        self._connection.set(
            "failed",
            f"a turn failed: {type(error).__name__}: {error}"[:300],
            "it is tried again from the last checkpoint; a batch that always fails is set aside",
        )
        await self._settle(None)
        deadline = self._monotonic() + round(pause * _SECOND)
        while not self._stopping and (left := deadline - self._monotonic()) > 0:
            await self._wait(left / _SECOND)

    def _blame(self, attempt: Attempt) -> None:
        """Note what was being worked on."""
        if attempt.changing:
            self._change_failures += 1
            if self._change_failures == FAILURES:
                problem = "cannot take over the state of the flow"
                self._problems.refused(
                    self.name, [Problem(f"flows.{self.name}", None, problem, "give the new flow another name", _KEEPS)]
                )
        if attempt.record:
            self._broken_records[attempt.record] = self._broken_records.get(attempt.record, 0) + 1
        for identity in attempt.batches:
            if identity in self._suspects or len(self._suspects) < _MOST_SUSPECTS:
                self._suspects[identity] = self._suspects.get(identity, 0) + 1

    def _went_well(self, work: Work) -> None:
        """The last turn did not fail: what was in it is not suspected any more."""
        for identity in work.cleared:
            self._suspects.pop(identity, None)
        work.cleared = []
        if not self._suspects and not work.rebuilding:
            self._backoff.reset()
            self._broken_records.clear()
