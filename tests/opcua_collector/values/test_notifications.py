"""The decoder against asyncua's own, against the specification where asyncua is wrong, and against damage."""

from __future__ import annotations

import math
import struct
import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from opcua_collector.stack import ua
from opcua_collector.values.encoding import FILETIME_OF_1970
from opcua_collector.values.notifications import ARRAY, Publication, decode, decode_values, without

RECEIVED = 1_900_000_000_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
T = ua.VariantType

times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(lambda t: t.replace(tzinfo=timezone.utc))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(width=32) | st.just(math.nan)
scalars: dict[Any, Any] = {
    T.Boolean: st.booleans(),
    T.SByte: st.integers(-128, 127),
    T.Byte: st.integers(0, 255),
    T.Int16: st.integers(-(2**15), 2**15 - 1),
    T.UInt16: st.integers(0, 2**16 - 1),
    T.Int32: st.integers(-(2**31), 2**31 - 1),
    T.UInt32: st.integers(0, 2**32 - 1),
    T.Int64: st.integers(-(2**63), 2**63 - 1),
    T.UInt64: st.integers(0, 2**64 - 1),
    T.Float: floats,
    T.Double: st.floats(),
    T.String: texts | st.none(),
    T.DateTime: times,
    T.Guid: st.uuids(),
    T.ByteString: st.binary(max_size=20) | st.none(),
    T.XmlElement: texts.map(ua.XmlElement),
    T.NodeId: st.builds(ua.NodeId, st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
    | st.builds(lambda t, n: ua.NodeId(t or "x", n, ua.NodeIdType.String), texts, st.integers(0, 2**16 - 1)),
    T.StatusCode: st.sampled_from([0, 0x80310000, 0x40900000]).map(ua.StatusCode),
    T.QualifiedName: st.builds(ua.QualifiedName, texts, st.integers(0, 2**15 - 1)),
    T.LocalizedText: st.builds(ua.LocalizedText, texts | st.none(), st.sampled_from([None, "en"])),
}
arrays = st.sampled_from([T.Boolean, T.Int32, T.UInt64, T.Double, T.String, T.Guid, T.LocalizedText]).flatmap(
    lambda kind: st.lists(scalars[kind], max_size=5).map(lambda values: ua.Variant(values, kind, is_array=True))
)
matrices = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=2, max_size=3).map(
    lambda rows: ua.Variant(rows, T.Int32)
)
structures = st.builds(ua.Range, st.floats(0, 1), st.floats(1, 2)).map(lambda r: ua.Variant(r, T.ExtensionObject))
variants = (
    st.sampled_from(list(scalars)).flatmap(lambda kind: scalars[kind].map(lambda value: ua.Variant(value, kind)))
    | arrays
    | matrices
    | structures
    | st.just(ua.Variant())
)
statuses = st.sampled_from([0, 0x480, 0x80320000, 0x40900000, 0xC0000000]).map(ua.StatusCode) | st.none()
data_values = st.builds(
    ua.DataValue,
    variants | st.none(),
    statuses,
    SourceTimestamp=times | st.none(),
    ServerTimestamp=times | st.none(),
)
doubles = st.floats(allow_nan=False).map(
    lambda v: ua.DataValue(ua.Variant(v, T.Double), SourceTimestamp=EPOCH + timedelta(1))
)
# Mixed messages, messages of runs, of patterns, and all in one.
runs = st.tuples(st.lists(data_values | doubles, min_size=1, max_size=4), st.integers(1, 40))
messages = st.lists(data_values, max_size=12) | st.lists(runs, max_size=5).map(
    lambda some: [value for values, times in some for value in values * times]
)


def encode(values: list[Any], *, handles: list[int] | None = None, **message: Any) -> bytes:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 77
    response.Parameters.AvailableSequenceNumbers = [4, 5]
    response.Parameters.MoreNotifications = False
    response.Parameters.Results = [ua.StatusCode(0), ua.StatusCode(0x807A0000)]
    response.Parameters.NotificationMessage.SequenceNumber = 5
    response.Parameters.NotificationMessage.PublishTime = EPOCH + timedelta(days=20_000)
    items = [ua.MonitoredItemNotification(handles[n] if handles else n, value) for n, value in enumerate(values)]
    response.Parameters.NotificationMessage.NotificationData = message.get(
        "data", [ua.DataChangeNotification(MonitoredItems=items)]
    )
    return bytes(struct_to_binary(response))


def rows(publication: Publication) -> dict[int, tuple[Any, ...]]:
    """Item -> (handle, family, value, status, time)."""
    found: dict[int, tuple[Any, ...]] = {}
    for block in publication.blocks:
        for n in range(len(block)):
            value: Any = None if block.value is None else block.value[n]
            value = value.item() if hasattr(value, "item") else value
            found[int(block.index[n])] = (
                int(block.handle[n]), block.family, value, int(block.status[n]), int(block.time[n])
            )  # fmt: skip
    return found


def ns(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1) * 1000


def plain(value: Any) -> Any:
    """asyncua's value as this component tells it."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if isinstance(value, ua.XmlElement):
        return value.Value
    if isinstance(value, ua.NodeId):
        text = value.to_string()
        return text.replace("ns=0;", "")
    if isinstance(value, ua.StatusCode):
        return value.value
    if isinstance(value, ua.QualifiedName):
        return f"{value.NamespaceIndex}:{value.Name}" if value.NamespaceIndex else value.Name
    if isinstance(value, ua.LocalizedText):
        return value.Text
    return value


def expected(number: int, item: Any) -> tuple[Any, ...]:
    """What asyncua's own decoder makes of an item."""
    value = item.Value
    variant = value.Value
    time = value.SourceTimestamp or value.ServerTimestamp
    status = value.StatusCode.value if value.StatusCode is not None else 0
    if variant is None or variant.VariantType == T.Null:
        family, content = 0, None
    elif variant.is_array:
        family = ARRAY | variant.VariantType.value
        content = None if variant.Value is None else plain(variant.Value)
    else:
        family, content = variant.VariantType.value, plain(variant.Value)
        if variant.VariantType == T.DateTime:
            content = FILETIME_OF_1970 + ns(variant.Value) // 100
    return item.ClientHandle, family, content, status, RECEIVED if time is None else ns(time)


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    return bool(ours == theirs)


@settings(max_examples=300)
@given(messages)
def test_it_finds_in_every_message_what_asyncua_finds(values: list[Any]) -> None:
    body = encode(values)
    found = decode(body, 0, received=RECEIVED, handles=max(1, len(values)))
    theirs = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters
    items = theirs.NotificationMessage.NotificationData[0].MonitoredItems
    assert (found.damage, found.quarantined, found.lost) == ("", (), 0)
    ours = rows(found)
    assert sorted(ours) == list(range(len(items)))
    for number, item in enumerate(items):
        wanted = expected(number, item)
        got = ours[number]
        if wanted[1] == T.ExtensionObject.value:  # structures stay opaque
            assert got[2].type == "i=886"
            got, wanted = (*got[:2], None, *got[3:]), (*wanted[:2], None, *wanted[3:])
        assert all(map(same, got, wanted)), (got, wanted)


@pytest.mark.parametrize("data", [[], None], ids=["empty", "null"])
def test_a_keep_alive_is_recognised_whether_its_data_is_empty_or_null(data: Any) -> None:
    found = decode(encode([], data=data), 0, received=RECEIVED, handles=1)
    assert found.keep_alive
    assert (found.subscription, found.sequence, found.damage) == (77, 5, "")


def test_the_frame_of_a_message_is_read() -> None:
    found = decode(b"xx" + encode([ua.DataValue(ua.Variant(1.0))]), 2, received=RECEIVED, handles=1)
    assert (found.subscription, found.sequence, found.more, found.keep_alive) == (77, 5, False, False)
    assert (found.available, found.results) == ((4, 5), (0, 0x807A0000))
    assert found.published == 20_000 * 86_400 * 10**9


def test_events_and_status_changes_beside_data_changes_are_recognised() -> None:
    data = [
        ua.EventNotificationList(Events=[ua.EventFieldList(1, [ua.Variant("x")]), ua.EventFieldList(1, [])]),
        ua.DataChangeNotification([ua.MonitoredItemNotification(0, ua.DataValue(ua.Variant(2.5)))]),
        ua.StatusChangeNotification(ua.StatusCode(0x800A0000)),
    ]
    found = decode(encode([], data=data), 0, received=RECEIVED, handles=1)
    assert (found.events, found.status_changes, len(found), found.damage) == (2, (0x800A0000,), 1, "")


def test_a_notification_of_an_unknown_type_costs_only_itself() -> None:
    data = [
        ua.ExtensionObject(ua.NodeId(4711, 3), b"\x01\x02"),
        ua.DataChangeNotification([ua.MonitoredItemNotification(0, ua.DataValue(ua.Variant(2.5)))]),
    ]
    found = decode(encode([], data=data), 0, received=RECEIVED, handles=1)
    assert len(found) == 1
    assert "ns=3;i=4711" in found.damage


# --- where asyncua is no judge: bytes made by hand from Part 6 ---


def response(*items: bytes, count: int | None = None) -> bytes:
    """A PublishResponse around encoded MonitoredItemNotifications."""
    body = struct.pack("<i", len(items) if count is None else count) + b"".join(items) + struct.pack("<i", -1)
    return b"".join(
        [
            bytes([1, 0]) + struct.pack("<H", 829),
            struct.pack("<qII", 0, 1, 0) + b"\0" + struct.pack("<i", -1) + b"\0\0\0",
            struct.pack("<I", 77) + struct.pack("<i", -1) + b"\0" + struct.pack("<Iq", 9, 0),
            struct.pack("<i", 1) + bytes([1, 0]) + struct.pack("<H", 811) + b"\x01",
            struct.pack("<i", len(body)) + body + struct.pack("<ii", -1, -1),
        ]
    )


def one(handle: int, value: float, filetime: int = 134_000_000_000_000_000) -> bytes:
    return struct.pack("<IBBdq", handle, 0x05, 11, value, filetime)


def test_picoseconds_stand_behind_their_own_timestamp_and_count_tens_of_picoseconds() -> None:
    # mask: value, status, source time, server time, both picoseconds; the order is that of Part 6, table 26
    item = struct.pack("<IBBdIqHqH", 3, 0x3F, 11, 1.5, 0x480, 116_444_736_000_000_001, 9_999, 5, 7)
    [row] = rows(decode(response(item), 0, received=RECEIVED, handles=4)).values()
    assert row == (3, 11, 1.5, 0x480, 100 + 99)


@pytest.mark.parametrize("filetime", [0, -1, 2_650_467_743_990_000_000, 2**63 - 1, 1])
def test_a_source_time_that_means_nothing_gives_way_to_the_servers_and_then_to_ours(filetime: int) -> None:
    both = struct.pack("<IBBdqq", 0, 0x0D, 11, 1.0, filetime, 116_444_736_000_000_010)
    neither = struct.pack("<IBBdqq", 1, 0x0D, 11, 1.0, filetime, filetime)
    found = decode(response(both, neither), 0, received=RECEIVED, handles=2)
    assert [row[4] for row in rows(found).values()] == [1000, RECEIVED]
    assert found.untimed == 2


def test_a_null_scalar_of_a_text_and_a_null_array_are_nulls() -> None:
    text = struct.pack("<IBBi", 0, 0x01, 12, -1)
    array = struct.pack("<IBBi", 1, 0x01, 0x80 | 6, -1)
    none = struct.pack("<IBI", 2, 0x02, 0x80310000)
    explicit = struct.pack("<IBB", 3, 0x01, 0)
    found = rows(decode(response(text, array, none, explicit), 0, received=RECEIVED, handles=4))
    assert [found[n][2] for n in range(4)] == [None] * 4
    assert found[2][3] == 0x80310000


def test_text_that_is_no_utf8_is_kept_with_the_wrong_bytes_replaced() -> None:
    item = struct.pack("<IBBi", 0, 0x01, 12, 3) + b"a\xffb"
    assert rows(decode(response(item), 0, received=RECEIVED, handles=1))[0][2] == "a�b"


@pytest.mark.parametrize("where", [0, 1, 4_999, 9_998, 9_999])
def test_one_item_of_an_impossible_type_in_ten_thousand_costs_itself(where: int) -> None:
    items = [one(n, n * 0.5) for n in range(10_000)]
    items[where] = items[where][:5] + b"\x3f" + items[where][6:]
    found = decode(response(*items), 0, received=RECEIVED, handles=10_000)
    assert [item.handle for item in found.quarantined] == [where]
    assert found.lost == 0
    got = rows(found)
    assert {row[0]: row[2] for row in got.values()} == {n: n * 0.5 for n in range(10_000) if n != where}


def test_a_text_whose_length_is_a_lie_costs_itself() -> None:
    lie = struct.pack("<IBBi", 1, 0x01, 12, 1 << 30) + b"short"
    found = decode(response(one(0, 1.0), lie, *(one(n, 2.0) for n in range(2, 40))), 0, received=RECEIVED, handles=40)
    assert [item.handle for item in found.quarantined] == [1]
    assert sorted(row[0] for row in rows(found).values()) == [0, *range(2, 40)]


def test_what_cannot_be_found_again_behind_a_damaged_item_is_counted_as_lost() -> None:
    found = decode(response(one(0, 1.0), b"\xff" * 40, count=5), 0, received=RECEIVED, handles=5)
    assert len(found) == 1
    assert len(found.quarantined) + found.lost == 4
    assert found.damage


def test_nesting_has_an_end() -> None:
    item = struct.pack("<IB", 0, 0x01) + bytes([0x80 | 24]) + (struct.pack("<i", 1) + bytes([0x80 | 24])) * 100
    found = decode(response(item), 0, received=RECEIVED, handles=1)
    assert len(found) == 0
    assert "deep" in found.quarantined[0].reason


@settings(max_examples=300)
@given(st.lists(data_values, min_size=1, max_size=12), st.data())
def test_damaged_bytes_never_raise_and_never_invent_items(values: list[Any], data: Any) -> None:
    body = bytearray(encode(values))
    if data.draw(st.booleans(), "truncated"):
        del body[data.draw(st.integers(0, len(body) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4), "flips") if body else 0):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    found = decode(bytes(body), 0, received=RECEIVED, handles=len(values))
    assert all(len(block.handle) == len(block.time) == len(block.status) == len(block.index) for block in found.blocks)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_at_all_never_raise(body: bytes) -> None:
    decode(body, 0, received=RECEIVED, handles=10)
    decode(bytes([1, 0]) + struct.pack("<H", 829) + body, 0, received=RECEIVED, handles=10)


# --- results of Read, the server's time, taking out ---


def read_response(values: list[Any]) -> bytes:
    answer = ua.ReadResponse()
    answer.Results = values
    return bytes(struct_to_binary(answer))


@settings(max_examples=200)
@given(messages, st.booleans())
def test_results_of_a_read_are_what_a_notification_of_the_same_values_is(values: list[Any], server_time: bool) -> None:
    handles = [7 * n + 3 for n in range(len(values))]
    read = decode_values(read_response(values), 0, handles, received=RECEIVED, server_time=server_time)
    told = decode(
        encode(values, handles=handles), 0, received=RECEIVED, handles=7 * len(values) + 3, server_time=server_time
    )
    assert (read.damage, read.quarantined, read.lost) == ("", (), 0)
    assert (read.untimed, read.from_server) == (told.untimed, told.from_server)
    ours, theirs = rows(read), rows(told)
    assert ours.keys() == theirs.keys()
    for number, row in ours.items():
        assert all(map(same, row, theirs[number]))


@settings(max_examples=200)
@given(st.lists(data_values, min_size=1, max_size=12))
def test_the_servers_time_goes_first_where_that_is_wanted(values: list[Any]) -> None:
    found = decode(encode(values), 0, received=RECEIVED, handles=len(values), server_time=True)
    times_ = {number: row[4] for number, row in rows(found).items()}
    for number, value in enumerate(values):
        wanted = value.ServerTimestamp or value.SourceTimestamp
        assert times_[number] == (RECEIVED if wanted is None else ns(wanted))
    assert found.untimed == sum(value.ServerTimestamp is None for value in values)
    assert found.from_server == len(values) - found.untimed


def test_samples_with_the_servers_time_for_want_of_a_source_time_are_counted() -> None:
    source, server = ua.DataValue(ua.Variant(1.0), SourceTimestamp=EPOCH + timedelta(1)), EPOCH + timedelta(2)
    values = [source, ua.DataValue(ua.Variant(2.0), ServerTimestamp=server), ua.DataValue(ua.Variant(3.0))]
    for value in values:
        value.ServerTimestamp = value.ServerTimestamp if value is not source else server
    found = decode(encode(values), 0, received=RECEIVED, handles=3)
    assert (found.untimed, found.from_server) == (2, 1)


def test_an_undecodable_result_of_a_read_costs_itself_and_says_whose_it_is() -> None:
    body = bytearray(read_response([ua.DataValue(ua.Variant(float(n)), SourceTimestamp=EPOCH) for n in range(100)]))
    item = struct.pack("<d", 40.0)
    at = bytes(body).index(item)
    body[at - 1] = 0x3F  # the variant's type
    found = decode_values(bytes(body), 0, list(range(500, 600)), received=RECEIVED)
    assert [one.handle for one in found.quarantined] == [540]
    assert found.lost == 0
    assert {row[0]: row[2] for row in rows(found).values()} == {500 + n: float(n) for n in range(100) if n != 40}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_than_asked_for_is_damage_and_no_value_of_a_wrong_tag(count: int) -> None:
    found = decode_values(read_response([ua.DataValue(ua.Variant(1.0))] * count), 0, [4, 5], received=RECEIVED)
    assert (len(found), found.lost) == (0, 2)
    assert f"{count} results for 2 nodes" in found.damage


@settings(max_examples=200)
@given(st.lists(data_values, min_size=1, max_size=12), st.data())
def test_damaged_results_of_a_read_never_raise(values: list[Any], data: Any) -> None:
    body = bytearray(read_response(values))
    for _ in range(data.draw(st.integers(0, 4), "flips")):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body)), "length") :]
    handles = list(range(len(values)))
    found = decode_values(bytes(body), 0, handles, received=RECEIVED)
    assert len(found) + len(found.quarantined) + found.lost <= len(values) + 1
    assert all(int(handle) in handles for block in found.blocks for handle in block.handle)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 4))
def test_without_a_handle_all_others_stay_in_their_order(handles: list[int], gone: int) -> None:
    values = [ua.DataValue(ua.Variant(n) if n % 2 else ua.Variant(float(n))) for n in range(len(handles))]
    whole = decode(encode(values, handles=handles), 0, received=RECEIVED, handles=4)
    left, taken = without(whole, gone)
    assert taken == handles.count(gone)
    assert rows(left) == {number: row for number, row in rows(whole).items() if row[0] != gone}
    assert (left.sequence, left.untimed) == (whole.sequence, whole.untimed)


def test_an_array_that_is_damaged_at_its_end_costs_itself() -> None:
    array = struct.pack("<IBBi", 1, 0x01, 0x91, 500) + bytes(2 * 499) + b"\xff"
    found = decode(response(one(0, 1.0), array, *(one(2, 2.0) for _ in range(30))), 0, received=RECEIVED, handles=3)
    assert (len(found), found.lost) == (31, 0)
    [bad] = found.quarantined
    assert (bad.handle, bad.reason[:27]) == (1, "element 499 of an array of ")


@pytest.mark.parametrize(
    ("dimensions", "value"),
    [
        ((2, 3), [[0, 1, 2], [3, 4, 5]]),
        ((-2, -3), [0, 1, 2, 3, 4, 5]),
        ((6,), [0, 1, 2, 3, 4, 5]),
        ((2, 2), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_dimensions_that_do_not_fit_cost_no_value(dimensions: tuple[int, ...], value: list[Any]) -> None:
    item = struct.pack("<IBBi6B", 0, 0x01, 0xC3, 6, *range(6)) + struct.pack(
        f"<i{len(dimensions)}i", len(dimensions), *dimensions
    )
    [block] = decode(response(item), 0, received=RECEIVED, handles=1).blocks
    assert block.value is not None
    assert block.value.tolist() == [value]


def adversaries() -> dict[str, bytes]:
    """Bodies that look like items again and again, and are none."""
    texts_ = struct.pack("<IBBi", 0, 0x01, 12, 0)
    long = struct.pack("<IBBi", 0, 0x01, 0x8E, 2_000_000) + struct.pack("<IBI", 0, 0x02, 0) * 25  # Guids
    nulls = bytes([0x01, 0x80 | 24]) + struct.pack("<i", 60_000) + b"\0" * 60_000
    return {
        "texts": b"\x3f" * 6 + texts_ * 20_000,
        "zeros": b"\xff" * 8 + bytes(200_000),
        "variants": b"\xff" * 8 + (struct.pack("<I", 0) + nulls) * 8,
        "nested": b"\xff" * 8 + (struct.pack("<IB", 0, 1) + bytes([0x98]) + struct.pack("<i", 200)) * 20_000,
        "qualified": b"\xff" * 8 + (struct.pack("<IBB", 0, 1, 0x94) + struct.pack("<i", 500) + bytes(3000)) * 60,
        "arrays that end in damage": long * 60 + bytes(2_000_000),
        "damaged again and again": (one(0, 1.0) * 24 + b"\xff" * 200) * 400,
    }


@pytest.mark.parametrize("name", list(adversaries()))
def test_no_message_takes_long_whatever_its_bytes_are(name: str) -> None:
    body = response(adversaries()[name], count=100_000)
    before = time.process_time()
    found = decode(body, 0, received=RECEIVED, handles=1)
    took = time.process_time() - before
    assert found.damage
    assert took < 3.0, f"{took:.2f} s of CPU for {len(body)} bytes"
