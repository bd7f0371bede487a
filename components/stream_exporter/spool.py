"""The folder in which files for S3 are written, sealed and kept until they are uploaded. Blocking file work.

A file is open (`.part`), then sealed: complete, flushed to the medium, renamed in one step, the folder flushed. A
marker beside it says that its export task was accepted. File and marker are deleted once stream manager reports
Success. All bytes of the folder together never exceed `max_bytes`.

All methods are called from one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from stream_exporter.s3 import OPEN_SUFFIX, SEALED_SUFFIX, TASKED_SUFFIX, FileName, whole

logger = logging.getLogger(__name__)


class SpoolFullError(Exception):
    """The folder holds as many bytes as it may."""


@dataclass(slots=True)
class OpenFile:
    """A file that is being written."""

    name: FileName
    descriptor: int
    opened: float  # monotonic seconds
    last: int  # number of the last batch written
    size: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A complete file. `samples` are those not accounted for yet."""

    name: FileName
    path: Path
    samples: int


class Spool:
    """The files of one sink."""

    def __init__(self, folder: Path, *, max_bytes: int, rotate_size: int, rotate_interval: float) -> None:
        self.bytes = 0  # of all files, open ones included
        self._folder = folder.absolute()
        self._max_bytes = max_bytes
        self._rotate_size = rotate_size
        self._rotate_interval = rotate_interval
        self._open: dict[str, OpenFile] = {}
        self._sealed: list[SealedFile] = []

    def recover(self) -> tuple[list[SealedFile], list[SealedFile]]:
        """What an earlier run left: (sealed without a marker, sealed with one), oldest first.

        Open files are cut after their last complete line and sealed. Foreign files are left alone. Raises OSError.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.glob(f"*{OPEN_SUFFIX}"):
            self._seal_left_behind(path)
        waiting: list[SealedFile] = []
        tasked: list[SealedFile] = []
        self.bytes = 0
        for path in sorted(self._folder.glob(f"*{SEALED_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns):
            name = FileName.parse(path.name)
            if name is None:
                continue
            content = path.read_bytes()
            self.bytes += len(content)
            known = self._marker(path.name).exists()
            (tasked if known else waiting).append(SealedFile(name, path, 0 if known else content.count(b"\n")))
        for marker in self._folder.glob(f"*{SEALED_SUFFIX}{TASKED_SUFFIX}"):
            if not marker.with_suffix("").exists():
                marker.unlink()
        return waiting, tasked

    def write(self, stream: str, epoch: str, first: int, last: int, lines: bytes, now_ns: int, now: float) -> None:
        """Add the lines of batches first … last to the stream's open file.

        A file that this range does not continue is sealed first, one that is large enough afterwards. All or nothing:
        raises OSError or SpoolFullError with nothing written of `lines`.
        """
        if self.bytes + len(lines) > self._max_bytes:
            raise SpoolFullError
        file = self._open.get(stream)
        if file is not None and (file.name.epoch != epoch or file.last + 1 != first):
            self._seal(stream)
            file = None
        if file is None:
            name = FileName.new(stream, epoch, first, now_ns)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(self._folder / str(name), flags, 0o600)
            file = self._open[stream] = OpenFile(name, descriptor, now, first)
        self._write_all(file, lines)
        file.last = last
        file.samples += lines.count(b"\n")

    def seal(self, now: float, *, everything: bool = False) -> list[SealedFile]:
        """Seal the files that are old or large enough, or all; returns all that were sealed since the last call.

        Raises OSError; what was sealed until then is returned by the next call.
        """
        for stream, file in list(self._open.items()):
            if everything or file.size >= self._rotate_size or now - file.opened >= self._rotate_interval:
                self._seal(stream)
        sealed, self._sealed = self._sealed, []
        return sealed

    def _seal(self, stream: str) -> None:
        file = self._open[stream]
        path = self._folder / str(file.name)
        if file.size:
            os.fsync(file.descriptor)
            name = file.name.sealed(file.last)
            target = self._folder / str(name)
            path.rename(target)
            self._sealed.append(SealedFile(name, target, file.samples))
        else:
            path.unlink()
        os.close(self._open.pop(stream).descriptor)
        self._sync_folder()

    def mark_tasked(self, file: SealedFile) -> None:
        """Remember that the file's task was accepted. Raises OSError."""
        self._marker(file.path.name).touch(mode=0o600)
        self._sync_folder()

    def delete(self, file: SealedFile) -> None:
        """Delete an uploaded file."""
        with contextlib.suppress(FileNotFoundError):
            size = file.path.stat().st_size
            file.path.unlink()
            self.bytes -= size
        self._marker(file.path.name).unlink(missing_ok=True)

    def _write_all(self, file: OpenFile, lines: bytes) -> None:
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(file.descriptor, rest) :]
        except OSError:
            # A full disk takes part of a write: take that back, so that the next attempt continues whole lines.
            os.ftruncate(file.descriptor, file.size)
            os.lseek(file.descriptor, file.size, os.SEEK_SET)
            raise
        file.size += len(lines)
        self.bytes += len(lines)

    def _seal_left_behind(self, path: Path) -> None:
        name = FileName.parse(path.name)
        if name is None:
            return
        content = path.read_bytes()
        kept = whole(content)
        if kept is None:
            if content:
                logger.warning("%s: %d bytes without one complete line are discarded", path.name, len(content))
            path.unlink()
            return
        if kept.size < len(content):
            logger.warning("%s: %d bytes of an incomplete line are cut off", path.name, len(content) - kept.size)
        with path.open("r+b") as file:
            file.truncate(kept.size)
            os.fsync(file.fileno())
        path.rename(self._folder / str(name.sealed(kept.last)))
        self._sync_folder()

    def _marker(self, name: str) -> Path:
        return self._folder / f"{name}{TASKED_SUFFIX}"

    def _sync_folder(self) -> None:
        """Bring renames to the medium. A failure is no reason to stop: it matters only if the power fails next."""
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("%s: the folder cannot be flushed (%s)", self._folder, error)
