"""What the README shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sluice.batch import Columns, Header, Series, ValueType, encode

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("compress", [False, True])
def test_the_lines_that_read_a_batch_read_one(compress: bool) -> None:
    columns = Columns(
        type=ValueType.DOUBLE,
        series=(Series("Reactor/Temp"), Series("Reactor/Level")),
        s=np.array([0, 1, 0] * 50, dtype=np.int32),
        t=np.arange(150, dtype=np.int64) * 1000 + 1_700_000_000_000_000_000,
        value=np.arange(150) / 4,
        quality=np.array([0, 1, 0] * 50, dtype=np.uint8),
    )
    payload = encode(Header("opcua-collector/line1", "9f2c5a0b77d1", 1), columns, compress=compress)
    (lines,) = blocks("python")
    read: list[tuple[Any, ...]] = []
    exec(lines, {"payload": payload, "print": lambda *row: read.append(row)})
    assert read == [(of.tag, of.time, of.value, of.quality) for of in columns.samples()]


def test_every_file_and_script_that_it_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    scripts = re.findall(r"(?:\./|python3 )(scripts/[a-z.]+)", README)
    assert links
    assert scripts
    missing = [name for name in [*links, *scripts] if not (ROOT / name).exists()]
    assert missing == []
