"""Which tags of a flow the names in expressions mean.

A name means the tag that is called so, or <asset>/<tag>. As what comes in and what earlier steps made of it are
different slots, it is those that are seen at a step that count, and of several for one tag the one that was made last.
A name that several assets have means none of them, and is a problem that says so; so is a tag that does not come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from preprocessor.engine.step import SECOND, FlowContext, Turn
from preprocessor.expressions.suggesting import did_you_mean

NONE: Final = -1
PATIENCE: Final = 60 * SECOND
"""How long after the first samples a tag may be missing until that is a problem."""
MOST_SUGGESTED: Final = 20
"""Problems of a flow beyond which no more names are compared: that takes up to 50 ms each with 100,000 tags."""


class Names:
    """Names and the slots that they mean. places: where in the flow each name stands, such as steps.hot.when."""

    def __init__(self, names: Sequence[str], flow: FlowContext, places: Sequence[str]) -> None:
        self.names = tuple(names)
        self.slots: list[int] = [NONE] * len(self.names)
        """The slot of each name now; -1 while it means nothing, or too much."""
        self.users: dict[int, list[int]] = {}
        """The names, by number, that a slot may be meant by."""
        self._flow = flow
        self._places = tuple(places)
        self._seen: dict[int, None] = {}
        self._missing: dict[int, None] = dict.fromkeys(range(len(self.names)))
        self._since = NONE
        self._told: dict[int, None] = {}
        self._by_tag: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            for tag in {name, *(name[place + 1 :] for place, letter in enumerate(name) if letter == "/")}:
                self._by_tag.setdefault(tag, []).append(number)

    def prepare(self, slots: Sequence[int]) -> None:
        """These slots are new."""
        tags = self._flow.tags
        if len(slots) > len(self.names):
            numbers: Iterable[int] = range(len(self.names))
        else:
            series = tags.series
            numbers = {number: None for slot in slots for number in self._by_tag.get(series[slot].tag, ())}
        for number in numbers:
            for slot in tags.find(self.names[number]):
                users = self.users.setdefault(slot, [])
                if number not in users:
                    users.append(number)

    def meet(self, slot: int) -> None:
        """Samples of this slot are at the step."""
        if slot in self._seen or slot not in self.users:
            return
        self._seen[slot] = None
        for number in self.users[slot]:
            self._settle(number)

    def _settle(self, number: int) -> None:
        name = self.names[number]
        tags = self._flow.tags
        found = [slot for slot in tags.find(name) if slot in self._seen]
        assets = {tags.series[slot].asset for slot in found}
        self._missing.pop(number, None)
        place = self._places[number]
        if len(assets) > 1:
            self.slots[number] = NONE
            first = tags.series[found[0]]
            example = f"{first.asset}/{first.tag}" if first.asset else first.tag
            self._flow.problem(
                place, f"{{{name}}} is the name of {len(assets)} tags", f"write <asset>/<tag>, such as {{{example}}}"
            )
            return
        self.slots[number] = max(found, default=NONE)
        if number in self._told:
            del self._told[number]
            self._flow.mended(place)

    def watch(self, turn: Turn, anything: bool) -> None:
        """Say which tags do not come. anything: whether there are samples at all in this turn."""
        if not self._missing:
            return
        if self._since == NONE:
            if not anything:
                return
            self._since = turn.steady
        if turn.steady - self._since < PATIENCE or len(self._told) == len(self._missing):
            return
        for number in self._missing:
            if number in self._told:
                continue
            name = self.names[number]
            near = self._nearest(name) if len(self._flow.problems) < MOST_SUGGESTED else ""
            self._told[number] = None
            self._flow.problem(
                self._places[number],
                f"{{{name}}} is a tag that does not come",
                near or "look how the tag is called at its source, and whether the flow takes it in",
            )

    def _nearest(self, name: str) -> str:
        series = self._flow.tags.series
        known = [one.tag for one in series]
        if "/" in name:
            known += [f"{one.asset}/{one.tag}" for one in series if one.asset]
        return did_you_mean(name, (one for one in known if one != name))

    def save(self) -> dict[str, Any]:
        """The state, for `load`."""
        return {"seen": list(self._seen), "since": self._since}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved, maybe by other names of the same flow. Call `prepare` before."""
        self._since = int(state["since"])
        for slot in state["seen"]:
            if int(slot) < len(self._flow.tags):
                self.meet(int(slot))
