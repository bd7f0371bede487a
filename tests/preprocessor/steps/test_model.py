"""Tags become members of instances, in the units of the model, and derived tags follow them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from preprocessor.config import Model
from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.models import ResolvedModel, resolve
from preprocessor.step_settings import ModelSettings
from preprocessor.steps.model import ModelStep
from sluice.columns import Quality, Sample

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn

PUMP: dict[str, Any] = {
    "members": {
        "flow": {"unit": "m3/h", "match": "{instance}/Flow"},
        "pressure": {"unit": "bar", "match": "{instance}/Pressure"},
        "mode": {"optional": True, "match": "{instance}/Mode"},
    },
    "values": {"nameplate": 100},
    "derived": {
        "share": {"expression": "power / nameplate * 100", "unit": "%"},
        "power": {"expression": "flow * pressure / 36", "unit": "kW"},
        "auto": {"expression": "mode == 'AUTO'"},
        "automatic": {"expression": "flow if mode == 'AUTO' else 0"},
    },
    "asset": "{asset}/{instance}",
}


def resolved(**given_: Any) -> ResolvedModel:
    of = resolve(Model.model_validate({**PUMP, **given_}), "pump", Path())
    assert [str(problem) for problem in of.problems] == []
    return of


def made(of: ResolvedModel | None = None, **given_: Any) -> Pipeline:
    context = flow()
    step = ModelStep("model", settings(ModelSettings, type="model", model="pump", **given_), context, of or resolved())
    return pipeline(context, step)


def sample(tag: str, seconds: float, value: Any, **members: Any) -> Sample:
    return Sample(tag, at(seconds), value, **{"asset": "site", **members})


def found(outcome: Outcome) -> list[tuple[Any, ...]]:
    return sorted(((one.asset, one.tag, (one.time - at(0)) / 1e9, one.value) for one in samples(outcome)), key=str)


def test_members_get_name_place_and_unit() -> None:
    of = made()
    given_ = [
        sample("p1/Flow", 1, 60.0, unit="l/min"),
        sample("p1/Pressure", 1, 200, unit="kPa"),
        sample("Other", 1, 5.0, unit="kPa"),
    ]
    assert [(one.asset, one.tag, one.unit, one.value) for one in samples(feed(of, given_, 1))] == [
        ("site", "Other", "kPa", 5.0),
        ("site/p1", "flow", "m3/h", pytest.approx(3.6)),
        ("site/p1", "power", "kW", pytest.approx(0.2)),
        ("site/p1", "pressure", "bar", 2.0),
        ("site/p1", "share", "%", pytest.approx(0.2)),
    ]
    assert of.held == 0
    assert of.status()["ledger"]["made"] == 2


def test_patterns_do_not_find_what_a_wrong_row_of_a_table_was_about(tmp_path: Path) -> None:
    (tmp_path / "pumps.csv").write_text("instance,nameplate\np1,much\np2,50\n")
    table = Model.model_validate({**PUMP, "instancesFile": "pumps.csv"})
    of = made(resolve(table, "pump", tmp_path))
    out = feed(of, [sample(f"{name}/Flow", 1, 1.0) for name in ("p1", "p2", "p3")], 1)
    assert found(out) == [
        ("site", "p1/Flow", 1.0, 1.0),  # its nameplate is not 100
        ("site/p2", "flow", 1.0, 1.0),
        ("site/p3", "flow", 1.0, 1.0),
    ]
    assert of.held == 0


@pytest.mark.parametrize("tag", ["flow", "power"])
def test_another_tag_by_the_name_of_one_that_is_made_is_a_problem(tag: str) -> None:
    of = made()
    feed(of, [sample("p1/Flow", 1, 36.0), sample("p1/Pressure", 1, 1.0), sample("share", 1, 1.0)], 1)
    assert of.flow.problems == {}
    feed(of, [sample(tag, 2, 5.0, asset="site/p1")], 2)
    assert list(of.flow.problems) == [f"steps.model.p1.{tag}"]
    assert of.held == 0


def test_others_can_be_dropped() -> None:
    of = made(others="drop")
    assert found(feed(of, [sample("p1/Flow", 1, 6.0), sample("Other", 1, 5.0)], 1)) == [("site/p1", "flow", 1.0, 6.0)]
    assert of.status()["steps"]["model"]["other"] == 1
    assert of.held == 0


def test_derived_tags_follow_each_of_their_members() -> None:
    of = made()
    out = feed(of, [sample("p1/Flow", 1, 36.0), sample("p1/Pressure", 2, 1.0), sample("p1/Pressure", 4, 2.0)], 4)
    assert [row for row in found(out) if row[1] == "power"] == [
        ("site/p1", "power", 2.0, 1.0),
        ("site/p1", "power", 4.0, 2.0),
    ]
    out = feed(
        of,
        [sample("p1/Flow", 5, 72.0), sample("p1/Mode", 5, "AUTO"), sample("p1/Flow", 6, None, quality=Quality.BAD)],
        6,
    )
    assert [row for row in found(out) if row[1] not in ("flow", "mode", "share")] == [
        ("site/p1", "auto", 5.0, True),
        ("site/p1", "automatic", 5.0, 72.0),
        ("site/p1", "automatic", 6.0, None),
        ("site/p1", "power", 5.0, 4.0),
        ("site/p1", "power", 6.0, None),
    ]
    assert of.held == 0


def test_late_samples_give_late_derived_ones_with_the_values_of_then() -> None:
    of = made()
    feed(of, [sample("p1/Flow", 1, 36.0), sample("p1/Pressure", 1, 1.0), sample("p1/Flow", 10, 72.0)], 10)
    out = feed(of, [sample("p1/Pressure", 5, 3.0), sample("p1/Flow", 7, 36.0), sample("p1/Pressure", 12, 2.0)], 12)
    assert [row[2:] for row in found(out) if row[1] == "power"] == [(12.0, 4.0), (5.0, 6.0), (7.0, 3.0)]
    again = of.turn(batch([sample("p1/Flow", 3, 36.0)], stream="plant/line/backfill"), turn(13))
    assert again.live == []
    assert {one.tag for columns in again.backfill for one in columns.samples()} == {"flow", "power", "share"}


def test_instances_may_have_their_own_constants_and_tags() -> None:
    instances = {
        "p1": {"asset": "plant/pump-1", "tags": {"flow": "site/FI1", "pressure": "PI1"}, "values": {"nameplate": 10}},
        "p2": {},
    }
    of = made(resolved(instances=instances))
    given_ = [sample("FI1", 1, 36.0), sample("PI1", 1, 1.0), sample("p2/Flow", 1, 36.0), sample("p2/Pressure", 1, 1.0)]
    assert [
        row for row in found(feed(of, [*given_, sample("p1/Flow", 1, 9.0)], 1)) if row[1] in ("share", "p1/Flow")
    ] == [
        ("plant/pump-1", "share", 1.0, 10.0),
        ("site", "p1/Flow", 1.0, 9.0),  # p1 says that another tag is its flow
        ("site/p2", "share", 1.0, 1.0),
    ]


def test_a_stray_text_costs_itself() -> None:
    of = made()
    feed(of, [sample(f"p{number}/{tag}", 1, 36.0) for number in (1, 2) for tag in ("Flow", "Pressure")], 1)
    out = feed(of, [sample("p1/Flow", 2, "Bad"), sample("p2/Flow", 2, 72.0)], 2)
    assert [row for row in found(out) if row[1] == "power"] == [
        ("site/p1", "power", 2.0, None),
        ("site/p2", "power", 2.0, 72.0),
    ]
    assert [row for row in found(feed(of, [sample("p1/Flow", 3, 1.0)], 3)) if row[1] == "power"] == [
        ("site/p1", "power", 3.0, 1.0)
    ]


def test_a_unit_that_does_not_fit_is_bad_and_told_until_it_fits() -> None:
    of = made()
    (out,) = samples(feed(of, [sample("p1/Flow", 1, 5.0, unit="degC")], 1))
    assert (out.tag, out.value, out.quality, out.status) == ("flow", None, Quality.BAD, "unit-mismatch")
    problem, remedy = of.flow.problems["steps.model.p1.flow"]
    assert "p1/Flow" in problem
    assert remedy
    (out,) = samples(feed(of, [sample("p1/Flow", 2, 5.0, unit="m3/h")], 2))
    assert (out.value, out.quality, of.flow.problems) == (5.0, Quality.GOOD, {})


def test_two_tags_for_one_place_and_two_instances_at_one_path_are_told() -> None:
    members = {"flow": {"match": ["{instance}/Flow", "{instance}.PV"]}}
    of = made(resolved(members=members, derived={}, asset=""))
    feed(of, [sample("p1/Flow", 1, 1.0), sample("p1.PV", 1, 2.0), sample("p2/Flow", 1, 3.0)], 1)
    assert of.flow.problems == {
        "steps.model.p1.flow": (
            "is site/p1/Flow already, and site/p1.PV as well",
            "write a pattern that tells them apart, or name the tags of this instance",
        ),
        "steps.model.p2": (
            "has the asset path site, which p1 has already",
            "put {instance} into the model's asset, such as {asset}/{instance}",
        ),
    }


def test_all_tags_of_an_instance_agree_about_what_is_captured() -> None:
    members = {"flow": {"match": "{area}/{instance}/Flow"}, "speed": {"match": "{area}/{instance}/Speed"}}
    of = made(resolved(members=members, derived={}, asset="site/{area}/{instance}"))
    given_ = [sample("north/p1/Flow", 1, 1.0, asset=""), sample("south/p1/Speed", 1, 2.0, asset="")]
    assert found(feed(of, given_, 1)) == [("", "south/p1/Speed", 1.0, 2.0), ("site/north/p1", "flow", 1.0, 1.0)]
    assert "it says area south" in of.flow.problems["steps.model.p1.speed"][0]


def test_a_member_that_does_not_come_is_a_problem_with_the_nearest_tag() -> None:
    of = made(resolved(instances={"p9": {"asset": "site/p9", "tags": {"flow": "P9/Flow", "pressure": "P9/Pressure"}}}))
    feed(of, [sample("p1/Flow", 0, 1.0), sample("P9/Flow", 0, 1.0), sample("P9/Presure", 0, 1.0)], 0)
    feed(of, [], 59)
    assert of.flow.problems == {}
    feed(of, [], 65)
    assert of.flow.problems == {
        "steps.model.p9.pressure": (
            "has not come: instance p9 of model pump expects P9/Pressure", "did you mean P9/Presure?"
        ),
        "steps.model.p1.pressure": (
            "has not come: instance p1 of model pump expects p1/Pressure", "did you mean P9/Presure?"
        ),
    }  # fmt: skip
    feed(of, [sample("P9/Pressure", 70, 1.0)], 70)
    assert list(of.flow.problems) == ["steps.model.p1.pressure"]


@pytest.mark.parametrize(
    ("derived", "place", "problem"),
    [
        ({"x": {"expression": "flw * 2"}}, "models.pump.derived.x.expression", "flw"),
        (
            {"x": {"expression": "y + 1"}, "y": {"expression": "x + flow"}},
            "models.pump.derived.x.expression",
            "x -> y -> x",
        ),
        ({"x": {"expression": "{site/Temp} + flow"}}, "models.pump.derived.x.expression", "{site/Temp}"),
        ({"x": {"expression": "prev(flow)"}}, "models.pump.derived.x.expression", "prev"),
        ({"x": {"expression": "nameplate * 2"}}, "models.pump.derived.x.expression", "names no member"),
        ({"x": {"expression": "flow", "unit": "m3/g"}}, "models.pump.derived.x.unit", "m3/g"),
    ],
)
def test_what_cannot_be_derived_is_refused_with_its_place(derived: Any, place: str, problem: str) -> None:
    model = Model.model_validate({**PUMP, "derived": derived})
    (told,) = resolve(model, "pump", Path()).problems
    assert (told.path, problem in told.problem) == (place, True)
    assert told.remedy
    with pytest.raises(Refusal) as refused:
        ModelStep(
            "model", settings(ModelSettings, type="model", model="pump"), flow(), ResolvedModel("pump", model, {})
        )
    assert refused.value.place == place


# --- against a slow reference, with restarts ---

ROWS = st.tuples(
    st.sampled_from(["p1", "p2"]),
    st.sampled_from(["Flow", "Pressure", "Mode"]),
    st.integers(0, 12),
    st.one_of(st.integers(-3, 3).map(float), st.none(), st.just("AUTO")),
)


def given_rows(rows: list[tuple[str, str, int, Any]]) -> list[Sample]:
    return [
        sample(f"{name}/{tag}", time, value, quality=Quality.BAD if value is None else Quality.GOOD)
        for name, tag, time, value in rows
    ]


@example_settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ROWS, max_size=8), max_size=6))
def test_derived_values_agree_with_a_slow_reference(turns: list[list[tuple[str, str, int, Any]]]) -> None:
    """Turn after turn in order of time: every sample is newer than those of the turns before."""
    of = made()
    last: dict[tuple[str, str], Any] = {}
    for number, rows in enumerate(turns):
        rows = list({row[:3]: row for row in rows}.values())
        shifted = [(name, tag, 20 * number + time, value) for name, tag, time, value in rows]
        out = feed(of, given_rows(shifted), 20 * number)
        expected: dict[tuple[str, float], Any] = {}
        for name, time in sorted({(row[0], row[2]) for row in shifted}):
            came = [(tag, value) for one, tag, when, value in shifted if (one, when) == (name, time)]
            for tag, value in came:
                last[name, tag] = value
            if {"Flow", "Pressure"} & {tag for tag, _ in came} and {(name, "Flow"), (name, "Pressure")} <= last.keys():
                one, other = last[name, "Flow"], last[name, "Pressure"]
                known = isinstance(one, float) and isinstance(other, float)
                expected[f"site/{name}", float(time)] = one * other / 36 if known else None
        power = {(asset, time): value for asset, tag, time, value in found(out) if tag == "power"}
        assert power.keys() == expected.keys()
        for key, value in power.items():
            assert value == (None if expected[key] is None else pytest.approx(expected[key], rel=1e-12))
        assert of.held == 0


@example_settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(ROWS, max_size=8), max_size=6), st.integers(0, 6))
def test_a_restart_changes_nothing(turns: list[list[tuple[str, str, int, Any]]], cut: int) -> None:
    def run(cut: int) -> tuple[list[Any], Any]:
        of = made(resolved(instances={"p2": {}}))
        gave: list[Any] = []
        for number, rows in enumerate([*turns, []]):
            if number == cut:
                saved = of.save()
                of = made(resolved(instances={"p2": {}}))
                assert of.load(saved) == []
                assert of.save() == saved
            gave.append(samples(feed(of, given_rows(rows), 30 * number)))
        return gave, of.save()

    assert run(cut) == run(-1)


def test_state_goes_on_under_another_model() -> None:
    of = made()
    feed(of, [sample(f"{name}/{tag}", 1, 36.0) for name in ("p1", "p2") for tag in ("Flow", "Pressure")], 1)
    members = {"pressure": PUMP["members"]["pressure"], "flow": PUMP["members"]["flow"], "mode": {"optional": True}}
    again = made(resolved(members=members, instances={"p2": {}}, derived={"power": PUMP["derived"]["power"]}))
    assert again.load(of.save()) == []
    out = found(feed(again, [sample("p2/Flow", 2, 72.0), sample("p1/Flow", 2, 1.0)], 2))
    assert [row for row in out if row[1] == "power"] == [
        ("site/p1", "power", 2.0, 1.0),
        ("site/p2", "power", 2.0, 72.0),
    ]
