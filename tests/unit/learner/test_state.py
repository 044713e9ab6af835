"""Checkpoints: training goes on bit for bit, damage is passed over, old ones go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from polyray.errors import CheckpointError
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.state import newest_checkpoint, restore_checkpoint, save_checkpoint
from polyray.learner.step import PolicyLearner
from polyray.models.lora import REFERENCE, adapter_state, attach_adapter
from tests.unit.learner.step_fixtures import as_batch, build_learner, mixed_groups
from tests.unit.tiny_policy import NUM_FACTORS, build_base, build_policy, train_config

CONFIG = train_config(
    algorithm={"type": "grpo", "kl_coefficient": 0.1},
    learner={"learning_rate": 0.02, "warmup_steps": 3, "final_lr_share": 0.1, "weight_decay": 0.01},
)
FILES = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "optimizer.safetensors",
    "rng.safetensors",
    "state.json",
    "manifest.json",
)


def _save(directory: Path, step: int, learner: PolicyLearner, keep: int = 5) -> Path:
    return save_checkpoint(
        directory,
        step,
        learner.model,
        learner.optimizer,
        learner.scheduler,
        adapter_manifest={"base_sha256": "b" * 64},
        extra={"coordinator": {"version": step, "pending": [3, 4]}},
        keep=keep,
    )


def _restore(directory: Path, learner: PolicyLearner) -> int:
    checkpoint = newest_checkpoint(directory)
    assert checkpoint is not None
    manifest = {"base_sha256": "b" * 64}
    restore_checkpoint(
        checkpoint, learner.model, learner.optimizer, learner.scheduler, adapter_manifest=manifest
    )
    return checkpoint.step


def _moments(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{field}": value
        for name, parameter in learner.model.named_parameters()
        if parameter.requires_grad
        for field, value in learner.optimizer.state[parameter].items()
    }


def _reference(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    return {name: value for name, value in learner.model.named_parameters() if f".{REFERENCE}." in name}


def _steps(learner: PolicyLearner, count: int) -> list[dict[str, object]]:
    return [dict(learner.step(as_batch(mixed_groups()))) for _ in range(count)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 2 and 4 of one history."""
    directory = tmp_path_factory.mktemp("checkpoints")
    learner = build_learner(CONFIG)
    for step in (2, 4):
        _steps(learner, 2)
        _save(directory, step, learner)
    return directory


@pytest.fixture
def checkpoints(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_two_steps_after_a_restore_equal_two_unbroken_ones(tmp_path: Path) -> None:
    unbroken = build_learner(CONFIG)
    _steps(unbroken, 2)
    torch.manual_seed(11)
    _save(tmp_path, 2, unbroken)
    expected_draw = torch.rand(())
    expected_metrics = _steps(unbroken, 2)

    resumed = build_learner(CONFIG, build_policy(moved=False))  # the reference is as it was, the rest is not
    reference = {name: value.clone() for name, value in _reference(resumed).items()}
    assert len(reference) == NUM_FACTORS
    torch.manual_seed(99)
    assert _restore(tmp_path, resumed) == 2
    assert torch.rand(()) == expected_draw
    assert _steps(resumed, 2) == expected_metrics
    assert all(torch.equal(value, reference[name]) for name, value in _reference(resumed).items())
    weights, expected = adapter_state(resumed.model), adapter_state(unbroken.model)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    moments, expected = _moments(resumed), _moments(unbroken)
    assert moments.keys() == expected.keys()
    assert len(moments) == NUM_FACTORS * 3
    assert all(torch.equal(moments[name], expected[name]) for name in expected)
    assert resumed.scheduler.get_last_lr() == unbroken.scheduler.get_last_lr()


def test_restore_into_longer_run_uses_rate_of_longer_schedule(
    tmp_path: Path,
) -> None:
    def with_steps(steps: int) -> PolicyLearner:
        learner = CONFIG.learner.model_copy(update={"steps": steps, "warmup_steps": 0})
        return build_learner(CONFIG.model_copy(update={"learner": learner}), build_policy(moved=False))

    short = with_steps(4)
    _steps(short, 4)
    _save(tmp_path, 4, short)
    longer = with_steps(14)
    _restore(tmp_path, longer)
    rates = [line["lr"] for line in _steps(longer, 2)]
    assert rates == pytest.approx([0.02 * (1 - 0.9 * step / 13) for step in (4, 5)], rel=1e-12)


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
@pytest.mark.parametrize("file", FILES)
def test_damaged_checkpoint_is_passed_over(checkpoints: Path, file: str, damage: str) -> None:
    path = checkpoints / "step-000004" / file
    (checkpoints / ".step-000006.tmp").mkdir()  # still being written
    intact = newest_checkpoint(checkpoints)
    assert intact is not None and intact.directory.name == "step-000004"
    assert intact.extra == {"coordinator": {"version": 4, "pending": [3, 4]}}
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-20])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    checkpoint = newest_checkpoint(checkpoints)
    assert checkpoint is not None and checkpoint.step == 2
    (checkpoints / "step-000002" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"\b2\b.*step-000004"):
        newest_checkpoint(checkpoints)


def test_newest_valid_checkpoints_are_kept_and_a_repeated_step_replaces_its_own(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    learner, other = build_learner(CONFIG), build_learner(CONFIG, build_policy(moved=False))
    for step in (8, 9, 10, 11):
        _save(tmp_path, step, learner, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-000011"]
    _steps(learner, 1)
    _save(tmp_path, 11, learner, keep=2)
    assert _restore(tmp_path, other) == 11
    one, expected = adapter_state(other.model), adapter_state(learner.model)
    assert all(torch.equal(one[name], expected[name]) for name in expected)
    (tmp_path / "step-000011" / "state.json").unlink()  # a damaged later one does not push out a new one
    _save(tmp_path, 9, learner, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000009"]


def test_moments_of_a_model_with_other_modules_are_refused(checkpoints: Path) -> None:
    spec = CONFIG.model.lora.model_copy(update={"target_modules": ("q_proj",)})
    model = attach_adapter(build_base(), spec, None, base_sha256="b" * 64, seed=0)
    optimizer = build_optimizer(model.parameters(), CONFIG.learner)
    checkpoint = newest_checkpoint(checkpoints)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="moments"):
        scheduler = build_scheduler(optimizer, CONFIG.learner)
        restore_checkpoint(
            checkpoint, model, optimizer, scheduler, adapter_manifest={"base_sha256": "b" * 64}
        )
