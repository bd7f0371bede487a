"""Makes tag packages: components without a process whose only artifact is a tag list (see sluice.tag_package)."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import stage as gdk_project
from cli.output import IN_THE_WAY, Failure
from cli.suite import REPOSITORY
from cli.tag_file import instance_columns, tag_tables
from sluice import tables
from sluice.tag_package import FILE
from wheelhouse import BuildError

_FIRST: Final = "1.0.0"
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")

# Only what both nuclei take: no braces but those of variables. -f: the copy of a run that was killed may be read-only.
_RECIPE: Final = """\
---
RecipeFormatVersion: "2020-01-25"
ComponentName: {name}
ComponentVersion: "{version}"
ComponentDescription: A tag list for the collectors of a Sluice gateway. It runs nothing.
ComponentPublisher: Sluice
Manifests:
  - Name: linux
    Platform:
      os: linux
      runtime: "*"
    Artifacts:
      - Uri: s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{file}
        Permission:
          Read: ALL
    Lifecycle:
      install:
        Script: cp -f "{{artifacts:path}}/{file}" {file}.new && mv -f {file}.new {file}
        Timeout: 60
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A tag package as it lies in a folder. `changed`: it was made or replaced just now."""

    name: str
    version: str
    tags: int
    recipe: Path
    artifact: Path
    changed: bool


def normalised(data: bytes) -> tuple[bytes, int]:
    """The same table as every spreadsheet would have it: UTF-8, commas, known columns in one order, rows by tag.

    So that what was only sorted or saved by another program is the same version. Also how many rows it has; raises
    Failure when there are none.
    """
    if known := instance_columns(data):
        required: Sequence[Sequence[str]] = (("instance",),)
        first = "instance"
    else:
        kind = tag_tables(data)
        known, required, first = tuple(kind.columns), kind.required, "tag"
    rows = [row.cells for row in tables.read(data, known, required).rows]
    if not rows:
        raise Failure(f"the table has no rows, and would take all its {first}s away from the devices: give it some")
    rows.sort(
        key=lambda cells: (cells.get("connection", "").casefold() if first == "tag" else "", cells[first].casefold())
    )
    columns = [column for column in known if any(column in cells for cells in rows)]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cells.get(column, "") for column in columns] for cells in rows)
    return out.getvalue().encode(), len(rows)


def package(data: bytes, name: str, version: str | None, output: Path) -> Package:
    """Write the package into a folder laid out as scripts/build.py does it, in the place of an earlier version.

    Without `version`: the version that lies there when the tags are the same, else the next one. Raises Failure.
    """
    content, count = normalised(data)
    before = _present(output, name)
    version, same = _version(version, before, content)
    recipe = output / "recipes" / f"{name}-{version}.yaml"
    artifact = output / "artifacts" / name / version / FILE
    text = recipe_text(name, version)
    if same and recipe.is_file() and recipe.read_text(encoding="utf-8") == text:
        return Package(name, version, count, recipe, artifact, changed=False)
    try:
        _write(artifact, content)
        _write(recipe, text.encode())
        for old in _versions(output, name):
            if old != version:
                shutil.rmtree(output / "artifacts" / name / old)
                (output / "recipes" / f"{name}-{old}.yaml").unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"{output}: {error}: make room, or give a folder that can be written", IN_THE_WAY) from None
    return Package(name, version, count, recipe, artifact, changed=True)


def stage(
    data: bytes, name: str, version: str | None, project: Path, bucket: str | None, region: str | None
) -> Package:
    """Write a project of gdk for the package: `gdk component build` and `publish` work in it, and `sluice publish`.

    The version is chosen as by `package`, from what was staged there before. Raises Failure.
    """
    content, count = normalised(data)
    version, same = _version(version, _present(project / "built", name), content)
    try:
        built = gdk_project.clear(project, name)
        text = recipe_text(name, version)
        artifact = built / "artifacts" / name / version / FILE
        recipe = project / "recipe.yaml"
        _write(artifact, content)
        _write(built / "recipes" / "recipe.yaml", text.encode())
        _write(recipe, text.encode())
        configuration = gdk_project.config(REPOSITORY / "gdk-config.json", name, version, bucket, region)
        _write(project / "gdk-config.json", configuration.encode())
    except BuildError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{project}: {error}: make room, or give a folder that can be written", IN_THE_WAY) from None
    return Package(name, version, count, recipe, artifact, changed=not same)


def recipe_text(name: str, version: str) -> str:
    """The package's recipe."""
    return _RECIPE.format(name=name, version=version, file=FILE)


def _version(wanted: str | None, before: tuple[str, bytes] | None, content: bytes) -> tuple[str, bool]:
    """The version to make, and whether it is there with this content."""
    same = before is not None and before[1] == content
    if wanted is None:
        if before is None:
            return _FIRST, False
        return (before[0], True) if same else (_next(before[0]), False)
    if not _VERSION.fullmatch(wanted):
        raise Failure(f"--version {wanted}: write three numbers of up to six digits, such as 1.0.0")
    if before is not None and before[0] == wanted and not same:
        raise Failure(
            f"--version {wanted} is there with other tags, and a version that devices may have never changes: leave "
            f"--version out for {_next(wanted)}, or give a later one"
        )
    return wanted, same and before is not None and before[0] == wanted


def _next(version: str) -> str:
    first, second, third = _numbers(version)
    return f"{first}.{second}.{third + 1}"


def _numbers(version: str) -> tuple[int, int, int]:
    found = _VERSION.fullmatch(version)
    assert found is not None
    return int(found[1]), int(found[2]), int(found[3])


def _versions(output: Path, name: str) -> Sequence[str]:
    """The versions that lie there, the oldest first."""
    folder = output / "artifacts" / name
    found = [path.name for path in folder.iterdir() if _VERSION.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_numbers)


def _present(output: Path, name: str) -> tuple[str, bytes] | None:
    """The newest version that lies there, and its tags."""
    for version in reversed(_versions(output, name)):
        path = output / "artifacts" / name / version / FILE
        if path.is_file():
            return version, path.read_bytes()
    return None


def _write(path: Path, content: bytes) -> None:
    """As a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)
