"""The core: folders, IPC, the two helper processes, and the components that deployments bring."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localcore import powercut
from localcore.aws import AwsProcess
from localcore.deployment import Deployment, DeploymentError
from localcore.ipc import IpcServer
from localcore.nucleus import Nucleus
from localcore.process import Component, clean_environment
from localcore.profile import PROFILES, Profile
from localcore.recipe import Folders, Recipe
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
        root: folder for everything that it writes: `work/`, `packages/`, `logs/`, as on a device, and
            `stream_manager/`, `aws/`, `witness/` and `ipc.socket`.
        profile: `classic`, `lite`, or a Profile of one's own.
        thing_name: name of the core device.
        region: AWS region that components and endpoints believe in.
        secrets: what Secret Manager holds, by secret id or ARN (classic only).
        stream_manager: False leaves the stream manager out.
        aws: False leaves the AWS endpoints, and with them the stream manager, out.
        run_as: number of the user, and of the group, that components run as (`posixUser` of a nucleus); only root may
            name another one than itself. None: as whoever runs the core.
        path: what components find as PATH. None: as this process, the Python that runs it first.
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
        run_as: int | None = None,
        path: str | None = None,
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
        self._nucleus = Nucleus(
            self.folders, self.ipc, thing_name=thing_name, environment=self._environment, run_as=run_as, clock=clock
        )
        self._run_as = run_as
        self._path = path
        self._deploying = asyncio.Lock()
        self._deployed: tuple[Mapping[str, Any], Path, Path] | None = None
        self._deployment: Deployment | None = None
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
        if self._run_as is not None:
            os.chown(self.root / "home", self._run_as, self._run_as)
            os.chown(self.ipc.address, self._run_as, self._run_as)
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
        await self._nucleus.stop()
        if self._stream_manager is not None:
            await self._stream_manager.stop()
        if self._with_aws:
            await self._aws.stop()
        await self.ipc.stop()

    def components(self) -> Mapping[str, Component]:
        """The deployed components by name."""
        return dict(self._nucleus.components)

    def component(self, name: str) -> Component:
        """A deployed component. Raises CoreError when there is no such one."""
        deployed = self._nucleus.components
        if name not in deployed:
            raise CoreError(f"{name} is not deployed; deployed are: {', '.join(deployed) or 'none'}")
        return deployed[name]

    async def wait_state(self, name: str, state: str, timeout: float = 60.0) -> None:
        """Wait until a component is in a state. Raises CoreError when the time is over, or at once when it is BROKEN
        or FINISHED instead."""
        deadline = time.monotonic() + timeout
        while (component := self.component(name)).state != state:
            if component.state in ("BROKEN", "FINISHED") or not await self._changed(deadline):
                said = self._deployment.why if self._deployment is not None else ""
                raise CoreError(
                    f"{name} is {component.state}, not {state}; {said and f'the deployment: {said}; '}"
                    f"end of {component.log_path}:\n{component.log_tail()}"
                )

    async def wait_deployment(self, deployment: Deployment, timeout: float = 60.0) -> Deployment:
        """Wait until it is known what has become of a deployment, and return it: its `status` tells.

        Raises CoreError when the time (in seconds) is over.
        """
        deadline = time.monotonic() + timeout
        while deployment.status == "IN_PROGRESS":
            if not await self._changed(deadline):
                states = {name: component.state for name, component in self._nucleus.components.items()}
                raise CoreError(f"deployment {deployment.id} has not ended within {timeout:g} s: {states}")
        return deployment

    async def _changed(self, deadline: float) -> bool:
        """Wait for a change of any component or deployment: False when time.monotonic() has come to `deadline`."""
        try:
            await asyncio.wait_for(self._nucleus.changed(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            return False
        return True

    async def deploy(
        self, document: Mapping[str, Any], recipe_dir: Path, artifact_dir: Path, *, cloud: bool = False
    ) -> Deployment:
        """Make this device run exactly what a deployment document lists, and what that depends on.

        Returns when configuration and artifacts are in place and every component has been told to start: use
        wait_state() or wait_deployment() for the rest. A deployment that fails validation is returned with that status
        and has changed nothing; one that cannot be begun raises DeploymentError.

        document: what CreateDeployment takes. artifact_dir: holds `<name>/<version>/<file>`. cloud: it comes from the
        cloud, so that components are asked to validate their configuration; a local deployment does not ask.
        """
        async with self._deploying:
            if not self._has_power:
                raise DeploymentError("the device has no power: boot() it first")
            self._deployment = await self._nucleus.deploy(document, recipe_dir, artifact_dir, cloud=cloud)
            if self._deployment.status == "IN_PROGRESS":
                self._deployed = document, recipe_dir, artifact_dir
            return self._deployment

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
            await self._nucleus.at_rest()
            why_not = await asyncio.to_thread(powercut.why_not, self.root)
            stream_manager = self._stream_manager
            # One moment for all: what is stopped first sees nothing of the end of the others.
            for component in self._nucleus.components.values():
                component.stall()
            if stream_manager is not None and stream_manager.running:
                stream_manager.stall()
            self.ipc.cut()
            self._has_power = self._nucleus.reacting = False
            await asyncio.gather(
                *(component.lose_power() for component in self._nucleus.components.values()),
                *([] if stream_manager is None else [stream_manager.kill()]),
                self.ipc.lose_power(),
            )
            return await asyncio.to_thread(self._discard_unflushed, why_not)

    def _discard_unflushed(self, why_not: str) -> dict[str, Any]:
        work = {name: self.folders.work(name) for name in self._nucleus.components}
        found = {} if why_not else {name: powercut.look(folder) for name, folder in work.items()}
        return {
            "stream_manager": discard_unflushed(self.root).to_dict(),
            "components": {name: powercut.discard(found.get(name, {})).to_dict() for name in work},
            "component_files": f"not cut: {why_not}" if why_not else "cut",
        }

    async def boot(self) -> None:
        """Bring the device back after power_cut(): IPC with new tokens, the stream manager on its port, and every
        component, also one that was BROKEN, its install script first on classic; errors count from none."""
        async with self._deploying:
            if self._has_power:
                raise CoreError("the device has power: power_cut() comes before boot()")
            await self.ipc.start()
            if self._stream_manager is not None and not self._stream_manager.running:
                await self._stream_manager.start()
            self._has_power = self._nucleus.reacting = True
            for component in self._nucleus.components.values():
                component.start(install=self.profile.installs_at_boot or not component.installed)

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
        if self._path is not None:
            environment["PATH"] = self._path
        return environment

    def _on_state(self, name: str, state: str) -> None:
        component = self._nucleus.components.get(name)
        if component is not None:
            component.report(state)
