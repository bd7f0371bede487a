"""The tags that a connection's filters give: from what was last seen at once, and from the server as it is now.

    start          the address space that is on disk: collecting begins before the server was asked for anything
    each session   the server is looked through, unless that was done since it was started, with these filters, and is
                   not older than browse.refresh; a lost line alone makes nobody look through 100,000 nodes again
    every refresh  once more

What is new is collected at once. What is gone is given up when it was not found twice in a row, some minutes apart: a
server that restarts shows its nodes little by little. A look that failed, or could not see a part of the server, makes
nothing go. Looking has the lowest priority: it waits while publishing is
behind. A look that fails is told and repeated in growing pauses; what there was goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from opcua_collector.address_space.selecting import Chosen, Wishes, choose
from opcua_collector.address_space.space import Space, file_of, forget, load, merged, save
from opcua_collector.address_space.walk import Progress, Walk, Walked
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Select, Tag
from opcua_collector.nodes import Facts, Reporter
from opcua_collector.problems import status_name
from opcua_collector.services.session import Session
from opcua_collector.stack import UaError, UaStatusCodeError
from opcua_collector.values.encoding import MalformedError
from sluice.config import Problem
from sluice.retry import Backoff
from sluice.status import when
from sluice.tasks import within

logger = logging.getLogger(__name__)

_PAUSES: Final = (10.0, 600.0)
_APART: Final = 300.0
"""Seconds after which something that is missing is looked for again, and before which it does not count as missing a
second time."""
_NOTHING: Final = "nothing is given up for that reason; what was found before is collected"


class Discovery:
    """The filters of one connection.

    found: is given all tags that the filters give, by name, whenever they have changed. folder: where what was seen is
    kept. behind: whether publishing has to catch up. `run` in every session, beside publishing.
    """

    def __init__(
        self,
        connection: str,
        settings: Settings,
        folder: Path,
        found: Callable[[Mapping[str, Tag]], None],
        problems: Reporter,
        *,
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._file = file_of(folder, connection)
        self._found = found
        self._problems = problems
        self._behind = behind
        self._wishes = Wishes.of(connection, settings.select)
        self._space = Space(mark=settings.endpoint)
        self._chosen = Chosen()
        self._told: set[str] = set()
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._done = ""  # of which server, and with which filters, the last look was that succeeded
        self._due = 0.0  # when it is time for another
        self._progress: Progress | None = None
        self._last: Walked | None = None
        self._looks = 0
        self._missing = False  # the last look did not find what there was before
        self._type_names: dict[str, list[str]] = {}
        self._looked: Mapping[str, Select] | None = None  # filters of the last look that succeeded

    async def restore(self) -> None:
        """Give the tags that the address space on disk has."""
        if not self._settings.select:
            return
        space = await asyncio.to_thread(load, self._file)
        if space is None or space.mark != self._settings.endpoint:
            return
        self._space = space
        await self._choose()
        logger.info(
            "Connection %s: the filters give %d tags of the %d nodes last seen",
            self._connection,
            len(self._chosen.tags),
            len(space),
        )

    async def apply(self, settings: Settings) -> None:
        """Go over to these settings: filters that went give up their tags now, and new ones find theirs soon."""
        before, self._settings = self._settings, settings
        if before.endpoint != settings.endpoint:
            self._space = Space(mark=settings.endpoint)
            self._done, self._looked = "", None
        same = before.select == settings.select and before.browse == settings.browse
        if same and before.groups.keys() == settings.groups.keys() and before.endpoint == settings.endpoint:
            self._tell(
                self._chosen.problems
            )  # who has read the configuration anew has forgotten what was wrong with it
            return
        self._wishes = Wishes.of(self._connection, settings.select)
        await self._choose()
        self._changed.set()

    def forget(self) -> None:
        """The connection is gone: delete what is kept of its server."""
        forget(self._file)

    # --- in a session ---

    async def run(self, session: Session, facts: asyncio.Task[Facts]) -> None:
        """Look through the server when it is time to. Never ends by itself, and never fails for the server's sake."""
        known = await asyncio.shield(facts)
        started = await _started(session)
        backoff = Backoff(*_PAUSES)
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            if not self._wishes.select:
                self._clear_browse()
                await self._changed.wait()
                continue
            self._due = min(self._due, clock() + self._settings.browse.refresh)  # which may have become shorter
            mark = self._mark(started, known)
            if mark != self._done or clock() >= self._due:
                if await self._look(session, known):
                    self._done = mark
                    backoff.reset()
                    refresh = self._settings.browse.refresh
                    self._due = clock() + (min(refresh, _APART) if self._missing else refresh)
                else:
                    self._done = ""
                    self._due = clock() + backoff.next()
            try:
                await within(max(0.0, self._due - clock()), self._changed.wait())
            except asyncio.TimeoutError:
                continue

    def _mark(self, started: str, known: Facts) -> str:
        wishes = {name: wish.model_dump_json() for name, wish in self._wishes.select.items()}
        said = repr((started, known.spaces, self._settings.endpoint, self._settings.browse.max_nodes, wishes))
        return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()

    async def _look(self, session: Session, known: Facts) -> bool:
        """Look through the server once; whether that came to an end."""
        wishes, endpoint = self._wishes, self._settings.endpoint
        self._progress = Progress()
        walk = Walk(
            session.stack,
            known.limits,
            known.spaces,
            wishes.filters,
            wishes.select,
            most=self._settings.browse.max_nodes,
            behind=self._behind,
            progress=self._progress,
        )
        try:
            walked = await walk.run()
            if endpoint == self._settings.endpoint:
                await self._take(walked, wishes)
        except (UaError, MalformedError, OSError, asyncio.TimeoutError) as error:
            self._failed(error)
            return False
        except Exception as error:  # whatever it is, it costs the tags of filters, and not those that flow
            logger.exception("Connection %s: the server could not be looked through", self._connection)
            self._failed(error)
            return False
        finally:
            self._progress = None
        return True

    async def _take(self, walked: Walked, wishes: Wishes) -> None:
        """What was seen replaces what was seen before, and gives the tags from now on."""
        async with self._lock:
            walked.space.mark = self._space.mark
            seen = len(walked.space)
            apart = (walked.space.walked - self._space.walked) / 1e9 >= min(_APART, self._settings.browse.refresh / 2)
            self._space = await asyncio.to_thread(
                merged, self._space, walked.space, walked.unknown, complete=walked.complete and apart
            )
            self._missing = walked.complete and not walked.unknown and len(self._space) > seen
        self._last = walked
        self._looks += 1
        self._type_names = walked.type_names
        self._looked = wishes.select
        await self._choose()
        self._clear_browse()
        self._tell_incomplete(walked)
        logger.info(
            "Connection %s: the filters give %d tags of %d nodes, looked through in %.1f s with %d requests",
            self._connection,
            len(self._chosen.tags),
            len(self._space),
            walked.seconds,
            walked.requests,
        )
        await asyncio.to_thread(save, self._file, self._space)

    async def _choose(self) -> None:
        """Match the filters anew; hand over the tags when they are others."""
        async with self._lock:
            wishes, space, groups = self._wishes, self._space, tuple(self._settings.groups)
            looked = self._looked == wishes.select
            before = self._chosen
            chosen = await asyncio.to_thread(
                choose,
                wishes,
                space,
                looked=looked,
                type_names=self._type_names,
                groups=groups,
                before=before.tags,
            )
            changed = chosen.mark != before.mark
            if not changed:
                chosen.tags = before.tags
            self._chosen = chosen
        if changed:
            self._found(chosen.tags)
        self._tell(chosen.problems)

    # --- what is told ---

    def _tell(self, problems: Iterable[Problem]) -> None:
        new = {problem.path: problem for problem in problems}
        for scope in self._told - new.keys():
            self._problems.clear(scope)
        for problem in new.values():
            self._problems.report(problem.path, f"{problem.problem}", problem.remedy, problem.value)
        self._told = set(new)

    @property
    def _place(self) -> str:
        return f"connections.{self._connection}.browse"

    def _clear_browse(self) -> None:
        self._problems.clear(self._place)

    def _failed(self, error: Exception) -> None:
        answer = status_name(error.code) if isinstance(error, UaStatusCodeError) else str(error) or type(error).__name__
        if isinstance(error, asyncio.TimeoutError):
            answer = "no answer in time"
        logger.info("Connection %s: looking through the server failed (%s)", self._connection, answer)
        if isinstance(error, ConnectionError):  # the line is lost, which is told elsewhere
            return
        self._problems.report(
            self._place,
            f"failed, the server gives {answer[:200]}; {_NOTHING}",
            "it is tried again; see that this user may browse the server, or name the nodes as tags",
        )

    def _tell_incomplete(self, walked: Walked) -> None:
        if walked.truncated:
            most = self._settings.browse.max_nodes
            self._problems.report(
                f"{self._place}.maxNodes",
                f"is not enough to look through the server; {_NOTHING}",
                "raise it (up to 1000000), or write filters that begin with more names",
                most,
            )
        if walked.unknown:
            status = next(iter(walked.unknown.values()))
            logger.info(
                "Connection %s: of %d nodes the server does not say what is below them (%s)",
                self._connection,
                len(walked.unknown),
                status_name(status),
            )

    def status(self) -> dict[str, Any]:
        """For the connection's status; empty without filters."""
        if not self._settings.select:
            return {}
        told: dict[str, Any] = {"tags": len(self._chosen.tags), "nodes": len(self._space)}
        if self._chosen.counts:
            told["filters"] = dict(self._chosen.counts)
        if self._space.walked:
            told["looked"] = when(self._space.walked / 1e9)
        if self._last is not None:
            told["looked_through"] = self._looks
            told["seconds"] = round(self._last.seconds, 3)
            told["requests"] = self._last.requests
            if self._last.unknown:
                told["unknown"] = len(self._last.unknown)
        if self._progress is not None:
            looking = {"nodes": self._progress.nodes, "requests": self._progress.requests}
            told["looking"] = {**looking, **({"waits": "publishing is behind"} if self._progress.waits else {})}
        return told


async def _started(session: Session) -> str:
    """When the server started; empty where it does not say."""
    try:
        return (await session.times())[0]
    except (UaError, MalformedError, asyncio.TimeoutError):
        return ""


def forget_spaces(folder: Path, connections: Collection[str]) -> None:
    """Delete what is kept of the servers of all connections but these, which may have gone while nobody ran."""
    for path in folder.glob("*.zst") if folder.is_dir() else ():
        if path.stem not in connections:
            forget(path)
