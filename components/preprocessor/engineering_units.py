"""Engineering units: what plants write, what it means, and how values get from one unit to another.

Every unit has a *dimension*, and only units of one dimension can be converted into each other. Dimensions are finer
than those of physics where a mistake would be silent: gauge pressure is not pressure, a volume of gas at normal
conditions is not a volume, a difference of temperatures is not a temperature, a shaft's speed is not a frequency.

    base = value * factor + offset          exact fractions, from the definitions

Spellings: `unit` knows the names of the table, the codes of UN/ECE Recommendation 20 that OPC UA servers give, and
other ways of writing (°C, m³/h, µS/cm, l/MIN). Upper and lower case matter where both mean something (mW, MW).

Errors:

    ValueError
    └── UnitError       a unit that nobody knows, or two that do not fit; `remedy` says what to write
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LONGEST: Final = 64
_EXACT: Final = 2**53
_PI: Final = Fraction("3.14159265358979323846264338327950288")
_DELTA: Final = "delta "


class UnitError(ValueError):
    """A unit that is not known, or two units that do not fit. The message is the problem, `remedy` how to mend it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: a value in the base unit of its dimension is value * factor + offset."""

    name: str
    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Conversion:
    """(value + before) * times / over + after.

    In this form the numbers of the definitions stand as they are, and 212 degF is 100 degC to the last digit.
    """

    before: float = 0.0
    times: float = 1.0
    over: float = 1.0
    after: float = 0.0

    @property
    def identity(self) -> bool:
        """Whether values stay what they are."""
        return self == Conversion()

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The converted values, new ones unless nothing is to be done. What gets too large is infinite."""
        if self.identity:
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            result = np.add(values, self.before) if self.before else np.array(values, dtype=np.float64)
            if self.times != 1.0:
                result *= self.times
            if self.over != 1.0:
                result /= self.over
            if self.after:
                result += self.after
        return result


def unit(name: str) -> Unit:
    """The unit of this name, `delta <name>` for differences in it. Raises UnitError with the nearest known name."""
    found = find(name)
    if found is None:
        raise UnitError(f"{name[:_LONGEST]!r} is no unit that is known", _suggestion(name))
    return found


def find(name: str) -> Unit | None:
    """The unit of this name, None when nobody knows it."""
    return _known(name) if 0 < len(name) <= _LONGEST else None


def conversion(source: str, target: str, delta: bool = False) -> Conversion:
    """How values in one unit become values in another. Raises UnitError.

    delta: the values are differences, for which the zero points of the units do not count.
    """
    return between(unit(source), unit(target), delta)


def between(source: Unit, target: Unit, delta: bool = False) -> Conversion:
    """The same for units that are found. Raises UnitError when their dimensions differ."""
    if delta:
        source, target = _difference(source) or source, _difference(target) or target
    if source.dimension != target.dimension:
        problem = f"{source.name} ({source.dimension}) cannot become {target.name} ({target.dimension})"
        raise UnitError(problem, _remedy(source, target))
    factor = source.factor / target.factor
    after = (source.offset - target.offset) / target.factor
    before = after / factor
    first = after and before.denominator < after.denominator  # the rounder number of the two is the exact one
    times, over = _as_floats(factor)
    return Conversion(float(before) if first else 0.0, times, over, 0.0 if first else float(after))


def convert(values: Any, source: str, target: str, delta: bool = False) -> NDArray[np.float64]:
    """The values in another unit. Raises UnitError."""
    return conversion(source, target, delta)(np.asarray(values, dtype=np.float64))


def names() -> dict[str, str]:
    """All units by name with their dimensions, without other spellings and codes."""
    return {one.name: one.dimension for one in _TABLE.values()}


# --- how names are written ---

_REPLACED: Final = str.maketrans(
    {
        "℃": "degC",
        "℉": "degF",
        "°": "deg",
        "º": "deg",
        "˚": "deg",
        "µ": "u",
        "μ": "u",
        "Ω": "ohm",
        "\N{OHM SIGN}": "ohm",
        "²": "2",
        "³": "3",
        "·": ".",
        "⋅": ".",
        "•": ".",
        "*": ".",
        "^": "",
        "Δ": _DELTA,
        "∆": _DELTA,
        "‰": "permille",
    }
)
_LITRE: Final = re.compile(r"(?<![A-Za-z])([mcdhuN]?)L(?![A-Za-z0-9])")
_PER: Final[Mapping[str, str]] = {"hr": "h", "hour": "h", "sec": "s", "second": "s", "minute": "min", "day": "d"}
_PER_TIME: Final = re.compile(r"/(hr|hour|sec|second|minute|day)$", re.IGNORECASE)


def _spelled(name: str) -> str:
    """The name in the letters that the table uses."""
    text = " ".join(name.translate(_REPLACED).split())
    text = _LITRE.sub(r"\1l", text)
    return _PER_TIME.sub(lambda found: f"/{_PER[found[1].lower()]}", text)


@lru_cache(maxsize=4_096)
def _known(name: str) -> Unit | None:
    if name in _KNOWN:
        return _KNOWN[name]
    text = _spelled(name)
    for prefix in ("delta_", _DELTA):
        if text.startswith(prefix):
            return _difference(_found(text[len(prefix) :].replace(" ", "")))
    return _found(text.replace(" ", ""))


def _found(text: str) -> Unit | None:
    found = _KNOWN.get(text)
    if found is not None:
        return found
    # Only texts in one case throughout: whoever writes mWh does not mean MWh. And never of one letter: S and s.
    if len(text) < 2 or text not in (text.upper(), text.lower(), text.capitalize()):
        return None
    same = _FOLDED.get(text.casefold(), ())
    return same[0] if len(same) == 1 else None


def _suggestion(name: str) -> str:
    text = _spelled(name[:_LONGEST]).replace(" ", "")
    same = _FOLDED.get(text.casefold())
    if same:
        return f"did you mean {' or '.join(one.name for one in same)}? Upper and lower case matter"
    near = difflib.get_close_matches(text, _KNOWN, 3, 0.6) or difflib.get_close_matches(
        text.casefold(), _FOLDED, 3, 0.6
    )
    found = dict.fromkeys((_KNOWN[one] if one in _KNOWN else _FOLDED[one][0]).name for one in near)
    return f"did you mean {' or '.join(found)}?" if found else "write a unit such as degC, bar, m3/h, kg/h, kW or %"


# --- how units fit ---


def _difference(of: Unit | None) -> Unit | None:
    """The unit of differences in a unit; differences of gauge and of absolute pressures are the same."""
    if of is None or of.dimension == _TEMPERATURE_DIFFERENCE:
        return of
    if of.dimension == _TEMPERATURE:
        return Unit(_DELTA + of.name, _TEMPERATURE_DIFFERENCE, of.factor)
    if of.dimension == _GAUGE:
        return Unit(_DELTA + of.name, _PRESSURE, of.factor)
    return of


def _as_floats(factor: Fraction) -> tuple[float, float]:
    if factor.numerator < _EXACT and factor.denominator < _EXACT:
        return float(factor.numerator), float(factor.denominator)
    return float(factor), 1.0


def _remedy(source: Unit, target: Unit) -> str:
    both = {source.dimension, target.dimension}
    if both == {_TEMPERATURE, _TEMPERATURE_DIFFERENCE}:
        return f"a difference is no temperature: write {_TEMPERATURE_NAMES} for one, delta degC for the other"
    if both == {_PRESSURE, _GAUGE}:
        return "the pressure of the air lies between them: add it as `offset` and name the result with `unit`"
    if any(" gas " in one for one in both):
        return "it depends on pressure and temperature: calculate it in a `derive` step"
    near = [one.name for one in _TABLE.values() if one.dimension == source.dimension and one.name != source.name][:8]
    return f"{source.name} can become {', '.join(near)}" if near else f"nothing can be converted to {source.name}"


# --- the table ---

_TEMPERATURE: Final = "temperature"
_TEMPERATURE_DIFFERENCE: Final = "temperature difference"
_TEMPERATURE_NAMES: Final = "degC"
_PRESSURE: Final = "pressure"
_GAUGE: Final = "gauge pressure"

_INCH: Final = Fraction("0.0254")
_FOOT: Final = 12 * _INCH
_MILE: Final = 5280 * _FOOT
_POUND: Final = Fraction("0.45359237")
_GRAVITY: Final = Fraction("9.80665")
_POUND_FORCE: Final = _POUND * _GRAVITY
_PSI: Final = _POUND_FORCE / _INCH**2
_MMHG: Final = Fraction("13.5951") * _GRAVITY  # the conventional millimetre of mercury
_GALLON: Final = 231 * _INCH**3
_IMPERIAL_GALLON: Final = Fraction("0.00454609")
_BARREL: Final = 42 * _GALLON
_BTU: Final = Fraction("1055.05585262")  # of the International Table, as kcal is
_KCAL: Final = Fraction("4186.8")
_HOUR: Final = 3600
_DAY: Final = 86_400

# By dimension: name, factor to the base unit, and other ways of writing it, codes of UN/ECE among them.
_Row = tuple[str, Fraction | int | str, str]
_UNITS: Final[Mapping[str, tuple[_Row, ...]]] = {
    _TEMPERATURE_DIFFERENCE: (
        ("delta K", 1, "deltaK"),
        ("delta degC", 1, "deltadegC"),
        ("delta degF", Fraction(5, 9), "deltadegF"),
        ("delta degR", Fraction(5, 9), "deltadegR"),
    ),
    _PRESSURE: (
        ("Pa", 1, "PAL N/m2"),
        ("mPa", "0.001", ""),
        ("hPa", 100, "A97"),
        ("kPa", 1_000, "KPA kPaa kPa(a) kPaabs"),
        ("MPa", 10**6, "MPA MPaa MPa(a)"),
        ("GPa", 10**9, ""),
        ("bar", 10**5, "BAR bara bar(a) barabs"),
        ("mbar", 100, "MBR mbara mbar(a)"),
        ("ubar", "0.1", ""),
        ("psi", _PSI, "psia psi(a) lbf/in2 lb/in2"),
        ("ksi", 1_000 * _PSI, ""),
        ("atm", 101_325, "ATM"),
        ("at", 10_000 * _GRAVITY, "ATT kgf/cm2 kg/cm2 kp/cm2"),
        ("Torr", Fraction(101_325, 760), ""),
        ("mmHg", _MMHG, "HN"),
        ("inHg", Fraction("25.4") * _MMHG, "F79"),
        ("mmH2O", _GRAVITY, "mmWC mmWS"),
        ("cmH2O", 10 * _GRAVITY, "cmWC"),
        ("mH2O", 1_000 * _GRAVITY, "mWC mWS"),
        ("inH2O", Fraction("25.4") * _GRAVITY, "F78 inWC inWG iwc"),
    ),
    _GAUGE: (
        ("Pag", 1, "Pa(g)"),
        ("kPag", 1_000, "kPa(g) kPaG"),
        ("MPag", 10**6, "MPa(g) MPaG"),
        ("barg", 10**5, "bar(g) barG barü barue"),
        ("mbarg", 100, "mbar(g) mbarG"),
        ("psig", _PSI, "psi(g) psiG"),
        ("kgf/cm2g", 10_000 * _GRAVITY, "kg/cm2g kgf/cm2(g) kg/cm2(g)"),
    ),
    "volume": (
        ("m3", 1, "MTQ cbm cum"),
        ("l", "0.001", "LTR ltr litre liter dm3 DMQ"),
        ("ml", "0.000001", "MLT cm3 cc CMQ"),
        ("cl", "0.00001", "CLT"),
        ("hl", "0.1", "HLT"),
        ("gal", _GALLON, "GLL usgal USgal"),
        ("impgal", _IMPERIAL_GALLON, "GLI"),
        ("ft3", _FOOT**3, "FTQ cuft cf"),
        ("in3", _INCH**3, "INQ cuin"),
        ("bbl", _BARREL, "BLL"),
    ),
    "volume flow": (
        ("m3/s", 1, "MQS"),
        ("m3/min", Fraction(1, 60), ""),
        ("m3/h", Fraction(1, _HOUR), "MQH cbm/h m3h am3/h"),
        ("m3/d", Fraction(1, _DAY), "G52"),
        ("l/s", "0.001", "G51 lps"),
        ("l/min", Fraction("0.001") / 60, "L2 lpm"),
        ("l/h", Fraction("0.001") / _HOUR, "lph"),
        ("ml/min", Fraction("0.000001") / 60, "41 cm3/min cc/min"),
        ("ml/h", Fraction("0.000001") / _HOUR, ""),
        ("gpm", _GALLON / 60, "G2 gal/min usgpm USgpm"),
        ("gph", _GALLON / _HOUR, "gal/h"),
        ("gpd", _GALLON / _DAY, "gal/d"),
        ("impgpm", _IMPERIAL_GALLON / 60, "G3 igpm"),
        ("cfm", _FOOT**3 / 60, "2L ft3/min acfm"),
        ("cfh", _FOOT**3 / _HOUR, "2K ft3/h acfh"),
        ("cfs", _FOOT**3, "ft3/s"),
        ("bbl/d", _BARREL / _DAY, "bpd bblpd"),
        ("bbl/h", _BARREL / _HOUR, "bph"),
    ),
    "gas volume at 0 degC": (
        ("Nm3", 1, "Nm3(0C)"),
        ("Nl", "0.001", ""),
    ),
    "gas flow at 0 degC": (
        ("Nm3/s", 1, ""),
        ("Nm3/min", Fraction(1, 60), ""),
        ("Nm3/h", Fraction(1, _HOUR), "Nm3h"),
        ("Nm3/d", Fraction(1, _DAY), ""),
        ("Nl/min", Fraction("0.001") / 60, "nlpm"),
        ("Nl/h", Fraction("0.001") / _HOUR, ""),
        ("Nml/min", Fraction("0.000001") / 60, "sccm"),
    ),
    "gas volume at 15 degC": (("Sm3", 1, ""),),
    "gas flow at 15 degC": (
        ("Sm3/h", Fraction(1, _HOUR), ""),
        ("Sm3/d", Fraction(1, _DAY), ""),
    ),
    "gas volume at 60 degF": (
        ("scf", 1, ""),
        ("Mscf", 1_000, ""),
        ("MMscf", 10**6, ""),
    ),
    "gas flow at 60 degF": (
        ("scfm", 1, "scf/min"),
        ("scfh", Fraction(1, 60), "scf/h"),
        ("scfd", Fraction(1, 1440), "scf/d"),
        ("Mscfd", Fraction(1_000, 1440), "Mscf/d"),
        ("MMscfd", Fraction(10**6, 1440), "MMscf/d"),
    ),
    "mass": (
        ("kg", 1, "KGM kilogram"),
        ("g", "0.001", "GRM gram"),
        ("mg", "0.000001", "MGM"),
        ("ug", "0.000000001", "MC"),
        ("t", 1_000, "TNE tonne"),
        ("lb", _POUND, "LBR lbs lbm"),
        ("oz", _POUND / 16, "ONZ"),
        ("ton (US)", 2_000 * _POUND, "STN uston shortton ton(US)"),
        ("ton (UK)", 2_240 * _POUND, "LTN ukton longton ton(UK)"),
    ),
    "mass flow": (
        ("kg/s", 1, "KGS"),
        ("kg/min", Fraction(1, 60), "F31"),
        ("kg/h", Fraction(1, _HOUR), "E93"),
        ("kg/d", Fraction(1, _DAY), "F30"),
        ("g/s", "0.001", "F29"),
        ("g/min", Fraction("0.001") / 60, "F28"),
        ("g/h", Fraction("0.001") / _HOUR, "F27"),
        ("t/h", Fraction(1_000, _HOUR), "E18 tph"),
        ("t/d", Fraction(1_000, _DAY), "tpd"),
        ("lb/s", _POUND, "lbm/s"),
        ("lb/min", _POUND / 60, "lbm/min"),
        ("lb/h", _POUND / _HOUR, "lbm/h"),
    ),
    "density": (
        ("kg/m3", 1, "KMQ"),
        ("g/cm3", 1_000, "23 g/ml kg/l kg/dm3 t/m3"),
        ("g/l", 1, "g/dm3"),
        ("mg/l", "0.001", "M1 g/m3"),
        ("ug/l", "0.000001", "mg/m3 GP"),
        ("ug/m3", "0.000000001", "GQ"),
        ("lb/ft3", _POUND / _FOOT**3, "87"),
        ("lb/gal", _POUND / _GALLON, "GE"),
    ),
    "mass in gas volume at 0 degC": (
        ("g/Nm3", "0.001", ""),
        ("mg/Nm3", "0.000001", ""),
    ),
    "energy": (
        ("J", 1, "JOU joule W.s"),
        ("mJ", "0.001", ""),
        ("kJ", 1_000, "KJO"),
        ("MJ", 10**6, "3B"),
        ("GJ", 10**9, "GV"),
        ("TJ", 10**12, ""),
        ("Wh", _HOUR, "WHR"),
        ("kWh", 1_000 * _HOUR, "KWH"),
        ("MWh", 10**6 * _HOUR, "MWH"),
        ("GWh", 10**9 * _HOUR, "GWH"),
        ("cal", _KCAL / 1_000, "D70"),
        ("kcal", _KCAL, "E14"),
        ("Gcal", _KCAL * 10**6, ""),
        ("BTU", _BTU, "Btu"),
        ("MMBTU", 10**6 * _BTU, "MMBtu"),
        ("therm", 10**5 * _BTU, ""),
    ),
    "power": (
        ("W", 1, "WTT watt J/s"),
        ("mW", "0.001", "C31"),
        ("kW", 1_000, "KWT kJ/s"),
        ("MW", 10**6, "MAW MJ/s"),
        ("GW", 10**9, ""),
        ("hp", 550 * _FOOT * _POUND_FORCE, "BHP"),
        ("hp(M)", 75 * _GRAVITY, "HJ cv"),
        ("BTU/h", _BTU / _HOUR, "Btu/h btuh"),
        ("MMBTU/h", 10**6 * _BTU / _HOUR, "MMBtu/h"),
        ("kcal/h", _KCAL / _HOUR, ""),
        ("Gcal/h", _KCAL * 10**6 / _HOUR, ""),
        ("kJ/h", Fraction(1_000, _HOUR), ""),
        ("MJ/h", Fraction(10**6, _HOUR), ""),
        ("GJ/h", Fraction(10**9, _HOUR), ""),
        ("TR", 12_000 * _BTU / _HOUR, "tonref RT"),
    ),
    "apparent power": (("VA", 1, "D46"), ("kVA", 1_000, "KVA"), ("MVA", 10**6, "")),
    "reactive power": (("var", 1, "D44"), ("kvar", 1_000, "KVR"), ("Mvar", 10**6, "MAR")),
    "reactive energy": (("varh", 1, ""), ("kvarh", 1_000, "K3"), ("Mvarh", 10**6, "MAH")),
    "energy per mass": (
        ("kJ/kg", 1_000, "B42 J/g"),
        ("MJ/kg", 10**6, ""),
        ("kcal/kg", _KCAL, ""),
        ("BTU/lb", _BTU / _POUND, "AZ Btu/lb"),
    ),
    "power per area": (("W/m2", 1, "D54"), ("kW/m2", 1_000, "")),
    "length": (
        ("m", 1, "MTR meter metre"),
        ("km", 1_000, "KMT KTM"),
        ("dm", "0.1", "DMT"),
        ("cm", "0.01", "CMT"),
        ("mm", "0.001", "MMT"),
        ("um", "0.000001", "4H micron"),
        ("nm", "0.000000001", "C45"),
        ("in", _INCH, "INH inch"),
        ("mil", _INCH / 1_000, "thou"),
        ("ft", _FOOT, "FOT feet foot"),
        ("yd", 3 * _FOOT, "YRD"),
        ("mi", _MILE, "SMI mile"),
    ),
    "area": (
        ("m2", 1, "MTK sqm"),
        ("cm2", "0.0001", "CMK"),
        ("mm2", "0.000001", "MMK"),
        ("km2", 10**6, "KMK"),
        ("ha", 10_000, "HAR"),
        ("ft2", _FOOT**2, "FTK sqft"),
        ("in2", _INCH**2, "INK sqin"),
    ),
    "speed": (
        ("m/s", 1, "MTS"),
        ("mm/s", "0.001", "C16"),
        ("cm/s", "0.01", "2M"),
        ("m/min", Fraction(1, 60), "2X"),
        ("m/h", Fraction(1, _HOUR), ""),
        ("mm/min", Fraction(1, 60_000), ""),
        ("mm/h", Fraction(1, 1_000 * _HOUR), ""),
        ("km/h", Fraction(1_000, _HOUR), "KMH kmh kph"),
        ("in/s", _INCH, "IU ips"),
        ("ft/s", _FOOT, "FS fps"),
        ("ft/min", _FOOT / 60, "FR fpm"),
        ("mph", _MILE / _HOUR, "HM mi/h"),
        ("kn", Fraction(1_852, _HOUR), "KNT knot"),
    ),
    "acceleration": (("m/s2", 1, "MSK"), ("mm/s2", "0.001", ""), ("gn", _GRAVITY, "K40 g0"), ("ft/s2", _FOOT, "")),
    "force": (
        ("N", 1, "NEW"),
        ("mN", "0.001", "C20"),
        ("kN", 1_000, "B47"),
        ("MN", 10**6, "B73"),
        ("kgf", _GRAVITY, "B37 kp"),
        ("lbf", _POUND_FORCE, "C78"),
    ),
    "torque": (
        ("N.m", 1, "NU Nm"),
        ("kN.m", 1_000, "B48 kNm"),
        ("lbf.ft", _POUND_FORCE * _FOOT, "ft.lbf lb.ft ft.lb"),
    ),
    "time": (
        ("s", 1, "SEC second"),
        ("ms", "0.001", "C26 msec"),
        ("us", "0.000001", "B98 usec"),
        ("ns", "0.000000001", "C47"),
        ("min", 60, "MIN minute"),
        ("h", _HOUR, "HUR hr hour"),
        ("d", _DAY, "DAY day"),
        ("week", 7 * _DAY, "WEE"),
    ),
    "frequency": (
        ("Hz", 1, "HTZ hertz 1/s"),
        ("mHz", "0.001", ""),
        ("kHz", 1_000, "KHZ"),
        ("MHz", 10**6, "MHZ"),
        ("GHz", 10**9, "A86"),
        ("1/min", Fraction(1, 60), "/min cpm"),
        ("1/h", Fraction(1, _HOUR), "/h"),
    ),
    "rotational speed": (
        ("rpm", Fraction(1, 60), "RPM r/min rev/min U/min"),
        ("rps", 1, "RPS r/s rev/s"),
        ("rad/s", 1 / (2 * _PI), "2A"),
        ("deg/s", Fraction(1, 360), "E96"),
    ),
    "angle": (
        ("deg", Fraction(1, 360), "DD"),
        ("rad", 1 / (2 * _PI), "C81"),
        ("mrad", 1 / (2_000 * _PI), "C25"),
        ("rev", 1, "turn"),
    ),
    "voltage": (
        ("V", 1, "VLT volt"),
        ("uV", "0.000001", "D82"),
        ("mV", "0.001", "2Z"),
        ("kV", 1_000, "KVT"),
        ("MV", 10**6, "B78"),
    ),
    "current": (
        ("A", 1, "AMP amp ampere"),
        ("uA", "0.000001", "B84"),
        ("mA", "0.001", "4K"),
        ("kA", 1_000, "B22"),
    ),
    "charge": (("Ah", 1, "AMH A.h"), ("mAh", "0.001", "E09"), ("kAh", 1_000, "")),
    "resistance": (
        ("ohm", 1, "OHM"),
        ("mohm", "0.001", "E45"),
        ("kohm", 1_000, "B49"),
        ("Mohm", 10**6, "B75"),
    ),
    "conductance": (("S", 1, "SIE"), ("mS", "0.001", "C27"), ("uS", "0.000001", "B99")),
    "conductivity": (
        ("S/m", 1, "D10"),
        ("mS/m", "0.001", ""),
        ("uS/m", "0.000001", ""),
        ("S/cm", 100, "H43"),
        ("mS/cm", "0.1", "H61"),
        ("uS/cm", "0.0001", "G42"),
    ),
    "dynamic viscosity": (
        ("Pa.s", 1, "C65 Pas"),
        ("mPa.s", "0.001", "C24 mPas"),
        ("P", "0.1", "89 poise"),
        ("cP", "0.001", "C7 centipoise"),
    ),
    "kinematic viscosity": (
        ("m2/s", 1, "S4"),
        ("mm2/s", "0.000001", "C17"),
        ("St", "0.0001", "91"),
        ("cSt", "0.000001", "4C"),
    ),
    "amount of substance": (("mol", 1, "C34"), ("mmol", "0.001", "C18"), ("kmol", 1_000, "B45")),
    "molar flow": (
        ("mol/s", 1, "E95"),
        ("mol/min", Fraction(1, 60), ""),
        ("mol/h", Fraction(1, _HOUR), ""),
        ("kmol/s", 1_000, "E94"),
        ("kmol/h", Fraction(1_000, _HOUR), "K58"),
    ),
    "molar concentration": (
        ("mol/m3", 1, "C36"),
        ("mol/l", 1_000, "C38"),
        ("mmol/l", 1, "M33"),
    ),
    "ratio": (
        ("1", 1, "C62 fraction"),
        ("%", "0.01", "P1 percent pct"),
        ("permille", "0.001", "NX"),
        ("ppm", "0.000001", "59"),
        ("ppb", "0.000000001", "61"),
    ),
    "relative humidity": (("%RH", 1, "%rH %r.F. rH%"),),
    "pH": (("pH", 1, "Q30"),),
    "sound level": (("dB", 1, "2N"), ("dBA", 1, "dB(A)")),
    "turbidity": (("NTU", 1, ""),),
    "illuminance": (("lx", 1, "LUX lux"),),
}


def _read() -> tuple[dict[str, Unit], dict[str, Unit], dict[str, tuple[Unit, ...]]]:
    """The units by name, by every way of writing them, and by that without regard to case."""
    table = {
        "K": Unit("K", _TEMPERATURE, Fraction(1)),
        "degC": Unit("degC", _TEMPERATURE, Fraction(1), Fraction("273.15")),
        "degF": Unit("degF", _TEMPERATURE, Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
        "degR": Unit("degR", _TEMPERATURE, Fraction(5, 9)),
    }
    written = {
        "K": "KEL kelvin degK",
        "degC": "CEL C celsius DegC grdC",
        "degF": "FAH F fahrenheit DegF",
        "degR": "A48 R rankine",
    }
    for dimension, rows in _UNITS.items():
        for name, factor, others in rows:
            table[name] = Unit(name, dimension, Fraction(factor))
            written[name] = others
    known: dict[str, Unit] = {}
    folded: dict[str, tuple[Unit, ...]] = {}
    for name, one in table.items():
        for way in (name, *written[name].split()):
            if way in known:
                raise AssertionError(f"{way} is both {known[way].name} and {name}")
            known[way] = one
            same = folded.get(way.casefold(), ())
            folded[way.casefold()] = same if one in same else (*same, one)
    return table, known, folded


_TABLE, _KNOWN, _FOLDED = _read()
