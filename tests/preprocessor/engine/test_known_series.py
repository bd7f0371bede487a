"""A batch's series are looked up once as long as they are the same: nobody can tell but by the clock."""

from __future__ import annotations

import numpy as np

from preprocessor.engine.patterns import Selection
from preprocessor.engine.pipeline import Pipeline, Source
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Sample, Series, ValueType

from ..flows import at, flow, pipeline, samples, turn


def scan(of: Pipeline, stream: str, series: tuple[Series, ...], second: int) -> list[Sample]:
    size = len(series)
    columns = Columns(
        ValueType.DOUBLE,
        series,
        np.arange(size, dtype=np.int32),
        np.full(size, at(second), dtype=np.int64),
        np.full(size, float(second)),
    )
    return samples(of.turn([SampleBatch(Header(stream, "0123456789ab", second + 1), columns)], turn(second)))


def test_a_tag_goes_out_with_the_unit_that_came_last_also_when_two_streams_do_not_agree() -> None:
    of = pipeline(flow())
    celsius, fahrenheit = (Series("a", unit="degC"), Series("b")), (Series("a", unit="degF"), Series("b"))
    for second in range(0, 12, 3):
        for place, (stream, series) in enumerate((("p/one", celsius), ("p/one", celsius), ("p/two", fahrenheit))):
            out = scan(of, stream, series, second + place)
            assert [(one.tag, one.unit) for one in out] == [("a", series[0].unit), ("b", "")]


def test_what_one_stream_may_bring_another_may_not() -> None:
    of = Pipeline(flow(), [Source("p/one", Selection(["a"]), Selection(["**"]))], [])
    series = (Series("a"), Series("b"))
    for second in range(0, 6, 2):
        assert [one.tag for one in scan(of, "p/one", series, second)] == ["a"]
        assert scan(of, "p/two", series, second + 1) == []
    assert of.counters["not_selected"] == 9
    assert of.held == 0


def test_batches_that_differ_in_the_middle_are_not_taken_for_each_other() -> None:
    of = pipeline(flow())
    first, last = Series("a"), Series("z")
    for second in range(6):
        middle = Series(f"m{second % 2}")
        assert [one.tag for one in scan(of, "p/one", (first, middle, last), second)] == ["a", middle.tag, "z"]


def test_tags_that_came_since_the_last_checkpoint_are_in_the_next() -> None:
    of = pipeline(flow())
    for second, names in enumerate(("a", "ab", "ab", "abc")):
        scan(of, "p/one", tuple(Series(name, asset="Mill") for name in names), second)
        again: Pipeline = pipeline(flow())
        assert again.load(of.save()) == []
        assert [one.tag for one in again.tags.series] == list(names)
        assert again.save() == of.save()
