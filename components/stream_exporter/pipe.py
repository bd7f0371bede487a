"""One stream of stream manager as a sink uses it: made when missing, mended when changed, appended to until accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from sluice.retry import Backoff

from stream_exporter.conditions import Conditions
from stream_exporter.messages import Message
from stream_exporter.remedies import Destination
from stream_exporter.stream_client import NoSuchStream, StoredMessage, StreamClient, StreamError, TooLarge, Uncertain
from stream_exporter.streams import StreamPlan, compare, new_definition

logger = logging.getLogger(__name__)

#: Seconds before the second attempt, and the longest pause between attempts.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

#: Messages handed to the client's thread at once.
CHUNK = 200


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
    try:
        await asyncio.wait_for(event.wait(), limit)
    except asyncio.TimeoutError:
        pass
    return event.is_set()


class Pipe:
    """A stream with its export. `plans` are the streams it needs; the last one is the stream itself."""

    def __init__(
        self,
        plans: Sequence[StreamPlan],
        client: StreamClient,
        conditions: Conditions,
        destination: Destination,
        stopping: asyncio.Event,
    ) -> None:
        self.uncertain = 0  # appends that got no answer: their message may be in the stream twice
        self._plans = tuple(plans)
        self._plan = self._plans[-1]
        self._client = client
        self._conditions = conditions
        self._destination = destination
        self._stopping = stopping
        self._checked = False
        self._checking = asyncio.Lock()
        self._info: dict[str, Any] = {}

    async def append(
        self, messages: Sequence[Message], accepted: Callable[[int], None], refused: Callable[[int], None]
    ) -> bool:
        """Append all messages, trying for ever; False if stopping came first.

        `accepted` is told the samples of messages as they are accepted, `refused` those of a message that no stream
        of this server takes.
        """
        pause = Pause(self._stopping)
        start = 0
        while start < len(messages):
            chunk = messages[start : start + CHUNK]
            try:
                await self.check()
                result = await self._client.append_all(self._plan.name, [message.payload for message in chunk])
            except StreamError as error:
                self._fault(error)
            else:
                if result.count:
                    accepted(sum(message.samples for message in chunk[: result.count]))
                    start += result.count
                    pause = Pause(self._stopping)
                if isinstance(result.error, TooLarge):
                    refused(chunk[result.count].samples)
                    start += 1
                    logger.error("a message was given up: %s. Remedy: %s", result.error.why, result.error.remedy)
                    continue
                if result.error is None:
                    self._conditions.clear("stream")
                    continue
                self._fault(result.error)
            if self._stopping.is_set():
                return False
            await pause()
        return True

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

    def status(self) -> dict[str, Any]:
        """The stream's numbers: stored bytes, newest message, exported up to, messages not yet exported."""
        info = self._info.get(self._plan.name)
        status: dict[str, Any] = {"stream": self._plan.name, "uncertain_appends": self.uncertain}
        if info is None:
            return status
        newest = info.storage_status.newest_sequence_number
        status.update(bytes=info.storage_status.total_bytes, newest=newest)
        exported = self._export_status().get("exported")
        if exported is not None:
            status.update(exported=exported, behind=max(0, newest - exported))
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
            return await self._client.describe(plan.name)
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

    def _fault(self, error: StreamError) -> None:
        if isinstance(error, NoSuchStream):
            logger.warning("stream %s is gone: somebody deleted it; it is made again", self._plan.name)
            self._checked = False
            return
        self._conditions.report("stream", error.why, error.remedy)
        if isinstance(error, Uncertain):
            self.uncertain += 1
            self._checked = False  # what answers next may be another server
