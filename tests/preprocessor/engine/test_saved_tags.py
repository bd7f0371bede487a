"""The tags of a flow are a part of its state by themselves: written down as they come, packed when there are others."""

from __future__ import annotations

import pytest

from sluice.columns import Sample

from ..flows import at, feed, flow, pipeline, samples


def test_they_are_packed_again_only_when_there_are_others() -> None:
    of = pipeline(flow())
    feed(of, [Sample("a", at(1), 1.0, unit="degC")])
    first = of.save()
    feed(of, [Sample("a", at(2), 2.0, unit="degC")], 1)
    second = of.save()
    assert second["tags"] is first["tags"]
    assert second["flow"] != first["flow"]
    feed(of, [Sample("b", at(3), 3.0)], 2)
    assert of.save()["tags"] != first["tags"]


@pytest.mark.parametrize("name", ["b", "ü", 'a"b\\', "\ud800"])
def test_all_come_back_in_their_places_whenever_they_came(name: str) -> None:
    of = pipeline(flow())
    feed(of, [Sample("a", at(1), 1.0, unit="degC")])
    feed(of, [Sample("a", at(2), 1.0, unit="degF")], 1)  # another unit: all of them are written down anew
    feed(of, [Sample(name, at(3), 2.0, asset="site/line")], 2)
    again = pipeline(flow())
    assert again.load(of.save()) == []
    assert again.tags.series == of.tags.series
    assert again.save() == of.save()
    assert samples(feed(again, [Sample(name, at(4), 5.0, asset="site/line")], 3))[0].tag == name
    assert len(again.tags) == 2


@pytest.mark.parametrize("broken", [None, b"", b"junk"])
def test_without_them_everything_begins_anew_and_says_so(broken: bytes | None) -> None:
    of = pipeline(flow())
    feed(of, [Sample("a", at(1), 1.0)])
    parts = of.save()
    del parts["tags"]
    if broken is not None:
        parts["tags"] = broken
    again = pipeline(flow())
    (trouble,) = again.load(parts)
    assert "begins anew" in trouble
    assert len(again.tags) == again.held == 0
