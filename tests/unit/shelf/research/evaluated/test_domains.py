from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyray.shelf.research.evaluated.domains import domains
from polyray.shelf.research.evaluated.inputs import read_inputs
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, write_run

ROWS = [[0, 1, WRONG, WRONG], [0, 0, 0, 0]]


def found(*runs: Path) -> dict[str, Any]:
    return domains(read_inputs(runs).runs)


def test_domains_have_a_row_per_model_and_a_curve_of_every_k(tmp_path: Path) -> None:
    both = {"A": ROWS, "B": ROWS[::-1]}
    code = write_run(tmp_path / "a", both, ks=(1, 2, 4), domain="code", baseline="B")
    maths = write_run(tmp_path / "b", {"A": ROWS}, ks=(1, 2), domain="math")
    result = found(code, maths)
    assert result["k"] == 2 and result["notes"] == []
    assert [(row["domain"], row["model"], row["is_baseline"], row["k"]) for row in result["rows"]] == [
        ("code", "A", False, 2), ("code", "B", True, 2), ("math", "A", True, 2),
    ]  # fmt: skip
    first = result["rows"][0]
    # Half of 4 samples pass, in two classes: 1 - C(2, 2) / C(4, 2) = 5/6 of the pairs hold one; the classes have
    # 1 - C(3, 2) / C(4, 2) = 1/2 each. The second prompt is solved always, by one class.
    values = [first[name]["value"] for name in ("pass_at_1", "pass_at_k", "distinct_correct_at_k")]
    assert values == pytest.approx([(1 / 2 + 1) / 2, (5 / 6 + 1) / 2, (1 + 1) / 2])
    assert first["usq_at_k"]["low"] <= first["usq_at_k"]["value"] <= first["usq_at_k"]["high"]
    assert first["pass_at_k"]["sources"][0]["key"] == "/models/A/pass_at_k/2"
    curve = result["curves"][0]
    assert curve["ks"] == [1, 2, 4]
    assert curve["value"] == pytest.approx([0.75, 11 / 12, 1.0])
    assert curve["low"][2] == curve["high"][2] == 1.0


def test_domains_show_runs_of_one_domain_separately_with_a_reason(tmp_path: Path) -> None:
    result = found(
        write_run(tmp_path / "a", {"A": ROWS}, seed=0),
        write_run(tmp_path / "b", {"A": ROWS}, seed=1),
        write_run(tmp_path / "c", {"A": ROWS, "B": ROWS}, prompts=("x", "y")),
    )
    assert [row["domain"] for row in result["rows"]] == ["code (a)", "code (b)", "code (c)", "code (c)"]
    seeds, prompts, both = result["notes"]
    assert "a and b are both of code" in seeds and "seeds 0 and 1" in seeds
    assert "other prompts (dataset_sha256" in prompts and "other models (B in one alone)" in prompts
    assert "seeds 1 and 0" in both


def test_domains_without_a_common_k_have_their_own(tmp_path: Path) -> None:
    result = found(
        write_run(tmp_path / "a", {"A": ROWS}, ks=(1, 2), domain="code"),
        write_run(tmp_path / "b", {"A": ROWS}, ks=(3,), domain="math"),
    )
    assert result["k"] is None and [row["k"] for row in result["rows"]] == [2, 3]
    assert result["rows"][1]["pass_at_1"] is None, "it was not measured there"
    assert "a [1, 2]; b [3]" in result["notes"][0]
