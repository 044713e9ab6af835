"""The engine part of benchmarks gpu on CPU: a tiny shape, both ways of delivery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import agreement_measures, engine_measures
from benchmarks.measure import Measure
from benchmarks.models import write_random_qwen3

TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "intermediate_size": 96, "vocab_size": 200, "tie_word_embeddings": True, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LOAD = ("--groups", "2", "--group-size", "3", "--completion-tokens", "8", "--turns", "2")


def _named(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.strip(): measure for measure in measures}


@pytest.mark.slow
def test_engine_is_measured_in_a_child_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_random_qwen3(TINY, tmp_path, "cpu", "float32")
    merged, adapter = (
        _named(engine_measures("0.6B", tmp_path, "float32", mode, "cpu", LOAD))
        for mode in ("merged", "adapter")
    )
    name = "engine, Qwen3-0.6B shape, float32"
    assert f"{name}: base" in merged
    assert f"{name}: base" not in adapter
    for mode, measures in (("merged", merged), ("adapter", adapter)):
        speeds, publishes = measures[f"{name}: {mode}"].values, measures["publish to served"].values
        assert len(speeds) == len(publishes) == 2
        assert all(1 < speed < 1e6 for speed in speeds)
        assert all(0 < seconds < 60 for seconds in publishes)
        assert measures["largest difference over the probes"].median < 1e-4


@pytest.mark.slow
def test_agreement_is_compared_with_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    measures = agreement_measures("bfloat16", "adapter", "cpu")
    assert [measure.ok for measure in measures] == [True, True, True, None, None, None]
    assert _named(measures)["change of the probe by one RL step"].median > 1e-3
