"""A rehearsal: the simulated plant, the local core and the built components together, judged by the plant's own log.

`scripts/demo` shows one to a person, the system tests assert on one. The components run as a Greengrass core would run
them: from their zips and recipes, in processes of their own. Nothing here looks inside them.
"""

from rehearsal.rehearsal import Rehearsal, RehearsalError
from rehearsal.site import SiteError, load_site

__all__ = ["Rehearsal", "RehearsalError", "SiteError", "load_site"]
