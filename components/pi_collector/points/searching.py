"""Searches for points, and the tags that they give.

A search by name and source is answered by every PI Web API (`dataservers/{id}/points`), one by a query of PI's point
search by those from 2021 SP3 on (`points/search`). Both give pages. What a search finds is named by the point, with the
search's prefix; a point that the configuration or a table collects in the same way, or an earlier search found, is
theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final
from urllib.parse import quote

from pi_collector.config import Select, Tag
from pi_collector.points.lookup import DataServer, Lookup
from pi_collector.points.point import BLOB, Point
from pi_collector.web.errors import NotFoundError, PiError, RefusedError, UnsupportedError
from pi_collector.web.pace import Priority

MOST: Final = 100_000
"""Points that the searches of a connection may find together."""
PAGE: Final = 1000
"""Points of one answer; more of them PI's point search does not give."""
_LONGEST_NAME: Final = 256
_OLDER: Final = re.compile(r"web ?id|no http resource", re.IGNORECASE)


class FoundTag(Tag):
    """A tag that a search gives."""

    setting: ClassVar[str] = "select"


class NoSearchError(PiError):
    """The server is too old for a query."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What one search found. `cut`: there are more than may be found. `repeats`: the server gave a page again."""

    points: tuple[Point, ...]
    cut: bool = False
    repeats: bool = False


async def search(lookup: Lookup, wish: Select, server: DataServer, *, most: int, priority: Priority) -> Searched:
    """All points that the search finds now, up to `most`. Raises PiError; NoSearchError where queries are not known."""
    if wish.query:
        path = "points/search"
        query = [("dataServerWebId", server.web_id), ("query", wish.query)]
    else:
        path = f"dataservers/{quote(server.web_id, safe='')}/points"
        query = [("nameFilter", wish.name or "*"), *([("sourceFilter", wish.source)] if wish.source else [])]
    found: dict[int, Point] = {}
    most = max(0, most)
    start = 0
    while True:
        try:
            page, count, more = await lookup.page(
                path, [*query, ("startIndex", str(start)), ("maxCount", str(PAGE))], priority=priority
            )
        except RefusedError as error:
            if wish.query and _does_not_search(error):
                raise NoSearchError(
                    "has a query, and this PI Web API has no point search (it is there from 2021 SP3 on)",
                    "write name and source in the place of query, or update the server",
                ) from None
            raise
        fresh = [point for point in page if point.id not in found]
        found.update((point.id, point) for point in fresh)
        start += count
        if len(found) > most:
            return Searched(tuple(found.values())[:most], cut=True)
        if not count or not (more or count >= PAGE):
            return Searched(tuple(found.values()))
        # A page of nothing that can be understood is passed by, but not for ever.
        if (page and not fresh) or start > 2 * MOST:
            return Searched(tuple(found.values()), repeats=True)


def _does_not_search(error: RefusedError) -> bool:
    """An older server takes `search` for the WebId of a point."""
    if isinstance(error, (NotFoundError, UnsupportedError)):
        return True
    return error.status == 400 and any(_OLDER.search(text) for text in error.errors)


# --- the tags that searches give ---


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tags by name, each with its point; by search how many it gives, and how many it leaves out and why; and by search
    a name that no tag can have."""

    tags: Mapping[str, tuple[FoundTag, Point]]
    counts: Mapping[str, Mapping[str, int]]
    unusable: Mapping[str, str]


def choose(
    select: Mapping[str, Select],
    searched: Mapping[str, Sequence[Point]],
    names: Collection[str],
    used: Collection[str],
    keys: Callable[[Point, str], Collection[str]],
    becomes: Callable[[str, str], Collection[str]],
    before: Mapping[str, tuple[FoundTag, Point]],
) -> Chosen:
    """The tags that searches give beside others, which have `names` and the keys `used`.

    keys: under which a point is collected as a group says (`point.key_of`); nothing is collected twice under one.
    becomes: the names under which a tag is sent on as a group says; no two tags have one.
    before: what was chosen last; a tag that stays is the same object.
    """
    tags: dict[str, tuple[FoundTag, Point]] = {}
    counts: dict[str, dict[str, int]] = {}
    unusable: dict[str, str] = {}
    taken = {name.casefold() for name in names}
    busy = set(used)
    for name, wish in select.items():
        count = counts[name] = {"tags": 0, "excluded": 0, "blobs": 0, "collected_otherwise": 0, "unusable": 0}
        excluded = pattern(wish.exclude)
        for point in searched.get(name, ()):
            tag = f"{wish.prefix}{point.name}"
            if excluded is not None and excluded.fullmatch(point.name):
                count["excluded"] += 1
                continue
            if point.type == BLOB:
                count["blobs"] += 1
                continue
            if len(tag) > _LONGEST_NAME or not tag.isprintable():
                count["unusable"] += 1
                unusable.setdefault(name, tag)
                continue
            given = {tag.casefold(), *(one.casefold() for one in becomes(tag, wish.group))}
            if not taken.isdisjoint(given) or not busy.isdisjoint(own := keys(point, wish.group)):
                count["collected_otherwise"] += 1
            else:
                count["tags"] += 1
                taken.update(given)
                busy.update(own)
                last = before.get(tag)
                if last is not None and (last[1], last[0].group, last[0].asset) == (point, wish.group, wish.asset):
                    tags[tag] = last
                else:
                    made = FoundTag.model_construct(path=point.path, group=wish.group, asset=wish.asset)
                    tags[tag] = (made, point)
    return Chosen(tags, counts, unusable)


def pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """Of names with * and ?, as PI compares them: upper and lower case do not matter. None for none at all."""
    if not names:
        return None
    wild = {"*": ".*", "?": "."}
    each = ("".join(wild.get(letter) or re.escape(letter) for letter in name) for name in names)
    return re.compile("|".join(f"(?:{one})" for one in each), re.IGNORECASE | re.DOTALL)
