"""Fixed prompts in an SFT run: what is sampled is the model's, and watching changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.periodic_eval import EvalPlan, EvalSchedule
from polyray.config.run import SftConfig
from polyray.errors import MonitorStopped
from polyray.learner.embedded import build_tokenizer
from polyray.learner.supervised_eval import sample_groups
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.periodic_eval import mean_over_prompts, summarise
from polyray.runs.jsonl import read_jsonl
from polyray.tasks import build_task
from polyray.types import Prompt, ScoredGroup
from tests.unit.tiny_policy import EOS, build_policy, save_base

WEIGHTS = "adapter/adapter_model.safetensors"
PROMPTS = [Prompt("a", "1|b1>e4="), Prompt("b", "37|b1>d2="), Prompt("c", "9|a1>b2=")]


class Interrupted(Exception):
    """Exception that stands for a kill."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def config_of(**sections: Any) -> SftConfig:
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "demonstrations_per_step": 4,
        "max_tokens": 24,
        "learner": {"steps": 6, "learning_rate": 1e-2, "warmup_steps": 0, "checkpoint_every": 2},
        "dynamics": {"every": 4, "num_prompts": 3, "num_samples": 4},
    }
    return SftConfig.model_validate({**values, **sections})


def run(config: SftConfig, base: Path, run_dir: Path, stop_after: int | None = None) -> bytes:
    def reported(metrics: dict[str, float]) -> None:
        if metrics["step"] == stop_after:
            raise Interrupted

    run_supervised(
        SupervisedRun(config, base, run_dir, "float32", torch.device("cpu"), 0, 1), lambda m: m, reported
    )
    return (run_dir / WEIGHTS).read_bytes()


def test_completions_carry_the_log_probs_of_a_plain_forward() -> None:
    """Prompts of several lengths in one padded batch, against one unpadded forward each."""
    model, tokenizer = build_policy(reference=False), build_tokenizer()
    rounds = EvalPlan(EvalSchedule(1, 6), "auto", 3, 40)
    groups = sample_groups(model, tokenizer, PROMPTS, config_of(), rounds, step=2)
    assert [group.prompt for group in groups] == PROMPTS
    ended = 0
    for group in groups:
        assert len(group.completions) == 40
        for completion in group.completions:
            ids = completion.token_ids.tolist()
            whole = torch.tensor([[*group.prompt_token_ids.tolist(), *ids]])
            with torch.no_grad():
                predicted = model(whole).logits[0].log_softmax(-1)[len(whole[0]) - len(ids) - 1 : -1]
            expected = predicted[range(len(ids)), ids].numpy()
            assert completion.rollout_logprobs == pytest.approx(expected, abs=2e-5)
            assert EOS not in ids[:-1]
            assert (completion.finish_reason == "stop") == (ids[-1] == EOS)
            assert completion.text == tokenizer.decode(ids, skip_special_tokens=True)
            ended += ids[-1] == EOS
    assert 0 < ended < 120


def test_samples_are_drawn_from_the_model() -> None:
    """The first token of 1,200 completions of one prompt against its distribution; chi-squared, p > .001."""
    from scipy.stats import chisquare

    model = build_policy(reference=False)
    asked = [PROMPTS[0]] * 30
    groups = sample_groups(
        model, build_tokenizer(), asked, config_of(), EvalPlan(EvalSchedule(1, 6), "auto", 30, 40), step=0
    )
    first = [int(item.token_ids[0]) for group in groups for item in group.completions]
    with torch.no_grad():
        logits = model(torch.tensor([groups[0].prompt_token_ids.tolist()])).logits[0, -1]
    expected = logits.double().softmax(-1).numpy() * len(first)
    common = expected >= 5
    counts = np.bincount(first, minlength=len(expected))
    assert common.sum() >= 5 and counts[~common].sum() < 60
    wanted = expected[common] * counts[common].sum() / expected[common].sum()
    assert chisquare(counts[common], wanted).pvalue > 0.001


def test_length_of_one_prompt_changes_no_other_completion() -> None:
    model, tokenizer = build_policy(reference=False), build_tokenizer()
    rounds = EvalPlan(EvalSchedule(1, 6), "auto", 3, 40)
    long = Prompt("long", "123|b1>e4=" + "U" * 12)
    (alone,) = sample_groups(model, tokenizer, [PROMPTS[0]], config_of(), rounds, step=0)
    beside, cut = sample_groups(model, tokenizer, [PROMPTS[0], long], config_of(), rounds, step=0)
    for group in (alone, beside, cut):
        longest = max(len(item.token_ids) for item in group.completions)
        assert longest == 24 - len(group.prompt_token_ids)


def test_samples_ignore_the_settings_that_a_base_brings() -> None:
    model, tokenizer = build_policy(reference=False), build_tokenizer()
    rounds = EvalPlan(EvalSchedule(1, 6), "auto", 1, 40)
    plain = sample_groups(model, tokenizer, PROMPTS[:1], config_of(), rounds, step=0)
    model.generation_config.temperature, model.generation_config.repetition_penalty = 0.2, 1.5
    asked = model.generation_config
    again = sample_groups(model, tokenizer, PROMPTS[:1], config_of(), rounds, step=0)
    assert [c.text for c in again[0].completions] == [c.text for c in plain[0].completions]
    assert model.generation_config is asked


def test_prompts_without_room_are_not_asked(base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "1|" + "a" * 40, "completion": "U"}]
    rows += [{"prompt": f"{number}|b1>", "completion": "UU"} for number in range(9)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "train": str(data)}
    run(config_of(data=source, too_long="drop", learner={"steps": 1}), base, tmp_path / "run")
    first, *_ = read_jsonl(tmp_path / "run" / "dynamics.jsonl")
    assert first["num_prompts"] == 3 and first["completion_length_mean"] > 3


@pytest.fixture(scope="module")
def watched(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("watched")
    run(config_of(), base, run_dir)
    return run_dir


def test_evaluation_changes_no_adapter_and_is_written_down(base: Path, watched: Path, tmp_path: Path) -> None:
    assert run(config_of(dynamics=None), base, tmp_path) == (watched / WEIGHTS).read_bytes()
    assert not (tmp_path / "dynamics.jsonl").exists()
    lines = read_jsonl(watched / "dynamics.jsonl")
    assert [(line["phase"], line["step"]) for line in lines] == [("sft", 0), ("sft", 4), ("sft", 6)]
    metrics = read_jsonl(watched / "metrics.jsonl")
    assert [line["step"] for line in metrics if "validation/diversity" in line] == [3, 5]
    assert metrics[3]["validation/diversity"] == lines[1]["diversity"]
    assert metrics[3]["monitor/collapse"] == 0 < metrics[3]["validation_s"]


def test_interrupted_run_has_the_same_dynamics(base: Path, watched: Path, tmp_path: Path) -> None:
    for stop_after in (2, 4):
        with pytest.raises(Interrupted):
            run(config_of(), base, tmp_path, stop_after)
    assert run(config_of(), base, tmp_path) == (watched / WEIGHTS).read_bytes()
    assert (tmp_path / "dynamics.jsonl").read_bytes() == (watched / "dynamics.jsonl").read_bytes()


def test_values_equal_the_task_scores(base: Path, watched: Path) -> None:
    """The first round is of an adapter that changes nothing: it can be sampled again here."""
    from polyray.config.model import LoraSpec
    from polyray.models.loading import load_base
    from polyray.models.lora import attach_adapter

    config = config_of()
    model = attach_adapter(load_base(base, "float32"), LoraSpec(rank=4), None, base_sha256="b", seed=0).eval()
    task, plan = build_task(config.task), config.eval_plan(6)
    assert plan is not None
    summaries = []
    for group in sample_groups(model, build_tokenizer(), task.validation_prompts(3), config, plan, step=0):
        texts = [completion.text for completion in group.completions]
        rewards = np.array([task.reward(group.prompt, text) for text in texts])
        classes = np.array([task.completion_class(group.prompt, text) for text in texts])
        summaries.append(summarise(ScoredGroup(group, rewards, classes), plan))
    line = read_jsonl(watched / "dynamics.jsonl")[0]
    expected = {"phase": "sft", "step": 0, **mean_over_prompts(summaries), "monitor/collapse": 0}
    assert line == pytest.approx(expected)
    assert line["unscored"] == 0


@pytest.fixture
def own_rows(tmp_path: Path) -> str:
    rows = [{"prompt": f"{i:02d}|", "completion": "UDLR"[i % 4] * (1 + i % 5)} for i in range(11)]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_own_rows_are_sampled_without_scores_also_after_an_early_end(
    base: Path, tmp_path: Path, own_rows: str
) -> None:
    config = config_of(
        data={"type": "jsonl", "train": own_rows, "validation_share": 0.5},
        evaluation={"every": 1, "early_stopping": {"patience": 1, "min_delta": 100.0}},
        dynamics={"every": 4, "num_prompts": 3, "num_samples": 2},
    )
    run(config, base, tmp_path / "run")
    assert [line["step"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [0, 1]
    lines = read_jsonl(tmp_path / "run" / "dynamics.jsonl")
    assert [(line["step"], line["unscored_groups"]) for line in lines] == [(0, 3), (2, 3)]
    assert all(0 <= line["self_bleu"] <= 1 and "pass_at_1" not in line for line in lines)


def test_monitor_with_action_stop_ends_the_run_with_a_checkpoint(base: Path, tmp_path: Path) -> None:
    """The same command stops again at once; without the monitor it goes on to the adapter of an unwatched run."""
    monitor = {"metric": "loss", "rule": {"above": 0, "window": 3}, "action": "stop"}
    watched = config_of(monitors=[monitor], dynamics=None)
    for steps in (3, 4):
        with pytest.raises(MonitorStopped, match=f"step {steps - 1}: monitor loss: .* above 0"):
            run(watched, base, tmp_path / "watched")
        lines = read_jsonl(tmp_path / "watched" / "metrics.jsonl")
        assert [line["monitor/loss"] for line in lines] == [0, 0, 1, 1][:steps]
    plain = config_of(dynamics=None)
    assert run(plain, base, tmp_path / "watched") == run(plain, base, tmp_path / "plain")
