"""What a deployment becomes: decided without a network, from the site document and the newest deployment."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import validate_parameters
from hypothesis import example, given
from hypothesis import strategies as st

from cli.document import load
from cli.flow_tests import documents
from cli.output import Failure
from cli.plan import (
    LONGEST_POINTER,
    Entry,
    Plan,
    Target,
    Wishes,
    below,
    built_version,
    make_plan,
    newest,
    read_before,
    read_target,
    resets,
    resets_of,
    tag_packages,
)
from cli.request import check_request
from cli.suite import RUNTIME, members

REPOSITORY = Path(__file__).resolve().parents[2]
GROUP = Target("arn:aws:iot:eu-central-1:123456789012:thinggroup/plant-gateways")
COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
VERSION = members()[COLLECTOR].version


def plan(
    folder: Path,
    components: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    found: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
    **wishes: Any,
) -> Plan:
    """The plan of a document with these components; `found`: versions that the cloud or a build folder would say."""
    path = folder / "site.yaml"
    path.write_text(json.dumps({"components": components, **(more or {})}))
    state = None if before is None else read_before({"components": before, "deploymentName": "Line 1"}, "before.json")
    return make_plan(load(path), GROUP, state, members(), (found or {}).get, Wishes(**wishes))


def entry(
    merge: Mapping[str, Any] | None = None, *, reset: list[str] | None = None, version: str = ""
) -> dict[str, Any]:
    """A component as a document has it."""
    update = {"merge": dict(merge)} if merge is not None else {}
    shown: dict[str, Any] = {"configurationUpdate": {**update, **({"reset": reset} if reset else {})}}
    return {**shown, "componentVersion": version} if version else shown


def deployed(
    merge: Mapping[str, Any] | None = None, *, reset: list[str] | None = None, version: str = VERSION, **more: Any
) -> dict[str, Any]:
    """A component as the service has it."""
    update: dict[str, Any] = {"merge": json.dumps(merge)} if merge is not None else {}
    if reset:
        update["reset"] = reset
    return {"componentVersion": version, **({"configurationUpdate": update} if update else {}), **more}


def update(made: Plan, name: str = COLLECTOR) -> tuple[Any, list[str]]:
    """Merge and reset of a component in the request."""
    found = made.request["components"][name].get("configurationUpdate", {})
    return json.loads(found["merge"]) if "merge" in found else None, found.get("reset", [])


# --- the request ----------------------------------------------------------------------------------------------------


def test_a_site_becomes_a_request_that_the_service_takes(tmp_path: Path) -> None:
    made = plan(tmp_path, {COLLECTOR: entry({"logLevel": "DEBUG"}), EXPORTER: None})
    assert made.request["targetArn"] == GROUP.arn
    assert {name: one["componentVersion"] for name, one in made.request["components"].items()} == {
        COLLECTOR: VERSION,
        EXPORTER: VERSION,
        RUNTIME: VERSION,
    }
    assert made.request["components"][COLLECTOR]["configurationUpdate"] == {"merge": '{"logLevel":"DEBUG"}'}
    assert "configurationUpdate" not in made.request["components"][EXPORTER]
    assert made.request["deploymentPolicies"] == {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
    }


@pytest.mark.parametrize("example", documents(REPOSITORY / "examples"), ids=lambda path: path.stem)
def test_every_example_becomes_a_request_that_botocores_model_accepts(example: Path) -> None:
    made = make_plan(load(example), GROUP, None, members(), lambda name: "1.0.0", Wishes())
    model = botocore.session.get_session().get_service_model("greengrassv2")
    shape = model.operation_model("CreateDeployment").input_shape
    validate_parameters(dict(made.request), shape)
    assert RUNTIME in made.request["components"]


def test_policies_and_rollout_come_from_the_document_and_the_command_line_wins(tmp_path: Path) -> None:
    rollout = {"jobExecutionsRolloutConfig": {"maximumPerMinute": 5}}
    more = {"deploymentPolicies": {"failureHandlingPolicy": "DO_NOTHING"}, "iotJobConfiguration": rollout}
    assert plan(tmp_path, {COLLECTOR: None}, more=more).request["deploymentPolicies"]["failureHandlingPolicy"] == (
        "DO_NOTHING"
    )
    made = plan(tmp_path, {COLLECTOR: None}, more=more, rollback=True, validate=True)
    assert made.request["deploymentPolicies"]["failureHandlingPolicy"] == "ROLLBACK"
    assert made.request["deploymentPolicies"]["configurationValidationPolicy"] == {"timeoutInSeconds": 60}
    assert made.request["iotJobConfiguration"] == rollout


def test_a_fleets_rollout_name_and_user_are_kept(tmp_path: Path) -> None:
    user = {"posixUser": "sluice:sluice"}
    path = tmp_path / "site.yaml"
    path.write_text(json.dumps({"components": {COLLECTOR: None}}))
    before = read_before(
        {
            "deploymentName": "Line 1",
            "components": {COLLECTOR: deployed(runWith=user)},
            "iotJobConfiguration": {"timeoutConfig": {"inProgressTimeoutInMinutes": 60}},
        },
        "before.json",
    )
    made = make_plan(load(path), GROUP, before, members(), lambda name: None, Wishes())
    assert made.request["deploymentName"] == "Line 1"
    assert made.request["components"][COLLECTOR]["runWith"] == user
    assert made.request["iotJobConfiguration"] == {"timeoutConfig": {"inProgressTimeoutInMinutes": 60}}


def test_a_merge_that_no_deployment_takes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    tags = {"T1": {"node": "ns=2;s=" + "x" * 10_500_000}}
    with pytest.raises(Failure, match=r"takes 10485760: put long tag lists into a tag package"):
        plan(tmp_path, {COLLECTOR: entry({"connections": {"line1": {"tags": tags}}})})


# --- what the group has already -------------------------------------------------------------------------------------


def test_components_that_the_document_does_not_name_stay_as_they_are_and_are_told(tmp_path: Path) -> None:
    other = deployed({"x": 1}, version="3.1.4", reset=["/y"], runWith={"posixUser": "a:b"})
    made = plan(tmp_path, {COLLECTOR: None}, {"com.acme.Camera": other, COLLECTOR: deployed()})
    assert made.request["components"]["com.acme.Camera"] == other
    assert any("com.acme.Camera; --remove NAME removes one" in note for note in made.notes)
    assert {change.component: change.action for change in made.changes}["com.acme.Camera"] == "kept"


def test_a_component_goes_only_by_name(tmp_path: Path) -> None:
    before = {"com.acme.Camera": deployed(version="3.1.4"), COLLECTOR: deployed()}
    made = plan(tmp_path, {COLLECTOR: None}, before, remove=frozenset({"com.acme.Camera"}))
    assert "com.acme.Camera" not in made.request["components"]
    assert {change.component: change.action for change in made.changes}["com.acme.Camera"] == "removed"
    with pytest.raises(Failure, match=r"no such component; it has com\.acme\.Camera, io\.sluice\.OpcUaCollector"):
        plan(tmp_path, {COLLECTOR: None}, before, remove=frozenset({"com.acme.Kamera"}))
    with pytest.raises(Failure, match="the site document lists it: take it out there"):
        plan(tmp_path, {COLLECTOR: None}, before, remove=frozenset({COLLECTOR}))


def test_what_was_merged_and_is_gone_from_the_document_is_reset(tmp_path: Path) -> None:
    old = {"logLevel": "DEBUG", "connections": {"line1": {"endpoint": "a"}, "line2": {"endpoint": "b", "asset": "x"}}}
    new = {"connections": {"line2": {"endpoint": "b"}}}
    made = plan(tmp_path, {COLLECTOR: entry(new)}, {COLLECTOR: deployed(old)})
    assert update(made) == (new, ["/logLevel", "/connections/line1", "/connections/line2/asset"])


def test_a_document_with_nothing_left_resets_and_merges_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path, {COLLECTOR: None}, {COLLECTOR: deployed({"logLevel": "DEBUG"})})
    assert update(made) == (None, ["/logLevel"])


def test_an_entry_that_is_deleted_stays_deleted(tmp_path: Path) -> None:
    gone = {"connections": {"line1": {"delete": True}, "line2": None}}
    made = plan(tmp_path, {COLLECTOR: entry(gone)}, {COLLECTOR: deployed(gone)})
    assert update(made) == (gone, [])


def test_resets_of_the_document_and_of_earlier_deployments_are_carried_along(tmp_path: Path) -> None:
    """A device that was away for two deployments gets the second only."""
    before = {COLLECTOR: deployed({"logLevel": "INFO"}, reset=["/connections/line1", "/compress"])}
    made = plan(tmp_path, {COLLECTOR: entry({"compress": False}, reset=["/outbox"])}, before)
    assert update(made) == ({"compress": False}, ["/outbox", "/logLevel", "/connections/line1", "/compress"])


def test_a_pointer_below_another_is_left_out(tmp_path: Path) -> None:
    before = {COLLECTOR: deployed({"outbox": {"maxSize": "2GB"}})}
    made = plan(tmp_path, {COLLECTOR: entry({"logLevel": "INFO"}, reset=["/outbox"])}, before)
    assert update(made) == ({"logLevel": "INFO"}, ["/outbox"])


MERGES = st.dictionaries(
    st.sampled_from("ab"),
    st.just(0) | st.dictionaries(st.sampled_from("xy"), st.integers(0, 1), min_size=1),
    max_size=2,
)


@given(st.lists(st.tuples(MERGES, st.booleans()), min_size=1, max_size=6))
@example([({"a": {"x": 0, "y": 0}}, True), ({}, False), ({"a": {"x": 0}}, True)])
def test_a_device_that_missed_deployments_ends_with_the_last_document(steps: list[tuple[Any, bool]]) -> None:
    """Offline for as many as it may be, and whatever came and went meanwhile."""
    device: dict[str, Any] = {}
    carried: list[str] = []
    had: Entry | None = None
    for number, (merge, online) in enumerate(steps, 1):
        carried, _ = resets_of(merge, (), had)
        had = Entry(VERSION, merge, carried)
        if online or number == len(steps):
            for pointer in carried:
                without(device, pointer)
            device = merged(device, merge)
    assert bare(device) == bare(merged({}, steps[-1][0]))


def test_resetting_everything_is_not_repeated_and_told(tmp_path: Path) -> None:
    """It would take away what others have merged since."""
    made = plan(tmp_path, {COLLECTOR: entry({"compress": False})}, {COLLECTOR: deployed(reset=[""])})
    assert update(made)[1] == []
    assert any("the newest deployment reset everything" in note for note in made.notes)


def test_a_document_for_another_target_is_refused(tmp_path: Path) -> None:
    other = GROUP.arn.replace("plant-gateways", "line-2")
    with pytest.raises(Failure, match=r"targetArn of site.yaml is .*line-2, and this deployment is for"):
        plan(tmp_path, {COLLECTOR: None}, more={"targetArn": other})
    plan(tmp_path, {COLLECTOR: None}, more={"targetArn": GROUP.arn})


def test_the_documents_name_and_tags_are_taken(tmp_path: Path) -> None:
    made = plan(tmp_path, {COLLECTOR: None}, {}, more={"deploymentName": "Line 7", "tags": {"site": "a"}})
    assert (made.request["deploymentName"], made.request["tags"]) == ("Line 7", {"site": "a"})


def test_nothing_is_removed_from_a_deployment_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="a dry run knows of one with --current or --against"):
        plan(tmp_path, {COLLECTOR: None}, remove=frozenset({"com.acme.Camera"}))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"deploymentPolicies": {"failureHandlingPolicy": "NOPE"}}, "failureHandlingPolicy = NOPE is none of"),
        ({"deploymentPolicies": {"componentUpdatePolicy": {"timeoutInSeconds": "x"}}}, "timeoutInSeconds"),
        ({"deploymentPolicies": {"rollback": True}}, "rollback"),
        ({"tags": {"a": 1}}, "tags"),
    ],
)
def test_what_the_service_would_refuse_is_told_before_it_is_asked(tmp_path: Path, more: Any, words: str) -> None:
    with pytest.raises(Failure, match="the service would not take this deployment") as refused:
        check_request(plan(tmp_path, {COLLECTOR: None}, more=more).request)
    assert words in str(refused.value)


def test_a_reset_alone_falls_into_the_trap_as_well(tmp_path: Path) -> None:
    before = {COLLECTOR: deployed({"validateDeployments": True}), EXPORTER: deployed({"logLevel": "INFO"})}
    wanted = {
        COLLECTOR: entry({"validateDeployments": True, "logLevel": "DEBUG"}),
        EXPORTER: entry({"logLevel": "INFO"}, reset=["/sinks"]),
    }
    with pytest.raises(Failure, match="this deployment would fail on every device"):
        plan(tmp_path, wanted, before)


def test_carried_resets_stay_bounded(tmp_path: Path) -> None:
    before = {COLLECTOR: deployed(reset=[f"/connections/line{i}" for i in range(600)])}
    made = plan(tmp_path, {COLLECTOR: None}, before)
    assert len(update(made)[1]) == 500
    assert update(made)[1][-1] == "/connections/line599"
    assert any("100 resets of earlier deployments are no longer carried along" in note for note in made.notes)


TREES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(st.sampled_from(["a", "b", "a/b", "~c"]), st.integers() | st.lists(st.integers()), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a/b", "~c", "d" * 120]), inner | st.none(), max_size=3),
    max_leaves=12,
)


@given(TREES, TREES)
def test_after_reset_and_merge_a_device_has_exactly_the_document(old: dict[str, Any], new: dict[str, Any]) -> None:
    device = merged({}, old)
    pointers = resets(old, new)
    for pointer in pointers:
        assert len(pointer) <= LONGEST_POINTER
        without(device, pointer)
    assert bare(merged(device, new)) == bare(merged({}, new))
    assert not any(one != other and below(one, other) for one in pointers for other in pointers)


@given(TREES)
def test_an_unchanged_document_resets_nothing(tree: dict[str, Any]) -> None:
    assert resets(tree, copy.deepcopy(tree)) == []


def merged(device: dict[str, Any], merge: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in merge.items():
        there = device.get(key)
        if isinstance(value, Mapping):
            # A value that becomes a map, or the reverse, is what nucleus lite refuses.
            assert isinstance(there, dict) or there is None
            device[key] = merged(dict(there or {}), value)
        else:
            assert not isinstance(there, dict) or value is None
            device[key] = value
    return device


def without(device: dict[str, Any], pointer: str) -> None:
    *above, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    inner: Any = device
    for step in above:
        inner = inner.get(step) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(last, None)


def bare(tree: Any) -> Any:
    """Without empty maps: a reset leaves the map around it, which says nothing."""
    if not isinstance(tree, dict):
        return tree
    return {key: inner for key, value in tree.items() if (inner := bare(value)) != {}}


# --- versions -------------------------------------------------------------------------------------------------------


def test_the_runtime_has_the_newest_version_of_the_suite_in_the_deployment(tmp_path: Path) -> None:
    made = plan(tmp_path, {COLLECTOR: entry(version="0.1.7"), EXPORTER: entry(version="0.1.10")})
    assert made.request["components"][RUNTIME]["componentVersion"] == "0.1.10"
    made = plan(tmp_path, {COLLECTOR: None, RUNTIME: entry(version="0.1.99")})
    assert made.request["components"][RUNTIME]["componentVersion"] == "0.1.99"


def test_components_of_two_releases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"OpcUaCollector 0\.9\.0, io\.sluice\.StreamExporter .* different releases"):
        plan(tmp_path, {EXPORTER: None}, {COLLECTOR: deployed(version="0.9.0")})


def test_without_a_component_of_the_suite_there_is_no_runtime(tmp_path: Path) -> None:
    made = plan(tmp_path, {"com.acme.Camera": entry(version="1.0.0")})
    assert set(made.request["components"]) == {"com.acme.Camera"}


def test_a_version_of_somebody_elses_component_is_looked_up_or_asked_for(tmp_path: Path) -> None:
    wanted = {"aws.greengrass.StreamManager": None}
    made = plan(tmp_path, wanted, found={"aws.greengrass.StreamManager": "2.2.1"})
    assert made.request["components"]["aws.greengrass.StreamManager"]["componentVersion"] == "2.2.1"
    with pytest.raises(Failure, match=r"components\.aws\.greengrass\.StreamManager: no version.*componentVersion"):
        plan(tmp_path, wanted)


def test_tag_packages_that_connections_name_come_along(tmp_path: Path) -> None:
    merge = {"connections": {"line1": {"tagsPackage": "site-a"}, "line2": {"tagsPackage": "io.sluice.Tags.site-b"}}}
    assert tag_packages(merge) == {"io.sluice.Tags.site-a", "io.sluice.Tags.site-b"}
    found = {"io.sluice.Tags.site-a": "1.0.3", "io.sluice.Tags.site-b": "2.0.0"}
    made = plan(tmp_path, {COLLECTOR: entry(merge)}, found=found)
    assert {name: made.request["components"][name]["componentVersion"] for name in found} == found
    with pytest.raises(
        Failure, match=r"io\.sluice\.Tags\.site-b, and no version of it is known: make it with `sluice tags"
    ):
        plan(tmp_path, {COLLECTOR: entry(merge)}, found={"io.sluice.Tags.site-a": "1.0.3"})


def test_a_tag_package_in_the_document_keeps_its_version(tmp_path: Path) -> None:
    merge = {"connections": {"line1": {"tagsPackage": "site-a"}}}
    made = plan(tmp_path, {COLLECTOR: entry(merge), "io.sluice.Tags.site-a": entry(version="1.0.1")})
    assert made.request["components"]["io.sluice.Tags.site-a"]["componentVersion"] == "1.0.1"


def test_the_newest_built_version_counts(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for version in ("1.0.9", "1.0.10", "0.9.0"):
        (tmp_path / "recipes" / f"io.sluice.Tags.site-a-{version}.yaml").touch()
    (tmp_path / "recipes" / "io.sluice.Tags.site-a-b-7.0.0.yaml").touch()
    assert built_version("io.sluice.Tags.site-a", tmp_path) == "1.0.10"
    assert built_version("io.sluice.Tags.site-c", tmp_path) is None
    assert built_version("io.sluice.Tags.site-a", tmp_path / "none") is None
    assert newest(["1.0.0-rc1", "1.0.0", "nonsense"]) == "1.0.0"


# --- the plan that people see ---------------------------------------------------------------------------------------


def test_the_plan_says_what_changes_and_what_restarts(tmp_path: Path) -> None:
    before = {
        COLLECTOR: deployed({"connections": {"line1": {"endpoint": "a"}}}),
        EXPORTER: deployed(),
        "aws.greengrass.StreamManager": deployed(version="2.2.0"),
        RUNTIME: deployed(),
    }
    wanted = {
        COLLECTOR: entry({"connections": {"line1": {"endpoint": "b"}}}),
        EXPORTER: None,
        "aws.greengrass.StreamManager": entry(version="2.2.1"),
    }
    changes = {change.component: change for change in plan(tmp_path, wanted, before).changes}
    collector, exporter = changes[COLLECTOR], changes[EXPORTER]
    assert (collector.action, collector.settings) == ("changed", ["/connections/line1/endpoint"])
    assert (collector.restarts_on_classic, collector.restarts_on_lite) == (False, True)
    # It needs stream manager (HARD), which is installed anew.
    assert (exporter.action, exporter.restarts_on_classic, exporter.restarts_on_lite) == ("unchanged", True, True)
    assert changes["aws.greengrass.StreamManager"].before == "2.2.0"
    assert (changes[RUNTIME].action, changes[RUNTIME].restarts_on_lite) == ("unchanged", False)


def test_lite_restarts_whatever_has_a_configuration_update(tmp_path: Path) -> None:
    before = {COLLECTOR: deployed({"logLevel": "INFO"})}
    [collector] = [
        change
        for change in plan(tmp_path, {COLLECTOR: entry({"logLevel": "INFO"})}, before).changes
        if change.component == COLLECTOR
    ]
    assert (collector.action, collector.restarts_on_classic, collector.restarts_on_lite) == ("unchanged", False, True)


# --- the trap of validation -----------------------------------------------------------------------------------------


def test_a_deployment_that_the_validation_trap_would_fail_is_refused(tmp_path: Path) -> None:
    before = {COLLECTOR: deployed({"validateDeployments": True}), EXPORTER: deployed({"logLevel": "INFO"})}
    wanted = {
        COLLECTOR: entry({"validateDeployments": True, "logLevel": "DEBUG"}),
        EXPORTER: entry({"logLevel": "DEBUG"}),
    }
    with pytest.raises(Failure, match=r"StreamExporter changes too and does not answer\. Deploy .* alone first"):
        plan(tmp_path, wanted, before, validate=True)
    # Whether it subscribes is in the configuration that it runs with, not in the new one.
    both = {
        name: entry({**json.loads(json.dumps({"validateDeployments": True})), "logLevel": "DEBUG"}) for name in before
    }
    with pytest.raises(Failure, match="would fail on every device"):
        plan(tmp_path, both, before)


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ({COLLECTOR: {"validateDeployments": True}}, {COLLECTOR: {"validateDeployments": True, "logLevel": "DEBUG"}}),
        ({COLLECTOR: {"a": 1}, EXPORTER: {"a": 1}}, {COLLECTOR: {"a": 2}, EXPORTER: {"a": 2}}),
        ({COLLECTOR: {"validateDeployments": True}}, {COLLECTOR: {"validateDeployments": True}, EXPORTER: {"a": 1}}),
    ],
    ids=["all that change validate", "none validates", "the other is new"],
)
def test_other_deployments_are_not(tmp_path: Path, before: dict[str, Any], wanted: dict[str, Any]) -> None:
    state = {name: deployed(merge) for name, merge in before.items()}
    plan(tmp_path, {name: entry(merge) for name, merge in wanted.items()}, state)


def test_validation_that_nobody_answers_is_told(tmp_path: Path) -> None:
    made = plan(tmp_path, {COLLECTOR: None}, {COLLECTOR: deployed()}, validate=True)
    assert any("none will be asked" in note for note in made.notes)


# --- what comes from outside ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({}, "no `components`"),
        ({"components": {"a": {}}}, "components.a: no componentVersion"),
        ({"components": {"a": 7}}, "components.a: no componentVersion"),
        ({"components": {"a": deployed()}, "deploymentName": None}, ""),
        ({"components": {"a": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": "{"}}}}, "is not JSON"),
        ({"components": {"a": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": "[]"}}}}, "not an object"),
        ({"components": {"a": {"componentVersion": "1.0.0", "configurationUpdate": "x"}}}, "is not a map with merge"),
        ({"components": {"a": {"componentVersion": "1.0.0", "configurationUpdate": {"reset": 7}}}}, "a list of reset"),
        ({"components": {}, "iotJobConfiguration": 5}, "iotJobConfiguration is not a map"),
    ],
)
def test_a_newest_deployment_that_is_none_is_refused_in_words(answer: dict[str, Any], problem: str) -> None:
    if not problem:
        assert read_before(answer, "x.json").components["a"].version == VERSION
        return
    with pytest.raises(Failure, match=problem):
        read_before(answer, "x.json")


def test_targets_are_arns_or_names() -> None:
    assert read_target("plant-gateways") is None
    assert read_target(GROUP.arn) == GROUP
    assert (GROUP.name, GROUP.region, GROUP.account, GROUP.is_group) == (
        "plant-gateways",
        "eu-central-1",
        "123456789012",
        True,
    )
    thing = read_target("arn:aws-cn:iot:cn-north-1:123456789012:thing/gateway-1")
    assert thing is not None
    assert thing.words == "thing gateway-1"
    assert thing.component("aws.greengrass.Nucleus", owner="aws") == (
        "arn:aws-cn:greengrass:cn-north-1:aws:components:aws.greengrass.Nucleus"
    )
    with pytest.raises(Failure, match="is not the ARN of a thing group or thing"):
        read_target("arn:aws:s3:::bucket")
