"""The monitored items of a group's subscription: what is configured is what is monitored, each node for itself.

Tags come and go while the others flow on; what has changed of one is told to the server, and the item lives on; after a
resumed session only the differences are made good. Which client handle stands for which tag survives the component
(`kept.Items`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector import kept
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Deadband, Tag
from opcua_collector.heartbeat import Heartbeat
from opcua_collector.intake import Intake
from opcua_collector.kept import ITEMS, KeptItem, address_of
from opcua_collector.kept import Items as Kept
from opcua_collector.nodes import CHUNK, Facts, Node, Nodes, Reporter, slices, together
from opcua_collector.plan import Plan
from opcua_collector.problems import node_problem
from opcua_collector.services import monitoring, wire
from opcua_collector.services.monitoring import FILTER_REFUSED, UNKNOWN_SERVICE, Wish
from opcua_collector.services.session import Session, Subscribed
from opcua_collector.services.wire import Asking, Monitored
from opcua_collector.subscriptions import timing
from opcua_collector.types.typed import Typing
from sluice import garbage
from sluice.batch import Series

logger = logging.getLogger(__name__)

_NOTED: Final = 5.0  # seconds between notes while many items are made
_KINDS: Final = 16  # told at most
_EVENT_BASED: Final = 0.1  # seconds between values of a node that the server samples as fast as it can, as we reckon
_REMADE: Final = "an item that could not be changed"  # a gap's reason


@dataclass(frozen=True, slots=True)
class Kind:
    """What items have in common: how they were asked for, and what the server made of it."""

    asking: Asking
    sampling: float  # seconds, revised
    queue: int  # revised
    local: bool  # there is a deadband, and it is kept here

    @property
    def covers(self) -> float:
        """Seconds of values that the server's queue holds."""
        return self.queue * (self.sampling or self.asking.sampling or _EVENT_BASED)


@dataclass(slots=True)
class _Item(Node):
    """A tag and its monitored item."""

    monitored: int = 0  # monitored item id; 0: none
    kind: Kind | None = None
    refused: int = 0  # of its filter, the server does not know: 1 the deadband, 2 the trigger either
    width: float | None = None  # of the deadband that is kept here
    row: bytes = b""  # as it is kept; empty: to be made anew


class Items(Nodes[_Item]):
    """Keeps the monitored items of one subscription. `keep_up` runs beside publishing."""

    def __init__(
        self,
        connection: str,
        settings: Settings,
        plan: Plan,
        tags: Mapping[str, Tag],
        intake: Intake,
        problems: Reporter,
        names: dict[int, str],
    ) -> None:
        super().__init__(connection, settings, plan, tags, intake, problems, names)
        self.on_stalled: Callable[[], None] = lambda: None
        """Called when most of the tags that were looked at have values that the subscription does not bring."""
        self._position = kept.position(ITEMS, plan.group)
        self._ended: list[int] = []  # monitored items that nobody wants any more
        self._asked: set[str] = set()  # tags whose items the server may have made, or not
        self._subscription = 0  # whose items are noted
        self._reserved = 0  # client handles below this are noted as ours
        self._noted = 0.0  # when they were noted last
        self._unnoted = False  # some were made since
        self._kinds: Counter[Kind] = Counter()
        self._askings: dict[tuple[Any, ...], Asking] = {}  # of the plan,
        self._askings_by: Plan | None = None  # this one
        self._faster: dict[float, float] = {}  # sampling interval -> a shorter one that the server made of it
        self._refused = 0  # what the server refused of every filter so far
        self._narrowed_by: Deadband | None = None  # the deadband that is kept here, as it was last
        self._handles: NDArray[np.int64] | None = None
        self._heartbeat = Heartbeat(connection, intake)

    # --- over the ends of sessions and processes ---

    async def restore(self, items: Kept | None) -> None:
        """Take over the items of an earlier run. What the configuration says otherwise by now is ended later."""
        if items is None:
            return
        assembler = self._assembler
        self._subscription, self._reserved = items.subscription, items.reserved
        if assembler.handles < items.reserved:
            assembler.remove(assembler.add(Series(""), items.reserved - 1))
        typings: dict[Any, Typing] = {}  # what many have in common is made once
        kinds: dict[Any, Kind] = {}
        async for some in slices(items.items):
            with garbage.paused():
                for one in some:
                    self._restore(one, typings, kinds)
        self._handles = None

    def _restore(self, one: KeptItem, typings: dict[Any, Typing], kinds: dict[Any, Kind]) -> None:
        assembler = self._assembler
        tag = self._tags.get(one.tag)
        if tag is None or address_of(tag) != one.address:
            self._ended.append(one.monitored)
            return
        typing = typings.get(one.rule) if isinstance(one.rule, int) else None
        if typing is None:
            typing = self._once(Typing.load(one.rule))
            if isinstance(one.rule, int):
                typings[one.rule] = typing
        key = (tuple(one.asked or ()), one.revised, one.queue, one.width is None)
        kind = kinds.get(key)
        if kind is None:
            # What an earlier release asked for is not known: it is told once more.
            asking = self._once(Asking(*one.asked) if one.asked else Asking(-1.0, one.queue))
            local = one.width is not None and not asking.deadband
            kind = kinds[key] = self._once(Kind(asking, one.revised or asking.sampling, one.queue, local))
            self._reckon(asking.sampling, kind.sampling)  # else it would be told of shorter queues, and drop values
        item = self._items[one.tag] = _Item(one.handle, tag, one.node, typing, self._once(one.unit))
        item.monitored, item.width, item.refused, item.kind = one.monitored, one.width, one.refused, kind
        self._kinds[kind] += 1
        assembler.add(self._series(one.tag, item), one.handle)
        assembler.fix(one.handle, typing)
        if one.width is not None:
            assembler.filter(one.handle, one.width)
        self.names[one.handle] = one.tag

    def are_of(self, subscribed: int) -> bool:
        """Whether the items are known that the subscription has."""
        return self._subscription == subscribed

    def renewed(self) -> None:
        """A new subscription, which has no items yet."""
        self._ended.clear()
        self._asked.clear()
        self._subscription = self._reserved = self._refused = 0
        for item in self._items.values():
            item.monitored = item.refused = 0
            item.node = b""  # it may be another one's id by now: a server that was restarted counts anew
            self._become(item, None)

    def interrupted(self) -> None:
        """The session has ended: in the next, every refused node is tried again.

        Tags whose items may or may not have been made get other handles: what the server may send twice is then known
        apart.
        """
        for name in self._asked:
            item = self._items.get(name)
            if item is not None:
                self._another_handle(name, item)
        self._asked.clear()
        self._wait_no_longer()

    def _another_handle(self, name: str, item: _Item) -> None:
        del self.names[item.handle]
        item.handle = self._assembler.another(item.handle)
        item.row = b""
        self.names[item.handle] = name
        self._handles = None

    def _keep(self, subscribed: int, ahead: int = 0) -> asyncio.Future[None]:
        """Note the items as they are; done when that is durable. `ahead`: handles that will be needed soon."""
        rows = []
        for name, item in self._items.items():
            if item.monitored:
                if not item.row:
                    item.row = _row(name, item)
                rows.append(item.row)
        self._subscription, self._reserved = subscribed, self._assembler.handles + ahead
        self._noted, self._unnoted = time.monotonic(), False
        return self._intake.note({self._position: kept.dump_items(subscribed, self._reserved, rows)})

    # --- what is configured is what is monitored ---

    def _new_item(self, handle: int, tag: Tag) -> _Item:
        return _Item(handle, tag)

    def _left(self, name: str, item: _Item, *, moved: bool) -> bool:
        super()._left(name, item, moved=moved)
        self._heartbeat.forget(item.handle)
        watched = bool(item.monitored)
        if watched:
            self._ended.append(item.monitored)
        item.monitored = 0
        self._become(item, None)
        return watched

    def want(self, settings: Settings, plan: Plan, tags: Mapping[str, Tag], elsewhere: Collection[str] = ()) -> None:
        """These tags from now on. `elsewhere`: those that are in another group of the connection now."""
        if (plan.deadband, plan.trigger) != (self._plan.deadband, self._plan.trigger):
            for item in self._items.values():  # of another filter the server may think otherwise
                item.refused = 0
        super().want(settings, plan, tags, elsewhere)

    def _become(self, item: _Item, kind: Kind | None) -> None:
        """What the server has made of the item."""
        if item.kind is not None:
            self._kinds[item.kind] -= 1
            if not self._kinds[item.kind]:
                del self._kinds[item.kind]
        item.kind = None if kind is None else self._once(kind)
        item.row = b""
        self._handles = None
        if item.kind is not None:
            self._kinds[item.kind] += 1

    async def keep_up(self, session: Session, subscribed: Subscribed, facts: asyncio.Task[Facts]) -> None:
        """Keeps the monitored items as the configuration wants them; tries refused ones again."""
        known = await asyncio.shield(facts)
        run = _Run(session, subscribed, known)
        await together(self._follow(run), self._describe(known), self._look_after(run))

    async def _follow(self, run: _Run) -> None:
        while True:
            self._changed.clear()
            await self._remove(run)
            await self._modify(run)
            await self._add(run)
            await self._until_something_is_due()

    async def _look_after(self, run: _Run) -> None:
        await self._heartbeat.run(run.facts, self, lambda: self._plan, run.subscribed.interval, self.on_stalled)

    async def _remove(self, run: _Run) -> None:
        """Ends what is not wanted any more, or stands elsewhere now."""
        self._forget(await self._gone())
        if self._ended:
            ended = list(self._ended)
            await self._keep(run.subscribed.id)
            await monitoring.unmonitor(run.session.stack, run.subscribed.id, ended, run.facts.limits.monitor)
            self._ended = self._ended[len(ended) :]

    def _asking(self, item: _Item) -> Asking:
        """How the server is asked to watch the tag: as its group says, less what it has refused."""
        if self._askings_by is not self._plan:
            self._askings_by = self._plan
            self._askings.clear()
        tag = item.tag
        numbers = self._server_keeps_numbers(item)
        key = (tag.sampling_interval, tag.index_range, item.refused, numbers)
        found = self._askings.get(key)
        if found is None:
            found = self._askings[key] = self._once(self._new_asking(self._plan.of(tag), item, numbers=numbers))
        return found

    def _new_asking(self, plan: Plan, item: _Item, *, numbers: bool) -> Asking:
        sampling = self._faster.get(plan.sampling, plan.sampling)
        queue = plan.queue or timing.queue_size(sampling, plan.publishing, plan.outage)
        kind, width = 0, 0.0
        if plan.deadband is not None and item.refused < 1 and numbers:
            if plan.deadband.absolute is not None:
                kind, width = wire.ABSOLUTE, plan.deadband.absolute
            elif plan.deadband.percent is not None:
                kind, width = wire.PERCENT, plan.deadband.percent
        trigger = plan.trigger if item.refused < 2 else "value"
        return Asking(plan.sampling, queue, plan.discard == "oldest", trigger, kind, width, item.tag.index_range or "")

    def _server_keeps_numbers(self, item: _Item) -> bool:
        """Whether the value is a number for the server as well, and not one that we take out of a structure."""
        return self._keeps_numbers(item) and item.typing is not None and not item.typing.field

    def _settle(self, name: str, item: _Item, answer: Monitored, asking: Asking) -> None:
        """The server has made, or changed, the item."""
        local = self._is_local(item, asking)
        if local or asking.deadband:
            # Some servers take a deadband and forget it. To leave out twice what is left out changes nothing.
            item.width = self._narrow(name, item, alone=local)
        elif item.width is not None:
            item.width = None
            self._assembler.filter(item.handle, None)
        self._become(item, Kind(asking, answer.sampling, answer.queue, local))
        if self._reckon(asking.sampling, answer.sampling):
            self._changed.set()

    def _reckon(self, asked: float, revised: float) -> bool:
        """A server that looks more often than it was asked to needs longer queues: whether it is to be told so."""
        plan = self._plan
        known = self._faster.get(asked, asked)
        longer = timing.queue_size(revised, plan.publishing, plan.outage) if revised else 0
        if asked < 0 or plan.queue is not None or longer <= timing.queue_size(known, plan.publishing, plan.outage):
            return False
        self._faster[asked] = revised
        self._askings.clear()
        return True

    def _described(self, name: str, item: _Item) -> None:
        kind = item.kind
        if item.monitored and kind is not None and (kind.local or kind.asking.deadband) and self._plan.deadband:
            width = self._narrow(name, item, alone=kind.local)
            if width != item.width:
                item.width, item.row = width, b""

    def _retyped(self, item: _Item) -> None:
        item.row = b""

    async def _modify(self, run: _Run) -> None:
        """Tells the server what has changed of items: they live on, and nothing is missed."""
        changed = []
        plan = self._plan
        async for some in slices(list(self._items.items())):
            changed += [(name, item) for name, item in some if self._differs(item)]
        for start in range(0, len(changed), CHUNK):
            again = changed[start : start + CHUNK]
            while again:
                again = await self._modify_some(run, again)
        self._narrowed_by = plan.deadband
        if changed:
            await self._keep(run.subscribed.id)
            self._check_outage()

    def _differs(self, item: _Item) -> bool:
        """Whether the server watches the tag in another way than it is wanted."""
        if not item.monitored or item.kind is None:
            return False
        asking = self._asking(item)
        local = self._is_local(item, asking)
        narrowed = local and self._narrowed_by != self._plan.deadband
        return asking is not item.kind.asking or local != item.kind.local or narrowed

    def _is_local(self, item: _Item, asking: Asking) -> bool:
        """Whether there is a deadband that is ours to keep."""
        return self._plan.deadband is not None and not asking.deadband and self._keeps_numbers(item)

    async def _modify_some(self, run: _Run, some: Sequence[tuple[str, _Item]]) -> list[tuple[str, _Item]]:
        """Those that are to be told once more, without the filter that was refused."""
        asked = [(name, item, self._asking(item)) for name, item in some if item.monitored]
        wishes = [Wish(item.node, item.handle, asking) for _, item, asking in asked]
        answers = await monitoring.modify(
            run.session.stack,
            run.subscribed.id,
            [item.monitored for _, item, _ in asked],
            wishes,
            run.facts.limits.monitor,
        )
        again = []
        remade = []
        for (name, item, asking), answer in zip(asked, answers, strict=True):
            if self._items.get(name) is not item or not item.monitored:
                continue
            place = f"{self._place(name, item.tag)}.samplingInterval"
            if answer.status in FILTER_REFUSED and self._without_filter(item, asking):
                again.append((name, item))
            elif answer.status in UNKNOWN_SERVICE:
                remade.append((name, item))
            elif answer.status >> 30 >= 2:
                problem = node_problem(place, asking.sampling, answer.status)
                self._problems.report(place, problem.problem, problem.remedy, problem.value)
                assert item.kind is not None  # as it was; it is not told again until something changes
                self._become(item, Kind(asking, item.kind.sampling, item.kind.queue, self._is_local(item, asking)))
            else:
                self._problems.clear(place)
                self._settle(name, item, answer, asking)
        if remade:
            self._make_anew(remade)
        return again

    def _make_anew(self, some: Sequence[tuple[str, _Item]]) -> None:
        """These items cannot be changed: they are ended, and others with other handles take their places at once."""
        self._intake.open_gap(_REMADE, [item.handle for _, item in some])
        for name, item in some:
            self._ended.append(item.monitored)
            item.monitored = 0
            self._become(item, None)
            self._another_handle(name, item)

    def _without_filter(self, item: _Item, asking: Asking) -> bool:
        """The server does not take the filter: whether less of one is worth another try."""
        if not asking.filtered:
            return False
        item.refused = 1 if asking.deadband else 2
        return True

    async def _add(self, run: _Run) -> None:
        """Resolves, types and monitors what is wanted and not monitored; each node's trouble is its own."""
        now = asyncio.get_running_loop().time()
        wanted = [
            name
            for name in self._tags
            if self._may_be_tried(name, now) and ((item := self._items.get(name)) is None or not item.monitored)
        ]
        self._refused = 0
        self._noted = time.monotonic()
        for start in range(0, len(wanted), CHUNK):
            await self._add_some(run, wanted[start : start + CHUNK], len(wanted), len(wanted) - start)
            if self._changed.is_set():
                return
        if self._unnoted or not self.are_of(
            run.subscribed.id
        ):  # with many tags it is long, and refused ones come often
            await self._keep(run.subscribed.id)
        if self._ended:
            self._changed.set()
        if wanted:
            self._check_outage()
            logger.info("Connection %s monitors %d of %d tags", self._connection, self.monitored, len(self._tags))

    async def _add_some(self, run: _Run, names: Sequence[str], total: int, ahead: int) -> None:
        good = await self._found(run.facts, names, total)
        if not good:
            return
        if self.are_of(run.subscribed.id) and self._assembler.handles > self._reserved:
            await self._keep(run.subscribed.id, ahead)  # no handle goes out before it is reserved
        refused: list[str] = good
        begun: list[int] = []
        while refused:
            refused = await self._create(run, refused, begun)
        self._intake.watched(begun)
        if begun:
            self._unnoted = True
            if time.monotonic() - self._noted > _NOTED:
                await self._keep(run.subscribed.id, ahead)

    async def _create(self, run: _Run, names: Sequence[str], begun: list[int]) -> list[str]:
        """Creates the items of these tags: names of those that are to be tried once more, without a filter."""
        asked: list[tuple[str, _Item, Asking]] = []
        for name in names:
            item = self._items.get(name)
            if item is not None and not item.monitored:
                item.refused = max(item.refused, self._refused)
                self._assembler.subscribed(item.handle)
                asked.append((name, item, self._asking(item)))
        self._asked = {name for name, _, _ in asked} if self.are_of(run.subscribed.id) else set()
        answers = await monitoring.monitor(
            run.session.stack,
            run.subscribed.id,
            [Wish(item.node, item.handle, asking) for _, item, asking in asked],
            run.facts.limits.monitor,
        )
        self._asked.clear()
        again, without = [], 0
        for (name, item, asking), answer in zip(asked, answers, strict=True):
            bad = answer.status >> 30 >= 2
            if self._items.get(name) is not item:  # it has gone elsewhere meanwhile
                if not bad:
                    self._ended.append(answer.id)
                    self._changed.set()
            elif answer.status in FILTER_REFUSED and self._without_filter(item, asking):
                again.append(name)
                without += 1
            elif bad:
                self._refused_by_server(name, item.tag, answer.status)
            else:
                self._well(name)
                item.monitored = answer.id
                self._settle(name, item, answer, asking)
                item.row = _row(name, item)
                begun.append(item.handle)
        if without and without == len(asked):  # a server that knows none: the next are not asked for it in vain
            self._refused = max(self._refused, min(self._items[name].refused for name in again))
        return again

    def _check_outage(self) -> None:
        """Tells when the queues that the server keeps do not hold what an outage brings."""
        plan = self._plan
        place = f"{self._group_place}.outage"
        short = min(self._kinds, key=lambda kind: kind.covers, default=None)
        if plan.queue is not None or short is None or short.covers >= plan.outage or short.queue <= 1:
            self._problems.clear(place)
            return
        self._problems.report(
            place,
            f"is not covered: the server keeps {short.queue} values per tag (asked for: {short.asking.queue}), which "
            f"is {short.covers:g} s at a sampling interval of {short.sampling or _EVENT_BASED:g} s",
            "raise the server's limit of queue sizes, sample less often (samplingInterval), or set a shorter outage; "
            "what a longer one costs is read from the server's history where it keeps one",
            f"{plan.outage:g} s",
        )

    # --- who asks ---

    def handles(self) -> list[int]:
        """Client handles of the tags that are monitored."""
        found: list[int] = self.column().tolist()
        return found

    def column(self) -> NDArray[np.int64]:
        """The same as a column, which is not to be changed."""
        if self._handles is None:
            self._handles = np.array([item.handle for item in self._items.values() if item.monitored], np.int64)
        return self._handles

    @property
    def slowest(self) -> float:
        """The longest sampling interval of them, in seconds, as revised."""
        return max((kind.sampling for kind in self._kinds), default=0.0)

    def shallow(self) -> list[int]:
        """Handles of the tags of which the server keeps one value only: it replaces it, and sets no overflow bit."""
        if not any(kind.queue <= 1 for kind in self._kinds):
            return []
        return [
            item.handle
            for item in self._items.values()
            if item.monitored and item.kind is not None and item.kind.queue <= 1
        ]

    @property
    def monitored(self) -> int:
        """How many tags are monitored."""
        return sum(self._kinds.values())

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        kinds = self._kinds
        told: dict[str, Any] = {"tags": len(self._tags), "monitored": self.monitored}
        if self._trouble:
            told["bad_tags"] = len(self._trouble)
        if kinds:
            told["queue"] = min(kind.queue for kind in kinds)
            told["queue_covers_s"] = round(min(kind.covers for kind in kinds), 1)
        if self._plan.deadband is not None:
            server = sum(count for kind, count in kinds.items() if kind.asking.deadband)
            told["deadband"] = {"server": server, "client": sum(n for kind, n in kinds.items() if kind.local)}
        return {**told, **self._heartbeat.status()}

    def describe(self) -> dict[str, Any]:
        """For who wants to know what the server was asked for, and what it made of it."""
        rows = [
            {
                "items": count,
                "requested_sampling_s": kind.asking.sampling,
                "sampling_s": kind.sampling,
                "requested_queue": kind.asking.queue,
                "queue": kind.queue,
                "covers_s": round(kind.covers, 1),
                "discard": "oldest" if kind.asking.discard_oldest else "newest",
                "trigger": kind.asking.trigger,
                "deadband": _deadband(kind),
            }
            for kind, count in self._kinds.most_common(_KINDS)
        ]
        return {**self.status(), "kinds": rows, "more_kinds": max(0, len(self._kinds) - _KINDS), **self._late()}

    def _late(self) -> dict[str, Any]:
        names = [self.names.get(handle, "") for handle in self._heartbeat.late]
        return {"late_tags": names[:20]} if names else {}

    def of_tag(self, tag: str) -> dict[str, Any] | None:
        """The same for one tag; None: it is not of this group."""
        known, item = self._of_tag(tag), self._items.get(tag)
        if known is None or item is None or item.kind is None:
            return known
        kind = item.kind
        known.update(
            sampling_s=kind.sampling,
            requested_sampling_s=kind.asking.sampling,
            queue=kind.queue,
            requested_queue=kind.asking.queue,
            covers_s=round(kind.covers, 1),
            trigger=kind.asking.trigger,
            deadband=_deadband(kind),
            late=item.handle in self._heartbeat.late,
        )
        return known


class _Run:
    """What creating items goes by, in one session."""

    def __init__(self, session: Session, subscribed: Subscribed, facts: Facts) -> None:
        self.session = session
        self.subscribed = subscribed
        self.facts = facts


def _row(name: str, item: _Item) -> bytes:
    assert item.kind is not None
    assert item.typing is not None
    kind, asking = item.kind, item.kind.asking
    asked = (asking.sampling, asking.queue, asking.discard_oldest, asking.trigger, asking.deadband, asking.width,
             asking.range)  # fmt: skip
    return KeptItem(
        name,
        address_of(item.tag),
        item.handle,
        item.monitored,
        kind.queue,
        item.typing.dump(),
        item.unit,
        item.node,
        item.tag.sampling_interval,
        asked,
        kind.sampling,
        item.width,
        item.refused,
    ).dump()


def _deadband(kind: Kind) -> str:
    asking = kind.asking
    if asking.deadband:
        return f"{asking.width:g}" + (" %" if asking.deadband == wire.PERCENT else "")
    return "here" if kind.local else ""
