"""Asset models: what assets of one type have in common, and the assets that there are.

    members      tags that each instance has, by the names that they get:      flow, pressure, speed
    values       constants, for all instances or each with its own:            nameplate
    derived      what is calculated for each instance from members, constants and other derived tags
    instances    named one by one in the configuration, in a table, in a tag package; or found by patterns

`resolve` reads the tables and finds everything that is wrong with a model at once. Of an instance that two of them
have, the configuration goes before the file, and the file before the package.

A member is a tag that its instance names, else one that a pattern of the member's `match` finds: `{instance}/Flow`
over the tag's name, or <asset>/<name>. A pattern's {instance} may be one that is configured, which then has that tag
as its member, or a new one, which appears with the first of its tags. Other names in braces may be used in the model's
`asset`; all patterns must then capture them, and all tags of one instance must agree about them.

An expression of a derived tag calls members, constants and other derived tags by their names; one whose name has other
letters than those of a plain name is written in braces: {seal-temp}. Tags by other names are for a step of type derive.

A table has the columns instance and asset, and one for each member and constant. An empty cell of a member leaves it to
the patterns, an empty one of a constant to the model's own value. A row that is wrong costs its instance alone, which
patterns do not find either: what would be made of it would not be what its row meant.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from preprocessor.config import Instance, Model
from preprocessor.engine.patterns import pattern
from preprocessor.engine.refusal import Refusal
from preprocessor.engineering_units import UnitError, unit
from preprocessor.expressions.compiling import Expression, compile_expression
from preprocessor.expressions.ordering import CircleError, levels
from preprocessor.expressions.suggesting import did_you_mean
from preprocessor.step_settings import Derived
from sluice import tables, units
from sluice.config import Problem
from sluice.problem import one_of, render
from sluice.schema import Place
from sluice.tables import TableError
from sluice.tag_package import PREFIX, tags_file

MOST_INSTANCES: Final = 100_000
_INSTANCE: Final = "instance"
_ASSET: Final = "asset"
_CONFIGURED: Final = "instances"
_LONGEST: Final = 256
_SPACES: Final = re.compile(r"[\s_-]+")
_IN_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_NOT_USED: Final = "no flow that uses the model takes it up"
_LEFT_OUT: Final = "the row is left out"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model with all its instances, those of tables included."""

    name: str
    settings: Model
    """The model as configured, without its instances."""
    instances: Mapping[str, Instance]
    """By name: those that are named one by one. Patterns may find more."""
    left_out: frozenset[str] = frozenset()
    """Names of rows that are wrong: no instances, and not found by patterns."""
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    """What is wrong with the model, or with a table as a whole: no flow can use it."""
    rows: tuple[Problem, ...] = field(default=(), compare=False)
    """What is wrong with rows of tables, which are left out."""
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for `from_json`."""
        return {
            "name": self.name,
            "model": self.settings.model_dump(mode="json", by_alias=True),
            "instances": {
                name: {"asset": one.asset, "tags": dict(one.tags), "values": dict(one.values)}
                for name, one in self.instances.items()
            },
            "leftOut": sorted(self.left_out),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ResolvedModel:
        """What `to_json` gave. Raises ValueError (of pydantic) or KeyError for anything else."""
        return cls(
            str(stored["name"]),
            Model.model_validate(stored["model"]),
            {name: Instance.model_validate(one) for name, one in stored["instances"].items()},
            frozenset(map(str, stored.get("leftOut", ()))),
        )


@dataclass(frozen=True, slots=True)
class Formula:
    """A derived tag of a model, compiled."""

    name: str
    settings: Derived
    expression: Expression
    inputs: tuple[str, ...]
    """Members, constants and derived tags that it names."""
    members: tuple[str, ...]
    """All members that it is made of, those of its derived tags included."""


def formulas(model: Model, name: str) -> list[Formula]:
    """The derived tags of the model called `name`, each behind those that it uses.

    Raises Refusal, with a place from the top: models.pump.derived.power.expression.
    """
    known = [*model.members, *model.values, *model.derived]
    compiled: dict[str, tuple[Expression, tuple[str, ...]]] = {}
    for derived, settings in model.derived.items():
        place = f"models.{name}.derived.{derived}.expression"
        expression = compile_expression(settings.expression, names=known, place=place, through_time=False)
        for tag in expression.tags:
            if tag not in known:
                problem = f"has {{{tag}}}, which is neither member, constant nor derived tag of the model"
                near = did_you_mean(tag, known)
                remedy = f"{near + ' ' if near else ''}a step of type derive can use any tag"
                raise Refusal(place, settings.expression, problem, remedy)
        compiled[derived] = expression, (*expression.names, *expression.tags)
    needs = {derived: [one for one in inputs if one in compiled] for derived, (_, inputs) in compiled.items()}
    try:
        order = [derived for level in levels(needs) for derived in level]
    except CircleError as error:
        first = error.path[0]
        place = f"models.{name}.derived.{first}.expression"
        raise Refusal(place, compiled[first][0].text, str(error), "break it at one of these") from None
    ordered: dict[str, Formula] = {}
    for derived in order:
        expression, inputs = compiled[derived]
        members = dict.fromkeys(
            member for one in inputs for member in (ordered[one].members if one in ordered else (one,))
        )
        of = tuple(member for member in members if member in model.members)
        if not of:
            place = f"models.{name}.derived.{derived}.expression"
            raise Refusal(place, expression.text, "names no member, so that it never comes", "make it a constant")
        ordered[derived] = Formula(derived, model.derived[derived], expression, inputs, of)
    return list(ordered.values())


def resolve(model: Model, name: str, directory: Path, *, elsewhere: bool = False) -> ResolvedModel:
    """The model called `name` with its tables read, and everything that is wrong in `problems` and `rows`.

    directory: where a relative path starts, and beside which tag packages are installed. elsewhere: this is not the
    device, so that a table which only the device can have, by an absolute path or as a package, may be missing.
    """
    told = _Told(("models", name))
    _names(model, told)
    _calculated(model, name, told)
    captured = _patterns(model, told)
    _asset(model, captured, told)
    found: dict[str, Instance] = {}
    places: dict[str, Place] = {}
    for instance, one in model.instances.items():
        places[instance] = (_CONFIGURED, instance)
        if _named_rightly(instance, one, model, places[instance], told):
            found[instance] = one
    away = absent(model, directory) if elsewhere else {}
    for setting, path, shown in _tables(model, directory):
        if setting in away:
            continue
        _read(model, found, places, setting, path, shown, told)
    if len(found) > MOST_INSTANCES:
        told.at(("instances",), len(found), f"are more than {MOST_INSTANCES}", "make several models of them")
        found = dict(list(found.items())[:MOST_INSTANCES])
    _whole(model, found, places, bool(captured), told)
    if not found and told.rows and not told.problems and not away:
        told.at((), None, "has no instances left", "mend the rows of its table")
    if not found and not captured and not told.problems and not away:
        told.at((), None, "has no instances", "name them under instances, in a table, or give members a match")
    bare = model.model_copy(update={"instances": {}, "instances_file": "", "instances_package": ""})
    left_out = frozenset(told.left_out)
    return ResolvedModel(name, bare, found, left_out, told.all(), told.all_rows(), tuple(told.warnings))


def table(model: ResolvedModel) -> list[list[str]]:
    """The instances as rows of a table with its header, which `resolve` reads as they are."""
    members, values = list(model.settings.members), list(model.settings.values)
    rows = [[_INSTANCE, _ASSET, *members, *values]]
    for name, one in model.instances.items():
        cells = [one.tags.get(member, "") for member in members]
        numbers = [repr(one.values[value]) if value in one.values else "" for value in values]
        rows.append([name, one.asset, *cells, *numbers])
    return rows


def captures(model: Model) -> tuple[str, ...]:
    """What every pattern of the model captures beside {instance}, for use in `asset`."""
    patterns = [pattern(text) for member in model.members.values() for text in member.match]
    if not patterns:
        return ()
    return tuple(name for name in patterns[0].names if name != _INSTANCE and all(name in one.names for one in patterns))


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its names in braces put in, as an asset path without empty steps."""
    path = _IN_BRACES.sub(lambda found: values.get(found[1], found[0]), template)
    return "/".join(part for part in path.split("/") if part)


# --- the model itself ---


def _names(model: Model, told: _Told) -> None:
    """No name may mean two things in an expression, or in the header of a table."""
    taken: dict[str, str] = {}
    for kind, names in (("member", model.members), ("constant", model.values), ("derived tag", model.derived)):
        setting = {"member": "members", "constant": "values", "derived tag": "derived"}[kind]
        for name in names:
            bare = _bare(name)
            if bare in (_INSTANCE, _ASSET):
                told.at((setting, name), None, "is the name of a column of every table of instances", "rename it")
            elif bare in taken:
                told.at((setting, name), None, f"is the name of a {taken[bare]} already", "rename one of the two")
            taken.setdefault(bare, kind)


def _calculated(model: Model, name: str, told: _Told) -> None:
    """Checks units and what is derived."""
    for setting, ones in (("members", model.members), ("derived", model.derived)):
        for one, settings in ones.items():
            try:
                if settings.unit:
                    unit(settings.unit)
            except UnitError as error:  # noqa: PERF203 - a model has few
                told.at((setting, one, "unit"), settings.unit, str(error), error.remedy)
    allowed = (_INSTANCE, _ASSET, *captures(model))
    for one, settings in model.derived.items():
        for setting, template in (("tag", settings.tag), ("asset", settings.asset)):
            for unknown in _IN_BRACES.findall(template):
                if unknown not in allowed:
                    remedy = one_of([f"{{{place}}}" for place in allowed], f"{{{unknown}}}")
                    told.at(("derived", one, setting), template, f"has {{{unknown}}}, which is nothing", remedy)
        if (settings.tag or one) in model.members and not settings.asset:
            remedy = "give it another name"
            told.at(("derived", one, "tag"), settings.tag or one, "is the name of a member already", remedy)
    try:
        formulas(model, name)
    except Refusal as refusal:
        told.problems.append(Problem(refusal.place, refusal.value, refusal.problem, refusal.remedy, _NOT_USED))


def _patterns(model: Model, told: _Told) -> bool:
    """Checks the patterns that find members; whether there are any."""
    any_found = False
    for member, one in model.members.items():
        for text in one.match:
            any_found = True
            if _INSTANCE not in pattern(text).names:
                told.at(
                    ("members", member, "match"),
                    text,
                    "does not say which instance a tag belongs to",
                    "put {instance} where its name stands, such as {instance}/Flow",
                )
    return any_found


def _asset(model: Model, patterns: bool, told: _Told) -> None:
    known = (_INSTANCE, _ASSET, *captures(model))
    for name in _IN_BRACES.findall(model.asset):
        if name not in known:
            everywhere = " in the pattern of every member" if patterns else ""
            told.at(
                ("asset",),
                model.asset,
                f"has {{{name}}}, which is not captured{everywhere}",
                one_of([f"{{{one}}}" for one in known], f"{{{name}}}"),
            )


# --- instances ---


def _named_rightly(name: str, one: Instance, model: Model, place: Place, told: _Told) -> bool:
    """Whether an instance of the configuration names only what the model has."""
    before = len(told.problems)
    for member, tag in one.tags.items():
        if member not in model.members:
            told.at((*place, "tags", member), tag, "is no member of the model", one_of(list(model.members), member))
        elif not _usable(tag):
            told.at(
                (*place, "tags", member), tag, "cannot be a tag's name", f"use 1 to {_LONGEST} printable characters"
            )
    for value in one.values:
        if value not in model.values:
            remedy = one_of(list(model.values), value) if model.values else "add it to the model's values as well"
            told.at((*place, "values", value), None, "is no constant of the model", remedy)
    return len(told.problems) == before


def files(model: Model, directory: Path) -> list[Path]:
    """The files that the model's instances come from."""
    return [path for _, path, _ in _tables(model, directory)]


def sources(model: Model, directory: Path) -> dict[str, Path]:
    """The same by the setting that names them."""
    return {setting: path for setting, path, _ in _tables(model, directory)}


def absent(model: Model, directory: Path) -> dict[str, Path]:
    """Those of them that are not here, and that only the device can have."""
    only_there = {"instancesPackage", *(("instancesFile",) if Path(model.instances_file).is_absolute() else ())}
    return {
        setting: path
        for setting, path in sources(model, directory).items()
        if setting in only_there and "\0" not in str(path) and not path.exists()
    }


def _tables(model: Model, directory: Path) -> list[tuple[str, Path, str]]:
    """The tables of a model: setting, path, and what people know it by."""
    found = []
    if model.instances_file:
        path = directory / model.instances_file
        found.append(("instancesFile", path, path.name))
    if model.instances_package:
        package = model.instances_package
        found.append(("instancesPackage", tags_file(package, directory), package.removeprefix(PREFIX)))
    return found


def _read(
    model: Model,
    found: dict[str, Instance],
    places: dict[str, Place],
    setting: str,
    path: Path,
    shown: str,
    told: _Told,
) -> None:
    """Add the instances of a table that are not there yet."""
    columns = (_INSTANCE, _ASSET, *model.members, *model.values)
    told.files[setting] = shown
    try:
        read = tables.read(_content(path, setting), columns, ((_INSTANCE,),))
    except TableError as error:
        where: Place = (setting, f"line {error.line}") if error.line else (setting,)
        told.at(where, shown if error.value is None else error.value, error.problem, error.remedy, shown, error.line)
        return
    for flaw in read.flaws:
        told.row(setting, flaw.line, flaw.column, flaw.value, flaw.problem, flaw.remedy, shown)
    for flaw in read.warnings:
        place = _placed((*told.place, setting, f"line {flaw.line}", flaw.column))
        told.warnings.append(Problem(place, None, flaw.problem, flaw.remedy, file=shown, line=flaw.line))
    lines: dict[str, tuple[int, str]] = {}
    for row in read.rows:
        name = row.cells.get(_INSTANCE, "")
        if not _usable(name):
            remedy = f"give it a name of 1 to {_LONGEST} printable characters in the column {_INSTANCE}"
            told.row(setting, row.line, _INSTANCE, name or None, "has no instance", remedy, shown)
            continue
        if before := lines.get(name.casefold()):
            line, other = before
            if other != name:
                told.left_out[name] = None
            what = "is there a second time" if other == name else f"is the same name as {other} but for its case"
            told.row(setting, row.line, _INSTANCE, name, f"{what}, after line {line}", "give each its own name", shown)
            continue
        lines[name.casefold()] = row.line, name
        values: dict[str, float] = {}
        good = True
        for value in model.values:
            if value not in row.cells:
                continue
            number = _number(row.cells[value])
            if isinstance(number, float):
                values[value] = number
            else:
                good = False
                told.row(setting, row.line, value, row.cells[value], *number, shown)
        for member in model.members:
            tag = row.cells.get(member)
            if tag is not None and not _usable(tag):
                good = False
                remedy = f"use 1 to {_LONGEST} printable characters"
                told.row(setting, row.line, member, tag, "cannot be a tag's name", remedy, shown)
        if name in found:
            continue
        if not good:
            told.left_out[name] = None
        elif name not in told.left_out:
            tags = {member: row.cells[member] for member in model.members if member in row.cells}
            found[name] = Instance(asset=row.cells.get(_ASSET, ""), tags=tags, values=values)
            places[name] = (setting, f"line {row.line}")


def _whole(model: Model, found: dict[str, Instance], places: Mapping[str, Place], patterns: bool, told: _Told) -> None:
    """What can be wrong between instances, and with one that is not whole. Those of tables go."""
    required = [member for member, one in model.members.items() if not one.optional and not one.match]
    if patterns and required and not found:
        for member in required:
            told.at(
                ("members", member),
                None,
                "has no match, and nothing else says which tag it is",
                "give it one like the other members, or make it optional: true",
            )
    from_captures = [name for name in _IN_BRACES.findall(model.asset) if name in captures(model)]
    tags: dict[str, tuple[str, str]] = {}
    assets: dict[str, str] = {}
    for name, one in list(found.items()):
        place, good = places[name], True
        if missing := [member for member in required if member not in one.tags]:
            good = False
            told.one(
                place, name, f"does not say which tag is {', '.join(missing)}", "name it, or make it optional: true"
            )
        if not one.asset and from_captures and not patterns:
            good = False
            told.one((*place, _ASSET), None, "is needed", f"the model's asset has {{{from_captures[0]}}}")
        of_row: dict[str, str] = {}
        for member, tag in one.tags.items():
            if tag in tags or tag in of_row:
                good = False
                other = " of ".join(tags[tag] if tag in tags else (of_row[tag], name))
                told.one((*place, member), tag, f"is {other} already", "a tag can be one member of one instance")
            of_row.setdefault(tag, member)
        asset = one.asset or (
            filled(model.asset, {_INSTANCE: name}) if model.asset and "{asset}" not in model.asset else ""
        )
        if asset and asset in assets and not from_captures:
            good = False
            told.one((*place, _ASSET), asset, f"is the asset of {assets[asset]} already", "give each its own path")
        if not good and place[0] != _CONFIGURED:
            del found[name]
            told.left_out[name] = None
            continue
        assets.setdefault(asset, name)
        for tag, member in of_row.items():
            tags.setdefault(tag, (member, name))


# --- small things ---


def _content(path: Path, setting: str) -> bytes:
    """Raises TableError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TableError("is not a file", "name a CSV file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(tables.LARGEST + 1)
    except TableError:
        raise
    except ValueError:  # a NUL in the path
        raise TableError("cannot be a path", "correct the path") from None
    except OSError as error:
        if setting == "instancesPackage" and isinstance(error, FileNotFoundError):
            raise TableError("is not installed on this device", "deploy it together with this component") from None
        remedy = "put the file there, readable for the component's user, or correct the path"
        raise TableError(f"cannot be read: {error.strerror}", remedy) from None


def _number(text: str) -> float | tuple[str, str]:
    """A finite number, or problem and remedy."""
    if (told := units.comma(text)) is not None:
        return told
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    return number if math.isfinite(number) else ("is not a number", "write a number such as 5 or 0.5")


def _usable(name: str) -> bool:
    return 1 <= len(name) <= _LONGEST and name.isprintable() and name.strip() == name


def _bare(name: str) -> str:
    """A name as a table's header is read: upper and lower case, blanks, hyphens and underscores do not matter."""
    return _SPACES.sub("", name).casefold()


class _Told:
    """What is wrong with a model, each thing with its place, and not without end."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.problems: list[Problem] = []
        self.rows: list[Problem] = []
        self.warnings: list[Problem] = []
        self.left_out: dict[str, None] = {}
        """Names of rows that are wrong."""
        self.files: dict[str, str] = {}
        """What people know the table of a setting by."""
        self._more = [0, 0]

    def at(self, below: Place, value: Any, problem: str, remedy: str, file: str = "", line: int = 0) -> None:
        if len(self.problems) >= tables.MOST_FLAWS:
            self._more[0] += 1
            return
        where = _placed((*self.place, *below))
        self.problems.append(Problem(where, value, problem, remedy, _NOT_USED, file=file, line=line))

    def one(self, below: Place, value: Any, problem: str, remedy: str) -> None:
        """Something is wrong with one instance, of the configuration or a row of a table."""
        if below[0] == _CONFIGURED:
            self.at(below, value, problem, remedy)
        else:
            line, column = int(below[1].removeprefix("line ")), below[2] if len(below) > 2 else ""
            self.row(below[0], line, column, value, problem, remedy, self.files[below[0]])

    def row(
        self, setting: str, line: int, column: str, value: str | None, problem: str, remedy: str, file: str
    ) -> None:
        below = (setting, f"line {line}", column) if column else (setting, f"line {line}")
        if len(self.rows) >= tables.MOST_FLAWS:
            self._more[1] += 1
            return
        where, told = _placed((*self.place, *below)), f"{problem} (line {line} of {file})"
        self.rows.append(Problem(where, value, told, remedy, _LEFT_OUT, file=file, line=line))

    def all(self) -> tuple[Problem, ...]:
        """What is wrong with the model."""
        return self._bounded(self.problems, self._more[0], "problems", _NOT_USED)

    def all_rows(self) -> tuple[Problem, ...]:
        """What is wrong with rows of its tables."""
        return self._bounded(self.rows, self._more[1], "problems in its tables", _LEFT_OUT)

    def _bounded(self, told: Sequence[Problem], more: int, what: str, effect: str) -> tuple[Problem, ...]:
        if not more:
            return tuple(told)
        last = Problem(render(self.place), None, f"has {more} more {what}", "mend those that are shown first", effect)
        return (*told, last)


def _placed(place: Sequence[str]) -> str:
    """A place as text: `models.pump.instancesFile line 7`, with the column behind it."""
    text = ""
    for number, segment in enumerate(place):
        if re.fullmatch(r"line \d+", segment):
            column = f" {place[number + 1]}" if number + 1 < len(place) else ""
            return f"{text} {segment}{column}"
        text = render((*place[: number + 1],))
    return text
