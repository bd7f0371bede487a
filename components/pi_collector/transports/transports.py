"""How new values of a connection's streams come: by channels, by updates, by polls, and who has which at present.

    want      streams -> shards (`shards`), each with a carrier (`carrier`), which has one transport at a time
    channel   `channel`, whose completeness is proven by `confirmation`
    updates   `updates`
    poll      `polling`
    choosing  what failed and how often decides which is in use, and when a better one is tried

Everything that is told of completeness goes to the state's coverage, all values to the intake.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pi_collector.config import Connection as Settings
from pi_collector.config import Transport as Setting
from pi_collector.plan import OWN, plan
from pi_collector.points.point import Stream
from pi_collector.problems import Reporter
from pi_collector.transports.carrier import CONFIGURATION, Carrier
from pi_collector.transports.channel import Channel
from pi_collector.transports.choosing import Choice, FailedError, Reason, Way
from pi_collector.transports.means import Client, Intake, Means, State, handles_of
from pi_collector.transports.shards import Arranged, Shard, Shards
from pi_collector.transports.updates import Updates
from sluice.retry import Backoff
from sluice.status import when
from sluice.tasks import end

logger = logging.getLogger(__name__)

TICK: Final = 0.25
"""Seconds between looks at what should run and what does."""
_MOST_TOLD: Final = 20  # streams that are named in one problem
_ENDED: Final = "the connection was begun anew"
_HALVED: Final = "a channel of these streams would be too large: they have two from now on"
_FAULT: Final = "a fault of Sluice itself ended it; it was begun anew"


class Transports:
    """Those of one connection, for its streams of mode recorded."""

    def __init__(
        self,
        connection: str,
        settings: Settings,
        client: Client,
        intake: Intake,
        state: State,
        problems: Reporter,
        *,
        refused: Callable[[Stream, str], None] = lambda _stream, _why: None,
    ) -> None:
        """refused: the server knows no such stream; its point is to be looked up again."""
        self._means = Means(connection, settings, client, intake, state.coverage, refused)
        self._problems = problems
        self._shards = Shards()
        self._carriers: dict[Shard, Carrier] = {}
        self._tasks: dict[Carrier, asyncio.Task[None]] = {}
        self._ending: dict[Carrier, asyncio.Task[None]] = {}
        self._faults: dict[Carrier, tuple[Backoff, float]] = {}
        self._suspended: tuple[str, str] | None = None
        self._wake = asyncio.Event()

    # --- what is wanted ---

    def want(self, streams: Sequence[Stream]) -> None:
        """Exactly these, from now on. Those that stay keep what they have."""
        load = self._means.settings.load
        arranged = self._shards.want(streams, load.points_per_channel, load.url_bytes)
        for shard, handles in arranged.left.items():
            # Those that go on elsewhere are subscribed there anew. Those that nobody wants are not ours to tell.
            carrier = self._carriers.get(shard)
            moved = [added.streams[handle] for added in arranged.added for handle in handles if handle in added.streams]
            if carrier is not None and carrier.present is not None and moved:
                self._means.coverage.lost(handles_of(moved), CONFIGURATION)
        self._arrange(arranged)
        for shard, carrier in self._carriers.items():
            carrier.fix(self._setting(shard))

    def _setting(self, shard: Shard) -> Setting:
        stream = next(iter(shard.streams.values()), None)
        return plan(self._means.settings, shard.group).transport if stream is None else stream.plan.transport

    def _arrange(self, arranged: Arranged, choice: Choice | None = None) -> None:
        """Carriers for new shards, and none for those that are gone. choice: what was learnt by those before."""
        for shard in arranged.gone:
            carrier = self._carriers.pop(shard, None)
            if carrier is not None:
                self._stop(carrier)
        for shard in arranged.added:
            setting = self._setting(shard)
            self._carriers[shard] = Carrier(
                self._means,
                shard,
                setting,
                isolate=self._isolate,
                halve=self._halve,
                channels_work=self._channels_work,
                choice=choice,
            )
        self._wake.set()

    def _isolate(self, shard: Shard, handles: Iterable[int], error: FailedError) -> None:
        named = [shard.streams[handle] for handle in handles if handle in shard.streams]
        carrier = self._carriers.get(shard)
        arranged = self._shards.isolated(shard, [stream.handle for stream in named])
        if arranged.added and carrier is not None and carrier.present is not None:
            self._means.coverage.lost(handles_of(named), error.problem, error.remedy)
        for added in arranged.added:
            choice = Choice(self._setting(added))
            why = f"the server opens none with these streams: {error.problem}"
            choice.failed(Way.CHANNEL, Reason.CANNOT, why, time.monotonic())
            self._arrange(Arranged({}, [added], []), choice)
        tags = ", ".join(stream.tag for stream in named[:_MOST_TOLD])
        logger.warning("Connection %s: the server refuses %d streams: %s", self._means.connection, len(named), tags)
        for stream in named:
            self._means.refused(stream, error.problem)

    def _halve(self, shard: Shard) -> None:
        carrier = self._carriers.get(shard)
        arranged = self._shards.halved(shard)
        if arranged.gone:
            if carrier is not None:
                carrier.lose(_HALVED)
            self._arrange(arranged)

    def _channels_work(self) -> bool:
        return any(isinstance(carrier.present, Channel) for carrier in self._carriers.values())

    def apply(self, settings: Settings) -> None:
        """Other settings. What they change of the way to the server makes all channels and registrations begin anew."""
        before, self._means.settings = self._means.settings, settings
        ways = ("addresses", "user", "bearer", "headers", "tls", "allow_unencrypted")
        if any(getattr(before, name) != getattr(settings, name) for name in ways):
            self.reopen(CONFIGURATION)

    def reopen(self, cause: str, remedy: str = "") -> None:
        """Give up all that is open, and begin anew."""
        for carrier in self._carriers.values():
            carrier.lose(cause, remedy)
            carrier.excuse()
            self._stop(carrier)
        self._wake.set()

    def suspend(self, cause: str, remedy: str = "") -> None:
        """Nothing comes any more until `resume`."""
        if self._suspended is None:
            for carrier in self._carriers.values():
                carrier.lose(cause, remedy)
                self._stop(carrier)
        self._suspended = (cause, remedy)
        self._wake.set()

    def resume(self) -> None:
        """Everything begins anew."""
        self._suspended = None
        self._wake.set()

    # --- its life ---

    async def run(self) -> None:
        """Never ends. Raises what keeps values from being stored."""
        for carrier in self._carriers.values():
            carrier.lose(_ENDED)  # by whoever ended the last run
        try:
            while True:
                self._wake.clear()
                self._start()
                self._merge()
                self._report()
                waiting = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait(
                        (waiting, *self._tasks.values()), timeout=TICK, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiting.cancel()
                self._look()
        finally:
            await end(*self._tasks.values(), *self._ending.values())
            self._tasks.clear()

    def _start(self) -> None:
        for carrier in self._carriers.values():
            if carrier not in self._tasks and carrier not in self._ending:
                # One that came to use something in the moment in which it was ended has it no more.
                carrier.lose(*(self._suspended or (_ENDED, "")))
        if self._suspended is not None:
            return
        now = time.monotonic()
        for shard, carrier in self._carriers.items():
            if carrier in self._tasks or carrier in self._ending:
                continue
            if self._faults.get(carrier, (None, 0.0))[1] > now:
                continue
            self._tasks[carrier] = asyncio.create_task(carrier.run(), name=f"carrier {shard.number}")

    def _stop(self, carrier: Carrier) -> None:
        task = self._tasks.pop(carrier, None)
        self._faults.pop(carrier, None)
        if task is None:
            return
        self._ending[carrier] = ending = asyncio.create_task(end(task))
        ending.add_done_callback(lambda _: self._ended(carrier))

    def _ended(self, carrier: Carrier) -> None:
        self._ending.pop(carrier, None)
        self._wake.set()

    def _look(self) -> None:
        """No carrier ends by itself: what ended one is a fault of ours, or that nothing can be stored."""
        for carrier, task in [(carrier, task) for carrier, task in self._tasks.items() if task.done()]:
            del self._tasks[carrier]
            error = None if task.cancelled() else task.exception()
            carrier.lose(_FAULT)
            if error is None:
                continue
            if self._means.intake.broken is not None:
                raise error
            logger.error("Connection %s: a transport ended", self._means.connection, exc_info=error)
            backoff = self._faults.get(carrier, (Backoff(1.0, 60.0), 0.0))[0]
            self._faults[carrier] = (backoff, time.monotonic() + backoff.next())

    def _merge(self) -> None:
        """Small shards of which none is open are put together before they are opened again."""
        idle = [shard for shard, carrier in self._carriers.items() if carrier.between and carrier.present is None]
        if len(idle) < 2:
            return
        load = self._means.settings.load
        arranged = self._shards.merged(idle, load.points_per_channel, load.url_bytes)
        for group in {shard.group for shard in arranged.gone}:
            gone = [shard for shard in arranged.gone if shard.group == group]
            added = [shard for shard in arranged.added if shard.group == group]
            self._arrange(Arranged({}, added, gone), self._carriers[gone[0]].choice if len(added) == 1 else None)

    # --- what is told ---

    def _report(self) -> None:
        """A fixed transport that cannot be had is a problem of the configuration's."""
        for group, carriers in self._by_group().items():
            place = (
                f"connections.{self._means.connection}" + (f".groups.{group}" if group != OWN else "") + ".transport"
            )
            failing = [c for c in carriers if c.setting != "auto" and c.present is None and c.trouble is not None]
            if failing and failing[0].trouble is not None and self._suspended is None:
                trouble = failing[0].trouble
                remedy = trouble.remedy or "none is needed if it comes back; else set transport to auto"
                self._problems.report(place, f"cannot be had: {trouble.problem}", remedy, failing[0].setting)
            else:
                self._problems.clear(place)

    def _by_group(self) -> dict[str, list[Carrier]]:
        found: dict[str, list[Carrier]] = {}
        for shard, carrier in self._carriers.items():
            found.setdefault(shard.group, []).append(carrier)
        return found

    def status(self) -> dict[str, Any]:
        """By group (the connection's own as "connection"): how many streams come which way, since when, and why not a
        better one."""
        return {group if group != OWN else "connection": self._told(of) for group, of in self._by_group().items()}

    def _told(self, carriers: Sequence[Carrier]) -> dict[str, Any]:
        streams: Counter[str] = Counter()
        whys: Counter[str] = Counter()
        for carrier in carriers:
            word = "none" if carrier.present is None else carrier.present.way.word
            streams[word] += len(carrier.shard.streams)
            if isinstance(carrier.present, Updates) and (unfit := len(carrier.present.unfit)):
                streams[word] -= unfit
                streams[Way.POLL.word] += unfit
            if why := carrier.choice.held_against():
                whys[why] += len(carrier.shard.streams)
        told: dict[str, Any] = {
            "transport": streams.most_common(1)[0][0],
            "since": when(max(carrier.since for carrier in carriers)),
            "streams": {word: count for word, count in streams.items() if count},
        }
        channels = [carrier.present for carrier in carriers if isinstance(carrier.present, Channel)]
        if channels:
            told["channels"] = len(channels)
            cadences = [cadence for channel in channels if (cadence := channel.cadence) is not None]
            if cadences:
                told["heartbeat_s"] = round(max(cadences), 1)
            if beside := sum(channel.single for channel in channels):
                told["read_beside"] = beside
        if self._suspended is not None:
            told["why"] = self._suspended[0]
        elif whys:
            told["why"] = whys.most_common(1)[0][0]
        return told

    @property
    def counts(self) -> dict[str, int]:
        """What happened, since the connection began."""
        return dict(self._means.counts)
