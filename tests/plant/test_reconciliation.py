"""The judge: every injected loss, repeat and corruption is found, exactly, and nothing else is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.log import LogError, PlantLog, Value
from plant.reconciliation import Delivered, Finding, reconcile

T0 = 1_795_313_720_078_276_000
STEP = 100_000_000
QUALITY = {0: "GOOD", 0x40930000: "UNCERTAIN", 0x808D0000: "BAD", 0x00300000: "GOOD"}

Sample = tuple[str, int, Value, str]

value_of_kind: dict[str, st.SearchStrategy[Value]] = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
}


@st.composite
def plants(draw: st.DrawFn) -> list[dict[str, tuple[Value, int]]]:
    """Rows of a small plant with a tag of every type; a tag is not in every row."""
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        row: dict[str, tuple[Value, int]] = {}
        for tag in draw(st.sets(st.sampled_from([f"Unit{u}/{k}" for u in (1, 2) for k in value_of_kind]))):
            status = draw(st.sampled_from(list(QUALITY)))
            value = None if QUALITY[status] == "BAD" else draw(value_of_kind[tag.split("/")[1]])
            row[tag] = (value, status)
        rows.append(row)
    return rows


def write(path: Path, rows: list[dict[str, tuple[Value, int]]], *, end: bool = True) -> list[Sample]:
    """Write the log and say what it holds, in order of production."""
    log = PlantLog(path)
    samples: list[Sample] = []
    for number, row in enumerate(rows):
        time_ns = T0 + number * STEP
        log.write(
            time_ns,
            {tag: value for tag, (value, _) in row.items()},
            {tag: status for tag, (_, status) in row.items() if status},
        )
        samples += [(tag, time_ns, value, QUALITY[status]) for tag, (value, status) in row.items()]
    if end:
        log.end()
    else:
        log.close()
    return samples


def changed(sample: Sample, how: int) -> Sample:
    """The same sample with another value or another quality."""
    tag, time_ns, value, quality = sample
    if how == 0 or value is None:
        return tag, time_ns, value, "BAD" if quality != "BAD" else "GOOD"
    other: Value
    if isinstance(value, bool):
        other = (not value, int(value), str(value))[how - 1]
    elif isinstance(value, int):
        other = (value + 1, float(value), None)[how - 1]
    elif isinstance(value, float):
        other = (-value if value else 1.0, None, str(value))[how - 1]
    else:
        other = (value + "x", None, 0)[how - 1]
    return tag, time_ns, other, quality


def row_of(sample: Sample) -> int:
    return (sample[1] - T0) // STEP + 1


@settings(max_examples=150)
@given(rows=plants(), data=st.data())
def test_every_injected_loss_repeat_and_corruption_is_found_exactly(
    rows: list[dict[str, tuple[Value, int]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("r") / "plant.log"
    samples = write(path, rows)
    fates = data.draw(
        st.lists(
            st.sampled_from(["right"] * 4 + ["lost", "twice", "wrong"]), min_size=len(samples), max_size=len(samples)
        )
    )
    received: list[Sample] = []
    corrupted: dict[Sample, Sample] = {}
    for sample, happened in zip(samples, fates, strict=True):
        if happened in ("right", "twice"):
            received += [sample] * (2 if happened == "twice" else 1)
        elif happened == "wrong":
            corrupted[sample] = changed(sample, data.draw(st.integers(0, 3)))
            received.append(corrupted[sample])
    order = data.draw(st.permutations(received))

    destination = reconcile(path, {"sitewise": [Delivered(*sample) for sample in order]}).destinations["sitewise"]

    by_fate = {
        name: [s for s, f in zip(samples, fates, strict=True) if f == name]
        for name in ("right", "lost", "twice", "wrong")
    }
    missing = [s for s, f in zip(samples, fates, strict=True) if f in ("lost", "wrong")]
    assert destination.delivered == len(by_fate["right"]) + len(by_fate["twice"])
    assert destination.lost == len(missing)
    assert destination.duplicated == destination.raw_repeats == len(by_fate["twice"])
    assert destination.wrong == len(by_fate["wrong"])
    assert destination.unexpected == 0
    assert destination.balances == (set(fates) <= {"right"})

    def finding(sample: Sample, got: Sample | None) -> Finding:
        return Finding(sample[0], sample[1], row_of(sample), sample[2:], got and got[2:])

    assert destination.first_lost == (finding(missing[0], None) if missing else None)
    assert destination.first_duplicated == (
        finding(by_fate["twice"][0], by_fate["twice"][0]) if by_fate["twice"] else None
    )
    assert destination.first_wrong == (
        finding(by_fate["wrong"][0], corrupted[by_fate["wrong"][0]]) if by_fate["wrong"] else None
    )


@given(rows=plants(), data=st.data())
def test_repeats_of_a_record_id_are_dropped_where_a_reader_drops_them_and_still_counted(
    rows: list[dict[str, tuple[Value, int]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("r") / "plant.log"
    samples = write(path, rows)
    received = [Delivered(*sample, f"9f2c51aa07be.1.{i}") for i, sample in enumerate(samples)]
    repeats = data.draw(st.lists(st.sampled_from(received), max_size=5)) if received else []
    anew = data.draw(st.lists(st.sampled_from(received), max_size=5)) if received else []
    order = received + repeats + [sample._replace(id=f"9f2c51aa07be.2.{i}") for i, sample in enumerate(anew)]
    report = reconcile(path, {"kinesis": order, "s3": order})
    kinesis, s3 = report.destinations["kinesis"], report.destinations["s3"]
    assert (kinesis.delivered, kinesis.lost) == (s3.delivered, s3.lost) == (len(samples), 0)
    assert kinesis.raw_repeats == s3.raw_repeats == len(repeats) + len(anew)
    assert kinesis.duplicated == len(anew)
    assert s3.duplicated == len(repeats) + len(anew)


def test_a_reused_record_id_shows_as_the_loss_that_it_is_to_a_reader(tmp_path: Path) -> None:
    samples = write(tmp_path / "log", [{"A": (1.0, 0), "B": (2.0, 0)}])
    received = [Delivered(*sample, "e.1.0") for sample in samples]
    kinesis = reconcile(tmp_path / "log", {"kinesis": received}).destinations["kinesis"]
    assert (kinesis.delivered, kinesis.lost, kinesis.raw_repeats) == (1, 1, 1)
    assert kinesis.first_lost is not None
    assert kinesis.first_lost.tag == "B"


def test_what_was_never_produced_is_unexpected_and_named(tmp_path: Path) -> None:
    (sample,) = write(tmp_path / "log", [{"A": (1.0, 0)}])
    tag, time_ns, value, quality = sample
    received = [Delivered(*sample), Delivered("Z", time_ns, 1.0, "GOOD"), Delivered(tag, time_ns - 1, value, quality)]
    report = reconcile(tmp_path / "log", {"s3": received})
    assert report.destinations["s3"].unexpected == 2
    assert report.destinations["s3"].first_unexpected == Finding("A", time_ns - 1, None, None, (1.0, "GOOD"))
    assert not report.balances


def test_a_wrong_sample_that_also_arrives_rightly_is_wrong_but_not_lost(tmp_path: Path) -> None:
    (sample,) = write(tmp_path / "log", [{"A": (1.0, 0)}])
    received = [Delivered("A", sample[1], 2.0, "GOOD"), Delivered(*sample)]
    destination = reconcile(tmp_path / "log", {"s3": received}).destinations["s3"]
    assert (destination.delivered, destination.lost, destination.wrong) == (1, 0, 1)
    assert not destination.balances


def test_a_double_may_arrive_without_its_fraction_and_an_integer_not_as_a_double(tmp_path: Path) -> None:
    double, integer = write(tmp_path / "log", [{"A": (5.0, 0), "B": (5, 0)}])
    received = [Delivered("A", double[1], 5, "GOOD"), Delivered("B", integer[1], 5.0, "GOOD")]
    destination = reconcile(tmp_path / "log", {"s3": received}).destinations["s3"]
    assert (destination.delivered, destination.wrong) == (1, 1)
    assert destination.first_wrong is not None
    assert destination.first_wrong.tag == "B"


def test_the_asset_before_a_tag_is_taken_off(tmp_path: Path) -> None:
    (sample,) = write(tmp_path / "log", [{"Unit1/A": (1.0, 0)}])
    received = [Delivered("works/hall 3/Unit1/A", *sample[1:])]
    assert reconcile(tmp_path / "log", {"sitewise": received}, assets=["works/hall 3"]).balances
    assert reconcile(tmp_path / "log", {"sitewise": received}).destinations["sitewise"].unexpected == 1


def test_what_is_excluded_is_counted_and_named_and_never_balances(tmp_path: Path) -> None:
    samples = write(tmp_path / "log", [{"A": (1.0, 0), "B": (2, 0)}, {"A": (3.0, 0)}])
    received = [Delivered(*sample) for sample in samples if sample[0] == "B"]
    report = reconcile(tmp_path / "log", {"s3": received}, exclude={"A": "the bucket's policy forbids it"})
    assert report.as_dict()["excluded"] == 2
    assert report.as_dict()["exclusions"] == {"A": {"reason": "the bucket's policy forbids it", "samples": 2}}
    assert (report.produced, report.destinations["s3"].delivered, report.destinations["s3"].lost) == (3, 1, 0)
    assert not report.balances


def test_the_report_has_the_documented_shape(tmp_path: Path) -> None:
    samples = write(tmp_path / "log", [{"A": (1.0, 0)}, {"A": (2.0, 0x40930000)}])
    received = [Delivered(*sample, f"e.1.{i}", sample[1] + 5_000_000) for i, sample in enumerate(samples)]
    report = reconcile(tmp_path / "log", {"sitewise": received, "kinesis": received[:1]})
    assert orjson.loads(orjson.dumps(report.as_dict())) == {
        "produced": 2,
        "excluded": 0,
        "destinations": {
            "sitewise": {
                "delivered": 2,
                "lost": 0,
                "duplicated": 0,
                "raw_repeats": 0,
                "wrong": 0,
                "unexpected": 0,
                "latency_ms": {"p50": 5.0, "p99": 5.0},
            },
            "kinesis": {
                "delivered": 1,
                "lost": 1,
                "duplicated": 0,
                "raw_repeats": 0,
                "wrong": 0,
                "unexpected": 0,
                "first_lost": {
                    "tag": "A",
                    "time": "2026-11-22T02:15:20.178276000Z",
                    "time_ns": T0 + STEP,
                    "row": 2,
                    "expected": {"value": 2.0, "quality": "UNCERTAIN"},
                    "got": None,
                },
                "latency_ms": {"p50": 5.0, "p99": 5.0},
            },
        },
        "latency_ms": {"p50": 5.0, "p99": 5.0},
    }


def test_latency_is_taken_from_the_appended_messages_of_either_form(tmp_path: Path) -> None:
    write(tmp_path / "log", [{"A": (1.0, 0)}])
    lines = b"".join(b'{"tag":"A","time_ns":%d}\n' % (T0 + i) for i in range(99))
    entry = orjson.dumps(
        {"propertyValues": [{"timestamp": {"timeInSeconds": T0 // 10**9, "offsetInNanos": T0 % 10**9}}]}
    )
    appends = [(0, T0 + 20_000_000, lines), (1, T0 + 900_000_000, entry), (2, T0, b"\xff"), (3, T0, b"[]")]
    report = reconcile(tmp_path / "log", {}, appends=appends)
    assert report.latency is not None
    assert report.latency.samples == 100
    assert report.latency.p50 == pytest.approx(20.0, abs=0.001)
    assert 20 < report.latency.p99 <= 900


def test_a_log_without_its_end_mark_does_not_balance(tmp_path: Path) -> None:
    samples = write(tmp_path / "log", [{"A": (1.0, 0)}], end=False)
    report = reconcile(tmp_path / "log", {"s3": [Delivered(*sample) for sample in samples]})
    assert report.destinations["s3"].balances
    assert not report.balances
    assert report.as_dict()["ended"] is False


def test_a_log_whose_end_mark_disagrees_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "log", [{"A": (1.0, 0)}, {"A": (2.0, 0)}])
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    (tmp_path / "log").write_bytes(lines[0] + lines[2])
    with pytest.raises(LogError, match="end mark says 2 rows and 2 samples, the log has 1 and 1"):
        reconcile(tmp_path / "log", {})


def test_a_log_that_goes_back_in_time_is_refused(tmp_path: Path) -> None:
    log = PlantLog(tmp_path / "log")
    log.write(2000, {"A": 1.0}, {})
    log.write(1000, {"A": 2.0}, {})
    log.end()
    with pytest.raises(LogError, match="row 2: A goes back in time from 2000 to 1000"):
        reconcile(tmp_path / "log", {})


def test_a_sample_costs_little_memory_however_many_there_are(tmp_path: Path) -> None:
    # 300 bytes each: a million samples stay far below a gigabyte.
    tags = [f"Unit1/Variable{i:02}" for i in range(50)]
    log = PlantLog(tmp_path / "log")
    rows = 1000
    for row in range(rows):
        log.write(T0 + row * STEP, {tag: row + i / 7 for i, tag in enumerate(tags)}, {})
    log.end()

    def deliveries() -> Iterator[Delivered]:
        for row in range(rows):
            for i, tag in enumerate(tags):
                yield Delivered(tag, T0 + row * STEP, row + i / 7, "GOOD", f"9f2c51aa07be.{row}.{i}", T0 + row * STEP)

    tracemalloc.start()
    try:
        report = reconcile(tmp_path / "log", {"kinesis": deliveries()})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.balances
    assert peak / (rows * len(tags)) < 300


def test_the_logs_of_several_plants_are_judged_together(tmp_path: Path) -> None:
    first = write(tmp_path / "one", [{"A": (1.0, 0)}, {"A": (2.0, 0)}])
    second = write(tmp_path / "two", [{"B": (3.0, 0)}])
    received = [Delivered(*sample) for sample in [*second, *first]]
    report = reconcile([tmp_path / "one", tmp_path / "two"], {"s3": received})
    assert (report.produced, report.balances) == (3, True)
    lost = reconcile([tmp_path / "one", tmp_path / "two"], {"s3": received[1:]}).destinations["s3"]
    assert lost.lost == 1
    assert lost.first_lost is not None
    assert lost.first_lost.tag == "B"


def test_several_logs_are_ended_when_each_is(tmp_path: Path) -> None:
    write(tmp_path / "one", [{"A": (1.0, 0)}], end=False)
    write(tmp_path / "two", [{"B": (1.0, 0)}])
    assert not reconcile([tmp_path / "one", tmp_path / "two"], {}).ended
    assert not reconcile([tmp_path / "two", tmp_path / "one"], {}).ended


def test_two_plants_with_a_tag_of_the_same_name_cannot_be_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "one", [{"A": (1.0, 0)}])
    write(tmp_path / "two", [{"A": (1.0, 0)}])
    with pytest.raises(LogError, match="also in the log of another plant"):
        reconcile([tmp_path / "one", tmp_path / "two"], {})
