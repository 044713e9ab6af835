"""A base in 4 bits through real vLLM on CPU.

Needs bitsandbytes and vllm-bnb-plugin; tests/unit/models/test_quantised.py says how to run it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.doctor.engine_check import build_tiny_model
from polyray.learner.embedded import ARCHITECTURE
from polyray.models.loading import load_base

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bitsandbytes", "vllm_bnb_plugin")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_every_matrix_is_the_learners_bit_by_bit(stored: str, tmp_path: Path) -> None:
    model_dir = build_tiny_model(tmp_path)
    load_base(model_dir, stored).save_pretrained(model_dir)
    seen = _child("-m", "tests.integration.quantised_matrices", str(model_dir))
    assert seen == {"matrices": 7 * ARCHITECTURE["num_hidden_layers"], "largest": 0.0}


def test_round_in_4_bits_agrees_like_one_in_bfloat16() -> None:
    command = ("-m", "polyray.doctor.engine_check", "--delivery", "adapter", "--dtype")
    seen = {dtype: _child(*command, dtype) for dtype in ("bfloat16", "nf4")}
    nf4, plain = seen["nf4"], seen["bfloat16"]
    assert nf4["probe_difference"] < 0.02
    assert nf4["logprob_difference_mean"] < 2 * plain["logprob_difference_mean"]
    assert nf4["change"] > 0.5, "the delivered adapter must differ from the base"
    assert 1e-3 < nf4["step_change"] < 1.0
    assert nf4["sampled_tokens"] >= 16


def _child(*arguments: str) -> dict[str, Any]:
    """Last line that a child process prints, parsed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
