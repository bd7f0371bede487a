"""What other servers answer, one quirk a test: nothing is lost, nothing ends, and what is wrong is said.

The quirks are of real servers (the .NET stack, node-opcua, open62541, PLCs); each is scripted, see `fake_server`.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from . import test_connection as parts
from .fake_line import Answer, Call, Response, double, fault, refusal, result, silence, ua
from .fake_server import OTHER, PLANT, FakeServer

Running = parts.Running
Start = parts.Start
until = parts.until
start = parts.start  # the fixture that builds connections

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA_CHANGE = ua.NodeId(811)


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


def tags(count: int = 1, space: str = PLANT) -> dict[str, Any]:
    return {f"T{number}": {"node": f"nsu={space};s=T{number}"} for number in range(count)}


def many(server: FakeServer, count: int) -> dict[str, Any]:
    """As many variables on the server, and the tags for them."""
    server.values |= {(PLANT, f"T{number}"): double(number) for number in range(count)}
    return tags(count)


def once(*first: Any, service: str, server: FakeServer) -> None:
    """These answers first, then the usual ones."""
    answers = list(first)

    def answer(call: Call) -> Response:
        return answers.pop(0)(call) if answers else server.usual(call)

    server.answers[service] = answer


async def got(line: Running, tag: str, *values: float) -> None:
    """These values came last, in this order."""
    await until(
        lambda: line.sink.of(tag)[-len(values) :] == list(values), lambda: (line.sink.of(tag)[-20:], line.state())
    )


def events(line: Running, kind: str) -> list[Any]:
    return [event for event in line.sink.events if event["kind"] == kind]


async def runs(line: Running) -> None:
    await until(lambda: line.connection.state.state == "running", line.state)


# --- coming back ---


@pytest.mark.parametrize("answer", ["BadNothingToDo", "BadUserAccessDenied"])
async def test_a_resumed_session_is_never_asked_to_transfer_what_it_has_already(
    server: FakeServer, start: Start, answer: str
) -> None:
    """Servers refuse that, each in its way, and a client that takes it for a loss throws full queues away."""
    server.answers["TransferSubscriptions"] = refusal(answer)
    line = start(server.endpoint, tags())
    await line.flows("T0")
    for value in (1.0, 2.0, 3.0):
        server.cut()
        server.change("T0", value, value + 0.5)
        await got(line, "T0", value, value + 0.5)
    status = line.connection.status()
    assert status["recovery"]["rung"] == "resumed"
    assert server.asked["TransferSubscriptions"] == 0
    assert server.asked["CreateSubscription"] == 1
    assert line.sink.of("T0") == [0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


@pytest.mark.parametrize("data", [[], None], ids=["empty", "null"])
async def test_a_republish_that_is_answered_for_ever_with_a_message_without_data_ends(
    server: FakeServer, start: Start, data: list[Any] | None
) -> None:
    """asyncua's server never says BadMessageNotAvailable: it sends an empty message under any number."""
    server.answers["Republish"] = lambda call: ua.RepublishResponse(
        NotificationMessage=ua.NotificationMessage(call.parameters.RetransmitSequenceNumber, NotificationData=data)
    )
    line = start(server.endpoint, tags())
    await line.flows("T0")
    server.cut()
    server.change("T0", 5.0)
    await got(line, "T0", 5.0)
    assert server.asked["Republish"] <= 3


@pytest.mark.parametrize("ahead", [-1, 0, 1], ids=["older", "asked for", "newer"])
async def test_a_republish_that_never_ends_is_bounded_and_values_go_on(
    server: FakeServer, start: Start, ahead: int
) -> None:
    """Whatever is asked for, there is always another message with data."""

    def another(call: Call) -> Response:
        value = ua.MonitoredItemNotification(item.handle, double(7.0))
        number = call.parameters.RetransmitSequenceNumber + ahead
        body = ua.DataChangeNotification([value], [])
        return ua.RepublishResponse(NotificationMessage=ua.NotificationMessage(number, NotificationData=[body]))

    line = start(server.endpoint, tags())
    await line.flows("T0")
    item = next(one for one in server.only.items.values() if one.name == "T0")
    server.answers["Republish"] = another
    server.cut()
    await until(lambda: line.connection.status()["connects"] == 2, line.state)
    await line.monitors(1)
    server.change("T0", 11.0)
    await got(line, "T0", 11.0)
    assert server.asked["Republish"] <= 10_000
    assert line.connection.status()["recovery"]["rung"] == ("renewed" if ahead == 0 else "resumed")


async def test_a_namespace_order_that_a_restart_changed_leaves_every_tag_with_its_own_node(
    server: FakeServer, start: Start
) -> None:
    both = {"A": {"node": f"nsu={PLANT};s=T0"}, "B": {"node": f"nsu={OTHER};s=T0"}}
    line = start(server.endpoint, both)
    await line.flows("A", "B")
    server.restart([*server.spaces[:2], OTHER, PLANT])
    await until(lambda: server.asked["CreateSubscription"] == 2, line.state)
    await line.monitors(2)
    server.change("T0", 21.0)
    server.change("T0", -21.0, space=OTHER)
    await got(line, "A", 21.0)
    await got(line, "B", -21.0)
    assert all(value >= 0 for value in line.sink.of("A")), line.sink.of("A")
    assert all(value < 0 for value in line.sink.of("B")), line.sink.of("B")


# --- what publishing meets ---


@pytest.mark.parametrize("data", [[], None], ids=["empty", "null"])
async def test_keep_alives_are_no_data_and_do_not_count_in_the_sequence(
    server: FakeServer, start: Start, data: list[Any] | None
) -> None:
    server.keep_alive_data = data
    line = start(server.endpoint, tags(), keepAlive=0.1)
    await line.flows("T0")
    quiet = server.asked["Publish"]
    await until(lambda: server.asked["Publish"] >= quiet + 8, line.state)
    server.change("T0", 1.0, 2.0)
    await got(line, "T0", 0.0, 1.0, 2.0)
    server.cut()
    server.change("T0", 3.0)
    await got(line, "T0", 0.0, 1.0, 2.0, 3.0)
    assert not events(line, "gap")
    assert "missing" not in line.connection.status()


async def test_responses_that_overtook_each_other_are_handed_on_in_order_without_asking_again(
    server: FakeServer, start: Start
) -> None:
    line = start(server.endpoint, tags(), publishingInterval=3600)
    server_only: Callable[[], Any] = lambda: next(iter(server.subscriptions.values()), None)  # noqa: E731
    await until(lambda: server_only() is not None and server.waiting >= 3, line.state)
    await line.monitors(1)
    subscription = server.only
    handle = next(item.handle for item in subscription.items.values() if item.name == "T0")
    calls = [server.request(subscription) for _ in range(3)]
    messages = [
        server.message(subscription, [ua.DataChangeNotification([ua.MonitoredItemNotification(handle, double(v))], [])])
        for v in (1.0, 2.0, 3.0)
    ]
    for call, message in reversed(list(zip(calls, messages, strict=True))):
        assert call is not None
        call.answer(server.publication(subscription, message))
    await got(line, "T0", 1.0, 2.0, 3.0)
    assert server.asked["Republish"] == 0


async def test_one_undecodable_item_in_ten_thousand_costs_itself_and_is_told(server: FakeServer, start: Start) -> None:
    count, bad = 10_000, 4321
    line = start(server.endpoint, many(server, count), load={"requestsPerSecond": 10_000, "batch": 10_000})
    await line.monitors(count)
    await until(lambda: len(line.sink.samples) >= count, line.state)
    line.sink.samples.clear()
    subscription = server.only
    handles = {item.name: item.handle for item in subscription.items.values()}
    rows = [struct.pack("<IBBd", handles[f"T{number}"], 1, 11, number + 0.5) for number in range(count)]
    rows[bad] = rows[bad][:5] + bytes([26 | 0x20]) + rows[bad][6:]  # a built-in type that there is not
    body = struct.pack("<i", count) + b"".join(rows) + struct.pack("<i", -1)
    await until(lambda: server.waiting > 0, line.state)
    server.say(subscription, ua.ExtensionObject(DATA_CHANGE, body))
    await until(lambda: len(line.sink.samples) >= count - 1, line.state)
    delivered = {sample.tag: sample.value for sample in line.sink.samples if sample.value is not None}
    assert delivered == {f"T{number}": number + 0.5 for number in range(count) if number != bad}
    await until(lambda: events(line, "undecodable"), line.state)
    [event] = events(line, "undecodable")
    assert f"T{bad}" in str(event)
    assert server.asked["Republish"] == 0


@pytest.mark.parametrize("most", [1, 2])
async def test_a_server_that_takes_few_publish_requests_gets_few(server: FakeServer, start: Start, most: int) -> None:
    def publish(call: Call) -> Response:
        return fault("BadTooManyPublishRequests") if server.waiting >= most else server.usual(call)

    server.answers["Publish"] = publish
    line = start(server.endpoint, tags())
    await line.flows("T0")
    for value in range(1, 11):
        server.change("T0", float(value))
        await got(line, "T0", float(value))
    refused = server.asked["Publish"] - 11
    assert line.connection.state.state == "running"
    assert refused < 60, f"{server.asked['Publish']} publish requests for 11 messages"


async def test_a_subscription_whose_items_are_dead_is_found_out_although_it_keeps_alive(
    server: FakeServer, start: Start
) -> None:
    """The server's own time is monitored beside the tags: while it is not news, nothing is."""
    line = start(server.endpoint, tags(), keepAlive=0.2)
    await line.flows("T0")
    server.dead = True
    made = server.asked["CreateSubscription"]
    await until(lambda: server.asked["CreateSubscription"] > made, line.state)
    server.dead = False
    await runs(line)
    await line.monitors(1)
    server.change("T0", 8.0)
    await got(line, "T0", 8.0)


async def test_diagnostic_infos_are_read_over_everywhere(server: FakeServer, start: Start) -> None:
    told = ua.DiagnosticInfo(SymbolicId=0, AdditionalInfo="why")

    def wordy(call: Call) -> Response:
        response = server.usual(call)
        if response is not None:
            response.ResponseHeader.StringTable = ["Reason", ""]
            response.ResponseHeader.ServiceDiagnostics = told
            where: Any = getattr(response, "Parameters", response)
            if hasattr(where, "DiagnosticInfos"):
                where.DiagnosticInfos = [told, ua.DiagnosticInfo()]
        return response

    for service in ("Read", "CreateMonitoredItems", "CreateSubscription", "TranslateBrowsePathsToNodeIds"):
        server.answers[service] = wordy
    server.diagnostics = [told, told]
    line = start(server.endpoint, tags())
    await line.flows("T0")
    server.change("T0", 1.0, 2.0)
    await got(line, "T0", 0.0, 1.0, 2.0)
    assert "undecodable" not in line.connection.status()


# --- limits ---


async def test_operation_limits_of_zero_are_no_limits(server: FakeServer, start: Start) -> None:
    server.limits = dict.fromkeys(("MaxNodesPerRead", "MaxMonitoredItemsPerCall", "MaxNodesPerBrowse"), 0)
    line = start(server.endpoint, many(server, 50))
    await line.monitors(50)
    await line.flows("T0", "T49")
    creates = [call for call in server.calls if call.service == "CreateMonitoredItems"]
    assert max(len(call.parameters.ItemsToCreate) for call in creates) == 50


async def test_operation_limits_of_one_are_kept(server: FakeServer, start: Start) -> None:
    server.limits = dict.fromkeys(("MaxNodesPerRead", "MaxMonitoredItemsPerCall", "MaxNodesPerBrowse"), 1)
    line = start(server.endpoint, many(server, 5), load={"requestsPerSecond": 1000})
    await line.monitors(5)
    await line.flows("T0", "T4")
    creates = [call for call in server.calls if call.service == "CreateMonitoredItems"]
    reads = [call for call in server.calls if call.service == "Read" and len(call.parameters.NodesToRead) > 1]
    assert max(len(call.parameters.ItemsToCreate) for call in creates) == 1
    assert len(reads) <= 5  # before the limits are known


TOO_MUCH = ["BadTooManyOperations", "BadEncodingLimitsExceeded", "BadRequestTooLarge", "BadResponseTooLarge"]


@pytest.mark.parametrize("answer", [*TOO_MUCH, "BadTooManyMonitoredItems"])
async def test_a_request_to_create_items_that_is_too_large_is_split_until_the_server_takes_it(
    server: FakeServer, start: Start, answer: str
) -> None:
    def create(call: Call) -> Response:
        return fault(answer) if len(call.parameters.ItemsToCreate) > 3 else server.usual(call)

    server.answers["CreateMonitoredItems"] = create
    line = start(server.endpoint, many(server, 20), load={"requestsPerSecond": 1000})
    await line.monitors(20)
    await line.flows("T0", "T19")
    assert not line.reports.found


@pytest.mark.parametrize("whole", [True, False], ids=["the request", "each item"])
async def test_of_more_items_than_a_server_can_have_all_that_can_be_are_monitored(
    server: FakeServer, start: Start, whole: bool
) -> None:
    most, count = 7, 10

    def create(call: Call) -> Response:
        have = sum(bool(item.space) for item in server.only.items.values())
        wishes = call.parameters.ItemsToCreate
        if all(wish.ItemToMonitor.NodeId.NamespaceIndex == 0 for wish in wishes):
            return server.usual(call)
        if have + len(wishes) <= most:
            return server.usual(call)
        if whole:
            return fault("BadTooManyMonitoredItems")
        granted = most - have
        call.parameters.ItemsToCreate = wishes[:granted]
        answer = server.usual(call)
        refused = ua.MonitoredItemCreateResult(StatusCode=result("BadTooManyMonitoredItems"))
        answer.Results += [refused] * (len(wishes) - granted)
        return answer

    server.answers["CreateMonitoredItems"] = create
    line = start(server.endpoint, many(server, count), load={"requestsPerSecond": 1000})
    await line.monitors(most)
    await until(lambda: len(line.reports.found) == count - most, line.state)
    assert line.connection.state.state == "running"
    for problem, remedy, _ in line.reports.found.values():
        assert problem
        assert remedy


@pytest.mark.parametrize(
    ("service", "answer"), [("CreateSession", "BadTooManySessions"), ("CreateSubscription", "BadTooManySubscriptions")]
)
async def test_a_server_that_has_no_more_room_is_told_of_and_tried_again(
    server: FakeServer, start: Start, service: str, answer: str
) -> None:
    once(refusal(answer), service=service, server=server)
    line = start(server.endpoint, tags())
    await until(lambda: line.connection.state.state == "waiting", line.state)
    [(problem, remedy, _)] = line.reports.found.values()
    assert "endpoint" in next(iter(line.reports.found))
    assert answer in problem or "too many" in problem.lower() or "no more" in problem, problem
    assert remedy
    await line.flows("T0")
    await until(lambda: not line.reports.found, line.state)
    assert server.asked["CreateSession"] <= 2
    if service == "CreateSubscription":
        assert len(server.sessions) == 1, "sessions that came to nothing were left behind"


async def test_intervals_and_queues_are_as_the_server_revised_them(server: FakeServer, start: Start) -> None:
    def subscribe(call: Call) -> Response:
        answer = server.usual(call)
        server.only.interval = 0.2
        answer.Parameters.RevisedPublishingInterval = 200.0
        return answer

    def create(call: Call) -> Response:
        answer = server.usual(call)
        for one in answer.Results:
            one.RevisedQueueSize, one.RevisedSamplingInterval = 2, 500.0
        return answer

    server.answers |= {"CreateSubscription": subscribe, "CreateMonitoredItems": create}
    line = start(server.endpoint, tags())
    await line.flows("T0")
    status = line.connection.status()
    assert status["publishing_interval_s"] == 0.2, status
    assert status["queue"] == 2, status


async def test_a_server_without_a_server_status_is_collected_from_and_resumed(server: FakeServer, start: Start) -> None:
    server.status_nodes = False
    line = start(server.endpoint, tags(), keepAlive=0.2)
    await line.flows("T0")
    server.cut()
    server.change("T0", 1.0)
    await got(line, "T0", 0.0, 1.0)
    assert line.connection.status()["recovery"]["rung"] == "resumed"
    made = server.asked["CreateSubscription"]
    await until(lambda: server.asked["Publish"] > 20, line.state)
    assert server.asked["CreateSubscription"] == made, "no news of a clock that is not there was taken for dead items"


async def test_the_host_that_a_server_says_it_has_does_not_matter(server: FakeServer, start: Start) -> None:
    server.host = "plc-4711.invalid"
    line = start(server.endpoint, tags())
    await line.flows("T0")
    server.cut()
    server.change("T0", 1.0)
    await got(line, "T0", 1.0)


# --- the wire ---


async def test_buffers_of_different_sizes_are_each_kept_to(server: FakeServer, start: Start) -> None:
    """The server takes chunks of 8 KB and sends such of 64 KB."""
    server.receives, server.sends = 8192, 65535
    count = 3000
    line = start(server.endpoint, many(server, count), load={"batch": count, "requestsPerSecond": 1000})
    await line.monitors(count)
    await until(lambda: len(line.sink.samples) >= count, line.state)
    assert 8000 < server.largest <= 8192
    assert line.connection.status().get("losses", 0) == 0


async def test_a_response_in_many_small_chunks_is_put_together(server: FakeServer, start: Start) -> None:
    server.chunk = 32
    line = start(server.endpoint, many(server, 100))
    await line.monitors(100)
    await line.flows("T0", "T99")
    server.change("T7", *map(float, range(200)))
    await got(line, "T7", *map(float, range(200)))


async def test_a_response_of_twenty_megabytes_is_taken(server: FakeServer, start: Start) -> None:
    line = start(server.endpoint, tags(), requestTimeout=30)
    await line.flows("T0")
    subscription = server.only
    form = np.dtype([("handle", "<u4"), ("mask", "u1"), ("type", "u1"), ("value", "<f8"), ("source", "<i8")])
    rows = np.zeros(20 * 2**20 // form.itemsize, form)
    rows["handle"] = next(item.handle for item in subscription.items.values() if item.name == "T0")
    rows["mask"], rows["type"], rows["value"] = 0x05, 11, np.arange(len(rows))
    rows["source"] = 134_168_000_000_000_000 + np.arange(len(rows))
    body = struct.pack("<i", len(rows)) + rows.tobytes() + struct.pack("<i", -1)
    await until(lambda: server.waiting > 0, line.state)
    server.say(subscription, ua.ExtensionObject(DATA_CHANGE, body))
    await until(lambda: len(line.sink.samples) > len(rows), line.state)
    assert line.sink.of("T0")[1:] == list(map(float, range(len(rows))))


STAGES = ("Hello", "OpenSecureChannel", "CreateSession", "ActivateSession", "Read", "CreateSubscription",
          "CreateMonitoredItems", "Publish")  # fmt: skip


def hang_up(call: Call) -> Response:
    """Ends the line without a word."""
    call.line.reset()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_ends_the_line_without_a_word_at_any_stage_is_tried_again(
    server: FakeServer, start: Start, stage: str
) -> None:
    if stage == "Hello":
        server.answers[stage] = hang_up
    else:
        once(hang_up, service=stage, server=server)
    line = start(server.endpoint, tags())
    if stage == "Hello":
        await until(lambda: line.connection.state.state == "waiting", line.state)
        del server.answers[stage]
    await line.flows("T0")
    server.change("T0", 1.0)
    await got(line, "T0", 0.0, 1.0)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_falls_silent_at_any_stage_is_left_told_of_and_tried_again(
    server: FakeServer, start: Start, stage: str
) -> None:
    server.answers[stage] = silence
    line = start(server.endpoint, tags(), keepAlive=0.1, requestTimeout=0.3)
    await until(lambda: line.connection.state.state == "waiting", line.state)
    assert "endpoint" in line.connection.state.why
    assert line.connection.state.remedy
    del server.answers[stage]
    await line.flows("T0")
    server.change("T0", 1.0)
    await got(line, "T0", 0.0, 1.0)


@pytest.mark.parametrize("service", ["Read", "TranslateBrowsePathsToNodeIds", "CreateMonitoredItems", "Publish"])
@pytest.mark.parametrize("answer", ["BadInternalError", "BadServiceUnsupported", "BadOutOfMemory"])
async def test_a_service_fault_is_told_and_what_was_asked_is_asked_again(
    server: FakeServer, start: Start, service: str, answer: str
) -> None:
    wordy = fault(answer)
    wordy.ResponseHeader.StringTable = ["out of luck"]
    wordy.ResponseHeader.ServiceDiagnostics = ua.DiagnosticInfo(SymbolicId=0)
    faulty: Answer = lambda _: wordy  # noqa: E731
    once(faulty, service=service, server=server)
    line = start(server.endpoint, tags())
    await line.flows("T0")
    server.change("T0", 1.0)
    await got(line, "T0", 0.0, 1.0)


async def test_a_channel_gets_a_new_token_in_time_and_nothing_stops(server: FakeServer, start: Start) -> None:
    server.token_lifetime = 0.4
    line = start(server.endpoint, tags())
    await line.flows("T0")
    value = 0.0
    while server.tokens < 5:
        value += 1.0
        server.change("T0", value)
        await got(line, "T0", value)
    assert line.sink.of("T0") == [float(number) for number in range(int(value) + 1)]
    assert server.asked["ActivateSession"] == 1, "it took another session"


async def test_a_channel_that_is_refused_with_a_service_fault_is_told_as_what_it_is(
    server: FakeServer, start: Start
) -> None:
    once(refusal("BadSecurityChecksFailed"), service="OpenSecureChannel", server=server)
    line = start(server.endpoint, tags())
    await until(lambda: line.connection.state.state == "waiting", line.state)
    assert "does not trust our certificate" in line.connection.state.why, line.state()
    await line.flows("T0")


async def test_a_server_that_publishes_before_any_item_is_made_is_waited_for(server: FakeServer, start: Start) -> None:
    held: list[Call] = []

    def create(call: Call) -> Response:
        if all(wish.ItemToMonitor.NodeId.NamespaceIndex == 0 for wish in call.parameters.ItemsToCreate):
            return server.usual(call)  # the server's own time, which proves that values flow
        held.append(call)
        return None

    server.answers["CreateMonitoredItems"] = create
    line = start(server.endpoint, tags(), keepAlive=0.1)
    await until(lambda: held and server.asked["Publish"] > 10, line.state)
    held[0].answer(server.usual(held[0]))
    await line.flows("T0")
    assert line.connection.status()["connects"] == 1


async def test_a_server_that_takes_the_highest_handle_for_none_shows_no_clock_as_a_tags_value(
    server: FakeServer, start: Start
) -> None:
    """node-opcua: it says 0 in its place, which is the handle of the first tag."""

    def create(call: Call) -> Response:
        for wish in call.parameters.ItemsToCreate:
            if wish.RequestedParameters.ClientHandle == 2**32 - 1:
                wish.RequestedParameters.ClientHandle = 0
        return server.usual(call)

    server.answers["CreateMonitoredItems"] = create
    line = start(server.endpoint, tags(), keepAlive=0.1)
    await line.flows("T0")
    asked = server.asked["Publish"]
    await until(lambda: server.asked["Publish"] > asked + 10, line.state)
    server.change("T0", 1.0)
    await got(line, "T0", 0.0, 1.0)
    assert line.sink.of("T0") == [0.0, 1.0]
