"""A part of the plant that runs as a process of its own: JSON lines out for events, JSON lines in for commands."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from typing_extensions import Self

_SHARED = Path(__file__).resolve().parents[1]
_EVENTS_KEPT = 200
_LINE_LIMIT = 1 << 20
_COMPLAINT_SHOWN = 500


class PlantError(RuntimeError):
    """The plant did not do what it was told in time; the text shows what it said last."""


class PlantChild:
    """`python -m plant` with these arguments, as a child process.

    `complaints` is the file that receives its standard error. `items` and `units` are what it says that it has.
    """

    def __init__(self, arguments: Sequence[object], complaints: Path) -> None:
        self.items = 0
        self.units = 0
        self._arguments = [str(argument) for argument in arguments]
        self._errors = complaints
        self._watched = 0
        self._samples = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._count = 0
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pid(self) -> int:
        """Process id. Raises PlantError before start."""
        return self._running.pid

    async def start(self, timeout: float = 30.0) -> None:
        """Start the process and wait until its server listens."""
        environment = {**os.environ, "PYTHONPATH": str(_SHARED)}
        self._errors.parent.mkdir(parents=True, exist_ok=True)
        errors = await asyncio.to_thread(self._errors.open, "wb")
        with errors:
            self._process = await self._spawn(environment, errors)
        self._reading = asyncio.create_task(self._read())
        ready = await self.wait_event("ready", timeout)
        self.items = ready["items"]
        self.units = ready["units"]
        self._ready(ready)

    def _ready(self, event: dict[str, Any]) -> None:
        """Take over what it says when its server listens."""

    async def _spawn(self, environment: dict[str, str], errors: IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "plant",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
            limit=_LINE_LIMIT,
            # Ctrl-C is meant for whoever drives the plant: it says when production ends.
            start_new_session=True,
        )

    async def produce(self, timeout: float = 60.0) -> None:
        """Let it produce, and wait until it does: until every expected variable is watched."""
        self.send("start")
        await self.wait_event("started", timeout)

    async def finish(self, timeout: float = 30.0) -> int:
        """End production and return the number of samples produced; the server goes on serving."""
        self.send("stop")
        finished = await self.wait_event("finished", timeout)
        return int(finished["samples"])

    def samples(self) -> int:
        """Samples logged so far, as the plant last said: twice a second."""
        return self._samples

    async def counters(self, timeout: float = 10.0) -> dict[str, Any]:
        """What it counted until now: services that clients asked for, rows, samples, watched variables."""
        answer = self.answer("counters", timeout)
        self.send("counters")
        return await answer

    async def obeyed(self, command: str, **fields: Any) -> None:
        """Send a command and wait until it was accepted; raises PlantError when it is refused."""
        seen = self._count
        self.send(command, **fields)
        # Commands are obeyed in order: once the counters are answered, this one was accepted or refused.
        await self.counters()
        refused = [event for _, event in self._since(seen) if event["event"] == "refused"]
        if refused:
            raise PlantError(refused[0]["problem"])

    def set_rate(self, values_per_s: float) -> None:
        """Produce that many samples per second from now on."""
        self.send("rate", values_per_s=values_per_s)

    async def watched(self, timeout: float = 30.0, *, items: int | None = None) -> None:
        """Wait until that many variables, or more, are watched; all of them when not given."""
        wanted = self.items if items is None else items
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(lambda: self._watched >= wanted), timeout)
            except asyncio.TimeoutError:
                raise PlantError(
                    f"{self._watched} of {wanted} variables are watched after {timeout} s; last: {self._last()}"
                ) from None

    async def wait_event(self, name: str, timeout: float) -> dict[str, Any]:
        """The first event of that name, past or coming."""
        return await self._wait(name, lambda event: event["event"] == name, timeout, after=0)

    def answer(self, name: str, timeout: float = 10.0) -> Awaitable[dict[str, Any]]:
        """The next event of that name: ask for it before sending the command that it answers."""
        return self._wait(name, lambda event: event["event"] == name, timeout, after=self._count)

    async def close(self, timeout: float = 10.0) -> int:
        """End the process and return its exit status; it is killed when it does not end in time."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.stdin is not None:
            process.stdin.close()
        try:
            status = await asyncio.wait_for(process.wait(), timeout)
        except asyncio.TimeoutError:
            process.kill()
            status = await process.wait()
        if self._reading is not None:
            await self._reading
        return status

    def send(self, command: str, **fields: Any) -> None:
        """Send a command line."""
        stdin = self._running.stdin
        if stdin is None or stdin.is_closing():
            raise PlantError(f"the plant cannot be told to {command}: it has ended; last: {self._last()}")
        stdin.write(orjson.dumps({"command": command, **fields}, option=orjson.OPT_APPEND_NEWLINE))

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise PlantError("the plant is not running: start() starts it")
        return self._process

    async def _read(self) -> None:
        process = self._running
        if process.stdout is None:
            return
        while line := await process.stdout.readline():
            event = orjson.loads(line)
            async with self._news:
                self._samples = event.get("samples", self._samples)
                if event["event"] == "progress":
                    continue
                self._events.append(event)
                self._count += 1
                if event["event"] == "watched":
                    self._watched = event["items"]
                self._news.notify_all()
        async with self._news:
            self._events.append({"event": "exited"})
            self._count += 1
            self._news.notify_all()

    def _since(self, number: int) -> Sequence[tuple[int, dict[str, Any]]]:
        first = self._count - len(self._events)
        return [(first + i, event) for i, event in enumerate(self._events) if first + i >= number]

    async def _wait(
        self, what: str, wanted: Callable[[dict[str, Any]], bool], timeout: float, *, after: int
    ) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((event for _, event in self._since(after) if wanted(event) or event["event"] == "exited"), None)

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(lambda: found() is not None), timeout)
            except asyncio.TimeoutError:
                raise PlantError(f"no {what!r} from the plant within {timeout} s; last: {self._last()}") from None
            event = found()
        if event is None or event["event"] == "exited":
            raise PlantError(f"the plant ended before its {what!r}; last: {self._last()}")
        return event

    def _last(self) -> str:
        said = orjson.dumps(list(self._events)[-3:]).decode()
        if not self._errors.exists():
            return said
        complained = self._errors.read_text(encoding="utf-8", errors="replace")[-_COMPLAINT_SHOWN:].strip()
        return f"{said}; {self._errors}: {complained}" if complained else said
