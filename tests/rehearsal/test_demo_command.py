"""`scripts/demo`: refuses wrong arguments in words before anything is built, and shows what it is told as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.command import flows, why_nothing

SHARED = Path(__file__).resolve().parents[2] / "shared"


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SHARED), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-m", "rehearsal.demo", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--profile", "heavy"), "heavy is neither classic nor lite"),
        (("--rate", "-5"), "-5 is not above 0"),
        (("--seconds", "0"), "0 is not above 0"),
        (("--json", "nowhere/report.json"), "there is no folder"),
        (("--keep", str(SHARED)), "is not empty"),
        (("--preprocess", "--sources", "pi"), "judges the plant's OPC UA values"),
    ],
)
def test_wrong_arguments_are_refused_in_words_and_leave_nothing(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    done = demo(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr
    assert "building" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_site_document_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path, "--config", "nowhere.yaml")
    assert done.returncode == 1
    assert "nowhere.yaml: cannot be read" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_the_display_joins_a_connection_with_its_stream() -> None:
    status = {
        "state": "running",
        "connections": {"line1": {"state": "running"}, "line2": {"state": "connecting", "why": "refused [/x]"}},
        "ledger": {
            "opcua-collector/line1": {"received": 4820, "filtered": 0, "stored": 4710, "bytes": 44440},
            "opcua-collector/line1/events": {"received": 6},
        },
    }
    assert flows("opcua-collector", status) == [
        ("line1", "running", "4,820 received, 4,710 stored"),
        ("line2", "connecting: refused [/x]", "none yet"),
    ]
    assert flows("opcua-collector", {"state": "starting"}) == [("", "starting", "")]


def test_when_nothing_came_the_components_say_why() -> None:
    away = {"state": "failed", "why": "refuses the connection", "remedy": "see that the server runs"}
    rejected = {"path": "connections.line2.endpoint", "problem": "is required", "remedy": "set it"}
    statuses = {
        "opcua-collector": {
            "connections": {"line1": away, "line3": {"state": "running"}},
            "config": {"rejected": [rejected]},
        }
    }
    assert why_nothing(statuses) == [
        "opcua-collector line1: failed: refuses the connection: see that the server runs",
        "opcua-collector connections.line2.endpoint is required: set it",
    ]
    assert "--seconds" in why_nothing({})[0]
