"""Dying on purpose, at the places where it matters most: how tests prove that each boundary of a commit is safe.

With `SLUICE_CRASH=<point>` in the environment a process kills itself with SIGKILL when it first passes that point, with
`SLUICE_CRASH=<point>:<n>` when it passes it for the n-th time. Without the variable a point costs one comparison.

    stored      producer: frames are committed, not yet published, their source not yet acknowledged
    received    consumer: batches are in hand, nothing of them is committed
    intent      exporter: the intent is committed, nothing is appended
    appended    exporter: the messages are appended, the unit is not committed
    committed   exporter: the unit is committed, not acknowledged upstream
    sealed      S3 sink: a file is sealed and its unit row is written, its task is not appended
    uploaded    S3 sink: its success has been seen, the file is not deleted
    exported    exporter: noted in the store as exported, not acknowledged upstream
    turn-stored         preprocessor: a turn's outputs are committed, with the note of what they were made from
    checkpoint-stored   preprocessor: the state is committed, its inputs are not acknowledged upstream
"""

from __future__ import annotations

import os
import signal
from typing import Final

POINTS: Final = frozenset(
    (
        "stored",
        "received",
        "intent",
        "appended",
        "committed",
        "sealed",
        "uploaded",
        "exported",
        "turn-stored",
        "checkpoint-stored",
    ),
)
VARIABLE: Final = "SLUICE_CRASH"


def _wanted(text: str) -> tuple[str, int]:
    """Name and number of the passage at which to die. Raises ValueError for what no point is called."""
    name, _, passage = text.partition(":")
    if name not in POINTS or (passage and not (passage.isdecimal() and int(passage))):
        raise ValueError(f"{VARIABLE} = {text!r} is no crash point: use one of {', '.join(sorted(POINTS))}, or name:2")
    return name, int(passage or 1)


_name, _left = _wanted(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else ("", 0)


def point(name: str) -> None:
    """Pass the point `name`, one of POINTS; from any thread."""
    if _name:
        _pass(name)


def _pass(name: str) -> None:
    global _left
    assert name in POINTS, name
    if name == _name:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
