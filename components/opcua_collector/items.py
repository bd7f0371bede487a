"""The tags of a connection and their monitored items: what is configured is what is monitored, each node for itself.

What is wrong with a node is that node's trouble: it is reported with its place, tried again in growing pauses, and
nobody waits for it. Tags come and go while the others flow on; after a resumed session only the differences are made
good. Which client handle stands for which tag survives the component (`kept.Items`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from opcua_collector import browse, data_types, metadata, monitoring, subscription
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.intake import Intake, present
from opcua_collector.kept import ITEMS, KeptItem, address_of
from opcua_collector.kept import Items as Kept
from opcua_collector.metadata import Metadata
from opcua_collector.monitoring import Wish
from opcua_collector.problems import node_problem
from opcua_collector.session import Session, Subscribed
from opcua_collector.stack import NodeId, UaError
from opcua_collector.typed import Typing
from sluice.batch import Series
from sluice.config import Problem
from sluice.retry import Backoff
from sluice.tasks import within

logger = logging.getLogger(__name__)

_TOLD: Final = 20  # tags named in one event
_NODE_PAUSES: Final = (5.0, 600.0)
_BUNCH: Final = 1.0  # seconds between tries of refused nodes: those of which the pauses end in one go together


class Reporter(Protocol):
    """Where problems that only show while running go: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        """Replaces what was reported for the scope."""

    def clear(self, scope: str) -> None:
        """The scope, and all below it, is well."""


@dataclass(slots=True)
class _Item:
    """A tag and what is known of its node on this server."""

    handle: int
    tag: Tag
    monitored: int = 0  # monitored item id; 0: none
    queue: int = 0  # revised
    unit: str = ""  # from the server
    rule: Typing | None = None  # its type is fixed at the first subscription, whatever the server says later
    node: NodeId = None  # as last resolved
    due: float = 0.0  # when to try again
    pauses: Backoff = field(default_factory=lambda: Backoff(*_NODE_PAUSES))
    problem: Problem | None = None


class Items:
    """Keeps the monitored items of one connection. `keep_up` runs beside publishing."""

    def __init__(
        self, connection: str, settings: Settings, tags: Mapping[str, Tag], intake: Intake, problems: Reporter
    ) -> None:
        self.names: dict[int, str] = {}
        """Tags by client handle."""
        self._connection = connection
        self._settings = settings
        self._tags = dict(tags)
        self._intake = intake
        self._problems = problems
        self._items: dict[str, _Item] = {}
        self._ended: list[int] = []  # monitored items that nobody wants any more
        self._asked: set[str] = set()  # tags whose items the server may have made, or not
        self._kept = Kept(0, 0, ())
        self._told_metadata: dict[str, Metadata] = {}
        self._changed = asyncio.Event()

    def want(self, settings: Settings, tags: Mapping[str, Tag]) -> None:
        """These tags from now on."""
        self._settings = settings
        self._tags = dict(tags)
        for item in self._items.values():  # who has read a table anew has forgotten what was wrong with its tags
            if item.problem is not None:
                self._problems.report(item.problem.path, item.problem.problem, item.problem.remedy, item.problem.value)
        self._changed.set()

    # --- over the ends of sessions and processes ---

    def restore(self, kept: Kept | None) -> None:
        """Take over the items of an earlier run. What the configuration says otherwise by now is ended later."""
        if kept is None:
            return
        assembler = self._intake.assembler
        self._kept = kept
        for one in kept.items:
            tag = self._tags.get(one.tag)
            if tag is None or address_of(tag) != one.address:
                self._ended.append(one.monitored)
                continue
            tag = tag.model_copy(
                update={"sampling_interval": one.sampling}
            )  # as the server was asked, until it is told
            item = _Item(one.handle, tag, one.monitored, one.queue, one.unit, Typing.load(one.rule), one.node)
            self._items[one.tag] = item
            assembler.add(self._series(one.tag, item), one.handle)
            assembler.fix(one.handle, Typing.load(one.rule))
            self.names[one.handle] = one.tag
        if assembler.handles < kept.reserved:
            assembler.remove(assembler.add(Series(""), kept.reserved - 1))

    def are_of(self, subscribed: int) -> bool:
        """Whether the items are known that the subscription has."""
        return self._kept.subscription == subscribed

    def renewed(self) -> None:
        """A new subscription, which has no items yet."""
        self._ended.clear()
        self._asked.clear()
        self._kept = Kept(0, 0, ())
        for item in self._items.values():
            item.monitored = 0
            item.node = None  # it may be another one's id by now: a server that was restarted counts anew

    def interrupted(self) -> None:
        """The session has ended: in the next, every refused node is tried again.

        Tags whose items may or may not have been made get other handles: what the server may send twice is then known
        apart.
        """
        for name in self._asked:
            item = self._items[name]
            del self.names[item.handle]
            item.handle = self._intake.assembler.another(item.handle)
            self.names[item.handle] = name
        self._asked.clear()
        for item in self._items.values():
            item.due = 0.0

    def _keep(self, subscribed: int) -> asyncio.Future[None]:
        """Note the items as they are; done when that is durable."""
        items = [
            KeptItem(
                name,
                address_of(item.tag),
                item.handle,
                item.monitored,
                item.queue,
                item.rule.dump(),
                item.unit,
                item.node,
                item.tag.sampling_interval,
            )
            for name, item in self._items.items()
            if item.monitored and item.rule is not None
        ]
        self._kept = Kept(subscribed, self._intake.assembler.handles, items)
        return self._intake.note({ITEMS: self._kept.dump()})

    # --- what is configured is what is monitored ---

    async def keep_up(
        self, session: Session, subscribed: Subscribed, limits: asyncio.Task[browse.OperationLimits]
    ) -> None:
        """Keeps the monitored items as the configuration wants them; tries refused ones again."""
        run = _Run(session, subscribed, self._settings)
        run.spaces = await browse.namespaces(session.stack)
        run.limits = await asyncio.shield(limits)
        while True:
            self._changed.clear()
            await self._remove(run)
            await self._resample(run)
            await self._add(run)
            now = asyncio.get_running_loop().time()
            due = min((item.due for item in self._items.values() if item.problem is not None), default=now + 3600)
            try:
                await within(max(_BUNCH, due - now), self._changed.wait())
            except asyncio.TimeoutError:
                continue

    async def _remove(self, run: _Run) -> None:
        """Ends what is not wanted any more, or stands elsewhere now."""
        assembler = self._intake.assembler
        for name, item in list(self._items.items()):
            tag = self._tags.get(name)
            if tag is not None and address_of(tag) == address_of(item.tag):
                if tag != item.tag or self._series(name, item) != assembler.series(item.handle):
                    if item.monitored:  # what the server samples by is for `_resample` to change
                        tag = tag.model_copy(update={"sampling_interval": item.tag.sampling_interval})
                    item.tag = tag
                    assembler.relabel(item.handle, self._series(name, item))
                continue
            if item.monitored:
                self._ended.append(item.monitored)
            if item.problem is not None:
                self._problems.clear(item.problem.path)
            assembler.remove(item.handle)
            del self._items[name], self.names[item.handle]
            self._told_metadata.pop(name, None)
        if self._ended:
            ended = list(self._ended)
            await self._keep(run.subscribed.id)
            await monitoring.unmonitor(run.session.stack, run.subscribed.id, ended, run.limits.monitor)
            self._ended = self._ended[len(ended) :]

    async def _resample(self, run: _Run) -> None:
        """Tells the server of sampling intervals that have changed: the items live on, and nothing is missed."""
        changed = [
            (f"{self._place(name)}.samplingInterval", item, tag)
            for name, item in self._items.items()
            if item.monitored
            and (tag := self._tags.get(name)) is not None
            and tag.sampling_interval != item.tag.sampling_interval
        ]
        if not changed:
            return
        wishes = [run.wish(item.node, item.handle, tag) for _, item, tag in changed]
        monitored = [item.monitored for _, item, _ in changed]
        answers = await monitoring.modify(run.session.stack, run.subscribed.id, monitored, wishes, run.limits.monitor)
        for (place, item, tag), answer in zip(changed, answers, strict=True):
            item.tag = tag
            if answer.status >> 30 >= 2:
                problem = node_problem(place, tag.sampling_interval, answer.status)
                self._problems.report(place, problem.problem, problem.remedy, problem.value)
            else:
                item.queue = answer.queue
                self._problems.clear(place)
        await self._keep(run.subscribed.id)

    async def _add(self, run: _Run) -> None:
        """Resolves, types and monitors what is wanted and not monitored; each node's trouble is its own."""
        now = asyncio.get_running_loop().time()
        wanted: dict[str, tuple[str, Tag]] = {}
        for name, tag in self._tags.items():
            item = self._items.get(name)
            if item is None or (not item.monitored and item.due <= now):
                wanted[name] = (self._place(name), tag)
        if not wanted:
            if not self.are_of(run.subscribed.id):
                await self._keep(run.subscribed.id)
            return
        stack = run.session.stack
        nodes = await browse.resolve(stack, run.limits, wanted, run.spaces)
        found = {name: (*wanted[name], node) for name, node in nodes.items() if not isinstance(node, Problem)}
        rules = await data_types.rules(stack, run.limits, found) if found else {}
        good = {name: node for name, (_, _, node) in found.items() if not isinstance(rules[name], Problem)}
        known = await self._metadata(run, good)
        wishes: dict[str, Wish] = {}
        for name, node in good.items():
            rule = rules[name]
            assert isinstance(rule, Typing)
            item = self._item(name, wanted[name][1], known.get(name, Metadata()).unit, rule)
            item.node = node
            wishes[name] = run.wish(node, item.handle, item.tag)
        if wishes and self.are_of(run.subscribed.id) and self._intake.assembler.handles > self._kept.reserved:
            await self._keep(run.subscribed.id)  # no handle goes out before it is reserved
        await self._monitor(run, wanted, wishes, now)
        for name, problem in [*nodes.items(), *rules.items()]:
            if isinstance(problem, Problem):
                self._refuse(self._item(name, wanted[name][1], "", None), problem, now)
        monitored = self.monitored
        logger.info("Connection %s monitors %d of %d tags", self._connection, monitored, len(self._tags))

    async def _monitor(
        self, run: _Run, wanted: Mapping[str, tuple[str, Tag]], wishes: Mapping[str, Wish], now: float
    ) -> None:
        if self.are_of(run.subscribed.id):
            self._asked = set(wishes)
        answers = await monitoring.monitor(
            run.session.stack, run.subscribed.id, list(wishes.values()), run.limits.monitor
        )
        self._asked.clear()
        begun: list[int] = []
        for name, answer in zip(wishes, answers, strict=True):
            item = self._items[name]
            if answer.status >> 30 >= 2:
                place, tag = wanted[name]
                address, value, _ = address_of(tag)
                self._refuse(item, node_problem(f"{place}.{address}", value, answer.status), now)
                continue
            if item.problem is not None:
                self._problems.clear(item.problem.path)
            item.monitored, item.queue, item.problem, item.due = answer.id, answer.queue, None, 0.0
            item.pauses.reset()
            begun.append(item.handle)
        self._intake.watched(begun)
        if begun or not self.are_of(run.subscribed.id):  # with many tags it is long, and refused ones come often
            await self._keep(run.subscribed.id)

    def _refuse(self, item: _Item, problem: Problem, now: float) -> None:
        item.problem = problem
        item.due = now + item.pauses.next()
        self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)

    def _item(self, name: str, tag: Tag, unit: str, rule: Typing | None) -> _Item:
        """The tag's item, with its client handle; both live as long as the tag is configured."""
        assembler = self._intake.assembler
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = _Item(assembler.add(Series(name)), tag)
            self.names[item.handle] = name
        item.unit = unit or item.unit
        assembler.relabel(item.handle, self._series(name, item))
        if rule is not None:
            item.rule = rule.after(item.rule)
            assembler.fix(item.handle, item.rule)
            assembler.subscribed(item.handle)
        return item

    def _series(self, name: str, item: _Item) -> Series:
        return Series(name, asset=item.tag.asset or self._settings.asset, unit=item.tag.unit or item.unit)

    def _place(self, name: str) -> str:
        return f"connections.{self._connection}.{self._tags[name].setting}.{name}"

    async def _metadata(self, run: _Run, nodes: Mapping[str, NodeId]) -> dict[str, Metadata]:
        """Units and ranges, told as an event where they are new. A server that cannot say them costs only them."""
        names = list(nodes)
        try:
            answers = await metadata.metadata(run.session.stack, run.limits, [nodes[name] for name in names])
        except (UaError, ValueError) as error:
            logger.warning("Connection %s: no units and ranges, the server answers %s", self._connection, error)
            return {}
        known = dict(zip(names, answers, strict=True))
        new = {
            name: what
            for name, what in known.items()
            if what != self._told_metadata.get(name, Metadata()) and name in self._tags
        }
        self._told_metadata.update(new)
        told = list(new.items())
        for start in range(0, len(told), _TOLD):
            tags = {name: present(asdict(what)) for name, what in told[start : start + _TOLD]}
            self._intake.tell("metadata", tags=tags)
        return known

    # --- who asks ---

    def node(self, handle: int) -> NodeId | None:
        """The node that the handle stands for, as last resolved."""
        item = self._items.get(self.names.get(handle, ""))
        return None if item is None else item.node

    def handle(self, tag: str) -> int | None:
        """The tag's client handle; None while nobody knows its node."""
        item = self._items.get(tag)
        return None if item is None or item.node is None else item.handle

    def shallow(self) -> list[int]:
        """Handles of the tags of which the server keeps one value only: it replaces it, and sets no overflow bit."""
        return [item.handle for item in self._items.values() if item.monitored and item.queue <= 1]

    @property
    def monitored(self) -> int:
        """How many tags are monitored."""
        return sum(bool(item.monitored) for item in self._items.values())

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        queues = [item.queue for item in self._items.values() if item.monitored]
        bad = sum(item.problem is not None for item in self._items.values())
        return {
            "tags": len(self._tags),
            "monitored": len(queues),
            **({"bad_tags": bad} if bad else {}),
            **({"queue": min(queues)} if queues else {}),
        }


class _Run:
    """What creating items goes by, in one session."""

    def __init__(self, session: Session, subscribed: Subscribed, settings: Settings) -> None:
        self.session = session
        self.subscribed = subscribed
        self.limits = browse.OperationLimits()
        self.spaces: tuple[str, ...] = ()
        publishing = settings.publishing_interval
        self._sampling = publishing if settings.sampling_interval is None else settings.sampling_interval
        self._queue = settings.queue_size

    def wish(self, node: NodeId, handle: int, tag: Tag) -> Wish:
        """What the server is asked for: the tag's own sampling interval, else the connection's, and a queue for it."""
        sampling = self._sampling if tag.sampling_interval is None else tag.sampling_interval
        queue = self._queue
        if not isinstance(queue, int):
            queue = subscription.queue_size(sampling, self.subscribed.interval)
        return Wish(node, handle, sampling, queue)
