"""Settings that the tags of every collector have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from sluice.config import refuse
from sluice.tag_package import component_name


def _asset(value: Any) -> str:
    if isinstance(value, (dict, list)):
        refuse("is not text", "write a path such as site/area/line1")
    return "/".join(part.strip() for part in str(value).split("/") if part.strip())


def _tags_package(value: Any) -> str:
    text = str(value).strip()
    try:
        return component_name(text) if text else ""
    except ValueError as error:
        refuse(str(error), "write the name that it was made with, such as site-a, or io.sluice.Tags.site-a")


Asset = Annotated[str, BeforeValidator(_asset)]
"""An asset path, site/area/line/machine, without blanks or empty steps."""
TagsPackage = Annotated[str, BeforeValidator(_tags_package)]
"""The component name of a tag package, which may be written without its beginning; empty for none."""
