"""A session of this tool's own with an OPC UA server: for commands that look at a server from an engineer's machine.

A server is named as in a site document (`Target.of_document`) or by its endpoint alone (`Target.of_endpoint`). The tool
is a client of its own, with its own certificate and its own trust, in a folder like the collector's pki:

    ~/.config/sluice/pki/own, trusted, issuer, rejected        0700

A server that is not trusted there is refused with the words of the collector; `--trust-first-use` pins the certificate
that it shows. Passwords come from files of mode 0600 alone. The session has few rights to use: it reads and browses,
and makes subscriptions that publish nothing; it never writes, and calls no method.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer

from cli.output import IN_THE_WAY, WRONG, Failure

if TYPE_CHECKING:
    from opcua_collector.config import Connection, Tag
    from opcua_collector.services.session import Session
    from sluice.log import Secret

T = TypeVar("T")

PKI: Final = Path("~/.config/sluice/pki")

Pki = Annotated[Path, typer.Option(help="Folder of this tool's own certificate and of the servers that it trusts.")]
TrustFirstUse = Annotated[
    bool, typer.Option("--trust-first-use", help="Trust the certificate that the server shows now, from now on.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File of mode 0600 with the user's password, in the place of the document's.")
]


@dataclass(frozen=True)
class Target:
    """A server to look at, and the tags that a document collects from it. `directory`: where relative paths begin."""

    name: str
    settings: Connection
    tags: Mapping[str, Tag] = field(default_factory=dict)
    directory: Path = Path()

    @classmethod
    def of_document(cls, path: Path, connection: str) -> Target:
        """The connection of a site document. Raises Failure, with what `sluice check` says when that is in the way."""
        from cli.document import load
        from cli.gateway import COLLECTOR, Gateway
        from sluice.problem import one_of, render

        gateway = Gateway.of(load(path))
        collector = gateway.components.get(COLLECTOR)
        if collector is None:
            raise Failure(f"{path}: configures no {COLLECTOR}: name the document of a gateway that has one", WRONG)
        if connection not in collector.config.connections:
            place = render(("connections", connection))
            wrong = [str(one) for one in collector.loaded.problems if one.path.startswith(place)]
            if wrong:
                raise Failure("\n".join(f"{path}: {one}" for one in wrong), WRONG)
            names = sorted(collector.config.connections)
            remedy = one_of(names, connection) if names else "give it connections"
            raise Failure(f"{path}: {connection!r} is no connection of the document: {remedy}", WRONG)
        settings = collector.config.connections[connection]
        return cls(connection, settings, collector.tags(connection), gateway.directory)

    @classmethod
    def of_endpoint(cls, endpoint: str, *, policy: str = "auto", user: str = "") -> Target:
        """A server by its address. Raises Failure when it is none."""
        from opcua_collector.config import Configuration
        from sluice.config import load

        given: dict[str, Any] = {"endpoint": endpoint, "security": {"policy": policy}}
        if user:
            given["user"] = {"name": user}
        loaded = load(Configuration, {"connections": {"server": given}})
        if loaded.problems:
            texts = (f"{one.path.removeprefix('connections.server.')}: {one.problem}" for one in loaded.problems)
            raise Failure(f"{endpoint}: {'; '.join(texts)}: {loaded.problems[0].remedy}", WRONG)
        host = "".join(c if c.isalnum() or c in ".-" else "_" for c in endpoint.partition("://")[2])[:48]
        return cls(f"at-{host}".rstrip(".-_"), loaded.config.connections["server"])


@asynccontextmanager
async def session(
    target: Target, *, pki: Path = PKI, trust_first_use: bool = False, password_file: Path | None = None
) -> AsyncIterator[Session]:
    """A session with the server, closed at the end together with all it made. Raises Failure, in the words that the
    collector's status would have."""
    from opcua_collector.problems import TroubleError
    from opcua_collector.services.connecting import Identity, connect
    from opcua_collector.stack import UaError
    from opcua_collector.values.encoding import MalformedError

    folder = _folder(pki)
    settings = _settings(target, trust_first_use)
    secret = await _credentials(target, settings, password_file)
    identity = Identity(folder, f"urn:sluice:{socket.gethostname()}:tool", "Sluice tool")
    try:
        opened = await connect(target.name, settings, identity, secret)
    except (TroubleError, UaError, OSError, asyncio.TimeoutError) as error:
        raise _failure(target, settings, folder, error) from None
    try:
        yield opened
    except (TroubleError, UaError, MalformedError, OSError, asyncio.TimeoutError) as error:
        raise _failure(target, settings, folder, error) from None
    finally:
        await opened.close(politely=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what needs a session, to its end."""
    return asyncio.run(work)


def _folder(named: Path) -> Path:
    """For its owner alone: who may write to it decides whom this tool believes."""
    path = named.expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise Failure(
            f"--pki {path}: {error.strerror}: name a folder that can be made or written", IN_THE_WAY
        ) from None
    if status.st_mode & 0o022 or status.st_uid not in (os.getuid(), 0):
        raise Failure(f"--pki {path}: others may write to it: run chmod go-w {path}, or name another folder", WRONG)
    return path


def _settings(target: Target, trust_first_use: bool) -> Connection:
    """The connection's settings with this tool's own trust: the gateway's is the gateway's."""
    security = target.settings.security
    path = Path(security.trust) if security.trust and security.trust != "first-use" else None
    trust = "first-use" if trust_first_use else ""
    if path is not None and (here := target.directory / path).is_file():
        trust = str(here)
    settings = target.settings.model_copy(update={"security": security.model_copy(update={"trust": trust})})
    user = settings.user
    if user is not None and user.certificate and (here := target.directory / user.certificate).is_file():
        settings = settings.model_copy(update={"user": user.model_copy(update={"certificate": str(here)})})
    return settings


async def _credentials(target: Target, settings: Connection, password_file: Path | None) -> Secret | None:
    from sluice.config import SecretRef
    from sluice.secrets import SecretError, Secrets

    user = settings.user
    if user is None:
        if password_file is not None:
            raise Failure(f"--password-file: {target.name} is read anonymously: name a user as well", WRONG)
        return None
    reference = user.key if user.certificate else user.password
    directory = target.directory
    if password_file is not None:
        reference, directory = SecretRef(file=str(password_file)), Path()
    if reference is None:
        return None
    if not reference.file:
        raise Failure(
            f"{target.name}: the secret {reference.secret} is read by the gateway alone: put it into a file of mode "
            "0600 and name that with --password-file",
            WRONG,
        )
    try:
        return await Secrets(cast(Any, None), directory).resolve(reference)
    except SecretError as error:
        raise Failure(f"{target.name}: {error}", WRONG) from None


def _failure(target: Target, settings: Connection, folder: Path, error: BaseException) -> Failure:
    """What is wrong with the server or with us, told as the collector tells it."""
    from opcua_collector.problems import explain
    from opcua_collector.security.certificates import thumbprint

    path = folder / "own" / "certificate.der"
    try:
        own = {"certificate": str(path), "thumbprint": thumbprint(path.read_bytes())}
    except (OSError, ValueError):
        own = {"certificate": str(path), "thumbprint": ""}
    values = {
        "endpoint": settings.endpoint,
        "user": (settings.user.name or settings.user.certificate) if settings.user else "anonymous",
        "security.policy": settings.security.policy,
        "security.mode": settings.security.mode,
    }
    problem = explain(error, target.name, values, own)
    place = problem.path.removeprefix(f"connections.{target.name}.")
    value = "" if problem.value is None else f" {problem.value}"
    text = f"{target.name}: {place}{value} {problem.problem}: {problem.remedy}"
    if place.startswith("security.trust"):
        text += f"; this tool has a folder of its own, {folder}, and --trust-first-use trusts what the server shows now"
        if folder.name == "pki":
            text += f"; sluice trust --work-dir {folder.parent} shows what is in it"
    return Failure(text, IN_THE_WAY if isinstance(error, OSError) else WRONG)
