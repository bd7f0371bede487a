"""The path of one sample through every component of a run that was kept: where it is, where it was, where it is not.

Reads what the run left in its folder and needs nothing to be running:

    report.json              what the run reported; its first lost, doubled, wrong and unexpected samples are traced
    destinations/<sink>      what each destination held at the end, a JSON line per sample (written by keep())
    plant/plant.log          what was produced, of the PI Web API in pi/pi.log
    core/work/*/**/*.db      batches that an outbox still keeps; units and cursors of sinks
    core/work/*/**           files of samples that are not uploaded, or not deleted
    core/witness/*           every message that stream manager stored, every entry that SiteWise accepted
    core/logs/*              what was said within two seconds of the sample's time, and of the times it was stored

Databases are copied before they are opened, so that looking changes nothing.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import orjson
import zstandard

from localcore import received
from plant.log import EndMark, LogError, read_log
from plant.reconciliation import Delivered
from plant.tags import DEFAULT_ASSET
from rehearsal.site import PI_ASSET

REPORT = "report.json"
MOST_SAMPLES = 3
"""Samples whose path is shown."""
MOST_LINES = 30
"""Lines of one log that are shown."""
AROUND_NS = 2_000_000_000
FINDINGS = ("first_lost", "first_duplicated", "first_wrong", "first_unexpected")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_BATCH = 64 * 1024 * 1024
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What is looked for, and what is wrong with it."""

    tag: str
    time_ns: int
    why: str

    def named(self, tag: str) -> bool:
        """Whether a tag, perhaps with the plant's asset path before it, is this one."""
        return tag in (self.tag, f"{DEFAULT_ASSET}/{self.tag}", f"{PI_ASSET}/{self.tag}")


@dataclass(frozen=True, slots=True)
class Place:
    """A batch that holds the sample: the number in its stream, and the index in the batch."""

    epoch: str
    number: int
    index: int


def keep(root: Path, report: Mapping[str, Any], deliveries: Mapping[str, Callable[[], Iterable[Delivered]]]) -> None:
    """Write the report, and what each destination holds, into the folder of the run: the endpoints forget it."""
    (root / REPORT).write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    folder = root / "destinations"
    folder.mkdir(exist_ok=True)
    for name, read in deliveries.items():
        with (folder / quote(name, safe="")).open("wb") as file:
            for sample in read():
                file.write(orjson.dumps(sample._asdict(), option=orjson.OPT_APPEND_NEWLINE))


def lines(root: Path) -> Iterator[str]:
    """The paths of the first samples that went wrong in the run of that folder, as text."""
    if not (root / REPORT).is_file():
        yield f"{root} has no {REPORT}: nothing was kept that could be traced"
        return
    report = orjson.loads((root / REPORT).read_bytes())
    samples = wrong_samples(report)
    if not samples:
        yield "no sample went wrong"
    for sample in samples:
        yield ""
        yield from path_of(root, sample, report.get("acts", []))


def wrong_samples(report: Mapping[str, Any]) -> list[Sample]:
    """The earliest samples that the report names, each once."""
    why: dict[tuple[int, str], list[str]] = {}
    for destination, counts in report.get("destinations", {}).items():
        for finding in FINDINGS:
            if finding in counts:
                key = (counts[finding]["time_ns"], counts[finding]["tag"])
                why.setdefault(key, []).append(f"{finding.removeprefix('first_')} at {destination}")
    for destination, verdict in report.get("processed", {}).items():
        if verdict.get("first"):
            key = (verdict["time_ns"], verdict["tag"])
            why.setdefault(key, []).append(f"{verdict['first'].partition(':')[0]} at {destination}")
    return [Sample(tag, time_ns, ", ".join(why[time_ns, tag])) for time_ns, tag in sorted(why)[:MOST_SAMPLES]]


def path_of(root: Path, sample: Sample, acts: Iterable[Mapping[str, Any]] = ()) -> Iterator[str]:
    """The path of one sample, a line for each place."""
    yield f"{sample.tag} of {_clock(sample.time_ns)} ({sample.time_ns}): {sample.why}"
    yield from _produced(root, sample)
    at_destinations = {name: list(_held(root, name, sample)) for name in _destinations(root)}
    stored = list(_stored(root, sample))
    kept = list(_kept(root, sample))
    places = {place for _, place in kept}
    for held in at_destinations.values():
        places |= {place for one in held if (place := _place(one["id"])) is not None}
    places |= {place for message in stored for place in message.places}
    if kept:
        for where, place in kept:
            yield f"  kept        {where}: {_text(place)}"
    else:
        yield "  kept        in no outbox: never stored, or acknowledged"
    for place in sorted(places, key=lambda place: (place.epoch, place.number)):
        yield from _units(root, place)
    for path in _files(root, sample):
        yield f"  file        {path}"
    for message in stored:
        yield f"  stored      {message.stream}: message {message.sequence} at {_clock(message.at_ns)}"
    if not stored:
        yield "  stored      in no stream of stream manager (S3 goes by files)"
    for name, held in at_destinations.items():
        times = f"{len(held)} times" if len(held) != 1 else "once"
        values = "; ".join(
            f"{one['value']} {one['quality']}, id {one['id']}, at {_clock(one['at_ns'])}" for one in held
        )
        yield f"  delivered   {name}: {times}{': ' if held else ''}{values}"
    moments = [sample.time_ns, *sorted({message.at_ns for message in stored})]
    for act in acts:
        if any(act["begun_ns"] - AROUND_NS <= moment <= act.get("ended_ns", moment) + AROUND_NS for moment in moments):
            arguments = {name: value for name, value in act.items() if name not in ("action", "begun_ns", "ended_ns")}
            yield f"  fault       {_clock(act['begun_ns'])} {act['action']} {orjson.dumps(arguments).decode()}"
    yield from _said(root, moments)


# --- the plant --------------------------------------------------------------------------------------------------------


def _produced(root: Path, sample: Sample) -> Iterator[str]:
    logs = [path for path in (root / "plant" / "plant.log", root / "pi" / "pi.log") if path.exists()]
    try:
        for path in logs:
            for row in read_log(path):
                if not isinstance(row, EndMark) and row.time_ns == sample.time_ns and sample.tag in row.values:
                    status = row.statuses.get(sample.tag, 0)
                    yield f"  produced    row {row.row}: {row.values[sample.tag]}, status {status:#010x}"
                    return
        yield f"  produced    never, says {' and '.join(map(str, logs)) or 'no log'}"
    except (OSError, LogError) as error:
        yield f"  produced    unknown: {error}"


# --- databases --------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of every table of a SQLite file, with what its journal holds."""
    with tempfile.TemporaryDirectory(prefix="sluice-trace-") as folder:
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(path.with_name(path.name + suffix), Path(folder, "copy.db" + suffix))
        with closing(sqlite3.connect(Path(folder, "copy.db"))) as database:
            database.row_factory = sqlite3.Row
            tables = [row["name"] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                quoted = '"' + table.replace('"', '""') + '"'
                for row in database.execute(f"SELECT * FROM {quoted}"):  # noqa: S608 - a table's own name
                    yield table, dict(row)


def _databases(root: Path) -> Iterator[tuple[Path, list[tuple[str, dict[str, Any]]]]]:
    for path in sorted((root / "core" / "work").rglob("*.db")):
        with suppress(sqlite3.DatabaseError, OSError):
            yield path.relative_to(root), list(_rows(path))


def _kept(root: Path, sample: Sample) -> Iterator[tuple[str, Place]]:
    """Batches in databases that hold the sample."""
    for path, rows in _databases(root):
        for table, row in rows:
            for value in row.values():
                batch = _batch(value) if isinstance(value, bytes) else None
                for index in _indices(batch, sample):
                    assert batch is not None
                    yield f"{path} {table} {batch['stream']}", Place(batch["epoch"], batch["seq"], index)


def _units(root: Path, place: Place) -> Iterator[str]:
    """Ranges of a sink that cover a batch, and where cursors stand against it."""
    for path, rows in _databases(root):
        for table, row in rows:
            if row.get("epoch") != place.epoch:
                continue
            told = {name: value for name, value in row.items() if not isinstance(value, bytes) and name != "settings"}
            if "first" in row and "last" in row:
                if row["first"] <= place.number <= row["last"]:
                    yield f"  unit        {path} {table}: {told}: {_text(place)} is in it, and it is not exported"
            elif "next" in row:
                where = "beyond it" if row["next"] > place.number else "not there yet"
                what = "cursor  " if "sink" in row else "numbered"
                yield f"  {what}    {path} {table}: {told}: {where} ({_text(place)})"


def _batch(payload: bytes) -> dict[str, Any] | None:
    """A batch of samples in its wire form (JSON, or one zstd frame), or None."""
    try:
        if payload[:4] == _ZSTD_MAGIC:
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=_MAX_BATCH)
        batch = orjson.loads(payload) if payload[:1] == b"{" else None
    except (zstandard.ZstdError, ValueError):
        return None
    return batch if isinstance(batch, dict) and batch.get("kind") == "samples" else None


def _indices(batch: Mapping[str, Any] | None, sample: Sample) -> list[int]:
    if batch is None:
        return []
    offset = sample.time_ns - batch["t0"]
    series = {number for number, one in enumerate(batch["series"]) if sample.named(one["tag"])}
    return [
        index
        for index, (number, dt) in enumerate(zip(batch["s"], batch["dt"], strict=True))
        if dt == offset and number in series
    ]


# --- stream manager, files, destinations ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    stream: str
    sequence: int
    at_ns: int
    places: tuple[Place, ...]


def _stored(root: Path, sample: Sample) -> Iterator[_Stored]:
    """Messages that stream manager stored and that hold the sample."""
    for path in sorted((root / "core" / "witness").glob("*.appends")):
        stream = unquote(path.stem)
        for sequence, at_ns, payload in received.appends(root / "core", stream):
            entries = list(_entries(payload, sample))
            if entries:
                places = tuple(place for entry in entries if (place := _place(entry.get("id"))) is not None)
                yield _Stored(stream, sequence, at_ns, places)


def _entries(payload: bytes, sample: Sample) -> Iterator[dict[str, Any]]:
    """The lines of a message, or of a file, that are the sample; for SiteWise, its entry."""
    if payload[:2] == b"\x1f\x8b":
        payload = _unzipped(payload)
    time = str(sample.time_ns).encode()
    seconds = str(sample.time_ns // _NS).encode()
    for line in payload.splitlines():
        if time not in line and seconds not in line:
            continue
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(entry, dict):
            continue
        if entry.get("time_ns") == sample.time_ns and sample.named(str(entry.get("tag"))):
            yield entry
        elif sample.named(str(entry.get("propertyAlias"))):
            stamps = [value["timestamp"] for value in entry["propertyValues"]]
            if any(s["timeInSeconds"] * _NS + s.get("offsetInNanos", 0) == sample.time_ns for s in stamps):
                yield entry


def _unzipped(data: bytes) -> bytes:
    """As much as can be unpacked: a file of a run that was killed may be cut short."""
    plain = b""
    while data:
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            plain += unpacker.decompress(data)
        except zlib.error:
            return plain
        data = unpacker.unused_data
    return plain


def _files(root: Path, sample: Sample) -> Iterator[str]:
    """Files in the components' work folders that hold the sample."""
    for path in sorted((root / "core" / "work").rglob("*")):
        if ".jsonl" not in path.name or not path.is_file():
            continue
        with suppress(OSError, gzip.BadGzipFile):
            found = [entry.get("id") for entry in _entries(path.read_bytes(), sample)]
            if found:
                yield f"{path.relative_to(root)}: {len(found)} times: {', '.join(map(str, found))}"


def _destinations(root: Path) -> list[str]:
    return sorted(unquote(path.name) for path in (root / "destinations").glob("*"))


def _held(root: Path, destination: str, sample: Sample) -> Iterator[dict[str, Any]]:
    wanted = b'"time_ns":%d,' % sample.time_ns
    with (root / "destinations" / quote(destination, safe="")).open("rb") as file:
        for line in file:
            if wanted in line:
                one = orjson.loads(line)
                if sample.named(one["tag"]):
                    yield one


def _place(identity: object) -> Place | None:
    """The batch that a record id names: `<epoch>.<number>.<index>`."""
    parts = str(identity).split(".")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return Place(parts[0], int(parts[1]), int(parts[2]))


# --- logs -------------------------------------------------------------------------------------------------------------


def _said(root: Path, moments: Iterable[int]) -> Iterator[str]:
    """Lines of the logs around those times."""
    wanted = list(moments)
    for path in sorted((root / "core" / "logs").glob("*.log*")):
        shown = 0
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            at = _said_at(line)
            if at is None or not any(abs(at - moment) <= AROUND_NS for moment in wanted):
                continue
            shown += 1
            if shown > MOST_LINES:
                yield f"  log         {path.name}: … more of it in {path}"
                break
            yield f"  log         {path.name}: {line[:500]}"


def _said_at(line: str) -> int | None:
    """The time of a log line in ns: of a component's JSON, or as the logging module writes it, in local time."""
    with suppress(ValueError, KeyError, TypeError):
        if line.startswith("{"):
            return _nanoseconds(datetime.fromisoformat(orjson.loads(line)["time"].replace("Z", "+00:00")))
        return _nanoseconds(datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone())
    return None


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * _NS)


def _clock(time_ns: int | None) -> str:
    if time_ns is None:
        return "?"
    seconds, rest = divmod(time_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%H:%M:%S}.{rest // 1_000_000:03}"


def _text(place: Place) -> str:
    return f"epoch {place.epoch} number {place.number} index {place.index}"
