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
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pi_collector.config import Tls
from pi_collector.web.authentication import Source, resolve
from pi_collector.web.errors import CredentialsError
from sluice.tasks import within

logger = logging.getLogger(__name__)

_LOOK: Final = 5.0
_FILES: Final = 2.0  # seconds between looks whether a file has changed
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
    # Not before it is needed: reading certificates takes 10 MB, and most connections never do.
    from pi_collector.web import certificates

    return certificates.why(error, shown, address, now)
