"""`selectedFields`: which fields of an answer a client wants, as `Items.WebId;Items.Items.Timestamp;Links.Next`."""

from __future__ import annotations

from typing import Any, Protocol

import orjson


class Selection:
    """The fields wanted at one place of an answer. Without any: all of them."""

    __slots__ = ("_below",)

    def __init__(self) -> None:
        self._below: dict[str, Selection] = {}

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Fields with their paths, separated by semicolons, in any case. A field wanted whole wins over its parts."""
        root = cls()
        paths = [[part.strip().casefold() for part in path.split(".")] for path in text.split(";") if path.strip()]
        for path in sorted(paths, key=len, reverse=True):
            at = root
            for part in path:
                at = at._below.setdefault(part, cls())
            at._below.clear()
        return root

    @property
    def everything(self) -> bool:
        """Whether all fields here are wanted."""
        return not self._below

    def wants(self, field: str) -> bool:
        """Whether that field is wanted."""
        return not self._below or field.casefold() in self._below

    def below(self, field: str) -> Selection:
        """What is wanted of a wanted field."""
        return self._below.get(field.casefold(), ALL)


ALL = Selection()


class Encoded(Protocol):
    """Something in an answer that writes itself, with the fields that are wanted of it alone."""

    def encode(self, selection: Selection) -> bytes:
        """As JSON."""


def pruned(thing: Any, selection: Selection) -> Any:
    """The thing with the wanted fields alone; what writes itself has written itself."""
    if isinstance(thing, dict):
        return {
            field: pruned(value, selection.below(field)) for field, value in thing.items() if selection.wants(field)
        }
    if isinstance(thing, list):
        return [pruned(one, selection) for one in thing]
    if hasattr(thing, "encode") and not isinstance(thing, str):
        return orjson.Fragment(thing.encode(selection))
    return thing
