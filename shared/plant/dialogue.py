"""How a plant that runs as a process speaks with whoever drives it: JSON lines, events out and commands in."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from plant.tennessee import DataError

Command = Callable[[Mapping[str, Any]], Awaitable[None] | None]


class CommandError(ValueError):
    """A command that cannot be obeyed; the text names the field, its value and what is allowed."""


def report(event: str, fields: Mapping[str, object]) -> None:
    """Write an event to standard output."""
    sys.stdout.buffer.write(orjson.dumps({"event": event, **fields}, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


async def obey(commands: Mapping[str, Command]) -> None:
    """Do what standard input says, in its order, until it says `quit` or ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (line := await reader.readline()) and await _obey_line(line, commands):
        pass


async def _obey_line(line: bytes, commands: Mapping[str, Command]) -> bool:
    """Do what a line says; false when it is `quit`."""
    try:
        command = orjson.loads(line)
        name = str(command.get("command")) if isinstance(command, dict) else line.decode(errors="replace").strip()
        if name == "quit":
            return False
        if name not in commands:
            raise CommandError(f"command {name!r}: expected one of {', '.join([*commands, 'quit'])}")
        doing = commands[name](command)
        if doing is not None:
            await doing
    except (ValueError, DataError) as error:
        report("refused", {"problem": str(error)})
    return True


def positive(text: str) -> float:
    """A number above 0, for an argument of the command line."""
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def number_of(command: Mapping[str, Any], key: str) -> float:
    """A number above 0 that a command holds. Raises CommandError."""
    try:
        return positive(str(command.get(key)))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise CommandError(f"{key} {command.get(key)!r}: expected a number above 0") from error


__all__ = ["Command", "CommandError", "number_of", "obey", "positive", "report"]
