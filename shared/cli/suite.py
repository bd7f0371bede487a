"""The components of the suite, as their recipes in recipes/ declare them."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cli.output import Failure
from sluice.config import ComponentSettings

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME = "io.sluice.Runtime"


@dataclass(frozen=True)
class Member:
    """One component. `id` is its name in topics; `settings` its configuration's model, None when it has none."""

    name: str
    version: str
    id: str
    recipe: Mapping[str, Any]
    settings: type[ComponentSettings] | None

    @property
    def package(self) -> str:
        return self.id.replace("-", "_")

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The configuration that the recipe brings, accessControl included."""
        found = self.recipe.get("ComponentConfiguration", {}).get("DefaultConfiguration", {})
        assert isinstance(found, Mapping)
        return found


@cache
def members() -> Mapping[str, Member]:
    """Every component of the suite by its Greengrass name, in alphabetical order."""
    found = {}
    for path in sorted((REPOSITORY / "recipes").glob("*.yaml")):
        recipe = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 - a safe loader, in C
        name, uri = recipe["ComponentName"], recipe["Manifests"][0]["Artifacts"][0]["Uri"]
        match = _ARTIFACT.search(uri)
        assert match is not None, f"{path}: {uri} is not called sluice-<id>-<architecture>.zip"
        package = match[1].replace("-", "_")
        settings = None
        if (REPOSITORY / "components" / package / "config.py").exists():
            settings = importlib.import_module(f"{package}.config").Configuration
        found[name] = Member(name, recipe["ComponentVersion"], match[1], recipe, settings)
    return found


def find(name: str) -> Member:
    """The component with settings called `name`, by its full name or its id in topics. Raises cli.output.Failure."""
    configurable = {one.name: one for one in members().values() if one.settings is not None}
    for member in configurable.values():
        if name in (member.name, member.id):
            return member
    near = difflib.get_close_matches(name, configurable, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(configurable)}"
    raise Failure(f"{name or 'no name'}: is no component with settings: {hint}", 2)


_ARTIFACT = re.compile(r"/sluice-([a-z0-9-]+?)-(?:x86_64|aarch64)\.zip$")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
