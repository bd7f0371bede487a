"""Logs: single-line JSON on stdout, repeats rate-limited, secrets never.

    {"time":"2026-03-01T10:00:00.123Z","level":"WARNING","component":"opcua-collector","logger":"sluice.streams",
     "message":"…","exception":"Traceback …"}

A message template (the text before its arguments are filled in) of one logger and level is printed at most 5 times in
60 s; what is held back is summed up in one line with `repeats` when the 60 s are over: with the next record of any
kind, or at exit.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Final, TextIO

import orjson

MAX_REPEATS: Final = 5
WINDOW: Final = 60.0
MAX_TEMPLATES: Final = 500
MAX_TEMPLATE: Final = 200
"""Characters by which templates are told apart."""
MAX_TEXT: Final = 8_000
"""Characters of a message or a traceback that are printed; the rest is cut and said."""
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""JSON leaves these as they are, and some readers of logs end a line there."""
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class Secret:
    """A text that shows itself only when asked: everything that prints, formats or serializes gives `***` or fails."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it where it is handed to its protocol, and keep no copy."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not stored")


def setup(level: str, component: str, *, stream: TextIO | None = None) -> None:
    """Log everything as JSON lines on stdout (or the stream), uncaught exceptions included; replaces earlier set-ups.

    Raises ValueError for an unknown level.
    """
    set_level(level)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(JsonHandler(component, stream or sys.stdout))
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def set_level(level: str) -> None:
    """Change the level while running: one of LEVELS in any case. Raises ValueError for another."""
    if level.upper() not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    logging.getLogger().setLevel(level.upper())


def _log_uncaught(of: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical(
        "stopped by an error that nothing handles", exc_info=(of, error or of(), trace)
    )


@dataclass(slots=True)
class Held:
    """A template in its window: how often it was printed and held back since it began."""

    began: float
    level: str
    logger: str
    template: str
    printed: int = 0
    held: int = 0


class Repeats:
    """Decides what is printed. Times are seconds of any steady clock. Follows at most MAX_TEMPLATES templates."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, str], Held] = {}

    def admits(self, level: str, logger: str, template: str, now: float) -> bool:
        """Whether a record of this template is printed. Call `over` before, so that old windows are closed."""
        template = template[:MAX_TEMPLATE]
        key = (level, logger, template)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_TEMPLATES:
                return True  # a flood of different templates is not what this limits
            window = self._windows[key] = Held(now, level, logger, template)
        if window.printed < MAX_REPEATS:
            window.printed += 1
            return True
        window.held += 1
        return False

    def over(self, now: float) -> list[Held]:
        """Close the windows that are over; those that held something back are given."""
        ended = []
        for key, window in self._windows.items():  # in order of their beginning
            if now - window.began < WINDOW:
                break
            ended.append(key)
        windows = [self._windows.pop(key) for key in ended]
        return [window for window in windows if window.held]


class JsonHandler(logging.Handler):
    """Writes each record as one line of JSON."""

    def __init__(self, component: str, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._component = component
        self._stream = stream
        self._clock = clock
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, after the sums of the windows that have ended."""
        try:
            now = self._clock()
            self._sum_up(now)
            if self._repeats.admits(record.levelname, record.name, str(record.msg), now):
                self._write(record.created, record.levelname, record.name, _message(record), _exception(record))
        except Exception:  # noqa: BLE001 - a log line that cannot be written must not stop who logs
            self.handleError(record)

    def flush(self) -> None:
        """Sum up everything held back: called at exit."""
        with self.lock or nullcontext():
            if not self._stream.closed:
                self._sum_up(math.inf)

    def _sum_up(self, now: float) -> None:
        for window in self._repeats.over(now):
            message = f"{window.held} more like this were held back: {window.template}"
            self._write(time.time(), window.level, window.logger, message, None, repeats=window.held)

    def _write(
        self, at: float, level: str, logger: str, message: str, exception: str | None, repeats: int | None = None
    ) -> None:
        when = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, str | int] = {
            "time": when,
            "level": level,
            "component": self._component,
            "logger": logger,
            "message": _printable(message),
        }
        if exception:
            line["exception"] = _printable(exception)
        if repeats:
            line["repeats"] = repeats
        self._stream.write(orjson.dumps(line).decode().translate(_LINE_ENDS) + "\n")
        self._stream.flush()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit the template
        return f"{record.msg} {record.args!r}"


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[1] is not None:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return record.exc_text or (record.stack_info or None)


def _printable(text: str) -> str:
    """Text that is valid Unicode and not longer than MAX_TEXT; of a longer one the beginning and the end are kept."""
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]} … {len(text) - MAX_TEXT} characters cut … {text[-MAX_TEXT // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()
