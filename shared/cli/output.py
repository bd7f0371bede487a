"""How every command speaks: results on stdout (as JSON with --json), everything else on stderr, and its exit status.

0  as it should be
1  something is wrong with what was given, and the output says what and how to mend it
2  the command line is wrong
3  something else stood in the way: a network, a disk, an account
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from rich.console import Console

WRONG: Final = 1
IN_THE_WAY: Final = 3

console = Console(stderr=True)


class Failure(Exception):  # noqa: N818 - not every failure is an error
    """The command ends here. The text names the place, the value and the remedy; `status` is the exit status."""

    def __init__(self, text: str, status: int = WRONG) -> None:
        super().__init__(text)
        self.status = status


def say(text: str) -> None:
    """One line for a person, as it is: not wrapped, whatever brackets it holds."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def answer(result: Mapping[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """The result of a command: as one JSON object, or as `show` draws it for a person; on stdout."""
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    else:
        show(Console(highlight=False, markup=False))
