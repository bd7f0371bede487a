"""sluice dry-run: a flow over recorded data, and what it makes of them, before it is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import orjson
import typer

from cli.output import Failure, answer, console

if TYPE_CHECKING:
    from rich.console import Console

    from preprocessor.trial import Counted, Trial
    from sluice.columns import Sample

_SHOWN: Final = 40
_PROGRESS_EVERY: Final = 100_000
_BEHIND: Final = 60_000_000_000


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("dry-run")(dry_run)


def dry_run(
    document: Annotated[Path, typer.Argument(help="Site document with a preprocessor.", show_default=False)],
    flow: Annotated[str, typer.Argument(help="Flow of the preprocessor.", show_default=False)],
    data: Annotated[
        list[Path], typer.Argument(help="Recorded samples: JSON lines (.jsonl, .jsonl.gz) or CSV.", show_default=False)
    ],
    source: Annotated[
        str, typer.Option(help="Stream that the samples came on; without it the flow's first input says so.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write what goes out to this file, as JSON lines.")] = None,
    tag: Annotated[str, typer.Option(help="Show what was done with the last samples of this tag, and why.")] = "",
    idle: Annotated[str, typer.Option(help="How long nothing comes after the last sample.")] = "0s",
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Run a flow over recorded data: how many samples before and after, tag by tag, and what each step did with them.

    The pipeline is the one of the device, with a clock that follows the data. Nothing is sent anywhere.
    """
    from cli.document import load
    from cli.flow_tests import configuration, source_of
    from cli.recorded import Recorded
    from preprocessor.compile import FlowRefusedError, build, definition
    from preprocessor.expressions.suggesting import did_you_mean
    from preprocessor.trial import Trial, in_pieces
    from sluice.units import UnitError, parse_duration

    site = load(document)
    config = configuration(site)
    settings = config.flows.get(flow)
    if settings is None:
        raise Failure(f"{document}: {flow} is no flow that can run: there are {', '.join(config.flows) or 'none'}")
    try:
        silence = parse_duration(idle)
        pipeline = build(flow, definition(flow, settings, config.models, site.path.absolute().parent))
    except UnitError as error:
        raise Failure(f"--idle {idle} {error}: write a number with a unit, such as 10m", 2) from None
    except FlowRefusedError as refused:
        raise Failure("\n".join(f"{document}: {problem}" for problem in refused.problems)) from None
    trial: Trial | None = None
    newest = count = behind = 0
    files = [Recorded(path) for path in data]
    with console.status("Reading") as status, _written(out) as lines:
        for piece in in_pieces(merge(*(file.samples() for file in files), key=attrgetter("time"))):
            if trial is None:
                stream = source_of(source, settings.inputs)
                trial = Trial(pipeline, source=stream, start=piece[0].time, take=lines.write)
            for slot in pipeline.tags.find(tag) if tag else ():
                pipeline.trace.watch(slot)
            trial.feed(piece)
            newest = max(newest, *(one.time for one in piece))
            behind += sum(newest - one.time > _BEHIND for one in piece)
            count += len(piece)
            if count % _PROGRESS_EVERY < len(piece):
                status.update(f"{count:,} samples")
        if trial is None:
            raise Failure(f"{', '.join(map(str, data))}: holds no samples{_flaws(files)}")
        if silence:
            trial.until(newest + round(silence * 1_000_000_000))
    told = _result(trial, files, flow, behind)
    if tag:
        told["asked"], told["explained"] = tag, _explained(trial, tag)
        told["not_taken"] = trial.pipeline.turned_away(tag)
        if not told["explained"] and not told["not_taken"]:
            told["not_taken"] = f"is no tag of these files, {did_you_mean(tag, told['tags']) or 'nor is one like it'}"
    answer(told, as_json, lambda shown: _show(shown, told))


class _Lines:
    """What goes out, written as JSON lines; without a file it is only let go of."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def write(self, one: Sample) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(_line(one)) + b"\n")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def _written(out: Path | None) -> _Lines:
    return _Lines(None if out is None else out.open("wb"))


def _line(one: Sample) -> dict[str, Any]:
    line: dict[str, Any] = {"tag": one.tag, "time_ns": one.time, "value": one.value, "quality": one.quality.name}
    for name in ("asset", "unit", "batch", "status"):
        if member := getattr(one, name):
            line[name] = member
    return {**line, **dict(one.extra)}


def _flaws(files: Sequence[Any]) -> str:
    return "".join(f"\n{flaw}" for file in files for flaw in file.flaws)


def _result(trial: Trial, files: Sequence[Any], flow: str, behind: int) -> dict[str, Any]:
    ran = trial.ran
    before = sum(one.samples for one in ran.before.values())
    after = sum(one.samples for one in ran.after.values())
    status = trial.pipeline.status()
    return {
        "flow": flow,
        "before": before,
        "after": after,
        "held": trial.pipeline.held,
        "tags": {
            tag: {"before": _figures(ran.before.get(tag)), "after": _figures(ran.after.get(tag))}
            for tag in sorted({*ran.before, *ran.after})
        },
        "steps": status["steps"],
        "counters": status["counters"],
        "events": ran.kinds,
        "problems": [
            {"place": f"flows.{flow}.{place}", "problem": problem, "remedy": remedy}
            for place, (problem, remedy) in trial.pipeline.flow.problems.items()
        ],
        "behind": behind,
        "unreadable": sum(file.unreadable for file in files),
        "flaws": [flaw for file in files for flaw in file.flaws],
    }


def _explained(trial: Trial, tag: str) -> list[dict[str, Any]]:
    """Where each step stands with a tag, and the last decisions on it."""
    pipeline = trial.pipeline
    return [
        {
            "tag": tag,
            "stage": pipeline.tags.stages[slot] or "as it came in",
            "steps": {step.name: step.explain(slot) for step in pipeline.steps if step.applies(slot)},
            "decisions": pipeline.trace.decisions(slot),
        }
        for slot in pipeline.tags.find(tag)
    ]


def _figures(of: Counted | None) -> dict[str, Any]:
    if of is None:
        return {"samples": 0}
    return {
        "samples": of.samples,
        "bad": of.bad,
        "uncertain": of.uncertain,
        "least": of.least,
        "greatest": of.greatest,
    }


def _show(shown: Console, told: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("tag", box=None, pad_edge=False)
    for heading in ("before", "bad", "after", "bad", "uncertain", "least", "greatest", "of 100"):
        table.add_column(heading, justify="right")
    for tag, of in list(told["tags"].items())[:_SHOWN]:
        before, after = of["before"], of["after"]
        table.add_row(
            tag,
            f"{before['samples']:,}",
            f"{before.get('bad', 0):,}",
            f"{after['samples']:,}",
            f"{after.get('bad', 0):,}",
            f"{after.get('uncertain', 0):,}",
            _number(after.get("least")),
            _number(after.get("greatest")),
            f"{100 * after['samples'] / before['samples']:.1f}" if before["samples"] else "",
        )
    shown.print(table)
    if len(told["tags"]) > _SHOWN:
        shown.print(f"… and {len(told['tags']) - _SHOWN} more tags: see --json")
    shown.print(f"\n{told['before']:,} samples before, {told['after']:,} after, {told['held']:,} held", soft_wrap=True)
    for line in _lines_of(told):
        shown.print(line, soft_wrap=True)


def _lines_of(told: dict[str, Any]) -> Iterator[str]:
    for step, counters in told["steps"].items():
        yield f"{step}: {', '.join(f'{what} {count:,}' for what, count in counters.items())}"
    if told["counters"]:
        yield f"inputs: {', '.join(f'{what} {count:,}' for what, count in told['counters'].items())}"
    if told["events"]:
        yield f"events: {', '.join(f'{kind} {count:,}' for kind, count in told['events'].items())}"
    for problem in told["problems"]:
        yield f"{problem['place']}: {problem['problem']}: {problem['remedy']}"
    if told.get("not_taken"):
        yield f"\n{told['asked']}: {told['not_taken']}"
    for one in told.get("explained", ()):
        yield f"\n{one['tag']}, {one['stage']}:"
        for step, standing in one["steps"].items():
            yield f"  {step}: {', '.join(f'{name} {value}' for name, value in standing.items())}"
        for made in one["decisions"]:
            yield f"  {_when(made['time_ns'])} {made['value']!r}: {made['step']}: {made['what']}, {made['reason']}"
    if told["behind"]:
        yield (
            f"{told['behind']:,} samples stand more than a minute behind newer ones, and were late as they would be on "
            "a device: sort the rows by time"
        )
    if told["unreadable"]:
        yield f"{told['unreadable']:,} rows could not be read:"
        yield from told["flaws"]


def _when(time_ns: int) -> str:
    """A time as people and recorded files write it."""
    whole = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=time_ns // 1_000_000_000)
    fraction = f"{time_ns % 1_000_000_000:09}".rstrip("0")
    return f"{whole:%Y-%m-%dT%H:%M:%S}{'.' if fraction else ''}{fraction}Z"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
