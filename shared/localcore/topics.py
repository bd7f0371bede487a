"""MQTT topic filters, as local publish/subscribe and IoT Core use them (MQTT 3.1.1, 4.7)."""

from __future__ import annotations


def has_wildcard(topic: str) -> bool:
    """Whether a text contains `+` or `#`."""
    return "+" in topic or "#" in topic


def is_valid_filter(text: str) -> bool:
    """`+` and `#` stand alone in their level, and `#` only in the last one."""
    levels = text.split("/")
    return bool(text) and all(
        not has_wildcard(level) or level == "+" or (level == "#" and index == len(levels) - 1)
        for index, level in enumerate(levels)
    )


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter covers a topic. `a/#` covers `a`; a leading wildcard covers no topic that begins with `$`."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    if topic_filter == topic:
        return True
    if not is_valid_filter(topic_filter):
        return False
    wanted, given = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(given) < len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, given, strict=False))
