"""Python blocks of docs/algorithms.md: adapters for TRL and verl, and the filter of DPH-RL's rehearsal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.algorithm import PolychromicSpec
from polyray.config.task import JsonlSpec
from polyray.evaluation.records import SampleRecord, as_line
from polyray.learner.advantages import compute_advantages
from polyray.tasks.jsonl import JsonlTask
from tests.unit.documents.document_text import ROOT, blocks
from tests.unit.tiny_policy import random_group, save_base

ADAPTERS = {block.file: block for block in blocks("docs/algorithms.md") if block.language == "python"}
CLUSTER = PolychromicSpec(objective="cluster", quality_weight=0.0, set_size=4)
REWARDS = [[1, 0.5, 1, 0, np.nan, 1], [0, 1, 1, 1, 0.25, 1]]
CLASSES = [[3, 4, 3, -1, 5, 6], [-1, 2, 2, 2, 7, 8]]


def test_filter_of_the_rehearsal_leaves_right_answers_of_the_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = tmp_path / "configs/train/smollm2.jsonl"
    prompts.parent.mkdir(parents=True)
    prompts.write_text((ROOT / "configs/train/smollm2.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    asked = [json.loads(line)["messages"][-1]["content"] for line in prompts.read_text().splitlines()]
    samples = tmp_path / "runs/base/evaluation/samples.jsonl"
    samples.parent.mkdir(parents=True)
    records = [
        SampleRecord(f"p-{at}", f"answer {at}.{n}", n, reward=(at % 2) * (n % 2), prompt=text)
        for at, text in enumerate(asked)
        for n in range(2)
    ]
    samples.write_text("".join(map(as_line, records)), encoding="utf-8")
    exec(compile(ADAPTERS["keep_correct.py"].text, "keep_correct.py", "exec"), {})
    task = JsonlTask(JsonlSpec(path="rehearsal.jsonl"))
    assert len(task.training_rows) + len(task.validation_rows) + len(task.held_out_rows) == len(asked)
    shown = {(prompt.text, response) for prompt, response in (task.demonstration(at, 0) for at in range(300))}
    assert len(shown) > 50
    for text, response in shown:
        assert asked.index(text) % 2 == 1 and response == f"answer {asked.index(text)}.1"


def adapter(file: str, monkeypatch: pytest.MonkeyPatch, modules: dict[str, Any]) -> dict[str, Any]:
    """Names that a block defines, with stand-ins for the modules of its framework."""
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {}
    exec(compile(ADAPTERS[file].text, file, "exec"), names)
    return names


def expected(spec: Any) -> np.ndarray:
    pairs = enumerate(zip(REWARDS, CLASSES, strict=True))
    return np.concatenate([
        compute_advantages(random_group(at, rewards, classes=classes), spec).advantages_G
        for at, (rewards, classes) in pairs
    ])  # fmt: skip


class StandInTrainer:
    """TRL's trainer in the second of two processes, each with half of the completions."""

    num_generations = num_generations_eval = 6
    model = SimpleNamespace(training=True)
    accelerator = SimpleNamespace(process_index=1)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
        return torch.tensor([REWARDS, CLASSES]).reshape(2, -1).T

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, torch.Tensor]:
        self._calculate_rewards(inputs, [], [], [])
        return {"advantages": torch.zeros(len(inputs)), "completion_ids": torch.zeros(len(inputs), 2)}


def test_trainer_of_trl_gets_the_set_advantages_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    names = adapter("trl_trainer.py", monkeypatch, {"trl": {"GRPOTrainer": StandInTrainer}})
    output = names["SetTrainer"]()._generate_and_score_completions([{}] * 6)
    np.testing.assert_allclose(output["advantages"], expected(CLUSTER)[6:], rtol=1e-6)
    assert output["advantages"].dtype == torch.float32 and output["completion_ids"].shape == (6, 2)
    few = names["set_advantages"](np.array([1.0, np.nan, 0.0, 1.0, 1.0]), np.zeros(5))
    assert few.tolist() == [0.0] * 5


def test_trainer_of_trl_takes_two_steps_with_set_advantages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets")
    names = adapter("trl_trainer.py", monkeypatch, {})
    seen: list[np.ndarray] = []

    def quality(completions: list[str], **_: Any) -> list[float]:
        return [(len(set(text)) % 3) / 2 for text in completions]

    def class_of(completions: list[str], **_: Any) -> list[int]:
        return [len(set(text)) - 1 for text in completions]

    class Trainer(names["SetTrainer"]):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            groups = self.scores.double().numpy().reshape(-1, 6, 2)
            wanted = [
                compute_advantages(
                    random_group(0, group[:, 0].tolist(), classes=group[:, 1].astype(int).tolist()), CLUSTER
                ).advantages_G
                for group in groups
            ]
            np.testing.assert_allclose(output["advantages"], np.concatenate(wanted), rtol=0, atol=1e-6)
            seen.append(output["advantages"].numpy())
            return output

    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path / "run"), max_steps=2, num_generations=6, per_device_train_batch_size=12,
        max_completion_length=6, reward_weights=[1.0, 0.0], loss_type="dr_grpo", learning_rate=1e-2, use_cpu=True,
        report_to=[], save_strategy="no", seed=1, disable_tqdm=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": text} for text in ("12|b1>e4=", "13|b2>e4=")] * 2)
    trainer = Trainer(str(save_base(tmp_path / "base")), [quality, class_of], arguments, train_dataset=rows)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert len(seen) == 2 and max(np.abs(part).max() for part in seen) > 0.01
    assert not all(torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))


def test_estimator_of_verl_gives_every_token_the_credit_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, Any] = {}

    def register_adv_est(name: str) -> Any:
        return lambda function: registered.setdefault(name, function)

    packages: dict[str, Any] = {name: {} for name in ("verl", "verl.trainer", "verl.trainer.ppo")}
    core = {"verl.trainer.ppo.core_algos": {"register_adv_est": register_adv_est}}
    adapter("verl_estimator.py", monkeypatch, packages | core)
    rewards = np.nan_to_num(np.array(REWARDS), nan=0.75).T.ravel()  # the groups take turns
    index = np.array(["one", "other"] * 6, dtype=object)
    mask = torch.tensor([[1.0, 1.0, at % 3 > 0] for at in range(12)])
    scores = torch.zeros(12, 3)
    scores[:, 1] = torch.tensor(rewards)
    advantages, returns = registered["best_of_four"](
        token_level_rewards=scores, response_mask=mask, config=SimpleNamespace(), index=index
    )
    spec = PolychromicSpec(objective="max", quality_weight=0.0, set_size=4)
    wanted = np.zeros(12)
    for group in range(2):
        wanted[group::2] = compute_advantages(random_group(0, rewards[group::2].tolist()), spec).advantages_G
    np.testing.assert_allclose(advantages, wanted[:, None] * mask.numpy(), rtol=0, atol=1e-6)
    assert returns is advantages
