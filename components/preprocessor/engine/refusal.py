"""What is wrong with the settings of a step, beyond what their models see.

ValueError
└── Refusal         an expression, unit, tag, cycle or window that cannot be used; the flow that has it does not run
"""

from __future__ import annotations

from typing import Any


class Refusal(ValueError):  # noqa: N818 - it is an answer, not a fault of the program
    """`place` is relative to the step or model: outputs.power.expression. `remedy` says how to mend it."""

    def __init__(self, place: str, value: Any, problem: str, remedy: str) -> None:
        super().__init__(f"{place}: {problem}: {remedy}")
        self.place = place
        self.value = value
        self.problem = problem
        self.remedy = remedy
