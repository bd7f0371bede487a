"""Checks a request against the service model in botocore: types, required members, lengths, ranges, patterns.

botocore's own validation leaves maxima, patterns and enumerations to the service; here is the service, so all are
checked. A shape is compiled once into nested functions, because thousands of values a second pass through them.

    ModelError (ValueError)     a request that does not fit the model; names the place in it
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import botocore.loaders
import botocore.model

Check = Callable[[Any, str], None]

_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "long": (int,),
    "double": (int, float),
    "float": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "timestamp": (int, float, str),
}
_INTEGER_RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


class ModelError(ValueError):
    """A request that does not fit the service's model."""


class Model:
    """The model of one service; `checker` gives the function that checks an operation's input."""

    def __init__(self, service: str) -> None:
        description = botocore.loaders.Loader().load_service_model(service, "service-2")
        self._service = botocore.model.ServiceModel(description, service)

    def checker(self, operation: str) -> Check:
        """A function of (request, place) that raises ModelError."""
        return _compile(self._service.operation_model(operation).input_shape)


def _compile(shape: Any) -> Check:
    if shape.type_name == "structure":
        return _structure(shape)
    if shape.type_name == "list":
        return _list(shape)
    return _scalar(shape)


def _structure(shape: Any) -> Check:
    members = {name: _compile(member) for name, member in shape.members.items()}
    required = frozenset(shape.required_members)

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise ModelError(f"{place}: an object is required")
        for name, content in value.items():
            member = members.get(name)
            if member is None:
                raise ModelError(f"{place}: unknown member {name!r}")
            member(content, name)
        if not required <= value.keys():
            raise ModelError(f"{place}: {', '.join(sorted(required - value.keys()))} is missing")

    return check


def _list(shape: Any) -> Check:
    item = _compile(shape.member)
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max")

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise ModelError(f"{place}: a list is required")
        if len(value) < low or (high is not None and len(value) > high):
            raise ModelError(f"{place}: {len(value)} items; {low} to {high} are allowed")
        for content in value:
            item(content, place)

    return check


def _scalar(shape: Any) -> Check:
    name, metadata = shape.type_name, shape.metadata
    types = _TYPES[name]
    numeric = name in _INTEGER_RANGES
    low, high = _INTEGER_RANGES.get(name, (None, None))
    low, high = metadata.get("min", low), metadata.get("max", high)
    pattern = re.compile(metadata["pattern"]) if "pattern" in metadata else None
    choices = frozenset(getattr(shape, "enum", ()))

    def check(value: Any, place: str) -> None:
        if not isinstance(value, types) or (value.__class__ is bool and name != "boolean"):
            raise ModelError(f"{place}: {value!r} is not of type {name}")
        if low is not None or high is not None:
            size: Any = value if numeric else len(value)  # type: ignore[arg-type]
            if (low is not None and size < low) or (high is not None and size > high):
                what = "" if numeric else "length "
                raise ModelError(f"{place}: {what}{size} is not in {low} to {high}")
        if pattern is not None and not pattern.fullmatch(value):
            raise ModelError(f"{place}: {value!r} does not match {pattern.pattern}")
        if choices and value not in choices:
            raise ModelError(f"{place}: {value!r} is none of {', '.join(sorted(choices))}")

    return check
