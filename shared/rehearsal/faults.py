"""What can go wrong, each as one small function with its counterpart, which runs however the fault ends.

A fault that lasts undoes itself after its seconds, and at once when it is cancelled: healing everything is cancelling
every fault that is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from localcore import Core
from localcore.process import Component
from plant import PiProcess
from plant.line import Line
from rehearsal.crashes import Crashes
from rehearsal.schedule import PI_FAULTS, Act

FULL_DISK = 8192
"""Bytes beyond which no file of a component grows while its disk is full."""
_UNTIL_HEALED = 1_000_000
"""Requests that fail, where the endpoints count and do not time."""
_START_LIMIT = 60.0
"""Seconds that a fault waits for what it is to befall."""


class FaultError(RuntimeError):
    """A fault could not be brought about; the text says what was not there."""


class Faults:
    """Brings acts about, side by side, and counts those that were.

    lines: the collectors' ways to their plants, by kind of source. pi: the PI Web API among these. on_begin: told each
    act as it begins.
    """

    def __init__(
        self,
        core: Core,
        lines: Mapping[str, Line],
        crashes: Crashes,
        *,
        pi: PiProcess | None = None,
        on_begin: Callable[[Act], None] = lambda act: None,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.acts: list[dict[str, Any]] = []
        """What was done, with the wall-clock time of its begin and end in ns: what a sample's fate is compared with."""
        self.discarded: list[Mapping[str, Any]] = []
        """What each power cut took with it."""
        self.core = core
        self.lines = lines
        self.pi = pi
        self.crashes = crashes
        self._on_begin = on_begin
        self._under_way: dict[asyncio.Task[None], Act] = {}
        self._stream_manager = asyncio.Lock()

    def begin(self, act: Act) -> None:
        """Let an act happen from now on."""
        task = asyncio.create_task(self._bring_about(act))
        self._under_way[task] = act
        task.add_done_callback(self._under_way.pop)

    def under_way(self) -> list[Act]:
        """The acts that are not over."""
        return list(self._under_way.values())

    async def over(self) -> None:
        """Wait until every fault that is under way is over."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    async def heal(self) -> None:
        """End every fault now."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _bring_about(self, act: Act) -> None:
        self._on_begin(act)
        told = {**act.as_dict(), "begun_ns": time.time_ns()}
        self.acts.append(told)
        try:
            await ACTIONS[act.action](self, **act.arguments)
            self.done[act.action] += 1
        except asyncio.CancelledError:
            self.failed.append(f"{act}: ended before its time")
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the other faults go on and the report tells it
            self.failed.append(f"{act}: {type(error).__name__}: {error}")
        finally:
            told["ended_ns"] = time.time_ns()

    # --- components -------------------------------------------------------------------------------------------------

    async def kill(self, component: str, armed: list[str]) -> None:
        """SIGKILL; the counterpart is the nucleus's restart."""
        await self.crashes.kill(component, armed)

    async def stall(self, component: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT."""
        process = await self._running(component)
        process.stall()
        try:
            await asyncio.sleep(seconds)
        finally:
            process.resume()

    async def disk_full(self, component: str, seconds: float) -> None:
        """No file of the component's grows; then it may again."""
        process = await self._running(component)
        process.limit_file_size(FULL_DISK)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.limit_file_size(None)

    async def _running(self, name: str) -> Component:
        await _until(lambda: self.core.component(name).pid is not None, f"{name} does not run")
        return self.core.component(name)

    # --- power, stream manager --------------------------------------------------------------------------------------

    async def power_cut(self, seconds: float) -> None:
        """Everything on the device dies and loses what was not flushed; then it boots."""
        async with self._stream_manager, self.crashes.deploying:
            with self.crashes.held():
                self.discarded.append(await self.core.power_cut())
                self.crashes.load()
                try:
                    await asyncio.sleep(seconds)
                finally:
                    await self.core.boot()
                    self.crashes.load()

    async def stream_manager_away(self, seconds: float) -> None:
        """SIGKILL to the stream manager, and its start."""
        async with self._stream_manager:
            with self.crashes.held():
                await self.core.stream_manager.kill()
                try:
                    await asyncio.sleep(seconds)
                finally:
                    await self.core.stream_manager.start()

    async def replies_lost(self, operation: str, count: int) -> None:
        """Requests are carried out and never answered: so many."""
        await self._stream_manager_fault("lose_reply", operation=operation, count=count, accept=True)

    async def replies_split(self, count: int, pause: float) -> None:
        """Replies come in two pieces: so many."""
        await self._stream_manager_fault("split", count=count, seconds=pause)

    async def replies_delayed(self, count: int, pause: float) -> None:
        """Replies come late: so many."""
        await self._stream_manager_fault("delay", count=count, seconds=pause)

    async def connections_reset(self, count: int, accept: bool) -> None:
        """Connections are reset instead of a reply, the request carried out or not: so many."""
        await self._stream_manager_fault("rst", count=count, accept=accept)

    async def _stream_manager_fault(self, kind: str, **arguments: Any) -> None:
        async with self._stream_manager:
            await self.core.stream_manager.fault(kind, **arguments)

    # --- the local bus ----------------------------------------------------------------------------------------------

    async def ipc_restart(self) -> None:
        """IPC goes away and comes back, every connection lost."""
        async with self.crashes.deploying:
            await self.core.ipc.restart()

    async def ipc_replies_withheld(self, operation: str, count: int) -> None:
        """Operations are carried out and never answered: so many."""
        self.core.ipc.faults.withheld[operation] += count

    # --- the plant --------------------------------------------------------------------------------------------------

    async def line_cut(self, plant: str) -> None:
        """The collector's connections are reset; new ones work."""
        await self.lines[plant].cut()

    async def line_blackhole(self, plant: str, seconds: float) -> None:
        """Nothing passes and nobody is told; then it goes on."""
        self.lines[plant].blackhole(True)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.lines[plant].blackhole(False)

    async def line_slow(self, plant: str, seconds: float, delay: float) -> None:
        """Everything takes longer; then it does not."""
        self.lines[plant].delay(delay)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.lines[plant].delay(0.0)

    async def line_refused(self, plant: str, seconds: float) -> None:
        """The plant resets what is connected and refuses what connects; then it accepts."""
        self.lines[plant].refuse(True)
        try:
            await self.lines[plant].cut()
            await asyncio.sleep(seconds)
        finally:
            self.lines[plant].refuse(False)

    async def pi_fault(self, kind: str, seconds: float) -> None:
        """Something of the PI Web API does not work; then it does."""
        if self.pi is None:
            raise FaultError("there is no PI Web API")
        await self.pi.fault(kind, **PI_FAULTS[kind])
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.pi.heal(kind)

    async def pi_restart(self) -> None:
        """The PI Web API knows no marker and no channel any more."""
        if self.pi is None:
            raise FaultError("there is no PI Web API")
        await self.pi.fault("restart")

    # --- the cloud --------------------------------------------------------------------------------------------------

    async def endpoint_unavailable(self, service: str, seconds: float) -> None:
        """A service answers 503; then it works."""
        await self._endpoint_fault(service, "unavailable", seconds)

    async def sitewise_throttled(self, kind: str, seconds: float) -> None:
        """SiteWise refuses requests, or their entries, for being too many; then it takes them."""
        await self._endpoint_fault("iotsitewise", kind, seconds)

    async def _endpoint_fault(self, service: str, kind: str, seconds: float) -> None:
        await self.core.aws.fault(service, kind, _UNTIL_HEALED)
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.core.aws.fault(service, kind, 0)


ACTIONS: Final[Mapping[str, Callable[..., Awaitable[None]]]] = {
    action.__name__: action
    for action in (
        Faults.kill,
        Faults.stall,
        Faults.disk_full,
        Faults.power_cut,
        Faults.stream_manager_away,
        Faults.replies_lost,
        Faults.replies_split,
        Faults.replies_delayed,
        Faults.connections_reset,
        Faults.ipc_restart,
        Faults.ipc_replies_withheld,
        Faults.line_cut,
        Faults.line_blackhole,
        Faults.line_slow,
        Faults.line_refused,
        Faults.pi_fault,
        Faults.pi_restart,
        Faults.endpoint_unavailable,
        Faults.sitewise_throttled,
    )
}
"""By the name that a schedule calls it."""


async def _until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"{problem}, and did not for {_START_LIMIT:.0f} s")
        await asyncio.sleep(0.02)
