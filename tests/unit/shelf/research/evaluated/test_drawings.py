from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from polyray.errors import ConfigError
from polyray.report.arms import PALETTE, WARM_START_COLOUR, Arm
from polyray.shelf.research.evaluated import theory as theory_module
from polyray.shelf.research.evaluated.collapse import advice, collapse_point, der
from polyray.shelf.research.evaluated.drawings import figures
from polyray.shelf.research.evaluated.figures import forest_figure, model_arms
from polyray.shelf.research.evaluated.inputs import read_inputs
from polyray.shelf.research.evaluated.results import Results, analyse, reference_of
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, change_metrics, write_run

HARD, HALF, EASY = [WRONG] * 4, [0, WRONG, WRONG, 1], [0, 0, 1, 1]
MODELS = {
    "warm start": [HARD, HALF, EASY, HALF, HARD, EASY],
    "old <1>": [HARD, EASY, EASY, HALF, HALF, EASY],
    "new": [HALF, EASY, EASY, EASY, HALF, EASY],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("drawings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory_module, "REFITS", 10)
        patch.setattr(theory_module, "TEST_RESAMPLES", 9)
        return analyse(read_inputs([write_run(folder / "eval", MODELS, ks=(1, 2, 4), baseline="old <1>")]))


def traces(figure: go.Figure, mode: str | None = None) -> list[dict[str, Any]]:
    return [trace for trace in figure.to_dict()["data"] if mode in (None, trace.get("mode"))]


def test_figures_have_titles_captions_and_the_values_of_results(results: Results) -> None:
    drawn = figures(results)
    gains = [f"gain_by_{name}" for name in ("difficulty", "correct_classes", "completion_length")]
    assert list(drawn) == ["theory", *gains, "significance", "collapse", "domains"]
    for title, caption, figure in drawn.values():
        assert title and caption and any(len(trace["x"]) for trace in traces(figure))
    assert "2 of 4 samples" in drawn["theory"][1]
    curve = results.theory["evaluations"]["eval"]["models"]["new"]["curve"]
    measured = traces(drawn["theory"][2], "markers")[2]
    assert measured["y"] == [point["measured"] for point in curve]
    assert measured["error_y"]["array"] == [point["high"] - point["measured"] for point in curve]
    bins = results.conditions["evaluations"]["eval"]["conditions"]["difficulty"]["models"]["new"]
    gain = traces(drawn["gain_by_difficulty"][2], "lines+markers")[1]
    assert gain["y"] == [each["gains"]["pass@2"]["value"] for each in bins]
    assert traces(drawn["domains"][2], "lines+markers")[2]["y"] == results.domains["curves"][2]["value"]


def test_forest_figure_fills_significant_differences() -> None:
    common = {"model": "new", "metric": "pass_at_k", "difference": 0.1, "low": 0.0, "high": 0.3}
    tested = [{**common, "k": k, "p_adjusted": p} for k, p in ((1, 0.049), (8, 0.05))]
    [trace] = traces(forest_figure(tested, {"new": Arm("new", "new", PALETTE[0])}))
    assert trace["marker"]["color"] == [PALETTE[0], "rgba(0,0,0,0)"]
    assert trace["y"] == ["new: pass@1", "new: pass@8"]
    assert trace["error_x"]["array"] == pytest.approx([0.2, 0.2])
    assert trace["error_x"]["arrayminus"] == pytest.approx([0.1, 0.1])


def test_model_arms_that_share_an_adapter_keep_a_colour_each(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="new")
    names = {"warm start": "sft", "old <1>": "grpo", "new": "grpo"}
    config = {"adapters": {model: f"runs/{name}/adapter" for model, name in names.items()}}
    (run / "config.json").write_text(json.dumps(config))
    arms = model_arms(read_inputs([run]).runs)
    assert list(arms) == ["warm start", "old <1>", "new"]
    assert arms["warm start"].colour == WARM_START_COLOUR and arms["old <1>"].colour != arms["new"].colour


def test_advice_has_the_number_to_generate(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", {"A": [EASY], "B": [EASY], "C": [EASY]}, ks=(1, 2))
    ratio = {"1": {"value": 1.0}, "2": {"value": None}}
    entry = {"diversity_efficiency_ratio": ratio, "pass_at_k": {"1": {}, "2": {}}}
    points = {"A": {"value": 6.0, "low": 5.0, "high": None}, "B": {"value": None, "low": None, "high": None}}
    models = {name: entry | {"collapse_point": {"value": point}} for name, point in points.items()}
    change_metrics(run, models=models | {"C": entry})
    [read] = read_inputs([run]).runs
    first, second = advice(read)
    assert "A: generate 6 candidates [5, more]" in first
    assert "B: generate more than 4 candidates" in second
    assert der(read, "A") == {1: 1.0} and der(read, "A", "_null") == {}
    assert [collapse_point(read, model) for model in "ABC"] == [6, None, None]


def test_reference_is_the_warm_start_then_the_baseline(tmp_path: Path) -> None:
    [run] = read_inputs([write_run(tmp_path / "a", MODELS, baseline="new")]).runs
    assert reference_of(run) == "warm start" and reference_of(run, "new") == "new"
    with pytest.raises(ConfigError, match=r"'other' .*warm start, old <1>, new"):
        reference_of(run, "other")
    [plain] = read_inputs([write_run(tmp_path / "b", {"x": [EASY], "y": [EASY]}, baseline="y")]).runs
    assert reference_of(plain) == "y"
