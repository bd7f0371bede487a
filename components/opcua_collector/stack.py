"""The OPC UA stack, asyncua, as this component sees it: channel, session, encryption and the encoding of requests.

The one place that imports it. Its annotations contradict how it must be called (`NodeId(2253)` is no `Int32`), so it is
untyped from here on; the names for annotations say what is meant.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeAlias

ua: Any = import_module("asyncua.ua")
crypto: Any = import_module("asyncua.crypto.uacrypto")
policies: Any = import_module("asyncua.crypto.security_policies")
Client: Any = import_module("asyncua.client.client").Client

UaError: Final[type[Exception]] = ua.uaerrors.UaError
UaStatusCodeError: Final[Any] = ua.uaerrors.UaStatusCodeError

NodeId: TypeAlias = Any
EndpointDescription: TypeAlias = Any
StackSession: TypeAlias = Any
"""asyncua's UaSession."""
Buffer: TypeAlias = Any
"""asyncua's Buffer: bytes with a position."""

_binary: Any = import_module("asyncua.ua.ua_binary")
_buffer: Any = import_module("asyncua.common.utils").Buffer


def write_node(node: NodeId) -> str:
    """A node id of any kind as text that `read_node` understands: its text form cannot carry every identifier."""
    return str(bytes(_binary.nodeid_to_binary(node)).hex())


def read_node(text: str) -> NodeId:
    """The node id that `write_node` wrote. Raises ValueError for what it did not write."""
    try:
        return _binary.nodeid_from_binary(_buffer(bytes.fromhex(text)))
    except Exception as error:  # asyncua raises whatever its readers run into
        raise ValueError(f"{text[:80]!r} is no node id") from error


class PreparedBody(bytes):
    """A request without type and header, encoded by us."""


class _AsItIs:
    """How asyncua is told to write a PreparedBody: it looks the writer of a field up by the name of its type."""

    @staticmethod
    def pack(body: bytes) -> bytes:
        return bytes(body)


_binary.Primitives.PreparedBody = _AsItIs


@dataclass(slots=True)
class PreparedRequest:
    """A request of which all but the header is encoded already: asyncua's writers cost ten times as much per node."""

    TypeId: ua.NodeId
    RequestHeader: ua.RequestHeader
    Body: PreparedBody


def prepared(service: str, body: bytes) -> PreparedRequest:
    """The request of a service such as ``Read`` with this body. To be sent once: its header is written into it."""
    type_id = ua.FourByteNodeId(getattr(ua.ObjectIds, f"{service}Request_Encoding_DefaultBinary"))
    return PreparedRequest(type_id, ua.RequestHeader(), PreparedBody(body))


def node_bytes(node: NodeId) -> bytes:
    """A node id as it stands in a request."""
    return bytes(_binary.nodeid_to_binary(node))


def node_of(data: bytes) -> NodeId:
    """The node id that `node_bytes` wrote. Raises asyncua's UaError, or whatever its readers run into."""
    return _binary.nodeid_from_binary(_buffer(data))


# At INFO asyncua writes whole notifications into the log, at WARNING each refusal that we explain better.
logging.getLogger("asyncua").setLevel(logging.ERROR)
