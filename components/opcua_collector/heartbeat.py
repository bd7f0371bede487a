"""Whether silence is true: tags without news are read, and the answer is compared with what was brought.

Two things follow from it. With a heartbeat configured, what the server says of a silent tag is sent, with the
*server's* time and the status `heartbeat`: so a reader knows that the value still holds. Its source time is never
touched, and a server that gives no time of its own gives no heartbeat. A heartbeat is no news: it moves no mark and
ends no gap.

And a tag that reads newer than anything that its subscription has brought, at two looks with time enough between them
(twice the longest sampling or publishing interval, and a grace), is *late*: that subscription does not do what it
says. This is looked at of all that a heartbeat reads, else of a few silent tags every minute, picked at random.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from opcua_collector.intake import Intake
from opcua_collector.nodes import Facts
from opcua_collector.plan import Plan
from opcua_collector.services import wire
from opcua_collector.services.batches import in_batches
from opcua_collector.stack import UaError, prepared
from opcua_collector.values.notifications import Block, Publication, decode_values

logger = logging.getLogger(__name__)

_SAMPLED: Final = 100  # silent tags that are looked at,
_EVERY: Final = 60.0  # seconds between looks, where there is no heartbeat
_SHORTEST, _LONGEST = 0.2, 5.0  # seconds between looks for tags whose heartbeat is due
_GRACE: Final = 2.0  # seconds that a value may take beyond two publishing intervals
_MOST_SUSPECTS: Final = 1000
_COMPARED: Final = 200  # characters of a text: of longer ones not more is remembered
_SECOND: Final = 10**9


class Watched(Protocol):
    """Whose tags they are: `items.Items`."""

    def column(self) -> NDArray[np.int64]:
        """Client handles of the tags that are watched."""

    @property
    def slowest(self) -> float:
        """The longest sampling interval of them, in seconds, as revised."""

    def request_of(self, handle: int) -> bytes | None:
        """What asks for the tag's value in a ReadRequest."""


class Heartbeat:
    """Looks after the silent tags of one group."""

    def __init__(self, connection: str, intake: Intake) -> None:
        self.late: set[int] = set()
        """Client handles of tags that the server has newer values of than it has sent."""
        self._connection = connection
        self._intake = intake
        self._read: NDArray[np.int64] = np.zeros(64, np.int64)  # by handle: when it was read last, monotonic ns
        self._suspects: dict[int, int] = {}  # handle -> when it was first found to be newer
        self._sent = self._untimed = self._unanswered = 0

    def forget(self, handle: int) -> None:
        """The handle stands for nothing any more."""
        self.late.discard(handle)
        self._suspects.pop(handle, None)
        if handle < len(self._read):
            self._read[handle] = 0

    async def run(
        self,
        facts: Facts,
        watched: Watched,
        plan: Callable[[], Plan],
        publishing: float,
        stalled: Callable[[], None],
    ) -> None:
        """In one session, for ever. `publishing`: seconds, as revised. `stalled`: most that was looked at is late."""
        began = checked = time.monotonic_ns()
        considered: set[int] = set()  # what was looked at lately
        self._suspects.clear()
        while True:
            present = plan()
            patience = 2 * max(publishing, watched.slowest) + _GRACE
            heartbeat = present.heartbeat
            await asyncio.sleep(min(_LONGEST, max(_SHORTEST, heartbeat / 10)) if heartbeat else min(patience, _EVERY))
            now = time.monotonic_ns()
            again = [handle for handle, since in self._suspects.items() if now - since >= patience * _SECOND]
            silent = self._silent(watched.column(), began, now, heartbeat or _EVERY)
            if heartbeat is None:
                due = now - checked >= _EVERY * _SECOND
                silent = np.array(random.sample(silent.tolist(), min(_SAMPLED, len(silent))) if due else [], np.int64)
            if not len(silent) and not again:
                self._no_longer_late()
                continue
            if len(silent):
                checked = now
                considered = set(silent.tolist())
            considered.update(again)
            asked = list(dict.fromkeys([*again, *silent.tolist()]))
            await self._look(facts, watched, asked, present, patience, send=heartbeat is not None)
            self._no_longer_late()
            if again and 2 * len(self.late & considered) >= len(considered):
                logger.warning(
                    "Connection %s: %d of %d silent tags have values that are not sent",
                    self._connection, len(self.late), len(considered),
                )  # fmt: skip
                stalled()

    def _silent(self, handles: NDArray[np.int64], began: int, now: int, seconds: float) -> NDArray[np.int64]:
        """Those without news for so long, and not read meanwhile either."""
        if not len(handles):
            return handles
        if handles.max() >= len(self._read):
            grown = np.zeros(2 * int(handles.max()) + 64, np.int64)
            grown[: len(self._read)] = self._read
            self._read = grown
        latest = np.maximum(np.maximum(self._intake.assembler.arrived[handles], self._read[handles]), began)
        silent: NDArray[np.int64] = handles[now - latest >= seconds * _SECOND]
        return silent

    def _no_longer_late(self) -> None:
        """What has come after all is not late."""
        arrived = self._intake.assembler.arrived
        for handle in [one for one, since in self._suspects.items() if int(arrived[one]) > since]:
            del self._suspects[handle]
            self.late.discard(handle)

    async def _look(
        self, facts: Facts, watched: Watched, handles: Sequence[int], plan: Plan, patience: float, *, send: bool
    ) -> None:
        asked = [(handle, request) for handle in handles if (request := watched.request_of(handle)) is not None]

        async def ask(some: Sequence[tuple[int, bytes]]) -> Sequence[int]:
            began = time.monotonic_ns()
            body = wire.read_body([request for _, request in some])
            data = bytes(await facts.session.stack._send_request(prepared("Read", body)))
            self._answered([handle for handle, _ in some], data, plan, patience, began, send=send)
            return [0] * len(some)

        try:
            answers = await in_batches(asked, facts.limits.read, ask, failed=int)
        except UaError as error:
            logger.warning("Connection %s: silent tags cannot be read: %s", self._connection, error)
            answers = [1] * len(asked)
        self._unanswered += sum(answer != 0 for answer in answers)

    def _answered(
        self, handles: Sequence[int], data: bytes, plan: Plan, patience: float, began: int, *, send: bool
    ) -> None:
        now = time.monotonic_ns()
        self._read[np.array(handles, np.int64)] = now
        received = time.time_ns()
        by_source = decode_values(data, 0, handles, received=received)
        self._suspect(by_source, plan, patience, began)
        if send:
            by_server = decode_values(data, 0, handles, received=received, server_time=True)
            timed, left = with_server_time(by_server, by_source, by_server.untimed)
            self._untimed += left
            self._sent += len(timed)
            self._intake.heartbeat(timed)

    def _suspect(self, read: Publication, plan: Plan, patience: float, began: int) -> None:
        """Looks for values that are newer than what was brought by as much as a value may take, and more."""
        assembler = self._intake.assembler
        for block in read.blocks:
            known = assembler.latest(block.handle)
            newer = (known > 0) & (block.time > known + int(patience * _SECOND))
            newer &= assembler.arrived[block.handle] < began
            for row in np.flatnonzero(newer)[:_MOST_SUSPECTS].tolist():
                handle = int(block.handle[row])
                value = None if block.value is None else block.value[row]
                if not self._is_news(handle, value, int(block.status[row]), plan):
                    continue
                since = self._suspects.get(handle)
                if since is None:
                    if len(self._suspects) < _MOST_SUSPECTS:
                        self._suspects[handle] = began
                elif began - since >= patience * _SECOND:
                    self.late.add(handle)

    def _is_news(self, handle: int, value: Any, status: int, plan: Plan) -> bool:
        """Whether the server, which has this, should have sent it: by the group's trigger and deadband."""
        last = self._intake.assembler.last(handle)
        if last is None or not isinstance(last[2], int):
            return False
        if status >> 30 != last[2] >> 30:
            return True
        if plan.trigger != "value":
            return plan.trigger == "timestamp"
        before = last[1]
        if before is None or value is None or not isinstance(before, (int, float)):
            return isinstance(before, str) and isinstance(value, str) and before[:_COMPARED] != value[:_COMPARED]
        if not isinstance(value, (int, float, np.number, np.bool_)):
            return False
        if plan.deadband is None:
            return bool(value != before)
        width = plan.deadband.absolute
        return width is not None and bool(abs(float(value) - float(before)) > width)

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        told = {
            "late": len(self.late),
            "heartbeats": self._sent,
            "heartbeats_without_server_time": self._untimed,
            "heartbeats_unanswered": self._unanswered,
        }
        return {key: count for key, count in told.items() if count}


def with_server_time(by_server: Publication, by_source: Publication, untimed: int) -> tuple[Publication, int]:
    """The rows that have a time of the server's own, and how many have none; `untimed`: how many may have none."""
    if not untimed:
        return by_server, 0
    # Where the server's time is missing another one stands in for it, which is the same in both.
    source = _times(by_source)
    keep = [handle for handle, time in _times(by_server).items() if source.get(handle) != time]
    timed = only(by_server, np.array(keep, np.int64))
    return timed, len(by_server) - len(timed)


def _times(publication: Publication) -> dict[int, int]:
    return {
        handle: time
        for block in publication.blocks
        for handle, time in zip(block.handle.tolist(), block.time.tolist(), strict=True)
    }


def only(publication: Publication, handles: NDArray[np.int64]) -> Publication:
    """The rows of these handles."""
    blocks = []
    for block in publication.blocks:
        rows = np.isin(block.handle, handles)
        if rows.any():
            value = None if block.value is None else block.value[rows]
            of = (block.index[rows], block.handle[rows], value, block.status[rows], block.time[rows])
            blocks.append(Block(block.family, *of))
    return Publication(blocks=tuple(blocks))
