"""A JSON object kept on disk as a whole: the last good configuration, the commands that were accepted, ..."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def _anything(content: dict[str, Any]) -> None:
    """Every JSON object makes sense."""


class KeptFile:
    """A file that only its owner can read. For the log: `what` it holds, and what it means that it is `lost`.

    One that cannot be understood is renamed aside (``<name>.malformed``) and reported: it costs what it remembered,
    never the start.
    """

    def __init__(self, path: Path, what: str = "last good configuration", lost: str = "") -> None:
        self.path = path
        self._what = what
        self._lost = lost

    def read(self, accept: Callable[[dict[str, Any]], None] = _anything) -> dict[str, Any] | None:
        """What was written last, or None when there is nothing that can be read.

        accept: is given it first, and raises ValueError when it makes no sense.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The %s %s cannot be read: %s", self._what, self.path, error)
            return None
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
            accept(content)
        except ValueError as error:
            aside = self.path.with_name(self.path.name + ".malformed")
            told = f"{error}{f': {self._lost}' if self._lost else ''}"
            logger.warning("The %s %s is malformed and was renamed to %s (%s)", self._what, self.path, aside.name, told)
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            return None
        return content

    def write(self, content: Mapping[str, Any]) -> bool:
        """Replace the file as a whole, on disk before it takes the name; False and a log line when that fails."""
        new = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            logger.warning("The %s cannot be written to %s: %s", self._what, self.path, error)
            return False
        return True
