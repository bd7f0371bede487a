"""A scripted OPC UA server: a whole one on a real socket, of which a test replaces any answer by another server's.

    async with FakeServer() as server:
        server.answers["TransferSubscriptions"] = refusal("BadNothingToDo")
        ... connect to server.endpoint ...
        server.change("T0", 1.5)
        assert server.asked["TransferSubscriptions"] == 0

Theory. A line (one TCP connection) reads chunks, puts them together and hands each request to its service, by name:
first to what the test put into `answers`, else to the usual one. An answer is a response, bytes as they are to be
sent, or None for silence. An override may ask `server.usual(call)` for the usual answer and change it, or do something
to the line (`call.line.reset()`). Sessions and subscriptions outlive lines, as on real servers; `restart` ends them.

Only what a reader asks for is there: no writing, no methods, no events, policy None. asyncua writes and reads the
structures; chunks, sequence numbers and the publishing are ours, because that is where servers differ.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, Final

from .fake_line import CHANNEL, T0, Answer, Call, Line, Response, double, fault, result, ua

PLANT: Final = "urn:fake:plant"
OTHER: Final = "urn:fake:other"
"""Has the same names as PLANT, with other values: who confuses indexes shows it."""
_WITHOUT_SESSION: Final = ("OpenSecureChannel", "GetEndpoints", "CreateSession")
_LIMITS: Final = "Server_ServerCapabilities_OperationLimits_"


@dataclass(slots=True)
class Item:
    """A monitored item. `space` is empty for a node of the standard's, `name` then its number."""

    name: str
    space: str
    handle: int
    sampling: float
    queue: int
    sampled: datetime = T0


@dataclass(slots=True)
class Subscription:
    """A subscription: what it monitors, what it has to tell, and what it told and nobody acknowledged."""

    id: int
    session: Any  # authentication token of the session that has it
    interval: float  # seconds
    keep_alive_count: int
    items: dict[int, Item] = field(default_factory=dict)
    news: list[Any] = field(default_factory=list)  # MonitoredItemNotifications
    kept: dict[int, Any] = field(default_factory=dict)  # messages by number
    next: int = 1
    quiet: int = 10**9  # intervals without a message; the first ends a keep-alive period
    ticking: asyncio.Task[None] | None = None


class FakeServer:
    """See the module. `answers`: overrides by service; `asked`: how often each service was asked."""

    def __init__(self, names: Iterable[str] = ("T0",)) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.calls: deque[Call] = deque(maxlen=20_000)
        self.port = 0
        self.host = "127.0.0.1"
        """The host in the endpoint that the server says it has."""
        self.spaces = ["http://opcfoundation.org/UA/", "urn:fake:server", PLANT, OTHER]
        self.values: dict[tuple[str, str], Any] = {}
        """Data value by (namespace URI, name)."""
        for number, name in enumerate(names):
            self.values[PLANT, name] = double(number)
            self.values[OTHER, name] = double(-1000 - number)
        self.limits: dict[str, int] = {}
        """Operation limits, such as MaxNodesPerRead; what is not there has no node."""
        self.status_nodes = True
        """Whether there are ServerStatus nodes."""
        self.receives, self.sends = 65535, 65535
        """Sizes of the server's buffers: the largest chunk that it takes, and that it sends."""
        self.chunk = 65535
        """Bytes of the largest chunk that it sends, whatever its buffers hold."""
        self.dead = False
        """Nothing is sampled any more: no item has news, while the subscription goes on."""
        self.largest = 0
        """Bytes of the largest chunk received."""
        self.token_lifetime: float | None = None
        """Seconds that a security token lives at most."""
        self.tokens = 0
        """Security tokens given out."""
        self.keep_alive_data: list[Any] | None = []
        """NotificationData of keep-alives: some servers send an empty list, others null."""
        self.diagnostics: list[Any] = []
        """DiagnosticInfos of each notification."""
        self.started = T0
        self.sessions: set[Any] = set()  # authentication tokens
        self.subscriptions: dict[int, Subscription] = {}
        self.lines: set[Line] = set()
        self.mistakes: list[Exception] = []
        """What an override, or this script, raised: raised again when the server ends."""
        self._publish: dict[Any, deque[Call]] = {}
        self._ids = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeServer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.forget()
        self.cut()
        if error is None and self.mistakes:
            raise self.mistakes[0]

    @property
    def endpoint(self) -> str:
        """Where it is reached."""
        return f"opc.tcp://127.0.0.1:{self.port}/fake"

    # --- what happens in the plant, and to the server ---

    def change(self, name: str, *values: Any, space: str = PLANT) -> None:
        """Values that the variable takes one after the other: floats, or data values."""
        for value in values:
            self.values[space, name] = one = value if isinstance(value, ua.DataValue) else double(value)
            for subscription in self.subscriptions.values():
                for item in subscription.items.values():
                    if (item.space, item.name) == (space, name):
                        subscription.news.append(ua.MonitoredItemNotification(item.handle, one))

    def say(self, subscription: Subscription, body: Any) -> None:
        """One more message now, whatever the interval is: NotificationData as given (structures, or encoded)."""
        message = self.message(subscription, [body])
        call = self.request(subscription)
        assert call is not None, "no publish request waits"
        call.answer(self.publication(subscription, message))

    @property
    def only(self) -> Subscription:
        """The one subscription that there is."""
        [subscription] = self.subscriptions.values()
        return subscription

    @property
    def waiting(self) -> int:
        """Publish requests that wait for an answer."""
        return sum(map(len, self._publish.values()))

    def cut(self) -> None:
        """Reset every line; sessions and subscriptions stay."""
        for line in list(self.lines):
            line.reset()

    def forget(self) -> None:
        """Know no session and no subscription any more."""
        for subscription in list(self.subscriptions.values()):
            self._end(subscription)
        self.sessions.clear()
        self._publish.clear()

    def restart(self, spaces: list[str] | None = None) -> None:
        """As after a restart: nothing is known, ids count anew, namespaces perhaps in another order."""
        self.forget()
        self.spaces = spaces or self.spaces
        self.started += timedelta(hours=1)
        self._ids = 0
        self.cut()

    # --- answers ---

    def usual(self, call: Call) -> Response:
        """The answer that a server without quirks gives."""
        service = getattr(self, f"_{call.service}", None)
        return fault("BadServiceUnsupported") if service is None else service(call)

    def answered(self, call: Call) -> Response:
        """The answer that this server gives."""
        self.asked[call.service] += 1
        self.calls.append(call)
        known = call.request.RequestHeader.AuthenticationToken in self.sessions
        if not known and call.service not in _WITHOUT_SESSION:
            return fault("BadSessionIdInvalid")
        return self.answers.get(call.service, self.usual)(call)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def _OpenSecureChannel(self, call: Call) -> Response:  # noqa: N802 - services have their names from the standard
        self.tokens += 1
        lifetime = call.parameters.RequestedLifetime
        if self.token_lifetime is not None:
            lifetime = min(lifetime, int(self.token_lifetime * 1000))
        answer = ua.OpenSecureChannelResponse()
        answer.Parameters.SecurityToken = ua.ChannelSecurityToken(
            CHANNEL, self.tokens, datetime.now(timezone.utc), lifetime
        )
        answer.Parameters.ServerNonce = b""
        return answer

    def _GetEndpoints(self, call: Call) -> Response:  # noqa: N802
        return ua.GetEndpointsResponse(Endpoints=[self._endpoint()])

    def _endpoint(self) -> Any:
        policy = ua.UserTokenPolicy("anonymous", ua.UserTokenType.Anonymous)
        return ua.EndpointDescription(
            EndpointUrl=f"opc.tcp://{self.host}:{self.port}/fake",
            Server=ua.ApplicationDescription(ApplicationUri="urn:fake:server"),
            SecurityMode=ua.MessageSecurityMode.None_,
            SecurityPolicyUri="http://opcfoundation.org/UA/SecurityPolicy#None",
            UserIdentityTokens=[policy],
            TransportProfileUri="http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary",
        )

    def _CreateSession(self, call: Call) -> Response:  # noqa: N802
        token = ua.NodeId(self._next_id(), 1)
        self.sessions.add(token)
        answer = ua.CreateSessionResponse()
        answer.Parameters.SessionId = ua.NodeId(self._next_id(), 1)
        answer.Parameters.AuthenticationToken = token
        answer.Parameters.RevisedSessionTimeout = call.parameters.RequestedSessionTimeout
        answer.Parameters.ServerNonce = bytes(32)
        answer.Parameters.ServerEndpoints = [self._endpoint()]
        return answer

    def _ActivateSession(self, call: Call) -> Response:  # noqa: N802
        answer = ua.ActivateSessionResponse()
        answer.Parameters.ServerNonce = bytes(32)
        return answer

    def _CloseSession(self, call: Call) -> Response:  # noqa: N802
        token = call.request.RequestHeader.AuthenticationToken
        self.sessions.discard(token)
        if call.request.DeleteSubscriptions:
            for subscription in [one for one in self.subscriptions.values() if one.session == token]:
                self._end(subscription)
        return ua.CloseSessionResponse()

    def _Read(self, call: Call) -> Response:  # noqa: N802
        most = self.limits.get("MaxNodesPerRead", 0)
        if most and len(call.parameters.NodesToRead) > most:
            return fault("BadTooManyOperations")
        return ua.ReadResponse(Results=[self._attribute(one) for one in call.parameters.NodesToRead])

    def _attribute(self, wanted: Any) -> Any:
        node, which, ids = wanted.NodeId, wanted.AttributeId, ua.ObjectIds
        if node.NamespaceIndex == 0:
            value = self._standard(node.Identifier) if which == ua.AttributeIds.Value else None
            return ua.DataValue(StatusCode=result("BadNodeIdUnknown")) if value is None else ua.DataValue(value)
        found = self.variable(node)
        if found is None:
            return ua.DataValue(StatusCode=result("BadNodeIdUnknown"))
        attributes = {
            ua.AttributeIds.NodeClass: ua.Variant(2, ua.VariantType.Int32),
            ua.AttributeIds.DataType: ua.Variant(ua.NodeId(ids.Double), ua.VariantType.NodeId),
            ua.AttributeIds.ValueRank: ua.Variant(-1, ua.VariantType.Int32),
            ua.AttributeIds.AccessLevel: ua.Variant(1, ua.VariantType.Byte),
            ua.AttributeIds.UserAccessLevel: ua.Variant(1, ua.VariantType.Byte),
            ua.AttributeIds.Historizing: ua.Variant(False, ua.VariantType.Boolean),
            ua.AttributeIds.BrowseName: ua.Variant(ua.QualifiedName(node.Identifier, node.NamespaceIndex)),
            ua.AttributeIds.DisplayName: ua.Variant(ua.LocalizedText(node.Identifier)),
        }
        if which == ua.AttributeIds.Value:
            return self.values[found]
        known = attributes.get(which)
        return ua.DataValue(StatusCode=result("BadAttributeIdInvalid")) if known is None else ua.DataValue(known)

    def _standard(self, identifier: int) -> Any:
        """The value of a node that the standard defines; None: this server has no such node."""
        ids, name = ua.ObjectIds, ua.ObjectIdNames.get(identifier, "")
        if identifier == ids.Server_NamespaceArray:
            return ua.Variant(self.spaces, ua.VariantType.String)
        if self.status_nodes and identifier == ids.Server_ServerStatus_StartTime:
            return ua.Variant(self.started, ua.VariantType.DateTime)
        if self.status_nodes and identifier == ids.Server_ServerStatus_CurrentTime:
            return ua.Variant(datetime.now(timezone.utc), ua.VariantType.DateTime)
        if self.status_nodes and identifier == ids.Server_ServerStatus_State:
            return ua.Variant(0, ua.VariantType.Int32)
        limit = self.limits.get(name.removeprefix(_LIMITS)) if name.startswith(_LIMITS) else None
        return None if limit is None else ua.Variant(limit, ua.VariantType.UInt32)

    def variable(self, node: Any) -> tuple[str, str] | None:
        """(namespace URI, name) of the variable that the node id stands for at present."""
        if not 0 < node.NamespaceIndex < len(self.spaces):
            return None
        key = (self.spaces[node.NamespaceIndex], node.Identifier)
        return key if key in self.values else None

    def _TranslateBrowsePathsToNodeIds(self, call: Call) -> Response:  # noqa: N802
        results = [ua.BrowsePathResult(StatusCode=result("BadNoMatch")) for _ in call.parameters.BrowsePaths]
        return ua.TranslateBrowsePathsToNodeIdsResponse(Results=results)

    def _CreateSubscription(self, call: Call) -> Response:  # noqa: N802
        asked = call.parameters
        token = call.request.RequestHeader.AuthenticationToken
        made = Subscription(
            self._next_id(), token, asked.RequestedPublishingInterval / 1000, asked.RequestedMaxKeepAliveCount
        )
        self.subscriptions[made.id] = made
        made.ticking = asyncio.create_task(self._tick(made))
        answer = ua.CreateSubscriptionResponse()
        answer.Parameters.SubscriptionId = made.id
        answer.Parameters.RevisedPublishingInterval = made.interval * 1000
        answer.Parameters.RevisedLifetimeCount = asked.RequestedLifetimeCount
        answer.Parameters.RevisedMaxKeepAliveCount = made.keep_alive_count
        return answer

    def _ModifySubscription(self, call: Call) -> Response:  # noqa: N802
        asked = call.parameters
        subscription = self.subscriptions.get(asked.SubscriptionId)
        if subscription is None:
            return fault("BadSubscriptionIdInvalid")
        subscription.interval = asked.RequestedPublishingInterval / 1000
        subscription.keep_alive_count = asked.RequestedMaxKeepAliveCount
        answer = ua.ModifySubscriptionResponse()
        answer.Parameters.RevisedPublishingInterval = asked.RequestedPublishingInterval
        answer.Parameters.RevisedLifetimeCount = asked.RequestedLifetimeCount
        answer.Parameters.RevisedMaxKeepAliveCount = asked.RequestedMaxKeepAliveCount
        return answer

    def _DeleteSubscriptions(self, call: Call) -> Response:  # noqa: N802
        results = []
        for one in call.parameters.SubscriptionIds:
            subscription = self.subscriptions.get(one)
            results.append(result("Good" if subscription else "BadSubscriptionIdInvalid"))
            if subscription is not None:
                self._end(subscription)
        return ua.DeleteSubscriptionsResponse(Results=results)

    def _end(self, subscription: Subscription) -> None:
        assert subscription.ticking is not None
        subscription.ticking.cancel()
        del self.subscriptions[subscription.id]

    def _TransferSubscriptions(self, call: Call) -> Response:  # noqa: N802
        token = call.request.RequestHeader.AuthenticationToken
        answer = ua.TransferSubscriptionsResponse()
        answer.Parameters.Results = []
        for one in call.parameters.SubscriptionIds:
            subscription = self.subscriptions.get(one)
            if subscription is None:
                answer.Parameters.Results.append(ua.TransferResult(result("BadSubscriptionIdInvalid")))
                continue
            subscription.session = token
            answer.Parameters.Results.append(ua.TransferResult(result("Good"), list(subscription.kept)))
        return answer

    def _CreateMonitoredItems(self, call: Call) -> Response:  # noqa: N802
        most = self.limits.get("MaxMonitoredItemsPerCall", 0)
        wishes = call.parameters.ItemsToCreate
        if most and len(wishes) > most:
            return fault("BadTooManyOperations")
        subscription = self.subscriptions.get(call.parameters.SubscriptionId)
        if subscription is None:
            return fault("BadSubscriptionIdInvalid")
        return ua.CreateMonitoredItemsResponse(Results=[self._create(subscription, one) for one in wishes])

    def _create(self, subscription: Subscription, wish: Any) -> Any:
        node, asked = wish.ItemToMonitor.NodeId, wish.RequestedParameters
        made = ua.MonitoredItemCreateResult(
            MonitoredItemId=self._next_id(),
            RevisedSamplingInterval=max(0.0, asked.SamplingInterval),
            RevisedQueueSize=asked.QueueSize,
        )
        if node.NamespaceIndex == 0:
            value = self._attribute(wish.ItemToMonitor)
            found = ("", str(node.Identifier))
        else:
            found = self.variable(node) or ("", "")
            value = self.values.get(found, ua.DataValue(StatusCode=result("BadNodeIdUnknown")))
        if not value.StatusCode.is_good() and found not in self.values:
            return ua.MonitoredItemCreateResult(StatusCode=value.StatusCode)
        space, name = found
        handle = asked.ClientHandle
        subscription.items[made.MonitoredItemId] = Item(
            name, space, handle, asked.SamplingInterval / 1000, asked.QueueSize
        )
        subscription.news.append(ua.MonitoredItemNotification(handle, value))
        return made

    def _ModifyMonitoredItems(self, call: Call) -> Response:  # noqa: N802
        subscription = self.subscriptions.get(call.parameters.SubscriptionId)
        if subscription is None:
            return fault("BadSubscriptionIdInvalid")
        results = []
        for one in call.parameters.ItemsToModify:
            item, asked = subscription.items.get(one.MonitoredItemId), one.RequestedParameters
            if item is None:
                results.append(ua.MonitoredItemModifyResult(StatusCode=result("BadMonitoredItemIdInvalid")))
                continue
            item.sampling, item.queue = asked.SamplingInterval / 1000, asked.QueueSize
            results.append(
                ua.MonitoredItemModifyResult(
                    RevisedSamplingInterval=asked.SamplingInterval, RevisedQueueSize=asked.QueueSize
                )
            )
        return ua.ModifyMonitoredItemsResponse(Results=results)

    def _DeleteMonitoredItems(self, call: Call) -> Response:  # noqa: N802
        subscription = self.subscriptions.get(call.parameters.SubscriptionId)
        if subscription is None:
            return fault("BadSubscriptionIdInvalid")
        gone = [subscription.items.pop(one, None) is None for one in call.parameters.MonitoredItemIds]
        return ua.DeleteMonitoredItemsResponse(
            Results=[result("BadMonitoredItemIdInvalid" if missing else "Good") for missing in gone]
        )

    # --- publishing ---

    def _Publish(self, call: Call) -> Response:  # noqa: N802
        token = call.request.RequestHeader.AuthenticationToken
        mine = [one for one in self.subscriptions.values() if one.session == token]
        if not mine:
            return fault("BadNoSubscription")
        for one in call.parameters.SubscriptionAcknowledgements or ():
            acknowledged = self.subscriptions.get(one.SubscriptionId)
            if acknowledged is not None:
                acknowledged.kept.pop(one.SequenceNumber, None)
        self._publish.setdefault(token, deque()).append(call)
        return None

    def _Republish(self, call: Call) -> Response:  # noqa: N802
        subscription = self.subscriptions.get(call.parameters.SubscriptionId)
        if subscription is None:
            return fault("BadSubscriptionIdInvalid")
        message = subscription.kept.get(call.parameters.RetransmitSequenceNumber)
        return fault("BadMessageNotAvailable") if message is None else ua.RepublishResponse(NotificationMessage=message)

    def message(self, subscription: Subscription, data: list[Any] | None) -> Any:
        """The next message; it is kept for Republish. Without data it is a keep-alive, which has no number itself."""
        message = ua.NotificationMessage(subscription.next, datetime.now(timezone.utc), data)
        if data:
            subscription.kept[subscription.next] = message
            subscription.next += 1
        return message

    def publication(self, subscription: Subscription, message: Any) -> Any:
        """The PublishResponse with a message."""
        answer = ua.PublishResponse()
        answer.Parameters.SubscriptionId = subscription.id
        answer.Parameters.AvailableSequenceNumbers = list(subscription.kept)
        answer.Parameters.NotificationMessage = message
        answer.Parameters.Results = []
        return answer

    def request(self, subscription: Subscription) -> Call | None:
        """The oldest publish request that waits, over a line that still is."""
        waiting = self._publish.get(subscription.session, deque())
        while waiting:
            call = waiting.popleft()
            if call.line in self.lines:
                return call
        return None

    def _sample_clock(self, subscription: Subscription) -> None:
        """The server's own time is news whenever it is sampled."""
        now = datetime.now(timezone.utc)
        for item in subscription.items.values():
            if not item.space and now - item.sampled >= timedelta(seconds=item.sampling):
                item.sampled = now
                value = ua.DataValue(ua.Variant(now), SourceTimestamp=now, ServerTimestamp=now)
                subscription.news.append(ua.MonitoredItemNotification(item.handle, value))

    async def _tick(self, subscription: Subscription) -> None:
        while True:
            await asyncio.sleep(subscription.interval)
            subscription.quiet += 1
            self._sample_clock(subscription)
            if self.dead:
                subscription.news.clear()
            if not subscription.news and subscription.quiet < subscription.keep_alive_count:
                continue
            call = self.request(subscription)
            if call is None:
                continue
            news, subscription.news = subscription.news, []
            subscription.quiet = 0
            data = [ua.DataChangeNotification(news, self.diagnostics)] if news else self.keep_alive_data
            call.answer(self.publication(subscription, self.message(subscription, data)))

    # --- lines ---

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(self, writer)
        self.lines.add(line)
        try:
            await line.serve(reader)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        except Exception as error:  # noqa: BLE001 - the script's or the test's own: it fails the test
            self.mistakes.append(error)
        finally:
            line.reset()
