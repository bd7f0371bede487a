"""A private authority as a plant has it, and certificates of it that are right or wrong in one way each."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["valid", "expired", "not-yet-valid", "other-host"]
KINDS: tuple[Kind, ...] = ("valid", "expired", "not-yet-valid", "other-host")

_DAY = timedelta(days=1)
_VALIDITY: dict[Kind, tuple[timedelta, timedelta]] = {
    "valid": (-_DAY, 365 * _DAY),
    "expired": (-365 * _DAY, -_DAY),
    "not-yet-valid": (_DAY, 365 * _DAY),
    "other-host": (-_DAY, 365 * _DAY),
}
_OTHER_HOST = "pi.other-plant.example"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM; the key's file has mode 0600."""

    certificate: Path
    key: Path


class Authority:
    """The plant's own authority; everything that it issues goes into `folder`."""

    def __init__(self, folder: Path, name: str = "Plant authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(timezone.utc)
        own = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 400 * _DAY)
            .not_valid_after(now + 3650 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "authority.pem"
        """What a client trusts."""
        self.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def server(self, kind: Kind = "valid") -> Issued:
        """A server certificate for localhost and 127.0.0.1, or one that is wrong in the way that `kind` says."""
        if kind == "other-host":
            names = x509.SubjectAlternativeName([x509.DNSName(_OTHER_HOST)])
        else:
            names = x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
            )
        return self._issue(f"server-{kind}", kind, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name: str = "reader", kind: Kind = "valid") -> Issued:
        """A certificate that a client shows."""
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._issue(f"client-{name}-{kind}", kind, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def context(self, issued: Issued, *, client_required: bool = False) -> ssl.SSLContext:
        """What a server serves with; `client_required`: only to clients with a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(issued.certificate, issued.key)
        if client_required:
            context.load_verify_locations(self.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _issue(
        self, name: str, kind: Kind, names: x509.SubjectAlternativeName, purpose: x509.ObjectIdentifier
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(timezone.utc)
        begin, end = _VALIDITY[kind]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        issued.key.unlink(missing_ok=True)
        descriptor = os.open(issued.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        return issued


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


__all__ = ["KINDS", "Authority", "Issued", "Kind"]
