"""What is wrong with tag tables is told without a device, in the words that the status has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opcua_collector.checks import check, selections, warnings
from opcua_collector.config import Configuration
from opcua_collector.tags import MOST_SUBSCRIBED, select
from sluice.config import load
from sluice.tables import MOST_FLAWS


def configuration(**connections: dict[str, Any]) -> Configuration:
    raw = {name: {"endpoint": "opc.tcp://127.0.0.1:4840", **settings} for name, settings in connections.items()}
    loaded = load(Configuration, {"connections": raw})
    assert not loaded.problems
    return loaded.config


def test_the_problems_of_all_connections_come_at_once_in_the_words_of_the_status(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag,node,units\nT,nope,bar\nU,i=1,\n")
    (tmp_path / "b.csv").write_text("tag,node\n,i=1\n")
    config = configuration(
        line1={"tagsFile": "a.csv"}, line2={"tagsFile": "b.csv"}, line3={"select": {"all": {"path": "/**"}}}
    )
    found = check(config, tmp_path)
    assert [problem.path for problem in found] == [
        "connections.line1.tagsFile.T.node",
        'connections.line2.tagsFile["line 2"]',
    ]
    assert found == [
        problem
        for name, connection in config.connections.items()
        for problem in select(name, connection, tmp_path).problems
    ]
    assert [warning.path for warning in warnings(config, tmp_path)] == ["connections.line1.tagsFile.units"]
    assert list(selections(config, tmp_path)["line1"].tags) == ["U"]


def test_a_table_that_only_the_device_can_have_is_not_missed_here(tmp_path: Path) -> None:
    elsewhere = configuration(line1={"tagsFile": "/etc/sluice/nowhere.csv", "tagsPackage": "site-a"})
    assert not check(elsewhere, tmp_path)
    [problem] = check(configuration(line1={"tagsFile": "beside.csv"}), tmp_path)
    assert "cannot be read" in problem.problem


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag,node\nT,i=1\n")
    check(configuration(line1={"tagsFile": "a.csv"}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_checks_need_neither_an_opc_ua_stack_nor_a_nucleus() -> None:
    code = "import sys, opcua_collector.checks; print([m for m in ('asyncua', 'awscrt', 'awsiot') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    path = f"{root / 'shared'}:{root / 'components'}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]"


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_that_does_not_exist_is_told_with_the_nearest_and_its_tags_are_collected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag,node,group\nU,i=1,fsat\nV,i=1,slow\n")
    node = {"node": "ns=2;s=x"}
    config = configuration(
        line1={
            "groups": {"fast": {"publishingInterval": "100ms"}, "slow": {"mode": "poll"}},
            "tags": {"T": {**node, "group": "Fast"}, "S": {**node, "group": "slow"}},
            "select": {"all": {"path": "/**", "group": "none"}},
            "tagsFile": "a.csv",
        },
        line2={"tags": {"T": {**node, "group": "fast"}}},
    )
    own = "(it is collected as the connection's own settings say)"
    assert sorted(map(str, check(config, tmp_path))) == [
        f'connections.line1.select.all.group = "none" is no group of this connection: use one of: fast, slow {own}',
        f'connections.line1.tags.T.group = "Fast" is no group of this connection: use one of: fast, slow; did you mean '
        f"fast? {own}",
        f'connections.line1.tagsFile.U.group = "fsat" is no group of this connection (line 2 of a.csv): use one of: '
        f"fast, slow; did you mean fast? {own}",
        f'connections.line2.tags.T.group = "fast" is no group of this connection: write the group below the '
        f"connection's groups, or leave it out {own}",
    ]
    assert list(selections(config, tmp_path)["line1"].tags) == ["U", "V", "T", "S"]


def test_strange_groups_of_many_tags_are_counted_after_the_first(tmp_path: Path) -> None:
    tags = {f"T{number}": {"node": "ns=2;s=x", "group": "fast"} for number in range(MOST_FLAWS + 7)}
    found = check(configuration(line1={"tags": tags}), tmp_path)
    assert len(found) == MOST_FLAWS + 1
    assert found[-1].problem == "name no group in 7 more places"


@pytest.mark.parametrize(("mode", "refused"), [("subscribe", True), ("poll", False)])
def test_more_subscriptions_than_a_server_is_likely_to_grant_are_told(mode: str, refused: bool, tmp_path: Path) -> None:
    groups = {f"g{number}": {"mode": mode} for number in range(MOST_SUBSCRIBED)}
    tags = {f"T{number}": {"node": "ns=2;s=x", "group": group} for number, group in enumerate(groups)}
    assert not check(configuration(line1={"groups": {**groups, "unused": {}}, "tags": tags}), tmp_path)
    tags["own"] = {"node": "ns=2;s=x"}
    found = check(configuration(line1={"groups": groups, "tags": tags}), tmp_path)
    assert bool(found) == refused
    for problem in found:
        assert str(problem).startswith("connections.line1.groups makes 17 subscriptions of one connection, and 16 are")


def test_a_connection_that_collects_nothing_is_a_warning(tmp_path: Path) -> None:
    some = configuration(
        line1={}, line2={"select": {"all": {"path": "/**"}}}, line3={"tagsPackage": "site-a"}, line4={"tags": {}}
    )
    assert [str(warning) for warning in warnings(some, tmp_path)] == [
        f"connections.{name} collects nothing: it has neither tags nor tables nor filters: give it tags, tagsFile, "
        f"tagsPackage or select"
        for name in ("line1", "line4")
    ]


def test_a_password_that_anyone_could_read_is_told_before_it_is_deployed(tmp_path: Path) -> None:
    user = {"name": "operator", "password": {"file": "password"}}
    tags = {"T": {"node": "i=1"}}
    bare = {"security": {"policy": "None"}, "tags": tags}
    config = configuration(
        line1={**bare, "user": user},
        line2={**bare, "user": {**user, "allowUnencrypted": True}},
        line3={"user": user, "tags": tags},
        line4={**bare, "user": {"name": "operator"}},
    )
    assert list(map(str, check(config, tmp_path))) == [
        "connections.line1.user.password is not sent, because the channel has no protection (security.policy None) and "
        "anyone could read it: set security.policy to auto, or set user.allowUnencrypted to true to send it all the "
        "same (it is tried again; all other connections run on)"
    ]
