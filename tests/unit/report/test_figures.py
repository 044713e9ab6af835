"""Figures of a page: curves, training panels, dynamics, boards, thinning, contrast of colours."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.colors import sample_colorscale

from polyray.report import figures
from polyray.report.arms import PALETTE, WARM_START_COLOUR, Arm, collect_arms
from polyray.report.boards import (
    CELL,
    CORRECT_COLOUR,
    MARGIN,
    WRONG_COLOUR,
    DrawnPath,
    board_svg,
    visited_cells,
)
from polyray.report.dynamics import (
    PANELS,
    alarm_lines,
    available_dynamics,
    cost_share,
    dynamics_figure,
    trajectory,
)
from polyray.report.pages import TEMPLATES, drawing
from polyray.report.run_data import TrainingRun, load_report_data
from polyray.report.run_report import build_report
from polyray.report.sweep.figures import BASELINE_COLOUR, SCALE
from polyray.report.thinning import rounded, thinned
from polyray.shelf.preferences.curation_report import _COLOURS
from polyray.tasks.hidden_trap_grid import cell_index
from tests.unit.report.report_fixtures import write_evaluation, write_training_run

GRPO = {"type": "grpo"}
BASE = (TEMPLATES / "base.html.j2").read_text()
EVIL = "</script><img src=x onerror=alert(1)>"


def traces(figure: go.Figure) -> list[dict[str, Any]]:
    return figure.to_dict()["data"]


def test_step_time_is_split_into_shares_without_the_first_step(tmp_path: Path) -> None:
    data = load_report_data([write_training_run(tmp_path / "a", GRPO)])
    expected = {"generate": 0.2, "score": 0.1, "learn": 0.3, "deliver and prove": 0.1, "other": 0.3}
    assert figures.step_time_shares(data.training[0]) == pytest.approx(expected)
    bars = traces(figures.time_figure(collect_arms(data)))
    assert sum(trace["x"][0] for trace in bars) == pytest.approx(1.0)


def test_curve_figure_draws_values_and_intervals(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "e", {"A": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]})
    data = load_report_data([path])
    figure = figures.curve_figure(data.evaluations, collect_arms(data), "pass_at_k")
    band, line = traces(figure)
    entry = data.evaluations[0].metrics["models"]["A"]["pass_at_k"]
    assert line["y"] == [entry["1"]["value"], entry["2"]["value"]]
    assert band["y"] == [entry["1"]["high"], entry["2"]["high"], entry["2"]["low"], entry["1"]["low"]]
    layout = figure.to_dict()["layout"]
    assert layout["xaxis"]["ticktext"] == ["1", "2"] and layout["showlegend"] is False


def test_training_figure_leaves_out_nulls_and_empty_panels_and_escapes_names() -> None:
    rows = [{"step": 0, "entropy": None, "loss": 0.0}, {"step": 1, "entropy": 0.5, "loss": 0.0}]
    run = TrainingRun(Path("a"), {"algorithm": {}}, rows)
    panels = figures.available_panels(figures.MAIN_PANELS + figures.MORE_PANELS, [run])
    assert [panel.key for panel in panels] == ["entropy"]
    raw, smooth = traces(figures.training_figure([Arm("a", "<b>x</b>", runs=[run])], panels[0]))
    assert raw["x"] == smooth["x"] == [1] and smooth["y"] == [0.5]
    assert smooth["hovertemplate"] == "%{y:.4g}<extra>&lt;b&gt;x&lt;/b&gt;</extra>"
    assert figures.running_mean([1, 3, 5, 100], 2) == [1, 2, 4, 52.5]


def test_drawing_carries_figure_and_words_without_markup() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[0.5, float("nan")], name=EVIL), {"height": 230})
    found = drawing("rl-entropy", "Entropy", "nats per token", figure)
    assert (found.height, found.label) == (230, "Entropy: nats per token")
    assert "<" not in found.json and "\\u003cimg src=x" in found.json
    trace: dict[str, Any] = json.loads(found.json)["data"][0]
    assert (trace["y"], trace["name"]) == ([0.5, None], EVIL)
    assert drawing("times", "", "", go.Figure()).label == "times"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), max_size=200), st.integers(4, 60))
def test_thinned_keeps_ends_extremes_and_the_limit(values: list[float], limit: int) -> None:
    kept = thinned(values, limit=limit)
    assert kept == sorted(set(kept)) and len(kept) <= limit
    if len(values) <= limit:
        assert kept == list(range(len(values)))
    else:
        inside = [values[at] for at in kept]
        assert {0, len(values) - 1} <= set(kept)
        assert (min(inside), max(inside)) == (min(values), max(values))


def test_thinned_keeps_the_extremes_of_every_bin() -> None:
    assert thinned([0, 9, 1, 2, 0, 1, 7, 3], limit=6) == [0, 1, 2, 4, 6, 7]
    values = np.random.default_rng(0).normal(size=10_000)
    kept = thinned(values.tolist(), limit=300)
    for part in np.array_split(np.arange(1, 9999), 149):
        inside = values[[at for at in kept if part[0] <= at <= part[-1]]]
        assert (inside.min(), inside.max()) == (values[part].min(), values[part].max())
    with pytest.raises(ValueError, match=r"limit=3: .* 4"):
        thinned([1, 2], limit=3)
    assert rounded([0.123456789, 123456.7, -1e-9, 0.0]) == [0.12346, 123460.0, -1e-9, 0.0]


def run(name: str, values: dict[int, Any], *, rl: bool = True, rows: Any = (), **config: Any) -> TrainingRun:
    lines = [{"step": step, "diversity": value} for step, value in values.items()]
    algorithm = {"algorithm": GRPO} if rl else {}
    return TrainingRun(Path(name), {"name": name, **algorithm, **config}, list(rows), [], lines)


def test_trajectory_has_mean_and_range_over_seeds_and_leaves_out_nan() -> None:
    runs = [
        run("a-seed0", {0: 0.5, 10: 0.4, 20: 0.3}),
        run("a-seed1", {0: 0.7, 10: math.nan, 20: 0.4}),
        run("a-seed2", {}),
    ]
    found = trajectory(runs, "diversity")
    assert found.steps == (0, 10, 20)
    assert found.mean == pytest.approx((0.6, 0.4, 0.35))
    assert (found.low, found.high, found.seeds) == ((0.5, 0.4, 0.3), (0.7, 0.4, 0.4), 2)
    assert trajectory(runs, "pass_at_1").steps == ()
    arms = [Arm("a", "A", runs=[run("a", {0: math.nan})]), Arm("b", "B", runs=[run("b", {})])]
    assert available_dynamics(arms) == []
    assert [panel.key for panel in available_dynamics([*arms, Arm("c", "C", runs=runs)])] == ["diversity"]


def test_dynamics_figure_ends_sft_where_rl_begins_and_bands_several_seeds() -> None:
    sft = Arm(
        "sft", "warm start", runs=[run("sft", {0: 0.1, 40: 0.2, 100: 0.3}, rl=False)], is_warm_start=True
    )
    one = Arm("a", "A", runs=[run("a-seed0", {0: 0.5, 1: 0.2})])
    two = Arm("a", "A", runs=[*one.runs, run("a-seed1", {0: 0.4, 1: 0.3})])
    figure = dynamics_figure([sft, one], PANELS[3])
    assert [(trace["x"], "fill" in trace) for trace in traces(figure)] == [
        ([-100, -60, 0], False),
        ([0, 1], False),
    ]
    assert figure.to_dict()["layout"]["shapes"][0]["x0"] == 0
    figure = dynamics_figure([two], PANELS[3])
    band, mean = traces(figure)
    assert (band["fill"], band["x"], band["y"]) == ("toself", [0, 1, 1, 0], [0.5, 0.3, 0.2, 0.4])
    assert mean["y"] == pytest.approx([0.45, 0.25]) and "shapes" not in figure.to_dict()["layout"]


def test_alarm_lines_name_the_first_and_last_step() -> None:
    monitors = [{"preset": "@collapse", "rule": {"share": 0.25}}, "@mismatch"]
    lines = [{"step": step, "monitor/collapse": int(step in (4, 6))} for step in (0, 2, 4, 6, 8)]
    rows = [{"step": step, "monitor/mismatch": int(step > 6)} for step in range(9)]
    arm = Arm("a", "A", runs=[TrainingRun(Path("a-seed0"), {"monitors": monitors}, rows, [], lines)])
    collapse, mismatch = alarm_lines([arm])
    assert re.fullmatch(r"A \(a-seed0\): .*diversity .* 0\.75 .*step 4 .*step 6", collapse)
    assert re.fullmatch(r"A \(a-seed0\): .*kl_rollout .*step 7 on", mismatch)
    other = TrainingRun(Path("a-seed1"), {}, rows, [], lines)
    assert alarm_lines([Arm("a", "A", runs=[other])]) == []


def test_cost_share_of_validation_is_relative_to_all_seconds() -> None:
    rl = [{"step_s": 1.0}, {"step_s": 1.5, "validation_s": 0.5}]
    sft = [{"step_s": 0.2}, {"step_s": 0.2, "validation_s": 0.1}]
    assert cost_share([run("a", {}, rows=rl)]) == pytest.approx(0.2)
    assert cost_share([run("s", {}, rl=False, rows=sft)]) == pytest.approx(0.2)
    assert cost_share([run("a", {}, rows=rl[:1])]) is None


def test_page_draws_dynamics_only_of_runs_with_any(tmp_path: Path) -> None:
    path = write_training_run(tmp_path / "drgrpo-seed0", GRPO)
    assert 'id="figure-dynamics-' not in build_report(load_report_data([path]), "t")
    line = '{"phase": "rl", "step": %d, "pass_at_1": 0.4, "diversity": 0.1, "monitor/collapse": %d}\n'
    (path / "dynamics.jsonl").write_text(line % (0, 0) + line % (4, 1) + '{"phase": "rl", "st')  # torn
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "monitors": ["@collapse"]}))
    page = build_report(load_report_data([path]), "t")
    assert page.count('id="figure-dynamics-') == 2
    assert re.search(r"diversity .* 0\.5 .* step 4", page)


def names(*cells: str) -> list[int]:
    return [cell_index(cell) for cell in cells]


@pytest.mark.parametrize(
    ("moves", "traps", "visited"),
    [
        ("RU", (), ("b1", "c1", "c2")),
        ("RUU", ("c2",), ("b1", "c1", "c2")),
        ("LLL", (), ("b1", "a1")),
        ("R?R", (), ("b1", "c1")),
        ("UD" * 9, (), ("b1", "b2") * 5),
    ],
)
def test_visited_cells_end_at_the_first_failure(
    moves: str, traps: tuple[str, ...], visited: tuple[str, ...]
) -> None:
    assert visited_cells(cell_index("b1"), moves, frozenset(names(*traps))) == names(*visited)


def test_board_svg_draws_each_path_from_start_and_every_trap() -> None:
    paths = [DrawnPath("RRRUUU", 3, False), DrawnPath("UUURRR", 1, True)]
    svg = board_svg("37|b1>e4=", frozenset(names("d1", "h8")), paths, "two paths")
    assert svg.count('class="trap"') == 2 and svg.count("<polyline") == 2
    assert svg.count(CORRECT_COLOUR) == 2 and svg.count(WRONG_COLOUR) == 2
    assert svg.count("stroke-dasharray") == 1
    alone = board_svg("37|b1>e4=", frozenset(), [DrawnPath("R", 1, True)], "")
    y = 7.5 * CELL
    assert f'points="{MARGIN + 1.5 * CELL:.1f},{y:.1f} {MARGIN + 2.5 * CELL:.1f},{y:.1f}"' in alone


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2, from #rrggbb, #rgb or rgb(r, g, b)."""
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        channels = [int(digits[at : at + 2], 16) for at in (0, 2, 4)]
    else:
        channels = [float(part) for part in re.findall(r"[\d.]+", colour)]
    red, green, blue = (
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in channels)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def tokens(ground: str) -> dict[str, str]:
    """Read the colours of `light` or `dark` from the template."""
    blocks = {"light": r":root \{ (--ink.*?)color-scheme: light", "dark": r"set dark %\}(.*?)\{% endset"}
    found = re.search(blocks[ground], BASE, re.DOTALL)
    assert found is not None
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", found[1]))


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_figures_and_text_have_contrast_on_both_grounds(ground: str) -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21.0)
    assert contrast("rgb(119, 119, 119)", "#fff") == pytest.approx(4.48, abs=0.01)
    found = tokens(ground)
    scale = [str(colour) for colour in sample_colorscale(SCALE, 21)]
    parts = [colour for _, _, colour in figures.TIME_PARTS]
    own = (*PALETTE, WARM_START_COLOUR, figures.OTHER_COLOUR, BASELINE_COLOUR)
    colours = (*own, *parts, *_COLOURS.values(), *scale)
    assert [colour for colour in colours if contrast(colour, found["card"]) < 3] == []
    pairs = [("ink", "card"), ("soft", "card"), ("faint", "card"), ("accent", "card"), ("ink", "ground")]
    pairs += [("good", "good-fill"), ("bad", "bad-fill"), ("ink", "note-fill"), ("ink", "alarm-fill")]
    pairs += [("soft", "fill"), ("soft", "note-fill"), ("faint", "ground")]
    assert [pair for pair in pairs if contrast(found[pair[0]], found[pair[1]]) < 4.5] == []
    assert tokens("light").keys() == tokens("dark").keys(), "a token of one ground only"
