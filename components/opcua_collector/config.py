"""The collector's whole configuration; the models are its documentation."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from opcua_collector.address_space import paths
from opcua_collector.address_space.address import BrowsePathError, NodeIdError, parse_browse_path, parse_node_id
from sluice.config import ComponentSettings, Duration, Labelled, Named, OutboxSettings, SecretRef, Settings, refuse
from sluice.tag_settings import Asset, TagsPackage
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


def _pattern(value: Any) -> str:
    text = str(value).strip()
    if isinstance(value, (dict, list)) or not text.startswith("/"):
        refuse(
            "is no filter, because it does not begin with /",
            "write the browse names from Objects down, such as /Plant/*/Temperature, or /Plant/** for all below Plant",
        )
    try:
        paths.Pattern(text)
    except paths.PatternError as error:
        if "//" in text:
            refuse("has an empty step", "take one of the two slashes away")
        refuse(str(error), "write fewer steps: ** stands for any number of them")
    return text


_INDEX_RANGE = re.compile(r"\d{1,9}(:\d{1,9})?(,\d{1,9}(:\d{1,9})?){0,7}")


def _index_range(value: Any) -> str:
    text = str(value).replace(" ", "")
    spans = [part.split(":") for part in text.split(",")]
    if not _INDEX_RANGE.fullmatch(text) or any(len(span) == 2 and int(span[0]) >= int(span[1]) for span in spans):
        refuse("is no range of an array", "write an index such as 3, or the first and the last such as 0:9, from 0 on")
    return text


SamplingInterval = Annotated[Duration, Field(ge=0, le=3600)]
PublishingInterval = Annotated[Duration, Field(ge=0.01, le=3600)]
PollInterval = Annotated[Duration, Field(ge=0.05, le=86400)]
Outage = Annotated[Duration, Field(ge=1, le=3600)]
Heartbeat = Annotated[Duration, Field(ge=1, le=86400)]
QueueSize = Annotated[int | Literal["auto"], BeforeValidator(_queue_size)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Mode = Literal["subscribe", "poll"]
Discard = Literal["oldest", "newest"]
Trigger = Literal["status", "value", "timestamp"]


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
    """How often the server looks at this node, in the place of its group's samplingInterval."""
    group: str = ""
    """The group that says how it is collected; without one the connection's own settings do."""
    index_range: Annotated[str, BeforeValidator(_index_range)] | None = None
    """Of an array only this part: an index such as 3, or the first and the last such as 0:9."""
    field: str = ""
    """Of a structure only this field, with its own type: Speed, or Motor/Speed for one inside another."""

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


class Select(Settings):
    """A filter: every variable of the server that it fits becomes a tag, named by its path."""

    path: Annotated[Pattern, Field(examples=["/Plant/**"])]
    """Browse names from Objects down, without namespace indexes: * is any one step or part of it, ** any number."""
    exclude: Annotated[list[Pattern], Field(max_length=64)] = Field(default_factory=list)
    """What of it is left out, written in the same way."""
    data_type: Annotated[list[str], Field(max_length=32)] = Field(default_factory=list)
    """Only variables of these data types or subtypes of them, such as Double, Number or Int32."""
    type_definition: Annotated[list[str], Field(max_length=32)] = Field(default_factory=list)
    """Only variables of these types, such as AnalogItemType, and variables inside objects of these types."""
    historizing: bool | None = None
    """Only variables of which the server records a history (true), or does not (false)."""
    prefix: str = ""
    """What stands before the path in the tag's name: Line1/ makes Line1/Plant/Temp."""
    group: str = ""
    """The group that says how they are collected; without one the connection's own settings do."""
    asset: Asset = ""
    """Asset path in the place of the connection's."""


class Deadband(Settings):
    """Changes that are too small to be worth sending. A change of quality always is."""

    absolute: Annotated[float, Field(gt=0)] | None = None
    """In the unit of the value."""
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """Of the node's range (EURange)."""
    low: float | None = None
    """For percent: the lower end of the range, where the server tells none."""
    high: float | None = None
    """For percent: its upper end."""

    @model_validator(mode="after")
    def _one_kind(self) -> Deadband:
        if (self.absolute is None) == (self.percent is None):
            refuse(
                "needs exactly one of absolute and percent",
                "give the width in units (absolute) or percent of the range",
            )
        if (self.low is None) != (self.high is None) or (
            self.low is not None and self.high is not None and self.low >= self.high
        ):
            refuse("has no range", "give low and high, low below high, or none of them")
        return self


class Group(Settings):
    """How tags are collected, for those that name the group. What is left out is as the connection has it."""

    mode: Mode | None = None
    """subscribe lets the server report changes; poll reads the values, for servers that cannot."""
    publishing_interval: PublishingInterval | None = None
    """How often the server sends what it has."""
    sampling_interval: SamplingInterval | None = None
    """How often the server looks at the nodes; without it as often as it publishes. 0: as fast as it can."""
    poll_interval: PollInterval | None = None
    """How often values are read, in mode poll."""
    queue_size: QueueSize | None = None
    """Values that the server keeps per tag until it can send them; auto covers the outage."""
    outage: Outage | None = None
    """A loss of the connection that shall cost no value."""
    discard: Discard | None = None
    """What a full queue drops."""
    trigger: Trigger | None = None
    """What counts as news: a new status, or also a new value, or also a new source timestamp."""
    deadband: Deadband | None = None
    """Changes that are too small to be worth sending."""
    heartbeat: Heartbeat | None = None
    """A tag without news for so long is read, and what the server says then is sent with the status heartbeat."""


class Browse(Settings):
    """How the server's address space is looked through, for `select`."""

    refresh: Annotated[Duration, Field(ge=60, le=7 * 86400)] = 3600.0
    """How often it is looked through anew, for nodes that came or went."""
    max_nodes: Annotated[int, Field(ge=100, le=1_000_000)] = 200_000
    """Nodes that are looked at; what is beyond is told and left out."""


class Load(Settings):
    """How much is asked of the server at most."""

    requests_per_second: Annotated[float, Field(ge=1, le=10_000)] = 50.0
    """Requests, those for new data apart, which the server answers at its own pace."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Nodes that one request names; fewer where the server says so."""
    parallel: Annotated[int, Field(ge=1, le=16)] = 2
    """Requests at the same time."""


class History(Settings):
    """What was missed is read from the server's history, where it keeps one."""

    read: bool = True
    """false leaves gaps as they are, told by an event."""
    max_window: Annotated[Duration, Field(ge=60, le=30 * 86400)] = 86400.0
    """Longer gaps are read from this long ago on only, and the rest is told by an event."""
    values_per_second: Annotated[int, Field(ge=10, le=10_000_000)] | None = None
    """The most that is read; without it 50000, so that live data has its turn."""


class Security(Settings):
    """How the channel is protected. Without this section: the best policy that both know, signed and encrypted."""

    policy: Literal["auto", "None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"] = "auto"
    """auto takes the best that both sides know and never None; None, without any protection, must be asked for."""
    mode: Literal["SignAndEncrypt", "Sign"] = "SignAndEncrypt"
    """Sign leaves what is sent readable for others; both keep it from being changed."""
    trust: str = ""
    """Which server is believed: without it those in the folder pki/trusted; ``first-use`` also puts the first
    certificate that the connection shows there; a path names the server's certificate."""
    check_host_name: bool = True
    """A certificate that is believed because of its issuer must name the endpoint's host."""
    allow_expired: bool = False
    """Believe a certificate although it is out of its time."""
    require_revocation_list: bool = False
    """Refuse certificates of an issuer of whom no revocation list is there."""


class User(Settings):
    """Who we are to the server, by name or by certificate; without this section anonymous."""

    name: str = ""
    """The user's name on the server."""
    password: SecretRef | None = None
    """Where the password is found; without it the user has none."""
    certificate: str = ""
    """Path of the user's certificate (.der or .pem), in the place of a name."""
    key: SecretRef | None = None
    """Where the certificate's private key (PEM) is found."""
    allow_unencrypted: bool = False
    """Send the password where others can read it: over policy None, or unencrypted in a channel that is only signed."""

    @model_validator(mode="after")
    def _one_identity(self) -> User:
        if bool(self.name) == bool(self.certificate):
            refuse(
                "needs exactly one of name and certificate",
                "give the name, and the password if it has one, or the certificate and its key",
            )
        if self.certificate and (self.key is None or self.password is not None):
            refuse(
                "has a certificate, which goes with a key and without a password",
                "give key: {file: <path of a file of mode 0600>} and take password out",
            )
        if self.name and self.key is not None:
            refuse(
                "has a key without its certificate",
                "give the certificate in the place of the name, or take the key out",
            )
        return self


TRIED_AGAIN: Final = "it is tried again; all other connections run on"
"""The effect of whatever keeps a connection from being made."""
PASSWORD_IN_THE_OPEN: Final = (
    "is not sent, because the channel has no protection (security.policy None) and anyone could read it",
    "set security.policy to auto, or set user.allowUnencrypted to true to send it all the same",
)
"""Problem and remedy of a password that a connection without any protection would show to everyone."""


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
    mode: Mode = "subscribe"
    """subscribe lets the server report changes; poll reads the values, for servers that cannot."""
    publishing_interval: PublishingInterval = 0.5
    """How often the server sends what it has; it may choose another interval, which the status shows."""
    sampling_interval: SamplingInterval | None = None
    """How often the server looks at its nodes; without it as often as it publishes. 0: as fast as it can."""
    poll_interval: PollInterval = 1.0
    """How often values are read, in mode poll."""
    queue_size: QueueSize = "auto"
    """Values that the server keeps per tag until it can send them; auto covers the outage."""
    outage: Outage = 60.0
    """A loss of the connection that shall cost no value: auto queues and the subscription's life follow from it."""
    discard: Discard = "oldest"
    """What a full queue drops."""
    trigger: Trigger = "value"
    """What counts as news: a new status, or also a new value, or also a new source timestamp."""
    deadband: Deadband | None = None
    """Changes that are too small to be worth sending."""
    heartbeat: Heartbeat | None = None
    """A tag without news for so long is read, and what the server says then is sent with the status heartbeat."""
    timestamps: Literal["source", "server"] = "source"
    """Whose time a sample has first; where it has none, the other's, and without any the moment of receipt."""
    keep_alive: Annotated[Duration, Field(ge=0.1, le=600)] = 5.0
    """A server without news says so this often; one that is silent for half as long again and 4 s counts as gone."""
    request_timeout: Annotated[Duration, Field(ge=0.2, le=120)] = 10.0
    """How long the server may take for one answer."""
    load: Load = Load()
    """How much is asked of the server at most."""
    history: History = History()
    """What was missed is read from the server's history, where it keeps one."""
    browse: Browse = Browse()
    """How the server's address space is looked through, for select."""
    groups: Named[Group] = Field(default_factory=dict)
    """Other ways to collect some of the tags, by a name that tags and filters refer to."""
    select: Named[Select] = Field(default_factory=dict)
    """Filters: every variable that one fits is collected, without a tag for it."""
    tags: Labelled[Tag] = Field(default_factory=dict)
    """What to collect, by tag name; they come before those of tagsFile and tagsPackage with the same name."""
    tags_file: str = ""
    """CSV file with further tags, whose changes apply by themselves; a relative path starts at the component's work
    folder. Columns: tag, and node or path; further unit, asset, type, samplingInterval, group, indexRange,
    field and connection."""
    tags_package: Annotated[TagsPackage, Field(examples=["site-a"])] = ""
    """Tag package with further tags, such as site-a, deployed as io.sluice.Tags.site-a; columns as in tagsFile."""


class Configuration(ComponentSettings):
    """Configuration of io.sluice.OpcUaCollector."""

    outbox: OutboxSettings = OutboxSettings()
    """How much is kept on this device until its consumers have it."""
    connections: Named[Connection] = Field(default_factory=dict)
    """The servers to collect from, by a name that becomes part of topics and streams."""
