"""Streams are made to measure and mended from what `describe` says; nothing of others is touched."""

from __future__ import annotations

from typing import Any

from stream_manager import (
    ExportDefinition,
    HTTPConfig,
    IoTSiteWiseConfig,
    KinesisConfig,
    MessageStreamDefinition,
    Persistence,
    StrategyOnFull,
)
from stream_manager.data import MessageStreamInfo

from stream_exporter.streams import StreamPlan, compare, new_definition

MB = 1 << 20


def plan(**changes: Any) -> StreamPlan:
    export = KinesisConfig(identifier="sluice-kinesis", kinesis_stream_name="plant-data", priority=5, disabled=False)
    return StreamPlan(**{"name": "S", "max_size": 64 * MB, "segment_size": 4 * MB, "export": export, **changes})


def described(definition: MessageStreamDefinition, stored: int = 0) -> Any:
    status = {"oldestSequenceNumber": 0, "newestSequenceNumber": 9, "totalBytes": stored}
    return MessageStreamInfo.from_dict(
        {"definition": definition.as_dict(), "storageStatus": status, "exportStatuses": []}
    )


def changed(**changes: Any) -> MessageStreamDefinition:
    definition = new_definition(plan())
    for name, value in changes.items():
        setattr(definition, name, value)
    return definition


def test_a_stream_as_planned_is_left_alone() -> None:
    step = compare(plan(), described(new_definition(plan())))

    assert (step.update, step.drift) == (None, ())


def test_a_stream_as_the_server_describes_it_with_its_defaults_is_left_alone() -> None:
    definition = new_definition(plan())
    definition.export_definition.http = []
    definition.export_definition.kinesis[0].batch_size = 500

    assert compare(plan(), described(definition)).update is None


def test_an_update_keeps_exports_of_others_and_what_is_not_ours_to_decide() -> None:
    ours = KinesisConfig(
        identifier="sluice-kinesis", kinesis_stream_name="elsewhere", start_sequence_number=7, batch_size=20
    )
    theirs = KinesisConfig(identifier="theirs", kinesis_stream_name="theirs")
    http = HTTPConfig(identifier="web", uri="http://127.0.0.1")
    definition = changed(
        export_definition=ExportDefinition(kinesis=[theirs, ours], http=[http]), time_to_live_millis=90_000
    )

    step = compare(plan(), described(definition))

    assert step.update is not None
    wire = step.update.as_dict()
    assert wire["timeToLiveMillis"] == 90_000
    exports = {export["identifier"]: export for export in wire["exportDefinition"]["kinesis"]}
    assert exports["theirs"] == theirs.as_dict()
    assert exports["sluice-kinesis"]["kinesisStreamName"] == "plant-data"
    assert exports["sluice-kinesis"]["startSequenceNumber"] == 7
    assert exports["sluice-kinesis"]["batchSize"] == 20
    assert wire["exportDefinition"]["http"] == [http.as_dict()]
    assert any("elsewhere instead of plant-data" in str(drift) for drift in step.drift)


def test_an_export_that_is_missing_is_added_and_one_of_another_kind_is_replaced() -> None:
    wrong_kind = IoTSiteWiseConfig(identifier="sluice-kinesis")
    for found in (ExportDefinition(), ExportDefinition(iot_sitewise=[wrong_kind]), None):
        step = compare(plan(), described(changed(export_definition=found)))

        assert step.update is not None
        wire = step.update.as_dict()["exportDefinition"]
        assert [export["identifier"] for export in wire["kinesis"]] == ["sluice-kinesis"]
        assert not wire.get("IotSitewise")


def test_an_export_that_somebody_disabled_is_enabled() -> None:
    definition = new_definition(plan())
    definition.export_definition.kinesis[0].disabled = True

    step = compare(plan(), described(definition))

    assert step.update is not None
    assert not step.update.export_definition.kinesis[0].disabled


def test_sizes_and_strategy_are_mended() -> None:
    definition = changed(max_size=8 * MB, strategy_on_full=StrategyOnFull.RejectNewData)

    step = compare(plan(), described(definition))

    assert step.update is not None
    assert step.update.max_size == 64 * MB
    assert step.update.strategy_on_full is StrategyOnFull.OverwriteOldestData
    assert [drift.field for drift in step.drift] == ["maxSize", "strategyOnFull"]


def test_a_stream_is_never_made_smaller_than_what_it_holds() -> None:
    step = compare(plan(), described(changed(max_size=128 * MB), stored=100 * MB))

    assert step.update is None
    assert "shrinks only when it holds less" in step.drift[0].remedy


def test_persistence_cannot_change_and_is_reported_while_the_rest_is_mended() -> None:
    definition = changed(persistence=Persistence.Memory, max_size=8 * MB)

    step = compare(plan(), described(definition))

    assert step.update is not None
    assert step.update.persistence is Persistence.Memory
    assert [drift.field for drift in step.drift if drift.remedy] == ["persistence"]


def test_a_status_stream_has_no_export() -> None:
    bare = plan(export=None)

    assert compare(bare, described(new_definition(bare))).update is None
    assert "kinesis" not in new_definition(bare).as_dict().get("exportDefinition", {})
