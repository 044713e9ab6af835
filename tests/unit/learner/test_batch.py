"""From scored groups to advantages and padded rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from polyray.config.algorithm import AlgorithmSpec, GrpoSpec, PolychromicSpec
from polyray.config.learner import LearnerSpec
from polyray.learner.advantages import compute_advantages
from polyray.learner.batch import Row, build_row_batch, micro_batches, rows_of
from tests.unit.tiny_policy import random_group

NAN = float("nan")
CLUSTER = PolychromicSpec(objective="cluster", quality_weight=0, diversity_weight=1, set_size=2)
PAIRWISE = PolychromicSpec(objective="pairwise", diversity_weight=0.5, set_size=2)


@pytest.mark.parametrize(
    ("spec", "rewards", "quality", "diversity"),
    [
        (GrpoSpec(), [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]),
        (GrpoSpec(scale="group"), [1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]),
        # f(pair) = distinct correct classes / 2: 1/2 for the pair (0, 1), 1 for (0, 2) and (1, 2). U = 5/6; without
        # 0: 1, without 1: 1, without 2: 1/2. Advantage = 3 (U - U without i).
        (CLUSTER, [1, 1, 1], [0, 0, 0], [-0.5, -0.5, 1.0]),
        # Quality: leave one out. Diversity: distance to the others minus that among the others, times 2 lambda.
        (PAIRWISE, [1, 0, 0], [1, -0.5, -0.5], [0.5, 0.5, -1]),
    ],
)
def test_advantages_have_a_part_of_quality_and_one_of_diversity(
    spec: AlgorithmSpec, rewards: list[float], quality: list[float], diversity: list[float]
) -> None:
    group = random_group(0, rewards, classes=[7, 7, 8, -1][: len(rewards)])
    distances = np.zeros((len(rewards), len(rewards)))
    distances[0, 1] = distances[1, 0] = 1
    advantages = compute_advantages(replace(group, distances_GG=distances), spec)
    atol = 1e-5 if spec.scale == "group" else 1e-12
    np.testing.assert_allclose(advantages.quality_part_G, quality, atol=atol)
    np.testing.assert_allclose(advantages.diversity_part_G, diversity, atol=1e-12)
    np.testing.assert_allclose(advantages.advantages_G, np.add(quality, diversity), atol=atol)


@pytest.mark.parametrize("spec", [GrpoSpec(), GrpoSpec(scale="group"), CLUSTER, PAIRWISE])
def test_unscored_completions_leave_the_set(spec: AlgorithmSpec) -> None:
    distances = np.array(
        [[0, 0.9, 0.2, 0.4], [0.9, 0, 0.7, 0.1], [0.2, 0.7, 0, 0.6], [0.4, 0.1, 0.6, 0]], np.float64
    )
    kept = [0, 2, 3]
    rewards, classes = [1.0, NAN, 0.0, 1.0], [7, 9, -1, 8]
    whole = replace(random_group(0, rewards, classes=classes), distances_GG=distances)
    smaller = replace(
        random_group(0, [rewards[i] for i in kept], classes=[classes[i] for i in kept]),
        distances_GG=distances[np.ix_(kept, kept)],
    )
    actual, expected = compute_advantages(whole, spec), compute_advantages(smaller, spec)
    for name in ("advantages_G", "quality_part_G", "diversity_part_G"):
        np.testing.assert_allclose(getattr(actual, name)[kept], getattr(expected, name), atol=1e-12)
        assert getattr(actual, name)[1] == 0
    assert np.abs(actual.advantages_G).max() > 0.1


@pytest.mark.parametrize(
    ("truncated", "kept", "trained"),
    [("keep", [0, 3], [True, True]), ("mask", [0, 3], [False, False]), ("drop", [], [])],
)
def test_rows_are_the_non_empty_scored_completions(
    truncated: Literal["keep", "mask", "drop"], kept: list[int], trained: list[bool]
) -> None:
    group = random_group(3, [1.0, NAN, 0.0, 0.5], lengths=[2, 3, 0, 4])  # 0 and 3 are truncated
    rows = rows_of(group, GrpoSpec(truncated=truncated))
    assert [row.completion.seed for row in rows] == [row.index for row in rows] == kept
    assert [row.trained for row in rows] == trained
    assert all(row.prompt_token_ids is group.group.prompt_token_ids for row in rows)


def test_rows_are_padded_on_the_right_in_their_order() -> None:
    first, second = random_group(0, [1.0], lengths=[2]).group, random_group(3, [0.0], lengths=[5]).group
    reference = torch.full((5,), -2.0)
    rows = [
        Row(second.prompt_token_ids, second.completions[0], second.group_id, 0, True, -0.5, reference),
        Row(first.prompt_token_ids, first.completions[0], first.group_id, 0, False, 0.25, None),
    ]
    batch = build_row_batch(rows, torch.device("cpu"))
    for i, row in enumerate(rows):
        tokens = [*row.prompt_token_ids.tolist(), *row.completion.token_ids.tolist()]
        assert batch.rows.input_ids_BL[i].tolist() == tokens + [0] * (6 + 5 - len(tokens))
        logprobs = row.completion.rollout_logprobs.tolist()
        assert batch.rollout_logprobs_BT[i].tolist() == logprobs + [0.0] * (5 - len(logprobs))
    assert batch.sample_ids == ((3, 0), (0, 0))
    assert batch.rows.prompt_lengths_B.tolist() == [6, 3]
    assert batch.rows.completion_lengths_B.tolist() == [5, 2]
    assert batch.advantages_B.tolist() == [-0.5, 0.25]
    assert batch.trained_B.tolist() == batch.referenced_B.tolist() == [True, False]
    assert batch.reference_logprobs_BT.tolist() == [[-2.0] * 5, [0.0] * 5]
    assert batch.proximal_logprobs_BT is None


def test_micro_batches_are_cut_by_rows_or_by_tokens_with_a_shared_prompt_counted_once() -> None:
    groups = random_group(0, [1.0] * 3, lengths=[2, 3, 4]), random_group(1, [1.0] * 2, lengths=[30, 1])
    rows = [row for group in groups for row in rows_of(group, GrpoSpec())]
    assert [len(row.prompt_token_ids) for row in rows] == [3, 3, 3, 4, 4]
    group_B = build_row_batch(rows, torch.device("cpu")).rows.group_B
    assert group_B is not None and group_B.tolist() == [0, 0, 0, 1, 1]

    def sizes(**spec: int) -> list[int]:
        parts = micro_batches(rows, LearnerSpec(**spec))  # type: ignore[arg-type]
        assert [row for part in parts for row in part] == rows
        return [len(part) for part in parts]

    assert sizes() == [5]
    assert sizes(micro_batch_rows=2) == [2, 2, 1]
    assert sizes(micro_batch_rows=2, micro_batch_tokens=1000) == [5]
    assert sizes(micro_batch_tokens=12) == [3, 1, 1]  # 3 + 2 + 3 + 4
    assert sizes(micro_batch_tokens=11) == [2, 1, 1, 1]
    assert sizes(micro_batch_tokens=3 + 9 + 4 + 31) == [5]
    assert micro_batches([], LearnerSpec(micro_batch_tokens=5)) == []
