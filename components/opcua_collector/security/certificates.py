"""Certificates as OPC UA uses them: read, named, told, made. Nothing here decides whether one is believed (`trust`).

A certificate's name among engineers is its thumbprint, the SHA-1 of its DER form in hexadecimal (Part 6, 6.2.2).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COMMON_NAME: Final = "Sluice OPC UA collector"
LARGEST: Final = 65_536
"""Bytes of a file, or of a chain that a server shows, beyond which it is no certificate."""
SMALLEST_KEY: Final = 2048
_VALID: Final = timedelta(days=5 * 365)
RENEWED_BEFORE: Final = timedelta(days=60)
"""How long before the end of our certificate the next one is made, and its end is told."""
_PEM: Final = b"-----BEGIN"


UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
"""What the library raises for bytes that are no certificate, key or list, or one that it does not know."""


class CertificateError(Exception):
    """What was given is no certificate, or no key, that can be used; the text says why."""


def thumbprint(der: bytes) -> str:
    """What OPC UA and its tools call a certificate by."""
    return hashlib.sha1(der).hexdigest()  # noqa: S324 - a name, no protection


def first_certificate(chain: bytes) -> bytes:
    """The leading certificate of a DER chain, whatever form its length has; empty when there is none."""
    if len(chain) < 4 or chain[0] != 0x30:
        return b""
    if chain[1] < 0x80:
        return chain[: 2 + chain[1]]
    width = chain[1] & 0x7F
    return chain[: 2 + width + int.from_bytes(chain[2 : 2 + width], "big")]


def split_chain(chain: bytes) -> list[bytes]:
    """The certificates of a DER chain, the leaf first; what follows the last whole one is left out. 16 at most."""
    found: list[bytes] = []
    while chain and len(found) < 16:
        der = first_certificate(chain)
        if not der or len(der) > len(chain):
            break
        found.append(der)
        chain = chain[len(der) :]
    return found


def read_certificate(der: bytes) -> x509.Certificate:
    """One certificate of which all parts that are looked at can be read. Raises CertificateError."""
    if len(der) > LARGEST:
        raise CertificateError("it is larger than 64 KiB")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Read lazily by the library: what is malformed shall show itself here.
        _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
        _ = certificate.extensions, certificate.serial_number
        if not whole_octets(der, certificate.signature):
            raise ValueError("its signature is no whole number of octets")
    except UNREADABLE as error:
        raise CertificateError(f"it is no readable certificate ({_short(error)})") from None
    return certificate


def whole_octets(der: bytes, signature: bytes) -> bool:
    """Whether nothing is left out of the signature's last octet: else a byte may differ, and with it the thumbprint,
    where the signature still fits."""
    return der.endswith(b"\0" + signature)


def certificates_of_file(path: Path) -> list[bytes]:
    """The certificates in a file, DER or PEM, the leaf first, each as DER. Raises CertificateError."""
    content = _content(path, LARGEST)
    if _PEM in content:
        try:
            loaded = x509.load_pem_x509_certificates(content)
            found = [certificate.public_bytes(serialization.Encoding.DER) for certificate in loaded]
        except UNREADABLE as error:
            raise CertificateError(f"it is no readable certificate ({_short(error)})") from None
    else:
        found = split_chain(content)
    if not found:
        raise CertificateError("it is no certificate in DER or PEM form")
    for der in found:
        read_certificate(der)
    return found


def _content(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise CertificateError(f"it cannot be read ({error.strerror or error})") from None
    if len(content) > most:
        raise CertificateError(f"it is larger than {most // 1024} KiB")
    return content


def read_key(pem: bytes) -> rsa.RSAPrivateKey:
    """An RSA private key in PEM form without a passphrase. Raises CertificateError, which shows nothing of it."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise CertificateError("it is protected by a passphrase: store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("it is no private key in PEM form") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError("it is no RSA key, which all security policies that are used here need")
    return key


def belong_together(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bool:
    """Whether the certificate is for this key."""
    public = certificate.public_key()
    return isinstance(public, rsa.RSAPublicKey) and public.public_numbers() == key.public_key().public_numbers()


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engineer knows a certificate by."""

    thumbprint: str
    subject: str
    begins: datetime
    expires: datetime
    hosts: tuple[str, ...]
    uris: tuple[str, ...]
    authority: bool

    def __str__(self) -> str:
        return (
            f"{self.thumbprint} ({self.subject or 'without a name'}, valid from {self.begins:%Y-%m-%d} "
            f"to {self.expires:%Y-%m-%d})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "thumbprint": self.thumbprint,
            "subject": self.subject,
            "from": self.begins.isoformat(timespec="seconds"),
            "to": self.expires.isoformat(timespec="seconds"),
            "hosts": list(self.hosts),
            "uris": list(self.uris),
            "authority": self.authority,
        }


def facts(der: bytes) -> Facts:
    """Of a certificate. Raises CertificateError."""
    certificate = read_certificate(der)
    names = alternative_names(certificate)
    hosts: list[str] = []
    uris: list[str] = []
    if names is not None:
        hosts += names.get_values_for_type(x509.DNSName)
        hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
        uris += names.get_values_for_type(x509.UniformResourceIdentifier)
    return Facts(
        thumbprint(der),
        certificate.subject.rfc4514_string()[:200],
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        tuple(one[:200] for one in hosts[:32]),
        tuple(one[:300] for one in uris[:8]),
        is_authority(certificate),
    )


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Its subject alternative names: application URI and hosts."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it says that it may sign other certificates."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def make(
    uri: str, *, valid: timedelta = _VALID, now: datetime | None = None, key: rsa.RSAPrivateKey | None = None
) -> tuple[bytes, bytes]:
    """An application certificate of our own (Part 6, 6.2.2), DER, and its private key, PEM: a new one, unless given."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=SMALLEST_KEY)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    now = now or datetime.now(timezone.utc)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), _host_name(socket.gethostname())]
    usages = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_cert_sign"), True
    )
    unused = dict.fromkeys(("key_agreement", "crl_sign", "encipher_only", "decipher_only"), False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usages, **unused), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.DER), secret


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("ascii", "replace").decode("ascii"))


def make_folder(path: Path) -> None:
    """With the one above it, both for the owner alone: whoever may write to a folder may exchange what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)


def write_file(path: Path, content: bytes) -> None:
    """In one step and for the owner alone."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def days_left(expires: datetime, now: datetime) -> int:
    """Whole days; negative when they are over."""
    return (expires - now).days


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates of a channel, and what is to be told about them."""

    own: datetime | None = None  # when ours expires
    server: datetime | None = None
    warnings: tuple[str, ...] = ()
    later: str = ""  # what is told besides when ours comes near its end

    def status(self, now: datetime) -> dict[str, Any]:
        """For a connection's status."""
        told: dict[str, Any] = {}
        if self.own is not None:
            told["certificate_days_left"] = days_left(self.own, now)
        if self.server is not None:
            told["server_certificate_days_left"] = days_left(self.server, now)
        warnings = list(self.warnings)
        if self.later and self.own is not None and self.own - now <= RENEWED_BEFORE:
            warnings.insert(0, self.later)
        if warnings:
            told["certificate_warnings"] = warnings
        return told


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
