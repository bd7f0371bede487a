"""MQTT topic filters, judged by a second, unlike implementation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcore.topics import has_wildcard, is_valid_filter, matches

LEVELS = st.sampled_from(["", "a", "b", "+", "#", "$x"])
TOPICS = st.lists(st.sampled_from(["", "a", "b", "$x"]), min_size=1, max_size=4).map("/".join)
FILTERS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(is_valid_filter)


def oracle(topic_filter: str, topic: str) -> bool:
    """The same rules as one regular expression."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    pattern = re.escape(topic_filter).replace(r"\+", "[^/]*").replace("/\\#", "(/.*)?").replace(r"\#", ".*")
    return re.fullmatch(pattern, topic) is not None


@given(FILTERS, TOPICS)
def test_filters_match_as_the_oracle_says(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic) == oracle(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("test/#", "test", True),
        ("test/#", "test/a/b", True),
        ("test/+", "test/a", True),
        ("test/+", "test", False),
        ("test/+", "test/a/b", False),
        ("+/a", "$sys/a", False),
        ("#", "$sys/a", False),
        ("$sys/#", "$sys/a", True),
        ("a/#/x", "a/b/x", False),
    ],
)
def test_known_cases(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@pytest.mark.parametrize("text", ["", "a/#/x", "a#", "++", "a/b+"])
def test_malformed_filters_are_told(text: str) -> None:
    assert not is_valid_filter(text)


def test_a_topic_with_a_wildcard_is_told() -> None:
    assert has_wildcard("a/+/b")
    assert has_wildcard("a/#")
    assert not has_wildcard("a/b")
