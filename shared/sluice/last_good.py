"""What was last applied, the configuration before all, kept on disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class LastGood:
    """What was last applied, in a file that only its owner can read. `what` it is, for the log.

    A file that cannot be understood is renamed aside (``<name>.malformed``) and reported: it costs the memory of the
    last good form, never the start.
    """

    def __init__(self, path: Path, what: str = "last good configuration") -> None:
        self.path = path
        self._what = what

    def read(self) -> dict[str, Any] | None:
        """The raw configuration, or None when there is none that can be read."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The %s %s cannot be read: %s", self._what, self.path, error)
            return None
        try:
            raw = json.loads(text)
        except ValueError:
            raw = None
        if isinstance(raw, dict):
            return raw
        aside = self.path.with_name(self.path.name + ".malformed")
        logger.warning("The %s %s is malformed and was renamed to %s", self._what, self.path, aside.name)
        with contextlib.suppress(OSError):
            self.path.replace(aside)
        return None

    def write(self, applied: Mapping[str, Any]) -> bool:
        """Replace the file as a whole, on disk before it takes the name; False and a log line when that fails."""
        new = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(applied, file, ensure_ascii=False, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            logger.warning("The %s cannot be written to %s: %s", self._what, self.path, error)
            return False
        return True
