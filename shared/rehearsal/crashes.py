"""Kills, crash points and redeployments, and what became of them: judged from outside, by the components' processes.

A component that is to die at a crash point carries it from its next start on (`Component.crash_at`). The point was hit
when the process then died of SIGKILL and nobody here had sent one. A point that is not hit within its time is told,
put behind the others that are wanted, and tried again at its first passage.

    event                                what follows
    -----------------------------------  ----------------------------------------------------------------------
    a kill is due                        wait until the component runs; SIGKILL
    it died while a point was armed,     hit: the next point that is wanted goes with its next start
      and nobody killed it
    it died otherwise                    the same point goes with its next start
    it runs, armed, for LIMIT seconds    missed: behind the others, and SIGKILL, so that it carries the next
    it runs, not armed, for a while,     SIGKILL, so that it carries it
      although a point is wanted
    it is BROKEN                         an operator notices after a second, and redeploys; counted

Times in which the component cannot get anywhere (no power, no stream manager) do not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from localcore import Core
from localcore.process import Component

LIMIT = 25.0
"""Seconds of running in which a point must be hit."""
UNARMED_LIMIT = 5.0
OPERATOR = 1.0
"""Seconds until somebody sees that a component is BROKEN."""
KILL_LIMIT = 60.0
"""Seconds that a kill waits for the component to run."""
_TICK = 0.2
_OF_SIGKILL = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit status of a run script whose process died of SIGKILL: of itself, or as its shell tells it."""


class CrashError(RuntimeError):
    """A component could not be killed as planned; the text says in what state it is."""


@dataclass(slots=True)
class _Life:
    """What is known of one component."""

    wanted: deque[str] = field(default_factory=deque)
    """Points to die at, the next first; the first is the one that is loaded or armed."""
    loaded: str = ""
    """The point that its next start is to carry."""
    armed: str = ""
    """The point that the present process carries."""
    killed: bool = False
    """Somebody here killed the present process."""
    process: Component | None = None
    deaths: int = 0
    """Of `process`."""
    patience: float = LIMIT


class Crashes:
    """Kills components, arms their crash points, redeploys what is BROKEN, and counts.

    core: whose components. names: which of them. on_death: called with the component's name at each death. limit:
    seconds of running in which a point must be hit.
    """

    def __init__(
        self,
        core: Core,
        names: Sequence[str],
        *,
        on_death: Callable[[str], None] = lambda name: None,
        limit: float = LIMIT,
    ) -> None:
        self.hits: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        """SIGKILLs that the schedule asked for, by component."""
        self.arming_kills: Counter[str] = Counter()
        """SIGKILLs for no other reason than to let a component carry a crash point."""
        self.redeployments: Counter[str] = Counter()
        self.exits: list[dict[str, Any]] = []
        """Ends that nobody asked for."""
        self.deploying = asyncio.Lock()
        """Held by whoever starts or stops components."""
        self._core = core
        self._on_death = on_death
        self._limit = limit
        self._lives = {name: _Life() for name in names}
        self._held = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Crashes:
        self._tasks = [asyncio.create_task(self._watch(name)) for name in self._lives]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def check(self) -> None:
        """Raises what ended the watch over a component, if anything did."""
        for task in self._tasks:
            if task.done():
                task.result()

    def wanted(self) -> dict[str, list[str]]:
        """The points that are still to be hit, by component."""
        return {name: list(life.wanted) for name, life in self._lives.items() if life.wanted}

    def give_up(self) -> None:
        """Want no further points; one that is armed stays so until its process ends."""
        for name, life in self._lives.items():
            life.wanted.clear()
            life.loaded = ""
            self._core.component(name).crash_at = ""

    async def kill(self, name: str, armed: Sequence[str] = ()) -> None:
        """SIGKILL to a component as soon as it runs; it comes back with the points armed, one after another.

        Raises CrashError when it does not run in time.
        """
        deadline = time.monotonic() + KILL_LIMIT
        while self._core.component(name).pid is None:
            if time.monotonic() > deadline:
                component = self._core.component(name)
                raise CrashError(f"{name} is {component.state} and could not be killed; see {component.log_path}")
            await asyncio.sleep(0.02)
        self._lives[name].wanted.extend(armed)
        self.kills[name] += 1
        self._kill(name)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts no time counts against a point."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def load(self) -> None:
        """Let every component that does not run carry, with its next start, the point that is wanted next."""
        for name in self._lives:
            if self._core.component(name).pid is None:
                self._load(name)

    def _kill(self, name: str) -> None:
        self._lives[name].killed = True
        self._load(name)
        self._core.component(name).kill()

    def _load(self, name: str) -> None:
        life = self._lives[name]
        life.loaded = life.wanted[0] if life.wanted else ""
        self._core.component(name).crash_at = life.loaded

    async def _watch(self, name: str) -> None:
        before = time.monotonic()
        while True:
            component = self._core.component(name)
            changed = asyncio.ensure_future(component.changed())
            self._look(name, component)
            if component.state == "BROKEN":
                await self._redeploy(name)
            await asyncio.wait({changed}, timeout=_TICK)
            changed.cancel()
            before, passed = time.monotonic(), time.monotonic() - before
            if component.pid is not None and not self._held:
                self._wait_for_point(name, passed)

    def _look(self, name: str, component: Component) -> None:
        life = self._lives[name]
        if component is not life.process:
            life.process, life.deaths = component, 0
            life.armed = ""
        deaths = component.restarts + (component.state in ("ERRORED", "BROKEN"))
        if deaths > life.deaths:
            life.deaths = deaths
            self._died(name, component)
        if component.state == "RUNNING":
            if life.loaded and not component.crash_at:
                life.armed, life.loaded = life.loaded, ""
                life.patience = self._limit
        elif component.state == "INSTALLED":  # no power, or a redeployment: whatever it carried is gone
            life.armed, life.killed = "", False
            if life.wanted:
                self._load(name)

    def _died(self, name: str, component: Component) -> None:
        life = self._lives[name]
        if life.armed and not life.killed and component.ended in _OF_SIGKILL:
            self.hits[life.armed.partition(":")[0]] += 1
            with contextlib.suppress(ValueError):
                life.wanted.remove(life.armed)
        elif not life.killed:
            lines = component.log_tail().splitlines()
            self.exits.append({"component": name, "status": component.ended, "log": lines[-1] if lines else ""})
        life.armed, life.killed = "", False
        life.patience = UNARMED_LIMIT
        self._load(name)
        self._on_death(name)

    def _wait_for_point(self, name: str, passed: float) -> None:
        life = self._lives[name]
        if not life.wanted:
            return
        life.patience -= passed
        if life.patience > 0:
            return
        if life.armed:
            point = life.armed.partition(":")[0]
            self.missed[point] += 1
            life.wanted.remove(life.armed)
            life.wanted.append(f"{point}:1")
        life.patience = UNARMED_LIMIT
        self.arming_kills[name] += 1
        self._kill(name)

    async def _redeploy(self, name: str) -> None:
        await asyncio.sleep(OPERATOR)
        async with self.deploying:
            if self._core.component(name).state == "BROKEN":
                await self._core.redeploy()
                self.redeployments[name] += 1
                self._load(name)
