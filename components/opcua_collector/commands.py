"""What the collector can be asked to do: read a range of the past again, explain a connection or a tag, browse and read
through its session, forget a consumer. See `sluice.command`.

What `backfill` guarantees: each sample that the server's history has in the range is handed on once per command, over
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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from opcua_collector import explain
from opcua_collector.address_space.looking import NotThereError, nodes_below, values_of
from opcua_collector.connection import Connection
from opcua_collector.groups import Live
from opcua_collector.history.requested import NOT_MONITORED
from opcua_collector.nodes import Facts
from opcua_collector.plan import by_group
from opcua_collector.problems import status_name
from opcua_collector.stack import UaError, UaStatusCodeError
from opcua_collector.values.encoding import MalformedError
from sluice.command import Call, Command, CommandError
from sluice.config import Duration, Settings, refuse
from sluice.outlets import Outlets
from sluice.problem import one_of
from sluice.tasks import within
from sluice.units import format_duration

T = TypeVar("T")

LONGEST_RANGE: Final = 31 * 86_400
"""Seconds."""
_SECOND: Final = 10**9
_AHEAD: Final = 60 * _SECOND  # a clock may be ahead of ours by this
_EARLIEST: Final = 10**17  # 1973: a smaller number is no time in nanoseconds
_LATEST: Final = 4 * 10**18  # 2096
_LOOK: Final = 0.5  # seconds between looks how far it is
_SHOWN: Final = 10
_ALIKE: Final = 100  # tags that are looked at closely for the one that may have been meant
_LONGEST_NAME: Final = 256
_MOST_WILDCARDS: Final = 100  # in all patterns of a command: each is held against every tag while nothing else runs
_MOST_READ: Final = 100
_PATIENCE: Final = 30.0  # seconds that a look at a server may take
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
Pattern = Annotated[str, Field(max_length=_LONGEST_NAME)]


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


class Explain(Settings):
    """Arguments of `explain`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    outage: Annotated[Duration, Field(ge=1, le=LONGEST_RANGE)] | None = None
    """How long a line is cut; without it as long as the configuration says that one may last."""
    tag: Annotated[str, Field(max_length=_LONGEST_NAME)] = ""
    """Instead of the whole connection one tag."""


class Browse(Settings):
    """Arguments of `browse`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    path: Annotated[str, Field(max_length=4096)] = "/"
    """Browse names from Objects down, such as /Plant/Unit1; no wildcards."""
    depth: Annotated[int, Field(ge=1, le=3)] = 1
    """Levels below it."""
    most: Annotated[int, Field(ge=1, le=500)] = 100
    """Nodes in the answer."""


class Read(Settings):
    """Arguments of `read`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    tags: Annotated[list[Pattern], BeforeValidator(_patterns), Field(min_length=1, max_length=_MOST_READ)]
    """Tags."""


class Forget(Settings):
    """Arguments of `forget`."""

    consumer: Annotated[str, Field(min_length=1, max_length=64, examples=["stream-exporter"])]
    """Id of a consumer, as under outbox.consumers in the status."""


class Commands:
    """The commands of a collector. connections: those that run, by name; outlets: None while there are none."""

    def __init__(
        self, connections: Callable[[], Mapping[str, Connection]], outlets: Callable[[], Outlets | None]
    ) -> None:
        self._connections = connections
        self._outlets = outlets

    def all(self) -> Sequence[Command[Any]]:
        """For the channel."""
        return (
            Command("backfill", Backfill, self._backfill, check=self._can_backfill, resumable=True),
            Command("forget", Forget, self._forget, check=self._can_forget),
            Command("explain", Explain, self._explain, check=self._can_explain, reads=True),
            Command("browse", Browse, self._browse, check=self._can_browse, reads=True),
            Command("read", Read, self._read, check=self._can_read, reads=True),
        )

    # --- backfill ---

    def _can_backfill(self, wanted: Backfill) -> None:
        connection = self._connection(wanted.connection)
        if wanted.to > time.time_ns() + _AHEAD:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
            raise CommandError(
                f"arguments.to is in the future: it is {now} on this device", "give a time that has passed there"
            )
        tags = matching(wanted.tags, connection.tags, wanted.connection)
        why = {connection.history(tag) for tag in tags}
        if None not in why and "" not in why:
            raise CommandError(
                f"the server of {wanted.connection} has no history of {'these tags' if len(tags) > 1 else tags[0]}: "
                f"{', '.join(sorted(filter(None, why)))[:300]}",
                "have the server record their history and let this user read it",
            )
        if connection.asked:
            raise CommandError(
                f"{wanted.connection} has as many ranges to read as it takes",
                "send it again when one of them is done; the same id will do",
            )

    def _connection(self, name: str) -> Connection:
        connections = self._connections()
        if name not in connections:
            raise CommandError(
                f"arguments.connection = {name[:64]!r} is no connection", one_of(sorted(connections)[:_SHOWN], name)
            )
        return connections[name]

    async def _backfill(self, call: Call[Backfill]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self._connection(wanted.connection)
        tags = matching(wanted.tags, connection.tags, wanted.connection)
        request = connection.request(call.id, wanted.first, wanted.to, tags)
        while not request.over:
            call.progress(request.progress, request.result())
            await asyncio.sleep(_LOOK)
            if self._connections().get(wanted.connection) is not connection:
                raise CommandError(
                    f"the connection {wanted.connection} was removed", "configure it again and send a new command"
                )
        await connection.settled()
        result = request.result()
        if request.tags and request.left_out == request.tags:
            raise CommandError(
                f"nothing could be read: {', '.join(sorted(set(request.why.values())))[:300]}",
                "see that the server keeps a history of these tags, that this user may read it, and that they are "
                "collected",
            )
        return result

    # --- a look at a connection, and through its session ---

    def _can_explain(self, wanted: Explain) -> None:
        self._connection(wanted.connection)
        if wanted.tag:
            self._known(wanted.connection, wanted.tag, "tag")

    def _known(self, name: str, tag: str, argument: str) -> None:
        tags = self._connection(name).tags
        if tag not in tags:
            raise CommandError(
                f"arguments.{argument}: {tag[:128]!r} names no tag of {name}",
                one_of(_near(tag, tags), tag) if tags else "configure its tags first",
            )

    async def _explain(self, call: Call[Explain]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self._connection(wanted.connection)
        if wanted.tag:
            known = connection.of_tag(wanted.tag)
            if known is None:
                raise CommandError(f"{wanted.tag} is not collected any more", "see the tags of the configuration")
            return {"connection": wanted.connection, "tag": wanted.tag, **known}
        history = {
            group: sum(connection.history(tag) == "" for tag in some)
            for group, some in by_group(connection.settings, connection.tags).items()
        }
        return explain.report(
            connection.describe(),
            connection.settings,
            outage=wanted.outage,
            history=history,
            bad=connection.troubles(explain.SHOWN),
        )

    def _can_browse(self, wanted: Browse) -> None:
        self._live(wanted.connection)
        if not wanted.path.startswith("/"):
            raise CommandError(
                f"arguments.path = {wanted.path[:128]!r} does not begin with /",
                "write the browse names from Objects down, such as /Plant/Unit1",
            )

    async def _browse(self, call: Call[Browse]) -> Mapping[str, Any]:
        wanted = call.arguments
        try:
            return await self._ask(
                wanted.connection, lambda facts: nodes_below(facts, wanted.path, wanted.depth, wanted.most)
            )
        except NotThereError as error:
            raise CommandError(
                f"arguments.path = {wanted.path[:128]!r}: there is no {error.step[:64]!r} on the server",
                one_of(sorted(dict.fromkeys(error.names))[:_SHOWN], error.step)
                if error.names
                else "nothing is below the step before it",
            ) from None

    def _can_read(self, wanted: Read) -> None:
        self._live(wanted.connection)
        for tag in wanted.tags:
            self._known(wanted.connection, tag, "tags")

    async def _read(self, call: Call[Read]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self._connection(wanted.connection)
        requests = {tag: connection.request_of(tag) for tag in dict.fromkeys(wanted.tags)}
        known = {tag: request for tag, request in requests.items() if request is not None}
        values = await self._ask(wanted.connection, lambda facts: values_of(facts, known))
        unknown = {tag: {"problem": NOT_MONITORED} for tag, request in requests.items() if request is None}
        return {"connection": wanted.connection, "values": {**values, **unknown}}

    def _live(self, name: str) -> Live:
        """What a connection that is connected runs on."""
        connection = self._connection(name)
        if connection.live is None:
            state = connection.state.as_dict()
            why = f": {state['why']}" if state.get("why") else f" ({state['state']})"
            raise CommandError(
                f"{name} is not connected{why}"[:400], str(state.get("remedy") or "send it again when it is")
            )
        return connection.live

    async def _ask(self, name: str, ask: Callable[[Facts], Coroutine[Any, Any, T]]) -> T:
        """What the server of the connection answers, in the session that collects."""
        live = self._live(name)

        async def work() -> T:
            return await ask(await asyncio.shield(live.facts))

        try:
            return await within(_PATIENCE, work())
        except asyncio.TimeoutError:
            raise CommandError(f"{name} did not answer within {_PATIENCE:g} s", "ask for less, or later") from None
        except UaStatusCodeError as error:
            raise CommandError(
                f"the server of {name} refused it ({status_name(error.code)})", "look the status up in its manual"
            ) from None
        except asyncio.CancelledError:
            if live.facts.cancelled():
                raise CommandError(f"{name} lost its connection meanwhile", "send it again when it is back") from None
            raise
        except (UaError, MalformedError, OSError) as error:
            raise CommandError(
                f"{name} lost its connection meanwhile ({type(error).__name__})", "send it again when it is back"
            ) from None

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
                one_of(_near(pattern, tags), pattern) if tags else "configure its tags first",
            )
        found.update(some)
    return [tag for tag in tags if tag in found]


def _near(pattern: str, tags: Mapping[str, Any]) -> list[str]:
    """Some tags to choose from, those with a similar name first; quickly, however many there are."""
    backwards = pattern[::-1]
    alike = heapq.nlargest(_ALIKE, tags, lambda tag: _in_common(tag, pattern) + _in_common(tag[::-1], backwards))
    near = difflib.get_close_matches(pattern, alike, _SHOWN)
    return [*near, *(tag for tag in islice(tags, 2 * _SHOWN) if tag not in near)][:_SHOWN]


def _in_common(one: str, other: str) -> int:
    """How many characters are the same at their beginnings."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
