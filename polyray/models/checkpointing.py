"""Gradient checkpointing, in SFT and of a policy that stays in eval mode.

A layer of transformers checkpoints itself only while training, but in RL nothing may switch dropout on. So the layers
alone are told that they train; what is inside them, where dropout would act, is not. `model.eval()` undoes
it, which costs memory and changes no value: the RL learner calls this before every update. SFT calls it once, because
every `model.train()` says the same to the layers; a layer that is computed again drops out the same.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_layers(model: PeftModel) -> None:
    """From now on every layer keeps only its input and is computed again in the backward pass."""
    base: Any = model.get_base_model()
    if not base.is_gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
