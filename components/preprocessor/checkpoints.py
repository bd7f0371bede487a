"""What a flow keeps on the disk beside its outputs, as positions of its outlet:

    checkpoint     JSON: number of the first turn after it, its time, the input cursors, the names of the state's parts
    definition     JSON: what the pipeline was built from that the state belongs to
    state/<part>   the state, each part written again only when it has changed
    turn/<n>       the record of a turn since the checkpoint (`journal`)

A checkpoint is written in the transaction of a turn, whose record it makes needless; with it all records go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from preprocessor import journal
from preprocessor.engine.step import Turn
from preprocessor.journal import Key, Record

_CHECKPOINT: Final = "checkpoint"
_DEFINITION: Final = "definition"
_STATE: Final = "state/"
_TURN: Final = "turn/"


@dataclass(slots=True)
class Stored:
    """What a flow finds on the disk when it begins."""

    definition: dict[str, Any] | None = None
    """None: the flow has never run."""
    parts: dict[str, bytes] = field(default_factory=dict)
    cursors: dict[Key, int] = field(default_factory=dict)
    """The number wanted next, by stream and epoch."""
    turn: int = 1
    """The number of the first turn that is not in the state."""
    now: int = 0
    steady: int = 0
    records: list[Record] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What of it cannot be read."""

    @property
    def last(self) -> tuple[int, int]:
        """Wall and steady clock of the last turn that is known."""
        if self.records:
            return self.records[-1].turn.now, self.records[-1].turn.steady
        return self.now, self.steady


def read(positions: Mapping[str, bytes]) -> Stored:
    """What is stored. What cannot be read is told in `troubles`, and missing."""
    stored = Stored()
    if _CHECKPOINT not in positions or _DEFINITION not in positions:
        return stored
    try:
        definition = orjson.loads(positions[_DEFINITION])
        head = orjson.loads(positions[_CHECKPOINT])
        stored.turn, stored.now, stored.steady = int(head["turn"]), int(head["now"]), int(head["steady"])
        stored.cursors = {(str(stream), str(epoch)): int(number) for stream, epoch, number in head["cursors"]}
        names = [str(name) for name in head["parts"]]
        stored.definition = dict(definition)
    except (ValueError, KeyError, TypeError) as error:
        return Stored(troubles=[f"its checkpoint cannot be read: {error!r}"])
    for name in names:
        if _STATE + name in positions:
            stored.parts[name] = positions[_STATE + name]
        else:
            stored.troubles.append(f"the part {name} of its state is missing")
    number = stored.turn
    while (data := positions.get(f"{_TURN}{number}")) is not None:
        try:
            stored.records.append(journal.decode(number, data))
        except ValueError as error:
            stored.troubles.append(str(error))
            break
        number += 1
    return stored


class Checkpoints:
    """Writes what `read` reads, and knows what is written already."""

    def __init__(self, positions: Mapping[str, bytes]) -> None:
        """positions: all that the flow has at present."""
        self._written = {key: _digest(value) for key, value in positions.items() if not key.startswith(_TURN)}
        self._records = [key for key in positions if key.startswith(_TURN)]

    def record(self, record: Record) -> dict[str, bytes | None]:
        """The positions of a turn between checkpoints."""
        self._records.append(f"{_TURN}{record.number}")
        return {f"{_TURN}{record.number}": record.encode()}

    def checkpoint(
        self,
        definition: Mapping[str, Any],
        parts: Mapping[str, bytes],
        cursors: Mapping[Key, int],
        turn: int,
        at: Turn,
    ) -> dict[str, bytes | None]:
        """The positions of a checkpoint: what has changed. turn: the number of the first turn after it."""
        wanted = {
            _CHECKPOINT: orjson.dumps(
                {
                    "turn": turn,
                    "now": at.now,
                    "steady": at.steady,
                    "parts": list(parts),
                    "cursors": [[*key, number] for key, number in cursors.items()],
                }
            ),
            _DEFINITION: orjson.dumps(definition, option=orjson.OPT_SORT_KEYS),
            **{_STATE + name: part for name, part in parts.items()},
        }
        positions: dict[str, bytes | None] = dict.fromkeys(self._records)
        positions.update(dict.fromkeys(key for key in self._written if key not in wanted))
        digests = {key: _digest(value) for key, value in wanted.items()}
        positions.update({key: wanted[key] for key, digest in digests.items() if self._written.get(key) != digest})
        self._records = []
        self._written = digests
        return positions


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
