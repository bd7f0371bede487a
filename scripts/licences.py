"""The licences of packages that are passed on as wheels, as their own metadata states them.

    numpy 2.2.6
        licence: OSI Approved :: BSD License
        texts:   numpy-2.2.6.dist-info/LICENSE.txt

The texts are inside the wheels, unmodified, and pip installs them with the package.

Standard library only: gdk runs the build with whatever `python3` is first on PATH.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from wheelhouse import BuildError

_TEXT = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
_CLASSIFIER = "License :: "


def licence_list(wheels: Iterable[Path]) -> str:
    """One entry for each name and version among the wheels, however many wheels it has, in alphabetical order.

    Raises BuildError for a wheel that states no licence: what nobody may pass on must not be in a release.
    """
    entries: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for path in sorted(wheels):
        with zipfile.ZipFile(path) as wheel:
            [metadata_name] = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            metadata = BytesParser().parsebytes(wheel.read(metadata_name), headersonly=True)
            info = metadata_name.removesuffix("METADATA")
            texts = {
                name
                for name in wheel.namelist()
                if name.startswith(info) and not name.endswith("/") and _TEXT.search(PurePosixPath(name).name)
            }
        licence = stated(metadata)
        if not licence:
            raise BuildError(f"{path.name}: states no licence: it cannot be passed on without knowing that it may be")
        _, known = entries.setdefault((metadata["Name"], metadata["Version"]), (licence, set()))
        known |= texts
    lines = ["Third-party packages that are passed on here, unmodified, as wheels, by what their metadata states.", ""]
    for (name, version), (licence, texts) in sorted(entries.items(), key=lambda entry: entry[0][0].lower()):
        lines += [f"{name} {version}", f"    licence: {licence}"]
        lines += [
            f"    {'texts:  ' if number == 0 else '        '} {text}" for number, text in enumerate(sorted(texts))
        ]
        lines.append("")
    return "\n".join(lines)


def stated(metadata: Message) -> str:
    """The licence that a package's metadata states: its expression, else its classifiers, else its older free text,
    of which only the first line names a licence. Empty when there is none."""
    if expression := metadata["License-Expression"]:
        return str(expression).strip()
    classifiers = [str(one) for one in metadata.get_all("Classifier", []) if str(one).startswith(_CLASSIFIER)]
    if classifiers:
        return "; ".join(one.removeprefix(_CLASSIFIER) for one in classifiers)
    lines = str(metadata["License"] or "").strip().splitlines()
    return lines[0].strip() if lines else ""
