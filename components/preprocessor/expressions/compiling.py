"""Expressions as functions over columns.

    text -> tree (`parsing`) -> steps, each an operation on results before it -> one Python function

The function is made of a tree of Python's `ast` that is built here, node by node: of operands named v0, q0, t0, … and
of the operations of `functions`, never of any text that a user wrote. It has no builtins. The same tree is compiled
twice, over columns and over single values, and shared by everybody who uses the same text.

What users write is checked before: names, functions and their arguments, texts where numbers belong.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.refusal import Refusal
from preprocessor.expressions import functions
from preprocessor.expressions.columns import Column, nulls, values_of
from preprocessor.expressions.parsing import (
    LONGEST,
    Among,
    Binary,
    Call,
    Choice,
    Compare,
    ExpressionError,
    Literal,
    Logic,
    Node,
    Reference,
    Unary,
    parse,
    unknown_name,
)
from preprocessor.expressions.suggesting import did_you_mean

NUMBER: Final = "number"
BOOLEAN: Final = "boolean"
TEXT: Final = "text"
ANY: Final = "any"
"""What an expression gives; any: what its tags are."""

_VALUE: Final = "value"
_BEFORE: Final = "before"
_AGE: Final = "age"
_SPAN: Final = "span"

_UNKNOWN: Final = Column.unknown()
_NO_ONE: Final = float("nan")


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. Immutable, and the same object for the same text."""

    text: str
    tags: tuple[str, ...]
    """What stands in braces, in the order in which it is first named."""
    names: tuple[str, ...]
    """Plain names: members, constants, other outputs."""
    kind: str
    """number, boolean, text, or any: that of its tags."""
    looks_back: frozenset[str]
    """Tags and names whose columns need `before` and `span`, for prev, delta and rate."""
    measures_age: frozenset[str]
    """Tags and names whose columns need `age`: the result changes while time goes on."""
    _references: tuple[Reference, ...]
    _backward: tuple[tuple[Reference, str], ...]
    _inputs: tuple[tuple[str, str], ...]
    _columns: Callable[..., tuple[Any, Any]]
    _single: Callable[..., tuple[Any, Any]]

    @property
    def follows(self) -> bool:
        """Whether it needs more of its tags than a value at a time."""
        return bool(self.looks_back or self.measures_age)

    def evaluate(self, values: Mapping[str, Column]) -> Column:
        """The result in every row. A tag or name that is not among the values is unknown.

        The columns have one length, or length 1; so has the result. What is unknown is null and BAD.
        """
        arguments: list[Any] = []
        size = 1
        for name, aspect in self._inputs:
            column = values.get(name, _UNKNOWN)
            if aspect == _VALUE:
                value, quality = column.value, column.quality
            elif aspect == _BEFORE:
                before = column.before or _UNKNOWN
                value, quality = before.value, before.quality
            else:
                seconds = column.age if aspect == _AGE else column.span
                value, quality = (_UNKNOWN.value if seconds is None else seconds), _GOOD
            if len(value) != 1:
                size = len(value)
            arguments.append(value)
            arguments.append(quality)
        with np.errstate(all="ignore"):
            result, worst = self._columns(*arguments)
        return _settled(result, worst, size, self.kind)

    def evaluate_one(
        self, values: Mapping[str, float | str | None], qualities: Mapping[str, int] | None = None
    ) -> tuple[float | str | None, int]:
        """The same for one row of plain values: the value, None for unknown, and its quality. No looking back."""
        arguments: list[Any] = []
        for name, aspect in self._inputs:
            value = values.get(name) if aspect == _VALUE else None
            if value is None:
                arguments += (_NO_ONE, 2)
            else:
                arguments.append(value)
                arguments.append(qualities.get(name, 0) if qualities else 0)
        value, quality = self._single(*arguments)
        if value is None or (value.__class__ is float and value - value != 0.0):
            return None, 2
        return value, quality

    def form(self) -> tuple[Expression, tuple[Reference, ...]]:
        """The same with 0, 1, … in place of what it names, and what these stand for.

        Expressions that differ in their tags alone have one form, and can be evaluated together.
        """
        numbers: dict[tuple[str, bool], int] = {}
        named: list[Reference] = []
        for reference in self._references:
            key = (reference.name, reference.braces)
            if key not in numbers:
                numbers[key] = len(named)
                named.append(reference)
        parts: list[str] = []
        end = len(self.text)
        for reference in sorted(self._references, key=lambda one: one.column, reverse=True):
            begin = reference.column - 1
            after = self.text.index("}", begin) + 1 if reference.braces else begin + len(reference.name)
            parts += (self.text[after:end], f"{{{numbers[reference.name, reference.braces]}}}")
            end = begin
        return _compiled(self.text[:end] + "".join(reversed(parts)), 3 * LONGEST), tuple(named)


_GOOD: Final = np.zeros(1, dtype=np.uint8)
_FLOAT: Final = np.dtype(np.float64)
_BYTE: Final = np.dtype(np.uint8)


def _settled(value: Any, quality: Any, size: int, kind: str) -> Column:
    """A result as a column of its own: unknown where it is not finite, and BAD there."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        values = _spread(value, size, value.dtype)
        unknown = nulls(values)
    elif kind == TEXT:
        values = np.full(size, None, dtype=object)
        unknown = np.ones(size, dtype=np.bool_)
    else:
        values = _spread(value, size, _FLOAT)
        unknown = ~np.isfinite(values)
    qualities = _spread(quality, size, _BYTE)
    if unknown.any():
        qualities = np.where(unknown, np.uint8(2), qualities)
        if not values.dtype.hasobject:
            values = np.where(unknown, np.nan, values)
    return Column(values, qualities)


def _spread(value: Any, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(value, np.ndarray) and value.shape == (size,) and value.dtype == dtype:
        return value
    spread = np.empty(size, dtype=dtype)
    spread[:] = value
    return spread


def compile_expression(
    text: str, *, names: Collection[str] = (), place: str = "expression", through_time: bool = True
) -> Expression:
    """The expression of a text.

    names: the plain names that mean something there. place: where the text stands, for a refusal. through_time: whether
    the caller follows tags through time, so that prev, delta, rate and age work. Raises Refusal, with the column.
    """
    try:
        expression = _compiled(text)
        for reference in expression._references:
            if not reference.braces and reference.name not in names:
                raise unknown_name(reference, sorted({*names, *functions.SIGNATURES}))
        if not through_time:
            for reference, function in expression._backward:
                raise ExpressionError(
                    f"uses {function} at column {reference.column}, which has no past to look at there",
                    f"derive a tag with {function}, and use that",
                )
    except ExpressionError as error:
        raise Refusal(place, text, error.problem, error.remedy) from None
    return expression


@lru_cache(maxsize=4_096)
def _compiled(text: str, longest: int = LONGEST) -> Expression:
    writer = _Writer()
    result = writer.write(parse(text, longest))
    code = writer.code(result)
    references = tuple(writer.references)
    return Expression(
        text,
        tuple(dict.fromkeys(one.name for one in references if one.braces)),
        tuple(dict.fromkeys(one.name for one in references if not one.braces)),
        result.kind,
        frozenset(name for name, aspect in writer.inputs if aspect in (_BEFORE, _SPAN)),
        frozenset(name for name, aspect in writer.inputs if aspect == _AGE),
        references,
        tuple(writer.backward),
        tuple(writer.inputs),
        _function(code, functions.COLUMNS, writer.constants, lambda text: values_of([text])),
        _function(code, functions.SINGLE, writer.constants, lambda text: text),
    )


# --- writing code ---


@dataclass(frozen=True, slots=True)
class _Operand:
    """A result that later operations use."""

    code: ast.expr
    qualities: frozenset[str]
    """The variables whose worst is its quality; none: GOOD."""
    kind: str
    column: int
    infinite: bool = False
    """May hold infinities, which are unknown."""
    raw: bool = False
    """Comes from a tag as it is, and may be a text."""


class _Writer:
    """Writes the code of a tree. Names in it: v0, q0 inputs, t0 results between, k0 constants, f0 functions."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, str]] = []
        self.references: list[Reference] = []
        self.backward: list[tuple[Reference, str]] = []
        self.constants: list[Any] = []
        self._body: list[ast.stmt] = []
        self._numbers: dict[str, _Operand] = {}
        self._used: dict[str, str] = {}

    def code(self, result: _Operand) -> tuple[CodeType, dict[str, str]]:
        """The module with the function of everything written, and which functions it calls by which names."""
        self._body.append(ast.Return(ast.Tuple([result.code, self._worst(result.qualities)], ast.Load())))
        arguments = [ast.arg(f"{letter}{place}") for place in range(len(self.inputs)) for letter in "vq"]
        function = ast.parse("def evaluate(): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.args.args = arguments
        function.body = self._body
        module = ast.fix_missing_locations(ast.Module([function], []))
        return compile(module, "<expression>", "exec"), dict(self._used)

    # --- nodes ---

    def write(self, node: Node) -> _Operand:
        """The code of a node and of all below it."""
        if isinstance(node, Literal):
            return self._literal(node)
        if isinstance(node, Reference):
            self.references.append(node)
            return self._input(node, _VALUE)
        if isinstance(node, Unary):
            return self._unary(node)
        if isinstance(node, Binary):
            return self._binary(node)
        if isinstance(node, Compare):
            return self._compare(node)
        if isinstance(node, Among):
            return self._among(node)
        if isinstance(node, Logic):
            return self._logic(node)
        if isinstance(node, Choice):
            return self._choice(node.column, *map(self.write, (node.condition, node.then, node.otherwise)))
        assert isinstance(node, Call)
        return self._call(node)

    def _literal(self, node: Literal) -> _Operand:
        if isinstance(node.value, str):
            self.constants.append(node.value)
            return _Operand(_name(f"k{len(self.constants) - 1}"), frozenset(), TEXT, node.column)
        kind = BOOLEAN if isinstance(node.value, bool) else NUMBER
        return _Operand(ast.Constant(float(node.value)), frozenset(), kind, node.column)

    def _input(self, node: Reference, aspect: str) -> _Operand:
        key = (node.name, aspect)
        if key not in self.inputs:
            self.inputs.append(key)
        number = self.inputs.index(key)
        kind, raw = (ANY, True) if aspect in (_VALUE, _BEFORE) else (NUMBER, False)
        return _Operand(_name(f"v{number}"), frozenset([f"q{number}"]), kind, node.column, raw=raw)

    def _unary(self, node: Unary) -> _Operand:
        operand = self.write(node.operand)
        if node.operator == "not":
            truth = self._truth(operand)
            return self._put("not", [truth], truth.qualities, BOOLEAN, node.column)
        number = self._number(operand)
        if node.operator == "+":
            return number
        return self._keep(ast.UnaryOp(ast.USub(), number.code), number.qualities, number.infinite, node.column)

    def _binary(self, node: Binary) -> _Operand:
        # a + b + c + … hangs down on the left as long as the text is: it is gone through in a loop
        chain = [node]
        while isinstance(chain[-1].left, Binary):
            chain.append(chain[-1].left)
        result = self.write(chain[-1].left)
        for one in reversed(chain):
            result = self._arithmetic(one, self._number(result), self._number(self.write(one.right)))
        return result

    def _arithmetic(self, node: Binary, left: _Operand, right: _Operand) -> _Operand:
        qualities = left.qualities | right.qualities
        inline = {"+": ast.Add, "-": ast.Sub, "*": ast.Mult}.get(node.operator)
        if inline is not None:
            return self._keep(ast.BinOp(left.code, inline(), right.code), qualities, True, node.column)
        if node.operator == "/":
            if isinstance(right.code, ast.Constant) and right.code.value:
                return self._keep(ast.BinOp(left.code, ast.Div(), right.code), qualities, True, node.column)
            return self._put("/", [left, self._finite(right)], qualities, NUMBER, node.column, infinite=True)
        operands = [self._finite(left), self._finite(right)]
        return self._put(node.operator, operands, qualities, NUMBER, node.column, infinite=True)

    def _compare(self, node: Compare) -> _Operand:
        operands = [self.write(one) for one in node.operands]
        result: _Operand | None = None
        for operator, left, right in zip(node.operators, operands, operands[1:], strict=False):
            one = self._comparison(operator, left, right, node.column)
            result = one if result is None else self._both("and", result, one, node.column)
        assert result is not None
        return result

    def _comparison(self, operator: str, left: _Operand, right: _Operand, column: int) -> _Operand:
        qualities = left.qualities | right.qualities
        if operator not in ("==", "!="):
            for one in (left, right):
                if one.kind == TEXT:
                    raise ExpressionError(
                        f"compares a text by {operator} at column {column}", "texts are compared with ==, != and in"
                    )
            operands = [self._finite(self._number(left)), self._finite(self._number(right))]
            return self._put(operator, operands, qualities, BOOLEAN, column)
        kinds = {left.kind, right.kind} - {ANY}
        if TEXT in kinds and len(kinds) > 1:
            raise ExpressionError(
                f"compares a text with a {next(iter(kinds - {TEXT}))} at column {column}",
                "they are never the same: write both as numbers, or both as texts in quotes",
            )
        equal = self._put("==", [self._finite(left), self._finite(right)], qualities, BOOLEAN, column)
        return equal if operator == "==" else self._put("not", [equal], qualities, BOOLEAN, column)

    def _among(self, node: Among) -> _Operand:
        operand = self._finite(self.write(node.operand))
        numbers = tuple(float(one.value) for one in node.choices if not isinstance(one.value, str))
        texts = frozenset(one.value for one in node.choices if isinstance(one.value, str))
        if (operand.kind == TEXT and numbers) or (operand.kind in (NUMBER, BOOLEAN) and texts):
            raise ExpressionError(
                f"looks for texts among numbers, or for numbers among texts, at column {node.column}",
                "write the same kind of value on both sides",
            )
        self.constants += (numbers, texts)
        listed = [_name(f"k{len(self.constants) - 2}"), _name(f"k{len(self.constants) - 1}")]
        found = self._assign(ast.Call(self._function("among"), [operand.code, *listed], []))
        result = _Operand(found, operand.qualities, BOOLEAN, node.column)
        return self._put("not", [result], result.qualities, BOOLEAN, node.column) if node.negated else result

    def _logic(self, node: Logic) -> _Operand:
        result = self._truth(self.write(node.operands[0]))
        for operand in node.operands[1:]:
            result = self._both(node.operator, result, self._truth(self.write(operand)), node.column)
        return result

    def _both(self, operator: str, left: _Operand, right: _Operand, column: int) -> _Operand:
        """Two truths in one; where one of them decides alone, the other's quality does not count."""
        result = self._put(operator, [left, right], frozenset(), BOOLEAN, column)
        qualities = left.qualities | right.qualities
        if len(qualities) < 2 and left.qualities == right.qualities:
            return _Operand(result.code, qualities, BOOLEAN, column)
        one = self._settled_quality(left)
        other = self._settled_quality(right)
        quality = self._assign(
            ast.Call(self._function(f"{operator} quality"), [result.code, left.code, one, right.code, other], [])
        )
        return _Operand(result.code, frozenset([quality.id]), BOOLEAN, column)

    def _choice(self, column: int, condition: _Operand, then: _Operand, otherwise: _Operand) -> _Operand:
        kinds = {then.kind, otherwise.kind} - {ANY}
        if TEXT in kinds and len(kinds) > 1:
            raise ExpressionError(
                f"gives a text or a {next(iter(kinds - {TEXT}))} at column {column}",
                "write both as numbers, or both as texts in quotes",
            )
        if TEXT in kinds:
            then, otherwise = self._text(then), self._text(otherwise)
        elif kinds:
            then, otherwise = self._number(then), self._number(otherwise)
        kind = kinds.pop() if len(kinds) == 1 else (NUMBER if kinds else ANY)
        truth = self._truth(condition)
        chosen = self._put("choose", [truth, then, otherwise], frozenset(), kind, column)
        if then.qualities == otherwise.qualities:
            qualities = truth.qualities | then.qualities
        else:
            codes = [self._worst(one.qualities) for one in (truth, then, otherwise)]
            quality = self._assign(ast.Call(self._function("choose quality"), [truth.code, *codes], []))
            qualities = frozenset([quality.id])
        return _Operand(
            chosen.code, qualities, kind, column, then.infinite or otherwise.infinite, then.raw or otherwise.raw
        )

    def _call(self, node: Call) -> _Operand:
        signature = functions.SIGNATURES.get(node.function)
        if signature is None:
            known = sorted(functions.SIGNATURES)
            raise ExpressionError(
                f"has the unknown function {node.function} at column {node.column}",
                did_you_mean(node.function, known) or f"there are: {', '.join(known)}",
            )
        given = len(node.arguments)
        if not signature.least <= given <= signature.most:
            wanted = str(signature.least) if signature.least == signature.most else f"at least {signature.least}"
            if signature.least < signature.most < functions.MOST_ARGUMENTS:
                wanted = f"{signature.least} to {signature.most}"
            shown = f"{given} argument{'' if given == 1 else 's'}"
            raise ExpressionError(
                f"gives {node.function} {shown} at column {node.column}, not {wanted}",
                f"write it as {signature.example}",
            )
        if node.function in functions.THROUGH_TIME:
            return self._through_time(node)
        arguments = [self.write(one) for one in node.arguments]
        if node.function == "if_else":
            return self._choice(node.column, *arguments)
        if node.function == "isnan":
            return self._put("isnan", [self._finite(arguments[0])], frozenset(), BOOLEAN, node.column)
        if node.function in functions.ABOUT_QUALITY:
            quality = self._settled_quality(arguments[0])
            about = self._assign(ast.Call(self._function(node.function), [quality], []))
            return _Operand(about, frozenset(), NUMBER if node.function == "quality" else BOOLEAN, node.column)
        return self._plain(node, signature, [self._number(one) for one in arguments])

    def _plain(self, node: Call, signature: functions.Signature, numbers: list[_Operand]) -> _Operand:
        infinite = signature.infinite or any(one.infinite for one in numbers)
        if signature.finite:
            numbers = [self._finite(one) for one in numbers]
            infinite = signature.infinite
        qualities = frozenset[str]().union(*(one.qualities for one in numbers))
        if node.function == "round":
            digits = node.arguments[1] if len(numbers) > 1 else Literal(node.column, 0.0)
            if (
                not isinstance(digits, Literal)
                or isinstance(digits.value, (bool, str))
                or digits.value not in range(16)
            ):
                raise ExpressionError(
                    f"rounds to something else than 0 to 15 digits at column {digits.column}", "write round({x}, 2)"
                )
            numbers = [numbers[0], _Operand(ast.Constant(digits.value), frozenset(), NUMBER, node.column)]
        if node.function in ("min", "max"):
            result = numbers[0]
            for one in numbers[1:]:
                result = self._put(node.function, [result, one], qualities, NUMBER, node.column)
            return result
        return self._put(node.function, numbers, qualities, NUMBER, node.column, infinite=infinite)

    def _through_time(self, node: Call) -> _Operand:
        (argument,) = node.arguments
        if not isinstance(argument, Reference):
            raise ExpressionError(
                f"gives {node.function} at column {node.column} something else than a tag",
                f"write {functions.SIGNATURES[node.function].example}; derive a tag first for anything else",
            )
        self.references.append(argument)
        self.backward.append((argument, node.function))
        if node.function == "age":
            seconds = self._input(argument, _AGE)
            return _Operand(seconds.code, frozenset(), NUMBER, node.column)
        before = self._input(argument, _BEFORE)
        if node.function == "prev":
            return before
        value, earlier = self._number(self._input(argument, _VALUE)), self._number(before)
        qualities = value.qualities | earlier.qualities
        delta = self._keep(ast.BinOp(value.code, ast.Sub(), earlier.code), qualities, True, node.column)
        if node.function == "delta":
            return delta
        span = self._input(argument, _SPAN)
        return self._put("/", [delta, span], qualities, NUMBER, node.column, infinite=True)

    # --- what operands become ---

    def _number(self, operand: _Operand) -> _Operand:
        """The operand as numbers; texts of a tag are unknown."""
        if operand.kind == TEXT:
            raise ExpressionError(
                f"has a text at column {operand.column}, where a number is needed",
                "texts are compared with ==, != and in",
            )
        if operand.kind != ANY:
            return operand
        key = ast.dump(operand.code)
        if key not in self._numbers:
            self._numbers[key] = self._put(
                "number", [operand], operand.qualities, NUMBER, operand.column, infinite=operand.infinite
            )
        return self._numbers[key]

    def _text(self, operand: _Operand) -> _Operand:
        if operand.kind == TEXT:
            return operand
        return self._put("texts", [operand], operand.qualities, TEXT, operand.column)

    def _finite(self, operand: _Operand) -> _Operand:
        if not operand.infinite:
            return operand
        return self._put("finite", [operand], operand.qualities, operand.kind, operand.column)

    def _truth(self, operand: _Operand) -> _Operand:
        if operand.kind == BOOLEAN:
            return operand
        number = self._finite(self._number(operand))
        return self._put("truth", [number], number.qualities, BOOLEAN, operand.column)

    def _settled_quality(self, operand: _Operand) -> ast.expr:
        """The quality of an operand where it counts by itself: BAD where there is no value."""
        finite = self._finite(operand)
        return self._assign(ast.Call(self._function("settled"), [finite.code, self._worst(operand.qualities)], []))

    def _worst(self, qualities: frozenset[str]) -> ast.expr:
        names = [_name(one) for one in sorted(qualities)]
        if not names:
            return ast.Constant(0)
        return names[0] if len(names) == 1 else self._assign(ast.Call(self._function("worst"), list(names), []))

    # --- code ---

    def _put(
        self,
        operation: str,
        operands: Sequence[_Operand],
        qualities: frozenset[str],
        kind: str,
        column: int,
        *,
        infinite: bool = False,
    ) -> _Operand:
        name = self._assign(ast.Call(self._function(operation), [one.code for one in operands], []))
        return _Operand(name, qualities, kind, column, infinite)

    def _keep(self, code: ast.expr, qualities: frozenset[str], infinite: bool, column: int) -> _Operand:
        return _Operand(self._assign(code), qualities, NUMBER, column, infinite)

    def _assign(self, code: ast.expr) -> ast.Name:
        name = f"t{len(self._body)}"
        self._body.append(ast.Assign([ast.Name(name, ast.Store())], code))
        return _name(name)

    def _function(self, operation: str) -> ast.Name:
        return _name(self._used.setdefault(operation, f"f{len(self._used)}"))


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _function(
    code: tuple[CodeType, dict[str, str]],
    operations: Mapping[str, Callable[..., Any]],
    constants: Sequence[Any],
    text: Callable[[str], Any],
) -> Callable[..., tuple[Any, Any]]:
    """The function of the code, which can reach these operations and constants, and nothing else."""
    module, used = code
    reach: dict[str, Any] = {"__builtins__": {}}
    reach.update({name: operations[operation] for operation, name in used.items()})
    reach.update({f"k{n}": text(one) if isinstance(one, str) else one for n, one in enumerate(constants)})
    exec(module, reach)  # noqa: S102 - code that was built above, of fixed names: nothing that a user wrote is in it
    made: Callable[..., tuple[Any, Any]] = reach["evaluate"]
    return made
