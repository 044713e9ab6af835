"""configs/research/: the research's values, runs that find one another, and --check without network or model."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from polyray.config.base import as_json
from polyray.config.loader import load_config
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.config.supervised_term import PolychromicSftSpec
from polyray.config.sweep import SweepConfig
from polyray.errors import MissingFile
from polyray.launch.sft import as_training
from polyray.runs.run_directory import config_difference
from polyray.sweeps.plan import plan_trials

ROOT = Path(__file__).resolve().parents[3]
RESEARCH = ROOT / "configs" / "research"
FILES = sorted(str(path.relative_to(RESEARCH)) for path in RESEARCH.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _sft(name: str) -> SftConfig:
    return load_config(SftConfig, RESEARCH / "sft" / f"{name}.yaml")


def _train(name: str) -> TrainConfig:
    return load_config(TrainConfig, RESEARCH / "train" / f"{name}.yaml")


@pytest.mark.parametrize("name", FILES)
def test_check_of_a_research_file_needs_neither_network_nor_model(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("--check asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    job = importlib.import_module(f"jobs.{name.partition('/')[0]}")
    with contextlib.suppress(MissingFile):  # of the adapters that earlier runs make
        assert job.main([str(RESEARCH / name), "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    if name.startswith("sweep/"):
        # Two trials at once: with one engine for both, or with one each.
        assert derived["gpus_at_once"] == (4 if "ablation_diversity" in name else 3)
    estimate = derived.get("sizes_of_a_trial", derived)["gpu_estimate"]
    assert estimate["parameters"] == 8_190_735_360
    cards = [int(number) for line in estimate["placement"] for number in re.findall(r"of (\d+) GB", line)]
    assert len(cards) == len(estimate["placement"]) == estimate["gpus"]
    assert max(cards) <= 80


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("sft/", "train/"))])
def test_research_run_trains_the_same_adapter_of_the_same_model(name: str) -> None:
    config = _sft(Path(name).stem) if name.startswith("sft/") else _train(Path(name).stem)
    lora = config.model.lora
    assert (config.model.path, config.model.quantization, config.seed) == ("Qwen/Qwen3-8B", "nf4", 42)
    samples = isinstance(config, TrainConfig) or isinstance(config.objective, PolychromicSftSpec)
    assert (lora.rank, lora.alpha, len(lora.target_modules)) == (16, 16, 7)
    assert lora.dropout == (0 if samples else 0.1)


@pytest.mark.parametrize("weight", ["0.1", "0.3", "0.5", "1.0", "2.0"])
def test_polychromic_runs_differ_in_lambda_alone(weight: str) -> None:
    config = _sft(f"polychromic_{weight}")
    assert isinstance(config.objective, PolychromicSftSpec)
    assert config.objective.diversity_weight == float(weight)
    other = config_difference(as_json(_sft("polychromic_0.3")), as_json(config))
    assert other.keys() <= {"name", "objective.diversity_weight"}
    training = as_training(_sft("polychromic_0.3"))  # the run that the sweeps train
    assert training is not None and as_json(training) == as_json(_train("polychromic"))


@pytest.mark.parametrize("start", ["baseline", "polychromic"])
def test_grpo_starts_from_the_adapter_of_a_research_run(start: str) -> None:
    config = _train(f"grpo_from_{start}")
    warm = _sft(f"warm_start_{start}")
    assert config.model.warm_start == f"{warm.run_dir}/adapter"
    same = ("rank", "alpha", "target_modules")
    assert [getattr(config.model.lora, key) for key in same] == [
        getattr(warm.model.lora, key) for key in same
    ]
    others = config_difference(as_json(_train("grpo_from_baseline")), as_json(config))
    assert others.keys() <= {"name", "model.warm_start"}


def test_evaluation_compares_every_research_run() -> None:
    evaluation = load_config(EvaluateConfig, RESEARCH / "evaluate" / "all.yaml")
    runs: list[SftConfig | TrainConfig] = [_sft(path.stem) for path in (RESEARCH / "sft").glob("*.yaml")]
    runs += [_train(path.stem) for path in (RESEARCH / "train").glob("grpo_*.yaml")]
    assert {evaluation.model.quantization} == {run.model.quantization for run in runs}
    adapters = {arm.adapter for arm in evaluation.adapters.values()}
    assert adapters == {None, *(f"{run.run_dir}/adapter" for run in runs)}
    assert len(evaluation.adapters) == len(runs) + 2


@pytest.mark.parametrize(
    ("name", "path", "values", "trials"),
    [
        ("lambda", "algorithm.diversity_weight", (0, 0.1, 0.3, 0.5, 1, 2), 18),
        ("ablation_lambda", "algorithm.diversity_weight", (0.1, 0.2, 0.3, 0.4, 0.5), 5),
        ("ablation_num_samples", "rollout.group_size", (3, 4, 8), 3),
        ("ablation_rank", "model.lora.rank", (8, 16, 32), 3),
        ("ablation_diversity", "diversity.source", ("embedding", "ngram", "task_distance"), 3),
    ],
)
def test_sweep_tries_the_values_of_the_research(
    name: str, path: str, values: tuple[Any, ...], trials: int
) -> None:
    config = load_config(SweepConfig, RESEARCH / "sweep" / f"{name}.yaml")
    assert config.parameters[path].grid == values
    plans = plan_trials(config)
    assert len(plans) == trials
    if config.baseline is not None:  # tests are against a value that is tried
        assert config.axis == path
        assert config.baseline in values
