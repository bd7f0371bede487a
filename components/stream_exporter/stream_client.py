"""The one owner of a stream-manager SDK client: one thread, one caller, one request at a time.

Theory of operation. SDK 1.1.2 is a thin client that wedges: after a TCP reset, after a length prefix that arrives in
two segments and after an answer later than its timeout it stays "connected" and every later call fails; after a FIN a
call waits out its whole timeout; a failed constructor and a close() after a reset leak a thread and its file
descriptors; concurrent callers race in its reconnect. From outside these cannot be told apart, so nothing is repaired:

- the SDK is touched on one thread only, by one caller after the other;
- before a client is made, a plain TCP connect proves that somebody listens;
- an answer of the server (status not Success) is a result: the client is kept;
- anything else that is raised costs the client: its connection is aborted, its loop stopped and its thread joined, each
  within a limit, also when its constructor failed; the next call makes a new one;
- every call has a short timeout, after which it is not known whether the server acted.

Errors:

    StreamError                  place, value and remedy for people
    ├── Unreachable              nobody listens, or the handshake failed: the server did nothing
    ├── Reconnected              the connection is another one than the append was meant for: nothing was sent
    ├── Refused                  the server answered, and it is no: it did nothing
    │   ├── NoSuchStream
    │   └── TooLarge             no stream of this server takes a message of that size
    └── Uncertain                no answer came: the server may have done it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stream_manager import MessageStreamDefinition, ReadMessagesOptions, StreamManagerClient, StreamManagerException
from stream_manager.exceptions import (
    ConnectFailedException,
    InvalidRequestException,
    MessageStoreReadErrorException,
    NotEnoughMessagesException,
    RequestPayloadTooLargeException,
    ResourceNotFoundException,
    UnauthorizedException,
    UpdateFailedException,
    UpdateNotAllowedException,
    ValidationException,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOST = "127.0.0.1"
DEFAULT_PORT = 8088

#: Seconds for the TCP connect, and for stopping a client that is dropped.
CONNECT_TIMEOUT = 1.0
RELEASE_TIMEOUT = 1.0

#: Jobs that may wait for the owner's thread: callers wait for each of theirs, so more would be a mistake.
MAX_JOBS = 64

#: Answers that say for sure that nothing was done, and leave the connection in step.
_ANSWERS = (
    InvalidRequestException,
    MessageStoreReadErrorException,
    NotEnoughMessagesException,
    RequestPayloadTooLargeException,
    ResourceNotFoundException,
    UnauthorizedException,
    UpdateFailedException,
    UpdateNotAllowedException,
    ValidationException,
)

# The SDK logs each fault with a traceback and raises it as well: what it raises is reported here, once.
_sdk_logger = logging.getLogger(f"{__name__}.sdk")
_sdk_logger.setLevel(logging.CRITICAL + 1)


class StreamError(Exception):
    """A call to stream manager that brought no result."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class Unreachable(StreamError):  # noqa: N818 - the tree is named for what happened
    """Nobody listens, or the handshake failed."""


class Reconnected(StreamError):  # noqa: N818
    """The connection is not the one that was asked for, so that another server may be behind it."""


class Refused(StreamError):  # noqa: N818
    """The server answered, and said no."""


class NoSuchStream(Refused):
    """The stream does not exist."""


class TooLarge(Refused):
    """A message is larger than the server takes."""


class Uncertain(StreamError):  # noqa: N818
    """No answer: the server may have acted or not."""


@dataclass(frozen=True, slots=True)
class Appended:
    """How far an append of several messages came."""

    count: int  # messages that the server accepted, from the first on
    newest: int | None  # sequence number of the last accepted one
    error: StreamError | None  # what stopped it; Uncertain: the message after the accepted ones may be there too


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read from a stream."""

    sequence_number: int
    payload: bytes


class Connection(StreamManagerClient):  # type: ignore[misc]
    """The SDK's client with a way out: release() leaves no thread and no file descriptor, whatever state it is in."""

    def __init__(self, port: int, request_timeout: float) -> None:
        try:
            super().__init__(
                host=HOST,
                port=port,
                connect_timeout=CONNECT_TIMEOUT,
                request_timeout=request_timeout,
                logger=_sdk_logger,
            )
        except BaseException:
            self.release()
            raise

    def append_all(self, stream: str, payloads: Sequence[bytes], done: list[int]) -> None:
        """Append one after the other; `done` gets the sequence number of each accepted one.

        One crossing between threads for all of them instead of one for each.
        """

        async def run() -> None:
            for payload in payloads:
                done.append(await self._append_message(stream, payload))  # noqa: PERF401 - kept when one fails

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def release(self) -> None:
        """Abort the connection, stop the loop, wait for the thread. Never raises, takes RELEASE_TIMEOUT at most."""
        thread: threading.Thread | None = getattr(self, "_StreamManagerClient__event_loop_thread", None)
        if thread is None:
            return
        self._StreamManagerClient__closed = True
        self.interrupt()
        thread.join(RELEASE_TIMEOUT)
        if thread.is_alive():
            logger.error("a stream-manager client did not stop within %g s and is left behind", RELEASE_TIMEOUT)

    def interrupt(self) -> None:
        """Abort the connection: a call under way fails, and sends nothing more. From any thread; does not wait."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._abort)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._StreamManagerClient__loop
        return loop

    def _abort(self) -> None:
        writer: asyncio.StreamWriter | None = getattr(self, "_StreamManagerClient__writer", None)
        if writer is not None:
            writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        ending = asyncio.gather(*tasks, return_exceptions=True)
        # One more turn after the tasks: the aborted transport closes its socket then.
        ending.add_done_callback(lambda _: self._loop.call_soon(self._loop.stop))


_REFUSALS: dict[type[Exception], type[Refused]] = {
    ResourceNotFoundException: NoSuchStream,
    RequestPayloadTooLargeException: TooLarge,
}


class StreamClient:
    """Stream manager for one user (a sink): calls are made in order on one thread, and a broken client is replaced.

    `find_port` says where the server listens; it is asked before each new connection, because the port may change when
    the server restarts.
    """

    def __init__(self, name: str, find_port: Callable[[], Awaitable[int]], *, request_timeout: float) -> None:
        self.connected = False
        self.rebuilt = 0  # clients made
        self._find_port = find_port
        self._request_timeout = request_timeout
        self._connection: Connection | None = None
        self._closed = False
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_JOBS)
        self._thread = threading.Thread(target=self._serve, name=f"stream-manager {name}", daemon=True)
        self._thread.start()

    async def append_all(self, stream: str, payloads: Sequence[bytes], connection: int | None = None) -> Appended:
        """Append messages in order until all are accepted or one is not. Raises nothing but cancellation.

        connection: only on this one, as counted by `rebuilt`.
        """
        done: list[int] = []
        error: StreamError | None = None
        try:
            await self._call(f"append to {stream}", lambda used: used.append_all(stream, payloads, done), connection)
        except StreamError as raised:
            error = raised
        return Appended(len(done), done[-1] if done else None, error)

    async def describe(self, stream: str) -> Any:
        """The stream's MessageStreamInfo. Raises NoSuchStream."""
        return await self._call(f"describe {stream}", lambda connection: connection.describe_message_stream(stream))

    async def create(self, definition: MessageStreamDefinition) -> None:
        """Create a stream."""
        await self._call(f"create {definition.name}", lambda connection: connection.create_message_stream(definition))

    async def update(self, definition: MessageStreamDefinition) -> None:
        """Change a stream. What the definition leaves out goes back to defaults, exports included."""
        await self._call(f"update {definition.name}", lambda connection: connection.update_message_stream(definition))

    async def read(self, stream: str, start: int, count: int) -> list[StoredMessage]:
        """Up to `count` messages from number `start` on (or from the oldest kept, if that is later); [] if none."""
        options = ReadMessagesOptions(
            desired_start_sequence_number=start, min_message_count=1, max_message_count=count, read_timeout_millis=0
        )

        def run(connection: Connection) -> list[StoredMessage]:
            try:
                messages = connection.read_messages(stream, options)
            except NotEnoughMessagesException:
                return []
            return [StoredMessage(message.sequence_number, bytes(message.payload)) for message in messages]

        return await self._call(f"read {stream}", run)

    async def work(self, function: Callable[[], T]) -> T:
        """Run other blocking work of the same user on the owner's thread."""
        return await self._submit(function)

    async def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Drop the client, do the last work on its thread, and end that. Waits for a call under way, at most its
        timeout; the rest is done also when nobody waits any more."""
        if self._closed:
            return

        def end() -> None:
            self._drop()
            last()

        closed = self._submit(end)
        self._closed = True
        self._jobs.put_nowait(None)
        await asyncio.shield(closed)

    def abandon(self) -> None:
        """After a `close` that was not waited for: a call under way ends without its answer. What it would have sent
        after that must not go out beside a successor's."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    async def _call(self, what: str, operation: Callable[[Connection], T], wanted: int | None = None) -> T:
        port = 0 if self.connected else await self._port()
        return await self._submit(lambda: self._run(what, port, operation, wanted))

    async def _port(self) -> int:
        try:
            return await self._find_port()
        except Exception as error:
            raise Unreachable(f"stream manager's port cannot be found ({_text(error)})", "see this log") from error

    def _submit(self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self._closed:
            raise RuntimeError("the stream-manager client is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            if future.cancelled():
                return  # nobody waits for it any more, and somebody else may be at work
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - raised where the caller waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the caller's loop is gone
                loop.call_soon_threadsafe(settle, result, error)

        self._jobs.put_nowait(job)
        return future

    # Everything below runs on the owner's thread.

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _run(self, what: str, port: int, operation: Callable[[Connection], T], wanted: int | None) -> T:
        if wanted is not None and (self._connection is None or self.rebuilt != wanted):
            raise Reconnected(f"the connection was made anew before it could {what}", "nothing to do")
        connection = self._connection or self._connect(port)
        try:
            return operation(connection)
        except _ANSWERS as error:
            refusal = _REFUSALS.get(type(error), Refused)
            raise refusal(f"stream manager refused to {what}: {_text(error)}", _remedy(error)) from error
        except BaseException as error:
            self._drop()
            raise Uncertain(
                f"stream manager gave no answer to {what} ({_text(error)})",
                "nothing to do if it passes: the connection is made again; else see aws.greengrass.StreamManager's log",
            ) from error

    def _connect(self, port: int) -> Connection:
        place = f"{HOST}:{port}"
        try:
            socket.create_connection((HOST, port), timeout=CONNECT_TIMEOUT).close()
        except OSError as error:
            raise Unreachable(
                f"stream manager is not reachable at {place} ({_text(error)})",
                "deploy aws.greengrass.StreamManager and see its log; its port is its STREAM_MANAGER_SERVER_PORT",
            ) from error
        try:
            self._connection = Connection(port, self._request_timeout)
        except ConnectFailedException as error:
            raise Unreachable(
                f"stream manager at {place} refused the connection",
                "let this component depend on aws.greengrass.StreamManager so that its token is accepted, or set "
                "STREAM_MANAGER_AUTHENTICATE_CLIENT of aws.greengrass.StreamManager to false",
            ) from error
        except Exception as error:
            raise Unreachable(
                f"what listens at {place} does not answer as stream manager does ({_text(error)})",
                "see aws.greengrass.StreamManager's log; its port is its STREAM_MANAGER_SERVER_PORT",
            ) from error
        self.connected = True
        self.rebuilt += 1
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self.connected = self._connection, None, False
        if connection is not None:
            connection.release()


def _text(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:300].strip()


def _remedy(error: StreamManagerException) -> str:
    if isinstance(error, ResourceNotFoundException):
        return "nothing to do: the stream is made again from the configuration"
    if isinstance(error, UnauthorizedException):
        return "let this component depend on aws.greengrass.StreamManager so that its token is accepted"
    if isinstance(error, RequestPayloadTooLargeException):
        return "make the sink's messages smaller (`messageSize`)"
    return "compare the sink's settings with what the text says; `streams` in the component's README lists their limits"
