"""Monitored items: the services that create, change and end them, in batches that the server takes (Part 4, 5.13).

One answer per item, whatever becomes of the requests: what fails for one item is that item's status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from opcua_collector.services import wire
from opcua_collector.services.browse import in_batches
from opcua_collector.services.wire import Asking, Monitored
from opcua_collector.stack import StackSession, UaStatusCodeError, prepared, ua

FILTER_REFUSED: Final = frozenset(
    {
        ua.StatusCodes.BadFilterNotAllowed,
        ua.StatusCodes.BadDeadbandFilterInvalid,
        ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ua.StatusCodes.BadMonitoredItemFilterInvalid,
        ua.StatusCodes.BadFilterElementInvalid,
    }
)
"""Answers that say: the item as such is fine, its filter is not."""
UNKNOWN_SERVICE: Final = frozenset({ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadNotImplemented})


@dataclass(frozen=True, slots=True)
class Wish:
    """A monitored item to create."""

    node: bytes  # as `stack.node_bytes` writes it
    handle: int
    asking: Asking


async def monitor(stack: StackSession, subscription: int, wishes: Sequence[Wish], batch: int) -> list[Monitored]:
    """CreateMonitoredItems for the values of nodes, `batch` at a time; one answer per wish."""

    async def ask(some: Sequence[Wish]) -> Sequence[Monitored]:
        body = wire.create_body(subscription, ((wish.node, wish.handle, wish.asking) for wish in some))
        answer = await stack._send_request(prepared("CreateMonitoredItems", body))
        return wire.read_created(bytes(answer), 0)

    return await in_batches(wishes, batch, ask, failed=Monitored)


async def modify(
    stack: StackSession, subscription: int, items: Sequence[int], wishes: Sequence[Wish], batch: int
) -> list[Monitored]:
    """ModifyMonitoredItems: each item as the wish has it; one answer per item.

    Few servers do not know the service: it is then their answer for each item.
    """

    async def ask(some: Sequence[tuple[int, Wish]]) -> Sequence[Monitored]:
        body = wire.modify_body(subscription, ((item, wish.handle, wish.asking) for item, wish in some))
        try:
            answer = await stack._send_request(prepared("ModifyMonitoredItems", body))
        except UaStatusCodeError as error:
            if error.code not in UNKNOWN_SERVICE:
                raise
            return [Monitored(error.code, item) for item, _ in some]
        return wire.read_modified(bytes(answer), 0, [item for item, _ in some])

    return await in_batches(list(zip(items, wishes, strict=True)), batch, ask, failed=Monitored)


async def unmonitor(stack: StackSession, subscription: int, items: Sequence[int], batch: int) -> None:
    """DeleteMonitoredItems. Items that are gone already are no error."""

    async def ask(some: Sequence[int]) -> Sequence[int]:
        answer = await stack._send_request(prepared("DeleteMonitoredItems", wire.delete_body(subscription, some)))
        return wire.read_deleted(bytes(answer), 0)

    await in_batches(items, batch, ask, failed=int)
