"""YAML + overrides -> a model, and what the messages say."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_overrides_reach_nested_keys_and_leave_their_neighbours(train_file: Path) -> None:
    config = load_config(
        TrainConfig, train_file, ["learner.learning_rate=2e-3", "rollout.group_size=8", "name=b"]
    )
    assert (config.name, config.learner.steps, config.learner.learning_rate) == ("b", 10, 0.002)
    assert config.rollout.group_size == 8


def test_the_last_override_of_a_key_wins(train_file: Path) -> None:
    assert load_config(TrainConfig, train_file, ["learner.steps=5", "learner.steps=7"]).learner.steps == 7


def test_an_override_reads_lists_and_null(train_file: Path) -> None:
    overrides = ["learner.betas=[0.8, 0.9]", "model.warm_start=null", "delivery.timeout_s=1e2"]
    config = load_config(TrainConfig, train_file, overrides)
    assert config.learner.betas == (0.8, 0.9)
    assert config.model.warm_start is None
    assert config.delivery.timeout_s == 100


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.stepz=3", r"'learner\.stepz'.*'learner\.steps'"),
        ("task.trap_probabilty=0.1", r"'task\.trap_probability'"),
        ("algorithm.clip_lo=0.1", r"'algorithm\.clip_low'"),
        ("qqqqqqqq=1", "qqqqqqqq.*name, runs_dir, seed"),
        ("learner.steps=0", r"learner\.steps=0\b.*\b1\b"),
        ("rollout.group_size=1", r"rollout\.group_size=1\b.*\b2\b"),
        ("name=a/b", "name='a/b'"),
        ("learner.steps", r"'learner\.steps'.*learner\.steps=100"),
        ("=3", "'=3'"),
        ("seed=[1", r"\[1: .*YAML"),
    ],
)
def test_a_mistake_is_named_with_its_fix(train_file: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, train_file, [override])
    assert re.search(expected, str(caught.value))


def test_every_mistake_of_a_file_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(TrainConfig, {"name": "a", "sed": 1, "learner": {"steps": -1}}, source="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "'sed'" in message and "'seed'" in message
    assert "learner.steps=-1" in message


def test_missing_file_error_names_nearby_files(train_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"other\.yaml.*train\.yaml"):
        load_config(TrainConfig, train_file.with_name("other.yaml"))


@pytest.mark.parametrize(("text", "expected"), [("- a\n", r"broken\.yaml.* list"), ("a: [\n", "YAML")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        load_config(TrainConfig, path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.kl_placement=reward", "algorithm.kl_coefficient=1"], "kl_estimator=k1"),
        (
            ["algorithm.importance_correction=mask", "algorithm.importance_cap=1"],
            r"importance_cap=1.0.*\b1\b",
        ),
        (["algorithm.covariance_band=[5, 1]"], r"covariance_band=\[5.0, 1.0\]"),
        (["algorithm.dual_clip=0.9"], "dual_clip"),
        (["algorithm.covariance=kl_cov"], r"covariance=kl_cov.*learner\.updates_per_batch=1\b"),
        (
            ["algorithm.covariance=kl_cov", "learner.mini_batch_groups=16"],
            r"rollout\.prompts_per_step=16",
        ),
        (
            ["algorithm.surrogate=gspo", "algorithm.clip_low=3e-4", "algorithm.clip_high=4e-4"],
            r"clip_low=0\.0003.*clip_high=0\.0004.*proximal=rollout.*proximal=learner",
        ),
        (["algorithm.clip_high=0.005"], "clip_high=0.005.*proximal=rollout"),
        (
            ["algorithm.overlong_buffer=99"],
            "overlong_buffer=99.*rollout.max_completion_tokens=10",
        ),
        (["algorithm.anneal={set_size: 2, over_steps: 5}"], r"algorithm\.anneal\.set_size: grpo"),
        (
            ["algorithm.anneal={diversity_weight: 2, over_steps: 5}"],
            r"algorithm\.anneal\.diversity_weight: grpo",
        ),
        (
            ["model.quantization=nf4", "model.dtype=float32"],
            "dtype=float32.*quantization=nf4.*dtype=auto",
        ),
        (
            ["model.quantization=nf4", "delivery.mode=merged"],
            r"4-bit.*delivery\.mode",
        ),
        (
            ["model.quantization=nf4", "rollout.tensor_parallel_size=2"],
            "tensor_parallel_size=2.*model.quantization=nf4",
        ),
        (["learner.mini_batch_groups=17"], "mini_batch_groups=17.*rollout.prompts_per_step=16"),
        (["learner.mini_batch_groups=3", "learner.num_workers=2"], "num_workers=2"),
        (["learner.sharding=base"], r"sharding=base.*num_workers=1\b.*num_workers.*\b2\b"),
        (
            ["learner.sharding=base", "learner.num_workers=2", "learner.cpu_offload=true"],
            "cpu_offload=true.*sharding=base.*use_gpu=false",
        ),
        (["learner.use_gpu=true", "learner.cpu_offload=true"], "sharding=none.*use_gpu=true"),
        (
            ["algorithm={type: pkpo, set_size: 2, anneal: {set_size: 16, over_steps: 5}}"],
            "set_size=16.*rollout.group_size.*set_size",
        ),
        (
            ["algorithm={type: polychromic, objective: max, diversity_weight: 1, stale_weights: sample}"],
            "proximal=learner.*importance_correction=none",
        ),
    ],
)
def test_incompatible_settings_are_refused(train_file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, train_file, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={type: ba_lora}", "model.lora.dropout=0.1"], r"model\.lora\.dropout=0\.1.*\b0\b"),
        (
            ["model.quantization=nf4", "learner.sharding=base", "learner.num_workers=2"],
            r"learner\.sharding=base.*model\.quantization=nf4",
        ),
        (["objective={type: ba_lora}", "model.quantization=nf4"], r"model\.quantization=none"),
        (["objective={type: ba_lora}", "model.warm_start=x"], r"model\.warm_start=.*/x"),
        (
            ["objective={type: polychromic, objective: max, diversity_weight: 1}", "packing=true"],
            "objective polychromic.*`task`",
        ),
    ],
)
def test_sft_objectives_that_do_not_fit_are_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(SftConfig, path, overrides)


@pytest.mark.parametrize(("given", "meant"), [("std", "group"), ("group", "group"), ("none", "none")])
def test_scale_std_is_that_of_the_group(train_file: Path, given: str, meant: str) -> None:
    assert load_config(TrainConfig, train_file, [f"algorithm.scale={given}"]).algorithm.scale == meant


def test_set_size_must_leave_a_sample_out(train_file: Path) -> None:
    overrides = ["algorithm={type: polychromic, objective: cluster, diversity_weight: 1, set_size: 16}"]
    with pytest.raises(ConfigError, match=r"set_size=16.*rollout\.group_size.*set_size.*= 17\b"):
        load_config(TrainConfig, train_file, overrides)
