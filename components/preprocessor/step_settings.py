"""The settings of the steps, one model for each kind.

Each kind has a place at which it runs, whatever the names: quality 100, convert 200, rename 300, model 350, range 400,
stuck 410, spike 420, rate 430, stale 440, context 500, derive 600, (detectors 650,) alarm 700, counter 800, totalize
810, aggregate 850, report 900, compress 950. `order` puts a step elsewhere; steps at the same place run by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from preprocessor.engine.patterns import PatternError, pattern
from preprocessor.engine.templates import names_in
from sluice.config import ONE_OR_MANY, Duration, Parts, Settings, refuse
from sluice.tag_settings import Asset


def _pattern(value: str) -> str:
    try:
        pattern(value)
    except PatternError as error:
        refuse(str(error), error.remedy)
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]
Patterns = Annotated[list[Pattern], ONE_OR_MANY, Field(min_length=1, max_length=1000)]
"""Tag names, or <asset>/<name>: * is any part of a level, ** any levels, {name} a captured part."""
Text = Annotated[str, Field(max_length=2000)]
"""An expression: `{tag name}` is a tag's value, plain names are members of a model."""
Act = Literal["mark", "drop", "hold"]


def _rising(limits: Sequence[tuple[str, float | None]], least: str) -> None:
    """Refuse limits that are not in rising order, or none at all. least: what to do then."""
    given = [(name, limit) for name, limit in limits if limit is not None]
    if not given:
        refuse("has no limit", least)
    for (name, limit), (above, higher) in pairwise(given):
        if not limit < higher:
            refuse(f"has {name} {limit:g} and {above} {higher:g}", f"{name} must be below {above}")


class StepSettings(Settings):
    """What every step has."""

    tags: Patterns = Field(["**"])
    """The tags that it applies to; all others pass as they are."""
    exclude: Annotated[list[Pattern], ONE_OR_MANY, Field(max_length=1000)] = Field([])
    """Of these tags, those that it does not apply to."""
    order: Annotated[int, Field(ge=1, le=9999)] | None = None
    """Where it runs among the flow's steps; each kind has its own place."""


class QualitySettings(StepSettings):
    """What happens to samples by their quality, and what words in the place of values mean."""

    type: Literal["quality"]
    """Gates samples by their quality; words such as Bad become a quality."""
    words: dict[str, Literal["good", "uncertain", "bad"]] = Field({})
    """Text values that say a quality, beside those that every historian writes (Bad, Scan Timeout, Shutdown, …); `good`
    takes one back: {Shutdown: good} for the state of a machine."""
    numbers: bool = False
    """Makes numbers of text values; a text that is neither a number nor a known word becomes BAD `not-a-number`."""
    statuses: dict[str, Literal["good", "uncertain", "bad"]] = Field({})
    """Native statuses, as number or word, that mean another quality than the source gave."""
    uncertain: Literal["pass", "bad", "drop", "hold"] = "pass"
    """What becomes of UNCERTAIN samples; hold: the last good value, as UNCERTAIN `held`."""
    bad: Literal["pass", "empty", "drop", "hold"] = "pass"
    """What becomes of BAD samples; empty: they go without their value; hold: as for uncertain ones."""

    @model_validator(mode="after")
    def _each_word_once(self) -> QualitySettings:
        seen: dict[str, str] = {}
        for word in self.words:
            alike = " ".join(word.split()).casefold()
            if not 1 <= len(alike) <= 64:
                refuse(f"has a word of {len(alike)} characters", "write words of 1 to 64 characters")
            if alike in seen:
                refuse(
                    f"has {word!r} and {seen[alike]!r}, which are the same: case and blanks do not count", "keep one"
                )
            seen[alike] = word
        return self


_DOES_SOMETHING = frozenset(
    {"to", "units", "source_unit", "gain", "offset", "raw", "clamp", "digits", "value_type", "unit"}
)


class ConvertSettings(StepSettings):
    """Another unit, scale or type."""

    type: Literal["convert"]
    """Converts units, scales, clamps, rounds, changes the value type."""
    to: str = ""
    """The unit that values are converted to, such as degC; the tag's own unit says from what."""
    units: dict[str, str] = Field({})
    """By the tag's own unit the one to convert to: {degF: degC, psi: bar}."""
    source_unit: str = ""
    """The unit that values come in, where the source does not say, or says it wrongly."""
    delta: bool = False
    """Values are differences: 10 degF of difference are 5.56 degC."""
    gain: float = 1.0
    """Multiplies the value."""
    offset: float = 0.0
    """Is added after the gain."""
    raw: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """With `scaled`: the range that values come in, such as [0, 65535]."""
    scaled: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The range that `raw` becomes, such as [0, 100]."""
    clamp: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The least and the greatest value; what is beyond becomes that, UNCERTAIN `clamped`."""
    digits: Annotated[int, Field(ge=0, le=15)] | None = None
    """Digits behind the point that values are rounded to."""
    value_type: Literal["double", "integer", "boolean", "string"] | None = None
    """The type that values get; what does not fit it becomes BAD `not-convertible`."""
    unit: str = ""
    """The unit that values have after gain, offset or scaling."""

    @model_validator(mode="after")
    def _makes_sense(self) -> ConvertSettings:
        if (self.raw is None) != (self.scaled is None):
            refuse("needs raw and scaled together", "write both ranges: raw: [0, 65535], scaled: [0, 100]")
        if self.raw is not None and (self.gain != 1.0 or self.offset != 0.0):
            refuse("has raw and scaled, and gain or offset as well", "keep one of the two: they say the same thing")
        if self.raw is not None and self.raw[0] == self.raw[1]:
            refuse("has a raw range of one value", "write its two ends: raw: [0, 65535]")
        if self.gain == 0.0:
            refuse("has a gain of 0, which makes every value the offset", "write another gain, or leave it out")
        if self.clamp is not None and not self.clamp[0] <= self.clamp[1]:
            refuse("clamps between limits of which the first is the greater", "write the least value first: [0, 100]")
        if self.delta and not (self.to or self.units):
            refuse("has delta, but no unit to convert to", "give to or units, or take delta out")
        if self.unit and self.source_unit:
            refuse(
                "has unit and sourceUnit",
                "with gain, offset or scaling keep unit, else sourceUnit: both say in which unit the value is",
            )
        if not self.model_fields_set & _DOES_SOMETHING:
            refuse("does nothing", "give to, units, sourceUnit, gain, raw and scaled, clamp, digits or valueType")
        return self


class RenameRule(Settings):
    """One rule: the first that matches a tag renames it."""

    match: Pattern
    """A pattern over the tag's name, or <asset>/<name>; {name} captures a part."""
    tag: str = ""
    """The new name; {name} puts in what was captured, {tag} the old name."""
    asset: str = ""
    """The new asset path, in the same way; {asset} puts in the old one."""

    @model_validator(mode="after")
    def _can_be_filled(self) -> RenameRule:
        captured = pattern(self.match).names
        taken = {"tag", "asset"} & set(captured)
        if taken:
            name = sorted(taken)[0]
            refuse(f"captures {{{name}}}, which means the old name", "give what it captures another name")
        if not self.tag and not self.asset:
            refuse("gives neither another tag nor another asset", "write tag, asset or both")
        for key, template in (("tag", self.tag), ("asset", self.asset)):
            used = names_in(template)
            if used is None:
                refuse(f"has a {key} with a brace that belongs to nothing", "write {name} for what was captured")
            for name in used:
                if name not in (*captured, "tag", "asset"):
                    known = ", ".join(f"{{{one}}}" for one in (*captured, "tag", "asset"))
                    refuse(f"has a {key} with {{{name}}}, which match does not capture", f"use {known}")
        return self


class RenameSettings(StepSettings):
    """Other names and places."""

    type: Literal["rename"]
    """Gives tags other names and asset paths."""
    rules: Annotated[list[RenameRule], Field(min_length=1, max_length=1000)]
    """The rules, tried in order."""


class ModelSettings(StepSettings):
    """Tags take their place in an asset model."""

    type: Literal["model"]
    """Makes tags members of the instances of an asset model, and computes its derived tags."""
    model: str
    """The model's name, under `models`."""
    others: Literal["pass", "drop"] = "pass"
    """What becomes of tags that no instance has."""


class RangeSettings(StepSettings):
    """Values outside of what is possible."""

    type: Literal["range"]
    """Marks, drops or replaces values outside limits."""
    low: float | None = None
    """Below it a value is impossible: BAD `out-of-range`."""
    high: float | None = None
    """Above it a value is impossible: BAD `out-of-range`."""
    soft_low: float | None = None
    """Below it a value is doubtful: UNCERTAIN `out-of-range`."""
    soft_high: float | None = None
    """Above it a value is doubtful: UNCERTAIN `out-of-range`."""
    action: Act = "mark"
    """What happens beyond low and high: hold puts the last good value, as UNCERTAIN `held`."""
    event: bool = False
    """Tells an event when a tag leaves its range, and when it is back."""

    @model_validator(mode="after")
    def _in_order(self) -> RangeSettings:
        _rising(
            (("low", self.low), ("softLow", self.soft_low), ("softHigh", self.soft_high), ("high", self.high)),
            "give at least one of low, softLow, softHigh and high",
        )
        return self


class StuckSettings(StepSettings):
    """A sensor that does not move."""

    type: Literal["stuck"]
    """Finds tags whose value does not move any more."""
    for_: Annotated[Duration, Field(alias="for", ge=0.1, examples=["10m"])]
    """How long the value stayed within `within`, until it counts as stuck."""
    samples: Annotated[int, Field(ge=2, le=1_000_000)] = 10
    """And how many samples there were in that time."""
    within: Annotated[float, Field(ge=0)] = 0.0
    """Greatest less smallest value that counts as no movement: the sensor's resolution."""
    when: Text = ""
    """Only while this expression is true: {Pump/Running}."""
    action: Act = "mark"
    """mark: UNCERTAIN `stuck`."""
    event: bool = True
    """Tells an event when a tag gets stuck, and when it moves again."""


class SpikeSettings(StepSettings):
    """Single values far from their neighbours (Hampel)."""

    type: Literal["spike"]
    """Finds single values that lie far from the median of their neighbours."""
    window: Annotated[int, Field(ge=3, le=101)] = 7
    """Good values that the median is made of: the latest ones."""
    threshold: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Distance from the median, in standard deviations estimated from the median of distances, that is a spike."""
    floor: Annotated[float, Field(ge=0)] = 0.0
    """Distance that is never a spike: the noise of the sensor."""
    action: Act = "mark"
    """mark: UNCERTAIN `spike`; a second value that agrees with the first proves a step, and passes."""
    event: bool = False
    """Tells an event for each spike."""


class RateSettings(StepSettings):
    """Values that change faster than the process can."""

    type: Literal["rate"]
    """Finds values that change faster than is possible."""
    limit: Annotated[float, Field(gt=0, examples=["5.0"])]
    """The greatest change per second."""
    action: Act = "mark"
    """mark: UNCERTAIN `rate`."""
    event: bool = False
    """Tells an event when a tag begins to change too fast, and when that ends."""


class StaleSettings(StepSettings):
    """Tags that fall silent."""

    type: Literal["stale"]
    """Finds tags of which nothing comes any more."""
    after: Annotated[Duration, Field(ge=1.0, examples=["10m"])]
    """Silence after which a tag is stale."""
    action: Literal["event", "mark"] = "mark"
    """mark: also repeats the last value, once, as UNCERTAIN `stale`."""


class Phase(Settings):
    """A part of a batch."""

    start: Text
    """True when the phase begins; the phase before it ends then."""


class ContextSettings(StepSettings):
    """Which batch runs, told by tags; every sample of the asset carries it."""

    type: Literal["context"]
    """Finds out from tags which batch runs, and puts it on every sample of its asset."""
    asset: str = ""
    """The asset path that the context is for, and everything below it; with {unit} one context for each."""
    id: Text = ""
    """The batch's id: an expression such as {Batch/Id}; empty: made of asset and start time."""
    start: Text
    """True when a batch begins."""
    stop: Text
    """True when it ends as it should."""
    abort: Text = ""
    """True when it is given up."""
    phases: Parts[Phase] = Field({})
    """Phases by name."""
    only_in_batch: bool = False
    """Lets samples of the asset pass only while a batch runs."""
    longest: Annotated[Duration, Field(ge=1.0)] = 7 * 86_400.0
    """A batch that has run for so long is abandoned."""
    summary: Patterns | None = None
    """Tags whose average, minimum and maximum over the batch and its phases go into its summary event."""


class Derived(Settings):
    """One derived tag."""

    expression: Text
    """What it is: ({Reactor/Temp} - 32) * 5 / 9."""
    unit: str = ""
    """The unit of the result."""
    asset: Asset = ""
    """Where it belongs; empty: where the first tag of the expression does."""
    tag: str = ""
    """What it is called; empty: the name of this entry."""


class DeriveSettings(StepSettings):
    """Tags that are calculated from others."""

    type: Literal["derive"]
    """Calculates tags from others."""
    outputs: Annotated[Parts[Derived], Field(min_length=1)]
    """What is calculated, by name; one may use another as {name}."""
    max_age: Annotated[Duration, Field(ge=0.1)] | None = None
    """A value that is older than this makes the result BAD `too-old`; left out: a value holds until the next."""
    inputs: Literal["pass", "drop"] = "pass"
    """What becomes of the tags that were used."""


class Limits(Settings):
    """Limits of one rule; the worst that is passed is the alarm."""

    high_high: float | None = None
    """Alarm `high-high` above it."""
    high: float | None = None
    """Alarm `high` above it."""
    low: float | None = None
    """Alarm `low` below it."""
    low_low: float | None = None
    """Alarm `low-low` below it."""

    @model_validator(mode="after")
    def _in_order(self) -> Limits:
        _rising(
            (("lowLow", self.low_low), ("low", self.low), ("high", self.high), ("highHigh", self.high_high)),
            "give at least one of lowLow, low, high and highHigh",
        )
        return self


class AlarmSettings(StepSettings):
    """A rule that raises an alarm: one for each tag that it applies to, or one for its expression."""

    type: Literal["alarm"]
    """Raises alarms as events."""
    limits: Limits | None = None
    """Alarm when the value passes a limit."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Alarm when the value changes by more than this per second."""
    deviation: Annotated[float, Field(gt=0)] | None = None
    """Alarm when the value differs by more than this from `setpoint`."""
    setpoint: Text = ""
    """What `deviation` is measured from: an expression such as {Reactor/SP}."""
    equals: list[str | float | bool] | None = None
    """Alarm while the value is one of these."""
    stale: Annotated[Duration, Field(ge=1.0)] | None = None
    """Alarm when nothing came for so long."""
    when: Text = ""
    """Alarm while this expression is true: {Temp} > 90 and {Pump/Running}. One alarm; with `tags` one for each tag."""
    hysteresis: Annotated[float, Field(ge=0)] = 0.0
    """How far a value must come back behind its limit until the alarm returns."""
    on_delay: Annotated[Duration, Field(ge=0)] = 0.0
    """How long it must last until the alarm is raised."""
    off_delay: Annotated[Duration, Field(ge=0)] = 0.0
    """How long it must be over until the alarm returns."""
    inhibit: Text = ""
    """No alarm while this expression is true."""
    bad: Literal["hold", "alarm", "normal"] = "hold"
    """What a BAD value means: the state stays, it is an alarm of its own (`bad`), or none."""
    priority: Annotated[int, Field(ge=1, le=1000)] = 500
    """How important it is, 1000 most."""
    message: Annotated[str, Field(max_length=500)] = ""
    """What people read; {tag}, {value}, {limit} and {asset} are put in."""

    @model_validator(mode="after")
    def _one_condition(self) -> AlarmSettings:
        given = [
            name
            for name, condition in (
                ("limits", self.limits),
                ("rate", self.rate),
                ("deviation", self.deviation),
                ("equals", self.equals),
                ("stale", self.stale),
                ("when", self.when or None),
            )
            if condition is not None
        ]
        if len(given) > 1:
            refuse(f"has {' and '.join(given)}", "give one of them, and make another alarm of the other")
        if not given and self.bad != "alarm":
            refuse("has no condition", "give one of limits, rate, deviation, equals, stale and when, or bad: alarm")
        if (self.deviation is None) != (not self.setpoint):
            refuse("has only one of deviation and setpoint", "give both: how far the value may be from what")
        if self.equals == []:
            refuse("has nothing in equals", "give the values that are an alarm, such as [FAULT]")
        if self.hysteresis and not {"limits", "rate", "deviation"} & set(given):
            refuse("has a hysteresis, but no limit", "leave out hysteresis, or give limits, rate or deviation")
        bound = self.rate if self.rate is not None else self.deviation
        if bound is not None and self.hysteresis >= bound:
            refuse("has a hysteresis that is not smaller than the limit", f"give less than {bound:g}: it never returns")
        if self.limits is not None:
            above = [one for one in (self.limits.high, self.limits.high_high) if one is not None]
            below = [one for one in (self.limits.low, self.limits.low_low) if one is not None]
            if above and below and self.hysteresis >= min(above) - max(below):
                remedy = f"give less than {min(above) - max(below):g}, what lies between the limits"
                refuse("has a hysteresis as large as what is between its limits", remedy)
        for word in re.findall(r"\{([A-Za-z_]*)\}", self.message):
            if word not in ("tag", "value", "limit", "asset"):
                refuse(f"has {{{word}}} in its message", "what is put in: {tag}, {value}, {limit} and {asset}")
        return self


class CounterSettings(StepSettings):
    """Counters that only rise: how much was added since the last sample."""

    type: Literal["counter"]
    """Makes increments, or a total that survives resets, of a rising counter."""
    output: Literal["total", "delta", "both"] = "total"
    """`<tag>.total` is everything counted so far, `<tag>.delta` what each sample added."""
    rollover: Annotated[float, Field(gt=0)] | None = None
    """The number of values that the counter has until it begins at 0 again: 65536."""
    max_rate: Annotated[float, Field(gt=0)] | None = None
    """A rise faster than this per second is not believed: BAD `too-fast`, and an event."""
    inputs: Literal["pass", "drop"] = "pass"
    """What becomes of the counter itself."""


class TotalizeSettings(StepSettings):
    """A flow rate summed up over time."""

    type: Literal["totalize"]
    """Sums a rate up over time, as `<tag>.total`."""
    per: Literal["s", "min", "h", "d"]
    """What the rate is given per."""
    sloped: bool = False
    """The value runs in a line from sample to sample; else it holds until the next."""
    max_gap: Annotated[Duration, Field(ge=1.0)] = 600.0
    """A longer pause between samples adds nothing, and is told in an event."""
    reset: Text = ""
    """The total begins at 0 when this becomes true."""
    unit: str = ""
    """The unit of the total."""
    inputs: Literal["pass", "drop"] = "pass"
    """What becomes of the rate itself."""


Function = Literal[
    "average",
    "minimum",
    "maximum",
    "range",
    "deviation",
    "first",
    "last",
    "delta",
    "sum",
    "count",
    "mean",
    "integral",
    "duration",
    "transitions",
    "percentGood",
]


class AggregateSettings(StepSettings):
    """Windows in source time."""

    type: Literal["aggregate"]
    """Aggregates over windows of source time."""
    window: Annotated[Duration, Field(ge=0.1, le=32 * 86_400.0)] | None = None
    """How long a window is; a day begins at midnight of `zone`. Left out with `while` or `by`."""
    slide: Annotated[Duration, Field(ge=0.1)] | None = None
    """Begins a window every so often, so that windows overlap; left out: each begins where the last ended."""
    offset: Duration = 0.0
    """By how much windows begin later than the full hour, day or multiple."""
    zone: str = "UTC"
    """The time zone whose midnights count, such as Europe/Berlin: days of 23 and 25 hours are as long as they are."""
    while_: Annotated[Text, Field(alias="while")] = ""
    """A window for as long as this expression is true."""
    by: Literal["", "batch"] = ""
    """batch: a window for each batch of the sample's context."""
    functions: Annotated[list[Function], Field(min_length=1)] = Field(["average", "minimum", "maximum", "percentGood"])
    """What is calculated: `<tag>.average`, … Time-weighted: average, deviation, integral, duration (true or not 0)."""
    sloped: bool = False
    """The value runs in a line from sample to sample; else it holds until the next."""
    min_good: Annotated[float, Field(ge=0, le=100)] = 80.0
    """Percent of the window for which a good value must be known; below it the result is BAD `too-little-good`."""
    uncertain: Literal["bad", "good"] = "bad"
    """How UNCERTAIN samples count; results that used one are UNCERTAIN."""
    lateness: Annotated[Duration, Field(ge=0)] = 2.0
    """How long after its end a window waits for samples that come late."""
    allowed_lateness: Annotated[Duration, Field(ge=0)] = 0.0
    """For how long after that a late sample still revises the result, which goes out again with `rev` counted up."""
    idle: Annotated[Duration, Field(ge=1.0)] = 30.0
    """A tag that is silent for so long holds no window open: the wall clock closes it."""
    empty: Literal["skip", "bad", "hold"] = "hold"
    """What a window without a sample gives: nothing, BAD `no-data`, or the value that holds."""
    stamp: Literal["start", "end"] = "start"
    """Which time of the window the results carry."""
    late: Literal["drop", "pass"] = "drop"
    """What becomes of samples that are too late for any window; both are counted."""
    inputs: Literal["drop", "pass"] = "drop"
    """What becomes of the samples themselves."""

    @model_validator(mode="after")
    def _one_kind_of_window(self) -> AggregateSettings:
        kinds = [self.window is not None, bool(self.while_.strip()), bool(self.by)]
        if kinds.count(True) != 1:
            problem = "has no windows" if not any(kinds) else "has more than one kind of windows"
            refuse(problem, "give one of `window`, such as 1m, `while`, such as {Pump/Running}, and `by: batch`")
        if self.window is None and (self.slide is not None or self.offset):
            refuse("has `slide` or `offset` without `window`", "leave them out, or give `window`")
        return self


def _range_of(percent: float | None, limits: list[float] | None) -> None:
    """Refuse a percentage of the range without a range, and the other way round."""
    if (percent is None) != (limits is None):
        refuse("needs percentOfRange and range together", "give range, such as [0, 150], or leave both out")
    if limits is not None and not limits[0] < limits[1]:
        refuse("has a range that does not rise", "write the lower end first: [0, 150]")


class ReportSettings(StepSettings):
    """Report by exception."""

    type: Literal["report"]
    """Lets a sample pass only when it says something new."""
    absolute: Annotated[float, Field(ge=0)] | None = None
    """A change by more than this passes."""
    percent_of_range: Annotated[float, Field(gt=0, le=100)] | None = None
    """A change by more than this part of `range` passes."""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The tag's range, such as [0, 150]."""
    percent_of_value: Annotated[float, Field(gt=0, le=1000)] | None = None
    """A change by more than this part of the last reported value passes; needs `floor`."""
    floor: Annotated[float, Field(gt=0)] | None = None
    """The least value that `percentOfValue` is taken of, so that it means something near 0."""
    min_interval: Annotated[Duration, Field(ge=0)] = 0.0
    """Changes that come sooner than this after the last report wait; a change of quality never does."""
    max_interval: Annotated[Duration, Field(ge=1.0)] | None = None
    """After so long a value is reported again whatever it is."""
    heartbeat: Literal["hold", "off"] = "hold"
    """hold: when nothing at all comes for maxInterval, the last value is repeated every maxInterval, each tag at a
    moment of its own, as UNCERTAIN `heartbeat`."""
    previous: bool = True
    """Before a change the last value that did not pass is sent as well, so that lines are drawn as they were."""

    @model_validator(mode="after")
    def _one_band(self) -> ReportSettings:
        given = [
            name
            for name, band in (
                ("absolute", self.absolute),
                ("percentOfRange", self.percent_of_range),
                ("percentOfValue", self.percent_of_value),
            )
            if band is not None
        ]
        if len(given) > 1:
            refuse(f"has {' and '.join(given)}", "give one of them; without any, every change passes")
        _range_of(self.percent_of_range, self.range)
        if (self.percent_of_value is None) != (self.floor is None):
            refuse(
                "needs percentOfValue and floor together",
                "give floor, the least value that the percentage is taken of, such as 1.0: near 0 a percentage of the"
                " value would let everything pass",
            )
        if self.max_interval is not None and self.max_interval <= self.min_interval:
            refuse("has a maxInterval that is not longer than minInterval", "make maxInterval longer, such as 10m")
        return self


class CompressSettings(StepSettings):
    """Swinging door: lines instead of points, with a bound for the error."""

    type: Literal["compress"]
    """Leaves out samples that lie on a line between others."""
    deviation: Annotated[float, Field(gt=0)] | None = None
    """How far the line may be from any sample that was left out; with report before it, twice the band of that more."""
    percent_of_range: Annotated[float, Field(gt=0, le=100)] | None = None
    """The same as part of `range`."""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The tag's range, such as [0, 150]."""
    min_interval: Annotated[Duration, Field(ge=0)] = 0.0
    """Samples that come sooner than this after the last one kept are not tested; `deviation` does not hold for them."""
    max_interval: Annotated[Duration, Field(ge=1.0)] = 28_800.0
    """The longest line; and after so long in silence the last sample goes out."""

    @model_validator(mode="after")
    def _one_bound(self) -> CompressSettings:
        if (self.deviation is None) == (self.percent_of_range is None):
            refuse("needs exactly one of deviation and percentOfRange", "give deviation, in the unit of the tag")
        _range_of(self.percent_of_range, self.range)
        if self.max_interval <= self.min_interval:
            refuse("has a maxInterval that is not longer than minInterval", "make maxInterval longer, such as 8h")
        if self.bound < 1e-200:
            refuse("has a deviation that is nearly 0", "give the resolution of the sensor, such as 0.01")
        return self

    @property
    def bound(self) -> float:
        """How far the line may be off, in the unit of the tag."""
        if self.percent_of_range is not None and self.range is not None:
            return self.percent_of_range / 100.0 * (self.range[1] - self.range[0])
        return self.deviation or 0.0


AnyStep = (
    QualitySettings
    | ConvertSettings
    | RenameSettings
    | ModelSettings
    | RangeSettings
    | StuckSettings
    | SpikeSettings
    | RateSettings
    | StaleSettings
    | ContextSettings
    | DeriveSettings
    | AlarmSettings
    | CounterSettings
    | TotalizeSettings
    | AggregateSettings
    | ReportSettings
    | CompressSettings
)
