"""What an import makes of another product's configuration: connections, and what of it could not be carried over.

Nothing is left out in silence: what is read from a file is taken out of a `Bag`, and what nobody took is told.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sluice.problem import shown
from sluice.units import format_duration

Level = Literal["lost", "changed"]
"""lost: it is not there any more, or has to be given again. changed: it is there, and does not mean quite the same."""

MOST_NOTES: Final = 2_000
_SHOWN: Final = 120  # characters of a value
_SECRET: Final = re.compile(r"password|secret|token|credential|private|passphrase", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LONGEST_TAG: Final = 256
_TIMESPAN: Final = re.compile(r"(?:(\d{1,6})\.)?(\d{1,4}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,7}))?)?")


@dataclass(slots=True)
class Note:
    """Something that is not as it was: where it stood, what it was, and why; `count`: how often the same came."""

    level: Level
    place: str
    value: str
    why: str
    count: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "level": self.level, "place": self.place, "value": self.value, "why": self.why, "count": self.count,
        }  # fmt: skip


class Notes:
    """Those of one import. What is said of many places for the same reason is one note with its first place."""

    def __init__(self) -> None:
        self.left_out = 0
        """Beyond `MOST_NOTES`."""
        self._notes: dict[tuple[str, str, str], Note] = {}

    def __iter__(self) -> Iterator[Note]:
        return iter(sorted(self._notes.values(), key=lambda note: note.level != "lost"))

    @property
    def lost(self) -> int:
        """How many things were lost."""
        return sum(note.count for note in self._notes.values() if note.level == "lost") + self.left_out

    def add(self, level: Level, place: str, value: Any, why: str) -> None:
        """value: as it stood there; a secret is never shown."""
        key = (level, place.rpartition(".")[2].partition("[")[0], why)
        if (known := self._notes.get(key)) is not None:
            known.count += 1
            return
        if len(self._notes) >= MOST_NOTES:
            self.left_out += 1
            return
        hidden = _SECRET.search(place) and not (value is None or isinstance(value, bool))
        self._notes[key] = Note(level, place, "***" if hidden else _text(masked(value)), why)

    def bag(self, value: Any, place: str) -> Bag:
        """An object of the file."""
        if isinstance(value, Mapping):
            return Bag({str(key): one for key, one in value.items()}, place, self)
        self.add("lost", place, value, "is not an object")
        return Bag({}, place, self)


def _text(value: Any) -> str:
    """In one short line."""
    found = shown(value)
    text = "" if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def masked(value: Any, depth: int = 0) -> Any:
    """The same without what stands under names of secrets."""
    if depth > 8:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key): "***" if _SECRET.search(str(key)) and one is not None else masked(one, depth + 1)
            for key, one in list(value.items())[:20]
        }
    return [masked(one, depth + 1) for one in value[:20]] if isinstance(value, list) else value


class Bag:
    """An object of a file, out of which its keys are taken, whatever their case. `rest` tells those that are left."""

    def __init__(self, content: dict[str, Any], place: str, notes: Notes) -> None:
        self.place = place
        self.notes = notes
        self._content = content
        self._keys: dict[str, str] = {}
        for key in content:
            self._keys.setdefault(key.casefold(), key)

    def __contains__(self, key: str) -> bool:
        return self._content.get(self._keys.get(key.casefold(), "")) is not None

    def at(self, key: str) -> str:
        """Where the key stands."""
        return f"{self.place}.{key}" if self.place else key

    def take(self, key: str) -> Any:
        """What stands there, as it is; None: nothing."""
        return self._content.pop(self._keys.get(key.casefold(), ""), None)

    def lost(self, key: str, value: Any, why: str) -> None:
        """It stood at the key, and is not carried over."""
        self.notes.add("lost", self.at(key), value, why)

    def changed(self, key: str, value: Any, why: str) -> None:
        """It stood at the key, and means something else now."""
        self.notes.add("changed", self.at(key), value, why)

    def text(self, key: str) -> str:
        """Text without blanks around it; empty: there is none."""
        value = self.take(key)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.lost(key, value, "is not text")
            return ""
        return str(value).strip()

    def word(self, key: str, words: Mapping[str, Any]) -> Any:
        """What the word stands for, whatever its case and the signs in it; None: there is none, or a strange one."""
        text = self.text(key)
        if not text:
            return None
        known = {_letters(word): meaning for word, meaning in words.items()}
        if _letters(text) in known:
            return known[_letters(text)]
        self.lost(key, text, f"is none of {', '.join(words)}")
        return None

    def number(self, key: str) -> float | None:
        """A finite number, also one in quotes."""
        value = self.take(key)
        if value is None:
            return None
        try:
            number = float("" if isinstance(value, (bool, list, dict)) else value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.lost(key, value, "is no number")
            return None
        return number

    def flag(self, key: str) -> bool | None:
        """true or false, also in quotes."""
        value = self.take(key)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if value is None or isinstance(value, bool):
            return value
        self.lost(key, value, "is neither true nor false")
        return None

    def seconds(self, key: str, unit: float) -> float | None:
        """A time: a number of `unit` seconds, or a timespan such as 00:00:01.5 or 1.00:00:00, or PT1.5S."""
        value = self.take(key)
        if value is None:
            return None
        found = _seconds(value, unit)
        if found is None:
            self.lost(key, value, "is no time")
        return found

    def first_seconds(self, *keys: tuple[str, float]) -> float | None:
        """The first of several spellings of one time that is there; all are taken."""
        found = [self.seconds(key, unit) for key, unit in keys]
        return next((one for one in found if one is not None), None)

    def bag(self, key: str) -> Bag:
        """An object inside; an empty one where there is none."""
        value = self.take(key)
        return Bag({}, self.at(key), self.notes) if value is None else self.notes.bag(value, self.at(key))

    def bags(self, key: str) -> list[Bag]:
        """A list of objects inside."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.lost(key, value, "is not a list")
            return []
        return [self.notes.bag(one, f"{self.at(key)}[{number}]") for number, one in enumerate(value)]

    def rest(self, why: str = "has no counterpart here", **reasons: str) -> None:
        """Tell everything that nobody took. reasons: other ones, by key."""
        known = {key.casefold(): reason for key, reason in reasons.items()}
        for key, value in self._content.items():
            if value is not None and value != [] and value != {}:
                self.lost(key, value, known.get(key.casefold(), why))
        self._content.clear()


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _seconds(value: Any, unit: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip()
    if match := _TIMESPAN.fullmatch(text):
        days, hours, minutes, seconds, fraction = (part or "0" for part in match.groups())
        found = int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")
    elif match := re.fullmatch(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?", text, re.IGNORECASE):
        hours, minutes, seconds = (part or "0" for part in match.groups())
        found = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    else:
        try:
            found = float(text) * unit
        except (ValueError, OverflowError):
            return None
    return found if math.isfinite(found) and found >= 0 else None


@dataclass(slots=True)
class Made:
    """The connections of an import, as they stand in a document's merge, and files that go beside it."""

    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def duration(bag: Bag, key: str, seconds: float, least: float, most: float) -> str:
    """As configuration has it; what is beyond the limits is set to them, and told."""
    fitting = min(max(seconds, least), most)
    if fitting != seconds:
        bag.changed(key, format_duration(seconds), f"is now {format_duration(fitting)}, the nearest that can be set")
    return format_duration(fitting)


def connection_name(wanted: str, taken: Collection[str]) -> str:
    """A name for topics that nobody has yet, as near to the wanted one as can be."""
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted).strip("-_.")[:56] or "line"
    return _free(base, taken)


def _free(base: str, taken: Collection[str]) -> str:
    known = {name.casefold() for name in taken}
    if base.casefold() not in known:
        return base
    number = 2
    while f"{base}-{number}".casefold() in known:
        number += 1
    return f"{base}-{number}"


class TagNames:
    """Names of tags of one connection: printable, of bearable length, each once whatever its case."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def free(self, wanted: str) -> str:
        """As near to the wanted one as can be."""
        printable = "".join(character if character.isprintable() else "_" for character in wanted).strip()
        base = printable[: _LONGEST_TAG - 8].strip() or "tag"
        name = base
        while name.casefold() in self._taken:
            self._taken[base.casefold()] += 1
            name = f"{base}-{self._taken[base.casefold()]}"
        self._taken[name.casefold()] = 1
        return name


SECURITY_POLICIES: Final[Mapping[str, str]] = {
    "None": "None",
    "Basic256Sha256": "Basic256Sha256",
    "Aes128_Sha256_RsaOaep": "Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss": "Aes256_Sha256_RsaPss",
    "Basic256": "",
    "Basic128Rsa15": "",
}
"""Policies by their names in other products; empty: broken since long, and not offered here."""
BROKEN: Final = "is broken since long and not offered here: the best that the server has is taken"
UNPROTECTED: Final = (
    "stays without protection, as it was: take security out of the document to have the best that the server offers"
)


def in_the_open(bag: Bag, key: str, settings: dict[str, Any]) -> None:
    """A password that went over a channel without protection goes on so, and that is told."""
    user = settings.get("user", {})
    if settings.get("security", {}).get("policy") == "None" and "password" in user:
        user["allowUnencrypted"] = True
        why = "is sent where others can read it, as it was: take security and user.allowUnencrypted out to protect it"
        bag.changed(key, None, why)
