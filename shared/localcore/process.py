"""The life of a component: install, run, errors, restarts, BROKEN, stop; its environment, its log, what it uses.

    state       becomes        when
    ----------  -------------  ------------------------------------------------------------------
    NEW         INSTALLED      the install script ended well, or there is none
    NEW         NEW | BROKEN   it failed or took longer than its Timeout: again, three times
    INSTALLED   STARTING       it may: its dependencies are there, and on lite all of its deployment is installed
    STARTING    RUNNING        the run script was started
    RUNNING     FINISHED       it ended with status 0
    RUNNING     ERRORED        it ended otherwise, or reported ERRORED
    ERRORED     STARTING       after the nucleus's delay
    ERRORED     BROKEN         three errors in the same state, each within the window after the one before
    any         STOPPING       a deployment or the end: shutdown script, SIGTERM, grace, SIGKILL
    RUNNING     STOPPING       a hard dependency has gone: it starts again when that is back
    STOPPING    INSTALLED      nothing of it runs any more

BROKEN stays until a deployment names the component again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localcore.child import die_with_parent
from localcore.profile import Profile
from localcore.recipe import Lifecycle, Recipe, Step

log = logging.getLogger(__name__)

_MAX_LOG = 10 * 1024 * 1024
_LAST_OUTPUT = 2.0
"""Seconds that what a component wrote at its end may take to reach its log."""


class Errors:
    """Counts errors per state: `record` says whether the component is BROKEN now."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._times: dict[str, list[float]] = defaultdict(list)

    def record(self, state: str, now: float) -> bool:
        """Note an error in a state at a time in seconds."""
        times = self._times[state]
        if times and now - times[-1] >= self._window:
            times.clear()
        times.append(now)
        return len(times) >= self._limit


class LogFile:
    """A file of bounded size: when it is full it becomes `<name>.1`, in place of the one before."""

    def __init__(self, path: Path, max_bytes: int = _MAX_LOG) -> None:
        self._path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self._size and self._size + len(data) > self._max_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
            self._size = 0
        self._file.write(data)
        self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children use now: resident memory, and processor time since they started."""

    rss_mb: float = 0.0
    cpu_s: float = 0.0


def members(group: int) -> Iterator[tuple[int, list[str]]]:
    """The processes of a process group: their ids, and the fields of /proc/<id>/stat from the state on."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[2]) == group:
            yield int(entry.name), fields


def usage(group: int) -> Usage:
    """The sum over the processes of a process group, from /proc."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    rss = cpu = 0.0
    for _, fields in members(group):
        cpu += (int(fields[11]) + int(fields[12])) / ticks
        rss += int(fields[21]) * page / 1e6
    return Usage(rss, cpu)


def transferred(group: int) -> Counter[str]:
    """What the processes of a process group, and those of their children that have ended, read and wrote: the sum of
    /proc/<id>/io."""
    total: Counter[str] = Counter()
    for pid, _ in members(group):
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(": ")
                total[name] += int(value)
    return total


def clean_environment(home: Path) -> dict[str, str]:
    """What a service of the system starts with: nothing of this process, its virtual environment or its PYTHONPATH.

    The Python that runs this core is first on PATH. Artifacts built on this machine may hold wheels for it alone, and
    the name that led to it may lead nowhere in here: a shim of pyenv goes by the folder and by variables.
    """
    python = str(Path(sys.base_prefix, "bin"))
    paths = [path for path in os.environ.get("PATH", os.defpath).split(os.pathsep) if path != python]
    if sys.prefix != sys.base_prefix:
        paths = [path for path in paths if not Path(path).is_relative_to(sys.prefix)]
    return {"PATH": os.pathsep.join([python, *paths]), "HOME": str(home), "LANG": "C.UTF-8"}


@dataclass(eq=False, slots=True)
class Component:
    """One deployed component and its processes.

    Args:
        lifecycle: the recipe's, its variables replaced.
        environment: gives the variables of a step that begins now, without the recipe's own.
        ready: waits until it may start.
        on_state: is called after each change of state.
        clock: seconds, for the rule that makes a component BROKEN.
        former: what runs of it while this one is installed (lite); it is stopped when this one starts.
    """

    recipe: Recipe
    lifecycle: Lifecycle
    environment: Callable[[], Mapping[str, str]]
    work_dir: Path
    log_path: Path
    profile: Profile
    ready: Callable[[], Awaitable[None]]
    run_as: int | None = None
    """Number of the user and group that its steps run as, None for ours."""
    on_state: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    former: Component | None = None
    io_before: Counter[str] = field(default_factory=Counter)
    """What former runs read and wrote."""
    state: str = "NEW"
    restarts: int = 0
    """How often it was started again after an error."""
    crash_at: str = ""
    """SLUICE_CRASH for the next start of the run script, which uses it up: where the component is to crash."""
    installed: bool = False
    """Whether its install script has ended well."""
    ended: int | None = None
    """The status with which its run script ended last, negative for a signal; None before its first end."""
    _process: asyncio.subprocess.Process | None = None
    _task: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _errored: bool = False
    _last_usage: Usage = field(default_factory=Usage)
    _last_io: Counter[str] = field(default_factory=Counter)
    _ending: asyncio.Task[None] | None = None
    _restarting: asyncio.Task[None] | None = None
    _stopping: asyncio.Lock = field(default_factory=asyncio.Lock)
    _wanted: bool = False
    """Whether it is to live, whatever becomes of its present process."""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def version(self) -> str:
        return self.recipe.version

    @property
    def pid(self) -> int | None:
        """The process of the run script, or None when it does not run."""
        return self._process.pid if self._process is not None and self.state == "RUNNING" else None

    @property
    def rss_mb(self) -> float:
        """Resident memory of the component's processes in MB; when it does not run, as it was last seen."""
        return self._usage().rss_mb

    @property
    def cpu_s(self) -> float:
        """Processor time of the component's running processes in seconds; when it does not run, as it was last seen."""
        return self._usage().cpu_s

    def _usage(self) -> Usage:
        if self.pid is not None:
            self._last_usage = usage(self.pid)
        return self._last_usage

    def io(self) -> Counter[str]:
        """What the run script's processes read and wrote, over all runs: /proc/<pid>/io, so `write_bytes` is what they
        made the kernel write. Of a run that ended by itself it is what was last seen: here, or at a fault before."""
        if self._process is not None and self.installed:
            self._last_io = transferred(self._process.pid) or self._last_io
        return self.io_before + self._last_io + (Counter() if self.former is None else self.former.io())

    def start(self, *, install: bool) -> None:
        """Begin its life."""
        self._wanted = True
        self.installed = not install
        self._errored = False
        self._set("NEW" if install else "INSTALLED")
        self._task = asyncio.create_task(self._live(), name=f"component {self.name}")

    async def stop(self) -> None:
        """End it, by force if it takes too long."""
        self._wanted = False
        async with self._stopping:
            await self._stop()
        if self.former is not None:
            await self.former.stop()

    def restart(self) -> None:
        """Have it stopped, and started again when it may: what becomes of a component when a hard dependency goes."""
        if self.state in ("STARTING", "RUNNING") and (self._restarting is None or self._restarting.done()):
            self._restarting = asyncio.create_task(self._restart(), name=f"restart of {self.name}")

    async def _restart(self) -> None:
        async with self._stopping:
            if self._wanted:
                await self._stop()
            if self._wanted:
                self.start(install=not self.installed)

    async def _stop(self) -> None:
        if self._task is None:
            return
        running = self.state == "RUNNING"
        self._set("STOPPING")
        self.resume()
        if running and self.lifecycle.shutdown is not None:
            output = LogFile(self.log_path)
            await self._run(self.lifecycle.shutdown, output, main=False)
            output.close()
        if self._process is not None:
            await self._end(self._process)
        await self._finish(self._task)

    async def _finish(self, task: asyncio.Task[None]) -> None:
        if self._process is not None:
            await asyncio.wait({task}, timeout=_LAST_OUTPUT)
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_LAST_OUTPUT)
        self._task = None
        self._set("INSTALLED")

    def kill(self) -> None:
        """SIGKILL to all its processes: the fault that a crash is."""
        self.io()
        self._signal(signal.SIGKILL)

    def stall(self) -> None:
        """SIGSTOP to all its processes: they hold what they hold and do nothing, until resume(), kill() or stop()."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to all its processes."""
        self._signal(signal.SIGCONT)

    async def lose_power(self) -> None:
        """SIGKILL to all its processes, and for good: it runs again when it is started."""
        self._wanted = False
        if self.former is not None:
            await self.former.lose_power()
            self.io_before += self.former.io()
            self.former = None
        if self._task is None:
            return
        self._set("STOPPING")
        group = self._process.pid if self._process is not None else None
        self.kill()
        await self._finish(self._task)
        while group is not None and any(fields[0] != "Z" for _, fields in members(group)):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def limit_file_size(self, limit: int | None) -> None:
        """Let no file of its running processes, and of those they start, grow beyond so many bytes; None lifts that.

        It is the fault of a full disk: what would go beyond fails (EFBIG). A limit of 0 lets no file be written at all.
        """
        if self._process is None:
            return
        for pid, _ in members(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            _signal(self._process, number)
        if self.former is not None:
            self.former._signal(number)

    def report(self, state: str) -> None:
        """What the component says of itself (UpdateState). ERRORED ends it, as an error."""
        if self.former is not None:
            self.former.report(state)
        elif state == "ERRORED" and self.state == "RUNNING" and self._process is not None:
            self._errored = True
            self._ending = asyncio.create_task(self._end(self._process))

    def changed(self) -> Awaitable[object]:
        """Wait for the next change of state after this call, however late it is awaited."""
        return self._changed.wait()

    def log_tail(self, size: int = 2000) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as file:
            file.seek(max(0, self.log_path.stat().st_size - size))
            return file.read().decode(errors="replace")
        return ""

    def _set(self, state: str) -> None:
        if state == self.state:
            return
        log.info("%s: %s -> %s", self.name, self.state, state)
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_state()

    async def _live(self) -> None:
        errors = Errors(self.profile.errors_to_broken, self.profile.error_window)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        if self.run_as is not None:
            os.chown(self.work_dir, self.run_as, self.run_as)
        output = LogFile(self.log_path)
        try:
            while self.state == "NEW":
                code = 0 if self.lifecycle.install is None else await self._run(self.lifecycle.install, output)
                if self.state == "STOPPING":
                    return
                if code == 0:
                    self.installed = True
                    self._set("INSTALLED")
                elif errors.record("NEW", self.clock()):
                    self._set("BROKEN")
                    return
                else:
                    await asyncio.sleep(self.profile.restart_delay)
            await self.ready()
            if self.former is not None:
                await self.former.stop()
                # wait_for() may swallow that this task was cancelled meanwhile (Python before 3.12).
                if self.state == "STOPPING":
                    return
                self.io_before += self.former.io()
                self.former = None
            while True:
                self._set("STARTING")
                if self.lifecycle.run is None:
                    self._set("FINISHED")
                    return
                code = self.ended = await self._run(self.lifecycle.run, output)
                if self.state == "STOPPING":
                    return
                if not self._errored and (code == 0 or -code in self.profile.clean_signals):
                    self._set("FINISHED")
                    return
                self._errored = False
                self._set("ERRORED")
                log.warning("%s: its run script ended with status %d", self.name, code)
                if errors.record("RUNNING", self.clock()):
                    self._set("BROKEN")
                    return
                await asyncio.sleep(self.profile.restart_delay)
                self.restarts += 1
        except Exception:
            log.exception("%s cannot be run", self.name)
            self._set("BROKEN")
        finally:
            output.close()

    async def _run(self, step: Step, output: LogFile, *, main: bool = True) -> int:
        """Run a step's script to its end; the exit status, negative for a signal or when its time was up.

        `main` is False for the shutdown script, which runs beside the run script.
        """
        environment = {**self.environment(), **step.setenv}
        if step is self.lifecycle.run and self.crash_at:
            environment["SLUICE_CRASH"], self.crash_at = self.crash_at, ""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            step.script,
            cwd=self.work_dir,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            user=self.run_as,
            group=self.run_as,
            extra_groups=None if self.run_as is None else (),
        )
        if main:
            self._process = process
            self.io_before += self._last_io
            self._last_io = Counter()
            if self.state == "STARTING":
                self._set("RUNNING")
        assert process.stdout is not None
        copying = asyncio.create_task(_copy(process.stdout, output))
        guard = None
        try:
            guard = await _guard(process.pid)
            code = await asyncio.wait_for(process.wait(), None if step is self.lifecycle.run else step.timeout)
        except asyncio.TimeoutError:
            output.write(f"{self.name}: a step took longer than its Timeout of {step.timeout} s\n".encode())
            await self._end(process)
            code = -signal.SIGKILL
        finally:
            # Whatever the script left behind goes with it; its output ends then, unless something has left the group.
            _signal(process, signal.SIGKILL)
            if guard is not None:
                guard.kill()
                await guard.wait()
            await asyncio.wait({copying}, timeout=_LAST_OUTPUT)
            copying.cancel()
            if main:
                self._process = None
        return code

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """SIGTERM, the grace, SIGKILL. One that is stalled goes on first, or it could not answer."""
        self.io()
        _signal(process, signal.SIGCONT)
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.profile.stop_grace)
        except asyncio.TimeoutError:
            log.warning("%s did not end within %.0f s of SIGTERM and is killed", self.name, self.profile.stop_grace)
            _signal(process, signal.SIGKILL)
            await process.wait()


async def _copy(source: asyncio.StreamReader, output: LogFile) -> None:
    while data := await source.read(65536):
        output.write(data)


async def _guard(group: int) -> asyncio.subprocess.Process:
    """A process that kills a process group when this process has died, in whatever way: its input ends then.

    The kernel does as much for a child (`die_with_parent`), but not for what the child starts, and a shell may start
    the component as a child of its own.
    """
    return await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        'read -r _; kill -9 "-$0"',
        str(group),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to the process and all that it started: its process group has the number of its process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
