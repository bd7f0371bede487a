"""The nucleus: what deployments make of a device. Which components there are, in what order they start, stop and are
replaced, and what becomes of a deployment.

A deployment is carried out in this order; the first three steps change nothing that runs:

    1. the document is understood, recipes are found, dependencies resolved      DeploymentError, nothing has changed
    2. all artifacts are put in place                                            DeploymentError, nothing has changed
    3. components judge their new configuration, when it comes from the cloud    FAILED_NO_STATE_CHANGE
    4. configuration of all of them: defaults, reset, merge                      DeploymentError
    5. what is new or changed is installed and run                               the deployment is in progress
    6. what is no longer listed is stopped, old versions' artifacts are deleted  SUCCEEDED

Step 5 on classic: each such component is stopped, installed and run by itself, as soon as its dependencies are there.
On lite: all of them are installed while what ran before runs on; when the last install has ended well, each old one is
stopped and the new one run. When one is BROKEN before that, none is run, and the old ones go on.

Hard dependencies hold from then on: who depends on a component that is not in one of the profile's `hard_states` any
more is stopped, and started when it is again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localcore.configuration import Configuration, ConfigurationError
from localcore.deployment import (
    Deployment,
    DeploymentError,
    Policies,
    Wanted,
    configure,
    parse_document,
    parse_policies,
    place_artifacts,
    remove_stale_artifacts,
    resolve,
)
from localcore.ipc import IpcServer
from localcore.process import Component
from localcore.recipe import Folders, Lifecycle, Recipe, RecipeError, Step, expand

log = logging.getLogger(__name__)

_PROCESS_OF_AWS = "aws.greengrass.StreamManager"
"""The one of AWS's own components here that the nucleus runs as it runs ours, and waits for at validation."""
_DONE = frozenset({"RUNNING", "FINISHED"})


@dataclass(slots=True)
class _Rollout:
    """A deployment in progress."""

    deployment: Deployment
    policies: Policies
    recipes: Mapping[str, Recipe]
    configurations: Mapping[str, Configuration]
    """What each component's was before."""
    started: dict[str, Component] = field(default_factory=dict)
    replaced: dict[str, Component] = field(default_factory=dict)
    """What of them was there before."""
    broken: frozenset[str] = frozenset()
    """What was BROKEN before: nobody waits for it on the way back."""
    decided: bool = False
    """Whether it is known what becomes of it: it is not given up any more for another one."""


class Nucleus:
    """The components of one device.

    Args:
        ipc: whose profile, configuration and validation they are.
        environment: gives the variables of a process of a component that begins now, without the recipe's own.
        run_as: number of the user and group that components run as, None for ours.
        clock: seconds, for the rule that makes a component BROKEN.
    """

    def __init__(
        self,
        folders: Folders,
        ipc: IpcServer,
        *,
        thing_name: str,
        environment: Callable[[Recipe], Mapping[str, str]],
        run_as: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.components: dict[str, Component] = {}
        self.reacting = True
        """Whether dependents follow what they depend on: not while everything is ended."""
        self._folders = folders
        self._ipc = ipc
        self._profile = ipc.profile
        self._thing_name = thing_name
        self._environment = environment
        self._run_as = run_as
        self._clock = clock
        self._rollout: _Rollout | None = None
        self._following: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def changed(self) -> Awaitable[object]:
        """Wait for the next change of any component or deployment after this call, however late it is awaited."""
        return self._changed.wait()

    async def deploy(
        self, document: Mapping[str, Any], recipe_dir: Path, artifact_dir: Path, *, cloud: bool
    ) -> Deployment:
        """Begin a deployment; see Core.deploy(). Raises DeploymentError."""
        wanted = {item.name: item for item in parse_document(document)}
        policies = parse_policies(document)
        recipes = await asyncio.to_thread(resolve, list(wanted.values()), recipe_dir, self._profile)
        versions = {name: recipe.version for name, recipe in recipes.items()}
        placed = {
            name: await asyncio.to_thread(place_artifacts, recipe, artifact_dir, self._folders, self._run_as)
            for name, recipe in recipes.items()
        }
        deployment = Deployment(str(uuid.uuid4()), versions)
        log.info("deployment %s: %s", deployment.id, versions)
        if cloud:
            proposed = self._proposed(wanted, recipes)
            why = await self._ipc.services.validation.ask(deployment.id, proposed, policies.validation_timeout)
            if why:
                self._end(deployment, "FAILED_NO_STATE_CHANGE", why)
                return deployment
        await self.supersede()
        before = {name: configuration.copy() for name, configuration in self._ipc.services.configurations.items()}
        rollout = self._rollout = _Rollout(deployment, policies, recipes, before)
        rollout.broken = frozenset(name for name, old in self.components.items() if old.state == "BROKEN")
        try:
            self._configure(wanted, recipes)
            lifecycles = self._lifecycles(recipes)
        except DeploymentError as error:
            self._end(deployment, "FAILED", str(error))
            raise
        for name, recipe in recipes.items():
            await self._renew(rollout, recipe, lifecycles[name], wanted.get(name), placed=placed[name])
        self._following = asyncio.create_task(self._follow(rollout), name=f"deployment {deployment.id}")
        return deployment

    async def supersede(self) -> None:
        """Give the deployment in progress up, unless it is decided: then wait until it has ended."""
        if self._rollout is None or self._following is None:
            return
        if not self._rollout.decided:
            self._following.cancel()
        await asyncio.wait({self._following})
        if self._rollout.deployment.status == "IN_PROGRESS":
            self._end(self._rollout.deployment, "CANCELED", "the next deployment came before this one had ended")

    async def at_rest(self) -> None:
        """Wait until nothing is done to components any more by a deployment that is decided."""
        if self._rollout is not None and self._following is not None and self._rollout.decided:
            await asyncio.wait({self._following})

    async def stop(self) -> None:
        """End every component, and the deployment in progress."""
        self.reacting = False
        await self.supersede()
        await asyncio.gather(*(component.stop() for component in self.components.values()))

    # --- configuration

    def _proposed(self, wanted: Mapping[str, Wanted], recipes: Mapping[str, Recipe]) -> dict[str, Mapping[str, Any]]:
        """The whole new configuration of each component that has another one then, and is neither new nor has another
        version then."""
        proposed = {}
        for name, item in wanted.items():
            configuration = self._ipc.services.configurations.get(name)
            old, recipe = self.components.get(name), recipes.get(name)
            same = name == _PROCESS_OF_AWS if recipe is None else old is not None and old.version == recipe.version
            if configuration is None or not same:
                continue
            after = configuration.copy()
            _update(after, item, recipe)
            if after.read() != configuration.read():
                proposed[name] = after.read()
        return proposed

    def _configure(self, wanted: Mapping[str, Wanted], recipes: Mapping[str, Recipe]) -> None:
        for name, recipe in recipes.items():
            configure(self._ipc.configuration(name), recipe, wanted.get(name), time.time())
        for name, item in wanted.items():
            if name not in recipes:  # a component of AWS: its configuration is all there is of it
                _update(self._ipc.configuration(name), item, None)

    def _lifecycles(self, recipes: Mapping[str, Recipe]) -> dict[str, Lifecycle]:
        """The recipes' lifecycles with their variables replaced."""
        versions = {**dict(self._profile.builtin), **{name: recipe.version for name, recipe in recipes.items()}}
        try:
            return {name: self._expanded(recipe, versions) for name, recipe in recipes.items()}
        except RecipeError as error:
            raise DeploymentError(str(error)) from error

    def _expanded(self, recipe: Recipe, versions: Mapping[str, str]) -> Lifecycle:
        def text(value: str) -> str:
            configuration = self._ipc.configuration
            return expand(value, recipe, self._profile, self._folders, self._thing_name, configuration, versions)

        def step(value: Step | None) -> Step | None:
            if value is None:
                return None
            setenv = {key: text(variable) for key, variable in value.setenv.items()}
            return replace(value, script=text(value.script), setenv=setenv)

        steps = recipe.lifecycle
        return Lifecycle(step(steps.install), step(steps.run), step(steps.shutdown))

    # --- components

    async def _renew(
        self, rollout: _Rollout, recipe: Recipe, lifecycle: Lifecycle, wanted: Wanted | None, *, placed: bool
    ) -> None:
        """Install and run a component when a deployment makes it necessary."""
        name = recipe.name
        old = self.components.get(name)
        updated = wanted is not None and wanted.updates and self._profile.restarts_on_configuration
        install = (
            old is None
            or placed
            or updated
            or old.version != recipe.version
            or old.lifecycle.install != lifecycle.install
            or (old.state == "BROKEN" and wanted is not None)
        )
        if old is not None:
            if not install and old.lifecycle == lifecycle:
                old.recipe = recipe
                return
            rollout.replaced[name] = old
        await self._begin(rollout, recipe, lifecycle, install=install)

    async def _begin(self, rollout: _Rollout, recipe: Recipe, lifecycle: Lifecycle, *, install: bool) -> None:
        name = recipe.name
        old, former = self.components.get(name), None
        if old is not None and self._profile.installs_first:
            old, former = _running(old)
        if old is not None:
            await old.stop()
        component = rollout.started[name] = self.components[name] = Component(
            recipe=recipe,
            lifecycle=lifecycle,
            environment=lambda: self._environment(recipe),
            work_dir=self._folders.work(name),
            run_as=self._run_as,
            log_path=self._folders.log(name),
            profile=self._profile,
            ready=lambda: self._may_start(rollout, recipe),
            on_state=lambda: self._on_state(name),
            clock=self._clock,
            io_before=Counter() if old is None else old.io(),
            former=former,
        )
        component.start(install=install)

    async def _remove(self, name: str) -> None:
        await self.components[name].stop()
        del self.components[name]
        self._ipc.services.configurations.pop(name, None)

    async def _may_start(self, rollout: _Rollout, recipe: Recipe) -> None:
        """Wait until a component may start: hard dependencies are there and soft ones have been started."""
        while self._profile.installs_first and not all(
            component.installed for component in self._current(rollout).values()
        ):
            await self.changed()
        while any(self._missing(dependency.name, hard=dependency.hard) for dependency in recipe.dependencies):
            await self.changed()

    def _missing(self, name: str, *, hard: bool) -> bool:
        state = self._state(name)
        return state is not None and state not in (self._profile.hard_states if hard else _DONE | {"ERRORED", "BROKEN"})

    def _state(self, name: str) -> str | None:
        """The state of what there is of a component, be it the version before; None when it is not one of ours."""
        component = self.components.get(name)
        if component is None:
            return None
        return component.state if component.former is None else component.former.state

    def _current(self, rollout: _Rollout) -> dict[str, Component]:
        """What a rollout has started, but for what a later one has replaced."""
        return {name: component for name, component in rollout.started.items() if self.components[name] is component}

    def _on_state(self, name: str) -> None:
        self._tell()
        state = self._state(name)
        if not self.reacting or state is None or state in self._profile.hard_states | {"STOPPING"}:
            return
        for component in self.components.values():
            living = component if component.former is None else component.former
            if any(dependency.name == name and dependency.hard for dependency in living.recipe.dependencies):
                living.restart()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- what becomes of a deployment

    async def _follow(self, rollout: _Rollout) -> None:
        """Wait for what a deployment has started, and bring it to its end."""
        deployment = rollout.deployment
        why = await self._settled(rollout)
        rollout.decided = True
        try:
            if not why:
                await self._clean_up(rollout)
                self._end(deployment, "SUCCEEDED", "")
            elif not self._profile.rolls_back:
                await self._put_back(rollout)
                self._end(deployment, "FAILED", why)
            elif not rollout.policies.rollback:
                self._end(deployment, "FAILED_ROLLBACK_NOT_REQUESTED", why)
            else:
                again = await self._roll_back(rollout)
                status = "FAILED_UNABLE_TO_ROLLBACK" if again else "FAILED_ROLLBACK_COMPLETE"
                self._end(deployment, status, f"{why}; on the way back: {again}" if again else why)
        except Exception as error:
            log.exception("deployment %s", deployment.id)
            self._end(deployment, "FAILED", f"{why}{'; ' if why else ''}the local core: {error!r}")

    def _end(self, deployment: Deployment, status: str, why: str) -> None:
        deployment.status, deployment.why = status, why
        log.info("deployment %s: %s%s", deployment.id, status, why and f": {why}")
        self._tell()

    async def _settled(self, rollout: _Rollout) -> str:
        """Wait until each component of a rollout runs or has ended well: empty, or why that cannot be any more."""
        while True:
            current = self._current(rollout)
            for name, component in current.items():
                if component.state == "BROKEN":
                    return f"component {name} is BROKEN; the end of {component.log_path}:\n{component.log_tail(500)}"
            waiting = [name for name, component in current.items() if component.state not in _DONE]
            stuck = {name: self._never_there(name, rollout) for name in waiting}
            if all(stuck.values()):
                return "; ".join(
                    f"component {name} never starts: its hard dependency {missing} has ended, or has nothing that runs"
                    for name, missing in stuck.items()
                )
            await self.changed()

    def _never_there(self, name: str, rollout: _Rollout) -> str:
        """The hard dependency for which a component waits in vain."""
        if self.components[name].state != "INSTALLED":
            return ""
        return next(
            (
                dependency.name
                for dependency in rollout.recipes[name].dependencies
                if dependency.hard and self._missing(dependency.name, hard=True)
                if self._state(dependency.name) == "FINISHED" or self._never_runs(dependency.name, rollout)
            ),
            "",
        )

    def _never_runs(self, name: str, rollout: _Rollout) -> bool:
        return name in rollout.recipes and bool(self._never_there(name, rollout))

    async def _clean_up(self, rollout: _Rollout) -> None:
        for name in [name for name in self.components if name not in rollout.recipes]:
            await self._remove(name)
        await asyncio.to_thread(remove_stale_artifacts, self._folders, rollout.deployment.components)

    async def _put_back(self, rollout: _Rollout) -> None:
        """Lite: what is not run yet never will be, and what ran before it runs on."""
        for name, component in self._current(rollout).items():
            former, component.former = component.former, None
            if former is not None:
                await component.stop()
                self.components[name] = former

    async def _roll_back(self, rollout: _Rollout) -> str:
        """Classic: everything as it was before the deployment. Empty, or why that has failed."""
        for name in [name for name in rollout.started if name not in rollout.replaced]:
            await self._remove(name)
        for name, before in rollout.configurations.items():
            self._ipc.configuration(name).restore(before)
        recipes = {name: component.recipe for name, component in self.components.items()}
        recipes.update({name: old.recipe for name, old in rollout.replaced.items()})
        back = _Rollout(rollout.deployment, rollout.policies, recipes, {})
        for old in rollout.replaced.values():
            await self._begin(back, old.recipe, old.lifecycle, install=True)
        for name in rollout.broken:
            back.started.pop(name, None)
        why = await self._settled(back)
        versions = {name: component.version for name, component in self.components.items()}
        await asyncio.to_thread(remove_stale_artifacts, self._folders, versions)
        return why


def _update(configuration: Configuration, wanted: Wanted, recipe: Recipe | None) -> None:
    """Bring a configuration up to a deployment; `recipe` is None for a component of AWS, whose defaults nobody has."""
    if recipe is not None:
        configure(configuration, recipe, wanted, time.time())
        return
    try:
        for path in wanted.reset:
            if path:
                configuration.reset(path, {})
        configuration.merge((), wanted.merge, time.time())
    except ConfigurationError as error:
        raise DeploymentError(f"{wanted.name}: its configuration cannot be stored: {error}") from error


def _running(component: Component) -> tuple[Component | None, Component | None]:
    """(what is to be stopped now, what runs on while the next one is installed) of a component."""
    former, component.former = component.former, None
    if former is not None:
        return component, former
    if component.state in ("STARTING", "RUNNING", "ERRORED"):
        return None, component
    return component, None
