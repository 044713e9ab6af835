"""Fronts of models and checkpoints, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.report.arms import Arm
from polyray.report.pareto import Front, checkpoint_front, evaluated_front
from polyray.report.pareto_figures import front_figure
from polyray.report.run_data import Evaluation, TrainingRun, read_json
from tests.unit.report.sweep_fixtures import write_evaluation

COUNTS = {"one": [2, 2, 2, 2], "many": [2, 2, 2, 1], "worse": [1, 1, 1, 1]}
"""Correct ones of 4 samples; those of "one" are all the same answer, the others' all differ."""


def evaluation(root: Path, counts: dict[str, list[int]] | None = None, **options: Any) -> Evaluation:
    given = {"one_class": ["one", "same"], **options}
    directory = write_evaluation(root / "evaluation", counts or COUNTS, **given)
    return Evaluation(root, {}, read_json(directory / "metrics.json"))


def front_of(*evaluations: Evaluation) -> Front:
    front = evaluated_front(evaluations)
    assert front is not None
    return front


def dynamics(name: str, rounds: list[tuple[int, float, float]]) -> TrainingRun:
    lines = [{"step": step, "pass_at_1": quality, "diversity": value} for step, quality, value in rounds]
    return TrainingRun(Path(name), {"algorithm": {"type": "grpo"}}, [], [], lines)


def test_front_and_hypervolume_match_manual_computation(tmp_path: Path) -> None:
    front = front_of(evaluation(tmp_path))
    points = {point.name: point for point in front.points}
    # Of 4 samples 2 are right, in one class: two candidates miss it with 1/6. All different: 2 x 2/4 on average.
    assert (points["one"].quality.value, points["one"].diversity.value) == pytest.approx((0.5, 5 / 6))
    assert (points["many"].quality.value, points["many"].diversity.value) == pytest.approx((0.4375, 0.875))
    assert (points["worse"].quality.value, points["worse"].diversity.value) == pytest.approx((0.25, 0.5))
    assert [point.name for point in front.points if point.on_front] == ["one", "many"]
    assert (front.quality, front.diversity) == ("pass@1", "distinct-correct@2")
    assert front.reference == (0.0, 0.0) and front.reference_rule.startswith("the origin")
    assert front.hypervolume.value == pytest.approx(0.5 * 5 / 6 + 0.4375 * (0.875 - 5 / 6))


def test_front_bands_match_resampled_prompts(tmp_path: Path) -> None:
    front = front_of(evaluation(tmp_path))
    points = {point.name: point for point in front.points}
    # Only the last prompt differs: drawn j times of 4, j ~ Bin(4, 1/4), "many" has pass@1 1/2 - j/16 and twice that
    # of different answers. j = 0: it beats "one" in both; j = 1: neither; j > 1: "one" beats it.
    assert points["many"].front_share == pytest.approx(0.7383, abs=0.04)
    assert points["one"].front_share == pytest.approx(0.6836, abs=0.04)
    assert points["worse"].front_share == 0
    assert (points["one"].quality.low, points["one"].quality.high) == (0.5, 0.5)
    assert (points["many"].quality.low, points["many"].quality.high) == (0.3125, 0.5)
    assert front.band[0] == pytest.approx((0.25, 5 / 6, 1.0))
    assert front.band[-1] == pytest.approx((0.5, 5 / 6, 1.0))
    assert (front.hypervolume.low, front.hypervolume.high) == pytest.approx((0.5 * 5 / 6, 0.5))


def test_front_draws_prompts_of_a_cluster_together_and_keeps_duplicates(tmp_path: Path) -> None:
    counts = {**COUNTS, "same": COUNTS["one"]}
    front = front_of(evaluation(tmp_path, counts, clusters=["a", "a", "a", "a"]))
    for point in front.points:
        assert point.quality.low == point.quality.high == point.quality.value
        assert point.on_front == (point.name != "worse")
        assert point.front_share == float(point.on_front)


def test_front_without_samples_has_no_bands_and_needs_two_models_with_numbers(tmp_path: Path) -> None:
    found = evaluation(tmp_path)
    (tmp_path / "evaluation" / "samples.jsonl").unlink()
    front = front_of(found)
    assert front.band == () and {point.front_share for point in front.points} == {None}
    assert [point.name for point in front.points if point.on_front] == ["one", "many"]
    found.metrics["models"]["many"]["distinct_correct_at_k"]["2"]["value"] = None
    assert [point.name for point in front_of(found).points] == ["one", "worse"]
    del found.metrics["models"]["worse"]["pass_at_k"]
    assert evaluated_front([found]) is None
    assert evaluated_front([]) is None


def test_front_averages_seeds(tmp_path: Path) -> None:
    other = {"one": [3, 3, 3, 3], "many": [2, 2, 2, 1], "worse": [1, 1, 1, 1]}
    front = front_of(evaluation(tmp_path / "0"), evaluation(tmp_path / "1", other))
    assert front.points[0].quality.value == pytest.approx((0.5 + 0.75) / 2)
    assert front.points[0].diversity.value == pytest.approx((5 / 6 + 1) / 2)
    assert front.points[0].quality.low == pytest.approx(0.625), "every prompt has the same mean over seeds"


def test_checkpoint_front_is_shared_by_all_arms() -> None:
    first = [
        dynamics("a-seed0", [(0, 0.3, 0.5), (10, 0.5, 0.2)]),
        dynamics("a-seed1", [(0, 0.3, 0.7), (10, 0.5, 0.2)]),
    ]
    arms = [Arm("a", "A", runs=first), Arm("b", "B", runs=[dynamics("b", [(0, 0.3, 0.6), (10, 0.4, 0.1)])])]
    front = checkpoint_front(arms)
    assert front is not None
    assert [(point.name, point.on_front) for point in front.points] == [
        ("A, step 0", True), ("A, step 10", True), ("B, step 0", True), ("B, step 10", False),
    ]  # fmt: skip
    assert (front.quality, front.diversity) == ("pass@1", "diversity")
    assert front.hypervolume.value == pytest.approx(0.5 * 0.2 + 0.3 * 0.4)
    assert front.band == () and checkpoint_front(arms[1:1]) is None


def test_front_figure_names_every_point(tmp_path: Path) -> None:
    front = front_of(evaluation(tmp_path))
    figure: Any = front_figure(front, [Arm("one", "one", colour="#0072b2")])
    band, line, *points = figure.data
    assert band.fill == "toself" and len(band.x) == 2 * len(front.band)
    assert (list(line.x), list(line.y)) == ([0.4375, 0.5], pytest.approx([0.875, 5 / 6]))
    assert [list(trace.text) for trace in points] == [["one"], ["many"], ["worse"]]
    assert [list(trace.marker.symbol) for trace in points] == [["diamond"], ["diamond"], ["circle-open"]]
    assert points[0].marker.color == "#0072b2"
    assert "on the front in" in points[1].hovertext[0]
