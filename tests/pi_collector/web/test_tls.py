"""Servers that are believed, and why others are not; our own certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pi_collector.config import Tls
from pi_collector.web import tls
from pi_collector.web.errors import CredentialsError, PiError, UnreachableError, UntrustedError
from plant.pi.certificates import Authority, Kind
from sluice.log import Secret

from .scripted import Scripted, Using, answer

FAST: dict[str, Any] = {"load": {"requestsPerSecond": 1000}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def trusting(authority: Authority, **further: Any) -> dict[str, Any]:
    return {"tls": {"ca": str(authority.certificate), **further}, **FAST}


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi-lab")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "self.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_server_of_the_plants_own_authority_is_believed(authority: Authority) -> None:
    async with Scripted(tls=authority.context(authority.server())) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            async with Using(url, **trusting(authority)) as one:
                await one.start()
                assert "insecure" not in one.status()


@pytest.mark.parametrize(
    ("kind", "words", "remedy"),
    [
        ("expired", "that expired on 2", "renewed"),
        ("not-yet-valid", "is not valid before 2", "clock"),
        ("other-host", "is not for 127.0.0.1, but for pi.other-plant.example", "one of its names"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_said(
    authority: Authority, kind: Kind, words: str, remedy: str
) -> None:
    async with Scripted(tls=authority.context(authority.server(kind))) as server:
        async with Using(server.url, **trusting(authority)) as one:
            with pytest.raises(UntrustedError, match=words) as caught:
                await one.start()
            assert remedy in caught.value.remedy
            with pytest.raises(UntrustedError, match=words):
                await one.websocket("streamsets/channel")
        assert server.asked == [], "nothing was sent to a server that is not believed"


async def test_an_authority_that_is_not_trusted_is_named(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Another authority")
    async with Scripted(tls=authority.context(authority.server())) as server:
        for settings in (trusting(other), FAST):
            async with Using(server.url, **settings) as one:
                with pytest.raises(
                    UntrustedError, match="signed by Plant authority, an authority that is not"
                ) as caught:
                    await one.start()
                assert "tls.ca" in caught.value.remedy


async def test_a_certificate_that_signed_itself_is_said_to_have(tmp_path: Path) -> None:
    async with Scripted(tls=self_signed(tmp_path)) as server, Using(server.url, **FAST) as one:
        with pytest.raises(UntrustedError, match="of pi-lab that no authority has signed but itself"):
            await one.start()


async def test_what_is_not_checked_is_not_checked_and_stands_in_the_status(
    authority: Authority, tmp_path: Path
) -> None:
    async with (
        Scripted(tls=authority.context(authority.server("other-host"))) as server,
        Using(server.url, **trusting(authority, checkHostName=False)) as one,
    ):
        await one.start()
        assert one.status()["insecure"] == "the host name is not checked"
    async with Scripted(tls=self_signed(tmp_path)) as server:
        async with Using(server.url, tls={"checkHostName": False}, **FAST) as one:
            with pytest.raises(UntrustedError):
                await one.start()
        async with Using(server.url, tls={"allowAnyCertificate": True}, **FAST) as one:
            await one.start()
            assert one.status()["insecure"] == "any certificate is believed"


async def test_tls_older_than_1_2_is_not_spoken() -> None:
    context = await tls.Trust(Tls(), _no_secret, Path()).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_https_to_a_server_of_http_is_said() -> None:
    async with Scripted() as server, Using(server.url.replace("http:", "https:"), **FAST) as one:
        with pytest.raises(UnreachableError, match="does not speak TLS"):
            await one.start()


async def test_http_to_a_server_of_https_is_said(authority: Authority) -> None:
    async with (
        Scripted(tls=authority.context(authority.server())) as server,
        Using(server.url.replace("https:", "http:"), **FAST) as one,
    ):
        with pytest.raises(PiError):
            await one.start()


# --- our own certificate ---


async def test_a_server_that_wants_a_certificate_gets_ours(authority: Authority) -> None:
    ours = authority.client()
    wanting = authority.context(authority.server(), client_required=True)
    async with Scripted(tls=wanting) as server:
        own = {"certificate": str(ours.certificate), "key": {"file": "key"}}
        using = Using(server.url, **trusting(authority, **own))
        using.secrets["key"] = ours.key.read_text()
        async with using as one:
            await one.start()
        async with Using(server.url, **trusting(authority)) as one:
            with pytest.raises(UnreachableError, match=r"closed the line|want of a certificate") as caught:
                await one.start()
            assert "tls.certificate" in caught.value.remedy


async def test_the_key_is_on_no_disk(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = authority.client()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loaded: list[Any] = []
    load = ssl.SSLContext.load_cert_chain

    def seen(self: ssl.SSLContext, certificate: Any, key: Any, password: Any = None) -> None:
        loaded.append(key)
        load(self, certificate, key, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", seen)
    trust = tls.Trust(
        Tls.model_validate({"certificate": str(ours.certificate), "key": {"file": "k"}}),
        _secret(ours.key.read_text()),
        tmp_path,
    )
    await trust.context()
    assert [path.startswith("/proc/self/fd/") for path in loaded] == [True]
    assert list(tmp_path.iterdir()) == []
    assert not any(name.startswith("/memfd:key") for name in _open_files())


@pytest.mark.parametrize(
    ("settings", "key", "place", "words"),
    [
        ({"ca": "nothing.pem"}, "", "tls.ca", "cannot be read: No such file"),
        ({"ca": "empty.pem"}, "", "tls.ca", "holds no certificates"),
        ({"ca": "garbage.pem"}, "", "tls.ca", "holds no certificates"),
        ({"certificate": "nothing.pem"}, "own", "tls.certificate", "is not there"),
        ({"certificate": "own.pem"}, "another", "tls.key", "does not belong to the certificate"),
        ({"certificate": "own.pem"}, "encrypted", "tls.key", "is protected by a passphrase"),
        ({"certificate": "own.pem"}, "garbage", "tls.key", "cannot be read as PEM"),
        ({"certificate": "garbage.pem"}, "own", "tls.key", "cannot be read as PEM"),
    ],
)
async def test_what_is_wrong_with_our_files_is_said_where_they_are_named(
    settings: dict[str, Any], key: str, place: str, words: str, authority: Authority, tmp_path: Path
) -> None:
    ours, another = authority.client(), authority.client("another")
    (tmp_path / "own.pem").write_bytes(ours.certificate.read_bytes())
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "garbage.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    loaded = serialization.load_pem_private_key(ours.key.read_bytes(), None)
    keys = {
        "own": ours.key.read_text(),
        "another": another.key.read_text(),
        "garbage": "no key",
        "encrypted": loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ).decode(),
    }
    if key:
        settings = {**settings, "key": {"file": "k"}}
    trust = tls.Trust(Tls.model_validate(settings), _secret(keys.get(key, "")), tmp_path)
    with pytest.raises(CredentialsError, match=words) as caught:
        await trust.context()
    assert caught.value.place == place
    assert "BEGIN" not in str(caught.value)


async def test_a_file_that_changes_is_read_again_and_one_that_breaks_is_not_taken(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_FILES", 0.0)
    other = Authority(tmp_path / "other", "Another authority")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(other.certificate.read_bytes())
    async with (
        Scripted(tls=authority.context(authority.server())) as server,
        Using(server.url, directory=tmp_path, tls={"ca": "ca.pem"}, **FAST) as one,
    ):
        with pytest.raises(UntrustedError):
            await one.get("points")
        ca.write_bytes(authority.certificate.read_bytes())
        server.on["points"] = _well
        await one.get("points")
        ca.write_bytes(b"half")
        await one.get("points")


async def _well(request: Any) -> Any:
    return answer({})


async def test_looking_at_a_certificate_takes_no_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK", 0.3)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    assert await tls.look(f"https://127.0.0.1:{port}") == b""
    assert time.monotonic() - began < 3
    server.close()


@pytest.mark.parametrize("code", [2, 9, 10, 18, 19, 20, 21, 23, 62, 64, 66, 99])
@pytest.mark.parametrize("shown", [b"", b"no certificate"])
def test_every_reason_has_words_without_the_certificate_too(code: int, shown: bytes) -> None:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_code, error.verify_message = code, "some reason"
    problem, remedy = tls.why(error, shown, "https://pi.example.com/piwebapi", datetime.now(timezone.utc))
    assert problem.startswith("shows a certificate")
    assert remedy


def _open_files() -> list[str]:
    """Where the open files of this process lead."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(str(file.readlink()))
    return found


async def _no_secret(reference: Any) -> Any:
    raise AssertionError("no secret is configured")


def _secret(text: str) -> Any:
    async def source(reference: Any) -> Secret:
        return Secret(text)

    return source
