"""Measures polyray beside TRL 1.16 (GRPOTrainer without vLLM): the same model, prompts and groups, in turns.

Both train LoRA adapters of one shape on the same model, in one dtype, with the same number of threads and the same
micro batches; no KL term, no gradient checkpointing; every completion has an advantage.

A step is generation, scoring, learning and delivery, each side its own, with lengths forced alike (trl_steps.py).

--model embedded: the prompts of the default task, lengths as the embedded model answers. --model random: 90 M random
weights; --model smollm2: SmolLM2-135M-Instruct on the chat prompts of configs/train/smollm2.jsonl; both with lengths
from an exponential distribution with --mean-share of the longest as its mean. Of steps, polyray's seconds are also
held against the machine's limit (machine_limit.py).

  python -m benchmarks trl
  python -m benchmarks trl --model random --steps 3
  python -m benchmarks trl --model smollm2 --longest 16 --mean-share 0.5 --steps 3

TRL is no requirement of polyray. Install it beside: pip install --no-deps --target DIR 'trl==1.16.*'; PYTHONPATH=DIR.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine_limit import MACHINE
from benchmarks.measure import Measure, conclude, machine
from benchmarks.trl_trainer import WARM_UP_STEPS, require_trl
from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK

LIMITS = {"embedded": 0.7, "random": 1 / 3, "smollm2": 0.2}
"""Limits of polyray's seconds over TRL's."""
DEFAULTS = {
    "embedded": {"groups": 16, "group_size": 16, "longest": 10},
    "random": {"groups": 8, "group_size": 8, "longest": 128},
    "smollm2": {"groups": 8, "group_size": 8, "longest": 16},
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks trl", __doc__)
    parser.add_argument("--model", choices=tuple(DEFAULTS), default="embedded", help="what is trained")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each side (default: 8)")
    parser.add_argument("--groups", type=int, help="prompts of a step (default: 16; random and smollm2: 8)")
    parser.add_argument(
        "--group-size", type=int, help="completions of a prompt (default: 16; random and smollm2: 8)"
    )
    parser.add_argument(
        "--longest", type=int, help="tokens of the longest completion (default: 10; random: 128; smollm2: 16)"
    )
    parser.add_argument(
        "--mean-share", type=float, default=0.2, help="random and smollm2: mean length / longest"
    )
    parser.add_argument("--micro-batch-rows", type=int, default=256, help="on both sides (default: 256)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    for name, value in DEFAULTS[options.model].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    rows = options.groups * options.group_size
    if options.steps < 1 or not 0 < options.mean_share <= 1 or rows % min(rows, options.micro_batch_rows):
        parser.error(
            f"--steps {options.steps} --mean-share {options.mean_share} --micro-batch-rows "
            f"{options.micro_batch_rows}: at least 1 step, a share in (0, 1], and a divisor of {rows} rows are needed"
        )
    if options.check:
        print(json.dumps({"job": "benchmarks trl", **vars(options)}, indent=2))
        return EXIT_OK
    require_trl()
    before = machine()
    measures = _measures(options)
    details = {"machine": before, "machine_after": machine(), "options": vars(options)}
    return conclude(measures, details, options.out)


def _measures(options: Namespace) -> list[Measure]:
    import torch

    from benchmarks.trl_steps import StepSides

    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of processes that are started here
    torch.set_num_threads(options.threads)
    # TRL prints its own metrics.
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as scratch:
        sides = StepSides(options, Path(scratch))
        sides.train()
    return comparison(options, sides.seconds, sides.lengths, sides.our_seconds)


def comparison(
    options: Namespace,
    seconds: Mapping[str, Sequence[float]],
    lengths: Sequence[Sequence[int]],
    parts: Mapping[str, Sequence[float]],
) -> list[Measure]:
    """The ratio, step by step, and what it is made of; the first steps warm up."""
    taken = {name: tuple(values[WARM_UP_STEPS:]) for name, values in seconds.items()}
    steps = lengths[WARM_UP_STEPS:]
    ratios = tuple(ours / theirs for ours, theirs in zip(taken["polyray"], taken["trl"], strict=True))
    limit = LIMITS[options.model]
    limits = [parts[name][WARM_UP_STEPS:] for name in MACHINE if name in parts]
    above = tuple(ours / sum(of) for ours, *of in zip(taken["polyray"], *limits, strict=True) if of)
    return [
        Measure(f"steps, polyray / TRL, {options.model} model", ratios, "", limit),
        *([Measure("  polyray / the machine's limit", above)] if above else []),
        *(Measure(f"  {name}", values, "s") for name, values in taken.items()),
        *(
            Measure(f"  polyray, of which {name}", tuple(of[WARM_UP_STEPS:]), "s")
            for name, of in parts.items()
        ),
        *(
            Measure(f"  {name}", _rates(steps, taken[name]), "completion tokens/s")
            for name in ("polyray", "trl")
        ),
        Measure("  mean / longest completion", tuple(sum(of) / len(of) / max(of) for of in steps)),
    ]


def _rates(steps: Sequence[Sequence[int]], seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(sum(of) / taken for of, taken in zip(steps, seconds, strict=True))
