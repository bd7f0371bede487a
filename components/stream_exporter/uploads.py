"""What becomes of the files of the S3 sink between their sealing and their export. No I/O: times are passed in.

Theory of operation
-------------------
A sealed file and its unit's row tell everything after a restart; nothing else is kept. `recover` compares the two:

    row          file    was                                            then
    tasked       there   waiting for its Success                        is waited for
    tasked       gone    deleted after its Success                      exported
    sealed       there   killed before its task was known               tasked
    sealed       gone    somebody deleted it, nothing was tasked        its range counts again, and all that follow it
    none         there   killed before its row was written              adopted if its range comes next, else deleted

(sealed: the row has no task number; tasked: it has.) Row and cursor are written in one transaction. Files are tasked in
the order of their numbers, so that of one stream no file is tasked before an earlier one.

A tasked file waits for its Success, which may never come: the status stream is a message stream that loses its oldest
messages, and in a power cut its newest; the stream of tasks may lose its tail too, or be made anew. An order may be
given again at any time, for it writes the same bytes to the same key. It is given again when

    a Failure or a Canceled is told               after 15 s, then after twice as long, up to 10 min
    the stream has lost the task's number         at once
    the task is exported, and nothing was told    30 s after that was first seen

A late Failure of an order that was given twice finds its file deleted, and says nothing then. A Success may be told
of a file whose task is not known to be there: the writer was killed between the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stream_exporter.s3 import FileName, TaskStatus
from stream_exporter.units import Key, Unit

#: A failed upload is ordered again after this many seconds, then after twice as long, up to the longest.
FIRST_PAUSE = 15.0
LONGEST_PAUSE = 600.0

#: Seconds for which the word about an exported task is waited for.
SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an earlier run left, and what is to be done about it."""

    tasked: tuple[Unit, ...]  # to be waited for
    sealed: tuple[Unit, ...]  # to be tasked, in order
    adopted: tuple[FileName, ...]  # to be given rows, in this order, and to be tasked after those
    exported: tuple[Unit, ...]
    undone: tuple[Unit, ...]
    cursors: Mapping[Key, int]  # of the streams of what is undone
    deleted: tuple[FileName, ...]  # files to be deleted


def recover(units: Collection[Unit], files: Collection[FileName], cursors: Mapping[Key, int]) -> Recovered:
    """Compare rows (in the order of their numbers) with sealed files; `cursors` as in the store."""
    present = {str(name): name for name in files}
    tasked: list[Unit] = []
    sealed: list[Unit] = []
    exported: list[Unit] = []
    undone: list[Unit] = []
    back: dict[Key, int] = {}
    for unit in units:
        there = unit.settings in present
        if unit.newest is not None:
            (tasked if there else exported).append(unit)
        elif there and unit.key not in back:
            sealed.append(unit)
        else:
            undone.append(unit)
            back.setdefault(unit.key, unit.first)
            continue
        present.pop(unit.settings, None)
    next_numbers = dict(cursors)
    adopted = []
    for name in sorted(present.values(), key=lambda name: (name.stream, name.epoch, name.first)):
        key = (name.stream, name.epoch)
        if name.last is not None and name.first == next_numbers.get(key) and key not in back:
            adopted.append(name)
            next_numbers[key] = name.last + 1
    deleted = [name for name in present.values() if name not in adopted]
    return Recovered(tuple(tasked), tuple(sealed), tuple(adopted), tuple(exported), tuple(undone), back, tuple(deleted))


@dataclass(slots=True)
class _Upload:
    """One file."""

    unit: Unit
    number: int | None  # of its last task, if the stream has it
    exported_at: float | None = None  # when the stream was first seen to be behind the task
    again_at: float | None = None  # when it is to be ordered again
    pause: float = 0.0  # that led there
    failed: bool = False  # what was told last
    ordered: bool = False  # for the first time, or again: `add` comes next


@dataclass(slots=True)
class Uploads:
    """Files that are sealed and have their rows, until their Success."""

    first_pause: float = FIRST_PAUSE
    silence: float = SILENCE
    _uploads: dict[str, _Upload] = field(default_factory=dict)  # by file name

    def __len__(self) -> int:
        return len(self._uploads)

    def __contains__(self, file: str) -> bool:
        return file in self._uploads

    def waits(self, file: str) -> bool:
        """Whether the file is to be tasked, for the first time or again."""
        upload = self._uploads.get(file)
        return upload is not None and upload.ordered

    @property
    def failing(self) -> bool:
        """Whether the last word on any of the files is a failure."""
        return any(upload.failed for upload in self._uploads.values())

    def tasked(self) -> list[tuple[int, Unit]]:
        """The files whose tasks are in the stream, with the numbers of their tasks and in their order."""
        found = [(upload.number, upload.unit) for upload in self._uploads.values() if upload.number is not None]
        return sorted(found, key=lambda each: each[0])

    def add(self, unit: Unit) -> None:
        """The unit's file is about to be tasked, or has just been: as number `unit.newest`."""
        known = self._uploads.setdefault(unit.settings, _Upload(unit, None))
        known.unit, known.number = unit, unit.newest
        known.exported_at = known.again_at = None
        known.ordered = unit.newest is None

    def tell(self, status: TaskStatus, now: float) -> Unit | None:
        """Stream manager says something about a file. With Success its unit: it is not waited for any more."""
        upload = self._uploads.get(status.file)
        if upload is None:
            return None  # of another user of the stream, or settled before
        if status.outcome == "success":
            return self._uploads.pop(status.file).unit
        if status.outcome in ("failure", "canceled"):
            upload.failed = True
            upload.pause = min(upload.pause * 2 or self.first_pause, LONGEST_PAUSE)
            upload.again_at = now + upload.pause
        return None

    def look(self, exported: int, now: float) -> None:
        """The stream is exported up to this number."""
        for upload in self._uploads.values():
            if upload.number is None or upload.number > exported:
                upload.exported_at = None
            elif upload.exported_at is None:
                upload.exported_at = now
            elif upload.again_at is None and now - upload.exported_at >= self.silence:
                upload.again_at = now

    def lose(self, after: int, now: float) -> None:
        """The stream has lost everything behind this number."""
        for upload in self._uploads.values():
            if upload.number is not None and upload.number > after:
                upload.number, upload.again_at = None, now

    def due(self, now: float) -> list[Unit]:
        """Units to be ordered again now; each is told once, until `add` says that it was done."""
        found = []
        for upload in self._uploads.values():
            if upload.again_at is not None and upload.again_at <= now and not upload.ordered:
                upload.ordered = True
                found.append(upload.unit)
        return found
