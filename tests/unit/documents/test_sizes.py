"""Tables of the operator's guide follow from the memory estimate and from their own assumptions."""

from __future__ import annotations

import re

import pytest

from polyray.capacity import memory
from polyray.capacity.placement import smallest_card
from polyray.capacity.shapes import QWEN3, ModelShape
from polyray.config.model import LINEAR_MODULES
from tests.unit.documents.document_text import read, table_rows

G, K = 2**30, 2**10
RANK = 16


def between(mark: str) -> list[list[str]]:
    return table_rows(read("deploy/README.md").partition(f"<!-- {mark}: begin -->")[2].partition("<!--")[0])


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def learner_besides(shape: ModelShape) -> float:
    """Bytes of a learner rank besides weights, at 8,192 micro-batch tokens."""
    states = memory.adapter_states(shape.lora_parameters(RANK), reference=True)
    logits = memory.rl_logits(shape, 8192)
    return states + 8192 * kept(shape, checkpointed=True) + logits + memory.LEARNER_OVERHEAD


def kept(shape: ModelShape, *, checkpointed: bool) -> int:
    """Bytes that a token keeps for the backward pass."""
    layer = memory.layer_activations(shape, "bfloat16", RANK, LINEAR_MODULES)
    return memory.activations(layer, shape, "bfloat16", checkpointed=checkpointed)


@pytest.mark.parametrize("row", between("sizes"), ids=lambda row: row[0])
def test_table_of_sizes_follows_from_the_shapes(row: list[str]) -> None:
    shape = QWEN3[row[0]]
    given = (shape.layers, shape.hidden, shape.heads, shape.intermediate)
    assert tuple(int(number(cell)) for cell in row[1:5]) == given
    adapter = shape.lora_parameters(RANK)
    expected = [
        shape.parameters / 1e9,
        2 * shape.parameters / G,
        adapter / 1e6,
        memory.adapter_states(adapter, reference=True) / G,
        kept(shape, checkpointed=True) / K,
        kept(shape, checkpointed=False) / K,
        memory.kv_bytes_per_token(shape, "bfloat16") / K,
    ]
    for cell, value, places in zip(row[5:], expected, (2, 1, 1, 2, 0, 0, 0), strict=True):
        assert number(cell) == round(value, places), (cell, value)


@pytest.mark.parametrize(("row", "name"), zip(between("gpus"), QWEN3, strict=True))
def test_table_of_gpus_follows_from_the_shapes(row: list[str], name: str) -> None:
    assert row[0] == name
    shape = QWEN3[name]
    weights = 2 * shape.parameters
    learner = weights + learner_besides(shape)
    assert (number(row[1]), number(row[2])) == (round(learner / G, 1), smallest_card(learner / G))
    slots = memory.lora_slots(shape, "bfloat16", RANK, 2)  # two versions at staleness 0
    shared = weights + 64 * 2048 * memory.kv_bytes_per_token(shape, "bfloat16") + slots
    for devices, cell in ((1, 3), (2, 5)):
        engine = shared / devices + memory.sampling_logits(shape, 64) + memory.ENGINE_OVERHEAD
        assert number(row[cell]) == round(engine / G, 1)
        assert number(row[cell + 1]) == smallest_card(engine / G / 0.85)


@pytest.mark.parametrize("row", between("shared"), ids=lambda row: row[0])
def test_table_of_sharded_ranks_follows_from_the_shapes(row: list[str]) -> None:
    shape = QWEN3[row[0]]
    layers, gathered = 2 * shape.layers * shape.block_parameters, 2 * 3 * shape.block_parameters
    rest = 2 * shape.parameters - layers
    device = rest + gathered + learner_besides(shape)
    expected = [rest, layers, gathered, *(device + layers / ranks for ranks in (2, 4, 8)), device, layers / 4]
    assert [number(cell) for cell in row[1:]] == [round(value / G, 1) for value in expected]


def test_cost_of_a_rented_machine_follows_from_its_parts() -> None:
    generate, learn = 64 * 320 / 5_000, 64 * 576 / 13_000
    parts = {
        "set-up, downloads, starts": 1_800,
        "SFT, 100 steps": 100 * 8 * 576 / 13_000,
        "100 steps": 100 * (round(generate, 1) + round(learn, 1) + 0.2 + 1),
        "evaluation of two models": 2 * 200 * 16 * 320 / 5_000,
    }
    rows = {row[0]: row for row in table_rows(read("deploy/README.md").partition("**What it costs**")[2])}
    for name, seconds in parts.items():
        assert number(rows[name][2]) == pytest.approx(seconds, rel=0.02), name
    assert number(rows["a step: generate"][2]) == round(generate, 1)
    assert number(rows["a step: learn"][2]) == round(learn, 1)
    total = sum(number(rows[name][2]) for name in parts)
    assert number(rows["all"][1]) == total
    hours = re.search(r"(\d\.\d\d) h x 1 GPU x 2\.50 USD = (\d\.\d\d) USD", read("deploy/README.md"))
    assert hours is not None
    assert float(hours[1]) == round(total / 3600, 2)
    assert float(hours[2]) == pytest.approx(float(hours[1]) * 2.5, abs=0.005)
