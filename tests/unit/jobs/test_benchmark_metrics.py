"""The metrics' part of the evaluation benchmark on a few prompts."""

from __future__ import annotations

from benchmarks.evaluation_metrics import WORDS, made_texts, measured_parts, metric_measures
from polyray.metrics import self_bleu


def test_texts_come_from_the_seed_and_share_words() -> None:
    texts = made_texts(5, 16)
    assert texts == made_texts(5, 16) != made_texts(5, 16, seed=1)
    assert [len(candidates) for candidates in texts] == [16] * 5
    lengths = [len(text.split()) for candidates in texts for text in candidates]
    assert min(lengths) >= WORDS - 10 and max(lengths) <= WORDS + 10
    assert all(0.02 < self_bleu(candidates) < 0.5 for candidates in texts)


def test_every_part_takes_time_and_memory() -> None:
    figures = measured_parts(4, 16)
    assert [name.split()[0] for name in figures["seconds"]] == ["self-BLEU", "USQ", "bootstrap"]
    assert all(wall > 0 for wall, _ in figures["seconds"].values())
    assert 10e6 < figures["peak_bytes"] < 100e9


def test_the_whole_is_judged() -> None:
    measures = metric_measures(3, 16)
    *parts, total, _, peak = measures
    assert total.median == sum(part.median for part in parts)
    assert (total.limit, peak.limit) == (60.0, 2.0)
    assert total.ok and peak.ok
    assert peak.median < 1.0  # a process of its own, not this one
