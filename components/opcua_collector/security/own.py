"""Our application certificate: one for all connections, made once, renewed beside the old one.

    pki/own/certificate.der, private-key.pem         the one in use, the key for its owner alone
    pki/own/next/certificate.der, private-key.pem    the one that follows it, and accepted.json: which servers know it

    one --60 days before its end--> one and next --all servers have taken next--> next is the one

Each new session is tried with the next one first and, while the server refuses that, made with the old one; also when
that has ended, which a clock that is wrong may say, and which some servers do not mind. Only when next itself nears its
end it takes the place of an old one that has ended. A certificate that somebody else has made is never replaced, only
told of; nor is a key.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import (
    COMMON_NAME,
    RENEWED_BEFORE,
    SMALLEST_KEY,
    CertificateError,
    alternative_names,
    belong_together,
    certificates_of_file,
    days_left,
    make,
    make_folder,
    read_certificate,
    read_key,
    thumbprint,
    write_file,
)
from sluice.kept_file import KeptFile

logger = logging.getLogger(__name__)

_CERTIFICATE, _KEY, _ACCEPTED = "certificate.der", "private-key.pem", "accepted.json"


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """A certificate of ours, with its key."""

    path: Path
    der: bytes
    chain: tuple[bytes, ...]  # the authorities that are in the file behind it
    key: bytes = field(repr=False)  # PEM
    uri: str  # application URI: the session must show the same
    thumbprint: str
    begins: datetime
    expires: datetime
    ours: bool  # made by this component


@dataclass(frozen=True, slots=True)
class Candidates:
    """The certificates to try, best first, and what is to be told about them."""

    certificates: tuple[OwnCertificate, ...]
    warnings: tuple[str, ...] = ()

    def by_thumbprint(self, mark: str) -> OwnCertificate | None:
        """The one of an earlier session; "": it was the one in use."""
        if not mark:
            return self.certificates[-1]
        return next((one for one in self.certificates if one.thumbprint == mark), None)

    def warnings_with(self, used: OwnCertificate) -> tuple[str, ...]:
        """What is to be told when a session was made with `used`."""
        following = self.certificates[0]
        if following is used or following.thumbprint == used.thumbprint:
            return self.warnings
        return (
            *self.warnings,
            f"the server does not take our next certificate yet: add {following.path} (thumbprint "
            f"{following.thumbprint}) to its trusted ones: the present one ends on {used.expires:%Y-%m-%d}",
        )

    def later(self, used: OwnCertificate) -> str:
        """What will have to be told when the end of `used` comes near while its session lasts; empty: it is told."""
        if len(self.certificates) > 1 or self.warnings:
            return ""
        ends = f"our certificate {used.path} ends on {used.expires:%Y-%m-%d}"
        if not used.ours:
            return f"{ends} and was not made by this component: put a new one, and its key, there"
        following = used.path.parent / "next" / used.path.name
        return f"{ends}: add the next one, {following}, to the server's trusted ones: the next session is tried with it"


class OwnCertificates:
    """The pair, or both pairs, in `folder`/own. May be called from several threads."""

    def __init__(self, folder: Path, application_uri: str) -> None:
        self._own = folder / "own"
        self._next = self._own / "next"
        self._uri = application_uri
        self._lock = threading.Lock()
        self._connections: set[str] = set()

    def serve(self, connections: Collection[str]) -> None:
        """These connections use it: all of them have to have accepted a new one before the old one goes."""
        with self._lock:
            self._connections = set(connections)

    def candidates(self, connection: str, now: datetime) -> Candidates:
        """What `connection` tries now; makes what is missing. Raises TroubleError for a pair that cannot be used."""
        with self._lock:
            self._connections.add(connection)
            present = self._present(now)
            if not present.ours:
                return Candidates((present,), _ends_soon(present, now))
            following = self._following(present, now)
            if following is None:
                return Candidates((present,))
            over = now >= present.expires and following.expires - now <= RENEWED_BEFORE
            if over or self._connections <= self._accepted().keys():
                return Candidates((self._promote(),))
            return Candidates((following, present))

    def prepare(self, now: datetime) -> None:
        """Make the next one when it is time to, though no session begins. Raises TroubleError or OSError."""
        with self._lock:
            if (self._own / _CERTIFICATE).exists() and (present := self._present(now)).ours:
                self._following(present, now)

    def took(self, connection: str, used: OwnCertificate, candidates: Candidates) -> None:
        """The server of `connection` has made a session with `used`."""
        if len(candidates.certificates) < 2:
            return
        with self._lock:
            if not (self._next / _CERTIFICATE).exists():
                return  # another connection was the last one, and it is the one by now
            accepted = self._accepted()
            if used.thumbprint == candidates.certificates[0].thumbprint:
                accepted[connection] = used.thumbprint
            else:
                accepted.pop(connection, None)
            self._file().write(accepted)

    # --- files: the lock is held ---

    def _present(self, now: datetime) -> OwnCertificate:
        path, key_path = self._own / _CERTIFICATE, self._own / _KEY
        if not (path.exists() and key_path.exists()):
            if path.exists() and not self._is_ours(path):
                raise TroubleError(
                    "security",
                    str(path),
                    "has no private key beside it",
                    f"put its key (PEM, mode 0600) into {key_path}, or delete the certificate to have both made",
                )
            self._make(self._own, self._uri, now, self._lone_key(path, key_path))
        try:
            return self._load(self._own)
        except TroubleError:
            # The power went between the two steps of `_promote`: the key is there already.
            if not (self._next / _CERTIFICATE).exists() or (self._next / _KEY).exists():
                raise
            (self._next / _CERTIFICATE).replace(path)
            return self._load(self._own)

    def _following(self, present: OwnCertificate, now: datetime) -> OwnCertificate | None:
        if present.expires - now > RENEWED_BEFORE:
            return None
        if (self._next / _CERTIFICATE).exists():
            with contextlib.suppress(TroubleError):  # a half-made pair: it is made anew
                following = self._load(self._next)
                # One made while a clock was far ahead is made anew as well: no server takes it before its time.
                if following.begins <= max(now + timedelta(days=1), present.expires):
                    return following
        self._make(self._next, present.uri, now)
        following = self._load(self._next)
        logger.warning(
            "Our OPC UA certificate expires in %d days. The next one is %s, thumbprint %s: add it to the trusted ones "
            "of the servers; the old one is used until they have it",
            days_left(present.expires, now),
            following.path,
            following.thumbprint,
        )
        return following

    def _promote(self) -> OwnCertificate:
        """Next becomes the one."""
        (self._next / _KEY).replace(self._own / _KEY)
        (self._next / _CERTIFICATE).replace(self._own / _CERTIFICATE)
        (self._next / _ACCEPTED).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the engineer's is in it
            self._next.rmdir()
        present = self._load(self._own)
        logger.info("Our OPC UA certificate is now the renewed one, thumbprint %s", present.thumbprint)
        return present

    @staticmethod
    def _lone_key(path: Path, key_path: Path) -> rsa.RSAPrivateKey | None:
        """The key that is there without a certificate: from a try that ended early, or an engineer's, whose certificate
        is still on its way. It is used, and never written over."""
        if path.exists() or not key_path.exists():
            return None
        try:
            return read_key(key_path.read_bytes())
        except CertificateError as error:
            raise _unusable(key_path, str(error)) from None

    def _make(self, folder: Path, uri: str, now: datetime, own: rsa.RSAPrivateKey | None = None) -> None:
        make_folder(folder)
        der, key = make(uri, now=now, key=own)
        if own is None:
            write_file(folder / _KEY, key)  # the key first: a certificate without its key would be taken for the pair
        write_file(folder / _CERTIFICATE, der)
        (folder / _ACCEPTED).unlink(missing_ok=True)

    def _load(self, folder: Path) -> OwnCertificate:
        path, key_path = folder / _CERTIFICATE, folder / _KEY
        try:
            der, *chain = certificates_of_file(path)
            certificate = read_certificate(der)
        except CertificateError as error:
            raise _unusable(path, str(error)) from None
        try:
            pem = key_path.read_bytes()
            key = read_key(pem)
        except OSError as error:
            raise _unusable(key_path, f"it cannot be read ({error.strerror})") from None
        except CertificateError as error:
            raise _unusable(key_path, str(error)) from None
        if not belong_together(certificate, key):
            raise _unusable(path, f"the key in {key_path} belongs to another certificate")
        if key.key_size < SMALLEST_KEY:
            raise _unusable(path, f"its key has only {key.key_size} bits, and servers want {SMALLEST_KEY}")
        names = alternative_names(certificate)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
        if not uris:
            raise TroubleError(
                "security",
                str(path),
                "has no application URI, without which servers refuse it",
                "use a certificate with a URI as alternative name, or delete it to have one made",
            )
        return OwnCertificate(
            path,
            der,
            tuple(chain),
            pem,
            uris[0],
            thumbprint(der),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            _made_here(certificate),
        )

    @staticmethod
    def _is_ours(path: Path) -> bool:
        try:
            return _made_here(read_certificate(certificates_of_file(path)[0]))
        except CertificateError:
            return False

    def _file(self) -> KeptFile:
        return KeptFile(self._next / _ACCEPTED, "list of servers that accept our next certificate")

    def _accepted(self) -> dict[str, str]:
        """Connections whose server has accepted the next certificate."""
        mark = thumbprint((self._next / _CERTIFICATE).read_bytes())
        return {name: str(one) for name, one in (self._file().read() or {}).items() if one == mark}


def _made_here(certificate: x509.Certificate) -> bool:
    names = [(one.oid, one.value) for one in certificate.subject]
    ours = names == [(NameOID.COMMON_NAME, COMMON_NAME)] and certificate.issuer == certificate.subject
    return ours and isinstance(certificate.public_key(), rsa.RSAPublicKey)


def _unusable(path: Path, why: str) -> TroubleError:
    return TroubleError(
        "security",
        str(path),
        f"cannot be used as our certificate: {why}",
        "put a certificate (DER) and its key (PEM) there, or delete both to have them made anew",
    )


def _ends_soon(present: OwnCertificate, now: datetime) -> tuple[str, ...]:
    if present.expires - now > RENEWED_BEFORE:
        return ()
    days = days_left(present.expires, now)
    ends = f"expires in {days} days" if days >= 0 else f"has expired on {present.expires:%Y-%m-%d}"
    return (
        f"our certificate {present.path} {ends} and was not made by this component: put a new one, and its key, there",
    )
