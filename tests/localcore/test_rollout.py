"""What deployments make of a device: new versions and the way back, dependencies, what is removed, what fails."""

from __future__ import annotations

import asyncio
import json
import zipfile
from typing import Any

import pytest
import yaml

from localcore import CoreError, DeploymentError

from .conftest import BOTH, IDLE, MakeSite, Site, gone, until

HARD = {"VersionRequirement": "*", "DependencyType": "HARD"}
SOFT = {"VersionRequirement": "*", "DependencyType": "SOFT"}


def packaged(site: Site, version: str, *, config: dict[str, Any] | None = None) -> None:
    """Component a, which runs what its artifact of this version says."""
    site.recipe(
        "a",
        {"install": "echo {artifacts:path} >> installs", "run": "sh {artifacts:decompressedPath}/code/run.sh"},
        version=version,
        config=config,
    )
    path = site.recipes / f"a-{version}.yaml"
    document = yaml.safe_load(path.read_text())
    document["Manifests"][0]["Artifacts"] = [{"Uri": "s3://x/a/code.zip", "Unarchive": "ZIP"}]
    path.write_text(yaml.safe_dump(document))
    folder = site.artifacts / "a" / version
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "code.zip", "w") as archive:
        archive.writestr("run.sh", f"echo {version} >> runs; {IDLE}")


def placed(site: Site) -> list[str]:
    """The artifacts on the device: `<artifacts or artifacts-unarchived>/<name>/<version>`."""
    root = site.core.root / "packages"
    return sorted(path.relative_to(root).as_posix() for path in root.glob("*/*/*"))


# --- versions


@BOTH
async def test_an_upgrade_and_a_downgrade_run_in_the_same_work_folder_and_keep_the_configuration(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    packaged(site, "1.0.0", config={"rate": "1", "renamed": "old"})
    await site.deploy(a={"own": "kept"})
    pid = (await site.state("a", "RUNNING")).pid

    packaged(site, "1.1.0", config={"rate": "2", "added": "new"})
    assert (await site.deploy(a=None)).components == {"a": "1.1.0"}
    assert (await site.state("a", "RUNNING")).pid != pid
    assert pid is not None
    assert gone(pid)
    known = site.core.ipc.configuration("a").read()
    del known["accessControl"]
    # A default never overwrites, and what a version no longer has lingers.
    assert known == {"rate": "1", "renamed": "old", "own": "kept", "added": "new"}

    packaged(site, "1.0.0", config={"rate": "1", "renamed": "old"})
    deployment = await site.deploy(a=None)
    assert (deployment.status, site.core.component("a").version) == ("SUCCEEDED", "1.0.0")
    await until(lambda: site.file("a", "runs") == "1.0.0\n1.1.0\n1.0.0\n", lambda: site.file("a", "runs"))


@BOTH
async def test_artifacts_of_old_versions_go_when_a_deployment_has_succeeded_and_not_before(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    packaged(site, "1.0.0")
    await site.deploy(a=None)
    both = ["artifacts-unarchived/a/", "artifacts/a/"]
    assert placed(site) == [f"{folder}1.0.0" for folder in both]

    packaged(site, "1.1.0")
    path = site.recipes / "a-1.1.0.yaml"
    path.write_text(path.read_text().replace("echo {artifacts:path}", "exit 1"))
    assert (await site.deploy(a=None)).status.startswith("FAILED")
    assert placed(site) == [f"{folder}{version}" for folder in both for version in ("1.0.0", "1.1.0")]

    packaged(site, "1.1.0")
    assert (await site.deploy(a=None)).status == "SUCCEEDED"
    assert placed(site) == [f"{folder}1.1.0" for folder in both]


@BOTH
async def test_what_is_no_longer_listed_is_stopped_and_forgotten_when_the_rest_runs(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    packaged(site, "1.0.0")
    site.recipe("b", {"run": IDLE})
    await site.deploy(a={"own": "x"}, b=None)
    pid = (await site.state("a", "RUNNING")).pid
    assert pid is not None
    site.recipe("c", {"install": "test -f may || sleep 0.2", "run": IDLE})
    deployment = await site.begin(b=None, c=None)
    assert not gone(pid)
    assert (await site.core.wait_deployment(deployment)).status == "SUCCEEDED"
    assert gone(pid)
    assert set(site.core.components()) == {"b", "c"}
    assert placed(site) == []
    assert site.core.ipc.configuration("a").read() == {}
    # Its work folder is nobody's to delete.
    assert site.file("a", "runs") == "1.0.0\n"


async def test_classic_stops_the_old_version_before_the_new_one_is_installed(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"run": f"echo $$ > pid; {IDLE}"})
    await site.deploy(a=None)
    await until(lambda: site.file("a", "pid"), lambda: "")
    install = "kill -0 $(cat pid) && echo beside > seen || echo alone > seen"
    site.recipe("a", {"install": install, "run": IDLE}, version="1.1.0")
    await site.deploy(a=None)
    assert site.file("a", "seen") == "alone\n"


async def test_lite_installs_the_new_version_beside_the_old_one_and_all_of_them_before_any_runs(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": f"echo $$ > pid; {IDLE}"})
    await site.deploy(a=None)
    await until(lambda: site.file("a", "pid"), lambda: "")
    install = "kill -0 $(cat pid) && echo beside > seen || echo alone > seen"
    site.recipe("a", {"install": install, "run": f"cp ../b/done before; {IDLE}"}, version="1.1.0")
    site.recipe("b", {"install": "sleep 0.3; touch done", "run": IDLE})
    assert (await site.deploy(a=None, b=None)).status == "SUCCEEDED"
    assert site.file("a", "seen") == "beside\n"
    await until(lambda: (site.core.folders.work("a") / "before").exists(), lambda: "a ran before b was installed")
    old = int(site.file("a", "pid"))
    assert gone(old)


async def test_on_lite_what_ran_before_runs_on_when_an_install_fails(make_site: MakeSite) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": IDLE})
    await site.deploy(a=None)
    pid = (await site.state("a", "RUNNING")).pid
    site.recipe("a", {"run": IDLE}, version="1.1.0")
    site.recipe("b", {"install": "exit 1", "run": "touch ran"})
    deployment = await site.deploy(a=None, b=None)
    assert deployment.status == "FAILED"
    assert deployment.why.startswith("component b is BROKEN")
    component = site.core.component("a")
    assert (component.version, component.state, component.pid) == ("1.0.0", "RUNNING", pid)
    assert not (site.core.folders.work("b") / "ran").exists()


@BOTH
async def test_the_next_deployment_takes_the_place_of_one_that_has_not_ended(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE})
    await site.deploy(a=None)
    site.recipe("a", {"install": IDLE, "run": "exit 1"}, version="1.1.0")
    first = await site.begin(a=None)
    site.recipe("a", {"run": IDLE}, version="1.2.0")
    second = await site.deploy(a=None)
    assert (first.status, second.status) == ("CANCELED", "SUCCEEDED")
    assert (await site.state("a", "RUNNING")).version == "1.2.0"


@BOTH
async def test_a_deployment_that_has_not_ended_can_be_stopped_and_lose_its_power(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE})
    await site.deploy(a=None)
    site.recipe("a", {"install": "touch begun; sync begun; test -f may || sleep 1000", "run": IDLE}, version="1.1.0")
    deployment = await site.begin(a=None)
    await until((site.core.folders.work("a") / "begun").exists, lambda: site.core.component("a").state)
    await site.core.power_cut()
    (site.core.folders.work("a") / "may").touch()
    await site.core.boot()
    assert (await site.core.wait_deployment(deployment)).status == "SUCCEEDED"
    assert site.core.component("a").version == "1.1.0"


async def test_on_lite_a_new_version_can_be_stopped_at_any_moment_of_its_change_with_the_old_one(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    for number in range(10):
        site.recipe("a", {"run": IDLE}, version=f"1.0.{number}")
        await site.deploy(a=None)
        pid = (await site.state("a", "RUNNING")).pid
        assert pid is not None
        site.recipe("a", {"run": IDLE}, version=f"1.1.{number}")
        await site.begin(a=None)
        await asyncio.sleep(number * 0.002)
        component = site.core.component("a")
        await asyncio.wait_for(component.stop(), 10)
        assert gone(pid)
        assert component.state == "INSTALLED"


# --- dependencies


@BOTH
async def test_who_depends_hard_is_restarted_with_what_it_depends_on_and_who_depends_softly_is_not(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    site.recipe("base", {"run": IDLE})
    site.recipe("hard", {"install": "echo x >> installs", "run": IDLE}, dependencies={"base": HARD})
    site.recipe("top", {"run": IDLE}, dependencies={"hard": HARD})
    site.recipe("soft", {"run": IDLE}, dependencies={"base": SOFT})
    await site.deploy(top=None, soft=None)

    def pids() -> dict[str, int | None]:
        return {name: component.pid for name, component in site.core.components().items()}

    async def moved(before: dict[str, int | None]) -> None:
        def all_moved() -> bool:
            now = pids()
            return None not in now.values() and all(now[name] != before[name] for name in ("base", "hard", "top"))

        await until(all_moved, lambda: (before, pids()))
        assert pids()["soft"] == before["soft"]

    before = pids()
    site.core.component("base").kill()
    await moved(before)
    assert site.core.component("hard").restarts == 0  # it did not err
    before = pids()
    site.recipe("base", {"run": IDLE}, version="1.1.0")
    assert (await site.deploy(top=None, soft=None)).status == "SUCCEEDED"
    await moved(before)
    assert site.file("hard", "installs") == "x\n"


async def test_on_classic_a_component_that_is_only_installed_satisfies_who_depends_on_it(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("data", {"install": "touch installed"})
    site.recipe("a", {"run": f"cp ../data/installed . ; {IDLE}"}, dependencies={"data": HARD})
    assert (await site.deploy(a=None)).status == "SUCCEEDED"
    assert site.core.component("data").state == "FINISHED"
    await until(lambda: (site.core.folders.work("a") / "installed").exists(), lambda: "")


async def test_on_lite_a_hard_dependency_on_what_is_only_installed_never_lets_a_component_start(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    site.recipe("data", {"install": "touch installed"})
    site.recipe("a", {"run": IDLE}, dependencies={"data": HARD})
    site.recipe("b", {"run": IDLE}, dependencies={"a": HARD})
    site.recipe("c", {"run": IDLE}, dependencies={"data": SOFT})
    deployment = await site.deploy(b=None, c=None)
    assert deployment.status == "FAILED"
    assert "component a never starts: its hard dependency data has ended, or has nothing that runs" in deployment.why
    assert "component b never starts: its hard dependency a" in deployment.why
    assert [site.core.component(name).state for name in ("data", "a", "b")] == ["FINISHED", "INSTALLED", "INSTALLED"]
    await site.state("c", "RUNNING")
    with pytest.raises(CoreError, match="a is INSTALLED, not RUNNING; the deployment: component a never starts"):
        await site.core.wait_state("a", "RUNNING", 0.1)


@pytest.mark.parametrize(("profile", "state"), [("classic", "RUNNING"), ("lite", "INSTALLED")])
async def test_a_hard_dependency_that_ends_well_takes_its_dependents_with_it_on_lite_only(
    make_site: MakeSite, profile: str, state: str
) -> None:
    site = await make_site(profile)
    site.recipe("job", {"run": "until test -f stop; do sleep 0.02; done"})
    site.recipe("a", {"run": IDLE}, dependencies={"job": HARD})
    await site.deploy(a=None)
    (site.core.folders.work("job") / "stop").touch()
    await site.state("job", "FINISHED")
    await site.state("a", state)


async def test_lite_makes_nothing_of_a_dependency_without_a_type(make_site: MakeSite) -> None:
    site = await make_site("lite")
    site.recipe("data", {"install": "true"})
    site.recipe("a", {"run": IDLE}, dependencies={"data": {"VersionRequirement": "*"}})
    assert (await site.deploy(a=None)).status == "SUCCEEDED"


async def test_on_lite_a_component_without_a_step_fails_the_deployment_in_the_nucleus_words(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    site.recipe("a", {})
    with pytest.raises(DeploymentError, match="Recipes without at least 1 valid lifecycle step aren't currently supp"):
        await site.deploy(a=None)
    site = await make_site("classic")
    site.recipe("a", {})
    assert (await site.deploy(a=None)).status == "SUCCEEDED"


# --- documents and failures


@BOTH
async def test_a_deployment_may_be_what_the_cloud_takes(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE}, version="1.0.0", config={"rate": "1", "keep": "1"})
    await site.deploy(a={"rate": "2", "keep": "2"})
    document = {
        "targetArn": "arn:aws:iot:eu-west-1:1:thinggroup/plant",
        "deploymentName": "plant",
        "components": {
            "a": {
                "componentVersion": "1.0.0",
                "configurationUpdate": {"reset": ["/rate"], "merge": json.dumps({"map": {"x": "y"}})},
                "runWith": {"posixUser": "ggc_user"},
            }
        },
        "iotJobConfiguration": {},
        "deploymentPolicies": {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
            "configurationValidationPolicy": {"timeoutInSeconds": 30},
        },
        "tags": {"site": "a"},
    }
    deployment = await site.core.deploy(document, site.recipes, site.artifacts, cloud=True)
    assert (await site.core.wait_deployment(deployment)).status == "SUCCEEDED"
    known = site.core.ipc.configuration("a").read()
    assert {key: known[key] for key in ("rate", "keep", "map")} == {"rate": "1", "keep": "2", "map": {"x": "y"}}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"components": {"a": 5}}, "a: 5 is not a mapping"),
        ({"components": {"a": {"configurationUpdate": "x"}}}, "a: configurationUpdate is not a mapping"),
        ({"components": {}, "deploymentPolicies": "x"}, "deploymentPolicies is not a mapping"),
        ({"components": {}, "deploymentPolicies": {"failureHandlingPolicy": "PRAY"}}, "'PRAY' is neither ROLLBACK nor"),
    ],
)
async def test_a_malformed_document_is_told(make_site: MakeSite, document: dict[str, Any], words: str) -> None:
    site = await make_site("classic")
    with pytest.raises(DeploymentError, match=words):
        await site.core.deploy(document, site.recipes, site.artifacts)


@BOTH
async def test_an_artifact_that_is_missing_changes_nothing(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    packaged(site, "1.0.0")
    await site.deploy(a={"rate": "1"})
    pid = (await site.state("a", "RUNNING")).pid
    packaged(site, "1.1.0")
    (site.artifacts / "a" / "1.1.0" / "code.zip").unlink()
    with pytest.raises(DeploymentError, match="does not exist: build it first"):
        await site.deploy(a={"rate": "2"})
    assert site.core.component("a").pid == pid
    assert site.core.ipc.configuration("a").read(("rate",)) == "1"


async def test_classic_takes_a_deployment_back_that_breaks_a_component_where_it_is_told_to(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"install": "true", "run": f"echo one >> runs; {IDLE}"}, config={"rate": 1})
    site.recipe("b", {"run": IDLE}, config={"rate": 1})
    await site.deploy(a=None, b=None)
    b = site.core.component("b").pid

    site.recipe("a", {"install": "exit 1", "run": IDLE}, version="1.1.0", config={"more": 1})
    site.recipe("c", {"run": IDLE})
    deployment = await site.deploy(a={"rate": 2}, b={"rate": 2}, c=None, policies={"failureHandlingPolicy": "ROLLBACK"})
    assert deployment.status == "FAILED_ROLLBACK_COMPLETE"
    assert deployment.why.startswith("component a is BROKEN")
    assert set(site.core.components()) == {"a", "b"}
    component = await site.state("a", "RUNNING")
    assert component.version == "1.0.0"
    for name in ("a", "b"):
        known = site.core.ipc.configuration(name).read()
        assert (known["rate"], "more" in known) == (1, False)
    assert site.core.component("b").pid == b
    await until(lambda: site.file("a", "runs") == "one\none\n", lambda: site.file("a", "runs"))


async def test_a_way_back_that_fails_too_is_told(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"install": "test ! -f spoiled", "run": IDLE})
    await site.deploy(a=None)
    site.recipe("a", {"install": "touch spoiled; exit 1", "run": IDLE}, version="1.1.0")
    deployment = await site.deploy(a=None, policies={"failureHandlingPolicy": "ROLLBACK"})
    assert deployment.status == "FAILED_UNABLE_TO_ROLLBACK"
    assert "on the way back: component a is BROKEN" in deployment.why


async def test_without_such_a_policy_everything_stays_as_it_is(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"install": "exit 1", "run": IDLE})
    deployment = await site.deploy(a=None)
    assert deployment.status == "FAILED_ROLLBACK_NOT_REQUESTED"
    assert site.core.component("a").state == "BROKEN"


async def test_a_deployment_that_does_not_end_in_time_is_told_with_the_states(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"install": IDLE, "run": IDLE})
    deployment = await site.begin(a=None)
    with pytest.raises(CoreError, match=r"has not ended within 0\.05 s: \{'a': 'NEW'\}"):
        await site.core.wait_deployment(deployment, 0.05)
