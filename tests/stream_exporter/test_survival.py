"""A sink dies, or stream manager does, at every boundary: each sample is appended once, and nothing is acknowledged
before it is exported."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice import crash
from sluice.batch import Announcement, EventBatch, Header
from sluice.cursors import Cursor, decode_cursors
from sluice.delivery import Gap, Message
from sluice.following import Following
from stream_exporter import pipe as pipe_module
from stream_exporter import sink as sink_module
from stream_exporter.config import KinesisSink, SiteWiseSink

KINESIS = KinesisSink(type="kinesis", kinesis_stream="plant-data", pack_interval=0.02)
SMALL = KINESIS.model_copy(update={"message_size": 1000})
SITEWISE = SiteWiseSink(type="sitewise", pack_interval=0.02)
POINTS = ("received", "intent", "appended", "committed", "exported")
LINE = "opcua-collector/line1"
OTHER = "opcua-collector/line2"


def told(payloads: list[bytes]) -> Counter[str]:
    """Every sample in these messages: by its id in lines, by property and time in entries."""
    found: Counter[str] = Counter()
    for payload in payloads:
        if payload.endswith(b"\n"):
            found.update(json.loads(line)["id"] for line in payload.splitlines())
        else:
            entry = json.loads(payload)
            for item in entry["propertyValues"]:
                found[f"{entry['propertyAlias']} {item['timestamp']} {item['value']}"] += 1
    return found


def once(payloads: list[bytes], samples: int) -> bool:
    found = told(payloads)
    return len(found) == samples and set(found.values()) == {1}


@pytest.mark.parametrize("setting", [SMALL, SITEWISE], ids=["kinesis", "sitewise"])
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_boundary_each_sample_is_appended_once(bench: Any, point: str, setting: Any) -> None:
    bench.exporting = True
    bench.sink(setting)
    bench.publish(*(bench.batch(seq) for seq in (1, 2)))
    await bench.until(lambda: bench.acknowledged() == 2, "the first units")
    bench.dies_at = [point]
    bench.publish(*(bench.batch(seq, stream=stream) for stream in (LINE, OTHER) for seq in (3, 4)))
    await bench.until(lambda: bench.died, f"the death at {point}")
    await bench.kill()

    (sink,) = await bench.restart()
    bench.publish(bench.batch(5))

    await bench.until(lambda: bench.acknowledged() == 5 and bench.acknowledged(OTHER) == 4, "all to be exported")
    assert once(bench.stored(setting.stream), 70)
    assert sink.ledger.received == sink.ledger.appended == 70
    assert "may_repeat" not in sink.status()
    assert bench.store.count("test") == 0


@pytest.mark.parametrize("appended", [1, 2, 3])
async def test_killed_in_mid_unit_only_what_is_missing_is_appended(bench: Any, appended: int) -> None:
    bench.sink(SMALL)
    await bench.until(lambda: SMALL.stream in bench.server.streams.names(), "the stream")
    for _ in range(appended):
        bench.fault("delay", operation="append", seconds=0.0)
    bench.fault("lose_reply", operation="append", accept=False, count=100)
    bench.publish(bench.batch(1), bench.batch(2))
    await bench.until(lambda: len(bench.stored(SMALL.stream)) == appended, "a part of the unit")
    await bench.kill()
    assert bench.store.units("test")[0].messages > appended
    bench.server.faults.clear()

    (sink,) = await bench.restart()

    await bench.until(lambda: sink.ledger.appended == 20, "the rest")
    assert once(bench.stored(SMALL.stream), 20)


async def test_an_incomplete_unit_whose_producer_is_away_holds_no_other_stream_also_after_another_kill(
    bench: Any,
) -> None:
    await interrupted(bench, messages=2)
    away = bench.streams.pop((LINE, bench.epoch))
    (sink,) = await bench.restart()
    bench.publish(*(bench.batch(seq, stream=OTHER) for seq in (1, 2, 3)))
    await bench.until(lambda: sink.ledger.appended == 30, "the other stream's samples")
    assert sink.status()["incomplete_units"] == 1
    await bench.kill()
    (sink,) = await bench.restart()
    bench.publish(bench.batch(4, stream=OTHER))
    await bench.until(lambda: sink.ledger.appended == 40, "more of them")

    bench.streams[LINE, bench.epoch] = away

    await bench.until(lambda: sink.ledger.appended == 60, "the unit to be completed")
    assert once(bench.stored(SMALL.stream), 60)


async def test_what_cannot_be_had_any_more_of_an_incomplete_unit_is_counted_and_told(bench: Any) -> None:
    await interrupted(bench, messages=2)
    there = sum(told(bench.stored(SMALL.stream)).values())
    bench.streams[LINE, bench.epoch].delete_to(1)

    (sink,) = await bench.restart()
    bench.publish(bench.batch(3))
    await bench.until(lambda: sink.ledger.received == 30 and not sink.ledger.waiting, "all to be accounted for")

    assert sink.ledger.appended == there + 10, "what was appended stays, and batch 3"
    assert sink.ledger.dropped == {"gone": 20 - there}
    assert sink.ledger.missed == {}
    assert "batches 1 to 2 of opcua-collector/line1" in sink.status()["missed"][-1]
    assert set(told(bench.stored(SMALL.stream)).values()) == {1}
    bench.export(SMALL.stream)
    await bench.until(lambda: bench.acknowledged() == 3, "the acknowledgement")


async def test_a_unit_of_which_nothing_was_appended_is_begun_anew_with_what_is_left(bench: Any) -> None:
    await interrupted(bench, messages=0)
    bench.streams[LINE, bench.epoch].delete_to(1)

    (sink,) = await bench.restart()

    await bench.until(lambda: sink.ledger.appended == 10, "what is left")
    assert sink.ledger.missed == {"gone": 1}
    assert sink.ledger.dropped == {}
    assert once(bench.stored(SMALL.stream), 10)


async def test_an_incomplete_unit_of_an_epoch_that_is_no_more_is_given_up(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "REPLACED_AFTER", 0.2)
    await interrupted(bench, messages=2)
    del bench.streams[LINE, bench.epoch]
    (sink,) = await bench.restart()
    bench.publish(bench.batch(1, epoch="0" * 12))
    await bench.until(lambda: sink.ledger.appended == 10, "the new epoch's samples")

    seq = 1
    while "gone" not in sink.ledger.dropped:
        seq += 1
        bench.publish(bench.batch(seq, epoch="0" * 12))
        await asyncio.sleep(0.02)
        assert seq < 500

    assert sink.ledger.received == sum((sink.ledger.appended, sink.ledger.dropped["gone"], sink.ledger.waiting))
    assert "incomplete_units" not in sink.status()


async def interrupted(bench: Any, *, messages: int) -> None:
    """Batches 1 and 2 make one unit; the exporter is killed when `messages` of its messages are in the stream."""
    bench.sink(SMALL)
    await bench.until(lambda: SMALL.stream in bench.server.streams.names(), "the stream")
    for _ in range(messages):
        bench.fault("delay", operation="append", seconds=0.0)
    bench.fault("lose_reply", operation="append", accept=False, count=100)
    bench.publish(bench.batch(1), bench.batch(2))
    await bench.until(lambda: bench.store.count("test") == 1, "the intent")
    await bench.until(lambda: len(bench.stored(SMALL.stream)) == messages, "a part of the unit")
    await bench.kill()
    bench.server.faults.clear()


# --- stream manager loses what it had -------------------------------------------------------------------------------


@pytest.mark.parametrize("also_killed", [False, True], ids=["exporter-lives", "exporter-dies-too"])
async def test_a_lost_tail_comes_again_and_what_is_whole_stays(bench: Any, also_killed: bool) -> None:
    sink = bench.sink(SMALL)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the first unit")
    safe = len(bench.stored(SMALL.stream))
    bench.server.streams.get(SMALL.stream)._log.flush()
    bench.publish(bench.batch(2))
    await bench.until(lambda: sink.ledger.appended == 20, "the second unit")
    await bench.until(lambda: bench.store.committed_to("test", LINE, bench.epoch) == 2, "its commit")
    if also_killed:
        await bench.kill()

    await bench.cut_power()

    assert len(bench.stored(SMALL.stream)) == safe
    if also_killed:
        (sink,) = await bench.restart()
    bench.publish(bench.batch(3))
    await bench.until(
        lambda: len(told(bench.stored(SMALL.stream))) == 30, "everything, once more or for the first time"
    )
    await bench.until(lambda: not sink.ledger.waiting, "the ledger")
    assert once(bench.stored(SMALL.stream), 30)
    assert sink.ledger.received == sink.ledger.appended == 30
    assert "batches 2 to 2 of opcua-collector/line1" in sink.status()["may_repeat"][0]


async def test_a_unit_of_which_the_stream_kept_a_part_is_completed(bench: Any) -> None:
    sink = bench.sink(SMALL)
    await bench.until(lambda: SMALL.stream in bench.server.streams.names(), "the stream")
    bench.fault("delay", operation="append", seconds=0.0)
    bench.fault("delay", operation="append", seconds=0.2)
    bench.publish(bench.batch(1), bench.batch(2))
    await bench.until(lambda: len(bench.stored(SMALL.stream)) == 2, "a part of the unit")
    bench.server.streams.get(SMALL.stream)._log.flush()
    await bench.until(lambda: bench.store.committed_to("test", LINE, bench.epoch) == 2, "the unit")
    bench.publish(bench.batch(1, stream=OTHER))
    await bench.until(lambda: sink.ledger.appended == 30, "another")

    await bench.cut_power()

    await bench.until(lambda: sink.status()["shortened"] == 1, "the loss to be seen")
    await bench.until(lambda: len(told(bench.stored(SMALL.stream))) == 30, "everything")
    await bench.until(lambda: sink.ledger.appended == sink.ledger.received == 30, "the ledger")
    assert once(bench.stored(SMALL.stream), 30)


async def test_a_loss_while_an_earlier_run_is_looked_into_is_not_overlooked(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await interrupted(bench, messages=2)
    await bench.open_store()
    intend = bench.store.intend

    async def intend_slowly(*units: Any) -> None:
        if units[0].parked:
            await bench.cut_power()
            await bench.until(lambda: bench.sinks[0].lost(), "the loss to be seen")
        await intend(*units)

    monkeypatch.setattr(bench.store, "intend", intend_slowly)
    sink = bench.sink(SMALL)

    await bench.until(lambda: sink.ledger.appended == 20, "all samples")
    assert once(bench.stored(SMALL.stream), 20)


async def test_an_incomplete_unit_that_the_stream_lost_is_begun_anew(bench: Any) -> None:
    bench.sink(SMALL)
    bench.publish(bench.batch(1, stream=OTHER))
    await bench.until(lambda: bench.sinks[0].ledger.appended == 10, "a unit")
    for _ in range(2):
        bench.fault("delay", operation="append", seconds=0.0)
    bench.fault("lose_reply", operation="append", accept=False, count=100)
    bench.publish(bench.batch(1), bench.batch(2))
    await bench.until(lambda: bench.store.count("test") == 2, "the intent")
    await bench.until(lambda: len(bench.stored(SMALL.stream)) > 3, "a part of the unit")
    await bench.kill()
    await bench.cut_power()

    (sink,) = await bench.restart()

    await bench.until(lambda: sink.ledger.appended == 30, "all")
    assert once(bench.stored(SMALL.stream), 30)


async def test_an_export_that_is_ahead_of_its_stream_is_not_believed(bench: Any) -> None:
    sink = bench.sink(SMALL)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the unit")
    bench.export(SMALL.stream, up_to=500)
    looks = bench.server.streams.get(SMALL.stream)
    await bench.until(lambda: "exported" not in sink.status(), "the position to be seen")
    bench.publish(bench.batch(2))
    await bench.until(lambda: sink.ledger.appended == 20, "the next unit")

    assert bench.acknowledged() == 0
    bench.export(SMALL.stream, up_to=looks.newest)
    await bench.until(lambda: bench.acknowledged() == 2, "the acknowledgement once it is believed")


# --- the pipe -------------------------------------------------------------------------------------------------------


async def test_bytes_that_are_not_exported_never_exceed_the_pipe(bench: Any) -> None:
    sink = bench.sink(SMALL.model_copy(update={"stream_size": 12_000, "segment_size": 2_000}))
    limit = 8_000
    for seq in range(1, 101):
        bench.publish(bench.batch(seq))
    unexported = []
    exported = 0

    def step() -> bool:
        nonlocal exported
        stream = bench.server.streams.get(SMALL.stream) if SMALL.stream in bench.server.streams.names() else None
        if stream is not None and stream.newest >= 0:
            kept = stream.read(max(0, exported), 1, 100_000, 0) if exported <= stream.newest else []
            unexported.append(sum(len(message.payload) for message in kept))
            if stream.newest > exported + 1:
                bench.export(SMALL.stream, up_to=exported + 1)
                exported += 2
        return bool(sink.ledger.appended == 1000)

    await bench.until(step, "all samples", limit=60.0)
    assert max(unexported) <= limit
    assert bench.server.streams.get(SMALL.stream).oldest > 0, "what was exported was overwritten"


async def test_a_full_pipe_is_told_and_ends_with_the_export(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_module, "FULL_TOLD", 0.1)
    monkeypatch.setattr(pipe_module, "FULL_LOOK", 0.02)
    sink = bench.sink(SMALL.model_copy(update={"stream_size": 8_000, "segment_size": 2_000}))
    for seq in range(1, 31):
        bench.publish(bench.batch(seq))

    await bench.until(lambda: sink.status()["state"] == "failed", "word of the full pipe")

    assert "wait for their export" in sink.status()["why"]
    assert "streamSize" in sink.status()["remedy"]
    bench.exporting = True
    await bench.until(lambda: sink.ledger.appended == 300, "all samples")
    assert sink.status()["state"] == "running"


async def test_a_sink_that_is_replaced_in_the_middle_of_slow_appends_appends_nothing_beside_its_successor(
    bench: Any,
) -> None:
    sink = bench.sink(SMALL)
    bench.fault("delay", operation="append", seconds=0.2, count=1_000)
    bench.publish(*(bench.batch(seq) for seq in range(1, 6)))
    await bench.until(lambda: len(bench.stored(SMALL.stream)) > 1, "the first messages")
    bench.sinks = []
    await sink.stop(0.05)
    successor = bench.sink(SMALL)
    await bench.until(lambda: successor.ledger.appended == 50, "all samples")
    ended = sink._client._thread
    await bench.until(lambda: not ended.is_alive(), "the end of what the first one had under way")
    assert once(bench.stored(SMALL.stream), 50)


# --- who holds what -------------------------------------------------------------------------------------------------


async def test_a_sink_that_is_not_required_holds_nobody_beyond_its_lag(bench: Any) -> None:
    await bench.server.stop()
    lax = KINESIS.model_copy(update={"required": False, "max_lag": 0.3, "max_waiting": 1000})
    sink = bench.sink(lax)
    for seq in range(1, 201):
        bench.publish(bench.batch(seq))

    await bench.until(lambda: bench.acknowledged() == 200, "the lag to be over")
    bench.streams[LINE, bench.epoch].delete_to(200)
    await bench.start_server()

    await bench.until(lambda: sink.ledger.appended == 1000, "what it had in hand")
    bench.publish(bench.batch(201))
    await bench.until(lambda: sink.ledger.appended == 1010, "what came after the gap")
    assert sink.ledger.missed == {"lag": 100}
    assert "batches 101 to 200 of opcua-collector/line1" in sink.status()["missed"][0]
    assert "maxLag" in sink.status()["missed"][0]


async def test_what_a_stuck_sink_that_is_not_required_lags_by_is_told_to_the_producer_as_done(bench: Any) -> None:
    """Through the inlet's rules, which never acknowledge more than came: the cursor has to pass it over."""
    await bench.server.stop()
    sink = bench.sink(KINESIS.model_copy(update={"required": False, "max_lag": 0.2, "max_waiting": 1000}))
    following = Following("stream-exporter")
    following.readers = {"test": sink}
    for seq in range(1, 201):
        bench.publish(bench.batch(seq))
    now = asyncio.get_running_loop().time()
    following.offer(Message(Announcement(LINE, bench.epoch, 1, 200)), now)
    assert sink.consumer.next(LINE, bench.epoch) == 101

    def done() -> bool:
        now = asyncio.get_running_loop().time()
        told = [decode_cursors(topic, payload) for topic, payload in following.tell(now, everything=True)]
        return told[0].streams[LINE] == Cursor(bench.epoch, 200, 201)

    await bench.until(done, "the lag to be over")


async def test_numbers_that_a_producer_gives_a_second_time_are_not_acknowledged_before_they_are_exported(
    bench: Any,
) -> None:
    """Its disk has lost what it had promised to keep."""
    bench.exporting = True
    sink = bench.sink(KINESIS)
    bench.publish(*(bench.batch(seq) for seq in range(1, 21)))
    await bench.until(lambda: bench.acknowledged() == 20, "the export")
    await bench.server.stop()
    kept = bench.streams[LINE, bench.epoch]
    kept.batches = {seq: batch for seq, batch in kept.batches.items() if seq <= 5}
    now = asyncio.get_running_loop().time()
    for announced in range(3):
        sink.consumer.offer(Message(Announcement(LINE, bench.epoch, 1, 5)), now + 2.0 * announced)
    assert sink.consumer.next(LINE, bench.epoch) == 6
    bench.publish(bench.batch(6), bench.batch(7))
    assert sink.consumer.next(LINE, bench.epoch) == 8
    await bench.until(lambda: bench.acknowledged() == 5, "the cursor that went back")
    await bench.start_server()
    await bench.until(lambda: bench.acknowledged() == 7 and sink.ledger.appended == 220, "the second export")


async def test_a_stuck_sink_keeps_one_gap_however_often_more_is_lost(bench: Any) -> None:
    await bench.server.stop()
    sink = bench.sink(KINESIS.model_copy(update={"max_waiting": 1000}))
    bench.publish(*(bench.batch(seq) for seq in range(1, 201)))
    bench.publish(bench.batch(1, stream=OTHER))
    for oldest in range(110, 190):
        bench.streams[LINE, bench.epoch].delete_to(oldest)
        bench.offer()
    gaps = [item for item in sink._queue if isinstance(item, Gap)]
    assert gaps == [Gap(LINE, bench.epoch, 101, 189)]
    await bench.start_server()
    await bench.until(lambda: sink.ledger.missed == {"gone": 89}, "the gap's account")


async def test_a_required_sink_that_is_broken_holds_the_acknowledgement_and_not_the_other_sinks(bench: Any) -> None:
    bench.exporting = True
    broken = bench.sink(SITEWISE, name="broken", port=1)
    well = bench.sink(KINESIS, name="well")
    for seq in range(1, 21):
        bench.publish(bench.batch(seq))

    await bench.until(lambda: well.acknowledged(LINE, bench.epoch) == 20, "the other sink")
    assert bench.acknowledged() == 0
    assert broken.status()["state"] == "failed"


async def test_a_sink_that_is_added_catches_up_from_what_is_kept(bench: Any) -> None:
    for seq in range(1, 201):
        bench.publish(bench.batch(seq))
    first = bench.sink(KINESIS, name="first")
    await bench.until(lambda: first.ledger.appended == 2000, "the first")

    third = bench.sink(SITEWISE, name="third")

    await bench.until(lambda: third.ledger.appended == 2000, "the third, by replays alone")
    assert once(bench.stored(SITEWISE.stream), 2000)


async def test_acknowledging_what_is_appended_says_what_it_risks(bench: Any) -> None:
    sink = bench.sink(KINESIS.model_copy(update={"ack_on": "appended"}))
    bench.publish(bench.batch(1))

    await bench.until(lambda: bench.acknowledged() == 1, "the acknowledgement without an export")
    assert "power cut" in sink.status()["risk"]


async def test_events_are_passed_over_counted_and_acknowledged(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1), EventBatch(Header(LINE, bench.epoch, 2), ({"a": 1}, {"a": 2})), bench.batch(3))

    await bench.until(lambda: sink.ledger.appended == 20, "the samples around them")
    bench.export(KINESIS.stream)
    await bench.until(lambda: bench.acknowledged() == 3, "the acknowledgement")
    assert sink.ledger.status()["events_passed_over"] == 2


# --- changes --------------------------------------------------------------------------------------------------------


async def test_an_incomplete_unit_is_completed_as_it_was_begun_whatever_is_configured_now(bench: Any) -> None:
    await interrupted(bench, messages=2)
    await bench.open_store()
    changed = SMALL.model_copy(update={"message_size": 5000, "stream": "Elsewhere"})

    sink = bench.sink(changed)
    bench.publish(bench.batch(3))
    await bench.until(lambda: sink.ledger.appended == 30, "all samples")

    assert once(bench.stored(SMALL.stream), 20), "in the stream in which it was begun"
    assert max(map(len, bench.stored(SMALL.stream))) <= 1000
    assert once(bench.stored("Elsewhere"), 10)
    assert bench.acknowledged() == 0
    bench.exporting = True
    await bench.until(lambda: bench.acknowledged() == 3, "both streams' exports")
    await bench.until(lambda: "emptied_streams" not in sink.status(), "the old stream to be let go")


async def test_a_ledger_goes_on_after_a_restart(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1), bench.batch(2))
    await bench.until(lambda: bench.store.committed_to("test", LINE, bench.epoch) == 2, "the commit")
    sink.missed(Gap(OTHER, bench.epoch, 1, 4))
    await bench.until(lambda: bench.store.committed_to("test", OTHER, bench.epoch) == 4, "the gap")
    await bench.kill()

    (sink,) = await bench.restart()

    assert (sink.ledger.received, sink.ledger.appended, sink.ledger.waiting) == (20, 20, 0)
    assert sink.ledger.missed == {"gone": 4}


# --- everything at random -------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from([LINE, OTHER]), st.integers(1, 6)),
        st.tuples(st.just("die"), st.sampled_from(POINTS), st.just(0)),
        st.tuples(st.just("kill"), st.just(""), st.just(0)),
        st.tuples(st.just("fault"), st.sampled_from(["rst", "fin", "lose_reply", "refuse"]), st.integers(0, 3)),
        st.tuples(st.just("export"), st.just(""), st.just(0)),
        st.tuples(st.just("cut"), st.just(""), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_whatever_happens_each_sample_is_in_the_stream_once(
    bench_class: type[Any], steps: list[tuple[str, str, int]]
) -> None:
    """Power cuts of stream manager included: what the stream then holds is what it kept and what came again."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_whatever_happens(bench_class(Path(folder)), steps))


async def _whatever_happens(bench: Any, steps: list[tuple[str, str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe_module, "SETTLE", 0.05)
        patch.setattr(sink_module, "WATCH_INTERVAL", 0.02)
        patch.setattr(crash, "point", bench.pass_point)
        await bench.start_server()
        await bench.open_store()
        living = asyncio.create_task(bench.live())
        bench.sink(SMALL, timeout=0.15)
        published: Counter[str] = Counter()
        for what, which, count in steps:
            if what == "publish":
                for _ in range(count):
                    published[which] += 1
                    bench.publish(bench.batch(published[which], stream=which))
            elif what == "die":
                bench.dies_at = [which]
            elif what == "fault":
                bench.fault(which, operation="append", accept=count % 2 == 0)
            elif what == "export":
                if SMALL.stream in bench.server.streams.names():
                    bench.export(SMALL.stream)
                    bench.server.streams.get(SMALL.stream)._log.flush()
            elif what == "cut":
                await bench.cut_power()
            await asyncio.sleep(0.03)
            if bench.died or what == "kill":
                await bench.kill()
                await bench.restart()
        bench.dies_at = []

        def done() -> bool:
            return all(bench.acknowledged(stream) == count for stream, count in published.items())

        bench.exporting = True
        deadline = asyncio.get_running_loop().time() + 20.0
        while not done() and not bench.died:
            assert asyncio.get_running_loop().time() < deadline, bench.sinks[0].status()
            await asyncio.sleep(0.01)
        if bench.died:
            await bench.kill()
            await bench.restart()
            await bench.until(done, "everything to be exported")
        samples = 10 * sum(published.values())
        found = told(bench.stored(SMALL.stream))
        assert [name for name, count in found.items() if count != 1] == []
        assert len(found) == samples
        ledger = bench.sinks[0].ledger
        assert (ledger.received, ledger.appended, ledger.waiting) == (samples, samples, 0)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await bench.stop()
