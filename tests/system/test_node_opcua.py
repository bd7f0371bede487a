"""Nothing is lost or doubled against node-opcua, a server of somebody else's, whatever happens between it and us.

(Our plant's server is asyncua, which never answers BadMessageNotAvailable by itself and whose Transfer and Republish
had to be mended.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plant.certificate import own_certificate
from rehearsal import Rehearsal
from sluice.batch import EventBatch, decode

from .peers import (
    COLLECTOR,
    EXPORTER,
    FIRST,
    LIMIT,
    NAMES,
    RATE,
    TAGS,
    Peer,
    arrived,
    connection,
    flowing,
    judge,
    line1,
    node_opcua,
    nodes,
    restarted,
    site,
)

pytestmark = [pytest.mark.system, pytest.mark.peers]


async def test_a_cut_line_costs_nothing_because_the_session_goes_on(build: Path, tmp_path: Path) -> None:
    """ActivateSession and Republish: asyncua's own reconnect lost every value of such an outage against this server."""
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, line):
        line.refuse(True)
        await line.cut()
        await asyncio.sleep(2.5)  # the length of the outage
        line.refuse(False)
        before = (await server.ask("counters", "counters"))["cumulated_subscriptions"]
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert (before, after["cumulated_subscriptions"]) == (1, 1), after
        assert after["cumulated_sessions"] == 1, after


async def test_a_killed_collector_resumes_where_it_was(build: Path, tmp_path: Path) -> None:
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, _):
        collector = rehearsal.core.component(COLLECTOR)
        for kills in (1, 2):
            collector.kill()
            await rehearsal.wait_for(partial(restarted, collector, kills), "restart", LIMIT)
            await asyncio.sleep(1.5)  # it works for a while
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert after["cumulated_subscriptions"] == 1, after


async def test_a_server_that_forgets_everything_is_read_back_from_its_history(build: Path, tmp_path: Path) -> None:
    """A restarted server has no session and no subscription of ours: what came meanwhile is in its history."""
    options = {"history": True}
    async with (
        node_opcua(tmp_path / "server", **options) as server,
        flowing(build, tmp_path, server) as (rehearsal, line),
    ):
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(2.0)  # the length of the outage
        line.refuse(False)
        await judge(rehearsal, server)


async def test_a_gap_that_no_server_can_fill_is_told(build: Path, tmp_path: Path) -> None:
    """Without history the loss is certain, and said: one event names the tags and the time."""
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, line):
        events: list[dict[str, Any]] = []

        def note(topic: str, payload: bytes) -> None:
            batch = decode(payload)
            if isinstance(batch, EventBatch):
                events.extend(dict(event) for event in batch.events)

        rehearsal.core.ipc.observe("sluice/data/+/+/events", note)
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(1.0)  # the length of the outage
        line.refuse(False)
        await rehearsal.wait_for(lambda: any(event["kind"] == "gap" for event in events), "gap event", LIMIT)
        gap = next(event for event in events if event["kind"] == "gap")
        assert gap["connection"] == "line1", gap
        assert len(gap["tags"]) == TAGS, gap


async def test_every_policy_and_kind_of_user_works_once_each_side_trusts_the_other(build: Path, tmp_path: Path) -> None:
    """Until the server trusts the collector's certificate, the status says whose and where it is."""
    password = tmp_path / "password"
    password.write_text("let-me-read")
    password.chmod(0o600)
    user = own_certificate(tmp_path / "user", "urn:sluice:tests:user")
    user.key.chmod(0o600)
    options = {"security": str(tmp_path / "pki"), "user": {"name": "operator", "password": "let-me-read"}}
    operator = {"name": "operator", "password": {"file": str(password)}}
    certificate = {"certificate": str(user.certificate), "key": {"file": str(user.key)}}
    ways = {
        "basic": ("Basic256Sha256", "SignAndEncrypt", operator, NAMES[:5]),
        "aes128": ("Aes128_Sha256_RsaOaep", "Sign", operator, NAMES[5:10]),
        "aes256": ("Aes256_Sha256_RsaPss", "SignAndEncrypt", operator, NAMES[10:15]),
        "person": ("auto", "SignAndEncrypt", certificate, NAMES[15:]),
    }
    async with (
        node_opcua(tmp_path / "server", **options) as server,
        Rehearsal(tmp_path / "device", build, with_plant=False) as rehearsal,
    ):
        connections = {
            name: line1(
                server.port,
                security={"policy": policy, "mode": mode, "trust": server.certificate},
                user=identity,
                tags=nodes(tags),
            )
            for name, (policy, mode, identity, tags) in ways.items()
        }
        document = site(**connections)
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        own = rehearsal.core.root / "work" / COLLECTOR / "pki" / "own" / "certificate.der"

        def refused() -> bool:
            return all(str(own) in str(connection(rehearsal, name).get("remedy")) for name in ways)

        await rehearsal.wait_for(refused, "word that our certificate is not trusted, and where it is", LIMIT)
        await server.ask("trust", "trusted", certificate=str(own))
        await server.ask("trust", "trusted", certificate=str(user.certificate))
        await rehearsal.wait_for(
            lambda: all(connection(rehearsal, name).get("monitored") == 5 for name in ways), "subscriptions", LIMIT
        )
        policies = {name: connection(rehearsal, name)["policy"] for name in ways}
        assert policies == {
            "basic": "Basic256Sha256/SignAndEncrypt",
            "aes128": "Aes128_Sha256_RsaOaep/Sign",
            "aes256": "Aes256_Sha256_RsaPss/SignAndEncrypt",
            "person": "Aes256_Sha256_RsaPss/SignAndEncrypt",
        }
        await server.ask("start", "started", rate=RATE)
        await arrived(rehearsal, 1000)
        await judge(rehearsal, server)
        assert "let-me-read" not in str(rehearsal.statuses)


LEFT_OUT = "T19"


def filters() -> dict[str, Any]:
    """Settings that find the nodes by their paths, in three ways of collecting."""
    return {
        "tags": {},
        "samplingInterval": "0s",
        "publishingInterval": "100ms",
        "groups": {"slow": {"publishingInterval": "500ms"}, "polled": {"mode": "poll", "pollInterval": "200ms"}},
        "select": {
            "fast": {"path": "/Plant/Fast/*"},
            "slow": {"path": "/Plant/Slow/**", "group": "slow", "exclude": [f"/Plant/Slow/{LEFT_OUT}"]},
            "polled": {"path": "/**/Polled/T*", "group": "polled"},
        },
    }


def produced_in(server: Peer, folder: int) -> dict[tuple[str, int], Any]:
    """What the variables of one of three folders said, by (name in the folder, time)."""
    return {
        key: value for key, value in server.logged().items() if int(key[0][1:]) % 3 == folder and key[0] != LEFT_OUT
    }


def delivered_below(rehearsal: Rehearsal, folder: str) -> list[tuple[str, int, Any]]:
    """What came of the variables of a folder: (name in the folder, time, value), each delivery once."""
    once = {sample.id: sample for sample in rehearsal.deliveries()["kinesis"]()}.values()
    return [
        (sample.tag.rpartition("/")[2], sample.time_ns, sample.value)
        for sample in once
        if f"/{folder}/" in f"/{sample.tag}" and sample.value not in FIRST
    ]


async def test_filters_find_nodes_for_groups_and_a_groups_change_costs_the_others_nothing(
    build: Path, tmp_path: Path
) -> None:
    """Two groups are subscribed and lose nothing; one is polled, and what it has is true. Then one group changes."""
    options = {"folders": ["Fast", "Slow", "Polled"]}
    async with (
        node_opcua(tmp_path / "server", **options) as server,
        Rehearsal(tmp_path / "device", build, with_plant=False) as rehearsal,
    ):
        settings = filters()
        document = site(line1=line1(server.port, **settings))
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        await rehearsal.wait_for(lambda: connection(rehearsal).get("tags") == TAGS - 1, "tags of the filters", LIMIT)
        subscribed = len(range(0, TAGS, 3)) + len(range(1, TAGS - 1, 3))
        await rehearsal.wait_for(
            lambda: connection(rehearsal).get("monitored", 0) >= subscribed, "monitored items", LIMIT
        )
        await server.ask("start", "started", rate=RATE)
        await arrived(rehearsal, 500)
        before = await server.ask("counters", "counters")
        pid = rehearsal.core.component(COLLECTOR).pid

        settings["groups"]["slow"]["publishingInterval"] = "250ms"
        settings["select"]["polled"]["exclude"] = ["/Plant/Polled/T2"]
        changed: dict[str, Any] = {"groups": settings["groups"], "select": settings["select"]}
        update = {"configurationUpdate": {"merge": {"connections": {"line1": changed}}}}
        deployment = {"components": {COLLECTOR: update, EXPORTER: {}}}
        await rehearsal.core.deploy(deployment, rehearsal.recipes, rehearsal.artifacts)
        await rehearsal.wait_for(lambda: connection(rehearsal).get("tags") == TAGS - 2, "one tag less", LIMIT)
        after = await server.ask("counters", "counters")
        await server.ask("stop", "finished")
        await rehearsal.drain(len(produced_in(server, 0)) + len(produced_in(server, 1)))
        assert rehearsal.core.component(COLLECTOR).pid == pid, "the collector was started anew"
        told = connection(rehearsal)
        assert after["cumulated_subscriptions"] == before["cumulated_subscriptions"] == 2, after
        assert after["cumulated_sessions"] == 1, after
        assert after["asked"].get("ModifySubscription", 0) >= 1, after
        for folder, name in enumerate(("Fast", "Slow")):
            logged = produced_in(server, folder)
            came = delivered_below(rehearsal, name)
            doubled = len(came) - len({(tag, time) for tag, time, _ in came})
            lost = logged.keys() - {(tag, time) for tag, time, _ in came}
            assert not lost, (
                f"{len(lost)} of {len(logged)} lost in {name}, first {min(lost, key=lambda k: k[1])}; {told}"
            )
            assert not doubled, f"{doubled} doubled in {name}; {told}"
            other = [one for one in came if logged.get(one[:2]) != one[2]]
            assert not other, f"{len(other)} were never produced so in {name}, first {other[:3]}"
        polled = produced_in(server, 2)
        came = delivered_below(rehearsal, "Polled")
        assert len({tag for tag, _, _ in came}) == len(range(2, TAGS, 3)), came[:10]
        other = [one for one in came if polled.get(one[:2]) != one[2]]
        assert not other, f"{len(other)} were never produced so, first {other[:3]}"


async def test_a_deadband_in_percent_holds_with_the_servers_range_and_with_the_one_configured(
    build: Path, tmp_path: Path
) -> None:
    """The server filters T0, of which it knows the range; it refuses to for T1, and the collector does it itself."""
    settings = {
        "tags": nodes(["T0", "T1", "T2"]),
        "deadband": {"percent": 10, "low": 0, "high": 100},
    }
    settings["tags"]["T2"]["group"] = "all"
    settings["groups"] = {"all": {"deadband": {"absolute": 0.001}}}
    async with (
        node_opcua(tmp_path / "server", tags=3, ranged=1) as server,
        Rehearsal(tmp_path / "device", build, with_plant=False) as rehearsal,
    ):
        document = site(line1=line1(server.port, **settings))
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        await rehearsal.wait_for(lambda: connection(rehearsal).get("monitored") == 3, "subscription", LIMIT)
        steps = [50.0, 55.0, 61.0, 70.0, 71.5, 50.0, 41.0, 30.0]
        for value in steps:
            await server.ask("set", "set", values=dict.fromkeys(("T0", "T1", "T2"), value))
        last = steps[-1]

        def of(tag: str) -> list[Any]:
            """The good values of a tag since the first change."""
            came = [one for one in rehearsal.deliveries()["kinesis"]() if one.tag == tag]
            return [one.value for one in came if one.quality == "GOOD" and one.value != -1]

        await rehearsal.wait_for(lambda: all(of(f"T{number}")[-1:] == [last] for number in range(3)), "values", LIMIT)
        assert of("T2") == steps
        assert of("T0") == [50.0, 61.0, 71.5, 50.0, 30.0]
        assert of("T1") == [50.0, 61.0, 71.5, 50.0, 30.0]
