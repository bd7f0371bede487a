"""How long a component was away is told by what it does on the bus, not by what it says of itself."""

from __future__ import annotations

import orjson
import pytest

from rehearsal.flow import Flow

ANNOUNCEMENT = b'{"v":1,"kind":"announce","stream":"a/b"}'


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr("rehearsal.flow.time.monotonic", lambda: now[0])
    return now


def cursors(number: int, epoch: str = "e") -> bytes:
    return orjson.dumps({"v": 1, "kind": "cursors", "streams": {"a/b": {"epoch": epoch, "acked": 0, "next": number}}})


def test_a_producer_is_at_work_with_its_next_batch_and_an_announcement_is_none(clock: list[float]) -> None:
    flow = Flow({"a": "producer", "z": "another"}, "consumer")
    flow.died("producer")
    clock[0] = 1.0
    flow.on_batch("sluice/data/a/b", ANNOUNCEMENT)
    assert flow.recoveries() == {}
    clock[0] = 2.0
    flow.on_batch("sluice/data/a/b", b'{"v":1,"kind":"samples"}')
    clock[0] = 9.0
    flow.on_batch("sluice/data/a/b", b'{"v":1,"kind":"samples"}')
    assert flow.recoveries() == {"producer": {"times": 1, "median_s": 2.0, "longest_s": 2.0}}


def test_a_consumer_is_at_work_when_a_cursor_moves_on(clock: list[float]) -> None:
    flow = Flow({"a": "producer", "z": "another"}, "consumer")
    flow.on_acknowledgement("sluice/ack/a/c", cursors(5))
    flow.died("consumer")
    for second, message in enumerate((cursors(5), b"nonsense", b"[]", cursors(1, "f"), cursors(6)), 1):
        clock[0] = float(second)
        flow.on_acknowledgement("sluice/ack/a/c", message)
    assert flow.recoveries()["consumer"]["longest_s"] == 5.0


def test_a_chain_of_deaths_is_one_time_away_since_the_first(clock: list[float]) -> None:
    flow = Flow({"a": "producer", "z": "another"}, "consumer")
    flow.died("producer")
    clock[0] = 3.0
    flow.died("producer")
    clock[0] = 4.0
    flow.on_batch("sluice/data/a/b", b"(\xb5/\xfd")
    assert flow.recoveries()["producer"]["median_s"] == 4.0


def test_each_producer_is_known_by_its_topics_live_and_replayed(clock: list[float]) -> None:
    flow = Flow({"a": "producer", "z": "another"}, "consumer")
    flow.died("producer")
    flow.died("another")
    clock[0] = 1.0
    flow.on_batch("sluice/replay/consumer/z/b", b'{"v":1,"kind":"samples"}')
    clock[0] = 2.0
    flow.on_batch("sluice/data/a/b", b'{"v":1,"kind":"samples"}')
    flow.on_batch("sluice/data/unknown/b", b'{"v":1,"kind":"samples"}')
    assert {name: found["longest_s"] for name, found in flow.recoveries().items()} == {"another": 1.0, "producer": 2.0}
