"""`python -m plant opcua …`: a simulated plant as a process, driven by JSON lines.

It says on its standard output, one JSON object a line:

    {"event": "ready", "endpoint": …, "certificate": …, "items": n}
    {"event": "watched", "items": n, "expected": n}          each time the number of watched variables changes
    {"event": "started", "watched": n, "period_s": s}
    {"event": "progress", "rows": n, "samples": n}           twice a second while it produces
    {"event": "counters", "services": {"Read": n, …}, "rows": n, "samples": n, "watched": n, "dropped": n}
    {"event": "finished", "rows": n, "samples": n, "late_rows": n, "services": {…}, "dropped": n}
    {"event": "refused", "problem": …}                        a command that it did not understand

`services` are those that clients asked for in a session, `dropped` the values that left a full queue of a
subscription before a client fetched them. It is told on its standard input:

    {"command": "start"}                       produce, as soon as every expected variable is watched
    {"command": "fault", "number": 4}          a fault sets in; 0 ends it; "unit": 2 for one unit only
    {"command": "rate", "values_per_s": 500}
    {"command": "counters"}
    {"command": "forget"}                      know no session and no subscription any more, as a restarted server
    {"command": "stop"}                        finish the row, end the log; the server goes on serving
    {"command": "quit"}                        or the end of the input: end

Nothing but these lines is written to standard output; what is logged goes to standard error. `python -m plant pi …` is
a PI Web API server: plant/pi/command.py says what it says and is told.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plant.dialogue import Command, CommandError, number_of, obey, positive, report
from plant.log import PlantLog
from plant.opcua_server import DEFAULT_HISTORY_ROWS, POLICIES, PlantServer
from plant.production import Production
from plant.tennessee import DataError
from plant.unit import Unit, samples_per_row

_LOG = logging.getLogger("plant")

ROWS_PER_SECOND = 10
"""Rows that a unit produces per second when the number of units is not given: more, and a client whose server-side
queues are short loses some of them."""

_PI = "a PI Web API server"
_UNIT_OFFSET = 137
"""Rows by which one unit is ahead of the one before; prime to the length of a run."""


def main(arguments: list[str] | None = None) -> int:
    """Run the plant that the arguments describe."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["pi"]:
        # Only then: what one plant does not use would be looked through by its garbage collector all the same.
        from plant.pi import command as pi

        parser, kinds = _parser()
        pi.add_parser(kinds.add_parser("pi", help=_PI))
        run = pi.run
    else:
        parser, kinds = _parser()
        kinds.add_parser("pi", help=_PI)
        run = _run
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(options))
    except (DataError, OSError) as error:
        _LOG.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser, and what takes further kinds of plants."""
    parser = argparse.ArgumentParser(prog="python -m plant", description="A simulated plant with real data.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    opcua = kinds.add_parser("opcua", help="an OPC UA server")
    opcua.add_argument("--log", type=Path, required=True, help="file for the plant's own log")
    opcua.add_argument("--endpoint", default="opc.tcp://127.0.0.1:0/plant", help="port 0 takes a free one")
    opcua.add_argument("--rate", type=positive, default=1000.0, help="samples per second (%(default)s)")
    opcua.add_argument("--units", type=int, help=f"copies of the process (as many as give {ROWS_PER_SECOND} rows/s)")
    opcua.add_argument("--user", help="only this user may connect; the password is read from --password-file")
    opcua.add_argument("--password-file", type=Path)
    opcua.add_argument("--policy", type=_policies, default=tuple(POLICIES), help="None,Basic256Sha256 (both)")
    opcua.add_argument("--work", type=Path, help="folder for the server's certificate (beside the log)")
    opcua.add_argument("--data", type=Path, help="folder with other recorded runs, d00_te.dat and so on")
    opcua.add_argument("--fault", type=int, default=0, help="fault at work from the first row on")
    opcua.add_argument(
        "--expect-items", type=int, help="variables that must be watched before the first row (all; 1 with --produce)"
    )
    opcua.add_argument("--produce", action="store_true", help="produce without being told to start")
    opcua.add_argument("--history-rows", type=int, default=DEFAULT_HISTORY_ROWS, help="rows kept (%(default)s)")
    return parser, kinds


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POLICIES:
            raise argparse.ArgumentTypeError(f"{name}: expected {' or '.join(POLICIES)}, separated by commas")
    return names


async def _run(options: argparse.Namespace) -> None:
    user = None
    if options.user is not None:
        if options.password_file is None:
            raise DataError("--user needs --password-file, a file with the password")
        user = (options.user, options.password_file.read_text(encoding="utf-8").strip())
    units = options.units or max(1, round(options.rate / (samples_per_row(folder=options.data) * ROWS_PER_SECOND)))
    copies = [Unit(number * _UNIT_OFFSET, folder=options.data) for number in range(units)]
    server = PlantServer(
        units,
        work=options.work or options.log.parent / "plant",
        endpoint=options.endpoint,
        policies=options.policy,
        user=user,
        history_rows=options.history_rows,
    )
    await server.start()
    gc.freeze()  # it is there to stay: looking through it again and again would stop production for as long
    log = PlantLog(options.log)
    expected = options.expect_items
    if expected is None:
        expected = 1 if options.produce else len(server.tags)
    production = Production(
        server,
        log,
        copies,
        rate=options.rate,
        expect_items=expected,
        report=report,
        folder=options.data,
    )
    production.set_fault(options.fault)
    if options.produce:
        production.start()
    certificate = None if server.certificate is None else str(server.certificate.certificate)
    report(
        "ready",
        {"endpoint": server.endpoint, "certificate": certificate, "items": len(server.tags), "units": units},
    )
    producing = asyncio.create_task(production.run())
    listening = asyncio.create_task(_obey(production, server, log))
    try:
        await asyncio.wait([producing, listening], return_when=asyncio.FIRST_COMPLETED)
        if producing.done():
            producing.result()  # a failure of production ends the plant
        await listening
    finally:
        for task in (producing, listening):
            task.cancel()
        log.close()
        await server.stop()


async def _obey(production: Production, server: PlantServer, log: PlantLog) -> None:
    def counters(_: Mapping[str, Any]) -> None:
        report(
            "counters",
            {
                "services": server.services,
                "rows": log.rows,
                "samples": log.samples,
                "watched": server.watched,
                "dropped": server.dropped,
            },
        )

    commands: dict[str, Command] = {
        "start": lambda _: production.start(),
        "stop": lambda _: production.stop(),
        "fault": lambda command: _fault(production, command),
        "rate": lambda command: production.set_rate(number_of(command, "values_per_s")),
        "counters": counters,
        "forget": lambda _: server.forget(subscriptions=True),
    }
    await obey(commands)


def _fault(production: Production, command: Mapping[str, Any]) -> None:
    number, unit = command.get("number"), command.get("unit")
    if not isinstance(number, int):
        raise CommandError(f"number {number!r}: expected the number of a fault, 0 for none")
    if unit is not None and not (isinstance(unit, int) and 1 <= unit <= production.units):
        raise CommandError(f"unit {unit!r}: expected 1 to {production.units}, or none for all")
    production.set_fault(number, unit)


if __name__ == "__main__":
    sys.exit(main())
