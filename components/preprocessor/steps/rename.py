"""Other names and other places in the plant.

The first rule that matches a tag, by its name or as <asset>/<name>, gives it its new name and asset path. A name has
one owner: a tag that keeps its name always has it, and of two that would get the same, the one that came first. The
other keeps its own, and the flow has a problem that says so. A name that nothing could be called by is not given
either.

Who came first is state, so that names stay with their owners over restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block
from preprocessor.engine.patterns import pattern
from preprocessor.engine.step import FlowContext, Step, Turn, grown
from preprocessor.engine.templates import filled
from preprocessor.step_settings import RenameRule, RenameSettings
from sluice.columns import Series

LONGEST_NAME: Final = 256
LONGEST_ASSET: Final = 1_000
NO_PLACE: Final = "too_many_tags"

_Name = tuple[str, str]  # asset, tag


class Names:
    """Which tag is called what."""

    def __init__(self, rules: Sequence[RenameRule]) -> None:
        self._rules = [(pattern(rule.match), rule) for rule in rules]
        self._wanted: dict[_Name, tuple[_Name, int]] = {}  # of each renamed tag, and the rule
        self._owners: dict[_Name, _Name] = {}  # by the new name, the old one
        self._keeping: set[_Name] = set()
        self.problems: dict[_Name, tuple[int, str]] = {}
        """Tags that keep their own name though a rule matches them: the rule's number, and why."""

    def add(self, old: _Name) -> None:
        """A tag that comes for the first time, and is one that the rules apply to."""
        found = self._by_rule(old)
        if found is None:
            self.keep(old)
            return
        new, rule = found
        wrong = _unusable(new)
        owner = self._owners.get(new)
        if wrong is None and owner is None:
            self._wanted[old] = new, rule
            self._owners[new] = old
            return
        if wrong is None:
            wrong = f"{_shown(owner or old)} is called that already"
        self.problems[old] = rule, f"cannot become {_shown(new)}: {wrong}"
        self.keep(old)

    def keep(self, old: _Name) -> None:
        """A tag that keeps its name. Whoever was renamed to that goes back to its own."""
        owner = self._owners.get(old)
        while owner is not None and owner != old:
            self._owners[old] = old
            _, rule = self._wanted.pop(owner)
            self.problems[owner] = rule, f"cannot become {_shown(old)}: there is such a tag"
            old, owner = owner, self._owners.get(owner)
        self._owners[old] = old

    def of(self, old: _Name) -> _Name:
        """What a tag is called."""
        return self._wanted[old][0] if old in self._wanted else old

    def rule_of(self, old: _Name) -> int | None:
        """The number of the rule that renamed a tag."""
        return self._wanted[old][1] if old in self._wanted else None

    def _by_rule(self, old: _Name) -> tuple[_Name, int] | None:
        asset, tag = old
        for number, (one, rule) in enumerate(self._rules):
            captured = one.captures(tag)
            if captured is None and asset:
                captured = one.captures(f"{asset}/{tag}")
            if captured is None:
                continue
            values = {**captured, "tag": tag, "asset": asset}
            place = filled(rule.asset, values) if rule.asset else asset
            new = "/".join(part for part in map(str.strip, place.split("/")) if part) if rule.asset else asset
            name = filled(rule.tag, values).strip() if rule.tag else tag
            return None if (new, name) == old else ((new, name), number)
        return None


def preview(rules: Sequence[RenameRule], tags: Iterable[Series]) -> list[tuple[Series, Series]]:
    """Each tag as it is and as the rules leave it, in the order given; those that came first have the names."""
    names = Names(rules)
    known = list(tags)
    for one in dict.fromkeys((series.asset, series.tag) for series in known):
        names.add(one)
    return [(series, _renamed(series, names.of((series.asset, series.tag)))) for series in known]


class Rename(Step[RenameSettings]):
    """Renames tags."""

    rank: ClassVar[int] = 300

    def __init__(self, name: str, settings: RenameSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._names = Names(settings.rules)
        self._known: dict[_Name, list[int]] = {}  # every tag that came, in that order, and its slots
        self._settled: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._slots: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._moved = False
        self._told: set[int] = set()

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        size, known = len(self.flow.tags), len(self._slots)
        self._settled = grown(self._settled, size)
        self._slots = grown(self._slots, size)
        self._slots[known:] = np.arange(known, len(self._slots))
        for slot in slots:
            if self._settled[slot]:  # with another unit: the tag that it is renamed to has that too
                self._place(slot)

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        for block in blocks:
            settled = self._settled[block.slot]
            if not settled.all():
                self._settle(np.unique(block.slot[~settled]).tolist())
        if not self._moved:
            return blocks
        return [self._placed(block) for block in blocks]

    def save(self) -> Mapping[str, Any]:
        return {"known": [slot for slots in self._known.values() for slot in slots]}

    def load(self, state: Mapping[str, Any]) -> None:
        slots = [int(slot) for slot in state["known"]]
        if any(not 0 <= slot < len(self.flow.tags) for slot in slots):
            raise ValueError("a tag that came is none of the flow's")
        self._settle(slots)

    def explain(self, slot: int) -> dict[str, Any]:
        told: dict[str, Any] = {"applies": self.applies(slot)}
        if slot >= len(self._settled) or not self._settled[slot]:
            return told
        series = self.flow.tags.series[slot]
        old = series.asset, series.tag
        asset, tag = self._names.of(old)
        told |= {"tag": tag, "asset": asset}
        if (rule := self._names.rule_of(old)) is not None:
            told["rule"] = self.settings.rules[rule].match
        if old in self._names.problems:
            told["problem"] = self._names.problems[old][1]
        return told

    def _settle(self, slots: Sequence[int]) -> None:
        """Give tags that come for the first time their names."""
        before = len(self._names.problems)
        for slot in slots:
            series = self.flow.tags.series[slot]
            old = series.asset, series.tag
            self._settled[slot] = True
            if old in self._known:
                self._known[old].append(slot)
            else:
                self._known[old] = [slot]
                if self.applies(slot):
                    self._names.add(old)
                else:
                    self._names.keep(old)
            self._place(slot)
        if len(self._names.problems) != before:
            for old in self._names.problems:
                for slot in self._known[old]:
                    self._place(slot)
            self._tell()

    def _place(self, slot: int) -> None:
        """The slot of a tag under its new name."""
        series = self.flow.tags.series[slot]
        old = series.asset, series.tag
        new = self._names.of(old)
        self._slots[slot] = slot if new == old else self.flow.tags.slot(_renamed(series, new), stage=self.name)
        self._moved = self._moved or int(self._slots[slot]) != slot

    def _tell(self) -> None:
        by_rule: dict[int, list[_Name]] = {}
        for old, (rule, _) in self._names.problems.items():
            by_rule.setdefault(rule, []).append(old)
        for rule, tags in by_rule.items():
            first = tags[0]
            more = f", and {len(tags) - 1} more tags of this rule keep theirs" if len(tags) > 1 else ""
            self.flow.problem(
                f"steps.{self.name}.rules[{rule}]",
                f"leaves {_shown(first)} its name: it {self._names.problems[first][1]}{more}",
                "capture with {name} in match what tells the tags apart, and put it into the new name",
            )

    def _placed(self, block: Block) -> Block:
        slots = self._slots[block.slot]
        lost = slots < 0
        if lost.any():
            block, slots = self.drop(block, lost, NO_PLACE), slots[~lost]
        return block.with_(slot=slots).sorted()


def _renamed(series: Series, name: _Name) -> Series:
    asset, tag = name
    return series if (series.asset, series.tag) == name else replace(series, asset=asset, tag=tag)


def _unusable(name: _Name) -> str | None:
    """Why nothing can be called that; None when it can."""
    asset, tag = name
    if not 1 <= len(tag) <= LONGEST_NAME:
        return f"a name has 1 to {LONGEST_NAME} characters"
    if not tag.isprintable() or not asset.isprintable():
        return "a name has printable characters alone"
    return f"an asset path has at most {LONGEST_ASSET} characters" if len(asset) > LONGEST_ASSET else None


def _shown(name: _Name) -> str:
    asset, tag = name
    text = f"{asset}/{tag}" if asset else tag
    return repr(text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…")
