"""The stream manager as a process of its own, driven by whoever runs the core."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localcore.child import ChildProcess

ENDPOINT_VARIABLES = {
    "s3": "AWS_ENDPOINT_URL_S3",
    "kinesis": "AWS_ENDPOINT_URL_KINESIS",
    "iotsitewise": "AWS_ENDPOINT_URL_IOTSITEWISE",
}

TOKEN_VARIABLE = "STREAM_MANAGER_AUTH_TOKEN"  # noqa: S105 - the name of a variable


class StreamManagerProcess(ChildProcess):
    """Runs `python -m localcore.stream_manager`.

    root: the core's folder; streams live in `stream_manager/` below it and outlive the process.
    endpoints: URL per service: `s3`, `kinesis`, `iotsitewise`. Only this process knows them.
    port: 0 takes a free one, and keeps it when the process is started again.
    auth_token: what clients must present; None lets everybody in.
    time_scale: factor on the long waits (retries up to 5 min, batch intervals, pauses between Kinesis calls).
    """

    def __init__(
        self,
        root: Path,
        *,
        region: str,
        endpoints: Mapping[str, str],
        port: int = 0,
        auth_token: str | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.port = port
        self._root = root
        self._region = region
        self._time_scale = time_scale
        environment = {ENDPOINT_VARIABLES[service]: url for service, url in endpoints.items()}
        if auth_token is not None:
            environment[TOKEN_VARIABLE] = auth_token
        super().__init__("localcore.stream_manager", environment, root / "logs" / "stream_manager.log")

    def _arguments(self) -> list[str]:
        arguments = ["--root", str(self._root), "--region", self._region, "--port", str(self.port)]
        return [*arguments, "--time-scale", str(self._time_scale)]

    def _on_ready(self, line: Mapping[str, Any]) -> None:
        self.port = line["port"]

    async def fault(self, kind: str, **arguments: Any) -> None:
        """Orders a fault for coming requests; see `server.Fault` for kinds and arguments."""
        await self.command("fault", kind=kind, **arguments)

    async def cut(self, kind: str = "rst") -> None:
        """Ends all present connections with `rst` or `fin`."""
        await self.command("cut", kind=kind)

    def fill_disk(self, full: bool = True) -> None:
        """Makes the disk full as the process sees it, or frees it again: while it is full no append succeeds."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))
