"""Numbers that stand in texts: what is one, and nothing else is."""

from __future__ import annotations

import math
import re
from typing import Final

_LONGEST: Final = 100
_NUMBER: Final = re.compile(r"[ \t\r\n]*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?[ \t\r\n]*")
_WHOLE: Final = re.compile(r"[ \t\r\n]*([+-]?[0-9]+)[ \t\r\n]*")


def number(text: str) -> float | None:
    """The number that a text is, None when it is none.

    Blanks around it do not count. Decimal commas, hexadecimal digits, underscores, inf and nan make no number: what is
    not beyond doubt is not guessed. Neither is what no double can hold.
    """
    if len(text) > _LONGEST:
        return None
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def whole(text: str) -> int | None:
    """The integer of 64 bits that a text is, exactly; None when it is none. 12.0 and 1e3 are integers as well."""
    if len(text) > _LONGEST:
        return None
    if found := _WHOLE.fullmatch(text):
        value = int(found[1])
    else:
        real = number(text)
        if real is None or not real.is_integer():
            return None
        value = int(real)
    return value if -(2**63) <= value < 2**63 else None
