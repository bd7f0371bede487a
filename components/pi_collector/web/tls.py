"""How the server is known to be the right one, and why it is not believed.

TLS 1.2 at least; the authorities that this device trusts, or those of `tls.ca` alone; a certificate of our own with its
key where the server wants one. The key comes from a secret and is handed to OpenSSL in an anonymous file of memory: it
never stands on a disk. Certificates are read again when their files change, so renewing one needs no restart.

OpenSSL says little of a certificate that it refuses, and nothing of whose it is. `look` fetches it again, believing
everything and sending nothing, and `why` says it in words: since when it has expired, which names it has, whose it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from pi_collector.config import Tls
from pi_collector.web.authentication import Source, resolve
from pi_collector.web.errors import CredentialsError
from sluice.tasks import within

logger = logging.getLogger(__name__)

_LOOK: Final = 5.0
_FILES: Final = 2.0  # seconds between looks whether a file has changed
_UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_UNKNOWN: Final = frozenset({2, 18, 19, 20, 21, 27})
_NAMES: Final = frozenset({62, 63, 64})
_WEAK: Final = frozenset({66, 67, 68})
_REVOKED: Final = 23
_MOST_NAMES: Final = 5

Stamp = tuple[tuple[int, int, int] | None, ...]


class Trust:
    """Makes the TLS context of a connection, and notices when it has to be made anew."""

    def __init__(self, settings: Tls, source: Source, directory: Path) -> None:
        self._settings = settings
        self._source = source
        self._files = [directory / Path(name).expanduser() for name in (settings.ca, settings.certificate) if name]
        self._ca = directory / Path(settings.ca).expanduser() if settings.ca else None
        self._certificate = directory / Path(settings.certificate).expanduser() if settings.certificate else None
        self._context: ssl.SSLContext | None = None
        self._stamp: Stamp = ()
        self._looked = 0.0
        self._making = asyncio.Lock()

    @property
    def insecure(self) -> str:
        """What of the server's identity is not checked; "": all is."""
        if self._settings.allow_any_certificate:
            return "any certificate is believed"
        return "" if self._settings.check_host_name else "the host name is not checked"

    async def context(self) -> ssl.SSLContext:
        """The one of now. Raises CredentialsError when a file or the key cannot be had."""
        async with self._making:
            now = time.monotonic()
            if self._context is not None and now - self._looked < _FILES:
                return self._context
            self._looked = now
            stamp = await asyncio.to_thread(self._look_at_files)
            if self._context is None or stamp != self._stamp:
                try:
                    self._context = await self._make_anew()
                except CredentialsError as error:
                    if self._context is None:
                        raise
                    logger.warning(
                        "%s %s: %s; the one that was read before is used on", error.place, error.problem, error.remedy
                    )
                self._stamp = stamp
            return self._context

    async def _make_anew(self) -> ssl.SSLContext:
        key = await resolve(self._source, self._settings.key, "tls.key") if self._settings.key else None
        return await asyncio.to_thread(self._make, None if key is None else key.reveal())

    def _look_at_files(self) -> Stamp:
        return tuple(map(_stamp, self._files))

    def _make(self, key: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH) if self._ca is None else _bare()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._ca is not None:
            _load_authorities(context, self._ca)
        if self._certificate is not None and key is not None:
            _load_own(context, self._certificate, key)
        if self._settings.allow_any_certificate or not self._settings.check_host_name:
            context.check_hostname = False
        if self._settings.allow_any_certificate:
            context.verify_mode = ssl.CERT_NONE
        return context


def _bare() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise CredentialsError(
            "tls.ca", f"is {path}, which holds no certificates in PEM", "export the authority as PEM (Base64)"
        ) from None
    except OSError as error:
        raise CredentialsError(
            "tls.ca",
            f"is {path}, which cannot be read: {error.strerror}",
            "correct the path, or make the file readable",
        ) from None
    if not context.cert_store_stats()["x509"]:
        raise CredentialsError("tls.ca", f"is {path}, which holds no certificates", "put the authority's into it")


def _load_own(context: ssl.SSLContext, path: Path, key: str) -> None:
    if _stamp(path) is None:
        raise CredentialsError(
            "tls.certificate", f"is {path}, which is not there", "correct the path, or put the certificate there"
        )
    try:
        with _in_memory(key.encode()) as name:
            # An empty password: without one OpenSSL asks for it on the terminal.
            context.load_cert_chain(path, name, password="")
    except ssl.SSLError as error:
        if "ENCRYPTED" in key:
            problem, remedy = "is protected by a passphrase", "store it without one; the secret protects it"
        elif error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            problem, remedy = f"does not belong to the certificate {path}", "give the two that were made together"
        else:
            problem, remedy = f"and the certificate {path} cannot be read as PEM", "export both as PEM (Base64)"
        raise CredentialsError("tls.key", problem, remedy) from None
    except OSError as error:
        raise CredentialsError(
            "tls.certificate", f"is {path}, which cannot be read: {error.strerror}", "make the file readable"
        ) from None


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file that only this process can open and that is on no disk; where there is none, one of 0600."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("key", os.MFD_CLOEXEC)
        try:
            os.write(file, content)
            yield f"/proc/self/fd/{file}"
        finally:
            os.close(file)
    else:
        with tempfile.NamedTemporaryFile() as named:  # of mode 0600
            named.write(content)
            named.flush()
            yield named.name


# --- why a certificate is not believed ---


async def look(address: str) -> bytes:
    """The certificate (DER) that the server at this address shows, whatever it is worth; empty: none was shown."""
    parts = urlsplit(address)
    context = _bare()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def fetch() -> bytes:
        _, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 443, ssl=context, server_hostname=parts.hostname
        )
        try:
            shown = writer.get_extra_info("ssl_object")
            return (shown.getpeercert(binary_form=True) if shown is not None else None) or b""
        finally:
            writer.close()

    try:
        return await within(_LOOK, fetch())
    except (OSError, asyncio.TimeoutError):  # the reason stands all the same, with fewer words
        return b""


def why(error: ssl.SSLCertVerificationError, shown: bytes, address: str, now: datetime) -> tuple[str, str]:
    """(problem, remedy) for an address whose certificate (DER, or empty) is not believed."""
    code = error.verify_code
    host = urlsplit(address).hostname or address
    certificate = _read(shown)
    whose = f" of {_name(certificate.subject)}" if certificate is not None else ""
    if code == _EXPIRED:
        if certificate is not None and certificate.not_valid_after_utc > now:
            return (
                f"shows a certificate{whose} whose authority has expired",
                "have the authority's certificate renewed on the server, and in tls.ca; or set this gateway's clock",
            )
        when = f"expired on {_day(certificate.not_valid_after_utc)}" if certificate is not None else "has expired"
        return (
            f"shows a certificate{whose} that {when}",
            "have it renewed on the server; if it is valid, this gateway's clock is wrong",
        )
    if code == _NOT_YET:
        begin = f" before {_day(certificate.not_valid_before_utc)}" if certificate is not None else " yet"
        return (
            f"shows a certificate{whose} that is not valid{begin}",
            "set this gateway's clock, which is probably wrong; otherwise the server's certificate is",
        )
    if code in _NAMES:
        names = f", but for {_names(certificate)}" if certificate is not None else ""
        return (
            f"shows a certificate that is not for {host}{names}",
            "write one of its names in the address; tls.checkHostName: false if that cannot be",
        )
    if code in _UNKNOWN:
        if certificate is not None and certificate.issuer == certificate.subject:
            return (
                f"shows a certificate{whose} that no authority has signed but itself",
                "put it into the file of tls.ca if it is the right one, or have one made by the plant's authority",
            )
        by = f" by {_name(certificate.issuer)}" if certificate is not None else ""
        return (
            f"shows a certificate{whose} signed{by}, an authority that is not trusted",
            "put the certificate of that authority (PEM) into a file and name it in tls.ca",
        )
    if code in _WEAK:
        return f"shows a certificate{whose} that is too weak", "have a new one made, with SHA-256 and 2048 bits or more"
    if code == _REVOKED:
        return f"shows a certificate{whose} that has been revoked", "have a new one made for the server"
    return (
        f"shows a certificate{whose} that is not believed: {error.verify_message}",
        "have the server's certificate and its chain looked at",
    )


def _read(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der) if der else None
    except _UNREADABLE:
        return None


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(common[0].value) if common else name.rfc4514_string()
    return _short(text) or "nobody"


def _names(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return f"no host at all (its name {_name(certificate.subject)} does not count)"
    names = [str(name) for name in found.get_values_for_type(x509.DNSName)]
    names += [str(ipaddress.ip_address(str(address))) for address in found.get_values_for_type(x509.IPAddress)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(_short, names[:_MOST_NAMES])) + more or "no host at all"


def _short(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:100])
