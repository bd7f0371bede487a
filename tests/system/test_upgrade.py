"""A gateway over its years: new versions, connections that are renamed and removed. What was collected is delivered
once, and what a component knew it still knows.

The judge of continuity is the bus: a producer that lost its outbox would begin a new epoch, one that lost its place
would number its batches anew."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from localcore import received
from plant.log import LoggedRow, read_log
from plant.reconciliation import Report
from rehearsal import Rehearsal

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
NEXT = "0.1.1"
LIMIT = 60.0


@pytest.fixture(scope="module")
def next_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tree as the next version."""
    output = tmp_path_factory.mktemp("next") / "greengrass-build"
    command = [sys.executable, str(REPOSITORY / "scripts" / "build.py"), "--host-only", "--version", NEXT]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return output


class Heard:
    """What the data topics of a producer say: the epochs of a stream, and how often each of its batches came."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.epochs: dict[str, list[str]] = {}
        self.batches: Counter[tuple[str, int]] = Counter()
        rehearsal.core.ipc.observe("sluice/data/#", self._on_data)

    def _on_data(self, topic: str, payload: bytes) -> None:
        if payload.startswith(b"\x28\xb5\x2f\xfd"):
            payload = zstandard.decompress(payload)
        message = orjson.loads(payload)
        stream = topic.removeprefix("sluice/data/")
        epochs = self.epochs.setdefault(stream, [])
        if message["epoch"] not in epochs:
            epochs.append(message["epoch"])
        if message["kind"] != "announce":
            self.batches[stream, message["seq"]] += 1


def merge_of(site: dict[str, Any], component: str) -> dict[str, Any]:
    merge: dict[str, Any] = site["components"][component]["configurationUpdate"]["merge"]
    return merge


async def begin(rehearsal: Rehearsal, site: dict[str, Any]) -> None:
    """Deploy, produce, and wait until it flows."""
    for component in (COLLECTOR, EXPORTER):
        merge_of(site, component)["statusInterval"] = "1s"
    await rehearsal.provide(site)
    await rehearsal.deploy(site)
    await rehearsal.start_production()
    await rehearsal.wait_for(lambda: acknowledged(rehearsal, "line1") > 5, "first exports", LIMIT)


def ledger(rehearsal: Rehearsal, source: str) -> dict[str, int]:
    ledgers: dict[str, dict[str, int]] = rehearsal.statuses.get("opcua-collector", {}).get("ledger", {})
    return ledgers.get(f"opcua-collector/{source}", {})


def acknowledged(rehearsal: Rehearsal, source: str) -> int:
    return ledger(rehearsal, source).get("acknowledged", 0)


def runs_as(rehearsal: Rehearsal, version: str) -> bool:
    """Whether every component runs, and is of this version."""
    return {status["version"] for status in rehearsal.statuses.values() if status["state"] == "running"} == {version}


async def flows_on(rehearsal: Rehearsal, source: str) -> None:
    """Wait until more is exported than was when this was called."""
    before = acknowledged(rehearsal, source)
    await rehearsal.wait_for(lambda: acknowledged(rehearsal, source) > before + 5, "further exports", LIMIT)


def certificates(rehearsal: Rehearsal) -> dict[str, str]:
    """Digest of each file of the collector's certificate store."""
    folder = rehearsal.core.root / "work" / COLLECTOR / "pki"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def shown(rehearsal: Rehearsal, *more: object) -> str:
    return orjson.dumps([*more, rehearsal.statuses], option=orjson.OPT_INDENT_2, default=str).decode()


async def judge(rehearsal: Rehearsal, patience: float = 30.0) -> Report:
    """Stop production, wait until all has arrived, and compare with the plant's log."""
    assert rehearsal.plant is not None
    produced = await rehearsal.plant.finish()
    await rehearsal.drain(produced, patience=patience)
    return await asyncio.to_thread(rehearsal.reconcile)


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_an_upgrade_and_the_way_back_under_load_lose_and_double_nothing(
    build: Path, next_build: Path, tmp_path: Path, profile: str
) -> None:
    async with Rehearsal(tmp_path, build, profile=profile, rate=500) as rehearsal:
        site = rehearsal.demo_site()
        merge_of(site, COLLECTOR)["connections"]["line1"]["security"] = {"trust": "first-use"}  # so it has certificates
        heard = Heard(rehearsal)
        await begin(rehearsal, site)
        pids = {name: rehearsal.core.component(name).pid for name in (COLLECTOR, EXPORTER)}
        known = certificates(rehearsal)
        assert known, "the collector has no certificate"

        for version, folder in ((NEXT, next_build), ("0.1.0", build)):
            await rehearsal.core.deploy(site, folder / "recipes", folder / "artifacts")
            for name in (COLLECTOR, EXPORTER):
                await rehearsal.core.wait_state(name, "RUNNING", LIMIT)
            await rehearsal.wait_for(partial(runs_as, rehearsal, version), f"{version} running", LIMIT)
            await flows_on(rehearsal, "line1")
        assert all(rehearsal.core.component(name).pid != pid for name, pid in pids.items())

        report = await judge(rehearsal)
        assert report.balances, shown(rehearsal, report.as_dict())
        assert len(heard.epochs["opcua-collector/line1"]) == 1, "the outbox was begun anew"
        numbers = sorted(number for stream, number in heard.batches if stream == "opcua-collector/line1")
        assert numbers == list(range(1, numbers[-1] + 1)), "batches were numbered anew, or some were never published"
        assert certificates(rehearsal) == known


async def test_renaming_a_connection_delivers_what_the_old_name_collected(build: Path, tmp_path: Path) -> None:
    """A rename is a new connection: the old one's data still reaches everybody, the new one begins at once.

    What changed between the two is not in either: this is what the README says of it.
    """
    async with Rehearsal(tmp_path, build, rate=500) as rehearsal:
        site = rehearsal.demo_site()
        await begin(rehearsal, site)

        renamed = copy.deepcopy(site)
        connections = merge_of(renamed, COLLECTOR)["connections"]
        connections["mixer"] = connections.pop("line1")
        renamed["components"][COLLECTOR]["configurationUpdate"]["reset"] = ["/connections/line1"]
        before = time.time_ns()
        await rehearsal.deploy(renamed)
        await rehearsal.wait_for(lambda: acknowledged(rehearsal, "mixer") > 5, "exports under the new name", LIMIT)
        after = time.time_ns()
        await flows_on(rehearsal, "mixer")
        await rehearsal.wait_for(
            lambda: ledger(rehearsal, "line1").get("kept", 0) == 0, "all of the old name exported", LIMIT
        )

        report = await judge(rehearsal, patience=8.0)  # longer than a file stays open
        unlike = compared(rehearsal, lambda at: at < before or at > after, present_at=after)
        assert not unlike, shown(rehearsal, dict(list(unlike.items())[:5]), report.as_dict())
        assert "line1" not in rehearsal.statuses["opcua-collector"]["connections"]


async def test_a_connection_that_is_removed_while_nobody_takes_its_data_is_still_delivered(
    build: Path, tmp_path: Path
) -> None:
    async with Rehearsal(tmp_path, build, rate=500) as rehearsal:
        site = rehearsal.demo_site()
        await begin(rehearsal, site)
        exporter = rehearsal.core.component(EXPORTER)
        await exporter.stop()
        stored = ledger(rehearsal, "line1")["stored"]
        await rehearsal.wait_for(lambda: ledger(rehearsal, "line1")["stored"] > stored + 1000, "a backlog", LIMIT)

        removed = copy.deepcopy(site)
        del merge_of(removed, COLLECTOR)["connections"]["line1"]
        removed["components"][COLLECTOR]["configurationUpdate"]["reset"] = ["/connections/line1"]
        before = time.time_ns()
        await rehearsal.core.deploy(removed, rehearsal.recipes, rehearsal.artifacts)
        await rehearsal.wait_for(
            lambda: "line1" not in rehearsal.statuses["opcua-collector"]["connections"], "the end of line1", LIMIT
        )
        exporter.start(install=False)
        await rehearsal.core.wait_state(EXPORTER, "RUNNING", LIMIT)
        await rehearsal.wait_for(
            lambda: ledger(rehearsal, "line1").get("kept", 0) == 0, "all of the removed connection exported", LIMIT
        )
        await judge(rehearsal, patience=2.0)  # it is all exported
        # The plant logs a row before it shows it: what it logged in the last moment before may not have been sent yet.
        unlike = compared(rehearsal, lambda at: at < before - 1_500_000_000)
        assert not unlike, shown(rehearsal, dict(list(unlike.items())[:5]))


def produced(rehearsal: Rehearsal) -> Iterator[tuple[str, int]]:
    """Tag and time of each sample that the plant logged."""
    assert rehearsal.plant is not None
    for line in read_log(rehearsal.plant.log):
        if isinstance(line, LoggedRow):
            for tag in line.values:
                yield tag, line.time_ns


def compared(rehearsal: Rehearsal, judged: Callable[[int], bool], *, present_at: int = 0) -> dict[str, list[object]]:
    """What of the samples whose time is `judged` did not arrive exactly once, by destination.

    The last sample of each tag before `present_at` may have come twice.
    """
    wanted = {sample for sample in produced(rehearsal) if judged(sample[1])}
    twice = {tag: at for tag, at in sorted(wanted, key=lambda sample: sample[1]) if at < present_at}
    assert len(wanted) > 1000, "nothing to compare"
    # A reader of Kinesis drops what it has seen by its id.
    records = {(tag, at, identity) for tag, at, _, _, identity, _ in received.kinesis(rehearsal.core.aws, "plant-data")}
    arrived = {
        "kinesis": Counter((tag, at) for tag, at, _ in records),
        "s3": Counter((tag, at) for tag, at, *_ in received.s3(rehearsal.core.aws, "plant-archive")),
    }
    unlike: dict[str, list[object]] = {}
    for name, counts in arrived.items():
        wrong = [
            (sample, counts[sample])
            for sample in sorted(wanted)
            if counts[sample] != 1 and not (counts[sample] == 2 and twice.get(sample[0]) == sample[1])
        ]
        if wrong:
            unlike[name] = [len(wrong), *wrong[:5]]
    return unlike
