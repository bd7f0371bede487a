"""A proposed configuration is judged within two seconds, when that is wanted, and only then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE, Profile
from sluice import validation
from sluice.ipc import Ipc
from sluice.problem import Problem
from sluice.tasks import end
from sluice.validation import LONGEST_MESSAGE, Validation, reason

ME = "io.sluice.Tested"


class Judge:
    """Finds `bad: true` wrong; `slow` never comes to an end, `broken` raises."""

    async def __call__(self, raw: Any) -> Sequence[Problem]:
        if raw.get("slow"):
            await asyncio.sleep(3600)
        if raw.get("broken"):
            raise RuntimeError("the judge is ill")
        return [Problem("bad", True, "is wrong", "leave it out")] if raw.get("bad") else []


@asynccontextmanager
async def asked(tmp_path: Path, profile: Profile = CLASSIC) -> AsyncIterator[tuple[IpcServer, Validation]]:
    server = IpcServer(tmp_path / "ipc.socket", profile)
    await server.start()
    server.configuration(ME).merge((), {"a": 1}, 1.0)
    ipc = Ipc(socket_path=server.address, token=server.token(ME))
    await ipc.start()
    made = Validation(ipc, Judge())
    running = asyncio.create_task(made.run())
    try:
        yield server, made
    finally:
        await end(running)
        await ipc.close()
        await server.stop()


async def until(condition: Callable[[], object], limit: float = 30.0) -> None:
    limit += time.monotonic()
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.005)


def switched(server: IpcServer, on: bool) -> bool:
    return server.services.validation.subscribed(ME) is on


async def verdict(server: IpcServer, **proposed: Any) -> str:
    """Why a deployment with this configuration fails; empty when it does not."""
    return await server.services.validation.ask("d1", {ME: proposed}, 10.0)


async def test_by_default_nobody_is_asked(tmp_path: Path) -> None:
    async with asked(tmp_path) as (server, made):
        made.configure(False)
        await asyncio.sleep(0.05)  # time in which it would subscribe
        assert not server.services.validation.subscribed(ME)
        assert await verdict(server, bad=True) == ""


async def test_a_configuration_with_a_problem_is_rejected_in_its_words_and_a_good_one_is_not(tmp_path: Path) -> None:
    async with asked(tmp_path) as (server, made):
        made.configure(True)
        await until(lambda: server.services.validation.subscribed(ME))
        assert await verdict(server) == ""
        assert "bad = true is wrong: leave it out" in await verdict(server, bad=True)


async def test_it_is_switched_off_and_on_live(tmp_path: Path) -> None:
    async with asked(tmp_path) as (server, made):
        for wanted in (True, False, True):
            made.configure(wanted)
            await until(partial(switched, server, wanted))


@pytest.mark.parametrize("proposed", [{"slow": True}, {"broken": True}])
async def test_what_cannot_be_judged_in_time_is_accepted_within_two_seconds(
    tmp_path: Path, proposed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with asked(tmp_path) as (server, made):
        made.configure(True)
        await until(lambda: server.services.validation.subscribed(ME))
        began = time.monotonic()
        with caplog.at_level(logging.WARNING):
            assert await verdict(server, **proposed) == ""
        assert time.monotonic() - began < validation.ANSWERED_WITHIN
        assert "is accepted" in caplog.text


async def test_on_lite_one_line_says_that_there_is_no_such_thing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with asked(tmp_path, LITE) as (_, made):
            for wanted in (True, False, True):
                made.configure(wanted)
                await asyncio.sleep(0.1)  # time in which it would say more
    [line] = [line for line in caplog.messages if "SubscribeToValidateConfigurationUpdates" in line]
    assert "does not exist on this nucleus (nucleus lite)" in line


async def test_it_is_asked_again_after_the_nucleus_was_restarted(tmp_path: Path) -> None:
    async with asked(tmp_path) as (server, made):
        made.configure(True)
        await until(lambda: server.services.validation.subscribed(ME))
        await server.restart()
        await until(lambda: server.services.validation.subscribed(ME))
        assert "is wrong" in await verdict(server, bad=True)


@given(st.lists(st.text(max_size=3_000), max_size=200))
def test_a_reason_is_short_and_says_how_much_it_leaves_out(texts: list[str]) -> None:
    problems = [Problem(f"tags.T{number}", text, "is wrong", "mend it") for number, text in enumerate(texts)]
    told = reason(problems)
    assert len(told) <= LONGEST_MESSAGE + 30
    if told.endswith(" more"):
        left = int(told.rsplit(" ", 2)[1])
        assert told.count("tags.T") >= 1 or left == len(problems)
    assert bool(told) is bool(problems)
