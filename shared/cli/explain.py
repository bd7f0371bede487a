"""sluice explain: what a connection costs its server, what it was granted, and what an outage would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.opcua import PKI, PasswordFile, Pki, Target, TrustFirstUse, run, session
from cli.output import Failure, answer, console

if TYPE_CHECKING:
    from opcua_collector.probe import Probed


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("explain")(explain)


def explain(
    document: Annotated[Path, typer.Argument(help="Site document.", show_default=False)],
    connection: Annotated[str, typer.Argument(help="Connection of its OPC UA collector.", show_default=False)],
    outage: Annotated[
        str, typer.Option(help="How long a line is cut, such as 60s; without it as long as the document says.")
    ] = "",
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Compute from the document alone: the server is not asked.")
    ] = False,
    pki: Pki = PKI,
    trust_first_use: TrustFirstUse = False,
    password_file: PasswordFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Explain a connection: sessions, items and requests, what the server makes of them, what an outage would cost.

    Connects with a session of its own, makes the subscriptions with publishing off and items that do not sample, reads
    what the server made of them, and deletes all again. Nothing is written, nothing is collected.
    """
    from opcua_collector import explain as explaining

    seconds = _seconds(outage)
    target = Target.of_document(document, connection)
    notes = []
    if target.settings.select:
        notes.append(
            "what its filters (select) find is not in these figures: sluice browse shows it, and the command explain "
            "of a running collector has it"
        )
    if plan_only:
        description = explaining.planned(target.name, target.settings, target.tags)
        told = explaining.report(description, target.settings, outage=seconds)
        notes.append("computed from the document: the server was not asked, and may grant less")
    else:
        with console.status(f"Asking {target.settings.endpoint}") as status:
            found = run(_probe(target, pki, trust_first_use, password_file, status.update))
        told = explaining.report(
            found.description, target.settings, outage=seconds, history=found.history, bad=found.bad
        )
        notes.append("tried with a session of its own, whose subscriptions published nothing and are deleted again")
        if found.left_out:
            notes.append(
                f"{found.left_out:,} tags were not tried: the first {len(target.tags) - found.left_out:,} were"
            )
    told["notes"] = notes
    answer(told, as_json, lambda shown: shown.print("\n".join([*explaining.text(told), *notes]), soft_wrap=True))


async def _probe(target: Target, pki: Path, trust: bool, password_file: Path | None, progress: Any) -> Probed:
    from opcua_collector.probe import probe

    async with session(target, pki=pki, trust_first_use=trust, password_file=password_file) as opened:
        return await probe(
            opened,
            target.name,
            target.settings,
            target.tags,
            lambda what: progress(f"Trying {what}"),
        )


def _seconds(outage: str) -> float | None:
    from sluice.units import UnitError, parse_duration

    if not outage:
        return None
    try:
        seconds = parse_duration(outage)
    except UnitError as error:
        raise Failure(f"--outage {outage} {error}: write a number with a unit, such as 60s or 2h", 2) from None
    if not 0 < seconds <= 31 * 86400:
        raise Failure(f"--outage {outage}: use more than 0 and at most 31d", 2)
    return seconds
