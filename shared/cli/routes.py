"""Where data goes on this gateway: what the exporter's sources name, and what nobody exports."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cli.finding import Findings
from cli.flows import PRODUCER, check_inputs, covers, flows, taken, untaken
from cli.gateway import PREPROCESSOR, Configured, Gateway
from cli.suite import members
from sluice.config import Problem


@dataclass(frozen=True)
class Source:
    """One connection of a producer: `name` is `<producer>/<connection>`, as in topics."""

    producer: Configured
    connection: str
    settings: Any

    @property
    def name(self) -> str:
        return f"{self.producer.member.id}/{self.connection}"


def sources(gateway: Gateway) -> Iterator[Source]:
    """Every connection of the document that can run."""
    for producer in gateway.producers():
        for name, settings in producer.config.connections.items():
            yield Source(producer, name, settings)


def exported(gateway: Gateway) -> list[Source]:
    """The connections whose data the exporter takes, as they are or by way of flows."""
    exporter = gateway.exporter
    if exporter is None:
        return []
    known = flows(gateway)
    reached = [name for name in known if any(names(one, f"{PRODUCER}/{name}") for one in exporter.config.sources)]
    for name in reached:  # it grows: flows take from flows
        behind = [one.stream.partition("/") for one in known[name].inputs.values()]
        reached += [
            flow for producer, _, flow in behind if producer == PRODUCER and flow in known and flow not in reached
        ]
    streams = [one.stream for name in reached for one in known[name].inputs.values()]
    return [
        source
        for source in sources(gateway)
        if any(names(one, source.name) for one in exporter.config.sources)
        or any(covers(stream, source.name) for stream in streams)
    ]


def names(pattern: str, source: str) -> bool:
    """Whether an entry of the exporter's `sources` means this source, such as opcua-collector/line1."""
    producer, _, connection = ("*/*" if pattern == "*" else pattern).partition("/")
    its_producer, _, its_connection = source.partition("/")
    return producer in ("*", its_producer) and connection in ("*", its_connection)


def check_routes(gateway: Gateway, findings: Findings) -> None:
    """What `sources` names and is not there; what is there and nobody takes."""
    exporter = gateway.exporter
    check_inputs(gateway, [source.name for source in sources(gateway)], findings)
    if exporter is None:
        for producer in gateway.producers():
            if any(not taken(gateway, f"{producer.member.id}/{name}") for name in producer.config.connections):
                findings.add("warning", producer.member.name, _NOBODY)
        for name in untaken(gateway):
            findings.add("warning", PREPROCESSOR, _unexported(f"flows.{name}", f"{PRODUCER}/{name}"))
        return
    if not exporter.config.sinks:
        problem = "has no entry that can run, so nothing leaves this gateway"
        findings.add("warning", exporter.member.name, Problem("sinks", None, problem, "add a sink"))
    for index, source in enumerate(exporter.config.sources):
        _source(gateway, findings, f"sources[{index}]", source)
    exports = {source.name for source in exported(gateway)}
    for source in sources(gateway):
        if source.name not in exports and not taken(gateway, source.name):
            wrong = _unexported(f"connections.{source.connection}", source.name)
            findings.add("warning", source.producer.member.name, wrong)
    for name in untaken(gateway):
        if not any(names(one, f"{PRODUCER}/{name}") for one in exporter.config.sources):
            findings.add("warning", PREPROCESSOR, _unexported(f"flows.{name}", f"{PRODUCER}/{name}"))


def _unexported(path: str, source: str) -> Problem:
    problem = "is exported by nobody: the exporter's sources do not name it, and its outbox will fill up"
    return Problem(
        path, None, problem, f'add {source} to the sources of io.sluice.StreamExporter, or write ["*"] there'
    )


def _source(gateway: Gateway, findings: Findings, path: str, source: str) -> None:
    exporter = gateway.exporter
    assert exporter is not None
    producer, _, connection = source.partition("/")
    if producer == "*":
        there = [*(one.name for one in sources(gateway)), *(f"{PRODUCER}/{name}" for name in flows(gateway))]
        if connection not in ("", "*") and there and not any(names(source, one) for one in there):
            problem = "names a source that no component of this document has"
            findings.add("error", exporter.member.name, Problem(path, source, problem, _mend(source, there)))
        return
    if producer == PRODUCER and gateway.preprocessor is not None:
        if connection != "*" and connection not in flows(gateway):
            known = [f"{PRODUCER}/{name}" for name in flows(gateway)]
            problem = "names a flow that this document does not have"
            findings.add("error", exporter.member.name, Problem(path, source, problem, _mend(source, known)))
        return
    ids = {member.id: member for member in members().values() if member.settings is not None}
    its = next((one for one in gateway.producers() if one.member.id == producer), None)
    if its is None:
        if producer in ids and producer not in ("stream-exporter",):
            problem = f"names a producer that is not in this document ({ids[producer].name})"
            remedy = "add the component, or see that the target's present deployment has it"
        else:
            problem = "names a producer that is none of Sluice's components"
            known = [one for one in ids if one != exporter.member.id]
            near = difflib.get_close_matches(producer, known, 1)
            remedy = f"did you mean {near[0]}?" if near else f"Sluice has: {', '.join(known)}"
        findings.add("warning", exporter.member.name, Problem(path, source, problem, remedy))
    elif connection != "*" and connection not in its.config.connections:
        problem = "names a connection that this document does not have"
        known = [f"{producer}/{name}" for name in its.config.connections]
        findings.add("error", exporter.member.name, Problem(path, source, problem, _mend(source, known)))


def _mend(wrong: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"the sources here are: {', '.join(known[:10])}" if known else "add the connection, or take it out"


_NOBODY = Problem(
    "connections",
    None,
    "are exported by nobody: io.sluice.StreamExporter is not in this document, and the outbox will fill up",
    "add it with a sink, or see that the target's present deployment has it",
)
