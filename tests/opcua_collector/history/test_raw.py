"""HistoryRead on the wire: what asyncua writes is what is read, and each status has its meaning."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.history.raw import Outcome, Page, Question, ask, outcome, publication, read_pages, release
from opcua_collector.stack import ua
from opcua_collector.values.encoding import MalformedError
from opcua_collector.values.notifications import Publication, decode
from opcua_collector.values.samples import Assembler, Rule
from sluice.batch import Sample, Series

binary: Any = import_module("asyncua.ua.ua_binary")
T = ua.VariantType
T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
T0_NS = 1_772_323_200_000_000_000
SECOND = 10**9


def value(content: Any, kind: Any, second: float, status: int = 0) -> Any:
    stamp = T0 + timedelta(seconds=second)
    variant = ua.Variant(content, kind) if content is not None else ua.Variant()
    return ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=stamp, ServerTimestamp=stamp)


def result(*values: Any, status: int = 0, point: bytes | None = None, empty: bool = False) -> Any:
    found = ua.HistoryReadResult()
    found.StatusCode = ua.StatusCode(status)
    found.ContinuationPoint = point
    if not empty:
        found.HistoryData = ua.HistoryData(list(values))
    return found


def response(*results: Any) -> bytes:
    made = ua.HistoryReadResponse()
    made.Results = list(results)
    return bytes(binary.struct_to_binary(made))


def notification(handle: int, *values: Any) -> Publication:
    made = ua.PublishResponse()
    items = [ua.MonitoredItemNotification(handle, one) for one in values]
    made.Parameters.NotificationMessage.NotificationData = [ua.DataChangeNotification(items)]
    return decode(bytes(binary.struct_to_binary(made)), 0, received=0, handles=handle + 1)


def assembler(rule: Rule) -> Assembler:
    made = Assembler()
    made.fix(made.add(Series("T")), rule)
    return made


def samples_of(made: Assembler, blocks: Any) -> list[Sample]:
    return sorted((s for some in made.brought(blocks) for s in some.samples()), key=lambda s: s.time)


CONTENTS = st.one_of(
    st.tuples(st.floats(width=32), st.just(T.Float)),
    st.tuples(st.floats(), st.just(T.Double)),
    st.tuples(st.integers(-(2**31), 2**31 - 1), st.just(T.Int32)),
    st.tuples(st.integers(0, 2**64 - 1), st.just(T.UInt64)),
    st.tuples(st.booleans(), st.just(T.Boolean)),
    st.tuples(st.text(max_size=9), st.just(T.String)),
    st.tuples(st.lists(st.integers(0, 9), max_size=4), st.just(T.Int32)),
    st.tuples(st.just(T0), st.just(T.DateTime)),
    st.tuples(st.none(), st.none()),
)
STATUSES = st.sampled_from([0, 0x480, 0x40930000, 0x808D0000])


@given(
    contents=st.lists(st.tuples(CONTENTS, STATUSES, st.booleans()), max_size=12),
    rule=st.sampled_from(list(Rule)),
    repeat=st.integers(1, 4),
)
def test_a_value_of_the_past_is_the_sample_that_it_would_have_been_live(
    contents: list[Any], rule: Rule, repeat: int
) -> None:
    contents = [one for one in contents for _ in range(repeat)]
    values = []
    for second, ((content, kind), status, both) in enumerate(contents):
        values.append(value(content, kind, second, status))
        if not both:
            values[-1] = ua.DataValue(values[-1].Value, values[-1].StatusCode, values[-1].SourceTimestamp)
    [page] = read_pages(response(result(*values)))
    assert (page.outcome, page.point, page.count) == (Outcome.TAKEN, b"", len(values))
    past = publication([(0, page.body)], 1, 0)
    live = notification(0, *values)
    assert (past.lost, past.quarantined, past.damage) == (live.lost, live.quarantined, live.damage)
    shown = [repr(sample) for sample in samples_of(assembler(rule), past.blocks)]
    assert shown == [repr(sample) for sample in samples_of(assembler(rule), live.blocks)]
    assert len(shown) == len(values)


def test_pages_of_many_nodes_are_told_apart() -> None:
    pages = read_pages(
        response(result(value(1.0, T.Double, 1)), result(empty=True), result(value(2.0, T.Double, 1), point=b"more"))
    )
    assert [page.point for page in pages] == [b"", b"", b"more"]
    found = publication([(handle, page.body) for handle, page in enumerate(pages)], 3, 0)
    rows = {
        (int(h), float(v)) for b in found.blocks if b.value is not None for h, v in zip(b.handle, b.value, strict=True)
    }
    assert rows == {(0, 1.0), (2, 2.0)}


MEANINGS = [
    (0, Outcome.TAKEN),
    (0x00A50000, Outcome.TAKEN),  # GoodNoData
    (0x00A60000, Outcome.TAKEN),  # GoodMoreData
    (0x40930000, Outcome.TAKEN),
    (0x809B0000, Outcome.TAKEN),  # BadNoData
    (0x804A0000, Outcome.RESTART),  # BadContinuationPointInvalid
    (0x804B0000, Outcome.RESTART),  # BadNoContinuationPoints
    (0x80720000, Outcome.NEVER),  # BadHistoryOperationUnsupported
    (0x801F0000, Outcome.NEVER),  # BadUserAccessDenied
    (0x80340000, Outcome.NEVER),  # BadNodeIdUnknown
    (0x809E0000, Outcome.LATER),  # BadDataUnavailable
    (0x80020000, Outcome.LATER),  # BadInternalError
]


@pytest.mark.parametrize(("status", "means"), MEANINGS)
@pytest.mark.parametrize("empty", [True, False])
def test_each_status_has_its_meaning_with_or_without_an_empty_object(status: int, means: Outcome, empty: bool) -> None:
    assert outcome(status) is means
    [page] = read_pages(response(result(status=status, empty=empty)))
    assert (page.outcome, page.count) == (means, 0)


def test_more_data_without_a_point_says_so() -> None:
    [page] = read_pages(response(result(value(1.0, T.Double, 1), status=0x00A60000)))
    assert page.more
    [page] = read_pages(response(result(value(1.0, T.Double, 1), status=0x00A60000, point=b"here")))
    assert not page.more


def test_values_that_are_no_raw_values_are_not_taken_for_them() -> None:
    found = ua.HistoryReadResult()
    found.HistoryData = ua.HistoryEvent([])
    [page] = read_pages(response(found))
    assert page.outcome is Outcome.LATER


@given(cut=st.integers(0, 400), flip=st.integers(0, 400), byte=st.integers(0, 255))
def test_damage_is_an_error_or_costs_what_is_damaged(cut: int, flip: int, byte: int) -> None:
    values = [value(float(n), T.Double, n) for n in range(3)] + [value("text", T.String, 4)]
    data = bytearray(response(result(*values), result(*values, point=b"point")))
    data[min(flip, len(data) - 1)] = byte
    try:
        pages = read_pages(bytes(data[: len(data) - cut % 100]))
    except MalformedError:
        return
    found = publication([(0, page.body) for page in pages if page.body], 1, 0)
    for block in found.blocks:
        assert set(block.handle.tolist()) <= {0}


def test_a_damaged_value_costs_what_follows_in_its_page_and_no_other_page() -> None:
    good = binary.struct_to_binary(ua.HistoryData([value(float(n), T.Double, n) for n in range(3)]))
    bad = bytearray(good)
    size = (len(good) - 4) // 3
    bad[4 + size] = 0xFF  # mask of the second value
    found = publication([(0, bytes(bad)), (1, bytes(good))], 2, 0)
    handles = sorted(handle for block in found.blocks for handle in block.handle.tolist())
    assert handles == [0, 1, 1, 1]
    assert found.lost + len(found.quarantined) == 2


class Scripted:
    """A session that notes what it is asked and answers with bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def _send_request(self, request: Any, timeout: float | None = None) -> bytes:
        # As it goes over the wire, so that nothing is asked for that asyncua cannot write.
        buffer = import_module("asyncua.common.utils").Buffer(binary.struct_to_binary(request))
        self.asked.append(binary.struct_from_binary(ua.HistoryReadRequest, buffer).Parameters)
        return self.answer


async def test_raw_values_are_asked_for_without_bounds_and_times_are_widened_to_microseconds() -> None:
    server = Scripted(response(result(), result()))
    nodes = [ua.NodeId("A", 2, ua.NodeIdType.String), ua.NodeId(7, 3)]
    await ask(server, [Question(0, nodes[0]), Question(1, nodes[1], b"point")], T0_NS + 1999, T0_NS + SECOND + 1, 50)
    [asked] = server.asked
    details = asked.HistoryReadDetails
    assert (details.IsReadModified, details.ReturnBounds, details.NumValuesPerNode) == (False, False, 50)
    assert details.StartTime == T0 + timedelta(microseconds=1)
    assert details.EndTime == T0 + timedelta(seconds=1, microseconds=1)
    assert not asked.ReleaseContinuationPoints
    assert [(one.NodeId, one.ContinuationPoint or b"") for one in asked.NodesToRead] == [
        (nodes[0], b""),
        (nodes[1], b"point"),
    ]


async def test_points_are_released() -> None:
    server = Scripted(response(result()))
    await release(server, [Question(0, ua.NodeId(7, 3), b"point")])
    assert server.asked[0].ReleaseContinuationPoints
    assert [one.ContinuationPoint for one in server.asked[0].NodesToRead] == [b"point"]


async def test_another_number_of_answers_than_questions_is_no_answer() -> None:
    with pytest.raises(MalformedError, match="2 answers to 1 questions"):
        await ask(Scripted(response(result(), result())), [Question(0, ua.NodeId(7, 3))], 0, 1)


def test_a_page_without_values_counts_none() -> None:
    assert Page(Outcome.TAKEN).count == 0


def test_the_servers_time_goes_first_in_history_too_where_that_is_wanted() -> None:
    told = value(1.0, T.Double, 1)
    told.ServerTimestamp = T0 + timedelta(seconds=4)
    [page] = read_pages(response(result(told)))
    found = [publication([(0, page.body)], 1, 0, server_time=wanted) for wanted in (False, True)]
    assert [int(one.blocks[0].time[0]) - T0_NS for one in found] == [1 * SECOND, 4 * SECOND]
