"""Our application certificate: made once, renewed beside the old one, never in place of a site's."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import RENEWED_BEFORE, Certificates, make, thumbprint
from opcua_collector.security.own import OwnCertificates

from ..authority import Pair, authority, certificate, elliptic, key

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
URI = "urn:sluice:gateway:opcua-collector"


class Folder:
    """pki/own of a device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = path / "own"
        self.next = self.own / "next"
        self.restart()

    def restart(self, uri: str = URI) -> None:
        self.certificates = OwnCertificates(self.path, uri)

    def put(self, der: bytes, pem: bytes, folder: str = "own") -> None:
        place = self.path / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "certificate.der").write_bytes(der)
        (place / "private-key.pem").write_bytes(pem)

    def age(self, days_left: int) -> bytes:
        """The pair is one of ours that ends in so many days."""
        der, pem = make(URI, valid=timedelta(days=1000), now=NOW - timedelta(days=1000 - days_left))
        self.put(der, pem)
        return der

    def tries(self, connection: str = "line1", now: datetime = NOW) -> list[bytes]:
        return [one.der for one in self.certificates.candidates(connection, now).certificates]

    def took(self, connection: str, which: int) -> None:
        candidates = self.certificates.candidates(connection, NOW)
        self.certificates.took(connection, candidates.certificates[which], candidates)

    def trouble(self) -> TroubleError:
        with pytest.raises(TroubleError) as raised:
            self.tries()
        return raised.value


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "pki")


def test_it_has_what_servers_ask_for_and_is_made_once(folder: Folder) -> None:
    [first] = folder.certificates.candidates("line1", NOW).certificates
    folder.restart("urn:sluice:renamed:opcua-collector")
    [again] = folder.certificates.candidates("line2", NOW).certificates
    assert again == first
    assert again.uri == URI, "the session must show the URI that the certificate has, whatever it is called by now"
    made = x509.load_der_x509_certificate(first.path.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [URI]
    assert len(names) == 2, "and the host"
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert all((usage.digital_signature, usage.content_commitment, usage.key_encipherment, usage.data_encipherment))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (*folder.own.iterdir(), folder.own, folder.path)}
    assert modes == {"certificate.der": 0o600, "private-key.pem": 0o600, "own": 0o700, "pki": 0o700}
    assert first.key.decode() not in repr(first)


def test_a_new_one_is_made_sixty_days_before_the_end_and_no_sooner(folder: Folder) -> None:
    assert timedelta(days=60) == RENEWED_BEFORE
    old = folder.age(61)
    assert folder.tries() == [old]
    [new, same] = folder.tries(now=NOW + 2 * DAY)
    assert same == old
    assert new != old
    folder.restart()
    assert folder.tries(now=NOW + 3 * DAY) == [new, old], "it is made once"
    mode = (folder.next / "private-key.pem").stat().st_mode & 0o777
    assert mode == 0o600


def test_the_new_one_has_another_key_and_the_same_application(folder: Folder) -> None:
    folder.age(30)
    folder.restart("urn:renamed")
    new, old = folder.certificates.candidates("line1", NOW).certificates
    assert new.uri == old.uri == URI
    assert new.key != old.key
    assert new.expires > NOW + timedelta(days=1500)


def test_it_takes_the_place_of_the_old_one_when_all_servers_have_taken_it(folder: Folder) -> None:
    old = folder.age(30)
    folder.certificates.serve(["line1", "line2"])
    new = folder.tries()[0]
    folder.took("line1", 0)
    folder.took("line2", 1)
    assert folder.tries() == [new, old]
    folder.restart()
    folder.certificates.serve(["line1", "line2"])
    folder.took("line2", 0)
    assert folder.tries() == [new], "what line1 has taken is known over a restart"
    assert (folder.own / "certificate.der").read_bytes() == new
    assert not folder.next.exists()


def test_a_server_that_takes_it_no_more_keeps_the_old_one(folder: Folder) -> None:
    folder.age(30)
    folder.certificates.serve(["line1", "line2"])
    folder.took("line1", 0)
    folder.took("line1", 1)
    folder.took("line2", 0)
    assert len(folder.tries()) == 2


def test_the_old_one_is_tried_after_its_end_too_because_a_clock_may_be_wrong_and_some_servers_do_not_mind(
    folder: Folder,
) -> None:
    old = folder.age(30)
    folder.certificates.serve(["line1", "line2"])
    new = folder.tries()[0]
    assert folder.tries(now=NOW + 31 * DAY) == [new, old]
    assert folder.tries() == [new, old]
    folder.certificates.took("line1", *only(folder, 31))
    folder.certificates.took("line2", *only(folder, 31))
    assert folder.tries(now=NOW + 32 * DAY) == [new]


def only(folder: Folder, days: int) -> Any:
    candidates = folder.certificates.candidates("line1", NOW + days * DAY)
    return candidates.certificates[0], candidates


def test_it_takes_the_place_of_one_that_has_ended_when_it_comes_near_its_own_end(folder: Folder) -> None:
    folder.age(30)
    folder.certificates.serve(["line1", "line2"])
    following = folder.certificates.candidates("line1", NOW).certificates[0]
    late = following.expires - 10 * DAY
    assert folder.tries(now=late) == [following.der]
    [third, same] = folder.tries(now=late)
    assert same == following.der
    assert third != following.der


def test_a_clock_that_was_years_ahead_for_a_while_costs_neither_certificate(folder: Folder) -> None:
    old = folder.age(300)
    folder.certificates.serve(["line1", "line2"])
    assert len(folder.tries(now=NOW + 4000 * DAY)) == 2
    assert folder.tries() == [old], "the clock is right again"
    [new, same] = folder.tries(now=NOW + 290 * DAY)
    assert same == old
    begins = x509.load_der_x509_certificate(new).not_valid_before_utc
    assert begins < NOW + 291 * DAY, "what was made for the far future is of no use to anybody"


def test_the_next_one_is_there_in_time_though_no_session_begins(folder: Folder) -> None:
    folder.certificates.prepare(NOW)
    assert not folder.own.exists(), "nobody has needed one yet"
    folder.age(61)
    used = folder.certificates.candidates("line1", NOW)
    lasting = Certificates(used.certificates[0].expires, None, (), used.later(used.certificates[0]))
    assert "certificate_warnings" not in lasting.status(NOW)
    folder.certificates.prepare(NOW + 2 * DAY)
    assert (folder.next / "certificate.der").exists()
    [warning] = lasting.status(NOW + 2 * DAY)["certificate_warnings"]
    assert str(folder.next / "certificate.der") in warning
    assert "2026-05-01" in warning


def test_a_key_whose_certificate_is_still_on_its_way_is_not_written_over(folder: Folder) -> None:
    folder.put(b"", SITES.key_pem)
    (folder.own / "certificate.der").unlink()
    folder.tries()
    assert (folder.own / "private-key.pem").read_bytes() == SITES.key_pem
    (folder.own / "certificate.der").write_bytes(SITES.der)
    assert folder.tries() == [SITES.der]


def test_an_acceptance_of_another_certificate_counts_for_nothing(folder: Folder) -> None:
    folder.age(30)
    folder.took("line1", 0)
    (folder.next / "certificate.der").write_bytes(b"damaged")  # it is made anew
    folder.restart()
    assert len(folder.tries()) == 2


@pytest.mark.parametrize("name", ["certificate.der", "private-key.pem"])
def test_half_a_next_pair_is_made_anew(folder: Folder, name: str) -> None:
    old = folder.age(30)
    before = folder.tries()[0]
    (folder.next / name).unlink()
    after, same = folder.tries()
    assert (same, after != before) == (old, True)


def test_a_power_cut_between_the_two_steps_of_the_change_loses_nothing(folder: Folder) -> None:
    folder.age(30)
    new = folder.tries()[0]
    (folder.next / "private-key.pem").replace(folder.own / "private-key.pem")
    folder.restart()
    assert folder.tries() == [new]


SITE = authority("Site")
SITES: Pair = certificate("Gateway 7", SITE, own=key(1), ends=NOW + 30 * DAY, uris=["urn:site:gateway7"])


def test_one_that_the_site_has_given_is_used_with_its_chain_and_only_told_of_when_it_ends(folder: Folder) -> None:
    folder.put(SITES.der + SITE.der, SITES.key_pem)
    found = folder.certificates.candidates("line1", NOW)
    [used] = found.certificates
    assert (used.der, used.chain, used.uri) == (SITES.der, (SITE.der,), "urn:site:gateway7")
    [warning] = found.warnings_with(used)
    assert "expires in 30 days and was not made by this component" in warning
    assert not folder.next.exists()
    [warning] = folder.certificates.candidates("line1", NOW + 40 * DAY).warnings
    assert "has expired on 2026-03-31" in warning


def without_key(folder: Folder) -> None:
    folder.put(SITES.der, b"")
    (folder.own / "private-key.pem").unlink()


UNUSABLE: dict[str, tuple[Any, str]] = {
    "the key of another": (lambda f: f.put(SITES.der, SITE.key_pem), "belongs to another certificate"),
    "a key with a passphrase or none": (lambda f: f.put(SITES.der, b"-----BEGIN"), "no private key in PEM form"),
    "no certificate": (lambda f: f.put(b"damaged", SITES.key_pem), "no certificate in DER or PEM form"),
    "no application URI": (
        lambda f: f.put((c := certificate("Gateway", uris=())).der, c.key_pem), "has no application URI"),
    "a short key": (lambda f: f.put((c := certificate("G", own=key(0, 1024))).der, c.key_pem), "only 1024 bits"),
    "a key of another kind": (lambda f: f.put((c := certificate("G", own=elliptic())).der, c.key_pem), "no RSA key"),
    "a site's certificate without its key": (without_key, "has no private key beside it"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_pair_that_cannot_work_is_told_before_any_server_is_asked_and_left_as_it_is(
    folder: Folder, prepare: Any, words: str
) -> None:
    prepare(folder)
    before = {path.name: path.read_bytes() for path in folder.own.iterdir()}
    told = folder.trouble()
    assert words in told.problem
    assert told.remedy
    assert str(folder.own) in str(told.value)
    assert {path.name: path.read_bytes() for path in folder.own.iterdir()} == before


def test_the_warning_names_the_certificate_that_the_server_has_to_trust(folder: Folder) -> None:
    folder.age(30)
    found = folder.certificates.candidates("line1", NOW)
    new, old = found.certificates
    [warning] = found.warnings_with(old)
    for words in (str(new.path), thumbprint(new.der), "2026-03-31"):
        assert words in warning
    assert found.warnings_with(new) == ()
