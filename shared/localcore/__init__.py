"""A Greengrass core for a laptop and for CI: IPC, nucleus, stream manager, AWS endpoints. See README.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localcore.core import Core, CoreError
    from localcore.deployment import Deployment, DeploymentError

__all__ = ["Core", "CoreError", "Deployment", "DeploymentError"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the helper processes import this package too and need nothing of the nucleus.
    if name in ("Deployment", "DeploymentError"):
        from localcore import deployment

        return getattr(deployment, name)
    if name in ("Core", "CoreError"):
        from localcore import core

        return getattr(core, name)
    raise AttributeError(name)
