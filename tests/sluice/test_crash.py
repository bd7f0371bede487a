"""A process dies at the point, and at the passage, that it was told to, by SIGKILL; without being told, never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice import crash

SHARED = Path(__file__).resolve().parents[2] / "shared"
PASS_ALL_TWICE = """
from sluice import crash
for passage in (1, 2):
    for name in sorted(crash.POINTS):
        print(name, passage, flush=True)
        crash.point(name)
"""


def run(wanted: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SHARED)}
    environment.pop(crash.VARIABLE, None)
    if wanted is not None:
        environment[crash.VARIABLE] = wanted
    return subprocess.run(
        [sys.executable, "-c", PASS_ALL_TWICE], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("wanted", [None, ""])
def test_without_being_told_nobody_dies(wanted: str | None) -> None:
    done = run(wanted)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2 * len(crash.POINTS))


@pytest.mark.parametrize(
    ("wanted", "last"), [("stored", "stored 1"), ("appended:1", "appended 1"), ("received:2", "received 2")]
)
def test_a_process_dies_at_its_point_and_passage(wanted: str, last: str) -> None:
    done = run(wanted)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == last


@pytest.mark.parametrize("wanted", ["store", "stored:0", "stored:x", ":2"])
def test_a_point_that_does_not_exist_is_refused_with_those_that_do(wanted: str) -> None:
    done = run(wanted)
    assert done.returncode == 1
    assert f"SLUICE_CRASH = {wanted!r} is no crash point: use one of appended, checkpoint-stored" in done.stderr
