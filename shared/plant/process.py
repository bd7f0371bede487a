"""Drives an OPC UA plant that runs as a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plant.child import PlantChild, PlantError


class PlantProcess(PlantChild):
    """A plant as a child process.

        async with PlantProcess(folder, rate=1000) as plant:
            ... follow plant.endpoint ...
            await plant.produce()           waits until every variable is watched
            ...
            samples = await plant.finish()

    `folder` receives everything that it writes: `log`, its own record of what it produced, its certificate, and
    `plant.stderr`, its complaints. The options are those of `python -m plant opcua`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate: float = 1000.0,
        units: int | None = None,
        endpoint: str = "opc.tcp://127.0.0.1:0/plant",
        user: str | None = None,
        password_file: Path | None = None,
        policies: Sequence[str] = ("None", "Basic256Sha256"),
        data: Path | None = None,
        expect_items: int | None = None,
        fault: int = 0,
    ) -> None:
        arguments: list[object] = ["opcua", "--log", folder / "plant.log", "--work", folder / "pki", "--rate", rate]
        arguments += ["--endpoint", endpoint, "--fault", fault]
        arguments += ["--policy", ",".join(policies)]
        for option, value in (
            ("--units", units),
            ("--user", user),
            ("--password-file", password_file),
            ("--data", data),
            ("--expect-items", expect_items),
        ):
            if value is not None:
                arguments += [option, value]
        super().__init__(arguments, folder / "plant.stderr")
        self.log = folder / "plant.log"
        self.endpoint = ""
        self.certificate: Path | None = None

    def _ready(self, event: dict[str, Any]) -> None:
        self.endpoint = event["endpoint"]
        self.certificate = Path(event["certificate"]) if event["certificate"] else None

    async def fault(self, number: int, unit: int | None = None) -> None:
        """Let a fault set in, or end it with 0; raises PlantError when it is refused."""
        await self.obeyed("fault", number=number, **({} if unit is None else {"unit": unit}))

    async def forget(self) -> None:
        """Let the server know no session and no subscription any more, as after its restart; its history stays."""
        await self.obeyed("forget")


__all__ = ["PlantError", "PlantProcess"]
