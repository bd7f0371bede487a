"""Digital states: what a digital point holds, and the system's own, which any point can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DigitalState:
    """One state of a set: its name, its code, and whether the set is the system's own."""

    name: str
    code: int
    is_system: bool = False


class DigitalSet:
    """A named set of states; a state's code is its place in the set."""

    def __init__(self, name: str, states: Sequence[str]) -> None:
        if not states:
            raise ValueError(f"the digital set {name!r} has no states: give at least one name")
        self.name = name
        self.states = tuple(DigitalState(state, code) for code, state in enumerate(states))
        self._by_name = {state.name.casefold(): state for state in self.states}

    def state(self, wanted: int | float | str) -> DigitalState:
        """The state of that code, or of that name in any case. Raises ValueError."""
        if isinstance(wanted, str):
            found = self._by_name.get(wanted.casefold())
        else:
            code = int(wanted)
            found = self.states[code] if code == wanted and 0 <= code < len(self.states) else None
        if found is None:
            raise ValueError(f"the digital set {self.name!r} has no state {wanted!r}: it has {len(self.states)} states")
        return found


_SYSTEM: Final = {
    210: "Access Denied",
    211: "No Sample",
    212: "No Result",
    213: "Unit Down",
    214: "Sample Bad",
    215: "Equip Fail",
    216: "No Lab Data",
    217: "Trace",
    233: "DCS Failed",
    237: "Bad Output",
    238: "Scan Off",
    239: "Scan On",
    240: "Configure",
    241: "Failed",
    242: "Error",
    243: "Execute",
    244: "Filtered",
    245: "Calc Off",
    246: "I/O Timeout",
    247: "Set to Bad",
    248: "No Data",
    249: "Calc Failed",
    250: "Calc Overflow",
    251: "Under Range",
    252: "Over Range",
    253: "Pt Created",
    254: "Shutdown",
    255: "Bad Input",
    256: "Bad Total",
    257: "No_Alarm",
    258: "Over UCL",
    259: "Under LCL",
    307: "Bad",
}

SYSTEM_STATES: Final = {code: DigitalState(name, code, is_system=True) for code, name in _SYSTEM.items()}
"""The system's states by their code."""

_SYSTEM_BY_NAME: Final = {state.name.casefold(): state for state in SYSTEM_STATES.values()}


def system_state(wanted: int | str) -> DigitalState:
    """The system's state of that code, or of that name in any case. Raises ValueError."""
    found = _SYSTEM_BY_NAME.get(wanted.casefold()) if isinstance(wanted, str) else SYSTEM_STATES.get(wanted)
    if found is None:
        raise ValueError(f"{wanted!r} is no state of the system set")
    return found


NO_DATA: Final = system_state(248)
FILTERED: Final = system_state(244)
