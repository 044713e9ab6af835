"""Whole SFT runs on a tiny random model: the same run however it is packed, watched, or interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from polyray.config.run import SftConfig
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError, DataError
from polyray.learner import supervised_loop
from polyray.learner.demonstrations import EpochOrder, load_demonstrations, truncate
from polyray.learner.embedded import build_tokenizer
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.supervised import demonstration_batches, supervised_step
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.runs.jsonl import read_jsonl
from polyray.runs.stop_request import StopRequest
from tests.unit.tiny_policy import build_policy, save_base

WEIGHTS = "adapter/adapter_model.safetensors"


class Interrupted(Exception):
    """Exception that stands for a kill."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"prompt": f"{i:02d}|", "completion": "UDLR"[i % 4] * (1 + i % 5)} for i in range(11)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _config(data: str | dict[str, Any] | None = None, **sections: Any) -> SftConfig:
    learner = {"steps": 6, "learning_rate": 1e-2, "warmup_steps": 0, "checkpoint_every": 2}
    if isinstance(data, str):
        data = {"type": "jsonl", "train": data, "validation_share": 0.3}
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "demonstrations_per_step": 4,
        "max_tokens": 32,
        **({"data": data} if data else {}),
        "dynamics": None,
        **sections,
        "learner": {**learner, **sections.get("learner", {})},
    }
    return SftConfig.model_validate(values)


def _run(config: SftConfig, base: Path, run_dir: Path, stop_after: int | None = None) -> bytes:
    """Runs to the end, or is interrupted after the checkpoint of step `stop_after`."""

    def reported(metrics: dict[str, float]) -> None:
        if metrics["step"] == stop_after:
            raise Interrupted

    run = SupervisedRun(config, base, run_dir, "float32", torch.device("cpu"), 0, 1)
    run_supervised(run, lambda model: model, reported)
    return (run_dir / WEIGHTS).read_bytes()


def _lines(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if not key.endswith("_s")}
        for line in read_jsonl(run_dir / "metrics.jsonl")
    ]


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
    config = _config(objective=objective)
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


def test_resumed_longer_run_uses_rate_of_longer_schedule(base: Path, tmp_path: Path) -> None:
    falling = {"final_lr_share": 0.1, "learning_rate": 0.01}
    _run(_config(learner={"steps": 4, **falling}), base, tmp_path)
    _run(_config(learner={"steps": 6, **falling}), base, tmp_path)
    rates = [line["lr"] for line in _lines(tmp_path)]
    assert rates[:4] == pytest.approx([0.01 * (1 - 0.9 * step / 3) for step in range(4)])
    assert rates[4:] == pytest.approx([0.01 * (1 - 0.9 * step / 5) for step in (4, 5)])


def test_packing_changes_neither_loss_nor_gradient() -> None:
    apart, loss, share = _gradient({"type": "cross_entropy"})
    packed, packed_loss, packed_share = _gradient({"type": "cross_entropy"}, pack_width=17)
    assert packed_loss == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-6)
    assert float(apart.abs().max()) > 1e-2
    assert packed_share > share + 0.05


def test_gem_is_cross_entropy_at_beta_one_only() -> None:
    plain, loss, _ = _gradient({"type": "cross_entropy"})
    same, same_loss, _ = _gradient({"type": "gem", "beta": 1.0})
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-6)
    assert same_loss != pytest.approx(loss, abs=0.1)  # the values differ, the gradients do not
    other, _, _ = _gradient({"type": "gem", "beta": 0.7})
    assert float((other - plain).norm() / plain.norm()) > 0.05


def test_every_epoch_sees_every_row_in_an_order_of_its_own() -> None:
    order = EpochOrder(7, seed=3)
    epochs = [[order(index) for index in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert EpochOrder(7, seed=3)(16) == epochs[2][2]
    assert [EpochOrder(7, seed=4)(index) for index in range(7)] != epochs[0]


def test_epochs_decide_the_number_of_steps(base: Path, data: str, tmp_path: Path) -> None:
    config = _config(data, epochs=1.5)
    rows = load_demonstrations(config, build_tokenizer())
    assert rows.num_rows is not None and rows.num_rows < 11
    _run(config, base, tmp_path / "run")
    lines = _lines(tmp_path / "run")
    assert len(lines) == -(-3 * rows.num_rows // 8)
    assert lines[-1]["epoch"] == pytest.approx(len(lines) * 4 / rows.num_rows)
    assert lines[-1]["epoch"] >= 1.5


@pytest.mark.parametrize("packing", [False, True])
def test_an_interrupted_run_is_the_unbroken_one(base: Path, data: str, tmp_path: Path, packing: bool) -> None:
    evaluation = {"every": 3, "num_samples": 1, "max_new_tokens": 4, "early_stopping": {"patience": 9}}
    config = _config(data, evaluation=evaluation, packing=packing)
    unbroken = _run(config, base, tmp_path / "a")
    for stop_after in (2, 4):
        with pytest.raises(Interrupted):
            _run(config, base, tmp_path / "b", stop_after)
    assert _run(config, base, tmp_path / "b") == unbroken
    assert _lines(tmp_path / "b") == _lines(tmp_path / "a")
    for name in ("step-000003.jsonl", "step-000006.jsonl"):
        sampled = (tmp_path / "a" / "samples" / name).read_bytes()
        assert (tmp_path / "b" / "samples" / name).read_bytes() == sampled
        assert set(json.loads(sampled)) == {"prompt", "completion", "reference"}


def test_a_run_that_is_asked_to_stop_ends_after_the_step_with_a_checkpoint(
    base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = {"steps": 10, "checkpoint_every": 20}
    config = _config(data, learner=learner, evaluation={"every": 3, "early_stopping": {"patience": 9}})
    unbroken = _run(config, base, tmp_path / "a")
    broken = tmp_path / "b"
    broken.mkdir()
    with StopRequest(broken) as stop:
        step = supervised_loop.supervised_step

        def asked_during_step_4(*args: Any, **kwargs: Any) -> Any:
            if len(_lines(broken)) == 3:
                stop.ask("SIGTERM")
            return step(*args, **kwargs)

        monkeypatch.setattr(supervised_loop, "supervised_step", asked_during_step_4)
        reports: list[float] = []
        run = SupervisedRun(config, base, broken, "float32", torch.device("cpu"), 0, 1)
        run_supervised(run, lambda model: model, lambda metrics: reports.append(metrics["step"]))
        assert reports == [4], "all ranks report the checkpoint that they end with"
        assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step-000004"]
        assert not (broken / "adapter").exists()
        assert [line["step"] for line in _lines(broken)] == [0, 1, 2, 3]
        run_supervised(run, lambda model: model, lambda metrics: reports.append(metrics["step"]))
        assert reports == [4], "still asked to: no step more, and no second checkpoint"
    assert _run(config, base, broken) == unbroken
    assert _lines(broken) == _lines(tmp_path / "a")


def test_a_request_during_the_last_step_does_not_keep_a_run_from_its_end(
    base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(data, learner={"steps": 2})
    unbroken = _run(config, base, tmp_path / "a")
    monkeypatch.setattr(supervised_loop, "agreed_to_stop", lambda run_dir, rank: len(_lines(run_dir)) == 2)
    assert _run(config, base, tmp_path / "b") == unbroken


@pytest.mark.parametrize("packing", [False, True])
def test_layers_that_are_computed_again_give_the_same_run(
    base: Path, data: str, tmp_path: Path, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which must fall on the same places again."""
    passes = 0
    forward = Qwen3DecoderLayer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen3DecoderLayer, "forward", counted)
    kept = _run(_config(data, packing=packing), base, tmp_path / "kept")
    assert passes == 6  # a layer, a micro batch a step
    again = _config(data, packing=packing, learner={"gradient_checkpointing": True})
    assert _run(again, base, tmp_path / "again") == kept
    assert passes == 6 + 2 * 6
    assert _lines(tmp_path / "again") == _lines(tmp_path / "kept")


def test_evaluation_does_not_change_training(base: Path, tmp_path: Path) -> None:
    evaluation = {"every": 1, "num_rows": 5, "num_samples": 2, "max_new_tokens": 4}
    plain = _run(_config(), base, tmp_path / "plain")
    assert _run(_config(evaluation=evaluation), base, tmp_path / "watched") == plain
    lines = _lines(tmp_path / "watched")
    assert all(line["eval_loss"] > 0 for line in lines)
    assert [{k: v for k, v in line.items() if k != "eval_loss"} for line in lines] == _lines(
        tmp_path / "plain"
    )
    sampled = read_jsonl(tmp_path / "watched" / "samples" / "step-000001.jsonl")
    task = load_demonstrations(_config(evaluation=evaluation), build_tokenizer())
    assert [line["prompt"] for line in sampled] == [item.prompt.text for item in task.validation[:2]]


def test_the_best_adapter_is_the_final_one(
    base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(data, evaluation={"every": 1, "early_stopping": {"patience": 2, "min_delta": 0.1}})
    _losses(monkeypatch, [3.0, 2.0, 1.95, 1.91, 0.5])
    final = _run(config, base, tmp_path / "stopped")
    assert [line["eval_loss"] for line in _lines(tmp_path / "stopped")] == [3.0, 2.0, 1.95, 1.91]
    best = tmp_path / "stopped" / "best" / "step-000002" / "adapter_model.safetensors"
    assert final == best.read_bytes()
    checkpoints = tmp_path / "stopped" / "checkpoints"
    second = checkpoints / "step-000002" / WEIGHTS
    assert final == second.read_bytes() != (checkpoints / "step-000004" / WEIGHTS).read_bytes()

    _losses(monkeypatch, [3.0, 2.0])
    with pytest.raises(Interrupted):
        _run(config, base, tmp_path / "broken", stop_after=2)
    _losses(monkeypatch, [1.95, 1.91])
    assert _run(config, base, tmp_path / "broken") == final
    shutil.rmtree(tmp_path / "broken" / "adapter")  # killed between the last checkpoint and the adapter
    _losses(monkeypatch, [])
    assert _run(config, base, tmp_path / "broken") == final


def test_other_rows_than_the_checkpoints_are_refused(base: Path, data: str, tmp_path: Path) -> None:
    config = _config(data)
    with pytest.raises(Interrupted):
        _run(config, base, tmp_path / "run", stop_after=2)
    Path(data).write_text('{"prompt": "1", "completion": "U"}\n' * 9 + '{"prompt": "2", "completion": "U"}\n')
    config = _config({"type": "jsonl", "train": data})
    with pytest.raises(ConfigError, match="step-000002"):
        _run(config, base, tmp_path / "run")


def test_packing_is_refused_where_rows_could_see_each_other(
    base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyray.learner.supervised_loop.is_packable", lambda _: False)
    with pytest.raises(ConfigError, match=r"packing=true.*'qwen3'"):
        _run(_config(data, packing=True), base, tmp_path / "run")


def test_rows_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"prompt": "12", "completion": "UD"}\n{"prompt": "12", "completion": "UDLRU"}\n'
        '{"prompt": "123456", "completion": "U"}\n'
    )
    tokenizer, spec = build_tokenizer(), {"type": "jsonl", "train": str(path)}
    with pytest.raises(DataError, match=r"data\.jsonl:2'.*\b9 tokens.*max_tok"):
        load_demonstrations(_config(data=spec, max_tokens=6), tokenizer)
    dropped = load_demonstrations(_config(data=spec, max_tokens=6, too_long="drop"), tokenizer)
    assert (dropped.num_rows, dropped.dropped, dropped.truncated) == (1, 2, 0)
    cut = load_demonstrations(_config(data=spec, max_tokens=6, too_long="truncate"), tokenizer)
    assert (cut.num_rows, cut.dropped, cut.truncated) == (2, 1, 1)
    longest = max((cut.row_of(index) for index in range(2)), key=lambda row: row.truncated)
    assert tokenizer.decode(list(longest.token_ids[longest.response_start :])) == "UDL"


def test_a_cut_keeps_the_users_turns_untrained() -> None:
    row = TokenRow(tuple(range(10)), 2, untrained=((4, 8),))
    cut = truncate(row, 6)
    assert cut == TokenRow(tuple(range(6)), 2, untrained=((4, 6),), truncated=True)
    assert cut is not None and cut.num_targets == 2
    assert truncate(row, 2) is None


def test_sft_resumes_on_no_other_base_and_no_other_warm_start(data: str, base: Path, tmp_path: Path) -> None:
    _run(_config(data), base, tmp_path / "first")
    warm = _config(
        data, model={"lora": {"rank": 4, "alpha": 8}, "warm_start": str(tmp_path / "first/adapter")}
    )
    for config, run in ((_config(data), "cold"), (warm, "warm")):
        with pytest.raises(Interrupted):
            _run(config, base, tmp_path / run, stop_after=2)
    with pytest.raises(ConfigError, match=r"model\.path"):
        _run(_config(data), save_base(tmp_path / "other", seed=4), tmp_path / "cold")
    _run(_config(data, seed=9), base, tmp_path / "again")
    shutil.rmtree(tmp_path / "first/adapter")
    shutil.copytree(tmp_path / "again/adapter", tmp_path / "first/adapter")
    with pytest.raises(ConfigError, match=r"model\.warm_start"):
        _run(warm, base, tmp_path / "warm")
