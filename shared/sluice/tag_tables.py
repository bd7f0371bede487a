"""The tags of a connection: those of its configuration, of its CSV file and of its tag package, through one validator.

    configuration (tags)  before  file (tagsFile)  before  package (tagsPackage)

A tag that two of them have is taken from the first. A table has a header line; its known columns are the collector's
(`TagTables.columns`), all others are for people. A row with another connection in its column `connection` is that
connection's.

A wrong row costs itself, and goes on as it was last good, as an entry of the configuration does. A table that cannot be
read at all (gone, on its way, broken) costs nothing: all its rows go on. For this, the rows last taken from each table
are kept in the work folder, 0600, so that it holds over restarts.

What the models alone can tell is told here; whether a server has what a tag names shows at run time.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from pydantic import ValidationError
from typing_extensions import Self

from sluice import tables
from sluice.config import KeptFile, Problem, load_entries
from sluice.problem import one_of, render
from sluice.schema import Place, fold_case
from sluice.tables import TableError
from sluice.tag_package import PREFIX, tags_file

logger = logging.getLogger(__name__)

_LONGEST_NAME: Final = 256
_KEPT: Final = "tags"  # folder of the rows last taken


class Grouped(Protocol):
    """What may name a group of its connection: a tag, a search, a filter."""

    @property
    def group(self) -> str: ...


class AnyTag(Grouped, Protocol):
    """A collector's model of a tag, or of one from a table. `setting`: the connection's setting that it comes from."""

    setting: ClassVar[str]

    @classmethod
    def model_validate(cls, obj: Any, /) -> Self: ...


T = TypeVar("T", bound=AnyTag)
T_co = TypeVar("T_co", bound=AnyTag, covariant=True)


class Collecting(Protocol[T_co]):
    """A connection's settings, as far as its tags go."""

    @property
    def tags(self) -> Mapping[str, T_co]: ...
    @property
    def tags_file(self) -> str: ...
    @property
    def tags_package(self) -> str: ...
    @property
    def groups(self) -> Collection[str]: ...
    @property
    def select(self) -> Mapping[str, Grouped]: ...


Stamp = tuple[int, ...] | None
"""Differs when a file may have another content; None: there is none."""


@dataclass(frozen=True)
class Source(Generic[T]):
    """A table that a connection takes tags from. `name` is what people know it by."""

    model: type[T]
    path: Path
    name: str
    value: str

    @property
    def setting(self) -> str:
        return self.model.setting


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """The tags of one table, their rows as they were taken, and what is wrong with others and with the header."""

    tags: Mapping[str, T]
    rows: Mapping[str, Mapping[str, str]]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Selection(Generic[T]):
    """The tags to collect, what was wrong with others, and the stamps of the files that it was made from."""

    tags: Mapping[str, T]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    stamps: tuple[Stamp, ...] = ()


@dataclass(frozen=True)
class TagTables(Generic[T]):
    """The tag tables of one kind of collector, by its models: of a tag, of one of a file, of one of a package."""

    tag: type[T]
    file: type[T]
    package: type[T]
    columns: Sequence[str]
    """In the order in which a table is written. tag and connection, the others are settings of the models."""
    required: Sequence[Sequence[str]]
    """Groups of columns; a header must have one of each group."""
    folded: Mapping[str, Any] = field(default_factory=dict)
    """Columns in whose words upper and lower case do not matter, with the type of their setting."""

    # --- where tables are ---

    def sources(self, connection: Collecting[T], directory: Path) -> list[Source[T]]:
        """The tables of a connection, the one that goes before first. Relative paths start at `directory`."""
        found: list[Source[T]] = []
        if connection.tags_file:
            path = directory / connection.tags_file
            found.append(Source(self.file, path, path.name, connection.tags_file))
        if connection.tags_package:
            package = connection.tags_package
            found.append(Source(self.package, tags_file(package, directory), package, package.removeprefix(PREFIX)))
        return found

    def stamps(self, connection: Collecting[T], directory: Path) -> tuple[Stamp, ...]:
        """Of the connection's tables as they are now."""
        return tuple(_stamp(source.path) for source in self.sources(connection, directory))

    # --- what they give ---

    def select(self, name: str, connection: Collecting[T], directory: Path, *, keep: bool = False) -> Selection[T]:
        """All tags of the connection called `name`. Reads its tables.

        `keep`: with the rows that were last taken where a row or a table is of no use now, and keeping what is taken
        now.
        """
        tags: dict[str, T] = {}
        taken: dict[str, tuple[str, str]] = {tag.casefold(): (tag, self.tag.setting) for tag in connection.tags}
        problems: list[Problem] = []
        warnings: list[Problem] = []
        seen: list[Stamp] = []
        for source in self.sources(connection, directory):
            place = ("connections", name, source.setting)
            kept = _Kept(directory, source.model, name) if keep else None
            seen.append(_stamp(source.path))
            try:
                parsed = self.parse(
                    _content(source),
                    place,
                    source.name,
                    model=source.model,
                    connection=name,
                    groups=connection.groups,
                    taken=taken,
                    last=kept.rows if kept is not None else dict,
                )
            except TableError as error:
                parsed = _from_last_time(source, place, error, kept, taken)
            else:
                if kept is not None:
                    kept.keep(parsed.rows)
            tags.update(parsed.tags)
            taken.update((tag.casefold(), (tag, source.setting)) for tag in parsed.tags)
            problems += parsed.problems
            warnings += parsed.warnings
        if keep:
            named = {source.model for source in self.sources(connection, directory)}
            for model in (self.file, self.package):
                if model not in named:
                    _Kept(directory, model, name).forget()
        found = {**tags, **connection.tags}
        problems += _strangers(name, connection)
        return Selection(found, tuple(problems), tuple(warnings), tuple(seen))

    def absent(self, connection: Collecting[T], directory: Path) -> dict[str, str]:
        """What to leave out of the connection's settings where it is only looked at: tables that only the device can
        have, by an absolute path or as a tag package, and that do not happen to be here too."""
        return {
            {"tagsFile": "tags_file", "tagsPackage": "tags_package"}[source.setting]: ""
            for source in self.sources(connection, directory)
            if (source.setting == "tagsPackage" or source.value.startswith("/")) and not source.path.exists()
        }

    def forget(self, name: str, directory: Path) -> None:
        """Delete what is kept of the tables of a connection that is gone."""
        for model in (self.file, self.package):
            _Kept(directory, model, name).forget()

    def forget_others(self, names: Collection[str], directory: Path) -> None:
        """The same for all connections but these, which may have gone while nobody ran. A disk that refuses is a line
        in the log."""
        present = {_Kept(directory, model, name).path for model in (self.file, self.package) for name in names}
        try:
            for model in (self.file, self.package):
                for path in {*(directory / _KEPT).glob(f"{model.setting}.*.json")} - present:
                    path.unlink()
        except OSError as error:
            logger.warning("The tags last read of connections that are gone are still there: %s", error)

    def parse(
        self,
        data: bytes,
        place: Place,
        file: str,
        *,
        model: type[T] | None = None,
        connection: str | None = None,
        groups: Collection[str] | None = None,
        taken: Mapping[str, tuple[str, str]] | None = None,
        last: Callable[[], Mapping[str, Any]] = dict,
    ) -> Parsed[T]:
        """The tags in the table `data`, which is called `file` in what is told; problems stand at `place`.

        connection: whose rows; None for all, as when a table is checked by itself. A tag is then named with its
        connection in front where the row has one: ``line1: Reactor/Temp``.
        groups: those of the connection; a row that names another one is told and taken. None: nobody knows them.
        taken: tags from elsewhere that go before, by their name in lower case: (name, where it is from).
        last: the rows as they were last good.

        Raises TableError when it is no such table.
        """
        model = model or self.tag
        columns = [column for column in self.columns if column not in ("tag", "connection")]
        table = tables.read(data, self.columns, self.required)
        told = _Told(place, file)
        found: dict[str, T] = {}
        rows: dict[str, dict[str, str]] = {}
        first: dict[tuple[str, str], tuple[int, str]] = {}
        strangers: dict[str, list[tuple[int, str]]] = {}
        previous = cache(last)
        for flaw in table.flaws:
            told.at(flaw.line, (f"line {flaw.line}",), flaw.value, flaw.problem, flaw.remedy)
        for row in table.rows:
            cells = row.cells
            of = cells.get("connection", "")
            if connection is not None:
                if of and of.casefold() != connection.casefold():
                    continue
                of = ""
            tag = cells.get("tag", "")
            if not tag:
                told.at(row.line, (f"line {row.line}",), None, "has no tag", "give it a name in the column tag")
                continue
            key = f"{of}: {tag}" if of else tag
            folded = tag.casefold()
            before = first.get((of.casefold(), folded)) or (first.get(("", folded)) if of else first.get(("*", folded)))
            if before is not None:
                line, other = before
                what = (
                    "is there a second time"
                    if other == tag
                    else f"is the same name as {other}, but for upper and lower case"
                )
                told.at(
                    row.line, (f"line {row.line}",), tag, f"{what}, after line {line}", "give each row a tag of its own"
                )
                continue
            first[of.casefold(), folded] = first["*", folded] = (row.line, tag)
            if taken is not None and (elsewhere := taken.get(folded)) is not None:
                if elsewhere[0] != tag:
                    told.at(
                        row.line,
                        (f"line {row.line}",),
                        tag,
                        f"is the same name as {elsewhere[0]} in {elsewhere[1]}, but for upper and lower case",
                        "rename one of the two",
                    )
                continue
            settings = {column: cells[column] for column in columns if column in cells}
            if groups is not None and (group := settings.get("group")) and group not in groups:
                strangers.setdefault(group, []).append((row.line, tag))
            for column, annotation in self.folded.items():
                if column in settings:
                    settings[column] = fold_case(annotation, settings[column])
            try:
                if len(tag) > _LONGEST_NAME or not tag.isprintable():
                    raise ValueError
                found[key] = model.model_validate(settings)
                rows[key] = settings
            except (ValidationError, ValueError):
                loaded = load_entries(model, {tag: settings}, place, previous())
                for problem in loaded.problems:
                    told.problem(row.line, problem)
                found.update((key, entry) for entry in loaded.entries.values())
                rows.update((key, entry) for entry in loaded.applied.values())
        for group, rows_of in strangers.items():  # a column for people, or a mistake: once for each name
            line, tag = rows_of[0]
            problem = no_group((*place, tag, "group"), group, groups or ())
            if more := len(rows_of) - 1:
                problem = replace(problem, problem=f"{problem.problem}, and {more} more rows name it")
            told.problem(line, problem)
        told.end()
        warnings = tuple(
            Problem(
                render((*place, flaw.column)), None, f"{flaw.problem} (line {flaw.line} of {file})", flaw.remedy,
                file=file, line=flaw.line,
            )
            for flaw in table.warnings
        )  # fmt: skip
        return Parsed(found, rows, tuple(told.problems), warnings)


def _stamp(path: Path) -> Stamp:
    try:
        now = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as with a NUL
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


# --- groups ---


def _strangers(name: str, connection: Collecting[T]) -> list[Problem]:
    """What is wrong with the groups that tags and filters of the configuration name. Those of tables: see `parse`."""
    place = ("connections", name)
    named: list[tuple[str, str, str]] = [
        *(("tags", entry, tag.group) for entry, tag in connection.tags.items()),
        *(("select", entry, chosen.group) for entry, chosen in connection.select.items()),
    ]
    strange = [one for one in named if one[2] and one[2] not in connection.groups]
    found = [
        no_group((*place, setting, entry, "group"), group, connection.groups)
        for setting, entry, group in strange[: tables.MOST_FLAWS]
    ]
    if more := len(strange) - len(found):
        what = f"name no group in {more} more places"
        remedy = "mend those that are shown first"
        found.append(Problem(render((*place, "tags")), None, what, remedy, _AS_THE_CONNECTION))
    return found


_AS_THE_CONNECTION: Final = "it is collected as the connection's own settings say"


def no_group(place: Place, group: str, groups: Collection[str]) -> Problem:
    """For a tag or filter that names a group that the connection does not have."""
    remedy = (
        one_of(sorted(groups), group) if groups else "write the group below the connection's groups, or leave it out"
    )
    return Problem(render(place), group, "is no group of this connection", remedy, _AS_THE_CONNECTION)


# --- what is told ---


class _Told:
    """Problems of a table's rows, each with its line, and not without end."""

    def __init__(self, place: Place, file: str) -> None:
        self.problems: list[Problem] = []
        self._place = place
        self._file = file
        self._more = 0

    def at(self, line: int, below: Place, value: str | None, problem: str, remedy: str) -> None:
        where = render((*self._place, *below))
        self.problem(line, Problem(where, value, problem, remedy, "the row is left out"))

    def problem(self, line: int, problem: Problem) -> None:
        if len(self.problems) >= tables.MOST_FLAWS:
            self._more += 1
            return
        text = f"{problem.problem} (line {line} of {self._file})"
        self.problems.append(replace(problem, problem=text, file=self._file, line=line))

    def end(self) -> None:
        self.problems.sort(key=lambda problem: problem.line)
        if self._more:
            place = render(self._place)
            what = f"has {self._more} more problems"
            self.problems.append(Problem(place, None, what, "mend those that are shown first", file=self._file))


# --- reading ---


def _content(source: Source[T]) -> bytes:
    """Raises TableError."""
    path = source.path
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TableError("is not a file", "name a CSV file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(tables.LARGEST + 1)
    except ValueError as error:  # such as a NUL in the path
        if isinstance(error, TableError):
            raise
        raise TableError("cannot be a path", "correct the path") from None
    except OSError as error:
        if source.setting == "tagsPackage" and isinstance(error, FileNotFoundError):
            raise TableError(
                "is not installed on this device", f"deploy {source.name} together with this component"
            ) from None
        if source.setting == "tagsPackage" and isinstance(error, PermissionError):
            raise TableError(
                "cannot be read: its work folder belongs to another user",
                f"let {source.name} and this component run as the same one (runWith.posixUser)",
            ) from None
        remedy = "put the file there, readable for the component's user, or correct the path"
        raise TableError(f"cannot be read: {error.strerror}", remedy) from None


def _from_last_time(
    source: Source[T], place: Place, error: TableError, kept: _Kept | None, taken: Mapping[str, tuple[str, str]]
) -> Parsed[T]:
    """The rows last taken, for a table that is of no use now."""
    rows = {tag: row for tag, row in (kept.rows() if kept is not None else {}).items() if tag.casefold() not in taken}
    loaded = load_entries(source.model, rows, place)
    count = len(loaded.entries)
    effect = f"the {count} tags that it gave last go on" if count else "it gives no tags"
    what = f"{error.problem} (line {error.line} of {source.name})" if error.line else error.problem
    value = source.value if error.value is None else error.value
    problem = Problem(render(place), value, what, error.remedy, effect, file=source.name, line=error.line)
    return Parsed(loaded.entries, rows, (problem,))


class _Kept:
    """The rows last taken from a table of a connection."""

    def __init__(self, directory: Path, model: type[AnyTag], connection: str) -> None:
        self.path = directory / _KEPT / f"{model.setting}.{connection}.json"
        self._file = KeptFile(self.path, "tags last read")

    def rows(self) -> Mapping[str, Any]:
        """Tag -> its settings as text; empty when there are none."""
        return self._file.read() or {}

    def keep(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        """Written when they differ. A disk that refuses is a line in the log."""
        if self.rows() == rows:
            return
        try:
            self._file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("The tags last read cannot be kept in %s: %s", self._file.path.parent, error)
            return
        self._file.write(rows)

    def forget(self) -> None:
        try:
            self._file.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("The tags last read are still in %s: %s", self._file.path, error)
