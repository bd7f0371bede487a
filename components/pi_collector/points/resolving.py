"""Tags to points: what is collected, by the names that people gave it, kept true to what the server has.

    start             the list on disk: collecting begins before the server was asked for anything
    a new tag         asked for at once; many in one request
    what is not there set aside with a problem and asked for again, 30 s to 1 h apart and at refreshes; the rest runs
    each refresh      all points and searches anew: by the time, by command, and when another server answers

A point is its number on its data server: its name may change, and another point may get its name.

    at the path      by its number            then
    same number      (not asked)              goes on; another name, unit or type is told
    another number   (not asked)              recreated: told, another stream
    nothing          same number              renamed: told, goes on
    nothing          nothing, the first time  goes on, and is looked for again after half a minute
    nothing          nothing, once more, or   set aside
                     reading found it gone
    no answer to it  (not asked)              goes on, and is told

An archive that is away may call every point unknown: while the data server is not connected nothing is looked up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from pi_collector.config import Connection as Settings
from pi_collector.config import Select, Tag
from pi_collector.plan import Plan, plan
from pi_collector.points.cache import Cache, Known
from pi_collector.points.lookup import DataServer, Found, Lookup, Refusal, Web, Why
from pi_collector.points.point import BLOB, Point, key_of
from pi_collector.points.searching import MOST, Chosen, NoSearchError, choose, search
from pi_collector.problems import Reporter
from pi_collector.web.errors import ForbiddenError, NotFoundError, PiError, ThrottledError
from pi_collector.web.pace import BACKFILL, LIVE, Priority
from sluice.problem import Problem, render
from sluice.retry import Backoff
from sluice.status import when
from sluice.tasks import within

logger = logging.getLogger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = 30.0, 3600.0
_SECOND_LOOK: Final = 30.0
"""Seconds after which what was there and is missing is looked for again."""
_PAUSES: Final = (1.0, 60.0)  # seconds after a server that did not answer
_APART: Final = 60.0  # seconds between refreshes at least
_SERVER_KNOWN: Final = 30.0  # seconds for which an answer to what data servers there are holds
_SHOW: Final = 1.0  # seconds between handing over what was found so far
_MOST_TOLD: Final = 200  # tags set aside whose problems are told one by one
_MOST_LOST: Final = 10_000
_MOST_NAMED: Final = 16  # names in an event


class Server(Web, Protocol):
    """What is needed of `web.client.Client`."""

    @property
    def generation(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """A tag and its point. `unit`: the tag's, else the point's; `asset`: the tag's, else the connection's."""

    tag: Tag
    point: Point
    unit: str
    asset: str


@dataclass(slots=True)
class _Away:
    """A path that has no point. `again`: when it is asked for next (monotonic seconds), after a `pause`."""

    refusal: Refusal
    again: float
    pause: float


def _nobody(found: Mapping[str, Resolved]) -> None:
    """Nobody wants to know."""


def _unheard(kind: str, **what: Any) -> None:
    """Nobody listens."""


class Points:
    """The points of one connection. `run` beside everything else; `want`, `apply`, `refresh` and `lost` at any time.

    found: is given all tags that have a point, by name, whenever they or their points have changed. tell: is given what
    happened to points: point-renamed, point-recreated, point-gone, point-unit-changed, point-type-changed.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        client: Server,
        directory: Path,
        problems: Reporter,
        *,
        found: Callable[[Mapping[str, Resolved]], None] = _nobody,
        tell: Callable[..., Any] = _unheard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.found = found
        self.tell = tell
        self._name = name
        self._settings = settings
        self._client = client
        self._problems = problems
        self._clock = clock
        self._cache = Cache(directory, name)
        self._lookup = Lookup(client, settings.load)
        self._tags: Mapping[str, Tag] = {}
        self._none_waiting: tuple[Any, ...] = ({}, settings, "", 0, 0)  # see `_waiting`
        self._points: dict[str, Point] = {}  # by the path asked for, in lower case
        self._gone: dict[str, Point] = {}  # what was there last, of paths that have none now
        self._away: dict[str, _Away] = {}
        self._doubts: dict[str, Refusal] = {}  # of points that go on although the server gives no answer to them
        self._again: dict[str, float] = {}  # points that are looked for once more: when
        self._missed: set[str] = set()  # those of them that count as missing already
        self._lost_at: dict[str, float] = {}
        self._searched: dict[str, tuple[str, tuple[Point, ...]]] = {}  # as JSON, and what it found
        self._search_due: dict[str, float] = {}
        self._absent: dict[str, set[str]] = {}  # by search: keys of points that it did not find the last time
        self._search_problems: dict[str, Problem] = {}
        self._server = ""  # name of the data server, where the configuration has none
        self._servers: list[DataServer] | None = None
        self._servers_at = 0.0
        self._server_problem: Problem | None = None
        self._trouble: PiError | None = None
        self._generation: int | None = None
        self._due = float("inf")
        self._refreshed = float("-inf")
        self._looked = 0.0  # wall clock
        self._resolved: Mapping[str, Resolved] = {}
        self._chosen = Chosen({}, {}, {})
        self._by_web_id: dict[str, tuple[str, str]] = {}  # path, or search and key
        self._told: dict[str, Problem] = {}
        self._wake = asyncio.Event()
        self._changed = False  # the list on disk is another one
        self._stale = False  # what was handed over and told last is
        self._shown_at = 0.0

    # --- what is wanted ---

    def want(self, tags: Mapping[str, Tag]) -> None:
        """Collect these, by name; those that have a point already are handed over at once."""
        self._tags = dict(tags)
        self._drop_unwanted()
        self._show(tell_again=True)
        self._wake.set()

    def apply(self, settings: Settings) -> None:
        """Go over to these settings."""
        before, self._settings = self._settings, settings
        self._lookup.load = settings.load
        if _mark(before) != _mark(settings):  # another server: nothing of what was found is known to be there
            for known in (self._points, self._gone, self._away, self._doubts, self._again, self._searched):
                known.clear()
            self._missed.clear()
            self._absent.clear()
            self._server, self._servers, self._server_problem = "", None, None
            self._lookup.forget()
        for name in self._searched.keys() - settings.select.keys():
            del self._searched[name]
        stay = {name for name, wish in settings.select.items() if before.select.get(name) == wish}
        for kept in (self._search_due, self._absent, self._search_problems):
            for name in kept.keys() - stay:
                kept.pop(name)
        if self._refreshed > float("-inf"):
            self._due = min(self._due, max(self._clock(), self._refreshed + settings.refresh))
        if (before.user, before.bearer) != (settings.user, settings.bearer):  # who may see what others may not
            self._due, self._servers = self._clock(), None
        self._drop_unwanted()
        self._show(tell_again=True)
        self._wake.set()

    def restore(self) -> None:
        """Hand over what the list on disk has; it is looked up anew as soon as the server answers."""
        known = self._cache.load()
        if known is None or known.mark != _mark(self._settings):
            return
        self._server = known.server
        self._points = dict(known.points)
        self._searched = {
            name: (what, points)
            for name, (what, points) in known.searched.items()
            if name in self._settings.select and what == self._settings.select[name].model_dump_json()
        }
        self._drop_unwanted()
        if self._points or self._searched:
            self._due = self._clock()
        self._stale = True
        self._show()
        logger.info("Connection %s: %d tags have the points that were found last", self._name, len(self._resolved))

    def refresh(self) -> None:
        """Look everything up anew, soon."""
        self._due = self._clock()
        self._wake.set()

    def lost(self, web_id: str) -> None:
        """Reading found that there is no such point: see what has become of it."""
        place = self._by_web_id.get(web_id)
        if place is None:
            return
        path, searched = place
        now = self._clock()
        key = path or f"{searched}\0{web_id}"
        due = max(now, self._lost_at.get(key, float("-inf")) + _SECOND_LOOK)
        if len(self._lost_at) >= _MOST_LOST:
            self._lost_at = {one: at for one, at in self._lost_at.items() if at > now - _SECOND_LOOK}
        self._lost_at[key] = due
        if path:
            self._missed.add(path)
            self._again[path] = min(due, self._again.get(path, due))
        else:
            point = next((one for one in self._searched[searched][1] if one.web_id == web_id), None)
            if point is not None:
                self._absent.setdefault(searched, set()).add(point.key)
            self._search_due[searched] = min(due, self._search_due.get(searched, due))
        self._wake.set()

    def forget(self) -> None:
        """The connection is gone: delete what is kept of it."""
        self._cache.forget()

    # --- looking up ---

    async def run(self) -> None:
        """Look up what has no point, and everything now and then. Never ends by itself."""
        backoff = Backoff(*_PAUSES)
        while True:
            self._wake.clear()
            try:
                await self.look()
                self._trouble = None
                backoff.reset()
                pause = self._pause()
            except PiError as error:
                self._trouble = error
                pause = backoff.next()
                if isinstance(error, ThrottledError):
                    pause = max(pause, error.retry_after)
            except Exception as error:  # whatever it is, what was found goes on
                logger.exception("Connection %s: its points could not be looked up", self._name)
                self._trouble = PiError(f"failed: {type(error).__name__}", "see the component's log for why")
                pause = backoff.next()
            self._stale = True
            self._show()
            try:
                await within(pause, self._wake.wait())
            except asyncio.TimeoutError:
                continue

    async def look(self) -> None:
        """Look up everything that is due, once. Raises PiError."""
        generation = self._client.generation
        if self._generation is not None and generation != self._generation:
            self._lookup.forget()
            self._servers = None
            self._due = min(self._due, max(self._clock(), self._refreshed + _APART))
        first = self._generation is None
        await self._find()
        await self._look_again()
        if self._clock() >= self._due:
            await self._refresh()
        elif self._refreshed == float("-inf") and not self._pending():
            self._note_refresh()
        # What rose while the very first questions were answered says nothing about another server.
        self._generation = self._client.generation if first else generation
        self._show()
        await self._save()

    def _pause(self) -> float:
        """Seconds until something is due, as far as that is known."""
        due = [self._due, *self._search_due.values(), *self._again.values()]
        due += [away.again for away in self._away.values()]
        if self._client.generation != self._generation:
            due.append(self._refreshed + _APART)
        if self._server_problem is not None:
            due.append(self._servers_at + _SERVER_KNOWN)
        return min(60.0, max(1.0, min(due) - self._clock()))

    def _asked(self, tag: Tag) -> str | None:
        """The path that a tag means, in lower case; None while the data server's name is not known."""
        path = self._path(tag)
        return None if path is None else path.casefold()

    def _path(self, tag: Tag) -> str | None:
        if tag.path is not None:
            return tag.path
        server = self._settings.data_server or self._server
        return f"\\\\{server}\\{tag.point.strip()}" if server else None

    def _paths(self) -> dict[str, str]:
        """Every path that a tag means, by its form in lower case."""
        paths = (self._path(tag) for tag in self._tags.values())
        return {path.casefold(): path for path in paths if path is not None}

    def _pending(self) -> bool:
        """Whether there is something that was not asked for yet."""
        if self._unsearched():
            return True
        paths = (self._asked(tag) for tag in self._tags.values())
        return any(path is None or (path not in self._points and path not in self._away) for path in paths)

    def _unsearched(self) -> list[str]:
        """Searches that are new, or changed, or due."""
        now = self._clock()
        return [
            name
            for name, wish in self._settings.select.items()
            if self._search_due.get(name, float("inf")) <= now
            or (
                name not in self._search_due
                and (name not in self._searched or self._searched[name][0] != wish.model_dump_json())
            )
        ]

    async def _find(self) -> None:
        """Ask for what has no point and is due, and search what was not searched yet."""
        now = self._clock()
        due = [path for path, away in self._away.items() if away.again <= now]
        if not (due or self._pending() or self._server_problem is not None):
            return
        await self._know_server()
        paths = self._paths()
        new = [path for path in paths if path not in self._points and path not in self._away]
        for wanted, fresh in ((new, False), (due, True)):
            if wanted:
                await self._ask({path: paths[path] for path in wanted if path in paths}, LIVE, fresh=fresh)
        for name in self._unsearched():
            await self._search(name, LIVE)

    async def _ask(self, paths: Mapping[str, str], priority: Priority, *, fresh: bool) -> None:
        """Look these paths up and take what is answered."""
        mark = _mark(self._settings)
        for chunk in self._lookup.chunks("path", list(self._connected(paths).values())):
            found = await self._lookup.by_path(chunk, priority=priority, fresh=fresh)
            if mark != _mark(self._settings):  # another server meanwhile
                return
            absent = self._take({path.casefold(): one for path, one in found.items()})
            for web_ids in self._lookup.chunks("webId", list(absent)):
                renamed = await self._lookup.by_web_id(web_ids, priority=priority, fresh=True)
                self._take_by_id({absent[web_id]: one for web_id, one in renamed.items()})
            self._looked = time.time()
            if self._clock() - self._shown_at >= _SHOW:
                self._show()
            if priority is BACKFILL and self._wake.is_set():  # a new tag does not wait for a refresh
                self._wake.clear()
                await self._find()
        self._drop_unwanted()  # what nobody wants any more came all the same

    async def _look_again(self) -> None:
        """What was missing, or was found gone by reading."""
        now = self._clock()
        paths = self._paths()
        due = {path: paths[path] for path, again in self._again.items() if again <= now and path in paths}
        if due:
            await self._know_server()
            await self._ask(due, LIVE, fresh=True)

    async def _refresh(self) -> None:
        """Everything anew. What was set aside is asked for as well."""
        self._servers = None
        await self._know_server()
        await self._ask(self._paths(), BACKFILL, fresh=True)
        for name in list(self._settings.select):
            await self._search(name, BACKFILL)
        self._note_refresh()
        logger.info("Connection %s: its %d points were looked up anew", self._name, len(self._resolved))

    def _note_refresh(self) -> None:
        self._refreshed = self._clock()
        self._due = self._refreshed + self._settings.refresh
        self._looked = time.time()

    # --- the data server ---

    async def _know_server(self) -> None:
        """Which data servers there are. Raises PiError, also when ours is not connected."""
        if self._servers is not None and self._clock() - self._servers_at < _SERVER_KNOWN:
            return
        try:
            self._servers = await self._lookup.data_servers()
        except (ForbiddenError, NotFoundError):
            self._servers = []
        self._servers_at = self._clock()
        self._server_problem = None
        self._stale = True
        wanted = bool(self._settings.select) or any(tag.path is None for tag in self._tags.values())
        named = self._settings.data_server
        listed = ", ".join(sorted(one.name for one in self._servers)[:_MOST_NAMED])
        if named and self._ours() is None and (self._servers or self._settings.select):
            what = f"is no data server that this PI Web API knows{f'; it knows {listed}' if listed else ''}"
            self._server_problem = self._at_server(named, what, "write the name of one that it knows")
        elif not named and wanted and len(self._servers) != 1:
            what = (
                f"is left out, and this PI Web API knows several: {listed}"
                if self._servers
                else "is left out, and this PI Web API knows none, as far as this user may see"
            )
            self._server_problem = self._at_server(None, what, "write dataServer: <name of the data archive>")
        elif not named and wanted and self._server != self._servers[0].name:
            self._server, self._changed = self._servers[0].name, True
        ours = self._ours()
        if ours is not None and not ours.connected:
            self._servers = None
            remedy = "none is needed if it is being restarted; else see that PI Web API reaches it"
            raise PiError(f"cannot be asked for: its data server {ours.name} is not connected", remedy)

    def _at_server(self, value: str | None, problem: str, remedy: str) -> Problem:
        place = render(("connections", self._name, "dataServer"))
        return Problem(place, value, problem, remedy, "points of other servers, named by path, are collected")

    def _ours(self) -> DataServer | None:
        name = (self._settings.data_server or self._server).casefold()
        return next((one for one in self._servers or () if one.name.casefold() == name), None)

    def _connected(self, paths: Mapping[str, str]) -> Mapping[str, str]:
        """Those of the paths whose data server is not known to be away."""
        away = {f"\\\\{one.name}\\".casefold() for one in self._servers or () if not one.connected}
        if not away:
            return paths
        return {path: spelled for path, spelled in paths.items() if path[: path.find("\\", 2) + 1] not in away}

    # --- what is answered ---

    def _take(self, found: Mapping[str, Found]) -> dict[str, str]:
        """Take answers by path; returns the points that are not at theirs any more: path by WebId."""
        absent: dict[str, str] = {}
        now = self._clock()
        self._stale = True
        for path, one in found.items():
            before = self._points.get(path)
            if isinstance(one, Point):
                self._keep(path, one)
            elif before is None:
                known = self._away.get(path)
                pause = _FIRST_RETRY if known is None else min(known.pause * 2, _LONGEST_RETRY)
                self._away[path] = _Away(one, now + pause, pause)
            elif one.why is Why.ABSENT:
                absent[before.web_id] = path
            else:
                self._doubt(path, one)
        return absent

    def _take_by_id(self, found: Mapping[str, Found]) -> None:
        """What has become of points that are not at their paths any more."""
        now = self._clock()
        self._stale = True
        for path, one in found.items():
            before = self._points.get(path)
            if before is None:
                continue
            if isinstance(one, Point) and one.key == before.key:
                self._keep(path, one)
            elif isinstance(one, Refusal) and one.why is not Why.ABSENT:
                self._doubt(path, one)
            elif path in self._missed:
                self._missed.discard(path)
                self._again.pop(path, None)
                self._doubts.pop(path, None)
                self._gone[path] = before
                del self._points[path]
                refusal = one if isinstance(one, Refusal) else Refusal(Why.ABSENT)
                self._away[path] = _Away(refusal, now + _FIRST_RETRY, _FIRST_RETRY)
                self._changed = True
                self._happened("point-gone", before, self._tags_of(path))
            else:
                self._missed.add(path)
                self._again[path] = now + _SECOND_LOOK

    def _keep(self, path: str, point: Point) -> None:
        """The point at a path is this one, whatever it was before."""
        before = self._points.get(path) or self._gone.pop(path, None)
        self._away.pop(path, None)
        self._doubts.pop(path, None)
        self._again.pop(path, None)
        self._missed.discard(path)
        if before == point and path in self._points:
            return
        self._points[path] = point
        self._changed = True
        if before is not None:
            self._compare(before, point, self._tags_of(path))

    def _doubt(self, path: str, refusal: Refusal) -> None:
        """The server does not say whether the point is there: it goes on."""
        self._again.pop(path, None)
        self._doubts[path] = refusal

    def _compare(self, before: Point, now: Point, tags: Sequence[str]) -> None:
        """Tell what has changed."""
        if before.key != now.key:
            self._happened("point-recreated", now, tags, was=before.id, now=now.id)
        elif before.name != now.name:
            self._happened("point-renamed", now, tags, was=before.name, now=now.name)
        if before.type != now.type:
            self._happened("point-type-changed", now, tags, was=before.type, now=now.type)
        if before.unit != now.unit:
            self._happened("point-unit-changed", now, tags, was=before.unit, now=now.unit)

    def _happened(self, kind: str, point: Point, tags: Sequence[str], **what: Any) -> None:
        logger.info("Connection %s: %s: %s %s", self._name, kind, point.path, what or "")
        self.tell(kind, point=point.path, id=point.id, tags=list(tags[:_MOST_NAMED]), **what)

    def _tags_of(self, path: str) -> list[str]:
        return [name for name, tag in self._tags.items() if self._asked(tag) == path]

    # --- searches ---

    async def _search(self, name: str, priority: Priority) -> None:
        """One search, whose failure costs itself. Raises PiError when the server does not answer at all."""
        wish = self._settings.select.get(name)
        ours = self._ours()
        if wish is None or ours is None:  # what is wrong with the server is told there
            return
        what = wish.model_dump_json()
        place = render(("connections", self._name, "select", name))
        others = sum(len(points) for other, (_, points) in self._searched.items() if other != name)
        try:
            found = await search(self._lookup, wish, ours, most=MOST - others, priority=priority)
        except NoSearchError as error:
            self._search_problems[name] = Problem(place, wish.query, error.problem, error.remedy, _NOT_SEARCHED)
            self._search_due[name] = self._clock() + _LONGEST_RETRY
            return
        except PiError as error:
            if getattr(error, "status", 0) not in (400, 403):
                raise
            value = wish.query or wish.name or wish.source
            remedy = "correct it, or give the user the right to see the data server's points"
            self._search_problems[name] = Problem(place, value, f"is refused: {error.problem}", remedy, _NOT_SEARCHED)
            self._search_due[name] = self._clock() + _LONGEST_RETRY
            return
        if self._settings.select.get(name) != wish:
            return
        self._search_problems.pop(name, None)
        self._search_due.pop(name, None)
        if found.cut:
            problem = f"finds more points than the {MOST} that the searches of a connection may find"
            self._search_problems[name] = Problem(
                place, None, problem, "write a narrower name or query", "those that were found first are collected"
            )
        elif found.repeats:
            problem = f"gets the same page of points again, after {len(found.points)}"
            remedy = "see that what is between us and the server passes addresses on as they are"
            self._search_problems[name] = Problem(place, None, problem, remedy, "the others are not collected")
        self._take_search(name, what, found.points, whole=not found.cut and not found.repeats)

    def _take_search(self, name: str, what: str, points: Sequence[Point], *, whole: bool) -> None:
        known, before = self._searched.get(name, ("", ()))
        now = {point.key: point for point in points}
        tags = {item.point.key: tag for tag, item in self._resolved.items() if item.tag.setting == "select"}
        if known == what:
            by_path = {point.path.casefold(): point for point in points}
            absent = self._absent.pop(name, set())
            missing: set[str] = set()
            for point in before:
                its_tag = [tags[point.key]] if point.key in tags else []
                if (same := now.get(point.key)) is not None:
                    self._compare(point, same, its_tag)
                elif (other := by_path.get(point.path.casefold())) is not None:
                    self._compare(point, other, its_tag)
                elif point.key in absent and whole:
                    self._happened("point-gone", point, its_tag)
                else:
                    now[point.key] = point
                    missing.add(point.key)
            if missing:
                self._absent[name] = missing
                if whole:
                    self._search_due[name] = self._clock() + _SECOND_LOOK
        self._searched[name] = (what, tuple(now.values()))
        self._changed = self._stale = True
        self._looked = time.time()

    # --- what is handed over, and told ---

    def _drop_unwanted(self) -> None:
        """Forget what no tag means any more."""
        paths = self._paths()
        for known in (self._points, self._gone, self._away, self._doubts, self._again, self._lost_at):
            for path in [path for path in known if path not in paths and "\0" not in path]:
                known.pop(path)
        self._missed &= paths.keys()

    def _show(self, *, tell_again: bool = False) -> None:
        """Hand over what is found, when it is something else than before, and tell what is wrong with the rest."""
        if not (self._stale or tell_again):
            return
        self._stale = False
        self._shown_at = self._clock()
        plans: dict[str, Plan] = {}
        resolved: dict[str, Resolved] = {}
        problems: dict[str, Problem] = {}
        used: dict[str, str] = {}
        keys, becomes = partial(self._keys, plans), partial(self._becomes, plans)
        whose = {name.casefold(): name for name, tag in self._tags.items() if becomes(name, tag.group) == [name]}
        aside = 0
        for name, tag in self._tags.items():
            path = self._asked(tag)
            point = self._points.get(path) if path is not None else None
            flaw: tuple[str, str, str] | None = None
            if path is None:
                continue
            if point is None:
                if (away := self._away.get(path)) is None:
                    continue
                flaw = (*_words(away.refusal), _LOOKED_FOR)
            elif point.type == BLOB:
                flaw = (*_NO_BLOBS, "the other tags are collected")
            elif twin := next((used[key] for key in keys(point, tag.group) if key in used), None):
                flaw = (f"names the same point as {twin}, which collects it in the same way", *_TWICE)
            elif other := next(
                (one for one in becomes(name, tag.group) if whose.get(one.casefold(), name) != name), None
            ):
                flaw = (f"becomes {other} in mode summary, and there is a tag of that name", *_TAKEN)
            else:
                used.update(dict.fromkeys(keys(point, tag.group), name))
                resolved[name] = self._of(tag, point)
                if (doubt := self._doubts.get(path)) is not None:
                    problem, remedy = _words(doubt)
                    flaw = (problem, remedy, "it is collected as it was last known")
            if flaw is not None:
                aside += name not in resolved
                self._note(problems, tag, name, flaw)
        points = {name: found for name, (_, found) in self._searched.items()}
        select: Mapping[str, Select] = self._settings.select
        names = {*self._tags, *(one for name, tag in self._tags.items() for one in becomes(name, tag.group))}
        self._chosen = chosen = choose(select, points, names, used, keys, becomes, self._chosen.tags)
        resolved.update((name, self._of(tag, point)) for name, (tag, point) in chosen.tags.items())
        self._by_web_id = {
            **{point.web_id: ("", name) for name, found in points.items() for point in found},
            **{point.web_id: (path, "") for path, point in self._points.items()},
        }
        if resolved != self._resolved:
            self._resolved = resolved
            self.found(resolved)
        self._tell(problems, aside, again=tell_again)

    def _plan(self, plans: dict[str, Plan], group: str) -> Plan:
        how = plans.get(group)
        if how is None:
            how = plans[group] = plan(self._settings, group)
        return how

    def _becomes(self, plans: dict[str, Plan], name: str, group: str) -> list[str]:
        """The names under which a tag is sent on."""
        how = self._plan(plans, group)
        return [f"{name}.{summary}" for summary in how.summaries] if how.mode == "summary" else [name]

    def _keys(self, plans: dict[str, Plan], point: Point, group: str) -> Collection[str]:
        how = self._plan(plans, group)
        if how.mode == "summary":
            return [key_of(point, how, summary) for summary in how.summaries]
        return [key_of(point, how)]

    def _of(self, tag: Tag, point: Point) -> Resolved:
        return Resolved(tag, point, tag.unit or point.unit, tag.asset or self._settings.asset)

    def _note(self, problems: dict[str, Problem], tag: Tag, name: str, flaw: tuple[str, str, str]) -> None:
        """What is wrong with a tag, unless that of enough others is told."""
        if len(problems) < _MOST_TOLD:
            problem, remedy, effect = flaw
            place = render(("connections", self._name, tag.setting, name))
            problems[place] = Problem(place, self._path(tag), problem, remedy, effect)

    def _tell(self, problems: dict[str, Problem], aside: int, *, again: bool) -> None:
        place = render(("connections", self._name, "points"))
        if self._server_problem is not None:
            problems[self._server_problem.path] = self._server_problem
        for problem in self._search_problems.values():
            problems[problem.path] = problem
        for name, example in self._chosen.unusable.items():
            count = self._chosen.counts[name]["unusable"]
            where = render(("connections", self._name, "select", name))
            what = f"finds {count} points whose names cannot be names of tags"
            remedy = "collect them as tags with names of up to 256 printable characters"
            problems.setdefault(where, Problem(where, example, what, remedy, "the others are collected"))
        if self._trouble is not None:
            error = self._trouble
            effect = "it is tried again; what was found before is collected"
            problems[place] = Problem(place, None, error.problem, error.remedy or "none is needed", effect)
        elif aside > _MOST_TOLD:
            what, remedy = f"are set aside, {aside} tags in all", "mend those that are shown first"
            problems[place] = Problem(place, None, what, remedy)
        for scope in self._told.keys() - problems.keys():
            self._problems.clear(scope)
        for problem in problems.values():
            if again or self._told.get(problem.path) != problem:
                self._problems.report(
                    problem.path, problem.problem, problem.remedy, problem.value, effect=problem.effect
                )
        self._told = problems

    async def _save(self) -> None:
        if not self._changed:
            return
        self._changed = False
        known = Known(_mark(self._settings), self._server, dict(self._points), dict(self._searched))
        await asyncio.to_thread(self._cache.save, known)

    @property
    def server_problem(self) -> Problem | None:
        """What is wrong with the data server that points are looked for on."""
        return self._server_problem

    def _waiting(self) -> int:
        """How many points were not asked for yet. Once there are none it is not counted again while nothing changes."""
        now = (self._tags, self._settings, self._server, len(self._points), len(self._away))
        before = self._none_waiting
        if now[0] is before[0] and now[1] is before[1] and now[2:] == before[2:]:
            return 0
        waiting = sum(path not in self._points and path not in self._away for path in self._paths())
        if not waiting:
            self._none_waiting = now
        return waiting

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        told: dict[str, Any] = {"found": len(self._resolved), "set_aside": len(self._away)}
        if waiting := self._waiting():
            told["waiting"] = waiting
        if self._looked:
            told["looked_up"] = when(self._looked)
        if self._again:
            told["missing"] = len(self._again)
        if self._chosen.counts:
            told["select"] = {name: dict(counts) for name, counts in self._chosen.counts.items()}
        if self._trouble is not None:
            told["trouble"] = self._trouble.problem
        return told


_LOOKED_FOR: Final = "it is looked for again; the other tags are collected"
_NOT_SEARCHED: Final = "what it found before is collected"
_NO_BLOBS: Final = ("is a Blob point, whose values are no numbers and no text", "take it out")
_TAKEN: Final = ("give one of the two another name", "it is not collected")
_TWICE: Final = ("take one of the two out, or give one a group with another mode", "it is not collected")


def _words(refusal: Refusal) -> tuple[str, str]:
    """Problem and remedy, for people."""
    said = f" ({refusal.said})" if refusal.said else ""
    if refusal.why is Why.DENIED:
        return (
            f"may not be read by this user{said}",
            "have the PI administrator give the user's identity read access to the point and to its data",
        )
    if refusal.why is Why.ABSENT:
        return (
            f"is not found{said}",
            "correct the name; PI calls a point unknown, too, that this user may not read",
        )
    return (f"cannot be had{said or ', and the server does not say why'}", "see the PI Web API's own log")


def _mark(settings: Settings) -> str:
    """Whose points they are."""
    return f"{settings.url.casefold()} {settings.data_server.casefold()}"
