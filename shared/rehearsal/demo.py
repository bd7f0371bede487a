"""`scripts/demo`: the whole gateway on this machine, ended by a reconciliation against the plant's own log.

With `--config site.yaml` the components talk to your servers instead of the simulated plant; the local core and the
local SiteWise, Kinesis and S3 endpoints stay. There is no plant's log then, so what the collector received is compared
with what arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from localcore import CoreError
from plant import PlantError
from rehearsal.rehearsal import Rehearsal, RehearsalError
from rehearsal.site import SiteError, load_site

REPOSITORY = Path(__file__).resolve().parents[2]
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    seconds: float | None
    rate: float
    units: int
    profile: str
    site: dict[str, Any] | None
    quiet: bool


def build(output: Path) -> None:
    """Build the artifacts for this machine, as a deployment would carry them."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "build.py"), "--host-only", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RehearsalError(f"the build failed:\n{done.stdout}{done.stderr}")


def picture(rehearsal: Rehearsal, started: float) -> Table:
    """What flows now, as a table: what each component says of itself."""
    table = Table(title=f"Sluice, {time.monotonic() - started:.0f} s", title_justify="left", expand=False)
    for heading in ("component", "state", "what flows"):
        table.add_column(heading)
    if rehearsal.plant is not None:
        table.add_row("plant", "producing", f"{rehearsal.plant.samples():,} samples logged")
    for name, status in sorted(rehearsal.statuses.items()):
        flows = []
        for connection, state in status.get("connections", {}).items():
            why = f" ({state['why']})" if state.get("why") else ""
            flows.append(f"{connection}: {state.get('state')}{why}")
        for stream, ledger in status.get("ledger", {}).items():
            counted = ", ".join(f"{key} {value:,}" for key, value in ledger.items() if isinstance(value, int) and value)
            flows.append(f"{stream}: {counted or 'nothing yet'}")
        table.add_row(name, str(status.get("state", "?")), "\n".join(flows))
    return table


async def flow(rehearsal: Rehearsal, seconds: float | None, *, quiet: bool) -> None:
    """Show what flows until `seconds` are over, or Ctrl-C when None."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    started = time.monotonic()
    live = contextlib.nullcontext() if quiet else Live(console=console, refresh_per_second=2)
    with live as display:
        while not stop.is_set() and (seconds is None or time.monotonic() - started < seconds):
            if display is not None:
                display.update(picture(rehearsal, started))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)


def say(text: str) -> None:
    """One line of progress."""
    console.print(text, highlight=False)


async def with_plant(rehearsal: Rehearsal, seconds: float | None, *, quiet: bool) -> dict[str, Any]:
    """Run against the simulated plant; the report is the comparison with the plant's own log."""
    assert rehearsal.plant is not None
    await rehearsal.start_production()
    await flow(rehearsal, seconds, quiet=quiet)
    say("stopping the plant; waiting until everything has arrived")
    produced = await rehearsal.plant.finish()
    await rehearsal.drain(produced)
    usage = rehearsal.components()
    report: dict[str, Any] = (await asyncio.to_thread(rehearsal.reconcile)).as_dict()
    report["components"] = usage
    return report


async def with_site(rehearsal: Rehearsal, seconds: float | None, *, quiet: bool) -> dict[str, Any]:
    """Run against the engineer's own servers, which nobody can stop: the collectors are stopped, and what they say they
    published is compared with what arrived."""
    await flow(rehearsal, seconds, quiet=quiet)
    say("stopping the collectors; waiting until everything has arrived")
    usage = rehearsal.components()
    published = await rehearsal.stop_collecting()
    drained = await rehearsal.drain(published)
    return {
        "produced": published,
        "excluded": 0,
        "destinations": {
            name: {"delivered": count, "lost": max(0, published - count), "duplicated": max(0, count - published)}
            for name, count in drained.counts.items()
        },
        "components": usage,
        "status": rehearsal.statuses,
    }


def show(report: dict[str, Any], judge: str) -> None:
    """The report as a table for a person."""
    table = Table(
        title=f"What arrived, judged by {judge}", title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1)
    )
    columns = ("delivered", "lost", "duplicated", "raw_repeats", "wrong", "unexpected")
    shown = [name for name in columns if all(name in counts for counts in report["destinations"].values())]
    table.add_column("destination", no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for name, counts in report["destinations"].items():
        table.add_row(name, *(f"{counts[column]:,}" for column in shown))
    console.print(table)
    say(f"produced {report['produced']:,}, excluded {report['excluded']}")
    latency = report.get("latency_ms", {})
    if latency.get("p50") is not None:
        say(f"source to accepted append: p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    for name, counts in report["destinations"].items():
        for finding in ("first_lost", "first_duplicated", "first_wrong", "first_unexpected"):
            if finding in counts:
                say(f"{name}: {finding.replace('_', ' ')}: {json.dumps(counts[finding])}")
    for name, used in report["components"].items():
        say(f"{name}: {used['rss_mb']:.0f} MB, {used['cpu_s']:.1f} s of CPU")


def balanced(report: dict[str, Any]) -> bool:
    """Whether every destination holds each produced sample once, with nothing left out of the comparison."""
    return (
        report["produced"] > 0
        and report["excluded"] == 0
        and report.get("ended", True)
        and all(
            counts["delivered"] == report["produced"]
            and not any(counts.get(fault) for fault in ("lost", "duplicated", "wrong", "unexpected"))
            for counts in report["destinations"].values()
        )
    )


async def rehearse(root: Path, options: Options) -> dict[str, Any]:
    """One whole rehearsal; returns the report."""
    async with Rehearsal(
        root,
        root / "build",
        profile=options.profile,
        rate=options.rate,
        units=options.units,
        with_plant=options.site is None,
    ) as rehearsal:
        site = options.site or rehearsal.demo_site()
        await rehearsal.provide(site)
        say("deploying " + ", ".join(site["components"]))
        await rehearsal.deploy(site)
        run = with_plant if rehearsal.plant is not None else with_site
        return await run(rehearsal, options.seconds, quiet=options.quiet)


def demo(
    seconds: Annotated[
        float | None, typer.Option(help="How long the plant produces; without it, until Ctrl-C.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Values per second that the plant produces.")] = 1000.0,
    units: Annotated[int, typer.Option(help="Copies of the plant's 52 variables.")] = 2,
    profile: Annotated[str, typer.Option(help="The nucleus to stand in for: classic or lite.")] = "classic",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    config: Annotated[Path | None, typer.Option(help="A site document: your servers instead of the plant.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Work in this new folder and leave it: logs, streams, files.")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No live display.")] = False,
) -> None:
    """Run the whole gateway on this machine and prove that what was produced arrived."""
    if profile not in ("classic", "lite"):
        raise typer.BadParameter(f"--profile {profile}: must be classic or lite")
    root = keep or Path(tempfile.mkdtemp(prefix="sluice-demo-"))
    root.mkdir(parents=True, exist_ok=True)
    passed = False
    try:
        site = None if config is None else load_site(config)
        options = Options(seconds, rate, units, profile, site, quiet or not console.is_terminal)
        say("building the artifacts")
        build(root / "build")
        report = asyncio.run(rehearse(root, options))
        passed = balanced(report)
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        show(report, "the plant's own log" if config is None else "the collectors' ledgers")
    except (RehearsalError, SiteError, CoreError, PlantError) as error:
        say(f"the demonstration could not run: {error}")
    finally:
        if passed and keep is None:
            shutil.rmtree(root, ignore_errors=True)
        elif not passed:
            say(f"logs and data are in {root}")
    raise typer.Exit(0 if passed else 1)


def main() -> None:
    """The command line."""
    typer.run(demo)


if __name__ == "__main__":
    main()
