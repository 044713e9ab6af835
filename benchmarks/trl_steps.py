"""Whole steps of both: TRL's trainer drives, and polyray takes its turn at the end of each of its steps.

    TRL       transformers' generate -> verifier -> forward, backward, optimiser
    polyray   RolloutWorker (vLLM)   -> verifier -> PolicyLearner.step -> adapter bytes, merge, reload, proof

Each side samples for itself: as many completions of the same prompts, each of the same forced length. TRL has
nothing to deliver: the model that trains is the one that samples. polyray's engine and its learner are processes of
their own, as in a run: in one process two pools of OpenMP threads would let each other sleep at every product, which
takes a third longer. Actors and coordinator are left out.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.forced_lengths import ForcedEnds, ForcedLengths, planned_lengths, require_lengths
from benchmarks.machine_limit import MACHINE, step_limit
from benchmarks.made_groups import with_rewards_in_turns
from benchmarks.models import model_directory
from benchmarks.trl_trainer import LEARNING_RATE, WARM_UP_STEPS, build_trainer
from polyray.cluster.session import CPU_ENVIRONMENT, variables_set
from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec, JsonlSpec
from polyray.learner.policy import Policy
from polyray.models.adapter import PolicyUpdate
from polyray.models.tokenizer import load_tokenizer
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.verifier import VerifierReward
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_engine import VllmEngine
from polyray.rollout.worker import RolloutWorker
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import Group, GroupRequest, Prompt, TrainingBatch
from polyray.weight_sync.proof import SyncAck, SyncVerifier

KV_CACHE_MIB = 512
PROMPTS = "configs/train/smollm2.jsonl"
TIMEOUT_S = 600.0
OUR_PARTS = ("generate", "score", "learn", "deliver")


class StepSides:
    """See the module."""

    def __init__(self, options: Namespace, scratch: Path) -> None:
        self._options = options
        self._task = build_task(_task(options))
        steps = WARM_UP_STEPS + options.steps
        self._prompts = [self._task.training_prompt(i, 0) for i in range(steps * options.groups)]
        self.lengths = planned_lengths(self._prompts, options)
        """Lengths of the completions of each step, group by group."""
        self._directory = directory = model_directory(options.model, scratch)
        self._manager = _Process(ctx=multiprocessing.get_context("spawn"))
        self._engines = _Process(ctx=multiprocessing.get_context("spawn"))
        with variables_set(**CPU_ENVIRONMENT):  # as the workers of a run
            self._manager.start(_begin)
            self._engines.start(_begin)
        engine = self._engines.EngineSide(options, directory)  # type: ignore[attr-defined]  # registered
        self._ours: LearnerSide = self._manager.LearnerSide(options, directory, engine)  # type: ignore[attr-defined]
        self._ours.prepare()
        # As a user of TRL has it: polyray's own loading would lend TRL its products of matrices.
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, options.dtype))
        self._forced = ForcedEnds(self._model.config.eos_token_id)
        self._started = self._aside_s = 0.0
        self.our_seconds: dict[str, list[float]] = {}
        """Seconds of each part of each of polyray's steps, once both sides are done."""
        self.seconds: dict[str, list[float]] = {
            name: [] for name in ("polyray", "trl", "trl generate and score")
        }

    def train(self) -> None:
        """Alternates until both have made all their steps."""
        texts = [list(prompt.messages) if prompt.messages else prompt.text for prompt in self._prompts]
        tokenizer = load_tokenizer(self._directory)
        trainer = build_trainer(self._options, self._model, tokenizer, texts, self._rewards, self)
        trainer.model.generate = partial(trainer.model.generate, logits_processor=[self._forced])
        sample = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            started = time.perf_counter()
            scored = sample(inputs)
            self._aside_s = time.perf_counter() - started
            return scored

        trainer._generate_and_score_completions = timed
        try:
            trainer.train()
            self.our_seconds = self._ours.part_seconds()
        finally:
            self._manager.shutdown()
            self._engines.shutdown()

    def begin(self) -> None:
        """See `Turns.begin`."""
        self._forced.begin(self.lengths[len(self.seconds["trl"])])
        self._started = time.perf_counter()

    def end(self) -> None:
        """See `Turns.end`."""
        self.seconds["trl"].append(time.perf_counter() - self._started)
        self.seconds["trl generate and score"].append(self._aside_s)
        step, groups = len(self.seconds["polyray"]), self._options.groups
        started = time.perf_counter()
        self._ours.step(step, self._prompts[step * groups : (step + 1) * groups], self.lengths[step])
        self.seconds["polyray"].append(time.perf_counter() - started)
        self._ours.measure_limit()

    def _rewards(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **kwargs: Any
    ) -> list[float]:
        """The verifier is asked as on our side; what is trained on is 0 and 1 in turns."""
        require_lengths("TRL", completion_ids, self._forced.lengths)
        for prompt, completion in zip(prompts, completions, strict=True):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            self._task.reward(_prompt(prompt), text)
        return [float(index % 2) for index in range(len(completions))]


def _prompt(asked: Any) -> Prompt:
    """A prompt as TRL hands it to a reward: text, or messages."""
    text = asked if isinstance(asked, str) else asked[-1]["content"]
    return Prompt(text, text, reference="")


class EngineSide:
    """A rollout worker that ends completions at the lengths it is told."""

    def __init__(self, options: Namespace, directory: Path) -> None:
        self._config, self._dtype = _config(options), options.dtype
        self._forced: ForcedLengths | None = None
        self._worker = RolloutWorker("benchmark", partial(self._engine, directory))
        self._worker.ready.result(TIMEOUT_S)

    def sample(self, first: int, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[Group]:
        """Groups of these prompts, numbered from `first`; lengths are those of their completions in order."""
        assert self._forced is not None
        rollout, futures = self._config.rollout, []
        size = rollout.group_size
        for index, prompt in enumerate(prompts):
            group_id = first + index
            seeds = tuple(sample_seed(0, group_id, sample) for sample in range(size))
            self._forced.lengths |= dict(zip(seeds, lengths[index * size : (index + 1) * size], strict=True))
            limit, temperature = rollout.max_completion_tokens, rollout.temperature
            futures.append(self._worker.submit(GroupRequest(group_id, prompt, seeds, limit, temperature)))
        return [future.result(TIMEOUT_S) for future in futures]

    def deliver(self, payload: PolicyUpdate) -> SyncAck:
        """Loads a version and answers its probe."""
        return self._worker.deliver(payload).result(TIMEOUT_S)

    def _engine(self, directory: Path) -> VllmEngine:
        engine = VllmEngine(EngineSettings(str(directory), self._dtype, self._config.rollout))
        self._forced = engine._engine = ForcedLengths(engine._engine)
        return engine


class LearnerSide:
    """A verifier and a policy, with an engine that they wait for."""

    def __init__(self, options: Namespace, directory: Path, engine: EngineSide) -> None:
        self._options, self._directory, self._engine = options, directory, engine
        self._config = _config(options)
        self._seconds: dict[str, list[float]] = {name: [] for name in (*OUR_PARTS, *MACHINE)}
        self._tokens: tuple[list[int], list[int]] = [], []

    def prepare(self) -> None:
        """Load the model, in the thread that will use it, and deliver the first version."""
        torch.set_num_threads(self._options.threads)
        self._reward = VerifierReward(build_task(self._config.task))
        self._policy = Policy(self._config, self._directory, self._options.dtype, torch.device("cpu"))
        self._verifier = SyncVerifier(self._options.dtype)
        self._deliver(0)

    def step(self, step: int, prompts: Sequence[Prompt], lengths: Sequence[int]) -> None:
        """Run one step on these prompts; their completions get these lengths, group by group."""
        times = [time.perf_counter()]
        groups = self._engine.sample(step * len(prompts), prompts, lengths)
        times.append(time.perf_counter())
        texts = [tuple(item.text for item in group.completions) for group in groups]
        score_groups(
            self._reward, [GroupToScore(group.prompt, of) for group, of in zip(groups, texts, strict=True)]
        )
        times.append(time.perf_counter())
        scored = tuple(with_rewards_in_turns(group) for group in groups)
        self._policy.learner.step(TrainingBatch(step, scored, len(scored)))
        times.append(time.perf_counter())
        self._deliver(step + 1)
        times.append(time.perf_counter())
        for name, before, after in zip(OUR_PARTS, times, times[1:], strict=False):
            self._seconds[name].append(after - before)
        self._tokens = [len(group.prompt_token_ids) for group in groups], list(lengths)
        require_lengths(
            "polyray", [item.token_ids for group in groups for item in group.completions], lengths
        )

    def measure_limit(self) -> None:
        """Notes the limit of the last step, on the machine as it is now."""
        limits = step_limit(self._directory, self._options.dtype, *self._tokens)
        for name, seconds in zip(MACHINE, limits, strict=True):
            self._seconds[name].append(seconds)

    def part_seconds(self) -> dict[str, list[float]]:
        """Seconds of each part of each step so far."""
        return self._seconds

    def _deliver(self, version: int) -> None:
        payload = self._policy.payload(1, version)
        self._verifier.check(self._engine.deliver(payload), payload)


class _Process(BaseManager):
    """Process of a side of ours."""


_Process.register("EngineSide", EngineSide)
_Process.register("LearnerSide", LearnerSide)


def _begin() -> None:
    """Runs first in a process of a side."""
    os.dup2(2, 1)  # vLLM's log is no result
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # a benchmark that was killed leaves no engine behind


def _task(options: Namespace) -> HiddenTrapGridSpec | JsonlSpec:
    return JsonlSpec(path=PROMPTS) if options.model == "smollm2" else HiddenTrapGridSpec()


def _config(options: Namespace) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "benchmark",
            "task": _task(options).model_dump(),
            "rollout": {
                "prompts_per_step": options.groups,
                "group_size": options.group_size,
                "max_prompt_tokens": 64 if options.model == "smollm2" else 16,
                "max_completion_tokens": options.longest,
                "max_sequences": options.groups * options.group_size,
                "kv_cache_mib": KV_CACHE_MIB,
            },
            "learner": {"micro_batch_rows": options.micro_batch_rows, "learning_rate": LEARNING_RATE},
        }
    )
