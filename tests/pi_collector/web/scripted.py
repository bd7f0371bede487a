"""A PI Web API that a test scripts: real sockets on the loopback interface, and whatever answers it is told."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from pi_collector.config import Connection
from pi_collector.web.client import Client
from sluice.config import SecretRef
from sluice.log import Secret
from sluice.secrets import SecretError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(content: Any, status: int = 200, **headers: str) -> web.Response:
    """JSON, or the bytes or text as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **named})


class Scripted:
    """Answers what every client asks for by itself, and by `on` what a test wants to be asked."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.on: dict[str, Handler] = {}
        """By path below the address; they come before all else. "*" is for all."""
        self.asked: list[tuple[str, str]] = []
        """Method and path below the address."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.connected = True
        self.server_time: Callable[[], float] | None = time.time
        self.date: Callable[[], str | None] = lambda: formatdate(time.time(), usegmt=True)
        self.up_minutes = 100
        self.url = ""
        self._tls = tls
        self._port = port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Scripted:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; at the same address as before when it was stopped."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        application.on_response_prepare.append(self._dated)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}/piwebapi"

    async def stop(self) -> None:
        """Close every line, and listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def count(self, path: str) -> int:
        """How often a path was asked."""
        return sum(asked == path for _, asked in self.asked)

    async def _dated(self, request: web.Request, response: web.StreamResponse) -> None:
        date = self.date()
        if date is None:
            # aiohttp fills in what is missing; only something in its place keeps it from that.
            response.headers["Date"] = "-"
        else:
            response.headers["Date"] = date

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/piwebapi").strip("/")
        self.asked.append((request.method, path))
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.read())
        handler = self.on.get(path) or self.on.get("*")
        if handler is not None:
            return await handler(request)
        if path == "":
            return answer({"ProductTitle": "PI Web API", "ProductVersion": "1.18.0.44", "Links": {}})
        if path == "system/status":
            return answer({"UpTimeInMinutes": self.up_minutes, "State": "Running", "CacheInstances": 1})
        if path == "dataservers":
            server: dict[str, Any] = {"Name": "SRV", "WebId": "I1DSx", "IsConnected": self.connected}
            if self.server_time is not None:
                now = self.server_time()
                seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
                server["ServerTime"] = f"{seconds}.{int(now % 1 * 1e7):07d}Z"
            return answer({"Items": [server], "Links": {}})
        return answer({"Items": [], "Links": {}})


class Reports:
    """Problems as the component keeps them."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        self.found[scope] = (problem, remedy)

    def clear(self, scope: str) -> None:
        self.found.pop(scope, None)


class Using:
    """A client of a scripted server, with secrets that a test changes as it goes."""

    def __init__(self, *urls: str, directory: Path | None = None, **settings: Any) -> None:
        self.secrets: dict[str, str] = {"password": "geheim"}
        self.problems = Reports()
        self.settings = Connection.model_validate({"url": urls[0], "failOver": list(urls[1:]), **settings})
        self.client = Client(
            "lab",
            self.settings,
            secret=self._secret,
            directory=directory or Path("/nonexistent"),
            problems=self.problems,
        )

    async def __aenter__(self) -> Client:
        return self.client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def _secret(self, reference: SecretRef) -> Secret:
        if reference.file not in self.secrets:
            raise SecretError(f"the secret file {reference.file} does not exist", "create it with mode 0600")
        return Secret(self.secrets[reference.file])
