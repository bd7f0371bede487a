"""Recipes against the limits of the two nuclei, of the service and of gdk, whoever wrote them.

Where one nucleus allows less than the other the smaller limit counts. Nucleus lite tells upper and lower case apart,
takes any `{` of a script for the beginning of a variable, and refuses a recipe without a step.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cli.document import Tree, parse_place
from cli.finding import Findings
from cli.gateway import Configured
from cli.limits import check_lite, check_plain_secrets
from cli.suite import REPOSITORY, RUNTIME, members
from sluice import tag_package
from sluice.config import Problem
from sluice.problem import render
from sluice.schema import Place

LARGEST: Final = 16_000
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "recipe": (
        "RecipeFormatVersion",
        "ComponentName",
        "ComponentVersion",
        "ComponentDescription",
        "ComponentPublisher",
        "ComponentType",
        "ComponentConfiguration",
        "ComponentDependencies",
        "Manifests",
    ),
    "ComponentConfiguration": ("DefaultConfiguration",),
    "dependency": ("VersionRequirement", "DependencyType"),
    "manifest": ("Name", "Platform", "Lifecycle", "Artifacts"),
    "Platform": ("os", "architecture", "architecture.detail", "runtime"),
    "Lifecycle": ("install", "run", "startup", "Setenv"),
    "step": ("Script", "Timeout", "RequiresPrivilege", "Setenv"),
    "artifact": ("Uri", "Unarchive", "Permission"),
    "policy": ("policyDescription", "operations", "resources"),
}
"""What a recipe may hold, as both nuclei spell it."""

_STEPS: Final = ("install", "run", "startup")
_VARIABLE: Final = re.compile(
    r"\{(?:[A-Za-z0-9_.-]+:)?(?:artifacts:(?:decompressedPath|path)|work:path|kernel:rootPath|iot:thingName)\}"
)
_REQUIREMENT: Final = re.compile(r"(>=|<=|>|<|=)?\d+\.\d+\.\d+( (>=|<=|>|<|=)?\d+\.\d+\.\d+)*")
_MOST_POLICIES: Final = 10
_LARGEST_POLICIES: Final = 3_500
_LARGEST_RESOURCES: Final = 1_000

_Fault = Callable[[Place, str, str], None]


def check_recipe(tree: Tree) -> Findings:
    """The findings of one recipe."""
    recipe = tree.value
    name = str(recipe.get("ComponentName", ""))
    findings = Findings(tree.path, lambda component, path: _locate(tree, path))

    def fault(place: Place, problem: str, remedy: str, value: Any = None) -> None:
        findings.at("error", tree.position(place), name, Problem(render(place), value, problem, remedy))

    for one in tree.faults:
        findings.at("error", (one.line, one.column), name, Problem(one.place, None, one.problem, one.remedy))
    _form(tree, recipe, fault)
    _twins(recipe, fault)
    _manifests(recipe, fault)
    _policies(recipe, fault)
    _configuration(tree, recipe, name, findings)
    return findings


def _locate(tree: Tree, path: str) -> tuple[int, int]:
    return tree.position(("ComponentConfiguration", "DefaultConfiguration", *parse_place(path)))


def _form(tree: Tree, recipe: Mapping[str, Any], fault: _Fault) -> None:
    size = tree.path.stat().st_size
    if size > LARGEST:
        fault((), f"has {size} bytes, and gdk takes {LARGEST}", "move what is long into a file of the artifact")
    _keys(recipe, "recipe", (), fault)
    for key, pattern, example in (
        ("RecipeFormatVersion", r"2020-01-25", '"2020-01-25"'),
        ("ComponentName", r"[a-zA-Z0-9-_.]{1,128}", "com.example.Press"),
        ("ComponentVersion", r"\d{1,6}\.\d{1,6}\.\d{1,6}", '"1.0.0"'),
    ):
        value = recipe.get(key)
        if value is None:
            fault((key,), "is required", f"add {key}: {example}")
        elif not isinstance(value, str) or not re.fullmatch(pattern, value):
            fault((key,), f"is not written as it must be: {value}", f"write it such as {example}, in quotes")
    for name, dependency in _map(recipe.get("ComponentDependencies")):
        place = ("ComponentDependencies", name)
        _keys(dependency, "dependency", place, fault)
        if isinstance(dependency, Mapping):
            _dependency(place, name, dependency, fault)
    _keys(recipe.get("ComponentConfiguration"), "ComponentConfiguration", ("ComponentConfiguration",), fault)


def _dependency(place: Place, name: str, dependency: Mapping[str, Any], fault: _Fault) -> None:
    kind = dependency.get("DependencyType", "HARD")
    if kind not in ("HARD", "SOFT"):
        fault((*place, "DependencyType"), "is no kind of dependency", "use HARD or SOFT")
    elif kind == "HARD" and (name == RUNTIME or name.startswith(tag_package.PREFIX)):
        problem = f"is HARD, and {name} has no process: on nucleus lite what depends on it never starts"
        fault((*place, "DependencyType"), problem, "use SOFT, which brings it along as well")
    requirement = dependency.get("VersionRequirement")
    if not isinstance(requirement, str) or not _REQUIREMENT.fullmatch(requirement):
        problem = f"is no version requirement that nucleus lite understands: {requirement}"
        fault((*place, "VersionRequirement"), problem, 'write comparisons such as ">=0.1.0 <0.2.0", a blank between')


def _twins(value: Any, fault: _Fault, place: Place = ()) -> None:
    if isinstance(value, Mapping):
        spelled: dict[str, str] = {}
        for key, inner in value.items():
            other = spelled.setdefault(key.casefold(), key)
            if other != key:
                problem = f"is the same name as {other} to Greengrass, which ignores case"
                fault((*place, key), problem, "rename one of the two")
            _twins(inner, fault, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _twins(inner, fault, (*place, f"[{index}]"))


def _manifests(recipe: Mapping[str, Any], fault: _Fault) -> None:
    manifests = recipe.get("Manifests")
    if not isinstance(manifests, list) or not manifests:
        fault(("Manifests",), "has no entry, so the component runs nowhere", "add one for each platform")
        return
    umbrella = recipe.get("ComponentName") == "io.sluice.Gateway"  # gdk wants a recipe there; it is never deployed
    for index, manifest in enumerate(manifests):
        place = ("Manifests", f"[{index}]")
        if not isinstance(manifest, Mapping):
            fault(place, "is not a map", "write Platform, Lifecycle and Artifacts")
            continue
        _keys(manifest, "manifest", place, fault)
        platform = manifest.get("Platform")
        _keys(platform, "Platform", (*place, "Platform"), fault)
        if not umbrella and not (isinstance(platform, Mapping) and platform.get("runtime")):
            problem = "has no runtime, so nucleus lite never deploys it"
            fault((*place, "Platform"), problem, 'add runtime: "*"')
        lifecycle = manifest.get("Lifecycle")
        _keys(lifecycle, "Lifecycle", (*place, "Lifecycle"), fault)
        if not umbrella and not (isinstance(lifecycle, Mapping) and set(_STEPS) & set(lifecycle)):
            fault((*place, "Lifecycle"), "has no step, and nucleus lite refuses such a recipe", "add install or run")
        for step, content in _map(lifecycle):
            if step in _STEPS:
                _step((*place, "Lifecycle", step), content, fault)
        artifacts = manifest.get("Artifacts") or []
        if not isinstance(artifacts, list):
            fault((*place, "Artifacts"), "is not a list", "write - Uri: s3://… lines below it")
            continue
        for number, artifact in enumerate(artifacts):
            _keys(artifact, "artifact", (*place, "Artifacts", f"[{number}]"), fault)


def _step(place: Place, content: Any, fault: _Fault) -> None:
    script = content.get("Script") if isinstance(content, Mapping) else content
    if isinstance(content, Mapping):
        _keys(content, "step", place, fault)
        place = (*place, "Script")
    if not isinstance(script, str) or not script.strip():
        fault(place, "is no script", "write the command to run")
        return
    if "configuration:" in script:
        problem = "takes configuration into a script: whoever configures can run commands, and each change restarts it"
        fault(place, problem, "read the configuration in the program")
    elif set("{}") & set(_VARIABLE.sub("", script)):
        problem = "has a brace that is no recipe variable, and nucleus lite takes every brace for one"
        fault(place, problem, "write $VAR, and put what needs braces into a script of the artifact")


def _policies(recipe: Mapping[str, Any], fault: _Fault) -> None:
    top = ("ComponentConfiguration", "DefaultConfiguration", "accessControl")
    configuration = recipe.get("ComponentConfiguration")
    defaults = configuration.get("DefaultConfiguration") if isinstance(configuration, Mapping) else None
    for service, entries in _map(defaults.get("accessControl") if isinstance(defaults, Mapping) else None):
        place = (*top, service)
        if len(json.dumps(entries)) > _LARGEST_POLICIES or len(list(_map(entries))) > _MOST_POLICIES:
            problem = f"is more than {_MOST_POLICIES} policies or {_LARGEST_POLICIES} bytes, which lite may not keep"
            fault(place, problem, "put resources of one operation into one policy")
        for policy_id, policy in _map(entries):
            here = (*place, policy_id)
            _keys(policy, "policy", here, fault)
            resources = policy.get("resources") if isinstance(policy, Mapping) else None
            operations = policy.get("operations") if isinstance(policy, Mapping) else None
            if not isinstance(resources, list) or not isinstance(operations, list):
                fault(here, "needs a list of operations and one of resources", "add both")
                continue
            if len(json.dumps(resources)) >= _LARGEST_RESOURCES:
                fault((*here, "resources"), f"is longer than {_LARGEST_RESOURCES} bytes", "split it over policies")
            for number, resource in enumerate(resources):
                if not re.search(r"[A-Za-z]{3}", str(resource)):
                    fault(
                        (*here, "resources", f"[{number}]"), f"is open to everything: {resource}", "name what it needs"
                    )
                elif set(str(resource)) & set("?{}$ "):
                    problem = f"is refused or replaced by a nucleus: {resource}"
                    fault((*here, "resources", f"[{number}]"), problem, "use only * as a wildcard")
            for number, operation in enumerate(operations):
                if not re.fullmatch(r"aws\.greengrass#[A-Z][A-Za-z]+", str(operation)):
                    problem = f"is no operation: {operation}"
                    fault(
                        (*here, "operations", f"[{number}]"),
                        problem,
                        'write it such as "aws.greengrass#PublishToTopic"',
                    )


def _configuration(tree: Tree, recipe: Mapping[str, Any], name: str, findings: Findings) -> None:
    configuration = recipe.get("ComponentConfiguration")
    defaults = configuration.get("DefaultConfiguration") if isinstance(configuration, Mapping) else None
    for key, _ in _map(defaults):
        if key.startswith("_"):
            findings.add("error", name, Problem(key, None, "begins with _, and classic does not keep it", "rename it"))
    member = members().get(name)
    if member is None or member.settings is None or not isinstance(defaults, Mapping):
        return
    configured = Configured(member, defaults, REPOSITORY)
    for one in (*configured.loaded.problems, *configured.loaded.warnings):
        findings.add("error", name, one)
    check_lite(configured, findings, "lite")
    check_plain_secrets(configured, findings)
    for field in member.settings.model_fields.values():
        if field.alias is not None and field.alias not in defaults:
            problem = "is a setting of the component and not in its recipe"
            findings.add("error", name, Problem(field.alias, None, problem, "add it with its default and a comment"))


def _keys(value: Any, kind: str, place: Place, fault: _Fault) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        if kind != "step":
            fault(place, "is not a map", f"the keys here are: {', '.join(KEYS[kind])}")
        return
    known = KEYS[kind]
    for key in value:
        if key in known:
            continue
        near = difflib.get_close_matches(key.lower(), {one.lower(): one for one in known}, 1, 0.6)
        nearest = next((one for one in known if near and one.lower() == near[0]), None)
        remedy = f"did you mean {nearest}?" if nearest else f"the keys here are: {', '.join(known)}"
        fault((*place, key), "is no key that both nuclei know", remedy)


def _map(value: Any) -> Iterator[tuple[str, Any]]:
    yield from value.items() if isinstance(value, Mapping) else ()


def read(path: Path) -> Findings:
    """The findings of the recipe at `path`. Raises DocumentError when it is no YAML."""
    return check_recipe(Tree.read(path))
