"""sluice browse: what a server has, as a tag table: for an engineer who has to choose, and for `tagsFile`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.opcua import PKI, PasswordFile, Pki, Target, TrustFirstUse, run, session
from cli.output import IN_THE_WAY, WRONG, Failure, answer, console, emit, say
from cli.tag_file import table_text

if TYPE_CHECKING:
    from opcua_collector.address_space.selecting import Wishes
    from opcua_collector.address_space.space import Space
    from opcua_collector.address_space.walk import Progress, Walked
    from opcua_collector.config import Select
    from opcua_collector.services.session import Session
    from sluice.config import Problem

COLUMNS: Final = ("tag", "node", "unit", "asset", "group", "description", "kind of value", "object type", "history")
"""Those that a tag table knows, and what is for people."""
_READ_AT_ONCE: Final = 2_000
_LOOK: Final = 0.2  # seconds between two looks how far it is
_HISTORY: Final = {0: "not recorded", 1: "recorded"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("browse")(browse)


def browse(
    source: Annotated[
        str, typer.Argument(help="A site document, or a server such as opc.tcp://10.0.0.5:4840.", show_default=False)
    ],
    connection: Annotated[
        str, typer.Argument(help="With a site document: the name of the connection.", show_default=False)
    ] = "",
    output: Annotated[Path | None, typer.Option(help="CSV file to write; without it to stdout.")] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--filter", help="Such as '/Plant/**'; may be given several times. Default: everything."),
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", help="Instead: by the filters of the connection, as the collector would.")
    ] = False,
    depth: Annotated[int, typer.Option(min=0, help="Levels below Objects to look at; 0: all.")] = 0,
    max_nodes: Annotated[int, typer.Option(min=100, max=1_000_000, help="Nodes to look at, at most.")] = 200_000,
    from_cache: Annotated[
        Path | None, typer.Option(help="Ask no server: what the collector with this work folder has last seen.")
    ] = None,
    policy: Annotated[str, typer.Option(help="With a server: its security policy; None is without any.")] = "auto",
    user: Annotated[str, typer.Option(help="With a server: the user's name; without it anonymous.")] = "",
    password_file: PasswordFile = None,
    pki: Pki = PKI,
    trust_first_use: TrustFirstUse = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, and how, as JSON.")] = False,
) -> None:
    """Look through a server and write its variables as a tag table, ready to be thinned out and used as tagsFile.

    Nothing is written to the server. Standard properties such as EURange are left out unless a filter names them.
    """
    target = _target(source, connection, policy, user, from_cache)
    if output is not None and output.exists():
        raise Failure(f"--output {output}: exists already: give another name, or delete it", 2)
    wishes = _wishes(target, path, select)
    if from_cache is not None:
        found = _from_cache(target, wishes, from_cache)
    else:
        work = _look(target, wishes, depth, max_nodes, pki, trust_first_use, password_file)
        found = run(work)
    table = found.table()
    if output is not None:
        _write(output, table)
    elif not as_json:
        emit(table.encode("utf-8", "replace"))
    result = {**found.as_dict(), "output": None if output is None else str(output)}
    if as_json:
        if output is None:
            result["tags"] = found.rows
        answer(result, True, lambda shown: None)
    for problem in found.problems:
        say(problem)
    say(f"{len(found.rows)} tags of {found.nodes} nodes{'' if output is None else f' in {output}'}")
    if found.problems or not found.rows:
        raise typer.Exit(WRONG)


@dataclass
class _Found:
    """What a look gave. `rows` have the columns of the table."""

    connection: str
    endpoint: str
    nodes: int
    rows: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    requests: int = 0

    def table(self) -> str:
        """As CSV, with the columns in which anything stands."""
        used = [column for column in COLUMNS if column in ("tag", "node") or any(row.get(column) for row in self.rows)]
        return table_text([used, *([row.get(column, "") for column in used] for row in self.rows)])

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "connection": self.connection,
            "endpoint": self.endpoint,
            "nodes": self.nodes,
            "count": len(self.rows),
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "problems": self.problems,
        }


def _target(source: str, connection: str, policy: str, user: str, from_cache: Path | None) -> Target:
    if source.casefold().startswith("opc.tcp:"):
        if from_cache is not None:
            raise Failure("--from-cache: keeps what connections have seen: name a site document and its connection", 2)
        if connection:
            raise Failure(f"{connection}: a server has no connections: name a site document for that", 2)
        return Target.of_endpoint(source, policy=policy, user=user)
    if user or policy != "auto":
        raise Failure("--user and --policy: are for a server: the site document has its own", 2)
    if not connection:
        raise Failure(f"{source}: which connection? Write its name behind the document", 2)
    return Target.of_document(Path(source), connection)


def _wishes(target: Target, paths: Sequence[str] | None, select: bool) -> Wishes:
    from opcua_collector.address_space.selecting import Wishes
    from opcua_collector.config import Select

    if select and paths:
        raise Failure("--select and --filter: one of the two is enough", 2)
    if select and not target.settings.select:
        raise Failure(f"--select: the connection {target.name} has no filters (select): give --filter", WRONG)
    wanted: Mapping[str, Select] = target.settings.select
    if not select:
        wanted = {text: Select.model_construct(path=text.strip()) for text in paths or ["/**"]}
    wishes = Wishes.of(target.name, wanted)
    if wishes.problems:
        raise Failure("\n".join(f"--filter {one.value} {one.problem}: {one.remedy}" for one in wishes.problems), WRONG)
    return wishes


# --- looking ---


async def _look(
    target: Target,
    wishes: Wishes,
    depth: int,
    most: int,
    pki: Path,
    trust_first_use: bool,
    password_file: Path | None,
) -> _Found:
    from opcua_collector.address_space.walk import MOST_LEVELS, Progress, Walk
    from opcua_collector.nodes import learn

    progress = Progress()
    with _shown(target, progress):
        async with session(target, pki=pki, trust_first_use=trust_first_use, password_file=password_file) as opened:
            facts = await learn(opened, target.settings.load)
            walk = Walk(
                opened.stack,
                facts.limits,
                facts.spaces,
                wishes.filters,
                wishes.select,
                most=most,
                everything=True,
                deepest=depth or MOST_LEVELS,
                progress=progress,
            )
            walked = await walk.run()
            found, nodes = _chosen(target, wishes, walked.space, walked)
            await _describe(opened, facts.limits, walked.space, found, nodes)
    return found


def _from_cache(target: Target, wishes: Wishes, work: Path) -> _Found:
    from opcua_collector.address_space.space import file_of, load

    path = file_of(work / "space", target.name)
    space = load(path)
    if space is None:
        raise Failure(
            f"--from-cache {path}: holds no address space: name the work folder of a collector whose connection "
            f"{target.name} has filters (select), and see that you may read it",
            WRONG,
        )
    return _chosen(target, wishes, space, None)[0]


def _chosen(target: Target, wishes: Wishes, space: Space, walked: Walked | None) -> tuple[_Found, dict[str, int]]:
    from opcua_collector.address_space.selecting import choose

    nodes: dict[str, int] = {}
    type_names = walked.type_names if walked is not None else None
    chosen = choose(
        wishes, space, looked=walked is not None, type_names=type_names, groups=target.settings.groups, nodes=nodes
    )
    found = _Found(target.name, target.settings.endpoint, len(space))
    unwritable = [name for name, tag in chosen.tags.items() if "\0" in (tag.node or "")]
    for name, tag in chosen.tags.items():
        if "\0" in (tag.node or ""):
            continue
        row = {"tag": name, "node": tag.node or "", "asset": tag.asset, "group": tag.group}
        found.rows.append(row | _said(space, nodes[name]))
    found.problems = [_words(problem) for problem in chosen.problems]
    if unwritable:
        found.problems.append(
            f"{len(unwritable)} nodes whose ids hold a NUL, which no table can hold, such as that of {unwritable[0]}: "
            "collect them by a filter (select)"
        )
    if walked is not None:
        found.seconds, found.requests = walked.seconds, walked.requests
        if walked.truncated:
            found.problems.append(
                f"--max-nodes {len(space)}: the server has more: raise it, or give filters that begin with more names"
            )
        if walked.unknown:
            found.problems.append(
                f"of {len(walked.unknown)} nodes the server does not show what is below them: "
                "see that the user may browse them"
            )
    return found, nodes


def _words(problem: Problem) -> str:
    return f"{problem.value} {problem.problem}: {problem.remedy}"


def _said(space: Space, node: int) -> dict[str, str]:
    """What the address space says of a variable, for people."""
    from opcua_collector.address_space.space import ROOT

    data_type = space.types[space.data_type[node]]
    shown = space.type_names.get(data_type, data_type)
    parent = space.parent[node]
    above = space.types[space.type[parent]] if parent != ROOT else ""
    return {
        "kind of value": f"array of {shown}" if shown and space.rank[node] >= 0 else shown,
        "object type": space.type_names.get(above, above),
        "history": _HISTORY.get(space.historizing[node], ""),
    }


async def _describe(opened: Session, limits: Any, space: Space, found: _Found, nodes: Mapping[str, int]) -> None:
    """Units and descriptions, where the server has any."""
    from opcua_collector.address_space.references import unpack
    from opcua_collector.services.browse import node_id
    from opcua_collector.types.metadata import metadata

    for start in range(0, len(found.rows), _READ_AT_ONCE):
        some = found.rows[start : start + _READ_AT_ONCE]
        ids = [node_id(unpack(space.id(nodes[row["tag"]])), ()) for row in some]
        for row, said in zip(some, await metadata(opened.stack, limits, ids), strict=True):
            row["unit"] = _plain(said.unit)
            row["description"] = _plain(said.description)


def _plain(text: object) -> str:
    """A text of the server in one line that any program shows as it is."""
    words = " ".join(text.split()) if isinstance(text, str) else ""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words)


@contextmanager
def _shown(target: Target, progress: Progress) -> Iterator[None]:
    """Tell a person how far it is."""
    from rich.text import Text

    with console.status(Text(f"Connecting to {target.settings.endpoint}")) as status:

        async def tell() -> None:
            while True:
                await asyncio.sleep(_LOOK)
                if progress.requests:
                    status.update(Text(f"{progress.nodes} nodes, {progress.variables} variables"))

        task = asyncio.ensure_future(tell())
        try:
            yield
        finally:
            task.cancel()


def _write(path: Path, table: str) -> None:
    try:
        with path.open("x", encoding="utf-8", errors="replace", newline="") as file:
            file.write(table)
    except OSError as error:
        raise Failure(
            f"--output {path}: cannot be written ({error.strerror}): give another place", IN_THE_WAY
        ) from None
