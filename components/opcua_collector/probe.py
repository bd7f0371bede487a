"""What a server would make of a connection, found by trying it: for `explain` from outside of the collector.

Each subscribed group gets a subscription that publishes nothing, with items in mode Disabled, which neither sample nor
send; what the server revised is read off, and all is deleted again. Polled tags are read once. It is as light on the
server as the connection's `load` says, and looks at `MOST` tags at the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

from opcua_collector import explain
from opcua_collector.config import Connection, Tag
from opcua_collector.nodes import Facts, learn
from opcua_collector.plan import Plan, by_group, plan
from opcua_collector.problems import node_problem
from opcua_collector.services import browse, wire
from opcua_collector.services.batches import in_batches
from opcua_collector.services.monitoring import FILTER_REFUSED
from opcua_collector.services.session import Session
from opcua_collector.services.wire import Asking, Monitored
from opcua_collector.stack import NodeId, UaError, node_bytes, prepared, ua
from opcua_collector.subscriptions import timing
from sluice.config import Problem
from sluice.problem import render
from sluice.tasks import within

MOST: Final = 20_000
"""Tags that are tried; of more, the first."""
_DISABLED: Final = 0  # MonitoringMode
_CLEANING: Final = 10.0  # seconds that deleting may take: a session that ends takes it along anyway


@dataclass
class Probed:
    """What was found. history: of how many tags the server keeps one, by group; bad: some tags that are not well."""

    description: dict[str, Any]
    history: dict[str, int]
    bad: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Tags beyond `MOST`."""


async def probe(
    session: Session,
    name: str,
    settings: Connection,
    tags: Mapping[str, Tag],
    progress: Callable[[str], None] = lambda what: None,
) -> Probed:
    """Try the connection's tags. Raises asyncua's UaError, OSError or TimeoutError when the server goes away."""
    facts = await learn(session, settings.load)
    began = time.monotonic()
    started, clock = await session.times()
    round_trip = time.monotonic() - began
    found = Probed(
        {
            "connection": name,
            "endpoint": settings.endpoint,
            "session_timeout_s": timing.session_timeout(settings),
            "server": {"uri": session.server, "started": started},
            "session": {"policy": session.policy, **session.certificates()},
            "publishing": {
                "round_trip_ms": round(round_trip * 1000, 1),
                "clock_ahead_s": round(clock / 1e9 - time.time(), 3),
            },
            "limits": {limit: int(most) for limit, most in asdict(facts.limits).items()},
            "groups": {},
        },
        {},
        left_out=max(0, len(tags) - MOST),
    )
    for group, some in by_group(settings, dict(islice(tags.items(), MOST))).items():
        progress(f"group {group}" if group else "the connection's own tags")
        found.description["groups"][group] = await _group(found, facts, name, settings, plan(settings, group), some)
    return found


async def _group(
    found: Probed, facts: Facts, name: str, settings: Connection, wanted: Plan, tags: Mapping[str, Tag]
) -> dict[str, Any]:
    stack = facts.session.stack
    places = {tag: (render(("connections", name, one.setting, tag)), one) for tag, one in tags.items()}
    nodes: dict[str, NodeId] = {}
    bad = 0
    for tag, node in (await browse.resolve(stack, facts.limits, places, facts.spaces)).items():
        if isinstance(node, Problem):
            bad += 1
            _tell(found, tag, node)
        else:
            nodes[tag] = node
    told = (
        await _read(found, facts, wanted, tags, nodes, places)
        if wanted.mode == "poll"
        else await _watch(found, facts, settings, wanted, tags, nodes, places)
    )
    told["tags"] = len(tags)
    told["bad_tags"] = bad + told.pop("refused")
    histories = await browse.history(stack, facts.limits, list(nodes.values()))
    found.history[wanted.group] = sum(why == "" for why in histories)
    return told


def _tell(found: Probed, tag: str, problem: Problem) -> None:
    if len(found.bad) < explain.SHOWN:
        found.bad[tag] = f"{problem.problem}: {problem.remedy}"


async def _read(
    found: Probed,
    facts: Facts,
    wanted: Plan,
    tags: Mapping[str, Tag],
    nodes: Mapping[str, NodeId],
    places: Mapping[str, tuple[str, Tag]],
) -> dict[str, Any]:
    began = time.monotonic()
    asked = [(node, ua.AttributeIds.Value) for node in nodes.values()]
    answers = await browse.read(facts.session.stack, asked, facts.limits.read)
    took = time.monotonic() - began
    refused = 0
    for tag, answer in zip(nodes, answers, strict=True):
        if answer.status >> 30 >= 2:
            refused += 1
            _tell(found, tag, _refused(places[tag], tags[tag], answer.status))
    return {
        "mode": "poll",
        "poll_interval_s": wanted.poll,
        "polled": len(nodes) - refused,
        "poll_took_s": round(took, 3),
        "refused": refused,
    }


async def _watch(
    found: Probed,
    facts: Facts,
    settings: Connection,
    wanted: Plan,
    tags: Mapping[str, Tag],
    nodes: Mapping[str, NodeId],
    places: Mapping[str, tuple[str, Tag]],
) -> dict[str, Any]:
    session = facts.session
    asked = timing.asked(wanted, settings.keep_alive)
    parameters = ua.CreateSubscriptionParameters()
    parameters.RequestedPublishingInterval = asked.interval * 1000
    parameters.RequestedMaxKeepAliveCount = asked.keep_alive_count
    parameters.RequestedLifetimeCount = asked.lifetime_count
    parameters.MaxNotificationsPerPublish = timing.MOST_NOTIFICATIONS
    parameters.PublishingEnabled = False
    made = await session.stack.create_subscription(parameters, lambda _: None)
    try:
        askings = [_asking(wanted.of(tags[tag]), tags[tag]) for tag in nodes]
        kinds, refused, filtered = await _items(
            found, facts, int(made.SubscriptionId), list(nodes), list(nodes.values()), askings, tags, places
        )
    finally:
        with contextlib.suppress(UaError, OSError, asyncio.TimeoutError):  # the session takes it along at its end
            await within(_CLEANING, session.unsubscribe(int(made.SubscriptionId)))
    interval = float(made.RevisedPublishingInterval) / 1000
    told: dict[str, Any] = {
        "mode": "subscribe",
        "outage_s": wanted.outage,
        "requested": asdict(asked),
        "publishing_interval_s": interval,
        "keep_alive_s": round(interval * int(made.RevisedMaxKeepAliveCount), 3),
        "lifetime_s": round(interval * int(made.RevisedLifetimeCount), 3),
        "monitored": sum(kinds.values()),
        "kinds": [
            explain.kind_of(wanted, count, asking.sampling, asking.queue, sampling, queue)
            for (asking, sampling, queue), count in kinds.most_common()
        ],
        "refused": refused,
    }
    if wanted.deadband is not None:
        told["deadband"] = {"server": sum(kinds.values()) - filtered, "client": filtered}
    return told


async def _items(
    found: Probed,
    facts: Facts,
    subscribed: int,
    names: Sequence[str],
    nodes: Sequence[NodeId],
    askings: Sequence[Asking],
    tags: Mapping[str, Tag],
    places: Mapping[str, tuple[str, Tag]],
) -> tuple[Counter[tuple[Asking, float, int]], int, int]:
    """(What items became, how many were refused, how many were granted only without their filter.)"""

    async def make(some: Sequence[tuple[int, Asking]]) -> Sequence[Monitored]:
        items = ((node_bytes(nodes[number]), number, asking) for number, asking in some)
        body = wire.create_body(subscribed, items, _DISABLED)
        answer = await facts.session.stack._send_request(prepared("CreateMonitoredItems", body))
        return wire.read_created(bytes(answer), 0)

    wishes = list(enumerate(askings))
    answers = await in_batches(wishes, facts.limits.monitor, make, failed=Monitored)
    plain = [
        (number, Asking(asking.sampling, asking.queue, asking.discard_oldest, range=asking.range))
        for (number, asking), answer in zip(wishes, answers, strict=True)
        if asking.filtered and answer.status in FILTER_REFUSED
    ]
    again = await in_batches(plain, facts.limits.monitor, make, failed=Monitored)
    for (number, asking), answer in zip(plain, again, strict=True):
        wishes[number], answers[number] = (number, asking), answer
    kinds: Counter[tuple[Asking, float, int]] = Counter()
    refused = 0
    for (number, asking), answer in zip(wishes, answers, strict=True):
        if answer.status >> 30 >= 2:
            refused += 1
            _tell(found, names[number], _refused(places[names[number]], tags[names[number]], answer.status))
        else:
            kinds[asking, answer.sampling, answer.queue] += 1
    return kinds, refused, len(plain)


def _refused(place: tuple[str, Tag], tag: Tag, status: int) -> Problem:
    setting = "node" if tag.node is not None else "path"
    return node_problem(f"{place[0]}.{setting}", tag.node or tag.path, status)


def _asking(wanted: Plan, tag: Tag) -> Asking:
    """As the collector asks for a number; a server refuses a deadband for everything else, and is asked without."""
    kind, width = 0, 0.0
    if wanted.deadband is not None and wanted.deadband.absolute is not None:
        kind, width = wire.ABSOLUTE, wanted.deadband.absolute
    elif wanted.deadband is not None and wanted.deadband.percent is not None:
        kind, width = wire.PERCENT, wanted.deadband.percent
    oldest = wanted.discard == "oldest"
    return Asking(wanted.sampling, explain.queue_of(wanted), oldest, wanted.trigger, kind, width, tag.index_range or "")
