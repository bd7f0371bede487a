"""Takes secrets out of what leaves a device.

Theory of operation
-------------------
A secret is recognised by the name beside it (`password=…`, `"token": …`, `--secret …`, and what
`sluice.problem.LOOKS_SECRET` knows), by where it stands (a URL's login, an Authorization header, `Bearer …`), or by
what it looks like (private keys, keys and tokens of AWS, JWTs, long runs of base64). Whoever is found once is
remembered, and `finish` takes it out of everything again, whatever stands beside it there, also as JSON, in URLs and as
base64. What may be a secret goes: a support bundle that says less is better than one that says too much.

References to secrets (`{secret: sluice-line1, key: password}`) stay, as far as they are ones: a component can read only
secrets named `sluice-…`, so that another name may be the secret itself, written in the wrong place.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from sluice.problem import LOOKS_SECRET

HIDDEN: Final = "***"
_SHORTEST: Final = 5
"""Characters of a secret that is looked for wherever it stands: shorter ones are hidden beside their name only."""
_MOST_KNOWN: Final = 2_000
_DEEPEST: Final = 50

_NAMES: Final = re.compile(
    LOOKS_SECRET.pattern + r"|authori[sz]ation|cookie|svcuid|signature|^sig$|pin$|private|^basic$|^bearer$",
    re.IGNORECASE | re.MULTILINE,
)
_SURE: Final = re.compile(
    r"pas+w|passphrase|pwd|^pw$|secret|token|credential|api.?key|access.?key|svcuid", re.IGNORECASE
)
"""Names whose values are remembered: beside other names there may stand ordinary words."""
_TO_THE_END: Final = re.compile(r"pas+w|passphrase|pwd|secret|cookie", re.IGNORECASE)
"""Names after which a value without quotes may have blanks: it goes to the end of its line."""
_REFERENCE: Final = re.compile(r"sluice-[A-Za-z0-9/_+=.@-]+|arn:aws[a-z-]*:secretsmanager:[A-Za-z0-9/_+=.@:-]+")
_PLAIN_KEYS: Final = frozenset({"password", "passwd", "pass", "user", "username", "token", "secret", "key", "value"})
WORDS: Final = frozenset({"true", "false", "null", "none", "undefined", "empty", "required", HIDDEN})
"""What stands in the place of a secret where none is set: hidden beside its name, and nowhere else."""

_PEM: Final = re.compile(
    r"-----BEGIN[^-\n]*PRIVATE KEY-----(?:(?:(?!-----BEGIN).){0,20000}?-----END[^-\n]*-----|[A-Za-z0-9+/=\s\\]*)",
    re.DOTALL,
)
_PEM_END: Final = re.compile(r"\A(?:(?!-----BEGIN).)*?-----END[^-\n]*PRIVATE KEY-----", re.DOTALL)
_LOGIN: Final = re.compile(r"(?<=://)([^/\s\"'<>]*)@")
_HEADER: Final = re.compile(
    r"(authori[sz]ation\\*[\"']?\s*[:=]\s*\\*[\"']?)((?:[A-Za-z]+\s+)?[^\s\"',;\\]+)", re.IGNORECASE
)
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+([A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE)
_NAMED: Final = re.compile(r"(?P<name>[A-Za-z_][\w.-]{0,80})\\*[\"']?\s*(?:=>|[:=]|%3[AaDd])\s*")
_ELEMENT: Final = re.compile(r"<(?P<name>[A-Za-z_][\w:.-]{0,80})(?:\s[^<>]{0,500})?>(?P<value>[^<>\n]+)(?=<)")
_SAID: Final = re.compile(
    r"(\b(?:pas+w\w*|passphrase|pwd)\b(?:[^\n]{0,60}?\s(?:is|was))?[ \t]+)"
    r"(?!(?:is|was)\b)(\"[^\"\n]+\"|'[^'\n]+'|(?=\S*[0-9])(?=\S*[A-Za-z])\S+)",
    re.IGNORECASE,
)
"""A password in a sentence: quoted, or a word with digits in it, as words of a language have none."""
_LOGIN_OPTION: Final = re.compile(r"(?<![\w-])((?:-u|--user)[ \t=]+)([^\s:]+:\S+)")
_OPTION: Final = re.compile(r"(?<![\w-])(?P<name>--?[A-Za-z][\w-]{0,80})[ \t]+(?=[^\s-])")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\\+"(?:[^"\\]|\\[^"])*\\+"|' + r"'[^']*'")
_ARGUMENT: Final = re.compile(r"\S+")
_REST: Final = re.compile(r"[^\n]+")
_SHAPES: Final = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b(?:gh[opsru]_|github_pat_|glpat-|xox[abeprs]-)[A-Za-z0-9_-]{10,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(r"(?<![A-Za-z0-9+/_-])(?=[A-Za-z0-9+/_-]*[a-z])(?=[A-Za-z0-9+/_-]*[A-Z])(?=[A-Za-z0-9+/_-]*[0-9])"
               r"[A-Za-z0-9+/_-]{40,}={0,2}"),
)  # fmt: skip
_HINT: Final = re.compile(
    r"pas+w|pass|pwd|pw|secret|token|credential|key|authori[sz]ation|cookie|svcuid|sig|pin|private|bearer|basic",
    re.IGNORECASE,
)
"""Without one of these there is nothing by a secret's name, and without a long word nothing that looks like one."""
_LONG: Final = re.compile(r"[A-Za-z0-9+/_.-]{20}")
_ONE_WORD: Final = re.compile(r"[^\s,;&}\])\"']+")


class Redactor:
    """Redacts values and texts, and remembers what it took out."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def value(self, value: Any, depth: int = 0) -> Any:
        """A copy of a JSON value in which what stands under a secret's name, or looks like one, is hidden."""
        if depth > _DEEPEST:
            return HIDDEN
        if isinstance(value, Mapping):
            redacted = {}
            for key, inner in value.items():
                name = str(key)
                redacted[self.text(name)] = (
                    self._hide(name, inner, depth) if _NAMES.search(name) else self.value(inner, depth + 1)
                )
            return redacted
        if isinstance(value, (list, tuple)):
            return [self.value(inner, depth + 1) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """A text without what may be a secret."""
        if "-----" in text:
            text = _PEM_END.sub(HIDDEN, _PEM.sub(HIDDEN, text))
        if "://" in text:
            text = _LOGIN.sub(self._login, text)
        if _HINT.search(text):
            text = _HEADER.sub(self._header, text)
            text = _SCHEME.sub(self._scheme, text)
            text = self._named(_NAMED, text)
            text = self._named(_OPTION, text)
            text = _ELEMENT.sub(self._element, text)
            text = _SAID.sub(self._said, text)
        if "-u" in text:
            text = _LOGIN_OPTION.sub(self._login_option, text)
        if _LONG.search(text):
            for shape in _SHAPES:
                text = shape.sub(HIDDEN, text)
        return text

    def log(self, text: str) -> str:
        """A log: lines that are JSON objects are read as such, so that escapes hide nothing."""
        lines = []
        for line in _PEM_END.sub(HIDDEN, _PEM.sub(HIDDEN, text)).splitlines():
            try:
                found = json.loads(line) if line.startswith("{") else None
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                lines.append(json.dumps(self.value(found), ensure_ascii=False))
            else:
                lines.append(self.text(line))
        return "\n".join(lines)

    def finish(self, text: str) -> str:
        """Take everything that was found anywhere out of a text that is otherwise done."""
        forms = set()
        for known in self._known:
            forms |= {known, json.dumps(known)[1:-1], json.dumps(known, ensure_ascii=False)[1:-1]}
            forms |= {quote(known, safe=""), quote_plus(known), base64.b64encode(known.encode()).decode().rstrip("=")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        return text

    # --- what is found ---

    def remember(self, secret: str) -> None:
        """A secret that must not occur anywhere."""
        secret = secret.strip()
        plain = secret.lower() in WORDS or len(secret) < (8 if secret.isdigit() else _SHORTEST)
        if not plain and len(self._known) < _MOST_KNOWN:
            self._known.add(secret)

    def _hide(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            if value and set(value) <= {"secret", "key", "file"}:
                return {str(part): self._reference(str(part), inner) for part, inner in value.items()}
            return {self.text(str(key)): self._hide("", inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._hide(name, inner, depth + 1) for inner in value]
        if value is None or isinstance(value, bool):
            return value
        if _SURE.search(name) and isinstance(value, str):
            self.remember(value)
        return HIDDEN

    def _reference(self, part: str, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return HIDDEN if value else value
        if part == "file":
            return self.text(value)
        if (part == "secret" and _REFERENCE.fullmatch(value)) or (part == "key" and value.lower() in _PLAIN_KEYS):
            return value
        self.remember(value)
        return HIDDEN

    def _login(self, match: re.Match[str]) -> str:
        for part in match[1].split(":", 1)[1:]:
            self.remember(part)
        return f"{HIDDEN}@"

    def _header(self, match: re.Match[str]) -> str:
        self.remember(match[2].split()[-1])
        return match[1] + HIDDEN

    def _element(self, match: re.Match[str]) -> str:
        if not _NAMES.search(match["name"]) or not match["value"].strip():
            return match[0]
        if _SURE.search(match["name"]):
            self.remember(match["value"])
        return match[0][: match.start("value") - match.start()] + HIDDEN

    def _said(self, match: re.Match[str]) -> str:
        self._remember_parts(match[2])
        return match[1] + HIDDEN

    def _login_option(self, match: re.Match[str]) -> str:
        self.remember(match[2].partition(":")[2])
        return match[1] + HIDDEN

    def _scheme(self, match: re.Match[str]) -> str:
        return f"{match[1]} {HIDDEN}"

    def _named(self, pattern: re.Pattern[str], text: str) -> str:
        parts, done = [], 0
        match = pattern.search(text)
        while match is not None:
            name, start = match["name"], match.end()
            end = self._end_of_value(name, text, start) if _NAMES.search(name) else start
            if end > start:
                parts += [text[done:start], HIDDEN]
                done = end
            # A value that is no secret may itself hold a name and a value: go on right behind the separator.
            match = pattern.search(text, max(end, start))
        return "".join(parts) + text[done:]

    def _end_of_value(self, name: str, text: str, start: int) -> int:
        """Where the secret behind its name ends; `start` when there stands none that has to be hidden."""
        if text.startswith((HIDDEN, "{", "["), start):
            return start  # hidden already, or a structure: the names in it are found one by one
        quoted = _QUOTED.match(text, start)
        whole = _TO_THE_END.search(name) is not None
        rest = _ARGUMENT if name.startswith("-") else _REST if whole else _ONE_WORD
        found = quoted or rest.match(text, start)
        if found is None:
            return start
        if _SURE.search(name) and (quoted or whole or not found[0].isalpha()):
            self._remember_parts(found[0])
        return found.end()

    def _remember_parts(self, value: str) -> None:
        """The whole of what stood there, and its first word: where an unquoted secret ends nobody knows."""
        bare = value.strip().strip("\\\"'")
        self.remember(bare)
        if (word := _ONE_WORD.match(bare)) is not None and any(not one.isalpha() for one in word[0]):
            self.remember(word[0])
