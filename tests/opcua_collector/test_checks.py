"""What is wrong with tag tables is told without a device, in the words that the status has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from opcua_collector.checks import check, selections, warnings
from opcua_collector.config import Configuration
from opcua_collector.tags import select
from sluice.config import load


def configuration(**connections: dict[str, Any]) -> Configuration:
    raw = {name: {"endpoint": "opc.tcp://127.0.0.1:4840", **settings} for name, settings in connections.items()}
    loaded = load(Configuration, {"connections": raw})
    assert not loaded.problems
    return loaded.config


def test_the_problems_of_all_connections_come_at_once_in_the_words_of_the_status(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tag,node,units\nT,nope,bar\nU,i=1,\n")
    (tmp_path / "b.csv").write_text("tag,node\n,i=1\n")
    config = configuration(line1={"tagsFile": "a.csv"}, line2={"tagsFile": "b.csv"}, line3={})
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
