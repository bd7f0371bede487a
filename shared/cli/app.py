"""The commands of scripts/sluice under one name."""

from __future__ import annotations

import gc
import importlib
import sys

import typer

from cli.output import IN_THE_WAY, Failure, prepare, say

COMMANDS = (
    "check", "dry_run", "schema", "diff", "tags", "browse", "explain", "trust", "importing",
    "deploy", "publish", "doctor",
)  # fmt: skip
"""Modules of this package, in the order of --help."""


def make_app() -> typer.Typer:
    """The application with every command."""
    app = typer.Typer(
        name="sluice",
        help="Checks, packages and deploys a Sluice gateway.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in COMMANDS:
        importlib.import_module(f"cli.{name}").register(app)
    return app


def main() -> None:
    """Run the command of the command line, and exit with its status: see cli.output."""
    gc.set_threshold(100_000, 20, 20)  # a check makes much, drops little and ends soon: this saves a tenth of its time
    prepare()
    try:
        make_app()(prog_name="sluice")
    except Failure as failure:
        say(str(failure))
        sys.exit(failure.status)
    except OSError as error:
        # Files that commands read and write have words of their own: this is stdout, or a machine out of means.
        say(f"the machine stands in the way: {error}")
        sys.exit(IN_THE_WAY)
