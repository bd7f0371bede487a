"""A collector's tag tables while it runs: what changes is applied once it is complete, and what is wrong is told."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pi_collector.config import Connection, Tag
from pi_collector.tags import select, stamps
from sluice.component import Problems
from sluice.table_watch import TableWatch


class Watched:
    """A connection whose tags come from tags.csv, and how often its tables were found changed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tags.csv"
        self.settings = Connection.model_validate({"url": "https://pi/piwebapi", "tagsFile": "tags.csv"})
        self.problems = Problems()
        self.watch: TableWatch[Connection, Tag] = TableWatch(
            partial(select, directory=folder, keep=True), partial(stamps, directory=folder), self.problems
        )
        self.lock = asyncio.Lock()
        self.changes = 0
        self.error: Exception | None = None

    def write(self, text: str) -> None:
        self.file.write_text(f"tag,point\n{text}", encoding="utf-8")

    async def read(self) -> list[str]:
        return list((await self.watch.read("pi", self.settings)).tags)

    async def look(self) -> int:
        async def changed(name: str) -> None:
            assert name == "pi"
            assert self.lock.locked()
            self.changes += 1
            if self.error is not None:
                raise self.error
            await self.watch.read(name, self.settings)

        await self.watch.look(changed, self.lock)
        return self.changes

    def said(self) -> list[str]:
        return [problem.path for problem in self.problems]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    made = Watched(tmp_path)
    made.write("A,SINUSOID\n")
    return made


async def test_a_table_is_applied_when_it_looked_the_same_twice(watched: Watched) -> None:
    assert await watched.read() == ["A"]
    assert await watched.look() == 0
    watched.write("A,SINUSOID\nB,CD")
    assert await watched.look() == 0
    watched.write("A,SINUSOID\nB,CDT158\n")  # it was still being written
    assert await watched.look() == 0
    assert await watched.look() == 1
    assert await watched.look() == 1


async def test_a_table_that_goes_and_comes_back_as_it_was_is_read_again(watched: Watched) -> None:
    await watched.read()
    watched.file.unlink()
    assert [await watched.look(), await watched.look()] == [0, 1]
    assert watched.said() == ["connections.pi.tagsFile"]
    watched.write("A,SINUSOID\n")
    assert [await watched.look(), await watched.look()] == [1, 2]
    assert not watched.said()


async def test_what_is_wrong_is_told_until_it_is_mended(watched: Watched) -> None:
    watched.write("A,\nB,CDT158\n")
    assert await watched.read() == ["B"]
    assert watched.said() == ["connections.pi.tagsFile.A"]
    watched.write("A,SINUSOID\nB,\n")
    await watched.read()
    assert watched.said() == ["connections.pi.tagsFile.B"]  # which goes on as it was last good


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "no space left")])
async def test_a_change_that_cannot_be_applied_is_tried_again(watched: Watched, error: Exception) -> None:
    await watched.read()
    watched.write("B,CDT158\n")
    watched.error = error
    assert [await watched.look() for _ in range(3)] == [0, 1, 2]
    watched.error = None
    assert [await watched.look() for _ in range(2)] == [3, 3]


async def test_a_connection_that_is_gone_is_not_looked_at(watched: Watched) -> None:
    await watched.read()
    watched.write("B,CDT158\n")
    watched.watch.forget("pi")
    assert [await watched.look(), await watched.look()] == [0, 0]


async def test_a_connection_that_goes_while_others_are_looked_at_is_passed_over(watched: Watched) -> None:
    await watched.read()
    await watched.lock.acquire()
    looking: asyncio.Task[Any] = asyncio.create_task(watched.look())
    await asyncio.sleep(0)
    watched.watch.forget("pi")
    watched.lock.release()
    assert await looking == 0
