"""What a server can do, how it is, and since when its process runs."""

from __future__ import annotations

from typing import Any

import pytest

from pi_collector.web import features
from pi_collector.web.clock import Instant
from pi_collector.web.errors import MalformedError
from pi_collector.web.features import DataServer, Process

MINUTE = 60 * 1_000_000_000
NOW = 1_772_359_200_000_000_000


@pytest.mark.parametrize(
    ("content", "version"),
    [
        ({"ProductTitle": "PI Web API", "ProductVersion": "1.13.0.6518", "Links": {}}, "1.13.0.6518"),
        ({"PI Web API": {"FullVersion": "1.18.0.44", "Build": "44"}}, "1.18.0.44"),
        ({"OSIsoft.REST.Services": {"FullVersion": "1.13.0.6518"}, "Other": {"FullVersion": "9.9"}}, "1.13.0.6518"),
        ({"OSIsoft.PIWebAPI": "1.10.0"}, "1.10.0"),
        ({"ProductVersion": 5}, ""),
        ({"ProductVersion": "?"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_version_is_found_where_it_stands(content: Any, version: str) -> None:
    assert features.version(content) == version


def test_archives_are_read_with_what_is_there() -> None:
    told = {
        "Items": [
            {"Name": "A", "WebId": "I1DSa", "IsConnected": True, "ServerTime": "2026-03-01T10:00:00.5Z"},
            {"Name": "B", "WebId": "I1DSb", "IsConnected": "false"},
            {"Name": "C"},
            {"WebId": "nobody"},
            None,
        ]
    }
    a, b, c = features.data_servers(told)
    assert (a.name, a.connected, a.time) == ("A", True, Instant(NOW + 500_000_000, 100))
    assert (b.connected, b.time) == (False, None)
    assert (c.web_id, c.connected) == ("", True)


@pytest.mark.parametrize("content", [None, [], {}, {"Items": None}, {"Items": {}}, {"Items": 5}])
def test_a_list_that_is_none_has_no_archives(content: Any) -> None:
    assert features.data_servers(content) == []


def test_the_archive_that_is_configured_counts_and_otherwise_all() -> None:
    servers = [DataServer("A", "a", True, None), DataServer("B", "b", False, None)]
    assert features.health(features.concerned(servers, ("a",))).state == "well"
    down = features.health(features.concerned(servers, ()))
    assert down.state == "archive-down"
    assert "B" in down.problem
    assert down.remedy


def test_no_json_is_malformed() -> None:
    with pytest.raises(MalformedError):
        features.read(b"{")


def ask(process: Process, minutes: Any, after_s: int) -> bool:
    return process.another({"UpTimeInMinutes": minutes}, Instant(NOW + after_s * 1_000_000_000, 1_000_000_000))


def test_a_process_that_runs_on_is_the_same() -> None:
    process = Process()
    assert not any(ask(process, 100 + second // 60, second) for second in range(0, 600, 5))


def test_a_process_that_begins_anew_is_another_one_once() -> None:
    process = Process()
    assert not ask(process, 100, 0)
    assert ask(process, 0, 300)
    assert not ask(process, 0, 305)
    assert not ask(process, 1, 380)


def test_of_two_behind_one_address_neither_is_new_again() -> None:
    process = Process()
    ask(process, 1000, 0)
    assert ask(process, 10, 5)
    assert not any(ask(process, minutes, second) for second in range(10, 60, 5) for minutes in (1000, 10))


@pytest.mark.parametrize("minutes", [None, "5", -1, True, float("inf"), float("nan"), []])
def test_an_up_time_that_is_none_says_nothing(minutes: Any) -> None:
    process = Process()
    assert not ask(process, minutes, 0)
    assert not process.another(None, None)
