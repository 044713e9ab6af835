"""A step on two GPUs with whole, sharded or offloaded bases.

Skipped where torch sees fewer than two devices. On CPUs: tests/unit/learner/test_sharding.py, to the byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
PLACES = ("whole", "parts", "offloaded")


@pytest.fixture
def two_devices() -> None:
    import torch

    if (found := torch.cuda.device_count()) < 2:
        pytest.skip(f"needs two CUDA devices, torch sees {found}")


def test_two_gpus_share_the_base(two_devices: None, tmp_path: Path) -> None:
    import torch.multiprocessing

    from tests.unit.tiny_policy import save_base

    model_dir = save_base(tmp_path / "base", num_hidden_layers=3)
    torch.multiprocessing.start_processes(  # type: ignore[attr-defined]
        run_rank, (model_dir, tmp_path), nprocs=2, start_method="spawn"
    )
    for rank in range(2):
        found = {place: json.loads((tmp_path / f"{place}-{rank}.json").read_text()) for place in PLACES}
        whole = found["whole"]["bytes"]
        assert found["parts"]["bytes"] == {"cuda": whole["cuda"] // 2}
        assert found["offloaded"]["bytes"] == {"cpu": whole["cuda"] // 2}
        for place in PLACES[1:]:
            for key in ("loss", "grad_norm", "kl_reference", "supervised_loss"):
                expected = found["whole"]["metrics"][key]
                assert found[place]["metrics"][key] == pytest.approx(expected, rel=1e-3, abs=1e-6), key
            assert found[place]["probe"] == pytest.approx(found["whole"]["probe"], abs=2e-2)


def run_rank(rank: int, model_dir: Path, target: Path, device_type: str = "cuda") -> None:
    """Run a step and a probe per PLACES, into target/PLACE-RANK.json."""
    import torch
    import torch.distributed as dist

    from polyray.learner.policy import Policy
    from polyray.weight_sync.probe import probe_logprobs
    from tests.unit.learner.sharded_ranks import batch_of, rl_config

    torch.set_num_threads(1)
    if device_type == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
        init_method=f"file://{target / 'meeting'}",
        rank=rank,
        world_size=2,
    )
    for place in PLACES if device_type == "cuda" else PLACES[:2]:
        learner: dict[str, Any] = {"use_gpu": True, "cpu_offload": place == "offloaded"}
        config = rl_config("none" if place == "whole" else "base", **learner)
        policy = Policy(config, model_dir, "float32", torch.device(device_type))
        sizes = layer_bytes(policy.model)
        metrics = policy.learner.step(batch_of(0, rank))
        probe = probe_logprobs(policy.model, [(1, 8, 5, 9), (1, 6)])
        found = {"bytes": sizes, "metrics": metrics, "probe": probe.tolist()}
        (target / f"{place}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def layer_bytes(model: Any) -> dict[str, int]:
    """Bytes of the base's layers in this process, by where they lie."""
    from torch.distributed.tensor import DTensor

    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if ".layers." in name and ".lora_" not in name:
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            place = local.device.type
            sizes[place] = sizes.get(place, 0) + local.numel() * local.element_size()
    return sizes
