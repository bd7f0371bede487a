"""Texts by number, so that samples of texts stand in the same columns as numbers. 0 is the empty text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 100_000
"""Different texts that samples which windows still need may have."""


class Texts:
    """The texts of one step."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._numbers = {"": 0}

    def __len__(self) -> int:
        return len(self.texts)

    def numbers(self, texts: Iterable[str | None]) -> NDArray[np.float64]:
        """The number of each; NaN for None, and for a new one for which there is no room."""
        found = []
        for text in texts:
            number = None if text is None else self._numbers.get(text)
            if number is None and text is not None and len(self.texts) < MOST:
                number = self._numbers[text] = len(self.texts)
                self.texts.append(text)
            found.append(float("nan") if number is None else float(number))
        return np.array(found, dtype=np.float64)

    def renumbered(self, used: NDArray[np.float64]) -> NDArray[np.float64]:
        """Forget all texts but these. The new number by the old one; 0 for those that are gone."""
        kept = np.unique(np.append(used[np.isfinite(used)], 0.0)).astype(np.int64)
        moved = np.zeros(len(self.texts))
        moved[kept] = np.arange(len(kept))
        self.load([self.texts[number] for number in kept.tolist()])
        return moved

    def load(self, texts: Sequence[str]) -> None:
        """Have these."""
        self.texts = list(texts) or [""]
        self._numbers = {text: number for number, text in enumerate(self.texts)}
