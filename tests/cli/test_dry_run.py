"""sluice dry-run: a flow over recorded data, before and after."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.app import make_app
from cli.recorded import Recorded

SITE = """
components:
  io.sluice.Preprocessor:
    configurationUpdate:
      merge:
        flows:
          report:
            inputs: {line1: {stream: "opcua-collector/*"}}
            steps:
              gate: {type: quality, numbers: true}
              report: {type: report, absolute: 1, previous: false}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["dry-run", *map(str, arguments)])


def result(*arguments: object) -> dict[str, Any]:
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    told: dict[str, Any] = json.loads(found.stdout)
    return told


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    return path


def rows(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tag", "time", "value", "quality"])
        for second in range(60):
            writer.writerow(["T", f"2026-01-01T00:00:{second:02}Z", second / 10, "GOOD"])
        writer.writerow(["T", "2026-01-01T00:01:00Z", "", "BAD"])
    return path


def test_before_and_after(site: Path, tmp_path: Path) -> None:
    told = result(site, "report", rows(tmp_path / "recorded.csv"))
    # 0, 1.1, 2.2, 3.3, 4.4, 5.5 and the change of quality
    assert (told["before"], told["after"]) == (61, 7)
    assert told["tags"]["T"] == {
        "before": {"samples": 61, "bad": 1, "uncertain": 0, "least": 0.0, "greatest": 5.9},
        "after": {"samples": 7, "bad": 1, "uncertain": 0, "least": 0.0, "greatest": 5.5},
    }
    shown = run(site, "report", tmp_path / "recorded.csv").output
    assert "61 samples before, 7 after" in shown


def test_what_goes_out_can_be_read_again(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result(site, "report", rows(tmp_path / "recorded.csv"), "--out", out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["value"] for line in lines] == [0.0, 1.1, 2.2, 3.3, 4.4, 5.5, None]
    packed = tmp_path / "again.jsonl.gz"
    packed.write_bytes(gzip.compress(out.read_bytes()))
    assert result(site, "report", packed)["after"] == 7


def test_why_is_told_for_one_tag(site: Path, tmp_path: Path) -> None:
    told = result(site, "report", rows(tmp_path / "recorded.csv"), "--tag", "T")
    decisions = told["explained"][0]["decisions"]
    assert decisions
    assert {one["step"] for one in decisions} == {"report"}
    assert {one["what"] for one in decisions} <= {"dropped", "held", "passed"}
    assert "report" in told["explained"][0]["steps"]


def test_a_table_of_columns_and_rows_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("time;A;B\n2026-01-01 00:00:00;1.5;Bad\n2026-01-01 00:00:01.25;;true\nyesterday;1;1\n", "utf-8")
    recorded = Recorded(path)
    found = [(one.tag, one.time % 10**10, one.value) for one in recorded.samples()]
    assert found == [("A", 0, 1.5), ("B", 0, "Bad"), ("B", 1_250_000_000, True)]
    assert recorded.unreadable == 1
    assert "4" in recorded.flaws[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("site.yaml", "reprot", "recorded.csv"), "reprot is no flow that can run: there are report"),
        (("site.yaml", "report", "absent.csv"), "absent.csv: cannot be read"),
        (("site.yaml", "report", "recorded.csv", "--idle", "soon"), "--idle soon"),
        (("site.yaml", "report", "empty.csv"), "is empty"),
    ],
)
def test_what_is_wrong_is_told(site: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    rows(tmp_path / "recorded.csv")
    (tmp_path / "empty.csv").touch()
    found = run(*(tmp_path / one if one.endswith((".csv", ".yaml")) else one for one in arguments))
    assert found.exit_code in (1, 2)
    assert told in str(found.exception)
