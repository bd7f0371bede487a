"""What the tool says reaches whoever asked, whatever it tells of and wherever its output goes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from cli.output import PlainConsole, as_bytes

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "examples" / "site.yaml"


def sluice(*arguments: object, stdout: Any = subprocess.PIPE, **more: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/shared:{ROOT}/components:{ROOT}/scripts", **more}
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(
        command,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


COMMANDS = (
    ("check", SITE),
    ("check", "--json", SITE),
    ("deploy", "--group", "g", "--file", SITE, "--dry-run"),
    ("schema", "stream-exporter", "--markdown"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=str)
def test_a_full_disk_is_told_in_a_line(arguments: tuple[object, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = sluice(*arguments, stdout=full)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[-1] == "the machine stands in the way: [Errno 28] No space left on device"


@pytest.mark.parametrize("arguments", COMMANDS, ids=str)
def test_a_closed_stdout_is_told_in_a_line(arguments: tuple[object, ...]) -> None:
    script = 'exec "$@" >&-'
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/shared:{ROOT}/components:{ROOT}/scripts"}
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "cli", *map(str, arguments)]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[-1] == "stdout is closed: the result has nowhere to go"


def test_a_locale_without_a_character_shows_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text('components: {"io.sluice.Ü": {}}', encoding="utf-8")
    done = sluice("check", path, PYTHONIOENCODING="ascii")
    assert (done.returncode, b"io.sluice.\\xdc" in done.stdout, done.stderr) == (1, True, b"")


def test_a_number_that_json_knows_and_64_bits_do_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"components: {{io.sluice.StreamExporter: {{configurationUpdate: {{merge: {{x: {10**30}}}}}}}}}")
    done = sluice("check", "--json", path)
    assert [one["value"] for one in json.loads(done.stdout)["files"][0]["findings"] if one["path"] == "x"] == [10**30]


def test_half_a_character_does_not_keep_a_result_from_being_json() -> None:
    assert json.loads(as_bytes({"a\ud800": ["\udfff"]})) == {"a\ud800": ["\udfff"]}


def shown(*what: Any) -> str:
    """What a terminal gets."""
    console = PlainConsole()
    console.file = io.StringIO()
    for one in what:
        console.print(one, soft_wrap=True)
    return console.file.getvalue()


def test_what_is_shown_is_never_obeyed() -> None:
    """A tag, a reason of a device, a name in a document: they come from anywhere."""
    evil = "T\x1b[2J\x1b]0;title\x07\r1\x9b31m\u202egnp"
    table = Table("column")
    table.add_row(Text(evil))
    text = shown(evil, table)
    assert not set(text) & set("\x1b\x07\r\x9b\u202e")
    assert text.count("T␛[2J␛]0;title1\ufffd31m") == 2


def test_neither_markup_nor_emoji_names_are_replaced() -> None:
    assert shown("[red]:warning:[/red]") == "[red]:warning:[/red]\n"


@given(st.text())
def test_text_without_control_characters_is_shown_as_it_is(text: str) -> None:
    if text.isprintable():
        assert shown(text) == f"{text}\n"
