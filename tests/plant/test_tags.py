"""The tag list that a collector reads."""

from __future__ import annotations

import csv
from pathlib import Path

from plant import example_config, tags, write_tags_csv
from plant.tags import UNIT_WIDTH


def test_every_unit_has_its_52_process_variables_and_one_integer_one_boolean_and_one_string() -> None:
    plant = tags(3)
    assert len(plant) == 3 * UNIT_WIDTH == 3 * 55
    assert (
        len({tag.tag for tag in plant}) == len({tag.node for tag in plant}) == len({tag.path for tag in plant}) == 165
    )
    kinds = [tag.type for tag in plant[:UNIT_WIDTH]]
    assert (kinds.count("Double"), kinds.count("Int32"), kinds.count("Boolean"), kinds.count("String")) == (52, 1, 1, 1)


def test_a_tag_says_its_node_path_unit_and_range() -> None:
    tag = next(tag for tag in tags(2) if tag.tag == "Unit2/XMEAS09_ReactorTemperature")
    assert tag.node == "nsu=urn:sluice:plant;s=Unit2/XMEAS09_ReactorTemperature"
    assert tag.path == "/Objects/2:Plant/2:Unit2/2:Reactor/2:XMEAS09_ReactorTemperature"
    assert (tag.unit, tag.unece, tag.low, tag.high, tag.asset) == ("degC", "CEL", 0, 200, "Unit2/Reactor")


def test_the_csv_has_one_line_per_variable_by_node_or_by_path(tmp_path: Path) -> None:
    for by_path in (False, True):
        write_tags_csv(tmp_path / "tags.csv", 2, by_path=by_path)
        with (tmp_path / "tags.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert list(lines[0]) == ["tag", "node", "path", "area", "unit", "asset"]
        assert [line["tag"] for line in lines] == [tag.tag for tag in tags(2)]
        assert [line["path" if by_path else "node"] for line in lines] == [
            tag.path if by_path else tag.node for tag in tags(2)
        ]
        assert not any(line["node" if by_path else "path"] for line in lines)


def test_the_example_configuration_names_the_endpoint_the_tag_list_and_the_user(tmp_path: Path) -> None:
    csv_file, password = tmp_path / "tags.csv", tmp_path / "password"
    assert example_config("opc.tcp://127.0.0.1:4840/plant", csv_file) == {
        "connections": {
            "line1": {
                "endpoint": "opc.tcp://127.0.0.1:4840/plant",
                "asset": "site/area/line1",
                "security": {"policy": "None"},
                "publishingInterval": "200ms",
                "tagsFile": str(csv_file),
            }
        }
    }
    config = example_config(
        "opc.tcp://h:1/p",
        csv_file,
        policy="Basic256Sha256",
        trust="first-use",
        user="operator",
        password_file=password,
    )
    assert config["connections"]["line1"]["user"] == {"name": "operator", "password": {"file": str(password)}}
    assert config["connections"]["line1"]["security"] == {"policy": "Basic256Sha256", "trust": "first-use"}
