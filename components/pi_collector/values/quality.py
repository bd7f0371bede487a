"""What a value's flags and states make of it: quality, and the status that is kept. The one table of this component.

Theory of operation
-------------------
The rows of `table` are tried in order, the first that applies decides. Errors come before `Good`, because the server
says Good of values that it could not read. A state of the system stands in the place of a value: its code tells which,
because sites may rename states; one without a code is known by its name. NaN and infinity stand before the flags: there
is no value that a flag could make better.

    what the server says                            quality                 value
    Errors; no value                                BAD                     none      status PI_ERROR and the text
    system state Pt Created, No Data                no sample at all: the one says that the point is there, the other
                                                    that the archive has nothing
    Under/Over Range, Over UCL, Under LCL           UNCERTAIN (or BAD)      none      status: code and name
    any other system state                          BAD                     none      status: code and name
    of another type than the point                  BAD                     none      wrong-type
    NaN, Infinity                                   BAD                     none      nan
    Good false                                      BAD                     kept
    Questionable                                    UNCERTAIN               kept      questionable
    Substituted                                     GOOD (or UNCERTAIN)     kept      substituted
    else                                            GOOD                    kept

Where it can be read again (all modes but snapshot and end) an error is no value, and in mode recorded a null that is
not good is none: see `decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from sluice.columns import Quality

PT_CREATED: Final = 253
NO_DATA: Final = 248
NO_EVENT: Final = frozenset({NO_DATA, PT_CREATED})
"""System states that are no samples."""
OUT_OF_RANGE: Final = frozenset({251, 252, 258, 259})
RESERVED: Final = range(193, 321)
"""Codes that no site uses for its own states."""
WRONG_TYPE: Final = "wrong-type"
_LONGEST: Final = 200  # characters of a status

SYSTEM_STATES: Final = {
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
"""The system's states by code, as they are named unless a site has renamed them."""

BY_NAME: Final = {name.casefold(): code for code, name in SYSTEM_STATES.items()}


class Facts(NamedTuple):
    """What a value says of itself."""

    error: str = ""
    """What Errors says."""
    null: bool = False
    state: int | None = None
    """The system state's code; -1 for one whose code nobody knows."""
    name: str = ""
    """The system state's name."""
    wrong: bool = False
    """Of another type than the point."""
    finite: bool = True
    good: bool = True
    questionable: bool = False
    substituted: bool = False
    annotated: bool = False


class Row(NamedTuple):
    """`quality` None: no sample."""

    name: str
    applies: Callable[[Facts], bool]
    quality: Quality | None
    keeps_value: bool
    word: Callable[[Facts], str] | str = ""
    """What the status begins with."""


Table = tuple[Row, ...]


def table(
    substituted: Literal["good", "uncertain"] = "good", out_of_range: Literal["uncertain", "bad"] = "uncertain"
) -> Table:
    """The rows, with the two qualities that a site may choose."""
    return (
        Row("error", lambda f: bool(f.error), Quality.BAD, False, lambda f: f"PI_ERROR: {f.error}"),
        Row("null", lambda f: f.null, Quality.BAD, False, "PI_ERROR: no value"),
        Row("no event", lambda f: f.state in NO_EVENT, None, False),
        Row("out of range", lambda f: f.state in OUT_OF_RANGE, Quality[out_of_range.upper()], False, _state),
        Row("system state", lambda f: f.state is not None, Quality.BAD, False, _state),
        Row("wrong type", lambda f: f.wrong, Quality.BAD, False, WRONG_TYPE),
        Row("not finite", lambda f: not f.finite, Quality.BAD, False, "nan"),
        Row("not good", lambda f: not f.good, Quality.BAD, True),
        Row("questionable", lambda f: f.questionable, Quality.UNCERTAIN, True),
        Row("substituted", lambda f: f.substituted, Quality[substituted.upper()], True),
        Row("good", lambda f: True, Quality.GOOD, True),
    )


def judge(rows: Table, facts: Facts) -> Row:
    """The row that decides."""
    return next(row for row in rows if row.applies(facts))


def status(row: Row, facts: Facts, code: int | None = None) -> int | str:
    """What is kept beside the quality: 0 for nothing, a digital state's code, or words joined by ", "."""
    word = row.word(facts) if callable(row.word) else row.word
    words = [word] if word else []
    if code is not None and code >= 0:
        if not (facts.questionable or facts.substituted or facts.annotated):
            return code
        words.append(str(code))
    words += [name for name in ("questionable", "substituted", "annotated") if getattr(facts, name)]
    return ", ".join(words)[:_LONGEST] if words else 0


def truth(value: Any, otherwise: bool) -> bool:
    """A flag, which some servers write as a text or a number."""
    if isinstance(value, int):
        return bool(value)
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower(), otherwise)
    return otherwise


def _state(facts: Facts) -> str:
    if facts.state is None or facts.state < 0:
        return facts.name
    return f"{facts.state} {facts.name}".rstrip()
