"""What monitored and polled tags share: their nodes are found, typed and described, each for itself.

What is wrong with a node is that node's trouble: it is reported with its place, tried again in growing pauses, and
nobody waits for it. Everything is asked for anew in each session, because namespaces, types and limits may be others
after a server's restart; what is a tag's type stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

from opcua_collector.config import Connection as Settings
from opcua_collector.config import Load, Tag
from opcua_collector.intake import Intake, present
from opcua_collector.kept import address_of
from opcua_collector.plan import OWN, Plan
from opcua_collector.problems import node_problem
from opcua_collector.services import browse
from opcua_collector.services.batches import Batch
from opcua_collector.services.browse import OperationLimits
from opcua_collector.services.session import Session
from opcua_collector.services.wire import read_value_id
from opcua_collector.stack import NodeId, UaError, node_bytes, node_of
from opcua_collector.types import data_types, metadata
from opcua_collector.types.data_types import Types
from opcua_collector.types.metadata import Metadata
from opcua_collector.types.typed import Typing
from sluice.batch import Series, ValueType
from sluice.config import Problem
from sluice.retry import Backoff
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

CHUNK: Final = 1000
"""Tags that are dealt with at a time: what comes of them flows before the next are asked for."""
_TOLD: Final = 20  # tags named in one event
_DESCRIBED_FIRST: Final = 500  # of so few, units are asked for before the first value, so that it has its unit
_NODE_PAUSES: Final = (5.0, 600.0)
_BUNCH: Final = 1.0  # seconds between tries of refused nodes: those of which the pauses end in one go together
_LOOK: Final = 2.0  # seconds between looks whether a server said that what it tells of a node has changed
_SLICE: Final = 5000  # items that are looked at before others have their turn
MOVED: Final = "a tag that went over to another group"
"""A gap's reason."""
_NUMBERS: Final = frozenset({ValueType.DOUBLE, ValueType.INTEGER})


class Reporter(Protocol):
    """Where problems that only show while running go: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        """Replaces what was reported for the scope."""

    def clear(self, scope: str) -> None:
        """The scope, and all below it, is well."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a server in one session: how much it takes at once, and its namespaces in their order."""

    session: Session
    limits: OperationLimits
    spaces: tuple[str, ...]
    types: Types = field(default_factory=Types)


async def learn(session: Session, load: Load, before: Facts | None = None) -> Facts:
    """Ask the server. `before`: those of the session before, of which the sizes that turned out to work are kept.

    A line that broke under a request may have been broken by it, so what was learned then matters most.
    """
    spaces = await browse.namespaces(session.stack)
    said = await browse.operation_limits(session.stack, load.batch)

    def batch(name: str) -> Batch:
        known = None if before is None else getattr(before.limits, name)
        return Batch(getattr(said, name), load.parallel, known.now if isinstance(known, Batch) else None)

    asked = ("read", "translate", "browse", "monitor", "register")
    return Facts(session, OperationLimits(history=said.history, **{name: batch(name) for name in asked}), spaces)


@dataclass(slots=True)
class Node:
    """A tag and what is known of its node on this server."""

    handle: int
    tag: Tag
    node: bytes = b""  # as last resolved, in the form of requests; empty: not yet
    typing: Typing | None = None  # its type is fixed at the first subscription, whatever the server says later
    unit: str = ""  # from the server


@dataclass(slots=True)
class _Trouble:
    """What is wrong with a tag's node, and when it is tried again."""

    problem: Problem
    due: float = 0.0
    pauses: Backoff = field(default_factory=lambda: Backoff(*_NODE_PAUSES))


N = TypeVar("N", bound=Node)
T = TypeVar("T")


class Nodes(ABC, Generic[N]):
    """The tags of one group of a connection. `names`: client handle -> tag, of all groups of the connection."""

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
        self.names = names
        """Tags by client handle."""
        self._connection = connection
        self._settings = settings
        self._plan = plan
        self._tags = dict(tags)
        self._intake = intake
        self._assembler = intake.assembler
        self._problems = problems
        self._items: dict[str, N] = {}
        self._trouble: dict[str, _Trouble] = {}
        self._told: dict[str, Metadata] = {}  # of tags of which there is something to tell
        self._alike: dict[Any, Any] = {}  # what many tags have in common is there once
        self._undescribed: dict[str, None] = {}  # whose units and ranges are to be asked for
        self._labelled_by = settings
        self._changed = asyncio.Event()

    # --- what is wanted ---

    def want(self, settings: Settings, plan: Plan, tags: Mapping[str, Tag], elsewhere: Collection[str] = ()) -> None:
        """These tags from now on. `elsewhere`: those that are in another group of the connection now."""
        self._settings = settings
        self._plan = plan
        self._tags = dict(tags)
        moved = set()
        for name in [name for name in self._items if name in elsewhere]:
            item = self._items.pop(name)
            self._well(name)
            del self.names[item.handle]
            if self._left(name, item, moved=True):
                moved.add(name)
            self._assembler.park(item.handle)
        if moved:  # nobody watches them until the other group does
            self._intake.open_gap(MOVED, only=moved)
        for trouble in self._trouble.values():  # who has read a table anew has forgotten what was wrong with its tags
            problem = trouble.problem
            self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)
        self._changed.set()

    def _left(self, name: str, item: N, *, moved: bool) -> bool:
        """The tag goes on in another group (moved), or not at all. Its handle is given up next.

        Whether its values were collected until now.
        """
        self._problems.clear(f"{self._place(name, item.tag)}.deadband")
        self._told.pop(name, None)
        self._undescribed.pop(name, None)
        return False

    async def _gone(self) -> list[tuple[str, N]]:
        """Tags that are not wanted any more, or stand elsewhere now; the others have their present context."""
        gone = []
        settings = self._settings
        async for some in slices(list(self._items.items())):
            for name, item in some:
                tag = self._tags.get(name)
                if self._items.get(name) is not item:
                    continue
                if tag is None or (tag is not item.tag and address_of(tag) != address_of(item.tag)):
                    gone.append((name, item))
                elif tag is not item.tag or settings is not self._labelled_by:
                    item.tag = tag
                    self._assembler.relabel(item.handle, self._series(name, item))
        self._labelled_by = settings
        return [(name, item) for name, item in gone if self._items.get(name) is item]

    def _forget(self, gone: Iterable[tuple[str, N]]) -> None:
        for name, item in gone:
            self._well(name)
            self._left(name, item, moved=False)
            self._assembler.remove(item.handle)
            del self._items[name], self.names[item.handle]
        for name in [name for name in self._trouble if name not in self._tags]:
            self._well(name)

    def retire(self) -> None:
        """The group is no more. Its handles are given up; tags that go on elsewhere have left before (`want`)."""
        self._tags = {}
        self._forget(list(self._items.items()))

    def _series(self, name: str, item: N) -> Series:
        return Series(name, asset=item.tag.asset or self._settings.asset, unit=item.tag.unit or item.unit)

    def _place(self, name: str, tag: Tag) -> str:
        return f"connections.{self._connection}.{tag.setting}.{name}"

    @property
    def _group_place(self) -> str:
        """Where the settings of the group stand."""
        group = self._plan.group
        return f"connections.{self._connection}" + (f".groups.{group}" if group != OWN else "")

    # --- trouble ---

    def _refuse(self, name: str, problem: Problem) -> None:
        """Something is wrong with the tag's node: reported, and tried again later."""
        trouble = self._trouble.get(name)
        if trouble is None:
            trouble = self._trouble[name] = _Trouble(problem)
        elif trouble.problem.path != problem.path:
            self._problems.clear(trouble.problem.path)
        trouble.problem = problem
        trouble.due = asyncio.get_running_loop().time() + trouble.pauses.next()
        self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)

    def _refused_by_server(self, name: str, tag: Tag, status: int) -> None:
        address, value, *_ = address_of(tag)
        self._refuse(name, node_problem(f"{self._place(name, tag)}.{address}", value, status))

    def _well(self, name: str) -> None:
        trouble = self._trouble.pop(name, None)
        if trouble is not None:
            self._problems.clear(trouble.problem.path)

    def _wait_no_longer(self) -> None:
        """Whatever was refused is tried at once."""
        for trouble in self._trouble.values():
            trouble.due = 0.0

    def _may_be_tried(self, name: str, now: float) -> bool:
        trouble = self._trouble.get(name)
        return trouble is None or trouble.due <= now

    async def _until_something_is_due(self) -> None:
        """Until tags change, or refused ones are to be tried again."""
        now = asyncio.get_running_loop().time()
        due = min((trouble.due for trouble in self._trouble.values()), default=now + 3600)
        try:
            await within(max(_BUNCH, due - now), self._changed.wait())
        except asyncio.TimeoutError:
            return

    # --- finding nodes ---

    async def _found(self, facts: Facts, names: Sequence[str], total: int) -> list[str]:
        """Resolves, types and labels these tags; the names of those that are well, which have an item now.

        `total`: how many there are in all. A few are described at once; many in the background, while they flow.
        """
        stack = facts.session.stack
        wanted = {name: (self._place(name, tag), tag) for name in names if (tag := self._tags.get(name)) is not None}
        nodes = await browse.resolve(stack, facts.limits, wanted, facts.spaces)
        found = {name: (*wanted[name], node) for name, node in nodes.items() if not isinstance(node, Problem)}
        typings = await data_types.rules(stack, facts.limits, found, facts.types) if found else {}
        good = []
        for name, outcome in [*nodes.items(), *typings.items()]:
            tag = wanted[name][1]
            if self._tags.get(name) is not tag:
                continue  # what is wanted has changed meanwhile: it comes again, with what it is by then
            if isinstance(outcome, Problem):
                self._refuse(name, outcome)
            elif name in typings and isinstance(outcome, Typing):
                item = self._item(name, tag)
                item.node = node_bytes(nodes[name])
                self._type(item, outcome)
                good.append(name)
        self._undescribed.update(dict.fromkeys(good))
        if good and total <= _DESCRIBED_FIRST:
            await self._describe_some(facts, good)
        return [name for name in good if name in self._items]

    def _item(self, name: str, tag: Tag) -> N:
        """The tag's item, with its client handle; both live as long as the tag is configured."""
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = self._new_item(self._assembler.add(Series(name)), tag)
            self.names[item.handle] = name
        self._assembler.relabel(item.handle, self._series(name, item))
        return item

    @abstractmethod
    def _new_item(self, handle: int, tag: Tag) -> N:
        """What stands for a tag that nothing is known of yet."""

    def _type(self, item: N, typing: Typing) -> None:
        """How its values are typed by now; the tag's type never changes."""
        item.typing = self._once(typing.after(item.typing))
        self._assembler.fix(item.handle, item.typing)

    def _once(self, value: Any) -> Any:
        return self._alike.setdefault(value, value)

    # --- describing them ---

    async def _describe(self, facts: Facts) -> None:
        """Asks for units and ranges while values flow, and anew of nodes of which the server says they have changed."""
        while True:
            while self._undescribed:
                names = [name for name, _ in zip(self._undescribed, range(_DESCRIBED_FIRST), strict=False)]
                await self._describe_some(facts, names)
            await asyncio.sleep(_LOOK)
            changed = [handle for handle in self._assembler.changed if self.names.get(handle) in self._items]
            if changed:
                self._assembler.changed.difference_update(changed)
                await self._look_again(facts, [name for handle in changed if (name := self.names.get(handle))])

    async def _look_again(self, facts: Facts, names: Sequence[str]) -> None:
        """The server says that type, unit or range of these nodes may be others now."""
        wanted = {
            name: (self._place(name, item.tag), item.tag, node_of(item.node))
            for name in names
            if (item := self._items.get(name)) is not None and item.node
        }
        for name, typing in (await data_types.rules(facts.session.stack, facts.limits, wanted)).items():
            item = self._items.get(name)
            if item is not None and isinstance(typing, Typing):
                self._type(item, typing)
                self._retyped(item)
        self._undescribed.update(dict.fromkeys(name for name in wanted if name in self._items))

    def _retyped(self, item: N) -> None:
        """What is known of the type of the tag's values has changed."""

    async def _describe_some(self, facts: Facts, names: Sequence[str]) -> None:
        """Units and ranges, told as an event where they are new. A server that cannot say them costs only them."""
        asked = [name for name in names if (item := self._items.get(name)) is not None and item.node]
        for name in names:
            self._undescribed.pop(name, None)
        nodes = [node_of(self._items[name].node) for name in asked]
        try:
            answers = await metadata.metadata(facts.session.stack, facts.limits, nodes, facts.types)
        except (UaError, ValueError, asyncio.TimeoutError) as error:
            logger.warning("Connection %s: no units and ranges: %s", self._connection, error or "no answer in time")
            answers = [Metadata()] * len(asked)
        new: dict[str, Metadata] = {}
        for name, what in zip(asked, answers, strict=True):
            item = self._items.get(name)
            if item is None:
                continue
            if what != self._told.get(name, Metadata()):
                new[name] = self._told[name] = self._once(what)
            if what.unit and what.unit != item.unit:
                item.unit = self._once(what.unit)
                self._assembler.relabel(item.handle, self._series(name, item))
            self._described(name, item)
        told = list(new.items())
        for start in range(0, len(told), _TOLD):
            tags = {name: present(asdict(what)) for name, what in told[start : start + _TOLD]}
            self._intake.tell("metadata", tags=tags)

    def _described(self, name: str, item: N) -> None:
        """What the server says of the tag's node is known by now, as far as it says anything."""

    # --- deadbands that are ours to keep ---

    def _keeps_numbers(self, item: N) -> bool:
        """Whether a deadband means anything for the tag."""
        return item.typing is not None and item.typing.type in _NUMBERS

    def _narrow(self, name: str, item: N, *, alone: bool = True) -> float | None:
        """Leaves out changes within the group's deadband from here on: its width, None where it is not known.

        alone: nobody else does, so it is a problem when the width is not known.
        """
        deadband = self._plan.deadband
        assert deadband is not None
        place = f"{self._place(name, item.tag)}.deadband"
        width = deadband.absolute
        if width is None and deadband.percent is not None:
            known = self._told.get(name, Metadata())
            low, high = (known.low, known.high) if deadband.low is None else (deadband.low, deadband.high)
            if low is not None and high is not None:
                width = (high - low) * deadband.percent / 100
        self._assembler.filter(item.handle, width)
        if width is not None or not alone or name in self._undescribed:
            self._problems.clear(place)
        else:
            self._problems.report(
                place,
                "cannot be kept: the server does not know it, and says no range of the node (EURange): all is sent",
                f"set low and high beside {self._group_place}.deadband.percent, or use absolute",
                f"{deadband.percent:g} %",
            )
        return width

    # --- who asks ---

    def request_of(self, handle: int) -> bytes | None:
        """What asks for the tag's value in a ReadRequest; None: its node is not known."""
        item = self._items.get(self.names.get(handle, ""))
        if item is None or item.handle != handle or not item.node:
            return None
        return read_value_id(item.node, index_range=item.tag.index_range or "")

    def node(self, handle: int) -> NodeId | None:
        """The node that the handle stands for, as last resolved."""
        item = self._items.get(self.names.get(handle, ""))
        return None if item is None or item.handle != handle or not item.node else node_of(item.node)

    def handle(self, tag: str) -> int | None:
        """The tag's client handle; None while nobody knows its node."""
        item = self._items.get(tag)
        return None if item is None or not item.node else item.handle

    def troubles(self, most: int) -> dict[str, str]:
        """What is wrong with some of the tags, and what mends it."""
        some = islice(self._trouble.items(), max(0, most))
        return {name: f"{one.problem.problem}: {one.problem.remedy}" for name, one in some}

    def _of_tag(self, tag: str) -> dict[str, Any] | None:
        """What is known of one tag, for who asks about it; None: it is not of this group."""
        if tag not in self._tags:
            return None
        item, trouble = self._items.get(tag), self._trouble.get(tag)
        known: dict[str, Any] = {"group": self._plan.group, "mode": self._plan.mode}
        if item is not None:
            known["node"] = node_of(item.node).to_string() if item.node else ""
            known["unit"] = item.tag.unit or item.unit
            known["type"] = item.typing.type.value if item.typing is not None else ""
        if trouble is not None:
            known["problem"] = f"{trouble.problem.path}: {trouble.problem.problem}"
            known["remedy"] = trouble.problem.remedy
            known["tried_again_s"] = round(max(0.0, trouble.due - asyncio.get_running_loop().time()), 1)
        return present(known)


async def slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The items a few at a time; others have their turn in between."""
    for start in range(0, len(items), _SLICE):
        yield items[start : start + _SLICE]
        await asyncio.sleep(0)


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one fails, which is raised; the others are ended then, or when this is cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await end(*tasks)
