"""The collector's decoder beside stock asyncua, on the same replayed notifications, in the same process.

Stock: bytes of a PublishResponse to asyncua's objects. Ours: the same bytes to finished columns of samples, which is
more work: typed, with tags, quality and times in nanoseconds. The notifications are encoded by asyncua. Both times are
CPU time, the best of several rounds that take turns, so that other load on the machine hits both.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from opcua_collector.stack import ua
from opcua_collector.values.notifications import decode
from opcua_collector.values.samples import Assembler, Rule
from sluice.batch import Series

REQUIRED = 10.0
_binary: Any = __import__("asyncua.ua.ua_binary", fromlist=["ua_binary"])
_Buffer: Any = __import__("asyncua.common.utils", fromlist=["utils"]).Buffer


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of notification. `required`: its ratio decides the exit status."""

    name: str
    required: bool
    rules: tuple[Rule, ...]  # per item
    body: bytes


def cases(items: int) -> list[Case]:
    """The notifications: all Doubles; a plant's mix; texts; two types that alternate."""
    chance = random.Random(7)  # noqa: S311 - test data
    double, integer, boolean, text = Rule.DOUBLE, Rule.INTEGER, Rule.BOOLEAN, Rule.STRING
    unit = (*[double] * 52, integer, boolean, text)  # a unit of the simulated plant
    kinds = {
        "doubles": (True, (double,)),
        "plant mix": (True, unit),
        "alternating types": (False, (double, integer)),
        "texts": (False, (text,)),
    }
    made = []
    for name, (required, pattern) in kinds.items():
        rules = tuple(pattern[n % len(pattern)] for n in range(items))
        made.append(Case(name, required, rules, _encoded([_item(n, rule, chance) for n, rule in enumerate(rules)])))
    return made


def _item(handle: int, rule: Rule, chance: random.Random) -> Any:
    value: Any
    if rule is Rule.DOUBLE:
        value, kind = chance.gauss(50, 20), ua.VariantType.Double
    elif rule is Rule.INTEGER:
        value, kind = chance.randrange(-1000, 1000), ua.VariantType.Int32
    elif rule is Rule.BOOLEAN:
        value, kind = chance.random() < 0.5, ua.VariantType.Boolean
    else:
        value, kind = f"phase {chance.randrange(100)}", ua.VariantType.String
    now = datetime.now(timezone.utc)
    return ua.MonitoredItemNotification(
        handle, ua.DataValue(ua.Variant(value, kind), SourceTimestamp=now, ServerTimestamp=now)
    )


def _encoded(items: list[Any]) -> bytes:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 1
    message = response.Parameters.NotificationMessage
    message.SequenceNumber = 1
    message.NotificationData = [ua.DataChangeNotification(MonitoredItems=items)]
    return bytes(_binary.struct_to_binary(response))


def compare(case: Case, rounds: int) -> dict[str, float | int | str | bool]:
    """Microseconds of CPU per value of both, and their ratio."""
    assembler = Assembler()
    for number, rule in enumerate(case.rules):
        handle = assembler.add(Series(f"Tag{number}"))
        assembler.fix(handle, rule)
    items = len(case.rules)

    def ours() -> int:
        publication = decode(case.body, 0, received=0, handles=items)
        return sum(len(columns) for columns in assembler.columns(publication))

    def stock() -> int:
        response = _binary.struct_from_binary(ua.PublishResponse, _Buffer(case.body))
        return len(response.Parameters.NotificationMessage.NotificationData[0].MonitoredItems)

    def decode_only() -> int:
        return len(decode(case.body, 0, received=0, handles=items))

    _agree(case, assembler)
    work = {"ours_us": (ours, 20), "decode_us": (decode_only, 20), "stock_us": (stock, 1)}
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, (run, repeats) in work.items():
            best[name] = min(best[name], _cpu(run, repeats, items) / items * 1e6)
    ratio = best["stock_us"] / best["ours_us"]
    return {
        "case": case.name,
        "items": items,
        **{name: round(value, 4) for name, value in best.items()},
        "ratio": round(ratio, 1),
        "required": REQUIRED if case.required else 0.0,
        "ok": not case.required or ratio >= REQUIRED,
    }


def _cpu(run: Callable[[], int], repeats: int, items: int) -> float:
    gc.collect()
    start = time.process_time()
    for _ in range(repeats):
        if run() != items:
            raise SystemExit("bench: values are missing, the comparison means nothing")
    return (time.process_time() - start) / repeats


def _agree(case: Case, assembler: Assembler) -> None:
    """Both must find the same values, or speed means nothing."""
    response = _binary.struct_from_binary(ua.PublishResponse, _Buffer(case.body))
    expected = {
        f"Tag{item.ClientHandle}": item.Value.Value.Value
        for item in response.Parameters.NotificationMessage.NotificationData[0].MonitoredItems
    }
    found: dict[str, Any] = {}
    for columns in assembler.columns(decode(case.body, 0, received=0, handles=len(case.rules))):
        tags = [series.tag for series in columns.series]
        found.update(zip([tags[s] for s in columns.s], np.asarray(columns.value).tolist(), strict=True))
    if found != expected:
        raise SystemExit(f"bench: {case.name}: the decoders disagree, the comparison means nothing")


def main() -> None:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description="The OPC UA decoder beside stock asyncua.")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--items", type=int, default=10_000, help="values per notification (10000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts (5)")
    options = parser.parse_args()
    results: list[Mapping[str, Any]] = [compare(case, options.rounds) for case in cases(options.items)]
    print("CPU microseconds per value, of notifications of", options.items, "values")
    print(f"{'':20}{'asyncua':>10}{'decoder':>10}{'columns':>10}{'ratio':>8}")
    for result in results:
        needed = f"  (required: {result['required']:g})" if result["required"] else ""
        print(
            f"{result['case']:20}{result['stock_us']:10.2f}{result['decode_us']:10.3f}{result['ours_us']:10.3f}"
            f"{result['ratio']:8.1f}{needed}"
        )
    ok = all(result["ok"] for result in results)
    if options.json is not None:
        report = {
            "ok": ok,
            "decoder": results,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if not ok:
        print(f"bench: the decoder is less than {REQUIRED:g} times cheaper than asyncua", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
