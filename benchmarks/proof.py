"""False alarms and caught faults of the proof of a weight sync, on SmolLM2-135M with real optimiser steps.

For each learning rate a fresh adapter is trained on completions that the engine samples, with random rewards. Every
version is loaded and must be proven. At some versions the engine is also put into each faulty state, and the proof
must refuse it:

  stale    it serves the version before           half     alpha / r is halved
  base     it serves the base                     double   alpha / r is doubled
  layer    layer 15 has no adapter                matrix   v_proj of layer 15 has no adapter
  module   v_proj of all layers has no adapter    cache    vLLM does not reset its prefix cache (merged only)

Faults are tried at versions 1, 2, 3, 4, 6, 8, 12, ... The engine runs in this process, on one thread. Half an hour on
two cores for the default.

  python -m benchmarks.proof                              # adapter delivery, bfloat16, 3 x 67 versions
  python -m benchmarks.proof --mode merged --versions 16
  python -m benchmarks.proof --from-disk --versions 8     # as evaluations and the generation service load adapters
  python -m benchmarks.proof --dtype float32 --mode merged --rates 1e-5 --versions 8
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyray.cli.arguments import JobParser, run
from polyray.errors import EXIT_FAILURE, EXIT_OK, RolloutError, WeightSyncMismatch

if TYPE_CHECKING:
    from polyray.config.run import TrainConfig
    from polyray.learner.policy import Policy
    from polyray.models.adapter import PolicyUpdate
    from polyray.rollout.vllm_engine import VllmEngine
    from polyray.weight_sync.proof import SyncVerifier

Answer = tuple[np.ndarray, np.ndarray | None]
"""Log-probs of the probe under the version, and under its magnified adapter."""
FAULTS = ("stale", "base", "layer", "module", "matrix", "half", "double")
SUBJECTS = [
    "river",
    "clock",
    "snow",
    "bread",
    "garden",
    "engine",
    "paper",
    "window",
    "music",
    "horse",
    "winter",
    "market",
    "school",
    "ocean",
    "letter",
]
QUESTIONS = ("Write one short sentence about a {}.", "What is the use of a {}?", "Name two things near a {}.")
SAMPLE_EVERY = 4
"""Versions that train on the same completions, with other rewards; sampling with an adapter is slow on a CPU."""


@dataclass(slots=True)
class RateResult:
    """Counts of one learning rate.

    Example:
        RateResult(rate=1e-4, healthy=67, alarms=[], caught={"stale": {1: True, 2: True}}, noise=[.07, .08])
    """

    rate: float
    healthy: int = 0
    alarms: list[str] = field(default_factory=list[str])
    """Messages of sound versions that were refused."""
    caught: dict[str, dict[int, bool]] = field(default_factory=dict[str, dict[int, bool]])
    """Fault -> version -> whether it was refused."""
    noise: list[float] = field(default_factory=list[float])
    """Mean |engine - learner| of each version, in nats."""
    magnified: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Typical |engine - learner| under the magnified adapter, and the learner's difference from itself at nearly
    the same scale."""
    faulty: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Fault -> the first of `magnified` over the second, at each version that it was tried."""
    change: list[float] = field(default_factory=list[float])
    """Mean |version - base| by the learner, noise included."""


class Trial:
    """One engine, and a policy per learning rate."""

    def __init__(
        self, config: TrainConfig, model_dir: Path, dtype: str, mode: str, disk: Path | None = None
    ) -> None:
        """`disk`: versions are written there and read again."""
        from polyray.rollout.engine import EngineSettings
        from polyray.rollout.vllm_engine import VllmEngine

        self._disk = disk
        self._config, self._model_dir, self._dtype = config, model_dir, dtype
        rank = config.model.lora.rank if mode == "adapter" else None
        self._engine: VllmEngine = VllmEngine(EngineSettings(str(model_dir), dtype, config.rollout, rank))
        self._names = itertools.count(1)
        self._groups = itertools.count()
        self._is_merged = mode == "merged"

    def run(self, rate: float, versions: int) -> Iterator[RateResult]:
        """Yields the counts after every version."""
        import torch

        from polyray.learner.policy import Policy
        from polyray.weight_sync.proof import SyncVerifier

        learner = self._config.learner.model_copy(update={"learning_rate": rate, "steps": 100 * versions})
        policy = Policy(
            self._config.model_copy(update={"learner": learner}),
            self._model_dir,
            self._dtype,
            torch.device("cpu"),
        )
        verifier, result = SyncVerifier(self._dtype), RateResult(rate)
        groups: list[Any] = []
        tried = {part << power for power in range(versions.bit_length()) for part in (1, 3)}
        for version in range(versions + 1):
            if version:
                self._step(policy, version, groups)
            update = policy.payload(1, version)
            if self._disk is not None:
                update = self._read_again(policy, update, self._disk / f"{rate:g}-{version}")
            if version in tried:
                self._try_faults(update, verifier, result, version)
            self._prove(update, self._answer(update), verifier, result)
            if version % SAMPLE_EVERY == 0:
                groups = self._sample()
            yield result

    def _read_again(self, policy: Policy, update: PolicyUpdate, directory: Path) -> PolicyUpdate:
        """The update as an evaluation or a generation service makes it; version 0 is the base."""
        from polyray.models.base_files import base_fingerprint
        from polyray.models.lora import save_adapter
        from polyray.weight_sync.probe import adapter_on_disk

        version, probe = update.policy.version, update.probe
        if version:
            save_adapter(policy.model, directory, {"base_sha256": base_fingerprint(self._model_dir)})
        arguments = self._model_dir, self._dtype, probe.sequences, version, probe.previous
        read = adapter_on_disk(directory if version else None, *arguments)
        return read if version else replace(read, probe=replace(read.probe, base=read.probe.logprobs))

    def _prove(
        self, update: PolicyUpdate, answer: Answer, verifier: SyncVerifier, result: RateResult
    ) -> None:
        result.healthy += 1
        result.noise.append(float(np.abs(answer[0] - update.probe.logprobs).mean()))
        if (sizes := magnified_sizes(update, answer)) is not None:
            result.magnified.append(sizes)
        assert update.probe.base is not None
        result.change.append(float(np.abs(update.probe.logprobs - update.probe.base).mean()))
        if (message := refusal(update, answer, verifier)) is not None:
            result.alarms.append(message)

    def _try_faults(
        self, update: PolicyUpdate, verifier: SyncVerifier, result: RateResult, version: int
    ) -> None:
        """The engine still serves the version before when this begins."""
        for fault in FAULTS:
            if fault == "stale":
                old = self._engine.probe(update.probe.sequences)
                answer = old, None if update.magnified() is None else old
            else:
                answer = self._answer(update, fault)
            caught = refusal(update, answer, copy.deepcopy(verifier)) is not None
            result.caught.setdefault(fault, {})[version] = caught
            if (sizes := magnified_sizes(update, answer)) is not None:
                result.faulty.setdefault(fault, []).append(sizes[0] / sizes[1])
        if self._is_merged:
            result.caught.setdefault("cache", {})[version] = self._refuses_old_cache(update)

    def _refuses_old_cache(self, update: PolicyUpdate) -> bool:
        engine: Any = self._engine
        core = engine._engine
        reset: Callable[[], bool] = core.reset_prefix_cache
        core.reset_prefix_cache = lambda: False
        try:
            self._answer(update)
        except RolloutError:
            return True
        finally:
            core.reset_prefix_cache = reset
        return False

    def _answer(self, update: PolicyUpdate, fault: str | None = None) -> Answer:
        larger = update.magnified()
        magnified = None if larger is None else self._loaded(larger, fault)
        return self._loaded(update, fault), magnified

    def _loaded(self, update: PolicyUpdate, fault: str | None) -> np.ndarray:
        policy = replace(update.policy, version=next(self._names))  # an engine takes a name only once
        taken = update if fault is None else faulty(update, fault)
        self._engine.load(replace(taken, policy=policy))
        return self._engine.probe(update.probe.sequences)

    def _sample(self) -> list[Any]:
        from polyray.seeds import sample_seed
        from polyray.tasks import build_task
        from polyray.types import GroupRequest

        rollout, task = self._config.rollout, build_task(self._config.task)
        for _ in range(rollout.prompts_per_step):
            group = next(self._groups)
            seeds = tuple(sample_seed(0, group, sample) for sample in range(rollout.group_size))
            prompt = task.training_prompt(group, 0)
            self._engine.submit(group, GroupRequest(group, prompt, seeds, rollout.max_completion_tokens))
        answers = []
        while not self._engine.idle:
            answers += self._engine.poll()
        return [group for _, group in sorted(answers, key=lambda answer: answer[0])]

    def _step(self, policy: Policy, version: int, groups: Sequence[Any]) -> None:
        from polyray.types import ScoredGroup, TrainingBatch

        draw = np.random.default_rng(version)
        scored = tuple(
            ScoredGroup(group, draw.random(len(group.completions)), np.arange(len(group.completions)))
            for group in groups
        )
        policy.learner.step(TrainingBatch(version - 1, scored, len(scored)))


def magnified_sizes(update: PolicyUpdate, answer: Answer) -> tuple[float, float] | None:
    """An entry of `RateResult.magnified`; None without a magnified adapter."""
    from polyray.weight_sync.evidence import distinct_tokens, typical_size
    from polyray.weight_sync.proof import own_noise

    larger = update.probe.magnified
    if answer[1] is None or larger is None:
        return None
    evidence_N = distinct_tokens(update.probe.sequences, with_shared=False)
    return typical_size((answer[1] - larger.logprobs)[evidence_N]), own_noise(larger, evidence_N)


def refusal(update: PolicyUpdate, answer: Answer, verifier: SyncVerifier) -> str | None:
    """Message of the refused answer; None if it was proven."""
    from polyray.weight_sync.proof import SyncAck

    logprobs, magnified = answer
    try:
        verifier.check(SyncAck("rollout-0", update.policy.sha256, logprobs, 0.0, 0.0, magnified), update)
    except WeightSyncMismatch as error:
        return str(error)
    return None


def faulty(update: PolicyUpdate, fault: str) -> PolicyUpdate:
    """The update as a faulty engine takes it."""
    from safetensors.torch import load, save

    assert update.shape is not None
    if fault == "base":
        return replace(update, tensors=b"", shape=None)
    if fault in ("half", "double"):
        factor = 0.5 if fault == "half" else 2.0
        return replace(update, shape=replace(update.shape, alpha=factor * update.shape.alpha))
    lost = {"layer": ".layers.15.", "module": ".v_proj.", "matrix": ".layers.15.self_attn.v_proj."}[fault]
    tensors = {
        name: tensor * 0 if lost in name and "lora_B" in name else tensor
        for name, tensor in load(update.tensors).items()
    }
    return replace(update, tensors=save(tensors))


def table(results: Sequence[RateResult]) -> str:
    """Lines for people: one per learning rate, and per fault the versions at which it was refused."""
    lines: list[str] = []
    for result in results:
        lines.append(
            f"rate {result.rate:g}: {len(result.alarms)} of {result.healthy} sound versions refused; noise "
            f"{result.noise[0]:.3g} to {max(result.noise):.3g} nats, change up to {max(result.change):.3g} nats"
        )
        if result.magnified:
            sound = [engine / own for engine, own in result.magnified]
            lines.append(
                f"  under the magnified adapter: {min(sound):.2f} to {max(sound):.2f} times its noise"
            )
        for fault, versions in result.caught.items():
            marks = " ".join(f"{version}:{'caught' if ok else 'no'}" for version, ok in versions.items())
            ratios = result.faulty.get(fault)
            times = f"   {min(ratios):.2f} to {max(ratios):.2f} times" if ratios else ""
            lines.append(f"  {fault:<8} {sum(versions.values())} of {len(versions)}   {marks}{times}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks.proof", __doc__)
    parser.prog = "python -m benchmarks.proof"
    parser.add_argument("--mode", choices=("adapter", "merged"), default="adapter")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3], metavar="RATE")
    parser.add_argument("--versions", type=int, default=67, help="per rate (default: %(default)s)")
    parser.add_argument(
        "--from-disk",
        action="store_true",
        help="adapters as evaluations and the generation service load them",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="of the model; by default that of every run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the counts as JSON, after every version")
    options = parser.parse_strictly(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results: list[RateResult] = []
    with tempfile.TemporaryDirectory(prefix="polyray-proof-") as directory:
        config, model_dir = prepare(Path(directory), options.cache_dir)
        disk = Path(directory) if options.from_disk else None
        trial = Trial(config, model_dir, options.dtype, options.mode, disk)
        for rate in options.rates:
            results.append(RateResult(rate))
            for result in trial.run(rate, options.versions):
                results[-1] = result
                if options.out is not None:
                    options.out.write_text(json.dumps([as_json(each) for each in results], indent=1))
            print(table(results[-1:]), flush=True)
    return EXIT_FAILURE if any(result.alarms for result in results) else EXIT_OK


def as_json(result: RateResult) -> dict[str, Any]:
    """Fields of a result."""
    return {name: getattr(result, name) for name in RateResult.__slots__}


def prepare(directory: Path, cache_dir: str | None = None) -> tuple[TrainConfig, Path]:
    """A configuration with chat prompts in `directory`, and the model's directory."""
    from polyray.config.loader import build_config
    from polyray.config.run import TrainConfig
    from polyray.models.base_files import resolve_model_dir

    prompts = [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]
    rows = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    (directory / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    values: dict[str, Any] = {
        "name": "proof",
        "runs_dir": str(directory),
        "model": {"path": "smollm2", **({} if cache_dir is None else {"cache_dir": cache_dir})},
        "task": {"type": "jsonl", "path": str(directory / "prompts.jsonl")},
        "reward": {"type": "heuristic"},
        "algorithm": {"type": "grpo"},
        "rollout": {
            "prompts_per_step": 2,
            "group_size": 4,
            "max_prompt_tokens": 96,
            "max_completion_tokens": 32,
            "max_sequences": 8,
            "kv_cache_mib": 128,
        },
        "learner": {"warmup_steps": 0, "micro_batch_rows": 8},
    }
    config = build_config(TrainConfig, values)
    return config, resolve_model_dir(config.model)


if __name__ == "__main__":
    run(main)
