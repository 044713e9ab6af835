"""A base in parts computes what a whole one does; here on one rank, on two: tests/unit/learner/test_sharding.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import PeftModel
from torch.distributed.tensor import DTensor

from polyray.errors import ConfigError
from polyray.learner.fsdp_padding import dummy_pass, in_lockstep
from polyray.models import packing, sharding
from polyray.models.logprobs import Rows, completion_logprobs
from polyray.models.lora import adapter_bytes, reference_active
from polyray.models.sharding import is_sharded, shard_base
from polyray.weight_sync.probe import probe_logprobs
from tests.unit.tiny_policy import build_policy

LONG_AND_SHORT = Rows(
    torch.tensor([[1, 8, 5, 9, 4, 7, 2], [1, 6, 2, 0, 0, 0, 0]]), torch.tensor([2, 1]), torch.tensor([5, 2])
)


@pytest.fixture(autouse=True, scope="module")
def _a_group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def whole() -> PeftModel:
    return build_policy()


@pytest.fixture(scope="module")
def parts() -> PeftModel:
    model = build_policy()
    shard_base(model, torch.device("cpu"))
    return model


def test_only_layers_of_the_base_are_sharded(whole: PeftModel, parts: PeftModel) -> None:
    assert is_sharded(parts) and not is_sharded(whole)
    in_parts = {name for name, parameter in parts.named_parameters() if isinstance(parameter, DTensor)}
    assert in_parts == {
        name for name, _ in whole.named_parameters() if ".layers." in name and ".lora_" not in name
    }
    assert adapter_bytes(parts) == adapter_bytes(whole)


def test_sharded_base_computes_the_same_bits(whole: PeftModel, parts: PeftModel) -> None:
    sequences = [(1, 8, 5, 9), (1, 6)]
    assert (probe_logprobs(parts, sequences) == probe_logprobs(whole, sequences)).all()
    found = []
    for model in (whole, parts):
        with torch.no_grad(), reference_active(model):
            reference = completion_logprobs(model, LONG_AND_SHORT)[0]
        logprobs, _ = completion_logprobs(model, LONG_AND_SHORT)
        logprobs.sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append((reference, logprobs.detach(), torch.cat([g.flatten() for g in gradients])))
        model.zero_grad()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    reference, logprobs, gradient = found[0]
    assert (reference - logprobs).abs().max() > 1e-3 and gradient.abs().max() > 1e-2


def test_sharded_rows_of_any_length_take_one_pass(
    whole: PeftModel, parts: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PASS_POSITIONS", 1)
    widths: list[int] = []
    for model in (whole, parts):
        base: Any = model.get_base_model()
        handle = base.base_model.register_forward_pre_hook(
            lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        completion_logprobs(model, LONG_AND_SHORT)
        handle.remove()
    assert widths == [6, 2, 6]


def test_dummy_pass_adds_nothing_to_the_gradients(
    whole: PeftModel, parts: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyray.learner.fsdp_padding._most", lambda number: number + 2)
    assert list(in_lockstep(parts, ["a"])) == ["a", None, None]
    assert list(in_lockstep(whole, ["a"])) == ["a"], "ranks do not wait with a whole base"
    completion_logprobs(parts, LONG_AND_SHORT)[0].sum().backward()
    before = {name: p.grad.clone() for name, p in parts.named_parameters() if p.grad is not None}
    dummy_pass(parts)
    after = {name: p.grad for name, p in parts.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    parts.zero_grad()


def test_quantised_base_and_unknown_architecture_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_policy()
    base: Any = model.get_base_model()
    weight = torch.nn.Parameter(torch.zeros(48, 16, dtype=torch.uint8), requires_grad=False)
    base.base_model.layers[0].mlp.up_proj.base_layer.weight = weight
    with pytest.raises(ConfigError, match=r"learner\.sharding=base"):
        shard_base(model, torch.device("cpu"))
    monkeypatch.setattr(sharding, "GradientCheckpointingLayer", torch.nn.Conv1d)
    with pytest.raises(ConfigError, match="Qwen3Model"):
        shard_base(build_policy(), torch.device("cpu"))
