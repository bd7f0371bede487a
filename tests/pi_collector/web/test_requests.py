"""Every question to the server as it is written, and how many streams fit into one."""

from __future__ import annotations

import itertools
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.web import requests

START = 1_772_359_200_123_456_700  # 2026-03-01T10:00:00.1234567Z
STOP = START + 3_600_000_000_000


def asked(request: requests.Request) -> tuple[str, list[tuple[str, str]]]:
    """The request as a server reads it off its address."""
    parts = urlsplit(requests.written(request.path, request.query))
    return parts.path, parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))


def test_recorded_values_are_asked_for_between_absolute_times_inside_and_with_a_count() -> None:
    path, query = asked(requests.recorded(["I1DPa", "I1DPb"], START, STOP, 1500))
    told = dict(query)
    assert path == "streamsets/recorded"
    assert told["startTime"] == "2026-03-01T10:00:00.1234567Z"
    assert told["endTime"] == "2026-03-01T11:00:00.1234567Z"
    assert told["boundaryType"] == "Inside"
    assert told["maxCount"] == "1500"
    assert [value for name, value in query if name == "webId"] == ["I1DPa", "I1DPb"]


def test_recorded_values_name_every_field_that_is_read_and_their_errors() -> None:
    _, query = asked(requests.recorded(["I1DPa"], START, STOP, 1))
    fields = dict(query)["selectedFields"].split(";")
    assert {"Items.WebId", "Items.UnitsAbbreviation", "Items.Items.Timestamp", "Items.Items.Errors"} < set(fields)
    assert {f"Items.Items.{flag}" for flag in ("Good", "Questionable", "Substituted", "Annotated")} < set(fields)


def test_one_stream_alone_has_the_fields_of_its_own_shape() -> None:
    path, query = asked(requests.recorded_alone("I1DPa", START, STOP, 10))
    assert path == "streams/I1DPa/recorded"
    assert "Items.Timestamp" in dict(query)["selectedFields"].split(";")


def test_newest_and_last_values_are_asked_for_without_a_time() -> None:
    assert asked(requests.value(["I1DPa"]))[0] == "streamsets/value"
    assert asked(requests.end_value(["I1DPa"]))[0] == "streamsets/end"
    assert set(dict(asked(requests.value(["I1DPa"]))[1])) == {"selectedFields", "webId", "webIdType"}


def test_calculated_values_say_their_interval_and_where_they_stand() -> None:
    _, query = asked(requests.interpolated(["I1DPa"], START, STOP, 0.5))
    assert dict(query)["interval"] == "0.5s"
    path, query = asked(requests.summary(["I1DPa"], START, STOP, 60, ["Average", "Maximum"]))
    assert path == "streamsets/summary"
    assert [value for name, value in query if name == "summaryType"] == ["Average", "Maximum"]
    assert dict(query)["summaryDuration"] == "60s"
    assert dict(query)["timeType"] == "EarliestTime"
    assert "Items.Items.Value.Errors" in dict(query)["selectedFields"]


def test_points_are_looked_up_by_path_by_many_and_by_search() -> None:
    path, query = asked(requests.point("\\\\SRV\\Unit 1&2.PV#ü"))
    assert (path, dict(query)["path"]) == ("points", "\\\\SRV\\Unit 1&2.PV#ü")
    path, query = asked(requests.points_by_path(["\\\\S\\A", "\\\\S\\B"]))
    assert path == "points/multiple"
    assert [value for name, value in query if name == "path"] == ["\\\\S\\A", "\\\\S\\B"]
    assert dict(query)["includeMode"] == "All"
    path, query = asked(requests.points_search("I1DSx", "Tag:=Unit1*", 1000))
    told = dict(query)
    assert (path, told["dataServerWebId"], told["query"]) == ("points/search", "I1DSx", "Tag:=Unit1*")
    assert (told["startIndex"], told["maxCount"]) == ("1000", "1000")
    path, query = asked(requests.points_list("I1DSx", name="Unit*", source="L"))
    assert path == "dataservers/I1DSx/points"
    assert (dict(query)["nameFilter"], dict(query)["sourceFilter"]) == ("Unit*", "L")
    assert "nameFilter" not in dict(asked(requests.points_list("I1DSx"))[1])


def test_what_comes_by_itself_is_asked_for_by_stream_or_marker() -> None:
    path, query = asked(requests.channel(["I1DPa"], 5))
    assert path == "streamsets/channel"
    kind = ("webIdType", "IDOnly")
    assert query == [("includeInitialValues", "true"), ("heartbeatRate", "5"), kind, ("webId", "I1DPa")]
    assert asked(requests.register(["I1DPa"])) == ("streamsets/updates", [kind, ("webId", "I1DPa")])
    assert asked(requests.updates(["0cbb_12"])) == ("streamsets/updates", [kind, ("marker", "0cbb_12")])


@pytest.mark.parametrize("path", ["../admin", "a/../b", "a//b", "/a", "a?b=c", "a#b", "https://other/x", "a b", "a\\b"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="none below the address"):
        requests.written(path, ())


def test_a_web_id_with_signs_stays_one_step_of_a_path() -> None:
    assert asked(requests.recorded_alone("../x?y", START, STOP, 1))[0] == "streams/..%2Fx%3Fy/recorded"


STREAMS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), max_size=60)


@given(STREAMS, st.integers(1, 20), st.integers(300, 2000))
def test_chunks_have_every_stream_once_in_order_and_keep_their_bounds(
    streams: list[str], most: int, url_bytes: int
) -> None:
    fixed = (("startTime", "2026-03-01T10:00:00.0000000Z"),)
    found = requests.chunks("streamsets/recorded", fixed, streams, most, url_bytes)
    assert [index for chunk in found for index in chunk] == list(range(len(streams)))
    for chunk in found:
        query = [*fixed, *(("webId", streams[index]) for index in chunk)]
        size = requests.BASE + len(requests.written("streamsets/recorded", query))
        assert len(chunk) == 1 or (len(chunk) <= most and size <= url_bytes)


@given(STREAMS, st.integers(1, 20), st.integers(300, 2000))
def test_no_chunk_could_have_taken_the_next_stream(streams: list[str], most: int, url_bytes: int) -> None:
    found = requests.chunks("p", (), streams, most, url_bytes, parameter="marker")
    for chunk, after in itertools.pairwise(found):
        query = [("marker", streams[index]) for index in (*chunk, after[0])]
        assert len(chunk) == most or requests.BASE + len(requests.written("p", query)) > url_bytes


def test_a_hundred_ordinary_points_fit_into_one_request() -> None:
    streams = [f"I1DPtNdEETiNm02M4FYFgorKtQ{index:06d}" for index in range(100)]
    fixed = requests.recorded_query(START, STOP, 1500)
    assert len(requests.chunks("streamsets/recorded", fixed, streams, 100, 6000)) == 1


def test_lengths_count_as_they_are_sent() -> None:
    assert len(quote("ü")) == 6
    streams = ["ü" * 100] * 2
    assert len(requests.chunks("p", (), streams, 10, requests.BASE + 1000)) == 2
