"""A component of somebody else's beside Sluice's own: examples/local-model, installed and run by its own recipe. Its
scores are exported like any other stream, and what it does or leaves undone holds nobody up."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from plant.log import LoggedRow, read_log
from plant.reconciliation import Delivered
from rehearsal import Rehearsal
from rehearsal.site import COLLECTOR

pytestmark = pytest.mark.system

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "local-model"
MODEL = "com.example.LocalModel"
LIMIT = 60.0
WEIGHT, LEARNS = 0.05, 50
TAG = "Unit1/Row"
"""A tag that has a new value in every row."""


def with_model(build: Path, folder: Path) -> Path:
    """What was built, and the example published beside it."""
    shutil.copytree(build / "recipes", folder / "recipes")
    shutil.copytree(build / "artifacts", folder / "artifacts", copy_function=os.link)
    recipe = yaml.safe_load((EXAMPLE / "recipe.yaml").read_text(encoding="utf-8"))
    version = recipe["ComponentVersion"]
    shutil.copy(EXAMPLE / "recipe.yaml", folder / "recipes" / f"{MODEL}-{version}.yaml")
    artifacts = folder / "artifacts" / MODEL / version
    artifacts.mkdir(parents=True)
    for name in ("model.py", "requirements.txt"):
        shutil.copy(EXAMPLE / name, artifacts / name)
    return folder


def scores_of(values: list[int]) -> Iterator[float]:
    """The score of each of a tag's values, from what the README says of it: over all that came before, the newest
    weighing most."""
    mean, variance = float(values[0]), 0.0
    for value in values:
        yield abs(value - mean) / variance**0.5 if variance else 0.0
        mean, variance = (
            (1 - WEIGHT) * mean + WEIGHT * value,
            (1 - WEIGHT) * variance + WEIGHT * (1 - WEIGHT) * (value - mean) ** 2,
        )


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_scores_of_a_guest_are_exported_and_every_sample_is_too(
    build: Path, tmp_path: Path, profile: str
) -> None:
    async with Rehearsal(tmp_path, with_model(build, tmp_path / "both"), profile=profile, rate=500, units=1) as device:
        site = device.demo_site()
        site["components"][MODEL] = {}
        await device.provide(site)
        await device.deploy(site)
        await device.start_production()

        def arrived() -> dict[str, list[Delivered]]:
            """The scores of the tag by the epoch that they are of, which are as many as the model's starts."""
            epochs: dict[str, list[Delivered]] = {}
            for one in device.deliveries()["kinesis"]():
                if one.tag == f"{TAG}.score":
                    epochs.setdefault(str(one.id).partition(".")[0], []).append(one)
            return epochs

        async def scored(epochs: int, samples: int) -> None:
            deadline = time.monotonic() + LIMIT
            while len(found := await asyncio.to_thread(arrived)) < epochs or len(list(found.values())[-1]) < samples:
                assert time.monotonic() < deadline, device.core.component(MODEL).log_tail()
                await asyncio.sleep(0.5)

        await scored(1, 2 * LEARNS)
        device.core.component(MODEL).kill()  # what it had and what comes meanwhile is not scored; it learns anew
        await scored(2, 10)
        assert device.plant is not None
        produced = await device.plant.finish()
        await device.drain(produced)
        epochs = arrived()
        log = {
            line.time_ns: int(str(line.values[TAG]))
            for line in read_log(device.plant.log)
            if isinstance(line, LoggedRow) and TAG in line.values
        }
        everything = {name: list(read()) for name, read in device.deliveries().items()}
    assert len(epochs) == 2
    for unordered in epochs.values():
        scores = sorted(unordered, key=lambda one: one.time_ns)
        times = [one.time_ns for one in scores]
        assert times == sorted(one for one in log if times[0] <= one <= times[-1]), "some are missing between others"
        expected = scores_of([log[one] for one in times])
        for number, (one, score) in enumerate(zip(scores, expected, strict=True)):
            assert one.value == pytest.approx(score, abs=0.0051), (number, one)
            assert one.quality == ("UNCERTAIN" if number < LEARNS else "GOOD"), (number, one)
    for name, delivered in everything.items():
        own = {(one.tag.removeprefix("site/area/line1/"), one.time_ns) for one in delivered if ".score" not in one.tag}
        assert len(own) == produced, name


def test_the_example_may_do_nothing_but_hear_its_source_and_publish_its_scores() -> None:
    recipe = yaml.safe_load((EXAMPLE / "recipe.yaml").read_text(encoding="utf-8"))
    defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    allowed = {
        (operation, resource)
        for service in defaults["accessControl"].values()
        for policy in service.values()
        for operation in policy["operations"]
        for resource in policy["resources"]
    }
    assert allowed == {
        ("aws.greengrass#PublishToTopic", f"sluice/data/{defaults['scores']}"),
        ("aws.greengrass#SubscribeToTopic", f"sluice/data/{defaults['source']}"),
    }
    assert COLLECTOR not in recipe["ComponentDependencies"], "it runs without the collector as well, and waits"


def test_the_example_is_as_short_as_it_is_said_to_be() -> None:
    code = [
        line for line in (EXAMPLE / "model.py").read_text(encoding="utf-8").splitlines() if line and not line.isspace()
    ]
    assert len(code) < 75
