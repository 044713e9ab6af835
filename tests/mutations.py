"""Break central lines one at a time and show which test notices each; run by hand.

The working tree is copied, a line is changed in the copy, and the tests beside it run until the first failure. Exit
code 1 if a change goes unnoticed. A few minutes on two cores.

  python -m tests.mutations                # all
  python -m tests.mutations staleness seed # those with these words in their names
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("polyray", "tests", "configs", "jobs", "services", "benchmarks", "pyproject.toml")
FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One wrong line.

    Example:
        Mutation("sign of a seed", "polyray/seeds.py", "[run_seed,", "[-run_seed,", "tests/unit/test_seeds.py")
    """

    name: str
    file: str
    line: str
    """Text that occurs once in the file."""
    wrong: str
    tests: str
    """Files or directories, separated by spaces."""


MUTATIONS = (
    Mutation(
        "sign of a set credit",
        "polyray/algorithms/set_credits.py",
        "return quality_credits + diversity_weight * mean_distance_credits(distance)",
        "return quality_credits - diversity_weight * mean_distance_credits(distance)",
        "tests/unit/algorithms",
    ),
    Mutation(
        "bound of a ratio clip",
        "polyray/algorithms/losses.py",
        "loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)",
        "loss = -torch.minimum(ratio * advantages, ratio.clamp(low) * advantages)",
        "tests/unit/algorithms tests/unit/learner/test_updates.py",
    ),
    Mutation(
        "sign of the KL's first term",
        "polyray/algorithms/kl.py",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return torch.expm1(log_ratio) + log_ratio",
        "tests/unit/algorithms",
    ),
    Mutation(
        "pass@k with replacement",
        "polyray/metrics/combinatorics.py",
        "table[missed] = ways / total",
        "table[missed] = (1 - missed / num_samples) ** k",
        "tests/unit/metrics/test_pass_at_k.py",
    ),
    Mutation(
        "off by one in staleness",
        "polyray/orchestrator/rollout_buffer.py",
        "if 0 <= learner_version - group_policy.version <= max_staleness:",
        "if 0 <= learner_version - group_policy.version <= max_staleness + 1:",
        "tests/unit/orchestrator/test_rollout_buffer.py",
    ),
    Mutation(
        "requeue of a lost group dropped",
        "polyray/orchestrator/rollout_buffer.py",
        "        self._running.remove(group_id)\n        heapq.heappush(self._requeued, group_id)",
        "        self._running.remove(group_id)",
        "tests/unit/orchestrator/test_rollout_buffer.py",
    ),
    Mutation(
        "group of the leased batch consumed twice",
        "polyray/orchestrator/rollout_buffer.py",
        "        for item in chosen:\n            del self._buffer[item.group_id]\n",
        "",
        "tests/unit/orchestrator/test_rollout_buffer.py",
    ),
    Mutation(
        "order of a batch at staleness 0",
        "polyray/orchestrator/rollout_buffer.py",
        "chosen.sort(key=lambda item: item.group_id)",
        "chosen.sort(key=lambda item: -item.group_id)",
        "tests/unit/orchestrator/test_rollout_buffer.py",
    ),
    Mutation(
        "worker that lags counted as serving",
        "polyray/orchestrator/worker_table.py",
        "return sum(row.joined and row.served != self.newest for row in self._rows.values())",
        "return sum(row.joined and row.served is None for row in self._rows.values())",
        "tests/unit/orchestrator/test_worker_table.py",
    ),
    Mutation(
        "group of an ended attempt kept",
        "polyray/orchestrator/worker_table.py",
        "if served is None or served.attempt != self.attempt or row.groups >= window:",
        "if served is None or row.groups >= window:",
        "tests/unit/orchestrator/test_worker_table.py",
    ),
    Mutation(
        "stale version loaded after a newer one",
        "polyray/orchestrator/weight_sync_manager.py",
        "        if not row.syncing:\n            row.syncing = True\n            self.spawn",
        "        if True:\n            row.syncing = True\n            self.spawn",
        "tests/unit/orchestrator/test_weight_sync_manager.py",
    ),
    Mutation(
        "proof skipped",
        "polyray/weight_sync/proof.py",
        "if judged > limit or served:",
        "if judged > limit and served:",
        "tests/unit/weight_sync/test_proof.py",
    ),
    Mutation(
        "magnified adapter not compared",
        "polyray/weight_sync/proof.py",
        "if not noise <= limit:  # not a number is wrong, too",
        "if noise < 0:",
        "tests/unit/weight_sync/test_proof.py",
    ),
    Mutation(
        "scale of a merged adapter",
        "polyray/weight_sync/merge.py",
        "return torch.addmm(weight, b.float(), a.float(), alpha=shape.scale)",
        "return torch.addmm(weight, b.float(), a.float(), alpha=shape.alpha)",
        "tests/unit/weight_sync/test_merge.py",
    ),
    Mutation(
        "scale of an adapter's gradient",
        "polyray/models/lora_linear.py",
        "b_gradient = (gradient_MO.T @ inner_MR).to(b.dtype).mul_(ctx.scale)",
        "b_gradient = (gradient_MO.T @ inner_MR).to(b.dtype)",
        "tests/unit/models/test_lora_linear.py",
    ),
    Mutation(
        "unscored counted as zero",
        "polyray/types.py",
        "return np.isfinite(self.rewards_G)",
        "return np.ones(len(self.rewards_G), bool)",
        "tests/unit/learner/test_step.py tests/unit/learner/test_group_metrics.py",
    ),
    Mutation(
        "rows of a micro batch averaged alone",
        "polyray/learner/step.py",
        "sum_gradients(self.parameters, denominator)",
        "sum_gradients(self.parameters, denominator / max(1, len(mini.training)))",
        "tests/unit/learner/test_step.py",
    ),
    Mutation(
        "seed of a sample without its place",
        "polyray/seeds.py",
        "json.dumps([run_seed, group_key, sample_index])",
        "json.dumps([run_seed, group_key, 0])",
        "tests/unit/test_seeds.py",
    ),
    Mutation(
        "moments not restored",
        "polyray/learner/state.py",
        'optimizer.state[parameter][field] = value if field == "step" else value.to(parameter.device)',
        "pass",
        "tests/unit/learner/test_state.py",
    ),
    Mutation(
        "arms of a comparison swapped",
        "polyray/metrics/comparison.py",
        "differences, clusters = first - second, settings.clusters",
        "differences, clusters = second - first, settings.clusters",
        "tests/unit/metrics/test_comparison.py",
    ),
)


def noticed(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails with the wrong line; None if all pass. ValueError if the line is not there once."""
    file = copy / mutation.file
    right = file.read_text(encoding="utf-8")
    if right.count(mutation.line) != 1:
        raise ValueError(f"{mutation.file} holds {right.count(mutation.line)} times: {mutation.line}")
    file.write_text(right.replace(mutation.line, mutation.wrong), encoding="utf-8")
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *mutation.tests.split(),
        ]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        file.write_text(right, encoding="utf-8")
    if done.returncode == 0:
        return None
    failed = FAILED.search(done.stdout)
    if failed is None:
        raise ValueError(
            f"{mutation.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return failed[1]


def main(words: Sequence[str]) -> int:
    """Prints a line per mutation."""
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="polyray-mutations-") as directory:
        copy = Path(directory)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for mutation in chosen:
            test = noticed(mutation, copy)
            missed += test is None
            print(f"{mutation.name:<42} {test or 'NOT NOTICED'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
