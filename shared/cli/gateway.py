"""What a document makes of the suite's components: each one's configuration as it will run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cli.document import Document
from cli.suite import Member, members
from sluice.config import ComponentSettings, Loaded, Problem, load

COLLECTOR: Final = "io.sluice.OpcUaCollector"
PREPROCESSOR: Final = "io.sluice.Preprocessor"
EXPORTER: Final = "io.sluice.StreamExporter"


def merged(base: Any, merge: Any) -> Any:
    """`base` after a deployment's MERGE: maps are merged, everything else is replaced."""
    if not isinstance(base, Mapping) or not isinstance(merge, Mapping):
        return merge
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in merge.items()}}


@dataclass(frozen=True)
class Configured:
    """One of the suite's components as a document configures it. `raw` is what the nucleus would keep."""

    member: Member
    raw: Mapping[str, Any]
    directory: Path

    @cached_property
    def loaded(self) -> Loaded[ComponentSettings]:
        """As the component itself would load it at its first start."""
        assert self.member.settings is not None
        return load(self.member.settings, self.raw)

    @property
    def config(self) -> Any:
        return self.loaded.config

    @cached_property
    def checked(self) -> list[Problem]:
        """What the component's own checks find beyond its models: the rows of tag tables, streams used twice."""
        if hasattr(self._checks, "selections"):  # of which its `check` is a part: tables are read once
            return [problem for one in self._selections.values() for problem in one.problems]
        return list(self._checks.check(self.config, self.directory)) if self._checks is not None else []

    @cached_property
    def suspicious(self) -> list[Problem]:
        """What they find that stops nothing and is probably a mistake."""
        if hasattr(self._checks, "selections"):
            return [warning for one in self._selections.values() for warning in one.warnings]
        if hasattr(self._checks, "warnings"):
            return list(self._checks.warnings(self.config, self.directory))
        return []

    @cached_property
    def _selections(self) -> Mapping[str, Any]:
        selections: Mapping[str, Any] = self._checks.selections(self.config, self.directory)
        return selections

    def tags(self, connection: str) -> Mapping[str, Any]:
        """All tags of a connection that can be collected, those of the tables that can be read here included."""
        tags: Mapping[str, Any] = self._selections[connection].tags
        return tags

    def tables(self, connection: str) -> Mapping[str, Path]:
        """The tag tables of a connection by the setting that names them, whether they are here or not."""
        sources = importlib.import_module(f"{self.member.package}.tags").sources
        return {one.setting: one.path for one in sources(self.config.connections[connection], self.directory)}

    def instance_tables(self, model: str) -> Mapping[str, Path]:
        """The tables of instances of an asset model, in the same way."""
        found = importlib.import_module(f"{self.member.package}.models").sources(
            self.config.models[model], self.directory
        )
        return dict(found)

    @property
    def _checks(self) -> Any:
        """The component's module of checks; None for one whose models see everything."""
        name = f"{self.member.package}.checks"
        return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


@dataclass(frozen=True)
class Gateway:
    """The suite's components of one document by their full names. `directory`: where relative paths begin."""

    document: Document
    directory: Path
    components: Mapping[str, Configured] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Gateway:
        suite = members()
        directory = document.path.absolute().parent
        found = {
            name: Configured(suite[name], merged(suite[name].defaults, entry.merge), directory)
            for name, entry in document.components.items()
            if name in suite and suite[name].settings is not None
        }
        return cls(document, directory, found)

    @property
    def exporter(self) -> Configured | None:
        return self.components.get(EXPORTER)

    @property
    def preprocessor(self) -> Configured | None:
        return self.components.get(PREPROCESSOR)

    def producers(self) -> Iterator[Configured]:
        """The components that collect data."""
        for configured in self.components.values():
            if hasattr(configured.config, "connections"):
                yield configured
