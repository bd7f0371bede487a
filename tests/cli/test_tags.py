"""sluice tags: the table an engineer keeps becomes a component, in the same words and by the same rules everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cli.app import make_app
from cli.output import Failure
from cli.recipe_lint import read
from cli.tag_package import normalised
from localcore.profile import PROFILES
from localcore.recipe import load
from opcua_collector.tags import parse
from preprocessor.config import Model
from preprocessor.models import resolve

TABLE = 'Tag;Node;Unit;Remarks\nReactor/Temp;"nsu=urn:x;s=Temp";degC;neu\nKessel/Öl;i=7;;\n'
NAME = "io.sluice.Tags.site-a"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), ["tags", *map(str, arguments)])


def made(*arguments: str | Path) -> Any:
    result = run("package", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tags.csv"
    path.write_text(TABLE, encoding="utf-8-sig")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_package_is_a_recipe_and_the_table_in_one_form(table: Path, tmp_path: Path) -> None:
    told = made(table, "--name", "site-a", "--output", tmp_path / "out")
    assert (told["component"], told["version"], told["tags"], told["changed"]) == (NAME, "1.0.0", 2, True)
    written = files(tmp_path / "out")
    assert set(written) == {f"recipes/{NAME}-1.0.0.yaml", f"artifacts/{NAME}/1.0.0/tags.csv"}
    assert written[f"artifacts/{NAME}/1.0.0/tags.csv"].decode() == (
        "tag,node,unit\nKessel/Öl,i=7,\nReactor/Temp,nsu=urn:x;s=Temp,degC\n"
    )


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_the_recipe_is_one_for_gdk_and_both_nuclei(table: Path, tmp_path: Path, profile: str) -> None:
    recipe = Path(made(table, "--name", "x" * 64, "--output", tmp_path / "out")["recipe"])
    found = load(recipe, PROFILES[profile])
    assert (found.name, found.version) == (f"io.sluice.Tags.{'x' * 64}", "1.0.0")
    assert not [str(finding) for finding in read(recipe)]


def test_the_same_tags_are_the_same_version_and_others_the_next(table: Path, tmp_path: Path) -> None:
    package = (table, "--name", "site-a", "--output", tmp_path / "out")
    made(*package)
    before = files(tmp_path / "out")
    header, first, second = TABLE.splitlines()
    table.write_text("\r\n".join((header, second, first)), encoding="utf-16")  # sorted, and saved otherwise
    told = made(*package)
    assert (told["version"], told["changed"]) == ("1.0.0", False)
    assert files(tmp_path / "out") == before
    table.write_text(TABLE.replace("i=7", "i=8"))
    told = made(*package)
    assert (told["version"], told["changed"]) == ("1.0.1", True)
    assert set(files(tmp_path / "out")) == {f"recipes/{NAME}-1.0.1.yaml", f"artifacts/{NAME}/1.0.1/tags.csv"}


def test_two_builds_are_identical(table: Path, tmp_path: Path) -> None:
    made(table, "--name", "site-a", "--output", tmp_path / "a")
    made(table, "--name", NAME, "--output", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_packages_of_other_names_and_components_are_left_alone(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(table, "--name", "site-a.b", "--output", out)
    made(table, "--name", "site-a", "--output", out)
    table.write_text(TABLE.replace("i=7", "i=8"))
    made(table, "--name", "site-a", "--output", out)
    assert f"recipes/{NAME}.b-1.0.0.yaml" in files(out)
    assert f"artifacts/{NAME}.b/1.0.0/tags.csv" in files(out)


def test_a_table_of_instances_is_a_package_for_a_model(table: Path, tmp_path: Path) -> None:
    table.write_text(
        "sep=;\nInstance;Remarks;Flow;asset;Tag\np2;;F2;site/p2;\np1;old;F1;site/p1;X\n", encoding="utf-8-sig"
    )
    made(table, "--name", "site-a", "--output", tmp_path / "io.sluice.Tags.site-a")
    (written,) = (tmp_path / "io.sluice.Tags.site-a").rglob("tags.csv")
    assert written.read_text() == "instance,asset,Remarks,Flow,Tag\np1,site/p1,old,F1,X\np2,site/p2,,F2,\n"
    written.rename(tmp_path / "io.sluice.Tags.site-a" / "tags.csv")
    members: dict[str, Any] = {"flow": {}, "tag": {"optional": True}}
    model = Model.model_validate({"members": members, "instancesPackage": "site-a"})
    of = resolve(model, "pump", tmp_path / "io.sluice.Preprocessor")
    assert (list(of.problems), list(of.rows)) == ([], [])
    assert of.instances["p1"].tags == {"flow": "F1", "tag": "X"}


def test_a_table_of_instances_with_mistakes_makes_no_package(table: Path, tmp_path: Path) -> None:
    table.write_text("instance,flow\np1,F\n,G\nP1,H\np2,I,J\n")
    refused = run("package", table, "--name", "site-a", "--output", tmp_path / "out", "--json")
    assert refused.exit_code == 1
    assert [one["line"] for one in json.loads(refused.stdout)["findings"]] == [3, 4, 5]


def test_a_version_of_ones_own_is_never_given_twice_to_different_tags(table: Path, tmp_path: Path) -> None:
    package = (table, "--name", "site-a", "--output", tmp_path / "out")
    assert made(*package, "--version", "2.5.0")["version"] == "2.5.0"
    assert not made(*package, "--version", "2.5.0")["changed"]
    table.write_text(TABLE.replace("i=7", "i=8"))
    with pytest.raises(Failure, match=r"--version 2\.5\.0 is there with other tags.*2\.5\.1"):
        CliRunner().invoke(
            make_app(), ["tags", "package", *map(str, package), "--version", "2.5.0"], catch_exceptions=False
        )
    assert made(*package)["version"] == "2.5.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "a b"), "--name a b is no name of a tag package: use 1 to 64 letters"),
        (("--name", "../x"), "--name ../x is no name"),
        (("--name", "a", "--version", "1.0"), "--version 1.0: write three numbers"),
        (("--name", "a", "--bucket", "b"), "--bucket and --region belong to --stage"),
    ],
)
def test_a_wrong_option_is_refused_in_words(table: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    refused = run("package", table, "--output", tmp_path / "out", *options)
    assert isinstance(refused.exception, Failure)
    assert words in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_a_table_with_mistakes_makes_no_package_and_tells_all_of_them(table: Path, tmp_path: Path) -> None:
    table.write_text("tag,node,unti\nA,nope,\n,i=1,\nB,i=1,\nb,i=2,0,5\n")
    refused = run("package", table, "--name", "site-a", "--output", tmp_path / "out", "--json")
    assert refused.exit_code == 1
    told = json.loads(refused.stdout)
    assert [(one["level"], one["line"]) for one in told["findings"]] == [
        ("warning", 1),
        ("error", 2),
        ("error", 3),
        ("error", 5),
    ]
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_would_take_all_tags_away(table: Path, tmp_path: Path) -> None:
    table.write_text("tag,node\n")
    refused = run("package", table, "--name", "site-a", "--output", tmp_path / "out")
    assert "has no rows" in str(refused.exception)


def test_check_names_file_line_place_value_and_remedy(table: Path) -> None:
    assert run("check", table).exit_code == 0
    table.write_text("tag,node,samplingInterval\nA,i=1,250ms\nB,i=2,0.5 s\nC,i=3,'0,5s\nD,i=3,fast\n")
    wrong = run("check", table)
    assert wrong.exit_code == 1
    errors = wrong.stderr.replace("\n", " ")
    assert f'{table}:5:1: error: D.samplingInterval = "fast" is not a duration (line 5 of tags.csv): write a' in errors
    assert f"{table}:4:1: error:" in errors
    assert "2 errors, 0 warnings" in errors


def test_check_says_the_very_text_that_the_collector_says(table: Path) -> None:
    table.write_text("tag,node\nA,nope\nA,i=1\n")
    told = json.loads(run("check", table, "--json").stdout)
    assert [one["text"] for one in told["findings"]] == [
        str(problem) for problem in parse(table.read_bytes(), (), table.name).problems
    ]


def test_a_package_is_staged_as_a_project_of_gdk(table: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    told = made(table, "--name", "site-a", "--stage", project, "--bucket", "mine", "--region", "eu-central-1")
    assert (told["version"], told["changed"]) == ("1.0.0", True)
    written = files(project)
    assert set(written) == {
        "gdk-config.json",
        "recipe.yaml",
        "built/recipes/recipe.yaml",
        f"built/artifacts/{NAME}/1.0.0/tags.csv",
    }
    [(name, entry)] = json.loads(written["gdk-config.json"])["component"].items()
    assert (name, entry["version"]) == (NAME, "1.0.0")
    assert entry["publish"] == {"bucket": "mine", "region": "eu-central-1"}
    assert not made(table, "--name", "site-a", "--stage", project)["changed"]
    table.write_text(TABLE.replace("i=7", "i=8"))
    assert made(table, "--name", "site-a", "--stage", project)["version"] == "1.0.1"
    assert f"built/artifacts/{NAME}/1.0.1/tags.csv" in files(project)


def test_a_folder_of_somebody_elses_is_not_staged_into(table: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.yaml").write_text("mine")
    refused = run("package", table, "--name", "site-a", "--stage", tmp_path / "other")
    assert "give another folder" in str(refused.exception)
    assert (tmp_path / "other" / "recipe.yaml").read_text() == "mine"


TEXT = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    st.lists(
        st.tuples(TEXT, st.sampled_from(["i=1", "nsu=urn:x;s=a,b", 'ns=2;s="q"']), TEXT),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0].casefold(),
    )
)
def test_normalising_keeps_every_tag_and_is_idempotent(rows: list[tuple[str, str, str]]) -> None:
    quoted = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)
    data = f"tag,node,unit\n{quoted}".encode()
    once, count = normalised(data)
    assert count == len(rows)
    assert normalised(once) == (once, count)
    assert parse(once, (), "t").tags == parse(data, (), "t").tags


# --- tables of PI points --------------------------------------------------------------------------------------------


def test_the_columns_tell_which_collector_a_table_is_for(tmp_path: Path) -> None:
    path = tmp_path / "pi.csv"
    path.write_text("Tag;Point;Unit;Remarks\nReactor/Temp;SINUSOID;degC;neu\nReactor/Level;CDT158;;\n", "utf-8-sig")
    told = made(path, "--name", "site-a", "--output", tmp_path / "out")
    assert told["tags"] == 2
    assert files(tmp_path / "out")[f"artifacts/{NAME}/1.0.0/tags.csv"].decode() == (
        "tag,point,unit\nReactor/Level,CDT158,\nReactor/Temp,SINUSOID,degC\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tag,point,path\nA,X,\nB,,S/Y\n", "B.path = \"S/Y\" is no path of a point"),
        ("tag,path\nA,\\\\S\\X\nB,S\\Y\n", "B.path = \"S\\\\Y\" is no path of a point"),
        ("tag,path\nA,/Objects/2:X\nB,Objects\n", "B.path"),
        ("tag,node,point\nA,nonsense,X\n", "is no node id"),
        ("tag,unit\nA,bar\n", "has no column node or path"),
    ],
)  # fmt: skip
def test_a_table_is_checked_by_the_collector_that_it_is_for(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tags.csv"
    path.write_text(text, encoding="utf-8")
    result = run("check", path)
    assert result.exit_code == 1
    assert said in result.output
    assert "1 error" in result.output
