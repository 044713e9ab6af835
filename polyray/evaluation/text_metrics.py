"""Diversity of what was written, prompt by prompt: which metrics of texts an evaluation asked for.

Called by pipeline.py; the metrics are polyray.metrics (text_diversity, diversity), the encoder polyray.models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polyray.config.evaluation import BertScoreSpec, EvaluationSpec
from polyray.errors import ConfigError
from polyray.evaluation.per_prompt import TextMetrics
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleSource, all_groups
from polyray.metrics.diversity import mean_pairwise_cosine_distance, output_entropy, vendi_score
from polyray.metrics.quality import rouge
from polyray.metrics.text_diversity import (
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    self_bleu,
    vocabulary_richness,
)
from polyray.metrics.tokens import words


def check_text_metrics(spec: EvaluationSpec, references: Mapping[str, str]) -> None:
    """Loads the encoder and looks for everything else that a metric needs, before anything is sampled.

    Raises ConfigError for a model that is not there and for references that no prompt has, ResourceError for a
    package that is not installed.
    """
    if "semantic" in spec.text_metrics:
        from polyray.models.text_encoder import embed_texts

        embed_texts(spec.encoder, ["."])
    with_reference = ["text_metrics=reference"] if "reference" in spec.text_metrics else []
    if spec.bert_score is not None:
        from polyray.evaluation.bertscore import check_bert_score

        check_bert_score(spec.bert_score.model_path)
        with_reference.append("bert_score")
    if with_reference and not references:
        raise ConfigError(
            f"evaluation: {with_reference[0]} compares with references, and no held-out prompt of the task has one; "
            "leave it out, or add references to the data"
        )


def build_text_metrics(
    spec: EvaluationSpec, source: SampleSource, references: Mapping[str, str]
) -> TextMetrics | None:
    """Build the function that computes text metrics of one prompt; None if none is requested.

    `references` is task_id -> a right answer, if there is one. The vocabulary of EAD is that of all samples of all
    models, read here in a separate pass.
    """
    if not spec.text_metrics and spec.bert_score is None:
        return None
    vocabulary_size = _vocabulary_size(source) if "lexical" in spec.text_metrics else 0

    def of_prompt(samples: Sequence[SampleRecord]) -> dict[str, float]:
        texts = [sample.completion for sample in samples]
        values: dict[str, float] = {}
        if "lexical" in spec.text_metrics:
            values |= _lexical(texts, [sample.class_id for sample in samples], vocabulary_size)
        if "self_bleu" in spec.text_metrics:
            values["self_bleu"] = self_bleu(texts) if len(texts) > 1 else float("nan")
        if "semantic" in spec.text_metrics:
            values |= _semantic(texts, spec.encoder)
        reference = references.get(samples[0].task_id)
        if "reference" in spec.text_metrics:
            values |= _closeness(texts, reference)
        if spec.bert_score is not None:
            values["bert_score_f1"] = _bert_score(texts, reference, spec.bert_score)
        return values

    return of_prompt


def _vocabulary_size(source: SampleSource) -> int:
    known: set[str] = set()
    for samples in all_groups(source):
        for sample in samples:
            known.update(words(sample.completion))
    return max(1, len(known))


def _lexical(texts: Sequence[str], classes_G: Sequence[int], vocabulary_size: int) -> Mapping[str, float]:
    richness = vocabulary_richness(texts)
    return {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "expectation_adjusted_distinct": expectation_adjusted_distinct(texts, vocabulary_size),
        "type_token_ratio": richness.type_token_ratio,
        "hdd": richness.hdd,
        "compression_ratio": compression_ratio(texts),
        "output_entropy": output_entropy(classes_G),
    }


def _semantic(texts: Sequence[str], encoder: str) -> Mapping[str, float]:
    from polyray.models.text_encoder import embed_texts

    if len(texts) < 2:
        return {"semantic_distance": float("nan"), "vendi_score": float("nan")}
    unit_GD = embed_texts(encoder, texts)
    return {
        "semantic_distance": mean_pairwise_cosine_distance(unit_GD),
        "vendi_score": vendi_score(np.clip(unit_GD @ unit_GD.T, -1.0, 1.0)),
    }


def _closeness(texts: Sequence[str], reference: str | None) -> Mapping[str, float]:
    """Mean ROUGE F of the samples with the reference; NaN where there is none."""
    found = [rouge(text, reference) for text in texts] if reference is not None else []
    return {
        name: float(np.mean([getattr(score, name) for score in found])) if found else float("nan")
        for name in ("rouge1", "rouge2", "rouge_l")
    }


def _bert_score(texts: Sequence[str], reference: str | None, spec: BertScoreSpec) -> float:
    from polyray.evaluation.bertscore import bert_score

    if reference is None:
        return float("nan")
    scores = bert_score(
        texts, [reference] * len(texts), model_path=spec.model_path, num_layers=spec.num_layers
    )
    return float(scores.f1.mean())
