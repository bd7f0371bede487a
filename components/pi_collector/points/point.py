"""What PI tells of a point, and what of it is collected."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from pi_collector.plan import Plan

NUMBERS: Final = frozenset({"Float16", "Float32", "Float64"})
INTEGERS: Final = frozenset({"Int16", "Int32"})
DIGITAL: Final = "Digital"
TEXTS: Final = frozenset({"String", "Timestamp"})
BLOB: Final = "Blob"
"""Bytes without a meaning that anybody told us: not collected."""


@dataclass(frozen=True, slots=True)
class Point:
    """A PI point, as it was when it was looked up."""

    web_id: str
    """How it is named in requests (IDOnly where the server knows that); opaque, and another one once recreated."""
    server: str
    """Name of its data server."""
    id: int
    """Its number there: stays when it is renamed, changes when it is deleted and made anew."""
    name: str
    path: str
    type: str
    """PointType: Float16, Float32, Float64, Int16, Int32, Digital, String, Timestamp, Blob."""
    unit: str = ""
    step: bool = False
    future: bool = False
    descriptor: str = ""
    digital_set: str = ""

    def __post_init__(self) -> None:
        # Of thousands of points these are the same few texts: one of each is enough.
        for name in ("server", "type", "unit", "digital_set"):
            object.__setattr__(self, name, sys.intern(getattr(self, name)))

    @property
    def key(self) -> str:
        """What it is known by in all that is kept."""
        return f"{self.server.casefold()}:{self.id}"


@dataclass(frozen=True, slots=True)
class Stream:
    """One thing that is collected."""

    handle: int
    tag: str
    """As sent on, with the summary behind it in mode summary."""
    point: Point
    plan: Plan
    unit: str
    """The tag's, else the point's."""
    asset: str
    summary: str = ""
    """In mode summary: what is calculated."""

    @property
    def key(self) -> str:
        """What it is known by in all that is kept: `key_of`."""
        return key_of(self.point, self.plan, self.summary)


def key_of(point: Point, plan: Plan, summary: str = "") -> str:
    """What a stream is known by in all that is kept: the point and what is made of it, not what we call it."""
    if plan.mode in ("interpolated", "summary"):
        return f"{point.key}|{plan.mode}|{plan.interval:g}|{summary}"
    return f"{point.key}|{plan.mode}"
