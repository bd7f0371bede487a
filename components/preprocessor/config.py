"""The preprocessor's configuration.

    flows:
      reactor:
        inputs:
          line1: {stream: opcua-collector/line1, tags: ["Reactor/**"]}
        steps:
          gate: {type: quality, numbers: true}
          celsius: {type: convert, units: {degF: degC}}
          report: {type: report, absolute: 0.5, maxInterval: 10m}

A flow is a scope: one with an error anywhere in it is reported with its exact place, keeps its last good form, and all
others run. Steps are parts of their flow (`step_settings`).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from preprocessor.step_settings import AnyStep, Derived, Pattern, Patterns
from sluice.config import ONE_OR_MANY, ComponentSettings, Duration, Named, OutboxSettings, Parts, Settings, refuse
from sluice.tag_settings import Asset, TagsPackage

PRODUCER = "preprocessor"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_STREAM = re.compile(rf"(\*|{_NAME})/(\*|{_NAME})")


def _stream(value: str) -> str:
    if value == "*":
        return "*/*"
    if not _STREAM.fullmatch(value):
        refuse(
            "names no stream",
            'write "<producer>/<source>" such as opcua-collector/line1, with * for any, or "*" for all',
        )
    return value


class Input(Settings):
    """What a flow takes."""

    stream: Annotated[str, AfterValidator(_stream), Field(examples=["opcua-collector/line1"])]
    """Whose samples: <producer>/<source>. * stands for any, but never for this component's own flows."""
    tags: Patterns = Field(["**"])
    """Which tags, by name or as <asset>/<name>."""
    exclude: Annotated[list[Pattern], ONE_OR_MANY, Field(max_length=1000)] = Field([])
    """Of these, which not."""
    assets: Patterns = Field(["**"])
    """Which asset paths."""
    backfill: bool = True
    """Takes what sources read again from their past as well; it goes out on the flow's own backfill stream."""


class Flow(Settings):
    """From inputs through steps to the stream preprocessor/<name>."""

    inputs: Annotated[Parts[Input], Field(min_length=1, max_length=60)]
    """Where samples come from, by a name of your own."""
    steps: Parts[AnyStep] = Field({})
    """What is done with them, by names of your own; each kind runs at its place."""
    mode: Literal["always", "onChange", "onTrue", "whileTrue"] = "always"
    """always: every sample goes out. whileTrue: those that come while `when` is true. onChange, onTrue: the newest
    value of every tag, whenever `when` changes or becomes true."""
    when: Annotated[str, Field(max_length=2000)] = ""
    """The expression that `mode` looks at: {Batch/Running}."""
    publish: Literal["all", "changes", "compressed"] = "all"
    """Of what goes out for one asset at one time: all of it, all of it if any value changed, or what changed alone."""
    events: Literal["pass", "drop"] = "pass"
    """Whether events of the inputs (gaps, audit) go out on the flow's events stream."""
    max_future: Annotated[Duration, Field(ge=1.0, le=86_400.0)] = 600.0
    """Samples whose time is further ahead of the clock are set aside: counted, told in an event, not processed."""
    max_tags: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    """Tags that the flow may have, derived ones included; samples of further ones are dropped and counted."""
    max_waiting: Annotated[int, Field(ge=1_000, le=10_000_000)] = 200_000
    """Samples that may wait in memory; newer ones wait in the outboxes of their collectors."""
    pack_interval: Annotated[Duration, Field(ge=0.01, le=10.0)] = 0.25
    """How long samples are gathered before they are processed together."""
    checkpoint_interval: Annotated[Duration, Field(ge=0.5, le=300.0)] = 10.0
    """How often the state is stored; collectors keep what came since, and it is gone through again after a crash."""

    @model_validator(mode="after")
    def _mode_and_when(self) -> Flow:
        if self.mode != "always" and not self.when.strip():
            refuse(f"has mode {self.mode} without `when`", "give `when`, an expression such as {Batch/Running}")
        if self.mode == "always" and self.when.strip():
            refuse("has `when`, but the mode that always sends", "set mode: whileTrue, or leave `when` out")
        return self


class Member(Settings):
    """A tag that every instance of a model has."""

    unit: str = ""
    """The unit that it is converted to; its own unit says from what."""
    optional: bool = False
    """Instances may be without it; what is derived from it is then left out for them."""
    match: Annotated[list[Pattern], ONE_OR_MANY, Field(max_length=100)] = Field([])
    """Patterns that find it: {instance} captures the instance's name, as in {instance}/Flow or FIC{instance}.PV."""


class Instance(Settings):
    """One asset of a model's type."""

    asset: Asset = ""
    """Its asset path; empty: what the model's `asset` gives."""
    tags: dict[str, str] = Field({})
    """The tag that each member is, by the member's name."""
    values: dict[str, float] = Field({})
    """Its own constants, by name."""


class Model(Settings):
    """What assets of one type have in common: members, constants, derived tags."""

    members: Annotated[Parts[Member], Field(min_length=1, max_length=60)]
    """The tags that an instance has, by the name that they get, which is also what expressions call them."""
    values: dict[str, float] = Field({})
    """Constants that expressions may use; an instance may have its own."""
    derived: Parts[Derived] = Field({})
    """What is calculated for each instance; expressions use the names of members, constants and derived tags."""
    asset: str = ""
    """The asset path of an instance; {instance} is its name, {asset} where its first tag came from. Empty: {asset}."""
    instances: Parts[Instance] = Field({})
    """The assets, by name."""
    instances_file: str = ""
    """Path of a CSV: instance, asset, and a column for each member and constant."""
    instances_package: TagsPackage = ""
    """The same as a component with such a table, made by `scripts/sluice tags package`."""


class Configuration(ComponentSettings):
    """The whole configuration of io.sluice.Preprocessor."""

    outbox: OutboxSettings = OutboxSettings()
    """How much is kept on this device until consumers have it, and the state of the flows with it."""
    models: Named[Model] = Field({})
    """Asset types, each defined once, by a name of your own; a flow uses one by a step of type model."""
    flows: Named[Flow] = Field({})
    """What is processed, by a name of your own that becomes the stream preprocessor/<name>."""
