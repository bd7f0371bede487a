"""What the collector can be asked to do: read a range of the past again, explain a connection or a tag, look for points
and read values on the server, look points up anew, forget a consumer. See `sluice.command`, and `sluice.tag_commands`
for what all collectors share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field

from pi_collector.config import Select
from pi_collector.connection import Connection
from pi_collector.points.lookup import DataServer, Lookup
from pi_collector.points.searching import search
from pi_collector.web.errors import PiError
from pi_collector.web.pace import LIVE
from sluice.command import Call, Command, CommandError
from sluice.config import Settings
from sluice.problem import one_of
from sluice.tag_commands import LONGEST_NAME, SHOWN, Read, TagCommands
from sluice.tasks import within

T = TypeVar("T")

_PATIENCE: Final = 30.0  # seconds that a look at a server may take
_LATER: Final = "send it again later"


class Explain(Settings):
    """Arguments of `explain`."""

    connection: Annotated[str, Field(max_length=64, examples=["site"])]
    """Name of the connection."""
    tag: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
    """Instead of the whole connection one tag."""


class Browse(Settings):
    """Arguments of `browse`."""

    connection: Annotated[str, Field(max_length=64, examples=["site"])]
    """Name of the connection."""
    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, examples=["Unit1.*"])] = "*"
    """Names of points, with * and ?."""
    source: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
    """Only points of this point source."""
    most: Annotated[int, Field(ge=1, le=500)] = 100
    """Points in the answer."""


class Refresh(Settings):
    """Arguments of `refresh`."""

    connection: Annotated[str, Field(max_length=64, examples=["site"])]
    """Name of the connection."""


class Commands(TagCommands[Connection]):
    """The commands of the collector."""

    nothing_read = "see that these tags are collected, and that this user may read their points"

    def all(self) -> Sequence[Command[Any]]:
        """For the channel."""
        return (
            *super().all(),
            Command("explain", Explain, self._explain, check=self._can_explain, reads=True),
            Command("browse", Browse, self._browse, check=self._can_browse, reads=True),
            Command("read", Read, self._read, check=self._can_read, reads=True),
            Command("refresh", Refresh, self._refresh, check=self._can_refresh),
        )

    def check_past(self, name: str, connection: Connection, tags: Sequence[str]) -> None:
        """See `TagCommands`."""
        why = {connection.history(tag) for tag in tags}
        if None not in why and "" not in why:
            raise CommandError(
                f"the past of {'these tags' if len(tags) > 1 else tags[0]} of {name} cannot be read: "
                f"{', '.join(sorted(filter(None, why)))[:300]}",
                "ask for tags of mode recorded, snapshot or end",
            )

    # --- a look at a connection, and at its server ---

    def _can_explain(self, wanted: Explain) -> None:
        self.connection(wanted.connection)
        if wanted.tag:
            self.check_tag(wanted.connection, wanted.tag, "tag")

    async def _explain(self, call: Call[Explain]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
        if not wanted.tag:
            return connection.describe()
        told: dict[str, Any] = {"connection": wanted.connection, "tag": wanted.tag}
        known = connection.of_tag(wanted.tag)
        if known is None:
            return told | {"problem": "its point is not known: see the status for what is wrong with it"}
        try:
            values = await within(_PATIENCE, connection.current([wanted.tag]))
        except (PiError, asyncio.TimeoutError) as error:
            known["value"] = {"problem": getattr(error, "problem", f"no answer within {_PATIENCE:g} s")}
        else:
            known["value"] = values.get(wanted.tag, {})
        return told | known

    def _can_browse(self, wanted: Browse) -> None:
        self.connection(wanted.connection)

    async def _browse(self, call: Call[Browse]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
        lookup = Lookup(connection.client, connection.settings.load)

        async def look() -> Mapping[str, Any]:
            server = _server(connection, await lookup.data_servers())
            wish = Select(name=wanted.name, source=wanted.source)
            found = await search(lookup, wish, server, most=wanted.most, priority=LIVE)
            points = [
                {
                    "name": point.name,
                    "type": point.type,
                    **({"unit": point.unit} if point.unit else {}),
                    **({"descriptor": point.descriptor} if point.descriptor else {}),
                }
                for point in found.points
            ]
            told: dict[str, Any] = {"connection": wanted.connection, "data_server": server.name, "points": points}
            return told | {"more": True} if found.cut else told

        return await self._ask(wanted.connection, look())

    def _can_read(self, wanted: Read) -> None:
        for tag in wanted.tags:
            self.check_tag(wanted.connection, tag, "tags")

    async def _read(self, call: Call[Read]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
        values = await self._ask(wanted.connection, connection.current(list(dict.fromkeys(wanted.tags))))
        return {"connection": wanted.connection, "values": values}

    def _can_refresh(self, wanted: Refresh) -> None:
        self.connection(wanted.connection)

    async def _refresh(self, call: Call[Refresh]) -> Mapping[str, Any]:
        connection = self.connection(call.arguments.connection)
        connection.refresh()
        return {"connection": call.arguments.connection, "points": connection.points.status()}

    async def _ask(self, name: str, asking: Awaitable[T]) -> T:
        """What the server of the connection answers."""
        try:
            return await within(_PATIENCE, asking)
        except asyncio.TimeoutError:
            raise CommandError(f"{name} did not answer within {_PATIENCE:g} s", "ask for less, or later") from None
        except PiError as error:
            raise CommandError(f"the server of {name} {error.problem}"[:400], error.remedy or _LATER) from None


def _server(connection: Connection, servers: Sequence[DataServer]) -> DataServer:
    """The connection's data server. Raises CommandError."""
    wanted = connection.settings.data_server.casefold()
    names = [server.name for server in servers]
    for server in servers:
        if server.name.casefold() == wanted or (not wanted and len(servers) == 1):
            return server
    if not names:
        raise CommandError(f"the server of {connection.name} knows no data server", "see that this user may see it")
    raise CommandError(
        f"{connection.name} names no data server that its server knows",
        f"set dataServer: {one_of(names[:SHOWN], connection.settings.data_server)}",
    )
