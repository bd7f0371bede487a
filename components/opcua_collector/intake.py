"""From the messages of a server to the outlet: samples and their high-water marks, gaps, what is damaged.

Everything here is done at once, in the order of the calls: what is durable when, the outlet's futures tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from opcua_collector.history import marks
from opcua_collector.history.gaps import Gaps
from opcua_collector.subscriptions.sequence import Missing
from opcua_collector.values.notifications import Publication, decode, decode_republished
from opcua_collector.values.samples import Assembler
from sluice.batch import Columns, SampleBatch

logger = logging.getLogger(__name__)

MARKS: Final = "marks"
GAPS: Final = "gaps"
_CHECKPOINT: Final = 10.0  # seconds between notes of the marks
_SOON: Final = 10.0  # seconds that a note which saves nothing may wait for others
_TOLD: Final = 20  # tags named in one event


class Outlet(Protocol):
    """Where samples go: `sluice.streams.Outlet`."""

    recoverable: bool

    @property
    def newest(self) -> int:
        """Newest number assigned in the live data stream."""

    @property
    def full(self) -> bool:
        """The outbox is full, and this source can be read again later: it should pause."""

    @property
    def roomy(self) -> bool:
        """There is room for more than what comes by itself."""

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

    def position(self, key: str) -> bytes | None:
        """As noted last."""

    def keep_after(self, number: int) -> None:
        """Keep live batches with later numbers, whoever has acknowledged them."""

    def recent(self, after: int) -> AsyncIterator[SampleBatch]:
        """Kept live batches with later numbers, in order."""


@dataclass(slots=True)
class Traffic:
    """Counters of a connection since the component's start."""

    connects: int = 0
    losses: int = 0
    resumed: int = 0  # connects by rung of the ladder
    transferred: int = 0
    renewed: int = 0
    republished: int = 0  # messages that came by Republish
    messages: int = 0
    keep_alives: int = 0
    repeated: int = 0
    ended: int = 0  # subscriptions that ended, or fell silent, by themselves while their session went on
    stalled: int = 0  # of these, those in which nothing flowed any more
    gaps: int = 0  # times that samples may be missing: messages that nobody had, subscriptions made anew
    missing: int = 0  # messages that the server sent and nobody had
    refused_acknowledgements: int = 0
    foreign: int = 0  # messages of subscriptions that are not ours
    events: int = 0  # OPC UA events recognised and not collected
    damaged: int = 0  # messages that could not be read completely


class Intake:
    """Takes over a connection's messages. `names`: the tags by client handle, as they are now."""

    def __init__(self, connection: str, outlet: Outlet, names: Callable[[], Mapping[int, str]]) -> None:
        self.traffic = Traffic()
        self.gaps = Gaps()
        self.assembler = Assembler(self.gaps)
        self.latest = 0.0
        """When data came last, wall clock."""
        self.ahead = 0
        """Nanoseconds by which the server's clock is ahead of ours."""
        self._connection = connection
        self._outlet = outlet
        self._names = names
        self._checkpoint = 0.0
        self._noting: set[asyncio.Future[None]] = set()
        self._later: dict[str, tuple[bytes, Callable[[asyncio.Future[None]], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        # At once: before consumers can have later ones deleted.
        outlet.keep_after(marks.newest(outlet.position(MARKS)))

    async def restore(self, tags: Collection[str]) -> None:
        """Begin where the last run ended; before the first tag is added."""
        # In a thread: with many tags it takes its time, and other connections run already.
        kept = await asyncio.to_thread(marks.restore, self._outlet.position(MARKS))
        trouble_of_gaps = await asyncio.to_thread(self.gaps.load, self._outlet.position(GAPS))
        for trouble in (kept.trouble, trouble_of_gaps):
            if trouble:
                logger.error("Connection %s: %s", self._connection, trouble)
        async for batch in self._outlet.recent(kept.newest):
            self.gaps.replay(batch, kept)
            kept.advance(batch)
        self.assembler.restore(kept, tags)

    # --- messages ---

    def read(self, data: bytes, start: int) -> Publication:
        """A PublishResponse, with the handles known now."""
        assembler = self.assembler
        received = time.time_ns()
        return decode(data, start, received=received, handles=assembler.handles, server_time=assembler.server_time)

    def read_republished(self, data: bytes, start: int, subscription: int) -> Publication:
        """A RepublishResponse."""
        received = time.time_ns()
        assembler = self.assembler
        return decode_republished(
            data,
            start,
            subscription,
            received=received,
            handles=assembler.handles,
            server_time=assembler.server_time,
        )

    def hand_on(self, publication: Publication, positions: Mapping[str, bytes]) -> asyncio.Future[None]:
        """Take over the message; the future ends when samples and positions are durable."""
        self.traffic.messages += 1
        self.traffic.events += publication.events
        if publication.blocks:
            self.latest = time.time()
        self._supersede(positions)
        filtered = self.assembler.counts.filtered
        columns = self.assembler.columns(publication, time.monotonic_ns())
        durable = asyncio.ensure_future(
            self._outlet.submit(
                columns,
                positions=positions,
                filtered=self.assembler.counts.filtered - filtered,
                undelivered=publication.lost + len(publication.quarantined),
            )
        )
        if publication.damage or publication.quarantined:
            self.traffic.damaged += 1
            self._tell_damage(publication)
        self._note_progress()
        return durable

    def heartbeat(self, publication: Publication) -> None:
        """Take over what a read says of tags without news: it is no news either, and moves no mark."""
        columns = self.assembler.beats(publication.blocks)
        if columns:
            self._kept(self._outlet.submit(columns))

    def missing(
        self, missing: Missing, only: Container[str] | None = None, handles: Iterable[int] | None = None
    ) -> None:
        """Messages that the server sent and nobody has: told, and read back where there is a history.

        only, handles: the tags of their subscription, by name and by handle; without them it may be all.
        """
        self.traffic.missing += len(missing)
        logger.warning("Connection %s: messages %d to %d are lost", self._connection, missing.first, missing.last)
        self.tell("gap", reason="sequence", first=missing.first, last=missing.last, messages=len(missing))
        self.open_gap("missing messages", only=only)
        self.watched(handles)

    def open_gap(self, reason: str, handles: Iterable[int] | None = None, only: Container[str] | None = None) -> None:
        """Samples of these tags, or of all, or of those in `only`, may be missing from here on."""
        self.traffic.gaps += 1
        self.gaps.open(handles, reason, only)
        self._note_progress()

    def watched(self, handles: Iterable[int] | None) -> None:
        """These tags, or all, are monitored from now on: what comes later comes live."""
        self.gaps.watched(handles, time.time_ns() + self.ahead, time.monotonic())

    # --- notes ---

    def _note_progress(self) -> None:
        """Marks now and then, gaps when they have changed: in the order of the messages that they have seen."""
        now = time.monotonic()
        if now - self._checkpoint >= _CHECKPOINT:
            self._checkpoint = now
            self.checkpoint()
        elif self.gaps.changed:
            self.note({GAPS: self.gaps.dump(self._outlet.newest)})

    def checkpoint(self) -> None:
        """Note marks and gaps as they are."""
        self._note_later()
        newest = self._outlet.newest
        noted = self.note({MARKS: marks.dump(self.assembler, self._names(), newest), GAPS: self.gaps.dump(newest)})
        noted.add_done_callback(partial(self._no_longer_needed, newest))

    def _no_longer_needed(self, newest: int, noted: asyncio.Future[None]) -> None:
        if not noted.cancelled() and noted.exception() is None:
            self._outlet.keep_after(newest)

    def note(self, positions: Mapping[str, bytes | None]) -> asyncio.Future[None]:
        """Positions alone; what is noted later is durable later."""
        self._supersede(positions)
        return self._kept(self._outlet.note(positions))

    def note_soon(self, position: str, data: bytes, noted: Callable[[asyncio.Future[None]], None]) -> None:
        """Note a position in a while, together with others, unless it is noted with something else before.

        `noted` is called when it is durable, or could not be noted; not at all when something else was first.
        """
        self._later[position] = data, noted
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON, self._note_later)

    def _note_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        later, self._later = self._later, {}
        if later:
            durable = self.note({position: data for position, (data, _) in later.items()})
            for _, noted in later.values():
                durable.add_done_callback(noted)

    def _supersede(self, positions: Iterable[str]) -> None:
        for position in positions:
            self._later.pop(position, None)

    def _kept(self, noting: Awaitable[None]) -> asyncio.Future[None]:
        future = asyncio.ensure_future(noting)
        self._noting.add(future)
        future.add_done_callback(self._noted)
        return future

    def _noted(self, future: asyncio.Future[None]) -> None:
        self._noting.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            logger.error("Connection %s: a note could not be kept: %s", self._connection, error)

    # --- events ---

    def tell(self, kind: str, **what: Any) -> None:
        """An event of this connection."""
        event = {"kind": kind, "time_ns": time.time_ns(), "connection": self._connection, **what}
        self._kept(self._outlet.submit_events([event]))

    def _tell_damage(self, publication: Publication) -> None:
        names = self._names()
        bad = [
            present({"tag": names.get(item.handle, ""), "reason": item.reason, "bytes": item.excerpt})
            for item in publication.quarantined[:_TOLD]
        ]
        logger.warning(
            "Connection %s: message %d could not be read completely: %d items quarantined, %d lost. %s",
            self._connection,
            publication.sequence,
            len(publication.quarantined),
            publication.lost,
            publication.damage,
        )
        self.tell("undecodable", items=bad, quarantined=len(publication.quarantined), lost=publication.lost)


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {key: value for key, value in values.items() if value not in (None, "")}
