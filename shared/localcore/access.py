"""accessControl: what a component may do, decided from its configuration at each call. Sans-I/O.

    accessControl:
      <service>:
        <policy id>: {operations: ["aws.greengrass#PublishToTopic"], resources: ["plant/*"]}

Several policies are alternatives; a malformed one counts for nothing. In a resource `*` stands for any run of
characters and `${*}`, `${?}`, `${$}` for the characters themselves. `+` and `#` are plain characters for local
publish/subscribe and MQTT wildcards for IoT Core. There is no policy for reading configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from localcore.profile import Profile
from localcore.topics import matches

PUBSUB = "aws.greengrass.ipc.pubsub"
IOT_CORE = "aws.greengrass.ipc.mqttproxy"
SECRETS = "aws.greengrass.SecretManager"

_TOKENS = re.compile(r"\$\{(?P<escaped>[*?$])\}|(?P<any>\*)|(?P<plain>[^*$]+|\$)")


def may(
    policies: Any,
    service: str,
    operation: str,
    resource: str,
    profile: Profile,
    variables: Mapping[str, str],
) -> bool:
    """Whether a component may do `operation` (full name) on `resource`, by the `policies` it has for `service`.

    `variables` are recipe variables, such as `iot:thingName`, that a resource may name in braces where the nucleus
    interpolates policies.
    """
    if "?" in resource or "${" in resource:
        return False
    if not isinstance(policies, Mapping):
        return False
    if profile.policy_arena is not None and _arena(policies) > profile.policy_arena:
        return False
    return any(
        ("*" in operations or operation in operations)
        and any(_covers(_interpolate(text, profile, variables), resource, service) for text in resources)
        for operations, resources in _wellformed(policies)
    )


def _wellformed(policies: Mapping[str, Any]) -> Iterator[tuple[list[str], list[str]]]:
    for policy in policies.values():
        if not isinstance(policy, Mapping):
            continue
        operations, resources = policy.get("operations"), policy.get("resources")
        if _texts(operations) and _texts(resources):
            yield operations, resources  # type: ignore[misc]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _interpolate(resource: str, profile: Profile, variables: Mapping[str, str]) -> str:
    if profile.interpolates_policies:
        for name, value in variables.items():
            resource = resource.replace("{" + name + "}", value)
    return resource


def _covers(pattern: str, resource: str, service: str) -> bool:
    if service == IOT_CORE and matches(pattern, resource):
        return True
    parts = []
    for token in _TOKENS.finditer(pattern):
        if token["escaped"]:
            parts.append(re.escape(token["escaped"]))
        else:
            parts.append(".*" if token["any"] else re.escape(token["plain"]))
    return re.fullmatch("".join(parts), resource, re.DOTALL) is not None


def _arena(policies: Mapping[str, Any]) -> int:
    """Bytes that policies take in the nucleus's memory: their text, and something for each key and element.

    Twelve policies of 150 bytes were measured to fit 4,096 and seventeen not to.
    """

    def parts(value: Any) -> int:
        if isinstance(value, Mapping):
            return sum(21 + parts(child) for child in value.values())
        if isinstance(value, list):
            return sum(11 + parts(child) for child in value)
        return 0

    return len(json.dumps(policies, separators=(",", ":"))) + parts(policies)
