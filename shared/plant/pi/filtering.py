"""`filterExpression`: which events of a stream are wanted.

    '.' > 5 and not BadVal('.')        IsSet('.', "a")        '.' = "Running" or '.' = "Stopped"

This much of PI's performance equations is known: the value itself ('.'), numbers and texts, the six comparisons, and,
or, not, parentheses, BadVal, and IsSet with a (annotated), q (questionable) and s (substituted).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final

from plant.pi.events import Event

Test = Callable[[Event], bool]

_TOKEN: Final = re.compile(r"""\s*('\.'|"[^"]*"|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z]+|<=|>=|<>|[<>=(),-])""")
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "<>": operator.ne,
}
_FLAGS: Final[dict[str, Test]] = {
    "a": lambda event: event.annotated,
    "q": lambda event: event.questionable,
    "s": lambda event: event.substituted,
}


class FilterError(ValueError):
    """An expression that is none, or more than is known here."""


def parse(text: str) -> Test:
    """What an event has to pass. Raises FilterError."""
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"The filter expression '{text}' is not valid at '{text[at:]}'.")
        tokens.append(match.group(1))
        at = match.end()
    parser = _Parser(tokens, text)
    test = parser.either()
    if parser.tokens:
        raise FilterError(f"The filter expression '{text}' is not valid at '{parser.tokens[0]}'.")
    return test


class _Parser:
    def __init__(self, tokens: list[str], text: str) -> None:
        self.tokens = tokens
        self._text = text

    def either(self) -> Test:
        left = self._both()
        while self._next_is("or"):
            left = _or(left, self._both())
        return left

    def _both(self) -> Test:
        left = self._one()
        while self._next_is("and"):
            left = _and(left, self._one())
        return left

    def _one(self) -> Test:
        if self._next_is("not"):
            inner = self._one()
            return lambda event: not inner(event)
        if self._next_is("("):
            inner = self.either()
            self._expect(")")
            return inner
        if self._next_is("badval"):
            self._expect("(", "'.'", ")")
            return lambda event: not event.good
        if self._next_is("isset"):
            self._expect("(", "'.'", ",")
            flag = _FLAGS.get(self._take().strip('"').casefold())
            self._expect(")")
            if flag is None:
                raise self._wrong()
            return flag
        self._expect("'.'")
        compare = _COMPARISONS.get(self._take())
        if compare is None:
            raise self._wrong()
        return _compared(compare, self._literal())

    def _literal(self) -> float | str:
        token = self._take()
        if token.startswith('"'):
            return token[1:-1]
        sign = 1.0
        if token == "-":  # noqa: S105 - a sign
            sign, token = -1.0, self._take()
        try:
            return sign * float(token)
        except ValueError as error:
            raise self._wrong() from error

    def _take(self) -> str:
        if not self.tokens:
            raise self._wrong()
        return self.tokens.pop(0)

    def _next_is(self, word: str) -> bool:
        if self.tokens and self.tokens[0].casefold() == word:
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, *words: str) -> None:
        for word in words:
            if not self._next_is(word):
                raise self._wrong()

    def _wrong(self) -> FilterError:
        return FilterError(f"The filter expression '{self._text}' is not valid.")


def _or(left: Test, right: Test) -> Test:
    return lambda event: left(event) or right(event)


def _and(left: Test, right: Test) -> Test:
    return lambda event: left(event) and right(event)


def _compared(compare: Callable[[Any, Any], bool], literal: float | str) -> Test:
    def test(event: Event) -> bool:
        if isinstance(literal, str):
            text = event.state.name if event.state is not None else event.value
            return isinstance(text, str) and bool(compare(text.casefold(), literal.casefold()))
        number = event.number
        return number is not None and bool(compare(number, literal))

    return test
