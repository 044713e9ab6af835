"""Learner and engine on a CUDA device: log-probs, weight sync, memory.

Skipped, with the reason, where there is no device, no vLLM (for engines) or no bitsandbytes (for 4 bits). Engines run
in processes of their own, as they hold the device's memory until those end.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import (
    DIFFERENCE_LIMITS,
    engine_skip_reason,
    learner_skip_reason,
    nf4_skip_reason,
    run_child,
)
from benchmarks.learner import LearnerLoad, time_learner
from benchmarks.models import qwen3_shape

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
ROUND = ("-m", "polyray.doctor.engine_check", "--device", "cuda")
MIB = 2**20
LEFT_MIB = 256
"""What may be missing of the device's free memory after a process has ended: others use the device, too."""


@pytest.fixture
def cuda() -> Any:
    _skip_for(learner_skip_reason)
    import torch

    return torch.device("cuda")


def _skip_for(reason: Callable[[], str | None]) -> None:
    if (why := reason()) is not None:
        pytest.skip(why)


def _agrees(dtype: str, mode: str) -> None:
    done = run_child([*ROUND, "--dtype", dtype, "--delivery", mode])
    assert done["probe_difference"] <= DIFFERENCE_LIMITS["probe"]
    assert done["change"] > 10 * DIFFERENCE_LIMITS["probe"], "the adapter must be told apart from the base"
    assert done["logprob_difference_mean"] <= DIFFERENCE_LIMITS["mean"]
    assert done["logprob_difference_max"] <= DIFFERENCE_LIMITS["max"]
    assert done["sampled_tokens"] >= 16
    assert done["step_change"] > 0, "an RL step on what the engine sampled changes the policy"


@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_engine_and_learner_agree_and_every_delivery_is_proven(mode: str) -> None:
    _skip_for(engine_skip_reason)
    _agrees("bfloat16", mode)


def test_learner_and_engine_agree_in_4_bits() -> None:
    _skip_for(nf4_skip_reason)
    _agrees("nf4", "adapter")


def test_a_learner_in_4_bits_trains_on_the_rounded_weights(cuda: Any, tmp_path: Path) -> None:
    _skip_for(nf4_skip_reason)
    from polyray.doctor.engine_check import build_tiny_model
    from tests.unit.quantised_base import check_learner_in_4_bits

    check_learner_in_4_bits(build_tiny_model(tmp_path), cuda)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_learner_steps_on_the_qwen3_shape_free_their_memory(cuda: Any, checkpointed: bool) -> None:
    import torch

    load = LearnerLoad(1, 8, 32, 96, gradient_checkpointing=checkpointed)
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    seconds = time_learner(qwen3_shape("0.6B"), load, 2, cuda, "bfloat16")
    assert len(seconds) == 2
    assert all(0 < value < 60 for value in seconds)
    assert torch.cuda.max_memory_allocated(cuda) - before > 2 * 596e6, "the weights alone are 2 bytes each"
    gc.collect()
    # Workspaces of cuBLAS stay, one for each thread that multiplied.
    assert torch.cuda.memory_allocated(cuda) - before < 256 * MIB


def test_logprobs_on_the_device_match_the_cpu(cuda: Any, tmp_path: Path) -> None:
    from polyray.doctor.engine_check import build_tiny_model
    from polyray.models.loading import load_base
    from polyray.weight_sync.probe import probe_logprobs

    model_dir = build_tiny_model(tmp_path)
    sequences = [(1, 8, 9, 4, 22), (1, 7, 3)]
    on_cpu = probe_logprobs(load_base(model_dir, "float32"), sequences)
    on_device = probe_logprobs(load_base(model_dir, "float32", cuda), sequences)
    assert np.abs(on_cpu - on_device).max() < 1e-3


@pytest.mark.parametrize("killed", [False, True])
def test_engine_process_frees_its_memory_if_it_ends_or_is_killed(cuda: Any, killed: bool) -> None:
    _skip_for(engine_skip_reason)
    import torch

    torch.cuda.empty_cache()
    before, total = torch.cuda.mem_get_info(cuda)
    took = total // 10  # the engine's share is three tenths
    command = [sys.executable, *ROUND, "--dtype", "bfloat16"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    least = before
    try:
        while child.poll() is None:
            least = min(least, torch.cuda.mem_get_info(cuda)[0])
            if killed and before - least > took:
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
    finally:
        if child.poll() is None:
            child.kill()
        returncode = child.wait(30)
    assert returncode == (-signal.SIGKILL if killed else 0)
    assert before - least > took, "it must have held memory to give back"
    patience = time.monotonic() + 20
    while before - torch.cuda.mem_get_info(cuda)[0] > LEFT_MIB * MIB and time.monotonic() < patience:
        time.sleep(0.1)
    assert before - torch.cuda.mem_get_info(cuda)[0] <= LEFT_MIB * MIB
