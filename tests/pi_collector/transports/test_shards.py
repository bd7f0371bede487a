"""Streams share channels as their addresses have room; those that stay keep theirs; the refused ones are found."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pi_collector.config import Connection
from pi_collector.plan import plan
from pi_collector.points.point import Point, Stream
from pi_collector.transports.shards import HEARTBEAT_ROOM, MOST_OPENINGS, Search, Shards
from pi_collector.web import requests

SETTINGS = Connection.model_validate(
    {"url": "https://pi.example.com/piwebapi", "groups": {"fast": {"pollInterval": "1s"}}}
)


def stream(handle: int, group: str = "", web_id: str = "") -> Stream:
    point = Point(web_id or f"I1DP{handle:028d}", "S", handle, f"T{handle}", rf"\\S\T{handle}", "Float64")
    return Stream(handle, f"T{handle}", point, plan(SETTINGS, group), "", "")


streams = st.dictionaries(
    st.integers(0, 60), st.tuples(st.sampled_from(["", "fast"]), st.integers(0, 2)), max_size=40
).map(lambda of: [stream(handle, group, f"W{handle}x{'y' * 40 * kind}") for handle, (group, kind) in of.items()])


@given(st.lists(streams, min_size=1, max_size=6), st.integers(1, 7), st.integers(300, 2000))
def test_each_wanted_stream_has_one_shard_that_fits_and_those_that_stay_keep_it(
    configurations: list[list[Stream]], most: int, url_bytes: int
) -> None:
    shards = Shards()
    for wanted in configurations:
        before = {handle: (shard, of) for shard in shards.all for handle, of in shard.streams.items()}
        arranged = shards.want(wanted, most, url_bytes)
        have = [handle for shard in shards.all for handle in shard.streams]
        assert sorted(have) == sorted(one.handle for one in wanted)
        for shard in shards.all:
            assert 0 < len(shard.streams) <= most
            assert {one.plan.group for one in shard.streams.values()} == {shard.group}
            request = requests.channel((one.point.web_id for one in shard.streams.values()), HEARTBEAT_ROOM)
            written = requests.BASE + len(requests.written(*request))
            assert written <= url_bytes or len(shard.streams) == 1
            for handle, one in shard.streams.items():
                old = before.get(handle)
                if old and old[1].point.web_id == one.point.web_id and old[1].plan.group == one.plan.group:
                    assert shard is old[0], "it stays where it was"
        assert not set(arranged.gone) & set(shards.all)
        assert set(arranged.added) <= set(shards.all)


def test_small_shards_that_are_not_open_are_put_together_and_those_apart_are_not() -> None:
    shards = Shards()
    wanted: list[Stream] = []
    for handle in range(10):
        wanted.append(stream(handle))
        shards.want(wanted, 500, 6000)
    assert len(shards.all) == 10
    apart = shards.all[3]
    apart.apart = True
    arranged = shards.merged(shards.all, 500, 6000)
    assert len(arranged.gone) == 9
    assert len(shards.all) == 2
    assert sorted(handle for shard in shards.all for handle in shard.streams) == list(range(10))
    assert shards.merged(shards.all, 500, 6000).added == [], "nothing more is to be gained"


def test_a_shard_whose_messages_are_too_large_becomes_two() -> None:
    shards = Shards()
    shards.want([stream(handle) for handle in range(5)], 500, 6000)
    arranged = shards.halved(shards.all[0])
    assert [len(shard.streams) for shard in arranged.added] == [2, 3]
    shards.want([stream(0)], 500, 6000)
    assert shards.halved(shards.all[0]).added == [], "one stream cannot be halved"


def test_refused_streams_leave_the_others_alone() -> None:
    shards = Shards()
    shards.want([stream(handle) for handle in range(5)], 500, 6000)
    (shard,) = shards.all
    arranged = shards.isolated(shard, [1, 3])
    assert sorted(shard.streams) == [0, 2, 4]
    assert [sorted(added.streams) for added in arranged.added] == [[1, 3]]
    assert arranged.added[0].apart


def searched(count: int, bad: set[int], *, works: bool = False) -> tuple[Search, int]:
    """The end of a search in which these are refused, and how many openings it took."""
    search, openings = Search(range(count), works=works), 0
    while (asked := search.ask()) is not None:
        openings += 1
        search.answered(taken=not bad & set(asked))
    return search, openings


@given(
    st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=3)))
)
def test_a_search_finds_exactly_the_streams_that_are_refused(case: tuple[int, set[int]]) -> None:
    count, bad = case
    search, openings = searched(count, bad)
    if search.hopeless:
        # Nothing was taken before two were refused alone: only where they are the very first.
        assert {0, 1} <= bad or count == len(bad)
        search, openings = searched(count, bad, works=True)
    assert set(search.refused) == bad
    assert openings <= 2 * len(bad) * math.ceil(math.log2(count)) + 2


def test_a_server_that_takes_nothing_is_told_from_one_that_does_not_know_a_stream() -> None:
    search, openings = searched(500, set(range(500)))
    assert search.hopeless
    assert openings <= 12


def test_a_search_is_bounded_and_what_it_found_counts() -> None:
    search, openings = searched(500, set(range(0, 500, 2)), works=True)
    assert openings == MOST_OPENINGS
    assert search.refused
