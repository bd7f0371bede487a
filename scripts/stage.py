"""A project of gdk for one component: what `gdk component build` and `gdk component publish` want in a folder.

    gdk-config.json                            one component, its version, the bucket and the region
    recipe.yaml                                the component's recipe
    built/recipes/recipe.yaml                  what gdk publishes, copied to greengrass-build/ by gdk's "build"
    built/artifacts/<name>/<version>/<zip>

Everything is built already, so that what is published is what was tested: the build command of the project copies. It
copies into the folders that gdk has made empty just before.

Standard library only: the build runs with whatever `python3` is first on PATH.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wheelhouse import BuildError

BUILD_COMMAND = ["cp", "-R", "built/.", "greengrass-build/"]


def config(suite: Path, name: str, version: str, bucket: str | None, region: str | None) -> str:
    """The gdk-config.json of a project for one component; bucket and region as in `suite`, the gdk-config.json of the
    repository, where they are not given. gdk adds region and account to the bucket's name."""
    document = json.loads(suite.read_text(encoding="utf-8"))
    [entry] = document["component"].values()
    publish = {**entry["publish"]}
    if bucket is not None:
        publish["bucket"] = bucket
    if region is not None:
        publish["region"] = region
    build = {"build_system": "custom", "custom_build_command": BUILD_COMMAND}
    component = {"author": entry["author"], "version": version, "build": build, "publish": publish}
    return json.dumps({**document, "component": {name: component}}, indent=2) + "\n"


def clear(project: Path, name: str) -> Path:
    """Makes room for a project of this component and returns the folder for what is built.

    Only an empty folder or an earlier project of the same component is written to: this replaces files that any
    repository with a component has at its root. Raises BuildError for others.
    """
    if project.exists() and (not project.is_dir() or any(project.iterdir())):
        if not _is_project(project, name):
            raise BuildError(
                f"{project} is neither empty nor a project that was staged for {name}: give another folder"
            )
        for leftover in ("built", "greengrass-build"):
            shutil.rmtree(project / leftover, ignore_errors=True)
    project.mkdir(parents=True, exist_ok=True)
    return project / "built"


def _is_project(project: Path, name: str) -> bool:
    """Whether `clear` has made this folder for the component before. A run that was killed leaves no gdk-config.json,
    which is written last, but nothing beside built/ either."""
    if not project.is_dir() or not (project / "built").is_dir():
        return False
    try:
        text = (project / "gdk-config.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {one.name for one in project.iterdir()} <= {"built", "recipe.yaml"}
    try:
        return list(json.loads(text)["component"]) == [name]
    except (ValueError, KeyError, TypeError):
        return False
