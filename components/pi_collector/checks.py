"""What the configuration's models alone cannot see, found without network and without a device.

The same texts stand in the status and the log of a component that runs with such a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pi_collector.config import TRIED_AGAIN, Configuration, Connection, Group
from pi_collector.plan import OWN, plan
from pi_collector.tags import TABLES, Selection, select
from pi_collector.web.open_lines import token_unencrypted, unencrypted
from sluice.config import Problem
from sluice.problem import render
from sluice.schema import Place
from sluice.units import format_duration

_CALCULATED: Final = ("interpolated", "summary")


def check(config: Configuration, directory: Path) -> list[Problem]:
    """What is wrong with the tags of all connections, their groups and users, as far as it can be seen from here.

    directory: where relative paths start. A table that only the device can have, by an absolute path or as a tag
    package, is checked when it happens to be here, and not missed when it is not.
    """
    return [problem for selection in selections(config, directory).values() for problem in selection.problems]


def warnings(config: Configuration, directory: Path) -> list[Problem]:
    """What stops nothing, and is probably a mistake."""
    return [warning for selection in selections(config, directory).values() for warning in selection.warnings]


def selections(config: Configuration, directory: Path) -> dict[str, Selection]:
    """The tags of every connection, those of the tables that can be seen from here included."""
    found = {}
    for name, connection in config.connections.items():
        here = connection.model_copy(update=TABLES.absent(connection, directory))
        found[name] = judged(name, connection, select(name, here, directory))
    return found


def judged(name: str, connection: Connection, selection: Selection) -> Selection:
    """The same tags, with what is wrong with the connection's settings beside what is wrong with them."""
    return replace(
        selection,
        problems=(*selection.problems, *_in_the_open(name, connection)),
        warnings=(*selection.warnings, *_suspicious(name, connection)),
    )


def _in_the_open(name: str, connection: Connection) -> Iterator[Problem]:
    """A connection that would never be made: its secrets may not be sent where anyone could read them."""
    errors = [unencrypted(connection, address) for address in connection.addresses]
    for error in (next(filter(None, errors), None), token_unencrypted(connection)):
        if error is not None:
            place = render(("connections", name, *error.place.split(".")))
            yield Problem(place, None, error.problem, error.remedy, TRIED_AGAIN)


# --- what stops nothing ---


def _suspicious(name: str, connection: Connection) -> Iterator[Problem]:
    place: Place = ("connections", name)
    if not (connection.tags or connection.tags_file or connection.tags_package or connection.select):
        what = "collects nothing: it has neither tags nor tables nor searches"
        yield Problem(render(place), None, what, "give it tags, tagsFile, tagsPackage or select")
    yield from _tls(place, connection)
    yield from _collecting(place, connection, OWN, connection.model_fields_set)
    for group, own in connection.groups.items():
        given = {field for field in Group.model_fields if getattr(own, field) is not None}
        yield from _collecting((*place, "groups", group), connection, group, given)


def _tls(place: Place, connection: Connection) -> Iterator[Problem]:
    tls = connection.tls
    if tls.allow_any_certificate:
        what = "believes every server: anybody on the way can read the password and change values"
        remedy = "give tls: {ca: <PEM file with the plant's authority>} in its place"
        yield Problem(render((*place, "tls", "allowAnyCertificate")), True, what, remedy)
    elif not tls.check_host_name:
        what = "believes every server that has a certificate of a trusted authority"
        remedy = "have the server's certificate name its host, and take this out"
        yield Problem(render((*place, "tls", "checkHostName")), False, what, remedy)
    if "tls" in connection.model_fields_set and all(one.startswith("http:") for one in connection.addresses):
        what = "has no effect: no address of this connection begins with https:"
        yield Problem(render((*place, "tls")), None, what, "write https: in the address, or take it out")


def _collecting(place: Place, connection: Connection, group: str, given: set[str]) -> Iterator[Problem]:
    """What is set for a way to collect that is another one. The connection's settings count for its groups as well."""
    how = plan(connection, group)
    modes = {how.mode} if group else {plan(connection, one).mode for one in (OWN, *connection.groups)}
    if "transport" in given and how.transport != "auto" and "recorded" not in modes:
        what = f"has no effect: in mode {how.mode} the server is polled"
        yield Problem(render((*place, "transport")), how.transport, what, "take it out, or set mode: recorded")
    if "summaries" in given and "summary" not in modes:
        what = f"has no effect in mode {how.mode}"
        yield Problem(render((*place, "summaries")), None, what, "set mode: summary, or take it out")
    if "interval" in given and modes.isdisjoint(_CALCULATED):
        what = f"has no effect in mode {how.mode}"
        remedy = "set mode: interpolated or summary, or take it out; pollInterval says how often the server is asked"
        yield Problem(render((*place, "interval")), format_duration(how.interval), what, remedy)
    if "recorded" not in modes:
        return
    window = how.reconcile.window
    if {"reconcile", "overlap"} & given and 0 < window < how.overlap:
        what = f"is shorter than the overlap ({format_duration(how.overlap)}), which is read again anyway"
        remedy = "make it longer, or 0 to have nothing looked at again"
        yield Problem(render((*place, "reconcile", "window")), format_duration(window), what, remedy)
    if {"initial", "max_backfill"} & given and isinstance(how.initial, float) and how.initial > how.max_backfill:
        what = f"is further back than maxBackfill ({format_duration(how.max_backfill)}): that is where a point begins"
        yield Problem(render((*place, "initial")), format_duration(how.initial), what, "make maxBackfill longer")
