"""A saved model: trained numbers, batch independence, the reference, refusals."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from scipy.special import expit

from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.reward_model import EngagementModel, check_independent, model, read_card
from polyray.shelf.preferences.reward_model.card import ModelCard, cluster_digests
from polyray.shelf.preferences.reward_model.head import EngagementHead
from polyray.shelf.preferences.reward_model.model import MAX_REFERENCE, quantile_reference
from tests.unit.shelf.preferences.reward_model.stand_ins import vector_of

pytestmark = pytest.mark.usefixtures("known_encoder")
TEXTS = [f"text {number}" for number in range(100)]
PROMPTS = [f"prompt {number}" for number in range(100)]


def test_model_scores_match_the_trained_head(model_dir: Path) -> None:
    trained = EngagementModel.load(model_dir)
    head = EngagementHead(4 * 6 + 2, 8)
    tensors = load_file(model_dir / "head.safetensors")
    head.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    p, c = (torch.from_numpy(np.stack([vector_of(t) for t in texts])) for texts in (PROMPTS, TEXTS))
    explicit = torch.tensor([[np.log1p(2.0), 0.0]] * 100, dtype=torch.float32)
    with torch.no_grad():
        expected = head(torch.cat([p, c, p * c, p - c, explicit], dim=1)).numpy() / trained.config.temperature
    raw = trained.raw(PROMPTS, TEXTS)
    assert raw.dtype == np.float64
    np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-4)
    by_hand = [np.mean([1 / (1 + np.exp(-(r - j))) for j in trained.config.reference]) for r in raw]
    np.testing.assert_allclose(trained.scores(PROMPTS, TEXTS), by_hand, rtol=1e-12)
    assert trained.raw([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"2 prompts .*1 completions"):
        trained.raw(["a", "b"], ["c"])


def test_model_scores_do_not_depend_on_the_batch(model_dir: Path) -> None:
    trained = EngagementModel.load(model_dir)
    alone = [trained.raw([p], [c])[0] for p, c in zip(PROMPTS, TEXTS, strict=True)]
    for seed in range(20):
        rng = random.Random(seed)
        rows = rng.sample(range(100), rng.randint(1, 100))
        together = trained.raw([PROMPTS[at] for at in rows], [TEXTS[at] for at in rows])
        assert together.tolist() == [alone[at] for at in rows]


def test_quantile_reference_is_close_and_scores_increase() -> None:
    rng = np.random.default_rng(0)
    raw = np.concatenate([rng.normal(size=3000), rng.standard_cauchy(300)])
    reference, error = quantile_reference(raw)
    assert len(reference) == MAX_REFERENCE
    assert 0 < error < 1 / MAX_REFERENCE
    points = np.linspace(-12, 12, 301)
    exact = np.array([expit(r - raw).mean() for r in points])
    found = np.array([expit(r - np.array(reference)).mean() for r in points])
    assert np.abs(found - exact).max() <= error + 1e-4
    assert (np.diff(found) > 0).all()
    assert quantile_reference(raw[:256]) == (tuple(sorted(raw[:256])), 0.0)


def tensors_with(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], bytes]:
    def content(file: Path) -> bytes:
        tensors = load_file(file)
        return save({**tensors, name: np.ascontiguousarray(change(tensors[name]))})

    return content


def values_with(**values: object) -> Callable[[Path], bytes]:
    return lambda file: json.dumps(json.loads(file.read_text()) | values).encode()


def spaced(file: Path) -> bytes:
    return file.read_bytes().replace(b'"format": 1', b'"format":  1')


HEAD, CONFIG = "head.safetensors", "config.json"


@pytest.mark.parametrize(
    ("name", "content", "is_hashed", "error", "message"),
    [
        (CONFIG, spaced, True, DataError, r"config\.json "),
        (HEAD, lambda file: b"nothing", True, DataError, r"head\.safetensors "),
        ("card.json", lambda file: b"{", True, DataError, r"card\.json: .*JSON"),
        (HEAD, tensors_with("mean", lambda v: v * np.nan), False, DataError, r"head\.safetensors: mean "),
        (HEAD, tensors_with("std", np.zeros_like), False, DataError, r"head\.safetensors: std "),
        (HEAD, tensors_with("mean", lambda v: v[:3]), False, DataError, r"'mean': \(3,\).*'mean': \(26,\)"),
        (CONFIG, values_with(encoder_sha256="0" * 64), False, ConfigError, r"'packaged' .*known-sha256"),
        (CONFIG, values_with(temperature=0), False, DataError, r"config\.json: temperature"),
    ],
)
def test_model_that_is_damaged_is_refused(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: Callable[[Path], bytes],
    is_hashed: bool,
    error: type[Exception],
    message: str,
) -> None:
    copy = shutil.copytree(model_dir, tmp_path / "damaged")
    (copy / name).write_bytes(content(copy / name))
    if not is_hashed:
        monkeypatch.setattr(model, "_checked_card", read_card)
    with pytest.raises(error, match=message):
        EngagementModel.load(copy)


def test_model_version_and_card_describe_the_files(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json .*card\.json"):
        EngagementModel.load(tmp_path)
    card, text = read_card(model_dir), (model_dir / "README.md").read_text()
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    (copy / "README.md").write_text("other words")
    assert EngagementModel.load(copy).version == EngagementModel.load(model_dir).version == card.version
    assert (len(card.version), card.data.half, card.encoder.licence) == (64, "train", "Apache-2.0")
    assert len(card.clusters) == card.data.counts["train_clusters"] + card.data.counts["validation_clusters"]
    assert set(card.nuisance) == {"log_age", "log_age_squared", "log_position", "is_first"}
    for part in (card.version, card.data.sha256, card.encoder.sha256, "Limits", "| accuracy |"):
        assert part in text


def test_check_independent_refuses_models_that_share_clusters(model_dir: Path) -> None:
    card = read_card(model_dir)

    def with_clusters(version: str, names: list[str]) -> ModelCard:
        data = card.data.model_copy(update={"cluster_digests": cluster_digests(names)})
        return card.model_copy(update={"version": version, "data": data})

    first = with_clusters("a", ["t1", "t2"])
    check_independent(first, with_clusters("b", ["t3", "t4", "t5"]))
    with pytest.raises(ConfigError, match="same model"):
        check_independent(first, with_clusters("a", ["t9"]))
    with pytest.raises(ConfigError, match=r"1 of 2 and 3 clusters .*data\.half=eval"):
        check_independent(first, with_clusters("c", ["t2", "t8", "t9"]))
    assert cluster_digests(["b", "a", "b"]) == cluster_digests(["a", "b"])
