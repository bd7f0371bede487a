"""What each IPC operation does, apart from sockets and framing.

A handler takes the nucleus's state, the calling component and the request, and returns a Reply or raises Refused with
an error of the service model. OPERATIONS is the table of all of them; what a profile does not offer, and everything
else, answers ServiceError.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from localcore import access
from localcore.bus import Bus, Subscriber
from localcore.configuration import Configuration, ConfigurationError, NoSuchKey, Stale, TypeConflict
from localcore.profile import Profile
from localcore.topics import has_wildcard, is_valid_filter
from localcore.validation import Report, Validation

_ALIASES = {"aws.greengrass.Nucleus": "aws.greengrass.NucleusLite"}


class Refused(Exception):  # noqa: N818 - named for the fact
    """The operation is answered with an error; `code` is its class in the service model."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Outlet(Protocol):
    """Where a subscription's events go."""

    def send(self, payload: bytes) -> None:
        """Queue an event."""

    async def offer(self, payload: bytes) -> None:
        """Hand over an event as the profile does it: queue it, or wait for the subscriber and at last drop it."""


Cancel = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """The response, and for a subscription how to open it once the response is on its way."""

    body: dict[str, Any] = field(default_factory=dict)
    subscribe: Callable[[Outlet], Cancel] | None = None


@dataclass(slots=True)
class Services:
    """The state that operations work on."""

    profile: Profile
    variables: Mapping[str, str] = field(default_factory=dict)
    """Recipe variables that do not depend on the component, such as `iot:thingName`."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Secret Manager's values by secret id or ARN."""
    configurations: dict[str, Configuration] = field(default_factory=dict)
    local: Bus = field(default_factory=Bus)
    iot: Bus = field(default_factory=Bus)
    validation: Validation = field(default_factory=Validation)
    on_state: Callable[[str, str], None] = lambda component, state: None

    def configuration(self, component: str) -> Configuration:
        """The configuration of a component, made empty when it is new."""
        return self.configurations.setdefault(component, Configuration(self.profile))


Handler = Callable[[Services, str, Mapping[str, Any]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: who handles it, and the model name of its events."""

    handler: Handler
    event: str = ""


def _invalid(services: Services, text: str) -> Refused:
    return Refused("InvalidArgumentsError" if services.profile.checks_topics else "ServiceError", text)


def _authorise(services: Services, caller: str, service: str, operation: str, resource: str) -> None:
    try:
        policies = services.configuration(caller).read(("accessControl", service))
    except NoSuchKey:
        policies = {}
    full = f"aws.greengrass#{operation}"
    if not access.may(policies, service, full, resource, services.profile, services.variables):
        raise Refused(
            "UnauthorizedError",
            f"Principal {caller} is not authorized to perform {service}:{full} on resource {resource}",
        )


def _topic(services: Services, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _invalid(services, f"{name} is missing")
    if len(value.encode()) > services.profile.max_topic:
        raise _invalid(services, f"{name} is longer than {services.profile.max_topic} bytes")
    return value


# --- local publish/subscribe


async def publish_to_topic(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """Hand a message to every local subscription that matches; nobody listening is no error."""
    profile = services.profile
    topic = _topic(services, request.get("topic"), "topic")
    if profile.checks_topics and (not topic or has_wildcard(topic)):
        raise _invalid(services, f"a topic to publish to has no wildcards: {topic!r}")
    _authorise(services, caller, access.PUBSUB, "PublishToTopic", topic)
    message = request.get("publishMessage")
    if not isinstance(message, Mapping):
        raise _invalid(services, "publishMessage is missing")
    kind = "binaryMessage" if "binaryMessage" in message else "jsonMessage"
    if not isinstance(message.get(kind), Mapping):
        raise _invalid(services, "publishMessage holds neither binaryMessage nor jsonMessage")
    content = message[kind].get("message", "" if kind == "binaryMessage" else None)
    event = json.dumps({kind: {"message": content, "context": {"topic": topic}}}).encode()
    if kind == "jsonMessage" and not _fits_json(services, topic, caller, content):
        return Reply()
    await services.local.publish(topic, event, caller)
    return Reply()


def _fits_json(services: Services, topic: str, caller: str, content: Any) -> bool:
    """Whether a JSON message reaches its subscribers on this nucleus.

    Lite decodes it twice into fixed memory: when it does not fit on the publisher's side that is an error, when it does
    not fit on the subscribers' side nobody is told and every subscription that should have got it is dead from then on.
    """
    profile = services.profile
    if profile.json_publish_arena is None or profile.json_event_arena is None:
        return True
    size, depth = _json_arena(content)
    if size > profile.json_publish_arena or depth > 13 or not _finite(content):
        raise Refused("ServiceError", "")
    if depth > 12:
        return False
    if size + 63 > profile.json_event_arena:  # the envelope takes three keys
        for subscriber in services.local.matching(topic, caller):
            subscriber.dead = True
        return False
    return True


def _json_arena(value: Any) -> tuple[int, int]:
    """(bytes in the nucleus's memory, levels of nesting): 21 for each key and 11 for each element, as measured."""
    if isinstance(value, Mapping):
        below = [(21 + size, depth) for size, depth in map(_json_arena, value.values())]
    elif isinstance(value, list):
        below = [(11 + size, depth) for size, depth in map(_json_arena, value)]
    else:
        return 0, 0
    return sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0)


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


async def subscribe_to_topic(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """Follow a topic filter. Who listens to an exact topic hears itself too; with wildcards only where it asks to."""
    profile = services.profile
    topic = _topic(services, request.get("topic"), "topic")
    if profile.checks_topics and not is_valid_filter(topic):
        raise _invalid(services, f"not a topic filter: {topic!r}")
    _authorise(services, caller, access.PUBSUB, "SubscribeToTopic", topic)
    if profile.max_subscriptions is not None and services.local.held() >= profile.max_subscriptions:
        raise Refused("ServiceError", "")
    default = "RECEIVE_MESSAGES_FROM_OTHERS" if has_wildcard(topic) else "RECEIVE_ALL_MESSAGES"
    mode = request.get("receiveMode") or default
    others_only = profile.receive_modes and mode == "RECEIVE_MESSAGES_FROM_OTHERS"

    def subscribe(outlet: Outlet) -> Cancel:
        async def deliver(_: str, event: bytes) -> None:
            await outlet.offer(event)

        return services.local.subscribe(Subscriber(topic, caller, others_only, deliver))

    return Reply({"topicName": topic}, subscribe)


# --- configuration


def _key_path(request: Mapping[str, Any]) -> list[str]:
    path = request.get("keyPath") or []
    if not isinstance(path, list) or not all(isinstance(key, str) for key in path):
        raise Refused("InvalidArgumentsError", "keyPath is not a list of strings")
    return path


def _named(services: Services, caller: str, request: Mapping[str, Any]) -> tuple[str, Configuration]:
    name = request.get("componentName") or caller
    if name not in services.configurations:
        name = _ALIASES.get(name, name)
    if name not in services.configurations:
        raise Refused("ResourceNotFoundError", f"component {name} is not known")
    return name, services.configurations[name]


def _configuration_refusal(error: ConfigurationError) -> Refused:
    if isinstance(error, NoSuchKey):
        return Refused("ResourceNotFoundError", f"key not found: {error}")
    if isinstance(error, Stale):
        return Refused("FailedUpdateConditionCheckError", str(error))
    return Refused("ServiceError", str(error))


async def get_configuration(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """A map's content, or {last key: value} for anything else. Any component may read any other's."""
    path = _key_path(request)
    name, configuration = _named(services, caller, request)
    try:
        value = configuration.read_limited(path)
    except ConfigurationError as error:
        raise _configuration_refusal(error) from error
    return Reply({"componentName": name, "value": value if isinstance(value, dict) else {path[-1]: value}})


async def update_configuration(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """Merge into the caller's own configuration, with the time that the caller gives."""
    profile = services.profile
    path, value, time = _key_path(request), request.get("valueToMerge"), request.get("timestamp")
    if isinstance(time, bool) or not isinstance(time, float if profile.timestamp_needs_fraction else (int, float)):
        raise Refused("InvalidArgumentsError", "timestamp is required, as a number with a fraction")
    if not isinstance(value, Mapping):
        raise Refused("InvalidArgumentsError", "valueToMerge is not a map")
    if "accessControl" in path[:1] or (not path and "accessControl" in value):
        raise Refused("InvalidArgumentsError", "accessControl cannot be changed by a component")
    try:
        services.configuration(caller).update(path, _floats(value) if profile.numbers_become_floats else value, time)
    except TypeConflict as error:
        raise Refused("InvalidArgumentsError" if profile.retypes_leaf else "ServiceError", str(error)) from error
    except ConfigurationError as error:
        raise _configuration_refusal(error) from error
    return Reply()


def _floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _floats(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_floats(child) for child in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


async def subscribe_to_configuration_update(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """One event for each leaf that changes at or below a path, with the leaf's whole path and without its value."""
    path = _key_path(request)
    name, configuration = _named(services, caller, request)
    try:
        configuration.read(path)
    except ConfigurationError as error:
        raise _configuration_refusal(error) from error

    def subscribe(outlet: Outlet) -> Cancel:
        def changed(leaf: tuple[str, ...]) -> None:
            event = {"configurationUpdateEvent": {"componentName": name, "keyPath": list(leaf)}}
            outlet.send(json.dumps(event).encode())

        return configuration.watch(path, changed)

    return Reply({}, subscribe)


async def subscribe_to_validate_configuration_updates(
    services: Services, caller: str, request: Mapping[str, Any]
) -> Reply:
    """The caller wants to judge its own configuration before a deployment changes it."""

    def subscribe(outlet: Outlet) -> Cancel:
        def ask(deployment: str, configuration: Mapping[str, Any]) -> None:
            event = {"configuration": configuration, "deploymentId": deployment}
            outlet.send(json.dumps({"validateConfigurationUpdateEvent": event}).encode())

        return services.validation.subscribe(caller, ask)

    return Reply({}, subscribe)


async def send_configuration_validity_report(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """The caller's judgement of the configuration that it was asked about."""
    report = request.get("configurationValidityReport")
    if not isinstance(report, Mapping) or report.get("status") not in ("ACCEPTED", "REJECTED"):
        raise Refused("InvalidArgumentsError", "configurationValidityReport needs a status, ACCEPTED or REJECTED")
    deployment = report.get("deploymentId")
    if deployment is None:
        raise Refused(
            "InvalidArgumentsError", "Cannot accept configuration validity report, the deployment ID provided was null"
        )
    accepted = report["status"] == "ACCEPTED"
    if not services.validation.report(caller, str(deployment), Report(accepted, str(report.get("message") or ""))):
        raise Refused("InvalidArgumentsError", "Validation request either timed out or was never made")
    return Reply()


# --- state and secrets


async def update_state(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """A component reports that it is RUNNING or ERRORED."""
    state = request.get("state")
    if state not in ("RUNNING", "ERRORED"):
        raise _invalid(services, f"not a state that a component can report: {state!r}")
    services.on_state(caller, state)
    return Reply()


async def get_secret_value(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """The current version of a secret, asked for by ARN or name. Policies are about the ARN."""
    wanted = request.get("secretId")
    known = {_arn(secret): value for secret, value in services.secrets.items()}
    arn = next((arn for arn in known if wanted in (arn, _name(arn))), None)
    if arn is None:
        raise Refused("ResourceNotFoundError", f"secret {wanted} is not known")
    _authorise(services, caller, access.SECRETS, "GetSecretValue", arn)
    return Reply(
        {
            "secretId": arn,
            "versionId": "00000000-0000-0000-0000-000000000001",
            "versionStage": ["AWSCURRENT"],
            "secretValue": {"secretString": known[arn]},
        }
    )


def _arn(secret: str) -> str:
    """The ARN of a secret that was given by name."""
    if secret.startswith("arn:"):
        return secret
    return f"arn:aws:secretsmanager:us-east-1:000000000000:secret:{secret}-000000"


def _name(arn: str) -> str:
    """The name in an ARN, which ends with a hyphen and six characters of its own."""
    return arn.rpartition(":")[2][:-7]


# --- IoT Core


def iot_size(topic: str, payload: bytes) -> int:
    """What a message to or from IoT Core takes of the nucleus's buffer, in bytes."""
    return len(payload) + len(topic.encode()) + 8


async def publish_to_iot_core(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """Publish to the in-process broker. On lite a message that is too large is lost without an error."""
    profile = services.profile
    topic, payload = _topic(services, request.get("topicName"), "topicName"), request.get("payload") or ""
    if has_wildcard(topic) or str(request.get("qos")) not in ("0", "1"):
        raise _invalid(services, "topicName has no wildcards and qos is 0 or 1")
    _authorise(services, caller, access.IOT_CORE, "PublishToIoTCore", topic)
    try:
        size = iot_size(topic, base64.b64decode(payload, validate=True))
    except (ValueError, TypeError) as error:
        raise _invalid(services, f"payload is not base64: {error}") from error
    if size > profile.max_iot_message:
        if profile.drops_large_iot_silently:
            return Reply()
        raise Refused("ServiceError", f"the message is larger than {profile.max_iot_message} bytes")
    await services.iot.publish(
        topic, json.dumps({"message": {"topicName": topic, "payload": payload}}).encode(), caller
    )
    return Reply()


async def subscribe_to_iot_core(services: Services, caller: str, request: Mapping[str, Any]) -> Reply:
    """Follow a topic filter at the in-process broker; a component hears itself, as with any MQTT broker."""
    topic = _topic(services, request.get("topicName"), "topicName")
    if not is_valid_filter(topic):
        raise _invalid(services, f"not a topic filter: {topic!r}")
    _authorise(services, caller, access.IOT_CORE, "SubscribeToIoTCore", topic)

    def subscribe(outlet: Outlet) -> Cancel:
        async def deliver(_: str, event: bytes) -> None:
            await outlet.offer(event)

        return services.iot.subscribe(Subscriber(topic, caller, False, deliver))

    return Reply({}, subscribe)


OPERATIONS: Mapping[str, Operation] = {
    "PublishToTopic": Operation(publish_to_topic),
    "SubscribeToTopic": Operation(subscribe_to_topic, "SubscriptionResponseMessage"),
    "GetConfiguration": Operation(get_configuration),
    "UpdateConfiguration": Operation(update_configuration),
    "SubscribeToConfigurationUpdate": Operation(subscribe_to_configuration_update, "ConfigurationUpdateEvents"),
    "SubscribeToValidateConfigurationUpdates": Operation(
        subscribe_to_validate_configuration_updates, "ValidateConfigurationUpdateEvents"
    ),
    "SendConfigurationValidityReport": Operation(send_configuration_validity_report),
    "UpdateState": Operation(update_state),
    "GetSecretValue": Operation(get_secret_value),
    "PublishToIoTCore": Operation(publish_to_iot_core),
    "SubscribeToIoTCore": Operation(subscribe_to_iot_core, "IoTCoreMessage"),
}
