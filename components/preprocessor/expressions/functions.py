"""What operators and functions do, once for columns and once for single values.

The code that `compiling` makes calls these by name, and knows nothing else. Rules that all of them keep:

- A value is a number (truths are 1.0 and 0.0), or a text. Unknown is NaN among numbers, None among texts.
- Nothing raises. What has no result (a division by 0, the root of -1, too large a number) is unknown. An infinity is
  let through by those functions alone that give an infinity or NaN of it again; all others are given `finite` values.
- Quality is 0 GOOD, 1 UNCERTAIN, 2 BAD. Functions that end in `_quality` say which of their operands' counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.expressions.columns import nulls

Array = NDArray[Any]
NAN: Final = math.nan


@dataclass(frozen=True, slots=True)
class Signature:
    """A function that users may call."""

    least: int
    most: int
    example: str
    finite: bool = False
    """Must not be given infinities."""
    infinite: bool = False
    """Can give an infinity."""


MOST_ARGUMENTS: Final = 100

SIGNATURES: Final[Mapping[str, Signature]] = {
    "abs": Signature(1, 1, "abs({Level})"),
    "min": Signature(2, MOST_ARGUMENTS, "min({A}, {B})", finite=True),
    "max": Signature(2, MOST_ARGUMENTS, "max({A}, {B})", finite=True),
    "sqrt": Signature(1, 1, "sqrt({dP})"),
    "exp": Signature(1, 1, "exp(-{t} / 10)", finite=True, infinite=True),
    "log": Signature(1, 1, "log({x})", infinite=True),
    "log10": Signature(1, 1, "log10({x})", infinite=True),
    "sin": Signature(1, 1, "sin({angle})"),
    "cos": Signature(1, 1, "cos({angle})"),
    "tan": Signature(1, 1, "tan({angle})"),
    "floor": Signature(1, 1, "floor({x})"),
    "ceil": Signature(1, 1, "ceil({x})"),
    "round": Signature(1, 2, "round({x}, 2)", infinite=True),
    "clamp": Signature(3, 3, "clamp({Valve}, 0, 100)", finite=True),
    "if_else": Signature(3, 3, "if_else({Running}, {Flow}, 0)"),
    "isnan": Signature(1, 1, "isnan({x})"),
    "good": Signature(1, 1, "good({x})"),
    "bad": Signature(1, 1, "bad({x})"),
    "quality": Signature(1, 1, "quality({x})"),
    "prev": Signature(1, 1, "prev({x})"),
    "delta": Signature(1, 1, "delta({x})"),
    "rate": Signature(1, 1, "rate({x})"),
    "age": Signature(1, 1, "age({x})"),
}
"""min, max and the rest by the name that users write."""

THROUGH_TIME: Final = frozenset({"prev", "delta", "rate", "age"})
ABOUT_QUALITY: Final = frozenset({"good", "bad", "quality"})


# --- for columns: arrays of float64 or object, or plain numbers, of length 1 or n ---
#
# x * 0.0 is 0 for a number and NaN for what is none: added to a result it makes the row unknown. That takes a fifth of
# the time of np.where.


_NO_TEXT: Final = np.full(1, None, dtype=object)


def _text(v: Any) -> bool:
    return isinstance(v, np.ndarray) and v.dtype.hasobject


def _number(v: Array) -> Array:
    """The numbers of a tag; texts are unknown."""
    return np.full(len(v), NAN) if v.dtype.hasobject else v


def _texts(v: Array) -> Array:
    """The texts of a tag; numbers are unknown."""
    return v if v.dtype.hasobject else np.full(len(v), None, dtype=object)


def _finite(v: Any) -> Any:
    return v + v * 0.0


def _truth(v: Any) -> Any:
    return np.not_equal(v, 0) + v * 0.0


def _not(v: Any) -> Any:
    return 1.0 - v


def _ordering(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def ordered(a: Any, b: Any) -> Any:
        return compare(a, b) + (a * 0.0 + b * 0.0)

    return ordered


def _equal(a: Any, b: Any) -> Any:
    if not _text(a) and not _text(b):
        return np.equal(a, b) + (a * 0.0 + b * 0.0)
    one, other = np.broadcast_arrays(a, b)
    return np.array([_same(x, y) for x, y in zip(one.tolist(), other.tolist(), strict=True)], dtype=np.float64)


def _same(x: Any, y: Any) -> float:
    if x is None or y is None or x != x or y != y:
        return NAN
    return 1.0 if x == y else 0.0


def _among(v: Any, numbers: tuple[float, ...], texts: frozenset[str]) -> Any:
    if _text(v):
        return np.array([NAN if x is None else float(x in texts) for x in v.tolist()], dtype=np.float64)
    found = np.zeros(np.shape(v), dtype=np.bool_)
    for number in numbers:
        found |= v == number
    return found + v * 0.0


def _and(a: Any, b: Any) -> Any:
    both = a * b
    return np.where((a == 0) | (b == 0), 0.0, both) if np.isnan(both).any() else both


def _or(a: Any, b: Any) -> Any:
    either = np.maximum(a, b)
    return np.where((a == 1) | (b == 1), 1.0, either) if np.isnan(either).any() else either


def _settled(v: Any, q: Any) -> Any:
    null = _isnull(v)
    return np.where(null, 2, q) if null.any() else q


def _isnull(v: Any) -> Any:
    return nulls(v) if _text(v) else np.isnan(v)


def _all_good(q: Any) -> bool:
    return not (q.any() if isinstance(q, np.ndarray) else q)


def _logic_quality(decides: float) -> Callable[[Any, Any, Any, Any, Any], Any]:
    """The worst of all, but where operands decided the result alone, the best of those."""

    def quality(v: Any, a: Any, qa: Any, b: Any, qb: Any) -> Any:
        if _all_good(qa) and _all_good(qb):
            return qa
        decided = np.minimum(np.where(a == decides, qa, 2), np.where(b == decides, qb, 2))
        return np.where(v == decides, decided, np.maximum(qa, qb))

    return quality


def _choose(c: Any, a: Any, b: Any) -> Any:
    if _text(a) or _text(b):
        chosen = np.where(np.equal(c, 0), _texts(np.atleast_1d(b)), _texts(np.atleast_1d(a)))
        return np.where(np.isnan(c), _NO_TEXT, chosen)
    return np.where(np.equal(c, 0), b, a) + c * 0.0


def _choose_quality(c: Any, qc: Any, qa: Any, qb: Any) -> Any:
    return np.maximum(qc, np.where(np.equal(c, 0), qb, qa))


def _worst(*qualities: Any) -> Any:
    found = qualities[0]
    for quality in qualities[1:]:
        found = np.maximum(found, quality)
    return found


def _round(v: Any, digits: float) -> Any:
    scale = 10.0**digits
    return np.rint(v * scale) / scale


def _clamp(v: Any, low: Any, high: Any) -> Any:
    return np.minimum(np.maximum(v, low), high)


COLUMNS: Final[Mapping[str, Callable[..., Any]]] = {
    "number": _number,
    "texts": _texts,
    "finite": _finite,
    "truth": _truth,
    "not": _not,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
    "<": _ordering(np.less),
    "<=": _ordering(np.less_equal),
    ">": _ordering(np.greater),
    ">=": _ordering(np.greater_equal),
    "==": _equal,
    "among": _among,
    "and": _and,
    "or": _or,
    "and quality": _logic_quality(0.0),
    "or quality": _logic_quality(1.0),
    "settled": _settled,
    "choose": _choose,
    "choose quality": _choose_quality,
    "worst": _worst,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": _round,
    "clamp": _clamp,
    "isnan": lambda v: np.where(_isnull(v), 1.0, 0.0),
    "good": lambda q: np.where(np.equal(q, 0), 1.0, 0.0),
    "bad": lambda q: np.where(np.equal(q, 2), 1.0, 0.0),
    "quality": lambda q: np.asarray(q, dtype=np.float64),
}


# --- for single values: float, or str, or None for a text that is unknown ---


def _guarded(of: Callable[..., float]) -> Callable[..., float]:
    def guarded(*arguments: float) -> float:
        try:
            return of(*arguments)
        except (ArithmeticError, ValueError):
            return NAN

    return guarded


def _one_ordering(compare: Callable[[float, float], bool]) -> Callable[[float, float], float]:
    def ordered(a: float, b: float) -> float:
        return NAN if a != a or b != b else (1.0 if compare(a, b) else 0.0)

    return ordered


def _one_and(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _one_or(a: float, b: float) -> float:
    return 1.0 if a == 1 or b == 1 else a + b


def _one_null(v: Any) -> bool:
    return v is None or bool(v != v)


def _one_logic_quality(decides: float) -> Callable[[float, float, int, float, int], int]:
    def quality(v: float, a: float, qa: int, b: float, qb: int) -> int:
        if v != decides:
            return max(qa, qb)
        return min(qa if a == decides else 2, qb if b == decides else 2)

    return quality


def _one_choose(c: float, a: Any, b: Any) -> Any:
    if c != c:
        return None if isinstance(a, str) or isinstance(b, str) else NAN
    return b if c == 0 else a


def _one_round(v: float, digits: float) -> float:
    scale = 10.0**digits
    scaled = v * scale
    return round(scaled) / scale if math.isfinite(scaled) else NAN


def _one_min(a: float, b: float) -> float:
    return NAN if a != a or b != b else min(a, b)


def _one_max(a: float, b: float) -> float:
    return NAN if a != a or b != b else max(a, b)


def _one_among(v: Any, numbers: tuple[float, ...], texts: frozenset[str]) -> float:
    if _one_null(v):
        return NAN
    return float(v in (texts if isinstance(v, str) else numbers))


SINGLE: Final[Mapping[str, Callable[..., Any]]] = {
    "number": lambda v: v if v.__class__ is float else NAN,
    "texts": lambda v: v if v.__class__ is str else None,
    "finite": lambda v: v if math.isfinite(v) else NAN,
    "truth": lambda v: NAN if v != v else (1.0 if v else 0.0),
    "not": lambda v: 1.0 - v,
    "/": _guarded(lambda a, b: a / b),
    "//": _guarded(lambda a, b: a // b),
    "%": _guarded(lambda a, b: a % b),
    "**": _guarded(math.pow),
    "<": _one_ordering(lambda a, b: a < b),
    "<=": _one_ordering(lambda a, b: a <= b),
    ">": _one_ordering(lambda a, b: a > b),
    ">=": _one_ordering(lambda a, b: a >= b),
    "==": _same,
    "among": _one_among,
    "and": _one_and,
    "or": _one_or,
    "and quality": _one_logic_quality(0.0),
    "or quality": _one_logic_quality(1.0),
    "settled": lambda v, q: 2 if _one_null(v) else q,
    "choose": _one_choose,
    "choose quality": lambda c, qc, qa, qb: max(qc, qb if c == 0 else qa),
    "worst": max,
    "abs": abs,
    "min": _one_min,
    "max": _one_max,
    "sqrt": _guarded(math.sqrt),
    "exp": _guarded(math.exp),
    "log": _guarded(math.log),
    "log10": _guarded(math.log10),
    "sin": _guarded(math.sin),
    "cos": _guarded(math.cos),
    "tan": _guarded(math.tan),
    "floor": _guarded(lambda v: float(math.floor(v))),
    "ceil": _guarded(lambda v: float(math.ceil(v))),
    "round": _one_round,
    "clamp": lambda v, low, high: _one_min(_one_max(v, low), high),
    "isnan": lambda v: 1.0 if _one_null(v) else 0.0,
    "good": lambda q: 1.0 if q == 0 else 0.0,
    "bad": lambda q: 1.0 if q == 2 else 0.0,
    "quality": float,
}
