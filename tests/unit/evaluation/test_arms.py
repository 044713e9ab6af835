from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.config.prompts import ArmSpec, PromptTemplate
from polyray.config.task import JsonlSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.arms import resolve_arms, reward_name, training_reward
from polyray.evaluation.baselines import Example, asked, few_shot_examples, listed_answers
from polyray.tasks.jsonl import JsonlTask
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


def test_prompt_gets_examples_and_words_around_it() -> None:
    assert asked(TEXT, TEMPLATE, EXAMPLES) == replace(TEXT, text="Count.\n\n1+1=2\n\nNow: 2+2= (a number)")
    assert asked(CHAT, TEMPLATE, EXAMPLES).messages == (
        {"role": "system", "content": "Count.\n\nBe brief."},
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Now: 2+2? (a number)"},
    )


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("1. a\n2. b\n3. c\n4. d", ["a", "b", "c"]),
        ("Here:\n\n 1) a\nmore\n\n 2) b", ["a\nmore", "b", ""]),
        ("1. take\n7. steps\n2. b", ["take\n7. steps", "b", ""]),
        ("no list", ["no list", "", ""]),
        ("", ["", "", ""]),
    ],
)
def test_listed_answers_are_the_entries_of_a_numbered_list(text: str, answers: list[str]) -> None:
    assert listed_answers(text, 3) == answers


def test_template_of_several_answers_hands_their_number_to_its_arms(tmp_path: Path) -> None:
    sums = task(tmp_path, rows(1, 2), rows(8))
    specs = {"list": ArmSpec(prompt=str(ROOT / "configs/prompts/verbalised.yaml")), "one": ArmSpec()}
    listed, one = resolve_arms(specs, sums.held_out_prompts(), sums, 0, EvaluationSpec(selector="first"))
    assert (listed.answers, one.answers) == (16, None)
    assert "Give 16 different answers" in listed.asked_P[0].text
    with pytest.raises(ConfigError, match=r"num_samples=8.*verbalised\.yaml.*answers=16"):
        resolve_arms(specs, sums.held_out_prompts(), sums, 0, EvaluationSpec(num_samples=8))
    with pytest.raises(ConfigError, match=r"selector=logprob cannot pick .*verbalised\.yaml"):
        resolve_arms(specs, sums.held_out_prompts(), sums, 0, EvaluationSpec())


@pytest.mark.parametrize(
    ("values", "message"),
    [({"ks": (2, 4)}, "is of pass@1"), ({"confidence": 0.5}, "needs a confidence above 0.5")],
)
def test_margin_that_would_have_no_effect_is_refused(values: dict[str, Any], message: str) -> None:
    assert EvaluationSpec(margin=0.02).margin == 0.02
    with pytest.raises(ValueError, match=message):
        EvaluationSpec(margin=0.02, **values)


def test_few_shot_examples_are_different_demonstrations_of_the_training_part(tmp_path: Path) -> None:
    sums = task(tmp_path, rows(1, 2, 3, 4, 5, 6), rows(7, 8))
    held_out = sums.held_out_prompts()
    examples = few_shot_examples(sums, 5, 0, held_out)
    assert len({example.prompt.text for example in examples}) == 5
    assert all(int(e.response) == 2 * int(e.prompt.text.partition("+")[0]) for e in examples)
    assert few_shot_examples(sums, 5, 0, held_out) == examples != few_shot_examples(sums, 5, 1, held_out)
    with pytest.raises(DataError, match=r"shots=7.*\b6\b"):
        few_shot_examples(sums, 7, 0, held_out)


@pytest.mark.parametrize(
    ("trained", "evaluated", "why"),
    [
        (rows(1), Prompt("p", "1+1="), "text"),
        ([{"prompt": " 1+1= ", "response": "2"}], Prompt("p", "1+1="), "text"),
        (rows(1, cluster="c"), Prompt("p", "2+2=", cluster_id="c"), "cluster 'c'"),
    ],
)
def test_few_shot_leak_is_refused_and_named(tmp_path: Path, trained, evaluated: Prompt, why: str) -> None:
    with pytest.raises(DataError, match=f"few-shot leak: .*{why}"):
        few_shot_examples(task(tmp_path, trained, rows(99)), 1, 0, [evaluated])


def test_arms_of_one_template_share_its_prompts(tmp_path: Path) -> None:
    sums = task(tmp_path, rows(*range(1, 8)), rows(8, 9))
    few = str(ROOT / "configs/prompts/few_shot.yaml")
    specs = {
        "zero-shot": ArmSpec(),
        "few-shot": ArmSpec(prompt=few),
        "tuned": ArmSpec(adapter="/a", prompt=few),
    }
    zero, first, second = resolve_arms(specs, sums.held_out_prompts(), sums, 0, EvaluationSpec())
    assert (zero.template, first.template, second.adapter_dir) == (None, "few_shot", "/a")
    assert [p.text for p in zero.asked_P] == ["8+8=", "9+9="]
    assert first.asked_P[0].text.endswith("\n\n8+8=") and first.asked_P[0].text.count("\n\n") == 5
    assert first.asked_P is second.asked_P
    with pytest.raises(ConfigError, match=r"/nowhere\.yaml"):
        resolve_arms({"x": ArmSpec(prompt="nowhere.yaml")}, [], sums, 0, EvaluationSpec())


PLACES = ["adapter", "best", "best/step-000004", "versions/17", "checkpoints/step-000020/adapter"]


@pytest.mark.parametrize("place", PLACES)
def test_training_reward_is_that_of_the_adapters_own_run(tmp_path: Path, place: str) -> None:
    adapter = tmp_path / place
    adapter.mkdir(parents=True)
    assert training_reward(None) is None and training_reward(str(adapter)) is None
    config: dict[str, Any] = {"task": {"type": "code"}, "reward": {"type": "sandbox", "service": {"port": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert training_reward(str(adapter)) is None, "no objective: a warm start"
    (tmp_path / "config.json").write_text(json.dumps(config | {"algorithm": {"type": "grpo"}}))
    assert training_reward(str(adapter)) == '{"type": "sandbox"} on code'
    assert training_reward(str(adapter)) == reward_name({"type": "sandbox"}, {"type": "code"})


@pytest.mark.parametrize(
    ("reward", "same"),
    [
        ({"type": "sandbox", "allow_code_execution": True, "workers": 7, "timeout_s": 9.0}, True),
        ({"type": "verifier"}, False),
    ],
)
@pytest.mark.parametrize("composite", [False, True])
def test_reward_name_ignores_how_a_reward_is_run(reward: dict[str, Any], same: bool, composite: bool) -> None:
    def named(spec: dict[str, Any]) -> str:
        parts = [{"name": "a", "reward": spec}, {"name": "b", "reward": {"type": "verifier"}}]
        return reward_name({"type": "composite", "parts": parts} if composite else spec, {"type": "code"})

    assert (named({"type": "sandbox"}) == named(reward)) is same
