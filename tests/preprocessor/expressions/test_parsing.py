"""What is no expression is refused with its column and a remedy, and nothing costs more than its length."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.refusal import Refusal
from preprocessor.expressions import compile_expression
from preprocessor.expressions.parsing import ExpressionError, parse

WRONG = [
    # text, what the problem says, what the remedy says
    ("", "is empty", "{Reactor/Temp} > 90"),
    ("   \n ", "is empty", "write"),
    ("{a} && {b}", "has && at column 5", "write and"),
    ("{a} || {b}", "has || at column 5", "write or"),
    ("!{a}", "has ! at column 1", "write not"),
    ("{a} = 3", "has = at column 5", "write == to compare"),
    ("{a} <> 3", "has <> at column 5", "write !="),
    ("{a} ^ 2", "has ^ at column 5", "write **"),
    ("{a} ? 1 : 2", "has ? at column 5", "write a if condition else b"),
    ("{a} AND {b}", "has AND at column 5", "write and"),
    ("1,5 * {a}", "has , at column 2", "0.5"),
    ("{a", "a brace without its other at column 1", "{tag name}"),
    ("a}", "a brace without its other at column 2", "{tag name}"),
    ("{}", "empty braces at column 1", "the tag's name"),
    ("{a} + 'x", "a text that does not end, from column 7", "close it with '"),
    ("12abc", "a number that cannot be read at column 1", "braces"),
    ("1.2.3", "a number that cannot be read at column 1", "0.5"),
    ("{a} > ä", "has ä at column 7", "{tag names}"),
    ("{a} +", "ends at column 6", "the rest"),
    ("({a} + 1", "ends at column 9", "the rest"),
    ("{a} 5", "has 5 at column 5, where an operator is expected", "operators"),
    ("{a} in ()", "has an empty list", "(1, 2, 3)"),
    ("{a} in 5", "where a list such as (1, 2, 3) in parentheses is expected", "operators"),
    ("{a} in ({b})", "a list with something else than numbers and texts at column 9", "values themselves"),
    ("{a}(1)", "has ( at column 4", "abs({tag})"),
    ("1 if {a}", "where else is missing", "the rest"),
    ("1e999", "too large at column 1", "1e308"),
    ("{a} < 'x'", "compares a text by < at column 5", "=="),
    ("{a} + 'x'", "has a text at column 7, where a number is needed", "=="),
    ("1 == 'x'", "compares a text with a number at column 3", "both"),
    ("'x' if {a} else 1", "gives a text or a number at column 5", "both"),
    ("not 'x'", "has a text at column 5", "=="),
    ("'x' in (1, 2)", "texts among numbers", "the same kind"),
    ("abs({a}, 1)", "gives abs 2 arguments at column 1, not 1", "abs({Level})"),
    ("min({a})", "gives min 1 argument at column 1, not at least 2", "min({A}, {B})"),
    ("round({a}, 1.5)", "rounds to something else than 0 to 15 digits at column 12", "round({x}, 2)"),
    ("squrt({a})", "has the unknown function squrt at column 1", "did you mean sqrt?"),
    ("prev({a} + 1)", "something else than a tag", "prev({x})"),
    ("temq + 1", "has the unknown name temq at column 1", "did you mean temp?"),
    ("2 * other", "has the unknown name other at column 5", "{other}"),
]


@pytest.mark.parametrize(("text", "problem", "remedy"), WRONG)
def test_what_is_wrong_is_told_with_its_column_and_a_remedy(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(Refusal) as refused:
        compile_expression(text, names=["temp", "flow"], place="outputs.x.expression")
    assert problem in refused.value.problem
    assert remedy in refused.value.remedy
    assert (refused.value.place, refused.value.value) == ("outputs.x.expression", text)


ATTACKS = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "x.__class__",
    "{a}.__class__",
    "open('/etc/passwd').read()",
    "eval('1')",
    "lambda: 1",
    "[x for x in (1, 2)]",
    "f'{1}'",
    "b'x'",
    "x := 1",
    "'%s' % 5",
    "'a' * 10**10",
    "('a' * 1000) * 1000",
    "1 << 100",
    "~1",
    "a[0]",
    "globals()",
    "{a}\x00",
    "print",
    "'\\x41' + 1",
    "1_000",
    "0x10",
    "1j",
    "**{a}",
    "*{a}",
    "@",
    "`ls`",
    "{a};{b}",
    "#",
    "9" * 400,
]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_outside_can_be_reached(text: str) -> None:
    with pytest.raises(Refusal):
        compile_expression(text)


SHAPES: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: "(" * n + "1" + ")" * n,
    "signs": lambda n: "-" * n + "1",
    "not": lambda n: "not " * n + "1",
    "powers": lambda n: "**".join(["9"] * n),
    "sums": lambda n: "+".join(["1"] * n),
    "choices": lambda n: "1 if 1 else " * n + "1",
    "functions": lambda n: "abs(" * n + "1" + ")" * n,
    "comparisons": lambda n: "<".join(["1"] * n),
    "lists": lambda n: "1 in (" + ",".join(["1"] * n) + ")",
    "open": lambda n: "(" * n,
    "braces": lambda n: "{" * n,
    "quotes": lambda n: "'" * (2 * n + 1),
    "arguments": lambda n: "min(" + ",".join(["1"] * n) + ")",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10, 40, 200, 900, 100_000])
def test_size_and_depth_are_bounded(shape: str, size: int) -> None:
    begin = time.perf_counter()
    with suppress(Refusal):  # both are right, as long as it is soon
        compile_expression(SHAPES[shape](size)).evaluate({})
    assert time.perf_counter() - begin < 2.0


def test_powers_stay_numbers() -> None:
    """9**9**9 has 370 million digits as an integer; as a number it is too large, so unknown."""
    column = compile_expression("9**9**9").evaluate({})
    assert not column.known().any()
    assert column.quality.tolist() == [2]
    assert compile_expression("9**9**9").evaluate_one({}) == (None, 2)


@given(st.text(max_size=200) | st.text(alphabet="{}()+-*/%<>=!&|,.'\"0123456789eabifnotrl _", max_size=200))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with suppress(ExpressionError):
        parse(text)


def test_braces_in_texts_are_no_tags() -> None:
    expression = compile_expression("{Batch/Id} == 'no {tag} here' or {Batch Name} == \"it's\"")
    assert expression.tags == ("Batch/Id", "Batch Name")


def test_tags_and_names_stand_once_in_their_order() -> None:
    expression = compile_expression("{b} + x + { a } * {b} - x", names=["x", "y"])
    assert expression.tags == ("b", "a")
    assert expression.names == ("x",)


def test_the_past_is_refused_where_there_is_none() -> None:
    with pytest.raises(Refusal, match="uses rate at column 12"):
        compile_expression("{a} + rate({a})", through_time=False)
