"""The zips on a device that has nothing but a Python: no network, no compiler, no pip, no rights, no repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may pass through: pytest's own are closed."""
    made = Path(tempfile.mkdtemp(prefix="sluice-device-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_every_component_installs_and_runs_where_there_is_only_a_python(
    build: Path, folder: Path, profile: str
) -> None:
    recipes = {path.name.rsplit("-", 1)[0] for path in (build / "recipes").glob("io.sluice.*-*.yaml")}
    report = folder / "report.json"
    command = [
        sys.executable,
        str(Path(__file__).with_name("device.py")),
        str(build),
        str(folder),
        str(report),
        profile,
    ]
    paths = [str(REPOSITORY / "shared"), str(REPOSITORY / "tests" / "system")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(report.read_text())
    assert set(seen["states"]) == recipes, "not every component was deployed"
    assert set(seen["runs_as"].values()) == {seen["user"]}
    assert all(owners == [seen["user"]] for owners in seen["owners"].values()), seen["owners"]
    assert seen["interfaces"] == ["lo"]
    assert not {"pip", "gcc", "cc", "git", "curl"} & set(seen["path"])
    told = seen["report"]
    assert told["produced"] > 100, told
    for name, counts in told["destinations"].items():
        assert (counts["delivered"], counts["lost"], counts["duplicated"]) == (told["produced"], 0, 0), (name, counts)
    for name, made in seen["processed"].items():
        assert made["balances"], (name, made)
        assert made["exact"], (name, made)
