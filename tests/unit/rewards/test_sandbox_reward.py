"""SandboxReward: verdicts become scores, our own errors stay unscored, consent comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from polyray.config.loader import build_config
from polyray.config.reward import DiversitySpec, SandboxRewardSpec, VerifierRewardSpec
from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, DataError, SandboxError
from polyray.rewards import plan_reward, sandbox
from polyray.rewards.base import ScoreItem
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.sandbox import SandboxReward
from polyray.sandbox import Program, ProgramResult
from polyray.types import WRONG_CLASS, Prompt

SPEC = SandboxRewardSpec(allow_code_execution=True, timeout_s=2, memory_mib=512)


class Increments:
    """Completions are bodies of f; the class is the length of the body."""

    name = "increments"

    def program(self, prompt: Prompt, completion: str) -> Program:
        if prompt.text == "foreign":
            raise DataError("no such task")
        return Program("p", prompt.text + completion, "assert f(1) == 2", None)

    def reward(self, prompt: Prompt, completion: str) -> float:
        raise AssertionError("only the sandbox judges")

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return len(completion)

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        return [len(completion) for completion in completions]

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return 0.5


HEAD = "def f(x): "
BODIES = [
    "return x + 1",
    "return x",
    "return 1 + x ",
    "import os; os._exit(0)",
    "import os; os.kill(os.getpid(), 9)",
    "return [0] * 10**12",
    "return f(f(x))" + "\nimport time; time.sleep(60)",
]


def test_each_verdict_has_its_score() -> None:
    reward = SandboxReward(Increments(), SPEC)
    items = [ScoreItem(HEAD, body) for body in BODIES]
    scores = reward.score([*items, ScoreItem("foreign", "")])
    assert [score.score for score in scores] == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, None]
    assert [score.class_id for score in scores] == [12, -1, 13, -1, -1, -1, -1, WRONG_CLASS]
    blamed = [[name for name, value in score.components.items() if value] for score in scores]
    assert blamed == [[], ["failed"], [], ["no_verdict"], ["crashed"], ["memory"], ["timeout"], []]
    assert re.search(r"^sandbox .*DataError: no such task$", str(scores[-1].error))
    assert not reward.inline


def test_group_has_classes_and_distances_of_passing_programs() -> None:
    reward = SandboxReward(Increments(), SPEC, diversity=DiversitySpec())
    request = GroupToScore(Prompt("1", HEAD), tuple(BODIES[:3]), want_distances=True)
    (group,) = score_groups(reward, [request])
    assert group.rewards_G.tolist() == [1.0, 0.0, 1.0]
    assert group.classes_G.tolist() == [12, WRONG_CLASS, 13]
    assert group.distances_GG is not None
    assert group.distances_GG.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert group.components["failed"] == (0.0, 1.0, 0.0)


def fake(verdicts: list[str], then: Exception | None = None) -> Any:
    def run(programs: Any, *arguments: Any) -> Iterator[ProgramResult]:
        for program, verdict in zip(programs, verdicts, strict=False):
            yield ProgramResult(program.program_id, verdict, "why", 0, 0, 0, "none", "")  # type: ignore[arg-type]
        if then is not None:
            raise then

    return run


def test_our_own_errors_are_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = SandboxReward(Increments(), SPEC)
    items = [ScoreItem(HEAD, body) for body in BODIES[:3]]
    monkeypatch.setattr(sandbox, "run_programs", fake(["passed", "sandbox_error", "failed"]))
    scores = reward.score(items)
    assert [score.score for score in scores] == [1.0, None, 0.0]
    assert scores[1].error == "sandbox: sandbox_error: why; isolation none"
    monkeypatch.setattr(sandbox, "run_programs", fake(["passed"], SandboxError("3 of 4 programs")))
    scores = reward.score(items)
    assert [score.score for score in scores] == [1.0, None, None]
    assert {score.error for score in scores[1:]} == {"sandbox: 3 of 4 programs"}


def test_nothing_runs_without_consent() -> None:
    refused = r"reward\.allow_code_execution=false.*--allow-code-execution"
    with pytest.raises(ConfigError, match=refused):
        plan_reward(SandboxRewardSpec(), HiddenTrapGridSpec())
    with pytest.raises(ConfigError, match=refused):
        SandboxReward(Increments(), SandboxRewardSpec())


def test_a_task_without_programs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"HiddenTrapGrid.*`program`.*task\.type: code"):
        plan_reward(SPEC, HiddenTrapGridSpec()).build()


def test_the_configuration() -> None:
    values = {
        "name": "x",
        "reward": {"type": "sandbox", "allow_code_execution": True, "service": {"port": 0}},
    }
    spec = build_config(TrainConfig, values).reward
    assert isinstance(spec, SandboxRewardSpec)
    assert (spec.service.max_batch_size, spec.service.request_timeout_s, spec.service.port) == (8, 300.0, 0)
    assert VerifierRewardSpec().service.max_batch_size == 64
    with pytest.raises(ValidationError):
        SandboxRewardSpec(timeout_s=0)
    with pytest.raises(ValidationError):
        SandboxRewardSpec(memory_mib=1)
