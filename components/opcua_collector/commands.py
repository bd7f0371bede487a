"""What the collector can be asked to do: read a range of the past again, explain a connection or a tag, browse and read
through its session, forget a consumer. See `sluice.command`, and `sluice.tag_commands` for what all collectors share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field

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
from sluice.config import Duration, Settings
from sluice.problem import one_of
from sluice.tag_commands import LONGEST_NAME, LONGEST_RANGE, SHOWN, Read, TagCommands
from sluice.tasks import within

T = TypeVar("T")

_PATIENCE: Final = 30.0  # seconds that a look at a server may take


class Explain(Settings):
    """Arguments of `explain`."""

    connection: Annotated[str, Field(max_length=64, examples=["line1"])]
    """Name of the connection."""
    outage: Annotated[Duration, Field(ge=1, le=LONGEST_RANGE)] | None = None
    """How long a line is cut; without it as long as the configuration says that one may last."""
    tag: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
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


class Commands(TagCommands[Connection]):
    """The commands of a collector."""

    nothing_read = (
        "see that the server keeps a history of these tags, that this user may read it, and that they are collected"
    )

    def all(self) -> Sequence[Command[Any]]:
        """For the channel."""
        return (
            *super().all(),
            Command("explain", Explain, self._explain, check=self._can_explain, reads=True),
            Command("browse", Browse, self._browse, check=self._can_browse, reads=True),
            Command("read", Read, self._read, check=self._can_read, reads=True),
        )

    def check_past(self, name: str, connection: Connection, tags: Sequence[str]) -> None:
        """See `TagCommands`."""
        why = {connection.history(tag) for tag in tags}
        if None not in why and "" not in why:
            raise CommandError(
                f"the server of {name} has no history of {'these tags' if len(tags) > 1 else tags[0]}: "
                f"{', '.join(sorted(filter(None, why)))[:300]}",
                "have the server record their history and let this user read it",
            )

    # --- a look at a connection, and through its session ---

    def _can_explain(self, wanted: Explain) -> None:
        self.connection(wanted.connection)
        if wanted.tag:
            self.check_tag(wanted.connection, wanted.tag, "tag")

    async def _explain(self, call: Call[Explain]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
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
                one_of(sorted(dict.fromkeys(error.names))[:SHOWN], error.step)
                if error.names
                else "nothing is below the step before it",
            ) from None

    def _can_read(self, wanted: Read) -> None:
        self._live(wanted.connection)
        for tag in wanted.tags:
            self.check_tag(wanted.connection, tag, "tags")

    async def _read(self, call: Call[Read]) -> Mapping[str, Any]:
        wanted = call.arguments
        connection = self.connection(wanted.connection)
        requests = {tag: connection.request_of(tag) for tag in dict.fromkeys(wanted.tags)}
        known = {tag: request for tag, request in requests.items() if request is not None}
        values = await self._ask(wanted.connection, lambda facts: values_of(facts, known))
        unknown = {tag: {"problem": NOT_MONITORED} for tag, request in requests.items() if request is None}
        return {"connection": wanted.connection, "values": {**values, **unknown}}

    def _live(self, name: str) -> Live:
        """What a connection that is connected runs on."""
        connection = self.connection(name)
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
