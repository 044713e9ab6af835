"""Time of the learner's RL step on a model of a given shape with random weights, on one device.

Needs torch, transformers and peft: no Ray, no vLLM. Called by gpu.py, and by tests with a tiny shape on CPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True)
class LearnerLoad:
    """Training data of one step of the learner benchmark.

    Example:
        LearnerLoad(groups=2, group_size=16, prompt_tokens=128, completion_tokens=384, micro_batch_rows=8)
    """

    groups: int = 2
    group_size: int = 16
    prompt_tokens: int = 128
    completion_tokens: int = 384
    micro_batch_rows: int = 8
    gradient_checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of one step, the prompt counted for every completion."""
        return self.groups * self.group_size * (self.prompt_tokens + self.completion_tokens)


def time_learner(
    shape: dict[str, Any], load: LearnerLoad, steps: int, device: Any, dtype: str
) -> tuple[float, ...]:
    """Seconds of each of `steps` RL steps (after two that do not count) of a LoRA on random weights.

    The synthetic rollout log-probs are the policy's own before the first step, so no sequence is masked.
    """
    import torch

    from polyray.learner.optim import build_optimizer, build_scheduler
    from polyray.learner.step import PolicyLearner
    from polyray.types import TrainingBatch

    config, model = _config(load), random_policy(shape, device, dtype)
    optimizer = build_optimizer(model.parameters(), config.learner)
    learner = PolicyLearner(model, optimizer, build_scheduler(optimizer, config.learner), config)
    batch = TrainingBatch(0, _synthetic_groups(model, load, shape["vocab_size"], device), load.groups)
    seconds = []
    for _ in range(WARM_UP_STEPS + steps):
        started = time.perf_counter()
        learner.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return tuple(seconds[WARM_UP_STEPS:])


def _config(load: LearnerLoad) -> Any:
    from polyray.config.run import TrainConfig

    return TrainConfig.model_validate(
        {
            "name": "benchmark-gpu",
            "rollout": {
                "prompts_per_step": load.groups,
                "group_size": load.group_size,
                "max_prompt_tokens": load.prompt_tokens,
                "max_completion_tokens": load.completion_tokens,
            },
            "learner": {
                "micro_batch_rows": load.micro_batch_rows,
                "gradient_checkpointing": load.gradient_checkpointing,
                "learning_rate": 1e-5,
            },
        }
    )


def random_policy(shape: dict[str, Any], device: Any, dtype: str) -> Any:
    """A fresh adapter, and its reference, on a Qwen3 of this shape with random weights."""
    from benchmarks.models import random_qwen3
    from polyray.config.model import LoraSpec
    from polyray.models.lora import add_reference, attach_adapter

    base = random_qwen3(shape, device, dtype)
    model = attach_adapter(base, LoraSpec(), None, base_sha256="", seed=0)
    add_reference(model)
    return model.eval()


def _synthetic_groups(model: Any, load: LearnerLoad, vocabulary: int, device: Any) -> tuple[Any, ...]:
    """Random tokens; rewards 0 and 1 in turn."""
    import numpy as np

    from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

    draw = np.random.default_rng(0)
    policy = PolicyVersion(1, 0, "0" * 64)
    rewards = np.arange(load.group_size) % 2
    groups = []
    for group_id in range(load.groups):
        prompt = draw.integers(0, vocabulary, load.prompt_tokens, np.int32)
        tokens = draw.integers(0, vocabulary, (load.group_size, load.completion_tokens), np.int32)
        logprobs = _own_logprobs(model, prompt, tokens, load.micro_batch_rows, device)
        completions = tuple(
            Completion(row, values, "", "length", index)
            for index, (row, values) in enumerate(zip(tokens, logprobs, strict=True))
        )
        group = Group(group_id, Prompt(str(group_id), ""), prompt, completions, policy)
        groups.append(ScoredGroup(group, rewards.astype(float), np.where(rewards == 1, 0, -1)))
    return tuple(groups)


def _own_logprobs(model: Any, prompt: Any, tokens: Any, size: int, device: Any) -> Any:
    """[G, T] float32: what the policy gives `tokens` after `prompt`."""
    import numpy as np
    import torch

    from polyray.models.logprobs import Rows, completion_logprobs

    parts = []
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        ids = np.concatenate([np.broadcast_to(prompt, (len(part), len(prompt))), part], axis=1)
        rows = Rows(
            torch.from_numpy(ids.astype(np.int64)).to(device),
            torch.full((len(part),), len(prompt), device=device),
            torch.full((len(part),), part.shape[1], device=device),
        )
        with torch.no_grad():
            parts.append(completion_logprobs(model, rows)[0].float().cpu().numpy())
    return np.concatenate(parts)
