"""An `Engine` without a model: a deterministic uniform policy over the tokenizer's plain tokens, and a clock.

For measuring scale, overlap and faults, where a real engine would only cost cores. It keeps every promise of the
protocol (one version per group, joining a running batch, seeds decide the sample) except that it cannot prove a
delivery: its probe answers what the payload says. Training on it gives no signal. It samples groups, and refuses
texts.

Latency, lengths and failures come from `rollout.simulation`; while it "decodes" its thread sleeps until the next
sequence ends. Without latencies a poll is one token. A sequence is drawn when it is submitted, and handed over when
it ends.
"""

from __future__ import annotations

import functools
import heapq
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.errors import DataError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.engine import Engine, Running
from polyray.types import Sampling, TextDelta, TextRequest

_READING = threading.Lock()
"""transformers imports its parts when they are first asked for, which threads must not do at once."""
ROUNDING_S = 1e-9
"""A sequence that would end within this has ended: sums of seconds are not exact."""


class SimulatedEngine(Engine):
    """See the module. `clock` and `sleep` may be a simulated time."""

    def __init__(
        self,
        model_dir: Path,
        spec: RolloutSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        simulation = self._simulation = spec.simulation
        with _READING:
            tokenizer, self._plain_tokens = _vocabulary(model_dir)
        super().__init__(tokenizer, spec, keeps_versions=simulation.keeps_versions)
        self._clock, self._sleep = clock, sleep
        step_s = simulation.step_s if simulation.takes_time else 1.0
        self._batch = DecodingBatch(step_s, simulation.sequence_s, spec.max_sequences)
        self._drawn: dict[int, TextDelta] = {}
        """Completions of what runs."""
        self._ended: list[int] = []
        self._asleep = False
        self._wait(simulation.start_s)
        self._decoded_until = clock()

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self._check_awake()
        return self._version(self._last_run).loaded.probe.logprobs.copy()

    def sleep(self) -> None:  # no memory is freed, but new work is refused
        self._asleep = True

    def wake(self) -> None:
        self._asleep = False

    def close(self) -> None:
        pass

    def _add(self, running: Running) -> None:
        self._check_awake()
        if isinstance(running.request, TextRequest):
            raise DataError("a simulated engine samples groups only; set rollout.engine=vllm for texts")
        drawn = [self._draw(seed, running.sampling) for seed in running.seeds]
        self._catch_up()
        for sample, delta in zip(running.samples, drawn, strict=True):
            self._drawn[sample] = delta
            self._batch.add(sample, len(delta.token_ids))

    def _advance(self) -> list[tuple[int, TextDelta]]:
        """With latencies it sleeps until a sequence ends or a step is over."""
        self.progress += 1
        self._catch_up()
        if not self._simulation.takes_time:
            self._ended += self._batch.run(1.0)
        elif not self._ended:
            longest = max(self._batch.current_step_s, self._simulation.poll_s)
            self._wait(min(self._batch.next_end_s(), longest))
            self._catch_up()
        ended, self._ended = self._ended, []
        return [(sample, self._drawn.pop(sample)) for sample in ended]

    def _cancel(self, running: Running) -> None:
        self._catch_up()
        self._batch.remove(running.samples)
        self._ended = [sample for sample in self._ended if sample not in running.samples]
        for sample in running.samples:
            self._drawn.pop(sample, None)

    def _load(self, payload: PolicyUpdate) -> PolicyUpdate:
        self._check_awake()
        self._wait(self._simulation.load_s)
        return payload

    def _unload(self, loaded: PolicyUpdate) -> None:
        pass

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("the engine sleeps; wake it first")

    def _catch_up(self) -> None:
        """Decode up to now. A thread that woke late has lost nothing: simulated time continued."""
        if self._simulation.takes_time:
            now = self._clock()
            self._ended += self._batch.run(now - self._decoded_until)
            self._decoded_until = now

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _draw(self, seed: int, sampling: Sampling) -> TextDelta:
        """Plain tokens; the last one ends the sequence where the length model ends it below the limit."""
        end = (*sampling.stop_token_ids, self._tokenizer.eos_token_id)[0]
        draw = random.Random(seed)
        length, stops = self._simulation.draw_length(draw, sampling.max_tokens)
        # 32 random bits a token: the remainder prefers no token by more than one in 10^4.
        bits = np.frombuffer(draw.randbytes(4 * length), np.uint32)
        tokens = self._plain_tokens[bits % len(self._plain_tokens)]
        if stops and end is not None:
            tokens[-1] = end
        logprobs = (-math.log(len(self._plain_tokens)),) * length
        return TextDelta("", tuple(tokens.tolist()), logprobs, (), "stop" if stops else "length")


class DecodingBatch:
    """When sequences that decode together end, in simulated seconds. No clock, no tokens.

    At most `max_sequences` run; a step of n takes `step_s + n * sequence_s`. All running sequences get their tokens
    in lockstep, so one counter of decoded tokens and a heap of the counts at which sequences end are enough: an hour
    of decoding costs as many operations as sequences ended in it.
    """

    def __init__(self, step_s: float, sequence_s: float, max_sequences: int) -> None:
        self._step_s = step_s
        self._sequence_s = sequence_s
        self._max_sequences = max_sequences
        self._decoded = 0.0
        """Tokens that a sequence which runs from the start would have."""
        self._ends: list[tuple[float, int]] = []
        self._waiting: deque[tuple[int, int]] = deque()

    @property
    def current_step_s(self) -> float:
        """Seconds of a step as the batch is now."""
        return self._step_s + self._sequence_s * len(self._ends)

    def add(self, sample: int, length: int) -> None:
        """A sequence joins: at once where there is room, else when others have ended."""
        self._waiting.append((sample, length))
        self._admit()

    def remove(self, samples: Collection[int]) -> None:
        """Forgets sequences; unknown ones are ignored."""
        self._waiting = deque(item for item in self._waiting if item[0] not in samples)
        self._ends = [item for item in self._ends if item[1] not in samples]
        heapq.heapify(self._ends)
        self._admit()

    def next_end_s(self) -> float:
        """Seconds until the next sequence ends; infinite where none runs."""
        if not self._ends:
            return math.inf
        return max(0.0, self._ends[0][0] - self._decoded) * self.current_step_s

    def run(self, seconds: float) -> list[int]:
        """Decodes for so long; the sequences that have ended, in order."""
        ended: list[int] = []
        while self._ends and (needed := self.next_end_s()) <= seconds + ROUNDING_S:
            seconds = max(0.0, seconds - needed)
            self._decoded = self._ends[0][0]
            while self._ends and self._ends[0][0] <= self._decoded:
                ended.append(heapq.heappop(self._ends)[1])
            self._admit()
        if self._ends:
            self._decoded += seconds / self.current_step_s
        return ended

    def _admit(self) -> None:
        if not self._ends:
            self._decoded = 0.0  # keeps the fractions exact over a long life
        while self._waiting and len(self._ends) < self._max_sequences:
            sample, length = self._waiting.popleft()
            heapq.heappush(self._ends, (self._decoded + length, sample))


@functools.lru_cache(maxsize=4)
def _vocabulary(model_dir: Path) -> tuple[Any, np.ndarray]:
    """(tokenizer, its plain tokens), read once for all engines of a process."""
    tokenizer: Any
    if (model_dir / "tokenizer.json").is_file():  # needs no torch: such engines start at once
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)
    else:
        from polyray.models.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(model_dir)
    special = set(tokenizer.all_special_ids)
    plain = [token for token in range(len(tokenizer)) if token not in special]
    return tokenizer, np.array(plain, np.int32)
