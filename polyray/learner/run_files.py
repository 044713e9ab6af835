"""Files that rank 0 writes while training: metrics.jsonl, rollouts.jsonl and ledger.jsonl.

periodic_eval.py writes dynamics.jsonl and best/, checkpoints.py writes checkpoints/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.run import TrainConfig
from polyray.learner.group_metrics import SecondOpinionGap
from polyray.learner.monitors import Monitors
from polyray.runs.jsonl import JsonlWriter, cut_jsonl, read_jsonl
from polyray.types import METRIC_KEYS, ScoredGroup, StepMetrics, TrainingBatch


class RunFiles:
    """The learner's side of a run directory."""

    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        self._config = config
        self.run_dir = run_dir
        self.checkpoints_dir = run_dir / "checkpoints"
        self.versions_dir = run_dir / "versions"
        self.adapter_dir = run_dir / "adapter"
        self._metrics_path = run_dir / "metrics.jsonl"
        self._rollouts_path = run_dir / "rollouts.jsonl"
        self._ledger_path = run_dir / "ledger.jsonl"
        self.checkpoints_dir.mkdir(parents=True, exist_ok=True)

    def cut_to(self, step: int) -> None:
        """Drops the lines of steps that a resumed run will do again."""
        for path in (self._metrics_path, self._rollouts_path, self._ledger_path):
            cut_jsonl(path, lambda line: line["step"] < step)
        lines = read_jsonl(self._metrics_path)
        self._gap = SecondOpinionGap(lines)
        self._monitors = Monitors(self._config.monitors, lines)
        self._scores = {line["policy_version"]: self._score(line) for line in lines}
        self._metrics = JsonlWriter(self._metrics_path)
        self._rollouts = JsonlWriter(self._rollouts_path)
        self._ledger = JsonlWriter(self._ledger_path)

    def write_step(
        self,
        step: int,
        batch: TrainingBatch,
        metrics: StepMetrics,
        timings: Mapping[str, float],
        advantages: Sequence[np.ndarray],
    ) -> StepMetrics:
        """Appends one line per step, keys in the order of METRIC_KEYS; returns it.

        `advantages` are those in the loss, [G] per group of `batch`: with annealing, length and KL rewards, stale
        weights and scale, before clipping and the weights of single tokens. 0: the completion trains nothing.
        """
        values: dict[str, Any] = {
            "step": step,
            "policy_version": step + 1,
            **metrics,
            **batch.counters,
            **timings,
            "idle_learn": max(0.0, 1 - timings["learn_s"] / timings["step_s"]),
        }
        values |= self._gap.observe(values)
        values |= self._monitors.observe(values)
        order = [*METRIC_KEYS, *sorted(set(values) - set(METRIC_KEYS))]
        line: StepMetrics = {key: values[key] for key in order}
        logged = self._config.rollouts_logged_per_step
        for group, advantages_G in zip(batch.groups[:logged], advantages[:logged], strict=True):
            self._rollouts.write({"step": step, **_in_full(group, advantages_G)})
        if batch.history:
            self._ledger.write(batch.history)
        self._metrics.write(line)
        self._scores[step + 1] = self._score(line)
        return line

    @property
    def scores(self) -> dict[int, float]:
        """Version -> value of learner.best_metric on the way to it; {} where no such metric is configured."""
        return {version: value for version, value in self._scores.items() if value is not None}

    def _score(self, line: Mapping[str, Any]) -> float | None:
        metric = self._config.learner.best_metric
        value = None if metric is None else line.get(metric)
        return float(value) if isinstance(value, int | float) else None


def _in_full(group: ScoredGroup, advantages_G: np.ndarray) -> dict[str, Any]:
    return {
        "group_id": group.group.group_id,
        "policy": group.group.policy.version,
        "prompt": group.group.prompt.text,
        "completions": [
            {
                "text": completion.text,
                "reward": None if np.isnan(reward) else float(reward),
                "class": int(class_id),
                "advantage": round(float(advantage), 6),
                "logprob": round(float(completion.rollout_logprobs.sum()), 4),
                "finish_reason": completion.finish_reason,
            }
            for completion, reward, class_id, advantage in zip(
                group.group.completions, group.rewards_G, group.classes_G, advantages_G, strict=True
            )
        ],
    }
