"""A request of CreateDeployment against the service's own description of it, as botocore brings it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cli.output import Failure


def check_request(request: Mapping[str, Any]) -> None:
    """Raises Failure that names every part of a request that the service would not take; asks nobody."""
    import botocore.session
    from botocore.validate import ParamValidator

    operation = botocore.session.get_session().get_service_model("greengrassv2").operation_model("CreateDeployment")
    shape = operation.input_shape
    found = ParamValidator().validate(request, shape)
    wrong = found.generate_report().splitlines() if found.has_errors() else list(_words(shape, request, "Parameter "))
    if wrong:
        listed = "\n".join(f"  {one}" for one in wrong[:20])
        raise Failure(f"the service would not take this deployment; correct it in the site document:\n{listed}")


def _words(shape: Any, value: Any, place: str) -> Iterator[str]:
    """Words that are none of those that the service knows: botocore sends any."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                yield from _words(member, value[name], f"{place}.{name}" if place[-1] != " " else place + name)
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from _words(shape.value, inner, f"{place}.{name}")
    elif shape.type_name == "list":
        for index, inner in enumerate(value):
            yield from _words(shape.member, inner, f"{place}[{index}]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{place} = {value} is none of {', '.join(shape.enum)}"
