"""A stream of stream manager as a sink uses it: made when missing, mended when changed, appended to until accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from sluice.retry import Backoff
from sluice.status import when
from sluice.tasks import within
from stream_exporter.conditions import Conditions
from stream_exporter.messages import Message
from stream_exporter.remedies import Destination
from stream_exporter.stream_client import (
    NoSuchStream,
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

#: Messages handed to the client's thread at once.
CHUNK = 200

#: Messages read at once, and seconds between two looks, to find one that got no answer. A request that was on its way
#: when its connection broke can still be carried out.
LOOK = 10
SETTLE = 1.0

NOTHING_NOTED = -2


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


class Pipe:
    """A stream with its export. `plans` are the streams it needs; the last one is the stream itself.

    `report_export`: whether what the export complains about is a condition of the sink; S3 tasks tell more elsewhere.
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
    ) -> None:
        self.uncertain = 0  # appends that got no answer
        self.shortened = 0  # times that the stream was found to hold less than was appended
        self._plans = tuple(plans)
        self._plan = self._plans[-1]
        self._client = client
        self._conditions = conditions
        self._destination = destination
        self._stopping = stopping
        self._checked = False
        self._checking = asyncio.Lock()
        self._noted = NOTHING_NOTED  # number of the newest message that is known to be in the stream
        self._info: dict[str, Any] = {}
        self._report_export = report_export
        self._last_complaint = ""

    async def append(
        self, messages: Sequence[Message], accepted: Callable[[int], None], refused: Callable[[int], None]
    ) -> bool:
        """Append all messages, each once, trying for ever; False if stopping came first.

        `accepted` is told the samples of messages as they are accepted, `refused` those of a message that is larger
        than the server takes. A message that got no answer is looked for in the stream before it is appended again:
        a repeat would cost SiteWise's whole request (entryIds must differ) and double the record elsewhere.
        """
        pause = Pause(self._stopping)
        start = 0
        unsure = False
        while start < len(messages):
            chunk = messages[start : start + CHUNK]
            error: StreamError | None = None
            aspect = "stream"
            try:
                await self.check()
                if unsure:
                    if await self._is_there(chunk[0]):
                        accepted(chunk[0].samples)
                        start += 1
                    unsure = False
                    continue
                result = await self._client.append_all(self._plan.name, [message.payload for message in chunk])
            except StreamError as raised:
                error = raised
            else:
                error = result.error
                aspect = "stream" if isinstance(error, Unreachable) else "append"
                unsure = isinstance(error, Uncertain)
                self.uncertain += unsure
                if result.newest is not None:
                    self._noted = result.newest
                    accepted(sum(message.samples for message in chunk[: result.count]))
                    start += result.count
                    pause = Pause(self._stopping)
                if isinstance(error, TooLarge):
                    refused(chunk[result.count].samples)
                    start += 1
                    logger.error("a message was given up: %s. Remedy: %s", error.why, error.remedy)
                    continue
            if error is None:
                self._conditions.clear("stream")
                self._conditions.clear("append")
                continue
            self._fault(error, aspect)
            if self._stopping.is_set():
                return False
            await pause()
        return True

    async def _is_there(self, message: Message) -> bool:
        """Whether the stream got a message after all. No means: two looks, some time apart, found the same."""
        seen = None
        while True:
            found = await self._client.read(self._plan.name, self._noted + 1, LOOK)
            for stored in found:
                if stored.payload == message.payload:
                    self._noted = stored.sequence_number
                    return True
            newest = found[-1].sequence_number if found else self._noted
            if newest == seen:
                return False
            seen = newest
            await until_set(self._stopping, SETTLE)

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

    def status(self) -> dict[str, Any]:
        """The stream's numbers: stored bytes, newest message, exported up to, messages not yet exported."""
        info = self._info.get(self._plan.name)
        status: dict[str, Any] = {
            "stream": self._plan.name,
            "uncertain_appends": self.uncertain,
            "shortened": self.shortened,
        }
        if info is None:
            return status
        newest = _newest(info)
        status.update(bytes=info.storage_status.total_bytes, newest=newest)
        exported = self._export_status().get("exported")
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
                return {"exported": item.last_exported_sequence_number, "error": item.error_message}
        return {}

    async def _make_or_mend(self, plan: StreamPlan) -> Any:
        try:
            info = await self._client.describe(plan.name)
        except NoSuchStream:
            await self._client.create(new_definition(plan))
            logger.info("stream %s was created", plan.name)
            info = await self._client.describe(plan.name)
        if plan is self._plan:
            self._compare_newest(info)
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

    def _compare_newest(self, info: Any) -> None:
        newest = _newest(info)
        if newest < self._noted:
            self.shortened += 1
            logger.error(
                "stream %s holds messages up to %d, but %d was appended: it was made anew, or lost its tail",
                self._plan.name,
                newest,
                self._noted,
            )
        if newest < self._noted or self._noted == NOTHING_NOTED:
            self._noted = newest

    def _fault(self, error: StreamError, aspect: str = "stream") -> None:
        if isinstance(error, NoSuchStream):
            logger.warning("stream %s is gone: somebody deleted it; it is made again", self._plan.name)
            self._checked = False
            return
        self._conditions.report(aspect, error.why, error.remedy)
        if isinstance(error, Uncertain):
            self._checked = False  # what answers next may be another server


def _newest(info: Any) -> int:
    newest: int | None = info.storage_status.newest_sequence_number
    return -1 if newest is None else newest
