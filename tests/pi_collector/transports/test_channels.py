"""Channels: what comes on them is complete and proven, and each way in which they end is noticed, told and mended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from pi_collector.transports import channel as channel_module
from pi_collector.transports import means as means_module
from pi_collector.transports.carrier import Carrier
from pi_collector.transports.channel import heartbeat_rate
from pi_collector.transports.choosing import Way
from pi_collector.transports.means import handles_of
from pi_collector.values.times import format7
from plant.pi.channels import Channel as ServerChannel
from plant.pi.channels import ChannelOptions, Channels
from plant.pi.events import Change
from plant.pi.server import Options

from .rig import SETTLE, STRANGE, Rig, rig, until


def options(**of: object) -> Options:
    return Options(channels=ChannelOptions(poll_s=0.5, **of))  # type: ignore[arg-type]


async def live(made: Rig) -> None:
    await until(lambda: made.all_by(Way.CHANNEL), made.told)


async def arrives(made: Rig, tag: str, *values: float) -> None:
    await until(lambda: made.got(tag) == list(values), lambda: (made.got(tag), made.told()))


async def test_values_come_by_the_channel_and_coverage_follows_the_server_s_time(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path) as made:
        await live(made)
        made.write("A", 1.5)
        made.write("B", 2.5)
        await arrives(made, "A", 1.5)
        await arrives(made, "B", 2.5)
        written = made.server.clock.now_ns()
        # Both go on: also the one of which nothing comes any more.
        await until(lambda: min(made.covered("A"), made.covered("B")) > written, made.told)
        assert made.covered("A") <= made.server.clock.now_ns() - SETTLE * 1e9
        assert made.server.requests["GET streamsets/channel"] == 1


async def test_what_was_written_before_the_channel_was_open_is_read_of_the_archive(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, running=False) as made:
        made.want(made.stream("A"))
        for value in (1.0, 5.0, 2.0):
            made.write("A", value)
        async with made.running():
            await live(made)
            assert sorted(made.got("A")) == [1.0, 2.0, 5.0], made.told()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("cut", "the line to the channel broke"),
        ("close", "the server closed the channel: it goes away"),
    ],
)
async def test_a_channel_that_is_lost_is_opened_again_and_the_hole_is_read(
    tmp_path: Path, fault: str, cause: str
) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        made.server.faults.inject(fault)
        made.write("A", 2.0)
        await until(lambda: made.transports.counts["channels_opened"] == 2, made.told)
        await live(made)
        made.write("A", 3.0)
        await arrives(made, "A", 1.0, 2.0, 3.0)
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert cause in made.gaps()[0]["cause"]
        assert "compression" in made.gaps()[0]["unrecoverable"]


async def test_half_open_silence_is_noticed_by_the_pings_that_nobody_answers(tmp_path: Path) -> None:
    seldom = Options(channels=ChannelOptions(poll_s=400))  # no heartbeat is heard before
    async with rig("A", directory=tmp_path, options=seldom) as made:
        await live(made)
        made.server.faults.silence()
        await until(lambda: made.gaps(), made.told)
        assert "half-open" in made.gaps()[0]["cause"]
        made.server.faults.heal("silence")
        made.write("A", 4.0)
        await until(lambda: made.got("A") == [4.0], made.told)


async def test_a_channel_that_answers_pings_and_sends_nothing_any_more_is_given_up(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        await until(lambda: made.transports.status()["connection"].get("heartbeat_s") is not None, made.told)
        made.server.faults.archive_down()
        await until(lambda: made.gaps(), made.told)
        assert "sent nothing for" in made.gaps()[0]["cause"]


async def test_a_message_that_is_too_large_ends_the_channel_and_halves_it(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path) as made:
        await live(made)
        made.server.faults.oversize(17 << 20)
        made.write("A", 1.0)
        await until(lambda: made.server.channels.open == 2, made.told)
        await live(made)
        assert "larger than a channel may have" in made.gaps()[0]["cause"]
        await arrives(made, "A", 1.0)


async def test_more_points_than_fit_have_channels_of_their_own_and_new_ones_disturb_nobody(tmp_path: Path) -> None:
    async with rig("A", "B", "C", "D", directory=tmp_path, load={"pointsPerChannel": 2}) as made:
        first = [made.stream(name) for name in "ABC"]
        made.want(*first)
        await live(made)
        assert made.server.channels.open == 2
        opened = made.transports.counts["channels_opened"]
        made.want(*first, made.stream("D"))
        await live(made)
        assert made.server.channels.open == 3
        assert made.transports.counts["channels_opened"] == opened + 1, "those that stay keep their sockets"
        made.want(*first[:2])
        await until(lambda: made.server.channels.open == 1, made.told)
        assert made.gaps() == []


@pytest.mark.parametrize("strange", [("P4",), ("P0", "P8"), ("P3", "P4")])
async def test_streams_that_the_server_does_not_know_are_found_and_the_others_run(
    tmp_path: Path, strange: tuple[str, ...]
) -> None:
    names = [f"P{number}" for number in range(9)]
    async with rig(*names, directory=tmp_path, running=False) as made:
        made.want(*(made.stream(name, web_id=STRANGE if name in strange else "") for name in names))
        async with made.running():
            await until(lambda: made.ways()["channel"] == 9 - len(strange), made.told)
            assert sorted(tag for tag, _ in made.refused) == list(strange)
            for name in names:
                made.write(name, 7.0)
            for name in names:
                if name not in strange:
                    await arrives(made, name, 7.0)
            # Looked up again they are points like any others.
            made.want(*(made.stream(name) for name in names))
            await until(lambda: made.ways()["channel"] == 9, made.told)
            for name in names:
                await arrives(made, name, 7.0)


async def test_a_stream_alone_that_the_server_does_not_know_is_looked_up_again(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, running=False) as made:
        made.want(made.stream("A", web_id=STRANGE))
        async with made.running():
            await until(lambda: made.refused, made.told)
            assert made.refused[0][0] == "A"


async def test_a_server_that_opens_no_channel_is_asked_for_updates_instead_and_says_why(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path) as made:
        made.server.faults.refuse_upgrades(404)
        await until(lambda: made.all_by(Way.UPDATES), made.told)
        assert made.refused == [], "it is not the streams"
        assert "channel" in made.transports.status()["connection"]["why"]
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)


async def test_without_channels_and_updates_the_archive_is_polled(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, options=Options(updates=None)) as made:
        made.server.faults.refuse_upgrades(501)
        await until(lambda: made.ways() == {"poll": 1}, made.told)
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        assert "updates" in made.transports.status()["connection"]["why"]


async def test_a_better_way_is_tried_again_and_taken_without_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi_collector.transports.choosing.FIRST_DENIAL", 0.5)
    async with rig("A", directory=tmp_path) as made:
        made.server.faults.refuse_upgrades(405)
        await until(lambda: made.all_by(Way.UPDATES), made.told)
        made.server.faults.heal()
        values: list[float] = []
        while made.ways()["channel"] != 1:
            values.append(float(len(values) % 7))
            made.write("A", values[-1])
            await asyncio.sleep(0.02)
            assert len(values) < 1000, made.told()
        await live(made)
        made.write("A", 99.0)
        await arrives(made, "A", *values, 99.0)
        assert made.gaps() == []


async def test_a_fixed_transport_is_never_left_and_its_cause_is_a_problem(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, transport="channel") as made:
        made.server.faults.refuse_upgrades(501)
        await until(lambda: list(made.problems), made.told)
        (problem,) = made.problems
        assert problem.path == "connections.pi.transport"
        assert "501" in problem.problem
        assert made.ways() == {"none": 1}
        made.server.faults.heal()
        await live(made)
        await until(lambda: not list(made.problems), made.told)


async def test_frames_of_one_value_per_stream_are_taken_and_the_archive_is_read_beside(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, options=options(shape="Value")) as made:
        made.write("A", 1.0)
        await until(lambda: made.transports.status()["connection"].get("read_beside") == 1, made.told)
        made.write("A", 2.0)
        await arrives(made, "A", 1.0, 2.0)
        written = made.server.clock.now_ns()
        await until(lambda: made.covered("A") > written, made.told)


async def test_shuffled_frames_with_texts_for_booleans_and_repeats_arrive_once(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, options=options(shuffled=True, text_booleans=True)) as made:
        made.server.faults.duplicate(1.0)
        await live(made)
        for value in range(40):
            made.write("A", float(value))
        await arrives(made, "A", *map(float, range(40)))


async def test_deletions_are_told_as_events(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        at = made.outlet.values[0][1]
        made.server.system.delete(made.point("A"), at)
        await until(lambda: any(e["kind"] == "deleted" for e in made.outlet.events), made.told)
        (event,) = [event for event in made.outlet.events if event["kind"] == "deleted"]
        assert (event["tag"], event["values"], event["from_ns"]) == ("A", 1, at)
        assert made.got("A") == [1.0]


async def test_suspended_nothing_is_open_and_resumed_the_gap_is_filled(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.transports.suspend("outbox full", "let its consumers run")
        await until(lambda: made.server.channels.open == 0, made.told)
        made.write("A", 1.0)
        assert made.transports.status()["connection"]["why"] == "outbox full"
        assert made.gaps()[0]["cause"] == "outbox full"
        made.transports.resume()
        await live(made)
        await arrives(made, "A", 1.0)
        await until(lambda: made.state.ledger.counts()["open"] == 0, made.told)


async def test_a_store_that_does_not_keep_up_holds_the_channel_back_and_in_the_end_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(means_module, "MOST_PENDING", 3)
    monkeypatch.setattr(means_module, "PATIENCE", 1.0)
    monkeypatch.setattr(channel_module, "PATIENCE", 1.0)
    async with rig("A", directory=tmp_path, options=options(), transport="channel") as made:
        await live(made)
        made.outlet.hold()
        value = 0.0
        while not made.gaps():
            value += 1
            made.write("A", value)
            await asyncio.sleep(0.03)
            assert value < 500, made.told()
        taken = len(made.got("A"))
        assert taken <= 3 + 2, "it was not read on"
        assert "could not be stored" in made.gaps()[0]["cause"]
        made.outlet.release()
        await until(lambda: sorted(made.got("A")) == [float(n + 1) for n in range(int(value))], made.told)


async def test_the_server_s_pings_are_answered_when_what_came_before_is_durable(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.outlet.hold()
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        (open_channel,) = made.server.channels._open.values()
        await until(lambda: open_channel.unread, lambda: "the frame was not noted")
        await asyncio.sleep(0.3)
        assert open_channel.unread, "answered before it was durable"
        made.outlet.release()
        await until(lambda: not open_channel.unread, lambda: open_channel.unread)


@pytest.mark.parametrize(
    "text", ["no JSON", '{"Items":[{"WebId":"I1', "[]", '{"Errors":["The archive is gone."]}', '{"Items":7}']
)
async def test_a_message_that_is_none_ends_the_channel_and_nothing_else(tmp_path: Path, text: str) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        (open_channel,) = made.server.channels._open.values()
        await open_channel.socket.send_str(text)
        made.write("A", 1.0)
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert "cannot be read" in made.gaps()[0]["cause"]
        await arrives(made, "A", 1.0)


async def test_a_value_that_is_none_costs_itself(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        (open_channel,) = made.server.channels._open.values()
        web_id = made.streams[0].point.web_id
        at = format7(made.server.clock.now_ns())
        await open_channel.socket.send_json(
            {
                "Items": [
                    {
                        "WebId": web_id,
                        "News": {"to": "us"},
                        "Items": [{"Timestamp": "yesterday"}, None, 7, {"Timestamp": at, "Value": 4.5, "Good": "true"}],
                    },
                    "something",
                    {"WebId": "nobody's", "Items": [{"Timestamp": at, "Value": 1}]},
                ]
            }
        )
        await arrives(made, "A", 4.5)
        assert made.gaps() == []
        assert made.intake.status()["malformed"] == 4
        assert made.intake.status()["unknown"] == 1


@pytest.mark.parametrize(
    ("code", "cause"), [(1011, "an error of its own"), (1013, "it has too many"), (4000, "with code 4000")]
)
async def test_what_a_server_says_when_it_closes_is_the_cause(tmp_path: Path, code: int, cause: str) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.server.faults.close(code)
        await until(made.gaps, made.told)
        assert cause in made.gaps()[0]["cause"]
        await live(made)


async def test_an_error_in_the_place_of_values_is_a_gap_of_that_stream_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "RESUBSCRIBE", 0.1)
    async with rig("A", "B", directory=tmp_path) as made:
        await live(made)
        (open_channel,) = made.server.channels._open.values()
        web_id = made.streams[0].point.web_id
        await open_channel.socket.send_json({"Items": [{"WebId": web_id, "Items": [], "Errors": ["No access."]}]})
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert (made.gaps()[0]["streams"], made.gaps()[0]["tags"]) == (1, ["A"])
        assert made.transports.counts["channels_opened"] == 1


async def test_without_messages_nothing_is_confirmed_until_the_archive_proves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "UNPROVEN", 3.0)
    silent = Options(channels=ChannelOptions(poll_s=4000))
    async with rig("A", directory=tmp_path, options=silent) as made:
        await live(made)
        before = made.covered("A")
        await until(lambda: made.covered("A") > before + 10 * 10**9, made.told)
        assert made.gaps() == []
        assert made.transports.counts["channels_opened"] == 1


async def test_many_small_channels_are_put_together_when_all_were_lost(tmp_path: Path) -> None:
    names = [f"P{number}" for number in range(6)]
    async with rig(*names, directory=tmp_path, running=False) as made, made.running():
        for count in range(1, 7):
            made.want(*(made.stream(name) for name in names[:count]))
        await live(made)
        assert made.server.channels.open == 6
        made.server.faults.refuse_upgrades(503)
        made.server.faults.cut()
        await until(lambda: len(made.transports._carriers) == 1, made.told)
        made.server.faults.heal()
        for name in names:
            made.write(name, 3.0)
        for name in names:
            await arrives(made, name, 3.0)


async def test_a_fault_of_ours_in_one_shard_is_told_and_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)

        def broken(*_: object) -> None:
            raise RuntimeError("a mistake")

        with monkeypatch.context() as patch:
            patch.setattr(channel_module, "decode_recorded", broken)
            made.write("A", 1.0)
            await until(made.gaps, made.told)
        assert "a fault of Sluice itself" in made.gaps()[0]["cause"]
        assert "a mistake" in caplog.text
        await live(made)
        await arrives(made, "A", 1.0)


async def test_another_configuration_of_the_server_opens_everything_anew(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        other = made.settings.model_copy(update={"allow_unencrypted": True})
        made.client.apply(other)
        made.transports.apply(other)
        await until(lambda: made.transports.counts["channels_opened"] == 2, made.told)
        await live(made)
        assert made.gaps()[0]["cause"] == "the configuration changed"


@pytest.mark.parametrize(("heartbeat", "rate"), [(1, 1), (10, 2), (60, 12)])
def test_the_heartbeat_rate_is_counted_in_looks(heartbeat: float, rate: int) -> None:
    assert heartbeat_rate(heartbeat) == rate


async def test_a_server_that_takes_long_to_subscribe_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The websocket is open at once; the streams are followed, and their first values sent, a good while later.
    monkeypatch.setattr(channel_module, "FIRST_MESSAGE", 0.1)
    subscribe = asyncio.Event()
    send = Channels._send

    async def late(self: Channels, channel: ServerChannel, *, initial: bool) -> None:
        await subscribe.wait()
        channel.waiting.clear()
        await send(self, channel, initial=initial)

    monkeypatch.setattr(Channels, "_send", late)
    async with rig("A", directory=tmp_path, running=False) as made:
        made.write("A", 1.0, ago_s=300)
        made.want(made.stream("A"))
        async with made.running():
            await live(made)
            made.write("A", 2.0)
            made.write("A", 3.0)
            subscribe.set()
            await until(lambda: made.got("A")[-1:] == [3.0], made.told)
            # 2.0 was neither in the hole that ended before, nor did it come by the channel.
            await until(lambda: made.got("A")[-2:] == [2.0, 3.0], made.told)
            written = made.server.clock.now_ns()
            await until(lambda: made.covered("A") > written, made.told)


async def test_a_stream_that_nobody_wants_any_more_is_not_taken_for_another_one(tmp_path: Path) -> None:
    async with rig("A", "B", "C", directory=tmp_path, running=False) as made:
        both = [made.stream("A"), made.stream("B")]
        made.want(*both)
        async with made.running():
            await live(made)
            gone = made.stream("B")
            made.want(both[0])
            # Days later its handle stands for another stream, while the channel is still the same.
            made.intake.forget(gone.handle)
            made.state.release(gone.handle)
            made.state._forget(made.state.key(gone.handle))
            made.state._free[0] = (gone.handle, 0.0)
            third = made.stream("C")
            assert third.handle == gone.handle
            made.want(both[0], third)
            await live(made)
            made.write("B", 7.0)
            made.write("C", 8.0)
            made.write("A", 9.0)
            await arrives(made, "A", 9.0)
            await arrives(made, "C", 8.0)
            assert made.gaps() == []


async def test_a_channel_that_names_streams_in_a_way_of_its_own_is_read_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = Channels._encoded

    def otherwise(self: Channels, channel: ServerChannel, changes: Iterable[Change]) -> str:
        text = json.loads(encoded(self, channel, changes))
        for item in text["Items"]:
            item["WebId"] = "F2DX" + item["WebId"][4:]
            del item["Path"]
        return json.dumps(text)

    monkeypatch.setattr(Channels, "_encoded", otherwise)
    async with rig("A", directory=tmp_path, options=options()) as made:
        await until(lambda: made.ways() == {"channel": 1}, made.told)
        made.write("A", 1.0)
        await until(lambda: made.transports.status()["connection"].get("read_beside") == 1, made.told)
        made.write("A", 2.0)
        await arrives(made, "A", 1.0, 2.0)


async def test_resumed_while_the_last_one_is_still_ending_there_is_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, close, running = Carrier.run, channel_module.Channel.close, []

    async def counted(self: Carrier) -> None:
        running.append(self)
        assert running.count(self) == 1, "two at the same time"
        try:
            await run(self)
        finally:
            running.remove(self)

    async def slowly(self: channel_module.Channel) -> None:
        await asyncio.sleep(0.3)
        await close(self)

    monkeypatch.setattr(Carrier, "run", counted)
    monkeypatch.setattr(channel_module.Channel, "close", slowly)
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        made.transports.suspend("outbox full")
        made.transports.resume()
        await until(lambda: made.transports.counts["channels_opened"] == 2, made.told)
        await live(made)
        assert [gap["cause"] for gap in made.gaps() if gap["state"] == "opened"] == ["outbox full"]


async def test_what_came_into_use_in_the_moment_of_a_suspension_is_not_left_so(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path) as made:
        await live(made)
        (carrier,) = made.transports._carriers.values()
        present = carrier.present
        made.transports.suspend("outbox full")
        carrier.present = present
        made.state.coverage.subscribed(handles_of(made.streams), made.server.clock.now_ns())
        await until(lambda: carrier.present is None, made.told)
        assert not made.state.coverage.is_live(made.streams[0].handle)
        assert made.transports.status()["connection"]["streams"] == {"none": 1}
