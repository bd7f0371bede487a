"""What the destinations take, as far as the configuration has to know of it.

Apart from the encoders, which bring numpy: whoever only checks a configuration waits for none of that.
"""

from __future__ import annotations

from enum import Enum
from string import Formatter

#: The most that a Kinesis record may hold beside its partition key (up to 256 characters).
MAX_RECORD_BYTES = 1024 * 1024 - 1024

MAX_ALIAS_CHARACTERS = 2048

#: What an alias template may contain in braces.
ALIAS_FIELDS = ("asset", "tag", "unit", "source")


class Integers(str, Enum):
    """The SiteWise data type that integer samples are sent as. A property has one type for ever, so it is a rule."""

    INTEGER = "integer"
    DOUBLE = "double"


def alias_fields(template: str) -> list[str]:
    """The field names in a template's braces. Raises ValueError when it is not a template."""
    fields: list[str] = []
    for _, name, specification, conversion in Formatter().parse(template):
        if name is None:
            continue
        if name not in ALIAS_FIELDS or specification or conversion:
            raise ValueError(f"{{{name}}} is not one of {', '.join('{' + field + '}' for field in ALIAS_FIELDS)}")
        fields.append(name)
    return fields
