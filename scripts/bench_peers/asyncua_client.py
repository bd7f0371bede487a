"""Stock asyncua as a collector: data change handler, JSON batches to MQTT with paho. See `collector_bench`.

    python asyncua_client.py <endpoint> <items> <broker's port>

Values go out as JSON arrays of up to 500, or every 100 ms: one message per value would cost it several times as much.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from importlib import import_module
from typing import Any

import orjson

mqtt: Any = import_module("paho.mqtt.client")
ua: Any = import_module("asyncua").ua
Client: Any = import_module("asyncua").Client

BATCH = 500
EVERY = 0.1
AT_ONCE = 1000


class Handler:
    """What asyncua calls for each value."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._batch: list[dict[str, Any]] = []
        self._names: dict[Any, str] = {}

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        name = self._names.get(node.nodeid)
        if name is None:
            name = self._names[node.nodeid] = node.nodeid.to_string()
        of = data.monitored_item.Value
        self._batch.append(
            {"n": name, "t": of.SourceTimestamp.timestamp() * 1000, "q": of.StatusCode.value, "v": value}
        )
        if len(self._batch) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Publish what is there."""
        if self._batch:
            self._broker.publish("bench/asyncua", orjson.dumps(self._batch), qos=0)
            self._batch = []


async def main(endpoint: str, items: int, port: int) -> None:
    """Collect until killed."""
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    broker = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    broker.connect("127.0.0.1", port)
    broker.loop_start()
    async with Client(endpoint, timeout=60) as client:
        handler = Handler(broker)
        # Its own defaults let keep-alives come each 45 minutes; all else is stock.
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = 33
        parameters.RequestedMaxKeepAliveCount = 100
        parameters.RequestedLifetimeCount = 10_000
        parameters.MaxNotificationsPerPublish = 0
        parameters.PublishingEnabled = True
        subscription = await client.create_subscription(parameters, handler)
        nodes = [client.get_node(f"ns=1;i={number}") for number in range(1, items + 1)]
        for start in range(0, items, AT_ONCE):
            await subscription.subscribe_data_change(nodes[start : start + AT_ONCE])
        while True:
            began = time.monotonic()
            await asyncio.sleep(EVERY)
            if time.monotonic() - began >= EVERY:
                handler.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
