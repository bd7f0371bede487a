"""A component's configuration: pydantic models in, scoped errors for people out.

Theory. Configuration arrives as one JSON object that deployments merge into, that nobody can validate beforehand, and
that a merge cannot take keys away from. So nothing in it may stop a component:

- Every level that engineers patch is a map keyed by name, typed `Named[T]` (names that become part of a topic) or
  `Labelled[T]` (free names such as tags). Each of its entries is a *scope*: an entry with an error is left out or stays
  in its last good form, all others apply. Scopes nest: a wrong tag costs the tag, not its connection.
- Outside such maps the scope is the top-level key: it keeps its last good form, else its default. That is why every
  top-level field of a `ComponentSettings` must have a default, so that there always is a configuration.
- All errors are found in one pass, each a `Problem` with exact path, value and remedy. An unknown key is a warning.
- null, and for an entry also ``{delete: true}``, means absent.

Scalars are coerced, because the nuclei change their types: integral floats (classic, after updates), everything as text
(lite, from YAML recipes).

"Last good" is the raw form that was applied, so it survives on disk across versions of the models: `LastGood`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticUndefined

from sluice import units

logger = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
Path_ = tuple[str, ...]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_LONGEST_LABEL = 256
_LONGEST_VALUE = 120
_NOT_OURS = frozenset({"accessControl"})  # lives beside the settings and belongs to the nucleus
_LOOKS_SECRET = re.compile(r"passw|pwd|secret|token|credential|privatekey", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")


# --- what a component's config.py is written with -------------------------------------------------------------------


def refuse(problem: str, remedy: str) -> NoReturn:
    """Raise, inside a validator, an error whose problem and remedy reach the engineer word for word."""
    raise PydanticCustomError("refused", "{problem}", {"problem": problem, "remedy": remedy})


class Settings(BaseModel):
    """Base of all configuration models: camelCase keys, frozen, scalars coerced; unknown keys never fail."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """Marks a map whose entries are scopes; `free` names need not fit a topic."""

    free: bool


@dataclass(frozen=True, slots=True)
class _Unit:
    """Marks a number whose limits are shown to people with a unit."""

    kind: Literal["duration", "size"]

    def show(self, value: Any) -> str:
        return units.format_duration(value) if self.kind == "duration" else units.format_size(value)


Named = Annotated[dict[str, T], _Names(free=False)]
"""A map of scopes whose names match `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, unique ignoring case."""

Labelled = Annotated[dict[str, T], _Names(free=True)]
"""A map of scopes with free names (tags): 1 to 256 printable characters, unique ignoring case."""


def _duration(value: Any) -> float:
    try:
        return units.parse_duration(value)
    except units.UnitError as error:
        refuse(str(error), "write a number with a unit: 500ms, 5s, 2m, 1h or 7d")


def _size(value: Any) -> int:
    try:
        return units.parse_size(value)
    except units.UnitError as error:
        refuse(str(error), "write a number of bytes or a size with a unit: 7000, 64KB, 16MB or 1GiB")


def _size_or_auto(value: Any) -> int | str:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    size = _size(value)
    if not 1000 <= size <= 16_000_000:
        refuse(
            "is outside 1KB to 16MB",
            "use auto, or 7000 for a core that runs nucleus lite and up to 16MB for one that does not",
        )
    return size


def _log_level(value: Any) -> str:
    level = str(value).strip().upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        refuse("is no log level", "use one of: DEBUG, INFO, WARNING, ERROR")
    return level


Duration = Annotated[float, BeforeValidator(_duration), _Unit("duration")]
"""Seconds, written ``500ms``, ``5s``, ``2m``, ``7d`` or as a bare number of seconds."""

Size = Annotated[int, BeforeValidator(_size), _Unit("size")]
"""Bytes, written ``64MB``, ``16KiB`` or as a bare number of bytes."""


class SecretRef(Settings):
    """Where a secret is found; the secret itself never stands in configuration.

    ``{secret: <name or ARN>, key: password}`` for AWS Secrets Manager through Greengrass, `key` picking one value of a
    JSON secret; ``{file: <path>}`` for a file of mode 0600 where Secret Manager does not exist.
    """

    secret: str = ""
    key: str = ""
    file: str = ""

    @model_validator(mode="before")
    @classmethod
    def _no_secret_in_plain_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            refuse(
                "holds the secret itself, which every component on the core could read",
                "write a reference, {secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}, "
                "and change the secret: it is in the deployment's history",
            )
        return value

    @model_validator(mode="after")
    def _exactly_one_place(self) -> SecretRef:
        if bool(self.secret) == bool(self.file):
            refuse(
                "must name exactly one of secret and file",
                "write {secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}",
            )
        return self


class ComponentSettings(Settings):
    """What the configuration of every Sluice component begins with."""

    config_version: Annotated[int, Field(ge=1, le=1)] = 1
    log_level: Annotated[str, BeforeValidator(_log_level)] = "INFO"
    status_interval: Annotated[Duration, Field(ge=1.0, le=3600.0)] = 5.0
    max_message_bytes: Annotated[int | Literal["auto"], BeforeValidator(_size_or_auto)] = "auto"
    compress: bool = True

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        required = [name for name, info in cls.model_fields.items() if info.is_required()]
        if required:
            raise TypeError(f"{cls.__name__}: every top-level setting needs a default: {', '.join(required)}")


# --- what comes out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, for the engineer who can mend it: place, value, remedy, and what happens meanwhile."""

    path: str
    value: Any
    problem: str
    remedy: str
    effect: str = ""

    def __str__(self) -> str:
        place = self.path or "configuration"
        shown = "" if self.value is None else f" = {_quoted(self.value)}"
        text = f"{place}{shown} {self.problem}: {self.remedy}"
        return f"{text} ({self.effect})" if self.effect else text

    def as_dict(self) -> dict[str, Any]:
        """For the status: path, value, problem, remedy, effect."""
        return {
            "path": self.path,
            "value": self.value,
            "problem": self.problem,
            "remedy": self.remedy,
            "effect": self.effect,
        }


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A configuration to run with, and everything that was wrong with what it was made from."""

    config: S
    problems: list[Problem]
    warnings: list[Problem]
    applied: dict[str, Any]  # raw form of `config`: the next last good


@dataclass(frozen=True, slots=True)
class LoadedEntries(Generic[T]):
    """The good entries of one map of scopes, and what was wrong with the others."""

    entries: dict[str, T]
    problems: list[Problem]
    warnings: list[Problem]
    applied: dict[str, Any]


def load(model: type[S], raw: Any, last_good: Mapping[str, Any] | None = None) -> Loaded[S]:
    """Make the best configuration of `raw`: scopes with an error in their last good form, else left out.

    Never fails. `last_good` is the `applied` of an earlier load, possibly of an earlier version of the model.
    """
    loader = _Loader()
    if not isinstance(raw, Mapping):
        if raw is not None:
            loader.problem((), raw, "is not a map of settings", "write key: value lines", "the last good applies")
            raw = last_good
        raw = raw or {}
    raw = {key: value for key, value in raw.items() if key not in _NOT_OURS}
    applied: dict[str, Any] = loader.settle(model, raw, last_good, ())
    fallback = _quiet(model, last_good) if last_good else {}
    told: set[str] = set()
    while applied and (errors := loader.check(model, applied, ())):
        # Each round takes a top-level key back to its last good form, then to its default: two rounds per key at most.
        for error in errors:
            top = error.place[0] if error.place else ""
            if top in told:
                continue  # the last good form does not fit any more: nothing the engineer wrote just now
            if top:
                effect = f"the last good {top} keeps running" if top in fallback else f"the default of {top} applies"
            else:
                effect = "the last good configuration keeps running" if fallback else "the defaults apply"
            loader.report(error, effect)
        tops = {error.place[0] for error in errors if error.place} or set(applied)
        told |= tops
        for key in tops:
            applied.pop(key, None)
            if key in fallback:
                applied[key] = fallback.pop(key)
    return Loaded(model.model_validate(applied), loader.problems, loader.warnings, applied)


def load_entries(
    entry: Any, raw: Any, path: Sequence[str], last_good: Mapping[str, Any] | None = None, *, free: bool = True
) -> LoadedEntries[Any]:
    """The same for one map of scopes that comes from elsewhere, such as the rows of a tag file.

    `entry` is the model of one entry, `path` the place shown in problems, e.g. ``("connections", "line1", "tags")``.
    """
    loader = _Loader()
    if not isinstance(raw, Mapping):
        loader.problem(tuple(path), raw, "is not a map of entries", "write name: {…} lines", "")
        raw = {}
    applied = loader.entries(entry, free, raw, last_good, tuple(path))
    adapter = _adapter(entry)
    entries = {name: adapter.validate_python(value) for name, value in applied.items()}
    return LoadedEntries(entries, loader.problems, loader.warnings, applied)


# --- diff -----------------------------------------------------------------------------------------------------------


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

    added: frozenset[Path_] = frozenset()
    removed: frozenset[Path_] = frozenset()
    changed: frozenset[Path_] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def under(self, *prefix: str) -> Changes:
        """The changes below `prefix`, with paths relative to it."""
        n = len(prefix)

        def below(paths: Iterable[Path_]) -> frozenset[Path_]:
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
            f"{word} {', '.join(sorted(map(_render, paths)))}"
            for word, paths in (("added", self.added), ("removed", self.removed), ("changed", self.changed))
            if paths
        ]
        return "; ".join(parts) or "nothing changed"


def diff(old: S, new: S) -> Changes:
    """What differs, exact to the entry and within an entry to the setting."""
    added: set[Path_] = set()
    removed: set[Path_] = set()
    changed: set[Path_] = set()

    def models(before: Settings, after: Settings, path: Path_) -> None:
        for name, info in type(after).model_fields.items():
            a, b = getattr(before, name), getattr(after, name)
            if a == b:
                continue
            here = (*path, info.alias or name)
            if isinstance(a, Settings) and type(a) is type(b):
                models(a, b, here)
            elif _scopes(info.annotation, info.metadata) is not None and isinstance(a, dict) and isinstance(b, dict):
                maps(a, b, here)
            else:
                changed.add(here)

    def maps(before: dict[str, Any], after: dict[str, Any], path: Path_) -> None:
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


# --- last good on disk ----------------------------------------------------------------------------------------------


class LastGood:
    """The configuration last applied, in a file that only its owner can read.

    A file that cannot be understood is renamed aside (``<name>.malformed``) and reported: it costs the memory of the
    last good form, never the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """The raw configuration, or None when there is none that can be read."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The last good configuration %s cannot be read: %s", self.path, error)
            return None
        try:
            raw = json.loads(text)
        except ValueError:
            raw = None
        if isinstance(raw, dict):
            return raw
        aside = self.path.with_name(self.path.name + ".malformed")
        logger.warning("The last good configuration %s is malformed and was renamed to %s", self.path, aside.name)
        with contextlib.suppress(OSError):
            self.path.replace(aside)
        return None

    def write(self, applied: Mapping[str, Any]) -> bool:
        """Replace the file as a whole, on disk before it takes the name; False and a log line when that fails."""
        new = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(applied, file, ensure_ascii=False, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            logger.warning("The last good configuration cannot be written to %s: %s", self.path, error)
            return False
        return True


# --- the walk along raw configuration and models --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Error:
    place: Path_
    value: Any
    problem: str
    remedy: str


@dataclass(slots=True)
class _Loader:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    hidden: set[Path_] = field(default_factory=set)  # places of secrets: what was written there is never shown
    silent: bool = False

    def settle(self, annotation: Any, raw: Any, last: Any, path: Path_, metadata: Sequence[Any] = ()) -> Any:
        """`raw` without unknown keys, absent values and bad entries, for the model to validate."""
        annotation, metadata = _bare(annotation, metadata)
        scopes = _scopes(annotation, metadata)
        if scopes is not None:
            entry, names = scopes
            return self.entries(entry, names.free, raw, last, path) if isinstance(raw, Mapping) else raw
        choices = _choices(annotation) if _members(annotation) else None
        if choices is not None and isinstance(raw, Mapping):
            raw = {**raw, choices[0]: _fold_case(Literal[tuple(choices[1])], raw.get(choices[0]))}
        model = _model_for(annotation, raw)
        if model is not None:
            return self._settings(model, raw, last, path)
        if get_origin(annotation) is list and isinstance(raw, list):
            (item,) = get_args(annotation)
            return [self.settle(item, value, None, (*path, f"[{i}]")) for i, value in enumerate(raw)]
        return _fold_case(annotation, raw)

    def _settings(self, model: type[Settings], raw: Any, last: Any, path: Path_) -> Any:
        if model is SecretRef:
            self.hidden.add(path)
        if not isinstance(raw, Mapping):
            return raw
        known = _keys(model)
        settled = {}
        for key, value in raw.items():
            here = (*path, key)
            info = known.get(key)
            if info is None:
                self._unknown(here, value, known)
            elif value is not None:
                before = last.get(key) if isinstance(last, Mapping) else None
                settled[key] = self.settle(info.annotation, value, before, here, info.metadata)
        return settled

    def entries(self, entry: Any, free: bool, raw: Mapping[str, Any], last: Any, path: Path_) -> dict[str, Any]:
        """The entries that can be applied, each in its new or else its last good form."""
        settled: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for name, value in raw.items():
            here = (*path, name)
            if _absent(value):
                continue
            wrong = _name_problem(name, free)
            if wrong is None and (twin := spelled.setdefault(name.casefold(), name)) != name:
                wrong = (
                    f"is the same name as {twin} to Greengrass, which ignores case",
                    f'rename one of the two and remove this one with RESET "{_pointer(here)}"',
                )
            if wrong is not None:
                self.problem(here, None, *wrong, f"{_render(here)} is not applied")
                continue
            before = last.get(name) if isinstance(last, Mapping) else None
            clean = self.settle(entry, value, before, here)
            errors = self.check(entry, clean, here, value)
            if not errors:
                settled[name] = clean
                continue
            fallback = None if _absent(before) else _quiet(entry, before)
            usable = fallback is not None and not _Loader(silent=True).check(entry, fallback, here)
            for error in errors:
                self.report(
                    error,
                    f"the last good form of {_render(here)} keeps running"
                    if usable
                    else f"{_render(here)} is not applied",
                )
            if usable:
                settled[name] = fallback
        return settled

    def check(self, annotation: Any, clean: Any, path: Path_, raw: Any = None) -> list[_Error]:
        """What pydantic has against `clean`, told in our words and places."""
        bare, metadata = _bare(annotation, ())
        choices = _choices(bare)
        if choices is not None and isinstance(clean, Mapping):
            discriminator, models = choices
            model = models.get(str(clean.get(discriminator)))
            if model is None:
                value = clean.get(discriminator)
                problem = "is required" if value is None else "is not a known kind"
                return [_Error((*path, discriminator), value, problem, _one_of(list(models), value))]
            bare = model
        try:
            _adapter(bare if choices is not None else annotation).validate_python(clean)
        except ValidationError as invalid:
            found: dict[Path_, _Error] = {}
            for error in invalid.errors(include_url=False):
                place, info = _locate(bare, metadata, error["loc"])
                value = _at(clean, place)
                told = _tell(dict(error), info, value)
                earlier = found.get(place)  # the branches of a union: any of them would do
                if earlier is not None and told[1] not in earlier.remedy:
                    told = (earlier.problem, f"{earlier.remedy}; or {told[1]}")
                found[place] = _Error((*path, *place), value, *told)
            return list(found.values())
        return []

    def report(self, error: _Error, effect: str) -> None:
        self.problem(error.place, error.value, error.problem, error.remedy, effect)

    def problem(self, place: Path_, value: Any, problem: str, remedy: str, effect: str) -> None:
        if not self.silent:
            self.problems.append(Problem(_render(place), self._show(place, value), problem, remedy, effect))

    def _unknown(self, place: Path_, value: Any, known: Mapping[str, Any]) -> None:
        if self.silent:
            return
        near = difflib.get_close_matches(place[-1].lower(), {key.lower(): key for key in known}, 1, 0.6)
        nearest = next((key for key in known if near and key.lower() == near[0]), None)
        if nearest is not None:
            hint = f"did you mean {nearest}?"
        else:
            hint = f"the keys here are: {', '.join(sorted(known)[:20])}."
        remedy = f'{hint} A merge cannot remove it: deploy with RESET "{_pointer(place)}"'
        hide = _LOOKS_SECRET.search(place[-1]) is not None
        shown = "***" if hide else self._show(place, value)
        self.warnings.append(Problem(_render(place), shown, "is an unknown key", remedy, "it is ignored"))

    def _show(self, place: Path_, value: Any) -> Any:
        if value is None:
            return None
        if any(place[:n] in self.hidden for n in range(len(place) + 1)):
            return "***"
        return _shown(value)


def _quiet(annotation: Any, raw: Any) -> Any:
    """`raw` settled without a word: for what was good once."""
    return _Loader(silent=True).settle(annotation, raw, None, ())


def _shown(value: Any) -> Any:
    """`value` as it may stand in logs and status: short, a scalar, without logins in URLs."""
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(_redacted(value), ensure_ascii=False, default=str)
    text = _URL_LOGIN.sub("***@", text)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text)} characters)"


def _quoted(value: Any) -> str:
    return value if isinstance(value, str) and value[:1] in "[{" else json.dumps(value, ensure_ascii=False)


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: "***" if _LOOKS_SECRET.search(str(k)) else _redacted(v) for k, v in value.items()}
    return [_redacted(v) for v in value] if isinstance(value, list) else value


def _absent(value: Any) -> bool:
    if value is None or value in ("", "null", "~"):  # lite turns a YAML null into text
        return True
    return isinstance(value, Mapping) and str(value.get("delete", "")).lower() == "true"


def _name_problem(name: str, free: bool) -> tuple[str, str] | None:
    if free:
        if 1 <= len(name) <= _LONGEST_LABEL and name.isprintable() and name.strip() == name:
            return None
        return (
            "is not usable as a name",
            f"use 1 to {_LONGEST_LABEL} printable characters without blanks at the ends",
        )
    if re.fullmatch(NAME_PATTERN, name):
        return None
    return (
        "is not usable as a name in topics",
        "use 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
    )


# --- models seen from outside ---------------------------------------------------------------------------------------


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


@cache
def _keys(model: type[Settings]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _bare(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Without Annotated and Optional around it; the metadata of all layers."""
    layers = tuple(metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *inner = get_args(annotation)
            layers = (*layers, *inner)
            continue
        members = _members(annotation)
        if members is not None and len(members) == 1:
            annotation = members[0]
            continue
        return annotation, layers


def _members(annotation: Any) -> list[Any] | None:
    """The members of a union except None; None when it is no union."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    return [member for member in get_args(annotation) if member is not type(None)]


def _scopes(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, _Names] | None:
    """Entry type and naming rule when this is a map of scopes."""
    annotation, metadata = _bare(annotation, metadata)
    names = next((item for item in metadata if isinstance(item, _Names)), None)
    if names is None or get_origin(annotation) is not dict:
        return None
    return get_args(annotation)[1], names


@cache
def _choices(annotation: Any) -> tuple[str, dict[str, type[Settings]]] | None:
    """For a union of models told apart by a Literal field: that field's key, and the model for each of its words."""
    members = _members(annotation)
    if not members or not all(isinstance(m, type) and issubclass(m, Settings) for m in members):
        return None
    for key in _keys(members[0]):
        words = [_literals(_keys(m)[key].annotation) if key in _keys(m) else [] for m in members]
        if all(words):
            return key, {str(word): m for m, its in zip(members, words, strict=True) for word in its}
    return None


def _model_for(annotation: Any, raw: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    choices = _choices(annotation) if _members(annotation) else None
    if choices is None or not isinstance(raw, Mapping):
        return None
    return choices[1].get(str(raw.get(choices[0])))


def _literals(annotation: Any) -> list[Any]:
    annotation, _ = _bare(annotation, ())
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []


def _fold_case(annotation: Any, raw: Any) -> Any:
    """A word of a Literal in the spelling that the model has."""
    if isinstance(raw, str):
        for word in _literals(annotation):
            if isinstance(word, str) and word.casefold() == raw.strip().casefold():
                return word
    return raw


def _locate(annotation: Any, metadata: Sequence[Any], loc: Sequence[int | str]) -> tuple[Path_, Any]:
    """Pydantic's location as a place in the raw configuration, and the field found there.

    Pydantic also names union branches and validators in a location; whatever is not a key of the model ends the path.
    """
    place: list[str] = []
    info: Any = None
    for step in loc:
        annotation, metadata = _bare(annotation, metadata)
        model = annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None
        if model is not None and str(step) in _keys(model):
            info = _keys(model)[str(step)]
            annotation, metadata = info.annotation, info.metadata
            place.append(str(step))
        elif get_origin(annotation) is dict:
            annotation, metadata = get_args(annotation)[1], ()
            place.append(str(step))
        elif get_origin(annotation) in (list, tuple) and isinstance(step, int):
            annotation, metadata = get_args(annotation)[0], ()
            place.append(f"[{step}]")
        else:
            break
    return tuple(place), info


def _at(raw: Any, place: Path_) -> Any:
    for step in place:
        if isinstance(raw, list) and step.startswith("["):
            raw = raw[int(step[1:-1])]
        elif isinstance(raw, Mapping):
            raw = raw.get(step)
        else:
            return None
    return raw


def _render(place: Path_) -> str:
    """``connections.line1.tags.T1.node``; a segment with a dot or the like is put in brackets and quotes."""
    text = ""
    for segment in place:
        if re.fullmatch(r"\[[0-9]+\]", segment):
            text += segment
        elif re.fullmatch(r"[\w/-]+", segment):
            text += f".{segment}" if text else segment
        else:
            text += f"[{json.dumps(segment, ensure_ascii=False)}]"
    return text


def _pointer(place: Path_) -> str:
    """The JSON pointer that a deployment's RESET takes; an element of a list cannot be reset, so its list is named."""
    steps: list[str] = []
    for segment in place:
        if re.fullmatch(r"\[[0-9]+\]", segment):
            break
        steps.append(segment.replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in steps)


# --- pydantic's errors in words for people --------------------------------------------------------------------------

_NUMBER = ("is not a number", "write a number such as 5 or 0.5")
_WHOLE = ("is not a whole number", "write a whole number such as 5")
_BOOLEAN = ("is neither true nor false", "write true or false")
_TEXT = ("is not text", "write text, in quotes if it has special characters")
_MAP = ("is not a map of settings", "write key: value lines below it")
_LIST = ("is not a list", "write a list such as [a, b]")

_WORDS: dict[str, tuple[str, str]] = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "dict_type": _MAP,
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "list_type": _LIST,
    "model_attributes_type": _MAP,
    "model_type": _MAP,
    "string_type": _TEXT,
    "tuple_type": _LIST,
}
_BOUNDS = {
    "greater_than": ("gt", "is too small", "use more than {}"),
    "greater_than_equal": ("ge", "is too small", "use {} or more"),
    "less_than": ("lt", "is too large", "use less than {}"),
    "less_than_equal": ("le", "is too large", "use {} or less"),
    "string_too_short": ("min_length", "is too short", "use {} or more characters"),
    "string_too_long": ("max_length", "is too long", "use at most {} characters"),
    "too_short": ("min_length", "has too few entries", "give {} or more"),
    "too_long": ("max_length", "has too many entries", "give at most {}"),
    "string_pattern_mismatch": ("pattern", "is not written as it must be", "it must match {}"),
}


def _tell(error: dict[str, Any], info: Any, value: Any) -> tuple[str, str]:
    """Problem and remedy for one pydantic error."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "refused":
        return context["problem"], context["remedy"]
    if kind == "missing":
        return "is required", f"add it{_example(info)}"
    if kind in _BOUNDS:
        key, problem, remedy = _BOUNDS[kind]
        limit = context[key]
        unit = next((item for item in (info.metadata if info else ()) if isinstance(item, _Unit)), None)
        return problem, remedy.format(unit.show(limit) if unit else limit)
    if kind in ("literal_error", "enum"):
        words = _literals(info.annotation) if info else []
        return "is not one of the allowed words", _one_of([str(word) for word in words], value)
    if kind in _WORDS:
        problem, remedy = _WORDS[kind]
        return problem, remedy + _example(info)
    if kind == "value_error":
        return str(context.get("error", error["msg"])), f"correct it{_example(info)}"
    return error["msg"], f"correct it{_example(info)}"


def _example(info: Any) -> str:
    if info is not None and info.examples:
        return f", for example {info.examples[0]}"
    if info is not None and info.description:
        return f": {info.description}"
    if info is not None and info.default not in (PydanticUndefined, None, "", {}, []):
        unit = next((item for item in info.metadata if isinstance(item, _Unit)), None)
        return f", or leave it out for {unit.show(info.default) if unit else json.dumps(info.default)}"
    return ""


def _one_of(words: Sequence[str], value: Any) -> str:
    remedy = f"use one of: {', '.join(words)}"
    near = difflib.get_close_matches(str(value), words, 1) if isinstance(value, str) else []
    return f"{remedy}; did you mean {near[0]}?" if near else remedy
