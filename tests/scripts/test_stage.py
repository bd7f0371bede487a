"""`scripts/build.py --stage`: a project in which gdk builds and publishes one component.

gdk itself is not on the package index. What it does with a project is done here in its place, step by step as
gdk-cli 1.6.2 does it: both configuration files read and held against its rules, the two folders made, the build command
run, the recipe found by its name, artifacts matched by theirs.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import build
from wheelhouse import BuildError, Target

ROOT = Path(__file__).resolve().parents[2]
ONE_TARGET = [Target("3.12", "x86_64")]
GAUGE = "io.sluice.LevelGauge"

RECIPE_KEYS = {
    "recipeformatversion",
    "componentname",
    "componentversion",
    "componentdescription",
    "componentpublisher",
    "componentconfiguration",
    "componentdependencies",
    "componenttype",
    "componentsource",
    "manifests",
    "lifecycle",
}
"""The keys that gdk's schema allows at the top of a recipe, in any case."""


def gdk_config(project: Path) -> tuple[str, dict[str, Any]]:
    """The project's one component, its configuration held against gdk's schema."""
    assert {path.name for path in project.iterdir()} & {"recipe.json", "recipe.yaml", "recipe.yml"} == {"recipe.yaml"}
    document = json.loads((project / "gdk-config.json").read_text())
    assert {"component", "gdk_version"} <= set(document)
    [(name, component)] = document["component"].items()  # gdk refuses a second one
    assert re.fullmatch(r"[a-zA-Z0-9\-_.]+", name)
    assert {"author", "version", "build", "publish"} <= set(component)
    assert component["build"]["build_system"] == "custom"
    return name, component


def gdk_component_build(project: Path) -> None:
    name, component = gdk_config(project)
    output = project / "greengrass-build"
    shutil.rmtree(output, ignore_errors=True)
    (output / "recipes").mkdir(parents=True)
    (output / "artifacts" / name / component["version"]).mkdir(parents=True)
    subprocess.run(component["build"]["custom_build_command"], cwd=project, check=True)


def gdk_component_publish(project: Path) -> dict[str, Any]:
    """The recipe that gdk would create in the cloud, after it has uploaded the artifacts."""
    name, component = gdk_config(project)
    output = project / "greengrass-build"
    uploaded = {path.name for path in (output / "artifacts" / name / component["version"]).iterdir()}
    text = (output / "recipes" / "recipe.yaml").read_text()
    recipe: dict[str, Any] = yaml.safe_load(text)
    assert {key.lower() for key in recipe} <= RECIPE_KEYS
    assert {"recipeformatversion", "componentname", "componentversion", "manifests"} <= {key.lower() for key in recipe}
    assert recipe["ComponentName"] == name
    assert recipe["ComponentVersion"] == component["version"]
    bucket = f"{component['publish']['bucket']}-{component['publish']['region']}-123456789012"
    for manifest in recipe["Manifests"]:
        for artifact in manifest["Artifacts"]:
            file = artifact["Uri"].rsplit("/", 1)[-1]
            if file in uploaded:  # of others gdk asks S3, and fails
                artifact["Uri"] = f"s3://{bucket}/{name}/{component['version']}/{file}"
    assert len(yaml.safe_dump(recipe, sort_keys=False).encode()) <= 16_000
    return recipe


def uris(recipe: dict[str, Any]) -> list[str]:
    return [artifact["Uri"] for manifest in recipe["Manifests"] for artifact in manifest["Artifacts"]]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_gdk_builds_and_publishes_every_component_from_its_staged_project(path: Path, tmp_path: Path) -> None:
    component = build.read_recipe(path)
    zips = build.stage(component.name, tmp_path / "project", root=ROOT, targets=[build.host()])
    gdk_component_build(tmp_path / "project")
    recipe = gdk_component_publish(tmp_path / "project")
    of_host = [uri for uri in uris(recipe) if uri.endswith(zips[0].name)]
    config = json.loads((ROOT / "gdk-config.json").read_text())
    [suite] = config["component"].values()
    bucket = f"{suite['publish']['bucket']}-{suite['publish']['region']}-123456789012"
    assert of_host == [f"s3://{bucket}/{component.name}/{component.version}/{zips[0].name}"]
    assert (tmp_path / "project/recipe.yaml").read_bytes() == path.read_bytes()


def test_what_is_published_is_what_was_built(tree: Path, tmp_path: Path) -> None:
    """For both architectures, under any version, into any bucket: nothing is left that names no file."""
    project = tmp_path / "project"
    targets = [*ONE_TARGET, Target("3.12", "aarch64")]
    zips = build.stage(
        GAUGE, project, root=tree, targets=targets, version="1.2.4", bucket="acme", region="eu-central-1"
    )
    built = {path.name: path.read_bytes() for path in zips}
    recipe_text = (tree / "recipes" / f"{GAUGE}.yaml").read_text()
    gdk_component_build(project)
    assert uris(gdk_component_publish(project)) == [
        f"s3://acme-eu-central-1-123456789012/{GAUGE}/1.2.4/sluice-level-gauge-{one}.zip"
        for one in ("x86_64", "aarch64")
    ]
    folder = project / "greengrass-build" / "artifacts" / GAUGE / "1.2.4"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == built
    assert (tree / "recipes" / f"{GAUGE}.yaml").read_text() == recipe_text


def test_a_project_is_staged_anew_in_its_folder(tree: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    build.stage(GAUGE, project, root=tree, targets=ONE_TARGET, version="1.2.4")
    gdk_component_build(project)
    build.stage(GAUGE, project, root=tree, targets=ONE_TARGET)
    assert sorted(path.name for path in project.iterdir()) == ["built", "gdk-config.json", "recipe.yaml"]
    assert [path.name for path in (project / "built/artifacts" / GAUGE).iterdir()] == ["1.2.3"]


def test_a_run_that_was_killed_is_made_good_by_the_next(tree: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    build.stage(GAUGE, project, root=tree, targets=ONE_TARGET)
    (project / "gdk-config.json").unlink()
    build.stage(GAUGE, project, root=tree, targets=ONE_TARGET)
    assert gdk_config(project)[0] == GAUGE


@pytest.mark.parametrize("of", ["somebody", "another component", "nobody who says so"])
def test_a_folder_of_somebody_elses_is_left_as_it_is(of: str, tree: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    if of == "another component":
        build.stage(build.RUNTIME, project, root=tree, targets=ONE_TARGET)
    else:
        project.mkdir()
        (project / "built").mkdir()
        (project / "recipe.yaml").write_text("mine")
        (project / "gdk-config.json").write_text("{}" if of == "somebody" else '{"component"')
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(BuildError, match=f"neither empty nor a project that was staged for {re.escape(GAUGE)}"):
        build.stage(GAUGE, project, root=tree, targets=ONE_TARGET)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "project"], "--stage makes a project for one component: name it with --component"),
        (["--component", "a", "--component", "b", "--stage", "project"], "for one component"),
        (["--bucket", "acme"], "--bucket and --region belong to --stage"),
    ],
)
def test_arguments_that_make_no_project_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build.main(arguments)
    assert words in capsys.readouterr().err


def test_the_command_line_stages_for_this_machine_and_says_what_it_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--component", "io.sluice.StreamExporter", "--host-only", "--region", "eu-west-1", "--bucket", "acme"]
    assert build.main([*arguments, "--stage", str(tmp_path / "project")]) == 0
    assert "project/built/artifacts/io.sluice.StreamExporter/" in capsys.readouterr().out
    name, component = gdk_config(tmp_path / "project")
    assert name == "io.sluice.StreamExporter"
    assert component["publish"] == {"bucket": "acme", "region": "eu-west-1"}
