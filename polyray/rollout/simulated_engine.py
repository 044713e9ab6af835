"""An `Engine` without a model: a deterministic uniform policy over the tokenizer's plain tokens.

For tests of scale, coordination and faults, where a real engine would only cost time. It keeps every promise
of the protocol (one version per group, joining a running batch, seeds decide the sample) except that it
cannot prove a delivery: its probe answers what the payload says. Training on it teaches nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.data.chat import encode_prompt
from polyray.delivery.adapter import AdapterPayload
from polyray.errors import DeliveryError, RolloutError
from polyray.types import Completion, Group, GroupRequest


class SimulatedEngine:
    """See the module: samples cost one poll per token and nothing else."""

    def __init__(self, model_dir: Path, spec: RolloutSpec, dtype: str) -> None:
        from polyray.models.loading import load_tokenizer

        self._tokenizer: Any = load_tokenizer(model_dir)
        special = set(self._tokenizer.all_special_ids)
        self._tokens = [token for token in range(len(self._tokenizer)) if token not in special]
        self._running: dict[int, tuple[Group, int]] = {}
        self._payload: AdapterPayload | None = None

    @property
    def keeps_versions(self) -> bool:
        """False: `load` refuses while groups run."""
        return False

    def close(self) -> None:
        """Nothing lies outside this process."""

    @property
    def idle(self) -> bool:
        """True where no group is running."""
        return not self._running

    def submit(self, request: GroupRequest) -> None:
        """Draws the whole group at once; `poll` hands it over after as many steps as its longest
        completion."""
        if self._payload is None:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before sampling"
            )
        completions = tuple(self._completion(request, seed) for seed in request.seeds)
        prompt = np.asarray(encode_prompt(self._tokenizer, request.prompt), np.int32)
        group = Group(request.group_id, request.prompt, prompt, completions, self._payload.policy)
        self._running[request.group_id] = group, max(len(item.token_ids) for item in completions)

    def poll(self) -> list[Group]:
        """See `Engine.poll`."""
        finished = [group for group, steps in self._running.values() if steps <= 1]
        self._running = {
            key: (group, steps - 1) for key, (group, steps) in self._running.items() if steps > 1
        }
        return finished

    def abort(self, group_id: int) -> None:
        """See `Engine.abort`."""
        self._running.pop(group_id, None)

    def drain(self) -> list[Group]:
        """See `Engine.drain`."""
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: AdapterPayload) -> None:
        """See `Engine.load`."""
        if not self.idle:
            raise DeliveryError(
                f"{payload.policy.name} cannot be loaded while groups run: a group is one version"
            )
        self._payload = payload

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """What the payload says: there is no model to ask."""
        if self._payload is None:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before probing"
            )
        return self._payload.probe.logprobs.copy()

    def _completion(self, request: GroupRequest, seed: int) -> Completion:
        draw = random.Random(seed)
        length = draw.randint(1, request.max_completion_tokens)
        tokens = np.asarray([draw.choice(self._tokens) for _ in range(length)], np.int32)
        logprobs = np.full(length, -math.log(len(self._tokens)), np.float32)
        return Completion(tokens, logprobs, self._tokenizer.decode(tokens), "length", seed)
