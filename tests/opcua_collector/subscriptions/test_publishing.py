"""The ladder and the publish loop against a scripted server: for answers that no server at hand gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

import pytest

from opcua_collector import intake
from opcua_collector.intake import Intake
from opcua_collector.kept import SEQUENCE, Reached, load_sequence, position
from opcua_collector.services.session import CANARY, Look, Subscribed
from opcua_collector.stack import UaStatusCodeError, ua
from opcua_collector.subscriptions import publishing, recovery, timing
from opcua_collector.subscriptions.feed import Feed
from opcua_collector.subscriptions.pipeline import Pipeline
from opcua_collector.subscriptions.publishing import SILENT, STALLED, OutboxFullError, Publishing
from opcua_collector.subscriptions.recovery import RENEWED, RESUMED, TRANSFERRED, Fetched, Situation, climb
from opcua_collector.subscriptions.sequence import LAST, following
from opcua_collector.types.typed import Rule, Typing
from sluice.batch import Columns, SampleBatch, Series

struct_to_binary: Any = import_module("asyncua.ua.ua_binary").struct_to_binary
SUBSCRIPTION, OTHER = 77, 78
REQUESTS = 3  # for one subscription that publishes twice a second, over a short line
INTERVAL = 0.5
CODES = ua.StatusCodes
NOT_AVAILABLE = CODES.BadMessageNotAvailable


def fill(message: Any, number: int, values: Sequence[float], status: int = 0, canaries: int = 0, tag: int = 0) -> None:
    message.SequenceNumber = number
    items = [ua.MonitoredItemNotification(tag, ua.DataValue(ua.Variant(value))) for value in values]
    clock = ua.DataValue(ua.Variant(datetime.now(timezone.utc)))
    items += [ua.MonitoredItemNotification(CANARY, clock) for _ in range(canaries)]
    if items:
        message.NotificationData = [ua.DataChangeNotification(items)]
    if status:
        message.NotificationData = [ua.StatusChangeNotification(ua.StatusCode(status))]


def message(
    number: int,
    *values: float,
    subscription: int = SUBSCRIPTION,
    status: int = 0,
    available: Sequence[int] = (),
    results: Sequence[int] = (),
    null: bool = False,
    canaries: int = 0,
    tag: int = 0,
) -> bytes:
    """A PublishResponse with these values of a tag; without values a keep-alive, with a status a status change.

    canaries: how often the server's clock is in it.
    """
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = subscription
    response.Parameters.AvailableSequenceNumbers = list(available)
    response.Parameters.Results = [ua.StatusCode(code) for code in results]
    fill(response.Parameters.NotificationMessage, number, values, status, canaries, tag)
    if null:
        response.Parameters.NotificationMessage.NotificationData = None
    return bytes(struct_to_binary(response))


def kept(number: int, *values: float) -> bytes:
    """A RepublishResponse; without values an empty one."""
    response = ua.RepublishResponse()
    fill(response.NotificationMessage, number, values)
    return bytes(struct_to_binary(response))


class Server:
    """A session whose server answers PublishRequests by a script, and then never again.

    republish: what it has kept, by number; a function for one with an idea of its own.
    """

    def __init__(self, *answers: bytes | int) -> None:
        self.answers = list(answers)
        self.kept: dict[int, bytes] = {}
        self.republishes: Callable[[int], bytes | int] = lambda number: self.kept.get(number, NOT_AVAILABLE)
        self.transfers: tuple[int, tuple[int, ...]] | int = (CODES.BadServiceUnsupported, ())
        self.acknowledged: list[tuple[int, int]] = []
        self.asked: list[str] = []
        self.waiting = 0
        self.most_waiting = 0
        self.more = asyncio.Event()
        self.limit = 1_000_000
        """PublishRequests that it takes at once."""
        self.looks = 0
        self.silent = False
        """It answers nothing but requests for its time."""

    def send(self, *answers: bytes | int) -> None:
        """Answer waiting requests."""
        self.answers += answers
        self.more.set()

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await asyncio.sleep(0)
            if self.waiting > self.limit:
                raise UaStatusCodeError(CODES.BadTooManyPublishRequests)
            if not self.answers:
                self.acknowledged += acknowledge
                acknowledge = ()
            while not self.answers:
                self.more.clear()
                await self.more.wait()
            answer = self.answers.pop(0)
            if isinstance(answer, int):
                raise UaStatusCodeError(answer)
            self.acknowledged += acknowledge
            return answer, 0
        finally:
            self.waiting -= 1

    async def look(self) -> Look:
        self.looks += 1
        return Look("Running", time.time_ns(), "")

    async def republish(self, subscription: int, number: int) -> tuple[bytes, int]:
        assert subscription in (SUBSCRIPTION, OTHER)
        self.asked.append(f"republish {number}" + (f" of {subscription}" if subscription != SUBSCRIPTION else ""))
        await asyncio.sleep(0)
        answer = self.republishes(number)
        if isinstance(answer, int):
            raise UaStatusCodeError(answer)
        return answer, 0

    async def transfer(self, subscription: int) -> tuple[int, tuple[int, ...]]:
        self.asked.append(f"transfer {subscription}")
        if isinstance(self.transfers, int):
            raise UaStatusCodeError(self.transfers)
        return self.transfers

    async def unsubscribe(self, subscription: int) -> None:
        self.asked.append(f"unsubscribe {subscription}")


class Outbox:
    """An outlet that remembers, and commits in order when it is let."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.positions: dict[str, bytes | None] = {}
        self.events: list[Mapping[str, Any]] = []
        self.undelivered = 0
        self.newest = 0
        self.full = False
        self.recoverable = False
        self.roomy = True
        self.holding = False
        self._held: list[tuple[asyncio.Future[None], Callable[[], None]]] = []

    def hold(self) -> None:
        """Commit nothing any more, as on a full disk."""
        self.holding = True

    def commit(self, count: int | None = None) -> None:
        """Commit what waits, or the first few of it."""
        self.holding = count is not None
        ready = self._held[:count]
        del self._held[: len(ready)]
        for future, work in ready:
            work()
            if not future.done():
                future.set_result(None)

    @property
    def uncommitted(self) -> int:
        return len(self._held)

    def _put(self, work: Callable[[], None]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append((future, work))
        if not self.holding:
            self.commit()
        return future

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> Awaitable[None]:
        self.newest += len(columns)
        self.undelivered += undelivered

        def work() -> None:
            for part in columns:
                self.values += part.value.tolist()
            self.positions.update(positions or {})

        return self._put(work)

    submit_backfill: Any = None

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> Awaitable[None]:
        return self._put(lambda: self.events.extend(events))

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        return self._put(lambda: self.positions.update(positions))

    def position(self, key: str) -> bytes | None:
        return self.positions.get(key)

    def keep_after(self, number: int) -> None: ...

    async def recent(self, after: int) -> AsyncIterator[SampleBatch]:
        kept: list[SampleBatch] = []
        for batch in kept:
            yield batch


class Bench:
    """A feed of one tag and what serves it. `begin_other` adds a second one, of another tag."""

    def __init__(self, server: Server, reached: int = 0, pipeline: Pipeline | None = None) -> None:
        self.server, self.outbox = server, Outbox()
        self.intake = Intake("line1", self.outbox, lambda: {0: "T", 1: "U"})
        for tag in ("T", "U"):
            self.intake.assembler.fix(self.intake.assembler.add(Series(tag)), Typing(Rule.DOUBLE))
        self.feed = Feed(self.intake, Subscribed(SUBSCRIPTION, INTERVAL, 10, 180), reached)
        self.publishing = Publishing(server, self.intake, self.outbox, pipeline or Pipeline(0.001))
        self.tasks: list[asyncio.Task[None]] = []

    def publish(self) -> None:
        self.publishing.serve(self.feed)
        work = (*self.publishing.tasks(), self.publishing.mend(self.feed, self.intake.missing))
        self.tasks = [asyncio.create_task(one) for one in work]

    def begin_other(self, keep_alives: int = 10, canary: float = 0.0) -> Feed:
        other = Feed(
            self.intake,
            Subscribed(OTHER, INTERVAL, keep_alives, 180, None, canary),
            0,
            position(SEQUENCE, "fast"),
        )
        self.publishing.serve(other)
        self.tasks.append(asyncio.create_task(self.publishing.mend(other, self.intake.missing)))
        return other

    async def climb(self, *, resumed: bool = True, restarted: bool = False) -> Situation:
        """The ladder; `rung` of the answer says how far it had to go."""

        async def renew() -> Feed:
            self.server.asked.append("subscribe")
            return Feed(self.intake, Subscribed(OTHER, INTERVAL, 10, 180))

        self.feed.begin()
        stale = SUBSCRIPTION if resumed else 0
        situation = Situation(self.server, resumed, restarted, self.feed, stale, renew)
        self.rung = await climb(situation)
        return situation

    async def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 30
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            state = (self.outbox.values, self.outbox.events, self.intake.traffic, vars(self.server))
            assert time.monotonic() < end, state
            await asyncio.sleep(0.005)

    def told(self) -> list[tuple[int, int]]:
        """The gaps that were told."""
        return [(event["first"], event["last"]) for event in self.outbox.events if event["kind"] == "gap"]

    def reached(self) -> int:
        position = load_sequence(self.outbox.positions.get(SEQUENCE))
        return position.number if position is not None else 0

    async def close(self) -> None:
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Begin = Callable[..., Bench]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    benches: list[Bench] = []

    def make(*answers: bytes | int, reached: int = 0, publish: bool = True, kept: Mapping[int, bytes] = {}) -> Bench:
        server = Server(*answers)
        server.kept.update(kept)
        bench = Bench(server, reached)
        benches.append(bench)
        if publish:
            bench.publish()
        return bench

    yield make
    for bench in benches:
        await bench.close()


# --- publishing -----------------------------------------------------------------------------------------------------


async def test_answers_that_overtake_each_other_are_handed_on_in_order_and_all_acknowledged(begin: Begin) -> None:
    bench = begin(message(2, 2.0), message(3, 3.0), message(1, 1.0), message(4, 4.0))
    await bench.until(lambda: len(bench.server.acknowledged) == 4)
    assert bench.outbox.values == [1.0, 2.0, 3.0, 4.0]
    assert sorted(bench.server.acknowledged) == [(SUBSCRIPTION, n) for n in (1, 2, 3, 4)]
    assert bench.server.most_waiting == REQUESTS
    assert bench.server.asked == []
    assert not bench.outbox.events


async def test_a_message_is_acknowledged_when_it_is_committed_and_not_before(begin: Begin) -> None:
    answers = [message(n, float(n)) for n in range(1, 10)]
    bench = begin(*answers)
    bench.outbox.hold()
    await bench.until(lambda: len(bench.server.answers) == len(answers) - REQUESTS and bench.server.waiting == 0)
    await asyncio.sleep(0.05)  # it asks for nothing more while nothing can be committed
    assert len(bench.server.answers) == len(answers) - REQUESTS
    assert bench.server.acknowledged == []
    bench.outbox.commit()
    await bench.until(lambda: len(bench.server.acknowledged) == 9)
    assert bench.outbox.values == [float(n) for n in range(1, 10)]
    assert bench.reached() == 9


async def test_the_number_of_a_message_is_committed_with_its_samples(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(2, 2.0))
    bench.outbox.hold()
    await bench.until(lambda: bench.outbox.uncommitted >= 2)
    while bench.outbox.uncommitted:
        bench.outbox.commit(1)
        assert bench.outbox.values == [1.0, 2.0][: bench.reached()]


async def test_a_message_that_never_came_is_fetched_before_what_follows_is_handed_on(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(4, 4.0), kept={2: kept(2, 2.0), 3: kept(3, 3.0)})
    await bench.until(lambda: len(bench.outbox.values) == 4)
    assert bench.outbox.values == [1.0, 2.0, 3.0, 4.0]
    assert bench.server.asked == ["republish 2", "republish 3"]
    assert bench.intake.traffic.republished == 2
    assert not bench.told()
    await bench.until(lambda: len(bench.server.acknowledged) == 3 or bench.server.waiting == REQUESTS)


async def test_a_message_that_nobody_has_is_told_as_a_gap_and_what_follows_is_handed_on(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(5, 5.0), kept={3: kept(3, 3.0)})
    await bench.until(lambda: len(bench.outbox.values) == 3)
    assert bench.outbox.values == [1.0, 3.0, 5.0]
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.told() == [(2, 2), (4, 4)]
    assert (bench.intake.traffic.missing, bench.intake.traffic.gaps) == (2, 2)


async def test_no_request_left_that_could_bring_it_means_that_it_is_fetched_at_once(begin: Begin) -> None:
    bench = begin(message(2, 2.0), message(3, 3.0), message(4, 4.0), kept={1: kept(1, 1.0)})
    await bench.until(lambda: bench.outbox.values == [1.0, 2.0, 3.0, 4.0])
    assert bench.server.asked == ["republish 1"]


@pytest.mark.parametrize("null", [False, True], ids=["empty", "null"])
async def test_a_keep_alive_reveals_what_was_lost_before_it_whichever_way_it_is_written(
    begin: Begin, null: bool
) -> None:
    bench = begin(message(1, 1.0), message(4, null=null), kept={2: kept(2, 2.0)})
    await bench.until(lambda: bench.told())
    assert bench.outbox.values == [1.0, 2.0]
    assert bench.told() == [(3, 3)]
    assert bench.intake.traffic.keep_alives == 1


async def test_after_the_largest_number_comes_one_in_gaps_too(begin: Begin) -> None:
    before = following(LAST, -1)
    bench = begin(message(LAST, 1.0), message(2, 3.0), reached=before, kept={1: kept(1, 2.0)})
    await bench.until(lambda: bench.outbox.values == [1.0, 2.0, 3.0])
    await bench.until(lambda: bench.reached() == 2)
    assert not bench.told()


async def test_of_many_messages_only_those_are_asked_for_that_the_server_says_it_has(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(5000, 5000.0, available=[4998, 4999, 5000]))
    bench.server.kept.update({n: kept(n, float(n)) for n in (4998, 4999)})
    await bench.until(lambda: len(bench.outbox.values) == 4)
    assert bench.outbox.values == [1.0, 4998.0, 4999.0, 5000.0]
    assert bench.server.asked == ["republish 4998", "republish 4999"]
    await bench.until(lambda: bench.told() == [(2, 4997)])


async def test_a_repeated_message_is_acknowledged_again_and_not_handed_on_again(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(1, 1.0), message(2, 2.0))
    await bench.until(lambda: len(bench.server.acknowledged) >= 2 and not bench.server.answers)
    assert bench.outbox.values == [1.0, 2.0]
    assert bench.intake.traffic.repeated == 1


async def test_a_message_that_comes_after_it_was_fetched_is_a_repetition(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(3, 3.0), kept={2: kept(2, 2.0)})
    await bench.until(lambda: len(bench.outbox.values) == 3)
    bench.server.answers.append(message(2, 2.0))
    late = Bench(Server(message(2, 2.0), message(4, 4.0)), reached=3)
    late.publish()
    await late.until(lambda: late.outbox.values == [4.0])
    assert late.intake.traffic.repeated == 1
    await late.close()


async def test_what_an_earlier_run_did_not_come_to_acknowledge_is_acknowledged(begin: Begin) -> None:
    bench = begin(message(8, 8.0, available=[3, 5, 7, 8]), reached=7)
    await bench.until(lambda: len(bench.server.acknowledged) == 4)
    assert sorted(number for _, number in bench.server.acknowledged) == [3, 5, 7, 8]


async def test_acknowledgements_that_the_server_refuses_are_counted(begin: Begin) -> None:
    bench = begin(message(1, 1.0))
    await bench.until(lambda: bench.server.acknowledged == [(SUBSCRIPTION, 1)])
    await bench.close()
    bench.server.answers = [message(2, 2.0), message(3, 3.0, results=[CODES.BadSequenceNumberUnknown])]
    bench.publish()
    await bench.until(lambda: bench.reached() == 3)
    bench.server.answers = [message(4, 4.0, results=[CODES.BadSequenceNumberUnknown])]
    await bench.close()
    bench.publish()
    await bench.until(lambda: bench.reached() == 4)
    assert bench.intake.traffic.refused_acknowledgements >= 1


async def test_a_server_that_takes_one_request_only_is_given_one(begin: Begin) -> None:
    too_many = CODES.BadTooManyPublishRequests
    bench = begin(too_many, too_many, message(1, 1.0), message(2, 2.0))
    await bench.until(lambda: bench.outbox.values == [1.0, 2.0] and bench.server.waiting == 1)
    assert bench.publishing.status()["requests"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        CODES.BadNoSubscription,
        message(1, status=CODES.BadTimeout),
        message(1, status=CODES.GoodSubscriptionTransferred),
    ],
    ids=["fault", "status", "transferred to somebody else"],
)
async def test_a_subscription_that_the_server_has_ended_is_not_waited_for(begin: Begin, answer: Any) -> None:
    bench = begin(answer)
    await bench.until(bench.feed.over.is_set)
    assert bench.feed.why


async def test_rubbish_disturbs_nothing_and_a_strangers_subscription_is_ended(begin: Begin) -> None:
    rubbish = message(1, 5.0)[:40]
    bench = begin(rubbish, message(1, 9.0, subscription=5), message(1, 1.0))
    await bench.until(lambda: bench.outbox.values == [1.0])
    assert (bench.intake.traffic.damaged, bench.intake.traffic.foreign) == (1, 1)
    await bench.until(lambda: "unsubscribe 5" in bench.server.asked)


async def test_a_stranger_that_cannot_be_ended_disturbs_nobody(begin: Begin) -> None:
    bench = begin(publish=False)

    async def gone(subscription: int) -> None:
        bench.server.asked.append("unsubscribe")
        raise UaStatusCodeError(CODES.BadSubscriptionIdInvalid)

    bench.server.unsubscribe = gone  # type: ignore[method-assign]
    bench.publish()
    bench.server.send(message(1, 9.0, subscription=99))
    await bench.until(lambda: "unsubscribe" in bench.server.asked)
    bench.server.send(message(1, 1.0))
    await bench.until(lambda: bench.outbox.values == [1.0])


async def test_a_full_outbox_ends_publishing_and_takes_nothing_more(begin: Begin) -> None:
    bench = begin(message(1, 1.0), publish=False)
    bench.outbox.full = True
    bench.publish()
    with pytest.raises(OutboxFullError):
        await bench.until(lambda: False)
    assert len(bench.server.answers) == 1


# --- several subscriptions ------------------------------------------------------------------------------------------


async def test_subscriptions_share_requests_and_each_keeps_its_order_its_numbers_and_its_acknowledgements(
    begin: Begin,
) -> None:
    bench = begin()
    other = bench.begin_other()
    bench.server.send(
        message(2, 22.0, subscription=OTHER, tag=1),
        message(2, 2.0),
        message(1, 1.0),
        message(1, 11.0, subscription=OTHER, tag=1),
        message(3, 3.0),
    )
    await bench.until(lambda: len(bench.outbox.values) == 5)
    assert [value for value in bench.outbox.values if value < 10] == [1.0, 2.0, 3.0]
    assert [value for value in bench.outbox.values if value > 10] == [11.0, 22.0]
    bench.server.send(message(4), message(3, subscription=OTHER))
    expected = {(SUBSCRIPTION, n) for n in (1, 2, 3)} | {(OTHER, n) for n in (1, 2)}
    await bench.until(lambda: set(bench.server.acknowledged) == expected)
    assert len(bench.server.acknowledged) == len(expected)
    assert bench.reached() == 3
    assert load_sequence(bench.outbox.positions["sequence/fast"]) == Reached(OTHER, 2)
    assert (other.expected, bench.feed.expected) == (3, 4)


async def test_what_one_subscription_lacks_is_fetched_while_the_other_is_handed_on(begin: Begin) -> None:
    bench = begin()
    bench.begin_other()
    bench.server.republishes = lambda number: NOT_AVAILABLE
    bench.server.send(message(3, 3.0), *(message(n, 10.0 + n, subscription=OTHER, tag=1) for n in (1, 2, 3)))
    await bench.until(lambda: bench.told() == [(1, 2)])
    assert sorted(bench.outbox.values) == [3.0, 11.0, 12.0, 13.0]
    assert bench.server.asked == ["republish 1", "republish 2"]


async def test_a_subscription_that_ends_is_lost_alone(begin: Begin) -> None:
    bench = begin()
    other = bench.begin_other()
    bench.server.send(message(1, status=CODES.BadTimeout, subscription=OTHER))
    await bench.until(other.over.is_set)
    assert other.why == "BadTimeout"
    bench.publishing.leave(other)
    bench.server.send(message(2, 66.0, subscription=OTHER, tag=1), message(1, 1.0))
    await bench.until(lambda: bench.outbox.values == [1.0])
    assert not bench.feed.over.is_set()
    assert bench.server.asked == [], "what was ended here is no stranger"


async def test_an_acknowledgement_of_a_subscription_that_is_gone_ends_that_one(begin: Begin) -> None:
    bench = begin()
    other = bench.begin_other()
    bench.server.send(message(1, 11.0, subscription=OTHER, tag=1))
    await bench.until(lambda: bench.outbox.values)
    bench.server.send(message(1, 1.0))
    await bench.until(lambda: len(bench.outbox.values) == 2)
    results = [CODES.BadSubscriptionIdInvalid]
    bench.server.send(*(message(n, float(n), results=results) for n in (2, 3, 4)))
    await bench.until(other.over.is_set)
    assert other.why == "BadSubscriptionIdInvalid"


async def test_no_subscription_left_is_no_news_of_one_that_was_made_since_the_request(begin: Begin) -> None:
    bench = begin()
    await bench.until(lambda: bench.server.waiting == REQUESTS)
    other = bench.begin_other()
    bench.server.send(CODES.BadNoSubscription)
    await bench.until(bench.feed.over.is_set)
    assert not other.over.is_set()


async def test_a_message_that_comes_before_the_answer_that_made_its_subscription_is_its_first(begin: Begin) -> None:
    bench = begin()
    with bench.publishing.creating():
        bench.server.send(message(1, 11.0, subscription=OTHER, tag=1))
        await bench.until(lambda: not bench.server.answers)
        await asyncio.sleep(0.05)
        bench.begin_other()
    await bench.until(lambda: bench.outbox.values == [11.0])
    assert bench.intake.traffic.foreign == 0


async def test_there_are_more_requests_than_subscriptions_and_none_without_one(begin: Begin) -> None:
    bench = begin()
    await bench.until(lambda: bench.server.waiting == 3)
    bench.begin_other()
    await bench.until(lambda: bench.server.waiting == 4)
    assert bench.publishing.status()["requests"] == 4
    idle = Bench(Server())
    idle.tasks = [asyncio.create_task(task) for task in idle.publishing.tasks()]
    await asyncio.sleep(0.1)
    assert idle.server.waiting == 0
    await idle.close()


# --- how many requests ----------------------------------------------------------------------------------------------


async def test_a_longer_line_gets_more_requests_and_a_shorter_one_fewer_while_it_runs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_LOOK", 0.05)
    bench = begin()
    await bench.until(lambda: bench.server.waiting == 3)
    look = bench.server.look

    async def slow() -> Look:
        await asyncio.sleep(1.0)
        return await look()

    monkeypatch.setattr(bench.server, "look", slow)
    await bench.until(lambda: bench.server.waiting == 5)
    assert bench.publishing.status()["round_trip_ms"] >= 1000
    monkeypatch.setattr(bench.server, "look", look)
    await bench.until(lambda: bench.publishing.status()["requests"] == 3)
    bench.server.send(*(message(number, float(number)) for number in range(1, 9)))
    await bench.until(lambda: len(bench.outbox.values) == 8 and bench.server.waiting == 3)


async def test_a_server_that_took_too_few_requests_is_offered_more_after_a_while(begin: Begin) -> None:
    bench = begin(publish=False)
    bench.publishing = Publishing(bench.server, bench.intake, bench.outbox, Pipeline(0.001, (0.6, 10.0)))
    bench.server.limit = 1
    bench.publish()
    await bench.until(lambda: bench.server.waiting == 1 and bench.publishing.status()["requests"] == 1)
    bench.server.limit = 10
    await bench.until(lambda: bench.server.waiting == 3)
    assert not bench.feed.over.is_set()


# --- signs of life --------------------------------------------------------------------------------------------------


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of tenths of seconds in the place of many."""
    monkeypatch.setattr(timing, "GRACE", 0.0)
    monkeypatch.setattr(publishing, "_STEP", 0.1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(NOT_AVAILABLE, SILENT), (CODES.BadSubscriptionIdInvalid, Fetched.GONE.value)],
    ids=["it exists", "it is gone"],
)
async def test_a_subscription_that_is_silent_while_others_speak_is_lost_alone(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, answer: int, why: str
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180)
    bench.publish()
    other = bench.begin_other(keep_alives=1)
    bench.server.republishes = lambda number: answer
    end = time.monotonic() + 20
    while not other.over.is_set():
        assert time.monotonic() < end, bench.publishing.of(other)
        bench.server.send(message(1))
        await asyncio.sleep(0.1)
    assert (other.why, bench.feed.over.is_set()) == (why, False)
    assert bench.server.looks >= 1, "it is asked whether it lives before that is believed"
    assert set(bench.server.asked) == {"republish 1 of 78"}


async def test_a_message_of_a_silent_subscription_that_was_lost_is_fetched_and_it_lives_on(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180)
    bench.publish()
    other = bench.begin_other(keep_alives=1)
    bench.server.kept[1] = kept(1, 5.0)
    end = time.monotonic() + 20
    while bench.outbox.values != [5.0]:
        assert time.monotonic() < end, bench.publishing.of(other)
        bench.server.send(message(1))
        await asyncio.sleep(0.1)
    assert not other.over.is_set()
    assert other.expected == 2


async def test_a_server_that_answers_nothing_at_all_is_dead_and_no_subscription_is_lost_for_it(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180)

    async def never() -> Look:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(bench.server, "look", never)
    bench.publish()
    with pytest.raises(asyncio.TimeoutError):
        await bench.until(lambda: False)
    assert not bench.feed.over.is_set()


async def test_our_own_loop_may_be_busy_for_longer_than_the_deadline(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180)
    bench.publish()
    await bench.until(lambda: bench.server.waiting == REQUESTS)
    for _ in range(3):
        time.sleep(1.2)
        bench.server.send(message(1))
        await asyncio.sleep(0.3)
    assert not bench.feed.over.is_set()
    assert all(not task.done() for task in bench.tasks)
    assert bench.publishing.status()["loop_lag_s"] >= 1.0


async def test_the_servers_clock_is_no_sample_and_its_messages_are_acknowledged(begin: Begin) -> None:
    bench = begin(message(1, 1.0, canaries=1), message(2, canaries=1), message(3, 3.0))
    await bench.until(lambda: len(bench.server.acknowledged) == 3)
    assert bench.outbox.values == [1.0, 3.0]
    counts = bench.intake.assembler.counts
    assert (counts.received, counts.unknown, counts.filtered, bench.intake.traffic.messages) == (2, 0, 0, 2)
    assert bench.reached() == 3


async def test_an_idle_line_writes_nothing_for_the_servers_clock_but_now_and_then_for_all_groups_at_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_SOON", 0.3)
    bench = begin(publish=False)
    bench.publish()
    other = bench.begin_other()
    notes: list[Mapping[str, bytes | None]] = []
    note = bench.outbox.note

    def counted(positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        notes.append(positions)
        return note(positions)

    monkeypatch.setattr(bench.outbox, "note", counted)
    for number in (1, 2, 3):
        bench.server.send(message(number, canaries=1), message(number, canaries=1, subscription=OTHER))
    await bench.until(lambda: (bench.feed.expected, other.expected) == (4, 4))
    assert (notes, bench.server.acknowledged) == ([], []), "the server has them until it is noted that they came"
    await bench.until(lambda: notes)
    assert [set(one) for one in notes] == [{SEQUENCE, position(SEQUENCE, "fast")}]
    for number in range(4, 7):
        bench.server.send(message(number), message(number, subscription=OTHER))  # keep-alives, which bring requests
    await bench.until(lambda: len(set(bench.server.acknowledged)) == 6)
    assert bench.reached() == 3


async def test_a_message_with_values_notes_those_without_before_it(begin: Begin) -> None:
    bench = begin(message(1, canaries=1), message(2, canaries=1), message(3, 3.0))
    await bench.until(lambda: len(bench.server.acknowledged) == 3)
    assert (bench.reached(), sorted(bench.server.acknowledged)) == (3, [(SUBSCRIPTION, n) for n in (1, 2, 3)])
    bench.server.send(*(message(number, canaries=1) for number in range(4, 13)))
    await bench.until(lambda: len(bench.server.acknowledged) == 11)
    assert bench.reached() == 11, "and many of them are noted at once"


async def test_a_subscription_in_which_nothing_flows_any_more_although_it_answers_is_lost(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180, None, 0.5)
    bench.publish()
    other = bench.begin_other(keep_alives=1, canary=0.5)
    for number in range(1, 4):
        bench.server.send(message(number, canaries=1), message(number, canaries=1, subscription=OTHER))
        await asyncio.sleep(0.1)
    number = 4
    while not other.over.is_set():
        bench.server.send(message(number, canaries=1), message(4, subscription=OTHER))
        number += 1
        assert number < 100, bench.publishing.status()
        await asyncio.sleep(0.1)
    assert (other.why, bench.feed.over.is_set()) == (STALLED, False)


async def test_values_prove_the_flow_as_well_as_the_servers_clock(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180, None, 0.5)
    bench.publish()
    bench.server.send(message(1, canaries=1), message(2, canaries=1))
    for number in range(3, 33):
        bench.server.send(message(number, float(number)))
        await asyncio.sleep(0.1)
    assert not bench.feed.over.is_set()


async def test_a_clock_that_stands_still_proves_nothing_and_is_told(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may have no clock of its own: its subscriptions are not made anew for that."""
    hurry(monkeypatch)
    bench = begin(publish=False)
    bench.feed.subscribed = Subscribed(SUBSCRIPTION, INTERVAL, 1, 180, None, 0.5)
    bench.publish()
    bench.server.send(message(1, canaries=1))
    end = time.monotonic() + 20
    while not bench.publishing.unproven(bench.feed):
        assert time.monotonic() < end, bench.publishing.of(bench.feed)
        bench.server.send(message(2))
        await asyncio.sleep(0.1)
    assert not bench.feed.over.is_set()


async def test_how_far_the_servers_clock_is_ahead_is_measured_while_it_runs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_LOOK", 0.05)

    async def ahead() -> Look:
        return Look("Shutdown", time.time_ns() + 3_600 * 10**9, "2026-03-01T10:00:00Z")

    bench = begin(publish=False)
    monkeypatch.setattr(bench.server, "look", ahead)
    bench.publish()
    await bench.until(lambda: bench.publishing.status()["clock_ahead_s"] == pytest.approx(3600, abs=1))
    status = bench.publishing.status()
    assert (status["server_state"], status["server_returns"]) == ("Shutdown", "2026-03-01T10:00:00Z")


# --- the ladder -----------------------------------------------------------------------------------------------------


async def test_in_an_old_session_what_is_kept_is_fetched_in_order_and_nothing_is_transferred(begin: Begin) -> None:
    bench = begin(reached=7, publish=False, kept={8: kept(8, 8.0), 9: kept(9, 9.0)})
    situation = await bench.climb()
    assert bench.rung == RESUMED
    assert bench.outbox.values == [8.0, 9.0]
    assert bench.server.asked == ["republish 8", "republish 9", "republish 10"]
    assert situation.republished == 2
    assert bench.server.most_waiting == 0, "no PublishRequest before the last Republish"


@pytest.mark.parametrize("refusal", ["BadNothingToDo", "BadUserAccessDenied"])
async def test_a_server_that_would_refuse_a_transfer_to_itself_is_not_asked_for_one(begin: Begin, refusal: str) -> None:
    """The .NET stack and node-opcua would; asyncua's client then makes a new subscription: the queues are lost."""
    bench = begin(reached=7, publish=False, kept={8: kept(8, 8.0)})
    bench.server.transfers = (getattr(CODES, refusal), ())
    await bench.climb()
    assert (bench.rung, bench.outbox.values) == (RESUMED, [8.0])


@pytest.mark.parametrize(
    "endless",
    [lambda number: kept(number), lambda number: kept(0), lambda number: kept(8, 8.0), lambda number: kept(3, 3.0)],
    ids=["keeps nothing, says so with an empty message", "empty", "the same message for ever", "another message"],
)
async def test_a_server_that_never_says_that_it_has_no_more_is_not_asked_for_ever(begin: Begin, endless: Any) -> None:
    bench = begin(reached=7, publish=False)
    bench.server.republishes = endless
    await bench.climb()
    assert bench.rung == RESUMED
    assert len(bench.server.asked) <= 2
    assert bench.outbox.values in ([], [8.0])


async def test_a_server_that_makes_up_messages_is_stopped_by_a_bound(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MOST_REPUBLISHED", 50)
    bench = begin(reached=7, publish=False)
    bench.server.republishes = lambda number: kept(number, float(number))
    await bench.climb()
    assert (bench.rung, len(bench.outbox.values)) == (RENEWED, 50)


@pytest.mark.parametrize("code", [CODES.BadServiceUnsupported, CODES.BadInternalError, CODES.BadUserAccessDenied])
async def test_a_server_without_republish_is_published_from_and_what_is_missing_shows_in_the_numbers(
    begin: Begin, code: int
) -> None:
    bench = begin(message(10, 10.0), reached=7, publish=False)
    bench.server.republishes = lambda number: code
    await bench.climb()
    bench.publish()
    await bench.until(lambda: bench.outbox.values == [10.0])
    await bench.until(lambda: bench.told() == [(8, 9)])
    assert bench.rung == RESUMED


async def test_a_subscription_that_has_gone_is_made_anew_in_the_old_session(begin: Begin) -> None:
    bench = begin(reached=7, publish=False)
    bench.server.republishes = lambda number: CODES.BadSubscriptionIdInvalid
    situation = await bench.climb()
    assert bench.rung == RENEWED
    assert bench.server.asked == ["republish 8", "unsubscribe 77", "subscribe"]
    assert situation.feed is not None
    assert situation.feed.subscribed.id == SUBSCRIPTION + 1


async def test_a_session_that_ends_meanwhile_is_no_answer_about_the_message(begin: Begin) -> None:
    bench = begin(reached=7, publish=False)
    bench.server.republishes = lambda number: CODES.BadSessionIdInvalid
    with pytest.raises(UaStatusCodeError):
        await bench.climb()


async def test_into_a_new_session_the_subscription_is_transferred_and_what_is_available_fetched(begin: Begin) -> None:
    bench = begin(reached=7, publish=False, kept={9: kept(9, 9.0), 10: kept(10, 10.0)})
    bench.server.transfers = (0, (6, 7, 9, 10))
    await bench.climb(resumed=False)
    assert bench.rung == TRANSFERRED
    assert bench.server.asked == ["transfer 77", "republish 9", "republish 10"]
    bench.server.answers = [message(11, 11.0, available=[6, 7, 9, 10, 11])]
    bench.publish()
    await bench.until(lambda: bench.outbox.values == [9.0, 10.0, 11.0])
    await bench.until(lambda: bench.told() == [(8, 8)])
    await bench.until(lambda: {6, 7, 9, 10, 11} <= {number for _, number in bench.server.acknowledged})


REFUSALS = ["BadSubscriptionIdInvalid", "BadNothingToDo", "BadUserAccessDenied", "BadServiceUnsupported"]


@pytest.mark.parametrize("fault", [False, True], ids=["result", "fault"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_transfer_leads_to_a_new_subscription(begin: Begin, refusal: str, fault: bool) -> None:
    bench = begin(reached=7, publish=False)
    code = getattr(CODES, refusal)
    bench.server.transfers = code if fault else (code, ())
    situation = await bench.climb(resumed=False)
    assert bench.rung == RENEWED
    assert bench.server.asked == ["transfer 77", "subscribe"]
    assert situation.refusals == [f"not transferred: {refusal}"]


@pytest.mark.parametrize("resumed", [False, True])
async def test_nothing_is_believed_of_a_server_that_was_restarted(begin: Begin, resumed: bool) -> None:
    """Ids are given out anew, and what has ours may be somebody else's."""
    bench = begin(reached=7, publish=False, kept={8: kept(8, 666.0)})
    bench.server.transfers = (0, (8,))
    await bench.climb(resumed=resumed, restarted=True)
    assert (bench.rung, bench.outbox.values) == (RENEWED, [])
    assert "transfer 77" not in bench.server.asked


async def test_what_waited_for_others_when_the_line_was_lost_comes_again_and_only_once(begin: Begin) -> None:
    bench = begin(message(1, 1.0), message(3, 3.0))
    bench.server.republishes = lambda number: NOT_AVAILABLE
    bench.outbox.hold()
    await bench.until(lambda: bench.feed.waiting == 1)
    await bench.close()
    bench.outbox.commit()
    bench.server.republishes = lambda number: bench.server.kept.get(number, NOT_AVAILABLE)
    bench.server.kept.update({2: kept(2, 2.0), 3: kept(3, 3.0)})
    await bench.climb()
    assert bench.outbox.values == [1.0, 2.0, 3.0]
    assert not bench.told()


async def test_what_was_received_and_not_committed_is_not_fetched_twice(begin: Begin) -> None:
    """The disk is slow, the line is lost meanwhile: what is on its way to the disk is neither asked for nor lost."""
    bench = begin(message(1, 1.0), message(2, 2.0))
    bench.outbox.hold()
    await bench.until(lambda: not bench.server.answers and bench.feed.expected == 3)
    await bench.close()
    bench.server.kept.update({1: kept(1, 1.0), 2: kept(2, 2.0), 3: kept(3, 3.0)})
    climbing = asyncio.create_task(bench.climb())
    await bench.until(lambda: "republish 4" in bench.server.asked)
    bench.outbox.commit()
    await climbing
    assert bench.outbox.values == [1.0, 2.0, 3.0]
    bench.publish()
    await bench.until(lambda: len(bench.server.acknowledged) == 3)


def test_how_far_it_came_survives_as_a_position() -> None:
    assert load_sequence(Reached(77, LAST).dump()) == Reached(77, LAST)
    assert load_sequence(None) is None
    assert load_sequence(b"\xff rubbish") is None
