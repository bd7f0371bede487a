"""Tags whose values are read: every so often, in step, by registered node ids in requests that the server takes.

A poll keeps its phase: it is due at the beginning plus whole intervals, and one that is not done when the next is due
costs that one, counted (`overruns`). What a read says again is not sent again. Polls that were missed for want of a
connection are a gap, which history fills where there is one.

A node that cannot be read costs itself: it is reported, left out and tried again; an answer that does not come in time
costs that poll of its nodes, counted (`timeouts`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.heartbeat import only, with_server_time
from opcua_collector.intake import Intake
from opcua_collector.nodes import CHUNK, Facts, Node, Nodes, Reporter, together
from opcua_collector.plan import Plan
from opcua_collector.services import wire
from opcua_collector.services.batches import Batch, in_batches
from opcua_collector.services.session import Session
from opcua_collector.stack import UaStatusCodeError, node_bytes, node_of, prepared, ua
from opcua_collector.values.notifications import Publication, decode_values
from sluice.tasks import within

logger = logging.getLogger(__name__)

MISSED: Final = "polls that were missed for want of a connection"
"""A gap's reason."""
_PATIENCE: Final = 3  # polls in a row without any answer in time, after which the connection counts as gone
_SECOND: Final = 10**9
_LEFT_OUT: Final = np.array(
    [
        ua.StatusCodes.BadNodeIdUnknown,
        ua.StatusCodes.BadNodeIdInvalid,
        ua.StatusCodes.BadAttributeIdInvalid,
        ua.StatusCodes.BadNotReadable,
        ua.StatusCodes.BadUserAccessDenied,
        ua.StatusCodes.BadIndexRangeInvalid,
    ],
    np.uint32,
)
"""What a server says of a node and not of its value."""


@dataclass(slots=True)
class _Item(Node):
    """A tag and how it is asked for."""

    request: bytes = b""  # by its registered id where it has one; empty: it is not read at present
    registered: bytes = b""  # in this session


class Polled(Nodes[_Item]):
    """Reads the values of one group's tags. `run` goes on for as long as the session."""

    def __init__(
        self,
        connection: str,
        settings: Settings,
        plan: Plan,
        tags: Mapping[str, Tag],
        intake: Intake,
        problems: Reporter,
        names: dict[int, str],
    ) -> None:
        super().__init__(connection, settings, plan, tags, intake, problems, names)
        self._polled: tuple[list[int], list[tuple[int, bytes]]] | None = None  # handles, and with their requests
        self._released: list[bytes] = []  # registered ids that nobody uses any more
        self._away = True  # no poll since the connection was lost, or since our start
        self._answered = 0.0  # when a poll was answered last
        self._news: NDArray[np.int64] = np.zeros(64, np.int64)  # by handle: when something was sent, monotonic ns
        self._registers = True
        self._replanned = asyncio.Event()  # the interval may be another one
        self._silent = 0  # polls in a row that nothing was answered of
        self._seconds = 0.0
        self._counts = {"polls": 0, "overruns": 0, "timeouts": 0, "heartbeats": 0, "heartbeats_without_server_time": 0}

    def interrupted(self) -> None:
        """The session has ended: in the next, every refused node is tried again."""
        self._away = True
        self._wait_no_longer()

    async def run(self, session: Session, facts: asyncio.Task[Facts]) -> None:
        """Polls in one session, until it ends. Raises what ends it."""
        known = await asyncio.shield(facts)
        self._registers = True
        self._silent = 0
        self._released.clear()
        for item in self._items.values():
            item.request = item.registered = item.node = b""
        self._polled = None
        await together(self._follow(known), self._poll(known), self._describe(known))

    # --- what is configured is what is read ---

    def _new_item(self, handle: int, tag: Tag) -> _Item:
        return _Item(handle, tag)

    def _left(self, name: str, item: _Item, *, moved: bool) -> bool:
        super()._left(name, item, moved=moved)
        watched = bool(item.request)
        if item.registered:
            self._released.append(item.registered)
        item.request = item.registered = b""
        self._polled = None
        return watched

    async def _follow(self, facts: Facts) -> None:
        """Finds the nodes of new tags; tries refused ones again."""
        while True:
            self._changed.clear()
            self._forget(await self._gone())
            await self._release(facts)
            now = asyncio.get_running_loop().time()
            wanted = [
                name
                for name in self._tags
                if self._may_be_tried(name, now) and ((item := self._items.get(name)) is None or not item.request)
            ]
            for start in range(0, len(wanted), CHUNK):
                good = await self._found(facts, wanted[start : start + CHUNK], len(wanted))
                await self._register(facts, good)
            if wanted:
                logger.info("Connection %s polls %d of %d tags", self._connection, len(self.handles()), len(self._tags))
            await self._until_something_is_due()

    async def _register(self, facts: Facts, names: Sequence[str]) -> None:
        """RegisterNodes: ids that the server finds faster. One that does not know the service is asked by plain ids."""
        items = [(name, item) for name in names if (item := self._items.get(name)) is not None]

        async def ask(some: Sequence[tuple[str, _Item]]) -> Sequence[bytes]:
            found = await facts.session.stack.register_nodes([node_of(item.node) for _, item in some])
            return [node_bytes(node) for node in found]

        plain = [item.node for _, item in items]
        known = plain
        if self._registers and items:
            try:
                known = await in_batches(items, facts.limits.register, ask, failed=lambda _: b"")
            except UaStatusCodeError as error:
                logger.info("Connection %s: the server registers no nodes: %s", self._connection, error)
                self._registers = False
        begun = []
        for (name, item), node, alias in zip(items, plain, known, strict=True):
            if self._items.get(name) is not item:
                continue
            item.registered = alias if self._registers else b""
            item.request = wire.read_value_id(alias or node, index_range=item.tag.index_range or "")
            self._limit(name, item)
            self._well(name)
            begun.append(item.handle)
        self._polled = None
        if not self._away:
            self._intake.watched(begun)

    async def _release(self, facts: Facts) -> None:
        """UnregisterNodes of what is not read any more."""
        released, self._released = self._released, []
        if not released or not self._registers:
            return

        async def ask(some: Sequence[bytes]) -> Sequence[int]:
            await facts.session.stack.unregister_nodes([node_of(node) for node in some])
            return [0] * len(some)

        try:
            await in_batches(released, facts.limits.register, ask, failed=int)
        except UaStatusCodeError as error:  # they end with the session
            logger.debug("Connection %s: nodes stay registered: %s", self._connection, error)

    def want(self, settings: Settings, plan: Plan, tags: Mapping[str, Tag], elsewhere: Any = ()) -> None:
        """These tags from now on. `elsewhere`: those that are in another group of the connection now."""
        narrowed = plan.deadband != self._plan.deadband
        super().want(settings, plan, tags, elsewhere)
        self._replanned.set()
        if narrowed:
            for name, item in self._items.items():
                self._limit(name, item)

    def _limit(self, name: str, item: _Item) -> None:
        """A deadband is ours to keep: no server knows one for what it is asked."""
        if self._plan.deadband is not None and self._keeps_numbers(item):
            self._narrow(name, item)
        else:
            self._assembler.filter(item.handle, None)

    def _described(self, name: str, item: _Item) -> None:
        if item.request:
            self._limit(name, item)

    # --- polls ---

    async def _poll(self, facts: Facts) -> None:
        clock = asyncio.get_running_loop().time
        interval = 0.0
        due = clock()
        while True:
            if interval != self._plan.poll:  # it begins anew when the configuration has another interval
                interval = self._plan.poll
                due = clock()
            handles, requests = self._present()
            if requests:
                began = clock()
                await self._once_all(facts, handles, requests)
                self._seconds = clock() - began
            due += interval
            behind = clock() - due
            if behind > 0:
                missed = int(behind // interval) + 1
                self._counts["overruns"] += missed if requests else 0
                due += missed * interval
            self._replanned.clear()
            if interval == self._plan.poll:
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(max(0.0, due - clock()), self._replanned.wait())

    def _present(self) -> tuple[list[int], list[tuple[int, bytes]]]:
        if self._polled is None:
            requests = [(item.handle, item.request) for item in self._items.values() if item.request]
            self._polled = [handle for handle, _ in requests], requests
            most = max(self._polled[0], default=0)
            if most >= len(self._news):
                grown = np.zeros(2 * most + 64, np.int64)
                grown[: len(self._news)] = self._news
                self._news = grown
        return self._polled

    async def _once_all(self, facts: Facts, handles: Sequence[int], requests: Sequence[tuple[int, bytes]]) -> None:
        """One poll of all."""
        batch = facts.limits.read
        taken: list[asyncio.Future[None]] = []
        self._counts["polls"] += 1
        unanswered = 0

        async def ask(some: Sequence[tuple[int, bytes]]) -> Sequence[int]:
            nonlocal unanswered
            body = wire.read_body([request for _, request in some])
            try:
                data = bytes(await facts.session.stack._send_request(prepared("Read", body)))
            except asyncio.TimeoutError:
                unanswered += 1
                if isinstance(batch, Batch):
                    batch.too_much(len(some) // 2)
                return [0] * len(some)
            self._hand_on([handle for handle, _ in some], handles, data, taken)
            return [0] * len(some)

        answers = await in_batches(requests, batch, ask, failed=int)
        self._counts["timeouts"] += unanswered
        for handle, status in zip(handles, answers, strict=True):
            if status:
                self._leave_out(handle, status)
        if taken:
            self._silent = 0
            await asyncio.gather(*taken)  # while nothing can be stored, nothing is read
        elif unanswered:
            self._silent += 1
            if self._silent >= _PATIENCE:
                raise asyncio.TimeoutError(f"{self._silent} polls in a row were not answered")

    def _hand_on(
        self, some: Sequence[int], all_: Sequence[int], data: bytes, taken: list[asyncio.Future[None]]
    ) -> None:
        """The values of some tags."""
        received = time.time_ns()
        server_time = self._settings.timestamps == "server"
        read = decode_values(data, 0, some, received=received, server_time=server_time)
        rows = np.array(some, np.int64)
        known = np.array([handle in self.names for handle in some], bool)
        if not known.all():  # some have gone while the answer was on its way
            read = only(read, rows[known])
            rows = rows[known]
        if self._away:
            self._away = False
            now = time.monotonic()
            if not self._answered or now - self._answered > self._plan.poll:
                self._intake.open_gap(MISSED, only=self._tags)  # those of which the nodes are not found yet as well
            self._intake.watched(all_)
        self._answered = time.monotonic()
        self._assembler.again(rows)
        before = self._assembler.latest(rows)
        taken.append(self._intake.hand_on(read, {}))
        now_ns = time.monotonic_ns()
        changed = self._assembler.latest(rows) != before
        self._news[rows[changed]] = now_ns
        self._beat(rows, some, data, read, received, now_ns)
        for block in read.blocks:
            refused = np.isin(block.status & np.uint32(0xFFFF0000), _LEFT_OUT)
            for row in np.flatnonzero(refused).tolist():
                self._leave_out(int(block.handle[row]), int(block.status[row]))

    def _beat(
        self, rows: NDArray[np.int64], some: Sequence[int], data: bytes, read: Publication, received: int, now: int
    ) -> None:
        """Of tags without news for as long as the heartbeat: what the server says, with its time."""
        heartbeat = self._plan.heartbeat
        if heartbeat is None:
            return
        fresh = self._news[rows] == 0
        self._news[rows[fresh]] = now
        due = rows[now - self._news[rows] >= heartbeat * _SECOND]
        if not len(due):
            return
        self._news[due] = now
        by_server = decode_values(data, 0, some, received=received, server_time=True)
        by_source = decode_values(data, 0, some, received=received)
        timed, left = with_server_time(only(by_server, due), only(by_source, due), by_server.untimed)
        self._counts["heartbeats"] += len(timed)
        self._counts["heartbeats_without_server_time"] += left
        self._intake.heartbeat(timed)

    def _leave_out(self, handle: int, status: int) -> None:
        """The node cannot be read: it is looked for anew later, and the others are read on."""
        name = self.names.get(handle, "")
        item = self._items.get(name)
        if item is None or item.handle != handle or not item.request:
            return
        if item.registered:
            self._released.append(item.registered)
        item.request = item.registered = b""
        self._polled = None
        self._refused_by_server(name, item.tag, status)
        self._changed.set()

    # --- who asks ---

    def handles(self) -> list[int]:
        """Client handles of the tags that are read."""
        return self._present()[0]

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        told: dict[str, Any] = {"tags": len(self._tags), "polled": len(self.handles())}
        if self._trouble:
            told["bad_tags"] = len(self._trouble)
        if self._plan.deadband is not None:
            local = sum(bool(item.request) and self._keeps_numbers(item) for item in self._items.values())
            told["deadband"] = {"server": 0, "client": local}
        if self._counts["polls"]:
            told["poll_took_s"] = round(self._seconds, 3)
        return {**told, **{key: count for key, count in self._counts.items() if count}}

    def describe(self) -> dict[str, Any]:
        """For who wants to know how the values are read."""
        return {**self.status(), "poll_s": self._plan.poll, "registered": self._registers}

    def of_tag(self, tag: str) -> dict[str, Any] | None:
        """The same for one tag; None: it is not of this group."""
        known = self._of_tag(tag)
        if known is not None:
            item = self._items.get(tag)
            known.update(poll_s=self._plan.poll, registered=item is not None and bool(item.registered))
        return known
