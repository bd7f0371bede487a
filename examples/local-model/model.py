"""Scores each value of a stream by how far it is from what its tag was lately, and publishes the scores as a stream.

A score is a number of standard deviations, both mean and deviation weighted exponentially. See README.md.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import zstandard
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage

SOURCE, SCORES = sys.argv[1:]  # opcua-collector/line1 local-model/scores
EPOCH = secrets.token_hex(6)  # the numbers begin again with each start
WEIGHT, LEARNS = 0.05, 50  # of a new value; values of a tag until its scores are GOOD
LIMIT = 7000  # bytes that nucleus lite carries; elsewhere as large as what was scored

known: dict[str, tuple[int, float, float]] = {}  # by tag: values so far, mean, variance


def score(tag: str, value: float) -> tuple[float, int]:
    """How unusual the value is, and 1 (UNCERTAIN) as long as the tag is being learnt, else 0 (GOOD)."""
    count, mean, variance = known.get(tag, (0, value, 0.0))
    off = value - mean
    known[tag] = count + 1, mean + WEIGHT * off, (1 - WEIGHT) * (variance + WEIGHT * off * off)
    return round(abs(off) / variance**0.5, 2) if variance > 0 else 0.0, int(count < LEARNS)


def scored(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with scores in place of its values. What is BAD (2), missing or beyond measure has none, and is BAD."""
    tags = [series["tag"] for series in batch["series"]]
    pairs: list[tuple[float | None, int]] = []
    for s, value, quality in zip(batch["s"], batch["value"], batch.get("q") or [0] * len(batch["s"]), strict=True):
        if value is None or quality == 2 or abs(value) > 1e100:
            pairs.append((None, 2))
        else:
            found, learning = score(tags[s], value)
            pairs.append((found, max(quality, learning)))
    of = {name: batch[name] for name in ("kind", "s", "t0", "dt")}
    series = [{**one, "tag": one["tag"] + ".score", "unit": ""} for one in batch["series"]]
    return {**of, "type": "double", "series": series, "value": [x for x, _ in pairs], "q": [q for _, q in pairs]}


def main() -> None:
    """Score what comes until the connection to the core is lost: Greengrass starts the component again."""
    ipc = GreengrassCoreIPCClientV2(executor=ThreadPoolExecutor(1))  # one thread, or batches come in any order
    waiting: queue.Queue[bytes] = queue.Queue(1000)

    def send(body: dict[str, Any], limit: int = LIMIT) -> None:
        frame = zstandard.compress(json.dumps({**body, "v": 1, "stream": SCORES, "epoch": EPOCH}).encode())
        if len(frame) <= limit:
            message = PublishMessage(binary_message=BinaryMessage(message=frame))
            ipc.publish_to_topic_async(topic=f"sluice/data/{SCORES}", publish_message=message).result(10)

    def arrived(event: Any) -> None:
        if not waiting.full():  # what does not fit is not scored
            waiting.put(event.binary_message.message)

    ipc.subscribe_to_topic(topic=f"sluice/data/{SOURCE}", on_stream_event=arrived, on_stream_closed=lambda: os._exit(1))
    number = 1
    while True:
        try:
            frame = waiting.get(timeout=2)
            text = zstandard.ZstdDecompressor().decompress(frame) if frame[:4] == b"\x28\xb5\x2f\xfd" else frame
            batch = json.loads(text)
        except queue.Empty:
            batch = {}
        # Nothing is kept, the next is `number`: who missed one goes on from here, and who is new begins here.
        send({"kind": "announce", "oldest": number, "newest": number - 1})
        if batch.get("kind") == "samples" and batch["type"] in ("double", "integer") and batch["value"]:
            send({**scored(batch), "seq": number}, max(LIMIT, len(frame)))
            number += 1


if __name__ == "__main__":
    main()
