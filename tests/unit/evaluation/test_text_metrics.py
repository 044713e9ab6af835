from __future__ import annotations

import math

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.evaluation.per_prompt import MetricSettings, compute_table
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.evaluation.selectors import get_selector
from polyray.evaluation.text_metrics import build_text_metrics
from polyray.metrics import distinct_n, expectation_adjusted_distinct, self_bleu
from polyray.models.text_encoder import PACKAGED, embed_texts
from polyray.report.sweep.values import metric_name

TEXTS = {"p": ["the cat sat", "the cat sat", "a dog ran far"], "q": ["one", "two", "three"]}
RECORDS = [
    SampleRecord(task_id, text, index, reward=1.0, class_id=index, logprob=-1.0)
    for task_id, texts in TEXTS.items()
    for index, text in enumerate(texts)
]


def spec(*names: str) -> EvaluationSpec:
    return EvaluationSpec(num_samples=3, ks=(1,), bootstrap_resamples=100, text_metrics=names)  # type: ignore[arg-type]


def values(*names: str, references: dict[str, str] | None = None) -> dict[str, float]:
    metrics = build_text_metrics(spec(*names), SampleList(RECORDS), references or {})
    assert metrics is not None
    return dict(metrics(RECORDS[:3]))


def test_lexical_metrics_match_the_pure_functions() -> None:
    found = values("lexical", "self_bleu")
    assert found["distinct_2"] == distinct_n(TEXTS["p"], 2) == 5 / 7
    # the vocabulary of all samples of all prompts: the cat sat a dog ran far one two three
    assert found["expectation_adjusted_distinct"] == expectation_adjusted_distinct(TEXTS["p"], 10)
    assert found["self_bleu"] == self_bleu(TEXTS["p"])
    assert found["output_entropy"] == pytest.approx(math.log(3))


def test_semantic_distance_is_the_mean_over_pairs() -> None:
    unit_GD = embed_texts(PACKAGED, TEXTS["p"])
    pairs = [1 - float(unit_GD[i] @ unit_GD[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = values("semantic")
    assert found["semantic_distance"] == pytest.approx(np.mean(pairs))
    assert 1 < found["vendi_score"] < 3


def test_closeness_to_a_reference_leaves_out_prompts_without_one() -> None:
    assert values("reference", references={"p": "the cat sat"})["rouge1"] == pytest.approx((1 + 1 + 0) / 3)
    assert math.isnan(values("reference")["rouge1"])
    source = SampleList(RECORDS)
    assert build_text_metrics(spec(), source, {}) is None
    text_metrics = build_text_metrics(spec("reference"), source, {"p": "the cat sat"})
    metrics = score_samples(source, spec("reference"), ScoringContext(seed=0, text_metrics=text_metrics))
    assert metrics["models"]["model"]["rouge1"]["value"]["value"] == pytest.approx(2 / 3)


def test_check_value_accepts_the_values_of_prompts_and_no_others() -> None:
    asked = EvaluationSpec(
        num_samples=2,
        ks=(1, 2),
        more_selectors=("first",),
        text_metrics=("lexical", "self_bleu", "semantic", "reference"),
    )
    settings = MetricSettings(
        ks=asked.ks,
        selector="logprob",
        selectors={name: get_selector(name) for name in ("logprob", "first")},
        text_metrics=build_text_metrics(asked, SampleList(RECORDS), {}),
    )
    table = compute_table("model", SampleList(RECORDS), ["p", "q"], settings)
    names = [metric_name(key) for key in table.values]
    for name in names:
        asked.check_value("quality", name)
    assert len(names) == 5 * 2 + 4 + 14  # over k, of samples, of texts
    for other in (
        "pass_at_3",
        "pass_at_0",
        "pass_at_k",
        "usq_at_1/length",
        "pass_at_1/first",
        "bert_score_f1",
    ):
        with pytest.raises(ValueError, match=f"quality='{other}'"):
            asked.check_value("quality", other)
