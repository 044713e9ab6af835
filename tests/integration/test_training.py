"""The loop on real parts: real Ray, vLLM, Serve and Train; a short run, the same run again, two ranks,
evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.evaluate import evaluate
from jobs.fleet import Fleet, pool_sampler
from jobs.sft import supervise
from jobs.train import check_inputs, train
from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.errors import ConfigError
from polyray.models.loading import load_base, resolve_model_dir
from polyray.observability.jsonl import read_jsonl
from polyray.observability.progress import ProgressDisplay
from polyray.observability.run_directory import RunDirectory, RunPaths
from polyray.types import METRIC_KEYS
from tests.conftest import reproducible

MakeConfig = Callable[..., TrainConfig]


def run(config: TrainConfig, fleet: Fleet) -> RunPaths:
    """A whole training run; returns where it lies."""
    check_inputs(config)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        train(config, directory, fleet, display)
        return directory.paths


@pytest.fixture(scope="module")
def warm_start(ray_session: None, model_cache: Path, runs_dir: Path) -> Path:
    """The adapter of a short SFT run on Ray Train."""
    values = {
        "name": "sft",
        "runs_dir": str(runs_dir),
        "model": {"cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8}},
        "learner": {"steps": 30, "checkpoint_every": 15, "num_threads": 1, "learning_rate": 3e-3},
    }
    config = build_config(SftConfig, values)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        supervise(config, directory, display)
        return directory.paths.adapter


@pytest.fixture(scope="module")
def finished(fleet: Fleet, train_config: MakeConfig, warm_start: Path) -> RunPaths:
    """A polychromic run of four steps from that warm start."""
    return run(polychromic(train_config, "first", warm_start), fleet)


def polychromic(train_config: MakeConfig, name: str, warm_start: Path, **changes: Any) -> TrainConfig:
    algorithm = {
        "type": "polychromic",
        "objective": "cluster",
        "diversity_weight": 1.0,
        "set_size": 3,
    }
    return train_config(name, algorithm=algorithm, model__warm_start=str(warm_start), **changes)


def test_sft_learns_the_demonstrations(warm_start: Path) -> None:
    losses = [line["loss"] for line in read_jsonl(warm_start.parent / "metrics.jsonl")]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_every_step_is_written_with_every_key(finished: RunPaths) -> None:
    lines = read_jsonl(finished.metrics)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["policy_version"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert set(METRIC_KEYS) <= set(line)
        assert line["groups_used"] == 4
        assert line["staleness_mean"] == 0
    assert len(read_jsonl(finished.rollouts)) == 4


def test_engine_and_learner_agree_at_every_version(finished: RunPaths) -> None:
    for line in read_jsonl(finished.metrics):
        assert line["delivery_difference_max"] <= 1e-4
        assert line["logprob_difference_max"] <= 1e-4
        assert abs(line["kl_rollout"]) < 1e-9
        assert line["clip_share"] == 0


def test_policy_moves_away_from_the_warm_start(finished: RunPaths, warm_start: Path) -> None:
    lines = read_jsonl(finished.metrics)
    assert lines[0]["kl_reference"] == pytest.approx(0, abs=1e-12)
    assert lines[-1]["kl_reference"] > 1e-6
    before = load_file(warm_start / "adapter_model.safetensors")
    after = load_file(finished.adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_adapter_loads_with_plain_peft_on_the_original_base(
    finished: RunPaths, train_config: MakeConfig
) -> None:
    from peft import PeftModel

    base = load_base(resolve_model_dir(train_config("any").model), "float32")
    model = PeftModel.from_pretrained(base, str(finished.adapter))
    saved = load_file(finished.adapter / "adapter_model.safetensors")
    loaded = {name: value for name, value in model.named_parameters() if ".lora_A." in name}
    assert len(loaded) == sum(".lora_A." in key for key in saved) > 0


def test_same_seed_gives_the_same_run(
    finished: RunPaths, fleet: Fleet, train_config: MakeConfig, warm_start: Path
) -> None:
    again = run(polychromic(train_config, "again", warm_start), fleet)
    assert reproducible(again.metrics) == reproducible(finished.metrics)
    name = "adapter_model.safetensors"
    assert (again.adapter / name).read_bytes() == (finished.adapter / name).read_bytes()


def test_two_ranks_give_the_update_of_one(
    finished: RunPaths, fleet: Fleet, train_config: MakeConfig, warm_start: Path
) -> None:
    two = run(polychromic(train_config, "two-ranks", warm_start, learner__num_workers=2), fleet)
    one_line, two_line = read_jsonl(finished.metrics)[0], read_jsonl(two.metrics)[0]
    for key in ("reward_mean", "loss", "grad_norm", "entropy", "completion_length_mean", "distinct_classes"):
        assert two_line[key] == pytest.approx(one_line[key], rel=1e-4, abs=1e-7), key


def test_stale_groups_are_bounded(fleet: Fleet, train_config: MakeConfig, warm_start: Path) -> None:
    stale = run(polychromic(train_config, "stale", warm_start, rollout__max_staleness=1), fleet)
    lines = read_jsonl(stale.metrics)
    assert lines[0]["staleness_mean"] == 0
    assert all(0 <= line["staleness_mean"] <= 1 for line in lines)
    assert max(line["staleness_mean"] for line in lines) > 0
    assert all(line["groups_used"] == 4 for line in lines)


def test_finished_run_is_not_repeated_and_other_settings_are_refused(
    finished: RunPaths, train_config: MakeConfig, warm_start: Path
) -> None:
    with RunDirectory.open(polychromic(train_config, "first", warm_start)) as directory:
        assert directory.finished
    before = finished.config.read_bytes()
    with pytest.raises(ConfigError, match=r"learner\.learning_rate"):
        RunDirectory.open(polychromic(train_config, "first", warm_start, learner__learning_rate=1e-3))
    assert finished.config.read_bytes() == before


def test_evaluation_compares_base_and_adapters(
    finished: RunPaths, fleet: Fleet, model_cache: Path, runs_dir: Path, warm_start: Path
) -> None:
    values = {
        "name": "evaluation",
        "runs_dir": str(runs_dir),
        "model": {"cache_dir": str(model_cache)},
        "rollout": {"num_workers": 2, "prompts_per_step": 4, "group_size": 6},
        "adapters": {"base": None, "warm start": str(warm_start), "trained": str(finished.adapter)},
        "evaluation": {"num_samples": 4, "ks": [1, 2, 4], "num_prompts": 40},
    }
    config = build_config(EvaluateConfig, values)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        evaluate(config, directory, pool_sampler(config, fleet.pool), display)
        evaluation = directory.paths.evaluation
    metrics = json.loads((evaluation / "metrics.json").read_text())
    samples = read_jsonl(evaluation / "samples.jsonl")
    assert len(samples) == 3 * 40 * 4
    assert list(samples[0])[:2] == ["task_id", "completion"]
    for name in values["adapters"]:
        mine = [line for line in samples if line["model"] == name]
        share = np.mean([line["reward"] for line in mine])
        assert metrics["models"][name]["pass_at_k"]["1"]["value"] == pytest.approx(share)
    hashes = {line["model"]: line["adapter_sha256"] for line in samples}
    assert hashes["base"] is None
    assert hashes["warm start"] != hashes["trained"]
