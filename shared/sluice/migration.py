"""Older layouts of a component's configuration, made into the present one before it is loaded.

Theory. What a device has once been given lingers: a new version's recipe defaults never overwrite what is there, and a
merge takes no key away. So a key that a version renames is there under its old name for ever, beside the new one with
its default; `configVersion` itself says for ever with which layout the device began. Therefore

- what is old is told by the keys, never by `configVersion`: a table says where each went (`Move`);
- where both are there, the new one counts as soon as it differs from its default, and else the old one;
- a value that changes its form under the same key must be told by its looks: `convert` leaves new forms as they are;
- what has been migrated has no old keys, so that to migrate is idempotent.

`configVersion` has one use: a layout that is newer than this version of the component is refused, in words.

    class Configuration(ComponentSettings):
        migrations = (
            (Move("connections.*.interval", "connections.*.publishingInterval", milliseconds),),   # layout 1 to 2
        )
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from sluice.schema import Place, Settings, at, fields_of, fold_case, model_for, scopes_of, unwrapped

VERSION = "configVersion"


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Move:
    """Where a setting went. Places are dotted keys from the top; ``*`` is any name, the same in both.

    `convert` makes the new form of a value from the old. What it does not understand, such as a new form, it gives back
    as it is: the models then say what is wrong with it. Of a `Move` to its own place it is all that happens.
    """

    old: str
    new: str
    convert: Callable[[Any], Any] = _as_it_is


@dataclass(frozen=True, slots=True)
class Moved:
    """A setting found at an old place. `taken`: it counts, as nothing else is said at the new one."""

    old: Place
    new: Place
    value: Any
    taken: bool


def newest(migrations: Sequence[Sequence[Move]]) -> int:
    """The layout to which the table leads; the first is 1."""
    return 1 + len(migrations)


def version_of(raw: Mapping[str, Any]) -> int | None:
    """The configVersion that is written there, also as text or float; None when there is none that is a number."""
    value = raw.get(VERSION)
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
        return None if number is None or number != int(number) else int(number)
    except (ValueError, OverflowError):
        return None


def migrate(
    model: type[Settings], migrations: Sequence[Sequence[Move]], raw: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Moved]]:
    """`raw` in the newest layout, and what was found at old places. `raw` itself stays as it is."""
    settled = dict(raw)
    moved: list[Moved] = []
    copied = False
    for move in (move for migration in migrations for move in migration):
        old, new = tuple(move.old.split(".")), tuple(move.new.split("."))
        for place, names in list(_matches(settled, old)):
            if not copied:
                settled, copied = copy.deepcopy(settled), True
            value = at(settled, place)
            if value is None:
                continue
            if old == new:
                _put(settled, place, move.convert(value))
                continue
            found = iter(names)
            target = tuple(next(found) if step == "*" else step for step in new)
            present = at(settled, target)
            combined, taken = _combined(model, settled, target, move.convert(value), present)
            if not _put(settled, target, combined):
                continue  # what should hold it is no map: the models say so
            _take(settled, place)
            length = len(place)  # what came to a place below in an earlier layout goes along
            moved = [replace(one, new=target + one.new[length:]) if one.new[:length] == place else one for one in moved]
            moved.append(Moved(place, target, value, taken))
    if migrations and (version := version_of(settled)) is not None and 1 <= version <= newest(migrations):
        settled[VERSION] = newest(migrations)
    return settled, moved


def _matches(raw: Any, pattern: Place, place: Place = (), names: Place = ()) -> Iterator[tuple[Place, Place]]:
    """The places that there are of the pattern, and the names that its stars stand for."""
    if not pattern:
        yield place, names
        return
    step, *rest = pattern
    if not isinstance(raw, Mapping):
        return
    for key in list(raw) if step == "*" else [step] if step in raw else []:
        found = (*names, key) if step == "*" else names
        yield from _matches(raw[key], tuple(rest), (*place, key), found)


def _combined(model: type[Settings], raw: Any, place: Place, old: Any, new: Any) -> tuple[Any, bool]:
    """What counts at `place`, and whether anything of the old is in it. Maps are combined entry by entry."""
    if new is None or (isinstance(new, str) and new in ("", "null", "~")):
        return old, True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if "delete" in new:
            return new, False
        combined = dict(new)
        taken = False
        for key, value in old.items():
            combined[key], used = _combined(model, raw, (*place, key), value, new.get(key))
            taken = taken or used
        return combined, taken or not old
    return (old, True) if _is_default(model, raw, place, new) else (new, False)


def _is_default(model: type[Settings], raw: Any, place: Place, value: Any) -> bool:
    """Whether `value` is what the setting at `place` would be without it."""
    annotation: Any = model
    metadata: tuple[Any, ...] = ()
    info: Any = None
    for depth, step in enumerate(place):
        scopes = scopes_of(annotation, metadata)
        if scopes is not None:
            annotation, metadata, info = scopes[0], (), None
            continue
        bare, _ = unwrapped(annotation, metadata)
        settings = model_for(bare, at(raw, place[:depth]))
        info = None if settings is None else fields_of(settings).get(step)
        if info is None:
            return False
        annotation, metadata = info.annotation, tuple(info.metadata)
    if info is None or info.is_required():
        return False
    annotated: Any = Annotated
    adapter: TypeAdapter[Any] = TypeAdapter(
        annotated.__class_getitem__((annotation, *metadata)) if metadata else annotation
    )
    try:
        return bool(
            adapter.validate_python(fold_case(annotation, value)) == info.get_default(call_default_factory=True)
        )
    except ValidationError:
        return False


def _put(raw: dict[str, Any], place: Place, value: Any) -> bool:
    """Make the maps above `place` where they are missing; False when something else is in the way."""
    here = raw
    for step in place[:-1]:
        below = here.get(step)
        if below is None:
            below = here[step] = {}
        if not isinstance(below, dict):
            return False
        here = below
    here[place[-1]] = value
    return True


def _take(raw: dict[str, Any], place: Place) -> None:
    """Remove `place`, and the maps above it that have become empty and are not also above something new."""
    parent = at(raw, place[:-1])
    if isinstance(parent, dict):
        parent.pop(place[-1], None)
        if not parent and len(place) > 1:
            _take(raw, place[:-1])
