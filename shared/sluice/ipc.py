"""The supervised client of Greengrass local IPC, for asyncio.

It stands on the generated operations of awsiotsdk (client V1) and makes up for what they lack (greengrass.md 3.4):

- The SDK's client V2 reorders events in a thread pool and queues them without bound: here every event goes through one
  bounded `Handover` and handlers run in the event loop, in order of arrival.
- SDK calls have no timeout and a lost connection stays lost: here every call ends within `timeout` seconds, and one
  task reconnects with backoff and renews every subscription.
- An exception in a handler, or an event that cannot be decoded, would close the subscription: here it is counted.
- Nucleus lite never ends the stream of a unary operation, and the SDK keeps the operation in memory until it does: here
  each operation is closed when its reply is in.
- Nucleus lite closes the whole connection when a frame is too large: here such a message is refused before it is sent.

Errors:

    IpcError
    ├── IpcTimeout         no reply in time: it may or may not have been done
    ├── IpcDisconnected    not connected, or the connection was lost before the reply
    ├── IpcUnauthorized    the component's accessControl does not allow it; names the policy to add
    ├── IpcNotFound        no such component, key or secret
    ├── IpcUnsupported     this nucleus does not have the operation
    └── IpcRefused         the nucleus says no; the message says why as far as it told
        └── IpcTooLarge    refused here, before sending: the nucleus would cut the connection
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from awscrt.exceptions import AwsCrtError
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
from awsiot import eventstreamrpc as rpc
from awsiot.greengrasscoreipc import client, model

from sluice.handover import Handover
from sluice.retry import Backoff, ExitRule
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

SOCKET_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
TOKEN_VARIABLE = "SVCUID"  # noqa: S105 - the name of a variable, not its value

LITE_FRAME_ROOM = 9_738
"""On nucleus lite base64 of a message and its topic together must fit this many bytes (measured, 2.6.0)."""
CLIENT_FRAME_ROOM = 18_000_000
"""awscrt takes frames below 24 MiB: just under 18 MiB of message."""
_LONGEST_TOPIC = 256

_HANDOVER_BYTES = 16 * 2**20
_HANDOVER_ITEMS = 20_000
_NOT_ON_LITE = frozenset(
    {"GetSecretValue", "SubscribeToValidateConfigurationUpdates", "SendConfigurationValidityReport"}
)

_SERVICES = {
    "PublishToTopic": "aws.greengrass.ipc.pubsub",
    "SubscribeToTopic": "aws.greengrass.ipc.pubsub",
    "PublishToIoTCore": "aws.greengrass.ipc.mqttproxy",
    "SubscribeToIoTCore": "aws.greengrass.ipc.mqttproxy",
    "GetSecretValue": "aws.greengrass.SecretManager",
}


class IpcError(Exception):
    """Anything that local IPC can answer; see the module for the tree."""


class IpcTimeout(IpcError):  # noqa: N818 - the tree is named for what happened
    """No reply in time: it may or may not have been done."""


class IpcDisconnected(IpcError):  # noqa: N818
    """Not connected, or the connection was lost before the reply."""


class IpcUnauthorized(IpcError):  # noqa: N818
    """The component's accessControl does not allow it. `resource` and `remedy` name the policy to add."""

    def __init__(self, operation: str, resource: str) -> None:
        self.resource = resource
        service = _SERVICES.get(operation)
        if operation == "GetSecretValue" and not resource.startswith("arn:"):  # policies are about ARNs
            resource = f"arn:aws:secretsmanager:*:secret:{resource}-*"
        if service:
            self.remedy = (
                f"add to the recipe, under ComponentConfiguration/DefaultConfiguration/accessControl/{service}, a "
                f'policy with operations ["aws.greengrass#{operation}"] and resources ["{resource}"], and deploy '
                'with RESET "/accessControl" where an older accessControl was merged'
            )
        else:
            self.remedy = f"the nucleus does not allow {operation} to this component"
        super().__init__(f"{operation} of {self.resource} is not authorised: {self.remedy}")


class IpcNotFound(IpcError):  # noqa: N818
    """No such component, key or secret. `told` is what the nucleus said, which is nothing on nucleus lite."""

    def __init__(self, message: str, told: str = "") -> None:
        self.told = told
        super().__init__(f"{message}: {told}" if told else message)


class IpcUnsupported(IpcError):  # noqa: N818
    """This nucleus does not have the operation."""


class IpcRefused(IpcError):  # noqa: N818
    """The nucleus says no."""


class IpcTooLarge(IpcRefused):
    """Refused here: the nucleus would cut the connection."""


class Subscription:
    """One subscription, kept alive over reconnects until it is closed.

    `active` tells whether the nucleus has accepted it on the present connection.
    """

    def __init__(self, ipc: Ipc, operation: str, resource: str, make: Callable[[Any], tuple[Any, Any]]) -> None:
        self.operation = operation
        self.resource = resource
        self.closed = False
        self.on_renewed: Callable[[], None] | None = None
        self._ipc = ipc
        self._make = make
        self._stream: _Stream | None = None
        self._backoff = Backoff(1.0, 30.0)
        self._not_before = 0.0
        self._established = 0
        self._lock = asyncio.Lock()

    @property
    def active(self) -> bool:
        """The nucleus has accepted it and has not ended it since."""
        return self._stream is not None and self._stream.accepted

    async def renew(self) -> None:
        """Drop the stream and subscribe again: for a subscription that has gone silent.

        Never raises; what fails is tried again with backoff.
        """
        if not self.closed:
            self._drop()
            with contextlib.suppress(IpcError):
                await self._establish()

    async def close(self) -> None:
        """End it: the handler is not called again."""
        self.closed = True
        self._ipc._subscriptions.discard(self)
        self._drop()

    def _drop(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _ended(self, stream: _Stream) -> None:
        """In the loop: the nucleus ended the stream, or the connection did."""
        if self._stream is stream:
            self._stream = None
            self._not_before = time.monotonic() + self._backoff.next()
            self._ipc._wake()

    async def _establish(self) -> None:
        async with self._lock:
            if self.active or self.closed:
                return
            stream = _Stream(self)
            try:
                operation, request = self._make(stream)
                stream.operation = operation
                self._stream = stream
                await self._ipc._call(operation, request, self.operation, self.resource, keep=True)
            except IpcError as error:
                if self._stream is stream:
                    self._stream = None
                self._not_before = time.monotonic() + self._backoff.next()
                if self._established and not isinstance(error, IpcDisconnected):
                    logger.warning("Subscription to %s cannot be renewed yet: %s", self.resource, error)
                raise
            if self.closed or self._stream is not stream:  # closed, or ended meanwhile
                stream.close()
                return
            stream.accepted = True
            self._backoff.reset()
            self._established += 1
            if self._established > 1:
                self._ipc.counters["subscriptions_renewed"] += 1
                if self.on_renewed is not None:
                    self._ipc._guarded(self.on_renewed)


class _Stream:
    """One attempt at a subscription: what the SDK calls back, on its own thread."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.operation: Any = None
        self.accepted = False
        self._dropped = False
        self._ipc = subscription._ipc
        self._loop = subscription._ipc._running_loop()

    def close(self) -> None:
        self._dropped = True
        if self.operation is not None:
            self.operation.close()

    def received(self, size: int, call: Callable[..., None], *args: Any) -> None:
        """On the SDK's thread: have the loop call a handler, unless another stream has taken this one's place."""
        if not self._dropped:
            self._ipc._handover.put(size, self._deliver, call, args)

    def malformed(self) -> None:
        self._ipc.counters["malformed"] += 1

    def ended(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self.subscription._ended, self)

    def _deliver(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.subscription.closed:
            self._ipc._guarded(call, *args)


def _sdk_handler(base: type[Any], stream: _Stream, take: Callable[[_Stream, Any], None]) -> Any:
    """A stream handler for the SDK. Nothing escapes it: an exception here would silently end the subscription."""

    class Handler(base):  # type: ignore[misc]
        def on_stream_event(self, event: Any) -> None:
            try:
                take(stream, event)
            except Exception:  # noqa: BLE001 - a foreign message of any shape costs itself only
                stream.malformed()

        def on_stream_error(self, error: Exception) -> bool:
            stream.malformed()
            return False  # keep the stream

        def on_stream_closed(self) -> None:
            stream.ended()

    return Handler()


class Ipc:
    """The connection of this component to its nucleus.

    Handlers and callbacks run in the event loop, in order of arrival; what they raise is logged and counted. `lite`
    says that the nucleus is Greengrass nucleus lite, whose frame limit then guards every publish.

    Args:
        socket_path, token: default to what the nucleus puts into the environment of a component.
        timeout: seconds that any call may take.
        exit_rule: decides when `given_up` is set.
    """

    def __init__(
        self,
        *,
        socket_path: str | None = None,
        token: str | None = None,
        timeout: float = 5.0,
        exit_rule: ExitRule | None = None,
        handover_bytes: int = _HANDOVER_BYTES,
        handover_items: int = _HANDOVER_ITEMS,
    ) -> None:
        self.socket_path = socket_path or os.environ.get(SOCKET_VARIABLE, "")
        self._token = token or os.environ.get(TOKEN_VARIABLE, "")
        if not self.socket_path or not self._token:
            missing = " and ".join(
                name
                for name, given in ((SOCKET_VARIABLE, self.socket_path), (TOKEN_VARIABLE, self._token))
                if not given
            )
            raise IpcError(f"{missing} not set: a Sluice component is started by a Greengrass nucleus")
        self.timeout = timeout
        self.lite = False
        self.component_name = ""
        self.connected = False
        self.given_up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._exit_rule = exit_rule or ExitRule()
        self._handover_bounds = (handover_bytes, handover_items)
        self._handover: Handover
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bootstrap: Any = None
        self._connection: Any = None
        self._client: Any = None
        self._subscriptions: set[Subscription] = set()
        self._callbacks: list[Callable[[bool, str], None]] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._lost: asyncio.Event = asyncio.Event()
        self._told_unsupported: set[str] = set()

    # --- life ---

    async def start(self) -> None:
        """Connect, for ever if need be. Raises IpcRefused when the exit rule says that it will never be let in."""
        self._loop = asyncio.get_running_loop()
        self._handover = Handover(self._loop, *self._handover_bounds)
        logging.getLogger("awsiot").setLevel(logging.CRITICAL + 1)  # it logs payloads, and every failure twice
        group = EventLoopGroup(num_threads=1)
        self._bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
        first = self._loop.create_future()
        self._tasks = [
            asyncio.create_task(self._keep_connected(first), name="ipc connection"),
            asyncio.create_task(self._keep_subscribed(), name="ipc subscriptions"),
        ]
        given_up = asyncio.ensure_future(self.given_up.wait())
        try:
            await asyncio.wait((first, given_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up.cancel()
        if self.given_up.is_set():
            raise IpcRefused(f"the nucleus behind {self.socket_path} refuses this component's token")

    async def close(self) -> None:
        """End everything within a second. Subscriptions end; calls under way fail with IpcDisconnected."""
        await end(*self._tasks, every=0.2)
        self._tasks = []
        for subscription in list(self._subscriptions):
            await subscription.close()
        connection, self._connection, self._client, self.connected = self._connection, None, None, False
        if connection is not None:
            await _closed(connection)
        self._bootstrap = None

    @property
    def dropped(self) -> int:
        """Messages that arrived faster than the handlers took them, and found the hand-over full."""
        return self._handover.dropped if self._loop is not None else 0

    def on_state(self, callback: Callable[[bool, str], None]) -> None:
        """Have `callback(connected, why)` called whenever the connection comes or goes."""
        self._callbacks.append(callback)

    # --- publish and subscribe ---

    def message_room(self, topic: str) -> int:
        """How many bytes of message fit one publish to `topic`."""
        return (LITE_FRAME_ROOM - len(topic.encode())) // 4 * 3 if self.lite else CLIENT_FRAME_ROOM

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish one binary message. Calls made one after another arrive in that order.

        At most once, and done does not mean received: with no subscriber it succeeds as well.
        """
        if not topic or any(sign in topic for sign in "+#*") or len(topic.encode()) > _LONGEST_TOPIC:
            raise IpcRefused(f"{topic!r} is no topic to publish to: use 1 to 256 bytes without + # *")
        room = self.message_room(topic)
        if len(payload) > room:
            self.counters["refused_too_large"] += 1
            raise IpcTooLarge(
                f"a message of {len(payload)} bytes on {topic} is above the {room} bytes that this nucleus takes: "
                f"set maxMessageBytes to auto or to {min(room, 7000)}"
            )
        request = model.PublishToTopicRequest(
            topic=topic, publish_message=model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        )
        await self._call(self._begin("publish_to_topic"), request, "PublishToTopic", topic)
        self.counters["published"] += 1

    async def subscribe(
        self, topic_filter: str, handler: Callable[[str, bytes], None], *, own: bool = True
    ) -> Subscription:
        """Have `handler(topic, payload)` called for every message on `topic_filter`, MQTT wildcards allowed.

        Raises when the nucleus refuses. When it cannot be asked just now, the subscription is made when it can.
        `own=False` leaves out the component's own messages; nucleus lite delivers them all the same.
        """
        mode = model.ReceiveMode.RECEIVE_ALL_MESSAGES if own else model.ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS

        def take(stream: _Stream, event: Any) -> None:
            if event.binary_message is not None:
                message, context = event.binary_message.message, event.binary_message.context
            else:
                text = json.dumps(event.json_message.message, ensure_ascii=False)
                message, context = text.encode(), event.json_message.context
            if not isinstance(message, bytes):
                raise TypeError("a message without content")
            topic = context.topic if context is not None and context.topic else topic_filter
            stream.received(len(message), handler, topic, message)

        def make(stream: _Stream) -> tuple[Any, Any]:
            listener = _sdk_handler(client.SubscribeToTopicStreamHandler, stream, take)
            operation = self._begin("subscribe_to_topic", listener)
            return operation, model.SubscribeToTopicRequest(topic=topic_filter, receive_mode=mode)

        return await self._subscribe("SubscribeToTopic", topic_filter, make)

    # --- configuration, state, secrets ---

    async def detect_nucleus(self) -> None:
        """Find out whether this is nucleus lite, and set `lite`; what cannot be told counts as lite, the stricter one.

        Only lite has a component of that name, and the errors of lite never carry a text.
        """
        try:
            await self.get_configuration((), "aws.greengrass.NucleusLite")
        except IpcNotFound as error:
            self.lite = not error.told
        except (IpcTimeout, IpcDisconnected):
            raise
        except IpcError:
            self.lite = True
        else:
            self.lite = True

    async def get_configuration(
        self, key_path: Sequence[str] = (), component: str | None = None, *, keys: Sequence[str] = ()
    ) -> Any:
        """What stands at `key_path`: a map's content, a leaf's value. Raises IpcNotFound.

        Nucleus lite refuses a result above about 9,000 bytes; then the `keys` of the map are read one by one.
        """
        path = list(key_path)
        try:
            value = await self._configuration(path, component)
        except IpcRefused as refusal:
            if not keys:
                raise
            return await self._configuration_by_keys(path, component, keys, refusal)
        if not path or not isinstance(value, Mapping) or len(value) != 1:
            return value
        last = path[-1]
        ((only, content),) = value.items()
        if str(only).casefold() != last.casefold():
            return value
        # A leaf comes as {"leaf": value}, which looks like a map whose only key has the map's own name: ask one up.
        try:
            parent = await self._configuration(path[:-1], component)
        except IpcRefused:
            return content
        return next((v for k, v in parent.items() if str(k).casefold() == last.casefold()), content)

    async def _configuration_by_keys(
        self, path: list[str], component: str | None, keys: Sequence[str], refusal: IpcRefused
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in keys:
            try:
                found[key] = await self.get_configuration([*path, key], component)
            except IpcNotFound:  # noqa: PERF203 - each is a call to another process
                continue
            except IpcRefused:
                raise IpcRefused(
                    f"the nucleus cannot hand out the configuration below {'/'.join(['', *path, key])}: nucleus lite "
                    "limits it to about 9,000 bytes: move long lists, such as tags, into a file"
                ) from refusal
        return found

    async def _configuration(self, path: list[str], component: str | None) -> Any:
        request = model.GetConfigurationRequest(component_name=component, key_path=path)
        place = f"/{'/'.join(path)}" + (f" of {component}" if component else "")
        operation = self._begin("get_configuration")
        reply = await self._call(operation, request, "GetConfiguration", place)
        if component is None and reply.component_name:
            self.component_name = reply.component_name
        return reply.value

    async def update_configuration(
        self, key_path: Sequence[str], value: Mapping[str, Any], timestamp: float | None = None
    ) -> None:
        """Merge `value` into the component's own configuration at `key_path`."""
        moment = float(time.time() if timestamp is None else timestamp)
        stamp = datetime.fromtimestamp(moment, tz=timezone.utc)
        request = model.UpdateConfigurationRequest(key_path=list(key_path), timestamp=stamp, value_to_merge=dict(value))
        operation = self._begin("update_configuration")
        await self._call(operation, request, "UpdateConfiguration", f"/{'/'.join(key_path)}")

    async def on_configuration_update(
        self, key_path: Sequence[str], callback: Callable[[list[str]], None], component: str | None = None
    ) -> Subscription:
        """Have `callback(key path of what changed)` called on every change at or below `key_path`.

        The event carries no value: read it. After a reconnect it is called once with `key_path`, because changes may
        have been missed.
        """

        def take(stream: _Stream, event: Any) -> None:
            changed = list(event.configuration_update_event.key_path or ())
            stream.received(100, callback, changed)

        def make(stream: _Stream) -> tuple[Any, Any]:
            listener = _sdk_handler(client.SubscribeToConfigurationUpdateStreamHandler, stream, take)
            operation = self._begin("subscribe_to_configuration_update", listener)
            return operation, model.SubscribeToConfigurationUpdateRequest(
                component_name=component, key_path=list(key_path)
            )

        subscription = await self._subscribe("SubscribeToConfigurationUpdate", f"/{'/'.join(key_path)}", make)
        subscription.on_renewed = lambda: callback(list(key_path))
        return subscription

    async def on_proposed_configuration(self, callback: Callable[[str, Any], None]) -> Subscription:
        """Have `callback(deployment id, proposed configuration)` called before a deployment changes the component's
        configuration. It waits for the answer: `report_validity`.

        Raises IpcUnsupported on nucleus lite.
        """

        def take(stream: _Stream, event: Any) -> None:
            proposed = event.validate_configuration_update_event
            if not proposed.deployment_id:
                raise TypeError("a proposed configuration without a deployment")
            stream.received(1_000, callback, proposed.deployment_id, proposed.configuration)

        def make(stream: _Stream) -> tuple[Any, Any]:
            listener = _sdk_handler(client.SubscribeToValidateConfigurationUpdatesStreamHandler, stream, take)
            operation = self._begin("subscribe_to_validate_configuration_updates", listener)
            return operation, model.SubscribeToValidateConfigurationUpdatesRequest()

        return await self._subscribe("SubscribeToValidateConfigurationUpdates", "this component", make)

    async def report_validity(self, deployment_id: str, accepted: bool, message: str = "") -> None:
        """Answer for the configuration that a deployment proposed."""
        report = model.ConfigurationValidityReport(
            status=model.ConfigurationValidityStatus.ACCEPTED
            if accepted
            else model.ConfigurationValidityStatus.REJECTED,
            deployment_id=deployment_id,
            message=message or None,
        )
        request = model.SendConfigurationValidityReportRequest(configuration_validity_report=report)
        operation = self._begin("send_configuration_validity_report")
        await self._call(operation, request, "SendConfigurationValidityReport", deployment_id)

    async def update_state(self, state: str) -> None:
        """Tell the nucleus that the component is RUNNING or ERRORED."""
        operation = self._begin("update_state")
        await self._call(operation, model.UpdateStateRequest(state=state), "UpdateState", state)

    async def get_secret(self, secret_id: str) -> str | bytes:
        """The present value of a secret that Secret Manager holds on this core."""
        operation = self._begin("get_secret_value")
        request = model.GetSecretValueRequest(secret_id=secret_id)
        reply = await self._call(operation, request, "GetSecretValue", secret_id)
        value = reply.secret_value
        found = (
            None if value is None else value.secret_string if value.secret_string is not None else value.secret_binary
        )
        if found is None:
            raise IpcNotFound(f"the secret {secret_id} has no value")
        return found  # type: ignore[no-any-return]

    # --- IoT Core ---

    async def publish_iot_core(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish to AWS IoT Core through the nucleus."""
        request = model.PublishToIoTCoreRequest(topic_name=topic, qos=str(qos), payload=payload)
        await self._call(self._begin("publish_to_iot_core"), request, "PublishToIoTCore", topic)

    async def subscribe_iot_core(
        self, topic_filter: str, handler: Callable[[str, bytes], None], qos: int = 1
    ) -> Subscription:
        """The same as `subscribe` for topics of AWS IoT Core."""

        def take(stream: _Stream, event: Any) -> None:
            payload = event.message.payload or b""
            stream.received(len(payload), handler, event.message.topic_name, payload)

        def make(stream: _Stream) -> tuple[Any, Any]:
            listener = _sdk_handler(client.SubscribeToIoTCoreStreamHandler, stream, take)
            operation = self._begin("subscribe_to_iot_core", listener)
            return operation, model.SubscribeToIoTCoreRequest(topic_name=topic_filter, qos=str(qos))

        return await self._subscribe("SubscribeToIoTCore", topic_filter, make)

    # --- calls ---

    def _begin(self, operation: str, *listener: Any) -> Any:
        """A new operation of the SDK, such as `publish_to_topic`."""
        if self._client is None:
            raise IpcDisconnected("not connected to the nucleus")
        try:
            return getattr(self._client, f"new_{operation}")(*listener)
        except (RuntimeError, AwsCrtError) as error:
            raise IpcDisconnected(f"not connected to the nucleus ({_why(error)})") from None

    async def _call(self, operation: Any, request: Any, name: str, resource: str, *, keep: bool = False) -> Any:
        """One request and its response, within the timeout. `keep`: the stream stays open for events."""
        settled = False
        try:
            operation.activate(request)
            reply = await within(self.timeout, asyncio.wrap_future(operation.get_response()))
            settled = True
            return reply
        except asyncio.TimeoutError:
            self.counters["timeouts"] += 1
            raise IpcTimeout(f"{name} of {resource} was not answered within {self.timeout:g} s") from None
        except (model.GreengrassCoreIPCError, rpc.EventStreamOperationError) as error:
            raise self._translated(error, name, resource) from None
        except (rpc.DeserializeError, rpc.UnmappedDataError) as error:
            self.counters["malformed"] += 1  # their text would hold the payload, perhaps a secret
            raise IpcRefused(
                f"the reply to {name} of {resource} cannot be understood ({type(error).__name__})"
            ) from None
        except rpc.SerializeError as error:
            raise IpcRefused(f"{name} of {resource} cannot be written as JSON ({error.args[-1]})") from None
        except (RuntimeError, AwsCrtError, OSError) as error:
            raise IpcDisconnected(
                f"the connection was lost before the reply to {name} of {resource} ({_why(error)})"
            ) from None
        finally:
            if not (keep and settled):
                operation.close()

    def _translated(self, error: Any, name: str, resource: str) -> IpcError:
        kind, text = type(error).__name__, getattr(error, "message", None) or ""
        if kind == "UnauthorizedError":
            return IpcUnauthorized(name, resource)
        if kind in ("ResourceNotFoundError", "ComponentNotFoundError"):
            return IpcNotFound(f"{name}: {resource} does not exist", text)
        if kind == "ServiceError" and not text and name in _NOT_ON_LITE:
            if name not in self._told_unsupported:
                self._told_unsupported.add(name)
                logger.warning("%s does not exist on this nucleus (nucleus lite): doing without it", name)
            return IpcUnsupported(f"{name} does not exist on this nucleus (nucleus lite)")
        return IpcRefused(f"{name} of {resource} was refused: {kind}" + (f": {text}" if text else ""))

    def _guarded(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception:
            self.counters["handler_errors"] += 1
            logger.exception("A handler failed; the subscription goes on")

    # --- subscriptions ---

    async def _subscribe(
        self, operation: str, resource: str, make: Callable[[_Stream], tuple[Any, Any]]
    ) -> Subscription:
        subscription = Subscription(self, operation, resource, make)
        self._subscriptions.add(subscription)
        try:
            await subscription._establish()
        except (IpcDisconnected, IpcTimeout):
            self._wake()
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def _keep_subscribed(self) -> None:
        """Establish whatever subscription is not active, each at its own pace."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            waiting = [s for s in self._subscriptions if not s.active] if self.connected else []
            for subscription in [s for s in waiting if s._not_before <= now]:
                with contextlib.suppress(IpcError):
                    await subscription._establish()
            moments = [s._not_before for s in self._subscriptions if not s.active] if self.connected else []
            pause = max(0.01, min(moments) - time.monotonic()) if moments else None
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause, self._changed.wait())

    def _wake(self) -> None:
        self._changed.set()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise IpcDisconnected("not started")
        return self._loop

    # --- connection ---

    async def _keep_connected(self, first: asyncio.Future[None]) -> None:
        backoff = Backoff(0.2, 5.0)
        while True:
            why = await self._connect()
            if why is None:
                backoff.reset()
                self._exit_rule.otherwise()
                self._set_state(True, "connected")
                for subscription in self._subscriptions:
                    subscription._not_before = 0.0
                self._wake()
                if not first.done():
                    first.set_result(None)
                await self._lost.wait()
                why = "the connection was lost"
                self._set_state(False, why)
                self._client = None
                await _closed(self._connection)
                self._connection = None
            await asyncio.sleep(backoff.next())

    async def _connect(self) -> str | None:
        """One attempt; None when connected, else why not."""
        loop = self._running_loop()
        reached = False
        self._lost = lost = asyncio.Event()

        def introduce() -> Any:  # called by the SDK once the socket is connected
            nonlocal reached
            reached = True
            return rpc.MessageAmendment(payload=json.dumps({"authToken": self._token}).encode())

        class Lifecycle(rpc.LifecycleHandler):  # type: ignore[misc]
            def on_disconnect(self, reason: Exception | None) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                    loop.call_soon_threadsafe(lost.set)

            def on_error(self, error: Exception) -> bool:
                return True

        options = SocketOptions()
        options.domain = SocketDomain.Local
        connection = rpc.Connection(
            host_name=self.socket_path,
            port=0,
            bootstrap=self._bootstrap,
            socket_options=options,
            connect_message_amender=introduce,
        )
        answered = True
        try:
            await within(self.timeout, asyncio.wrap_future(connection.connect(Lifecycle())))
        except asyncio.CancelledError:
            connection.close()
            raise
        except asyncio.TimeoutError:
            answered, why = False, f"the nucleus did not answer within {self.timeout:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            why = _why(error)
        else:
            self._connection = connection
            self._client = client.GreengrassCoreIPCClient(connection)
            return None
        await _closed(connection)
        if reached and answered:
            self.counters["handshakes_refused"] += 1
            why = f"the nucleus refused the handshake ({why})"
            if self._exit_rule.refused(loop.time()):
                self.given_up.set()
        else:
            self._exit_rule.otherwise()
            if not Path(self.socket_path).exists():  # noqa: ASYNC240 - one stat
                why = "the nucleus is away: its socket does not exist"
        self.counters["connects_failed"] += 1
        logger.warning("Cannot connect to %s: %s", self.socket_path, why)
        return why

    def _set_state(self, connected: bool, why: str) -> None:
        self.connected = connected
        self.counters["connects" if connected else "disconnects"] += 1
        logger.log(logging.INFO if connected else logging.WARNING, "Greengrass IPC: %s", why)
        for callback in self._callbacks:
            self._guarded(callback, connected, why)


async def _closed(connection: Any) -> None:
    """Close an SDK connection and wait a moment until it is."""
    ended = asyncio.wrap_future(connection.close())
    await asyncio.wait((ended,), timeout=1.0)
    if ended.done() and not ended.cancelled():
        ended.exception()  # the reason is known already


def _why(error: Exception) -> str:
    """What the SDK's error is called: its text is empty, or repeats the payload."""
    return getattr(error, "name", None) or type(error).__name__
