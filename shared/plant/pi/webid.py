"""WebID 2.0: how PI Web API names a thing so that any of its calls finds it.

    type  version  marker  [owner's marker]  payload

The type says what the payload holds: `F`ull ids and path, `I`DOnly ids, `P`athOnly the path, `L`ocalIDOnly the ids
without the server's, `D`efaultIDOnly those without server and database. The version is one character, 1 up to now. An
id of 16 bytes is a GUID in the byte order of .NET, 22 characters of base64; a point's id is an int32, little end
first, 6 characters. Base64 is written without `=` and with `-` and `_`. Paths are in upper case, in UTF-8, without the
two backslashes in front.

    point            F1DP server point path    I1DP server point    P1DP path    L1DP point    D1DP point
    element          I1Em system element
    attribute        I1AbE system element attribute        (of an element; AbF: of an event frame)
"""

from __future__ import annotations

import base64
import binascii
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["Full", "IDOnly", "PathOnly", "LocalIDOnly", "DefaultIDOnly"]
Id = uuid.UUID | int

KINDS: Final[dict[str, Kind]] = {
    "F": "Full",
    "I": "IDOnly",
    "P": "PathOnly",
    "L": "LocalIDOnly",
    "D": "DefaultIDOnly",
}
_LETTERS: Final = {kind: letter for letter, kind in KINDS.items()}
_GUID, _INT = 22, 6  # characters


@dataclass(frozen=True, slots=True)
class Layout:
    """What the web ids of one sort of thing hold: the characters of each id, from the server's on."""

    ids: tuple[int, ...]
    databases: int = 0
    """Ids behind the server's that DefaultIDOnly leaves out."""
    owned: bool = False
    """A second marker says what owns it."""


LAYOUTS: Final = {
    "DP": Layout((_GUID, _INT)),
    "DS": Layout((_GUID,)),
    "RS": Layout((_GUID,)),
    "RD": Layout((_GUID, _GUID), databases=1),
    "Em": Layout((_GUID, _GUID)),
    "Fm": Layout((_GUID, _GUID)),
    "ET": Layout((_GUID, _GUID)),
    "AT": Layout((_GUID, _GUID, _GUID), owned=True),
    "Ab": Layout((_GUID, _GUID, _GUID), owned=True),
    "MS": Layout((_GUID, _GUID), owned=True),
    "MV": Layout((_GUID, _GUID, _GUID), owned=True),
    "Xs": Layout((_GUID, _GUID)),
    "Bl": Layout((_GUID, _GUID)),
    "Ut": Layout((_GUID, _GUID)),
}
"""By marker: point, data server, asset server, database, element, event frame, template, template of an attribute,
attribute, set and value of an enumeration, analysis, table, unit."""


class WebIdError(ValueError):
    """Text that is no web id; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class WebId:
    """What a web id says. ids: from the server's on, as far as its kind has them. path: with its two backslashes."""

    kind: Kind
    marker: str
    ids: tuple[Id, ...] = ()
    path: str = ""
    owner: str = ""

    @classmethod
    def parse(cls, text: str) -> WebId:
        """Read a web id of any kind and version. Raises WebIdError."""
        kind, marker = KINDS.get(text[:1]), text[2:4]
        layout = LAYOUTS.get(marker)
        if kind is None or layout is None or not text[1:2].isalnum():
            raise WebIdError(f"{text[:12]!r}… does not begin as a web id does")
        first = 5 if layout.owned else 4
        payload, path, ids = text[first:], "", []
        for length in _lengths(kind, layout):
            ids.append(_id(payload[:length], length))
            payload = payload[length:]
        if kind in ("Full", "PathOnly"):
            try:
                path = "\\\\" + _bytes(payload).decode()
            except UnicodeDecodeError as error:
                raise WebIdError(f"the path in {text!r} is no UTF-8") from error
        elif payload:
            raise WebIdError(f"{text!r} has {len(payload)} characters too many")
        return cls(kind, marker, tuple(ids), path, text[4:first])

    def encode(self, kind: Kind | None = None) -> str:
        """The same as a web id of that kind, its own when None. Raises WebIdError when it lacks ids or the path."""
        kind = kind or self.kind
        layout = LAYOUTS[self.marker]
        wanted = len(_lengths(kind, layout))
        if len(self.ids) < wanted or (kind in ("Full", "PathOnly") and not self.path):
            raise WebIdError(f"{self} cannot be written as {kind}: it lacks ids or the path")
        parts = [_LETTERS[kind], "1", self.marker, self.owner]
        parts += [_text_of(one) for one in self.ids[len(self.ids) - wanted :]]
        if kind in ("Full", "PathOnly"):
            parts.append(_text(self.path.upper().removeprefix("\\\\").encode()))
        return "".join(parts)


def of_point(server: uuid.UUID, number: int, path: str) -> WebId:
    """A point. path: `\\\\SERVER\\TAG`."""
    return WebId("Full", "DP", (server, number), path)


def of_data_server(server: uuid.UUID, path: str) -> WebId:
    """A data server. path: `\\\\SERVER`."""
    return WebId("Full", "DS", (server,), path)


def _lengths(kind: Kind, layout: Layout) -> Sequence[int]:
    match kind:
        case "PathOnly":
            return ()
        case "LocalIDOnly":
            return layout.ids[1:]
        case "DefaultIDOnly":
            return layout.ids[1 + layout.databases :]
    return layout.ids


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _text_of(one: Id) -> str:
    return _text(one.bytes_le if isinstance(one, uuid.UUID) else struct.pack("<i", one))


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise WebIdError(f"{text!r} is no base64: {error}") from error


def _id(text: str, length: int) -> Id:
    data = _bytes(text)
    if len(text) != length or len(data) != (16 if length == _GUID else 4):
        raise WebIdError(f"{text!r} is no id of {length} characters")
    number: int = struct.unpack("<i", data)[0] if length == _INT else 0
    return uuid.UUID(bytes_le=data) if length == _GUID else number
