"""One policy update: advantages -> rows -> log-probs -> loss -> gradient -> optimiser step -> metrics.

The ratio is pi_theta / pi_rollout, straight against the engine's own log-probs. It is clipped as in PPO,
truncated at `importance_cap` where clipping does not bound it (negative advantages), and sequences whose mean
log ratio leaves the band are masked and leave the denominator too (design.md section 4). Gradients of plain
sums are accumulated over micro batches and ranks and divided once by the global denominator, so neither
changes the update.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel

from polyray.algorithms import importance, kl, losses
from polyray.config.run import TrainConfig
from polyray.learner.advantages import GroupAdvantages, compute_advantages
from polyray.learner.batch import Row, RowBatch, build_row_batch, rows_of
from polyray.learner.group_metrics import add_group_metrics, finished_metrics
from polyray.learner.reduce import Sums, sum_gradients
from polyray.models.logprobs import completion_logprobs
from polyray.models.lora import reference_active
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch

TOKEN_SUMS = (
    "loss", "kept_sequences", "kept_tokens", "clipped", "entropy", "kl_rollout", "weights", "weights_squared",
    "kl_reference", "logprob_difference",
)  # fmt: skip
TOKEN_MAXIMA = ("logprob_difference",)
"""Named from the start, so that a rank without rows still takes part in every reduction."""


class PolicyLearner:
    """Owns nothing but references: the model, its optimiser and its schedule live with the caller."""

    def __init__(
        self,
        model: PeftModel,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.parameters[0].device

    def step(self, batch: TrainingBatch) -> StepMetrics:
        """Trains on this rank's share and returns the metrics of the whole batch, the same on every rank."""
        algorithm = self.config.algorithm
        sums = Sums(TOKEN_SUMS, TOKEN_MAXIMA)
        advantages = [compute_advantages(group, algorithm) for group in batch.groups]
        for group, group_advantages in zip(batch.groups, advantages, strict=True):
            add_group_metrics(sums, group, group_advantages, algorithm)
        training, observed = self._split_rows(batch.groups, advantages)
        self.optimizer.zero_grad(set_to_none=True)
        for micro_batch in self._micro_batches(training):
            self._accumulate(micro_batch, sums)
        with torch.no_grad():
            for micro_batch in self._micro_batches(observed):
                self._accumulate(micro_batch, sums)
        sums.reduce()
        denominator = self._denominator(sums)
        sum_gradients(self.parameters, max(denominator, 1.0))
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.learner.max_grad_norm)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.scheduler.step()
        return finished_metrics(sums) | {
            "loss": sums.total("loss") / max(denominator, 1.0),
            "grad_norm": float(gradient_norm),
            "lr": learning_rate,
        }

    def _split_rows(
        self, groups: Sequence[ScoredGroup], advantages: Sequence[GroupAdvantages]
    ) -> tuple[list[Row], list[Row]]:
        """(rows with a gradient, rows that are only measured): a zero advantage without a KL term has
        none."""
        rows = [
            row
            for group, group_advantages in zip(groups, advantages, strict=True)
            for row in rows_of(group, group_advantages.advantages_G)
        ]
        if self.config.algorithm.kl_coefficient > 0:
            return rows, []
        return [row for row in rows if row.advantage != 0], [row for row in rows if row.advantage == 0]

    def _micro_batches(self, rows: Sequence[Row]) -> list[RowBatch]:
        size = self.config.learner.micro_batch_rows
        return [
            build_row_batch(rows[start : start + size], self.device) for start in range(0, len(rows), size)
        ]

    def _accumulate(self, batch: RowBatch, sums: Sums) -> None:
        """Adds one micro batch to the metrics and, outside no_grad, to the gradient of the loss's
        numerator."""
        algorithm = self.config.algorithm
        mask_BT = batch.rows.mask_BT
        logprobs_BT, entropy_BT = completion_logprobs(self.model, batch.rows, self.config.rollout.temperature)
        detached_BT = logprobs_BT.detach()
        kept_B = importance.sequence_mask(
            detached_BT, batch.rollout_logprobs_BT, mask_BT, algorithm.sequence_mask_band
        )
        loss_mask_BT = mask_BT & kept_B[:, None]
        loss_BT, clipped_BT = losses.clipped_surrogate(
            logprobs_BT,
            batch.rollout_logprobs_BT,
            batch.advantages_B[:, None],
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
        )
        # Clipping leaves the ratio unbounded where the advantage is negative: truncate its weight there.
        ratio_BT = (detached_BT - batch.rollout_logprobs_BT).exp()
        loss_BT = loss_BT * (
            importance.truncated_token_weights(
                detached_BT, batch.rollout_logprobs_BT, algorithm.importance_cap
            )
            / ratio_BT
        )
        reference_BT = self._watch_reference(batch, detached_BT, sums)
        if algorithm.kl_coefficient > 0:
            estimator = kl.k2 if algorithm.kl_estimator == "k2" else kl.k3
            loss_BT = loss_BT + algorithm.kl_coefficient * estimator(logprobs_BT, reference_BT)
        numerator = self._numerator(loss_BT, loss_mask_BT)
        if torch.is_grad_enabled():
            numerator.backward()
        sums.add("loss", float(numerator.detach()), 1)
        sums.add("kept_sequences", float(kept_B.sum()), len(kept_B))
        sums.add("kept_tokens", float(loss_mask_BT.sum()), float(mask_BT.sum()))
        sums.add("clipped", float((clipped_BT & loss_mask_BT).sum()), float(loss_mask_BT.sum()))
        sums.add("entropy", float(entropy_BT.sum()), float(mask_BT.sum()))
        log_ratio = (detached_BT - batch.rollout_logprobs_BT)[mask_BT].double()
        ratio = log_ratio.exp()
        # E over rollout tokens of ratio - 1 - log ratio: the k3 estimate of KL(rollout || learner).
        sums.add("kl_rollout", float((ratio - 1 - log_ratio).sum()), len(ratio))
        sums.add("weights", float(ratio.sum()), len(ratio))
        sums.add("weights_squared", float((ratio**2).sum()), len(ratio))
        sums.add("logprob_difference", float(log_ratio.abs().sum()), len(log_ratio))
        sums.maximum("logprob_difference", float(log_ratio.abs().max()))

    def _watch_reference(self, batch: RowBatch, policy_BT: torch.Tensor, sums: Sums) -> torch.Tensor:
        """Measures the KL to the warm start by k3; returns the reference's log-probs of what it looked at.

        That is every completion where the KL is in the loss, else one per group.
        """
        in_loss = self.config.algorithm.kl_coefficient > 0
        watched_B = torch.ones_like(batch.watched_B) if in_loss else batch.watched_B
        if not watched_B.any():
            return policy_BT[:0]
        rows = batch.rows.select(watched_B)
        with torch.no_grad(), reference_active(self.model):
            reference_BT, _ = completion_logprobs(self.model, rows, self.config.rollout.temperature)
        mask_BT = rows.mask_BT
        values = kl.k3(policy_BT[watched_B, : mask_BT.shape[1]], reference_BT)[mask_BT]
        sums.add("kl_reference", float(values.double().sum()), len(values))
        return reference_BT

    def _numerator(self, loss_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """The loss before its global denominator (see `_denominator`)."""
        masked_BT = torch.where(mask_BT, loss_BT, torch.zeros_like(loss_BT))
        if self.config.algorithm.normalisation == "sequence":
            return (masked_BT.sum(1) / mask_BT.sum(1).clamp(min=1)).sum()
        return masked_BT.sum()

    def _denominator(self, sums: Sums) -> float:
        """Kept tokens, kept sequences, or kept sequences x max_completion_tokens; over all ranks."""
        normalisation = self.config.algorithm.normalisation
        if normalisation == "token":
            return sums.total("kept_tokens")
        if normalisation == "sequence":
            return sums.total("kept_sequences")
        return sums.total("kept_sequences") * self.config.rollout.max_completion_tokens
