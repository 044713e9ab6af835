"""Prompts that a run could not sample are named before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec, JsonlSpec
from polyray.errors import DataError
from polyray.tasks import build_task
from polyray.tasks.prompts import check_task_prompts, training_prompts, validation_prompts
from tests.unit.tiny_policy import save_base


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with the embedded tokenizer."""
    return save_base(tmp_path_factory.mktemp("model"))


def _check(tmp_path: Path, model_dir: Path, lines: list[dict[str, Any]], **rollout: Any) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "99|8=", "reference": "1"}\n')
    spec = {"type": "jsonl", "path": str(file), "held_out_path": str(held_out)}
    config = build_config(TrainConfig, {"name": "run", "task": spec, "rollout": rollout})
    task = build_task(config.task)
    assert config.eval_plan is not None
    fixed = validation_prompts(config.eval_plan, task, config.seed)
    check_task_prompts(task, config.seed, 20_000, fixed, model_dir, config.rollout.max_prompt_tokens)


def _lines(count: int = 20) -> list[dict[str, Any]]:
    return [{"prompt": f"{at:03d}=", "reference": "1"} for at in range(count)]


def test_prompt_outside_vocabulary_is_named_with_file_and_line(tmp_path: Path, model_dir: Path) -> None:
    lines = _lines()
    _check(tmp_path, model_dir, lines)
    lines[6] |= {"prompt": "07|é=", "id": "my-prompt"}
    with pytest.raises(
        DataError, match=rf"^1 of 20 prompts.*{tmp_path}/mine\.jsonl:7\b.*'my-prompt'.*'07\|é='"
    ):
        _check(tmp_path, model_dir, lines)


def test_long_prompts_are_counted_with_the_limit_that_would_do(tmp_path: Path, model_dir: Path) -> None:
    lines = _lines()
    lines[2]["prompt"], lines[19]["prompt"] = "3" * 20, "4" * 30  # a BOS comes in front
    found = r"^2 of 20 prompts .*rollout\.max_prompt_tokens=16 tokens.*mine\.jsonl:(3 with 21|20 with 31)"
    with pytest.raises(DataError, match=rf"{found}.*rollout\.max_prompt_tokens=31"):
        _check(tmp_path, model_dir, lines)
    _check(tmp_path, model_dir, lines, max_prompt_tokens=31)


def test_training_prompts_are_those_of_a_file_once_and_of_a_generator_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in _lines(500)))
    task = JsonlSpec(path=str(file), held_out_share=0.1, validation_share=0.2)
    prompts = list(training_prompts(build_task(task), 3, 20_000))
    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == 350
    assert len(list(training_prompts(build_task(HiddenTrapGridSpec()), 3, 40))) == 40


def test_unicode_prompt_is_measured_by_a_tokenizer_that_knows_it(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bytes_only = ByteLevelBPETokenizer()
    bytes_only.train_from_iterator([], vocab_size=256)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only._tokenizer, eos_token="!")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    lines = _lines()
    lines[4]["prompt"] = "日本🙂"
    _check(tmp_path, tmp_path / "model", lines)
    with pytest.raises(DataError, match=r"\b1 of 20 .*rollout\.max_prompt_tokens=8\b.*\b10\b"):
        _check(tmp_path, tmp_path / "model", lines, max_prompt_tokens=8)
    lines.append({"messages": [{"role": "user", "content": "1"}], "reference": "1"})
    with pytest.raises(DataError, match=r"mine\.jsonl:21\b.*chat template"):
        _check(tmp_path, tmp_path / "model", lines)
