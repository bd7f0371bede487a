"""What can be said of a configuration without a server: what is wrong, and what is probably a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pi_collector.checks import check, selections, warnings
from pi_collector.config import Configuration
from sluice.config import load

TAGS = {"T": {"point": "SINUSOID"}}
READER = {"name": "reader", "password": {"file": "p"}}


def configured(**settings: Any) -> Configuration:
    raw = {"connections": {"pi": {"url": "https://pi/piwebapi", "tags": TAGS, **settings}}}
    loaded = load(Configuration, raw)
    assert not loaded.problems
    config = loaded.config
    assert isinstance(config, Configuration)
    return config


def wrong(folder: Path, **settings: Any) -> list[str]:
    return [problem.path for problem in check(configured(**settings), folder)]


def suspicious(folder: Path, **settings: Any) -> list[str]:
    return [f"{problem.path} {problem.problem}" for problem in warnings(configured(**settings), folder)]


def test_nothing_is_wrong_with_the_shortest_configuration(tmp_path: Path) -> None:
    assert not wrong(tmp_path)
    assert not suspicious(tmp_path)


def test_secrets_are_not_sent_where_others_can_read_them(tmp_path: Path) -> None:
    http = "http://pi/piwebapi"
    assert wrong(tmp_path, url=http, user=READER) == ["connections.pi.allowUnencrypted"]
    assert wrong(tmp_path, failOver=[http], user=READER) == ["connections.pi.allowUnencrypted"]
    key = {"X-Api-Key": {"secret": {"secret": "k"}}}
    assert wrong(tmp_path, url=http, headers=key) == ["connections.pi.allowUnencrypted"]
    asked = {"tokenUrl": "http://id/token", "clientId": "a", "clientSecret": {"file": "p"}}
    assert wrong(tmp_path, bearer=asked) == ["connections.pi.bearer.tokenUrl"]
    assert not wrong(tmp_path, url=http, user=READER, allowUnencrypted=True)
    assert not wrong(tmp_path, url=http)  # nothing secret is sent
    assert not wrong(tmp_path, url=http, headers={"X-Site": {"value": "a"}})


def test_groups_that_are_none_are_told(tmp_path: Path) -> None:
    found = wrong(tmp_path, tags={"T": {"point": "A", "group": "x"}}, select={"s": {"name": "A*", "group": "y"}})
    assert found == ["connections.pi.tags.T.group", "connections.pi.select.s.group"]


def test_a_table_that_only_the_device_can_have_is_not_missed(tmp_path: Path) -> None:
    assert not wrong(tmp_path, tagsPackage="site-a", tagsFile="/etc/sluice/tags.csv")
    assert wrong(tmp_path, tagsFile="tags.csv") == ["connections.pi.tagsFile"]
    (tmp_path / "tags.csv").write_text("tag,point\nA,B\n", encoding="utf-8")
    assert list(selections(configured(tagsFile="tags.csv"), tmp_path)["pi"].tags) == ["A", "T"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tags": {}}, "connections.pi collects nothing: it has neither tags nor tables nor searches"),
        (
            {"tls": {"allowAnyCertificate": True}},
            "connections.pi.tls.allowAnyCertificate believes every server: anybody on the way can read the password "
            "and change values",
        ),
        (
            {"tls": {"checkHostName": False}},
            "connections.pi.tls.checkHostName believes every server that has a certificate of a trusted authority",
        ),
        (
            {"url": "http://pi/piwebapi", "tls": {"ca": "ca.pem"}},
            "connections.pi.tls has no effect: no address of this connection begins with https:",
        ),
        (
            {"mode": "snapshot", "transport": "updates"},
            "connections.pi.transport has no effect: in mode snapshot the server is polled",
        ),
        (
            {"groups": {"g": {"mode": "summary", "transport": "channel"}}},
            "connections.pi.groups.g.transport has no effect: in mode summary the server is polled",
        ),
        ({"summaries": ["Count"]}, "connections.pi.summaries has no effect in mode recorded"),
        ({"groups": {"g": {"interval": "1m"}}}, "connections.pi.groups.g.interval has no effect in mode recorded"),
        (
            {"overlap": "2h"},
            "connections.pi.reconcile.window is shorter than the overlap (2h), which is read again anyway",
        ),
        (
            {"groups": {"g": {"reconcile": {"window": "30s"}}}},
            "connections.pi.groups.g.reconcile.window is shorter than the overlap (1m), which is read again anyway",
        ),
        (
            {"initial": "30d"},
            "connections.pi.initial is further back than maxBackfill (7d): that is where a point begins",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_probably_a_mistake_is_told(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    assert suspicious(tmp_path, **settings) == [said]


@pytest.mark.parametrize(
    "settings",
    [
        {"transport": "poll", "groups": {"g": {"mode": "snapshot"}}},
        {"mode": "snapshot", "transport": "poll", "groups": {"g": {"mode": "recorded"}}},
        {"summaries": ["Count"], "interval": "1h", "groups": {"g": {"mode": "summary"}}},
        {"overlap": "2h", "reconcile": {"window": 0}},
        {"mode": "snapshot", "overlap": "2h", "initial": "30d"},
        {"initial": "30d", "maxBackfill": "60d"},
    ],
    ids=str,
)
def test_what_a_group_makes_use_of_is_no_mistake(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert not suspicious(tmp_path, **settings)
