"""The loop without Ray: ranks, resume, early stopping, age, both objectives, fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import ConfigError, RewardError
from polyray.learner.optim import lr_share
from polyray.runs.jsonl import read_jsonl
from polyray.runs.stop_request import StopRequest
from polyray.shelf.preferences.reward_model import EngagementModel, training
from polyray.shelf.preferences.reward_model.data import load_training_data
from polyray.shelf.preferences.reward_model.network import build_network
from polyray.shelf.preferences.reward_model.objective import batch_rows
from polyray.shelf.preferences.reward_model.run import RewardTrainingRun
from polyray.shelf.preferences.reward_model.training import backward, run_reward_training
from polyray.types import is_timing_key
from tests.unit.shelf.preferences.reward_model.stand_ins import (
    CPU,
    KnownEmbedder,
    liking,
    reward_config,
    vector_of,
    write_records,
)

pytestmark = pytest.mark.usefixtures("known_encoder")


def a_run(config: TrainRewardConfig, run_dir: Path) -> RewardTrainingRun:
    run_dir.mkdir(exist_ok=True)
    return RewardTrainingRun(config, run_dir, CPU, rank=0, world_size=1)


def trained(config: TrainRewardConfig, run_dir: Path) -> EngagementModel:
    run_reward_training(a_run(config, run_dir), lambda metrics: None)
    return EngagementModel.load(run_dir / "model")


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if not is_timing_key(key)}
        for line in read_jsonl(run_dir / "metrics.jsonl")
    ]


def agreement(model: EngagementModel) -> float:
    """Spearman correlation of raw scores with the preference on new texts."""
    texts = [f"new text {number}" for number in range(200)]
    raw = model.raw(["a new prompt"] * len(texts), texts)
    return float(spearmanr(raw, [vector_of(text)[0] for text in texts])[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["pairwise", "regression", "both"])
def test_training_learns_the_preferred_completions(objective: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    model = trained(reward_config(path, objective__type=objective), tmp_path / "run")
    assert agreement(model) > 0.9
    assert model.card.validation["accuracy"] > 0.85 > model.card.validation["accuracy_of_length_alone"]
    line = read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]
    parts = {
        "pairwise": {"pair_loss"},
        "regression": {"regression_loss"},
        "both": {"pair_loss", "regression_loss"},
    }
    assert parts[objective] == {"pair_loss", "regression_loss"} & set(line)
    assert line["loss"] == pytest.approx(sum(line[name] for name in parts[objective]))


@pytest.mark.parametrize("objective", ["pairwise", "both"])
def test_several_ranks_train_the_model_of_one(objective: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    config = reward_config(
        path,
        objective__type=objective,
        head__width=8,
        head__dropout=0.3,
        head__input_dropout=0.2,
        rows_per_step=37,
    )
    data = load_training_data(config)
    torch.manual_seed(0)
    network = build_network(config, KnownEmbedder(), data, a_run(config, tmp_path))  # type: ignore[arg-type]
    gradients, losses = [], []
    for world_size in (1, 2, 3):
        shares = [backward(network, data, config, 3, rank, world_size) for rank in range(world_size)]
        losses.append(sum(sum(share.values()) for share in shares))
        gradients.append(
            torch.cat([p.grad.reshape(-1).clone() for p in network.parameters() if p.grad is not None])
        )
        for parameter in network.parameters():
            parameter.grad = None
    assert gradients[0].abs().max() > 1e-3
    for gradient, loss in zip(gradients[1:], losses[1:], strict=True):
        torch.testing.assert_close(gradient, gradients[0], atol=1e-6, rtol=0)
        assert loss == pytest.approx(losses[0], abs=1e-6)


def test_every_row_is_drawn_once_an_epoch(tmp_path: Path) -> None:
    config = reward_config(
        write_records(tmp_path / "r.jsonl", liking), rows_per_step=50, objective__type="both"
    )
    rows = load_training_data(config).train
    size = len(rows.pairs_P2)
    drawn = [tuple(pair) for step in range(size) for pair in batch_rows(rows, config, step).pairs_B2][
        : 3 * size
    ]
    for start in (0, size, 2 * size):
        assert sorted(drawn[start : start + size]) == sorted(map(tuple, rows.pairs_P2.tolist()))
    assert drawn[:size] != drawn[size : 2 * size]
    batch = batch_rows(rows, config, 5)
    assert (batch.pair_weight_B.sum(), batch.item_weight_R.sum()) == pytest.approx((1.0, 1.0))


def test_a_resumed_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    config = reward_config(
        path,
        head__width=8,
        head__dropout=0.3,
        learner__steps=40,
        learner__checkpoint_every=7,
        stopping__every=5,
    )
    run_reward_training(a_run(config, tmp_path / "whole"), lambda metrics: None)
    reports = iter(range(3))

    def killed(metrics: dict[str, float]) -> None:
        if next(reports) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_reward_training(a_run(config, tmp_path / "broken"), killed)
    assert len(lines_of(tmp_path / "broken")) == 14
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 14, "loss": 1.0}\n{"st')  # steps after the checkpoint are done again
    run_reward_training(a_run(config, tmp_path / "broken"), lambda metrics: None)
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "whole")
    heads = [(tmp_path / name / "model" / "head.safetensors").read_bytes() for name in ("broken", "whole")]
    assert heads[0] == heads[1]
    assert len(list((tmp_path / "whole" / "checkpoints").glob("step-*"))) == 2

    with monkeypatch.context() as patch:
        patch.setattr(KnownEmbedder, "sha256", "e" * 64)
        with pytest.raises(ConfigError, match=r"encoder\.name .*eeeeeeeeeeee"):
            run_reward_training(a_run(config, tmp_path / "broken"), lambda metrics: None)
    other = write_records(tmp_path / "other.jsonl", liking, seed=1)
    with pytest.raises(ConfigError, match=r"training rows .*step-000040"):
        run_reward_training(a_run(reward_config(other), tmp_path / "broken"), lambda metrics: None)


def test_resumed_longer_run_uses_rate_of_longer_schedule(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    for steps in (4, 6):
        config = reward_config(
            path, learner__steps=steps, learner__checkpoint_every=4, learner__final_lr_share=0.1
        )
        run_reward_training(a_run(config, tmp_path / "run"), lambda metrics: None)
    rates = [line["lr"] for line in lines_of(tmp_path / "run")]
    learner = config.learner
    expected = [learner.learning_rate * lr_share(step, learner) for step in (4, 5)]
    assert rates[4:] == pytest.approx(expected, rel=1e-12)
    assert rates[3] < rates[4]


def test_stopped_run_resumes_to_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_records(tmp_path / "r.jsonl", liking)
    config = reward_config(
        path, head__dropout=0.3, learner__steps=10, learner__checkpoint_every=7, stopping__every=5
    )
    whole = trained(config, tmp_path / "whole")
    broken = a_run(config, tmp_path / "broken")
    validated = training.validation_metrics
    with StopRequest(broken.run_dir) as stop:

        def asked_after_step_5(*arguments: Any) -> Any:
            stop.ask("SIGTERM")
            return validated(*arguments)

        monkeypatch.setattr(training, "validation_metrics", asked_after_step_5)
        run_reward_training(broken, lambda metrics: None)
    monkeypatch.setattr(training, "validation_metrics", validated)
    assert [file.name for file in (broken.run_dir / "checkpoints").iterdir()] == ["step-000005"]
    assert not (broken.run_dir / "model").exists()
    assert trained(config, broken.run_dir).version == whole.version
    assert lines_of(broken.run_dir) == lines_of(tmp_path / "whole")


def test_early_stopping_keeps_the_best_model(tmp_path: Path) -> None:
    def noise(text: str, rng: np.random.Generator) -> dict[str, Any]:
        return {"engagement": float(rng.normal())}

    path = write_records(tmp_path / "r.jsonl", noise)
    config = reward_config(path, learner__steps=300, stopping__every=2, stopping__patience=3)
    model = trained(config, tmp_path / "run")
    losses = {
        line["step"] + 1: line["eval_loss"] for line in lines_of(tmp_path / "run") if "eval_loss" in line
    }
    best = min(losses, key=lambda step: losses[step])
    assert model.card.best_step == best
    assert max(losses) == best + 6 < 300
    assert model.card.validation["log_loss"] <= np.log(2) + 1e-3  # the temperature makes nothing of nothing


def test_age_is_modelled_and_not_taken_for_the_text(tmp_path: Path) -> None:
    def aged(text: str, rng: np.random.Generator) -> dict[str, Any]:
        liked = float(vector_of(text)[0])  # liked texts come late, and early ones collect the votes
        log_age = 3.0 + 2.0 * liked + 0.7 * float(rng.normal())
        engagement = 6 * (liked - log_age) + float(rng.normal())
        return {"engagement": engagement, "age_s": 3600 * float(np.expm1(max(log_age, 0.05)))}

    path = write_records(tmp_path / "r.jsonl", aged, clusters=120)
    found = {
        mode: agreement(
            trained(reward_config(path, confounders__mode=mode, learner__steps=150), tmp_path / mode)
        )
        for mode in ("model", "ignore")
    }
    assert found["model"] > 0.8
    assert found["ignore"] < -0.5  # it learns that people dislike what they like


def test_diverging_training_is_an_error(tmp_path: Path) -> None:
    config = reward_config(
        write_records(tmp_path / "r.jsonl", liking), learner__learning_rate=1e30, objective__type="both"
    )
    with pytest.raises(RewardError, match=r"gradient.* learner\.learning_rate"):
        run_reward_training(a_run(config, tmp_path / "run"), lambda metrics: None)


def tiny_encoder(directory: Path) -> Path:
    """A sentence-transformers model of one layer, with the words of the tests as its vocabulary."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "completion", "prompt", *map(str, range(60))]
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(directory)  # type: ignore[arg-type]
    BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    body = Transformer(str(directory), max_seq_length=16)
    model = SentenceTransformer(modules=[body, Pooling(16)], device="cpu")
    model.save_pretrained(str(directory / "saved"), create_model_card=False)
    return directory / "saved"


def test_a_fine_tuned_encoder_is_trained_saved_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyray.models.embedder import Embedder

    monkeypatch.setattr("polyray.shelf.preferences.reward_model.training.Embedder", Embedder)

    def by_word(text: str, rng: np.random.Generator) -> dict[str, Any]:
        return {"engagement": float(int(text.split()[-1]) % 3)}  # the number of the completion is liked

    path = write_records(tmp_path / "r.jsonl", by_word, clusters=20)
    encoder = tiny_encoder(tmp_path / "encoder")
    config = reward_config(
        path,
        encoder__name=str(encoder),
        encoder__fine_tune=True,
        encoder__learning_rate=0.01,
        learner__steps=6,
        learner__learning_rate=0.01,
        learner__checkpoint_every=3,
        learner__micro_batch_rows=20,
        stopping__every=3,
    )
    reports = iter(range(3))

    def killed(metrics: dict[str, float]) -> None:
        if next(reports) == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_reward_training(a_run(config, tmp_path / "broken"), killed)
    run_reward_training(a_run(config, tmp_path / "broken"), lambda metrics: None)
    model = trained(config, tmp_path / "whole")
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "whole")
    assert EngagementModel.load(tmp_path / "broken" / "model").version == model.version
    assert model.card.encoder.fine_tuned and model.embedder.sha256 != Embedder(str(encoder)).sha256
    losses = [line["loss"] for line in lines_of(tmp_path / "whole")]
    assert losses[-1] < losses[0] - 0.02
    figures = model.card.validation
    pairs = load_training_data(config).validation.pairs_P2
    data = load_training_data(config)
    texts = [data.texts[data.completion_I[at]] for at in pairs.ravel()]
    prompts = [data.texts[data.prompt_I[at]] for at in pairs.ravel()]
    raw = model.raw(prompts, texts).reshape(-1, 2)
    assert figures["log_loss"] == pytest.approx(
        float(np.log1p(np.exp(raw[:, 1] - raw[:, 0])).mean()), abs=1e-3
    )
