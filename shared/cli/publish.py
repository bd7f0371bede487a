"""sluice publish: brings every component into the account, one gdk project after the other.

gdk publishes one component per project, and `io.sluice.Runtime` first, because the others need it. What the account has
is left alone: publishing a version again would replace its artifacts under it, and devices would refuse them. Each
project is staged by scripts/build.py, and what has been done is noted in a state file, so that `--resume` goes on where
a run ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from cli.output import IN_THE_WAY, Failure, answer, console, say

if TYPE_CHECKING:
    from cli.cloud import Cloud

STATE: Final = "publish.json"
_TAIL: Final = 30
_STEP_SECONDS: Final = 3600.0
_NOWHERE: Final = "http://127.0.0.1:1"
_EXISTS: Final = re.compile(r"ConflictException.*already exists", re.DOTALL)
_GET_GDK: Final = (
    "install the official one with: pip install "
    "git+https://github.com/aws-greengrass/aws-greengrass-gdk-cli.git@v1.6.2 (the package `gdk` of the Python index is "
    "another project), or say where it is with --gdk"
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("publish")(publish)


def publish(
    component: Annotated[list[str] | None, typer.Option(help="Only this component (repeatable); default: all.")] = None,
    tags: Annotated[
        list[Path] | None,
        typer.Option(help="A tag package staged by `sluice tags package --stage`, or a folder of such (repeatable)."),
    ] = None,
    bucket: Annotated[str, typer.Option(help="Bucket for artifacts; gdk adds region and account to the name.")] = "",
    region: Annotated[str, typer.Option(help="AWS region; default: as the AWS tools find it.")] = "",
    profile: Annotated[str, typer.Option(help="AWS profile; default: as the AWS tools find it.")] = "",
    work: Annotated[Path, typer.Option(help="Folder for projects, logs and the state.")] = Path(
        "greengrass-build/publish"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that ended too early.")] = False,
    gdk: Annotated[str, typer.Option(help="The gdk to run; default: the one on PATH.")] = "gdk",
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Publish components to the account with gdk.

    Versions that the account has are left alone. Exit status 0 when everything asked for is there.
    """
    from rich.text import Text

    from cli.cloud import connect

    projects = [*_members(component), *_tag_projects(tags or [])]
    if not projects:
        raise Failure("there is nothing to publish: see --component and --tags")
    tool = find_gdk(gdk)
    cloud = connect(region or None, profile or None)
    environment = {**os.environ, "AWS_REGION": cloud.region, "AWS_DEFAULT_REGION": cloud.region}
    if profile:
        environment["AWS_PROFILE"] = profile
    publisher = Publisher(
        cloud,
        tool,
        work.resolve(),
        bucket=bucket,
        resume=resume,
        environment=environment,
    )
    with console.status("Publishing") as status:
        results = publisher.run(projects, lambda text: status.update(Text(text)))
    told = {"region": cloud.region, "account": publisher.account, "components": [one.as_dict() for one in results]}
    answer(told, as_json, lambda shown: shown.print(f"{len(results)} components are in account {publisher.account}."))


# --- what there is to publish ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """One component. `folder` is its gdk project when somebody staged it; None: scripts/build.py does."""

    name: str
    version: str
    folder: Path | None = None


@dataclass(frozen=True)
class Result:
    """What became of one component: published, or there before."""

    name: str
    version: str
    outcome: str
    words: str

    def as_dict(self) -> dict[str, str]:
        """For --json."""
        return {"component": self.name, "version": self.version, "outcome": self.outcome}


def _members(names: Sequence[str] | None) -> list[Project]:
    from cli.suite import RUNTIME, members

    known = members()
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise Failure(f"--component {unknown[0]}: there is no such component; there are {', '.join(known)}")
    wanted = [member for name, member in known.items() if not names or name in names]
    wanted.sort(key=lambda member: (member.name != RUNTIME, member.name))
    return [Project(member.name, member.version) for member in wanted]


def _tag_projects(folders: Sequence[Path]) -> list[Project]:
    found = []
    for folder in folders:
        inside = [folder] if (folder / "gdk-config.json").is_file() else sorted(folder.glob("*/gdk-config.json"))
        if not inside:
            raise Failure(
                f"--tags {folder}: no gdk-config.json in it or one below: stage a package there with "
                f"`sluice tags package tags.csv --name site-a --stage {folder}`"
            )
        found += [_tag_project(path if path.is_dir() else path.parent) for path in inside]
    return found


def _tag_project(folder: Path) -> Project:
    """A staged tag package. Raises Failure for anything else: gdk runs the command that it finds in a project, here,
    and devices run what its recipe says."""
    import stage
    from cli.tag_package import recipe_text
    from sluice.tag_package import FILE, PREFIX

    project = _read_project(folder)
    path = folder / "gdk-config.json"
    build = json.loads(path.read_text(encoding="utf-8"))["component"][project.name].get("build")
    recipes = (Path("recipe.yaml"), Path("built/recipes/recipe.yaml"))
    table = Path("built/artifacts") / project.name / project.version / FILE
    found = {one.relative_to(folder) for one in (folder / "built").rglob("*") if one.is_symlink() or not one.is_dir()}
    try:
        ours = (
            project.name.startswith(PREFIX)
            and build == {"build_system": "custom", "custom_build_command": stage.BUILD_COMMAND}
            and found == {recipes[1], table}
            and not any((folder / one).is_symlink() for one in (*recipes, table))
            and all(
                (folder / one).read_text(encoding="utf-8") == recipe_text(project.name, project.version)
                for one in recipes
            )
        )
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise Failure(
            f"--tags {folder}: {project.name} is not as `sluice tags package --stage` leaves a package, and publishing "
            f"runs what stands in it: stage it again"
        )
    return project


def _read_project(folder: Path) -> Project:
    path = folder / "gdk-config.json"
    try:
        components = json.loads(path.read_text(encoding="utf-8"))["component"]
        [(name, entry)] = components.items()
        version = entry["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path}: is not the configuration of one component ({error}): stage it again") from None
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", str(name)) or not re.fullmatch(r"\d+\.\d+\.\d+", str(version)):
        raise Failure(f"{path}: {name} {version}: a component is published with a name and a version such as 0.1.0")
    return Project(str(name), str(version), folder.resolve())


def find_gdk(name: str) -> str:
    """The path of the official gdk. Raises Failure when there is none, or another program of that name."""
    found = shutil.which(name)
    if found is None:
        raise Failure(f"gdk was not found ({name}): {_GET_GDK}", IN_THE_WAY)
    try:
        told = subprocess.run(  # noqa: S603 - the program that the command line or PATH names
            [found, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "HTTPS_PROXY": _NOWHERE, "https_proxy": _NOWHERE},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{found} --version does not run ({error}): {_GET_GDK}", IN_THE_WAY) from None
    match = re.search(r"\b(\d+)\.(\d+)\.(\d+)\b", told.stdout + told.stderr)
    if told.returncode or match is None or tuple(int(part) for part in match.groups()) < (1, 6, 2):
        shown = (told.stdout + told.stderr).strip()[:200]
        raise Failure(f"{found} is no gdk 1.6.2 or newer ({shown or 'it says nothing'}): {_GET_GDK}", IN_THE_WAY)
    return found


# --- publishing ------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """Which versions were published, in a file that is replaced as a whole: `<account>/<region>/<name>-<version>`."""

    path: Path
    published: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> State:
        """What an earlier run noted; nothing when there is none. Raises Failure for a file that is something else."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, {str(name): str(when) for name, when in found["published"].items()})
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failure(f"{path}: cannot be understood ({error}): delete it; the account knows what it has") from None

    def note(self, key: str) -> None:
        """Note a version as published, durably."""
        self.published[key] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        new = self.path.with_name(self.path.name + ".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump({"published": self.published}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise Failure(f"{self.path}: cannot be written ({error.strerror}): make room", IN_THE_WAY) from None


class Publisher:
    """Publishes projects one after the other; the first that fails ends it, and the next run goes on there.

    work: folder for staged projects, logs (`<name>.log`) and the state file.
    """

    def __init__(
        self,
        cloud: Cloud,
        gdk: str,
        work: Path,
        *,
        bucket: str = "",
        resume: bool = False,
        environment: Mapping[str, str],
    ) -> None:
        self._cloud = cloud
        self._gdk = gdk
        self._work = work
        self._bucket = bucket
        self._resume = resume
        self._environment = environment
        self.account = ""

    def run(self, projects: Sequence[Project], progress: Callable[[str], None]) -> list[Result]:
        """What became of each. Raises Failure with the end of gdk's output."""
        self.account = self._cloud.account()
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"--work {self._work}: cannot be made ({error.strerror})", IN_THE_WAY) from None
        state = State.read(self._work / STATE)
        results: list[Result] = []
        for number, project in enumerate(projects, 1):
            where = f"{number} of {len(projects)}: {project.name} {project.version}"
            key = f"{self.account}/{self._cloud.region}/{project.name}-{project.version}"
            if self._resume and key in state.published:
                result = Result(project.name, project.version, "published", f"was published {state.published[key]}")
            elif project.version in self._cloud.versions(self._arn(project.name)):
                result = self._there(project)
            else:
                result = self._publish(project, partial(_tell, progress, where), results)
                state.note(key)
            say(f"{where}: {result.words}")
            results.append(result)
        return results

    def _arn(self, name: str) -> str:
        partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
        prefix = next((word for start, word in partition.items() if self._cloud.region.startswith(start)), "aws")
        return f"arn:{prefix}:greengrass:{self._cloud.region}:{self.account}:components:{name}"

    @staticmethod
    def _there(project: Project) -> Result:
        words = "is in the account already and is left as it is; to publish a change raise the version"
        return Result(project.name, project.version, "there", words)

    def _publish(self, project: Project, progress: Callable[[str], None], done: Sequence[Result]) -> Result:
        log = self._work / f"{project.name}.log"
        with log.open("w", encoding="utf-8") as file:
            folder = project.folder or self._work / project.name
            built = folder / "greengrass-build" / "recipes"
            if project.folder is None and not (self._resume and (folder / "gdk-config.json").is_file()):
                progress("building")
                shutil.rmtree(folder, ignore_errors=True)
                self._step(self._stage(project, folder), self._work, file, log, "building", done)
            staged = _read_project(folder)
            if (staged.name, staged.version) != (project.name, project.version):
                raise Failure(
                    f"{folder} holds {staged.name} {staged.version}, not {project.name} {project.version}: delete the "
                    f"folder, and publish again without --resume"
                )
            progress("gdk component build")
            # gdk asks GitHub for its newest version at every start, without a time limit: here it needs no network.
            offline = {"HTTPS_PROXY": _NOWHERE, "https_proxy": _NOWHERE}
            self._step([self._gdk, "component", "build"], folder, file, log, "gdk component build", done, offline)
            if not built.is_dir():
                raise Failure(f"{project.name}: gdk built nothing into {built}: see {log}", IN_THE_WAY)
            progress("gdk component publish")
            command = [self._gdk, "component", "publish", "--region", self._cloud.region]
            existed = self._step(command, folder, file, log, "gdk component publish", done)
        if existed:
            return self._there(project)
        return Result(project.name, project.version, "published", "published")

    def _stage(self, project: Project, folder: Path) -> list[str]:
        from cli.suite import REPOSITORY

        command = [sys.executable, str(REPOSITORY / "scripts" / "build.py"), "--component", project.name]
        command += ["--stage", str(folder), "--region", self._cloud.region]
        return command + (["--bucket", self._bucket] if self._bucket else [])

    def _step(
        self,
        command: Sequence[str],
        cwd: Path,
        file: IO[str],
        log: Path,
        what: str,
        done: Sequence[Result],
        more: Mapping[str, str] | None = None,
    ) -> bool:
        """Run one command; True when it failed only because the version is in the account. Raises Failure."""
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        begin = file.tell()
        try:
            code = subprocess.run(  # noqa: S603 - an argument list of our own
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_STEP_SECONDS,
                check=False,
                env={**self._environment, **(more or {})},
            ).returncode
            why = f"ended with status {code}"
        except subprocess.TimeoutExpired:
            code, why = -1, f"did not end in {_STEP_SECONDS:.0f} s"
        except OSError as error:
            code, why = -1, f"could not be started ({error.strerror})"
        if code == 0:
            return False
        file.seek(0, os.SEEK_END)
        told = _tail(log, begin)
        if what == "gdk component publish" and _EXISTS.search(told):
            return True
        finished = ", ".join(f"{one.name} {one.version}" for one in done) or "nothing"
        raise Failure(
            f"{what} {why}; the end of {log}:\n{told}\nDone before it: {finished}. Mend it and go on with --resume.",
            IN_THE_WAY,
        )


def _tell(progress: Callable[[str], None], where: str, step: str) -> None:
    progress(f"{where}: {step}")


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 20_000))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(deque(text.splitlines(), maxlen=_TAIL))
