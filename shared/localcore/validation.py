"""Validation of configuration before a deployment applies it, as the classic nucleus does it. No sockets in here.

A deployment from the cloud that changes the configuration of components which are deployed already, in the version they
have, sends each of them that has subscribed its whole proposed configuration. What follows is the trap:

    subscribed, of those whose configuration changes    the deployment
    --------------------------------------------------  ---------------------------------------------------------------
    none                                                goes on at once
    all                                                 waits for their reports
    some                                                waits for all, also for those who were never asked: it times out

Only when all have reported is it looked at what they said. A report that is REJECTED, or one that is missing when the
time is up, fails the deployment, and nothing has changed then. A component has one subscription: the first that it
made, until any of those that it made ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_TIMEOUT = 20.0
"""Seconds, where the deployment has no configurationValidationPolicy."""

Ask = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a component says of a proposed configuration."""

    accepted: bool
    message: str


class Validation:
    """Who wants to be asked, and whose report is awaited."""

    def __init__(self) -> None:
        self._listeners: dict[str, Ask] = {}
        self._awaited: dict[tuple[str, str], asyncio.Future[Report]] = {}

    def subscribe(self, component: str, ask: Ask) -> Callable[[], None]:
        """Ask a component from now on: `ask(deployment id, proposed configuration)`. Returns how to end that."""
        self._listeners.setdefault(component, ask)

        def cancel() -> None:
            self._listeners.pop(component, None)

        return cancel

    def subscribed(self, component: str) -> bool:
        """Whether a component would be asked."""
        return component in self._listeners

    def report(self, component: str, deployment: str, report: Report) -> bool:
        """Take a component's report. False when none is awaited: never asked for, given already, or too late."""
        future = self._awaited.pop((component, deployment), None)
        if future is None:
            return False
        future.set_result(report)
        return True

    async def ask(self, deployment: str, proposed: Mapping[str, Mapping[str, Any]], timeout: float) -> str:
        """Have the components whose configuration changes judge it: why the deployment fails, empty when it does not.

        proposed: their whole configurations after the change. timeout: seconds.
        """
        asked = {name: self._listeners[name] for name in proposed if name in self._listeners}
        if not asked:
            return ""
        futures: dict[str, asyncio.Future[Report]] = {
            name: asyncio.get_running_loop().create_future() for name in proposed
        }
        try:
            for name, ask in asked.items():
                self._awaited[name, deployment] = futures[name]
                ask(deployment, proposed[name])
            _, missing = await asyncio.wait(futures.values(), timeout=timeout)
            if missing:
                late = [
                    name if name in asked else f"{name} (which has not subscribed)"
                    for name, future in futures.items()
                    if future in missing
                ]
                return (
                    "Error while waiting for validation report for one or more components: "
                    f"none within {timeout:g} s from {', '.join(late)}"
                )
            rejected = [
                f"{{ name = {name}, message = {future.result().message} }}"
                for name, future in futures.items()
                if not future.result().accepted
            ]
            if rejected:
                return f"Components reported that their to-be-deployed configuration is invalid {' '.join(rejected)}"
            return ""
        finally:
            for name in asked:
                self._awaited.pop((name, deployment), None)
