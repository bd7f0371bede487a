"""The SiteWise endpoint as boto3 finds it: documented limits, errors by entry, and what history gives back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.model
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from localcore import received
from localcore.aws import AwsProcess
from localcore.aws.model import Model, ModelError
from localcore.aws.sitewise import MAX_AGE_NS, MAX_AHEAD_NS, NS, ServiceError, SiteWise

NOW_NS = 1_700_000_000 * NS

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def sitewise(aws: AwsProcess) -> Any:
    """boto3's client, its own checks of parameters off, so that the endpoint sees what is wrong."""
    return boto3.client(
        "iotsitewise",
        region_name="us-east-1",
        endpoint_url=aws.endpoint("iotsitewise"),
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(inject_host_prefix=False, parameter_validation=False, retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def service(tmp_path: Path) -> SiteWise:
    """The service without HTTP, where the test says what time it is."""
    return SiteWise(tmp_path)


@pytest.fixture
def alias() -> str:
    """A data stream that no other test uses."""
    return f"/plant/area/{next(_numbers)}"


def value(content: Any = 1.5, time_ns: int = NOW_NS, quality: str = "GOOD", member: str = "doubleValue") -> Any:
    stamp = {"timeInSeconds": time_ns // NS, "offsetInNanos": time_ns % NS}
    return {"value": {member: content}, "timestamp": stamp, "quality": quality}


def entry(alias: str, *values: Any, entry_id: str | None = None, **more: Any) -> Any:
    identity = entry_id or f"entry-{next(_numbers)}"
    return {"entryId": identity, "propertyAlias": alias, "propertyValues": list(values or (value(),)), **more}


def codes(response: Any) -> list[str]:
    return [error["errorCode"] for refused in response["errorEntries"] for error in refused["errors"]]


def contents(history: Any) -> list[Any]:
    return [next(iter(item["value"].values())) for item in history["assetPropertyValueHistory"]]


class TestPut:
    def test_values_of_each_type_are_accepted_and_come_back(self, sitewise: Any, alias: str) -> None:
        now = time.time_ns()
        sent = {"doubleValue": -0.25, "integerValue": -(2**31), "booleanValue": False, "stringValue": "grün"}
        entries = [entry(f"{alias}/{m}", value(content, now, member=m)) for m, content in sent.items()]
        assert sitewise.batch_put_asset_property_value(entries=entries)["errorEntries"] == []
        for member, content in sent.items():
            latest = sitewise.get_asset_property_value(propertyAlias=f"{alias}/{member}")["propertyValue"]
            assert latest["value"] == {member: content}
            assert latest["timestamp"] == {"timeInSeconds": now // NS, "offsetInNanos": now % NS}
            assert latest["quality"] == "GOOD"

    def test_quality_is_good_and_the_offset_zero_when_left_out(self, sitewise: Any, alias: str) -> None:
        seconds = int(time.time())
        bare = {"value": {"doubleValue": 1.0}, "timestamp": {"timeInSeconds": seconds}}
        assert codes(sitewise.batch_put_asset_property_value(entries=[entry(alias, bare)])) == []
        latest = sitewise.get_asset_property_value(propertyAlias=alias)["propertyValue"]
        assert (latest["quality"], latest["timestamp"]["offsetInNanos"]) == ("GOOD", 0)

    def test_eleven_entries_or_a_repeated_entry_id_refuse_the_request(self, sitewise: Any, alias: str) -> None:
        for entries in (
            [entry(f"{alias}/{index}") for index in range(11)],
            [entry(f"{alias}/{index}", entry_id="same") for index in range(2)],
        ):
            with pytest.raises(sitewise.exceptions.InvalidRequestException, match="entr"):
                sitewise.batch_put_asset_property_value(entries=entries)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"entryId": "no spaces"}, "entryId"),
            ({"entryId": "x" * 65}, "entryId"),
            ({"propertyAlias": ""}, "propertyAlias"),
            ({"propertyAlias": "a" * 2049}, "propertyAlias"),
            ({"propertyAlias": "tab\there"}, "propertyAlias"),
            ({"propertyValues": [value(quality="SUPER")]}, "quality"),
            ({"propertyValues": [value("1.5")]}, "doubleValue"),
            ({"propertyValues": [value(2**31, member="integerValue")]}, "integerValue"),
            ({"propertyValues": [value(-(2**31) - 1, member="integerValue")]}, "integerValue"),
            ({"propertyValues": [value(1.5, member="integerValue")]}, "integerValue"),
            ({"propertyValues": [value(True, member="integerValue")]}, "integerValue"),
            ({"propertyValues": [value(0, member="booleanValue")]}, "booleanValue"),
            ({"propertyValues": [{"value": {"doubleValue": 1.0}, "timestamp": {"timeInSeconds": 0}}]}, "timeInSeconds"),
            ({"propertyValues": [{"value": {"doubleValue": 1.0}}]}, "timestamp is missing"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_what_does_not_fit_the_model_refuses_the_request_and_names_the_place(
        self, service: SiteWise, alias: str, change: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(ServiceError, match=problem) as refused:
            service.put({"entries": [{**entry(alias), **change}, entry(alias)]}, NOW_NS)
        assert refused.value.code == "InvalidRequestException"

    @pytest.mark.parametrize(
        ("offset_ns", "accepted"),
        [(-MAX_AGE_NS, True), (-MAX_AGE_NS - 1, False), (MAX_AHEAD_NS, True), (MAX_AHEAD_NS + 1, False)],
    )
    def test_the_window_is_seven_days_back_to_ten_minutes_ahead_inclusive(
        self, service: SiteWise, alias: str, offset_ns: int, accepted: bool
    ) -> None:
        response = service.put({"entries": [entry(alias, value(time_ns=NOW_NS + offset_ns))]}, NOW_NS)
        assert codes(response) == ([] if accepted else ["TimestampOutOfRangeException"])
        if not accepted:
            (error,) = response["errorEntries"][0]["errors"]
            time_ns = NOW_NS + offset_ns
            assert error["timestamps"] == [{"timeInSeconds": time_ns // NS, "offsetInNanos": time_ns % NS}]

    @pytest.mark.parametrize(
        "wrong",
        [
            value("x" * 1025, member="stringValue"),
            value("ü" * 513, member="stringValue"),
            value("line\nbreak", member="stringValue"),
            value(1.0000001e10),
            value(-1.0000001e10),
            value({"valueType": "D"}, member="nullValue"),
            {**value(), "value": {}},
            {**value(), "value": {"doubleValue": 1.0, "stringValue": "1"}},
        ],
        ids=["1025-bytes", "1026-bytes", "control", "too-large", "too-small", "null-good", "empty", "two-members"],
    )
    def test_a_wrong_value_costs_its_entry_only(self, service: SiteWise, alias: str, wrong: Any) -> None:
        entries = [entry(f"{alias}/a", wrong), entry(f"{alias}/b")]
        response = service.put({"entries": entries}, NOW_NS)
        assert codes(response) == ["InvalidRequestException"]
        assert response["errorEntries"][0]["entryId"] == entries[0]["entryId"]
        assert contents(service.history({"propertyAlias": f"{alias}/b"})) == [1.5]

    @pytest.mark.parametrize("right", [value("x" * 1024, member="stringValue"), value("", member="stringValue")])
    def test_strings_up_to_1024_bytes_and_empty_ones_are_accepted(
        self, service: SiteWise, alias: str, right: Any
    ) -> None:
        assert codes(service.put({"entries": [entry(alias, right)]}, NOW_NS)) == []

    def test_null_comes_with_bad_or_uncertain_quality(self, service: SiteWise, alias: str) -> None:
        null = value({"valueType": "D"}, quality="BAD", member="nullValue")
        assert codes(service.put({"entries": [entry(alias, value(), null)]}, NOW_NS)) == []

    def test_eleven_values_in_an_entry_are_too_many_and_none_too_few(self, service: SiteWise, alias: str) -> None:
        many = [value(time_ns=NOW_NS - index) for index in range(11)]
        assert codes(service.put({"entries": [entry(alias, *many)]}, NOW_NS)) == ["InvalidRequestException"]
        assert codes(service.put({"entries": [entry(alias, *many[:10])]}, NOW_NS)) == []
        none = entry(alias) | {"propertyValues": []}
        assert codes(service.put({"entries": [none]}, NOW_NS)) == ["InvalidRequestException"]

    def test_a_property_is_named_by_alias_or_by_asset_and_property(self, service: SiteWise, alias: str) -> None:
        asset = "11111111-2222-3333-4444-555555555555"
        both = entry(alias, assetId=asset, propertyId=asset)
        neither = {"entryId": "neither", "propertyValues": [value()]}
        half = {**neither, "entryId": "half", "assetId": asset}
        unknown = {**half, "entryId": "unknown", "propertyId": asset}
        response = service.put({"entries": [both, neither, half, unknown]}, NOW_NS)
        assert codes(response) == ["InvalidRequestException"] * 3 + ["ResourceNotFoundException"]

    def test_a_data_stream_keeps_the_type_of_its_first_value(self, service: SiteWise, alias: str) -> None:
        assert codes(service.put({"entries": [entry(alias)]}, NOW_NS)) == []
        other = entry(alias, value(1, member="integerValue"))
        assert codes(service.put({"entries": [other]}, NOW_NS)) == ["InvalidRequestException"]

    def test_the_same_property_and_timestamp_twice_in_a_request_conflict(self, service: SiteWise, alias: str) -> None:
        first, second = entry(alias, value(1.0)), entry(alias, value(2.0, quality="BAD"))
        response = service.put({"entries": [first, second, entry(alias, value(time_ns=NOW_NS - 1))]}, NOW_NS)
        assert codes(response) == ["ConflictingOperationException"]
        assert response["errorEntries"][0]["entryId"] == second["entryId"]
        assert codes(service.put({"entries": [second]}, NOW_NS)) == [], "alone it is accepted"

    def test_one_wrong_value_costs_the_entry_unless_partial_processing_is_on(
        self, service: SiteWise, alias: str
    ) -> None:
        mixed = entry(alias, value(1.0), value(2.0, NOW_NS - MAX_AGE_NS - 1), value(3.0, NOW_NS + 1))
        for partial, kept in ((False, []), (True, [1.0, 3.0])):
            request = {"entries": [mixed], "enablePartialEntryProcessing": partial}
            assert codes(service.put(request, NOW_NS)) == ["TimestampOutOfRangeException"]
            if kept:
                assert contents(service.history({"propertyAlias": alias})) == kept
            else:
                with pytest.raises(ServiceError, match="no data stream"):
                    service.history({"propertyAlias": alias})

    def test_nan_is_not_json_and_refuses_the_request(self, aws: AwsProcess, alias: str) -> None:
        body = json.dumps({"entries": [entry(alias, value(float("nan")))]})
        response = urllib3.request("POST", aws.endpoint("iotsitewise") + "/properties", body=body)
        assert (response.status, response.headers["x-amzn-errortype"]) == (400, "InvalidRequestException")

    def test_ordered_faults_are_used_up(
        self, sitewise: Any, aws: AwsProcess, alias: str, run: Callable[..., Any]
    ) -> None:
        def put() -> Any:
            return sitewise.batch_put_asset_property_value(entries=[entry(alias, value(time_ns=time.time_ns()))])

        for kind, code in (("throttle", "ThrottlingException"), ("unavailable", "ServiceUnavailableException")):
            run(aws.fault("iotsitewise", kind))
            with pytest.raises(ClientError, match=code):
                put()
        run(aws.fault("iotsitewise", "throttle_entries"))
        assert codes(put()) == ["ThrottlingException"]
        assert codes(put()) == []


class TestHistory:
    def test_the_same_timestamp_and_quality_overwrites_and_another_quality_is_kept(
        self, service: SiteWise, alias: str
    ) -> None:
        for content, quality in ((1.0, "GOOD"), (2.0, "BAD"), (3.0, "GOOD")):
            service.put({"entries": [entry(alias, value(content, quality=quality))]}, NOW_NS)
        found = service.history({"propertyAlias": alias})["assetPropertyValueHistory"]
        assert sorted((item["quality"], item["value"]["doubleValue"]) for item in found) == [
            ("BAD", 2.0),
            ("GOOD", 3.0),
        ]
        assert contents(service.history({"propertyAlias": alias, "qualities": ["BAD"]})) == [2.0]

    @settings(max_examples=30)
    @given(count=st.integers(1, 60), page=st.integers(1, 25), descending=st.booleans())
    def test_pages_give_every_value_once_and_in_order(
        self, tmp_path_factory: pytest.TempPathFactory, count: int, page: int, descending: bool
    ) -> None:
        service = SiteWise(tmp_path_factory.mktemp("core"))
        for index in range(count):
            service.put({"entries": [entry("a", value(float(index), NOW_NS + index))]}, NOW_NS)
        query: dict[str, Any] = {
            "propertyAlias": "a",
            "maxResults": page,
            "timeOrdering": "DESCENDING" if descending else "ASCENDING",
        }
        found: list[Any] = []
        pages = 0
        while True:
            answer = service.history(query)
            found += contents(answer)
            pages += 1
            if "nextToken" not in answer:
                break
            query["nextToken"] = answer["nextToken"]
        expected = [float(index) for index in range(count)]
        assert found == (expected[::-1] if descending else expected)
        assert pages == -(-count // page)

    def test_boto3_pages_through_one_and_through_several_properties(self, sitewise: Any, alias: str) -> None:
        now = time.time_ns()
        aliases = [f"{alias}/{index}" for index in range(3)]
        for index in range(12):
            entries = [entry(name, value(float(index), now + index)) for name in aliases]
            assert codes(sitewise.batch_put_asset_property_value(entries=entries)) == []
        pages = sitewise.get_paginator("get_asset_property_value_history").paginate(
            propertyAlias=aliases[0], PaginationConfig={"PageSize": 5}
        )
        assert [len(page["assetPropertyValueHistory"]) for page in pages] == [5, 5, 2]
        found: dict[str, list[Any]] = {"e0": [], "e1": [], "e2": []}
        request = {"entries": [{"entryId": f"e{i}", "propertyAlias": name} for i, name in enumerate(aliases)]}
        token: dict[str, str] = {}
        while True:
            page = sitewise.batch_get_asset_property_value_history(**request, **token, maxResults=7)
            for success in page["successEntries"]:
                found[success["entryId"]] += contents(success)
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        assert found == {name: [float(index) for index in range(12)] for name in found}

    def test_a_range_excludes_its_start_and_includes_its_end(self, sitewise: Any, alias: str) -> None:
        second = int(time.time())
        values = [value(float(index), (second + index) * NS) for index in range(4)]
        sitewise.batch_put_asset_property_value(entries=[entry(alias, *values)])
        found = sitewise.get_asset_property_value_history(
            propertyAlias=alias,
            startDate=datetime.fromtimestamp(second, timezone.utc),
            endDate=datetime.fromtimestamp(second + 2, timezone.utc),
        )
        assert contents(found) == [1.0, 2.0]
        entries = [{"entryId": "e", "propertyAlias": alias, "startDate": second, "endDate": second + 2}]
        page = sitewise.batch_get_asset_property_value_history(entries=entries)
        assert contents(page["successEntries"][0]) == [1.0, 2.0]

    def test_latest_values_come_in_a_batch_with_errors_by_entry(self, sitewise: Any, alias: str) -> None:
        now = time.time_ns()
        sitewise.batch_put_asset_property_value(entries=[entry(alias, value(2.0, now), value(1.0, now - NS))])
        answer = sitewise.batch_get_asset_property_value(
            entries=[{"entryId": "known", "propertyAlias": alias}, {"entryId": "unknown", "propertyAlias": "nowhere"}]
        )
        assert [e["assetPropertyValue"]["value"] for e in answer["successEntries"]] == [{"doubleValue": 2.0}]
        assert [(e["entryId"], e["errorCode"]) for e in answer["errorEntries"]] == [
            ("unknown", "ResourceNotFoundException")
        ]

    def test_an_unknown_alias_is_not_found(self, sitewise: Any) -> None:
        with pytest.raises(sitewise.exceptions.ResourceNotFoundException, match="nowhere"):
            sitewise.get_asset_property_value_history(propertyAlias="nowhere")

    @pytest.mark.parametrize("query", [{"nextToken": "AAAA"}, {"maxResults": 20001}, {"maxResults": 0}])
    def test_what_no_page_can_have_is_refused(self, service: SiteWise, alias: str, query: dict[str, Any]) -> None:
        service.put({"entries": [entry(alias)]}, NOW_NS)
        with pytest.raises(ServiceError) as refused:
            service.history({"propertyAlias": alias, **query})
        assert refused.value.code == "InvalidRequestException"


class TestWitness:
    def test_every_accepted_put_is_witnessed_also_what_was_overwritten(self, tmp_path: Path, alias: str) -> None:
        service = SiteWise(tmp_path)
        for content in (1.0, 2.0):
            service.put({"entries": [entry(alias, value(content))]}, NOW_NS)
        service.put({"entries": [entry(alias, value(3.0, NS))]}, NOW_NS)
        assert list(received.sitewise(tmp_path)) == [
            (alias, NOW_NS, 1.0, "GOOD", None, NOW_NS),
            (alias, NOW_NS, 2.0, "GOOD", None, NOW_NS),
        ]

    def test_history_and_types_outlive_the_process(self, tmp_path: Path, alias: str) -> None:
        service = SiteWise(tmp_path)
        service.put({"entries": [entry(alias, value(1.0)), entry(f"{alias}/b")]}, NOW_NS)
        service.close()
        again = SiteWise(tmp_path)
        again.put({"entries": [entry(alias, value(2.0, NOW_NS + 1))]}, NOW_NS)
        assert contents(again.history({"propertyAlias": alias})) == [1.0, 2.0]
        wrong = entry(alias, value("x", member="stringValue"))
        assert codes(again.put({"entries": [wrong]}, NOW_NS)) == ["InvalidRequestException"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=70)
)
VARIANTS = st.dictionaries(
    st.sampled_from(["doubleValue", "integerValue", "booleanValue", "stringValue", "nullValue", "other"]), SCALARS
)
STAMPS = st.fixed_dictionaries(
    {}, optional={"timeInSeconds": st.one_of(st.integers(1, 2**31), SCALARS), "offsetInNanos": SCALARS}
)
VALUES = st.fixed_dictionaries(
    {}, optional={"value": VARIANTS, "timestamp": STAMPS, "quality": st.sampled_from(["GOOD", "BAD", "ODD"])}
)
ENTRIES = st.fixed_dictionaries(
    {"entryId": st.one_of(st.just("e"), SCALARS)},
    optional={"propertyAlias": SCALARS, "propertyValues": st.one_of(SCALARS, st.lists(VALUES, max_size=2))},
)


CHECK = Model("iotsitewise").checker("BatchPutAssetPropertyValue")
INPUT = (
    botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model("iotsitewise", "service-2"), "iotsitewise")
    .operation_model("BatchPutAssetPropertyValue")
    .input_shape
)


@settings(max_examples=300)
@given(st.fixed_dictionaries({"entries": st.one_of(SCALARS, st.lists(ENTRIES, max_size=2))}))
def test_what_the_endpoint_takes_botocore_would_send(request: dict[str, Any]) -> None:
    try:
        CHECK(request, "request")
    except ModelError:
        return
    assert not ParamValidator().validate(request, INPUT).has_errors()
