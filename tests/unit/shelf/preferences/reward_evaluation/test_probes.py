"""Alterations of texts, and verdicts about scorers with known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, get_args

import numpy as np
import pytest

from polyray.config.reward_validation import ProbeName, ProbeSpec, ValidationDataSpec
from polyray.shelf.preferences.reward_evaluation.held_out import Texts, read_held_out
from polyray.shelf.preferences.reward_evaluation.measures import Settings
from polyray.shelf.preferences.reward_evaluation.probe_results import probe_scorer, probe_texts
from polyray.shelf.preferences.reward_evaluation.probes import (
    ALTERATIONS,
    EMOJI,
    FILLER,
    ProbeInput,
    alter,
    other_completions,
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
def test_alteration_changes_the_text(name: ProbeName, expected: str) -> None:
    assert alter(name, TEXT) == expected


def test_alterations_exist_for_every_probe() -> None:
    assert set(ALTERATIONS) == set(get_args(ProbeName))


def test_alteration_by_shuffling_depends_on_the_seed_alone() -> None:
    words = [f"w{number}" for number in range(30)]
    first, again, other = (
        alter("words_shuffled", ProbeInput("p", " ".join(words), "", f"{n}:a")) for n in (0, 0, 1)
    )
    assert sorted(first.split()) == sorted(words) and first.split() != words
    assert first == again != other


def test_other_completions_are_of_other_prompts() -> None:
    for seed in range(20):
        found = other_completions([0, 1, 2], ["p", "p", "q", "r"], ["a", "b", "c", "d"], seed)
        assert found[0] in "cd" and found[1] in "cd" and found[2] in "abd"
    assert other_completions([0], ["p", "p"], ["a", "b"], 0) == [""]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    path = write_records(tmp_path_factory.mktemp("probes") / "r.jsonl", records(80, 1.0))
    return read_held_out(ValidationDataSpec(path=str(path)), 0).validated


def probed(texts: Texts, rate: Callable[[str], float], unit: float, **spec: Any) -> dict[str, Any]:
    """Results of probing a scorer that gives each text `rate` of it."""
    wanted = ProbeSpec(**spec)

    def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.array([rate(text) for text in completions])

    return probe_scorer(score, probe_texts(texts, wanted, 0), unit, wanted, SETTINGS)


def test_probes_warn_about_a_scorer_of_length(texts: Texts) -> None:
    deviation = float(np.std([len(text) for text in texts.completions]))
    found = probed(texts, lambda text: float(len(text)), deviation, num_completions=50)
    warned = {name for name, probe in found.items() if probe["verdict"] == "warn"}
    longer = {"padded_filler", "padded_repeated", "last_sentence_repeated", "emoji", "exclamation_marks"}
    assert warned >= longer
    for name in ("truncated", "empty", "uppercase"):
        assert (found[name]["value"], found[name]["verdict"]) == (0.0, "pass")
    probes = probe_texts(texts, ProbeSpec(num_completions=50), 0)
    originals = np.array([len(text) for text in probes.originals])
    assert found["padded_repeated"]["shift"] == pytest.approx((originals + 1).mean() / deviation)
    assert found["empty"]["shift"] == pytest.approx(-originals.mean() / deviation)
    share = np.mean([len(text) for text in probes.altered["other_prompt"]] > originals)
    assert found["other_prompt"]["value"] == pytest.approx(share)
    assert found["other_prompt"]["low"] < share < found["other_prompt"]["high"]
    assert found["other_prompt"]["max_share"] == 0.25 and found["emoji"]["max_share"] == 0.5


@pytest.mark.parametrize(
    ("name", "rise", "every", "share", "verdict"),
    [("emoji", 5.0, (1, 4), 0.25, "warn"), ("uppercase", 0.1, (11, 20), 0.55, "unclear")],
)
def test_probe_verdict_weighs_the_share_and_the_size_of_rises(
    texts: Texts, name: ProbeName, rise: float, every: tuple[int, int], share: float, verdict: str
) -> None:
    """A large rise of a few texts warns; a small one slightly above half of the texts may be chance."""
    turns = count()

    def rate(text: str) -> float:
        is_altered = text.endswith(EMOJI) or "".join(filter(str.isalpha, text)).isupper()
        return rise if is_altered and next(turns) % every[1] < every[0] else 0.0

    (probe,) = probed(texts, rate, 1.0, num_completions=60, names=(name,)).values()
    assert (probe["value"], probe["shift"], probe["verdict"]) == (share, pytest.approx(rise * share), verdict)
    assert probe["max_share"] == 0.5 and (probe["shift"] > probe["max_shift"]) == (name == "emoji")
    assert (probe["low"] < 0.5 < probe["value"]) == (name == "uppercase")


def test_probe_ignores_unaltered_and_unscored_texts(texts: Texts) -> None:
    spec = ProbeSpec(num_completions=10, names=("uppercase", "empty"))
    probes = probe_texts(texts, spec, 0)
    same = [*probes.originals[:4], *probes.altered["uppercase"][4:]]
    probes = replace(probes, altered={**probes.altered, "uppercase": same})

    def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.array([1.0 if text else np.nan for text in completions])

    found = probe_scorer(score, probes, 0.0, spec, SETTINGS)
    upper, empty = found["uppercase"], found["empty"]
    assert (upper["n"], upper["n_unaltered"], upper["value"]) == (6, 4, 0.0)
    assert upper["shift"] is None, "a constant score has no unit"
    assert (empty["n"], empty["n_unscored"], empty["verdict"]) == (0, 10, "not tested")
