"""Embedder: the same bits in whatever company, the library's own numbers, the cache, clear errors."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError
from polyray.models.embedder import PACKAGED, Embedder, directory_sha256, shared_embedder
from polyray.models.text_encoder import cosine_similarity, embed_texts

WORDS = [f"word{number}" for number in range(9)] + ["the", "old", "dog", "slept", "in", "a", "barn", "rain"]


def texts_of_all_lengths(count: int) -> list[str]:
    """Texts of 2 to about 40 tokens, many of equal length."""
    rng = random.Random(0)
    lengths = (0, 1, 1, 2, 3, 5, 8, 9, 20, 38)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.choice(lengths))) for _ in range(count)))


def fresh(cache_entries: int = 0, **options: object) -> Embedder:
    """Embedder of the same weights with a cache of its own, by default without one."""
    embedder = Embedder.__new__(Embedder)
    embedder.__dict__.update(shared_embedder(PACKAGED).__dict__)
    embedder._cache_entries, embedder._cache = cache_entries, type(embedder._cache)()
    for name, value in options.items():
        setattr(embedder, name, value)
    return embedder


@pytest.mark.parametrize(("num_threads", "count"), [(1, 24), pytest.param(2, 60, marks=pytest.mark.slow)])
def test_embedding_has_the_same_bits_in_each_batch(num_threads: int, count: int) -> None:
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


def test_padded_batches_are_close_but_not_exact() -> None:
    texts = texts_of_all_lengths(12)
    padded, exact = fresh(_exact=False).encode(texts), fresh().encode(texts)
    np.testing.assert_allclose(padded, exact, atol=2e-6)
    assert (padded != exact).any(), "padded batches are exact here: then use them, they need fewer passes"


def test_embeddings_equal_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    embedder = shared_embedder(PACKAGED)
    texts = [*texts_of_all_lengths(12), "long " * 700, "😀 ütf", " "]
    library = SentenceTransformer(str(embedder.directory), device="cpu")
    expected = library.encode(texts, normalize_embeddings=True)
    found = embedder.encode(texts)
    assert (found.shape, found.dtype) == ((len(texts), embedder.dimension), np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    in_double = embed_texts(PACKAGED, texts)
    np.testing.assert_allclose(np.linalg.norm(in_double, axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(in_double, expected, atol=1e-5)
    similarity = cosine_similarity(PACKAGED, texts[0], texts[1])
    assert similarity == cosine_similarity(PACKAGED, texts[1], texts[0])
    assert similarity == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    assert embedder.num_tokens(["", "the dog", "long " * 700]) == [2, 4, 256]
    assert embedder.encode([]).shape == (0, 384)
    np.testing.assert_array_equal(embedder.encode(["a\ud800b"]), embedder.encode(["a?b"]))
    start = "word " * 260
    first, second = embedder.encode([start + "dog", start + "cat market"])
    np.testing.assert_array_equal(first, second)


def test_cache_is_bounded_by_age_and_keyed_by_content() -> None:
    embedder = fresh(cache_entries=3)
    rows = embedder.encode(["a", "b", "a", "c"])
    np.testing.assert_array_equal(rows[0], rows[2])
    a, _, c = embedder._cache
    embedder.encode(["a"])  # now the youngest
    embedder.encode(["d"])  # drops b, the oldest
    assert list(embedder._cache)[:2] == [c, a]
    assert len(embedder._cache) == 3
    with pytest.raises(ValueError, match="read-only"):
        embedder._cache[next(iter(embedder._cache))][0] = 1.0


def test_threads_get_the_embeddings_of_their_own_texts() -> None:
    texts = texts_of_all_lengths(12)
    expected, embedder = fresh().encode(texts), fresh(cache_entries=10)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: embedder.encode([texts[at], texts[-at - 1]]), range(len(texts))))
    for at, pair in enumerate(found):
        np.testing.assert_array_equal(pair, expected[[at, -at - 1]])


def test_hash_of_an_embedder_covers_weights_and_configuration(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("words")
    first = directory_sha256(tmp_path)
    (tmp_path / "README.md").write_text("other words")
    assert directory_sha256(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert directory_sha256(tmp_path) != first


def test_directory_without_an_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sentence-transformers"):
        Embedder(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="pickle"):
        Embedder(str(tmp_path))
    with pytest.raises(ConfigError, match="hub"):
        Embedder("nobody/no-such-encoder")
    with pytest.raises(ValueError, match="max_batch_tokens=0"):
        Embedder(max_batch_tokens=0)


def test_shared_encoder_is_loaded_once_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
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
