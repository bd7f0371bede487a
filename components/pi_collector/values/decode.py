"""Answers and channel frames -> columns. Pure.

Theory of operation
-------------------
An answer is read once, and the values of all its streams lie in one list; what most of them are, a good value of the
point's own type, is taken out of it column by column. Every other value (flags, states, errors, another type) is looked
at by itself, with `quality`. Nothing of ours is made for a value that is plain.

Servers differ, and one value must not cost another: `Items` or `Value`, a single stream or a set, names in any order,
fields that are missing or new, booleans as texts, NaN with and without quotes are all read. A value that cannot be
placed (no object, no time) is `malformed`, one of a stream that nobody asked for `unknown`.

Nothing is made up for what can be read again: there a value with Errors is told in `errors` and is no value; in modes
snapshot and end it is BAD. In mode recorded a null that is not good is none either: so channels tell of deletions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from pi_collector.values import times
from pi_collector.values.hashing import LEVELS, Form, mixed, number_bits, text_bits
from pi_collector.values.quality import BY_NAME, NO_EVENT, RESERVED, SYSTEM_STATES, Facts, judge, status, truth
from pi_collector.values.timed import Timed, nothing
from pi_collector.values.typing import Kind, Typings
from pi_collector.web.errors import MalformedError
from sluice.columns import Quality, shown

_MOST_INTEGER: Final = 2**53
_LONGEST_ERROR: Final = 300
_NOT_FINITE: Final = frozenset(("nan", "infinity", "-infinity", "+infinity", "inf", "-inf", "∞", "-∞"))
_NOTHING: Final = int(Form.NOTHING) * LEVELS
_UNKNOWN: Final = int(Kind.UNKNOWN)


@dataclass(slots=True, eq=False)
class Decoded:
    """What an answer holds. By stream: by its handle."""

    timed: Timed
    sent: dict[int, int] = field(default_factory=dict)
    """How many values the server gave of each stream, those that are none of ours included: a full page is cut off."""
    errors: dict[int, str] = field(default_factory=dict)
    """Of streams that could not be read, or not completely: what the server says."""
    units: dict[int, str] = field(default_factory=dict)
    unknown: int = 0
    """Values of streams that nobody asked for."""
    malformed: int = 0
    """Values that cannot be read."""
    dropped: int = 0
    """States that are no samples: Pt Created, No Data."""
    trouble: str = ""
    """The first value that is malformed."""
    deleted: list[tuple[int, int]] = field(default_factory=list)
    """Stream and time (ns) of values that were deleted."""
    refresh: dict[int, int] = field(default_factory=dict)
    """Streams that are to be read again, from this time (ns) on."""
    markers: dict[int, str] = field(default_factory=dict)
    """Of an answer of stream updates: where each stream is to be asked for next."""
    unregistered: dict[int, str] = field(default_factory=dict)
    """Of an answer of stream updates: streams that are not registered any more, and why."""

    def spoilt(self, what: str, count: int = 1) -> None:
        """Values that cannot be read."""
        self.malformed += count
        self.trouble = self.trouble or what


def loads(body: bytes | str) -> Any:
    """JSON, such as PI Web API writes it: NaN without quotes and damaged texts are no reason to lose an answer.

    Raises MalformedError.
    """
    try:
        return orjson.loads(body)
    except ValueError as error:
        try:
            return json.loads(body.decode("utf-8", "replace") if isinstance(body, bytes) else body)
        except (ValueError, RecursionError):
            raise MalformedError(
                f"an answer of {len(body)} bytes is no JSON ({error})", "look at what stands between us and the server"
            ) from error


def decode_recorded(body: bytes | str, handles: Mapping[str, int], typings: Typings) -> Decoded:
    """An answer of a stream set or a single stream, or a channel's frame. `handles`: by web id.

    For the answer of a single stream `handles` has that one alone. Raises MalformedError when it is no such answer.
    """
    top = _object(body)
    decoded = Decoded(nothing())
    rows = _Rows(decoded, typings)
    only = next(iter(handles.values())) if len(handles) == 1 else None
    entries = top.get("Items")
    if "Timestamp" in top:  # a value of a single stream
        rows.add(only, [top])
    elif isinstance(entries, list):
        if _is_single(entries):
            rows.add(only, entries, top)
        else:
            for entry in entries:
                rows.add_entry(entry, handles)
    elif entries is not None:
        raise MalformedError(f"the answer's Items are {shown(entries)} and no list", _REMEDY)
    elif message := error_text(top):
        raise MalformedError(f"the server sent an error in the place of values: {message}", _REMEDY)
    decoded.timed = rows.timed()
    return decoded


def decode_summary(body: bytes | str, handles: Mapping[tuple[str, str], int], typings: Typings) -> Decoded:
    """An answer of summaries of a stream set; `handles`: by web id and type, such as Average. Raises MalformedError."""
    top = _object(body)
    decoded = Decoded(nothing())
    rows = _Rows(decoded, typings)
    of_point: dict[str, list[int]] = {}
    for (web_id, _), handle in handles.items():
        of_point.setdefault(web_id, []).append(handle)
    for entry in _list(top, decoded):
        if not isinstance(entry, dict):
            decoded.spoilt(f"{shown(entry)} in the place of a stream")
            continue
        web_id = str(entry.get("WebId"))
        message = error_text(entry)
        if message:
            decoded.errors.update(dict.fromkeys(of_point.get(web_id, ()), message))
        for summary in _list(entry, decoded):
            value = summary.get("Value") if isinstance(summary, dict) else None
            if not isinstance(value, dict):
                decoded.spoilt(f"{shown(summary)} in the place of a summary")
                continue
            rows.add(handles.get((web_id, str(summary.get("Type")))), [value])
    decoded.timed = rows.timed()
    return decoded


def decode_updates(
    body: bytes | str, handles: Mapping[str, int], typings: Typings, markers: Mapping[str, int] | None = None
) -> Decoded:
    """An answer of stream updates, or of registering for them. `handles`: by web id; `markers`: those asked for, for
    answers that name nothing else. Raises MalformedError.
    """
    top = _object(body)
    decoded = Decoded(nothing())
    rows = _Rows(decoded, typings)
    for item in _list(top, decoded):
        if not isinstance(item, dict):
            decoded.spoilt(f"{shown(item)} in the place of a stream")
            continue
        handle = handles.get(str(item.get("Source")))
        if handle is None and markers:
            handle = markers.get(str(item.get("RequestedMarker")))
        events = item.get("Events")
        events = events if isinstance(events, list) else []
        if handle is None:
            decoded.unknown += max(1, len(events))
            continue
        message = error_text(item)
        if message or str(item.get("Status")).lower() == "failed":
            decoded.unregistered[handle] = message or "the server gives no reason"
        elif isinstance(marker := item.get("LatestMarker"), str) and marker:
            decoded.markers[handle] = marker
        values = []
        for event in events:
            action = event.get("Action") if isinstance(event, dict) else None
            if action == "Delete" or action == "Refresh":
                _note_change(decoded, handle, action, event)
            else:
                values.append(event)
        rows.add(handle, values, item)
    decoded.timed = rows.timed()
    return decoded


_REMEDY: Final = "it is asked again; look at what stands between us and the server if it goes on"


def _note_change(decoded: Decoded, handle: int, action: str, event: Mapping[str, Any]) -> None:
    time = int(times.parse([event.get("Timestamp")])[0])
    if action == "Delete":
        if time == times.NEVER:
            decoded.spoilt(f"a deletion at {shown(event.get('Timestamp'))}")
        else:
            decoded.deleted.append((handle, time))
    else:
        time = max(time, 0)
        decoded.refresh[handle] = min(decoded.refresh.get(handle, time), time)


def _object(body: bytes | str) -> dict[str, Any]:
    top = loads(body)
    if not isinstance(top, dict):
        raise MalformedError(f"an answer is {shown(top)} and no JSON object", _REMEDY)
    return top


def _list(of: Mapping[str, Any], decoded: Decoded) -> list[Any]:
    found = of.get("Items")
    if isinstance(found, list):
        return found
    if found is not None:
        decoded.spoilt(f"Items are {shown(found)} and no list")
    return []


def _is_single(entries: list[Any]) -> bool:
    """Whether these are values, and not streams with values."""
    first = next((entry for entry in entries if isinstance(entry, dict)), None)
    return first is not None and "Timestamp" in first and "WebId" not in first


def error_text(of: Mapping[str, Any]) -> str:
    """What Errors or Exception of an object say, short; "" when there are none."""
    found = of.get("Errors")
    exception = of.get("Exception")
    if not found and isinstance(exception, dict):
        found = exception.get("Errors") or "unknown exception"
    if not found:
        return ""
    parts = []
    for part in found if isinstance(found, list) else [found]:
        text = part.get("Message") if isinstance(part, dict) else part
        if isinstance(text, list):  # of a value's field there may be several
            text = "; ".join(one for one in text if isinstance(one, str)) or None
        parts.append(text if isinstance(text, str) else shown(part))
        if len(parts) == 3:
            break
    return "; ".join(parts)[:_LONGEST_ERROR]


@dataclass(slots=True, eq=False)
class _Columns:
    """What the rows become."""

    number: NDArray[np.float64]
    text: NDArray[Any] | None
    quality: NDArray[np.uint8]
    status: NDArray[np.int64]
    bits: NDArray[np.uint64]
    form: NDArray[np.uint8]
    kept: NDArray[np.bool_]
    words: dict[str, int] = field(default_factory=dict)


class _Rows:
    """Collects the values of an answer, stream by stream, and makes columns of them."""

    def __init__(self, decoded: Decoded, typings: Typings) -> None:
        self._decoded = decoded
        self._typings = typings
        self._kind = typings.kind
        self._size = len(typings.kind)
        self._values: list[Any] = []
        self._handles: list[int] = []
        self._counts: list[int] = []

    def add_entry(self, entry: Any, handles: Mapping[str, int]) -> None:
        """A stream of a set."""
        if not isinstance(entry, dict):
            self._decoded.spoilt(f"{shown(entry)} in the place of a stream")
            return
        web_id = entry.get("WebId")
        handle = handles.get(web_id) if isinstance(web_id, str) else None
        values = entry.get("Items")
        if isinstance(values, dict):
            values = values.get("Items")
        if values is None:
            value = entry.get("Value")
            values = [value] if isinstance(value, dict) and value else value if isinstance(value, list) else []
        elif not isinstance(values, list):
            self._decoded.spoilt(f"Items are {shown(values)} and no list")
            values = []
        self.add(handle, values, entry)

    def add(self, handle: int | None, values: list[Any], envelope: Mapping[str, Any] | None = None) -> None:
        """Values of one stream. `envelope`: the object that they stand in, if any."""
        decoded = self._decoded
        if handle is None or not 0 <= handle < self._size or self._kind.item(handle) == _UNKNOWN:
            decoded.unknown += max(1, len(values))
            return
        if envelope is not None and ("Errors" in envelope or "Exception" in envelope):
            message = error_text(envelope)
            if message:
                decoded.errors[handle] = message
        if values:
            unit = (envelope or {}).get("UnitsAbbreviation")
            if not unit and isinstance(values[0], dict):
                unit = values[0].get("UnitsAbbreviation")
            if unit and isinstance(unit, str):
                decoded.units[handle] = unit
            self._values += values
            self._handles.append(handle)
            self._counts.append(len(values))
        decoded.sent[handle] = decoded.sent.get(handle, 0) + len(values)

    def timed(self) -> Timed:
        """All of them as columns."""
        values = self._values
        if not values:
            return nothing()
        stream = np.repeat(np.array(self._handles, np.int32), self._counts)
        try:
            texts = [value["Timestamp"] for value in values]
        except (KeyError, TypeError, IndexError):
            texts = [value.get("Timestamp") if isinstance(value, dict) else None for value in values]
        time = times.parse(texts)
        placed = time != times.NEVER
        if not placed.all():
            stream, time = stream[placed], time[placed]
            values = list(self._placed(placed, values, texts))
        columns = self._columns(values, stream, time)
        kept = columns.kept
        timed = Timed(
            stream,
            time,
            columns.number,
            columns.text,
            columns.quality if columns.quality.any() else None,
            columns.status if columns.status.any() else None,
            tuple(columns.words),
            mixed(columns.bits, columns.form),
        )
        return timed if kept.all() else timed.take(kept)

    def _placed(self, placed: NDArray[np.bool_], values: list[Any], texts: list[Any]) -> Iterator[Any]:
        """Those that have a time; the others are counted."""
        of = np.repeat(np.array(self._handles, np.int64), self._counts).tolist()
        for value, text, handle, has_time in zip(values, texts, of, placed.tolist(), strict=True):
            if has_time:
                yield value
            elif isinstance(value, dict) and (message := error_text(value)):
                self._decoded.errors.setdefault(handle, message)
            else:
                self._decoded.spoilt(
                    f"time {shown(text)}" if isinstance(value, dict) else f"{shown(value)} in the place of a value"
                )

    def _columns(self, values: list[dict[str, Any]], stream: NDArray[np.int32], time: NDArray[np.int64]) -> _Columns:
        size = len(values)
        kind = self._typings.kind[stream]
        # What is no plain number becomes NaN here, and is looked at below.
        number = np.array([_number(value.get("Value")) for value in values], np.float64)
        odd = ~np.isfinite(number)
        odd[
            [
                i
                for i, value in enumerate(values)
                if value.get("Good", True) is not True
                or value.get("Questionable")
                or value.get("Substituted")
                or value.get("Annotated")
                or "Errors" in value
            ]
        ] = True
        if kind.any():  # some are no floating-point numbers
            odd |= kind > Kind.INTEGER
            odd |= (kind == Kind.INTEGER) & ((np.trunc(number) != number) | (np.abs(number) > _MOST_INTEGER))
        columns = _Columns(
            number,
            None,
            np.zeros(size, np.uint8),
            np.zeros(size, np.int64),
            number_bits(number, self._typings.single[stream]),
            np.zeros(size, np.uint8),
            np.ones(size, np.bool_),
        )
        where = np.flatnonzero(odd)
        if len(where):
            self._odd(columns, where, values, stream, time, kind)
        return columns

    def _odd(
        self,
        columns: _Columns,
        where: NDArray[np.int64],
        values: list[dict[str, Any]],
        stream: NDArray[np.int32],
        time: NDArray[np.int64],
        kind: NDArray[np.uint8],
    ) -> None:
        """Each value that is not plain, by itself; columns are set all at once."""
        decoded, rows = self._decoded, self._typings.table
        recorded = self._typings.recorded[stream[where]].tolist()
        again = self._typings.again[stream[where]].tolist()
        numbers: list[float] = []
        texts: list[str | None] = []
        qualities: list[int] = []
        statuses: list[int] = []
        bits: list[int] = []
        forms: list[int] = []
        words = columns.words
        seen: dict[tuple[Any, ...], _Read] = {}
        own = columns.bits[where].tolist()
        indexes = where.tolist()
        for place, (i, of) in enumerate(zip(indexes, kind[where].tolist(), strict=True)):
            value = values[i]
            read = _read(value, of, seen)
            facts = read.facts
            if facts.error and again[place]:
                columns.kept[i] = False
                decoded.errors.setdefault(int(stream[i]), facts.error)
            elif recorded[place] and facts.null and not facts.good and not facts.error:
                columns.kept[i] = False
                decoded.deleted.append((int(stream[i]), int(time[i])))
            elif facts.state in NO_EVENT and not facts.error:
                columns.kept[i] = False
                decoded.dropped += 1
            row = judge(rows, facts) if not read.plain else rows[-1]
            quality = row.quality
            keeps = row.keeps_value
            numbers.append(read.number if keeps else np.nan)
            texts.append(read.text if keeps else None)
            qualities.append(Quality.BAD if quality is None else quality)
            word = status(row, facts, read.code if keeps and of == Kind.NAME else None)
            statuses.append(-1 - words.setdefault(word, len(words)) if isinstance(word, str) else word)
            bits.append(own[place] if read.form == Form.NUMBER else read.bits)
            if facts.error or facts.null:
                forms.append(_NOTHING)
                bits[-1] = 0
            else:  # a system's state is never good, whether that is said or not
                level = 0 if facts.state is not None or facts.good else 2
                forms.append(read.form * LEVELS + (level or (1 if facts.questionable and facts.state is None else 0)))
        columns.number[where] = numbers
        if any(text is not None for text in texts):
            columns.text = np.full(len(values), None, object)
            columns.text[where] = texts
        columns.quality[where] = qualities
        columns.status[where] = statuses
        columns.bits[where] = np.array(bits, np.uint64)
        columns.form[where] = forms


def _number(value: Any) -> float:
    return value if value.__class__ is float or value.__class__ is int else np.nan


@dataclass(frozen=True, slots=True)
class _Read:
    """A value, looked at by itself. `plain`: the table's last row applies."""

    facts: Facts
    plain: bool
    number: float = np.nan
    text: str | None = None
    code: int = -1
    form: int = int(Form.NUMBER)
    bits: int = 0


def _read(timed: Mapping[str, Any], kind: int, seen: dict[tuple[Any, ...], _Read]) -> _Read:
    """What a value is, and what it says of itself."""
    raw = timed.get("Value")
    flags = (timed.get("Good", True), timed.get("Questionable"), timed.get("Substituted"), timed.get("Annotated"))
    errors = timed.get("Errors")
    key: tuple[Any, ...] | None = None
    if not errors and isinstance(raw, dict):  # states repeat
        key = (kind, raw.get("Name"), raw.get("Value"), raw.get("IsSystem"), *flags)
        try:
            known = seen.get(key)
        except TypeError:
            key = None
        else:
            if known is not None:
                return known
    read = _valued(raw, kind)
    good, questionable, substituted, annotated = (
        truth(flag, otherwise) for flag, otherwise in zip(flags, (True, False, False, False), strict=True)
    )
    facts = read.facts._replace(
        error=error_text(timed) if errors else "",
        good=good,
        questionable=questionable,
        substituted=substituted,
        annotated=annotated,
    )
    plain = read.plain and good and not (questionable or substituted or facts.error)
    read = _Read(facts, plain, read.number, read.text, read.code, read.form, read.bits)
    if key is not None:
        seen[key] = read
    return read


_PLAIN: Final = Facts()


def _valued(raw: Any, kind: int) -> _Read:
    """The value alone, for a point of that kind."""
    if raw is None:
        return _Read(Facts(null=True), False, form=int(Form.NOTHING))
    if isinstance(raw, dict):
        return _of_state(raw, kind)
    if isinstance(raw, str):
        return _of_text(raw, kind)
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return _of_number(raw, kind)
    if isinstance(raw, bool) and kind == Kind.TEXT:
        return _texted("true" if raw else "false")
    return _wrong(raw)


def _of_state(raw: Mapping[str, Any], kind: int) -> _Read:
    name, code = raw.get("Name"), raw.get("Value")
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    code = int(code) if isinstance(code, int) and 0 <= code < 2**31 else None
    if not isinstance(name, str):
        name = ""
    if code is None and not name:
        return _wrong(raw)
    if _is_system(raw.get("IsSystem"), name, code, kind):
        if code is None:
            code = BY_NAME.get(name.casefold(), -1)
        facts = Facts(state=code, name=name or SYSTEM_STATES.get(code, ""))
        if code < 0:
            return _Read(facts, False, form=int(Form.STATE), bits=text_bits(name))
        return _Read(facts, False, form=int(Form.SYSTEM), bits=code)
    if kind == Kind.CODE:
        if code is None:
            return _wrong(raw)
        return _Read(_PLAIN, True, number=float(code), code=code, form=int(Form.DIGITAL), bits=code)
    name = name or str(code)
    form, bits = (Form.STATE, text_bits(name)) if code is None else (Form.DIGITAL, code)
    return _Read(_PLAIN, True, text=name, code=-1 if code is None else code, form=int(form), bits=bits)


def _is_system(flag: Any, name: str, code: int | None, kind: int) -> bool:
    """Whether a state is the system's. Only digital points have others; answers of old servers do not say it."""
    if kind not in (Kind.CODE, Kind.NAME):
        return True
    if flag is not None:
        return truth(flag, False)
    return code in RESERVED and BY_NAME.get(name.casefold()) == code


def _of_text(raw: str, kind: int) -> _Read:
    if kind == Kind.TEXT:
        return _texted(raw)
    if kind == Kind.NAME:
        return _Read(_PLAIN, True, text=raw, form=int(Form.STATE), bits=text_bits(raw))
    if kind == Kind.NUMBER and raw.strip().lower() in _NOT_FINITE:
        return _Read(Facts(finite=False), False, form=int(Form.NUMBER))
    return _wrong(raw)


def _of_number(raw: int | float, kind: int) -> _Read:
    if kind == Kind.TEXT:
        return _texted(str(raw))
    if not abs(raw) < np.inf:
        return _Read(Facts(finite=False), False, form=int(Form.NUMBER))
    if kind == Kind.NUMBER:
        return _Read(_PLAIN, True, number=float(raw))
    if raw != int(raw) or abs(raw) > _MOST_INTEGER:
        return _wrong(raw)
    if kind == Kind.INTEGER:
        return _Read(_PLAIN, True, number=float(raw))
    if raw < 0:
        return _wrong(raw)
    code = int(raw)
    if kind == Kind.CODE:
        return _Read(_PLAIN, True, number=float(code), code=code, form=int(Form.DIGITAL), bits=code)
    return _Read(_PLAIN, True, text=str(code), code=code, form=int(Form.DIGITAL), bits=code)


def _texted(text: str) -> _Read:
    return _Read(_PLAIN, True, text=text, form=int(Form.TEXT), bits=text_bits(text))


def _wrong(raw: Any) -> _Read:
    return _Read(Facts(wrong=True), False, form=int(Form.WRONG), bits=text_bits(shown(raw)))
