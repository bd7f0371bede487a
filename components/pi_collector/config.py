"""The collector's whole configuration; the models are its documentation."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from sluice import units
from sluice.config import (
    ComponentSettings,
    Duration,
    Labelled,
    Named,
    OutboxSettings,
    SecretRef,
    Settings,
    Size,
    refuse,
)
from sluice.tag_settings import Asset, TagsPackage

_URL: Final = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^/:@?#\s]+)(:\d{1,5})?(/[^?#\s]*)?")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OURS: Final = frozenset(
    ("authorization", "connection", "content-length", "content-type", "cookie", "host", "transfer-encoding", "upgrade")
)


def _url(value: Any) -> str:
    text = str(value).strip().rstrip("/")
    if "@" in text.split("://", 1)[-1].split("/", 1)[0]:
        refuse(
            "holds a login",
            "take user and password out of it and write them under user: {name: …, password: {secret: …}}",
        )
    if not _URL.fullmatch(text):
        refuse("is no address of a PI Web API", "write https://<host>/piwebapi, without anything behind it")
    try:
        urlsplit(text).port  # noqa: B018 - raises for a port that is none
    except ValueError:
        refuse("has a port that is none", "write a port from 1 to 65535, or leave it out for 443")
    return text


def _path(value: Any) -> str:
    text = str(value).strip()
    parts = text.removeprefix("\\\\").split("\\")
    if not text.startswith("\\\\") or len(parts) != 2 or not all(part.strip() for part in parts):
        refuse("is no path of a point", "write \\\\SERVER\\POINT, or the point's name alone under point")
    return text


def _point(value: Any) -> Any:
    if isinstance(value, str) and "\\" in value:
        refuse("is a path, and no name of a point", "write it under path, as \\\\SERVER\\POINT")
    if isinstance(value, str) and ("*" in value or "?" in value):
        refuse("is no name of a point: none has * or ?", "write it under select, as name, to have all that fit")
    return value


def _initial(value: Any) -> str | float:
    """ "now", seconds back from now, or ISO 8601 in UTC."""
    text = str(value).strip()
    if text.lower() == "now":
        return "now"
    try:
        seconds = units.parse_duration(value)
    except units.UnitError:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None or not 1970 <= moment.year <= 2200:
            refuse(
                "is neither now, nor a duration, nor a time", "write now, 7d, or a time such as 2026-03-01T10:00:00Z"
            )
        return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if seconds > 3650 * 86400:
        refuse("is longer than ten years", "write now, a duration such as 7d, or a time such as 2026-03-01T10:00:00Z")
    return seconds


def _backfill(value: Any) -> Any:
    try:
        few = 0 < float(value) < 100
    except (TypeError, ValueError):  # pydantic says what is wrong with it
        return value
    if few:
        refuse("is too small", "use 100 or more, or 0 to read nothing of the past at present")
    return value


Url = Annotated[str, BeforeValidator(_url)]
Initial = Annotated[str | float, BeforeValidator(_initial)]
PollInterval = Annotated[Duration, Field(ge=0.1, le=86400)]
Window = Annotated[Duration, Field(ge=1, le=31 * 86400)]
Overlap = Annotated[Duration, Field(ge=0, le=86400)]
Settle = Annotated[Duration, Field(ge=0, le=3600)]
MaxBackfill = Annotated[Duration, Field(ge=60, le=3650 * 86400)]
Transport = Literal["auto", "channel", "updates", "poll"]
Mode = Literal["recorded", "snapshot", "end", "interpolated", "summary"]
Gate = Literal["all", "good-and-uncertain", "good"]
Summary = Literal[
    "Total", "Average", "Minimum", "Maximum", "Range", "StdDev", "PopulationStdDev", "Count", "PercentGood"
]


def _average() -> list[Summary]:
    return ["Average"]


class Tag(Settings):
    """One PI point to collect, by name or by path."""

    setting: ClassVar[str] = "tags"
    """The connection's setting that the tag comes from."""

    point: Annotated[str, Field(max_length=1024), BeforeValidator(_point)] = ""
    """The point's name on the connection's data server, such as SINUSOID."""
    path: Annotated[str, BeforeValidator(_path)] | None = None
    """The point's path, ``\\\\SERVER\\SINUSOID``, for one on another data server."""
    unit: str = ""
    """Engineering unit; without one the point's own is taken."""
    asset: Asset = ""
    """Asset path in the place of the connection's."""
    group: str = ""
    """The group that says how it is collected; without one the connection's own settings do."""

    @model_validator(mode="after")
    def _one_address(self) -> Tag:
        if bool(self.point.strip()) == (self.path is not None):
            refuse("needs exactly one of point and path", "give the point's name (point) or its path (path)")
        return self


class FileTag(Tag):
    """A tag of the connection's tagsFile."""

    setting: ClassVar[str] = "tagsFile"


class PackageTag(Tag):
    """A tag of the connection's tagsPackage."""

    setting: ClassVar[str] = "tagsPackage"


class Select(Settings):
    """A search: every point of the data server that it finds becomes a tag with the point's name."""

    name: Annotated[str, Field(max_length=256, examples=["Unit1.*"])] = ""
    """Names of points, with * and ?."""
    source: Annotated[str, Field(max_length=256)] = ""
    """Only points of this point source."""
    query: Annotated[str, Field(max_length=2000, examples=["Tag:=Unit1* PointType:=Float32"])] = ""
    """In the place of name and source: a query as PI's point search takes it (PI Web API 2021 SP3 and later)."""
    exclude: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)] = Field(default_factory=list)
    """Names that are left out, with * and ?."""
    prefix: Annotated[str, Field(max_length=128)] = ""
    """What stands before the point's name in the tag's name."""
    group: str = ""
    """The group that says how they are collected; without one the connection's own settings do."""
    asset: Asset = ""
    """Asset path in the place of the connection's."""

    @model_validator(mode="after")
    def _one_way(self) -> Select:
        if bool(self.query) == bool(self.name or self.source):
            refuse(
                "needs either name and source or query", "give name, such as Unit1.*, or a query of PI's point search"
            )
        return self


class Reconcile(Settings):
    """The archive is read again now and then, for what came late or was edited, or was lost without a sign."""

    every: Annotated[Duration, Field(ge=1, le=7 * 86400)] = 600.0
    """How often."""
    window: Annotated[Duration, Field(ge=0, le=31 * 86400)] = 3600.0
    """How far back; 0 for never. What is in it is remembered: 8 bytes of memory for each value."""


class Group(Settings):
    """How points are collected, for the tags that name the group. What is left out is as the connection has it."""

    mode: Mode | None = None
    """What is collected of a point; see the connection's mode."""
    transport: Transport | None = None
    """How new values are fetched, in mode recorded; see the connection's transport."""
    poll_interval: PollInterval | None = None
    """How often the server is asked, where it is polled."""
    interval: Window | None = None
    """In modes interpolated and summary: the time from one value to the next."""
    summaries: Annotated[list[Summary], Field(min_length=1, max_length=9)] | None = None
    """In mode summary: what is calculated; each becomes a tag of its own, such as SINUSOID.Average."""
    gate: Gate | None = None
    """Which qualities are sent on; see the connection's gate."""
    overlap: Overlap | None = None
    """What is read again before the place where reading goes on."""
    settle: Settle | None = None
    """How long the archive may take to have a value."""
    reconcile: Reconcile | None = None
    """The archive is read again now and then for what came late."""
    initial: Initial | None = None
    """Where a point that is new begins; see the connection's initial."""
    max_backfill: MaxBackfill | None = None
    """A longer gap is filled from this long ago on only, and the rest is told by an event."""


class Load(Settings):
    """How much is asked of the server at most."""

    requests_per_second: Annotated[float, Field(ge=0.5, le=1000)] = 20.0
    """Requests; PI Web API itself refuses more than 1000 of a client, and an office may want it to have fewer."""
    parallel: Annotated[int, Field(ge=1, le=16)] = 4
    """Requests at the same time."""
    points_per_request: Annotated[int, Field(ge=1, le=1000)] = 100
    """Points that one request names."""
    url_bytes: Annotated[Size, Field(ge=1000, le=16000)] = 6000
    """The longest address of a request; what stands between us and the server may refuse longer ones."""
    values_per_request: Annotated[int, Field(ge=100, le=10_000_000)] = 150_000
    """The most values that one answer may have; PI Web API's own limit unless its administrator changed it."""
    points_per_channel: Annotated[int, Field(ge=1, le=2000)] = 500
    """Points on one websocket, as far as its address has room for them."""
    backfill_values_per_second: Annotated[int, Field(ge=0, le=10_000_000), BeforeValidator(_backfill)] = 100_000
    """Values of the past that are read; live data goes first all the same. 0 pauses reading the past: gaps stay open,
    and what late values there are is not looked for, until there is another number."""


class Tls(Settings):
    """How the server is known to be the right one; without this section by what this device trusts."""

    ca: str = ""
    """Path of a PEM file with the certificates that are trusted, such as the plant's own authority."""
    certificate: str = ""
    """Path of a certificate (PEM) that we show to the server."""
    key: SecretRef | None = None
    """Where the private key (PEM) of that certificate is found."""
    check_host_name: bool = True
    """The certificate must name the host of the address."""
    allow_any_certificate: bool = False
    """Believe every server. Anybody on the way can then read the password and change values; the status says so."""

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if bool(self.certificate) != (self.key is not None):
            refuse("needs certificate and key together", "give key: {file: <path of a file of mode 0600>}, or neither")
        return self


class User(Settings):
    """Who we are to the server, by name and password (Basic)."""

    name: Annotated[str, Field(min_length=1, max_length=256, examples=["PLANT\\reader"])]
    """The user's name, with its domain before it if it has one."""
    password: SecretRef
    """Where the password is found."""

    @model_validator(mode="after")
    def _no_colon(self) -> User:
        if ":" in self.name:
            refuse("has a user name with a colon, which Basic cannot carry", "write it as DOMAIN\\user")
        return self


class Bearer(Settings):
    """Who we are to the server, by a token (OpenID Connect client credentials, or one that somebody renews)."""

    token_url: Annotated[str, BeforeValidator(_url)] | None = None
    """Where tokens are given out, such as https://identity.example.com/identitymanager/connect/token."""
    client_id: str = ""
    """Who asks there."""
    client_secret: SecretRef | None = None
    """Where the secret of that client is found."""
    scope: str = ""
    """What is asked for there, if it wants to be told."""
    token: SecretRef | None = None
    """In the place of all that: where a token is found that something else keeps fresh."""

    @model_validator(mode="after")
    def _one_way(self) -> Bearer:
        asked = self.token_url is not None and bool(self.client_id) and self.client_secret is not None
        if asked == (self.token is not None):
            refuse(
                "needs either tokenUrl, clientId and clientSecret, or token",
                "give the three of a client, or token: {secret: …}",
            )
        return self


class Header(Settings):
    """A header that is sent with every request, for a gateway in between."""

    value: str = ""
    """What it says."""
    secret: SecretRef | None = None
    """In the place of value: where it is found."""

    @model_validator(mode="after")
    def _one_value(self) -> Header:
        if bool(self.value) == (self.secret is not None):
            refuse("needs exactly one of value and secret", "give value, or secret: {secret: …} for a key")
        if not self.value.isprintable() or not self.value.isascii():
            refuse("has characters that no header can have", "write plain printable text")
        return self


class Connection(Settings):
    """One PI Web API, with its points."""

    url: Annotated[Url, Field(examples=["https://pi.example.com/piwebapi"])]
    """The server's address, https://<host>/piwebapi."""
    fail_over: Annotated[list[Url], Field(max_length=8)] = Field(default_factory=list)
    """Addresses of other PI Web API servers of the same PI system, which are used in turn when one cannot be."""
    data_server: Annotated[str, Field(max_length=256)] = ""
    """The data archive's name; without it the only one that the server knows."""
    asset: Asset = ""
    """Asset path (site/area/line/machine) that the tags inherit."""
    user: User | None = None
    """Who we are to the server, by name and password; without this section and bearer anonymous."""
    bearer: Bearer | None = None
    """Who we are to the server, by a token."""
    headers: Labelled[Header] = Field(default_factory=dict)
    """Further headers of every request, by their names."""
    tls: Tls = Tls()
    """How the server is known to be the right one."""
    allow_unencrypted: bool = False
    """Send passwords and tokens to an address that begins with http:, where others can read them."""
    mode: Mode = "recorded"
    """recorded: every value of the archive, and live what it sees before it compresses; snapshot: the newest value at
    each poll; end: the same of points with a future; interpolated, summary: calculated by the server, see interval."""
    transport: Transport = "auto"
    """How new values are fetched, in mode recorded: channel (websocket), updates (stream updates), poll (reads of the
    archive). auto tries them in this order; where one cannot be had the next one is used until it can."""
    poll_interval: PollInterval = 5.0
    """How often the server is asked, where it is polled; stream updates too."""
    interval: Window = 60.0
    """In modes interpolated and summary: the time from one value to the next; they stand at whole multiples of it."""
    summaries: Annotated[list[Summary], Field(min_length=1, max_length=9)] = Field(default_factory=_average)
    """In mode summary: what is calculated; each becomes a tag of its own, such as SINUSOID.Average."""
    gate: Gate = "all"
    """Which qualities are sent on. What is left out is counted, and does not come again."""
    substituted: Literal["good", "uncertain"] = "good"
    """The quality of values that somebody has replaced in PI."""
    out_of_range: Literal["uncertain", "bad"] = "uncertain"
    """The quality of the states Under Range, Over Range and those of alarm limits."""
    digitals: Literal["name", "code"] = "name"
    """Values of digital points: the state's name, with its code as the status, or the code as an integer."""
    overlap: Overlap = 60.0
    """What is read again before the place where reading goes on, for values that came a little late."""
    settle: Settle = 10.0
    """How long the archive may take to have a value; reading ends this long before the server's present."""
    reconcile: Reconcile = Reconcile()
    """The archive is read again now and then, for what came late."""
    initial: Initial = "now"
    """Where a point that is new begins: now, so long ago (7d), or at a time (2026-03-01T10:00:00Z)."""
    max_backfill: MaxBackfill = 7 * 86400.0
    """A longer gap is filled from this long ago on only, and the rest is told by an event."""
    refresh: Annotated[Duration, Field(ge=60, le=30 * 86400)] = 86400.0
    """How often points are looked up anew, for those that were renamed, made anew or changed; searches too."""
    request_timeout: Annotated[Duration, Field(ge=1, le=600)] = 60.0
    """How long the server may take for one answer."""
    heartbeat: Annotated[Duration, Field(ge=1, le=300)] = 10.0
    """How often a websocket is asked whether it lives; one that says nothing for three times as long is given up."""
    load: Load = Load()
    """How much is asked of the server at most."""
    groups: Named[Group] = Field(default_factory=dict)
    """Other ways to collect some of the points, by a name that tags and searches refer to."""
    select: Named[Select] = Field(default_factory=dict)
    """Searches: every point that one finds is collected, without a tag for it."""
    tags: Labelled[Tag] = Field(default_factory=dict)
    """What to collect, by tag name; they come before those of tagsFile and tagsPackage with the same name."""
    tags_file: str = ""
    """CSV file with further tags, whose changes apply by themselves; a relative path starts at the component's work
    folder. Columns: tag, and point or path; further unit, asset, group and connection."""
    tags_package: Annotated[TagsPackage, Field(examples=["site-a"])] = ""
    """Tag package with further tags, such as site-a, deployed as io.sluice.Tags.site-a; columns as in tagsFile."""

    @model_validator(mode="after")
    def _one_identity(self) -> Connection:
        if self.user is not None and self.bearer is not None:
            refuse("has both user and bearer", "take one of the two out")
        for name in self.headers:
            if not _HEADER.fullmatch(name) or name.lower() in _OURS:
                refuse(f"has the header {name!r}, which cannot be set", "name another header, such as X-Api-Key")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, the first one first, each once."""
        return tuple(dict.fromkeys((self.url, *self.fail_over)))


TRIED_AGAIN: Final = "it is tried again; all other connections run on"
"""The effect of whatever keeps a connection from being made."""


class Configuration(ComponentSettings):
    """Configuration of io.sluice.PiCollector."""

    outbox: OutboxSettings = OutboxSettings()
    """How much is kept on this device until its consumers have it."""
    connections: Named[Connection] = Field(default_factory=dict)
    """The PI Web API servers to collect from, by a name that becomes part of topics and streams."""
