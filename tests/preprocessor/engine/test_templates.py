"""Texts with places to fill."""

from __future__ import annotations

import pytest

from preprocessor.engine.templates import filled, names_in


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("", []),
        ("plain", []),
        ("{a}-{b1}/{a}", ["a", "b1", "a"]),
        ("{", None),
        ("a}", None),
        ("{1}", None),
        ("{a b}", None),
    ],
)
def test_names(template: str, names: list[str] | None) -> None:
    assert names_in(template) == names


def test_filling_is_done_once() -> None:
    assert filled("{a}/{b}", {"a": "{b}", "b": "x"}) == "{b}/x"
    with pytest.raises(KeyError):
        filled("{c}", {"a": "x"})
