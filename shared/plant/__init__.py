"""A simulated plant: real process data served live, and the plant's own log by which everything is judged.

It stands in for the machines that Sluice collects from, and knows nothing of Sluice.
"""

from plant.pi.process import PiProcess
from plant.process import PlantError, PlantProcess
from plant.tags import DEFAULT_ASSET, Tag, example_config, tags, write_tags_csv

__all__ = [
    "DEFAULT_ASSET",
    "PiProcess",
    "PlantError",
    "PlantProcess",
    "Tag",
    "example_config",
    "tags",
    "write_tags_csv",
]
