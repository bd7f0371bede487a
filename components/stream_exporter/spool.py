"""The folder in which files for S3 are written, sealed and kept until they are uploaded. Blocking file work.

A file is one contiguous range of one stream. It is open (`.part`), then sealed: complete, flushed to the medium,
renamed in one step, the folder flushed. Until then nothing in it counts: what a killed writer left open is deleted at
the next start, for its range is read again from the producer's outbox.

    FileLostError (OSError)     an open file cannot be brought to the medium and is deleted: its range counts again

Every other OSError leaves all as it was: the same call may be made again. All methods are called from one thread.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from stream_exporter.s3 import GZIP_SUFFIX, FileName

logger = logging.getLogger(__name__)


class FileLostError(OSError):
    """The open file called `name` was given up."""

    def __init__(self, name: FileName, error: OSError) -> None:
        super().__init__(error.errno, error.strerror, str(name))
        self.name = name


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
    """A complete file."""

    name: FileName
    size: int
    samples: int


class Spool:
    """The files of one sink. `suffix` is that of sealed files and says what is written to them (`s3.py`)."""

    def __init__(
        self, folder: Path, *, max_bytes: int, rotate_size: int, rotate_interval: float, suffix: str = GZIP_SUFFIX
    ) -> None:
        self.bytes = 0  # of all files, open ones included
        self._folder = folder.absolute()
        self._max_bytes = max_bytes
        self._rotate_size = rotate_size
        self._rotate_interval = rotate_interval
        self._suffix = suffix
        self._open: dict[str, OpenFile] = {}
        self._renamed: list[SealedFile] = []  # sealed, but for flushing the folder

    def recover(self) -> list[FileName]:
        """The sealed files that an earlier run left. Its open ones are deleted; foreign files are left alone."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sealed = []
        self.bytes = 0
        for path in self._folder.iterdir():
            name = FileName.parse(path.name)
            if name is None:
                continue
            if name.last is None:
                path.unlink()
            else:
                self.bytes += path.stat().st_size
                sealed.append(name)
        return sealed

    def discard(self) -> list[SealedFile]:
        """Give up what is open: it comes again. Returns what was sealed since the last call of `seal`."""
        for file in list(self._open.values()):
            self._give_up(file)
        return self._settle()

    def path(self, name: FileName) -> Path:
        """Where a file is."""
        return self._folder / str(name)

    def measure(self, name: FileName) -> SealedFile:
        """A sealed file of an earlier run; it is read to count its lines."""
        path = self.path(name)
        with gzip.open(path) if name.suffix == GZIP_SUFFIX else path.open("rb") as file:
            samples = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        return SealedFile(name, path.stat().st_size, samples)

    @property
    def has_room(self) -> bool:
        """Whether less is stored than may be."""
        return self.bytes < self._max_bytes

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be written. An empty folder takes any range, or none would ever pass."""
        return self.bytes + size <= self._max_bytes or not self.bytes

    def write(
        self, stream: str, epoch: str, first: int, last: int, content: bytes, samples: int, *, now_ns: int, now: float
    ) -> None:
        """Add batches first … last to the stream's open file; a file that they do not continue is sealed first.

        All or nothing.
        """
        file = self._open.get(stream)
        if file is not None and (file.name.epoch != epoch or file.last + 1 != first):
            self._seal(file)
            file = None
        if file is None:
            name = FileName.new(stream, epoch, first, now_ns)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have deleted it
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(self.path(name), flags, 0o600)
            file = self._open[stream] = OpenFile(name, descriptor, now, first - 1)
        self._write_all(file, content)
        file.last = last
        file.samples += samples

    def due(self, now: float) -> bool:
        """Whether a file is to be sealed. May be asked from another thread."""
        return any(self._is_due(file, now) for file in list(self._open.values()))

    def seal(self, now: float, *, everything: bool = False) -> list[SealedFile]:
        """Seal the files that are old or large enough, or all; all too when there is no room, so that there will be.

        Returns what was sealed since the last call.
        """
        for file in list(self._open.values()):
            if everything or self._is_due(file, now):
                self._seal(file)
        return self._settle()

    def seal_stream(self, stream: str) -> list[SealedFile]:
        """Seal what is open of one stream; returns all that were sealed since the last call."""
        if stream in self._open:
            self._seal(self._open[stream])
        return self._settle()

    def delete(self, name: FileName) -> None:
        """Delete a sealed file."""
        with contextlib.suppress(FileNotFoundError):
            size = self.path(name).stat().st_size
            self.path(name).unlink()
            self.bytes -= size

    def close(self) -> None:
        """Let go of the open files; they stay as a killed writer leaves them."""
        for file in self._open.values():
            os.close(file.descriptor)
        self._open.clear()

    def _settle(self) -> list[SealedFile]:
        if self._renamed:
            self._flush_folder()
        sealed, self._renamed = self._renamed, []
        return sealed

    def _is_due(self, file: OpenFile, now: float) -> bool:
        old = now - file.opened >= self._rotate_interval
        return old or file.size >= self._rotate_size or not self.has_room

    def _seal(self, file: OpenFile) -> None:
        sealed = file.name.sealed(file.last, self._suffix)
        if not file.size:  # only when its first write failed
            self._give_up(file)
            return
        try:
            os.fsync(file.descriptor)
        except OSError as error:
            # What of it is on the medium is not known from here on, and another fsync would say that all is well.
            self._give_up(file)
            raise FileLostError(file.name, error) from error
        try:
            self.path(file.name).rename(self.path(sealed))
        except FileNotFoundError as error:  # somebody deleted it: another attempt would not find it either
            self._give_up(file)
            raise FileLostError(file.name, error) from error
        del self._open[file.name.stream]
        os.close(file.descriptor)
        self._renamed.append(SealedFile(sealed, file.size, file.samples))

    def _write_all(self, file: OpenFile, content: bytes) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(file.descriptor, rest) :]
        except OSError as error:
            # A full disk takes part of a write: take that back, so that the next attempt continues whole lines.
            try:
                os.ftruncate(file.descriptor, file.size)
                os.lseek(file.descriptor, file.size, os.SEEK_SET)
            except OSError:
                self._give_up(file)
                raise FileLostError(file.name, error) from error
            raise
        file.size += len(content)
        self.bytes += len(content)

    def _give_up(self, file: OpenFile) -> None:
        del self._open[file.name.stream]
        self.bytes -= file.size
        with contextlib.suppress(OSError):
            os.close(file.descriptor)
        with contextlib.suppress(OSError):  # one that stays is deleted at the next start
            self.path(file.name).unlink()

    def _flush_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
