"""The server's application certificate: made once, kept in the plant's work folder, its key readable to nobody else."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate (DER) and its private key (PEM, mode 0600)."""

    certificate: Path
    key: Path


def own_certificate(folder: Path, application_uri: str) -> Certificate:
    """The certificate in this folder, made (self-signed, RSA 2048, SHA-256) when there is none.

    It carries what OPC UA Part 6, 6.2.2 asks of an application instance certificate: the application URI and the host
    names as alternative names, four key usages and both extended ones.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = Certificate(folder / "plant.der", folder / "plant-key.pem")
    if own.certificate.exists() and own.key.exists():
        return own
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sluice simulated plant")])
    now = datetime.now(timezone.utc)
    hosts = {"localhost", socket.gethostname()}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(application_uri),
                    *(x509.DNSName(host) for host in sorted(hosts)),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=True,
                key_encipherment=True,
                data_encipherment=True,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own.key.unlink(missing_ok=True)
    descriptor = os.open(own.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    own.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    return own
