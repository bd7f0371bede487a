"""sluice schema: every setting with its meaning, limits and default, out of the models alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import make_app
from cli.document import load
from cli.flow_tests import documents
from cli.output import Failure
from cli.settings_table import BEGIN, END, markdown, settings, undescribed, written
from cli.suite import members

ROOT = Path(__file__).resolve().parents[2]
CONFIGURED = [member for member in members().values() if member.settings is not None]
each = pytest.mark.parametrize("member", CONFIGURED, ids=lambda member: member.id)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(), ["schema", *arguments])


def row(component: str, path: str) -> tuple[str, str, str]:
    member = next(one for one in CONFIGURED if one.id == component)
    assert member.settings is not None
    [found] = [one for one in settings(member.settings) if one.path == path]
    return found.of, found.allowed, found.default


@each
def test_every_setting_has_a_description(member: Any) -> None:
    assert undescribed(member.settings) == []


@pytest.mark.parametrize(
    ("component", "path", "expected"),
    [
        ("opcua-collector", "statusInterval", ("", "duration, 1s to 1h", "`5s`")),
        ("opcua-collector", "outbox.maxSize", ("", "size, 8MB to 2000GB", "`1GB`")),
        ("opcua-collector", "connections", ("", "map, names such as line1", "")),
        ("opcua-collector", "connections.<connection>.endpoint", ("", "text", "required")),
        (
            "opcua-collector",
            "connections.<connection>.security.policy",
            (
                "",
                "`auto` or `None` or `Basic256Sha256` or `Aes128_Sha256_RsaOaep` or `Aes256_Sha256_RsaPss`",
                "`auto`",
            ),
        ),
        ("opcua-collector", "connections.<connection>.tags.<tag>.samplingInterval", ("", "duration, 0 to 1h", "")),
        ("opcua-collector", "connections.<connection>.groups.<group>.queueSize", ("", "whole number or `auto`", "")),
        ("opcua-collector", "connections.<connection>.select.<filter>.path", ("", "text", "required")),
        ("stream-exporter", "sinks.<sink>.type", ("", "`sitewise` or `kinesis` or `s3`", "required")),
        ("stream-exporter", "sinks.<sink>.bucket", ("s3", "text", "required")),
        ("stream-exporter", "sinks.<sink>.priority", ("", "whole number, 1 to 10", "`5`")),
        ("stream-exporter", "sources", ("", "list of text, at most 5", "`[*]`")),
    ],
)
def test_a_setting_is_shown_as_people_write_it(component: str, path: str, expected: tuple[str, str, str]) -> None:
    assert row(component, path) == expected


@each
def test_the_table_is_markdown_of_one_line_a_setting(member: Any) -> None:
    lines = markdown(member.settings).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 2 + len(settings(member.settings))


def test_the_table_stands_between_its_marks_and_nothing_else_changes() -> None:
    model = CONFIGURED[0].settings
    assert model is not None
    once = written(f"# A\n\n{BEGIN}\nold\n{END}\n\nrest\n", model)
    assert once.startswith(f"# A\n\n{BEGIN}\n| Setting |")
    assert once.endswith(f"\n{END}\n\nrest\n")
    assert written(once, model) == once
    with pytest.raises(ValueError, match="has no lines"):
        written("# A\n", model)


# --- JSON Schema ----------------------------------------------------------------------------------------------------


def fits(schema: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that is used here."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "object":
        if not isinstance(value, dict) or not set(schema.get("required", ())) <= set(value):
            return False
        other = schema.get("additionalProperties", True)
        known = schema.get("properties", {})
        return all(
            fits(known[key], inner) if key in known else (fits(other, inner) if isinstance(other, dict) else other)
            for key, inner in value.items()
        )
    if schema["type"] == "array":
        return isinstance(value, list) and all(fits(schema["items"], one) for one in value)
    kinds = {"string": str, "number": (int, float), "integer": int, "boolean": bool, "null": type(None)}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(isinstance(value, kinds[one]) for one in types)  # type: ignore[arg-type]


@pytest.mark.parametrize("example", documents(ROOT / "examples"), ids=lambda path: path.stem)
def test_the_examples_fit_the_schema_and_mistakes_do_not(example: Path) -> None:
    for name, entry in load(example).components.items():
        if name in {member.name for member in CONFIGURED}:
            schema = json.loads(run(name).stdout)
            assert fits(schema, entry.merge)
            assert not fits(schema, {**entry.merge, "no such setting": 1})


@each
def test_the_recipes_defaults_fit_the_schema(member: Any) -> None:
    schema = json.loads(run(member.id).stdout)
    assert schema["title"] == member.name
    assert fits(schema, {key: value for key, value in member.defaults.items() if key != "accessControl"})


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_table_can_be_shown_as_markdown_and_as_json() -> None:
    assert run("stream-exporter", "--markdown").stdout.startswith("| Setting | Of | Meaning | Allowed | Default |\n")
    rows = json.loads(run("stream-exporter", "--markdown", "--json").stdout)["settings"]
    assert rows[0]["path"] == "configVersion"


def test_a_component_that_is_not_there_is_told_with_those_that_are() -> None:
    refused = run("io.sluice.StreamExportr").exception
    assert isinstance(refused, Failure)
    assert str(refused) == (
        "io.sluice.StreamExportr: is no component with settings: did you mean io.sluice.StreamExporter?"
    )
