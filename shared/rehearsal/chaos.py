"""`scripts/chaos`: the whole gateway under every fault that there is a name for, then the reconciliation.

The faults are those of a schedule (`schedule.py`), decided by seed and length. One real minute is one simulated hour
for the rule that makes a component BROKEN. Exit status 0 only when every produced sample is at every destination once,
by the wording of the guarantee (Kinesis: repeats dropped by record id; SiteWise: the same value for the same property,
time and quality overwrites itself), every window and every total that the preprocessor made of them is there once and
exact, and everything that was asked for was done.

`--away SECONDS` is the other scenario: the exporter is away for so long under load, and then has to catch up.
`--trace FOLDER` shows again the path of the first lost or doubled sample of a run that was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import typer

from plant.line import Line
from rehearsal import away, pi_storm, trace
from rehearsal.command import (
    Interrupted,
    Stage,
    above_zero,
    arrived,
    balanced,
    build,
    conclude,
    is_live,
    known_profile,
    new_file,
    new_folder,
    say,
    show,
    states,
)
from rehearsal.crashes import Crashes
from rehearsal.faults import Faults
from rehearsal.flow import Flow
from rehearsal.rehearsal import Rehearsal, RehearsalError
from rehearsal.schedule import (
    COMPONENTS,
    CRASH_POINTS,
    SHORTEST,
    SIMULATED_HOUR,
    Act,
    make_schedule,
    simulated_clock,
)
from rehearsal.site import COLLECTOR, DATA_ONLY, EXPORTER, PI_COLLECTOR, PREPROCESSOR, demo_site

SAMPLES_PER_UNIT = 420.0
"""Samples per second of one unit at ten rows a second: with more rows the plant's queues would need to be longer."""
ROTATE = "3s"
OVERTIME = SIMULATED_HOUR
"""Seconds for which production may go on, at most, until every crash point was hit."""
PATIENCE = 60.0
"""Seconds without anything new at any destination after which nothing more is expected."""
SETTLE = 8.0
"""Seconds of the same when all has arrived: longer than a file stays open, so that a late repeat is seen."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    seconds: float
    seed: int
    rate: float
    pi_rate: float
    profile: str
    build: Path | None
    away: float | None
    live: bool
    pi_kills: int | None = None
    """Of a run with the PI collector alone; None: the whole gateway."""
    preprocess: bool = True
    """The preprocessor stands between collectors and exporter."""

    @property
    def components(self) -> tuple[str, ...]:
        """Who may be killed."""
        return tuple(name for name in COMPONENTS if self.preprocess or name != PREPROCESSOR)

    @property
    def units(self) -> int:
        """Units that give the rate at ten rows per second."""
        return max(1, math.ceil(self.rate / SAMPLES_PER_UNIT))


def site_of(rehearsal: Rehearsal, lines: Mapping[str, Line]) -> dict[str, Any]:
    """The demonstration's site with its plants at the ends of lines, a status each second and files that are sealed
    often."""
    site = demo_site(
        rehearsal.collectors(ports={kind: line.port for kind, line in lines.items()}),
        rotate=ROTATE,
        preprocessor=rehearsal.preprocessor_config(),
    )
    for component in site["components"].values():
        component["configurationUpdate"]["merge"]["statusInterval"] = "1s"
    return site


@contextlib.asynccontextmanager
async def gateway(root: Path, options: Options, stage: Stage) -> AsyncIterator[tuple[Rehearsal, Mapping[str, Line]]]:
    """Plants, lines, core and components; they follow each other and the plants are about to produce."""
    artifacts = options.build or root / "build"
    if options.build is None:
        async with stage.doing("building the artifacts"):
            await build(artifacts)
    rehearsal = Rehearsal(
        root,
        artifacts,
        profile=options.profile,
        rate=options.rate,
        units=options.units,
        pi=options.pi_rate,
        preprocess=options.preprocess,
        clock=simulated_clock,
    )
    async with rehearsal:
        assert rehearsal.plant is not None
        assert rehearsal.pi is not None
        addresses = {"opcua": rehearsal.plant.endpoint, "pi": rehearsal.pi.url}
        async with contextlib.AsyncExitStack() as stack:
            lines = {
                kind: await stack.enter_async_context(Line(int(urlsplit(address).port or 0)))
                for kind, address in addresses.items()
            }
            site = site_of(rehearsal, lines)
            async with stage.doing("deploying " + ", ".join(site["components"]), lambda: states(rehearsal)):
                await rehearsal.provide(site)
                await rehearsal.deploy(site)
                await rehearsal.start_production()
            for kind, line in lines.items():
                if not line.connections:
                    raise RehearsalError(f"the {kind} collector does not reach the plant by its line to be cut")
            yield rehearsal, lines


async def storm(rehearsal: Rehearsal, lines: Mapping[str, Line], options: Options, stage: Stage) -> dict[str, Any]:
    """Production under faults, then healing, draining and judging."""
    acts = make_schedule(options.seed, options.seconds, options.components)
    producers = {"opcua-collector": COLLECTOR, "pi-collector": PI_COLLECTOR, "preprocessor": PREPROCESSOR}
    flow = Flow(producers, EXPORTER)
    flow.start(rehearsal.core.ipc)
    started = time.monotonic()

    def begins(act: Act) -> None:
        say(f"{time.monotonic() - started:6.1f} s  {act}")

    async with Crashes(rehearsal.core, options.components, on_death=flow.died) as crashes:
        faults = Faults(rehearsal.core, lines, crashes, pi=rehearsal.pi, on_begin=begins)
        pending = list(acts)

        async def play() -> None:
            while pending:
                await asyncio.sleep(max(0.0, started + pending[0].at - time.monotonic()))
                faults.begin(pending.pop(0))

        def over(passed: float) -> bool:
            crashes.check()
            if passed < options.seconds:
                return False
            done = playing.done() and not faults.under_way() and not crashes.wanted()
            return done or passed >= options.seconds + OVERTIME

        playing = asyncio.create_task(play())
        try:
            await stage.flow(rehearsal, over)
        finally:
            playing.cancel()
        produced_for = time.monotonic() - started
        async with stage.doing("healing; stopping the plant; waiting until everything has arrived", waiting(rehearsal)):
            await faults.heal()
            crashes.give_up()
            report = await judge(rehearsal)
        crashes.check()
    report |= {
        "faults": dict(sorted(faults.done.items())),
        "crash_points": {point: crashes.hits[point] for name in options.components for point in CRASH_POINTS[name]},
        "missed": dict(crashes.missed),
        "kills": {name: crashes.kills[name] for name in options.components},
        "arming_kills": {name: crashes.arming_kills[name] for name in options.components},
        "redeployments": {name: crashes.redeployments[name] for name in options.components},
        "exits": crashes.exits,
        "recovery": flow.recoveries(),
        "power_cuts": faults.discarded,
        "schedule": [act.as_dict() for act in acts],
        "acts": faults.acts,
    }
    report["seconds"] |= {"asked": options.seconds, "produced": round(produced_for, 1)}
    report["problems"] = [
        *(f"not done: {act}" for act in pending),
        *(f"failed: {failure}" for failure in faults.failed),
        *(f"never hit: crash point {point}" for point, hits in report["crash_points"].items() if not hits),
        *ends_that_are_problems(crashes.exits, options.profile),
        *report["problems"],
    ]
    return report


def ends_that_are_problems(exits: Sequence[Mapping[str, Any]], profile: str) -> list[str]:
    """A component ends for no fault that it can outlive. On lite one may: its token is another one after a restart of
    IPC, and only the nucleus can give it the new one."""
    if profile == "lite":
        return []
    return [f"{end['component']} ended by itself with status {end['status']}: {end['log'][:300]}" for end in exits]


def waiting(rehearsal: Rehearsal) -> Any:
    """What has arrived so far, for the display."""
    return lambda: arrived(rehearsal, rehearsal.samples())


async def judge(rehearsal: Rehearsal) -> dict[str, Any]:
    """Stop the plant, wait until nothing arrives any more, and compare with the plant's own log."""
    assert rehearsal.plant is not None
    begun = time.monotonic()
    produced = await rehearsal.finish_production()
    await rehearsal.drain(produced, patience=PATIENCE, settle=SETTLE, repeats=False)
    drained = time.monotonic()
    found = await asyncio.to_thread(rehearsal.reconcile, overwritten=True)
    report = found.as_dict()
    made = await rehearsal.drain_processed(patience=PATIENCE) if rehearsal.preprocess else {}
    report["processed"] = {name: verdict.as_dict() for name, verdict in made.items()}
    report["components"] = {
        name: {**used, "written_bytes": rehearsal.core.component(name).io().get("write_bytes", 0)}
        for name, used in rehearsal.components().items()
    }
    report["ledgers"] = {name: status.get("ledger") for name, status in rehearsal.statuses.items()}
    report["seconds"] = {"drain": round(drained - begun, 1)}
    report["plant"] = {"dropped": (await rehearsal.plant.counters()).get("dropped")}
    report["problems"] = [
        *(
            f"{name} is {component.state} at the end; see {component.log_path}"
            for name, component in rehearsal.core.components().items()
            if component.state != ("FINISHED" if name.startswith(DATA_ONLY) else "RUNNING")
        ),
        *ledger_problems(rehearsal.statuses, produced),
        *(f"windows and totals in {name}: {verdict.first}" for name, verdict in made.items() if not verdict.balances),
    ]
    return report


def ledger_problems(statuses: Mapping[str, Mapping[str, Any]], produced: int) -> list[str]:
    """Producers' streams whose ledger does not balance: received = filtered + stored + dropped (+ in flight), and
    stored = acknowledged + kept; those that dropped something; and what all stored together when that is not what the
    plant produced: a ledger that balances only with itself proves nothing."""
    found = []
    stored = through = 0
    for status in statuses.values():
        for stream, ledger in (status.get("ledger") or {}).items():
            if not isinstance(ledger, Mapping) or not {"received", "stored", "acknowledged", "kept"} <= ledger.keys():
                continue
            if not stream.endswith("/events"):
                stored += 0 if stream.startswith("preprocessor/") else ledger["stored"]
                through += ledger["stored"] if stream.startswith("preprocessor/through") else 0
            of = {name: int(ledger.get(name, 0)) for name in ("filtered", "dropped", "in_flight")}
            if ledger["received"] != ledger["stored"] + sum(of.values()):
                found.append(f"ledger of {stream}: received is not filtered + stored + dropped: {json.dumps(ledger)}")
            if ledger["stored"] != ledger["acknowledged"] + ledger["kept"]:
                found.append(f"ledger of {stream}: stored is not acknowledged + kept: {json.dumps(ledger)}")
            if of["dropped"]:
                found.append(f"ledger of {stream}: {of['dropped']} dropped: {json.dumps(ledger)}")
    if "preprocessor" in statuses and through != produced:
        found.append(f"by its ledger the preprocessor let {through} samples through; the plant produced {produced}")
    if stored != produced:
        found.append(f"by their ledgers the collectors stored {stored} samples; the plant produced {produced}")
    return found


async def rehearse(root: Path, options: Options) -> dict[str, Any]:
    """One whole run; returns the report. Raises Interrupted, and what TROUBLE lists."""
    task = asyncio.current_task()
    assert task is not None
    stage = Stage(task, live=options.live)
    begun = time.monotonic()
    log_to(root / "core" / "logs" / "nucleus.log")
    try:
        async with gateway(root, options, stage) as (rehearsal, lines):
            ready = time.monotonic()
            if options.away is None:
                report = await storm(rehearsal, lines, options, stage)
            else:
                report = await away.rehearse(rehearsal, options.away, stage)
                report |= await judged(rehearsal, stage)
                report["problems"] += away.problems(report["away"])
            report |= {"seed": options.seed, "rate": options.rate, "units": options.units, "profile": options.profile}
            report["seconds"] |= {"until_ready": round(ready - begun, 1), "all": round(time.monotonic() - begun, 1)}
            if stage.ended.is_set():
                report["problems"].append("ended before its time by Ctrl-C or SIGTERM")
            report["passed"] = balanced(report) and not report["problems"]
            if not report["passed"]:
                async with stage.doing("keeping what arrived, for the path of the first sample that went wrong"):
                    await asyncio.to_thread(trace.keep, root, report, rehearsal.deliveries())
            return report
    except asyncio.CancelledError:
        if stage.signal is None:
            raise
        raise Interrupted(stage.signal, stage.phase) from None


async def rehearse_pi(root: Path, options: Options) -> dict[str, Any]:
    """One whole run of the PI collector alone; returns the report."""
    task = asyncio.current_task()
    assert task is not None
    stage = Stage(task, live=options.live)
    log_to(root / "core" / "logs" / "nucleus.log")
    try:
        artifacts = options.build or root / "build"
        if options.build is None:
            async with stage.doing("building the artifacts"):
                await build(artifacts)
        return await pi_storm.rehearse(
            root,
            artifacts,
            options.seconds,
            options.seed,
            kills=options.pi_kills or 0,
            stage=stage,
        )
    except asyncio.CancelledError:
        if stage.signal is None:
            raise
        raise Interrupted(stage.signal, stage.phase) from None


def log_to(path: Path) -> None:
    """Let what the core says of its components go to a file of the run, and not between the lines of the display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(filename=path, format=form, level=logging.WARNING, force=True)
    logging.getLogger("localcore").setLevel(logging.INFO)


async def judged(rehearsal: Rehearsal, stage: Stage) -> dict[str, Any]:
    """The judgement alone, with its display."""
    async with stage.doing("stopping the plant; waiting until everything has arrived", waiting(rehearsal)):
        return await judge(rehearsal)


def tell(report: Mapping[str, Any]) -> None:
    """What a person wants to know of a run, after the table of what arrived."""
    for name, title in (("faults", "done"), ("crash_points", "crash points hit"), ("missed", "missed at first")):
        if report.get(name):
            say(f"{title}: " + ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in report[name].items()))
    for name, one in report.get("processed", {}).items():
        say(f"windows and totals in {name}: " + ", ".join(f"{what} {count}" for what, count in one.items()))
    for name in report.get("kills", ()):
        again = report["recovery"].get(name)
        took = f"; at work again after {again['median_s']} s (longest {again['longest_s']} s)" if again else ""
        say(
            f"{name}: killed {report['kills'][name]} times by schedule and {report['arming_kills'][name]} times to arm "
            f"it, redeployed {report['redeployments'][name]} times{took}"
        )
    if "away" in report:
        away.tell(report["away"])
    if report.get("profile") == "lite":
        for end in report.get("exits", ()):
            say(f"{end['component']} ended by itself with status {end['status']}: {end['log'][:300]}")
    for problem in report["problems"]:
        say(f"problem: {problem}")
    seconds = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["seconds"].items())
    say(f"seconds: {seconds}; one real minute is one simulated hour")
    say("it balances, and everything was done" if report["passed"] else "it FAILED")


def long_enough(value: float) -> float:
    """Seconds in which all that must happen has room."""
    if not (value >= SHORTEST and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} s have no room for every fault; give {SHORTEST:g} or more")
    return value


def built_folder(value: Path | None) -> Path | None:
    """An output folder of scripts/build.py."""
    if value is not None and not ((value / "recipes").is_dir() and (value / "artifacts").is_dir()):
        raise typer.BadParameter(f"{value} has no recipes/ and artifacts/: give the --output of scripts/build.py")
    return value


def kept_folder(value: Path | None) -> Path | None:
    """The folder of a run that failed."""
    if value is not None and not (value / trace.REPORT).is_file():
        raise typer.BadParameter(f"{value} has no {trace.REPORT}: give the folder that a failed run named")
    return value


def chaos(
    seconds: Annotated[
        float, typer.Option(help="How long the plant produces under faults; 60 or more.", callback=long_enough)
    ] = 120.0,
    seed: Annotated[int, typer.Option(help="Decides, with the seconds, what goes wrong and when.")] = 1,
    rate: Annotated[
        float, typer.Option(help="Values per second that the plant produces.", callback=above_zero)
    ] = 2000.0,
    pi_rate: Annotated[
        float, typer.Option(help="Values per second of the plant's PI Web API.", callback=above_zero)
    ] = 400.0,
    profile: Annotated[
        str, typer.Option(help="The nucleus to stand in for: classic or lite.", callback=known_profile)
    ] = "classic",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=new_file)
    ] = None,
    built: Annotated[
        Path | None,
        typer.Option(
            "--build", help="Artifacts that were built: the --output of scripts/build.py.", callback=built_folder
        ),
    ] = None,
    away_for: Annotated[
        float | None,
        typer.Option(
            "--away",
            help="Instead of all faults: the exporter is away for so many seconds, and catches up.",
            callback=above_zero,
        ),
    ] = None,
    pi: Annotated[
        bool,
        typer.Option(
            "--pi", help="Instead of all: the PI collector alone, its server at 20 times real time, faults at random."
        ),
    ] = False,
    kills: Annotated[int, typer.Option(help="With --pi: how often the collector is killed.", min=0)] = 0,
    preprocess: Annotated[
        bool,
        typer.Option(
            help="Put the preprocessor between collectors and exporter, with windows and totals to be judged."
        ),
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this new folder and leave it: logs, streams, files.", callback=new_folder),
    ] = None,
    traced: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="Run nothing; show the path of what went wrong in this kept run.", callback=kept_folder
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No live display.")] = False,
) -> None:
    """Let everything go wrong that can, and prove that what was produced arrived, once."""
    if traced is not None:
        for line in trace.lines(traced):
            say(line)
        return
    # Who is away is judged by what its producer keeps meanwhile: nothing may stand between them.
    between = preprocess and away_for is None
    live = is_live(quiet)
    options = Options(seconds, seed, rate, pi_rate, profile, built, away_for, live, kills if pi else None, between)

    def run(root: Path) -> int:
        work = rehearse if options.pi_kills is None else rehearse_pi
        report = asyncio.run(work(root, options))
        if json_file is not None:
            json_file.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
        if options.pi_kills is not None:
            pi_storm.tell(report)
            return 0 if report["passed"] else 1
        show(report, "the plant's own log")
        tell(report)
        if report["passed"]:
            return 0
        for line in trace.lines(root):
            say(line)
        return 1

    conclude(run, keep, "sluice-chaos-", "the run could not be made")


def main() -> None:
    """The command line."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(chaos)
    program(prog_name="./scripts/chaos")


if __name__ == "__main__":
    main()
