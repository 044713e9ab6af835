"""vLLM keeps the promises of every engine: merged weights, adapters, and adapters in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import WeightSyncError
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.engine import Engine, EngineSettings
from polyray.types import Group, PolicyVersion
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.rollout.engine_contract import MAX_TOKENS, TextContract, by_id, drain, request, submit, tokens
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.tiny_policy import build_base, move, save_base

SHAPE = {"head_dim": 32, "num_hidden_layers": 2}
"""The smallest head that vLLM's CPU attention takes."""
TOLERANCE = 1e-4
"""Nats, float32."""
PROBE = ((1, 8, 9, 4, 20), (1, 7, 3))
RANK = 3
CLOSING = "{% if messages[-1]['role'] == 'assistant' %}<pad>{% endif %}"
"""The template of a base model: it closes a turn with a token that is not the end of sequence."""
PAD = 0


class IdleIsAProperty:
    """The engine of the child process, `idle` included."""

    def __init__(self, remote: RemoteEngine) -> None:
        self._remote = remote

    def __getattr__(self, name: str) -> Any:
        return self._remote.value("idle") if name == "idle" else getattr(self._remote, name)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_base(tmp_path_factory.mktemp("base"), **SHAPE)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "<bos>{% for m in messages %}{{ m['content'] }}{% endfor %}" + CLOSING
    tokenizer.save_pretrained(directory)
    return directory


@contextmanager
def started(model_dir: Path, lora_rank: int | None, **settings: Any) -> Iterator[Any]:
    """Room for three versions at once."""
    limits = {"max_staleness": 1, "max_completion_tokens": MAX_TOKENS, "kv_cache_mib": 16}
    spec = RolloutSpec.model_validate(limits | settings)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, lora_rank)) as remote:
        yield IdleIsAProperty(remote)
        directory = Path(remote.value("_watchdog.directory")) if lora_rank else None
        assert directory is None or directory.is_dir()
    assert directory is None or not directory.exists()


@pytest.fixture(scope="module")
def merged_engine(model_dir: Path) -> Iterator[Any]:
    with started(model_dir, None) as engine:
        yield engine


@pytest.fixture(scope="module")
def adapter_engine(model_dir: Path) -> Iterator[Any]:
    with started(model_dir, RANK) as engine:
        yield engine


@pytest.fixture(scope="module")
def processes_engine(model_dir: Path) -> Iterator[Any]:
    with started(model_dir, RANK, engine="vllm_async") as engine:
        yield engine


class Policy:
    """A Hugging Face model and its update for an engine."""

    def __init__(self, version: int, seed: int | None) -> None:
        """The base itself for None, else a random adapter on it."""
        self.model: Any = build_base(**SHAPE)
        content, shape = b"", None
        if seed is not None:
            lora = LoraSpec(rank=RANK, alpha=8)
            self.model = attach_adapter(self.model, lora, None, base_sha256="b" * 64, seed=seed)
            move(self.model, 0.3, seed)
            self.model.eval()
            content = adapter_bytes(self.model)
            shape = AdapterShape.from_peft(adapter_config(self.model))
        policy = PolicyVersion(1, version, sha256_of(content))
        self.update = PolicyUpdate(
            policy, content, shape, Probe(PROBE, probe_logprobs(self.model, PROBE), None)
        )

    def disagreement(self, group: Group) -> float:
        """Largest |engine - Hugging Face| over a group's sampled tokens."""
        prompt = group.prompt_token_ids.tolist()
        worst = 0.0
        for completion in group.completions:
            expected = probe_logprobs(self.model, [[*prompt, *completion.token_ids.tolist()]])
            sampled = expected[len(prompt) - 1 :]
            worst = max(worst, float(np.abs(sampled - completion.rollout_logprobs).max()))
        return worst


@cache
def adapter(version: int) -> Policy:
    """A random adapter, another one for each version."""
    return Policy(version, version)


class VllmContract(TextContract):
    """The engine is `self._shared`."""

    _shared: Any

    def build(self) -> Engine:
        return self._shared

    def payload(self, version: int) -> PolicyUpdate:
        return adapter(version).update


class AdapterContract(VllmContract):
    """Adapters in vLLM: several versions at once, each equal to Hugging Face."""

    keeps_versions = True

    def test_three_versions_decode_in_one_batch_each_as_its_own(self, engine: Any) -> None:
        """The base beside adapters would get the last slot's adapter in vLLM's CPU path, were it sent as such."""
        policies = [Policy(11, None), adapter(12), adapter(13)]
        for number, policy in enumerate(policies):
            engine.load(policy.update)
            submit(engine, request(number, seeds=range(10 * number, 10 * number + 6)))
        names = [policy.update.policy.name for policy in policies]
        assert engine.held() == dict.fromkeys(names, 1)
        assert _files(engine) == set(names)
        groups = by_id(drain(engine))
        for number, policy in enumerate(policies):
            assert groups[number].policy == policy.update.policy
            assert policy.disagreement(groups[number]) < TOLERANCE
            for other in policies:
                assert other is policy or other.disagreement(groups[number]) > 100 * TOLERANCE
        assert engine.held() == {names[-1]: 0}
        assert _files(engine) == {names[-1]}

    def test_probe_reads_the_newest_version_and_costs_no_group(self, engine: Any) -> None:
        before, after = adapter(3), adapter(4)
        submit(engine, replace(request(0), max_completion_tokens=2))
        submit(engine, request(1))
        answers = engine.poll()
        engine.load(after.update)
        slot = _slot(engine)
        engine.load(after.update)  # a version that comes again is not loaded twice
        assert _slot(engine) == slot
        # One sequence at a time: each takes a step or more, in which the short group finishes.
        probed = np.concatenate([engine.probe([sequence]) for sequence in PROBE])
        assert np.abs(probed - after.update.probe.logprobs).max() < TOLERANCE
        assert np.abs(probed - before.update.probe.logprobs).max() > 100 * TOLERANCE
        groups = by_id([*answers, *drain(engine)])
        for number in (0, 1):
            assert groups[number].policy == before.update.policy
            assert before.disagreement(groups[number]) < TOLERANCE


def _files(engine: Any) -> set[str]:
    return {entry.name for entry in Path(engine.value("_watchdog.directory")).iterdir() if entry.is_dir()}


def _slot(engine: Any) -> int:
    """Number of the newest adapter in vLLM."""
    return engine.value("_newest")[""].loaded.lora_int_id


class TestAdapters(AdapterContract):
    @pytest.fixture(autouse=True)
    def _engine(self, adapter_engine: Any) -> None:
        self._shared = adapter_engine

    def test_refused_adapter_leaves_groups_in_flight_unchanged(self, engine: Any) -> None:
        good = adapter(3)
        submit(engine, request(0))
        engine.poll()
        tensors = load(good.update.tensors)
        next(value for key, value in tensors.items() if key.endswith("lora_B.weight")).view(-1)[0] = np.nan
        head = {
            "base_model.model.lm_head.lora_A.weight": torch.zeros(1, 32),
            "base_model.model.lm_head.lora_B.weight": torch.zeros(28, 1),
        }
        for content, shape, message in (
            (tensors, good.update.shape, r"lora_B\.weight"),
            ({}, AdapterShape(rank=4, alpha=8.0, target_modules=("q_proj",)), r"rank 4\b.*\b3\b"),
            (head, AdapterShape(1, 1.0, ("lm_head",)), r"\['lm_head'\].*\['q_proj'"),
        ):
            policy = PolicyVersion(1, 9, sha256_of(save(content)))
            with pytest.raises(WeightSyncError, match=message):
                engine.load(PolicyUpdate(policy, save(content), shape, good.update.probe))
        assert engine.held() == {good.update.policy.name: 1}
        assert _files(engine) == {good.update.policy.name}
        assert good.disagreement(by_id(drain(engine))[0]) < TOLERANCE


@pytest.mark.slow
class TestAdaptersInProcesses(AdapterContract):
    @pytest.fixture(autouse=True)
    def _engine(self, processes_engine: Any) -> None:
        self._shared = processes_engine


class TestMerged(VllmContract):
    @pytest.fixture(autouse=True)
    def _engine(self, merged_engine: Any) -> None:
        self._shared = merged_engine

    def test_messages_end_with_the_closing_token_of_the_template(self, engine: Engine) -> None:
        asked = request(0, seeds=range(60))
        turns = ({"role": "user", "content": asked.prompt.text},)
        submit(engine, asked)
        submit(engine, replace(asked, group_id=1, prompt=replace(asked.prompt, messages=turns)))
        groups = by_id(drain(engine))
        text, chat = tokens(groups[0]), tokens(groups[1])
        assert groups[0].prompt_token_ids.tolist() == groups[1].prompt_token_ids.tolist()
        assert sum(PAD in row[:-1] for row in text) > 5  # an ordinary token there
        assert [row[: row.index(PAD) + 1] if PAD in row else row for row in text] == chat
        ended = [item for item in groups[1].completions if item.token_ids[-1] == PAD]
        assert {item.finish_reason for item in ended if len(item.token_ids) < MAX_TOKENS} == {"stop"}
        assert all("<pad>" not in item.text for item in ended)
