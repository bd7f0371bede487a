"""Channels and sessions against asyncua's server: every policy, mode and kind of user, and nothing becomes less."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua.server.internal_session import InternalSession
from cryptography.hazmat.primitives.asymmetric import rsa

from opcua_collector.config import Connection
from opcua_collector.problems import TroubleError, explain
from opcua_collector.security.certificates import make, thumbprint
from opcua_collector.services import connecting
from opcua_collector.services.connecting import Identity, connect
from opcua_collector.services.session import Session, Ticket
from opcua_collector.stack import UaStatusCodeError, ua
from plant.opcua_server import PlantServer
from sluice.log import Secret

from ..authority import Pair, certificate

pytestmark = pytest.mark.asyncio(loop_scope="module")  # servers take a second or more to start: they are shared

PASSWORD = "Kennwort-7"
NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)
POLICIES = ("Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss")


def user_certificate(name: str) -> Pair:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return certificate(name, own=key, begins=NOW - DAY, ends=NOW + 100 * DAY)


KNOWN, STRANGER = user_certificate("Operator"), user_certificate("Stranger")


async def serving(work: Path, **settings: Any) -> AsyncIterator[PlantServer]:
    plant = PlantServer(1, work=work, policies=("None", *POLICIES), history_rows=0, **settings)
    await plant.start()
    yield plant
    await plant.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    """Anyone may connect, by every policy."""
    async for server in serving(tmp_path_factory.mktemp("plant")):
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    """Knows one user by password, one by certificate, and nobody else."""
    users = {"user": ("operator", PASSWORD), "user_certificates": [KNOWN.der]}
    async for server in serving(tmp_path_factory.mktemp("guarded"), **users):
        yield server


@dataclass
class Device:
    """A gateway's work folder, and what its connection is configured with."""

    folder: Path
    endpoint: str
    security: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] | None = None
    secret: str | None = None

    def __post_init__(self) -> None:
        self.identity = Identity(self.folder / "pki", "urn:test:collector")
        self._sessions: list[Session] = []

    def restart(self) -> None:
        """What was in memory is gone."""
        self.identity = Identity(self.folder / "pki", "urn:test:collector")

    @property
    def own(self) -> Path:
        return self.folder / "pki/own/certificate.der"

    @property
    def following(self) -> Path:
        return self.folder / "pki/own/next/certificate.der"

    async def connect(self, ticket: Ticket | None = None, timeout: float = 5, **security: Any) -> Session:
        settings = Connection.model_validate(
            {
                "endpoint": self.endpoint,
                "security": {"trust": "first-use", **self.security, **security},
                "user": self.user,
                "requestTimeout": timeout,
            }
        )
        secret = None if self.secret is None else Secret(self.secret)
        session = await connect("line1", settings, self.identity, secret, ticket)
        self._sessions.append(session)
        if not session.resumed:
            await session.subscribe(1.0, 10, 100, 1000)  # asyncua's server keeps no session that has none
        return session

    async def refused(self, ticket: Ticket | None = None, **security: Any) -> tuple[str, str, str]:
        """Place, problem and remedy."""
        with pytest.raises((TroubleError, UaStatusCodeError, OSError)) as raised:
            await self.connect(ticket, **security)
        values = {"endpoint": self.endpoint, "user": str(self.user)}
        problem = explain(raised.value, "line1", values, {"certificate": str(self.own), "thumbprint": "?"})
        assert PASSWORD not in str(problem)
        return problem.path.removeprefix("connections.line1."), problem.problem, problem.remedy

    async def close(self) -> None:
        for session in self._sessions:
            await session.close(politely=True)


Begin = Callable[..., Device]


@pytest_asyncio.fixture(loop_scope="module")
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    devices: list[Device] = []

    def start(server: PlantServer, **settings: Any) -> Device:
        device = Device(tmp_path, server.endpoint, **settings)
        devices.append(device)
        return device

    yield start
    for device in devices:
        await device.close()


def with_certificate(folder: Path, pair: Pair) -> dict[str, Any]:
    path = folder / "user.der"
    path.write_bytes(pair.der)
    return {"user": {"certificate": str(path), "key": {"file": "key.pem"}}, "secret": pair.key_pem.decode()}


BY_NAME: dict[str, Any] = {"user": {"name": "operator", "password": {"file": "x"}}, "secret": PASSWORD}


@pytest.mark.parametrize("kind", ["anonymous", "name", "certificate"])
@pytest.mark.parametrize("mode", ["SignAndEncrypt", "Sign"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_every_policy_mode_and_kind_of_user_makes_a_session_that_comes_back_with_its_ticket(
    plant: PlantServer, guarded: PlantServer, begin: Begin, tmp_path: Path, policy: str, mode: str, kind: str
) -> None:
    users = {"anonymous": {}, "name": BY_NAME, "certificate": with_certificate(tmp_path, KNOWN)}
    server = plant if kind == "anonymous" else guarded
    device = begin(server, security={"policy": policy, "mode": mode}, **users[kind])
    session = await device.connect()
    assert session.policy == f"{policy}/{mode}"
    told = session.certificates()
    assert (told["certificate_days_left"], told["server_certificate_days_left"]) == (1824, 364)
    assert "certificate_warnings" not in told
    await session.close(politely=False)
    sessions = server.sessions
    device.restart()
    again = await device.connect(session.ticket)
    assert (again.resumed, again.policy) == (True, session.policy)
    assert server.sessions == sessions


async def test_a_user_by_certificate_is_known_without_a_protected_channel_too(
    guarded: PlantServer, begin: Begin, tmp_path: Path
) -> None:
    device = begin(guarded, security={"policy": "None"}, **with_certificate(tmp_path, KNOWN))
    session = await device.connect()
    assert session.policy == "None/None"
    assert session.certificates() == {}
    await session.close(politely=False)
    assert (await device.connect(session.ticket)).resumed


async def test_auto_takes_the_best(plant: PlantServer, begin: Begin) -> None:
    assert (await begin(plant).connect()).policy == "Aes256_Sha256_RsaPss/SignAndEncrypt"


@contextlib.contextmanager
def offering(server: PlantServer, *policies: str) -> Iterator[None]:
    """The server is set up anew, with these policies alone."""
    endpoints = server._internal.endpoints
    before = list(endpoints)
    endpoints[:] = [one for one in before if one.SecurityPolicyUri.rpartition("#")[2] in policies]
    try:
        yield
    finally:
        endpoints[:] = before


async def test_a_server_that_suddenly_offers_less_is_refused_until_the_engineer_says_so(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    await device.connect()
    with offering(plant, "Basic256Sha256"):
        device.restart()
        place, problem, remedy = await device.refused()
        assert (place, remedy) == (
            "security.policy",
            "see what has changed at the server; if it shall be so, set security.policy to Basic256Sha256",
        )
        assert "has used Aes256_Sha256_RsaPss" in problem
        await device.connect(policy="Basic256Sha256")
        assert (await device.connect()).policy.startswith("Basic256Sha256")  # now it is known to be so
    kept = device.folder / "pki/policies.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (await device.connect()).policy.startswith("Aes256")
    assert "Aes256" in kept.read_text(encoding="utf-8")


async def test_a_kept_session_comes_back_with_its_policy_though_a_better_one_is_there_by_now(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    with offering(plant, "Basic256Sha256"):
        session = await device.connect()
    await session.close(politely=False)
    again = await device.connect(session.ticket)
    assert (again.resumed, again.policy) == (True, "Basic256Sha256/SignAndEncrypt")
    await again.close(politely=False)
    await plant.forget(subscriptions=False)
    anew = await device.connect(again.ticket)
    assert (anew.resumed, anew.policy) == (False, "Aes256_Sha256_RsaPss/SignAndEncrypt")


async def test_a_ticket_of_an_earlier_release_is_one_of_its_only_policy(plant: PlantServer, begin: Begin) -> None:
    device = begin(plant)
    session = await device.connect(policy="Basic256Sha256")
    (device.folder / "pki/policies.json").unlink()
    await session.close(politely=False)
    old = dataclasses.replace(session.ticket, policy="", own="")
    again = await device.connect(old)
    assert (again.resumed, again.policy) == (True, "Basic256Sha256/SignAndEncrypt")


Forge = Callable[[list[Any]], list[Any]]


def without_the_best(endpoints: list[Any]) -> list[Any]:
    return [one for one in endpoints if "Aes" not in one.SecurityPolicyUri]


def as_another_application(endpoints: list[Any]) -> list[Any]:
    for one in endpoints:
        one.Server.ApplicationUri = "urn:somebody:else"
    return endpoints


def best_last(endpoints: list[Any]) -> list[Any]:
    for one in endpoints:
        one.SecurityLevel = 255 if "Basic256Sha256" in one.SecurityPolicyUri else 1
    return endpoints


@pytest.mark.parametrize("forge", [without_the_best, as_another_application, best_last])
async def test_what_was_changed_on_the_way_shows_itself_within_the_session(
    plant: PlantServer, begin: Begin, monkeypatch: pytest.MonkeyPatch, forge: Forge
) -> None:
    ask = connecting._endpoints

    async def changed(settings: Connection) -> list[Any]:
        return forge(await ask(settings))

    monkeypatch.setattr(connecting, "_endpoints", changed)
    sessions = plant.sessions
    place, problem, _ = await begin(plant).refused()
    assert place == "security"
    assert "differs between the open channel and the protected one" in problem
    assert plant.sessions == sessions, "the session that was begun is not left behind"


async def test_a_certificate_of_another_server_leads_nowhere(
    plant: PlantServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody shows a certificate of his own over the open channel; he has no answer of the server's to sign."""
    ask = connecting._endpoints

    async def changed(settings: Connection) -> list[Any]:
        found = await ask(settings)
        for one in found:
            one.ServerCertificate = STRANGER.der
        return found

    monkeypatch.setattr(connecting, "_endpoints", changed)
    sessions = plant.sessions
    await begin(plant).refused()
    assert plant.sessions == sessions


# --- users -----------------------------------------------------------------------------------------------------------

WrongUser = tuple[dict[str, Any], str | None, str, str]


def wrong_users(folder: Path) -> dict[str, WrongUser]:
    (folder / "known.der").write_bytes(KNOWN.der)
    (folder / "known.pem").write_bytes(KNOWN.pem)
    (folder / "stranger.der").write_bytes(STRANGER.der)
    key = {"file": "key.pem"}
    known = {"certificate": str(folder / "known.pem"), "key": key}
    return {
        "a wrong password": (BY_NAME["user"], "wrong", "user", "refused by the server"),
        "a certificate that the server does not know": (
            {"certificate": str(folder / "stranger.der"), "key": key}, STRANGER.key_pem.decode(), "user", "refused"),
        "the key of another certificate": (known, STRANGER.key_pem.decode(), "user.key", "is not the key of"),
        "no key": (known, None, "user.key", "it is empty"),
        "something that is no key": (known, PASSWORD, "user.key", "no private key in PEM form"),
        "no certificate": (
            {"certificate": str(folder / "none.der"), "key": key}, "x", "user.certificate", "cannot be read"),
    }  # fmt: skip


@pytest.mark.parametrize("case", [
    "a wrong password", "a certificate that the server does not know", "the key of another certificate", "no key",
    "something that is no key", "no certificate",
])  # fmt: skip
async def test_what_is_wrong_with_a_user_is_told_and_costs_the_server_no_session(
    guarded: PlantServer, begin: Begin, tmp_path: Path, case: str
) -> None:
    user, secret, place, words = wrong_users(tmp_path)[case]
    device = begin(guarded, user=user, secret=secret)
    sessions = guarded.sessions
    found, problem, remedy = await device.refused()
    assert (found, words in problem) == (place, True), problem
    assert remedy
    assert guarded.sessions == sessions


async def test_a_server_without_users_by_certificate_is_told_as_such(
    plant: PlantServer, begin: Begin, tmp_path: Path
) -> None:
    place, problem, _ = await begin(plant, **with_certificate(tmp_path, KNOWN)).refused()
    assert place == "user.certificate"
    assert "these kinds: Anonymous" in problem


# --- our certificate -------------------------------------------------------------------------------------------------


def ends_in(device: Device, days: int) -> bytes:
    """Our certificate is an old one."""
    begun = NOW - 1000 * DAY
    der, key = make("urn:test:collector", valid=(1000 + days + 1) * DAY - timedelta(hours=1), now=begun)
    device.own.parent.mkdir(parents=True, exist_ok=True)
    device.own.write_bytes(der)
    device.own.with_name("private-key.pem").write_bytes(key)
    return der


async def test_our_certificate_is_renewed_beside_the_old_one_which_is_used_until_the_server_takes_the_new(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    old = ends_in(device, 30)
    try:
        plant.trusted = [old]
        session = await device.connect()
        new = device.following.read_bytes()
        assert new != old
        told = session.certificates()
        assert told["certificate_days_left"] == 30
        [warning] = told["certificate_warnings"]
        assert str(device.following) in warning
        assert thumbprint(new) in warning

        plant.trusted = [old, new]
        await session.close(politely=False)
        device.restart()
        again = await device.connect(session.ticket)
        assert again.resumed, "a session that exists is never dropped for this"
        assert device.own.read_bytes() == old
        await again.close(politely=False)

        fresh = await device.connect()
        assert fresh.certificates() == {"certificate_days_left": 1824, "server_certificate_days_left": 364}
        plant.trusted = [new]
        device.restart()
        await device.connect()
        assert device.own.read_bytes() == new
        assert not device.following.parent.exists()

        late = await device.connect(again.ticket)  # of a session that was made with the old certificate
        assert not late.resumed
    finally:
        plant.trusted = None


async def test_the_old_certificate_stays_while_another_server_has_not_taken_the_new(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    old = ends_in(device, 30)
    device.identity.own.serve(["line1", "line2"])
    for _ in range(2):
        await device.connect()
        assert device.own.read_bytes() == old
        assert device.following.exists()
    device.identity.own.serve(["line1"])  # line2 is gone from the configuration
    await device.connect()
    assert device.own.read_bytes() != old


async def test_one_that_has_ended_is_replaced_at_once(plant: PlantServer, begin: Begin) -> None:
    device = begin(plant)
    old = ends_in(device, -2)
    for _ in range(2):
        assert (await device.connect()).certificates()["certificate_days_left"] > 1000
    assert device.own.read_bytes() != old


async def test_a_server_that_does_not_mind_that_ours_has_ended_is_collected_from_until_it_takes_the_next(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    plant.trusted = [ends_in(device, -2)]
    try:
        told = (await device.connect()).certificates()
    finally:
        plant.trusted = None
    assert told["certificate_days_left"] < 0
    [warning] = told["certificate_warnings"]
    assert str(device.following) in warning


@pytest.mark.parametrize("silent", [False, True])
async def test_a_server_that_says_nothing_to_the_next_certificate_is_shown_the_old_one(
    plant: PlantServer, begin: Begin, silent: bool
) -> None:
    device = begin(plant)
    ends_in(device, 30)
    async with closing_at_protected_channels(plant.endpoint, silent=silent, first=1) as endpoint:
        device.endpoint = endpoint
        session = await device.connect(timeout=1)
        assert session.certificates()["certificate_days_left"] == 30


async def test_a_server_that_trusts_neither_is_told_with_the_path_of_the_one_that_it_has_to_trust(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    ends_in(device, 30)
    plant.trusted = []
    try:
        place, problem, remedy = await device.refused()
    finally:
        plant.trusted = None
    assert place == "security"
    assert "does not trust our certificate (BadCertificateUntrusted)" in problem
    assert str(device.following) in remedy
    assert thumbprint(device.following.read_bytes()) in remedy


@contextlib.asynccontextmanager
async def closing_at_protected_channels(
    endpoint: str, *, silent: bool = False, first: int = 1000
) -> AsyncIterator[str]:
    """The server behind a line that ends, or is silent, when somebody opens a protected channel: what many servers do
    in the place of an answer. Only so the `first` times."""
    refused: list[bytes] = []
    host, _, port = endpoint.removeprefix("opc.tcp://").partition("/")[0].partition(":")
    lines: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                protected = data.startswith(b"OPN") and b"SecurityPolicy#None" not in data
                if watch and protected and len(refused) < first:
                    refused.append(data)
                    if silent:
                        continue
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        lines.extend((writer, inner_writer))
        await asyncio.gather(relay(reader, inner_writer, True), relay(inner_reader, writer, False))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/plant"
    finally:
        server.close()
        for line in lines:
            line.close()


async def test_a_line_that_ends_when_our_certificate_is_shown_is_told_with_its_likely_cause(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    async with closing_at_protected_channels(plant.endpoint) as endpoint:
        device.endpoint = endpoint
        place, problem, remedy = await device.refused()
    assert place == "security"
    assert "closed the line when it was shown our certificate" in problem
    assert str(device.own) in remedy


async def test_a_server_that_is_silent_when_our_certificate_is_shown_is_told_with_its_likely_cause(
    plant: PlantServer, begin: Begin
) -> None:
    device = begin(plant)
    async with closing_at_protected_channels(plant.endpoint, silent=True) as endpoint:
        device.endpoint = endpoint
        place, problem, remedy = await device.refused(timeout=1)
    assert place == "security"
    assert "does not answer any more since it was shown our certificate" in problem
    assert str(device.own) in remedy


async def test_a_password_is_not_sent_in_a_way_that_others_can_read(
    guarded: PlantServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = [one for one in guarded._internal.endpoints if one.SecurityMode == ua.MessageSecurityMode.Sign]
    for description in unsafe:
        tokens = [dataclasses.replace(token) for token in description.UserIdentityTokens]
        for token in tokens:
            if token.TokenType == ua.UserTokenType.UserName:
                token.SecurityPolicyUri = "http://opcfoundation.org/UA/SecurityPolicy#None"
        monkeypatch.setattr(description, "UserIdentityTokens", tokens)
    place, problem, _ = await begin(guarded, **BY_NAME, security={"mode": "Sign"}).refused()
    assert place == "user.password"
    assert "is not sent, because the channel is only signed" in problem


# --- what else can go wrong ------------------------------------------------------------------------------------------


async def test_a_folder_that_cannot_be_used_is_told_with_its_path(plant: PlantServer, begin: Begin) -> None:
    device = begin(plant)
    (device.folder / "pki").write_bytes(b"")  # a file has its name
    place, problem, remedy = await device.refused()
    assert place == "security"
    assert "cannot be read or written" in problem
    assert str(device.folder / "pki") in remedy


async def test_a_session_that_nobody_waits_for_any_more_has_no_line(
    plant: PlantServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = begin(plant)
    reached, go_on = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        reached.set()
        go_on.wait(10)

    monkeypatch.setattr(device.identity.policies, "used", slow)
    listener: Any = plant._server.bserver
    lines = len(listener.clients)
    task = asyncio.create_task(device.connect())
    while not reached.is_set():
        assert not task.done(), task
        await asyncio.sleep(0.01)
    assert len(listener.clients) == lines + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    for _ in range(500):
        if len(listener.clients) == lines:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(listener.clients)} lines, and {lines} before")


async def test_a_server_that_says_nothing_of_its_endpoints_is_told(
    plant: PlantServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = begin(plant)
    answer = InternalSession.create_session

    async def without(*arguments: Any, **named: Any) -> Any:
        result: Any = await answer(*arguments, **named)
        result.ServerEndpoints = None
        return result

    monkeypatch.setattr(InternalSession, "create_session", without)
    place, problem, _ = await device.refused()
    assert place in ("endpoint", "security")
    assert "without saying" in problem or "prove" in problem
