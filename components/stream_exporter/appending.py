"""Sinks whose data travels in the messages themselves: SiteWise entries and Kinesis records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sluice.batch import SampleBatch
from stream_exporter.messages import Encoder
from stream_exporter.pipe import Pipe
from stream_exporter.remedies import Destination
from stream_exporter.sink import Sink
from stream_exporter.stream_client import StreamClient
from stream_exporter.streams import StreamPlan


class AppendingSink(Sink):
    """Encodes ranges and appends the messages. `filter_remedies` says what to do about each reason to filter."""

    def __init__(
        self,
        name: str,
        client: StreamClient,
        encoder: Encoder,
        plan: StreamPlan,
        destination: Destination,
        filter_remedies: Mapping[str, str],
        *,
        pack_interval: float,
        max_waiting: int,
    ) -> None:
        super().__init__(name, client, pack_interval=pack_interval, max_waiting=max_waiting)
        self.pipe = Pipe((plan,), client, self.conditions, destination, self.stopping)
        self._encoder = encoder
        self._filter_remedies = filter_remedies

    async def deliver(self, batches: Sequence[SampleBatch]) -> bool:
        """Encode and append the range."""
        before = self.ledger.appended, self.pipe.uncertain
        encoded = await self.encoded(batches, self._encoder)
        done = await self.pipe.append(
            encoded.messages, self.ledger.append, lambda samples: self.ledger.drop("message-too-large", samples)
        )
        return done or (self.ledger.appended, self.pipe.uncertain) != before

    def status(self) -> dict[str, Any]:
        """With the latest filtered sample of each reason, and its remedy."""
        filtered = {
            reason: {"example": example, "remedy": self._filter_remedies.get(reason, "")}
            for reason, example in self._examples.items()
        }
        return {**super().status(), **({"filtered": filtered} if filtered else {})}
