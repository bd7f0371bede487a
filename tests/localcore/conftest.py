"""An IPC server in the test's own event loop and the unmodified AWS SDK as its client; whole cores; the endpoints."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as sdk
import pytest
import yaml
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from localcore import Core, Deployment
from localcore.aws import AwsProcess
from localcore.ipc import IpcServer
from localcore.process import Component
from localcore.profile import PROFILES, Profile

BOTH = pytest.mark.parametrize("profile", ["classic", "lite"])
IDLE = "exec sleep 1000"

EVERYTHING = {
    service: {"operations": ["*"], "resources": ["*"]}
    for service in (
        "aws.greengrass.ipc.pubsub",
        "aws.greengrass.ipc.mqttproxy",
        "aws.greengrass.SecretManager",
    )
}


def access_control(name: str, services: Mapping[str, Any] = EVERYTHING) -> dict[str, Any]:
    """A component's accessControl with one policy per service."""
    return {"accessControl": {service: {f"{name}:{service}:1": policy} for service, policy in services.items()}}


async def until(condition: Callable[[], Any], what: Callable[[], Any], limit: float = 30.0) -> None:
    """Wait for a condition; fail with what there is instead."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit} s; instead: {what()!r}")
        await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """Whether a process has ended; one whose parent has not asked yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Client:
    """The SDK's ClientV2, its futures awaited in the test's loop and each with a limit."""

    def __init__(self, client: GreengrassCoreIPCClientV2) -> None:
        self.sdk = client

    async def call(self, operation: str, **arguments: Any) -> Any:
        """The response of an operation by its method's name, such as `publish_to_topic`."""
        result = getattr(self.sdk, operation + "_async")(**arguments)
        future: Future[Any] = result[0] if isinstance(result, tuple) else result
        return await asyncio.wait_for(asyncio.wrap_future(future), 30)

    async def publish(self, topic: str, payload: bytes) -> None:
        message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        await self.call("publish_to_topic", topic=topic, publish_message=message)

    async def publish_json(self, topic: str, value: Any) -> None:
        message = model.PublishMessage(json_message=model.JsonMessage(message=value))
        await self.call("publish_to_topic", topic=topic, publish_message=message)

    async def subscribe(self, topic: str, mode: str | None = None) -> list[tuple[str, Any]]:
        """The list that fills with (topic, content) of what comes."""
        got: list[tuple[str, Any]] = []

        def take(event: Any) -> None:
            kind = event.binary_message or event.json_message
            got.append((kind.context.topic, kind.message))

        await self.call("subscribe_to_topic", topic=topic, receive_mode=mode, on_stream_event=take)
        return got


class Device:
    """One IPC server and the clients that were made for it."""

    def __init__(self, server: IpcServer) -> None:
        self.server = server
        self._clients: list[GreengrassCoreIPCClientV2] = []

    async def connect(self, token: str) -> Any:
        """The SDK's connection, made in a thread because the SDK blocks."""
        return await asyncio.to_thread(sdk.connect, ipc_socket=self.server.address, authtoken=token, timeout=5.0)

    async def client(
        self, component: str, config: Mapping[str, Any] | None = None, *, services: Mapping[str, Any] = EVERYTHING
    ) -> Client:
        """A connected client of a component that may do what `services` says."""
        configuration = self.server.configuration(component)
        configuration.merge((), {**access_control(component, services), **(config or {})}, 2.0)
        client = GreengrassCoreIPCClientV2(client=await self.connect(self.server.token(component)), executor=None)
        self._clients.append(client)
        return Client(client)

    async def close(self) -> None:
        for client in self._clients:
            await asyncio.to_thread(client.close)
        await self.server.stop()


MakeDevice = Callable[..., Awaitable[Device]]


@pytest.fixture
async def make_device(tmp_path: Path) -> AsyncIterator[MakeDevice]:
    """Makes devices: `await make_device("lite")`, with IpcServer's own keyword arguments."""
    devices: list[Device] = []

    async def make(profile: str | Profile = "classic", **options: Any) -> Device:
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        server = IpcServer(tmp_path / f"ipc{len(devices)}.socket", chosen, **options)
        await server.start()
        devices.append(Device(server))
        return devices[-1]

    yield make
    for device in devices:
        await device.close()


@pytest.fixture(params=["classic", "lite"])
async def device(request: pytest.FixtureRequest, make_device: MakeDevice) -> Device:
    """A device of each profile in turn."""
    return await make_device(request.param)


# --- a whole core


class Site:
    """A core, and the recipes and artifacts that are deployed to it."""

    def __init__(self, folder: Path, core: Core) -> None:
        self.core = core
        self.recipes, self.artifacts = folder / "recipes", folder / "artifacts"
        self.recipes.mkdir(parents=True)
        self.artifacts.mkdir()

    def recipe(
        self,
        name: str,
        lifecycle: Mapping[str, Any],
        *,
        version: str = "1.0.0",
        config: Mapping[str, Any] | None = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a component's recipe, in place of the one it has."""
        for old in self.recipes.glob(f"{name}-*.yaml"):
            old.unlink()
        document = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentConfiguration": {"DefaultConfiguration": {**access_control(name), **(config or {})}},
            "ComponentDependencies": dict(dependencies or {}),
            "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": dict(lifecycle)}],
        }
        (self.recipes / f"{name}-{version}.yaml").write_text(yaml.safe_dump(document))

    async def begin(
        self,
        *,
        policies: Mapping[str, Any] | None = None,
        cloud: bool = False,
        **merges: Mapping[str, Any] | None,
    ) -> Deployment:
        """Deploy components, each with what is merged into its configuration, or None."""
        components = {
            name: {} if merge is None else {"configurationUpdate": {"merge": merge}} for name, merge in merges.items()
        }
        document = {"components": components, "deploymentPolicies": policies}
        return await self.core.deploy(document, self.recipes, self.artifacts, cloud=cloud)

    async def deploy(self, **merges: Any) -> Deployment:
        """The same, and wait until it is known what has become of it."""
        return await self.core.wait_deployment(await self.begin(**merges), 30.0)

    async def state(self, name: str, state: str) -> Component:
        await self.core.wait_state(name, state, 30.0)
        return self.core.component(name)

    def file(self, name: str, file: str) -> str:
        """What a component wrote into its working folder."""
        path = self.core.folders.work(name) / file
        return path.read_text() if path.exists() else ""


MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    """Makes sites without AWS: `await make_site("lite", clock=...)`. Delays are shortened, rules are not."""
    cores: list[Core] = []

    async def make(profile: str | Profile, **options: Any) -> Site:
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        chosen = replace(chosen, restart_delay=0.01)
        folder = tmp_path / f"site{len(cores)}"
        core = Core(folder / "core", profile=chosen, aws=False, **options)
        cores.append(core)
        await core.start()
        return Site(folder, core)

    yield make
    for core in cores:
        await core.stop()


# --- helper processes


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine in an event loop of another thread, because the SDKs block, and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("core")


@pytest.fixture(scope="module")
def aws(root: Path, run: Callable[..., Any]) -> Iterator[AwsProcess]:
    process = AwsProcess(root, region="us-east-1")
    run(process.start())
    yield process
    run(process.stop())
