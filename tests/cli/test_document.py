"""Documents are read with the place of everything, and what cannot be meant is refused at its line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.document import DocumentError, Tree, load, merge_of, parse_place
from cli.flow_tests import documents
from cli.output import Failure
from sluice.problem import render

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = "io.sluice.OpcUaCollector"
SITE = """\
components:
  io.sluice.OpcUaCollector:
    componentVersion: "0.1.0"
    configurationUpdate:
      merge:
        connections:
          line1:
            endpoint: opc.tcp://10.0.0.5:4840
            tags:
              Reactor/Temp: {node: "ns=2;s=T", unit: degC}
              "x.y": {node: "ns=2;s=U"}
        cloudCommands: [status, backfil]
      reset: [/connections/line2]
  io.sluice.Tags.site-a:
"""


def document(folder: Path, text: str, name: str = "site.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> list[str]:
    """What is said about a document that is refused, a line for each fault."""
    with pytest.raises(DocumentError) as refused:
        load(document(folder, text))
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def test_components_have_version_merge_and_reset(tmp_path: Path) -> None:
    components = load(document(tmp_path, SITE)).components
    entry = components[COLLECTOR]
    assert (entry.version, entry.reset) == ("0.1.0", ["/connections/line2"])
    assert entry.merge["connections"]["line1"]["tags"]["Reactor/Temp"] == {"node": "ns=2;s=T", "unit": "degC"}
    bare = components["io.sluice.Tags.site-a"]
    assert (bare.version, bare.merge, bare.reset) == (None, {}, [])


@pytest.mark.parametrize(
    ("place", "position"),
    [
        ("connections.line1.endpoint", (8, 13)),
        ("connections.line1.tags.Reactor/Temp.unit", (10, 48)),
        ('connections.line1.tags["x.y"].node', (11, 23)),
        ("cloudCommands[1]", (12, 33)),
        ("connections.line1.user.name", (7, 11)),  # what is missing is told at what it is missing from
        ("", (5, 7)),
    ],
)
def test_a_place_has_its_line_and_column(tmp_path: Path, place: str, position: tuple[int, int]) -> None:
    assert load(document(tmp_path, SITE)).line(COLLECTOR, place) == position


def test_a_merge_may_be_json_text_and_the_file_may_be_what_get_deployment_answered(tmp_path: Path) -> None:
    merge = json.dumps({"connections": {"line1": {"endpoint": "opc.tcp://10.0.0.5:4840"}}})
    update = {"merge": merge, "reset": ["/logLevel"]}
    answer = {"targetArn": "arn:aws:iot:eu-west-1:1:thinggroup/g", "revisionId": "3"}
    answer |= {"components": {COLLECTOR: {"componentVersion": "0.1.0", "configurationUpdate": update}}}  # type: ignore[dict-item]
    made = load(document(tmp_path, json.dumps(answer, indent=1), "deployment.json"))
    assert made.components[COLLECTOR].merge["connections"]["line1"]["endpoint"] == "opc.tcp://10.0.0.5:4840"
    assert made.line(COLLECTOR, "connections.line1.endpoint") == made.line(COLLECTOR)


def test_a_file_may_hold_the_merge_of_one_component_alone(tmp_path: Path) -> None:
    made = merge_of(document(tmp_path, "logLevel: INFO\nconnections:\n  line1: {endpoint: x}\n"), COLLECTOR)
    assert made.components[COLLECTOR].merge == {"logLevel": "INFO", "connections": {"line1": {"endpoint": "x"}}}
    assert made.line(COLLECTOR, "connections.line1.endpoint") == (3, 11)


def test_scalars_are_what_json_would_have_and_keys_are_text_as_they_stand(tmp_path: Path) -> None:
    text = "a: 1\nb: 1.5\nc: yes\nd: ~\ne: 12:30\nf: 2026-01-31\ng: .inf\nh: 0x1F\ni: 010\n5: five\nno: word\n"
    values = merge_of(document(tmp_path, text), COLLECTOR).components[COLLECTOR].merge
    assert values == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": "12:30",
        "f": "2026-01-31",
        "g": ".inf",
        "h": 31,
        "i": "010",
        "5": "five",
        "no": "word",
    }


def test_anchors_and_merge_keys_are_followed(tmp_path: Path) -> None:
    text = "line: &line {endpoint: x, asset: a}\nconnections:\n  line1:\n    <<: *line\n    asset: b\n"
    made = merge_of(document(tmp_path, text), COLLECTOR)
    assert made.components[COLLECTOR].merge["connections"]["line1"] == {"endpoint": "x", "asset": "b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("components: [", "site.yaml:2:1: not valid YAML: "),
        ("components:\n\tx: 1", "site.yaml:2:1: not valid YAML: "),
        (
            "5",
            "site.yaml:1:1: has no `components` mapping: a site document maps component names to configurationUpdate",
        ),
        (
            "components:\n  a:\n  b:\n  a:\n",
            "site.yaml:4:3: components.a: stands twice, first in line 2, and only one of the two would count: remove "
            "one of the two",
        ),
        (
            "components:\n  a: {configurationUpdate: {merge: {x: 1, x: 2}}}\n",
            "site.yaml:2:43: components.a.configurationUpdate.merge.x: stands twice, first in line 2, and only one of "
            "the two would count: remove one of the two",
        ),
        (
            'components:\n  a: {configurationUpdate: {merge: \'{"x": 1, "x": 2}\'}}\n',
            "site.yaml:2:29: components.a.configurationUpdate.merge: has the keys x twice: remove one of the two",
        ),
        (
            "components:\n  a: {configurationUpdate: {merge: '{\"x\": NaN}'}}\n",
            "site.yaml:2:29: components.a.configurationUpdate.merge: not JSON: NaN is no number that JSON knows: write "
            "a mapping, or JSON text of an object",
        ),
        (
            "components:\n  a: {configurationUpdate: {merge: [1]}}\n",
            "site.yaml:2:29: components.a.configurationUpdate.merge: expected a mapping: write key: value lines below "
            "it, or JSON text of an object",
        ),
        (
            "components:\n  a: {configurationUpdate: {reset: /x}}\n",
            "site.yaml:2:29: components.a.configurationUpdate.reset: expected a list of JSON pointers: write a list "
            "such as [/connections/line1]",
        ),
        (
            "components:\n  a: {componentVersion: 1.0}\n",
            'site.yaml:2:7: components.a.componentVersion: expected text, not 1.0: write it in quotes, such as "0.1.0"',
        ),
        (
            "components:\n  a: 5\n",
            "site.yaml:2:3: components.a: expected a mapping with configurationUpdate: write merge and reset below "
            "configurationUpdate",
        ),
        ("a: &x [*x]\n", "site.yaml:1:4: a[0]: holds itself, or too much by aliases: write it plainly"),
        (
            "a: !!python/object:os.system b\n",
            "site.yaml:1:4: a: has the tag tag:yaml.org,2002:python/object:os.system, which JSON cannot say: leave "
            "the tag out",
        ),
        ("? [a]\n: b\n", "site.yaml:1:3: has a key that is no text: write name: value lines"),
        ("a: " + "[" * 80 + "]" * 80, f"site.yaml:1:68: a{'[0]' * 63}: is nested too deeply: write it plainly"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert any(one.startswith(expected) for one in faults(tmp_path, text))


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = "components:\n  a: 5\n  b: {componentVersion: 2}\n  b: {configurationUpdate: {merge: [1]}}\n"
    assert len(faults(tmp_path, text)) == 3


def test_aliases_of_aliases_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "too much by aliases" in faults(tmp_path, "\n".join(lines))[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"components: \xff\n", "is not UTF-8 text: save it as UTF-8"), (b"a: \x00", "not valid YAML")],
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    with pytest.raises(Failure, match=expected):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"nowhere\.yaml:1:1: cannot be read \(No such file or directory\)"):
        load(tmp_path / "nowhere.yaml")


def test_keys_that_differ_by_case_alone_are_noted(tmp_path: Path) -> None:
    text = "connections:\n  line1: {}\n  LINE1: {}\n"
    [twin] = merge_of(document(tmp_path, text), COLLECTOR).twins
    assert (twin.place, twin.other) == (("connections", "LINE1"), "line1")


_KEYS = st.text(min_size=0, max_size=8).filter(lambda key: not (key.startswith("[") and key.endswith("]")))


@given(st.lists(_KEYS, max_size=5))
def test_a_place_as_it_is_shown_can_be_found_again(place: list[str]) -> None:
    assert parse_place(render(tuple(place))) == tuple(place)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES)
def test_json_is_read_as_json(value: object) -> None:
    assert Tree.parse(Path("x.json"), json.dumps({"v": value})).value == {"v": value}


def test_the_examples_can_be_read() -> None:
    for path in documents(ROOT / "examples"):
        assert load(path).components


# --- what nobody wrote in good faith --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["components: {a: " + "[" * 100_000 + "]" * 100_000 + "}", "a:\n  " + "- " * 100_000 + "x", "? " * 100_000 + "x"],
    ids=["brackets", "dashes", "keys"],
)
def test_what_is_nested_without_end_is_refused_and_does_not_end_the_process(tmp_path: Path, text: str) -> None:
    [fault] = faults(tmp_path, text)
    assert fault.endswith("is nested too deeply: write it plainly")


def test_many_maps_beside_each_other_are_not_deep(tmp_path: Path) -> None:
    many = "components:\n" + "".join(f"  io.sluice.Tags.t{i}: {{}}\n" for i in range(6_000))
    assert len(load(document(tmp_path, many)).components) == 6_000


def test_aliases_of_aliases_are_refused_soon(tmp_path: Path) -> None:
    lines = ["a: &a [1,1,1,1,1,1,1,1,1,1]"]
    lines += [
        f"{this}: &{this} [{','.join([f'*{above}'] * 10)}]" for above, this in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    began = time.process_time()
    [fault] = faults(tmp_path, "\n".join([*lines, "components: {}"]))
    assert fault.endswith("holds itself, or too much by aliases: write it plainly")
    assert time.process_time() - began < 5


def test_a_file_without_an_end_is_read_up_to_the_limit() -> None:
    with pytest.raises(DocumentError, match="is larger than 64000000 bytes"):
        load(Path("/dev/zero"))


def test_half_a_character_is_refused_where_a_service_would_refuse_it(tmp_path: Path) -> None:
    merge = json.dumps(json.dumps({"sinks": {"a\ud800": {}}}))
    [fault] = faults(
        tmp_path, f'{{"components": {{"io.sluice.StreamExporter": {{"configurationUpdate": {{"merge": {merge}}}}}}}}}'
    )
    assert "merge: has half of a character (\\ud800 to \\udfff), which no service takes: write both halves" in fault
    whole = json.dumps(json.dumps({"sinks": {"😀": {}}}))
    load(document(tmp_path, f'{{"components": {{"x": {{"configurationUpdate": {{"merge": {whole}}}}}}}}}'))
