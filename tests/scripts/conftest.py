"""What the tests of the build share: an index of tiny wheels, a lock for it, and a repository made for both."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wheelhouse import ARCHITECTURES, PYTHONS, Target

ROOT = Path(__file__).resolve().parents[2]
MakeWheel = Callable[[Path, str], str]


@pytest.fixture(scope="session")
def make_wheel() -> MakeWheel:
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


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip sees of the world."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def lock(index: Path, tmp_path: Path, make_wheel: MakeWheel) -> Path:
    """`gauge` has a wheel per Python and architecture, `valve` one for all, `pump` is for Python 3.10 alone."""
    gauges = [
        make_wheel(index, f"gauge-1.0-cp{target.python.replace('.', '')}-cp{target.python.replace('.', '')}-{platform}")
        for target in [Target(python, architecture) for architecture in ARCHITECTURES for python in PYTHONS]
        for platform in [f"manylinux_2_17_{target.architecture}.manylinux2014_{target.architecture}"]
    ]
    valve = make_wheel(index, "valve-2.0-py3-none-any")
    pump = make_wheel(index, "pump-3.0-py3-none-any")
    path = tmp_path / "requirements.txt"
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in gauges)
    path.write_text(
        f"gauge==1.0 \\\n{hashes}\n"
        f"pump==3.0 ; python_full_version < '3.11' \\\n    --hash=sha256:{pump}\n"
        f"valve==2.0 \\\n    --hash=sha256:{valve}\n"
    )
    return path


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of wheels of every `tree`: each holds the same ones, to the byte, and fetching is what takes long."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture
def tree(tmp_path: Path, lock: Path, index: Path, make_wheel: MakeWheel, fetched: Path) -> Path:
    """A repository with one component, `level_gauge`, the Runtime, and much that does not belong on a device."""
    root = tmp_path / "repository"
    for folder, names in {
        "components/level_gauge": ["__init__.py", "__main__.py", "README.md", "notes.txt", "__pycache__/x.pyc"],
        "components/level_gauge/codec": ["__init__.py"],
        "components/runtime": ["README.md"],
        "shared/sluice": ["batch.py", "py.typed", "__pycache__/y.pyc"],
        "shared/plant": ["__init__.py"],
        "tests": ["test_all.py"],
    }.items():
        for name in names:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {folder}/{name}\n")
    (root / "shared/sluice/__init__.py").write_text('"""The library."""\n\n__version__ = "1.2.3"\n')
    for component in ("level_gauge", "runtime"):
        shutil.copy(lock, root / "components" / component / "requirements.txt")
    shutil.copytree(ROOT / "scripts/artifact", root / "scripts/artifact")
    pip = make_wheel(index, "pip-1.0-py3-none-any")
    (root / "scripts/artifact/installer.txt").write_text(f"pip==1.0 \\\n    --hash=sha256:{pip}\n")
    for name in ("LICENSE", "NOTICE", "recipe.yaml", "gdk-config.json"):
        shutil.copy(ROOT / name, root / name)
    (root / ".wheels").symlink_to(fetched)
    (root / "recipes").mkdir()
    needs_runtime = (
        "ComponentDependencies:\n"
        '  io.sluice.Runtime:\n    VersionRequirement: ">=1.2.0 <1.3.0"\n    DependencyType: SOFT\n'
    )
    for name, rest in (
        ("LevelGauge", needs_runtime + manifests("level-gauge")),
        ("Runtime", manifests("runtime")),
    ):
        (root / f"recipes/io.sluice.{name}.yaml").write_text(
            '---\nRecipeFormatVersion: "2020-01-25"\n'
            f'ComponentName: io.sluice.{name}\nComponentVersion: "1.2.3"\n{rest}'
        )
    return root


def manifests(component: str) -> str:
    return "Manifests:\n" + "".join(
        f"  - Artifacts:\n      - Uri: s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/sluice-{component}-{one}.zip\n"
        for one in ARCHITECTURES
    )
