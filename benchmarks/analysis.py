"""Measures the analysis on this machine: adapters of a model of the shape of Qwen3-8B, and the report of long runs.

An adapter of rank 16: 36 layers of 7 modules, random factors in float32, about 44 million numbers; read from its
file, spectra of every update, and overlaps with a second one. Reports: 12 runs of 1,000 steps with every curve
that the page knows, and rounds on fixed prompts. Each time and peak memory is that of a separate process.

  python -m benchmarks analysis
  python -m benchmarks analysis --out analysis.json
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from benchmarks.measure import REFERENCE_SPEED, Measure, conclude, machine, peak_bytes
from polyray.cli.arguments import JobParser

T = TypeVar("T")
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
RUNS, STEPS, ROUNDS = 12, 1000, 40
REPORT_LIMIT_S = 20.0
PAGE_LIMIT_MB = 8.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks analysis", __doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model (default: {LAYERS})")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.layers < 1:
        parser.error(f"--layers {options.layers}: at least 1")
    if options.check:
        plan = {
            "job": "benchmarks analysis",
            "layers": options.layers,
            "rank": RANK,
            "runs": RUNS,
            "steps": STEPS,
        }
        print(json.dumps(plan))
        return 0
    before = machine()
    print(
        f"a core ran {before['core_speed']} million loop turns/s (the limits of seconds: {REFERENCE_SPEED:g})"
    )
    measures = [*lora_measures(options.layers), *report_measures()]
    return conclude(measures, {"machine": before}, options.out)


def lora_measures(layers: int) -> list[Measure]:
    """One adapter alone, then two with their overlaps."""
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as scratch:
        directories = [write_adapter_of_shape(Path(scratch) / str(seed), layers, seed) for seed in range(2)]
        (alone_s, alone_peak), (both_s, both_peak) = (
            _in_its_own_process(analysed, given) for given in (directories[:1], directories)
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


def report_measures(num_runs: int = RUNS, num_steps: int = STEPS) -> list[Measure]:
    """The page of many long runs: how long it takes, how large it is."""
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as scratch:
        for number in range(num_runs):
            write_run_of_length(Path(scratch) / f"arm{number // 3}-seed{number % 3}", num_steps, number)
        seconds, num_bytes = _in_its_own_process(reported, scratch)
    return [
        Measure(f"report of {num_runs} runs x {num_steps:,} steps", (seconds,), "s", REPORT_LIMIT_S),
        Measure("  the size of its page", (num_bytes / 1e6,), "MB", PAGE_LIMIT_MB),
    ]


def write_run_of_length(directory: Path, num_steps: int, seed: int) -> Path:
    """A finished RL run of random numbers under every key of the report's curves, with rounds on fixed prompts."""
    import numpy as np

    from polyray.report.dynamics import PANELS
    from polyray.report.figures import MAIN_PANELS, MISMATCH_PANELS, MORE_PANELS, TIME_PARTS

    generator = np.random.default_rng(seed)
    keys = [panel.key for panel in (*MAIN_PANELS, *MISMATCH_PANELS, *MORE_PANELS)]
    keys += [key for key, _, _ in TIME_PARTS]
    logs = {
        "metrics": (range(num_steps), [*keys, "step_s"]),
        "dynamics": (range(0, num_steps, max(1, num_steps // ROUNDS)), [panel.key for panel in PANELS]),
    }
    directory.mkdir(parents=True)
    for name, (steps, columns) in logs.items():
        values = generator.random((len(steps), len(columns)))
        lines = (
            json.dumps({"step": step, **dict(zip(columns, row, strict=True))})
            for step, row in zip(steps, values.tolist(), strict=True)
        )
        (directory / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = {
        "name": directory.name,
        "seed": seed,
        "algorithm": {"type": "grpo"},
        "learner": {"steps": num_steps},
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "DONE").write_text(json.dumps({"steps": num_steps}), encoding="utf-8")
    return directory


def reported(directory: str) -> tuple[float, int]:
    """(seconds, bytes of the page); the libraries are imported before."""
    from polyray.report.run_report import write_report

    started = time.perf_counter()
    page = write_report([directory], Path(directory) / "report.html")
    return time.perf_counter() - started, page.stat().st_size


def _in_its_own_process(measured: Callable[[T], tuple[float, int]], given: T) -> tuple[float, int]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, given).result()


def analysed(directories: Sequence[Path]) -> tuple[float, int]:
    """(seconds, peak bytes of this process); the libraries are imported before."""
    from polyray.shelf.research.lora.results import lora_results
    from polyray.shelf.research.lora.updates import read_adapter_updates

    started = time.perf_counter()
    lora_results([read_adapter_updates(directory) for directory in directories])
    return time.perf_counter() - started, peak_bytes()
