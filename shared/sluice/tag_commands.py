"""What the commands to all collectors have in common: times, patterns of tags, ranges of the past, consumers to forget.

`backfill` reads a range of the past again: each sample that the server has of it is handed on once per command, over
restarts of collector and server. What was collected before comes again, in the stream `<connection>/backfill`, and so
does what an earlier command read: in SiteWise the same property, time and quality overwrite each other; S3 has it in
further objects and Kinesis in further records, with other ids, so that readers of both find it twice. It waits for live
data, for gaps, and until less than half of the outbox is used.
"""

from __future__ import annotations

import asyncio
import difflib
import fnmatch
import heapq
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, Generic, Protocol, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from sluice.command import Call, Command, CommandError
from sluice.config import Settings, refuse
from sluice.outlets import Outlets
from sluice.problem import one_of
from sluice.units import format_duration

LONGEST_RANGE: Final = 31 * 86_400
"""Seconds."""
LONGEST_NAME: Final = 256
"""Characters of a tag, or of a pattern."""
MOST_READ: Final = 100
"""Tags that are read by one command."""
SHOWN: Final = 10
"""Names in one answer that says which there are."""
_SECOND: Final = 10**9
_AHEAD: Final = 60 * _SECOND  # a clock may be ahead of ours by this
_EARLIEST: Final = 10**17  # 1973: a smaller number is no time in nanoseconds
_LATEST: Final = 4 * 10**18  # 2096
_LOOK: Final = 0.5  # seconds between looks how far it is
_ALIKE: Final = 100  # tags that are looked at closely for the one that may have been meant
_MOST_WILDCARDS: Final = 100  # in all patterns of a command: each is held against every tag while nothing else runs
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d:?\d\d)", re.IGNORECASE
)
_WILDCARD: Final = re.compile(r"[*?[]")
_WRITE_TIME: Final = "write it with its time zone, such as 2026-03-01T10:00:00Z, or as nanoseconds since 1970"


def _moment(value: Any) -> int:
    """A time as nanoseconds since 1970."""
    text = str(value).strip()
    if re.fullmatch(r"[0-9]{1,30}", text):
        number = int(text)
    elif match := _TIME.fullmatch(text):
        day, minutes, seconds, fraction, zone = match.groups()
        zone = "+00:00" if zone in "Zz" else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
        try:
            whole = datetime.fromisoformat(f"{day}T{minutes}:{seconds or '00'}{zone}")
        except ValueError:
            refuse("is no time", _WRITE_TIME)
        number = int(whole.timestamp()) * _SECOND + int((fraction or "0").ljust(9, "0"))
    else:
        refuse("is no time", _WRITE_TIME)
    if not _EARLIEST <= number <= _LATEST:
        refuse("is not between 1973 and 2096", _WRITE_TIME)
    return number


def _patterns(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Moment = Annotated[int, BeforeValidator(_moment)]
Pattern = Annotated[str, Field(max_length=LONGEST_NAME)]


class Backfill(Settings):
    """Arguments of `backfill`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    first: Annotated[Moment, Field(alias="from", examples=["2026-03-01T10:00:00Z"])]
    """Samples from this time on."""
    to: Annotated[Moment, Field(examples=["2026-03-01T12:00:00Z"])]
    """Samples before this time."""
    tags: Annotated[list[Pattern], BeforeValidator(_patterns), Field(min_length=1, max_length=1000)] = Field(
        default_factory=lambda: ["*"]
    )
    """Tags, or patterns with * and ?."""

    @model_validator(mode="after")
    def _in_order(self) -> Backfill:
        if self.first >= self.to:
            refuse("does not begin before it ends", "give from a time before to")
        if self.to - self.first > LONGEST_RANGE * _SECOND:
            refuse(f"is longer than {format_duration(LONGEST_RANGE)}", "ask for it in several commands")
        return self


class Read(Settings):
    """Arguments of `read`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    tags: Annotated[list[Pattern], BeforeValidator(_patterns), Field(min_length=1, max_length=MOST_READ)]
    """Tags."""


class Forget(Settings):
    """Arguments of `forget`."""

    consumer: Annotated[str, Field(min_length=1, max_length=64, examples=["stream-exporter"])]
    """Id of a consumer, as under outbox.consumers in the status."""


class PastRequest(Protocol):
    """A range of the past that somebody has asked for."""

    tags: int
    left_out: int
    """Tags of which nothing can be read."""
    why: dict[str, str]
    """Of some of these: the reason."""

    @property
    def over(self) -> bool:
        """Nothing is left to read."""

    @property
    def progress(self) -> float:
        """From 0 to 1."""

    def result(self) -> dict[str, Any]:
        """What was done so far."""


class Collecting(Protocol):
    """A connection, as far as these commands know it."""

    @property
    def tags(self) -> Mapping[str, Any]:
        """What is collected, by tag."""

    @property
    def asked(self) -> bool:
        """As many ranges of the past are asked for as can be."""

    def asked_for(self, identity: str) -> PastRequest | None:
        """The request of this id, done or not, as far as it is known."""

    def request(self, identity: str, first: int, until: int, tags: Collection[str]) -> PastRequest:
        """Read a range of the past (ns, first <= time < until) again; an id that is known goes on where it was."""

    async def settled(self) -> None:
        """Until what has been read so far, and the note of it, are durable."""


C = TypeVar("C", bound=Collecting)


class TagCommands(ABC, Generic[C]):
    """`backfill` and `forget`, and what the other commands of a collector need. connections: those that run, by name;
    outlets: None while there are none."""

    nothing_read: ClassVar[str] = "see that the server keeps a history of these tags and lets this user read it"
    """What mends it when nothing at all could be read."""

    def __init__(self, connections: Callable[[], Mapping[str, C]], outlets: Callable[[], Outlets | None]) -> None:
        self._connections = connections
        self._outlets = outlets

    @abstractmethod
    def check_past(self, name: str, connection: C, tags: Sequence[str]) -> None:
        """Raises CommandError when it is clear already that the past of none of these tags can be read."""

    def all(self) -> Sequence[Command[Any]]:
        """For the channel."""
        return (
            Command("backfill", Backfill, self._backfill, check=self._can_backfill, resumable=True),
            Command("forget", Forget, self._forget, check=self._can_forget),
        )

    # --- backfill ---

    def _can_backfill(self, wanted: Backfill) -> None:
        connection = self.connection(wanted.connection)
        if wanted.to > time.time_ns() + _AHEAD:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
            raise CommandError(
                f"arguments.to is in the future: it is {now} on this device", "give a time that has passed there"
            )
        tags = matching(wanted.tags, connection.tags, wanted.connection)
        self.check_past(wanted.connection, connection, tags)
        if connection.asked:
            raise CommandError(
                f"{wanted.connection} has as many ranges to read as it takes",
                "send it again when one of them is done; the same id will do",
            )

    def connection(self, name: str) -> C:
        """The connection of that name. Raises CommandError, with those that there are."""
        connections = self._connections()
        if name not in connections:
            raise CommandError(
                f"arguments.connection = {name[:64]!r} is no connection", one_of(sorted(connections)[:SHOWN], name)
            )
        return connections[name]

    async def _backfill(self, call: Call[Backfill]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
        request = connection.asked_for(call.id)
        if request is None:  # else it goes on, whether its tags are known again by now or not
            tags = matching(wanted.tags, connection.tags, wanted.connection)
            request = connection.request(call.id, wanted.first, wanted.to, tags)
        while not request.over:
            call.progress(request.progress, request.result())
            await asyncio.sleep(_LOOK)
            if self._connections().get(wanted.connection) is not connection:
                raise CommandError(
                    f"the connection {wanted.connection} was removed", "configure it again and send a new command"
                )
            request = connection.asked_for(call.id) or request  # a connection that began anew has read its notes
        await connection.settled()
        result = request.result()
        if request.tags and request.left_out == request.tags:
            raise CommandError(
                f"nothing could be read: {', '.join(sorted(set(request.why.values())))[:300]}", self.nothing_read
            )
        return result

    def check_tag(self, name: str, tag: str, argument: str) -> None:
        """Raises CommandError, with those that may have been meant, when the connection has no such tag."""
        tags = self.connection(name).tags
        if tag not in tags:
            raise CommandError(
                f"arguments.{argument}: {tag[:128]!r} names no tag of {name}",
                one_of(near(tag, tags), tag) if tags else "configure its tags first",
            )

    # --- forget ---

    def _can_forget(self, wanted: Forget) -> None:
        if self._outlets() is None:
            raise CommandError("the outbox is not open", "send it again when the component runs")

    async def _forget(self, call: Call[Forget]) -> Mapping[str, Any]:
        outlets = self._outlets()
        name = call.arguments.consumer
        if outlets is None:
            raise CommandError("the outbox is not open", "send it again when the component runs")
        try:
            return {"batches": outlets.forget(name)}
        except ValueError as error:
            problem, _, remedy = str(error).partition(": ")
            raise CommandError(f"arguments.consumer = {name!r} {problem}", remedy) from None


def matching(patterns: Sequence[str], tags: Mapping[str, Any], connection: str) -> list[str]:
    """The tags that a pattern names, in their order. Raises CommandError for a pattern that names none, and when there
    are too many."""
    wildcards = sum(len(_WILDCARD.findall(pattern)) for pattern in patterns if pattern not in tags)
    if wildcards > _MOST_WILDCARDS:
        raise CommandError(
            f"arguments.tags has {wildcards} wildcards, and {_MOST_WILDCARDS} are the most",
            "name the tags, or ask for them in several commands",
        )
    found: set[str] = set()
    for pattern in patterns:
        matches = re.compile(fnmatch.translate(pattern)).match
        some = [pattern] if pattern in tags else [tag for tag in tags if matches(tag)]
        if not some:
            raise CommandError(
                f"arguments.tags: {pattern[:128]!r} names no tag of {connection}",
                one_of(near(pattern, tags), pattern) if tags else "configure its tags first",
            )
        found.update(some)
    return [tag for tag in tags if tag in found]


def near(pattern: str, tags: Mapping[str, Any]) -> list[str]:
    """Some tags to choose from, those with a similar name first; quickly, however many there are."""
    backwards = pattern[::-1]
    alike = heapq.nlargest(_ALIKE, tags, lambda tag: _in_common(tag, pattern) + _in_common(tag[::-1], backwards))
    close = difflib.get_close_matches(pattern, alike, SHOWN)
    return [*close, *(tag for tag in islice(tags, 2 * SHOWN) if tag not in close)][:SHOWN]


def _in_common(one: str, other: str) -> int:
    """How many characters are the same at their beginnings."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
