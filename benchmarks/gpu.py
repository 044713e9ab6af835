"""Measures polyray on a CUDA device: agreement of engine and learner, speed of both, delivery.

  agreement   a tiny random model: log-probs of engine and learner, two proven deliveries, an RL step between them
  learner     tokens a second of whole RL steps (LoRA r16, 16,384 tokens a step) and peak memory, on the shapes of
              Qwen3-0.6B and Qwen3-4B with random weights; 4B also with gradient checkpointing
  engine      tokens a second of the base, of a policy as an adapter and merged; from a new version in the learner to
              one that is served; the same shapes, each engine in a process of its own beside a learner, the model in
              a temporary directory (8 GB for 4B)

Everything is bfloat16; with bitsandbytes and vllm-bnb-plugin installed, agreement and engine are measured with a base
in 4 bits, too. A part that cannot run is skipped with its reason (exit code 0): all parts need a CUDA device, torch,
transformers and peft, agreement and engine also vLLM; none needs Ray. A part that fails, or does not fit the device,
is named (exit code 1).

  python -m benchmarks gpu
  python -m benchmarks gpu --steps 20 --sizes 0.6B --out gpu.json
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.learner import LearnerLoad, time_learner
from benchmarks.measure import Measure, conclude, machine
from benchmarks.models import qwen3_shape, write_random_qwen3
from polyray.capacity.shapes import QWEN3
from polyray.cli.arguments import JobParser
from polyray.config.model import NF4
from polyray.config.paths import REPOSITORY_ROOT
from polyray.errors import EXIT_FAILURE, EXIT_OK, PolyrayError

DIFFERENCE_LIMITS = {"max": 0.25, "mean": 0.02, "probe": 0.25}
"""Nats, bfloat16 on both sides with different kernels; of the tokens of the probe the largest."""
SIZES = ("0.6B", "4B")
CHECKPOINTED = ("4B",)
"""Measured with gradient checkpointing as well."""
CHILD_TIMEOUT_S = 1800.0
ENGINES = (("bfloat16", "merged"), ("bfloat16", "adapter"), (NF4, "adapter"))
"""(how the base is held, delivery)."""


@dataclass(frozen=True, slots=True)
class Case:
    """A learner that is measured, e.g. Case("4B", LearnerLoad(gradient_checkpointing=True))."""

    size: str
    load: LearnerLoad

    @property
    def name(self) -> str:
        """Printed name."""
        how = ", checkpointed" if self.load.gradient_checkpointing else ""
        return f"learner, Qwen3-{self.size} shape{how}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks gpu", __doc__)
    parser.add_argument("--steps", type=int, default=8, help="timed learner steps (default: 8)")
    parser.add_argument(
        "--sizes", nargs="+", choices=list(QWEN3), default=list(SIZES), help="default: 0.6B 4B"
    )
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.steps < 1:
        parser.error(f"--steps {options.steps}: at least 1 is needed")
    cases = learner_cases(options.sizes)
    if options.check:
        learners = [{"size": case.size, **asdict(case.load), "tokens": case.load.tokens} for case in cases]
        engines = [{"base": dtype, "delivery": mode} for dtype, mode in ENGINES]
        plan = {"sizes": options.sizes, "steps": options.steps, "learners": learners, "engines": engines}
        print(json.dumps({"job": "benchmarks gpu", **plan}, indent=2))
        return EXIT_OK
    skipped = {"learner": learner_skip_reason(), "engine": engine_skip_reason(), NF4: nf4_skip_reason()}
    for part, reason in skipped.items():
        if reason is not None:
            print(f"skipped {part}: {reason}")
    measures, failed = [], {}
    for name, measure in _parts(cases, options.sizes, options.steps, skipped):
        try:
            measures += measure()
        except PolyrayError as error:
            failed[name] = str(error)
            print(f"failed  {name}: {error}")
    code = conclude(measures, {"machine": machine(), "skipped": skipped, "failed": failed}, options.out)
    return EXIT_FAILURE if failed else code


def learner_cases(sizes: Sequence[str]) -> list[Case]:
    """Every size, and some again with gradient checkpointing."""
    load = LearnerLoad()
    cases = [Case(size, load) for size in sizes]
    cases += [
        Case(size, replace(load, gradient_checkpointing=True)) for size in sizes if size in CHECKPOINTED
    ]
    return cases


def learner_skip_reason() -> str | None:
    """Reason why the learner part cannot run here; None if it can."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def engine_skip_reason() -> str | None:
    """Reason why the parts with an engine cannot run here; None if they can."""
    reason = learner_skip_reason()
    if reason is None and importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    return reason


def nf4_skip_reason() -> str | None:
    """Reason why nothing can be measured in 4 bits here; None if it can."""
    reason = engine_skip_reason()
    packages = ("bitsandbytes", "vllm_bnb_plugin")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return reason or (f"{', '.join(missing)} not installed" if missing else None)


def _parts(
    cases: Sequence[Case], sizes: Sequence[str], steps: int, skipped: dict[str, str | None]
) -> Iterator[tuple[str, Any]]:
    """(name, what measures it) of everything that is not skipped, small things first."""
    engines = [] if skipped["engine"] else [of for of in ENGINES if of[0] != NF4 or not skipped[NF4]]
    for dtype, mode in engines:
        yield f"agreement, {dtype}, {mode}", lambda dtype=dtype, mode=mode: agreement_measures(dtype, mode)
    if not skipped["learner"]:
        for case in cases:
            yield case.name, lambda case=case: learner_measures(case, qwen3_shape(case.size), steps, "cuda")
    for size in sizes if engines else ():
        with tempfile.TemporaryDirectory(prefix="polyray-benchmark-gpu-") as directory:
            write_random_qwen3(qwen3_shape(size), Path(directory), "cuda", "bfloat16")
            _free_device()
            for dtype, mode in engines:
                yield (
                    f"engine, Qwen3-{size} shape, {dtype}, {mode}",
                    lambda of=(size, directory, dtype, mode): engine_measures(
                        of[0], Path(of[1]), of[2], of[3]
                    ),
                )


def agreement_measures(dtype: str, mode: str, device: str = "cuda") -> list[Measure]:
    """A tiny random model in an engine: agreement, two proven deliveries, one RL step between them."""
    command = ["-m", "polyray.doctor.engine_check", "--device", device, "--dtype", dtype, "--delivery", mode]
    done, limits = run_child(command), DIFFERENCE_LIMITS
    name = f"agreement, {dtype}, {mode}"
    return [
        Measure(f"{name}: largest", (done["logprob_difference_max"],), "nats", limits["max"]),
        Measure("  mean over sampled tokens", (done["logprob_difference_mean"],), "nats", limits["mean"]),
        Measure("  largest over the delivery probe", (done["probe_difference"],), "nats", limits["probe"]),
        Measure("  change of the probe by one RL step", (done["step_change"],), "nats"),
        Measure("  load and prove a version", (done["deliver_s"],), "s"),
        Measure("  start of the engine", (done["start_s"],), "s"),
    ]


def learner_measures(case: Case, shape: dict[str, Any], steps: int, device: str) -> list[Measure]:
    """Tokens per second of whole RL steps, and the most device memory they took. Raises PolyrayError where that is
    not enough."""
    import torch

    where = torch.device(device)
    on_gpu = where.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(where)
    try:
        seconds = time_learner(shape, case.load, steps, where, "bfloat16")
    except torch.OutOfMemoryError as error:
        raise PolyrayError(f"does not fit this device ({str(error).partition('. ')[0]})") from None
    finally:
        _free_device()
    speed = tuple(case.load.tokens / value for value in seconds)
    measures = [Measure(case.name, speed, "tokens/s")]
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(where) / 2**30
        measures.append(Measure("  most device memory of its tensors", (peak,), "GiB"))
    return measures


def engine_measures(
    size: str, model_dir: Path, dtype: str, mode: str, device: str = "cuda", options: Sequence[str] = ()
) -> list[Measure]:
    """Tokens per second of the base, where the engine serves it without adapters' kernels, and of a policy; seconds
    from a new version in the learner to one that is served."""
    where = ["--device", device, "--dtype", dtype, "--delivery", mode]
    done = run_child(["-m", "benchmarks.gpu_engine", str(model_dir), *where, *options])
    name = f"engine, Qwen3-{size} shape, {dtype}"
    base = [Measure(f"{name}: base", tuple(done["base"]), "tokens/s")] if done["base"] else []
    return [
        *base,
        Measure(f"{name}: {mode}", tuple(done["policy"]), "tokens/s"),
        Measure("  publish to served", tuple(done["publish_s"]), "s"),
        Measure("  largest difference over the probes", (done["probe_difference"],), "nats"),
        Measure("  start of the engine", (done["start_s"],), "s"),
    ]


def run_child(arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON that a child process prints last. PolyrayError, with the end of what it said, where it fails."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=REPOSITORY_ROOT,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PolyrayError(f"took longer than {CHILD_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PolyrayError(f"exit code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _free_device() -> None:
    """Release device memory of an earlier part of this process."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
