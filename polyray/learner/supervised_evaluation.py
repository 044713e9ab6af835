"""Watching an SFT run: the validation loss over all ranks, early stopping, and samples to read.

Nothing here changes what is trained: no gradients, no dropout, and torch's generator is left as it was.
Called by supervised_loop.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from polyray.config.supervised import EarlyStoppingSpec, SupervisedEvaluationSpec
from polyray.data.chat import encode_prompt, stop_tokens
from polyray.data.packing import SupervisedBatch
from polyray.data.records import Demonstration
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.learner.reduce import world_size
from polyray.learner.supervised import batch_loss_sum
from polyray.models.sharding import is_sharded
from polyray.runs.atomic import atomic_write_bytes
from polyray.runs.jsonl import encode_line
from polyray.seeds import sample_seed
from polyray.types import Prompt


@dataclass(frozen=True, slots=True)
class Patience:
    """State of early stopping, e.g. Patience(best_loss=0.71, best_step=40, failures=1)."""

    best_loss: float | None = None
    """Nats per trained token; None before the first evaluation."""
    best_step: int = 0
    """Completed steps at the best evaluation."""
    failures: int = 0
    """Evaluations in a row that were no improvement."""

    def after(self, loss: float, step: int, min_delta: float) -> Patience:
        """State after one more evaluation, at `step` steps."""
        if self.best_loss is None or loss < self.best_loss - min_delta:
            return Patience(loss, step)
        return replace(self, failures=self.failures + 1)

    def is_over(self, spec: EarlyStoppingSpec | None) -> bool:
        """Whether training stops here."""
        return spec is not None and self.failures >= spec.patience

    @classmethod
    def restored(cls, extra: Mapping[str, Any]) -> Patience:
        """From a checkpoint's `extra`."""
        return cls(**extra.get("early_stopping", {}))


def is_evaluated(spec: SupervisedEvaluationSpec, step: int, num_steps: int) -> bool:
    """Whether there is an evaluation after `step` completed steps."""
    return spec.every is not None and (step % spec.every == 0 or step == num_steps)


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
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.no_grad():
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
