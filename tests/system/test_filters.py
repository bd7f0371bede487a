"""The address spaces of other stacks are looked through whole, in the parts that each gives at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from opcua_collector.address_space.selecting import Wishes, choose
from opcua_collector.address_space.walk import Walk
from opcua_collector.config import Connection, Select
from opcua_collector.nodes import learn
from opcua_collector.services.connecting import Identity, connect

from .peers import Peer, node_opcua, open62541

pytestmark = [pytest.mark.system, pytest.mark.peers]

TAGS = 2_500  # more than one answer gives of a folder: the rest comes by continuation points


@pytest.mark.parametrize("start", [node_opcua, open62541])
async def test_filters_find_every_variable_of_another_stacks_server(
    start: Callable[..., AbstractAsyncContextManager[Peer]], tmp_path: Path
) -> None:
    select = {"all": Select(path="/Plant/**"), "numbers": Select(path="/Plant/*1", data_type=["Number"], prefix="N/")}
    wishes = Wishes.of("line1", select)
    async with start(tmp_path / "server", tags=TAGS) as server:
        given: dict[str, Any] = {"endpoint": f"opc.tcp://127.0.0.1:{server.port}", "security": {"policy": "None"}}
        settings = Connection.model_validate(given)
        session = await connect("line1", settings, Identity(tmp_path / "pki", "urn:sluice:tests:filters"), None)
        try:
            facts = await learn(session, settings.load)
            walk = Walk(session.stack, facts.limits, facts.spaces, wishes.filters, wishes.select, most=10_000)
            walked = await walk.run()
        finally:
            await session.close(politely=True)
    chosen = choose(wishes, walked.space, looked=True)
    assert walked.complete
    assert not walked.unknown
    assert chosen.counts["all"] == TAGS
    doubles = [name for name in chosen.tags if name.startswith("N/Plant/")]
    assert doubles
    assert all(name[8] in "TD" and name.endswith("1") for name in doubles)  # open62541's strings are S0, S1, …
