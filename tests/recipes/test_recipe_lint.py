"""The recipes of the suite: the rules for any recipe, which `sluice check` has (cli.recipe_lint), and those of ours.

Where the limits come from: Greengrass recipe reference; gdk 1.6 (16,000 bytes, keys unique ignoring case); nucleus lite
2.6 (keys are case-sensitive, any `{` in a script begins a variable, 256 configuration keys, 4,096 bytes for one
component's policies of one service, 1,024 bytes for a list). Where one nucleus allows less than the other, the smaller
limit counts, with room to spare.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from build import runtime_requirement
from cli import recipe_lint
from cli.flow_tests import documents
from sluice.config import ComponentSettings, load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = documents(ROOT / "examples")
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
RUNTIME = ROOT / "recipes" / "io.sluice.Runtime.yaml"
DATA_ONLY = {RUNTIME}
"""Components that only lie there for others: no process, no settings, no policies."""

PROCESSES = [path for path in RECIPES if path not in DATA_ONLY]
ARCHITECTURES = {"amd64": "x86_64", "aarch64": "aarch64"}
"""What Greengrass calls an architecture, and what our zips call it."""

# Every key that a recipe of ours may have, spelled as both nuclei accept it: lite tells case apart.
TOP_KEYS = {
    "RecipeFormatVersion",
    "ComponentName",
    "ComponentVersion",
    "ComponentDescription",
    "ComponentPublisher",
    "ComponentConfiguration",
    "ComponentDependencies",
    "Manifests",
}
MANIFEST_KEYS = {"Name", "Platform", "Lifecycle", "Artifacts"}
STEPS = {"install", "run"}  # lite has no shutdown and no recover
STEP_KEYS = {"Script", "Timeout", "RequiresPrivilege", "Setenv"}  # lite has no Skipif
POLICY_KEYS = {"policyDescription", "operations", "resources"}
PUBSUB = "aws.greengrass.ipc.pubsub"
NO_POLICIES: dict[str, Any] = {"DefaultConfiguration": {"accessControl": {}}}


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand once: PyYAML alone keeps the last one and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys stand twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    recipe = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    assert isinstance(recipe, dict)
    return recipe


def defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings, without the policies that lie beside them."""
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    return {key: value for key, value in configuration.items() if key != "accessControl"}


def policies(recipe: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for service, entries in recipe.get("ComponentConfiguration", NO_POLICIES)["DefaultConfiguration"][
        "accessControl"
    ].items():
        for policy_id, policy in entries.items():
            yield service, policy_id, policy


def short_id(recipe: dict[str, Any]) -> str:
    """`io.sluice.OpcUaCollector` -> `opcua-collector`: taken from its artifacts, as the build takes it."""
    match = re.search(r"/sluice-([a-z0-9-]+)-(x86_64|aarch64)\.zip$", recipe["Manifests"][0]["Artifacts"][0]["Uri"])
    assert match is not None
    return match[1]


def settings_model(recipe: dict[str, Any]) -> type[ComponentSettings]:
    """The one model in the component's `config.py` that describes its whole configuration."""
    module = importlib.import_module(f"{short_id(recipe).replace('-', '_')}.config")
    models = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, ComponentSettings) and one.__module__ == module.__name__
    ]
    assert len(models) == 1
    return models[0]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a mapping (a list is one value to a nucleus), with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    else:
        yield path, value


def steps(path: Path) -> set[str]:
    """What a component's lifecycle consists of: one without a process only looks whether it is whole."""
    return {"install"} if path in DATA_ONLY else STEPS


every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
every_process = pytest.mark.parametrize("path", PROCESSES, ids=lambda path: path.stem)


@pytest.mark.parametrize("path", [ROOT / "recipe.yaml", *RECIPES], ids=lambda path: path.stem)
def test_sluice_check_finds_nothing_wrong_with_it(path: Path) -> None:
    """Sizes, spelling, braces, policies, settings: every rule of cli.recipe_lint, which counts for any recipe."""
    assert [str(one) for one in recipe_lint.read(path)] == []


# --- form -----------------------------------------------------------------------------------------------------------


@every_recipe
def test_its_keys_are_spelled_as_both_nuclei_accept_them(path: Path) -> None:
    recipe = read(path)
    assert set(recipe) <= TOP_KEYS
    assert ("ComponentConfiguration" not in recipe) == (path in DATA_ONLY)
    assert set(recipe.get("ComponentConfiguration", {"DefaultConfiguration": {}})) == {"DefaultConfiguration"}
    for dependency in recipe["ComponentDependencies"].values():
        assert set(dependency) == {"VersionRequirement", "DependencyType"}
        assert dependency["DependencyType"] in ("HARD", "SOFT")
    for manifest in recipe["Manifests"]:
        assert set(manifest) <= MANIFEST_KEYS
        assert set(manifest["Platform"]) == {"os", "architecture", "runtime"}
        assert set(manifest["Lifecycle"]) == steps(path), "nucleus lite refuses a component without a step"
        for step in manifest["Lifecycle"].values():
            assert set(step) <= STEP_KEYS
        for artifact in manifest["Artifacts"]:
            assert set(artifact) <= {"Uri", "Unarchive", "Permission"}
    for _, _, policy in policies(recipe):
        assert set(policy) == POLICY_KEYS


@every_recipe
def test_its_name_version_and_file_agree_and_are_valid(path: Path) -> None:
    recipe = read(path)
    assert recipe["RecipeFormatVersion"] == "2020-01-25"
    assert recipe["ComponentName"] == path.stem
    assert re.fullmatch(r"io\.sluice\.[A-Za-z0-9]{1,100}", recipe["ComponentName"])
    assert re.fullmatch(r"\d{1,6}\.\d{1,6}\.\d{1,6}", recipe["ComponentVersion"])
    assert recipe["ComponentDescription"]
    assert recipe["ComponentPublisher"] == "Sluice"


@every_recipe
def test_it_installs_on_both_architectures_and_both_nuclei(path: Path) -> None:
    recipe = read(path)
    platforms = [manifest["Platform"] for manifest in recipe["Manifests"]]
    assert platforms == [{"os": "linux", "architecture": name, "runtime": "*"} for name in ARCHITECTURES]


@every_recipe
def test_each_manifest_unpacks_its_own_zip_and_starts_what_is_in_it(path: Path) -> None:
    recipe = read(path)
    for manifest in recipe["Manifests"]:
        stem = f"sluice-{short_id(recipe)}-{ARCHITECTURES[manifest['Platform']['architecture']]}"
        uri = f"s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{stem}.zip"
        artifact: dict[str, Any] = {"Uri": uri, "Unarchive": "ZIP"}
        if path == RUNTIME:  # whichever user a component runs as, it installs from there
            artifact["Permission"] = {"Read": "ALL"}
        assert manifest["Artifacts"] == [artifact]
        for step in steps(path):
            # Through sh: files of an unpacked zip are not executable.
            assert manifest["Lifecycle"][step]["Script"] == f'sh "{{artifacts:decompressedPath}}/{stem}/{step}.sh"'


@every_recipe
def test_its_scripts_are_one_line(path: Path) -> None:
    for manifest in read(path)["Manifests"]:
        for place, value in leaves(manifest["Lifecycle"]):
            assert "\n" not in str(value), place


@every_recipe
def test_install_may_take_its_time_and_run_has_no_limit(path: Path) -> None:
    for manifest in read(path)["Manifests"]:
        assert manifest["Lifecycle"]["install"]["Timeout"] == (120 if path in DATA_ONLY else 900)
        assert "Timeout" not in manifest["Lifecycle"].get("run", {})
        assert not any(step.get("RequiresPrivilege") for step in manifest["Lifecycle"].values())


# --- dependencies ---------------------------------------------------------------------------------------------------


@every_recipe
def test_it_depends_on_the_nucleus_softly_and_on_stream_manager_only_where_it_is_used(path: Path) -> None:
    recipe = read(path)
    expected = {"aws.greengrass.Nucleus": {"VersionRequirement": ">=2.6.0 <3.0.0", "DependencyType": "SOFT"}}
    if path in PROCESSES:
        expected["io.sluice.Runtime"] = {
            "VersionRequirement": runtime_requirement(recipe["ComponentVersion"]),
            "DependencyType": "SOFT",
        }
        lock = ROOT / "components" / short_id(recipe).replace("-", "_") / "requirements.txt"
        if "stream-manager==" in lock.read_text(encoding="utf-8"):
            expected["aws.greengrass.StreamManager"] = {
                "VersionRequirement": ">=2.1.8 <3.0.0",
                "DependencyType": "HARD",
            }
    assert recipe["ComponentDependencies"] == expected


@pytest.mark.parametrize(
    ("version", "requirement"), [("0.1.0", ">=0.1.0 <0.2.0"), ("0.9.3", ">=0.9.0 <0.10.0"), ("2.0.1", ">=2.0.0 <2.1.0")]
)
def test_any_runtime_of_its_minor_version_serves_a_component(version: str, requirement: str) -> None:
    assert runtime_requirement(version) == requirement


# --- what it may do on the core -------------------------------------------------------------------------------------


def test_no_two_components_share_a_policy_id() -> None:
    ids = [policy_id for path in RECIPES for _, policy_id, _ in policies(read(path))]
    assert len(ids) == len({one.lower() for one in ids})


@every_recipe
def test_its_policies_are_its_own_described_and_name_what_they_allow(path: Path) -> None:
    recipe = read(path)
    for _, policy_id, policy in policies(recipe):
        assert policy_id.startswith(f"{recipe['ComponentName']}:"), policy_id
        assert policy["policyDescription"], policy_id


@every_process
def test_on_the_local_bus_it_may_do_its_own_part_and_nothing_else(path: Path) -> None:
    """A producer publishes below its own name; a consumer acknowledges under its own: nobody deletes another's data."""
    recipe = read(path)
    me = re.escape(short_id(recipe))
    may_publish = rf"sluice/data/{me}/\*|sluice/replay/\*/{me}/\*|sluice/ack/\*/{me}|sluice/(status|reply)/{me}"
    may_hear = rf"sluice/data/\*|sluice/ack/{me}/\*|sluice/replay/{me}/\*|sluice/command/{me}"
    rules = {"aws.greengrass#PublishToTopic": may_publish, "aws.greengrass#SubscribeToTopic": may_hear}
    for service, policy_id, policy in policies(recipe):
        if service != PUBSUB:
            continue
        [operation] = policy["operations"]
        for resource in policy["resources"]:
            assert re.fullmatch(rules[operation], resource), f"{policy_id}: {resource}"


@every_process
def test_it_says_its_status_and_needs_few_subscriptions(path: Path) -> None:
    recipe = read(path)
    allowed: dict[str, list[str]] = {}
    for service, _, policy in policies(recipe):
        if service == PUBSUB:
            for operation in policy["operations"]:
                allowed.setdefault(operation, []).extend(policy["resources"])
    assert f"sluice/status/{short_id(recipe)}" in allowed["aws.greengrass#PublishToTopic"]
    assert len(allowed["aws.greengrass#SubscribeToTopic"]) <= 6


@every_recipe
def test_it_reads_only_secrets_that_were_made_for_sluice(path: Path) -> None:
    for service, policy_id, policy in policies(read(path)):
        if service == "aws.greengrass.SecretManager":
            assert policy["operations"] == ["aws.greengrass#GetSecretValue"]
            for resource in policy["resources"]:
                assert re.fullmatch(r"arn:aws\*:secretsmanager:\*:\*:secret:sluice-.*", resource), policy_id


# --- configuration --------------------------------------------------------------------------------------------------


@every_process
def test_its_configuration_holds_no_secret(path: Path) -> None:
    for place, leaf in leaves(defaults(read(path))):
        assert not re.search(r"passw|secret|token|credential", place, re.IGNORECASE), place
        assert not re.search(r"AKIA|BEGIN [A-Z ]*KEY", str(leaf)), place


@every_process
def test_its_defaults_are_every_setting_of_the_model_at_its_default(path: Path) -> None:
    recipe = read(path)
    model = settings_model(recipe)
    raw = defaults(recipe)
    loaded = load(model, raw)
    assert [str(one) for one in loaded.problems + loaded.warnings] == []
    assert loaded.config == model()
    assert set(raw) == {field.alias for field in model.model_fields.values()}


@every_process
def test_its_defaults_mean_the_same_on_lite_which_makes_text_of_every_value(path: Path) -> None:
    def as_text(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_text(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [as_text(inner) for inner in value]
        return json.dumps(value) if isinstance(value, bool | int | float) else value

    recipe = read(path)
    loaded = load(settings_model(recipe), as_text(defaults(recipe)))
    assert [str(one) for one in loaded.problems + loaded.warnings] == []
    assert loaded.config == settings_model(recipe)()


@every_process
def test_each_setting_is_explained_in_a_sentence_above_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for key in defaults(read(path)):
        [number] = [number for number, line in enumerate(lines) if line.startswith(f"    {key}:")]
        above: list[str] = []
        while lines[number - 1].startswith("    #"):
            number -= 1
            above.insert(0, lines[number].strip().lstrip("# "))
        assert re.match(r"[A-Z]", above[0]), key
        assert any(line.rstrip().endswith((".", ":")) or ". " in line for line in above), key


@every_process
def test_the_example_in_its_comments_is_accepted_word_for_word(path: Path) -> None:
    """Comment lines indented by three or more spaces are an example of what a deployment merges."""
    text = path.read_text(encoding="utf-8")
    example = yaml.load("\n".join(re.findall(r"^    #   (.*)$", text, re.MULTILINE)), StrictLoader)
    recipe = read(path)
    loaded = load(settings_model(recipe), {**defaults(recipe), **example})
    assert [str(one) for one in loaded.problems + loaded.warnings] == []
    assert loaded.config != settings_model(recipe)()


# --- the root recipe and gdk ----------------------------------------------------------------------------------------


def test_the_root_recipe_is_a_name_for_gdk_and_nothing_else() -> None:
    recipe = read(ROOT / "recipe.yaml")
    assert set(recipe) <= TOP_KEYS - {"ComponentConfiguration", "ComponentDependencies"}
    assert recipe["Manifests"] == [{"Platform": {"os": "linux"}}]


def test_gdk_builds_everything_with_our_script() -> None:
    config = json.loads((ROOT / "gdk-config.json").read_text(encoding="utf-8"))
    [(name, component)] = config["component"].items()  # gdk knows one component to a repository
    assert name == read(ROOT / "recipe.yaml")["ComponentName"]
    assert component["build"] == {"build_system": "custom", "custom_build_command": ["python3", "scripts/build.py"]}
    assert set(component) == {"author", "version", "build", "publish"}
    assert set(component["publish"]) == {"bucket", "region"}


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_by_the_components_that_it_configures(example: Path) -> None:
    document = read(example)
    by_name = {path.stem: path for path in RECIPES}
    assert set(document) == {"components"}
    for name, entry in document["components"].items():
        if name.startswith("io.sluice.Tags."):  # made from the site's own tags.csv: it has nothing to configure
            assert set(entry or {}) <= {"componentVersion"}, name
            continue
        recipe = read(by_name[name])
        assert entry["componentVersion"] == recipe["ComponentVersion"]
        merge = entry["configurationUpdate"]["merge"]
        loaded = load(settings_model(recipe), {**defaults(recipe), **merge})
        assert [str(one) for one in loaded.problems + loaded.warnings] == []
        assert loaded.config != settings_model(recipe)()
