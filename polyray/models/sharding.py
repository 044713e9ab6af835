"""The frozen base in parts on the learner's ranks (FSDP2); the adapters stay whole on each.

    each decoder layer     a part on every rank, gathered for the length of its forward and backward pass
    the rest               embedding, last norm and head: whole on every rank; the head runs apart from the backbone
    adapters               trained and reference: whole on every rank, so their gradients, optimiser, checkpoints and
                           deliveries are those of a learner that shares nothing

A forward pass is then something that all ranks do together: each makes as many as the others, in the same order, or
they wait for each other for ever. polyray/learner/fsdp_padding.py sees to that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from polyray.errors import ConfigError


def shard_base(model: PeftModel, device: torch.device, *, cpu_offload: bool = False) -> None:
    """Leaves this rank its part of every decoder layer on `device`, and moves the rest of the model there.

    Args:
        model: on the CPU, equal on all ranks, its adapters attached; a layer at a time goes to the device.
        device: this rank's.
        cpu_offload: the parts stay in pinned host memory and come over for every pass.

    Raises:
        ConfigError: no decoder layers are found in this architecture, or they are quantised.
    """
    backbone: Any = _backbone(model)
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"learner.sharding=base, but no decoder layers are known of {type(backbone).__name__}; "
            "set learner.sharding=none"
        )
    if not all(parameter.is_floating_point() for layer in layers for parameter in layer.parameters()):
        raise ConfigError(
            "learner.sharding=base, but the base's layers are quantised, which only a whole base may be; "
            "load it in 16 bits, or set learner.sharding=none"
        )
    whole = {parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(
            layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole, offload_policy=offload
        )
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    whole |= set(model.parameters()) - inside
    # The root has no parameters of its own: with it the layers know of each other, and one is gathered early.
    fully_shard(backbone, mesh=mesh, ignored_params=whole)
    for parameter in whole:
        parameter.data = parameter.data.to(device)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard_base` was called on it."""
    return isinstance(_backbone(model), FSDPModule)


def _backbone(model: torch.nn.Module) -> Any:
    """The decoder without its head and without wrappers; any other module unchanged."""
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    base = inner.get_base_model() if isinstance(inner, PeftModel) else inner
    return getattr(base, "base_model", base)
