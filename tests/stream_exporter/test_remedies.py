"""An export's error becomes something an engineer can act on: the destination by name, and what to do."""

from __future__ import annotations

import pytest

from stream_exporter import remedies
from stream_exporter.remedies import Destination

KINESIS = remedies.kinesis("plant-data")
S3 = remedies.s3("plant-archive")
SITEWISE = remedies.sitewise("{asset}/{tag}")


@pytest.mark.parametrize(
    ("destination", "error", "words"),
    [
        (
            KINESIS,
            "An error occurred (ResourceNotFoundException) when calling the PutRecords operation: Stream plant-data "
            "under account 1 not found.",
            ["Kinesis stream plant-data", "make the Kinesis stream plant-data"],
        ),
        (
            S3,
            "An error occurred (NoSuchBucket) when calling the PutObject operation",
            ["make the bucket plant-archive"],
        ),
        (S3, "software.amazon.awssdk.services.s3.model.NoSuchBucketException: (Status Code: 404)", ["make the bucket"]),
        (S3, "An error occurred (AccessDenied) when calling the PutObject operation", ["s3:PutObject", "arn:aws:s3"]),
        (S3, "ExpiredToken: The provided token has expired", ["token exchange role"]),
        (KINESIS, "UnrecognizedClientException: The security token included in the request is invalid", ["role"]),
        (KINESIS, "AccessDeniedException: User is not authorized to perform", ["kinesis:PutRecords"]),
        (KINESIS, "ProvisionedThroughputExceededException: Rate exceeded for shard", ["quota"]),
        (SITEWISE, '[{"errorCode":"ResourceNotFoundException"}]', ["alias", "{asset}/{tag}"]),
        (SITEWISE, '[{"errorCode":"InvalidRequestException","errorMessage":"type"}]', ["data type"]),
        (SITEWISE, '[{"errorCode":"TimestampOutOfRangeException"}]', ["clock"]),
        (SITEWISE, "AccessDeniedException", ["iotsitewise:BatchPutAssetPropertyValue"]),
        (SITEWISE, "Could not connect to the endpoint URL", ["network"]),
        (SITEWISE, "something nobody has seen", ["log"]),
    ],
)
def test_an_error_is_told_with_place_and_remedy(destination: Destination, error: str, words: list[str]) -> None:
    problem = destination.problem(error)

    text = f"{problem.why} {problem.remedy}"
    assert destination.place in problem.why
    assert error[:100] in problem.why
    for word in words:
        assert word in text


def test_a_long_error_is_cut() -> None:
    assert len(KINESIS.problem("x" * 100_000).why) < 500
