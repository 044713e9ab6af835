"""An `Engine` without a model: a deterministic uniform policy over the tokenizer's plain tokens, and a clock.

For measuring scale, overlap and faults, where a real engine would only cost cores. It keeps every promise of the
protocol (one version per group, joining a running batch, seeds decide the sample) except that it cannot prove a
delivery: its probe answers what the payload says. Training on it has_signal nothing.

Latency, lengths and failures come from `rollout.simulation`; while it "decodes" its thread sleeps until the next
sequence ends. Without latencies a poll is one token.
"""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.data.chat import encode_prompt, stop_tokens
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.simulated_batch import DecodingBatch
from polyray.rollout.simulated_lengths import Lengths
from polyray.types import Completion, FinishReason, Group, GroupRequest

_READING = threading.Lock()


class SimulatedEngine:
    """See the module. `clock` and `sleep` may be a simulated time."""

    def __init__(
        self,
        model_dir: Path,
        spec: RolloutSpec,
        dtype: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._simulation = spec.simulation
        self.max_sequences = spec.max_sequences
        self._tokenizer, self._plain_tokens = _vocabulary(model_dir)
        self._lengths = Lengths(spec.simulation)
        self._clock, self._sleep = clock, sleep
        self._batch = DecodingBatch(spec.simulation.step_s, spec.simulation.sequence_s, spec.max_sequences)
        self._groups: dict[int, Group] = {}
        self._complete: list[int] = []
        self._newest: dict[str, PolicyUpdate] = {}
        """Newest payload of each run; only one if the engine does not keep versions."""
        self._last: PolicyUpdate | None = None
        self._asleep = False
        self._wait(self._simulation.start_s)
        self._decoded_until = clock()

    def sleep(self) -> None:
        """Sleep: no memory is freed, but new work is refused until the engine wakes."""
        if not self.idle:
            raise RolloutError(f"the engine cannot sleep while {len(self._groups)} groups run")
        self._asleep = True

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._asleep = False

    def close(self) -> None:
        """No effect: the simulation holds nothing outside this process."""

    @property
    def idle(self) -> bool:
        """True where no group is running."""
        return not self._groups

    @property
    def keeps_versions(self) -> bool:
        """Whether a version may be loaded while groups of another one run."""
        return self._simulation.keeps_versions

    def submit(self, request: GroupRequest) -> None:
        """Draws the whole group at once; `poll` hands it over when its longest completion is decoded."""
        self._check_awake()
        payload = self._newest.get(request.run)
        if payload is None:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before sampling"
            )
        prompt = np.asarray(encode_prompt(self._tokenizer, request.prompt), np.int32)
        completions = self._completions(request)
        self._catch_up()
        self._groups[request.group_id] = Group(
            request.group_id, request.prompt, prompt, completions, payload.policy
        )
        lengths = [len(item.token_ids) for item in completions]
        self._batch.add(request.group_id, lengths)

    def poll(self) -> list[Group]:
        """See `Engine.poll`. With latencies it sleeps until a sequence ends or a step is over."""
        if self._simulation.takes_time:
            self._catch_up()
            if not self._complete and not self.idle:
                longest = max(self._batch.current_step_s, self._simulation.poll_s)
                self._wait(min(self._batch.next_end_s(), longest))
                self._catch_up()
        else:
            self._complete += self._batch.step()
        finished = [self._groups.pop(group_id) for group_id in self._complete]
        self._complete = []
        return finished

    def abort(self, group_id: int) -> None:
        """See `Engine.abort`."""
        self._catch_up()
        self._batch.remove(group_id)
        self._complete = [item for item in self._complete if item != group_id]
        self._groups.pop(group_id, None)

    def drain(self) -> list[Group]:
        """See `Engine.drain`."""
        finished: list[Group] = []
        while not self.idle:
            finished.extend(self.poll())
        return finished

    def load(self, payload: PolicyUpdate) -> None:
        """See `Engine.load`; groups keep running meanwhile if the engine keeps versions."""
        self._check_awake()
        if not self.idle and not self.keeps_versions:
            raise WeightSyncError(
                f"{payload.policy.name} cannot be loaded while groups run: a group is one version"
            )
        self._wait(self._simulation.load_s)
        if not self.keeps_versions:
            self._newest.clear()
        self._last = self._newest[payload.policy.run] = payload

    def forget(self, run: str) -> None:
        """See `Engine.forget`."""
        self._newest.pop(run, None)

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probs of the payload: there is no model to ask."""
        self._check_awake()
        if self._last is None:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before probing"
            )
        return self._last.probe.logprobs.copy()

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("the engine sleeps; wake it first")

    def _catch_up(self) -> None:
        """Decode up to now. A thread that woke late has lost nothing: simulated time continued."""
        if self._simulation.takes_time:
            now = self._clock()
            self._complete += self._batch.run(now - self._decoded_until)
            self._decoded_until = now

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _completions(self, request: GroupRequest) -> tuple[Completion, ...]:
        ends = (*stop_tokens(self._tokenizer, request.prompt), self._tokenizer.eos_token_id)
        drawn = [self._sample(seed, request.max_completion_tokens, ends[0]) for seed in request.seeds]
        texts = self._tokenizer.batch_decode([tokens for tokens, _ in drawn], skip_special_tokens=True)
        logprob = -math.log(len(self._plain_tokens))
        return tuple(
            Completion(tokens, np.full(len(tokens), logprob, np.float32), text, reason, seed)
            for (tokens, reason), text, seed in zip(drawn, texts, request.seeds, strict=True)
        )

    def _sample(self, seed: int, max_tokens: int, end: int | None) -> tuple[np.ndarray, FinishReason]:
        """Plain tokens; the last one ends the sequence where the length model ends it below the limit."""
        draw = random.Random(seed)
        length, stops = self._lengths.draw(draw, max_tokens)
        # 32 random bits a token: the remainder prefers no token by more than one in 10^4.
        bits = np.frombuffer(draw.randbytes(4 * length), np.uint32)
        tokens = self._plain_tokens[bits % len(self._plain_tokens)]
        if stops and end is not None:
            tokens[-1] = end
        return tokens, "stop" if stops else "length"


def _vocabulary(model_dir: Path) -> tuple[Any, np.ndarray]:
    """(tokenizer, its plain tokens), read once for all engines of a process."""
    with (
        _READING
    ):  # transformers imports its parts when they are first asked for, which threads must not do at once
        return _read_vocabulary(model_dir)


@functools.lru_cache(maxsize=4)
def _read_vocabulary(model_dir: Path) -> tuple[Any, np.ndarray]:
    tokenizer: Any
    if (model_dir / "tokenizer.json").is_file():  # needs no torch: such engines start at once
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)
    else:
        from polyray.models.loading import load_tokenizer

        tokenizer = load_tokenizer(model_dir)
    special = set(tokenizer.all_special_ids)
    plain = [token for token in range(len(tokenizer)) if token not in special]
    return tokenizer, np.array(plain, np.int32)
