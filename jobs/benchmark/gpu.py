"""Measures polyray on a CUDA device: agreement of engine and learner, delivery, an RL step, learner speed.

Each part that cannot run is skipped with its reason (exit code 0): the engine part needs a CUDA device and
vLLM, the learner part a CUDA device, torch, transformers and peft; neither needs Ray. The learner trains a
LoRA adapter on random weights of the Qwen3-0.6B shape in bfloat16.

  python -m jobs.benchmark gpu
  python -m jobs.benchmark gpu --steps 20 --out gpu.json
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence

from jobs.benchmark.learner import QWEN3_0_6B, LearnerLoad, time_learner
from jobs.benchmark.measure import Measure, conclude, machine
from jobs.cli import JobParser
from polyray.errors import EXIT_OK

DIFFERENCE_LIMITS = {"max": 0.25, "mean": 0.02, "probe": 5e-2}
"""Nats, bfloat16 on both sides with different kernels; the probe's is delivery.tolerance."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmark gpu", __doc__)
    parser.add_argument("--steps", type=int, default=8, help="timed learner steps (default: 8)")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.steps < 1:
        parser.error(f"--steps {options.steps}: at least 1 is needed")
    load = LearnerLoad()
    if options.check:
        plan = {"model": QWEN3_0_6B, "tokens_per_step": load.tokens, "steps": options.steps}
        print(json.dumps({"job": "benchmark gpu", **plan}, indent=2))
        return EXIT_OK
    skipped = {"engine": engine_skip_reason(), "learner": learner_skip_reason()}
    for part, reason in skipped.items():
        if reason is not None:
            print(f"skipped {part}: {reason}")
    measures: list[Measure] = []
    if skipped["engine"] is None:
        measures += engine_measures()
    if skipped["learner"] is None:
        measures += learner_measures(load, options.steps)
    return conclude(measures, {"machine": machine(), "skipped": skipped}, options.out)


def learner_skip_reason() -> str | None:
    """Why the learner part cannot run here; None where it can."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def engine_skip_reason() -> str | None:
    """Why the engine part cannot run here; None where it can."""
    reason = learner_skip_reason()
    if reason is None and importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    return reason


def engine_measures() -> list[Measure]:
    """A tiny random model in an engine on the GPU: agreement, two proven deliveries, one RL step between."""
    import torch

    from jobs.engine_check import engine_round

    done = engine_round(torch.device("cuda"), "bfloat16")
    limits = DIFFERENCE_LIMITS
    return [
        Measure("log-probs engine vs learner, largest difference", (done.logprob_difference_max,), "nats",
                limits["max"]),
        Measure("log-probs engine vs learner, mean difference", (done.logprob_difference_mean,), "nats",
                limits["mean"]),
        Measure("log-probs of the delivery probe, largest difference", (done.probe_difference,), "nats",
                limits["probe"]),
        Measure("load and prove a version", (done.deliver_s,), "s"),
        Measure("change of the probe by one RL step", (done.step_change,), "nats"),
        Measure("start of the engine", (done.start_s,), "s"),
    ]  # fmt: skip


def learner_measures(load: LearnerLoad, steps: int) -> list[Measure]:
    """Tokens per second of whole RL steps on the 0.6B shape, and the device memory they took."""
    import torch

    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    seconds = time_learner(QWEN3_0_6B, load, steps, device, "bfloat16")
    speed = tuple(load.tokens / value for value in seconds)
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    return [
        Measure("learner on the Qwen3-0.6B shape, LoRA, bfloat16", speed, "tokens/s"),
        Measure("  device memory", (peak,), "GB"),
    ]
