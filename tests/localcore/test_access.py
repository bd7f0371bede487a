"""accessControl: who may do what."""

from __future__ import annotations

from typing import Any

import pytest

from localcore.access import IOT_CORE, PUBSUB, may
from localcore.profile import CLASSIC, LITE, Profile

PUBLISH = "aws.greengrass#PublishToTopic"
THING = {"iot:thingName": "core7"}
BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])


def policy(*resources: str, operations: tuple[str, ...] = (PUBLISH,)) -> dict[str, Any]:
    return {"p:1": {"policyDescription": "x", "operations": list(operations), "resources": list(resources)}}


@BOTH
@pytest.mark.parametrize(
    ("resource", "topic", "expected"),
    [
        ("plant/line1", "plant/line1", True),
        ("plant/line1", "plant/line2", False),
        ("plant/*", "plant/a/b", True),
        ("plant/*", "plant/", True),
        ("plant/*", "plant", False),
        ("*/a/*", "x/y/a/z", True),
        ("plant/+", "plant/a", False),
        ("plant/+", "plant/+", True),
        ("plant/#", "plant/a", False),
        ("plant/#", "plant/#", True),
        ("plant/${*}", "plant/*", True),
        ("plant/${*}", "plant/a", False),
        ("plant/.", "plant/x", False),
        ("*", "plant/a?", False),
        ("*", "plant/${x", False),
    ],
)
def test_only_the_star_is_a_wildcard_of_a_local_resource(
    profile: Profile, resource: str, topic: str, expected: bool
) -> None:
    assert may(policy(resource), PUBSUB, PUBLISH, topic, profile, THING) is expected


@BOTH
def test_the_operation_is_named_in_full_or_by_a_star(profile: Profile) -> None:
    def allowed(operation: str) -> bool:
        return may(policy("a", operations=(operation,)), PUBSUB, PUBLISH, "a", profile, THING)

    assert allowed(PUBLISH)
    assert allowed("*")
    assert not allowed("PublishToTopic")
    assert not allowed("aws.greengrass#SubscribeToTopic")


@BOTH
def test_policies_are_alternatives_and_a_malformed_one_counts_for_nothing(profile: Profile) -> None:
    policies = {"bad": {"operations": PUBLISH, "resources": ["b"]}, "worse": 5, **policy("a")}
    assert may(policies, PUBSUB, PUBLISH, "a", profile, THING)
    assert not may(policies, PUBSUB, PUBLISH, "b", profile, THING)
    assert not may({}, PUBSUB, PUBLISH, "a", profile, THING)
    assert not may(None, PUBSUB, PUBLISH, "a", profile, THING)


@BOTH
def test_resources_of_iot_core_are_topic_filters_too(profile: Profile) -> None:
    assert may(policy("m/#"), IOT_CORE, PUBLISH, "m/a/b", profile, THING)
    assert may(policy("m/+"), IOT_CORE, PUBLISH, "m/a", profile, THING)
    assert may(policy("m/*"), IOT_CORE, PUBLISH, "m/a/b", profile, THING)
    assert not may(policy("m/+"), IOT_CORE, PUBLISH, "m/a/b", profile, THING)


def test_lite_puts_the_thing_name_into_resources_and_classic_by_default_does_not() -> None:
    assert may(policy("dt/{iot:thingName}/*"), IOT_CORE, PUBLISH, "dt/core7/x", LITE, THING)
    assert not may(policy("dt/{iot:thingName}/*"), IOT_CORE, PUBLISH, "dt/core7/x", CLASSIC, THING)


@pytest.mark.parametrize(("count", "expected"), [(12, True), (17, False)])
def test_too_many_policies_authorise_nothing_on_lite(count: int, expected: bool) -> None:
    """Twelve policies of 150 bytes were measured to work, seventeen to shut everything."""
    one = {"policyDescription": "y" * 40, "operations": [PUBLISH], "resources": ["plant/*"]}
    policies = {f"policy:{number:02}": one for number in range(count)}
    assert may(policies, PUBSUB, PUBLISH, "plant/a", LITE, THING) is expected
    assert may(policies, PUBSUB, PUBLISH, "plant/a", CLASSIC, THING)
