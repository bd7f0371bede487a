"""Recipes against the limits of both nuclei, of the service and of gdk: each rule with a recipe that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.recipe_lint import read

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
RecipeFormatVersion: "2020-01-25"
ComponentName: com.example.Press
ComponentVersion: "1.0.0"
ComponentConfiguration:
  DefaultConfiguration:
    interval: 5s
    accessControl:
      aws.greengrass.ipc.pubsub:
        com.example.Press:pubsub:1:
          policyDescription: Hears data.
          operations: ["aws.greengrass#SubscribeToTopic"]
          resources: ["sluice/data/*"]
ComponentDependencies:
  aws.greengrass.Nucleus: {VersionRequirement: ">=2.6.0 <3.0.0", DependencyType: SOFT}
Manifests:
  - Platform: {os: linux, runtime: "*"}
    Lifecycle:
      install: {Script: "sh {artifacts:path}/install.sh", Timeout: 900}
      run: "sh {artifacts:path}/run.sh"
    Artifacts:
      - Uri: s3://bucket/x.zip
"""


def said(folder: Path, text: str) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return [str(one).removeprefix(f"{folder}/") for one in read(path)]


def test_a_recipe_that_both_nuclei_take_has_nothing_wrong(tmp_path: Path) -> None:
    assert said(tmp_path, RECIPE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('ComponentVersion: "1.0.0"', "", "recipe.yaml:1:1: error: ComponentVersion is required: add ComponentVersion"),
        (
            'ComponentVersion: "1.0.0"',
            'ComponentVersion: "1.0"',
            "recipe.yaml:3:1: error: ComponentVersion is not written as it must be: 1.0: write it such as",
        ),
        (
            "ComponentName: com.example.Press",
            "ComponentName: com.example/Press",
            "recipe.yaml:2:1: error: ComponentName is not written as it must be",
        ),
        (
            "ComponentDependencies:",
            "componentDependencies:",
            "recipe.yaml:13:1: error: componentDependencies is no key that both nuclei know: did you mean "
            "ComponentDependencies?",
        ),
        (
            "DependencyType: SOFT",
            "DependencyType: WEAK",
            'recipe.yaml:14:66: error: ComponentDependencies["aws.greengrass.Nucleus"].DependencyType is no kind of '
            "dependency: use HARD or SOFT",
        ),
        (
            'runtime: "*"',
            "architecture: amd64",
            "recipe.yaml:16:5: error: Manifests[0].Platform has no runtime, so nucleus lite never deploys it: add "
            'runtime: "*"',
        ),
        (
            "Timeout: 900",
            "Skipif: onpath x",
            "error: Manifests[0].Lifecycle.install.Skipif is no key that both nuclei know: the keys here are: Script",
        ),
        (
            'run: "sh {artifacts:path}/run.sh"',
            "shutdown: stop",
            "error: Manifests[0].Lifecycle.shutdown is no key that both nuclei know",
        ),
        (
            "sh {artifacts:path}/run.sh",
            "sh -c 'echo ${HOME}'",
            "recipe.yaml:19:7: error: Manifests[0].Lifecycle.run has a brace that is no recipe variable, and nucleus "
            "lite takes every brace for one: write $VAR",
        ),
        (
            "sh {artifacts:path}/run.sh",
            "sh {artifacts:path}/run.sh {configuration:/interval}",
            "error: Manifests[0].Lifecycle.run takes configuration into a script: whoever configures can run commands",
        ),
        ('run: "sh {artifacts:path}/run.sh"', "run: ''", "error: Manifests[0].Lifecycle.run is no script"),
        ("sluice/data/*", "*", "is open to everything: *: name what it needs"),
        ("sluice/data/*", "sluice/{iot:thingName}", "is refused or replaced by a nucleus: sluice/{iot:thingName}"),
        ("aws.greengrass#SubscribeToTopic", "SubscribeToTopic", "is no operation: SubscribeToTopic: write it such as"),
        ("policyDescription: Hears data.", "Description: x", "Description is no key that both nuclei know"),
        ("interval: 5s", "interval: 5s\n    Interval: 6s", "Interval is the same name as interval to Greengrass"),
        (
            "interval: 5s",
            "interval: 5s\n    interval: 6s",
            "DefaultConfiguration.interval stands twice, first in line 6",
        ),
        (
            'aws.greengrass.Nucleus: {VersionRequirement: ">=2.6.0 <3.0.0", DependencyType: SOFT}',
            'io.sluice.Runtime: {VersionRequirement: ">=0.1.0 <0.2.0"}',
            "is HARD, and io.sluice.Runtime has no process: on nucleus lite what depends on it never starts: use SOFT",
        ),
        (
            ">=2.6.0 <3.0.0",
            "~2.6.0",
            'is no version requirement that nucleus lite understands: ~2.6.0: write comparisons such as ">=0.1.0',
        ),
        ("interval: 5s", "_interval: 5s", "_interval begins with _, and classic does not keep it: rename it"),
        ("sluice/data/*", "sluice/data/my line", "is refused or replaced by a nucleus: sluice/data/my line"),
        (
            "Artifacts:\n      - Uri: s3://bucket/x.zip",
            "Artifacts: true",
            "recipe.yaml:20:5: error: Manifests[0].Artifacts is not a list",
        ),
        ("interval: 5s", "interval: " + "x" * 16_000, "bytes, and gdk takes 16000"),
    ],
)
def test_each_rule_is_told_at_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in RECIPE
    found = said(tmp_path, RECIPE.replace(old, new))
    assert any(expected in one for one in found), found


def test_a_component_without_a_step_is_refused_by_lite(tmp_path: Path) -> None:
    lines = [line for line in RECIPE.splitlines() if not line.strip().startswith(("install:", "run:"))]
    [found] = [one for one in said(tmp_path, "\n".join(lines)) if "step" in one]
    assert "Manifests[0].Lifecycle has no step, and nucleus lite refuses such a recipe: add install or run" in found


def test_defaults_of_the_suites_components_are_held_to_their_models(tmp_path: Path) -> None:
    text = (ROOT / "recipes" / "io.sluice.StreamExporter.yaml").read_text(encoding="utf-8")
    found = said(tmp_path, text.replace("    compress: true\n", "    compres: true\n").replace("sinks: {}", "sinks: 5"))
    texts = "\n".join(found)
    assert "compres = true is an unknown key: did you mean compress?" in texts
    assert "compress is a setting of the component and not in its recipe" in texts
    assert "sinks = 5 is not a map of settings" in texts


def test_a_recipe_of_anything_is_told_and_never_a_crash(tmp_path: Path) -> None:
    for value in ("5", "[1]", "text", "{a: [b]}"):
        for key in ("ComponentConfiguration", "ComponentDependencies", "Manifests", "ComponentName"):
            assert said(tmp_path, f'RecipeFormatVersion: "2020-01-25"\n{key}: {value}\n')
