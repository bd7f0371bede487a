"""The SiteWise property that each tag's values go to: one tag to an alias, and aliases that SiteWise takes."""

from __future__ import annotations

from collections.abc import Iterator

from cli.finding import Findings
from cli.gateway import Gateway
from cli.routes import exported
from sluice.config import Problem
from sluice.problem import render

_MOST_OF_A_KIND = 50


def check_aliases(gateway: Gateway, findings: Findings) -> None:
    """Two tags of one alias, and aliases beyond SiteWise's limits, in every SiteWise sink."""
    exporter = gateway.exporter
    if exporter is None:
        return
    for name, sink in exporter.config.sinks.items():
        if sink.type == "sitewise":
            _check(gateway, findings, name, sink.alias)


def _check(gateway: Gateway, findings: Findings, sink: str, template: str) -> None:
    from stream_exporter.destinations import MAX_ALIAS_CHARACTERS, alias_fields

    # A unit that is not configured comes from the server: what the alias will be is not known here.
    from_server = "unit" in alias_fields(template)
    taken: dict[str, tuple[str, str]] = {}
    told = 0
    for component, connection, tag, unit, alias in _aliases(gateway, template):
        if from_server and not unit:
            continue
        problem = remedy = ""
        if not 1 <= len(alias) <= MAX_ALIAS_CHARACTERS:
            problem = f"has an alias of {len(alias)} characters in the sink {sink}, and SiteWise takes 1 to 2,048"
            remedy = f"shorten the tag's name or its asset path, or change sinks.{sink}.alias"
        elif any(character < " " or character == "\x7f" for character in alias):
            problem = f"has a control character in its alias of the sink {sink}, which SiteWise refuses"
            remedy = f"change the tag's name or its asset path, or sinks.{sink}.alias"
        elif alias in taken:
            problem = f"has the same alias in the sink {sink} as {_named(connection, *taken[alias])}: {_short(alias)}"
            remedy = f"give one of the two another name or asset path, or use more fields in sinks.{sink}.alias"
        else:
            taken[alias] = (connection, tag)
        if problem:
            told += 1
            if told > _MOST_OF_A_KIND:
                findings.left_out["error"] = findings.left_out.get("error", 0) + 1
                continue
            place = render(("connections", connection, "tags", tag))
            findings.add("error", component, Problem(place, None, problem, remedy))


def _aliases(gateway: Gateway, template: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Component, connection, tag, its unit and its alias."""
    for source in exported(gateway):
        for name, tag in source.producer.tags(source.connection).items():
            alias = template.format(
                asset=tag.asset or source.settings.asset, tag=name, unit=tag.unit, source=source.connection
            )
            yield source.producer.member.name, source.connection, name, tag.unit, alias


def _named(connection: str, other: str, tag: str) -> str:
    return _short(tag) if other == connection else f"{_short(tag)} of connection {other}"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}…"
