"""One turn may bring a tag under two units; a step may make a tag when it ends. Nothing goes out by another's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from preprocessor.engine.block import Block
from preprocessor.engine.step import Step, Turn
from preprocessor.step_settings import ConvertSettings, StepSettings
from preprocessor.steps.convert import Convert
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Sample, Series, ValueType

from ..flows import at, feed, flow, pipeline, samples, settings, turn


def batch(number: int, unit: str, *values: float, **extra: str) -> SampleBatch:
    size = len(values)
    columns = Columns(
        ValueType.DOUBLE,
        (Series("T", unit=unit, extra=tuple(extra.items())),),
        np.zeros(size, dtype=np.int32),
        np.array([at(10 * number + place) for place in range(size)], dtype=np.int64),
        np.array(values, dtype=np.float64),
    )
    return SampleBatch(Header("plant/a", "0123456789ab", number), columns)


def test_a_unit_that_changes_in_the_middle_of_a_turn_counts_from_there_on() -> None:
    context = flow()
    of = pipeline(context, Convert("bar", settings(ConvertSettings, type="convert", to="degC"), context))
    given = [batch(1, "degC", 20.0, 21.0), batch(2, "degF", 68.0), batch(3, "degF", 212.0), batch(4, "degC", 22.0)]
    out = samples(of.turn(given, turn(100)))
    assert [(one.unit, one.value) for one in out] == [
        ("degC", 20.0),
        ("degC", 21.0),
        ("degC", pytest.approx(20.0)),
        ("degC", pytest.approx(100.0)),
        ("degC", 22.0),
    ]
    assert (of.received, of.sent, of.held) == (5, 5, 0)


def test_nothing_that_came_before_goes_out_with_a_later_unit_or_with_later_members() -> None:
    of = pipeline(flow())
    out = samples(of.turn([batch(1, "", 1.0), batch(2, "bar", 2.0), batch(3, "bar", 3.0, line="2")], turn(100)))
    assert [(one.value, one.unit, dict(one.extra)) for one in out] == [
        (1.0, "", {}),
        (2.0, "bar", {}),
        (3.0, "bar", {"line": "2"}),
    ]


class Last(Step[StepSettings]):
    """Gives, when it ends, a row of a tag that nobody knew."""

    rank = 100

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        return blocks

    def finish(self, turn: Turn) -> Sequence[Block]:
        slot = self.flow.tags.slot(Series("Last"), stage=self.name)
        self.made(1, "last")
        return [
            Block(
                ValueType.DOUBLE,
                np.array([slot], dtype=np.int32),
                np.array([turn.now]),
                np.array([7.0]),
                np.zeros(1, dtype=np.uint8),
                np.zeros(1, dtype=np.int64),
            )
        ]


def test_what_a_step_gives_at_its_end_is_treated_by_the_steps_behind_it_like_any_other() -> None:
    context = flow()
    tenfold = Convert("tenfold", settings(ConvertSettings, type="convert", gain=10.0), context)
    of = pipeline(context, Last("last", StepSettings(), context), tenfold)
    feed(of, [Sample("a", at(1), 1.0)], 1)
    out = samples(of.finish(["last"], turn(2)))
    assert [(one.tag, one.value) for one in out] == [("Last", 70.0)]
    assert of.held == 0
