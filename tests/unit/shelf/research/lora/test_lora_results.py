"""Results about adapters against single measures, and the job that writes them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from polyray.cli.analyze import main
from polyray.errors import ConfigError
from polyray.metrics import holm
from polyray.shelf.research.lora.drift import drift
from polyray.shelf.research.lora.figures import heatmap
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


def test_every_number_matches_its_measure(adapters: list[Adapter]) -> None:
    first, second = adapters[:2]
    results = lora_results(adapters[:2])
    assert [each["name"] for each in results["adapters"]] == ["s0", "s1"]
    row = results["adapters"][1]["modules"][0]
    expected = spectrum(decompose(second.updates[Q]).singular_values)
    assert (row["layer"], row["module"], row["norm"]) == (0, "self_attn.q_proj", expected.norm)
    assert (row["effective_rank"], row["stable_rank"]) == (expected.effective_rank, expected.stable_rank)
    assert (row["norm_a"], row["norm_b"]) == second.factor_norms[Q]
    (pair,) = results["overlaps"]
    both = overlap(decompose(first.updates[UP]), decompose(second.updates[UP]))
    assert (pair["modules"][1]["cosine"], pair["modules"][1]["read"]) == (both.cosine, both.read.overlap)
    assert pair["modules"][1]["written_by_chance"] == both.written.by_chance


def test_results_since_an_adapter_measure_the_difference(adapters: list[Adapter]) -> None:
    results = lora_results(adapters[1:3], since=adapters[0])
    assert results["since"] == "s0"
    (_, row) = results["adapters"][0]["modules"]
    change = adapters[1].updates[UP].minus(adapters[0].updates[UP])
    assert row["norm"] == pytest.approx(spectrum(decompose(change).singular_values).norm)


def test_arms_are_tested_against_their_seeds_and_corrected(adapters: list[Adapter]) -> None:
    one, two = Arm("one", tuple(adapters[:3])), Arm("two", tuple(adapters[3:]))
    (found,) = lora_results([], arms=[one, two])["arms"]
    alone = [
        arm_difference(
            [each.updates[place] for each in one.seeds], [each.updates[place] for each in two.seeds]
        )
        for place in (Q, UP)
    ]
    assert [row["p"] for row in found["modules"]] == [each.p for each in alone]
    assert [row["p_adjusted"] for row in found["modules"]] == list(holm([each.p for each in alone]))
    assert found["modules"][0]["excess"] == alone[0].between - alone[0].within


def test_drift_follows_the_checkpoints(adapters: list[Adapter]) -> None:
    found = lora_results([], checkpoints=adapters[:3])["drift"]
    assert found["checkpoints"] == ["s0", "s1", "s2"]
    expected = drift([adapter.updates[Q] for adapter in adapters[:3]])
    assert found["modules"][0]["moved"] == list(expected.moved)
    assert lora_results(adapters[:1])["drift"]["modules"] == []


def test_missing_value_is_none_and_empty_in_tables(adapters: list[Adapter]) -> None:
    results = lora_results([adapters[4], adapters[5]])
    row = results["overlaps"][0]["modules"][1]
    assert (row["cosine"], row["written"], row["written_angles"]) == (None, None, [])
    assert results["adapters"][1]["modules"][1]["rank"] == 0
    (_, line) = csv.DictReader(as_csv(results["overlaps"][0]["modules"]).splitlines())
    assert (line["module"], line["cosine"], line["written_angles"]) == ("mlp.up_proj", "", "")
    assert as_csv([]) == ""


def test_a_heatmap_has_each_number_in_its_place(adapters: list[Adapter]) -> None:
    entries = lora_results(adapters[:1])["adapters"][0]["modules"]
    figure: Any = heatmap(entries, "norm")
    (trace,) = figure.data
    assert (list(trace.x), list(trace.y)) == (["q_proj", "up_proj"], ["0", "1"])
    assert [list(row) for row in trace.z] == [[entries[0]["norm"], None], [None, entries[1]["norm"]]]
    assert (trace.zmin, trace.zmax) == (0, max(entry["norm"] for entry in entries))


def test_job_writes_page_json_and_tables(
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


def test_run_directory_is_read_as_its_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_no_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match="adapter"):
        lora_results([])
