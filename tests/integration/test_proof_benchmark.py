"""A few versions of SmolLM2 in bfloat16: sound ones are proven, and faults of the engine are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 300


@pytest.mark.slow
def test_smollm2_in_bfloat16_is_proven_and_its_faults_are_refused(
    smollm2_cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "proof.json"
    command = [sys.executable, "-m", "benchmarks.proof", "--rates", "1e-5", "--versions", "2"]
    done = subprocess.run(
        [*command, "--cache-dir", str(smollm2_cache), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(out.read_text())
    assert (result["healthy"], result["alarms"]) == (3, [])
    assert min(result["noise"]) > 0.02, "noise of 16 bits hides a step of 1e-5"
    for fault in ("stale", "base", "layer", "module", "half", "double"):
        assert result["caught"][fault] == {"1": True, "2": True}, fault
