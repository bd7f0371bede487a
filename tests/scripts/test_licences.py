"""The list of licences that goes along with third-party packages."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

import build
from licences import licence_list, stated
from wheelhouse import BuildError


def metadata(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in fields:
        message.add_header(name, value)
    return message


BSD = ("Classifier", "License :: OSI Approved :: BSD License")
APACHE = ("Classifier", "License :: OSI Approved :: Apache Software License")
OTHER = ("Classifier", "Programming Language :: Python :: 3")


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "MIT"), BSD], "MIT OR Apache-2.0"),
        (
            [("License", "Dual License"), BSD, OTHER, APACHE],
            "OSI Approved :: BSD License; OSI Approved :: Apache Software License",
        ),
        ([("License", "Apache-2.0"), OTHER], "Apache-2.0"),
        ([("License", "\nBSD 3-Clause\n\nRedistribution and use in source …")], "BSD 3-Clause"),
        ([OTHER], ""),
    ],
)
def test_a_licence_is_what_the_package_states_most_exactly(fields: list[tuple[str, str]], licence: str) -> None:
    assert stated(metadata(*fields)) == licence


def test_a_package_is_listed_once_with_the_texts_of_all_its_wheels(
    tmp_path: Path, make_wheel: Callable[[Path, str], str]
) -> None:
    for stem in ("valve-2.0-py3-none-any", "Gauge-1.0-cp310-cp310-linux", "Gauge-1.0-cp313-cp313-linux"):
        make_wheel(tmp_path, stem)
    with zipfile.ZipFile(tmp_path / "Gauge-1.0-cp313-cp313-linux.whl", "a") as wheel:
        wheel.writestr("Gauge-1.0.dist-info/NOTICE", "")
        wheel.writestr("Gauge/LICENSE.md", "of the package's data, not of the package")
    assert licence_list(tmp_path.glob("*.whl")).splitlines()[2:] == [
        "Gauge 1.0",
        "    licence: MIT",
        "    texts:   Gauge-1.0.dist-info/NOTICE",
        "             Gauge-1.0.dist-info/licenses/LICENSE",
        "",
        "valve 2.0",
        "    licence: MIT",
        "    texts:   valve-2.0.dist-info/licenses/LICENSE",
    ]


def test_a_wheel_without_a_licence_is_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "gift-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("gift-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: gift\nVersion: 1.0\n")
    with pytest.raises(BuildError, match=r"gift-1\.0-py3-none-any\.whl: states no licence"):
        licence_list([path])


def test_the_runtime_lists_every_package_that_it_carries(tmp_path: Path) -> None:
    [path] = build.build(output=tmp_path, names=[build.RUNTIME], targets=[build.host()])
    with zipfile.ZipFile(path) as archive:
        listed = [line for line in archive.read("LICENSES.txt").decode().splitlines()[2:] if line and line[0] != " "]
        wheels = [Path(name).name.split("-")[:2] for name in archive.namelist() if name.endswith(".whl")]
    assert {line.lower().replace("-", "_") for line in listed} == {f"{a} {b}".lower() for a, b in wheels}
    assert len(listed) > 20
