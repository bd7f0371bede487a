"""sluice trust: an engineer believes a server, on the device, by the thumbprint that the server's own tools show."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

import cli.survey
import cli.trust
from cli.output import Failure
from opcua_collector.config import Security
from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import make, thumbprint
from opcua_collector.security.trust import believe

NOW = datetime.now(timezone.utc)
COLLECTOR = "io.sluice.OpcUaCollector"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def server(name: str, *, ends: datetime = NOW + timedelta(days=100), authority: bool = False) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName("plc1.example"), x509.UniformResourceIdentifier("urn:plc1")]
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(ends - timedelta(days=1000)).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Device:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.pki = root / "work" / COLLECTOR / "pki"
        (self.pki / "rejected").mkdir(parents=True, mode=0o700)

    def reject(self, der: bytes) -> str:
        mark = thumbprint(der)
        (self.pki / "rejected" / f"{mark}.der").write_bytes(der)
        return mark

    def trusted(self, name: str, der: bytes) -> Path:
        (self.pki / "trusted").mkdir(exist_ok=True, mode=0o700)
        path = self.pki / "trusted" / name
        path.write_bytes(der)
        return path

    def run(self, *arguments: str) -> Result:
        app = typer.Typer(pretty_exceptions_enable=False)
        cli.trust.register(app)
        return CliRunner().invoke(app, ["--root", str(self.root), *arguments])

    def told(self, *arguments: str) -> dict[str, Any]:
        result = self.run("--json", *arguments)
        assert result.exit_code == 0, result.exception
        return json.loads(result.stdout)  # type: ignore[no-any-return]

    def failure(self, *arguments: str) -> Failure:
        result = self.run(*arguments)
        assert isinstance(result.exception, Failure), result.exception
        return result.exception

    def files(self) -> set[str]:
        return {str(path.relative_to(self.pki)) for path in self.pki.rglob("*") if path.is_file()}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture(autouse=True)
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_refused_server_is_believed_from_then_on(device: Device) -> None:
    der = server("Plc 1")

    def ask() -> None:
        believe(device.pki, "line1", Security(), der, host="plc1.example", uri="urn:plc1", now=NOW)

    with pytest.raises(TroubleError) as refused:
        ask()
    command = refused.value.remedy.partition("`")[2].partition("`")[0].split()
    assert command[:2] == ["sluice", "trust"]
    told = device.told(*command[2:])
    assert told["certificate"]["subject"] == "CN=Plc 1"
    assert "is trusted from now on" in told["text"]
    ask()


def test_the_file_is_for_the_owner_alone_and_named_by_its_thumbprint(device: Device) -> None:
    mark = device.reject(server("Plc 1"))
    path = Path(device.told(mark)["file"])
    assert path == device.pki / "trusted" / f"{mark}.der"
    assert device.files() == {f"trusted/{mark}.der"}
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]


@pytest.mark.parametrize("spelling", ["colons", "capitals", "spaces", "beginning"])
def test_a_thumbprint_may_be_written_as_other_tools_do(device: Device, spelling: str) -> None:
    mark = device.reject(server("Plc 1"))
    pairs = [mark[at : at + 2] for at in range(0, 40, 2)]
    text = {"colons": ":".join(pairs), "capitals": mark.upper(), "spaces": " ".join(pairs), "beginning": mark[:8]}
    device.told(text[spelling])
    assert device.files() == {f"trusted/{mark}.der"}


def test_what_is_there_is_listed_with_what_an_engineer_compares(device: Device) -> None:
    refused, known = server("Plc 1"), server("Plc 2", authority=True)
    mark = device.reject(refused)
    device.trusted("line2.der", known)
    device.trusted("damaged.crt", b"damaged")
    (device.pki / "own" / "next").mkdir(parents=True)
    (device.pki / "own" / "certificate.der").write_bytes(make("urn:us")[0])
    (device.pki / "own" / "next" / "certificate.der").write_bytes(make("urn:us")[0])
    told = device.told()
    [one] = told["rejected"]
    assert (one["thumbprint"], one["subject"], one["hosts"], one["uris"], one["authority"]) == (
        mark,
        "CN=Plc 1",
        ["plc1.example"],
        ["urn:plc1"],
        False,
    )
    assert [one["subject"] for one in told["trusted"]] == ["CN=Plc 2"]
    assert [one["uris"] for one in told["own"]] == [["urn:us"], ["urn:us"]]
    [unreadable] = told["unreadable"]
    assert "damaged.crt" in unreadable
    text = device.run().stdout
    for words in (mark, "CN=Plc 1", "plc1.example", "CN=Plc 2, an authority", "damaged.crt", "urn:us"):
        assert words in text


def test_with_nothing_there_it_says_so(device: Device) -> None:
    assert "Refused: none" in device.run().stdout
    assert device.told()["rejected"] == []


def test_trust_is_taken_back(device: Device) -> None:
    path = device.trusted("line1.der", server("Plc 1"))
    mark = thumbprint(path.read_bytes())
    told = device.told("--remove", mark)
    assert "is trusted no longer" in told["text"]
    assert "line1 is a connection with security.trust: first-use" in told["notes"][0]
    assert device.files() == {f"rejected/{mark}.der"}
    device.told(mark)
    assert device.files() == {f"trusted/{mark}.der"}


def test_what_makes_a_difference_is_said(device: Device) -> None:
    expired = device.reject(server("Old", ends=NOW - timedelta(days=1)))
    assert "allowExpired" in device.told(expired)["notes"][0]
    root = device.reject(server("Root", authority=True))
    assert "every server that it has issued" in device.told(root)["notes"][0]
    assert "is trusted already" in device.told(root)["text"]


def test_mistakes_are_told_and_change_nothing(device: Device) -> None:
    marks = [device.reject(server(f"Plc {number}")) for number in range(300)]
    beginnings = [mark[:6] for mark in marks]
    before = device.files()
    assert "`sluice trust` lists them" in str(device.failure("0" * 40))
    assert "is no thumbprint" in str(device.failure("server.der"))
    assert "too short" in str(device.failure(beginnings[0][:2]))
    assert "no trusted certificate" in str(device.failure("--remove", marks[0]))
    assert "needs the thumbprint" in str(device.failure("--remove"))
    assert device.files() == before


def test_a_beginning_that_fits_several_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.trust, "_SHORTEST", 1)
    for number in range(40):
        device.reject(server(f"Plc {number}"))
    digits = [path.name[0] for path in (device.pki / "rejected").iterdir()]
    often = max(set(digits), key=digits.count)
    assert "is the beginning of several" in str(device.failure(often))


def test_of_several_in_one_file_none_is_taken_out(device: Device) -> None:
    ders = [server("Plc 1"), server("Plc 2")]
    path = device.trusted("all.der", b"".join(ders))
    assert "by hand" in str(device.failure("--remove", thumbprint(ders[1])))
    assert path.read_bytes() == b"".join(ders)


def test_links_lead_nowhere(device: Device, tmp_path: Path) -> None:
    """The folder belongs to the component, and an engineer may be root."""
    der = server("Plc 1")
    elsewhere = tmp_path / "elsewhere.der"
    elsewhere.write_bytes(der)
    (device.pki / "rejected" / "link.der").symlink_to(elsewhere)
    assert device.told()["rejected"] == []
    device.failure(thumbprint(der))
    mark = device.reject(der)
    (tmp_path / "outside").mkdir()
    (device.pki / "trusted").symlink_to(tmp_path / "outside")
    assert "is a link" in str(device.failure(mark))
    assert list((tmp_path / "outside").iterdir()) == []


def test_another_work_folder_may_be_named(device: Device) -> None:
    mark = device.reject(server("Plc 1"))
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.trust.register(app)
    result = CliRunner().invoke(app, ["--work-dir", str(device.pki.parent), "--json"])
    assert json.loads(result.stdout)["rejected"][0]["thumbprint"] == mark
    both = CliRunner().invoke(app, ["--work-dir", str(device.pki.parent), "--root", str(device.root)])
    assert "give one of them" in str(both.exception)


def test_a_device_that_has_no_protected_connection_yet_is_told(tmp_path: Path) -> None:
    (tmp_path / "work" / COLLECTOR).mkdir(parents=True)
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.trust.register(app)
    result = CliRunner().invoke(app, ["--root", str(tmp_path)])
    assert "first try of a protected connection" in str(result.exception)


def test_what_stands_in_several_files_is_trusted_no_longer_in_any(device: Device) -> None:
    der = server("PLC 1")
    for name in ("line1.der", "line2.der", f"{thumbprint(der)}.der"):
        device.trusted(name, der)
    told = device.told("--remove", thumbprint(der))
    assert device.files() == {f"rejected/{thumbprint(der)}.der"}
    assert [note for note in told["notes"] if "line1" in note]
    assert [note for note in told["notes"] if "line2" in note]


def test_of_several_in_a_refused_file_one_is_trusted_and_the_others_stay(device: Device) -> None:
    one, other = server("PLC 1"), server("PLC 2")
    (device.pki / "rejected" / "both.der").write_bytes(one + other)
    device.told(thumbprint(one))
    assert device.files() == {f"trusted/{thumbprint(one)}.der", "rejected/both.der"}


def test_what_the_collector_believes_and_this_does_not_look_at_is_told(device: Device, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.der"
    elsewhere.write_bytes(server("PLC 1"))
    device.trusted("here.der", server("PLC 2"))
    (device.pki / "trusted" / "link.der").symlink_to(elsewhere)
    (device.pki / "trusted" / "crl").mkdir()
    (device.pki / "trusted" / "crl" / "odd.der").write_bytes(server("PLC 3"))
    listed = device.told()
    assert [one["subject"] for one in listed["trusted"]] == ["CN=PLC 2", "CN=PLC 3"]
    [told] = listed["unreadable"]
    assert "link.der: is a link" in told
