"""A base in 4 bits through real vLLM on CPU: what the learner holds the engine holds, and training goes on in both.

Needs bitsandbytes and vllm-bnb-plugin; tests/unit/models/test_quantised.py says how to run it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bitsandbytes", "vllm_bnb_plugin")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
def test_a_round_in_4_bits_agrees_as_one_in_bfloat16_does() -> None:
    command = [sys.executable, "-m", "jobs.engine_check", "--delivery", "adapter", "--dtype"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    seen = {}
    for dtype in ("bfloat16", "nf4"):
        done = subprocess.run(
            [*command, dtype],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen[dtype] = json.loads(done.stdout.strip().splitlines()[-1])
    nf4, plain = seen["nf4"], seen["bfloat16"]
    assert nf4["probe_difference"] < 0.02, "a tolerance of 0.05 must leave room"
    assert nf4["logprob_difference_mean"] < 2 * plain["logprob_difference_mean"]
    assert nf4["change"] > 0.5, "the delivered adapter must differ from the base"
    assert 1e-3 < nf4["step_change"] < 1.0
    assert nf4["sampled_tokens"] >= 16
