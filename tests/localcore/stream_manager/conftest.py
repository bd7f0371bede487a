"""Stream managers as processes, and clients of the unmodified SDK."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    Persistence,
    StrategyOnFull,
    StreamManagerClient,
)

from localcore.stream_manager import StreamManagerProcess

T = TypeVar("T")


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Waits until a function returns something true, and returns that; fails with what it returned last."""

    def wait(look: Callable[[], T], seconds: float = 30.0) -> T:
        deadline = time.monotonic() + seconds
        while not (seen := look()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: the last look saw {seen!r}")
            time.sleep(0.02)
        return seen

    return wait


@pytest.fixture(scope="module")
def server(root: Path, run: Callable[..., Any]) -> Iterator[StreamManagerProcess]:
    """A stream manager without endpoints."""
    process = StreamManagerProcess(root, region="us-east-1", endpoints={})
    run(process.start())
    yield process
    run(process.stop())


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes SDK clients of a server, and closes those that can still be closed."""
    clients: list[Any] = []

    def make(process: StreamManagerProcess, request_timeout: float = 5.0) -> Any:
        clients.append(StreamManagerClient(port=process.port, request_timeout=request_timeout))
        return clients[-1]

    yield make
    for client in clients:
        try:
            client.close()
        except Exception:  # noqa: BLE001, PERF203 - after an RST the SDK cannot close
            continue


@pytest.fixture
def client(server: StreamManagerProcess, connect: Callable[..., Any]) -> Any:
    return connect(server)


_numbers = itertools.count(1)


@pytest.fixture
def definition() -> Callable[..., Any]:
    """Makes definitions with names that no other test uses."""

    def make(**overrides: Any) -> Any:
        exports = overrides.pop("exports", None)
        if exports is not None:
            overrides["export_definition"] = ExportDefinition(**exports)
        fields: dict[str, Any] = {
            "name": f"stream {next(_numbers)}",
            "strategy_on_full": StrategyOnFull.OverwriteOldestData,
            "persistence": Persistence.File,
        }
        return MessageStreamDefinition(**(fields | overrides))

    return make
