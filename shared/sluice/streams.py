"""Streams on the local bus: Outlets keep and publish what a component's sources yield, an Inlet follows data topics.

The rules of delivery are in `delivery` (one stream's two ends) and `following` (a consumer as a whole), the wire forms
in `batch` and `cursors`, what is kept in `outbox`.
"""

from __future__ import annotations

from sluice.bus import Bus, BusSubscription
from sluice.config import OutboxSettings
from sluice.following import Reader
from sluice.inlet import Inlet, covers
from sluice.outlets import Outlet, Outlets

__all__ = ["Bus", "BusSubscription", "Inlet", "OutboxSettings", "Outlet", "Outlets", "Reader", "covers"]
