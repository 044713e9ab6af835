"""YAML + overrides -> a model, and errors that name value, limit and fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config, load_config
from polyray.config.run import SftConfig, TrainConfig
from polyray.errors import ConfigError


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(
        "name: a\nalgorithm: {type: grpo}\nlearner: {steps: 10, learning_rate: 1.0e-3}\n", encoding="utf-8"
    )
    return path


def test_last_override_of_a_nested_key_wins_and_leaves_its_neighbours(train_file: Path) -> None:
    overrides = ["learner.learning_rate=5", "learner.learning_rate=2e-3", "rollout.group_size=8", "name=b"]
    config = load_config(TrainConfig, train_file, overrides)
    assert (config.name, config.learner.steps, config.learner.learning_rate) == ("b", 10, 0.002)
    assert config.rollout.group_size == 8


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.stepz=3", r"'learner\.stepz'.*'learner\.steps'"),
        ("task.trap_probabilty=0.1", r"'task\.trap_probability'"),
        ("algorithm.clip_lo=0.1", r"'algorithm\.clip_low'"),
        ("qqqqqqqq=1", "qqqqqqqq.*name, runs_dir, seed"),
        ("algorithm={set_size: 3}", r"algorithm=.*algorithm\.type.*grpo.*polychromic"),
        ("learner.steps=0", r"learner\.steps=0\b.*\b1\b"),
        ("rollout.group_size=1", r"rollout\.group_size=1\b.*\b2\b"),
        ("name=a/b", "name='a/b'"),
        ("learner.steps", r"'learner\.steps'.*learner\.steps=100"),
        ("=3", "'=3'"),
        ("seed=[1", r"\[1: .*YAML"),
    ],
)
def test_mistake_of_an_override_is_named_with_its_fix(train_file: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, train_file, [override])
    assert re.search(expected, str(caught.value))


def test_every_mistake_of_a_file_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)^my\.yaml: (?=.*'sed'.*'seed').*learner\.steps=-1"):
        build_config(TrainConfig, {"name": "a", "sed": 1, "learner": {"steps": -1}}, source="my.yaml")


@pytest.mark.parametrize(("text", "expected"), [("- a\n", r"broken\.yaml.* list"), ("a: [\n", "YAML")])
def test_file_that_is_no_mapping_is_refused(train_file: Path, text: str, expected: str) -> None:
    path = train_file.with_name("broken.yaml")
    with pytest.raises(ConfigError, match=r"broken\.yaml.*train\.yaml"):
        load_config(TrainConfig, path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        load_config(TrainConfig, path)


SETS = "algorithm={type: polychromic, objective: max, diversity_weight: 1"
TWO_RANKS = ["learner.sharding=base", "learner.num_workers=2"]
REFUSED: dict[Any, list[tuple[list[str], str]]] = {
    TrainConfig: [
        (["algorithm.kl_placement=reward", "algorithm.kl_coefficient=1"], "kl_estimator=k1"),
        (
            ["algorithm.importance_correction=mask", "algorithm.importance_cap=1"],
            r"importance_cap=1.0.*\b1\b",
        ),
        (["algorithm.covariance_band=[5, 1]"], r"covariance_band=\[5.0, 1.0\]"),
        (["algorithm.dual_clip=0.9"], "dual_clip"),
        (["algorithm.covariance=kl_cov"], r"covariance=kl_cov.*learner\.updates_per_batch=1\b"),
        (["algorithm.covariance=kl_cov", "learner.mini_batch_groups=16"], r"rollout\.prompts_per_step=16"),
        (
            ["algorithm.surrogate=gspo", "algorithm.clip_low=3e-4", "algorithm.clip_high=4e-4"],
            r"clip_low=0\.0003.*clip_high=0\.0004.*proximal=rollout.*proximal=learner",
        ),
        (["algorithm.clip_high=0.005"], "clip_high=0.005.*proximal=rollout"),
        (["algorithm.overlong_buffer=99"], "overlong_buffer=99.*rollout.max_completion_tokens=10"),
        (["algorithm.anneal={over_steps: 5}"], r"algorithm\.anneal"),
        (["algorithm.anneal={set_size: 2, over_steps: 5}"], r"algorithm\.anneal\.set_size: grpo"),
        (
            ["algorithm.anneal={diversity_weight: 2, over_steps: 5}"],
            r"algorithm\.anneal\.diversity_weight: grpo",
        ),
        (["model.quantization=nf4", "model.dtype=float32"], "dtype=float32.*quantization=nf4.*dtype=auto"),
        (["model.quantization=nf4", "delivery.mode=merged"], r"4-bit.*delivery\.mode"),
        (
            ["model.quantization=nf4", "rollout.tensor_parallel_size=2"],
            "tensor_parallel_size=2.*model.quantization=nf4",
        ),
        (["learner.mini_batch_groups=17"], "mini_batch_groups=17.*rollout.prompts_per_step=16"),
        (["learner.mini_batch_groups=3", "learner.num_workers=2"], "num_workers=2"),
        (["learner.sharding=base"], r"sharding=base.*num_workers=1\b.*num_workers.*\b2\b"),
        ([*TWO_RANKS, "learner.cpu_offload=true"], "cpu_offload=true.*sharding=base.*use_gpu=false"),
        (["learner.use_gpu=true", "learner.cpu_offload=true"], "sharding=none.*use_gpu=true"),
        (
            ["algorithm={type: pkpo, set_size: 2, anneal: {set_size: 16, over_steps: 5}}"],
            "set_size=16.*rollout.group_size.*set_size",
        ),
        ([SETS + ", set_size: 16}"], r"set_size=16.*rollout\.group_size.*set_size.*= 17\b"),
        ([SETS + ", stale_weights: sample}"], "proximal=learner.*importance_correction=none"),
        (["rollout.tensor_parallel_size=2", "rollout.gpus_per_worker=1"], "gpus_per_worker=2"),
        (["rollout.tensor_parallel_size=2", "rollout.engine=simulated"], "tensor_parallel_size"),
        (["learner.keep_best=1"], r"learner\.keep_best=1"),
        (["learner.checkpoint_storage=nowhere"], "URL"),
    ],
    SftConfig: [
        (["objective={type: ba_lora}", "model.lora.dropout=0.1"], r"model\.lora\.dropout=0\.1.*\b0\b"),
        (["model.quantization=nf4", *TWO_RANKS], r"learner\.sharding=base.*model\.quantization=nf4"),
        (["objective={type: ba_lora}", "model.quantization=nf4"], r"model\.quantization=none"),
        (["objective={type: ba_lora}", "model.warm_start=x"], r"model\.warm_start=.*/x"),
        (
            ["objective={type: polychromic, objective: max, diversity_weight: 1}", "packing=true"],
            "objective polychromic.*`task`",
        ),
        (
            ["objective={type: polychromic, objective: cluster, diversity_weight: 1, num_subsets: 9}"],
            r"objective\.num_subsets=9",
        ),
    ],
}


@pytest.mark.parametrize(
    ("model", "overrides", "message"), [(model, *row) for model, rows in REFUSED.items() for row in rows]
)
def test_incompatible_settings_are_refused(
    tmp_path: Path, model: Any, overrides: list[str], message: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n" + "algorithm: {type: grpo}\n" * (model is TrainConfig), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(model, path, overrides)


def test_password_in_a_storage_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="password") as error:
        build_config(
            TrainConfig, {"name": "a", "learner": {"checkpoint_storage": "s3://key:secret@bucket/x"}}
        )
    assert "secret" not in str(error.value).partition("input_value")[0]


@pytest.mark.parametrize(("given", "meant"), [("std", "group"), ("group", "group"), ("none", "none")])
def test_scale_std_is_that_of_the_group(train_file: Path, given: str, meant: str) -> None:
    assert load_config(TrainConfig, train_file, [f"algorithm.scale={given}"]).algorithm.scale == meant
