"""Adapter delivery in a real vLLM engine: several versions at once, each exactly what Hugging Face says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError, WeightSyncError
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.engine import EngineSettings
from polyray.types import Group, GroupRequest, PolicyVersion, Prompt
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.tiny_policy import build_base, move, save_base

TOLERANCE = 1e-4
"""Nats, float32."""
SHAPE = {"head_dim": 32, "num_hidden_layers": 2}
RANK = 3
PROBE = ((1, 8, 9, 4, 20), (1, 7, 3))
MAX_TOKENS = 8
NUMBERS = itertools.count()
"""Versions and groups of this module's one engine are numbered through."""


class Policy:
    """A Hugging Face model, and what delivers it."""

    def __init__(self, seed: int | None) -> None:
        """The base itself for None, else a random adapter on it."""
        base: Any = build_base(**SHAPE)
        self.model: Any = base
        content, shape = b"", None
        if seed is not None:
            lora = LoraSpec(rank=RANK, alpha=8)
            self.model = attach_adapter(base, lora, None, base_sha256="b" * 64, seed=seed)
            move(self.model, 0.3, seed)
            self.model.eval()
            content = adapter_bytes(self.model)
            shape = AdapterShape.from_peft(adapter_config(self.model))
        policy = PolicyVersion(1, next(NUMBERS), sha256_of(content))
        probe = Probe(PROBE, probe_logprobs(self.model, PROBE), None)
        self.payload = PolicyUpdate(policy, content, shape, probe)

    def disagreement(self, group: Group) -> float:
        """Largest |engine - Hugging Face| over a group's sampled tokens."""
        prompt = group.prompt_token_ids.tolist()
        worst = 0.0
        for completion in group.completions:
            expected = probe_logprobs(self.model, [[*prompt, *completion.token_ids.tolist()]])
            sampled = expected[len(prompt) - 1 :]
            worst = max(worst, float(np.abs(sampled - completion.rollout_logprobs).max()))
        return worst


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    """An engine for S = 1, so that 3 versions fit into one batch. Every test leaves it idle."""
    model_dir = save_base(tmp_path_factory.mktemp("base"), **SHAPE)
    spec = RolloutSpec(max_staleness=1, max_completion_tokens=MAX_TOKENS, kv_cache_mib=16)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, RANK)) as engine:
        with pytest.raises(RolloutError, match="delivered"):
            engine.submit(0, request())
        yield engine
        directory = Path(engine.value("_watchdog.directory"))
        assert directory.is_dir()
    assert not directory.exists(), "the files of an engine end with it"


def request(num_samples: int = 6, max_tokens: int = MAX_TOKENS) -> GroupRequest:
    """A group under a new number."""
    number = next(NUMBERS)
    seeds = tuple(range(100 * number, 100 * number + num_samples))
    return GroupRequest(number, Prompt("p", "37|b1>e4="), seeds, max_tokens)


def _in_flight(engine: RemoteEngine) -> dict[str, int]:
    return engine.held()


def _files(engine: RemoteEngine) -> set[str]:
    return {entry.name for entry in Path(engine.value("_watchdog.directory")).iterdir() if entry.is_dir()}


def test_three_versions_decode_in_one_batch_and_each_is_its_own(engine: RemoteEngine) -> None:
    """The base beside adapters would get the last slot's adapter in vLLM's CPU path, were it sent as such."""
    policies = [Policy(None), Policy(1), Policy(2)]
    requests = [request(), request(), request()]
    for policy, asked in zip(policies, requests, strict=True):
        engine.load(policy.payload)
        engine.submit(asked.group_id, asked)
        assert engine.poll() == []
    names = [policy.payload.policy.name for policy in policies]
    assert _in_flight(engine) == dict.fromkeys(names, 1)
    assert _files(engine) == set(names)

    groups = dict(engine.drain())

    for policy, asked in zip(policies, requests, strict=True):
        group = groups[asked.group_id]
        assert group.policy == policy.payload.policy
        assert [item.seed for item in group.completions] == list(asked.seeds)
        assert policy.disagreement(group) < TOLERANCE
        for other in policies:
            assert other is policy or other.disagreement(group) > 100 * TOLERANCE
    assert _in_flight(engine) == {names[-1]: 0}
    assert _files(engine) == {names[-1]}


def test_a_probe_is_the_newest_version_and_costs_no_group(engine: RemoteEngine) -> None:
    before, after = Policy(3), Policy(4)
    engine.load(before.payload)
    short, long = request(max_tokens=2), request()
    engine.submit(short.group_id, short)
    engine.submit(long.group_id, long)
    engine.poll()
    engine.load(after.payload)
    # One sequence at a time: each takes a step or more, in which the short group finishes.
    answers = np.concatenate([engine.probe([sequence]) for sequence in PROBE])
    assert np.abs(answers - after.payload.probe.logprobs).max() < TOLERANCE
    assert np.abs(answers - before.payload.probe.logprobs).max() > 100 * TOLERANCE
    assert engine.value("idle") is False

    ((_, first),) = engine.poll()
    assert (first.group_id, first.policy) == (short.group_id, before.payload.policy)
    ((_, second),) = engine.drain()
    assert second.group_id == long.group_id
    assert max(before.disagreement(first), before.disagreement(second)) < TOLERANCE


def test_a_version_that_comes_again_is_not_loaded_twice(engine: RemoteEngine) -> None:
    policy = Policy(5)
    engine.load(policy.payload)
    before = engine.value("_newest")[""].loaded.lora_int_id
    engine.load(policy.payload)
    assert engine.value("_newest")[""].loaded.lora_int_id == before
    assert np.abs(engine.probe(PROBE) - policy.payload.probe.logprobs).max() < TOLERANCE


def test_a_group_that_is_given_up_frees_its_version(engine: RemoteEngine) -> None:
    old, new = Policy(6), Policy(7)
    engine.load(old.payload)
    asked = request()
    engine.submit(asked.group_id, asked)
    engine.poll()
    engine.load(new.payload)
    assert _in_flight(engine) == {old.payload.policy.name: 1, new.payload.policy.name: 0}
    engine.abort(asked.group_id)
    engine.abort(asked.group_id)  # unknown by now
    assert _in_flight(engine) == {new.payload.policy.name: 0}
    assert _files(engine) == {new.payload.policy.name}
    assert engine.drain() == []


def _damaged(policy: Policy, key_end: str, value: float) -> PolicyUpdate:
    tensors = load(policy.payload.tensors)
    key = next(name for name in tensors if name.endswith(key_end))
    tensors[key].view(-1)[0] = value
    content = save(tensors)
    version = PolicyVersion(1, next(NUMBERS), sha256_of(content))
    return PolicyUpdate(version, content, policy.payload.shape, policy.payload.probe)


def test_refused_adapter_leaves_groups_in_flight_unchanged(engine: RemoteEngine) -> None:
    good = Policy(8)
    engine.load(good.payload)
    asked = request()
    engine.submit(asked.group_id, asked)
    engine.poll()
    with pytest.raises(WeightSyncError, match=r"lora_B\.weight"):
        engine.load(_damaged(good, "lora_B.weight", float("nan")))
    large = AdapterShape(rank=4, alpha=8.0, target_modules=("q_proj",))
    with pytest.raises(WeightSyncError, match=r"rank 4\b.*\b3\b"):
        engine.load(PolicyUpdate(PolicyVersion(1, next(NUMBERS), "f" * 64), b"", large, good.payload.probe))
    head = save({
        "base_model.model.lm_head.lora_A.weight": torch.zeros(1, 32),
        "base_model.model.lm_head.lora_B.weight": torch.zeros(28, 1),
    })  # fmt: skip
    tied = AdapterShape(rank=1, alpha=1.0, target_modules=("lm_head",))
    with pytest.raises(WeightSyncError, match=r"\['lm_head'\].*\['q_proj'"):
        engine.load(
            PolicyUpdate(PolicyVersion(1, next(NUMBERS), sha256_of(head)), head, tied, good.payload.probe)
        )
    assert _in_flight(engine) == {good.payload.policy.name: 1}
    assert _files(engine) == {good.payload.policy.name}
    ((_, group),) = engine.drain()
    assert good.disagreement(group) < TOLERANCE
