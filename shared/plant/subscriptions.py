"""Sessions and subscriptions of the plant's server, where asyncua's own do not do what OPC UA says.

| OPC UA Part 4                                                     | asyncua 2.1.0                                    |
|-------------------------------------------------------------------|--------------------------------------------------|
| 5.13.1.5: when a queue is full the oldest value is dropped, and   | drops it without a trace                         |
| the next one says so (InfoBits Overflow)                          |                                                  |
| 5.14.6: Republish answers BadMessageNotAvailable for a message    | answers an empty message, and forgets every      |
| that is not kept; a kept one stays until it is acknowledged       | message that it republished                      |
| 5.14.7: after TransferSubscriptions the new session's publish     | waits for ever for requests of the old session   |
| requests are answered                                             |                                                  |
| 5.14.7: a subscription is not transferred to the session that has | does it again, and says that all is well         |
| it already (BadNothingToDo)                                       |                                                  |
| 5.14.3: ModifySubscription changes a subscription's intervals     | says so and changes nothing                      |
| 5.7.2: an authentication token cannot be guessed                  | counts from 1000 on, the same after each start   |

The rest is asyncua's. What was dropped is counted, so that a loss can be told from one that happened later.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import asyncua.ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.user_managers import UserManager

ua: Any = asyncua.ua

OVERFLOW = 0x480
"""InfoType DataValue and the Overflow bit (Part 4, 7.39.1)."""


class MendedServer(InternalServer):
    """asyncua's internal server with the subscriptions of this module."""

    def __init__(self, user_manager: UserManager) -> None:
        super().__init__(user_manager)
        self.mended_subscriptions = Subscriptions(self.aspace, iserver=self)
        self.subscription_service = self.mended_subscriptions
        self.isession.subscription_service = self.mended_subscriptions
        self._ours: dict[Any, InternalSession] = {}

    def register_external_session(self, session: InternalSession) -> None:
        """Know the session by a token that nobody can guess, and that no other start of the server gives out."""
        session.auth_token = ua.NodeId(secrets.token_bytes(32), 0, ua.NodeIdType.ByteString)
        self._ours[session.auth_token] = session
        super().register_external_session(session)

    def unregister_external_session(self, session: InternalSession) -> None:
        """The session has ended."""
        self._ours.pop(session.auth_token, None)
        super().unregister_external_session(session)

    @property
    def external_sessions(self) -> int:
        """Number of sessions of clients."""
        return len(self._ours)

    def forget_sessions(self) -> None:
        """Know no session of a client any more; their subscriptions live on for their lifetime."""
        for session in list(self._ours.values()):
            self.unregister_external_session(session)


class Subscriptions(SubscriptionService):
    """All subscriptions of a server. `dropped` counts the values that left a full queue unread."""

    dropped = 0

    async def create_subscription(self, *arguments: Any, **named: Any) -> Any:
        """As asyncua does, with a subscription of this module."""
        result = await super().create_subscription(*arguments, **named)
        # asyncua names the class that it makes; all that the mended one has of its own are methods.
        subscription: Any = self.subscriptions[result.SubscriptionId]
        subscription.__class__ = _Subscription
        subscription.count_dropped = self._count_dropped
        return result

    def modify_subscription(self, params: Any) -> Any:
        """Other intervals from the next cycle on; items and messages stay."""
        if params.SubscriptionId not in self.subscriptions:
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        subscription: Any = self.subscriptions[params.SubscriptionId]
        subscription.modify(params)
        result = ua.ModifySubscriptionResult()
        result.RevisedPublishingInterval = subscription.data.RevisedPublishingInterval
        result.RevisedLifetimeCount = subscription.data.RevisedLifetimeCount
        result.RevisedMaxKeepAliveCount = subscription.data.RevisedMaxKeepAliveCount
        return result

    def republish(self, params: Any) -> Any:
        """The kept message, or a fault that says what is missing."""
        if params.SubscriptionId not in self.subscriptions:
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        return self.subscriptions[params.SubscriptionId].republish(params.RetransmitSequenceNumber)

    async def transfer_subscriptions(self, params: Any, session_id: Any, callback: Callable[..., Any]) -> list[Any]:
        """Hand subscriptions to the session whose connection `callback` answers."""
        theirs = [number for number in params.SubscriptionIds if self._is_of(number, session_id)]
        results = await super().transfer_subscriptions(params, session_id, callback)
        connection: Any = getattr(callback, "__self__", None)
        for number, result in zip(params.SubscriptionIds, results, strict=True):
            if number in theirs:
                result.StatusCode = ua.StatusCode(ua.StatusCodes.BadNothingToDo)
            elif result.StatusCode.is_good():
                self.subscriptions[number].pub_request_callback = connection.get_publish_request
        return results

    def _is_of(self, number: int, session_id: Any) -> bool:
        subscription = self.subscriptions.get(number)
        return subscription is not None and subscription.session_id == session_id

    def _count_dropped(self) -> None:
        self.dropped += 1


class _Subscription(InternalSubscription):
    count_dropped: Callable[[], None]

    def modify(self, params: Any) -> None:
        self.data.RevisedPublishingInterval = params.RequestedPublishingInterval
        self.data.RevisedLifetimeCount = params.RequestedLifetimeCount
        self.data.RevisedMaxKeepAliveCount = params.RequestedMaxKeepAliveCount
        if self._task is not None:
            self._task = asyncio.create_task(self._go_over(self._task))

    async def _go_over(self, before: asyncio.Task[None]) -> None:
        """Let the present cycle end, for a message that is being sent must not be lost, and go on with another."""
        self._closing = True
        await before
        self._closing = False
        await self._subscription_loop()

    def republish(self, nb: int) -> Any:
        kept = self._not_acknowledged_results.get(nb)
        if kept is None:
            raise ServiceError(ua.StatusCodes.BadMessageNotAvailable)
        return kept.NotificationMessage

    async def _enqueue_event(self, mid: int, eventdata: Any, size: int, queue: dict[int, list[Any]]) -> None:
        kept = queue.get(mid, [])
        full = 0 < size <= len(kept)
        await super()._enqueue_event(mid, eventdata, size, queue)
        if full:
            self.count_dropped()
            oldest = queue[mid][0]
            if size > 1 and isinstance(oldest, ua.MonitoredItemNotification):
                queue[mid][0] = dataclasses.replace(oldest, Value=_overflowed(oldest.Value))


def _overflowed(value: Any) -> Any:
    return dataclasses.replace(value, StatusCode=ua.StatusCode(value.StatusCode.value | OVERFLOW))
