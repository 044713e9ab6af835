"""Both learners on the same completions: TRL's trainer drives, and polyray's learner follows each of its steps.

Timed on TRL's side: forward, backward and optimiser; on polyray's: the whole learner step with all its metrics.
Generation and scoring are on neither. Called by trl.py.
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchmarks.learner import build_learner
from benchmarks.made_groups import drawn_lengths, random_tokens, scored_group
from benchmarks.models import RANDOM_SHAPE, random_base
from benchmarks.trl_trainer import LEARNING_RATE, WARM_UP_STEPS, build_trainer
from polyray.learner.embedded import build_tokenizer
from polyray.types import TrainingBatch


class LearningSides:
    """See the module."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._draw = np.random.default_rng(0)
        self._base = _base(options.model)
        self._learner = build_learner(
            _base(options.model), options.groups, options.group_size, options.micro_batch_rows, LEARNING_RATE
        )
        self._batch: Any = None
        self._aside_s = 0.0
        self._started = 0.0
        self.seconds: dict[str, list[float]] = {"polyray": [], "trl": []}
        self.lengths: list[list[int]] = []
        """Lengths of the completions of each step."""

    def train(self) -> None:
        """Alternates until both have made all their steps."""
        prompts = ["1"] * (self._options.groups * (WARM_UP_STEPS + self._options.steps))
        base, tokenizer = _base(self._options.model), build_tokenizer()
        trainer = build_trainer(self._options, base, tokenizer, prompts, self._rewards, self, self._rollout)
        score = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            started = time.perf_counter()
            scored = score(inputs)
            self._aside_s += time.perf_counter() - started
            return scored

        trainer._generate_and_score_completions = timed
        trainer.train()

    def begin(self) -> None:
        """See `Turns.begin`."""
        self._aside_s, self._started = 0.0, time.perf_counter()

    def end(self) -> None:
        """See `Turns.end`."""
        self.seconds["trl"].append(time.perf_counter() - self._started - self._aside_s)
        started = time.perf_counter()
        self._learner.step(self._batch)
        self.seconds["polyray"].append(time.perf_counter() - started)

    def _rollout(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        """Data for TRL: the groups of the next batch."""
        step = len(self.lengths)
        first = step * self._options.groups
        groups = tuple(self._group(first + i) for i in range(self._options.groups))
        self._batch = TrainingBatch(step, groups, len(groups))
        completions = [(group.group, item) for group in groups for item in group.group.completions]
        self.lengths.append([len(item.token_ids) for _, item in completions])
        return {
            "prompt_ids": [group.prompt_token_ids.tolist() for group, _ in completions],
            "completion_ids": [item.token_ids.tolist() for _, item in completions],
            "logprobs": [item.rollout_logprobs.tolist() for _, item in completions],
        }

    def _rewards(self, **kwargs: Any) -> list[float]:
        return [float(value) for group in self._batch.groups for value in group.rewards_G]

    def _group(self, group_id: int) -> Any:
        options = self._options
        if options.model == "embedded":
            return scored_group(self._learner.model, group_id, *self._sampled(group_id))
        lengths = drawn_lengths(self._draw, options.group_size, options.longest, options.mean_share)
        drawn = random_tokens(self._draw, lengths, RANDOM_SHAPE["vocab_size"])
        return scored_group(self._learner.model, group_id, *drawn)

    def _sampled(self, group_id: int) -> tuple[Any, list[list[int]]]:
        import torch

        from polyray.config.task import HiddenTrapGridSpec
        from polyray.data.chat import encode_prompt
        from polyray.learner.embedded import build_tokenizer
        from polyray.tasks import build_task

        tokenizer = build_tokenizer()
        prompt = encode_prompt(tokenizer, build_task(HiddenTrapGridSpec()).training_prompt(group_id, 0))
        ids = torch.tensor([prompt] * self._options.group_size)
        torch.manual_seed(group_id)
        with torch.no_grad():
            sampled = self._base.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=self._options.longest,
                pad_token_id=0,
            )
        rows = [row[len(prompt) :] for row in sampled.tolist()]
        end = tokenizer.eos_token_id
        return np.array(prompt, np.int32), [row[: row.index(end) + 1] if end in row else row for row in rows]


def _base(name: str) -> Any:
    from pathlib import Path

    from polyray.config.model import ModelSpec
    from polyray.models.base_files import find_embedded
    from polyray.models.loading import load_base

    if name == "embedded":
        return load_base(find_embedded(Path(ModelSpec().cache_dir)), "float32")
    return random_base()
