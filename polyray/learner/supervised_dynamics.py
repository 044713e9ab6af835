"""Quality and diversity while an SFT run goes: fixed prompts, answered by the model as it is, into dynamics.jsonl.

The measures are those of RL's rounds (periodic_eval/validation.py). There is no engine to ask, so the learner
samples, all
prompts in one padded batch; weights, optimiser and torch's generator are left as they were. Rewards and classes are
the task's own where it can tell them in this process: programs are run in the sandbox of the reward service only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from polyray.config.dynamics import Rounds
from polyray.config.run import SftConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.data.chat import encode_prompt
from polyray.data.records import read_demonstrations
from polyray.learner.monitors import Monitors
from polyray.learner.reduce import from_rank_0
from polyray.learner.supervised_evaluation import end_tokens
from polyray.models.logprobs import Rows, completion_logprobs
from polyray.models.sharding import is_sharded
from polyray.periodic_eval.validation import mean_over_prompts, summarise
from polyray.runs.jsonl import JsonlWriter, cut_jsonl, read_jsonl
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.tasks.base import Task
from polyray.tasks.prompts import validation_prompts
from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

MAX_ROWS = 128
"""Completions that are sampled at a time."""


class SupervisedDynamics:
    """Rounds on fixed prompts in SFT; no effect without rounds in the configuration.

    One rank writes. If ranks share the base, the others must sample with it, because one alone cannot.
    """

    def __init__(
        self,
        config: SftConfig,
        num_steps: int,
        tokenizer: PreTrainedTokenizerBase,
        run_dir: Path,
        step: int,
        *,
        writes: bool = True,
    ) -> None:
        """`step`: completed steps; lines of later steps are removed, because these steps run again. All ranks
        must call it.
        """
        self._config = config
        self._writes = writes
        self._rounds = config.rounds(num_steps)
        self._tokenizer: Any = tokenizer
        self._path = run_dir / "dynamics.jsonl"
        if self._rounds is None:
            return
        if writes:
            cut_jsonl(self._path, lambda line: line["step"] <= step)
        lines = read_jsonl(self._path) if writes else []
        self._known = from_rank_0({line["step"] for line in lines})
        self._monitors = Monitors(config.monitors, lines, of_rounds=True)
        self._task: Task | None = None
        if isinstance(config.data, JsonlDataSpec):
            training, validation = read_demonstrations(config.data)
            rows = (validation or training)[: self._rounds.num_prompts]
            self._prompts = [demonstration.prompt for demonstration in rows]
        else:
            self._task = build_task(config.task)
            self._prompts = validation_prompts(self._rounds, self._task, config.seed)

    def record(self, model: Any, step: int, last: bool = False) -> dict[str, float]:
        """The round of a model after `step` steps, where it is due, as it is after the `last` one; what it adds to
        that step's line."""
        if self._rounds is None or not (last or self._rounds.due(step)) or step in self._known:
            return {}
        self._known.add(step)
        if not self._writes and not is_sharded(model):
            return {}
        started = time.perf_counter()
        groups = sample_groups(model, self._tokenizer, self._prompts, self._config, self._rounds, step)
        if not self._writes:
            return {}
        values = mean_over_prompts([summarise(self._scored(group), self._rounds) for group in groups])
        alarms = self._monitors.observe(values)
        with JsonlWriter(self._path) as writer:
            writer.write({"phase": "sft", "step": step, **values, **alarms})
        line = {f"validation/{name}": value for name, value in values.items()}
        return {**line, **alarms, "validation_s": time.perf_counter() - started}

    def _scored(self, group: Group) -> ScoredGroup:
        texts = [completion.text for completion in group.completions]
        task = None if self._config.task.type == "code" else self._task
        if task is None:
            nothing = np.full(len(texts), np.nan)
            return ScoredGroup(group, nothing, np.full(len(texts), -1, np.int64))
        rewards = np.array([task.reward(group.prompt, text) for text in texts], np.float64)
        return ScoredGroup(group, rewards, np.array(task.partition(group.prompt, texts), np.int64))


def sample_groups(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    config: SftConfig,
    rounds: Rounds,
    step: int,
) -> list[Group]:
    """`num_samples` completions of every prompt at temperature 1, with their log-probs under the model."""
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    ends = end_tokens(model, tokenizer, prompts)
    at_once = max(1, MAX_ROWS // rounds.num_samples)
    was_training = model.training
    model.eval()
    groups: list[Group] = []
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.no_grad():
        for start in range(0, len(prompts), at_once):
            torch.manual_seed(sample_seed(config.seed, "dynamics", start))
            part = prompt_ids[start : start + at_once]
            sampled = _sample(model, tokenizer, part, ends, config.max_tokens, rounds.num_samples)
            for index, completions in enumerate(sampled):
                number = start + index
                ids = np.array(prompt_ids[number], np.int32)
                groups.append(Group(number, prompts[number], ids, completions, PolicyVersion(1, step, "")))
    model.train(was_training)
    return groups


def _sample(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[list[int]],
    ends: list[int],
    max_tokens: int,
    num_samples: int,
) -> list[tuple[Completion, ...]]:
    """Prompts are padded on their left: all of them end where sampling begins."""
    device = next(model.parameters()).device
    width = max(len(ids) for ids in prompt_ids)
    rows = [[ends[0]] * (width - len(ids)) + ids for ids in prompt_ids for _ in range(num_samples)]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids for _ in range(num_samples)]
    generation = GenerationConfig(
        max_new_tokens=max(1, max_tokens - width),
        eos_token_id=ends,
        pad_token_id=ends[0],
        do_sample=True,
        top_k=0,
        top_p=1.0,
    )
    output = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=generation,
        synced_gpus=is_sharded(model),
    )
    sampled = [_until_end(row[width:].tolist(), ends) for row in output]
    flat_prompts = [ids for ids in prompt_ids for _ in range(num_samples)]
    logprobs = _logprobs(model, flat_prompts, sampled, ends[0])
    completions = [
        Completion(
            np.array(ids, np.int32),
            values,
            tokenizer.decode(ids, skip_special_tokens=True),
            "stop" if ids[-1] in ends else "length",
            0,
        )
        for ids, values in zip(sampled, logprobs, strict=True)
    ]
    return [
        tuple(completions[start : start + num_samples]) for start in range(0, len(completions), num_samples)
    ]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    """Ids up to and with the first end-of-sequence token, without padding."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids


def _logprobs(
    model: Any, prompts: Sequence[list[int]], completions: Sequence[list[int]], pad_id: int
) -> list[np.ndarray]:
    device = next(model.parameters()).device
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, whole))
    rows = Rows(
        torch.tensor([ids + [pad_id] * (width - len(ids)) for ids in whole], device=device),
        torch.tensor([len(ids) for ids in prompts], device=device),
        torch.tensor([len(ids) for ids in completions], device=device),
    )
    values_BT = completion_logprobs(model, rows)[0].float().cpu().numpy()
    return [row[: len(ids)] for row, ids in zip(values_BT, completions, strict=True)]
