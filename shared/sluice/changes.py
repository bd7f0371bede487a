"""What differs between two configurations, exact to the entry and within an entry to the setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sluice.problem import render
from sluice.schema import Place, Settings, scopes_of

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Entries:
    """What happened to the entries of one map: names, and for a changed entry the changes inside it."""

    added: frozenset[str]
    removed: frozenset[str]
    changed: Mapping[str, Changes]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two configurations, by exact path.

    An entry of a map that came or went is one path in `added` or `removed`; an entry whose kind changed is in both. A
    changed setting is its own path in `changed`, e.g. ``("connections", "line1", "tags", "T1", "unit")``.
    """

    added: frozenset[Place] = frozenset()
    removed: frozenset[Place] = frozenset()
    changed: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def under(self, *prefix: str) -> Changes:
        """The changes below `prefix`, with paths relative to it."""
        n = len(prefix)

        def below(paths: Iterable[Place]) -> frozenset[Place]:
            return frozenset(path[n:] for path in paths if path[:n] == prefix and len(path) > n)

        return Changes(below(self.added), below(self.removed), below(self.changed))

    def entries(self, *path: str) -> Entries:
        """The changes of the map at `path`, entry by entry."""
        inside = self.under(*path)
        added = frozenset(p[0] for p in inside.added if len(p) == 1)
        removed = frozenset(p[0] for p in inside.removed if len(p) == 1)
        deeper = {p[0] for paths in (inside.added, inside.removed, inside.changed) for p in paths if len(p) > 1}
        return Entries(added, removed, {name: inside.under(name) for name in sorted(deeper - added - removed)})

    def keys(self) -> frozenset[str]:
        """The first segments of all paths: which top-level settings (of this level) have changed at all."""
        return frozenset(p[0] for paths in (self.added, self.removed, self.changed) for p in paths)

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(sorted(map(render, paths)))}"
            for word, paths in (("added", self.added), ("removed", self.removed), ("changed", self.changed))
            if paths
        ]
        return "; ".join(parts) or "nothing changed"


def diff(old: S, new: S) -> Changes:
    """What differs, exact to the entry and within an entry to the setting."""
    added: set[Place] = set()
    removed: set[Place] = set()
    changed: set[Place] = set()

    def models(before: Settings, after: Settings, path: Place) -> None:
        for name, info in type(after).model_fields.items():
            a, b = getattr(before, name), getattr(after, name)
            if a == b:
                continue
            here = (*path, info.alias or name)
            if isinstance(a, Settings) and type(a) is type(b):
                models(a, b, here)
            elif scopes_of(info.annotation, info.metadata) is not None and isinstance(a, dict) and isinstance(b, dict):
                maps(a, b, here)
            else:
                changed.add(here)

    def maps(before: dict[str, Any], after: dict[str, Any], path: Place) -> None:
        for name in before.keys() | after.keys():
            here = (*path, name)
            if name not in before:
                added.add(here)
            elif name not in after:
                removed.add(here)
            elif before[name] != after[name]:
                if type(before[name]) is not type(after[name]):
                    added.add(here)
                    removed.add(here)
                elif isinstance(after[name], Settings):
                    models(before[name], after[name], here)
                else:
                    changed.add(here)

    models(old, new, ())
    return Changes(frozenset(added), frozenset(removed), frozenset(changed))
