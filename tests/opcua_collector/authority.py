"""Certificates for tests: authorities, servers, revocation lists, each wrong in whatever way a test asks for."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
URI = "urn:test:server"
HOST = "plc1.example"
DAY = timedelta(days=1)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@cache
def key(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    """RSA keys are slow to make: the tests share a few."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass(frozen=True)
class Pair:
    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(  # type: ignore[no-any-return]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def thumbprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA1()).hex()


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    name: str,
    issuer: Pair | None = None,
    *,
    own: Any = None,
    serial: int | None = None,
    issued_as: str | None = None,
    begins: datetime = NOW - 100 * DAY,
    ends: datetime = NOW + 1000 * DAY,
    uris: Sequence[str] = (URI,),
    hosts: Sequence[str] = (HOST,),
    ca: bool | None = False,
    path_length: int | None = None,
    usages: Collection[str] | None = ("digital_signature", "key_encipherment", "data_encipherment"),
    extended: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
    more: Sequence[x509.ExtensionType] = (),
) -> Pair:
    """A certificate; without an issuer self-signed. issued_as: the name of the issuer that it claims."""
    own = own if own is not None else key(sum(name.encode()) % 4)
    subject = _name(name)
    issued_by = _name(issued_as) if issued_as else issuer.certificate.subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(own.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:  # noqa: PERF203 - it is a name
            names.append(x509.DNSName(host))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if usages is not None:
        builder = builder.add_extension(usage(*usages), critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    signer = issuer.key if issuer else own
    return Pair(builder.sign(signer, hashes.SHA256()), own)


def authority(name: str, issuer: Pair | None = None, **changes: Any) -> Pair:
    """A certificate that may sign others."""
    settings: dict[str, Any] = {
        "ca": True,
        "uris": (),
        "hosts": (),
        "usages": ("key_cert_sign", "crl_sign"),
        "extended": None,
        "own": key(10 + sum(name.encode()) % 4),
    }
    return certificate(name, issuer, **{**settings, **changes})


def elliptic() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def revocations(
    issuer: Pair,
    *serials: int,
    ends: datetime = NOW + 30 * DAY,
    signer: Any = None,
    pem: bool = False,
    more: x509.ExtensionType | None = None,
) -> bytes:
    """The issuer's revocation list."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(ends - 60 * DAY).next_update(ends)
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - 10 * DAY).build()
        builder = builder.add_revoked_certificate(revoked)
    if more is not None:
        builder = builder.add_extension(more, critical=True)
    crl = builder.sign(signer or issuer.key, hashes.SHA256())
    return crl.public_bytes(serialization.Encoding.PEM if pem else serialization.Encoding.DER)
