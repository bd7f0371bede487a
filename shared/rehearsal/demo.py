"""`scripts/demo`: the whole gateway on this machine, ended by a reconciliation against the plant's own log.

With `--config site.yaml` the components talk to your servers instead of the simulated plant; the local core and the
local SiteWise, Kinesis and S3 endpoints stay. There is no plant's log then, so what the collector received is compared
with what arrived.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
    known_sources,
    new_file,
    new_folder,
    say,
    show,
    states,
)
from rehearsal.rehearsal import Rehearsal
from rehearsal.site import SiteError, load_site


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    seconds: float | None
    rate: float
    units: int
    profile: str
    pi_rate: float | None
    opcua: bool
    site: dict[str, Any] | None
    live: bool
    preprocess: bool = False
    """The preprocessor stands between collectors and exporter."""


async def flow(rehearsal: Rehearsal, seconds: float | None, stage: Stage) -> None:
    """Let it flow for so long, or until Ctrl-C."""
    if seconds is None:
        say("it flows until Ctrl-C; what arrived is judged then")
    await stage.flow(rehearsal, lambda passed: seconds is not None and passed >= seconds)


async def with_plant(rehearsal: Rehearsal, seconds: float | None, stage: Stage) -> dict[str, Any]:
    """Run against the simulated plant; the report is the comparison with the plant's own log."""
    await rehearsal.start_production()
    await flow(rehearsal, seconds, stage)
    produced = 0
    async with stage.doing(
        "stopping the plant; waiting until everything has arrived", lambda: arrived(rehearsal, produced)
    ):
        produced = await rehearsal.finish_production()
        await rehearsal.drain(produced)
        usage = rehearsal.components()
        report: dict[str, Any] = (await asyncio.to_thread(rehearsal.reconcile)).as_dict()
        made = await rehearsal.drain_processed() if rehearsal.preprocess else {}
    report["components"] = usage
    if made:
        report["processed"] = {name: verdict.as_dict() for name, verdict in made.items()}
        report["processed_balances"] = all(verdict.balances for verdict in made.values())
    return report


async def with_site(rehearsal: Rehearsal, seconds: float | None, stage: Stage) -> dict[str, Any]:
    """Run against the engineer's own servers, which nobody can stop: the collectors are stopped, and what they say they
    stored is compared with what arrived."""
    await flow(rehearsal, seconds, stage)
    stored = 0
    async with stage.doing(
        "stopping the collectors; waiting until everything has arrived", lambda: arrived(rehearsal, stored)
    ):
        usage = rehearsal.components()
        stored = await rehearsal.stop_collecting()
        await rehearsal.drain(stored, patience=3.0, settle=0.0)  # all but the files that are still open
        filtered = await rehearsal.stop_exporting()
        counted = await rehearsal.drain(stored)
    destinations = {}
    for name, count in counted.items():
        left_out = sum(filtered.get(name, {}).values())
        missing = stored - left_out - count
        destinations[name] = {"delivered": count, "filtered": left_out, "lost": max(0, missing)}
        destinations[name]["duplicated"] = max(0, -missing)
    return {
        "produced": stored,
        "excluded": max((counts["filtered"] for counts in destinations.values()), default=0),
        "exclusions": {name: reasons for name, reasons in filtered.items() if reasons},
        "destinations": destinations,
        "components": usage,
        "status": rehearsal.statuses,
    }


async def rehearse(root: Path, options: Options) -> dict[str, Any]:
    """One whole rehearsal; returns the report. Raises Interrupted, and what TROUBLE lists."""
    task = asyncio.current_task()
    assert task is not None
    stage = Stage(task, live=options.live)
    try:
        async with stage.doing("building the artifacts"):
            await build(root / "build", options.site)
        async with Rehearsal(
            root,
            root / "build",
            profile=options.profile,
            rate=options.rate,
            units=options.units,
            with_plant=options.site is None and options.opcua,
            pi=options.pi_rate if options.site is None else None,
            preprocess=options.preprocess,
        ) as rehearsal:
            site = options.site or rehearsal.demo_site()
            async with stage.doing("deploying " + ", ".join(site["components"]), lambda: states(rehearsal)):
                await rehearsal.provide(site)
                await rehearsal.deploy(site)
            run = with_plant if rehearsal.plants else with_site
            return await run(rehearsal, options.seconds, stage)
    except asyncio.CancelledError:
        if stage.signal is None:
            raise
        raise Interrupted(stage.signal, stage.phase) from None


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(help="How long the plant produces; without it, until Ctrl-C.", callback=above_zero),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Values per second that the plant produces.", callback=above_zero)
    ] = 1000.0,
    units: Annotated[int, typer.Option(help="Copies of the plant's 52 variables.", min=1)] = 2,
    sources: Annotated[
        str, typer.Option(help="What the plant has: opcua, pi, or both, separated by a comma.", callback=known_sources)
    ] = "opcua,pi",
    pi_rate: Annotated[
        float, typer.Option(help="Values per second of the plant's PI Web API.", callback=above_zero)
    ] = 200.0,
    profile: Annotated[
        str, typer.Option(help="The nucleus to stand in for: classic or lite.", callback=known_profile)
    ] = "classic",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=new_file)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A site document: your servers instead of the plant.")] = None,
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="Put the preprocessor between collectors and exporter; windows and totals are judged by the same log.",
        ),
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this new folder and leave it: logs, streams, files.", callback=new_folder),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No live display.")] = False,
) -> None:
    """Run the whole gateway on this machine and prove that what was produced arrived."""
    try:
        site = None if config is None else load_site(config)
        if preprocess and (site is not None or "opcua" not in sources.split(",")):
            raise typer.BadParameter(
                "--preprocess judges the plant's OPC UA values: no --config, and opcua among --sources"
            )
    except SiteError as error:
        say(f"the demonstration could not run: {error}")
        raise typer.Exit(1) from None

    def run(root: Path) -> int:
        wanted = sources.split(",")
        options = Options(
            seconds,
            rate,
            units,
            profile,
            pi_rate if "pi" in wanted else None,
            "opcua" in wanted,
            site,
            is_live(quiet),
            preprocess,
        )
        report = asyncio.run(rehearse(root, options))
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        show(report, "the plant's own log" if config is None else "the collectors' ledgers")
        for name, made in report.get("processed", {}).items():
            say(f"windows and totals in {name}: " + ", ".join(f"{what} {count}" for what, count in made.items()))
        return 0 if balanced(report) and report.get("processed_balances", True) else 1

    conclude(run, keep, "sluice-demo-", "the demonstration could not run")


def main() -> None:
    """The command line."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(demo)
    program(prog_name="./scripts/demo")


if __name__ == "__main__":
    main()
