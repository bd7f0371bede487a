"""The exporter is away for a while under load: what the producer's memory does meanwhile, and how fast is caught up.

A stream is behind as long as what it takes is older than BEHIND. The rate of catching up is what stream manager stored
per second from the exporter's return until then, by its own witness; the rate at which the producer was told that its
batches are exported is taken from the producer's status.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Mapping
from typing import Any

import orjson

from localcore import received
from rehearsal.command import Stage, say
from rehearsal.rehearsal import Rehearsal
from rehearsal.site import COLLECTOR, EXPORTER

WARM_UP = 10.0
"""Seconds of flow before, in which the producer's memory reaches its level."""
BEHIND = 2.0
"""Seconds by which what a stream takes may be old without being behind."""
LIMIT = 600.0
"""Seconds that catching up may take."""
MOST_GROWTH_MB = 10.0
STREAMS = ("SluiceKinesis", "SluiceSiteWise")


async def rehearse(rehearsal: Rehearsal, seconds: float, stage: Stage) -> dict[str, Any]:
    """Flow, absence, return, until nothing is behind; returns `{"away": …, "seconds": …}` for the report."""
    exporter, collector = rehearsal.core.component(EXPORTER), rehearsal.core.component(COLLECTOR)
    say(f"flow for {WARM_UP:.0f} s")
    await stage.flow(rehearsal, lambda passed: passed >= WARM_UP)
    before, live = collector.rss_mb, _live_rate(rehearsal)
    say(f"the exporter is away for {seconds:.0f} s")
    await exporter.stop()
    memory = [before]

    def gone(passed: float) -> bool:
        memory.append(collector.rss_mb)
        return passed >= seconds

    await stage.flow(rehearsal, gone)
    kept = _ledger(rehearsal).get("kept")
    say("the exporter is back")
    back = time.time_ns()
    exporter.start(install=False)
    told: list[tuple[float, int]] = []

    def caught_up(passed: float) -> bool:
        memory.append(collector.rss_mb)
        ledger = _ledger(rehearsal)
        if "acknowledged" in ledger:
            told.append((time.monotonic(), int(ledger["acknowledged"])))
        return passed > LIMIT or int(ledger.get("kept", 0)) < live * (BEHIND + 4.0)

    await rehearsal.core.wait_state(EXPORTER, "RUNNING")
    await stage.flow(rehearsal, caught_up)
    took = (time.time_ns() - back) / 1e9
    rates = {stream: await asyncio.to_thread(catching_up, rehearsal, stream, back) for stream in STREAMS}
    slowest = min((rate for rate in rates.values() if rate is not None), default=None)
    return {
        "away": {
            "seconds": seconds,
            "live_per_s": round(live, 1),
            "waiting": kept,
            "caught_up_after_s": round(took, 1),
            "stored_per_s": {name: None if rate is None else round(rate) for name, rate in rates.items()},
            "acknowledged_per_s": _acknowledged(told),
            "times_live": None if slowest is None else round(slowest / live, 1),
            "producer_mb": {"before": round(before, 1), "most": round(max(memory), 1)},
        },
        "seconds": {},
    }


def problems(away: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = []
    memory = away["producer_mb"]
    if memory["most"] > memory["before"] + MOST_GROWTH_MB:
        found.append(f"the producer grew from {memory['before']} to {memory['most']} MB while nobody took its data")
    if away["caught_up_after_s"] > LIMIT:
        found.append(f"what waited was not caught up with in {LIMIT:.0f} s")
    return found


def tell(away: Mapping[str, Any]) -> None:
    """What a person wants to know of it."""
    memory = away["producer_mb"]
    say(
        f"away {away['seconds']:.0f} s at {away['live_per_s']:,} samples/s: {away['waiting']} samples waited; stored "
        f"per second while behind: {away['stored_per_s']}, {away['times_live']} times the live rate; caught up after "
        f"{away['caught_up_after_s']} s; the producer had {memory['before']} MB before and {memory['most']} MB at most"
    )


def catching_up(rehearsal: Rehearsal, stream: str, back: int) -> float | None:
    """Samples per second that a stream took from the exporter's return until they were less than BEHIND old; None
    when it took none that were older."""
    begun = last = samples = 0
    for _, at, payload in received.appends(rehearsal.core.root, stream):
        if at < back:
            continue
        newest, count = _newest(payload)
        if at - newest < BEHIND * 1e9:
            break
        begun = begun or at
        last, samples = at, samples + count
    return samples * 1e9 / (last - begun) if last > begun else None


def _newest(payload: bytes) -> tuple[int, int]:
    """The time of a message's last sample in ns, and how many it has."""
    if payload[:2] == b"\x1f\x8b":
        payload = gzip.decompress(payload)
    rows = payload.splitlines()
    last = orjson.loads(rows[-1])
    if "propertyValues" in last:
        stamp = last["propertyValues"][-1]["timestamp"]
        return stamp["timeInSeconds"] * 1_000_000_000 + stamp.get("offsetInNanos", 0), len(last["propertyValues"])
    return int(last["time_ns"]), len(rows)


def _ledger(rehearsal: Rehearsal) -> dict[str, int]:
    """The ledgers of the producer's streams of samples, added up."""
    added: dict[str, int] = {}
    for stream, ledger in rehearsal.statuses.get("opcua-collector", {}).get("ledger", {}).items():
        if not stream.endswith("/events"):
            for name, count in ledger.items():
                if isinstance(count, int):
                    added[name] = added.get(name, 0) + count
    return added


def _live_rate(rehearsal: Rehearsal) -> float:
    """Samples per second that the plant produced in the warm-up."""
    assert rehearsal.plant is not None
    return max(1.0, rehearsal.plant.samples() / WARM_UP)


def _acknowledged(told: list[tuple[float, int]]) -> int | None:
    """Samples per second that the producer was told are exported, from the first word of it to the last."""
    moved = [told[i] for i in range(len(told)) if i == 0 or told[i][1] != told[i - 1][1]]
    if len(moved) < 2 or moved[-1][0] <= moved[0][0]:
        return None
    return round((moved[-1][1] - moved[0][1]) / (moved[-1][0] - moved[0][0]))
