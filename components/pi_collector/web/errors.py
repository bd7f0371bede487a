"""What can go wrong with a request.

PiError                      problem and remedy in words for people
├── UnreachableError         no address answers: DNS, refused, timeout, TLS
│   └── UntrustedError       its certificate is not believed
├── RefusedError             an HTTP status, or a WebException inside an answer that began well
│   ├── UnauthorizedError    401: who we are
│   ├── ForbiddenError       403: what we may
│   ├── NotFoundError        404, 410
│   ├── ConflictError        409: such as a marker that is not known any more
│   ├── TooMuchError         400 "greater than the maximum allowed", 413, 414
│   ├── ThrottledError       429; `retry_after` seconds
│   ├── UnsupportedError     405, 501: an older server
│   └── UnavailableError     5xx
├── MalformedError           an answer that is none: cut off, another JSON than it must be
└── CredentialsError         our own secret, certificate or token cannot be had
"""

from __future__ import annotations

from collections.abc import Sequence


class PiError(Exception):
    """`problem` says what is wrong, `remedy` what to do. Never holds anything secret."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class UnreachableError(PiError):
    """No address answers."""


class UntrustedError(UnreachableError):
    """The server's certificate is not believed."""


class RefusedError(PiError):
    """The server answered with an error: its status, and what it says (`errors`)."""

    def __init__(self, status: int, errors: Sequence[str], problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.status = status
        self.errors = tuple(errors)


class UnauthorizedError(RefusedError):
    """401."""


class ForbiddenError(RefusedError):
    """403."""


class NotFoundError(RefusedError):
    """404 or 410."""


class ConflictError(RefusedError):
    """409."""


class TooMuchError(RefusedError):
    """More was asked for than the server gives at once."""


class UnsupportedError(RefusedError):
    """The server does not know this call: it is too old, or the call is switched off."""


class UnavailableError(RefusedError):
    """5xx: again later."""


class ThrottledError(RefusedError):
    """429: again after `retry_after` seconds."""

    def __init__(self, errors: Sequence[str], problem: str, remedy: str, retry_after: float) -> None:
        super().__init__(429, errors, problem, remedy)
        self.retry_after = retry_after


class MalformedError(PiError):
    """An answer that cannot be understood."""


class CredentialsError(PiError):
    """A secret, a key or a token of ours cannot be had. `place`: below the connection, such as user.password."""

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.place = place
