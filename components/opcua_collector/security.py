"""Our application certificate, and which server is believed (Part 4, 6.1; Part 6, 6.2.2).

    <folder>/own/certificate.der, private-key.pem     made once, the key for its owner alone
    <folder>/trusted/<connection>.der                 the server's certificate, pinned at first use

Nothing here weakens by itself: no policy gives way to a weaker one, no certificate of the server to another.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from opcua_collector.config import Security
from opcua_collector.problems import TroubleError
from opcua_collector.stack import EndpointDescription, ua

POLICY_URI: Final = {
    "None": "http://opcfoundation.org/UA/SecurityPolicy#None",
    "Basic256Sha256": "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
}
FIRST_USE: Final = "first-use"
_BEST: Final = "Basic256Sha256"
_VALID: Final = timedelta(days=5 * 365)


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """Our application certificate."""

    path: Path
    key_path: Path
    uri: str  # application URI: the session must show the same
    thumbprint: str
    expires: datetime


def own_certificate(folder: Path, application_uri: str) -> OwnCertificate:
    """The certificate in `folder`, made when there is none. Its own URI counts, whatever is asked for later."""
    own = folder / "own"
    path, key_path = own / "certificate.der", own / "private-key.pem"
    if not (path.exists() and key_path.exists()):
        _make_folder(own)
        _make(path, key_path, application_uri)
    certificate = x509.load_der_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        raise TroubleError(
            "security",
            str(path),
            "has no application URI, without which servers refuse it",
            "use a certificate with a URI as alternative name, or delete it to have one made",
        )
    return OwnCertificate(path, key_path, uris[0], thumbprint(path.read_bytes()), certificate.not_valid_after_utc)


def _make(path: Path, key_path: Path, uri: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sluice OPC UA collector")])
    now = datetime.now(timezone.utc)
    host = socket.gethostname()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), _host_name(host)]
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
        .not_valid_after(now + _VALID)
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
    _write(key_path, secret)  # the key first: a certificate without its key would be taken for the pair
    _write(path, certificate.public_bytes(serialization.Encoding.DER))


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("ascii", "replace").decode("ascii"))


def _make_folder(path: Path) -> None:
    """With the one above it, both for the owner alone: whoever may write to a folder may exchange what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)


def _write(path: Path, content: bytes) -> None:
    """In one step and for the owner alone."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def thumbprint(der: bytes) -> str:
    """SHA-1 of the certificate, in hexadecimal: what OPC UA and its tools call its thumbprint."""
    return x509.load_der_x509_certificate(der).fingerprint(hashes.SHA1()).hex()  # noqa: S303 - a name, no protection


@dataclass(frozen=True, slots=True)
class Choice:
    """How the channel will be opened."""

    policy: str
    mode: Any  # MessageSecurityMode
    server: bytes  # the server's certificate, DER; empty for policy None


def needs_trust(security: Security) -> bool:
    """Whether the channel has a server certificate to believe or not."""
    return security.policy != "None"


def choose(security: Security, endpoints: Sequence[EndpointDescription]) -> Choice:
    """The best of what the server offers and the configuration allows. Raises TroubleError; never weakens."""
    policy = _BEST if security.policy == "auto" else security.policy
    mode = ua.MessageSecurityMode[security.mode]
    offers = sorted({f"{_policy_name(e.SecurityPolicyUri)}/{e.SecurityMode.name.rstrip('_')}" for e in endpoints})
    for endpoint in endpoints:
        if endpoint.SecurityPolicyUri == POLICY_URI[policy] and endpoint.SecurityMode == mode:
            return Choice(policy, mode, first_certificate(endpoint.ServerCertificate or b""))
    if security.policy == "auto" and all(e.SecurityMode == ua.MessageSecurityMode.None_ for e in endpoints):
        remedy = "switch security on at the server, or accept a channel without any by security: {policy: None}"
    else:
        remedy = f"set security.policy and security.mode to one that the server offers ({', '.join(offers)})"
    raise TroubleError(
        "security.policy",
        f"{policy}/{security.mode}",
        f"is not offered by the server, which offers {', '.join(offers) or 'nothing'}",
        remedy,
    )


def _policy_name(uri: str | None) -> str:
    return (uri or "").rpartition("#")[2] or "None"


def first_certificate(chain: bytes) -> bytes:
    """The leading certificate of a DER chain, whatever form its length has."""
    if len(chain) < 4 or chain[0] != 0x30:
        return b""
    if chain[1] < 0x80:
        return chain[: 2 + chain[1]]
    width = chain[1] & 0x7F
    return chain[: 2 + width + int.from_bytes(chain[2 : 2 + width], "big")]


def check_server(folder: Path, connection: str, trust: str, shown: bytes, now: datetime) -> None:
    """Whether the certificate that the server shows is the one to believe. Raises TroubleError.

    With ``first-use`` the first one is pinned; from then on, and with a file, it must be the very same.
    """
    try:
        certificate = x509.load_der_x509_certificate(shown)
    except ValueError:
        raise TroubleError(
            "security", None, "failed: the server shows no readable certificate", "give the server a certificate"
        ) from None
    mark = thumbprint(shown)
    if not trust:
        raise TroubleError(
            "security.trust",
            None,
            f"is not set, so nobody says that the server with the certificate {mark} is the right one",
            "set it to first-use to believe and pin the first certificate, or to the path of the server's certificate",
        )
    if trust != FIRST_USE:
        if _from_file(Path(trust)) != shown:
            raise TroubleError(
                "security.trust",
                trust,
                f"is not the certificate that the server shows ({mark})",
                "if the server's certificate was renewed, put the new one in the file; otherwise find out who answers",
            )
        return
    pinned = folder / "trusted" / f"{connection}.der"
    if pinned.exists():
        before = pinned.read_bytes()
        if before != shown:
            raise TroubleError(
                "security.trust",
                trust,
                f"pinned another certificate ({thumbprint(before)}) than the server now shows ({mark})",
                f"if the server's certificate was renewed, delete {pinned}; otherwise find out who answers",
            )
        return
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise TroubleError(
            "security.trust",
            trust,
            f"meets a certificate that is valid only from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d}",
            "renew it on the server, set the clocks, or give the certificate as a file to believe it as it is",
        )
    _make_folder(pinned.parent)
    _write(pinned, shown)


def _from_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificate(content).public_bytes(serialization.Encoding.DER)
        return first_certificate(content)
    except (OSError, ValueError) as error:
        raise TroubleError(
            "security.trust",
            str(path),
            f"cannot be read as a certificate: {error}",
            "write first-use, or the path of the server's certificate (.der or .pem)",
        ) from None
