"""What `scripts/build.py` promises: the right wheels for each device, the right files in each zip, twice the same."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

import build
import wheelhouse
from wheelhouse import ARCHITECTURES, PYTHONS, BuildError, MarkerError, Target

ROOT = Path(__file__).resolve().parents[2]
MakeWheel = Callable[[Path, str], str]

EVERY_TARGET = [Target(python, architecture) for architecture in ARCHITECTURES for python in PYTHONS]
TWO_TARGETS = [Target("3.10", "x86_64"), Target("3.13", "aarch64")]


# --- which requirements a device has --------------------------------------------------------------------------------

_VARIABLES = {
    "python_version": ["3.9", "3.10", "3.11", "3.12", "3.13"],
    "python_full_version": ["3.10", "3.11.0", "3.12.4", "3.13"],
    "sys_platform": ["linux", "win32", "darwin"],
    "platform_machine": ["x86_64", "aarch64", "arm64"],
    "platform_python_implementation": ["CPython", "PyPy"],
    "implementation_name": ["cpython", "pypy"],
    "platform_system": ["Linux", "Windows"],
    "os_name": ["posix", "nt"],
}


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    variable = draw(st.sampled_from(sorted(_VARIABLES)))
    operators = ["==", "!=", "<", "<=", ">", ">="] if variable.startswith("python") else ["==", "!="]
    return f"{variable} {draw(st.sampled_from(operators))} '{draw(st.sampled_from(_VARIABLES[variable]))}'"


def combinations(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    words = st.sampled_from([" and ", " or "])
    return st.one_of(
        st.tuples(inner, words, inner).map("".join),
        inner.map(lambda marker: f"({marker})"),
    )


@given(st.recursive(comparisons(), combinations, max_leaves=6), st.sampled_from(EVERY_TARGET))
def test_a_marker_means_what_the_packaging_library_says_it_means(marker: str, target: Target) -> None:
    environment = target.environment()
    assert wheelhouse.evaluate(marker, environment) == Marker(marker).evaluate(environment)


@pytest.mark.parametrize(
    "marker",
    [
        "extra == 'fast'",
        "python_version ~= '3.10'",
        "sys_platform > 'linux'",
        "python_version < 'x'",
        "(os_name == 'nt'",
        "os_name ==",
        "os_name == 'nt' 'posix'",
        "os_name § 'nt'",
    ],
)
def test_a_marker_that_is_not_understood_is_refused_and_never_guessed(marker: str) -> None:
    with pytest.raises(MarkerError, match=re.escape(f"«{marker}»")):
        wheelhouse.evaluate(marker, Target("3.12", "x86_64").environment())


def test_a_marker_that_divides_the_patch_releases_of_one_python_is_refused() -> None:
    requirement = wheelhouse.Requirement("thing", "1.0", "python_full_version < '3.11.4'", frozenset())
    assert requirement.applies_to(Target("3.10", "x86_64"))
    with pytest.raises(MarkerError, match=r"patch releases of Python 3\.11"):
        requirement.applies_to(Target("3.11", "x86_64"))


@pytest.mark.parametrize("lock", sorted(ROOT.glob("components/*/requirements.txt")), ids=lambda path: path.parent.name)
def test_each_lock_names_each_package_once_for_each_device(lock: Path) -> None:
    for target in EVERY_TARGET:
        names = [entry.name for entry in wheelhouse.read_lock(lock) if entry.applies_to(target)]
        assert len(names) == len(set(names)) > 5


@pytest.mark.parametrize("line", ["orjson>=3", "orjson==3.13.0", "-r other.txt", "orjson==3.13.0 --hash=md5:00"])
def test_a_lock_line_without_an_exact_version_and_hash_is_refused_with_its_text(line: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(BuildError, match=re.escape(line)):
        wheelhouse.read_lock(lock)


# --- fetching, with pip and a package index that is a folder --------------------------------------------------------


@pytest.mark.parametrize("target", [Target("3.10", "aarch64"), Target("3.13", "x86_64")], ids=str)
def test_wheels_are_chosen_for_the_device_and_not_for_the_machine_that_builds(
    target: Target, lock: Path, tmp_path: Path
) -> None:
    names = [wheel.name for wheel in wheelhouse.collect(lock, target, tmp_path / "cache")]
    tag = f"cp{target.python.replace('.', '')}"
    platform = f"manylinux_2_17_{target.architecture}.manylinux2014_{target.architecture}"
    pump = ["pump-3.0-py3-none-any.whl"] if target.python == "3.10" else []
    assert names == [f"gauge-1.0-{tag}-{tag}-{platform}.whl", *pump, "valve-2.0-py3-none-any.whl"]


def test_what_was_fetched_once_is_not_asked_for_again(lock: Path, index: Path, tmp_path: Path) -> None:
    target = Target("3.12", "x86_64")
    first = wheelhouse.collect(lock, target, tmp_path / "cache")
    shutil.rmtree(index)
    assert wheelhouse.collect(lock, target, tmp_path / "cache") == first


def test_a_damaged_wheel_in_the_cache_is_fetched_again(lock: Path, index: Path, tmp_path: Path) -> None:
    target = Target("3.12", "x86_64")
    wheel = wheelhouse.collect(lock, target, tmp_path / "cache")[0]
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1])
    assert wheelhouse.collect(lock, target, tmp_path / "cache")[0].read_bytes() == good


def test_a_wheel_that_the_lock_does_not_know_is_refused(
    lock: Path, index: Path, tmp_path: Path, make_wheel: MakeWheel
) -> None:
    with zipfile.ZipFile(index / "valve-2.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("valve_extra.py", "smuggled = True\n")
    with pytest.raises(BuildError, match=r"(?s)Python 3.12 on x86_64.*valve"):
        wheelhouse.collect(lock, Target("3.12", "x86_64"), tmp_path / "cache")


def test_a_package_without_a_wheel_for_a_device_is_named(lock: Path, index: Path, tmp_path: Path) -> None:
    (index / "gauge-1.0-cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64.whl").unlink()
    with pytest.raises(BuildError, match=r"(?s)Python 3.13 on aarch64.*gauge"):
        wheelhouse.collect(lock, Target("3.13", "aarch64"), tmp_path / "cache")


def test_a_python_without_pip_is_given_one_in_the_cache(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    cache = tmp_path / "cache"
    wheels = wheelhouse.collect(lock, Target("3.12", "x86_64"), cache)
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["gauge", "valve"]
    assert list(cache.glob("pip-*/bin/python"))


# --- the zips -------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names_in(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def text_in(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode()


def test_the_output_is_laid_out_as_gdk_and_local_deployments_expect(tree: Path) -> None:
    build.build(root=tree, targets=TWO_TARGETS)
    written = files_of(tree / "greengrass-build")
    sums = (tree / "greengrass-build/SHA256SUMS").read_text()
    assert sorted(written) == [
        "SHA256SUMS",
        "artifacts/io.sluice.LevelGauge/1.2.3/sluice-level-gauge-aarch64.zip",
        "artifacts/io.sluice.LevelGauge/1.2.3/sluice-level-gauge-x86_64.zip",
        "artifacts/io.sluice.Runtime/1.2.3/sluice-runtime-aarch64.zip",
        "artifacts/io.sluice.Runtime/1.2.3/sluice-runtime-x86_64.zip",
        "recipes/io.sluice.LevelGauge-1.2.3.yaml",
        "recipes/io.sluice.Runtime-1.2.3.yaml",
        "recipes/recipe.yaml",
    ]
    assert sorted(line.split("  ") for line in sums.splitlines()) == sorted(
        [digest, name] for name, digest in written.items() if name != "SHA256SUMS"
    )
    for name in ("LevelGauge", "Runtime"):
        original = tree / f"recipes/io.sluice.{name}.yaml"
        assert (tree / f"greengrass-build/recipes/io.sluice.{name}-1.2.3.yaml").read_bytes() == original.read_bytes()


TWO_PYTHONS = [Target("3.10", "x86_64"), Target("3.12", "x86_64")]


def test_the_zip_of_a_component_holds_its_code_and_nothing_else(tree: Path) -> None:
    [path] = build.build(root=tree, names=["io.sluice.LevelGauge"], targets=TWO_PYTHONS)
    assert names_in(path) == [
        "LICENSE",
        "NOTICE",
        "SHA256SUMS",
        "install.sh",
        "install_packages.py",
        "level_gauge/__init__.py",
        "level_gauge/__main__.py",
        "level_gauge/codec/__init__.py",
        "python.sh",
        "requirements.txt",
        "run.sh",
        "sluice/__init__.py",
        "sluice/batch.py",
    ]
    assert "-m level_gauge\n" in text_in(path, "run.sh")
    assert "level_gauge.__main__" in text_in(path, "install.sh")


def test_the_zip_of_the_runtime_holds_the_wheels_of_every_component_and_no_code(tree: Path) -> None:
    [path] = build.build(root=tree, names=[build.RUNTIME], targets=TWO_PYTHONS)
    assert names_in(path) == [
        "LICENSE",
        "LICENSES.txt",
        "NOTICE",
        "SHA256SUMS",
        "install.sh",
        "installer/pip-1.0-py3-none-any.whl",
        "python.sh",
        "requirements.txt",
        "wheels/gauge-1.0-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "wheels/gauge-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "wheels/pump-3.0-py3-none-any.whl",
        "wheels/valve-2.0-py3-none-any.whl",
    ]


def test_every_zip_knows_its_pythons_has_no_placeholder_left_and_the_digest_of_every_file(tree: Path) -> None:
    for path in build.build(root=tree, targets=TWO_PYTHONS):
        names = names_in(path)
        assert '\npythons="3.10 3.12"\n' in text_in(path, "python.sh")
        for script in (name for name in names if name.endswith(".sh")):
            assert not re.search(r"@[A-Z]+@", text_in(path, script))
        with zipfile.ZipFile(path) as archive:
            assert text_in(path, "SHA256SUMS").splitlines() == [
                f"{hashlib.sha256(archive.read(name)).hexdigest()}  {name}" for name in names if name != "SHA256SUMS"
            ]


def test_a_component_that_needs_what_the_runtime_does_not_carry_is_refused(tree: Path) -> None:
    lock = tree / "components/runtime/requirements.txt"
    without, count = re.subn(r"^pump==.*\n.*\n", "", lock.read_text(), flags=re.M)
    assert count == 1
    lock.write_text(without)
    with pytest.raises(BuildError, match=r"(?s)level_gauge.*pump==3\.0 for Python 3\.10 on x86_64 .*Run scripts/lock"):
        build.build(root=tree, targets=TWO_PYTHONS)
    assert not (tree / "greengrass-build").exists()


# --- another version of the same tree -------------------------------------------------------------------------------


def test_a_build_under_another_version_says_it_everywhere(tree: Path) -> None:
    zips = build.build(root=tree, targets=[Target("3.12", "x86_64")], version="1.3.0")
    output = tree / "greengrass-build"
    assert [path.relative_to(output).as_posix() for path in zips] == [
        "artifacts/io.sluice.LevelGauge/1.3.0/sluice-level-gauge-x86_64.zip",
        "artifacts/io.sluice.Runtime/1.3.0/sluice-runtime-x86_64.zip",
    ]
    for name in ("io.sluice.LevelGauge-1.3.0.yaml", "io.sluice.Runtime-1.3.0.yaml", "recipe.yaml"):
        assert re.findall(r'^ComponentVersion: "(.*)"$', (output / "recipes" / name).read_text(), re.M) == ["1.3.0"]
    recipe = (output / "recipes/io.sluice.LevelGauge-1.3.0.yaml").read_text()
    assert '  io.sluice.Runtime:\n    VersionRequirement: ">=1.3.0 <1.4.0"\n' in recipe
    assert text_in(zips[0], "sluice/__init__.py") == '"""The library."""\n\n__version__ = "1.3.0"\n'


def test_the_tree_itself_keeps_its_version(tree: Path) -> None:
    before = files_of(tree)
    build.build(root=tree, targets=[Target("3.12", "x86_64")], output=tree.parent / "out", version="2.0.0")
    after = files_of(tree)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("version", ["1.2", "1.2.3-rc1", "v1.2.3", "1.2.1234567", "", "1.2.3\n", "01.2.3", "1.2.٣"])
def test_a_version_that_a_nucleus_would_not_take_is_refused(version: str, tree: Path) -> None:
    with pytest.raises(BuildError, match="not three numbers"):
        build.build(root=tree, version=version)


# --- twice the same -------------------------------------------------------------------------------------------------


def test_two_builds_are_identical_wherever_whenever_and_under_whatever_umask_they_are_made(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build(root=tree, output=tree / "one", targets=TWO_TARGETS)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o700)
    elsewhere = tree.parent / "elsewhere"  # another checkout, another cache, another current folder
    shutil.copytree(tree, elsewhere, ignore=shutil.ignore_patterns(".wheels", "one"))
    monkeypatch.chdir(tree.parent)
    before = os.umask(0o077)
    try:
        build.build(root=elsewhere, output=tree / "two", targets=list(reversed(TWO_TARGETS)))
    finally:
        os.umask(before)
    assert files_of(tree / "one") == files_of(tree / "two")


def test_a_build_replaces_what_an_earlier_version_left_and_nothing_else(tree: Path) -> None:
    output = tree / "greengrass-build"
    for name in ("recipes/io.sluice.LevelGauge-1.2.2.yaml", "recipes/com.acme.Other-1.0.0.yaml"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("stale")
    (output / "artifacts/io.sluice.LevelGauge/1.2.2").mkdir(parents=True)
    build.build(root=tree, targets=[Target("3.12", "x86_64")])
    assert not (output / "recipes/io.sluice.LevelGauge-1.2.2.yaml").exists()
    assert not (output / "artifacts/io.sluice.LevelGauge/1.2.2").exists()
    assert (output / "recipes/com.acme.Other-1.0.0.yaml").exists()


def test_an_unknown_component_is_refused_with_the_names_that_there_are(tree: Path) -> None:
    with pytest.raises(
        BuildError, match=r"no component io\.sluice\.Nobody; there are io\.sluice\.LevelGauge, io\.sluice\.Runtime"
    ):
        build.build(root=tree, names=["io.sluice.Nobody"])


def test_a_component_that_nothing_could_start_is_refused(tree: Path) -> None:
    (tree / "components/level_gauge/__main__.py").unlink()
    with pytest.raises(BuildError, match="__main__"):
        build.build(root=tree, targets=[Target("3.12", "x86_64")])
    assert not (tree / "greengrass-build").exists()


def test_a_mistake_on_the_command_line_is_one_sentence_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--component", "io.sluice.Nobody"]) == 1
    assert capsys.readouterr().err.startswith("build: there is no component io.sluice.Nobody; there are io.sluice.")


def test_the_recipes_that_are_built_from_are_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build.main(["--output", str(ROOT), "--component", "io.sluice.OpcUaCollector"])
    assert "--output would overwrite the recipes that are built from" in capsys.readouterr().err


def test_the_build_needs_nothing_but_the_standard_library() -> None:
    ours = {"build", "wheelhouse", "stage", "licences"}
    on_the_device = {"artifact/install_packages"}
    for name in ours | on_the_device:
        module = ast.parse((ROOT / "scripts" / f"{name}.py").read_text())
        for node in ast.walk(module):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {one.split(".")[0] for one in names} <= sys.stdlib_module_names | ours


def test_the_installer_is_one_wheel_for_every_python_and_the_only_thing_in_its_lock() -> None:
    [pip] = wheelhouse.read_lock(ROOT / "scripts/artifact/installer.txt")
    assert (pip.name, pip.marker) == ("pip", "")
    with zipfile.ZipFile(
        wheelhouse.collect(ROOT / "scripts/artifact/installer.txt", build.host(), ROOT / ".wheels")[0]
    ) as wheel:
        metadata = wheel.read(f"pip-{pip.version}.dist-info/METADATA").decode()
    required = re.search(r"^Requires-Python: (.*)$", metadata, re.MULTILINE)
    assert required is not None
    assert all(SpecifierSet(required[1]).contains(f"{python}.0") for python in PYTHONS)


# --- the real components, for this machine --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """As `scripts/build.py --host-only` makes them; the cache of the work tree saves the second fetching."""
    return build.build(output=tmp_path_factory.mktemp("build"), targets=[build.host()])


def test_every_component_is_built_with_its_code_and_the_runtime_with_a_wheel_for_every_line_of_its_lock(
    zips: list[Path],
) -> None:
    assert len(zips) == len(list((ROOT / "recipes").glob("*.yaml")))
    for path in zips:
        names = names_in(path)
        folders = {name.split("/")[0] for name in names if "/" in name}
        if path.name.startswith("sluice-runtime-"):
            assert folders == {"wheels", "installer"}
            wheels = {parse_wheel_filename(Path(name).name)[0] for name in names if name.startswith("wheels/")}
            lock = wheelhouse.read_lock(ROOT / "components/runtime/requirements.txt")
            assert wheels == {requirement.name for requirement in lock if requirement.applies_to(build.host())}
            continue
        [component] = folders - {"sluice"}
        for package, source in ((component, ROOT / "components" / component), ("sluice", ROOT / "shared" / "sluice")):
            expected = {f"{package}/{one.relative_to(source).as_posix()}" for one in source.rglob("*.py")}
            assert expected == {name for name in names if name.startswith(f"{package}/")}
            assert (
                text_in(path, "requirements.txt") == (ROOT / "components" / component / "requirements.txt").read_text()
            )


def tags_of(target: Target) -> set[Tag]:
    """Every tag of a wheel that a device of this kind can use: CPython, and glibc 2.28 or any older."""
    version = tuple(int(part) for part in target.python.split("."))
    platforms = [f"manylinux_2_{minor}_{target.architecture}" for minor in range(5, 29)]
    platforms += [f"manylinux{year}_{target.architecture}" for year in ("1", "2010", "2014")]
    return {*cpython_tags(version, platforms=platforms), *compatible_tags(version, f"cp{version[0]}{version[1]}")}


def test_all_zips_of_an_architecture_fit_the_budget_and_every_supported_device_finds_its_wheels(tmp_path: Path) -> None:
    """For this machine's architecture: the other's wheels are chosen by the same rule, and fetching takes time."""
    targets = [Target(python, build.host().architecture) for python in PYTHONS]
    zips = build.build(output=tmp_path, targets=targets)
    assert sum(path.stat().st_size for path in zips) <= 150e6
    [runtime] = [path for path in zips if path.name.startswith("sluice-runtime-")]
    wheels = [Path(name).name for name in names_in(runtime) if name.startswith("wheels/")]
    assert not [name for name in wheels if re.search(r"linux_(x86_64|aarch64)|musl", re.sub(r"manylinux\w*", "", name))]
    lock = wheelhouse.read_lock(ROOT / "components/runtime/requirements.txt")
    tags = {name: parse_wheel_filename(name) for name in wheels}
    useful = set()
    for target in targets:
        fitting = [name for name in wheels if tags[name][3] & tags_of(target)]
        useful |= set(fitting)
        needed = {(one.name, one.version) for one in lock if one.applies_to(target)}
        assert needed <= {(str(tags[name][0]), str(tags[name][1])) for name in fitting}, target
    assert useful == set(wheels), "a wheel that no supported device can use"


def test_an_unpacked_zip_answers_to_sha256sum(zips: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(zips):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / str(number))
        check = subprocess.run(
            ["sha256sum", "--check", "--quiet", "SHA256SUMS"],
            cwd=tmp_path / str(number),
            capture_output=True,
            text=True,
            check=False,
        )
        assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("component", sorted(path.parent.name for path in ROOT.glob("components/*/__main__.py")))
def test_a_component_is_imported_without_being_started(component: str) -> None:
    """As install.sh does, so that the bytecode is there."""
    importlib.import_module(f"{component}.__main__")
