"""Tests of flows beside a site document: what passes, what fails and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import flow_tests
from cli.app import make_app

ROOT = Path(__file__).resolve().parents[2]
SITE = """
components:
  io.sluice.OpcUaCollector:
    configurationUpdate:
      merge:
        connections:
          line1: {endpoint: "opc.tcp://10.0.0.5:4840", asset: site/line1, tags: {T: {node: "ns=2;s=T"}}}
  io.sluice.Preprocessor:
    configurationUpdate:
      merge:
        flows:
          half:
            inputs: {line1: {stream: opcua-collector/line1}}
            steps:
              gain: {type: convert, gain: 0.5}
              limit: {type: alarm, limits: {high: 100}}
  io.sluice.StreamExporter:
    configurationUpdate:
      merge:
        sources: ["preprocessor/*"]
        sinks: {kinesis: {type: kinesis, kinesisStream: plant-data}}
"""


def write(folder: Path, tests: str, site: str = SITE) -> Path:
    path = folder / "site.yaml"
    path.write_text(site, encoding="utf-8")
    (folder / "site.tests.yaml").write_text(tests, encoding="utf-8")
    return path


def check(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["check", *map(str, arguments)])


def texts(result: Result) -> list[str]:
    """What was found, in words."""
    found: dict[str, Any] = json.loads(result.stdout)
    return [one["text"] for file in found["files"] for one in file["findings"] if one["level"] == "error"]


CASE = """
tests:
  half:
    flow: half
    input: [{at: 0s, tag: T, value: 30}]
    output: [{at: 0s, tag: T, value: %s}]
"""


def test_what_passes_is_said(tmp_path: Path) -> None:
    result = check("--run-tests", write(tmp_path, CASE % "15"))
    assert result.exit_code == 0, result.output
    assert "1 test passed, 0 failed" in result.output


def test_without_the_option_nothing_is_run(tmp_path: Path) -> None:
    result = check(write(tmp_path, CASE % "16"))
    assert result.exit_code == 0, result.output
    assert "passed" not in result.output


def test_what_fails_is_told_with_its_line_and_what_went_out(tmp_path: Path) -> None:
    result = check("--run-tests", "--json", write(tmp_path, CASE % "16"))
    assert result.exit_code == 1
    (more, line) = texts(result)
    assert line.startswith("tests.half.output[0] did not go out: the nearest sample has value 15.0")
    assert "T at 0s = 15.0" in line
    assert more.startswith("tests.half.output 1 samples went out that are not expected, first T at 0s = 15")
    found = json.loads(result.stdout)["files"][1]
    assert found["findings"][0]["line"] == 6
    assert found["tests"] == {"passed": 0, "failed": 1}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("{flow: halve, input: [{at: 0s, tag: T, value: 1}]}", 'flow = "halve" is no flow that can run'),
        ("{flow: half, start: today, input: [{at: 0s, tag: T, value: 1}]}", 'start = "today" is no time'),
        ("{flow: half, input: []}", "input"),
        ("{flow: half, inputs: [], input: [{at: 0s, tag: T, value: 1}]}", "inputs"),
        ("{flow: half, input: [{at: soon, tag: T, value: 1}]}", "input[0].at"),
        ("{flow: half, input: [{at: 0s, tag: T, value: 1}], events: [{kind: alarm}]}", "events[0] did not come"),
        ("{flow: half, input: [{at: 0s, tag: T, value: 1}], output: [{tag: U}]}", "nothing of U did"),
    ],
)
def test_every_mistake_has_its_place(tmp_path: Path, case: str, told: str) -> None:
    result = check("--run-tests", "--json", write(tmp_path, f"tests: {{x: {case}}}"))
    assert result.exit_code == 1
    assert any(told in text for text in texts(result)), texts(result)


@pytest.mark.parametrize("expects", ["", "output: [], others: allowed", "until: 1m"])
def test_a_test_that_cannot_fail_fails(tmp_path: Path, expects: str) -> None:
    case = f"{{flow: half, input: [{{at: 0s, tag: T, value: 1}}], {expects}}}"
    result = check("--run-tests", "--json", write(tmp_path, f"tests: {{x: {case}}}"))
    assert result.exit_code == 1
    assert "tests.x expects nothing, so that it cannot fail: give output or events" in texts(result)[0]
    assert check("--run-tests", write(tmp_path, "tests: {}")).exit_code == 1


def test_no_events_means_none(tmp_path: Path) -> None:
    case = "{flow: half, input: [{at: 0s, tag: T, value: %s}], events: []}"
    assert check("--run-tests", write(tmp_path, f"tests: {{x: {case % 1}}}")).exit_code == 0
    result = check("--run-tests", "--json", write(tmp_path, f"tests: {{x: {case % 3000}}}"))
    assert result.exit_code == 1
    assert texts(result)[0].startswith("tests.x.events 1 events came, first of the kind alarm")


def test_what_may_be_anything_leaves_the_others_what_they_mean(tmp_path: Path) -> None:
    given = "input: [{at: 0s, tag: T, value: 2}, {at: 1s, tag: T, value: 4}]"
    case = f"{{flow: half, {given}, output: [{{tag: T}}, {{tag: T, value: 1}}]}}"
    result = check("--run-tests", write(tmp_path, f"tests: {{x: {case}}}"))
    assert result.exit_code == 0, result.output


def test_flows_without_tests_are_told_when_tests_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, CASE % "15")
    path.with_name("site.tests.yaml").unlink()
    assert (
        "warning: flows have no tests that could be run: write some in site.tests.yaml"
        in check("--run-tests", path).output
    )
    assert "no tests" not in check(path).output


def test_a_flow_that_is_refused_fails_its_tests(tmp_path: Path) -> None:
    site = SITE.replace("{type: convert, gain: 0.5}", "{type: convert, to: degX}")
    path = write(tmp_path, CASE % "15", site)
    result = check("--run-tests", "--json", path)
    assert result.exit_code == 1
    assert any(text.startswith("flows.half.steps.gain.to") for text in texts(result)), texts(result)
    assert check(path.with_name("site.tests.yaml")).exit_code == 1


def test_late_samples_events_and_silence(tmp_path: Path) -> None:
    tests = """
tests:
  late ones pass:
    flow: half
    input:
      - {at: 5s, tag: T, value: 2}
      - {at: 1s, arrives: 6s, tag: T, value: 4}
      - {at: 7s, tag: T, value: 300}
    until: 1m
    output:
      - {at: 1s, tag: T, value: 2, quality: good}
      - {at: 5s, tag: T, value: 1}
      - {at: 7s, tag: T}
    events: [{kind: alarm, state: raised}]
"""
    result = check("--run-tests", write(tmp_path, tests))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.tests.yaml")), ids=lambda path: path.stem)
def test_the_examples_pass_their_tests(example: Path) -> None:
    result = check(example)
    assert result.exit_code == 0, result.output
    assert "0 failed" in result.output


def test_every_example_with_a_preprocessor_has_tests() -> None:
    for path in flow_tests.documents(ROOT / "examples"):
        if "io.sluice.Preprocessor" in path.read_text(encoding="utf-8"):
            assert flow_tests.tests_of(path).exists(), path
