"""From configuration to pipelines.

A flow is built from its *definition*: plain JSON of its settings and of the models that it uses, tables included. The
definition that a flow's state belongs to is stored with the state, so that after a crash the same pipeline is built
again whatever the configuration says by then.

Errors:

    Exception
    └── FlowRefusedError     what is wrong with one flow, each thing with its exact place; the others run
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from preprocessor import models
from preprocessor.config import PRODUCER, Configuration, Flow, Model
from preprocessor.engine.patterns import Selection
from preprocessor.engine.pipeline import Pipeline, Source, new_context
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import SECOND, FlowContext, Step
from preprocessor.step_settings import AnyStep, ModelSettings
from sluice.config import Problem

STEPS: Final[Mapping[str, str]] = {
    "aggregate": "aggregate.Aggregate",
    "alarm": "alarm.Alarm",
    "compress": "compress.Compress",
    "context": "context.ContextStep",
    "convert": "convert.Convert",
    "counter": "counter.Counter",
    "derive": "derive.Derive",
    "mode": "mode.Mode",
    "model": "model.ModelStep",
    "publish": "publish.Publish",
    "quality": "quality.QualityGate",
    "range": "range.Range",
    "rate": "rate.Rate",
    "rename": "rename.Rename",
    "report": "report.Report",
    "spike": "spike.Spike",
    "stale": "stale.Stale",
    "stuck": "stuck.Stuck",
    "totalize": "totalize.Totalize",
}
"""The step of each kind: module below `preprocessor.steps`, and class. Only those that a flow has are loaded: a process
that does nothing is smaller for it."""

NOT_APPLIED: Final = "the flow does not run, or keeps running as it was"


class FlowRefusedError(Exception):
    """A flow that cannot be built, and everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def definition(name: str, settings: Flow, known: Mapping[str, Model], directory: Path) -> dict[str, Any]:
    """What the flow is built from, as plain JSON. Raises FlowRefusedError. As `defined`, without the rows."""
    return defined(name, settings, known, directory)[0]


def defined(
    name: str, settings: Flow, known: Mapping[str, Model], directory: Path, *, elsewhere: bool = False
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """What the flow is built from, as plain JSON; and what is wrong with rows of its models' tables, left out of it.

    Raises FlowRefusedError for everything else that is wrong; it has the rows too.

    known: the models by name; directory: where relative paths of their tables start; elsewhere: as of `models.resolve`.
    """
    problems: list[Problem] = []
    rows: list[Problem] = []
    used: dict[str, Any] = {}
    for step, one in settings.steps.items():
        if not isinstance(one, ModelSettings) or one.model in used:
            continue
        model = known.get(one.model)
        if model is None:
            place = f"flows.{name}.steps.{step}.model"
            told = "is a model that there is not, or that has a mistake of its own"
            problems.append(_problem(place, one.model, told, _nearest(one.model, known)))
            continue
        try:
            resolved = models.resolve(model, one.model, directory, elsewhere=elsewhere)
        except Refusal as refusal:
            problems.append(_told(refusal, f"flows.{name}.steps.{step}"))
            continue
        problems += resolved.problems
        rows += resolved.rows
        used[one.model] = resolved.to_json()
    if problems:
        raise FlowRefusedError([*problems, *rows])
    return {"settings": settings.model_dump(mode="json", by_alias=True), "models": used}, tuple(rows)


def build(name: str, of: Mapping[str, Any]) -> Pipeline:
    """The pipeline of a definition. Raises FlowRefusedError."""
    settings = Flow.model_validate(of["settings"])
    flow = new_context(name, most_tags=settings.max_tags)
    problems: list[Problem] = []
    steps: list[Step[Any]] = []
    for step, one in settings.steps.items():
        try:
            steps.append(_step(step, one, flow, of.get("models", {})))
        except Refusal as refusal:  # noqa: PERF203 - a flow has few steps
            problems.append(_told(refusal, f"flows.{name}.steps.{step}"))
    try:
        if settings.mode != "always":
            steps.append(step_of("mode")(settings, flow))
        if settings.publish != "all":
            steps.append(step_of("publish")(settings, flow))
    except Refusal as refusal:
        problems.append(_told(refusal, f"flows.{name}"))
    if problems:
        raise FlowRefusedError(problems)
    return Pipeline(
        flow,
        sources(settings),
        steps,
        max_future=round(settings.max_future * SECOND),
        pass_events=settings.events == "pass",
    )


def sources(settings: Flow) -> list[Source]:
    """What the flow takes."""
    return [
        Source(one.stream, Selection(one.tags, one.exclude), Selection(one.assets), one.backfill)
        for one in settings.inputs.values()
    ]


def check(config: Configuration, directory: Path) -> list[Problem]:
    """Everything that is wrong with flows and models, as far as it can be seen without data.

    Tables that only the device can have are checked when they happen to be here, and not missed when they are not.
    """
    problems: list[Problem] = []
    for name, model in config.models.items():
        try:
            resolved = models.resolve(model, name, directory, elsewhere=True)
        except Refusal as refusal:  # noqa: PERF203 - models are few
            problems.append(_told(refusal, f"models.{name}"))
        else:
            problems += (*resolved.problems, *resolved.rows)
    refused = circles(config.flows)
    for name, settings in config.flows.items():
        if name in refused:
            problems.append(refused[name])
            continue
        try:
            build(name, defined(name, settings, config.models, directory, elsewhere=True)[0])
        except FlowRefusedError as wrong:
            problems += wrong.problems
    return list(dict.fromkeys(problems))


def warnings(config: Configuration, directory: Path) -> list[Problem]:
    """What stops nothing, and is probably a mistake: columns of tables that nothing is made of."""
    found: list[Problem] = []
    for name, model in config.models.items():
        try:
            found += models.resolve(model, name, directory, elsewhere=True).warnings
        except Refusal:  # noqa: PERF203 - models are few; `check` tells of it
            continue
    return found


def circles(flows: Mapping[str, Flow]) -> dict[str, Problem]:
    """Flows that take from one another in a circle, or from a flow that there is not, and what to tell of each."""
    takes: dict[str, dict[str, str]] = {}  # the flows that a flow takes from, and by which input
    found: dict[str, Problem] = {}
    for name, settings in flows.items():
        takes[name] = {}
        for entry, one in settings.inputs.items():
            producer, _, source = one.stream.partition("/")
            if producer != PRODUCER:
                continue
            place = f"flows.{name}.inputs.{entry}.stream"
            if source in flows:
                takes[name][source] = entry
            elif source == "*":
                told = "is no flow: * never means flows of this component, so that nothing would ever come"
                found[name] = _problem(place, one.stream, told, "name the flow, and give each an input of its own")
            else:
                told = "is a flow that there is not, or that has a mistake of its own"
                found[name] = _problem(place, one.stream, told, _nearest(source, flows))
    for name in flows:
        path = _circle(name, takes)
        if path:
            place = f"flows.{name}.inputs.{takes[name][path[1]]}.stream"
            told = f"makes a circle: {' takes from '.join(path)}"
            found.setdefault(name, _problem(place, f"{PRODUCER}/{path[1]}", told, "break it at one of these flows"))
    return found


def _circle(start: str, takes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The shortest way from a flow back to itself; empty when there is none."""
    ways: list[list[str]] = [[start]]
    seen: set[str] = set()
    for way in ways:
        for following in takes.get(way[-1], ()):
            if following == start:
                return [*way, start]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []


def step_of(kind: str) -> Callable[..., Step[Any]]:
    """The class of a kind of step. Raises KeyError for a kind that is not known."""
    module, _, name = STEPS[kind].partition(".")
    made: Callable[..., Step[Any]] = getattr(importlib.import_module(f"preprocessor.steps.{module}"), name)
    return made


def _step(name: str, settings: AnyStep, flow: FlowContext, known: Mapping[str, Any]) -> Step[Any]:
    if isinstance(settings, ModelSettings):
        return step_of(settings.type)(name, settings, flow, models.ResolvedModel.from_json(known[settings.model]))
    return step_of(settings.type)(name, settings, flow)


def _told(refusal: Refusal, scope: str) -> Problem:
    """A refusal with its place in the configuration; one that begins with models. is there already."""
    place = refusal.place if refusal.place.startswith("models.") else f"{scope}.{refusal.place}".rstrip(".")
    return _problem(place, refusal.value, refusal.problem, refusal.remedy)


def _problem(place: str, value: Any, problem: str, remedy: str) -> Problem:
    return Problem(place, value, problem, remedy, NOT_APPLIED)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    if names:
        return f"there are: {', '.join(sorted(names)[:20])}"
    return "there is none that can run: define it, or mend it first"
