"""What the README shows is what there is."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from cli.app import make_app
from cli.settings_table import readme_of, written
from cli.suite import find, members
from opcua_collector.commands import Commands
from sluice.batch import Columns, Header, Series, ValueType, encode
from sluice.command import COMMAND_PREFIX, REPLY_PREFIX, Call, Channel, Command, NoArguments, Origin, State
from sluice.config import ComponentSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("compress", [False, True])
def test_the_lines_that_read_a_batch_read_one(compress: bool) -> None:
    columns = Columns(
        type=ValueType.DOUBLE,
        series=(Series("Reactor/Temp"), Series("Reactor/Level")),
        s=np.array([0, 1, 0] * 50, dtype=np.int32),
        t=np.arange(150, dtype=np.int64) * 1000 + 1_700_000_000_000_000_000,
        value=np.arange(150) / 4,
        quality=np.array([0, 1, 0] * 50, dtype=np.uint8),
    )
    payload = encode(Header("opcua-collector/line1", "9f2c5a0b77d1", 1), columns, compress=compress)
    (lines,) = blocks("python")
    read: list[tuple[Any, ...]] = []
    exec(lines, {"payload": payload, "print": lambda *row: read.append(row)})
    assert read == [(of.tag, of.time, of.value, of.quality) for of in columns.samples()]


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_script_and_heading_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("https://")]
    scripts = re.findall(r"\b(scripts/[a-z.]+[a-z])", text)
    folders = re.findall(r"`((?:components|shared|tests|recipes|examples)/[a-z_/.]*[a-z_])/?`", text)
    assert scripts
    assert [name for name in [*links, *scripts, *folders] if not (ROOT / name).exists()] == []
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"(?m)^#+ (.+)$", text)
    }
    assert [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", text) if anchor not in headings] == []


def policies() -> list[dict[str, Any]]:
    return [document for text in blocks("json") if '"Version"' in text and (document := json.loads(text))]


def test_its_policies_allow_what_the_components_use() -> None:
    """The role has every action that the exporter's page names; the core may hear commands and answer them."""
    role, core = ({entry["Sid"]: entry for entry in policy["Statement"]} for policy in policies())
    exporter = (ROOT / "components" / "stream_exporter" / "README.md").read_text(encoding="utf-8")
    needed = set(re.findall(r"`((?:iotsitewise|kinesis|s3):[A-Za-z]+)`", exporter))
    allowed = {action for entry in role.values() for action in listed(entry["Action"])}
    assert needed
    assert allowed == needed | {"s3:GetObject", "secretsmanager:GetSecretValue"}

    arn = "arn:aws:iot:us-east-1:123456789012:"
    thing = "sluice/gateway-1/"
    command, reply = COMMAND_PREFIX.replace("sluice/", thing), REPLY_PREFIX.replace("sluice/", thing)
    assert f"{arn}topicfilter/{command}*" in core["Subscribe"]["Resource"]
    assert core["HearCommands"]["Resource"] == f"{arn}topic/{command}*"
    assert core["AnswerCommands"]["Resource"] == f"{arn}topic/{reply}*"


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_its_commands_are_accepted_from_the_cloud() -> None:
    """As long as `cloudCommands` is left as it is. Whether a server has the history is another matter."""
    commands = [replace(command, check=lambda _: None) for command in Commands(dict, lambda: None).all()]
    channel = Channel("opcua-collector")
    channel.commands = {command.name: command for command in commands}
    channel.commands |= {"status": Command("status", NoArguments, never, reads=True)}
    channel.allowed = frozenset(ComponentSettings().cloud_commands)
    requests = [text.encode() for text in blocks("json") if '"kind": "command"' in text]
    assert len(requests) == 2
    states = [reply.state for request in requests for _, reply in channel.take(request, Origin.CLOUD).replies]
    assert states == [State.ACCEPTED] * 2


async def never(_: Call[Any]) -> dict[str, Any]:
    raise AssertionError("nothing runs here")


def shown_lines() -> list[list[str]]:
    """The arguments of each call of scripts/sluice that is shown to be typed."""
    lines = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("scripts/sluice ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("arguments", shown_lines(), ids=" ".join)
def test_a_line_that_calls_the_tool_is_understood_by_it(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command, its options and the files that it names exist; what it does is shown by tests/cli."""
    monkeypatch.chdir(ROOT)
    parsed(arguments)


@pytest.mark.parametrize("row", re.findall(r"\| `scripts/sluice ([^`]+)` \|", README))
def test_the_table_of_the_tool_has_its_commands(row: str) -> None:
    """Words in capitals stand for something; the others are the tool's own."""
    words = [word for word in row.replace("[", "").replace("]", "").split() if not word.isupper()]
    command: Any = typer.main.get_command(make_app())
    for word in words:
        if word.startswith("--"):
            assert word in {option for parameter in command.params for option in parameter.opts}, row
        else:
            command = command.commands[word]


def parsed(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(make_app())
    command.commands[arguments[0]].make_context(arguments[0], list(arguments[1:]))


@pytest.mark.parametrize("component", [one.id for one in members().values() if one.settings is not None])
def test_a_components_table_of_settings_is_what_its_models_say(component: str) -> None:
    """`scripts/sluice schema --write` makes them anew."""
    member = find(component)
    assert member.settings is not None
    readme = readme_of(member.package, ROOT).read_text(encoding="utf-8")
    assert written(readme, member.settings) == readme
