"""Measures polyray's learner against the plain way of doing the same: padded batches, all logits at once.

speed: whole learner steps (packed rows, log-probs, loss, all metrics, optimiser) beside forward, backward and
optimiser of the same model with its LoRA on the same completions, padded to the longest of them; in turns, in one
process. Random weights (90 M parameters) and tokens; lengths from an exponential distribution with --mean-share of
the longest as its mean. No two completions share more than their prompt, so nothing is saved but padding.
memory: log-probs at a vocabulary of 151,936, see logprob_memory.py.

  python -m benchmarks learner
  python -m benchmarks learner --part speed --mean-share 0.2 --steps 5 --out learner.json
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, ConfigError

PARTS = ("memory", "speed")
SPEED_LIMIT = 1.5
WARM_UP_STEPS = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks learner", __doc__)
    parser.add_argument("--part", choices=PARTS, help="one part instead of both")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side (default: 3)")
    parser.add_argument("--groups", type=int, default=2, help="prompts of a step (default: 2)")
    parser.add_argument("--group-size", type=int, default=8, help="completions of a prompt (default: 8)")
    parser.add_argument(
        "--longest", type=int, default=128, help="tokens of the longest completion (default: 128)"
    )
    parser.add_argument("--mean-share", type=float, default=0.3, help="mean length / longest (default: 0.3)")
    parser.add_argument("--micro-batch-rows", type=int, default=32, help="on both sides (default: 32)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    if options.steps < 1 or options.group_size < 2 or not 0 < options.mean_share <= 1:
        raise ConfigError(
            f"--steps {options.steps} --group-size {options.group_size} --mean-share {options.mean_share}: at least "
            "1 step, 2 completions and a share in (0, 1] are needed"
        )
    if options.check:
        print(json.dumps({"job": "benchmarks learner", **vars(options)}, indent=2))
        return EXIT_OK
    before = machine()
    measures = _measure(options)
    details = {"machine": before, "machine_after": machine(), "options": vars(options)}
    return conclude(measures, details, options.out)


def _measure(options: Namespace) -> list[Measure]:
    from benchmarks.logprob_memory import memory_measures

    measures = memory_measures() if options.part != "speed" else []
    return measures + (speed_measures(options) if options.part != "memory" else [])


def speed_measures(options: Namespace) -> list[Measure]:
    """Completion tokens per second of both sides in turns, and their ratio."""
    import numpy as np
    import torch

    from benchmarks.learner import build_learner
    from benchmarks.models import RANDOM_SHAPE, random_base

    torch.set_num_threads(options.threads)
    ours, plain = (
        build_learner(random_base(), options.groups, options.group_size, options.micro_batch_rows, 1e-6)
        for _ in range(2)
    )
    draw = np.random.default_rng(0)
    packed_s, padded_s, tokens, shares = [], [], [], []
    for step in range(WARM_UP_STEPS + options.steps):
        batch = _batch(draw, step, options, ours.model, RANDOM_SHAPE["vocab_size"])
        lengths = [len(item.token_ids) for group in batch.groups for item in group.group.completions]
        packed_s.append(_seconds(lambda: ours.step(batch)))  # noqa: B023  # called at once
        padded_s.append(_seconds(lambda: padded_step(plain, batch, options.micro_batch_rows)))  # noqa: B023
        tokens.append(sum(lengths))
        shares.append(sum(lengths) / len(lengths) / max(lengths))
    rows = list(zip(packed_s, padded_s, tokens, shares, strict=True))[WARM_UP_STEPS:]
    ratios = tuple(padded / packed for packed, padded, _, _ in rows)
    return [
        Measure("tokens/s, polyray / padded batches", ratios, "", SPEED_LIMIT, "at least"),
        Measure("  polyray", tuple(n / packed for packed, _, n, _ in rows), "completion tokens/s"),
        Measure("  padded batches", tuple(n / padded for _, padded, n, _ in rows), "completion tokens/s"),
        Measure("  mean / longest completion", tuple(share for *_, share in rows)),
    ]


def padded_step(learner: Any, batch: Any, micro_batch_rows: int) -> None:
    """The policy gradient of `batch` on padded rows, a micro batch at a time, and one step of the optimiser."""
    import torch

    from benchmarks.padded import padded_logprobs, padded_rows

    rows, advantages_B = padded_rows(batch.groups)
    learner.optimizer.zero_grad(set_to_none=True)
    part_B = torch.arange(len(advantages_B)) // micro_batch_rows
    for part in part_B.unique():
        logprobs_BT = padded_logprobs(learner.model, rows.select(part_B == part))
        (
            -(logprobs_BT * advantages_B[part_B == part, None]).sum() / rows.completion_lengths_B.sum()
        ).backward()
    learner.optimizer.step()


def _batch(draw: Any, step: int, options: Namespace, model: Any, vocabulary: int) -> Any:
    from benchmarks.made_groups import drawn_lengths, random_tokens, scored_group
    from polyray.types import TrainingBatch

    lengths = drawn_lengths(draw, options.groups * options.group_size, options.longest, options.mean_share)
    draw.shuffle(lengths)
    groups = []
    for index in range(options.groups):
        of_group = lengths[index * options.group_size : (index + 1) * options.group_size]
        groups.append(scored_group(model, index, *random_tokens(draw, of_group, vocabulary)))
    return TrainingBatch(step, tuple(groups), len(groups))


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
