"""The plant's OPC UA server: asyncua's, with units, areas and variables, and a count of every service that was asked.

    Objects/Plant/Unit1/Feed/XMEAS01_AFeed      AnalogItemType: EngineeringUnits, EURange
    Objects/Plant/Unit1/State/Running           BaseDataVariableType

Until the first row a variable is null with status BadWaitingForInitialData. Nothing is writable.

asyncua copies every data value deeply when it compares it with the last one (34 µs, more than all the rest together).
The plant's data values are made once and never changed afterwards, so they are their own copies.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import asyncua.ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua import AddNodesItem, DataValue, EUInformation, NodeId, VariableAttributes, Variant
from cryptography.hazmat.primitives.serialization import Encoding

from plant.certificate import Certificate, own_certificate
from plant.history import History
from plant.subscriptions import MendedServer
from plant.tags import NAMESPACE, NAMESPACE_INDEX, UNIT_WIDTH, Tag, tags
from plant.unit import Reading, Value

ua: Any = asyncua.ua  # its annotations ask for wire types (Int32, String) where it takes plain values

APPLICATION_URI = "urn:sluice:plant:server"
POLICIES = {
    "None": [ua.SecurityPolicyType.NoSecurity],
    "Basic256Sha256": [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt, ua.SecurityPolicyType.Basic256Sha256_Sign],
    "Aes128_Sha256_RsaOaep": [
        ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
        ua.SecurityPolicyType.Aes128Sha256RsaOaep_Sign,
    ],
    "Aes256_Sha256_RsaPss": [
        ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
        ua.SecurityPolicyType.Aes256Sha256RsaPss_Sign,
    ],
}
DEFAULT_HISTORY_ROWS = 4_000

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_VARIANT_TYPES = {"Double": ua.VariantType.Double, "Int32": ua.VariantType.Int32}
_VARIANT_TYPES |= {"Boolean": ua.VariantType.Boolean, "String": ua.VariantType.String}
_UNIT_NAMESPACE = "http://www.opcfoundation.org/UA/units/un/cefact"
_NULL = ua.Variant(None, ua.VariantType.Null)
_ENCODING = "Request_Encoding_DefaultBinary"
_SERVICES = {
    number: name.removesuffix(_ENCODING) for number, name in ua.ObjectIdNames.items() if name.endswith(_ENCODING)
}
_YIELD_EVERY_UNITS = 10
"""The event loop gets its turn after so many units of a row."""


class _DataValue(DataValue):
    """A data value that nobody changes after it was made, and that therefore is its own copy."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _DataValue:
        return self


def _data_value(variant: Variant, status: Any, time: Any) -> DataValue:
    return _DataValue(variant, status, time, time)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The standard address space is a million objects that stay: looking through them takes half of making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Users(UserManager):
    """One user with a password, and users with certificates; or, without any, everybody."""

    def __init__(self, user: tuple[str, str] | None, certificates: Collection[bytes]) -> None:
        self._user = user
        self._certificates = frozenset(certificates)

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        known = (username, password) == self._user if username is not None else certificate in self._certificates
        if known or (self._user is None and not self._certificates):
            return User(role=UserRole.User, name=username)
        return None


class _Services(SimpleRoleRuleset):
    """Counts the services that clients ask for within a session, whether they are then granted or not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: Counter[str] = Counter()

    def check_validity(self, user: User, action_type_id: NodeId, body: Any) -> bool:
        self.asked[_SERVICES.get(action_type_id.Identifier, f"unknown service {action_type_id.Identifier!r}")] += 1
        return bool(super().check_validity(user, action_type_id, body))  # type: ignore[no-untyped-call]


class PlantServer:
    """Serves `units` units under an endpoint such as `opc.tcp://127.0.0.1:0/plant` (0: a free port).

    `user` is (name, password), `user_certificates` are users' certificates (DER); without both anyone may connect.
    `trusted` are the certificates (DER) of the clients that may connect, None for all; it may be changed at any time.
    `work` keeps the certificate.
    """

    def __init__(
        self,
        units: int,
        *,
        work: Path,
        endpoint: str = "opc.tcp://127.0.0.1:0/plant",
        policies: Collection[str] = ("None", "Basic256Sha256"),
        user: tuple[str, str] | None = None,
        user_certificates: Collection[bytes] = (),
        history_rows: int = DEFAULT_HISTORY_ROWS,
    ) -> None:
        self.tags: list[Tag] = tags(units)
        self.endpoint = endpoint
        self.certificate: Certificate | None = None
        self._units = units
        self._work = work
        self._policies = [kind for name in policies for kind in POLICIES[name]]
        self.trusted: Collection[bytes] | None = None
        self._tokens = [
            token
            for token, wanted in (
                (ua.UserNameIdentityToken, user is not None),
                (ua.X509IdentityToken, bool(user_certificates)),
                (ua.AnonymousIdentityToken, user is None and not user_certificates),
            )
            if wanted
        ]
        self._services = _Services()
        self._internal = MendedServer(_Users(user, user_certificates))
        self._server = Server(iserver=self._internal)
        self._node_ids = [ua.NodeId(tag.tag, NAMESPACE_INDEX) for tag in self.tags]
        self._types = [_VARIANT_TYPES[tag.type] for tag in self.tags[:UNIT_WIDTH]]
        self._statuses: dict[int, ua.StatusCode] = {}
        self._history = History(history_rows, self._prepare)

    async def start(self) -> None:
        """Build the address space and listen; `endpoint` then has the real port."""
        server = self._server
        with no_garbage_collection():
            await server.init()
        await server.set_application_uri(APPLICATION_URI)
        server.set_server_name("Sluice simulated plant")
        server.set_endpoint(self.endpoint)
        server.allow_remote_admin(False)
        server.set_identity_tokens(self._tokens)
        server.set_certificate_validator(self._validate)
        # Certificates cost a key pair: only made when a policy needs one.
        if any(kind is not ua.SecurityPolicyType.NoSecurity for kind in self._policies):
            self.certificate = await asyncio.to_thread(own_certificate, self._work, APPLICATION_URI)
            await server.load_certificate(self.certificate.certificate)
            await server.load_private_key(self.certificate.key)
        server.set_security_policy(self._policies, permission_ruleset=self._services)
        self._internal.history_manager.set_storage(self._history)
        index = await server.register_namespace(NAMESPACE)
        if index != NAMESPACE_INDEX:
            raise RuntimeError(f"{NAMESPACE} became namespace {index} of the server, not {NAMESPACE_INDEX}")
        await self._build()
        await self._await_first_row()
        await server.start()
        assert server.bserver is not None
        listening = f"{server.bserver.hostname}:{server.bserver.port}"
        self.endpoint = urlparse(self.endpoint)._replace(netloc=listening).geturl()
        for description in self._internal.endpoints:
            description.EndpointUrl = self.endpoint
            description.Server.DiscoveryUrls = [self.endpoint]

    async def stop(self) -> None:
        """Close every connection."""
        await self._server.stop()

    async def show(self, time_ns: int, readings: Sequence[Reading]) -> None:
        """Set the nodes of one row: what is new in each unit's reading."""
        time = _EPOCH + timedelta(microseconds=time_ns // 1000)
        write = self._internal.aspace.write_attribute_value
        value_attribute = ua.AttributeIds.Value
        for unit, reading in enumerate(readings):
            first = unit * UNIT_WIDTH
            self._history.remember(unit, time, reading)
            for column in reading.changed:
                status = await write(
                    self._node_ids[first + column], value_attribute, self._prepare(column, reading, time)
                )
                if not status.is_good():
                    raise RuntimeError(f"{self.tags[first + column].tag}: the server refused its own value: {status}")
            if unit % _YIELD_EVERY_UNITS == _YIELD_EVERY_UNITS - 1:
                await asyncio.sleep(0)

    async def forget(self, *, subscriptions: bool) -> None:
        """Know no client's session any more, as after its timeout; nor any subscription, as after a restart."""
        self._internal.forget_sessions()
        if subscriptions:
            service = self._internal.mended_subscriptions
            await service.delete_subscriptions(list(service.subscriptions))

    async def _validate(self, certificate: Any, application: Any) -> None:
        if self.trusted is not None and certificate.public_bytes(Encoding.DER) not in self.trusted:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    @property
    def sessions(self) -> int:
        """Number of sessions that clients have, activated or not."""
        return self._internal.external_sessions

    @property
    def subscriptions(self) -> int:
        """Number of subscriptions that there are."""
        return len(self._internal.mended_subscriptions.subscriptions)

    @property
    def watched(self) -> int:
        """Number of variables that a client monitors."""
        aspace = self._internal.aspace
        value = ua.AttributeIds.Value
        return sum(bool(aspace[node].attributes[value].datachange_callbacks) for node in self._node_ids)

    @property
    def dropped(self) -> int:
        """Values that left a full queue of a subscription before a client fetched them."""
        return self._internal.mended_subscriptions.dropped

    @property
    def services(self) -> dict[str, int]:
        """How often clients asked for each service within a session."""
        return dict(sorted(self._services.asked.items()))

    def _prepare(self, column: int, reading: Reading, time: datetime) -> DataValue:
        code = reading.statuses[column]
        status = self._statuses.get(code)
        if status is None:
            status = self._statuses[code] = ua.StatusCode(code)
        value: Value = reading.values[column]
        variant = _NULL if value is None else ua.Variant(value, self._types[column], None, False)
        return _data_value(variant, status, time)

    async def _await_first_row(self) -> None:
        now = datetime.now(timezone.utc)
        waiting = _data_value(_NULL, ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData), now)
        for node in self._node_ids:
            await self._internal.aspace.write_attribute_value(node, ua.AttributeIds.Value, waiting)

    async def _build(self) -> None:
        parents: dict[str, NodeId] = {"": ua.NodeId(ua.ObjectIds.ObjectsFolder)}
        items: list[AddNodesItem] = []
        for tag, node in zip(self.tags, self._node_ids, strict=True):
            names = [name.removeprefix(f"{NAMESPACE_INDEX}:") for name in tag.path.split("/")[2:]]
            for depth in range(1, len(names)):
                place = "/".join(names[:depth])
                if place not in parents:
                    parents[place] = ua.NodeId(place, NAMESPACE_INDEX)
                    items.append(_folder(parents["/".join(names[: depth - 1])], parents[place], names[depth - 1]))
            items.append(_variable(parents["/".join(names[:-1])], node, names[-1], tag))
            if tag.unit:
                items.extend(_properties(node, tag))
        for result, item in zip(await self._internal.isession.add_nodes(items), items, strict=True):
            if not result.StatusCode.is_good():
                raise RuntimeError(f"{item.BrowseName.Name}: the server refused the node: {result.StatusCode}")
        for first in range(0, len(self._node_ids), UNIT_WIDTH):
            self._history.add_unit(self._node_ids[first : first + UNIT_WIDTH])


def _item(parent: NodeId, node: NodeId, name: str, *, reference: int, kind: int, node_class: Any) -> AddNodesItem:
    item = AddNodesItem()
    item.RequestedNewNodeId = node
    item.ParentNodeId = parent
    item.ReferenceTypeId = ua.NodeId(reference)
    item.TypeDefinition = ua.NodeId(kind)
    item.NodeClass = node_class
    item.BrowseName = ua.QualifiedName(name, node.NamespaceIndex)
    return item


def _folder(parent: NodeId, node: NodeId, name: str) -> AddNodesItem:
    ids = ua.ObjectIds
    item = _item(parent, node, name, reference=ids.Organizes, kind=ids.FolderType, node_class=ua.NodeClass.Object)
    item.NodeAttributes = ua.ObjectAttributes()
    item.NodeAttributes.DisplayName = ua.LocalizedText(name)
    item.NodeAttributes.EventNotifier = 0
    return item


def _variable(parent: NodeId, node: NodeId, name: str, tag: Tag) -> AddNodesItem:
    ids = ua.ObjectIds
    kind = ids.AnalogItemType if tag.unit else ids.BaseDataVariableType
    item = _item(parent, node, name, reference=ids.HasComponent, kind=kind, node_class=ua.NodeClass.Variable)
    attributes = _value_attributes(name, getattr(ids, tag.type), _NULL)
    attributes.Description = ua.LocalizedText(tag.description)
    access = ua.AccessLevel.CurrentRead.mask | ua.AccessLevel.HistoryRead.mask
    attributes.AccessLevel = attributes.UserAccessLevel = access
    attributes.Historizing = True
    item.NodeAttributes = attributes
    return item


def _properties(variable: NodeId, tag: Tag) -> list[AddNodesItem]:
    ids = ua.ObjectIds
    items = []
    for name, data_type, value in (
        ("EngineeringUnits", ids.EUInformation, _engineering_unit(tag)),
        ("EURange", ids.Range, ua.Range(tag.low, tag.high)),
    ):
        node = ua.NodeId(f"{tag.tag}/{name}", NAMESPACE_INDEX)
        item = _item(
            variable, node, name, reference=ids.HasProperty, kind=ids.PropertyType, node_class=ua.NodeClass.Variable
        )
        item.BrowseName = ua.QualifiedName(name, 0)
        item.NodeAttributes = _value_attributes(name, data_type, ua.Variant(value, ua.VariantType.ExtensionObject))
        items.append(item)
    return items


def _value_attributes(name: str, data_type: int, value: Variant) -> VariableAttributes:
    attributes = VariableAttributes()
    attributes.DisplayName = ua.LocalizedText(name)
    attributes.DataType = ua.NodeId(data_type)
    attributes.Value = value
    attributes.ValueRank = ua.ValueRank.Scalar
    attributes.AccessLevel = attributes.UserAccessLevel = ua.AccessLevel.CurrentRead.mask
    attributes.MinimumSamplingInterval = 0.0
    attributes.Historizing = False
    return attributes


def _engineering_unit(tag: Tag) -> EUInformation:
    # Part 8, 5.6.4.3: the unit's id is its UN/CEFACT code, read as a number; -1 for a unit that has none.
    unit = EUInformation()
    unit.NamespaceUri = _UNIT_NAMESPACE
    unit.UnitId = int.from_bytes(tag.unece.encode("ascii"), "big") if tag.unece else -1
    unit.DisplayName = ua.LocalizedText(tag.unit)
    unit.Description = ua.LocalizedText(tag.unit)
    return unit


logging.getLogger("asyncua").setLevel(logging.WARNING)  # at INFO it writes lines for every message
