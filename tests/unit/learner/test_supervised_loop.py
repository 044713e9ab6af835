"""Whole SFT runs on a tiny random model: the same run however it is packed, watched, or interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError, DataError
from polyray.learner import supervised_loop
from polyray.learner.demonstrations import EpochOrder, load_demonstrations, truncate
from polyray.learner.embedded import build_tokenizer
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.supervised import demonstration_batches, supervised_step
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.runs.stop_request import StopRequest
from tests.unit.learner.sft_fixtures import WEIGHTS, Interrupted, metrics_of, run_sft, sft_config
from tests.unit.tiny_policy import build_policy, save_base


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"prompt": f"{i:02d}|", "completion": "UDLR"[i % 4] * (1 + i % 5)} for i in range(11)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """The validation losses that the run sees, by step."""
    found = iter(values)
    monkeypatch.setattr("polyray.learner.supervised_loop.validation_loss", lambda *_: next(found))


def _gradient(objective: dict[str, Any], pack_width: int | None = None) -> tuple[torch.Tensor, float, float]:
    model = build_policy(reference=False).train()
    rows = [TokenRow(tuple(3 + (i * 5 + at) % 24 for at in range(3 + i % 6)), 1 + i % 2) for i in range(9)]
    step = demonstration_batches(
        rows.__getitem__,
        step=0,
        rank=0,
        world_size=1,
        rows_per_step=9,
        micro_batch_rows=2,
        pad_id=0,
        pack_width=pack_width,
    )
    config = sft_config(objective=objective)
    optimizer = build_optimizer(model.parameters(), config.learner)
    metrics = supervised_step(
        model,
        optimizer,
        build_scheduler(optimizer, config.learner),
        step.batches,
        num_tokens_total=step.num_tokens_total,
        max_grad_norm=1e9,
        batch_loss=build_batch_loss(config.objective),
    )
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return gradient, metrics["loss"], step.token_share


def test_loss_and_gradient_depend_on_neither_packing_nor_gem_at_beta_one() -> None:
    apart, loss, share = _gradient({"type": "cross_entropy"})
    packed, packed_loss, packed_share = _gradient({"type": "cross_entropy"}, pack_width=17)
    assert packed_loss == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-6)
    assert float(apart.abs().max()) > 1e-2 and packed_share > share + 0.05
    same, same_loss, _ = _gradient({"type": "gem", "beta": 1.0})
    torch.testing.assert_close(same, apart, rtol=0, atol=1e-6)
    assert same_loss != pytest.approx(loss, abs=0.1)  # the values differ, the gradients do not
    other, _, _ = _gradient({"type": "gem", "beta": 0.7})
    assert float((other - apart).norm() / apart.norm()) > 0.05


def test_epochs_set_the_number_of_steps_and_each_has_its_own_order(
    model_dir: Path, data: str, tmp_path: Path
) -> None:
    order = EpochOrder(7, seed=3)
    epochs = [[order(index) for index in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and EpochOrder(7, seed=3)(16) == epochs[2][2]
    assert [EpochOrder(7, seed=4)(index) for index in range(7)] != epochs[0]
    config = sft_config(data, epochs=1.5)
    rows = load_demonstrations(config, build_tokenizer())
    assert rows.num_rows is not None and rows.num_rows < 11
    run_sft(config, model_dir, tmp_path)
    lines = metrics_of(tmp_path)
    assert len(lines) == -(-3 * rows.num_rows // 8)
    assert lines[-1]["epoch"] == pytest.approx(len(lines) * 4 / rows.num_rows) and lines[-1]["epoch"] >= 1.5


@pytest.mark.parametrize("packing", [False, True])
def test_run_equals_itself_interrupted_checkpointed_by_layers_or_unwatched(
    model_dir: Path, data: str, tmp_path: Path, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which must fall on the same places again."""
    passes = 0
    forward = Qwen3DecoderLayer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen3DecoderLayer, "forward", counted)
    evaluation = {"every": 3, "num_samples": 1, "max_new_tokens": 4}
    config = sft_config(data, evaluation=evaluation, packing=packing)
    plain = sft_config(data, packing=packing)
    unbroken = run_sft(plain, model_dir, tmp_path / "plain")
    assert passes == 6  # a layer, a micro batch a step
    again = sft_config(data, packing=packing, learner={"gradient_checkpointing": True})
    assert run_sft(again, model_dir, tmp_path / "again") == unbroken
    assert passes == 6 + 2 * 6
    assert metrics_of(tmp_path / "again") == metrics_of(tmp_path / "plain")
    assert run_sft(config, model_dir, tmp_path / "a") == unbroken
    for stop_after in (2, 4):
        with pytest.raises(Interrupted):
            run_sft(config, model_dir, tmp_path / "b", stop_after)
    assert run_sft(config, model_dir, tmp_path / "b") == unbroken
    watched = metrics_of(tmp_path / "a")
    assert metrics_of(tmp_path / "b") == watched
    assert [line.pop("eval_loss", 0) > 0 for line in watched] == [False, False, True] * 2
    assert watched == metrics_of(tmp_path / "plain")
    (held_out, *_) = load_demonstrations(config, build_tokenizer()).validation
    for name in ("step-000003.jsonl", "step-000006.jsonl"):
        sampled = (tmp_path / "a" / "samples" / name).read_bytes()
        assert (tmp_path / "b" / "samples" / name).read_bytes() == sampled
        assert json.loads(sampled).keys() == {"prompt", "completion", "reference"}
        assert json.loads(sampled)["prompt"] == held_out.prompt.text


def test_stop_request_ends_a_run_after_its_step_with_a_checkpoint(
    model_dir: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = {"steps": 10, "checkpoint_every": 20}
    config = sft_config(data, learner=learner, evaluation={"every": 3, "early_stopping": {"patience": 9}})
    unbroken = run_sft(config, model_dir, tmp_path / "a")
    broken = tmp_path / "b"
    broken.mkdir()
    with StopRequest(broken) as stop:
        step = supervised_loop.supervised_step

        def asked_during_step_4(*args: Any, **kwargs: Any) -> Any:
            if len(metrics_of(broken)) == 3:
                stop.ask("SIGTERM")
            return step(*args, **kwargs)

        monkeypatch.setattr(supervised_loop, "supervised_step", asked_during_step_4)
        reports: list[float] = []
        run = SupervisedRun(config, model_dir, broken, "float32", torch.device("cpu"), 0, 1)
        run_supervised(run, lambda model: model, lambda metrics: reports.append(metrics["step"]))
        assert reports == [4]
        assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step-000004"]
        assert not (broken / "adapter").exists()
        assert [line["step"] for line in metrics_of(broken)] == [0, 1, 2, 3]
        run_supervised(run, lambda model: model, lambda metrics: reports.append(metrics["step"]))
        assert reports == [4]  # still asked to: no step more, and no second checkpoint
    assert run_sft(config, model_dir, broken) == unbroken
    assert metrics_of(broken) == metrics_of(tmp_path / "a")
    monkeypatch.setattr(supervised_loop, "supervised_step", step)
    asked_last = lambda run_dir, rank: len(metrics_of(run_dir)) == 10  # noqa: E731
    monkeypatch.setattr(supervised_loop, "agreed_to_stop", asked_last)
    assert run_sft(config, model_dir, tmp_path / "c") == unbroken  # the last step ends the run anyway


def test_row_that_is_too_long_is_refused_dropped_or_truncated(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"prompt": "12", "completion": "UD"}\n{"prompt": "12", "completion": "UDLRU"}\n'
        '{"prompt": "123456", "completion": "U"}\n'
    )
    tokenizer, spec = build_tokenizer(), {"type": "jsonl", "train": str(path)}
    with pytest.raises(DataError, match=r"data\.jsonl:2'.*\b9 tokens.*max_tok"):
        load_demonstrations(sft_config(data=spec, max_tokens=6), tokenizer)
    dropped = load_demonstrations(sft_config(data=spec, max_tokens=6, too_long="drop"), tokenizer)
    assert (dropped.num_rows, dropped.dropped, dropped.truncated) == (1, 2, 0)
    cut = load_demonstrations(sft_config(data=spec, max_tokens=6, too_long="truncate"), tokenizer)
    assert (cut.num_rows, cut.dropped, cut.truncated) == (2, 1, 1)
    longest = max((cut.row_of(index) for index in range(2)), key=lambda row: row.truncated)
    assert tokenizer.decode(list(longest.token_ids[longest.response_start :])) == "UDL"
    row = TokenRow(tuple(range(10)), 2, untrained=((4, 8),))
    assert truncate(row, 6) == TokenRow(tuple(range(6)), 2, untrained=((4, 6),), truncated=True)
    assert truncate(row, 2) is None


def test_best_adapter_is_the_final_one_also_after_kills(
    model_dir: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sft_config(data, evaluation={"every": 1, "early_stopping": {"patience": 2, "min_delta": 0.1}})
    stopped, broken = tmp_path / "stopped", tmp_path / "broken"
    _losses(monkeypatch, [3.0, 2.0, 1.95, 1.91, 0.5])
    final = run_sft(config, model_dir, stopped)
    assert [line["eval_loss"] for line in metrics_of(stopped)] == [3.0, 2.0, 1.95, 1.91]
    second, last = (stopped / f"checkpoints/step-00000{step}" / WEIGHTS for step in (2, 4))
    best = stopped / "best/step-000002/adapter_model.safetensors"
    assert final == best.read_bytes() == second.read_bytes() != last.read_bytes()

    _losses(monkeypatch, [3.0, 2.0])
    with pytest.raises(Interrupted):
        run_sft(config, model_dir, broken, stop_after=2)
    _losses(monkeypatch, [1.95, 1.91])
    assert run_sft(config, model_dir, broken) == final
    shutil.rmtree(broken / "adapter")  # killed between the last checkpoint and the adapter
    _losses(monkeypatch, [])
    assert run_sft(config, model_dir, broken) == final


def test_sft_on_another_base_warm_start_or_other_rows_is_refused(
    data: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first/adapter"
    run_sft(sft_config(data), model_dir, first.parent)
    warm = sft_config(data, model={"lora": {"rank": 4, "alpha": 8}, "warm_start": str(first)})
    for config, run in ((sft_config(data), "cold"), (warm, "warm")):
        with pytest.raises(Interrupted):
            run_sft(config, model_dir, tmp_path / run, stop_after=2)
    with pytest.raises(ConfigError, match=r"model\.path"):
        run_sft(sft_config(data), save_base(tmp_path / "other", seed=4), tmp_path / "cold")
    run_sft(sft_config(data, seed=9), model_dir, tmp_path / "again")
    shutil.rmtree(first)
    shutil.copytree(tmp_path / "again/adapter", first)
    with pytest.raises(ConfigError, match=r"model\.warm_start"):
        run_sft(warm, model_dir, tmp_path / "warm")
    Path(data).write_text('{"prompt": "1", "completion": "U"}\n' * 9 + '{"prompt": "2", "completion": "U"}\n')
    with pytest.raises(ConfigError, match="step-000002"):
        run_sft(sft_config({"type": "jsonl", "train": data}), model_dir, tmp_path / "cold")
    monkeypatch.setattr(supervised_loop, "is_packable", lambda _: False)
    with pytest.raises(ConfigError, match=r"packing=true.*'qwen3'"):
        run_sft(sft_config(data, packing=True), model_dir, tmp_path / "packed")
