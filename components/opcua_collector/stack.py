"""The OPC UA stack, asyncua, as this component sees it: channel, session, encryption and the encoding of requests.

The one place that imports it. Its annotations contradict how it must be called (`NodeId(2253)` is no `Int32`), so it is
untyped from here on; the names for annotations say what is meant.
"""

from __future__ import annotations

import logging
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


# At INFO asyncua writes whole notifications into the log, at WARNING each refusal that we explain better.
logging.getLogger("asyncua").setLevel(logging.ERROR)
