"""How every command speaks: results on stdout (as JSON with --json), everything else on stderr, and its exit status.

0    as it should be
1    something is wrong with what was given, and the output says what and how to mend it
2    the command line is wrong
3    something else stood in the way: a network, a disk, an account
130  somebody pressed Ctrl-C

What is shown to people may come from anywhere: a document, a table, a device, a service. Characters that a terminal
obeys in place of showing them are shown as a picture of themselves, so that nobody's tag clears a screen or hides a
line.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

WRONG: Final = 1
IN_THE_WAY: Final = 3

_PICTURES: Final = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}
"""Control characters, and those that turn the direction of writing round."""


class Failure(Exception):  # noqa: N818 - not every failure is an error
    """The command ends here. The text names the place, the value and the remedy; `status` is the exit status."""

    def __init__(self, text: str, status: int = WRONG) -> None:
        super().__init__(text)
        self.status = status


class PlainConsole(Console):
    """A console that obeys nothing that stands in what it shows: neither markup nor a terminal's control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is shown; rich's own control codes stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(_PICTURES), style, control)


console = PlainConsole(stderr=True)


def prepare() -> None:
    """Make stdout and stderr take every character: what a locale does not know is written as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """One line for a person, as it is: not wrapped, whatever brackets it holds."""
    console.print(text, soft_wrap=True)


def answer(result: Mapping[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """The result of a command: as one JSON object, or as `show` draws it for a person; on stdout. Raises Failure when
    stdout is closed, or OSError when it cannot be written."""
    if as_json:
        emit(as_bytes(result))
    else:
        _open()
        show(PlainConsole())
        sys.stdout.flush()


def emit(content: bytes) -> None:
    """UTF-8 on stdout as it is, for another program. Raises as `answer` does."""
    _open()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _open() -> None:
    if sys.stdout is None:
        raise Failure("stdout is closed: the result has nowhere to go", IN_THE_WAY)


def as_bytes(result: Mapping[str, Any]) -> bytes:
    """A result as JSON, whatever text and however large a number somebody wrote into what it tells of."""
    try:
        return orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a character, or a number of more than 64 bits
        return (json.dumps(result, indent=2) + "\n").encode()
