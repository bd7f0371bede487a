"""Topics to subscribers: local publish/subscribe, and the in-process stand-in for the broker of IoT Core.

At most once: a message goes to whoever subscribes now, in order, and is then forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from localcore.topics import matches

Deliver = Callable[[str, Any], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Subscriber:
    """One subscription.

    `owner` is the component that holds it, empty for an observer inside this process. `others_only` leaves out what the
    owner publishes itself.
    """

    topic_filter: str
    owner: str
    others_only: bool
    deliver: Deliver
    dead: bool = False
    """Still counted and still open, but it never gets anything again (lite, after a message it could not decode, or
    after its pub/sub daemon was started again)."""


class Bus:
    """The subscriptions, and the way of a message to them."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def held(self) -> int:
        """How many subscriptions components hold."""
        return sum(1 for subscriber in self._subscribers if subscriber.owner)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscription; returns how to end it."""
        self._subscribers.append(subscriber)

        def cancel() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return cancel

    def silence(self) -> None:
        """Make the present subscriptions of all components dead."""
        for subscriber in self._subscribers:
            subscriber.dead = bool(subscriber.owner)

    def matching(self, topic: str, sender: str) -> list[Subscriber]:
        """Who gets a message of `sender` on `topic`: each overlapping subscription once."""
        return [
            subscriber
            for subscriber in self._subscribers
            if not subscriber.dead
            and not (subscriber.others_only and subscriber.owner == sender)
            and matches(subscriber.topic_filter, topic)
        ]

    async def publish(self, topic: str, message: Any, sender: str) -> None:
        """Hand a message to every subscription that matches."""
        for subscriber in self.matching(topic, sender):
            await subscriber.deliver(topic, message)
