"""What `backfill` and `forget` take, refuse and say; what they do is proved in test_backfill and test_collector."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from opcua_collector import explain
from opcua_collector.commands import Commands
from opcua_collector.config import Configuration, Tag
from opcua_collector.config import Connection as Settings
from opcua_collector.history.requested import Request
from sluice.command import Call, Channel, CommandError, Origin, Reply, State
from sluice.config import load_entries
from sluice.status import Connection as State_
from sluice.tag_commands import Backfill, Forget

SECOND = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Line:
    """A connection whose history is known; `left_out` says why nothing of a range could be read."""

    def __init__(self, history: dict[str, str | None], left_out: str = "") -> None:
        self.tags = dict.fromkeys(history)
        self.asked = False
        self.requests: dict[str, Request] = {}
        self._history = history
        self._left_out = left_out

    def history(self, tag: str) -> str | None:
        return self._history[tag]

    def asked_for(self, identity: str) -> Request | None:
        return self.requests.get(identity)

    def request(self, identity: str, first: int, until: int, tags: list[str]) -> Request:
        if identity not in self.requests:
            self.requests[identity] = Request(identity, first, until, len(tags), dict.fromkeys(tags, first - 1))
            if self._left_out:
                self.requests[identity].left_out = len(tags)
                self.requests[identity].why = dict.fromkeys(tags, self._left_out)
                self.requests[identity].at = {}
        return self.requests[identity]

    async def settled(self) -> None: ...


class Outlets:
    """An outbox that keeps data for `viewer` and, because it is configured, for `stream-exporter`."""

    def forget(self, consumer: str) -> int:
        if consumer == "stream-exporter":
            raise ValueError("is named under outbox.consumers: take it out there first")
        return 17


def channel(**lines: Line) -> tuple[Channel, Commands]:
    commands = Commands(lambda: lines, lambda: Outlets())  # type: ignore[arg-type, return-value]
    made = Channel("opcua-collector")
    made.commands = {command.name: command for command in commands.all()}
    return made, commands


def ask(made: Channel, **arguments: Any) -> Reply:
    body = {"v": 1, "kind": "command", "id": "1", "command": "backfill", "arguments": arguments}
    [(_, reply)] = made.take(orjson.dumps(body), Origin.LOCAL).replies
    return reply


HOUR: dict[str, Any] = {"connection": "line1", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T11:00:00Z"}


def parsed(**arguments: Any) -> Backfill:
    loaded = load_entries(Backfill, {"a": arguments}, ())
    assert loaded.problems == []
    found: Backfill = loaded.entries["a"]
    return found


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


# --- times ---


@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-01", "2026-03-01T10:00:00", "2026-13-01T10:00:00Z", 5, "7"])
def test_a_time_that_is_none_is_refused_with_what_to_write(text: Any) -> None:
    made, _ = channel(line1=Line({"T1": ""}))
    reply = ask(made, **HOUR | {"from": text})
    assert reply.state is State.REFUSED
    assert "arguments.from" in reply.problem
    assert "2026-03-01T10:00:00Z" in reply.problem


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"connection": "line2"}, "arguments.connection = 'line2' is no connection: use one of: line1; did you mean"),
        ({"from": HOUR["to"], "to": HOUR["from"]}, "does not begin before it ends: give from a time before to"),
        ({"from": "2026-01-01T10:00:00Z"}, "is longer than 31d: ask for it in several commands"),
        ({"tags": "Temp"}, "arguments.tags: 'Temp' names no tag of line1: use one of: Tempo"),
        ({"tags": ["Tempo", "X*"]}, "arguments.tags: 'X*' names no tag of line1"),
        ({"tags": []}, "arguments.tags = [] has too few entries: give 1 or more"),
        ({"tags": ["Temp*"] * 101}, "arguments.tags has 101 wildcards, and 100 are the most: name the tags"),
        ({"tags": "x" * 257}, "is too long: use at most 256 characters"),
        ({"connection": "x" * 65}, "is too long: use at most 64 characters"),
        ({"from": "9" * 5000}, "is no time: write it with its time zone"),
        ({"tags": "Dark"}, "the server of line1 has no history of Dark: the server keeps no history of it"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(arguments: dict[str, Any], told: str) -> None:
    made, _ = channel(line1=Line({"Tempo": "", "Dark": "the server keeps no history of it", "New": None}))
    reply = ask(made, **HOUR | arguments)
    assert reply.state is State.REFUSED
    assert told in f"{reply.problem}: {reply.remedy}"
    assert made.due() == []


def test_the_future_cannot_be_read() -> None:
    made, _ = channel(line1=Line({"T1": ""}))
    now = time.time_ns()
    reply = ask(made, **HOUR | {"from": now, "to": now + 3600 * SECOND})
    assert reply.state is State.REFUSED
    assert reply.problem.startswith(f"arguments.to is in the future: it is {datetime.now(timezone.utc):%Y-%m-%dT}")
    assert reply.problem.endswith("Z on this device"), "with a clock that is wrong, this is what shows it"
    assert ask(made, **HOUR | {"from": now - SECOND, "to": now}).state is State.ACCEPTED


def test_a_connection_takes_a_few_ranges_at_a_time() -> None:
    line = Line({"T1": ""})
    line.asked = True
    made, _ = channel(line1=line)
    assert ask(made, **HOUR).problem == "line1 has as many ranges to read as it takes"


@pytest.mark.parametrize("history", ["", None], ids=["known", "not known yet"])
def test_tags_that_may_have_a_history_are_tried(history: str | None) -> None:
    made, _ = channel(line1=Line({"T1": history, "T2": "the server keeps no history of it"}))
    assert ask(made, **HOUR).state is State.ACCEPTED


# --- running ---


def call(arguments: Any, told: list[tuple[float, Any]]) -> Call[Any]:
    return Call("1", arguments, lambda fraction, result: told.append((fraction, result)))


def begun(commands: Commands, told: list[tuple[float, Any]], **arguments: Any) -> Awaitable[Any]:
    return commands.all()[0].run(call(parsed(**arguments), told))


async def test_it_tells_how_far_it_is_and_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.tag_commands._LOOK", 0.001)
    line = Line({"T1": "", "T2": ""})
    _, commands = channel(line1=line)
    told: list[tuple[float, Any]] = []
    running = asyncio.ensure_future(begun(commands, told, **HOUR))
    await until(lambda: told)
    request = line.requests["1"]
    del request.at["T1"]
    request.values = 5
    await until(lambda: told[-1][0] >= 0.5)
    request.at.clear()
    assert await running == {"tags": 2, "tags_done": 2, "values": 5}


async def test_nothing_at_all_is_a_failure_that_says_why() -> None:
    _, commands = channel(line1=Line({"T1": None}, left_out="the server answers BadUserAccessDenied"))
    with pytest.raises(CommandError, match=r"nothing could be read: the server answers BadUserAccessDenied: see that"):
        await begun(commands, [], **HOUR)


async def test_a_connection_that_goes_away_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.tag_commands._LOOK", 0.001)
    lines = {"line1": Line({"T1": ""})}
    commands = Commands(lambda: lines, lambda: None)  # type: ignore[arg-type, return-value]
    running = asyncio.ensure_future(begun(commands, [], **HOUR))
    await asyncio.sleep(0)
    lines.clear()
    with pytest.raises(CommandError, match="the connection line1 was removed"):
        await running


async def test_forgetting_says_how_much_was_kept_and_why_it_is_refused() -> None:
    _, commands = channel()
    forget = commands.all()[1]
    assert await forget.run(call(Forget(consumer="viewer"), [])) == {"batches": 17}
    with pytest.raises(
        CommandError, match=r"'stream-exporter' is named under outbox.consumers: take it out there first"
    ):
        await forget.run(call(Forget(consumer="stream-exporter"), []))


# --- explain, browse, read ------------------------------------------------------------------------------------------


class Shown(Line):
    """A connection that is not connected, with what it says of itself."""

    def __init__(self, history: dict[str, str | None]) -> None:
        super().__init__(history)
        self.live = None
        self.state = State_("waiting")
        self.state.set("waiting", "refuses the connection", "see that the server runs")
        self.settings = Settings.model_validate({"endpoint": "opc.tcp://x:1"})
        self.tags = {tag: Tag.model_validate({"node": "i=1"}) for tag in history}

    def describe(self) -> dict[str, Any]:
        return {**explain.planned("line1", self.settings, self.tags), "state": self.state.as_dict()}  # type: ignore[arg-type]

    def troubles(self, most: int) -> dict[str, str]:
        return {"T1": "does not exist on the server: correct it"}

    def of_tag(self, tag: str) -> dict[str, Any]:
        return {"node": "i=1", "late": False}


def answered(line: Shown, command: str, **arguments: Any) -> Any:
    """What the command gives, or why it was refused or has failed."""
    commands = {one.name: one for one in Commands(lambda: {"line1": line}, lambda: None).all()}  # type: ignore[dict-item]
    loaded = load_entries(commands[command].arguments, {"a": {"connection": "line1", **arguments}}, ())
    assert loaded.problems == [], loaded.problems
    wanted = loaded.entries["a"]
    try:
        commands[command].check(wanted)
        return asyncio.run(commands[command].run(Call("1", wanted, lambda fraction, result: None)))  # type: ignore[arg-type]
    except CommandError as error:
        return str(error)


def test_explain_tells_of_a_connection_whether_it_is_connected_or_not() -> None:
    report = answered(Shown({"T1": "", "T2": "the server keeps no history of it"}), "explain", outage="2h")
    assert report["state"]["state"] == "waiting"
    assert report["groups"]["(connection)"]["outage"]["seconds"] == 7200
    assert report["groups"]["(connection)"]["outage"]["tags_with_history"] == 1
    orjson.dumps(report)


def test_explain_tells_of_one_tag_and_names_the_nearest_when_there_is_none() -> None:
    line = Shown({"Reactor/Temp": "", "Reactor/Level": ""})
    assert answered(line, "explain", tag="Reactor/Temp") == {
        "connection": "line1", "tag": "Reactor/Temp", "node": "i=1", "late": False,
    }  # fmt: skip
    refused = answered(line, "explain", tag="Reactor/Tmep")
    assert refused.startswith("arguments.tag: 'Reactor/Tmep' names no tag of line1: use one of: Reactor/Temp")


@pytest.mark.parametrize(("command", "arguments"), [("browse", {"path": "/Plant"}), ("read", {"tags": ["T1"]})])
def test_what_needs_a_session_is_refused_with_the_reason_while_there_is_none(
    command: str, arguments: dict[str, Any]
) -> None:
    assert answered(Shown({"T1": ""}), command, **arguments) == (
        "line1 is not connected: refuses the connection: see that the server runs"
    )


@pytest.mark.parametrize(
    ("command", "arguments", "place"),
    [
        ("browse", {"depth": 4}, "depth"),
        ("browse", {"most": 501}, "most"),
        ("read", {"tags": ["T"] * 101}, "tags"),
        ("read", {"tags": []}, "tags"),
        ("explain", {"outage": "32d"}, "outage"),
    ],
)
def test_looks_are_bounded(command: str, arguments: dict[str, Any], place: str) -> None:
    commands = {one.name: one for one in Commands(dict, lambda: None).all()}
    loaded = load_entries(commands[command].arguments, {"a": {"connection": "line1", **arguments}}, ())
    assert [problem.path for problem in loaded.problems] == [f"a.{place}"]


def test_looks_change_nothing_and_are_not_allowed_from_the_cloud_by_default() -> None:
    looks = ("explain", "browse", "read")
    commands = {one.name: one for one in Commands(dict, lambda: None).all()}
    assert all(commands[name].reads for name in looks)
    assert not set(looks) & set(Configuration().cloud_commands)
