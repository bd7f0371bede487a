"""What an answer says, before anybody reads its values: is it one, and which error otherwise. Pure.

Three things are not what they seem with PI Web API:

- An answer that began with 200 may end with ``"WebException": {"StatusCode": 500, …}`` at its top level. It is
  incomplete, and counts as that status.
- An answer may be cut off without a word, by a proxy or a server that was stopped. JSON that does not end is no answer.
- What stands in between may answer 200 with a page for people: a login, a notice of maintenance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from pi_collector.web.errors import (
    ConflictError,
    ForbiddenError,
    MalformedError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    TooMuchError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)

LARGEST: Final = 64_000_000
"""Bytes of an answer, unpacked, beyond which it is not read."""
LARGEST_ERROR: Final = 65_536
"""Bytes of the text of an error that are read."""
RETRY_AFTER: Final = 5.0
"""Seconds to wait after a 429 that does not say how long."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MOST_TEXTS: Final = 5
_LONGEST_TEXT: Final = 300
_EXCEPTION: Final = b'"WebException"'
_SPACE: Final = b" \t\r\n"
_TOO_MUCH: Final = re.compile(
    r"greater than the maximum allowed|request too long|(url|query string) (is )?too long", re.IGNORECASE
)
_TITLE: Final = re.compile(r"<title>(.{1,200}?)</title>", re.IGNORECASE | re.DOTALL)

_AGAIN: Final = "none is needed: it is tried again; look into the server's log if it persists"
_WORDS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("finds the request wrong", "look the text up in the manual of this version of PI Web API"),
    401: (
        "does not accept who we are",
        "correct the user's name or password (or the token), and see that the user exists and that the server allows "
        "this way to log in (AuthenticationMethods)",
    ),
    403: (
        "does not allow this to our user",
        "have PI's administrator give it read access: to the points, and to the data archive by a mapping",
    ),
    404: ("does not know this", "see that the address ends with the application's name, such as /piwebapi"),
    405: ("does not know this call", "none is needed where there is another way; a newer PI Web API knows it"),
    409: ("does not know this state any more", "none is needed: it is begun anew"),
    410: ("does not have this any more", "look whether it was deleted in PI"),
    413: ("finds the request too large", "lower load.pointsPerRequest"),
    414: ("finds the address too long", "lower load.urlBytes, for what stands between us and the server allows less"),
    429: ("gets more requests than it allows", "lower load.requestsPerSecond; it is tried again more slowly"),
    431: ("finds the address too long", "lower load.urlBytes, for what stands between us and the server allows less"),
    501: ("does not know this call", "none is needed where there is another way; a newer PI Web API knows it"),
    502: ("is not reached by the gateway before it", _AGAIN),
    503: ("is not available", _AGAIN),
    504: ("does not answer the gateway before it in time", _AGAIN),
}
_KINDS: Final[Mapping[int, type[RefusedError]]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    405: UnsupportedError,
    409: ConflictError,
    410: NotFoundError,
    413: TooMuchError,
    414: TooMuchError,
    431: TooMuchError,
    501: UnsupportedError,
}


def check(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Whether it is an answer that can be read. Raises RefusedError or MalformedError.

    The body is parsed only where it has a WebException, or is an error.
    """
    if not 200 <= status < 300:
        raise refusal(status, texts(body), wait=retry_after(headers), location=headers.get("Location", ""))
    if status == 204 and not body:
        return
    begin, end = body[:64].lstrip(_SPACE)[:1], body[-64:].rstrip(_SPACE)[-1:]
    if begin not in (b"{", b"["):
        raise no_json(body)
    if end not in (b"}", b"]"):
        raise cut_off()
    if _EXCEPTION in body:
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise cut_off() from None
        if (error := exception_of(content)) is not None:
            raise error


def exception_of(content: Any) -> RefusedError | None:
    """The error that a WebException at the top level of an answer stands for."""
    found = content.get("WebException") if isinstance(content, dict) else None
    if found is None:
        return None
    told = found.get("StatusCode") if isinstance(found, dict) else None
    status = told if isinstance(told, int) and 400 <= told < 600 else 500
    return refusal(status, _collect(found) or ("the answer broke off on the server (WebException)",))


def refusal(status: int, errors: tuple[str, ...], *, wait: float | None = None, location: str = "") -> RefusedError:
    """The error of a status that is none of success. wait: seconds of its Retry-After."""
    problem, remedy = _WORDS.get(
        status,
        ("cannot do this just now", _AGAIN) if status >= 500 else ("refuses the request", "look into the server's log"),
    )
    said = f": {'; '.join(errors)}" if errors else ""
    text = f"{problem} ({status}){said}"
    if 300 <= status < 400:
        place = re.sub(r"[?#].*", "", _plain(location)) or "another place"
        return RefusedError(
            status, errors, f"sends us on to {place} ({status})", "write the address that it sends to, if it is right"
        )
    if status == 429:
        return ThrottledError(errors, text, remedy, RETRY_AFTER if wait is None else wait)
    if status in (400, 404) and any(_TOO_MUCH.search(error) for error in errors):
        return TooMuchError(
            status, errors, f"finds that more is asked for than it allows ({status}){said}", _WORDS[413][1]
        )
    kind = _KINDS.get(status, UnavailableError if status >= 500 else RefusedError)
    return kind(status, errors, text, remedy)


def no_json(body: bytes) -> MalformedError:
    """An answer of success that is something for people, or nothing."""
    if not body.strip():
        return MalformedError("answers with nothing", _AGAIN)
    title = _TITLE.search(body[:4096].decode("utf-8", "replace"))
    named = f" ({_plain(title.group(1))})" if title else ""
    return MalformedError(
        f"answers with a page or a text{named} where JSON must be",
        "see that the address is PI Web API's own, and that no login page or proxy answers in its place",
    )


def cut_off() -> MalformedError:
    """An answer that ends before its end."""
    return MalformedError("broke an answer off", _AGAIN)


def too_large() -> TooMuchError:
    """An answer that is larger than what is read of any."""
    return TooMuchError(
        200,
        (),
        f"answers with more than {LARGEST // 1_000_000} MB at once",
        "none is needed: less is asked for at a time; lower load.valuesPerRequest if it persists",
    )


def texts(body: bytes) -> tuple[str, ...]:
    """What the server says of an error: `Errors`, `Message`, or the title of a page. Few and short, whatever came."""
    try:
        found = _collect(orjson.loads(body))
    except orjson.JSONDecodeError:
        found = ()
        if title := _TITLE.search(body[:4096].decode("utf-8", "replace")):
            found = (_plain(title.group(1)),)
    return found


def _collect(content: Any) -> tuple[str, ...]:
    found: list[str] = []
    if isinstance(content, dict):
        for key in ("Errors", "Message", "ExceptionMessage", "error", "error_description"):
            found += _flat(content.get(key))
    elif isinstance(content, str):
        found.append(content)
    return tuple(dict.fromkeys(text for text in map(_plain, found[:_MOST_TEXTS]) if text))


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _flat(value.get("Message")) + _flat(value.get("Errors"))
    if isinstance(value, list):
        return [text for one in value[:_MOST_TEXTS] for text in _flat(one)]
    return []


def _plain(text: str) -> str:
    """One line, printable, short."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST_TEXT]).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, which is a number or a date: that counts from the same answer's own date."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one part of a batch."""

    status: int
    content: Any
    """As JSON has it."""

    @property
    def body(self) -> bytes:
        """The content as an answer of its own would have it, for what decodes answers."""
        return orjson.dumps(self.content)

    def error(self) -> RefusedError | None:
        """What `check` would have raised."""
        if not 200 <= self.status < 300:
            return refusal(self.status, _collect(self.content))
        return exception_of(self.content)


def parts(body: bytes, asked: Mapping[str, Any]) -> dict[str, Answer]:
    """The answers of a batch to what was asked. Raises MalformedError when one of them is missing."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise cut_off() from None
    found: dict[str, Answer] = {}
    for name in asked:
        part = content.get(name) if isinstance(content, dict) else None
        status = part.get("Status") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(status, int):
            raise MalformedError(f"answers a batch without its part {name}", _AGAIN)
        found[name] = Answer(status, part.get("Content"))
    return found
