"""A pipeline whose state depends on everything: on values, on the order across streams and kinds, on every turn's time.

Whoever goes through other turns, or through the same in another order, ends in another state and gives other samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preprocessor.config import Flow
from preprocessor.engine.block import Block, Mask
from preprocessor.engine.patterns import Selection
from preprocessor.engine.pipeline import Pipeline, Source, new_context
from preprocessor.engine.step import SECOND, Step, Turn
from preprocessor.step_settings import StepSettings
from sluice.batch import EventBatch, Header, SampleBatch
from sluice.columns import Columns, Series, ValueType

EPOCH = "0123456789ab"
START = 1_790_000_000 * SECOND
"""Wall clock of the tests, ns."""
MODULUS = 2**31 - 1


class Chain(Step[StepSettings]):
    """Each value becomes a mixture of all before it, and of the times of turns without input; every third row of a
    block is held until the next turn that has input; each 2 s of silence a row is made; 13 is told in an event. A value
    of 666 cannot be processed."""

    rank = 500

    def __init__(self, name: str, settings: StepSettings, flow: Any) -> None:
        super().__init__(name, settings, flow)
        self.mixed = 1
        self.quiet_since = 0
        self.held: list[tuple[int, int, float]] = []

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        out = []
        for block in blocks:
            values = block.value.copy()
            for row, value in enumerate(block.value.tolist()):
                if value == 666:
                    raise RuntimeError("666 cannot be processed")
                if value == 13:
                    self.flow.tell("thirteen", int(block.t[row]), mixed=self.mixed)
                self.mixed = (self.mixed * 31 + int(value) + (7 if block.backfill else 0)) % MODULUS
                values[row] = self.mixed
            keep = self.kept(block)
            held = [
                (slot, time, value)
                for slot, time, value in zip(
                    block.slot[keep].tolist(), block.t[keep].tolist(), values[keep].tolist(), strict=True
                )
            ]
            self.held, released = held, self.held
            out.append(block.with_(value=values).take(~keep))
            out += self.rows(released)
        if blocks:
            self.quiet_since = turn.steady
        else:
            self.mixed = (self.mixed * 3 + turn.steady // 1_000_000) % MODULUS
        if not blocks and turn.steady - self.quiet_since >= 2 * SECOND and len(self.flow.tags):
            self.quiet_since = turn.steady
            self.mixed = (self.mixed * 17 + turn.now) % MODULUS
            self.made(1, "quiet")
            out += self.rows([(0, turn.now, float(self.mixed))])
        return out

    def kept(self, block: Block) -> Mask:
        """The rows that are held."""
        third: Mask = np.arange(len(block)) % 3 == 2
        return third

    def rows(self, of: list[tuple[int, int, float]]) -> list[Block]:
        if not of:
            return []
        slots, times, values = zip(*of, strict=True)
        size = len(of)
        return [
            Block(
                ValueType.DOUBLE,
                np.array(slots, dtype=np.int32),
                np.array(times, dtype=np.int64),
                np.array(values, dtype=np.float64),
                np.zeros(size, dtype=np.uint8),
                np.zeros(size, dtype=np.int64),
            ).sorted()
        ]

    def finish(self, turn: Turn) -> Sequence[Block]:
        held, self.held = self.held, []
        return self.rows(held)

    def save(self) -> Mapping[str, Any]:
        return {"mixed": self.mixed, "quiet_since": self.quiet_since, "held": [list(row) for row in self.held]}

    def load(self, state: Mapping[str, Any]) -> None:
        self.mixed, self.quiet_since = state["mixed"], state["quiet_since"]
        self.held = [(slot, time, value) for slot, time, value in state["held"]]


def definition(*streams: str, steps: Sequence[str] = ("chain",), **settings: Any) -> dict[str, Any]:
    """What a flow of such steps is built from."""
    inputs = {f"input{n}": {"stream": stream} for n, stream in enumerate(streams or ("*/*",))}
    given = Flow.model_validate({"inputs": inputs, **settings}).model_dump(mode="json", by_alias=True)
    return {"settings": given, "made": list(steps)}


def build(name: str, of: Mapping[str, Any]) -> Pipeline:
    """The pipeline of such a definition."""
    if "wrong" in of["made"]:
        raise ValueError("wrong is no step")
    context = new_context(name)
    everything = Selection(["**"])
    sources = [Source(one["stream"], everything, everything) for one in of["settings"]["inputs"].values()]
    steps = [Chain(step, StepSettings.model_validate({}), context) for step in of["made"]]
    return Pipeline(context, sources, steps)


def columns(values: Sequence[float], *, tag: str = "T", first: int = 0) -> Columns:
    """Values of one tag, a millisecond apart, from the first one on."""
    size = len(values)
    times = START + (np.arange(size, dtype=np.int64) + first) * 1_000_000
    return Columns(
        ValueType.DOUBLE, (Series(tag),), np.zeros(size, dtype=np.int32), times, np.array(values, dtype=np.float64)
    )


def batch(stream: str, number: int, values: Sequence[float] = (1.0,), epoch: str = EPOCH) -> SampleBatch:
    """Batch `number` of a stream."""
    return SampleBatch(Header(stream, epoch, number), columns(values, tag=stream, first=100 * number))


def events(stream: str, number: int) -> EventBatch:
    """Batch `number` of an events stream, of one event."""
    return EventBatch(Header(stream, EPOCH, number), ({"kind": "audit", "number": number},))


def texts(*values: str) -> Columns:
    """The same for texts."""
    size = len(values)
    column = np.full(size, None, dtype=object)
    column[:] = values
    times = START + np.arange(size, dtype=np.int64)
    return Columns(ValueType.STRING, (Series("Text"),), np.zeros(size, dtype=np.int32), times, column)
