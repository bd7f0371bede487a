"""Which server is believed (Part 4, 6.1; Part 12, 7.8). The rules are pure; `believe`, at the end, reads the folders.

    pki/trusted/   certificates of servers, and of authorities whose servers are believed; also in certs/ below it
    pki/issuer/    authorities that only complete a chain; also in certs/
    pki/rejected/  what was refused last, for `sluice trust <thumbprint>` or a move by hand
    *.crl          revocation lists, in trusted/ or issuer/ or crl/ below them

A certificate is believed directly, because it is itself trusted, or because a chain leads from it to an authority that
is. What is wrong with it then refuses it, or is only told:

| wrong                                     | by an authority          | directly        | pinned, or a file's |
|-------------------------------------------|--------------------------|-----------------|---------------------|
| revoked; a key that is not RSA            | refused                  | refused         | refused             |
| no current revocation list                | as requireRevocationList | as requireRevo… | as requireRevo…     |
| out of its time                           | as allowExpired          | as allowExpired | told                |
| another application URI                   | refused                  | refused         | told                |
| another host                              | as checkHostName         | told            | told                |
| usages, a key below 2048 bits, SHA-1, MD5 | refused                  | told            | told                |

The columns are in this order of confidence: who has trusted one certificate has looked at it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from opcua_collector.config import Security
from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import (
    SMALLEST_KEY,
    UNREADABLE,
    CertificateError,
    Facts,
    alternative_names,
    certificates_of_file,
    facts,
    make_folder,
    read_certificate,
    split_chain,
    thumbprint,
    whole_octets,
    write_file,
)

FIRST_USE: Final = "first-use"
SUFFIXES: Final = (".der", ".pem", ".crt", ".cer")
MOST_REJECTED: Final = 32
_MOST_FILES: Final = 1000
_LARGEST_LIST: Final = 16 * 2**20
_LONGEST_CHAIN: Final = 8
_MOST_SIGNATURES: Final = 64  # that are checked for one chain
_WEAK: Final = (hashes.SHA1, hashes.MD5)
_UNUSABLE: Final = (*UNREADABLE, InvalidSignature)


@dataclass(frozen=True, slots=True)
class Store:
    """What the folders hold."""

    trusted: Mapping[bytes, Collection[str]] = field(default_factory=dict)  # certificate (DER) -> the files it is in
    issuers: Mapping[bytes, Collection[str]] = field(default_factory=dict)
    revocations: Sequence[tuple[str, x509.CertificateRevocationList]] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a certificate has to fit."""

    host: str = ""  # of the endpoint as it is configured
    uri: str = ""  # application URI that the server says it has
    check_host_name: bool = True
    allow_expired: bool = False
    require_revocation_list: bool = False


@dataclass(frozen=True, slots=True)
class Believed:
    """A server's certificate that is believed."""

    der: bytes
    expires: datetime
    warnings: tuple[str, ...]


class RefusedError(Exception):
    """It is not believed. `setting` of the connection's security is the one to look at."""

    def __init__(self, setting: str, why: str, remedy: str = "", *, unknown: bool = False) -> None:
        super().__init__(why)
        self.setting, self.why, self.remedy = setting, why, remedy
        self.unknown = unknown  # nobody has trusted it, or its authority


# --- the rules -------------------------------------------------------------------------------------------------------


def judge(
    chain: Sequence[bytes], store: Store, rules: Rules, now: datetime, directly: Collection[bytes], *, pinned: bool
) -> Believed:
    """Whether the first certificate of `chain` is believed. Raises RefusedError or CertificateError.

    chain: what the server shows, DER. directly: the certificates that are believed for themselves. pinned: they were
    chosen for this very connection.
    """
    leaf = read_certificate(chain[0])
    if not _has_rsa(leaf):
        raise RefusedError("trust", "has no RSA key", "give the server one with an RSA key: all policies here need it")
    if chain[0] in directly:
        others = _known(chain[1:], store)
        warnings = _check_directly(leaf, others, store, rules, now, pinned=pinned)
    else:
        warnings = _by_authority(leaf, chain[1:], store, rules, now)
    return Believed(chain[0], leaf.not_valid_after_utc, tuple(dict.fromkeys(warnings))[:8])


def _known(shown: Sequence[bytes], store: Store) -> list[x509.Certificate]:
    """The certificates from which a chain is made; those that the server shows prove nothing by themselves."""
    found: dict[bytes, x509.Certificate] = {}
    for der in (*shown, *store.issuers, *store.trusted):
        with contextlib.suppress(CertificateError):  # of a file it was told when it was read; the server's is of no use
            found.setdefault(der, read_certificate(der))
    return list(found.values())


def _check_directly(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    store: Store,
    rules: Rules,
    now: datetime,
    *,
    pinned: bool,
) -> list[str]:
    warnings = list(store.warnings)
    known, told = _check_revocation(leaf, others, store, now)
    warnings += told
    if not known and leaf.issuer != leaf.subject:
        _require_list(leaf, rules)
    if wrong := _time(leaf, now):
        if not (pinned or rules.allow_expired):
            raise RefusedError("allowExpired", *wrong)
        warnings.append(f"the server's certificate {wrong[0]}")
    if wrong := _application(leaf, rules):
        if not pinned:
            raise RefusedError("trust", *wrong)
        warnings.append(f"the server's certificate {wrong[0]}")
    if wrong := _host(leaf, rules):
        warnings.append(f"the server's certificate {wrong[0]}")
    warnings += [f"the server's certificate {one}" for one in (_strength(leaf), *_usages(leaf)) if one]
    return warnings


def _by_authority(
    leaf: x509.Certificate, shown: Sequence[bytes], store: Store, rules: Rules, now: datetime
) -> list[str]:
    trusted = set(store.trusted)
    failures: list[str] = []
    refused: RefusedError | None = None
    others = _known(shown, store)
    for path in _paths(leaf, others, trusted, failures):
        try:
            return [*store.warnings, *_check_path(path, others, store, rules, now)]
        except RefusedError as error:  # noqa: PERF203 - there may be another chain, such as one of a renewed authority
            refused = refused or error
    if refused is not None:
        raise refused
    why = f"it is not trusted itself, and {failures[0]}" if failures else "nobody has trusted it, or its issuer"
    raise RefusedError("trust", why, unknown=True)


def _paths(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], trusted: Collection[bytes], failures: list[str]
) -> Iterator[list[x509.Certificate]]:
    """Chains from the leaf to a trusted authority, each signature checked. What led nowhere goes into `failures`."""
    budget = _MOST_SIGNATURES
    waiting = [[leaf]]
    while waiting:
        path = waiting.pop()
        last = path[-1]
        for issuer in others:
            if issuer.subject != last.issuer or issuer in path:
                continue
            if budget == 0 or len(path) >= _LONGEST_CHAIN:
                failures.append("its chain is too long")
                return
            budget -= 1
            if wrong := _may_sign(issuer, len(path) - 1) or _outside(issuer, path):
                failures.append(wrong)
                continue
            if _forgeable(last):
                failures.append("its chain has a signature with SHA-1 or MD5, which can be forged")
                continue
            try:
                last.verify_directly_issued_by(issuer)
            except _UNUSABLE:
                failures.append(f"its chain has a signature that is not of {_name(issuer)}")
                continue
            longer = [*path, issuer]
            if issuer.public_bytes(serialization.Encoding.DER) in trusted:
                yield longer
            waiting.append(longer)
    if not failures and leaf.issuer != leaf.subject:
        failures.append(f"no chain leads from it to a trusted authority (its issuer is {_text(leaf.issuer)})")


def _may_sign(issuer: x509.Certificate, below: int) -> str:
    """Why this certificate may not sign one that has `below` authorities below it; empty when it may."""
    name = _name(issuer)
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return f"its issuer {name} is no authority"
    if not constraints.ca:
        return f"its issuer {name} is no authority"
    if constraints.path_length is not None and below > constraints.path_length:
        return f"the authority {name} does not allow so long a chain"
    usage = _usage(issuer)
    if usage is not None and not usage.key_cert_sign:
        return f"its issuer {name} may not sign certificates"
    unknown = [one.oid.dotted_string for one in issuer.extensions if one.critical and one.oid not in _UNDERSTOOD]
    if unknown:
        return f"the authority {name} sets a condition that is not known here ({unknown[0]})"
    return ""


_UNDERSTOOD: Final = (
    *(x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectAlternativeName.oid),
    *(x509.NameConstraints.oid, x509.CertificatePolicies.oid),
)
"""Extensions that may be critical in an authority's certificate: others make it useless (RFC 5280, 4.2)."""


def _outside(issuer: x509.Certificate, path: Sequence[x509.Certificate]) -> str:
    """Which name below an authority it may not give away (RFC 5280, 4.2.1.10); empty when it has given none such."""
    try:
        limits = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ""
    for certificate in path:
        for name in _all_names(certificate):
            allowed = [one for one in limits.permitted_subtrees or () if type(one) is type(name)]
            forbidden = [one for one in limits.excluded_subtrees or () if type(one) is type(name)]
            fits = not allowed or any(_is_below(name, one, otherwise=False) for one in allowed)
            if not fits or any(_is_below(name, one, otherwise=True) for one in forbidden):
                return f"the authority {_name(issuer)} may not give away the name {str(name.value)[:120]}"
    return ""


def _all_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = list(alternative_names(certificate) or ())
    return names if not certificate.subject.rdns else [*names, x509.DirectoryName(certificate.subject)]


def _is_below(name: x509.GeneralName, limit: x509.GeneralName, *, otherwise: bool) -> bool:
    """Whether a name is within the limit; `otherwise` for kinds of names of which that cannot be said here."""
    if isinstance(name, x509.DNSName) and isinstance(limit, x509.DNSName):
        host, domain = name.value.lower().rstrip("."), limit.value.lower().strip(".")
        return not domain or host == domain or host.endswith(f".{domain}")
    if isinstance(name, x509.IPAddress) and isinstance(limit, x509.IPAddress):
        network = limit.value
        whole = isinstance(network, (ipaddress.IPv4Network, ipaddress.IPv6Network))
        return network.version == name.value.version and whole and name.value in network  # type: ignore[operator]
    if isinstance(name, x509.DirectoryName) and isinstance(limit, x509.DirectoryName):
        above = limit.value.rdns
        return name.value.rdns[: len(above)] == above
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(limit, x509.UniformResourceIdentifier):
        host = (urlsplit(name.value).hostname or "").lower()
        domain = limit.value.lower()
        if host:
            return host.endswith(domain) if domain.startswith(".") else host == domain
    return otherwise


def _check_path(
    path: Sequence[x509.Certificate], others: Sequence[x509.Certificate], store: Store, rules: Rules, now: datetime
) -> list[str]:
    """`path`: from the leaf to a trusted authority."""
    leaf, anchor = path[0], path[-1]
    warnings: list[str] = []
    for certificate, whose in ((leaf, "the server's certificate"), *((one, _name(one)) for one in path[1:])):
        issuer = path[path.index(certificate) + 1 :][:1]
        known, told = _check_revocation(certificate, issuer or others, store, now)
        warnings += told
        if not known and certificate is not anchor:
            _require_list(certificate, rules)
        if wrong := _time(certificate, now):
            if not rules.allow_expired:
                raise RefusedError(
                    "allowExpired",
                    wrong[0] if certificate is leaf else f"is of the authority {whose}, which {wrong[0]}",
                    wrong[1],
                )
            warnings.append(f"{whose} {wrong[0]}")
        # An anchor is believed for itself: nobody relies on its signature.
        if wrong_strength := _strength(certificate, signature=certificate is not anchor):
            raise RefusedError(
                "trust",
                wrong_strength if certificate is leaf else f"is of the authority {whose}, which {wrong_strength}",
                "have it renewed with RSA 2048 and SHA-256, or trust the server's certificate itself",
            )
    for unfit in _usages(leaf):
        raise RefusedError("trust", unfit, "have it renewed for an OPC UA server, or trust the certificate itself")
    if wrong := _application(leaf, rules):
        raise RefusedError("trust", *wrong)
    if wrong := _host(leaf, rules):
        if rules.check_host_name:
            raise RefusedError("checkHostName", *wrong)
        warnings.append(f"the server's certificate {wrong[0]}")
    return warnings


def _require_list(certificate: x509.Certificate, rules: Rules) -> None:
    if rules.require_revocation_list:
        raise RefusedError(
            "requireRevocationList",
            f"cannot be checked: no current revocation list of {_text(certificate.issuer)} is there",
            "put the authority's list (.crl) into pki/trusted or pki/issuer, with the authority's certificate",
        )


def _check_revocation(
    certificate: x509.Certificate, issuers: Sequence[x509.Certificate], store: Store, now: datetime
) -> tuple[bool, list[str]]:
    """Whether a current list of its issuer was there, and what is wrong with lists. Raises RefusedError."""
    known, warnings = False, []
    for name, crl in store.revocations:
        if crl.issuer != certificate.issuer:
            continue
        if not any(_signed(crl, issuer) for issuer in issuers):
            warnings.append(f"{name} is passed over: its signature is of no authority that is known")
            continue
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is not None:
            raise RefusedError(
                "trust",
                f"was revoked: {_text(certificate.subject)}, by its issuer on "
                f"{entry.revocation_date_utc:%Y-%m-%d} ({name})",
                "find out why; have the server given another certificate",
            )
        if not _is_complete(crl):
            warnings.append(f"{name} lists only some of what its issuer has revoked: put the whole list there as well")
            continue
        until = crl.next_update_utc
        if until is not None and until < now:
            warnings.append(f"{name} has expired on {until:%Y-%m-%d}: fetch a new one from the authority")
        else:
            known = True
    return known, warnings


def _is_complete(crl: x509.CertificateRevocationList) -> bool:
    """Whether what it does not name was not revoked: so not when it only has news, or only some kinds of certificates
    or reasons (RFC 5280, 5.2.4 and 5.2.5)."""
    partial = (x509.DeltaCRLIndicator.oid, x509.IssuingDistributionPoint.oid)
    return all(extension.oid not in partial or not extension.critical for extension in crl.extensions)


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if issuer.subject != crl.issuer:
        return False
    usage = _usage(issuer)
    if usage is not None and not usage.crl_sign:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type] # other keys raise, and fit not
    except _UNUSABLE:
        return False


def _time(certificate: x509.Certificate, now: datetime) -> tuple[str, str] | None:
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > expires:
        return (
            f"has expired on {expires:%Y-%m-%d}",
            "have it renewed on the server, or set security.allowExpired to true to believe it all the same",
        )
    if now < begins:
        return (
            f"is valid only from {begins:%Y-%m-%d %H:%M} UTC on, and the clock here shows {now:%Y-%m-%d %H:%M} UTC",
            "set the clocks of server and gateway, or set security.allowExpired to true to believe it all the same",
        )
    return None


def _application(leaf: x509.Certificate, rules: Rules) -> tuple[str, str] | None:
    names = alternative_names(leaf)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if not rules.uri or rules.uri in uris:
        return None
    remedy = "have a certificate made for this server, or give its file as security.trust to believe it as it is"
    if not uris:
        return "names no application URI", remedy
    return f"is for the application {uris[0][:200]}, and the server says that it is {rules.uri[:200]}", remedy


def _host(leaf: x509.Certificate, rules: Rules) -> tuple[str, str] | None:
    if not rules.host:
        return None
    names = alternative_names(leaf)
    hosts = names.get_values_for_type(x509.DNSName) if names is not None else []
    addresses = names.get_values_for_type(x509.IPAddress) if names is not None else []
    try:
        address = ipaddress.ip_address(rules.host)
    except ValueError:
        fits = any(_names(pattern, rules.host) for pattern in hosts)
    else:
        # Many servers have addresses among the names.
        fits = address in addresses or rules.host in hosts
    if fits:
        return None
    named = ", ".join([*hosts, *map(str, addresses)][:8])
    return (
        f"names {named or 'no host'}, and the endpoint {rules.host}",
        "write the endpoint with a host that the certificate names, have the certificate made for this host, or set "
        "security.checkHostName to false",
    )


def _names(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:] and bool(host.partition(".")[0])
    return pattern == host


def _strength(certificate: x509.Certificate, *, signature: bool = True) -> str:
    """What of its key or signature is too weak, or of a kind that no policy here knows."""
    if not _has_rsa(certificate):
        return "has no RSA key"
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    if key.key_size < SMALLEST_KEY:
        return f"has a key of only {key.key_size} bits"
    return "is signed with SHA-1 or MD5, which can be forged" if signature and _forgeable(certificate) else ""


def _has_rsa(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(certificate.public_key(), rsa.RSAPublicKey)
    except UNREADABLE:
        return False


def _forgeable(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(certificate.signature_hash_algorithm, _WEAK)
    except UNREADABLE:  # nor can it be checked, then
        return False


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _usages(leaf: x509.Certificate) -> list[str]:
    """For what a server needs it, and it was not made (Part 6, 6.2.2)."""
    found = []
    usage = _usage(leaf)
    if usage is not None and not (usage.digital_signature and (usage.key_encipherment or usage.data_encipherment)):
        found.append("may not be used to sign and to encrypt (key usage)")
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return found
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extended):
        found.append("may not be used by a server (extended key usage)")
    return found


def _name(certificate: x509.Certificate) -> str:
    return _text(certificate.subject)


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()[:120] or "an issuer without a name"


# --- the folders -----------------------------------------------------------------------------------------------------


def read_store(folder: Path) -> Store:
    """What pki/trusted and pki/issuer hold. A file that cannot be read costs itself, and is told."""
    trusted: dict[bytes, list[str]] = {}
    issuers: dict[bytes, list[str]] = {}
    revocations: list[tuple[str, x509.CertificateRevocationList]] = []
    warnings: list[str] = []
    for name, certificates in (("trusted", trusted), ("issuer", issuers)):
        for path in _files(folder / name, warnings):
            shown = f"pki/{path.relative_to(folder)}"
            try:
                if _is_list(path):
                    revocations += [(shown, one) for one in _lists(path)]
                else:
                    for der in certificates_of_file(path):
                        certificates.setdefault(der, []).append(path.name)
            except CertificateError as error:
                warnings.append(f"{shown} is passed over: {error}")
    return Store(trusted, issuers, tuple(revocations), tuple(dict.fromkeys(warnings))[:8])


def _files(folder: Path, warnings: list[str]) -> list[Path]:
    found: list[Path] = []
    for place in (folder, folder / "certs", folder / "crl"):
        try:
            entries = sorted(place.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            warnings.append(f"{place} cannot be read ({error.strerror})")
            continue
        found += [one for one in entries if one.suffix.lower() in (*SUFFIXES, ".crl") and one.is_file()]
    if len(found) > _MOST_FILES:
        warnings.append(f"{folder} holds {len(found)} files: only the first {_MOST_FILES} are looked at")
    return found[:_MOST_FILES]


def _is_list(path: Path) -> bool:
    if path.suffix.lower() == ".crl":
        return True
    try:
        with path.open("rb") as file:
            return b"-----BEGIN X509 CRL" in file.read(4096)
    except OSError as error:
        raise CertificateError(f"it cannot be read ({error.strerror})") from None


def _lists(path: Path) -> list[x509.CertificateRevocationList]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_LIST + 1)
        if len(content) > _LARGEST_LIST:
            raise CertificateError("it is larger than 16 MiB")
        load = x509.load_pem_x509_crl if content.lstrip().startswith(b"-----") else x509.load_der_x509_crl
        crl = load(content)
        _ = crl.issuer, crl.next_update_utc, len(crl), crl.extensions
        if not whole_octets(crl.public_bytes(serialization.Encoding.DER), crl.signature):
            raise ValueError
    except OSError as error:
        raise CertificateError(f"it cannot be read ({error.strerror})") from None
    except _UNUSABLE:
        raise CertificateError("it is no readable revocation list") from None
    return [crl]


def believe(
    folder: Path, connection: str, security: Security, shown: bytes, *, host: str, uri: str, now: datetime
) -> Believed:
    """Whether the server that shows this chain is believed. Raises TroubleError, with the remedy.

    With ``first-use`` the connection's first certificate is pinned as trusted/<connection>.der.
    """
    chain = split_chain(shown)
    try:
        if not chain:
            raise CertificateError("it is none in DER form")
        told = facts(chain[0])
    except CertificateError as error:
        raise TroubleError(
            "security",
            None,
            f"failed: the server shows no readable certificate ({error})",
            "give the server a certificate",
        ) from None
    store = read_store(folder)
    directly = _directly(connection, security, store)
    if security.trust not in ("", FIRST_USE):  # a file is believed and nothing else, whoever has signed it
        store = replace(store, trusted={}, issuers={**store.trusted, **store.issuers})
    chosen = bool(security.trust)  # for this connection, in the place of trusted for all
    pin = folder / "trusted" / f"{connection}.der"
    pinned = pin.exists()
    rules = Rules(host, uri, security.check_host_name, security.allow_expired, security.require_revocation_list)
    try:
        try:
            believed = judge(chain, store, rules, now, directly, pinned=chosen)
        except RefusedError as error:
            if not (error.unknown and security.trust == FIRST_USE and not pinned):
                raise
            if (wrong := _time(read_certificate(chain[0]), now)) and not security.allow_expired:
                raise RefusedError("allowExpired", *wrong) from None
            believed = judge(chain, store, rules, now, {chain[0]}, pinned=True)
            make_folder(pin.parent)
            write_file(pin, chain[0])
    except RefusedError as error:
        if chain[0] not in directly:
            _reject(folder, chain[0])
        raise _trouble(error, folder, security, told, pin if pinned else None) from None
    with contextlib.suppress(OSError):
        (folder / "rejected" / f"{told.thumbprint}.der").unlink()
    return believed


def _directly(connection: str, security: Security, store: Store) -> Collection[bytes]:
    """The certificates that are believed for themselves."""
    if not security.trust:
        return set(store.trusted)
    if security.trust != FIRST_USE:
        return {_from_file(Path(security.trust))}
    # What was pinned for another connection is another server's; `sluice trust` names files by the thumbprint.
    return {
        der
        for der, files in store.trusted.items()
        if not {thumbprint(der), connection}.isdisjoint(Path(name).stem for name in files)
    }


def _from_file(path: Path) -> bytes:
    try:
        return certificates_of_file(path)[0]
    except CertificateError as error:
        raise TroubleError(
            "security.trust",
            str(path),
            f"cannot be read as a certificate: {error}",
            "write first-use, or the path of the server's certificate (.der or .pem)",
        ) from None


def _trouble(error: RefusedError, folder: Path, security: Security, told: Facts, pin: Path | None) -> TroubleError:
    """`pin`: the file of the connection's pinned certificate, where it has one."""
    place = f"security.{error.setting}"
    value: Any = security.trust or None
    if error.setting != "trust":
        value = {
            "allowExpired": security.allow_expired,
            "checkHostName": security.check_host_name,
            "requireRevocationList": security.require_revocation_list,
        }[error.setting]
    if not error.unknown:
        return TroubleError(place, value, f"refuses the server's certificate {told}: it {error.why}", error.remedy)
    mark = told.thumbprint
    command = f"run `sluice trust {mark}` on this device, or move {folder / 'rejected' / mark}.der to pki/trusted"
    if security.trust not in ("", FIRST_USE):
        return TroubleError(
            place,
            value,
            f"is not the certificate that the server shows: {told}",
            "if the server's certificate was renewed, put the new one in the file; otherwise find out who answers; "
            "first-use would believe the first one by itself",
        )
    if security.trust == FIRST_USE and pin is not None:
        return TroubleError(
            place,
            value,
            f"pinned another certificate ({_mark_of(pin)}) than the server now shows: {told}",
            f"if the server's certificate was renewed, {command}, or delete {pin}; otherwise find out who answers",
        )
    return TroubleError(
        place,
        value,
        f"does not cover the server's certificate {told}: {error.why}",
        f"if this is the right server, {command}; security.trust: first-use believes the first one by itself",
    )


def _mark_of(path: Path) -> str:
    try:
        return thumbprint(certificates_of_file(path)[0])
    except CertificateError as error:
        return str(error)


def _reject(folder: Path, der: bytes) -> None:
    """Keep what was refused, for an engineer to look at; the newest, because whoever answers may show new ones."""
    place = folder / "rejected"
    path = place / f"{thumbprint(der)}.der"
    try:
        make_folder(place)
        if path.exists():
            os.utime(path)
            return
        write_file(path, der)
        kept = sorted(place.glob("*.der"), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in kept[MOST_REJECTED:]:
            old.unlink()
    except OSError:  # a full disk: the trouble that is raised tells all that the file would
        return
