"""Site documents: read in the shape of a Greengrass deployment, refused with file, place and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rehearsal.site import (
    COLLECTOR,
    EXPORTER,
    PREPROCESSOR,
    SiteError,
    demo_site,
    exported_sources,
    is_of,
    load_site,
    sinks,
)

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_is_one_and_its_sinks_are_found() -> None:
    site = load_site(ROOT / "examples" / "site.yaml")
    assert {name: sink["type"] for name, sink in sinks(site).items()} == {
        "sitewise": "sitewise",
        "kinesis": "kinesis",
        "s3": "s3",
    }


def test_a_merge_may_be_json_text_as_the_service_wants_it() -> None:
    merge = json.dumps({"sinks": {"lake": {"type": "s3", "bucket": "lake"}}})
    site = {"components": {EXPORTER: {"configurationUpdate": {"merge": merge}}}}
    assert sinks(site) == {"lake": {"type": "s3", "bucket": "lake"}}


def test_the_demonstration_has_one_sink_of_each_kind() -> None:
    site = demo_site({COLLECTOR: {"connections": {}}})
    assert list(site["components"]) == [COLLECTOR, EXPORTER]
    assert sorted(sink["type"] for sink in sinks(site).values()) == ["kinesis", "s3", "sitewise"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("components: [", "not valid YAML"),
        ("[]", "has no `components` mapping"),
        ("components: []", "has no `components` mapping"),
        ("components: {io.sluice.StreamExporter: 5}", "components.io.sluice.StreamExporter: expected a mapping"),
        (
            "components: {io.sluice.StreamExporter: {configurationUpdate: {merge: '{'}}}",
            "components.io.sluice.StreamExporter.configurationUpdate.merge: not JSON",
        ),
        (
            "components: {io.sluice.StreamExporter: {configurationUpdate: {merge: []}}}",
            "components.io.sluice.StreamExporter.configurationUpdate.merge: expected a mapping",
        ),
    ],
)
def test_what_is_no_site_document_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(SiteError) as refused:
        load_site(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert problem in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"nowhere\.yaml: cannot be read"):
        load_site(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("sources", "taken"),
    [
        (["*"], {"a/x", "a/x/backfill", "a/y", "b/x"}),
        (["a/*"], {"a/x", "a/x/backfill", "a/y"}),
        (["*/x"], {"a/x", "a/x/backfill", "b/x"}),
        (["a/y", "b/x"], {"a/y", "b/x"}),
        (["c/*"], set()),
    ],
)
def test_which_streams_the_exporter_takes(sources: list[str], taken: set[str]) -> None:
    assert {one for one in ("a/x", "a/x/backfill", "a/y", "b/x") if is_of(one, sources)} == taken


def test_with_a_preprocessor_its_streams_alone_are_exported() -> None:
    assert exported_sources(demo_site({})) == ["*"]
    assert exported_sources(demo_site({}, preprocessor={"flows": {}})) == ["preprocessor/*"]
    assert PREPROCESSOR in demo_site({}, preprocessor={"flows": {}})["components"]
    assert exported_sources({"components": {}}) == ["*"]
