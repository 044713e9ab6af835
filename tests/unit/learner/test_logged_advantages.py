"""rollouts.jsonl holds the advantages that entered the loss, whatever the configuration adds to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyray.config.run import TrainConfig
from polyray.learner import step as step_module
from polyray.learner.advantages import compute_advantages
from polyray.learner.run_files import RunFiles
from polyray.runs.jsonl import read_jsonl
from polyray.types import METRIC_KEYS, ScoredGroup
from tests.unit.learner.loop_fixtures import start
from tests.unit.learner.step_fixtures import as_batch, build_learner, mixed_groups
from tests.unit.tiny_policy import train_config

SETS = {"type": "polychromic", "objective": "distinct_correct", "diversity_weight": 1.0, "set_size": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "annealed weight": {**SETS, "anneal": {"diversity_weight": 5.0, "over_steps": 4}},
    "overlong": {"type": "grpo", "overlong_buffer": 4},
    "kl in the reward": {
        "type": "grpo",
        "kl_coefficient": 0.5,
        "kl_placement": "reward",
        "kl_estimator": "k1",
    },
    "stale weights": {
        **SETS,
        "stale_weights": "set_product",
        "proximal": "learner",
        "importance_correction": "none",
    },
    "scale of the batch": {"type": "grpo", "scale": "batch"},
    "scale of the group": {"type": "grpo", "scale": "group", "overlong_buffer": 4},
    "truncated, masked": {"type": "grpo", "truncated": "mask"},
    "truncated, dropped": {"type": "grpo", "truncated": "drop", "overlong_buffer": 4},
}
STEP = 2
COUNTERS = {"groups_used": 3, "groups_dropped": 0, "staleness_mean": 0}
TIMINGS = {
    "generate_s": 1.0,
    "score_s": 1.0,
    "deliver_s": 1.0,
    "idle_generate": 1.0,
    "learn_s": 1.0,
    "step_s": 1.0,
}


class Entered:
    """Advantages that reach the loss, by (group_id, place in the group)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[tuple[int, int], float] = {}
        original = step_module.token_loss

        def recorded(batch: Any, *rest: Any) -> Any:
            entering = zip(
                batch.sample_ids, batch.advantages_B.tolist(), batch.trained_B.tolist(), strict=True
            )
            self.values |= {sample: value for sample, value, trained in entering if trained}
            return original(batch, *rest)

        monkeypatch.setattr(step_module, "token_loss", recorded)


def logged(run_dir: Path) -> dict[tuple[int, int], float]:
    return {
        (line["group_id"], index): completion["advantage"]
        for line in read_jsonl(run_dir / "rollouts.jsonl")
        for index, completion in enumerate(line["completions"])
    }


def plain(config: TrainConfig, groups: list[ScoredGroup]) -> dict[tuple[int, int], float]:
    """Advantages of the objective alone."""
    return {
        (group.group.group_id, index): float(value)
        for group in groups
        for index, value in enumerate(compute_advantages(group, config.algorithm).advantages_G)
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_rollouts_show_the_advantages_of_the_loss(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(algorithm=OPTIONS[name], rollouts_logged_per_step=3)
    entered, files = Entered(monkeypatch), RunFiles(tmp_path, config)
    # Without its truncated completions the second group has one scored completion: too few to train on.
    groups = mixed_groups()[:: 2 if name == "truncated, dropped" else 1]
    learner = build_learner(config)
    batch = replace(as_batch(groups), step=STEP, counters=COUNTERS)
    metrics = learner.step(batch)
    files.cut_to(0)
    filled = {**dict.fromkeys(METRIC_KEYS, 0.0), **metrics}
    files.write_step(STEP, batch, filled, TIMINGS, learner.trained_advantages)
    found = logged(tmp_path)
    assert len(found) == 4 * len(groups) and len(entered.values) >= 4
    for sample, value in found.items():
        assert value == pytest.approx(entered.values.get(sample, 0.0), abs=1e-6), sample
    without = plain(config, groups)
    assert max(abs(found[sample] - without[sample]) for sample in found) > 0.01


def test_a_run_logs_the_advantages_of_its_loss(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = {**SETS, "anneal": {"diversity_weight": 5.0, "over_steps": 2}, "scale": "batch"}
    config = train_config(
        algorithm={**algorithm, "overlong_buffer": 3, "truncated": "mask"},
        learner={"steps": 3, "checkpoint_every": 3},
        rollouts_logged_per_step=2,
    )
    entered = Entered(monkeypatch)
    assert start(tmp_path, model_dir, config).finished
    found = logged(tmp_path)
    assert len(found) == 3 * 2 * 4 and any(found.values())
    for sample, value in found.items():
        assert value == pytest.approx(entered.values.get(sample, 0.0), abs=1e-6), sample
