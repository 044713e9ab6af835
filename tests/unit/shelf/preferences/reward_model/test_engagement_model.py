"""A saved model: trained numbers, batch independence, the reference, refusals."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.reward_model import EngagementModel, check_independent, read_card
from polyray.shelf.preferences.reward_model.card import ModelCard, cluster_digests
from polyray.shelf.preferences.reward_model.head import EngagementHead
from polyray.shelf.preferences.reward_model.model import MAX_REFERENCE, quantile_reference
from polyray.shelf.preferences.reward_model.run import RewardTrainingRun
from polyray.shelf.preferences.reward_model.training import run_reward_training
from tests.unit.shelf.preferences.reward_model.stand_ins import (
    CPU,
    liking,
    reward_config,
    vector_of,
    write_records,
)

TEXTS = [f"text {number}" for number in range(100)]
PROMPTS = [f"prompt {number}" for number in range(100)]


@pytest.fixture
def model_dir(known_encoder: None, tmp_path: Path) -> Path:
    path = write_records(tmp_path / "r.jsonl", liking)
    config = reward_config(path, head__width=8, head__features=["log_words", "questions"], data__half="train")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    run_reward_training(RewardTrainingRun(config, run_dir, CPU, 0, 1), lambda metrics: None)
    return run_dir / "model"


def damaged(model_dir: Path, name: str, content: bytes) -> Path:
    """A copy with one file replaced and the hashes of card.json left alone."""
    copy = model_dir.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model_dir, copy)
    (copy / name).write_bytes(content)
    return copy


def test_raw_scores_match_the_trained_head(model_dir: Path) -> None:
    model = EngagementModel.load(model_dir)
    tensors = {k: torch.from_numpy(v) for k, v in load_file(model_dir / "head.safetensors").items()}
    head = EngagementHead(4 * 6 + 2, 8)
    head.load_state_dict(tensors)
    p, c = (torch.from_numpy(np.stack([vector_of(t) for t in texts])) for texts in (PROMPTS, TEXTS))
    explicit = torch.tensor([[np.log1p(2.0), 0.0]] * 100, dtype=torch.float32)
    with torch.no_grad():
        expected = head(torch.cat([p, c, p * c, p - c, explicit], dim=1)).numpy() / model.config.temperature
    raw = model.raw(PROMPTS, TEXTS)
    assert raw.dtype == np.float64
    np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-4)
    by_hand = [np.mean([1 / (1 + np.exp(-(r - j))) for j in model.config.reference]) for r in raw]
    np.testing.assert_allclose(model.scores(PROMPTS, TEXTS), by_hand, rtol=1e-12)
    assert model.raw([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"2 prompts .*1 completions"):
        model.raw(["a", "b"], ["c"])


def test_bits_do_not_depend_on_the_company(model_dir: Path) -> None:
    model = EngagementModel.load(model_dir)
    alone = [model.raw([p], [c])[0] for p, c in zip(PROMPTS, TEXTS, strict=True)]
    for seed in range(20):
        rng = random.Random(seed)
        rows = rng.sample(range(100), rng.randint(1, 100))
        together = model.raw([PROMPTS[at] for at in rows], [TEXTS[at] for at in rows])
        assert together.tolist() == [alone[at] for at in rows]


def test_the_reference_is_close_and_scores_increase() -> None:
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


def test_version_covers_the_files_that_scores_depend_on(model_dir: Path) -> None:
    card = read_card(model_dir)
    assert EngagementModel.load(model_dir).version == card.version
    assert len(card.version) == 64
    (model_dir / "README.md").write_text("other words")
    assert EngagementModel.load(model_dir).version == card.version
    text = (model_dir / "config.json").read_text()
    changed = damaged(model_dir, "config.json", text.replace('"format": 1', '"format":  1').encode())
    with pytest.raises(DataError, match=r"config\.json "):
        EngagementModel.load(changed)


def test_broken_model_is_named(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"config\.json .*card\.json"):
        EngagementModel.load(tmp_path)
    with pytest.raises(DataError, match=r"head\.safetensors "):
        EngagementModel.load(damaged(model_dir, "head.safetensors", b"nothing"))
    with pytest.raises(DataError, match=r"card\.json: .*JSON"):
        EngagementModel.load(damaged(model_dir, "card.json", b"{"))
    tensors = load_file(model_dir / "head.safetensors")
    monkeypatch.setattr(
        "polyray.shelf.preferences.reward_model.model._checked_card", lambda path: read_card(path)
    )
    for name, value, message in (
        ("mean", np.full_like(tensors["mean"], np.nan), r"head\.safetensors: mean "),
        ("std", np.zeros_like(tensors["std"]), r"head\.safetensors: std "),
        ("mean", tensors["mean"][:3], r"'mean': \(3,\).*'mean': \(26,\)"),
    ):
        copy = damaged(model_dir, "head.safetensors", b"")
        save_file({**tensors, name: value}, copy / "head.safetensors")
        with pytest.raises(DataError, match=message):
            EngagementModel.load(copy)
    values = json.loads((model_dir / "config.json").read_text())
    other = damaged(model_dir, "config.json", json.dumps({**values, "encoder_sha256": "0" * 64}).encode())
    with pytest.raises(ConfigError, match=r"'packaged' .*known-sha256"):
        EngagementModel.load(other)
    broken = damaged(model_dir, "config.json", json.dumps({**values, "temperature": 0}).encode())
    with pytest.raises(DataError, match=r"config\.json: temperature"):
        EngagementModel.load(broken)


def test_card_has_data_encoder_and_licence(model_dir: Path) -> None:
    card, text = read_card(model_dir), (model_dir / "README.md").read_text()
    assert card.data.half == "train"
    assert card.encoder.licence == "Apache-2.0"
    assert len(card.clusters) == card.data.counts["train_clusters"] + card.data.counts["validation_clusters"]
    assert set(card.nuisance) == {"log_age", "log_age_squared", "log_position", "is_first"}
    for part in (card.version, card.data.sha256, card.encoder.sha256, "Limits", "| accuracy |"):
        assert part in text


def test_models_that_share_data_may_not_check_each_other(model_dir: Path) -> None:
    card = read_card(model_dir)

    def with_clusters(version: str, names: list[str]) -> ModelCard:
        data = card.data.model_copy(update={"cluster_digests": cluster_digests(names)})
        return card.model_copy(update={"version": version, "data": data})

    first, second = with_clusters("a" * 64, ["t1", "t2"]), with_clusters("b" * 64, ["t3", "t4", "t5"])
    check_independent(first, second)
    with pytest.raises(ConfigError, match="same model"):
        check_independent(first, with_clusters("a" * 64, ["t9"]))
    with pytest.raises(ConfigError, match=r"1 of 2 and 3 clusters .*data\.half=eval"):
        check_independent(first, with_clusters("c" * 64, ["t2", "t8", "t9"]))
    assert cluster_digests(["b", "a", "b"]) == cluster_digests(["a", "b"])
