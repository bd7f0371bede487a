"""What the whole chain costs the device: bytes written to its disk and CPU, per value, at 10,000 tags of 1 Hz.

The built components run from their recipes in the local core, the plant produces, and one destination at a time takes
it. Bytes are what the kernel counted as written by each process (`write_bytes` of /proc/<pid>/io), from the moment on
in which it flows; the stream manager is the local core's stand-in, which writes each message once, with 16 bytes more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rehearsal import Rehearsal

UNIT = 52
LIMIT = 100.0
"""Bytes per value that design section 8 allows."""
SINKS: dict[str, dict[str, Any]] = {
    "sitewise": {"type": "sitewise", "nulls": "send"},
    "kinesis": {"type": "kinesis", "kinesisStream": "plant-data"},
    "kinesis-gzip": {"type": "kinesis", "kinesisStream": "plant-data", "compression": "gzip"},
    "s3": {"type": "s3", "bucket": "plant-archive"},
}
COMPONENTS = {"collector": "io.sluice.OpcUaCollector", "exporter": "io.sluice.StreamExporter"}


def written(pid: int) -> int:
    """Bytes that a process has had written to a disk."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise RuntimeError(f"/proc/{pid}/io tells no write_bytes: this kernel does not count them")


def now(rehearsal: Rehearsal) -> dict[str, float]:
    """Bytes and CPU seconds of each process so far, and the samples that the plant has logged."""
    assert rehearsal.plant is not None
    taken: dict[str, float] = {"samples": rehearsal.plant.samples()}
    for short, name in COMPONENTS.items():
        component = rehearsal.core.component(name)
        taken[f"{short} bytes"] = component.io()["write_bytes"]
        taken[f"{short} cpu_s"] = component.cpu_s
        taken[f"{short} rss_mb"] = component.rss_mb
    # The stand-in also writes down what it accepted, for whoever judges it: that is no cost of the chain.
    witness = sum(path.stat().st_size for path in (rehearsal.core.root / "witness").glob("*.appends"))
    taken["stream manager bytes"] = written(rehearsal.core.stream_manager.pid) - witness
    return taken


async def measure(build: Path, sink: str, tags: int, seconds: float) -> dict[str, Any]:
    """One destination, once: what a value cost."""
    with tempfile.TemporaryDirectory(prefix="sluice-chain-") as folder:
        units = max(1, round(tags / UNIT))
        async with Rehearsal(Path(folder), build, rate=units * UNIT, units=units) as rehearsal:
            site = rehearsal.demo_site()
            merge = site["components"]["io.sluice.StreamExporter"]["configurationUpdate"]["merge"]
            merge["sinks"] = {sink.partition("-")[0]: SINKS[sink]}
            await rehearsal.provide(site)
            await rehearsal.deploy(site)
            await rehearsal.start_production()
            await asyncio.sleep(10.0)  # until subscriptions, first files and caches are behind it
            before = now(rehearsal)
            await asyncio.sleep(seconds)
            after = now(rehearsal)
            assert rehearsal.plant is not None
            produced = await rehearsal.plant.finish()
            await rehearsal.drain(produced, patience=90.0)
            balances = (await asyncio.to_thread(rehearsal.reconcile)).balances
    values = after["samples"] - before["samples"]
    names = ("collector", "exporter", "stream manager")
    found = {name: (after[f"{name} bytes"] - before[f"{name} bytes"]) / values for name in names}
    return {
        "sink": sink,
        "tags": units * UNIT,
        "values_per_s": round(values / seconds),
        "balances": balances,
        "bytes_per_value": {name: round(value, 1) for name, value in found.items()},
        "total": round(sum(found.values()), 1),
        "cpu_us_per_value": {
            name: round((after[f"{name} cpu_s"] - before[f"{name} cpu_s"]) / values * 1e6, 2) for name in COMPONENTS
        },
        "rss_mb": {name: round(after[f"{name} rss_mb"]) for name in COMPONENTS},
    }


def main() -> int:
    """Measure, print, write; 0 when everything balanced and the files' destination stays below the limit."""
    parser = argparse.ArgumentParser(prog="scripts/bench chain", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--tags", type=int, default=10_000, help="variables, each changing once a second")
    parser.add_argument("--sinks", default=",".join(SINKS), help=f"which destinations, of {', '.join(SINKS)}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    unknown = set(options.sinks.split(",")) - SINKS.keys()
    if unknown:
        parser.error(f"--sinks {', '.join(sorted(unknown))}: there are {', '.join(SINKS)}")
    results = []
    with tempfile.TemporaryDirectory(prefix="sluice-build-") as folder:
        build = Path(folder) / "build"
        command = [sys.executable, str(Path(__file__).with_name("build.py")), "--host-only", "--output", str(build)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for sink in options.sinks.split(","):
            result = asyncio.run(measure(build, sink, options.tags, options.seconds))
            results.append(result)
            parts = ", ".join(f"{name} {value:g}" for name, value in result["bytes_per_value"].items())
            print(f"{sink}: {result['total']:g} bytes written per value ({parts}); balances: {result['balances']}")
            cost = ", ".join(f"{name} {value:g}" for name, value in result["cpu_us_per_value"].items())
            print(f"  at {result['values_per_s']} values/s; CPU us per value: {cost}; MB: {result['rss_mb']}")
    if options.json:
        options.json.write_text(json.dumps({"chain": results}, indent=2) + "\n")
    wanted = [result for result in results if result["sink"] in ("s3", "kinesis-gzip")]
    return 0 if all(r["balances"] for r in results) and all(r["total"] < LIMIT for r in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
