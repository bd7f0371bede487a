"""Real recipes in a running core: the life of components in both profiles."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from localcore import Core, CoreError, DeploymentError
from localcore.profile import PROFILES

from .conftest import BOTH, IDLE, MakeSite, gone, until


@BOTH
async def test_a_component_is_installed_and_run_in_its_work_folder(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"install": "echo installed > order", "run": f"echo running >> order; pwd >> order; {IDLE}"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "order").count("\n") == 3, lambda: site.file("a", "order"))
    assert site.file("a", "order").split("\n")[:3] == ["installed", "running", str(site.core.folders.work("a"))]
    assert component.pid is not None
    assert component.rss_mb > 0
    assert component.restarts == 0


@BOTH
async def test_a_component_gets_exactly_the_documented_environment(
    make_site: MakeSite, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    site = await make_site(profile, thing_name="core7", region="eu-west-1")
    site.recipe("a", {"Setenv": {"OWN": "{work:path}"}, "run": "env -0 > seen; mv seen env"})
    await site.deploy(a=None)
    await site.state("a", "FINISHED")
    seen = dict(line.split("=", 1) for line in site.file("a", "env").split("\0") if line)
    token = site.core.ipc.token("a")
    expected = {
        "SVCUID": token,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_IOT_THING_NAME": "core7",
        "GGC_VERSION": site.core.profile.version,
        "GG_ROOT_CA_PATH": str(site.core.root / "rootCA.pem"),
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH": site.core.ipc.address,
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": site.core.ipc.address,
        "OWN": str(site.core.folders.work("a")) + ("/" if profile == "lite" else ""),
        "HOME": str(site.core.root / "home"),
        "LANG": "C.UTF-8",
    }
    assert {key: seen.get(key) for key in expected} == expected
    others = set(seen) - set(expected) - {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert others == ({"AWS_CONTAINER_CREDENTIALS_FULL_URI"} if profile == "classic" else set())
    assert not any(path.startswith(sys.prefix) for path in seen["PATH"].split(os.pathsep))


async def test_on_lite_credentials_are_for_who_depends_on_token_exchange(make_site: MakeSite) -> None:
    site = await make_site("lite")
    needs = {"aws.greengrass.TokenExchangeService": {"VersionRequirement": ">=2.0.0"}}
    site.recipe("a", {"run": "env > env"}, dependencies=needs)
    await site.deploy(a=None)
    await site.state("a", "FINISHED")
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in site.file("a", "env")


@BOTH
async def test_a_component_cannot_import_from_the_repository(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": f"{sys.executable} -c 'import localcore' 2>&1 | tail -1 > out"})
    await site.deploy(a=None)
    await site.state("a", "FINISHED")
    assert "No module named 'localcore'" in site.file("a", "out")


@BOTH
async def test_the_sdk_in_a_component_needs_nothing_but_its_environment(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    code = (
        "from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as C; "
        'print(C().get_configuration(key_path=["greeting"]).value)'
    )
    site.recipe("a", {"run": f"{sys.executable} -c '{code}' > out"}, config={"greeting": "hello"})
    await site.deploy(a=None)
    await site.state("a", "FINISHED")
    assert site.file("a", "out") == "{'greeting': 'hello'}\n"


@BOTH
async def test_an_install_that_takes_too_long_is_ended_and_after_three_times_the_component_is_broken(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    site.recipe("a", {"install": {"Script": f"echo tried >> tries; {IDLE}", "Timeout": "0.05"}, "run": IDLE})
    await site.deploy(a=None)
    component = await site.state("a", "BROKEN")
    assert site.file("a", "tries").count("tried") == 3
    assert "longer than its Timeout of 0.05 s" in component.log_tail()


@BOTH
async def test_a_failing_install_is_tried_again(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"install": "echo x >> tries; test $(wc -l < tries) -ge 3", "run": IDLE})
    await site.deploy(a=None)
    await site.state("a", "RUNNING")
    assert site.file("a", "tries").count("x") == 3


@BOTH
async def test_three_errors_make_a_component_broken_and_a_deployment_mends_it(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": "echo x >> tries; test -f mended || exit 3; " + IDLE})
    site.recipe("b", {"run": IDLE})
    await site.deploy(a=None, b=None)
    component = await site.state("a", "BROKEN")
    assert (site.file("a", "tries").count("x"), component.restarts) == (3, 2)
    assert (await site.state("b", "RUNNING")).restarts == 0
    (site.core.folders.work("a") / "mended").touch()
    await site.deploy(a=None, b=None)
    await site.state("a", "RUNNING")
    assert site.core.component("b").restarts == 0


async def test_errors_an_hour_apart_never_make_a_component_broken(make_site: MakeSite) -> None:
    hours = iter(range(0, 4000 * 3600, 3601))
    site = await make_site("classic", clock=lambda: float(next(hours)))
    site.recipe("a", {"run": "echo x >> tries; test $(wc -l < tries) -ge 6"})
    await site.deploy(a=None)
    component = await site.state("a", "FINISHED")
    assert component.restarts == 5


@BOTH
async def test_a_killed_component_comes_back_twice(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": f"sleep 1000 & echo $! >> children; {IDLE}"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    for time_killed in (1, 2, 3):
        await until(lambda: site.file("a", "children").count("\n") == time_killed, lambda: site.file("a", "children"))  # noqa: B023
        component.kill()
        await component.changed()
        await site.state("a", "RUNNING" if time_killed < 3 else "BROKEN")
    for child in site.file("a", "children").split():
        await until(lambda: gone(int(child)), lambda: child)  # noqa: B023


@pytest.mark.parametrize(("profile", "state"), [("classic", "BROKEN"), ("lite", "FINISHED")])
async def test_an_end_by_sigterm_is_an_error_to_classic_and_clean_to_lite(
    make_site: MakeSite, profile: str, state: str
) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": "kill -TERM $$"})
    await site.deploy(a=None)
    await site.state("a", state)


@BOTH
async def test_a_run_script_that_ends_well_is_not_run_again(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": "echo x >> runs"})
    await site.deploy(a=None)
    await site.state("a", "FINISHED")
    await site.deploy(a=None)
    assert site.core.component("a").state == "FINISHED"
    assert site.file("a", "runs") == "x\n"


@BOTH
async def test_a_component_is_asked_to_stop_and_may_say_goodbye(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": "trap 'echo bye; exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "ready"), lambda: component.log_tail())
    await component.stop()
    assert component.log_tail().endswith("bye\n")
    assert component.pid is None


async def test_a_component_that_does_not_stop_is_killed_after_the_grace(make_site: MakeSite) -> None:
    site = await make_site(replace(PROFILES["classic"], stop_grace=0.2))
    site.recipe("a", {"run": "trap '' TERM; sleep 1000 & echo $! > child; while :; do sleep 0.01; done"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "child"), lambda: component.log_tail())
    began, pid = time.monotonic(), component.pid
    await component.stop()
    assert 0.2 <= time.monotonic() - began < PROFILES["classic"].stop_grace
    assert pid is not None
    await until(lambda: gone(pid) and gone(int(site.file("a", "child"))), lambda: pid)


def test_both_nuclei_give_five_seconds_to_stop() -> None:
    assert [profile.stop_grace for profile in PROFILES.values()] == [5.0, 5.0]


async def test_classic_runs_the_shutdown_script_first(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"run": IDLE, "shutdown": "echo shut down > shutdown"})
    await site.deploy(a=None)
    await (await site.state("a", "RUNNING")).stop()
    assert site.file("a", "shutdown") == "shut down\n"


@BOTH
async def test_a_component_starts_when_its_hard_dependencies_run_whatever_becomes_of_the_soft_ones(
    make_site: MakeSite, profile: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "localcore.process")
    site = await make_site(profile)
    hard = {"VersionRequirement": "*", "DependencyType": "HARD"}
    soft = {"VersionRequirement": "*", "DependencyType": "SOFT"}
    site.recipe("top", {"run": IDLE}, dependencies={"middle": hard, "soft": soft})
    site.recipe("middle", {"install": "sleep 0.1", "run": IDLE}, dependencies={"bottom": hard})
    site.recipe("bottom", {"install": "sleep 0.2", "run": "exit 0"})
    site.recipe("soft", {"run": "exit 1"})
    await site.deploy(top=None)
    await site.state("top", "RUNNING")
    steps = caplog.messages
    for dependency, dependent in (("bottom", "middle"), ("middle", "top"), ("soft", "top")):
        assert steps.index(f"{dependency}: STARTING -> RUNNING") < steps.index(f"{dependent}: INSTALLED -> STARTING")
    await site.state("soft", "BROKEN")


@BOTH
async def test_a_deployment_stops_what_it_no_longer_lists(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE})
    site.recipe("b", {"run": IDLE})
    await site.deploy(a=None, b=None)
    await site.state("b", "RUNNING")
    pid = site.core.component("b").pid
    await site.deploy(a=None)
    assert set(site.core.components()) == {"a"}
    assert pid is not None
    assert gone(pid)
    with pytest.raises(CoreError, match="b is not deployed; deployed are: a"):
        site.core.component("b")


@BOTH
async def test_an_unchanged_component_runs_on_through_a_deployment(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE})
    await site.deploy(a={"rate": 5})
    pid = (await site.state("a", "RUNNING")).pid
    await site.deploy(a={"rate": 5} if profile == "classic" else None)
    assert (await site.state("a", "RUNNING")).pid == pid


async def test_on_lite_a_configuration_update_restarts_a_component_though_it_changes_nothing(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": IDLE})
    await site.deploy(a={"rate": 5})
    pid = (await site.state("a", "RUNNING")).pid
    await site.deploy(a={"rate": 5})
    assert (await site.state("a", "RUNNING")).pid != pid


@pytest.mark.parametrize(("profile", "restarts"), [("classic", False), ("lite", True)])
async def test_a_change_of_configuration_installs_and_restarts_a_component_on_lite_only(
    make_site: MakeSite, profile: str, restarts: bool
) -> None:
    site = await make_site(profile)
    site.recipe("a", {"install": "echo x >> installs", "run": IDLE}, config={"rate": 1})
    await site.deploy(a=None)
    pid = (await site.state("a", "RUNNING")).pid
    await site.deploy(a={"rate": 2})
    assert ((await site.state("a", "RUNNING")).pid != pid) is restarts
    assert site.core.ipc.configuration("a").read(("rate",)) == 2
    assert site.file("a", "installs") == ("x\nx\n" if restarts else "x\n")


@BOTH
async def test_a_new_script_or_version_is_installed_and_run(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    for version, text in (("1.0.0", "one"), ("1.0.0", "two"), ("1.1.0", "two")):
        site.recipe("a", {"install": f"echo {version} {text} >> installs", "run": IDLE}, version=version)
        await site.deploy(a=None)
        await site.state("a", "RUNNING")
    assert site.file("a", "installs") == "1.0.0 one\n1.0.0 two\n1.1.0 two\n"


@BOTH
async def test_a_deployment_merges_and_resets_and_defaults_stay_beneath(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE}, config={"map": {"x": "1", "y": "2"}})
    await site.deploy(a={"map": {"y": "3", "z": "4"}})
    assert site.core.ipc.configuration("a").read(("map",)) == {"x": "1", "y": "3", "z": "4"}
    update = {"reset": ["/map/z", "/map/y"], "merge": json.dumps({"map": {"x": "9"}})}
    await site.core.deploy({"components": {"a": {"configurationUpdate": update}}}, site.recipes, site.artifacts)
    assert site.core.ipc.configuration("a").read(("map",)) == {"x": "9", "y": "2"}


async def test_a_brace_in_a_script_fails_the_deployment_on_lite(make_site: MakeSite) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": "echo ${HOME}"})
    with pytest.raises(DeploymentError, match=r"'\{HOME\}' in a script"):
        await site.deploy(a=None)


@BOTH
async def test_a_component_that_reports_errored_is_ended_and_started_again(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": IDLE})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    site.core.ipc.services.on_state("a", "ERRORED")
    await component.changed()
    await site.state("a", "RUNNING")
    assert component.restarts == 1


async def test_after_an_ipc_restart_on_lite_a_component_gets_its_new_token_when_it_is_started_again(
    make_site: MakeSite,
) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": f"echo $SVCUID >> tokens; {IDLE}"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "tokens"), lambda: component.log_tail())
    await site.core.ipc.restart()
    component.kill()
    await until(lambda: len(site.file("a", "tokens").split()) == 2, lambda: site.file("a", "tokens"))
    first, second = site.file("a", "tokens").split()
    assert first != second == site.core.ipc.token("a")


@BOTH
async def test_waiting_for_a_state_that_will_not_come_shows_state_and_log(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"run": "echo the reason; exit 1"})
    await site.deploy(a=None)
    await site.state("a", "BROKEN")
    with pytest.raises(CoreError, match=r"(?s)a is BROKEN, not RUNNING.*the reason"):
        await site.core.wait_state("a", "RUNNING", 30.0)


@BOTH
async def test_tests_talk_to_components_over_the_cores_bus(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    code = (
        "import time; from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as C; "
        "from awsiot.greengrasscoreipc import model as m; c = C(); "
        "say = lambda t, b: c.publish_to_topic(topic=t, publish_message=m.PublishMessage("
        "binary_message=m.BinaryMessage(message=b))); "
        'c.subscribe_to_topic(topic="ask", on_stream_event=lambda e: say("answer", e.binary_message.message * 2)); '
        'say("ready", b""); time.sleep(1000)'
    )
    site.recipe("a", {"run": f"exec {sys.executable} -c '{code}'"})
    heard: list[tuple[str, bytes]] = []
    site.core.ipc.observe("#", lambda topic, payload: heard.append((topic, payload)))
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: heard, component.log_tail)
    await site.core.ipc.publish("ask", b"ab")
    await until(lambda: ("answer", b"abab") in heard, lambda: (heard, component.log_tail()))


async def test_nothing_of_a_component_outlives_a_killed_core(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys, localcore\n"
        "async def main():\n"
        "    root = pathlib.Path(sys.argv[1])\n"
        "    core = localcore.Core(root / 'core', aws=False)\n"
        "    await core.start()\n"
        "    await core.deploy({'components': {'a': None}}, root, root)\n"
        "    await core.wait_state('a', 'RUNNING')\n"
        "    print(core.component('a').pid, flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "a-1.0.0.yaml").write_text(
        "{ComponentName: a, ComponentVersion: 1.0.0, Manifests: [{Lifecycle: {run: exec sleep 1000}}]}"
    )
    shared = str(Path(__file__).parents[2] / "shared")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), env={"PYTHONPATH": shared}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await asyncio.wait_for(process.stdout.readline(), 30.0))
    assert not gone(pid)
    process.kill()
    await process.wait()
    await until(lambda: gone(pid), lambda: pid)


@BOTH
async def test_components_find_the_stream_manager_by_its_configuration(tmp_path: Path, profile: str) -> None:
    core = Core(tmp_path / "core", profile=profile)
    await core.start()
    try:
        found = core.ipc.configuration("aws.greengrass.StreamManager").read()
        assert int(found["STREAM_MANAGER_SERVER_PORT"]) == 0
        assert found["port"] == core.stream_manager.port
        assert core.aws.endpoint("s3").startswith("http://127.0.0.1:")
        _, writer = await asyncio.open_connection("127.0.0.1", int(found["port"]))
        writer.close()
    finally:
        await core.stop()
