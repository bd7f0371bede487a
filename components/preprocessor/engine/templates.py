"""Texts with places to fill: {name}, where a pattern captured that name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PLACE: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")


def names_in(template: str) -> list[str] | None:
    """The names that a template is filled with; None when it has a brace that belongs to none."""
    if re.search(r"[{}]", _PLACE.sub("", template)):
        return None
    return _PLACE.findall(template)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its places filled. Raises KeyError for a name without a value."""
    return _PLACE.sub(lambda found: values[found[1]], template)
