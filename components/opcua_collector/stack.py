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

# At INFO asyncua writes whole notifications into the log, at WARNING each refusal that we explain better.
logging.getLogger("asyncua").setLevel(logging.ERROR)
