"""The parts of a component's life that need no processes, and what a process group uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcore.process import Errors, LogFile, clean_environment, usage

from .conftest import until


@given(st.lists(st.integers(0, 8000), min_size=1, max_size=8))
def test_broken_is_three_errors_each_within_an_hour_of_the_one_before(gaps: list[int]) -> None:
    errors, now, run = Errors(3, 3600.0), 0.0, 0
    for gap in gaps:
        now += gap
        run = run + 1 if gap < 3600.0 or run == 0 else 1
        assert errors.record("RUNNING", now) is (run >= 3)


def test_errors_in_different_states_count_apart() -> None:
    errors = Errors(3, 3600.0)
    assert not any(errors.record(state, 1.0) for state in ("NEW", "RUNNING", "NEW", "RUNNING"))
    assert errors.record("NEW", 2.0)


def test_a_log_is_two_files_of_bounded_size_at_most(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=1000)
    for number in range(100):
        log.write(b"line %4d %s\n" % (number, b"x" * 90))
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert "line   99" in (tmp_path / "a.log").read_text()
    assert "line   90" in (tmp_path / "a.log.1").read_text()
    again = LogFile(tmp_path / "a.log", max_bytes=1000)
    again.write(b"more\n")
    again.close()
    assert (tmp_path / "a.log").read_text().endswith("more\n")


def test_the_environment_of_components_knows_nothing_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/opt/tools/bin:{sys.base_prefix}/bin")
    environment = clean_environment(Path("/home/gg"))
    assert set(environment) == {"PATH", "HOME", "LANG"}
    assert environment["PATH"] == f"{sys.base_prefix}/bin:/opt/tools/bin"


def test_components_find_the_python_of_the_core_by_name_whatever_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    path = clean_environment(Path("/home/gg"))["PATH"]
    names = [f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3"]
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    assert found is not None, path
    base = subprocess.run(
        [found, "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert base.stdout.strip() == sys.base_prefix


async def test_usage_is_that_of_the_whole_group() -> None:
    script = "x = bytearray(30_000_000)\nwhile sum(range(100_000)):\n    pass"
    command = f"{sys.executable} -c '{script}' & exec {sys.executable} -c '{script}'"
    with subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True) as process:

        def busy() -> bool:
            used = usage(process.pid)
            return used.cpu_s > 0.2 and used.rss_mb > 60

        try:
            await until(busy, lambda: usage(process.pid))
        finally:
            os.killpg(process.pid, 9)
    await until(lambda: usage(process.pid).rss_mb == 0, lambda: usage(process.pid))
