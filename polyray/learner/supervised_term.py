"""The gradient of cross-entropy on demonstrations, to be added to that of an RL objective.

With a set objective of weight lambda beside it, and `normalisation: sum`, that is polychromic SFT: L = CE - lambda D,
where the gradient of D is the score-function estimator over samples of the rollout workers (the value of D has none).
Which demonstrations a step sees follows from (seed, step) alone. Called by the learner step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from polyray.config.run import TrainConfig
from polyray.config.supervised_term import SupervisedTermSpec
from polyray.data.chat import encode_demonstration
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.learner.reduce import Sums, rank, sum_gradients, world_size
from polyray.learner.supervised import batch_loss_sum, demonstration_batches
from polyray.models.tokenizer import load_tokenizer
from polyray.tasks import build_task


class SupervisedTerm:
    """Built once per learner rank; holds the task and the tokeniser."""

    def __init__(self, config: TrainConfig, spec: SupervisedTermSpec, model_dir: Path) -> None:
        self._config = config
        self._spec = spec
        self._tokenizer = load_tokenizer(model_dir)
        self._task = build_task(config.task)

    def gradients(
        self, model: PeftModel, parameters: Sequence[torch.nn.Parameter], step: int
    ) -> tuple[list[torch.Tensor], float]:
        """(weight x gradient of the mean cross-entropy over all ranks, that mean in nats per response token).

        Leaves the parameters without a gradient.
        """
        end: Any = self._tokenizer.pad_token_id
        rows = demonstration_batches(
            self._row,
            step=step,
            rank=rank(),
            world_size=world_size(),
            rows_per_step=self._spec.demonstrations_per_step,
            micro_batch_rows=self._config.learner.micro_batch_rows,
            pad_id=end if end is not None else self._tokenizer.eos_token_id,  # type: ignore[arg-type]
        )
        sums = Sums(("cross_entropy",))
        for batch in in_lockstep(model, rows.batches):
            if batch is None:
                dummy_pass(model)
                continue
            loss = batch_loss_sum(model, batch)
            loss.backward()
            sums.add("cross_entropy", float(loss.detach()), 0)
        sums.reduce()
        sum_gradients(parameters, rows.num_tokens_total / self._spec.weight)
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            parameter.grad = None
        return found, sums.total("cross_entropy") / rows.num_tokens_total

    def _row(self, index: int) -> TokenRow:
        prompt, response = self._task.demonstration(index, self._config.seed)
        return encode_demonstration(self._tokenizer, prompt, response, self._spec.max_tokens)


def build_supervised_term(config: TrainConfig, model_dir: Path) -> SupervisedTerm | None:
    """The term that `supervised` asks for; ConfigError or DataError where the task cannot serve it."""
    if config.supervised is None:
        return None
    if config.supervised.demonstrations_per_step < config.learner.num_workers:
        raise ConfigError(
            f"supervised.demonstrations_per_step={config.supervised.demonstrations_per_step} is less than "
            f"learner.num_workers={config.learner.num_workers}: a rank would have none"
        )
    return SupervisedTerm(config, config.supervised, model_dir)
