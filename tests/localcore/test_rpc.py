"""The server's side of a connection: each row of its table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localcore.eventstream import Decoder, Message, MessageFlag, MessageType, encode
from localcore.rpc import Connect, ProtocolViolation, Request, RpcConnection, State, StreamEnd


def message(kind: MessageType, stream: int, flags: int = 0, body: Any = None, **headers: str) -> bytes:
    payload = b"" if body is None else json.dumps(body).encode()
    fixed = {":message-type": int(kind), ":message-flags": flags, ":stream-id": stream}
    return encode(Message({**fixed, **{name.replace("_", ":"): value for name, value in headers.items()}}, payload))


def request(stream: int, operation: str = "aws.greengrass#GetConfiguration", body: Any = None) -> bytes:
    return message(MessageType.APPLICATION_MESSAGE, stream, body=body or {}, operation=operation)


CONNECT = message(MessageType.CONNECT, 0, body={"authToken": "T"}, _version="0.1.0")


def opened(*, ends_unary: bool = True, error_details: bool = True) -> RpcConnection:
    connection = RpcConnection(10_000, ends_unary=ends_unary, error_details=error_details)
    assert list(connection.receive(CONNECT)) == [Connect("T")]
    connection.accept()
    return connection


def read(data: bytes) -> Message:
    (found,) = Decoder(10_000).receive(data)
    return found


def test_a_connection_opens_when_its_token_is_accepted() -> None:
    connection = RpcConnection(10_000, ends_unary=True, error_details=True)
    assert list(connection.receive(CONNECT)) == [Connect("T")]
    ack = read(connection.accept())
    assert (ack.number(":message-type"), ack.number(":message-flags"), ack.number(":stream-id")) == (5, 1, 0)
    assert connection.state is State.OPEN


def test_a_refusal_is_an_acknowledgement_that_does_not_accept() -> None:
    connection = RpcConnection(10_000, ends_unary=True, error_details=True)
    list(connection.receive(CONNECT))
    ack = read(connection.refuse())
    assert (ack.number(":message-type"), ack.number(":message-flags")) == (5, 0)
    assert connection.state is State.CLOSED


@pytest.mark.parametrize(
    "first",
    [
        request(1),
        message(MessageType.PING, 0),
        message(MessageType.CONNECT, 0, body={"authToken": "T"}, _version="0.2.0"),
        message(MessageType.CONNECT, 0, body={"authToken": "T"}),
        message(MessageType.CONNECT, 0, body=["T"], _version="0.1.0"),
        encode(Message({":message-type": 4}, b"{}")),
    ],
)
def test_anything_but_a_proper_connect_first_is_a_violation(first: bytes) -> None:
    connection = RpcConnection(10_000, ends_unary=True, error_details=True)
    with pytest.raises(ProtocolViolation):
        list(connection.receive(first))


def test_requests_and_their_responses() -> None:
    connection = opened()
    events = list(connection.receive(request(1, body={"keyPath": []}) + request(2)))
    assert events == [Request(1, "GetConfiguration", {"keyPath": []}), Request(2, "GetConfiguration", {})]
    response = read(connection.response(1, "GetConfigurationResponse", {"value": 1}, more=False))
    assert response.text("service-model-type") == "aws.greengrass#GetConfigurationResponse"
    assert response.text(":content-type") == "application/json"
    assert response.number(":message-flags") == MessageFlag.TERMINATE_STREAM
    assert json.loads(response.payload) == {"value": 1}


def test_lite_leaves_the_flag_that_ends_a_unary_stream_away() -> None:
    connection = opened(ends_unary=False)
    list(connection.receive(request(1)))
    assert read(connection.response(1, "X", {}, more=False)).number(":message-flags") == 0


def test_errors_carry_their_model_and_on_lite_no_message_that_the_sdk_would_show() -> None:
    for details in (True, False):
        connection = opened(error_details=details)
        list(connection.receive(request(1)))
        error = read(connection.error(1, "UnauthorizedError", "no"))
        assert (error.number(":message-type"), error.number(":message-flags")) == (1, 2)
        assert error.text("service-model-type") == "aws.greengrass#UnauthorizedError"
        body = json.loads(error.payload)
        assert (body["_message"], body["_errorCode"]) == ("no", "UnauthorizedError")
        assert ("message" in body) is details


def test_a_subscription_carries_events_until_the_client_ends_it() -> None:
    connection = opened()
    list(connection.receive(request(1)))
    assert read(connection.response(1, "R", {}, more=True)).number(":message-flags") == 0
    assert read(connection.event(1, "E", b"{}")).text("service-model-type") == "aws.greengrass#E"
    end = message(MessageType.APPLICATION_MESSAGE, 1, flags=MessageFlag.TERMINATE_STREAM)
    assert list(connection.receive(end)) == [StreamEnd(1)]
    answer = read(connection.to_send())
    assert (answer.number(":stream-id"), answer.number(":message-flags")) == (1, 2)
    assert connection.event(1, "E", b"{}") == b""
    assert list(connection.receive(end)) == []
    assert connection.to_send() == b""


def test_a_ping_is_answered_with_its_payload() -> None:
    connection = opened()
    assert list(connection.receive(message(MessageType.PING, 0, body={"n": 1}))) == []
    answer = read(connection.to_send())
    assert (answer.number(":message-type"), answer.payload) == (3, b'{"n": 1}')


@pytest.mark.parametrize(
    "wrong",
    [
        CONNECT,
        request(1),
        request(0),
        message(MessageType.APPLICATION_MESSAGE, 5, body={}),
        message(MessageType.APPLICATION_ERROR, 5, body={}, operation="aws.greengrass#X"),
        message(MessageType.APPLICATION_MESSAGE, 5, body=[1], operation="aws.greengrass#X"),
        message(MessageType.APPLICATION_MESSAGE, 5, operation="aws.greengrass#X"),
    ],
)
def test_what_does_not_belong_on_an_open_connection_is_a_violation(wrong: bytes) -> None:
    connection = opened()
    list(connection.receive(request(1)))
    with pytest.raises(ProtocolViolation):
        list(connection.receive(wrong))
