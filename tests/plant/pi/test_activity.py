"""What happens beside production: everything by a seed, and everything known to the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from plant.pi import truth
from plant.pi.activity import ActivityOptions
from plant.pi.clock import TICK_NS, Clock
from plant.pi.server import Options, PiServer
from plant.pi.states import DigitalSet
from plant.pi.system import PiSystem, PointDefinition

from .serving import until

START = 1_700_000_000_000_000_000
TYPES = ("Float64", "Float32", "Int32", "String")


class Stepped:
    """Our seconds, a thousandth more with each look."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        self._seconds += 0.001
        return self._seconds


def served(seed: int, log: Path | None = None, clock: Clock | None = None) -> PiServer:
    clock = clock or Clock(1, START, now=Stepped())
    system = PiSystem(clock)
    for kind in TYPES:
        system.add(PointDefinition(kind, type=kind))  # type: ignore[arg-type] # each is one
    system.add(PointDefinition("Digital", type="Digital", digital_set=DigitalSet("S", ["Off", "On", "Trip"])))
    return PiServer(system, clock, Options(seed=seed), log=truth.Truth(log))


def stirred(seed: int, log: Path | None = None) -> list[tuple[str, str]]:
    """The whole archive after some of everything."""
    server = served(seed, log)
    points, activity = list(server.system), server.activity
    activity.late(200, 3600)
    for _ in range(20):
        activity.edit(points, 7200)
        activity.delete(points, 7200)
        activity.same_time(points)
        activity.state(points)
    activity.burst(points)
    server.export()
    server.truth.end()
    return [(point.name, repr(server.system.archived(point))) for point in points]


async def test_the_same_seed_gives_the_same_storm_and_another_one_another() -> None:
    assert stirred(1) == stirred(1) != stirred(2)


async def test_all_that_happens_is_in_the_log_and_adds_up_to_the_archive(tmp_path: Path) -> None:
    log = tmp_path / "truth"
    stirred(3, log)
    left: Counter[truth.Sample] = Counter()
    for sample, how, _ in truth.produced(log):
        if how == "Delete":
            left[sample] -= 1
        elif how == "Update":
            # One of those at its time had another value until now.
            at = [one for one in left if (one.point, one.time_ns) == (sample.point, sample.time_ns) and left[one] > 0]
            assert at
            left[next(iter(at))] -= 1
            left[sample] += 1
        else:
            left[sample] += 1
    archive = Counter(one for samples in truth.archive(log).values() for one in samples)
    assert Counter({one: count for one, count in left.items() if count > 0}).total() == archive.total()
    times = [one.time_ns for one in archive]
    assert all(time % TICK_NS == 0 for time in times)
    assert any(time % 1000 for time in times), "no time between two microseconds"
    doubled = Counter((one.point, one.time_ns) for one in archive.elements())
    assert max(doubled.values()) > 1, "no two values at one time"
    assert {one.state for one in archive} > {None}


async def test_a_storm_goes_on_at_the_servers_speed_until_it_is_cancelled() -> None:
    server = served(4, clock=Clock(50))
    options = ActivityOptions(late=5, edits=5, deletions=5, bursts=1, same_time=5, states=5, back_s=600)
    storm = asyncio.create_task(server.activity.run(list(server.system), options))
    await until(lambda: len(server.activity.counts) == 6, lambda: dict(server.activity.counts))
    storm.cancel()
    await asyncio.wait([storm])
    assert storm.cancelled()
    for point in list(server.system):
        server.system.remove(point)
    assert server.activity.late(10, 60) == 0
