"""Alterations of texts, and verdicts about scorers with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from polyray.config.reward_validation import ProbeName, ProbeSpec, ValidationDataSpec
from polyray.shelf.preferences.reward_evaluation import probe_results
from polyray.shelf.preferences.reward_evaluation.held_out import Texts, read_held_out
from polyray.shelf.preferences.reward_evaluation.measures import Settings
from polyray.shelf.preferences.reward_evaluation.probe_results import probe_scorer, probe_texts
from polyray.shelf.preferences.reward_evaluation.probes import (
    ALTERATIONS,
    EMOJI,
    FILLER,
    ProbeInput,
    alter,
    draw,
    other_completions,
    sentences,
)
from tests.unit.shelf.preferences.reward_evaluation.planted import records, write_records

TEXT = ProbeInput("Who saw it?", "I did. It was a grey cat.", "Nobody here.", "0:r1")
SETTINGS = Settings(200, 500, 0.95, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("padded_filler", f"{TEXT.completion} {FILLER}"),
        ("padded_repeated", f"{TEXT.completion} {TEXT.completion}"),
        ("truncated", "I did. It"),
        ("last_sentence_repeated", TEXT.completion + " It was a grey cat." * 3),
        ("emoji", TEXT.completion + EMOJI),
        ("exclamation_marks", "I did. It was a grey cat!!!"),
        ("prompt_copied", "Who saw it?"),
        ("empty", ""),
        ("other_prompt", "Nobody here."),
        ("uppercase", "I DID. IT WAS A GREY CAT."),
    ],
)
def test_alterations(name: ProbeName, expected: str) -> None:
    assert alter(name, TEXT) == expected


def test_every_probe_has_an_alteration() -> None:
    assert set(ALTERATIONS) == set(get_args(ProbeName))


def test_shuffling_keeps_the_words_and_depends_on_the_seed_alone() -> None:
    words = [f"w{number}" for number in range(30)]
    text = ProbeInput("p", " ".join(words), "", "0:a")
    shuffled = alter("words_shuffled", text)
    assert sorted(shuffled.split()) == sorted(words) and shuffled.split() != words
    assert alter("words_shuffled", text) == shuffled
    assert alter("words_shuffled", ProbeInput("p", " ".join(words), "", "1:a")) != shuffled


def test_filler_about_doubles_long_texts() -> None:
    long = ProbeInput("p", "word " * 400, "", "s")
    assert 1.8 < len(alter("padded_filler", long)) / len(long.completion) < 2.2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ('He said "no." Then left...', ['He said "no."', "Then left..."]),
        ("no stop", ["no stop"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_completions_of_other_prompts() -> None:
    prompts, completions = ["p", "p", "q", "r"], ["a", "b", "c", "d"]
    for seed in range(20):
        found = other_completions([0, 1, 2], prompts, completions, seed)
        assert found[0] in "cd" and found[1] in "cd" and found[2] in "abd"
    assert other_completions([0], ["p", "p"], ["a", "b"], 0) == [""]


def test_draw_is_repeatable_and_without_repeats() -> None:
    assert draw(3, 5, 0) == [0, 1, 2]
    chosen = draw(100, 20, 1)
    assert chosen == draw(100, 20, 1) == sorted(set(chosen)) and len(chosen) == 20 != draw(100, 20, 2)


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    path = write_records(tmp_path / "r.jsonl", records(80, 1.0))
    return read_held_out(ValidationDataSpec(path=str(path)), 0).validated


def test_verdicts_about_a_scorer_of_length(texts: Texts) -> None:
    spec = ProbeSpec(num_completions=50)
    probes = probe_texts(texts, spec, 0)
    lengths = np.array([float(len(text)) for text in texts.completions])
    found = probe_scorer(
        lambda prompts, completions: np.array([float(len(text)) for text in completions]),
        probes,
        float(lengths.std()),
        spec,
        SETTINGS,
    )
    assert {name for name, probe in found.items() if probe["verdict"] == "warn"} >= {
        "padded_filler", "padded_repeated", "last_sentence_repeated", "emoji", "exclamation_marks",
    }  # fmt: skip
    for name in ("truncated", "empty", "uppercase"):
        assert (found[name]["value"], found[name]["verdict"]) == (0.0, "pass")
    originals = np.array([len(text) for text in probes.originals])
    assert found["padded_repeated"]["shift"] == pytest.approx((originals + 1).mean() / lengths.std())
    assert found["empty"]["shift"] == pytest.approx(-originals.mean() / lengths.std())
    longer = [len(a) > len(b) for a, b in zip(probes.altered["other_prompt"], probes.originals, strict=True)]
    assert found["other_prompt"]["value"] == pytest.approx(np.mean(longer))
    assert found["other_prompt"]["low"] < np.mean(longer) < found["other_prompt"]["high"]
    assert found["other_prompt"]["max_share"] == 0.25 and found["emoji"]["max_share"] == 0.5


def test_a_rise_of_few_but_much_warns_as_well(texts: Texts) -> None:
    spec = ProbeSpec(num_completions=40, names=("emoji",))
    rises = iter(range(1000))

    def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.array(
            [5.0 if text.endswith(EMOJI) and next(rises) % 4 == 0 else 0.0 for text in completions]
        )

    (probe,) = probe_scorer(score, probe_texts(texts, spec, 0), 1.0, spec, SETTINGS).values()
    assert probe["value"] == 0.25 < probe["max_share"]
    assert probe["shift"] == 1.25 > probe["max_shift"] and probe["verdict"] == "warn"


def test_above_the_limit_by_chance_is_unclear(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_results, "MAX_SHIFT", 9.0)
    spec = ProbeSpec(num_completions=60, names=("uppercase",))
    turns = iter(range(1000))

    def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.array(
            [float(text.isupper() and next(turns) % 20 < 11) for text in map(_letters, completions)]
        )

    (probe,) = probe_scorer(score, probe_texts(texts, spec, 0), 1.0, spec, SETTINGS).values()
    assert probe["value"] == 0.55 and probe["low"] < 0.5 and probe["verdict"] == "unclear"


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


def test_probe_ignores_unaltered_and_unscored_texts(texts: Texts) -> None:
    spec = ProbeSpec(num_completions=10, names=("uppercase", "empty"))
    probes = probe_texts(texts, spec, 0)
    same = [*probes.originals[:4], *probes.altered["uppercase"][4:]]
    probes = type(probes)(
        probes.prompts, probes.originals, probes.clusters_K, {**probes.altered, "uppercase": same}
    )
    found = probe_scorer(
        lambda prompts, completions: np.array([1.0 if text else np.nan for text in completions]),
        probes, 0.0, spec, SETTINGS,
    )  # fmt: skip
    assert (found["uppercase"]["n"], found["uppercase"]["n_unaltered"], found["uppercase"]["value"]) == (
        6,
        4,
        0.0,
    )
    assert found["uppercase"]["shift"] is None, "a constant score has no unit"
    assert (found["empty"]["n"], found["empty"]["n_unscored"], found["empty"]["verdict"]) == (
        0,
        10,
        "not tested",
    )
