"""Tag tables of PI points: their columns, and which tag counts; how tables are read is tested with OPC UA's."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from pi_collector.config import Connection
from pi_collector.tags import COLUMNS, Selection, forget, forget_others, parse, select


def connection(**more: Any) -> Connection:
    return Connection.model_validate({"url": "https://pi/piwebapi", **more})


def points(selection: Selection) -> dict[str, str | None]:
    return {name: tag.path or tag.point for name, tag in selection.tags.items()}


def test_every_setting_of_a_tag_has_a_column(tmp_path: Path) -> None:
    lines = [";".join(COLUMNS), r"Temp;pi;SINUSOID;;degC;site/a;slow", r"Level;;;\\PISRV\CDT158;;;"]
    (tmp_path / "tags.csv").write_text("\n".join(lines), encoding="utf-8")
    found = select("pi", connection(tagsFile="tags.csv", groups={"slow": {}}), tmp_path)
    assert not found.problems
    assert points(found) == {"Temp": "SINUSOID", "Level": "\\\\PISRV\\CDT158"}
    temp = found.tags["Temp"]
    assert (temp.unit, temp.asset, temp.group, temp.setting) == ("degC", "site/a", "slow", "tagsFile")


def test_configuration_goes_before_file_and_file_before_package(tmp_path: Path) -> None:
    work = tmp_path / "io.sluice.PiCollector"
    package = tmp_path / "io.sluice.Tags.site-a"
    work.mkdir()
    package.mkdir()
    (work / "tags.csv").write_text("tag,point\nA,file\nB,file\n", encoding="utf-8")
    (package / "tags.csv").write_text("tag,point\nA,package\nB,package\nC,package\n", encoding="utf-8")
    settings = connection(tagsFile="tags.csv", tagsPackage="site-a", tags={"A": {"point": "configuration"}})
    found = select("pi", settings, work)
    assert points(found) == {"A": "configuration", "B": "file", "C": "package"}
    assert {name: tag.setting for name, tag in found.tags.items()} == {
        "A": "tags",
        "B": "tagsFile",
        "C": "tagsPackage",
    }


def test_a_wrong_row_costs_itself_and_goes_on_as_it_was_last_good(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    settings = connection(tagsFile="tags.csv")
    file.write_text("tag,path\nA,\\\\S\\A\nB,\\\\S\\B\n", encoding="utf-8")
    assert len(select("pi", settings, tmp_path, keep=True).tags) == 2
    file.write_text("tag,path\nA,S/A\nB,\\\\S\\B2\n", encoding="utf-8")
    found = select("pi", settings, tmp_path, keep=True)
    assert points(found) == {"A": "\\\\S\\A", "B": "\\\\S\\B2"}
    assert [(problem.path, problem.line) for problem in found.problems] == [("connections.pi.tagsFile.A.path", 2)]
    [kept] = (tmp_path / "tags").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    file.unlink()
    assert points(select("pi", settings, tmp_path, keep=True)) == points(found)  # a table that is gone costs nothing
    forget_others(["other"], tmp_path)
    assert not list((tmp_path / "tags").iterdir())
    forget("pi", tmp_path)


def test_a_table_without_a_column_for_the_point_is_none(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("tag,node\nA,i=1\n", encoding="utf-8")
    found = select("pi", connection(tagsFile="tags.csv"), tmp_path)
    assert not found.tags
    assert "has no column point or path" in str(found.problems[0])


def test_a_group_that_is_none_is_told_once_with_how_many_rows_name_it(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("tag,point,group\nA,A,slo\nB,B,slo\nC,C,slow\n", encoding="utf-8")
    found = select("pi", connection(tagsFile="tags.csv", groups={"slow": {}}), tmp_path)
    assert len(found.tags) == 3
    [problem] = found.problems
    assert "and 1 more rows name it" in problem.problem
    assert "did you mean slow?" in problem.remedy


def test_a_table_by_itself_is_checked_for_all_connections() -> None:
    found = parse(b"connection,tag,point\npi1,T,A\npi2,T,B\npi1,t,C\n", (), "tags.csv")
    assert list(found.tags) == ["pi1: T", "pi2: T"]
    assert [problem.line for problem in found.problems] == [4]
