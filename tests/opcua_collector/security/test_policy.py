"""Which protection is chosen: the best that both know, and never less than before."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.config import Security
from opcua_collector.problems import TroubleError, explain, refused
from opcua_collector.security.policy import POLICIES, Choice, Policies, choose, confirm
from opcua_collector.security.user import by_strength
from opcua_collector.stack import UaStatusCodeError, ua

ORDER = ("Aes128_Sha256_RsaOaep", "Basic256Sha256", "Aes256_Sha256_RsaPss")
DEPRECATED = ("None", "Basic128Rsa15", "Basic256")
URI = "http://opcfoundation.org/UA/SecurityPolicy#"
BOTH = ua.MessageSecurityMode.SignAndEncrypt
DER = b"\x30\x02\x05\x00"


@dataclass
class Application:
    ApplicationUri: str | None = "urn:server"


@dataclass
class Endpoint:
    """What is looked at of an EndpointDescription."""

    policy: str
    SecurityLevel: int = 0
    SecurityMode: Any = BOTH
    ServerCertificate: bytes | None = DER
    EndpointUrl: str | None = "opc.tcp://plc:4840"
    Server: Any = field(default_factory=Application)

    @property
    def SecurityPolicyUri(self) -> str:  # noqa: N802 - as OPC UA names it
        return URI + self.policy


AUTO = Security()


def test_the_policies_are_those_of_the_settings() -> None:
    assert tuple(POLICIES) == ORDER


@pytest.mark.parametrize("offers", list(permutations(ORDER)))
def test_auto_takes_our_best_where_the_server_ranks_none(offers: tuple[str, ...]) -> None:
    assert choose(AUTO, [Endpoint(one) for one in offers]).policy == "Aes256_Sha256_RsaPss"


def test_auto_goes_by_the_servers_level_first() -> None:
    offers = [Endpoint("Aes256_Sha256_RsaPss", 1), Endpoint("Basic256Sha256", 9), Endpoint("Aes128_Sha256_RsaOaep", 5)]
    assert choose(AUTO, offers).policy == "Basic256Sha256"


NAMES = st.sampled_from((*ORDER, *DEPRECATED, "ECC_nistP256"))
MODES = st.sampled_from(list(ua.MessageSecurityMode))


@given(st.lists(st.tuples(NAMES, st.integers(0, 255), MODES)), st.sampled_from(("", *ORDER)))
def test_whatever_is_offered_nothing_weak_and_nothing_weaker_than_before_is_taken(
    offers: list[tuple[str, int, Any]], before: str
) -> None:
    endpoints = [Endpoint(policy, level, mode) for policy, level, mode in offers]
    fit = [policy for policy, _, mode in offers if policy in ORDER and mode == BOTH]
    strong = [policy for policy in fit if not before or ORDER.index(policy) >= ORDER.index(before)]
    if strong:
        choice = choose(AUTO, endpoints, before)
        assert (choice.policy in strong, choice.mode) == (True, BOTH)
        return
    with pytest.raises(TroubleError) as raised:
        choose(AUTO, endpoints, before)
    assert raised.value.place == "security.policy"
    assert raised.value.remedy


def test_a_policy_that_is_asked_for_is_the_only_one_whatever_was_before() -> None:
    offers = [Endpoint(one) for one in ORDER]
    for policy in ORDER:
        chosen = Security(policy=policy)
        assert choose(chosen, offers, "Aes256_Sha256_RsaPss").policy == policy
    with pytest.raises(TroubleError, match="offers Basic256Sha256/SignAndEncrypt"):
        choose(Security(policy="Aes256_Sha256_RsaPss"), offers[1:2])


def test_endpoints_of_other_transports_are_passed_over() -> None:
    offers = [Endpoint("Aes256_Sha256_RsaPss", EndpointUrl="https://plc"), Endpoint("Basic256Sha256", EndpointUrl=None)]
    assert choose(AUTO, offers).policy == "Basic256Sha256"


CHOICE = Choice("Basic256Sha256", BOTH, DER, "urn:server")


@pytest.mark.parametrize(
    "endpoints",
    [
        [Endpoint("Basic256Sha256")],
        [Endpoint("Basic256Sha256", ServerCertificate=None, Server=None)],
        [Endpoint("Basic256Sha256", Server=Application(None)), Endpoint("None")],
        [Endpoint("Basic256Sha256", ServerCertificate=b"\x30\x02\x05\x01"), Endpoint("Basic256Sha256")],
    ],
)
def test_a_session_confirms_the_choice_also_where_it_leaves_fields_out_as_it_may(endpoints: list[Endpoint]) -> None:
    confirm(CHOICE, AUTO, endpoints)


@pytest.mark.parametrize(
    ("endpoints", "words"),
    [
        ([], "is not among"),
        ([Endpoint("None")], "is not among"),
        ([Endpoint("Basic256Sha256"), Endpoint("Aes256_Sha256_RsaPss")], "the best is Aes256"),
        ([Endpoint("Basic256Sha256", ServerCertificate=b"\x30\x02\x05\x01")], "certificate is another"),
        ([Endpoint("Basic256Sha256", Server=Application("urn:other"))], "its application is urn:other"),
    ],
)
def test_a_session_that_says_something_else_is_refused(endpoints: list[Endpoint], words: str) -> None:
    with pytest.raises(TroubleError, match=words):
        confirm(CHOICE, AUTO, endpoints)


def test_what_a_connection_has_had_is_known_over_restarts_for_its_endpoint_alone(tmp_path: Path) -> None:
    Policies(tmp_path).used("line1", "opc.tcp://a", "Aes256_Sha256_RsaPss")
    again = Policies(tmp_path)
    again.used("line2", "opc.tcp://a", "Basic256Sha256")
    assert again.had("line1", "opc.tcp://a") == "Aes256_Sha256_RsaPss"
    assert again.had("line2", "opc.tcp://a") == "Basic256Sha256"
    assert again.had("line1", "opc.tcp://b") == again.had("line3", "opc.tcp://a") == ""
    assert (tmp_path / "policies.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "[]", '{"line1": 7}', '{"line1": {"endpoint": "e", "policy": ["x"]}}', "\x00"])
def test_a_damaged_memory_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "policies.json").write_text(content, encoding="utf-8")
    assert Policies(tmp_path).had("line1", "e") == ""


def test_of_several_ways_to_send_a_password_the_best_is_first() -> None:
    names = ("None", "Basic128Rsa15", "ECC_nistP256", "Basic256", "Basic256Sha256", "Aes256_Sha256_RsaPss")
    tokens = [ua.UserTokenPolicy(PolicyId=one, SecurityPolicyUri=URI + one) for one in names]
    found = [token.PolicyId for token in by_strength(tokens)]
    assert found == [*reversed(names[3:]), "Basic128Rsa15", "None", "ECC_nistP256"]


REFUSALS = {
    "BadCertificateUntrusted": "trusted ones on the server",
    "BadSecurityChecksFailed": "trusted ones on the server",
    "BadCertificateRevoked": "put another certificate",
    "BadCertificateTimeInvalid": "set the clocks",
    "BadCertificateChainIncomplete": "authority of our certificate",
    "BadApplicationSignatureInvalid": "belong together",
}


@pytest.mark.parametrize(("status", "remedy"), REFUSALS.items())
def test_a_refusal_of_our_certificate_names_it_and_the_remedy(status: str, remedy: str) -> None:
    told = refused(UaStatusCodeError(getattr(ua.StatusCodes, status)), "/own.der", "a1b2")
    assert told.place == "security"
    assert status in told.problem
    assert remedy in told.remedy
    assert "/own.der" in told.remedy


def test_clocks_that_differ_are_told_as_such() -> None:
    error = UaStatusCodeError(ua.StatusCodes.BadInvalidTimestamp)
    problem = explain(error, "line1", {"endpoint": "opc.tcp://plc"}, {"certificate": "", "thumbprint": ""})
    assert "clocks" in problem.problem
    assert "time server" in problem.remedy
