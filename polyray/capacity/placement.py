"""GPU memory of each part of a configuration: the estimate that `--check` prints. Pure functions.

memory.py has the arithmetic. Nothing here asks a machine or a cluster; polyray/cluster/session.py does.
"""

from __future__ import annotations

import math
from typing import Any

from polyray.capacity.memory import (
    ENGINE_OVERHEAD,
    GIB,
    LEARNER_OVERHEAD,
    activations,
    adapter_states,
    base_weights,
    dtype_on,
    kv_bytes_per_token,
    layer_activations,
    lora_slots,
    rl_logits,
    sampling_logits,
    sft_logits,
    sharded_weights,
    unpacked,
)
from polyray.capacity.micro_batch import with_micro_batch
from polyray.capacity.shapes import QWEN3, ModelShape, shape_of
from polyray.config.delivery import DeliverySpec
from polyray.config.learner import LearnerSpec
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.rollout.vllm_build import MAX_LORAS

WHAT_THIS_IS = (
    "an estimate from the model's shape, not a measurement: full micro batches, every sequence at its full length; "
    "drivers, libraries and fragments as a guess"
)
CARDS = {16: 15.0, 24: 22.4, 40: 39.4, 48: 44.9, 80: 79.5, 96: 93.5, 141: 139.8, 180: 178.0}
"""GB on the label of usual GPUs -> GiB that a process can have."""

OF_A_STEP = ("activations", "logits", "gathered_blocks")
"""Parts of a learner rank's memory that are free between steps."""

Parts = dict[str, int]
"""Name of a part -> bytes."""


def training_estimate(config: TrainConfig) -> dict[str, Any] | None:
    """GPU memory of a training run; None without GPUs."""
    learner = config.learner if config.learner.use_gpu else None
    rollout = config.rollout if config.rollout.gpus_per_worker else None
    if learner is None and rollout is None:
        return None
    shape = shape_of(config.model)
    if shape is None:
        return _unknown(config.model)
    estimate = _header(shape)
    if learner is not None:
        parts = learner_memory(config.model, shape, learner, *learner_tokens(config))
        _add_learner(estimate, config.model, shape, learner, parts)
    if rollout is not None:
        _add_engines(estimate, config.model, shape, rollout, config.delivery)
    if learner is not None and rollout is not None and share_a_gpu(learner, rollout):
        parts = learner_memory(config.model, shape, learner, *learner_tokens(config))
        engine = engine_memory(config.model, shape, rollout, config.delivery)
        in_turn = rollout.sleep_between_steps
        estimate["placement"] = [shared_gpu_line(parts, engine, in_turn=in_turn)]
        warning = shared_gpu_warning(parts, engine, rollout.gpu_memory_utilization, in_turn=in_turn)
        if warning is not None:
            estimate["warning"] = warning
    return estimate


def supervised_estimate(config: SftConfig) -> dict[str, Any] | None:
    """GPU memory of SFT without samples; None without GPUs."""
    if not config.learner.use_gpu:
        return None
    shape = shape_of(config.model)
    if shape is None:
        return _unknown(config.model)
    estimate = _header(shape)
    rows = with_micro_batch(config).learner.micro_batch_rows
    assert rows is not None
    tokens = min(rows, config.demonstrations_per_step) * config.max_tokens
    parts = learner_memory(config.model, shape, config.learner, 0, tokens)
    _add_learner(estimate, config.model, shape, config.learner, parts)
    return estimate


def evaluation_estimate(config: EvaluateConfig) -> dict[str, Any] | None:
    """GPU memory of an evaluation; None without GPUs."""
    if not config.rollout.gpus_per_worker:
        return None
    shape = shape_of(config.model)
    if shape is None:
        return _unknown(config.model)
    estimate = _header(shape)
    _add_engines(estimate, config.model, shape, config.rollout, config.delivery)
    return estimate


def learner_tokens(config: TrainConfig) -> tuple[int, int]:
    """(tokens of samples, tokens of demonstrations) in the largest micro batches of an RL step, with padding."""
    rollout, learner = config.rollout, with_micro_batch(config).learner
    assert learner.micro_batch_rows is not None
    longest = rollout.max_model_len
    per_rank = math.ceil(rollout.prompts_per_step / learner.num_workers) * rollout.group_size
    tokens = min(learner.micro_batch_rows, per_rank) * longest
    if learner.micro_batch_tokens is not None:
        tokens = min(per_rank * longest, max(learner.micro_batch_tokens, longest))
    spec = config.supervised
    if spec is None:
        return tokens, 0
    return tokens, min(learner.micro_batch_rows, spec.demonstrations_per_step) * spec.max_tokens


def learner_memory(
    model: ModelSpec,
    shape: ModelShape,
    learner: LearnerSpec,
    tokens: int,
    demonstration_tokens: int = 0,
) -> Parts:
    """Bytes by part of one rank, by the tokens of its largest micro batches; without samples it has no reference.

    For samples the logits of a chunk are held, for demonstrations all logits.
    """
    lora, dtype = model.lora, dtype_on(model, gpu=learner.use_gpu)
    per_layer = layer_activations(shape, dtype, lora.rank, lora.target_modules, lora.dropout > 0)
    per_token = activations(per_layer, shape, dtype, checkpointed=learner.gradient_checkpointing)
    lora_parameters = shape.lora_parameters(lora.rank, lora.target_modules)
    return {
        **_weights(shape, dtype, model, learner),
        "adapter_and_optimiser": adapter_states(lora_parameters, reference=tokens > 0),
        "activations": max(tokens, demonstration_tokens) * per_token,
        "logits": max(rl_logits(shape, tokens), sft_logits(shape, demonstration_tokens)),
        "overhead": LEARNER_OVERHEAD + unpacked(shape, dtype, model.quantization),
    }


def _weights(shape: ModelShape, dtype: str, model: ModelSpec, learner: LearnerSpec) -> Parts:
    """Bytes of the weights on the device of one rank."""
    if learner.sharding == "none":
        return {"weights": base_weights(shape, dtype, model.quantization, double=True)}
    whole, part, gathered = sharded_weights(shape, dtype, learner.num_workers)
    return {"weights": whole + (0 if learner.cpu_offload else part), "gathered_blocks": gathered}


def engine_memory(model: ModelSpec, shape: ModelShape, rollout: RolloutSpec, delivery: DeliverySpec) -> Parts:
    """Bytes by part of one engine on each of its devices, with all its sequences at their full length."""
    dtype, devices = dtype_on(model, gpu=bool(rollout.gpus_per_worker)), rollout.tensor_parallel_size
    slots = 0 if delivery.mode == "merged" else min(rollout.max_staleness + 2, MAX_LORAS)
    kv_tokens = rollout.max_sequences * rollout.max_model_len
    return {
        "weights": base_weights(shape, dtype, model.quantization, double=False) // devices,
        "kv_cache": kv_tokens * kv_bytes_per_token(shape, dtype) // devices,
        "lora_slots": lora_slots(shape, dtype, model.lora.rank, slots) // devices,
        "sampling": sampling_logits(shape, rollout.max_sequences),
        "overhead": ENGINE_OVERHEAD + unpacked(shape, dtype, model.quantization),
    }


def share_a_gpu(learner: LearnerSpec, rollout: RolloutSpec) -> bool:
    """Whether the one rank and the one engine of a run fit on one GPU by what they ask of Ray."""
    alone = learner.num_workers == 1 and max(rollout.num_workers, rollout.max_workers or 1) == 1
    return alone and learner.gpus_per_worker + rollout.gpus_per_worker <= 1


def shared_gpu_line(learner: Parts, engine: Parts, *, in_turn: bool) -> str:
    """GPU memory of both, and the share of the smallest GPU that the engine may take.

    `in_turn`: an engine that sleeps leaves the learner all but its own overhead, and a learner between two steps
    leaves the engine all but its persistent memory.
    """
    gib = _gib_of_both(learner, engine, in_turn=in_turn)
    line = _line("1 x learner rank and 1 x engine" + (", in turn" if in_turn else ""), 1, gib)
    card = smallest_card(gib)
    if card is None:
        return line
    low, high = _utilizations(learner, engine, card, in_turn=in_turn)
    return f"{line}; there rollout.gpu_memory_utilization from {low:.2f} to {high:.2f}"


def shared_gpu_warning(learner: Parts, engine: Parts, utilization: float, *, in_turn: bool) -> str | None:
    """Warning for a `utilization` outside the range of `shared_gpu_line`, with the GPU for which it is right.

    None within the range, and if no GPU holds both.
    """
    gib = _gib_of_both(learner, engine, in_turn=in_turn)
    ranges = {
        card: _utilizations(learner, engine, card, in_turn=in_turn)
        for card, usable in CARDS.items()
        if usable >= gib
    }
    if not ranges:
        return None
    smallest, (low, high) = next(iter(ranges.items()))
    if low <= utilization <= high:
        return None
    reason = "the engine has no room" if utilization < low else "it leaves the learner too little"
    fitting = next((card for card, (least, most) in ranges.items() if least <= utilization <= most), None)
    other = "" if fitting is None else f", or use a GPU of {fitting} GB"
    return (
        f"rollout.gpu_memory_utilization={utilization:g} is not within {low:.2f} to {high:.2f} of a GPU of "
        f"{smallest} GB: {reason}; set it within{other}"
    )


def _gib_of_both(learner: Parts, engine: Parts, *, in_turn: bool) -> float:
    busy, sampling = sum(learner.values()), sum(engine.values())
    kept = _kept(learner, in_turn=in_turn)
    return max(kept + sampling, busy + (ENGINE_OVERHEAD if in_turn else sampling)) / GIB


def _utilizations(learner: Parts, engine: Parts, card: int, *, in_turn: bool) -> tuple[float, float]:
    """(least, most) that the engine may be told to take of this GPU, as they are printed."""
    usable = CARDS[card] * GIB
    return round(sum(engine.values()) / usable, 2), round(1 - _kept(learner, in_turn=in_turn) / usable, 2)


def _kept(learner: Parts, *, in_turn: bool) -> int:
    """Bytes of the learner while the engine samples."""
    return sum(value for name, value in learner.items() if not (in_turn and name in OF_A_STEP))


def smallest_card(gib: float) -> int | None:
    """The GB on the label of the smallest usual GPU that has so many GiB; None: there is none."""
    return next((label for label, usable in CARDS.items() if usable >= gib), None)


def _header(shape: ModelShape) -> dict[str, Any]:
    return {"what_this_is": WHAT_THIS_IS, "parameters": shape.parameters, "gpus": 0.0, "placement": []}


def _add_learner(
    estimate: dict[str, Any], model: ModelSpec, shape: ModelShape, learner: LearnerSpec, parts: Parts
) -> None:
    ranks, gpus = learner.num_workers, learner.gpus_per_worker
    estimate["gpus"] += ranks * gpus
    estimate["placement"].append(_line(f"{ranks} x learner rank", gpus, sum(parts.values()) / GIB))
    estimate["learner_rank_gib"] = _in_gib(parts)
    if learner.cpu_offload:
        _, part, _ = sharded_weights(shape, dtype_on(model, gpu=True), learner.num_workers)
        estimate["learner_rank_host_gib"] = round(part / GIB, 2)


def _add_engines(
    estimate: dict[str, Any],
    model: ModelSpec,
    shape: ModelShape,
    rollout: RolloutSpec,
    delivery: DeliverySpec,
) -> None:
    """An engine takes its share of a device, so the device is larger; on fractions of a GPU several are there."""
    parts = engine_memory(model, shape, rollout, delivery)
    sharing = max(1, math.floor(1 / rollout.gpus_per_worker))
    needed = sum(parts.values()) / GIB * max(1 / rollout.gpu_memory_utilization, sharing)
    estimate["gpus"] += rollout.num_workers * rollout.gpus_per_worker
    estimate["placement"].append(_line(f"{rollout.num_workers} x engine", rollout.gpus_per_worker, needed))
    estimate["engine_device_gib"] = _in_gib(parts)
    estimate["kv_cache_kib_per_token"] = kv_bytes_per_token(shape, dtype_on(model, gpu=True)) / 1024


def _line(what: str, gpus: float, gib: float) -> str:
    card = smallest_card(gib)
    of = (
        f"of {card} GB or more"
        if card
        else "larger than any known here: lower the batch, or use more devices"
    )
    return f"{what}: {gpus:g} GPU {of} ({gib:.1f} GiB of it)"


def _in_gib(parts: Parts) -> dict[str, float]:
    return {name: round(value / GIB, 2) for name, value in (parts | {"total": sum(parts.values())}).items()}


def _unknown(model: ModelSpec) -> dict[str, Any]:
    return {
        "what_this_is": f"no estimate: the shape of model.path={model.path!r} is not known here; give a directory "
        f"with a config.json of a dense model, or Qwen3 of {', '.join(QWEN3)}"
    }
