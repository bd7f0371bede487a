"""Where a preprocessor's flows take from and go to: inputs that nobody yields, flows that nobody takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from cli.finding import Findings
from cli.gateway import PREPROCESSOR, Gateway
from sluice.config import Problem

PRODUCER = "preprocessor"


def flows(gateway: Gateway) -> dict[str, Any]:
    """The settings of every flow that can run, by name."""
    configured = gateway.preprocessor
    return {} if configured is None else dict(configured.config.flows)


def taken(gateway: Gateway, source: str) -> bool:
    """Whether a flow takes from this source, such as opcua-collector/line1."""
    return any(covers(one.stream, source) for flow in flows(gateway).values() for one in flow.inputs.values())


def covers(pattern: str, source: str) -> bool:
    """Whether a flow's input means this source. Wildcards never mean the preprocessor's own flows."""
    producer, _, name = pattern.partition("/")
    its_producer, _, its_name = source.partition("/")
    if its_producer == PRODUCER and pattern != source:
        return False
    return producer in ("*", its_producer) and name in ("*", its_name)


def check_inputs(gateway: Gateway, sources: list[str], findings: Findings) -> None:
    """Inputs that name a source which is not in this document. sources: those that are."""
    for name, flow in flows(gateway).items():
        for entry, one in flow.inputs.items():
            producer = one.stream.partition("/")[0]
            if producer == PRODUCER or any(covers(one.stream, source) for source in sources):
                continue
            path = f"flows.{name}.inputs.{entry}.stream"
            ours = any(source.startswith(f"{producer}/") for source in sources)
            near = difflib.get_close_matches(one.stream, sources, 1, 0.6)
            problem = "names a source that no component of this document has"
            if near:
                remedy = f"did you mean {near[0]}?"
            elif sources:
                remedy = f"the sources here are: {', '.join(sources[:10])}"
            else:
                remedy = "add the component, or see that the target's present deployment has it"
            wrong = Problem(path, one.stream, problem, remedy)
            findings.add("error" if sources and (ours or producer == "*") else "warning", PREPROCESSOR, wrong)


def untaken(gateway: Gateway) -> Iterator[str]:
    """Flows whose output is no input of another flow."""
    known = flows(gateway)
    for name in known:
        if not any(one.stream == f"{PRODUCER}/{name}" for flow in known.values() for one in flow.inputs.values()):
            yield name
