"""The coordinator hands out the fixed prompts for the versions that are due, each to workers that serve it."""

from __future__ import annotations

import pytest

from polyray.orchestrator.coordinator import NOT_READY, STOP, Coordinator
from tests.unit.orchestrator.fakes import DIED, FakePool, batch_of, make_config, make_payload, started

EVALUATION = {"every": 2, "num_prompts": 3, "num_samples": 2}


pytestmark = pytest.mark.usefixtures("no_ray")


async def _values(coordinator: Coordinator, version: int, attempt: int = 1) -> dict[str, float]:
    for _ in range(40):
        answer = await coordinator.validation(attempt, version, wait=True)
        if not isinstance(answer, str):
            return dict(answer)
        assert answer == NOT_READY
    raise AssertionError("no values came")


@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_due_versions_are_validated_with_the_same_seeds(max_staleness: int) -> None:
    pool = FakePool()
    config = make_config(rollout={"max_staleness": max_staleness}, evaluation=EVALUATION)
    coordinator = await started(pool, config)
    for step in range(3):
        await batch_of(coordinator, step)
        await coordinator.publish(make_payload(step + 1))
    for version in (0, 2):
        values = await _values(coordinator, version)
        assert values == {
            "reward_mean": float(version), "num_prompts": 3.0, "unscored": 0.0, "unscored_groups": 0.0,
            "tokens_generated": 27.0,
        }  # fmt: skip
    assert await coordinator.validation(1, 1, wait=False) == NOT_READY  # never due
    requests = [request for fake in pool.made for request in fake.validated]
    assert sorted(request.group_id for request in requests) == [-9, -8, -7, -3, -2, -1]
    assert all(fake.validated for fake in pool.made)
    seeds = {request.prompt.prompt_id: set() for request in requests}
    for request in requests:
        seeds[request.prompt.prompt_id].add(request.seeds)
    assert all(len(of_prompt) == 1 for of_prompt in seeds.values())  # the same for every version


async def test_validation_tokens_count_as_run_tokens() -> None:
    coordinator = await started(FakePool(), make_config(evaluation=EVALUATION))
    await _values(coordinator, 0)
    assert (await coordinator.progress())["tokens"] - coordinator._progress.tokens == 27


async def test_group_of_a_lost_worker_goes_to_another_worker() -> None:
    pool = FakePool()
    pool.made[0].fails = DIED
    coordinator = await started(pool, make_config(evaluation=EVALUATION))
    values = await _values(coordinator, 0)
    assert (values["unscored_groups"], values["tokens_generated"]) == (0.0, 27.0)


async def test_new_attempt_validates_again_and_refuses_the_old_one() -> None:
    coordinator = await started(FakePool(), make_config(evaluation=EVALUATION))
    await _values(coordinator, 0)
    await coordinator.begin_attempt(None)
    assert await coordinator.validation(1, 0, wait=False) == STOP
    assert await coordinator.validation(2, 0, wait=False) == NOT_READY
    await coordinator.publish(make_payload(0, attempt=2))
    assert (await _values(coordinator, 0, attempt=2))["reward_mean"] == 0.0
