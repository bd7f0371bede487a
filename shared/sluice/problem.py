"""Problems of a configuration in words for people: place, value, what is wrong, how to mend it.

Values are shown short, and never when they may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticUndefined

from sluice.schema import Place, Settings, Unit, element_of, literals, unwrapped
from sluice.units import comma

LOOKS_SECRET = re.compile(
    r"pas+w|pass|pwd|^pw$|secret|token|credential|authorization|key$", re.IGNORECASE | re.MULTILINE
)
_LONGEST_VALUE = 120
_DEEPEST = 10  # levels of a value that are shown: what comes in may be nested without end
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, for the engineer who can mend it: place, value, remedy, and what happens meanwhile."""

    path: str
    value: Any
    problem: str
    remedy: str
    effect: str = ""
    file: str = field(default="", compare=False)
    """Of a row of a table: the file that it stands in, as it was named, and below its line; the text names both."""
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        place = self.path or "configuration"
        shown = "" if self.value is None else f" = {_quoted(self.value)}"
        text = f"{place}{shown} {self.problem}: {self.remedy}"
        return f"{text} ({self.effect})" if self.effect else text

    def as_dict(self) -> dict[str, Any]:
        """For the status: path, value, problem, remedy, effect."""
        return {
            "path": self.path,
            "value": self.value,
            "problem": self.problem,
            "remedy": self.remedy,
            "effect": self.effect,
        }


def shown(value: Any) -> Any:
    """`value` as it may stand in logs and status: short, a scalar, without logins in URLs."""
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(_redacted(value), ensure_ascii=False, default=str)
    text = _URL_LOGIN.sub("***@", text)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text)} characters)"


def _quoted(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith(("[", "{")) else json.dumps(value, ensure_ascii=False)


def _redacted(value: Any, depth: int = _DEEPEST) -> Any:
    if not depth and isinstance(value, (Mapping, list)):
        return "…"
    if isinstance(value, Mapping):
        return {k: "***" if LOOKS_SECRET.search(str(k)) else _redacted(v, depth - 1) for k, v in value.items()}
    return [_redacted(v, depth - 1) for v in value] if isinstance(value, list) else value


def render(place: Place) -> str:
    """``connections.line1.tags.T1.node``; a segment with a dot or the like is put in brackets and quotes."""
    text = ""
    for segment in place:
        if re.fullmatch(r"\[[0-9]+\]", segment):
            text += segment
        elif re.fullmatch(r"[\w/-]+", segment):
            text += f".{segment}" if text else segment
        else:
            text += f"[{json.dumps(segment, ensure_ascii=False)}]"
    return text


def pointer(place: Place) -> str:
    """The JSON pointer that a deployment's RESET takes; an element of a list cannot be reset, so its list is named."""
    steps: list[str] = []
    for segment in place:
        if re.fullmatch(r"\[[0-9]+\]", segment):
            break
        steps.append(segment.replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in steps)


# --- pydantic's errors ---

_NUMBER = ("is not a number", "write a number such as 5 or 0.5")
_WHOLE = ("is not a whole number", "write a whole number such as 5")
_BOOLEAN = ("is neither true nor false", "write true or false")
_TEXT = ("is not text", "write text, in quotes if it has special characters")
_MAP = ("is not a map of settings", "write key: value lines below it")
_LIST = ("is not a list", "write a list such as [a, b]")

_WORDS: dict[str, tuple[str, str]] = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "dict_type": _MAP,
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "list_type": _LIST,
    "model_attributes_type": _MAP,
    "model_type": _MAP,
    "string_type": _TEXT,
    "tuple_type": _LIST,
}
_NUMBERS = frozenset(kind for kind, words in _WORDS.items() if words in (_NUMBER, _WHOLE))
_BOUNDS = {
    "greater_than": ("gt", "is too small", "use more than {}"),
    "greater_than_equal": ("ge", "is too small", "use {} or more"),
    "less_than": ("lt", "is too large", "use less than {}"),
    "less_than_equal": ("le", "is too large", "use {} or less"),
    "string_too_short": ("min_length", "is too short", "use {} or more characters"),
    "string_too_long": ("max_length", "is too long", "use at most {} characters"),
    "too_short": ("min_length", "has too few entries", "give {} or more"),
    "too_long": ("max_length", "has too many entries", "give at most {}"),
    "string_pattern_mismatch": ("pattern", "is not written as it must be", "it must match {}"),
}


def tell(error: dict[str, Any], info: Any, value: Any) -> tuple[str, str]:
    """Problem and remedy for one pydantic error."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "refused":
        return context["problem"], context["remedy"]
    if kind == "missing":
        return "is required", f"add it{_example(info)}"
    if kind in _BOUNDS:
        key, problem, remedy = _BOUNDS[kind]
        limit = context[key]
        unit = _unit(info)
        return problem, remedy.format(unit.show(limit) if unit else limit)
    if kind in ("literal_error", "enum"):
        words = (literals(info.annotation) or literals(element_of(info.annotation))) if info else []
        return "is not one of the allowed words", one_of([str(word) for word in words if word != ""], value)
    if kind in _NUMBERS and (with_comma := comma(value)) is not None:
        return with_comma
    if kind in _WORDS:
        problem, remedy = _WORDS[kind]
        return problem, remedy + _example(info)
    if kind == "value_error":
        return str(context.get("error", error["msg"])), f"correct it{_example(info)}"
    return error["msg"], f"correct it{_example(info)}"


def _example(info: Any) -> str:
    if info is not None and info.examples:
        return f", for example {info.examples[0]}"
    if info is not None and info.description:
        return f": {info.description}"
    default = info.get_default(call_default_factory=True, validated_data={}) if info is not None else None
    if default not in (PydanticUndefined, None, "", {}, []) and not isinstance(default, Settings):
        unit = _unit(info)
        return f", or leave it out for {unit.show(default) if unit else json.dumps(default, default=str)}"
    return ""


def _unit(info: Any) -> Unit | None:
    """In which unit people are told of the field's values; also of one that may be left out."""
    metadata = unwrapped(info.annotation, info.metadata)[1] if info is not None else ()
    return next((item for item in metadata if isinstance(item, Unit)), None)


def one_of(words: Sequence[str], value: Any) -> str:
    remedy = f"use one of: {', '.join(words)}"
    near = difflib.get_close_matches(str(value), words, 1) if isinstance(value, str) else []
    return f"{remedy}; did you mean {near[0]}?" if near else remedy
