"""What an engineer reads, and at which place, for every error that there is."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from pi_collector.config import TRIED_AGAIN, Connection
from pi_collector.problems import explain, place_of, problem_of
from pi_collector.web import errors

URL = "https://pi.example.com/piwebapi"
KEY = ConnectionKey("pi.example.com", 443, True, True, None, None, None)


def settings(**more: Any) -> Connection:
    return Connection.model_validate({"url": URL, **more})


WITH_USER = settings(user={"name": "PLANT\\reader", "password": {"file": "p"}})
WITH_TOKEN = settings(bearer={"token": {"file": "t"}})


def os_error(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


def ssl_error(reason: str) -> aiohttp.ClientConnectorSSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:1000)")
    error.reason = reason
    return aiohttp.ClientConnectorSSLError(KEY, error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (os_error(ConnectionRefusedError(111, "Connect call failed")), "refuses the connection"),
        (ConnectionRefusedError(), "refuses the connection"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(None, "Name or service not known")), "cannot be found"),
        (os_error(socket.gaierror(-2, "Name or service not known")), "cannot be found"),
        (os_error(OSError(113, "No route to host")), "cannot be reached: No route to host"),
        (aiohttp.ConnectionTimeoutError("Connection timeout"), "does not answer to a connection"),
        (asyncio.TimeoutError(), "does not answer within 60 s"),
        (TimeoutError(), "does not answer within 60 s"),
        (aiohttp.ServerDisconnectedError(), "closed the line"),
        (ConnectionResetError(104, "Connection reset by peer"), "closed the line"),
        (BrokenPipeError(), "closed the line"),
        (aiohttp.ClientPayloadError("Response payload is not completed"), "broke an answer off"),
        (ssl_error("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (ssl_error("UNSUPPORTED_PROTOCOL"), "only TLS older than 1.2"),
        (ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "want of a certificate"),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), "authority of our certificate"),
        (ssl_error("SOMETHING_NEW"), "SOMETHING_NEW"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "not believed"),
        (KeyError("x"), "failed: KeyError"),
        (errors.MalformedError("broke an answer off", "none is needed"), "broke an answer off"),
    ],
)
def test_every_error_has_words_and_a_remedy(error: Exception, words: str) -> None:
    problem, remedy = explain(error, settings())
    assert words in problem
    assert remedy


def test_a_certificate_behind_other_errors_is_found() -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    problem, _ = explain(aiohttp.ClientConnectorCertificateError(KEY, inner), settings())
    assert "not believed" in problem


def test_an_error_that_has_itself_for_a_cause_ends() -> None:
    error = OSError("odd")
    error.__context__ = other = ValueError()
    other.__context__ = error
    assert explain(error, settings())


@pytest.mark.parametrize(
    ("error", "connection", "place", "value"),
    [
        (errors.UnreachableError("refuses"), settings(), "url", URL),
        (errors.UntrustedError("shows"), WITH_USER, "url", URL),
        (errors.UnauthorizedError(401, (), "no"), settings(), "url", URL),
        (errors.UnauthorizedError(401, (), "no"), WITH_USER, "user", "PLANT\\reader"),
        (errors.UnauthorizedError(401, (), "no"), WITH_TOKEN, "bearer", None),
        (errors.ForbiddenError(403, (), "no"), WITH_USER, "user", "PLANT\\reader"),
        (errors.NotFoundError(404, (), "no"), WITH_USER, "url", URL),
        (errors.ThrottledError((), "no", "", 5.0), WITH_USER, "url", URL),
        (errors.UnavailableError(503, (), "no"), WITH_USER, "url", URL),
        (errors.CredentialsError("user.password", "is not there", "create it"), WITH_USER, "user.password", None),
        (OSError("odd"), WITH_USER, "url", URL),
    ],
)
def test_each_error_belongs_to_a_setting(error: Exception, connection: Connection, place: str, value: Any) -> None:
    assert place_of(error, connection) == (place, value)
    problem = problem_of("lab", connection, error)
    assert (problem.path, problem.value, problem.effect) == (f"connections.lab.{place}", value, TRIED_AGAIN)


def test_a_refused_login_reads_on_from_the_user() -> None:
    from pi_collector.web.answers import refusal

    assert str(problem_of("lab", WITH_USER, refusal(401, ()))).startswith(
        'connections.lab.user = "PLANT\\\\reader" is not accepted by the server (401): '
    )
    assert str(problem_of("lab", settings(), refusal(503, ("down for service",)))).startswith(
        f'connections.lab.url = "{URL}" is not available (503): down for service: '
    )
