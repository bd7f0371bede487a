"""In which order results that use one another are calculated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class CircleError(ValueError):
    """Results that need one another. `path` goes from one of them back to itself."""

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__(f"makes a circle: {' -> '.join(path)}")
        self.path = tuple(path)


def levels(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The names in levels: each needs only names of levels before its own. Inside a level they keep their order.

    needs: what each name needs, all of it among the names. Raises CircleError, with the shortest way around that goes
    through the first name that is in a circle.
    """
    level: dict[str, int] = {}
    waiting = dict(needs)
    found: list[list[str]] = []
    while waiting:
        ready = [name for name, needed in waiting.items() if all(one in level for one in needed)]
        if not ready:
            raise CircleError(_circle(waiting))
        for name in ready:
            level[name] = len(found)
            del waiting[name]
        found.append(ready)
    return found


def _circle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The shortest way from a name back to itself, of the first name that has one."""
    for start in needs:
        ways = [[start]]
        seen: set[str] = set()
        for way in ways:
            for following in needs.get(way[-1], ()):
                if following == start:
                    return [*way, start]
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    raise AssertionError("names that wait for one another make a circle")
