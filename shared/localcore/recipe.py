"""Recipes: reading one, choosing its manifest for this machine, and its variables. Sans-I/O but for load().

The two nuclei read the same text differently. Classic ignores the case of keys, keeps YAML types and leaves an unknown
`{variable}` as it is. Lite wants exact keys, turns every YAML scalar into a string, takes every `{` in a script for the
beginning of a variable, ends paths with `/`, and deploys only manifests that name a `runtime` and have a step to run.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcore.configuration import Configuration, NoSuchKey
from localcore.profile import Profile

MAX_RECIPE = 16 * 1024
_DEFAULT_TIMEOUTS = {"install": 120.0, "run": None, "shutdown": 15.0}
_NOT_HERE = ("startup", "recover", "bootstrap", "uninstall")
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "aarch64", "arm64": "aarch64", "armv7l": "arm"}
_VARIABLE = re.compile(
    r"\{(?:(?P<component>[\w.-]+):)?(?P<kind>configuration|artifacts|work|kernel|iot):(?P<key>[^{}]*)\}"
)
_BRACES = re.compile(r"\{[^}]*\}?")
_ENVIRONMENT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class RecipeError(ValueError):
    """A recipe that this nucleus does not deploy; the text names the recipe, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a lifecycle: its script, its limit in seconds (None: none), its own environment variables."""

    script: str
    timeout: float | None
    setenv: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The steps that are run here."""

    install: Step | None = None
    run: Step | None = None
    shutdown: Step | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that the deployment brings; `unarchive` means that it is a zip to unpack. Modes are POSIX bits."""

    file: str
    unarchive: bool
    mode: int


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another component that must be there; a hard one must run before, and takes its dependents with it.

    Classic takes a dependency without a type for a hard one. Lite makes nothing at all of it, and it counts as soft."""

    name: str
    requirement: str
    hard: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe says to this nucleus on this machine."""

    name: str
    version: str
    defaults: Mapping[str, Any]
    dependencies: tuple[Dependency, ...]
    lifecycle: Lifecycle
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the core keeps what belongs to components: as both nuclei lay it out."""

    root: Path

    def packages(self) -> tuple[Path, Path]:
        """The two folders that hold every component's artifacts, each as `<name>/<version>/`."""
        return self.root / "packages" / "artifacts", self.root / "packages" / "artifacts-unarchived"

    def artifacts(self, name: str, version: str) -> Path:
        """The artifacts as they came."""
        return self.packages()[0] / name / version

    def unarchived(self, name: str, version: str) -> Path:
        """The unpacked ones, each in a folder with the name of its zip."""
        return self.packages()[1] / name / version

    def work(self, name: str) -> Path:
        """The component's working directory."""
        return self.root / "work" / name

    def log(self, name: str) -> Path:
        """What the component says."""
        return self.root / "logs" / f"{name}.log"


def this_platform(profile: Profile) -> dict[str, str]:
    """The platform attributes of this machine, as manifests name them."""
    machine = platform.machine()
    attributes = {"os": "linux", "architecture": _ARCHITECTURES.get(machine, machine)}
    if profile.strict_recipe:
        attributes["runtime"] = "aws_nucleus_lite"
    return attributes


def load(path: Path, profile: Profile) -> Recipe:
    """Read a recipe file, YAML or JSON, as the nucleus does. Raises RecipeError."""
    text = path.read_text(encoding="utf-8")
    if len(text.encode()) > MAX_RECIPE:
        raise RecipeError(f"{path}: larger than {MAX_RECIPE} bytes: move long lists out of DefaultConfiguration")
    try:
        if path.suffix == ".json":
            document = json.loads(text)
        else:
            document = yaml.load(text, yaml.BaseLoader if profile.yaml_scalars_are_strings else yaml.SafeLoader)  # noqa: S506
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, Mapping):
        raise RecipeError(f"{path}: not a mapping")
    try:
        return parse(document, profile, this_platform(profile))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def parse(document: Mapping[str, Any], profile: Profile, attributes: Mapping[str, str]) -> Recipe:
    """Understand a recipe for a machine with these platform attributes. Raises RecipeError."""
    read = _Reader(profile)
    manifest = _choose(read, document, attributes)
    setenv, steps = _steps(read, document, manifest)
    return Recipe(
        name=str(read.get(document, "ComponentName", required=True)),
        version=str(read.get(document, "ComponentVersion", required=True)),
        defaults=read.map(read.map(document, "ComponentConfiguration"), "DefaultConfiguration"),
        dependencies=tuple(
            Dependency(
                name,
                str(read.get(value, "VersionRequirement") or "*"),
                str(read.get(value, "DependencyType") or ("SOFT" if profile.strict_recipe else "HARD")).upper()
                == "HARD",
            )
            for name, value in read.map(document, "ComponentDependencies").items()
        ),
        lifecycle=Lifecycle(**{name: _step(read, name, value, setenv) for name, value in steps.items()}),
        artifacts=tuple(_artifact(read, item) for item in read.get(manifest, "Artifacts") or ()),
    )


class _Reader:
    """Looks keys up as the nucleus does."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def get(self, mapping: Any, key: str, *, required: bool = False) -> Any:
        if not isinstance(mapping, Mapping):
            raise RecipeError(f"{mapping!r} is not a mapping, where {key} is looked for")
        if key in mapping:
            return mapping[key]
        for other, value in mapping.items():
            if str(other).casefold() == key.casefold():
                if self.profile.strict_recipe:
                    raise RecipeError(f"key {other!r}: nucleus lite reads only the spelling {key!r}")
                return value
        if required:
            raise RecipeError(f"{key} is missing")
        return None

    def map(self, mapping: Any, key: str) -> Mapping[str, Any]:
        value = self.get(mapping, key) or {}
        if not isinstance(value, Mapping):
            raise RecipeError(f"{key} is not a mapping")
        return value


def _choose(read: _Reader, document: Mapping[str, Any], attributes: Mapping[str, str]) -> Mapping[str, Any]:
    """The first manifest that fits."""
    manifests = read.get(document, "Manifests") or []
    for manifest in manifests:
        wanted = read.map(manifest, "Platform")
        if read.profile.strict_recipe and "runtime" not in wanted:
            continue
        if all(_fits(read, str(value), attributes.get(key)) for key, value in wanted.items()):
            return dict(manifest)
    if not manifests and not read.profile.strict_recipe:
        return {}
    hint = ", and nucleus lite needs `runtime` in it" if read.profile.strict_recipe else ""
    raise RecipeError(f"no manifest fits this machine ({dict(attributes)}): Platform must match{hint}")


def _fits(read: _Reader, wanted: str, given: str | None) -> bool:
    if wanted == "*":
        return True
    if given is None:
        return False
    if len(wanted) > 1 and wanted[0] == wanted[-1] == "/" and not read.profile.strict_recipe:
        return re.fullmatch(wanted[1:-1], given) is not None
    return wanted == given


def _steps(
    read: _Reader, document: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """(environment variables of all steps, the steps) of a manifest, or of the global lifecycle it selects."""
    lifecycle = read.map(manifest, "Lifecycle")
    if not lifecycle:
        everywhere = read.map(document, "Lifecycle")
        selections = read.get(manifest, "Selections") or ["all"]
        selected = next((everywhere[name] for name in selections if name in everywhere), None)
        lifecycle = selected if selected is not None else ({} if read.profile.strict_recipe else everywhere)
    for name in _NOT_HERE:
        if read.get(lifecycle, name) is not None:
            raise RecipeError(f"Lifecycle.{name}: this local core runs install, run and shutdown only")
    steps = {name: read.get(lifecycle, name) for name in ("install", "run", "shutdown")}
    if read.profile.strict_recipe:
        steps["shutdown"] = None  # lite does not know it
        if not any(steps.values()):
            raise RecipeError(
                "Recipes without at least 1 valid lifecycle step aren't currently supported by nucleus lite"
            )
    return _setenv(read, lifecycle, "Lifecycle"), {name: step for name, step in steps.items() if step is not None}


def _setenv(read: _Reader, mapping: Mapping[str, Any], where: str) -> dict[str, str]:
    variables = read.map(mapping, "Setenv")
    for key, value in variables.items():
        if read.profile.strict_recipe and (not isinstance(value, str) or not _ENVIRONMENT_KEY.fullmatch(key)):
            raise RecipeError(f"{where}.Setenv.{key}: nucleus lite takes names like NAME_1 and text values only")
    return {key: str(value) for key, value in variables.items()}


def _step(read: _Reader, name: str, value: Any, setenv: Mapping[str, str]) -> Step:
    if isinstance(value, str):
        return Step(value, _DEFAULT_TIMEOUTS[name], setenv)
    script = read.get(value, "Script", required=True)
    if read.get(value, "Skipif") is not None:
        raise RecipeError(f"Lifecycle.{name}.Skipif: this local core does not know it")
    timeout = read.get(value, "Timeout")
    try:
        seconds = _DEFAULT_TIMEOUTS[name] if timeout is None else float(timeout)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"Lifecycle.{name}.Timeout: {timeout!r} is not a number of seconds") from error
    return Step(str(script), seconds, {**setenv, **_setenv(read, value, f"Lifecycle.{name}")})


def _artifact(read: _Reader, item: Mapping[str, Any]) -> Artifact:
    permission = read.map(item, "Permission")
    mode = {"NONE": 0, "OWNER": 0o400, "ALL": 0o444}[str(read.get(permission, "Read") or "OWNER").upper()]
    mode |= {"NONE": 0, "OWNER": 0o100, "ALL": 0o111}[str(read.get(permission, "Execute") or "NONE").upper()]
    uri = str(read.get(item, "Uri", required=True))
    return Artifact(uri.rsplit("/", 1)[-1], str(read.get(item, "Unarchive") or "NONE").upper() == "ZIP", mode)


def expand(
    text: str,
    recipe: Recipe,
    profile: Profile,
    folders: Folders,
    thing_name: str,
    configuration: Callable[[str], Configuration],
    versions: Mapping[str, str],
) -> str:
    """Put values for the recipe variables in a script or an environment variable.

    `configuration` gives the configuration of a component, `versions` the version of each deployed one. A component may
    name itself (no prefix) and its direct dependencies. Raises RecipeError where lite fails the deployment.
    """
    slash = "/" if profile.strict_recipe else ""

    def value(match: re.Match[str]) -> str | None:
        name, kind, key = match["component"] or recipe.name, match["kind"], match["key"]
        if name != recipe.name and name not in {dependency.name for dependency in recipe.dependencies}:
            return None
        if kind == "configuration":
            try:
                found = configuration(name).read([part for part in key.split("/") if part])
            except NoSuchKey:
                return None
            return found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
        version = versions.get(name, recipe.version)
        paths = {
            ("artifacts", "path"): folders.artifacts(name, version),
            ("artifacts", "decompressedPath"): folders.unarchived(name, version),
            ("work", "path"): folders.work(name),
            ("kernel", "rootPath"): folders.root,
        }
        if (kind, key) == ("iot", "thingName"):
            return thing_name
        return f"{paths[kind, key]}{slash}" if (kind, key) in paths else None

    if profile.strict_recipe:

        def strictly(match: re.Match[str]) -> str:
            variable = _VARIABLE.fullmatch(match[0])
            found = value(variable) if variable else None
            if found is None:
                raise RecipeError(
                    f"{recipe.name}: {match[0]!r} in a script: to nucleus lite every brace begins a variable, and "
                    "this is none: write $NAME for a shell variable, and move other braces into a file of the artifact"
                )
            return found

        return _BRACES.sub(strictly, text)

    def kindly(match: re.Match[str]) -> str:
        found = value(match)
        return match[0] if found is None else found

    return _VARIABLE.sub(kindly, text)
