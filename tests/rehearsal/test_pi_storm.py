"""What happens to a PI Web API in a storm is decided by the seed; what a producer published is kept once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from plant.pi import faults
from plant.pi.judge import Verdict
from rehearsal.pi_storm import LASTING, MOMENTARY, QUIET, blows, differs, proves_nothing
from rehearsal.recorder import Recorder


def test_every_fault_of_a_storm_is_one_that_the_server_has() -> None:
    assert set(LASTING) <= set(faults.LASTING)
    assert set(MOMENTARY) <= set(faults.MOMENTARY)


def test_the_same_seed_does_the_same_and_another_something_else() -> None:
    assert blows(1, 180.0, 2) == blows(1, 180.0, 2)
    assert blows(1, 180.0, 2) != blows(2, 180.0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_in_three_minutes_everything_happens_and_the_end_is_quiet(seed: int) -> None:
    planned = blows(seed, 180.0, 3)
    happened = Counter(blow.name for blow in planned)
    assert set(happened) == {*LASTING, *MOMENTARY, "kill"}
    assert happened["kill"] == 3
    assert all(blow.at <= 180.0 - QUIET for blow in planned)
    assert all(blow.seconds > 0 for blow in planned if blow.name in LASTING)


ENOUGH = {"hits": {"cut": 3}, "activity": {"late": 1, "edits": 1, "bursts": 1, "states": 1}}


def test_a_run_that_hit_something_and_had_something_to_lose_proves_something() -> None:
    assert proves_nothing(Verdict(frames=5, produced=100, outside=60), {"cut": 2, "kill": 2}, ENOUGH) == []


@pytest.mark.parametrize(
    ("verdict", "done", "counters", "said"),
    [
        (Verdict(frames=0, produced=100, outside=60), {}, ENOUGH, "no frame"),
        (Verdict(frames=5, produced=100, outside=2), {}, ENOUGH, "only 2 of 100 values"),
        (Verdict(frames=5, produced=100, outside=60), {"drip": 2}, ENOUGH, "drip was ordered 2 times"),
        (Verdict(frames=5, produced=100, outside=60), {}, {**ENOUGH, "activity": {"edits": 1}}, "PI had no late"),
    ],
)
def test_a_run_that_balances_and_proves_nothing_says_why(
    verdict: Verdict, done: dict[str, int], counters: dict[str, Any], said: str
) -> None:
    assert said in proves_nothing(verdict, done, counters)[0]


def test_gaps_that_are_told_and_gaps_that_are_counted_must_be_the_same() -> None:
    told = {"opened": 3, "filled": 3, "abandoned": 0}
    assert differs(told, {**told, "open": 0}) == []
    assert "opened" in differs(told, {"opened": 4, "filled": 4, "abandoned": 0})[0]


def batch(number: int, kind: str = "samples") -> dict[str, Any]:
    body: dict[str, Any] = {"v": 1, "kind": kind, "stream": "pi-collector/historian", "epoch": "e", "seq": number}
    if kind == "events":
        return {**body, "events": [{"kind": "gap", "id": "g"}]}
    return {**body, "series": [{"tag": "A"}], "s": [0, 0], "t0": 100, "dt": [0, 5], "value": [1.5, None], "q": [0, 2]}


def test_a_recorder_keeps_each_batch_once_live_or_replayed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "published", "pi-collector")
    first = orjson.dumps(batch(1))
    recorder.on_message("sluice/data/pi-collector/historian", first)
    recorder.on_message("sluice/replay/exporter/pi-collector/historian", zstandard.compress(first))
    recorder.on_message("sluice/data/pi-collector/historian", b'{"v":1,"kind":"announce"}')
    recorder.on_message("sluice/data/pi-collector/historian", b"nonsense")
    recorder.on_message("sluice/data/pi-collector/historian", orjson.dumps(batch(3, "events")))
    assert list(recorder.samples()) == [("A", 100, 1.5, "GOOD", 0), ("A", 105, None, "BAD", 0)]
    assert list(recorder.events()) == [{"kind": "gap", "id": "g"}]
    assert (recorder.batches, recorder.values, recorder.repeats, recorder.malformed) == (2, 2, 1, 1)
    assert recorder.missing() == {"pi-collector/historian e": 1}
    recorder.close()
