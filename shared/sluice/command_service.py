"""Commands on the bus: listens, notes, runs, answers. The rules are in `sluice.command`.

- One task takes messages in order; what is accepted is on disk (`commands.json`, 0600) before that is said.
- Each command that runs is a task of its own; its answers go through one queue, so that a bus that hangs delays answers
  and nothing else. What does not fit the queue is counted: who asked asks again with the same id.
- On nucleus lite a subscription can die without a sign, and nobody announces anything on a command topic: there it is
  made anew every five minutes, the new one before the old one ends. A command that comes twice is one command.
- AWS IoT Core is subscribed to only while `cloudCommands` allows something and the core has a thing name. Without it,
  local commands work all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sluice.command import (
    COMMAND_PREFIX,
    LARGEST_REQUEST,
    REPLY_PREFIX,
    Call,
    Channel,
    Command,
    CommandError,
    Entry,
    Origin,
    Reply,
    State,
    Step,
    encode,
)
from sluice.ipc import Ipc, IpcError, Subscription
from sluice.kept_file import KeptFile
from sluice.retry import Backoff
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

MEMORY_FILE: Final = "commands.json"
IOT_CORE_ROOM: Final = 120_000
"""Bytes of an answer to AWS IoT Core, which takes 128 KB."""
LITE_IOT_CORE_ROOM: Final = 4_900
"""The same with its topic on nucleus lite, which loses what is larger and says nothing (measured, 2.6.0)."""
_MOST_MESSAGES: Final = 64
_MOST_REPLIES: Final = 256
_RENEW: Final = 300.0


class CommandService:
    """The commands of one component. `own` are those that do not depend on what `offer` brings and `withdraw` takes."""

    def __init__(self, ipc: Ipc, component: str, thing: str, folder: Path, own: Iterable[Command[Any]]) -> None:
        self._ipc = ipc
        self._thing = thing
        self._own = {command.name: command for command in own}
        self._channel = Channel(component)
        self._channel.commands = self._own
        lost = "a command that is sent again now may run again"
        self._memory = KeptFile(folder / MEMORY_FILE, "memory of commands", lost)
        self._max_bytes = 0
        self._messages: deque[tuple[bytes, Origin]] = deque()
        self._replies: deque[tuple[Origin, Reply]] = deque()
        self._wake = asyncio.Event()
        self._answer = asyncio.Event()
        self._answered = asyncio.Event()
        self._changed = {origin: asyncio.Event() for origin in Origin}  # what is wanted of its subscription
        self._writing = asyncio.Lock()
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}  # by id: command and task
        self._ending: set[asyncio.Task[None]] = set()  # done, and about to be noted and told
        self._tasks: list[asyncio.Task[None]] = []
        self._resume = False

    async def start(self) -> None:
        """Remember, and listen. Returns soon."""
        await asyncio.to_thread(self._memory.read, self._channel.load)
        self._tasks = [
            asyncio.create_task(self._work(), name="commands"),
            asyncio.create_task(self._publish(), name="commands: answers"),
            asyncio.create_task(self._follow(Origin.LOCAL), name="commands: local"),
            asyncio.create_task(self._follow(Origin.CLOUD), name="commands: cloud"),
        ]

    async def stop(self) -> None:
        """End what runs; the next start goes on with it, or tells that it was interrupted. Answers are not waited for
        longer than a moment."""
        await self.withdraw()
        if self._ending:
            await asyncio.wait(self._ending, timeout=0.5)
        if self._tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(0.2, self._answered.wait())
        await end(*self._tasks)
        self._tasks = []

    def configure(self, allowed: Collection[str], max_bytes: int) -> None:
        """Commands that the cloud may send, and bytes that a local message may have. Applies at once."""
        self._max_bytes = max_bytes
        if self._channel.allowed != frozenset(allowed):
            self._channel.allowed = frozenset(allowed)
            self._changed[Origin.CLOUD].set()

    def offer(self, commands: Iterable[Command[Any]]) -> None:
        """The component runs, and can carry these out: what was interrupted goes on."""
        self._channel.commands = {**self._own, **{command.name: command for command in commands}}
        self._resume = True
        self._wake.set()

    async def withdraw(self) -> None:
        """The component does not run any more."""
        self._channel.commands = self._own
        self._resume = False
        ended = {identity: task for identity, (name, task) in self._running.items() if name not in self._own}
        await end(*ended.values())
        for identity in ended.keys() & self._running.keys():  # cancelled before its first step
            del self._running[identity]
            self._channel.interrupted(identity)

    def status(self) -> dict[str, int]:
        """Counts for the status."""
        return self._channel.status()

    # --- messages ---

    def _take(self, origin: Origin, topic: str, payload: bytes) -> None:
        if len(self._messages) >= _MOST_MESSAGES or len(payload) > LARGEST_REQUEST:
            self._channel.counters["crowded" if len(payload) <= LARGEST_REQUEST else "malformed"] += 1
            return
        self._messages.append((payload, origin))
        self._wake.set()

    async def _work(self) -> None:
        """Take messages in order, and begin what is due."""
        while True:
            self._wake.clear()
            if self._resume:
                self._resume = False
                await self._after(self._channel.resume())
            while self._messages:
                payload, origin = self._messages.popleft()
                try:
                    step = self._channel.take(payload, origin)
                except Exception:  # whatever it is, it costs that message; others are heard
                    self._channel.counters["malformed"] += 1
                    logger.exception("A message of %d bytes on the command topic could not be read", len(payload))
                    continue
                await self._after(step)
                self._begin()
                await asyncio.sleep(0)  # a flood of them leaves the component its turn
            self._begin()
            await self._wake.wait()

    def _begin(self) -> None:
        for entry, command in self._channel.due():
            task = asyncio.create_task(self._run(entry, command), name=f"command {entry.command}")
            self._running[entry.id] = entry.command, task
            task.add_done_callback(self._ending.discard)

    async def _after(self, step: Step) -> None:
        if step.note:
            async with self._writing:
                if not await asyncio.to_thread(self._memory.write, self._channel.dump()):
                    self._channel.counters["not_remembered"] += 1
        self._say(step)

    async def _run(self, entry: Entry, command: Command[Any]) -> None:
        try:
            call = Call(entry.id, self._channel.arguments(entry), partial(self._progress, entry.id))
            step = self._channel.done(entry.id, await command.run(call))
        except asyncio.CancelledError:
            self._channel.interrupted(entry.id)
            raise
        except CommandError as error:
            step = self._channel.failed(entry.id, error.problem, error.remedy)
        except Exception as error:
            logger.exception("The command %s (%s) failed", entry.command, entry.id)
            why = str(error) or type(error).__name__
            step = self._channel.failed(entry.id, why, "see the component's log for what happened")
        finally:
            _, task = self._running.pop(entry.id)
        self._ending.add(task)
        self._wake.set()
        await self._after(step)

    def _progress(self, identity: str, fraction: float, result: Mapping[str, Any]) -> None:
        self._say(self._channel.progressed(identity, fraction, result, asyncio.get_running_loop().time()))

    # --- answers ---

    def _say(self, step: Step) -> None:
        for origin, reply in step.replies:
            if len(self._replies) >= _MOST_REPLIES:
                self._channel.counters["replies_lost"] += 1
                continue
            self._replies.append((origin, reply))
        if self._replies:
            self._answered.clear()
            self._answer.set()

    async def _publish(self) -> None:
        while True:
            if not self._replies:
                self._answered.set()
                self._answer.clear()
                await self._answer.wait()
            origin, reply = self._replies.popleft()
            topic = self._topic(REPLY_PREFIX, origin)
            try:
                payload = encode(self._channel.component, reply, time.time(), self._room(topic, origin))
                if origin is Origin.CLOUD:
                    await self._ipc.publish_iot_core(topic, payload)
                else:
                    await self._ipc.publish(topic, payload)
            except IpcError as error:
                self._channel.counters["replies_lost"] += 1
                level = logging.DEBUG if reply.state is State.WORKING else logging.WARNING
                logger.log(level, "The answer to the command %s (%s) is lost: %s", reply.command, reply.id, error)
                await asyncio.sleep(0)

    def _room(self, topic: str, origin: Origin) -> int:
        if origin is Origin.CLOUD:
            return LITE_IOT_CORE_ROOM - len(topic.encode()) if self._ipc.lite else IOT_CORE_ROOM
        return min(self._max_bytes, self._ipc.message_room(topic))

    def _topic(self, prefix: str, origin: Origin) -> str:
        local = f"{prefix}{self._channel.component}"
        if origin is Origin.LOCAL:
            return local
        system, _, rest = local.partition("/")
        return f"{system}/{self._thing}/{rest}"

    # --- subscriptions ---

    def _wanted(self, origin: Origin) -> bool:
        return origin is Origin.LOCAL or bool(self._thing and self._channel.allowed)

    async def _follow(self, origin: Origin) -> None:
        """Keep the subscription while it is wanted."""
        backoff = Backoff(5.0, 300.0)
        subscription: Subscription | None = None
        told = ""
        while True:
            self._changed[origin].clear()
            pause: float | None = None
            if self._wanted(origin):
                try:
                    before, subscription = subscription, await self._subscribe(origin)
                except IpcError as error:
                    pause = backoff.next()
                    if told != str(error):
                        told = str(error)
                        what = "AWS IoT Core" if origin is Origin.CLOUD else "this device"
                        logger.warning("Commands from %s are not heard, which is tried again: %s", what, error)
                else:
                    told = ""
                    backoff.reset()
                    pause = _RENEW if self._ipc.lite else None
                    if before is not None:
                        await before.close()
            elif subscription is not None:
                await subscription.close()
                subscription = None
                logger.info("Commands from AWS IoT Core are not listened to any more: cloudCommands allows none")
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause, self._changed[origin].wait())

    async def _subscribe(self, origin: Origin) -> Subscription:
        topic = self._topic(COMMAND_PREFIX, origin)
        handler = partial(self._take, origin)
        if origin is Origin.CLOUD:
            return await self._ipc.subscribe_iot_core(topic, handler)
        return await self._ipc.subscribe(topic, handler)
