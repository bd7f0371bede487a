"""Filters over the paths of an address space, as AWS IoT SiteWise has them. Pure.

A path has the browse names from Objects down, without namespace indexes: ``/Plant/Unit1/Temp``. In a filter

    *       is any one step, or any part of one:     /Plant/*/Temp, /Plant/Unit*/T*1
    **      is any number of steps, none as well:    /**/Temp fits /Temp and /Plant/Unit1/Temp
    **      at the end is one step or more:          /Plant/** is all below Plant
    /       at the end says the same:                /Plant/ is /Plant/**, and / is everything

Upper and lower case matter. Where a name holds one of ``/ * & :`` itself, ``&`` before it says so, as in `address`; any
other ``&`` stands for itself. What a filter leaves out (exclude) is written in the same way.

Theory of operation. A filter is a row of steps, and where one can stand in it after some names is a set of places: a
number with one bit per place. The sets of all filters together are a `State`. States are made when they are first come
to, and know where each name leads: by the name itself where a filter writes it out, else by which of the partial
wildcards fit. So a whole address space is matched by going down it once, a look-up per node; a subtree into which no
filter can go on is not entered. No filter costs more than its steps times the names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

MOST_STEPS: Final = 64
SERVER: Final = "Server"
"""The server's own object below Objects: only a filter that begins with its name enters it."""
_MOST_STATES: Final = 20_000
"""After so many, they are forgotten: a filter can be written that makes a state of its own for every node."""
_SPECIAL: Final = "/*&:"
_WORD: Final = re.compile(r"&[/*&:]|[/*]|&|[^/*&]+")
_AMBIGUOUS: Final = re.compile(r"&(?=[/*&:]|$)")


class PatternError(ValueError):
    """A text that is no filter."""


class Filter(Protocol):
    """What a filter is made of: `config.Select`."""

    @property
    def path(self) -> str: ...

    @property
    def exclude(self) -> Sequence[str]: ...


def step(name: str) -> str:
    """A browse name as it stands in a path: what could be taken for more than a name is marked by ``&``."""
    if "&" in name:
        name = _AMBIGUOUS.sub("&&", name)
    return name.replace("/", "&/") if "/" in name else name


def join(names: Sequence[str]) -> str:
    """The path with these browse names, from Objects down."""
    return "".join(f"/{step(name)}" for name in names)


def split(path: str) -> list[str]:
    """The browse names of a path that `join` wrote."""
    return ["".join(part for part, _ in words) for words in _split(path)]


def _split(text: str) -> list[list[tuple[str, bool]]]:
    """The steps of a path: each as its words, with whether a word is a wildcard."""
    steps: list[list[tuple[str, bool]]] = []
    for word in _WORD.findall(text):
        if word == "/":
            steps.append([])
        elif steps:
            marked = len(word) == 2 and word[0] == "&" and word[1] in _SPECIAL
            steps[-1].append((word[1:] if marked else word, word == "*"))
    return steps


# --- one pattern ---


@dataclass(frozen=True, slots=True)
class _Partial:
    """A step with wildcards beside other characters: the parts between the wildcards."""

    parts: tuple[str, ...]

    def fits(self, name: str) -> bool:
        """Each part is looked for once, behind the one before: never back and forth."""
        first, last = self.parts[0], self.parts[-1]
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for part in self.parts[1:-1]:
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


class _Any:
    """``*``: any one step."""


class _Deep:
    """``**``: any number of steps."""


_ANY, _DEEP = _Any(), _Deep()
_Step: TypeAlias = str | _Partial | _Any | _Deep


def _compiled(text: str) -> tuple[_Step, ...]:
    if not text.startswith("/"):
        raise PatternError("is no filter, because it does not begin with /")
    raw = _split(text)
    if not raw[-1]:
        raw[-1] = [("*", True), ("*", True)]
    steps: list[_Step] = []
    for words in raw:
        if not words:
            raise PatternError("has an empty step")
        made = _step(words)
        if not (made is _DEEP and steps and steps[-1] is _DEEP):
            steps.append(made)
    if len(steps) > MOST_STEPS:
        raise PatternError(f"has more than {MOST_STEPS} steps")
    if steps[-1] is _DEEP:  # at least one step
        steps.append(_ANY)
    return tuple(steps)


def _step(words: Sequence[tuple[str, bool]]) -> _Step:
    if all(wild for _, wild in words):
        return _ANY if len(words) == 1 else _DEEP
    parts = [""]
    for word, wild in words:
        if wild:
            parts.append("")
        else:
            parts[-1] += word
    if len(parts) == 1:
        return parts[0]
    return _Partial((parts[0], *filter(None, parts[1:-1]), parts[-1]))


class Pattern:
    """A filter's path. Its state is the set of places where one can stand in it, a bit each. Raises PatternError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = steps = _compiled(text)
        self.start = self._settled(1)
        self._last = 1 << len(steps)
        # behind a ** that nothing but a * follows, everything fits for ever
        self._endless = 1 << (len(steps) - 2) if len(steps) > 1 and steps[-2] is _DEEP and steps[-1] is _ANY else 0

    @property
    def named(self) -> bool:
        """Whether the last step says something of the name."""
        return isinstance(self.steps[-1], (str, _Partial))

    @property
    def begins_with_server(self) -> bool:
        """Whether it names the server's own object."""
        return self.steps[0] == SERVER

    def step(self, state: int, name: str) -> int:
        """Where one can stand after one name more; 0: nowhere, and nothing below fits either."""
        reached = 0
        place = 0
        left = state
        while left:
            skip = (left & -left).bit_length() - 1
            place += skip
            left >>= skip + 1
            if place < len(self.steps):
                wanted = self.steps[place]
                if wanted is _DEEP:
                    reached |= 1 << place
                elif wanted is _ANY or wanted == name or (isinstance(wanted, _Partial) and wanted.fits(name)):
                    reached |= 1 << (place + 1)
            place += 1
        return self._settled(reached)

    def _settled(self, state: int) -> int:
        """With the places behind each ** in the state, which may be no step at all."""
        for place, wanted in enumerate(self.steps):
            if wanted is _DEEP and state >> place & 1:
                state |= 1 << (place + 1)
        return state

    def fits(self, state: int) -> bool:
        """Whether the names so far are a path that it fits."""
        return bool(state & self._last)

    def goes_on(self, state: int) -> bool:
        """Whether it may fit a path below."""
        return bool(state & (self._last - 1))

    def takes_all(self, state: int) -> bool:
        """Whether it fits every path below."""
        return bool(state & self._endless)

    def depth(self, state: int) -> int:
        """The furthest place in the state, as a number of steps."""
        return state.bit_length() - 1


# --- all filters of a connection ---


class State:
    """Where one stands in all filters at once."""

    __slots__ = ("_filters", "_literals", "_next", "_partials", "fits", "goes_on", "masks")

    def __init__(self, filters: Filters, masks: tuple[tuple[int, ...], ...]) -> None:
        self._filters = filters
        self.masks = masks
        """Per filter: of its path, then of what it excludes."""
        names: set[str] = set()
        partials: dict[tuple[str, ...], _Partial] = {}
        fits, goes_on = [], False
        for number, (patterns, states) in enumerate(zip(filters.patterns, masks, strict=True)):
            if patterns[0].fits(states[0]) and not any(
                one.fits(state) for one, state in zip(patterns[1:], states[1:], strict=True)
            ):
                fits.append(number)
            if not patterns[0].goes_on(states[0]):
                continue
            goes_on = True
            for pattern, state in zip(patterns, states, strict=True):
                for place, wanted in enumerate(pattern.steps):
                    if state >> place & 1:
                        if isinstance(wanted, str):
                            names.add(wanted)
                        elif isinstance(wanted, _Partial):
                            partials[wanted.parts] = wanted
        self.fits: tuple[int, ...] = tuple(fits)
        """Numbers of the filters that fit the path so far."""
        self.goes_on = goes_on
        """Whether any filter may fit a path below."""
        self._literals = frozenset(names)
        self._partials = tuple(partials.values())
        self._next: dict[tuple[str | None, tuple[bool, ...]], State] = {}

    def step(self, name: str) -> State:
        """The state after one name more."""
        fits = tuple([partial.fits(name) for partial in self._partials]) if self._partials else ()
        key = (name if name in self._literals else None, fits)
        found = self._next.get(key)
        if found is None:
            found = self._next[key] = self._filters._after(self, name)
        return found


class Filters:
    """All filters of a connection, matched together. Raises PatternError; see `config.Select` for what they say."""

    def __init__(self, filters: Mapping[str, Filter]) -> None:
        self.names = tuple(filters)
        self.patterns = tuple((Pattern(one.path), *(Pattern(text) for text in one.exclude)) for one in filters.values())
        self._states: dict[tuple[tuple[int, ...], ...], State] = {}
        self.start = self._state(tuple(tuple(pattern.start for pattern in row) for row in self.patterns))

    @property
    def into_server(self) -> State:
        """The state at the server's own object: those that do not begin with its name are at their end."""
        masks = [
            tuple(one.step(one.start, SERVER) for one in row) if row[0].begins_with_server else (0,) * len(row)
            for row in self.patterns
        ]
        return self._state(tuple(masks))

    def of(self, names: Sequence[str]) -> State:
        """The state at the path with these browse names."""
        state = self.start
        for name in names:
            state = state.step(name)
        return state

    def named(self, number: int) -> bool:
        """Whether the filter says something of a variable's own name."""
        return self.patterns[number][0].named

    def _after(self, state: State, name: str) -> State:
        after = []
        for patterns, masks in zip(self.patterns, state.masks, strict=True):
            path = patterns[0].step(masks[0], name)
            reached = (path, *(one.step(mask, name) for one, mask in zip(patterns[1:], masks[1:], strict=True)))
            if not path or any(one.takes_all(mask) for one, mask in zip(patterns[1:], reached[1:], strict=True)):
                # nowhere, or all below is excluded: what fits here is all that it can fit
                reached = self._at_end(patterns, reached)
            after.append(reached)
        return self._state(tuple(after))

    @staticmethod
    def _at_end(patterns: Sequence[Pattern], masks: tuple[int, ...]) -> tuple[int, ...]:
        fits = patterns[0].fits(masks[0]) and not any(
            one.fits(mask) for one, mask in zip(patterns[1:], masks[1:], strict=True)
        )
        return (1 << len(patterns[0].steps) if fits else 0, *(0 for _ in masks[1:]))

    def _state(self, masks: tuple[tuple[int, ...], ...]) -> State:
        found = self._states.get(masks)
        if found is None:
            if len(self._states) >= _MOST_STATES:
                for state in self._states.values():
                    state._next.clear()
                self._states.clear()
            found = self._states[masks] = State(self, masks)
        return found
