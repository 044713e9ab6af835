"""rollouts.jsonl holds the advantages that entered the loss, whatever the configuration adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.learner import step as step_module
from polyray.runs.jsonl import read_jsonl
from tests.unit.learner.loop_fixtures import start
from tests.unit.tiny_policy import train_config

SETS = {"type": "polychromic", "objective": "distinct_correct", "diversity_weight": 1.0, "set_size": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "annealed weight": {**SETS, "anneal": {"diversity_weight": 5.0, "over_steps": 2}},
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
    "everything": {
        **SETS,
        "anneal": {"diversity_weight": 5.0, "over_steps": 2},
        "scale": "batch",
        "overlong_buffer": 3,
        "truncated": "mask",
    },
    "scale of the group": {"type": "grpo", "scale": "group", "overlong_buffer": 4},
    "truncated, dropped": {"type": "grpo", "truncated": "drop", "overlong_buffer": 4},
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


@pytest.mark.parametrize("name", OPTIONS)
def test_rollouts_log_the_advantages_of_the_loss(
    name: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(
        algorithm=OPTIONS[name], learner={"steps": 2, "checkpoint_every": 2}, rollouts_logged_per_step=2
    )
    entered = Entered(monkeypatch)
    assert start(tmp_path, model_dir, config).finished
    found = logged(tmp_path)
    assert len(found) == 2 * 2 * 4 and any(found.values())
    for sample, value in found.items():
        assert value == pytest.approx(entered.values.get(sample, 0.0), abs=1e-6), sample
