"""Calls for values: of a stream, and of a stream set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from plant.pi import reading, summary
from plant.pi.api_options import ApiOptions
from plant.pi.calls import Answer, Call, CallError, Handler, Query
from plant.pi.events import Event
from plant.pi.lookup import Lookup, may
from plant.pi.points import PiPoint
from plant.pi.system import PiSystem
from plant.pi.timed_values import OneValue, TimedValues, error_value, time_text

_PAGE: Final = 1000
_SORTS: Final = ("Ascending", "Descending")
_UNITS: Final = {"Count": "", "PercentGood": "%"}  # of what is no value of the point


class StreamCalls:
    """Answers them for a system.

    value_error: asked for each point before its values are read; a text stands in their place.
    """

    def __init__(
        self, system: PiSystem, options: ApiOptions, lookup: Lookup, value_error: Callable[[PiPoint], str | None]
    ) -> None:
        self._system = system
        self._options = options
        self._lookup = lookup
        self._value_error = value_error
        self.asked: set[int] = set()
        """Ids of points whose values were asked for."""

    def table(self) -> list[tuple[str, str, Handler]]:
        """Verbs, routes and who answers them."""
        reads: dict[str, Callable[[Query, PiPoint], Any]] = {
            "value": self._value,
            "end": self._end,
            "recorded": self._recorded,
            "recordedattime": self._recorded_at_time,
            "recordedattimes": self._recorded_at_times,
            "interpolated": self._interpolated,
            "interpolatedattimes": self._interpolated_at_times,
            "plot": self._plot,
            "summary": self._summary,
        }
        handlers = {name: self._values(read) for name, read in reads.items()}
        return [
            ("GET", f"{of}/{name}", handler)
            for name, handler in handlers.items()
            for of in ("streams/{id}", "streamsets")
        ]

    def _values(self, read: Callable[[Query, PiPoint], Any]) -> Handler:
        """The handler of a stream and of a stream set: `read` gives what is under Value or Items for one point."""

        def handle(call: Call) -> Answer:
            if call.ids:
                return self._one_stream(call, read)
            return self._stream_set(call, read)

        return handle

    def _one_stream(self, call: Call, read: Callable[[Query, PiPoint], Any]) -> Answer:
        point = self._lookup.found(call, call.ids[0])
        problem = self._problem(call, point)
        if problem is not None:
            raise CallError(problem[0], problem[1])
        content = read(call.query, point)
        if isinstance(content, OneValue):
            return Answer(content)
        self._need_room(len(content))
        return Answer({"Links": {}, "Items": content, "UnitsAbbreviation": point.units})

    def _stream_set(self, call: Call, read: Callable[[Query, PiPoint], Any]) -> Answer:
        asked = call.query.all("webId")
        if not asked:
            raise CallError(400, "The parameter 'webId' is required.")
        if self._options.counted == "asked" and "maxCount" in call.query:
            self._need_room(len(asked) * call.query.whole("maxCount", _PAGE, least=1))
        kind, items, count = call.query.web_id_kind, [], 0
        for text in asked:
            try:
                point = self._lookup.found(call, text)
            except CallError as error:
                if self._options.bad_id_fails_all:
                    raise
                items.append(self._failed(call, read, None, text, error.texts))
                continue
            problem = self._problem(call, point)
            if problem is not None:
                items.append(self._failed(call, read, point, text, problem[1:]))
                continue
            try:
                content = read(call.query, point)
            except CallError as error:
                if error.status != 404:
                    raise
                items.append(self._failed(call, read, point, text, error.texts))
                continue
            web_id = self._system.web_id_of(point, kind)
            item: dict[str, Any] = {"WebId": web_id, "Name": point.name, "Path": point.path}
            if isinstance(content, OneValue):
                item["Value"] = content
            else:
                count += len(content)
                self._need_room(count)
                item["Items"] = content
                item["UnitsAbbreviation"] = point.units
            item["Links"] = {"Source": f"{call.base}/points/{web_id}"}
            items.append(item)
        if "sortField" in call.query:
            call.query.word("sortField", ("Name",), "Name")
            descending = call.query.word("sortOrder", _SORTS, "Ascending") == "Descending"
            items.sort(key=lambda item: str(item.get("Name", "")).casefold(), reverse=descending)
        return Answer({"Links": {}, "Items": items})

    def _problem(self, call: Call, point: PiPoint) -> tuple[int, str] | None:
        """Why the values of a point are not read: a status for a stream by itself, and a text."""
        self.asked.add(point.id)
        if not may(point.definition.readers, call.user):
            return 403, f"[-10401] No Read Access - Secure Object: {point.name}"
        text = self._value_error(point)
        if text is not None:
            return 502, text
        if not self._system.connected:
            return 502, f"Cannot connect to the PI Data Archive '{self._system.name}'."
        return None

    def _failed(
        self,
        call: Call,
        read: Callable[[Query, PiPoint], Any],
        point: PiPoint | None,
        text: str,
        texts: Sequence[str],
    ) -> dict[str, Any]:
        """The item of a stream whose values could not be read."""
        item: dict[str, Any] = {"WebId": text}
        if point is not None:
            item = {
                "WebId": self._system.web_id_of(point, call.query.web_id_kind),
                "Name": point.name,
                "Path": point.path,
            }
        value = error_value(point, call.query.now_ns, texts)
        if read in (self._value, self._end, self._recorded_at_time):
            item["Value"] = value
        else:
            item["Items"] = [value]
            item["UnitsAbbreviation"] = "" if point is None else point.units
        item["Links"] = {}
        return item

    def _need_room(self, count: int) -> None:
        if count > self._options.max_returned:
            raise CallError(
                400, f"Parameter (maxCount) is greater than the maximum allowed ({self._options.max_returned})."
            )

    def _value(self, query: Query, point: PiPoint) -> OneValue:
        _no_other_units(query)
        if query.text("time"):
            return self._one(point, reading.interpolated_at(point, query.time("time"), query.now_ns))
        return self._one(point, reading.value(point, query.now_ns))

    def _end(self, query: Query, point: PiPoint) -> OneValue:
        _no_other_units(query)
        return self._one(point, reading.end(point, query.now_ns))

    def _recorded(self, query: Query, point: PiPoint) -> TimedValues:
        _no_other_units(query)
        start, end = query.range()
        values = reading.recorded(
            point,
            start,
            end,
            now_ns=query.now_ns,
            boundary=query.word("boundaryType", reading.BOUNDARIES, "Inside"),
            most=query.whole("maxCount", _PAGE, least=1, most=self._options.max_returned),
            test=query.filter(),
            keep_filtered=query.boolean("includeFilteredValues"),
        )
        return TimedValues(point, values.runs, self._options.nan)

    def _recorded_at_time(self, query: Query, point: PiPoint) -> OneValue:
        query.needed("time")
        found = self._at(query, point, query.time("time"))
        return self._one(point, found if found is not None else reading.no_data(query.time("time")))

    def _recorded_at_times(self, query: Query, point: PiPoint) -> TimedValues:
        events = [
            self._at(query, point, time) or reading.no_data(time)
            for time in _ordered(query, query.times(_times(query)))
        ]
        return TimedValues(point, [events], self._options.nan)

    def _at(self, query: Query, point: PiPoint, time_ns: int) -> Event | None:
        mode = query.word("retrievalMode", reading.RETRIEVALS, "Auto")
        found = reading.recorded_at(point, time_ns, mode)
        if found is None and mode == "Exact":
            raise CallError(404, f"No value was recorded at {time_text(time_ns)}.")
        return found

    def _interpolated(self, query: Query, point: PiPoint) -> TimedValues:
        start, end = query.range()
        interval = query.span("interval", "1h")
        self._need_room(abs(end - start) // interval + 1)
        sync = query.time("syncTime") if query.text("syncTime") else None
        outside = query.word("syncTimeBoundaryType", ("Inside", "Outside"), "Inside") == "Outside"
        times = reading.steps(start, end, interval, sync_ns=sync, outside=outside)
        return self._interpolated_values(query, point, times)

    def _interpolated_at_times(self, query: Query, point: PiPoint) -> TimedValues:
        return self._interpolated_values(query, point, _ordered(query, query.times(_times(query))))

    def _interpolated_values(self, query: Query, point: PiPoint, times: Sequence[int]) -> TimedValues:
        keep = query.boolean("includeFilteredValues")
        values = reading.interpolated(point, times, query.now_ns, test=query.filter(), keep_filtered=keep)
        return TimedValues(point, values.runs, self._options.nan)

    def _plot(self, query: Query, point: PiPoint) -> TimedValues:
        start, end = query.range()
        intervals = query.whole("intervals", 24, least=1, most=self._options.max_returned)
        return TimedValues(point, reading.plot(point, start, end, intervals, query.now_ns).runs, self._options.nan)

    def _summary(self, query: Query, point: PiPoint) -> list[dict[str, Any]]:
        start, end = query.range()
        duration = query.span("summaryDuration", "1s") if query.text("summaryDuration") else None
        sample = None
        if query.word("sampleType", summary.SAMPLES, "ExpressionRecordedValues") == "Interval":
            sample = query.span("sampleInterval", "1h")
        for interval in (duration, sample):
            self._need_room(abs(end - start) // interval + 1 if interval else 0)
        found = summary.summaries(
            point,
            start,
            end,
            query.words("summaryType", summary.TYPES, "Total"),
            now_ns=query.now_ns,
            basis=query.word("calculationBasis", summary.BASES, "TimeWeighted"),
            stamp=query.word("timeType", summary.STAMPS, "Auto"),
            duration_ns=duration,
            sample_ns=sample,
            test=query.filter(),
        )
        return [
            {"Type": kind, "Value": OneValue(point, event, self._options.nan, _UNITS.get(kind))}
            for kind, event in found
        ]

    def _one(self, point: PiPoint, event: Event) -> OneValue:
        return OneValue(point, event, self._options.nan)


def _times(query: Query) -> list[str]:
    times = query.all("time")
    if not times:
        raise CallError(400, "The parameter 'time' is required.")
    return times


def _ordered(query: Query, times: list[int]) -> list[int]:
    return sorted(times, reverse=query.word("sortOrder", _SORTS, "Ascending") == "Descending")


def _no_other_units(query: Query) -> None:
    if query.text("desiredUnits"):
        raise CallError(400, "The parameter 'desiredUnits' is not supported for PI Points.")
