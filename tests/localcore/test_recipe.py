"""Recipes as each nucleus reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcore.configuration import Configuration
from localcore.profile import CLASSIC, LITE, Profile
from localcore.recipe import Folders, Recipe, RecipeError, Step, expand, load, parse

BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
HERE = {
    CLASSIC.name: {"os": "linux", "architecture": "amd64"},
    LITE.name: {"os": "linux", "architecture": "amd64", "runtime": "aws_nucleus_lite"},
}
TEXT = """
RecipeFormatVersion: "2020-01-25"
ComponentName: com.example.A
ComponentVersion: 1.2.3
ComponentConfiguration:
  DefaultConfiguration: {number: 5, flag: true, text: abc, list: [1, x]}
ComponentDependencies:
  com.example.B: {VersionRequirement: ">=1.0.0", DependencyType: SOFT}
Manifests:
  - Platform: {os: linux, runtime: "*"}
    Lifecycle:
      Setenv: {LEVEL: "all", SHARED: "all"}
      install: {Script: install it, Timeout: 7, Setenv: {SHARED: "install"}}
      run: run it
      shutdown: stop it
    Artifacts:
      - Uri: s3://BUCKET/a/code.zip
        Unarchive: ZIP
        Permission: {Execute: OWNER}
      - Uri: s3://BUCKET/a/plain.csv
"""


def parsed(document: Mapping[str, Any], profile: Profile) -> Recipe:
    return parse(document, profile, HERE[profile.name])


def manifests(*platforms: Any) -> dict[str, Any]:
    """A recipe whose n-th manifest runs the script `n`."""
    return {
        "ComponentName": "a",
        "ComponentVersion": "1.0.0",
        "Manifests": [
            {**({} if platform is None else {"Platform": platform}), "Lifecycle": {"run": str(number)}}
            for number, platform in enumerate(platforms)
        ],
    }


def chosen(profile: Profile, *platforms: Any) -> str:
    run = parsed(manifests(*platforms), profile).lifecycle.run
    assert run is not None
    return run.script


@BOTH
def test_a_recipe_is_read_whole(tmp_path: Path, profile: Profile) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = load(tmp_path / "r.yaml", profile)
    assert (recipe.name, recipe.version) == ("com.example.A", "1.2.3")
    assert [(d.name, d.requirement, d.hard) for d in recipe.dependencies] == [("com.example.B", ">=1.0.0", False)]
    assert recipe.lifecycle.install == Step("install it", 7.0, {"LEVEL": "all", "SHARED": "install"})
    assert recipe.lifecycle.run == Step("run it", None, {"LEVEL": "all", "SHARED": "all"})
    assert [(a.file, a.unarchive, oct(a.mode)) for a in recipe.artifacts] == [
        ("code.zip", True, "0o500"),
        ("plain.csv", False, "0o400"),
    ]
    assert (recipe.lifecycle.shutdown is None) is (profile is LITE)


def test_on_lite_every_scalar_of_a_yaml_recipe_is_a_string_and_json_keeps_its_types(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    (tmp_path / "r.json").write_text(json.dumps(yaml.safe_load(TEXT)))
    typed = {"number": 5, "flag": True, "text": "abc", "list": [1, "x"]}
    assert load(tmp_path / "r.yaml", CLASSIC).defaults == typed
    assert load(tmp_path / "r.json", CLASSIC).defaults == typed
    assert load(tmp_path / "r.json", LITE).defaults == typed
    assert load(tmp_path / "r.yaml", LITE).defaults == {
        "number": "5",
        "flag": "true",
        "text": "abc",
        "list": ["1", "x"],
    }


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [
        ([{"os": "linux"}, {"os": "linux", "architecture": "amd64"}], "0"),
        ([{"os": "windows"}, {"os": "linux", "architecture": "aarch64"}, {"os": "*"}], "2"),
        ([{"os": "linux", "runtime": "aws_nucleus_lite"}, {"os": "linux", "runtime": "*"}], "1"),
        ([{"os": "/darwin|linux/"}], "0"),
        ([{"os": "linux", "gpu": "*"}], "0"),
        ([{"os": "linux", "gpu": "big"}, None], "1"),
    ],
)
def test_the_first_manifest_that_fits_is_chosen(platforms: list[Any], expected: str) -> None:
    assert chosen(CLASSIC, *platforms) == expected


def test_lite_deploys_only_manifests_that_name_a_runtime() -> None:
    assert chosen(LITE, {"os": "linux"}, {"os": "linux", "runtime": "*"}) == "1"
    assert chosen(LITE, {"os": "linux"}, {"os": "*", "runtime": "aws_nucleus_lite"}) == "1"
    with pytest.raises(RecipeError, match="nucleus lite needs `runtime`"):
        chosen(LITE, {"os": "linux"}, None)
    with pytest.raises(RecipeError, match="no manifest fits"):
        chosen(LITE, {"os": "/linux/", "runtime": "*"})


def test_a_recipe_without_manifests_is_an_empty_component_on_classic() -> None:
    document = {"ComponentName": "a", "ComponentVersion": "1.0.0"}
    assert parsed(document, CLASSIC).lifecycle.run is None
    with pytest.raises(RecipeError):
        parsed(document, LITE)


def test_keys_are_case_insensitive_on_classic_and_exact_on_lite() -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["Manifests"][0]["Lifecycle"] = {"Run": {"script": "x", "setenv": {"A": "1"}}}
    assert parsed(document, CLASSIC).lifecycle.run == Step("x", None, {"A": "1"})
    with pytest.raises(RecipeError, match="key 'Run': nucleus lite reads only the spelling 'run'"):
        parsed(document, LITE)


def test_a_global_lifecycle_is_selected_by_the_manifest() -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["Lifecycle"] = {"all": {"run": "everywhere"}, "linux": {"run": "on linux"}}
    document["Manifests"][0].pop("Lifecycle")
    assert parsed(document, LITE).lifecycle.run == Step("everywhere", None, {})
    document["Manifests"][0]["Selections"] = ["linux"]
    assert parsed(document, CLASSIC).lifecycle.run == Step("on linux", None, {})


@BOTH
@pytest.mark.parametrize("step", ["startup", "bootstrap", "recover"])
def test_steps_that_this_core_does_not_run_are_refused_by_name(profile: Profile, step: str) -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["Manifests"][0]["Lifecycle"][step] = "x"
    with pytest.raises(RecipeError, match=rf"Lifecycle\.{step}"):
        parsed(document, profile)


@pytest.mark.parametrize("variables", [{"A": 1}, {"A-B": "1"}, {"1A": "x"}])
def test_lite_wants_plain_names_and_text_in_setenv(variables: dict[str, Any]) -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["Manifests"][0]["Lifecycle"]["Setenv"] = variables
    with pytest.raises(RecipeError, match=r"Lifecycle\.Setenv\."):
        parsed(document, LITE)
    assert parsed(document, CLASSIC).lifecycle.run == Step("0", None, {k: str(v) for k, v in variables.items()})


def test_a_recipe_above_16_kilobytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT + "#" * 16384)
    with pytest.raises(RecipeError, match="larger than 16384 bytes"):
        load(tmp_path / "r.yaml", CLASSIC)


@BOTH
@pytest.mark.parametrize(
    "text", ["- a", "a: [", "ComponentName: a", "{ComponentName: a, ComponentVersion: 1.0.0, Manifests: [5]}"]
)
def test_what_is_no_recipe_is_refused_with_its_path(tmp_path: Path, profile: Profile, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        load(tmp_path / "r.yaml", profile)


# --- variables


def expanded(profile: Profile, text: str) -> str:
    document = manifests({"os": "linux", "runtime": "*"})
    document["ComponentDependencies"] = {"b": {"VersionRequirement": "*"}}
    configurations = {"a": Configuration(profile), "b": Configuration(profile), "c": Configuration(profile)}
    for configuration in configurations.values():
        configuration.merge((), {"text": "T", "number": 5, "map": {"x": [1, "y"]}}, 2.0)
    versions = {"a": "1.0.0", "b": "2.0.0"}
    folders = Folders(Path("/gg"))
    return expand(text, parsed(document, profile), profile, folders, "core7", configurations.__getitem__, versions)


@pytest.mark.parametrize(
    ("text", "classic", "lite"),
    [
        ("{artifacts:path}", "/gg/packages/artifacts/a/1.0.0", "/gg/packages/artifacts/a/1.0.0/"),
        (
            "{artifacts:decompressedPath}/z",
            "/gg/packages/artifacts-unarchived/a/1.0.0/z",
            "/gg/packages/artifacts-unarchived/a/1.0.0//z",
        ),
        ("{b:artifacts:path}", "/gg/packages/artifacts/b/2.0.0", "/gg/packages/artifacts/b/2.0.0/"),
        ("{work:path}", "/gg/work/a", "/gg/work/a/"),
        ("{kernel:rootPath}", "/gg", "/gg/"),
        ("is {iot:thingName}.", "is core7.", "is core7."),
        ("{configuration:/text}", "T", "T"),
        ("{configuration:/number}", "5", "5"),
        ("{b:configuration:/map}", '{"x":[1,"y"]}', '{"x":[1,"y"]}'),
    ],
)
def test_recipe_variables(text: str, classic: str, lite: str) -> None:
    assert expanded(CLASSIC, text) == classic
    assert expanded(LITE, text) == lite


@pytest.mark.parametrize(
    "text",
    [
        "echo ${HOME}",
        "{ echo a; }",
        "awk '{print $1}' x",
        "echo '{\"a\": 1}'",
        "{unknown:thing}",
        "{configuration:/missing}",
        "{c:configuration:/text}",
        "a lone {",
    ],
)
def test_an_unknown_brace_stays_on_classic_and_fails_the_recipe_on_lite(text: str) -> None:
    assert expanded(CLASSIC, text) == text
    with pytest.raises(RecipeError, match="every brace begins a variable"):
        expanded(LITE, text)


def test_a_recipe_without_a_step_is_one_to_classic_and_none_to_lite() -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["Manifests"][0]["Lifecycle"] = {"shutdown": "stop it"}
    assert parsed(document, CLASSIC).lifecycle.run is None
    with pytest.raises(RecipeError, match="Recipes without at least 1 valid lifecycle step aren't currently supported"):
        parsed(document, LITE)
    document["Manifests"][0]["Lifecycle"] = {"install": "cp a b"}
    assert parsed(document, LITE).lifecycle.run is None


@pytest.mark.parametrize(
    ("written", "classic", "lite"), [("HARD", True, True), ("SOFT", False, False), (None, True, False)]
)
def test_a_dependency_without_a_type_is_hard_on_classic_only(written: str | None, classic: bool, lite: bool) -> None:
    document = manifests({"os": "linux", "runtime": "*"})
    document["ComponentDependencies"] = {
        "b": {"VersionRequirement": "*"} | ({"DependencyType": written} if written else {})
    }
    hard = {profile.name: parsed(document, profile).dependencies[0].hard for profile in (CLASSIC, LITE)}
    assert hard == {"classic": classic, "lite": lite}
