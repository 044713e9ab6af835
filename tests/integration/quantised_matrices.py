"""Print differences of the engine's 4-bit matrices from the learner's as JSON.

python -m tests.integration.quantised_matrices MODEL_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from polyray.config.rollout import RolloutSpec
from polyray.models.loading import load_base
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_engine import build_llm, engine_arguments

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def main(model_dir: Path) -> None:
    """{"matrices": how many were compared, "largest": the largest difference of a weight}."""
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

    learner = dict(load_base(model_dir, "nf4").named_modules())
    spec = RolloutSpec(max_sequences=4)
    llm = build_llm(engine_arguments(EngineSettings(str(model_dir), "nf4", spec, 8)), spec)
    runner: Any = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    differences = []
    for name, parameter in runner.model.named_parameters():
        if not hasattr(parameter, "bnb_quant_state"):
            continue
        block, _, module = name.removesuffix(".weight").removesuffix(".base_layer").rpartition(".")
        starts = parameter.bnb_shard_offsets
        for place, part in enumerate(FUSED.get(module, (module,))):
            held: Any = learner[f"{block}.{part}"]
            packed = parameter.data[starts[place] : starts[place + 1]]
            engine_weight = dequantize_4bit(packed, parameter.bnb_quant_state[place])
            learner_weight = dequantize_4bit(held.weight.data, held.weight.quant_state)
            assert engine_weight.shape == learner_weight.shape == (held.out_features, held.in_features)
            differences.append(float((engine_weight.float() - learner_weight.float()).abs().max()))
    print(json.dumps({"matrices": len(differences), "largest": max(differences)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
