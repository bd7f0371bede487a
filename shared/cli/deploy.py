"""sluice deploy: makes the deployment of a site document, shows what it changes, creates it and follows it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Failure, answer, console, emit, say

if TYPE_CHECKING:
    from cli.cloud import Cloud
    from cli.follow import Followed
    from cli.plan import Before, Plan, Target

USAGE = 2
INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("deploy")(deploy)


def deploy(
    group: Annotated[str, typer.Option(help="The thing group to deploy to: its name or ARN.")] = "",
    thing: Annotated[str, typer.Option(help="A single device instead: the name or ARN of its thing.")] = "",
    file: Annotated[Path | None, typer.Option(help="The site document, such as examples/site.yaml.")] = None,
    name: Annotated[str, typer.Option(help="The deployment's name; default: that of the newest deployment.")] = "",
    remove: Annotated[
        list[str] | None, typer.Option(help="Drop a component that the newest deployment has (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the deployment document, and deploy nothing.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="With --dry-run: the newest deployment, as `aws greengrassv2 get-deployment` answered."),
    ] = None,
    current: Annotated[
        bool, typer.Option("--current", help="With --dry-run: ask AWS for the newest deployment.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="With --dry-run: the file to write, instead of stdout.")] = None,
    build: Annotated[Path, typer.Option(help="Where tag packages were built.")] = Path("greengrass-build"),
    validate: Annotated[
        bool,
        typer.Option("--validate", help="Let components with validateDeployments check their configuration first."),
    ] = False,
    rollback: Annotated[
        bool | None, typer.Option("--rollback/--no-rollback", help="What a device does when it fails; default: back.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deploying.")] = False,
    follow: Annotated[str, typer.Option(help="Follow a deployment that was made before, by its id.")] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to follow the devices for.")] = 3600.0,
    region: Annotated[str, typer.Option(help="AWS region; default: as the AWS tools find it.")] = "",
    profile: Annotated[str, typer.Option(help="AWS profile; default: as the AWS tools find it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Deploy a site document to a thing group, and follow it on each device.

    A deployment replaces what its group has: other components of the newest deployment are kept, settings that the
    document has no more are reset. Exit status 0 only when every device runs it.
    """
    from cli.cloud import connect
    from cli.plan import Wishes, read_target

    if follow:
        if group or thing or file or dry_run:
            raise Failure("--follow takes the id of a deployment and nothing else", USAGE)
        _follow(connect(region or None, profile or None), follow, timeout, as_json, {})
        return
    if bool(group) == bool(thing) or file is None:
        raise Failure(
            "give --group or --thing, and --file with the site document; or --follow with a deployment", USAGE
        )
    if (against or current or output) and not dry_run:
        raise Failure("--against, --current and --output go with --dry-run", USAGE)
    if against and current:
        raise Failure("--against is the newest deployment from a file, --current from AWS: give one of them", USAGE)
    before_known = not dry_run or current or against is not None
    _refuse_names(file, against, output, group, thing, region)
    document = _checked(file)
    named = read_target(group or thing)
    wishes = Wishes(name, rollback, validate, frozenset(remove or ()))
    if dry_run and not current:
        before = _read(against) if against else None
        target = named or _stand_in(group, thing, region, before)
        plan = _plan(document, target, before, None, build, wishes)
        if not before_known:
            say(
                "Compared with nothing: created as it is, this document would take everything else away from its "
                "target, and reset nothing. --against FILE or --current takes over what the target has."
            )
    else:
        cloud = connect(region or (named.region if named else None) or None, profile or None)
        plan = plan_with(cloud, document, named or cloud.target(group or thing, group=bool(group)), build, wishes)
    if dry_run:
        if before_known:
            _show(plan)
        _write(plan, output, as_json)
        return
    _show(plan)
    _confirm(plan, yes)
    _refuse_a_race(cloud, plan)
    identifier = cloud.create(dict(plan.request))
    say(f"Deployment {identifier} was created.")
    _follow(cloud, identifier, timeout, as_json, {"changes": [change.as_dict() for change in plan.changes]})


def plan_with(cloud: Cloud, document: Any, target: Target, build: Path, wishes: Any) -> Plan:
    """The plan of a document against what AWS says that the target has now."""
    from cli.plan import read_before

    found = cloud.newest_deployment(target)
    before = read_before(found, f"deployment {found['deploymentId']}") if found else None
    if before is None:
        say(f"The {target.words} has no deployment yet.")
    elif before.status == "CANCELED":
        say(f"The newest deployment, {before.id}, was canceled: devices may have the one before it.")
    return _plan(document, target, before, cloud, build, wishes)


def _plan(document: Any, target: Target, before: Before | None, cloud: Cloud | None, build: Path, wishes: Any) -> Plan:
    from cli.plan import make_plan
    from cli.request import check_request
    from cli.suite import members

    plan = make_plan(document, target, before, members(), versions(target, before, cloud, build), wishes)
    check_request(plan.request)
    return plan


def versions(target: Target, before: Before | None, cloud: Cloud | None, build: Path) -> Callable[[str], str | None]:
    """How the version of a component is found that neither the document nor the suite says."""
    from cli.plan import built_version

    def find(name: str) -> str | None:
        found = built_version(name, build)
        if found is None and before is not None and name in before.components:
            found = before.components[name].version
        if found is None and cloud is not None:
            found = cloud.newest_version(name, target)
        return found

    return find


def _refuse_names(file: Path, against: Path | None, output: Path | None, group: str, thing: str, region: str) -> None:
    """What would be written over something else, or cannot be the name of anything."""
    from cli.plan import NAME

    for other in (file, against):
        if output is not None and other is not None and output.exists() and other.exists() and output.samefile(other):
            raise Failure(f"--output {output} would replace what is read: give another name", USAGE)
    for option, name in (("--group", group), ("--thing", thing)):
        if name and not name.startswith("arn:") and not re.fullmatch(NAME, name):
            problem = "is no name of a thing group" if option == "--group" else "is no name of a thing"
            raise Failure(f"{option} {name} {problem}: they have 1 to 128 letters, digits, : _ and -", USAGE)
    if region and not re.fullmatch(r"[a-z0-9-]{1,32}", region):
        raise Failure(f"--region {region} is no region: write it such as eu-central-1", USAGE)


def _refuse_a_race(cloud: Cloud, plan: Plan) -> None:
    """A deployment that somebody made meanwhile would be replaced, with what it added."""
    newest = cloud.newest_id(str(plan.request["targetArn"]))
    if newest != plan.before:
        raise Failure(
            f"nothing was deployed: somebody made deployment {newest} meanwhile, and this one would replace it; run it "
            f"again to see what it changes now"
        )


def _checked(path: Path) -> Any:
    """The document, when it has no errors: Failure with the output of `sluice check` when it has."""
    from cli.check import checked

    return checked(path)


def _read(path: Path) -> Before:
    from cli.plan import read_before

    try:
        # Windows' shells write what the AWS tools answer with a mark, or as UTF-16: json knows both.
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise Failure(f"--against {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise Failure(
            f"--against {path}: is not JSON ({error}): give what `aws greengrassv2 get-deployment --output json` says"
        ) from None
    if not isinstance(found, Mapping):
        raise Failure(f"--against {path}: is not the answer of get-deployment")
    return read_before(found, str(path))


def _stand_in(group: str, thing: str, region: str, before: Before | None) -> Target:
    """The target of a dry run that was named and not given as an ARN, without asking anybody for the account."""
    from cli.plan import NO_ACCOUNT, Target, read_target

    if (
        before is not None
        and before.target
        and (found := read_target(before.target))
        and found.name == (group or thing)
    ):
        return found
    chosen = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    say(
        f"targetArn has {NO_ACCOUNT} in the place of your account, and the region {chosen}: give the ARN to have it "
        f"whole."
    )
    kind = "thinggroup" if group else "thing"
    target = read_target(f"arn:aws:iot:{chosen}:{NO_ACCOUNT}:{kind}/{group or thing}")
    assert isinstance(target, Target)
    return target


# --- showing and asking ----------------------------------------------------------------------------------------------


def _show(plan: Plan) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(f"{plan.request['deploymentName']} to {plan.request['targetArn']}"), title_justify="left")
    for title in ("Component", "", "Version", "Restarts", "What happens"):
        drawn.add_column(title, overflow="fold")
    for change in plan.changes:
        version = (
            change.version if change.before in ("", change.version) else f"{change.before} → {change.version or '-'}"
        )
        nuclei = [
            name for name, on in (("classic", change.restarts_on_classic), ("lite", change.restarts_on_lite)) if on
        ]
        lines = [
            change.why,
            *(f"set {one}" for one in change.settings[:20]),
            *(f"reset {one}" for one in change.reset[:20]),
        ]
        hidden = max(0, len(change.settings) - 20) + max(0, len(change.reset) - 20)
        if hidden:
            lines.append(f"… and {hidden} more")
        drawn.add_row(
            *map(Text, (change.component, change.action, version, ", ".join(nuclei) or "no", "\n".join(lines)))
        )
    console.print(drawn)
    for note in plan.notes:
        say(note)


def _confirm(plan: Plan, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("nothing was deployed: without a terminal to ask on, deploying takes --yes", USAGE)
    if not typer.confirm(f"Deploy this to {plan.request['targetArn']}?", err=True):
        raise Failure("nothing was deployed")


def _write(plan: Plan, output: Path | None, as_json: bool) -> None:
    text = json.dumps(plan.request, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        emit(text.encode())
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"--output {output}: cannot be written ({error.strerror}): give another place", 3) from None
    result = {"document": str(output), "changes": [change.as_dict() for change in plan.changes], "notes": plan.notes}
    answer(result, as_json, lambda shown: shown.print(f"Written to {output}.", soft_wrap=True))


def _follow(cloud: Cloud, identifier: str, timeout: float, as_json: bool, more: Mapping[str, Any]) -> None:
    from cli.follow import Follower, Screen, again, table

    try:
        with Screen(console) as screen:
            followed = Follower(cloud, identifier, timeout=timeout, draw=screen.draw).run()
    except KeyboardInterrupt:
        raise Failure(
            f"The deployment goes on without you. Follow it again with: {again(identifier, cloud.region)}", INTERRUPTED
        ) from None
    result = {
        "deploymentId": identifier,
        "targetArn": followed.target.arn,
        "succeeded": followed.succeeded,
        "devices": [device.as_dict() for device in followed.devices],
        **more,
    }
    answer(result, as_json, lambda shown: shown.print(table(followed)))
    if not followed.succeeded:
        raise Failure(_failed(followed))


def _failed(followed: Followed) -> str:
    bad = [device for device in followed.devices if not device.succeeded]
    lines = [f"{len(bad)} of {len(followed.devices)} devices do not run deployment {followed.deployment}:"]
    lines += [f"  {device.name}: {device.state}: {device.words}" for device in bad[:20]]
    if len(bad) > 20:
        lines.append(f"  … and {len(bad) - 20} more")
    return "\n".join(lines)
