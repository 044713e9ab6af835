"""results.json of a sweep: everything that its page shows, computed from trials, evaluation and run directories.

    trials + arms of the evaluation --settings.py--> settings (trials that differ in their seed only)
      --values.py--> [seeds, prompts] --> curves, tests against the baseline, front, recommendation, costs

Called by polyray sweep when the trials have ended. Equal inputs give equal results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.sweep import ARM
from polyray.errors import DataError
from polyray.evaluation.curves import Entry
from polyray.evaluation.per_prompt import MetricKey, TextMetrics
from polyray.report.run_data import read_json
from polyray.report.sweep.comparisons import compare_with_baseline
from polyray.report.sweep.costs import setting_cost, total_cost
from polyray.report.sweep.curves import advantage_share, curve_keys, hierarchical_entries, seed_means
from polyray.report.sweep.frontier import frontier
from polyray.report.sweep.recommendation import Mode, adapter_choice, recommend
from polyray.report.sweep.search import SearchNote, search_entry
from polyray.report.sweep.settings import Grouped, Setting, axis_symbol, group_trials
from polyray.report.sweep.trials import Trial
from polyray.report.sweep.values import SweepValues, evaluated_arms, metric_key, metric_name, read_values


@dataclass(frozen=True, slots=True)
class _Asked:
    """Arguments of `sweep_results`."""

    keys: Mapping[str, MetricKey]
    """quality, diversity, criterion."""
    ks: Sequence[int]
    baseline: float | None
    margin: float
    mode: Mode
    seed: int
    is_ordered: bool
    """Whether the swept weight is a number."""
    shares: Mapping[str, float | None]
    """trial_id -> share of diversity in the advantages."""


def sweep_results(
    trials: Sequence[Trial],
    evaluation_dir: Path,
    run_dirs: Mapping[str, Path],
    *,
    axis: str,
    objective: str,
    baseline: float | None,
    quality: str,
    diversity: str,
    ks: Sequence[int],
    margin: float,
    seed: int,
    criterion: str | None = None,
    mode: Mode = "max",
    text_metrics: TextMetrics | None = None,
    search: SearchNote | None = None,
) -> dict[str, Any]:
    """The contents of results.json; NaN and infinities are null.

    Args:
        trials: all of them, ended well or not.
        evaluation_dir: with samples.jsonl and metrics.json; arms are named like trials, others are ignored.
        run_dirs: trial_id -> its run directory, for metrics.jsonl; a trial may lack one.
        axis: dotted path of the swept weight, or ARM. If it was not swept, config.json of a run has its value.
        objective: objective of the weight, in words.
        baseline: value of the axis that others are compared with, for ARM its place; None: nothing is tested.
        quality, diversity: per-prompt values of the evaluation, larger is better: pass_at_1, usq_at_8,
            distinct_correct_at_8, best_at_8, mean_reward, or a text metric.
        ks: of the curves.
        margin: in units of the criterion, how much worse than the best is still near it.
        seed: of the resampling.
        criterion: what the recommendation maximises; pass@k at the largest k by default.
        mode: whether the trials' validation metric is to be large; it chooses the adapter among seeds.
        text_metrics: those that read texts, where `quality` or `diversity` is one of them.
        search: how the settings were chosen, where it is known.

    Raises:
        DataError: no trial was evaluated, an unknown metric, an axis that is no number, broken files.
    """
    if not ks or margin < 0:
        raise DataError(f"ks={list(ks)} and margin={margin} must be at least one k and a margin of 0 or more")
    arms = evaluated_arms(evaluation_dir)
    grouped = group_trials(_with_axis(trials, run_dirs, axis), arms, axis)
    if not grouped.compared:
        raise DataError(
            f"none of {len(trials)} trials counts: {'; '.join(f'{k} {v}' for k, v in grouped.left_out.items())}. "
            "Evaluate them first"
        )
    names = {"quality": quality, "diversity": diversity, "criterion": criterion or f"pass_at_{max(ks)}"}
    keys = {name: metric_key(metric) for name, metric in names.items()}
    counted = [trial.trial_id for setting in grouped.compared for trial in setting.members]
    sizes = {*ks, *(int(k) for _, k in keys.values() if k != "value")}
    values = read_values(evaluation_dir, counted, sorted(sizes), text_metrics)
    for name, key in keys.items():
        values.check(key, name)
    shares = {trial.trial_id: advantage_share(run_dirs.get(trial.trial_id)) for trial in trials}
    asked = _Asked(keys, sorted(set(ks)), baseline, margin, mode, seed, axis != ARM, shares)
    result = {
        "axis": axis,
        "symbol": axis_symbol(axis),
        "objective": objective,
        "baseline": baseline,
        **names,
        "ks": asked.ks,
        "margin": margin,
        "seed": seed,
        "search": None if search is None else search_entry(search, grouped.settings),
        "evaluation": _evaluation_notes(values, [arm for arm in arms if arm not in shares]),
        "trials": [_trial_entry(trial, grouped, values, asked) for trial in trials],
        "left_out": dict(grouped.left_out),
        **_by_setting(grouped.compared, values, asked),
        "total_cost": total_cost(trials),
    }
    return finite(result)


def finite(value: Any) -> Any:
    """The same for JSON: None for every number that is not finite, plain Python numbers, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_setting(compared: Sequence[Setting], values: SweepValues, asked: _Asked) -> dict[str, Any]:
    criterion, picked = asked.keys["criterion"], ("usq_at_k", str(asked.ks[-1]))
    tested: list[MetricKey] = list(
        dict.fromkeys([*asked.keys.values(), *([picked] if values.has(picked) else [])])
    )
    comparisons = compare_with_baseline(compared, values, tested, asked.baseline, asked.seed)
    gains = {
        pair["setting"]: pair for pair in comparisons["pairs"] if pair["metric"] == metric_name(criterion)
    }
    keys = list(dict.fromkeys([*asked.keys.values(), *curve_keys(values, asked.ks)]))
    intervals = hierarchical_entries(compared, values, keys, asked.seed)
    entries = [_setting_entry(setting, values, asked, intervals[setting.label]) for setting in compared]
    points = [
        {"setting": entry["setting"]} | {name: entry[name]["value"] for name in ("quality", "diversity")}
        for entry in entries
    ]
    references = [setting.label for setting in compared if setting.value == asked.baseline]
    recommendation, *alternatives = (
        recommend(compared, values, key, asked.margin, asked.seed, is_ordered=asked.is_ordered)
        for key in (criterion, *(key for key in tested if key != criterion))
    )
    chosen = next(setting for setting in compared if setting.label == recommendation["setting"])
    recommendation |= {
        "against_baseline": gains.get(chosen.label),
        **adapter_choice(chosen, asked.mode),
        "by_other_criteria": [
            {name: entry[name] for name in ("criterion", "setting", "value", "best", "range")}
            for entry in alternatives
        ],
    }
    return {
        "settings": entries,
        "pareto": frontier(points, references),
        "comparisons": comparisons,
        "recommendation": recommendation,
        "costs": [setting_cost(setting, gains.get(setting.label)) for setting in compared],
    }


def _setting_entry(
    setting: Setting, values: SweepValues, asked: _Asked, intervals: Mapping[MetricKey, Entry]
) -> dict[str, Any]:
    shares = [asked.shares[trial.trial_id] for trial in setting.members]
    known = [share for share in shares if share is not None]
    return {
        "setting": setting.label,
        "value": setting.value,
        "others": dict(setting.others),
        "block": setting.block,
        "trials": [trial.trial_id for trial in setting.trials],
        "counted": [trial.trial_id for trial in setting.members],
        "is_complete": setting.is_complete,
        **{name: intervals[key] for name, key in asked.keys.items()},
        "curves": {
            metric: {str(k): intervals[metric, str(k)] for k in asked.ks}
            for metric, _ in curve_keys(values, asked.ks[:1])
        },
        "per_seed": seed_means(setting, values, asked.keys),
        "advantage_share_diversity": {
            "mean": float(np.mean(known)) if known else None,
            "per_seed": shares,
        },
    }


def _trial_entry(trial: Trial, grouped: Grouped, values: SweepValues, asked: _Asked) -> dict[str, Any]:
    setting = next(
        setting
        for setting in grouped.settings
        if any(member.trial_id == trial.trial_id for member in setting.trials)
    )
    table = values.tables.get(trial.trial_id)
    means = {
        name: None if table is None else float(table.values[key].mean()) for name, key in asked.keys.items()
    }
    return {
        **asdict(trial),
        "setting": setting.label,
        "value": setting.value,
        "counts": table is not None,
        "left_out": grouped.left_out.get(trial.trial_id),
        **means,
        "advantage_share_diversity": asked.shares[trial.trial_id],
    }


def _evaluation_notes(values: SweepValues, ignored: Sequence[str]) -> dict[str, Any]:
    copied = ("dataset_sha256", "n_problems", "n_clusters", "n_samples", "selector", "pass_threshold")
    return {
        **{name: values.metrics.get(name) for name in copied},
        "confidence": values.confidence,
        "resamples": values.resamples,
        "warnings": list(values.metrics.get("warnings", [])),
        "refused": {
            selector: note["refused"]
            for selector, note in (values.metrics.get("selectors") or {}).items()
            if note.get("refused")
        },
        "ignored_arms": list(ignored),
    }


def _with_axis(trials: Sequence[Trial], run_dirs: Mapping[str, Path], axis: str) -> list[Trial]:
    """Give trials without the axis its value from a run's configuration: not swept, it is the same in all."""
    if all(axis in trial.parameters for trial in trials):
        return list(trials)
    for trial in trials:
        value: Any = read_json(run_dirs[trial.trial_id] / "config.json") if trial.trial_id in run_dirs else {}
        for part in axis.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return [replace(entry, parameters={axis: value} | entry.parameters) for entry in trials]
    return list(trials)
