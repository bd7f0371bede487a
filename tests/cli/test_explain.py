"""sluice explain: the same words whether the server was asked or not; it leaves nothing behind on the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.app import make_app
from cli.output import Failure

from .opc_server import URI, Plant, plant

NODE = f"nsu={URI};s="


@pytest.fixture(scope="module")
def server() -> Iterator[Plant]:
    with plant() as made:
        yield made


def site(folder: Path, endpoint: str, **settings: Any) -> Path:
    connection = {
        "endpoint": endpoint,
        "security": {"policy": "None"},
        "publishingInterval": "100ms",
        "groups": {"slow": {"mode": "poll", "pollInterval": "2s"}, "short": {"queueSize": 5, "samplingInterval": "1s"}},
        "tags": {
            **{f"Plant/T{number}": {"node": f"{NODE}T{number}"} for number in range(4)},
            "Plant/T4": {"node": f"{NODE}T4", "group": "slow"},
            "Plant/T5": {"node": f"{NODE}T5", "group": "short"},
        },
        **settings,
    }
    document = {
        "components": {
            "io.sluice.OpcUaCollector": {"configurationUpdate": {"merge": {"connections": {"line1": connection}}}}
        }
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(make_app(), ["explain", *map(str, arguments)])


def told(*arguments: Any) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_a_plan_needs_no_server(tmp_path: Path) -> None:
    report = told(site(tmp_path, "opc.tcp://127.0.0.1:1"), "line1", "--plan-only", "--outage", "60s")
    assert (report["subscriptions"], report["monitored_items"], report["polled_nodes"]) == (2, 5, 1)
    assert report["groups"]["short"]["outage"]["lost_per_tag_at_most"] == 55
    assert report["groups"]["slow"]["outage"]["lost_values_at_most"] == 30
    assert report["groups"]["(connection)"]["outage"]["lost_values_at_most"] == 0
    assert report["outage"]["lost_values_at_most"] == 85
    assert report["values_per_s_at_most"] == 4 / 0.1 + 1 / 1 + 1 / 2
    assert any("computed from the document" in note for note in report["notes"])


def test_a_probe_tells_what_the_server_made_of_it_and_leaves_nothing_there(server: Plant, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    report = told(site(tmp_path, server.endpoint), "line1", "--outage", "60s", "--pki", pki)
    assert (report["subscriptions"], report["monitored_items"], report["polled_nodes"]) == (2, 5, 1)
    assert report["session"]["policy"] == "None/None"
    assert report["groups"]["(connection)"]["publishing_interval_s"] == 0.1
    assert report["limits"]["read"] >= 1
    assert "bad_tags" not in report
    assert server.open_subscriptions() == 0
    assert pki.stat().st_mode & 0o777 == 0o700


def test_tags_that_the_server_does_not_have_are_named_with_the_reason(server: Plant, tmp_path: Path) -> None:
    tags = {"Good": {"node": f"{NODE}T1"}, "Gone": {"node": f"{NODE}nope"}, "Strange": {"node": "nsu=urn:other;s=x"}}
    tags["Polled"] = {"node": f"{NODE}also-not", "group": "slow"}
    path = site(tmp_path, server.endpoint, tags=tags)
    report = told(path, "line1", "--pki", tmp_path / "pki")
    assert report["bad_tags"]["count"] == 3
    assert set(report["bad_tags"]["some"]) == {"Gone", "Strange", "Polled"}
    assert "does not exist on the server" in report["bad_tags"]["some"]["Gone"]
    assert "names the namespace urn:other" in report["bad_tags"]["some"]["Strange"]
    assert report["monitored_items"] == 1
    shown = run(path, "line1", "--pki", tmp_path / "pki").stdout
    assert "3 tags with something wrong" in shown


def test_a_server_that_is_not_there_is_told_in_the_words_of_the_status(tmp_path: Path) -> None:
    failure = run(site(tmp_path, "opc.tcp://127.0.0.1:1"), "line1", "--pki", tmp_path / "pki").exception
    assert isinstance(failure, Failure)
    assert str(failure).startswith("line1: endpoint opc.tcp://127.0.0.1:1 refuses the connection: see that")
    assert failure.status == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("line2",), "'line2' is no connection of the document: use one of: line1; did you mean line1?"),
        (("line1", "--outage", "soon"), "--outage soon is not a duration: write a number with a unit"),
        (("line1", "--outage", "0s"), "--outage 0s: use more than 0"),
        (("line1", "--password-file", "/nowhere"), "line1 is read anonymously: name a user as well"),
    ],
)
def test_a_wrong_call_is_told_with_the_remedy(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    failure = run(site(tmp_path, "opc.tcp://127.0.0.1:1"), *arguments, "--pki", tmp_path / "pki").exception
    assert isinstance(failure, Failure)
    assert text in str(failure)


def test_a_secret_that_only_the_gateway_can_read_is_asked_for_as_a_file(tmp_path: Path) -> None:
    path = site(tmp_path, "opc.tcp://127.0.0.1:1", user={"name": "operator", "password": {"secret": "plant"}})
    failure = run(path, "line1", "--pki", tmp_path / "pki").exception
    assert "the secret plant is read by the gateway alone" in str(failure)
    word = tmp_path / "word"
    word.write_text("hunter2")
    word.chmod(0o644)
    failure = run(path, "line1", "--pki", tmp_path / "pki", "--password-file", word).exception
    assert "can be read by others" in str(failure)
    assert "hunter2" not in str(failure)


def test_a_folder_of_trust_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    pki.mkdir()
    pki.chmod(0o777)
    failure = run(site(tmp_path, "opc.tcp://127.0.0.1:1"), "line1", "--pki", pki).exception
    assert "others may write to it" in str(failure)
