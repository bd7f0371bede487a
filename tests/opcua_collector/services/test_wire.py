"""Requests and responses written and read by hand are what asyncua's writers and readers understand."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.services import wire
from opcua_collector.services.wire import ABSOLUTE, PERCENT, Asking
from opcua_collector.stack import UaStatusCodeError, node_bytes, node_of, prepared, ua
from opcua_collector.values.encoding import MalformedError

binary: Any = import_module("asyncua.ua.ua_binary")
Buffer: Any = import_module("asyncua.common.utils").Buffer

U4 = st.integers(0, 2**32 - 1)
nodes = st.one_of(
    st.builds(ua.NodeId, st.integers(0, 2**32 - 1), st.integers(0, 65535)),
    st.builds(lambda text, ns: ua.NodeId(text, ns), st.text(min_size=1, max_size=30), st.integers(0, 65535)),
    st.builds(lambda guid, ns: ua.NodeId(guid, ns), st.uuids(), st.integers(0, 65535)),
    st.builds(lambda raw, ns: ua.NodeId(raw, ns), st.binary(min_size=1, max_size=20), st.integers(0, 65535)),
)
seconds = st.integers(0, 3_600_000).map(lambda milliseconds: milliseconds / 1000)
askings = st.builds(
    Asking,
    seconds,
    U4,
    st.booleans(),
    st.sampled_from(sorted(wire.TRIGGERS)),
    st.sampled_from([0, ABSOLUTE, PERCENT]),
    st.floats(0, 100),
    st.sampled_from(["", "3", "0:9"]),
)


def understood(service: str, body: bytes) -> Any:
    """What asyncua reads of our request."""
    written = binary.struct_to_binary(prepared(service, body))
    request = getattr(ua, f"{service}Request")
    buffer = Buffer(written)
    read = binary.struct_from_binary(request, buffer)
    assert read.TypeId == request().TypeId
    assert len(buffer) == 0, "nothing is left over"
    return read.Parameters


def matches(asking: Asking, handle: int, parameters: Any) -> None:
    assert parameters.ClientHandle == handle
    assert parameters.SamplingInterval == pytest.approx(asking.sampling * 1000)
    assert (parameters.QueueSize, parameters.DiscardOldest) == (asking.queue, asking.discard_oldest)
    if not asking.filtered:
        assert type(parameters.Filter).__name__ in ("NoneType", "ExtensionObject"), "none"
        return
    filter_ = parameters.Filter
    assert type(filter_).__name__ == "DataChangeFilter"
    assert int(filter_.Trigger) == wire.TRIGGERS[asking.trigger]
    assert (filter_.DeadbandType, filter_.DeadbandValue) == (asking.deadband, asking.width)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(nodes, U4, askings), max_size=8))
def test_items_to_create(subscription: int, items: list[tuple[Any, int, Asking]]) -> None:
    body = wire.create_body(subscription, [(node_bytes(node), handle, asking) for node, handle, asking in items])
    read = understood("CreateMonitoredItems", body)
    assert (read.SubscriptionId, read.TimestampsToReturn) == (subscription, ua.TimestampsToReturn.Both)
    assert len(read.ItemsToCreate) == len(items)
    for (node, handle, asking), item in zip(items, read.ItemsToCreate, strict=True):
        assert item.ItemToMonitor.NodeId == node
        assert item.ItemToMonitor.AttributeId == ua.AttributeIds.Value
        assert (item.ItemToMonitor.IndexRange or "") == asking.range
        assert item.MonitoringMode == ua.MonitoringMode.Reporting
        matches(asking, handle, item.RequestedParameters)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(U4, U4, askings), max_size=8))
def test_items_to_modify(subscription: int, items: list[tuple[int, int, Asking]]) -> None:
    read = understood("ModifyMonitoredItems", wire.modify_body(subscription, items))
    assert read.SubscriptionId == subscription
    for (number, handle, asking), item in zip(items, read.ItemsToModify, strict=True):
        assert item.MonitoredItemId == number
        matches(asking, handle, item.RequestedParameters)


@given(st.integers(0, 2**32 - 1), st.lists(U4, max_size=8))
def test_items_to_delete(subscription: int, items: list[int]) -> None:
    read = understood("DeleteMonitoredItems", wire.delete_body(subscription, items))
    assert (read.SubscriptionId, read.MonitoredItemIds) == (subscription, items)


@given(st.lists(st.tuples(nodes, st.sampled_from(["", "0", "2:5"])), max_size=8))
def test_values_to_read(asked: list[tuple[Any, str]]) -> None:
    body = wire.read_body([wire.read_value_id(node_bytes(node), index_range=part) for node, part in asked])
    read = understood("Read", body)
    assert (read.MaxAge, read.TimestampsToReturn) == (0, ua.TimestampsToReturn.Both)
    found = [(one.NodeId, one.IndexRange or "", one.AttributeId) for one in read.NodesToRead]
    assert found == [(node, part, ua.AttributeIds.Value) for node, part in asked]


@given(nodes)
def test_a_node_id_comes_back_as_it_was(node: Any) -> None:
    assert node_of(node_bytes(node)) == node


def answer(service: str, results: list[Any], status: int = 0) -> bytes:
    response = getattr(ua, f"{service}Response")()
    response.ResponseHeader.ServiceResult = ua.StatusCode(status)
    response.Results = results
    return bytes(binary.struct_to_binary(response))


@given(st.lists(st.tuples(U4, U4, seconds, U4, st.booleans()), max_size=8))
def test_items_that_were_created(made: list[tuple[int, int, float, int, bool]]) -> None:
    results = []
    for status, number, sampling, queue, filtered in made:
        result = ua.MonitoredItemCreateResult(ua.StatusCode(status), number, sampling * 1000, queue)
        if filtered:
            result.FilterResult = ua.EventFilterResult()
        results.append(result)
    found = wire.read_created(answer("CreateMonitoredItems", results), 0)
    assert [(one.status, one.id, one.queue) for one in found] == [(s, i, q) for s, i, _, q, _ in made]
    assert [one.sampling for one in found] == pytest.approx([sampling for _, _, sampling, _, _ in made])


@given(st.lists(st.tuples(U4, seconds, U4), max_size=8))
def test_items_that_were_modified(made: list[tuple[int, float, int]]) -> None:
    results = [ua.MonitoredItemModifyResult(ua.StatusCode(s), sampling * 1000, q) for s, sampling, q in made]
    found = wire.read_modified(answer("ModifyMonitoredItems", results), 0, range(len(made)))
    assert [(one.status, one.id, one.queue) for one in found] == [(s, item, q) for item, (s, _, q) in enumerate(made)]
    assert [one.sampling for one in found] == pytest.approx([sampling for _, sampling, _ in made])


def test_items_that_were_deleted() -> None:
    codes = [0, ua.StatusCodes.BadMonitoredItemIdInvalid]
    assert wire.read_deleted(answer("DeleteMonitoredItems", [ua.StatusCode(code) for code in codes]), 0) == tuple(codes)


def test_a_service_that_was_refused_in_the_header_is_an_error() -> None:
    with pytest.raises(UaStatusCodeError):
        wire.read_created(answer("CreateMonitoredItems", [], ua.StatusCodes.BadSubscriptionIdInvalid), 0)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_what_is_no_response_is_malformed_and_nothing_else(noise: bytes, cut: int) -> None:
    whole = answer("CreateMonitoredItems", [ua.MonitoredItemCreateResult(ua.StatusCode(0), 1, 100.0, 5)])
    for data in (noise, whole[:cut], whole[:cut] + noise):
        for read in (
            lambda data: wire.read_created(data, 0),
            lambda data: wire.read_modified(data, 0, [1, 2]),
            lambda data: wire.read_deleted(data, 0),
        ):
            with contextlib.suppress(MalformedError, UaStatusCodeError):
                read(data)
