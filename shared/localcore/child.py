"""A child process of the local core: JSON lines out, JSON commands in, and no orphans.

The child tells that it is ready with one line on stdout, answers each command with one line, and ends when its stdin
closes: whoever started it need only die. `serve_commands` is the child's side, `ChildProcess` the parent's.

Every child answers the command `clock`, which steps the wall clock that it sees; the others are its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from localcore import clock

_START_LIMIT = 60.0  # imports alone take seconds on a loaded machine
_STOP_LIMIT = 10.0
_LINE_LIMIT = 1 << 20
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_SHARED = str(Path(__file__).resolve().parents[1])


class ChildError(Exception):
    """A child process did not start, does not run, or refused a command."""


class ChildProcess(ABC):
    """Runs `python -m <module>` as a child, as often as it is started.

    module: the child's module. environment: variables beside this process's own. log: the file that gets what the child
    writes to stderr.
    """

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._module = module
        self._environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._stalled = False
        self._busy = asyncio.Lock()

    @abstractmethod
    def _arguments(self) -> list[str]:
        """The child's command line, for the start that comes now."""

    @abstractmethod
    def _on_ready(self, line: Mapping[str, Any]) -> None:
        """Takes the line by which the child told that it is ready."""

    @property
    def pid(self) -> int:
        """The process id. Raises ChildError when it does not run."""
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the child and waits until it listens, on the ports that it had before. Raises ChildError."""
        if self.running:
            raise ChildError(f"{self._module} runs already")
        self._stalled = False
        self._log.parent.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(filter(None, (_SHARED, os.environ.get("PYTHONPATH"))))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *self._arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, **self._environment},
                limit=_LINE_LIMIT,
                # Ctrl-C in a terminal goes to every process of its group: it is the starter's to decide what it ends.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            ready = await asyncio.wait_for(self._line(), _START_LIMIT)
        except (ChildError, asyncio.TimeoutError) as error:
            await self.kill()
            tail = self._log.read_text(errors="replace")[-2000:]
            raise ChildError(f"{self._module} did not start; the end of {self._log}:\n{tail}") from error
        self._on_ready(ready)

    async def command(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and returns the answer. Raises ChildError when it is refused."""
        process = self._running()
        if self._stalled:
            raise ChildError(f"{command}: {self._module} is stalled: resume() it first")
        assert process.stdin is not None
        async with self._busy:
            process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = await asyncio.wait_for(self._line(), _STOP_LIMIT)
        if "error" in answer:
            raise ChildError(f"{command}: {answer['error']}")
        return answer

    async def clock(self, offset_s: float) -> None:
        """Steps the wall clock that the child sees: so many seconds ahead of this machine's; 0 puts it right."""
        await self.command("clock", offset_s=offset_s)

    def stall(self) -> None:
        """Stops it as SIGSTOP does: its connections stay open and nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)
        self._stalled = True

    def resume(self) -> None:
        """Lets it go on after stall()."""
        self._running().send_signal(signal.SIGCONT)
        self._stalled = False

    async def stop(self) -> None:
        """Closes the child's stdin and waits for its clean end; kills it when that takes too long."""
        process = self._process
        if process is None:
            return
        self.resume()
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_LIMIT)
        except asyncio.TimeoutError:
            await self.kill()
        self._process = None

    async def kill(self) -> None:
        """Ends the child as SIGKILL does: nothing is flushed, nothing is said."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def _line(self) -> dict[str, Any]:
        process = self._running()
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise ChildError(f"{self._module} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildError(f"{self._module} does not run: start() it first")
        return self._process


def die_with_parent() -> None:
    """Runs in a child: the kernel kills it when this process dies, also when it is stalled and would not notice."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tell(line: Mapping[str, Any]) -> None:
    """The child writes one line to its parent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def leave() -> NoReturn:
    """The child ends well, and at once: taking apart an interpreter that has loaded an AWS SDK lasts up to a second."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def serve_commands(handle: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The child answers commands until its stdin closes. A ValueError from `handle` is told to the parent."""
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            command = json.loads(line)
            if command["command"] == "clock":
                clock.set_ahead(command["offset_s"])
                tell({"event": "done"})
            else:
                tell(handle(command))
        except (ValueError, TypeError, KeyError) as error:  # noqa: PERF203 - commands are rare
            tell({"error": repr(error)})
