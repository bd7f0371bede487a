"""sluice deploy against AWS: botocore's own clients, their answers scripted and checked against the service model."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
import typer
from botocore.config import Config
from botocore.stub import ANY, Stubber
from rich.console import Console
from typer.testing import CliRunner, Result

import cli.cloud
from cli import deploy
from cli.cloud import Cloud, CloudError, PassingError, connect, explain
from cli.follow import Device, Followed, Follower, Screen, table
from cli.output import Failure, console
from cli.plan import Target
from cli.suite import members

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "site.yaml"
REGION = "eu-central-1"
GROUP = Target(f"arn:aws:iot:{REGION}:123456789012:thinggroup/plant")
COLLECTOR = "io.sluice.OpcUaCollector"
ID = "5f1c7c1e-0000-4000-8000-0123456789ab"
NOW = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)


class Aws:
    """Scripted AWS: what is asked has to come in the order in which it was written down."""

    def __init__(self) -> None:
        def client(service: str) -> Any:
            return boto3.client(
                service,
                region_name=REGION,
                aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
                aws_secret_access_key="none",
                config=Config(retries={"total_max_attempts": 1}),
            )

        self.greengrass, self.iot = client("greengrassv2"), client("iot")
        self._stubs = {"greengrassv2": Stubber(self.greengrass), "iot": Stubber(self.iot)}
        for stub in self._stubs.values():
            stub.activate()
        self.cloud = Cloud(self.greengrass, self.iot)

    def says(self, operation: str, answer: dict[str, Any], service: str = "greengrassv2", **asked: Any) -> None:
        self._stubs[service].add_response(operation, answer, asked or None)

    def refuses(self, operation: str, code: str, message: str = "", service: str = "greengrassv2") -> None:
        self._stubs[service].add_client_error(operation, code, message)

    def has_group(self) -> None:
        self.says(
            "describe_thing_group",
            {"thingGroupName": "plant", "thingGroupArn": GROUP.arn},
            "iot",
            thingGroupName="plant",
        )

    def has_deployment(self, components: dict[str, Any] | None = None, **more: Any) -> None:
        answer = {"deploymentId": ID, "targetArn": GROUP.arn, "deploymentStatus": "ACTIVE", "isLatestForTarget": True}
        self.says("get_deployment", {**answer, "components": components or {}, **more}, deploymentId=ANY)

    def has_devices(self, *names: str) -> None:
        self.says(
            "list_things_in_thing_group",
            {"things": list(names)},
            "iot",
            thingGroupName="plant",
            recursive=True,
            maxResults=250,
        )

    def device(self, name: str, state: str, reason: str = "", **details: Any) -> None:
        found = {
            "deploymentId": ID,
            "deploymentName": "Line 1",
            "targetArn": GROUP.arn,
            "coreDeviceExecutionStatus": state,
            "creationTimestamp": NOW,
            "modifiedTimestamp": NOW,
            **({"reason": reason} if reason else {}),
            **({"statusDetails": details} if details else {}),
        }
        self.says(
            "list_effective_deployments", {"effectiveDeployments": [found]}, coreDeviceThingName=name, maxResults=100
        )

    def core(self, name: str, status: str = "HEALTHY") -> None:
        answer = {"coreDeviceThingName": name, "status": status, "lastStatusUpdateTimestamp": NOW}
        self.says("get_core_device", answer, coreDeviceThingName=name)

    def done(self) -> None:
        for stub in self._stubs.values():
            stub.assert_no_pending_responses()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    scripted = Aws()
    monkeypatch.setattr(cli.cloud, "connect", lambda region, profile: scripted.cloud)
    yield scripted
    scripted.done()


def run(*arguments: str, given: str | None = None) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    deploy.register(app)
    return CliRunner().invoke(app, list(arguments), input=given)


def failure(result: Result) -> Failure:
    assert isinstance(result.exception, Failure), result.output
    return result.exception


def follow(aws: Aws, timeout: float = 3600.0) -> tuple[Any, list[float]]:
    """Follows with a clock of its own; what was found, and the pauses that were made."""
    pauses: list[float] = []
    found = Follower(aws.cloud, ID, timeout=timeout, clock=lambda: sum(pauses), pause=pauses.append).run()
    return found, pauses


# --- dry runs -------------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_the_document_and_asks_nobody(aws: Aws) -> None:
    result = run("--group", "plant", "--file", str(EXAMPLE), "--dry-run", "--region", REGION)
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert document["targetArn"] == f"arn:aws:iot:{REGION}:000000000000:thinggroup/plant"
    assert set(document["components"]) == {COLLECTOR, "io.sluice.StreamExporter", "io.sluice.Runtime"}


def test_a_dry_run_against_a_file_resets_what_has_gone(aws: Aws, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    old = {"logLevel": "DEBUG", "connections": {"line0": {"endpoint": "opc.tcp://10.0.0.1:4840"}}}
    component = {"componentVersion": "0.1.0", "configurationUpdate": {"merge": json.dumps(old)}}
    before.write_text(json.dumps({"targetArn": GROUP.arn, "components": {COLLECTOR: component}}))
    output = tmp_path / "deployment.json"
    arguments = ("--dry-run", "--against", str(before), "--output", str(output), "--json")
    result = run("--group", "plant", "--file", str(EXAMPLE), *arguments)
    assert result.exit_code == 0, result.exception
    document = json.loads(output.read_text())
    assert document["targetArn"] == GROUP.arn
    assert document["components"][COLLECTOR]["configurationUpdate"]["reset"] == ["/logLevel", "/connections/line0"]
    [collector] = [one for one in json.loads(result.stdout)["changes"] if one["component"] == COLLECTOR]
    assert collector["action"] == "changed"


def test_a_dry_run_may_ask_for_the_present_state(aws: Aws) -> None:
    aws.has_group()
    listed = {"targetArn": GROUP.arn, "deploymentId": ID}
    aws.says(
        "list_deployments", {"deployments": [listed]}, targetArn=GROUP.arn, historyFilter="LATEST_ONLY", maxResults=1
    )
    aws.has_deployment({"com.acme.Camera": {"componentVersion": "1.0.0"}})
    result = run("--group", "plant", "--file", str(EXAMPLE), "--dry-run", "--current")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["components"]["com.acme.Camera"] == {"componentVersion": "1.0.0"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_present_state_may_come_from_a_windows_shell(tmp_path: Path, encoding: str) -> None:
    before = tmp_path / "before.json"
    camera = {"com.acme.Camera": {"componentVersion": "1.0.0"}}
    before.write_text(json.dumps({"targetArn": GROUP.arn, "components": camera}), encoding=encoding)
    result = run("--group", "plant", "--file", str(EXAMPLE), "--dry-run", "--against", str(before))
    assert json.loads(result.stdout)["components"]["com.acme.Camera"] == {"componentVersion": "1.0.0"}


def test_a_dry_run_that_knows_of_nothing_says_what_it_would_take_away() -> None:
    result = run("--group", "plant", "--file", str(EXAMPLE), "--dry-run", "--region", REGION)
    assert "would take everything else away from its target" in result.stderr


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_found_as_the_aws_tools_find_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for one in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv(name, REGION)
    assert connect(None, None).region == REGION


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--group", "a", "--thing", "b", "--file", "x"], "give --group or --thing"),
        (["--group", "a"], "--file with the site document"),
        (["--group", "a", "--file", "x", "--current"], "go with --dry-run"),
        (["--follow", "x", "--group", "a"], "--follow takes the id"),
        (["--group", "a", "--file", "x", "--dry-run", "--current", "--against", "y"], "give one of them"),
        (["--group", "a b", "--file", "x", "--dry-run"], "--group a b is no name of a thing group"),
        (["--thing", "a/b", "--file", "x", "--dry-run"], "--thing a/b is no name of a thing"),
        (["--group", "a", "--file", "x", "--dry-run", "--region", "Frankfurt am Main"], "is no region"),
        (["--group", "a", "--file", str(EXAMPLE), "--dry-run", "--output", str(EXAMPLE)], "would replace what is read"),
    ],
)
def test_a_wrong_command_line_has_status_2(arguments: list[str], problem: str) -> None:
    refused = failure(run(*arguments))
    assert problem in str(refused)
    assert refused.status == 2


def test_a_document_with_errors_is_refused_before_anybody_is_asked(aws: Aws, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(EXAMPLE.read_text().replace("publishingInterval: 200ms", "publishingInterval: soon"))
    refused = failure(run("--group", "plant", "--file", str(site), "--yes"))
    assert "publishingInterval" in str(refused)
    assert refused.status == 1


# --- deploying ------------------------------------------------------------------------------------------------------


def test_a_deployment_is_created_and_followed_until_it_has_succeeded(aws: Aws) -> None:
    aws.has_group()
    aws.says("list_deployments", {"deployments": []})
    aws.says("list_deployments", {"deployments": []})
    aws.says(
        "create_deployment",
        {"deploymentId": ID},
        targetArn=GROUP.arn,
        deploymentName="Line 7",
        components=ANY,
        deploymentPolicies=ANY,
    )
    aws.has_deployment()
    aws.has_devices("gateway-1")
    aws.has_deployment()
    aws.device("gateway-1", "SUCCEEDED", "SUCCESSFUL")
    result = run("--group", "plant", "--file", str(EXAMPLE), "--name", "Line 7", "--yes", "--json")
    assert result.exit_code == 0, result.exception
    told = json.loads(result.stdout)
    assert (told["deploymentId"], told["succeeded"]) == (ID, True)
    assert {one["component"]: one["action"] for one in told["changes"]}[COLLECTOR] == "added"


def test_a_deployment_that_somebody_made_meanwhile_is_not_replaced(aws: Aws) -> None:
    aws.has_group()
    aws.says("list_deployments", {"deployments": []})
    aws.says("list_deployments", {"deployments": [{"targetArn": GROUP.arn, "deploymentId": ID}]})
    refused = failure(run("--group", "plant", "--file", str(EXAMPLE), "--yes"))
    assert f"nothing was deployed: somebody made deployment {ID} meanwhile" in str(refused)


def test_without_a_terminal_deploying_takes_yes(aws: Aws) -> None:
    aws.has_group()
    aws.says("list_deployments", {"deployments": []})
    refused = failure(run("--group", "plant", "--file", str(EXAMPLE)))
    assert "takes --yes" in str(refused)
    assert refused.status == 2


def test_a_device_that_fails_makes_the_status_1_and_tells_the_nucleuss_reason(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1", "gateway-2")
    aws.has_deployment()
    aws.device("gateway-1", "SUCCEEDED")
    aws.device(
        "gateway-2",
        "FAILED",
        "FAILED_ROLLBACK_COMPLETE: no Python 3.10 to 3.13",
        errorStack=["DEPLOYMENT_FAILURE", "COMPONENT_BROKEN"],
        errorTypes=["USER_COMPONENT_ERROR"],
    )
    refused = failure(run("--follow", ID))
    assert refused.status == 1
    assert "1 of 2 devices do not run" in str(refused)
    assert "gateway-2: FAILED: FAILED_ROLLBACK_COMPLETE: no Python 3.10 to 3.13" in str(refused)
    assert "COMPONENT_BROKEN" in str(refused)


# --- following ------------------------------------------------------------------------------------------------------


def test_devices_are_asked_until_each_has_ended_and_ever_more_rarely(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-2", "gateway-1")
    for round_ in range(4):
        aws.has_deployment()
        if round_ == 0:
            aws.device("gateway-1", "SUCCEEDED")
        aws.device("gateway-2", "SUCCEEDED" if round_ == 3 else "IN_PROGRESS")
        if round_ < 3:
            aws.core("gateway-2")
    found, pauses = follow(aws)
    assert found.succeeded
    assert [device.name for device in found.devices] == ["gateway-1", "gateway-2"]
    assert pauses == [3.0, 4.5, 6.75]


def test_a_thing_that_is_no_core_ends_and_does_not_count_as_success(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices("camera-1")
    aws.has_deployment()
    aws.refuses("list_effective_deployments", "ResourceNotFoundException")
    aws.refuses("get_core_device", "ResourceNotFoundException")
    found, _ = follow(aws)
    assert found.ended
    assert not found.succeeded
    assert "install a nucleus on it, or take it out of the group" in found.devices[0].words


def test_throttling_and_a_network_that_is_away_are_waited_out(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1")
    aws.refuses("get_deployment", "ThrottlingException")
    aws.refuses("get_deployment", "InternalServerException")
    aws.has_deployment()
    aws.device("gateway-1", "SUCCEEDED")
    found, pauses = follow(aws)
    assert found.succeeded
    assert pauses == [9.0, 27.0]


@pytest.mark.parametrize(
    ("status", "latest", "state"),
    [("CANCELED", True, "CANCELED"), ("INACTIVE", False, "REPLACED"), ("ACTIVE", False, "REPLACED")],
)
def test_a_canceled_or_replaced_deployment_ends_what_has_not_ended(
    aws: Aws, status: str, latest: bool, state: str
) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1", "gateway-2")
    aws.has_deployment(deploymentStatus=status, isLatestForTarget=latest)
    aws.device("gateway-1", "SUCCEEDED")
    aws.device("gateway-2", "QUEUED")
    aws.core("gateway-2")
    found, _ = follow(aws)
    assert [device.state for device in found.devices] == ["SUCCEEDED", state]
    assert not found.succeeded


def test_a_device_that_stays_away_ends_the_following_and_not_the_deployment(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1")
    for _ in range(3):
        aws.has_deployment()
        aws.says("list_effective_deployments", {"effectiveDeployments": []})
        aws.core("gateway-1", "UNHEALTHY")
    with pytest.raises(
        Failure, match=rf"after 5 s 1 of 1 devices have not ended \(gateway-1\).*--follow {ID}"
    ) as caught:
        follow(aws, timeout=5.0)
    assert caught.value.status == 3


def test_an_empty_group_is_told(aws: Aws) -> None:
    aws.has_deployment()
    aws.has_devices()
    with pytest.raises(Failure, match="the thing group plant has no things"):
        follow(aws)


def test_an_interrupt_leaves_the_deployment_running_and_says_how_to_follow_it_again(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "draw", interrupt)
    aws.has_deployment()
    aws.device("gateway-1", "IN_PROGRESS")
    aws.core("gateway-1")
    refused = failure(run("--follow", ID))
    assert f"sluice deploy --follow {ID} --region {REGION}" in str(refused)
    assert refused.status == 130


def test_brackets_in_what_devices_and_names_say_are_shown_as_they_are() -> None:
    device = Device("gateway-1", "FAILED", "[/red] no such [component]")
    shown = io.StringIO()
    Console(file=shown, width=200).print(table(Followed(ID, GROUP, [device]), "[/note]"))
    assert "[/red] no such [component]" in shown.getvalue()
    assert "[/note]" in shown.getvalue()


def test_lines_are_written_where_there_is_no_terminal(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:
    aws.has_deployment()
    aws.has_devices("gateway-1")
    aws.has_deployment()
    aws.device("gateway-1", "SUCCEEDED")
    assert not console.is_terminal
    with Screen(console) as screen:
        Follower(aws.cloud, ID, timeout=1, draw=screen.draw).run()
    assert "gateway-1: SUCCEEDED: runs it" in capsys.readouterr().err


# --- errors of AWS in words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/x is not authorized to perform: iot:CreateJob on resource: y",
            "may not do iot:CreateJob",
        ),
        ("AccessDeniedException", "no", "may not do greengrass:CreateDeployment"),
        ("ExpiredTokenException", "", "have expired: run `aws sso login`"),
        ("UnrecognizedClientException", "", "AWS does not know the credentials"),
        ("ValidationException", "bad name", "was refused (ValidationException: bad name)"),
    ],
)
def test_what_aws_refuses_is_told_with_its_remedy(code: str, message: str, words: str) -> None:
    error = botocore.exceptions.ClientError({"Error": {"Code": code, "Message": message}}, "CreateDeployment")
    told = explain(error, "greengrass:CreateDeployment", REGION)
    assert words in str(told)
    assert (told.status, told.code) == (3, code)
    assert not isinstance(told, PassingError)


@pytest.mark.parametrize(
    ("error", "words", "passing"),
    [
        (botocore.exceptions.NoCredentialsError(), "there are no AWS credentials: run `aws configure`", False),
        (botocore.exceptions.ProfileNotFound(profile="x"), "`aws configure list-profiles`", False),
        (botocore.exceptions.NoRegionError(), "give --region", False),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="https://x"), "not to be reached", True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="https://x"), "see the network and the proxy", True),
        (botocore.exceptions.TokenRetrievalError(provider="sso", error_msg="x"), "`aws sso login`", False),
    ],
)
def test_calls_that_cannot_be_made_are_told_with_their_remedy(error: Exception, words: str, passing: bool) -> None:
    told = explain(error, "greengrass:GetDeployment", REGION)
    assert words in str(told)
    assert isinstance(told, PassingError) is passing


def test_a_group_that_does_not_exist_is_told_with_its_region(aws: Aws) -> None:
    aws.refuses("describe_thing_group", "ResourceNotFoundException", service="iot")
    refused = failure(run("--group", "plnt", "--file", str(EXAMPLE), "--yes"))
    assert f"there is no thing group plnt in {REGION}" in str(refused)


def test_a_component_that_was_not_published_is_told(aws: Aws) -> None:
    aws.refuses("create_deployment", "ResourceNotFoundException", "component version does not exist")
    with pytest.raises(CloudError, match=r"component version does not exist.*`sluice publish`"):
        aws.cloud.create({"targetArn": GROUP.arn})


def test_pages_are_read_to_the_end(aws: Aws) -> None:
    arn = GROUP.component(COLLECTOR)
    one = {"componentName": COLLECTOR, "arn": f"{arn}:versions:0.1.0"}
    aws.says("list_component_versions", {"componentVersions": [{**one, "componentVersion": "0.1.9"}], "nextToken": "2"})
    aws.says(
        "list_component_versions",
        {"componentVersions": [{**one, "componentVersion": "0.1.10"}]},
        arn=arn,
        maxResults=100,
        nextToken="2",
    )
    assert aws.cloud.newest_version(COLLECTOR, GROUP) == "0.1.10"
    aws.refuses("list_component_versions", "ResourceNotFoundException")
    assert aws.cloud.newest_version("io.sluice.Tags.site-a", GROUP) is None


# --- the whole command, over HTTP -----------------------------------------------------------------------------------


def test_the_command_asks_shows_its_plan_and_deploys_when_told_yes(tmp_path: Path) -> None:
    """On a terminal, against an endpoint that speaks the services' protocol."""
    asked: list[tuple[str, str, Any]] = []
    answers = {
        ("GET", "/thing-groups/plant"): {"thingGroupName": "plant", "thingGroupArn": GROUP.arn},
        ("GET", "/greengrass/v2/deployments"): {"deployments": []},
        ("POST", "/greengrass/v2/deployments"): {"deploymentId": ID},
        ("GET", f"/greengrass/v2/deployments/{ID}"): {
            "deploymentId": ID,
            "targetArn": GROUP.arn,
            "isLatestForTarget": True,
        },
        ("GET", "/thing-groups/plant/things"): {"things": ["gateway-1"]},
        ("GET", "/greengrass/v2/coreDevices/gateway-1/effectiveDeployments"): {
            "effectiveDeployments": [{"deploymentId": ID, "coreDeviceExecutionStatus": "SUCCEEDED"}]
        },
    }

    class Endpoint(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = self.path.partition("?")[0]
            asked.append((self.command, path, json.loads(body) if body else None))
            answer = answers.get((self.command, path))
            content = json.dumps(answer if answer is not None else {"message": path}).encode()
            self.send_response(200 if answer is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / one) for one in ("shared", "components", "scripts")),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cli",
                "deploy",
                "--group",
                "plant",
                "--file",
                EXAMPLE,
                "--region",
                REGION,
                "--json",
            ],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment,
        )
        shown = b""
        while b"Deploy this" not in shown:
            assert select.select([ours], [], [], 60)[0], shown
            shown += os.read(ours, 65536)
        os.write(ours, b"y\n")
        threading.Thread(target=_drain, args=(ours,), daemon=True).start()
        out, _ = process.communicate(timeout=60)
    finally:
        server.shutdown()
        server.server_close()
        os.close(theirs)
    assert process.returncode == 0
    assert json.loads(out)["devices"][0]["state"] == "SUCCEEDED"
    assert members()[COLLECTOR].version.encode() in shown
    [created] = [body for method, path, body in asked if method == "POST"]
    assert created["targetArn"] == GROUP.arn
    assert set(created["components"]) == {COLLECTOR, "io.sluice.StreamExporter", "io.sluice.Runtime"}


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        return  # the terminal has gone with its process
