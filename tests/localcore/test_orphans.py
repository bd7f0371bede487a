"""Nothing is left behind: what a core started ends with it, and Ctrl-C and proxies of its terminal reach no child."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localcore.aws import AwsProcess

SHARED = Path(__file__).resolve().parents[2] / "shared"

CORE = """
import asyncio, sys
from pathlib import Path
from localcore.process import Component
from localcore.profile import CLASSIC
from localcore.recipe import Lifecycle, Recipe, Step

async def ready():
    pass

async def main(root):
    # The shell starts the component as a child of its own: its work is what must not outlive the core.
    step = Step("sleep 600 & echo $! > ../pid.new; mv ../pid.new ../pid; wait", 60.0, dict())
    component = Component(
        Recipe("test.Component", "1.0.0", dict(), (), Lifecycle(), ()),
        Lifecycle(None, step, None), lambda: dict(PATH="/usr/bin:/bin"),
        root / "work", root / "log", CLASSIC, ready,
    )
    component.start(install=False)
    while not (root / "pid").exists():
        await asyncio.sleep(0.01)
    {fault}
    (root / "settled").touch()
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def runs(pid: int) -> bool:
    """Whether the process is there and not only waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(condition: object, what: str, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("fault", ["", "component.stall()"])
def test_a_component_does_not_outlive_a_core_that_is_killed(tmp_path: Path, fault: str) -> None:
    script = CORE.format(fault=fault)
    core = subprocess.Popen([sys.executable, "-c", script, tmp_path], env={**os.environ, "PYTHONPATH": str(SHARED)})
    try:
        until((tmp_path / "settled").exists, "the component runs")
        component = int((tmp_path / "pid").read_text())
        assert runs(component)
    finally:
        core.kill()
        core.wait()
    until(lambda: not runs(component), f"the end of the component's process {component}")


async def test_ctrl_c_in_the_terminal_of_the_core_does_not_reach_the_endpoints(tmp_path: Path) -> None:
    """A terminal signals its whole foreground group: the endpoints must not be in it."""
    aws = AwsProcess(tmp_path, region="us-east-1")
    await aws.start()
    try:
        assert os.getpgid(aws.pid) != os.getpgrp()
    finally:
        await aws.stop()


async def test_a_proxy_for_the_internet_is_not_asked_for_the_endpoints(tmp_path: Path) -> None:
    """On a machine with a proxy, and without NO_PROXY, the local endpoints are still reached."""
    aws = AwsProcess(tmp_path, region="us-east-1")
    await aws.start()
    saved = {name: os.environ.pop(name, None) for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")}
    os.environ["http_proxy"] = os.environ["HTTP_PROXY"] = "http://127.0.0.1:1"
    try:
        await asyncio.to_thread(aws.create_bucket, "lake")
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        await aws.stop()
