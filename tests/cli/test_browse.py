"""sluice browse: what a server has becomes a tag table that the collector takes as it is."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner, Result

from cli.app import make_app
from cli.browse import register
from cli.output import Failure
from opcua_collector.address_space.address import parse_node_id
from opcua_collector.address_space.references import OBJECT, VARIABLE, Reference, pack
from opcua_collector.address_space.space import ROOT, Space, file_of, save
from opcua_collector.tags import parse
from plant.process import PlantProcess
from plant.tags import tags as plant_tags

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantProcess]:
    async with PlantProcess(tmp_path_factory.mktemp("plant"), rate=100, units=2) as started:
        yield started


def run(*arguments: str | Path) -> Result:
    app = make_app()
    if not any(command.name == "browse" for command in app.registered_commands):
        register(app)
    return CliRunner().invoke(app, ["browse", *map(str, arguments)])


async def browse(*arguments: str | Path) -> Result:
    return await asyncio.to_thread(run, *arguments)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def why(result: Result) -> str:
    assert isinstance(result.exception, Failure), (result.output, result.exception)
    return str(result.exception)


def document(folder: Path, **connection: Any) -> Path:
    path = folder / "site.yaml"
    merge = {"connections": {"line1": {"security": {"policy": "None"}, **connection}}}
    path.write_text(
        yaml.safe_dump({"components": {"io.sluice.OpcUaCollector": {"configurationUpdate": {"merge": merge}}}})
    )
    return path


async def test_every_variable_of_a_server_is_a_row_that_the_collectors_reader_takes(
    plant: PlantProcess, tmp_path: Path
) -> None:
    table = tmp_path / "tags.csv"
    result = await browse(plant.endpoint, "--policy", "None", "--output", table, "--filter", "/Plant/**")
    assert result.exit_code == 0, result.output
    parsed = parse(table.read_bytes(), (), "tags.csv")
    assert (parsed.problems, parsed.warnings) == ((), ())
    assert {tag.node for tag in parsed.tags.values()} == {tag.node for tag in plant_tags(2)}
    checked = CliRunner().invoke(make_app(), ["tags", "check", str(table), "--json"])
    told = json.loads(checked.stdout)
    assert (told["errors"], told["warnings"]) == (0, 0)


async def test_the_rows_say_what_an_engineer_chooses_by(plant: PlantProcess) -> None:
    result = await browse(plant.endpoint, "--policy", "None", "--filter", "/Plant/Unit1/Feed/*")
    assert result.exit_code == 0, result.output
    by_tag = {row["tag"]: row for row in rows(result.stdout)}
    known = next(tag for tag in plant_tags(1) if tag.path.endswith("XMEAS01_AFeed"))
    row = by_tag["Plant/Unit1/Feed/XMEAS01_AFeed"]
    assert (row["node"], row["unit"], row["kind of value"]) == (known.node, known.unit, "Double")
    assert all(name.startswith("Plant/Unit1/Feed/") for name in by_tag)
    assert "EURange" not in result.stdout


async def test_a_site_document_gives_the_connection_and_its_filters(plant: PlantProcess, tmp_path: Path) -> None:
    select = {"state": {"path": "/Plant/*/State/*", "prefix": "L1/", "asset": "site/area"}}
    path = document(tmp_path, endpoint=plant.endpoint, select=select)
    result = await browse(path, "line1", "--select", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    names = sorted(row["tag"] for row in told["tags"])
    assert names == [f"L1/Plant/Unit{unit}/State/{name}" for unit in (1, 2) for name in ("Phase", "Row", "Running")]
    assert {row["asset"] for row in told["tags"]} == {"site/area"}
    assert (told["connection"], told["count"], told["problems"]) == ("line1", 6, [])


async def test_depth_bounds_what_is_looked_at(plant: PlantProcess) -> None:
    result = await browse(plant.endpoint, "--policy", "None", "--depth", "2", "--json")
    assert result.exit_code == 1  # no variable is so near to the top
    assert json.loads(result.stdout)["count"] == 0
    deep = await browse(plant.endpoint, "--policy", "None", "--depth", "4", "--json")
    assert json.loads(deep.stdout)["count"] == 110


async def test_a_filter_that_fits_nothing_says_what_there_is(plant: PlantProcess) -> None:
    result = await browse(plant.endpoint, "--policy", "None", "--filter", "/Plant/Unit3/**")
    assert result.exit_code == 1
    assert "did you mean /Plant/Unit" in result.stderr


async def test_a_server_that_nobody_trusts_yet_is_refused_until_it_is_told_to(
    plant: PlantProcess, tmp_path: Path
) -> None:
    pki = tmp_path / "pki"
    refused = await browse(plant.endpoint, "--pki", pki)
    assert "trust" in why(refused)
    assert "--trust-first-use" in why(refused)
    result = await browse(plant.endpoint, "--pki", pki, "--trust-first-use", "--filter", "/Plant/Unit1/State/*")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(rows(result.stdout)) == 3
    again = await browse(plant.endpoint, "--pki", pki, "--filter", "/Plant/Unit1/State/*")
    assert again.exit_code == 0, (again.output, again.exception)
    assert oct(pki.stat().st_mode)[-3:] == "700"


async def test_a_server_that_is_away_is_in_the_way_and_not_wrong() -> None:
    failed = (await browse("opc.tcp://127.0.0.1:1/x", "--policy", "None")).exception
    assert isinstance(failed, Failure)
    assert failed.status == 3
    assert "refuses the connection" in str(failed)


async def test_what_the_collector_has_last_seen_is_shown_without_a_server(tmp_path: Path) -> None:
    space = Space(["http://opcfoundation.org/UA/", "urn:plant"], mark="opc.tcp://x")
    none = b""
    plant = space.add(ROOT, Reference(pack(parse_node_id("s=P"), 1), 1, "Plant", OBJECT, none))
    space.add(plant, Reference(pack(parse_node_id("s=T"), 1), 1, "Temp", VARIABLE, none))
    save(file_of(tmp_path / "space", "line1"), space)
    path = document(tmp_path, endpoint="opc.tcp://127.0.0.1:1/x")
    result = run(path, "line1", "--from-cache", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == "tag,node\nPlant/Temp,nsu=urn:plant;s=T\n"
    assert "holds no address space" in why(run(path, "line1", "--from-cache", tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["opc.tcp://x:1", "line1"], "a server has no connections"),
        (["site.yaml"], "which connection?"),
        (["site.yaml", "line2"], "is no connection of the document"),
        (["site.yaml", "line1", "--user", "me"], "the site document has its own"),
        (["site.yaml", "line1", "--select"], "has no filters"),
        (["site.yaml", "line1", "--filter", "Plant"], "does not begin with /"),
        (["site.yaml", "line1", "--output", "site.yaml"], "exists already"),
        (["opc.tcp://x:1", "--from-cache", "."], "name a site document"),
    ],
)
async def test_what_cannot_be_meant_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    document(tmp_path, endpoint="opc.tcp://127.0.0.1:1/x")
    monkeypatch.chdir(tmp_path)
    assert words in why(run(*arguments))


async def test_a_password_from_the_cloud_cannot_be_had_here_and_that_is_said(tmp_path: Path) -> None:
    user = {"name": "operator", "password": {"secret": "plant"}}
    path = document(tmp_path, endpoint="opc.tcp://127.0.0.1:1/x", user=user)
    assert "put it into a file of mode 0600" in why(await browse(path, "line1"))
