"""What servers answer when they are asked for points: in any order, in part, not at all, and not as they should."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.config import Load
from pi_collector.points.lookup import Lookup, Refusal, Why, point_of, refusal
from pi_collector.points.point import Point
from pi_collector.web.errors import MalformedError, UnavailableError
from pi_collector.web.pace import LIVE, Priority

from .scripted_web import ScriptedWeb, described

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("Items", "Object", "Exception", "Errors", "Identifier", "WebId", "Id", "Name", "Path")),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


class SayingWeb:
    """Answers every request with the same bytes."""

    address = "https://pi/piwebapi"

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = LIVE, fresh: bool = False
    ) -> bytes:
        return self.body


@given(JSON)
async def test_whatever_json_comes_is_an_answer_for_each_path_or_one_malformed_answer(content: object) -> None:
    lookup = Lookup(SayingWeb(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)), Load())
    try:
        found = await lookup.by_path(["\\\\S\\A", "\\\\S\\B"])
    except MalformedError:
        return
    assert set(found) == {"\\\\S\\A", "\\\\S\\B"}
    assert all(isinstance(one, (Point, Refusal)) for one in found.values())


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Items":[{"Identifier"', b"[]", b'{"Items":{}}'])
async def test_an_answer_that_is_none_is_the_servers_fault_and_no_points(body: bytes) -> None:
    with pytest.raises(MalformedError, match="PI Web API"):
        await Lookup(SayingWeb(body), Load()).by_path(["\\\\S\\A", "\\\\S\\B"])


async def test_what_an_answer_leaves_out_is_no_proof_that_the_point_is_gone() -> None:
    found = await Lookup(SayingWeb(b'{"Items":[]}'), Load()).by_path(["\\\\S\\A", "\\\\S\\B"])
    assert {one.why for one in found.values() if isinstance(one, Refusal)} == {Why.OTHER}


async def test_a_server_that_is_not_available_is_not_asked_otherwise() -> None:
    web = ScriptedWeb(error=UnavailableError(503, [], "is not available"))
    with pytest.raises(UnavailableError):
        await Lookup(web, Load()).by_path(["\\\\S\\A", "\\\\S\\B"])
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("PI Point not found '\\\\S\\A'.", Why.ABSENT),
        ("The specified point does not exist.", Why.ABSENT),
        ("[-10401] No Read Access - Secure Object", Why.DENIED),
        ("Access is denied.", Why.DENIED),
        ("User is not authorized", Why.DENIED),
        ("[-10722] PINET: Timeout on PI RPC or System Call", Why.OTHER),
        ("", Why.OTHER),
    ],
)
def test_why_there_is_no_point_is_told_by_what_the_server_says(said: str, why: Why) -> None:
    assert refusal([said] if said else []).why is why


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=80, unique=True), st.integers(1000, 4000))
def test_requests_have_all_paths_once_and_no_address_is_too_long(names: list[str], most: int) -> None:
    names = [name.encode("utf-8", "replace").decode() for name in names]
    load = Load(url_bytes=most, points_per_request=30)
    chunks = list(Lookup(ScriptedWeb(), load).chunks("path", names))
    assert [name for chunk in chunks for name in chunk] == names
    for chunk in chunks:
        assert len(chunk) <= 30
        assert len(chunk) == 1 or len(urlencode([("path", name) for name in chunk])) <= most


def test_what_describes_no_point_is_none() -> None:
    whole = described("A", 1)
    assert point_of(whole) == Point("I1DP1", "SRV", 1, "A", "\\\\SRV\\A", "Float32", unit="degC")
    assert point_of({**whole, "Step": "True", "Future": "false", "EngineeringUnits": None}) is not None
    for field, wrong in (("WebId", ""), ("Id", "1"), ("Id", True), ("Name", None), ("Path", ""), ("PointType", 5)):
        assert point_of({**whole, field: wrong}) is None
