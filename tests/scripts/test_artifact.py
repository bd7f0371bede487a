"""What `install.sh` and `run.sh` promise on a device: offline, once, whole or not at all, and in words.

The artifacts here are tiny, with the real pip in them; the last test installs a real one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

import build
from wheelhouse import PYTHONS, collect

ROOT = Path(__file__).resolve().parents[2]
MakeWheel = Callable[[Path, str], str]

THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
TOOLS = ("cat", "dirname", "mkdir", "rm", "sh", "tail")
"""All that the scripts may call beside the shell's own commands."""


@dataclass(frozen=True)
class Device:
    """An unpacked artifact, an empty work folder, and a PATH with nothing on it but a shell's tools and one Python."""

    artifact: Path
    work: Path
    bin: Path

    def start(self, script: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / "sh"), str(self.artifact / script)],
            cwd=self.work,
            env={"PATH": str(self.bin), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, script: str, **variables: str) -> tuple[int, str]:
        process = self.start(script, **variables)
        output, _ = process.communicate(timeout=60)
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
    made = Device(folder / "artifacts unarchived" / "sluice-level-gauge-x86_64", folder / "work of it", folder / "bin")
    files = {
        "level_gauge/__init__.py": "",
        "level_gauge/__main__.py": (
            "import gauge, json, os, sluice, sys\n"
            "if __name__ == '__main__':\n"
            "    print(json.dumps([gauge.VERSION, sys.path, os.getpid(), sys.prefix, sys.flags.no_user_site]))\n"
        ),
        "sluice/__init__.py": "",
    }
    [pip] = collect(ROOT / "scripts/artifact/installer.txt", build.host(), ROOT / ".wheels")
    for script in ("install.sh", "run.sh"):
        text = (ROOT / "scripts/artifact" / script).read_text().replace("@PYTHONS@", " ".join(PYTHONS))
        files[script] = text.replace("@PIP@", f"installer/{pip.name}").replace("@PACKAGE@", "level_gauge")
    for name, text in files.items():
        (made.artifact / name).parent.mkdir(parents=True, exist_ok=True)
        (made.artifact / name).write_text(text)
    (made.artifact / "installer").mkdir()
    (made.artifact / "installer" / pip.name).symlink_to(pip)
    require(made, make_wheel, "1.0")
    made.work.mkdir()
    made.bin.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (made.bin / tool).symlink_to(found)
    return made


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


def require(device: Device, make_wheel: MakeWheel, version: str) -> None:
    digest = make_wheel(device.artifact / "wheels", f"gauge-{version}-py3-none-any")
    (device.artifact / "requirements.txt").write_text(
        f"gauge=={version} \\\n    --hash=sha256:{digest}\n"
        "absent==1.0 ; python_full_version < '3.10' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    )


def test_an_installed_component_runs_from_its_own_folders_alone(installed: Device) -> None:
    (installed.work / "sluice.py").write_text("raise SystemExit('a file of the work folder was imported')\n")
    process = installed.start("run.sh", PYTHONPATH="/elsewhere", PYTHONHOME="/elsewhere")
    output, _ = process.communicate(timeout=30)
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
    for wheel in (installed.artifact / "wheels").iterdir():
        wheel.unlink()
    (next((installed.artifact / "installer").iterdir())).unlink()
    assert installed.call("install.sh") == (0, ""), "it would fail if it looked at a wheel or started pip"
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
    with zipfile.ZipFile(installed.artifact / "wheels/gauge-1.1-py3-none-any.whl", "a") as wheel:
        wheel.writestr("smuggled.py", "")
    status, output = installed.call("install.sh")
    assert status != 0
    assert "hash" in output.lower()
    assert installed.names() == ["venv"]
    assert json.loads(installed.call("run.sh")[1])[0] == "1.0"


def test_an_install_that_is_killed_leaves_no_environment_and_the_next_one_tidies_up(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    first = device.start("install.sh")
    limit = time.monotonic() + 30
    while not list(device.work.glob("venv.new.*/pyvenv.cfg")):
        assert time.monotonic() < limit, f"nothing begins: {device.names()}"
        assert first.poll() is None, f"over already: {device.names()}"
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    assert device.names() == [f"venv.new.{first.pid}"]
    device.install()
    assert device.names() == ["venv"]


def test_an_install_that_is_told_to_stop_leaves_nothing(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    process = device.start("install.sh")
    limit = time.monotonic() + 30
    while not list(device.work.glob("venv.new.*")):
        assert time.monotonic() < limit, f"nothing begins: {device.names()}"
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert device.names() == []


def test_two_installs_at_once_leave_one_whole_environment(device: Device) -> None:
    device.python(f"python{THIS_PYTHON}")
    both = [device.start("install.sh"), device.start("install.sh")]
    for process in both:
        process.communicate(timeout=60)
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
    install = device.artifact / "install.sh"
    install.write_text(install.read_text().replace(f'pythons="{" ".join(PYTHONS)}"', 'pythons="3.99"'))
    device.python("python3")
    status, output = device.call("install.sh")
    assert status == 1
    assert f"{device.bin}/python3 is Python {THIS_PYTHON}" in output


def test_run_without_install_says_so(device: Device) -> None:
    status, output = device.call("run.sh")
    assert status == 1
    assert "the install step has not run" in output


def test_a_real_artifact_installs_without_a_network_and_every_package_of_it_is_whole(
    device: Device, tmp_path: Path
) -> None:
    [path] = build.build(output=tmp_path / "build", names=["io.sluice.StreamExporter"], targets=[build.host()])
    real = Device(tmp_path / path.stem, device.work, device.bin)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(real.artifact)
    device.python(f"python{THIS_PYTHON}")
    # An index that nobody answers: whoever asks for a package fails.
    real.install(PIP_INDEX_URL="http://127.0.0.1:9/", HTTPS_PROXY="http://127.0.0.1:9", PIP_RETRIES="0")
    python = str(real.work / "venv/bin/python")
    [pip] = real.artifact.glob("installer/pip-*.whl")
    check = subprocess.run([python, "-I", f"{pip}/pip", "check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout
