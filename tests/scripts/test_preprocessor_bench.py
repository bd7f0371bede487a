"""`scripts/bench preprocessor`: what it judges, and that plain Python lets the same pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import preprocessor_bench
import preprocessor_deployed as device
from preprocessor_bench import Rate, Share, judged, rate

RATES = [
    Rate("scale+deadband", "10,000 tags x 1", 8e6, 7e5, 5e6, 11.4, 1.6, 9, 9, 9),
    Rate("swinging door", "200 tags x 50", 2e6, 8e5, 3e6, 2.5, 0.7, 9, 9, 9),
]
SHARE = Share(0.01, 0.02, 0.01, 0.04, 650_000, 30_000)


def test_a_run_in_which_all_is_well() -> None:
    assert judged(RATES, SHARE) == []


@pytest.mark.parametrize(
    ("place", "changed", "told"),
    [
        (0, {"values_per_s": 999_999.0}, "10,000 tags x 1: 999,999 values per second, less than 1,000,000"),
        (1, {"values_per_s": 299_999.0}, "200 tags x 50: 299,999 values per second, less than 300,000"),
        (1, {"passed_loop": 8}, "9 values pass, but 9 (stages) and 8 (one loop)"),
    ],
)
def test_what_is_too_slow_or_something_else_is_told(place: int, changed: dict[str, Any], told: str) -> None:
    rates = list(RATES)
    rates[place] = replace(rates[place], **changed)
    assert told in "; ".join(judged(rates, SHARE))


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (None, "the flow was not measured"),
        (replace(SHARE, core=0.11), "11.0% of a core, more than 10%"),
        (replace(SHARE, sent=0), "nothing came out"),
    ],
)
def test_a_flow_that_takes_too_much_is_told(share: Share | None, told: str) -> None:
    assert told in "; ".join(judged(RATES, share))


def test_half_a_run_is_no_proof() -> None:
    assert judged(RATES[:1], SHARE) == ["swinging door was not measured"]


@pytest.mark.parametrize("what", preprocessor_bench.REQUIRED)
@pytest.mark.parametrize(("tags", "scans"), [(400, 1), (20, 50)])
def test_plain_python_lets_the_same_pass(what: str, tags: int, scans: int) -> None:
    one = rate(what, tags, scans, 1)
    assert one.passed == one.passed_stages == one.passed_loop > tags


AT_WORK = device.Deployed("10,000 tags at 1 Hz", 0.05, 5.0, 70.0, 150.0, 40.0, 800_000, 0, 90_000, 2.0)
HOLD = device.Hold(100_000, 0.05, 0.04, 200.0, 3)


def test_a_component_at_work_in_which_all_is_well() -> None:
    assert device.judged([AT_WORK], [HOLD]) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lost": 1}, "1 of 800,000 values do not add up"),
        ({"arrived": 0}, "0 of 800,000 values do not add up"),
        ({"core": 0.101}, "10.1% of a core, more than 10%"),
        ({"idle_mb": 76.0}, "76 MB when nothing comes, more than 75"),
        ({"back_s": 3.1}, "3.1 s until it was back, more than 3"),
    ],
)
def test_a_component_that_loses_takes_or_waits_too_much_is_told(changed: dict[str, Any], told: str) -> None:
    assert told in "; ".join(device.judged([replace(AT_WORK, **changed)], []))


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"hold_s": 0.2}, "the event loop was held for 200 ms"), ({"checkpoints": 0}, "no checkpoint was made")],
)
def test_an_event_loop_that_is_held_up_is_told(changed: dict[str, Any], told: str) -> None:
    assert told in "; ".join(device.judged([], [replace(HOLD, **changed)]))


@pytest.mark.parametrize(("tags", "hertz"), [(200, 50), (1_000, 1), (1_000, 0.1)])
def test_the_collector_gives_each_tag_as_often_as_it_says(tags: int, hertz: float) -> None:
    of = device.Collector(tags, hertz)
    seconds = max(1, round(1 / hertz))
    times: dict[str, list[int]] = {}
    for number in range(10 * seconds):
        for columns in of.tenth(number, number * 10**8):
            for one in columns.samples():
                times.setdefault(one.tag, []).append(one.time)
    assert len(times) == tags
    assert {len(of_tag) for of_tag in times.values()} == {round(hertz * seconds)}
    assert all(of_tag == sorted(set(of_tag)) for of_tag in times.values())
    assert of.produced == tags * round(hertz * seconds)
