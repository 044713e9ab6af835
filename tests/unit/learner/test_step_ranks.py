"""Two ranks that share a batch make the update of one: run in two threads that stand for two processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from polyray.config.run import TrainConfig
from polyray.learner import reduce
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch
from tests.unit.learner.step_fixtures import as_batch, assert_equal_gradients, build_learner, mixed_groups
from tests.unit.tiny_policy import random_group, train_config


@dataclass
class Ranks:
    """torch.distributed between two threads; records the size of each message."""

    ReduceOp: Any = torch.distributed.ReduceOp
    sizes: list[int] = field(default_factory=list)
    _barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=20))
    _given: dict[int, torch.Tensor] = field(default_factory=dict)
    _objects: dict[int, Any] = field(default_factory=dict)

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return int(threading.current_thread().name.rsplit("_", 1)[1])

    def all_gather_object(self, objects: list[Any], own: Any) -> None:
        self._objects[self.get_rank()] = own
        self._barrier.wait()
        objects[:] = [self._objects[rank] for rank in sorted(self._objects)]
        if self._barrier.wait() == 0:
            self._objects.clear()
        self._barrier.wait()

    def all_reduce(self, tensor: torch.Tensor, op: Any = None) -> None:
        self._given[threading.get_ident()] = tensor.clone()
        if self._barrier.wait() == 0:
            self.sizes.append(tensor.numel())
        one, other = self._given.values()
        assert one.shape == other.shape  # else the ranks disagree on what they reduce
        tensor.copy_(torch.maximum(one, other) if op == self.ReduceOp.MAX else one + other)
        if self._barrier.wait() == 0:
            self._given.clear()
        self._barrier.wait()


def _two_ranks(
    config: TrainConfig, shares: list[list[ScoredGroup]], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[list[torch.Tensor], StepMetrics]]:
    learners = [build_learner(config) for _ in shares]
    total = sum(len(share) for share in shares)

    def share_of(groups: list[ScoredGroup]) -> TrainingBatch:
        return replace(as_batch(groups), num_groups_total=total)

    monkeypatch.setattr(reduce, "dist", Ranks())
    with ThreadPoolExecutor(2) as pool:
        metrics = list(
            pool.map(lambda pair: pair[0].step(share_of(pair[1])), zip(learners, shares, strict=True))
        )
    monkeypatch.undo()
    return [
        ([p.grad for p in learner.parameters if p.grad is not None], metrics[rank])
        for rank, learner in enumerate(learners)
    ]


def _one_rank(config: TrainConfig, groups: list[ScoredGroup]) -> tuple[list[torch.Tensor], StepMetrics]:
    learner = build_learner(config)
    metrics = learner.step(as_batch(groups))
    return [p.grad for p in learner.parameters if p.grad is not None], metrics


@pytest.mark.parametrize("normalisation", ["constant", "token", "sequence", "sum"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.2])
def test_two_ranks_make_the_update_of_one(
    normalisation: str, kl_coefficient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(
        algorithm={"type": "grpo", "normalisation": normalisation, "kl_coefficient": kl_coefficient},
        learner={"max_grad_norm": 1e9, "micro_batch_rows": 3},
    )
    groups = mixed_groups()
    expected, expected_metrics = _one_rank(config, groups)
    ranks = _two_ranks(config, [groups[0::2], groups[1::2]], monkeypatch)
    for actual, metrics in ranks:
        assert_equal_gradients(actual, expected)
        for key, value in expected_metrics.items():
            assert metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    for one, other in zip(ranks[0][0], ranks[1][0], strict=True):
        assert torch.equal(one, other)
    assert ranks[0][1] == ranks[1][1]


def test_two_ranks_share_mini_batches_and_the_deviation_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(
        algorithm={"type": "grpo", "scale": "batch", "normalisation": "token"},
        learner={"max_grad_norm": 1e9, "mini_batch_groups": 2, "updates_per_batch": 2, "num_workers": 2},
    )
    groups = [*mixed_groups(), random_group(7, [0, 1, 0])]
    expected, expected_metrics = _one_rank(config, groups)
    ranks = _two_ranks(config, [groups[0::2], groups[1::2]], monkeypatch)
    for actual, metrics in ranks:
        assert_equal_gradients(actual, expected)  # of the last of four updates
        assert metrics["updates"] == 4
        assert metrics == {
            key: pytest.approx(value, rel=1e-3, abs=1e-6) for key, value in expected_metrics.items()
        }


@pytest.mark.parametrize(
    "algorithm",
    [
        {"covariance": "clip_cov", "covariance_band": (0.05, 9.0)},
        {"covariance": "kl_cov"},
        {"covariance": "kl_cov", "proximal": "learner"},
    ],
    ids=str,
)
def test_two_ranks_choose_the_tokens_of_one(
    algorithm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(
        algorithm={"type": "grpo", "covariance_share": 0.1, **algorithm},
        learner={"max_grad_norm": 1e9, "updates_per_batch": 2, "micro_batch_rows": 3},
    )
    groups = mixed_groups()
    expected, expected_metrics = _one_rank(config, groups)
    for shares in ([groups[0::2], groups[1::2]], [groups[2:], groups[:2]]):
        for actual, metrics in _two_ranks(config, shares, monkeypatch):
            assert_equal_gradients(actual, expected)
            assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-4, abs=1e-6)


def test_a_rank_without_anything_to_learn_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(algorithm={"type": "grpo"}, learner={"max_grad_norm": 1e9})
    groups = [mixed_groups()[0], random_group(7, [0, 0, 0])]
    expected, _ = _one_rank(config, groups)
    ranks = _two_ranks(config, [groups[:1], groups[1:]], monkeypatch)
    for actual, metrics in ranks:
        assert_equal_gradients(actual, expected)
        assert metrics["zero_advantage_share"] == 0.5


def test_a_rank_without_tokens_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its completions ended before their first token: no rows, so no forward pass at all."""
    algorithm = {"type": "grpo", "covariance": "clip_cov", "covariance_band": (-9.0, 9.0)}
    config = train_config(algorithm=algorithm, learner={"max_grad_norm": 1e9})
    empty = random_group(7, [1, 0], lengths=[0, 0])
    group = mixed_groups()[0]
    ranks = _two_ranks(config, [[group], [empty]], monkeypatch)
    expected, _ = _one_rank(config, [group])
    for actual, _ in ranks:
        assert_equal_gradients(actual, expected)
