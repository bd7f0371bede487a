"""The rules of the house: who may import whom, what every component folder has, and what is nowhere in the tree."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import wheelhouse

ROOT = Path(__file__).resolve().parents[1]
LOCKED = sorted(path.parent.name for path in (ROOT / "components").glob("*/requirements.txt"))
"""Every folder of a deployable component, the data-only one included."""

DATA_ONLY = {"runtime"}
"""Carries wheels that the build finds, and no code."""

COMPONENTS = [name for name in LOCKED if name not in DATA_ONLY]

MAY_IMPORT = {
    "shared/sluice": {"sluice"},
    # Stand-ins and judges: written from the protocols, so that they cannot share a mistake with what they judge.
    "shared/localcore": {"localcore"},
    "shared/plant": {"plant"},
    "shared/rehearsal": {"rehearsal", "localcore", "plant", "cli"},
    "shared/cli": {"cli", "sluice", *COMPONENTS},  # the same models and checks that run on the device
    **{f"components/{name}": {"sluice", name} for name in COMPONENTS},
}
"""Which of our own packages the modules of a folder may import."""

OURS = {"sluice", "localcore", "plant", "rehearsal", "cli", *COMPONENTS}


@cache
def files() -> tuple[Path, ...]:
    """Every file of the repository, committed or about to be."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(path for name in listing.split("\0") if name and (path := ROOT / name).is_file())


def texts() -> Iterator[tuple[str, str]]:
    """The name and content of every file that is text."""
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path.relative_to(ROOT).as_posix(), content.decode("utf-8")


@cache
def modules(folder: str) -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted((ROOT / folder).rglob("*.py"))
    )


def imports(module: ast.Module) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


# --- who imports whom -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_a_folder_imports_of_our_own_packages_only_what_it_may(folder: str) -> None:
    for name, module in modules(folder):
        assert imports(module) & OURS <= MAY_IMPORT[folder], name


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_and_its_library_import_only_what_the_component_ships(component: str) -> None:
    """Otherwise it starts on the developer's machine and nowhere else."""
    lock = wheelhouse.read_lock(ROOT / "components" / component / "requirements.txt")
    shipped = {re.sub(r"[-_.]+", "-", requirement.name).lower() for requirement in lock}
    distributions = importlib.metadata.packages_distributions()
    for name, module in (*modules(f"components/{component}"), *modules("shared/sluice")):
        for package in imports(module) - set(sys.stdlib_module_names) - {"sluice", component}:
            sources = {re.sub(r"[-_.]+", "-", one).lower() for one in distributions.get(package, [])}
            assert sources & shipped, f"{name}: {package} is in no wheel of the component"


# --- every component folder reads the same --------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_folder_has_what_every_component_folder_has(component: str) -> None:
    present = {path.name for path in (ROOT / "components" / component).iterdir()}
    assert {"__init__.py", "__main__.py", "config.py", "README.md", "requirements.txt"} <= present


@pytest.mark.parametrize("folder", sorted(DATA_ONLY))
def test_a_folder_without_code_has_its_lock_and_says_what_it_is(folder: str) -> None:
    present = {path.name for path in (ROOT / "components" / folder).iterdir()}
    assert present == {"README.md", "requirements.txt"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_main_starts_the_component_and_decides_nothing(component: str) -> None:
    main = dict(modules(f"components/{component}"))[f"components/{component}/__main__.py"]
    for node in main.body:
        assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.If), ast.unparse(node)
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "__name__ == '__main__'"
            assert len(node.body) == 1


def test_every_component_has_a_recipe_and_every_recipe_a_component() -> None:
    packages = {
        match[1].replace("-", "_")
        for path in (ROOT / "recipes").glob("*.yaml")
        for match in re.finditer(r"/sluice-([a-z0-9-]+)-x86_64\.zip", path.read_text(encoding="utf-8"))
    }
    assert packages == set(LOCKED)


# --- one version, and locks that say exactly which others -----------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    match = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None
    found = {"pyproject.toml": match[1]}
    gdk = json.loads((ROOT / "gdk-config.json").read_text(encoding="utf-8"))
    found |= {f"gdk-config.json {name}": entry["version"] for name, entry in gdk["component"].items()}
    for path in [ROOT / "recipe.yaml", *(ROOT / "recipes").glob("*.yaml")]:
        found[path.name] = yaml.safe_load(path.read_text(encoding="utf-8"))["ComponentVersion"]
    for folder in ("shared/sluice", *(f"components/{name}" for name in COMPONENTS)):
        text = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
        if version := re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE):
            found[folder] = version[1]
    assert set(found.values()) == {match[1]}, found
    assert "shared/sluice" in found


@pytest.mark.parametrize(
    "lock", ["scripts/requirements.lock", *(f"components/{name}/requirements.txt" for name in LOCKED)]
)
def test_a_lock_pins_every_package_by_hash_and_all_locks_agree(lock: str) -> None:
    of_all = {(one.name, one.version): one.hashes for one in wheelhouse.read_lock(ROOT / "scripts/requirements.lock")}
    for requirement in wheelhouse.read_lock(ROOT / lock):
        assert requirement.hashes
        assert requirement.hashes == of_all[requirement.name, requirement.version]


def test_the_lock_of_the_runtime_is_those_of_all_components_together() -> None:
    def lock(name: str) -> set[wheelhouse.Requirement]:
        return set(wheelhouse.read_lock(ROOT / "components" / name / "requirements.txt"))

    assert lock("runtime") == set().union(*(lock(name) for name in COMPONENTS))


@pytest.mark.parametrize("folder", ["shared/sluice", *(f"components/{name}" for name in COMPONENTS)])
def test_no_cancellation_can_be_lost(folder: str) -> None:
    """Before Python 3.12 asyncio.wait_for swallows one that meets completion: sluice.tasks.within does not."""
    for name, module in modules(folder):
        for node in ast.walk(module):
            assert not (isinstance(node, ast.Attribute) and node.attr == "wait_for"), f"{name}:{node.lineno}"


# --- what is nowhere in the tree ------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["shared", "components"])
def test_nothing_prints(folder: str) -> None:
    for name, module in modules(folder):
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "breakpoint"), f"{name}:{node.lineno}"


# Put together from pieces, so that this file is not the one that is found.
FORBIDDEN = {
    "the path of one machine": r"/wo" r"rk/(main|shared|steering)|/fa" r"rm/|/ro" r"ot/",
    "a fixed temporary path": r"[\"'= ]/t" r"mp/[a-z]",
    "the host of a package index": r"pypi\." r"org|registry\.np" r"mjs|deb\.deb" r"ian|/opt/py" r"pi|/opt/whe" r"els",
    "a note to do something later": r"\bTO" r"DO\b|\bFIX" r"ME\b|\bX" r"XX\b",
    "a test that does not run": r"pytest\.(sk" r"ip|xf" r"ail)|mark\.(sk" r"ip|xf" r"ail)",
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_nowhere_in_the_tree_is(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name, text in texts()
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_scripts_that_people_start_can_be_started() -> None:
    for path in files():
        folder = path.parent.relative_to(ROOT).as_posix()
        first = path.read_bytes()[:2]
        if folder in ("scripts", ".ci") and not path.suffix and first != b"#!":
            pytest.fail(f"{path}: begins with no #! line")
        if first == b"#!" and folder in ("scripts", ".ci"):
            assert path.stat().st_mode & 0o100, f"{path}: chmod +x"


def test_test_folders_are_no_packages() -> None:
    """Tests are found by file (importlib mode), so that two may have one name in different folders."""
    assert [path for path in files() if path.name == "__init__.py" and "tests" in path.parts] == []
