"""The components of the suite, as their recipes in recipes/ declare them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from build import read_recipe
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
        declared = read_recipe(path)
        settings = None
        if (REPOSITORY / "components" / declared.package / "config.py").exists():
            settings = importlib.import_module(f"{declared.package}.config").Configuration
        recipe = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
        found[declared.name] = Member(declared.name, declared.version, declared.id, recipe, settings)
    return found


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
