"""Results about adapters against single measures, and the job that writes them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from polyray.cli.analyze import main
from polyray.errors import ConfigError
from polyray.metrics import holm
from polyray.shelf.research.lora.drift import drift
from polyray.shelf.research.lora.null import arm_difference
from polyray.shelf.research.lora.overlaps import overlap
from polyray.shelf.research.lora.results import Arm, as_csv, lora_results
from polyray.shelf.research.lora.spectra import decompose, spectrum
from polyray.shelf.research.lora.updates import Adapter, Place, read_adapter_updates
from tests.unit.shelf.research.lora.lora_files import factors, saved

Q, UP = Place(0, "self_attn.q_proj"), Place(1, "mlp.up_proj")


@pytest.fixture
def adapters(tmp_path: Path) -> list[Adapter]:
    """Six of rank 2 or 3, of two modules; the last one's up_proj is zero."""
    found = []
    for seed in range(6):
        a, b = factors(2 + seed % 2, seed=seed)
        zero = torch.zeros_like(b) if seed == 5 else b
        directory = saved(tmp_path / f"s{seed}", {"0.self_attn.q_proj": (a, b), "1.mlp.up_proj": (a, zero)})
        found.append(read_adapter_updates(directory, f"s{seed}"))
    return found


def test_lora_results_hold_the_single_measures(adapters: list[Adapter]) -> None:
    first, second, third = adapters[:3]
    results = lora_results(adapters[:2], checkpoints=adapters[:3])
    assert [each["name"] for each in results["adapters"]] == ["s0", "s1"]
    row = results["adapters"][1]["modules"][0]
    expected = spectrum(decompose(second.updates[Q]).singular_values)
    assert (row["layer"], row["module"], row["norm"]) == (0, "self_attn.q_proj", expected.norm)
    assert (row["effective_rank"], row["stable_rank"]) == (expected.effective_rank, expected.stable_rank)
    assert (row["norm_a"], row["norm_b"]) == second.factor_norms[Q]
    (pair,) = results["overlaps"]
    both, found = overlap(decompose(first.updates[UP]), decompose(second.updates[UP])), pair["modules"][1]
    assert (found["cosine"], found["read"]) == (both.cosine, both.read.overlap)
    assert found["written_by_chance"] == both.written.by_chance
    assert results["drift"]["checkpoints"] == ["s0", "s1", "s2"]
    moved = drift([adapter.updates[Q] for adapter in (first, second, third)]).moved
    assert results["drift"]["modules"][0]["moved"] == list(moved)


def test_lora_results_since_an_adapter_measure_the_difference(adapters: list[Adapter]) -> None:
    results = lora_results(adapters[1:3], since=adapters[0])
    assert results["since"] == "s0"
    change = adapters[1].updates[UP].minus(adapters[0].updates[UP])
    norm = results["adapters"][0]["modules"][1]["norm"]
    assert norm == pytest.approx(spectrum(decompose(change).singular_values).norm)


def test_lora_results_of_arms_are_corrected(adapters: list[Adapter]) -> None:
    one, two = Arm("one", tuple(adapters[:3])), Arm("two", tuple(adapters[3:]))
    (found,) = lora_results([], arms=[one, two])["arms"]
    alone = [
        arm_difference(*([seed.updates[place] for seed in arm.seeds] for arm in (one, two)))
        for place in (Q, UP)
    ]
    assert [row["p"] for row in found["modules"]] == [each.p for each in alone]
    assert [row["p_adjusted"] for row in found["modules"]] == list(holm([each.p for each in alone]))
    assert found["modules"][0]["excess"] == alone[0].between - alone[0].within


def test_lora_results_missing_value_is_none_and_empty_in_tables(adapters: list[Adapter]) -> None:
    results = lora_results([adapters[4], adapters[5]])
    row = results["overlaps"][0]["modules"][1]
    assert (row["cosine"], row["written"], row["written_angles"]) == (None, None, [])
    assert results["adapters"][1]["modules"][1]["rank"] == 0
    (_, line) = csv.DictReader(as_csv(results["overlaps"][0]["modules"]).splitlines())
    assert (line["module"], line["cosine"], line["written_angles"]) == ("mlp.up_proj", "", "")
    assert as_csv([]) == ""
    with pytest.raises(ConfigError, match="adapter"):
        lora_results([])


def test_analyze_lora_writes_page_json_and_tables(
    adapters: list[Adapter], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / f"s{seed}") for seed in range(6)]
    arms = ["--arm", "one", *names[:3], "--arm", "two", *names[3:]]
    out = tmp_path / "out"
    assert main(["lora", *names[:2], *arms, "--checkpoints", *names[:3], "--out", str(out)]) == 0
    results = json.loads((out / "lora.json").read_text())
    assert [each["name"] for each in results["adapters"]] == names[:2]
    rows = list(csv.DictReader((out / "modules.csv").read_text().splitlines()))
    assert [(row["adapter"], row["module"]) for row in rows] == [
        (name, module) for name in names[:2] for module in ("self_attn.q_proj", "mlp.up_proj")
    ]
    values = [float(value) for value in rows[0]["singular_values"].split()]
    assert values == results["adapters"][0]["modules"][0]["singular_values"]
    assert len(list(csv.DictReader((out / "drift.csv").read_text().splitlines()))) == 2
    assert re.search("one .*two: 0 of 2 modules", capsys.readouterr().out)
    assert sorted(path.name for path in out.iterdir()) == [
        "arms.csv", "drift.csv", "lora.html", "lora.json", "modules.csv", "overlaps.csv",
    ]  # fmt: skip
    page = (out / "lora.html").read_text()
    for figure in ("norm-0", "norm-1", "effective_rank-1", "cosine-0", "arms-0", "drift"):
        assert page.count(f'id="figure-{figure}"') == 1, figure


def test_analyze_lora_reads_the_adapter_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "run" / "adapter", {"0.mlp.up_proj": factors(2)})
    assert main(["lora", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--check"]) == 0
    assert json.loads(capsys.readouterr().out)["adapters"] == {
        str(tmp_path / "run"): str(tmp_path / "run" / "adapter")
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lora", "--out", "x"], "--arm, or --checkpoints"),
        (["lora", "missing", "--out", "x"], r"missing .*adapter_config\.json"),
        (["lora", "--arm", "one", "a", "--out", "x"], "--arm one .*twice"),
        (["lora", "--arm", "one", "a", "--arm", "two", "--out", "x"], "--arm two "),
        (["lore"], "'lore'; known: lora"),
    ],
)
def test_analyze_lora_names_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)
