"""What a power cut takes: the bytes of files that were written and never reached the medium.

The processes are dead and this machine runs on, so its page cache still holds all that they wrote. The kernel tells
which pages of it are dirty or on their way (cachestat(2), Linux 6.5): those a power cut would have lost. What each kind
of file loses:

    kind                        loses
    --------------------------  ------------------------------------------------------------------------------------
    SQLite's `<name>-wal`       every commit from the first one on none of whose pages was flushed
    SQLite's `<name>-shm`       everything: it is rebuilt when the database is opened
    SQLite's database           what its dirty pages say, which is garbage then: whoever synchronises rightly has the
                                same pages in the log still. With no log beside it, it is like any other file
    any other                   everything from its first dirty page on

Commits share pages: with SQLite's 4 KiB a commit is longer than one page, and was flushed when one of its pages
is clean. In other files the bytes of the first dirty page that were flushed before cannot be told from those that were
not, and are lost as well: pessimistic for whoever flushes after each line, exact for whoever flushes whole files. Names
stay, also those of files that are empty now: that a rename or a deletion may be undone is not modelled.

The kernel marks what it keeps in one piece: 4 KiB of what was written bit by bit, up to megabytes of what was read in
one go from files that had left the page cache. That too is pessimistic, and nothing that a core on a laptop meets: its
files are as young as the core.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096

_CACHESTAT = 451
_LIBC = ctypes.CDLL(None, use_errno=True)

_WAL_HEADER = struct.Struct(">4sIIIII8x")
_FRAME_HEADER = struct.Struct(">IIII8x")
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_DATABASE_MAGIC = b"SQLite format 3\0"
_GARBAGE = b"\xa5"


@dataclass(frozen=True, slots=True)
class Lost:
    """How much a power cut took: files that lost something, and the bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Lost) -> Lost:
        return Lost(self.files + other.files, self.bytes + other.bytes)

    def to_dict(self) -> dict[str, int]:
        """As JSON has it."""
        return {"files": self.files, "bytes": self.bytes}


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


def _is_dirty(file: int, first: int, pages: int) -> bool:
    """Whether any of the pages was written and not flushed. Raises OSError."""
    span, found = _Range(first * PAGE, pages * PAGE), _Cachestat()
    if _LIBC.syscall(_CACHESTAT, file, ctypes.byref(span), ctypes.byref(found), 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cachestat: {os.strerror(number)}")
    return bool(found.dirty or found.writeback)


def _dirty_pages(file: int, first: int, pages: int) -> Iterator[int]:
    if not pages or not _is_dirty(file, first, pages):
        return
    if pages == 1:
        yield first
        return
    half = pages // 2
    yield from _dirty_pages(file, first, half)
    yield from _dirty_pages(file, first + half, pages - half)


def unflushed(path: Path) -> list[int]:
    """The numbers of a file's pages that were written and not flushed, ascending. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return list(_dirty_pages(file, 0, -(-os.fstat(file).st_size // PAGE)))
    finally:
        os.close(file)


def why_not(folder: Path) -> str:
    """Why this machine does not tell what was flushed in a folder; empty when it does."""
    probe = folder / "powercut.probe"
    try:
        with probe.open("wb", buffering=0) as file:
            file.write(b"x")
            before = _is_dirty(file.fileno(), 0, 1)
            os.fsync(file.fileno())
            after = _is_dirty(file.fileno(), 0, 1)
    except OSError as error:
        return f"{error}: it takes Linux 6.5 or later"
    finally:
        probe.unlink(missing_ok=True)
    return (
        "" if before and not after else f"the file system of {folder} does not tell what was flushed: use ext4 or xfs"
    )


def look(folder: Path) -> dict[Path, list[int]]:
    """The files of a folder that have unflushed pages, and these. To be called soon: the kernel flushes by and by."""
    found: dict[Path, list[int]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if stat.S_ISREG(path.lstat().st_mode) and (pages := unflushed(path)):
                found[path] = pages
    return found


def discard(found: Mapping[Path, Sequence[int]]) -> Lost:
    """Take from the files what look() found unflushed, and bring what is left to the medium."""
    logged = [path for path in found if _has_log(path)]
    lost = Lost()
    for path, pages in found.items():
        if path.name.endswith("-shm"):
            path.unlink()
            continue
        with path.open("r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if path in logged:
                for page in pages:
                    file.seek(page * PAGE)
                    file.write(_GARBAGE * min(PAGE, size - page * PAGE))
                lost += Lost(1, len(pages) * PAGE)
            else:
                keep = wal_flushed(file.read(), pages) if path.name.endswith("-wal") else pages[0] * PAGE
                file.truncate(keep)
                lost += Lost(int(keep < size), size - keep)
            os.fsync(file.fileno())
    return lost


def _has_log(path: Path) -> bool:
    """Whether the file is an SQLite database whose changes are in a log beside it."""
    logs = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    if not any(log.exists() and log.stat().st_size for log in logs):
        return False
    with path.open("rb") as file:
        return file.read(len(_DATABASE_MAGIC)) == _DATABASE_MAGIC


def wal_flushed(log: bytes, dirty: Sequence[int]) -> int:
    """How many bytes of an SQLite write-ahead log are left: all up to the first commit that is dirty throughout."""
    if len(log) < _WAL_HEADER.size or log[:4] not in _WAL_MAGIC:
        return dirty[0] * PAGE
    _, _, page_size, _, *salts = _WAL_HEADER.unpack_from(log)
    lost = set(dirty)
    begin = end = _WAL_HEADER.size
    while end + _FRAME_HEADER.size + page_size <= len(log):
        _, database_pages, *frame_salts = _FRAME_HEADER.unpack_from(log, end)
        if frame_salts != salts:  # what is behind is of an earlier round, and in the database since
            break
        end += _FRAME_HEADER.size + page_size
        if database_pages:
            if lost.issuperset(range(begin // PAGE, (end - 1) // PAGE + 1)):
                return begin
            begin = end
    return len(log)
