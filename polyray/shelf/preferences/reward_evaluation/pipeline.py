"""A RewardValidationConfig from files to metrics.json, slices.csv, mistakes.jsonl and report.html.

    held_out --> each scorer: scores (on disk) --> measures, calibration     \\
                 each model: probes                                           > metrics.json, report.html
                 pairs that all scorers scored --> slices, tests, statement  /

A score that could not be computed is never 0: its pairs count for no scorer, and above a configured share the
run stops. Called by jobs/evaluate_reward.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.reward_validation import EngagementScorerSpec, RewardValidationConfig
from polyray.errors import ConfigError, RewardError
from polyray.runs.atomic import atomic_write_bytes, atomic_write_json, atomic_write_text
from polyray.runs.jsonl import encode_line
from polyray.shelf.preferences.engagement import data_sha256
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, Texts, read_held_out
from polyray.shelf.preferences.reward_evaluation.measures import (
    Measured,
    Settings,
    fitted_temperature,
    measure,
)
from polyray.shelf.preferences.reward_evaluation.probe_results import ProbeTexts, probe_scorer, probe_texts
from polyray.shelf.preferences.reward_evaluation.results import Scored, build_metrics, counts, worst_mistakes
from polyray.shelf.preferences.reward_evaluation.score_store import Progress, ScoreStore
from polyray.shelf.preferences.reward_evaluation.scorers import CompletionScorer, build_scorer
from polyray.shelf.preferences.reward_evaluation.seen import cards_of, check_unseen, seen_by_models
from polyray.shelf.preferences.reward_evaluation.slices import as_csv, pair_slices, slice_rows

TUNING_PAIRS = 1000
"""Largest number of pairs for the scale of a score that is not log-odds: one number is fitted."""


@dataclass(frozen=True, slots=True)
class ValidationFiles:
    """Files of a validation below evaluation/.

    Example:
        ValidationFiles(Path("runs/x/evaluation")).metrics == Path("runs/x/evaluation/metrics.json")
    """

    root: Path

    @property
    def data(self) -> Path:
        """Identity of the validated data."""
        return self.root / "data.json"

    @property
    def scores(self) -> Path:
        """One file per scorer."""
        return self.root / "scores"

    @property
    def metrics(self) -> Path:
        """All numbers but the slices."""
        return self.root / "metrics.json"

    @property
    def slices(self) -> Path:
        """A row per slice and scorer."""
        return self.root / "slices.csv"

    @property
    def mistakes(self) -> Path:
        """Pairs that models were wrong and sure about, in full."""
        return self.root / "mistakes.jsonl"


def derived_sizes(config: RewardValidationConfig) -> dict[str, Any]:
    """Sizes of the validation; reads the data and loads no model."""
    data = read_held_out(config.data, config.seed, seen_by_models(config.scorers.values()))
    probed = min(config.probes.num_completions, len(data.validated))
    return {
        "part": data.part,
        **counts(data.validated),
        "train_completions": 0 if data.train is None else len(data.train),
        "scorers": len(config.scorers),
        "tests_in_family": len(config.models) * len(config.baselines),
        "scored_per_scorer": len(data.validated),
        "scored_by_probes_per_model": probed * len(config.probes.names),
    }


def validate(
    config: RewardValidationConfig, root: Path, report: Path, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Runs everything, writes the files of `root` (evaluation/) and `report`, and returns the metrics.

    Raises ConfigError where the data is another than that of an earlier start, RewardError where a scorer leaves
    too much unscored.
    """
    files = ValidationFiles(root)
    data = read_held_out(config.data, config.seed, seen_by_models(config.scorers.values()))
    check_unseen(config, data)
    # All of them first: a missing model is noticed before hours of scoring, and before the run has begun.
    scorers = {name: build_scorer(name, spec, data, config.seed) for name, spec in config.scorers.items()}
    _same_data(files, data.sha256)
    probes = probe_texts(data.validated, config.probes, config.seed)
    scored: dict[str, Scored] = {}
    for name, scorer in scorers.items():
        tricks = probes if name in config.models and config.probes.num_completions else None
        scored[name] = _score(scorer, data, tricks, config, ScoreStore(files.scores, scorer, progress))
    common_N = np.all([np.isfinite(found.scores_N) for found in scored.values()], axis=0)
    texts = data.validated.subset(common_N)
    _check_pairs(texts)
    kept = {name: found.scores_N[common_N] for name, found in scored.items()}
    measured: dict[str, Measured] = {}
    for number, (name, scores) in enumerate(kept.items()):
        progress("measuring", number, len(kept))
        measured[name] = measure(scores, texts, scored[name].temperature, config)
    rows = slice_rows(pair_slices(texts), measured, texts, Settings.of(config))
    metrics = build_metrics(config, data, texts, scored, measured, rows)
    mistakes = [line for name in config.models for line in worst_mistakes(name, kept[name], texts)]
    atomic_write_text(files.slices, as_csv(rows))
    atomic_write_bytes(files.mistakes, b"".join(encode_line(line) for line in mistakes))
    _write_report(config, metrics, rows, mistakes, kept, texts, report)
    atomic_write_json(files.metrics, metrics)
    return metrics


def _score(
    scorer: CompletionScorer,
    data: HeldOut,
    probes: ProbeTexts | None,
    config: RewardValidationConfig,
    store: ScoreStore,
) -> Scored:
    texts = data.validated
    scores_N = store.scores(texts.prompts, texts.completions)
    unscored = float((~np.isfinite(scores_N)).mean())
    if unscored > config.max_unscored_share:
        raise RewardError(
            f"{scorer.name} left {unscored:.1%} of {len(texts)} completions unscored, more than "
            f"max_unscored_share={config.max_unscored_share}; repair it, or raise the limit"
        )
    temperature: float | None = 1.0
    if not scorer.log_odds:
        tuning = None if data.tuning is None else _some_pairs(data.tuning, config.seed)
        temperature = None
        if tuning is not None and len(tuning):
            temperature = fitted_temperature(store.scores(tuning.prompts, tuning.completions), tuning)
    found: dict[str, Any] = {}
    if probes is not None:
        spread = float(np.nanstd(scores_N))
        found = probe_scorer(store.scores, probes, spread, config.probes, Settings.of(config))
    about = {
        "version": scorer.version,
        "note": scorer.note,
        "log_odds": scorer.log_odds,
        "fitted_temperature": None if scorer.log_odds else temperature,
        "unscored": int((~np.isfinite(scores_N)).sum()),
    }
    return Scored(scores_N, temperature, found, about)


def _some_pairs(texts: Texts, seed: int) -> Texts:
    """Random subset of at most TUNING_PAIRS pairs, with the records they need."""
    chosen = np.arange(len(texts.pairs))
    if len(chosen) > TUNING_PAIRS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, TUNING_PAIRS, replace=False))
    needed_N = np.zeros(len(texts), dtype=bool)
    needed_N[texts.pairs.better_M[chosen]] = needed_N[texts.pairs.worse_M[chosen]] = True
    return texts.subset(needed_N)


def _check_pairs(texts: Texts) -> None:
    if len(np.unique(texts.clusters_M)) < 2:
        raise RewardError(
            f"only {len(texts.pairs)} pairs are left that every scorer has scored, in fewer than 2 clusters; see "
            "which scorer leaves completions unscored (evaluation/scores), and leave it out or repair it"
        )


def check_finished(config: RewardValidationConfig, root: Path) -> None:
    """Raises ConfigError where the data or a model of a finished validation is another by now."""
    files = ValidationFiles(root)
    _same_data(files, data_sha256(Path(config.data.path)))
    validated = json.loads(files.metrics.read_text(encoding="utf-8"))["scorers"]
    for name, spec in config.scorers.items():
        if isinstance(spec, EngagementScorerSpec):
            (card,) = cards_of(spec)
            _same(name, validated[name]["version"], card.version, files)


def _same_data(files: ValidationFiles, sha256: str) -> None:
    """Check that a resumed run does not mix two data sets."""
    if files.data.is_file():
        _same("the data", json.loads(files.data.read_text(encoding="utf-8"))["sha256"], sha256, files)
        return
    files.root.mkdir(parents=True, exist_ok=True)
    atomic_write_json(files.data, {"sha256": sha256})


def _same(what: str, before: str, now: str, files: ValidationFiles) -> None:
    if before != now:
        raise ConfigError(
            f"{what} has changed since this run was started (sha256 {before[:12]} -> {now[:12]}); give this run "
            f"another name (name=...), or delete {files.root.parent}"
        )


def _write_report(
    config: RewardValidationConfig,
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    mistakes: Sequence[Mapping[str, Any]],
    scores: Mapping[str, np.ndarray],
    texts: Texts,
    path: Path,
) -> None:
    from polyray.shelf.preferences.reward_evaluation.report import PageData, build_page

    models = {name: scores[name] for name in config.models}
    page = build_page(config, PageData(metrics, rows, mistakes, models, texts))
    atomic_write_text(path, page)
