"""Component configuration: a tree of leaves with timestamps, merged, reset and watched. Sans-I/O.

A map is a branch; everything else, lists included, is a leaf. Each leaf remembers the time of its last write, and a
write with an older time does not change it. Recipe defaults are written at time 1 and never over what is there.

    ConfigurationError
    ├── NoSuchKey       nothing is at the path
    ├── TypeConflict    a leaf where a map is wanted, or the other way round
    ├── TooLarge        a limit of the profile
    └── Stale           the write is older than what is there (classic)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localcore.profile import Profile

Path = tuple[str, ...]
Watcher = Callable[[Path], None]

DEFAULTS_TIME = 1.0


class ConfigurationError(Exception):
    """A read or write that the nucleus refuses."""


class NoSuchKey(ConfigurationError):  # noqa: N818 - named for the fact
    """Nothing is at the path."""


class TypeConflict(ConfigurationError):  # noqa: N818 - named for the fact
    """A leaf where a map is wanted, or the other way round."""


class TooLarge(ConfigurationError):  # noqa: N818 - named for the fact
    """A limit of the profile."""


class Stale(ConfigurationError):  # noqa: N818 - named for the fact
    """The write is older than what is there."""


@dataclass(slots=True)
class _Leaf:
    value: Any
    time: float


@dataclass(slots=True)
class _Branch:
    children: dict[str, tuple[str, _Branch | _Leaf]] = field(default_factory=dict)
    """Folded key -> (key as it was first written, node)."""

    def plain(self) -> dict[str, Any]:
        return {key: node.plain() if isinstance(node, _Branch) else node.value for key, node in self.children.values()}

    def leaves(self, path: Path) -> Iterator[tuple[Path, _Leaf]]:
        for key, node in self.children.values():
            if isinstance(node, _Branch):
                yield from node.leaves((*path, key))
            else:
                yield (*path, key), node


class Configuration:
    """The configuration of one component."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._root = _Branch()
        self._watchers: list[tuple[Path, Watcher]] = []

    def _fold(self, key: str) -> str:
        return key.casefold() if self._profile.ignores_key_case else key

    def _find(self, path: Sequence[str]) -> _Branch | _Leaf:
        node: _Branch | _Leaf = self._root
        for key in path:
            if not isinstance(node, _Branch) or self._fold(key) not in node.children:
                raise NoSuchKey("/".join(path))
            node = node.children[self._fold(key)][1]
        return node

    def read(self, path: Sequence[str] = ()) -> Any:
        """The value at a path: a map as a dict, anything else as it is. Raises NoSuchKey."""
        node = self._find(path)
        return node.plain() if isinstance(node, _Branch) else node.value

    def read_limited(self, path: Sequence[str] = ()) -> Any:
        """The value as a component gets it over IPC. Raises TooLarge where the nucleus cannot carry it."""
        value = self.read(path)
        limits, where = self._profile, "/".join(path) or "the whole configuration"
        keys, widest = _extent(value)
        if limits.max_read is not None and len(json.dumps(value)) > limits.max_read:
            raise TooLarge(f"{where} is larger than {limits.max_read} bytes")
        if limits.max_keys is not None and keys > limits.max_keys:
            raise TooLarge(f"{where} has {keys} keys, more than {limits.max_keys}")
        if limits.max_children is not None and widest > limits.max_children:
            raise TooLarge(f"{where} has a map of {widest} keys, more than {limits.max_children}")
        return value

    def newest(self, path: Sequence[str]) -> float:
        """Time of the newest write at or below a path; 0 when there is none."""
        try:
            node = self._find(path)
        except NoSuchKey:
            return 0.0
        if isinstance(node, _Leaf):
            return node.time
        return max((leaf.time for _, leaf in node.leaves(())), default=0.0)

    def update(self, path: Sequence[str], value: Mapping[str, Any], time: float) -> None:
        """A component's own write (UpdateConfiguration). Raises Stale, TypeConflict, TooLarge."""
        if self._profile.stale_update_fails and self.newest(path) > time:
            raise Stale(f"{'/'.join(path) or 'the configuration'} was written later than {time}")
        self.merge(path, value, time)

    def merge(self, path: Sequence[str], value: Mapping[str, Any], time: float) -> None:
        """Merge a map at a path, leaf by leaf; what has a newer time stays. Watchers hear of each changed leaf.

        On lite a merge that fails midway leaves what it has written before.
        """
        branch = self._root
        for index, key in enumerate(path):
            branch = self._branch(branch, key, tuple(path[: index + 1]))
        changed: list[Path] = []
        try:
            self._merge(branch, tuple(path), value, time, changed, only_missing=False)
        finally:
            self._tell(changed)

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Write a recipe's defaults where nothing is yet."""
        self._merge(self._root, (), defaults, DEFAULTS_TIME, [], only_missing=True)

    def reset(self, path: Sequence[str], defaults: Mapping[str, Any]) -> None:
        """Take a path back to the recipe's default, or away where the recipe has none. The empty path is everything."""
        before = dict(self._root.leaves(()))
        if path:
            try:
                parent = self._find(path[:-1])
            except NoSuchKey:
                return
            if isinstance(parent, _Branch):
                parent.children.pop(self._fold(path[-1]), None)
        else:
            self._root.children.clear()
        default = _pick(defaults, path, self._fold)
        if default is not None:
            self._merge(self._root, (), default, DEFAULTS_TIME, [], only_missing=True)
        self._tell_differences(before)

    def _tell_differences(self, before: Mapping[Path, _Leaf]) -> None:
        after = dict(self._root.leaves(()))
        self._tell(
            [key for key in {**before, **after} if key not in before or key not in after or before[key] != after[key]]
        )

    def copy(self) -> Configuration:
        """One of the same content, watched by nobody."""
        other = Configuration(self._profile)
        other._root = copy.deepcopy(self._root)
        return other

    def restore(self, other: Configuration) -> None:
        """Take over the content of another one. Watchers hear of each leaf that is different then."""
        before = dict(self._root.leaves(()))
        self._root = copy.deepcopy(other._root)
        self._tell_differences(before)

    def watch(self, path: Sequence[str], watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with the path of each leaf that changes at or below `path`; returns how to stop that.

        Raises NoSuchKey when nothing is there.
        """
        self._find(path)
        entry = (tuple(self._fold(key) for key in path), watcher)
        self._watchers.append(entry)

        def cancel() -> None:
            if entry in self._watchers:
                self._watchers.remove(entry)

        return cancel

    def _branch(self, branch: _Branch, key: str, path: Path) -> _Branch:
        """The branch below `branch` at `key`, made when it is missing."""
        found = branch.children.get(self._fold(key))
        if found is not None and isinstance(found[1], _Branch):
            return found[1]
        if found is not None and not self._profile.retypes_leaf:
            raise TypeConflict(f"{'/'.join(path)} is a value, not a map")
        if self._profile.max_depth is not None and len(path) > self._profile.max_depth:
            raise TooLarge(f"{'/'.join(path)} is nested deeper than {self._profile.max_depth} levels")
        child = _Branch()
        branch.children[self._fold(key)] = (key if found is None else found[0], child)
        return child

    def _merge(
        self,
        branch: _Branch,
        path: Path,
        value: Mapping[str, Any],
        time: float,
        changed: list[Path],
        *,
        only_missing: bool,
    ) -> None:
        # Lite works through the keys in sorted order, which shows in its events.
        for key in value if self._profile.retypes_leaf else sorted(value):
            below = (*path, key)
            new = value[key]
            found = branch.children.get(self._fold(key))
            if isinstance(new, Mapping):
                if only_missing and found is not None and isinstance(found[1], _Leaf):
                    continue
                self._merge(self._branch(branch, key, below), below, new, time, changed, only_missing=only_missing)
                continue
            if found is not None and only_missing:
                continue
            name, old = found if found is not None else (key, None)
            if isinstance(old, _Branch) and not self._profile.retypes_leaf:
                raise TypeConflict(f"{'/'.join(below)} is a map, not a value")
            if isinstance(old, _Leaf) and old.time > time:
                continue
            size = len(json.dumps(new))
            if self._profile.max_leaf is not None and size > self._profile.max_leaf:
                raise TooLarge(f"{'/'.join(below)} is {size} bytes of JSON; {self._profile.max_leaf} can be stored")
            branch.children[self._fold(key)] = (name, _Leaf(new, time))
            if not isinstance(old, _Leaf) or old.value != new or type(old.value) is not type(new):
                changed.append((*path, name))

    def _tell(self, changed: Sequence[Path]) -> None:
        for path in changed:
            folded = tuple(self._fold(key) for key in path)
            for prefix, watcher in list(self._watchers):
                if folded[: len(prefix)] == prefix:
                    watcher(path)


def _extent(value: Any) -> tuple[int, int]:
    """(keys in all, keys of the widest map) of a value."""
    if not isinstance(value, Mapping):
        return 0, 0
    keys, widest = len(value), len(value)
    for child in value.values():
        below, wide = _extent(child)
        keys += below
        widest = max(widest, wide)
    return keys, widest


def _pick(defaults: Mapping[str, Any], path: Sequence[str], fold: Callable[[str], str]) -> dict[str, Any] | None:
    """Only the part of `defaults` at `path`, still under its path; None when there is none."""
    if not path:
        return dict(defaults)
    for key, value in defaults.items():
        if fold(key) == fold(path[0]):
            if len(path) == 1:
                return {key: value}
            below = _pick(value, path[1:], fold) if isinstance(value, Mapping) else None
            return None if below is None else {key: below}
    return None
