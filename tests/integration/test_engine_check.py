"""The doctor's engine check against real vLLM, in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyray.doctor.models import ENGINE_ROUND

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_round_through_learner_and_engine_on_cpu() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *ENGINE_ROUND],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["device"] == "cpu"
    assert seen["probe_difference"] < 1e-5
    assert seen["logprob_difference_max"] < 1e-5
    assert seen["logprob_difference_mean"] < 1e-6
    assert seen["change"] > 0.1, "the delivered adapter must differ from the base"
    assert 1e-3 < seen["step_change"] < 1.0
    assert 16 <= seen["sampled_tokens"] <= 160
