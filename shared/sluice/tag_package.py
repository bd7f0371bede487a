"""Tag packages: components without a process, whose only artifact is a tag list that collectors of the core read.

A package's install step copies its `tags.csv` into its own work folder, where it lies beside the folders of all other
components; what reads it names the package in its configuration, as ``site-a`` or ``io.sluice.Tags.site-a``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sluice.config import NAME_PATTERN

PREFIX: Final = "io.sluice.Tags."
FILE: Final = "tags.csv"


def component_name(name: str) -> str:
    """The component of a package: ``io.sluice.Tags.site-a`` for ``site-a`` and for itself. Raises ValueError."""
    short = name.strip().removeprefix(PREFIX)
    if not re.fullmatch(NAME_PATTERN, short):
        raise ValueError("is no name of a tag package")
    return PREFIX + short


def tags_file(name: str, work_dir: Path) -> Path:
    """Where a component with this work folder finds the package's tag list, when it is installed. Raises ValueError."""
    return work_dir.absolute().parent / component_name(name) / FILE
