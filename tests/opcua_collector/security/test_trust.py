"""Which server is believed: the rules of Part 4, 6.1 with certificates made here, and openssl as a second judge."""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from opcua_collector.config import Security
from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import CertificateError, first_certificate, split_chain
from opcua_collector.security.trust import (
    MOST_REJECTED,
    Believed,
    RefusedError,
    Rules,
    Store,
    believe,
    judge,
    read_store,
)

from ..authority import DAY, HOST, NOW, URI, Pair, authority, certificate, elliptic, key, revocations

ROOT = authority("Root")
LINE = authority("Line", ROOT)
OTHER = authority("Other")
SERVER = certificate("Server", LINE, serial=1000)
ALONE = certificate("Alone")
RULES = Rules(HOST, URI)


@dataclass
class Situation:
    """What a server shows, and what the folders hold."""

    leaf: Pair = SERVER
    sent: list[Pair] = field(default_factory=lambda: [LINE])
    trusted: list[Pair] = field(default_factory=lambda: [ROOT])
    issuers: list[Pair] = field(default_factory=list)
    lists: list[bytes] = field(default_factory=list)
    rules: Rules = RULES
    pinned: bool = False

    def judge(self) -> Believed:
        trusted = {pair.der: [f"{pair.thumbprint}.der"] for pair in self.trusted}
        issuers = {pair.der: [f"{pair.thumbprint}.der"] for pair in self.issuers}
        store = Store(trusted, issuers, [(f"list{n}.crl", x509.load_der_x509_crl(d)) for n, d in enumerate(self.lists)])
        chain = [self.leaf.der, *(pair.der for pair in self.sent)]
        return judge(chain, store, self.rules, NOW, trusted, pinned=self.pinned)


def leaf(issuer: Pair = LINE, **changes: Any) -> Pair:
    return certificate("Server", issuer, **changes)


def rules(**changes: Any) -> Rules:
    return Rules(**{"host": HOST, "uri": URI, **changes})


SHORT = authority("Short", ROOT, path_length=0)
BELOW = authority("Below", SHORT)
EXPIRED_ROOT = authority("Root", own=ROOT.key, ends=NOW - DAY)
DIRECT: dict[str, Any] = {"sent": [], "trusted": [ALONE], "leaf": ALONE}

HOSTS = authority("Elsewhere", ROOT, more=[x509.NameConstraints([x509.DNSName("elsewhere.example")], None)])
NETWORK = authority(
    "Network", ROOT, more=[x509.NameConstraints([x509.IPAddress(ipaddress.ip_network("10.0.0.0/24"))], None)]
)
FORBIDDEN = authority("Forbidden", ROOT, more=[x509.NameConstraints(None, [x509.DNSName("example")])])
STRANGE = authority("Strange", ROOT, more=[x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"")])

BELIEVED: dict[str, Situation] = {
    "a host that its authority may give away": Situation(
        leaf(a := authority("Here", ROOT, more=[x509.NameConstraints([x509.DNSName("example")], None)])), [a]
    ),
    "an address that its authority may give away": Situation(
        leaf(NETWORK, hosts=["10.0.0.5"]), [NETWORK], rules=rules(host="10.0.0.5")
    ),
    "a chain that the server sends": Situation(),
    "a chain that the issuer folder completes": Situation(sent=[], issuers=[LINE]),
    "an authority in the middle that is trusted itself": Situation(sent=[], trusted=[LINE]),
    "the certificate itself": Situation(**DIRECT),
    "the certificate itself, whoever has issued it": Situation(sent=[], trusted=[SERVER]),
    "an address among the alternative names": Situation(leaf(hosts=["10.0.0.5"]), rules=rules(host="10.0.0.5")),
    "an address written as a name, as many servers do": Situation(
        certificate("Server", LINE, hosts=["10.0.0.5"]), rules=rules(host="10.0.0.5")
    ),
    "upper and lower case in a host": Situation(rules=rules(host=HOST.upper())),
    "any host below a domain": Situation(leaf(hosts=["*.example"])),
    "a current list that does not name it": Situation(lists=[revocations(LINE, 7), revocations(ROOT, 7)]),
    "lists of all issuers, when they are asked for": Situation(
        lists=[revocations(LINE), revocations(ROOT)], rules=rules(require_revocation_list=True)
    ),
    "no list for a self-signed one, though they are asked for": Situation(
        **DIRECT, rules=rules(require_revocation_list=True)
    ),
    "the same number revoked by another issuer": Situation(lists=[revocations(OTHER, 1000)]),
    "a renewed authority beside the expired one of the same name and key": Situation(trusted=[EXPIRED_ROOT, ROOT]),
    "a chain with a longer way round": Situation(sent=[LINE, ROOT, OTHER], issuers=[LINE, ROOT]),
    "no key usages at all": Situation(leaf(usages=None, extended=None)),
}


@pytest.mark.parametrize("situation", BELIEVED.values(), ids=BELIEVED.keys())
def test_it_is_believed_without_a_word(situation: Situation) -> None:
    believed = situation.judge()
    assert (believed.der, believed.warnings) == (situation.leaf.der, ())


REFUSED: dict[str, tuple[Situation, str, str]] = {
    "nobody has trusted it": (Situation(ALONE, [], []), "trust", "nobody has trusted it"),
    "its authority is not trusted": (Situation(trusted=[OTHER]), "trust", "no chain leads"),
    "the authority is there only to complete chains": (Situation(trusted=[], issuers=[ROOT]), "trust", "no chain"),
    "the chain has a hole": (Situation(sent=[]), "trust", "no chain leads"),
    "a name that anybody can write, signed by another": (
        Situation(certificate("Server", OTHER, issued_as="Line")), "trust", "a signature that is not of CN=Line"),
    "an issuer that is no authority": (
        Situation(leaf(certificate("Fake", ROOT)), [certificate("Fake", ROOT)]), "trust", "is no authority"),
    "an issuer that says nothing about it": (
        Situation(leaf(authority("Old", ROOT, ca=None)), [authority("Old", ROOT, ca=None)]), "trust", "no authority"),
    "an issuer that may not sign certificates": (
        Situation(leaf(authority("Crl", ROOT, usages=("crl_sign",))), [authority("Crl", ROOT, usages=("crl_sign",))]),
        "trust", "may not sign certificates"),
    "a longer chain than its authority allows": (
        Situation(leaf(BELOW), [BELOW, SHORT]), "trust", "does not allow so long a chain"),
    "expired": (Situation(leaf(ends=NOW - DAY)), "allowExpired", "has expired on 2026-02-28"),
    "not valid yet: a clock is wrong": (
        Situation(leaf(begins=NOW + DAY)), "allowExpired", "the clock here shows 2026-03-01 00:00"),
    "expired, though trusted itself": (
        Situation(e := certificate("Alone", ends=NOW - DAY), [], [e]), "allowExpired", "has expired"),
    "an expired authority": (Situation(trusted=[EXPIRED_ROOT]), "allowExpired", "authority CN=Root, which has expired"),
    "revoked": (Situation(lists=[revocations(LINE, 1000)]), "trust", "was revoked: CN=Server, by its issuer on 2026"),
    "revoked in a list that has expired": (
        Situation(lists=[revocations(LINE, 1000, ends=NOW - DAY)]), "trust", "was revoked"),
    "revoked, though trusted itself": (
        Situation(trusted=[SERVER], lists=[revocations(LINE, 1000)]), "trust", "was revoked"),
    "revoked, though pinned": (
        Situation(trusted=[SERVER], lists=[revocations(LINE, 1000)], pinned=True), "trust", "was revoked"),
    "a revoked authority": (
        Situation(lists=[revocations(ROOT, LINE.certificate.serial_number)]), "trust", "was revoked: CN=Line"),
    "no list of its issuer": (
        Situation(rules=rules(require_revocation_list=True), lists=[revocations(ROOT)]),
        "requireRevocationList", "no current revocation list of CN=Line"),
    "an expired list of its issuer": (
        Situation(rules=rules(require_revocation_list=True), lists=[revocations(LINE, ends=NOW - DAY)]),
        "requireRevocationList", "no current revocation list of CN=Line"),
    "a list that another has signed": (
        Situation(rules=rules(require_revocation_list=True), lists=[revocations(LINE, signer=OTHER.key)]),
        "requireRevocationList", "no current"),
    "no list though trusted itself": (
        Situation(trusted=[SERVER], rules=rules(require_revocation_list=True)), "requireRevocationList", "no current"),
    "another host": (Situation(rules=rules(host="plc2.example")), "checkHostName", "names plc1.example, and the endp"),
    "a host two levels below a domain": (
        Situation(leaf(hosts=["*.example"]), rules=rules(host="a.b.example")), "checkHostName", "*.example"),
    "another address": (
        Situation(leaf(hosts=["10.0.0.5"]), rules=rules(host="10.0.0.6")), "checkHostName", "10.0.0.5"),
    "another application": (Situation(rules=rules(uri="urn:other")), "trust", "is for the application urn:test:server"),
    "another application, though trusted itself": (
        Situation(**DIRECT, rules=rules(uri="urn:other")), "trust", "is for the application urn:test:server"),
    "no application": (Situation(leaf(uris=())), "trust", "names no application URI"),
    "a short key": (Situation(leaf(own=key(0, 1024))), "trust", "a key of only 1024 bits"),
    "a key of another kind": (Situation(leaf(own=elliptic())), "trust", "has no RSA key"),
    "a key of another kind, though pinned": (
        Situation(k := certificate("Curve", own=elliptic()), [], [k], pinned=True), "trust", "has no RSA key"),
    "a use that is none of a server": (
        Situation(leaf(extended=[ExtendedKeyUsageOID.CLIENT_AUTH])), "trust", "may not be used by a server"),
    "a host that its authority may not give away": (
        Situation(leaf(HOSTS), [HOSTS]), "trust", "CN=Elsewhere may not give away the name plc1.example"),
    "an address that its authority may not give away": (
        Situation(leaf(NETWORK, hosts=["10.0.1.5"]), [NETWORK], rules=rules(host="10.0.1.5")),
        "trust", "CN=Network may not give away the name 10.0.1.5"),
    "a host that its authority is forbidden": (
        Situation(leaf(FORBIDDEN), [FORBIDDEN]), "trust", "CN=Forbidden may not give away the name plc1.example"),
    "a name that the authority above its authority may not give away": (
        Situation(leaf(b := authority("Below", HOSTS)), [b, HOSTS]), "trust", "Elsewhere may not give away the name p"),
    "an authority with a condition that nobody here knows": (
        Situation(leaf(STRANGE), [STRANGE]), "trust", "sets a condition that is not known here (1.2.3.4)"),
    "a list that only has news": (
        Situation(rules=rules(require_revocation_list=True), lists=[
            revocations(LINE, more=x509.DeltaCRLIndicator(7)), revocations(ROOT)]),
        "requireRevocationList", "no current revocation list of CN=Line"),
    "revoked, in a list that only has news": (
        Situation(lists=[revocations(LINE, 1000, more=x509.DeltaCRLIndicator(7))]), "trust", "was revoked"),
    "no use for encryption": (Situation(leaf(usages=["digital_signature"])), "trust", "to sign and to encrypt"),
}  # fmt: skip


@pytest.mark.parametrize(("situation", "setting", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_with_the_reason(situation: Situation, setting: str, words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        situation.judge()
    assert refused.value.setting == setting
    assert words in refused.value.why
    assert refused.value.unknown or refused.value.remedy, "it says how to mend it, or is for `sluice trust`"


TOLD: dict[str, tuple[Situation, str]] = {
    "expired, and allowed": (Situation(leaf(ends=NOW - DAY), rules=rules(allow_expired=True)), "has expired"),
    "an expired authority, and allowed": (
        Situation(trusted=[EXPIRED_ROOT], rules=rules(allow_expired=True)), "CN=Root has expired"),
    "expired, and pinned for this connection": (
        Situation(e := certificate("Alone", ends=NOW - DAY), [], [e], pinned=True), "has expired"),
    "another application, and pinned": (Situation(**DIRECT, rules=rules(uri="urn:other"), pinned=True), "urn:other"),
    "another host, and not looked at": (
        Situation(rules=rules(host="plc2.example", check_host_name=False)), "and the endpoint plc2.example"),
    "another host, and trusted itself": (Situation(**DIRECT, rules=rules(host="plc2.example")), "plc2.example"),
    "a short key, and trusted itself": (Situation(s := certificate("Short", own=key(0, 1024)), [], [s]), "1024 bits"),
    "a use that is none of a server, and trusted itself": (
        Situation(c := certificate("Client", extended=[ExtendedKeyUsageOID.CLIENT_AUTH]), [], [c]), "by a server"),
    "an expired list": (Situation(lists=[revocations(LINE, ends=NOW - DAY)]), "list0.crl has expired on 2026-02-28"),
    "a list that another has signed": (
        Situation(lists=[revocations(LINE, 1000, signer=OTHER.key)]), "list0.crl is passed over"),
}  # fmt: skip


@pytest.mark.parametrize(("situation", "words"), TOLD.values(), ids=TOLD.keys())
def test_it_is_believed_and_what_is_wrong_is_told(situation: Situation, words: str) -> None:
    [warning] = situation.judge().warnings
    assert words in warning


def test_a_certificate_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(CertificateError, match="no readable certificate"):
        judge([b"\x30\x03\x02\x01\x01"], Store(), RULES, NOW, (), pinned=False)


def test_a_maze_of_certificates_with_one_name_ends() -> None:
    maze = [authority("Maze", own=key(10 + n % 4), serial=5000 + n) for n in range(40)]
    with pytest.raises(RefusedError) as refused:
        Situation(leaf(maze[0]), maze[:15], [ROOT], maze).judge()
    assert refused.value.unknown


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(SERVER.der) - 1))
def test_no_chain_of_bytes_does_more_than_be_refused(noise: bytes, cut: int) -> None:
    damaged = SERVER.der[:cut] + noise + SERVER.der[cut + len(noise) :]
    for chain in (noise, damaged, SERVER.der + noise, LINE.der[:cut] + noise):
        assert len(first_certificate(chain)) <= len(chain) or not split_chain(chain)
        parts = split_chain(chain)
        if not parts:
            continue
        try:
            believed = judge(parts, Store({ROOT.der: ["root.der"]}), RULES, NOW, {ROOT.der}, pinned=False)
        except (CertificateError, RefusedError):
            continue
        assert believed.der == SERVER.der


def test_a_signature_whose_last_bits_are_left_out_is_another_certificate_and_refused(tmp_path: Path) -> None:
    """The bits left out are none of the signature, so that it fits, and the thumbprint is another one."""
    even = next(one for n in range(2000, 2100) if not (one := certificate("Server", LINE, serial=n)).der[-1] & 1)
    changed = bytearray(even.der)
    changed[-257] = 1
    with pytest.raises(CertificateError, match="no whole number of octets"):
        judge([bytes(changed)], Store({LINE.der: ["line.der"]}), RULES, NOW, (), pinned=False)
    made = next(some for n in range(2000, 2100) if not (some := revocations(LINE, n))[-1] & 1)
    changed = bytearray(made)
    changed[-257] = 1
    put(tmp_path, "trusted/root.der", ROOT.der)
    put(tmp_path, "issuer/line.crl", bytes(changed))
    assert any("no readable revocation list" in one for one in ask(tmp_path).warnings)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the library's, for countries of three letters and the like
@pytest.mark.parametrize("change", [1, 4, 128, 255])
def test_no_changed_byte_makes_a_certificate_that_its_authority_has_signed(change: int) -> None:
    store = Store({LINE.der: ["line.der"]})
    for place in range(len(SERVER.der)):
        changed = bytearray(SERVER.der)
        changed[place] ^= change
        with pytest.raises((CertificateError, RefusedError)):
            judge([bytes(changed)], store, RULES, NOW, {LINE.der}, pinned=False)


@pytest.mark.parametrize("change", [1, 4, 128, 255])
def test_no_changed_byte_in_a_revocation_list_is_taken_for_the_authoritys_word(tmp_path: Path, change: int) -> None:
    put(tmp_path, "trusted/root.der", ROOT.der)
    whole = revocations(LINE, 7)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= change
        put(tmp_path, "issuer/line.crl", bytes(changed))
        with pytest.raises(TroubleError, match="no current revocation list"):
            ask(tmp_path, requireRevocationList=True)


# --- openssl as second judge -----------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("a chain that the server sends", True),
        ("lists of all issuers, when they are asked for", True),
        ("a name that anybody can write, signed by another", False),
        ("an issuer that is no authority", False),
        ("an issuer that may not sign certificates", False),
        ("a longer chain than its authority allows", False),
        ("a host that its authority may give away", True),
        ("an address that its authority may give away", True),
        ("a host that its authority may not give away", False),
        ("an address that its authority may not give away", False),
        ("a host that its authority is forbidden", False),
        ("a name that the authority above its authority may not give away", False),
        ("an authority with a condition that nobody here knows", False),
        ("expired", False),
        ("not valid yet: a clock is wrong", False),
        ("an expired authority", False),
        ("a revoked authority", False),
        ("revoked", False),
        ("the chain has a hole", False),
    ],
)
def test_openssl_comes_to_the_same_verdict(tmp_path: Path, case: str, verdict: bool) -> None:
    situation = BELIEVED[case] if verdict else REFUSED[case][0]
    leaf, sent, roots, lists = (tmp_path / name for name in ("leaf.pem", "sent.pem", "roots.pem", "lists.pem"))
    leaf.write_bytes(situation.leaf.pem)
    sent.write_bytes(b"".join(pair.pem for pair in situation.sent))
    roots.write_bytes(b"".join(pair.pem for pair in situation.trusted))
    # openssl checks revocation of a whole chain or not at all: what the case says nothing of is an empty list.
    named = {x509.load_der_x509_crl(data).issuer for data in situation.lists}
    given = [x509.load_der_x509_crl(data).public_bytes(Encoding.PEM) for data in situation.lists]
    given += [revocations(one, pem=True) for one in (LINE, ROOT) if one.certificate.subject not in named]
    lists.write_bytes(b"".join(given))
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", str(roots), "-CRLfile", str(lists)]
    command += ["-untrusted", str(sent)] if situation.sent else []
    command += ["-crl_check_all", "-purpose", "sslserver"] if situation.lists else []
    told = subprocess.run([*command, str(leaf)], capture_output=True, text=True, check=False)
    assert (told.returncode == 0) == verdict, told.stdout + told.stderr


@pytest.mark.peers
def test_a_signature_with_sha1_is_refused_unless_the_certificate_is_trusted_itself(tmp_path: Path) -> None:
    (tmp_path / "line.pem").write_bytes(LINE.pem)
    (tmp_path / "line.key").write_bytes(LINE.key_pem)
    (tmp_path / "server.key").write_bytes(key(0).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "names").write_text(f"subjectAltName=URI:{URI},DNS:{HOST}\n", encoding="ascii")
    request = ["openssl", "req", "-new", "-key", "server.key", "-subj", "/CN=Server", "-out", "server.csr"]
    sign = ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "line.pem", "-CAkey", "line.key", "-sha1"]
    sign += ["-set_serial", "77", "-days", "3650", "-extfile", "names", "-outform", "DER", "-out", "server.der"]
    for command in (request, sign):
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    der = (tmp_path / "server.der").read_bytes()
    now = x509.load_der_x509_certificate(der).not_valid_before_utc + DAY
    root = {ROOT.der: ["root.der"]}
    with pytest.raises(RefusedError, match="a signature with SHA-1 or MD5"):
        judge([der, LINE.der], Store(root), RULES, now, root, pinned=False)
    [warning] = judge([der], Store(), RULES, now, {der}, pinned=False).warnings
    assert "SHA-1 or MD5" in warning


# --- the folders -----------------------------------------------------------------------------------------------------


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ask(
    folder: Path, chain: bytes = SERVER.der + LINE.der, *, uri: str = URI, connection: str = "line1", **security: Any
) -> Believed:
    chosen = Security.model_validate(security)
    return believe(folder, connection, chosen, chain, host=HOST, uri=uri, now=NOW)


def trouble(folder: Path, chain: bytes = SERVER.der + LINE.der, **security: Any) -> TroubleError:
    with pytest.raises(TroubleError) as raised:
        ask(folder, chain, **security)
    return raised.value


@pytest.mark.parametrize(
    "name", ["trusted/a.der", "trusted/a.crt", "trusted/a.CER", "trusted/certs/a.der", "trusted/a.pem"]
)
def test_certificates_are_found_under_the_names_that_engineers_give_them(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, ROOT.pem if name.endswith("pem") else ROOT.der)
    assert ask(tmp_path).warnings == ()


@pytest.mark.parametrize("name", ["trusted/l.crl", "issuer/l.crl", "trusted/crl/l.crl", "issuer/crl/l.pem"])
def test_revocation_lists_are_found_in_all_folders(tmp_path: Path, name: str) -> None:
    put(tmp_path, "trusted/root.der", ROOT.der)
    put(tmp_path, name, revocations(LINE, 1000, pem=name.endswith("pem")))
    assert "was revoked" in trouble(tmp_path).problem


def test_a_file_that_cannot_be_read_costs_itself_and_is_told(tmp_path: Path) -> None:
    put(tmp_path, "trusted/root.der", ROOT.der)
    put(tmp_path, "trusted/damaged.der", ROOT.der[:100])
    put(tmp_path, "trusted/notes.pem", b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    put(tmp_path, "issuer/crl/broken.crl", b"nothing")
    put(tmp_path, "trusted/readme.txt", b"not looked at")
    told = ask(tmp_path).warnings
    assert len(told) == 3
    assert all(any(name in one for one in told) for name in ("damaged.der", "notes.pem", "broken.crl"))


def test_what_is_refused_is_kept_for_the_engineer_and_the_words_say_how_to_trust_it(tmp_path: Path) -> None:
    told = trouble(tmp_path)
    rejected = tmp_path / "rejected" / f"{SERVER.thumbprint}.der"
    assert rejected.read_bytes() == SERVER.der
    assert rejected.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "rejected").stat().st_mode & 0o777 == 0o700
    for words in (SERVER.thumbprint, "CN=Server", "2025-11-21", "2028-11-25"):
        assert words in told.problem
    assert f"sluice trust {SERVER.thumbprint}" in told.remedy
    assert told.place == "security.trust"
    put(tmp_path, f"trusted/{SERVER.thumbprint}.der", rejected.read_bytes())
    ask(tmp_path)
    assert not rejected.exists()


def test_of_what_is_refused_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(MOST_REJECTED + 5):
        trouble(tmp_path, certificate(f"Stranger {number}", own=key(0)).der)
    assert len(list((tmp_path / "rejected").iterdir())) == MOST_REJECTED


def test_a_renewed_server_is_refused_until_it_is_trusted_beside_its_old_certificate(tmp_path: Path) -> None:
    old, new = certificate("Alone", serial=1), certificate("Alone", serial=2)
    put(tmp_path, "trusted/old.der", old.der)
    ask(tmp_path, old.der)
    trouble(tmp_path, new.der)
    put(tmp_path, "trusted/new.der", new.der)
    ask(tmp_path, new.der)
    ask(tmp_path, old.der)


def test_first_use_pins_the_first_certificate_and_no_other(tmp_path: Path) -> None:
    ask(tmp_path, ALONE.der, trust="first-use", uri="urn:other")
    pin = tmp_path / "trusted/line1.der"
    assert pin.read_bytes() == ALONE.der
    assert pin.stat().st_mode & 0o777 == 0o600
    ask(tmp_path, ALONE.der, trust="first-use")
    told = trouble(tmp_path, SERVER.der, trust="first-use")
    assert "pinned another certificate" in told.problem
    assert str(pin) in told.remedy
    assert pin.read_bytes() == ALONE.der


def test_first_use_takes_no_certificate_that_is_out_of_its_time_unless_it_is_allowed(tmp_path: Path) -> None:
    expired = certificate("Alone", ends=NOW - DAY).der
    assert trouble(tmp_path, expired, trust="first-use").place == "security.allowExpired"
    assert not (tmp_path / "trusted").exists()
    [warning] = ask(tmp_path, expired, trust="first-use", allowExpired=True).warnings
    assert "has expired" in warning


def test_first_use_takes_what_sluice_trust_has_put_there_and_authorities_but_no_pin_of_another_connection(
    tmp_path: Path,
) -> None:
    put(tmp_path, "trusted/line1.der", ALONE.der)
    other = certificate("Other server", own=key(1))
    put(tmp_path, "trusted/line2.der", other.der)
    trouble(tmp_path, other.der, trust="first-use")
    put(tmp_path, f"trusted/{other.thumbprint}.der", other.der)
    put(tmp_path, "trusted/root.der", ROOT.der)
    ask(tmp_path, trust="first-use")
    assert not (tmp_path / "rejected" / f"{SERVER.thumbprint}.der").exists()


def test_two_connections_to_one_server_each_pin_its_certificate(tmp_path: Path) -> None:
    for _ in range(3):
        for connection in ("line1", "line2", "a-third"):
            ask(tmp_path, ALONE.der, trust="first-use", connection=connection)
    assert len(list((tmp_path / "trusted").iterdir())) == 3


def test_a_pinned_file_that_is_damaged_is_told_and_not_replaced(tmp_path: Path) -> None:
    pin = put(tmp_path, "trusted/line1.der", b"damaged")
    assert "pinned another certificate (it is no" in trouble(tmp_path, trust="first-use").problem
    assert pin.read_bytes() == b"damaged"


def test_a_file_is_believed_as_it_is_and_nothing_else_is(tmp_path: Path) -> None:
    expired = certificate("Alone", ends=NOW - timedelta(days=3))
    path = str(put(tmp_path, "server.pem", expired.pem))
    [warning] = ask(tmp_path, expired.der, trust=path).warnings
    assert "has expired" in warning
    put(tmp_path, "trusted/root.der", ROOT.der)
    for chain in (SERVER.der, SERVER.der + LINE.der):
        assert "is not the certificate that the server shows" in trouble(tmp_path, chain, trust=str(path)).problem
    assert "cannot be read" in trouble(tmp_path, trust=str(tmp_path / "none.der")).problem


def test_a_server_without_a_certificate_is_told(tmp_path: Path) -> None:
    for shown in (b"", b"nothing", b"\x30\x82\xff\xff"):
        assert "no readable certificate" in trouble(tmp_path, shown, trust="first-use").problem


def test_the_setting_that_refuses_is_named_with_its_value(tmp_path: Path) -> None:
    put(tmp_path, "trusted/root.der", ROOT.der)
    told = trouble(tmp_path, certificate("Server", LINE, hosts=["elsewhere"]).der + LINE.der)
    assert (told.place, told.value) == ("security.checkHostName", True)
    assert "checkHostName to false" in told.remedy
    told = trouble(tmp_path, requireRevocationList=True)
    assert (told.place, told.value) == ("security.requireRevocationList", True)


def test_an_empty_work_folder_is_no_error(tmp_path: Path) -> None:
    assert read_store(tmp_path / "pki") == Store()
