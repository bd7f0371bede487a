"""What the stand-ins write down about all they accepted, for whoever reconciles: one JSON line per acceptance.

    <root>/witness/<stream>.appends     {"seq", "at_ns", "payload" (base64)} per message that stream manager stored
    <root>/witness/sitewise.puts        {"at_ns", "entry"} per PutAssetPropertyValueEntry that SiteWise accepted

Each line is written with one system call, after the acceptance and before the reply: a kill leaves whole lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def appends_path(root: Path, stream: str) -> Path:
    """Where the messages of a stream are witnessed."""
    return root / "witness" / f"{quote(stream, safe=' ,')[:240]}.appends"


def puts_path(root: Path) -> Path:
    """Where the entries that SiteWise accepted are witnessed."""
    return root / "witness" / "sitewise.puts"


class Witness:
    """An append-only file of whole lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, lines: bytes) -> None:
        """Adds lines, each ended by a newline."""
        os.write(self._file, lines)

    def close(self) -> None:
        os.close(self._file)
