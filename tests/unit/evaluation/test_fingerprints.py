"""Samples of an earlier start are used again only where adapters, base, prompts, reward and data are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.errors import ConfigError
from polyray.evaluation.fingerprints import FINGERPRINTS_FILE
from polyray.evaluation.pipeline import check_finished, run_evaluation
from polyray.evaluation.sampling import EvaluationPaths
from tests.unit.evaluation.test_pipeline import dying_after, speak

REWARD = "def score(items):\n    return [float(item['completion'] == item['reference']) for item in items]\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Everything that an evaluation names by a path."""
    found = {
        "base": tmp_path / "base" / "model.safetensors",
        "arms.short": tmp_path / "short" / "adapter_model.safetensors",
        "arms.long": tmp_path / "long" / "adapter_config.json",
        "prompts.long": tmp_path / "asked.yaml",
        "reward": tmp_path / "reward.py",
        "data.task.held_out_path": tmp_path / "test.jsonl",
        "data.task.path": tmp_path / "train.jsonl",
    }
    for folder in ("base", "short", "long"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    for folder in ("short", "long"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / folder / name).write_text(f"{folder} {name}")
    found["base"].write_bytes((2).to_bytes(8, "little") + b"{}weights")
    found["prompts.long"].write_text("name: asked\nbefore: 'please '\n")
    found["reward"].write_text(REWARD)
    for key, start in (("data.task.path", 0), ("data.task.held_out_path", 100)):
        rows = [{"prompt": f"say {start + at}:", "reference": f"number {start + at}"} for at in range(4)]
        found[key].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


@pytest.fixture
def config(files: dict[str, Path]) -> EvaluateConfig:
    values: dict[str, Any] = {
        "name": "e",
        "model": {"path": str(files["base"].parent)},
        "task": {
            "type": "jsonl",
            "path": str(files["data.task.path"]),
            "held_out_path": str(files["data.task.held_out_path"]),
        },
        "reward": {"type": "python", "path": f"{files['reward']}:score"},
        "adapters": {
            "short": str(files["arms.short"].parent),
            "long": {"adapter": str(files["arms.long"].parent), "prompt": str(files["prompts.long"])},
        },
        "evaluation": {"num_samples": 2, "ks": [1, 2], "selector": "first", "bootstrap_resamples": 100},
    }
    return build_config(EvaluateConfig, values)


@pytest.fixture
def paths(tmp_path: Path) -> EvaluationPaths:
    return EvaluationPaths(tmp_path / "e" / "evaluation", tmp_path / "e" / "judge")


CHANGES = {
    "base": "weights -> another",
    "arms.short": "short adapter -> other adapter",
    "arms.long": "long adapter -> other adapter",
    "prompts.long": "please -> kindly",
    "reward": "float( -> 0.5 * float(",
    "data.task.held_out_path": "number 101 -> number 7",
    "data.task.path": "number 1 -> number 7",
}


@pytest.mark.parametrize(("key", "groups"), [*((key, 3) for key in CHANGES), ("reward", None)])
def test_evaluation_of_a_changed_file_at_the_same_path_is_refused(
    config: EvaluateConfig, files: dict[str, Path], paths: EvaluationPaths, key: str, groups: int | None
) -> None:
    if groups is None:
        run_evaluation(config, paths, speak)
    else:
        with pytest.raises(InterruptedError):
            run_evaluation(config, paths, dying_after(groups))
    before = (paths.evaluation / "samples.jsonl").read_bytes()
    old, new = CHANGES[key].encode().split(b" -> ")
    content = files[key].read_bytes()
    assert old in content
    files[key].write_bytes(content.replace(old, new))

    with pytest.raises(ConfigError, match="name=") as raised:
        run_evaluation(config, paths, speak)
    assert f"  {key}" in str(raised.value) and str(paths.evaluation) in str(raised.value)
    with pytest.raises(ConfigError):
        check_finished(config, paths)
    assert (paths.evaluation / "samples.jsonl").read_bytes() == before

    files[key].write_bytes(content)
    check_finished(config, paths)
    run_evaluation(config, paths, speak)


def test_finished_evaluation_without_its_adapters_is_still_accepted(
    config: EvaluateConfig, files: dict[str, Path], paths: EvaluationPaths
) -> None:
    run_evaluation(config, paths, speak)
    record = json.loads((paths.evaluation / FINGERPRINTS_FILE).read_text())
    assert set(record) == {"base", "arms", "prompts", "reward", "data"}
    assert record["arms"]["short"] != record["arms"]["long"]
    assert record["prompts"]["short"] != record["prompts"]["long"]
    files["arms.short"].unlink()
    files["base"].parent.joinpath("config.json").unlink()
    check_finished(config, paths)
