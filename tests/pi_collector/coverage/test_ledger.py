"""Each gap is told when it is opened and when it is closed; opened = filled + abandoned + open, whatever happens."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pi_collector.coverage.ledger import MOST, MOST_UNTOLD, Ledger

from .archives import SECOND, handles

DAY = 86400 * SECOND


def name(handle: int) -> str:
    return f"Unit1.Tag-{handle:05}"


def opened(ledger: Ledger, *streams: int, cause: str = "cut", first: int = SECOND) -> int:
    return ledger.open(handles(*streams), cause, first=first)


def test_a_gap_is_told_when_it_is_opened_and_when_its_last_stream_has_left() -> None:
    ledger = Ledger("abc123")
    gap = ledger.open(
        handles(1, 2), "the server closed the channel", first=SECOND, remedy="see its log", unrecoverable=True
    )
    (told,) = ledger.events(7, name)
    assert told == {
        "kind": "gap",
        "state": "opened",
        "id": "abc123-1",
        "time_ns": 7,
        "cause": "the server closed the channel",
        "remedy": "see its log",
        "from_ns": SECOND,
        "streams": 2,
        "tags": [name(1), name(2)],
        "unrecoverable": told["unrecoverable"],
    }
    assert "snapshot" in told["unrecoverable"]
    ledger.ends(gap, 9 * SECOND)
    ledger.recovered(gap, 40)
    ledger.leave(gap, 1)
    assert ledger.events(8, name) == []
    ledger.recovered(gap, 2)
    ledger.leave(gap, 1)
    (told,) = ledger.events(9, name)
    assert (told["state"], told["id"], told["to_ns"], told["recovered"]) == ("filled", "abc123-1", 9 * SECOND, 42)
    assert ledger.events(10, name) == []
    assert ledger.counts() == {"opened": 1, "filled": 1, "abandoned": 0, "open": 0}


def test_a_gap_with_a_stream_that_was_given_up_is_abandoned_with_both_counts() -> None:
    ledger = Ledger()
    gap = opened(ledger, 1, 2, 3)
    ledger.give_up(gap, 1, "not collected any more")
    ledger.leave(gap, 2)
    told = ledger.events(1, name)[-1]
    assert (told["state"], told["streams"], told["given_up"]) == ("abandoned", 3, 1)
    assert told["why"] == "not collected any more"


def test_what_is_older_than_what_is_read_is_a_gap_of_its_own() -> None:
    ledger = Ledger()
    ledger.given_up_part(handles(4), SECOND, DAY)
    states = [(event["state"], event["from_ns"], event["to_ns"]) for event in ledger.events(1, name)]
    assert states == [("opened", SECOND, DAY), ("abandoned", SECOND, DAY)]
    assert ledger.counts() == {"opened": 1, "filled": 0, "abandoned": 1, "open": 0}


def test_streams_that_are_lost_together_are_in_one_gap_and_after_it_was_told_in_another() -> None:
    ledger = Ledger()
    assert opened(ledger, 1) == opened(ledger, 2)
    assert opened(ledger, 3, cause="silence") not in (opened(ledger, 4), -1)
    ledger.events(1, name)
    assert opened(ledger, 5) > 2


def test_all_streams_of_the_connection_are_told_without_their_names() -> None:
    ledger = Ledger()
    ledger.streams = 2
    opened(ledger, 1, 2)
    (told,) = ledger.events(1, name)
    assert told["all"] is True
    assert "tags" not in told


def test_many_tags_are_told_in_parts_that_are_small() -> None:
    ledger = Ledger()
    opened(ledger, *range(10_000), cause="x" * 5000)
    told = ledger.events(1, name)
    assert all(len(orjson.dumps(event)) < 2500 for event in told)
    named = sum(len(event["tags"]) for event in told)
    assert named + told[-1].get("tags_left_out", 0) == 10_000
    assert [event["part"] for event in told] == list(range(1, len(told) + 1))
    assert {event["id"] for event in told} == {told[0]["id"]}


def test_a_tag_with_a_long_name_is_a_part_of_its_own() -> None:
    ledger = Ledger()
    opened(ledger, 1, 2, 3)
    told = ledger.events(1, lambda handle: f"{handle}" + "ä" * 500)
    assert [len(event["tags"]) for event in told] == [1, 1, 1]


def test_beyond_its_bound_the_newest_gap_takes_what_comes_and_says_so() -> None:
    ledger = Ledger()
    for number in range(MOST):
        opened(ledger, number, cause=f"cause {number}")
    ledger.events(1, name)
    assert opened(ledger, 1000, cause="one more") == MOST
    (told,) = ledger.events(2, name)
    assert (told["state"], told["other_causes"], told["streams"]) == ("widened", 1, 2)
    assert ledger.counts() == {"opened": MOST, "filled": 0, "abandoned": 0, "open": MOST}


def test_closed_gaps_that_nobody_is_told_of_are_bounded_and_counted() -> None:
    ledger = Ledger()
    for number in range(MOST_UNTOLD + 10):
        ledger.leave(opened(ledger, number, cause=f"cause {number}"), 1)
    assert ledger.untold == 10
    assert ledger.counts()["filled"] == MOST_UNTOLD + 10
    assert len(ledger.events(1, name)) == 2 * MOST_UNTOLD


def test_ids_are_unique_over_restarts_and_over_a_state_that_was_lost() -> None:
    ledger = Ledger()
    first = opened(ledger, 1)
    (event,) = ledger.events(1, name)
    again = Ledger()
    again.load(ledger.dump(whole=True))
    again.settle({first: 1})
    opened(again, 2)
    (other,) = again.events(2, name)
    anew = Ledger()
    opened(anew, 1)
    (third,) = anew.events(3, name)
    assert len({event["id"], other["id"], third["id"]}) == 3


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"prefix": "x"}', b'{"prefix":1,"next":"?","counts":[]}'])
def test_a_damaged_record_raises_what_its_reader_expects(damage: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Ledger().load({"ledger": damage})


class Books(RuleBasedStateMachine):
    """Gaps are opened, left, given up, told, kept and loaded in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger("abc123")
        self.inside: dict[int, int] = {}  # stream -> gap
        self.notes: list[dict[str, bytes]] = []
        self.told: dict[str, list[str]] = defaultdict(list)
        self.tags: dict[str, set[str]] = defaultdict(set)

    @rule(streams=st.sets(st.integers(0, 200), min_size=1, max_size=5), cause=st.sampled_from(["a", "b", "c"]))
    def open(self, streams: set[int], cause: str) -> None:
        free = sorted(streams - set(self.inside))
        if free:
            gap = opened(self.ledger, *free, cause=cause)
            self.inside.update(dict.fromkeys(free, gap))

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), given_up=st.booleans())
    def less(self, data: Any, given_up: bool) -> None:
        stream = data.draw(st.sampled_from(sorted(self.inside)))
        gap = self.inside.pop(stream)
        if given_up:
            self.ledger.give_up(gap, 1, "removed")
        else:
            self.ledger.leave(gap, 1)

    @rule(streams=st.sets(st.integers(0, 200), min_size=1, max_size=5))
    def too_old(self, streams: set[int]) -> None:
        self.ledger.given_up_part(handles(*streams), SECOND, 2 * SECOND)

    @rule()
    def tell(self) -> None:
        for event in self.ledger.events(1, name):
            self.told[event["id"]].append(event["state"])
            self.tags[event["id"]].update(event["tags"])

    @rule()
    def keep(self) -> None:
        if sections := self.ledger.dump(whole=not self.notes):
            self.notes.append(sections)

    @rule()
    def restart(self) -> None:
        self.keep()
        ledger = Ledger("other")
        for sections in self.notes:
            ledger.load(sections)
        inside: dict[int, int] = defaultdict(int)
        for gap in self.inside.values():
            inside[gap] += 1
        ledger.settle(inside)
        assert ledger.counts() == self.ledger.counts()
        self.ledger = ledger

    @invariant()
    def the_books_balance(self) -> None:
        counts = self.ledger.counts()
        assert counts["opened"] == counts["filled"] + counts["abandoned"] + counts["open"]
        assert counts["open"] == len(set(self.inside.values()))

    def teardown(self) -> None:
        for gap in self.inside.values():
            self.ledger.leave(gap, 1)
        self.inside.clear()
        self.tell()
        self.tell()
        for identity, states in self.told.items():
            assert [s for s in states if s != "widened"] in (["opened", "filled"], ["opened", "abandoned"]), identity
        assert len(self.told) + self.ledger.untold == self.ledger.opened
        assert self.ledger.counts()["open"] == 0


TestBooks = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(Books.TestCase)
