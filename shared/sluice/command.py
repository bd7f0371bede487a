"""Commands: what a component can be asked to do, and how it answers. Pure: no bus, no clock, no file.

    sluice/command/<component>            {"v":1,"kind":"command","id":"…","command":"backfill","arguments":{…}}
    sluice/reply/<component>              {"v":1,"kind":"reply","id":"…","component":"…","command":"backfill",
                                           "state":"working","progress":0.4,"result":{…},"time":"…"}

The same from AWS IoT Core on ``sluice/<thing>/command/<component>`` and ``sluice/<thing>/reply/<component>``, for the
commands that `cloudCommands` allows. Who asks makes up the id, and sends the same one again when no answer came:

    id is        state answered    then
    new          refused           nothing has run, and nothing is remembered: the same id may be sent again
    new          accepted          it waits for its turn; noted on disk before it is answered
    running      working           progress from 0 to 1, at most once a second
    ended        done, failed      the same answer again, for the last 256 commands

A command that was accepted never runs twice. When the component ends before the command has, one that is `resumable`
goes on at the next start, under its id; another has failed. One that only `reads` may be asked for every few seconds:
it is noted with the next write, and after a power cut it may run once more, which changes nothing.

Answers are published at most once. One that is too long for a message is cut as a status is.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import orjson

from sluice.config import load_entries
from sluice.problem import Problem, one_of, shown
from sluice.schema import Settings, fields_of
from sluice.status import MAX_TEXT, cut, when

logger = logging.getLogger(__name__)

COMMAND_PREFIX: Final = "sluice/command/"
REPLY_PREFIX: Final = "sluice/reply/"

MOST_RUNNING: Final = 4
MOST_WAITING: Final = 16
REMEMBERED: Final = 256
"""Commands of which the last answer is known."""
LARGEST_REQUEST: Final = 64_000
KEPT_RESULT: Final = 8_000
"""Bytes of a result that are remembered."""
PROGRESS_EVERY: Final = 1.0
_LONGEST_ID: Final = 128
_MOST_PROBLEMS: Final = 20
_VERSION: Final = 1

A = TypeVar("A", bound=Settings)


class Origin(str, Enum):
    """Where a command came from, and where its answers go."""

    LOCAL = "local"
    CLOUD = "cloud"


class State(str, Enum):
    """See the table above."""

    ACCEPTED = "accepted"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


_OVER: Final = frozenset({State.DONE, State.FAILED})


class CommandError(Exception):
    """A command that cannot be carried out: what is wrong, and what mends it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One command that runs. `progress(fraction, result so far)` may be called as often as one likes."""

    id: str
    arguments: A
    progress: Callable[[float, Mapping[str, Any]], None]


class NoArguments(Settings):
    """A command without arguments."""


@dataclass(frozen=True, slots=True)
class Command(Generic[A]):
    """Something that a component can do when it is asked.

    name: as in requests; arguments: their model; run: does it, and returns the result, or raises CommandError;
    check: raises CommandError when it is clear at once that it cannot be done, and then nothing runs;
    reads: it changes nothing; resumable: `run` may be called again with the id of a call that did not come to its end.
    """

    name: str
    arguments: type[A]
    run: Callable[[Call[A]], Awaitable[Mapping[str, Any]]]
    check: Callable[[A], None] = lambda arguments: None
    reads: bool = False
    resumable: bool = False


@dataclass(slots=True)
class Entry:
    """A command that was accepted, and its last answer."""

    id: str
    command: str
    arguments: Mapping[str, Any]
    origins: list[Origin]
    state: State = State.ACCEPTED
    progress: float | None = None
    result: Mapping[str, Any] | None = None
    problem: str = ""
    remedy: str = ""
    interrupted: bool = False
    """It was accepted, has not come to its end, and does not run."""
    told: float = float("-inf")
    """When its progress was told last."""

    @property
    def over(self) -> bool:
        """It has ended."""
        return self.state in _OVER

    def reply(self) -> Reply:
        """Its answer as things are."""
        return Reply(self.id, self.command, self.state, self.progress, self.result, self.problem, self.remedy)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    id: str
    command: str
    state: State
    progress: float | None = None
    result: Mapping[str, Any] | None = None
    problem: str = ""
    remedy: str = ""
    problems: Sequence[Problem] = ()


@dataclass(slots=True)
class Step:
    """What follows from a message or an end: answers, and whether memory must be on disk before they are given."""

    replies: list[tuple[Origin, Reply]] = field(default_factory=list)
    note: bool = False


class Channel:
    """The commands of one component: believes, refuses, remembers. `commands` and `allowed` may change at any time."""

    def __init__(self, component: str) -> None:
        self.component = component
        self.commands: Mapping[str, Command[Any]] = {}
        self.allowed: frozenset[str] = frozenset()
        """Commands that may come from the cloud."""
        self.counters: Counter[str] = Counter()
        self._entries: dict[str, Entry] = {}  # by id, in the order in which they came
        self._waiting: list[str] = []
        self._running: set[str] = set()

    # --- requests ---

    def take(self, payload: bytes, origin: Origin) -> Step:
        """A message on the command topic."""
        self.counters["received"] += 1
        request = _decoded(payload)
        identity = request.get("id") if request is not None else None
        if request is None or not isinstance(identity, str) or not _is_id(identity):
            self.counters["malformed"] += 1
            logger.warning("A message of %d bytes on the command topic is no command and has no id", len(payload))
            return Step()
        name = request.get("command")
        try:
            entry = self._entries.get(identity)
            if entry is not None:
                return self._again(entry, name, origin)
            self._accept(identity, request, origin)
        except RefusalError as refusal:
            self.counters["refused"] += 1
            told = name if isinstance(name, str) else ""
            reply = Reply(identity, told[:_LONGEST_ID], State.REFUSED, problem=refusal.problem, remedy=refusal.remedy)
            if refusal.problems:
                reply = Reply(
                    identity, told, State.REFUSED, None, None, refusal.problem, refusal.remedy, refusal.problems
                )
            logger.warning("The command %s (%s) from %s is refused: %s", shown(told), identity, origin.value, refusal)
            return Step([(origin, reply)])
        entry = self._entries[identity]
        self.counters["accepted"] += 1
        logger.info("The command %s (%s) from %s is accepted", entry.command, identity, origin.value)
        return Step([(origin, entry.reply())], note=not self.commands[entry.command].reads)

    def _again(self, entry: Entry, name: Any, origin: Origin) -> Step:
        if name != entry.command:
            raise RefusalError(f"the id was used for {entry.command} already", "give each command an id of its own")
        self._allow(entry.command, origin)
        if origin not in entry.origins:
            entry.origins.append(origin)
        self.counters["repeated"] += 1
        return Step([(origin, entry.reply())])

    def _accept(self, identity: str, request: Mapping[str, Any], origin: Origin) -> None:
        if request.get("v") != 1 or request.get("kind") != "command":
            raise RefusalError(
                "it is no command of version 1", 'write {"v": 1, "kind": "command", "id": …, "command": …} around it'
            )
        name = request.get("command")
        command = self.commands.get(name) if isinstance(name, str) else None
        if command is None:
            raise RefusalError(f"{shown(name)} is no command of {self.component}", one_of(sorted(self.commands), name))
        self._allow(command.name, origin)
        raw = request.get("arguments")
        arguments = _arguments(command.arguments, {} if raw is None else raw)
        try:
            command.check(arguments)
        except CommandError as error:
            raise RefusalError(error.problem, error.remedy) from None
        if len(self._waiting) >= MOST_WAITING:
            raise RefusalError(
                f"{MOST_WAITING} commands wait for their turn already", "send it again later; the same id will do"
            )
        self._entries[identity] = Entry(identity, command.name, dict(raw or {}), [origin])
        self._waiting.append(identity)
        self._forget()

    def _allow(self, command: str, origin: Origin) -> None:
        if origin is Origin.CLOUD and command not in self.allowed:
            may = ", ".join(sorted({*self.allowed, command}))
            raise RefusalError(
                f"{command} is not allowed from the cloud",
                f"set cloudCommands: [{may}] in the component's configuration, or send it on the device itself, to "
                f"{COMMAND_PREFIX}{self.component}",
            )

    def _forget(self) -> None:
        """Those that ended longest ago; first of all those that only read, which may run again without harm: who looks
        at the status every few seconds must not make others forgotten."""
        over = [one for one in self._entries.values() if one.over]
        surplus = max(0, len(self._entries) - REMEMBERED)
        for one in sorted(over, key=lambda one: not self._reads(one))[:surplus]:
            del self._entries[one.id]

    def _reads(self, entry: Entry) -> bool:
        command = self.commands.get(entry.command)
        return command is not None and command.reads

    # --- what runs ---

    def due(self) -> list[tuple[Entry, Command[Any]]]:
        """Those whose turn has come; they count as running from now on."""
        found = []
        while self._waiting and len(self._running) < MOST_RUNNING:
            entry = self._entries[self._waiting.pop(0)]
            command = self.commands.get(entry.command)
            if command is None:
                entry.interrupted = True
                continue
            self._running.add(entry.id)
            entry.state, entry.interrupted = State.WORKING, False
            found.append((entry, command))
        return found

    def progressed(self, identity: str, fraction: float, result: Mapping[str, Any], now: float) -> Step:
        """How far it is; `now` by a steady clock. A fraction never goes back, and is told at most once a second."""
        entry = self._entries[identity]
        entry.progress = round(min(1.0, max(entry.progress or 0.0, fraction)), 3)
        entry.result = result
        if now - entry.told < PROGRESS_EVERY:
            return Step()
        entry.told = now
        return self._answered(entry, entry.reply())

    def done(self, identity: str, result: Mapping[str, Any]) -> Step:
        """It has come to its end."""
        return self._ended(self._entries[identity], State.DONE, result)

    def failed(self, identity: str, problem: str, remedy: str) -> Step:
        """It could not be carried out."""
        entry = self._entries[identity]
        return self._ended(entry, State.FAILED, entry.result, problem, remedy)

    def interrupted(self, identity: str) -> None:
        """It was stopped together with what carried it out: see `resume`."""
        self._running.discard(identity)
        self._entries[identity].interrupted = True

    def resume(self) -> Step:
        """What carries commands out is there again: those that were interrupted go on, or have failed."""
        step = Step()
        for entry in [one for one in self._entries.values() if one.interrupted]:
            command = self.commands.get(entry.command)
            entry.interrupted = False
            if command is not None and command.resumable and self._still_fits(command, entry):
                self._waiting.append(entry.id)
                continue
            ended = self._ended(
                entry,
                State.FAILED,
                entry.result,
                "the component was restarted before it was done",
                "send it again, with a new id",
            )
            step.replies += ended.replies
            step.note = True
        return step

    def _still_fits(self, command: Command[Any], entry: Entry) -> bool:
        try:
            _arguments(command.arguments, entry.arguments)
        except RefusalError:
            return False
        return True

    def arguments(self, entry: Entry) -> Any:
        """The arguments as the command's model; they were valid when it was accepted, or resumed."""
        return _arguments(self.commands[entry.command].arguments, entry.arguments)

    def _ended(
        self, entry: Entry, state: State, result: Mapping[str, Any] | None, problem: str = "", remedy: str = ""
    ) -> Step:
        self._running.discard(entry.id)
        self.counters[state.value] += 1
        entry.state, entry.problem, entry.remedy = state, problem[:MAX_TEXT], remedy[:MAX_TEXT]
        if state is State.DONE:
            entry.progress = None if entry.progress is None else 1.0
        entry.result = result
        entry.arguments = {}  # they may be long, and nobody asks for them any more
        told = entry.reply()
        if result is not None:
            entry.result = orjson.loads(cut(result, KEPT_RESULT))
        why = f": {problem}: {remedy}" if problem else ""
        logger.log(
            logging.WARNING if problem else logging.INFO,
            "The command %s (%s) %s%s",
            entry.command,
            entry.id,
            "is done" if state is State.DONE else "failed",
            why,
        )
        step = self._answered(entry, told)
        step.note = not self._reads(entry)
        self._forget()
        return step

    def _answered(self, entry: Entry, reply: Reply) -> Step:
        return Step([(origin, reply) for origin in entry.origins])

    def status(self) -> dict[str, int]:
        """Counts, without those that are 0."""
        now = {"waiting": len(self._waiting), "running": len(self._running)}
        return {name: count for name, count in {**now, **self.counters}.items() if count}

    # --- memory ---

    def dump(self) -> dict[str, Any]:
        """What has to be remembered, as JSON. Results of commands that only read are not."""
        return {"v": _VERSION, "commands": [self._dumped(entry) for entry in self._entries.values()]}

    def _dumped(self, entry: Entry) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": entry.id,
            "command": entry.command,
            "state": entry.state.value,
            "origins": [origin.value for origin in entry.origins],
        }
        if not entry.over:
            told["arguments"] = dict(entry.arguments)
        elif entry.result is not None and not self._reads(entry):
            told["result"] = dict(entry.result)
        return told | {key: text for key, text in (("problem", entry.problem), ("remedy", entry.remedy)) if text}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Take over what an earlier run remembered. Raises ValueError when that is no such thing."""
        if dumped.get("v") != _VERSION or not isinstance(dumped.get("commands"), list):
            raise ValueError("it is no memory of commands of version 1")
        found = {}
        for one in dumped["commands"][-REMEMBERED:]:
            try:
                entry = Entry(
                    str(one["id"]),
                    str(one["command"]),
                    dict(one.get("arguments") or {}),
                    [Origin(origin) for origin in one["origins"]],
                    State(one["state"]),
                    result=dict(one["result"]) if "result" in one else None,
                    problem=str(one.get("problem", "")),
                    remedy=str(one.get("remedy", "")),
                )
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"one of its commands cannot be read: {error!r}") from error
            entry.interrupted = not entry.over
            found[entry.id] = entry
        self._entries = found


def encode(component: str, reply: Reply, time: float, max_bytes: int) -> bytes:
    """The answer as JSON of at most max_bytes; time: seconds since 1970. What does not fit of a result is cut."""
    head: dict[str, Any] = {
        "v": 1,
        "kind": "reply",
        "id": reply.id,
        "component": component,
        "command": reply.command,
        "state": reply.state.value,
        "time": when(time),
    }
    if reply.progress is not None:
        head["progress"] = reply.progress
    if reply.problem:
        head["problem"] = reply.problem[:MAX_TEXT]
    if reply.remedy:
        head["remedy"] = reply.remedy[:MAX_TEXT]
    sections: dict[str, Any] = {}
    if reply.problems:
        sections["problems"] = [problem.as_dict() for problem in reply.problems]
    room = max_bytes - len(orjson.dumps(head)) - len(b',"result":')
    if reply.result is not None:
        return orjson.dumps({**head, "result": orjson.Fragment(cut(reply.result, room))})
    return orjson.dumps({**head, **orjson.loads(cut(sections, room))}) if sections else orjson.dumps(head)


class RefusalError(CommandError):
    """Nothing runs. `problems`: of the arguments, each by itself."""

    def __init__(self, problem: str, remedy: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(problem, remedy)
        self.problems = problems


def _decoded(payload: bytes) -> dict[str, Any] | None:
    if len(payload) > LARGEST_REQUEST:
        return None
    try:
        request = orjson.loads(payload)
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def _is_id(text: str) -> bool:
    return 1 <= len(text) <= _LONGEST_ID and text.isprintable()


def _arguments(model: type[A], raw: Any) -> A:
    """The arguments as their model. Raises RefusalError with everything that is wrong with them."""
    if not isinstance(raw, Mapping):
        raise RefusalError("arguments is not a map of arguments", 'write "arguments": {"name": value, …}')
    problems = []
    if raw:
        known = fields_of(model)
        for name in [name for name in raw if name not in known]:
            near = difflib.get_close_matches(str(name), known, 1, 0.6)
            remedy = f"did you mean {near[0]}?" if near else f"the arguments are: {', '.join(known) or 'none'}"
            problems.append(Problem(f"arguments.{name}"[:_LONGEST_ID], None, "is an unknown argument", remedy))
        raw = {name: value for name, value in raw.items() if name in known}
    loaded = load_entries(model, {"arguments": raw}, ())
    problems += [Problem(one.path, one.value, one.problem, one.remedy) for one in loaded.problems]
    if not problems:
        found: A = loaded.entries["arguments"]
        return found
    told = str(problems[0]) if len(problems) == 1 else f"{len(problems)} problems, first of all {problems[0]}"
    raise RefusalError(told, "mend the arguments and send it again; the same id will do", problems[:_MOST_PROBLEMS])
