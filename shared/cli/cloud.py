"""AWS through one object: bounded calls, and errors in words that say what to do.

Failure
  CloudError          the call was refused or cannot be made: who asks gets no further
    PassingError      throttled, or the network is away: the same call may succeed later
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Final

from cli.output import IN_THE_WAY, Failure
from cli.plan import Target, newest

_ATTEMPTS: Final = 8
_MOST_PAGES: Final = 1_000
_PREFIX: Final = {"greengrassv2": "greengrass", "iot": "iot", "sts": "sts"}
_THROTTLED: Final = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})
_PASSING: Final = frozenset(
    {"InternalServerException", "InternalFailureException", "ServiceUnavailableException", "RequestTimeout"}
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_UNKNOWN_KEY: Final = frozenset(
    {"UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch"}
)
_DENIED: Final = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedException", "ForbiddenException"})


class CloudError(Failure):
    """A call that AWS refused, or that could not be made. `code` is the service's, empty when it was not reached."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text, IN_THE_WAY)
        self.code = code


class PassingError(CloudError):
    """The service throttles or is not to be reached: asking again later may succeed."""


class Cloud:
    """What the tool asks of AWS. greengrass, iot, sts: clients of boto3, or whatever answers as they do."""

    def __init__(self, greengrass: Any, iot: Any, sts: Any = None) -> None:
        self._clients = {"greengrassv2": greengrass, "iot": iot, "sts": sts}

    @property
    def region(self) -> str:
        """The region that is asked."""
        return str(self._clients["greengrassv2"].meta.region_name)

    # --- deployments ---

    def target(self, name: str, *, group: bool) -> Target:
        """The thing group or thing of a name. Raises CloudError when there is none."""
        try:
            if group:
                return Target(self._ask("iot", "describe_thing_group", thingGroupName=name)["thingGroupArn"])
            return Target(self._ask("iot", "describe_thing", thingName=name)["thingArn"])
        except CloudError as error:
            if error.code != "ResourceNotFoundException":
                raise
            kind = "thing group" if group else "thing"
            raise CloudError(
                f"there is no {kind} {name} in {self.region}: correct the name, or give --region or --profile",
                error.code,
            ) from None

    def newest_deployment(self, target: Target) -> dict[str, Any] | None:
        """GetDeployment's answer for the newest deployment of a target; None when it never had one."""
        newest = self.newest_id(target.arn)
        return self.deployment(newest) if newest else None

    def newest_id(self, arn: str) -> str:
        """The id of the newest deployment of a target's ARN, empty when it never had one."""
        listed = self._ask("greengrassv2", "list_deployments", targetArn=arn, historyFilter="LATEST_ONLY", maxResults=1)
        deployments = listed.get("deployments") or []
        return str(deployments[0]["deploymentId"]) if deployments else ""

    def deployment(self, identifier: str) -> dict[str, Any]:
        """GetDeployment's answer."""
        try:
            return self._ask("greengrassv2", "get_deployment", deploymentId=identifier)
        except CloudError as error:
            if error.code != "ResourceNotFoundException":
                raise
            raise CloudError(
                f"there is no deployment {identifier} in {self.region}: correct the id, or give --region or --profile",
                error.code,
            ) from None

    def create(self, request: dict[str, Any]) -> str:
        """Make a deployment; its id."""
        try:
            return str(self._ask("greengrassv2", "create_deployment", **request)["deploymentId"])
        except CloudError as error:
            if error.code in ("ResourceNotFoundException", "ValidationException", "ConflictException"):
                raise CloudError(
                    f"{error}. Components have to be published in {self.region} before they are deployed: "
                    f"`sluice publish`",
                    error.code,
                ) from None
            raise

    # --- devices ---

    def devices(self, target: Target) -> list[str]:
        """The things that a deployment to a target reaches, in alphabetical order."""
        if not target.is_group:
            return [target.name]
        pages = self._pages(
            "iot", "list_things_in_thing_group", "things", thingGroupName=target.name, recursive=True, maxResults=250
        )
        return sorted(set(pages))

    def core(self, thing: str) -> dict[str, Any] | None:
        """GetCoreDevice's answer; None when the thing is no core device."""
        try:
            return self._ask("greengrassv2", "get_core_device", coreDeviceThingName=thing)
        except CloudError as error:
            if error.code == "ResourceNotFoundException":
                return None
            raise

    def execution(self, thing: str, deployment: str) -> dict[str, Any] | None:
        """What a core device has made of a deployment; None when it has not heard of it yet."""
        try:
            for found in self._pages(
                "greengrassv2",
                "list_effective_deployments",
                "effectiveDeployments",
                coreDeviceThingName=thing,
                maxResults=100,
            ):
                if found.get("deploymentId") == deployment:
                    return dict(found)
        except CloudError as error:
            if error.code != "ResourceNotFoundException":
                raise
        return None

    # --- components ---

    def versions(self, arn: str) -> list[str]:
        """The versions of a component that exist; none when there is no such component."""
        try:
            pages = self._pages("greengrassv2", "list_component_versions", "componentVersions", arn=arn, maxResults=100)
            return [one["componentVersion"] for one in pages]
        except CloudError as error:
            if error.code == "ResourceNotFoundException":
                return []
            raise

    def newest_version(self, name: str, target: Target) -> str | None:
        """The newest version of a component of this account, or of one of AWS."""
        owner = "aws" if name.startswith("aws.") else ""
        return newest(self.versions(target.component(name, owner=owner)))

    def account(self) -> str:
        """The twelve digits of the account whose credentials are used."""
        return str(self._ask("sts", "get_caller_identity")["Account"])

    # --- calls ---

    def _pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        for _ in range(_MOST_PAGES):
            page = self._ask(service, operation, **parameters)
            yield from page.get(key) or ()
            if not page.get("nextToken"):
                return
            parameters["nextToken"] = page["nextToken"]
        raise CloudError(f"{service} {operation}: more than {_MOST_PAGES} pages: choose a smaller group")

    def _ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._clients[service]
        try:
            answer = getattr(client, operation)(**parameters)
        except (BotoCoreError, ClientError) as error:
            name = client.meta.method_to_api_mapping[operation]
            raise explain(error, f"{_PREFIX[service]}:{name}", self.region) from error
        assert isinstance(answer, dict)
        return answer


def connect(region: str | None, profile: str | None) -> Cloud:
    """Clients with the credentials of the environment. Raises CloudError when there are none or no region."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=10,
        read_timeout=30,
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        max_pool_connections=4,
    )
    try:
        # The AWS tools know both names, boto3 alone only the second one.
        chosen = region or os.environ.get("AWS_REGION") or None
        session = boto3.Session(region_name=chosen, profile_name=profile)
        if session.get_credentials() is None:
            raise CloudError(_NO_CREDENTIALS)
        clients = [session.client(name, config=config) for name in ("greengrassv2", "iot", "sts")]
    except BotoCoreError as error:
        raise explain(error, "", region or "") from error
    return Cloud(*clients)


_NO_CREDENTIALS: Final = (
    "there are no AWS credentials: run `aws configure` or `aws sso login`, give --profile, or set AWS_PROFILE; "
    "--dry-run needs none"
)


def explain(error: Exception, action: str, region: str) -> CloudError:
    """An error of botocore in words. `action` is the IAM action of the call, such as greengrass:CreateDeployment."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _refused(error, action, region)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return CloudError(_NO_CREDENTIALS)
    if isinstance(error, exceptions.ProfileNotFound):
        return CloudError(f"{error}: `aws configure list-profiles` shows which there are")
    if isinstance(error, exceptions.NoRegionError):
        return CloudError("no AWS region is set: give --region, or set AWS_REGION")
    if isinstance(error, exceptions.InvalidRegionError):
        return CloudError(f"{error}: correct --region")
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return PassingError(
            f"AWS is not to be reached in {region or 'the region'} ({error}): see the network and the proxy"
        )
    if isinstance(error, exceptions.ParamValidationError):
        return CloudError(f"{action} would not take what it is given: {error}")
    return CloudError(
        f"{error}: renew the credentials (`aws sso login`, `aws configure`) or see the region and profile"
    )


def _refused(error: Any, action: str, region: str) -> CloudError:
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", "")).rstrip(".")
    if code in _THROTTLED:
        return PassingError(f"AWS throttles {action} in {region}: wait a little, and ask again", code)
    if code in _PASSING:
        return PassingError(f"{action} failed inside AWS ({code}: {message}): ask again", code)
    if code in _EXPIRED:
        return CloudError("the AWS credentials have expired: run `aws sso login`, or get new ones", code)
    if code in _UNKNOWN_KEY:
        return CloudError(
            f"AWS does not know the credentials ({code}): see AWS_PROFILE, --profile and the clock of this machine",
            code,
        )
    if code in _DENIED:
        match = re.search(r"not authorized to perform:? ([A-Za-z0-9]+:[A-Za-z]+)", message)
        missing = match[1] if match else action
        return CloudError(
            f"the credentials may not do {missing}: allow this action in the IAM policy of who deploys"
            + (f" ({message})" if message else ""),
            code,
        )
    return CloudError(f"{action} was refused ({code}: {message})", code)
