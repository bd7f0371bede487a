"""What storing before showing costs: CPU per value that the outbox adds to encoding, and bytes that reach the disk.

Batches of 500 values are encoded alone, and then encoded, put into an outbox, read again as for a consumer that is
behind, settled and deleted. Both times are CPU time of the whole process, threads included, the best of several rounds
that take turns, so that other load on the machine hits both; there are more rounds when the first do not suffice.
Each commit carries two batches and a position, and every forty batches are settled at once: a source of 20 batches a
second with commits each 100 ms and consumers that acknowledge each 2 s. The bytes are those that the kernel wrote for
the process (/proc/self/io), in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sluice.batch import CLASSIC_MAX_MESSAGE_BYTES, LITE_MAX_MESSAGE_BYTES, Columns, Header, Series, ValueType
from sluice.cutting import Cutter
from sluice.delivery import Producer
from sluice.outbox import Outbox, Put, Quota, Registered

REQUIRED_US = 1.0
REQUIRED_RATIO = 3.0
VALUES = 500
PER_COMMIT, PER_SETTLEMENT = 2, 40
PACE = 0.005
"""Seconds per commit: long enough that both batches meet in it."""
STREAM = "bench/line1"


@dataclass(frozen=True, slots=True)
class Case:
    """A frame size, which decides into how many frames a batch of 500 values is cut."""

    name: str
    max_bytes: int
    replayed: bool


CASES = (
    Case("classic", CLASSIC_MAX_MESSAGE_BYTES, replayed=False),
    Case("lite, all replayed", LITE_MAX_MESSAGE_BYTES, replayed=True),
)


@dataclass
class Figures:
    """Microseconds of CPU and bytes, per value."""

    case: str
    encode_us: float
    delivered_us: float
    added_us: float
    payload_bytes: float
    written_bytes: float
    ratio: float
    ok: bool


def columns_of(count: int) -> list[Columns]:
    """Batches of 500 doubles of as many tags, half a second apart."""
    chance = np.random.default_rng(7)
    series = tuple(Series(f"Area{n % 7}/Unit{n % 31}/Loop{n}.PV", unit="degC") for n in range(VALUES))
    s = np.arange(VALUES, dtype=np.int32)
    levels = chance.normal(50, 20, VALUES)
    made = []
    for n in range(count):
        levels = levels + chance.normal(0, 0.1, VALUES)
        t = np.int64(1_700_000_000_000_000_000 + n * 500_000_000) + chance.integers(0, 10**7, VALUES)
        made.append(Columns(ValueType.DOUBLE, series, s, t.astype(np.int64), levels.round(4)))
    return made


async def encoded(case: Case, batches: list[Columns]) -> float:
    """Seconds of CPU for encoding alone, at the same pace: a processor that has slept works more slowly."""
    gc.collect()
    cutter = Cutter(case.max_bytes)
    number = 1
    start = time.process_time()
    for n in range(0, len(batches), PER_COMMIT):
        began = time.monotonic()
        for columns in batches[n : n + PER_COMMIT]:
            number += sum(1 for _ in cutter.parts(columns, Header(STREAM, "0123456789ab", number)))
        await asyncio.sleep(max(0.0, began + PACE - time.monotonic()))
    return time.process_time() - start


async def delivered(case: Case, batches: list[Columns], folder: Path) -> tuple[float, int, int]:
    """Seconds of CPU for everything, bytes of payload, bytes written."""
    outbox = await Outbox.open(folder / "outbox.db", Quota(10**9, None, 0), commit_interval=PACE)
    state = outbox.state(STREAM)
    producer = Producer(STREAM, state.epoch, max_bytes=case.max_bytes)
    gc.collect()
    payload = 0
    start, written = time.process_time(), bytes_written()
    for n in range(0, len(batches), PER_COMMIT):
        puts = []
        for columns in batches[n : n + PER_COMMIT]:
            frames = producer.add(columns)
            payload += sum(len(frame.payload) for frame in frames)
            position = {"sequence": b"%d" % producer.newest}
            puts.append(outbox.put([Put(STREAM, frames, producer.ledger.settled())], position))
        for stored in puts:
            await stored
        if (n + PER_COMMIT) % PER_SETTLEMENT == 0:
            await _taken(case, outbox, producer)
    spent, written = time.process_time() - start, bytes_written() - written
    await outbox.close()
    return spent, payload, written


async def _taken(case: Case, outbox: Outbox, producer: Producer) -> None:
    """What a consumer does: everything is read if it is replayed, and acknowledged."""
    number = outbox.state(STREAM).oldest
    while case.replayed and number <= producer.newest:
        frames = await outbox.read(STREAM, number, 1_000_000)
        if not frames:
            raise SystemExit("bench: batches are missing, the figures mean nothing")
        number = frames[-1].seq + 1
    consumers = {"stream-exporter": Registered(producer.newest, time.time())}
    outbox.settle(STREAM, consumers, producer.newest, producer.ledger.settled())


def bytes_written() -> int:
    """What the kernel has written, or has to, for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


def measure(case: Case, batches: list[Columns], rounds: int) -> Figures:
    """The best of the rounds; of up to four times as many while it is not good enough."""
    values = len(batches) * VALUES
    alone = everything = float("inf")
    payload = written = 0
    for done in range(4 * rounds):
        if done >= rounds and (everything - alone) / values * 1e6 < REQUIRED_US:
            break
        alone = min(alone, asyncio.run(encoded(case, batches)))
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            spent, payload, written = asyncio.run(delivered(case, batches, Path(folder)))
        everything = min(everything, spent)
    added = (everything - alone) / values * 1e6
    return Figures(
        case=case.name,
        encode_us=round(alone / values * 1e6, 3),
        delivered_us=round(everything / values * 1e6, 3),
        added_us=round(added, 3),
        payload_bytes=round(payload / values, 2),
        written_bytes=round(written / values, 2),
        ratio=round(written / payload, 2),
        ok=added < REQUIRED_US and written <= REQUIRED_RATIO * payload,
    )


def main() -> None:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description="What delivery adds to encoding, per value.")
    parser.add_argument("--json", type=Path, help="write the figures to this file, beside what is in it")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts (3)")
    parser.add_argument("--batches", type=int, default=400, help="batches of 500 values per round (400)")
    parser.add_argument("--items", help=argparse.SUPPRESS)  # the decoder's part of scripts/bench
    options = parser.parse_args()
    batches = columns_of(options.batches)
    results = [measure(case, batches, options.rounds) for case in CASES]
    print(f"\nCPU microseconds and bytes per value, in batches of {VALUES} values, two per commit")
    print(f"{'':24}{'encode':>8}{'all':>8}{'added':>8}{'payload':>9}{'written':>9}{'ratio':>7}")
    for result in results:
        print(
            f"{result.case:24}{result.encode_us:8.3f}{result.delivered_us:8.3f}{result.added_us:8.3f}"
            f"{result.payload_bytes:9.2f}{result.written_bytes:9.2f}{result.ratio:7.2f}"
        )
    ok = all(result.ok for result in results)
    if options.json is not None:
        report: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
        report |= {"ok": report.get("ok", True) and ok, "delivery": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if not ok:
        print(
            f"bench: delivery adds {REQUIRED_US:g} us per value, or writes {REQUIRED_RATIO:g} times the bytes, or more",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
