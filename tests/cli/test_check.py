"""sluice check: what a document does beyond its components' own settings, told at its line; and what it will cost."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.app import make_app
from cli.check import checked
from cli.document import load
from cli.finding import MOST
from cli.output import Failure
from cli.site_check import Report, check_document

ROOT = Path(__file__).resolve().parents[2]
LINE1 = 'line1: {endpoint: "opc.tcp://10.0.0.5:4840", asset: site/line1, tags: {Temp: {node: "ns=2;s=T"}}}'


def site(folder: Path, collector: str = "", exporter: str = "", more: str = "") -> Path:
    """A document with a connection line1 and a SiteWise sink, unless something else is given for either."""
    parts = {
        "io.sluice.OpcUaCollector": collector or f"connections: {{{LINE1}}}",
        "io.sluice.StreamExporter": exporter or "sinks: {sitewise: {type: sitewise}}",
    }
    text = "components:\n"
    for name, merge in parts.items():
        if merge != "none":
            below = "".join(f"        {line}\n" for line in merge.splitlines())
            text += f"  {name}:\n    configurationUpdate:\n      merge:\n{below}"
    path = folder / "site.yaml"
    path.write_text(text + more, encoding="utf-8")
    return path


def report(path: Path, **how: Any) -> Report:
    return check_document(load(path), **how)


def said(path: Path, **how: Any) -> list[str]:
    """What is found, a line each, without the folder."""
    return [str(one).replace(f"{path.parent}/", "") for one in report(path, **how).findings]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["check", *map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("components: {}", "1:1: warning: components has no component: add one, with its configurationUpdate"),
        (
            'components: {"press 7": {componentVersion: "1.0.0"}}',
            '1:14: error: components = "press 7" is no name of a component: use 1 to 128 letters, digits, dots, '
            "hyphens and underscores",
        ),
        (
            "components: {io.sluice.Runtime: {componentVersion: latest}}",
            '1:34: error: componentVersion = "latest" is no version: write it such as "0.1.0"',
        ),
        (
            "deploymentPolicies: 5\ncomponents: {io.sluice.Runtime: {}}",
            "1:1: error: deploymentPolicies = 5 is not a map: write key: value lines below it, or leave it out",
        ),
        (
            "components: {io.sluice.Runtime: {runWith: root}}",
            '1:34: error: runWith = "root" is not a map: write key: value lines below it, or leave it out',
        ),
    ],
)
def test_what_no_deployment_can_have_is_told(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    assert said(path) == [f"site.yaml:{expected}"]


# --- what only a document shows -------------------------------------------------------------------------------------


def test_a_document_without_mistakes_has_none(tmp_path: Path) -> None:
    assert said(site(tmp_path)) == []


@pytest.mark.parametrize(
    ("collector", "exporter", "more", "expected"),
    [
        (
            "",
            'sources: ["opcua-collector/lin1"]\nsinks: {sitewise: {type: sitewise}}',
            "",
            'site.yaml:9:19: error: sources[0] = "opcua-collector/lin1" names a connection that this document does not '
            "have: did you mean opcua-collector/line1?",
        ),
        (
            "",
            'sources: ["*/line7"]\nsinks: {sitewise: {type: sitewise}}',
            "",
            'site.yaml:9:19: error: sources[0] = "*/line7" names a source that no component of this document has: the '
            "sources here are: opcua-collector/line1",
        ),
        (
            "",
            'sources: ["opcua-colector/line1"]\nsinks: {sitewise: {type: sitewise}}',
            "",
            'site.yaml:9:19: warning: sources[0] = "opcua-colector/line1" names a producer that is none of Sluice\'s '
            "components: did you mean opcua-collector?",
        ),
        (
            "none",
            'sources: ["opcua-collector/line1"]\nsinks: {sitewise: {type: sitewise}}',
            "",
            'site.yaml:5:19: warning: sources[0] = "opcua-collector/line1" names a producer that is not in this '
            "document "
            "(io.sluice.OpcUaCollector): add the component, or see that the target's present deployment has it",
        ),
        (
            "",
            'sources: ["opcua-collector/line1"]\nsinks: {sitewise: {type: sitewise}}',
            "  io.sluice.Tags.a: {}\n",
            "",
        ),
        (
            f'connections:\n  {LINE1}\n  line2: {{endpoint: "opc.tcp://10.0.0.6:4840"}}',
            'sources: ["opcua-collector/line1"]\nsinks: {sitewise: {type: sitewise}}',
            "",
            "site.yaml:7:11: warning: connections.line2 is exported by nobody: the exporter's sources do not name "
            "it, and "
            "its outbox will fill up: add opcua-collector/line2 to the sources of io.sluice.StreamExporter, or write "
            '["*"] there',
        ),
        (
            "",
            "none",
            "",
            "site.yaml:5:9: warning: connections are exported by nobody: io.sluice.StreamExporter is not in this "
            "document, and the outbox will fill up: add it with a sink, or see that the target's present deployment "
            "has "
            "it",
        ),
        (
            "",
            "logLevel: INFO",
            "",
            "site.yaml:8:7: warning: sinks has no entry that can run, so nothing leaves this gateway: add a sink",
        ),
        (
            "connections:\n"
            '  a: {endpoint: "opc.tcp://10.0.0.5:4840", asset: x, tags: {Temp: {node: "ns=2;s=T"}}}\n'
            '  b: {endpoint: "opc.tcp://10.0.0.6:4840", asset: x, tags: {Temp: {node: "ns=2;s=T"}}}',
            "",
            "",
            "site.yaml:7:69: error: connections.b.tags.Temp has the same alias in the sink sitewise as Temp of "
            "connection "
            "a: x/Temp: give one of the two another name or asset path, or use more fields in sinks.sitewise.alias",
        ),
        (
            "connections:\n  a: {endpoint: 'opc.tcp://10.0.0.5:4840', tags: {Temp: {path: /T}}, asset: "
            + "x" * 2045
            + "}",
            "",
            "",
            "site.yaml:6:59: error: connections.a.tags.Temp has an alias of 2050 characters in the sink sitewise, and "
            "SiteWise takes 1 to 2,048: shorten the tag's name or its asset path, or change sinks.sitewise.alias",
        ),
        (
            'connections:\n  a: {endpoint: "opc.tcp://10.0.0.5:4840", asset: "x\\ty", tags: {T: {path: /T}}}',
            "",
            "",
            "site.yaml:6:74: error: connections.a.tags.T has a control character in its alias of the sink sitewise, "
            "which "
            "SiteWise refuses: change the tag's name or its asset path, or sinks.sitewise.alias",
        ),
        (
            "",
            "sinks: {s3: {type: s3, bucket: 192.168.0.1}}",
            "",
            'site.yaml:9:32: error: sinks.s3.bucket = "192.168.0.1" is an IP address, which S3 allows no bucket to be '
            "called: give the bucket's name",
        ),
        (
            "",
            "sinks: {s3: {type: s3, bucket: plant..archive}}",
            "",
            'site.yaml:9:32: error: sinks.s3.bucket = "plant..archive" is no name of a bucket: a dot stands beside '
            "a dot "
            "or hyphen: give the bucket's name",
        ),
        (
            "",
            "sinks: {s3: {type: s3, bucket: xn--plant}}",
            "",
            'site.yaml:9:32: error: sinks.s3.bucket = "xn--plant" is a name that S3 keeps for itself: give the '
            "bucket's "
            "name",
        ),
        (
            "",
            "sinks: {s3: {type: s3, bucket: plant.archive}}",
            "",
            'site.yaml:9:32: warning: sinks.s3.bucket = "plant.archive" has a dot, and TLS to s3 by the bucket\'s name '
            "does not know such names: use a bucket without dots in its name",
        ),
        (
            'connections: {line1: {endpoint: "opc.tcp://10.0.0.5:4840", asset: AKIAIOSFODNN7EXAMPLE}}',
            "",
            "",
            'site.yaml:5:68: error: connections.line1.asset = "***" holds a secret, which every component on the core '
            "could read: take it out, and change it: it is in the deployment's history; what needs one takes a "
            "reference, "
            "{secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}",
        ),
        (
            "validateDeployments: true",
            "",
            "",
            "site.yaml:5:9: error: validateDeployments = true is set, and io.sluice.StreamExporter in the same "
            "document "
            "does not validate: the nucleus waits for all that change, and fails the deployment: set it in "
            "io.sluice.StreamExporter too, or nowhere",
        ),
        (
            "validateDeployments: true",
            "validateDeployments: true\nsinks: {sitewise: {type: sitewise}}",
            "  aws.greengrass.StreamManager: {configurationUpdate: {merge: {JVM_ARGS: -Xmx64m}}}\n",
            "site.yaml:5:9: error: validateDeployments = true is set, and aws.greengrass.StreamManager in the same "
            "document does not validate: the nucleus waits for all that change, and fails the deployment: set "
            "validateDeployments in all of Sluice's components and deploy changes of others apart",
        ),
        (
            "",
            "",
            "  aws.greengrass.Nucleus: {configurationUpdate: {merge: {logging: {level: DEBUG}}}}\n",
            'site.yaml:10:3: warning: components = "aws.greengrass.Nucleus" is changed by this document, and does not '
            "belong to Sluice: see that its other users agree; leave configurationUpdate out to leave it as it is",
        ),
        (
            "",
            "",
            "  io.sluice.StreamExportr: {}\n",
            'site.yaml:10:3: error: components = "io.sluice.StreamExportr" is no component of Sluice: did you mean '
            "io.sluice.StreamExporter?",
        ),
        (
            "",
            "",
            "  io.sluice.streamexporter: {}\n",
            'site.yaml:10:3: error: components = "io.sluice.streamexporter" is the same name as '
            "io.sluice.StreamExporter "
            "to Greengrass, which ignores case: remove one of the two",
        ),
        (
            "",
            "",
            '  io.sluice.Runtime: {componentVersion: "9.9.9"}\n',
            'site.yaml:10:23: warning: componentVersion = "9.9.9" is not the version of this repository, 0.1.0, whose '
            "settings it was checked against: check it with the tool of the version that is deployed, or leave "
            "componentVersion out",
        ),
        (
            "",
            "",
            "  io.sluice.Runtime: {configurationUpdate: {merge: {x: 1}}}\n",
            "site.yaml:10:3: error: io.sluice.Runtime has no configuration: take configurationUpdate out",
        ),
        (
            "",
            "",
            "  io.sluice.Tags.a: {componentVerson: '1.0.0'}\n",
            "site.yaml:10:22: error: components.io.sluice.Tags.a.componentVerson is an unknown key: did you mean "
            "componentVersion?",
        ),
        (
            "",
            "",
            "deploymentPolicy: {}\n",
            "site.yaml:10:1: error: deploymentPolicy is an unknown key: did you mean deploymentPolicies?",
        ),
        (
            "",
            "",
            "  io.sluice.Tags.a: {configurationUpdate: {reset: [connections.line1]}}\n",
            'site.yaml:10:52: error: reset[0] = "connections.line1" is no JSON pointer: write it with slashes from the '
            'top, such as "/connections/line1"',
        ),
        (
            "",
            "",
            "  io.sluice.Tags.a: {configurationUpdate: {reset: [/a~b]}}\n",
            'site.yaml:10:52: error: reset[0] = "/a~b" has a ~ that stands for nothing: write ~0 for ~ and ~1 for /',
        ),
        (
            "accessControl: {x: {}, X: {}}",
            "",
            "",
            "site.yaml:5:32: error: accessControl.X is the same name as x to Greengrass, which ignores case: rename "
            "one "
            'of the two and remove this one with RESET "/accessControl/X"',
        ),
        (
            'connections: {line1: {endpoint: "opc.tcp://10.0.0.5:4840", publishingInterval: 50ms, tags: {T: '
            "{path: /T}}}}",
            "",
            "",
            "site.yaml:5:23: warning: connections.line1 may have tags of 20 values/s, and SiteWise (sinks.sitewise) "
            "takes "
            "10 a second of one property: sample less often (samplingInterval), or send fast tags to Kinesis or S3",
        ),
    ],
)
def test_what_only_a_document_shows_is_told_at_its_line(
    tmp_path: Path, collector: str, exporter: str, more: str, expected: str
) -> None:
    found = said(site(tmp_path, collector, exporter, more))
    assert (expected in found) if expected else (found == []), found


def test_a_tag_table_is_checked_with_the_document_and_told_at_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "line1.csv").write_text("tag,node,units\nTemp,ns=2;s=T,degC\nLevel,Level,m\n")
    path = site(tmp_path, 'connections: {line1: {endpoint: "opc.tcp://10.0.0.5:4840", tagsFile: line1.csv}}')
    assert said(path) == [
        "line1.csv:1:1: warning: connections.line1.tagsFile.units is no known column and is ignored (line 1 of "
        "line1.csv): did you mean unit?",
        'line1.csv:3:1: error: connections.line1.tagsFile.Level.node = "Level" is no node id (line 3 of line1.csv): '
        "write "
        'it as "nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tagsFile.Level is '
        "not applied)",
    ]


@pytest.mark.parametrize("setting", ["tagsFile: /nowhere/line1.csv", "tagsPackage: site-a"])
def test_a_table_that_only_the_device_has_is_no_mistake_and_is_told(tmp_path: Path, setting: str) -> None:
    path = site(tmp_path, f'connections: {{line1: {{endpoint: "opc.tcp://10.0.0.5:4840", {setting}}}}}')
    [note] = said(path)
    assert note.startswith("site.yaml:5:68: note: connections.line1.tags")
    assert "is not here: its tags are neither checked nor in the figures below" in note


# --- nucleus lite ---------------------------------------------------------------------------------------------------


def many(count: int) -> str:
    tags = ", ".join(f'T{number}: {{node: "ns=2;s=T{number}"}}' for number in range(count))
    return f'connections: {{line1: {{endpoint: "opc.tcp://10.0.0.5:4840", tags: {{{tags}}}}}}}'


def test_what_lite_cannot_keep_is_a_warning_an_error_for_lite_and_nothing_for_classic(tmp_path: Path) -> None:
    path = site(tmp_path, many(61))
    text = (
        "connections.line1.tags has 61 entries, and nucleus lite takes 60 in one map: move long tag lists into a "
        "CSV file "
        "(tagsFile) or a tag package (tagsPackage)"
    )
    assert f"site.yaml:5:68: warning: {text}" in said(path)
    assert f"site.yaml:5:68: error: {text}" in said(path, nucleus="lite")
    assert said(path, nucleus="classic") == []
    assert said(site(tmp_path, many(60))) == []


def with_model(folder: Path, **model: Any) -> Path:
    flows = {"one": {"inputs": {"a": {"stream": "*"}}, "steps": {"m": {"type": "model", "model": "pump"}}}}
    models = {"pump": {"members": {"flow": {}}, "values": {"size": 1}, **model}}
    merge = {"flows": flows, "models": models}
    path = folder / "site.json"
    path.write_text(json.dumps({"components": {"io.sluice.Preprocessor": {"configurationUpdate": {"merge": merge}}}}))
    return path


def test_what_is_wrong_with_a_table_of_instances_is_told_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "pumps.csv").write_text("instance,asset,flow,sise\np1,a,F,1\np1,b,G,2\n")
    found = said(with_model(tmp_path, instancesFile="pumps.csv"))
    assert (
        'pumps.csv:3:1: error: models.pump.instancesFile line 3 instance = "p1" is there a second time, after line 2 '
        "(line 3 of pumps.csv): give each its own name (the row is left out)"
    ) in found
    assert (
        "pumps.csv:1:1: warning: models.pump.instancesFile line 1 sise is no known column and is ignored: "
        "did you mean size?"
    ) in found


@pytest.mark.parametrize("setting", ["instancesFile", "instancesPackage"])
def test_instances_that_only_the_device_has_are_no_mistake_and_are_told(tmp_path: Path, setting: str) -> None:
    path = with_model(tmp_path, **{setting: "/nowhere/pumps.csv" if setting == "instancesFile" else "site-a"})
    found = said(path)
    assert not [one for one in found if " error: " in one]
    assert [one for one in found if f"note: models.pump.{setting} is not here: its instances are not checked" in one]


def test_what_lite_cannot_keep_of_flows_has_its_own_remedy(tmp_path: Path) -> None:
    flows: dict[str, Any] = {f"f{number}": {"inputs": {"a": {"stream": "*"}}} for number in range(61)}
    flows["f0"]["steps"] = {"r": {"type": "report", "tags": [f"Reactor/Tag{number}" for number in range(80)]}}
    path = tmp_path / "site.json"
    merge = {"flows": flows}
    path.write_text(json.dumps({"components": {"io.sluice.Preprocessor": {"configurationUpdate": {"merge": merge}}}}))
    found = " ".join(said(path, nucleus="lite"))
    assert "error: flows has 61 entries, and nucleus lite takes 60 in one map: move the instances of models" in found
    assert "error: flows.f0.steps.r.tags is 1350 characters long, and nucleus lite takes 999: shorten it" in found
    assert "tagsFile" not in found


def test_keys_are_counted_with_those_of_the_recipe(tmp_path: Path) -> None:
    found = said(site(tmp_path, many(120)))
    assert any("keys with accessControl, and nucleus lite keeps 256 of a component" in one for one in found)


def test_on_lite_a_secret_of_secret_manager_and_large_messages_are_errors(tmp_path: Path) -> None:
    user = "{name: o, password: {secret: sluice-line1, key: password}}"
    tags = '{T: {node: "ns=2;s=T"}}'
    connection = f'line1: {{endpoint: "opc.tcp://10.0.0.5:4840", user: {user}, tags: {tags}}}'
    found = said(site(tmp_path, f"maxMessageBytes: 64KB\nconnections: {{{connection}}}"), nucleus="lite")
    assert found == [
        "site.yaml:5:9: error: maxMessageBytes = 64000 is more than nucleus lite takes: use auto; 7000 applies",
        "site.yaml:6:84: error: connections.line1.user.password the secret sluice-line1 cannot be read: this "
        "nucleus has no "
        "Secret Manager: put it into a file of mode 0600 and write {file: <path>} instead of {secret: …}",
    ]


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_a_deployment_that_mqtt_does_not_carry_is_noted(tmp_path: Path) -> None:
    found = said(site(tmp_path, many(300)), nucleus="classic")
    [note] = [one for one in found if "note" in one]
    assert "is not sent by MQTT to a thing but fetched: allow greengrass:GetDeploymentConfiguration" in note


def test_findings_are_bounded_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = "".join(f"T{number},Temperature\n" for number in range(1500))
    (tmp_path / "line1.csv").write_text(f"tag,node\n{rows}")
    path = site(tmp_path, 'connections: {line1: {endpoint: "opc.tcp://10.0.0.5:4840", tagsFile: line1.csv}}')
    findings = report(path).findings
    assert len(findings.found) <= MOST
    assert findings.count("error") >= MOST


# --- the command ----------------------------------------------------------------------------------------------------


def test_it_ends_with_0_when_all_is_well_and_shows_what_it_will_cost(tmp_path: Path) -> None:
    result = run(site(tmp_path))
    assert result.exit_code == 0, result.output
    assert "opcua-collector/line1" in result.stdout
    assert result.stdout.endswith("0 errors, 0 warnings in 1 file\n")


def test_it_ends_with_1_when_something_is_wrong(tmp_path: Path) -> None:
    path = site(tmp_path, "logLevel: LOUD")
    result = run(path)
    assert result.exit_code == 1
    assert result.stdout.startswith(f'{path}:5:9: error: logLevel = "LOUD" is no log level: use one of: DEBUG, ')


def test_warnings_fail_only_when_it_is_strict(tmp_path: Path) -> None:
    path = site(tmp_path, "", "logLevel: INFO")
    assert run(path).exit_code == 0
    assert run(path, "--strict").exit_code == 1


def test_the_result_can_be_json(tmp_path: Path) -> None:
    path = site(tmp_path, "logLevel: LOUD")
    result = json.loads(run(path, "--json").stdout)
    assert (result["ok"], result["errors"], result["warnings"]) == (False, 1, 0)
    [finding] = result["files"][0]["findings"]
    assert finding == {
        "level": "error",
        "file": str(path),
        "line": 5,
        "column": 9,
        "component": "io.sluice.OpcUaCollector",
        "path": "logLevel",
        "value": "LOUD",
        "problem": "is no log level",
        "remedy": "use one of: DEBUG, INFO, WARNING, ERROR",
        "effect": "the default of logLevel applies",
        "text": 'logLevel = "LOUD" is no log level: use one of: DEBUG, INFO, WARNING, ERROR (the default of logLevel '
        "applies)",
    }


def test_a_merge_of_one_component_is_checked_by_its_name_or_its_id(tmp_path: Path) -> None:
    path = tmp_path / "merge.json"
    path.write_text('{"sinks": {"out": {"type": "s3"}}}')
    for name in ("io.sluice.StreamExporter", "stream-exporter"):
        result = run("--component", name, path)
        assert result.exit_code == 1
        assert f"{path}:1:12: error: sinks.out.bucket is required: add it, for example plant-archive" in result.stdout


def test_an_unknown_component_is_a_wrong_command_line(tmp_path: Path) -> None:
    result = run("--component", "io.sluice.StreamExportr", site(tmp_path))
    assert isinstance(result.exception, Failure)
    assert str(result.exception).endswith("did you mean io.sluice.StreamExporter?")
    assert result.exception.status == 2


def test_a_merge_without_its_component_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("connections: {}\n")
    result = run(path)
    assert str(result.exception).endswith("looks like the configuration of one component: name it with --component")


def test_a_tag_table_can_be_checked_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes('tag;node;samplingInterval\nTemp;"ns=2;s=T";0,5s\n'.encode("utf-16"))
    result = run(path)
    assert result.exit_code == 1
    assert f'{path}:2:1: error: Temp.samplingInterval = "0,5s" has a decimal comma' in result.stdout


def test_the_repositorys_recipes_and_examples_are_right() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "0 errors" in result.stdout


def test_a_document_that_is_none_is_told_like_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("components: {a: 1, a: 2}\n")
    result = run(path)
    assert result.exit_code == 1
    assert f"{path}:1:20: error: components.a stands twice" in result.stdout


def test_a_file_that_cannot_be_read_does_not_hide_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    wrong = site(tmp_path, "logLevel: LOUD")
    result = run(tmp_path / "nowhere.csv", tmp_path / "nowhere.yaml", tmp_path, wrong)
    lines = result.stdout.replace(f"{tmp_path}/", "").replace(str(tmp_path), "folder").splitlines()
    assert lines[:3] == [
        "nowhere.csv:1:1: error: file cannot be read (No such file or directory): give the path of a CSV file",
        "nowhere.yaml:1:1: error: file cannot be read (No such file or directory): give the path of a site document",
        "folder:1:1: error: file cannot be read (Is a directory): give the path of a site document",
    ]
    assert lines[3].startswith('site.yaml:5:9: error: logLevel = "LOUD"')
    assert result.exit_code == 1


def test_deploy_gets_the_document_only_without_errors(tmp_path: Path) -> None:
    assert checked(site(tmp_path)).components
    with pytest.raises(Failure, match=r"site\.yaml:5:9: error: logLevel = \"LOUD\"[^\n]*\n1 error"):
        checked(site(tmp_path, "logLevel: LOUD"))


# --- how long it takes ----------------------------------------------------------------------------------------------


def test_ten_thousand_tags_take_about_a_second_start_included(tmp_path: Path) -> None:
    """0.8 s of CPU on a quiet 2-core machine; CPU is what is limited here, for a machine may do much else."""
    rows = "".join(f"Line{number % 10}/T{number},nsu=urn:plant;s=T{number},degC\n" for number in range(10_000))
    (tmp_path / "line1.csv").write_text(f"tag,node,unit\n{rows}")
    path = site(tmp_path, 'connections: {line1: {endpoint: "opc.tcp://10.0.0.5:4840", tagsFile: line1.csv}}')
    folders = [str(ROOT / folder) for folder in ("shared", "components", "scripts")]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "cli", "check", "--json", str(path)],
        env={"PYTHONPATH": ":".join(folders)},
        capture_output=True,
        check=False,
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["files"][0]["estimate"]["connections"][0]["tags"] == 10_000
    assert seconds < 3.0, f"{seconds:.2f} s"


@pytest.mark.parametrize(("files", "needs"), [("opcua-to-sitewise.yaml", []), ("preprocess.yaml", ["numpy"])])
def test_it_does_not_wait_for_what_it_does_not_need(files: str, needs: list[str]) -> None:
    """Flows are built, and that takes numpy."""
    folders = [str(ROOT / folder) for folder in ("shared", "components", "scripts")]
    program = (
        "import sys; from pathlib import Path; from cli.app import make_app; from cli.check import check_files, "
        "everything;"
        f"make_app(); check_files([path for path in everything() if path.name in ('{files}', 'recipe.yaml')]);"
        "print(*sorted({'asyncua', 'awscrt', 'awsiot', 'boto3', 'botocore', 'moto', 'cryptography', 'numpy'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(folders)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.split() == needs
