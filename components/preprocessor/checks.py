"""What the configuration's models alone cannot see, found without network and without a device.

The same texts stand in the status of a component that runs with such a configuration.
"""

from __future__ import annotations

from pathlib import Path

from preprocessor import compile as compiler
from preprocessor.config import Configuration
from sluice.config import Problem


def check(config: Configuration, directory: Path) -> list[Problem]:
    """What is wrong with the flows and models. directory: where relative paths of tables start."""
    return compiler.check(config, directory)


def warnings(config: Configuration, directory: Path) -> list[Problem]:
    """What stops nothing, and is probably a mistake. directory: where relative paths of tables start."""
    used = {getattr(step, "model", "") for flow in config.flows.values() for step in flow.steps.values()}
    found = [
        Problem(f"models.{name}", None, "is used by no flow", "give a flow a step {type: model, model: " + name + "}")
        for name in config.models
        if name not in used
    ]
    return [*found, *compiler.warnings(config, directory)]
