"""What an engineer reads when an export fails: place, value and remedy, from the error that stream manager passes on.

Stream manager reports an export's error as text that contains the AWS error code; a code may mean different things per
destination, so each has a table. What no table knows is shown as it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CREDENTIALS = (
    r"ExpiredToken|InvalidClientTokenId|UnrecognizedClient|InvalidSignature|SignatureDoesNotMatch|InvalidAccessKeyId"
    r"|MissingAuthenticationToken|CredentialsError|NoCredential|Unable to locate credentials|Unable to load credentials"
)
_FORBIDDEN = r"AccessDenied|Forbidden|NotAuthorized|status code:? 403|\(403\)"
_THROTTLED = r"Throttl|ProvisionedThroughputExceeded|SlowDown|LimitExceeded|TooManyRequests"
_NETWORK = (
    r"UnknownHost|Connection ?refused|ConnectionError|EndpointConnection|Could not connect|timed? ?out|Timeout"
    r"|ServiceUnavailable|InternalFailure|InternalServerError|InternalError"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, for people, and what to do."""

    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a sink's data goes: `place` names it (`Kinesis stream plant-data`), `permission` is the IAM action used."""

    place: str
    permission: str
    resource: str  # how the resource in a policy is called
    missing: str  # what to do when it does not exist
    missing_codes: str  # regular expression
    refusals: Mapping[str, str]  # regular expression -> remedy

    def problem(self, error: str) -> Problem:
        """Turn an export's error text into something an engineer can act on."""
        text = " ".join(error.split())[:300]
        for pattern, remedy in (
            (self.missing_codes, self.missing),
            *self.refusals.items(),
            (_CREDENTIALS, "the core's credentials are not valid: check the token exchange role alias and the clock"),
            (_FORBIDDEN, f"grant {self.permission} on {self.resource} to the core's token exchange role"),
            (_THROTTLED, "the destination's quota is reached: raise it, or send less; nothing is lost while it waits"),
            (_NETWORK, "the destination is not reachable: check the network; stream manager tries for ever"),
        ):
            if pattern and re.search(pattern, error, re.IGNORECASE):
                return Problem(f"{self.place}: {text}", remedy)
        return Problem(f"{self.place}: {text}", "see aws.greengrass.StreamManager's log")


def sitewise(alias: str) -> Destination:
    """AWS IoT SiteWise, written to by aliases of that template."""
    return Destination(
        place=f"AWS IoT SiteWise (aliases {alias})",
        permission="iotsitewise:BatchPutAssetPropertyValue",
        resource="the time series or assets",
        missing="no property has this alias and the account does not make time series for unknown aliases: give the "
        "property its alias, or allow data ingestion for data streams without assets",
        missing_codes=r"ResourceNotFound",
        refusals={
            r"TimestampOutOfRange": "SiteWise takes values of the last 7 days: check the device's clock",
            r"InvalidRequest|ConflictingOperation": "SiteWise refused a value: compare the property's data type with "
            "the tag's (integers can be sent as doubles: `integers: double`)",
        },
    )


def kinesis(stream: str) -> Destination:
    """A Kinesis data stream."""
    return Destination(
        place=f"Kinesis stream {stream}",
        permission="kinesis:PutRecords and kinesis:ListShards",
        resource=f"the stream {stream}",
        missing=f"make the Kinesis stream {stream} in the core's account and region, or correct `kinesisStream`",
        missing_codes=r"ResourceNotFound",
        refusals={r"InvalidArgument|ValidationException": "Kinesis refused the records: check the stream's settings"},
    )


def s3(bucket: str) -> Destination:
    """An S3 bucket."""
    return Destination(
        place=f"S3 bucket {bucket}",
        permission="s3:PutObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts",
        resource=f"arn:aws:s3:::{bucket}/*",
        missing=f"make the bucket {bucket} in the core's region or correct `bucket`; files are kept and tried again",
        missing_codes=r"NoSuchBucket|bucket does not exist|\(404\)|status code:? 404",
        refusals={
            r"PermanentRedirect|AuthorizationHeaderMalformed": f"the bucket {bucket} is in another region",
            r"Permission denied|cannot be read": "run this component and aws.greengrass.StreamManager as the same user",
        },
    )
