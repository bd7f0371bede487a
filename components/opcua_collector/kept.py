"""What a connection keeps in the outbox beside its samples, so that its next run goes on where this one ended. Pure.

| position | content                                          | written                                                |
|----------|--------------------------------------------------|--------------------------------------------------------|
| session  | ticket, server, its subscriptions: `Kept`        | when a session or a subscription has become ours       |
| items    | which client handle stands for which tag: `Items`| around each change of monitored items, see `Items`     |
| sequence | the last message that was handed on: `Reached`   | in the transaction of that message's samples           |

Each subscribed group has items and a sequence of its own: items/<group> and sequence/<group>; those of tags without a
group have no more than their names (`position`).

What cannot be read (damage, another version) is as good as not there: the connection begins anew. A session of
version 1, which had one subscription, is read as one of now, so that an update resumes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from opcua_collector.config import Connection, Tag
from opcua_collector.plan import OWN
from opcua_collector.services.session import Asked, Subscribed, Ticket
from opcua_collector.types.typed import Typing
from sluice import garbage

SESSION: Final = "session"
ITEMS: Final = "items"
SEQUENCE: Final = "sequence"
_VERSION: Final = 1
_SESSION_VERSION: Final = 2
_DAMAGE: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)


def position(kind: str, group: str) -> str:
    """Where the group's `ITEMS` or `SEQUENCE` are kept."""
    return f"{kind}/{group}" if group != OWN else kind


def fingerprint(settings: Connection) -> str:
    """Differs when the settings need another session; all else a session can be told."""
    return _hash(settings.model_dump(mode="json", include={"endpoint", "security", "user"}))


def _fingerprint_1(settings: Connection) -> str:
    """As version 1 wrote it, over the settings that it knew and could not change in a session."""
    known = {"endpoint", "security", "user", "publishing_interval", "sampling_interval", "queue_size", "keep_alive"}
    dumped = settings.model_dump(mode="json", include=known)
    dumped["security"] = {key: dumped["security"][key] for key in ("policy", "mode", "trust")}
    if dumped["user"] is not None:
        dumped["user"] = {key: dumped["user"][key] for key in ("name", "password", "allow_unencrypted")}
    return _hash(dumped)


def _hash(dumped: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(dumped, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Kept:
    """A session and its subscriptions, as they may still be on the server."""

    settings: str  # fingerprint of those that it was made with
    server: str  # application URI
    started: str  # when that server started
    ticket: Ticket
    subscriptions: Mapping[str, Subscribed]  # by group

    def dump(self) -> bytes:
        """As a position."""
        return orjson.dumps({"v": _SESSION_VERSION, **asdict(self)})


def load_session(data: bytes | None, settings: Connection) -> Kept | None:
    """The session of an earlier run; `settings`: the present ones, to tell those of version 1 by."""
    try:
        content = _content(data, _VERSION, _SESSION_VERSION)
        made_with = content["settings"]
        if "subscriptions" not in content:  # version 1
            subscriptions = {OWN: content["subscription"]}
            made_with = fingerprint(settings) if made_with == _fingerprint_1(settings) else made_with
        else:
            subscriptions = content["subscriptions"]
        return Kept(
            made_with,
            content["server"],
            content["started"],
            Ticket(**content["ticket"]),
            {str(group): _subscribed(**one) for group, one in subscriptions.items()},
        )
    except _DAMAGE:
        return None


def _subscribed(asked: Mapping[str, Any] | None = None, **of: Any) -> Subscribed:
    return Subscribed(**of, asked=None if asked is None else Asked(**asked))


@dataclass(frozen=True, slots=True)
class Reached:
    """The last message of a subscription that is in the outbox."""

    subscription: int
    number: int

    def dump(self) -> bytes:
        """As a position."""
        return b"%d %d" % (self.subscription, self.number)


def load_sequence(data: bytes | None) -> Reached | None:
    """How far an earlier run had come."""
    try:
        subscription, number = map(int, (data or b"").split())
    except ValueError:
        return None
    return Reached(subscription, number)


@dataclass(slots=True)  # not frozen: a hundred thousand are made at once, and that takes three times as long
class KeptItem:
    """A tag's monitored item."""

    tag: str
    address: tuple[str, ...]  # where its values come from, as configured: `address_of`
    handle: int
    monitored: int  # monitored item id
    queue: int  # revised
    rule: Any  # `typed.Typing.dump`
    unit: str  # from the server
    node: bytes  # as `stack.node_bytes` writes it
    sampling: float | None = None  # as configured for the tag itself
    asked: Sequence[Any] | None = None  # how the server was asked to watch it: `wire.Asking`; None: it is not known
    revised: float = 0.0  # sampling interval in seconds, as the server has it
    width: float | None = None  # of the deadband that is kept here
    refused: int = 0  # what of its filter the server does not know

    def dump(self) -> bytes:
        """As a row of `Items`."""
        row = (self.tag, self.address, self.handle, self.monitored, self.queue, self.rule, self.unit,
               self.node.hex(), self.sampling, self.asked, self.revised, self.width, self.refused)  # fmt: skip
        return bytes(memoryview(orjson.dumps(row)))  # a copy: the original keeps the room that it was written in


@dataclass(frozen=True, slots=True)
class Items:
    """The monitored items of a subscription.

    The server says nothing but the client handle of a value's item, so no handle may ever stand for another tag, at
    whatever moment we are killed. Therefore handles are *reserved* in a position before items are created with them,
    and an item leaves the position before it is deleted. A handle that is reserved and has no item is never used
    again: what the server sends for it, from an item that we did not live to note, is left out.
    """

    subscription: int
    reserved: int  # handles below this may be in use on the server
    items: Sequence[KeptItem]

    def dump(self) -> bytes:
        """As a position."""
        return dump_items(self.subscription, self.reserved, [item.dump() for item in self.items])


def dump_items(subscription: int, reserved: int, rows: Sequence[bytes]) -> bytes:
    """As `Items.dump`, of rows that are there already: a hundred thousand would keep the others waiting."""
    head = b'{"v":%d,"subscription":%d,"reserved":%d,"items":[' % (_VERSION, subscription, reserved)
    return head + b",".join(rows) + b"]}"


@garbage.paused()
def load_items(data: bytes | None) -> Items | None:
    """The monitored items of an earlier run."""
    try:
        content = _content(data)
        typings: dict[Any, Any] = {}  # nearly all are a number, and few different ones
        items = [
            KeptItem(
                tag,
                tuple(address),
                handle,
                monitored,
                queue,
                _checked(rule, typings),
                unit,
                bytes.fromhex(node),
                *further,
            )
            for tag, address, handle, monitored, queue, rule, unit, node, *further in content["items"]
        ]
        return Items(content["subscription"], content["reserved"], items)
    except _DAMAGE:
        return None


def _checked(rule: Any, known: dict[Any, Any]) -> Any:
    """A typing that can be read. Raises what `Typing.load` does."""
    if not isinstance(rule, int):
        return Typing.load(rule).dump()
    if rule not in known:
        known[rule] = Typing.load(rule).dump()
    return known[rule]


def _content(data: bytes | None, *versions: int) -> Mapping[str, Any]:
    content = orjson.loads(data or b"")
    if not isinstance(content, dict) or content.pop("v", None) not in (versions or (_VERSION,)):
        raise ValueError("another version")
    return content


def address_of(tag: Tag) -> tuple[str, ...]:
    """What decides where a tag's values come from, and of what type they are: node or path, which, type, and further
    what part of the value, if not all of it."""
    whole = ("node", tag.node, tag.type) if tag.node is not None else ("path", tag.path or "", tag.type)
    return (*whole, tag.index_range or "", tag.field) if tag.index_range or tag.field else whole
