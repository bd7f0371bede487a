"""Tag tables: where they are found, which tag counts, what a mistake costs, what goes on when a table is gone."""

from __future__ import annotations

import csv
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from opcua_collector.config import Configuration, Connection
from opcua_collector.tags import Selection, forget, forget_others, parse, select, stamps
from sluice.config import load
from sluice.tables import TableError

HEADER = "tag,node,path,area,unit,asset\n"


def connection(**more: Any) -> Connection:
    return Connection.model_validate({"endpoint": "opc.tcp://127.0.0.1:4840", **more})


def nodes(selection: Selection) -> dict[str, str | None]:
    return {name: tag.node or tag.path for name, tag in selection.tags.items()}


def told(selection: Selection) -> list[str]:
    return [str(problem) for problem in selection.problems]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The collector's work folder."""
    folder = tmp_path / "work" / "io.sluice.OpcUaCollector"
    folder.mkdir(parents=True)
    return folder


def install(work: Path, text: str, package: str = "site-a") -> Path:
    """What the install step of a tag package does."""
    folder = work.parent / f"io.sluice.Tags.{package}"
    folder.mkdir(exist_ok=True)
    new = folder / "tags.csv.new"
    new.write_text(text, encoding="utf-8")
    return new.replace(folder / "tags.csv")


# --- rows ---


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tags_come_from_a_file_and_a_wrong_row_costs_itself(work: Path, separator: str) -> None:
    lines = [
        ["tag", "node", "path", "area", "unit", "asset"],
        ["Reactor/Temp", "nsu=urn:x;s=Temp", "", "fast", "degC", "site/a"],
        ["Reactor/Level", "", "/Objects/2:Level", "", "", ""],
        ["Wrong", "Temp", "", "", "", ""],
        ["", "i=1", "", "", "", ""],
        ["Reactor/Temp", "i=2", "", "", "", ""],
        [],
        ["REACTOR/temp", "i=3", "", "", "", ""],
        ["Both", "i=1", "/Objects/2:X", "", "", ""],
    ]
    with (work / "tags.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(lines)
    found = select("line1", connection(tagsFile="tags.csv", tags={"Reactor/Level": {"node": "i=9"}}), work)
    assert {name: (tag.node, tag.path, tag.unit, tag.asset) for name, tag in found.tags.items()} == {
        "Reactor/Temp": ("nsu=urn:x;s=Temp", None, "degC", "site/a"),
        "Reactor/Level": ("i=9", None, "", ""),  # the configuration comes first
    }
    assert told(found) == [
        'connections.line1.tagsFile.Wrong.node = "Temp" is no node id (line 4 of tags.csv): write it as '
        '"nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tagsFile.Wrong is not '
        "applied)",
        'connections.line1.tagsFile["line 5"] has no tag (line 5 of tags.csv): give it a name in the column tag (the '
        "row is left out)",
        'connections.line1.tagsFile["line 6"] = "Reactor/Temp" is there a second time, after line 2 (line 6 of '
        "tags.csv): give each row a tag of its own (the row is left out)",
        'connections.line1.tagsFile["line 8"] = "REACTOR/temp" is the same name as Reactor/Temp, but for upper and '
        "lower case, after line 2 (line 8 of tags.csv): give each row a tag of its own (the row is left out)",
        "connections.line1.tagsFile.Both = "
        '{"node": "i=1", "path": "/Objects/2:X"} needs exactly one of node and path (line 9 of tags.csv): give the '
        "node id (node) or the browse path (path) (connections.line1.tagsFile.Both is not applied)",
    ]
    assert [(problem.file, problem.line) for problem in found.problems] == [("tags.csv", n) for n in (4, 5, 6, 8, 9)]


def test_every_setting_of_a_tag_has_a_column(work: Path) -> None:
    (work / "tags.csv").write_text(
        "Tag;Node;Unit;Asset;Type;Sampling Interval\nT;i=1;bar;site/a;Double;250ms\nU;i=2;;;;\n", encoding="utf-8"
    )
    found = select("line1", connection(tagsFile="tags.csv"), work)
    assert not found.problems
    tag = found.tags["T"]
    assert (tag.unit, tag.asset, tag.type, tag.sampling_interval) == ("bar", "site/a", "double", 0.25)
    assert found.tags["U"].sampling_interval is None


def test_a_decimal_comma_is_refused_with_its_row(work: Path) -> None:
    (work / "tags.csv").write_text('tag,node,samplingInterval\nT,i=1,"0,5s"\nU,i=2,0,5s\nV,i=3,1s\n', encoding="utf-8")
    found = select("line1", connection(tagsFile="tags.csv"), work)
    assert list(found.tags) == ["V"]
    first, second = told(found)
    assert '= "0,5s" has a decimal comma (line 2 of tags.csv): write 0.5s' in first
    assert first.startswith("connections.line1.tagsFile.T.samplingInterval")
    assert '= "0,5s" has 4 cells, its header 3: has a decimal comma (line 3 of tags.csv): write 0.5s' in second


def test_rows_of_other_connections_are_theirs(work: Path) -> None:
    (work / "tags.csv").write_text(
        "connection,tag,node\nline1,T,i=1\nLINE2,T,i=2\n,Common,i=3\nline3,Wrong,nonsense\n", encoding="utf-8"
    )
    assert nodes(select("line1", connection(tagsFile="tags.csv"), work)) == {"T": "i=1", "Common": "i=3"}
    line2 = select("line2", connection(tagsFile="tags.csv"), work)
    assert nodes(line2) == {"T": "i=2", "Common": "i=3"}
    assert not line2.problems


def test_a_mistyped_column_is_a_warning(work: Path) -> None:
    (work / "tags.csv").write_text("tag,node,units\nT,i=1,bar\n", encoding="utf-8")
    found = select("line1", connection(tagsFile="tags.csv"), work)
    assert not found.problems
    assert [str(warning) for warning in found.warnings] == [
        "connections.line1.tagsFile.units is no known column and is ignored (line 1 of tags.csv): did you mean unit?"
    ]


def test_a_table_by_itself_is_checked_for_all_connections() -> None:
    text = "connection,tag,node\nline1,T,i=1\nline2,T,i=2\nline1,t,i=3\n,T,i=4\nline2,U,i=5\n,U,i=5\n"
    found = parse(text.encode(), (), "tags.csv")
    assert [problem.line for problem in found.problems] == [4, 5, 7]
    assert list(found.tags) == ["line1: T", "line2: T", "line2: U"]


def test_a_name_that_cannot_be_one_costs_its_row(work: Path) -> None:
    (work / "tags.csv").write_text(f"tag,node\n{'x' * 257},i=1\na\u200bb,i=2\nGood,i=3\n", encoding="utf-8")
    found = select("line1", connection(tagsFile="tags.csv"), work)
    assert nodes(found) == {"Good": "i=3"}
    assert all("is not usable as a name (line" in text for text in told(found))
    assert len(told(found)) == 2


# --- tables that are none ---


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("a,b\n1,2\n", "has no column tag in its header (line 1"), ("", "is empty")],
    ids=["missing", "no header", "empty"],
)
def test_a_tags_file_that_is_none_leaves_the_other_tags(work: Path, content: str | None, words: str) -> None:
    if content is not None:
        (work / "tags.csv").write_text(content)
    found = select("line1", connection(tagsFile="tags.csv", tags={"T": {"node": "i=1"}}), work)
    assert list(found.tags) == ["T"]
    [problem] = found.problems
    assert problem.path == "connections.line1.tagsFile"
    assert words in problem.problem
    assert problem.remedy
    assert problem.effect == "it gives no tags"


def test_a_tags_file_that_no_file_can_be_costs_itself(work: Path) -> None:
    os.mkfifo(work / "pipe")
    for name, words in (("pipe", "not a file"), (".", "not a file"), ("a\0b", "cannot be a path")):
        found = select("line1", connection(tagsFile=name, tags={"T": {"node": "i=1"}}), work)
        assert list(found.tags) == ["T"]
        assert words in found.problems[0].problem
        assert stamps(connection(tagsFile=name), work) == found.stamps


# --- packages ---


def test_a_package_is_found_beside_the_work_folder_by_its_short_or_its_full_name(work: Path) -> None:
    install(work, "tag,node\nT,i=1\n")
    for name in ("site-a", "io.sluice.Tags.site-a"):
        assert nodes(select("line1", connection(tagsPackage=name), work)) == {"T": "i=1"}


def test_a_package_that_is_not_installed_is_told_with_its_component(work: Path) -> None:
    found = select("line1", connection(tagsPackage="site-a"), work)
    assert told(found) == [
        'connections.line1.tagsPackage = "site-a" is not installed on this device: deploy io.sluice.Tags.site-a '
        "together with this component (it gives no tags)"
    ]


def test_a_package_in_a_folder_of_another_user_is_told_with_the_way_out(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nucleus lets nobody but its own user into a component's work folder."""
    path = install(work, "tag,node\nT,i=1\n")
    real = Path.stat

    def refused(self: Path, **options: Any) -> os.stat_result:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", refused)  # root, who may run this, may read everything
    assert told(select("line1", connection(tagsPackage="site-a"), work)) == [
        'connections.line1.tagsPackage = "site-a" cannot be read: its work folder belongs to another user: '
        "let io.sluice.Tags.site-a and this component run as the same one (runWith.posixUser) (it gives no tags)"
    ]


@pytest.mark.parametrize("name", ["../x", "a b", "io.sluice.Tags.", "-x", "x" * 65])
def test_a_name_that_no_package_can_have_is_refused(name: str) -> None:
    raw = {"connections": {"line1": {"endpoint": "opc.tcp://127.0.0.1:4840", "tagsPackage": name}}}
    [problem] = load(Configuration, raw).problems
    assert problem.path == "connections.line1.tagsPackage"
    assert problem.problem == "is no name of a tag package"


def test_a_tag_is_taken_from_the_configuration_then_the_file_then_the_package(work: Path) -> None:
    (work / "tags.csv").write_text("tag,node\nA,i=21\nB,i=22\nc,i=23\n")
    install(work, "tag,node\nA,i=31\nB,i=32\nC,i=33\nD,i=34\n")
    settings = connection(tagsFile="tags.csv", tagsPackage="site-a", tags={"A": {"node": "i=11"}})
    found = select("line1", settings, work)
    assert nodes(found) == {"A": "i=11", "B": "i=22", "c": "i=23", "D": "i=34"}
    assert {name: tag.setting for name, tag in found.tags.items()} == {
        "A": "tags",
        "B": "tagsFile",
        "c": "tagsFile",
        "D": "tagsPackage",
    }
    [problem] = told(found)
    assert (
        "is the same name as c in tagsFile, but for upper and lower case (line 4 of io.sluice.Tags.site-a)" in problem
    )


# --- what is kept ---


def test_the_tags_of_a_table_that_is_gone_go_on_also_after_a_restart(work: Path) -> None:
    path = install(work, "tag,node,unit\nT,i=1,bar\nU,i=2,\n")
    settings = connection(tagsPackage="site-a")
    before = select("line1", settings, work, keep=True)
    for broken in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(b"PK\x03\x04")):
        broken()
        found = select("line1", settings, work, keep=True)
        assert found.tags == before.tags
        [problem] = found.problems
        assert problem.effect == "the 2 tags that it gave last go on"
    install(work, "tag,node\nV,i=3\n")
    found = select("line1", settings, work, keep=True)
    assert nodes(found) == {"V": "i=3"}
    assert not found.problems


def test_a_row_that_has_become_wrong_goes_on_as_it_was(work: Path) -> None:
    (work / "tags.csv").write_text("tag,node\nT,i=1\nU,i=2\nGone,i=3\n")
    settings = connection(tagsFile="tags.csv")
    select("line1", settings, work, keep=True)
    for _ in range(2):  # the second time from what is kept of the first
        (work / "tags.csv").write_text("tag,node\nT,nonsense\nU,i=22\n")
        found = select("line1", settings, work, keep=True)
        assert nodes(found) == {"T": "i=1", "U": "i=22"}
        [problem] = found.problems
        assert problem.effect == "the last good form of connections.line1.tagsFile.T keeps running"


def test_what_is_kept_is_for_its_owner_and_goes_with_its_connection(work: Path) -> None:
    (work / "tags.csv").write_text("tag,node\nT,i=1\n")
    install(work, "tag,node\nU,i=2\n")
    both = connection(tagsFile="tags.csv", tagsPackage="site-a")
    select("line1", both, work, keep=True)
    select("line2", both, work, keep=True)
    kept = sorted((work / "tags").iterdir())
    assert len(kept) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    select("line1", connection(tagsFile="tags.csv"), work, keep=True)
    forget("line2", work)
    assert [path.name for path in (work / "tags").iterdir()] == ["tagsFile.line1.json"]


def test_what_is_kept_of_connections_that_went_while_nobody_ran_goes_at_the_next_start(work: Path) -> None:
    """On nucleus lite every change of the configuration is one while nobody runs."""
    (work / "tags").mkdir()
    (work / "tags" / "mine.csv").write_text("tag,node\nT,i=1\n")  # an engineer's own
    settings = connection(tagsFile="tags/mine.csv")
    for name in ("line1", "line2", "line3"):
        select(name, settings, work, keep=True)
    forget_others(["line2"], work)
    assert sorted(path.name for path in (work / "tags").iterdir()) == ["mine.csv", "tagsFile.line2.json"]
    forget_others([], work / "nowhere")


@pytest.mark.parametrize("damage", [b"", b"[1]", b"\xff", b'{"T": 5, "U": {"node": "nonsense"}}'])
def test_what_is_kept_may_be_damaged(work: Path, damage: bytes) -> None:
    (work / "tags").mkdir()
    (work / "tags" / "tagsFile.line1.json").write_bytes(damage)
    found = select("line1", connection(tagsFile="tags.csv"), work, keep=True)
    assert not found.tags
    assert len(found.problems) == 1


def test_nothing_is_written_when_nothing_has_changed_or_nothing_is_to_be_kept(work: Path) -> None:
    (work / "tags.csv").write_text("tag,node\nT,i=1\n")
    settings = connection(tagsFile="tags.csv")
    select("line1", settings, work)
    assert not (work / "tags").exists()
    select("line1", settings, work, keep=True)
    before = (work / "tags" / "tagsFile.line1.json").stat()
    select("line1", settings, work, keep=True)
    assert (work / "tags" / "tagsFile.line1.json").stat() == before


def test_stamps_differ_when_a_table_comes_goes_or_is_replaced(work: Path) -> None:
    settings = connection(tagsFile="tags.csv", tagsPackage="site-a")
    seen = {stamps(settings, work)}
    install(work, "tag,node\nT,i=1\n")
    seen.add(stamps(settings, work))
    install(work, "tag,node\nT,i=2\n")
    seen.add(stamps(settings, work))
    (work / "tags.csv").write_text("tag,node\n")
    seen.add(stamps(settings, work))
    assert len(seen) == 4
    assert select("line1", settings, work).stamps == stamps(settings, work)


# --- how long it takes ---


def table_of(rows: int) -> str:
    return HEADER + "".join(f"Area/T{n},nsu=urn:x;s=T{n},,,degC,\n" for n in range(rows))


def test_ten_thousand_tags_are_read_in_a_blink(work: Path) -> None:
    (work / "tags.csv").write_text(table_of(10_000))
    began = time.process_time()
    found = select("line1", connection(tagsFile="tags.csv"), work)
    assert time.process_time() - began < 1.5  # measured: 0.13 s
    assert len(found.tags) == 10_000
    assert not found.problems


def test_ten_thousand_wrong_rows_are_told_as_a_thousand() -> None:
    found = parse(table_of(10_000).replace("nsu=", "x").encode(), ("tags",), "tags.csv")
    assert not found.tags
    assert len(found.problems) == 1_001
    assert found.problems[-1].problem == "has 9000 more problems"


def test_a_table_that_is_none_is_an_error_for_who_reads_it_alone() -> None:
    with pytest.raises(TableError):
        parse(b"", (), "tags.csv")


def test_a_group_that_nobody_knows_is_told_once_with_its_rows(work: Path) -> None:
    """Many tables have a column of that name for people."""
    rows = [f"T{number},i={number},{'Boiler' if number % 2 else 'Pump'}" for number in range(1, 5001)]
    (work / "tags.csv").write_text("\n".join(["tag,node,group", *rows]))
    selection = select("line1", connection(tagsFile="tags.csv"), work)
    assert len(selection.tags) == 5000
    boiler, pump = told(selection)
    assert '= "Boiler" is no group of this connection, and 2499 more rows name it (line 2 of tags.csv)' in boiler
    assert '= "Pump" is no group of this connection, and 2499 more rows name it (line 3 of tags.csv)' in pump
