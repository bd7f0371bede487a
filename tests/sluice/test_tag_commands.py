"""What the commands to all collectors have in common: times, patterns of tags, a request that goes on after a kill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sluice import tag_commands
from sluice.command import Call, CommandError
from sluice.config import load_entries
from sluice.tag_commands import Backfill, TagCommands, matching

SECOND = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parsed(**arguments: Any) -> Backfill:
    loaded = load_entries(Backfill, {"a": arguments}, ())
    assert loaded.problems == []
    found: Backfill = loaded.entries["a"]
    return found


# --- times ---


@given(
    st.datetimes(datetime(1975, 1, 1), datetime(2090, 1, 1)), st.integers(-12 * 60, 12 * 60), st.integers(0, 10**9 - 1)
)
def test_a_time_may_be_written_with_any_zone_and_to_the_nanosecond(at: datetime, zone: int, nanoseconds: int) -> None:
    at = at.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=zone)))
    exact = (at - EPOCH) // timedelta(seconds=1) * SECOND + nanoseconds
    whole, offset = at.isoformat()[:19], at.isoformat()[19:]
    found = parsed(**{"connection": "line1", "from": f"{whole}.{nanoseconds:09}{offset}", "to": exact + 1})
    assert (found.first, found.to) == (exact, exact + 1)


def test_a_time_without_seconds_and_with_a_blank_is_taken_too() -> None:
    found = parsed(**{"connection": "line1", "from": "2026-03-01 10:00Z", "to": "2026-03-01T10:00:01+0000"})
    assert found.to - found.first == SECOND


# --- patterns ---


def test_patterns_name_tags_once_and_in_their_order() -> None:
    tags = dict.fromkeys(["Unit1/Temp", "Unit1/Level", "Unit2/Temp", "odd[1]"])
    assert matching(["*/Temp", "Unit1/*"], tags, "line1") == ["Unit1/Temp", "Unit1/Level", "Unit2/Temp"]
    assert matching(["odd[1]"], tags, "line1") == ["odd[1]"]
    with pytest.raises(CommandError, match="configure its tags first"):
        matching(["*"], {}, "line1")


def test_names_with_brackets_are_names_where_there_are_such_tags() -> None:
    tags = dict.fromkeys(f"DB[{number}].Temp" for number in range(300))
    assert matching(list(tags), tags, "line1") == list(tags)


@pytest.mark.parametrize(
    "pattern", ["Plant/Line1/Machine123456/Temperatur", "e" * 250 + "zzz", "*e" * 50 + "z", "*[a-z]" * 40 + "9z"]
)
def test_looking_for_tags_does_not_hold_up_the_collector(pattern: str) -> None:
    tags = dict.fromkeys([f"Plant/Line{n % 50}/Machine{n}/Temperature" for n in range(5_000)])
    tags |= dict.fromkeys(["e" * 250 + str(n) for n in range(5_000)])
    began = time.process_time()
    with pytest.raises(CommandError, match="names no tag"):
        matching([pattern], tags, "line1")
    assert time.process_time() - began < 0.7


def test_the_tag_that_was_meant_is_named_among_thousands() -> None:
    tags = dict.fromkeys(f"Plant/Line{n % 50}/Machine{n}/Temperature" for n in range(5_000))
    with pytest.raises(CommandError, match="did you mean Plant/Line41/Machine4041/Temperature"):
        matching(["Plant/Line41/Machine4041/Temprature"], tags, "line1")


# --- a range of the past ---


class Range:
    """A request of three tags; as many are done as `done` says."""

    tags = 3
    left_out = 0

    def __init__(self, done: int = 0) -> None:
        self.why: dict[str, str] = {}
        self.done = done

    @property
    def over(self) -> bool:
        return self.done == self.tags

    @property
    def progress(self) -> float:
        return self.done / self.tags

    def result(self) -> dict[str, Any]:
        return {"tags_done": self.done}


class Line:
    """A connection that knows `tags`, and the requests of an earlier run."""

    asked = False

    def __init__(self, tags: Sequence[str], known: Mapping[str, Range]) -> None:
        self.tags = dict.fromkeys(tags)
        self.known = dict(known)

    def asked_for(self, identity: str) -> Range | None:
        return self.known.get(identity)

    def request(self, identity: str, first: int, until: int, tags: Collection[str]) -> Range:
        return self.known.setdefault(identity, Range())

    async def settled(self) -> None: ...


class Commands(TagCommands[Line]):
    def check_past(self, name: str, connection: Line, tags: Sequence[str]) -> None: ...


HOUR: dict[str, Any] = {"connection": "line1", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T11:00:00Z"}


async def test_a_command_goes_on_after_a_restart_though_its_tags_are_not_known_again_yet() -> None:
    line = Line([], {"1": Range(done=3)})
    backfill = Commands(lambda: {"line1": line}, lambda: None).all()[0]
    assert await backfill.run(Call("1", parsed(**HOUR), lambda fraction, result: None)) == {"tags_done": 3}


async def test_a_connection_that_began_anew_is_asked_for_its_present_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_commands, "_LOOK", 0.001)
    line = Line(["A", "B", "C"], {})
    backfill = Commands(lambda: {"line1": line}, lambda: None).all()[0]
    running = asyncio.ensure_future(backfill.run(Call("1", parsed(**HOUR), lambda fraction, result: None)))
    await asyncio.sleep(0)
    assert "1" in line.known
    line.known["1"] = Range(done=3)
    assert await running == {"tags_done": 3}
