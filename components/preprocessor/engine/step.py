"""What a step is, and what it is given.

A *turn* is one pass through a flow: the blocks that came since the last one, and the time. The pipeline calls
`Step.process` of each step once per turn, in order, also when there are no blocks: timers (heartbeats, silence, windows
that end) are looked at there. When a tag changes its unit in the middle of a turn, it is called once more, for the rest
of the blocks at the same time. A step is a pure function of its settings, its state and its turns. It never looks at a
clock, never draws a random number, never waits: after a crash the turns since the last checkpoint are gone through once
more, and must end in the same state.

State is kept by slot. `save` gives it as plain values and numpy arrays, and `load` takes it; after a change of the
configuration the state goes on under the new settings where that means something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask
from preprocessor.engine.patterns import Selection
from preprocessor.engine.tags import Contexts, Tags, Words
from sluice.columns import Quality
from sluice.config import Settings

SECOND: Final = 1_000_000_000
MOST_TOLD: Final = 1_000
"""Problems that one flow keeps."""
GROWTH: Final = 1_024


@dataclass(frozen=True, slots=True)
class Turn:
    """The time of one pass."""

    now: int
    """The wall clock, ns since 1970 UTC: to compare with source times."""
    steady: int
    """ns that only ever go on, at the pace of real time, over restarts too: to measure silence and delays."""
    trusted: bool = True
    """Whether the wall clock is known to be right. While it is not, nothing is aged, quarantined or closed by it."""


@dataclass(slots=True)
class FlowContext:
    """What the steps of one flow share."""

    name: str
    tags: Tags
    words: Words
    contexts: Contexts
    events: list[dict[str, Any]] = field(default_factory=list)
    """Events of this turn; `tell` adds one."""
    problems: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What showed only while running: problem and remedy by place in the flow, such as steps.report.tags."""
    dropped: int = 0
    made: int = 0
    """Rows of this turn: what is received and made is dropped, sent, or held by a step."""
    mixed: dict[int, int] = field(default_factory=dict)
    """Slots that came in live blocks of several types in this turn, and the newest time that each had before it:
    rows were marked late type by type, and whoever makes one type of them finds out anew which are."""
    alarms: dict[str, dict[str, int]] = field(default_factory=dict)
    """The active alarms of each asset: by their id the source time at which they were raised. Alarm steps see to it."""
    watching: set[int] = field(default_factory=set)
    """Slots whose decisions are written down one by one, for `explain`."""
    trace: Callable[[str, str, Block, str], None] = lambda step, reason, rows, what: None
    """Given the rows of watched slots: step, reason, rows, what was done (dropped, changed, made)."""

    def tell(self, kind: str, time_ns: int, **members: Any) -> None:
        """An event of this flow, on its events stream. time_ns: when it happened, by the source's clock."""
        self.events.append({"kind": kind, "flow": self.name, "time_ns": time_ns, **members})

    def problem(self, place: str, problem: str, remedy: str) -> None:
        """Something configured does not work, as far as can be seen from what comes in."""
        if place in self.problems or len(self.problems) < MOST_TOLD:
            self.problems[place] = (problem, remedy)

    def mended(self, place: str) -> None:
        """The problem is gone."""
        self.problems.pop(place, None)


S = TypeVar("S", bound=Settings)


class Step(ABC, Generic[S]):
    """One step of a flow. A subclass names its `rank`: where it stands unless its settings say otherwise."""

    rank: ClassVar[int]

    def __init__(self, name: str, settings: S, flow: FlowContext) -> None:
        self.name = name
        self.settings = settings
        self.flow = flow
        self.counters: dict[str, int] = {}
        """Rows by what happened to them, for the status."""
        self._selection = Selection(getattr(settings, "tags", ["**"]), getattr(settings, "exclude", []))
        self._selected: Mask = np.zeros(0, dtype=np.bool_)

    def prepare(self, slots: Sequence[int]) -> None:
        """These slots are new, or have another unit. Called before `process`, with what earlier steps made as well.

        A subclass settles the parameters of the slots here; it calls this one first.
        """
        if len(self._selected) < len(self.flow.tags):
            self._selected = grown(self._selected, len(self.flow.tags))
        if self._selection.everything:
            self._selected[list(slots)] = True
            return
        for slot in slots:
            series = self.flow.tags.series[slot]
            self._selected[slot] = self._selection.covers(series.tag, series.asset)

    @abstractmethod
    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        """What goes on to the next step, of these blocks and of what is due at this time."""

    def save(self) -> Mapping[str, Any]:
        """The state: numbers, text, lists and dicts of these, and numpy arrays (not of objects)."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `save` gave, maybe under other settings. Raises ValueError for what cannot be used:
        then the step begins anew."""

    def finish(self, turn: Turn) -> Sequence[Block]:
        """What the step still holds, when it is to be given up for good: it is removed from the configuration."""
        return ()

    def explain(self, slot: int) -> dict[str, Any]:
        """How the step treats this tag, and where it stands with it: parameters, what is held, what it waits for."""
        return {"applies": self.applies(slot)}

    # --- for subclasses ---

    def applies(self, slot: int) -> bool:
        """Whether the step's settings select the tag."""
        return slot < len(self._selected) and bool(self._selected[slot])

    def selected(self, block: Block) -> Mask:
        """The rows whose tags the step's settings select."""
        if self._selection.everything:
            return np.ones(len(block), dtype=np.bool_)
        return self._selected[block.slot]

    def drop(self, block: Block, rows: Mask, reason: str) -> Block:
        """The block without these rows, which are counted, and written down where the tag is watched."""
        count = int(np.count_nonzero(rows))
        if not count:
            return block
        self.count(reason, count)
        self.flow.dropped += count
        self.note(block, rows, reason, "dropped")
        return block.take(~rows)

    def made(self, count: int, what: str) -> None:
        """Rows go on that nobody gave to this step; counted under `what`."""
        self.flow.made += count
        self.count(what, count)

    def gone(self, count: int, reason: str) -> None:
        """Rows that were held, or never got into a block that goes on, are dropped; counted under the reason."""
        self.flow.dropped += count
        self.count(reason, count)

    def mark(self, block: Block, rows: Mask, quality: Quality, word: str) -> Block:
        """The block with these rows no better than this quality, and the word as status of those that it made worse.

        The status of a row that was as bad before is kept. Values stay.
        """
        worse = rows & (block.quality < quality)
        count = int(np.count_nonzero(worse))
        if not count:
            return block
        self.count(word, count)
        self.note(block, worse, word, "changed")
        qualities, status = block.quality.copy(), block.status.copy()
        qualities[worse] = quality
        status[worse] = self.flow.words.code(word)
        return block.with_(quality=qualities, status=status)

    def count(self, what: str, count: int = 1) -> None:
        """Add to a counter."""
        self.counters[what] = self.counters.get(what, 0) + count

    def note(self, block: Block, rows: Mask, reason: str, what: str) -> None:
        """Write down what was done with rows of watched tags."""
        if not self.flow.watching:
            return
        watched = rows & np.isin(block.slot, np.fromiter(self.flow.watching, np.int32))
        if watched.any():
            self.flow.trace(self.name, reason, block.take(watched), what)


A = TypeVar("A", bound=np.generic)


def grown(array: NDArray[A], size: int, fill: Any = 0) -> NDArray[A]:
    """An array by slot with room for at least `size` of them; new places hold `fill`. Grows in large pieces."""
    if len(array) >= size:
        return array
    larger: NDArray[A] = np.full(max(size, len(array) + len(array) // 2 + GROWTH), fill, dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def order_of(steps: Iterable[Step[Any]]) -> list[Step[Any]]:
    """The steps in the order in which they run: by `order` of their settings or their kind's rank, then by name."""
    return sorted(steps, key=lambda step: (getattr(step.settings, "order", None) or step.rank, step.name))
