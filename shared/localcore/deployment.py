"""Deployment documents: which components are wanted, what they need, and how their configuration changes.

components:
  <name>:
    componentVersion: 1.0.0          left out: the one version that the recipe folder has
    configurationUpdate:
      reset: ["/path/to/key", ""]    JSON pointers, applied first
      merge: {…}                     a mapping, or its JSON text
deploymentPolicies:
  failureHandlingPolicy: ROLLBACK    left out: DO_NOTHING (the cloud's default is ROLLBACK)
  configurationValidationPolicy: {timeoutInSeconds: 20}

This is what CreateDeployment takes; whatever else that has in it does not concern a device, and is passed over.
"""

from __future__ import annotations

import filecmp
import graphlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcore.configuration import Configuration, ConfigurationError
from localcore.profile import Profile
from localcore.recipe import Folders, Recipe, RecipeError, load
from localcore.validation import DEFAULT_TIMEOUT

_COMPARISON = re.compile(r"(>=|<=|>|<|=|\^|~)?(\d+(?:\.\d+){0,2})")


class DeploymentError(RuntimeError):
    """A deployment that cannot be carried out; the text names the component, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One component that a document lists."""

    name: str
    version: str | None
    reset: tuple[tuple[str, ...], ...]
    merge: Mapping[str, Any]
    updates: bool
    """Whether there is a configurationUpdate, be it empty."""


@dataclass(frozen=True, slots=True)
class Policies:
    """How a deployment is to be carried out."""

    rollback: bool
    """Take everything back when a component is BROKEN after it."""
    validation_timeout: float
    """Seconds that components have to judge their proposed configuration."""


@dataclass(eq=False, slots=True)
class Deployment:
    """A deployment that was begun, and what has become of it.

    status                        what happened
    ----------------------------  ------------------------------------------------------------------------------
    IN_PROGRESS                   not every component that it started runs or has ended well
    SUCCEEDED                     they do; what it does not list is gone, and so are the artifacts of old versions
    FAILED_NO_STATE_CHANGE        validation failed: nothing was changed (classic)
    FAILED_ROLLBACK_NOT_REQUESTED a component is BROKEN, everything stays as it is (classic)
    FAILED_ROLLBACK_COMPLETE      a component was BROKEN, everything is as it was before (classic)
    FAILED_UNABLE_TO_ROLLBACK     a component was BROKEN, and on the way back again (classic)
    FAILED                        a component is BROKEN or can never start (lite, which has no other words for it)
    CANCELED                      the next deployment came first
    """

    id: str
    components: Mapping[str, str]
    """The version of each component, in the order in which they start."""
    status: str = "IN_PROGRESS"
    why: str = ""
    """Why it failed, for people."""


def parse_document(document: Mapping[str, Any]) -> list[Wanted]:
    """Understand a deployment document. Raises DeploymentError."""
    components = document.get("components")
    if not isinstance(components, Mapping):
        raise DeploymentError("the document has no `components` mapping")
    wanted = []
    for name, entry in components.items():
        if not isinstance(entry or {}, Mapping):
            raise DeploymentError(f"{name}: {entry!r} is not a mapping")
        update = (entry or {}).get("configurationUpdate") or {}
        if not isinstance(update, Mapping):
            raise DeploymentError(f"{name}: configurationUpdate is not a mapping")
        merge = update.get("merge") or {}
        if isinstance(merge, str):
            try:
                merge = json.loads(merge)
            except ValueError as error:
                raise DeploymentError(f"{name}: configurationUpdate.merge is not JSON: {error}") from error
        if not isinstance(merge, Mapping):
            raise DeploymentError(f"{name}: configurationUpdate.merge is not a mapping")
        reset = tuple(_pointer(name, text) for text in update.get("reset") or ())
        updates = "configurationUpdate" in (entry or {})
        wanted.append(Wanted(str(name), (entry or {}).get("componentVersion"), reset, merge, updates))
    return wanted


def parse_policies(document: Mapping[str, Any]) -> Policies:
    """Understand a document's deploymentPolicies. Raises DeploymentError."""
    policies = document.get("deploymentPolicies") or {}
    if not isinstance(policies, Mapping):
        raise DeploymentError("deploymentPolicies is not a mapping")
    handling = policies.get("failureHandlingPolicy") or "DO_NOTHING"
    if handling not in ("ROLLBACK", "DO_NOTHING"):
        raise DeploymentError(f"failureHandlingPolicy {handling!r} is neither ROLLBACK nor DO_NOTHING")
    validation = policies.get("configurationValidationPolicy") or {}
    timeout = validation.get("timeoutInSeconds", DEFAULT_TIMEOUT) if isinstance(validation, Mapping) else None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
        raise DeploymentError("configurationValidationPolicy needs timeoutInSeconds, a number above 0")
    return Policies(handling == "ROLLBACK", float(timeout))


def _pointer(name: str, text: str) -> tuple[str, ...]:
    if text and not text.startswith("/"):
        raise DeploymentError(f"{name}: reset {text!r} is not a JSON pointer: begin it with '/', or '' for everything")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def resolve(wanted: Sequence[Wanted], recipe_dir: Path, profile: Profile) -> dict[str, Recipe]:
    """The recipes of the wanted components and of all they depend on, dependencies first.

    Raises DeploymentError when one is missing, does not fit a requirement or depends on itself.
    """
    builtin = dict(profile.builtin)
    recipes: dict[str, Recipe] = {}
    todo = [(item.name, item.version, "the deployment") for item in wanted]
    while todo:
        name, version, who = todo.pop()
        if name not in recipes and name not in builtin:
            recipes[name] = _find(name, version, recipe_dir, profile, who)
            todo += [(dependency.name, None, name) for dependency in recipes[name].dependencies]
    for recipe in recipes.values():
        for dependency in recipe.dependencies:
            found = recipes[dependency.name].version if dependency.name in recipes else builtin[dependency.name]
            if not satisfies(found, dependency.requirement, profile):
                raise DeploymentError(
                    f"{recipe.name} needs {dependency.name} {dependency.requirement}, and this core has {found}"
                )
    graph = {name: {d.name for d in recipe.dependencies if d.name in recipes} for name, recipe in recipes.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise DeploymentError(f"components depend on each other in a circle: {' -> '.join(error.args[1])}") from error
    return {name: recipes[name] for name in order}


def _find(name: str, version: str | None, recipe_dir: Path, profile: Profile, who: str) -> Recipe:
    pattern = re.compile(re.escape(name) + "-" + (re.escape(version) if version else r"\d.*") + r"\.(yaml|yml|json)")
    files = sorted(path for path in recipe_dir.iterdir() if pattern.fullmatch(path.name))
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise DeploymentError(
            f"{who} wants {name} {version or '(any version)'}: expected one recipe file {name}-<version>.yaml in "
            f"{recipe_dir}, found {found}; the components of AWS on this core: {', '.join(dict(profile.builtin))}"
        )
    try:
        recipe = load(files[0], profile)
    except RecipeError as error:
        raise DeploymentError(str(error)) from error
    if recipe.name != name or (version is not None and recipe.version != version):
        raise DeploymentError(f"{files[0]} is the recipe of {recipe.name} {recipe.version}")
    return recipe


def satisfies(version: str, requirement: str, profile: Profile) -> bool:
    """Whether a version fits a requirement such as `>=2.0.0 <3.0.0`, `^1.2.0`, `~1.2.0`, `1.0.0 || 2.0.0` or `*`.

    On a nucleus that only compares (lite), nothing ever fits one with `^`, `~` or `||`.
    """
    if not profile.matches_ranges and re.search(r"[~^|]", requirement):
        return False
    numbers = _numbers(version)
    return any(all(_compares(numbers, term) for term in part.split()) for part in requirement.split("||"))


def _numbers(version: str) -> tuple[int, ...]:
    core = re.split(r"[-+]", version)[0]
    return tuple(int(part) for part in core.split("."))


def _compares(version: tuple[int, ...], term: str) -> bool:
    if term == "*":
        return True
    match = _COMPARISON.fullmatch(term)
    if match is None:
        raise DeploymentError(f"version requirement {term!r} is not understood")
    operator, given = match[1] or "=", _numbers(match[2])
    limit = given + (0,) * (3 - len(given))
    if operator == "^":
        return limit <= version and version[0] == limit[0]
    if operator == "~":
        return limit <= version and version[:2] == limit[:2]
    return {
        ">=": version >= limit,
        "<=": version <= limit,
        ">": version > limit,
        "<": version < limit,
        "=": version == limit,
    }[operator]


def configure(configuration: Configuration, recipe: Recipe, wanted: Wanted | None, now: float) -> None:
    """Bring a component's configuration up to a deployment: defaults where nothing is, then reset, then merge.

    `wanted` is None for a component that is only a dependency: a deployment does not touch its configuration.
    """
    try:
        configuration.add_defaults(recipe.defaults)
        if wanted is not None:
            for path in wanted.reset:
                configuration.reset(path, recipe.defaults)
            configuration.merge((), wanted.merge, now)
    except ConfigurationError as error:
        raise DeploymentError(f"{recipe.name}: its configuration cannot be stored: {error}") from error


def remove_stale_artifacts(folders: Folders, keep: Mapping[str, str]) -> None:
    """Delete the artifacts of all but the versions that `keep` names for each component."""
    for folder in folders.packages():
        for version in folder.glob("*/*"):
            if keep.get(version.parent.name) != version.name:
                shutil.rmtree(version)
        for component in folder.glob("*"):
            if component.name not in keep:
                component.rmdir()


def place_artifacts(recipe: Recipe, artifact_dir: Path, folders: Folders, owner: int | None = None) -> bool:
    """Copy and unpack a recipe's artifacts from `<artifact_dir>/<name>/<version>/`; whether any of them is new.

    owner: number of the user and group that they are given to, None for ours.
    """
    changed = False
    for artifact in recipe.artifacts:
        source = artifact_dir / recipe.name / recipe.version / artifact.file
        target = folders.artifacts(recipe.name, recipe.version) / artifact.file
        if not source.is_file():
            raise DeploymentError(f"{recipe.name} {recipe.version}: artifact {source} does not exist: build it first")
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            continue
        changed = True
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(artifact.mode)
        _give(target, owner)
        if artifact.unarchive:
            unpacked = folders.unarchived(recipe.name, recipe.version) / source.stem
            shutil.rmtree(unpacked, ignore_errors=True)
            with zipfile.ZipFile(source) as archive:
                archive.extractall(unpacked)
            for path in unpacked.rglob("*"):
                if path.is_file():
                    path.chmod(artifact.mode)
                _give(path, owner)
            _give(unpacked, owner)
    return changed


def _give(path: Path, owner: int | None) -> None:
    if owner is not None:
        os.chown(path, owner, owner)
