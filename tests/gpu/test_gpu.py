"""On a CUDA device: engine and learner agree in bfloat16, deliveries are proven, the learner trains.

Skipped, with the reason, where there is no device or (for the engine) no vLLM.
"""

from __future__ import annotations

import pytest

from jobs.benchmark.gpu import DIFFERENCE_LIMITS, engine_skip_reason, learner_skip_reason
from jobs.benchmark.learner import QWEN3_0_6B, LearnerLoad, time_learner

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda():  # type: ignore[no-untyped-def]
    if (reason := learner_skip_reason()) is not None:
        pytest.skip(reason)
    import torch

    return torch.device("cuda")


def test_engine_and_learner_agree_and_every_delivery_is_proven(cuda) -> None:  # type: ignore[no-untyped-def]
    if (reason := engine_skip_reason()) is not None:
        pytest.skip(reason)
    from jobs.engine_check import engine_round

    done = engine_round(cuda, "bfloat16")
    assert done.probe_difference <= DIFFERENCE_LIMITS["probe"]
    assert done.change > 10 * DIFFERENCE_LIMITS["probe"], "the adapter must be told apart from the base"
    assert done.logprob_difference_mean <= DIFFERENCE_LIMITS["mean"]
    assert done.logprob_difference_max <= DIFFERENCE_LIMITS["max"]
    assert done.sampled_tokens >= 16
    assert done.step_change > 0


def test_the_learner_steps_on_the_qwen3_shape(cuda) -> None:  # type: ignore[no-untyped-def]
    load = LearnerLoad(groups=1, group_size=8, prompt_tokens=32, completion_tokens=96)
    seconds = time_learner(QWEN3_0_6B, load, 2, cuda, "bfloat16")
    assert len(seconds) == 2
    assert all(0 < value < 60 for value in seconds)


def test_log_probs_on_the_device_are_those_of_the_cpu(cuda, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    from jobs.engine_check import build_tiny_model
    from polyray.delivery.probe import probe_logprobs
    from polyray.models.loading import load_base

    model_dir = build_tiny_model(tmp_path)
    sequences = [(1, 8, 9, 4, 22), (1, 7, 3)]
    on_cpu = probe_logprobs(load_base(model_dir, "float32"), sequences)
    on_device = probe_logprobs(load_base(model_dir, "float32").to(cuda), sequences)  # type: ignore[arg-type]
    assert np.abs(on_cpu - on_device).max() < 1e-3
