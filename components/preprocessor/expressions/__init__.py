"""Expressions over tags, members and constants: read, checked, compiled to functions over columns, followed in time."""

from preprocessor.expressions.columns import Column
from preprocessor.expressions.compiling import Expression, compile_expression

__all__ = ["Column", "Expression", "compile_expression"]
