"""The folder of files for S3: what is sealed is whole, what is not is gone after a restart."""

from __future__ import annotations

import errno
import gzip
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_exporter.lines import gzip_member
from stream_exporter.s3 import GZIP_SUFFIX, PLAIN_SUFFIX, FileName, task_status
from stream_exporter.spool import FileLostError, SealedFile, Spool

EPOCH = "9f2c51aa07be"
STREAM = "opcua-collector/line1"


def spool(folder: Path, **changes: Any) -> Spool:
    """A spool that seals nothing by itself, recovered."""
    made = Spool(folder, **{"max_bytes": 10**9, "rotate_size": 10**9, "rotate_interval": 1e9, **changes})
    made.recover()
    return made


def write(spool: Spool, first: int, last: int, lines: bytes = b"a\nb\n", *, stream: str = STREAM, **at: Any) -> None:
    where = {"epoch": EPOCH, "now_ns": 1_769_860_800 * 10**9, "now": 0.0, **at}
    epoch = where.pop("epoch")
    content = gzip_member(lines) if spool._suffix == GZIP_SUFFIX else lines
    spool.write(stream, epoch, first, last, content, lines.count(b"\n"), **where)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(error: int) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    return fail


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["opcua-collector/line1", "a.b/c_d-e/backfill", "x/y"])
@pytest.mark.parametrize("suffix", [GZIP_SUFFIX, PLAIN_SUFFIX])
def test_a_file_name_says_all_that_its_key_needs(stream: str, suffix: str) -> None:
    name = FileName.new(stream, EPOCH, 7, 1_769_860_800_000_000_000)
    sealed = name.sealed(12, suffix)

    assert FileName.parse(str(name)) == name
    assert name.opened_ns == 1_769_860_800_000_000_000
    assert FileName.parse(str(sealed)) == sealed
    assert sealed.key("p/") == f"p/{stream}/2026/01/31/9f2c51aa07be-20260131T120000Z-7-12{suffix}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.jsonl",
        "x~y~9f2c51aa07be~20260131T120000Z~7.jsonl",
        "x~y~9f2c51aa07be~20260131T120000Z~7-8.jsonl.zst",
        "x~y~9f2c51aa07be~20260131T120000Z~7-8.part",
        "x~y~9~20260131T120000Z~7.part",
        "../x.part",
    ],
)
def test_a_foreign_file_name_is_not_read_as_ours(name: str) -> None:
    assert FileName.parse(name) is None


def test_a_status_that_is_none_is_told_apart() -> None:
    for message in (b"", b"null", b'{"statusContext":{"s3ExportTaskDefinition":{"inputUrl":7}},"status":0}'):
        assert task_status(message) is None


# --- writing and sealing ----------------------------------------------------------------------------------------------


def test_a_sealed_file_holds_what_was_written_to_it_in_order(tmp_path: Path) -> None:
    files = spool(tmp_path)
    write(files, 1, 3, b"1\n2\n")
    write(files, 4, 4, b"3\n")
    size = files.bytes

    (sealed,) = files.seal(0.0, everything=True)

    assert names(tmp_path) == ["opcua-collector~line1~9f2c51aa07be~20260131T120000Z~1-4.jsonl.gz"]
    assert gzip.decompress(files.path(sealed.name).read_bytes()) == b"1\n2\n3\n"
    assert sealed.size == files.bytes == size
    assert files.measure(sealed.name) == sealed == SealedFile(sealed.name, size, 3)
    assert files.seal(9.0, everything=True) == [], "told once"


def test_a_file_is_sealed_when_it_is_old_or_large(tmp_path: Path) -> None:
    files = spool(tmp_path, rotate_size=6, rotate_interval=60.0, suffix=PLAIN_SUFFIX)
    write(files, 1, 1, now=0.0)
    assert files.seal(59.0) == []
    assert [sealed.name.first for sealed in files.seal(60.0)] == [1]

    write(files, 2, 2, now=60.0)
    write(files, 3, 3, now=60.0)
    assert [sealed.name.last for sealed in files.seal(60.0)] == [3]


@pytest.mark.parametrize("change", [{"first": 4, "last": 4}, {"first": 3, "last": 3, "epoch": "0123456789ab"}])
def test_a_range_that_does_not_continue_a_file_begins_another(tmp_path: Path, change: dict[str, Any]) -> None:
    files = spool(tmp_path, suffix=PLAIN_SUFFIX)
    write(files, 1, 2)
    write(files, **change)
    write(files, 1, 1, stream="opcua-collector/line2")

    found = [(sealed.name.stream, sealed.name.first, sealed.name.last) for sealed in files.seal(0.0, everything=True)]

    assert found == [
        (STREAM, 1, 2),
        (STREAM, change["first"], change["last"]),
        ("opcua-collector/line2", 1, 1),
    ]


def test_one_stream_is_sealed_alone(tmp_path: Path) -> None:
    files = spool(tmp_path)
    write(files, 1, 2)
    write(files, 1, 1, stream="opcua-collector/line2")

    assert [sealed.name.stream for sealed in files.seal_stream(STREAM)] == [STREAM]
    assert files.seal_stream("unknown/stream") == []


def test_what_is_given_up_is_gone_and_may_be_written_again(tmp_path: Path) -> None:
    files = spool(tmp_path)
    write(files, 5, 9)
    assert not files.due(1.0)
    assert files.due(1e10)
    files.discard()
    assert (names(tmp_path), files.bytes) == ([], 0)

    write(files, 5, 7)

    assert [sealed.name.last for sealed in files.seal(0.0, everything=True)] == [7]


def test_the_folder_is_bounded_and_takes_any_range_when_it_is_empty(tmp_path: Path) -> None:
    files = spool(tmp_path, max_bytes=6, suffix=PLAIN_SUFFIX)
    assert files.fits(1000)
    write(files, 1, 1)
    assert files.fits(2)
    assert not files.fits(3)
    write(files, 2, 2, b"c\n")
    assert not files.has_room
    assert files.due(0.0), "or it would never have room again"

    (sealed,) = files.seal(0.0)
    files.delete(sealed.name)
    files.delete(sealed.name)

    assert files.bytes == 0
    assert names(tmp_path) == []


# --- disks that fail --------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_whole_writes_and_takes_the_rest_later(tmp_path: Path) -> None:
    files = spool(tmp_path, suffix=PLAIN_SUFFIX)
    write(files, 1, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(files, 2, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files.bytes == 4

    write(files, 2, 2, b"c\nd\n")

    (sealed,) = files.seal(0.0, everything=True)
    assert files.path(sealed.name).read_bytes() == b"a\nb\nc\nd\n"


def test_a_file_that_cannot_be_flushed_is_given_up_because_a_second_flush_would_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = spool(tmp_path)
    write(files, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(FileLostError) as lost:
            files.seal(0.0, everything=True)

    assert (lost.value.name.stream, lost.value.name.epoch, lost.value.name.first) == (STREAM, EPOCH, 1)
    assert names(tmp_path) == []
    assert files.bytes == 0
    assert files.seal(0.0, everything=True) == []
    write(files, 1, 2)
    assert len(files.seal(0.0, everything=True)) == 1


def test_an_open_file_that_somebody_deleted_is_given_up_instead_of_being_waited_for(tmp_path: Path) -> None:
    files = spool(tmp_path / "files")
    write(files, 1, 2)
    (part,) = (tmp_path / "files").iterdir()
    part.unlink()
    with pytest.raises(FileLostError):
        files.seal(0.0, everything=True)
    assert (files.bytes, files.seal(0.0, everything=True)) == (0, [])


def test_a_folder_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    files = spool(tmp_path / "files")
    (tmp_path / "files").rmdir()
    write(files, 1, 2)
    (sealed,) = files.seal(0.0, everything=True)
    assert names(tmp_path / "files") == [str(sealed.name)]


def test_a_file_is_not_told_before_its_new_name_is_on_the_medium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = spool(tmp_path)
    write(files, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "_flush_folder", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            files.seal(0.0, everything=True)

    assert [sealed.name.last for sealed in files.seal(0.0)] == [2]


# --- an earlier run ---------------------------------------------------------------------------------------------------


def test_open_files_of_an_earlier_run_are_deleted_and_foreign_ones_stay(tmp_path: Path) -> None:
    first = spool(tmp_path)
    write(first, 1, 2)
    first.seal(0.0, everything=True)
    write(first, 3, 4)
    first.close()
    (tmp_path / "notes.part").write_text("not ours")

    second = Spool(tmp_path, max_bytes=10, rotate_size=1, rotate_interval=1.0)

    assert [(name.first, name.last) for name in second.recover()] == [(1, 2)]
    assert second.bytes == len(gzip_member(b"a\nb\n"))
    assert names(tmp_path) == ["notes.part", "opcua-collector~line1~9f2c51aa07be~20260131T120000Z~1-2.jsonl.gz"]


def test_lines_of_a_plain_file_are_counted_too(tmp_path: Path) -> None:
    files = spool(tmp_path, suffix=PLAIN_SUFFIX)
    write(files, 1, 2, b"a\nb\nc\n")
    (sealed,) = files.seal(0.0, everything=True)

    assert files.measure(sealed.name) == sealed


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([STREAM, "opcua-collector/line2"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["skip", "epoch"]), st.sampled_from([STREAM, "opcua-collector/line2"])),
        st.tuples(st.sampled_from(["seal", "seal all", "kill"])),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_sealed_files_hold_each_range_once_and_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """What is told as sealed is there after any kill, and nothing else; a range is what was written since the last."""
    folder = tmp_path_factory.mktemp("spool")
    limits: dict[str, Any] = {"rotate_size": 20, "rotate_interval": 1e9, "suffix": PLAIN_SUFFIX}
    files = spool(folder, **limits)
    told: list[SealedFile] = []
    at = {STREAM: (EPOCH, 1), "opcua-collector/line2": (EPOCH, 1)}
    for number, (action, *arguments) in enumerate(steps):
        match action:
            case "write":
                stream, count = arguments
                epoch, first = at[stream]
                content = b"".join(b"%d\n" % seq for seq in range(first, first + count))
                now_ns = number * 10**9
                files.write(stream, epoch, first, first + count - 1, content, count, now_ns=now_ns, now=0.0)
                at[stream] = epoch, first + count
            case "skip":
                at[arguments[0]] = at[arguments[0]][0], at[arguments[0]][1] + 5
            case "epoch":
                at[arguments[0]] = f"{number:012x}", 1
            case "kill":
                told += files.seal(0.0)
                files.close()
                files = Spool(folder, max_bytes=10**9, **limits)
                assert sorted(map(str, files.recover())) == sorted(str(sealed.name) for sealed in told)
            case _:
                told += files.seal(0.0, everything=action == "seal all")

    assert len({str(sealed.name) for sealed in told}) == len(told)
    for sealed in told:
        assert sealed.name.last is not None
        numbers = range(sealed.name.first, sealed.name.last + 1)
        content = files.path(sealed.name).read_bytes()
        assert content == b"".join(b"%d\n" % seq for seq in numbers)
        assert (sealed.size, sealed.samples) == (len(content), len(numbers))
    covered = [(sealed.name.stream, sealed.name.epoch, sealed.name.first, sealed.name.last) for sealed in told]
    for stream, epoch, first, _ in covered:
        assert sum(1 for other in covered if other[:2] == (stream, epoch) and other[2] <= first <= (other[3] or 0)) == 1
