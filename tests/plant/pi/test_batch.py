"""Batches: what depends on what, and what each request is answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.pi import batch
from plant.pi.calls import Answer, Call, CallError, Query
from plant.pi.http_api import Api
from plant.pi.system import Event, PiSystem, PointDefinition

_S = 1_000_000_000
_BASE = "http://127.0.0.1:1/piwebapi"


class _Clock:
    def now_ns(self) -> int:
        return 1000 * _S


def _system() -> PiSystem:
    system = PiSystem(_Clock())
    for name in ("A1", "A2", "B"):
        point = system.add(PointDefinition(name))
        for second in (1, 2, 3):
            system.write(point, Event(second * _S, point.id * 100 + second))
    return system


def _run(requests: Any) -> dict[str, Any]:
    query = Query([], 1000 * _S, timezone.utc)
    body = requests if isinstance(requests, bytes) else orjson.dumps(requests)
    answer = Api(_system()).call(Call("POST", "batch", (), query, _BASE, body=body))
    content = orjson.loads(orjson.dumps(answer.content))
    return content if answer.status == 207 else {"status": answer.status, **content}


def _get(resource: str, **more: Any) -> dict[str, Any]:
    return {"Method": "GET", "Resource": resource, **more}


def test_a_request_uses_what_its_parent_was_answered() -> None:
    results = _run(
        {
            "read": _get(
                "{0}?startTime=1970-01-01&maxCount=2",
                ParentIds=["find"],
                Parameters=["$.find.Content.Links.RecordedData"],
            ),
            "find": _get(r"https://somewhere.else/piwebapi/points?path=\\PISERVER\A1"),
        }
    )
    assert list(results) == ["read", "find"]
    assert (results["find"]["Status"], results["find"]["Content"]["Name"]) == (200, "A1")
    assert [value["Value"] for value in results["read"]["Content"]["Items"]] == [101, 102]


def test_a_template_runs_once_for_each_value() -> None:
    results = _run(
        {
            "1": _get(f"{_BASE}/points/search?query=Tag:=A*&selectedFields=Items.WebId;Items.Name"),
            "2": {
                "Method": "GET",
                "RequestTemplate": {"Resource": _BASE + "/streams/{0}/value?selectedFields=Value"},
                "Parameters": ["$.1.Content.Items[*].WebId"],
                "ParentIds": ["1"],
            },
        }
    )
    content = results["2"]["Content"]
    assert results["2"]["Status"] == 207
    assert [(item["Status"], item["Content"]) for item in content["Items"]] == [
        (200, {"Value": 103}),
        (200, {"Value": 203}),
    ]


def test_the_child_of_a_failed_request_is_not_run() -> None:
    results = _run(
        {
            "1": _get(rf"{_BASE}/points?path=\\PISERVER\none"),
            "2": _get("{0}", ParentIds=["1"], Parameters=["$.1.Content.Links.Value"]),
            "3": _get(f"{_BASE}/system", ParentIds=["2"]),
            "4": _get(f"{_BASE}/system"),
        }
    )
    assert [results[name]["Status"] for name in "1234"] == [404, 424, 424, 200]


def test_each_stream_of_a_batch_fails_alone() -> None:
    results = _run({"1": _get(f"{_BASE}/streams/nonsense/value"), "2": _get(f"{_BASE}/system/status")})
    assert [results[name]["Status"] for name in "12"] == [400, 200]
    assert results["1"]["Content"]["Errors"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_get("http://h/elsewhere/points"), 404),
        (_get(f"{_BASE}/batch"), 400),
        ({"Method": "GET"}, 400),
        ({"Method": "DANCE", "Resource": _BASE + "/system"}, 400),
        ({"Method": "POST", "Resource": _BASE + "/system"}, 405),
        (_get(_BASE + "/{0}", Parameters=["$.1.Nothing"]), 400),
        (_get(_BASE + "/{0}", Parameters=["nothing"]), 400),
        ({"RequestTemplate": {"Resource": _BASE}}, 400),
        (_get(_BASE + "/system", Parameters=5), 400),
    ],
)
def test_a_request_that_is_wrong_costs_itself(request_: dict[str, Any], status: int) -> None:
    results = _run({"1": request_, "2": _get(f"{_BASE}/system")})
    assert [results[name]["Status"] for name in "12"] == [status, 200]


@pytest.mark.parametrize(
    "requests",
    [
        b"{",
        b"[]",
        {"1": 5},
        {"1": _get("x", ParentIds=["2"])},
        {"1": _get("x", ParentIds=["2"]), "2": _get("x", ParentIds=["1"])},
        {str(n): _get(f"{_BASE}/system") for n in range(101)},
    ],
)
def test_a_batch_that_cannot_be_run_at_all_is_refused(requests: Any) -> None:
    assert _run(requests)["status"] == 400


@given(st.permutations(range(8)), st.data())
def test_parents_are_run_before_their_children(order: Sequence[int], data: st.DataObject) -> None:
    parents = {n: data.draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set() for n in range(8)}
    ran: list[int] = []

    class _Notes:
        def nested(self, within: Call, method: str, path: str, pairs: Any, body: bytes) -> Answer:
            ran.append(int(path))
            return Answer({})

    requests = {str(n): {"Method": "GET", "Resource": str(n), "ParentIds": [str(p) for p in parents[n]]} for n in order}
    body = orjson.dumps(requests)
    answer = batch.answer(_Notes(), Call("POST", "batch", (), Query([], 0, timezone.utc), _BASE, body=body), most=100)
    assert list(answer.content) == list(requests)
    assert all(ran.index(parent) < ran.index(child) for child in parents for parent in parents[child])


_DOCUMENT = {"1": {"Content": {"Items": [{"WebId": "a", "Links": {"x y": 1}}, {"WebId": "b"}, {}], "Count": 2}}}


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("$.1.Content.Items[*].WebId", ["a", "b"]),
        ("$.1.Content.Items[1].WebId", ["b"]),
        ("$['1'].Content.Items[0].Links['x y']", [1]),
        ("$.1.Content.Count", [2]),
        ("$.1.Content.Items[7]", []),
        ("$.2.Content", []),
        ("$.1.Content.Count.More", []),
        ("$.1.Content.Items[0].Links.*", [1]),
    ],
)
def test_json_paths(path: str, selected: list[Any]) -> None:
    assert batch.select(_DOCUMENT, path) == selected


@pytest.mark.parametrize("path", ["", "1.Content", "$.1[?(@.x)]", "$..x", "$.1[", "$x"])
def test_a_json_path_that_is_not_known_is_refused(path: str) -> None:
    with pytest.raises(CallError, match="JSONPath"):
        batch.select(_DOCUMENT, path)
