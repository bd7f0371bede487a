"""What the preprocessor takes for a value, beside plain Python that does the same.

    ./scripts/bench preprocessor [--json FILE] [--rounds N] [--what inside,deployed,hold]

- *scale+deadband* and *swinging door*: batches of 10,000 values of noisy process signals, once a scan of 10,000 tags,
  once 50 scans of 200 tags, through a whole flow, from the columns of a batch to the columns of an outcome. Beside
  them, on the same values in the same run: plain Python value by value, as a chain of stages over dicts (*stages*), and
  written out as one loop over tuples, with the state of each tag in an object of slots (*one loop*). All must let the
  very same number of values pass.
- *flow*: 10,000 tags at 1 Hz through quality gate, unit conversion, range, alarm, one-minute windows and report by
  exception, in turns of 0.1 s: decoding of what collectors send, the flow, and encoding of what goes out.
- *deployed*: the component installed from its artifact, all in: see `preprocessor_deployed`, *share* and *back*.
- *hold*: 75,000 and 100,000 slow tags, and how long they hold up the event loop: there, too.

The first three (*inside*) are CPU time of one thread. The rates are the best of several rounds, in which ours and
theirs take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import preprocessor_deployed as device
from collector_bench import BenchError, built
from preprocessor.compile import build
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.step import SECOND, Turn
from sluice.batch import CLASSIC_MAX_MESSAGE_BYTES, Header, SampleBatch, decode, encode
from sluice.columns import Columns, Series, ValueType
from sluice.cutting import Cutter

REQUIRED: Final = {"scale+deadband": 1_000_000, "swinging door": 300_000}
"""Values per second on one core."""
MOST_CORE: Final = 0.10
TAGS: Final = 10_000
BATCH: Final = 10_000
BATCHES: Final = 14
UNCOUNTED: Final = 2
"""Batches that come first, in which all tags are new: they are not timed."""
FRAME: Final = 500
SECONDS: Final = 75
"""Of the flow; the first 10 are not counted."""
_WARM: Final = 10
_START: Final = 1_700_000_040 * SECOND
_STREAM: Final = "opcua-collector/line1"
_EPOCH: Final = "0123456789ab"
_GAIN: Final = 0.1
_OFFSET: Final = -5.0
_BAND: Final = 0.05
_LONGEST: Final = 600 * SECOND
_DEVIATION: Final = 0.4
_DOOR_LONGEST: Final = 28_800 * SECOND
STEPS: Final[dict[str, dict[str, Any]]] = {
    "scale+deadband": {
        "scale": {"type": "convert", "gain": _GAIN, "offset": _OFFSET},
        "report": {"type": "report", "absolute": _BAND, "maxInterval": "10m"},
    },
    "swinging door": {"door": {"type": "compress", "deviation": _DEVIATION}},
}
FLOW: Final[dict[str, Any]] = {
    "gate": {"type": "quality"},
    "units": {"type": "convert", "units": {"degF": "degC"}},
    "possible": {"type": "range", "low": -50, "high": 400, "softHigh": 200},
    "high": {"type": "alarm", "limits": {"high": 90, "highHigh": 120}, "hysteresis": 2, "onDelay": "5s"},
    "minutes": {"type": "aggregate", "window": "1m", "inputs": "pass"},
    "report": {"type": "report", "absolute": 0.5, "maxInterval": "10m"},
}


@dataclass(frozen=True, slots=True)
class Rate:
    """Values per second of CPU."""

    what: str
    shape: str
    values_per_s: float
    stages_per_s: float
    loop_per_s: float
    times_stages: float
    times_loop: float
    passed: int
    passed_stages: int
    passed_loop: int


@dataclass(frozen=True, slots=True)
class Share:
    """Parts of one core that 10,000 values a second take."""

    decode: float
    flow: float
    encode: float
    core: float
    values: int
    sent: int


def judged(rates: Sequence[Rate], share: Share | None) -> list[str]:
    """What is not as it should be; nothing: all is well."""
    found = [f"{what} was not measured" for what in REQUIRED if all(one.what != what for one in rates)]
    for one in rates:
        name, least = f"{one.what}, {one.shape}", REQUIRED[one.what]
        if one.values_per_s < least:
            found.append(f"{name}: {one.values_per_s:,.0f} values per second, less than {least:,}")
        if not one.passed == one.passed_stages == one.passed_loop:
            found.append(
                f"{name}: {one.passed:,} values pass, but {one.passed_stages:,} (stages) and {one.passed_loop:,}"
                " (one loop) of plain Python"
            )
    if share is None:
        found.append("the flow was not measured")
    elif share.core > MOST_CORE:
        found.append(f"flow: {share.core:.1%} of a core, more than {MOST_CORE:.0%}")
    elif not share.sent:
        found.append("flow: nothing came out")
    return found


def signals(tags: int, scans: int) -> Iterator[Columns]:
    """Batches of so many scans: slow swings, a random walk, noise of a standard deviation of 0.1."""
    chance = np.random.default_rng(7)
    series = tuple(Series(f"Area{n % 7}/Unit{n % 31}/Loop{n}.PV", unit="degC") for n in range(tags))
    s = np.tile(np.arange(tags, dtype=np.int32), scans)
    level = chance.normal(50, 20, tags)
    scan = 0
    while True:
        values, times = [], []
        for _ in range(scans):
            scan += 1
            level = level + chance.normal(0, 0.02, tags)
            values.append(level + 5 * np.sin(scan / 600) + chance.normal(0, 0.1, tags))
            times.append(np.full(tags, _START + scan * SECOND, dtype=np.int64))
        yield Columns(ValueType.DOUBLE, series, s, np.concatenate(times), np.concatenate(values))


def flow_of(steps: dict[str, Any]) -> Pipeline:
    """A flow of these steps, as it is built from configuration."""
    return build("bench", {"settings": {"inputs": {"all": {"stream": "*"}}, "steps": steps}, "models": {}})


# --- ours ---


def through(steps: dict[str, Any], batches: Sequence[Columns]) -> tuple[float, int]:
    """Seconds of CPU for these batches in a flow but for the first ones, and the values that came out."""
    of = flow_of(steps)
    turns = [
        ([SampleBatch(Header(_STREAM, _EPOCH, seq), columns)], Turn(int(columns.t[-1]), int(columns.t[-1]) - _START))
        for seq, columns in enumerate(batches, 1)
    ]
    passed = sum(len(part) for batch, turn in turns[:UNCOUNTED] for part in of.turn(batch, turn).live)
    began = time.thread_time()
    for batch, turn in turns[UNCOUNTED:]:
        passed += sum(map(len, of.turn(batch, turn).live))
    return time.thread_time() - began, passed


# --- plain Python ---

Message = dict[str, Any]
Stage = Callable[[Message], Sequence[Message]]


def messages(batches: Sequence[Columns]) -> list[Message]:
    """The same values, each a message of its own."""
    return [
        {"tag": columns.series[s].tag, "t": t, "value": value, "quality": 0}
        for columns in batches
        for s, t, value in zip(columns.s.tolist(), columns.t.tolist(), columns.value.tolist(), strict=True)
    ]


def scale(message: Message) -> Sequence[Message]:
    """A stage: another scale."""
    return ({**message, "value": message["value"] * _GAIN + _OFFSET},)


def deadband() -> Stage:
    """A stage: report by exception with the value before."""
    last: dict[str, Message] = {}
    held: dict[str, Message] = {}

    def stage(message: Message) -> Sequence[Message]:
        tag = message["tag"]
        before = last.get(tag)
        if before is not None and before["quality"] == message["quality"]:
            calm = abs(message["value"] - before["value"]) <= _BAND
            if calm and message["t"] - before["t"] < _LONGEST:
                held[tag] = message
                return ()
            if calm:
                held.pop(tag, None)
        last[tag] = message
        previous = held.pop(tag, None)
        return (message,) if previous is None else (previous, message)

    return stage


class Line:
    """A tag on its way through the door."""

    __slots__ = ("anchor", "held", "lo", "up")

    def __init__(self, anchor: Message) -> None:
        self.anchor = anchor
        self.held: Message | None = None
        self.up, self.lo = float("inf"), float("-inf")


def door() -> Stage:
    """A stage: swinging door."""
    lines: dict[str, Line] = {}
    narrower = _DEVIATION * (1 - 2.0**-48)

    def stage(message: Message) -> Sequence[Message]:
        line = lines.get(message["tag"])
        if line is None or line.anchor["quality"] != message["quality"]:
            lines[message["tag"]] = Line(message)
            return (message,) if line is None or line.held is None else (line.held, message)
        t, value = message["t"], message["value"]
        out: Sequence[Message] = ()
        length, change = t - line.anchor["t"], value - line.anchor["value"]
        held = line.held
        if held is not None and (length > _DOOR_LONGEST or not line.lo <= change / length <= line.up):
            line.anchor, line.up, line.lo = held, float("inf"), float("-inf")
            length, change = t - held["t"], value - held["value"]
            out = (held,)
        line.up = min(line.up, (change + narrower) / length)
        line.lo = max(line.lo, (change - narrower) / length)
        line.held = message
        return out

    return stage


def staged(stages: Sequence[Stage], given: Sequence[Message]) -> tuple[float, int]:
    """Seconds of CPU for these messages through a chain of stages, and how many came out."""
    began = time.thread_time()
    passed = 0
    for message in given:
        batch: Sequence[Message] = (message,)
        for stage in stages:
            batch = [out for one in batch for out in stage(one)]
            if not batch:
                break
        passed += len(batch)
    return time.thread_time() - began, passed


class Band:
    """A tag in one loop: its last report, and whether a value is held."""

    __slots__ = ("held", "quality", "t", "value")

    def __init__(self, t: int, value: float, quality: int) -> None:
        self.t, self.value, self.quality, self.held = t, value, quality, False


Row = tuple[str, int, float, int]


def rows(batches: Sequence[Columns]) -> list[Row]:
    """The same values as tuples."""
    return [(one["tag"], one["t"], one["value"], one["quality"]) for one in messages(batches)]


def scaled_in_one_loop(given: Sequence[Row]) -> tuple[float, int]:
    """Scale and deadband written out, as little as it takes."""
    began = time.thread_time()
    bands: dict[str, Band] = {}
    get = bands.get
    passed = 0
    for tag, t, raw, quality in given:
        value = raw * _GAIN + _OFFSET
        band = get(tag)
        if band is None:
            bands[tag] = Band(t, value, quality)
            passed += 1
            continue
        if band.quality == quality and -_BAND <= value - band.value <= _BAND:
            if t - band.t < _LONGEST:
                band.held = True
                continue
            band.held = False
        passed += 2 if band.held else 1
        band.t, band.value, band.quality, band.held = t, value, quality, False
    return time.thread_time() - began, passed


class Cone:
    """A tag in one loop: its line."""

    __slots__ = ("at", "av", "held", "lo", "quality", "st", "sv", "up")

    def __init__(self, t: int, value: float, quality: int) -> None:
        self.at, self.av, self.quality, self.held = t, value, quality, False
        self.st, self.sv = t, value
        self.up, self.lo = float("inf"), float("-inf")


def doored_in_one_loop(given: Sequence[Row]) -> tuple[float, int]:
    """The swinging door written out, as little as it takes."""
    began = time.thread_time()
    cones: dict[str, Cone] = {}
    get = cones.get
    passed = 0
    narrower = _DEVIATION * (1 - 2.0**-48)
    for tag, t, value, quality in given:
        cone = get(tag)
        if cone is None or cone.quality != quality:
            passed += 2 if cone is not None and cone.held else 1
            cones[tag] = Cone(t, value, quality)
            continue
        length, change = t - cone.at, value - cone.av
        if cone.held and (length > _DOOR_LONGEST or not cone.lo <= change / length <= cone.up):
            passed += 1
            cone.at, cone.av = cone.st, cone.sv
            length, change = t - cone.at, value - cone.av
            cone.up, cone.lo = (change + narrower) / length, (change - narrower) / length
        else:
            up, lo = (change + narrower) / length, (change - narrower) / length
            if up < cone.up:
                cone.up = up
            if lo > cone.lo:
                cone.lo = lo
        cone.st, cone.sv, cone.held = t, value, True
    return time.thread_time() - began, passed


# --- measuring ---

_PLAIN: Final[dict[str, tuple[Callable[[], list[Stage]], Callable[[Sequence[Row]], tuple[float, int]]]]] = {
    "scale+deadband": (lambda: [scale, deadband()], scaled_in_one_loop),
    "swinging door": (lambda: [door()], doored_in_one_loop),
}


def rate(what: str, tags: int, scans: int, rounds: int) -> Rate:
    """Ours and plain Python, by turns."""
    source = signals(tags, scans)
    batches = [next(source) for _ in range(BATCHES)]
    values = sum(map(len, batches[UNCOUNTED:]))
    as_messages, as_rows = messages(batches), rows(batches)
    stages, loop = _PLAIN[what]
    best = [float("inf")] * 3
    passed = [0, 0, 0]
    for _ in range(rounds):
        gc.collect()
        # plain Python has all batches timed: new tags cost it nothing
        measured = (through(STEPS[what], batches), staged(stages(), as_messages), loop(as_rows))
        for place, (spent, count) in enumerate(measured):
            best[place], passed[place] = min(best[place], spent), count
    ours, theirs, fused = values / best[0], len(as_rows) / best[1], len(as_rows) / best[2]
    return Rate(
        what,
        f"{tags:,} tags x {scans}",
        round(ours),
        round(theirs),
        round(fused),
        round(ours / theirs, 1),
        round(ours / fused, 1),
        *passed,
    )


def payloads(seconds: int) -> list[list[bytes]]:
    """What collectors send in each tenth of a second: frames of 500 values; every fourth tag is in degF."""
    source = signals(TAGS, 1)
    found: list[list[bytes]] = []
    seq = 0
    frames: list[tuple[Series, ...]] = []
    for _ in range(seconds):
        scan = next(source)
        if not frames:
            series = [
                Series(one.tag, f"Site/Area{n % 7}", "degF" if n % 4 == 0 else "degC")
                for n, one in enumerate(scan.series)
            ]
            frames = [tuple(series[begin : begin + FRAME]) for begin in range(0, TAGS, FRAME)]
        per_tenth = len(frames) // 10
        for tenth in range(10):
            part = []
            for frame in range(tenth * per_tenth, (tenth + 1) * per_tenth):
                rows_ = slice(frame * FRAME, (frame + 1) * FRAME)
                seq += 1
                s = np.arange(FRAME, dtype=np.int32)
                t = scan.t[rows_] + tenth * (SECOND // 10)
                columns = Columns(ValueType.DOUBLE, frames[frame], s, t, scan.value[rows_].round(4))
                part.append(encode(Header(_STREAM, _EPOCH, seq), columns))
            found.append(part)
    return found


def share(seconds: int) -> Share:
    """10,000 tags at 1 Hz through the flow."""
    given = payloads(seconds)
    of = flow_of(FLOW)
    cutter = Cutter(CLASSIC_MAX_MESSAGE_BYTES)
    spent = [0.0, 0.0, 0.0]
    values = sent = seq = 0
    clock = time.thread_time
    for tenth, frames in enumerate(given):
        began = clock()
        batches = [one for frame in frames if isinstance(one := decode(frame), SampleBatch)]
        decoded = clock()
        steady = (tenth + 1) * (SECOND // 10)
        outcome = of.turn(batches, Turn(_START + SECOND + steady, steady))
        turned = clock()
        for columns in outcome.live:
            for part in cutter.parts(columns, Header("preprocessor/bench", _EPOCH, seq + 1)):
                seq += 1
                sent += len(part.columns)
        done = clock()
        if tenth >= _WARM * 10:
            values += sum(len(one.columns) for one in batches)
            for place, took in enumerate((decoded - began, turned - decoded, done - turned)):
                spent[place] += took
    decoding, turning, encoding = (round(one / (seconds - _WARM), 5) for one in spent)
    return Share(decoding, turning, encoding, round(decoding + turning + encoding, 5), values, sent)


def deployed(options: argparse.Namespace) -> list[device.Deployed]:
    """The component from its artifact, with each shape of data."""
    found = []
    print(_DEPLOYED.format("deployed", "CPU", "us/value", "idle", "memory", "bytes/value", "lost", "back"))
    with tempfile.TemporaryDirectory(prefix="sluice-preprocessor-bench-") as name:
        artifacts = options.build or built(Path(name))
        for tags, hertz in device.SHAPES:
            folder = Path(name) / str(tags)
            folder.mkdir()
            one = asyncio.run(device.deployed(folder, artifacts, tags, hertz, options.seconds))
            found.append(one)
            print(
                _DEPLOYED.format(
                    one.shape,
                    f"{one.core:.1%}",
                    f"{one.cpu_us:.1f}",
                    f"{one.idle_mb:.0f} MB",
                    f"{one.rss_mb:.0f} MB",
                    f"{one.bytes_per_value:.1f}",
                    one.lost,
                    f"{one.back_s:.1f} s",
                ),
                flush=True,
            )
    return found


def holds() -> list[device.Hold]:
    """Many slow tags, each number of them in a process of its own."""
    found = []
    for tags in device.HELD_TAGS:
        with (
            tempfile.TemporaryDirectory(prefix="sluice-preprocessor-bench-") as name,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            one = pool.submit(device.held, Path(name), tags, device.HELD_SECONDS).result()
        found.append(one)
        print(
            f"{tags:,} tags, one value in 10 s: the event loop held for {one.hold_s * 1000:.0f} ms at most,"
            f" {one.core:.1%} of a core, {one.rss_mb:.0f} MB",
            flush=True,
        )
    return found


_WHAT: Final = ("inside", "deployed", "hold")
_DEPLOYED: Final = "{:22}{:>8}{:>10}{:>9}{:>9}{:>13}{:>6}{:>8}"
_ROW: Final = "{:16}{:>18}{:>14}{:>14}{:>14}{:>10}{:>10}"


def inside(rounds: int) -> tuple[list[Rate], Share]:
    """What the flows take by themselves."""
    print("values per second on one core, and how many times plain Python")
    print(_ROW.format("", "batch", "ours", "stages", "one loop", "x stages", "x loop"))
    rates = []
    for what in STEPS:
        for tags, scans in ((TAGS, BATCH // TAGS), (200, BATCH // 200)):
            one = rate(what, tags, scans, rounds)
            rates.append(one)
            print(
                _ROW.format(
                    what,
                    one.shape,
                    f"{one.values_per_s:,.0f}",
                    f"{one.stages_per_s:,.0f}",
                    f"{one.loop_per_s:,.0f}",
                    f"{one.times_stages:.1f}",
                    f"{one.times_loop:.1f}",
                ),
                flush=True,
            )
    part = share(SECONDS)
    print(
        f"flow of {TAGS:,} tags at 1 Hz: {part.core:.1%} of a core"
        f" (decode {part.decode:.1%}, flow {part.flow:.1%}, encode {part.encode:.1%})"
    )
    required = ", ".join(f"{what} {least:,}/s" for what, least in REQUIRED.items())
    print(f"required: {required}, flow under {MOST_CORE:.0%} of a core")
    return rates, part


def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(prog="scripts/bench preprocessor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the best counts (3)")
    parser.add_argument("--what", default=",".join(_WHAT), help=f"which, of {', '.join(_WHAT)}")
    parser.add_argument("--seconds", type=float, default=65.0, help="length of each measurement as deployed (65)")
    parser.add_argument("--build", type=Path, help="output folder of scripts/build.py, in the place of a new build")
    options = parser.parse_args()
    what = options.what.split(",")
    if unknown := set(what) - set(_WHAT):
        parser.error(f"--what {', '.join(sorted(unknown))}: there are {', '.join(_WHAT)}")
    report: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        if "inside" in what:
            rates, part = inside(max(1, options.rounds))
            wrong += judged(rates, part)
            report |= {"rates": [asdict(one) for one in rates], "flow": asdict(part)}
        at_work = deployed(options) if "deployed" in what else []
        slow = holds() if "hold" in what else []
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    wrong += device.judged(at_work, slow)
    report |= {"deployed": [asdict(one) for one in at_work], "hold": [asdict(one) for one in slow]}
    for problem in wrong:
        print(f"bench: {problem}", file=sys.stderr)
    if options.json is not None:
        required = {
            **REQUIRED,
            "core": MOST_CORE,
            "idle_mb": device.MOST_IDLE_MB,
            "hold_s": device.MOST_HOLD_S,
            "back_s": device.MOST_BACK_S,
        }
        report = {
            "ok": not wrong,
            "wrong": wrong,
            **report,
            "required": required,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
