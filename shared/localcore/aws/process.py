"""The AWS endpoints as a process of their own, driven by whoever runs the core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from localcore.child import ChildProcess

_SERVED_BY = {"s3": "moto", "kinesis": "moto", "secretsmanager": "moto", "iotsitewise": "sitewise"}


class AwsProcess(ChildProcess):
    """Runs `python -m localcore.aws`.

    root: the core's folder. What SiteWise accepted lives in `witness/` below it and outlives the process; what moto
        holds (S3, Kinesis, Secrets Manager) does not.
    """

    def __init__(self, root: Path, *, region: str) -> None:
        self._root = root
        self._region = region
        self._ports = {"moto": 0, "sitewise": 0}
        super().__init__("localcore.aws", {}, root / "logs" / "aws.log")

    def _arguments(self) -> list[str]:
        ports = ["--moto-port", str(self._ports["moto"]), "--sitewise-port", str(self._ports["sitewise"])]
        return ["--root", str(self._root), "--region", self._region, *ports]

    def _on_ready(self, line: Mapping[str, Any]) -> None:
        self._ports = line["ports"]

    def endpoint(self, service: str) -> str:
        """The URL of `s3`, `kinesis`, `secretsmanager` or `iotsitewise`. Raises KeyError for others."""
        return f"http://127.0.0.1:{self._ports[_SERVED_BY[service]]}"

    def client(self, service: str) -> Any:
        """A boto3 client for one of the endpoints. Like all of boto3 it blocks."""
        return boto3.client(
            service,
            region_name=self._region,
            endpoint_url=self.endpoint(service),
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - nobody checks it
            # No proxies: those of the environment are for the internet, and these endpoints are on this machine.
            config=Config(inject_host_prefix=False, max_pool_connections=1, proxies={}),
        )

    def create_kinesis_stream(self, name: str, shards: int = 1) -> None:
        """Creates a Kinesis data stream and waits until it is active. Blocks."""
        kinesis = self.client("kinesis")
        kinesis.create_stream(StreamName=name, ShardCount=shards)
        kinesis.get_waiter("stream_exists").wait(StreamName=name)

    def create_bucket(self, name: str) -> None:
        """Creates an S3 bucket. Blocks."""
        elsewhere = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        options = {"CreateBucketConfiguration": elsewhere} if elsewhere else {}
        self.client("s3").create_bucket(Bucket=name, **options)

    async def fault(self, service: str, kind: str, count: int = 1) -> None:
        """Makes the next `count` requests to a service fail; see `faults.py` for the kinds."""
        await self.command("fault", service=service, kind=kind, count=count)
