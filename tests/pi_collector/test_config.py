"""The collector's configuration: what may be written, and how a group has what it leaves out from its connection."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pi_collector.config import Bearer, Connection, Header, Select, Tag, Tls, User
from pi_collector.plan import OWN, by_group, plan

URL = "https://pi.example.com/piwebapi"


def connection(**more: Any) -> Connection:
    return Connection.model_validate({"url": URL, **more})


def test_the_shortest_connection_is_gapless_and_verified() -> None:
    settings = connection()
    how = plan(settings)
    assert (how.mode, how.transport, how.gapless, how.gate) == ("recorded", "auto", True, "all")
    assert (settings.tls.check_host_name, settings.tls.allow_any_certificate) == (True, False)
    assert not settings.allow_unencrypted


@pytest.mark.parametrize("url", [URL, f"{URL}/", "http://10.0.0.5:8080/piwebapi", "https://[::1]:443/piwebapi"])
def test_addresses_that_can_be_one(url: str) -> None:
    assert connection(url=url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "pi",
        "ftp://pi/x",
        "https://",
        "https://user@pi/x",
        "https://pi/piwebapi?x=1",
        "https://pi:0x1/",
        "https://pi:70000",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError):
        connection(url=url)


def test_each_address_is_used_once() -> None:
    other = "https://pi2/piwebapi"
    assert connection(failOver=[other, URL, other]).addresses == (URL, other)


@pytest.mark.parametrize(
    ("initial", "kept"),
    [
        ("now", "now"),
        ("NOW", "now"),
        ("7d", 604800.0),
        (60, 60.0),
        ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
        ("2026-03-01T11:00:00+01:00", "2026-03-01T10:00:00Z"),
    ],
)
def test_where_a_new_point_begins(initial: Any, kept: Any) -> None:
    assert connection(initial=initial).initial == kept


@pytest.mark.parametrize(
    "initial", ["yesterday", "2026-03-01T10:00:00", "4000d", "-1h", "*-8h", "1600-01-01T00:00:00Z"]
)
def test_where_no_point_can_begin(initial: str) -> None:
    with pytest.raises(ValidationError):
        connection(initial=initial)


@pytest.mark.parametrize(
    ("model", "good", "wrong"),
    [
        (Tag, {"point": "A"}, [{}, {"point": " "}, {"point": "A", "path": r"\\S\A"}, {"path": "A"}, {"path": r"\\S"}]),
        (Tag, {"point": "A point's name (1)"}, [{"point": r"\\S\A"}, {"point": "A*"}, {"point": "A?"}]),
        (Tag, {"path": r"\\SERVER\A point, with all it may have"}, [{"path": r"\\S\A\B"}, {"path": r"\\\A"}]),
        (Select, {"name": "A*"}, [{}, {"prefix": "x"}, {"name": "A*", "query": "Tag:=A*"}]),
        (Select, {"query": "Tag:=A*"}, [{"query": "Tag:=A*", "source": "R"}]),
        (Tls, {"certificate": "c", "key": {"file": "k"}}, [{"certificate": "c"}, {"key": {"file": "k"}}]),
        (
            User,
            {"name": "D\\u", "password": {"file": "p"}},
            [{"name": "u"}, {"name": "a:b", "password": {"file": "p"}}],
        ),
        (
            Bearer,
            {"tokenUrl": "https://id/token", "clientId": "a", "clientSecret": {"file": "p"}},
            [{}, {"tokenUrl": "https://id/token"}, {"clientId": "a", "clientSecret": {"file": "p"}}],
        ),
        (Bearer, {"token": {"file": "p"}}, []),
        (Header, {"value": "a"}, [{}, {"value": "a", "secret": {"file": "p"}}, {"value": "a\r\nb"}, {"value": "ä"}]),
    ],
)
def test_sections_that_need_one_thing_or_the_other(model: Any, good: Any, wrong: list[Any]) -> None:
    model.model_validate(good)
    for one in wrong:
        with pytest.raises(ValidationError):
            model.model_validate(one)


@pytest.mark.parametrize("header", ["Authorization", "authorization", "Host", "Cookie", "Content-Length", "a b", ""])
def test_headers_that_are_ours_cannot_be_set(header: str) -> None:
    with pytest.raises(ValidationError):
        connection(headers={header: {"value": "x"}})


def test_a_group_has_what_it_leaves_out_from_its_connection() -> None:
    settings = connection(
        pollInterval="30s",
        gate="good",
        groups={"slow": {"transport": "poll", "gate": "all"}, "mean": {"mode": "summary"}},
    )
    slow, mean, own = plan(settings, "slow"), plan(settings, "mean"), plan(settings)
    assert (slow.transport, slow.poll, slow.gate, slow.mode) == ("poll", 30.0, "all", "recorded")
    assert (mean.mode, mean.gapless, mean.summaries) == ("summary", False, ("Average",))
    assert plan(settings, "nobody") == own
    tags = {"a": Tag(point="a"), "b": Tag(point="b", group="slow"), "c": Tag(point="c", group="nobody")}
    assert {group: list(of) for group, of in by_group(settings, tags).items()} == {OWN: ["a", "c"], "slow": ["b"]}
