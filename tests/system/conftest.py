"""System tests run what is deployed: the built zips, from their real recipes, in the local core.

Of each component's install only the long part is not repeated in every test: the environment venv/ that its install.sh
made once is there when a component installs, as on a gateway that starts again, and install.sh finds that it fits.
Tests that are marked `installs` begin with empty work folders, as a new gateway does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one worker makes, for all that test at the same time."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed: this one says why, too
            folder.mkdir()
            make(folder)
            (folder / "done").touch()
    return folder


def run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts and recipes of every component for this machine."""

    def make(folder: Path) -> None:
        script = REPOSITORY / "scripts" / "build.py"
        run([sys.executable, script, "--host-only", "--output", folder / "greengrass-build"], REPOSITORY)

    return once(tmp_path_factory, "build", make) / "greengrass-build"


@pytest.fixture(scope="session")
def environments(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per component a work folder in which its install.sh has run, from zips unpacked as the nuclei unpack them."""

    def make(folder: Path) -> None:
        zips = sorted((build / "artifacts").glob("*/*/*.zip"))
        unpacked = [folder / "unpacked" / path.relative_to(build / "artifacts").with_suffix("") for path in zips]
        for path, target in zip(zips, unpacked, strict=True):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target)
        for target in unpacked:
            work = folder / "work" / target.parents[1].name
            work.mkdir(parents=True)
            run(["/bin/sh", target / "install.sh"], work)

    return once(tmp_path_factory, "environments", make) / "work"


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The environments, in the work folders of the core that a test is going to start in its own folder.

    Their files are links: nobody writes into an environment that is complete, and bytecode is a file of its own.
    """
    if "build" not in request.fixturenames or request.node.get_closest_marker("installs"):
        return
    environments: Path = request.getfixturevalue("environments")
    for venv in environments.glob("*/venv"):
        target = tmp_path / "core" / "work" / venv.parent.name / "venv"
        shutil.copytree(venv, target, symlinks=True, copy_function=os.link)
