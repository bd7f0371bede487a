"""Tags that flows name, beside the tags that the collectors of the same document have.

Nothing is said of a flow whose inputs have tags that only the device knows: found on a server, in a table that is not
here, or made by another flow or by a component that is none of the suite's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from cli.finding import Findings
from cli.flows import PRODUCER, covers, flows
from cli.gateway import PREPROCESSOR, Gateway
from cli.routes import Source, sources
from sluice.config import Problem

_MOST_TRIED: Final = 2_000
"""Tags that one pattern is tried on; beyond that it is taken to mean some."""
_MOST_RENAMED: Final = 20_000
_MOST_TOLD: Final = 50
_EXPRESSIONS: Final = ("when", "inhibit", "setpoint", "while_", "reset", "start", "stop", "abort", "id")
_SUFFIXED: Final = frozenset({"counter", "totalize", "aggregate"})
_SPECIAL: Final = "*?{"
_BETWEEN: Final = re.compile(r"[*?]|\{[^}]*\}")


@dataclass(frozen=True)
class _Tags:
    """All tags of a connection, by name with their asset paths."""

    assets: Mapping[str, str]

    @classmethod
    def of(cls, source: Source) -> _Tags | None:
        """None when the document does not say all of them."""
        producer, name = source.producer, source.connection
        if getattr(source.settings, "select", None):
            return None
        if not all(path.exists() for path in producer.tables(name).values()):
            return None
        return cls({tag: one.asset or source.settings.asset for tag, one in producer.tags(name).items()})


@dataclass(frozen=True)
class _Flow:
    """A flow and the tags of its inputs, by the name of the input."""

    settings: Any
    inputs: Mapping[str, list[_Tags]]
    models: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def made(self) -> frozenset[str]:
        """Names that its steps give, as far as they stand in the settings."""
        found: set[str] = set()
        for step in self.settings.steps.values():
            if step.type == "derive":
                found |= {name for entry, one in step.outputs.items() for name in (entry, one.tag) if name}
            elif step.type == "model" and step.model in self.models:
                model = self.models[step.model]
                found |= {*model.members, *(one.tag or name for name, one in model.derived.items())}
        return frozenset(found)

    @cached_property
    def renamed(self) -> frozenset[str] | None:
        """Names that its rules give to tags; None when there are too many to try."""
        from preprocessor.steps.rename import preview
        from sluice.columns import Series

        found: set[str] = set()
        for step in self.settings.steps.values():
            if step.type != "rename":
                continue
            tags = [Series(tag, asset) for of in self._all() for tag, asset in of.assets.items()]
            if len(tags) * len(step.rules) > _MOST_RENAMED:
                return None
            for _, new in preview(step.rules, tags):
                found |= {new.tag, f"{new.asset}/{new.tag}"}
        return frozenset(found)

    def _all(self) -> Iterator[_Tags]:
        for tags in self.inputs.values():
            yield from tags

    def known(self) -> Iterator[str]:
        """Everything that a name may mean, for suggestions."""
        for of in self._all():
            yield from of.assets
        yield from self.made

    def takes(self, name: str) -> bool | None:
        """Whether a name means a tag that an input takes; None when there is such a tag, and none takes it."""
        from preprocessor.engine.patterns import Selection

        there = False
        for entry, tags in self.inputs.items():
            one = self.settings.inputs[entry]
            selection, assets = Selection(one.tags, one.exclude), Selection(one.assets)
            for of in tags:
                for tag, asset in _named(of, name):
                    there = True
                    if selection.covers(tag, asset) and assets.covers(asset):
                        return True
        return None if there else False

    def has(self, name: str) -> bool | None:
        """Whether a name means a tag at any step. None: there is such a tag, and no input takes it."""
        if name in self.made or any(name.endswith(f"/{one}") for one in self.made):
            return True
        taken = self.takes(name)
        if taken:
            return True
        steps = self.settings.steps.values()
        if any(step.type == "rename" for step in steps) and (self.renamed is None or name in self.renamed):
            return True
        if "." in name and any(step.type in _SUFFIXED for step in steps) and self.has(name.rpartition(".")[0]):
            return True
        return taken


def check_tags(gateway: Gateway, findings: Findings) -> None:
    """Names and patterns in flows that mean no tag of this document. Warnings: what is deployed already may have it."""
    every = {source.name: source for source in sources(gateway)}
    known: dict[str, _Tags | None] = {}
    told = 0
    for name, settings in flows(gateway).items():
        flow = _flow(settings, every, known, gateway)
        if flow is None:
            continue
        for below, word, problem, remedy in _wrong(flow):
            place = below if below.startswith("models.") else f"flows.{name}.{below}"
            told += 1
            if told > _MOST_TOLD:
                findings.left_out["warning"] = findings.left_out.get("warning", 0) + 1
            else:
                findings.add("warning", PREPROCESSOR, Problem(place, word, problem, remedy))


def _flow(settings: Any, every: Mapping[str, Source], known: dict[str, _Tags | None], gateway: Gateway) -> _Flow | None:
    """The flow with the tags of its inputs; None when they are not all known."""
    inputs: dict[str, list[_Tags]] = {}
    for entry, one in settings.inputs.items():
        producer = one.stream.partition("/")[0]
        meant = [source for source in every if covers(one.stream, source)]
        if producer in ("*", PRODUCER) or not meant:
            return None
        for source in meant:
            if source not in known:
                known[source] = _Tags.of(every[source])
            tags = known[source]
            if tags is None:
                return None
            inputs.setdefault(entry, []).append(tags)
    configured = gateway.preprocessor
    return _Flow(settings, inputs, {} if configured is None else configured.config.models)


_Wrong = tuple[str, str, str, str]


def _wrong(flow: _Flow) -> Iterator[_Wrong]:
    for entry, one in flow.settings.inputs.items():
        for index, text in enumerate(one.tags):
            if not _any(text, flow.inputs[entry]):
                yield f"inputs.{entry}.tags[{index}]", text, "means no tag of this input", _near(text, flow)
    for name, step in flow.settings.steps.items():
        for index, text in enumerate(step.tags):
            if not _special(text):
                yield from _told(flow, f"steps.{name}.tags[{index}]", text)
        for place, text in _expressions(step):
            yield from _in_expression(flow, f"steps.{name}.{place}", text)
        if step.type == "model" and step.model in flow.models:
            for instance, one in flow.models[step.model].instances.items():
                for member, tag in one.tags.items():
                    yield from _told(flow, f"models.{step.model}.instances.{instance}.tags.{member}", tag)
    yield from _in_expression(flow, "when", flow.settings.when)


def _expressions(step: Any) -> Iterator[tuple[str, str]]:
    if step.type == "context" and _special(step.asset):
        return  # its expressions have the captured part of the asset path in them
    for name in _EXPRESSIONS:
        text = getattr(step, name, "")
        if text and isinstance(text, str):
            yield name.rstrip("_"), text
    if step.type == "context":
        for name, phase in step.phases.items():
            yield f"phases.{name}.start", phase.start
    if step.type == "derive":
        for name, output in step.outputs.items():
            yield f"outputs.{name}.expression", output.expression


def _in_expression(flow: _Flow, place: str, text: str) -> Iterator[_Wrong]:
    from preprocessor.engine.refusal import Refusal
    from preprocessor.expressions import compile_expression

    if not text.strip():
        return
    try:
        expression = compile_expression(text, names=flow.made, place=place)
    except Refusal:
        return  # is told already
    for name in expression.tags:
        yield from _told(flow, place, name)


def _told(flow: _Flow, place: str, name: str) -> Iterator[_Wrong]:
    has = flow.has(name)
    if has is None:
        remedy = "add it to the tags of an input; steps see nothing else"
        yield place, name, "is a tag that the flow does not take in", remedy
    elif not has:
        yield place, name, "is no tag that comes into this flow", _near(name, flow)


def _near(name: str, flow: _Flow) -> str:
    from preprocessor.expressions.suggesting import did_you_mean

    found = "" if _special(name) else did_you_mean(name, flow.known())
    return found or "see how the tags are called at the connection"


def _any(text: str, tags: Iterable[_Tags]) -> bool:
    """Whether a pattern means any of these tags."""
    from preprocessor.engine.patterns import pattern

    if not _special(text):
        return any(True for of in tags for _ in _named(of, text))
    one, tried = pattern(text), 0
    # What stands in a pattern as it is stands in the name as well; slashes beside ** may be missing.
    piece = max((part.strip("/") for part in _BETWEEN.split(text)), key=len)
    for of in tags:
        for tag, asset in of.assets.items():
            for name in (tag, f"{asset}/{tag}") if asset else (tag,):
                if piece not in name:
                    continue
                tried += 1
                if tried > _MOST_TRIED or one.matches(name):
                    return True
    return False


def _named(tags: _Tags, name: str) -> Iterator[tuple[str, str]]:
    """The tags that a name means, by itself or as <asset>/<tag>: names and asset paths."""
    if name in tags.assets:
        yield name, tags.assets[name]
    for place, letter in enumerate(name):
        if letter == "/" and tags.assets.get(name[place + 1 :]) == name[:place]:
            yield name[place + 1 :], name[:place]


def _special(text: str) -> bool:
    return any(letter in _SPECIAL for letter in text)
