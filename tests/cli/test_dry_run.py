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
    assert {one["step"] for one in decisions} == {"report", "output"}
    assert {one["what"] for one in decisions} <= {"dropped", "held", "passed", "sent"}
    assert "report" in told["explained"][0]["steps"]
    shown = run(site, "report", tmp_path / "recorded.csv", "--tag", "T").output
    assert "2026-01-01T00:00:55Z 5.5: output: sent, end of the flow" in shown


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


def read(tmp_path: Path, name: str, text: str) -> tuple[list[tuple[str, Any]], list[str]]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    recorded = Recorded(path)
    return [(one.tag, one.value) for one in recorded.samples()], recorded.flaws


def test_tables_of_countries_with_decimal_commas(tmp_path: Path) -> None:
    text = "Tag;Time;Value\nA;2026-01-01 00:00:00;21,5\nA;2026-01-01 00:00:01;1,2,3\nA;2026-01-01 00:00:02;Bad\n"
    assert read(tmp_path, "rows.csv", text)[0] == [("A", 21.5), ("A", "1,2,3"), ("A", "Bad")]
    assert read(tmp_path, "wide.csv", "time\tA\n2026-01-01 00:00:00\t-0,25\n")[0] == [("A", -0.25)]
    assert read(tmp_path, "us.csv", 'time,A\n2026-01-01 00:00:00,"21,5"\n')[0] == [("A", "21,5")]


def test_every_row_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    rows = [
        '{"tag": "A", "value": 1}',
        '{"tag": "A", "time": "01.02.2026 10:00", "value": 1}',
        '{"tag": "A", "time": "9999-01-01T00:00:00Z", "value": 1}',
        '{"tag": "A", "time_ns": 99999999999999999999, "value": 1}',
        '{"tag": "A", "time_ns": 1, "value": [1]}',
        '{"tag": "A", "time_ns": 1, "value": null, "quality": "GOOD"}',
        '{"tag": "A", "time_ns": 1, "value": 1, "quality": "FINE"}',
        "[]",
        "5",
        "not json",
        '{"tag": "A", "time_ns": 1, "value": 18446744073709551615}',
    ]
    found, flaws = read(tmp_path, "x.jsonl", "\n".join(rows))
    assert found == [("A", float(2**64))]
    assert len(flaws) == len(rows) - 1
    assert "x.jsonl:1: is no sample: it has no 'time'" in flaws[0]
    assert "write it like 2026-01-01T00:00:00.250Z" in flaws[1]


def test_a_table_in_another_encoding_or_without_a_time_is_refused_as_a_whole(site: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("tag,time,value\nT\xe4st,2026-01-01T00:00:00Z,1\n".encode("latin-1"))
    assert "save it as CSV UTF-8" in str(run(site, "report", tmp_path / "latin.csv").exception)
    (tmp_path / "when.csv").write_text("tag,when,value\nT,2026-01-01T00:00:00Z,1\n")
    assert "has no column time, but tag, when, value" in str(run(site, "report", tmp_path / "when.csv").exception)


def test_files_of_single_tags_are_gone_through_together_and_rows_out_of_order_are_told(
    site: Path, tmp_path: Path
) -> None:
    def lines(tag: str) -> str:
        return "".join(f"{tag},2026-01-01T00:{minute:02}:00Z,{minute}\n" for minute in range(10))

    for tag in ("A", "B"):
        (tmp_path / f"{tag}.csv").write_text(f"tag,time,value\n{lines(tag)}")
    told = result(site, "report", tmp_path / "A.csv", tmp_path / "B.csv")
    assert (told["before"], told["behind"]) == (20, 0)
    (tmp_path / "both.csv").write_text(f"tag,time,value\n{lines('A')}{lines('B')}")
    assert result(site, "report", tmp_path / "both.csv")["behind"] == 8
    assert "8 samples stand more than a minute behind" in run(site, "report", tmp_path / "both.csv").output


def test_the_same_tag_of_two_assets_is_two_tags(site: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("tag,asset,time,value\nT,P1,2026-01-01T00:00:00Z,1\nT,P2,2026-01-01T00:00:00Z,5\n")
    assert sorted(result(site, "report", tmp_path / "x.csv")["tags"]) == ["P1/T", "P2/T"]


def test_why_a_tag_does_not_arrive(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.replace('"opcua-collector/*"', '"opcua-collector/*", tags: ["A*"]'), encoding="utf-8")
    text = "tag,time,value\n" + "".join(f"{tag},2026-01-01T00:00:01Z,1\n" for tag in ("A1", "B1"))
    (tmp_path / "x.csv").write_text(text)
    assert (
        "B1: comes, and no input of the flow selects it"
        in run(site, "report", tmp_path / "x.csv", "--tag", "B1").output
    )
    asked = run(site, "report", tmp_path / "x.csv", "--tag", "b1").output
    assert "b1: is no tag of these files, did you mean B1?" in asked
