"""A base in parts on two ranks trains the adapter that a whole base on each of them trains, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch.multiprocessing

from tests.unit.learner.sharded_ranks import OBJECTIVES, RL_STEPS, SHARDINGS, WORLD_SIZE, run_rank
from tests.unit.tiny_policy import save_base

pytestmark = pytest.mark.slow  # two processes import torch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Results of each rank by learner.sharding."""
    target = tmp_path_factory.mktemp("sharded")
    model_dir = save_base(tmp_path_factory.mktemp("base"), num_hidden_layers=3)
    torch.multiprocessing.start_processes(  # type: ignore[attr-defined]
        run_rank, (model_dir, target), nprocs=WORLD_SIZE, start_method="spawn"
    )
    return {
        sharding: [
            json.loads((target / sharding / f"rank-{rank}.json").read_text()) for rank in range(WORLD_SIZE)
        ]
        for sharding in SHARDINGS
    }


def test_sharded_rl_gives_the_same_adapter_metrics_and_probes(found: dict[str, list[dict[str, Any]]]) -> None:
    whole, parts = ([rank["rl"] for rank in found[sharding]] for sharding in SHARDINGS)
    assert len({run["adapter"] for run in (*whole, *parts)}) == 1
    assert parts[0]["metrics"] == whole[0]["metrics"] == parts[1]["metrics"]
    assert len(parts[0]["metrics"]) == RL_STEPS
    assert all(line["grad_norm"] > 0 and line["updates"] == 2 for line in parts[0]["metrics"])
    assert parts[0]["metrics"][0]["gradient/all/diversity_norm"] > 0
    assert parts[0]["probes"] == whole[0]["probes"]
    assert parts[0]["probes"][0] != parts[0]["probes"][1]


def test_sharded_rank_holds_half_of_the_layers(found: dict[str, list[dict[str, Any]]]) -> None:
    whole = found["none"][0]["rl"]["base_bytes"]
    assert whole["layers"] == 3 * 4 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 48 + 2 * 32 + 2 * 16)
    for rank in found["base"]:
        assert rank["rl"]["base_bytes"] == {"layers": whole["layers"] // 2, "rest": whole["rest"]}


def test_sharded_checkpoint_resumes_exactly(found: dict[str, list[dict[str, Any]]]) -> None:
    for rank in found["base"]:
        assert rank["rl"]["resumed_at"] == RL_STEPS - 1
        assert rank["rl"]["resumed"] == rank["rl"]["adapter"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_interrupted_sharded_sft_equals_data_parallel_ranks(
    objective: str, found: dict[str, list[dict[str, Any]]]
) -> None:
    whole, parts = (found[sharding][0][objective] for sharding in SHARDINGS)
    assert parts["adapter"] == whole["adapter"]
    assert parts["metrics"] == whole["metrics"]
    assert parts["metrics"][-1]["loss"] != parts["metrics"][0]["loss"]
    assert parts["samples"] == whole["samples"] and len(parts["samples"]) == 2
    assert parts["dynamics"] == whole["dynamics"]
    assert [line["step"] for line in parts["dynamics"]] == [0, 2, 4]
