"""The tags of a flow, its status words and its contexts: everything that blocks only hold numbers of.

A tag's number is its *slot*. It is kept over restarts and changes of the configuration, so that state can stand in
arrays by slot. A tag as it comes in, and as a step makes another of it (converted, renamed, an aggregate of it), are
different slots: `stage` tells them apart; it is empty for what comes in, else the name of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sluice.columns import Series

MOST_WORDS: Final = 10_000
MOST_CONTEXTS: Final = 100_000
OTHER: Final = "other"

_Context = tuple[str, tuple[tuple[str, str], ...]]


class Tags:
    """Tags by slot. `most`: beyond so many, further ones are refused and counted."""

    def __init__(self, most: int = 100_000) -> None:
        self.most = most
        self.refused = 0
        """How often a tag had no place any more."""
        self.series: list[Series] = []
        """Each tag as it goes out, without batch."""
        self.stages: list[str] = []
        self.log: list[int] = []
        """Slots that are new in this turn, or have another unit; the pipeline empties it when all steps know."""
        self.version = 0
        """Another one whenever a tag that was known goes out with another unit or other members: for caches."""
        self._slots: dict[tuple[str, str, str], int] = {}
        self._named: dict[str, list[int]] = {}
        self._stages: dict[str, None] = {}
        """Those that there are: few."""

    def __len__(self) -> int:
        return len(self.series)

    def slot(self, series: Series, stage: str = "") -> int:
        """The slot of a tag, which is made when it is not known; -1 when there is no place for it."""
        key = (stage, series.asset, series.tag)
        slot = self._slots.get(key)
        if slot is None:
            if len(self.series) >= self.most:
                self.refused += 1
                return -1
            slot = len(self.series)
            self._slots[key] = slot
            self.series.append(replace(series, batch=""))
            self.stages.append(stage)
            self._stages.setdefault(stage)
            self._named.setdefault(series.tag, []).append(slot)
            self.log.append(slot)
            return slot
        known = self.series[slot]
        if known.unit != series.unit or known.extra != series.extra:
            self.series[slot] = replace(series, batch="")
            self.version += 1
            if known.unit != series.unit:
                self.log.append(slot)
        return slot

    def relabelled(self, series: Series) -> bool:
        """Whether a tag that comes in is known with another unit, or other members."""
        slot = self._slots.get(("", series.asset, series.tag))
        if slot is None:
            return False
        known = self.series[slot]
        return known.unit != series.unit or known.extra != series.extra

    def find(self, name: str) -> list[int]:
        """The slots of a tag, by its name or as <asset>/<name>: all stages, the ones made last standing last."""
        found = self._named.get(name, [])
        if found or "/" not in name:
            return list(found)
        cut = [place for place, letter in enumerate(name) if letter == "/"]
        found = []
        for place in cut:  # not through all tags of that name: many assets may have one each
            keys = [(stage, name[:place], name[place + 1 :]) for stage in self._stages]
            found += sorted(self._slots[key] for key in keys if key in self._slots)
        return found

    def save(self, begin: int = 0) -> list[list[Any]]:
        """All tags from slot `begin` on, in the order of their slots, for `load`."""
        return [
            [stage, one.tag, one.asset, one.unit, list(map(list, one.extra))]
            for stage, one in zip(self.stages[begin:], self.series[begin:], strict=True)
        ]

    def load(self, saved: Sequence[Sequence[Any]]) -> None:
        """Into an empty one: the same slots again, all of them logged."""
        for stage, tag, asset, unit, extra in saved:
            series = Series(tag, asset, unit, extra=tuple((name, text) for name, text in extra) if extra else ())
            slot = len(self.series)
            self._slots[stage, asset, tag] = slot
            self.series.append(series)
            self.stages.append(stage)
            self._stages.setdefault(stage)
            self._named.setdefault(tag, []).append(slot)
            self.log.append(slot)


class Words:
    """Statuses that are words, by their (negative) number. At most 10,000; further ones are all `other`."""

    def __init__(self) -> None:
        self.words: list[str] = [OTHER]
        self._codes: dict[str, int] = {OTHER: -1}

    def code(self, word: str) -> int:
        """The number of a word, below 0."""
        code = self._codes.get(word)
        if code is None:
            if len(self.words) >= MOST_WORDS:
                return -1
            self.words.append(word)
            code = self._codes[word] = -len(self.words)
        return code

    def text(self, code: int) -> int | str:
        """A status as it stands on the wire."""
        return code if code >= 0 else self.words[-code - 1]

    def load(self, words: Sequence[str]) -> None:
        """The same numbers again."""
        self.words = list(words) or [OTHER]
        self._codes = {word: -1 - place for place, word in enumerate(self.words)}


class Contexts:
    """What a sample goes out with beside its tag: the production batch, and further members by name. 0: nothing.

    The newest 100,000 are known: whoever still holds an older number gets nothing for it.
    """

    def __init__(self) -> None:
        self._next = 1
        self._of: dict[int, _Context] = {}
        self._numbers: dict[_Context, int] = {("", ()): 0}

    def __len__(self) -> int:
        return len(self._of)

    def number(self, batch: str = "", extra: Sequence[tuple[str, str]] = ()) -> int:
        """The number of a context."""
        key = (batch, tuple(extra))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._next
            self._of[number] = key
            self._next += 1
            if len(self._of) > MOST_CONTEXTS:
                oldest = next(iter(self._of))
                del self._numbers[self._of.pop(oldest)]
        return number

    def combined(self, number: int, batch: str | None = None, extra: Mapping[str, str] | None = None) -> int:
        """The context `number` with another batch, and further members."""
        before, members = self._of.get(number, ("", ()))
        return self.number(before if batch is None else batch, tuple({**dict(members), **(extra or {})}.items()))

    def batch(self, number: int) -> str:
        """The production batch of a context."""
        return self._of[number][0] if number in self._of else ""

    def series(self, series: Series, number: int) -> Series:
        """The tag in this context."""
        batch, members = self._of.get(number, ("", ()))
        if not batch and not members:
            return series
        return replace(series, batch=batch, extra=(*series.extra, *members))

    def save(self) -> list[Any]:
        """For `load`."""
        return [[number, batch, list(map(list, members))] for number, (batch, members) in self._of.items()]

    def load(self, saved: Sequence[Any]) -> None:
        """The same numbers again."""
        self._of = {number: (batch, tuple((name, text) for name, text in members)) for number, batch, members in saved}
        self._numbers = {("", ()): 0, **{key: number for number, key in self._of.items()}}
        self._next = max(self._of, default=0) + 1
