"""What the configuration's models alone cannot see, found without network and without a device.

The same texts stand in the status of a component that runs with such a configuration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from opcua_collector.config import PASSWORD_IN_THE_OPEN, TRIED_AGAIN, Configuration, Connection
from opcua_collector.tags import TABLES, Selection, select
from sluice.config import Problem
from sluice.problem import render


def check(config: Configuration, directory: Path) -> list[Problem]:
    """What is wrong with the tags of all connections, their groups and users, as far as it can be seen from here.

    directory: where relative paths start. A table that only the device can have, by an absolute path or as a tag
    package, is checked when it happens to be here, and not missed when it is not.
    """
    return [problem for selection in selections(config, directory).values() for problem in selection.problems]


def warnings(config: Configuration, directory: Path) -> list[Problem]:
    """What stops nothing, and is probably a mistake: a column whose name is nearly one that is known, a connection that
    collects nothing."""
    return [warning for selection in selections(config, directory).values() for warning in selection.warnings]


def selections(config: Configuration, directory: Path) -> dict[str, Selection]:
    """The tags of every connection, those of the tables that can be seen from here included."""
    found = {}
    for name, connection in config.connections.items():
        elsewhere = TABLES.absent(connection, directory)
        selection = select(name, connection.model_copy(update=elsewhere), directory)
        found[name] = replace(
            selection,
            problems=(*selection.problems, *_shows_its_password(name, connection)),
            warnings=(*selection.warnings, *_collects_nothing(name, connection)),
        )
    return found


def _shows_its_password(name: str, connection: Connection) -> list[Problem]:
    """A connection that would never be made: its password may not be sent where anyone could read it."""
    user = connection.user
    if connection.security.policy != "None" or user is None or user.password is None or user.allow_unencrypted:
        return []
    return [Problem(render(("connections", name, "user", "password")), None, *PASSWORD_IN_THE_OPEN, TRIED_AGAIN)]


def _collects_nothing(name: str, connection: Connection) -> list[Problem]:
    if connection.tags or connection.tags_file or connection.tags_package or connection.select:
        return []
    what, remedy = (
        "collects nothing: it has neither tags nor tables nor filters",
        "give it tags, tagsFile, tagsPackage or select",
    )
    return [Problem(render(("connections", name)), None, what, remedy)]
