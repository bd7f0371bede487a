"""Flows for tests: pipelines of given steps, fed with samples, and what comes out of them as samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter

from preprocessor.engine.patterns import Selection
from preprocessor.engine.pipeline import Outcome, Pipeline, Source, new_context
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Sample, from_samples
from sluice.config import Settings

STREAM = "plant/line"
START = 1_700_000_000 * SECOND
S = TypeVar("S", bound=Settings)


def settings(of: type[S], **members: Any) -> S:
    """Settings as they would be written: keys in camelCase, durations with units."""
    return TypeAdapter(of).validate_python(members)


def flow(name: str = "test") -> FlowContext:
    """What the steps of a flow share."""
    return new_context(name)


def pipeline(context: FlowContext, *steps: Step[Any], tags: Sequence[str] = ("**",)) -> Pipeline:
    """A pipeline of these steps, which takes every stream."""
    return Pipeline(context, [Source("*/*", Selection(tags), Selection(["**"]))], steps)


def batch(samples: Sequence[Sample] | Columns, *, stream: str = STREAM, seq: int = 1) -> list[SampleBatch]:
    """Batches of these samples, one for each value type."""
    columns = [samples] if isinstance(samples, Columns) else from_samples(samples)
    return [SampleBatch(Header(stream, "0123456789ab", seq + i), part) for i, part in enumerate(columns)]


def at(seconds: float) -> int:
    """A time so many seconds after START, in ns."""
    return START + round(seconds * SECOND)


def turn(seconds: float = 0.0) -> Turn:
    """A turn so many seconds after START, by both clocks."""
    return Turn(at(seconds), round(seconds * SECOND) + SECOND)


def feed(of: Pipeline, samples: Sequence[Sample], seconds: float = 0.0, *, stream: str = STREAM) -> Outcome:
    """One turn with these samples."""
    return of.turn(batch(samples, stream=stream), turn(seconds))


def samples(outcome: Outcome) -> list[Sample]:
    """All live samples of an outcome, by time."""
    return sorted((one for columns in outcome.live for one in columns.samples()), key=lambda s: (s.time, s.tag))
