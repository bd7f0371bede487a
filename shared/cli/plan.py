"""What a deployment will be: the request that makes it, and what it changes, decided without any network.

Theory of operation
-------------------
*A deployment replaces the list of components of its target.* So what the target's newest deployment lists and the site
document does not is taken over as it is, with its version, configuration and user, until somebody removes it by name.

*Merges are cumulative on devices, and cannot delete.* What the newest deployment merged and the document has no more is
therefore reset, by the shortest list of JSON pointers; a reset comes before the merge, so a pointer may name more than
what has gone when that itself is too long. A device may have been away for several deployments: resets of earlier ones
are carried along, also of what the document sets again, for below it there may be what nobody sets any more.

*Versions*: of the suite those of this repository, unless the document says otherwise; `io.sluice.Runtime`, which
carries the wheels of all, in the newest version among them; of tag packages and of everybody else's components the
document's, else the build folder's, the newest deployment's, the newest in the cloud.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.output import Failure
from cli.suite import RUNTIME, Member
from sluice.tag_package import component_name

if TYPE_CHECKING:
    from cli.document import Document

LONGEST_POINTER: Final = 256
LARGEST_MERGE: Final = 10_485_760
MOST_RESETS: Final = 500
"""Pointers of one component; beyond it the oldest of earlier deployments are no longer carried along."""
NO_ACCOUNT: Final = "000000000000"
NOTIFY_SECONDS: Final = 60
VALIDATE_SECONDS: Final = 60

NAME: Final = r"[a-zA-Z0-9:_-]{1,128}"
"""Of a thing group or thing."""
_TARGET: Final = re.compile(rf"arn:aws[a-z-]*:iot:([a-z0-9-]+):(\d{{12}}):(thinggroup|thing)/({NAME})")


# --- what there is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A thing group or a thing, by its ARN."""

    arn: str

    @property
    def region(self) -> str:
        """The region in which it is."""
        return self._parts()[0]

    @property
    def account(self) -> str:
        """The twelve digits of the account."""
        return self._parts()[1]

    @property
    def is_group(self) -> bool:
        """Whether it is a thing group."""
        return self._parts()[2] == "thinggroup"

    @property
    def name(self) -> str:
        """The name of the group or thing."""
        return self._parts()[3]

    @property
    def words(self) -> str:
        """How people call it."""
        return f"thing group {self.name}" if self.is_group else f"thing {self.name}"

    def component(self, name: str, *, owner: str = "") -> str:
        """The ARN of a component in this account and region, or of one of AWS when `owner` is "aws"."""
        partition = self.arn.split(":")[1]
        return f"arn:{partition}:greengrass:{self.region}:{owner or self.account}:components:{name}"

    def _parts(self) -> tuple[str, ...]:
        match = _TARGET.fullmatch(self.arn)
        assert match is not None
        return match.groups()


def read_target(text: str) -> Target | None:
    """The target that an ARN names; None when the text is a name. Raises Failure for another thing's ARN."""
    if not text.startswith("arn:"):
        return None
    if _TARGET.fullmatch(text) is None:
        raise Failure(
            f"{text} is not the ARN of a thing group or thing: it has the form "
            f"arn:aws:iot:eu-central-1:123456789012:thinggroup/plant-gateways; a name does as well"
        )
    return Target(text)


@dataclass(frozen=True)
class Entry:
    """A component as a deployment lists it."""

    version: str
    merge: Mapping[str, Any] = field(default_factory=dict)
    reset: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Before:
    """The newest deployment of the target, from what GetDeployment answers."""

    id: str
    name: str
    target: str
    status: str
    components: Mapping[str, Entry]
    rollout: Mapping[str, Any]


def read_before(answer: Mapping[str, Any], where: str) -> Before:
    """Understand the answer of GetDeployment (`aws greengrassv2 get-deployment`). Raises Failure."""
    components = answer.get("components")
    if not isinstance(components, Mapping):
        raise Failure(
            f"{where}: no `components`: give what `aws greengrassv2 get-deployment --deployment-id …` answered, "
            f"or the document of an earlier `sluice deploy --dry-run`"
        )
    entries = {}
    for name, raw in components.items():
        if not isinstance(raw, Mapping) or not isinstance(raw.get("componentVersion"), str):
            raise Failure(f"{where}: components.{name}: no componentVersion: the file is not whole")
        update = raw.get("configurationUpdate") or {}
        reset = update.get("reset") or [] if isinstance(update, Mapping) else None
        if not isinstance(reset, list):
            raise Failure(f"{where}: components.{name}.configurationUpdate is not a map with merge and a list of reset")
        merge = _merge_of(update.get("merge"), f"{where}: components.{name}")
        entries[str(name)] = Entry(raw["componentVersion"], merge, tuple(map(str, reset)), raw)
    rollout = answer.get("iotJobConfiguration") or {}
    if not isinstance(rollout, Mapping):
        raise Failure(f"{where}: iotJobConfiguration is not a map: the file is not whole")
    return Before(
        str(answer.get("deploymentId", "")),
        str(answer.get("deploymentName", "")),
        str(answer.get("targetArn", "")),
        str(answer.get("deploymentStatus", "")),
        entries,
        dict(rollout),
    )


def _merge_of(text: Any, where: str) -> Mapping[str, Any]:
    if not text:
        return {}
    try:
        merge = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise Failure(f"{where}.configurationUpdate.merge is not JSON ({error}): correct it there") from None
    if not isinstance(merge, Mapping):
        raise Failure(f"{where}.configurationUpdate.merge is not an object: correct it there")
    return merge


# --- resets ----------------------------------------------------------------------------------------------------------


def resets(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The JSON pointers that take away what was merged by `old` and is not in `new`.

    A map that becomes a value, or the reverse, is reset as well: nucleus lite refuses the change otherwise. Lists are
    replaced as a whole by a merge. A pointer longer than the service takes is cut to the map above it, which the merge
    then fills again.
    """
    found: list[str] = []
    _walk(old, new, "", found)
    return minimal(_short(pointer) for pointer in found)


def minimal(pointers: Iterable[str]) -> list[str]:
    """Each pointer once, without those below another one, in their order."""
    unique = list(dict.fromkeys(pointers))
    return [one for one in unique if not any(one != other and below(one, other) for other in unique)]


def below(pointer: str, other: str) -> bool:
    """Whether a pointer is the other one or names something below it."""
    return pointer == other or pointer.startswith(other + "/")


def _walk(old: Mapping[str, Any], new: Mapping[str, Any], above: str, found: list[str]) -> None:
    for key, value in old.items():
        here = f"{above}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            found.append(here)
        elif isinstance(value, Mapping) and isinstance(new[key], Mapping):
            _walk(value, new[key], here, found)
        elif isinstance(value, Mapping) != isinstance(new[key], Mapping) and value is not None and new[key] is not None:
            found.append(here)


def _short(pointer: str) -> str:
    while len(pointer) > LONGEST_POINTER:
        pointer = pointer.rpartition("/")[0]
    return pointer


def settings_changed(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> list[str]:
    """Pointers of what two merges say differently, for people: a map that is only in one is named as a whole."""
    found = []
    for key in dict.fromkeys((*old, *new)):
        here = f"{above}/{key.replace('~', '~0').replace('/', '~1')}"
        if key in old and key in new and isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            found += settings_changed(old[key], new[key], here)
        elif key not in old or key not in new or old[key] != new[key]:
            found.append(here)
    return found


# --- versions --------------------------------------------------------------------------------------------------------


def tag_packages(merge: Any) -> set[str]:
    """The components whose tag tables a collector's configuration names, as `tagsPackage: site-a` or in full."""
    connections = merge.get("connections") if isinstance(merge, Mapping) else None
    found = set()
    for connection in connections.values() if isinstance(connections, Mapping) else ():
        name = connection.get("tagsPackage") if isinstance(connection, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            continue
        try:
            found.add(component_name(name))
        except ValueError as error:
            raise Failure(f"tagsPackage = {name} {error}: name it as `sluice tags package` does") from None
    return found


def built_version(name: str, folder: Path) -> str | None:
    """The newest version of a component that a build folder has a recipe of."""
    pattern = re.compile(re.escape(name) + r"-(\d+\.\d+\.\d+)\.(?:yaml|json)")
    recipes = folder / "recipes"
    if not recipes.is_dir():
        return None
    found = [match[1] for path in recipes.iterdir() if (match := pattern.fullmatch(path.name))]
    return newest(found)


def newest(versions: Iterable[str]) -> str | None:
    """The highest of some versions; what is no version is passed over."""
    numbered = [(key, one) for one in versions if (key := _numbers(one)) is not None]
    return max(numbered)[1] if numbered else None


def _numbers(version: str) -> tuple[int, int, int, bool] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(-[^+]+)?(\+.*)?", version)
    return (int(match[1]), int(match[2]), int(match[3]), match[4] is None) if match else None


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a deployment does to one component. `action`: added, changed, unchanged, kept (not in the document, taken
    over from the newest deployment), removed. `why` says in words what is done and what restarts it."""

    component: str
    action: str
    before: str
    version: str
    settings: Sequence[str]
    reset: Sequence[str]
    restarts_on_classic: bool
    restarts_on_lite: bool
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "component": self.component,
            "action": self.action,
            "versionBefore": self.before or None,
            "version": self.version or None,
            "settings": list(self.settings),
            "reset": list(self.reset),
            "restarts": {"classic": self.restarts_on_classic, "lite": self.restarts_on_lite},
            "why": self.why,
        }


@dataclass(frozen=True)
class Plan:
    """A deployment that can be made: `request` is what CreateDeployment takes, `notes` what people should know."""

    request: Mapping[str, Any]
    changes: Sequence[Change]
    notes: Sequence[str]
    before: str = ""
    """The id of the deployment that it takes over from."""


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; rollback None: as the document says, else rolled back."""

    name: str = ""
    rollback: bool | None = None
    validate: bool = False
    remove: frozenset[str] = frozenset()


def make_plan(
    document: Document,
    target: Target,
    before: Before | None,
    members: Mapping[str, Member],
    version_of: Callable[[str], str | None],
    wishes: Wishes,
) -> Plan:
    """Decide the deployment of a site document to a target.

    before: its newest deployment; None when it has none or nobody asked. version_of: the version of a component that is
    neither of the suite nor given a version by the document, or None. Raises Failure when the deployment would fail.
    """
    had = before.components if before else {}
    _refuse_removals(wishes.remove, document, had, before)
    _refuse_another_target(document, target)
    entries: dict[str, Entry] = {}
    notes: list[str] = []
    for name, listed in document.components.items():
        version = listed.version or (members[name].version if name in members else version_of(name))
        if version is None:
            raise Failure(
                f"components.{name}: no version of it is known: write componentVersion; a dry run asks AWS with "
                f"--current, which knows what was published there"
            )
        reset, dropped = resets_of(listed.merge, listed.reset, had.get(name))
        if name in had and "" in had[name].reset and "" not in reset:
            notes.append(
                f"{name}: the newest deployment reset everything, which this one does not repeat: a device that "
                f"has not got it yet keeps what was merged before it"
            )
        if dropped:
            notes.append(f"{name}: {dropped} resets of earlier deployments are no longer carried along")
        entries[name] = Entry(version, listed.merge, reset, _user_of(document.raw["components"][name], had.get(name)))
    kept = {name: entry for name, entry in had.items() if name not in entries and name not in wishes.remove}
    for name in sorted(set().union(*(tag_packages(listed.merge) for listed in document.components.values()))):
        if name not in entries:
            version = version_of(name)
            if version is None:
                raise Failure(
                    f"tagsPackage names {name}, and no version of it is known: make it with `sluice tags package` and "
                    f"publish it, or name it with its componentVersion under components; a dry run asks AWS with "
                    f"--current"
                )
            entries[name] = Entry(version, raw=kept.pop(name, Entry("")).raw)
    runtime = _runtime(entries, kept, members)
    if runtime is not None:
        old = kept.pop(RUNTIME, None)
        entries[RUNTIME] = Entry(runtime, raw=_user_of(None, old))
    if before is not None:
        _refuse_the_trap(entries, had, wishes)
    request = _request(entries, kept, target, before, wishes, document)
    changes = _changes(entries, kept, had, wishes.remove, members, known=before is not None)
    if kept:
        notes.append(
            f"not in {document_name(document)} and kept as in the newest deployment: {', '.join(sorted(kept))}; "
            f"--remove NAME removes one"
        )
    if wishes.validate and not any(_validates(entry) for entry in had.values()):
        notes.append(
            "--validate: no component of the newest deployment has validateDeployments: true, so none will be asked"
        )
    return Plan(request, changes, notes, before.id if before else "")


def document_name(document: Document) -> str:
    """The name of a document's file."""
    return document.path.name


def _refuse_removals(
    remove: frozenset[str], document: Document, had: Mapping[str, Entry], before: Before | None
) -> None:
    for name in sorted(remove):
        if name in document.components:
            raise Failure(f"--remove {name}: the site document lists it: take it out there")
        if before is None:
            raise Failure(
                f"--remove {name}: there is no newest deployment to remove it from; a dry run knows of one with "
                f"--current or --against FILE"
            )
        if name not in had:
            raise Failure(f"--remove {name}: the newest deployment has no such component; it has {_names(had)}")


def _refuse_another_target(document: Document, target: Target) -> None:
    """A document that says whom it is for is not for anybody else."""
    said = document.raw.get("targetArn")
    if document.raw.get("parentTargetArn"):
        raise Failure("parentTargetArn: deployments to a part of a deployment's devices are not made by this tool")
    if not said:
        return
    named = read_target(str(said)) if str(said).startswith("arn:") else None
    if named is None or (named.is_group, named.name) != (target.is_group, target.name):
        raise Failure(
            f"targetArn of {document_name(document)} is {said}, and this deployment is for the {target.words}: take it "
            f"out there, or name that target"
        )


def _names(components: Iterable[str]) -> str:
    return ", ".join(sorted(components)) or "none"


def _user_of(listed: Any, old: Entry | None) -> Mapping[str, Any]:
    """As whom a component runs, and with which limits: as the document says, else as before."""
    for raw in (listed, old.raw if old is not None else None):
        if isinstance(raw, Mapping) and raw.get("runWith"):
            return {"runWith": raw["runWith"]}
    return {}


def resets_of(merge: Mapping[str, Any], own: Sequence[str], old: Entry | None) -> tuple[list[str], int]:
    """Resets of a component, and how many of earlier ones were given up."""
    computed = resets(old.merge, merge) if old is not None else []
    carried = [pointer for pointer in (old.reset if old else ()) if pointer]
    room = MOST_RESETS - len(own) - len(computed)
    dropped = max(0, len(carried) - max(0, room))
    found = minimal((*own, *computed, *carried[dropped:]))
    for pointer in found:
        if len(pointer) > LONGEST_POINTER:
            raise Failure(f"reset {pointer} is longer than {LONGEST_POINTER} characters: reset a map above it")
    return found, dropped


def _runtime(entries: Mapping[str, Entry], kept: Mapping[str, Entry], members: Mapping[str, Member]) -> str | None:
    """The version of the Runtime that has to come along; None when the document names it or nobody needs it."""
    if RUNTIME in entries:
        return None
    of_suite = {
        name: entry.version for name, entry in {**kept, **entries}.items() if name in members and name != RUNTIME
    }
    if not of_suite:
        return None
    releases = {(_numbers(version) or (0, 0, 0, False))[:2] for version in of_suite.values()}
    if len(releases) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(of_suite.items()))
        raise Failure(
            f"{listed} are of different releases, and one {RUNTIME} serves one release: list them all in the site "
            f"document with one version, or remove one with --remove"
        )
    return newest(of_suite.values())


# --- the trap of validation ------------------------------------------------------------------------------------------


def _validates(entry: Entry) -> bool:
    return str(entry.merge.get("validateDeployments", "")).strip().lower() == "true"


def _refuse_the_trap(entries: Mapping[str, Entry], had: Mapping[str, Entry], wishes: Wishes) -> None:
    """The nucleus asks who subscribed, and waits for everybody whose configuration changes: see design section 5.

    Whether a component subscribes is in the configuration that it has now, not in the one that is deployed.
    """
    changed = [
        name
        for name, entry in entries.items()
        if name in had
        and had[name].version == entry.version
        and (settings_changed(had[name].merge, entry.merge) or set(entry.reset) - set(had[name].reset))
    ]
    asked = [name for name in changed if _validates(had[name])]
    silent = [name for name in changed if not _validates(had[name])]
    if asked and silent:
        seconds = VALIDATE_SECONDS if wishes.validate else 20
        raise Failure(
            f"this deployment would fail on every device after {seconds} s (FAILED_NO_STATE_CHANGE): "
            f"{_names(asked)} has validateDeployments: true, and once one component validates, the nucleus waits for "
            f"every component whose configuration changes; {_names(silent)} changes too and does not answer. Deploy "
            f"the change of {_names(silent)} alone first, and then this; or give all of them the same "
            f"validateDeployments (a component of somebody else never answers)"
        )


# --- the request -----------------------------------------------------------------------------------------------------


def _request(
    entries: Mapping[str, Entry],
    kept: Mapping[str, Entry],
    target: Target,
    before: Before | None,
    wishes: Wishes,
    document: Document,
) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for name, entry in entries.items():
        one: dict[str, Any] = {"componentVersion": entry.version}
        update: dict[str, Any] = {}
        if entry.reset:
            update["reset"] = list(entry.reset)
        if entry.merge:
            update["merge"] = _json(name, entry.merge)
        if update:
            one["configurationUpdate"] = update
        if "runWith" in entry.raw:
            one["runWith"] = entry.raw["runWith"]
        components[name] = one
    components.update({name: dict(entry.raw) for name, entry in kept.items()})
    policies: dict[str, Any] = {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeoutInSeconds": NOTIFY_SECONDS, "action": "NOTIFY_COMPONENTS"},
        **(document.raw.get("deploymentPolicies") or {}),
    }
    if wishes.rollback is not None:
        policies["failureHandlingPolicy"] = "ROLLBACK" if wishes.rollback else "DO_NOTHING"
    if wishes.validate:
        policies["configurationValidationPolicy"] = {"timeoutInSeconds": VALIDATE_SECONDS}
    request: dict[str, Any] = {
        "targetArn": target.arn,
        "deploymentName": _name(document, before, wishes),
        "components": dict(sorted(components.items())),
        "deploymentPolicies": policies,
    }
    rollout = document.raw.get("iotJobConfiguration") or (before.rollout if before else None)
    if rollout:
        request["iotJobConfiguration"] = dict(rollout)
    if document.raw.get("tags"):
        request["tags"] = dict(document.raw["tags"])
    return request


def _name(document: Document, before: Before | None, wishes: Wishes) -> str:
    wanted = wishes.name or document.raw.get("deploymentName") or (before.name if before else "")
    return str(wanted or f"Sluice {document_name(document)}")[:256]


def _json(name: str, merge: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(merge, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise Failure(f"components.{name}.configurationUpdate.merge cannot be written as JSON ({error})") from None
    if len(text) > LARGEST_MERGE:
        raise Failure(
            f"components.{name}.configurationUpdate.merge has {len(text)} characters, and a deployment takes "
            f"{LARGEST_MERGE}: put long tag lists into a tag package (`sluice tags package`)"
        )
    return text


# --- what changes, for people ----------------------------------------------------------------------------------------


def _changes(
    entries: Mapping[str, Entry],
    kept: Mapping[str, Entry],
    had: Mapping[str, Entry],
    remove: Iterable[str],
    members: Mapping[str, Member],
    *,
    known: bool,
) -> list[Change]:
    versions = {name for name, entry in entries.items() if name in had and had[name].version != entry.version}
    with_dependents = _dependents(versions, {*entries, *kept}, members)
    changes = []
    for name in sorted({*entries, *kept, *(one for one in remove if one in had)}):
        entry, old = entries.get(name, kept.get(name)), had.get(name)
        if entry is None:
            assert old is not None
            changes.append(Change(name, "removed", old.version, "", (), (), True, True, "stopped and uninstalled"))
            continue
        update = bool(entry.merge or entry.reset)
        if old is None:
            words = "installed and started" if known else "compared with nothing"
            changes.append(
                Change(name, "added", "", entry.version, list(entry.merge), list(entry.reset), True, True, words)
            )
            continue
        settings = settings_changed(old.merge, entry.merge) if name in entries else []
        why = []
        if name in versions:
            why.append("installed anew, because its version changes")
        elif name in with_dependents:
            why.append("restarted, because a component that it needs is")
        elif update:
            # Its source: whoever has a configurationUpdate in the deployment is restarted, whatever is in it.
            why.append("lite restarts what has a configurationUpdate; classic applies it live")
        if settings:
            why.append(f"{len(settings)} settings change")
        action = "kept" if name in kept else "changed" if name in versions or settings else "unchanged"
        restarts = name in with_dependents
        changes.append(
            Change(
                name,
                action,
                old.version,
                entry.version,
                settings,
                list(entry.reset),
                restarts,
                restarts or update,
                "; ".join(why) or "as it is",
            )
        )
    return changes


def _dependents(changed: set[str], present: set[str], members: Mapping[str, Member]) -> set[str]:
    """The changed components and those that depend on one of them with HARD, which nuclei restart with it."""
    found = set(changed)
    while True:
        more = {
            name
            for name in present & set(members)
            for dependency, how in (members[name].recipe.get("ComponentDependencies") or {}).items()
            if dependency in found and str((how or {}).get("DependencyType", "HARD")).upper() == "HARD"
        }
        if more <= found:
            return found
        found |= more
