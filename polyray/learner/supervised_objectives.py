"""Losses of SFT by `objective`: cross-entropy, GEM, or the BA-LoRA-style sum of four terms.

BA-LoRA adds consistency, spread and spectrum to cross-entropy, each with its weight. The teacher of consistency
is the model without its adapters. The formulas, and our reading of the paper, are in
polyray/algorithms/regularizers.py; the start from principal components is polyray/models/pissa.py.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from polyray.algorithms.regularizers import consistency_loss, spectral_loss, top_entropy_loss
from polyray.algorithms.supervised import gem_loss, masked_cross_entropy
from polyray.config.supervised import BaLoraSpec, GemSpec, SupervisedObjectiveSpec
from polyray.data.packing import SupervisedBatch
from polyray.learner.supervised import BatchLoss, batch_logits, batch_loss_sum
from polyray.models.pissa import base_active


def build_batch_loss(spec: SupervisedObjectiveSpec) -> BatchLoss:
    """The objective a configuration asks for."""
    if isinstance(spec, BaLoraSpec):
        return functools.partial(ba_lora_loss_sum, spec=spec)
    if isinstance(spec, GemSpec):
        return functools.partial(
            batch_loss_sum, token_loss=functools.partial(gem_loss, beta=spec.beta, link=spec.link)
        )
    return batch_loss_sum


def ba_lora_loss_sum(model: nn.Module, batch: SupervisedBatch, *, spec: BaLoraSpec) -> torch.Tensor:
    """Summed over the trained tokens of a micro batch.

    The spectrum is that of a matrix, which micro batches cut: each one's counts as often as it has tokens.
    """
    logits_BTV, targets_BT, mask_BT = batch_logits(model, batch)
    loss, num_tokens = masked_cross_entropy(logits_BTV, targets_BT, mask_BT)
    if spec.consistency_weight > 0:
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        with torch.no_grad(), base_active(cast(PeftModel, inner)):
            base_BTV, _, _ = batch_logits(inner, batch)
        consistency, _ = consistency_loss(logits_BTV, base_BTV, mask_BT, temperature=spec.temperature)
        loss = loss + spec.consistency_weight * consistency
    if spec.diversity_weight > 0:
        loss = loss + spec.diversity_weight * top_entropy_loss(logits_BTV, mask_BT, top=spec.top_tokens)[0]
    if spec.spectral_weight > 0:
        spectrum = spectral_loss(logits_BTV, mask_BT, top=spec.top_values)
        loss = loss + spec.spectral_weight * num_tokens * spectrum
    return loss
