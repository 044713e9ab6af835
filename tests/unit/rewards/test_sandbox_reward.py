"""SandboxReward: a score for each verdict, no score for errors of the sandbox, consent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from polyray.config.loader import build_config
from polyray.config.reward import DiversitySpec, SandboxRewardSpec
from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import ConfigError, DataError, SandboxError
from polyray.rewards import plan_reward, sandbox
from polyray.rewards.base import ScoreItem
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.sandbox import SandboxReward
from polyray.sandbox import Program, ProgramResult
from polyray.types import WRONG_CLASS, Prompt
from tests.unit.rewards.fake_task import FakeTask

SPEC = SandboxRewardSpec(allow_code_execution=True, timeout_s=2, memory_mib=512)
HEAD = "def f(x): "
BODIES = {
    "return x + 1": [],
    "return x": ["failed"],
    "return 1 + x ": [],
    "import os; os._exit(0)": ["no_verdict"],
    "import os; os.kill(os.getpid(), 9)": ["crashed"],
    "return [0] * 10**12": ["memory"],
    "return f(f(x))\nimport time; time.sleep(60)": ["timeout"],
}
"""Body of f -> the components of its verdict."""


class Increments(FakeTask):
    """Completions are bodies of f; the class is the length of the body."""

    name = "increments"

    def program(self, prompt: Prompt, completion: str) -> Program:
        if prompt.text == "foreign":
            raise DataError("no such task")
        return Program("p", prompt.text + completion, "assert f(1) == 2", None)


TASK = Increments(len)


def test_sandbox_reward_scores_each_verdict() -> None:
    items = [ScoreItem(HEAD, body) for body in BODIES]
    reward = SandboxReward(TASK, SPEC)
    *scores, foreign = reward.score([*items, ScoreItem("foreign", "")])
    assert [score.score for score in scores] == [float(not blamed) for blamed in BODIES.values()]
    assert [score.class_id for score in scores] == [12, -1, 13, -1, -1, -1, -1]
    assert [[name for name, value in score.components.items() if value] for score in scores] == [
        *BODIES.values()
    ]
    assert (foreign.score, foreign.class_id) == (None, WRONG_CLASS)
    assert re.search(r"^sandbox .*DataError: no such task$", str(foreign.error))
    assert not reward.inline


def test_sandbox_reward_group_has_classes_and_distances_of_passing_programs() -> None:
    reward = SandboxReward(TASK, SPEC, diversity=DiversitySpec())
    request = GroupToScore(Prompt("1", HEAD), tuple(BODIES)[:3], want_distances=True)
    (group,) = score_groups(reward, [request])
    assert group.rewards_G.tolist() == [1.0, 0.0, 1.0]
    assert group.classes_G.tolist() == [12, WRONG_CLASS, 13]
    assert group.distances_GG is not None
    assert group.distances_GG.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert group.components["failed"] == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("verdicts", "failure", "expected", "message"),
    [
        (["passed", "sandbox_error", "failed"], None, [1.0, None, 0.0], "sandbox_error: why; isolation none"),
        (["passed"], SandboxError("3 of 4 programs"), [1.0, None, None], "3 of 4 programs"),
    ],
)
def test_sandbox_reward_own_errors_are_unscored(
    verdicts: list[Any],
    failure: Exception | None,
    expected: list[float | None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(programs: Any, *arguments: Any) -> Iterator[ProgramResult]:
        for program, verdict in zip(programs, verdicts, strict=False):
            yield ProgramResult(program.program_id, verdict, "why", 0, 0, 0, "none", "")
        if failure is not None:
            raise failure

    monkeypatch.setattr(sandbox, "run_programs", run)
    scores = SandboxReward(TASK, SPEC).score([ScoreItem(HEAD, body) for body in [*BODIES][:3]])
    assert [score.score for score in scores] == expected
    assert {score.error for score in scores if score.score is None} == {f"sandbox: {message}"}


def test_sandbox_reward_needs_consent_and_programs() -> None:
    refused = r"reward\.allow_code_execution=false.*--allow-code-execution"
    with pytest.raises(ConfigError, match=refused):
        plan_reward(SandboxRewardSpec(), HiddenTrapGridSpec())
    with pytest.raises(ConfigError, match=refused):
        SandboxReward(TASK, SandboxRewardSpec())
    with pytest.raises(ConfigError, match=r"HiddenTrapGrid.*`program`.*task\.type: code"):
        plan_reward(SPEC, HiddenTrapGridSpec()).build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"timeout_s": 0}, "timeout_s"), ({"memory_mib": 1}, "memory_mib"), ({"service": {"port": 0}}, None)],
)
def test_sandbox_reward_settings_keep_its_own_service_limits(
    settings: dict[str, Any], message: str | None
) -> None:
    values = {"name": "x", "reward": {"type": "sandbox", "allow_code_execution": True, **settings}}
    if message is None:
        service = build_config(TrainConfig, values).reward.service
        assert (service.max_batch_size, service.request_timeout_s, service.port) == (8, 300.0, 0)
    else:
        with pytest.raises(ConfigError, match=message):
            build_config(TrainConfig, values)
