"""Status: what a component tells about itself, always within a frame."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice import __version__
from sluice.log import Secret
from sluice.status import Connection, State, Status, status_topic


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def status(clock: Clock | None = None) -> Status:
    clock = clock or Clock()
    return Status("opcua-collector", clock=clock, steady=clock)


def test_a_status_says_who_when_and_how_it_is() -> None:
    clock = Clock()
    of = status(clock)
    clock.now += 90
    of.set(State.DEGRADED, "no connection")
    told = json.loads(of.report({"connections": {"line1": {"state": "connected"}}}, max_bytes=7_000))
    assert told == {
        "v": 1,
        "kind": "status",
        "component": "opcua-collector",
        "version": __version__,
        "time": "2023-11-14T22:14:50Z",
        "state": "degraded",
        "why": "no connection",
        "uptime_s": 90,
        "connections": {"line1": {"state": "connected"}},
        "ledger": {},
        "config": {"applied": "", "rejected": []},
        "counters": {},
    }
    assert of.topic == status_topic("opcua-collector") == "sluice/status/opcua-collector"


def test_rejected_configuration_is_told_until_it_is_mended() -> None:
    of = status()
    rejected = {"path": "connections.l1.endpoint", "value": "opc", "problem": "no URL", "remedy": "opc.tcp://…"}
    of.configured([rejected])
    assert json.loads(of.report({}, max_bytes=7_000))["config"] == {
        "applied": "2023-11-14T22:13:20Z",
        "rejected": [rejected],
    }
    of.configured([])
    assert json.loads(of.report({}, max_bytes=7_000))["config"]["rejected"] == []


def test_a_component_cannot_overwrite_what_the_status_itself_says() -> None:
    told = json.loads(status().report({"state": "fine", "component": "x", "outbox": {"depth": 3}}, max_bytes=7_000))
    assert (told["state"], told["component"], told["outbox"]) == ("starting", "opcua-collector", {"depth": 3})


def test_a_connection_keeps_since_when_it_is_as_it_is() -> None:
    clock = Clock()
    connection = Connection(clock=clock)
    clock.now += 10
    assert connection.set("failed", "connection refused", "start the server")
    clock.now += 10
    assert not connection.set("failed", "connection refused", "start the server")
    assert connection.set("failed", "wrong password", "correct connections.line1.user")
    connection.details["rate"] = 3.5
    assert connection.as_dict() == {
        "state": "failed",
        "since": "2023-11-14T22:13:30Z",
        "why": "wrong password",
        "remedy": "correct connections.line1.user",
        "rate": 3.5,
    }
    connection.set("connected")
    assert connection.as_dict() == {"state": "connected", "since": "2023-11-14T22:13:40Z", "rate": 3.5}


def test_what_does_not_fit_is_left_out_from_the_largest_section_and_said() -> None:
    connections = {f"line{n:04}": {"state": "connected", "since": "2023-11-14T22:13:20Z"} for n in range(1_000)}
    payload = status().report({"connections": connections, "counters": {"published": 5}}, max_bytes=7_000)
    told = json.loads(payload)
    assert 3_000 < len(payload) <= 7_000
    assert list(told["connections"]) == list(connections)[: len(told["connections"])]
    assert told["truncated"] == {"connections": 1_000 - len(told["connections"])}
    assert told["counters"] == {"published": 5}


def test_of_many_connections_those_in_trouble_are_told_first() -> None:
    connections = {f"line{n}": {"state": "running", "endpoint": "opc.tcp://10.0.0.5:4840", "n": n} for n in range(300)}
    connections["line299"] |= {"state": "waiting", "why": "refuses the connection", "remedy": "start the server"}
    told = json.loads(status().report({"connections": connections}, max_bytes=7_000))
    assert list(told["connections"])[:2] == ["line299", "line0"]
    assert told["truncated"]["connections"] == 300 - len(told["connections"])


def test_a_thousand_rejected_entries_do_not_push_out_the_rest() -> None:
    of = status()
    of.configured([{"path": f"tags.T{n}", "value": "x" * 50, "problem": "p", "remedy": "r"} for n in range(1_000)])
    told = json.loads(of.report({"ledger": {"a/b": {"received": 1}}}, max_bytes=7_000))
    assert told["config"]["applied"]
    assert len(told["config"]["rejected"]) + told["truncated"]["rejected"] == 1_000
    assert told["ledger"] == {"a/b": {"received": 1}}


def test_a_long_text_is_cut_where_it_stands() -> None:
    told = json.loads(status().report({"connections": {"l": {"why": "x" * 100_000}}}, max_bytes=7_000))
    assert told["connections"]["l"]["why"].startswith("xxx")
    assert told["connections"]["l"]["why"].endswith("(100000 characters)")
    assert "truncated" not in told


@pytest.mark.parametrize(
    ("part", "written"),
    [
        (np.int64(5), 5),
        (np.array([1.5, np.nan]), [1.5, None]),
        (float("inf"), None),
        ({1: "one"}, {"1": "one"}),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (Secret("hunter2"), "***"),
        (ValueError("why"), "why"),
        (State.RUNNING, "running"),
    ],
)
def test_parts_of_any_type_are_written(part: Any, written: Any) -> None:
    assert json.loads(status().report({"counters": {"x": part}}, max_bytes=7_000))["counters"] == {"x": written}


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text for this")


@pytest.mark.parametrize("part", [2**80, "\ud800", Unprintable()])
def test_a_part_that_cannot_be_written_costs_the_parts_not_the_status(part: Any) -> None:
    told = json.loads(status().report({"counters": {"x": part}}, max_bytes=7_000))
    assert told["state"] == "starting"
    assert told["problem"].startswith("the rest of the status cannot be written: ")


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        st.recursive(
            st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["", "ж", "x" * 400, "x" * 700]),
            lambda inner: (
                st.lists(inner, max_size=20) | st.dictionaries(st.text("abж", max_size=10), inner, max_size=20)
            ),
        ),
        max_size=10,
    )
)
def test_a_status_of_any_parts_fits_its_frame(parts: dict[str, Any]) -> None:
    payload = status().report(parts, max_bytes=1_500)
    assert len(payload) <= 1_500
    assert json.loads(payload)["component"] == "opcua-collector"
