"""What the preprocessor can be asked to do: explain what becomes of a tag, forget a consumer. See `sluice.command`, and
`sluice.tag_commands` for what it shares with the collectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from preprocessor.flow import Flow
from sluice.command import Call, Command, CommandError
from sluice.config import Settings
from sluice.outlets import Outlets
from sluice.problem import one_of
from sluice.tag_commands import LONGEST_NAME, SHOWN, Forget, TagCommands, near

MOST_SLOTS: Final = 10
"""Forms of one tag (as it comes in, converted, renamed, …) that one answer explains."""


class Explain(Settings):
    """Arguments of `explain`."""

    tag: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, examples=["Reactor/Temp"])]
    """The tag, by its name or as <asset>/<name>, as it comes in or as it goes out."""
    flow: Annotated[str, Field(max_length=64)] = ""
    """Only in this flow."""


class Commands(TagCommands[Any]):
    """The commands. flows: those that run, by name; outlets: None while there are none."""

    def __init__(self, flows: Callable[[], Mapping[str, Flow]], outlets: Callable[[], Outlets | None]) -> None:
        super().__init__(dict, outlets)
        self._flows = flows

    def all(self) -> Sequence[Command[Any]]:
        """For the channel."""
        return (
            Command("explain", Explain, self._explain, check=self._can_explain, reads=True),
            Command("forget", Forget, self._forget, check=self._can_forget),
        )

    def check_past(self, name: str, connection: Any, tags: Sequence[str]) -> None:
        """Flows have no past to read."""
        raise CommandError("the preprocessor reads no past", "send the command to the collector")

    def _can_explain(self, wanted: Explain) -> None:
        flows = self._flows()
        if wanted.flow and wanted.flow not in flows:
            raise CommandError(
                f"arguments.flow = {wanted.flow!r} is no flow", one_of(sorted(flows)[:SHOWN], wanted.flow)
            )
        if not self._found(wanted) and not self._turned_away(wanted):
            known = dict.fromkeys(
                series.tag
                for flow in self._chosen(wanted).values()
                if flow.work is not None
                for series in flow.work.pipeline.tags.series
            )
            raise CommandError(
                f"arguments.tag: {wanted.tag[:128]!r} has not come yet, in {'this' if wanted.flow else 'any'} flow",
                one_of(near(wanted.tag, known), wanted.tag) if known else "no tag has come yet: see the inputs",
            )

    def _chosen(self, wanted: Explain) -> Mapping[str, Flow]:
        flows = self._flows()
        return {wanted.flow: flows[wanted.flow]} if wanted.flow in flows else flows

    def _found(self, wanted: Explain) -> dict[str, list[int]]:
        """The slots of the tag, by flow."""
        found = {
            name: flow.work.pipeline.tags.find(wanted.tag)
            for name, flow in self._chosen(wanted).items()
            if flow.work is not None
        }
        return {name: slots for name, slots in found.items() if slots}

    def _turned_away(self, wanted: Explain) -> dict[str, str]:
        """Why flows do not take the tag, by flow."""
        told = {
            name: flow.work.pipeline.turned_away(wanted.tag)
            for name, flow in self._chosen(wanted).items()
            if flow.work is not None
        }
        return {name: why for name, why in told.items() if why}

    async def _explain(self, call: Call[Explain]) -> Mapping[str, Any]:
        wanted = call.arguments
        told: dict[str, Any] = {"tag": wanted.tag, "flows": {}}
        if turned_away := self._turned_away(wanted):
            told["not_taken"] = turned_away
        for name, slots in self._found(wanted).items():
            work = self._flows()[name].work
            if work is not None:
                told["flows"][name] = [explained(work.pipeline, slot) for slot in slots[:MOST_SLOTS]]
        return told


def explained(pipeline: Any, slot: int) -> dict[str, Any]:
    """What becomes of a tag, step by step. From the first time on that it is asked for its decisions are recorded."""
    series, stage = pipeline.tags.series[slot], pipeline.tags.stages[slot]
    told: dict[str, Any] = {
        "tag": series.tag,
        "asset": series.asset,
        "unit": series.unit,
        "made_by": stage,
        "last": pipeline.last(slot),
        "steps": {step.name: step.explain(slot) for step in pipeline.steps},
        "counters": {step.name: dict(step.counters) for step in pipeline.steps if step.counters},
    }
    watched = slot in pipeline.flow.watching
    pipeline.trace.watch(slot)
    if watched:
        told["decisions"] = pipeline.trace.decisions(slot)
    else:
        told["decisions"] = []
        told["note"] = "its decisions are recorded from now on: ask again when samples have come"
    return told
