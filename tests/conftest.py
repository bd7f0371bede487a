"""What every test shares: how hypothesis looks for examples, and what the garbage collector looks through."""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

# No deadline, and no complaint about slowness: what an example takes says more about the machine than about the code;
# costs have tests of their own.
# No database: a failure is reproduced by what it prints, not by what an earlier run left in the tree.
settings.register_profile(
    "random", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None, print_blob=True
)
settings.register_profile("fixed", settings.get_profile("random"), derandomize=True)

# In CI every run sees the same examples, so that it judges the change alone; everywhere else each run sees new ones.
settings.load_profile("fixed" if os.environ.get("CI") else "random")


def pytest_collection_finish() -> None:
    """All modules and tests are there and stay: looking through them for garbage is a tenth of all CPU time."""
    gc.collect()
    gc.freeze()
