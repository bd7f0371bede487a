"""The site documents of examples/, deployed as they are written, with the simulated plant as the server.

Nothing of a document is changed but the endpoint. What is expected is read from the document itself: which tag stands
for which of the plant's variables, under which alias it goes to SiteWise. The plant's own log is the judge of every
value, and its server's counters show that nobody wrote to it.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from localcore import received
from plant import PiProcess, PlantProcess
from plant.log import LoggedRow, read_log
from plant.reconciliation import QUALITIES, Delivered
from plant.tags import tags as plant_tags
from rehearsal import Rehearsal
from rehearsal.site import COLLECTOR, EXPORTER, PI_COLLECTOR, load_site, sinks

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
WRITTEN = "opc.tcp://127.0.0.1:4840/plant"
"""The endpoint that the examples name."""
WRITTEN_PI = "http://127.0.0.1:8443/piwebapi"
"""The PI Web API that the examples name."""
LIMIT = 60.0
ASKED = {"Read", "Browse", "BrowseNext", "TranslateBrowsePathsToNodeIds", "HistoryRead", "Publish", "Republish"}
ASKED |= {"RegisterNodes", "UnregisterNodes"}  # names for the session only (Part 4, 5.8.5)
SESSION = {"CreateSession", "ActivateSession", "CloseSession"}
SUBSCRIPTION = {
    *("CreateSubscription", "ModifySubscription", "TransferSubscriptions", "SetPublishingMode"),
    *("DeleteSubscriptions", "CreateMonitoredItems", "ModifyMonitoredItems", "DeleteMonitoredItems"),
    "SetMonitoringMode",
}
READ_ONLY = ASKED | SESSION | SUBSCRIPTION
"""Services that change nothing in a plant: Write, Call, HistoryUpdate, AddNodes and the like are not among them."""

Sample = tuple[str, int]
"""Name at the destination, time in ns."""


class Tag(NamedTuple):
    """A tag of a document: its name, where it stands, and the plant's variable behind it."""

    name: str
    asset: str
    variable: str


def tags(site: Mapping[str, Any]) -> Iterator[Tag]:
    """Every tag that a document collects."""
    for connection in merge_of(site, COLLECTOR)["connections"].values():
        if "select" in connection:
            yield from selected(connection["asset"])
        entries = dict(connection.get("tags", {}))
        if package := connection.get("tagsPackage"):
            with (EXAMPLES / f"{package}.csv").open(encoding="utf-8") as file:
                entries |= {row["tag"]: row for row in csv.DictReader(file)}
        for name, entry in entries.items():
            node, path = entry.get("node"), entry.get("path")
            parts = [part.rpartition(":")[2] for part in (path or "").split("/")]
            variable = node.rpartition(";s=")[2] if node else f"{parts[-3]}/{parts[-1]}"
            yield Tag(name, entry.get("asset") or connection["asset"], variable)


def selected(asset: str) -> Iterator[Tag]:
    """What the filters of filters.yaml say, in other words than theirs."""
    for variable in plant_tags(1):
        _, folder, name = steps = variable.path.replace("2:", "").split("/")[3:]
        where = "site/laboratory" if folder == "Analysers" else asset
        if folder == "Reactor" or (variable.type in ("Double", "Int32") and not name.startswith("XMV")):
            yield Tag("/".join(["Plant", *steps]), where, variable.tag)


def merge_of(site: Mapping[str, Any], component: str) -> dict[str, Any]:
    merge: dict[str, Any] = site["components"][component]["configurationUpdate"]["merge"]
    return merge


def alias(template: str, tag: Tag) -> str:
    return template.replace("{asset}", tag.asset).replace("{tag}", tag.name)


class Running:
    """A document at work: deployed, everything watched, the plant producing."""

    def __init__(self, plant: PlantProcess, rehearsal: Rehearsal, site: Mapping[str, Any]) -> None:
        self.plant = plant
        self.rehearsal = rehearsal
        self.site = site
        self.tags = list(tags(site))

    async def produced(self, more: int) -> None:
        """Wait until the plant has logged so many further samples."""
        until = self.plant.samples() + more
        await self.rehearsal.wait_for(lambda: self.plant.samples() >= until, f"{more} samples of the plant", LIMIT)

    def logged(self, name: Callable[[Tag], str]) -> dict[Sample, tuple[Any, str]]:
        """Value and quality of each sample of the document's tags, by what it is called at a destination."""
        names = {tag.variable: name(tag) for tag in self.tags}
        return {
            (names[variable], line.time_ns): (value, QUALITIES[line.statuses.get(variable, 0) >> 30])
            for line in read_log(self.plant.log)
            if isinstance(line, LoggedRow)
            for variable, value in line.values.items()
            if variable in names
        }

    def collecting(self) -> bool:
        """Whether every connection is at work, by the collector's status."""
        connections = self.rehearsal.statuses.get("opcua-collector", {}).get("connections", {})
        wanted = merge_of(self.site, COLLECTOR)["connections"]
        return connections.keys() == wanted.keys() and all(one["state"] == "running" for one in connections.values())

    def stored(self) -> int:
        """Samples that the collector has in its outbox or had, by its status."""
        ledger = self.rehearsal.statuses.get("opcua-collector", {}).get("ledger", {})
        return sum(counts.get("stored", 0) for stream, counts in ledger.items() if not stream.endswith("/events"))

    async def end(self) -> dict[str, dict[str, int]]:
        """Stop the plant, wait until all was collected, stop collector and exporter (files that are open are sent
        then), and wait until each destination has what it should. Returns what each sink filtered, by reason."""
        await self.plant.finish()
        whole = len(self.logged(lambda tag: f"{tag.asset}/{tag.name}"))
        assert whole > 100, "the plant produced nothing to compare"
        await self.rehearsal.wait_for(lambda: self.stored() >= whole, f"{whole} collected samples", LIMIT)
        await self.rehearsal.stop_collecting()
        expected = {name: len(self.expected(sink)) for name, sink in sinks(self.site).items()}
        live = {name for name, sink in sinks(self.site).items() if sink["type"] != "s3"}
        await self.arrived({name: expected[name] for name in live})
        filtered = await self.rehearsal.stop_exporting()
        await self.arrived(expected)
        return filtered

    async def arrived(self, expected: Mapping[str, int]) -> None:
        """Wait until each of these destinations has so many samples."""
        deadline = time.monotonic() + LIMIT
        while missing := await asyncio.to_thread(self._missing, expected):
            assert time.monotonic() < deadline, self.told(missing)
            await asyncio.sleep(0.2)

    def _missing(self, expected: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        got = {name: sum(1 for _ in self.delivered(name)) for name in expected}
        return {name: (got[name], wanted) for name, wanted in expected.items() if got[name] < wanted}

    def expected(self, sink: Mapping[str, Any]) -> dict[Sample, tuple[Any, str]]:
        """What a destination must have in the end; SiteWise is sent no nulls here."""
        if sink["type"] != "sitewise":
            return self.logged(lambda tag: tag.name)
        template = sink["alias"]
        logged = self.logged(lambda tag: alias(template, tag))
        return {sample: told for sample, told in logged.items() if told[0] is not None}

    def delivered(self, name: str) -> Iterable[Delivered]:
        return self.rehearsal.deliveries()[name]()

    def differences(self, name: str, filtered: Mapping[str, int]) -> list[object]:
        """What a destination has and should not have, has twice, or has not: nothing."""
        sink = sinks(self.site)[name]
        expected = self.expected(sink)
        found: list[object] = []
        seen: dict[Sample, str | None] = {}
        for one in self.delivered(name):
            sample = one.tag, one.time_ns
            # A reader of Kinesis drops what it has seen by its id; nothing else may come twice.
            if sample in seen and not (sink["type"] == "kinesis" and seen[sample] == one.id):
                found.append(("twice", one))
            elif expected.get(sample) != (one.value, one.quality):
                found.append(("not as the plant logged it", one, expected.get(sample)))
            seen[sample] = one.id
        found += [("missing", sample) for sample in expected.keys() - seen.keys()]
        nulls = len(self.logged(lambda tag: f"{tag.asset}/{tag.name}")) - len(expected)
        if {reason: count for reason, count in filtered.items() if count} != ({"null": nulls} if nulls else {}):
            found.append(("filtered", dict(filtered), nulls))
        return found[:10]

    def told(self, *more: object) -> str:
        return orjson.dumps([*more, self.rehearsal.statuses], option=orjson.OPT_INDENT_2, default=str).decode()


@asynccontextmanager
async def running(
    document: str, build: Path, folder: Path, *, units: int = 1, before: int = 0
) -> AsyncIterator[Running]:
    """Deploy a document of examples/ against a plant of its own.

    before: samples that the plant has produced when the document is deployed.
    """
    text = (EXAMPLES / document).read_text(encoding="utf-8")
    assert WRITTEN in text
    site_file = folder / document
    watched = 0 if before else len(list(tags(load_site(EXAMPLES / document))))
    async with PlantProcess(folder / "plant", units=units, rate=1000 * units, expect_items=watched) as plant:
        site_file.write_text(text.replace(WRITTEN, plant.endpoint), encoding="utf-8")
        site = load_site(site_file)
        async with Rehearsal(folder, build, with_plant=False) as rehearsal:
            run = Running(plant, rehearsal, site)
            if before:
                await plant.produce()
                await run.produced(before)
            await rehearsal.provide(site)
            await rehearsal.deploy(site)
            await rehearsal.wait_for(lambda: "stream-exporter" in rehearsal.statuses, "first status", LIMIT)
            if before:
                await rehearsal.wait_for(run.collecting, "every connection at work", LIMIT)
            else:
                await plant.produce()
            yield run
            counters = await plant.counters()
    assert counters["services"].keys() <= READ_ONLY, counters


async def test_opcua_to_sitewise(build: Path, tmp_path: Path) -> None:
    """Every value of every type is a property's value, under the alias that the document says."""
    async with running("opcua-to-sitewise.yaml", build, tmp_path) as run:
        await run.produced(2000)
        filtered = await run.end()
        assert run.differences("sitewise", filtered["sitewise"]) == [], run.told()
        aliases = {one.tag for one in run.delivered("sitewise")}
    assert "/site/area/reactor/Reactor/Pressure" in aliases
    assert len(aliases) == len(run.tags)


async def test_history_to_s3(build: Path, tmp_path: Path) -> None:
    """The gateway is off, and meanwhile the server is restarted: what nobody saw live comes from its history."""
    async with running("history-to-s3.yaml", build, tmp_path) as run:
        await run.produced(1000)
        collector = run.rehearsal.core.component(COLLECTOR)
        await collector.stop()
        await run.plant.forget()
        away = time.time_ns()
        await run.produced(1000)
        back = time.time_ns()
        collector.start(install=False)
        await run.rehearsal.core.wait_state(COLLECTOR, "RUNNING", LIMIT)
        await run.produced(1000)
        filtered = await run.end()
        assert run.differences("archive", filtered["archive"]) == [], run.told()
        prefix = merge_of(run.site, EXPORTER)["sinks"]["archive"]["prefix"] + "opcua-collector/reactor/"
        read_back = list(received.s3(run.rehearsal.core.aws, "plant-archive", f"{prefix}backfill/"))
        between = [row for row in read_back if away < row[1] < back]
    assert len(between) > 50, "nothing was read back from the time of the outage"


async def test_history_to_s3_of_the_time_before_the_gateway(build: Path, tmp_path: Path) -> None:
    """The command in the document's own comment, with another id and range, published as the cloud would."""
    document = "history-to-s3.yaml"
    comment = (EXAMPLES / document).read_text(encoding="utf-8").split("components:")[0].replace("#", "")
    request = json.loads(comment[comment.index("{") : comment.rindex("}") + 1])
    answers: list[dict[str, Any]] = []
    async with running(document, build, tmp_path, before=1000) as run:
        rows = [line.time_ns for line in read_log(run.plant.log) if isinstance(line, LoggedRow)]
        first, until = rows[0], rows[len(rows) // 2]
        request["id"] = "before-the-gateway"
        request["arguments"] |= {"from": first, "to": until}
        core = run.rehearsal.core
        core.ipc.observe_iot_core(
            f"sluice/{core.thing_name}/reply/opcua-collector", lambda _, payload: answers.append(orjson.loads(payload))
        )

        def over() -> bool:
            return bool(answers) and answers[-1]["state"] in ("done", "failed", "refused")

        await core.ipc.publish_iot_core(f"sluice/{core.thing_name}/command/opcua-collector", orjson.dumps(request))
        await run.rehearsal.wait_for(over, "the end of the command", LIMIT)
        assert answers[-1]["state"] == "done", answers
        await run.plant.finish()
        await run.rehearsal.stop_collecting()
        await run.rehearsal.stop_exporting()
        logged = {
            sample: told for sample, told in run.logged(lambda tag: tag.name).items() if first <= sample[1] < until
        }
        assert len(logged) > 20, "nothing was produced before"
        prefix = merge_of(run.site, EXPORTER)["sinks"]["archive"]["prefix"] + "opcua-collector/reactor/backfill/"
        got: list[tuple[Any, ...]] = []
        deadline = time.monotonic() + LIMIT
        while len(got) < len(logged) and time.monotonic() < deadline:
            got = await asyncio.to_thread(lambda: list(received.s3(core.aws, "plant-archive", prefix)))
            await asyncio.sleep(0.2)
    assert len(got) == len(logged), "something came twice, or not at all"
    assert {(tag, at): (value, quality) for tag, at, value, quality, *_ in got} == logged


async def test_filters(build: Path, tmp_path: Path) -> None:
    """Everything that the filters say and nothing else, in three groups: each value once."""
    async with running("filters.yaml", build, tmp_path) as run:
        await run.produced(2000)
        filtered = await run.end()
        assert run.differences("kinesis", filtered["kinesis"]) == [], run.told()
        groups = run.rehearsal.statuses["opcua-collector"]["connections"]["plant"]
    assert 40 < len(run.tags) < 55
    assert groups["tags"] == len(run.tags), groups


@pytest.fixture
def with_line2(build: Path, tmp_path: Path) -> Path:
    """The build, and in it the tag package that the mixed document names, made as the document says."""
    output = tmp_path / "build"
    shutil.copytree(build, output, copy_function=os.link)
    command: list[str | Path] = [REPOSITORY / "scripts" / "sluice", "tags", "package", EXAMPLES / "line2.csv"]
    command += ["--name", "line2", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return output


async def test_mixed(with_line2: Path, tmp_path: Path) -> None:
    """Two connections, one with a tag package, to four sinks: each of them has everything, once."""
    async with running("mixed.yaml", with_line2, tmp_path, units=2) as run:
        await run.produced(4000)
        filtered = await run.end()
        for name in sinks(run.site):
            assert run.differences(name, filtered[name]) == [], run.told(name)
        aliases = {one.tag for one in run.delivered("sitewise")}
    assert {"site/area/line1/Feed/A", "site/area/line2/Stripper/Level", "site/area/utilities/Compressor/Work"} < aliases


def average(events: Sequence[tuple[int, float]], first: int, last: int) -> float:
    """The time-weighted average of a line through the events, from first to last, by its corners."""

    def at(time_ns: int) -> float:
        (t0, v0), (t1, v1) = next(pair for pair in pairwise(events) if pair[0][0] <= time_ns <= pair[1][0])
        return v0 + (v1 - v0) * (time_ns - t0) / (t1 - t0)

    corners = [(first, at(first)), *((t, v) for t, v in events if first < t < last), (last, at(last))]
    return sum((v0 + v1) / 2 * (t1 - t0) for (t0, v0), (t1, v1) in pairwise(corners)) / (last - first)


async def test_pi_to_s3(build: Path, tmp_path: Path) -> None:
    """Every value of every point, from before the collector was there and as they come; averages by calculation."""
    document = "pi-to-s3.yaml"
    text = (EXAMPLES / document).read_text(encoding="utf-8")
    assert WRITTEN_PI in text
    interval = 10_000_000_000
    async with PiProcess(tmp_path / "plant", units=1, rate=400, expect_items=0) as pi:
        await pi.produce()
        (tmp_path / document).write_text(text.replace(WRITTEN_PI, pi.url), encoding="utf-8")
        site = load_site(tmp_path / document)
        connection = merge_of(site, PI_COLLECTOR)["connections"]["historian"]
        names = {
            entry["point"]: tag for tag, entry in connection["tags"].items() if entry.get("group") != "averages"
        } | {
            f"U1.XMEAS0{at}_{what}Feed": f"Feeds/U1.XMEAS0{at}_{what}Feed"
            for at, what in enumerate(("A", "D", "E", "AC"), 1)
        }

        def logged() -> dict[Sample, tuple[Any, str]]:
            return {
                (names[point], line.time_ns): (value, QUALITIES[line.statuses.get(point, 0) >> 30])
                for line in read_log(pi.log)
                if isinstance(line, LoggedRow)
                for point, value in line.values.items()
                if point in names
            }

        async with Rehearsal(tmp_path, build, with_plant=False) as rehearsal:

            def stored() -> int:
                ledger = rehearsal.statuses.get("pi-collector", {}).get("ledger", {})
                return sum(n.get("stored", 0) for stream, n in ledger.items() if not stream.endswith("/events"))

            await rehearsal.provide(site)
            await rehearsal.deploy(site)
            averaged_from = time.time_ns() // interval * interval + interval
            # Two windows that began after the deployment, and what the archive may take to have a value.
            until = averaged_from + 2 * interval + 15_000_000_000
            await rehearsal.wait_for(lambda: time.time_ns() > until, "two windows of averages", LIMIT)
            await pi.finish()
            expected = logged()
            await rehearsal.wait_for(
                lambda: stored() >= len(expected) + 3, f"{len(expected)} samples, 3 averages", LIMIT
            )
            asked = await pi.counters()
            await rehearsal.stop_collecting()
            await rehearsal.stop_exporting()
            got: list[Delivered] = []
            deadline = time.monotonic() + LIMIT
            while len(got) < len(expected) + 3:
                assert time.monotonic() < deadline, (len(got), len(expected), rehearsal.statuses)
                got = await asyncio.to_thread(lambda: list(rehearsal.deliveries()["archive"]()))
                await asyncio.sleep(0.2)
        temperature = [
            (line.time_ns, float(value))
            for line in read_log(pi.log)
            if isinstance(line, LoggedRow)
            for point, value in line.values.items()
            if point == "U1.XMEAS09_ReactorTemperature" and isinstance(value, float)
        ]
    averages = {one.time_ns: one for one in got if one.tag == "ReactorTemperature.Average"}
    values = [one for one in got if one.tag != "ReactorTemperature.Average"]
    assert {(one.tag, one.time_ns): (one.value, one.quality) for one in values} == expected
    assert len(values) == len(expected), "something came twice"
    assert {one.tag for one in values} == set(names.values())
    whole = [at for at in averages if temperature[0][0] <= at and at + interval <= temperature[-1][0]]
    assert len(whole) >= 2, (sorted(averages), temperature[0], temperature[-1])
    for at in whole:
        assert averages[at].value == pytest.approx(average(temperature, at, at + interval)), at
        assert averages[at].quality == "GOOD"
    assert asked["written"] == 0, asked["requests"]


def demo(site: Path, folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """What `scripts/demo --config` says of a site document."""
    command: list[str | Path] = [REPOSITORY / "scripts" / "demo", "--config", site, *options]
    environment = {**os.environ, "TMPDIR": str(folder)}  # where the demo puts what it keeps
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


async def test_the_demonstration_runs_a_site_document(tmp_path: Path) -> None:
    """The command of the README, with the simulated plant as the server, on a port of its own."""
    async with PlantProcess(tmp_path / "plant", units=1, rate=200, expect_items=5) as plant:
        plant.send("start")
        text = (EXAMPLES / "site.yaml").read_text(encoding="utf-8")
        assert WRITTEN in text
        site = tmp_path / "site.yaml"
        site.write_text(text.replace(WRITTEN, plant.endpoint), encoding="utf-8")
        report = tmp_path / "report.json"
        done = await asyncio.to_thread(demo, site, tmp_path, "--seconds", "4", "--json", report)
        counters = await plant.counters()
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["produced"] > 10
    assert {counts["delivered"] for counts in told["destinations"].values()} == {told["produced"]}
    assert counters["services"].keys() <= READ_ONLY, counters


def test_the_demonstration_refuses_a_wrong_site_document_in_words(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("component: {}\n", encoding="utf-8")
    done = demo(site, tmp_path, "--seconds", "1")
    assert done.returncode == 1
    assert "site.yaml: has no `components` mapping" in done.stderr.replace("\n", "")


# --- flows ----------------------------------------------------------------------------------------------------------


async def test_preprocess(build: Path, tmp_path: Path) -> None:
    """Every window once, as the plant's log makes it; what passes is what was logged, in other units."""
    async with running("preprocess.yaml", build, tmp_path) as run:
        await run.produced(32_000)  # 32 s
        rows = [line for line in read_log(run.plant.log) if isinstance(line, LoggedRow)]
        logged = run.logged(lambda tag: tag.name)
        first, last = rows[0].time_ns, rows[-1].time_ns
        size = 10 * 10**9
        whole = range(-(-first // size), (last - 2 * 10**9) // size)
        reactor = [tag.name for tag in run.tags if tag.name.startswith("Reactor/")]
        expected = {
            (f"{tag}.count", window * size): sum(
                1 for name, at in logged if name == tag and window * size <= at < (window + 1) * size
            )
            for tag in reactor
            for window in whole
        }
        assert len(expected) >= 3, "too few windows"

        def windows() -> dict[Sample, Any]:
            found: dict[Sample, Any] = {}
            for one in run.delivered("kinesis"):
                if one.tag.endswith(".count") and (one.tag, one.time_ns) in expected:
                    assert (one.tag, one.time_ns) not in found, f"twice: {one}"
                    found[one.tag, one.time_ns] = one.value
            return found

        deadline = time.monotonic() + LIMIT
        while len(await asyncio.to_thread(windows)) < len(expected):
            assert time.monotonic() < deadline, run.told(await asyncio.to_thread(windows), expected)
            await asyncio.sleep(0.5)
        assert await asyncio.to_thread(windows) == expected
        passed = [one for one in run.delivered("kinesis") if one.tag == "Reactor/Pressure" and one.quality == "GOOD"]
        assert len(passed) > 5, run.told()
        for one in passed:
            assert one.value == pytest.approx(logged[one.tag, one.time_ns][0] / 100, abs=1e-6), one
        assert len(passed) < len([1 for name, _ in logged if name == "Reactor/Pressure"])


async def test_pumps(build: Path, tmp_path: Path) -> None:
    """Members of an asset model, in its units, and what is calculated of them."""
    async with running("pumps.yaml", build, tmp_path) as run:
        await run.produced(5_000)
        logged = run.logged(lambda tag: tag.name)
        deadline = time.monotonic() + LIMIT
        while not {"flow", "pressure", "power"} <= {one.tag for one in run.delivered("kinesis")}:
            assert time.monotonic() < deadline, run.told()
            await asyncio.sleep(0.5)
        got = {(one.tag, one.time_ns): one.value for one in run.delivered("kinesis")}
    both = [at for tag, at in got if tag == "flow" and ("pressure", at) in got and ("power", at) in got]
    assert both
    for at in both:
        flow, pressure = logged["Unit1/FeedA", at][0] * 1000 / 60, logged["Unit1/Pressure", at][0] / 100
        assert got["flow", at] == pytest.approx(flow)
        assert got["pressure", at] == pytest.approx(pressure)
        assert got["power", at] == pytest.approx(flow * pressure / 600 / 0.8)
