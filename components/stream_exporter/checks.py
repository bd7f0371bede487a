"""What the configuration's models alone cannot see, found without network and without a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sluice.config import Problem
from stream_exporter.config import AnySink, Configuration, streams_of


def check(config: Configuration, directory: Path) -> list[Problem]:
    """Sinks that cannot run beside the others. directory: not needed, there are no files."""
    return list(clashes(config.sinks).values())


def clashes(sinks: Mapping[str, AnySink], running: Iterable[str] = ()) -> dict[str, Problem]:
    """The sinks that want a stream which another one has, and what to tell of each.

    Those that are running have theirs; of the others whoever stands first has it.
    """
    found: dict[str, Problem] = {}
    owners: dict[str, str] = {}
    running = [name for name in running if name in sinks]
    for name in [*running, *(name for name in sinks if name not in running)]:
        streams = streams_of(sinks[name])
        if len(set(streams)) < len(streams):
            found[name] = Problem(
                f"sinks.{name}.statusStream",
                streams[-1],
                "is the stream of the files too",
                "give the status a stream of its own",
                "this sink does not run",
            )
            continue
        taken = [stream for stream in streams if owners.get(stream, name) != name]
        if taken:
            found[name] = Problem(
                f"sinks.{name}.{_setting(sinks[name], taken[0])}",
                taken[0],
                f"is a stream of the sink {owners[taken[0]]} too",
                "give each sink streams of its own",
                "this sink does not run",
            )
        else:
            owners.update(dict.fromkeys(streams, name))
    return found


def _setting(sink: AnySink, stream: str) -> str:
    return "stream" if stream == sink.stream else "statusStream"
