"""The one entry point of every component: connect, load, run, apply changes, report, stop.

A component's whole `__main__` is ``main(OpcUaCollector)``. What it can rely on:

- It never exits for a recoverable fault. A nucleus that is away is waited for, a wrong configuration entry is left
  out, a `start` that fails is reported and tried again. The exceptions: SIGTERM and SIGINT (exit 0 within 4 s), and a
  nucleus that refuses the component's token for good (`sluice.retry.ExitRule`, exit 1, so that it is started anew).
- `start` and `apply` are called one after the other, never at the same time, and never after `stop`.
- Configuration events come in bursts, one per leaf: after half a second of quiet everything is read and compared. It
  is also read every minute, because on nucleus lite a subscription can die without a sign.
- Status is published on `sluice/status/<id>` every `statusInterval`.
- Commands are listened to on `sluice/command/<id>`, and from the cloud as far as `cloudCommands` allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import orjson

from sluice import __version__, garbage, log
from sluice.batch import CLASSIC_MAX_MESSAGE_BYTES, LITE_MAX_MESSAGE_BYTES
from sluice.command import Call, Command, NoArguments
from sluice.command_service import CommandService
from sluice.config import Changes, ComponentSettings, KeptFile, Loaded, Problem, diff, keys_of, load
from sluice.ipc import Ipc, IpcDisconnected, IpcError, IpcNotFound, IpcRefused, IpcTimeout
from sluice.retry import Backoff
from sluice.secrets import Secrets
from sluice.status import State, Status
from sluice.tasks import end, within
from sluice.validation import Validation

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=ComponentSettings)

LAST_GOOD_FILE = "last-good-configuration.json"
_QUIET = 0.5  # seconds without a further event before a changed configuration is read
_LONGEST_BURST = 5.0
_RECHECK = 60.0
_STOP = 3.0  # seconds for the component's own stop; the nucleus kills 5 s after SIGTERM
_EXIT = 3.6  # the end whatever hangs: 4 s, less what a busy machine takes to bring the signal and to reap the process
_MAX_PROBLEMS = 1_000
_MAX_LOGGED = 50
_WHOLE_STATUS = 16_000_000  # bytes: nothing of it is left out


class Problems:
    """Problems that only showed while running, by place in the configuration, until they are cleared.

    They stand in the status beside the rejected configuration entries. At most 1,000 are kept.
    """

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        """Something configured does not work: `scope` is its path, e.g. ``connections.line1.tags.T1.node``.

        Logged when it is new or has changed. A later report for the same scope replaces the earlier one.
        """
        new = Problem(scope, value, problem, remedy, effect)
        if self._found.get(scope) == new or (scope not in self._found and len(self._found) >= _MAX_PROBLEMS):
            return
        self._found[scope] = new
        logger.warning(str(new))

    def clear(self, scope: str) -> None:
        """Forget the problems of `scope` and of everything below it."""
        for path in [p for p in self._found if p == scope or p.startswith((f"{scope}.", f"{scope}["))]:
            del self._found[path]

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)


@dataclass(slots=True)
class Context:
    """What a component gets to work with.

    `max_message_bytes` is what a message on the bus may have, following `maxMessageBytes` and the nucleus;
    `component_name` the full Greengrass name; `work_dir` the component's own folder, kept over versions.
    """

    ipc: Ipc
    component_name: str
    work_dir: Path
    thing_name: str
    secrets: Secrets
    max_message_bytes: int
    problems: Problems


class Component(ABC, Generic[C]):
    """A Sluice component. Subclasses name their `id` (as in topics) and their `settings`."""

    id: ClassVar[str]
    settings: ClassVar[type[ComponentSettings]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    async def start(self, config: C) -> None:
        """Begin to work, and return soon: connecting and retrying belong into tasks of the component's own.

        What it raises becomes the status; then `stop` is called and a new instance is tried.
        """

    @abstractmethod
    async def apply(self, config: C, changes: Changes) -> None:
        """Go over to `config`, touching only what has changed.

        What it raises becomes the status; then `stop` is called and a new instance is started with `config`.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End all work and save what must be saved, within 3 s. Also called after a `start` that failed."""

    @abstractmethod
    def status(self) -> Mapping[str, Any]:
        """The component's parts of the status: connections, ledger, counters."""

    @classmethod
    def check(cls, config: C, directory: Path) -> Sequence[Problem]:
        """What is wrong with a configuration that its models accept, with one that is only proposed as well.

        What it finds in the configuration that runs, the component reports itself (`Context.problems`), in the same
        words. directory: the work folder, from which relative paths start. Called on a thread of its own. No network.
        """
        return ()

    def commands(self) -> Sequence[Command[Any]]:
        """What it can be asked to do, beside `status`."""
        return ()

    def trouble(self) -> str:
        """What keeps all of it from its work at present, with the remedy, such as a full disk; empty when nothing does.

        While it lasts the status says degraded, and why.
        """
        return ""


def main(component: type[Component[Any]]) -> None:
    """Run the component until it is told to stop; exits the process."""
    log.setup("INFO", component.id)
    try:
        with garbage.seldom():
            code = asyncio.run(_run(component))
    except IpcError as error:  # not started by a nucleus
        logger.error(str(error))
        code = 1
    logging.shutdown()
    sys.exit(code)


async def _run(component: type[Component[Any]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = Runner(component, Ipc(), Path.cwd(), os.environ.get("AWS_IOT_THING_NAME", ""), _end_in_time)
    return await runner.run(stop)


class Runner:
    """Drives one component through its life. `on_stopping` is called with the exit code when its end begins."""

    def __init__(
        self,
        component: type[Component[Any]],
        ipc: Ipc,
        work_dir: Path,
        thing_name: str,
        on_stopping: Callable[[int], None] = lambda code: None,
    ) -> None:
        self._component = component
        self._ipc = ipc
        self._on_stopping = on_stopping
        self._problems = Problems()
        self._status = Status(component.id)
        self._last_good = KeptFile(work_dir / LAST_GOOD_FILE)
        self._context = Context(
            ipc=ipc,
            component_name="",
            work_dir=work_dir,
            thing_name=thing_name,
            secrets=Secrets(ipc, work_dir),
            max_message_bytes=LITE_MAX_MESSAGE_BYTES,
            problems=self._problems,
        )
        self._commands = CommandService(
            ipc, component.id, thing_name, work_dir, [Command("status", NoArguments, self._tell_status, reads=True)]
        )
        self._validation = Validation(ipc, self._judge)
        self._raw: Any = None
        self._loaded: Loaded[ComponentSettings] | None = None
        self._instance: Component[Any] | None = None
        self._works = False  # the instance has started, and nobody has asked it to stop
        self._told: set[str] = set()
        self._read_again = asyncio.Event()
        self._status_failures = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Live until `stop` is set (0) or the nucleus has refused us for good (1)."""
        logger.info("Sluice %s %s starts", self._component.id, __version__)
        life = asyncio.create_task(self._live(), name="component")
        stopped = asyncio.create_task(stop.wait())
        refused = asyncio.create_task(self._ipc.given_up.wait())
        await asyncio.wait((life, stopped, refused), return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stop.is_set() else 1
        self._on_stopping(code)
        if self._ipc.given_up.is_set():
            logger.error("The nucleus refuses this component's token: exiting, to be started with a new one")
        elif life.done() and (error := life.exception()) is not None:
            logger.error("The component's main task failed", exc_info=error)
        await end(life, stopped, refused)
        self._status.set(State.STOPPING)
        await self._stop_instance()
        await self._commands.stop()
        with contextlib.suppress(IpcError, asyncio.TimeoutError):
            await within(0.3, self._publish_status())
        await self._ipc.close()
        logger.info("Sluice %s has stopped", self._component.id)
        return code

    async def _live(self) -> None:
        await self._ipc.start()
        await self._until_answered(self._ipc.detect_nucleus)
        await self._read()
        await self._commands.start()
        beside = [asyncio.create_task(work) for work in (self._subscribe(), self._report(), self._validation.run())]
        try:
            await self._follow()
        finally:
            await end(*beside)

    # --- configuration ---

    async def _follow(self) -> None:
        """Start the component, then apply changes; a failed start is tried again."""
        backoff = Backoff(5.0, 60.0)
        while True:
            if self._instance is None:
                await self._start()
            pause = _RECHECK if self._instance is not None else backoff.next()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause, self._read_again.wait())
                await self._quiet()
            if self._instance is not None:
                backoff.reset()
            old = self._loaded
            if await self._read() and self._instance is not None and old is not None:
                await self._apply(old)

    async def _quiet(self) -> None:
        """Wait until the burst of events is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _LONGEST_BURST
        while self._read_again.is_set() and loop.time() < end:
            self._read_again.clear()
            await asyncio.sleep(_QUIET)
        self._read_again.clear()

    async def _read(self) -> bool:
        """Read and load the configuration; True when it is another than before."""
        raw = await self._until_answered(self._get)
        if self._loaded is not None and raw == self._raw:
            return False
        last_good = self._loaded.applied if self._loaded else await asyncio.to_thread(self._last_good.read)
        if raw is None:
            raw = last_good or {}
        self._raw = raw
        self._loaded = load(self._component.settings, raw, last_good)
        self._context.component_name = self._ipc.component_name
        self._tell(self._loaded)
        config = self._loaded.config
        log.set_level(config.log_level)
        self._context.max_message_bytes = self._message_bytes(config)
        self._commands.configure(config.cloud_commands, self._context.max_message_bytes)
        self._validation.configure(config.validate_deployments)
        return True

    async def _get(self) -> Any:
        try:
            raw = await self._ipc.get_configuration((), keys=keys_of(self._component.settings))
        except IpcNotFound:
            raw = {}
        except IpcRefused as error:
            self._problems.report("configuration", f"cannot be read ({error})", "the last good form keeps running")
            return None
        self._problems.clear("configuration")
        return raw

    async def _until_answered(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        backoff = Backoff(0.5, 10.0)
        while True:
            try:
                return await ask()
            except (IpcTimeout, IpcDisconnected) as error:  # noqa: PERF203 - each is a call to another process
                logger.warning("Waiting for the nucleus: %s", error)
                await asyncio.sleep(backoff.next())

    async def _subscribe(self) -> None:
        backoff = Backoff(5.0, 300.0)
        while True:
            try:
                await self._ipc.on_configuration_update((), lambda changed: self._read_again.set())
                return
            except IpcError as error:  # noqa: PERF203 - each is a call to another process
                logger.warning("Configuration changes are seen only every %g s: %s", _RECHECK, error)
                await asyncio.sleep(backoff.next())

    def _tell(self, loaded: Loaded[ComponentSettings]) -> None:
        """Log what is wrong with the configuration, each thing once while it stands."""
        texts = {str(problem): problem for problem in (*loaded.problems, *loaded.warnings)}
        new = [text for text in texts if text not in self._told]
        self._told = set(texts)
        for text in new[:_MAX_LOGGED]:
            logger.warning(text)
        if len(new) > _MAX_LOGGED:
            logger.warning("%d more problems of the configuration are in the status", len(new) - _MAX_LOGGED)

    def _message_bytes(self, config: ComponentSettings) -> int:
        self._problems.clear("maxMessageBytes")
        wanted = config.max_message_bytes
        if wanted == "auto":
            return LITE_MAX_MESSAGE_BYTES if self._ipc.lite else CLASSIC_MAX_MESSAGE_BYTES
        if self._ipc.lite and wanted > LITE_MAX_MESSAGE_BYTES:
            self._problems.report(
                "maxMessageBytes",
                "is more than nucleus lite takes",
                f"use auto; {LITE_MAX_MESSAGE_BYTES} applies",
                wanted,
            )
            return LITE_MAX_MESSAGE_BYTES
        return int(wanted)

    async def _judge(self, raw: Any) -> Sequence[Problem]:
        """Everything that is wrong with a configuration that is not applied yet."""

        def problems() -> Sequence[Problem]:
            loaded = load(self._component.settings, raw)
            return [*loaded.problems, *self._component.check(loaded.config, self._context.work_dir)]

        return await asyncio.to_thread(problems)

    async def _keep_last_good(self, loaded: Loaded[ComponentSettings]) -> None:
        await asyncio.to_thread(self._last_good.write, loaded.applied)

    # --- the component ---

    async def _start(self) -> None:
        loaded = self._loaded
        if loaded is None:
            return
        try:
            self._instance = self._component(self._context)
            await self._instance.start(loaded.config)
        except Exception as error:
            logger.exception("The component cannot start; it is tried again")
            self._status.set(State.DEGRADED, f"it cannot start: {_said(error)}; it is tried again")
            await self._stop_instance()
            self._instance = None
            return
        self._running(loaded)
        self._commands.offer(self._instance.commands())
        logger.info("Sluice %s runs", self._component.id)
        await self._keep_last_good(loaded)

    async def _apply(self, old: Loaded[ComponentSettings]) -> None:
        loaded = self._loaded
        if loaded is None or self._instance is None:
            return
        changes = diff(old.config, loaded.config)
        if changes:
            logger.info("The configuration has changed: %s", changes)
            try:
                await self._instance.apply(loaded.config, changes)
            except Exception as error:
                logger.exception("A change of the configuration could not be applied: the component is started anew")
                self._status.set(State.DEGRADED, f"a change could not be applied: {_said(error)}; it is started anew")
                await self._stop_instance()
                self._instance = None
                self._read_again.set()
                return
        self._running(loaded)
        await self._keep_last_good(loaded)

    def _running(self, loaded: Loaded[ComponentSettings]) -> None:
        self._works = True
        self._status.set(State.RUNNING)
        self._status.configured(self._rejected())

    async def _stop_instance(self) -> None:
        self._works = False
        if self._instance is None:
            return
        await self._commands.withdraw()
        try:
            await within(_STOP, self._instance.stop())
        except asyncio.TimeoutError:
            logger.error("The component did not stop within %g s", _STOP)
        except Exception:
            logger.exception("The component failed while stopping")

    # --- status ---

    async def _report(self) -> None:
        while True:
            try:
                await self._publish_status()
            except IpcError as error:
                self._status_failures += 1
                logger.warning("The status cannot be published: %s", error)
            loaded = self._loaded
            await asyncio.sleep(loaded.config.status_interval if loaded else 5.0)

    async def _publish_status(self) -> None:
        if not self._ipc.connected:
            return
        await self._ipc.publish(self._status.topic, self._report_of(self._context.max_message_bytes))

    def _report_of(self, max_bytes: int) -> bytes:
        self._status.rejected = self._rejected()
        if self._instance is not None and self._works:
            trouble = self._instance.trouble()
            self._status.set(State.DEGRADED if trouble else State.RUNNING, trouble)
        return self._status.report(self._parts(), max_bytes=max_bytes)

    async def _tell_status(self, call: Call[NoArguments]) -> dict[str, Any]:
        """The command `status`: the whole of it; what is too long for a message is cut there."""
        status: dict[str, Any] = orjson.loads(self._report_of(_WHOLE_STATUS))
        return status

    def _rejected(self) -> list[dict[str, Any]]:
        problems = self._loaded.problems if self._loaded else []
        return [problem.as_dict() for problem in (*problems, *self._problems)]

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        if self._instance is not None:
            try:
                parts = dict(self._instance.status())
            except Exception:
                self._status_failures += 1
                logger.exception("The component cannot tell its status")
        counters = {f"ipc_{name}": count for name, count in sorted(self._ipc.counters.items())}
        counters |= {"ipc_dropped": self._ipc.dropped, "status_failures": self._status_failures}
        parts["counters"] = {**counters, **parts.get("counters", {})}
        if commands := self._commands.status():
            parts["commands"] = commands
        if self._loaded is not None and self._loaded.warnings:
            parts["warnings"] = [warning.as_dict() for warning in self._loaded.warnings]
        return parts


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _end_in_time(code: int) -> None:
    """Threads and foreign code cannot be cancelled: whatever then still hangs ends with the process."""
    last_resort = threading.Timer(_EXIT, _exit_at_once, (code,))
    last_resort.daemon = True
    last_resort.start()


def _exit_at_once(code: int) -> None:
    logging.shutdown()
    os._exit(code)
