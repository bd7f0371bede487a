"""Deployments that are asked about: a proposed configuration is judged before it is deployed (`validateDeployments`).

Off by default, and for a reason. Once one component subscribes, the nucleus waits for an answer of *every* component
whose configuration the deployment changes, and fails the deployment when one of them never answers: StreamManager, for
instance. So it is switched on for all components of a deployment, or for none. Without it a configuration entry that is
wrong is left out, and the status says so.

Answers come within two seconds. A configuration that cannot be judged in that time is accepted: wrong entries of it are
left out afterwards, as always.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sluice.ipc import Ipc, IpcError, IpcUnsupported, Subscription
from sluice.problem import Problem
from sluice.retry import Backoff
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

ANSWERED_WITHIN: Final = 2.0
LONGEST_MESSAGE: Final = 2_000
"""Characters of the reason in an answer, which becomes part of the deployment's status."""
_SOON: Final = 1.5  # what judging may take of the time for an answer


class Validation:
    """Answers the nucleus for one component. `judge` gives the problems of a raw configuration."""

    def __init__(self, ipc: Ipc, judge: Callable[[Any], Awaitable[Sequence[Problem]]]) -> None:
        self._ipc = ipc
        self._judge = judge
        self._wanted = False
        self._changed = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()

    def configure(self, wanted: bool) -> None:
        """Whether deployments are to be asked about. Applies at once."""
        if wanted is not self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Subscribe while it is wanted, and answer; until cancelled."""
        subscription: Subscription | None = None
        backoff = Backoff(5.0, 300.0)
        told = ""
        try:
            while True:
                self._changed.clear()
                pause: float | None = None
                if not self._wanted and subscription is not None:
                    await subscription.close()
                    subscription = None
                elif self._wanted and subscription is None:
                    try:
                        subscription = await self._ipc.on_proposed_configuration(self._proposed)
                        told = ""
                        backoff.reset()
                    except IpcUnsupported:  # the client has said so
                        pass
                    except IpcError as error:
                        pause = backoff.next()
                        if told != str(error):
                            told = str(error)
                            logger.warning("Deployments cannot be validated, which is tried again: %s", error)
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(pause, self._changed.wait())
        finally:
            await end(*self._answers)

    def _proposed(self, deployment: str, configuration: Any) -> None:
        task = asyncio.create_task(self._answer(deployment, configuration), name="validation")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, deployment: str, configuration: Any) -> None:
        problems: Sequence[Problem] = ()
        try:
            problems = await within(_SOON, self._judge(configuration))
        except asyncio.TimeoutError:
            logger.warning("The deployment %s is accepted: it could not be checked within %g s", deployment, _SOON)
        except Exception:
            logger.exception("The deployment %s is accepted: it could not be checked", deployment)
        if problems:
            logger.warning("The deployment %s is rejected: %s", deployment, reason(problems))
        try:
            await self._ipc.report_validity(deployment, not problems, reason(problems))
        except IpcError as error:
            logger.error("The nucleus does not take the answer about the deployment %s: %s", deployment, error)


def reason(problems: Sequence[Problem]) -> str:
    """Why a configuration is rejected: as many of the problems as fit, and how many there are besides."""
    told, room = [], LONGEST_MESSAGE
    for problem in problems:
        text = str(problem)[: LONGEST_MESSAGE // 2]
        if len(text) > room:
            break
        told.append(text)
        room -= len(text) + 1
    left = len(problems) - len(told)
    return "\n".join([*told, f"and {left} more"] if left else told)
