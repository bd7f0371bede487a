"""An export of a real plant: 11 days of 108 tags, five of them with words where a value should be.

The package bibmon carries it (anonymised, Apache-2.0). What it holds is read here with nothing but `csv`.
"""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import Turn
from preprocessor.step_settings import QualitySettings
from preprocessor.steps.quality import QualityGate
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Quality, Series, ValueType

from .flows import flow, pipeline, settings

WORDS = {"Bad": 340, "Inp OutRange": 156, "Scan Timeout": 2}
ROWS_PER_TURN = 200


class Cell(NamedTuple):
    tag: str
    time: int
    text: str


@pytest.fixture(scope="module")
def export() -> list[list[Cell]]:
    """The cells of the export, row by row."""
    spec = importlib.util.find_spec("bibmon")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "real_process_data" / "real_process_data.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    tags = rows[0][1:]
    found = []
    for row in rows[1:]:
        moment = datetime.strptime(row[0], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
        found.append(
            [Cell(tag, int(moment.timestamp()) * 10**9, text) for tag, text in zip(tags, row[1:], strict=True)]
        )
    return found


def gate() -> tuple[Pipeline, QualityGate]:
    context = flow()
    step = QualityGate("gate", settings(QualitySettings, type="quality", numbers=True), context)
    return pipeline(context, step), step


def turns(export: list[list[Cell]]) -> Iterator[list[Cell]]:
    for start in range(0, len(export), ROWS_PER_TURN):
        yield [cell for row in export[start : start + ROWS_PER_TURN] for cell in row]


def texts(cells: list[Cell]) -> Columns:
    """The cells as texts."""
    index: dict[str, int] = {}
    value = np.empty(len(cells), dtype=object)
    value[:] = [cell.text for cell in cells]
    s = [index.setdefault(cell.tag, len(index)) for cell in cells]
    return Columns(
        ValueType.STRING,
        tuple(Series(tag) for tag in index),
        np.array(s, dtype=np.int32),
        np.array([cell.time for cell in cells], dtype=np.int64),
        value,
    )


def doubles(cells: list[Cell]) -> Columns:
    """The cells as numbers."""
    as_texts = texts(cells)
    value = np.array([float(cell.text) for cell in cells])
    return Columns(ValueType.DOUBLE, as_texts.series, as_texts.s, as_texts.t, value)


def fed(of: Pipeline, cells: list[Cell], parts: list[Columns]) -> Outcome:
    now = cells[-1].time
    return of.turn(
        [SampleBatch(Header("pi/plant", "0" * 12, i + 1), part) for i, part in enumerate(parts)], Turn(now, now)
    )


def judge(cells: list[Cell], outcome: Outcome) -> None:
    """Every cell is there once, in the order of time: the number that it was to the last bit, or null with its word."""
    assert [columns.type for columns in outcome.live] == [ValueType.DOUBLE]
    assert not outcome.backfill
    by_tag: dict[str, list[Cell]] = {}
    for cell in cells:
        by_tag.setdefault(cell.tag, []).append(cell)
    got: dict[str, list[tuple[int, float | None, Quality, int | str]]] = {}
    for sample in outcome.live[0].samples():
        assert sample.value is None or isinstance(sample.value, float)
        got.setdefault(sample.tag, []).append((sample.time, sample.value, sample.quality, sample.status))
    assert got.keys() == by_tag.keys()
    for tag, own in by_tag.items():
        for cell, (time, value, quality, status) in zip(own, got[tag], strict=True):
            assert time == cell.time
            if cell.text in WORDS:
                assert (value, quality, status) == (None, Quality.BAD, cell.text)
            else:
                assert value is not None
                assert (value.hex(), quality, status) == (float(cell.text).hex(), Quality.GOOD, 0)


def test_the_export_is_what_it_is_said_to_be(export: list[list[Cell]]) -> None:
    counted = Counter(cell.text for row in export for cell in row)
    assert {word: counted[word] for word in WORDS} == WORDS
    assert (len(export), len(export[0])) == (3169, 108)
    assert len({cell.tag for row in export for cell in row if cell.text in WORDS}) == 5


def test_every_word_is_gated_and_every_number_arrives(export: list[list[Cell]]) -> None:
    of, step = gate()
    for cells in turns(export):
        judge(cells, fed(of, cells, [texts(cells)]))
    assert step.counters["words"] == step.counters["bad"] == sum(WORDS.values())
    assert step.counters["numbers"] == 3169 * 108 - sum(WORDS.values())
    assert "not-a-number" not in step.counters
    assert of.held == 0


def test_numbers_and_words_of_a_tag_in_two_batches_become_one_stream_in_order(export: list[list[Cell]]) -> None:
    of, step = gate()
    for number, cells in enumerate(turns(export)):
        words = [cell for cell in cells if cell.text in WORDS]
        parts = [doubles([cell for cell in cells if cell.text not in WORDS])]
        if words:
            parts.insert(number % 2, texts(words))  # whichever comes first
        judge(cells, fed(of, cells, parts))
    assert step.counters["words"] == sum(WORDS.values())
    assert of.held == 0
    assert of.counters["repeated"] == 0


def test_without_numbers_words_are_gated_and_all_else_stays_text(export: list[list[Cell]]) -> None:
    context = flow()
    step = QualityGate("gate", settings(QualitySettings, type="quality"), context)
    of = pipeline(context, step)
    cells = [cell for row in export[:500] for cell in row if cell.tag == "tag2"]
    (columns,) = fed(of, cells, [texts(cells)]).live
    assert columns.type is ValueType.STRING
    assert [sample.value for sample in columns.samples()] == [
        None if cell.text in WORDS else cell.text for cell in cells
    ]
    assert of.held == 0
