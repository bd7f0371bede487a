"""One call of the API: what it asks for, read from its query, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, TypeVar

from plant.pi import filtering, time_syntax, webid
from plant.pi.selecting import Selection

_Word = TypeVar("_Word", bound=str)
_DIGITS = 18  # of a whole number
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}


class CallError(Exception):
    """A call that is refused: an HTTP status and what the answer says."""

    def __init__(self, status: int, *texts: str) -> None:
        super().__init__(*texts)
        self.status = status
        self.texts = texts


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered: a status and what becomes JSON."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Query:
    """The parameters of a call; their names are known in any case. Wrong values raise CallError(400)."""

    def __init__(self, pairs: Iterable[tuple[str, str]], now_ns: int, zone: tzinfo) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.casefold(), []).append(value)
        self.now_ns = now_ns
        self._zone = zone
        self._range: tuple[int, int] | None = None  # the same for each stream of a set

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._values

    def all(self, name: str) -> list[str]:
        """All values of a parameter."""
        return self._values.get(name.casefold(), [])

    def text(self, name: str, default: str = "") -> str:
        """The first value of a parameter; the default where it is missing or empty."""
        return next(iter(self.all(name)), "") or default

    def needed(self, name: str) -> str:
        """A parameter that must be there."""
        text = self.text(name)
        if not text:
            raise CallError(400, f"The parameter '{name}' is required.")
        return text

    def word(self, name: str, words: Sequence[_Word], default: _Word) -> _Word:
        """One of some words, in any case."""
        return self._word(name, self.text(name, default), words)

    def words(self, name: str, words: Sequence[_Word], default: _Word) -> list[_Word]:
        """Any of some words; they may be given one by one, or with commas between."""
        given = [one for text in self.all(name) for one in text.split(",") if one.strip()]
        return [self._word(name, text, words) for text in given or [default]]

    @staticmethod
    def _word(name: str, text: str, words: Sequence[_Word]) -> _Word:
        for word in words:
            if word.casefold() == text.strip().casefold():
                return word
        raise CallError(400, f"The value '{text}' of the parameter '{name}' is not valid.")

    def whole(self, name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
        """A whole number; above the maximum it is refused with PI Web API's words."""
        text = self.text(name, str(default)).strip()
        if not text.removeprefix("-").isdecimal() or len(text) > _DIGITS:
            raise CallError(400, f"The value '{text}' of the parameter '{name}' is not valid.")
        number = int(text)
        if number < least:
            raise CallError(400, f"Parameter ({name}) is less than the minimum allowed ({least}).")
        if most is not None and number > most:
            raise CallError(400, f"Parameter ({name}) is greater than the maximum allowed ({most}).")
        return number

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """true or false."""
        text = self.text(name, str(default)).strip().casefold()
        if text not in _BOOLEANS:
            raise CallError(400, f"The value '{text}' of the parameter '{name}' is not valid.")
        return _BOOLEANS[text]

    # ---- what means the same in every call

    @property
    def zone(self) -> tzinfo:
        """The zone of times without one: `timeZone`, or the server's."""
        name = self.text("timeZone")
        try:
            return time_syntax.zone_of(name) if name else self._zone
        except time_syntax.TimeSyntaxError as error:
            raise CallError(400, str(error)) from error

    def time(self, name: str) -> int:
        """A time; now where it is missing."""
        return self.times([self.text(name)])[0]

    def times(self, texts: Sequence[str]) -> list[int]:
        """Several times."""
        zone = self.zone
        try:
            return [time_syntax.parse(text, self.now_ns, zone) for text in texts]
        except time_syntax.TimeSyntaxError as error:
            raise CallError(400, str(error)) from error

    def range(self, start: str = "*-1d", end: str = "*") -> tuple[int, int]:
        """`startTime` and `endTime`."""
        if self._range is None:
            try:
                self._range = time_syntax.parse_pair(
                    self.text("startTime", start), self.text("endTime", end), self.now_ns, self.zone
                )
            except time_syntax.TimeSyntaxError as error:
                raise CallError(400, str(error)) from error
        return self._range

    def span(self, name: str, default: str) -> int:
        """A duration in ns, above 0."""
        try:
            span = time_syntax.parse_span(self.text(name, default))
        except time_syntax.TimeSyntaxError as error:
            raise CallError(400, str(error)) from error
        if span <= 0:
            raise CallError(400, f"The parameter '{name}' must be longer than nothing.")
        return span

    def filter(self) -> filtering.Test | None:
        """`filterExpression`."""
        text = self.text("filterExpression")
        try:
            return filtering.parse(text) if text.strip() else None
        except filtering.FilterError as error:
            raise CallError(400, str(error)) from error

    @property
    def web_id_kind(self) -> webid.Kind:
        """`webIdType`."""
        return self.word("webIdType", tuple(webid.KINDS.values()), "Full")

    @property
    def selection(self) -> Selection:
        """`selectedFields`."""
        return Selection.parse(self.text("selectedFields"))


@dataclass(frozen=True, slots=True)
class Call:
    """One call. base: the API's address as the client wrote it, without a slash at its end."""

    method: str
    route: str
    """Its path below the base, with {id} for what names a thing."""
    ids: tuple[str, ...]
    query: Query
    base: str
    user: str = ""
    body: bytes = b""
    address: str = ""
    """The whole address, without the query."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The query as it was written."""


Handler = Callable[[Call], Answer]
"""Answers a call, or raises CallError."""
