"""The operator's guide: its table of sizes follows from the shapes beside them, its costs from their assumptions."""

from __future__ import annotations

import re

import pytest

from tests.unit.documents.document_text import read, table_rows

G, K = 2**30, 2**10
HEAD_SIZE, KV_HEADS, VOCABULARY, RANK = 128, 8, 151_936, 16
TIED = ("0.6B", "1.7B", "4B")
CARDS = {16: 15.0, 24: 22.4, 40: 39.4, 48: 44.9, 80: 79.5, 96: 93.5, 141: 139.8}
"""GB on the label -> GiB that a process can have."""


def between(mark: str) -> list[list[str]]:
    return table_rows(read("deploy/README.md").partition(f"<!-- {mark}: begin -->")[2].partition("<!--")[0])


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


class Shape:
    def __init__(self, row: list[str]) -> None:
        self.layers, self.hidden, self.heads, self.intermediate = (int(number(cell)) for cell in row[1:5])
        self.queries, self.keys = self.heads * HEAD_SIZE, KV_HEADS * HEAD_SIZE
        self.linear = [
            (self.hidden, self.queries), (self.hidden, self.keys), (self.hidden, self.keys),
            (self.queries, self.hidden), (self.hidden, self.intermediate), (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]  # fmt: skip
        self.block = sum(a * b for a, b in self.linear) + 2 * self.hidden + 2 * HEAD_SIZE
        embeddings = (1 if row[0] in TIED else 2) * VOCABULARY * self.hidden
        self.parameters = self.layers * self.block + embeddings + self.hidden
        self.kv_bytes = 2 * self.layers * KV_HEADS * HEAD_SIZE * 2

    def adapter(self, rank: int = RANK) -> int:
        return self.layers * rank * sum(a + b for a, b in self.linear)

    def block_bytes(self) -> int:
        q, v, h, i = self.queries, self.keys, self.hidden, self.intermediate
        norms = 4 * (2 * h + 2) + 4 * (q + v + self.heads + KV_HEADS)
        return norms + 4 * (q + v) + 4 * self.heads + 6 * i + 2 * (2 * h + i) + 2 * len(self.linear) * RANK

    def checkpointed_bytes(self) -> int:
        return 2 * self.layers * self.hidden + self.block_bytes()

    def learner_besides(self) -> float:
        """Bytes of a learner rank besides weights, at 8,192 micro-batch tokens."""
        logits = 2**25 // VOCABULARY * VOCABULARY * 18
        return 20 * self.adapter() + 8192 * self.checkpointed_bytes() + logits + 1.5 * G


@pytest.mark.parametrize("row", between("sizes"), ids=lambda row: row[0])
def test_sizes(row: list[str]) -> None:
    shape = Shape(row)
    expected = [
        shape.parameters / 1e9,
        2 * shape.parameters / G,
        shape.adapter() / 1e6,
        20 * shape.adapter() / G,
        shape.checkpointed_bytes() / K,
        shape.layers * shape.block_bytes() / K,
        shape.kv_bytes / K,
    ]
    for cell, value, places in zip(row[5:], expected, (2, 1, 1, 2, 0, 0, 0), strict=True):
        assert number(cell) == round(value, places), (cell, value)


def test_the_family_is_there() -> None:
    assert [row[0] for row in between("sizes")] == ["0.6B", "1.7B", "4B", "8B", "14B", "32B"]
    assert [row[0] for row in between("gpus")] == [row[0] for row in between("sizes")]


@pytest.mark.parametrize("at", range(6))
def test_gpus(at: int) -> None:
    shape, row = Shape(between("sizes")[at]), between("gpus")[at]
    weights = 2 * shape.parameters
    learner = weights + shape.learner_besides()
    assert (number(row[1]), number(row[2])) == (round(learner / G, 1), card(learner / G))
    for devices, cell in ((1, 3), (2, 5)):
        slots = 2 * 2 * shape.adapter()  # at staleness 0 two versions in 16 bits
        shared = weights + 64 * 2048 * shape.kv_bytes + slots
        engine = shared / devices + 64 * VOCABULARY * 12 + 2.5 * G
        assert (number(row[cell]), number(row[cell + 1])) == (round(engine / G, 1), card(engine / G / 0.85))


@pytest.mark.parametrize("row", between("shared"), ids=lambda row: row[0])
def test_ranks_that_share_the_base(row: list[str]) -> None:
    shape = Shape(next(of_model for of_model in between("sizes") if of_model[0] == row[0]))
    layers, gathered = 2 * shape.layers * shape.block, 2 * 3 * shape.block
    rest = 2 * shape.parameters - layers
    device = rest + gathered + shape.learner_besides()
    expected = [rest, layers, gathered, *(device + layers / ranks for ranks in (2, 4, 8)), device, layers / 4]
    assert [number(cell) for cell in row[1:]] == [round(value / G, 1) for value in expected]


def card(gib: float) -> int:
    return next(label for label, usable in CARDS.items() if usable >= gib)


def test_the_cost_of_a_rented_machine() -> None:
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
