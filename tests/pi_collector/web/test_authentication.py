"""Who we are to the server, and how often a refused login is tried."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest

from pi_collector.config import Connection
from pi_collector.web.authentication import Identity
from pi_collector.web.errors import CredentialsError, UnauthorizedError, UnreachableError
from pi_collector.web.open_lines import unencrypted
from sluice.config import SecretRef
from sluice.log import Secret
from sluice.secrets import SecretError

URL = "https://pi.example.com/piwebapi"
USER = {"name": "PLANT\\leser", "password": {"file": "password"}}
CLIENT = {"tokenUrl": "https://aim.example.com/token", "clientId": "sluice", "clientSecret": {"file": "client"}}
DENIED = UnauthorizedError(401, (), "does not accept who we are (401)", "correct user")


class Setting:
    """An identity with secrets and a token endpoint that a test changes as it goes, and a clock that it moves."""

    def __init__(self, **settings: Any) -> None:
        self.secrets: dict[str, str] = {"password": "geheim", "client": "shh", "token": "t1", "key": "k1"}
        self.resolved = 0
        self.now = 1000.0
        self.forms: list[dict[str, list[str]]] = []
        self.answer: Callable[[], tuple[int, Any]] = lambda: (200, self._token())
        self.gate: asyncio.Event | None = None
        self.settings = Connection.model_validate({"url": URL, **settings})
        self.identity = Identity(self.settings, self._source, self._post, lambda: self.now)

    def _token(self) -> dict[str, Any]:
        return {"access_token": f"token-{len(self.forms)}", "token_type": "Bearer", "expires_in": 3600}

    async def _source(self, reference: SecretRef) -> Secret:
        self.resolved += 1
        if reference.file not in self.secrets:
            raise SecretError(f"the secret file {reference.file} does not exist", "create it with mode 0600")
        return Secret(self.secrets[reference.file])

    async def _post(self, url: str, form: bytes) -> tuple[int, bytes]:
        assert url == CLIENT["tokenUrl"]
        self.forms.append(parse_qs(form.decode()))
        if self.gate is not None:
            await self.gate.wait()
        status, content = self.answer()
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()

    async def header(self, name: str = "Authorization") -> str | None:
        _, headers = await self.identity.headers()
        return headers.get(name)

    async def denied(self) -> bool:
        """A request that is answered 401; whether it is repeated."""
        version, _ = await self.identity.headers()
        if await self.identity.refused(version):
            return True
        self.identity.deny(version, DENIED)
        return False


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"PLANT\\leser:{password}".encode()).decode()


async def test_nobody_says_nothing() -> None:
    setting = Setting()
    assert await setting.identity.headers() == (1, {})
    assert not await setting.denied()


async def test_a_password_is_sent_with_the_first_request_in_utf_8() -> None:
    setting = Setting(user=USER)
    setting.secrets["password"] = "Schlüssel:ß"
    assert await setting.header() == basic("Schlüssel:ß")
    await setting.header()
    assert setting.resolved == 1


async def test_a_rotated_password_is_found_after_a_401_and_the_request_repeated() -> None:
    setting = Setting(user=USER)
    await setting.header()
    setting.secrets["password"] = "neu"
    assert await setting.denied()
    assert await setting.header() == basic("neu")


async def test_requests_that_were_under_way_during_a_rotation_are_repeated_without_reading_again() -> None:
    setting = Setting(user=USER)
    version, _ = await setting.identity.headers()
    setting.secrets["password"] = "neu"
    assert await setting.identity.refused(version)
    resolved = setting.resolved
    assert await setting.identity.refused(version)
    assert setting.resolved == resolved


async def test_a_password_that_stays_wrong_is_tried_ever_more_rarely() -> None:
    setting = Setting(user=USER)
    tries = []
    for _ in range(3600):
        setting.now += 1
        try:
            if not await setting.denied():
                tries.append(setting.now)
        except UnauthorizedError:
            continue
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert 4 <= pauses[0] <= 7
    assert pauses[:5] == sorted(pauses[:5])
    assert all(240 <= pause <= 361 for pause in pauses[7:])
    assert len(tries) <= 20


async def test_requests_that_are_refused_together_are_one_refusal() -> None:
    setting = Setting(user=USER)
    versions = [(await setting.identity.headers())[0] for _ in range(4)]
    for version in versions:
        assert not await setting.identity.refused(version)
        setting.identity.deny(version, DENIED)
    setting.now += 6.5
    assert await setting.header() == basic("geheim"), "the pause after one refusal is 5 s, ± 20 %"


async def test_while_it_is_not_tried_the_last_refusal_is_said_in_the_same_words() -> None:
    setting = Setting(user=USER)
    assert not await setting.denied()
    told = []
    for _ in range(3):
        setting.now += 1
        with pytest.raises(UnauthorizedError) as caught:
            await setting.header()
        told.append(str(caught.value))
    assert len(set(told)) == 1
    assert "no account is locked" in told[0]


async def test_a_new_password_is_tried_at_once_however_long_the_pause_is() -> None:
    setting = Setting(user=USER)
    for _ in range(400):
        setting.now += 1
        try:
            await setting.denied()
        except UnauthorizedError:
            continue
    setting.secrets["password"] = "neu"
    began = setting.now
    while True:
        setting.now += 1
        try:
            assert await setting.header() == basic("neu")
            break
        except UnauthorizedError:
            assert setting.now - began <= 6
    setting.identity.accepted()
    assert await setting.header() == basic("neu")


async def test_while_one_login_is_tried_again_the_others_wait_for_what_becomes_of_it() -> None:
    setting = Setting(user=USER)
    assert not await setting.denied()
    setting.now += 7
    await setting.header()
    with pytest.raises(UnauthorizedError):
        await setting.header()
    setting.identity.accepted()
    await setting.header()


async def test_a_password_that_changed_by_the_time_of_another_try_goes_with_its_repetition() -> None:
    setting = Setting(user=USER)
    assert not await setting.denied()
    setting.identity._look = float("inf")  # nobody looked in between
    setting.now += 7
    version, _ = await setting.identity.headers()
    setting.secrets["password"] = "neu"
    assert await setting.identity.refused(version)
    assert await setting.header() == basic("neu")


async def test_a_secret_that_cannot_be_had_says_where_it_is_named() -> None:
    setting = Setting(user=USER)
    del setting.secrets["password"]
    with pytest.raises(CredentialsError, match="does not exist") as caught:
        await setting.header()
    assert caught.value.place == "user.password"


# --- tokens ---


async def test_a_token_is_asked_for_once_by_all_who_need_it() -> None:
    setting = Setting(bearer={**CLIENT, "scope": "piwebapi"})
    setting.gate = asyncio.Event()
    waiting = [asyncio.create_task(setting.header()) for _ in range(5)]
    await asyncio.sleep(0)
    setting.gate.set()
    assert await asyncio.gather(*waiting) == ["Bearer token-1"] * 5
    assert setting.forms == [
        {
            "grant_type": ["client_credentials"],
            "client_id": ["sluice"],
            "client_secret": ["shh"],
            "scope": ["piwebapi"],
        }
    ]


@pytest.mark.parametrize(
    ("life", "used"), [(3600, 3540), ("3600", 3540), (10, 8), (None, 240), ("soon", 240), (-1, 240)]
)
async def test_a_token_is_renewed_ahead_of_its_end(life: Any, used: float) -> None:
    setting = Setting(bearer=CLIENT)
    setting.answer = lambda: (
        200,
        {**setting._token(), "expires_in": life}
        if life is not None
        else {"access_token": f"token-{len(setting.forms)}"},
    )
    assert await setting.header() == "Bearer token-1"
    setting.now += used - 0.1
    assert await setting.header() == "Bearer token-1"
    setting.now += 0.2
    assert await setting.header() == "Bearer token-2"


async def test_a_token_that_the_server_takes_no_more_is_renewed() -> None:
    setting = Setting(bearer=CLIENT)
    await setting.header()
    assert await setting.denied()
    assert await setting.header() == "Bearer token-2"


async def test_a_token_that_cannot_be_renewed_yet_is_used_until_its_end() -> None:
    setting = Setting(bearer=CLIENT)
    await setting.header()
    setting.answer = lambda: (503, b"")
    setting.now += 3550
    assert await setting.header() == "Bearer token-1"
    setting.now += 51
    with pytest.raises(CredentialsError, match="gives no token: it answers 503"):
        await setting.header()
    setting.answer = lambda: (200, setting._token())
    setting.now += 600
    assert await setting.header() == f"Bearer token-{len(setting.forms)}"


async def test_a_token_endpoint_that_refuses_is_not_asked_with_every_request() -> None:
    setting = Setting(bearer=CLIENT)
    setting.answer = lambda: (401, {"error": "invalid_client"})
    for _ in range(600):
        setting.now += 0.5
        with pytest.raises(CredentialsError):
            await setting.header()
    assert len(setting.forms) <= 8
    setting.secrets["client"], setting.answer = "neu", lambda: (200, setting._token())
    setting.now += 6
    assert await setting.header() == f"Bearer token-{len(setting.forms)}"


@pytest.mark.parametrize(
    ("status", "content", "place", "words"),
    [
        (400, {"error": "invalid_client"}, "bearer.clientId", "its secret is wrong"),
        (400, {"error": "unauthorized_client"}, "bearer.clientId", "may not ask"),
        (400, {"error": "invalid_scope"}, "bearer.scope", "not allowed"),
        (400, {"error": "unsupported_grant_type"}, "bearer.tokenUrl", "client credentials"),
        (400, {"error": "shh <script>"}, "bearer.tokenUrl", "answers 400"),
        (404, b"<html>", "bearer.tokenUrl", "answers 404"),
        (200, b"<html>", "bearer.tokenUrl", "without a token"),
        (200, [], "bearer.tokenUrl", "without a token"),
        (200, {"access_token": 5}, "bearer.tokenUrl", "without a token"),
        (200, {"access_token": "a\r\nX: y"}, "bearer.tokenUrl", "no header can have"),
        (200, {"access_token": "a", "token_type": "mac"}, "bearer.tokenUrl", "no bearer tokens"),
    ],
)
async def test_what_is_wrong_with_the_token_endpoint_is_said(status: int, content: Any, place: str, words: str) -> None:
    setting = Setting(bearer=CLIENT)
    setting.answer = lambda: (status, content)
    with pytest.raises(CredentialsError, match=words) as caught:
        await setting.header()
    assert caught.value.place == place
    assert "shh" not in str(caught.value)


async def test_a_token_endpoint_that_is_not_there_is_said() -> None:
    setting = Setting(bearer=CLIENT)

    def away() -> tuple[int, Any]:
        raise UnreachableError("refuses the connection", "see that it runs")

    setting.answer = away
    with pytest.raises(CredentialsError, match="refuses the connection") as caught:
        await setting.header()
    assert caught.value.place == "bearer.tokenUrl"


async def test_a_token_that_something_else_keeps_fresh_is_read_again_after_a_401() -> None:
    setting = Setting(bearer={"token": {"file": "token"}})
    assert await setting.header() == "Bearer t1"
    setting.secrets["token"] = "t2\n"
    assert await setting.denied()
    assert await setting.header() == "Bearer t2"
    setting.secrets["token"] = "  "
    with pytest.raises(CredentialsError, match="is empty"):
        await setting.denied()


# --- headers, and plain http ---


async def test_further_headers_are_sent_and_secret_ones_read_again_after_a_401() -> None:
    setting = Setting(headers={"X-Site": {"value": "north"}, "X-Api-Key": {"secret": {"file": "key"}}})
    assert (await setting.header("X-Site"), await setting.header("X-Api-Key")) == ("north", "k1")
    setting.secrets["key"] = "k2"
    assert await setting.denied()
    assert await setting.header("X-Api-Key") == "k2"
    setting.secrets["key"] = "k\n3"
    with pytest.raises(CredentialsError) as caught:
        await setting.denied()
    assert caught.value.place == "headers.X-Api-Key"


@pytest.mark.parametrize(
    "who",
    [
        {"user": USER},
        {"bearer": {"token": {"file": "token"}}},
        {"headers": {"X-Api-Key": {"secret": {"file": "key"}}}},
    ],
)
def test_nothing_secret_goes_over_http_unless_that_is_asked_for(who: dict[str, Any]) -> None:
    for address in ("http://pi.example.com/piwebapi", "http://127.0.0.1:8080/piwebapi"):
        plain = Connection.model_validate({"url": address, **who})
        error = unencrypted(plain, address)
        assert error is not None
        assert error.place == "allowUnencrypted"
        assert "localhost" in error.remedy
        assert unencrypted(plain.model_copy(update={"allow_unencrypted": True}), address) is None
        assert unencrypted(plain, URL) is None
        assert unencrypted(Connection.model_validate({"url": address}), address) is None


async def test_nothing_that_is_kept_shows_a_secret() -> None:
    for who in ({"user": USER}, {"bearer": CLIENT}, {"bearer": {"token": {"file": "token"}}}):
        setting = Setting(**who)
        await setting.header()
        shown = repr(vars(setting.identity)) + repr(vars(setting.identity._authenticator))
        assert not any(secret in shown for secret in ("geheim", "shh", "t1", "token-1", basic("geheim")))
