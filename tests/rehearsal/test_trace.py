"""The path of a sample through what a run left: its batch, its units, its messages, its files, its destinations."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from localcore.witness import Witness, appends_path, puts_path
from plant.log import PlantLog
from plant.reconciliation import Delivered
from rehearsal import trace
from sluice.batch import Header, encode
from sluice.columns import Columns, Series, ValueType
from sluice.delivery import Frame
from sluice.outbox import Outbox, Put, Quota
from stream_exporter.units import Unit, UnitStore

TAG, TIME = "Unit1/Row", 1_795_325_440_605_930_000
STREAM = "opcua-collector/line1"


def columns(times: Sequence[int]) -> Columns:
    """The tag's samples at those times."""
    return Columns(
        type=ValueType.DOUBLE,
        series=(Series("Unit1/Other"), Series(TAG, asset="site/area/line1")),
        s=np.ones(len(times), dtype=np.int32),
        t=np.array(times, dtype=np.int64),
        value=np.arange(len(times), dtype=np.float64),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a run: a plant that logged three samples of a tag, the one that is traced in the middle."""
    log = PlantLog(tmp_path / "plant" / "plant.log")
    for number, time_ns in enumerate((TIME - 1000, TIME, TIME + 1000)):
        log.write(time_ns, {TAG: float(number)}, {})
    log.end()
    (tmp_path / "core" / "logs").mkdir(parents=True)
    return tmp_path


def path(root: Path, acts: Sequence[dict[str, Any]] = ()) -> list[str]:
    """The path of the sample in the middle, without the first line."""
    return list(trace.path_of(root, trace.Sample(TAG, TIME, "lost at lake"), acts))[1:]


def found(lines: Sequence[str], what: str) -> list[str]:
    return [" ".join(line.split()[1:]) for line in lines if line.split()[0] == what]


async def outbox(root: Path) -> str:
    """An outbox that keeps three batches of one stream, the second with the sample at index 1; returns its epoch."""
    box = await Outbox.open(
        root / "core" / "work" / "io.sluice.OpcUaCollector" / "outbox" / "outbox.db", Quota(2**30, None, 0)
    )
    epoch = box.state(STREAM).epoch
    frames = []
    for number, times in enumerate(((1, 2), (TIME - 1000, TIME, TIME + 1000), (TIME + 2000, TIME + 3000)), 1):
        frames.append(Frame(number, len(times), encode(Header(STREAM, epoch, number), columns(times))))
    await box.put([Put(STREAM, frames, {"received": 7, "stored": 7})])
    await box.close()
    return epoch


async def test_a_batch_that_is_kept_is_named_with_its_number_and_the_samples_index(root: Path) -> None:
    epoch = await outbox(root)
    lines = path(root)
    assert found(lines, "produced") == ["row 2: 1.0, status 0x00000000"]
    assert found(lines, "kept") == [
        f"core/work/io.sluice.OpcUaCollector/outbox/outbox.db batches {STREAM}: epoch {epoch} number 2 index 1"
    ]
    assert "beyond it" in found(lines, "numbered")[0]
    assert found(lines, "stored") == ["in no stream of stream manager (S3 goes by files)"]


async def test_units_and_cursors_of_each_sink_are_held_against_the_batch(root: Path) -> None:
    epoch = await outbox(root)
    store = await UnitStore.open(root / "core" / "work" / "io.sluice.StreamExporter" / "exporter.db")
    unit = Unit("lake", 1, STREAM, epoch, 1, 2, 5, 1, 500, "{}", 0, -1)
    await store.intend(unit)
    await store.commit(unit, 0, ledger={})
    await store.move("late", STREAM, epoch, 2)
    await store.close()
    lines = path(root)
    assert len(found(lines, "unit")) == 1
    assert "'sink': 'lake'" in found(lines, "unit")[0]
    cursors = {line.partition("'sink': '")[2].partition("'")[0]: line for line in found(lines, "cursor")}
    assert "beyond it" in cursors["lake"]
    assert "not there yet" in cursors["late"]


@pytest.mark.parametrize("packed", [False, True])
def test_messages_entries_files_and_destinations_are_searched(root: Path, packed: bool) -> None:
    line = orjson.dumps({"tag": TAG, "time_ns": TIME, "value": 1.0, "quality": "GOOD", "id": "0123456789ab.2.1"})
    other = orjson.dumps({"tag": TAG, "time_ns": TIME + 1000, "id": "0123456789ab.2.2"})
    payload = line + b"\n" + other + b"\n"
    if packed:
        payload = gzip.compress(line + b"\n") + gzip.compress(other + b"\n")
    seconds, rest = divmod(TIME, 1_000_000_000)
    entry = {
        "propertyAlias": f"site/area/line1/{TAG}",
        "propertyValues": [{"timestamp": {"timeInSeconds": seconds, "offsetInNanos": rest}}],
    }
    for stream, messages in {"Kinesis": [other, payload, payload], "SiteWise": [orjson.dumps(entry)]}.items():
        witness = Witness(appends_path(root / "core", stream))
        for number, message in enumerate(messages):
            witness.write(_append(number, message))
        witness.close()
    work = root / "core" / "work" / "io.sluice.StreamExporter" / "s3"
    work.mkdir(parents=True)
    (work / "file.jsonl.part").write_bytes(payload[: len(payload) - 3])  # as a kill leaves it
    (work / "other.jsonl").write_bytes(other)
    assert not puts_path(root / "core").exists()
    sample = Delivered(TAG, TIME, 1.0, "GOOD", "0123456789ab.2.1", TIME)
    trace.keep(root, {"destinations": {}}, {"lake": lambda: [sample, sample], "site/wise": list})
    lines = path(root)
    at = trace._clock(TIME + 5)
    assert found(lines, "stored") == [
        f"Kinesis: message 1 at {at}",
        f"Kinesis: message 2 at {at}",
        f"SiteWise: message 0 at {at}",
    ]
    assert found(lines, "file") == [
        "core/work/io.sluice.StreamExporter/s3/file.jsonl.part: 1 times: 0123456789ab.2.1",
    ]
    delivered = found(lines, "delivered")
    assert delivered[0].startswith("lake: 2 times: 1.0 GOOD, id 0123456789ab.2.1")
    assert delivered[1] == "site/wise: 0 times"


def _append(number: int, payload: bytes) -> bytes:
    text = base64.b64encode(payload).decode()
    return orjson.dumps({"seq": number, "at_ns": TIME + 5, "payload": text}, option=orjson.OPT_APPEND_NEWLINE)


def test_what_was_said_and_what_went_wrong_at_that_time_is_shown(root: Path) -> None:
    logs = root / "core" / "logs"
    said = {"near": TIME + 1_500_000_000, "far": TIME + 2_500_000_000}
    (logs / "a.log").write_bytes(
        b"".join(
            orjson.dumps({"time": _iso(at), "message": text}, option=orjson.OPT_APPEND_NEWLINE)
            for text, at in said.items()
        )
    )
    (logs / "b.log").write_text(
        "".join(
            f"{datetime.fromtimestamp(at / 1e9).strftime('%Y-%m-%d %H:%M:%S,%f')[:23]} INFO {text}\nTraceback\n"
            for text, at in said.items()
        )
    )
    acts = [
        {"at": 1.0, "action": "line_cut", "begun_ns": TIME - 1_000_000_000, "ended_ns": TIME},
        {"at": 9.0, "action": "stall", "begun_ns": TIME + 9_000_000_000, "ended_ns": TIME + 10_000_000_000},
    ]
    lines = path(root, acts)
    assert [line.split(":")[0] for line in found(lines, "log")] == ["a.log", "b.log"]
    assert all("near" in line for line in found(lines, "log"))
    assert len(found(lines, "fault")) == 1
    assert "line_cut" in found(lines, "fault")[0]


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_first_samples_that_went_wrong_are_traced_each_once(root: Path) -> None:
    def finding(time_ns: int) -> dict[str, Any]:
        return {"tag": TAG, "time_ns": time_ns}

    report = {
        "destinations": {
            "lake": {"first_lost": finding(TIME), "first_duplicated": finding(TIME - 1000)},
            "site": {"first_lost": finding(TIME)},
        }
    }
    assert trace.wrong_samples(report) == [
        trace.Sample(TAG, TIME - 1000, "duplicated at lake"),
        trace.Sample(TAG, TIME, "lost at lake, lost at site"),
    ]
    trace.keep(root, report, {})
    assert [line for line in trace.lines(root) if line.startswith(TAG)] == [
        f"{TAG} of {trace._clock(TIME - 1000)} ({TIME - 1000}): duplicated at lake",
        f"{TAG} of {trace._clock(TIME)} ({TIME}): lost at lake, lost at site",
    ]


def test_a_folder_in_which_nothing_was_kept_is_told(tmp_path: Path) -> None:
    assert "nothing was kept" in next(trace.lines(tmp_path))


def test_a_run_without_a_fault_has_no_path_to_show(root: Path) -> None:
    trace.keep(root, {"destinations": {"lake": {"lost": 0}}}, {})
    assert list(trace.lines(root)) == ["no sample went wrong"]


def test_windows_and_totals_that_went_wrong_are_traced_as_well() -> None:
    first = {"first": "lost: Unit1/A.sum at 7: 3.0", "tag": "Unit1/A.sum", "time_ns": 7}
    report = {"destinations": {}, "processed": {"lake": first, "kinesis": {"lost": 0}}}
    assert trace.wrong_samples(report) == [trace.Sample("Unit1/A.sum", 7, "lost at lake")]
