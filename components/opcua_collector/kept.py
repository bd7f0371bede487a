"""What a connection keeps in the outbox beside its samples, so that its next run goes on where this one ended. Pure.

| position | content                                          | written                                                |
|----------|--------------------------------------------------|--------------------------------------------------------|
| session  | ticket, server, subscription: `Kept`             | when a session or a subscription has become ours       |
| items    | which client handle stands for which tag: `Items`| around each change of monitored items, see `Items`     |
| sequence | the last message that was handed on: `Reached`   | in the transaction of that message's samples           |

What cannot be read (damage, another version) is as good as not there: the connection begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from opcua_collector.config import Connection, Tag
from opcua_collector.session import Subscribed, Ticket
from opcua_collector.stack import NodeId, read_node, write_node

SESSION: Final = "session"
ITEMS: Final = "items"
SEQUENCE: Final = "sequence"
_VERSION: Final = 1
_DAMAGE: Final = (ValueError, TypeError, KeyError, IndexError)


def fingerprint(settings: Connection) -> str:
    """Differs when the settings need another session or another subscription."""
    dumped = settings.model_dump(mode="json", exclude={"tags", "tags_file", "tags_package", "asset", "request_timeout"})
    return hashlib.sha256(orjson.dumps(dumped, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Kept:
    """A session and its subscription, as they may still be on the server."""

    settings: str  # fingerprint of those that they were made with
    server: str  # application URI
    started: str  # when that server started
    ticket: Ticket
    subscription: Subscribed

    def dump(self) -> bytes:
        """As a position."""
        return orjson.dumps({"v": _VERSION, **asdict(self)})


def load_session(data: bytes | None) -> Kept | None:
    """The session of an earlier run."""
    try:
        content = _content(data)
        return Kept(
            content["settings"],
            content["server"],
            content["started"],
            Ticket(**content["ticket"]),
            Subscribed(**content["subscription"]),
        )
    except _DAMAGE:
        return None


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


@dataclass(frozen=True, slots=True)
class KeptItem:
    """A tag's monitored item."""

    tag: str
    address: tuple[str, str, str]  # where its values come from, as configured: node or path, which, type
    handle: int
    monitored: int  # monitored item id
    queue: int  # revised
    rule: int
    unit: str  # from the server
    node: NodeId
    sampling: float | None = None  # as configured for the tag itself


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
        rows = [
            (i.tag, i.address, i.handle, i.monitored, i.queue, i.rule, i.unit, write_node(i.node), i.sampling)
            for i in self.items
        ]
        return orjson.dumps(
            {"v": _VERSION, "subscription": self.subscription, "reserved": self.reserved, "items": rows}
        )


def load_items(data: bytes | None) -> Items | None:
    """The monitored items of an earlier run."""
    try:
        content = _content(data)
        items = [
            KeptItem(tag, tuple(address), handle, monitored, queue, rule, unit, read_node(node), *sampling)
            for tag, address, handle, monitored, queue, rule, unit, node, *sampling in content["items"]
        ]
        return Items(content["subscription"], content["reserved"], items)
    except _DAMAGE:
        return None


def _content(data: bytes | None) -> Mapping[str, Any]:
    content = orjson.loads(data or b"")
    if not isinstance(content, dict) or content.pop("v", None) != _VERSION:
        raise ValueError("another version")
    return content


def address_of(tag: Tag) -> tuple[str, str, str]:
    """What decides where a tag's values come from, and of what type they are."""
    return ("node", tag.node, tag.type) if tag.node is not None else ("path", tag.path or "", tag.type)
