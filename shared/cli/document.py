"""Site documents: what to deploy and how it is configured, in the shape of a Greengrass deployment, with positions.

    components:
      io.sluice.OpcUaCollector:
        componentVersion: "0.1.0"              # may be left out: the repository's own
        configurationUpdate:
          merge: {connections: {…}}            # a mapping, or JSON text as the service wants it
          reset: [/connections/line2]

Whatever else a deployment has beside `components` may stand there. YAML or JSON: JSON is YAML. Read as JSON would be
written: keys are text as they stand there, dates and `12:30` are text, and a key may stand once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from cli.output import Failure
from sluice.problem import render
from sluice.schema import Place

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LARGEST: Final = 64_000_000
_MOST_BY_ALIASES: Final = 100_000
"""Values in a file of few characters: aliases of aliases make much of little."""
_DEEPEST: Final = 64
_DEEPEST_COMPOSED: Final = 5_000
"""The C composer calls itself for each level, and takes the process with it when the stack ends, at about 30,000."""
_SCALARS: Final = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "null", "bool", "int", "float", "timestamp")}
_SEGMENT: Final = re.compile(r'\.?([\w/-]+)|(\[[0-9]+\])|\[("(?:[^"\\]|\\.)*")\]')

ENTRY_KEYS: Final = ("componentVersion", "configurationUpdate", "runWith")
UPDATE_KEYS: Final = ("merge", "reset")

Position = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What makes a file unusable: where, in which place of it, and what to do."""

    line: int
    column: int
    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}: {self.remedy}" if self.place else f"{self.problem}: {self.remedy}"


class DocumentError(Failure):
    """A file that is no document. `faults` are all that were found, the text has each with its file and line."""

    def __init__(self, path: Path, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{path}:{fault.line}:{fault.column}: {fault}" for fault in faults))
        self.path = path
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Twin:
    """A key that differs from an earlier one of the same map by case alone: Greengrass takes them for one."""

    component: str
    place: Place
    other: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One component of a document: its version when it is said, what is merged, and what is reset before that."""

    version: str | None = None
    merge: dict[str, Any] = field(default_factory=dict)
    reset: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A document as it was read. `raw` is all of it; `twins` are keys that are one to Greengrass."""

    path: Path
    components: dict[str, Entry]
    raw: dict[str, Any]
    twins: tuple[Twin, ...]
    _tree: Tree = field(repr=False)
    _above: int = 0
    """Steps of a place that the file does not have, for it begins at the merge."""

    def line(self, component: str, place: Place | str = ()) -> Position:
        """Where a place of a component's merge is written: of the key, or of the nearest place above that is there.

        place: keys from the top, or the path as problems show it, such as ``connections.line1.tags.T1``. Inside a merge
        that is JSON text everything stands where that text begins.
        """
        below = parse_place(place) if isinstance(place, str) else tuple(place)
        return self.at(("components", component, "configurationUpdate", "merge", *below))

    def at(self, place: Place) -> Position:
        """The same for a place of the whole document."""
        return self._tree.position(place[self._above :])


def load(path: Path) -> Document:
    """Read a site document. Raises DocumentError, which is a cli.output.Failure."""
    tree = Tree.read(path)
    raw = tree.value
    faults = [*tree.faults]

    def fault(place: Place, problem: str, remedy: str) -> None:
        faults.append(Fault(*tree.position(place), _shown(place), problem, remedy))

    components: dict[str, Entry] = {}
    if not isinstance(raw, dict) or not isinstance(raw.get("components"), dict):
        remedy = "a site document maps component names to configurationUpdate"
        raise DocumentError(path, [*faults, Fault(*tree.position(("components",)), "", _NO_COMPONENTS, remedy)])
    for name, entry in raw["components"].items():
        here = ("components", name)
        if entry is None:
            components[name] = Entry()
            continue
        update = entry.get("configurationUpdate") if isinstance(entry, dict) else 0
        if update is None:
            update = {}
        if not isinstance(update, dict):
            fault(
                here, "expected a mapping with configurationUpdate", "write merge and reset below configurationUpdate"
            )
            continue
        version = entry.get("componentVersion")
        if version is not None and not isinstance(version, str):
            fault((*here, "componentVersion"), f"expected text, not {version}", 'write it in quotes, such as "0.1.0"')
            version = None
        place = (*here, "configurationUpdate", "merge")
        merge = update.get("merge")
        if isinstance(merge, str):
            merge = _json(merge, place, fault)
        elif merge is None:
            merge = {}
        if not isinstance(merge, dict):
            fault(place, "expected a mapping", "write key: value lines below it, or JSON text of an object")
            continue
        reset = update.get("reset")
        if reset is None:
            reset = []
        if not isinstance(reset, list) or not all(isinstance(one, str) for one in reset):
            fault(
                (*here, "configurationUpdate", "reset"),
                "expected a list of JSON pointers",
                "write a list such as [/connections/line1]",
            )
            continue
        components[name] = Entry(version, merge, list(reset))
    if faults:
        raise DocumentError(path, faults)
    return Document(path, components, raw, _twins(raw, components), tree)


def merge_of(path: Path, component: str) -> Document:
    """A file that holds nothing but what is merged into one component, as a document of it. Raises DocumentError."""
    tree = Tree.read(path)
    merge = {} if tree.value is None else tree.value
    if not isinstance(merge, dict):
        tree.faults.append(Fault(1, 1, "", "is not a map of settings", "write key: value lines"))
    if tree.faults:
        raise DocumentError(path, tree.faults)
    raw = {"components": {component: {"configurationUpdate": {"merge": merge}}}}
    components = {component: Entry(None, merge, [])}
    return Document(path, components, raw, _twins(raw, components), tree, 4)


_NO_COMPONENTS: Final = "has no `components` mapping"


def parse_place(text: str) -> Place:
    """The place that a problem shows as `text`: the inverse of `sluice.problem.render`."""
    segments = []
    for plain, index, quoted in _SEGMENT.findall(text):
        segments.append(json.loads(quoted) if quoted else plain or index)
    return tuple(segments)


def _shown(place: Place) -> str:
    """As `render`, with a component's name as it is: the dots in it are no steps."""
    if len(place) < 2 or place[0] != "components":
        return render(place)
    below = render(place[2:])
    return f"components.{place[1]}" + (f".{below}" if below and not below.startswith("[") else below)


# --- reading with positions -----------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A YAML or JSON file: its value, where everything stands, and keys that stand twice (`faults`)."""

    path: Path
    value: Any
    faults: list[Fault]
    root: yaml.Node | None
    _keys: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Tree:
        """Raises DocumentError when it cannot be read or is not YAML."""
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                text = f"is larger than {_LARGEST} bytes"
                raise DocumentError(path, [Fault(1, 1, "", text, "move long tag lists into a CSV file (tagsFile)")])
            content = data.decode("utf-8-sig")
        except OSError as error:
            problem, remedy = f"cannot be read ({error.strerror})", "give the path of a site document"
            raise DocumentError(path, [Fault(1, 1, "", problem, remedy)]) from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise DocumentError(path, [Fault(line, 1, "", "is not UTF-8 text", "save it as UTF-8")]) from None
        return cls.parse(path, content)

    @classmethod
    def parse(cls, path: Path, content: str) -> Tree:
        """The same of text. Raises DocumentError."""
        try:
            _refuse_depth(path, content)
            loader = _LOADER(_PAIR.sub(_character, content))
            try:
                root = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            remedy = "correct it there; blanks indent, tabs do not"
            problem = f"not valid YAML: {error.problem or error.context}"
            raise DocumentError(path, [Fault(line, column, "", problem, remedy)]) from None
        except (yaml.YAMLError, RecursionError) as error:
            problem = f"not valid YAML: {' '.join(str(error).split())[:200]}"
            raise DocumentError(path, [Fault(1, 1, "", problem, "correct it")]) from None
        builder = _Builder(path, max(_MOST_BY_ALIASES, len(content)))
        value = None if root is None else builder.build(root, ())
        return cls(path, value, builder.faults, root)

    def position(self, place: Place) -> Position:
        """Where `place` is written, or the nearest place above it."""
        node = self.root
        found: yaml.Node | None = node
        for segment in place:
            if isinstance(node, yaml.MappingNode):
                pair = self._pairs(node).get(segment)
                if pair is None:
                    break
                found, node = pair
            elif isinstance(node, yaml.SequenceNode) and re.fullmatch(r"\[[0-9]+\]", segment):
                index = int(segment[1:-1])
                if index >= len(node.value):
                    break
                found = node = node.value[index]
            else:
                break
        return (1, 1) if found is None else (found.start_mark.line + 1, found.start_mark.column + 1)

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        pairs = self._keys.get(id(node))
        if pairs is None:
            pairs = self._keys[id(node)] = {key.value: (key, value) for key, value in _flat(node)}
        return pairs


def _refuse_depth(path: Path, content: str) -> None:
    """Raises DocumentError for what is nested so deeply that composing it would end the process."""
    marks = sum(map(content.count, ("[", "{", "- ", "-\t", "-\n", "? ", "?\t", "?\n")))
    if marks <= _DEEPEST_COMPOSED and " " * _DEEPEST_COMPOSED not in content:
        return  # a level takes a mark, or a blank more before the line than the one above it
    depth = 0
    for event in yaml.parse(content, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST_COMPOSED:
                mark = event.start_mark
                position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
                fault = Fault(*position, "", "is nested too deeply", "write it plainly")
                raise DocumentError(path, [fault])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


_PAIR: Final = re.compile(r"(\\\\)|\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _character(match: re.Match[str]) -> str:
    """What JSON writes as two halves, which YAML does not know."""
    if match[1]:
        return match[1]
    return bytes.fromhex(match[2] + match[3]).decode("utf-16-be")


class _Builder:
    """Makes plain values of YAML nodes. Tells twice written keys, and refuses what JSON cannot say."""

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._left = most
        self._open: set[int] = set()

    def build(self, node: yaml.Node, place: Place) -> Any:
        self._left -= 1
        if self._left < 0 or len(place) > _DEEPEST or id(node) in self._open:
            problem = "is nested too deeply" if len(place) > _DEEPEST else "holds itself, or too much by aliases"
            self._refuse(node, place, problem, "write it plainly")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._refuse(node, place, f"has the tag {node.tag}, which JSON cannot say", "leave the tag out")
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = [self.build(item, (*place, f"[{i}]")) for i, item in enumerate(node.value)]
        else:
            value = self._mapping(node, place)
        self._open.discard(id(node))
        return value

    def _mapping(self, node: yaml.Node, place: Place) -> dict[str, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, place, "has a key that is no text", "write name: value lines")
            if key.value in first and key.tag != "tag:yaml.org,2002:merge":
                problem = f"stands twice, first in line {first[key.value]}, and only one of the two would count"
                self._note(key, (*place, key.value), problem, "remove one of the two")
            first.setdefault(key.value, key.start_mark.line + 1)
        return {key.value: self.build(value, (*place, key.value)) for key, value in _flat(node)}

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        kind = _SCALARS.get(node.tag)
        text = node.value
        if kind == "str" or kind == "timestamp":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("true", "yes", "on")
        if kind in ("int", "float"):
            return _number(text, kind)
        return self._refuse(node, place, f"has the tag {node.tag}, which JSON cannot say", "leave the tag out")

    def _note(self, node: yaml.Node, place: Place, problem: str, remedy: str) -> None:
        if len(self.faults) < 100:
            mark = node.start_mark
            self.faults.append(Fault(mark.line + 1, mark.column + 1, _shown(place), problem, remedy))

    def _refuse(self, node: yaml.Node, place: Place, problem: str, remedy: str) -> Any:
        self._note(node, place[:_DEEPEST], problem, remedy)
        raise DocumentError(self.path, self.faults)


def _flat(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Key and value nodes, those of `<<: *anchor` first."""
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode) and part is not node:
                    yield from part.value
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            yield key, value


def _number(text: str, kind: str) -> Any:
    """A number that JSON knows, else the text as it stands: 12:30 and .inf are none."""
    plain = text.replace("_", "")
    try:
        if kind == "float":
            number = float(plain)
            return number if abs(number) != float("inf") and number == number else text
        if re.fullmatch(r"[+-]?(0|[1-9][0-9]*)", plain):
            return int(plain)
        if re.fullmatch(r"0x[0-9a-fA-F]+", plain):
            return int(plain, 16)
    except ValueError:
        return text
    return text


def _json(text: str, place: Place, fault: Any) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            fault(place, f"has the keys {', '.join(twice)} twice", "remove one of the two")
        return made

    try:
        made = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
        if _HALF.search(text):
            json.dumps(made, ensure_ascii=False).encode()
        return made
    except UnicodeEncodeError:
        fault(place, "has half of a character (\\ud800 to \\udfff), which no service takes", "write both halves")
        return {}
    except (ValueError, RecursionError) as error:
        fault(place, f"not JSON: {error}", "write a mapping, or JSON text of an object")
        return {}


_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number that JSON knows")


def _twins(raw: Mapping[str, Any], components: Mapping[str, Entry]) -> tuple[Twin, ...]:
    found: list[Twin] = []

    def walk(component: str, value: Any, place: Place) -> None:
        if isinstance(value, dict):
            spelled: dict[str, str] = {}
            for key, inner in value.items():
                other = spelled.setdefault(key.casefold(), key)
                if other != key and len(found) < 1000:
                    found.append(Twin(component, (*place, key), other))
                if isinstance(inner, (dict, list)):
                    walk(component, inner, (*place, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, (dict, list)):
                    walk(component, item, (*place, f"[{index}]"))

    spelled: dict[str, str] = {}
    for name, entry in components.items():
        if (other := spelled.setdefault(name.casefold(), name)) != name:
            found.append(Twin(name, (), other))
        walk(name, entry.merge, ())
    return tuple(found)
