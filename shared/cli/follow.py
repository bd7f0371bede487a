"""Follows a deployment until every device has carried it out, or has failed to.

Each device that has not ended is asked for in rounds. The pause between rounds grows while nothing changes, and with
the number of devices, so that the account's request rate is left to others; throttling and a network that is away are
waited out. Only the clock and the pause come from outside, so that tests need neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.cloud import Cloud, PassingError
from cli.output import IN_THE_WAY, Failure, say
from cli.plan import Target

MOST_DEVICES: Final = 2_000
SHORTEST_PAUSE, LONGEST_PAUSE = 3.0, 30.0
CALLS_PER_SECOND: Final = 5.0
_SHOWN: Final = 30
_LONGEST_REASON: Final = 2_000

WAITING: Final = "WAITING"
NO_CORE: Final = "NO CORE DEVICE"
REPLACED: Final = "REPLACED"
_ENDED: Final = frozenset({"SUCCEEDED", "COMPLETED", "FAILED", "TIMED_OUT", "CANCELED", "REJECTED", NO_CORE, REPLACED})
_GOOD: Final = frozenset({"SUCCEEDED", "COMPLETED"})
_WORDS: Final = {
    WAITING: "has not heard of it yet: it may be offline",
    "QUEUED": "will begin when it is online and done with earlier deployments",
    "IN_PROGRESS": "is at work",
    "SUCCEEDED": "runs it",
    "COMPLETED": "runs it",
    "TIMED_OUT": "did not end in time",
    "CANCELED": "was canceled before it ended",
    "REJECTED": "refused it: another deployment was newer, or its thing group is gone",
    NO_CORE: "is no Greengrass core: install a nucleus on it, or take it out of the group",
    REPLACED: "got a newer deployment instead",
}


@dataclass
class Device:
    """What is known of one device. `errors` are the nucleus's words, the innermost last."""

    name: str
    state: str = WAITING
    reason: str = ""
    errors: Sequence[str] = ()
    health: str = ""
    seen: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether the device runs the deployment."""
        return self.state in _GOOD

    @property
    def words(self) -> str:
        """The state for people, with the reason that the nucleus gave."""
        parts = [_WORDS.get(self.state, ""), self.reason]
        if not self.ended and self.health == "UNHEALTHY":
            parts.append("the core is unhealthy: a component of it is BROKEN, see `sluice doctor` there")
        if not self.succeeded:
            parts += [one for one in self.errors[:5] if one not in self.reason]
        return "; ".join(part for part in parts if part) or self.state

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "device": self.name,
            "state": self.state,
            "reason": self.reason,
            "errors": list(self.errors),
            "core": self.health or None,
            "lastSeen": self.seen or None,
        }


@dataclass
class Followed:
    """A deployment and its devices."""

    deployment: str
    target: Target
    devices: list[Device] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether there is a device, and every one of them runs the deployment."""
        return bool(self.devices) and all(device.succeeded for device in self.devices)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from any device."""
        return all(device.ended for device in self.devices)

    def summary(self) -> str:
        """One line: how many devices are in which state."""
        counts = Counter(device.state for device in self.devices)
        return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no devices"


class Follower:
    """Asks until a deployment has ended everywhere. timeout: seconds for all of it."""

    def __init__(
        self,
        cloud: Cloud,
        deployment: str,
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        draw: Callable[[Followed, str], None] = lambda followed, note: None,
    ) -> None:
        self._cloud = cloud
        self._deployment = deployment
        self._timeout = timeout
        self._clock = clock
        self._pause = pause
        self._draw = draw

    def run(self) -> Followed:
        """The devices when all have ended. Raises Failure when the time is over first, or nobody is there."""
        began = self._clock()
        target = Target(self._cloud.deployment(self._deployment)["targetArn"])
        names = self._cloud.devices(target)
        if not names:
            raise Failure(
                f"the {target.words} has no things: add devices to it, and they get the deployment", IN_THE_WAY
            )
        if len(names) > MOST_DEVICES:
            raise Failure(
                f"the {target.words} has {len(names)} devices, and {MOST_DEVICES} can be followed one by one: see the "
                f"deployment in the AWS console, or the job executions of its IoT job",
                IN_THE_WAY,
            )
        followed = Followed(self._deployment, target, [Device(name) for name in names])
        between = SHORTEST_PAUSE
        while True:
            before, note = _states(followed), ""
            try:
                self._round(followed)
            except PassingError as error:
                note = str(error)
                between = min(LONGEST_PAUSE, between * 2)
            self._draw(followed, note)
            if followed.ended:
                return followed
            between = SHORTEST_PAUSE if _states(followed) != before else min(LONGEST_PAUSE, between * 1.5)
            left = began + self._timeout - self._clock()
            if left <= 0:
                waiting = [device.name for device in followed.devices if not device.ended]
                raise Failure(
                    f"after {self._timeout:.0f} s {len(waiting)} of {len(names)} devices have not ended "
                    f"({', '.join(waiting[:5])}{', …' if len(waiting) > 5 else ''}); the deployment goes on. "
                    f"Follow it again with: {again(self._deployment, self._cloud.region)}",
                    IN_THE_WAY,
                )
            busy = 2 * sum(not device.ended for device in followed.devices) / CALLS_PER_SECOND
            self._pause(min(left, max(between, busy)))

    def _round(self, followed: Followed) -> None:
        whole = self._cloud.deployment(self._deployment)
        for device in followed.devices:
            if not device.ended:
                self._look(device)
        # Looked at after the devices were: what ended just now is told as it ended.
        if whole.get("deploymentStatus") == "CANCELED":
            _end_all(followed, "CANCELED")
        elif whole.get("isLatestForTarget") is False or whole.get("deploymentStatus") == "INACTIVE":
            _end_all(followed, REPLACED)

    def _look(self, device: Device) -> None:
        found = self._cloud.execution(device.name, self._deployment)
        if found is not None:
            details = found.get("statusDetails") or {}
            device.state = str(found.get("coreDeviceExecutionStatus", WAITING))
            device.reason = str(found.get("reason") or "")[:_LONGEST_REASON]
            device.errors = [str(one)[:_LONGEST_REASON] for one in (details.get("errorStack") or ())]
        if device.ended:
            return
        core = self._cloud.core(device.name)
        if core is None:
            if found is None:
                device.state = NO_CORE
            return
        device.health = str(core.get("status", ""))
        seen = core.get("lastStatusUpdateTimestamp")
        device.seen = seen.isoformat() if isinstance(seen, datetime) else str(seen or "")


def again(deployment: str, region: str) -> str:
    """The command that follows a deployment."""
    return f"sluice deploy --follow {deployment} --region {region}"


def _states(followed: Followed) -> list[str]:
    return [device.state for device in followed.devices]


def _end_all(followed: Followed, state: str) -> None:
    for device in followed.devices:
        if not device.ended:
            device.state = state


# --- drawing ---------------------------------------------------------------------------------------------------------


def table(followed: Followed, note: str = "") -> RenderableType:
    """The devices, those that need attention first."""
    # Text, because a string in a table is markup, and what devices say may have brackets.
    title = Text(f"{followed.deployment}: {followed.summary()}")
    drawn = Table(title=title, caption=Text(note) if note else None, title_justify="left")
    for heading in ("Device", "State", "What it says"):
        drawn.add_column(heading, overflow="fold")
    order = sorted(followed.devices, key=lambda one: (one.succeeded, not one.ended, one.name))
    for device in order[:_SHOWN]:
        drawn.add_row(Text(device.name), Text(device.state), Text(device.words))
    if len(order) > _SHOWN:
        drawn.add_row("…", "", f"{len(order) - _SHOWN} more")
    return drawn


class Screen:
    """Draws on a terminal as a live table; elsewhere one line per change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._told: dict[str, str] = {}
        self._note = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, followed: Followed, note: str) -> None:
        """Show how it stands."""
        if self._live is not None:
            self._live.update(table(followed, note), refresh=True)
            return
        if note and note != self._note:
            say(note)
        self._note = note
        for device in followed.devices:
            if self._told.get(device.name) != device.state:
                self._told[device.name] = device.state
                say(f"{device.name}: {device.state}: {device.words}")
