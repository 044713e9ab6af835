"""The page about adapters, from results as lora.json has them: no adapter is read here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from polyray.shelf.research.lora.figures import drift_figure, heatmap, short_names, similarity_figure
from polyray.shelf.research.lora.page import MAX_PAIRS, write_lora_page

EVIL = "<img src=x onerror=alert(1)></script>"


def modules(**numbers: list[Any]) -> list[dict[str, Any]]:
    """Rows of q_proj in layer 0 and of up_proj in layer 1."""
    places = ((0, "self_attn.q_proj"), (1, "mlp.up_proj"))
    return [
        {"layer": layer, "module": module, **{key: values[at] for key, values in numbers.items()}}
        for at, (layer, module) in enumerate(places)
    ]


@pytest.fixture
def results() -> dict[str, Any]:
    names = ["/abs/runs/a/adapter", "/abs/runs/b/adapter", f"/abs/runs/{EVIL}/adapter"]
    spectra = modules(norm=[1.0, 2.0], effective_rank=[1.5, 2.0])
    pairs = [(0, 1, [0.5, None]), (0, 2, [0.25, 0.75]), (1, 2, [None, None])]
    tests = modules(excess=[0.3, -0.1], p_adjusted=[0.04, None], smallest_p=[0.02, None])
    drifts = modules(from_first=[[0.0, 3.0, 6.0], [0.0, 4.0, 8.0]])
    return {
        "base_sha256": "9f86",
        "since": None,
        "adapters": [{"name": name, "rank": 2, "modules": spectra} for name in names],
        "overlaps": [
            {"first": names[i], "second": names[j], "modules": modules(cosine=cosines)}
            for i, j, cosines in pairs
        ],
        "arms": [{"first": "one", "second": "two", "modules": tests}],
        "drift": {"checkpoints": ["v0", "v20", "v40"], "modules": drifts},
    }


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def test_short_names_are_the_shortest_unique_paths() -> None:
    for short, long in (
        (["a/adapter", "b/adapter"], ["/r/a/adapter", "/r/b/adapter"]),
        (["a", "b"], ["/r/a", "/r/b"]),
        (["x/a", "a"], ["x/a", "a"]),
    ):
        assert short_names(long) == dict(zip(long, short, strict=True))


def test_heatmap_has_numbers_stars_and_p_values_in_their_cells(results: dict[str, Any]) -> None:
    (trace,) = traces(heatmap(results["arms"][0]["modules"], "excess", signed=True, p_values="p_adjusted"))
    assert [list(row) for row in trace.z] == [[0.3, None], [None, -0.1]]
    assert [list(row) for row in trace.text] == [["*", ""], ["", ""]]
    assert [list(row) for row in trace.customdata] == [[", p = 0.04", ""], ["", ""]]
    assert (trace.zmin, trace.zmax) == (-0.3, 0.3)


def test_similarity_figure_has_means_over_modules_with_a_cosine(results: dict[str, Any]) -> None:
    names = [each["name"] for each in results["adapters"]]
    (trace,) = traces(similarity_figure(results["overlaps"], names))
    assert [list(row) for row in trace.z] == [[1.0, 0.5, 0.5], [0.5, 1.0, None], [0.5, None, 1.0]]
    assert list(trace.x)[:2] == ["a/adapter", "b/adapter"]


def test_drift_figure_adds_layers_as_squares(results: dict[str, Any]) -> None:
    lines = {trace.name: list(trace.y) for trace in traces(drift_figure(results["drift"]))}
    assert lines == {"q_proj": [0.0, 3.0, 6.0], "up_proj": [0.0, 4.0, 8.0], "all modules": [0.0, 5.0, 10.0]}


def test_lora_page_is_one_file_that_loads_nothing(results: dict[str, Any], tmp_path: Path) -> None:
    write_lora_page(results, tmp_path / "new" / "lora.html")
    page = (tmp_path / "new" / "lora.html").read_text()
    short, count = re.subn(r"<script>/\*\*\n\* plotly.js.*?</script>", "", page, flags=re.DOTALL)
    assert count == 1
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|https?:""", short)
    assert EVIL not in short and short.count("<script>") == 2
    assert short.count('class="plot"') == 3 * 2 + 1 + 3 + 1 + 1
    assert '<td class="n">1</td><td class="n">1</td><td class="n">0.02</td>' in short
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lora.html"]


def test_lora_page_omits_missing_results_and_surplus_pairs(results: dict[str, Any], tmp_path: Path) -> None:
    drift = {"checkpoints": ["v0"], "modules": []}
    write_lora_page(
        {**results, "overlaps": [], "arms": [], "drift": drift, "base_sha256": None}, tmp_path / "a.html"
    )
    page = (tmp_path / "a.html").read_text()
    assert 'id="pairs"' not in page and 'id="arms"' not in page
    write_lora_page({**results, "overlaps": results["overlaps"] * 5}, tmp_path / "b.html")
    page = (tmp_path / "b.html").read_text()
    assert page.count('id="figure-cosine-') == MAX_PAIRS and "3 more pairs" in page
