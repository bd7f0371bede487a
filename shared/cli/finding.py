"""What a check finds: a problem in the words of the components' status, with the file, line and column it stands at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from sluice.problem import Problem

Level = Literal["error", "warning", "note"]
"""error: the deployment would not do what it says. warning: it would, and probably nobody wants that. note: to know."""

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")
MOST: Final = 1_000
"""Findings that are kept of one file; how many more there are is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `component` is the full name of the one that it concerns, "" for the file as a whole."""

    level: Level
    file: Path
    line: int
    column: int
    component: str
    problem: Problem

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.where}: {self.level}: {self.problem}"

    def as_dict(self) -> dict[str, Any]:
        """For --json: level, file, line, column, component, and the problem's parts as in a status."""
        return {
            "level": self.level,
            "file": str(self.file),
            "line": self.line,
            "column": self.column,
            "component": self.component,
            **self.problem.as_dict(),
            "text": str(self.problem),
        }


@dataclass(slots=True)
class Findings:
    """The findings of one file. `locate` says where a place of a component's configuration is written in it."""

    file: Path
    locate: Callable[[str, str], tuple[int, int]] = lambda component, place: (1, 1)
    found: list[Finding] = field(default_factory=list)
    left_out: dict[Level, int] = field(default_factory=dict)

    def add(self, level: Level, component: str, problem: Problem) -> None:
        """At the place in the component's merge that the problem names."""
        self.at(level, self.locate(component, problem.path), component, problem)

    def at(
        self, level: Level, position: tuple[int, int], component: str, problem: Problem, file: Path | None = None
    ) -> None:
        """At a position that the caller knows, in `file` when it is another one."""
        if len(self.found) >= MOST:
            self.left_out[level] = self.left_out.get(level, 0) + 1
            return
        self.found.append(Finding(level, file or self.file, *position, component, problem))

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.found) + self.left_out.get(level, 0)

    def __iter__(self) -> Any:
        return iter(sorted(self.found, key=lambda finding: (str(finding.file), finding.line, finding.column)))


def counts(all_findings: Iterable[Findings]) -> Mapping[Level, int]:
    """How many there are of each level."""
    every = list(all_findings)
    return {level: sum(findings.count(level) for findings in every) for level in LEVELS}
