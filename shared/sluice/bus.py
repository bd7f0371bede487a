"""The local bus, as far as a stream needs it: `sluice.ipc.Ipc` is one, tests have another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class BusSubscription(Protocol):
    """A subscription that stays until closed."""

    @property
    def active(self) -> bool:
        """The bus has accepted it on the present connection."""

    async def renew(self) -> None:
        """Subscribe again, because it has gone silent. Never raises."""

    async def close(self) -> None:
        """End it: the handler is not called again."""


class Bus(Protocol):
    """What a stream needs of local IPC."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Raises IpcError: IpcTimeout or IpcDisconnected may pass, others do not by waiting."""

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> BusSubscription:
        """Have the handler called in the event loop for each message, in order. Raises IpcError when refused."""
