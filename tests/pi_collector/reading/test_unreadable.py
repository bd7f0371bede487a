"""What is told of streams that the server does not give."""

from __future__ import annotations

from typing import Any

import pytest

from pi_collector.reading.unreadable import LASTS, MOST, Unreadable, words

DENIED = "does not allow this to our user (403): [-10401] No Read Access - Secure Object: B"
LATER = "cannot do this just now (500): The archive is busy."


class Problems:
    """What stands, by place, and how often something new was said."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[Any, str, str, str]] = {}
        self.news = 0

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        self.news += self.told.get(scope) != (value, problem, remedy, effect)
        self.told[scope] = (value, problem, remedy, effect)

    def clear(self, scope: str) -> None:
        self.told.pop(scope, None)


def place(handle: int) -> tuple[str, Any]:
    return f"connections.lab.tags.T{handle}.point", f"\\\\PI\\T{handle}"


@pytest.mark.parametrize("why", [DENIED, "[-10401] No Read Access - Secure Object: B"])
def test_a_right_that_is_missing_is_told_at_once_with_who_gives_it(why: str) -> None:
    problems = Problems()
    Unreadable(problems, place).look({3: why}, 0.0)
    value, problem, remedy, effect = problems.told["connections.lab.tags.T3.point"]
    assert value == "\\\\PI\\T3"
    assert problem == "may not be read by this user ([-10401] No Read Access - Secure Object: B)"
    assert "administrator" in remedy
    assert "read access" in remedy
    assert "the others run on" in effect


def test_a_right_that_is_missing_without_a_word_of_why_is_told_as_well() -> None:
    assert words("does not allow this to our user (403)")[0] == "may not be read by this user"


def test_what_may_pass_by_itself_is_told_when_it_has_not() -> None:
    problems = Problems()
    one = Unreadable(problems, place)
    one.look({1: LATER}, 100.0)
    one.look({1: LATER}, 100.0 + LASTS - 1)
    assert not problems.told
    one.look({}, 100.0 + LASTS)
    one.look({1: LATER}, 100.0 + LASTS + 1)
    assert not problems.told, "it began anew"
    one.look({1: LATER}, 100.0 + 2 * LASTS + 1)
    assert problems.told["connections.lab.tags.T1.point"][1] == f"cannot be read: {LATER}"


def test_what_was_told_stands_until_it_is_over_whatever_else_is_said_meanwhile() -> None:
    problems = Problems()
    one = Unreadable(problems, place)
    for second in range(5):
        one.look({1: f"{DENIED} {second}"}, float(second))
    assert problems.news == 1
    one.look({}, 6.0)
    assert not problems.told


def test_a_stream_that_nobody_collects_any_more_is_told_no_more() -> None:
    problems, known = Problems(), {1: place(1)}
    one = Unreadable(problems, known.get)
    one.look({1: DENIED}, 0.0)
    assert problems.told
    known.clear()
    one.look({1: DENIED}, 1.0)
    assert not problems.told


def test_only_so_many_are_told_and_the_next_ones_when_there_is_room() -> None:
    problems = Problems()
    one = Unreadable(problems, place)
    failing = dict.fromkeys(range(MOST + 5), DENIED)
    one.look(failing, 0.0)
    assert len(problems.told) == MOST
    one.look({handle: why for handle, why in failing.items() if handle >= 3}, 1.0)
    assert len(problems.told) == MOST
    one.close()
    assert not problems.told
