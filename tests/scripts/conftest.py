from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_wheel() -> Callable[[Path, str], str]:
    """Writes a tiny but valid wheel, given its full name without `.whl`; returns its SHA-256."""

    def make(folder: Path, stem: str) -> str:
        name, version, python, abi, platform = stem.split("-")
        info = f"{name}-{version}.dist-info"
        tags = "".join(f"Tag: {python}-{abi}-{one}\n" for one in platform.split("."))
        pure = "true" if platform == "any" else "false"
        files = {
            f"{name}.py": f"VERSION = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n",
            f"{info}/licenses/LICENSE": "Do as you like.\n",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {pure}\n{tags}",
        }
        files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for file, text in files.items():
                wheel.writestr(zipfile.ZipInfo(file, (2020, 1, 1, 0, 0, 0)), text)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make
