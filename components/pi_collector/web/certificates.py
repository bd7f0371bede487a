"""Why a certificate is not believed, in words: since when it has expired, which names it has, whose it is."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timezone
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

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
