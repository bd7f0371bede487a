"""Configuration: scoped errors with exact words, coercion, last good forms, exact differences."""

from __future__ import annotations

import json
import logging
import stat
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from sluice.config import (
    Changes,
    ComponentSettings,
    Duration,
    KeptFile,
    Labelled,
    Named,
    Parts,
    Problem,
    SecretRef,
    Settings,
    Size,
    diff,
    load,
    load_entries,
    refuse,
)

# A component's configuration as its config.py would write it.


class Tag(Settings):
    node: Annotated[str, Field(examples=["nsu=urn:x;s=Temp"])]
    unit: str = ""
    deadband: Annotated[float, Field(ge=0, le=100)] | None = None


class Security(Settings):
    policy: Literal["auto", "None", "Basic256Sha256"] = "auto"


class Connection(Settings):
    endpoint: Annotated[str, Field(pattern=r"^opc\.tcp://", examples=["opc.tcp://10.0.0.5:4840"])]
    publishing_interval: Annotated[Duration, Field(ge=0.05)] = 0.5
    queue_size: int | None = None
    enabled: bool = True
    password: SecretRef | None = None
    security: Security = Security()
    tags: Labelled[Tag] = Field(default_factory=dict)


class Sink(Settings):
    ack_on: Literal["exported", "appended"] = "exported"
    """A word that every sink may have: it tells none from another."""


class S3(Sink):
    type: Literal["s3"]
    bucket: str
    rotate_size: Annotated[Size, Field(le=64_000_000)] = 16_000_000


class Kinesis(Sink):
    type: Literal["kinesis"]
    kinesis_stream: str


class Pool(Settings):
    request_timeout: Duration = 5.0


class Site(ComponentSettings):
    connections: Named[Connection] = Field(default_factory=dict)
    sinks: Named[S3 | Kinesis] = Field(default_factory=dict)
    pool: Pool = Pool()
    sources: list[str] = Field(default_factory=lambda: ["*"])


def site(**settings: Any) -> dict[str, Any]:
    return {"connections": {"line1": {"endpoint": "opc.tcp://plc:4840", **settings}}}


def told(problem: Problem) -> tuple[str, Any, str, str, str]:
    return problem.path, problem.value, problem.problem, problem.remedy, problem.effect


LINE1_OUT = "connections.line1 is not applied"

USER_ERRORS: list[tuple[str, dict[str, Any], tuple[str, Any, str, str, str]]] = [
    (
        "a required setting is missing",
        {"connections": {"line1": {}}},
        (
            "connections.line1.endpoint",
            None,
            "is required",
            "add it, for example opc.tcp://10.0.0.5:4840",
            LINE1_OUT,
        ),
    ),
    (
        "a text does not have the form it must have",
        {"connections": {"line1": {"endpoint": "http://plc"}}},
        (
            "connections.line1.endpoint",
            "http://plc",
            "is not written as it must be",
            r"it must match ^opc\.tcp://",
            LINE1_OUT,
        ),
    ),
    (
        "a duration has no known unit",
        site(publishingInterval="5 parsecs"),
        (
            "connections.line1.publishingInterval",
            "5 parsecs",
            "has the unknown unit 'parsecs'",
            "write a number with a unit: 500ms, 5s, 2m, 1h or 7d",
            LINE1_OUT,
        ),
    ),
    (
        "a duration is below its limit, which is told with its unit",
        site(publishingInterval="1ms"),
        ("connections.line1.publishingInterval", "1ms", "is too small", "use 50ms or more", LINE1_OUT),
    ),
    (
        "a size is above its limit, which is told with its unit",
        {"sinks": {"archive": {"type": "s3", "bucket": "b", "rotateSize": "1GB"}}},
        ("sinks.archive.rotateSize", "1GB", "is too large", "use 64MB or less", "sinks.archive is not applied"),
    ),
    (
        "a number is words",
        site(queueSize="many"),
        (
            "connections.line1.queueSize",
            "many",
            "is not a whole number",
            "write a whole number such as 5",
            LINE1_OUT,
        ),
    ),
    (
        "a duration has a decimal comma",
        site(publishingInterval="0,5s"),
        ("connections.line1.publishingInterval", "0,5s", "has a decimal comma", "write 0.5s", LINE1_OUT),
    ),
    (
        "a number has a decimal comma",
        site(tags={"T": {"node": "i=1", "deadband": "0,5"}}),
        (
            "connections.line1.tags.T.deadband",
            "0,5",
            "has a decimal comma",
            "write 0.5",
            "connections.line1.tags.T is not applied",
        ),
    ),
    (
        "a number has a fraction where none can be",
        site(queueSize=2.5),
        ("connections.line1.queueSize", 2.5, "is not a whole number", "write a whole number such as 5", LINE1_OUT),
    ),
    (
        "a switch is neither on nor off",
        site(enabled="perhaps"),
        (
            "connections.line1.enabled",
            "perhaps",
            "is neither true nor false",
            "write true or false, or leave it out for true",
            LINE1_OUT,
        ),
    ),
    (
        "a word is not among the allowed ones",
        site(security={"policy": "Basic256"}),
        (
            "connections.line1.security.policy",
            "Basic256",
            "is not one of the allowed words",
            "use one of: auto, None, Basic256Sha256; did you mean Basic256Sha256?",
            LINE1_OUT,
        ),
    ),
    (
        "a kind of sink does not exist",
        {"sinks": {"archive": {"type": "kineses", "bucket": "b"}}},
        (
            "sinks.archive.type",
            "kineses",
            "is not a known kind",
            "use one of: s3, kinesis; did you mean kinesis?",
            "sinks.archive is not applied",
        ),
    ),
    (
        "a kind is not given",
        {"sinks": {"archive": {"bucket": "b"}}},
        ("sinks.archive.type", None, "is required", "use one of: s3, kinesis", "sinks.archive is not applied"),
    ),
    (
        "a name cannot stand in a topic",
        {"connections": {"line 1": {"endpoint": "opc.tcp://plc:4840"}}},
        (
            'connections["line 1"]',
            None,
            "is not usable as a name in topics",
            "use 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
            'connections["line 1"] is not applied',
        ),
    ),
    (
        "two names differ only in case",
        {"connections": {"line1": {"endpoint": "opc.tcp://a:1"}, "Line1": {"endpoint": "opc.tcp://b:1"}}},
        (
            "connections.Line1",
            None,
            "is the same name as line1 to Greengrass, which ignores case",
            'rename one of the two and remove this one with RESET "/connections/Line1"',
            "connections.Line1 is not applied",
        ),
    ),
    (
        "a map is a text",
        site(tags="T1,T2"),
        (
            "connections.line1.tags",
            "T1,T2",
            "is not a map of settings",
            "write key: value lines below it",
            LINE1_OUT,
        ),
    ),
    (
        "an entry is a number",
        {"sinks": {"archive": 7}},
        (
            "sinks.archive",
            7,
            "is not a map of settings",
            "write key: value lines below it",
            "sinks.archive is not applied",
        ),
    ),
    (
        "a list is a text",
        {"sources": "line1"},
        (
            "sources",
            "line1",
            "is not a list",
            'write a list such as [a, b], or leave it out for ["*"]',
            "the default of sources applies",
        ),
    ),
    (
        "an element of a list is a map",
        {"sources": ["a", {"b": 1}]},
        (
            "sources[1]",
            '{"b": 1}',
            "is not text",
            'write text, in quotes if it has special characters, or leave it out for ["*"]',
            "the default of sources applies",
        ),
    ),
    (
        "a setting below a top-level section is wrong",
        {"pool": {"requestTimeout": "soon"}},
        (
            "pool.requestTimeout",
            "soon",
            "is not a duration",
            "write a number with a unit: 500ms, 5s, 2m, 1h or 7d",
            "the default of pool applies",
        ),
    ),
    (
        "the log level is unknown",
        {"logLevel": "chatty"},
        (
            "logLevel",
            "chatty",
            "is no log level",
            "use one of: DEBUG, INFO, WARNING, ERROR",
            "the default of logLevel applies",
        ),
    ),
    (
        "the message size is out of reach",
        {"maxMessageBytes": "1GB"},
        (
            "maxMessageBytes",
            "1GB",
            "is outside 1KB to 16MB",
            "use auto, or 7000 for a core that runs nucleus lite and up to 16MB for one that does not",
            "the default of maxMessageBytes applies",
        ),
    ),
    (
        "a tag is wrong, its name having dots and slashes",
        site(tags={"Reactor/T.1": {"node": ["x"]}}),
        (
            'connections.line1.tags["Reactor/T.1"].node',
            '["x"]',
            "is not text",
            "write text, in quotes if it has special characters, for example nsu=urn:x;s=Temp",
            'connections.line1.tags["Reactor/T.1"] is not applied',
        ),
    ),
    (
        "a secret reference names two places",
        site(password={"secret": "plc", "file": "/p"}),
        (
            "connections.line1.password",
            "***",
            "must name exactly one of secret and file",
            "write {secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}",
            LINE1_OUT,
        ),
    ),
]


@pytest.mark.parametrize(("raw", "expected"), [case[1:] for case in USER_ERRORS], ids=[case[0] for case in USER_ERRORS])
def test_an_error_names_place_value_problem_remedy_and_effect(
    raw: dict[str, Any], expected: tuple[str, Any, str, str, str]
) -> None:
    loaded = load(Site, raw)
    assert [told(problem) for problem in loaded.problems] == [expected]


def test_a_problem_reads_as_one_sentence() -> None:
    (problem,) = load(Site, site(publishingInterval="1ms")).problems
    assert str(problem) == (
        'connections.line1.publishingInterval = "1ms" is too small: use 50ms or more (connections.line1 is not applied)'
    )


def test_ten_thousand_entries_are_judged_in_a_fraction_of_what_a_deployment_waits() -> None:
    """The nucleus is answered within two seconds, on devices a few times slower than this machine."""
    tags = {f"T{number}": {"node": f"nsu=urn:x;s=T{number}", "unit": "degC"} for number in range(10_000)}
    began = time.process_time()
    loaded = load(Site, site(tags=tags))
    assert time.process_time() - began < 0.5
    assert len(loaded.config.connections["line1"].tags) == 10_000


@pytest.mark.parametrize("key", ["statusInterval", "logLevel", "unknown", "connections"])
def test_a_value_that_is_nested_without_end_is_told_like_any_other(key: str) -> None:
    deep: Any = "x"
    for _ in range(450):
        deep = [{"a": deep}]
    loaded = load(Site, {key: deep})
    [problem] = [*loaded.problems, *loaded.warnings]
    assert len(str(problem)) < 500


def test_a_secret_written_in_plain_text_is_refused_and_never_shown() -> None:
    loaded = load(Site, site(password="hunter2", pasword="hunter3", url="opc.tcp://me:hunter4@plc"))
    (problem,) = loaded.problems
    assert (problem.path, problem.value) == ("connections.line1.password", "***")
    assert problem.problem == "holds the secret itself, which every component on the core could read"
    everything = " ".join(map(str, (*loaded.problems, *loaded.warnings))) + json.dumps(loaded.applied)
    assert "hunter" not in everything


def test_all_errors_come_at_once_and_cost_only_their_own_scope() -> None:
    raw = {
        "statusInterval": "never",
        "connections": {
            "good": {
                "endpoint": "opc.tcp://a:1",
                "tags": {"T1": {"node": "a"}, "T2": {}, "T3": {"node": "c", "deadband": -1}},
            },
            "bad": {"endpoint": "x", "queueSize": "y", "tags": {"T1": {}}},
        },
        "sinks": {"kinesis": {"type": "kinesis"}, "s3": {"type": "s3", "bucket": "b"}},
    }
    loaded = load(Site, raw)
    assert {problem.path for problem in loaded.problems} == {
        "statusInterval",
        "connections.good.tags.T2.node",
        "connections.good.tags.T3.deadband",
        "connections.bad.endpoint",
        "connections.bad.queueSize",
        "connections.bad.tags.T1.node",
        "sinks.kinesis.kinesisStream",
    }
    assert list(loaded.config.connections) == ["good"]
    assert list(loaded.config.connections["good"].tags) == ["T1"]
    assert list(loaded.config.sinks) == ["s3"]
    assert loaded.config.status_interval == 5.0


def test_an_entry_with_an_error_keeps_its_last_good_form_and_the_others_change() -> None:
    before = load(Site, {"connections": {"a": {"endpoint": "opc.tcp://a:1"}, "b": {"endpoint": "opc.tcp://b:1"}}})
    after = load(
        Site,
        {"connections": {"a": {"endpoint": "a"}, "b": {"endpoint": "opc.tcp://b:2"}}},
        before.applied,
    )
    assert after.config.connections["a"].endpoint == "opc.tcp://a:1"
    assert after.config.connections["b"].endpoint == "opc.tcp://b:2"
    assert [problem.effect for problem in after.problems] == ["the last good form of connections.a keeps running"]
    again = load(Site, {"connections": {"a": {"endpoint": "a"}, "b": {}}}, after.applied)
    assert again.config == after.config


def test_a_tag_with_an_error_keeps_its_last_good_form_while_its_connection_changes() -> None:
    before = load(Site, site(tags={"T1": {"node": "a", "unit": "bar"}, "T2": {"node": "b"}}))
    raw = {"connections": {"line1": {"endpoint": "opc.tcp://new:1", "tags": {"T1": {"node": []}, "T2": {"node": "c"}}}}}
    line1 = load(Site, raw, before.applied).config.connections["line1"]
    assert line1.endpoint == "opc.tcp://new:1"
    assert {name: (tag.node, tag.unit) for name, tag in line1.tags.items()} == {"T1": ("a", "bar"), "T2": ("c", "")}


def test_a_top_level_setting_with_an_error_keeps_its_last_good_form() -> None:
    before = load(Site, {"statusInterval": "20s", "sources": ["a"]})
    after = load(Site, {"statusInterval": "soon", "sources": ["b"]}, before.applied)
    assert (after.config.status_interval, after.config.sources) == (20.0, ["b"])
    assert after.problems[0].effect == "the last good statusInterval keeps running"


def test_an_entry_that_is_gone_is_gone_also_when_it_was_good() -> None:
    before = load(Site, site())
    assert load(Site, {"connections": {}}, before.applied).config.connections == {}


@pytest.mark.parametrize(
    "last_good", [{"connections": {"line1": {"endpoint": 5}}}, {"connections": 7}, {"connections": []}]
)
def test_a_last_good_form_that_fits_no_more_is_not_used(last_good: dict[str, Any]) -> None:
    loaded = load(Site, {"connections": {"line1": {}}}, last_good)
    assert loaded.config == Site()
    assert [problem.effect for problem in loaded.problems] == [LINE1_OUT]


def test_an_unknown_key_is_a_warning_with_the_nearest_key_and_the_reset_path() -> None:
    loaded = load(Site, site(endpont="opc.tcp://x:1", tags={"Reactor/T~1": {"node": "a", "unti": "bar"}}))
    assert loaded.problems == []
    assert loaded.config.connections["line1"].endpoint == "opc.tcp://plc:4840"
    assert [told(warning) for warning in loaded.warnings] == [
        (
            "connections.line1.endpont",
            "opc.tcp://x:1",
            "is an unknown key",
            'did you mean endpoint? A merge cannot remove it: deploy with RESET "/connections/line1/endpont"',
            "it is ignored",
        ),
        (
            'connections.line1.tags["Reactor/T~1"].unti',
            "bar",
            "is an unknown key",
            "did you mean unit? A merge cannot remove it: deploy with RESET "
            '"/connections/line1/tags/Reactor~1T~01/unti"',
            "it is ignored",
        ),
    ]


def test_an_unknown_key_without_a_near_one_lists_what_there_is() -> None:
    (warning,) = load(Site, {"pool": {"xyzzy": 1}}).warnings
    assert (
        warning.remedy == 'the keys here are: requestTimeout. A merge cannot remove it: deploy with RESET "/pool/xyzzy"'
    )


def test_access_control_beside_the_settings_is_not_ours() -> None:
    loaded = load(Site, {"accessControl": {"aws.greengrass.ipc.pubsub": {}}})
    assert (loaded.problems, loaded.warnings, loaded.applied) == ([], [], {})


def test_scalars_of_lite_yaml_recipes_are_all_text() -> None:
    raw = {
        "configVersion": "1",
        "statusInterval": "2",
        "maxMessageBytes": "6500",
        "compress": "false",
        "logLevel": "debug",
        "connections": {
            "line1": {
                "endpoint": "opc.tcp://plc:4840",
                "publishingInterval": "0.25",
                "queueSize": "5",
                "enabled": "true",
                "security": {"policy": "none"},
                "tags": {"T1": {"node": "5", "deadband": "1.5"}, "T2": {"delete": "true"}, "T3": "null"},
            }
        },
    }
    loaded = load(Site, raw)
    assert (loaded.problems, loaded.warnings) == ([], [])
    config = loaded.config
    assert (config.status_interval, config.max_message_bytes, config.compress) == (2.0, 6500, False)
    assert config.log_level == "DEBUG"
    line1 = config.connections["line1"]
    assert (line1.publishing_interval, line1.queue_size, line1.enabled) == (0.25, 5, True)
    assert line1.security.policy == "None"
    assert line1.tags == {"T1": Tag(node="5", deadband=1.5)}


def test_integers_that_came_back_as_floats_are_integers() -> None:
    config = load(Site, {"configVersion": 1.0, "maxMessageBytes": 7000.0, **site(queueSize=5000.0)}).config
    assert config.max_message_bytes == 7000
    assert config.connections["line1"].queue_size == 5000


@pytest.mark.parametrize("absent", [None, {"delete": True}, {"delete": "True", "endpoint": "opc.tcp://x:1"}, "", "~"])
def test_null_and_delete_make_an_entry_absent(absent: Any) -> None:
    before = load(Site, {"connections": {"line1": {"endpoint": "opc.tcp://plc:4840"}}})
    loaded = load(Site, {"connections": {"line1": absent}}, before.applied)
    assert (loaded.config.connections, loaded.problems) == ({}, [])


def test_null_makes_a_setting_absent() -> None:
    loaded = load(Site, {"statusInterval": None, **site(tags=None, security=None)})
    assert loaded.problems == []
    assert loaded.config.status_interval == 5.0
    assert loaded.config.connections["line1"].tags == {}


def test_a_deleted_entry_leaves_its_name_to_another_spelling() -> None:
    loaded = load(Site, {"connections": {"line1": None, "Line1": {"endpoint": "opc.tcp://b:1"}}})
    assert (list(loaded.config.connections), loaded.problems) == (["Line1"], [])


@pytest.mark.parametrize("raw", [[], "text", 7, True])
def test_configuration_that_is_no_map_runs_the_last_good_one(raw: Any) -> None:
    before = load(Site, site())
    loaded = load(Site, raw, before.applied)
    assert loaded.config == before.config
    assert loaded.problems[0].remedy == "write key: value lines"


def test_every_top_level_setting_needs_a_default() -> None:
    with pytest.raises(TypeError, match="every top-level setting needs a default: endpoint"):

        class _Broken(ComponentSettings):
            endpoint: str


def test_rows_from_a_file_go_through_the_same_validator() -> None:
    rows = {"T1": {"node": "a"}, "T2": {}, "T 3": {"node": "c"}, "t1": {"node": "d"}}
    loaded = load_entries(Tag, rows, ("connections", "line1", "tagsFile"))
    assert list(loaded.entries) == ["T1", "T 3"]
    assert [problem.path for problem in loaded.problems] == [
        "connections.line1.tagsFile.T2.node",
        "connections.line1.tagsFile.t1",
    ]


def test_ten_thousand_wrong_rows_do_not_become_ten_thousand_problems() -> None:
    loaded = load_entries(Tag, {f"T{i}": {"nod": "x"} for i in range(10_000)}, ("tags",))
    assert len(loaded.problems) == len(loaded.warnings) == 1_001
    assert str(loaded.problems[-1]) == "configuration has more than 1000 problems: mend those that are shown first"


def test_a_validator_of_a_component_speaks_in_its_own_words() -> None:
    def even(value: Any) -> Any:
        return value if int(value) % 2 == 0 else refuse("is odd", "use an even one")

    from pydantic import BeforeValidator

    class Odd(ComponentSettings):
        number: Annotated[int, BeforeValidator(even)] = 2

    (problem,) = load(Odd, {"number": 3}).problems
    assert (problem.problem, problem.remedy) == ("is odd", "use an even one")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
site_keys = st.sampled_from(
    [
        "connections",
        "sinks",
        "line1",
        "Line1",
        "endpoint",
        "tags",
        "type",
        "bucket",
        "statusInterval",
        "password",
        "delete",
    ]
)
site_values = st.recursive(
    json_values | st.sampled_from(["s3", "kinesis", "opc.tcp://a:1", "5s", "7000", True]),
    lambda inner: st.dictionaries(site_keys, inner, max_size=4),
    max_leaves=20,
)


@given(raw=site_values, last_good=st.none() | st.dictionaries(site_keys, site_values, max_size=3))
def test_no_configuration_whatever_stops_a_component(raw: Any, last_good: dict[str, Any] | None) -> None:
    loaded = load(Site, raw, last_good)
    settled = load(Site, loaded.applied)
    assert settled.config == loaded.config, "what was applied is good by itself"
    assert settled.problems == []
    json.dumps([problem.as_dict() for problem in (*loaded.problems, *loaded.warnings)])


# --- differences ---


def changes(before: dict[str, Any], after: dict[str, Any]) -> Changes:
    return diff(load(Site, before).config, load(Site, after).config)


def paths(*written: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(path.split(".")) for path in written)


def test_an_equal_configuration_in_another_spelling_is_no_change() -> None:
    assert not changes({"statusInterval": "5s"}, {"statusInterval": 5.0})


def test_a_difference_is_exact_to_the_entry_and_the_setting() -> None:
    before = {
        "connections": {
            "a": {"endpoint": "opc.tcp://a:1", "tags": {"T1": {"node": "x"}, "T2": {"node": "y"}}},
            "b": {"endpoint": "opc.tcp://b:1"},
            "c": {"endpoint": "opc.tcp://c:1"},
        }
    }
    after = {
        "logLevel": "DEBUG",
        "connections": {
            "a": {"endpoint": "opc.tcp://a:1", "tags": {"T2": {"node": "y", "unit": "bar"}, "T3": {"node": "z"}}},
            "b": {"endpoint": "opc.tcp://b:2", "security": {"policy": "None"}},
            "d": {"endpoint": "opc.tcp://d:1"},
        },
    }
    found = changes(before, after)
    assert found == Changes(
        added=paths("connections.d", "connections.a.tags.T3"),
        removed=paths("connections.c", "connections.a.tags.T1"),
        changed=paths(
            "logLevel", "connections.a.tags.T2.unit", "connections.b.endpoint", "connections.b.security.policy"
        ),
    )
    entries = found.entries("connections")
    assert (set(entries.added), set(entries.removed)) == ({"d"}, {"c"})
    assert sorted(entries.changed) == ["a", "b"]
    assert entries.changed["a"].keys() == {"tags"}
    tags = entries.changed["a"].entries("tags")
    assert (set(tags.added), set(tags.removed), list(tags.changed)) == ({"T3"}, {"T1"}, ["T2"])
    assert entries.changed["b"].keys() == {"endpoint", "security"}
    assert str(found) == (
        "added connections.a.tags.T3, connections.d; removed connections.a.tags.T1, connections.c; changed "
        "connections.a.tags.T2.unit, connections.b.endpoint, connections.b.security.policy, logLevel"
    )


def test_an_entry_that_became_another_kind_is_removed_and_added() -> None:
    found = changes(
        {"sinks": {"x": {"type": "s3", "bucket": "b"}}}, {"sinks": {"x": {"type": "kinesis", "kinesisStream": "s"}}}
    )
    assert (found.added, found.removed, found.changed) == (paths("sinks.x"), paths("sinks.x"), frozenset())
    assert found.entries("sinks").changed == {}


names = st.sampled_from(["a", "b", "c"])
some_tags = st.dictionaries(names, st.fixed_dictionaries({"node": names, "unit": names}), max_size=3)
some_connections = st.dictionaries(
    names,
    st.fixed_dictionaries({"endpoint": names.map("opc.tcp://{}".format), "tags": some_tags}),
    max_size=3,
).map(lambda connections: {"connections": connections})


def flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every leaf of a raw configuration by its path: an oracle that knows no models."""
    if not isinstance(value, dict):
        return {path: value}
    found: dict[tuple[str, ...], Any] = {}
    for key, inner in value.items():
        found |= flat(inner, (*path, key))
    return found


@given(before=some_connections, after=some_connections)
def test_every_leaf_that_differs_lies_at_or_below_a_path_of_the_difference(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    found = changes(before, after)
    old, new = flat(before), flat(after)
    differing = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    named = found.added | found.removed | found.changed
    assert all(any(path[: len(name)] == name for name in named) for path in differing)
    assert all(any(path[: len(name)] == name for path in differing) for name in named)


# --- last good on disk ---


def test_the_last_good_configuration_comes_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    last_good = KeptFile(tmp_path / "last.json")
    assert last_good.read() is None
    assert last_good.write({"connections": {"a": {"endpoint": "ä"}}})
    assert KeptFile(last_good.path).read() == {"connections": {"a": {"endpoint": "ä"}}}
    assert stat.S_IMODE(last_good.path.stat().st_mode) == 0o600
    last_good.path.chmod(0o644)
    assert last_good.write({})
    assert stat.S_IMODE(last_good.path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["last.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"'])
def test_a_malformed_file_is_renamed_aside_and_reported(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert KeptFile(path).read() is None
    assert (tmp_path / "last.json.malformed").read_bytes() == content
    assert not path.exists()
    assert "malformed" in caplog.text


def test_a_disk_that_refuses_costs_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not KeptFile(tmp_path / "missing" / "last.json").write({})
    assert "cannot be written" in caplog.text


class Wheel(Settings):
    """A part of a part."""

    size: Annotated[int, Field(ge=1)] = 1


class Cart(Settings):
    """A scope that is made of parts."""

    wheels: Parts[Wheel] = Field({})
    load: Annotated[int, Field(ge=0)] = 0


class Carts(ComponentSettings):
    """A configuration of such scopes."""

    carts: Named[Cart] = Field({})


def test_a_wrong_part_refuses_the_scope_that_it_is_in_and_everything_wrong_is_told_at_once() -> None:
    good = {"carts": {"a": {"wheels": {"left": {"size": 2}}}, "b": {"load": 3}}}
    before = load(Carts, good)
    assert before.problems == []
    wrong = {"wheels": {"left": {"size": 0}, "Left": {}, "right": {"size": "x"}, "no name": {}}, "load": -1}
    loaded = load(Carts, {"carts": {"a": wrong, "b": {"load": 4}}}, before.applied)
    assert [problem.path for problem in loaded.problems] == [
        "carts.a.wheels.left.size",
        "carts.a.wheels.Left",
        "carts.a.wheels.right.size",
        'carts.a.wheels["no name"]',
        "carts.a.load",
    ]
    assert loaded.config.carts["a"].wheels["left"].size == 2  # the last good form
    assert loaded.config.carts["b"].load == 4
    alone = load(Carts, {"carts": {"a": wrong, "b": {}}})
    assert list(alone.config.carts) == ["b"]


def test_a_part_that_is_null_or_deleted_is_absent() -> None:
    loaded = load(Carts, {"carts": {"a": {"wheels": {"left": None, "right": {"delete": "true"}, "front": {}}}}})
    assert loaded.problems == []
    assert list(loaded.config.carts["a"].wheels) == ["front"]
