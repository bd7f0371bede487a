"""The components of the suite, as their recipes in recipes/ declare them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

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


_ARTIFACT = re.compile(r"/sluice-([a-z0-9-]+?)-(?:x86_64|aarch64)\.zip$")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
