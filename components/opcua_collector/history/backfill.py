"""Reads the server's history, beside the live data and never in its way.

`Gaps` says what is to be read and takes note of what has been; `history` asks. Here is the rest: what may run at once,
how fast, what waits for what. `requested.Requested` takes the place of `Gaps` for ranges that somebody asked for. A
connection keeps one Backfill of each for its life, and runs `run` as one of the tasks of each session that publishes:

    backfill = Backfill(name, outlet, assembler, node=items.node, behind=feed_is_behind)
    ... _first_end(run.finish, ..., backfill.run(session, limits))          # cancelled when the session ends

Cancelled at any point it goes on in the next session, and after a kill in the next process: what was handed on and how
far that was are one transaction. It learns by itself which nodes have a history, and tells events for those without.

Values of one page that have the time of its last one wait for the next page, which may bring more of that time: so what
was handed on always ends between two times, and can be gone on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from opcua_collector.history import raw
from opcua_collector.history.gaps import Piece
from opcua_collector.history.raw import Outcome, Page, Question
from opcua_collector.problems import status_name
from opcua_collector.services import browse
from opcua_collector.services.batches import TOO_MUCH
from opcua_collector.services.browse import OperationLimits
from opcua_collector.stack import NodeId, StackSession, UaError, UaStatusCodeError
from opcua_collector.values.encoding import MalformedError
from opcua_collector.values.notifications import Block
from opcua_collector.values.samples import Assembler
from sluice.batch import Columns
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

CALLS: Final = 2
"""HistoryReads in flight."""
RATE: Final = 50_000.0
"""Values per second, at most."""
_TICK: Final = 0.5
_SLICE: Final = 10_000  # values that are handed on at once
_FEWEST: Final = 10  # values per node below which a server that calls it too much is not asked
_LEARNT_AT_ONCE: Final = 1000
_PAUSE: Final = 5.0  # seconds before what failed is tried again, times how often it did
_TRIES: Final = 5
_IDLE_PAGES: Final = 20  # pages without a later value before a continuation point is not believed any more
_GOODBYE: Final = 0.5  # seconds for the release of continuation points

_FAILURES = (UaError, OSError, asyncio.TimeoutError, MalformedError)


class Outlet(Protocol):
    """What it needs of `sluice.streams.Outlet`."""

    @property
    def newest(self) -> int:
        """Newest number assigned in the live data stream."""

    @property
    def full(self) -> bool:
        """Nothing more can be kept at present."""

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] = ..., filtered: int = 0
    ) -> Awaitable[None]:
        """Samples of the past and positions in one transaction; ends when it is durable."""

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] = ...
    ) -> Awaitable[None]:
        """The same for events."""


class Work(Protocol):
    """What is to be read: `gaps.Gaps`, `requested.Requested`."""

    unknown: set[int]

    def eligible(self, handle: int, why: str) -> None:
        """Whether the server keeps a history of the tag: "", or why not."""

    def events(self, now: float) -> list[dict[str, Any]]:
        """What cannot be read, told once."""

    def work(self, now: float, most: int) -> list[Piece]:
        """What to read next with one call; each piece is busy until `finished`, `refused` or `returned`."""

    def bounds(self, piece: Piece) -> tuple[int, int] | None:
        """What of the piece is still wanted: at < time < end."""

    def advanced(self, piece: Piece, upto: int) -> None:
        """Samples of the piece up to this time have been handed on."""

    def brought(self, values: int) -> None:
        """So many values have been handed on."""

    def finished(self, piece: Piece) -> None:
        """The piece has been read to its end."""

    def refused(self, piece: Piece, why: str) -> None:
        """The server keeps no history of the tag after all."""

    def returned(self, piece: Piece, due: float) -> None:
        """The piece was not read to its end; not before `due` again."""

    def dump(self, newest: int) -> bytes:
        """What survives, as a position."""

    def status(self) -> dict[str, Any]:
        """What there is still to do."""


class Live(Protocol):
    """What it needs of `opcua_collector.services.session.Session`."""

    @property
    def stack(self) -> StackSession:
        """asyncua's session."""


@dataclass(slots=True, eq=False)
class _Reading:
    """A piece that is being read."""

    piece: Piece
    node: NodeId | None
    point: bytes = b""  # a continuation point that the server keeps for us
    over: bool = False  # as far as it is read in this group
    last: int = 0  # the latest time that came
    idle: int = 0  # pages since a later one came
    held: list[Block] = field(default_factory=list)  # values of the last time of the last page

    @property
    def question(self) -> Question:
        return Question(self.piece.handle, self.node, self.point)


@dataclass(slots=True)
class Counts:
    """Since the start of the connection."""

    calls: int = 0
    values: int = 0
    failed: int = 0  # calls that failed
    undecodable: int = 0


class Backfill:
    """`node`: the node of a client handle, None while it is not monitored. `behind`: whether live data has to wait.

    work, position: what is to be read, and under which position that is kept; without them the assembler's gaps. wait:
    what else it has to wait for, empty for nothing.
    """

    def __init__(
        self,
        connection: str,
        outlet: Outlet,
        assembler: Assembler,
        *,
        node: Callable[[int], NodeId | None],
        behind: Callable[[], bool],
        work: Work | None = None,
        position: str = "gaps",
        wait: Callable[[], str] = lambda: "",
        rate: float = RATE,
        values_per_node: int = raw.VALUES_PER_NODE,
    ) -> None:
        self.counts = Counts()
        self._connection = connection
        self._outlet = outlet
        self._assembler = assembler
        self._work: Work = assembler.gaps if work is None else work
        self._position = position
        self._wait = wait
        self._reading = False
        self._node = node
        self._behind = behind
        self.rate = rate
        """Values per second, at most. May change at any time."""
        self._values = values_per_node
        self._failures: dict[int, int] = {}  # by handle
        self._ahead = 0.0  # values that were handed on before the rate allowed them,
        self._counted = _now()  # as of this moment
        self._unlearnt_until = 0.0
        self._waits = ""

    async def run(self, session: Live, limits: OperationLimits) -> None:
        """Learn, tell and fill until cancelled. Trouble with the history is no trouble of the connection."""
        tasks: set[asyncio.Task[None]] = set()
        size = [max(1, limits.history)]  # nodes asked for at once; fewer when the server says that it is too much
        looked = 0.0
        try:
            while True:
                if _now() - looked >= _TICK:
                    await self._learn(session.stack, limits)
                    self._tell()
                    looked = _now()
                while len(tasks) < CALLS and not self._must_wait():
                    pieces = self._work.work(_now(), size[0])
                    if not pieces:
                        break
                    tasks.add(asyncio.create_task(self._read(session.stack, pieces, size)))
                self._reading = bool(tasks)
                if tasks:
                    done, tasks = await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                else:
                    await asyncio.sleep(_TICK)
        finally:
            self._reading = False
            await end(*tasks)

    @property
    def reading(self) -> bool:
        """Something is being read just now."""
        return self._reading

    def status(self) -> dict[str, Any]:
        """For the connection's status: what remains, what was done."""
        remaining = self._work.status()
        told = {key: value for key, value in asdict(self.counts).items() if value}
        if remaining:
            told["remaining"] = remaining
            if self._waits:
                told["waits"] = self._waits
        return told

    # --- what is known of the nodes ---

    async def _learn(self, stack: StackSession, limits: OperationLimits) -> None:
        """Which of the nodes have a history."""
        if not self._work.unknown or _now() < self._unlearnt_until:
            return
        some: list[tuple[int, NodeId]] = []
        try:
            for place, handle in enumerate(list(self._work.unknown), 1):
                node = self._node(handle)
                if node is not None:
                    some.append((handle, node))
                if len(some) >= _LEARNT_AT_ONCE:
                    await self._ask_whether(stack, limits, some)
                    some = []
                elif place % _LEARNT_AT_ONCE == 0:
                    await asyncio.sleep(0)  # there may be very many that nobody has found yet
            if some:
                await self._ask_whether(stack, limits, some)
        except _FAILURES as error:
            self._unlearnt_until = _now() + _PAUSE
            logger.warning("Connection %s: which nodes have a history is not known: %r", self._connection, error)

    async def _ask_whether(
        self, stack: StackSession, limits: OperationLimits, some: Sequence[tuple[int, NodeId]]
    ) -> None:
        answers = await browse.history(stack, limits, [node for _, node in some])
        for (handle, _), why in zip(some, answers, strict=True):
            self._work.eligible(handle, why)

    def _tell(self) -> None:
        """Events of what cannot be read, with the note that they were told."""
        events = self._work.events(_now())
        if events:
            for event in events:
                logger.warning(
                    "Connection %s: %d tags may lack samples (%s) and they cannot be read back: %s",
                    self._connection,
                    event["gaps"],
                    event["reason"],
                    event["why"],
                )
            about = {"kind": "gap", "time_ns": time.time_ns(), "connection": self._connection}
            self._submit_events([{**about, **event} for event in events])

    def _submit_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        positions = {self._position: self._work.dump(self._outlet.newest)}
        submitted = asyncio.ensure_future(self._outlet.submit_events(events, positions=positions))
        submitted.add_done_callback(_retrieved)

    # --- reading ---

    def _must_wait(self) -> bool:
        if self._outlet.full:
            self._waits = "for room in the outbox"
        elif self._behind():
            self._waits = "for live data"
        else:
            self._waits = self._wait()
        return bool(self._waits)

    async def _let_pass(self) -> None:
        while self._must_wait() or self._pace():  # noqa: ASYNC110 - of what it waits for nobody tells
            await asyncio.sleep(min(_TICK, max(0.02, self._ahead / self.rate)))

    def _pace(self, values: int = 0) -> bool:
        """Whether more was handed on, with these values, than the rate allows by now."""
        now = _now()
        self._ahead = max(0.0, self._ahead - (now - self._counted) * self.rate) + values
        self._counted = now
        return self._ahead > 0.0

    async def _read(self, stack: StackSession, pieces: Sequence[Piece], size: list[int]) -> None:
        """Read pieces that one request can ask for, to their ends or as far as the server lets us."""
        start = min(piece.at for piece in pieces)
        stop = max(piece.until for piece in pieces)
        readings = [_Reading(piece, self._node(piece.handle)) for piece in pieces]
        waiting = deque(reading for reading in readings if reading.node is not None)
        pause = _PAUSE
        try:
            while waiting:
                await self._let_pass()
                asked = [waiting.popleft() for _ in range(min(size[0], len(waiting)))]
                pages = await self._ask(stack, asked, start, stop, size)
                if pages is None:
                    waiting.extendleft(reversed(asked))
                    continue
                for some in _slices(zip(asked, pages, strict=True)):
                    before = self._assembler.counts.filtered
                    columns = self._take(some, size)
                    filtered = self._assembler.counts.filtered - before
                    waiting.extend(reading for reading, _ in some if reading.point and not reading.over)
                    if columns or filtered:
                        await self._durable(columns, filtered)
        except asyncio.CancelledError:
            pause = 0.0
            raise
        except Exception:
            logger.exception("Connection %s: reading from history failed", self._connection)
        finally:
            for reading in readings:
                self._work.returned(reading.piece, _now() + pause)  # no more than a look where it is over
            await self._release(stack, [reading.question for reading in readings if reading.point])

    async def _ask(
        self, stack: StackSession, asked: Sequence[_Reading], start: int, stop: int, size: list[int]
    ) -> list[Page] | None:
        """One call: a page each. None: it was too much, and is to be asked for in smaller portions."""
        self.counts.calls += 1
        # No more at once than two seconds of the rate: what is asked for comes all together.
        values = min(self._values, max(1, int(2 * self.rate) // len(asked)))
        try:
            return await raw.ask(stack, [reading.question for reading in asked], start, stop, values)
        except _FAILURES as error:
            if not isinstance(error, UaStatusCodeError) or error.code not in TOO_MUCH:
                return self._failed(asked, error)
            if len(asked) > 1:
                size[0] = len(asked) // 2
                return None
            if self._values > _FEWEST:
                self._values = max(_FEWEST, self._values // 2)
                return None
            return self._failed(asked, error)

    def _failed(self, asked: Sequence[_Reading], error: Exception) -> list[Page]:
        """The whole call was refused: the same for each."""
        self.counts.failed += 1
        means, why = Outcome.LATER, type(error).__name__
        if isinstance(error, UaStatusCodeError):
            why = status_name(error.code)
            if raw.outcome(error.code) is Outcome.NEVER:
                means = Outcome.NEVER
        return [Page(means, why)] * len(asked)

    def _take(self, answers: Sequence[tuple[_Reading, Page]], size: list[int]) -> list[Columns]:
        """The samples of these pages that are wanted. They count as handed on, which must happen at once."""
        good = [(reading, page) for reading, page in answers if page.outcome is Outcome.TAKEN]
        for reading, page in answers:
            if page.outcome is not Outcome.TAKEN:
                self._put_off(reading, page.outcome, page.why, size)
        if not good:
            return []
        handles = np.array(sorted(reading.piece.handle for reading, _ in good), np.int64)
        place = {handle: row for row, handle in enumerate(handles.tolist())}
        blocks = self._blocks(good)
        last = _latest(handles, blocks)
        low, high, top = (np.zeros(len(handles), np.int64) for _ in range(3))
        for reading, page in good:
            row = place[reading.piece.handle]
            bounds = self._work.bounds(reading.piece)
            if bounds is not None:
                low[row], top[row] = bounds
                # What has the time of the page's last value waits: the next page may bring more of that time.
                high[row] = min(top[row], last[row]) if page.point or page.more else top[row]
        wanted = [_between(block, handles, low, high) for block in blocks]
        held = [_between(block, handles, np.maximum(low, high - 1), top) for block in blocks]
        done = _latest(handles, wanted)
        values = sum(map(len, wanted))
        self.counts.values += values
        self._work.brought(values)
        for reading, page in good:
            row = place[reading.piece.handle]
            if done[row] > low[row]:
                self._work.advanced(reading.piece, int(done[row]))
                self._failures.pop(reading.piece.handle, None)
            self._go_on(reading, page, int(last[row]), int(top[row]), size)
            if reading.point and not reading.over:
                reading.held = [some for block in held if len(some := _of(block, reading.piece.handle))]
        return self._assembler.brought(wanted)

    def _blocks(self, good: Sequence[tuple[_Reading, Page]]) -> list[Block]:
        """What was held of the pages before, and what these bring."""
        held = [block for reading, _ in good for block in reading.held]
        behind = max((int(block.index[-1]) + 1 for block in held), default=0)
        for reading, _ in good:
            reading.held = []
        bodies = [(reading.piece.handle, page.body) for reading, page in good if page.body]
        if not bodies:
            return held
        assembler = self._assembler
        found = raw.publication(bodies, assembler.handles, time.time_ns(), server_time=assembler.server_time)
        unreadable = found.lost + len(found.quarantined)
        if unreadable or found.damage:
            self.counts.undecodable += unreadable
            logger.warning(
                "Connection %s: %d values of the history cannot be read: %s",
                self._connection,
                unreadable,
                found.damage or found.quarantined[0].reason,
            )
        return [*held, *(replace(block, index=block.index + behind) for block in found.blocks)]

    def _go_on(self, reading: _Reading, page: Page, last: int, top: int, size: list[int]) -> None:
        """What the page means for the piece."""
        reading.point = page.point
        if last > reading.last:
            reading.last, reading.idle = last, 0
        else:
            reading.idle += 1
        if page.more and last < top:
            self._put_off(reading, Outcome.RESTART, "GoodMoreData without a continuation point", size)
        elif not page.point or last >= top:
            reading.over = True
            self._work.finished(reading.piece)
        elif reading.idle > _IDLE_PAGES:
            self._put_off(reading, Outcome.RESTART, "a continuation point that leads nowhere", size)

    def _put_off(self, reading: _Reading, means: Outcome, why: str, size: list[int]) -> None:
        """Not now: again soon, later, or never."""
        reading.over = True
        handle = reading.piece.handle
        if why == "BadNoContinuationPoints" and size[0] > 1:
            size[0] = max(1, size[0] * 3 // 4)
            self._work.returned(reading.piece, _now())
            return
        failures = self._failures.get(handle, 0) + 1
        if means is Outcome.NEVER or failures >= _TRIES:
            self._failures.pop(handle, None)
            self._work.refused(reading.piece, f"the server answers {why}")
            return
        self._failures[handle] = failures
        self._work.returned(reading.piece, _now() + (0.0 if means is Outcome.RESTART else _PAUSE * failures))

    async def _durable(self, columns: Sequence[Columns], filtered: int) -> None:
        """Hand samples on, together with how far that is; no faster than the rate."""
        self._pace(sum(map(len, columns)))
        positions = {self._position: self._work.dump(self._outlet.newest)}
        await self._outlet.submit_backfill(columns, positions=positions, filtered=filtered)
        await self._let_pass()

    async def _release(self, stack: StackSession, questions: Sequence[Question]) -> None:
        """Give continuation points back, of which servers have few. What a dead session had is gone with it."""
        if questions:
            with contextlib.suppress(*_FAILURES):
                await within(_GOODBYE, raw.release(stack, questions))


def _slices(answers: Iterable[tuple[_Reading, Page]]) -> Iterator[list[tuple[_Reading, Page]]]:
    """Portions of pages that are not too much to be handed on at once."""
    some: list[tuple[_Reading, Page]] = []
    count = 0
    for reading, page in answers:
        some.append((reading, page))
        count += page.count
        if count >= _SLICE:
            yield some
            some, count = [], 0
    if some:
        yield some


def _latest(handles: NDArray[np.int64], blocks: Iterable[Block]) -> NDArray[np.int64]:
    """The latest time of each handle; 0 for one that does not occur."""
    found = np.zeros(len(handles), np.int64)
    for block in blocks:
        places, known = _places(block, handles)
        np.maximum.at(found, places[known], block.time[known])
    return found


def _places(block: Block, handles: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the block's handles stand among the sorted ones, and which of them do."""
    places = np.minimum(np.searchsorted(handles, block.handle), len(handles) - 1)
    return places, handles[places] == block.handle


def _between(block: Block, handles: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> Block:
    """The rows with low < time < high, by handle."""
    places, known = _places(block, handles)
    return _rows(block, known & (block.time > low[places]) & (block.time < high[places]))


def _of(block: Block, handle: int) -> Block:
    return _rows(block, block.handle == handle)


def _rows(block: Block, rows: NDArray[np.bool_]) -> Block:
    value = None if block.value is None else block.value[rows]
    return Block(block.family, block.index[rows], block.handle[rows], value, block.status[rows], block.time[rows])


def _retrieved(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and future.exception() is not None:
        logger.error("Events of gaps could not be handed on: %r", future.exception())


def _now() -> float:
    return time.monotonic()
