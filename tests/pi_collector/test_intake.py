"""The intake: each value once, and never coverage ahead of the samples that it is about."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi_collector import intake as module
from pi_collector.config import Connection
from pi_collector.coverage.state import State
from pi_collector.intake import Intake, StoreError
from pi_collector.points.point import Stream
from pi_collector.values.decode import decode_recorded
from pi_collector.values.timed import Timed, nothing
from pi_collector.values.times import format7
from sluice.columns import Quality, Sample, ValueType
from sluice.tasks import within

from .kept_outlet import KeptOutlet
from .values.streams import settings, stream

SECOND = 10**9
NOW = 1_714_557_600 * SECOND
DAY = 86400 * SECOND


class Site:
    """An intake with its state and its outlet; streams are named by their point's type."""

    def __init__(
        self, *types: str, outlet: KeptOutlet | None = None, connection: Connection | None = None, **of: Any
    ) -> None:
        self.outlet = KeptOutlet() if outlet is None else outlet
        self.settings = settings(**of) if connection is None else connection
        self.state = State(lambda: NOW / 1e9)
        self.troubles = self.state.load(self.outlet.positions.get)
        self.intake = Intake("line1", self.outlet, self.state, self.settings, clock=lambda: NOW)
        self.streams: list[Stream] = []
        for number, point_type in enumerate(types):
            self.add(stream(number, point_type, self.settings))

    def add(self, of: Stream) -> None:
        handle = self.state.handle(of.key)
        assert handle == of.handle
        self.state.coverage.begin(handle, NOW - 100 * DAY, 0, 0, 365 * DAY)
        self.intake.fix(of)
        self.streams.append(of)

    def timed(self, *rows: tuple[int, int, Any], **flags: Any) -> Timed:
        """Values (stream, time, value) as an answer would have them."""
        body = {
            "Items": [
                {
                    "WebId": f"W{handle}",
                    "Items": [{"Timestamp": format7(time), "Value": value, "Good": True, **flags}],
                }
                for handle, time, value in rows
            ]
        }
        handles = {f"W{handle}": handle for handle in range(100)}
        return decode_recorded(orjson.dumps(body), handles, self.intake.typings).timed


def covered(*frontiers: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return np.array([h for h, _ in frontiers], np.int32), np.array([t for _, t in frontiers], np.int64)


def stored_frontier(outlet: KeptOutlet) -> int:
    """Up to when stream 0 is covered, as it is on the disk."""
    state = State(lambda: NOW / 1e9)
    assert state.load(outlet.positions.get) == []
    return state.coverage.covered(0) if state.key(0) else NOW - 100 * DAY


async def until(condition: Callable[[], object], shown: Callable[[], object], seconds: float = 10.0) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)

    try:
        await within(seconds, wait())
    except asyncio.TimeoutError:
        pytest.fail(f"not within {seconds} s: {shown()}")


async def is_done(awaitable: Awaitable[None]) -> bool:
    """Whether it is done without anything further happening."""
    future = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return future.done()


# --- what becomes of values ---


async def test_values_become_columns_of_their_streams_types() -> None:
    site = Site("Float32", "Int32", "Digital", "String")
    digital = {"Name": "Open", "Value": 3, "IsSystem": False}
    await site.intake.hand_on(site.timed((0, NOW, 1.5), (1, NOW, 7), (2, NOW, digital), (3, NOW, "abc")), live=True)
    (submit,) = site.outlet.of("live")
    assert {part.type for part in submit.columns} == {ValueType.DOUBLE, ValueType.INTEGER, ValueType.STRING}
    assert sorted((s.tag, s.time, s.value, s.status, s.unit, s.asset) for s in submit.samples) == [
        ("T0", NOW, 1.5, 0, "degC", "site/line"),
        ("T1", NOW, 7, 0, "degC", "site/line"),
        ("T2", NOW, "Open", 3, "degC", "site/line"),
        ("T3", NOW, "abc", 0, "degC", "site/line"),
    ]


async def test_a_value_that_is_none_is_null_in_the_type_of_its_stream() -> None:
    site = Site("Float32", "Int32", "Digital", "String")
    timeout = {"Name": "I/O Timeout", "Value": 246, "IsSystem": True}
    await site.intake.hand_on(site.timed(*((handle, NOW, timeout) for handle in range(4))), live=True)
    (submit,) = site.outlet.of("live")
    assert len(submit.columns) == 3
    assert {(s.value, s.quality, s.status) for s in submit.samples} == {(None, Quality.BAD, "246 I/O Timeout")}


async def test_each_value_once_whichever_way_it_comes() -> None:
    site = Site("Float32")
    await site.intake.hand_on(site.timed((0, NOW, 1.5), (0, NOW, 1.5), (0, NOW, 2.5)), live=True)
    await site.intake.hand_on(site.timed((0, NOW, 1.5), (0, NOW, 1.5), (0, NOW, 2.5), (0, NOW, 3.5)), live=False)
    assert [s.value for s in site.outlet.samples] == [1.5, 1.5, 2.5, 3.5]
    assert site.intake.status() == {"received": 7, "repeated": 3}


async def test_what_somebody_asked_for_comes_again() -> None:
    site = Site("Float32")
    for fresh in (True, False):
        await site.intake.hand_on(site.timed((0, NOW, 1.5)), live=False, fresh=fresh, positions={"requested": b"p"})
    assert [s.value for s in site.outlet.samples] == [1.5, 1.5]
    assert site.outlet.positions["requested"] == b"p"


async def test_positions_are_stored_even_without_values() -> None:
    site = Site("Float32")
    await site.intake.hand_on(nothing(), live=False, positions={"requested": b"p"})
    assert site.outlet.positions["requested"] == b"p"


async def test_old_values_are_marked_for_the_bulk_import() -> None:
    site = Site("Float32", "String")
    week = 7 * DAY
    rows = [(0, NOW - week, 1), (0, NOW - week - 100, 2), (1, NOW - week - 100, "x"), (0, NOW, 3)]
    await site.intake.hand_on(site.timed(*rows), live=False)
    marked = {(s.tag, s.value): s.extra for s in site.outlet.samples}
    bulk = (("route", "bulk-import"),)
    assert marked == {("T0", 1.0): (), ("T0", 2.0): bulk, ("T1", "x"): bulk, ("T0", 3.0): ()}


# --- the gate ---


@pytest.mark.parametrize(
    ("gate", "passed"), [("all", [1.0, 2.0, 3.0]), ("good-and-uncertain", [1.0, 2.0]), ("good", [1.0])]
)
async def test_gate(gate: str, passed: list[float]) -> None:
    site = Site("Float32", gate=gate)
    await site.intake.hand_on(site.timed((0, NOW, 1)), live=True)
    await site.intake.hand_on(site.timed((0, NOW + 100, 2), Questionable=True), live=True)
    await site.intake.hand_on(site.timed((0, NOW + 200, 3), Good=False), live=True, advances=covered((0, NOW + 200)))
    assert [s.value for s in site.outlet.samples] == passed
    assert sum(submit.filtered for submit in site.outlet.stored) == 3 - len(passed)
    assert site.intake.status().get("rejected", {}) == ({"connection": 3 - len(passed)} if len(passed) < 3 else {})
    assert site.state.coverage.covered(0) == NOW + 200, "the gate does not stop coverage"
    await site.intake.hand_on(site.timed((0, NOW + 200, 3), Good=False), live=True)
    assert site.intake.status()["repeated"] == 1, "what was rejected is known"


async def test_gates_are_those_of_groups() -> None:
    connection = settings(groups={"strict": {"gate": "good"}})
    site = Site("Float32", connection=connection)
    site.add(stream(1, "Float32", connection, group="strict"))
    await site.intake.hand_on(site.timed((0, NOW, 1), (1, NOW, 2), Good=False), live=False)
    assert [s.tag for s in site.outlet.samples] == ["T0"]
    assert site.intake.status()["rejected"] == {"strict": 1}
    assert site.outlet.of("backfill")[0].filtered == 1


# --- what is counted ---


async def test_values_of_streams_that_are_gone_are_counted() -> None:
    site = Site("Float32", "Float32")
    timed = site.timed((0, NOW, 1), (1, NOW, 2))
    site.intake.forget(1)
    await site.intake.hand_on(timed, live=True)
    assert [s.tag for s in site.outlet.samples] == ["T0"]
    assert site.intake.status() == {"received": 2, "unknown": 1}
    assert (site.intake.name(0), site.intake.name(1)) == ("T0", "")


async def test_what_cannot_be_read_is_in_the_outlets_ledger(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("Float32")
    body = orjson.dumps({"Items": [{"WebId": "W0", "Items": [None, {"Timestamp": "?", "Value": 1}]}]})
    site.intake.count(decode_recorded(body, {"W0": 0}, site.intake.typings))
    await site.intake.hand_on(site.timed((0, NOW, 1)), live=False)
    await site.intake.hand_on(nothing(), live=True)
    assert sum(submit.undelivered for submit in site.outlet.stored) == 2
    assert site.intake.status()["malformed"] == 2
    assert "2 values cannot be read" in caplog.text


async def test_a_point_that_cannot_be_collected_is_told() -> None:
    site = Site()
    assert "Blob" in site.intake.fix(stream(0, "Blob", site.settings))
    await site.intake.hand_on(nothing(), live=True)
    assert site.outlet.samples == []


# --- what is durable when ---


async def test_samples_and_what_is_read_with_them_are_one_transaction() -> None:
    site = Site("Float32", outlet=KeptOutlet(at_once=False))
    durable = asyncio.ensure_future(
        site.intake.hand_on(site.timed((0, NOW, 1.5)), live=True, advances=covered((0, NOW)))
    )
    assert not await is_done(durable)
    assert site.intake.behind > 0
    assert stored_frontier(site.outlet) == NOW - 100 * DAY, "nothing is durable yet"
    site.outlet.store()
    await durable
    assert site.intake.behind == 0
    assert stored_frontier(site.outlet) == NOW
    after_a_crash = Site("Float32", outlet=site.outlet)
    assert not after_a_crash.state.fresh(after_a_crash.timed((0, NOW, 1.5))).any(), "the tail knows it"


async def test_where_nothing_is_new_nobody_waits_and_it_is_noted_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_WITHIN", 0.02)
    site = Site("Float32", outlet=KeptOutlet(at_once=False))
    assert await is_done(site.intake.hand_on(nothing(), live=True, advances=covered((0, NOW))))
    await until(lambda: site.outlet.waiting, lambda: site.intake.status())
    site.outlet.store()
    assert stored_frontier(site.outlet) == NOW
    site.intake.close()


async def test_what_moves_without_values_is_noted_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_WITHIN", 0.02)
    site = Site("Float32")
    for upto in (NOW, NOW + SECOND):
        site.state.advance(*covered((0, upto)))

        def noted(upto: int = upto) -> bool:
            return stored_frontier(site.outlet) == upto

        await until(noted, lambda: site.outlet.positions.keys())
    site.intake.close()
    notes = len(site.outlet.stored)
    site.state.advance(*covered((0, NOW + 2 * SECOND)))
    await asyncio.sleep(0.1)
    assert len(site.outlet.stored) == notes, "closed"


async def test_a_checkpoint_folds_everything() -> None:
    site = Site("Float32")
    for i in range(5):
        await site.intake.hand_on(site.timed((0, NOW + i * 100, i)), live=True, advances=covered((0, NOW + i * 100)))
    await site.intake.checkpoint()
    assert not any(key.startswith("journal/") for key in site.outlet.positions)
    assert stored_frontier(site.outlet) == NOW + 400


async def test_a_checkpoint_is_never_ahead_of_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi_collector.coverage.state.EVERY", 0.0)
    outlet = KeptOutlet(at_once=False)
    site = Site("Float32", outlet=outlet)
    for i in range(3):
        site.intake.hand_on(site.timed((0, NOW + i * 100, i)), live=False, advances=covered((0, NOW + i * 100)))
    outlet.waiting.pop(0).done.set_exception(RuntimeError("not this one"))
    await asyncio.sleep(0)
    outlet.store()
    assert [sample.value for sample in outlet.samples] == [1.0, 2.0]
    site.intake.close()
    again = Site("Float32", outlet=outlet)
    assert "was never stored" in again.troubles[0]
    assert again.state.coverage.covered(0) == NOW - 100 * DAY
    assert again.state.fresh(again.timed(*((0, NOW + i * 100, i) for i in range(3)))).tolist() == [True, False, False]


async def test_a_checkpoint_comes_though_something_is_always_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi_collector.coverage.state.EVERY", 0.0)
    outlet = KeptOutlet(at_once=False)
    site = Site("Float32", outlet=outlet)
    for i in range(20):
        site.intake.hand_on(site.timed((0, NOW + i * 100, i)), live=False, advances=covered((0, NOW + i * 100)))
        outlet.store(max(0, len(outlet.waiting) - 2))
        await asyncio.sleep(0)
        assert outlet.waiting
    assert "coverage" in outlet.positions
    assert site.state.status()["journals"] < 10
    site.intake.close()
    again = Site("Float32", outlet=outlet)
    assert again.troubles == []
    assert NOW <= again.state.coverage.covered(0) < NOW + 1900


async def test_who_reads_waits_while_too_much_is_not_durable() -> None:
    site = Site("Float32", outlet=KeptOutlet(at_once=False))
    for i in range(module.MOST_SUBMITS + 1):
        site.intake.hand_on(site.timed((0, NOW + i * 100, i)), live=False)
    assert site.intake.crowded
    room = asyncio.ensure_future(site.intake.room())
    assert not await is_done(room)
    site.outlet.store()
    await within(5.0, room)
    assert not site.intake.crowded


async def test_full() -> None:
    site = Site("Float32")
    assert not site.intake.full
    site.outlet.full = True
    assert site.intake.full


# --- live values are gathered ---


def gathering(count: int, outlet: KeptOutlet | None = None) -> tuple[Site, list[asyncio.Future[None]]]:
    """A site that has been handed one value, which went at once, and others, which are gathered; value i at tick i."""
    site = Site("Float32", outlet=outlet or KeptOutlet(at_once=False))
    given: list[asyncio.Future[None]] = [
        asyncio.ensure_future(site.intake.hand_on(site.timed((0, NOW + tick * 100, tick)), live=True))
        for tick in range(count + 1)
    ]
    return site, given


def values(site: Site) -> list[Any]:
    return [sample.value for sample in site.outlet.samples]


async def test_a_value_after_a_while_goes_at_once_and_those_after_it_together() -> None:
    site, given = gathering(5)
    assert len(site.outlet.waiting) == 1
    behind = site.intake.behind
    assert behind > 0
    await until(lambda: len(site.outlet.waiting) == 2, lambda: site.outlet.waiting)
    assert site.intake.behind == behind, "what is gathered is as much behind as what is submitted"
    assert not any(one.done() for one in given)
    site.outlet.store(1)
    await within(5.0, given[0])
    assert not given[1].done()
    site.outlet.store()
    await within(5.0, asyncio.gather(*given))
    assert values(site) == [0, 1, 2, 3, 4, 5]
    assert site.intake.behind == 0
    assert site.intake.status() == {"received": 6}


async def test_many_values_or_bytes_go_without_waiting() -> None:
    for of, value, count in (("Float32", 1, module.MOST_GATHERED), ("String", "x" * module.MOST_GATHERED_BYTES, 1)):
        site = Site(of, outlet=KeptOutlet(at_once=False))
        site.intake.hand_on(site.timed((0, NOW, value)), live=True)
        rows = [(0, NOW + tick * 100, value) for tick in range(1, count + 1)]
        for first in range(0, len(rows), 512):
            site.intake.hand_on(site.timed(*rows[first : first + 512]), live=True)
        assert [sum(map(len, one.columns)) for one in site.outlet.waiting] == [1, count]


async def test_nothing_overtakes_what_is_gathered() -> None:
    """Whatever takes positions, hands on otherwise, or changes a stream, has gathered values go before it."""

    def back(site: Site) -> None:
        site.intake.hand_on(site.timed((0, NOW + 900, 9)), live=False)

    def polled(site: Site) -> None:
        site.intake.hand_on(site.timed((0, NOW + 900, 9)), live=True, advances=covered((0, NOW + 900)))

    def known(site: Site) -> None:
        assert site.intake.known(site.timed((0, NOW + 200, 2), (0, NOW + 900, 9))).tolist() == [True, False]

    ways: list[Callable[[Site], object]] = [
        back,
        polled,
        known,
        lambda site: site.intake.checkpoint(),
        lambda site: site.intake.events([{"kind": "gap"}]),
        lambda site: site.intake.fix(site.streams[0]),
        lambda site: site.intake.forget(0),
        lambda site: site.intake.close(),
    ]
    for way in ways:
        site, given = gathering(3)
        way(site)
        assert [sample.value for sample in site.outlet.waiting[1].samples] == [1, 2, 3], way
        site.outlet.store()
        await within(5.0, asyncio.gather(*given))


async def test_no_position_is_durable_before_gathered_values_that_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel hands a value on and confirms it; what is noted by itself then takes the value along."""
    monkeypatch.setattr(module, "GATHERED_WITHIN", 60.0)
    monkeypatch.setattr(module, "NOTED_WITHIN", 0.02)
    site = Site("Float32", outlet=KeptOutlet(at_once=False))
    site.state.advance(*covered((0, NOW - SECOND)))
    site.state.coverage.subscribed(np.array([0], np.int32), NOW - SECOND)
    site.intake.hand_on(site.timed((0, NOW - 100, 1)), live=True)
    site.intake.hand_on(site.timed((0, NOW, 2)), live=True)
    site.state.advance(*covered((0, NOW)))
    await until(lambda: len(site.outlet.waiting) == 2, lambda: site.outlet.waiting)
    for stored in range(3):
        after = Site("Float32", outlet=KeptOutlet())
        after.outlet.positions = dict(site.outlet.positions)
        held = {sample.time for sample in site.outlet.samples}
        assert NOW in held or stored_frontier(after.outlet) < NOW, stored
        site.outlet.store(1)
    assert stored_frontier(site.outlet) == NOW
    site.intake.close()


async def test_each_gathered_answer_counts_its_own_identical_values() -> None:
    """Two of one time in an answer are two values; the same ones in another answer are those again."""
    site = Site("Float32")
    one, two = (0, NOW, 1), (0, NOW + 100, 2)
    given = [[one], [two, two], [two, two, two], [one, two], [one, one]]
    await asyncio.gather(*(site.intake.hand_on(site.timed(*answer), live=True) for answer in given))
    assert sorted(values(site)) == [1, 1, 2, 2, 2]
    assert len(site.outlet.of("live")) == 2
    assert site.intake.status() == {"received": 10, "repeated": 5}


async def test_gathered_values_that_cannot_be_stored_are_said_to_be() -> None:
    site, given = gathering(3)
    site.outlet.refuse(RuntimeError("disk gone"))
    outcomes = await within(5.0, asyncio.gather(*given, return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 4
    assert site.outlet.waiting == [], "nothing more is submitted"
    assert site.intake.behind == 0
    site.intake.flush()
    site.intake.close()


async def test_gathered_values_that_cannot_be_handed_on_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    site, given = gathering(3)

    def broken(*of: Any, **more: Any) -> Any:
        raise ValueError("no columns today")

    monkeypatch.setattr(site.outlet, "submit", broken)
    outcomes = await within(5.0, asyncio.gather(*given[1:], return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
    with pytest.raises(StoreError, match="no columns today"):
        site.intake.hand_on(site.timed((0, NOW, 1)), live=True)


async def test_who_stops_waiting_for_a_gathered_value_stops_nobody_else() -> None:
    site, given = gathering(2)
    given[1].cancel()
    site.intake.flush()
    site.outlet.store()
    await within(5.0, given[2])
    assert values(site) == [0, 1, 2]


# --- when storing fails ---


async def test_after_a_failure_it_begins_anew_from_what_is_stored_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The archive holds one value a tick; the first three are stored, two are refused, what follows is not taken."""
    outlet = KeptOutlet(at_once=False)
    site = Site("Float32", outlet=outlet)

    def read(of: Site, number: int) -> Awaitable[None]:
        time = NOW + number * 100
        return of.intake.hand_on(of.timed((0, time, number)), live=True, advances=covered((0, time)))

    waiting = [asyncio.ensure_future(read(site, number)) for number in range(5)]
    outlet.store(3)
    outlet.refuse(RuntimeError("disk gone"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [StoreError] * 2
    with pytest.raises(StoreError, match="disk gone"):
        read(site, 5)
    with pytest.raises(StoreError):
        await site.intake.room()
    assert caplog.text.count("could not be stored") == 1
    assert "disk gone" in site.intake.status()["trouble"]
    again = Site("Float32", outlet=outlet)
    again.outlet.at_once = True
    assert again.troubles == []
    begin = again.state.coverage.covered(0)
    assert begin == NOW + 200
    for number in range(1, 6):  # an overlap is read again
        await read(again, number)
    assert [s.value for s in outlet.samples] == [0, 1, 2, 3, 4, 5]


async def test_what_is_half_done_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site("Float32")

    def broken(*of: Any, **more: Any) -> Any:
        raise ValueError("no columns today")

    monkeypatch.setattr(site.outlet, "submit", broken)
    with pytest.raises(StoreError, match="no columns today"):
        await site.intake.hand_on(site.timed((0, NOW, 1)), live=True)
    assert site.intake.broken is not None


async def test_nothing_is_noted_once_it_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_WITHIN", 0.01)
    outlet = KeptOutlet(at_once=False)
    site = Site("Float32", outlet=outlet)
    site.intake.hand_on(site.timed((0, NOW, 1)), live=True)
    outlet.refuse(RuntimeError("gone"))
    await until(lambda: site.intake.broken, lambda: site.intake.status())
    site.state.advance(*covered((0, NOW + SECOND)))
    site.intake.events([{"kind": "gap"}])
    await asyncio.sleep(0.1)
    assert outlet.waiting == []
    site.intake.tell("point-renamed", tag="T0")
    (event,) = outlet.waiting
    assert (event.stream, dict(event.positions)) == ("events", {})


# --- events ---


async def test_events_say_whose_they_are_and_carry_what_the_state_knows_of_them() -> None:
    site = Site("Float32")
    site.intake.tell("point-renamed", tag="T0", was="T9")
    site.state.advance(*covered((0, NOW)))
    site.intake.events([{"kind": "gap", "id": "1"}, {"kind": "gap", "id": "2"}])
    site.intake.events([])
    told, gaps = site.outlet.of("events")
    assert told.events == [{"kind": "point-renamed", "time_ns": NOW, "tag": "T0", "was": "T9", "connection": "line1"}]
    assert [event["connection"] for event in gaps.events] == ["line1", "line1"]
    assert not told.positions
    assert gaps.positions


# --- whatever befalls it ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("frame"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("store"), st.integers(0, 4), st.just(0)),
        st.tuples(st.sampled_from(["crash", "refuse", "checkpoint"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)
ARCHIVE = 20  # values of each stream, one a tick


@given(STEPS, st.integers(0, 3))
def test_each_value_arrives_once_whenever_it_is_killed_or_refused(
    steps: list[tuple[str, int, int]], overlap: int
) -> None:
    """Each stream is read from its frontier less an overlap, in pages, and a channel sends frames of what lies there;
    what was not stored is gone with a crash. A frame's values are confirmed as soon as it was handed on, if nothing is
    missing before them."""

    async def live() -> list[Sample]:
        outlet = KeptOutlet(at_once=False)
        site = Site(*["Float32"] * 3, outlet=outlet)

        def read(handle: int, size: int) -> None:
            frontier = (site.state.coverage.covered(handle) - NOW) // 100
            first = max(0, frontier - overlap)
            last = min(first + size + overlap, ARCHIVE)
            page = site.timed(*((handle, NOW + 100 * tick, tick) for tick in range(first, last)))
            site.intake.hand_on(page, live=True, advances=covered((handle, NOW + 100 * last)))

        def frame(handle: int, size: int) -> None:
            frontier = (site.state.coverage.covered(handle) - NOW) // 100
            first, last = max(0, frontier), min(max(0, frontier) + size, ARCHIVE)
            if first < last:
                site.intake.hand_on(
                    site.timed(*((handle, NOW + 100 * tick, tick) for tick in range(first, last))), live=True
                )
                site.state.advance(*covered((handle, NOW + 100 * last)))

        def begin_anew() -> Site:
            site.intake.close()
            outlet.waiting = []
            return Site(*["Float32"] * 3, outlet=outlet)

        for what, number, size in steps:
            if what == "read":
                read(number, size)
            elif what == "frame":
                frame(number, size)
            elif what == "store":
                outlet.store(number)
            elif what == "checkpoint":
                site.intake.checkpoint()
            else:
                if what == "refuse":
                    outlet.refuse(RuntimeError("gone"))
                    await asyncio.sleep(0)
                site = begin_anew()
        for handle in range(3):
            read(handle, ARCHIVE)
        outlet.store()
        site.intake.close()
        return outlet.samples

    arrived = Counter((sample.tag, sample.value) for sample in asyncio.run(live()))
    assert arrived == Counter({(f"T{handle}", float(tick)): 1 for handle in range(3) for tick in range(ARCHIVE)})
