"""Drives a PI plant that runs as a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plant.child import PlantChild


class PiProcess(PlantChild):
    """A PI Web API server with its plant as a child process.

        async with PiProcess(folder, rate=1000) as pi:
            ... collect from pi.url ...
            await pi.produce()              waits until every point is watched
            await pi.fault("throttle", share=0.3)
            await pi.heal()
            samples = await pi.finish()
            await pi.archive()              `truth` has all now

    `folder` receives everything that it writes: `log`, its rows, `truth`, the PI system's own log (plant.pi.truth reads
    it), its certificates and `pi.stderr`, its complaints. `options` are further ones of `python -m plant pi`.
    """

    def __init__(self, folder: Path, *, rate: float = 1000.0, options: Sequence[object] = (), **named: object) -> None:
        self.log = folder / "pi.log"
        self.truth = folder / "pi.truth"
        arguments: list[object] = ["pi", "--log", self.log, "--rate", rate]
        for name, value in named.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                arguments.append(option)
            elif value is not None and value is not False:
                arguments += [option, value]
        super().__init__([*arguments, *options], folder / "pi.stderr")
        self.url = ""
        self.server = ""
        """The data archive's name."""
        self.authority: Path | None = None

    def _ready(self, event: dict[str, Any]) -> None:
        self.url = event["url"]
        self.server = event["server"]
        self.authority = Path(event["authority"]) if event["authority"] else None

    async def fault(self, name: str, **arguments: Any) -> None:
        """Order a fault of plant.pi.faults; raises PlantError when it is refused."""
        await self.obeyed("fault", fault=name, **arguments)

    async def heal(self, name: str | None = None) -> None:
        """End a lasting fault, or all."""
        await self.obeyed("heal", **({} if name is None else {"fault": name}))

    async def storm(self, **rates: float) -> None:
        """Let late values, edits, deletions and more happen (plant.pi.activity)."""
        await self.obeyed("storm", **rates)

    async def calm(self) -> None:
        """End the storm."""
        await self.obeyed("calm")

    async def killed(self) -> None:
        """Let `truth` say that the client was killed just now (plant.pi.judge)."""
        await self.obeyed("killed")

    async def set_password(self, user: str, password: str) -> None:
        """Change a user's password."""
        await self.obeyed("password", user=user, password=password)

    async def archive(self, timeout: float = 60.0) -> int:
        """Write what the archive holds into `truth`, and end it; how many events."""
        answer = self.answer("archived", timeout)
        self.send("archive")
        return int((await answer)["events"])


__all__ = ["PiProcess"]
