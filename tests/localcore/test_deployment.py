"""Deployment documents, dependencies, artifacts."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from localcore.configuration import Configuration
from localcore.deployment import DeploymentError, configure, parse_document, place_artifacts, resolve, satisfies
from localcore.profile import CLASSIC, LITE
from localcore.recipe import Folders, Recipe, load


def recipe_file(folder: Path, name: str, version: str = "1.0.0", **dependencies: str) -> Path:
    lines = [f"ComponentName: {name}", f"ComponentVersion: {version}"]
    lines += ["ComponentConfiguration: {DefaultConfiguration: {rate: 1, map: {a: 1, b: 2}}}"]
    if dependencies:
        lines.append("ComponentDependencies:")
        lines += [f'  {other}: {{VersionRequirement: "{wanted}"}}' for other, wanted in dependencies.items()]
    lines += [
        "Manifests:",
        '- Platform: {os: linux, runtime: "*"}',
        "  Lifecycle: {run: sh run.sh}",
        "  Artifacts:",
        "  - Uri: s3://x/code.zip",
    ]
    lines += ["    Unarchive: ZIP", "  - Uri: s3://x/run.sh", "    Permission: {Read: ALL, Execute: ALL}"]
    path = folder / f"{name}-{version}.yaml"
    path.write_text("\n".join(lines))
    return path


def document(**components: Any) -> dict[str, Any]:
    return {"components": components}


@pytest.mark.parametrize(
    ("version", "requirement", "expected"),
    [
        ("2.5.0", ">=2.0.0 <3.0.0", True),
        ("3.0.0", ">=2.0.0 <3.0.0", False),
        ("1.2.9", "~1.2.3", True),
        ("1.3.0", "~1.2.3", False),
        ("1.9.0", "^1.2.3", True),
        ("2.0.0", "^1.2.3", False),
        ("1.0.0", "1.0.0 || 2.0.0", True),
        ("2.0.0", "=1.0.0 || =2.0.0", True),
        ("10.0.0", ">9", True),
        ("0.1.0-rc.1", "*", True),
    ],
)
def test_version_requirements(version: str, requirement: str, expected: bool) -> None:
    assert satisfies(version, requirement, CLASSIC) is expected


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (">=1.2.0 <1.3.0", True),
        ("=1.2.3", True),
        (">1.2.3", False),
        ("*", True),
        ("~1.2.0", False),
        ("^1.2.0", False),
        ("1.2.3 || 2.0.0", False),
    ],
)
def test_lite_only_compares_versions(requirement: str, expected: bool) -> None:
    assert satisfies("1.2.3", requirement, LITE) is expected


def test_a_recipe_that_lite_could_never_deploy_is_refused_there_with_what_it_needs(tmp_path: Path) -> None:
    recipe_file(tmp_path, "b")
    recipe_file(tmp_path, "a", b="~1.0.0")
    wanted = parse_document(document(a={}))
    assert list(resolve(wanted, tmp_path, CLASSIC)) == ["b", "a"]
    with pytest.raises(DeploymentError, match=r"a needs b ~1\.0\.0, and this core has 1\.0\.0"):
        resolve(wanted, tmp_path, LITE)


def test_a_requirement_that_is_not_understood_is_told() -> None:
    with pytest.raises(DeploymentError, match="'latest'"):
        satisfies("1.0.0", "latest", CLASSIC)


def test_merge_may_be_json_text_and_reset_names_paths() -> None:
    update = {"reset": ["", "/a/b~1c/d~0e"], "merge": '{"x": {"y": 1}}'}
    (wanted,) = parse_document(document(a={"componentVersion": "1.0.0", "configurationUpdate": update}))
    assert (wanted.name, wanted.version) == ("a", "1.0.0")
    assert wanted.reset == ((), ("a", "b/c", "d~e"))
    assert wanted.merge == {"x": {"y": 1}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"configurationUpdate": {"merge": "{"}}, "not JSON"),
        ({"configurationUpdate": {"merge": "[]"}}, "not a mapping"),
        ({"configurationUpdate": {"reset": ["a"]}}, "begin it with '/'"),
    ],
)
def test_a_wrong_document_is_told_with_its_component(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=f"line1: .*{message}"):
        parse_document(document(line1=entry))
    with pytest.raises(DeploymentError, match="components"):
        parse_document({})


def test_components_come_in_the_order_of_their_dependencies(tmp_path: Path) -> None:
    recipe_file(tmp_path, "top", middle="^1.0.0", bottom=">=1.0.0")
    recipe_file(tmp_path, "middle", bottom="1.0.0")
    recipe_file(tmp_path, "bottom")
    recipe_file(tmp_path, "bottom-line", "9.0.0")
    (tmp_path / "recipe.yaml").write_text("")
    assert list(resolve(parse_document(document(top=None)), tmp_path, CLASSIC)) == ["bottom", "middle", "top"]


def test_the_components_of_aws_need_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a-1.0.0.yaml").write_text(
        recipe_file(tmp_path, "a", **{"aws.greengrass.StreamManager": ">=2.1.8 <3.0.0"}).read_text()
    )
    wanted = parse_document(document(a=None, **{"aws.greengrass.StreamManager": None}))
    assert list(resolve(wanted, tmp_path, LITE)) == ["a"]


@pytest.mark.parametrize(
    ("dependencies", "message"),
    [
        ({"b": "*"}, "a wants b .any version.: expected one recipe file b-<version>.yaml"),
        (
            {"aws.greengrass.StreamManager": ">=9.0.0"},
            r"StreamManager >=9\.0\.0, and this core has 2\.2\.0",
        ),
        ({"aws.greengrass.SecretManager": "*"}, "aws.greengrass.SecretManager"),
        ({"a": "*"}, "in a circle: a -> a"),
    ],
)
def test_what_cannot_be_had_fails_the_deployment_on_lite(
    tmp_path: Path, dependencies: dict[str, str], message: str
) -> None:
    recipe_file(tmp_path, "a", **dependencies)
    with pytest.raises(DeploymentError, match=message):
        resolve(parse_document(document(a=None)), tmp_path, LITE)


def test_two_versions_of_a_recipe_need_a_choice(tmp_path: Path) -> None:
    recipe_file(tmp_path, "a", "1.0.0")
    recipe_file(tmp_path, "a", "1.1.0")
    with pytest.raises(DeploymentError, match=r"found a-1\.0\.0\.yaml, a-1\.1\.0\.yaml"):
        resolve(parse_document(document(a=None)), tmp_path, CLASSIC)
    chosen = resolve(parse_document(document(a={"componentVersion": "1.1.0"})), tmp_path, CLASSIC)
    assert chosen["a"].version == "1.1.0"


def test_configuration_is_defaults_then_reset_then_merge(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path, "a"), CLASSIC)
    configuration = Configuration(CLASSIC)

    def deploy(update: dict[str, Any], now: float) -> Any:
        configure(configuration, recipe, parse_document(document(a={"configurationUpdate": update}))[0], now)
        return configuration.read()

    assert deploy({}, 10.0) == {"rate": 1, "map": {"a": 1, "b": 2}}
    assert deploy({"merge": {"rate": 5, "map": {"b": 6, "c": 7}}}, 11.0) == {"rate": 5, "map": {"a": 1, "b": 6, "c": 7}}
    assert deploy({}, 12.0)["rate"] == 5
    assert deploy({"reset": ["/map/b", "/rate"], "merge": {"rate": 9}}, 13.0) == {
        "rate": 9,
        "map": {"a": 1, "b": 2, "c": 7},
    }
    assert deploy({"reset": [""]}, 14.0) == {"rate": 1, "map": {"a": 1, "b": 2}}


def test_on_lite_what_cannot_be_stored_fails_the_deployment(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path, "a"), LITE)
    for merge, message in (({"x": "y" * 1023}, "x is 1025 bytes"), ({"map": 5}, "map is a map, not a value")):
        wanted = parse_document(document(a={"configurationUpdate": {"merge": merge}}))[0]
        with pytest.raises(DeploymentError, match=message):
            configure(Configuration(LITE), recipe, wanted, 10.0)


def artifacts(tmp_path: Path, text: str) -> tuple[Recipe, Path]:
    recipe = load(recipe_file(tmp_path, "a"), CLASSIC)
    folder = tmp_path / "built" / "a" / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "code.zip", "w") as archive:
        archive.writestr("pkg/module.py", text)
    (folder / "run.sh").write_text("echo")
    return recipe, tmp_path / "built"


def test_artifacts_are_unpacked_into_a_folder_of_the_zips_name_with_the_recipes_permissions(tmp_path: Path) -> None:
    recipe, built = artifacts(tmp_path, "one")
    folders = Folders(tmp_path / "core")
    assert place_artifacts(recipe, built, folders)
    module = folders.unarchived("a", "1.0.0") / "code" / "pkg" / "module.py"
    assert module.read_text() == "one"
    assert oct(module.stat().st_mode & 0o777) == "0o400"
    assert oct((folders.artifacts("a", "1.0.0") / "run.sh").stat().st_mode & 0o777) == "0o555"


def test_only_artifacts_that_changed_are_placed_again(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "core")
    assert place_artifacts(*artifacts(tmp_path, "one"), folders)
    assert not place_artifacts(*artifacts(tmp_path, "one"), folders)
    assert place_artifacts(*artifacts(tmp_path, "two"), folders)
    assert (folders.unarchived("a", "1.0.0") / "code" / "pkg" / "module.py").read_text() == "two"


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path, "a"), CLASSIC)
    with pytest.raises(DeploymentError, match=r"built/a/1\.0\.0/code\.zip does not exist: build it first"):
        place_artifacts(recipe, tmp_path / "built", Folders(tmp_path / "core"))
