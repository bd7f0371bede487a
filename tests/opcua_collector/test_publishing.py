"""The ladder and the publish loop against a scripted server: for answers that no server at hand gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest

from opcua_collector import recovery
from opcua_collector.feed import Feed
from opcua_collector.intake import Intake
from opcua_collector.kept import SEQUENCE, Reached, load_sequence
from opcua_collector.publishing import OutboxFullError, Publishing, SubscriptionLostError, outstanding
from opcua_collector.recovery import RENEWED, RESUMED, TRANSFERRED, Situation, climb
from opcua_collector.samples import Rule
from opcua_collector.sequence import LAST, following
from opcua_collector.session import Subscribed
from opcua_collector.stack import UaStatusCodeError, ua
from sluice.batch import Columns, SampleBatch, Series

struct_to_binary: Any = import_module("asyncua.ua.ua_binary").struct_to_binary
SUBSCRIPTION = 77
REQUESTS = 3
CODES = ua.StatusCodes
NOT_AVAILABLE = CODES.BadMessageNotAvailable


def fill(message: Any, number: int, values: Sequence[float], status: int = 0) -> None:
    message.SequenceNumber = number
    items = [ua.MonitoredItemNotification(0, ua.DataValue(ua.Variant(value))) for value in values]
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
) -> bytes:
    """A PublishResponse with these values of handle 0; without values a keep-alive, with a status a status change."""
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = subscription
    response.Parameters.AvailableSequenceNumbers = list(available)
    response.Parameters.Results = [ua.StatusCode(code) for code in results]
    fill(response.Parameters.NotificationMessage, number, values, status)
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

    async def republish(self, subscription: int, number: int) -> tuple[bytes, int]:
        assert subscription == SUBSCRIPTION
        self.asked.append(f"republish {number}")
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
    """A feed of one tag and what serves it."""

    def __init__(self, server: Server, reached: int = 0) -> None:
        self.server, self.outbox = server, Outbox()
        self.intake = Intake("line1", self.outbox, lambda: {0: "T"})
        self.intake.assembler.fix(self.intake.assembler.add(Series("T")), Rule.DOUBLE)
        self.feed = Feed(self.intake, Subscribed(SUBSCRIPTION, 0.01, 500, 1500), reached)
        self.publishing = Publishing(server, self.feed, self.intake, self.outbox, REQUESTS)
        self.tasks: list[asyncio.Task[None]] = []

    def publish(self) -> None:
        self.tasks = [asyncio.create_task(task) for task in self.publishing.tasks()]

    async def climb(self, *, resumed: bool = True, restarted: bool = False) -> Situation:
        """The ladder; `rung` of the answer says how far it had to go."""

        async def renew() -> Feed:
            self.server.asked.append("subscribe")
            return Feed(self.intake, Subscribed(SUBSCRIPTION + 1, 0.01, 500, 1500))

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
    with pytest.raises(SubscriptionLostError):
        await bench.until(lambda: False)


async def test_rubbish_disturbs_nothing_and_a_strangers_subscription_is_ended(begin: Begin) -> None:
    rubbish = message(1, 5.0)[:40]
    bench = begin(rubbish, message(1, 9.0, subscription=5), message(1, 1.0))
    await bench.until(lambda: bench.outbox.values == [1.0])
    assert (bench.intake.traffic.damaged, bench.intake.traffic.foreign) == (1, 1)
    await bench.until(lambda: "unsubscribe 5" in bench.server.asked)


async def test_a_full_outbox_ends_publishing_and_takes_nothing_more(begin: Begin) -> None:
    bench = begin(message(1, 1.0), publish=False)
    bench.outbox.full = True
    bench.publish()
    with pytest.raises(OutboxFullError):
        await bench.until(lambda: False)
    assert len(bench.server.answers) == 1


@pytest.mark.parametrize(
    ("interval", "round_trip", "requests"),
    [(0.5, 0.001, 3), (0.1, 0.001, 4), (0.1, 0.3, 7), (0.05, 0.3, 10), (10.0, 2.0, 3), (0.01, 0.001, 10)],
)
def test_a_long_line_has_more_requests_under_way(interval: float, round_trip: float, requests: int) -> None:
    assert outstanding(interval, round_trip) == requests


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
    assert (bench.rung, len(bench.outbox.values)) == (RESUMED, 50)


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
