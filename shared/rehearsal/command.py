"""What the commands of a rehearsal share: what is said meanwhile, what signals mean, how arguments are refused, and the
report as a person reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.box import SIMPLE
from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from localcore import CoreError, DeploymentError
from localcore.child import ChildError, die_with_parent
from plant import PlantError
from rehearsal.rehearsal import Rehearsal, RehearsalError
from rehearsal.site import COLLECTORS, TAGS, SiteError

REPOSITORY = Path(__file__).resolve().parents[2]
BUILT = REPOSITORY / "greengrass-build"
TROUBLE = (
    RehearsalError,
    SiteError,
    CoreError,
    DeploymentError,
    ChildError,
    PlantError,
    BotoCoreError,
    ClientError,
    OSError,
)
"""What can go wrong without a fault of this program, each with a text for a person."""

COUNTED = ("received", "filtered", "stored", "acknowledged", "kept", "appended", "dropped", "waiting")
"""What the live display tells of a ledger, in the order of the flow."""

console = Console(stderr=True)


def is_live(quiet: bool) -> bool:
    """Whether there is a terminal that a display can be drawn on, and it is wanted."""
    return console.is_terminal and not console.is_dumb_terminal and not quiet


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Ctrl-C, SIGTERM or a terminal that was closed ended the run before there was anything to judge."""

    def __init__(self, number: signal.Signals, phase: str) -> None:
        super().__init__(f"{number.name} while {phase}")
        self.number = number


class Stage:
    """What the run is doing, and what a signal means there.

    While it flows, Ctrl-C and SIGTERM end the flow, and the judgement follows. At any other time they end everything.
    """

    def __init__(self, task: asyncio.Task[Any], *, live: bool) -> None:
        self.ended = asyncio.Event()
        self.signal: signal.Signals | None = None
        self.phase = "starting"
        self.live = live
        self._task = task
        self._flowing = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._flowing and number != signal.SIGHUP:
            self.ended.set()
        else:
            self.signal = number
            self._task.cancel()

    @contextlib.asynccontextmanager
    async def doing(self, phase: str, detail: Callable[[], str] = str) -> AsyncIterator[None]:
        """Say what begins; on a terminal show how long it has taken so far, and `detail`."""
        self.phase = phase
        say(phase)
        if not self.live:
            yield
            return
        started = time.monotonic()
        with console.status("") as status:

            async def show() -> None:
                while True:
                    status.update(Text(f"{time.monotonic() - started:.0f} s  {detail()}"))
                    await asyncio.sleep(0.5)

            showing = asyncio.create_task(show())
            try:
                yield
            finally:
                showing.cancel()
                await asyncio.wait({showing})

    async def flow(self, rehearsal: Rehearsal, over: Callable[[float], bool]) -> None:
        """Show what flows until `over`, which is told the seconds that have passed, or until Ctrl-C."""
        started = time.monotonic()
        self._flowing = True
        live = Live(console=console, refresh_per_second=2) if self.live else contextlib.nullcontext()
        with live as display:
            while not self.ended.is_set() and not over(time.monotonic() - started):
                if display is not None:
                    shown = picture(rehearsal, time.monotonic() - started)
                    # A line as wide as the terminal would wrap with the ^C that the terminal adds to it.
                    display.update(Constrain(shown, console.width - 4))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.ended.wait(), 0.5)
        self._flowing = False


async def build(output: Path, site: Mapping[str, Any] | None = None) -> None:
    """Build the artifacts for this machine, as a deployment would carry them; with the tag packages of a site document,
    which `scripts/sluice tags package` has made."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(REPOSITORY / "scripts" / "build.py"),
        "--host-only",
        "--output",
        str(output),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):  # pip may be at work below it
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise RehearsalError(f"the build failed:\n{said.decode(errors='replace')}")
    for name in (site or {}).get("components", {}):
        if name.startswith(TAGS):
            await asyncio.to_thread(_add_package, name, output)


def _add_package(name: str, output: Path) -> None:
    recipes = list((BUILT / "recipes").glob(f"{name}-[0-9]*.yaml"))
    if not recipes:
        raise RehearsalError(
            f"{name} is in the site document and not in {BUILT}: "
            f"make it with scripts/sluice tags package FILE --name {name.removeprefix(TAGS)}"
        )
    for recipe in recipes:
        shutil.copy(recipe, output / "recipes")
    shutil.copytree(BUILT / "artifacts" / name, output / "artifacts" / name)


def picture(rehearsal: Rehearsal, seconds: float) -> Table:
    """What flows now, as a table: what each component says of itself, a line for each connection or destination."""
    title = f"What flows, {seconds:.0f} s"
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1))
    for heading in ("component", "", "state", "samples"):
        table.add_column(heading)
    for kind, plant in (("opcua", rehearsal.plant), ("pi", rehearsal.pi)):
        if plant is not None:
            table.add_row("plant", kind, "producing", f"{plant.samples():,} logged")
    for component, status in sorted(rehearsal.statuses.items()):
        for number, (name, state, counted) in enumerate(flows(component, status)):
            # Text: what a server or a file says is shown as it is, whatever brackets it holds.
            table.add_row(Text("" if number else component), Text(name), Text(state), Text(counted))
    return table


def flows(component: str, status: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, state and counted samples of each connection and stream in a component's status."""
    states = {
        name: f"{state.get('state')}: {state['why']}" if state.get("why") else str(state.get("state"))
        for name, state in status.get("connections", {}).items()
    }
    counts = {
        stream.removeprefix(f"{component}/"): ", ".join(f"{ledger[key]:,} {key}" for key in COUNTED if ledger.get(key))
        for stream, ledger in status.get("ledger", {}).items()
    }
    names = [*states, *(name for name, counted in counts.items() if counted and name not in states)]
    names = [name for name in names if not name.endswith("/events")]
    rows = [(name, states.get(name, ""), counts.get(name) or "none yet") for name in names]
    return rows or [("", str(status.get("state", "?")), "")]


def say(text: str) -> None:
    """One line of progress, as it is: not wrapped, and whatever brackets it holds."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def arrived(rehearsal: Rehearsal, expected: int) -> str:
    """How far the destinations are."""
    return ", ".join(f"{name} {count:,}" for name, count in rehearsal.arrived.items()) + f" of {expected:,}"


def show(report: dict[str, Any], judge: str) -> None:
    """The report as a table for a person."""
    table = Table(
        title=f"What arrived, judged by {judge}", title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1)
    )
    columns = ("delivered", "filtered", "lost", "duplicated", "raw_repeats", "wrong", "unexpected")
    shown = [name for name in columns if all(name in counts for counts in report["destinations"].values())]
    table.add_column("destination", no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for name, counts in report["destinations"].items():
        table.add_row(name, *(f"{counts[column]:,}" for column in shown))
    console.print(table)
    say(f"produced {report['produced']:,}, excluded {report['excluded']}")
    if not report["produced"]:
        for line in why_nothing(report.get("status", {})):
            say(line)
    for name, why in report.get("exclusions", {}).items():
        say(f"{name}: left out: {json.dumps(why)}")
    latency = report.get("latency_ms", {})
    if latency.get("p50") is not None:
        say(f"source to accepted append: p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    for name, counts in report["destinations"].items():
        for finding in ("first_lost", "first_duplicated", "first_wrong", "first_unexpected"):
            if finding in counts:
                say(f"{name}: {finding.replace('_', ' ')}: {json.dumps(counts[finding])}")
    for name, used in report["components"].items():
        say(f"{name}: {used['rss_mb']:.0f} MB, {used['cpu_s']:.1f} s of CPU")


def why_nothing(statuses: dict[str, Any]) -> list[str]:
    """Why no sample came, as the components told it: each connection with a trouble, and each rejected entry."""
    lines = []
    for component, status in sorted(statuses.items()):
        for name, told in status.get("connections", {}).items():
            if told.get("why"):
                lines.append(
                    f"{component} {name}: {told['state']}: {told['why']}: {told.get('remedy', '')}".rstrip(": ")
                )
        rejected = status.get("config", {}).get("rejected", ())
        lines += [f"{component} {entry['path']} {entry['problem']}: {entry['remedy']}" for entry in rejected]
    return lines or ["no connection tells a trouble: let it flow for longer (--seconds)"]


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


def states(rehearsal: Rehearsal) -> str:
    """The components' states in a line, the first of them in a plain word."""
    words = {"NEW": "installing"}
    return ", ".join(
        f"{name.rpartition('.')[2]} {words.get(component.state, component.state.lower())}"
        for name, component in rehearsal.core.components().items()
    )


def above_zero(value: float | None) -> float | None:
    """A number for which "per second" or "for seconds" has a meaning."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} is not above 0")
    return value


def known_profile(value: str) -> str:
    """A nucleus that there is a stand-in for."""
    if value not in ("classic", "lite"):
        raise typer.BadParameter(f"{value} is neither classic nor lite")
    return value


def known_sources(value: str) -> str:
    """Kinds of sources that the simulated plant has."""
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in COLLECTORS:
            raise typer.BadParameter(f"{name} is none of {', '.join(COLLECTORS)}")
    return ",".join(dict.fromkeys(names))


def new_file(value: Path | None) -> Path | None:
    """A file that can be written when it is time, known before minutes are spent."""
    if value is None:
        return None
    if value.is_dir():
        raise typer.BadParameter(f"{value} is a folder; give a file")
    if not value.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {value.absolute().parent}; make it, or give another")
    if not os.access(value if value.exists() else value.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"{value} cannot be written by this user")
    return value


def new_folder(value: Path | None) -> Path | None:
    """A folder in which nothing is overwritten."""
    if value is None:
        return None
    try:
        value.mkdir(parents=True, exist_ok=True)
        if any(value.iterdir()):
            raise typer.BadParameter(f"{value} is not empty; give a new folder")
        if not os.access(value, os.W_OK):
            raise typer.BadParameter(f"{value} cannot be written by this user")
    except OSError as error:
        raise typer.BadParameter(f"{value} cannot be made: {error.strerror}") from error
    return value.absolute()


def conclude(work: Callable[[Path], int], keep: Path | None, prefix: str, problem: str) -> NoReturn:
    """Do the work in a folder, `keep` or a temporary one, say why when it cannot be done, and exit with its status.

    The folder stays when it was asked for, and when the work failed: whoever looks for the reason needs it.
    """
    root = keep
    status = 1
    try:
        root = keep or Path(tempfile.mkdtemp(prefix=prefix))
        status = work(root)
    except Interrupted as interrupted:
        status = 128 + interrupted.number
        say(f"ended by {interrupted}: nothing was judged")
    except TROUBLE as error:
        say(f"{problem}: {error}")
    finally:
        if root is not None:
            if keep is None and status != 1:
                shutil.rmtree(root, ignore_errors=True)
            else:
                say(f"logs and data are in {root}")
    raise typer.Exit(status)
