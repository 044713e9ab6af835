"""Classes and distances of texts, by their words or by their meaning.

    unigram    common words: NoveltyBench's rule that needs no model; distance 1 - ROUGE-1 F
    embedding  cosine of sentence embeddings above a threshold; distance 1 - cosine, within [0, 1]

Called by the tasks without a verifier; the pure parts are polyray/metrics/novelty.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyray.config.text_tasks import TextTaskSpec
from polyray.data.words import canonical_text
from polyray.metrics.novelty import greedy_partition, rouge_1_f, unigram_equivalent
from polyray.models.text_encoder import cosine_similarity
from polyray.tasks.base import class_id
from polyray.types import WRONG_CLASS


def text_class(text: str) -> int:
    """The class of a single text."""
    return class_id(canonical_text(text))


class TextClasses:
    """The relation a configuration asks for; its encoder runs on `device`."""

    def __init__(self, spec: TextTaskSpec, device: str = "cpu") -> None:
        self._spec = spec
        self._device = device

    def same(self, a: str, b: str) -> bool:
        """Whether a user who has seen the one gains nothing from the other; symmetric."""
        if canonical_text(a) == canonical_text(b):
            return True
        if self._spec.classes == "unigram":
            return unigram_equivalent(a, b, self._spec.class_threshold)
        return self._cosine(a, b) > self._spec.class_threshold

    def distance(self, a: str, b: str) -> float:
        """In [0, 1], symmetric, 0 for texts of the same words."""
        if canonical_text(a) == canonical_text(b):
            return 0.0
        if self._spec.classes == "unigram":
            return 1.0 - rouge_1_f(a, b)
        return min(1.0, max(0.0, 1.0 - self._cosine(a, b)))

    def partition(self, texts: Sequence[str], is_wrong: Sequence[bool]) -> list[int]:
        """Greedy classes of one group, each named after its first member; WRONG_CLASS where `is_wrong`."""
        kept = [at for at, wrong in enumerate(is_wrong) if not wrong]
        local = greedy_partition([texts[at] for at in kept], self.same)
        names: dict[int, int] = {}
        classes = [WRONG_CLASS] * len(texts)
        for at, label in zip(kept, local, strict=True):
            classes[at] = names.setdefault(label, text_class(texts[at]))
        return classes

    def _cosine(self, a: str, b: str) -> float:
        return cosine_similarity(self._spec.encoder, a, b, self._device)
