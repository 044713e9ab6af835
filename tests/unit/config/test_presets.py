"""Algorithm presets in files, overrides, sweeps and quickstarts, and mistakes in their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.quickstart import build_plan
from polyray.config.algorithm import GrpoSpec, PassAtKSpec, PolychromicSpec
from polyray.config.base import as_json
from polyray.config.loader import build_config, load_config
from polyray.config.presets import listing, presets
from polyray.config.run import PretrainConfig, QuickstartConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.sweeps.plan import plan_trials

ROOT = Path(__file__).resolve().parents[3]
GRID = ROOT / "configs/train/hidden_trap_grid.yaml"
GSPO = GrpoSpec(
    scale="group",
    surrogate="gspo",
    clip_low=3e-4,
    clip_high=4e-4,
    normalisation="sequence",
    proximal="learner",
)
POLYCHROMIC = PolychromicSpec(objective="cluster", quality_weight=0.0, diversity_weight=1.0, set_size=4)


@pytest.mark.parametrize(
    ("overrides", "expected", "name"),
    [
        ([], POLYCHROMIC, "grid-polychromic"),
        (["algorithm=@gspo"], GSPO, "grid-gspo"),
        (['algorithm="@gspo"', "name=mine"], GSPO, "mine"),
        (["algorithm=@gspo", "algorithm.dual_clip=9"], GSPO.at({"dual_clip": 9.0}), "grid-gspo"),
        (["algorithm.set_size=8"], POLYCHROMIC.at({"set_size": 8}), "grid-polychromic"),
        (["algorithm.set_size=8", "algorithm=@polychromic"], POLYCHROMIC, "grid-polychromic"),
        (
            ["algorithm=@gspo", "algorithm=@polychromic", "algorithm.set_size=2"],
            POLYCHROMIC.at({"set_size": 2}),
            "grid-polychromic",
        ),
    ],
)
def test_preset_and_later_overrides_apply_in_order_and_name_the_run(
    overrides: list[str], expected: Any, name: str
) -> None:
    config = load_config(TrainConfig, GRID, overrides)
    assert (config.algorithm, config.name) == (expected, name)
    values = as_json(config)
    assert values["algorithm"] == expected.model_dump(mode="json")
    assert build_config(TrainConfig, values) == config


def test_change_inside_a_block_of_a_preset_keeps_its_neighbours() -> None:
    overrides = ["algorithm=@pass_at_k_annealed", "algorithm.anneal.over_steps=40"]
    changed = load_config(TrainConfig, GRID, overrides).algorithm
    assert isinstance(changed, PassAtKSpec) and changed.anneal is not None
    assert (changed.anneal.set_size, changed.anneal.over_steps, changed.set_size) == (1, 40, 4)
    assert presets()["pass_at_k_annealed"].algorithm["anneal"] == {"set_size": 1, "over_steps": 80}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ('algorithm: "@polychromic"', {}),
        ("algorithm: {preset: '@polychromic'}", {}),
        ("algorithm: {preset: '@polychromic', set_size: 3}", {"set_size": 3}),
    ],
)
def test_preset_in_a_file_becomes_its_block(tmp_path: Path, text: str, changed: dict[str, int]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(f"name: a\n{text}\n", encoding="utf-8")
    assert load_config(TrainConfig, file).algorithm == POLYCHROMIC.at(changed)
    overridden = load_config(TrainConfig, file, ["algorithm.diversity_weight=0.5"]).algorithm
    assert overridden == POLYCHROMIC.at({**changed, "diversity_weight": 0.5})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm=@gsop", "'@gsop'.*@gspo"),
        ("algorithm=gspo", "'gspo'.*@gspo"),
        ("algorithm=@", "'@'.*--list-algorithms"),
        ("algorithm={preset: polychromic}", "'polychromic'.*@polychromic"),
        ("algorithm.set_sise=3", r"'algorithm\.set_sise'.*'algorithm\.set_size'"),
        ("model=@gspo", "model='@gspo'"),
    ],
)
def test_mistake_in_a_preset_names_its_fix(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, GRID, [override])
    assert re.search(message, str(caught.value))


def test_preset_without_quotes_in_a_file_names_its_fix(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("name: a\nalgorithm: @gspo\n", encoding="utf-8")
    with pytest.raises(ConfigError, match='"@NAME"'):
        load_config(TrainConfig, file)


def test_name_without_an_algorithm_uses_the_default_type() -> None:
    assert build_config(TrainConfig, {"name": "a-{algorithm}"}).name == "a-grpo"
    with pytest.raises(ConfigError, match=r"name='a-\{task\}'"):
        build_config(TrainConfig, {"name": "a-{task}"})


@pytest.mark.parametrize("name", presets())
def test_preset_is_listed_and_loads_with_its_overrides(name: str) -> None:
    preset = presets()[name]
    config = load_config(TrainConfig, GRID, [f"algorithm=@{name}", *preset.also])
    assert config.algorithm.type == preset.algorithm["type"]
    assert config.algorithm.model_fields_set == set(preset.algorithm)
    assert sum(line.split()[0] == f"@{name}" for line in listing().splitlines()) == 1


def test_sweep_takes_presets_as_overrides_and_as_values() -> None:
    config = build_config(
        SweepConfig,
        {
            "name": "s",
            "train": str(GRID),
            "overrides": ["algorithm=@grpo", "evaluation.every=5"],
            "parameters": {
                "algorithm": {"grid": ["@polychromic", "@pkpo"]},
                "algorithm.set_size": {"grid": [2, 3]},
            },
        },
    )
    algorithms = [as_json(plan.config)["algorithm"] for plan in plan_trials(config)]
    found = [(spec["type"], spec["set_size"]) for spec in algorithms]
    assert found == [("polychromic", 2), ("polychromic", 3), ("pkpo", 2), ("pkpo", 3)]


def test_quickstart_arm_overrides_precede_common_overrides() -> None:
    grid = "configs/train/hidden_trap_grid.yaml"
    overrides = '[learner.steps=7, "algorithm.normalisation=sum"]'
    arms = f'{{a: {{train: {grid}, overrides: ["algorithm=@gspo", "learner.steps=5"]}}, b: {grid}}}'
    config = load_config(
        QuickstartConfig,
        ROOT / "configs/quickstart.yaml",
        [f"arms={arms}", "baseline_arm=b", f"overrides={overrides}"],
    )
    plan = build_plan(config, load_config(PretrainConfig, ROOT / str(config.pretrain)), seed=0)
    assert plan.arms["a"].algorithm == GSPO.at({"normalisation": "sum"})
    assert plan.arms["b"].algorithm == POLYCHROMIC.at({"normalisation": "sum"})
    assert {arm.learner.steps for arm in plan.arms.values()} == {7}
