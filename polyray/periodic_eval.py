"""Evaluation while training: fixed prompts, their results, the best version and when to stop.

    requests() --> worker --> ScoredGroup --summarise (there)--> add(version, index, summary) --> result(version)

Rounds are those of `evaluation`, or of `dynamics` where there is none. The same prompts and seeds for every version,
so values differ by the policy alone: a seed is a hash of (run seed, prompt index, sample index), never of version or
worker. A group that could not be scored, or that no worker could sample with its version any more, is counted and
left out, never taken for a zero.

Only the sampling differs: engines sample in RL (orchestrator/periodic_eval.py; learner/periodic_eval.py takes the
results), the learner itself in SFT (learner/supervised_eval.py). `EarlyStopping` decides for both, and for readers of
a run directory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polyray.config.periodic_eval import EvalPlan, TrainingEvaluationSpec
from polyray.config.run import TrainConfig
from polyray.metrics import mean_pairwise_cosine_distance
from polyray.metrics.pass_at_k import best_curve, distinct_correct_curve, pass_at_k
from polyray.metrics.text_spread import text_spread
from polyray.seeds import sample_seed
from polyray.tasks.base import Task
from polyray.tasks.prompts import validation_prompts
from polyray.types import WRONG_CLASS, GroupRequest, PolicyVersion, Prompt, ScoredGroup

UNVALIDATED = "unvalidated"
"""Snapshot key for versions without a validation result; the learner adds them."""


@dataclass(frozen=True, slots=True)
class ValidationSummary:
    """Metrics of one group, computed by its worker; texts and tokens stay there.

    Example:
        ValidationSummary(policy=PolicyVersion(1, 20, "9f86..."), num_samples=8, num_scored=8, num_tokens=53,
                          values={"pass_at_1": 0.25, "pass_at_8": 1.0, "reward_mean": 0.25})
    """

    policy: PolicyVersion
    num_samples: int
    num_scored: int
    num_tokens: int
    values: Mapping[str, float]
    """Metrics with an unbiased estimate from `num_scored` samples."""


class Validation:
    """The fixed prompts of a run and the groups that have come in; owned by one thread.

    Raises DataError where the task does not have the prompts that `plan` asks for.
    """

    def __init__(self, config: TrainConfig, plan: EvalPlan, task: Task) -> None:
        self._requests = _requests(config, plan, validation_prompts(plan, task, config.seed))
        self._under_way: dict[int, dict[int, ValidationSummary | None]] = {}
        self._results: dict[int, Mapping[str, float]] = {}

    def requests(self) -> list[GroupRequest]:
        """Prompt `index` as group id -1 - index, so that no training group has the same."""
        return self._requests

    def add(self, version: int, index: int, summary: ValidationSummary | None) -> None:
        """Record the summary of prompt `index`, at any time and in any order; the first one counts.

        None: the group is lost for this version (unscored, or its workers have gone on to another one). A summary
        of another version than `version` counts as lost too.
        """
        if version in self._results:
            return
        groups = self._under_way.setdefault(version, {})
        right = summary is not None and summary.policy.version == version
        groups.setdefault(index, summary if right else None)
        if len(groups) == len(self._requests):
            del self._under_way[version]
            ordered = [groups[position] for position in range(len(self._requests))]
            self._results[version] = mean_over_prompts(ordered)

    def result(self, version: int) -> Mapping[str, float] | None:
        """The version's values, means over prompts, once every group is in."""
        return self._results.get(version)

    def restart(self) -> None:
        """Begin a new attempt; results of the old one are void."""
        self._under_way.clear()
        self._results.clear()


def summarise(group: ScoredGroup, plan: EvalPlan) -> ValidationSummary:
    """The values of one group, as metrics.jsonl defines them for training groups: rewards and classes over its scored
    completions, words and likelihoods over all."""
    from polyray.metrics.groups import PASS_THRESHOLD, mean_pairwise_distance

    scored_G = group.scored_mask_G
    rewards, classes = group.rewards_G[scored_G], group.classes_G[scored_G]
    correct = rewards >= PASS_THRESHOLD
    ks = [k for k in plan.ks if k <= len(rewards)]
    values: dict[str, float] = {}
    if ks:
        num_correct = int(correct.sum())
        values |= {f"pass_at_{k}": pass_at_k(len(rewards), num_correct, k) for k in ks}
        distinct = distinct_correct_curve(classes, correct, ks)
        best = best_curve(rewards, ks)
        values |= {f"distinct_correct_at_{k}": value for k, value in zip(ks, distinct, strict=True)}
        values |= {f"best_at_{k}": value for k, value in zip(ks, best, strict=True)}
        values["reward_mean"] = float(rewards.mean())
    if len(rewards) > 1:
        values["diversity"] = mean_pairwise_distance(group, scored_G)
        values["distinct_classes"] = float(len({int(found) for found in classes if found != WRONG_CLASS}))
    completions = group.group.completions
    values["completion_length_mean"] = group.group.num_tokens / len(completions)
    texts = [completion.text for completion in completions]
    values |= text_spread(texts) | _semantic_diversity(group, texts, plan)
    surprise = [-float(completion.rollout_logprobs.sum(dtype=np.float64)) for completion in completions]
    values["sequence_entropy"] = math.fsum(surprise) / len(surprise)
    values["token_entropy"] = math.fsum(surprise) / group.group.num_tokens
    values["truncated_share"] = float(np.mean([item.finish_reason == "length" for item in completions]))
    return ValidationSummary(
        group.group.policy, len(completions), int(scored_G.sum()), group.group.num_tokens, values
    )


def _semantic_diversity(group: ScoredGroup, texts: list[str], plan: EvalPlan) -> dict[str, float]:
    """Mean 1 - cosine of sentence embeddings over pairs, if it is measured."""
    if plan.semantic_distances and group.distances_GG is not None:
        from polyray.metrics.groups import mean_pairwise_distance

        scored_G = group.scored_mask_G
        return {"semantic_diversity": mean_pairwise_distance(group, scored_G)} if scored_G.sum() > 1 else {}
    if plan.encoder is None or len(texts) < 2:
        return {}
    from polyray.models.text_encoder import embed_texts

    embeddings = embed_texts(plan.encoder, texts)
    kept = embeddings[np.linalg.norm(embeddings, axis=1) > 0]
    return {"semantic_diversity": mean_pairwise_cosine_distance(kept)} if len(kept) > 1 else {}


def mean_over_prompts(groups: list[ValidationSummary | None]) -> dict[str, float]:
    """Each value's mean over the prompts that have it (sums are exact, so order does not matter), and what is
    missing: completions without a score, and groups without any.
    """
    known = [group for group in groups if group is not None]
    names = sorted({name for group in known for name in group.values})
    metrics = {name: _mean([group.values[name] for group in known if name in group.values]) for name in names}
    return metrics | {
        "num_prompts": float(len(groups)),
        "unscored": float(sum(group.num_samples - group.num_scored for group in known)),
        "unscored_groups": float(sum(group is None or group.num_scored == 0 for group in groups)),
        "tokens_generated": float(sum(group.num_tokens for group in known)),
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _requests(config: TrainConfig, plan: EvalPlan, prompts: list[Prompt]) -> list[GroupRequest]:
    rollout = config.rollout
    return [
        GroupRequest(
            group_id=-1 - index,
            prompt=prompt,
            seeds=tuple(sample_seed(config.seed, f"validation-{index}", i) for i in range(plan.num_samples)),
            max_completion_tokens=rollout.max_completion_tokens,
            temperature=rollout.temperature,
            share=rollout.share,
        )
        for index, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True, slots=True)
class BestVersion:
    """Version with the best value so far, e.g. BestVersion(version=20, value=0.31)."""

    version: int
    value: float


class EarlyStopping:
    """The best version so far, and whether patience has run out, from the results alone.

    A version is its number of steps. A result without a value (nothing was scored) neither improves nor uses up
    patience.
    """

    def __init__(
        self,
        mode: Literal["max", "min"],
        min_delta: float,
        patience: int | None,
        history: Iterable[tuple[int, float | None]] = (),
    ) -> None:
        """`history`: (version, value) of earlier results, in the order in which they came."""
        self._sign = 1 if mode == "max" else -1
        self._min_delta = min_delta
        self._patience = patience
        self.best: BestVersion | None = None
        self.failures = 0
        """Results in a row that were no improvement."""
        self.history: list[tuple[int, float | None]] = []
        for version, value in history:
            self.observe(version, value)

    @classmethod
    def of(
        cls, spec: TrainingEvaluationSpec | None, history: Iterable[tuple[int, float | None]] = ()
    ) -> EarlyStopping:
        """For an RL run; without `evaluation` no result has a value."""
        if spec is None:
            return cls("max", 0.0, None, history)
        return cls(spec.best_mode, spec.min_delta, spec.patience, history)

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return self._patience is not None and self.failures >= self._patience

    @property
    def best_version(self) -> int:
        """Version of the best result; 0 before the first one."""
        return 0 if self.best is None else self.best.version

    def observe(self, version: int, value: float | None) -> bool:
        """Record a result. Returns whether its version is the best so far, by more than min_delta."""
        self.history.append((version, value))
        if value is None:
            return False
        if self.best is not None and not self._improves(value, self.best.value):
            self.failures += 1
            return False
        self.best, self.failures = BestVersion(version, value), 0
        return True

    def _improves(self, value: float, best: float) -> bool:
        """A diverged model improves on nothing, and everything else on it."""
        if not (math.isfinite(value) and math.isfinite(best)):
            return math.isfinite(value)
        return self._sign * (value - best) > self._min_delta

    def why_over(self, metric: str) -> str:
        """Explanation of an early stop, for people."""
        assert self.best is not None
        return (
            f"early stopping: {self.failures} validations in a row without an improvement of {metric} by more than "
            f"{self._min_delta:g}; the best is {self.best.value:g} at version {self.best.version}, its adapter is in "
            "best/"
        )
