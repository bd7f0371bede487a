"""The core: folders, IPC, the two helper processes, and the components that deployments bring."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from localcore import powercut
from localcore.aws import AwsProcess
from localcore.configuration import Configuration
from localcore.deployment import (
    Deployment,
    DeploymentError,
    Wanted,
    configure,
    parse_document,
    place_artifacts,
    resolve,
)
from localcore.ipc import IpcServer
from localcore.process import Component, clean_environment
from localcore.profile import PROFILES, Profile
from localcore.recipe import Folders, Lifecycle, Recipe, RecipeError, Step, expand
from localcore.stream_manager import StreamManagerProcess, discard_unflushed

log = logging.getLogger(__name__)

_STREAM_MANAGER = "aws.greengrass.StreamManager"
_TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
_NO_CREDENTIALS = "http://127.0.0.1:9/2016-11-01/credentialprovider/"


class CoreError(RuntimeError):
    """The core or a component is not in the state that was waited for; the text shows the state and the log."""


class Core:
    """A Greengrass core device on this machine.

    Args:
        root: folder for everything that it writes: `work/`, `artifacts/`, `artifacts-unarchived/`, `logs/`,
            `stream_manager/`, `aws/`, `witness/` and `ipc.socket`.
        profile: `classic`, `lite`, or a Profile of one's own.
        thing_name: name of the core device.
        region: AWS region that components and endpoints believe in.
        secrets: what Secret Manager holds, by secret id or ARN (classic only).
        stream_manager: False leaves the stream manager out.
        aws: False leaves the AWS endpoints, and with them the stream manager, out.
        clock: seconds, for the rule that makes a component BROKEN.
    """

    def __init__(
        self,
        root: Path,
        *,
        profile: str | Profile = "classic",
        thing_name: str = "sluice-laptop",
        region: str = "us-east-1",
        secrets: Mapping[str, str] | None = None,
        stream_manager: bool = True,
        aws: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root.resolve()
        self.profile = PROFILES[profile] if isinstance(profile, str) else profile
        self.thing_name = thing_name
        self.region = region
        self.folders = Folders(self.root)
        self.logs = self.root / "logs"
        self.ipc = IpcServer(self.root / "ipc.socket", self.profile, thing_name=thing_name, secrets=secrets)
        self.ipc.services.on_state = self._on_state
        self._clock = clock
        self._components: dict[str, Component] = {}
        self._recipes: dict[str, Recipe] = {}
        self._deploying = asyncio.Lock()
        self._deployed: tuple[Mapping[str, Any], Path, Path] | None = None
        self._has_power = True
        self._with_aws = aws
        self._with_stream_manager = aws and stream_manager
        self._aws = AwsProcess(self.root, region=region)
        self._stream_manager: StreamManagerProcess | None = None

    @property
    def aws(self) -> AwsProcess:
        """The AWS endpoints."""
        return self._aws

    @property
    def stream_manager(self) -> StreamManagerProcess:
        """The stream manager. Raises CoreError when this core has none, or has not been started."""
        if self._stream_manager is None:
            raise CoreError("this core has no stream manager running: start it, with aws=True and stream_manager=True")
        return self._stream_manager

    async def start(self) -> None:
        """Open the IPC socket and start the helper processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        (self.root / "rootCA.pem").touch()
        (self.root / "home").mkdir(exist_ok=True)
        await self.ipc.start()
        for name, _ in self.profile.builtin:
            self.ipc.configuration(name)
        if self._with_aws:
            await self._aws.start()
        if self._with_stream_manager:
            services = ("s3", "kinesis", "iotsitewise")
            endpoints = {service: self._aws.endpoint(service) for service in services}
            self._stream_manager = StreamManagerProcess(self.root, region=self.region, endpoints=endpoints)
            await self._stream_manager.start()
            self._seed_stream_manager(self._stream_manager.port)

    def _seed_stream_manager(self, port: int) -> None:
        """The configuration by which components find the stream manager: port 0 means, see `port`."""
        configuration = self.ipc.configuration(_STREAM_MANAGER)
        configuration.add_defaults({"STREAM_MANAGER_SERVER_PORT": "0" if self.profile.yaml_scalars_are_strings else 0})
        configuration.merge((), {"port": float(port) if self.profile.numbers_become_floats else port}, time.time())

    async def stop(self) -> None:
        """End every component, then the helper processes, then IPC."""
        await asyncio.gather(*(component.stop() for component in self._components.values()))
        if self._stream_manager is not None:
            await self._stream_manager.stop()
        if self._with_aws:
            await self._aws.stop()
        await self.ipc.stop()

    def components(self) -> Mapping[str, Component]:
        """The deployed components by name."""
        return dict(self._components)

    def component(self, name: str) -> Component:
        """A deployed component. Raises CoreError when there is no such one."""
        if name not in self._components:
            raise CoreError(f"{name} is not deployed; deployed are: {', '.join(self._components) or 'none'}")
        return self._components[name]

    async def wait_state(self, name: str, state: str, timeout: float = 60.0) -> None:
        """Wait until a component is in a state. Raises CoreError when the time is over, or at once when it is BROKEN
        or FINISHED instead."""
        component = self.component(name)
        deadline = time.monotonic() + timeout
        while component.state != state:
            left = deadline - time.monotonic()
            try:
                if component.state in ("BROKEN", "FINISHED"):
                    raise asyncio.TimeoutError
                await asyncio.wait_for(component.changed(), left)
            except asyncio.TimeoutError:
                raise CoreError(
                    f"{name} is {component.state}, not {state}; end of {component.log_path}:\n{component.log_tail()}"
                ) from None

    async def deploy(self, document: Mapping[str, Any], recipe_dir: Path, artifact_dir: Path) -> Deployment:
        """Make this device run exactly what a deployment document lists, and what that depends on.

        Returns when configuration and artifacts are in place and every component has been told to start: use
        wait_state() for the rest. `artifact_dir` holds `<name>/<version>/<file>`. Raises DeploymentError.
        """
        async with self._deploying:
            if not self._has_power:
                raise DeploymentError("the device has no power: boot() it first")
            wanted = {item.name: item for item in parse_document(document)}
            recipes = await asyncio.to_thread(resolve, list(wanted.values()), recipe_dir, self.profile)
            for name in [name for name in self._components if name not in recipes]:
                await self._components.pop(name).stop()
                self._recipes.pop(name)
                self.ipc.services.configurations.pop(name, None)
            versions = {**dict(self.profile.builtin), **{name: recipe.version for name, recipe in recipes.items()}}
            for name, item in wanted.items():
                if name not in recipes:  # a component of AWS: its configuration is all there is of it
                    self.ipc.configuration(name).merge((), item.merge, time.time())
            for name, recipe in recipes.items():
                await self._deploy_one(recipe, wanted.get(name), artifact_dir, versions)
            self._deployed = document, recipe_dir, artifact_dir
            deployment = Deployment(str(uuid.uuid4()), {name: recipe.version for name, recipe in recipes.items()})
            log.info("deployment %s: %s", deployment.id, dict(deployment.components))
            return deployment

    async def redeploy(self) -> Deployment:
        """The last deployment again, as an operator would: what is BROKEN of its components is installed and run.

        Raises CoreError when there was none, and DeploymentError.
        """
        if self._deployed is None:
            raise CoreError("nothing was deployed yet that could be deployed again: deploy() first")
        return await self.deploy(*self._deployed)

    async def power_cut(self) -> dict[str, Any]:
        """Cut the device's power: components, stream manager and IPC die at the same moment, and what had not reached
        the medium is gone (`powercut.py`). The AWS endpoints, which are the cloud, live on. boot() brings it back.

        Returns `{"stream_manager": {"files", "bytes"}, "components": {name: {"files", "bytes"}}, "component_files"}`:
        how much was lost, and "cut", or "not cut: why" where this machine does not tell what of the components' files
        was flushed; they are then as a kill leaves them.
        """
        async with self._deploying:
            why_not = await asyncio.to_thread(powercut.why_not, self.root)
            stream_manager = self._stream_manager
            # One moment for all: what is stopped first sees nothing of the end of the others.
            for component in self._components.values():
                component.stall()
            if stream_manager is not None and stream_manager.running:
                stream_manager.stall()
            self.ipc.cut()
            self._has_power = False
            await asyncio.gather(
                *(component.lose_power() for component in self._components.values()),
                *([] if stream_manager is None else [stream_manager.kill()]),
                self.ipc.lose_power(),
            )
            return await asyncio.to_thread(self._discard_unflushed, why_not)

    def _discard_unflushed(self, why_not: str) -> dict[str, Any]:
        work = {name: self.folders.work(name) for name in self._components}
        found = {} if why_not else {name: powercut.look(folder) for name, folder in work.items()}
        return {
            "stream_manager": discard_unflushed(self.root).to_dict(),
            "components": {name: powercut.discard(found.get(name, {})).to_dict() for name in work},
            "component_files": f"not cut: {why_not}" if why_not else "cut",
        }

    async def boot(self) -> None:
        """Bring the device back after power_cut(): IPC with new tokens, the stream manager on its port, and every
        component, also one that was BROKEN; what was installed is not installed again, and errors count from none."""
        async with self._deploying:
            if self._has_power:
                raise CoreError("the device has power: power_cut() comes before boot()")
            await self.ipc.start()
            if self._stream_manager is not None and not self._stream_manager.running:
                await self._stream_manager.start()
            self._has_power = True
            for component in self._components.values():
                component.start(install=not component.installed)

    async def _deploy_one(
        self, recipe: Recipe, wanted: Wanted | None, artifact_dir: Path, versions: Mapping[str, str]
    ) -> None:
        configuration = self.ipc.configuration(recipe.name)
        before = configuration.read()
        configure(configuration, recipe, wanted, time.time())
        reconfigured = configuration.read() != before
        replaced = await asyncio.to_thread(place_artifacts, recipe, artifact_dir, self.folders)
        try:
            lifecycle = self._expanded(recipe, versions)
        except RecipeError as error:
            raise DeploymentError(str(error)) from error
        old = self._components.get(recipe.name)
        self._recipes[recipe.name] = recipe
        install = (
            old is None
            or replaced
            or old.version != recipe.version
            or old.lifecycle.install != lifecycle.install
            or (old.state == "BROKEN" and wanted is not None)
        )
        rerun = old is not None and (
            old.lifecycle != lifecycle or (reconfigured and self.profile.restarts_on_configuration)
        )
        if not install and not rerun:
            return
        if old is not None:
            await old.stop()
        component = Component(
            name=recipe.name,
            version=recipe.version,
            lifecycle=lifecycle,
            environment=lambda: self._environment(recipe),
            work_dir=self.folders.work(recipe.name),
            log_path=self.folders.log(recipe.name),
            profile=self.profile,
            ready=lambda: self._dependencies_ready(recipe),
            clock=self._clock,
            io_before=Counter() if old is None else old.io(),
        )
        self._components[recipe.name] = component
        component.start(install=install)

    def _expanded(self, recipe: Recipe, versions: Mapping[str, str]) -> Lifecycle:
        """The lifecycle with the recipe's variables replaced."""

        def text(value: str) -> str:
            return expand(value, recipe, self.profile, self.folders, self.thing_name, self._configuration, versions)

        def step(value: Step | None) -> Step | None:
            if value is None:
                return None
            setenv = {key: text(variable) for key, variable in value.setenv.items()}
            return replace(value, script=text(value.script), setenv=setenv)

        steps = recipe.lifecycle
        return Lifecycle(step(steps.install), step(steps.run), step(steps.shutdown))

    def _configuration(self, name: str) -> Configuration:
        return self.ipc.configuration(name)

    def _environment(self, recipe: Recipe) -> dict[str, str]:
        """What the nucleus gives to each process of a component, beside the recipe's Setenv."""
        token = self.ipc.token(recipe.name)
        environment = {
            **clean_environment(self.root / "home"),
            "SVCUID": token,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_IOT_THING_NAME": self.thing_name,
            "GGC_VERSION": self.profile.version,
            "GG_ROOT_CA_PATH": str(self.root / "rootCA.pem"),
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH": self.ipc.address,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": self.ipc.address,
        }
        depends = any(dependency.name == _TOKEN_EXCHANGE for dependency in recipe.dependencies)
        if depends or not self.profile.strict_recipe:
            environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = _NO_CREDENTIALS
        return environment

    async def _dependencies_ready(self, recipe: Recipe) -> None:
        """Wait until hard dependencies run and soft ones have been started."""
        for dependency in recipe.dependencies:
            states = {"RUNNING", "FINISHED"}
            if not dependency.hard:
                states |= {"ERRORED", "BROKEN"}
            while (component := self._components.get(dependency.name)) is not None and component.state not in states:
                await component.changed()

    def _on_state(self, name: str, state: str) -> None:
        if name in self._components:
            self._components[name].report(state)
