"""In what the reading parts of servers differ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timezone, tzinfo
from typing import Literal

from plant.pi import timed_values


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """In what the reading parts of servers differ, or the documentation is silent."""

    version: str = "1.19.0.621"
    title: str = "PI Web API 2023 SP1"
    search: bool = True
    """points/search: since 2021 SP3."""
    multiple: bool = True
    """points/multiple."""
    unknown: int = 404
    """What those two are answered by a server without them; 400: it takes the word for a web id."""
    max_returned: int = 150_000
    """MaxReturnedItemsPerCall."""
    counted: Literal["returned", "asked"] = "returned"
    """What of a stream set must not be above that: the values found, or streams times maxCount."""
    zone: tzinfo = timezone.utc
    """The server's time zone."""
    bad_id_fails_all: bool = True
    """Whether a web id that is none fails a whole stream set; else its item says Errors in the place of values."""
    nan: timed_values.NaN = "text"
    nesting: int = 100
    """Requests in a batch."""
