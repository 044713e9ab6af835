"""When a reward that scores nothing ends the run, and with which words."""

from __future__ import annotations

import asyncio
import re

import pytest

from polyray.config.task import HiddenTrapGridSpec
from polyray.errors import RewardError
from polyray.orchestrator.monitoring import RewardFailureMonitor
from polyray.orchestrator.rollout_actor import RolloutReply
from polyray.orchestrator.worker_table import RunState
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.python_function import PythonReward, compile_function
from polyray.tasks import build_task
from polyray.types import PolicyVersion, Prompt
from tests.unit.orchestrator.fakes import GROUP_SIZE, make_config

SOURCE = "def score(items):\n    {body}\n"


def reply(group_id: int, num_scored: int, error: str | None) -> RolloutReply:
    policy = PolicyVersion(1, 0, "0" * 64)
    return RolloutReply(group_id, policy, 12, GROUP_SIZE, num_scored, num_scored, True, 0.1, 0.1, error)


def replies_of(body: str, count: int) -> list[RolloutReply]:
    """Replies of a worker whose groups a reward function with this body has scored."""
    function = compile_function("mine.py:score", SOURCE.format(body=body))
    reward = PythonReward(function, build_task(HiddenTrapGridSpec()))
    groups = [GroupToScore(Prompt(str(at), "1="), ("a", "b", "c", "d")) for at in range(count)]
    return [
        reply(at, int(scores.rewards_G.size - sum(map(bool, scores.errors))), scores.errors[0])
        for at, scores in enumerate(score_groups(reward, groups))
    ]


def watched(replies: list[RolloutReply], prompts: int = 8, limit: float = 0.25) -> RunState:
    async def run() -> RunState:
        run_state = RunState()
        reward = {"service": {"max_unscored_share": limit}}
        watch = RewardFailureMonitor(
            make_config(rollout={"prompts_per_step": prompts}, reward=reward), run_state
        )
        for each in replies:
            watch.observe(each)
        return run_state

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [item['answer'] for item in items]", r"KeyError: 'answer'.*mine\.py:2"),
        ("return [float('nan') for _ in items]", r"\bnan\b.*\[0, 1\]"),
        ("return [0.5, 0.5, 0.5]", r"\b3 entries for 1\b"),
        ("return ['good' for _ in items]", r"\bstr \(good\)"),
    ],
)
def test_reward_that_scores_nothing_ends_run_at_second_group(body: str, reason: str) -> None:
    replies = replies_of(body, 2)
    assert watched(replies[:1]).failure is None
    failure = watched(replies).failure
    assert isinstance(failure, RewardError)
    assert re.search(reason, str(failure)) and "mine.py:score" in str(failure)
    assert "8 completions" in str(failure)
    assert "\n" not in str(failure)


def test_reward_failure_keeps_the_traceback_of_the_function_for_the_log() -> None:
    failure = watched(replies_of("return [item['answer'] for item in items]", 2)).failure
    assert failure is not None
    assert "return [item['answer'] for item in items]" in "".join(failure.__notes__)


def test_unscored_first_groups_are_tolerated_after_one_score_and_at_share_1() -> None:
    broken = [reply(at, 0, "the judge was away") for at in range(3)]
    assert watched([reply(9, 1, None), *broken[:2]]).failure is None
    assert watched(broken, limit=1.0).failure is None
    assert watched(broken[:1], prompts=1).failure is not None
