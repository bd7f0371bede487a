"""Sinks whose data travels in the messages themselves: SiteWise entries and Kinesis records.

Each range becomes a unit (see `units`). A pack's units are intended together, appended one after the other, and
committed as they are done; a commit is not waited for, the next pack's intent is: one durable wait per pack.

What an earlier run left incomplete is *parked*: what of it stands in the stream is counted, and noted, before anything
else is appended. It is completed when its range has come again, with the settings and the decision time that it was
begun with, so that the same messages are made, and behind whatever was appended meanwhile.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sluice import crash
from stream_exporter.messages import Encoded, Encoder, Message, samples_in
from stream_exporter.pipe import MESSAGE_OVERHEAD, Pipe, Stopped, StreamReset, until_set
from stream_exporter.ranges import Range
from stream_exporter.remedies import Destination
from stream_exporter.sink import Sink, Terms
from stream_exporter.stream_client import StreamClient
from stream_exporter.streams import StreamPlan
from stream_exporter.units import Key, Unit, UnitStore

logger = logging.getLogger(__name__)

#: Units that may wait for their export: each is a row, and an entry in memory.
MAX_UNITS = 20_000

#: Encoders of earlier settings that are kept made.
MAX_ENCODERS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """Where to and how. `settings` is JSON from which `encoder` and `plan` make the same again, whenever."""

    settings: str
    encoder: Callable[[str], Encoder]
    plan: Callable[[str], StreamPlan]
    destination: Destination
    filter_remedies: Mapping[str, str]  # what to do about each reason to filter


@dataclass(slots=True)
class _Work:
    """A range on its way. Without `unit` it only moves the cursor."""

    of: Range
    encoded: Encoded
    unit: Unit | None = None
    messages: Sequence[Message] = ()  # that are to be appended


class AppendingSink(Sink):
    """Encodes ranges and appends the messages."""

    def __init__(self, name: str, client: StreamClient, store: UnitStore, target: Target, terms: Terms) -> None:
        super().__init__(name, client, store, terms)
        self._target = target
        plan = target.plan(target.settings)
        self._stream = plan.name
        self.pipe = self._make_pipe(plan, mend=True)
        self._pipes = {plan.name: self.pipe}  # and of streams that are only emptied
        self._pipe_of_settings = {target.settings: self.pipe}
        self._encoders: dict[str, Encoder] = {}
        self._read: Counter[bytes] = Counter()  # what stands in the streams of units that were being appended
        self._read_for: set[int] = set()  # of these units nothing else is there

    def status(self) -> dict[str, Any]:
        """With the latest filtered sample of each reason, and its remedy."""
        status = super().status()
        if len(self._pipes) > 1:
            status["emptied_streams"] = [pipe.status() for pipe in self._pipes.values() if pipe is not self.pipe]
        if self._examples:
            status["filtered"] = {
                reason: {"example": example, "remedy": self._target.filter_remedies.get(reason, "")}
                for reason, example in self._examples.items()
            }
        return status

    def _make_pipe(self, plan: StreamPlan, *, mend: bool) -> Pipe:
        target = self._target.destination
        return Pipe((plan,), self._client, self.conditions, target, self.stopping, report_export=mend, mend=mend)

    def _pipe_of(self, unit: Unit) -> Pipe:
        pipe = self._pipe_of_settings.get(unit.settings)
        if pipe is None:
            plan = self._target.plan(unit.settings)
            pipe = self._pipes.get(plan.name)
            if pipe is None:
                pipe = self._pipes[plan.name] = self._make_pipe(plan, mend=False)
            self._pipe_of_settings[unit.settings] = pipe
        return pipe

    def lost(self) -> bool:
        """Whether one of the streams lost what was appended to it."""
        return any(pipe.lost_after is not None for pipe in self._pipes.values())

    def _encoder(self, settings: str) -> Encoder:
        encoder = self._encoders.get(settings)
        if encoder is None:
            if len(self._encoders) >= MAX_ENCODERS:
                self._encoders.clear()
            encoder = self._encoders[settings] = self._target.encoder(settings)
        return encoder

    # --- what an earlier run left -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Find out what is in the streams, and take back what they lost."""
        of_stream: dict[Pipe, list[Unit]] = {self.pipe: []}
        for unit in self.store.units(self.name):
            of_stream.setdefault(self._pipe_of(unit), []).append(unit)
        self._pending = {}
        self._read.clear()
        self._read_for.clear()
        for pipe, units in of_stream.items():
            await self._prepare_stream(pipe, units)

    async def _prepare_stream(self, pipe: Pipe, units: Sequence[Unit]) -> None:
        begun = min((unit.noted for unit in units if _is_begun(unit)), default=-1)
        known = {unit.number: begun if _is_begun(unit) else _or(unit.newest, unit.noted) for unit in units}
        pipe.expect(max(known.values(), default=-1))
        newest = await pipe.ready()
        lost = [unit for unit in units if pipe.gone or known[unit.number] > newest]
        if lost:
            # Of these the first messages are still there: they are found there, and not appended again.
            parts = [unit for unit in lost if unit.newest is not None and unit.noted < newest and not pipe.gone]
            await self._undo(lost, [replace(unit, newest=None) for unit in parts])
        if pipe.lost_after is not None:
            if pipe.lost_after < newest:
                raise StreamReset  # even more was lost meanwhile
            pipe.restart(())
            await pipe.ready()
        units = [unit for unit in self.store.units(self.name) if self._pipe_of(unit) is pipe]
        if any(map(_is_begun, units)):
            await self._park([unit for unit in units if _is_begun(unit)], pipe)
            units = [unit for unit in self.store.units(self.name) if self._pipe_of(unit) is pipe]
        pipe.account((_or(unit.newest, pipe.newest), unit.bytes + MESSAGE_OVERHEAD * unit.messages) for unit in units)
        for unit in units:
            if unit.newest is None:
                self._pending.setdefault(unit.key, deque()).append(unit)

    async def _park(self, units: Sequence[Unit], pipe: Pipe) -> None:
        """Note how much of each unit is in the stream: the first messages, for they are appended in order."""
        start = min(unit.noted for unit in units) + 1
        payloads = [message.payload for message in await pipe.read_back(start)]
        self._read.update(payloads)
        parked = []
        for unit in units:
            place = unit.noted + 1 - start
            there = payloads[place : place + unit.messages - unit.found]
            if not unit.found:
                self._read_for.add(unit.number)
            parked.append(
                replace(
                    unit,
                    found=unit.found + len(there),
                    found_samples=unit.found_samples + sum(map(_samples_in, there)),
                    noted=unit.noted + len(there) if there else min(unit.noted, pipe.newest) if unit.found else -1,
                    parked=True,
                )
            )
            logger.info(
                "sinks.%s: of batches %d to %d of %s, %d of %d messages are in the stream; the rest follows",
                *(self.name, unit.first, unit.last, unit.stream, parked[-1].found, unit.messages),
            )
        await self.store.intend(*parked)

    async def _undo(self, units: Sequence[Unit], begun: Sequence[Unit]) -> None:
        """The stream lost these units: their ranges are wanted again, for those `begun` to complete them."""
        cursors: dict[Key, int] = {}
        for unit in units:
            cursors[unit.key] = min(cursors.get(unit.key, unit.first), unit.first)
            if unit.newest is not None:
                account = json.loads(unit.account)
                self.ledger.undo(unit.samples, account.get("filtered", {}), account.get("dropped", {}))
        for (stream, epoch), first in cursors.items():
            last = max(unit.last for unit in units if unit.key == (stream, epoch))
            name = self._target.plan(units[0].settings).name
            self._tell_repeats(
                f"batches {first} to {last} of {stream} (epoch {epoch}): stream {name} lost them, or was made anew"
            )
        undone = self.store.undo(units, cursors, ledger=self.ledger.kept())
        if begun:
            self.store.intend(*begun)
        await undone
        self.rewind()

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def deliver(self, ranges: Sequence[Range]) -> None:
        """Encode, intend, append and commit the ranges."""
        crash.point("received")
        await self._room_for_units()
        await self.pipe.ready()
        if self.lost():
            raise StreamReset
        works = [await self._encode(part) for part in ranges]
        units = self._intended(works)
        if units:
            await self.store.intend(*units)
            crash.point("intent")
        for index, work in enumerate(works):
            await self._settle(work, works[index + 1 :])
        if not self._pending:
            self._read.clear()

    async def _room_for_units(self) -> None:
        while self.store.count(self.name) >= MAX_UNITS:
            why = f"{MAX_UNITS} units wait for the export of stream {self._stream}: newer data waits outside"
            self.conditions.report("units", why, "mend what the export waits for")
            if self.pipe.lost_after is not None:
                raise StreamReset
            if await until_set(self.stopping, 0.5):
                raise Stopped
        self.conditions.clear("units")

    async def _encode(self, part: Range) -> _Work:
        unit = part.unit
        if not part.batches or part.gone:
            return _Work(part, Encoded(()), unit)
        settings = unit.settings if unit is not None else self._target.settings
        decided_ns = unit.decided_ns if unit is not None else time.time_ns()
        encoded = await self.encoded(part.batches, self._encoder(settings), decided_ns)
        if unit is not None:
            return _Work(part, encoded, unit, self._missing(unit, encoded))
        if not encoded.messages:
            return _Work(part, encoded)
        account = {"filtered": dict(encoded.filtered), "dropped": dict(encoded.dropped)}
        unit = Unit(
            sink=self.name,
            number=0,
            stream=part.stream,
            epoch=part.epoch,
            first=part.first,
            last=part.last,
            samples=encoded.samples,
            messages=len(encoded.messages),
            bytes=encoded.bytes,
            settings=settings,
            decided_ns=decided_ns,
            noted=0,
            account=json.dumps(account) if encoded.filtered or encoded.dropped else "{}",
        )
        return _Work(part, encoded, unit, encoded.messages)

    def _missing(self, unit: Unit, encoded: Encoded) -> Sequence[Message]:
        """The messages of an incomplete unit that are not in its stream."""
        if unit.number not in self._read_for:
            return encoded.messages[unit.found :]
        missing = []
        for message in encoded.messages:
            if self._read[message.payload]:
                self._read[message.payload] -= 1
            else:
                missing.append(message)
        if unit.found > len(encoded.messages) - len(missing):
            self._tell_repeats(
                f"batches {unit.first} to {unit.last} of {unit.stream} (epoch {unit.epoch}): what a crash left of them "
                "in the stream is not what is made of them now"
            )
        return missing

    def _intended(self, works: Sequence[_Work]) -> list[Unit]:
        """Number the units, and note where in their streams the messages will begin."""
        number = self.store.next_number(self.name)
        noted: dict[Pipe, int] = {}
        units = []
        for work in works:
            unit = work.unit
            if unit is None or work.of.gone or not work.messages:
                continue
            pipe = self._pipe_of(unit)
            before = noted.get(pipe, pipe.newest)
            noted[pipe] = before + len(work.messages)
            if work.of.unit is None:
                unit = replace(unit, number=number, noted=before)
                number += 1
            else:
                found = len(work.encoded.messages) - len(work.messages)
                unit = replace(unit, noted=before, parked=False, messages=len(work.encoded.messages), found=found)
            work.unit = unit
            units.append(unit)
        return units

    async def _settle(self, work: _Work, rest: Sequence[_Work]) -> None:
        """Append the messages and commit, or move the cursor."""
        part, unit, ledger = work.of, work.unit, self.ledger
        if unit is None:
            ledger.filter(work.encoded.filtered)
            for reason, samples in work.encoded.dropped.items():
                ledger.drop(reason, samples)
            self.pass_over(part)
            return
        if part.gone:
            await self._give_up(part, unit)
            return
        refused: list[int] = []
        newest = unit.noted
        if work.messages:
            newest = await self._pipe_of(unit).append(work.messages, partial(self._refuse, work, rest, refused))
            unit = work.unit or unit
        crash.point("appended")
        too_large = sum(work.messages[index].samples for index in refused)
        ledger.append(work.encoded.samples - too_large)
        ledger.filter(work.encoded.filtered)
        dropped = dict(work.encoded.dropped)
        if too_large:
            dropped["message-too-large"] = too_large
            account = {"filtered": dict(work.encoded.filtered), "dropped": dropped}
            unit = replace(unit, samples=work.encoded.samples - too_large, account=json.dumps(account))
        for reason, samples in dropped.items():
            ledger.drop(reason, samples)
        committed = self.store.commit(unit, newest, ledger=ledger.kept())
        committed.add_done_callback(lambda _: crash.point("committed"))

    async def _refuse(self, work: _Work, rest: Sequence[_Work], refused: list[int], index: int) -> None:
        """A message is larger than the server takes. Where the others will stand is noted anew before it goes on."""
        refused.append(index)
        assert work.unit is not None
        done = work.messages[: index + 1]
        before = self._pipe_of(work.unit).newest
        there = len(work.encoded.messages) - len(work.messages) + len(done)
        work.unit = replace(work.unit, noted=before, found=there)
        units = [work.unit]
        position = before + len(work.messages) - len(done)
        for other in rest:
            if other.unit is not None and other.messages and self._pipe_of(other.unit) is self._pipe_of(work.unit):
                other.unit = replace(other.unit, noted=position)
                position += len(other.messages)
                units.append(other.unit)
        await self.store.intend(*units)

    async def _give_up(self, part: Range, unit: Unit) -> None:
        """The rest of an incomplete unit cannot be had any more. What is in the stream stays."""
        if not unit.found:
            await self.store.undo([unit], {})
            return
        account = json.loads(unit.account)
        filtered, dropped = account.get("filtered", {}), account.get("dropped", {})
        whole = unit.samples + sum(filtered.values()) + sum(dropped.values())
        lost = unit.samples - unit.found_samples
        self.ledger.receive(whole - part.samples)
        self.ledger.append(unit.found_samples)
        self.ledger.filter(filtered)
        for reason, samples in {**dropped, "gone": lost}.items():
            self.ledger.drop(reason, samples)
        if lost:
            self._tell_missed(
                f"{lost} samples of batches {unit.first} to {unit.last} of {unit.stream} (epoch {unit.epoch}): a crash "
                "interrupted their export, and the producer does not keep them any more"
            )
        account = json.dumps({"filtered": filtered, "dropped": {**dropped, "gone": lost}})
        unit = replace(unit, samples=unit.found_samples, account=account)
        self.store.commit(unit, unit.noted, ledger=self.ledger.kept())

    # --- exported -----------------------------------------------------------------------------------------------------

    async def looked(self) -> None:
        """Note which units are exported."""
        for pipe in [pipe for pipe in self._pipes.values() if pipe is not self.pipe]:
            await pipe.watch()
        done = []
        streams = set()
        for unit in self.store.units(self.name):
            pipe = self._pipe_of(unit)
            exported = pipe.exported
            if unit.newest is not None and exported is not None and unit.newest <= exported:
                done.append(unit)
            else:
                streams.add(pipe)
        if done:
            await self.store.exported(done)
            crash.point("exported")
            self.moved()
        for name, pipe in list(self._pipes.items()):
            if pipe is not self.pipe and pipe not in streams:
                logger.info("sinks.%s: all that was to be exported of stream %s is", self.name, name)
                del self._pipes[name]
                kept = {settings: of for settings, of in self._pipe_of_settings.items() if of is not pipe}
                self._pipe_of_settings = kept


def _is_begun(unit: Unit) -> bool:
    """Whether it was being appended when the earlier run ended: from `noted` + 1 on there may be some of it."""
    return unit.newest is None and not unit.parked


def _samples_in(payload: bytes) -> int:
    try:
        return samples_in(payload)
    except (ValueError, KeyError, TypeError, OSError, EOFError):
        return 0  # of somebody else


def _or(number: int | None, other: int) -> int:
    return other if number is None else number
