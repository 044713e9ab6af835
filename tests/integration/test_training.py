"""The loop on real parts: real Ray, vLLM, Serve and Train; a short run, two ranks, stale groups, evaluation.

That the same run comes out again, bit by bit, is shown by the tests in chaos/, which break it on the way.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.errors import ConfigError
from polyray.launch.evaluate import evaluate
from polyray.launch.fleet import Fleet, pool_sampler
from polyray.launch.plan import plan_sft
from polyray.launch.sft import as_training, supervise
from polyray.models.base_files import resolve_model_dir
from polyray.models.loading import load_base
from polyray.orchestrator.rollout_pool import RolloutPool
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory, RunPaths
from polyray.types import METRIC_KEYS, Group, GroupRequest
from tests.conftest import reproducible, run_training

MakeConfig = Callable[..., TrainConfig]


def test_sft_learns_the_demonstrations(warm_start: Path) -> None:
    losses = [line["loss"] for line in read_jsonl(warm_start.parent / "metrics.jsonl")]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_every_step_is_written_with_every_key(finished: RunPaths) -> None:
    lines = read_jsonl(finished.metrics)
    assert [line["step"] for line in lines] == list(range(6))
    assert [line["policy_version"] for line in lines] == list(range(1, 7))
    for line in lines:
        assert set(METRIC_KEYS) <= set(line)
        assert line["groups_used"] == 4
        assert line["staleness_mean"] == 0
    assert len(read_jsonl(finished.rollouts)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("dapo", {}),
        ("drgrpo_kl_in_reward", {}),
        ("gspo", {"learner__mini_batch_groups": 2}),
        ("kl_cov", {"learner__updates_per_batch": 2}),
        ("polychromic_stale", {"rollout__max_staleness": 1}),
        ("pass_at_k_annealed", {}),
        ("facility", {}),
    ],
)
def test_preset_trains_two_steps_on_real_parts(
    preset: str,
    changes: dict[str, Any],
    varied_fleet: Fleet,
    varied_values: Callable[..., dict[str, Any]],
) -> None:
    values = varied_values(f"preset-{preset}", learner__steps=2, **changes)
    config = build_config(TrainConfig, {**values, "algorithm": f"@{preset}"})
    paths = run_training(config, varied_fleet)
    written = json.loads(paths.config.read_text(encoding="utf-8"))["algorithm"]
    assert written == config.algorithm.model_dump(mode="json")
    assert [line["groups_used"] for line in read_jsonl(paths.metrics)] == [4, 4]
    assert paths.done.is_file()


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


@pytest.fixture(scope="module")
def two_ranks(varied_fleet: Fleet, varied_config: MakeConfig) -> RunPaths:
    """Two steps of a learner of two ranks."""
    return run_training(varied_config("two-ranks", learner__num_workers=2, learner__steps=2), varied_fleet)


@pytest.mark.slow  # two worker groups start
def test_two_ranks_give_the_update_of_one(finished: RunPaths, two_ranks: RunPaths) -> None:
    for one_line, two_line in zip(read_jsonl(finished.metrics), read_jsonl(two_ranks.metrics), strict=False):
        for key in (
            "reward_mean",
            "loss",
            "grad_norm",
            "entropy",
            "completion_length_mean",
            "distinct_classes",
        ):
            assert two_line[key] == pytest.approx(one_line[key], rel=1e-4, abs=1e-7), key


@pytest.mark.slow  # an engine and a worker group start
def test_engine_that_sleeps_between_steps_trains_the_same_bytes(
    finished: RunPaths, varied_fleet: Fleet, varied_config: MakeConfig
) -> None:
    """On CPU a sleeping vLLM stops scheduling but frees no memory."""
    changes = {"rollout__num_workers": 1, "rollout__sleep_between_steps": True}
    config = varied_config("in-turn", **changes, evaluation={"every": 2, "num_prompts": 4, "num_samples": 2})
    pool = RolloutPool("in-turn", config.rollout)
    try:
        pool.build(varied_fleet.pool.settings)
        run = run_training(config, Fleet(pool, varied_fleet.reward))
    finally:
        pool.shutdown()
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == (
        finished.adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert [line["step"] for line in read_jsonl(run.dynamics)] == [0, 2, 4, 6]


@pytest.mark.slow  # two worker groups start
def test_two_ranks_that_share_the_base_train_the_same_adapter(
    two_ranks: RunPaths, varied_fleet: Fleet, varied_config: MakeConfig
) -> None:
    config = varied_config("shared-base", learner__num_workers=2, learner__steps=2, learner__sharding="base")
    shared = run_training(config, varied_fleet)
    assert _weights(shared) == _weights(two_ranks)
    assert reproducible(shared.metrics) == reproducible(two_ranks.metrics)
    assert all(line["delivery_difference_max"] <= 1e-4 for line in read_jsonl(shared.metrics))


@pytest.mark.slow  # two worker groups start
def test_sft_of_two_ranks_that_share_the_base(ray_session: None, model_cache: Path, runs_dir: Path) -> None:
    found = []
    for sharding in ("none", "base"):
        learner = {"steps": 3, "num_threads": 1, "num_workers": 2, "sharding": sharding}
        values = {
            "name": f"sft-{sharding}",
            "runs_dir": str(runs_dir),
            "model": {"cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
            "demonstrations_per_step": 5,
            "learner": {**learner, "micro_batch_rows": 2, "gradient_checkpointing": True},
            "evaluation": {"every": 2, "num_rows": 3, "num_samples": 2},
        }
        config = build_config(SftConfig, values)
        with RunDirectory.open(config) as directory, ProgressDisplay() as display:
            supervise(plan_sft(config), directory, display)
            found.append((_weights(directory.paths), reproducible(directory.paths.metrics)))
    assert found[0] == found[1]
    assert [line["step"] for line in found[0][1]] == [0, 1, 2]


def _weights(run: RunPaths) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow  # a worker group starts
def test_polychromic_sft_on_stale_groups(fleet: Fleet, train_values: Callable[..., dict[str, Any]]) -> None:
    """One run for two things: groups are stale, but not too much, and demonstrations are learnt beside them."""
    values = train_values("sft-on-stale", learner__steps=6, rollout__max_staleness=1)
    del values["delivery"]  # the engines are there already
    objective: dict[str, Any] = {
        "type": "polychromic",
        "objective": "distinct_correct",
        "diversity_weight": 0.3,
        "set_size": 2,
        **{name: values.pop(name) for name in ("rollout", "reward")},
    }
    config = as_training(build_config(SftConfig, values | {"objective": objective, "max_tokens": 32}))
    assert config is not None and config.supervised is not None
    run = run_training(config, fleet)
    lines = read_jsonl(run.metrics)
    assert lines[0]["staleness_mean"] == 0
    assert all(0 <= line["staleness_mean"] <= 1 for line in lines)
    assert max(line["staleness_mean"] for line in lines) > 0
    assert all(line["groups_used"] == 4 for line in lines)
    assert lines[-1]["supervised_loss"] < lines[0]["supervised_loss"] - 0.05
    assert all(line["delivery_difference_max"] <= 1e-4 for line in lines)
    assert sum(line["advantage_share_diversity"] for line in lines) > 0
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_finished_run_is_not_repeated_and_other_settings_are_refused(
    finished: RunPaths, varied_config: MakeConfig
) -> None:
    with RunDirectory.open(varied_config("finished")) as directory:
        assert directory.finished
    before = finished.config.read_bytes()
    with pytest.raises(ConfigError, match=r"learner\.learning_rate"):
        RunDirectory.open(varied_config("finished", learner__learning_rate=1e-3))
    assert finished.config.read_bytes() == before


def evaluation_config(
    name: str, finished: RunPaths, model_cache: Path, runs_dir: Path, warm_start: Path
) -> EvaluateConfig:
    values = {
        "name": name,
        "runs_dir": str(runs_dir),
        "model": {"cache_dir": str(model_cache)},
        "rollout": {"num_workers": 2, "prompts_per_step": 4, "group_size": 6},
        "adapters": {"base": None, "warm start": str(warm_start), "trained": str(finished.adapter)},
        "evaluation": {"num_samples": 4, "ks": [1, 2, 4], "num_prompts": 40},
    }
    return build_config(EvaluateConfig, values)


def test_evaluation_compares_base_and_adapters(
    finished: RunPaths, fleet: Fleet, model_cache: Path, runs_dir: Path, warm_start: Path
) -> None:
    config = evaluation_config("evaluation", finished, model_cache, runs_dir, warm_start)
    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        evaluate(config, directory, pool_sampler(config, fleet.pool), display)
        evaluation = directory.paths.evaluation
    metrics = json.loads((evaluation / "metrics.json").read_text())
    samples = read_jsonl(evaluation / "samples.jsonl")
    assert len(samples) == 3 * 40 * 4
    assert list(samples[0])[:2] == ["task_id", "completion"]
    for name in config.adapters:
        mine = [line for line in samples if line["model"] == name]
        share = np.mean([line["reward"] for line in mine])
        assert metrics["models"][name]["pass_at_k"]["1"]["value"] == pytest.approx(share)
    hashes = {line["model"]: line["adapter_sha256"] for line in samples}
    assert hashes["base"] is None
    assert hashes["warm start"] != hashes["trained"]

    again = evaluation_config("evaluation-again", finished, model_cache, runs_dir, warm_start)
    killed_and_resumed_on_one_worker(again, fleet)
    for name in ("samples.jsonl", "results.jsonl", "metrics.json"):
        assert (again.run_dir / "evaluation" / name).read_bytes() == (evaluation / name).read_bytes()


def killed_and_resumed_on_one_worker(config: EvaluateConfig, fleet: Fleet) -> None:
    """The same evaluation, ended in the middle of the second arm, then finished on another number of workers."""
    sample = pool_sampler(config, fleet.pool)

    class Killed(Exception):
        pass

    def dying(name: str, directory: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        for number, group in enumerate(sample(name, directory, requests)):
            if name == "warm start" and number == 20:
                raise Killed
            yield group

    with RunDirectory.open(config) as directory, ProgressDisplay() as display:
        with pytest.raises(Killed):
            evaluate(config, directory, dying, display)
        assert 0 < len(read_jsonl(directory.paths.evaluation / "samples.jsonl")) < 3 * 40 * 4
        one_worker = copy.copy(fleet.pool)
        one_worker.workers = fleet.pool.workers[:1]
        evaluate(config, directory, pool_sampler(config, one_worker), display)
