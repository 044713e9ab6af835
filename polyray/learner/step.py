"""One batch: rows -> anchors -> advantages -> one or more optimiser updates -> metrics.

    updates_per_batch times: for every mini-batch of groups: log-probs -> loss (token_loss.py) -> gradient -> update

Gradients of plain sums are accumulated over micro batches and ranks and divided once by the denominator of the whole
mini-batch, so neither changes the update. A group is never split between mini-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from peft import PeftModel

from polyray.algorithms import importance, kl, losses
from polyray.config.algorithm import AlgorithmSpec
from polyray.config.run import TrainConfig
from polyray.learner.advantages import algorithm_at, compute_advantages, scale_batch
from polyray.learner.batch import Row, RowBatch, build_row_batch, micro_batches, rows_of
from polyray.learner.covariance import with_chosen_tokens
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.learner.gradient_parts import gradient_parts
from polyray.learner.group_metrics import add_group_metrics, add_second_opinion, finished_metrics
from polyray.learner.old_logprobs import (
    compute_old,
    compute_reference,
    measured,
    needs_proximal,
    watched_groups,
)
from polyray.learner.reduce import Sums, rank, sum_gradients, world_size
from polyray.learner.supervised_term import SupervisedTerm
from polyray.learner.token_loss import token_loss
from polyray.models.checkpointing import checkpoint_layers
from polyray.models.logprobs import completion_logprobs
from polyray.types import StepMetrics, TrainingBatch

UPDATE_SUMS = ("loss", "kept_sequences", "kept_tokens", "clipped")
"""Sums over every update."""
FIRST_SUMS = (
    "entropy", "kl_rollout", "weights", "weights_squared", "kl_reference", "logprob_difference",
)  # fmt: skip
"""Sums over the first pass of a batch only, before its own updates change the policy."""
MAXIMA = ("logprob_difference",)
"""Named from the start, so that a rank without rows still takes part in every reduction."""


@dataclass(slots=True)
class MiniBatch:
    """The rows of one update: those with a gradient, and those that only count in the denominator.

    Example:
        MiniBatch(training=[RowBatch(...)], observed=[])
    """

    training: list[RowBatch]
    observed: list[RowBatch]
    observed_sums: Sums | None = field(default=None)
    """Measured in the first pass."""


class PolicyLearner:
    """Owns nothing but references: the model, its optimiser and its schedule live with the caller."""

    def __init__(
        self,
        model: PeftModel,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        config: TrainConfig,
        supervised: SupervisedTerm | None = None,
    ) -> None:
        self.model = model
        self.supervised = supervised
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.parameters[0].device
        self.trained_advantages: tuple[np.ndarray, ...] = ()
        """[G] per group of the last batch: the advantages in its loss, 0 for a completion that is not in it."""

    def step(self, batch: TrainingBatch) -> StepMetrics:
        """Trains on this rank's share and returns the metrics of the whole batch, the same on every rank."""
        algorithm = algorithm_at(self.config.algorithm, batch.step)
        rows_by_group = [rows_of(group, algorithm) for group in batch.groups]
        slices = self._slices(batch.num_groups_total)
        num_updates = self.config.learner.updates_per_batch * len(slices)
        self._fill_anchors(rows_by_group, batch, num_updates)
        group_sums = self._give_advantages(batch, rows_by_group, algorithm)
        minis = [self._mini_batch(rows_by_group[part]) for part in slices]
        watched = self._gradient_parts(rows_by_group, batch.step)
        totals = Sums((*UPDATE_SUMS, *FIRST_SUMS, "grad_norm"), MAXIMA)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        for update, mini in enumerate(minis * self.config.learner.updates_per_batch):
            self._update(mini, algorithm, totals, batch.step, update)
        self.scheduler.step()
        totals.merge(group_sums)
        return (
            finished_metrics(totals)
            | watched
            | {
                "loss": totals.mean("loss"),
                "grad_norm": totals.mean("grad_norm"),
                "lr": learning_rate,
                "updates": num_updates,
                **(
                    {"supervised_loss": totals.mean("supervised_loss")} if self.supervised is not None else {}
                ),
            }
        )

    def _slices(self, num_groups_total: int) -> list[slice]:
        """This rank's share of every mini-batch; as many on every rank."""
        whole = self.config.learner.mini_batch_groups
        if whole is None or whole >= num_groups_total:
            return [slice(None)]
        share = whole // world_size()
        return [slice(i * share, (i + 1) * share) for i in range(-(-num_groups_total // whole))]

    def _fill_anchors(
        self, rows_by_group: Sequence[Sequence[Row]], batch: TrainingBatch, num_updates: int
    ) -> None:
        watched = watched_groups(batch.step, batch.num_groups_total, self.config.rollout.group_size)
        share = range(rank(), batch.num_groups_total, world_size())  # the coordinator deals groups in turns
        ours = frozenset(i for i, place in enumerate(share) if place in watched)
        compute_reference(self.model, rows_by_group, ours, self.config)
        if needs_proximal(self.config, num_updates):
            compute_old(self.model, [row for rows in rows_by_group for row in rows], self.config)

    def _give_advantages(
        self, batch: TrainingBatch, rows_by_group: Sequence[Sequence[Row]], algorithm: AlgorithmSpec
    ) -> Sums:
        """Sets every row's advantage; returns what the groups look like, over all ranks."""
        max_tokens = self.config.rollout.max_completion_tokens
        advantages = [
            compute_advantages(
                group, algorithm, max_tokens=max_tokens, measured=measured(rows, len(group.rewards_G))
            )
            for group, rows in zip(batch.groups, rows_by_group, strict=True)
        ]
        advantages = scale_batch(batch.groups, advantages, algorithm)
        sums = Sums()
        for group, rows, of_group in zip(batch.groups, rows_by_group, advantages, strict=True):
            add_group_metrics(sums, group, of_group, algorithm)
            if self.config.second_opinion is not None:
                add_second_opinion(sums, group)
            for row in rows:
                row.advantage = float(of_group.advantages_G[row.index])
                row.quality_part = float(of_group.quality_part_G[row.index])
                row.diversity_part = float(of_group.diversity_part_G[row.index])
        self.trained_advantages = tuple(
            _in_loss(rows, len(group.rewards_G))
            for group, rows in zip(batch.groups, rows_by_group, strict=True)
        )
        sums.reduce()
        return sums

    def _gradient_parts(self, rows_by_group: Sequence[Sequence[Row]], step: int) -> StepMetrics:
        """Gradient norms of quality and diversity by layer, every `gradient_parts_every` steps."""
        every = self.config.learner.gradient_parts_every
        if every is None or step % every:
            return {}
        rows = [row for rows in rows_by_group for row in rows if row.trained]
        sums = Sums(("kept_sequences", "kept_tokens"))
        sums.add("kept_sequences", len(rows), 1)
        sums.add("kept_tokens", sum(len(row.completion.token_ids) for row in rows), 1)
        sums.reduce()
        denominator = self._denominator(sums)
        batches = [
            (part, build_row_batch(part, self.device)) for part in micro_batches(rows, self.config.learner)
        ]
        return gradient_parts(
            self.model,
            batches,
            denominator,
            self.config.algorithm.normalisation,
            self.config.rollout.temperature,
        )

    def _mini_batch(self, rows_by_group: Sequence[Sequence[Row]]) -> MiniBatch:
        """Rows without an advantage, or out of the loss, get no backward pass where no other term has one."""
        rows = [row for rows in rows_by_group for row in rows]
        algorithm = self.config.algorithm
        every = (
            algorithm.entropy_coefficient > 0
            or algorithm.covariance == "kl_cov"
            or (algorithm.kl_coefficient > 0 and algorithm.kl_placement == "loss")
        )
        trained = [row for row in rows if row.trained and (every or row.advantage != 0)]
        chosen = {id(row) for row in trained}
        return MiniBatch(
            self._micro_batches(trained), self._micro_batches([row for row in rows if id(row) not in chosen])
        )

    def _micro_batches(self, rows: Sequence[Row]) -> list[RowBatch]:
        return [build_row_batch(part, self.device) for part in micro_batches(rows, self.config.learner)]

    def _update(
        self, mini: MiniBatch, algorithm: AlgorithmSpec, totals: Sums, step: int, update: int
    ) -> None:
        """One optimiser step on one mini-batch, and on the step's demonstrations where there are some."""
        sums = Sums(UPDATE_SUMS)
        first = mini.observed_sums is None
        watched = Sums(FIRST_SUMS, MAXIMA) if first else None
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.learner.gradient_checkpointing:
            checkpoint_layers(self.model)
        added: list[torch.Tensor] = []
        if self.supervised is not None:
            added, cross_entropy = self.supervised.gradients(self.model, self.parameters, step)
            totals.add("supervised_loss", cross_entropy, 1)
        if algorithm.covariance != "none":
            self._choose_tokens(mini, algorithm, (self.config.seed, step, update))
        for micro_batch in in_lockstep(self.model, mini.training):
            self._accumulate(micro_batch, algorithm, sums, watched)
        if mini.observed_sums is None:
            mini.observed_sums = Sums(UPDATE_SUMS)
            with torch.no_grad():
                for micro_batch in in_lockstep(self.model, mini.observed):
                    self._accumulate(micro_batch, algorithm, mini.observed_sums, watched)
        sums.merge(mini.observed_sums)
        sums.reduce()
        denominator = self._denominator(sums)
        sum_gradients(self.parameters, denominator)
        for parameter, gradient in zip(self.parameters, added, strict=bool(added)):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.learner.max_grad_norm)
        self.optimizer.step()
        totals.add("loss", sums.total("loss") / denominator, 1)
        totals.add("grad_norm", float(norm), 1)
        totals.merge(sums, without=("loss",))
        if watched is not None:
            watched.reduce()
            totals.merge(watched)

    def _choose_tokens(self, mini: MiniBatch, algorithm: AlgorithmSpec, seed: tuple[int, ...]) -> None:
        temperature, split = self.config.rollout.temperature, len(mini.training)
        batches = [*mini.training, *mini.observed]
        batches = with_chosen_tokens(self.model, batches, algorithm, temperature, seed)
        mini.training, mini.observed = batches[:split], batches[split:]

    def _accumulate(
        self,
        batch: RowBatch | None,
        algorithm: AlgorithmSpec,
        sums: Sums,
        watched: Sums | None,
    ) -> None:
        """Adds one micro batch to the sums and, outside no_grad, to the gradient of the loss's numerator.

        None: only other ranks have one.
        """
        if batch is None:
            dummy_pass(self.model)
            return
        logprobs_BT, entropy_BT = completion_logprobs(
            self.model,
            batch.rows,
            self.config.rollout.temperature,
            entropy_gradient=algorithm.entropy_coefficient > 0,
        )
        loss = token_loss(batch, logprobs_BT, entropy_BT, algorithm)
        numerator = losses.loss_numerator(loss.loss_BT, loss.mask_BT, algorithm.normalisation)
        if torch.is_grad_enabled():
            numerator.backward()
        in_loss = float(loss.mask_BT.sum())
        sums.add("loss", float(numerator.detach()), 1)
        sums.add("kept_sequences", float(loss.kept_B.sum()), float(batch.trained_B.sum()))
        sums.add("kept_tokens", in_loss, float((batch.rows.mask_BT & batch.trained_B[:, None]).sum()))
        sums.add("clipped", float(loss.clipped_BT.sum()), in_loss)
        if watched is not None:
            _watch(batch, loss.anchor_BT, logprobs_BT.detach(), entropy_BT.detach(), watched)

    def _denominator(self, sums: Sums) -> float:
        """Sums over the tokens that stay in the loss, over all ranks."""
        return losses.loss_denominator(
            self.config.algorithm.normalisation,
            num_sequences=sums.total("kept_sequences"),
            num_tokens=sums.total("kept_tokens"),
            max_tokens=self.config.rollout.max_completion_tokens,
        )


def _in_loss(rows: Sequence[Row], num_samples: int) -> np.ndarray:
    """[G] advantages of the rows of one group that are trained."""
    advantages_G = np.zeros(num_samples)
    for row in rows:
        if row.trained:
            advantages_G[row.index] = row.advantage
    return advantages_G


def _watch(
    batch: RowBatch,
    anchor_BT: torch.Tensor,
    policy_BT: torch.Tensor,
    entropy_BT: torch.Tensor,
    sums: Sums,
) -> None:
    """Entropy, the mismatch between learner and engine, and the KL to the warm start by k3, over all tokens."""
    mask_BT = batch.rows.mask_BT
    sums.add("entropy", float(entropy_BT.sum()), float(mask_BT.sum()))
    measured = importance.mismatch_sums(anchor_BT, batch.rollout_logprobs_BT, mask_BT)
    for name, total in measured.totals.items():
        sums.add(name, total, measured.num_tokens)
    sums.maximum("logprob_difference", measured.largest_difference)
    known_BT = mask_BT & batch.referenced_B[:, None]
    values = kl.k3(policy_BT, batch.reference_logprobs_BT)[known_BT]
    sums.add("kl_reference", float(values.double().sum()), len(values))
