"""The collector's whole configuration; the models are its documentation."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from opcua_collector.address import BrowsePathError, NodeIdError, parse_browse_path, parse_node_id
from sluice.config import ComponentSettings, Duration, Labelled, Named, OutboxSettings, SecretRef, Settings, refuse
from sluice.tag_package import component_name
from sluice.units import comma

_ENDPOINT = re.compile(r"opc\.tcp://(\[[0-9a-fA-F:.]+\]|[^/:@\s]+)(:\d{1,5})?(/\S*)?")


def _endpoint(value: Any) -> str:
    text = str(value).strip()
    if "@" in text.split("://", 1)[-1].split("/", 1)[0]:
        refuse(
            "holds a login",
            "take user and password out of it and write them under user: {name: …, password: {secret: …}}",
        )
    if not _ENDPOINT.fullmatch(text):
        refuse("is no OPC UA endpoint", "write opc.tcp://<host>:<port>, and the path behind it if the server has one")
    return text


def _node(value: Any) -> str:
    try:
        parse_node_id(str(value))
    except NodeIdError as error:
        refuse(str(error), 'write it as "nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s=')
    return str(value)


def _path(value: Any) -> str:
    try:
        parse_browse_path(str(value))
    except BrowsePathError as error:
        refuse(str(error), 'write it from the root, such as "/Objects/2:Plant/2:Temperature", with namespace indexes')
    return str(value)


def _asset(value: Any) -> str:
    if isinstance(value, (dict, list)):
        refuse("is not text", "write a path such as site/area/line1")
    return "/".join(part.strip() for part in str(value).split("/") if part.strip())


def _queue_size(value: Any) -> int | str:
    text = str(value).strip().lower()
    if text == "auto":
        return "auto"
    if told := comma(text):
        refuse(*told)
    try:
        size = int(float(text))
    except (ValueError, OverflowError):  # the latter: inf
        size = 0
    if not 1 <= size <= 1_000_000:
        refuse("is no queue size", "use auto, or a number from 1 to 1000000 of values that the server keeps per tag")
    return size


def _tags_package(value: Any) -> str:
    text = str(value).strip()
    try:
        return component_name(text) if text else ""
    except ValueError as error:
        refuse(str(error), "write the name that it was made with, such as site-a, or io.sluice.Tags.site-a")


SamplingInterval = Annotated[Duration, Field(ge=0, le=3600)]
Asset = Annotated[str, BeforeValidator(_asset)]


class Tag(Settings):
    """One value to collect: its node, by node id or by browse path."""

    setting: ClassVar[str] = "tags"
    """The connection's setting that the tag comes from."""

    node: Annotated[str, BeforeValidator(_node)] | None = None
    """Node id with the namespace's URI, ``nsu=urn:x;s=Temp``: indexes (``ns=2``) may change at a server's restart."""
    path: Annotated[str, BeforeValidator(_path)] | None = None
    """Browse path from the root, ``/Objects/2:Plant/2:Temp``."""
    unit: str = ""
    """Engineering unit; without one the server's EngineeringUnits is taken."""
    asset: Asset = ""
    """Asset path in the place of the connection's."""
    type: Literal["auto", "double", "integer", "boolean", "string"] = "auto"
    """Type of the tag for ever; auto takes it from the node's data type."""
    sampling_interval: SamplingInterval | None = None
    """How often the server looks at this node, in the place of the connection's samplingInterval."""

    @model_validator(mode="after")
    def _one_address(self) -> Tag:
        if (self.node is None) == (self.path is None):
            refuse("needs exactly one of node and path", "give the node id (node) or the browse path (path)")
        return self


class FileTag(Tag):
    """A tag of the connection's tagsFile."""

    setting: ClassVar[str] = "tagsFile"


class PackageTag(Tag):
    """A tag of the connection's tagsPackage."""

    setting: ClassVar[str] = "tagsPackage"


TAG_TABLES: Final[tuple[type[Tag], ...]] = (FileTag, PackageTag)
"""The tags that come from tables, in the order in which a tag that several have is taken."""


class Security(Settings):
    """How the channel is protected. Without this section: Basic256Sha256, signed and encrypted."""

    policy: Literal["auto", "None", "Basic256Sha256"] = "auto"
    """auto takes the best that both sides know and never None; None, without any protection, must be asked for."""
    mode: Literal["SignAndEncrypt", "Sign"] = "SignAndEncrypt"
    """Sign leaves what is sent readable for others; both keep it from being changed."""
    trust: str = ""
    """Which server is believed: ``first-use`` pins the first certificate it shows; a path names its certificate."""


class User(Settings):
    """Who we are to the server; without this section anonymous."""

    name: Annotated[str, Field(min_length=1)]
    """The user's name on the server."""
    password: SecretRef | None = None
    """Where the password is found; without it the user has none."""
    allow_unencrypted: bool = False
    """Send the password where others can read it: over policy None, or unencrypted in a channel that is only signed."""


class Connection(Settings):
    """One server, with its tags."""

    endpoint: Annotated[str, BeforeValidator(_endpoint), Field(examples=["opc.tcp://192.168.0.10:4840"])]
    """The server's address, opc.tcp://<host>:<port> and the path behind it if it has one."""
    asset: Asset = ""
    """Asset path (site/area/line/machine) that the tags inherit."""
    security: Security = Security()
    """How the channel is protected; without this section with Basic256Sha256, signed and encrypted."""
    user: User | None = None
    """Who we are to the server; without this section anonymous."""
    publishing_interval: Annotated[Duration, Field(ge=0.01, le=3600)] = 0.5
    """How often the server sends what it has; it may choose another interval, which the status shows."""
    sampling_interval: SamplingInterval | None = None
    """How often the server looks at its nodes; without it as often as it publishes. 0: as fast as it can."""
    queue_size: Annotated[int | Literal["auto"], BeforeValidator(_queue_size)] = "auto"
    """Values that the server keeps per tag until it can send them; auto covers an outage of a minute."""
    keep_alive: Annotated[Duration, Field(ge=0.1, le=600)] = 5.0
    """A server without news says so this often; one that is silent for half as long again and 4 s counts as gone."""
    request_timeout: Annotated[Duration, Field(ge=0.2, le=120)] = 10.0
    """How long the server may take for one answer."""
    tags: Labelled[Tag] = Field(default_factory=dict)
    """What to collect, by tag name; they come before those of tagsFile and tagsPackage with the same name."""
    tags_file: str = ""
    """CSV file with further tags, whose changes apply by themselves; a relative path starts at the component's work
    folder. Columns: tag, and node or path; further unit, asset, type, samplingInterval and connection."""
    tags_package: Annotated[str, BeforeValidator(_tags_package), Field(examples=["site-a"])] = ""
    """Tag package with further tags, such as site-a, deployed as io.sluice.Tags.site-a; columns as in tagsFile."""


class Configuration(ComponentSettings):
    """Configuration of io.sluice.OpcUaCollector."""

    outbox: OutboxSettings = OutboxSettings()
    """How much is kept on this device until its consumers have it."""
    connections: Named[Connection] = Field(default_factory=dict)
    """The servers to collect from, by a name that becomes part of topics and streams."""
