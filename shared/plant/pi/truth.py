"""The PI plant's own log: what reached PI, and the frames that clients have read; kept apart from the archive.

JSON lines, each handed to the operating system before anybody else can see what it says:

    {"e": "point", "p": id, "name": …, "type": …}              a point is there; again when it is renamed
    {"e": "in", "at": ns, "v": [[id, how, t, value, flags, state], …]}      reached PI at `at` with the time `t`
    {"e": "frame", "n": number, "c": channel, "v": [[id, t, value, flags, state, how], …]}      about to be sent
    {"e": "read", "at": ns, "n": number}                        the client has read that frame
    {"e": "fault", "at": ns, "name": …, …}                      what was done to the server, or to its client ("killed")
    {"e": "archive", "p": id, "v": [[t, value, flags, state], …]}           what the archive holds at the end
    {"e": "end"}

`how` is PI's word for what an event did: Add (the newest), Insert (older), Update, Delete, Refresh. `flags` is the sum
of GOOD, QUESTIONABLE, SUBSTITUTED and ANNOTATED; `state` a system state's code or null. A number that JSON cannot write
is a list with its name: ["NaN"]. A log without its last line is of a plant that was killed; a cut last line is left
out.

A frame counts as read when the client has answered a ping that was sent after it: the answer can only come from who has
taken the frame out of its connection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from plant.pi.events import Event

GOOD, QUESTIONABLE, SUBSTITUTED, ANNOTATED = 1, 2, 4, 8

Value = float | int | str | None


class TruthError(ValueError):
    """A line in the middle of a log that is none; the text names the file and the line."""


class Sample(NamedTuple):
    """An event of a point. `value` is the number of the state for digital points; `state` a system state's code."""

    point: int
    time_ns: int
    value: Value
    flags: int
    state: int | None

    @classmethod
    def of(cls, point: int, event: Event) -> Sample:
        """An event of the archive or of a frame."""
        flags = (
            GOOD * event.good
            + QUESTIONABLE * event.questionable
            + SUBSTITUTED * event.substituted
            + ANNOTATED * event.annotated
        )
        if event.state is not None and event.state.is_system:
            return cls(point, event.time_ns, None, flags, event.state.code)
        return cls(point, event.time_ns, event.value, flags, None)


class Reached(NamedTuple):
    """A sample with what it did (Add, Insert, Update, Delete, Refresh) and when, by the server's clock."""

    sample: Sample
    how: str
    at_ns: int


class Frame(NamedTuple):
    """A frame of a channel that its client has read: each sample with what it did."""

    number: int
    channel: str
    samples: tuple[tuple[Sample, str], ...]
    read_ns: int = 0
    """When it had been read, by the server's clock."""


class Truth:
    """Writes the log. Without a path nothing is kept, and nothing is judged."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: IO[bytes] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        self.reached = 0
        """Events that reached PI."""
        self.frames = 0
        """Frames that were about to be sent; the number of the newest."""
        self.frames_read = 0

    def point(self, number: int, name: str, kind: str) -> None:
        """A point is there, under that name."""
        self._write({"e": "point", "p": number, "name": name, "type": kind})

    def note(self, at_ns: int, samples: Sequence[tuple[Sample, str]]) -> None:
        """Events have reached PI at that time."""
        self.reached += len(samples)
        if self._file is not None:
            self._write({"e": "in", "at": at_ns, "v": [[s.point, how, *_plain(s)] for s, how in samples]})

    def frame(self, channel: str, samples: Sequence[tuple[Sample, str]]) -> int:
        """The number of a frame that is about to be sent."""
        self.frames += 1
        if self._file is not None:
            values = [[s.point, *_plain(s), how] for s, how in samples]
            self._write({"e": "frame", "n": self.frames, "c": channel, "v": values})
        return self.frames

    def read(self, at_ns: int, number: int) -> None:
        """The client has read that frame."""
        self.frames_read += 1
        self._write({"e": "read", "at": at_ns, "n": number})

    def fault(self, at_ns: int, name: str, arguments: Mapping[str, Any]) -> None:
        """Something was done to the server, or to its client."""
        self._write({"e": "fault", "at": at_ns, "name": name, **arguments})

    def archive(self, number: int, samples: Iterable[Sample]) -> None:
        """What the archive holds of a point."""
        if self._file is not None:
            self._write({"e": "archive", "p": number, "v": [_plain(s) for s in samples]})

    def end(self) -> None:
        """The last line; nothing is written any more."""
        self._write({"e": "end"})
        self.close()

    def close(self) -> None:
        """Close without a last line."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        data = memoryview(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        while data:
            data = data[self._file.write(data) :]


def produced(path: Path) -> Iterator[Reached]:
    """Everything that reached PI, in its order. Raises TruthError."""
    for line in _lines(path):
        if line["e"] == "in":
            at = line["at"]
            for point, how, *rest in line["v"]:
                yield Reached(_sample(point, rest), how, at)


def frames_read(path: Path) -> Iterator[Frame]:
    """The frames that clients have read, in the order in which they had. Raises TruthError."""
    sent: dict[int, Frame] = {}
    for line in _lines(path):
        if line["e"] == "frame":
            samples = tuple((_sample(point, rest), rest[-1]) for point, *rest in line["v"])
            sent[line["n"]] = Frame(line["n"], line["c"], samples)
        elif line["e"] == "read" and (frame := sent.pop(line["n"], None)) is not None:
            yield frame._replace(read_ns=line["at"])


def archive(path: Path) -> dict[int, list[Sample]]:
    """What the archive held at the end, by point, each in the archive's order. Raises TruthError."""
    return {
        line["p"]: [_sample(line["p"], rest) for rest in line["v"]] for line in _lines(path) if line["e"] == "archive"
    }


def names(path: Path) -> dict[int, list[str]]:
    """All names that each point had, the newest last. Raises TruthError."""
    found: dict[int, list[str]] = {}
    for line in _lines(path):
        if line["e"] == "point":
            found.setdefault(line["p"], []).append(line["name"])
    return found


def types(path: Path) -> dict[int, str]:
    """The type of each point, as PI calls it. Raises TruthError."""
    return {line["p"]: line["type"] for line in _lines(path) if line["e"] == "point"}


def faults(path: Path) -> list[dict[str, Any]]:
    """What was done to the server and to its client, in its order. Raises TruthError."""
    return [line for line in _lines(path) if line["e"] == "fault"]


def ended(path: Path) -> bool:
    """Whether the log has its last line. Raises TruthError."""
    return any(line["e"] == "end" for line in _lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = orjson.loads(line)
                if not isinstance(entry, dict) or "e" not in entry:
                    raise ValueError("no object with e")
            except ValueError as error:
                raise TruthError(f"{path}:{number}: not a line of a PI plant's log ({error})") from error
            yield entry


def _plain(sample: Sample) -> tuple[Any, ...]:
    value: Any = sample.value
    if isinstance(value, float) and not math.isfinite(value):
        value = ["NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"]
    return sample.time_ns, value, sample.flags, sample.state


def _sample(point: int, rest: Sequence[Any]) -> Sample:
    time_ns, value, flags, state = rest[:4]
    return Sample(point, time_ns, float(value[0]) if isinstance(value, list) else value, flags, state)


__all__ = [
    "ANNOTATED",
    "GOOD",
    "QUESTIONABLE",
    "SUBSTITUTED",
    "Frame",
    "Reached",
    "Sample",
    "Truth",
    "TruthError",
    "Value",
    "archive",
    "ended",
    "faults",
    "frames_read",
    "names",
    "produced",
    "types",
]
