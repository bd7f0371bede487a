"""What expressions give: values, unknowns and qualities, over columns and over single values."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor.expressions import Column, compile_expression

Value = float | str | None

TABLE: list[tuple[str, dict[str, Value], Value]] = [
    ("({f} - 32) * 5 / 9", {"f": 212.0}, 100.0),
    ("2 + 3 * 4 ** 2 / 8 - 7 // 2", {}, 5.0),
    ("-2 ** 2", {}, -4.0),
    ("2 ** -1", {}, 0.5),
    ("2 ** 3 ** 2", {}, 512.0),
    ("7 % 3", {}, 1.0),
    ("-7 % 3", {}, 2.0),
    ("-7 // 2", {}, -4.0),
    (".5 + 1e-1 + 1E1", {}, 10.6),
    ("true + true", {}, 2.0),
    ("1 < 2 <= 2 < 3", {}, 1.0),
    ("1 < 2 > 2", {}, 0.0),
    ("not 1 == 2", {}, 1.0),
    ("1 or 1 and 0", {}, 1.0),
    ("(1 or 1) and 0", {}, 0.0),
    ("{a} in (1, 2.5, -3)", {"a": -3.0}, 1.0),
    ("{a} not in (1, 2)", {"a": 2.0}, 0.0),
    ("{s} in ('RUN', 'HOLD')", {"s": "HOLD"}, 1.0),
    ("{s} in ('RUN')", {"s": "run"}, 0.0),
    ("{s} == 'RUN'", {"s": "RUN"}, 1.0),
    ("{s} != 'RUN'", {"s": "RUN"}, 0.0),
    ("{s} == 5", {"s": "5"}, 0.0),
    ("'on' if {a} > 1 else 'off'", {"a": 2.0}, "on"),
    ("{s} if {a} else 'none'", {"a": 0.0, "s": "x"}, "none"),
    ("1 if 0 else 2 if 0 else 3", {}, 3.0),
    ("if_else({a} > 1, 10, 20)", {"a": 0.0}, 20.0),
    ("abs(-3) + min(4, 2, 3) + max(1, 5)", {}, 10.0),
    ("sqrt(16) + floor(1.7) + ceil(1.2)", {}, 7.0),
    ("round(2.5) + round(3.5)", {}, 6.0),
    ("round(1.23456, 2)", {}, 1.23),
    ("clamp({a}, 0, 100)", {"a": 120.0}, 100.0),
    ("exp(0) + log(1) + log10(100)", {}, 3.0),
    ("sin(0) + cos(0) + tan(0)", {}, 1.0),
    # no result
    ("1 / {a}", {"a": 0.0}, None),
    ("1 // {a}", {"a": 0.0}, None),
    ("1 % {a}", {"a": 0.0}, None),
    ("sqrt(-1)", {}, None),
    ("log(0)", {}, None),
    ("(-8) ** 0.5", {}, None),
    ("0 ** -1", {}, None),
    ("1e308 * 10", {}, None),
    ("1 / (1e308 * 10)", {}, None),
    ("exp(1000)", {}, None),
    ("exp(-(1e308 * 10))", {}, None),
    ("1e308 * 10 > 5", {}, None),
    ("min(1e308 * 10, 5)", {}, None),
    ("5 % (1e308 * 10)", {}, None),
    ("1e308 * 10 == 1e308 * 10", {}, None),
    # what is unknown stays unknown, unless it does not matter
    ("{a} + 1", {"a": None}, None),
    ("{missing} * 0", {}, None),
    ("{a} > 1", {"a": None}, None),
    ("{a} != {a}", {"a": None}, None),
    ("not {a}", {"a": None}, None),
    ("{a} or 1", {"a": None}, 1.0),
    ("{a} or 0", {"a": None}, None),
    ("{a} and 0", {"a": None}, 0.0),
    ("0 and {a}", {"a": None}, 0.0),
    ("{a} and 1", {"a": None}, None),
    ("1 if {a} else 2", {"a": None}, None),
    ("1 if {b} else {a}", {"a": None, "b": 1.0}, 1.0),
    ("1 / {b} if {b} != 0 else 0", {"b": 0.0}, 0.0),
    ("min({a}, 1)", {"a": None}, None),
    ("{a} in (1, 2)", {"a": None}, None),
    ("isnan({a})", {"a": None}, 1.0),
    ("isnan(1 / {b})", {"b": 0.0}, 1.0),
    ("isnan({b})", {"b": 0.0}, 0.0),
    ("good({a}) + 2 * bad({a}) + quality({a})", {"a": None}, 4.0),
    ("quality(1 / {b})", {"b": 0.0}, 2.0),
    # texts take no part in arithmetic
    ("{s} * 1000000000", {"s": "a"}, None),
    ("{s} + {s}", {"s": "a"}, None),
    ("{s} > 1", {"s": "a"}, None),
    ("{s} or 1", {"s": "a"}, 1.0),
    ("{s} or 0", {"s": "a"}, None),
    ("{s} % 5", {"s": "%s"}, None),
]


def columns(values: Mapping[str, Value]) -> dict[str, Column]:
    return {name: Column.of([value]) for name, value in values.items()}


def plain(column: Column, row: int = 0) -> Value:
    value = column.value[row]
    return None if value is None or value != value else value


@pytest.mark.parametrize(("text", "values", "expected"), TABLE)
def test_values(text: str, values: dict[str, Value], expected: Value) -> None:
    expression = compile_expression(text)
    column = expression.evaluate(columns(values))
    one, quality = expression.evaluate_one(values)
    if isinstance(expected, float):
        assert plain(column) == pytest.approx(expected)
        assert one == pytest.approx(expected)
    else:
        assert plain(column) == one == expected
    assert len(column) == 1
    assert column.quality.tolist() == [quality]
    assert (quality == 2) == (expected is None)


QUALITIES = [
    # a has quality 1 and value 1, b quality 2 and value 1, g is GOOD 0, n null
    ("{a} + {g}", 1),
    ("{a} + {b}", 2),
    ("{g} + 1", 0),
    ("1 if {g} else {g}", 0),
    ("{a} if {g} else {b}", 2),
    ("{b} if {g} else {a}", 1),
    ("{g} if {a} else {b}", 1),
    ("{g} and {b}", 0),  # false alone decides
    ("{b} and {g}", 0),
    ("{a} and {b}", 2),
    ("{a} or {b}", 1),  # the better of those that decide
    ("{g} or {a}", 1),
    ("{b} or {g}", 2),
    ("{n} and {g}", 0),
    ("{n} or {a}", 1),
    ("{n} or {g}", 2),
    ("{g} > 5 > {b}", 0),
    ("good({b})", 0),
    ("bad({b})", 0),
    ("quality({a})", 0),
    ("isnan({n})", 0),
    ("max({g}, {a})", 1),
    ("{a} in (1, 2)", 1),
]


@pytest.mark.parametrize(("text", "quality"), QUALITIES)
def test_quality_is_the_worst_of_what_took_part(text: str, quality: int) -> None:
    values: dict[str, Value] = {"a": 1.0, "b": 1.0, "g": 0.0, "n": None}
    qualities = {"a": 1, "b": 2, "g": 0, "n": 2}
    expression = compile_expression(text)
    given_columns = {name: Column.of([value], [qualities[name]]) for name, value in values.items()}
    assert expression.evaluate(given_columns).quality.tolist() == [quality]
    assert expression.evaluate_one(values, qualities)[1] == quality


def test_what_a_text_of_expression_gives_is_known_beforehand() -> None:
    kinds = {"{a}": "any", "{a} + 1": "number", "{a} > 1": "boolean", "'x' if {a} else {b}": "text", "prev({a})": "any"}
    assert {text: compile_expression(text).kind for text in kinds} == kinds


def test_the_same_text_is_compiled_once() -> None:
    assert compile_expression("{a} + 12.5") is compile_expression("{a} + 12.5")


def test_expressions_that_differ_in_tags_alone_have_one_form() -> None:
    one, tags = compile_expression("{Site/A} * flow + {Site/A}", names=["flow"]).form()
    other, _ = compile_expression("{B} * {C} + {B}").form()
    assert one is other
    assert [(tag.name, tag.braces) for tag in tags] == [("Site/A", True), ("flow", False)]


def test_rows_of_length_one_stand_for_all() -> None:
    column = compile_expression("{a} * k", names=["k"]).evaluate(
        {"a": Column.of([1.0, 2.0, None]), "k": Column.constant(3.0)}
    )
    assert column.value[:2].tolist() == [3.0, 6.0]
    assert column.quality.tolist() == [0, 0, 2]
    assert len(compile_expression("5").evaluate({"a": Column.of([1.0, 2.0])})) == 1
    assert len(compile_expression("{a} + 1").evaluate({"a": Column.of([])})) == 0


def test_inputs_are_left_alone() -> None:
    given_column = Column.of([1.0, None], [1, 2])
    for text in ("{a}", "-{a}", "{a} / 0", "{a} if 1 else 0", "abs({a})"):
        compile_expression(text).evaluate({"a": given_column})
    assert given_column.quality.tolist() == [1, 2]
    assert given_column.value[0] == 1.0


def test_what_is_followed_through_time() -> None:
    before = Column.of([10.0, None])
    column = Column(
        np.array([16.0, 5.0]),
        np.zeros(2, dtype=np.uint8),
        before,
        age=np.array([0.5, 3.0]),
        span=np.array([2.0, np.nan]),
    )
    given_columns = {"a": column}

    def of(text: str) -> list[Value]:
        result = compile_expression(text).evaluate(given_columns)
        return [plain(result, row) for row in range(2)]

    assert of("prev({a})") == [10.0, None]
    assert of("delta({a})") == [6.0, None]
    assert of("rate({a})") == [3.0, None]
    assert of("age({a})") == [0.5, 3.0]


# --- against interpreters that know nothing of ours ---

NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, -2.5, 3.0, 7.0, 100.0, 1e308, -1e308, 1e-300])
TAGS = ("a", "b", "c")
Tree = tuple[Any, ...]


def trees() -> st.SearchStrategy[Tree]:
    leaves = st.one_of(st.tuples(st.just("number"), NUMBERS), st.tuples(st.just("tag"), st.sampled_from(TAGS)))

    def more(below: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        return st.one_of(
            st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%"]), below, below),
            st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), below, below),
            st.tuples(st.sampled_from(["and", "or"]), below, below),
            st.tuples(st.sampled_from(["and", "or"]), below, below, below),
            st.tuples(
                st.sampled_from(["neg", "not", "abs", "sqrt", "floor", "isnan", "good", "bad", "quality"]), below
            ),
            st.tuples(st.sampled_from(["min", "max"]), below, below),
            st.tuples(st.sampled_from(["if", "if_else", "clamp"]), below, below, below),
        )

    return st.recursive(leaves, more, max_leaves=12)


def written(tree: Tree) -> str:
    kind, *below = tree
    if kind == "number":
        return f"({below[0]!r})"
    if kind == "tag":
        return f"{{{below[0]}}}"
    parts = [written(one) for one in below]
    if kind == "neg":
        return f"(-{parts[0]})"
    if kind == "not":
        return f"(not {parts[0]})"
    if kind == "if":
        return f"({parts[1]} if {parts[0]} else {parts[2]})"
    if kind[0].isalpha() and kind not in ("and", "or"):
        return f"{kind}({', '.join(parts)})"
    return "(" + f" {kind} ".join(parts) + ")"


def walked(tree: Tree, values: Mapping[str, tuple[float | None, int]]) -> tuple[float | None, int]:
    """One row, node by node, straight from the rules."""
    kind, *below = tree
    if kind == "number":
        return below[0], 0
    if kind == "tag":
        value, quality = values[below[0]]
        return (None, 2) if value is None else (value, quality)
    parts = [walked(one, values) for one in below]
    known = [value for value, _ in parts if value is not None]
    if kind in ("good", "bad", "quality", "isnan"):
        value, quality = parts[0]
        told = {"good": quality == 0, "bad": quality == 2, "quality": quality, "isnan": value is None}[kind]
        return float(told), 0
    if kind in ("and", "or"):
        decides = kind == "or"
        deciding = [quality for value, quality in parts if value is not None and bool(value) == decides]
        if deciding:
            return float(decides), min(deciding)
        return (float(not decides), max(q for _, q in parts)) if len(known) == len(parts) else (None, 2)
    if kind in ("if", "if_else"):
        (condition, worst), then, otherwise = parts
        if condition is None:
            return None, 2
        value, quality = then if condition else otherwise
        return (None, 2) if value is None else (value, max(worst, quality))
    if len(known) < len(parts):
        return None, 2
    try:
        result = float(_calculated(kind, known))
    except (ArithmeticError, ValueError):
        return None, 2
    return (result, max(quality for _, quality in parts)) if math.isfinite(result) else (None, 2)


def _calculated(kind: str, of: list[float]) -> float:
    python = {
        "+": "a + b", "-": "a - b", "*": "a * b", "/": "a / b", "//": "a // b", "%": "a % b", "<": "a < b",
        "<=": "a <= b", ">": "a > b", ">=": "a >= b", "==": "a == b", "!=": "a != b", "neg": "-a", "not": "not a",
        "abs": "abs(a)", "sqrt": "sqrt(a)", "floor": "floor(a)", "min": "min(a, b)", "max": "max(a, b)",
        "clamp": "min(max(a, b), c)",
    }[kind]  # fmt: skip
    return float(eval(python, {"sqrt": math.sqrt, "floor": math.floor}, dict(zip("abc", of, strict=False))))


ROWS = st.lists(
    st.fixed_dictionaries({name: st.tuples(st.none() | NUMBERS, st.integers(0, 2)) for name in TAGS}),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(trees(), ROWS)
def test_columns_and_single_values_give_what_a_slow_interpreter_gives(
    tree: Tree, rows: list[dict[str, tuple[float | None, int]]]
) -> None:
    expression = compile_expression(written(tree))
    expected = [walked(tree, row) for row in rows]
    column = expression.evaluate(
        {name: Column.of([row[name][0] for row in rows], [row[name][1] for row in rows]) for name in TAGS}
    )
    found = [(plain(column, row % len(column)), int(column.quality[row % len(column)])) for row in range(len(rows))]
    assert found == expected
    for row, wanted in zip(rows, expected, strict=True):
        one = expression.evaluate_one(
            {name: value for name, (value, _) in row.items()}, {name: quality for name, (_, quality) in row.items()}
        )
        assert one == wanted


def python_trees() -> st.SearchStrategy[ast.expr]:
    leaves = st.one_of(
        st.integers(0, 20).map(lambda number: ast.Constant(float(number))),
        st.sampled_from(["x", "y", "z"]).map(lambda name: ast.Name(name, ast.Load())),
    )

    def more(below: st.SearchStrategy[ast.expr]) -> st.SearchStrategy[ast.expr]:
        operators = st.sampled_from([ast.Add(), ast.Sub(), ast.Mult(), ast.Div(), ast.FloorDiv(), ast.Mod(), ast.Pow()])
        comparisons = st.sampled_from([ast.Lt(), ast.LtE(), ast.Gt(), ast.GtE(), ast.Eq(), ast.NotEq()])
        truths = st.builds(lambda a, op, b: ast.Compare(a, [op], [b]), below, comparisons, below)
        return st.one_of(
            st.builds(ast.BinOp, below, operators, below),
            st.builds(lambda operand: ast.UnaryOp(ast.USub(), operand), below),
            truths,
            st.builds(
                lambda a, o, b, p, c: ast.Compare(a, [o, p], [b, c]), below, comparisons, below, comparisons, below
            ),
            st.builds(lambda operand: ast.UnaryOp(ast.Not(), operand), truths),
            st.builds(lambda op, a, b: ast.BoolOp(op, [a, b]), st.sampled_from([ast.And(), ast.Or()]), truths, truths),
            st.builds(ast.IfExp, truths, below, below),
        )

    return st.recursive(leaves, more, max_leaves=10)


@settings(max_examples=400, deadline=None)
@given(python_trees(), *[st.floats(-5, 5).map(lambda number: round(number, 2))] * 3)
def test_operators_bind_as_they_do_in_python(tree: ast.expr, x: float, y: float, z: float) -> None:
    """The tree is written with as few parentheses as it needs, so that precedence decides."""
    text = ast.unparse(ast.fix_missing_locations(tree))
    value, _ = compile_expression(text, names=("x", "y", "z")).evaluate_one({"x": x, "y": y, "z": z})
    parts = [part for part in ast.walk(tree) if isinstance(part, ast.expr)]
    if all(_usual(part, x, y, z) is not None for part in parts):
        assert value == pytest.approx(_usual(tree, x, y, z), rel=1e-9)
    elif value is not None and (expected := _usual(tree, x, y, z)) is not None:
        assert value == pytest.approx(expected, rel=1e-9)


def _usual(part: ast.expr, x: float, y: float, z: float) -> float | None:
    """What Python gives; None for errors, infinities and complex numbers, which are unknown to us."""
    try:
        result = eval(ast.unparse(part), {"__builtins__": {}}, {"x": x, "y": y, "z": z})
        return float(result) if math.isfinite(result) else None
    except (ArithmeticError, ValueError, TypeError):
        return None
