"""Where a value stands in a server's address space: node ids and browse paths as people write them. Pure.

A node id is written ``nsu=<namespace URI>;s=<name>``, ``ns=<index>;i=<number>``, ``i=<number>`` and so on (Part 6,
5.3.1.10). Only the form with the URI survives a server that orders its namespaces anew, so indexes are looked up at
each connect. A browse path is written ``/Objects/2:Plant/2:Temp`` from the root; ``&`` escapes ``/``, ``:`` and ``&``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote
from uuid import UUID

_NODE_ID: Final = re.compile(r"(?:ns=(?P<ns>\d{1,5});|nsu=(?P<nsu>[^;]+);)?(?P<kind>[isgb])=(?P<id>.*)", re.DOTALL)
_ESCAPED: Final = re.compile(r"(&.|[/:])", re.DOTALL)
_MOST_SEGMENTS: Final = 64
_IN_URIS: Final = ":/?#[]@!$&'()*+,= "  # what is written as it is; % and ; are not


class NodeIdError(ValueError):
    """A text that is no node id."""


class BrowsePathError(ValueError):
    """A text that is no browse path."""


class NamespaceUnknownError(LookupError):
    """The server does not have the namespace; `uri` and what it has are in the message."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A node id whose namespace may still be a URI."""

    kind: str  # i, s, g or b
    identifier: int | str | UUID | bytes
    index: int = 0
    uri: str = ""

    def namespace(self, namespaces: Sequence[str]) -> int:
        """The namespace's index on a server with these namespaces. Raises NamespaceUnknownError."""
        if not self.uri:
            return self.index
        try:
            return namespaces.index(self.uri)
        except ValueError:
            raise NamespaceUnknownError(self.uri) from None


def parse_node_id(text: str) -> NodeAddress:
    """Raises NodeIdError."""
    match = _NODE_ID.fullmatch(text.strip())
    if match is None:
        raise NodeIdError("is no node id")
    index = int(match["ns"] or 0)
    if index > 65535:
        raise NodeIdError(f"has the namespace index {index}, above 65535")
    raw = match["id"]
    identifier: int | str | UUID | bytes
    try:
        if match["kind"] == "i":
            identifier = int(raw) if raw.isascii() and raw.isdigit() else -1
            if not 0 <= identifier < 2**32:
                raise NodeIdError("has an identifier that is no number below 4294967296")
        elif match["kind"] == "g":
            identifier = UUID(raw)
        elif match["kind"] == "b":
            identifier = base64.b64decode(raw, validate=True)
        else:
            identifier = raw
    except (ValueError, binascii.Error) as error:
        if isinstance(error, NodeIdError):
            raise
        raise NodeIdError("has an identifier that is no Guid" if match["kind"] == "g" else "has no base64") from None
    if identifier in ("", b""):
        raise NodeIdError("has an empty identifier")
    return NodeAddress(match["kind"], identifier, index, unquote(match["nsu"] or ""))


def format_node_id(address: NodeAddress, uri: str = "") -> str:
    """The node id as `parse_node_id` reads it; `uri` in the place of its namespace's index."""
    identifier = address.identifier
    text = base64.b64encode(identifier).decode() if isinstance(identifier, bytes) else str(identifier)
    namespace = uri or address.uri
    if namespace:
        return f"nsu={quote(namespace, safe=_IN_URIS)};{address.kind}={text}"
    return f"ns={address.index};{address.kind}={text}" if address.index else f"{address.kind}={text}"


def parse_browse_path(text: str) -> tuple[tuple[int, str], ...]:
    """Steps below the root as (namespace index, name). Raises BrowsePathError."""
    if not text.startswith("/"):
        raise BrowsePathError("is no browse path from the root, because it does not begin with /")
    steps: list[tuple[int, str]] = []
    for segment in _split(text[1:]):
        index, name = segment
        if not name:
            raise BrowsePathError("has an empty step")
        steps.append((index, name))
    if steps and steps[0] == (0, "Root"):
        steps = steps[1:]
    if not steps:
        raise BrowsePathError("names no node")
    if len(steps) > _MOST_SEGMENTS:
        raise BrowsePathError(f"has more than {_MOST_SEGMENTS} steps")
    return tuple(steps)


def _split(text: str) -> list[tuple[int, str]]:
    segments: list[tuple[int, str]] = []
    name, index, prefixed = "", 0, False
    for word in [*_ESCAPED.split(text), "/"]:
        if word == "/":
            segments.append((index, name))
            name, index, prefixed = "", 0, False
        elif word == ":" and not prefixed and name.isascii() and name.isdigit() and int(name) <= 65535:
            name, index, prefixed = "", int(name), True
        else:
            name += word[1:] if word.startswith("&") and len(word) == 2 else word
    return segments
