"""vLLM keeps the promises of every engine: merged weights, adapters, and adapters in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.rollout.engine import Engine, EngineSettings
from polyray.types import PolicyVersion
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.rollout.engine_contract import MAX_TOKENS, TextContract, by_id, drain, request, submit, tokens
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.tiny_policy import build_base, move, save_base

SHAPE = {"head_dim": 32}
"""The smallest head that vLLM's CPU attention takes."""
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
    spec = RolloutSpec(max_completion_tokens=MAX_TOKENS, kv_cache_mib=16, **settings)
    with engine_process(EngineSettings(str(model_dir), "float32", spec, lora_rank)) as remote:
        yield IdleIsAProperty(remote)


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


@cache
def adapter(version: int) -> PolicyUpdate:
    """A random adapter, another one for each version."""
    model: Any = attach_adapter(
        build_base(**SHAPE), LoraSpec(rank=RANK, alpha=8), None, base_sha256="b" * 64, seed=version
    )
    move(model, 0.3, version)
    model.eval()
    content = adapter_bytes(model)
    probe = Probe(PROBE, probe_logprobs(model, PROBE), None)
    shape = AdapterShape.from_peft(adapter_config(model))
    return PolicyUpdate(PolicyVersion(1, version, sha256_of(content)), content, shape, probe)


class VllmContract(TextContract):
    """The engine is `self._shared`."""

    _shared: Any

    def build(self) -> Engine:
        return self._shared

    def payload(self, version: int) -> PolicyUpdate:
        return adapter(version)


class TestAdapters(VllmContract):
    keeps_versions = True

    @pytest.fixture(autouse=True)
    def _engine(self, adapter_engine: Any) -> None:
        self._shared = adapter_engine


@pytest.mark.slow
class TestAdaptersInProcesses(VllmContract):
    keeps_versions = True

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
