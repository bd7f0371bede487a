#!/usr/bin/env python3
"""Builds every component into what Greengrass deploys.

    scripts/build.py [--component NAME]... [--output greengrass-build] [--host-only]

`gdk component build` runs it without arguments. It writes, below the output folder,

    recipes/<name>-<version>.yaml             the recipe, byte for byte as in recipes/
    recipes/recipe.yaml                       the root recipe, which gdk asks for
    artifacts/<name>/<version>/<zip>          one zip for each architecture
    SHA256SUMS                                of all of these

and in each zip only what runs on a device:

    <package>/, sluice/                       the component and its library, *.py
    wheels/, requirements.txt                 everything else, with hashes, for every supported Python
    installer/                                pip, as a wheel that runs as it is: a device need not have it
    install.sh, run.sh                        what the recipe calls
    LICENSE, NOTICE, SHA256SUMS

`--host-only` builds for this machine's architecture and the Python that runs this script alone: enough for a core on
this machine, and much quicker.

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
from dataclasses import dataclass
from pathlib import Path

from wheelhouse import ARCHITECTURES, PYTHONS, BuildError, Target, collect, sha256

ROOT = Path(__file__).resolve().parent.parent
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

_NAME = re.compile(r'^ComponentName: *"?([A-Za-z0-9._-]+)"? *$', re.MULTILINE)
_VERSION = re.compile(r'^ComponentVersion: *"?(\d+\.\d+\.\d+)"? *$', re.MULTILINE)
_ARTIFACT = re.compile(rf"/sluice-([a-z0-9-]+?)-({'|'.join(ARCHITECTURES)})\.zip\b")


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


def read_recipe(path: Path) -> Component:
    """What the build needs of a recipe. Read as text: Python has no YAML reader of its own."""
    text = path.read_text(encoding="utf-8")
    name, version, artifacts = _NAME.search(text), _VERSION.search(text), _ARTIFACT.findall(text)
    if name is None or version is None:
        raise BuildError(f"{path}: ComponentName or ComponentVersion is missing or not plain on a line of its own")
    if len({identifier for identifier, _ in artifacts}) != 1:
        raise BuildError(f"{path}: artifacts must be called sluice-<id>-<architecture>.zip, all with one id")
    return Component(path, name[1], version[1], artifacts[0][0], tuple(architecture for _, architecture in artifacts))


def build(
    *,
    root: Path = ROOT,
    output: Path | None = None,
    names: list[str] | None = None,
    targets: list[Target] | None = None,
    cache: Path | None = None,
) -> list[Path]:
    """Builds the components called `names` for `targets`, or all for every device, and returns the zips.

    Everything is found before anything is written: a build that fails leaves the last one as it was.
    """
    output = output or root / "greengrass-build"
    cache = cache or root / ".wheels"
    targets = targets or [Target(python, architecture) for architecture in ARCHITECTURES for python in PYTHONS]
    components = [read_recipe(path) for path in sorted((root / "recipes").glob("*.yaml"))]
    unknown = set(names or ()) - {component.name for component in components}
    if unknown:
        known = ", ".join(component.name for component in components)
        raise BuildError(f"there is no component {', '.join(sorted(unknown))}; there are {known}")
    if names:
        components = [component for component in components if component.name in names]

    wheels = _collect_all(root, components, targets, cache)
    [pip] = collect(root / "scripts" / "artifact" / "installer.txt", targets[0], cache)  # one wheel for every device
    planned = {}
    for component in components:
        for architecture in component.architectures:
            pythons = [target.python for target in targets if target.architecture == architecture]
            if pythons:
                chosen = {wheel for python in pythons for wheel in wheels[component.name, Target(python, architecture)]}
                planned[component, architecture] = contents(root, component, pythons, chosen, pip)

    recipes = output / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "recipe.yaml", recipes / "recipe.yaml")
    written = [recipes / "recipe.yaml"]
    for component in components:
        for stale in recipes.glob(f"{component.name}-[0-9]*.yaml"):
            stale.unlink()
        shutil.rmtree(output / "artifacts" / component.name, ignore_errors=True)
        written.append(recipes / f"{component.name}-{component.version}.yaml")
        shutil.copyfile(component.recipe, written[-1])
    zips = []
    for (component, architecture), files in planned.items():
        zips.append(output / "artifacts" / component.name / component.version / component.zip_name(architecture))
        zips[-1].parent.mkdir(parents=True, exist_ok=True)
        write_zip(zips[-1], files)
    (output / "SHA256SUMS").write_text(
        "".join(f"{sha256(path)}  {path.relative_to(output).as_posix()}\n" for path in sorted(written + zips)),
        encoding="utf-8",
    )
    return zips


def _collect_all(
    root: Path, components: list[Component], targets: list[Target], cache: Path
) -> dict[tuple[str, Target], list[Path]]:
    jobs = {
        (component.name, target): root / "components" / component.package / "requirements.txt"
        for component in components
        for target in targets
        if target.architecture in component.architectures
    }
    with ThreadPoolExecutor(max_workers=4) as pool:  # pip mostly waits for the index
        return dict(pool.map(lambda job: (job, collect(jobs[job], job[1], cache)), jobs))


def contents(
    root: Path, component: Component, pythons: list[str], wheels: set[Path], pip: Path
) -> dict[str, bytes | Path]:
    """Every file of a component's zip: its name inside, and its bytes or where they are."""
    package = root / "components" / component.package
    if not (package / "__main__.py").is_file():
        raise BuildError(f"{package}: has no __main__.py, so nothing would start; {component.recipe} names it")
    files: dict[str, bytes | Path] = {}
    for name, source in ((component.package, package), ("sluice", root / "shared" / "sluice")):
        for module in source.rglob("*.py"):
            files[f"{name}/{module.relative_to(source).as_posix()}"] = module
    for wheel in wheels:
        files[f"wheels/{wheel.name}"] = wheel
    files[f"installer/{pip.name}"] = pip
    files["requirements.txt"] = package / "requirements.txt"
    files["LICENSE"] = root / "LICENSE"
    files["NOTICE"] = root / "NOTICE"
    for script in ("install.sh", "run.sh"):
        text = (root / "scripts" / "artifact" / script).read_text(encoding="utf-8")
        for placeholder, value in (
            ("@PACKAGE@", component.package),
            ("@PIP@", f"installer/{pip.name}"),
            ("@PYTHONS@", " ".join(pythons)),
        ):
            text = text.replace(placeholder, value)
        files[script] = text.encode()
    files["SHA256SUMS"] = "".join(f"{_digest(files[name])}  {name}\n" for name in sorted(files)).encode()
    return files


def _digest(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def write_zip(path: Path, files: dict[str, bytes | Path]) -> None:
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
    options = parser.parse_args(arguments)
    try:
        zips = build(
            output=options.output.resolve(),
            names=options.component,
            targets=[host()] if options.host_only else None,
        )
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder of somebody else's
        print(f"build: {error}: make room, or give a folder that can be written with --output", file=sys.stderr)
        return 1
    for path in zips:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
