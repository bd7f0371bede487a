"""The Tennessee Eastman process: 52 variables of a chemical plant, and 22 recorded runs of it.

J. J. Downs and E. F. Vogel, "A plant-wide industrial process control problem", Computers & Chemical Engineering 17
(1993) 245-255, define the process: tables 3 to 5 list the variables and their units. The runs are the simulations that
the field compares its methods on (Chiang, Russell and Braatz 2001), sampled every 3 minutes, as the package `bibmon`
carries them: `d00` is normal operation, `d01` to `d21` each have one fault; of each there is a training run (480 rows,
`d00` 500) and a test run (960 rows, the fault set in at row 160).

An analyser reports only when it has a new analysis, every 6 minutes (gas) or 15 minutes (product), so that between
analyses its columns repeat the last one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FAULTS = range(22)
"""Numbers of the runs: 0 is normal operation."""

FAULT_ROW = 160
"""Row of a test run at which its fault sets in."""


class DataError(RuntimeError):
    """The recorded runs cannot be read; the text names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the process.

    `unit` is what people write; `unece` is its UN/CEFACT code, empty where there is none. `low` and `high` span what
    the recorded runs contain.
    """

    name: str
    description: str
    area: str
    unit: str
    unece: str
    low: float
    high: float


_KSCMH = ("kscmh", "")  # thousand standard cubic metres per hour
_KGH = ("kg/h", "E93")
_KPA = ("kPa", "KPA")  # gauge
_PERCENT = ("%", "P1")
_CELSIUS = ("degC", "CEL")
_M3H = ("m3/h", "MQH")
_KW = ("kW", "KWT")
_MOL = ("mol%", "")

_MEASUREMENTS: tuple[tuple[str, str, str, tuple[str, str], float, float], ...] = (
    ("AFeed", "A feed (stream 1)", "Feed", _KSCMH, -0.1, 1.5),
    ("DFeed", "D feed (stream 2)", "Feed", _KGH, 0, 5800),
    ("EFeed", "E feed (stream 3)", "Feed", _KGH, 0, 8400),
    ("ACFeed", "A and C feed (stream 4)", "Feed", _KSCMH, 0, 16),
    ("RecycleFlow", "Recycle flow (stream 8)", "Compressor", _KSCMH, 0, 50),
    ("ReactorFeedRate", "Reactor feed rate (stream 6)", "Reactor", _KSCMH, 0, 80),
    ("ReactorPressure", "Reactor pressure (gauge)", "Reactor", _KPA, 0, 3200),
    ("ReactorLevel", "Reactor level", "Reactor", _PERCENT, 0, 100),
    ("ReactorTemperature", "Reactor temperature", "Reactor", _CELSIUS, 0, 200),
    ("PurgeRate", "Purge rate (stream 9)", "Compressor", _KSCMH, 0, 1.5),
    ("SeparatorTemperature", "Product separator temperature", "Separator", _CELSIUS, 0, 150),
    ("SeparatorLevel", "Product separator level", "Separator", _PERCENT, 0, 100),
    ("SeparatorPressure", "Product separator pressure (gauge)", "Separator", _KPA, 0, 3200),
    ("SeparatorUnderflow", "Product separator underflow (stream 10)", "Separator", _M3H, 0, 65),
    ("StripperLevel", "Stripper level", "Stripper", _PERCENT, 0, 100),
    ("StripperPressure", "Stripper pressure (gauge)", "Stripper", _KPA, 0, 4000),
    ("StripperUnderflow", "Stripper underflow (stream 11)", "Stripper", _M3H, 0, 50),
    ("StripperTemperature", "Stripper temperature", "Stripper", _CELSIUS, 0, 150),
    ("StripperSteamFlow", "Stripper steam flow", "Stripper", _KGH, 0, 500),
    ("CompressorWork", "Compressor work", "Compressor", _KW, 0, 500),
    ("ReactorCoolantTemperature", "Reactor cooling water outlet temperature", "Reactor", _CELSIUS, 0, 150),
    ("SeparatorCoolantTemperature", "Separator cooling water outlet temperature", "Separator", _CELSIUS, 0, 150),
    *((f"ReactorFeed{c}", f"Component {c} in reactor feed (stream 6)", "Analysers", _MOL, 0, 100) for c in "ABCDEF"),
    *((f"Purge{c}", f"Component {c} in purge gas (stream 9)", "Analysers", _MOL, 0, 100) for c in "ABCDEFGH"),
    *((f"Product{c}", f"Component {c} in product (stream 11)", "Analysers", _MOL, -0.1, 100) for c in "DEFGH"),
)

_MANIPULATED: tuple[tuple[str, str, str], ...] = (
    ("DFeedValve", "D feed flow (stream 2)", "Feed"),
    ("EFeedValve", "E feed flow (stream 3)", "Feed"),
    ("AFeedValve", "A feed flow (stream 1)", "Feed"),
    ("ACFeedValve", "A and C feed flow (stream 4)", "Feed"),
    ("RecycleValve", "Compressor recycle valve", "Compressor"),
    ("PurgeValve", "Purge valve (stream 9)", "Compressor"),
    ("SeparatorLiquidValve", "Separator pot liquid flow (stream 10)", "Separator"),
    ("ProductValve", "Stripper liquid product flow (stream 11)", "Stripper"),
    ("SteamValve", "Stripper steam valve", "Stripper"),
    ("ReactorCoolantValve", "Reactor cooling water flow", "Reactor"),
    ("CondenserCoolantValve", "Condenser cooling water flow", "Separator"),
)

VARIABLES: tuple[Variable, ...] = (
    *(
        Variable(f"XMEAS{number:02}_{name}", description, area, *unit, low, high)
        for number, (name, description, area, unit, low, high) in enumerate(_MEASUREMENTS, 1)
    ),
    *(
        # The recorded valve positions overshoot their 0 to 100 % a little.
        Variable(f"XMV{number:02}_{name}", description, area, *_PERCENT, -1, 101)
        for number, (name, description, area) in enumerate(_MANIPULATED, 1)
    ),
)
"""The 41 measurements and 11 manipulated variables, in the order of a run's columns."""


def data_folder() -> Path:
    """Folder of the recorded runs in the installed package. Nothing of the package is imported."""
    spec = importlib.util.find_spec("bibmon")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package bibmon is not installed: it carries the recorded runs of the plant")
    return Path(spec.submodule_search_locations[0]) / "tennessee_eastman"


@lru_cache(maxsize=8)
def load(number: int, *, training: bool = False, folder: Path | None = None) -> NDArray[np.float64]:
    """The run of a fault (0: normal operation) as rows x 52, read-only. Raises DataError."""
    if number not in FAULTS:
        raise DataError(f"there is no fault {number}: 0 is normal operation, 1 to {FAULTS[-1]} are the faults")
    path = (folder or data_folder()) / f"d{number:02}{'' if training else '_te'}.dat"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        run = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a recorded run ({error})") from error
    if run.ndim == 2 and run.shape[0] == len(VARIABLES) and run.shape[1] != len(VARIABLES):
        run = np.ascontiguousarray(run.T)  # d00.dat is stored with the variables as rows
    if run.ndim != 2 or run.shape[1] != len(VARIABLES) or not np.isfinite(run).all():
        raise DataError(f"{path}: expected rows of {len(VARIABLES)} finite numbers, found shape {run.shape}")
    run.setflags(write=False)
    return run
