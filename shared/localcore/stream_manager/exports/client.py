"""botocore clients as the stream manager has them: against a given endpoint, and without retries of their own."""

from __future__ import annotations

from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

CALL_TIMEOUT_S = 5.0


def make_client(service: str, region: str, endpoint: str) -> Any:
    """A client with one connection that is kept open, and with credentials that nobody checks."""
    session = botocore.session.Session()
    session.set_credentials("local", "local")
    config = Config(
        connect_timeout=CALL_TIMEOUT_S,
        read_timeout=CALL_TIMEOUT_S,
        retries={"total_max_attempts": 1},
        max_pool_connections=1,
        inject_host_prefix=False,
        parameter_validation=False,
        request_checksum_calculation="when_required",
        proxies={},  # those of the environment are for the internet, and the endpoints are on this machine
    )
    return session.create_client(service, region_name=region, endpoint_url=endpoint, config=config)


def error_code(error: ClientError) -> str:
    """AWS's name of the error, such as `NoSuchBucket`."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))
