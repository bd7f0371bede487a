"""The publish loop against a scripted server: for answers that no server at hand gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from opcua_collector.config import Connection as Settings
from opcua_collector.connection import OUTSTANDING, Connection, SubscriptionLostError, _first_end, _Run
from opcua_collector.samples import Rule
from opcua_collector.session import Identity, Subscribed
from opcua_collector.stack import UaStatusCodeError, ua
from sluice.batch import Columns, Series
from sluice.log import Secret

struct_to_binary: Any = import_module("asyncua.ua.ua_binary").struct_to_binary
SUBSCRIPTION = 77


def message(number: int, *values: float, subscription: int = SUBSCRIPTION, status: int = 0) -> bytes:
    """A PublishResponse with these values of handle 0; without values a keep-alive, with a status a status change."""
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = subscription
    response.Parameters.NotificationMessage.SequenceNumber = number
    items = [ua.MonitoredItemNotification(0, ua.DataValue(ua.Variant(value))) for value in values]
    if items:
        response.Parameters.NotificationMessage.NotificationData = [ua.DataChangeNotification(items)]
    if status:
        response.Parameters.NotificationMessage.NotificationData = [ua.StatusChangeNotification(ua.StatusCode(status))]
    return bytes(struct_to_binary(response))


class Scripted:
    """A session whose server answers by a script, and then never again."""

    policy = "None/None"

    def __init__(self, *answers: bytes | int) -> None:
        self.answers = list(answers)
        self.acknowledged: list[tuple[int, int]] = []
        self.waiting = 0
        self.most_waiting = 0

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await asyncio.sleep(0)
            if not self.answers:
                self.acknowledged += acknowledge
                await asyncio.Event().wait()
            answer = self.answers.pop(0)
            if isinstance(answer, int):
                raise UaStatusCodeError(answer)
            self.acknowledged += acknowledge
            return answer, 0
        finally:
            self.waiting -= 1


class Sink:
    """An outlet that remembers, and can be held up."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.given_up = 0
        self.events: list[Mapping[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, columns: Columns) -> None:
        await self.open.wait()
        self.values += columns.value.tolist()

    async def send_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.events += events

    def filtered(self, count: int) -> None: ...

    def undelivered(self, count: int) -> None:
        self.given_up += count

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None: ...

    def clear(self, scope: str) -> None: ...


class Bench:
    def __init__(self, folder: Path, session: Scripted) -> None:
        async def no_password(_: Settings) -> Secret | None:
            return None

        self.session, self.sink = session, Sink()
        settings = Settings.model_validate({"endpoint": "opc.tcp://127.0.0.1:4840"})
        identity = Identity(folder, "urn:test")
        self.connection = Connection(
            "line1", settings, {}, outlet=self.sink, identity=identity, password=no_password, problems=self.sink
        )
        assembler = self.connection._assembler
        assembler.fix(assembler.add(Series("T")), Rule.DOUBLE)
        scripted: Any = session
        self.run = _Run(self.connection, scripted, settings, Subscribed(SUBSCRIPTION, 0.01, 500, 1500))
        self.tasks = [asyncio.create_task(self.run.publish()) for _ in range(OUTSTANDING)]
        self.tasks.append(asyncio.create_task(self.run.watch()))

    async def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 30
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            state = (self.sink.values, self.sink.events, self.connection.traffic, self.session.acknowledged)
            assert time.monotonic() < end, state
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_answers_that_overtake_each_other_are_delivered_in_order_and_all_acknowledged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Scripted(message(2, 2.0), message(3, 3.0), message(1, 1.0), message(4, 4.0)))
    await bench.until(lambda: len(bench.session.acknowledged) == 4)
    assert bench.sink.values == [1.0, 2.0, 3.0, 4.0]
    assert sorted(bench.session.acknowledged) == [(SUBSCRIPTION, n) for n in (1, 2, 3, 4)]
    assert bench.session.most_waiting == OUTSTANDING
    assert not bench.sink.events
    await bench.close()


async def test_a_message_that_never_comes_is_told_as_a_gap_and_what_follows_is_delivered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Scripted(message(1, 1.0), message(3, 3.0)))
    await bench.until(lambda: bench.sink.values == [1.0, 3.0])
    [event] = bench.sink.events
    assert (event["kind"], event["reason"], event["first"], event["last"]) == ("gap", "sequence", 2, 2)
    assert bench.connection.traffic.missing == 1
    await bench.close()


async def test_a_keep_alive_reveals_what_was_lost_before_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Scripted(message(1, 1.0), message(4)))
    await bench.until(lambda: bench.sink.events)
    assert (bench.sink.events[0]["first"], bench.sink.events[0]["last"]) == (2, 3)
    await bench.close()


async def test_a_repeated_message_is_acknowledged_and_not_delivered_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Scripted(message(1, 1.0), message(1, 1.0), message(2, 2.0)))
    await bench.until(lambda: len(bench.session.acknowledged) == 3)
    assert bench.sink.values == [1.0, 2.0]
    assert bench.connection.traffic.repeated == 1
    await bench.close()


async def test_nothing_is_acknowledged_or_asked_for_while_delivery_is_held_up(tmp_path: Path) -> None:
    answers = [message(n, float(n)) for n in range(1, 10)]
    session = Scripted(*answers)
    bench = Bench(tmp_path, session)
    bench.sink.open.clear()
    await bench.until(lambda: len(session.answers) == len(answers) - OUTSTANDING and session.waiting == 0)
    assert session.acknowledged == []
    bench.sink.open.set()
    await bench.until(lambda: len(session.acknowledged) == 9)
    assert bench.sink.values == [float(n) for n in range(1, 10)]
    await bench.close()


async def test_what_has_been_received_is_handed_on_before_a_lost_connection_is_left(tmp_path: Path) -> None:
    session = Scripted()
    bench = Bench(tmp_path, session)
    await bench.close()
    bench.tasks.clear()
    bench.sink.open.clear()
    lost = asyncio.Event()

    async def line() -> None:
        await lost.wait()
        raise ConnectionResetError

    publishers = [bench.run.publish() for _ in range(OUTSTANDING)]
    ends = asyncio.create_task(_first_end(bench.run.finish, line(), *publishers))
    session.answers = [message(1, 1.0), message(2, 2.0), message(4, 4.0)]
    await bench.until(lambda: not session.answers and session.waiting == 0)
    lost.set()
    await asyncio.sleep(0)
    assert bench.sink.values == []
    bench.sink.open.set()

    with pytest.raises(ConnectionResetError):
        await ends
    assert bench.sink.values == [1.0, 2.0, 4.0]
    assert bench.sink.given_up == 0


async def test_what_is_received_and_not_handed_on_is_counted_when_the_component_stops(tmp_path: Path) -> None:
    session = Scripted(message(2, 2.0, 2.5), message(1, 1.0), message(3, 3.0))
    bench = Bench(tmp_path, session)
    bench.sink.open.clear()
    await bench.until(lambda: bench.run._at_hand == 2)
    await bench.close()
    bench.run.abandon()
    assert bench.sink.values == []
    assert bench.sink.given_up == 3, "all but the value that the outlet holds, and counts by itself"


async def test_a_server_that_takes_one_request_only_is_given_one(tmp_path: Path) -> None:
    too_many = ua.StatusCodes.BadTooManyPublishRequests
    session = Scripted(too_many, too_many, message(1, 1.0), message(2, 2.0))
    bench = Bench(tmp_path, session)
    await bench.until(lambda: bench.sink.values == [1.0, 2.0] and session.waiting == 1)
    assert sum(task.done() for task in bench.tasks) == OUTSTANDING - 1
    await bench.close()


@pytest.mark.parametrize(
    "answer", [ua.StatusCodes.BadNoSubscription, message(1, status=ua.StatusCodes.BadTimeout)], ids=["fault", "status"]
)
async def test_a_subscription_that_the_server_has_ended_is_not_waited_for(tmp_path: Path, answer: Any) -> None:
    bench = Bench(tmp_path, Scripted(answer))
    with pytest.raises(SubscriptionLostError):
        await bench.until(lambda: False)
    await bench.close()


async def test_rubbish_and_other_subscriptions_messages_disturb_nothing(tmp_path: Path) -> None:
    rubbish = message(1, 5.0)[:40]
    bench = Bench(tmp_path, Scripted(rubbish, message(1, 9.0, subscription=5), message(1, 1.0)))
    await bench.until(lambda: bench.sink.values == [1.0])
    assert bench.connection.traffic.damaged == 1
    await bench.close()
