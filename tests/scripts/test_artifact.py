"""What `install.sh` and `run.sh` promise on a device: offline, once, whole or not at all, and in words.

The artifacts here are tiny, a component and the Runtime beside it as nuclei unpack them, with the real pip; the last
tests install the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import build
from artifact import install_packages
from wheelhouse import PYTHONS, collect, read_lock

ROOT = Path(__file__).resolve().parents[2]
MakeWheel = Callable[[Path, str], str]

THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROCESSES = sorted(
    one.name for path in ROOT.glob("recipes/*.yaml") if (one := build.read_recipe(path)).name != build.RUNTIME
)
"""The components that run."""

LIMIT = 300.0
"""Seconds after which something hangs; an install takes a few, on a machine with nothing else to do."""

TOOLS = ("cat", "dirname", "mkdir", "rm", "sh", "tail")
"""All that the scripts may call beside the shell's own commands."""


@dataclass(frozen=True)
class Device:
    """A component's unpacked artifact, an empty work folder, and a PATH with nothing on it but a shell's tools."""

    artifact: Path
    work: Path
    bin: Path

    @property
    def unpacked(self) -> Path:
        """Where the nucleus unpacks the artifacts of all components."""
        return self.artifact.parents[2]

    def runtime(self, version: str = "0.1.0") -> Path:
        """The unpacked artifact of a Runtime."""
        return self.unpacked / build.RUNTIME / version / "sluice-runtime-x86_64"

    def start(self, script: str | Path, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / "sh"), str(self.artifact / script)],
            cwd=self.work,
            env={"PATH": str(self.bin), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, script: str | Path, **variables: str) -> tuple[int, str]:
        process = self.start(script, **variables)
        output, _ = process.communicate(timeout=LIMIT)
        return process.returncode, output

    def install(self, **variables: str) -> None:
        status, output = self.call("install.sh", **variables)
        assert status == 0, output

    def python(self, name: str, script: str | None = None) -> None:
        """Puts a Python on PATH: this test's own, or a shell script in its place."""
        path = self.bin / name
        if script is None:
            base = Path(sys.base_prefix) / "bin" / f"python{THIS_PYTHON}"
            assert base.exists(), f"{base} is not there"
            path.symlink_to(base)
        else:
            path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
            path.chmod(0o755)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir())


def make_device(folder: Path, make_wheel: MakeWheel) -> Device:
    artifact = folder / "artifacts unarchived" / "io.sluice.LevelGauge" / "1.2.3" / "sluice-level-gauge-x86_64"
    made = Device(artifact, folder / "work of it", folder / "bin")
    files = {
        artifact / "level_gauge/__init__.py": "",
        artifact / "level_gauge/__main__.py": (
            "import gauge, json, os, sluice, sys\n"
            "if __name__ == '__main__':\n"
            "    print(json.dumps([gauge.VERSION, sys.path, os.getpid(), sys.prefix, sys.flags.no_user_site]))\n"
        ),
        artifact / "sluice/__init__.py": "",
    }
    for script in ("install.sh", "run.sh", "python.sh", "install_packages.py"):
        text = (ROOT / "scripts/artifact" / script).read_text().replace("@PYTHONS@", " ".join(PYTHONS))
        files[artifact / script] = text.replace("@PACKAGE@", "level_gauge")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    add_runtime(made, "0.1.0")
    require(made, make_wheel, "1.0")
    made.work.mkdir()
    made.bin.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (made.bin / tool).symlink_to(found)
    return made


def add_runtime(device: Device, version: str) -> None:
    """Unpacks a Runtime beside the component: pip, and no wheel yet."""
    [pip] = collect(ROOT / "scripts/artifact/installer.txt", build.host(), ROOT / ".wheels")
    runtime = device.runtime(version)
    for folder in ("installer", "wheels"):
        (runtime / folder).mkdir(parents=True)
    (runtime / "installer" / pip.name).symlink_to(pip)


@pytest.fixture
def device(tmp_path: Path, make_wheel: MakeWheel) -> Device:
    return make_device(tmp_path, make_wheel)


@pytest.fixture(scope="module")
def first_installed(tmp_path_factory: pytest.TempPathFactory, make_wheel: MakeWheel) -> Device:
    made = make_device(tmp_path_factory.mktemp("installed"), make_wheel)
    made.python(f"python{THIS_PYTHON}")
    made.install()
    return made


@pytest.fixture
def installed(first_installed: Device, tmp_path: Path) -> Device:
    """A device on which the component was installed (a copy of one: an environment may be moved)."""
    copy = Device(*(tmp_path / part.relative_to(first_installed.bin.parent) for part in astuple(first_installed)))
    shutil.copytree(first_installed.bin.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    return copy


def require(device: Device, make_wheel: MakeWheel, version: str, runtime: str = "0.1.0") -> None:
    """Makes the component need this version of `gauge`, and a Runtime carry it."""
    digest = make_wheel(device.runtime(runtime) / "wheels", f"gauge-{version}-py3-none-any")
    (device.artifact / "requirements.txt").write_text(
        f"gauge=={version} \\\n    --hash=sha256:{digest}\n"
        "absent==1.0 ; python_full_version < '3.10' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    )


def test_an_installed_component_runs_from_its_own_folders_alone(installed: Device) -> None:
    (installed.work / "sluice.py").write_text("raise SystemExit('a file of the work folder was imported')\n")
    process = installed.start("run.sh", PYTHONPATH="/elsewhere", PYTHONHOME="/elsewhere")
    output, _ = process.communicate(timeout=LIMIT)
    version, path, pid, prefix, no_user_site = json.loads(output)
    assert version == "1.0"
    assert pid == process.pid, "the shell must become the component, or a stop would reach the shell alone"
    assert prefix == str(installed.work / "venv")
    assert str(installed.artifact) in path
    assert no_user_site
    assert not [one for one in path if "elsewhere" in one]
    assert installed.names() == ["sluice.py", "venv"], "nothing temporary stays behind"


def test_a_second_install_finds_everything_done_and_is_over_at_once(installed: Device) -> None:
    made = (installed.work / "venv/stamp").stat().st_mtime_ns
    shutil.rmtree(installed.unpacked / build.RUNTIME)
    assert installed.call("install.sh") == (0, ""), "it would fail if it looked for a wheel or started pip"
    assert (installed.work / "venv/stamp").stat().st_mtime_ns == made


def test_a_new_lock_makes_a_new_environment(installed: Device, make_wheel: MakeWheel) -> None:
    require(installed, make_wheel, "1.1")
    installed.install()
    assert json.loads(installed.call("run.sh")[1])[0] == "1.1"


def test_an_environment_whose_python_is_gone_is_made_again(installed: Device) -> None:
    interpreter = installed.work / "venv/bin/python"
    interpreter.unlink()
    interpreter.symlink_to("/nonexistent/python")
    installed.install()
    assert json.loads(installed.call("run.sh")[1])[0] == "1.0"


def test_a_wheel_that_the_lock_does_not_know_is_refused_and_the_old_environment_stays(
    installed: Device, make_wheel: MakeWheel
) -> None:
    require(installed, make_wheel, "1.1")
    with zipfile.ZipFile(installed.runtime() / "wheels/gauge-1.1-py3-none-any.whl", "a") as wheel:
        wheel.writestr("smuggled.py", "")
    status, output = installed.call("install.sh")
    assert status != 0
    assert output.endswith("take io.sluice.Runtime out of the deployment, and then deploy it again\n"), output
    assert "gauge" in output
    assert installed.names() == ["venv"]
    assert json.loads(installed.call("run.sh")[1])[0] == "1.0"


def test_an_install_that_is_killed_leaves_no_environment_and_the_next_one_tidies_up(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    first = device.start("install.sh")
    limit = time.monotonic() + LIMIT
    while not list(device.work.glob("venv.new.*/pyvenv.cfg")):
        assert time.monotonic() < limit, f"nothing begins: {device.names()}"
        assert first.poll() is None, f"over already: {device.names()}"
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=LIMIT)
    assert device.names() == [f"venv.new.{first.pid}"]
    device.install()
    assert device.names() == ["venv"]


def test_an_install_that_is_told_to_stop_leaves_nothing(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    process = device.start("install.sh")
    limit = time.monotonic() + LIMIT
    while not list(device.work.glob("venv.new.*")):
        assert time.monotonic() < limit, f"nothing begins: {device.names()}"
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert device.names() == []


def test_two_installs_at_once_leave_one_whole_environment(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    both = [device.start("install.sh"), device.start("install.sh")]
    for process in both:
        process.communicate(timeout=LIMIT)
    device.install()
    assert device.names() == ["venv"]
    assert json.loads(device.call("run.sh")[1])[0] == "1.0"


def test_a_name_on_path_that_does_not_run_is_passed_over(device: Device) -> None:
    device.python("python3.13", "echo 'pyenv: version 3.13 is not installed' >&2; exit 127")
    device.python("python3.12", "kill -9 $$")
    device.python("python3")
    device.install()
    assert (device.work / "venv/stamp").read_text().split()[1] == THIS_PYTHON


def test_the_next_folder_of_path_is_asked_when_the_first_has_only_a_shim(device: Device, tmp_path: Path) -> None:
    (tmp_path / "shims").mkdir()
    shim = tmp_path / "shims" / f"python{THIS_PYTHON}"
    shim.write_text(f"#!{device.bin}/sh\nexit 127\n")
    shim.chmod(0o755)
    device.python(f"python{THIS_PYTHON}")
    device.install(PATH=f"{tmp_path}/shims:{device.bin}")


def bare_python(device: Device, folder: Path, without: Sequence[str]) -> None:
    """Puts a Python on PATH whose standard library lacks modules, and which has no packages: links to this one's."""
    (folder / "bin").mkdir(parents=True)
    library = folder / "lib" / f"python{THIS_PYTHON}"
    library.mkdir(parents=True)
    base = Path(sys.base_prefix)
    for entry in (base / "lib").iterdir():
        if entry.name != library.name:
            (library.parent / entry.name).symlink_to(entry)
    for entry in (base / "lib" / library.name).iterdir():
        if entry.name.split(".")[0] not in (*without, "site-packages", "dist-packages", "sitecustomize"):
            (library / entry.name).symlink_to(entry)
    python = folder / "bin" / f"python{THIS_PYTHON}"
    shutil.copy(base / "bin" / python.name, python)  # a copy: Python looks for its library beside the real file
    (device.bin / python.name).symlink_to(python)


def test_a_python_without_ensurepip_is_enough(device: Device, tmp_path: Path) -> None:
    """Debian's python3 as it comes: ensurepip is in python3-venv, distutils in python3-distutils, pip in neither."""
    bare_python(device, tmp_path / "bare", ["ensurepip", "distutils", "lib2to3", "idlelib", "tkinter", "test"])
    python = [str(device.bin / f"python{THIS_PYTHON}"), "-I", "-c"]
    assert subprocess.run([*python, "import ensurepip"], capture_output=True, check=False).returncode != 0
    device.install()
    assert json.loads(device.call("run.sh")[1])[0] == "1.0"


def test_a_python_without_venv_is_passed_over_with_the_package_that_has_it(device: Device, tmp_path: Path) -> None:
    """Debian's python3-minimal."""
    bare_python(device, tmp_path / "bare", ["venv"])
    status, output = device.call("install.sh")
    assert status == 1
    advice = f"lacks the module venv; on Debian or Ubuntu: apt-get install python{THIS_PYTHON}"
    assert f"{device.bin}/python{THIS_PYTHON} {advice}\n" in output
    assert device.names() == []


def test_an_artifact_of_which_something_is_missing_fails_at_its_install(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    shutil.rmtree(device.artifact / "sluice")
    status, output = device.call("install.sh")
    assert status != 0
    assert "No module named 'sluice'" in output
    assert device.names() == []


def test_the_bytecode_of_what_is_used_comes_with_the_environment_and_a_start_writes_none(installed: Device) -> None:
    before = {path: path.stat().st_mtime_ns for path in installed.bin.parent.rglob("*.pyc")}
    assert {path.name.split(".")[0] for path in before} == {"__init__", "__main__", "gauge"}
    [torn] = [path for path in before if path.name.startswith("gauge.")]
    torn.unlink()
    assert json.loads(installed.call("run.sh")[1])[0] == "1.0"
    assert set(installed.bin.parent.rglob("*.pyc")) == before.keys() - {torn}


def test_without_a_usable_python_it_says_what_was_found_and_what_is_needed(device: Device) -> None:
    device.python("python3.12", "echo 'python3.12: cannot execute' >&2; exit 126")
    device.python("python3", "echo 'is Python 3.9' >&2; exit 1")
    status, output = device.call("install.sh")
    assert status == 1
    assert "It needs one of: 3.13 3.12 3.11 3.10, with its standard library" in output
    assert f"{device.bin}/python3.12 python3.12: cannot execute" in output
    assert f"{device.bin}/python3 is Python 3.9" in output
    assert device.names() == []


def test_an_unsupported_python_is_called_by_its_version(device: Device) -> None:
    script = device.artifact / "python.sh"
    script.write_text(script.read_text().replace(f'pythons="{" ".join(PYTHONS)}"', 'pythons="3.99"'))
    device.python("python3")
    status, output = device.call("install.sh")
    assert status == 1
    assert f"{device.bin}/python3 is Python {THIS_PYTHON}" in output


@pytest.mark.parametrize("damage", ["the Python is gone", "the environment is gone"])
def test_an_environment_that_went_since_it_was_installed_is_made_again_at_the_start(
    installed: Device, damage: str
) -> None:
    """Nucleus lite runs the install step when something is deployed, and not when it starts."""
    if damage == "the Python is gone":
        (installed.work / "venv/bin/python").unlink()
        (installed.work / "venv/bin/python").symlink_to("/nonexistent/python")
    else:  # the power was cut while the old one made room for the new one
        (installed.work / "venv").rename(installed.work / "venv.old.99999999")
    status, output = installed.call("run.sh")
    assert status == 0, output
    assert json.loads(output.splitlines()[-1])[0] == "1.0"
    assert installed.names() == ["venv"]


def test_a_start_without_an_environment_that_cannot_make_one_says_why(device: Device) -> None:
    status, output = device.call("run.sh")
    assert status == 1
    assert "run: there is no venv with a Python in " in output
    assert "install: no Python that can run this" in output


def test_what_a_killed_install_left_behind_goes_also_when_the_environment_is_whole(installed: Device) -> None:
    for name in ("venv.new.99999999", "venv.old.99999998"):
        (installed.work / name / "lib").mkdir(parents=True)
    assert installed.call("install.sh") == (0, "")
    assert installed.names() == ["venv"]


# --- the Runtime beside it ------------------------------------------------------------------------------------------


def test_without_a_runtime_it_says_which_component_is_missing_and_where(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    shutil.rmtree(device.unpacked / build.RUNTIME)
    status, output = device.call("install.sh")
    assert status != 0
    assert "install: io.sluice.Runtime, which carries the packages that components run on, is not there" in output
    assert f"{device.unpacked}/io.sluice.Runtime/<version>" in output
    assert "Deploy it along with the component." in output
    assert device.names() == []


def test_a_package_that_no_runtime_carries_is_named_with_the_remedy(device: Device, make_wheel: MakeWheel) -> None:
    device.python(f"python{THIS_PYTHON}")
    require(device, make_wheel, "1.1")
    (device.runtime() / "wheels/gauge-1.1-py3-none-any.whl").unlink()
    status, output = device.call("install.sh")
    assert status != 0
    expected = f"install: io.sluice.Runtime 0.1.0 does not carry gauge==1.1 for Python {THIS_PYTHON}: "
    assert f"{expected}deploy components and io.sluice.Runtime of one release\n" in output
    assert device.names() == []


def test_wheels_are_taken_from_whichever_runtime_has_them(device: Device, make_wheel: MakeWheel) -> None:
    """During an upgrade the old and the new one lie there, and components of either release are installed."""
    device.python(f"python{THIS_PYTHON}")
    add_runtime(device, "0.10.0")
    make_wheel(device.runtime("0.10.0") / "wheels", "gauge-2.0-py3-none-any")
    device.install()
    assert json.loads(device.call("run.sh")[1])[0] == "1.0"


def test_a_runtime_that_was_half_removed_is_passed_over(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    add_runtime(device, "0.2.0")
    shutil.rmtree(device.runtime("0.2.0") / "installer")
    device.install()


def test_a_runtime_that_the_user_of_the_component_may_not_read_is_not_there() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which only we may enter
        runtime = Path(folder) / "un" / build.RUNTIME / "0.1.0" / "sluice-runtime-x86_64"
        (runtime / "wheels").mkdir(parents=True)
        (runtime / "installer").mkdir()
        (runtime / "installer/pip-1.0-py3-none-any.whl").touch()
        Path(folder).chmod(0o755)
        runtime.chmod(0)
        ourselves = os.geteuid()
        try:
            if ourselves == 0:  # root may read everything
                os.seteuid(65534)
            assert install_packages.runtimes(Path(folder) / "un") == []
        finally:
            os.seteuid(ourselves)
            runtime.chmod(0o755)


def test_a_disk_without_room_is_told_in_words(tmp_path: Path) -> None:
    """What pip says then, word for word."""
    pip = tmp_path / "installer/pip-1.0-py3-none-any.whl/pip/__main__.py"
    pip.parent.mkdir(parents=True)
    pip.write_text(
        "import sys\n"
        "sys.exit('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')\n"
    )
    with pytest.raises(SystemExit, match=r"there is no room left in .*: make room on this disk, some 200 MB"):
        install_packages.install(tmp_path, [tmp_path])


def test_the_newest_runtime_comes_first_by_number_and_not_by_text(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0", "0.1.12"):
        for folder in ("wheels", "installer"):
            (tmp_path / build.RUNTIME / version / "sluice-runtime-aarch64" / folder).mkdir(parents=True)
        (tmp_path / build.RUNTIME / version / "sluice-runtime-aarch64/installer/pip-1.0-py3-none-any.whl").touch()
    assert [path.parent.name for path in install_packages.runtimes(tmp_path)] == ["0.10.0", "0.9.0", "0.1.12"]


@pytest.fixture
def runtime(device: Device) -> Device:
    """A device on which only the Runtime's own install step is of interest."""
    folder = device.runtime()
    shutil.copy(ROOT / "scripts/artifact/runtime.sh", folder / "install.sh")
    shutil.copy(device.artifact / "python.sh", folder / "python.sh")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    return device


def test_the_runtime_looks_whether_it_is_whole_and_changes_nothing(runtime: Device) -> None:
    runtime.python(f"python{THIS_PYTHON}")
    assert runtime.call(runtime.runtime() / "install.sh") == (0, "")
    assert runtime.names() == []


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_runtime_that_is_not_whole_says_so_at_its_own_install(runtime: Device, damage: str) -> None:
    runtime.python(f"python{THIS_PYTHON}")
    wheel = runtime.runtime() / "wheels/gauge-1.0-py3-none-any.whl"
    wheel.unlink()
    if damage == "empty":
        wheel.touch()
    status, output = runtime.call(runtime.runtime() / "install.sh")
    assert status == 1
    assert f"io.sluice.Runtime in {runtime.runtime()} is not whole: 1 of 2 files are missing, empty or" in output
    assert f"the first is wheels/{wheel.name}. Deploy it again." in output


def test_a_device_without_a_usable_python_hears_it_from_the_runtime_already(runtime: Device) -> None:
    status, output = runtime.call(runtime.runtime() / "install.sh")
    assert status == 1
    assert "install: no Python that can run this. It needs one of: 3.13 3.12 3.11 3.10" in output


# --- the real ones --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every real artifact for this machine, unpacked as a nucleus does, outside of the tree."""
    folder = tmp_path_factory.mktemp("real")
    for path in build.build(output=folder / "build", targets=[build.host()]):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / "unpacked" / path.parents[1].name / path.parent.name / path.stem)
    return folder / "unpacked"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_real_component_installs_without_a_network_and_runs_on_its_own_requirements_alone(
    name: str, real: Path, device: Device
) -> None:
    """Neither the tree nor another component is in reach: what its own lock does not name it does not find."""
    [artifact] = real.glob(f"{name}/*/sluice-*")
    alone = device.unpacked.parent / "alone"
    (alone / name / "0.0.0").mkdir(parents=True)
    shutil.copytree(artifact, alone / name / "0.0.0" / artifact.name)
    (alone / build.RUNTIME).symlink_to(real / build.RUNTIME)
    component = Device(alone / name / "0.0.0" / artifact.name, device.work, device.bin)
    component.python(f"python{THIS_PYTHON}")
    # An index that nobody answers: whoever asks for a package fails.
    component.install(PIP_INDEX_URL="http://127.0.0.1:9/", HTTPS_PROXY="http://127.0.0.1:9", PIP_RETRIES="0")

    python = str(component.work / "venv/bin/python")
    [pip] = real.glob(f"{build.RUNTIME}/*/*/installer/pip-*.whl")
    check = subprocess.run([python, "-I", f"{pip}/pip", "check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout
    listing = subprocess.run(
        [python, "-I", f"{pip}/pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    lock = [one for one in read_lock(component.artifact / "requirements.txt") if one.applies_to(build.host())]
    assert {canonicalize_name(one["name"]) for one in json.loads(listing.stdout)} == {one.name for one in lock}

    package = next(path.name for path in component.artifact.iterdir() if (path / "__main__.py").exists())
    every_module = (
        "import importlib, pkgutil, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for package in sys.argv[2:]:\n"
        "    for one in pkgutil.walk_packages(importlib.import_module(package).__path__, package + '.'):\n"
        "        importlib.import_module(one.name)\n"
    )
    imported = subprocess.run(
        [python, "-I", "-c", every_module, str(component.artifact), package, "sluice"],
        cwd=component.work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr

    # Started without a nucleus it must come as far as to say that none is there.
    status, output = component.call("run.sh")
    assert status != 0
    assert "Traceback" not in output
    assert "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT" in output


def test_the_real_runtime_is_whole(real: Path, device: Device) -> None:
    [runtime] = real.glob(f"{build.RUNTIME}/*/sluice-runtime-*")
    device.python(f"python{THIS_PYTHON}")
    assert device.call(runtime / "install.sh") == (0, "")
