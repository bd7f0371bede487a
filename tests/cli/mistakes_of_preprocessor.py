"""Mistakes in flows and models, and what is said of each. Beside the one with the mistake there is a flow that runs."""

from __future__ import annotations

from typing import Any

INPUTS = {"a": {"stream": "opcua-collector/line1"}}
PUMP = {
    "members": {"flow": {"match": "{instance}/Flow", "unit": "m3/h"}},
    "derived": {"p": {"expression": "flow*2"}},
}


def flow(**settings: Any) -> dict[str, Any]:
    return {"flows": {"ok": {"inputs": INPUTS}, "bad": {"inputs": INPUTS, **settings}}}


def steps(**given: Any) -> dict[str, Any]:
    return flow(steps=given)


def step(kind: str, **settings: Any) -> dict[str, Any]:
    return steps(s={"type": kind, **settings})


def model(**settings: Any) -> dict[str, Any]:
    return {"models": {"pump": {**PUMP, **settings}}, **steps(m={"type": "model", "model": "pump"})}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        step("derive", outputs={"x": {"expression": "{A} + "}}),
        "flows.bad.steps.s.outputs.x.expression = {A} +  ends at column 7, where a value is missing: "
        "write the rest of it (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "sqr({A})"}}),
        'flows.bad.steps.s.outputs.x.expression = "sqr({A})" has the unknown function sqr at column '
        "1: did you mean sqrt? (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "A + 1"}}),
        'flows.bad.steps.s.outputs.x.expression = "A + 1" has the unknown name A at column 1: write '
        "tags in braces: {A} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": ""}}),
        'flows.bad.steps.s.outputs.x.expression = "" is empty: write an expression such as '
        "{Reactor/Temp} > 90 (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": None}}),
        "flows.bad.steps.s.outputs.x.expression is required: add it (flows.bad is not applied)",
    ),
    (
        step("derive", outputs={"x": {"expression": 5}}),
        'flows.bad.steps.s.outputs.x.expression = "5" names no tag to calculate from: write tags in '
        "braces, such as {A} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "5"}}),
        'flows.bad.steps.s.outputs.x.expression = "5" names no tag to calculate from: write tags in '
        "braces, such as {A} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "1+" * 2000 + "1"}}),
        "flows.bad.steps.s.outputs.x.expression = "
        '"1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1'
        '+1+1+1+1+1+1+1+1+1+1+1+1+1+1+… (4001 characters)" is too long: use at most 2000 characters '
        "(flows.bad is not applied)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{A}.__class__"}}),
        "flows.bad.steps.s.outputs.x.expression = {A}.__class__ has . at column 4, where an operator "
        "is expected: an expression is made of numbers, {tag names}, names, operators, functions and "
        "parentheses (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{A + 1"}}),
        "flows.bad.steps.s.outputs.x.expression = {A + 1 has a brace without its other at column 1: "
        "write {tag name} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{} + 1"}}),
        "flows.bad.steps.s.outputs.x.expression = {} + 1 has empty braces at column 1: write the "
        "tag's name in them (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive", outputs={}),
        "flows.bad.steps.s.outputs = {} has too few entries: give 1 or more (flows.bad is not applied)",
    ),
    (
        step("derive", outputs=[{"expression": "{A}"}]),
        'flows.bad.steps.s.outputs = [{"expression": "{A}"}] is not a map of settings: write key: '
        "value lines below it (flows.bad is not applied)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{y}+1"}, "y": {"expression": "{x}+1"}}),
        "flows.bad.steps.s.outputs.x.expression = {y}+1 makes a circle: x -> y -> x: an output "
        "cannot be made of itself: give it another name, or break the circle (the flow does not run, "
        "or keeps running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{x}+1"}}),
        "flows.bad.steps.s.outputs.x.expression = {x}+1 makes a circle: x -> x: an output cannot be "
        "made of itself: give it another name, or break the circle (the flow does not run, or keeps "
        "running as it was)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{A}+1", "tag": "T"}, "y": {"expression": "{A}+1", "tag": "T"}}),
        'flows.bad.steps.s.outputs.y.tag = "T" is the tag of x as well: give each its own tag or '
        "asset (the flow does not run, or keeps running as it was)",
    ),
    (
        step("derive"),
        "flows.bad.steps.s.outputs is required: add it (flows.bad is not applied)",
    ),
    (
        step("derive", outputs={"x": {"expression": "{A}"}}, maxAge="soon"),
        'flows.bad.steps.s.maxAge = "soon" is not a duration: write a number with a unit: 500ms, 5s, '
        "2m, 1h or 7d (flows.bad is not applied)",
    ),
    (
        step("convert", to="degX"),
        "flows.bad.steps.s.to = \"degX\" 'degX' is no unit that is known: did you mean deg or degR or "
        "K? (the flow does not run, or keeps running as it was)",
    ),
    (
        step("convert", units={"psi": "kg"}),
        'flows.bad.steps.s.units.psi = "kg" psi (pressure) cannot become kg (mass): psi can become '
        "Pa, mPa, hPa, kPa, MPa, GPa, bar, mbar (the flow does not run, or keeps running as it was)",
    ),
    (
        step("convert", units={"pisi": "bar"}),
        "flows.bad.steps.s.units.pisi = \"pisi\" 'pisi' is no unit that is known: did you mean psi or "
        "psig? (the flow does not run, or keeps running as it was)",
    ),
    (
        step("convert", sourceUnit="kPa", to="degC"),
        'flows.bad.steps.s.to = "degC" kPa (pressure) cannot become degC (temperature): kPa can '
        "become Pa, mPa, hPa, MPa, GPa, bar, mbar, ubar (the flow does not run, or keeps running as "
        "it was)",
    ),
    (
        step("convert"),
        'flows.bad.steps.s = {"type": "convert"} does nothing: give to, units, sourceUnit, gain, raw '
        "and scaled, clamp, digits or valueType (flows.bad is not applied)",
    ),
    (
        step("convert", raw=[0, 1]),
        'flows.bad.steps.s = {"type": "convert", "raw": [0, 1]} needs raw and scaled together: write '
        "both ranges: raw: [0, 65535], scaled: [0, 100] (flows.bad is not applied)",
    ),
    (
        step("convert", raw=[0, 1, 2], scaled=[0, 1]),
        "flows.bad.steps.s.raw = [0, 1, 2] has too many entries: give at most 2 (flows.bad is not applied)",
    ),
    (
        step("convert", raw={"low": 0}, scaled=[0, 1]),
        'flows.bad.steps.s.raw = {"low": 0} is not a list: write a list such as [a, b] (flows.bad is not applied)',
    ),
    (
        step("convert", clamp=[10, 1]),
        'flows.bad.steps.s = {"type": "convert", "clamp": [10, 1]} clamps between limits of which '
        "the first is the greater: write the least value first: [0, 100] (flows.bad is not applied)",
    ),
    (
        step("convert", gain="two"),
        'flows.bad.steps.s.gain = "two" is not a number: write a number such as 5 or 0.5, or leave '
        "it out for 1.0 (flows.bad is not applied)",
    ),
    (
        step("convert", gain="nan"),
        'flows.bad.steps.s.gain = "nan" is not a number: write a number such as 5 or 0.5, or leave '
        "it out for 1.0 (flows.bad is not applied)",
    ),
    (
        step("convert", gain="1e999"),
        'flows.bad.steps.s.gain = "1e999" is not a number: write a number such as 5 or 0.5, or leave '
        "it out for 1.0 (flows.bad is not applied)",
    ),
    (
        step("convert", digits=99),
        "flows.bad.steps.s.digits = 99 is too large: use 15 or less (flows.bad is not applied)",
    ),
    (
        step("convert", valueType="float"),
        'flows.bad.steps.s.valueType = "float" is not one of the allowed words: use one of: double, '
        "integer, boolean, string (flows.bad is not applied)",
    ),
    (
        step("covert", to="degC"),
        'flows.bad.steps.s.type = "covert" is not a known kind: use one of: quality, convert, '
        "rename, model, range, stuck, spike, rate, stale, context, derive, alarm, counter, totalize, "
        "aggregate, report, compress; did you mean convert? (flows.bad is not applied)",
    ),
    (
        steps(s={"to": "degC"}),
        "flows.bad.steps.s.type is required: use one of: quality, convert, rename, model, range, "
        "stuck, spike, rate, stale, context, derive, alarm, counter, totalize, aggregate, report, "
        "compress (flows.bad is not applied)",
    ),
    (
        steps(s={"type": None}),
        "flows.bad.steps.s.type is required: use one of: quality, convert, rename, model, range, "
        "stuck, spike, rate, stale, context, derive, alarm, counter, totalize, aggregate, report, "
        "compress (flows.bad is not applied)",
    ),
    (
        steps(s={"type": 5}),
        "flows.bad.steps.s.type = 5 is not a known kind: use one of: quality, convert, rename, "
        "model, range, stuck, spike, rate, stale, context, derive, alarm, counter, totalize, "
        "aggregate, report, compress (flows.bad is not applied)",
    ),
    (
        steps(s="report"),
        'flows.bad.steps.s = "report" is not a map of settings: write key: value lines below it '
        "(flows.bad is not applied)",
    ),
    (
        steps(s=["report"]),
        'flows.bad.steps.s = ["report"] is not a map of settings: write key: value lines below it '
        "(flows.bad is not applied)",
    ),
    (
        flow(steps=[{"type": "report"}]),
        'flows.bad.steps = [{"type": "report"}] is not a map of settings: write key: value lines '
        "below it (flows.bad is not applied)",
    ),
    (
        flow(inputs={"a": {"delete": True}}),
        "flows.bad.inputs = {} has too few entries: give 1 or more (flows.bad is not applied)",
    ),
    (
        {"flows": [{"inputs": INPUTS}]},
        'flows = [{"inputs": {"a": {"stream": "opcua-collector/line1"}}}] is not a map of settings: '
        "write key: value lines below it (the default of flows applies)",
    ),
    (
        {"flows": {"ok": {"inputs": INPUTS}, "bad": {"steps": {}}}},
        "flows.bad.inputs is required: add it (flows.bad is not applied)",
    ),
    (
        flow(inputs={}),
        "flows.bad.inputs = {} has too few entries: give 1 or more (flows.bad is not applied)",
    ),
    (
        flow(inputs={"a": {"stream": "line1"}}),
        'flows.bad.inputs.a.stream = "line1" names no stream: write "<producer>/<source>" such as '
        'opcua-collector/line1, with * for any, or "*" for all (flows.bad is not applied)',
    ),
    (
        flow(inputs={"a": {"stream": "a/b/c"}}),
        'flows.bad.inputs.a.stream = "a/b/c" names no stream: write "<producer>/<source>" such as '
        'opcua-collector/line1, with * for any, or "*" for all (flows.bad is not applied)',
    ),
    (
        flow(inputs={"a": {"tags": ["x"]}}),
        "flows.bad.inputs.a.stream is required: add it, for example opcua-collector/line1 (flows.bad is not applied)",
    ),
    (
        flow(inputs={"a": {"stream": ["a/b"]}}),
        'flows.bad.inputs.a.stream = ["a/b"] is not text: write text, in quotes if it has special '
        "characters, for example opcua-collector/line1 (flows.bad is not applied)",
    ),
    (
        flow(inputs={"a": {"stream": "preprocessor/bad"}}),
        'flows.bad.inputs.a.stream = "preprocessor/bad" makes a circle: bad takes from bad: break it '
        "at one of these flows (the flow does not run, or keeps running as it was)",
    ),
    (
        flow(inputs={"a": {"stream": "preprocessor/okk"}}),
        'flows.bad.inputs.a.stream = "preprocessor/okk" is a flow that there is not, or that has a '
        "mistake of its own: did you mean ok? (the flow does not run, or keeps running as it was)",
    ),
    (
        flow(inputs={"a": {"stream": "preprocessor/OK"}}),
        'flows.bad.inputs.a.stream = "preprocessor/OK" is a flow that there is not, or that has a '
        "mistake of its own: there are: bad, ok (the flow does not run, or keeps running as it was)",
    ),
    (
        flow(inputs={"a": {"stream": "preprocessor/*"}}),
        'flows.bad.inputs.a.stream = "preprocessor/*" is no flow: * never means flows of this '
        "component, so that nothing would ever come: name the flow, and give each an input of its "
        "own (the flow does not run, or keeps running as it was)",
    ),
    (
        {
            "flows": {
                "x": {"inputs": {"a": {"stream": "preprocessor/y"}}},
                "y": {"inputs": {"a": {"stream": "preprocessor/z"}}},
                "z": {"inputs": {"a": {"stream": "preprocessor/x"}}},
                "ok": {"inputs": INPUTS},
                "behind": {"inputs": {"a": {"stream": "preprocessor/x"}}},
            }
        },
        'flows.x.inputs.a.stream = "preprocessor/y" makes a circle: x takes from y takes from z '
        "takes from x: break it at one of these flows (the flow does not run, or keeps running as it "
        "was)",
    ),
    (
        step("report", tags=["{a"]),
        "flows.bad.steps.s.tags[0] = {a has a brace without its other: write {name} for what is to "
        "be captured (flows.bad is not applied)",
    ),
    (
        step("report", tags=[""]),
        'flows.bad.steps.s.tags[0] = "" is no pattern: write 1 to 256 characters, such as Reactor/* '
        "(flows.bad is not applied)",
    ),
    (
        step("report", tags=[]),
        "flows.bad.steps.s.tags = [] has too few entries: give 1 or more (flows.bad is not applied)",
    ),
    (
        step("report", tags={"a": 1}),
        'flows.bad.steps.s.tags = {"a": 1} is not a list: write a list such as [a, b], or leave it '
        'out for ["**"] (flows.bad is not applied)',
    ),
    (
        step("report", order=0),
        "flows.bad.steps.s.order = 0 is too small: use 1 or more (flows.bad is not applied)",
    ),
    (
        step("report", order="first"),
        'flows.bad.steps.s.order = "first" is not a whole number: write a whole number such as 5 '
        "(flows.bad is not applied)",
    ),
    (
        step("report", absolute=1, percentOfRange=2),
        'flows.bad.steps.s = {"type": "report", "absolute": 1, "percentOfRange": 2} has absolute and '
        "percentOfRange: give one of them; without any, every change passes (flows.bad is not "
        "applied)",
    ),
    (
        step("report", percentOfRange=2),
        'flows.bad.steps.s = {"type": "report", "percentOfRange": 2} needs percentOfRange and range '
        "together: give range, such as [0, 150], or leave both out (flows.bad is not applied)",
    ),
    (
        step("report", percentOfValue=2),
        'flows.bad.steps.s = {"type": "report", "percentOfValue": 2} needs percentOfValue and floor '
        "together: give floor, the least value that the percentage is taken of, such as 1.0: near 0 "
        "a percentage of the value would let everything pass (flows.bad is not applied)",
    ),
    (
        step("report", absolute=-1),
        "flows.bad.steps.s.absolute = -1 is too small: use 0.0 or more (flows.bad is not applied)",
    ),
    (
        step("report", minInterval="10s", maxInterval="5s"),
        'flows.bad.steps.s = {"type": "report", "minInterval": "10s", "maxInterval": "5s"} has a '
        "maxInterval that is not longer than minInterval: make maxInterval longer, such as 10m "
        "(flows.bad is not applied)",
    ),
    (
        step("compress"),
        'flows.bad.steps.s = {"type": "compress"} needs exactly one of deviation and percentOfRange: '
        "give deviation, in the unit of the tag (flows.bad is not applied)",
    ),
    (
        step("compress", deviation=0),
        "flows.bad.steps.s.deviation = 0 is too small: use more than 0.0 (flows.bad is not applied)",
    ),
    (
        step("range"),
        'flows.bad.steps.s = {"type": "range"} has no limit: give at least one of low, softLow, '
        "softHigh and high (flows.bad is not applied)",
    ),
    (
        step("range", low=5, high=1),
        'flows.bad.steps.s = {"type": "range", "low": 5, "high": 1} has low 5 and high 1: low must '
        "be below high (flows.bad is not applied)",
    ),
    (
        step("stuck"),
        "flows.bad.steps.s.for is required: add it, for example 10m (flows.bad is not applied)",
    ),
    (
        step("stuck", **{"for": "1m", "when": "Pump/Running"}),
        'flows.bad.steps.s.when = "Pump/Running" has the unknown name Pump at column 1: write tags '
        "in braces: {Pump} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("spike", window=2),
        "flows.bad.steps.s.window = 2 is too small: use 3 or more (flows.bad is not applied)",
    ),
    (
        step("spike", window="1m"),
        'flows.bad.steps.s.window = "1m" is not a whole number: write a whole number such as 5, or '
        "leave it out for 7 (flows.bad is not applied)",
    ),
    (
        step("rate"),
        "flows.bad.steps.s.limit is required: add it, for example 5.0 (flows.bad is not applied)",
    ),
    (
        step("rate", limit=0),
        "flows.bad.steps.s.limit = 0 is too small: use more than 0.0 (flows.bad is not applied)",
    ),
    (
        step("stale"),
        "flows.bad.steps.s.after is required: add it, for example 10m (flows.bad is not applied)",
    ),
    (
        step("stale", after="10ms"),
        'flows.bad.steps.s.after = "10ms" is too small: use 1s or more (flows.bad is not applied)',
    ),
    (
        step("context", start="{A}"),
        "flows.bad.steps.s.stop is required: add it (flows.bad is not applied)",
    ),
    (
        step("context", start="{A", stop="{B}"),
        "flows.bad.steps.s.start = {A has a brace without its other at column 1: write {tag name} "
        "(the flow does not run, or keeps running as it was)",
    ),
    (
        step("context", asset="{unit", start="{A}", stop="{B}"),
        "flows.bad.steps.s.asset = {unit has a brace without its other: write {name} for what is to "
        "be captured (the flow does not run, or keeps running as it was)",
    ),
    (
        step("context", start="{A}", stop="{B}", phases={"p": {"start": "{C} =="}}),
        "flows.bad.steps.s.phases.p.start = {C} == ends at column 7, where a value is missing: write "
        "the rest of it (the flow does not run, or keeps running as it was)",
    ),
    (
        step("context", start="true", stop="false"),
        'flows.bad.steps.s.start = "true" names no tag, so that it never changes: write tags in '
        "braces, such as {Run} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("context", start="{A}", stop="{B}", summary=["{"]),
        "flows.bad.steps.s.summary[0] = { has a brace without its other: write {name} for what is to "
        "be captured (flows.bad is not applied)",
    ),
    (
        step("alarm"),
        'flows.bad.steps.s = {"type": "alarm"} has no condition: give one of limits, rate, '
        "deviation, equals, stale and when, or bad: alarm (flows.bad is not applied)",
    ),
    (
        step("alarm", limits={"high": 1}, rate=3),
        'flows.bad.steps.s = {"type": "alarm", "limits": {"high": 1}, "rate": 3} has limits and '
        "rate: give one of them, and make another alarm of the other (flows.bad is not applied)",
    ),
    (
        step("alarm", limits={"high": 1, "low": 3}),
        'flows.bad.steps.s.limits = {"high": 1, "low": 3} has low 3 and high 1: low must be below '
        "high (flows.bad is not applied)",
    ),
    (
        step("alarm", limits={"hi": 1}),
        "flows.bad.steps.s.limits = {} has no limit: give at least one of lowLow, low, high and "
        "highHigh (flows.bad is not applied)",
    ),
    (
        step("alarm", limits={}),
        "flows.bad.steps.s.limits = {} has no limit: give at least one of lowLow, low, high and "
        "highHigh (flows.bad is not applied)",
    ),
    (
        step("alarm", deviation=5),
        'flows.bad.steps.s = {"type": "alarm", "deviation": 5} has only one of deviation and '
        "setpoint: give both: how far the value may be from what (flows.bad is not applied)",
    ),
    (
        step("alarm", when="{A} > "),
        "flows.bad.steps.s.when = {A} >  ends at column 7, where a value is missing: write the rest "
        "of it (the flow does not run, or keeps running as it was)",
    ),
    (
        step("alarm", limits={"high": 1}, message="{tg} is high"),
        'flows.bad.steps.s = {"type": "alarm", "limits": {"high": 1}, "message": "{tg} is high"} has '
        "{tg} in its message: what is put in: {tag}, {value}, {limit} and {asset} (flows.bad is not "
        "applied)",
    ),
    (
        step("alarm", limits={"high": 10, "low": 8}, hysteresis=3),
        'flows.bad.steps.s = {"type": "alarm", "limits": {"high": 10, "low": 8}, "hysteresis": 3} '
        "has a hysteresis as large as what is between its limits: give less than 2, what lies "
        "between the limits (flows.bad is not applied)",
    ),
    (
        step("alarm", limits={"high": 10}, inhibit="nott {A}"),
        'flows.bad.steps.s.inhibit = "nott {A}" has {A} at column 6, where an operator is expected: '
        "an expression is made of numbers, {tag names}, names, operators, functions and parentheses "
        "(the flow does not run, or keeps running as it was)",
    ),
    (
        step("alarm", when="'abc'"),
        "flows.bad.steps.s.when = \"'abc'\" names no tag, so that it never changes: write tags in "
        "braces, such as {Run} (the flow does not run, or keeps running as it was)",
    ),
    (
        step("alarm", limits={"high": 10}, priority=2000),
        "flows.bad.steps.s.priority = 2000 is too large: use 1000 or less (flows.bad is not applied)",
    ),
    (
        step("counter", rollover=0),
        "flows.bad.steps.s.rollover = 0 is too small: use more than 0.0 (flows.bad is not applied)",
    ),
    (
        step("counter", output="rate"),
        'flows.bad.steps.s.output = "rate" is not one of the allowed words: use one of: total, '
        "delta, both (flows.bad is not applied)",
    ),
    (
        step("totalize"),
        "flows.bad.steps.s.per is required: add it (flows.bad is not applied)",
    ),
    (
        step("totalize", per="hour"),
        'flows.bad.steps.s.per = "hour" is not one of the allowed words: use one of: s, min, h, d '
        "(flows.bad is not applied)",
    ),
    (
        step("totalize", per="h", reset="{A} = 1"),
        "flows.bad.steps.s.reset = {A} = 1 has = at column 5, where an operator is expected: write "
        "== to compare (the flow does not run, or keeps running as it was)",
    ),
    (
        step("aggregate"),
        'flows.bad.steps.s = {"type": "aggregate"} has no windows: give one of `window`, such as 1m, '
        "`while`, such as {Pump/Running}, and `by: batch` (flows.bad is not applied)",
    ),
    (
        step("aggregate", window="1m", by="batch"),
        'flows.bad.steps.s = {"type": "aggregate", "window": "1m", "by": "batch"} has more than one '
        "kind of windows: give one of `window`, such as 1m, `while`, such as {Pump/Running}, and "
        "`by: batch` (flows.bad is not applied)",
    ),
    (
        step("aggregate", window="1d", zone="Europe/Berln"),
        'flows.bad.steps.s.zone = "Europe/Berln" is no time zone that is known here: did you mean '
        "Europe/Berlin? (the flow does not run, or keeps running as it was)",
    ),
    (
        step("aggregate", window="7m", zone="Europe/Berlin"),
        'flows.bad.steps.s.window = "420s" does not go into a day of Europe/Berlin evenly: days, or '
        "a part of one such as 8h or 15m; or zone: UTC (the flow does not run, or keeps running as "
        "it was)",
    ),
    (
        step("aggregate", window="1m", slide="2m"),
        'flows.bad.steps.s.slide = "120s" leaves pauses between windows: at most 60s, as `window` '
        "(the flow does not run, or keeps running as it was)",
    ),
    (
        step("aggregate", window="1d", slide="100ms"),
        'flows.bad.steps.s.slide = "0.1s" puts a sample into more than 100 windows: at least 864s '
        "for windows of 86400s (the flow does not run, or keeps running as it was)",
    ),
    (
        step("aggregate", window="1m", functions=["avg"]),
        'flows.bad.steps.s.functions[0] = "avg" is not one of the allowed words: use one of: '
        "average, minimum, maximum, range, deviation, first, last, delta, sum, count, mean, "
        "integral, duration, transitions, percentGood; did you mean average? (flows.bad is not "
        "applied)",
    ),
    (
        step("aggregate", window="1m", functions="average"),
        'flows.bad.steps.s.functions = "average" is not a list: write a list such as [a, b], or '
        'leave it out for ["average", "minimum", "maximum", "percentGood"] (flows.bad is not applied)',
    ),
    (
        step("aggregate", window="1m", offset="-2m"),
        'flows.bad.steps.s.offset = "-2m" is not a duration: write a number with a unit: 500ms, 5s, '
        "2m, 1h or 7d (flows.bad is not applied)",
    ),
    (
        step("aggregate", **{"while": "{A} >"}),
        "flows.bad.steps.s.while = {A} > ends at column 6, where a value is missing: write the rest "
        "of it (the flow does not run, or keeps running as it was)",
    ),
    (
        step("aggregate", by="phase"),
        'flows.bad.steps.s.by = "phase" is not one of the allowed words: use one of: batch (flows.bad is not applied)',
    ),
    (
        step("aggregate", window="0s"),
        'flows.bad.steps.s.window = "0s" is too small: use 100ms or more (flows.bad is not applied)',
    ),
    (
        step("aggregate", window="60d"),
        'flows.bad.steps.s.window = "60d" is too large: use 32d or less (flows.bad is not applied)',
    ),
    (
        step("model", model="pmp"),
        'flows.bad.steps.s.model = "pmp" is a model that there is not, or that has a mistake of its '
        "own: there is none that can run: define it, or mend it first (the flow does not run, or "
        "keeps running as it was)",
    ),
    (
        step("model"),
        "flows.bad.steps.s.model is required: add it (flows.bad is not applied)",
    ),
    (
        model(derived={"p": {"expression": "flw*2"}}),
        'models.pump.derived.p.expression = "flw*2" has the unknown name flw at column 1: did you '
        "mean flow?; tags are written in braces: {flw} (no flow that uses the model takes it up)",
    ),
    (
        model(derived={"p": {"expression": "q*2"}, "q": {"expression": "p"}}),
        'models.pump.derived.p.expression = "q*2" makes a circle: p -> q -> p: break it at one of '
        "these (no flow that uses the model takes it up)",
    ),
    (
        model(members={"flow": {"match": "{instance}/Flow", "unit": "flurb"}}),
        "models.pump.members.flow.unit = \"flurb\" 'flurb' is no unit that is known: did you mean "
        "lbf.ft? (no flow that uses the model takes it up)",
    ),
    (
        model(members={"flow": {"match": "{instanc}/Flow"}}),
        "models.pump.members.flow.match = {instanc}/Flow does not say which instance a tag belongs "
        "to: put {instance} where its name stands, such as {instance}/Flow (no flow that uses the "
        "model takes it up)",
    ),
    (
        model(members={"flow": {"match": "{instance"}}),
        "models.pump.members.flow.match[0] has a brace without its other: write {name} for what is "
        "to be captured (models.pump is not applied)",
    ),
    (
        model(members={"flow": {}}),
        "models.pump has no instances: name them under instances, in a table, or give members a "
        "match (no flow that uses the model takes it up)",
    ),
    (
        model(instances={"P1": {"tags": {"flw": "a"}}}),
        'models.pump.instances.P1.tags.flw = "a" is no member of the model: use one of: flow; did '
        "you mean flow? (no flow that uses the model takes it up)",
    ),
    (
        model(values={"eff": 1}, instances={"P1": {"values": {"ef": 1}}}),
        "models.pump.instances.P1.values.ef is no constant of the model: use one of: eff; did you "
        "mean eff? (no flow that uses the model takes it up)",
    ),
    (
        model(values={"eff": "one"}),
        'models.pump.values.eff = "one" is not a number: write a number such as 5 or 0.5 (models.pump is not applied)',
    ),
    (
        model(instancesFile="nope.csv"),
        'models.pump.instancesFile = "nope.csv" cannot be read: No such file or directory: put the '
        "file there, readable for the component's user, or correct the path (no flow that uses the "
        "model takes it up)",
    ),
    (
        model(values={"flow": 1}),
        "models.pump.values.flow is the name of a member already: rename one of the two (no flow "
        "that uses the model takes it up)",
    ),
    (
        model(derived={"flow": {"expression": "1"}}),
        "models.pump.derived.flow is the name of a member already: rename one of the two (no flow "
        "that uses the model takes it up)",
    ),
    (
        model(asset="{site}/{instance}"),
        "models.pump.asset = {site}/{instance} has {site}, which is not captured in the pattern of "
        "every member: use one of: {instance}, {asset}; did you mean {instance}? (no flow that uses "
        "the model takes it up)",
    ),
    (
        {
            "models": {"pump": PUMP},
            "flows": {
                "ok": {"inputs": INPUTS},
                "bad": {"inputs": INPUTS, "steps": {"m": {"type": "model", "model": "Pump"}}},
            },
        },
        'flows.bad.steps.m.model = "Pump" is a model that there is not, or that has a mistake of its '
        "own: did you mean pump? (the flow does not run, or keeps running as it was)",
    ),
    (
        {
            "models": {"pump": PUMP, "Pump": PUMP},
            "flows": {
                "ok": {"inputs": INPUTS},
                "bad": {"inputs": INPUTS, "steps": {"m": {"type": "model", "model": "pump"}}},
            },
        },
        "models.Pump is the same name as pump to Greengrass, which ignores case: rename one of the "
        'two and remove this one with RESET "/models/Pump" (models.Pump is not applied)',
    ),
    (
        {"flows": {"ok": {"inputs": INPUTS}, "bad": {"inputs": INPUTS}, "Bad": {"inputs": INPUTS}}},
        "flows.Bad is the same name as bad to Greengrass, which ignores case: rename one of the two "
        'and remove this one with RESET "/flows/Bad" (flows.Bad is not applied)',
    ),
    (
        steps(s={"type": "report"}, S={"type": "report"}),
        "flows.bad.steps.S is the same name as s to Greengrass, which ignores case: rename one of "
        'the two and remove this one with RESET "/flows/bad/steps/S" (flows.bad is not applied)',
    ),
    (
        {"flows": {"ok": {"inputs": INPUTS}, "bad name": {"inputs": INPUTS}}},
        'flows["bad name"] is not usable as a name in topics: use 1 to 64 letters, digits, dots, '
        'hyphens and underscores, beginning with a letter or digit (flows["bad name"] is not applied)',
    ),
    (
        flow(mode="whileTrue"),
        'flows.bad = {"inputs": {"a": {"stream": "opcua-collector/line1"}}, "mode": "whileTrue"} has '
        "mode whileTrue without `when`: give `when`, an expression such as {Batch/Running} "
        "(flows.bad is not applied)",
    ),
    (
        flow(when="{A}"),
        'flows.bad = {"inputs": {"a": {"stream": "opcua-collector/line1"}}, "when": "{A}"} has '
        "`when`, but the mode that always sends: set mode: whileTrue, or leave `when` out (flows.bad "
        "is not applied)",
    ),
    (
        flow(mode="whiletrue"),
        'flows.bad = {"inputs": {"a": {"stream": "opcua-collector/line1"}}, "mode": "whileTrue"} has '
        "mode whileTrue without `when`: give `when`, an expression such as {Batch/Running} "
        "(flows.bad is not applied)",
    ),
    (
        flow(mode="whileTrue", when="{A"),
        "flows.bad.when = {A has a brace without its other at column 1: write {tag name} (the flow "
        "does not run, or keeps running as it was)",
    ),
    (
        flow(publish="change"),
        'flows.bad.publish = "change" is not one of the allowed words: use one of: all, changes, '
        "compressed; did you mean changes? (flows.bad is not applied)",
    ),
    (
        flow(maxFuture="100d"),
        'flows.bad.maxFuture = "100d" is too large: use 1d or less (flows.bad is not applied)',
    ),
    (
        flow(maxTags=0),
        "flows.bad.maxTags = 0 is too small: use 1 or more (flows.bad is not applied)",
    ),
    (
        step("quality", numbers="maybe"),
        'flows.bad.steps.s.numbers = "maybe" is neither true nor false: write true or false, or '
        "leave it out for false (flows.bad is not applied)",
    ),
    (
        step("quality", words={"X": "worse"}),
        'flows.bad.steps.s.words.X = "worse" is not one of the allowed words: use one of: good, '
        "uncertain, bad (flows.bad is not applied)",
    ),
    (
        step("quality", words=["X"]),
        'flows.bad.steps.s.words = ["X"] is not a map of settings: write key: value lines below it '
        "(flows.bad is not applied)",
    ),
    (
        step("quality", words={"X": "bad", "x ": "good"}),
        'flows.bad.steps.s = {"type": "quality", "words": {"X": "bad", "x ": "good"}} has \'x \' and '
        "'X', which are the same: case and blanks do not count: keep one (flows.bad is not applied)",
    ),
    (
        step("quality", uncertain="mark"),
        'flows.bad.steps.s.uncertain = "mark" is not one of the allowed words: use one of: pass, '
        "bad, drop, hold (flows.bad is not applied)",
    ),
    (
        step("rename"),
        "flows.bad.steps.s.rules is required: add it (flows.bad is not applied)",
    ),
    (
        step("rename", rules={}),
        "flows.bad.steps.s.rules = {} is not a list: write a list such as [a, b] (flows.bad is not applied)",
    ),
    (
        step("rename", rules={"r": {"match": "{a}/*", "tag": "{b}"}}),
        'flows.bad.steps.s.rules = {"r": {"match": "{a}/*", "tag": "{b}"}} is not a list: write a '
        "list such as [a, b] (flows.bad is not applied)",
    ),
    (
        step("rename", rules={"r": {"match": "{a}/*"}}),
        'flows.bad.steps.s.rules = {"r": {"match": "{a}/*"}} is not a list: write a list such as [a, '
        "b] (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[{"match": "{a}/x", "tag": "{a"}]),
        'flows.bad.steps.s.rules[0] = {"match": "{a}/x", "tag": "{a"} has a tag with a brace that '
        "belongs to nothing: write {name} for what was captured (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[{"match": "{a}/x", "tag": "{b}"}]),
        'flows.bad.steps.s.rules[0] = {"match": "{a}/x", "tag": "{b}"} has a tag with {b}, which '
        "match does not capture: use {a}, {tag}, {asset} (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[{"match": "{a}/x"}]),
        'flows.bad.steps.s.rules[0] = {"match": "{a}/x"} gives neither another tag nor another '
        "asset: write tag, asset or both (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[]),
        "flows.bad.steps.s.rules = [] has too few entries: give 1 or more (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[{"match": "{a", "tag": "{a}"}]),
        "flows.bad.steps.s.rules[0].match = {a has a brace without its other: write {name} for what "
        "is to be captured (flows.bad is not applied)",
    ),
    (
        step("convert", clamp=[1]),
        "flows.bad.steps.s.clamp = [1] has too few entries: give 2 or more (flows.bad is not applied)",
    ),
    (
        flow(inputs={f"i{n}": {"stream": "a/b"} for n in range(61)}),
        'flows.bad.inputs = {"i0": {"stream": "a/b"}, "i1": {"stream": "a/b"}, "i2": {"stream": '
        '"a/b"}, "i3": {"stream": "a/b"}, "i4": {"stream": "a… (1576 characters) has too many '
        "entries: give at most 60 (flows.bad is not applied)",
    ),
    (
        flow(checkpointInterval="10ms"),
        'flows.bad.checkpointInterval = "10ms" is too small: use 500ms or more (flows.bad is not applied)',
    ),
    (
        step("convert", gain="1,5"),
        'flows.bad.steps.s.gain = "1,5" has a decimal comma: write 1.5 (flows.bad is not applied)',
    ),
    (
        step("alarm", equals=[]),
        'flows.bad.steps.s = {"type": "alarm", "equals": []} has nothing in equals: give the values '
        "that are an alarm, such as [FAULT] (flows.bad is not applied)",
    ),
    (
        step("alarm", setpoint="{A}"),
        'flows.bad.steps.s = {"type": "alarm", "setpoint": "{A}"} has no condition: give one of '
        "limits, rate, deviation, equals, stale and when, or bad: alarm (flows.bad is not applied)",
    ),
    (
        step("alarm", rate=1, hysteresis=2),
        'flows.bad.steps.s = {"type": "alarm", "rate": 1, "hysteresis": 2} has a hysteresis that is '
        "not smaller than the limit: give less than 1: it never returns (flows.bad is not applied)",
    ),
    (
        step("convert", delta=True, gain=2),
        'flows.bad.steps.s = {"type": "convert", "delta": true, "gain": 2} has delta, but no unit to '
        "convert to: give to or units, or take delta out (flows.bad is not applied)",
    ),
    (
        step("convert", gain=0),
        'flows.bad.steps.s = {"type": "convert", "gain": 0} has a gain of 0, which makes every value '
        "the offset: write another gain, or leave it out (flows.bad is not applied)",
    ),
    (
        step("convert", raw=[5, 5], scaled=[0, 1]),
        'flows.bad.steps.s = {"type": "convert", "raw": [5, 5], "scaled": [0, 1]} has a raw range of '
        "one value: write its two ends: raw: [0, 65535] (flows.bad is not applied)",
    ),
    (
        step("convert", raw=[0, 5], scaled=[0, 1], gain=3),
        'flows.bad.steps.s = {"type": "convert", "raw": [0, 5], "scaled": [0, 1], "gain": 3} has raw '
        "and scaled, and gain or offset as well: keep one of the two: they say the same thing "
        "(flows.bad is not applied)",
    ),
    (
        step("convert", unit="bar", sourceUnit="kPa"),
        'flows.bad.steps.s = {"type": "convert", "unit": "bar", "sourceUnit": "kPa"} has unit and '
        "sourceUnit: with gain, offset or scaling keep unit, else sourceUnit: both say in which unit "
        "the value is (flows.bad is not applied)",
    ),
    (
        step("report", percentOfRange=1, range=[5, 1]),
        'flows.bad.steps.s = {"type": "report", "percentOfRange": 1, "range": [5, 1]} has a range '
        "that does not rise: write the lower end first: [0, 150] (flows.bad is not applied)",
    ),
    (
        step("compress", deviation=1, minInterval="8h", maxInterval="1h"),
        'flows.bad.steps.s = {"type": "compress", "deviation": 1, "minInterval": "8h", '
        '"maxInterval": "1h"} has a maxInterval that is not longer than minInterval: make '
        "maxInterval longer, such as 8h (flows.bad is not applied)",
    ),
    (
        step("alarm", stale="1m", hysteresis=1),
        'flows.bad.steps.s = {"type": "alarm", "stale": "1m", "hysteresis": 1} has a hysteresis, but '
        "no limit: leave out hysteresis, or give limits, rate or deviation (flows.bad is not applied)",
    ),
    (
        step("aggregate", by="batch", slide="1m"),
        'flows.bad.steps.s = {"type": "aggregate", "by": "batch", "slide": "1m"} has `slide` or '
        "`offset` without `window`: leave them out, or give `window` (flows.bad is not applied)",
    ),
    (
        step("quality", words={"": "bad"}),
        'flows.bad.steps.s = {"type": "quality", "words": {"": "bad"}} has a word of 0 characters: '
        "write words of 1 to 64 characters (flows.bad is not applied)",
    ),
    (
        step("report", exclude=["a}"]),
        'flows.bad.steps.s.exclude[0] = "a}" has a brace without its other: write {name} for what is '
        "to be captured (flows.bad is not applied)",
    ),
    (
        flow(inputs={"a": {"stream": "a/b", "backfill": "maybe"}}),
        'flows.bad.inputs.a.backfill = "maybe" is neither true nor false: write true or false, or '
        "leave it out for true (flows.bad is not applied)",
    ),
    (
        model(members={}),
        "models.pump.members = {} has too few entries: give 1 or more (models.pump is not applied)",
    ),
    (
        model(members={"flow": {}}, instances={"P1": {"tags": {"flow": "F"}}, "P2": {"tags": {"flow": "F"}}}),
        'models.pump.instances.P2.flow = "F" is flow of P1 already: a tag can be one member of one '
        "instance (no flow that uses the model takes it up)",
    ),
    (
        step("rename", rules=[{"match": "{tag}/x", "tag": "{tag}"}]),
        'flows.bad.steps.s.rules[0] = {"match": "{tag}/x", "tag": "{tag}"} captures {tag}, which '
        "means the old name: give what it captures another name (flows.bad is not applied)",
    ),
    (
        step("compress", deviation="1e-300"),
        'flows.bad.steps.s = {"type": "compress", "deviation": "1e-300"} has a deviation that is '
        "nearly 0: give the resolution of the sensor, such as 0.01 (flows.bad is not applied)",
    ),
    (
        step("rename", rules=[{"match": "{a}/x", "tag": "{a"}]),
        'flows.bad.steps.s.rules[0] = {"match": "{a}/x", "tag": "{a"} has a tag with a brace that '
        "belongs to nothing: write {name} for what was captured (flows.bad is not applied)",
    ),
]
