"""Evaluation of an SFT run: validation loss, samples to read, and fixed prompts (dynamics.jsonl).

The measures on fixed prompts are those of RL (polyray/periodic_eval.py). There is no engine to ask, so the learner
samples, all prompts in one padded batch. Rewards and classes are the task's own where it can tell them in this
process: programs are run in the sandbox of the reward service only.

Nothing here changes what is trained: no gradients, no dropout, and torch's generator is left as it was.
Called by supervised_loop.py.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from polyray.config.periodic_eval import EvalPlan
from polyray.config.run import SftConfig
from polyray.config.supervised import JsonlDataSpec, SupervisedEvaluationSpec
from polyray.data.chat import encode_prompt, stop_tokens
from polyray.data.packing import SupervisedBatch
from polyray.data.records import Demonstration, read_demonstrations
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.learner.periodic_eval import RoundLog
from polyray.learner.reduce import from_rank_0, world_size
from polyray.learner.supervised import batch_loss_sum
from polyray.models.logprobs import Rows, completion_logprobs
from polyray.models.sharding import is_sharded
from polyray.periodic_eval import mean_over_prompts, summarise
from polyray.runs.atomic import atomic_write_bytes
from polyray.runs.jsonl import encode_line
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.tasks.base import Task
from polyray.tasks.prompts import validation_prompts
from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

logger = logging.getLogger(__name__)

MAX_ROWS = 128
"""Completions that are sampled at a time."""


def validation_loss(model: PeftModel, batches: Sequence[SupervisedBatch]) -> float:
    """Cross-entropy in nats per trained token over all ranks' batches; the same number on every rank."""
    device = next(model.parameters()).device
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in in_lockstep(model, batches):
            if batch is None:
                dummy_pass(model)
                continue
            totals[0] += batch_loss_sum(model, batch)
            totals[1] += batch.response_mask_BT.sum().to(device)
    model.train(was_training)
    if world_size() > 1:
        dist.all_reduce(totals)
    return float(totals[0] / totals[1])


def write_samples(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    spec: SupervisedEvaluationSpec,
    path: Path,
    seed: int,
    *,
    writes: bool = True,
) -> None:
    """Write one completion for each of the first `num_samples` demonstrations, beside the reference.

    One rank `writes`. If ranks share the base, the others must sample the same, because one alone cannot.
    """
    if not writes and not is_sharded(model):
        return
    was_training = model.training
    model.eval()
    lines = []
    for index, demonstration in enumerate(demonstrations[: spec.num_samples]):
        prompt = demonstration.prompt
        prompt_ids = encode_prompt(tokenizer, prompt)
        ends = end_tokens(model, tokenizer, [prompt])
        completion = _generate(model, tokenizer, prompt_ids, ends, spec, sample_seed(seed, path.stem, index))
        asked = prompt.text if prompt.messages is None else prompt.messages
        lines.append({"prompt": asked, "completion": completion, "reference": demonstration.response})
    model.train(was_training)
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, b"".join(encode_line(line) for line in lines))


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[int]:
    """Token ids that end a completion of these prompts, as they do in an engine; the first also pads."""
    ends: Any = model.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = list(ends) if isinstance(ends, list) else [ends]
    closing = {token for prompt in prompts for token in stop_tokens(tokenizer, prompt)}
    return [*ends, *sorted(closing - set(ends))]


@contextmanager
def _own_distribution(model: Any) -> Iterator[None]:
    """Inside, `generate` takes no temperature or penalty from the file that some bases bring."""
    known: Any = model.generation_config
    holders: list[Any] = [model, *([model.get_base_model()] if isinstance(model, PeftModel) else [])]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder in holders:
            holder.generation_config = known


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[int],
    ends: list[int],
    spec: SupervisedEvaluationSpec,
    seed: int,
) -> str:
    device = next(model.parameters()).device
    sampling: dict[str, Any] = {"do_sample": False}
    if spec.temperature > 0:  # top_k 0, top_p 1: the model's own distribution
        sampling = {"do_sample": True, "temperature": spec.temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
        **sampling,
    )
    input_ids = torch.tensor([prompt_ids], device=device)
    with (
        torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]),
        torch.no_grad(),
        _own_distribution(model),
    ):
        torch.manual_seed(seed)
        output_ids = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=config,
            synced_gpus=is_sharded(model),
        )[0]
    text = tokenizer.decode(output_ids[len(prompt_ids) :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


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
        self._plan = config.eval_plan(num_steps)
        self._tokenizer: Any = tokenizer
        if self._plan is None:
            return
        path = run_dir / "dynamics.jsonl"
        self._log = RoundLog(path, config.monitors, lambda line: line["step"] <= step) if writes else None
        self._known = from_rank_0({line["step"] for line in self._log.lines} if self._log else set[int]())
        self._task: Task | None = None
        if isinstance(config.data, JsonlDataSpec):
            training, validation = read_demonstrations(config.data)
            prompts = [demonstration.prompt for demonstration in validation or training]
        else:
            self._task = build_task(config.task)
            prompts = validation_prompts(self._plan, self._task, config.seed)
        room = (prompt for prompt in prompts if len(encode_prompt(tokenizer, prompt)) < config.max_tokens)
        self._prompts = list(itertools.islice(room, self._plan.num_prompts))
        if not self._prompts:
            logger.warning(
                "no rounds on fixed prompts: none leaves room below max_tokens=%d", config.max_tokens
            )
            self._plan = None

    def record(self, model: Any, step: int, last: bool = False) -> dict[str, float]:
        """The round of a model after `step` steps, where it is due, as it is after the `last` one; what it adds to
        that step's line."""
        if self._plan is None or not (last or self._plan.schedule.due(step)) or step in self._known:
            return {}
        self._known.add(step)
        if self._log is None and not is_sharded(model):
            return {}
        started = time.perf_counter()
        groups = sample_groups(model, self._tokenizer, self._prompts, self._config, self._plan, step)
        if self._log is None:
            return {}
        values = mean_over_prompts([summarise(self._scored(group), self._plan) for group in groups])
        line = self._log.write({"phase": "sft", "step": step}, values)
        return {**line, "validation_s": time.perf_counter() - started}

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
    plan: EvalPlan,
    step: int,
) -> list[Group]:
    """`num_samples` completions of every prompt at temperature 1, with their log-probs under the model. A prompt and
    its completion have at most `max_tokens` tokens, so each prompt needs fewer.
    """
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    ends = end_tokens(model, tokenizer, prompts)
    at_once = max(1, MAX_ROWS // plan.num_samples)
    was_training = model.training
    model.eval()
    groups: list[Group] = []
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.no_grad():
        for start in range(0, len(prompts), at_once):
            torch.manual_seed(sample_seed(config.seed, "dynamics", start))
            part = prompt_ids[start : start + at_once]
            sampled = _sample(model, tokenizer, part, ends, config.max_tokens, plan.num_samples)
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
        max_new_tokens=max_tokens - min(len(ids) for ids in prompt_ids),
        eos_token_id=ends,
        pad_token_id=ends[0],
        do_sample=True,
        top_k=0,
        top_p=1.0,
    )
    with _own_distribution(model):
        output = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=generation,
            synced_gpus=is_sharded(model),
        )
    flat_prompts = [ids for ids in prompt_ids for _ in range(num_samples)]
    sampled = [
        _until_end(row[width : width + max_tokens - len(ids)].tolist(), ends)
        for row, ids in zip(output, flat_prompts, strict=True)
    ]
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
