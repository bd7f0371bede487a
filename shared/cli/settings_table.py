"""The settings of a component as a table for people and as JSON Schema, both made from its models.

Descriptions are `Field(description=…)` or the string below a field, which Python forgets and which is therefore read
from the source.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from sluice.config import ONE_OR_MANY, ComponentSettings, SecretRef
from sluice.schema import Settings, Unit, choices_of, fields_of, literals, scopes_of, union_members, unwrapped
from sluice.units import format_duration, format_size

BEGIN: Final = "<!-- settings -->"
END: Final = "<!-- /settings -->"
_MARKED: Final = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_ENTRIES: Final[Mapping[str, str]] = {
    "connections": "connection",
    "tags": "tag",
    "sinks": "sink",
    "groups": "group",
    "select": "filter",
    "headers": "header",
    "flows": "flow",
    "inputs": "input",
    "steps": "step",
    "models": "model",
    "members": "member",
    "derived": "output",
    "outputs": "output",
    "instances": "instance",
    "phases": "phase",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its path such as ``connections.<connection>.endpoint``, and what stands in each column."""

    path: str
    meaning: str
    allowed: str
    default: str
    of: str = ""
    """The kinds of entry that have it, such as `s3`; empty for all."""


def settings(model: type[ComponentSettings]) -> list[Setting]:
    """Every setting of a component, maps and sections unfolded, in the order of its models."""
    return list(_settings(model, ""))


def _settings(model: type[Settings], prefix: str, of: str = "") -> Iterator[Setting]:
    for key, info in fields_of(model).items():
        yield from _setting(model, key, info, f"{prefix}{key}", of)


def _setting(model: type[Settings], key: str, info: Any, path: str, of: str) -> Iterator[Setting]:
    meaning = description(model, key)
    annotation, metadata = unwrapped(info.annotation, info.metadata)
    scopes = scopes_of(annotation, metadata)
    if scopes is not None:
        entry = _ENTRIES.get(key, "name")
        names = "free names" if scopes[1].free else "names such as line1"
        yield Setting(path, meaning, f"map, {names}", _default(info), of)
        yield from _entries(scopes[0], f"{path}.<{entry}>.", of)
        return
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield Setting(path, meaning, "section", "required" if info.is_required() else _section_default(info), of)
        yield from _settings(annotation, f"{path}.", of)
        return
    yield Setting(path, meaning, _allowed(annotation, metadata), _default(info), of)


def _entries(entry: Any, prefix: str, of: str) -> Iterator[Setting]:
    bare, _ = unwrapped(entry, ())
    choices = choices_of(bare) if union_members(bare) else None
    if choices is None:
        yield from _settings(bare, prefix, of)
        return
    key, models = choices
    kinds = " or ".join(f"`{word}`" for word in models)
    yield Setting(f"{prefix}{key}", "which kind of entry it is", kinds, "required")
    shared: dict[tuple[str, str, str, str], list[str]] = {}
    for word, model in models.items():
        for name, info in fields_of(model).items():
            if name != key:
                for one in _setting(model, name, info, f"{prefix}{name}", ""):
                    shared.setdefault((one.path, one.meaning, one.allowed, one.default), []).append(word)
    order = {path: index for index, path in reversed(list(enumerate(columns[0] for columns in shared)))}
    for columns, words in sorted(shared.items(), key=lambda item: (len(item[1]) < len(models), order[item[0][0]])):
        yield Setting(*columns, of="" if len(words) == len(models) else ", ".join(words))


def description(model: type[Settings], key: str) -> str:
    """What a field's description says, in one line; empty when it has none."""
    info = fields_of(model)[key]
    inside = (getattr(item, "description", None) for item in unwrapped(info.annotation, info.metadata)[1])
    for text in (info.description, *inside):  # the second where the field is Annotated[…] | None
        if text:
            return " ".join(text.split())
    field = next(name for name, one in model.model_fields.items() if (one.alias or name) == key)
    for base in model.__mro__:
        if isinstance(base, type) and issubclass(base, Settings) and field in (found := _strings(base)):
            return found[field]
    inherited = (base for base in model.__mro__[1:] if isinstance(base, type) and issubclass(base, Settings))
    return next((text for base in inherited if key in fields_of(base) and (text := description(base, key))), "")


@cache
def _strings(model: type[Settings]) -> dict[str, str]:
    """The string below each field of a class, by the field's name."""
    if model is Settings:
        return {}
    [node] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = " ".join(below.value.value.replace("``", "`").split())
    return found


# --- columns --------------------------------------------------------------------------------------------------------


def _allowed(annotation: Any, metadata: Any) -> str:
    unit = next((item for item in metadata if isinstance(item, Unit)), None)
    words = literals(annotation)
    if words:
        return " or ".join(f"`{word}`" for word in words)
    members = union_members(annotation)
    if members:
        return " or ".join(dict.fromkeys(_allowed(*unwrapped(member, ())) for member in members))
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return f"list of {_allowed(*unwrapped(item, ()))}{_most(metadata)}"
    if get_origin(annotation) is dict:
        return f"map of {_allowed(*unwrapped(get_args(annotation)[1], ()))}"
    kind = unit.kind if unit else _KINDS.get(annotation, "text")
    return kind + _bounds(metadata, unit)


_KINDS: Final[Mapping[Any, str]] = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def _limits(metadata: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        for one in (item, *getattr(item, "metadata", ())):
            for name in ("gt", "ge", "lt", "le", "min_length", "max_length", "pattern"):
                value = getattr(one, name, None)
                if value is not None:
                    found[name] = value
    return found


def _bounds(metadata: Any, unit: Unit | None) -> str:
    limits = _limits(metadata)
    show = unit.show if unit else str
    least = next((show(limits[name]) for name in ("ge", "gt") if name in limits), None)
    most = next((show(limits[name]) for name in ("le", "lt") if name in limits), None)
    if unit is not None and least == "0s":
        least = "0"
    if least is not None and most is not None:
        return f", {least} to {most}"
    if least is not None:
        return f", {least} or more" if least not in ("0", "0B") else ""
    return f", {most} or less" if most is not None else ""


def _most(metadata: Any) -> str:
    limits = _limits(metadata)
    return f", at most {limits['max_length']}" if "max_length" in limits else ""


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value in (None, "", {}, PydanticUndefined):
        return ""
    unit = next((item for item in unwrapped(info.annotation, info.metadata)[1] if isinstance(item, Unit)), None)
    if unit is not None:
        return f"`{format_duration(value) if unit.kind == 'duration' else format_size(value)}`"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, list):
        return f"`[{', '.join(str(one) for one in value)}]`"
    return f"`{value}`"


def _section_default(info: Any) -> str:
    return ""


# --- out ------------------------------------------------------------------------------------------------------------


def markdown(model: type[ComponentSettings]) -> str:
    """The table, as it stands in the component's README."""
    rows = settings(model)
    with_kinds = any(row.of for row in rows)
    head = ["Setting", *(["Of"] if with_kinds else []), "Meaning", "Allowed", "Default"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [f"`{row.path}`", *([row.of or "all" if _of_a_kind(row.path) else ""] if with_kinds else [])]
        cells += [row.meaning, row.allowed, row.default]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _of_a_kind(path: str) -> bool:
    """Whether it is a setting of an entry that has kinds."""
    return ".<sink>." in path or ".<step>." in path


def _cell(text: str) -> str:
    """As Markdown shows it: neither a border nor, outside of code, a tag."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def written(readme: str, model: type[ComponentSettings]) -> str:
    """The README with its table made anew. Raises ValueError when it has no place for it."""
    if not _MARKED.search(readme):
        raise ValueError(f"has no lines {BEGIN} and {END}")
    table = f"{BEGIN}\n{markdown(model)}\n{END}"
    return _MARKED.sub(lambda match: table, readme)


def json_schema(model: type[ComponentSettings], name: str) -> dict[str, Any]:
    """JSON Schema of what a deployment merges, draft 2020-12, with the descriptions. Durations and sizes are text."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": inspect.getdoc(model) or "",
        **_object(model),
    }
    return schema


def _object(model: type[Settings]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key, info in fields_of(model).items():
        one = _json(info.annotation, info.metadata)
        text = description(model, key)
        if text:
            one["description"] = text
        if not info.is_required():
            default = _plain(info)
            if default is not None:
                one["default"] = default
        properties[key] = one
    required = [key for key, info in fields_of(model).items() if info.is_required()]
    made: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = required
    return made


def _plain(info: Any) -> Any:
    text = _default(info).strip("`")
    if not text:
        return None
    value = info.get_default(call_default_factory=True, validated_data={})
    return value if isinstance(value, (bool, int, list)) and not _has_unit(info) else text


def _has_unit(info: Any) -> bool:
    return any(isinstance(item, Unit) for item in unwrapped(info.annotation, info.metadata)[1])


def _json(annotation: Any, metadata: Any) -> dict[str, Any]:
    annotation, metadata = unwrapped(annotation, metadata)
    scopes = scopes_of(annotation, metadata)
    if scopes is not None:
        return {"type": "object", "additionalProperties": _nullable(_json(scopes[0], ()))}
    members = union_members(annotation)
    if members:
        return {"anyOf": [_json(member, ()) for member in members]}
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return _object(annotation)
    unit = next((item for item in metadata if isinstance(item, Unit)), None)
    limits = _limits(metadata)
    if unit is not None:
        pattern = {
            "duration": r"^\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|m|min|h|d)?\s*$",
            "size": r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgG][iI]?)?[bB]?\s*$",
        }[unit.kind]
        return {"type": ["string", "number"], "pattern": pattern}
    if get_origin(annotation) is dict:
        return {"type": "object", "additionalProperties": _nullable(_json(get_args(annotation)[1], ()))}
    if get_origin(annotation) is Literal:
        return {"enum": list(get_args(annotation))}
    if get_origin(annotation) is list:
        made: dict[str, Any] = {"type": "array", "items": _json(get_args(annotation)[0], ())}
        names = {"min_length": "minItems", "max_length": "maxItems"}
        made |= {names[name]: limits[name] for name in names if name in limits}
        return {"anyOf": [made, made["items"]]} if ONE_OR_MANY in metadata else made
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    names |= {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
    kind = kinds.get(annotation, "string")
    return {"type": kind} | {names[name]: limits[name] for name in names if name in limits}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """An entry may also be null or {delete: true}, which makes it absent."""
    gone = {"type": "object", "properties": {"delete": {"const": True}}, "required": ["delete"]}
    return {"anyOf": [schema, {"type": "null"}, gone]}


def limits_of(model: type[ComponentSettings]) -> list[tuple[str, str]]:
    """Path and kind of everything that the models refuse by declaration: limits, words, required fields."""
    found: list[tuple[str, str]] = []

    def walk(one: type[Settings], prefix: str) -> None:
        for key, info in fields_of(one).items():
            path = f"{prefix}{key}"
            if info.is_required():
                found.append((path, "required"))
            annotation, metadata = unwrapped(info.annotation, info.metadata)
            scopes = scopes_of(annotation, metadata)
            limits = _limits(metadata)
            if scopes is not None:
                found.append((path, "section"))
                bare, _ = unwrapped(scopes[0], ())
                choices = choices_of(bare) if union_members(bare) else None
                for entry in choices[1].values() if choices else (bare,):
                    walk(entry, f"{path}.<{_ENTRIES.get(key, 'name')}>.")
            elif isinstance(annotation, type) and issubclass(annotation, Settings):
                if annotation is not SecretRef:  # which says in its own words what it may be
                    found.append((path, "section"))
                walk(annotation, f"{path}.")
            elif get_origin(annotation) is list:
                found.extend((path, name.replace("length", "items")) for name in limits)
                bare, inner = unwrapped(get_args(annotation)[0], ())
                found.extend((path, name) for name in _limits(inner))
                if len(literals(bare)) > 1:
                    found.append((path, "words"))
            elif len(literals(annotation)) > 1:
                found.append((path, "words"))
            else:
                found.extend((path, name) for name in limits)
                if annotation is bool:
                    found.append((path, "boolean"))

    walk(model, "")
    return list(dict.fromkeys(one for one in found if not one[0].endswith(".type") or one[1] != "words"))


def undescribed(model: type[ComponentSettings]) -> list[str]:
    """The settings without a description, which must be none."""
    return [row.path for row in settings(model) if not row.meaning]


def readme_of(package: str, repository: Path) -> Path:
    """Where a component's table stands."""
    return repository / "components" / package / "README.md"
