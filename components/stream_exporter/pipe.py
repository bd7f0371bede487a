"""A stream of stream manager as a sink uses it: made when missing, mended when changed, appended to until accepted.

Theory of operation
-------------------
Nobody else appends to our streams and their numbers have no gaps, so the number of the newest message says what is
there. `newest` is the number noted last. Three things are told by it:

- an append without an answer: what stands behind the noted number is read until two looks a second apart agree, and
  only what is missing is appended, on a new connection;
- a stream that was reset, or lost its tail: its newest message has a lower number than the noted one, or an accepted
  message gets a number that is taken. `lost_after` then is the number up to which all is still there, StreamReset is
  raised, and nothing is appended before `restart`;
- a foreign message: an accepted one gets a higher number than expected. It is counted, and told.

The stream is a short pipe: OverwriteOldestData frees whole segments, exported or not, so that bytes appended and not
exported never exceed maxSize minus two segments. Beyond that an append waits for the export. A position of the export
above the newest message is left over from a stream that is no more, and is not believed until it moves.

Errors:

    Stopped         stopping came first; what was accepted is in the stream
    StreamReset     the stream does not hold any more what it held
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from sluice.retry import Backoff
from sluice.status import when
from sluice.tasks import within
from stream_exporter.conditions import Conditions
from stream_exporter.messages import Message
from stream_exporter.remedies import Destination
from stream_exporter.stream_client import (
    NoSuchStream,
    Reconnected,
    StoredMessage,
    StreamClient,
    StreamError,
    TooLarge,
    Uncertain,
    Unreachable,
)
from stream_exporter.streams import StreamPlan, compare, new_definition

logger = logging.getLogger(__name__)

#: Seconds before the second attempt, and the longest pause between attempts.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

#: Messages, and bytes, handed to the client's thread at once.
CHUNK = 200
CHUNK_BYTES = 4 << 20

#: Messages read at once, and seconds between two looks that must agree. A request that was on its way when its
#: connection broke can still be carried out.
LOOK = 100
SETTLE = 1.0

#: What stream manager stores beside each payload is not documented: counted with this many bytes.
MESSAGE_OVERHEAD = 32

#: Seconds between looks while the pipe is full, and seconds after which that is told.
FULL_LOOK = 0.5
FULL_TOLD = 5.0

NOTHING_NOTED = -2


class Stopped(Exception):  # noqa: N818 - no error: who waits is told to go home
    """Stopping came first."""


class StreamReset(Exception):  # noqa: N818 - named for what happened
    """The stream was made anew, or lost its tail."""


class Pause:
    """Growing pauses between attempts that end early when stopping."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    async def __call__(self) -> None:
        """Wait before the next attempt."""
        await until_set(self._stopping, self._backoff.next())


async def until_set(event: asyncio.Event, limit: float) -> bool:
    """Wait for the event, at most `limit` seconds; whether it is set."""
    with contextlib.suppress(asyncio.TimeoutError):
        await within(limit, event.wait())
    return event.is_set()


async def _not_refused(index: int) -> None:
    """Nothing to do about a message that is too large."""


def size_of(message: Message) -> int:
    """What a message takes in the stream, as far as is known."""
    return len(message.payload) + MESSAGE_OVERHEAD


class Pipe:
    """A stream with its export. `plans` are the streams it needs; the last one is the stream itself.

    report_export: whether what the export complains about is a condition of the sink; S3 tasks tell more elsewhere.
    mend: False for a stream that is only emptied: it is neither made nor changed.
    """

    def __init__(
        self,
        plans: Sequence[StreamPlan],
        client: StreamClient,
        conditions: Conditions,
        destination: Destination,
        stopping: asyncio.Event,
        *,
        report_export: bool = True,
        mend: bool = True,
    ) -> None:
        self.uncertain = 0  # appends that got no answer
        self.shortened = 0  # times that the stream was found to hold less than was appended
        self.foreign = 0  # messages of somebody else
        self.newest = NOTHING_NOTED  # number of the newest message that is known to be in the stream
        self.lost_after: int | None = None
        self.gone = False  # it is only emptied, and does not exist any more
        self._plans = tuple(plans)
        self._plan = self._plans[-1]
        self._client = client
        self._conditions = conditions
        self._destination = destination
        self._stopping = stopping
        self._mend = mend
        self._checked = False
        self._connection = 0  # on which the stream was looked at last
        self._checking = asyncio.Lock()
        self._info: dict[str, Any] = {}
        self._report_export = report_export
        self._last_complaint = ""
        self._unexported: deque[tuple[int, int]] = deque()  # (number of the last message, bytes)
        self._unexported_bytes = 0
        self._stale: tuple[Any, Any] | None = None  # a position of the export that is not believed until it moves

    # --- appending ----------------------------------------------------------------------------------------------------

    async def ready(self) -> int:
        """Have the stream as planned, trying for ever; the number of its newest message. Raises Stopped."""
        pause = Pause(self._stopping)
        while True:
            try:
                await self.check(again=True)
            except StreamError as error:  # noqa: PERF203 - each is a call to another process
                if self.gone:
                    return -1
                self._fault(error)
                if self._stopping.is_set():
                    raise Stopped from error
                await pause()
            else:
                self._conditions.clear("stream")
                if self.lost_after is not None:
                    return self.lost_after
                self.newest = max(self.newest, _newest(self._info[self._plan.name]))
                return self.newest

    async def append(
        self,
        messages: Sequence[Message],
        refused: Callable[[int], Awaitable[None]] = _not_refused,
    ) -> int:
        """Append all messages, each once, trying for ever; the number of the newest one. Raises Stopped, StreamReset.

        `refused` is told the index of a message that is larger than the server takes, before the next one is appended.
        A message that got no answer is looked for in the stream before it is appended again: a repeat would cost
        SiteWise's whole request (entryIds must differ) and double the record elsewhere.
        """
        pause = Pause(self._stopping)
        start = 0
        unsure = False
        while start < len(messages):
            error: StreamError | None = None
            aspect = "stream"
            try:
                await self.check()
                if self.lost_after is not None:
                    raise StreamReset
                if unsure:
                    start += await self._found(messages[start:])
                    unsure = False
                    continue
                chunk = await self._chunk(messages, start)
                payloads = [message.payload for message in chunk]
                result = await self._client.append_all(self._plan.name, payloads, self._connection)
            except StreamError as raised:
                error = raised
            else:
                error = result.error
                if isinstance(error, Reconnected):  # what answers now may hold less than what was looked at
                    self._checked = False
                    continue
                aspect = "stream" if isinstance(error, Unreachable) else "append"
                unsure = isinstance(error, Uncertain)
                self.uncertain += unsure
                if result.newest is not None:
                    self._accepted(chunk[: result.count], result.newest)
                    start += result.count
                    pause = Pause(self._stopping)
                if isinstance(error, TooLarge):
                    logger.error("a message was given up: %s. Remedy: %s", error.why, error.remedy)
                    await refused(start)
                    start += 1
                    continue
            if error is None:
                self._conditions.clear("stream")
                self._conditions.clear("append")
                continue
            self._fault(error, aspect)
            if self._stopping.is_set():
                raise Stopped
            await pause()
        return self.newest

    async def read_back(self, start: int) -> list[StoredMessage]:
        """All messages from number `start` on, once two looks some time apart agree. Raises Stopped, StreamReset."""
        pause = Pause(self._stopping)
        found: list[StoredMessage] = []
        agreed = False
        while not agreed:
            try:
                await self.check()
                if self.lost_after is not None:
                    raise StreamReset
                more = await self._client.read(self._plan.name, start + len(found), LOOK)
                if not more:
                    await until_set(self._stopping, SETTLE)
                    more = await self._client.read(self._plan.name, start + len(found), LOOK)
                    agreed = not more
            except StreamError as error:
                self._fault(error)
                await pause()
            else:
                found += [message for message in more if message.sequence_number >= start + len(found)]
            if self._stopping.is_set():
                raise Stopped
        self.newest = max(self.newest, start + len(found) - 1)
        return found

    async def _found(self, messages: Sequence[Message]) -> int:
        """How many of these, from the first on, the stream got after all. None: two looks, some time apart, agree."""
        count = 0
        looked = False
        while True:
            found = await self._client.read(self._plan.name, self.newest + 1, LOOK)
            for stored in found:
                if count < len(messages) and stored.payload == messages[count].payload:
                    self._accepted(messages[count : count + 1], stored.sequence_number)
                    count += 1
                else:
                    self._meet_foreign(1)
                    self.newest = stored.sequence_number
            if count or (looked and not found):
                return count
            looked = not found
            await until_set(self._stopping, SETTLE)

    async def _chunk(self, messages: Sequence[Message], start: int) -> Sequence[Message]:
        """The next messages that there is room for; waits for room. Raises Stopped, StreamReset, StreamError."""
        room = await self._room(size_of(messages[start]))
        size = 0
        for index in range(start, min(len(messages), start + CHUNK)):
            size += size_of(messages[index])
            if index > start and size > min(room, CHUNK_BYTES, self.limit // 4):
                return messages[start:index]
        return messages[start : start + CHUNK]

    async def _room(self, size: int) -> int:
        """Bytes that may be appended, at least `size`. One message alone always may when nothing waits for export."""
        began = time.monotonic()
        while self._unexported and self._unexported_bytes + size > self.limit:
            await self.check(again=True)
            if self.lost_after is not None:
                raise StreamReset
            if not (self._unexported and self._unexported_bytes + size > self.limit):
                break
            if time.monotonic() - began >= FULL_TOLD:
                why = (
                    f"{self._unexported_bytes} bytes in stream {self._plan.name} wait for their export: more would "
                    "overwrite them, so newer data waits outside"
                )
                self._conditions.report("pipe", why, "mend what the export waits for, or raise `streamSize`")
            if await until_set(self._stopping, FULL_LOOK):
                raise Stopped
        self._conditions.clear("pipe")
        return max(size, self.limit - self._unexported_bytes)

    def _accepted(self, messages: Sequence[Message], newest: int) -> None:
        if not messages:
            return
        expected = self.newest + len(messages)
        if newest < expected:
            after = max(-1, newest - len(messages))
            self._lose(after, f"message {newest} was accepted where {expected} was to come")
            raise StreamReset
        if newest > expected:
            self._meet_foreign(newest - expected)
        self.newest = newest
        self._note_unexported(newest, sum(map(size_of, messages)))

    def _meet_foreign(self, count: int) -> None:
        if not self.foreign:
            logger.error(
                "stream %s gets messages of somebody else too: give the sink a stream of its own", self._plan.name
            )
        self.foreign += count

    # --- the stream ---------------------------------------------------------------------------------------------------

    def expect(self, newest: int) -> None:
        """Before the first look: the stream is known to have held a message of this number."""
        self.newest = max(self.newest, newest)

    def restart(self, unexported: Iterable[tuple[int, int]]) -> None:
        """What was lost behind `lost_after` is dealt with. `unexported`: see `account`."""
        if self.lost_after is not None:
            self.newest, self.lost_after = self.lost_after, None
            self._checked = False
        self.account(unexported)

    def account(self, unexported: Iterable[tuple[int, int]]) -> None:
        """What waits for export: (number of the last message, bytes) each."""
        self._unexported = deque(sorted(unexported))
        self._unexported_bytes = sum(size for _, size in self._unexported)

    async def check(self, *, again: bool = False) -> None:
        """Make and mend the streams, once, or `again`. Raises StreamError."""
        async with self._checking:
            if self._checked and not again:
                return
            for plan in self._plans:
                self._info[plan.name] = await self._make_or_mend(plan)
            self._checked = True

    async def watch(self) -> None:
        """Look at the stream again: its drift, what was exported of it and what its export complains about."""
        try:
            await self.check(again=True)
        except StreamError as error:
            self._fault(error)
            return
        self._conditions.clear("stream")
        complaint = self._export_status().get("error")
        if complaint:
            problem = self._destination.problem(complaint)
            self._last_complaint = f"{when(time.time())} {problem.why}"
            if self._report_export:
                self._conditions.report("export", problem.why, problem.remedy)
        else:
            self._conditions.clear("export")

    async def read(self, stream: str, start: int, count: int) -> list[StoredMessage]:
        """Messages of a stream of this pipe. Raises StreamError, which is reported already."""
        try:
            await self.check()
            return await self._client.read(stream, start, count)
        except StreamError as error:
            self._fault(error)
            raise

    async def was_made_anew(self, stream: str, cursor: int) -> bool:
        """Whether a stream that was read up to number `cursor` is too short for that. Raises StreamError."""
        known = self._info.get(stream)
        if known is None or _newest(known) + 1 >= cursor:
            return False  # as of a moment ago: it has not been looked at since if it was read further
        return _newest(await self._client.describe(stream)) + 1 < cursor

    @property
    def exported(self) -> int | None:
        """Everything up to this number is exported; None when that is not known."""
        info = self._info.get(self._plan.name)
        reported: int | None = self._export_status().get("exported")
        if info is None or reported is None or self._position() == self._stale:
            return None
        return reported if self.lost_after is None else min(reported, self.lost_after)

    @property
    def unexported_bytes(self) -> int:
        """Bytes appended and not exported."""
        return self._unexported_bytes

    @property
    def limit(self) -> int:
        """The most that `unexported_bytes` may be."""
        size, segment = self._plan.max_size, self._plan.segment_size
        info = self._info.get(self._plan.name)
        if info is not None:
            size = min(size, info.definition.max_size) if self._mend else info.definition.max_size
            segment = max(segment, info.definition.stream_segment_size)
        return max(0, size - 2 * segment)

    def status(self) -> dict[str, Any]:
        """The stream's numbers: stored bytes, newest message, exported up to, what is not yet exported."""
        info = self._info.get(self._plan.name)
        status: dict[str, Any] = {
            "stream": self._plan.name,
            "uncertain_appends": self.uncertain,
            "shortened": self.shortened,
            "unexported_bytes": self._unexported_bytes,
            "pipe_limit": self.limit,
        }
        if self.foreign:
            status["foreign_messages"] = self.foreign
        if info is None:
            return status
        newest = _newest(info)
        status.update(bytes=info.storage_status.total_bytes, newest=newest)
        exported = self.exported
        if exported is not None:
            status.update(exported=exported, behind=max(0, newest - exported))
        if self._last_complaint:
            status["last_export_error"] = self._last_complaint
        return status

    def _export_status(self) -> dict[str, Any]:
        info = self._info.get(self._plan.name)
        identifier = self._plan.export.identifier if self._plan.export is not None else None
        for item in (info.export_statuses if info is not None else None) or ():
            if item.export_config_identifier == identifier:
                return {
                    "exported": item.last_exported_sequence_number,
                    "error": item.error_message,
                    "messages": item.exported_messages_count,
                }
        return {}

    def _position(self) -> tuple[Any, Any]:
        """Where the export stands, and how many messages it exported in all: it may come to a number a second time."""
        status = self._export_status()
        return status.get("exported"), status.get("messages")

    async def _make_or_mend(self, plan: StreamPlan) -> Any:
        noted = self.newest
        try:
            info = await self._describe(plan.name)
        except NoSuchStream:
            if not self._mend:
                if not self.gone and noted >= 0:
                    self._lose(-1, "it does not exist any more")
                self.gone = True
                raise
            await self._client.create(new_definition(plan))
            logger.info("stream %s was created", plan.name)
            info = await self._describe(plan.name)
        if plan is self._plan:
            self._compare_newest(_newest(info), noted)
            self._look_at_export(info)
        if not self._mend:
            return info
        step = compare(plan, info)
        lasting = [drift for drift in step.drift if drift.remedy]
        if lasting:
            why = f"stream {plan.name} is not as configured: " + "; ".join(str(drift) for drift in lasting)
            self._conditions.report(f"drift of {plan.name}", why, "; ".join(drift.remedy for drift in lasting))
        else:
            self._conditions.clear(f"drift of {plan.name}")
        if step.update is not None:
            await self._client.update(step.update)
            mended = "; ".join(str(drift) for drift in step.drift if not drift.remedy)
            logger.warning("stream %s was not as configured and was changed: %s", plan.name, mended)
        return info

    async def _describe(self, stream: str) -> Any:
        """What the stream is, and on which connection that was told: appends are made on that one only."""
        while True:
            connection = self._client.rebuilt
            info = await self._client.describe(stream)
            if self._client.rebuilt == connection:
                self._connection = connection
                return info

    def _compare_newest(self, newest: int, noted: int) -> None:
        """`noted` is what was noted before the look: what was appended since may or may not be seen by it."""
        if self.lost_after is not None:
            self.lost_after = min(self.lost_after, newest)
        elif newest < noted:
            self._lose(newest, f"it holds messages up to {newest}, but {noted} was appended")
        elif self.newest == NOTHING_NOTED:
            self.newest = newest

    def _lose(self, after: int, why: str) -> None:
        self.shortened += 1
        self.lost_after = after
        logger.error("stream %s was made anew, or lost its tail: %s", self._plan.name, why)

    def _look_at_export(self, info: Any) -> None:
        """Note what is exported of what was appended."""
        self._info[self._plan.name] = info
        reported: int | None = self._export_status().get("exported")
        if reported is None:
            return
        if reported > _newest(info):
            self._stale = self._position()
        elif self._position() != self._stale:
            self._stale = None
        exported = self.exported
        while exported is not None and self._unexported and self._unexported[0][0] <= exported:
            self._unexported_bytes -= self._unexported.popleft()[1]

    def _note_unexported(self, newest: int, size: int) -> None:
        self._unexported.append((newest, size))
        self._unexported_bytes += size

    def _fault(self, error: StreamError, aspect: str = "stream") -> None:
        if isinstance(error, NoSuchStream):
            if self._mend:
                logger.warning("stream %s is gone: somebody deleted it; it is made again", self._plan.name)
            self._checked = False
            return
        self._conditions.report(aspect, error.why, error.remedy)
        if isinstance(error, Uncertain):
            self._checked = False  # what answers next may be another server


def _newest(info: Any) -> int:
    newest: int | None = info.storage_status.newest_sequence_number
    return -1 if newest is None else newest
