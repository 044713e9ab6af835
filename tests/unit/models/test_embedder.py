"""Embedder: the same bits in whatever company, the library's own numbers, the cache, clear errors."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError
from polyray.models.embedder import PACKAGED, Embedder, directory_sha256, shared_embedder

WORDS = [
    "the",
    "old",
    "dog",
    "slept",
    "in",
    "a",
    "barn",
    "while",
    "rain",
    "fell",
    "on",
    "hills",
    "and",
    "nobody",
    "saw",
    "what",
    "it",
    "dreamt",
    "of",
]


def texts_of_all_lengths(count: int) -> list[str]:
    """Texts of 2 to about 40 tokens, many of equal length."""
    rng = random.Random(0)
    made = [
        " ".join(rng.choices(WORDS, k=rng.choice((0, 1, 1, 2, 3, 5, 8, 9, 20, 38)))) for _ in range(count)
    ]
    return sorted(set(made), key=made.index)


def fresh(**options: object) -> Embedder:
    """Embedder of the same weights without a cache."""
    embedder = Embedder.__new__(Embedder)
    embedder.__dict__.update(shared_embedder(PACKAGED).__dict__)
    embedder._cache_entries = 0
    for name, value in options.items():
        setattr(embedder, name, value)
    return embedder


@pytest.mark.parametrize(("num_threads", "count"), [(1, 24), pytest.param(2, 60, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_the_batch(num_threads: int, count: int) -> None:
    import torch

    texts, before = texts_of_all_lengths(count), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        alone = {text: fresh().encode([text])[0] for text in texts}
        for seed in range(4):
            rng = random.Random(seed)
            company = rng.sample(texts, rng.randint(2, len(texts)))
            together = fresh(_max_batch_tokens=rng.choice((1, 50, 300, 16384))).encode(company)
            for text, row in zip(company, together, strict=True):
                assert row.tobytes() == alone[text].tobytes(), (text, len(company))
    finally:
        torch.set_num_threads(before)


def test_padded_batches_are_close_and_that_is_all() -> None:
    texts = texts_of_all_lengths(12)
    padded, exact = fresh(_exact=False).encode(texts), fresh().encode(texts)
    np.testing.assert_allclose(padded, exact, atol=2e-6)
    assert (padded != exact).any(), "padded batches are exact here: then use them, they need fewer passes"


def test_embeddings_match_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    embedder = shared_embedder(PACKAGED)
    texts = [*texts_of_all_lengths(12), "long " * 700, "😀 ütf", " "]
    library = SentenceTransformer(str(embedder.directory), device="cpu")
    expected = library.encode(texts, normalize_embeddings=True)
    found = embedder.encode(texts)
    assert (found.shape, found.dtype) == ((len(texts), embedder.dimension), np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert embedder.num_tokens(["", "the dog", "long " * 700]) == [2, 4, 256]
    assert embedder.encode([]).shape == (0, 384)
    np.testing.assert_array_equal(embedder.encode(["a\ud800b"]), embedder.encode(["a?b"]))


def test_tokens_beyond_the_limit_are_ignored() -> None:
    embedder = shared_embedder(PACKAGED)
    start = "word " * 260
    first, second = embedder.encode([start + "dog", start + "cat market"])
    np.testing.assert_array_equal(first, second)
    assert (embedder.encode(["dog " + start])[0] != first).any()


def test_the_cache_is_bounded_and_by_content() -> None:
    embedder = fresh(_cache_entries=3)
    embedder._cache = type(embedder._cache)()
    rows = embedder.encode(["a", "b", "a", "c"])
    np.testing.assert_array_equal(rows[0], rows[2])
    a, _, c = embedder._cache
    embedder.encode(["a"])  # now the youngest
    embedder.encode(["d"])  # drops b, the oldest
    assert list(embedder._cache)[:2] == [c, a]
    assert len(embedder._cache) == 3
    with pytest.raises(ValueError, match="read-only"):
        embedder._cache[next(iter(embedder._cache))][0] = 1.0


def test_threads_get_their_own_texts() -> None:
    texts = texts_of_all_lengths(12)
    expected = fresh().encode(texts)
    embedder = fresh(_cache_entries=10)
    embedder._cache = type(embedder._cache)()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: embedder.encode([texts[at], texts[-at - 1]]), range(len(texts))))
    for at, pair in enumerate(found):
        np.testing.assert_array_equal(pair, expected[[at, -at - 1]])


def test_embedder_hash_covers_its_computation(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("words")
    first = directory_sha256(tmp_path)
    (tmp_path / "README.md").write_text("other words")
    assert directory_sha256(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert directory_sha256(tmp_path) != first


def test_encoders_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sentence-transformers"):
        Embedder(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="pickle"):
        Embedder(str(tmp_path))
    with pytest.raises(ConfigError, match="hub"):
        Embedder("nobody/no-such-encoder")
    with pytest.raises(ValueError, match="max_batch_tokens=0"):
        Embedder(max_batch_tokens=0)


def test_a_shared_encoder_is_loaded_once_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, str]] = []

    def load(encoder: str, *, device: str) -> object:
        loaded.append((encoder, device))
        return object()

    monkeypatch.setattr("polyray.models.embedder.Embedder", load)
    first = shared_embedder("once")
    assert shared_embedder("once", "cpu") is shared_embedder("once", device="cpu") is first
    on_gpu = shared_embedder("once", "cuda")
    assert on_gpu is not first and shared_embedder("once", "cuda") is on_gpu
    assert loaded == [("once", "cpu"), ("once", "cuda")]
