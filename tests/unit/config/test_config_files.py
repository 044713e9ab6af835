"""Every file under configs/ loads as what its folder says, and names only files that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from polyray.config.curate import CurateConfig
from polyray.config.generation import GenerationServeConfig
from polyray.config.judge import JudgeConfig
from polyray.config.loader import load_config
from polyray.config.prompts import PromptTemplate
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.reward_validation import RewardValidationConfig
from polyray.config.run import EvaluateConfig, PretrainConfig, QuickstartConfig, SftConfig, TrainConfig
from polyray.config.serve import RewardServeConfig
from polyray.config.sweep import SweepConfig

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
MODELS: dict[str, type[BaseModel]] = {
    "pretrain": PretrainConfig,
    "quickstart": QuickstartConfig,
    "quickstart_headlines": QuickstartConfig,
    "quickstart_smollm2": QuickstartConfig,
    "reference": QuickstartConfig,
    "sft": SftConfig,
    "train": TrainConfig,
    "own_task": TrainConfig,
    "evaluate": EvaluateConfig,
    "evaluate/reward_": RewardValidationConfig,
    "curate": CurateConfig,
    "judge": JudgeConfig,
    "prompts": PromptTemplate,
    "reward": TrainRewardConfig,
    "serve": RewardServeConfig,
    "serve/generation": GenerationServeConfig,
    "sweep": SweepConfig,
    "study": SweepConfig,
}
"""By folder, by folder and the beginning of the name, or by name for files directly under configs/.

configs/research/ has such folders of its own.
"""


def model_of(path: Path) -> type[BaseModel]:
    relative = path.relative_to(CONFIGS)
    if relative.parts[0] == "research":
        relative = relative.relative_to("research")
    if len(relative.parts) == 1:
        return MODELS[relative.stem]
    by_name = [name for name in MODELS if "/" in name and str(relative).startswith(name)]
    return MODELS[by_name[0] if by_name else relative.parts[0]]


def config_files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in CONFIGS.rglob("*.y*ml"))


@pytest.mark.parametrize("name", config_files())
def test_file_loads(name: str) -> None:
    path = ROOT / name
    config = load_config(model_of(path), path)
    assert config.model_fields_set, f"{name} sets nothing"


@pytest.mark.parametrize(
    "name", [name for name in config_files() if model_of(ROOT / name) is QuickstartConfig]
)
def test_quickstart_names_files_that_load(name: str) -> None:
    config = load_config(QuickstartConfig, ROOT / name)
    if config.pretrain is not None:
        load_config(PretrainConfig, ROOT / config.pretrain)
    sfts = [load_config(SftConfig, ROOT / file) for file in config.warm_starts.values()]
    arms = [
        load_config(TrainConfig, arm.train, [*arm.overrides, *config.overrides])
        for arm in config.arms.values()
    ]
    # What the warm starts were trained on is what the arms train on.
    assert {(arm.task, arm.model.path) for arm in arms} == {(sft.task, sft.model.path) for sft in sfts}
    assert config.baseline_arm in config.arms
    # What the preparations make is what the files name.
    made = [f"/runs/{load_plain(entry.file)['name']}/model" for entry in config.prepare]
    named = {part for arm in arms for part in str(arm.model_dump()).split("'") if "/runs/reward-" in part}
    assert all(path.endswith(tuple(made)) for path in named)


def load_plain(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
