"""One seed of chaos: everything goes wrong that can, and the plant's own log finds each sample everywhere once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest

pytestmark = [pytest.mark.system, pytest.mark.alone]

ROOT = Path(__file__).resolve().parents[2]
POINTS = {"stored", "received", "intent", "appended", "committed", "sealed", "uploaded", "exported"}
POINTS |= {"turn-stored", "checkpoint-stored"}


def test_whatever_goes_wrong_every_sample_arrives_everywhere_once(build: Path, tmp_path: Path) -> None:
    report = tmp_path / "chaos.json"
    command = [ROOT / "scripts" / "chaos", "--seconds", "60", "--seed", "7", "--rate", "1000", "--quiet"]
    command += ["--build", build, "--json", report, "--keep", tmp_path / "run"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-6000:]}"
    found = orjson.loads(report.read_bytes())
    assert found["produced"] >= 60_000
    assert found["excluded"] == 0
    for name, destination in found["destinations"].items():
        assert destination["delivered"] == found["produced"], name
        assert (destination["lost"], destination["duplicated"], destination["wrong"]) == (0, 0, 0), name
    assert found["processed"].keys() == {"kinesis", "s3"}
    for name, made in found["processed"].items():
        assert made["exact"] == made["expected"] > 500, name
        assert (made["lost"], made["doubled"], made["wrong"], made["unexpected"]) == (0, 0, 0, 0), name
    assert {point for point, hits in found["crash_points"].items() if hits} == POINTS
