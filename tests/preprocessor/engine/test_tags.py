"""Tags, words and contexts: what blocks hold numbers of keeps its numbers."""

from __future__ import annotations

import time

from preprocessor.engine import tags as module
from preprocessor.engine.tags import Contexts, Tags, Words
from sluice.columns import Series


def test_a_tag_keeps_its_slot_whatever_unit_it_has() -> None:
    tags = Tags()
    first = tags.slot(Series("T", "site/a", "degC"))
    tags.log.clear()
    assert tags.slot(Series("T", "site/a", "degC", batch="B1")) == first
    assert tags.log == []
    assert tags.slot(Series("T", "site/a", "degF")) == first
    assert tags.log == [first]
    assert tags.series[first].unit == "degF"
    assert tags.slot(Series("T", "site/b")) != first
    assert tags.slot(Series("T", "site/a"), "celsius") != first


def test_there_is_room_for_so_many_and_the_rest_is_counted() -> None:
    tags = Tags(most=2)
    assert [tags.slot(Series(name)) for name in "abc"] == [0, 1, -1]
    assert tags.refused == 1
    assert tags.slot(Series("a")) == 0


def test_tags_are_found_by_name_and_by_path() -> None:
    tags = Tags()
    a = tags.slot(Series("Unit/T", "site/a"))
    b = tags.slot(Series("Unit/T", "site/b"))
    assert tags.find("Unit/T") == [a, b]
    assert tags.find("site/b/Unit/T") == [b]
    assert tags.find("Unit") == []


def test_everything_comes_back() -> None:
    tags = Tags()
    tags.slot(Series("a", "x", "degC", extra=(("k", "v"),)))
    tags.slot(Series("a", "x"), "step")
    again = Tags()
    again.load(tags.save())
    assert again.series == tags.series
    assert again.slot(Series("a", "x", "degC", extra=(("k", "v"),))) == 0
    assert again.slot(Series("a", "x"), "step") == 1


def test_words_are_numbers_below_zero_and_bounded() -> None:
    words = Words()
    code = words.code("stuck")
    assert code < 0
    assert words.code("stuck") == code
    assert words.text(code) == "stuck"
    assert words.text(5) == 5
    for number in range(module.MOST_WORDS + 10):
        words.code(f"w{number}")
    assert words.text(words.code("one more")) == "other"
    again = Words()
    again.load(words.words)
    assert again.code("stuck") == code


def test_contexts_forget_the_oldest() -> None:
    contexts = Contexts()
    first = contexts.number("B1")
    both = contexts.combined(first, extra={"rev": "1"})
    assert contexts.series(Series("T"), both) == Series("T", batch="B1", extra=(("rev", "1"),))
    assert contexts.batch(both) == "B1"
    assert contexts.series(Series("T"), 0) == Series("T")
    again = Contexts()
    again.load(contexts.save())
    assert again.number("B1") == first
    for number in range(module.MOST_CONTEXTS + 5):
        contexts.number(f"X{number}")
    assert len(contexts) == module.MOST_CONTEXTS
    assert contexts.series(Series("T"), first) == Series("T")
    assert contexts.number("B1") != first


def test_a_tag_of_many_assets_is_found_by_its_path_at_once_and_in_the_order_of_stages() -> None:
    tags = Tags()
    for number in range(20_000):
        tags.slot(Series("Run", f"site/u{number}"))
    made = tags.slot(Series("Run", "site/u7"), stage="b")
    again = tags.slot(Series("Run", "site/u7"), stage="a")
    assert tags.find("site/u7/Run") == [7, made, again]
    begin = time.process_time()
    for number in range(2_000):
        assert tags.find(f"site/u{number + 8}/Run") == [number + 8]
    assert time.process_time() - begin < 0.5  # 2 s and more when all of that name are looked at
