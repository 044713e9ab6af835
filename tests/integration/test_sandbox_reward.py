"""Programs scored through the real reward service: replicas run them in the sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest

from polyray.config.reward import DiversitySpec, SandboxRewardSpec
from polyray.config.service import SandboxServiceSpec
from polyray.config.task import CodeSpec
from polyray.orchestrator.reward_client import RewardClient
from polyray.rewards import plan_reward
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service
from polyray.tasks import build_task
from polyray.types import WRONG_CLASS

ROWS = [
    {
        "task_id": f"Own/{number}",
        "prompt": f"def plus_{number}(x):\n",
        "entry_point": f"plus_{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }
    for number in range(3)
]
SPEC = SandboxRewardSpec(
    allow_code_execution=True,
    timeout_s=5,
    service=SandboxServiceSpec(port=0, num_cpus=0.5, batch_wait_timeout_s=0.1),
)
BAD = ["    import os; os._exit(0)\n", "    raise SystemExit\n", "    return '?'\n", "(((\n"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> CodeSpec:
    """A task of three problems."""
    path = tmp_path_factory.mktemp("code") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return CodeSpec(path=str(path), dataset="humaneval", held_out="all")


@pytest.fixture(scope="module")
def programs(ray_session: object, spec: CodeSpec) -> Iterator[RewardServiceAddress]:
    yield start_reward_service(
        "programs-test", plan_reward(SPEC, spec, DiversitySpec(source="task_distance"))
    )
    stop_reward_service("programs-test")


async def test_programs_are_scored_by_their_execution(programs: RewardServiceAddress, spec: CodeSpec) -> None:
    task = build_task(spec)
    prompts = task.held_out_prompts()
    assert len(prompts) == 3
    solutions = [str(task.reference(prompt)) for prompt in prompts]
    client = RewardClient(programs.app_name, SPEC.service)
    groups = await asyncio.gather(
        *(
            client.score_group(prompt, [solution, *BAD, solution], want_distances=True)
            for prompt, solution in zip(prompts, solutions, strict=True)
        )
    )
    for prompt, solution, group in zip(prompts, solutions, groups, strict=True):
        assert group.errors == (None,) * 6
        np.testing.assert_array_equal(group.rewards_G, [1, 0, 0, 0, 0, 1])
        class_id = task.completion_class(prompt, solution)
        assert class_id != WRONG_CLASS
        np.testing.assert_array_equal(group.classes_G, [class_id, *[WRONG_CLASS] * 4, class_id])
        assert group.components["no_verdict"] == (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
        assert group.distances_GG is not None and group.distances_GG[0, 5] == 0.0
