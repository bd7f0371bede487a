"""Where the plant's server does what OPC UA says and asyncua's own does not; an asyncua client is the witness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncua.ua
import pytest
from asyncua.client.client import Client
from pytest_asyncio import fixture

from plant.opcua_server import PlantServer
from plant.tags import UNIT_WIDTH
from plant.unit import Reading

ua: Any = asyncua.ua

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROW = UNIT_WIDTH - 3
T0 = 1_795_313_720_078_276_000


@fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    plant = PlantServer(1, work=tmp_path_factory.mktemp("plant"), policies=["None"])
    await plant.start()
    yield plant
    await plant.stop()


_rows = iter(range(1, 1_000_000))


async def show(server: PlantServer, count: int) -> list[int]:
    """Show rows in which only the row number is new; return those numbers."""
    shown = [next(_rows) for _ in range(count)]
    for row in shown:
        values: list[Any] = [None] * UNIT_WIDTH
        values[ROW] = row
        await server.show(T0 + row * 1000, [Reading(tuple(values), (0,) * UNIT_WIDTH, (ROW,))])
    return shown


class Watcher:
    """A client that watches the row number and fetches messages only when it is told to."""

    def __init__(self, server: PlantServer) -> None:
        self.client = Client(server.endpoint)

    async def __aenter__(self) -> Watcher:
        await self.client.connect()
        session: Any = self.client.uaclient.session
        self.session = session
        self.session.ensure_publish_loop = lambda: None  # it fetches nothing by itself
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=20, RequestedLifetimeCount=3000, RequestedMaxKeepAliveCount=1000
        )
        parameters.PublishingEnabled = True
        self.subscription = (await self.session.create_subscription(parameters, lambda _: None)).SubscriptionId
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()

    async def watch(self, queue: int) -> None:
        item = ua.MonitoredItemCreateRequest()
        item.ItemToMonitor = ua.ReadValueId(NodeId=ua.NodeId("Unit1/Row", 2), AttributeId=ua.AttributeIds.Value)
        item.MonitoringMode = ua.MonitoringMode.Reporting
        item.RequestedParameters = ua.MonitoringParameters(ClientHandle=1, QueueSize=queue)
        parameters = ua.CreateMonitoredItemsParameters(SubscriptionId=self.subscription, ItemsToCreate=[item])
        (result,) = await self.session.create_monitored_items(parameters)
        result.StatusCode.check()

    async def publish(self) -> tuple[int, list[tuple[Any, int]]]:
        """Fetch the next message with data: its number, and the values with their status codes."""
        while True:
            result = await asyncio.wait_for(self.session.publish([]), 30)
            message = result.Parameters.NotificationMessage
            if message.NotificationData:
                return message.SequenceNumber, values_of(message)

    async def republish(self, number: int) -> Any:
        return await self.session.republish(self.subscription, number)


def values_of(message: Any) -> list[tuple[Any, int]]:
    return [
        (item.Value.Value.Value, item.Value.StatusCode.value)
        for notification in message.NotificationData
        for item in notification.MonitoredItems
    ]


async def test_a_full_queue_drops_its_oldest_value_says_so_in_the_next_and_counts_it(server: PlantServer) -> None:
    async with Watcher(server) as watcher:
        await watcher.watch(queue=3)
        before = server.dropped
        shown = await show(server, 5)
        _, values = await watcher.publish()
        assert values == [(shown[2], 0x480), (shown[3], 0), (shown[4], 0)]
        assert server.dropped - before == 3  # two rows and the value that was there when it began to watch
        shown = await show(server, 3)
        assert (await watcher.publish())[1] == [(row, 0) for row in shown]
        assert server.dropped - before == 3


async def test_a_message_can_be_fetched_again_until_it_is_acknowledged_and_an_unknown_one_cannot(
    server: PlantServer,
) -> None:
    async with Watcher(server) as watcher:
        await watcher.watch(queue=10)
        await show(server, 2)
        number, values = await watcher.publish()
        for _ in range(2):
            assert values_of(await watcher.republish(number)) == values
        with pytest.raises(ua.uaerrors.BadMessageNotAvailable):
            await watcher.republish(number + 1)
        await show(server, 1)
        acknowledgement = ua.SubscriptionAcknowledgement(watcher.subscription, number)
        await asyncio.wait_for(watcher.session.publish([acknowledgement]), 30)
        with pytest.raises(ua.uaerrors.BadMessageNotAvailable):
            await watcher.republish(number)


async def test_a_subscription_can_be_handed_to_another_session_and_goes_on_there(server: PlantServer) -> None:
    async with Watcher(server) as old, Watcher(server) as new:
        await old.watch(queue=100)
        await show(server, 1)
        await old.publish()
        transfer = ua.TransferSubscriptionsParameters(SubscriptionIds=[old.subscription], SendInitialValues=False)
        (result,) = await new.session.transfer_subscriptions(transfer)
        result.StatusCode.check()
        shown = await show(server, 3)
        assert (await new.publish())[1] == [(row, 0) for row in shown]


async def test_a_subscription_is_not_handed_to_the_session_that_has_it(server: PlantServer) -> None:
    async with Watcher(server) as watcher:
        await watcher.watch(queue=10)
        transfer = ua.TransferSubscriptionsParameters(SubscriptionIds=[watcher.subscription], SendInitialValues=False)
        (result,) = await watcher.session.transfer_subscriptions(transfer)
        assert result.StatusCode.value == ua.StatusCodes.BadNothingToDo
        shown = await show(server, 1)
        assert (await watcher.publish())[1][-1] == (shown[0], 0)


async def test_tokens_cannot_be_guessed_and_a_forgotten_session_is_not_activated_again(server: PlantServer) -> None:
    async with Watcher(server) as one, Watcher(server) as other:
        tokens = {watcher.session.authentication_token for watcher in (one, other)}
        assert len(tokens) == 2
        assert all(len(token.Identifier) == 32 for token in tokens)
        await server.forget(subscriptions=False)
        again = Client(server.endpoint)
        await again.connect_sessionless()
        session: Any = again.uaclient.session
        session.restore_authentication_token(one.session.authentication_token)
        with pytest.raises(ua.uaerrors.BadSessionIdInvalid):
            await again.activate_session()
        await again.disconnect_sessionless()
        assert server.subscriptions == 2


async def test_no_certificate_is_made_when_no_policy_needs_one(server: PlantServer) -> None:
    assert server.certificate is None
