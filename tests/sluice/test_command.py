"""The rules of commands: what is refused and why, what runs, and that nothing runs twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import Field

from sluice.command import (
    KEPT_RESULT,
    MOST_RUNNING,
    MOST_WAITING,
    REMEMBERED,
    Call,
    Channel,
    Command,
    CommandError,
    NoArguments,
    Origin,
    Reply,
    State,
    Step,
    encode,
)
from sluice.config import Settings


class Range(Settings):
    connection: Annotated[str, Field(examples=["line1"])]
    hours: Annotated[int, Field(ge=1, le=24)] = 1


async def unused(call: Call[Any]) -> Mapping[str, Any]:
    raise AssertionError("the channel only says what runs")


def nowhere(wanted: Range) -> None:
    if wanted.connection == "nowhere":
        raise CommandError("nowhere is no connection", "use one of: line1")


COMMANDS: dict[str, Command[Any]] = {
    "status": Command("status", NoArguments, unused, reads=True),
    "backfill": Command("backfill", Range, unused, check=nowhere, resumable=True),
    "forget": Command("forget", NoArguments, unused),
}


def channel() -> Channel:
    made = Channel("collector")
    made.commands = COMMANDS
    made.allowed = frozenset({"status", "backfill"})
    return made


def request(command: Any = "backfill", identity: Any = "1", **more: Any) -> bytes:
    arguments = {"arguments": {"connection": "line1"}} if command == "backfill" else {}
    return orjson.dumps({"v": 1, "kind": "command", "id": identity, "command": command} | arguments | more)


def only(step: Step) -> Reply:
    [(_, reply)] = step.replies
    return reply


# --- what is refused ---


@pytest.mark.parametrize(
    "payload",
    [b"", b"no", b"[]", b"{}", b'{"id": 5}', request(identity=""), request(identity="x" * 129), request(identity="\n")],
)
def test_what_has_no_id_is_counted_and_cannot_be_answered(payload: bytes) -> None:
    one = channel()
    step = one.take(payload, Origin.LOCAL)
    assert (step.replies, one.counters["malformed"], one.due()) == ([], 1, [])


def test_a_message_that_is_too_large_to_be_a_command_is_not_even_read() -> None:
    one = channel()
    assert one.take(request(note="x" * 70_000), Origin.LOCAL).replies == []
    assert one.counters["malformed"] == 1


@pytest.mark.parametrize(
    ("payload", "problem", "remedy"),
    [
        (request(v=2), "it is no command of version 1", 'write {"v": 1, "kind": "command"'),
        (request(kind="reply"), "it is no command of version 1", 'write {"v": 1, "kind": "command"'),
        (request("bakfill"), "bakfill is no command of collector", "backfill, forget, status; did you mean backfill?"),
        (request(None), "null is no command of collector", "use one of: backfill, forget, status"),
        (request(arguments=[]), "arguments is not a map of arguments", 'write "arguments": {"name": value, …}'),
        (request(arguments={}), "arguments.connection is required", "mend the arguments and send it again"),
        (request(arguments={"connection": "nowhere"}), "nowhere is no connection", "use one of: line1"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_what_would_be_right(payload: bytes, problem: str, remedy: str) -> None:
    one = channel()
    reply = only(one.take(payload, Origin.LOCAL))
    assert reply.state is State.REFUSED
    assert problem in reply.problem
    assert remedy in reply.remedy
    assert one.due() == []


@pytest.mark.parametrize("deep", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900], ids=["lists", "maps"])
@pytest.mark.parametrize(
    "text", ['"command":"backfill","arguments":{"connection":DEEP}', '"command":DEEP', '"command":"x","arguments":DEEP']
)
def test_what_is_nested_without_end_is_refused_like_any_other(text: str, deep: str) -> None:
    payload = '{"v":1,"kind":"command","id":"1",' + text.replace("DEEP", deep) + "}"
    reply = only(channel().take(payload.encode(), Origin.CLOUD))
    assert reply.state is State.REFUSED
    assert len(reply.problem) < 500


def test_everything_that_is_wrong_with_the_arguments_is_told_at_once() -> None:
    reply = only(channel().take(request(arguments={"conection": "line1", "hours": 48}), Origin.LOCAL))
    assert [str(problem) for problem in reply.problems] == [
        "arguments.conection is an unknown argument: did you mean connection?",
        "arguments.connection is required: add it, for example line1",
        "arguments.hours = 48 is too large: use 24 or less",
    ]
    assert reply.problem.startswith("3 problems, first of all arguments.conection")


def test_the_cloud_may_only_what_is_allowed_and_is_told_where_to_allow_it() -> None:
    one = channel()
    reply = only(one.take(request("forget"), Origin.CLOUD))
    assert (reply.state, reply.problem) == (State.REFUSED, "forget is not allowed from the cloud")
    assert "cloudCommands: [backfill, forget, status]" in reply.remedy
    assert only(one.take(request("forget"), Origin.LOCAL)).state is State.ACCEPTED
    one.allowed = frozenset({"forget"})
    assert only(one.take(request("forget", "2"), Origin.CLOUD)).state is State.ACCEPTED
    one.allowed = frozenset()
    assert only(one.take(request("status", "3"), Origin.CLOUD)).state is State.REFUSED


def test_the_cloud_does_not_hear_of_a_local_command_by_its_id() -> None:
    one = channel()
    one.take(request("forget"), Origin.LOCAL)
    assert only(one.take(request("forget"), Origin.CLOUD)).state is State.REFUSED
    assert only(one.take(request("status"), Origin.CLOUD)).problem == "the id was used for forget already"


def test_what_was_refused_may_be_sent_again_under_its_id() -> None:
    one = channel()
    assert only(one.take(request("backfill", arguments={}), Origin.LOCAL)).state is State.REFUSED
    assert only(one.take(request("backfill"), Origin.LOCAL)).state is State.ACCEPTED


# --- what runs ---


def test_few_run_at_once_others_wait_in_order_and_more_are_refused() -> None:
    one = channel()
    for number in range(MOST_RUNNING):
        one.take(request(identity=f"r{number}"), Origin.LOCAL)
        assert [entry.id for entry, _ in one.due()] == [f"r{number}"]
    for number in range(MOST_WAITING):
        assert only(one.take(request(identity=f"w{number}"), Origin.LOCAL)).state is State.ACCEPTED
        assert one.due() == []
    refused = only(one.take(request(identity="more"), Origin.LOCAL))
    assert refused.problem == "16 commands wait for their turn already"
    one.done("r1", {})
    assert [entry.id for entry, _ in one.due()] == ["w0"]
    assert only(one.take(request(identity="more"), Origin.LOCAL)).state is State.ACCEPTED


def test_a_repeated_id_is_answered_as_things_are_and_runs_once() -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    assert only(one.take(request(), Origin.LOCAL)).state is State.ACCEPTED
    assert len(one.due()) == 1
    assert only(one.take(request(), Origin.LOCAL)).state is State.WORKING
    one.progressed("1", 0.5, {"values": 7}, 0.0)
    again = only(one.take(request(), Origin.LOCAL))
    assert (again.state, again.progress, again.result) == (State.WORKING, 0.5, {"values": 7})
    one.done("1", {"values": 9})
    again = only(one.take(request(), Origin.LOCAL))
    assert (again.state, again.progress, again.result) == (State.DONE, 1.0, {"values": 9})
    assert one.due() == []


def test_everybody_who_asked_hears_how_it_goes() -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    one.take(request(), Origin.CLOUD)
    one.due()
    assert [origin for origin, _ in one.done("1", {}).replies] == [Origin.LOCAL, Origin.CLOUD]


def test_progress_is_told_once_a_second_and_never_goes_back() -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    one.due()
    told = [one.progressed("1", fraction, {}, now) for fraction, now in ((0.2, 0.0), (0.4, 0.9), (0.3, 1.0), (7, 2.1))]
    assert [[reply.progress for _, reply in step.replies] for step in told] == [[0.2], [], [0.4], [1.0]]


def test_what_failed_says_why() -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    one.due()
    reply = only(one.failed("1", "the server has no history", "switch it on"))
    assert (reply.state, reply.problem, reply.remedy) == (
        State.FAILED,
        "the server has no history",
        "switch it on",
    )


# --- what survives ---


def restarted(one: Channel) -> Channel:
    fresh = Channel("collector")
    fresh.load(orjson.loads(orjson.dumps(one.dump())))
    fresh.commands = COMMANDS
    fresh.allowed = frozenset({"status", "backfill"})
    return fresh


def test_what_can_go_on_after_a_restart_does_and_the_rest_has_failed() -> None:
    one = channel()
    one.take(request("backfill", "b"), Origin.CLOUD)
    one.take(request("forget", "f"), Origin.LOCAL)
    one.due()
    again = restarted(one)
    assert only(again.take(request("backfill", "b"), Origin.CLOUD)).state is State.WORKING
    step = again.resume()
    assert [(origin, reply.id, reply.state) for origin, reply in step.replies] == [(Origin.LOCAL, "f", State.FAILED)]
    assert only(again.take(request("forget", "f"), Origin.LOCAL)).problem == (
        "the component was restarted before it was done"
    )
    [(entry, _)] = again.due()
    assert (entry.id, again.arguments(entry)) == ("b", Range(connection="line1"))
    assert only(again.take(request("backfill", "b"), Origin.CLOUD)).state is State.WORKING
    assert [origin for origin, _ in again.done("b", {"values": 3}).replies] == [Origin.CLOUD]
    assert only(restarted(again).take(request("backfill", "b"), Origin.CLOUD)).result == {"values": 3}


def test_a_command_whose_arguments_a_newer_version_does_not_take_has_failed() -> None:
    one = channel()
    one.take(request("backfill", "b"), Origin.LOCAL)
    dumped = one.dump()
    dumped["commands"][0]["arguments"] = {"conection": "line1"}
    again = Channel("collector")
    again.load(dumped)
    again.commands = COMMANDS
    assert only(again.resume()).state is State.FAILED
    assert again.due() == []


def test_the_last_256_commands_are_remembered_and_those_that_run_always() -> None:
    one = channel()
    one.take(request(identity="long"), Origin.LOCAL)
    one.due()
    for number in range(REMEMBERED + 50):
        one.take(request("status", f"s{number}"), Origin.LOCAL)
        for entry, _ in one.due():
            one.done(entry.id, {})
    assert len(one.dump()["commands"]) == REMEMBERED
    assert only(one.take(request(identity="long"), Origin.LOCAL)).state is State.WORKING


def test_looking_at_the_status_makes_no_other_command_forgotten() -> None:
    one = channel()
    one.take(request("forget", "once"), Origin.LOCAL)
    one.due()
    one.done("once", {})
    for number in range(REMEMBERED + 50):
        one.take(request("status", f"s{number}"), Origin.LOCAL)
        for entry, _ in one.due():
            one.done(entry.id, {})
    assert only(one.take(request("forget", "once"), Origin.LOCAL)).state is State.DONE
    assert one.due() == []


def test_arguments_are_not_kept_longer_than_they_are_needed() -> None:
    one = channel()
    one.take(request(arguments={"connection": "x" * 50_000}), Origin.LOCAL)
    [(entry, _)] = one.due()
    one.done("1", {})
    assert entry.arguments == {}


def test_memory_stays_small_whatever_the_results_are() -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    one.due()
    long = {"list": [{"text": "x" * 100} for _ in range(5_000)]}
    told = only(one.done("1", long))
    assert told.result == long
    assert len(orjson.dumps(one.dump())) < KEPT_RESULT + 500
    assert only(one.take(request(), Origin.LOCAL)).result is not None


def test_a_command_that_only_reads_costs_no_write_to_disk() -> None:
    one = channel()
    assert not one.take(request("status"), Origin.LOCAL).note
    one.due()
    assert not one.done("1", {}).note
    assert one.take(request("forget", "2"), Origin.LOCAL).note
    one.due()
    assert one.done("2", {}).note


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_memory_that_makes_no_sense_is_refused_as_a_whole(content: Any) -> None:
    one = channel()
    one.take(request(), Origin.LOCAL)
    with pytest.raises(ValueError, match=r"memory|cannot be read"):
        one.load({"v": 1, "commands": [content]} if content != [] else {"v": 2})
    assert only(one.take(request(), Origin.LOCAL)).state is State.ACCEPTED


# --- answers ---


def test_an_answer_says_everything_that_is_known() -> None:
    reply = Reply("7", "backfill", State.WORKING, 0.25, {"values": 3})
    assert orjson.loads(encode("opcua-collector", reply, 1_700_000_000, 7_000)) == {
        "v": 1,
        "kind": "reply",
        "id": "7",
        "component": "opcua-collector",
        "command": "backfill",
        "state": "working",
        "progress": 0.25,
        "result": {"values": 3},
        "time": "2023-11-14T22:13:20Z",
    }


@given(
    st.dictionaries(
        st.text(max_size=20), st.lists(st.text(max_size=50), max_size=200) | st.integers(0, 9), max_size=30
    ),
    st.text(max_size=2_000),
    st.integers(4_500, 120_000),
)
def test_an_answer_always_fits_its_message(result: dict[str, Any], problem: str, room: int) -> None:
    reply = Reply("7", "status", State.FAILED, None, result, problem, problem)
    payload = encode("opcua-collector", reply, 0.0, room)
    assert len(payload) <= room
    assert orjson.loads(payload)["id"] == "7"


def test_a_refusal_with_many_problems_fits_too() -> None:
    many = {f"argument-{number}": "x" for number in range(500)}
    reply = only(channel().take(request(arguments=many), Origin.LOCAL))
    payload = orjson.loads(encode("collector", reply, 0.0, 2_000))
    assert payload["problem"].startswith("501 problems")
    assert 0 < len(payload["problems"]) < 20


# --- whatever comes, in whatever order ---


class Machine(RuleBasedStateMachine):
    """Messages, ends, restarts in any order: nothing runs twice at a time, or again after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = channel()
        self.noted = self.channel.dump()
        self.running: list[str] = []
        self.ended: set[str] = set()

    def _after(self, step: Step) -> None:
        if step.note:
            self.noted = self.channel.dump()
        for entry, _ in self.channel.due():
            assert entry.id not in self.running
            assert entry.id not in self.ended
            self.running.append(entry.id)

    @rule(
        command=st.sampled_from(["status", "backfill", "forget", "none"]),
        number=st.integers(0, 30),
        origin=st.sampled_from(Origin),
    )
    def asked(self, command: str, number: int, origin: Origin) -> None:
        self._after(self.channel.take(request(command, f"{command}{number}"), origin))

    @rule(data=st.binary(max_size=50))
    def noise(self, data: bytes) -> None:
        self._after(self.channel.take(data, Origin.LOCAL))

    @rule(place=st.integers(0, 3), well=st.booleans())
    def ends(self, place: int, well: bool) -> None:
        if place < len(self.running):
            identity = self.running.pop(place)
            self.ended.add(identity)
            step = self.channel.done(identity, {}) if well else self.channel.failed(identity, "no", "yes")
            self._after(step)

    @rule(place=st.integers(0, 3), fraction=st.floats(0, 1), now=st.floats(0, 1e6))
    def goes_on(self, place: int, fraction: float, now: float) -> None:
        if place < len(self.running):
            self.channel.progressed(self.running[place], fraction, {}, now)

    @rule()
    def is_killed_and_starts_anew(self) -> None:
        """What was noted survives; commands that only read may have been forgotten, and may run again."""
        self.channel = Channel("collector")
        self.channel.load(orjson.loads(orjson.dumps(self.noted)))
        self.channel.commands = COMMANDS
        self.channel.allowed = frozenset({"status", "backfill"})
        self.running = []
        self.ended = {identity for identity in self.ended if not identity.startswith("status")}
        self._after(self.channel.resume())

    @rule()
    def its_component_starts_anew(self) -> None:
        for identity in self.running:
            self.channel.interrupted(identity)
        self.running = []
        self._after(self.channel.resume())

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.running) <= MOST_RUNNING
        assert len(self.channel.dump()["commands"]) <= REMEMBERED


TestMachine = Machine.TestCase
