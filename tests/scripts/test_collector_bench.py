"""`scripts/bench collector` and `items`: what they judge, what they count with, and a short run of the whole."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import collector_bench
import items_bench
from collector_bench import Arrived, Broker, Figures, judged, replaying
from opcua_collector.stack import Client, ua
from opcua_collector.values.notifications import decode
from replay_server import KINDS, Server, Session, Subscription, Template, _response, kind_of, template

ROOT = Path(__file__).resolve().parents[2]
GOOD = Figures("sluice", "doubles", "paced", 3_000_000, 3_000_000, 0, False, 301_000.0, 0.9, 0.3, 140.0)
ITEMS = items_bench.Figures("replay", 100_000, 20.0, 30.0, 12.0, 400.0, 40.0, 420.0, 0, 0, 0, False, 9.0, 30.0)


# --- what is judged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lost": 1, "taken": 2_999_999}, "1 of 3000000 values are missing"),
        ({"wrong": True}, "do not add up"),
        ({"taken": 0, "lost": 3_000_000}, "no value arrived"),
        ({"cpu_us": 1.51}, "1.51 us of CPU per value, more than 1.5"),
        ({"rss_mb": 150.0}, "150 MB, not less than 150"),
        ({"values_per_s": 299_999.0}, "299,999 values per second, less than 300,000"),
    ],
)
def test_the_collector_is_judged_by_what_is_missing_wrong_or_too_much(changed: dict[str, Any], told: str) -> None:
    assert judged([GOOD]) == []
    assert told in "; ".join(judged([replace(GOOD, **changed)]))


def test_texts_and_mixtures_may_cost_more_and_must_arrive_too() -> None:
    texts = replace(GOOD, kind="strings", cpu_us=9.0, rss_mb=400.0, values_per_s=200_000.0)
    assert judged([GOOD, texts]) == []
    assert judged([GOOD, replace(texts, lost=5)]) != []


def test_what_others_lose_is_no_fault_of_ours_and_a_run_without_us_is_no_proof() -> None:
    peer = replace(GOOD, client="asyncua", lost=10**6, cpu_us=25.0)
    assert judged([GOOD, peer]) == []
    assert judged([peer]) == ["sluice was not measured"]


def test_many_items_are_judged_by_time_and_by_what_is_missing() -> None:
    assert items_bench.judged([ITEMS]) == []
    assert "more than 60" in items_bench.judged([replace(ITEMS, seconds=61.0)])[0]
    assert "3 values are missing" in items_bench.judged([replace(ITEMS, lost=3)])[0]
    assert "5 values are missing after" in items_bench.judged([replace(ITEMS, lost_over_kill=5)])[0]
    assert "-5 values" in items_bench.judged([replace(ITEMS, lost_over_kill=-5)])[0]
    assert "dropped" in items_bench.judged([replace(ITEMS, dropped=7)])[0]
    assert "do not add up" in items_bench.judged([replace(ITEMS, wrong=True)])[0]
    assert items_bench.judged([]) != []


# --- what it counts with ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_replayed_notification_has_a_value_of_each_item_and_the_time_of_its_sending(kind: str) -> None:
    pattern = KINDS[kind]
    items = [(handle, handle + 1) for handle in range(50)]
    made = template(items, pattern, seed=3)
    for now in (133_000_000_000_000_000, 133_000_000_010_000_000):
        body = made.stamped(now)
        message = _published(body)
        found = decode(message, 0, received=0, handles=50)
        assert (len(found), found.damage, found.quarantined) == (50, "", ())
        rows = {int(h): (v, int(t)) for b in found.blocks for h, v, t in zip(b.handle, b.value, b.time, strict=True)}  # type: ignore[arg-type]
        assert sorted(rows) == list(range(50))
        assert {time for _, time in rows.values()} == {(now - 116_444_736_000_000_000) * 100}
        numbers = [float(value) for value, _ in rows.values() if not isinstance(value, str)]
        assert sum(numbers) == pytest.approx(made.sum)
        texts = sum(kind_of(pattern, node) == "string" for _, node in items)
        assert len(numbers) == 50 - texts


def _published(body: bytes) -> bytes:
    """A PublishResponse, as the server makes it."""
    sent: list[bytes] = []

    class Link:
        def send(self, request: int, kind: int, handle: int, body: bytes, status: int = 0) -> None:
            sent.append(body)

    server = Server("doubles", 50)
    session = Session(1, Subscription(7, 0.1, 1.0))
    assert session.subscription is not None

    class Once(Template):
        def stamped(self, now: int) -> bytes:
            return body

    server._templates = [Once(bytearray(body), np.zeros(50, np.int64), 0, 0.0)]
    session.subscription.due.append(0)
    session.requests.append((Link(), 1, 2, 0))  # type: ignore[arg-type]
    server.answer(session)
    return _response(829, 2) + sent[0]


@pytest.mark.parametrize("version", [4, 5])
async def test_the_broker_counts_values_however_packets_are_cut(version: int) -> None:
    arrived = Arrived()
    server = await asyncio.get_running_loop().create_server(lambda: Broker(arrived), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    properties = b"\x00" if version == 5 else b""
    body = orjson.dumps([{"n": "a", "v": 1.5}, {"n": "b", "v": "x"}, {"n": "c", "v": 2}] * 100)
    publish = b"\x00\x01t" + properties + body
    size = bytes([len(publish) & 0x7F | 0x80, len(publish) >> 7])
    connect = b"\x00\x04MQTT" + bytes([version]) + b"\x02\x00\x3c" + properties + b"\x00\x00"
    packets = b"\x10" + bytes([len(connect)]) + connect + b"\x30" + size + publish + b"\xc0\x00"
    for start in range(0, len(packets), 1000):
        writer.write(packets[start : start + 1000])
        await writer.drain()
        await asyncio.sleep(0.01)
    accepted = await reader.readexactly(5 if version == 5 else 4)
    assert accepted[0] == 0x20
    assert await reader.readexactly(2) == b"\xd0\x00"
    assert (arrived.values, arrived.sum) == (300, 350.0)
    writer.close()
    server.close()


async def test_stock_asyncua_gets_from_the_replay_server_what_it_says_it_sent() -> None:
    class Handler:
        values = 0
        sum = 0.0

        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
            Handler.values += 1
            Handler.sum += 0.0 if isinstance(value, str) else value

    core = collector_bench.cores()[0]
    async with replaying("mix", 100, core) as replay, Client(replay.endpoint) as client:
        subscription = await client.create_subscription(50, Handler())
        nodes = [client.get_node(f"ns=1;i={number}") for number in range(1, 102)]
        results = await subscription.subscribe_data_change(nodes)
        assert isinstance(results[100], ua.StatusCode), "there are a hundred"
        await replay.watched(100, lambda: "")
        sent = await replay.ask(do="produce", rate=20, seconds=1.0)
        deadline = asyncio.get_running_loop().time() + 10
        while Handler.values < sent["sent"]:
            assert asyncio.get_running_loop().time() < deadline, (Handler.values, sent)
            await asyncio.sleep(0.02)
    assert sent["offered"] == sent["sent"] == Handler.values
    assert 1900 <= Handler.values <= 2100
    assert Handler.sum == pytest.approx(sent["sum"])


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.system
def test_the_deployed_collector_takes_all_and_costs_less_than_asyncua(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / of) for of in ("shared", "components", "scripts")),
    }
    arguments = ["--seconds", "8", "--kinds", "doubles", "--clients", "sluice,asyncua", "--no-flood"]
    done = subprocess.run(
        [sys.executable, "-m", "collector_bench", "--json", report, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    figures = json.loads(report.read_text())
    assert figures["ok"] is True
    ours, *others = figures["collector"]
    assert (ours["client"], ours["lost"], ours["wrong"]) == ("sluice", 0, False)
    assert ours["taken"] == ours["offered"] >= 2_400_000
    assert 0 < ours["cpu_us"] <= 1.5
    assert ours["values_per_s"] >= 300_000
    assert ours["rss_mb"] < 150
    for other in others:
        assert other["cpu_us"] > 5 * ours["cpu_us"]
    assert others or "asyncua" in figures["left_out"]
