"""What an answer says before anybody reads its values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.web import answers
from pi_collector.web.errors import (
    ConflictError,
    ForbiddenError,
    MalformedError,
    NotFoundError,
    PiError,
    RefusedError,
    ThrottledError,
    TooMuchError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)

RECORDED = {"Items": [{"WebId": "I1DPa", "Items": [{"Timestamp": "2026-03-01T10:00:00Z", "Value": 1.5}]}], "Links": {}}
EXCEPTION = {"Errors": ["Error occurred during writing of the output stream."], "StatusCode": 500}


def body(content: Any) -> bytes:
    return json.dumps(content).encode()


def refused(status: int, content: Any = None, **headers: str) -> RefusedError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(RefusedError) as caught:
        answers.check(status, named, b"" if content is None else body(content))
    return caught.value


@pytest.mark.parametrize("status", [200, 207])
def test_an_answer_of_success_is_one(status: int) -> None:
    answers.check(status, {}, body(RECORDED))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RefusedError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (405, UnsupportedError),
        (409, ConflictError),
        (410, NotFoundError),
        (413, TooMuchError),
        (414, TooMuchError),
        (429, ThrottledError),
        (431, TooMuchError),
        (500, UnavailableError),
        (501, UnsupportedError),
        (502, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
        (599, UnavailableError),
        (418, RefusedError),
        (302, RefusedError),
    ],
)
def test_each_status_is_an_error_of_its_kind_in_words(status: int, kind: type[RefusedError]) -> None:
    error = refused(status, {"Errors": ["The text of the server."]})
    assert type(error) is kind
    assert error.status == status
    assert error.problem
    assert error.remedy
    assert error.errors == ("The text of the server.",)
    assert status == 302 or "The text of the server." in error.problem


def test_more_than_the_maximum_is_too_much_and_not_just_a_wrong_request() -> None:
    error = refused(400, {"Errors": ["Parameter (maxCount) is greater than the maximum allowed (150000)."]})
    assert isinstance(error, TooMuchError)
    assert not isinstance(refused(400, {"Errors": ["Unknown or invalid WebID format."]}), TooMuchError)


def test_a_page_that_says_that_the_address_is_too_long_is_too_much() -> None:
    page = b"<html><head><title>Bad Request</title></head><h2>Bad Request - Request Too Long</h2></html>"
    with pytest.raises(RefusedError):
        answers.check(400, {}, page)
    titled = b"<html><head><title>Request Too Long</title></head></html>"
    with pytest.raises(TooMuchError):
        answers.check(400, {}, titled)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ({"Errors": ["a", "b"]}, ("a", "b")),
        ({"Message": "An error has occurred."}, ("An error has occurred.",)),
        ({"Errors": [{"FieldName": "Value", "Message": ["PI Point not found."]}]}, ("PI Point not found.",)),
        ({"Errors": "one"}, ("one",)),
        ({"Errors": [], "Message": None}, ()),
        ({"Errors": ["a\r\n\x1b[31mb", ""]}, ("a [31mb",)),
        ("text alone", ("text alone",)),
        (["a"], ()),
        (None, ()),
    ],
)
def test_what_the_server_says_is_found_in_every_form_it_has(content: Any, texts: tuple[str, ...]) -> None:
    assert answers.texts(body(content)) == texts


def test_what_the_server_says_is_bounded() -> None:
    texts = answers.texts(body({"Errors": [f"{index} " + "x" * 10_000 for index in range(1000)]}))
    assert len(texts) == 5
    assert all(len(text) <= 301 for text in texts)


def test_a_page_is_told_by_its_title() -> None:
    assert "Runtime Error" in str(answers.refusal(500, answers.texts(b"<html><title> Runtime\n Error</title>")))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(body))
def test_no_body_of_an_error_is_more_than_an_error(content: bytes) -> None:
    for status in (400, 404, 429, 500):
        with pytest.raises(RefusedError):
            answers.check(status, {}, content)


@given(st.binary(max_size=200))
def test_no_body_of_success_raises_anything_else(content: bytes) -> None:
    try:
        answers.check(200, {}, content)
    except PiError:
        return


def test_a_web_exception_inside_a_200_counts_as_its_status() -> None:
    error = refused(200, {**RECORDED, "WebException": EXCEPTION})
    assert isinstance(error, UnavailableError)
    assert error.errors == ("Error occurred during writing of the output stream.",)
    assert isinstance(refused(200, {"WebException": {**EXCEPTION, "StatusCode": 404}}), NotFoundError)


@pytest.mark.parametrize("status", [None, 200, 0, "500", True, [], 12345])
def test_a_web_exception_with_a_status_that_is_none_is_a_500(status: Any) -> None:
    assert refused(200, {"WebException": {"StatusCode": status}}).status == 500


def test_the_same_word_in_a_value_is_a_value() -> None:
    answers.check(200, {}, body({"Items": [{"Name": "WebException", "Value": "WebException"}]}))
    answers.check(200, {}, body({"Items": [{"WebException": EXCEPTION}]}))


@given(st.integers(1, 400))
def test_an_answer_that_is_cut_off_anywhere_is_refused_here_or_by_whoever_parses_it(cut: int) -> None:
    whole = body({**RECORDED, "WebException": EXCEPTION})
    short = whole[: max(1, len(whole) - cut)]
    try:
        answers.check(200, {}, short)
    except (MalformedError, UnavailableError):
        return
    with pytest.raises(json.JSONDecodeError):
        json.loads(short)


def test_an_answer_that_breaks_off_inside_its_web_exception_is_malformed() -> None:
    with pytest.raises(MalformedError, match="broke an answer off"):
        answers.check(200, {}, b'{"Items":[{"Timest"WebException":{"StatusCode":500}}')


@pytest.mark.parametrize("cut", [b'{"Items":[{"Timest', b"{", b'{"Items":[1,', b'[{"a":1},'])
def test_an_answer_that_is_cut_off_is_malformed(cut: bytes) -> None:
    with pytest.raises(MalformedError, match="broke an answer off"):
        answers.check(200, {}, cut)


def test_a_page_in_the_place_of_an_answer_is_told_by_its_title() -> None:
    with pytest.raises(MalformedError, match=r"page or a text \(Sign in\)"):
        answers.check(200, {}, b"<!DOCTYPE html><title>Sign in</title>")


@pytest.mark.parametrize("nothing", [b"", b"  \r\n"])
def test_nothing_is_no_answer(nothing: bytes) -> None:
    with pytest.raises(MalformedError, match="answers with nothing"):
        answers.check(200, {}, nothing)
    answers.check(204, {}, b"")


def test_where_a_redirect_leads_is_told_without_its_query() -> None:
    error = refused(302, Location="https://login.example.com/adfs?token=SECRET#x")
    assert "https://login.example.com/adfs" in error.problem
    assert "SECRET" not in str(error)


DATE = "Sun, 01 Mar 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("Sun, 01 Mar 2026 10:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 09:00:00 GMT", 0.0),
        ("soon", answers.RETRY_AFTER),
        ("-5", answers.RETRY_AFTER),
        ("", answers.RETRY_AFTER),
    ],
)
def test_retry_after_is_a_number_or_a_date_by_the_servers_own_clock(header: str, seconds: float) -> None:
    error = refused(429, Retry_After=header, Date=DATE)
    assert isinstance(error, ThrottledError)
    assert error.retry_after == seconds


def test_the_parts_of_a_batch_have_an_answer_each() -> None:
    asked: dict[str, Any] = {"1": {}, "2": {}, "3": {}}
    found = answers.parts(
        body(
            {
                "1": {"Status": 200, "Headers": {}, "Content": RECORDED},
                "2": {"Status": 404, "Content": {"Errors": ["gone"]}},
                "3": {"Status": 200, "Content": {"WebException": EXCEPTION}},
            }
        ),
        asked,
    )
    assert found["1"].error() is None
    assert json.loads(found["1"].body) == RECORDED
    assert isinstance(found["2"].error(), NotFoundError)
    assert isinstance(found["3"].error(), UnavailableError)


@pytest.mark.parametrize("content", [{}, [], {"1": None}, {"1": {"Status": "200"}}, None])
def test_a_batch_without_one_of_its_parts_is_malformed(content: Any) -> None:
    with pytest.raises(MalformedError):
        answers.parts(body(content), {"1": {}})
