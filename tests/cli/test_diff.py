"""sluice diff: what a deployment would change, exactly, and what it takes to take things away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.app import make_app
from cli.difference import ComponentDifference, difference
from cli.document import load
from cli.gateway import merged
from sluice.problem import render

COLLECTOR = "io.sluice.OpcUaCollector"
EXPORTER = "io.sluice.StreamExporter"
LINE1 = {"endpoint": "opc.tcp://10.0.0.5:4840", "publishingInterval": "500ms", "tags": {"A/T": {"node": "ns=2;s=T"}}}


def site(folder: Path, name: str, components: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps({"components": components}))
    return path


def update(merge: dict[str, Any], version: str | None = None, reset: list[str] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"configurationUpdate": {"merge": merge, "reset": reset or []}}
    return entry | ({"componentVersion": version} if version else {})


def between(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> list[ComponentDifference]:
    return difference(load(site(folder, "old.json", old)), load(site(folder, "new.json", new)))


def of_merges(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> ComponentDifference:
    [one] = between(folder, {COLLECTOR: update(old)}, {COLLECTOR: update(new)})
    return one


def test_a_document_does_not_differ_from_itself(tmp_path: Path) -> None:
    site = {COLLECTOR: update({"connections": {"line1": LINE1}})}
    assert between(tmp_path, site, site) == []


def test_each_change_has_its_exact_path_and_both_values(tmp_path: Path) -> None:
    old = {"connections": {"line1": {**LINE1, "asset": "a"}}}
    new = {"connections": {"line1": {**LINE1, "publishingInterval": "1s", "tags": {"A/U": {"node": "ns=2;s=U"}}}}}
    found = of_merges(tmp_path, old, new)
    assert [str(one) for one in found.differences] == [
        "~ connections.line1.publishingInterval: 500ms -> 1s",
        "- connections.line1.tags.A/T",
        '+ connections.line1.tags.A/U: {"node": "ns=2;s=U"}',
        "- connections.line1.asset",
    ]


def test_what_is_removed_needs_a_reset(tmp_path: Path) -> None:
    found = of_merges(tmp_path, {"logLevel": "DEBUG", "connections": {"line1": LINE1}}, {"connections": {}})
    assert found.reset == ("/logLevel", "/connections/line1")


def test_a_pointer_is_escaped_and_those_of_the_document_are_kept(tmp_path: Path) -> None:
    [found] = between(
        tmp_path,
        {COLLECTOR: update({"connections": {"line1": LINE1}})},
        {COLLECTOR: update({"connections": {"line1": {**LINE1, "tags": {}}}}, reset=["/compress"])},
    )
    assert found.reset == ("/compress", "/connections/line1/tags/A~1T")


def test_a_value_that_is_written_otherwise_means_the_same(tmp_path: Path) -> None:
    found = of_merges(
        tmp_path,
        {"connections": {"line1": LINE1}},
        {"connections": {"line1": {**LINE1, "publishingInterval": "0.5s"}}},
    )
    assert [str(one) for one in found.differences] == [
        "~ connections.line1.publishingInterval: 500ms -> 0.5s (means the same)"
    ]


def test_a_configuration_applies_live_on_classic_and_restarts_on_lite(tmp_path: Path) -> None:
    found = of_merges(tmp_path, {"logLevel": "INFO"}, {"logLevel": "DEBUG"})
    assert found.restarts == {"lite": "its configuration changes"}


def test_another_version_restarts_on_both(tmp_path: Path) -> None:
    [found] = between(tmp_path, {COLLECTOR: update({}, "0.1.0")}, {COLLECTOR: update({}, "0.2.0")})
    assert found.versions == ("0.1.0", "0.2.0")
    assert found.restarts == {"classic": "another version", "lite": "another version"}


def test_components_that_come_and_go_are_told(tmp_path: Path) -> None:
    found = between(tmp_path, {COLLECTOR: None}, {EXPORTER: update({"logLevel": "DEBUG"})})
    assert [(one.name, one.kind, one.versions) for one in found] == [
        (COLLECTOR, "removed", ("0.1.0", None)),
        (EXPORTER, "added", (None, "0.1.0")),
    ]


def test_who_depends_on_what_restarts_is_told(tmp_path: Path) -> None:
    """The exporter depends on stream manager, HARD."""
    manager = "aws.greengrass.StreamManager"
    found = between(
        tmp_path,
        {EXPORTER: None, COLLECTOR: None, manager: update({}, "2.2.0")},
        {EXPORTER: None, COLLECTOR: None, manager: update({}, "2.3.1")},
    )
    assert [one.name for one in found] == [manager, EXPORTER]
    assert found[1].restarts == dict.fromkeys(("classic", "lite"), "aws.greengrass.StreamManager is")


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    line1 = {**LINE1, "user": {"name": "o", "password": "hunter2"}}
    found = of_merges(tmp_path, {"connections": {"line1": LINE1}}, {"connections": {"line1": line1}})
    assert "hunter2" not in str(found)


def test_the_deployment_that_is_there_may_be_what_get_deployment_answered(tmp_path: Path) -> None:
    merge = json.dumps({"connections": {"line1": LINE1}})
    old = site(
        tmp_path, "old.json", {COLLECTOR: {"componentVersion": "0.1.0", "configurationUpdate": {"merge": merge}}}
    )
    new = site(tmp_path, "new.json", {COLLECTOR: update({"connections": {"line1": {**LINE1, "asset": "a"}}})})
    result = CliRunner().invoke(make_app(), ["diff", str(old), str(new)])
    assert result.exit_code == 0
    assert result.stdout == (
        "~ io.sluice.OpcUaCollector 0.1.0\n"
        "    + connections.line1.asset: a\n"
        "    restarts on lite: its configuration changes\n"
        "    applies live on classic\n"
    )


def test_the_result_can_be_json(tmp_path: Path) -> None:
    old = site(tmp_path, "old.json", {COLLECTOR: update({"logLevel": "INFO"})})
    new = site(tmp_path, "new.json", {COLLECTOR: update({})})
    [one] = json.loads(CliRunner().invoke(make_app(), ["diff", "--json", str(old), str(new)]).stdout)["components"]
    assert (one["name"], one["reset"]) == (COLLECTOR, ["/logLevel"])
    assert one["differences"] == [
        {"kind": "removed", "path": "logLevel", "old": "INFO", "new": None, "means_nothing": False}
    ]


def test_nothing_changes_is_said(tmp_path: Path) -> None:
    path = site(tmp_path, "site.json", {COLLECTOR: None})
    assert CliRunner().invoke(make_app(), ["diff", str(path), str(path)]).stdout == "nothing changes\n"


_KEYS = st.sampled_from(["a", "b", "c/d", "e~f"])
_MERGES = st.recursive(
    st.dictionaries(_KEYS, st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2), max_size=3),
    lambda inner: st.dictionaries(_KEYS, inner | st.integers(0, 3), max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(_MERGES, _MERGES)
def test_resets_and_merge_lead_from_the_old_configuration_to_the_new(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, Any], new: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    found = between(folder, {"com.example.X": update(old)}, {"com.example.X": update(new)})
    assert bool(found) == (old != new)
    kept: Any = json.loads(json.dumps(old))
    for pointer in found[0].reset if found else ():
        steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
        inside = kept
        for step in steps[:-1]:
            inside = inside[step]
        del inside[steps[-1]]
    assert merged(kept, new) == new
    touched = {one.path for one in found[0].differences} if found else set()
    for key in old.keys() ^ new.keys():
        assert render((key,)) in touched
