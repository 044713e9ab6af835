"""GPU memory in --check: parts of a rank and of an engine, and the card that holds them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from polyray.capacity.derived import derived_sizes
from polyray.capacity.memory import ENGINE_OVERHEAD, GIB, LEARNER_OVERHEAD
from polyray.capacity.placement import (
    engine_memory,
    evaluation_estimate,
    learner_memory,
    learner_tokens,
    shared_gpu_line,
    shared_gpu_warning,
    smallest_card,
    supervised_estimate,
    training_estimate,
)
from polyray.capacity.shapes import QWEN3, model_mib
from polyray.config.loader import build_config
from polyray.config.model import ModelSpec
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig

SHAPE = QWEN3["8B"]
ON_GPU: dict[str, Any] = {
    "name": "r",
    "model": {"path": "Qwen/Qwen3-8B"},
    "rollout": {"gpus_per_worker": 1, "num_workers": 2, "max_prompt_tokens": 512,
                "max_completion_tokens": 512, "max_sequences": 64},
    "learner": {"use_gpu": True, "micro_batch_rows": 2, "gradient_checkpointing": True},
}  # fmt: skip


def _train(**sections: dict[str, Any]) -> TrainConfig:
    values = {key: {**ON_GPU.get(key, {}), **sections[key]} for key in sections}
    return build_config(TrainConfig, {**ON_GPU, **values})


def test_learner_memory_matches_manual_bytes() -> None:
    config = _train()
    assert learner_tokens(config) == (2 * 1024, 0)
    sampled = {
        "weights": 8_190_735_360 * 2,
        "adapter_and_optimiser": 43_646_976 * 20,
        "activations": 2048 * (36 * 2 * 4096 + 188_936),
        "logits": 220 * 151936 * 18,
        "overhead": LEARNER_OVERHEAD,
    }
    logits = 151936 * 16
    without_reference = {"adapter_and_optimiser": 43_646_976 * 16}
    more = {"activations": 3000 * (36 * 2 * 4096 + 188_936), "logits": 3000 * logits}
    for demonstrated, of_samples, changes in (
        (0, 2048, {}),
        (2048, 0, without_reference | {"logits": 2048 * logits}),
        (3000, 2048, more),
        (10, 2048, {}),
    ):
        found = learner_memory(config.model, SHAPE, config.learner, of_samples, demonstrated)
        assert found == sampled | changes


BLOCK_OF_8B = 192_946_432
"""q and o 4096 x 4096, k and v 4096 x 1024, three of 4096 x 12288; two norms of 4096, two of 128."""


def test_sharded_ranks_share_the_blocks_of_the_base() -> None:
    assert SHAPE.block_parameters == BLOCK_OF_8B
    whole = 8_190_735_360 - 36 * BLOCK_OF_8B
    assert whole == 2 * 151_936 * 4096 + 4096
    config = _train(learner={"sharding": "base", "num_workers": 4})
    parts = learner_memory(config.model, SHAPE, config.learner, 2048)
    assert parts["weights"] == 2 * (whole + 9 * BLOCK_OF_8B)
    assert parts["gathered_blocks"] == 2 * 3 * BLOCK_OF_8B
    alone = learner_memory(config.model, SHAPE, _train().learner, 2048)
    assert {key for key in alone if parts[key] != alone[key]} == {"weights"}
    estimate = training_estimate(_train(learner={"sharding": "base", "num_workers": 4}))
    assert estimate is not None and "learner_rank_host_gib" not in estimate
    offloaded = {"sharding": "base", "num_workers": 4, "cpu_offload": True}
    estimate = training_estimate(_train(learner=offloaded))
    assert estimate is not None
    assert estimate["learner_rank_gib"]["weights"] == round(2 * whole / GIB, 2)
    assert estimate["learner_rank_host_gib"] == round(2 * 9 * BLOCK_OF_8B / GIB, 2)


@pytest.mark.parametrize(
    ("sections", "tokens"),
    [
        ({"learner": {"micro_batch_rows": 1000}}, (256 * 1024, 0)),  # no more than a rank has
        ({"learner": {"micro_batch_rows": 1000, "num_workers": 4}}, (64 * 1024, 0)),
        ({"learner": {"micro_batch_tokens": 5000}}, (5000, 0)),
        ({"learner": {"micro_batch_tokens": 100}}, (1024, 0)),  # a longer row runs alone
        ({"supervised": {"max_tokens": 4000, "demonstrations_per_step": 8}}, (2048, 8000)),
        ({"supervised": {"max_tokens": 4000, "demonstrations_per_step": 1}}, (2048, 4000)),
    ],
)
def test_learner_tokens_are_those_of_the_largest_micro_batches(
    sections: dict[str, dict[str, Any]], tokens: tuple[int, int]
) -> None:
    assert learner_tokens(_train(**sections)) == tokens


def test_engine_memory_is_shared_by_two_devices() -> None:
    config = _train(delivery={"mode": "adapter"})
    whole = engine_memory(config.model, SHAPE, config.rollout, config.delivery)
    assert whole == {
        "weights": 8_190_735_360 * 2,
        "kv_cache": 64 * 1024 * 144 * 1024,
        "lora_slots": 2 * 43_646_976 * 2,
        "sampling": 64 * 151936 * 12,
        "overhead": ENGINE_OVERHEAD,
    }
    split = _train(rollout={"gpus_per_worker": 2, "tensor_parallel_size": 2, "max_staleness": 2})
    halves = engine_memory(split.model, SHAPE, split.rollout, split.delivery)
    assert halves["weights"] * 2 == whole["weights"]
    assert halves["kv_cache"] * 2 == whole["kv_cache"]
    assert halves["lora_slots"] == whole["lora_slots"]  # 4 of them, on 2 devices
    merged = _train(delivery={"mode": "merged"})
    assert engine_memory(merged.model, SHAPE, merged.rollout, merged.delivery)["lora_slots"] == 0


def test_base_in_4_bits_takes_a_third_and_a_smaller_card() -> None:
    config = _train(model={"path": "Qwen/Qwen3-8B", "quantization": "nf4"})
    parts = learner_memory(config.model, SHAPE, config.learner, 2048)
    whole = learner_memory(_train().model, SHAPE, config.learner, 2048)
    weights = 6_945_767_424 // 2 + 108_527_616 + 4 * 423_936 + 2 * (8_190_735_360 - 6_945_767_424)
    assert parts["weights"] == weights
    assert parts["overhead"] - whole["overhead"] == 4096 * 12288 * 2
    assert {key for key in parts if parts[key] != whole[key]} == {"weights", "overhead"}
    engine = engine_memory(config.model, SHAPE, config.rollout, config.delivery)
    assert engine["weights"] == weights + 3 * 108_527_616 - 4 * 423_936
    estimate = training_estimate(config)
    assert estimate is not None
    assert re.search(r"1 x learner rank: 1 GPU .*\b16 GB\b", estimate["placement"][0])


def test_placement_lists_learner_and_engine_memory() -> None:
    estimate = training_estimate(_train())
    assert estimate is not None
    learner, engine = estimate["learner_rank_gib"], estimate["engine_device_gib"]
    assert learner["total"] == pytest.approx(sum(v for k, v in learner.items() if k != "total"), abs=0.03)
    assert estimate["gpus"] == 3
    of_learner, of_engines = estimate["placement"]
    assert re.search(rf"1 x learner rank: 1 GPU .*\b24 GB\b.*\({learner['total']:.1f} GiB ", of_learner)
    assert re.search(rf"2 x engine: 1 GPU .*\b40 GB\b.*\({engine['total'] / 0.85:.1f} GiB ", of_engines)


def test_engines_that_share_a_device_need_all_their_memory_there() -> None:
    shared = training_estimate(_train(rollout={"gpus_per_worker": 0.5, "gpu_memory_utilization": 0.5}))
    assert shared is not None
    total = shared["engine_device_gib"]["total"]
    assert re.search(rf"2 x engine: 0\.5 GPU .*\b80 GB\b.*\({total * 2:.1f} GiB ", shared["placement"][1])
    assert shared["gpus"] == 2


def test_rank_and_engine_on_one_gpu_need_the_sum_or_take_turns() -> None:
    both: dict[str, Any] = {
        "learner": {"gpus_per_worker": 0.5},
        "rollout": {"num_workers": 1, "gpus_per_worker": 0.5},
    }
    together = training_estimate(_train(**both))
    both["rollout"]["sleep_between_steps"] = True
    in_turn = training_estimate(_train(**both))
    assert together is not None and in_turn is not None and together["gpus"] == in_turn["gpus"] == 1.0
    engine, learner = together["engine_device_gib"]["total"], together["learner_rank_gib"]
    kept = learner["weights"] + learner["adapter_and_optimiser"] + learner["overhead"]
    (line,) = together["placement"]
    needed = rf"1 x learner rank .*1 x engine: 1 GPU .*\b80 GB\b.*\({learner['total'] + engine:.1f} GiB "
    within = rf"{engine / 79.5:.2f} .*{1 - learner['total'] / 79.5:.2f}$"
    assert re.search(rf"{needed}.*rollout\.gpu_memory_utilization .*{within}", line)
    (line,) = in_turn["placement"]
    needed = rf"1 x learner rank .*1 x engine, in turn: 1 GPU .*\b48 GB\b.*\({kept + engine:.1f} GiB "
    assert re.search(rf"{needed}.* {engine / 44.9:.2f} .*{1 - kept / 44.9:.2f}$", line)


def test_shared_gpu_line_of_a_sleeping_engine_follows_the_learner() -> None:
    learner = {"weights": 4 * GIB, "activations": 60 * GIB, "overhead": GIB}
    line = shared_gpu_line(learner, {"weights": 4 * GIB, "kv_cache": 8 * GIB}, in_turn=True)
    assert re.search(r"\b80 GB\b.*\(67\.5 GiB .*\b0\.15 .*\b0\.94$", line)


def test_shared_gpu_warning_names_a_share_that_is_too_large_or_small() -> None:
    learner, engine = {"weights": 40 * GIB}, {"kv_cache": 20 * GIB}
    line = shared_gpu_line(learner, engine, in_turn=False)
    wide = r"rollout\.gpu_memory_utilization"
    assert re.search(rf"\b80 GB\b.*\(60\.0 GiB .*{wide} .*\b0\.25 .*\b0\.50$", line)
    for within in (0.25, 0.5):
        assert shared_gpu_warning(learner, engine, within, in_turn=False) is None
    for share, short_of, other in (("0.7", "learner", 141), ("0.24", "engine", 96)):
        expected = rf"{wide}={share} .*\b0\.25 .*\b0\.50 .*\b80 GB: .*\b{short_of}\b.*\b{other} GB\b"
        assert re.search(expected, str(shared_gpu_warning(learner, engine, float(share), in_turn=False)))
    assert shared_gpu_warning({"weights": 999 * GIB}, engine, 0.7, in_turn=False) is None  # the line says it


def test_estimate_warns_of_a_default_share_that_is_too_large() -> None:
    def warning(learner: dict[str, Any], **rollout: Any) -> str | None:
        rollout = {"num_workers": 1, "gpus_per_worker": 0.5, **rollout}
        estimate = training_estimate(_train(learner={"gpus_per_worker": 0.5, **learner}, rollout=rollout))
        assert estimate is not None
        return estimate.get("warning")

    said = warning({"micro_batch_rows": 8})
    assert "rollout.gpu_memory_utilization=0.85" in str(said)
    assert warning({"micro_batch_rows": 8}, gpu_memory_utilization=0.5) is None
    assert warning({"gpus_per_worker": 1}, gpus_per_worker=1) is None


@pytest.mark.parametrize(
    ("gib", "card"), [(15.0, 16), (15.1, 24), (39.4, 40), (60, 80), (139, 141), (500, None)]
)
def test_placement_names_the_smallest_fitting_card(gib: float, card: int | None) -> None:
    assert smallest_card(gib) == card


def test_sft_estimate_has_one_gpu_and_no_engine() -> None:
    learner = {"use_gpu": True, "micro_batch_rows": 4}
    values = {"name": "s", "model": ON_GPU["model"], "learner": learner, "max_tokens": 100}
    estimate = supervised_estimate(build_config(SftConfig, values))
    assert estimate is not None
    assert (estimate["gpus"], "engine_device_gib" in estimate) == (1, False)
    assert estimate["learner_rank_gib"]["activations"] == round(400 * 36 * 188_936 / GIB, 2)
    values = {"name": "e", "adapters": {"b": None}, **{key: ON_GPU[key] for key in ("model", "rollout")}}
    estimate = evaluation_estimate(build_config(EvaluateConfig, values))
    assert estimate is not None
    assert (estimate["gpus"], "learner_rank_gib" in estimate) == (2, False)


def test_estimate_is_none_without_gpus_and_invents_no_number() -> None:
    assert training_estimate(build_config(TrainConfig, {"name": "r"})) is None
    assert "gpu_estimate" not in derived_sizes(build_config(TrainConfig, {"name": "r"}))
    unknown = training_estimate(_train(model={"path": "someone/Else-7B"}))
    assert unknown is not None
    assert list(unknown) == ["what_this_is"]
    assert "someone/Else-7B" in unknown["what_this_is"]
    learner = {"gradient_checkpointing": False, "micro_batch_rows": 8}
    huge = training_estimate(_train(model={"path": "Qwen/Qwen3-32B", "dtype": "float32"}, learner=learner))
    assert huge is not None and "larger" in huge["placement"][0]


def test_machine_memory_excludes_weights_of_engines_on_gpus() -> None:
    assert model_mib(ModelSpec(path="someone/Else-7B")) is None
    sizes = derived_sizes(_train())
    weights = 8_190_735_360 * 2 / 2**20
    everything = round(1200 + 200 + 2 * 1000 + 900 + weights)
    expected = {"engine": 1000, "learner_rank": round(900 + weights), "all": everything}
    assert sizes["estimated_memory_mib"] == expected
