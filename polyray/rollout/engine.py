"""The protocol every inference engine follows.

One thread owns an engine and steps it (`worker.py`); nothing here is thread-safe and nothing blocks longer
than one decoding step, so streaming, cancelling and joining a running batch all work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from polyray.delivery.adapter import AdapterPayload
from polyray.types import Group, GroupRequest


class Engine(Protocol):
    """Samples groups from one policy version at a time."""

    def submit(self, request: GroupRequest) -> None:
        """Queues a group; it joins the running batch at the next `poll`. Raises DataError where its prompt
        cannot be."""
        ...

    def poll(self) -> list[Group]:
        """Advances every running sequence by one token (or prefill) and returns the groups that finished."""
        ...

    def abort(self, group_id: int) -> None:
        """Forgets a group; unknown ids are ignored."""
        ...

    def drain(self) -> list[Group]:
        """Polls until nothing runs, and returns everything that finished."""
        ...

    def load(self, payload: AdapterPayload) -> None:
        """Serves this version from now on. Only when idle; a failure inside leaves the engine unusable."""
        ...

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """[sum(len - 1)] float32 log-probs of the sequences' tokens from the second on, at temperature 1."""
        ...

    @property
    def idle(self) -> bool:
        """True where no group is queued or running."""
        ...
