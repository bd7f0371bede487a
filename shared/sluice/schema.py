"""Configuration models as other code sees them: which fields are maps of scopes, which model a union means, where a
pydantic error lies in the raw configuration.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from sluice import units

Place = tuple[str, ...]
"""Where something stands in the raw configuration: keys from the top, an element of a list as ``[2]``."""


class Settings(BaseModel):
    """Base of all configuration models: camelCase keys, frozen, scalars coerced; unknown keys never fail."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


@dataclass(frozen=True, slots=True)
class Names:
    """Marks a map whose entries are scopes; `free` names need not fit a topic.

    Not `scoped`: the entries are parts of one thing, and an error in one of them is an error of all of it.
    """

    free: bool
    scoped: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a number whose limits are shown to people with a unit."""

    kind: Literal["duration", "size"]

    def show(self, value: Any) -> str:
        return units.format_duration(value) if self.kind == "duration" else units.format_size(value)


@cache
def adapter_for(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


@cache
def fields_of(model: type[Settings]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def unwrapped(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Without Annotated and Optional around it; the metadata of all layers."""
    layers = tuple(metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *inner = get_args(annotation)
            layers = (*layers, *inner)
            continue
        members = union_members(annotation)
        if members is not None and len(members) == 1:
            annotation = members[0]
            continue
        return annotation, layers


def union_members(annotation: Any) -> list[Any] | None:
    """The members of a union except None; None when it is no union."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    return [member for member in get_args(annotation) if member is not type(None)]


def scopes_of(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, Names] | None:
    """Entry type and naming rule when this is a map of scopes."""
    annotation, metadata = unwrapped(annotation, metadata)
    names = next((item for item in metadata if isinstance(item, Names)), None)
    if names is None or get_origin(annotation) is not dict:
        return None
    return get_args(annotation)[1], names


@cache
def choices_of(annotation: Any) -> tuple[str, dict[str, type[Settings]]] | None:
    """For a union of models told apart by a Literal field: that field's key, and the model for each of its words.

    A Literal field whose words two models share tells nothing apart.
    """
    members = union_members(annotation)
    if not members or not all(isinstance(m, type) and issubclass(m, Settings) for m in members):
        return None
    for key in fields_of(members[0]):
        words = [literals(fields_of(m)[key].annotation) if key in fields_of(m) else [] for m in members]
        if all(words) and len({word for its in words for word in its}) == sum(map(len, words)):
            return key, {str(word): m for m, its in zip(members, words, strict=True) for word in its}
    return None


def model_for(annotation: Any, raw: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    choices = choices_of(annotation) if union_members(annotation) else None
    if choices is None or not isinstance(raw, Mapping):
        return None
    return choices[1].get(str(raw.get(choices[0])))


def literals(annotation: Any) -> list[Any]:
    annotation, _ = unwrapped(annotation, ())
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []


def element_of(annotation: Any) -> Any:
    """What a list has as elements, or a map as values; None for what is neither."""
    annotation, _ = unwrapped(annotation, ())
    return get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else None


@cache
def words_of(model: type[Settings], key: str) -> dict[str, str] | None:
    """The words of a field that takes one value, by their lower case: those of its Literal, else none at all.

    None for a field that takes a map of scopes or a model, of which more is to be known.
    """
    info = fields_of(model)[key]
    annotation, metadata = unwrapped(info.annotation, info.metadata)
    choices = choices_of(annotation) if union_members(annotation) else None
    if scopes_of(annotation, metadata) or model_for(annotation, None) or choices:
        return None
    return {word.casefold(): word for word in reversed(literals(annotation)) if isinstance(word, str)}


def fold_case(annotation: Any, raw: Any) -> Any:
    """A word of a Literal in the spelling that the model has."""
    if isinstance(raw, str):
        for word in literals(annotation):
            if isinstance(word, str) and word.casefold() == raw.strip().casefold():
                return word
    return raw


def locate(annotation: Any, metadata: Sequence[Any], loc: Sequence[int | str]) -> tuple[Place, Any]:
    """Pydantic's location as a place in the raw configuration, and the field found there.

    Pydantic also names union branches and validators in a location; whatever is not a key of the model ends the path.
    """
    place: list[str] = []
    info: Any = None
    for step in loc:
        annotation, metadata = unwrapped(annotation, metadata)
        model = annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None
        if model is not None and str(step) in fields_of(model):
            info = fields_of(model)[str(step)]
            annotation, metadata = info.annotation, info.metadata
            place.append(str(step))
        elif get_origin(annotation) is dict:
            annotation, metadata = get_args(annotation)[1], ()
            place.append(str(step))
        elif get_origin(annotation) in (list, tuple) and isinstance(step, int):
            annotation, metadata = get_args(annotation)[0], ()
            place.append(f"[{step}]")
        else:
            break
    return tuple(place), info


def at(raw: Any, place: Place) -> Any:
    for step in place:
        if isinstance(raw, list) and step.startswith("["):
            raw = raw[int(step[1:-1])]
        elif isinstance(raw, Mapping):
            raw = raw.get(step)
        else:
            return None
    return raw
