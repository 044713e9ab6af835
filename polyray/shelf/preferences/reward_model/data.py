"""From records or preference pairs to arrays for training and early stopping of a reward model. No torch.

    records --half, part--> items (one completion each) --> pairs with weights, regression targets with weights

Test records are never among them. Rows that are left out are counted. Called by polyray train_reward and the training
loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from polyray.config.reward_model import ConfounderSpec, RewardDataSpec, TrainRewardConfig
from polyray.data.splits import seeded_rank
from polyray.errors import DataError
from polyray.metrics.preference import (
    certainty_weights,
    gap_weights,
    log_counts,
    log_odds_variance,
    normal_scores,
)
from polyray.shelf.preferences.engagement import EngagementRecord
from polyray.shelf.preferences.engagement.priors import estimated_prior
from polyray.shelf.preferences.reward_model.parts import is_used, read_parts

MAX_PAIRS_PER_PROMPT = 64
"""A post with 40 replies has 780 pairs: more are drawn by a seeded hash."""
MAX_AGE_RATIO, MAX_POSITION_GAP = 2.0, 1
"""Of `confounders.mode=remove`: between (1 h + age) of two completions, and between their positions."""
CONFOUNDERS = ("log_age", "log_age_squared", "log_position", "is_first")


@dataclass(frozen=True, slots=True)
class Rows:
    """Pairs and single completions of one part.

    Example:
        Rows(pairs_P2=np.array([[3, 5]]), pair_weight_P=np.array([0.7]), items_N=np.array([3, 5]),
             target_N=np.array([0.2, -0.2]), target_weight_N=np.array([1.0, 1.0]))
    """

    pairs_P2: np.ndarray
    """[P, 2] items, the better one first."""
    pair_weight_P: np.ndarray
    items_N: np.ndarray
    """[N] items that regression learns from."""
    target_N: np.ndarray
    target_weight_N: np.ndarray
    """Weights of the targets, with mean 1."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Data of a training.

    Example:
        load_training_data(config).train.pairs_P2.shape == (5120, 2)
    """

    texts: tuple[str, ...]
    """Different ones, sorted."""
    prompt_I: np.ndarray
    """[I] the text that is the prompt of item i."""
    completion_I: np.ndarray
    confounders_IK: np.ndarray
    """[I, K] float32, standardised over the training items; 0 is their mean, and the value for unknown ones."""
    train: Rows
    validation: Rows
    clusters: tuple[str, ...]
    """Clusters of training and validation, which an independent model must not have seen."""
    counts: Mapping[str, int]
    origins: tuple[str, ...]
    licences: tuple[str, ...]
    sha256: str
    """sha256 of the file, or of the records of a source."""

    @property
    def rows_sha256(self) -> str:
        """sha256 of all arrays of the loop: a run only resumes on the same rows."""
        digest = hashlib.sha256(json.dumps(self.texts).encode())
        for rows in (self.train, self.validation):
            for array in (
                rows.pairs_P2,
                rows.pair_weight_P,
                rows.items_N,
                rows.target_N,
                rows.target_weight_N,
            ):
                digest.update(np.ascontiguousarray(array).tobytes())
        for array in (self.prompt_I, self.completion_I, self.confounders_IK):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_training_data(config: TrainRewardConfig) -> TrainingData:
    """Reads, divides, pairs and weighs. Raises DataError naming what is missing and the key to change."""
    records, explicit, num_blank, sha256 = read_parts(config.data)
    if explicit and config.objective.type != "pairwise":
        raise DataError(
            f"{config.data.path}: preference pairs have no engagement for objective.type={config.objective.type} to "
            "predict; set it to pairwise"
        )
    chosen = [record for record in records if is_used(record, config.data)]
    pairs_by_part = {
        part: _pairs(chosen, explicit, part, config.data, config.confounders)
        for part in ("train", "validation")
    }
    _check(config, chosen, pairs_by_part)
    texts = tuple(sorted({text for record in chosen for text in (record.prompt, record.completion)}))
    index = {text: at for at, text in enumerate(texts)}
    weights, scale = _weighing(config, chosen, pairs_by_part["train"][0])
    rows = {
        part: _rows(config, chosen, part, found, weights, scale) for part, (found, _) in pairs_by_part.items()
    }
    clusters = {part: {r.cluster_id for r in chosen if r.part == part} for part in ("train", "validation")}
    counts = {
        "records": len(records),
        "blank_pairs": num_blank,
        "used_records": len(chosen),
        **{f"{part}_pairs": len(rows[part].pairs_P2) for part in rows},
        **{f"{part}_records": int(sum(r.part == part for r in chosen)) for part in rows},
        **{f"{part}_clusters": len(names) for part, names in clusters.items()},
        "pairs_above_max_per_prompt": sum(dropped[0] for _, dropped in pairs_by_part.values()),
        "pairs_of_unequal_age_or_position": sum(dropped[1] for _, dropped in pairs_by_part.values()),
    }
    return TrainingData(
        texts=texts,
        prompt_I=np.array([index[r.prompt] for r in chosen]),
        completion_I=np.array([index[r.completion] for r in chosen]),
        confounders_IK=_confounders(chosen),
        train=rows["train"],
        validation=rows["validation"],
        clusters=tuple(sorted(clusters["train"] | clusters["validation"])),
        counts=counts,
        origins=tuple(sorted({r.origin for r in chosen if r.origin})),
        licences=tuple(sorted({r.licence for r in chosen if r.licence})),
        sha256=sha256,
    )


def num_steps_of(config: TrainRewardConfig, data: TrainingData) -> int:
    """learner.steps, or as many as `epochs` takes."""
    if config.epochs is None:
        return config.learner.steps
    rows = data.train.pairs_P2 if config.objective.type != "regression" else data.train.items_N
    return max(1, -(-int(config.epochs * len(rows)) // config.rows_per_step))


def _pairs(
    chosen: Sequence[EngagementRecord],
    explicit: bool,
    part: str,
    spec: RewardDataSpec,
    confounders: ConfounderSpec,
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """((better, worse) items, (how many were above the limit per prompt, how many of unequal age))."""
    by_prompt: dict[str, list[int]] = {}
    for at, record in enumerate(chosen):
        if record.part == part:
            by_prompt.setdefault(record.prompt_id, []).append(at)
    found: list[tuple[int, int]] = []
    above = unequal = 0
    for members in by_prompt.values():
        pairs = [
            (a, b) if chosen[a].engagement > chosen[b].engagement else (b, a)
            for a, b in combinations(members, 2)
            if _is_comparable(chosen[a], chosen[b], spec.min_gap, explicit)
        ]
        if confounders.mode == "remove":
            equal = [pair for pair in pairs if _is_alike(chosen[pair[0]], chosen[pair[1]])]
            unequal += len(pairs) - len(equal)
            pairs = equal
        pairs.sort(
            key=lambda pair: seeded_rank(0, f"{chosen[pair[0]].record_id}\0{chosen[pair[1]].record_id}")
        )
        above += max(0, len(pairs) - MAX_PAIRS_PER_PROMPT)
        found += sorted(pairs[:MAX_PAIRS_PER_PROMPT])
    return found, (above, unequal)


def _is_comparable(a: EngagementRecord, b: EngagementRecord, min_gap: float, explicit: bool) -> bool:
    """Records of explicit pairs are compared with their own other side alone."""
    if explicit and a.record_id.partition("/")[0] != b.record_id.partition("/")[0]:
        return False
    gap = abs(a.engagement - b.engagement)
    return gap > 0 and gap >= min_gap and a.completion != b.completion


def _is_alike(a: EngagementRecord, b: EngagementRecord) -> bool:
    """Whether ages are near-equal and positions adjacent; a value that both lack is not compared."""
    if (a.age_s is None) != (b.age_s is None) or (a.position is None) != (b.position is None):
        return False
    if a.age_s is not None and b.age_s is not None:
        ratio = (a.age_s + 3600) / (b.age_s + 3600)
        if max(ratio, 1 / ratio) > MAX_AGE_RATIO:
            return False
    return a.position is None or b.position is None or abs(a.position - b.position) <= MAX_POSITION_GAP


def _confounders(chosen: Sequence[EngagementRecord]) -> np.ndarray:
    """[I, K]: log(1 + age in hours), its square, log(1 + position), whether it came first; standardised."""
    table = np.full((len(chosen), len(CONFOUNDERS)), np.nan)
    for at, record in enumerate(chosen):
        if record.age_s is not None:
            table[at, 0] = np.log1p(record.age_s / 3600)
        if record.position is not None:
            table[at, 2:] = np.log1p(record.position), record.position == 0
    is_train = np.array([record.part == "train" for record in chosen])
    for column in (0, 2, 3):
        table[:, column] = _standardised(table[:, column], is_train)
    table[:, 1] = _standardised(table[:, 0] ** 2, is_train)
    return np.nan_to_num(table, nan=0.0).astype(np.float32)


def _standardised(values: np.ndarray, is_train: np.ndarray) -> np.ndarray:
    known = values[is_train & np.isfinite(values)]
    if known.size == 0 or known.std() < 1e-9:
        return np.full_like(values, np.nan)
    return (values - known.mean()) / known.std()


def _weighing(
    config: TrainRewardConfig, chosen: Sequence[EngagementRecord], train_pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray | None, float]:
    """(posterior variance of each item's log-odds, or None without impressions; the median gap)."""
    gaps = [abs(chosen[a].engagement - chosen[b].engagement) for a, b in train_pairs]
    scale = float(np.median(gaps)) if gaps else 1.0
    shown = [record for record in chosen if record.impressions is not None and record.clicks is not None]
    wanted = config.objective.pair_weight == "certainty"
    if len(shown) < len(chosen):
        if wanted:
            raise DataError(
                f"objective.pair_weight=certainty needs impressions and clicks, which {len(chosen) - len(shown)} of "
                f"{len(chosen)} records lack; set it to gap"
            )
        return None, scale
    clicks = [record.clicks or 0 for record in chosen]
    impressions = [record.impressions or 0 for record in chosen]
    prior = estimated_prior(clicks, impressions)
    variance = log_odds_variance(np.array(clicks), np.array(impressions), prior.rate, prior.impressions)
    return variance, scale


def _rows(
    config: TrainRewardConfig,
    chosen: Sequence[EngagementRecord],
    part: str,
    pairs: Sequence[tuple[int, int]],
    variance_I: np.ndarray | None,
    scale: float,
) -> Rows:
    pairs_P2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    engagement_I = np.array([record.engagement for record in chosen])
    gap_P = engagement_I[pairs_P2[:, 0]] - engagement_I[pairs_P2[:, 1]]
    how = config.objective.pair_weight
    if how == "none":
        weight_P = np.ones(len(pairs_P2))
    elif how == "gap" or variance_I is None:
        weight_P = gap_weights(gap_P, scale)
    else:
        weight_P = certainty_weights(gap_P, variance_I[pairs_P2].sum(axis=1))
    items_N = np.array([at for at, record in enumerate(chosen) if record.part == part], dtype=np.int64)
    weight_N = np.ones(len(items_N)) if variance_I is None else 1 / variance_I[items_N]
    target_N = _targets(config, engagement_I[items_N], variance_I is not None)
    groups = [chosen[at].prompt_id for at in items_N]
    target_N, keep_N = _centred(target_N, weight_N, groups)
    weight_N = (
        weight_N[keep_N] / max(1e-12, float(weight_N[keep_N].mean())) if keep_N.any() else weight_N[keep_N]
    )
    return Rows(pairs_P2, weight_P, items_N[keep_N], target_N[keep_N], weight_N)


def _targets(config: TrainRewardConfig, engagement_N: np.ndarray, has_impressions: bool) -> np.ndarray:
    how = config.objective.target
    if how == "engagement" or (how == "auto" and has_impressions):
        return engagement_N
    return normal_scores(engagement_N) if how == "rank" else log_counts(engagement_N)


def _centred(
    target_N: np.ndarray, weight_N: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(targets less the weighted mean of their group, which have one); alone in a prompt says nothing."""
    if len(target_N) == 0:
        return target_N, np.zeros(0, dtype=bool)
    names, group_N = np.unique(groups, return_inverse=True)
    total = np.bincount(group_N, weight_N, len(names))
    mean = np.bincount(group_N, weight_N * target_N, len(names)) / total
    is_kept = np.bincount(group_N, minlength=len(names)) > 1
    return target_N - mean[group_N], is_kept[group_N]


def _check(
    config: TrainRewardConfig,
    chosen: Sequence[EngagementRecord],
    pairs: Mapping[str, tuple[list[tuple[int, int]], tuple[int, int]]],
) -> None:
    where = config.data.path or "data.source"
    for part, (found, dropped) in pairs.items():
        if not found:
            num = sum(record.part == part for record in chosen)
            raise DataError(
                f"{where}: no pairs to compare in the {part} part (half={config.data.half}, {num} records, "
                f"{sum(dropped)} pairs left out); add data, lower data.min_gap={config.data.min_gap}, or loosen "
                f"confounders.mode={config.confounders.mode}"
            )
