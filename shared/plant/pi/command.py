"""`python -m plant pi …`: a PI Web API server as a process, driven by JSON lines.

    python -m plant pi --log plant.log --rate 1000 --units 2

It says what `python -m plant opcua` says (`ready` with url, authority, items, units, points; `watched`, `started`,
`progress`, `counters`, `finished`, `refused`), is told the same (`start`, `stop`, `rate`, `counters`, `quit`) and:

    {"command": "fault", "fault": "throttle", "share": 0.3}     see faults.py
    {"command": "fault", "fault": "process", "number": 4}       one of the plant's own; "unit": 1 for one unit only
    {"command": "heal", "fault": "throttle"}                    without a name: all
    {"command": "storm", "late": 2.0, …}                        see activity.py; {"command": "calm"} ends it
    {"command": "password", "user": …, "password": …}
    {"command": "killed"}                                       the client was: the log says so
    {"command": "archive"}                                      the log gets what the archive holds, and its end mark;
                                                                {"event": "archived", "events": n} follows

`start` waits until the expected points are followed by a channel or by updates, or were read. Files beside the log:
`<name>.truth`, the PI system's own log (truth.py), and `pi/authority.pem` with --tls. The row log is for a system that
keeps every event: with --compress only the truth is a judge.

`--points N` produces a load in the place of the plant's data: N plain points, `--rate` events per second of all
together; `--past V --past-span S` gives each V values over the last S seconds before it starts.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plant.dialogue import Command, CommandError, number_of, obey, positive, report
from plant.log import PlantLog
from plant.pi.activity import ActivityOptions
from plant.pi.authentication import Authentication
from plant.pi.certificates import KINDS, Authority
from plant.pi.channels import ChannelOptions
from plant.pi.clock import TICK_NS, Clock
from plant.pi.production import Load, PiUnits
from plant.pi.server import Options, PiServer
from plant.pi.system import PiSystem
from plant.pi.truth import Truth
from plant.production import Production
from plant.tennessee import DataError
from plant.unit import Unit, samples_per_row

_UNIT_OFFSET = 137
_ROWS_PER_SECOND = 10
_SECOND_NS = 1_000_000_000


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Take the options of the PI plant."""
    parser.add_argument("--log", type=Path, required=True, help="file for the plant's own row log")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--rate", type=positive, default=1000.0, help="samples per server second (%(default)s)")
    parser.add_argument("--units", type=int, help=f"copies of the process (as many as give {_ROWS_PER_SECOND} rows/s)")
    parser.add_argument("--points", type=int, help="a load of that many plain points, in the place of the plant's data")
    parser.add_argument("--past", type=int, default=0, help="values that each point of the load has at the start")
    parser.add_argument("--past-span", type=positive, default=3600.0, help="seconds over which they lie (%(default)s)")
    parser.add_argument("--speed", type=positive, default=1.0, help="server seconds in one of ours")
    parser.add_argument(
        "--start-ago", type=float, default=0.0, help="seconds that the server's clock starts behind ours"
    )
    parser.add_argument("--compress", action="store_true", help="compress as PI does; else every event is kept")
    parser.add_argument("--excdev", type=float, default=0.0, help="exception deviation, as a share of the span")
    parser.add_argument("--user", help="only this user may read; the password is read from --password-file")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--tls", choices=KINDS, help="serve by TLS, with a certificate that is so")
    parser.add_argument(
        "--poll", type=positive, default=1.0, help="server seconds between looks for news (%(default)s)"
    )
    parser.add_argument("--no-updates", action="store_true", help="a server too old for stream updates")
    parser.add_argument("--shuffled", action="store_true", help="values of a frame in any order")
    parser.add_argument("--rate-limit", type=int, help="requests of a client per second; more get 429")
    parser.add_argument("--seed", type=int, default=0, help="decides what is left to chance")
    parser.add_argument("--no-truth", action="store_true", help="do not write the PI system's own log")
    parser.add_argument("--data", type=Path, help="folder with other recorded runs, d00_te.dat and so on")
    parser.add_argument("--fault", type=int, default=0, help="fault of the process at work from the first row on")
    parser.add_argument("--expect-items", type=int, help="points that must be watched before the first row (all)")
    parser.add_argument("--produce", action="store_true", help="produce without being told to start")


async def run(options: argparse.Namespace) -> None:
    """Serve until standard input says so."""
    clock = Clock(options.speed, _start(options.start_ago))
    server = _server(options, clock)
    log = PlantLog(options.log)
    expected: int | None = options.expect_items
    producing: Production | Load
    if options.points:
        expected = expected if expected is not None else 1 if options.produce else options.points
        producing = Load(server, log, options.points, rate=options.rate, expect_items=expected, report=report)
        if options.past:
            producing.past(options.past, options.past_span)
        units = 0
    else:
        per_row = samples_per_row(folder=options.data)
        units = options.units or max(1, round(options.rate / (per_row * _ROWS_PER_SECOND)))
        plant = PiUnits(server, units, compressing=options.compress, excdev=options.excdev)
        producing = Production(
            plant,
            log,
            [Unit(number * _UNIT_OFFSET, folder=options.data) for number in range(units)],
            rate=options.rate,
            expect_items=expected if expected is not None else 1 if options.produce else len(plant.points),
            report=report,
            folder=options.data,
            now_ns=clock.true_ns,
            tick_ns=TICK_NS,
            speed=options.speed,
            delivered=plant.delivered,
        )
        producing.set_fault(options.fault)
    if options.produce:
        producing.start()
    await server.start()
    authority = options.log.parent / "pi" / "authority.pem"
    report(
        "ready",
        {
            "url": server.url,
            "authority": str(authority) if options.tls else None,
            "items": len(server.system),
            "units": units,
            "server": server.system.name,
            "truth": None if options.no_truth else str(_truth(options.log)),
        },
    )
    tasks = [asyncio.create_task(producing.run()), asyncio.create_task(_obey(producing, server, log))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()  # a failure of production ends the plant
        await tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        log.close()
        await server.close()
        server.truth.close()


def _truth(log: Path) -> Path:
    return log.with_suffix(".truth")


def _start(ago_s: float) -> int | None:
    return time.time_ns() - round(ago_s * _SECOND_NS) if ago_s else None


def _server(options: argparse.Namespace, clock: Clock) -> PiServer:
    authentication = None
    if options.user is not None:
        if options.password_file is None:
            raise DataError("--user needs --password-file, a file with the password")
        password = options.password_file.read_text(encoding="utf-8").strip()
        authentication = Authentication({options.user: password})
    tls = None
    if options.tls:
        authority = Authority(options.log.parent / "pi")
        tls = authority.context(authority.server(options.tls))
    settings = Options(
        port=options.port,
        channels=ChannelOptions(poll_s=options.poll, shuffled=options.shuffled),
        rate_limit=options.rate_limit,
        seed=options.seed,
    )
    if options.no_updates:
        settings = dataclasses.replace(settings, updates=None)
    truth = Truth(None if options.no_truth else _truth(options.log))
    return PiServer(PiSystem(clock), clock, settings, log=truth, authentication=authentication, tls=tls)


async def _obey(producing: Production | Load, server: PiServer, log: PlantLog) -> None:
    storm: list[asyncio.Task[None]] = []

    def counters(_: Mapping[str, Any]) -> None:
        report(
            "counters",
            {
                "requests": server.requests,
                "written": server.written,
                "faults": server.faults.counts,
                "hits": server.faults.hits,
                "activity": server.activity.counts,
                "channels": server.channels.open,
                "frames": server.truth.frames,
                "frames_read": server.truth.frames_read,
                "rows": log.rows,
                "samples": log.samples,
                "watched": len(server.watched),
                "dropped": server.channels.lost,
            },
        )

    def calm(_: Mapping[str, Any] | None = None) -> None:
        while storm:
            storm.pop().cancel()

    def rage(command: Mapping[str, Any]) -> None:
        calm()
        try:
            chosen = ActivityOptions(**{name: value for name, value in command.items() if name != "command"})
        except TypeError as error:
            raise CommandError(f"storm: {error}") from error
        storm.append(asyncio.create_task(server.activity.run(list(server.system), chosen)))

    def archive(_: Mapping[str, Any]) -> None:
        calm()
        events = server.export()
        server.truth.end()
        report("archived", {"events": events})

    commands: dict[str, Command] = {
        "start": lambda _: producing.start(),
        "stop": lambda _: producing.stop(),
        "rate": lambda command: producing.set_rate(number_of(command, "values_per_s")),
        "counters": counters,
        "fault": lambda command: _fault(producing, server, command),
        "heal": lambda command: server.faults.heal(command.get("fault")),
        "storm": rage,
        "calm": calm,
        "killed": lambda _: server.truth.fault(server.clock.now_ns(), "killed", {}),
        "password": lambda command: server.authentication.set_password(
            str(command.get("user")), str(command.get("password"))
        ),
        "archive": archive,
    }
    try:
        await obey(commands)
    finally:
        calm()


def _fault(producing: Production | Load, server: PiServer, command: Mapping[str, Any]) -> None:
    arguments = {name: value for name, value in command.items() if name not in ("command", "fault")}
    name = command.get("fault")
    if name != "process":
        server.faults.inject(str(name), arguments)
        return
    number, unit = arguments.get("number"), arguments.get("unit")
    if isinstance(producing, Load):
        raise CommandError("fault 'process': a load has no process")
    if not isinstance(number, int):
        raise CommandError(f"number {number!r}: expected the number of a fault, 0 for none")
    if unit is not None and not (isinstance(unit, int) and 1 <= unit <= producing.units):
        raise CommandError(f"unit {unit!r}: expected 1 to {producing.units}, or none for all")
    producing.set_fault(number, unit)


__all__ = ["add_parser", "run"]
