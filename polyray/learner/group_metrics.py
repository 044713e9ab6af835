"""Metrics of a batch of scored groups: rewards, pass@k, diversity, advantages, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from polyray.algorithms import effective_sample_size
from polyray.config.algorithm import AlgorithmSpec
from polyray.learner.advantages import GroupAdvantages
from polyray.learner.reduce import Sums
from polyray.metrics import distinct_correct_at_k, pass_at_k
from polyray.metrics.groups import PASS_THRESHOLD, mean_pairwise_distance
from polyray.types import SECOND_OPINION, ScoredGroup, StepMetrics

LARGEST_K = 8
"""pass@k and distinct classes are logged at this k, or at the group size where that is smaller."""
MEAN_SECOND_OPINION = f"reward/{SECOND_OPINION}"
BASELINE_STEPS = 5
"""The gap of the second opinion is measured from the means of the first so many steps."""
_MEANS_AND_SPREADS = (("reward_mean", "reward_std"), (MEAN_SECOND_OPINION, "second_opinion_std"))


def add_group_metrics(
    sums: Sums, group: ScoredGroup, advantages: GroupAdvantages, algorithm: AlgorithmSpec
) -> None:
    """Adds one group; everything is over its scored completions."""
    scored_G = group.scored_mask_G
    rewards, classes = group.rewards_G[scored_G], group.classes_G[scored_G]
    correct = rewards >= PASS_THRESHOLD
    k = min(LARGEST_K, len(rewards))
    sums.add("reward", float(rewards.sum()), len(rewards))
    sums.add("reward_squared", float((rewards**2).sum()), len(rewards))
    sums.add("pass_at_1", float(correct.sum()), len(correct))
    sums.add("pass_at_8", float(pass_at_k(len(correct), int(correct.sum()), k)), 1)
    sums.add("distinct_classes", distinct_correct_at_k(classes, correct, k), 1)
    sums.add("diversity", mean_pairwise_distance(group, scored_G), 1)
    _add_advantages(sums, advantages, scored_G, correct)
    for name, values in group.components.items():
        if name == SECOND_OPINION:
            continue  # add_second_opinion
        part = np.asarray(values, float)[scored_G]
        part = part[np.isfinite(part)]  # an item may lack a component
        sums.add(f"reward/{name}", float(part.sum()), len(part))
    lengths = [len(completion.token_ids) for completion in group.group.completions]
    sums.add("length", float(sum(lengths)), len(lengths))
    sums.maximum("length", float(max(lengths)))
    truncated = sum(completion.finish_reason == "length" for completion in group.group.completions)
    sums.add("truncated", float(truncated), len(lengths))
    sums.add("unscored", float((~scored_G).sum()), len(scored_G))


def _add_advantages(
    sums: Sums, advantages: GroupAdvantages, scored_G: np.ndarray, correct: np.ndarray
) -> None:
    total = advantages.advantages_G[scored_G]
    sums.add("quality_power", float((advantages.quality_part_G[scored_G] ** 2).sum()), 1)
    sums.add("diversity_power", float((advantages.diversity_part_G[scored_G] ** 2).sum()), 1)
    sums.add("advantage_correct", float(total[correct].sum()), int(correct.sum()))
    sums.add("zero_advantage", float(not total.any()), 1)


def finished_metrics(sums: Sums) -> StepMetrics:
    """The sums as the keys of metrics.jsonl; the shares of advantage variance are of their two parts' sum."""
    mean = sums.mean("reward")
    power = sums.total("quality_power") + sums.total("diversity_power")
    metrics: StepMetrics = {
        "reward_mean": mean,
        "reward_std": float(np.sqrt(max(0.0, sums.mean("reward_squared") - mean**2))),
        "pass_at_1": sums.mean("pass_at_1"),
        "pass_at_8": sums.mean("pass_at_8"),
        "diversity": sums.mean("diversity"),
        "distinct_classes": sums.mean("distinct_classes"),
        "advantage_share_quality": sums.total("quality_power") / power if power else 0.0,
        "advantage_share_diversity": sums.total("diversity_power") / power if power else 0.0,
        "mean_advantage_correct": sums.mean("advantage_correct"),
        "zero_advantage_share": sums.mean("zero_advantage"),
        "entropy": sums.mean("entropy"),
        "clip_share": sums.mean("clipped"),
        "masked_sequence_share": 1 - sums.mean("kept_sequences"),
        "masked_token_share": 1 - sums.mean("kept_tokens"),
        "kl_reference": sums.mean("kl_reference") if sums.count("kl_reference") else None,
        "kl_rollout": sums.mean("kl_rollout"),
        "ess": effective_sample_size(sums.mean("weights"), sums.mean("weights_squared")),
        "logprob_difference_mean": sums.mean("logprob_difference"),
        "logprob_difference_max": sums.largest("logprob_difference"),
        "completion_length_mean": sums.mean("length"),
        "completion_length_max": sums.largest("length"),
        "truncated_share": sums.mean("truncated"),
        "unscored": sums.total("unscored"),
        "tokens_generated": sums.total("length"),
    }
    parts = {
        name: sums.mean(name) if sums.count(name) else None
        for name in sums.names()
        if name.startswith("reward/")
    }
    return metrics | parts | second_opinion_metrics(sums)


def add_second_opinion(sums: Sums, group: ScoredGroup) -> None:
    """Adds one group: over its completions that have both scores; deviations are from the group's own means.

    Always adds the same names, also where the second opinion is missing: ranks reduce them together.
    """
    scored_G = group.scored_mask_G
    nothing = (np.nan,) * len(scored_G)
    second_G = np.asarray(group.components.get(SECOND_OPINION, nothing), np.float64)
    both_G = scored_G & np.isfinite(second_G)
    first, second = group.rewards_G[both_G], second_G[both_G]
    sums.add(MEAN_SECOND_OPINION, float(second.sum()), len(second))
    sums.add("second_squared", float((second**2).sum()), len(second))
    sums.add("second_missing", float(scored_G.sum() - both_G.sum()), float(scored_G.sum()))
    first, second = (values - values.mean() if len(values) else values for values in (first, second))
    sums.add("second_covariance", float(first @ second), 1)
    sums.add("second_variance", float(second @ second), 1)
    sums.add("first_variance", float(first @ first), 1)


def second_opinion_metrics(sums: Sums) -> StepMetrics:
    """Keys of metrics.jsonl; none where no second opinion was added.

    The correlation is Pearson's of the deviations from each group's mean, pooled over groups; null where one of
    the two does not vary. Means and spreads are null where no completion had a second opinion.
    """
    if not sums.names() or "second_missing" not in sums.names():
        return {}
    known = sums.count(MEAN_SECOND_OPINION) > 0
    mean = sums.mean(MEAN_SECOND_OPINION)
    scale = float(np.sqrt(sums.total("first_variance") * sums.total("second_variance")))
    return {
        MEAN_SECOND_OPINION: mean if known else None,
        "second_opinion_std": float(np.sqrt(max(0.0, sums.mean("second_squared") - mean**2)))
        if known
        else None,
        "second_opinion_missing": sums.mean("second_missing"),
        "second_opinion_correlation": sums.total("second_covariance") / scale if scale > 0 else None,
    }


class SecondOpinionGap:
    """How far the reward has moved ahead of the second opinion since the first steps.

    In standard deviations of completions in the first BASELINE_STEPS steps: 0 while both means move alike, positive
    when only the reward rises. The only state is lines of metrics.jsonl, so it survives a resume.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._first: list[Mapping[str, Any]] = []
        for line in lines:
            self._remember(line)

    def observe(self, line: StepMetrics) -> StepMetrics:
        """Value that a step adds to its own line; none in a run without a second opinion."""
        if MEAN_SECOND_OPINION not in line:
            return {}
        self._remember(line)
        return {"second_opinion_gap": self._gap(line)}

    def _remember(self, line: Mapping[str, Any]) -> None:
        if MEAN_SECOND_OPINION in line and len(self._first) < BASELINE_STEPS:
            self._first.append(line)

    def _gap(self, line: Mapping[str, Any]) -> float | None:
        first = [item for item in self._first if _has_both(item)]
        if not first or not _has_both(line):
            return None
        moved = []
        for mean, spread in _MEANS_AND_SPREADS:
            unit = float(np.mean([item[spread] for item in first]))
            if unit <= 0:
                return None
            moved.append((line[mean] - float(np.mean([item[mean] for item in first]))) / unit)
        return moved[0] - moved[1]


def _has_both(line: Mapping[str, Any]) -> bool:
    return all(isinstance(line.get(key), int | float) for keys in _MEANS_AND_SPREADS for key in keys)
