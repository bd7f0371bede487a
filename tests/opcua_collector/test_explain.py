"""The arithmetic of an explanation, against what a queue, a subscription and a poll do second by second."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector import explain
from opcua_collector.config import Configuration, Connection
from sluice.config import load


def connection(**settings: Any) -> Connection:
    raw = {"endpoint": "opc.tcp://x:1", "tags": {f"T{number}": {"node": f"i={number}"} for number in range(4)}}
    loaded = load(Configuration, {"connections": {"line1": {**raw, **settings}}})
    assert not loaded.problems
    return loaded.config.connections["line1"]


def report(settings: Connection, **more: Any) -> dict[str, Any]:
    return explain.report(explain.planned("line1", settings, settings.tags), settings, **more)


@given(
    sampling=st.sampled_from((0.1, 0.25, 1.0, 5.0)),
    queue=st.integers(1, 400),
    outage=st.integers(1, 300),
    discard=st.sampled_from(("oldest", "newest")),
)
def test_what_an_outage_costs_is_what_a_queue_drops(sampling: float, queue: int, outage: int, discard: str) -> None:
    settings = connection(samplingInterval=sampling, queueSize=queue, discard=discard, outage="300s")
    group = report(settings, outage=float(outage))["groups"]["(connection)"]
    kept: deque[int] = deque(maxlen=queue)  # as a server's queue: the oracle
    samples = range(round(outage / sampling))
    for sample in samples:
        kept.append(sample)
    # A sample may fall on either end of the outage.
    assert abs(group["outage"]["lost_per_tag_at_most"] - (len(samples) - len(kept))) <= 1
    assert group["outage"]["lost_values_at_most"] == 4 * group["outage"]["lost_per_tag_at_most"]


def test_a_subscription_that_ends_before_the_outage_takes_its_queues_along() -> None:
    settings = connection(publishingInterval="1s", queueSize=1_000_000)
    short, long = report(settings, outage=60.0), report(settings, outage=3600.0)
    assert short["outage"]["lost_values_at_most"] == 0
    assert short["outage"]["session"] == "kept"
    assert long["groups"]["(connection)"]["outage"]["subscription"] == "renewed"
    assert long["outage"]["lost_values_at_most"] == 4 * 3600
    assert "ends the subscription after 90 s" in long["groups"]["(connection)"]["outage"]["why"]


def test_a_history_fills_what_an_outage_costs() -> None:
    settings = connection(queueSize=10, samplingInterval="1s")
    costs = [
        report(settings, outage=60.0, history={"": tags})["outage"]["lost_after_history_at_most"] for tags in (0, 2, 4)
    ]
    assert costs == [200, 100, 0]
    unread = connection(queueSize=10, samplingInterval="1s", history={"read": False})
    assert "lost_after_history_at_most" not in report(unread, outage=60.0, history={"": 4})["outage"]


def test_requests_are_those_of_polls_heartbeats_and_keep_alives() -> None:
    settings = connection(
        publishingInterval="500ms",
        keepAlive="5s",
        heartbeat="10s",
        groups={"slow": {"mode": "poll", "pollInterval": "2s"}},
        load={"batch": 2, "requestsPerSecond": 1},
        tags={f"T{number}": {"node": "i=1", "group": "slow" if number < 5 else ""} for number in range(8)},
    )
    rates = report(settings)["requests_per_s"]
    assert rates == {
        "publish_at_least": 0.2,
        "publish_at_most": 2.0,
        "polls": 1.5,  # 5 nodes in 3 requests every 2 s
        "heartbeats_and_checks": 0.2,  # 3 nodes in 2 requests every 10 s
        "ceiling_besides_publish": 1.0,
    }
    assert any("above load.requestsPerSecond 1" in one for one in report(settings)["advice"])


def test_what_the_server_made_of_it_is_told_beside_what_was_asked() -> None:
    settings = connection(publishingInterval="100ms")
    description = explain.planned("line1", settings, settings.tags)
    group = description["groups"][""]
    group |= {"publishing_interval_s": 1.0, "keep_alive_s": 50.0, "bad_tags": 1, "late_tags": ["T1"]}
    group["kinds"][0] |= {"sampling_s": 0.5, "queue": 20, "covers_s": 10.0}
    description |= {
        "session": {"policy": "None/None", "certificate_days_left": 3},
        "publishing": {"clock_ahead_s": -90.0},
        "limits": {"read": 10},
        "state": {"state": "running"},
    }
    told = explain.report(description, settings, bad={"T2": "does not exist on the server: correct it"})
    assert told["groups"]["(connection)"]["revised"] == [
        "publishing interval 100 ms became 1 s",
        "keep-alive 5 s became 50 s",
        "sampling interval 100 ms of 4 items became 500 ms",
        "queue 750 of 4 items became 20",
    ]
    text = "\n".join(explain.text(told))
    for words in (
        "revised by the server: publishing interval 100 ms became 1 s",
        "1 tag with something wrong",
        "T2: does not exist on the server: correct it",
        "our certificate expires in 3 days",
        "the server's clock is 90 s behind ours",
        "the channel has no protection",
        "newer values of 1 tags",
        "nodes per request: read 10",
    ):
        assert words in text


def test_a_connection_that_was_never_connected_can_be_explained() -> None:
    settings = connection()
    description = {
        "connection": "line1", "endpoint": "opc.tcp://x:1", "state": {"state": "waiting", "why": "refuses"},
        "groups": {"": {"mode": "subscribe", "outage_s": 60.0, "tags": 4, "monitored": 0, "kinds": []}},
    }  # fmt: skip
    told = explain.report(description, settings)
    assert told["monitored_items"] == 0
    assert "state waiting: refuses" in "\n".join(explain.text(told))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.25, "250 ms"), (1, "1 s"), (90.5, "90.5 s"), (600, "10 min"), (7200, "2 h"), (864000, "240 h")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert explain.seconds_text(seconds) == text


@pytest.mark.parametrize("granted", [math.nan, math.inf, 0.0, -1.0, 5e-324])
def test_whatever_a_server_says_that_it_grants_can_be_explained(granted: float) -> None:
    settings = connection()
    description = explain.planned("line1", settings, settings.tags)
    description["groups"][""]["kinds"][0]["sampling_s"] = granted
    told = explain.report(description, settings, outage=60)
    assert told["values_per_s_at_most"] is None
    assert told["outage"]["lost_values_at_most"] == 0, "as it was asked for"
    assert explain.text(told)
