"""Groups and texts from an engine of requests.

    submit --> a request per sample --> steps of the engine --> new tokens --> Group, or TextDelta after TextDelta

`Engine` is what every engine shares: versions by run, samples of a group, decoding, giving up. A subclass runs the
requests. One thread owns an engine and steps it (worker.py); nothing here is thread-safe, and nothing blocks longer
than one decoding step.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyray.config.rollout import RolloutSpec
from polyray.data.chat import encode_prompt, stop_tokens
from polyray.errors import DataError, RolloutError, WeightSyncError
from polyray.models.adapter import PolicyUpdate
from polyray.types import Completion, Group, GroupRequest, PolicyVersion, Sampling, TextDelta, TextRequest


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


def group_sampling(request: GroupRequest, stop_token_ids: tuple[int, ...] = ()) -> Sampling:
    """Sampling settings that all samples of a group share."""
    return Sampling(
        request.max_completion_tokens, request.temperature, stop_token_ids=stop_token_ids, logprobs=0
    )


@dataclass(slots=True)
class Version:
    """A policy version in an engine, the handle that `_load` returned, and how many groups and texts run on it."""

    policy: PolicyVersion
    loaded: Any
    in_flight: int = 0


@dataclass(slots=True)
class Running:
    """A group or text on its way; `samples` are the engine's ids of its requests, one per seed."""

    number: int
    request: GroupRequest | TextRequest
    prompt: list[int]
    sampling: Sampling
    seeds: tuple[int, ...]
    version: Version
    samples: list[int]
    ended: dict[int, TextDelta] = field(default_factory=dict)

    @property
    def stream(self) -> bool:
        """Whether its tokens are handed over as they come."""
        return isinstance(self.request, TextRequest) and self.request.stream


PROBE = Sampling(max_tokens=1, temperature=0.0, logprobs=0, prompt_logprobs=True)
"""Settings of a probe sequence: its own log-probs, and as little else as an engine allows."""
Answer = tuple[int, Group | TextDelta]
"""The caller's number of a request, and its group or the next part of its text."""


class Engine(ABC):
    """Samples groups and texts, each from the version of its run that was the newest when it was submitted."""

    def __init__(self, tokenizer: Any, spec: RolloutSpec, *, keeps_versions: bool) -> None:
        self.max_sequences = spec.max_sequences
        """Sequences that it decodes together; more wait inside, first come first served."""
        self.keeps_versions = keeps_versions
        """True: `load` works while groups run, they finish on the version of their submission, and the engine
        holds the newest version of every run. False: `load` only when idle, and it holds one version. Either
        way a `load` that raises WeightSyncError changed nothing; after anything else the engine is unusable."""
        self.progress = 0
        """Steps so far: tells an engine that hangs from one that is busy."""
        self._tokenizer = tokenizer
        self._max_model_len = spec.max_model_len
        self._running: dict[int, Running] = {}
        self._samples: dict[int, Running] = {}
        self._ids = itertools.count()
        """Request ids are never used twice: late output of a request that was given up is nobody else's."""
        self._answers: list[Answer] = []
        self._versions: dict[str, Version] = {}
        self._newest: dict[str, Version] = {}
        self._last_run = ""
        """Run of the version that was loaded last."""

    @property
    def idle(self) -> bool:
        """True where no request is queued, running or answered but not yet polled."""
        return not self._running and not self._answers

    def submit(self, number: int, request: GroupRequest | TextRequest) -> None:
        """Queue a request under the caller's number, from 0 on; it joins the running batch at the next `poll`. Raises
        DataError where its prompt cannot be, RolloutError where no version of its run is loaded."""
        version = self._version(request.run)
        if isinstance(request, TextRequest):
            name, seeds, sampling = "of a text", (request.seed,), request.sampling
            prompt = list(request.prompt_token_ids)
        else:
            name, seeds = repr(request.prompt.prompt_id), request.seeds
            prompt = encode_prompt(self._tokenizer, request.prompt)
            sampling = group_sampling(request, stop_tokens(self._tokenizer, request.prompt))
        room = self._max_model_len - sampling.max_tokens
        if len(prompt) > room:
            raise DataError(
                f"prompt {name} has {len(prompt)} tokens, the limit is {room}; raise rollout.max_prompt_tokens"
            )
        samples = [next(self._ids) for _ in seeds]
        running = Running(number, request, prompt, sampling, seeds, version, samples)
        self._add(running)
        version.in_flight += 1
        self._running[number] = running
        self._samples |= dict.fromkeys(samples, running)

    def poll(self) -> list[Answer]:
        """Advance what runs by about a token, and return groups that are complete and new parts of texts."""
        if self._running:
            self._step()
        answers, self._answers = self._answers, []
        return answers

    def abort(self, number: int) -> None:
        """Forgets a request; unknown numbers are ignored."""
        self._answers = [answer for answer in self._answers if answer[0] != number]
        running = self._running.pop(number, None)
        if running is not None:
            for sample in running.samples:
                self._samples.pop(sample, None)
            self._cancel(running)
            running.version.in_flight -= 1
            self._unload_unused()

    def load(self, payload: PolicyUpdate) -> None:
        """Serves this version from now on; see `keeps_versions` for what happens to the ones before."""
        policy = payload.policy
        if not self.keeps_versions and not self.idle:
            raise WeightSyncError(f"{policy.name} cannot be loaded while groups run: a group is one version")
        version = self._versions.get(policy.name) if self.keeps_versions else None
        if version is None:
            version = Version(policy, self._load(payload))
            if not self.keeps_versions:
                self._versions.clear()
                self._newest.clear()
        self._last_run = policy.run
        self._newest[policy.run] = self._versions[policy.name] = version
        self._unload_unused()

    def forget(self, run: str) -> None:
        """The run has ended: its versions may go as soon as nothing runs on them."""
        self._newest.pop(run, None)
        self._unload_unused()

    def held(self) -> dict[str, int]:
        """Versions in the engine by name, and how many groups and texts run on each. For any thread."""
        return {version.policy.name: version.in_flight for version in list(self._versions.values())}

    def probe(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """[sum(len - 1)] float32 log-probs of the sequences' tokens from the second on, at temperature 1, by
        the version loaded last. Answers to requests meanwhile are returned by the next `poll`."""
        numbers = range(-len(sequences), 0)
        for number, sequence in zip(numbers, sequences, strict=True):
            self.submit(number, TextRequest(tuple(sequence), PROBE, 0, self._last_run))
        while not self._running.keys().isdisjoint(numbers):
            self._step()
        rows = {
            number: delta.prompt_logprobs for number, delta in self._answers if isinstance(delta, TextDelta)
        }
        self._answers = [answer for answer in self._answers if answer[0] >= 0]
        return np.concatenate([rows[number] for number in numbers]).astype(np.float32)

    @abstractmethod
    def sleep(self) -> None:
        """Free the device's memory, weights to the host's. Only when idle; then only `wake` or `close` may follow."""

    @abstractmethod
    def wake(self) -> None:
        """Allocate the memory again, and serve the same versions as before."""

    @abstractmethod
    def close(self) -> None:
        """Removes what the engine keeps outside its process, and ends processes of its own. Called once, last."""

    @abstractmethod
    def _add(self, running: Running) -> None:
        """Queue a request per sample. DataError where the engine refuses them."""

    @abstractmethod
    def _advance(self) -> Sequence[tuple[int, TextDelta]]:
        """One step: new tokens by request id; for a TextRequest with text that reads on from the prompt."""

    @abstractmethod
    def _cancel(self, running: Running) -> None:
        """Take its requests out of the engine."""

    @abstractmethod
    def _load(self, payload: PolicyUpdate) -> Any:
        """Load a version; the handle by which requests name it. WeightSyncError if it is refused."""

    @abstractmethod
    def _unload(self, loaded: Any) -> None:
        """Drop a version that nothing runs on. Only called where the engine keeps versions."""

    def _version(self, run: str) -> Version:
        if run not in self._newest:
            raise RolloutError(
                "no policy version was delivered to this engine yet; deliver one before sampling"
            )
        return self._newest[run]

    def _step(self) -> None:
        for sample, delta in self._advance():
            running = self._samples.get(sample)
            if running is None:
                continue  # it was given up meanwhile
            if isinstance(running.request, TextRequest):
                self._answers.append((running.number, delta))
            if delta.finish_reason is None:
                continue
            del self._samples[sample]
            running.ended[sample] = delta
            if len(running.ended) == len(running.samples):
                del self._running[running.number]
                if isinstance(running.request, GroupRequest):
                    self._answers.append((running.number, self._group(running, running.request)))
                running.version.in_flight -= 1
                self._unload_unused()

    def _group(self, running: Running, request: GroupRequest) -> Group:
        ended = [running.ended[sample] for sample in running.samples]
        token_ids = [np.asarray(delta.token_ids, np.int32) for delta in ended]
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        completions = tuple(
            Completion(
                tokens, np.asarray(delta.logprobs, np.float32), text, delta.finish_reason or "error", seed
            )
            for tokens, delta, text, seed in zip(token_ids, ended, texts, request.seeds, strict=True)
        )
        prompt = np.asarray(running.prompt, np.int32)
        return Group(request.group_id, request.prompt, prompt, completions, running.version.policy)

    def _unload_unused(self) -> None:
        if not self.keeps_versions:
            return  # the next load takes the place of this version
        for name, version in list(self._versions.items()):
            if version is not self._newest.get(version.policy.run) and not version.in_flight:
                del self._versions[name]
                self._unload(version.loaded)
