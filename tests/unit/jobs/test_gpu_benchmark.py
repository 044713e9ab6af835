"""benchmarks gpu without a GPU: plan, skips, and a tiny learner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.learner import LearnerLoad
from benchmarks.models import qwen3_shape
from polyray.errors import ConfigError, PolyrayError

ROOT = Path(__file__).resolve().parents[3]
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48, "vocab_size": 50, "tie_word_embeddings": True,
}  # fmt: skip


def test_the_plan_is_16k_tokens_a_step_on_both_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--check"]) == 0
    plan = json.loads(capsys.readouterr().out)
    learners = [(case["size"], case["gradient_checkpointing"], case["tokens"]) for case in plan["learners"]]
    assert learners == [("0.6B", False, 16384), ("4B", False, 16384), ("4B", True, 16384)]
    engines = [(engine["base"], engine["delivery"]) for engine in plan["engines"]]
    assert engines == [("bfloat16", "merged"), ("bfloat16", "adapter"), ("nf4", "adapter")]
    with pytest.raises(ConfigError, match=r"--steps 0.* 1 "):
        gpu.main(["--steps", "0"])


def test_the_shapes_are_the_published_ones() -> None:
    small, large = qwen3_shape("0.6B"), qwen3_shape("4B")
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    assert [small[key] for key in keys] == [1024, 28, 16, 3072, 151_936]
    assert [large[key] for key in keys] == [2560, 36, 32, 9728, 151_936]


def test_without_a_device_every_part_is_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    parts = ("learner", "engine", "nf4")
    expected = "".join(f"skipped {part}: torch sees no CUDA device\n" for part in parts)
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reasons = {
        "vllm": (None, "vllm is not installed", "vllm is not installed"),
        "vllm_bnb_plugin": (None, None, "vllm_bnb_plugin not installed"),
        "peft": ("peft not installed",) * 3,
    }
    for absent, expected in reasons.items():
        monkeypatch.setattr(
            gpu.importlib.util, "find_spec", lambda name, out=absent: None if name == out else "there"
        )
        assert (gpu.learner_skip_reason(), gpu.engine_skip_reason(), gpu.nf4_skip_reason()) == expected


def test_the_learner_part_on_a_tiny_shape() -> None:
    for checkpointed in (False, True):
        load = LearnerLoad(1, 4, 3, 5, micro_batch_rows=2, gradient_checkpointing=checkpointed)
        (measure,) = gpu.learner_measures(gpu.Case("4B", load), TINY, 2, "cpu")
        assert measure.name == f"learner, Qwen3-4B shape{', checkpointed' if checkpointed else ''}"
        assert (measure.unit, len(measure.values)) == ("tokens/s", 2)
        assert all(1 < value < 1e6 for value in measure.values)


def test_part_that_does_not_fit_is_named_and_the_other_parts_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import torch

    def out_of_memory(*_: Any) -> tuple[float, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(gpu, "time_learner", out_of_memory)
    with pytest.raises(PolyrayError, match="CUDA out of memory"):
        gpu.learner_measures(gpu.Case("4B", LearnerLoad()), TINY, 1, "cpu")

    def small_only(case: gpu.Case, *_: Any) -> list[gpu.Measure]:
        if case.size == "4B":
            raise PolyrayError("does not fit this device")
        return [gpu.Measure(case.name, (5.0,), "tokens/s")]

    monkeypatch.setattr(gpu, "learner_measures", small_only)
    monkeypatch.setattr(gpu, "learner_skip_reason", lambda: None)
    monkeypatch.setattr(gpu, "engine_skip_reason", lambda: "no engine here")
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 1
    out = capsys.readouterr().out
    assert "failed  learner, Qwen3-4B shape, checkpointed: does not fit this device" in out
    written = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [measure["median"] for measure in written["measures"]] == [5.0]
    assert len(written["failed"]) == 2


def test_failed_child_error_has_exit_code_and_last_line() -> None:
    with pytest.raises(PolyrayError, match="exit code 3: last words"):
        gpu.run_child(["-c", "import sys; print('first\\nlast words', file=sys.stderr); sys.exit(3)"])
    assert gpu.run_child(["-c", "print('log line'); print('{\"a\": 1}')"]) == {"a": 1}


LEARNER_ALONE = """
import sys
for name in ("ray", "vllm"):
    sys.modules[name] = None  # importing it fails
import torch
from benchmarks.learner import LearnerLoad, time_learner
shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
             intermediate_size=48, vocab_size=50, tie_word_embeddings=True)
load = LearnerLoad(groups=1, group_size=4, prompt_tokens=3, completion_tokens=5, micro_batch_rows=2)
torch.set_num_threads(1)
print(len(time_learner(shape, load, 3, torch.device("cpu"), "bfloat16")), load.tokens)
"""


def test_the_learner_part_needs_neither_ray_nor_vllm() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEARNER_ALONE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "3 32\n", done.stderr


def test_a_random_model_is_drawn_in_its_dtype_and_can_be_packed() -> None:
    import torch

    from benchmarks.models import random_qwen3
    from polyray.models.packing import is_packable

    first, again = (random_qwen3(TINY, "cpu", "bfloat16") for _ in range(2))
    assert {parameter.dtype for parameter in first.parameters()} == {torch.bfloat16}
    assert first.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert 0.01 < float(first.lm_head.weight.detach().float().std()) < 0.03
    assert is_packable(first.config)
