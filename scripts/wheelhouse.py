"""Which wheels a component needs on a device, and where they are on this machine.

A component's `requirements.txt` is one lock for every supported Python and platform: exact versions, hashes, and
environment markers where they differ. What a *device* needs is decided here by evaluating those markers for the device
(its Python, its architecture), never for the machine that builds; pip is then asked for exactly these versions, as
wheels alone, and checks each against the lock.

Wheels are kept in a cache folder. A wheel is used only while its SHA-256 stands in the lock, so a damaged or exchanged
file in the cache is fetched again, and a second build needs no network.

Standard library only: gdk runs the build with whatever `python3` is first on PATH.

    BuildError              what the person who builds can mend; its text says how
    └── MarkerError         an environment marker that this module cannot decide for a device
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PYTHONS = ("3.13", "3.12", "3.11", "3.10")
"""Supported Pythons, in the order in which a device looks for them."""

ARCHITECTURES = ("x86_64", "aarch64")

GLIBC_MINORS = range(28, 16, -1)
"""glibc 2.28 is the oldest that a device may have: wheels for it and for anything older down to 2.17 run there."""


class BuildError(Exception):
    pass


class MarkerError(BuildError):
    pass


@dataclass(frozen=True)
class Target:
    """A kind of device: `python` as "3.12", `architecture` as the kernel calls it."""

    python: str
    architecture: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.architecture}"

    def environment(self, patch: int = 0) -> dict[str, str]:
        """The variables that environment markers speak of (PEP 508) on CPython `python`.`patch` for Linux."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.{patch}",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def pip_arguments(self) -> list[str]:
        """What makes pip choose wheels for this device instead of for itself.

        The older names of the manylinux2014 family are given in full, because pip widens none of the newer ones.
        """
        tags = [f"manylinux_2_{minor}" for minor in GLIBC_MINORS] + ["manylinux2014"]
        platforms = [f"--platform={tag}_{self.architecture}" for tag in tags]
        return ["--implementation=cp", f"--python-version={self.python}", *platforms]


@dataclass(frozen=True)
class Requirement:
    """One line of a lock: `hashes` are the SHA-256 of every file of that version that the lock allows."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]

    def applies_to(self, target: Target) -> bool:
        """Whether the device needs it. Both ends of a Python's patch releases must agree, or nobody can tell."""
        if not self.marker:
            return True
        answers = {evaluate(self.marker, target.environment(patch)) for patch in (0, 99)}
        if len(answers) != 1:
            raise MarkerError(
                f"{self.name}=={self.version} ; {self.marker}: differs between patch releases of "
                f"Python {target.python}. Pin one that all of them can use in pyproject.toml and run scripts/lock."
            )
        return answers.pop()

    def pinned(self) -> str:
        """The line without its marker, which pip would evaluate for the wrong machine."""
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))]
        )


_LOCK_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?:;\s*(?P<marker>[^\\]*?))?\s*(?P<hashes>(?:--hash=sha256:[0-9a-f]{64}\s*)+)"
)


def read_lock(path: Path) -> tuple[Requirement, ...]:
    """The requirements of a lock file in its order; every line must be an exact version with hashes."""
    requirements = []
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LOCK_LINE.fullmatch(line.strip())
        if match is None:
            raise BuildError(
                f"{path}: «{line.strip()[:80]}» is not an exact version with sha256 hashes. "
                "Do not edit the lock: change pyproject.toml and run scripts/lock."
            )
        hashes = frozenset(re.findall(r"sha256:([0-9a-f]{64})", match["hashes"]))
        requirements.append(Requirement(match["name"], match["version"], (match["marker"] or "").strip(), hashes))
    return tuple(requirements)


# Environment markers, PEP 508 without what a lock never holds:
#
#   expression := conjunction ("or" conjunction)*
#   conjunction := term ("and" term)*
#   term := "(" expression ")" | operand operator operand
#   operand := variable | 'text'
#
# Versions are compared as numbers when the variable is a Python version, everything else as text. What is not
# understood is an error and never a guess: a wrong guess is a wheel that is missing on somebody's device.

_MARKER_TOKEN = re.compile(r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<word>[A-Za-z_.]+)|(?P<sign><=|>=|==|!=|<|>|\(|\)))")
_VERSION_VARIABLES = ("python_version", "python_full_version")


def evaluate(marker: str, environment: dict[str, str]) -> bool:
    """The value of an environment marker on a device with these variables."""
    tokens: list[str] = []
    position = 0
    while position < len(marker.rstrip()):
        match = _MARKER_TOKEN.match(marker, position)
        if match is None:
            raise MarkerError(f"«{marker}»: cannot read «{marker[position:].strip()}»")
        tokens.append(match[0].strip())
        position = match.end()
    tokens.reverse()  # the next token is the last of the list

    def take() -> str:
        if not tokens:
            raise MarkerError(f"«{marker}»: ends too early")
        return tokens.pop()

    def expression() -> bool:
        value = conjunction()
        while tokens and tokens[-1] == "or":
            tokens.pop()
            value = conjunction() or value
        return value

    def conjunction() -> bool:
        value = term()
        while tokens and tokens[-1] == "and":
            tokens.pop()
            value = term() and value
        return value

    def term() -> bool:
        first = take()
        if first == "(":
            value = expression()
            if take() != ")":
                raise MarkerError(f"«{marker}»: a bracket is not closed")
            return value
        return _compare(first, take(), take(), environment, marker)

    value = expression()
    if tokens:
        raise MarkerError(f"«{marker}»: cannot read «{' '.join(reversed(tokens))}»")
    return value


def _compare(left: str, operator: str, right: str, environment: dict[str, str], marker: str) -> bool:
    def text(operand: str) -> str:
        if operand[0] in "'\"":
            return operand[1:-1]
        if operand in environment:
            return environment[operand]
        raise MarkerError(f"«{marker}»: «{operand}» is not a variable that is known of a device")

    def numbers(operand: str) -> tuple[int, ...]:
        value = text(operand)
        if not re.fullmatch(r"\d+(\.\d+)*", value):
            raise MarkerError(f"«{marker}»: «{value}» is not a plain version")
        parts = [int(part) for part in value.split(".")]
        while parts and parts[-1] == 0:  # 3.10 and 3.10.0 are the same version
            parts.pop()
        return tuple(parts)

    a: tuple[int, ...] | str
    b: tuple[int, ...] | str
    if left in _VERSION_VARIABLES or right in _VERSION_VARIABLES:
        a, b = numbers(left), numbers(right)
    elif operator in ("==", "!="):
        a, b = text(left), text(right)
    else:
        raise MarkerError(f"«{marker}»: «{operator}» between words has no meaning here")
    if operator == "==":
        return a == b
    if operator == "!=":
        return a != b
    assert isinstance(a, tuple)
    assert isinstance(b, tuple)
    if operator == "<":
        return a < b
    if operator == "<=":
        return a <= b
    if operator == ">":
        return a > b
    if operator == ">=":
        return a >= b
    raise MarkerError(f"«{marker}»: «{operator}» is not an operator that is known here")


def collect(lock: Path, target: Target, cache: Path) -> list[Path]:
    """The wheels that `lock` means for `target`, sorted by name, from the cache or else from the package index."""
    needed = [requirement for requirement in read_lock(lock) if requirement.applies_to(target)]
    wanted = "".join(f"{requirement.pinned()}\n" for requirement in needed)
    key = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    # What pip chose: which one of several fitting wheels is taken must not depend on what else lies in the cache.
    listing = cache / f"{target.python}-{target.architecture}-{key}.json"
    allowed = frozenset().union(*(requirement.hashes for requirement in needed))
    if listing.is_file():
        wheels = [cache / name for name in json.loads(listing.read_text(encoding="utf-8"))]
        if all(wheel.is_file() and sha256(wheel) in allowed for wheel in wheels):
            return wheels
    names = _download(wanted, target, cache)
    if len(names) != len(needed):
        raise BuildError(f"{lock}: {len(needed)} packages are needed for {target}, pip brought {len(names)}: {names}")
    _replace_text(listing, json.dumps(names))
    return [cache / name for name in names]


def _download(wanted: str, target: Target, cache: Path) -> list[str]:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text(wanted, encoding="utf-8")
        wheels = Path(folder, "wheels")
        command = [
            *_pip(cache),
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            *target.pip_arguments(),
            f"--dest={wheels}",
            f"--requirement={pins}",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            last_words = "\n".join(f"    {line}" for line in result.stderr.strip().splitlines()[-6:])
            raise BuildError(
                f"pip could not fetch the wheels for {target}:\n{last_words}\n"
                "If the network is there: a package that has no wheel for this device cannot be installed on it."
            )
        names = sorted(wheel.name for wheel in wheels.iterdir())
        for name in names:
            os.replace(wheels / name, cache / name)  # noqa: PTH105 - says that it is atomic
    return names


def _pip(cache: Path) -> list[str]:
    """A command that is pip: this Python's own, or one made in the cache (Debian's python3 comes without)."""
    if _has_pip(sys.executable):
        return [sys.executable, "-m", "pip"]
    venv = cache / f"pip-{sys.version_info[0]}.{sys.version_info[1]}"
    python = venv / "bin" / "python"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            shutil.rmtree(venv, ignore_errors=True)
            raise BuildError(
                f"{sys.executable} has neither pip nor venv. On Debian or Ubuntu: apt-get install python3-venv; "
                "or build with .venv/bin/python scripts/build.py after scripts/setup."
            )
    return [str(python), "-m", "pip"]


@functools.cache
def _has_pip(python: str) -> bool:
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _replace_text(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
