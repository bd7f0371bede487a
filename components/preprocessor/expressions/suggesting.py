"""What somebody may have meant: the names nearest to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_MOST_COMPARED: Final = 200
"""Names that are compared in full, which costs about 20 us each; the others are sorted out by their ends alone."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is nearest to the word; empty when none is near. Quick for 100,000 names."""
    low = word.lower()
    ranked: list[tuple[int, str]] = []
    for name in known:
        other = name.lower()
        if other == low:
            return name
        if abs(len(other) - len(low)) <= max(3, len(low) // 2):
            ranked.append((-_common(low, other) - _common(low[::-1], other[::-1]), name))
        elif other.endswith("/" + low) or low.endswith("/" + other):
            ranked.append((-len(low) - len(other), name))
    ranked.sort()
    names = [name for _, name in ranked[:_MOST_COMPARED]]
    if names and (names[0].lower().endswith("/" + low) or low.endswith("/" + names[0].lower())):
        return names[0]
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(name.lower(), name)
    found = difflib.get_close_matches(low, lowered, 1, 0.6)
    return lowered[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The same as a question; empty when no name is near."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else ""


def _common(one: str, other: str) -> int:
    """How many letters both begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
