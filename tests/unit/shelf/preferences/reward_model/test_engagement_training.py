"""The loop without Ray: ranks, resume, early stopping, age, both objectives, fine-tuning."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import ConfigError, RewardError
from polyray.launch.trainer import TrainWorker
from polyray.learner.optim import lr_share
from polyray.models.embedder import Embedder
from polyray.runs.jsonl import read_jsonl
from polyray.runs.stop_request import StopRequest
from polyray.shelf.preferences.reward_model import EngagementModel, read_card, training
from polyray.shelf.preferences.reward_model.data import load_training_data
from polyray.shelf.preferences.reward_model.network import build_network
from polyray.shelf.preferences.reward_model.objective import batch_rows
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


def a_run(config: TrainRewardConfig, run_dir: Path) -> TrainWorker:
    run_dir.mkdir(exist_ok=True)
    return TrainWorker(config, run_dir, CPU, rank=0, world_size=1)


def train(config: TrainRewardConfig, run_dir: Path, kill_at: int | None = None) -> list[dict[str, Any]]:
    """Trains, and returns the lines of metrics.jsonl; `kill_at`: the report that raises KeyboardInterrupt."""
    reports = count()

    def report(metrics: dict[str, float]) -> None:
        if next(reports) == kill_at:
            raise KeyboardInterrupt

    run_reward_training(a_run(config, run_dir), report)
    lines = read_jsonl(run_dir / "metrics.jsonl")
    return [{key: value for key, value in line.items() if not is_timing_key(key)} for line in lines]


def agreement(model: EngagementModel) -> float:
    """Spearman correlation of raw scores with the preference on new texts."""
    texts = [f"new text {number}" for number in range(200)]
    raw = model.raw(["a new prompt"] * len(texts), texts)
    return float(spearmanr(raw, [vector_of(text)[0] for text in texts])[0])  # type: ignore[arg-type]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_records(tmp_path / "r.jsonl", liking)


@pytest.mark.parametrize(
    ("objective", "parts"),
    [
        ("pairwise", {"pair_loss"}),
        ("regression", {"regression_loss"}),
        ("both", {"pair_loss", "regression_loss"}),
    ],
)
def test_training_learns_the_preferred_completions(
    objective: str, parts: set[str], records: Path, tmp_path: Path
) -> None:
    line = train(reward_config(records, objective__type=objective), tmp_path / "run")[0]
    model = EngagementModel.load(tmp_path / "run" / "model")
    assert agreement(model) > 0.9
    assert model.card.validation["accuracy"] > 0.85 > model.card.validation["accuracy_of_length_alone"]
    assert parts == {"pair_loss", "regression_loss"} & set(line)
    assert line["loss"] == pytest.approx(sum(line[name] for name in parts))


@pytest.mark.parametrize("objective", ["pairwise", "both"])
def test_backward_on_several_ranks_adds_to_the_gradient_of_one(
    objective: str, records: Path, tmp_path: Path
) -> None:
    dropout = {"head__width": 8, "head__dropout": 0.3, "head__input_dropout": 0.2}
    config = reward_config(records, objective__type=objective, rows_per_step=37, **dropout)
    data = load_training_data(config)
    torch.manual_seed(0)
    network = build_network(config, KnownEmbedder(), data, a_run(config, tmp_path))  # type: ignore[arg-type]
    found = []
    for world_size in (1, 2, 3):
        for parameter in network.parameters():
            parameter.grad = None
        shares = [backward(network, data, config, 3, rank, world_size) for rank in range(world_size)]
        gradients = [p.grad.reshape(-1) for p in network.parameters() if p.grad is not None]
        found.append((torch.cat(gradients), sum(sum(share.values()) for share in shares)))
    whole, whole_loss = found[0]
    assert whole.abs().max() > 1e-3
    for gradient, loss in found[1:]:
        torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=0)
        assert loss == pytest.approx(whole_loss, abs=1e-6)


def test_batch_rows_draw_every_pair_once_an_epoch(records: Path) -> None:
    config = reward_config(records, rows_per_step=50, objective__type="both")
    rows = load_training_data(config).train
    size = len(rows.pairs_P2)
    drawn = [tuple(pair) for step in range(size) for pair in batch_rows(rows, config, step).pairs_B2]
    epochs = [drawn[start : start + size] for start in (0, size, 2 * size)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(map(tuple, rows.pairs_P2.tolist()))
    assert epochs[0] != epochs[1]
    batch = batch_rows(rows, config, 5)
    assert (batch.pair_weight_B.sum(), batch.item_weight_R.sum()) == pytest.approx((1.0, 1.0))


def test_training_that_was_interrupted_resumes_to_the_same_bytes(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"learner__steps": 20, "learner__checkpoint_every": 7, "stopping__every": 5}
    config = reward_config(records, head__width=8, head__dropout=0.3, **steps)
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    lines = train(config, whole)
    assert len(list((whole / "checkpoints").glob("step-*"))) == 2
    with pytest.raises(KeyboardInterrupt):
        train(config, killed, kill_at=1)
    assert len(read_jsonl(killed / "metrics.jsonl")) == 14
    with (killed / "metrics.jsonl").open("a") as log:
        log.write('{"step": 14, "loss": 1.0}\n{"st')  # steps after the checkpoint are done again

    stopped.mkdir()
    validated = training.validation_metrics
    with StopRequest(stopped) as stop, monkeypatch.context() as patch:

        def asked_after_step_5(*arguments: Any) -> Any:
            stop.ask("SIGTERM")
            return validated(*arguments)

        patch.setattr(training, "validation_metrics", asked_after_step_5)
        train(config, stopped)
    assert [file.name for file in (stopped / "checkpoints").iterdir()] == ["step-000005"]
    assert not (stopped / "model").exists()

    for folder in (killed, stopped):
        assert train(config, folder) == lines
        heads = [(each / "model" / "head.safetensors").read_bytes() for each in (folder, whole)]
        assert heads[0] == heads[1]


def test_training_that_is_resumed_with_other_inputs_is_refused(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reward_config(records, learner__steps=4, learner__checkpoint_every=2)
    train(config, tmp_path / "run")
    other = write_records(tmp_path / "other.jsonl", liking, seed=1)
    with pytest.raises(ConfigError, match=r"training rows .*step-000004"):
        train(reward_config(other), tmp_path / "run")
    monkeypatch.setattr(KnownEmbedder, "sha256", "e" * 64)
    with pytest.raises(ConfigError, match=r"encoder\.name .*eeeeeeeeeeee"):
        train(config, tmp_path / "run")


def test_training_that_is_resumed_for_longer_uses_the_longer_schedule(records: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    for steps in (4, 6):
        learner = {"learner__steps": steps, "learner__checkpoint_every": 4, "learner__final_lr_share": 0.1}
        config = reward_config(records, **learner)
        rates = [line["lr"] for line in train(config, tmp_path / "run")]
    expected = [config.learner.learning_rate * lr_share(step, config.learner) for step in (4, 5)]
    assert rates[4:] == pytest.approx(expected, rel=1e-12)
    assert rates[3] < rates[4]


def test_early_stopping_keeps_the_best_model(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.jsonl", lambda text, rng: {"engagement": float(rng.normal())})
    config = reward_config(path, learner__steps=300, stopping__every=2, stopping__patience=3)
    lines = train(config, tmp_path / "run")
    losses = {line["step"] + 1: line["eval_loss"] for line in lines if "eval_loss" in line}
    card = read_card(tmp_path / "run" / "model")
    assert card.best_step == min(losses, key=lambda step: losses[step])
    assert max(losses) == card.best_step + 6 < 300
    assert card.validation["log_loss"] <= np.log(2) + 1e-3  # the temperature makes nothing of nothing


def test_confounder_of_age_is_modelled_apart_from_the_text(tmp_path: Path) -> None:
    def aged(text: str, rng: np.random.Generator) -> dict[str, Any]:
        liked = float(vector_of(text)[0])  # liked texts come late, and early ones collect the votes
        log_age = 3.0 + 2.0 * liked + 0.7 * float(rng.normal())
        engagement = 6 * (liked - log_age) + float(rng.normal())
        return {"engagement": engagement, "age_s": 3600 * float(np.expm1(max(log_age, 0.05)))}

    path = write_records(tmp_path / "r.jsonl", aged, clusters=120)
    found = {}
    for mode in ("model", "ignore"):
        train(reward_config(path, confounders__mode=mode, learner__steps=150), tmp_path / mode)
        found[mode] = agreement(EngagementModel.load(tmp_path / mode / "model"))
    assert found["model"] > 0.8
    assert found["ignore"] < -0.5  # it learns that people dislike what they like


def test_training_that_diverges_is_an_error(records: Path, tmp_path: Path) -> None:
    config = reward_config(records, learner__learning_rate=1e30, objective__type="both")
    with pytest.raises(RewardError, match=r"gradient.* learner\.learning_rate"):
        train(config, tmp_path / "run")


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


def test_encoder_that_is_fine_tuned_is_trained_saved_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Embedder", Embedder)

    def by_word(text: str, rng: np.random.Generator) -> dict[str, Any]:
        return {"engagement": float(int(text.split()[-1]) % 3)}  # the number of the completion is liked

    path = write_records(tmp_path / "r.jsonl", by_word, clusters=20)
    encoder = str(tiny_encoder(tmp_path / "encoder"))
    learner = {"steps": 6, "learning_rate": 0.01, "checkpoint_every": 3, "micro_batch_rows": 20}
    config = reward_config(
        path,
        encoder={"name": encoder, "fine_tune": True, "learning_rate": 0.01},
        learner=learner,
        stopping__every=3,
    )
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", kill_at=0)
    lines = train(config, tmp_path / "broken")
    assert lines == train(config, tmp_path / "whole")
    model = EngagementModel.load(tmp_path / "whole" / "model")
    assert EngagementModel.load(tmp_path / "broken" / "model").version == model.version
    assert model.card.encoder.fine_tuned and model.embedder.sha256 != Embedder(encoder).sha256
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.02
    data = load_training_data(config)
    pairs = data.validation.pairs_P2.ravel()
    prompts, texts = (
        [data.texts[at] for at in column[pairs]] for column in (data.prompt_I, data.completion_I)
    )
    raw = model.raw(prompts, texts).reshape(-1, 2)
    expected = float(np.log1p(np.exp(raw[:, 1] - raw[:, 0])).mean())
    assert model.card.validation["log_loss"] == pytest.approx(expected, abs=1e-3)
