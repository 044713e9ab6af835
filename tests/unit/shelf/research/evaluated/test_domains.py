from __future__ import annotations

from pathlib import Path

import pytest

from polyray.shelf.research.evaluated.domains import domains
from polyray.shelf.research.evaluated.inputs import read_inputs
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, write_run

ROWS = [[0, 1, WRONG, WRONG], [0, 0, 0, 0]]


def test_one_row_per_model_and_domain(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", {"A": ROWS, "B": ROWS[::-1]}, ks=(1, 2, 4), domain="code", baseline="B"),
        write_run(tmp_path / "b", {"A": ROWS}, ks=(1, 2), domain="math"),
    ]
    found = domains(read_inputs(runs).runs)
    assert found["k"] == 2 and found["notes"] == []
    assert [(row["domain"], row["model"], row["is_baseline"], row["k"]) for row in found["rows"]] == [
        ("code", "A", False, 2), ("code", "B", True, 2), ("math", "A", True, 2),
    ]  # fmt: skip
    first = found["rows"][0]
    # Half of 4 samples pass, in two classes: 1 - C(2, 2) / C(4, 2) = 5/6 of the pairs hold one; the classes have
    # 1 - C(3, 2) / C(4, 2) = 1/2 each. The second prompt is solved always, by one class.
    assert first["pass_at_1"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert first["pass_at_k"]["value"] == pytest.approx((5 / 6 + 1) / 2)
    assert first["distinct_correct_at_k"]["value"] == pytest.approx((1 + 1) / 2)
    assert first["usq_at_k"]["low"] <= first["usq_at_k"]["value"] <= first["usq_at_k"]["high"]
    assert first["pass_at_k"]["sources"][0]["key"] == "/models/A/pass_at_k/2"


def test_the_figure_has_every_measured_k(tmp_path: Path) -> None:
    [run] = read_inputs([write_run(tmp_path / "a", {"A": ROWS}, ks=(1, 2, 4))]).runs
    [curve] = domains([run])["curves"]
    assert curve["ks"] == [1, 2, 4]
    assert curve["value"] == pytest.approx([0.75, 11 / 12, 1.0])
    assert curve["low"][2] == curve["high"][2] == 1.0


def test_runs_of_one_domain_are_separate_rows_with_a_reason(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", {"A": ROWS}, seed=0),
        write_run(tmp_path / "b", {"A": ROWS}, seed=1),
        write_run(tmp_path / "c", {"A": ROWS, "B": ROWS}, prompts=("x", "y")),
    ]
    found = domains(read_inputs(runs).runs)
    assert [row["domain"] for row in found["rows"]] == ["code (a)", "code (b)", "code (c)", "code (c)"]
    seeds, prompts, both = found["notes"]
    assert seeds == "a and b are both of code and are shown separately: seeds 0 and 1"
    assert "other prompts (dataset_sha256" in prompts and "other models (B in one alone)" in prompts
    assert "seeds 1 and 0" in both


def test_without_a_common_k_every_row_has_its_own(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", {"A": ROWS}, ks=(1, 2), domain="code"),
        write_run(tmp_path / "b", {"A": ROWS}, ks=(3,), domain="math"),
    ]
    found = domains(read_inputs(runs).runs)
    assert found["k"] is None and [row["k"] for row in found["rows"]] == [2, 3]
    assert found["rows"][1]["pass_at_1"] is None, "it was not measured there"
    assert "a [1, 2]; b [3]" in found["notes"][0]
