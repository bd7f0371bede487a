"""Tests of flows, as engineers write them beside their site document: samples in, what must come out.

    site: site.yaml                       # left out: the document of the same name, site.yaml for site.tests.yaml
    tests:
      fahrenheit becomes celsius:
        flow: reactor
        input:
          - {at: 0s, tag: Reactor/Temp, value: 212, unit: degF}
          - {at: 5s, arrives: 9s, tag: Reactor/Temp, value: Bad}
        until: 10m                        # nothing comes any more until then
        output:                           # all that goes out, by time
          - {at: 0s, tag: Reactor/Temp, value: 100, unit: degC}
        events:                           # each must come, in this order; others may too; []: none may
          - {kind: alarm, state: raised}

Numbers are doubles unless `type: integer` says otherwise. What an expected sample does not name may be anything.
`others: allowed` lets further samples come. The pipeline is the one that runs on the device, with a simulated clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cli.document import Document, Tree, load
from cli.finding import Findings
from cli.gateway import PREPROCESSOR, Gateway
from cli.output import Failure
from sluice.problem import Problem, render, shown
from sluice.units import UnitError, parse_duration

if TYPE_CHECKING:
    from preprocessor.config import Configuration
    from preprocessor.trial import Ran
    from sluice.columns import Sample

SUFFIX: Final = ".tests.yaml"
_TOLERANCE: Final = 1e-9
_SECOND: Final = 1_000_000_000


def _seconds(value: Any) -> float:
    try:
        return parse_duration(value)
    except UnitError as error:
        raise ValueError(f"{error}: write a number with a unit, such as 90s or 10m") from None


Seconds = Annotated[float, BeforeValidator(_seconds)]
QualityWord = Literal["good", "uncertain", "bad"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Given(_Part):
    """A sample that comes in. at: its source time after `start`; arrives: when it comes, if later than that."""

    at: Seconds
    tag: str
    value: bool | int | float | str | None = None
    quality: QualityWord | None = None
    status: int | str = 0
    unit: str = ""
    asset: str = ""
    batch: str = ""
    type: Literal["double", "integer"] = "double"
    """What a number is."""
    arrives: Seconds | None = None


class Expected(_Part):
    """A sample that must go out, as far as it is said."""

    tag: str
    at: Seconds | None = None
    value: bool | int | float | str | None = None
    quality: QualityWord | None = None
    status: int | str | None = None
    unit: str | None = None
    asset: str | None = None
    batch: str | None = None


class Case(_Part):
    """One test."""

    flow: str
    source: str = ""
    """The stream that the samples come on; empty: the one that the flow's first input names."""
    start: str = "2026-01-01T00:00:00Z"
    input: Annotated[list[Given], Field(min_length=1, max_length=100_000)]
    until: Seconds | None = None
    output: list[Expected] | None = None
    events: list[dict[str, Any]] | None = None
    others: Literal["refused", "allowed"] = "refused"
    tolerance: float = _TOLERANCE


class Tests(_Part):
    """A file of tests."""

    site: str = ""
    tests: Annotated[dict[str, Case], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Result:
    """How many tests of a file passed, and how many did not."""

    passed: int
    failed: int


def tests_of(document: Path) -> Path:
    """Where the tests of a site document lie."""
    return document.with_name(document.name.removesuffix(document.suffix) + SUFFIX)


def documents(folder: Path) -> list[Path]:
    """The site documents of a folder: not the tests that stand beside them."""
    return [path for path in sorted(folder.glob("*.yaml")) if not path.name.endswith(SUFFIX)]


def is_tests(tree: Tree) -> bool:
    """Whether a file is one of tests."""
    return isinstance(tree.value, dict) and "tests" in tree.value and "components" not in tree.value


def run(path: Path, findings: Findings) -> Result:
    """Run the tests of a file; what fails becomes an error at its place. Raises DocumentError for what is no YAML."""
    tree = Tree.read(path)
    try:
        tests = Tests.model_validate(tree.value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            place = tuple(f"[{step}]" if isinstance(step, int) else step for step in error["loc"])
            problem = Problem(render(place), None, error["msg"], "see the head of examples/preprocess.tests.yaml")
            findings.at("error", tree.position(place), "", problem)
        return Result(0, 1)
    site = path.with_name(tests.site or path.name.removesuffix(SUFFIX) + ".yaml")
    document = load(site)
    config = configuration(document)
    failed = 0
    for name, case in tests.tests.items():
        wrong = list(_failures(config, case, document.path.absolute().parent))
        failed += bool(wrong)
        for below, value, what, remedy in wrong:
            here = ("tests", name, *below)
            findings.at("error", tree.position(here), PREPROCESSOR, Problem(render(here), value, what, remedy))
    return Result(len(tests.tests) - failed, failed)


def configuration(document: Document) -> Configuration:
    """The preprocessor's configuration in a document. Raises Failure when it has none."""
    configured = Gateway.of(document).components.get(PREPROCESSOR)
    if configured is None:
        raise Failure(f"{document.path}: has no {PREPROCESSOR}: nothing to try")
    config: Configuration = configured.config
    return config


_Place = tuple[str, ...]
_Wrong = tuple[_Place, Any, str, str]


def _failures(config: Configuration, case: Case, directory: Path) -> Iterator[_Wrong]:
    """Everything that a case does not find as it expects it."""
    from preprocessor.compile import FlowRefusedError, build, definition
    from preprocessor.trial import Trial

    settings = config.flows.get(case.flow)
    if settings is None:
        yield ("flow",), case.flow, "is no flow that can run", f"the flows are: {', '.join(config.flows) or 'none'}"
        return
    try:
        pipeline = build(case.flow, definition(case.flow, settings, config.models, directory))
    except FlowRefusedError as refused:
        for problem in refused.problems:
            yield ("flow",), case.flow, f"does not run: {problem}", "mend it first: sluice check"
        return
    try:
        start = _time(case.start)
    except ValueError:
        yield ("start",), case.start, "is no time", "write it like 2026-01-01T00:00:00Z"
        return
    if case.events is None and (case.output is None or (not case.output and case.others == "allowed")):
        remedy = "give output or events; output: [] where nothing may go out"
        yield (), None, "expects nothing, so that it cannot fail", remedy
        return
    trial = Trial(pipeline, source=source_of(case.source, settings.inputs), start=start)
    for arrives, together in _together(case.input):
        trial.feed([_sample(one, start) for one in together], start + round(arrives * _SECOND))
    if case.until is not None:
        trial.until(start + round(case.until * _SECOND))
    yield from _compared(case, trial.ran, start)


def source_of(wanted: str, inputs: Mapping[str, Any]) -> str:
    """A stream that the flow takes: what is wanted, else the first input's, with names in the place of wildcards."""
    pattern = wanted or next(iter(inputs.values())).stream
    return "/".join("any" if part == "*" else part for part in pattern.split("/"))


def _together(given: Sequence[Given]) -> Iterator[tuple[float, list[Given]]]:
    """Samples that arrive at the same time, in the order of their arrival."""
    arriving = sorted(given, key=lambda one: one.at if one.arrives is None else one.arrives)
    piece: list[Given] = []
    when = 0.0
    for one in arriving:
        arrives = one.at if one.arrives is None else one.arrives
        if piece and arrives > when:
            yield when, piece
            piece = []
        when = arrives
        piece.append(one)
    if piece:
        yield when, piece


def _sample(given: Given, start: int) -> Sample:
    from sluice.columns import Quality, Sample

    value = given.value
    if given.type == "double" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    quality = Quality[(given.quality or ("good" if given.value is not None else "bad")).upper()]
    return Sample(
        given.tag,
        start + round(given.at * _SECOND),
        value,
        quality,
        given.status,
        asset=given.asset,
        unit=given.unit,
        batch=given.batch,
    )


def _compared(case: Case, ran: Ran, start: int) -> Iterator[_Wrong]:
    got = sorted(ran.samples, key=lambda one: (one.time, one.asset, one.tag))
    if case.output is not None:
        left = list(got)
        # Who says most chooses first: what may be anything must not take the sample that another one means.
        chosen = sorted(enumerate(case.output), key=lambda one: -len(one[1].model_fields_set))
        for number, expected in chosen:
            place = ("output", f"[{number}]")
            found = next((one for one in left if not _differs(expected, one, case.tolerance, start)), None)
            if found is not None:
                left.remove(found)
                continue
            near = [one for one in left if one.tag == expected.tag]
            if near:
                near.sort(key=lambda one: len(_differs(expected, one, case.tolerance, start)))
                what = "; ".join(_differs(expected, near[0], case.tolerance, start))
                yield place, None, f"did not go out: the nearest sample has {what}", _seen(got, start)
            else:
                yield place, None, f"did not go out: nothing of {expected.tag} did", _seen(got, start)
        if left and case.others == "refused":
            what = f"{len(left)} samples went out that are not expected, first {_told(left[0], start)}"
            yield ("output",), None, what, "expect them, or write others: allowed"
    if case.events is not None:
        if not case.events and ran.events:
            problem = f"{len(ran.events)} events came, first of the kind {ran.events[0].get('kind')}"
            yield ("events",), None, problem, "expect them, or leave events out"
        rest = iter(ran.events)
        for number, wanted in enumerate(case.events):
            if not any(_has(event, wanted) for event in rest):
                kinds = ", ".join(sorted({str(event.get("kind")) for event in ran.events})) or "none"
                problem = "did not come, or not in this order"
                yield ("events", f"[{number}]"), None, problem, f"{len(ran.events)} events came: {kinds}"


def _differs(expected: Expected, got: Sample, tolerance: float, start: int) -> list[str]:
    """In what a sample is not as it is expected."""
    wrong = []
    given = expected.model_fields_set
    if expected.tag != got.tag:
        wrong.append(f"tag {got.tag}")
    if expected.at is not None and start + round(expected.at * _SECOND) != got.time:
        wrong.append(f"time {_after(got.time, start)}")
    if "value" in given and not _alike(expected.value, got.value, tolerance):
        wrong.append(f"value {shown(got.value)}")
    if expected.quality is not None and expected.quality != got.quality.name.lower():
        wrong.append(f"quality {got.quality.name.lower()}")
    for name in ("status", "unit", "asset", "batch"):
        wanted = getattr(expected, name)
        if wanted is not None and wanted != getattr(got, name):
            wrong.append(f"{name} {shown(getattr(got, name))}")
    return wrong


def _alike(expected: Any, got: Any, tolerance: float) -> bool:
    if isinstance(expected, bool) or isinstance(got, bool) or isinstance(expected, str) or None in (expected, got):
        return type(expected) is type(got) and bool(expected == got)
    if isinstance(got, str):
        return False
    return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)


def _has(event: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in event and event[name] == value for name, value in wanted.items())


def _seen(got: Sequence[Sample], start: int) -> str:
    if not got:
        return "nothing went out at all"
    return f"{len(got)} went out: {'; '.join(_told(one, start) for one in got[:5])}{' …' if len(got) > 5 else ''}"


def _told(one: Sample, start: int) -> str:
    quality = "" if one.quality.name == "GOOD" else f" {one.quality.name}"
    return f"{one.tag} at {_after(one.time, start)} = {shown(one.value)}{quality}"


def _after(time: int, start: int) -> str:
    return f"{(time - start) / _SECOND:g}s"


def _time(text: str) -> int:
    """ns since 1970 UTC of a time in ISO 8601. Raises ValueError."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1_000_000) * 1_000
