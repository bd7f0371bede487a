"""Patterns over tag names and asset paths.

    *       any part of one level:            Reactor/*, FIC*.PV
    **      any number of levels, or none:    site/**/Temp
    **      at the end: everything below:     Reactor/**
    {name}  like *, but not empty, and captured under that name: pump-{no}/flow
    ?       one character of a level

Upper and lower case matter. A level is what stands between slashes. No pattern costs more than its length times that
of the name, or the square of that: where that is not certain, matching goes on from sets of places, never back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

LONGEST: Final = 256
_SHORT: Final = 500
"""Letters of a name, up to which a regular expression may judge it: some take the square of that."""
_EXPRESSIONS: Final = {"*": "[^/]*", "{": "[^/]+", "?": "[^/]", "**/": "(?:.*/)?", "/**": "/.+", "**": ".*"}
_PIECE: Final = re.compile(r"\*\*|\*|\?|\{[A-Za-z][A-Za-z0-9_]*\}|[^*?{}]+|[{}]")


class PatternError(ValueError):
    """A text that is no pattern; `remedy` says what to write."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class Pattern:
    """One pattern, compiled. Raises PatternError."""

    def __init__(self, text: str) -> None:
        if not text or len(text) > LONGEST:
            raise PatternError("is no pattern", f"write 1 to {LONGEST} characters, such as Reactor/*")
        self.text = text
        self.names: tuple[str, ...] = ()
        self.everything = text == "**"
        self._parts: list[tuple[str, str]] = []
        names: list[str] = []
        for piece in _PIECE.findall(text):
            if piece in ("**", "*", "?"):
                self._parts.append((piece, ""))
            elif piece in ("{", "}"):
                raise PatternError("has a brace without its other", "write {name} for what is to be captured")
            elif piece[0] == "{":
                name = piece[1:-1]
                if name in names:
                    raise PatternError(f"captures {name} twice", "give each its own name")
                names.append(name)
                self._parts.append(("{", name))
            else:
                self._parts.extend(("", letter) for letter in piece)
        self.names = tuple(names)
        self.literal = text if all(kind == "" for kind, _ in self._parts) else None
        # `Reactor/**` covers what lies below Reactor, `**/Temp` also Temp itself: the slash beside ** is part of it.
        self._steps = _with_slashes(self._parts)
        self._expression = _expression(self._steps)

    def matches(self, name: str) -> bool:
        """Whether the pattern covers all of the name."""
        if self.everything:
            return True
        if self.literal is not None:
            return name == self.literal
        if self._expression is not None and len(name) <= _SHORT:
            return self._expression.fullmatch(name) is not None
        return self._match(name) is not None

    def captures(self, name: str) -> dict[str, str] | None:
        """What each name in braces stands for; None when the pattern does not match. Leftmost captures are shortest."""
        if self.literal is not None:
            return {} if name == self.literal else None
        return self._match(name)

    def _match(self, name: str) -> dict[str, str] | None:
        """A table of which steps can end where, filled once: steps times letters, whatever the pattern."""
        steps, size = self._steps, len(name)
        # reach[i] holds the places in the name where steps[i:] can begin and fit the rest
        reach: list[list[bool]] = [[False] * (size + 1) for _ in range(len(steps) + 1)]
        reach[-1][size] = True
        for number in range(len(steps) - 1, -1, -1):
            kind, letter = steps[number]
            after, here = reach[number + 1], reach[number]
            for place in range(size, -1, -1):
                here[place] = _fits(kind, letter, name, place, after, here)
        if not reach[0][0]:
            return None
        found: dict[str, str] = {}
        place = 0
        for number, (kind, letter) in enumerate(steps):
            after = reach[number + 1]
            begin = place
            if kind in ("", "?"):
                place += 1
            elif kind == "**/":
                if not after[place]:
                    place = next(p + 1 for p in range(place, size) if name[p] == "/" and after[p + 1])
            elif kind == "/**":
                place = size if not after[place] else place
            else:
                place += kind == "{"
                while not after[place]:
                    place += 1
                if kind == "{":
                    found[letter] = name[begin:place]
        return found


def _expression(steps: Sequence[tuple[str, str]]) -> re.Pattern[str] | None:
    """The steps as a regular expression, a hundred times as quick as the table; None for those over which it could be
    slow: it goes back through every way in which wildcards can share a text. Those in different levels share none."""
    shared, in_level = 0, 0
    for kind, letter in steps:
        if kind in ("**", "**/"):
            shared, in_level = shared + 1, 0
        elif letter == "/":
            in_level = 0
        elif kind in ("*", "{"):
            shared += in_level > 0
            in_level += 1
    if shared > 1:
        return None
    return re.compile("".join(_EXPRESSIONS[kind] if kind else re.escape(letter) for kind, letter in steps), re.DOTALL)


def _fits(kind: str, letter: str, name: str, place: int, after: Sequence[bool], here: Sequence[bool]) -> bool:
    more = place < len(name)
    if kind == "":
        return more and name[place] == letter and after[place + 1]
    if kind == "?":
        return more and name[place] != "/" and after[place + 1]
    if kind == "*":
        return after[place] or (more and name[place] != "/" and here[place + 1])
    if kind == "{":
        return more and name[place] != "/" and (after[place + 1] or here[place + 1])
    if kind == "**/":  # none, or whole levels
        return after[place] or any(name[p] == "/" and after[p + 1] for p in range(place, len(name)))
    if kind == "/**":  # at the end: something below
        return more and name[place] == "/" and place + 1 < len(name)
    return after[place] or (more and here[place + 1])  # ** beside no slash


def _with_slashes(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    steps: list[tuple[str, str]] = []
    skip = False
    for number, (kind, letter) in enumerate(parts):
        if skip:
            skip = False
            continue
        at_start = not steps or steps[-1] == ("", "/") or steps[-1][0] == "**/"
        if kind == "**" and at_start and number + 1 < len(parts) and parts[number + 1] == ("", "/"):
            steps.append(("**/", ""))
            skip = True
        elif kind == "**" and number + 1 == len(parts) and steps and steps[-1] == ("", "/"):
            steps[-1] = ("/**", "")
        else:
            steps.append((kind, letter))
    return steps


@lru_cache(maxsize=4_096)
def pattern(text: str) -> Pattern:
    """The pattern of a text. Raises PatternError."""
    return Pattern(text)


class Selection:
    """Which tags are meant: those that one of `tags` covers, by name or as <asset>/<name>, and none of `exclude`."""

    def __init__(self, tags: Iterable[str], exclude: Iterable[str] = ()) -> None:
        self._tags = tuple(pattern(text) for text in tags)
        self._exclude = tuple(pattern(text) for text in exclude)
        self.everything = any(one.everything for one in self._tags) and not self._exclude

    def covers(self, tag: str, asset: str = "") -> bool:
        """Whether the tag is one of them."""
        if self.everything:
            return True
        names = (tag, f"{asset}/{tag}") if asset else (tag,)
        return any(one.matches(name) for one in self._tags for name in names) and not any(
            one.matches(name) for one in self._exclude for name in names
        )
