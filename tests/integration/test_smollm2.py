"""Two RL steps on a real instruct model: chat prompts, tied embeddings, vLLM, verified weight sync."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.launch.fleet import open_fleet
from polyray.launch.plan import plan_fleet
from polyray.models.adapter_files import CONFIG_FILE
from polyray.runs.jsonl import read_jsonl
from tests.conftest import run_training

STEPS = 2
PROMPTS = ("What is the capital of France? Answer with one word.", "Name a colour. Answer with one word.")
REWARD = "def score(items):\n    return [len(set(item['completion'])) / 40 for item in items]\n"


@pytest.fixture
def config(train_values: Callable[..., dict[str, Any]], smollm2_cache: Path, tmp_path: Path) -> TrainConfig:
    """Two prompts x 4 completions of at most 12 tokens."""
    rows = [{"messages": [{"role": "user", "content": text}]} for text in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows * 8))
    (tmp_path / "reward.py").write_text(REWARD)
    reward = {"type": "python", "path": f"{tmp_path / 'reward.py'}:score"}
    rollout = {
        "num_workers": 1,
        "threads_per_worker": 1,  # the other test process has the other core
        "prompts_per_step": 2,
        "group_size": 4,
        "max_prompt_tokens": 64,
        "max_completion_tokens": 12,
        "max_sequences": 8,
        "kv_cache_mib": 64,
    }
    values = train_values(
        "smollm2",
        model={"path": "smollm2", "cache_dir": str(smollm2_cache), "lora": {"rank": 4, "alpha": 8}},
        task={"type": "jsonl", "path": str(tmp_path / "prompts.jsonl")},
        reward={**reward, "service": {"port": 0, "num_cpus": 0.5}},
        algorithm={"type": "grpo"},
        rollout=rollout,
        learner__steps=STEPS,
        learner__learning_rate=1e-3,
        learner__micro_batch_rows=4,
    )
    return build_config(TrainConfig, values)


def test_smollm2_trains_with_verified_weight_sync(ray_session: None, config: TrainConfig) -> None:
    plan = plan_fleet(config)
    with open_fleet(plan, "smollm2") as fleet:
        paths = run_training(config, fleet)
    lines = read_jsonl(paths.metrics)
    assert [line["policy_version"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        assert line["delivery_difference_max"] <= 1e-4
        assert abs(line["kl_rollout"]) < 1e-6
        assert line["logprob_difference_max"] < 2e-4
        assert line["grad_norm"] > 0
    assert lines[-1]["kl_reference"] > 0, "the policy of the last step must differ from the base"
    assert any(line["truncated_share"] < 1 for line in lines), "a completion ends with <|im_end|>"
    texts = paths.rollouts.read_text(encoding="utf-8")
    assert "<|im_end|>" not in json.dumps([line["completions"] for line in read_jsonl(paths.rollouts)])
    assert "capital of France" in texts
    base = json.loads((paths.adapter / CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    assert base == "HuggingFaceTB/SmolLM2-135M-Instruct"
