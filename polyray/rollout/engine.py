"""The protocol every inference engine follows.

One thread owns an engine and steps it (`worker.py`); nothing here is thread-safe and nothing blocks longer
than one decoding step, so streaming, cancelling and joining a running batch all work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.models.adapter import PolicyUpdate
from polyray.types import Group, GroupRequest


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings that an engine is built from on any machine.

    Example:
        EngineSettings(model_dir="/models/qwen", dtype="float32", rollout=RolloutSpec(), lora_rank=16)
    """

    model_dir: str
    dtype: str
    rollout: RolloutSpec
    lora_rank: int | None = None
    """The largest rank that adapter delivery will bring; None: delivery is merged."""
    runs: int = 1
    """How many runs use the engine at the same time, each with versions of its own."""


class Engine(Protocol):
    """Samples groups, each from one policy version: the newest of its run that was loaded when it was submitted.

    Groups are told apart by `group_id` alone: a caller with several runs gives each group its own number.
    """

    @property
    def keeps_versions(self) -> bool:
        """True: `load` works while groups run, they finish on the version of their submission, and the engine
        holds the newest version of every run. False: `load` only when idle, and it holds one version. Either
        way a `load` that raises WeightSyncError changed nothing; after anything else the engine is unusable."""
        ...

    @property
    def max_sequences(self) -> int:
        """Sequences that it decodes together; more wait inside, first come first served."""
        ...

    def submit(self, request: GroupRequest) -> None:
        """Queues a group; it joins the running batch at the next `poll`. Raises DataError where its prompt
        cannot be, RolloutError where no version of its run is loaded."""
        ...

    def poll(self) -> list[Group]:
        """Advances every running sequence by one token (or prefill) and returns the groups that finished."""
        ...

    def abort(self, group_id: int) -> None:
        """Forgets a group; unknown ids are ignored."""
        ...

    def drain(self) -> list[Group]:
        """Polls until the engine is idle, and returns everything that finished."""
        ...

    def load(self, payload: PolicyUpdate) -> None:
        """Serves this version from now on; see `keeps_versions` for what happens to the ones before."""
        ...

    def forget(self, run: str) -> None:
        """The run has ended: its versions may go as soon as none of its groups runs."""
        ...

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """[sum(len - 1)] float32 log-probs of the sequences' tokens from the second on, at temperature 1, by
        the version loaded last. Groups that finish meanwhile are returned by the next `poll`."""
        ...

    def sleep(self) -> None:
        """Free the device's memory: weights go to the host's, keys and values are dropped. Only when idle;
        nothing but `wake` and `close` may follow."""
        ...

    def wake(self) -> None:
        """Allocate the memory again, and serve the same versions as before."""
        ...

    @property
    def idle(self) -> bool:
        """True where no group is queued, running or finished but not yet polled."""
        ...

    def close(self) -> None:
        """Removes what the engine keeps outside its process, and ends processes of its own. Called once, last."""
        ...
