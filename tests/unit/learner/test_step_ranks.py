"""Two ranks that share a batch make the update of one: run in two threads that stand for two processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch

from polyray.config.run import TrainConfig
from polyray.learner import reduce
from polyray.learner.stopping import agreed_to_stop
from polyray.runs.stop_request import StopRequest
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch
from tests.unit.learner.step_fixtures import (
    as_batch,
    assert_equal_gradients,
    build_learner,
    gradients,
    mixed_groups,
)
from tests.unit.tiny_policy import random_group, train_config


@dataclass
class Ranks:
    """torch.distributed between two threads."""

    ReduceOp: Any = torch.distributed.ReduceOp
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

    def broadcast_object_list(self, shared: list[Any], src: int) -> None:
        given: list[Any] = [None, None]
        self.all_gather_object(given, list(shared))
        shared[:] = given[src]

    def all_reduce(self, tensor: torch.Tensor, op: Any = None) -> None:
        self._given[threading.get_ident()] = tensor.clone()
        self._barrier.wait()
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


COVARIANCE = {"covariance": "clip_cov", "covariance_share": 0.1, "covariance_band": (0.05, 9.0)}
EVERYTHING_COV = {"covariance": "clip_cov", "covariance_band": (-9.0, 9.0)}
EMPTY = random_group(7, [1, 0], lengths=[0, 0])
TWICE = {"updates_per_batch": 2, "micro_batch_rows": 3}
CASES: list[tuple[dict[str, Any], dict[str, Any], list[list[int]]]] = [
    *(
        ({"normalisation": name, "kl_coefficient": kl}, {"micro_batch_rows": 3}, [[0, 2], [1]])
        for name in ("constant", "token", "sequence", "sum")
        for kl in (0.0, 0.2)
    ),
    (
        {"scale": "batch", "normalisation": "token"},
        {"mini_batch_groups": 2, "updates_per_batch": 2, "num_workers": 2},
        [[0, 2], [1, 3]],
    ),
    *(
        (algorithm, TWICE, shares)
        for algorithm in (
            COVARIANCE,
            {"covariance": "kl_cov", "covariance_share": 0.1},
            {"covariance": "kl_cov", "covariance_share": 0.1, "proximal": "learner"},
        )
        for shares in ([[0, 2], [1]], [[2], [0, 1]])
    ),
    ({}, {}, [[0], [4]]),  # nothing to learn on the second rank
    (EVERYTHING_COV, {}, [[0], [5]]),  # no tokens on the second rank: no rows, so no forward pass at all
]


def groups() -> list[ScoredGroup]:
    return [*mixed_groups(), *(random_group(7, rewards) for rewards in ([0, 1, 0], [0, 0, 0])), EMPTY]


@pytest.mark.parametrize(("algorithm", "learner", "shares"), CASES)
def test_two_ranks_make_the_update_of_one(
    algorithm: dict[str, Any],
    learner: dict[str, Any],
    shares: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = train_config(algorithm={"type": "grpo", **algorithm}, learner={"max_grad_norm": 1e9, **learner})
    in_order = [at for pair in zip_longest(*shares) for at in pair if at is not None]
    rel = 1e-3 if "mini_batch_groups" in learner else 1e-4
    alone = [at for at in in_order if at != 5]
    expected, expected_metrics = gradients(config, [groups()[at] for at in alone])
    ranks = _two_ranks(config, [[groups()[at] for at in share] for share in shares], monkeypatch)
    for actual, metrics in ranks:
        assert_equal_gradients(actual, expected)
        if alone == in_order:
            for key, value in expected_metrics.items():
                assert metrics[key] == pytest.approx(value, rel=rel, abs=1e-6), key
    for one, other in zip(ranks[0][0], ranks[1][0], strict=True):
        assert torch.equal(one, other)
    assert ranks[0][1] == ranks[1][1]


@pytest.mark.parametrize("asked_on", [0, 1])
def test_stop_request_on_rank_0_alone_stops_every_rank(
    asked_on: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    for directory in directories:
        directory.mkdir()
    StopRequest(directories[asked_on]).ask("SIGTERM")
    monkeypatch.setattr(reduce, "dist", ranks := Ranks())

    def stops(_: int) -> bool:
        return agreed_to_stop(directories[ranks.get_rank()], ranks.get_rank())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(stops, range(2))) == [asked_on == 0] * 2
