"""One connection: connects, subscribes, publishes, hands samples on, and begins again whatever happens.

    connecting --> running --> (lost) --> waiting --> connecting ...       forever, 0.2 s to 30 s apart, with jitter

A lost connection is recovered by the rungs of a ladder, the first that succeeds (Part 4, 6.7). This version has one
rung, a new session with a new subscription (`_recover`); what the server had queued for the old one is not fetched.

Back pressure is inherent: a publish task asks for the next message only when the samples of its last one are settled.
While delivery is slow, no request is outstanding and the server's queues do the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from opcua_collector import browse, subscription
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.notifications import Publication, decode
from opcua_collector.problems import explain, node_problem, status_name
from opcua_collector.samples import Assembler, Rule
from opcua_collector.security import thumbprint
from opcua_collector.sequence import Missing
from opcua_collector.sequence import Sequence as Order
from opcua_collector.session import Identity, Session, Subscribed, Wish, connect
from opcua_collector.stack import NodeId, UaError, UaStatusCodeError
from sluice.batch import BatchError, Columns, Series
from sluice.config import Problem
from sluice.log import Secret
from sluice.retry import Backoff
from sluice.status import Connection as State
from sluice.status import when
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

OUTSTANDING: Final = 3
"""PublishRequests in flight: with one, a long line or a short interval loses values in the server's queues."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_STABLE: Final = 5.0  # seconds after which a connection that is lost is tried again at once
_OVERDUE: Final = 2.0  # seconds that a message may come later than its successor
_MOST_ACKNOWLEDGEMENTS: Final = 1000
_LAST_WORK: Final = 10.0  # seconds for handing on what has been received when the connection ends
_STEP: Final = 0.5  # seconds between looks at the clock
_TOLD: Final = 20  # tags named in one event or log line
_NODE_PAUSES: Final = (5.0, 600.0)

_GONE: Final = frozenset({"BadNoSubscription", "BadSubscriptionIdInvalid"})
_BUSY: Final = frozenset({"BadTooManyPublishRequests"})
_AGAIN: Final = frozenset({"BadTimeout", "BadRequestTimeout", "BadRequestCancelledByClient"})


class Outlet(Protocol):
    """Where samples go: `sluice.streams.Outlet`."""

    async def send(self, columns: Columns) -> None:
        """Returns when the samples are settled."""

    async def send_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """The same for events."""

    def filtered(self, count: int) -> None:
        """Note samples that were left out on purpose."""

    def undelivered(self, count: int) -> None:
        """Note samples that were received and could not be read."""


class Reporter(Protocol):
    """Where problems that only show while running go: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        """Replaces what was reported for the scope."""

    def clear(self, scope: str) -> None:
        """The scope, and all below it, is well."""


class PasswordSource(Protocol):
    """Resolves the reference to a password."""

    def __call__(self, settings: Settings, /) -> Awaitable[Secret | None]:
        """Raises TroubleError."""


class SubscriptionLostError(Exception):
    """The server has ended our subscription."""


@dataclass(slots=True)
class _Item:
    """A tag and what is known of its node on this server."""

    handle: int
    tag: Tag
    monitored: int = 0  # monitored item id; 0: none
    queue: int = 0  # revised
    unit: str = ""  # from the server
    rule: Rule | None = None  # fixed at the first subscription, whatever the server says later
    due: float = 0.0  # when to try again
    pauses: Backoff = field(default_factory=lambda: Backoff(*_NODE_PAUSES))
    problem: Problem | None = None


@dataclass(slots=True)
class Traffic:
    """Counters of a connection since the component's start."""

    connects: int = 0
    losses: int = 0
    messages: int = 0
    keep_alives: int = 0
    repeated: int = 0
    missing: int = 0  # messages that did not come in time
    late: int = 0  # of these, those that came after all
    refused_acknowledgements: int = 0
    events: int = 0  # OPC UA events recognised and not collected
    damaged: int = 0  # messages that could not be read completely
    dropped: int = 0  # samples that could not be encoded


class Connection:
    """A server and its tags. `run` never ends by itself; `reconfigure` may be called at any time."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        tags: Mapping[str, Tag],
        *,
        outlet: Outlet,
        identity: Identity,
        password: PasswordSource,
        problems: Reporter,
    ) -> None:
        self.name = name
        self.state = State("connecting")
        self.traffic = Traffic()
        self._settings = settings
        self._tags = dict(tags)
        self._outlet = outlet
        self._identity = identity
        self._password = password
        self._problems = problems
        self._assembler = Assembler()
        self._items: dict[str, _Item] = {}
        self._told_metadata: dict[str, browse.Metadata] = {}
        self._changed = asyncio.Event()  # tags or their context
        self._restart = asyncio.Event()  # anything else
        self._proven = False  # the server has answered a publish request
        self._run: _Run | None = None

    def reconfigure(self, settings: Settings, tags: Mapping[str, Tag]) -> None:
        """Go over to this: tags come and go while the others flow on; all else needs a new session."""
        before, self._settings = self._settings, settings
        self._tags = dict(tags)
        same = {"tags": {}, "tags_file": "", "asset": ""}
        if before.model_copy(update=same) != settings.model_copy(update=same):
            self._restart.set()
        self._changed.set()

    async def settle(self, seconds: float) -> None:
        """Finish handing on the message at hand, and hand on no other: to be called before `run` is cancelled."""
        if self._run is None:
            return
        try:
            await within(seconds, self._run.delivering.acquire())
        except asyncio.TimeoutError:
            logger.warning("Connection %s: what is being handed on is given up after %g s", self.name, seconds)

    async def run(self) -> None:
        """Connect and collect until cancelled."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            self._proven = False
            self._restart.clear()
            started = time.monotonic()
            try:
                await self._attempt()
                backoff.reset()  # ended by a changed configuration
                continue
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is: reported, and tried again
                self._failed(error)
            if self._proven and time.monotonic() - started > _STABLE:
                backoff.reset()
            await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        try:
            await within(seconds, self._restart.wait())
        except asyncio.TimeoutError:
            return

    async def _attempt(self) -> None:
        """One connection, from its first packet to its end. Returns when the configuration wants another one."""
        if not self.state.why:  # while it is tried again it stays "waiting", since its first failure
            self.state.set("connecting")
        settings = self._settings
        password = await self._password(settings)
        session = await self._unless_changed(connect(self.name, settings, self._identity, password))
        if session is None:
            return
        politely = True
        try:
            await self._recover(session, settings)
        except (UaError, OSError, asyncio.TimeoutError, SubscriptionLostError):
            politely = False
            raise
        finally:
            self._run = None
            for item in self._items.values():
                item.monitored, item.due = 0, 0.0
            await asyncio.shield(session.close(politely=politely))

    async def _unless_changed(self, work: Coroutine[Any, Any, Session]) -> Session | None:
        """The work's result; None when the configuration changes before it is there."""
        task = asyncio.create_task(work)
        changed = asyncio.create_task(self._restart.wait())
        try:
            await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            changed.cancel()
            if not task.done():
                await end(task)

    async def _recover(self, session: Session, settings: Settings) -> None:
        """The ladder's rungs, the first that succeeds. Today one: a new subscription in a new session."""
        keep_alives = subscription.keep_alive_count(settings.publishing_interval, settings.keep_alive)
        subscribed = await session.subscribe(
            settings.publishing_interval,
            keep_alives,
            subscription.lifetime_count(settings.publishing_interval, keep_alives),
            subscription.MOST_NOTIFICATIONS,
        )
        self.traffic.connects += 1
        self._run = run = _Run(self, session, settings, subscribed)
        self._clear()
        self.state.set("running")
        self.state.details.clear()
        logger.info(
            "Connection %s runs: %s, %s, publishing every %g s (asked for %g s)",
            self.name,
            settings.endpoint,
            session.policy,
            subscribed.interval,
            settings.publishing_interval,
        )
        try:
            await _first_end(
                run.finish,
                self._restart.wait(),
                run.watch(),
                self._maintain(run),
                *(run.publish() for _ in range(OUTSTANDING)),
            )
        finally:
            run.abandon()

    def _failed(self, error: Exception) -> None:
        settings = self._settings
        if self._proven:
            self.traffic.losses += 1
        problem = explain(error, self.name, _values(settings), self._own())
        if self.state.set("waiting", f"{problem.path}: {problem.problem}", problem.remedy):
            self._clear()
            self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)
            logger.debug("Connection %s failed", self.name, exc_info=error)

    def _clear(self) -> None:
        """Forgets what was wrong with the connection itself, not with its tags."""
        for place in ("endpoint", "user", "security"):
            self._problems.clear(f"connections.{self.name}.{place}")

    def _own(self) -> dict[str, str]:
        path = self._identity.folder / "own" / "certificate.der"
        try:
            return {"certificate": str(path), "thumbprint": thumbprint(path.read_bytes())}
        except (OSError, ValueError):
            return {"certificate": str(path), "thumbprint": ""}

    # --- items ---

    async def _maintain(self, run: _Run) -> None:
        """Keeps the monitored items as the configuration wants them; tries refused ones again."""
        run.spaces = await browse.namespaces(run.session.stack)
        run.limits = await browse.operation_limits(run.session.stack)
        while True:
            self._changed.clear()
            await self._remove(run)
            await self._add(run)
            now = asyncio.get_running_loop().time()
            due = min((item.due for item in self._items.values() if item.problem is not None), default=now + 3600)
            try:
                await within(max(0.05, due - now), self._changed.wait())
            except asyncio.TimeoutError:
                continue

    async def _remove(self, run: _Run) -> None:
        """Ends what is not wanted any more, or stands elsewhere now."""
        ended: list[int] = []
        for name, item in list(self._items.items()):
            tag = self._tags.get(name)
            if tag is not None and _address(tag) == _address(item.tag):
                if tag != item.tag or self._series(name, item) != self._assembler.series(item.handle):
                    item.tag = tag
                    self._assembler.relabel(item.handle, self._series(name, item))
                continue
            if item.monitored:
                ended.append(item.monitored)
            if item.problem is not None:
                self._problems.clear(item.problem.path)
            self._assembler.remove(item.handle)
            del self._items[name]
            self._told_metadata.pop(name, None)
        if ended:
            await run.session.unmonitor(run.subscribed.id, ended, run.limits.monitor)

    async def _add(self, run: _Run) -> None:
        """Resolves, types and monitors what is wanted and not monitored; each node's trouble is its own."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        wanted: dict[str, tuple[str, Tag]] = {}
        for name, tag in self._tags.items():
            item = self._items.get(name)
            if item is None or (not item.monitored and item.due <= now):
                wanted[name] = (self._place(name), tag)
        if not wanted:
            return
        stack = run.session.stack
        nodes = await browse.resolve(stack, run.limits, wanted, run.spaces)
        found = {name: (*wanted[name], node) for name, node in nodes.items() if not isinstance(node, Problem)}
        rules = await browse.rules(stack, run.limits, found) if found else {}
        good = {name: node for name, (_, _, node) in found.items() if not isinstance(rules[name], Problem)}
        known = await self._metadata(run, good)
        wishes: dict[str, Wish] = {}
        for name, node in good.items():
            rule = rules[name]
            assert isinstance(rule, Rule)
            item = self._item(name, wanted[name][1], known.get(name, browse.Metadata()).unit, rule)
            sampling = run.sampling
            wishes[name] = Wish(node, item.handle, sampling, run.queue)
        answers = await run.session.monitor(run.subscribed.id, list(wishes.values()), run.limits.monitor)
        for name, answer in zip(wishes, answers, strict=True):
            item = self._items[name]
            if answer.status >> 30 >= 2:
                place, tag = wanted[name]
                address, value = _address(tag)[:2]
                self._refuse(item, node_problem(f"{place}.{address}", value, answer.status), now)
                continue
            if item.problem is not None:
                self._problems.clear(item.problem.path)
            item.monitored, item.queue, item.problem, item.due = answer.id, answer.queue, None, 0.0
            item.pauses.reset()
        for name, problem in [*nodes.items(), *rules.items()]:
            if isinstance(problem, Problem):
                item = self._item(name, wanted[name][1], "", None)
                self._refuse(item, problem, now)
        logger.info(
            "Connection %s monitors %d of %d tags",
            self.name,
            sum(bool(i.monitored) for i in self._items.values()),
            len(self._tags),
        )

    def _refuse(self, item: _Item, problem: Problem, now: float) -> None:
        item.problem = problem
        item.due = now + item.pauses.next()
        self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)

    def _item(self, name: str, tag: Tag, unit: str, rule: Rule | None) -> _Item:
        """The tag's item, with its client handle; both live as long as the tag is configured."""
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = _Item(self._assembler.add(Series(name)), tag)
        item.unit = unit or item.unit
        self._assembler.relabel(item.handle, self._series(name, item))
        if rule is not None:
            item.rule = rule if item.rule is None else item.rule
            self._assembler.fix(item.handle, item.rule)
            self._assembler.subscribed(item.handle)
        return item

    def _series(self, name: str, item: _Item) -> Series:
        return Series(name, asset=item.tag.asset or self._settings.asset, unit=item.tag.unit or item.unit)

    async def _metadata(self, run: _Run, nodes: Mapping[str, NodeId]) -> dict[str, browse.Metadata]:
        """Units and ranges, told as an event where they are new. A server that cannot say them costs only them."""
        names = list(nodes)
        try:
            answers = await browse.metadata(run.session.stack, run.limits, [nodes[name] for name in names])
        except (UaError, ValueError) as error:
            logger.warning("Connection %s: no units and ranges, the server answers %s", self.name, error)
            return {}
        known = dict(zip(names, answers, strict=True))
        new = {
            name: what
            for name, what in known.items()
            if what != self._told_metadata.get(name, browse.Metadata()) and name in self._tags
        }
        self._told_metadata.update(new)
        told = list(new.items())
        for start in range(0, len(told), _TOLD):
            tags = {name: _present(asdict(what)) for name, what in told[start : start + _TOLD]}
            await self._outlet.send_events([self.event("metadata", tags=tags)])
        return known

    def _place(self, name: str) -> str:
        where = "tags" if name in self._settings.tags else "tagsFile"
        return f"connections.{self.name}.{where}.{name}"

    # --- what arrives ---

    def event(self, kind: str, **what: Any) -> dict[str, Any]:
        """An event of this connection."""
        return {"kind": kind, "time_ns": time.time_ns(), "connection": self.name, **what}

    async def deliver(self, publication: Publication) -> None:
        """Hands on what one message brought, in order. Cancelled, it counts what it does not hand on."""
        filtered = self._assembler.counts.filtered
        waiting = deque(self._assembler.columns(publication))
        left_out = self._assembler.counts.filtered - filtered
        if left_out:
            self._outlet.filtered(left_out)
        unreadable = publication.lost + len(publication.quarantined)
        if unreadable:
            self._outlet.undelivered(unreadable)
        while waiting:
            columns = waiting.popleft()
            try:
                await self._outlet.send(columns)
            except BatchError as error:
                self.traffic.dropped += len(columns)
                logger.error("Connection %s: %d samples cannot be encoded: %s", self.name, len(columns), error)
            except asyncio.CancelledError:
                self._outlet.undelivered(sum(map(len, waiting)))
                raise
        self.traffic.events += publication.events
        if publication.damage or publication.quarantined:
            self.traffic.damaged += 1
            await self._tell_damage(publication)

    def give_up(self, publications: Iterable[Publication]) -> None:
        """Counts messages that were received and are not handed on, because there is no time left for it."""
        for publication in publications:
            self._outlet.undelivered(len(publication) + publication.lost + len(publication.quarantined))

    async def _tell_damage(self, publication: Publication) -> None:
        names = {item.handle: name for name, item in self._items.items()}
        bad = [
            _present({"tag": names.get(item.handle, ""), "reason": item.reason, "bytes": item.excerpt})
            for item in publication.quarantined[:_TOLD]
        ]
        logger.warning(
            "Connection %s: message %d could not be read completely: %d items quarantined, %d lost. %s",
            self.name,
            publication.sequence,
            len(publication.quarantined),
            publication.lost,
            publication.damage,
        )
        await self._outlet.send_events(
            [self.event("undecodable", items=bad, quarantined=len(publication.quarantined), lost=publication.lost)]
        )

    async def tell_missing(self, missing: Iterable[Missing]) -> None:
        """A gap: messages that the server sent and that never came."""
        for gap in missing:
            self.traffic.missing += len(gap)
            logger.warning("Connection %s: messages %d to %d never came", self.name, gap.first, gap.last)
            await self._outlet.send_events(
                [self.event("gap", reason="sequence", first=gap.first, last=gap.last, messages=len(gap))]
            )

    def decode(self, data: bytes, start: int) -> Publication:
        """One response, with the handles known now."""
        return decode(data, start, received=time.time_ns(), handles=self._assembler.handles)

    def heard(self) -> None:
        """The server has answered a publish request."""
        self._proven = True

    # --- status ---

    def status(self) -> dict[str, Any]:
        """For the component's status."""
        told = self.state.as_dict()
        settings = self._settings
        bad = [item.problem for item in self._items.values() if item.problem is not None]
        told["endpoint"] = settings.endpoint
        told["tags"] = len(self._tags)
        told["monitored"] = sum(bool(item.monitored) for item in self._items.values())
        if bad:
            told["bad_tags"] = len(bad)
        if self._run is not None:
            told.update(self._run.status())
        told.update({key: value for key, value in asdict(self.traffic).items() if value})
        told.update({key: value for key, value in asdict(self._assembler.counts).items() if value})
        return told


class _Run:
    """What belongs to one subscription in one session."""

    def __init__(self, owner: Connection, session: Session, settings: Settings, subscribed: Subscribed) -> None:
        self.owner = owner
        self.session = session
        self.subscribed = subscribed
        self.limits = browse.OperationLimits()
        self.spaces: tuple[str, ...] = ()
        self.sampling = (
            settings.publishing_interval if settings.sampling_interval is None else settings.sampling_interval
        )
        self.queue = (
            subscription.queue_size(self.sampling, subscribed.interval)
            if settings.queue_size == "auto"
            else int(settings.queue_size)
        )
        self.latest = 0.0  # when data came last, wall clock
        self._order: Order[Publication] = Order(2 * OUTSTANDING)
        self._overdue = 0.0  # since when messages are overdue; 0: none are
        self._acknowledge: list[tuple[int, int]] = []
        self.delivering = asyncio.Lock()
        self._at_hand = 0  # messages received and not settled
        self._settled = asyncio.Event()
        self._finishing = False
        self._publishers = OUTSTANDING
        self._outstanding = 0
        limit = subscription.silence(subscribed.interval, subscribed.keep_alive_count)
        self._watch = subscription.Watch(limit, _now())

    async def publish(self) -> None:
        """One of the requests that are outstanding: ask, hand on, acknowledge with the next."""
        while not self._finishing:
            acknowledge = self._acknowledge[:_MOST_ACKNOWLEDGEMENTS]
            del self._acknowledge[: len(acknowledge)]
            if not self._outstanding:
                self._watch.heard(_now())  # nothing was asked meanwhile, so nothing could be heard
            self._outstanding += 1
            try:
                data, start = await self.session.publish(acknowledge)
            except UaStatusCodeError as error:
                self._acknowledge[:0] = acknowledge  # whether a refused request acknowledged is not said: once more
                if await self._refused(error):
                    return
                continue
            finally:
                self._outstanding -= 1
            self._watch.heard(_now())
            self.owner.heard()
            publication = self.owner.decode(data, start)
            self._at_hand += 1
            try:
                await self._taken(publication, acknowledge)
            finally:
                self._at_hand -= 1
                self._settled.set()

    async def _taken(self, publication: Publication, acknowledged: Sequence[tuple[int, int]]) -> None:
        try:
            await self.delivering.acquire()
        except asyncio.CancelledError:
            self.owner.give_up([publication])
            raise
        try:
            await self._received(publication, acknowledged)
        finally:
            self.delivering.release()

    async def finish(self) -> None:
        """Hand on what has been received; ask for nothing more. For an end that is not the component's."""
        self._finishing = True
        with contextlib.suppress(asyncio.TimeoutError):
            await within(_LAST_WORK, self._finish())

    async def _finish(self) -> None:
        while self._at_hand:
            self._settled.clear()
            await self._settled.wait()
        async with self.delivering:
            step = self._order.give_up()
            await self._go_on(step.ready, step.missing)

    def abandon(self) -> None:
        """Count what waits for messages before it, and will not be handed on."""
        self.owner.give_up(self._order.give_up().ready)

    async def _refused(self, error: Any) -> bool:
        """A publish request was refused; True: this task is one too many."""
        name = status_name(error.code)
        if name in _GONE:
            raise SubscriptionLostError(name) from error
        if name in _BUSY:
            if self._publishers > 1:
                self._publishers -= 1
                return True
            await asyncio.sleep(self.subscribed.interval)
            return False
        if name in _AGAIN:
            await asyncio.sleep(min(1.0, self.subscribed.interval))
            return False
        raise error

    async def _received(self, publication: Publication, acknowledged: Sequence[tuple[int, int]]) -> None:
        traffic = self.owner.traffic
        refused = Counter(status for status in publication.results if status >> 30 >= 2)
        traffic.refused_acknowledgements += refused.total() if acknowledged else 0
        if publication.subscription != self.subscribed.id:
            if publication.damage:
                traffic.damaged += 1
                logger.warning("Connection %s: %s", self.owner.name, publication.damage)
            return
        if publication.keep_alive:
            traffic.keep_alives += 1
            step = self._order.keep_alive(publication.sequence)
        else:
            traffic.messages += 1
            self.latest = time.time()
            step = self._order.receive(publication.sequence, publication)
        traffic.late += step.late
        if step.repeated:
            traffic.repeated += 1
            self._acknowledge.append((publication.subscription, publication.sequence))
        await self._go_on(step.ready, step.missing)
        for status in publication.status_changes:
            if status >> 30 >= 2:
                raise SubscriptionLostError(status_name(status))

    async def _go_on(self, ready: Sequence[Publication], missing: Sequence[Missing]) -> None:
        waiting = deque(ready)
        try:
            await self.owner.tell_missing(missing)
            while waiting:
                publication = waiting.popleft()
                await self.owner.deliver(publication)
                self._acknowledge.append((publication.subscription, publication.sequence))
        except asyncio.CancelledError:
            self.owner.give_up(waiting)
            raise
        if not self._order.overdue:
            self._overdue = 0.0
        elif not self._overdue:
            self._overdue = _now()

    async def watch(self) -> None:
        """Ends the run when the server is silent for too long; gives up messages that are overdue for too long."""
        while True:
            await asyncio.sleep(_STEP)
            if self._watch.silent(_now(), _STEP) and self._outstanding:
                raise asyncio.TimeoutError
            if self._overdue and _now() - self._overdue > _OVERDUE:
                async with self.delivering:
                    step = self._order.give_up()
                    await self._go_on(step.ready, step.missing)

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        queues = [item.queue for item in self.owner._items.values() if item.monitored]
        return {
            "policy": self.session.policy,
            "publishing_interval_s": self.subscribed.interval,
            "keep_alive_s": round(self.subscribed.interval * self.subscribed.keep_alive_count, 3),
            "outstanding": self._outstanding,
            **({"queue": min(queues)} if queues else {}),
            **({"latest": when(self.latest)} if self.latest else {}),
        }


async def _first_end(finish: Callable[[], Awaitable[None]], *work: Coroutine[Any, Any, Any]) -> None:
    """Runs all until one fails, which is raised, or the first of them ends. Others may end when they like.

    What still runs is ended after `finish`, or at once when all is cancelled from outside.
    """
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(one) for one in work]
    try:
        pending = set(tasks)
        while not tasks[0].done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            failed = [error for task in done if (error := task.exception()) is not None]
            if failed:
                await finish()
                raise failed[0]
        await finish()
    finally:
        await end(*tasks)


def _address(tag: Tag) -> tuple[str, str, str]:
    """What decides where a tag's values come from, and of what type they are."""
    return ("node", tag.node, tag.type) if tag.node is not None else ("path", tag.path or "", tag.type)


def _values(settings: Settings) -> dict[str, Any]:
    return {
        "endpoint": settings.endpoint,
        "user": settings.user.name if settings.user else "anonymous",
        "security.policy": settings.security.policy,
        "security.mode": settings.security.mode,
    }


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "")}


def _now() -> float:
    return asyncio.get_running_loop().time()
