"""Batches: several requests in one, where later ones may use what earlier ones were answered.

    {"1": {"Method": "GET", "Resource": "https://h/piwebapi/points?path=\\\\\\\\S\\\\T"},
     "2": {"Method": "GET", "Resource": "{0}?maxCount=10", "ParentIds": ["1"],
           "Parameters": ["$.1.Content.Links.RecordedData"]},
     "3": {"Method": "GET", "RequestTemplate": {"Resource": "https://h/piwebapi/streams/{0}/value"}, "ParentIds": ["2"],
           "Parameters": ["$.2.Content.Items[*].WebId"]}}

The host in a resource is not looked at: all runs here. A request whose parent failed is not run, and is answered 424.
A template is run once for each value that its parameters select.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote

import orjson

from plant.pi.calls import Answer, Call, CallError

_PART: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[\*\]|\['([^']*)'\]|\.\*")
_FAILED_PARENT: Final = 424
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")


class Runs(Protocol):
    """Runs one request of a batch."""

    def nested(self, within: Call, method: str, path: str, pairs: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Its answer; `path` is below the base."""


def answer(api: Runs, call: Call, *, most: int) -> Answer:
    """Run a batch. Raises CallError(400) for one that cannot be run at all."""
    try:
        requests = orjson.loads(call.body)
    except ValueError as error:
        raise CallError(400, f"The batch is no JSON: {error}") from error
    if not isinstance(requests, dict) or not all(isinstance(one, dict) for one in requests.values()):
        raise CallError(400, "The batch is no object of requests.")
    if len(requests) > most:
        raise CallError(400, f"The batch has {len(requests)} requests; {most} are allowed.")
    results: dict[str, dict[str, Any]] = {}
    for name in _order(requests):
        results[name] = _run(api, call, requests[name], results)
    return Answer({name: results[name] for name in requests}, 207)


def select(document: Any, path: str) -> list[Any]:
    """What a JSONPath such as `$.1.Content.Items[*].WebId` selects. Raises CallError(400)."""
    if not path.startswith("$"):
        raise CallError(400, f"The parameter '{path}' is no JSONPath.")
    found, at = [document], 1
    while at < len(path):
        match = _PART.match(path, at)
        if match is None:
            raise CallError(400, f"The parameter '{path}' is no JSONPath that is known here.")
        name = match.group(1) or match.group(3)
        if name is not None:
            found = [one[name] for one in found if isinstance(one, dict) and name in one]
        elif match.group(2) is not None:
            index = int(match.group(2))
            found = [one[index] for one in found if isinstance(one, list) and index < len(one)]
        else:
            found = [
                each
                for one in found
                if isinstance(one, (list, dict))
                for each in (one.values() if isinstance(one, dict) else one)
            ]
        at = match.end()
    return found


def _order(requests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Parents before their children."""
    parents = {name: _texts(one, "ParentIds") for name, one in requests.items()}
    for name, named in parents.items():
        for parent in named:
            if parent not in requests:
                raise CallError(400, f"The parent '{parent}' of request '{name}' is not in the batch.")
    ordered: list[str] = []
    waiting = list(requests)
    while waiting:
        ready = [name for name in waiting if all(parent in ordered for parent in parents[name])]
        if not ready:
            raise CallError(400, f"The requests {', '.join(waiting)} wait for each other.")
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered


def _texts(request: Mapping[str, Any], name: str) -> list[str]:
    texts = request.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise CallError(400, f"{name} is no list of texts.")
    return texts


def _run(api: Runs, call: Call, request: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    try:
        for parent in _texts(request, "ParentIds"):
            if results[parent]["Status"] >= 400:
                raise CallError(_FAILED_PARENT, f"The request '{parent}' failed, so this one was not run.")
        document = _readable(results, _texts(request, "ParentIds"))
        selected = [select(document, path) for path in _texts(request, "Parameters")]
        template = request.get("RequestTemplate")
        if template is None:
            if any(len(values) != 1 for values in selected):
                raise CallError(400, "A parameter of a request without a template must select one value.")
            return _one(api, call, request, [values[0] for values in selected], request)
        if not isinstance(template, dict) or not selected:
            raise CallError(400, "A template needs a Resource, and Parameters.")
        count = max(map(len, selected))
        if any(len(values) not in (1, count) for values in selected):
            raise CallError(400, "The parameters of a template select different numbers of values.")
        items = [
            _one(api, call, template, [values[0 if len(values) == 1 else n] for values in selected], request)
            for n in range(count)
        ]
        return {"Status": 207, "Headers": {}, "Content": {"Total": len(items), "Items": items}}
    except CallError as error:
        return _result(Answer({"Errors": list(error.texts)}, error.status))


def _readable(results: Mapping[str, Mapping[str, Any]], parents: Sequence[str]) -> dict[str, Any]:
    """The answers of the parents as a client would read them."""
    try:
        return {name: orjson.loads(orjson.dumps(results[name])) for name in parents}
    except ValueError as error:  # a number that is none, written as a symbol
        raise CallError(400, f"What the parents were answered is no JSON: {error}") from error


def _one(
    api: Runs, call: Call, request: Mapping[str, Any], values: Sequence[Any], outer: Mapping[str, Any]
) -> dict[str, Any]:
    resource, method = request.get("Resource"), str(outer.get("Method") or "GET").upper()
    if not isinstance(resource, str) or method not in _METHODS:
        raise CallError(400, "A request needs a Method and a Resource.")
    body = outer.get("Content") or ""
    for number, value in enumerate(values):
        resource = resource.replace(f"{{{number}}}", str(value))
        body = body.replace(f"{{{number}}}", str(value)) if isinstance(body, str) else body
    path, _, query = resource.partition("?")
    path = re.sub(r"^https?://[^/]*", "", path)
    base = re.sub(r"^https?://[^/]*", "", call.base)
    if path.casefold().startswith(base.casefold() + "/"):
        path = path[len(base) + 1 :]
    elif resource.startswith("http"):
        raise CallError(404, f"The resource '{resource}' is not of this PI Web API.")
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    pairs = parse_qsl(query, keep_blank_values=True)
    return _result(api.nested(call, method, unquote(path).strip("/"), pairs, content))


def _result(answer: Answer) -> dict[str, Any]:
    headers = {"Content-Type": "application/json; charset=utf-8", **answer.headers}
    return {"Status": answer.status, "Headers": headers, "Content": answer.content}
