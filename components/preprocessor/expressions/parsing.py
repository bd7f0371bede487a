"""From the text of an expression to a tree. Nothing is evaluated here, and nothing of Python's own parser is used.

    choice      logic "if" logic "else" choice | logic
    logic       "or" < "and" < "not" < comparison
    comparison  sum (("==" | "!=" | "<" | "<=" | ">" | ">=") sum)* | sum ["not"] "in" "(" literal ("," literal)* ")"
    sum         "+", "-" < "*", "/", "//", "%" < unary "-", "+" < "**"
    atom        number | "text" | true | false | {tag name} | name | "(" choice ")"
                | function "(" choice ("," choice)* ")"

A text has at most 2,000 characters, a tree 500 nodes and a depth of 50: both are bounded while reading, so that no text
costs more than its length.

Errors:

    ValueError
    └── ExpressionError     what is wrong with the text, at which column, and how to mend it
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from preprocessor.expressions.suggesting import did_you_mean

LONGEST: Final = 2_000
MOST_NODES: Final = 500
DEEPEST: Final = 50

COMPARISONS: Final = ("==", "!=", "<=", ">=", "<", ">")


class ExpressionError(ValueError):
    """A text that is no expression. `problem` names the column; `remedy` says what to write."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the text, column 1 being its first."""

    column: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A number, truth or text that stands there."""

    value: float | bool | str


@dataclass(frozen=True, slots=True)
class Reference(Node):
    """{tag}, or the plain name of a member, constant or output."""

    name: str
    braces: bool


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """- + not"""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """+ - * / // % **"""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """a < b <= c: each with the next."""

    operators: tuple[str, ...]
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Among(Node):
    """x in (1, 2), x not in ("a", "b")"""

    operand: Node
    choices: tuple[Literal, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """and, or"""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """then if condition else otherwise"""

    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """function(arguments)"""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text: number, text, tag, word, sign or end."""

    kind: str
    text: str
    column: int


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<text>"[^"\n]*"|'[^'\n]*')
    |(?P<tag>\{[^{}\n]*\})
    |(?P<sign>\*\*|//|==|!=|<=|>=|&&|\|\||<>|[-+*/%<>(),=!&|^?:\[\].;~@])""",
    re.VERBOSE,
)

_WRITE_INSTEAD: Final = {
    "&&": "write and",
    "||": "write or",
    "&": "write and",
    "|": "write or",
    "!": "write not",
    "=": "write == to compare",
    "<>": "write !=",
    "^": "write ** for a power",
    "?": "write a if condition else b",
    ":": "write a if condition else b",
    "[": "write (1, 2, 3) for a list of values",
}
_WORDS: Final = frozenset({"and", "or", "not", "if", "else", "in"})
_TRUTHS: Final = {"true": True, "True": True, "false": False, "False": False}
_REMEDY: Final = "an expression is made of numbers, {tag names}, names, operators, functions and parentheses"


def parse(text: str, longest: int = LONGEST) -> Node:
    """The tree of a text of at most so many characters. Raises ExpressionError."""
    if len(text) > longest:
        raise ExpressionError(
            f"has {len(text)} characters", f"write at most {longest}: derive tags from parts of it, and use those"
        )
    tokens = _tokens(text)
    if len(tokens) == 1:
        raise ExpressionError("is empty", "write an expression such as {Reactor/Temp} > 90")
    return _Parser(tokens).whole()


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _unreadable(text, place)
        if (kind := str(found.lastgroup)) != "space":
            tokens.append(Token(kind, found.group(), place + 1))
        place = found.end()
    tokens.append(Token("end", "", len(text) + 1))
    return tokens


def _unreadable(text: str, place: int) -> ExpressionError:
    letter, column = text[place], place + 1
    if letter in "'\"":
        return ExpressionError(f"has a text that does not end, from column {column}", f"close it with {letter}")
    if letter in "{}":
        return ExpressionError(f"has a brace without its other at column {column}", "write {tag name}")
    if letter.isdigit():
        return ExpressionError(
            f"has a number that cannot be read at column {column}",
            "write numbers as 12, 0.5 or 1e-3; a tag whose name begins with a digit goes in braces",
        )
    shown = letter if letter.isprintable() else repr(letter)
    return ExpressionError(f"has {shown} at column {column}, which means nothing there", _REMEDY)


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._nodes = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._choice()
        if self._now.kind != "end":
            raise self._unexpected("an operator")
        return node

    # --- tokens ---

    @property
    def _now(self) -> Token:
        return self._tokens[self._place]

    def _is(self, *texts: str) -> bool:
        return self._now.kind in ("sign", "word") and self._now.text in texts

    def _next(self) -> Token:
        token = self._now
        self._place += 1
        return token

    def _expect(self, text: str, wanted: str) -> Token:
        if not self._is(text):
            raise self._unexpected(wanted)
        return self._next()

    def _unexpected(self, wanted: str) -> ExpressionError:
        token = self._now
        if token.kind == "end":
            return ExpressionError(f"ends at column {token.column}, where {wanted} is missing", "write the rest of it")
        problem = f"has {token.text} at column {token.column}, where {wanted} is expected"
        if token.kind == "sign" and token.text in _WRITE_INSTEAD:
            return ExpressionError(problem, _WRITE_INSTEAD[token.text])
        if token.kind == "word" and token.text.lower() in _WORDS and token.text not in _WORDS:
            return ExpressionError(problem, f"write {token.text.lower()}")
        if token.text == ",":
            return ExpressionError(problem, "write numbers with a point, such as 0.5, and texts in quotes")
        if token.text == "(" and self._place and self._tokens[self._place - 1].kind == "tag":
            return ExpressionError(problem, "functions have plain names without braces, such as abs({tag})")
        return ExpressionError(problem, _REMEDY)

    def _count(self, column: int) -> int:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ExpressionError(
                f"has more than {MOST_NODES} parts, from column {column}", "split it into several derived tags"
            )
        return column

    # --- from the weakest operator to the strongest ---

    def _choice(self) -> Node:
        """Everything that nests comes through here or through `_power`, which therefore count the depth."""
        self._deeper()
        then = self._either()
        if self._is("if"):
            column = self._count(self._next().column)
            condition = self._either()
            self._expect("else", "else")
            then = Choice(column, condition, then, self._choice())
        self._depth -= 1
        return then

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(
                f"is nested more than {DEEPEST} deep at column {self._now.column}", "split it into several derived tags"
            )

    def _either(self) -> Node:
        operands = [self._both()]
        column = self._now.column
        while self._is("or"):
            self._next()
            operands.append(self._both())
        return operands[0] if len(operands) == 1 else Logic(self._count(column), "or", tuple(operands))

    def _both(self) -> Node:
        operands = [self._negation()]
        column = self._now.column
        while self._is("and"):
            self._next()
            operands.append(self._negation())
        return operands[0] if len(operands) == 1 else Logic(self._count(column), "and", tuple(operands))

    def _negation(self) -> Node:
        if not self._is("not"):
            return self._comparison()
        self._deeper()
        column = self._count(self._next().column)
        node = Unary(column, "not", self._negation())
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._sum()
        column = self._now.column
        if self._is("in") or (self._is("not") and self._tokens[self._place + 1].text == "in"):
            negated = self._next().text == "not"
            if negated:
                self._next()
            return Among(self._count(column), left, self._literals(), negated)
        operators: list[str] = []
        operands = [left]
        while self._now.kind == "sign" and self._now.text in COMPARISONS:
            operators.append(self._next().text)
            operands.append(self._sum())
        return Compare(self._count(column), tuple(operators), tuple(operands)) if operators else left

    def _literals(self) -> tuple[Literal, ...]:
        self._expect("(", "a list such as (1, 2, 3) in parentheses")
        found: list[Literal] = []
        while not self._is(")"):
            column = self._now.column
            sign = -1.0 if self._is("-") else 1.0
            if self._is("-", "+"):
                self._next()
            literal = self._atom()
            if not isinstance(literal, Literal) or (sign < 0 and type(literal.value) is not float):
                raise ExpressionError(
                    f"has a list with something else than numbers and texts at column {column}",
                    'write the values themselves, such as (1, 2, 3) or ("RUN", "HOLD")',
                )
            found.append(Literal(column, -literal.value) if sign < 0 and type(literal.value) is float else literal)
            if not self._is(")"):
                self._expect(",", "a comma or )")
        self._next()
        if not found:
            raise ExpressionError(f"has an empty list before column {self._now.column}", "write the values, (1, 2, 3)")
        return tuple(found)

    def _sum(self) -> Node:
        left = self._product()
        while self._is("+", "-"):
            token = self._next()
            left = Binary(self._count(token.column), token.text, left, self._product())
        return left

    def _product(self) -> Node:
        left = self._sign()
        while self._is("*", "/", "//", "%"):
            token = self._next()
            left = Binary(self._count(token.column), token.text, left, self._sign())
        return left

    def _sign(self) -> Node:
        if not self._is("-", "+"):
            return self._power()
        self._deeper()
        token = self._next()
        node = Unary(self._count(token.column), token.text, self._sign())
        self._depth -= 1
        return node

    def _power(self) -> Node:
        base = self._atom()
        if not self._is("**"):
            return base
        self._deeper()
        token = self._next()
        node = Binary(self._count(token.column), "**", base, self._sign())
        self._depth -= 1
        return node

    def _atom(self) -> Node:
        token = self._now
        column = token.column
        if token.kind == "number":
            self._next()
            number = float(token.text)
            if not math.isfinite(number):
                raise ExpressionError(f"has a number that is too large at column {column}", "write at most 1e308")
            return Literal(self._count(column), number)
        if token.kind == "text":
            self._next()
            return Literal(self._count(column), token.text[1:-1])
        if token.kind == "tag":
            self._next()
            name = token.text[1:-1].strip()
            if not name:
                raise ExpressionError(f"has empty braces at column {column}", "write the tag's name in them")
            return Reference(self._count(column), name, True)
        if token.kind == "word" and token.text in _TRUTHS:
            self._next()
            return Literal(self._count(column), _TRUTHS[token.text])
        if token.kind == "word" and token.text not in _WORDS:
            return self._word()
        if self._is("("):
            self._next()
            node = self._choice()
            self._expect(")", ") or an operator")
            return node
        raise self._unexpected("a value")

    def _word(self) -> Node:
        token = self._next()
        self._count(token.column)
        if not self._is("("):
            return Reference(token.column, token.text, False)
        self._next()
        arguments: list[Node] = []
        while not self._is(")"):
            arguments.append(self._choice())
            if not self._is(")"):
                self._expect(",", "a comma or )")
        self._next()
        return Call(token.column, token.text, tuple(arguments))


def unknown_name(node: Reference, known: list[str]) -> ExpressionError:
    """What to say of a plain name that means nothing."""
    near = did_you_mean(node.name, known)
    return ExpressionError(
        f"has the unknown name {node.name} at column {node.column}",
        f"{near}; tags are written in braces: {{{node.name}}}" if near else f"write tags in braces: {{{node.name}}}",
    )
