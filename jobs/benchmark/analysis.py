"""Measures the analysis of adapters on this machine: a rank-16 adapter of a model of the shape of Qwen3-8B.

36 layers of 7 modules, random factors in float32, about 44 million numbers; read from its file, spectra of every
update, and overlaps with a second one. Time and peak memory are those of a process of its own.

  python -m jobs.benchmark analysis
  python -m jobs.benchmark analysis --out analysis.json
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from jobs.benchmark.measure import REFERENCE_SPEED, Measure, conclude, machine, peak_bytes
from jobs.cli import JobParser

LAYERS, RANK, HIDDEN, KEYS, MLP = 36, 16, 4096, 1024, 12288
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
"""(out, in) of each."""
LIMIT_S = 30.0
LIMIT_GB = 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmark analysis", __doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model (default: {LAYERS})")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.layers < 1:
        parser.error(f"--layers {options.layers}: at least 1")
    if options.check:
        print(json.dumps({"job": "benchmark analysis", "layers": options.layers, "rank": RANK}))
        return 0
    before = machine()
    print(
        f"a core ran {before['core_speed']} million loop turns/s (the limits of seconds: {REFERENCE_SPEED:g})"
    )
    return conclude(lora_measures(options.layers), {"machine": before}, options.out)


def lora_measures(layers: int) -> list[Measure]:
    """One adapter alone, then two with their overlaps."""
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as scratch:
        directories = [write_adapter_of_shape(Path(scratch) / str(seed), layers, seed) for seed in range(2)]
        (alone_s, alone_peak), (both_s, both_peak) = (
            _in_its_own_process(given) for given in (directories[:1], directories)
        )
    return [
        Measure(
            f"LoRA analysis, {layers} layers x {len(MODULES)} modules of rank {RANK}",
            (alone_s,),
            "s",
            LIMIT_S,
        ),
        Measure("  its peak memory", (alone_peak / 1e9,), "GB", LIMIT_GB),
        Measure("two of them and their overlaps", (both_s,), "s"),
        Measure("  its peak memory", (both_peak / 1e9,), "GB"),
    ]


def write_adapter_of_shape(directory: Path, layers: int, seed: int) -> Path:
    """A random adapter in PEFT's format."""
    import safetensors.torch
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for module, (out, inputs) in MODULES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, inputs, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    names = sorted(module.rsplit(".", 1)[-1] for module in MODULES)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": names}
    directory.mkdir(parents=True)
    safetensors.torch.save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _in_its_own_process(directories: Sequence[Path]) -> tuple[float, int]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(analysed, list(directories)).result()


def analysed(directories: Sequence[Path]) -> tuple[float, int]:
    """(seconds, peak bytes of this process); the libraries are imported before."""
    from polyray.analysis.lora.results import lora_results
    from polyray.analysis.lora.updates import read_adapter_updates

    started = time.perf_counter()
    lora_results([read_adapter_updates(directory) for directory in directories])
    return time.perf_counter() - started, peak_bytes()
