"""Puts plant, core and components together, lets them flow, drains them and reconciles.

Order matters in two places. The components are running and following each other before the plant starts to produce,
and what the plant produced is compared only when every destination has stopped growing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import orjson

from localcore import Core, received
from plant import PiProcess, PlantError, PlantProcess, example_config, write_tags_csv
from plant.reconciliation import Delivered, Report, reconcile
from plant.tags import DEFAULT_ASSET
from rehearsal import processed
from rehearsal.site import (
    COLLECTOR,
    DATA_ONLY,
    EXPORTER,
    PI_ASSET,
    PI_COLLECTOR,
    PREPROCESSOR,
    demo_site,
    exported_sources,
    is_of,
    pi_config,
    sinks,
)

PI_USER = "PLANT\\reader"
"""Who reads from the plant's PI Web API."""


SOURCES = {COLLECTOR: "opcua-collector/line1", PI_COLLECTOR: "pi-collector/historian"}
"""The stream that each collector makes of the plant."""


class RehearsalError(RuntimeError):
    """The rehearsal could not be brought up; the text says which part, in what state, and where its log is."""


class Rehearsal:
    """One plant, one core, one set of components, in one empty folder.

    Use as an asynchronous context manager; leaving it ends every process that it started.

    Args:
        root: an empty folder for everything that is written.
        build: the output folder of scripts/build.py (recipes/ and artifacts/).
        profile: `classic` or `lite`, the nucleus that the core stands in for.
        rate: values per second that the plant produces.
        units: copies of the 52 Tennessee Eastman variables.
        secrets: what Secret Manager holds, by secret id.
        with_plant: the plant has an OPC UA server.
        pi: values per second that a PI Web API of the plant produces beside; None: there is none.
        preprocess: the preprocessor stands between collectors and exporter, with the flows of `rehearsal.processed`.
        clock: seconds, for the rule that makes a component BROKEN.
        run_as, path: user and PATH of the components, see localcore.Core.
    """

    def __init__(
        self,
        root: Path,
        build: Path,
        *,
        profile: str = "classic",
        rate: float = 1000.0,
        units: int = 2,
        secrets: Mapping[str, str] | None = None,
        with_plant: bool = True,
        plant_options: Mapping[str, Any] | None = None,
        pi: float | None = None,
        pi_options: Mapping[str, Any] | None = None,
        preprocess: bool = False,
        clock: Callable[[], float] = time.monotonic,
        run_as: int | None = None,
        path: str | None = None,
    ) -> None:
        self.root = root
        self.recipes = build / "recipes"
        self.artifacts = build / "artifacts"
        self.core = Core(
            root / "core", profile=profile, secrets=dict(secrets or {}), run_as=run_as, path=path, clock=clock
        )
        self.plant: PlantProcess | None = None
        if with_plant:
            self.plant = PlantProcess(root / "plant", rate=rate, units=units, **dict(plant_options or {}))
        self._run_as = run_as
        self.pi: PiProcess | None = None
        if pi is not None:
            self._pi_password = root / "pi-password"
            options = {"units": 1, "tls": "valid", "user": PI_USER, "password_file": self._pi_password}
            self.pi = PiProcess(root / "pi", rate=pi, **{**options, "poll": 0.2, **dict(pi_options or {})})
        self.units = units
        self.preprocess = preprocess
        self.statuses: dict[str, dict[str, Any]] = {}
        self.site: Mapping[str, Any] = {}
        self.arrived: Mapping[str, int] = {}
        """Samples at each destination, as drain() saw them last."""

    async def __aenter__(self) -> Rehearsal:
        try:
            if self.pi is not None:
                self._pi_password.parent.mkdir(parents=True, exist_ok=True)
                self._pi_password.write_text("let-me-read", encoding="utf-8")
                self._pi_password.chmod(0o600)
                if self._run_as is not None and os.geteuid() == 0:
                    os.chown(self._pi_password, self._run_as, -1)  # for its owner alone, who is the components' user
            starts = [self.core.start(), *(plant.start() for plant in self.plants)]
            # Both to their end, whatever becomes of the other: close() then finds nothing half started.
            for failure in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(failure, BaseException):
                    raise failure
            self.core.ipc.observe("sluice/status/+", self._on_status)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every process, the components first."""
        try:
            await self.core.stop()
        finally:
            for plant in self.plants:
                await plant.close()

    def _on_status(self, topic: str, payload: bytes) -> None:
        try:
            self.statuses[topic.removeprefix("sluice/status/")] = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            self.statuses[topic.removeprefix("sluice/status/")] = {"unreadable": str(error)}

    def collector_config(self, *, port: int | None = None) -> dict[str, Any]:
        """The merge for the collector that reads the whole plant, its tags in a CSV file.

        port: where the plant is reached, when that is not its own port.
        """
        if self.plant is None:
            raise RehearsalError("this rehearsal has no plant of its own")
        tags = self.root / "tags.csv"
        write_tags_csv(tags, self.units)
        own = urlsplit(self.plant.endpoint)
        endpoint = own if port is None else own._replace(netloc=f"{own.hostname}:{port}")
        return example_config(endpoint.geturl(), tags)

    def collectors(self, *, ports: Mapping[str, int] | None = None) -> dict[str, dict[str, Any]]:
        """The merge of each collector that the plant's sources need, by component.

        ports: where a source is reached, by its kind, when that is not its own port.
        """
        ports = ports or {}
        found: dict[str, dict[str, Any]] = {}
        if self.plant is not None:
            found[COLLECTOR] = self.collector_config(port=ports.get("opcua"))
        if self.pi is not None:
            found[PI_COLLECTOR] = pi_config(
                self.pi,
                self.root / "points.csv",
                port=ports.get("pi"),
                user=PI_USER,
                password_file=self._pi_password,
            )
        return found

    def demo_site(self) -> dict[str, Any]:
        """The demonstration's site document: the plant into SiteWise, Kinesis and S3."""
        return demo_site(self.collectors(), preprocessor=self.preprocessor_config())

    def preprocessor_config(self) -> dict[str, Any] | None:
        """The merge for the preprocessor, when there is to be one."""
        return processed.flows([SOURCES[name] for name in self.collectors()]) if self.preprocess else None

    async def provide(self, site: Mapping[str, Any]) -> None:
        """Make the Kinesis streams and buckets that the site's sinks name, as an account would have them."""
        await asyncio.to_thread(self._provide, site)

    def _provide(self, site: Mapping[str, Any]) -> None:
        for sink in sinks(site).values():
            if sink.get("type") == "kinesis":
                self.core.aws.create_kinesis_stream(sink["kinesisStream"])
            elif sink.get("type") == "s3":
                self.core.aws.create_bucket(sink["bucket"])

    async def deploy(self, site: Mapping[str, Any], *, timeout: float = 300.0) -> None:
        """Deploy a site document and wait until each of its components runs, apart from those that run nothing."""
        self.site = site
        await self.core.deploy(site, self.recipes, self.artifacts)
        for name in self._processes():
            await self.core.wait_state(name, "RUNNING", timeout)

    async def start_production(self, *, timeout: float = 60.0) -> None:
        """Start the plant once every consumer listens and its servers see that every item is watched."""
        if not self.plants:
            raise RehearsalError("this rehearsal has no plant of its own")
        await self.wait_for(lambda: "stream-exporter" in self.statuses, "the exporter's first status", timeout)
        for plant in self.plants:
            await self._watched(plant, timeout)
        for plant in self.plants:
            await plant.produce()

    async def _watched(self, plant: PlantProcess | PiProcess, timeout: float) -> None:
        try:
            await plant.watched(timeout)
        except PlantError as error:
            known = orjson.dumps(self.statuses, option=orjson.OPT_INDENT_2).decode()
            raise RehearsalError(f"{error}; statuses: {known}; logs: {self.core.logs}") from error

    async def finish_production(self) -> int:
        """End production and return the samples that the plant produced, over all its sources."""
        return sum([await plant.finish() for plant in self.plants])

    def samples(self) -> int:
        """Samples that the plant has logged so far, over all its sources."""
        return sum(plant.samples() for plant in self.plants)

    @property
    def plants(self) -> list[PlantProcess | PiProcess]:
        """The plant's sources, each with a log of its own."""
        return [plant for plant in (self.plant, self.pi) if plant is not None]

    async def wait_for(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait until `condition()`; RehearsalError shows every status known when the time is over."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                known = orjson.dumps(self.statuses, option=orjson.OPT_INDENT_2).decode()
                raise RehearsalError(f"no {what} within {timeout:.0f} s; statuses: {known}; logs: {self.core.logs}")
            await asyncio.sleep(0.05)

    async def drain(
        self, produced: int, *, patience: float = 15.0, settle: float = 6.0, repeats: bool = True
    ) -> Mapping[str, int]:
        """Wait until no destination grows any more, and return the samples at each, repeats included or not.

        They have grown for the last time when nothing came for `settle` seconds although every destination holds
        `produced` samples or more, or for `patience` seconds otherwise. Settling is what lets a late repeat be seen: it
        is longer than the demonstration keeps a file open.
        """
        counts: Mapping[str, int] = {}
        grown = time.monotonic()
        while True:
            begun = time.monotonic()
            latest = await asyncio.to_thread(self._counts if repeats else self._distinct_counts)
            if latest != counts:
                self.arrived = counts = latest
                grown = time.monotonic()
            complete = bool(counts) and min(counts.values()) >= produced
            if time.monotonic() - grown >= (settle if complete else patience):
                return counts
            # Counting reads everything: it shall not take more of the machine than what it waits for.
            await asyncio.sleep(max(0.5, time.monotonic() - begun))

    def deliveries(self) -> dict[str, Callable[[], Iterable[Delivered]]]:
        """Readers of what each destination received, by the name of its sink."""
        readers: dict[str, Callable[[], Iterable[tuple[Any, ...]]]] = {}
        for name, sink in sinks(self.site).items():
            if sink.get("type") == "sitewise":
                readers[name] = partial(received.sitewise, self.core.root)
            elif sink.get("type") == "kinesis":
                readers[name] = partial(received.kinesis, self.core.aws, sink["kinesisStream"])
            elif sink.get("type") == "s3":
                readers[name] = partial(received.s3, self.core.aws, sink["bucket"])
        return {name: partial(_delivered, read) for name, read in readers.items()}

    async def stop_collecting(self, *, timeout: float = 15.0) -> int:
        """Stop every collector, then the preprocessor when it has taken all of theirs, and return how many samples
        their last statuses say they stored in streams that the exporter takes, to be delivered."""
        collectors = [name for name in self._processes() if name not in (PREPROCESSOR, EXPORTER)]
        for name in collectors:
            await self.core.component(name).stop()
        await self.wait_for(lambda: self._stopping() >= len(collectors), "last status of every collector", timeout)
        if PREPROCESSOR in self._processes():
            await self._taken(timeout)
            await self.core.component(PREPROCESSOR).stop()
            await self.wait_for(lambda: self._stopping() > len(collectors), "last status of the preprocessor", timeout)
        sources = exported_sources(self.site)
        return sum(
            counts["stored"]
            for stream, counts in self._ledger()
            if "stored" in counts and not stream.endswith("/events") and is_of(stream, sources)
        )

    async def _taken(self, timeout: float) -> None:
        """Wait until the preprocessor's own ledger stands still: it has made of the collectors' samples what it can."""
        deadline, seen, since = time.monotonic() + timeout, 0, time.monotonic()
        while time.monotonic() < min(deadline, since + 6.0):  # a status comes every 5 s
            latest = sum(int(counts.get("received", 0)) for _, counts in self._ledger())
            if latest != seen:
                seen, since = latest, time.monotonic()
            await asyncio.sleep(0.2)

    def _ledger(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Every stream, and every sink, with what is counted of it."""
        return [entry for status in self.statuses.values() for entry in (status.get("ledger") or {}).items()]

    async def stop_exporting(self, *, timeout: float = 15.0) -> dict[str, dict[str, int]]:
        """Stop the exporter, which sends the files that it had open, and return what each sink filtered, by reason."""
        await self.core.component(EXPORTER).stop()
        last = self.statuses.get
        await self.wait_for(
            lambda: last("stream-exporter", {}).get("state") == "stopping", "last status of the exporter", timeout
        )
        return {name: counts["filtered_by"] for name, counts in self.statuses["stream-exporter"]["ledger"].items()}

    def _processes(self) -> list[str]:
        """The components of the site that run, without those of AWS."""
        deployed = self.core.components()
        return [name for name in self.site["components"] if name in deployed and not name.startswith(DATA_ONLY)]

    def _stopping(self) -> int:
        return sum(status.get("state") == "stopping" for status in self.statuses.values())

    def _counts(self) -> dict[str, int]:
        return {name: sum(1 for _ in self._own(read())) for name, read in self.deliveries().items()}

    def _distinct_counts(self) -> dict[str, int]:
        return {
            name: len({(sample.tag, sample.time_ns) for sample in self._own(read())})
            for name, read in self.deliveries().items()
        }

    def _own(self, delivered: Iterable[Delivered]) -> Iterator[Delivered]:
        """What the plant produced, without windows and totals that were made of it."""
        return (one for one in delivered if not (self.preprocess and processed.is_derived(one.tag)))

    def reconcile(self, *, overwritten: bool = False) -> Report:
        """Compare the plant's log with what the destinations received.

        overwritten: a value that SiteWise is sent again with the same property, time and quality overwrites itself, as
            it does in SiteWise; otherwise it counts as doubled. A stream manager that dies sends some again.
        """
        if not self.plants:
            raise RehearsalError("this rehearsal has no plant of its own")
        dropped = self._sinks_of("kinesis")
        deliveries: dict[str, Iterable[Delivered]] = {
            name: self._own(read()) for name, read in self.deliveries().items()
        }
        if overwritten:
            for name in self._sinks_of("sitewise"):
                deliveries[name] = map(_identified, deliveries[name])
                dropped.append(name)
        return reconcile(
            [plant.log for plant in self.plants],
            deliveries,
            assets=(DEFAULT_ASSET, PI_ASSET),
            repeats_dropped_by_id=dropped,
            # A window is older than what arrives with it: with the preprocessor the latency is that of the samples.
            appends=None if self.preprocess else self._live_appends(),
            files=self._sinks_of("s3"),
        )

    def judge_processed(self) -> dict[str, processed.Verdict]:
        """Compare the windows and totals that arrived as lines with the log of the OPC UA plant."""
        if self.plant is None or not self.preprocess:
            raise RehearsalError("this rehearsal has no preprocessor, or no plant whose values it takes")
        lines: dict[str, Iterable[tuple[dict[str, Any], int]]] = {}
        for name, sink in sinks(self.site).items():
            if sink.get("type") == "kinesis":
                lines[name] = received.kinesis_lines(self.core.aws, sink["kinesisStream"])
            elif sink.get("type") == "s3":
                lines[name] = received.s3_lines(self.core.aws, sink["bucket"])
        rows = {name: map(_derived, filter(_is_derived, of)) for name, of in lines.items()}
        return processed.judge(self.plant.log, rows, drop_by_id=self._sinks_of("kinesis"))

    async def drain_processed(self, *, patience: float = 30.0, settle: float = 3.0) -> dict[str, processed.Verdict]:
        """Wait until every window and total has arrived, for `patience` seconds at most, and a while longer for what
        comes too often; what `judge_processed` then says."""
        deadline = time.monotonic() + patience
        while any(one.lost or one.wrong for one in (await asyncio.to_thread(self.judge_processed)).values()):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(1.0)
        await asyncio.sleep(settle)
        return await asyncio.to_thread(self.judge_processed)

    def _sinks_of(self, kind: str) -> list[str]:
        return [name for name, sink in sinks(self.site).items() if sink.get("type") == kind]

    def _live_appends(self) -> Iterator[tuple[int, int, bytes]]:
        """What stream manager accepted for the destinations that are not files."""
        streams = {"sitewise": "SluiceSiteWise", "kinesis": "SluiceKinesis"}
        for sink in sinks(self.site).values():
            if sink.get("type") in streams:
                yield from received.appends(self.core.root, sink.get("stream", streams[sink["type"]]))

    def components(self) -> dict[str, dict[str, float]]:
        """Resident memory (MB) and CPU time (s) of each component that has a process, so far."""
        return {
            name: {"rss_mb": round(component.rss_mb, 1), "cpu_s": round(component.cpu_s, 2)}
            for name, component in self.core.components().items()
            if component.lifecycle.run is not None
        }


def _delivered(read: Callable[[], Iterable[tuple[Any, ...]]]) -> Iterator[Delivered]:
    return (Delivered(*row) for row in read())


def _is_derived(line: tuple[dict[str, Any], int]) -> bool:
    return processed.is_derived(line[0]["tag"])


def _derived(line: tuple[dict[str, Any], int]) -> processed.Row:
    row = line[0]
    return processed.Row(row["tag"], row["time_ns"], row.get("value"), row["id"], int(row.get("rev", 0)))


def _identified(sample: Delivered) -> Delivered:
    """With what SiteWise tells values apart by as its id, and the value: another one for the same time is no repeat."""
    return sample._replace(id=f"{sample.time_ns} {sample.quality} {sample.value!r} {sample.tag}")
