"""The component: flows between the local bus and their own streams.

Each flow is a reader of the one inlet, with cursors of its own, and has an outlet of its own. A change of the
configuration touches only the flows whose definition changed by it; one that is refused keeps running as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from preprocessor import checks, models
from preprocessor import compile as compiler
from preprocessor.commands import Commands
from preprocessor.config import PRODUCER, Configuration
from preprocessor.flow import Flow
from preprocessor.problems import FlowProblems
from sluice.batch import LITE_MAX_MESSAGE_BYTES
from sluice.command import Command
from sluice.component import Component, Context
from sluice.config import Changes, Problem
from sluice.streams import Inlet, Outlets
from sluice.table_watch import LOOK
from sluice.tasks import end

logger = logging.getLogger(__name__)

OUTBOX: Final = "outbox"

#: Seconds that the flows have for their last checkpoint when the component stops, and then the outbox for its commits.
STOP_LIMIT = 1.2
CLOSE_LIMIT = 1.2

#: Seconds that a flow which is removed has to give out what it holds.
REMOVE_LIMIT = 5.0

#: Bytes that one answer of a producer may have. Nucleus lite carries small messages, about a thousand a second.
WINDOW = 1_000_000
LITE_WINDOW = 256_000

MOST_FILTERS: Final = 3
"""Data subscriptions: with replays, acknowledgements and commands a component may have six."""


_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A flow's configuration: what it is built from, and rows of tables that are left out; or None, and why."""

    definition: Mapping[str, Any] | None
    problems: tuple[Problem, ...] = ()


class Preprocessor(Component[Configuration]):
    """Runs the flows."""

    id: ClassVar[str] = PRODUCER
    settings: ClassVar[type[Configuration]] = Configuration

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._flows: dict[str, Flow] = {}
        self._judged: dict[str, _Judged] = {}
        self._problems = FlowProblems(context.problems)
        self._outlets: Outlets | None = None
        self._inlet: Inlet | None = None
        self._config = Configuration()
        self._tables: _Stamps = ()
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._wanted: dict[str, bool] = {}
        self._patterns: set[str] = set()

    async def start(self, config: Configuration) -> None:
        """Begin the flows where they ended, then listen. Raises DatabaseError, IpcError."""
        self._outlets = outlets = await Outlets.open(
            self.context.ipc,
            self.id,
            Path(self.context.work_dir) / OUTBOX,
            config.outbox,
            max_bytes=self.context.max_message_bytes,
            compress=config.compress,
        )
        self._config = config
        judged = await self._judge(config)
        for name in sorted(outlets.sources() - config.flows.keys()):
            await self._remove(outlets, self._make(outlets, name))
        for name in config.flows:
            self._flows[name] = self._make(outlets, name)
            self._flows[name].configure(judged[name].definition, judged[name].problems)
        self._judged = judged
        await outlets.start()
        await self._listen()
        for flow in self._flows.values():
            flow.start()
        self._watch = asyncio.create_task(self._watch_tables(), name="tables of models")

    async def apply(self, config: Configuration, changes: Changes) -> None:
        """Touch what changed: a flow that did not change does not notice."""
        outlets = self._outlets
        assert outlets is not None
        if changes.keys() & {"maxMessageBytes", "compress", "outbox"}:
            outlets.apply(config.outbox, max_bytes=self.context.max_message_bytes, compress=config.compress)
        if changes.keys() & {"flows", "models"}:
            async with self._changing:
                await self._reconfigure(outlets, config)

    async def _reconfigure(self, outlets: Outlets, config: Configuration) -> None:
        inlet = self._inlet
        assert inlet is not None
        self._config = config
        judged = await self._judge(config)
        removed = [self._flows.pop(name) for name in list(self._flows) if name not in config.flows]
        added = [name for name in config.flows if name not in self._flows]
        inlet.replace(self._flows)  # those that go take nothing more
        for flow in removed:
            await self._remove(outlets, flow)
        for name in added:
            self._flows[name] = self._make(outlets, name)
        for name, found in judged.items():
            if found != self._judged.get(name) or name in added:
                self._flows[name].configure(found.definition, found.problems)
        self._judged = judged
        await self._listen()
        for name in added:
            self._flows[name].start()

    async def stop(self) -> None:
        """Stop listening, then a last checkpoint of each flow: the next start goes on there."""
        if self._watch is not None:
            await end(self._watch)
        if self._inlet is not None:
            await self._inlet.close()
        await asyncio.gather(*(flow.stop(STOP_LIMIT) for flow in self._flows.values()))
        if self._outlets is not None:
            await self._outlets.close(CLOSE_LIMIT)

    @classmethod
    def check(cls, config: Configuration, directory: Path) -> Sequence[Problem]:
        """Flows and models that cannot be built."""
        return checks.check(config, directory)

    def commands(self) -> Sequence[Command[Any]]:
        """See `commands`."""
        return Commands(lambda: self._flows, lambda: self._outlets).all()

    def trouble(self) -> str:
        """What keeps the outbox from taking, or delivering, anything."""
        outlets = self._outlets
        return f"{outlets.trouble}: {outlets.remedy}" if outlets is not None and outlets.trouble else ""

    def status(self) -> Mapping[str, Any]:
        """Flows as connections, the ledgers of their streams, the outbox, and what came in."""
        status: dict[str, Any] = {"connections": {name: flow.status() for name, flow in self._flows.items()}}
        if self._outlets is not None:
            status |= {"ledger": self._outlets.ledgers(), "outbox": self._outlets.status()}
        if self._inlet is not None:
            status["inlet"] = self._inlet.status()
        return status

    def _make(self, outlets: Outlets, name: str) -> Flow:
        return Flow(name, outlets.outlet(name), compiler.build, self._problems)

    async def _remove(self, outlets: Outlets, flow: Flow) -> None:
        logger.info("flows.%s is not configured any more: what its steps hold goes out", flow.name)
        await flow.remove(REMOVE_LIMIT)
        outlets.remove(flow.name)

    async def _judge(self, config: Configuration) -> dict[str, _Judged]:
        """What each flow is built from. Tables are read and pipelines built on a thread: they may be large."""
        directory = Path(self.context.work_dir)
        self._tables = await asyncio.to_thread(_stamps, config, directory)
        return await asyncio.to_thread(_judge, config, directory)

    async def _watch_tables(self) -> None:
        """Applies tables of models that change, come or go; one that is being written is not read in the middle: it has
        to look the same twice."""
        seen: _Stamps = ()
        while True:
            await asyncio.sleep(LOOK)
            async with self._changing:
                now = await asyncio.to_thread(_stamps, self._config, Path(self.context.work_dir))
                if now == self._tables or now != seen:
                    seen = now
                    continue
                logger.info("Tables of models have changed")
                assert self._outlets is not None
                try:
                    await self._reconfigure(self._outlets, self._config)
                except Exception:  # whatever it is, the flows go on as they are, and it is looked at again
                    logger.exception("The tables of models could not be applied; it is tried again")
                    self._tables = ()

    async def _listen(self) -> None:
        """Follow what the flows take, and offer it to them."""
        self._patterns = {pattern for flow in self._flows.values() for pattern in flow.streams()}
        self._wanted.clear()
        filters = topic_filters(self._patterns)
        if self._inlet is None:
            lite = self.context.max_message_bytes <= LITE_MAX_MESSAGE_BYTES
            window = LITE_WINDOW if lite else WINDOW
            inlet = Inlet(self.context.ipc, self.id, filters, window=window, wanted=self._wants)
            await inlet.start(self._flows)
            self._inlet = inlet
        else:
            self._inlet.replace(self._flows)
            await self._inlet.follow(filters)
        for flow in self._flows.values():
            flow.moved = self._inlet.moved

    def _wants(self, stream: str) -> bool:
        """Whether any flow takes a stream, or events of its source."""
        wanted = self._wanted.get(stream)
        if wanted is None:
            if len(self._wanted) >= 10_000:
                self._wanted.clear()
            wanted = self._wanted[stream] = any(_covers(pattern, stream) for pattern in self._patterns)
        return wanted


def _judge(config: Configuration, directory: Path) -> dict[str, _Judged]:
    circles = compiler.circles(config.flows)
    judged: dict[str, _Judged] = {}
    for name, settings in config.flows.items():
        if name in circles:
            judged[name] = _Judged(None, (circles[name],))
            continue
        try:
            definition, left_out = compiler.defined(name, settings, config.models, directory)
            compiler.build(name, definition)
        except compiler.FlowRefusedError as refused:
            judged[name] = _Judged(None, refused.problems)
        except Exception as error:  # a fault of ours costs the flow that shows it, and no other
            logger.exception("flows.%s cannot be built", name)
            told = f"cannot be built: {type(error).__name__}: {error}"[:300]
            remedy = "take out the step that was changed last; the log tells where it fails"
            judged[name] = _Judged(None, (Problem(f"flows.{name}", None, told, remedy, compiler.NOT_APPLIED),))
        else:
            judged[name] = _Judged(definition, left_out)
    return judged


def _stamps(config: Configuration, directory: Path) -> _Stamps:
    """The files of all models, and when each was written."""
    found: list[tuple[str, int, int]] = []
    for model in config.models.values():
        for path in models.files(model, directory):
            try:
                stat = path.stat()
            except (OSError, ValueError):  # noqa: PERF203 - tables are few; a NUL in the path
                found.append((str(path), 0, 0))
            else:
                found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def topic_filters(patterns: set[str]) -> list[str]:
    """The topics of these streams, <producer>/<source> with * for any: live data, backfill and events of each.

    No filter covers another, for what two cover comes twice; and when there are too many, wider ones take their place.
    """
    pairs = {pattern.partition("/")[::2] for pattern in patterns}
    if len(_narrowed(pairs)) > MOST_FILTERS:
        pairs = {(producer, "*") for producer, _ in pairs}
    if len(_narrowed(pairs)) > MOST_FILTERS:
        pairs = {("*", "*")}
    filters = []
    for producer, source in sorted(_narrowed(pairs)):
        topic = (
            "#" if (producer, source) == ("*", "*") else f"{producer}/#" if source == "*" else f"{producer}/{source}/#"
        )
        filters.append("sluice/data/" + topic.replace("*", "+"))
    return filters


def _narrowed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that no other covers."""

    def within(one: tuple[str, str], other: tuple[str, str]) -> bool:
        return one != other and all(theirs in ("*", ours) for ours, theirs in zip(one, other, strict=True))

    return {one for one in pairs if not any(within(one, other) for other in pairs)}


def _covers(pattern: str, stream: str) -> bool:
    wanted_producer, _, wanted = pattern.partition("/")
    producer, source = stream.split("/")[:2] if "/" in stream else (stream, "")
    if producer == PRODUCER and (wanted_producer, wanted) != (producer, source):
        return False  # a wildcard never means our own flows
    return wanted_producer in ("*", producer) and wanted in ("*", source)
