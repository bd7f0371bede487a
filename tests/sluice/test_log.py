"""Logs: one line of JSON per record, repeats summed up, secrets never."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import log
from sluice.log import MAX_REPEATS, MAX_TEMPLATES, MAX_TEXT, WINDOW, JsonHandler, Repeats, Secret


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook = hook


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Logs:
    """A logger of its own with its lines."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.handler = JsonHandler("opcua-collector", self.stream, clock=self.clock)
        self.logger = logging.Logger("sluice.test")
        self.logger.addHandler(self.handler)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]


def test_a_record_is_one_line_of_json_with_time_level_component_and_logger() -> None:
    logs = Logs()
    logs.logger.warning("Stream %s lost %d batches", "a/b", 3)
    (line,) = logs.lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "component": "opcua-collector",
        "logger": "sluice.test",
        "message": "Stream a/b lost 3 batches",
    }


def test_an_exception_with_its_traceback_is_one_field_of_the_same_line() -> None:
    logs = Logs()
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logs.logger.exception("It failed\nbadly")
    assert logs.stream.getvalue().count("\n") == 1
    (line,) = logs.lines()
    assert line["message"] == "It failed\nbadly"
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("ValueError: first\nsecond")


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_text_breaks_the_line(template: str, argument: str) -> None:
    logs = Logs()
    logs.logger.info("%s" + template.replace("%", "%%"), argument)
    (line,) = logs.lines()
    expected = (argument + template).encode("utf-8", "backslashreplace").decode()
    assert line["message"] == expected


def test_arguments_that_do_not_fit_their_template_are_still_logged() -> None:
    logs = Logs()
    logs.logger.info("%d values of %s", "many")
    assert logs.messages() == ["%d values of %s ('many',)"]


def test_an_endless_message_is_cut_and_says_so() -> None:
    logs = Logs()
    logs.logger.info("x" * 100_000)
    (message,) = logs.messages()
    assert len(message) < MAX_TEXT + 100
    assert "92000 characters cut" in message


def test_the_same_template_is_printed_5_times_a_minute_and_the_rest_is_one_line() -> None:
    logs = Logs()
    for n in range(100):
        logs.clock.now = n * 0.5
        logs.logger.warning("Cannot reach %s", n)
    assert logs.messages() == [f"Cannot reach {n}" for n in range(MAX_REPEATS)]
    logs.clock.now = WINDOW
    logs.logger.info("Something else")
    assert logs.messages()[MAX_REPEATS:] == ["95 more like this were held back: Cannot reach %s", "Something else"]
    summary = logs.lines()[MAX_REPEATS]
    assert (summary["repeats"], summary["level"], summary["logger"]) == (95, "WARNING", "sluice.test")


def test_after_its_minute_a_template_is_printed_again() -> None:
    logs = Logs()
    for _ in range(2):
        for _ in range(10):
            logs.logger.warning("Again")
        logs.clock.now += WINDOW
    assert logs.messages() == ["Again"] * 5 + ["5 more like this were held back: Again"] + ["Again"] * 5


def test_another_level_or_template_is_not_held_back() -> None:
    logs = Logs()
    for _ in range(10):
        logs.logger.warning("Again")
    logs.logger.error("Again")
    logs.logger.warning("New")
    assert logs.messages() == ["Again"] * 6 + ["New"]


def test_what_is_held_back_is_summed_up_at_exit() -> None:
    logs = Logs()
    for _ in range(8):
        logs.logger.warning("Again")
    logs.handler.flush()
    assert logs.messages()[-1] == "3 more like this were held back: Again"
    logs.stream.close()
    logs.handler.flush()


def test_a_flood_of_different_templates_is_followed_within_bounds() -> None:
    repeats = Repeats()
    assert all(repeats.admits("INFO", "x", f"template {n}", 0.0) for n in range(10 * MAX_TEMPLATES))
    assert len(repeats.over(WINDOW)) == 0
    assert len(repeats._windows) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 20.0)), max_size=200))
def test_every_record_is_printed_or_summed_up(steps: list[tuple[str, float]]) -> None:
    repeats, now, printed, held = Repeats(), 0.0, 0, 0
    for template, pause in steps:
        now += pause
        held += sum(window.held for window in repeats.over(now))
        printed += repeats.admits("INFO", "x", template, now)
    held += sum(window.held for window in repeats.over(now + WINDOW))
    assert printed + held == len(steps)


def test_setup_takes_over_all_logging_and_the_level_changes_while_running() -> None:
    stream = io.StringIO()
    log.setup("warning", "console", stream=stream)
    logging.getLogger("some.library").info("not yet")
    log.set_level("DEBUG")
    logging.getLogger("some.library").debug("now")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["now"]
    with pytest.raises(ValueError, match="log level 'LOUD' is none of DEBUG, INFO, WARNING, ERROR"):
        log.set_level("LOUD")


def test_a_process_prints_json_alone_and_its_end_by_an_error_is_one_line_too() -> None:
    program = (
        "import logging, threading\n"
        "from sluice import log\n"
        "log.setup('INFO', 'console')\n"
        "for _ in range(7): logging.getLogger('x').warning('Again')\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "raise RuntimeError('out')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, env={"PYTHONPATH": "shared"}
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message"] for line in lines] == [
        *["Again"] * 5,
        *["stopped by an error that nothing handles"] * 2,
        "2 more like this were held back: Again",
    ]
    assert "ZeroDivisionError" in lines[5]["exception"]
    assert lines[6]["exception"].endswith("RuntimeError: out")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    logs = Logs()
    logs.logger.info("password %s %r %s", secret, secret, {"password": secret})
    assert "hunter2" not in logs.stream.getvalue()
    assert f"{secret} {secret!r} {secret:>20} {[secret]} {secret!s}" == "*** *** *** [***] ***"
    assert secret.reveal() == "hunter2"
    assert (secret == Secret("hunter2"), secret == Secret("other"), secret == "hunter2") == (True, False, False)
    assert (bool(secret), bool(Secret(""))) == (True, False)
    assert len({secret, Secret("hunter2")}) == 1


def test_a_secret_cannot_be_written_anywhere_by_accident() -> None:
    for write in (json.dumps, orjson.dumps, pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            write(Secret("hunter2"))
