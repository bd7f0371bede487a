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

"Last good" is the raw form that was applied, so it survives on disk across versions of the models (`KeptFile`). What
people read is made in `sluice.problem`, what has changed in `sluice.changes`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sluice import migration, units
from sluice.changes import Changes, Entries, diff
from sluice.kept_file import KeptFile
from sluice.migration import Move
from sluice.problem import LOOKS_SECRET, Problem, one_of, pointer, render, shown, tell
from sluice.schema import (
    Names,
    Place,
    Settings,
    Unit,
    adapter_for,
    at,
    choices_of,
    fields_of,
    fold_case,
    locate,
    model_for,
    scopes_of,
    union_members,
    unwrapped,
    words_of,
)

__all__ = [
    "NAME_PATTERN",
    "ONE_OR_MANY",
    "Changes",
    "ComponentSettings",
    "Duration",
    "Entries",
    "KeptFile",
    "Labelled",
    "Loaded",
    "LoadedEntries",
    "Move",
    "Named",
    "OutboxSettings",
    "Parts",
    "Problem",
    "SecretRef",
    "Settings",
    "Size",
    "diff",
    "load",
    "load_entries",
    "refuse",
]

T = TypeVar("T")
S = TypeVar("S", bound="Settings")

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
COMMANDS = ("status", "backfill", "forget", "explain", "browse", "read", "refresh")
"""Every command that a component of the suite has."""
_LONGEST_LABEL = 256
_MOST = 1_000
_NOT_OURS = frozenset({"accessControl"})  # lives beside the settings and belongs to the nucleus


# --- what a component's config.py is written with -------------------------------------------------------------------


def refuse(problem: str, remedy: str) -> NoReturn:
    """Raise, inside a validator, an error whose problem and remedy reach the engineer word for word."""
    raise PydanticCustomError("refused", "{problem}", {"problem": problem, "remedy": remedy})


Named = Annotated[dict[str, T], Names(free=False)]
"""A map of scopes whose names match `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, unique ignoring case."""

Labelled = Annotated[dict[str, T], Names(free=True)]
"""A map of scopes with free names (tags): 1 to 256 printable characters, unique ignoring case."""

Parts = Annotated[dict[str, T], Names(free=False, scoped=False)]
"""A map like `Named`, of parts that make sense only together: one with an error refuses the scope that it is in."""


def _duration(value: Any) -> float:
    try:
        return units.parse_duration(value)
    except units.UnitError as error:
        refuse(str(error), error.remedy or "write a number with a unit: 500ms, 5s, 2m, 1h or 7d")


def _size(value: Any) -> int:
    try:
        return units.parse_size(value)
    except units.UnitError as error:
        refuse(str(error), error.remedy or "write a number of bytes or a size with a unit: 7000, 64KB, 16MB or 1GiB")


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


def _command(value: Any) -> str:
    word = str(value).strip().lower()
    if word not in COMMANDS:
        refuse("is no command", f"{one_of(COMMANDS, word)}; or [] to allow none")
    return word


def _log_level(value: Any) -> str:
    level = str(value).strip().upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        refuse("is no log level", "use one of: DEBUG, INFO, WARNING, ERROR")
    return level


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ONE_OR_MANY = BeforeValidator(_one_or_many)
"""Marks a list whose only member may stand there by itself."""

Duration = Annotated[float, BeforeValidator(_duration), Unit("duration")]
"""Seconds, written ``500ms``, ``5s``, ``2m``, ``7d`` or as a bare number of seconds."""

Size = Annotated[int, BeforeValidator(_size), Unit("size")]
"""Bytes, written ``64MB``, ``16KiB`` or as a bare number of bytes."""


class SecretRef(Settings):
    """Where a secret is found; the secret itself never stands in configuration.

    ``{secret: <name or ARN>, key: password}`` for AWS Secrets Manager through Greengrass, `key` picking one value of a
    JSON secret; ``{file: <path>}`` for a file of mode 0600 where Secret Manager does not exist.
    """

    secret: str = ""
    """Name or ARN of a secret in AWS Secrets Manager."""
    key: str = ""
    """Which value of a secret that is a JSON object; without it the whole secret."""
    file: str = ""
    """Path of a file of mode 0600 that holds the secret, where Secret Manager does not exist."""

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


class OutboxSettings(Settings):
    """How much a component that yields data keeps until its consumers have it, under `outbox:`."""

    max_size: Annotated[Size, Field(ge=8_000_000, le=2_000_000_000_000)] = 1_000_000_000
    """What may be kept on this device; beyond it the oldest is dropped, counted, with a gap event."""
    max_age: Annotated[Duration, Field(ge=60.0)] | None = None
    """Older data is dropped, counted, with a gap event; without it nothing is too old."""
    min_free_disk: Annotated[Size, Field(ge=0)] = 200_000_000
    """While the disk has less free space than this, no more is kept than was when that began."""
    commit_interval: Annotated[Duration, Field(ge=0.01, le=0.25)] = 0.1
    """How long data is gathered before it is committed together; each commit is one wait for the disk."""
    consumers: Annotated[list[Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]], Field(max_length=16)] = Field(
        default_factory=list
    )
    """Component ids, such as stream-exporter, for whom everything is kept, also before they have ever been seen."""
    consumer_expiry: Annotated[Duration, Field(ge=60.0)] = 7 * 86_400.0
    """Silence after which nothing is kept any more for a consumer that is not named above."""


class ComponentSettings(Settings):
    """What the configuration of every Sluice component begins with."""

    migrations: ClassVar[tuple[tuple[Move, ...], ...]] = ()
    """What changed with each layout of this configuration, the first entry from layout 1 to 2: see sluice.migration."""

    config_version: Annotated[int, Field(ge=1)] = 1
    """The layout of this configuration. A later version of the component mends older layouts by it; leave it alone."""
    log_level: Annotated[str, BeforeValidator(_log_level)] = "INFO"
    """How much the log tells: DEBUG, INFO, WARNING or ERROR."""
    status_interval: Annotated[Duration, Field(ge=1.0, le=3600.0)] = 5.0
    """How often the component reports on sluice/status/<component>."""
    max_message_bytes: Annotated[int | Literal["auto"], BeforeValidator(_size_or_auto)] = "auto"
    """The largest message on the local bus, 1KB to 16MB; auto is 7000 bytes on nucleus lite and 120000 elsewhere."""
    compress: bool = True
    """Compresses messages (zstd) wherever that makes them smaller."""
    cloud_commands: Annotated[list[Annotated[str, BeforeValidator(_command)]], Field(max_length=16)] = Field(
        default_factory=lambda: ["status", "backfill"]
    )
    """Commands that may come from AWS IoT Core, on sluice/<thing>/command/<component>; [] for none at all."""
    validate_deployments: bool = False
    """Have the nucleus ask this component before a deployment changes its configuration, and refuse one with a problem.
    Then every other component that the same deployment configures, StreamManager included, must answer too, or the
    deployment fails."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        required = [name for name, info in cls.model_fields.items() if info.is_required()]
        if required:
            raise TypeError(f"{cls.__name__}: every top-level setting needs a default: {', '.join(required)}")


# --- what comes out -------------------------------------------------------------------------------------------------


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
    last_good = _in_our_layout(model, last_good)
    raw = loader.in_our_layout(model, raw, last_good)
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


def _in_our_layout(model: type[S], last_good: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The last good form, which an earlier version may have left; None for what a later version left."""
    if last_good is None:
        return None
    version = migration.version_of(last_good)
    migrations = _migrations(model)
    if version is not None and version > migration.newest(migrations):
        return None
    return migration.migrate(model, migrations, last_good)[0]


def _migrations(model: type[Settings]) -> tuple[tuple[Move, ...], ...]:
    return model.migrations if issubclass(model, ComponentSettings) else ()


def keys_of(model: type[ComponentSettings]) -> list[str]:
    """The top-level keys that a configuration of this model may have, those of older layouts included."""
    old = (move.old.split(".")[0] for step in model.migrations for move in step)
    return list(dict.fromkeys([*fields_of(model), *old]))


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
    adapter = adapter_for(entry)
    entries = {name: adapter.validate_python(value) for name, value in applied.items()}
    return LoadedEntries(entries, loader.problems, loader.warnings, applied)


# --- the walk along raw configuration and models --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Error:
    place: Place
    value: Any
    problem: str
    remedy: str


@dataclass(slots=True)
class _Loader:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    hidden: set[Place] = field(default_factory=set)  # places of secrets: what was written there is never shown
    silent: bool = False
    in_parts: list[_Error] = field(default_factory=list)  # of the scope that is being settled, in its parts

    def in_our_layout(
        self, model: type[Settings], raw: Mapping[str, Any], last: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """`raw` with all keys where they are now; the last good form for a layout that is newer than we are."""
        migrations = _migrations(model)
        known, version = migration.newest(migrations), migration.version_of(raw)
        if version is not None and version > known:
            self.problem(
                (migration.VERSION,),
                raw[migration.VERSION],
                "was written for a newer version of this component",
                f'deploy that version again, or a configuration of layout {known} together with RESET ""',
                "the last good configuration keeps running" if last else "the defaults apply",
            )
            return last or {}
        settled, moved = migration.migrate(model, migrations, raw)
        for one in moved:
            secret = LOOKS_SECRET.search("\n".join((*one.old, *one.new))) is not None
            value = "***" if secret else None if isinstance(one.value, Mapping) else shown(one.value)
            problem = f"is called {render(one.new)} now"
            if one.taken:
                remedy = f'MERGE it under that name, and deploy with RESET "{pointer(one.old)}"'
                effect = "it is taken over"
            else:
                remedy = f'deploy with RESET "{pointer(one.old)}"'
                effect = f"it is ignored, because {render(one.new)} is set"
            _keep(self.warnings, Problem(render(one.old), value, problem, remedy, effect))
        return settled

    def settle(self, annotation: Any, raw: Any, last: Any, path: Place, metadata: Sequence[Any] = ()) -> Any:
        """`raw` without unknown keys, absent values and bad entries, for the model to validate."""
        annotation, metadata = unwrapped(annotation, metadata)
        scopes = scopes_of(annotation, metadata)
        if scopes is not None:
            entry, names = scopes
            if not isinstance(raw, Mapping):
                return raw
            if names.scoped:
                return self.entries(entry, names.free, raw, last, path)
            return self._parts(entry, names.free, raw, last, path)
        choices = choices_of(annotation) if union_members(annotation) else None
        if choices is not None and isinstance(raw, Mapping):
            raw = {**raw, choices[0]: fold_case(Literal[tuple(choices[1])], raw.get(choices[0]))}
        model = model_for(annotation, raw)
        if model is not None:
            return self._settings(model, raw, last, path)
        if get_origin(annotation) is list and isinstance(raw, list):
            (item,) = get_args(annotation)
            return [self.settle(item, value, None, (*path, f"[{i}]")) for i, value in enumerate(raw)]
        if get_origin(annotation) is dict and isinstance(raw, Mapping):
            item = get_args(annotation)[1]
            return {name: fold_case(item, value) for name, value in raw.items() if value is not None}
        return fold_case(annotation, raw)

    def _settings(self, model: type[Settings], raw: Any, last: Any, path: Place) -> Any:
        if model is SecretRef:
            self.hidden.add(path)
        if not isinstance(raw, Mapping):
            return raw
        known = fields_of(model)
        settled = {}
        for key, value in raw.items():
            here = (*path, key)
            info = known.get(key)
            if info is None:
                self._unknown(here, value, known)
            elif isinstance(value, (str, int, float)) and (words := words_of(model, key)) is not None:
                settled[key] = words.get(value.strip().casefold(), value) if isinstance(value, str) else value
            elif value is not None:
                before = last.get(key) if isinstance(last, Mapping) else None
                settled[key] = self.settle(info.annotation, value, before, here, info.metadata)
        return settled

    def entries(self, entry: Any, free: bool, raw: Mapping[str, Any], last: Any, path: Place) -> dict[str, Any]:
        """The entries that can be applied, each in its new or else its last good form."""
        settled: dict[str, Any] = {}
        for name, value, wrong in _there(raw, free, path):
            here = (*path, name)
            if wrong is not None:
                self.problem(here, None, *wrong, f"{render(here)} is not applied")
                continue
            before = last.get(name) if isinstance(last, Mapping) else None
            around, self.in_parts = self.in_parts, []
            clean = self.settle(entry, value, before, here)
            errors = [*self.in_parts, *_others(self.check(entry, clean, here), self.in_parts)]
            self.in_parts = around
            if not errors:
                settled[name] = clean
                continue
            fallback = None if _absent(before) else _quiet(entry, before)
            usable = fallback is not None and not _Loader(silent=True).check(entry, fallback, here)
            for error in errors:
                self.report(
                    error,
                    f"the last good form of {render(here)} keeps running"
                    if usable
                    else f"{render(here)} is not applied",
                )
            if usable:
                settled[name] = fallback
        return settled

    def _parts(self, entry: Any, free: bool, raw: Mapping[str, Any], last: Any, path: Place) -> dict[str, Any]:
        """The parts that are there; what is wrong with them is found for the scope that they are in."""
        settled: dict[str, Any] = {}
        for name, value, wrong in _there(raw, free, path):
            here = (*path, name)
            if wrong is not None:
                self.in_parts.append(_Error(here, None, *wrong))
                continue
            before = last.get(name) if isinstance(last, Mapping) else None
            settled[name] = clean = self.settle(entry, value, before, here)
            self.in_parts += _others(self.check(entry, clean, here), self.in_parts)
        return settled

    def check(self, annotation: Any, clean: Any, path: Place) -> list[_Error]:
        """What pydantic has against `clean`, told in our words and places."""
        bare, metadata = unwrapped(annotation, ())
        choices = choices_of(bare)
        if choices is not None and isinstance(clean, Mapping):
            discriminator, models = choices
            model = models.get(str(clean.get(discriminator)))
            if model is None:
                value = clean.get(discriminator)
                problem = "is required" if value is None else "is not a known kind"
                return [_Error((*path, discriminator), value, problem, one_of(list(models), value))]
            bare = model
        try:
            adapter_for(bare if choices is not None else annotation).validate_python(clean)
        except ValidationError as invalid:
            found: dict[Place, _Error] = {}
            for error in invalid.errors(include_url=False):
                place, info = locate(bare, metadata, error["loc"])
                value = at(clean, place)
                told = tell(dict(error), info, value)
                earlier = found.get(place)  # the branches of a union: any of them would do
                if earlier is not None and told[1] not in earlier.remedy:
                    told = (earlier.problem, f"{earlier.remedy}; or {told[1]}")
                found[place] = _Error((*path, *place), value, *told)
            return list(found.values())
        return []

    def report(self, error: _Error, effect: str) -> None:
        self.problem(error.place, error.value, error.problem, error.remedy, effect)

    def problem(self, place: Place, value: Any, problem: str, remedy: str, effect: str) -> None:
        if not self.silent:
            _keep(self.problems, Problem(render(place), self._show(place, value), problem, remedy, effect))

    def _unknown(self, place: Place, value: Any, known: Mapping[str, Any]) -> None:
        if self.silent or len(self.warnings) > _MOST:
            return
        near = difflib.get_close_matches(place[-1].lower(), {key.lower(): key for key in known}, 1, 0.6)
        nearest = next((key for key in known if near and key.lower() == near[0]), None)
        if nearest is not None:
            hint = f"did you mean {nearest}?"
        else:
            hint = f"the keys here are: {', '.join(sorted(known)[:20])}."
        remedy = f'{hint} A merge cannot remove it: deploy with RESET "{pointer(place)}"'
        hide = LOOKS_SECRET.search(f"{place[-1]}\n{nearest}") is not None
        seen = "***" if hide else self._show(place, value)
        _keep(self.warnings, Problem(render(place), seen, "is an unknown key", remedy, "it is ignored"))

    def _show(self, place: Place, value: Any) -> Any:
        if value is None:
            return None
        if any(place[:n] in self.hidden for n in range(len(place) + 1)):
            return "***"
        return shown(value)


def _keep(problems: list[Problem], problem: Problem) -> None:
    """A file with ten thousand wrong lines must not become ten thousand problems in every status."""
    if len(problems) < _MOST:
        problems.append(problem)
    elif len(problems) == _MOST:
        problems.append(Problem("", None, f"has more than {_MOST} problems", "mend those that are shown first"))


def _quiet(annotation: Any, raw: Any) -> Any:
    """`raw` settled without a word: for what was good once."""
    return _Loader(silent=True).settle(annotation, raw, None, ())


def _there(raw: Mapping[str, Any], free: bool, path: Place) -> Iterator[tuple[str, Any, tuple[str, str] | None]]:
    """The entries of a map that are not absent, each with what is wrong with its name, if anything is."""
    spelled: dict[str, str] = {}
    for name, value in raw.items():
        if _absent(value):
            continue
        wrong = _name_problem(name, free)
        if wrong is None and (twin := spelled.setdefault(name.casefold(), name)) != name:
            wrong = (
                f"is the same name as {twin} to Greengrass, which ignores case",
                f'rename one of the two and remove this one with RESET "{pointer((*path, name))}"',
            )
        yield name, value, wrong


def _others(errors: Sequence[_Error], told: Sequence[_Error]) -> list[_Error]:
    """The errors that are not told already, more exactly or less: pydantic finds those of parts once more."""
    places = [error.place for error in told]
    return [
        error
        for error in errors
        if not any(error.place[: len(place)] == place or place[: len(error.place)] == error.place for place in places)
    ]


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
