"""A model is read with its tables, everything that is wrong is told at once with its place, and it survives as JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.config import Instance, Model
from preprocessor.models import ResolvedModel, captures, filled, resolve, table


def model(**settings: Any) -> Model:
    """A pump with flow and pressure, and what else is given."""
    members = {"flow": {"unit": "m3/h"}, "pressure": {"optional": True}}
    return Model.model_validate({"members": members, "values": {"nameplate": 10}, **settings})


def told(of: ResolvedModel) -> list[str]:
    return [f"{one.path}: {one.problem}" for one in (*of.problems, *of.rows)]


def from_table(tmp_path: Path, text: str | bytes, **settings: Any) -> ResolvedModel:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "pumps.csv").write_bytes(data)
    return resolve(model(instancesFile="pumps.csv", **settings), "pump", tmp_path)


def test_instances_of_the_configuration_and_of_a_table(tmp_path: Path) -> None:
    text = "instance,asset,flow,pressure,nameplate\np1,site/p1,F1,P1,12.5\np2,site//p2/,F2,,\np3,site/p3,F3,P3,\n"
    of = from_table(tmp_path, text, instances={"p1": {"asset": "plant/p1", "tags": {"flow": "FIC1"}}})
    assert told(of) == []
    assert dict(of.instances) == {
        "p1": Instance(asset="plant/p1", tags={"flow": "FIC1"}),  # the configuration goes before the table
        "p2": Instance(asset="site/p2", tags={"flow": "F2"}),
        "p3": Instance(asset="site/p3", tags={"flow": "F3", "pressure": "P3"}),
    }


@pytest.mark.parametrize(
    "text",
    [
        "instance;asset;flow;nameplate\np1;site/p1;F;1\n".encode("utf-16"),
        "\ufeffInstance\tAsset\tFLOW\tName_Plate\r\np1\tsite/p1\tF\t1\r\n".encode(),
        b'sep=;\r\ninstance;asset;flow;nameplate\r\n"p1";site/p1;F;1\r\n;;;\r\n',
    ],
)
def test_a_table_may_come_from_any_spreadsheet(tmp_path: Path, text: bytes) -> None:
    of = from_table(tmp_path, text)
    assert told(of) == []
    assert dict(of.instances) == {"p1": Instance(asset="site/p1", tags={"flow": "F"}, values={"nameplate": 1.0})}


def test_everything_wrong_with_a_table_is_told_at_once_with_its_lines(tmp_path: Path) -> None:
    rows = [
        "instance,asset,flow,presure,nameplate",
        "p1,site/p1,F1,,1",
        ",site/p2,F2,,1",
        "p1,site/p3,F3,,1",
        'p4,site/p4,F4,,"1,5"',
        "p5,site/p5,F5,,much",
        "p6,site/p6,F1,,1",
        "p7,site/p1,F7,,1",
        "p8,site/p8,,,1",
        "P1,site/p9,F9,,nan",
        "p10,a,b,c,d,e",
    ]
    of = from_table(tmp_path, "\n".join(rows) + "\n")
    assert told(of) == [
        "models.pump.instancesFile line 11: has 6 cells, its header 5 (line 11 of pumps.csv)",
        "models.pump.instancesFile line 3 instance: has no instance (line 3 of pumps.csv)",
        "models.pump.instancesFile line 4 instance: is there a second time, after line 2 (line 4 of pumps.csv)",
        "models.pump.instancesFile line 5 nameplate: has a decimal comma (line 5 of pumps.csv)",
        "models.pump.instancesFile line 6 nameplate: is not a number (line 6 of pumps.csv)",
        "models.pump.instancesFile line 10 instance: is the same name as p1 but for its case, after line 2"
        " (line 10 of pumps.csv)",
        "models.pump.instancesFile line 7 flow: is flow of p1 already (line 7 of pumps.csv)",
        "models.pump.instancesFile line 8 asset: is the asset of p1 already (line 8 of pumps.csv)",
        "models.pump.instancesFile line 9: does not say which tag is flow (line 9 of pumps.csv)",
    ]
    assert [(one.path, one.remedy) for one in of.warnings] == [
        ("models.pump.instancesFile line 1 presure", "did you mean pressure?")
    ]
    assert all(one.remedy and one.file == "pumps.csv" and one.line for one in of.rows)
    assert of.problems == ()
    assert list(of.instances) == ["p1"]
    assert of.left_out == {"p4", "p5", "p6", "p7", "p8", "P1"}


def test_a_row_that_is_wrong_costs_its_instance_alone_and_comes_from_nowhere_else(tmp_path: Path) -> None:
    package = tmp_path / "io.sluice.Tags.site-a"
    package.mkdir()
    (package / "tags.csv").write_text("instance,asset,flow\np1,site/old,F1\np2,site/p2,F2\n")
    folder = tmp_path / "io.sluice.Preprocessor"
    folder.mkdir()
    of = from_table(folder, "instance,asset,flow,nameplate\np1,site/p1,F1,much\n", instancesPackage="site-a")
    assert (list(of.instances), sorted(of.left_out), list(of.problems)) == (["p2"], ["p1"], [])
    assert ResolvedModel.from_json(orjson.loads(orjson.dumps(of.to_json()))) == of


def test_a_table_without_a_good_row_does_not_take_all_instances_away(tmp_path: Path) -> None:
    of = from_table(tmp_path, "instance,asset,flow,nameplate\np1,site/p1,F1,much\n")
    assert [f"{one.path}: {one.problem}" for one in of.problems] == ["models.pump: has no instances left"]
    assert len(of.rows) == 1


def test_a_table_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    of = resolve(model(instancesFile="none.csv"), "pump", tmp_path)
    assert told(of) == ["models.pump.instancesFile: cannot be read: No such file or directory"]
    of = resolve(model(instancesPackage="site-a"), "pump", tmp_path / "me")
    assert told(of) == ["models.pump.instancesPackage: is not installed on this device"]
    assert told(from_table(tmp_path, "PK\x03\x04")) == ["models.pump.instancesFile: is a spreadsheet, not CSV"]
    assert told(from_table(tmp_path, "name,asset\nx,y\n"))[0].startswith(
        "models.pump.instancesFile line 1: has no column instance"
    )


def test_a_package_lies_beside_the_own_work_folder(tmp_path: Path) -> None:
    package = tmp_path / "io.sluice.Tags.site-a"
    package.mkdir()
    (package / "tags.csv").write_text("instance,asset,flow\np1,site/p1,F1\n")
    of = resolve(model(instancesPackage="site-a"), "pump", tmp_path / "io.sluice.Preprocessor")
    assert told(of) == []
    assert list(of.instances) == ["p1"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "models.pump: has no instances"),
        ({"instances": {"p": {"tags": {"flw": "F"}}}}, "models.pump.instances.p.tags.flw: is no member of the model"),
        ({"instances": {"p": {}}}, "models.pump.instances.p: does not say which tag is flow"),
        (
            {"instances": {"p": {"tags": {"flow": "F"}, "values": {"nameplat": 1}}}},
            "models.pump.instances.p.values.nameplat: is no constant of the model",
        ),
        (
            {"members": {"flow": {"match": "*/Flow"}}},
            "models.pump.members.flow.match: does not say which instance a tag belongs to",
        ),
        (
            {"members": {"flow": {"match": "{instance}/Flow"}, "speed": {}}},
            "models.pump.members.speed: has no match, and nothing else says which tag it is",
        ),
        (
            {"members": {"flow": {"match": "{area}/{instance}/Flow"}}, "asset": "site/{aera}/{instance}"},
            "models.pump.asset: has {aera}, which is not captured in the pattern of every member",
        ),
        (
            {"members": {"asset": {"match": "{instance}/A"}}},
            "models.pump.members.asset: is the name of a column of every table of instances",
        ),
        (
            {"members": {"flow": {"match": "{instance}/A"}}, "values": {"Flow": 1}},
            "models.pump.values.Flow: is the name of a member already",
        ),
    ],
)
def test_what_is_wrong_with_a_model_has_its_place(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    of = resolve(model(**settings), "pump", tmp_path)
    assert told(of)[0] == problem
    assert len(told(of)) == 1


def test_a_typing_mistake_comes_with_a_suggestion(tmp_path: Path) -> None:
    of = resolve(model(instances={"p": {"tags": {"flow": "F", "presure": "P"}}}), "pump", tmp_path)
    assert "did you mean pressure?" in of.problems[0].remedy


def test_what_all_patterns_capture_may_be_used() -> None:
    members = {
        "flow": {"match": ["{area}/{instance}/{x}/F", "{area}-{instance}-F"]},
        "p": {"match": "{instance}/{area}"},
    }
    assert captures(Model.model_validate({"members": members})) == ("area",)
    assert filled("site/{area}//{instance}/", {"area": "north", "instance": "p1"}) == "site/north/p1"


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@given(
    st.dictionaries(
        NAMES.filter(lambda name: not name.startswith("sep=")),
        st.tuples(NAMES, st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
        min_size=1,
        max_size=6,
    )
)
def test_a_table_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, given_: dict[str, tuple[str, float | None]]
) -> None:
    folder = tmp_path_factory.mktemp("models")
    instances: dict[str, Instance] = {}
    for number, (name, (tag, value)) in enumerate(given_.items()):
        if name.casefold() in {other.casefold() for other in instances}:
            continue
        values = {} if value is None else {"nameplate": value}
        instances[name] = Instance(asset=f"site/{number}", tags={"flow": f"{number}{tag}"}, values=values)
    before = ResolvedModel("pump", model(), instances)
    out = io.StringIO(newline="")
    csv.writer(out).writerows(table(before))
    after = from_table(folder, out.getvalue())
    assert told(after) == []
    assert dict(after.instances) == instances
    stored = orjson.loads(orjson.dumps(after.to_json()))
    assert ResolvedModel.from_json(stored) == after


def test_a_hundred_thousand_instances_and_no_more(tmp_path: Path) -> None:
    rows = "".join(f"p{i},site/p{i},F{i}\n" for i in range(100_001))
    of = from_table(tmp_path, f"instance,asset,flow\n{rows}")
    assert told(of) == ["models.pump.instances: are more than 100000"]
    assert len(of.instances) == 100_000
