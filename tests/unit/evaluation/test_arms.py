from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from polyray.config.loader import build_config, load_config
from polyray.config.prompts import ArmSpec, PromptTemplate
from polyray.config.run import EvaluateConfig
from polyray.config.task import JsonlSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.arms import resolve_arms, reward_name, training_reward
from polyray.evaluation.baselines import Example, asked, few_shot_examples
from polyray.tasks.jsonl import JsonlTask, read_prompts
from polyray.types import Prompt

ROOT = Path(__file__).resolve().parents[3]
TEXT = Prompt("p", "2+2=", reference="4", cluster_id="sums", metadata={"a": 1})
CHAT = Prompt(
    "p", "2+2?", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"})
)
EXAMPLES = [Example(Prompt("t", "1+1="), "2")]
TEMPLATE = PromptTemplate(name="x", system="Count.", before="Now: ", after=" (a number)", shots=1)


def task(tmp_path: Path, train: list[dict], held_out: list[dict]) -> JsonlTask:
    files = []
    for name, rows in (("train", train), ("test", held_out)):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlTask(JsonlSpec(path=str(files[0]), held_out_path=str(files[1]), validation_share=0))


def rows(*numbers: int, **more: str) -> list[dict]:
    return [{"prompt": f"{n}+{n}=", "reference": str(2 * n), "response": str(2 * n), **more} for n in numbers]


def test_a_text_prompt_gets_examples_and_words_around_it() -> None:
    worded = asked(TEXT, TEMPLATE, EXAMPLES)
    assert worded.text == "Count.\n\n1+1=2\n\nNow: 2+2= (a number)"
    assert (worded.prompt_id, worded.reference, worded.cluster_id, worded.metadata) == (
        "p",
        "4",
        "sums",
        {"a": 1},
    )


def test_a_chat_prompt_gets_turns_and_one_system_message() -> None:
    assert asked(CHAT, TEMPLATE, EXAMPLES).messages == (
        {"role": "system", "content": "Count.\n\nBe brief."},
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Now: 2+2? (a number)"},
    )


def test_zero_shot_changes_nothing() -> None:
    zero = load_config(PromptTemplate, ROOT / "configs/prompts/zero_shot.yaml")
    assert asked(TEXT, zero, []) == TEXT and asked(CHAT, zero, []) == CHAT


def test_a_template_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name='\w*'.*shots"):
        PromptTemplate(name="few_shot")


def test_examples_are_different_demonstrations_of_the_training_part(tmp_path: Path) -> None:
    sums = task(tmp_path, rows(1, 2, 3, 4, 5, 6), rows(7, 8))
    held_out = sums.held_out_prompts()
    examples = few_shot_examples(sums, 5, 0, held_out)
    assert len({example.prompt.text for example in examples}) == 5
    assert all(int(e.response) == 2 * int(e.prompt.text.partition("+")[0]) for e in examples)
    assert few_shot_examples(sums, 5, 0, held_out) == examples
    assert few_shot_examples(sums, 5, 1, held_out) != examples
    with pytest.raises(DataError, match=r"shots=7.*\b6\b"):
        few_shot_examples(sums, 7, 0, held_out)


@pytest.mark.parametrize(
    ("train", "test", "why"),
    [
        (rows(1), rows(1), "text"),
        (
            [{"prompt": " 1+1= ", "response": "2"}],
            [{"prompt": "1+1=", "reference": "2"}],
            "text",
        ),
        (rows(1, cluster="c"), rows(2, cluster="c"), "cluster 'c'"),
    ],
)
def test_a_leak_is_refused_and_named(tmp_path: Path, train: list[dict], test: list[dict], why: str) -> None:
    leaking = task(tmp_path, train, rows(99))
    file = tmp_path / "evaluated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in test))
    evaluated = [row.prompt for row in read_prompts(file)]
    with pytest.raises(DataError, match=f"few-shot leak: .*{why}"):
        few_shot_examples(leaking, 1, 0, evaluated)


def test_arms_share_the_wording_of_a_template(tmp_path: Path) -> None:
    sums = task(tmp_path, rows(*range(1, 8)), rows(8, 9))
    few = str(ROOT / "configs/prompts/few_shot.yaml")
    specs = {
        "zero-shot": ArmSpec(),
        "few-shot": ArmSpec(prompt=few),
        "tuned": ArmSpec(adapter="/a", prompt=few),
    }
    zero, first, second = resolve_arms(specs, sums.held_out_prompts(), sums, 0)
    assert (zero.template, first.template, second.adapter_dir) == (None, "few_shot", "/a")
    assert [p.text for p in zero.asked_P] == ["8+8=", "9+9="]
    assert first.asked_P[0].text.endswith("\n\n8+8=") and first.asked_P[0].text.count("\n\n") == 5
    assert first.asked_P is second.asked_P
    with pytest.raises(ConfigError, match=r"/nowhere\.yaml"):
        resolve_arms({"x": ArmSpec(prompt="nowhere.yaml")}, [], sums, 0)


def test_short_and_long_arms_mean_the_same() -> None:
    arms = {"base": None, "sft": "runs/sft/adapter", "few": {"prompt": "x"}}
    config = build_config(EvaluateConfig, {"name": "e", "adapters": arms}, source="e.yaml")
    assert config.adapters == {
        "base": ArmSpec(),
        "sft": ArmSpec(adapter="runs/sft/adapter"),
        "few": ArmSpec(prompt="x"),
    }


def test_the_training_reward_is_read_from_the_adapters_own_run(tmp_path: Path) -> None:
    assert training_reward(None) is None and training_reward(str(tmp_path / "adapter")) is None
    config = {"task": {"type": "code"}, "reward": {"type": "sandbox", "service": {"port": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert training_reward(str(tmp_path / "adapter")) is None  # no objective: a warm start
    (tmp_path / "config.json").write_text(json.dumps(config | {"algorithm": {"type": "grpo"}}))
    assert training_reward(str(tmp_path / "adapter")) == '{"type": "sandbox"} on code'


@pytest.mark.parametrize(
    "place", ["adapter", "best", "best/step-000004", "versions/17", "checkpoints/step-000020/adapter"]
)
def test_training_reward_is_found_for_every_adapter_of_a_run(tmp_path: Path, place: str) -> None:
    config = {"task": {"type": "code"}, "reward": {"type": "sandbox"}, "algorithm": {"type": "grpo"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / place).mkdir(parents=True)
    assert training_reward(str(tmp_path / place)) == reward_name({"type": "sandbox"}, {"type": "code"})


@pytest.mark.parametrize(
    ("reward", "same"),
    [
        ({"type": "sandbox", "allow_code_execution": True, "workers": 7, "timeout_s": 9.0}, True),
        ({"type": "verifier"}, False),
    ],
)
def test_reward_name_ignores_how_a_reward_is_run(reward: dict[str, Any], same: bool) -> None:
    sandbox, part = {"type": "sandbox"}, {"type": "verifier"}
    for wrap in (
        lambda spec: spec,
        lambda spec: {
            "type": "composite",
            "parts": [{"name": "a", "reward": spec}, {"name": "b", "reward": part}],
        },
    ):
        names = {reward_name(wrap(spec), {"type": "code"}) for spec in (sandbox, reward)}
        assert len(names) == (1 if same else 2)


def test_a_misspelt_key_of_an_arm_is_one_line_that_names_it() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(EvaluateConfig, {"name": "e", "adapters": {"few": {"promt": "x"}}}, source="e.yaml")
    assert re.search(r"^e\.yaml: .*'adapters\.few\.promt'.*'adapters\.few\.prompt'", str(caught.value))
