"""One shard's way to us, whichever it is at present: begun, used, lost, changed for another. Never ends by itself.

What is in use goes on while a better way is tried beside it. When that has begun, the old one is asked for the last
time and only then left, so that nothing falls between them. What a way loses is told to coverage once; a way that could
not be begun has lost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pi_collector.config import Transport as Setting
from pi_collector.transports.channel import Channel
from pi_collector.transports.choosing import Choice, FailedError, Reason, Way
from pi_collector.transports.means import Means, Transport, handles_of
from pi_collector.transports.polling import Polling
from pi_collector.transports.shards import Search, Shard
from pi_collector.transports.updates import Updates
from sluice.tasks import end

logger = logging.getLogger(__name__)

CONFIGURATION: Final = "the configuration changed"
_LOOK: Final = 5.0  # seconds between looks whether a way has proven itself

Isolate = Callable[[Shard, Iterable[int], FailedError], None]
Halve = Callable[[Shard], None]


class Carrier:
    """Brings the streams of one shard."""

    def __init__(
        self,
        means: Means,
        shard: Shard,
        setting: Setting,
        *,
        isolate: Isolate,
        halve: Halve,
        channels_work: Callable[[], bool],
        choice: Choice | None = None,
    ) -> None:
        """isolate: take streams that the server refuses out of the shard; halve: it is too large.
        channels_work: whether others have one."""
        self._means = means
        self.shard = shard
        self.choice = choice or Choice(setting)
        self.setting = setting
        self.present: Transport | None = None
        """In use."""
        self.since = time.time()
        """When it changed last, wall clock."""
        self.trouble: FailedError | None = None
        """Why the last attempt failed; None: what was begun last works."""
        self.between = False
        """Nothing is open, and nothing is being opened."""
        self._isolate = isolate
        self._halve = halve
        self._channels_work = channels_work
        self._changed = asyncio.Event()

    def fix(self, setting: Setting) -> None:
        """Another setting."""
        if setting != self.setting:
            self.setting = setting
            self.choice.fix(setting)
            self._changed.set()

    def excuse(self) -> None:
        """Nothing is held against any way any more: the server, or the way to it, is another one."""
        self.choice = Choice(self.setting)

    # --- its life ---

    async def run(self) -> None:
        """Never ends. Raises only what keeps values from being stored."""
        transport: Transport | None = None
        while True:
            transport = await self._next(transport)

    async def _next(self, transport: Transport | None) -> Transport | None:
        """What follows on this one; None: it has ended, or could not be begun."""
        try:
            if transport is None:
                self.between = True
                await asyncio.sleep(self.choice.pause(time.monotonic()))
                self.between = False
                return await self._begun(self.choice.way)
            return await self._use(transport)
        except FailedError as error:
            logger.debug("carrier %d: %s", self.shard.number, error.problem)
            return None

    def lose(self, cause: str, remedy: str = "") -> None:
        """What is in use is given up from outside: its streams are lost."""
        if self.present is not None:
            self.present = None
            self.since = time.time()
            self._means.coverage.lost(handles_of(self.shard.streams.values()), cause, remedy)

    def _transport(self, way: Way) -> Transport:
        if way is Way.CHANNEL:
            return Channel(self._means, self.shard)
        return Updates(self._means, self.shard) if way is Way.UPDATES else Polling(self._means, self.shard)

    async def _begun(self, way: Way) -> Transport:
        """Begins a way. Raises FailedError, which was noted."""
        transport = self._transport(way)
        try:
            await transport.open()
        except BaseException as error:
            await transport.close()
            if isinstance(error, FailedError):
                self._note(way, error)
                if way is Way.CHANNEL and error.suspects:
                    await self._search(error)
            raise
        return transport

    def _note(self, way: Way, error: FailedError) -> None:
        self.trouble = error
        self.choice.failed(way, error.reason, error.problem, time.monotonic(), after=error.after)
        if error.too_large and way is Way.CHANNEL:
            self._halve(self.shard)
        logger.info(
            "Connection %s: %s of %d streams: %s",
            self._means.connection,
            way.word,
            len(self.shard.streams),
            error.problem,
        )

    async def _use(self, transport: Transport) -> Transport:
        """Uses it until a better one has begun, which is given back. Raises FailedError, which was noted."""
        self.choice.had(transport.way, time.monotonic())
        self.present, self.since, self.trouble = transport, time.time(), None
        task = asyncio.create_task(transport.live(), name=f"{transport.way.word} {self.shard.number}")
        try:
            successor = await self._successor(transport, task)
            try:
                await end(task)
                await transport.last()
            except FailedError as error:
                self.lose(error.problem, error.remedy)
            except BaseException:
                await successor.close()
                raise
            return successor
        except FailedError as error:
            self.lose(error.problem, error.remedy)
            self._note(transport.way, error)
            raise
        finally:
            if not task.done():
                await end(task)
            await transport.close()

    async def _successor(self, transport: Transport, task: asyncio.Task[None]) -> Transport:
        """A better one that has begun. Raises what ends the present one."""
        while True:
            changed = asyncio.ensure_future(self._changed.wait())
            wait = min(_LOOK, max(0.05, self.choice.next_trial() - time.monotonic()))
            try:
                await asyncio.wait((task, changed), timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            self._changed.clear()
            if task.done():
                task.result()
                raise FailedError(f"{transport.way.word} came to its end")
            now = time.monotonic()
            self.choice.lives(transport.way, now)
            if not self.choice.allows(transport.way):
                raise FailedError(CONFIGURATION)
            better = self.choice.trial(now)
            if better is None and self.choice.way < transport.way:
                better = self.choice.way
            if better is not None:
                with contextlib.suppress(FailedError):
                    return await self._begun(better)

    async def _search(self, error: FailedError) -> None:
        """The server refuses the channel, maybe for streams that it does not know: they are taken out of it."""
        search = Search(list(self.shard.streams), works=self._channels_work())
        try:
            while (asked := search.ask()) is not None:
                search.answered(taken=await self._takes(asked))
        except FailedError as other:
            self._note(Way.CHANNEL, other)
            return
        if search.refused and len(search.refused) < len(self.shard.streams) and not search.hopeless:
            self._isolate(self.shard, search.refused, error)
            self.choice.again(Way.CHANNEL, time.monotonic())
        elif search.refused:
            # Of one alone, or where others have channels, it is the streams; else it is the server.
            if len(search.refused) == len(self.shard.streams) and not (search.hopeless and len(search.refused) > 1):
                self._isolate(self.shard, search.refused, error)
            problem = f"the server opens no channel for any of the streams: {error.problem}"
            self._note(Way.CHANNEL, FailedError(problem, error.remedy, Reason.CANNOT))

    async def _takes(self, handles: Collection[int]) -> bool:
        """Whether the server opens a channel for these. Raises FailedError when that cannot be learnt."""
        channel = Channel(self._means, self.shard, handles)
        try:
            await channel.shake_hands()
        except FailedError as refusal:
            if not refusal.suspects:
                raise
            return False
        finally:
            await channel.close()
        return True
