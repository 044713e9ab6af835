"""Timings of deliveries, for the metrics of a step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class DeliveryReport:
    """Timings of deliveries between two receipts.

    Example:
        DeliveryReport(started=12.5, seconds=0.04, difference=8e-7)
    """

    started: float = 0.0
    seconds: float = 0.0
    """From publishing to the last proof, for the newest version that all workers serve."""
    difference: float = 0.0
    idle: dict[str, float] = field(default_factory=dict)
    """Share of the time between a worker's last two deliveries in which its engine did not step."""
    busy: dict[str, tuple[float, float]] = field(default_factory=dict)

    def begin(self) -> None:
        """A version was published."""
        self.started = time.perf_counter()

    def end(self) -> None:
        """All workers serve it."""
        self.seconds = time.perf_counter() - self.started

    def add(self, worker: str, difference: float, busy_s: float) -> None:
        """A worker proved it: the largest difference of its probe, and the seconds its engine has stepped so far."""
        now = time.perf_counter()
        self.difference = max(self.difference, difference)
        before_busy, before = self.busy.get(worker, (busy_s, now))
        self.busy[worker] = busy_s, now
        if now > before:
            self.idle[worker] = min(1.0, max(0.0, 1 - (busy_s - before_busy) / (now - before)))

    def forget(self, worker: str) -> None:
        """The worker is gone: how idle it was says nothing of those that are left."""
        self.idle.pop(worker, None)
        self.busy.pop(worker, None)

    def take(self) -> dict[str, float]:
        """Metrics of a step; counting starts anew."""
        taken = {
            "deliver_s": self.seconds,
            "delivery_difference_max": self.difference,
            "idle_generate": sum(self.idle.values()) / len(self.idle) if self.idle else 0.0,
        }
        self.seconds, self.difference = 0.0, 0.0
        return taken
