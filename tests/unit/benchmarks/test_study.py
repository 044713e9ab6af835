"""Committed results of studies: what is stored, how days are joined, and the pages that are made from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import study_page
from benchmarks.study import RATE, other_arms, rates_of, study_of
from benchmarks.study_file import DISTINCT, SFT_ONLY, USQ, Study, best_rates
from benchmarks.study_page import PAGE, README, compared, filled, intervals, study_names
from polyray.config.loader import build_config
from polyray.config.run import WARM_START
from polyray.config.sweep import ARM, SweepConfig
from polyray.errors import DataError
from polyray.metrics.pass_at_k import best_at_k
from polyray.report.sweep.trials import Trial, TrialStatus, write_trials
from tests.unit.report.sweep_fixtures import write_evaluation

ROOT = Path(__file__).resolve().parents[3]

SETUP: dict[str, Any] = {
    "reference": "polychromic",
    "task": {"type": "hidden_trap_grid", "trap_probability": 0.15},
    "steps": 60,
    "completions_per_step": 256,
    "num_samples": 32,
    "selector": "logprob",
    "dataset_sha256": "1f",
}
CLUSTERS = [f"pair-{index // 2}" for index in range(80)]


def trial(arm: str, seed: int | None, chance: float) -> dict[str, Any]:
    """A trial whose completions are right with `chance`, the same prompts being easier for all."""
    draw = np.random.default_rng([len(arm), 99 if seed is None else seed])
    correct = draw.binomial(32, np.linspace(0.5 * chance, 1.5 * chance, len(CLUSTERS)))
    values = {"correct": correct.tolist(), DISTINCT: (correct / 8).tolist(), USQ: (correct / 32).tolist()}
    about = {"learning_rate": 1e-4, "entropy": 0.3, "minutes": 1.5, "machine": "2 cores"}
    return {
        "arm": arm,
        "seed": seed,
        "command": "polyray sweep x.yaml",
        **values,
        **({} if seed is None else about),
    }


def study(*seeds: int, **setup: Any) -> Study:
    trained = [(arm, seed, chance) for arm, chance in (("GRPO", 0.3), ("polychromic", 0.4)) for seed in seeds]
    return Study(SETUP | setup, CLUSTERS, [trial(*each) for each in ((SFT_ONLY, None, 0.2), *trained)])


def test_file_gives_back_the_study(tmp_path: Path) -> None:
    kept = study(0, 1)
    kept.write(tmp_path / "results" / "x.json")
    assert Study.read(tmp_path / "results" / "x.json") == kept


def test_pass_at_k_of_counts_is_that_of_the_samples() -> None:
    matrix = study(0, 1).matrices("pass_at_8")["polychromic"]
    assert matrix.shape == (2, len(CLUSTERS))
    for counted, value in zip(study(0, 1).arms["polychromic"][1]["correct"], matrix[1], strict=True):
        assert value == pytest.approx(best_at_k([1.0] * counted + [0.0] * (32 - counted), 8))


def test_trials_of_another_day_join_in_the_order_of_arms_and_seeds() -> None:
    joined = study(1, 2).with_trials(study(0, 2))
    assert [(row["arm"], row["seed"]) for row in joined.trials] == [
        (SFT_ONLY, None), *((arm, seed) for arm in ("GRPO", "polychromic") for seed in (0, 1, 2))
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 61},
        {"dataset_sha256": "2e"},
        {"task": {"type": "hidden_trap_grid", "trap_probability": 0.0}},
    ],
)
def test_trials_of_another_study_do_not_join(changed: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(changed))}=.*no one study"):
        study(0).with_trials(study(1, **changed))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    made = study(0, 1, 2)
    made.write(tmp_path / "grid.json")
    monkeypatch.setattr(study_page, "RESULTS", tmp_path)
    for function in (study_page._study, intervals, compared):
        function.cache_clear()
    yield made
    for function in (study_page._study, intervals, compared):
        function.cache_clear()


def test_page_has_the_means_and_differences_of_the_file(kept: Study) -> None:
    page = filled("# Title\n<!-- study grid -->\nstale\n<!-- end -->\nkept\n<!-- studies -->\n<!-- end -->\n")
    means = {arm: matrix.mean() for arm, matrix in kept.matrices("pass_at_1").items()}
    for arm, mean in means.items():
        assert page.count(f"| {arm} | ") >= 2
        assert f"{mean:.3f}".lstrip("0") in page
    difference = f"-{means['polychromic'] - means['GRPO']:.3f}".replace("-0", "-")
    assert f"| GRPO | **{difference} [" in page
    assert "stale" not in page
    assert "\n<!-- end -->\nkept\n" in page
    assert "No baseline has a higher pass@8: **yes**" in page
    assert filled(page) == page


def test_figure_marks_every_arm(kept: Study) -> None:
    root = ElementTree.fromstring(study_page.figure("grid"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {f"{number}  {arm}" for number, arm in enumerate(kept.arms, start=1)} <= set(texts)


def test_pages_and_figures_are_those_of_the_committed_results() -> None:
    for page in (PAGE, README):
        text = page.read_text(encoding="utf-8")
        assert filled(text) == text, "run python -m benchmarks.study page"
    for name in study_names():
        figure = (study_page.RESULTS / f"{name}.svg").read_text(encoding="utf-8")
        assert figure == study_page.figure(name), "run python -m benchmarks.study page"


def test_study_and_rates_are_read_from_a_finished_sweep(tmp_path: Path) -> None:
    config = build_config(
        SweepConfig,
        {
            "name": "study-x",
            "runs_dir": str(tmp_path),
            "train": str(ROOT / "configs/train/hidden_trap_grid.yaml"),
            "arms": {"GRPO": ["algorithm=@grpo"], "polychromic": ["algorithm=@polychromic"]},
            "baseline": "polychromic",
        },
    )
    run = tmp_path / "study-x"
    given: tuple[tuple[str, int, TrialStatus], ...] = (
        ("GRPO", 0, "done"),
        ("polychromic", 0, "done"),
        ("polychromic", 1, "failed"),
    )
    trials = [
        Trial(f"t{number}", {ARM: arm, RATE: 1e-4}, seed, status, None, 2, None, 90.0, 0.25, 0.0, 10)
        for number, (arm, seed, status) in enumerate(given)
    ]
    for each in trials:
        directory = run / "trials" / each.trial_id
        directory.mkdir(parents=True)
        values = {
            "task": {"type": "hidden_trap_grid"},
            "learner": {"steps": 2, "learning_rate": 1e-4},
            "rollout": {"prompts_per_step": 4, "group_size": 8},
        }
        (directory / "config.json").write_text(json.dumps(values))
        (directory / "metrics.jsonl").write_text('{"entropy": 0.5}\n{"entropy": 0.25}\n')
        last = {"pass_at_1": 0.3 + each.seed, "pass_at_8": 0.6, DISTINCT: 1.5}
        (directory / "dynamics.jsonl").write_text('{"pass_at_1": 0.1}\n' + json.dumps(last) + "\n")
    write_trials(run / "trials.jsonl", trials)
    correct = {WARM_START: [1, 0, 2], "t0": [8, 0, 3], "t1": [5, 8, 0]}
    write_evaluation(
        run / "evaluation" / "evaluation", correct, one_class=["t0"], clusters=["a", "a", "b"], num_samples=8
    )
    found = study_of(config, "x.yaml 'seeds=[0]'")
    assert [(row["arm"], row["seed"], row["correct"]) for row in found.trials] == [
        (SFT_ONLY, None, [1, 0, 2]), ("GRPO", 0, [8, 0, 3]), ("polychromic", 0, [5, 8, 0])
    ]  # fmt: skip
    assert [row[DISTINCT] for row in found.trials] == [[1, 0, 2], [1, 0, 1], [5, 8, 0]]
    assert [row[USQ] for row in found.trials] == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
    ]  # only the last sample is picked
    assert found.clusters == ["a", "a", "b"]
    assert found.setup["completions_per_step"] == 32 and found.setup["reference"] == "polychromic"
    row = found.trials[1]
    assert (row["entropy"], row["minutes"], row["command"]) == (
        0.375,
        1.5,
        "polyray sweep x.yaml 'seeds=[0]'",
    )
    rates = rates_of(config)
    assert [(row["arm"], row["seed"], row["pass_at_1"]) for row in rates] == [
        ("GRPO", 0, 0.3), ("polychromic", 0, 0.3)
    ]  # fmt: skip


def test_best_rate_has_the_highest_sum_of_pass_at_1_and_8() -> None:
    tried = ((1e-4, 0.3, 0.6), (2e-4, 0.25, 0.7), (4e-4, 0.34, 0.5))
    rows = [rate_row(*each) for each in tried]
    assert best_rates(rows) == {"GRPO": 2e-4}
    assert best_rates([*rows, rate_row(1e-4, 0.3, 0.6), rate_row(2e-4, 0.1, 0.6)]) == {"GRPO": 1e-4}, "a mean"


def rate_row(rate: float, first: float, eighth: float) -> dict[str, Any]:
    return {"arm": "GRPO", "learning_rate": rate, "pass_at_1": first, "pass_at_8": eighth, DISTINCT: 1.0}


def test_trials_at_another_rate_do_not_join_their_arm() -> None:
    other = study(1)
    for each in other.trials[1:]:
        each["learning_rate"] = 5e-4
    with pytest.raises(DataError, match=r"GRPO .*rates of 0\.0001 and 0\.0005"):
        study(0).with_trials(other)


def test_rates_of_a_later_search_replace_those_of_its_arms() -> None:
    rows = [{"arm": arm, "learning_rate": rate} for arm in ("GRPO", "PKPO") for rate in (1e-4, 2e-4)]
    assert other_arms(rows, [{"arm": "PKPO", "learning_rate": 4e-4}, {"arm": "NSR"}]) == rows[:2]
