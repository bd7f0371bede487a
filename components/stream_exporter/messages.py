"""What an encoder hands on: messages of a stream, and the account of the samples that went into them.

An encoder is a function of its arguments alone: the same contiguous range of one input stream, with the same
configuration and the same decision time, gives the same messages. What was appended only in part can therefore be made
again and completed.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from sluice.batch import SampleBatch


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream: what is appended, and how many samples it carries."""

    payload: bytes
    samples: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """The messages of one range, and the samples that no message carries, by reason.

    Every sample of the range is in exactly one message or counted under exactly one reason. `examples` shows one
    sample of each reason, as text for people.
    """

    messages: tuple[Message, ...]
    filtered: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples carried by the messages."""
        return sum(message.samples for message in self.messages)

    @property
    def bytes(self) -> int:
        """Bytes of the messages."""
        return sum(len(message.payload) for message in self.messages)


class Encoder(Protocol):
    """Turns one contiguous range of one input stream into messages."""

    def encode(self, batches: Sequence[SampleBatch], now_ns: int) -> Encoded:
        """`now_ns` is the decision time: what counts as too old or too new is decided against it (ns since 1970)."""
        ...


def samples_in(payload: bytes) -> int:
    """How many samples a message of ours carries, told from the message: JSON lines, packed or not, or an entry."""
    if payload[:2] == b"\x1f\x8b":
        payload = gzip.decompress(payload)
    if payload.endswith(b"\n"):
        return payload.count(b"\n")
    return len(orjson.loads(payload)["propertyValues"])
