"""`scripts/chaos`: refuses wrong arguments in words before anything is built, and judges ledgers strictly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rehearsal.chaos import Options, ledger_problems

SHARED = Path(__file__).resolve().parents[2] / "shared"


def chaos(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SHARED), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-m", "rehearsal.chaos", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--seconds", "30"), "have no room for every fault"),
        (("--rate", "0"), "0 is not above 0"),
        (("--profile", "heavy"), "heavy is neither classic nor lite"),
        (("--away", "-1"), "-1 is not above 0"),
        (("--build", str(SHARED)), "has no recipes/ and artifacts/"),
        (("--trace", str(SHARED)), "has no report.json"),
    ],
)
def test_wrong_arguments_are_refused_in_words_and_leave_nothing(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    done = chaos(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert problem in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rate", "units"), [(10.0, 1), (420.0, 1), (421.0, 2), (2000.0, 5)])
def test_the_plant_has_units_enough_for_ten_rows_a_second(rate: float, units: int) -> None:
    assert Options(60.0, 1, rate, 400.0, "classic", None, None, False).units == units


BALANCED = {"received": 10, "filtered": 1, "stored": 9, "dropped": 0, "acknowledged": 7, "kept": 2}


@pytest.mark.parametrize(
    ("ledger", "problems"),
    [
        (BALANCED, 0),
        (BALANCED | {"received": 12, "in_flight": 2}, 0),
        (BALANCED | {"received": 11}, 1),
        (BALANCED | {"kept": 3}, 1),
        (BALANCED | {"received": 11, "dropped": 1}, 1),
    ],
)
def test_a_producers_ledger_balances_or_is_a_problem(ledger: dict[str, Any], problems: int) -> None:
    statuses = {
        "opcua-collector": {"ledger": {"opcua-collector/line1": ledger, "opcua-collector/line1/events": BALANCED}},
        "stream-exporter": {"ledger": {"lake": {"received": 5, "appended": 3}}},  # a sink's is another sum
    }
    assert len(ledger_problems(statuses, produced=9)) == problems


def test_a_ledger_that_balances_with_itself_and_not_with_the_plants_log_is_a_problem() -> None:
    statuses = {"opcua-collector": {"ledger": {"a/b": BALANCED, "a/b/backfill": BALANCED}}}
    assert ledger_problems(statuses, produced=18) == []
    assert ledger_problems(statuses, produced=17) == [
        "by their ledgers the collectors stored 18 samples; the plant produced 17"
    ]


def test_a_status_without_a_ledger_is_none() -> None:
    assert ledger_problems({"a": {}, "b": {"unreadable": "…"}, "c": {"ledger": None}}, produced=0) == []
