"""BERTScore with a model from a local directory. Optional: needs the package bert-score, which nothing else does.

Not in polyray.metrics, because it reads a model from disk. The package would otherwise fetch one from the
hub at run time and guess its layer; both are asked for here. Called by evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyray.errors import ConfigError, DataError, ResourceError


@dataclass(frozen=True, slots=True)
class BertScores:
    """One value per prediction, e.g. BertScores(precision=array([.91]), recall=array([.88]), f1=array([.9]))."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]


def check_bert_score(model_path: str | Path) -> None:
    """Raises ConfigError where there is no model in `model_path`, ResourceError without the package."""
    if not (Path(model_path) / "config.json").is_file():
        raise ConfigError(
            f"BERTScore: there is no model in {model_path}; give the directory of a downloaded encoder, e.g. "
            "roberta-large (nothing is fetched at run time)"
        )
    try:
        import bert_score  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ResourceError(
            "BERTScore needs the package bert-score, which is not installed; pip install bert-score==0.3.13"
        ) from None


def bert_score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    model_path: str | Path,
    num_layers: int,
    batch_size: int = 64,
    device: str = "cpu",
) -> BertScores:
    """BERTScore (Zhang et al. 2020) of each prediction against its reference; not rescaled, no idf weights.

    Args:
        predictions: one text each.
        references: one text each, in the same order.
        model_path: a directory with a transformers encoder and its tokenizer.
        num_layers: which layer's embeddings are compared, e.g. 17 for roberta-large; report it with the model.
        batch_size: texts at once.
        device: of torch.

    Raises:
        ResourceError: the package is not installed.
        ConfigError: no model in `model_path`, num_layers < 1.
        DataError: different numbers of predictions and references.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references; BERTScore needs one reference "
            "for each prediction, and at least one"
        )
    if num_layers < 1:
        raise ConfigError(f"BERTScore: num_layers={num_layers} must be at least 1, e.g. 17 for roberta-large")
    check_bert_score(model_path)
    from bert_score import BERTScorer  # pyright: ignore[reportMissingImports]

    scorer: Any = BERTScorer(
        model_type=str(model_path), num_layers=num_layers, batch_size=batch_size, device=device
    )
    precision, recall, f1 = (
        np.asarray(values.tolist(), dtype=np.float64)
        for values in scorer.score(list(predictions), list(references))
    )
    return BertScores(precision, recall, f1)
