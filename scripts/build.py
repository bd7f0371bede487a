#!/usr/bin/env python3
"""Builds every component into what Greengrass deploys.

    scripts/build.py [--component NAME]... [--output greengrass-build] [--host-only] [--version X.Y.Z]
    scripts/build.py --component NAME --stage DIR [--bucket NAME] [--region NAME]

`gdk component build` runs it without arguments. It writes, below the output folder,

    recipes/<name>-<version>.yaml             the recipe, byte for byte as in recipes/
    recipes/recipe.yaml                       the root recipe, which gdk asks for
    artifacts/<name>/<version>/<zip>          one zip for each architecture
    SHA256SUMS                                of all of these

In the zip of io.sluice.Runtime is what all components need on a device that has no internet and no compiler,

    wheels/, requirements.txt                 every package of every component, with hashes, for every supported Python
    installer/                                pip, as a wheel that runs as it is: a device need not have it
    LICENSES.txt                              what all of these are licensed under
    install.sh, python.sh                     looks whether all is there, and a Python that can use it

and in that of a component only its own:

    <package>/, sluice/                       the component and its library, *.py
    requirements.txt                          which packages of the Runtime it uses
    install.sh, run.sh                        what the recipe calls; python.sh and install_packages.py do parts of it

and in each LICENSE, NOTICE and SHA256SUMS.

`--host-only` builds for this machine's architecture and the Python that runs this script alone: enough for a core on
this machine, and much quicker. `--version` builds the same tree under another version, to try an upgrade.

`--stage` writes a project of gdk for one component into a folder: gdk knows one component to a project, so publishing
the suite is `gdk component build` and `gdk component publish` in one such folder after the other (see stage.py).

Two builds of one commit are identical: entries are sorted, times and modes fixed, and nothing is compressed again (the
wheels are, and a deflated byte depends on the library that deflated it).

Standard library only: gdk runs this with whatever `python3` is first on PATH.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import stage as gdk_project
from licences import licence_list
from wheelhouse import ARCHITECTURES, PYTHONS, BuildError, Requirement, Target, collect, read_lock, sha256

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "io.sluice.Runtime"
"""The component that carries what the others run on, and no code."""

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

_NAME = re.compile(r'^ComponentName: *"?([A-Za-z0-9._-]+)"? *$', re.MULTILINE)
_VERSION = re.compile(r'^ComponentVersion: *"?(\d+\.\d+\.\d+)"? *$', re.MULTILINE)
_ARTIFACT = re.compile(rf"/sluice-([a-z0-9-]+?)-({'|'.join(ARCHITECTURES)})\.zip\b")
_RUNTIME_REQUIREMENT = re.compile(rf'^( +{re.escape(RUNTIME)}: *\n +VersionRequirement: *)"[^"]*" *$', re.MULTILINE)
_LIBRARY_VERSION = re.compile(r'^__version__ = "[^"]*"$', re.MULTILINE)


@dataclass(frozen=True)
class Component:
    """A component as its recipe declares it; `id` ("opcua-collector") names its zips, its package and its topics."""

    recipe: Path
    name: str
    version: str
    id: str
    architectures: tuple[str, ...]

    @property
    def package(self) -> str:
        return self.id.replace("-", "_")

    def zip_name(self, architecture: str) -> str:
        return f"sluice-{self.id}-{architecture}.zip"


Files = dict[str, bytes | Path]
"""What is in a zip: each entry's name, and its bytes or where they are."""


@dataclass(frozen=True)
class Planned:
    """A component that is ready to be written: `recipe` is the text, `zips` are the files of each architecture."""

    component: Component
    recipe: str
    zips: dict[str, Files]


def read_recipe(path: Path) -> Component:
    """What the build needs of a recipe. Read as text: Python has no YAML reader of its own."""
    text = path.read_text(encoding="utf-8")
    name, version, artifacts = _NAME.search(text), _VERSION.search(text), _ARTIFACT.findall(text)
    if name is None or version is None:
        raise BuildError(f"{path}: ComponentName or ComponentVersion is missing or not plain on a line of its own")
    if len({identifier for identifier, _ in artifacts}) != 1:
        raise BuildError(f"{path}: artifacts must be called sluice-<id>-<architecture>.zip, all with one id")
    return Component(path, name[1], version[1], artifacts[0][0], tuple(architecture for _, architecture in artifacts))


def runtime_requirement(version: str) -> str:
    """Which Runtimes serve a component of `version`: those of its minor version, because the locks change only with
    one. Written with comparisons: nucleus lite understands neither `~` nor `^`."""
    major, minor, _ = version.split(".")
    return f">={major}.{minor}.0 <{major}.{int(minor) + 1}.0"


def build(
    *,
    root: Path = ROOT,
    output: Path | None = None,
    names: list[str] | None = None,
    targets: list[Target] | None = None,
    cache: Path | None = None,
    version: str | None = None,
) -> list[Path]:
    """Builds the components called `names` for `targets`, or all for every device, and returns the zips.

    With `version` everything says that it is of this version instead of the tree's. Everything is found before anything
    is written: a build that fails leaves the last one as it was.
    """
    planned = plan(root=root, names=names, targets=targets, cache=cache, version=version)
    recipe = stamped_recipe(root / "recipe.yaml", version)
    return write(planned, output or root / "greengrass-build", recipe)


def plan(
    *,
    root: Path = ROOT,
    names: list[str] | None = None,
    targets: list[Target] | None = None,
    cache: Path | None = None,
    version: str | None = None,
) -> list[Planned]:
    """What `build` writes, with every wheel of it in the cache and nothing written."""
    cache = cache or root / ".wheels"
    targets = targets or [Target(python, architecture) for architecture in ARCHITECTURES for python in PYTHONS]
    if version is not None and not re.fullmatch(r"(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}", version):
        raise BuildError(f"version «{version}» is not three numbers of at most six digits, such as 0.2.0")
    components = [read_recipe(path) for path in sorted((root / "recipes").glob("*.yaml"))]
    unknown = set(names or ()) - {component.name for component in components}
    if unknown:
        known = ", ".join(component.name for component in components)
        raise BuildError(f"there is no component {', '.join(sorted(unknown))}; there are {known}")
    runtime_lock = _lock(root, next(component for component in components if component.name == RUNTIME))
    planned = []
    for component in components:
        if names and component.name not in names:
            continue
        recipe = stamped_recipe(component.recipe, version)
        if version is not None:
            component = replace(component, version=version)
        own_targets = [target for target in targets if target.architecture in component.architectures]
        if component.name == RUNTIME:
            zips = _runtime_zips(root, component, own_targets, cache)
        else:
            _check_runtime_carries(root, component, runtime_lock, own_targets)
            zips = {
                architecture: code(root, component, pythons, version)
                for architecture, pythons in _pythons(own_targets).items()
            }
        planned.append(Planned(component, recipe, zips))
    return planned


def stage(
    name: str,
    project: Path,
    *,
    root: Path = ROOT,
    targets: list[Target] | None = None,
    cache: Path | None = None,
    version: str | None = None,
    bucket: str | None = None,
    region: str | None = None,
) -> list[Path]:
    """Builds one component into a project of gdk (see stage.py), and returns the zips. `bucket` and `region` replace
    those of the root gdk-config.json."""
    [planned] = plan(root=root, names=[name], targets=targets, cache=cache, version=version)
    configuration = gdk_project.config(root / "gdk-config.json", name, planned.component.version, bucket, region)
    zips = write([planned], gdk_project.clear(project, name), planned.recipe)
    (project / "recipe.yaml").write_text(planned.recipe, encoding="utf-8")
    (project / "gdk-config.json").write_text(configuration, encoding="utf-8")
    return zips


def write(planned: list[Planned], output: Path, main_recipe: str) -> list[Path]:
    """Writes what was planned below `output`, in the place of an earlier build of the same components, and returns the
    zips. `main_recipe` is the text of recipes/recipe.yaml, the one that gdk publishes."""
    recipes = output / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    (recipes / "recipe.yaml").write_text(main_recipe, encoding="utf-8")
    written = [recipes / "recipe.yaml"]
    zips = []
    for one in planned:
        component = one.component
        for stale in recipes.glob(f"{component.name}-[0-9]*.yaml"):
            stale.unlink()
        shutil.rmtree(output / "artifacts" / component.name, ignore_errors=True)
        written.append(recipes / f"{component.name}-{component.version}.yaml")
        written[-1].write_text(one.recipe, encoding="utf-8")
        for architecture, files in one.zips.items():
            zips.append(output / "artifacts" / component.name / component.version / component.zip_name(architecture))
            zips[-1].parent.mkdir(parents=True, exist_ok=True)
            write_zip(zips[-1], files)
    (output / "SHA256SUMS").write_text(
        "".join(f"{sha256(path)}  {path.relative_to(output).as_posix()}\n" for path in sorted(written + zips)),
        encoding="utf-8",
    )
    return zips


def stamped_recipe(path: Path, version: str | None) -> str:
    """A recipe's text, under another version when one is given."""
    text = path.read_text(encoding="utf-8")
    if version is None:
        return text
    text = _VERSION.sub(f'ComponentVersion: "{version}"', text)
    return _RUNTIME_REQUIREMENT.sub(rf'\g<1>"{runtime_requirement(version)}"', text)


def _pythons(targets: list[Target]) -> dict[str, list[str]]:
    """The Pythons to build for, by architecture."""
    found: dict[str, list[str]] = {}
    for target in targets:
        found.setdefault(target.architecture, []).append(target.python)
    return found


def _lock_path(root: Path, component: Component) -> Path:
    return root / "components" / component.package / "requirements.txt"


def _lock(root: Path, component: Component) -> tuple[Requirement, ...]:
    return read_lock(_lock_path(root, component))


def _check_runtime_carries(
    root: Path, component: Component, carried: tuple[Requirement, ...], targets: list[Target]
) -> None:
    """Every package that the component needs on a device must be one that the Runtime brings to that device."""
    for target in targets:
        there = {(one.name, one.version): one.hashes for one in carried if one.applies_to(target)}
        for one in _lock(root, component):
            if one.applies_to(target) and there.get((one.name, one.version)) != one.hashes:
                raise BuildError(
                    f"{_lock_path(root, component)}: {one.name}=={one.version} for {target} is not in the lock of "
                    f"{RUNTIME}, which carries the wheels. Run scripts/lock: it makes all locks from pyproject.toml."
                )


def _runtime_zips(root: Path, component: Component, targets: list[Target], cache: Path) -> dict[str, Files]:
    lock = _lock_path(root, component)
    with ThreadPoolExecutor(max_workers=4) as pool:  # pip mostly waits for the index
        wheels = dict(zip(targets, pool.map(lambda target: collect(lock, target, cache), targets), strict=True))
    [pip] = collect(root / "scripts" / "artifact" / "installer.txt", targets[0], cache)  # one wheel for every device
    zips = {}
    for architecture, pythons in _pythons(targets).items():
        chosen = {wheel for python in pythons for wheel in wheels[Target(python, architecture)]}
        zips[architecture] = wheelhouse(root, component, pythons, chosen, pip)
    return zips


def wheelhouse(root: Path, component: Component, pythons: list[str], wheels: set[Path], pip: Path) -> Files:
    """Every file of the Runtime's zip."""
    files: Files = {f"wheels/{wheel.name}": wheel for wheel in wheels}
    files[f"installer/{pip.name}"] = pip
    files["LICENSES.txt"] = licence_list({*wheels, pip}).encode()
    files["install.sh"] = _script(root, "runtime.sh", {})
    return _completed(root, component, pythons, files)


def code(root: Path, component: Component, pythons: list[str], version: str | None) -> Files:
    """Every file of a component's zip."""
    package = root / "components" / component.package
    if not (package / "__main__.py").is_file():
        raise BuildError(f"{package}: has no __main__.py, so nothing would start; {component.recipe} names it")
    files: Files = {}
    for name, source in ((component.package, package), ("sluice", root / "shared" / "sluice")):
        for module in source.rglob("*.py"):
            files[f"{name}/{module.relative_to(source).as_posix()}"] = module
    if version is not None:
        library = (root / "shared" / "sluice" / "__init__.py").read_text(encoding="utf-8")
        files["sluice/__init__.py"] = _LIBRARY_VERSION.sub(f'__version__ = "{version}"', library).encode()
    for script in ("install.sh", "run.sh"):
        files[script] = _script(root, script, {"@PACKAGE@": component.package})
    files["install_packages.py"] = root / "scripts" / "artifact" / "install_packages.py"
    return _completed(root, component, pythons, files)


def _completed(root: Path, component: Component, pythons: list[str], files: Files) -> Files:
    """With what is in every zip, and the digests of all."""
    files["python.sh"] = _script(root, "python.sh", {"@PYTHONS@": " ".join(pythons)})
    files["requirements.txt"] = _lock_path(root, component)
    files["LICENSE"] = root / "LICENSE"
    files["NOTICE"] = root / "NOTICE"
    files["SHA256SUMS"] = "".join(f"{_digest(files[name])}  {name}\n" for name in sorted(files)).encode()
    return files


def _script(root: Path, name: str, values: dict[str, str]) -> bytes:
    text = (root / "scripts" / "artifact" / name).read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text.encode()


def _digest(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def write_zip(path: Path, files: Files) -> None:
    """A zip whose bytes depend on `files` alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            content = files[name]
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = (0o100755 if name.endswith(".sh") else 0o100644) << 16
            archive.writestr(entry, content if isinstance(content, bytes) else content.read_bytes())


def host() -> Target:
    """This machine, with the Python that runs the build."""
    target = Target(f"{sys.version_info[0]}.{sys.version_info[1]}", platform.machine())
    if sys.platform != "linux" or target.architecture not in ARCHITECTURES or target.python not in PYTHONS:
        raise BuildError(
            f"--host-only: components do not run on {target}, {sys.platform}. They run on Linux (on Windows: WSL2), "
            f"{' or '.join(ARCHITECTURES)}, Python {PYTHONS[-1]} to {PYTHONS[0]}."
        )
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds every component into what Greengrass deploys.")
    parser.add_argument("--component", action="append", metavar="NAME", help="only this component (repeatable)")
    parser.add_argument("--output", type=Path, default=ROOT / "greengrass-build", help="default: greengrass-build")
    parser.add_argument("--host-only", action="store_true", help="only for this machine's Python and architecture")
    parser.add_argument("--version", metavar="X.Y.Z", help="under another version than the tree's, to try an upgrade")
    parser.add_argument("--stage", type=Path, metavar="DIR", help="instead: a gdk project for the one --component")
    parser.add_argument("--bucket", metavar="NAME", help="with --stage: instead of the one in gdk-config.json")
    parser.add_argument("--region", metavar="NAME", help="with --stage: instead of the one in gdk-config.json")
    options = parser.parse_args(arguments)
    if options.stage is not None and len(options.component or ()) != 1:
        parser.error("--stage makes a project for one component: name it with --component")
    if options.stage is None and (options.bucket or options.region):
        parser.error("--bucket and --region belong to --stage")
    try:
        targets = [host()] if options.host_only else None
        if options.stage is not None:
            zips = stage(
                options.component[0],
                options.stage.resolve(),
                targets=targets,
                version=options.version,
                bucket=options.bucket,
                region=options.region,
            )
        else:
            if (options.output / "recipes").resolve() == ROOT / "recipes":
                parser.error("--output would overwrite the recipes that are built from: give another folder")
            zips = build(
                output=options.output.resolve(), names=options.component, targets=targets, version=options.version
            )
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder of somebody else's
        print(f"build: {error}: make room, or give a folder that can be written", file=sys.stderr)
        return 1
    for path in zips:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
