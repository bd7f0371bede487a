"""System tests run what is deployed: the built zips, from their real recipes, in the local core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts and recipes of every component for this machine."""
    output = tmp_path_factory.mktemp("build") / "greengrass-build"
    command = [sys.executable, str(REPOSITORY / "scripts" / "build.py"), "--host-only", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return output
