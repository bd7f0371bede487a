"""Installs what a component's requirements.txt names into the environment of the Python that runs this file.

    <venv>/bin/python -I install_packages.py <folder of the unpacked component>

The wheels come from every version of io.sluice.Runtime that is unpacked beside the component, as the nuclei lay
components out:

    <name>/<version>/<zip without .zip>/                        the component
    io.sluice.Runtime/<version>/sluice-runtime-<architecture>/  wheels/, installer/pip-….whl

Which Runtime a wheel comes from does not matter: the lock's digests decide what is installed. Part of each component's
zip, run on the device: standard library only, Python 3.10 or later.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

RUNTIME = "io.sluice.Runtime"


def runtimes(unpacked: Path) -> list[Path]:
    """Every unpacked Runtime below `unpacked` that has wheels and pip for us to read, the newest version first."""

    def version(runtime: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", runtime.parent.name))

    found = (unpacked / RUNTIME).glob("*/sluice-runtime-*")
    return sorted(filter(_is_whole, found), key=version, reverse=True)


def _is_whole(runtime: Path) -> bool:
    try:
        return (runtime / "wheels").is_dir() and installer(runtime) is not None
    except PermissionError:  # another user's alone
        return False


def installer(runtime: Path) -> Path | None:
    """pip of a Runtime, as the wheel that it is."""
    return next(iter(sorted((runtime / "installer").glob("pip-*.whl"))), None)


def install(component: Path, wheels: list[Path]) -> None:
    """Runs pip of the first of these Runtimes. Ends the process, in words, when not everything can be installed."""
    pip = installer(wheels[0])
    command = [sys.executable, "-I", f"{pip}/pip", "--isolated", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-cache-dir", "--no-compile", "--no-index", "--no-deps", "--require-hashes"]
    command += [f"--find-links={runtime / 'wheels'}" for runtime in wheels]
    command += [f"--requirement={component / 'requirements.txt'}"]
    result = subprocess.run(
        command, env={**os.environ, "PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return
    sys.stderr.write(result.stdout + result.stderr)
    if "[Errno 28]" in result.stderr:
        sys.exit(f"install: there is no room left in {sys.prefix}: make room on this disk, some 200 MB")
    if "DO NOT MATCH THE HASHES" in result.stderr:
        sys.exit(
            f"install: a wheel that is named above is damaged, or not the one that was released: take {RUNTIME} out of "
            f"the deployment, and then deploy it again"
        )
    lacking = re.search(r"No matching distribution found for ([^\s;]+)", result.stderr)
    if lacking is None:
        sys.exit("install: pip could not install the component's packages, for the reason above")
    versions = ", ".join(runtime.parent.name for runtime in wheels)
    sys.exit(
        f"install: {RUNTIME} {versions} does not carry {lacking[1]} for Python {sys.version_info[0]}."
        f"{sys.version_info[1]}: deploy components and {RUNTIME} of one release"
    )


def main() -> None:
    component = Path(sys.argv[1])
    unpacked = component.parents[2]
    wheels = runtimes(unpacked)
    if not wheels:
        sys.exit(
            f"install: {RUNTIME}, which carries the packages that components run on, is not there: nothing whole that "
            f"this user may read is at {unpacked}/{RUNTIME}/<version>/sluice-runtime-<architecture>. Deploy it along "
            f"with the component."
        )
    install(component, wheels)


if __name__ == "__main__":
    main()
