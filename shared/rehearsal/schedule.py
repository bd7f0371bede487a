"""What goes wrong in a chaos run, and when: decided by the seed and the length alone, so that a run can be repeated.

One real minute is one simulated hour: that is the clock of the rule that makes a component BROKEN. In every simulated
hour each component is killed twice. A kill lets the component come back with crash points armed, one after another: it
dies at the first, comes back with the second armed, and so on, so that a kill begins a chain of deaths. The third error
within an hour makes it BROKEN, and an operator redeploys (see `crashes.py`).

Every two simulated hours are a round: each round hits every crash point and has one of each of the other faults at
least. Faults may overlap, and nothing waits for the gateway to be well again before the next. What must not overlap:
the stream manager's long absence and the power cut, because both end with a start of it, and two faults of one kind.

The last seconds are free of new faults, so that production ends in a gateway that flows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rehearsal.site import COLLECTOR, COLLECTORS, EXPORTER, PI_COLLECTOR, PREPROCESSOR

COMPONENTS = (COLLECTOR, PI_COLLECTOR, PREPROCESSOR, EXPORTER)
"""In the order of the flow."""

PLANTS = tuple(COLLECTORS)
"""Kinds of sources, each at the end of a line of its own."""

PI_FAULTS: Mapping[str, Mapping[str, Any]] = {
    "archive_down": {},
    "errors": {"status": 503, "share": 0.5},
    "silence": {},
    "truncate": {"share": 0.3},
}
"""What goes wrong with the PI Web API in every round, and how (plant.pi.faults)."""

CRASH_POINTS: Mapping[str, tuple[str, ...]] = {
    COLLECTOR: ("stored",),
    PI_COLLECTOR: ("stored",),
    PREPROCESSOR: ("turn-stored", "checkpoint-stored"),
    EXPORTER: ("received", "intent", "appended", "committed", "sealed", "uploaded", "exported"),
}
"""The commit boundaries at which each component can be told to die (`SLUICE_CRASH`)."""

MOST_PASSAGES: Mapping[str, int] = {"sealed": 2, "uploaded": 2, "exported": 3, "checkpoint-stored": 3}
"""A component dies at its first to so-manieth passage of a point; 12 where nothing is said: files are sealed rarely."""

SIMULATED_HOUR = 60.0
"""Real seconds."""
ROUND = 2 * SIMULATED_HOUR
SHORTEST = 60.0
"""A shorter run has no room for all that must happen."""
BEGIN = 3.0
"""Seconds of production before the first fault."""
QUIET = 8.0
"""Seconds of production after the last one has ended."""
AWAY = 20.0
"""Seconds that the stream manager is away."""
STALL = 3.0
KILLS_PER_HOUR = 2
_CHAIN = 12.0
"""Seconds that a chain of crash points should have before the faults end."""
_APART = 3.0
_MOST_PASSAGES = 12
_TRIES = 100

Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that goes wrong: at which second of production, and what. `seconds` among the arguments: it lasts."""

    at: float
    action: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """The second at which it is over, as planned."""
        return self.at + float(self.arguments.get("seconds", 0.0))

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"at": self.at, "action": self.action, **self.arguments}

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items() if value != [])
        return f"{self.action.replace('_', ' ')}: {arguments}" if arguments else self.action.replace("_", " ")


def simulated_clock() -> float:
    """Seconds in which an hour is a real minute."""
    return time.monotonic() * 3600.0 / SIMULATED_HOUR


def make_schedule(seed: int, seconds: float, components: Sequence[str] = COMPONENTS) -> list[Act]:
    """The acts of a run in the order of time. Raises ValueError when the run is too short for them.

    components: who is there to be killed, stalled and left without a disk.
    """
    if not seconds >= SHORTEST:
        raise ValueError(f"{seconds:g} s of production have no room for every fault: give {SHORTEST:g} or more")
    dice = random.Random(f"sluice chaos {seed} {seconds:g}")  # noqa: S311 - it must repeat, not surprise
    end = seconds - QUIET
    rounds = max(1, int(seconds // ROUND))
    length = (end - BEGIN) / rounds
    acts: list[Act] = []
    for number in range(rounds):
        window = (BEGIN + number * length, BEGIN + (number + 1) * length)
        acts += _round(dice, window, components)
    for component in components:
        acts += _kills(dice, component, seconds, end, rounds)
    return sorted(acts, key=lambda act: (act.at, act.action, str(act)))


def _kills(dice: random.Random, component: str, seconds: float, end: float, rounds: int) -> Iterator[Act]:
    """Two in each simulated hour, with the points of every round dealt out to the kills that leave time for them."""
    times: list[float] = []
    for hour in range(int(seconds // SIMULATED_HOUR)):
        low, high = max(BEGIN, hour * SIMULATED_HOUR), min(end, (hour + 1) * SIMULATED_HOUR)
        part = (high - low) / KILLS_PER_HOUR
        times += [low + part * number + dice.uniform(0.0, part - _APART) for number in range(KILLS_PER_HOUR)]
    times = [round(moment, 1) for moment in times]
    armed: dict[float, list[str]] = {moment: [] for moment in times}
    share = len(times) // rounds
    for number in range(rounds):
        turn = times[number * share : (number + 1) * share]
        roomy = [moment for moment in turn if moment <= end - _CHAIN] or turn[:1]
        points = list(CRASH_POINTS[component])
        dice.shuffle(points)
        for index, point in enumerate(points):
            passage = dice.randint(1, MOST_PASSAGES.get(point, _MOST_PASSAGES))
            armed[roomy[index * len(roomy) // len(points)]].append(f"{point}:{passage}")
    for moment in times:
        yield Act(moment, "kill", {"component": component, "armed": armed[moment]})


def _round(dice: random.Random, window: Window, components: Sequence[str]) -> list[Act]:
    """Everything but the kills, once or more."""
    acts = _absences(dice, window)
    # What the stream manager is told to do to its clients needs it to be there.
    absent = [(act.at - _APART, act.end + _APART) for act in acts]

    def place(action: str, *, avoid: Sequence[Window] = (), **arguments: Any) -> None:
        lasts = float(arguments.get("seconds", 0.0))
        same = [(act.at - _APART, act.end + _APART) for act in acts if act.action == action]
        at = _pick(dice, window, lasts, [*avoid, *same], same)
        acts.append(Act(at, action, arguments))

    for _ in range(2):
        place("replies_lost", avoid=absent, operation="append", count=dice.randint(1, 3))
        place("connections_reset", avoid=absent, count=dice.randint(1, 3), accept=dice.random() < 0.5)
        place("ipc_replies_withheld", operation="PublishToTopic", count=dice.randint(1, 3))
    for plant in PLANTS:
        place("line_cut", plant=plant)
    place("replies_split", avoid=absent, count=dice.randint(5, 20), pause=round(dice.uniform(0.05, 0.3), 2))
    place("replies_delayed", avoid=absent, count=dice.randint(2, 5), pause=round(dice.uniform(0.2, 2.0), 1))
    place("ipc_restart")
    for plant in PLANTS:
        place("line_blackhole", plant=plant, seconds=round(dice.uniform(3.0, 8.0), 1))
        delay = round(dice.uniform(0.05, 0.3), 2)
        place("line_slow", plant=plant, seconds=round(dice.uniform(3.0, 6.0), 1), delay=delay)
        place("line_refused", plant=plant, seconds=round(dice.uniform(2.0, 5.0), 1))
    for kind in PI_FAULTS:
        place("pi_fault", kind=kind, seconds=round(dice.uniform(2.0, 4.0), 1))
    place("pi_restart")
    for service in ("iotsitewise", "kinesis", "s3"):
        place("endpoint_unavailable", service=service, seconds=round(dice.uniform(2.0, 5.0), 1))
    throttle = dice.choice(("throttle", "throttle_entries"))
    place("sitewise_throttled", kind=throttle, seconds=round(dice.uniform(2.0, 5.0), 1))
    for component in components:
        place("stall", component=component, seconds=STALL)
        place("disk_full", component=component, seconds=round(dice.uniform(3.0, 6.0), 1))
    return acts


def _absences(dice: random.Random, window: Window) -> list[Act]:
    """The power cut and the stream manager's absence, in either order and apart."""
    dark = round(dice.uniform(1.0, 3.0), 1)
    parts = [Act(0.0, "stream_manager_away", {"seconds": AWAY}), Act(0.0, "power_cut", {"seconds": dark})]
    dice.shuffle(parts)
    spare = window[1] - window[0] - AWAY - dark - 2 * _APART
    before, after = sorted(dice.uniform(0.0, spare) for _ in range(2))
    first = round(window[0] + before, 1)
    second = round(first + parts[0].end + _APART + after - before, 1)
    return [Act(at, part.action, part.arguments) for at, part in zip((first, second), parts, strict=True)]


def _pick(dice: random.Random, window: Window, lasts: float, avoid: Sequence[Window], must: Sequence[Window]) -> float:
    """A time in the window from which something can last, outside of what is to be avoided; in a window that is too
    full, outside of what must be avoided."""
    last = window[1] - lasts - 0.2
    for windows in (avoid, must):
        for _ in range(_TRIES):
            at = round(dice.uniform(window[0] + 0.1, last), 1)
            if not any(low < at + lasts and at < high for low, high in windows):
                return at
    raise ValueError(f"no room for a fault of {lasts:g} s between {window[0]:g} and {window[1]:g} s: give more seconds")
