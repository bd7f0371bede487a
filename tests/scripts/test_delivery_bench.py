"""What delivery adds to encoding is measured and judged: CPU per value, and bytes that reach the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.alone
def test_delivery_adds_less_than_a_microsecond_and_three_times_the_bytes_per_value(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    report.write_text('{"ok": true, "decoder": []}')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / of) for of in ("shared", "scripts"))}
    done = subprocess.run(
        [sys.executable, "-m", "delivery_bench", "--json", report, "--rounds", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    figures = json.loads(report.read_text())
    assert figures["ok"] is True
    assert figures["decoder"] == []
    assert [case["case"] for case in figures["delivery"]] == ["classic", "lite, all replayed"]
    for case in figures["delivery"]:
        assert 0 < case["encode_us"] < case["delivered_us"]
        assert case["added_us"] < 1.0
        # all of it got to a disk, and not much more often than once
        assert case["payload_bytes"] < case["written_bytes"] <= 3 * case["payload_bytes"]
