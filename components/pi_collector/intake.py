"""From what the server sends to the outlet: each value once, of the qualities that are wanted, with what is read of it.

Theory of operation
-------------------
*One call, one transaction.* `hand_on` does everything at once, in the order of the calls: it asks the tail which values
are new, moves coverage, takes the journal of both, and submits samples and journal together. So what is kept is never
ahead of the samples. Its future is done when all of it is durable.

*Live values are gathered*, because what a transaction costs beside its values is as much for seven as for a thousand,
and channels send few at a time. The first ones go at once; what comes within GATHERED_WITHIN of that goes together.
Nothing overtakes them: whatever hands on otherwise, takes positions, or changes what a stream is, has them go first.

*What moves without samples is noted every second*, coverage of quiet streams above all, unless samples take it along
before: what a crash takes of it is read again, and the tail drops it.

*The gate does not stop coverage.* A value of a quality that is not wanted is known to the tail and counted as filtered;
it does not come again.

*When storing fails*, because the outbox is closed or refused a transaction, what the state knows is ahead of what is
kept. What was submitted before that was known may be stored all the same: `State.load` goes on from before what is
missing, and a checkpoint, which leaves nothing missing, waits until all before it is stored. The intake is `broken`
from then on: it takes nothing, notes nothing, and every call raises StoreError. The connection then begins anew, as
after a crash, with a state that it loads from the outlet's positions, which are those that were stored, and a new
intake.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pi_collector.config import Connection, Gate
from pi_collector.points.point import Stream
from pi_collector.values.decode import Decoded
from pi_collector.values.timed import Timed, join
from pi_collector.values.typing import TYPES, Typings
from sluice.columns import Columns, Quality, Series, ValueType

logger = logging.getLogger(__name__)

Advances = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Streams, and up to when (ns, inclusive) each is read completely."""

BULK_IMPORT: Final = (("route", "bulk-import"),)
"""Context of samples that are too old for where live ones go."""
AGED_NS: Final = 7 * 86400 * 10**9
"""From this age on they are: AWS IoT SiteWise takes no older ones."""
MOST_BYTES: Final = 8 * 2**20
MOST_SUBMITS: Final = 200
"""More than either that is not durable yet is too much: whoever reads waits."""
NOTED_WITHIN: Final = 1.0
GATHERED_WITHIN: Final = 0.1
"""Seconds from one transaction of gathered values to the next, unless there are"""
MOST_GATHERED: Final = 4096
"""as many values, or"""
MOST_GATHERED_BYTES: Final = 2**20
"""as many bytes of them."""
_SAMPLE_BYTES: Final = 48  # of a sample in memory, apart from its text
_TOLD: Final = 200  # characters of a malformed value's description
_WORST: Final[Mapping[Gate, Quality]] = {
    "all": Quality.BAD,
    "good-and-uncertain": Quality.UNCERTAIN,
    "good": Quality.GOOD,
}


class StoreError(Exception):
    """What was handed on could not be stored: nothing more is taken until the connection has begun anew."""


class State(Protocol):
    """What the intake needs of `coverage.state.State`."""

    def fresh(self, timed: Timed, answers: NDArray[np.int32] | None = None) -> NDArray[np.bool_]:
        """Rows not handed on before; they count as handed on from now on. answers: the number of each row's answer."""

    def known(self, timed: Timed) -> NDArray[np.bool_]:
        """Rows that were handed on before. Takes no note."""

    def advance(self, handles: NDArray[np.int32], upto: NDArray[np.int64]) -> None:
        """Read completely up to there."""

    def journal(self) -> Mapping[str, bytes | None]:
        """Positions for the transaction of all that happened since the last call."""

    def checkpoint(self) -> Mapping[str, bytes | None]:
        """The same, with all journals folded, which must be durable."""

    def fold(self) -> None:
        """Take a checkpoint down."""

    def folded(self) -> Mapping[str, bytes | None]:
        """It, once all journals before it are durable."""

    def due(self, now_mono: float) -> bool:
        """Whether it is time for a checkpoint."""


class Outlet(Protocol):
    """Where samples go: `sluice.streams.Outlet`."""

    @property
    def full(self) -> bool:
        """The outbox is full: this source should pause."""

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] = ...,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> Awaitable[None]:
        """Take over samples and positions in one transaction, in the order of the calls; ends when it is durable."""

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] = ..., filtered: int = 0
    ) -> Awaitable[None]:
        """The same for samples of the past."""

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] = ...
    ) -> Awaitable[None]:
        """The same for events."""

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        """Positions alone; None deletes one."""


class Intake:
    """Takes over a connection's values. `clock`: our own, ns since 1970, for the age of samples."""

    def __init__(
        self,
        connection: str,
        outlet: Outlet,
        state: State,
        settings: Connection,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.typings = Typings()
        self.broken: StoreError | None = None
        """Why nothing is taken any more."""
        self.latest = 0.0
        """When something new came last, wall clock."""
        self._connection = connection
        self._outlet = outlet
        self._state = state
        self._settings = settings
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        self._series: dict[int, Series] = {}
        self._aged: dict[int, Series] = {}
        self._worst: NDArray[np.uint8] = np.zeros(64, np.uint8)
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._undelivered = 0
        self._trouble = ""
        self._bytes = 0
        self._submits: set[asyncio.Future[None]] = set()
        self._before: set[asyncio.Future[None]] | None = None  # of these those that a checkpoint waits for
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._gathered: list[tuple[Timed, asyncio.Future[None]]] = []
        self._gathered_values = self._gathered_bytes = 0
        self._gathering: asyncio.TimerHandle | None = None
        self._went = float("-inf")  # when gathered values went last, loop time

    # --- streams ---

    def apply(self, settings: Connection) -> None:
        """Other settings, for streams that are fixed from now on."""
        self._settings = settings

    def fix(self, stream: Stream) -> str:
        """Values of the stream are taken from now on, so. What keeps it from being collected, or ""."""
        self.flush()
        trouble = self.typings.fix(stream, self._settings)
        handle = stream.handle
        if trouble:
            self.forget(handle)
            return trouble
        self._streams[handle] = stream
        self._series[handle] = Series(stream.tag, stream.asset, stream.unit)
        self._aged.pop(handle, None)
        if handle >= len(self._worst):
            grown = np.zeros(max(handle + 1, 2 * len(self._worst)), np.uint8)
            grown[: len(self._worst)] = self._worst
            self._worst = grown
        self._worst[handle] = _WORST[stream.plan.gate]
        self._note_soon()
        return ""

    def forget(self, handle: int) -> None:
        """No stream has this handle any more; what still comes of it is dropped and counted."""
        self.flush()
        self.typings.forget(handle)
        for known in (self._streams, self._series, self._aged):
            known.pop(handle, None)

    def name(self, handle: int) -> str:
        """The tag of a stream, "" for one that is not collected any more."""
        stream = self._streams.get(handle)
        return "" if stream is None else stream.tag

    # --- values ---

    def count(self, decoded: Decoded) -> None:
        """Note what an answer held beside values that are handed on."""
        counts = self._counts
        counts["unknown"] += decoded.unknown
        counts["dropped_states"] += decoded.dropped
        counts["deleted"] += len(decoded.deleted)
        counts["malformed"] += decoded.malformed
        self._undelivered += decoded.malformed
        if decoded.trouble:
            self._trouble = decoded.trouble[:_TOLD]
            logger.warning(
                "Connection %s: %d values cannot be read and are left out; the first: %s",
                self._connection,
                decoded.malformed,
                self._trouble,
            )

    def hand_on(
        self,
        timed: Timed,
        *,
        live: bool,
        advances: Advances | None = None,
        fresh: bool = True,
        positions: Mapping[str, bytes | None] | None = None,
    ) -> Awaitable[None]:
        """Take over values; what the future says is durable when it is done. Raises StoreError, as the future does.

        live: into the live stream, else into that of the past. advances: streams, and up to when (ns, inclusive) they
        are read completely with these values. fresh False: also what was handed on before. positions: of whoever reads,
        for the same transaction.

        Where nothing is new the future is done as soon as that is known, and what moved is noted within a second.
        """
        self._refuse_if_broken()
        self._note_soon()
        self._counts["received"] += len(timed)
        if live and fresh and advances is None and not positions and len(timed):
            return self._gather(timed)
        self.flush()
        return self._handed_on(timed, live, advances, fresh, positions or {})

    def known(self, timed: Timed) -> NDArray[np.bool_]:
        """Rows that were handed on before. Takes no note."""
        self.flush()
        return self._state.known(timed)

    def _gather(self, timed: Timed) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()
        size = _size(timed)
        self._gathered.append((timed, durable))
        self._gathered_values += len(timed)
        self._gathered_bytes += size
        self._bytes += size
        if self._gathered_values >= MOST_GATHERED or self._gathered_bytes >= MOST_GATHERED_BYTES:
            self.flush()
        elif self._gathering is None:
            wait = self._went + GATHERED_WITHIN - loop.time()
            if wait <= 0:
                self.flush()
            else:
                self._gathering = loop.call_later(wait, self.flush)
        return durable

    def flush(self) -> None:
        """Hand on now what is gathered. Never raises: what fails breaks the intake."""
        gathered = self._taken()
        if not gathered:
            return
        self._went = asyncio.get_running_loop().time()
        timed = join([timed for timed, _ in gathered])
        answers = None
        if len(gathered) > 1:
            answers = np.repeat(np.arange(len(gathered), dtype=np.int32), [len(timed) for timed, _ in gathered])
        try:
            stored = self._handed_on(timed, True, None, True, {}, answers)
        except StoreError as error:
            _resolve(gathered, error)
        else:
            if stored.done():
                _resolve(gathered, stored.exception())
            else:
                stored.add_done_callback(lambda done: _resolve(gathered, done.exception()))

    def _taken(self) -> list[tuple[Timed, asyncio.Future[None]]]:
        """What is gathered; nothing is any more."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        gathered, self._gathered = self._gathered, []
        self._bytes -= self._gathered_bytes
        self._gathered_values = self._gathered_bytes = 0
        return gathered

    def _handed_on(
        self,
        timed: Timed,
        live: bool,
        advances: Advances | None,
        fresh: bool,
        positions: Mapping[str, bytes | None],
        answers: NDArray[np.int32] | None = None,
    ) -> asyncio.Future[None]:
        """Raises StoreError."""
        self._refuse_if_broken()
        try:
            return self._hand_on(timed, live, advances, fresh, positions, answers)
        except Exception as error:
            # Half done: the tail may know what was not submitted.
            self._break(error)
            logger.exception("Connection %s: %d values could not be handed on", self._connection, len(timed))
            raise StoreError(str(self.broken)) from error

    def _hand_on(
        self,
        timed: Timed,
        live: bool,
        advances: Advances | None,
        fresh: bool,
        positions: Mapping[str, bytes | None],
        answers: NDArray[np.int32] | None,
    ) -> asyncio.Future[None]:
        known = self.typings.knows(timed.stream)
        if not known.all():
            self._counts["unknown"] += int(np.count_nonzero(~known))
            timed = timed.take(known)
            answers = None if answers is None else answers[known]
        if fresh and len(timed):
            new = self._state.fresh(timed, answers)
            if not new.all():
                self._counts["repeated"] += int(np.count_nonzero(~new))
                timed = timed.take(new)
        if advances is not None:
            self._state.advance(*advances)
        undelivered = self._undelivered if live else 0
        if not len(timed) and not undelivered and not positions:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        if len(timed):
            self.latest = time.time()
        passed, filtered = self._passed(timed)
        columns = self._columns(passed)
        noted = {**positions, **self._positions()}
        if live:
            self._undelivered = 0
            submitted = self._outlet.submit(columns, positions=noted, filtered=filtered, undelivered=undelivered)
        else:
            submitted = self._outlet.submit_backfill(columns, positions=noted, filtered=filtered)
        return self._kept(submitted, _size(passed))

    def _passed(self, timed: Timed) -> tuple[Timed, int]:
        """Those of a quality that is wanted, and how many are not."""
        if timed.quality is None:
            return timed, 0
        passed = timed.quality <= self._worst[timed.stream]
        if passed.all():
            return timed, 0
        handles, counts = np.unique(timed.stream[~passed], return_counts=True)
        for handle, count in zip(handles.tolist(), counts.tolist(), strict=True):
            self._rejected[self._streams[handle].plan.group] += count
        return timed.take(passed), int(counts.sum())

    def _columns(self, timed: Timed) -> list[Columns]:
        """Columns by type, in the order of the values."""
        if not len(timed):
            return []
        aged = timed.time < self._clock() - AGED_NS
        of_type = self.typings.type[timed.stream]
        found = []
        for place in np.unique(of_type).tolist():
            rows = np.flatnonzero(of_type == place)
            found.append(self._columns_of(TYPES[place], timed.take(rows), aged[rows]))
        return found

    def _columns_of(self, of: ValueType, timed: Timed, aged: NDArray[np.bool_]) -> Columns:
        codes, s = np.unique(timed.stream.astype(np.int64) * 2 + aged, return_inverse=True)
        null = None
        value: NDArray[Any] = timed.number
        if of is ValueType.STRING:
            value = np.full(len(timed), None, object) if timed.text is None else timed.text
        elif of is ValueType.INTEGER:
            missing = np.isnan(timed.number)
            null = missing if missing.any() else None
            value = np.where(missing, 0, timed.number).astype(np.int64)
        return Columns(
            type=of,
            series=tuple([self._series_of(code >> 1, code & 1 == 1) for code in codes.tolist()]),
            s=s.astype(np.int32),
            t=timed.time,
            value=value,
            quality=timed.quality,
            status=timed.status,
            words=timed.words,
            null=null,
        )

    def _series_of(self, handle: int, aged: bool) -> Series:
        series = self._series[handle]
        if not aged:
            return series
        found = self._aged.get(handle)
        if found is None:
            found = self._aged[handle] = Series(series.tag, series.asset, series.unit, extra=BULK_IMPORT)
        return found

    # --- what is durable ---

    @property
    def behind(self) -> int:
        """Bytes that are submitted and not durable yet, about."""
        return self._bytes

    @property
    def crowded(self) -> bool:
        """So much is not durable yet that whoever reads should wait: `room`."""
        return self._bytes > MOST_BYTES or len(self._submits) > MOST_SUBMITS

    async def room(self) -> None:
        """Wait until it is not crowded. Raises StoreError."""
        await self._room.wait()
        self._refuse_if_broken()

    @property
    def full(self) -> bool:
        """The outbox is full: transports and readers pause, and PI keeps what is to come."""
        return self._outlet.full

    def _positions(self) -> Mapping[str, bytes | None]:
        return self._state.journal()

    def _fold(self) -> None:
        """Take a checkpoint down when it is time. It is noted when all before it is stored, and never if that fails."""
        if self._before is None and self.broken is None and self._state.due(time.monotonic()):
            self._state.fold()
            self._before = set(self._submits)
            self._note_folded()

    def _note_folded(self) -> None:
        if self._before is not None and not self._before and self.broken is None and not self._closed:
            self._before = None
            try:
                self._kept(self._outlet.note(self._state.folded()), 0)
            except Exception as error:
                self._break(error)
                logger.exception("Connection %s: a checkpoint could not be noted", self._connection)

    def checkpoint(self) -> Awaitable[None]:
        """Note the state as it is now: whole, where nothing is under way. Raises StoreError, as the future does."""
        self.flush()
        self._refuse_if_broken()
        positions = self._state.journal() if self._submits else self._state.checkpoint()
        self._before = None
        return self._kept(self._outlet.note(positions), 0)

    def close(self) -> None:
        """What was handed on goes; nothing is noted by itself any more."""
        self.flush()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note_soon(self) -> None:
        """Note what moves, from now on every second."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(NOTED_WITHIN, self._note)

    def _note(self) -> None:
        self._timer = None
        self.flush()
        if self.broken is not None:
            return
        self._note_soon()
        try:
            positions = self._positions()
            if positions:
                self._kept(self._outlet.note(positions), 0)
            else:
                self._fold()
        except Exception as error:
            self._break(error)
            logger.exception("Connection %s: what is read could not be noted", self._connection)

    def _kept(self, submitted: Awaitable[None], size: int) -> asyncio.Future[None]:
        """The outlet's future, with StoreError for what it raises."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future = asyncio.ensure_future(submitted)
        self._bytes += size
        self._submits.add(future)
        if self.crowded:
            self._room.clear()
        future.add_done_callback(lambda done: self._stored(done, durable, size))
        self._fold()
        return durable

    def _stored(self, done: asyncio.Future[None], durable: asyncio.Future[None], size: int) -> None:
        self._bytes -= size
        self._submits.discard(done)
        if self._before is not None:
            self._before.discard(done)
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            self._break(error)
        if not self.crowded or self.broken is not None:
            self._room.set()
        self._note_folded()
        if durable.done():
            return
        if self.broken is None:
            durable.set_result(None)
        else:  # what was stored after something that was not is ahead of it, and to be read again
            durable.set_exception(self.broken)
            durable.exception()  # whoever does not wait for it is not told of it at the end either

    def _break(self, error: BaseException | None) -> None:
        if self.broken is None:
            why = str(error) if error is not None else "the outbox has given it up"
            self.broken = StoreError(f"values of connection {self._connection} could not be stored: {why}")
            logger.error("%s. It begins anew from what is stored", self.broken)
            _resolve(self._taken(), self.broken)

    def _refuse_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    # --- events ---

    def tell(self, kind: str, /, **what: Any) -> None:
        """An event of this connection, now."""
        self._submit_events([{"kind": kind, "time_ns": self._clock(), **what}], {})

    def events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Events of the state's, such as those of its ledger; that they are told is in the same transaction.

        Nothing while broken: the state that is loaded then tells them again.
        """
        if events:
            self.flush()
        if events and self.broken is None:
            self._submit_events(events, self._positions())

    def _submit_events(self, events: Sequence[Mapping[str, Any]], positions: Mapping[str, bytes | None]) -> None:
        named = [{**event, "connection": self._connection} for event in events]
        submitted = self._outlet.submit_events(named, positions=positions)
        if self.broken is None:
            self._kept(submitted, 0)
        else:
            asyncio.ensure_future(submitted).add_done_callback(_heeded)

    # --- who asks ---

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        told: dict[str, Any] = {name: count for name, count in self._counts.items() if count}
        if self._rejected:
            told["rejected"] = {group or "connection": count for group, count in self._rejected.items()}
        if self._submits:
            told["not_durable"] = {"submits": len(self._submits), "bytes": self._bytes}
        if self._trouble:
            told["malformed_last"] = self._trouble
        if self.broken is not None:
            told["trouble"] = str(self.broken)
        return told


def _resolve(gathered: Sequence[tuple[Timed, asyncio.Future[None]]], error: BaseException | None) -> None:
    """Those who wait for gathered values."""
    for _, durable in gathered:
        if durable.done():
            continue
        if error is None:
            durable.set_result(None)
        else:
            durable.set_exception(error)
            durable.exception()  # whoever does not wait for it is not told of it at the end either


def _heeded(done: asyncio.Future[None]) -> None:
    """What failed is logged by the outlet, and nobody waits for it."""
    if not done.cancelled():
        done.exception()


def _size(timed: Timed) -> int:
    """Bytes in memory, about."""
    size = len(timed) * _SAMPLE_BYTES
    if timed.text is not None:
        size += sum(len(text) for text in timed.text if text is not None)
    return size
