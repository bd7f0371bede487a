"""Monitored items: the services that create, change and end them, in batches that the server takes (Part 4, 5.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opcua_collector.browse import in_batches
from opcua_collector.stack import NodeId, StackSession, UaStatusCodeError, ua


@dataclass(frozen=True, slots=True)
class Wish:
    """A monitored item to create."""

    node: NodeId
    handle: int
    sampling: float  # seconds
    queue: int


@dataclass(frozen=True, slots=True)
class Monitored:
    """What the server made of a wish."""

    status: int
    id: int = 0
    sampling: float = 0.0
    queue: int = 0


async def monitor(stack: StackSession, subscription: int, wishes: Sequence[Wish], batch: int) -> list[Monitored]:
    """CreateMonitoredItems for the values of nodes, `batch` at a time; one answer per wish."""

    async def ask(some: Sequence[Wish]) -> Sequence[Monitored]:
        parameters = ua.CreateMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.ItemsToCreate = [_item(wish) for wish in some]
        return [
            Monitored(
                int(result.StatusCode.value),
                int(result.MonitoredItemId),
                float(result.RevisedSamplingInterval) / 1000,
                int(result.RevisedQueueSize),
            )
            for result in await stack.create_monitored_items(parameters)
        ]

    return await in_batches(wishes, batch, ask)


async def modify(
    stack: StackSession, subscription: int, items: Sequence[int], wishes: Sequence[Wish], batch: int
) -> list[Monitored]:
    """ModifyMonitoredItems: each item's sampling interval and queue as the wish has them; one answer per item.

    Few servers do not know the service: it is then their answer for each item.
    """

    async def ask(some: Sequence[tuple[int, Wish]]) -> Sequence[Monitored]:
        parameters = ua.ModifyMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.ItemsToModify = [
            ua.MonitoredItemModifyRequest(MonitoredItemId=item, RequestedParameters=_monitoring(wish))
            for item, wish in some
        ]
        try:
            results = await stack.modify_monitored_items(parameters)
        except UaStatusCodeError as error:
            if error.code not in (ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadNotImplemented):
                raise
            return [Monitored(error.code, item) for item, _ in some]
        return [
            Monitored(
                int(result.StatusCode.value),
                item,
                float(result.RevisedSamplingInterval) / 1000,
                int(result.RevisedQueueSize),
            )
            for (item, _), result in zip(some, results, strict=True)
        ]

    return await in_batches(list(zip(items, wishes, strict=True)), batch, ask)


async def unmonitor(stack: StackSession, subscription: int, items: Sequence[int], batch: int) -> None:
    """DeleteMonitoredItems. Items that are gone already are no error."""

    async def ask(some: Sequence[int]) -> Sequence[Any]:
        parameters = ua.DeleteMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.MonitoredItemIds = list(some)
        return list(await stack.delete_monitored_items(parameters))

    await in_batches(items, batch, ask)


def _monitoring(wish: Wish) -> Any:
    parameters = ua.MonitoringParameters()
    parameters.ClientHandle = wish.handle
    parameters.SamplingInterval = wish.sampling * 1000
    parameters.QueueSize = wish.queue
    parameters.DiscardOldest = True
    return parameters


def _item(wish: Wish) -> Any:
    request = ua.MonitoredItemCreateRequest()
    request.ItemToMonitor = ua.ReadValueId(NodeId=wish.node, AttributeId=ua.AttributeIds.Value)
    request.MonitoringMode = ua.MonitoringMode.Reporting
    request.RequestedParameters = _monitoring(wish)
    return request
