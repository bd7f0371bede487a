"""`scripts/bench` measures the decoder beside stock asyncua on the same notifications, and fails below ten times."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.alone
def test_the_decoder_is_at_least_ten_times_cheaper_per_value_than_stock_asyncua(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    command: list[str | Path] = [ROOT / "scripts" / "bench", "--json", report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    cases = {case["case"]: case for case in json.loads(report.read_text())["decoder"]}
    for name in ("doubles", "plant mix"):
        assert cases[name]["required"] == 10.0
        assert cases[name]["stock_us"] >= 10 * cases[name]["ours_us"] > 0, cases[name]
