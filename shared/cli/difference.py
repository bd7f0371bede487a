"""What a deployment of one document would change after another one: exactly, by path. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from cli.document import Document, Entry
from cli.gateway import merged
from cli.plan import resets
from cli.suite import members
from sluice.changes import diff
from sluice.config import load
from sluice.problem import LOOKS_SECRET, render, shown
from sluice.schema import Place

Kind = Literal["added", "removed", "changed"]
_MARKS: Final[Mapping[str, str]] = {"added": "+", "removed": "-", "changed": "~"}
_LIST_TOO_LONG: Final = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """One path of a merge. `means_nothing`: written otherwise, such as 0.5s for 500ms, and the same thing."""

    kind: Kind
    path: str
    old: Any = None
    new: Any = None
    means_nothing: bool = False

    def __str__(self) -> str:
        text = f"{_MARKS[self.kind]} {self.path}"
        if self.kind == "changed":
            text += f": {self.old} -> {self.new}"
        elif self.kind == "added" and self.new is not None:
            text += f": {self.new}"
        return f"{text} (means the same)" if self.means_nothing else text


@dataclass(frozen=True, slots=True)
class ComponentDifference:
    """One component. `restarts` says on which nuclei its process is started anew, and why."""

    name: str
    kind: Kind
    versions: tuple[str | None, str | None]
    differences: tuple[Difference, ...] = ()
    reset: tuple[str, ...] = ()
    restarts: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def difference(old: Document, new: Document) -> list[ComponentDifference]:
    """The components that differ, in alphabetical order; empty when a deployment of `new` would change nothing."""
    found = []
    for name in sorted({*old.components, *new.components}):
        before, after = old.components.get(name), new.components.get(name)
        if before is None:
            assert after is not None
            differences = tuple(_differences({}, after.merge, {}, after.merge, name))
            found.append(ComponentDifference(name, "added", (None, _version(name, after)), differences))
        elif after is None:
            found.append(ComponentDifference(name, "removed", (_version(name, before), None)))
        else:
            one = _changed(name, before, after)
            if one is not None:
                found.append(one)
    return _with_dependents(found, set(new.components))


def _changed(name: str, before: Entry, after: Entry) -> ComponentDifference | None:
    versions = (_version(name, before), _version(name, after))
    pointers = tuple(dict.fromkeys((*after.reset, *resets(before.merge, after.merge))))
    differences = tuple(_differences(before.merge, after.merge, before.merge, after.merge, name))
    other_version = versions[0] != versions[1]
    if not differences and not other_version and not pointers:
        return None
    restarts = {}
    if other_version:
        restarts = dict.fromkeys(("classic", "lite"), "another version")
    elif differences or pointers:
        restarts["lite"] = "its configuration changes"
        if name not in members():
            restarts["classic"] = "perhaps: what it does with a changed configuration is its own affair"
    return ComponentDifference(name, "changed", versions, differences, pointers, restarts)


def _version(name: str, entry: Entry) -> str | None:
    """The version that a deployment would take, None when the cloud chooses it."""
    suite = members()
    return entry.version or (suite[name].version if name in suite else None)


def _with_dependents(found: list[ComponentDifference], deployed: set[str]) -> list[ComponentDifference]:
    """Components that are started anew because one that they depend on is: HARD dependencies, on both nuclei."""
    restarted = {one.name: one.restarts or {} for one in found if one.kind == "changed"}
    result = list(found)
    for member in members().values():
        if member.name not in deployed or member.name in restarted:
            continue
        for dependency, how in member.recipe.get("ComponentDependencies", {}).items():
            if how.get("DependencyType", "HARD") == "HARD" and restarted.get(dependency):
                why = dict.fromkeys(restarted[dependency], f"{dependency} is")
                versions = (member.version, member.version)
                result.append(ComponentDifference(member.name, "changed", versions, restarts=why))
                break
    return sorted(result, key=lambda one: one.name)


def _differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_merge: Mapping[str, Any],
    new_merge: Mapping[str, Any],
    name: str,
) -> Iterator[Difference]:
    same = _unchanged(name, old_merge, new_merge)

    def walk(before: Mapping[str, Any], after: Mapping[str, Any], place: Place) -> Iterator[Difference]:
        for key in (*before, *(key for key in after if key not in before)):
            here = (*place, key)
            path = render(here)
            if key not in after:
                yield Difference("removed", path, _show(here, before[key]))
            elif key not in before:
                yield Difference("added", path, new=_show(here, after[key]))
            elif before[key] != after[key] or type(before[key]) is not type(after[key]):
                if isinstance(before[key], Mapping) and isinstance(after[key], Mapping):
                    yield from walk(before[key], after[key], here)
                else:
                    yield Difference("changed", path, _show(here, before[key]), _show(here, after[key]), same(here))

    yield from walk(old, new, ())


def _unchanged(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    """A function that says whether a changed place means the same to the component as before."""
    member = members().get(name)
    if member is None or member.settings is None:
        return lambda place: False
    before = load(member.settings, merged(member.defaults, old))
    after = load(member.settings, merged(member.defaults, new))
    if before.problems or after.problems:
        return lambda place: False
    changes = diff(before.config, after.config)
    touched = {*changes.added, *changes.removed, *changes.changed}

    def same(place: Place) -> bool:
        return not any(place[: len(one)] == one or one[: len(place)] == place for one in touched)

    return same


def _show(place: Place, value: Any) -> Any:
    if value is None:
        return "null"
    if LOOKS_SECRET.search(place[-1]) and not isinstance(value, Mapping):
        return "***"
    return shown(value)
