"""What is wrong with flows and models, in one place: two flows may find the same fault of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sluice.component import Problems
from sluice.config import Problem


class FlowProblems:
    """The problems of all flows, as the status has them. Each flow says what is wrong with it, and what no more is."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._refused: dict[str, Sequence[Problem]] = {}
        self._running: dict[str, dict[str, tuple[str, str]]] = {}
        self._told: set[str] = set()

    def refused(self, flow: str, problems: Sequence[Problem]) -> None:
        """What is wrong with the flow's configuration; nothing: it is good."""
        if problems or self._refused.get(flow):
            self._refused[flow] = tuple(problems)
            self._tell()

    def running(self, flow: str, found: Mapping[str, tuple[str, str]]) -> None:
        """What shows while the flow runs: problem and remedy by place in the flow."""
        if dict(found) != self._running.get(flow, {}):
            self._running[flow] = dict(found)
            self._tell()

    def forget(self, flow: str) -> None:
        """The flow is gone."""
        self._refused.pop(flow, None)
        self._running.pop(flow, None)
        self._tell()

    def _tell(self) -> None:
        found = {problem.path: problem for problems in self._refused.values() for problem in problems}
        for flow, places in self._running.items():
            for place, (problem, remedy) in places.items():
                found.setdefault(f"flows.{flow}.{place}", Problem(f"flows.{flow}.{place}", None, problem, remedy))
        # Shorter paths first: clearing one clears what is below it, which is then told again.
        for path in sorted(self._told - found.keys()):
            self._problems.clear(path)
        for one in found.values():
            self._problems.report(one.path, one.problem, one.remedy, one.value, effect=one.effect)
        self._told = set(found)
