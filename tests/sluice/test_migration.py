"""Keys linger on devices for ever: whatever mixture of layouts is there, a newer version understands it."""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from sluice.config import ComponentSettings, Duration, Labelled, Move, Named, SecretRef, Settings, keys_of, load
from sluice.migration import migrate

# --- version N of a component, and version N + 1, which has renamed, moved and reshaped ---


class OldServer(Settings):
    endpoint: str
    interval: float = 500
    """Milliseconds."""
    credentials: SecretRef | None = None
    tags: Labelled[str] = Field(default_factory=dict)


class Old(ComponentSettings):
    servers: Named[OldServer] = Field(default_factory=dict)
    buffer: str = "1GB"
    mode: str = "fast"


def _milliseconds(value: Any) -> Any:
    """500 -> 500ms; what has a unit is in the new form."""
    try:
        return f"{float(value):g}ms"
    except (TypeError, ValueError):
        return value


def _mode(value: Any) -> Any:
    return {"fast": "quick", "safe": "careful"}.get(value, value) if isinstance(value, str) else value


class NewServer(Settings):
    endpoint: str
    publishing_interval: Annotated[Duration, Field(ge=0.01)] = 0.5
    password: SecretRef | None = None
    tags: Labelled[str] = Field(default_factory=dict)


class Outbox(Settings):
    max_size: str = "1GB"
    max_age: Duration | None = None


class New(ComponentSettings):
    migrations: ClassVar = (
        (
            Move("servers.*.interval", "servers.*.publishingInterval", _milliseconds),
            Move("servers.*.credentials", "servers.*.password"),
            Move("buffer", "outbox.maxSize"),
        ),
        (Move("servers", "connections"), Move("mode", "mode", _mode)),
    )
    connections: Named[NewServer] = Field(default_factory=dict)
    outbox: Outbox = Outbox()
    mode: str = "quick"


NEW_DEFAULTS = {"connections": {}, "outbox": {"maxSize": "1GB"}, "configVersion": 3}
"""What the recipe of version N + 1 brings, below what the device has."""


def merged(base: dict[str, Any], *merges: dict[str, Any]) -> dict[str, Any]:
    """What a device has after these deployments: maps are merged, all else is replaced."""
    result = copy.deepcopy(base)
    for merge in merges:
        for key, value in merge.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def upgraded(device: dict[str, Any]) -> dict[str, Any]:
    """A device after the upgrade: the new defaults come only where nothing is."""
    return merged(NEW_DEFAULTS, device)


OLD_DEVICE = {
    "configVersion": 1,
    "logLevel": "DEBUG",
    "buffer": "2GB",
    "mode": "safe",
    "servers": {"line1": {"endpoint": "opc.tcp://a:1", "interval": 250, "tags": {"T": "x"}}},
}


def test_what_an_older_version_was_given_goes_on_after_the_upgrade() -> None:
    loaded = load(New, upgraded(OLD_DEVICE))
    assert not loaded.problems
    config = loaded.config
    assert config.connections["line1"].publishing_interval == 0.25
    assert (config.connections["line1"].tags, config.outbox.max_size) == ({"T": "x"}, "2GB")
    assert (config.mode, config.log_level, config.config_version) == ("careful", "DEBUG", 3)


def test_each_key_that_has_moved_is_told_once_with_the_reset_that_tidies_it() -> None:
    loaded = load(New, upgraded(OLD_DEVICE))
    assert [str(warning) for warning in loaded.warnings] == [
        "servers.line1.interval = 250 is called connections.line1.publishingInterval now: MERGE it under that name, "
        'and deploy with RESET "/servers/line1/interval" (it is taken over)',
        'buffer = "2GB" is called outbox.maxSize now: MERGE it under that name, and deploy with RESET "/buffer" (it is '
        "taken over)",
        'servers is called connections now: MERGE it under that name, and deploy with RESET "/servers" (it is taken '
        "over)",
    ]


def test_what_is_said_under_the_new_name_counts() -> None:
    device = upgraded(OLD_DEVICE)
    new = {"connections": {"line1": {"publishingInterval": "2s"}}, "outbox": {"maxSize": "5GB"}}
    loaded = load(New, merged(device, new))
    assert loaded.config.connections["line1"].publishing_interval == 2.0
    assert loaded.config.connections["line1"].endpoint == "opc.tcp://a:1"
    assert loaded.config.outbox.max_size == "5GB"
    [warning] = [warning for warning in loaded.warnings if warning.path == "buffer"]
    assert warning.effect == "it is ignored, because outbox.maxSize is set"
    assert warning.remedy == 'deploy with RESET "/buffer"'


def test_an_entry_deleted_under_the_new_name_is_deleted() -> None:
    loaded = load(New, merged(upgraded(OLD_DEVICE), {"connections": {"line1": {"delete": True}}}))
    assert not loaded.config.connections


def test_a_secrets_reference_moves_and_is_not_shown() -> None:
    old = {"servers": {"a": {"endpoint": "x", "credentials": {"secret": "plc", "key": "password"}}}}
    loaded = load(New, merged(upgraded(old)))
    assert loaded.config.connections["a"].password == SecretRef(secret="plc", key="password")
    assert loaded.warnings[0].value == "***"


def test_what_does_not_fit_is_told_where_it_is_now() -> None:
    loaded = load(New, {"servers": {"a": {"endpoint": "x", "interval": "soon"}}})
    [problem] = loaded.problems
    assert (problem.path, problem.value) == ("connections.a.publishingInterval", "soon")


def test_the_last_good_form_of_an_older_version_is_understood() -> None:
    last_good = load(Old, OLD_DEVICE).applied
    broken = merged(upgraded(OLD_DEVICE), {"servers": {"line1": {"interval": "soon"}}})
    loaded = load(New, broken, last_good)
    assert loaded.config.connections["line1"].publishing_interval == 0.25
    [problem] = loaded.problems
    assert problem.effect == "the last good form of connections.line1 keeps running"


def test_a_newer_layout_is_refused_and_the_last_good_configuration_keeps_running() -> None:
    last_good = load(Old, OLD_DEVICE).applied
    for version, shown in ((3, "3"), (3.0, "3.0"), ("3", '"3"')):
        loaded = load(Old, {"configVersion": version, "servers": {}, "mode": "quick"}, last_good)
        assert [str(problem) for problem in loaded.problems] == [
            f"configVersion = {shown} was written for a newer version of this component: deploy that version again, or "
            'a configuration of layout 1 together with RESET "" (the last good configuration keeps running)'
        ]
        assert loaded.config == load(Old, OLD_DEVICE).config


def test_after_a_downgrade_nothing_of_a_newer_layout_is_half_understood() -> None:
    device = {"configVersion": 3, "mode": "careful", "servers": {"x": {"endpoint": "y"}}}
    last_good = load(New, device).applied
    assert last_good["configVersion"] == 3
    loaded = load(Old, device, last_good)
    assert loaded.config == Old()
    assert loaded.problems[0].effect == "the defaults apply"


@pytest.mark.parametrize("version", ["x", True, None, [], 0, -1, "nan", 1e400, {}])
def test_a_version_that_is_none_costs_itself(version: Any) -> None:
    loaded = load(New, {**OLD_DEVICE, "configVersion": version})
    assert loaded.config.outbox.max_size == "2GB"
    assert all(problem.path == "configVersion" for problem in loaded.problems)


def test_old_top_level_keys_are_asked_for() -> None:
    assert {"servers", "buffer", "connections", "outbox", "configVersion"} <= set(keys_of(New))


# --- for every mixture ---

NAMES = st.sampled_from(["a", "b"])
OLD = st.fixed_dictionaries(
    {},
    optional={
        "configVersion": st.just(1),
        "buffer": st.sampled_from(["1GB", "2GB", "3GB"]),
        "mode": st.sampled_from(["fast", "safe"]),
        "servers": st.dictionaries(
            NAMES,
            st.fixed_dictionaries(
                {"endpoint": st.sampled_from(["x", "y"])},
                optional={
                    "interval": st.sampled_from([250, "1000", 500]),
                    "tags": st.dictionaries(NAMES, st.sampled_from(["n1", "n2"]), max_size=2),
                },
            ),
            max_size=2,
        ),
    },
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "null", "250", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["servers", "connections", "buffer", "outbox", "maxSize", "mode", "interval", "a", "delete"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["servers", "connections", "buffer", "outbox", "mode", "configVersion"]), JSON))
def test_migrating_twice_is_migrating_once_whatever_is_there(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    once, _ = migrate(New, New.migrations, raw)
    assert raw == before
    twice, _ = migrate(New, New.migrations, once)
    assert twice == once
    load(New, raw)


def _differs_from_its_default(old: dict[str, Any]) -> bool:
    """A merge that says the default again under the new name cannot be told from silence: the old value then counts."""
    return old.get("buffer") != "1GB" and all(s.get("interval") != 500 for s in old.get("servers", {}).values())


@given(OLD, OLD.filter(_differs_from_its_default))
def test_a_merge_in_either_layout_gives_the_same(device: dict[str, Any], merge: dict[str, Any]) -> None:
    in_new, _ = migrate(New, New.migrations, merge)
    in_new.pop("configVersion", None)
    old_way = load(New, upgraded(merged(device, merge)))
    new_way = load(New, merged(upgraded(device), in_new))
    assert old_way.config == new_way.config
    assert not old_way.problems
