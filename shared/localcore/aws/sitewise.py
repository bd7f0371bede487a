"""The data plane of AWS IoT SiteWise as far as gateways use it, with its documented limits. No network, no clock.

A property is a data stream known by its alias and made by the first accepted value, whose type it keeps; there are no
assets. What was accepted lives in the witness file alone: in memory there is one file position per entry.

Not modelled: quotas per second, authorization, and asset models.

    ServiceError (Exception)    a request is refused as a whole, with the code that AWS would give
"""

from __future__ import annotations

import base64
import binascii
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from botocore.utils import parse_timestamp

from localcore.aws.model import Model, ModelError
from localcore.witness import Witness, puts_path

NS = 1_000_000_000
MAX_AGE_NS = 7 * 24 * 3600 * NS
MAX_AHEAD_NS = 10 * 60 * NS
MAX_ENTRIES = 10
MAX_VALUES = 10
MAX_STRING_BYTES = 1024
DOUBLE_LIMIT = 1e10
MAX_HISTORY_ENTRIES = 16
MAX_LATEST_ENTRIES = 128
MAX_PAGE_VALUES = 20_000
MAX_PAGE_BYTES = 4 << 20
DEFAULT_PAGE_VALUES = 100

_STRING = re.compile(r"[^\u0000-\u001F\u007F]*")
_VALUE_TYPES = {"doubleValue": "D", "integerValue": "I", "booleanValue": "B", "stringValue": "S"}

INVALID = "InvalidRequestException"
NOT_FOUND = "ResourceNotFoundException"

HTTP_STATUS = {
    INVALID: 400,
    NOT_FOUND: 404,
    "ThrottlingException": 429,
    "InternalFailureException": 500,
    "ServiceUnavailableException": 503,
}

Value = dict[str, Any]


class ServiceError(Exception):
    """A request is refused as a whole; `code` is the name of AWS's error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Property:
    type: str | None = None
    positions: array[int] = field(default_factory=lambda: array("Q"))


class SiteWise:
    """All properties, kept in the witness below `root`, which outlives the process."""

    def __init__(self, root: Path) -> None:
        self._path = puts_path(root)
        self._witness = Witness(self._path)
        self._properties: dict[str, _Property] = {}
        model = Model("iotsitewise")
        self._check = {
            operation: model.checker(operation)
            for operation in (
                "BatchPutAssetPropertyValue",
                "GetAssetPropertyValueHistory",
                "BatchGetAssetPropertyValueHistory",
                "GetAssetPropertyValue",
                "BatchGetAssetPropertyValue",
            )
        }
        self._end = 0
        with self._path.open("rb") as lines:
            for line in lines:
                self._index(orjson.loads(line)["entry"], len(line))

    def put(
        self, request: Any, now_ns: int, witnessed_ns: int | None = None, *, throttled: bool = False
    ) -> dict[str, Any]:
        """BatchPutAssetPropertyValue: accepts what is right and reports the rest by entry. Raises ServiceError.

        witnessed_ns: the time for the witness, when the endpoint's own clock was stepped.
        throttled: every entry is refused with ThrottlingException, as happens under load.
        """
        self._fits("BatchPutAssetPropertyValue", request)
        entries = request["entries"]
        if len(entries) > MAX_ENTRIES:
            raise ServiceError(INVALID, f"entries: {len(entries)}; up to {MAX_ENTRIES} are allowed")
        if len({entry["entryId"] for entry in entries}) < len(entries):
            raise ServiceError(INVALID, "entries: each entryId must be unique in the request")
        partial = request.get("enablePartialEntryProcessing", False)
        seen: set[tuple[str, int]] = set()
        accepted: list[bytes] = []
        refused: list[dict[str, Any]] = []
        for entry in entries:
            if throttled:
                problems = _Problems()
                problems.add("ThrottlingException", "the request rate is too high")
            else:
                problems = self._problems(entry, now_ns, seen)
            if problems.found:
                refused.append({"entryId": entry["entryId"], "errors": problems.found})
                if not partial or problems.whole or len(problems.bad) == len(entry["propertyValues"]):
                    continue
                values = [v for i, v in enumerate(entry["propertyValues"]) if i not in problems.bad]
                entry = {**entry, "propertyValues": values}
            line = b'{"at_ns":%d,"entry":%b}\n' % (
                now_ns if witnessed_ns is None else witnessed_ns,
                orjson.dumps(entry),
            )
            self._index(entry, len(line))
            accepted.append(line)
        if accepted:
            self._witness.write(b"".join(accepted))
        return {"errorEntries": refused}

    def history(self, request: Any) -> dict[str, Any]:
        """GetAssetPropertyValueHistory: one page. Raises ServiceError."""
        self._fits("GetAssetPropertyValueHistory", request)
        page = _Page(request)
        complete = page.take(0, self._select(request))
        response: dict[str, Any] = {"assetPropertyValueHistory": page.values}
        return response if complete else response | {"nextToken": page.token()}

    def batch_history(self, request: Any) -> dict[str, Any]:
        """BatchGetAssetPropertyValueHistory: one page over the entries in their order. Raises ServiceError."""
        self._fits("BatchGetAssetPropertyValueHistory", request)
        entries = _unique_entries(request, MAX_HISTORY_ENTRIES)
        page = _Page(request)
        success: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        skipped = [{"entryId": e["entryId"], "completionStatus": "SUCCESS"} for e in entries[: page.entry]]
        response = {"successEntries": success, "errorEntries": errors, "skippedEntries": skipped}
        for index, entry in enumerate(entries[page.entry :], page.entry):
            before = len(page.values)
            try:
                complete = page.take(index, self._select(entry))
            except ServiceError as error:
                errors.append({"entryId": entry["entryId"], "errorCode": error.code, "errorMessage": str(error)})
                continue
            success.append({"entryId": entry["entryId"], "assetPropertyValueHistory": page.values[before:]})
            if not complete:
                return response | {"nextToken": page.token()}
        return response

    def latest(self, request: Any) -> dict[str, Any]:
        """GetAssetPropertyValue: the youngest value. Raises ServiceError."""
        self._fits("GetAssetPropertyValue", request)
        return {"propertyValue": next(self._select({**request, "timeOrdering": "DESCENDING"}))[1]}

    def batch_latest(self, request: Any) -> dict[str, Any]:
        """BatchGetAssetPropertyValue. Raises ServiceError."""
        self._fits("BatchGetAssetPropertyValue", request)
        success: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for entry in _unique_entries(request, MAX_LATEST_ENTRIES):
            try:
                value = next(self._select({**entry, "timeOrdering": "DESCENDING"}))[1]
            except ServiceError as error:  # noqa: PERF203 - 128 entries at most
                errors.append({"entryId": entry["entryId"], "errorCode": error.code, "errorMessage": str(error)})
            else:
                success.append({"entryId": entry["entryId"], "assetPropertyValue": value})
        return {"successEntries": success, "errorEntries": errors, "skippedEntries": []}

    def close(self) -> None:
        self._witness.close()

    def _fits(self, operation: str, request: Any) -> None:
        try:
            self._check[operation](request, operation)
        except ModelError as error:
            raise ServiceError(INVALID, str(error)) from error

    def _index(self, entry: Mapping[str, Any], length: int) -> None:
        known = self._properties.get(entry["propertyAlias"])
        if known is None:
            known = self._properties[entry["propertyAlias"]] = _Property()
        if known.type is None:
            known.type = next(filter(None, (_value_type(v["value"]) for v in entry["propertyValues"])), None)
        known.positions.append(self._end)
        self._end += length

    def _problems(self, entry: Mapping[str, Any], now_ns: int, seen: set[tuple[str, int]]) -> _Problems:
        """What is wrong with an entry; `seen` holds (alias, time) of the entries before it in the request."""
        problems = _Problems()
        alias = entry.get("propertyAlias")
        by_id = "assetId" in entry or "propertyId" in entry
        if (alias is None) is not by_id or ("assetId" in entry) is not ("propertyId" in entry):
            problems.add(INVALID, "either propertyAlias, or assetId and propertyId, is required")
            return problems
        if alias is None:
            problems.add(NOT_FOUND, f"the asset {entry['assetId']} does not exist")
            return problems
        values = entry["propertyValues"]
        if not 1 <= len(values) <= MAX_VALUES:
            problems.add(INVALID, f"propertyValues: {len(values)}; 1 to {MAX_VALUES} are allowed")
            return problems
        known = self._properties.get(alias)
        property_type = known.type if known is not None else None
        oldest, youngest = now_ns - MAX_AGE_NS, now_ns + MAX_AHEAD_NS
        own: set[tuple[int, str]] = set()
        for index, value in enumerate(values):
            stamp = value["timestamp"]
            time_ns = stamp["timeInSeconds"] * NS + stamp.get("offsetInNanos", 0)
            quality = value.get("quality", "GOOD")
            if not oldest <= time_ns <= youngest:
                problems.add("TimestampOutOfRangeException", "not within the last 7 days to 10 min ahead", index, stamp)
            elif (wrong := _wrong(value["value"], quality, property_type)) is not None:
                problems.add(INVALID, wrong, index, stamp)
            elif (alias, time_ns) in seen:
                message = "another entry of this request has the same property and timestamp"
                problems.add("ConflictingOperationException", message, index, stamp)
            elif (time_ns, quality) in own:
                problems.add(INVALID, "two values of this entry have the same timestamp and quality", index, stamp)
            else:
                own.add((time_ns, quality))
                property_type = property_type or _value_type(value["value"])
        seen.update((alias, time_ns) for time_ns, _ in own)
        return problems

    def _select(self, query: Mapping[str, Any]) -> Iterator[tuple[list[Any], Value]]:
        """(sort key, value) of a property in the order asked for: younger writes replaced older ones."""
        alias = query.get("propertyAlias")
        known = self._properties.get(alias) if alias is not None else None
        if known is None:
            raise ServiceError(NOT_FOUND, f"no data stream has the alias {alias!r}")
        start, end = _time_ns(query.get("startDate"), 0), _time_ns(query.get("endDate"), 2**63)
        qualities = query.get("qualities") or ("GOOD", "BAD", "UNCERTAIN")
        kept: dict[tuple[int, str], Value] = {}
        with self._path.open("rb") as lines:
            for position in known.positions:
                lines.seek(position)
                for value in orjson.loads(lines.readline())["entry"]["propertyValues"]:
                    stamp, quality = value["timestamp"], value.get("quality", "GOOD")
                    stamp = {"timeInSeconds": stamp["timeInSeconds"], "offsetInNanos": stamp.get("offsetInNanos", 0)}
                    time_ns = stamp["timeInSeconds"] * NS + stamp["offsetInNanos"]
                    if start < time_ns <= end and quality in qualities:
                        kept[time_ns, quality] = {"value": value["value"], "timestamp": stamp, "quality": quality}
        descending = query.get("timeOrdering") == "DESCENDING"
        return iter([([*key], kept[key]) for key in sorted(kept, reverse=descending)])


class _Problems:
    """What is wrong with one entry: errors by code, and the values that are to blame."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.bad: set[int] = set()
        self.whole = False

    def add(self, code: str, message: str, index: int | None = None, stamp: Mapping[str, int] | None = None) -> None:
        """Notes a problem of the value at `index`, or of the entry as a whole."""
        error = next((e for e in self.found if (e["errorCode"], e["errorMessage"]) == (code, message)), None)
        if error is None:
            error = {"errorCode": code, "errorMessage": message, "timestamps": []}
            self.found.append(error)
        if index is None or stamp is None:
            self.whole = True
        else:
            self.bad.add(index)
            error["timestamps"].append(dict(stamp))


class _Page:
    """Collects values until the page is full, and continues where the page before ended."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._room = request.get("maxResults", DEFAULT_PAGE_VALUES)
        if self._room > MAX_PAGE_VALUES:
            raise ServiceError(INVALID, f"maxResults {self._room}: up to {MAX_PAGE_VALUES} are allowed")
        self._bytes = MAX_PAGE_BYTES
        self.values: list[Value] = []
        self.entry = 0
        self._after: list[Any] | None = None
        if (token := request.get("nextToken")) is not None:
            try:
                self.entry, self._after = orjson.loads(base64.b64decode(token, validate=True))
            except (binascii.Error, ValueError, TypeError) as error:
                raise ServiceError(INVALID, "nextToken: not one that was given out") from error

    def take(self, entry: int, ordered: Iterator[tuple[list[Any], Value]]) -> bool:
        """Adds the values of one entry; False when the page was full before the last."""
        if entry == self.entry and self._after is not None:
            for key, _ in ordered:
                if key == self._after:
                    break
        for key, value in ordered:
            size = len(orjson.dumps(value))
            if self._room <= 0 or self._bytes < size:
                return False
            self._room -= 1
            self._bytes -= size
            self.entry, self._after = entry, key
            self.values.append(value)
        return True

    def token(self) -> str:
        """What the next request continues with."""
        return base64.b64encode(orjson.dumps([self.entry, self._after])).decode()


def _unique_entries(request: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = request["entries"]
    if not 1 <= len(entries) <= limit or len({entry["entryId"] for entry in entries}) < len(entries):
        raise ServiceError(INVALID, f"entries: 1 to {limit} with unique entryIds are allowed")
    return entries


def _value_type(variant: Mapping[str, Any]) -> str | None:
    for member, letter in _VALUE_TYPES.items():
        if member in variant:
            return letter
    return None


def _wrong(variant: Mapping[str, Any], quality: str, property_type: str | None) -> str | None:
    """What is wrong with a value for a property of this type; None if nothing is."""
    if len(variant) != 1:
        return "value: exactly one of its members is required"
    ((member, content),) = variant.items()
    if member == "nullValue":
        if quality == "GOOD":
            return "nullValue: allowed with quality BAD or UNCERTAIN only"
        letter = content["valueType"]
        if letter == "U":
            return None
    else:
        letter = _VALUE_TYPES[member]
        if letter == "D":
            if not -DOUBLE_LIMIT <= content <= DOUBLE_LIMIT:
                return f"doubleValue: not within ±{DOUBLE_LIMIT:g}"
        elif letter == "S":
            if len(content.encode()) > MAX_STRING_BYTES:
                return f"stringValue: more than {MAX_STRING_BYTES} bytes"
            if not _STRING.fullmatch(content):
                return "stringValue: contains control characters"
    if property_type is not None and letter != property_type:
        return f"value of type {letter}: the data stream has type {property_type}"
    return None


def _time_ns(value: Any, default: int) -> int:
    if value is None:
        return default
    try:
        moment: datetime = parse_timestamp(value)
    except ValueError as error:
        raise ServiceError(INVALID, f"{value!r} is not a time") from error
    return round(moment.timestamp() * 1_000_000) * 1000
