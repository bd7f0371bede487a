"""A chaos run is decided by its seed and its length, and whatever they are it asks for everything that must happen."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehearsal.faults import ACTIONS
from rehearsal.schedule import (
    BEGIN,
    COMPONENTS,
    CRASH_POINTS,
    KILLS_PER_HOUR,
    PI_FAULTS,
    PLANTS,
    QUIET,
    SIMULATED_HOUR,
    Act,
    make_schedule,
)
from sluice import crash

SEEDS = st.integers(min_value=-(2**63), max_value=2**63)
SECONDS = st.floats(min_value=60.0, max_value=2_000.0)


def by_action(acts: list[Act]) -> dict[str, list[Act]]:
    found = defaultdict(list)
    for act in acts:
        found[act.action].append(act)
    return found


@given(SEEDS, SECONDS)
def test_nobody_is_killed_who_is_not_there(seed: int, seconds: float) -> None:
    there = COMPONENTS[:1]
    acts = make_schedule(seed, seconds, there)
    assert {act.arguments["component"] for act in acts if "component" in act.arguments} == set(there)


def test_its_crash_points_are_those_that_the_components_have() -> None:
    points = [point for of_one in CRASH_POINTS.values() for point in of_one]
    assert set(points) == set(crash.POINTS)


@given(SEEDS, SECONDS)
def test_the_same_seed_and_length_ask_for_the_same(seed: int, seconds: float) -> None:
    assert make_schedule(seed, seconds) == make_schedule(seed, seconds)


def test_another_seed_asks_for_something_else() -> None:
    assert len({str([act.as_dict() for act in make_schedule(seed, 120.0)]) for seed in range(50)}) == 50


@given(SEEDS, SECONDS)
def test_everything_that_must_happen_is_in_every_schedule(seed: int, seconds: float) -> None:
    acts = make_schedule(seed, seconds)
    found = by_action(acts)
    assert set(found) == set(ACTIONS)
    for component in COMPONENTS:
        kills = [act for act in found["kill"] if act.arguments["component"] == component]
        assert len(kills) >= 2
        assert len({kill.at for kill in kills}) == len(kills)
        armed = {point.partition(":")[0] for kill in kills for point in kill.arguments["armed"]}
        assert armed == set(CRASH_POINTS[component])
        assert [act.arguments["seconds"] for act in found["stall"] if act.arguments["component"] == component]
        assert [act for act in found["disk_full"] if act.arguments["component"] == component]
    assert {act.arguments["seconds"] for act in found["stream_manager_away"]} == {20.0}
    for action in ("line_cut", "line_blackhole", "line_slow", "line_refused"):
        assert {act.arguments["plant"] for act in found[action]} == set(PLANTS)
    assert {act.arguments["kind"] for act in found["pi_fault"]} == set(PI_FAULTS)
    services = {act.arguments["service"] for act in found["endpoint_unavailable"]}
    assert services == {"iotsitewise", "kinesis", "s3"}


@given(SEEDS, SECONDS)
def test_faults_begin_after_some_flow_and_leave_the_end_of_production_free(seed: int, seconds: float) -> None:
    acts = make_schedule(seed, seconds)
    assert acts == sorted(acts, key=lambda act: act.at)
    assert min(act.at for act in acts) >= BEGIN
    assert max(act.end for act in acts) <= seconds - QUIET + 0.1


@given(SEEDS, SECONDS)
def test_no_component_is_killed_more_than_twice_in_a_simulated_hour(seed: int, seconds: float) -> None:
    hours = Counter(
        (act.arguments["component"], act.at // SIMULATED_HOUR)
        for act in make_schedule(seed, seconds)
        if act.action == "kill"
    )
    assert max(hours.values()) <= KILLS_PER_HOUR


@given(SEEDS, SECONDS)
def test_two_starts_of_the_stream_manager_never_meet_and_no_fault_meets_its_like(seed: int, seconds: float) -> None:
    found = by_action(make_schedule(seed, seconds))
    absences = sorted(found["stream_manager_away"] + found["power_cut"], key=lambda act: act.at)
    for name, acts in {**found, "absences": absences}.items():
        if name != "kill":
            assert all(before.end < after.at for before, after in pairwise(acts)), acts


@pytest.mark.parametrize("seconds", [59.9, 0.0, -1.0, float("nan")])
def test_a_run_that_is_too_short_is_refused_in_words(seconds: float) -> None:
    with pytest.raises(ValueError, match="give 60 or more"):
        make_schedule(1, seconds)


def test_an_act_reads_as_a_line_of_a_report() -> None:
    act = Act(4.0, "line_slow", {"seconds": 3.0, "delay": 0.1})
    assert str(act) == "line slow: seconds=3.0, delay=0.1"
    assert act.as_dict() == {"at": 4.0, "action": "line_slow", "seconds": 3.0, "delay": 0.1}
