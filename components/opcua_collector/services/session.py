"""A session with one server: the services that it is asked for, but those that have a module of their own.

A session outlives its channel, and our process: with its `Ticket` it is activated again in a new channel (Part 4, 6.7).
`connecting` makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Final

from opcua_collector.load import Pace
from opcua_collector.security.certificates import Certificates
from opcua_collector.services import browse
from opcua_collector.stack import (
    Buffer,
    StackSession,
    ua,
)
from opcua_collector.values.encoding import read_attributes
from sluice.tasks import within

CANARY: Final = 2**32 - 2
"""Client handle of the server's clock in each subscription: what flows there proves that values flow at all. One below
the highest, which node-opcua takes for none: it then says 0, which is a tag's."""
_CLOSING: Final = 1.5  # seconds that saying goodbye may take
_STATES: Final = (
    "Running",
    "Failed",
    "NoConfiguration",
    "Suspended",
    "Shutdown",
    "Test",
    "CommunicationFault",
    "Unknown",
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What it takes to activate a session again, in another channel or by another process."""

    token: str  # authentication token, as `write_node` writes it
    nonce: str  # the server's last one, hexadecimal: what the next activation signs
    certificate: str  # the server's, hexadecimal: another one is another server
    policy_id: str | None  # of the user token, as the server names it
    policy_uri: str | None
    policy: str = ""  # of the channel, and its mode, as `Session.policy`; empty: it is from before there was a choice
    own: str = ""  # thumbprint of our certificate, with which the session was made; empty: the only one there was


@dataclass(frozen=True, slots=True)
class Asked:
    """What the server was asked for: interval in seconds, and publishing intervals."""

    interval: float
    keep_alive_count: int
    lifetime_count: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription as the server made it."""

    id: int
    interval: float  # seconds
    keep_alive_count: int
    lifetime_count: int
    asked: Asked | None = None  # None: it is not known any more
    canary: float = 0.0  # seconds between looks at the server's clock that it sends with the rest; 0: it sends none


@dataclass(frozen=True, slots=True)
class Look:
    """What the server says of itself."""

    state: str  # Running, Shutdown …; empty where it says none
    clock: int  # ns since 1970 UTC; 0 where it has none
    returns: str  # when it is back, if it is shutting down and says so
    seconds: float = 0.0  # that the answer took


@dataclass(slots=True)
class Session:
    """An activated session. Made by `connect`; ended by `close`."""

    stack: StackSession
    policy: str
    resumed: bool  # it is the session that the ticket was for
    server: str  # application URI; empty where it was not said
    ticket: Ticket
    channel_seconds: float  # what connecting took,
    session_seconds: float  # and what the session took
    _client: Any
    _renewal: asyncio.Task[None] | None = field(default=None)
    _certificates: Certificates | None = field(default=None)
    pace: Pace | None = field(default=None)
    """Holds what is asked of the server to the connection's `load`."""

    def certificates(self) -> dict[str, Any]:
        """Days that our certificate and the server's have left, and what is to be told about them, for the status."""
        return self._certificates.status(datetime.now(timezone.utc)) if self._certificates is not None else {}

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        """One PublishRequest that acknowledges (subscription, number) pairs: (response, its start). Waits for ever."""
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(SubscriptionId=subscription, SequenceNumber=number)
            for subscription, number in acknowledge
        ]
        buffer: Buffer = await self.stack._send_request(request, timeout=0)
        return buffer._data, buffer.cur_pos

    async def republish(self, subscription: int, number: int) -> tuple[bytes, int]:
        """One kept message once more: (response, its start)."""
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = subscription
        request.Parameters.RetransmitSequenceNumber = number
        buffer: Buffer = await self.stack._send_request(request)
        return buffer._data, buffer.cur_pos

    async def transfer(self, subscription: int) -> tuple[int, tuple[int, ...]]:
        """TransferSubscriptions into this session: (status, numbers of the messages that the server has kept)."""
        parameters = ua.TransferSubscriptionsParameters()
        parameters.SubscriptionIds = [subscription]
        parameters.SendInitialValues = False
        results = await self.stack.transfer_subscriptions(parameters)
        if len(results) != 1:
            return int(ua.StatusCodes.BadUnexpectedError), ()
        (result,) = results
        return int(result.StatusCode.value), tuple(map(int, result.AvailableSequenceNumbers or ()))

    async def unsubscribe(self, subscription: int) -> None:
        """DeleteSubscriptions. One that is gone already is no error."""
        await self.stack.delete_subscriptions([subscription])

    async def times(self) -> tuple[str, int]:
        """When the server started, and what its clock shows, in ns since 1970 UTC. Empty and ours where it is silent.

        Ids of a server that has started since they were given out stand for something else.
        """
        ids = ua.ObjectIds
        nodes = [(ua.NodeId(ids.Server_ServerStatus_StartTime), ua.AttributeIds.Value)]
        nodes.append((ua.NodeId(ids.Server_ServerStatus_CurrentTime), ua.AttributeIds.Value))
        started, now = [answer.value for answer in await browse.read(self.stack, nodes, 2)]
        return str(started or ""), _nanoseconds(now) or time.time_ns()

    async def look(self) -> Look:
        """The server's state and clock, in one small Read. Raises when there is no answer, or none to such a question.

        Once and not in batches: how long the answer takes is measured, and that there is one is a sign of life.
        """
        ids = ua.ObjectIds
        asked = (ids.Server_ServerStatus_State, ids.Server_ServerStatus_CurrentTime, ids.Server_EstimatedReturnTime)
        request = ua.ReadRequest()
        request.Parameters.NodesToRead = [
            ua.ReadValueId(NodeId=ua.NodeId(number), AttributeId=ua.AttributeIds.Value) for number in asked
        ]
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        answer, seconds = await self._timed(request)
        found = read_attributes(bytes(answer), 0)
        state, clock, returns = [answer.value for answer in found] if len(found) == len(asked) else (None, None, None)
        name = _STATES[state] if isinstance(state, int) and 0 <= state < len(_STATES) else ""
        return Look(name, _nanoseconds(clock), str(returns or "")[:40] if name == "Shutdown" else "", seconds)

    async def _timed(self, request: Any) -> tuple[Buffer, float]:
        """The answer, and the seconds that it took once the request was sent: it may be held before (`load`)."""
        clock = asyncio.get_running_loop().time

        async def exchange() -> tuple[Buffer, float]:
            began = clock()
            return await send(request), clock() - began

        send = self.stack._send_request
        if self.pace is None or self.pace.bare is None:
            return await exchange()
        send = self.pace.bare
        return await self.pace.hold(exchange)

    async def subscribe(self, interval: float, keep_alive_count: int, lifetime_count: int, most: int) -> Subscribed:
        """CreateSubscription; all counts are said, because the defaults of asyncua suit nobody."""
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = interval * 1000
        parameters.RequestedMaxKeepAliveCount = keep_alive_count
        parameters.RequestedLifetimeCount = lifetime_count
        parameters.MaxNotificationsPerPublish = most
        parameters.PublishingEnabled = True
        result = await self.stack.create_subscription(parameters, lambda _: None)
        asked = Asked(interval, keep_alive_count, lifetime_count)
        return _revised(int(result.SubscriptionId), result, asked)

    async def modify(
        self, subscribed: Subscribed, interval: float, keep_alive_count: int, lifetime_count: int, most: int
    ) -> Subscribed:
        """ModifySubscription: its items and its messages stay as they are."""
        parameters = ua.ModifySubscriptionParameters()
        parameters.SubscriptionId = subscribed.id
        parameters.RequestedPublishingInterval = interval * 1000
        parameters.RequestedMaxKeepAliveCount = keep_alive_count
        parameters.RequestedLifetimeCount = lifetime_count
        parameters.MaxNotificationsPerPublish = most
        result = await self.stack.modify_subscription(parameters)
        asked = Asked(interval, keep_alive_count, lifetime_count)
        return replace(_revised(subscribed.id, result, asked), canary=subscribed.canary)

    async def canary(self, subscription: int, interval: float) -> tuple[int, float]:
        """Have the subscription send the server's clock as well: (status, seconds between its values)."""
        item = ua.MonitoredItemCreateRequest()
        item.ItemToMonitor = ua.ReadValueId(
            NodeId=ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime), AttributeId=ua.AttributeIds.Value
        )
        item.MonitoringMode = ua.MonitoringMode.Reporting
        item.RequestedParameters.ClientHandle = CANARY
        item.RequestedParameters.SamplingInterval = interval * 1000
        item.RequestedParameters.QueueSize = 1
        item.RequestedParameters.DiscardOldest = True
        parameters = ua.CreateMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
        parameters.ItemsToCreate = [item]
        results = await self.stack.create_monitored_items(parameters)
        if len(results) != 1:
            return int(ua.StatusCodes.BadUnexpectedError), 0.0
        (result,) = results
        return int(result.StatusCode.value), float(result.RevisedSamplingInterval) / 1000

    async def close(self, *, politely: bool, subscriptions: bool = True) -> None:
        """End the session; politely: tell the server, so that session and subscriptions end now. Never raises."""
        if self._renewal is not None:
            self._renewal.cancel()
        if politely:
            with contextlib.suppress(Exception):
                await within(_CLOSING, self.stack.close_session(subscriptions))
            with contextlib.suppress(Exception):
                await within(_CLOSING, self._client.uaclient.close_secure_channel())
        with contextlib.suppress(Exception):
            self._client.uaclient.disconnect_socket()


def _revised(number: int, result: Any, asked: Asked) -> Subscribed:
    return Subscribed(
        number,
        float(result.RevisedPublishingInterval) / 1000 or asked.interval,
        int(result.RevisedMaxKeepAliveCount) or asked.keep_alive_count,
        int(result.RevisedLifetimeCount) or asked.lifetime_count,
        asked,
    )


def _nanoseconds(iso: Any) -> int:
    """Of a time as our readers write it, 2026-03-01T10:00:00.1234567Z; 0 for what is none."""
    try:
        moment = datetime.fromisoformat(f"{iso[:19]}+00:00")
        return int(moment.timestamp()) * 10**9 + int(iso[20:27]) * 100
    except (TypeError, ValueError):
        return 0
