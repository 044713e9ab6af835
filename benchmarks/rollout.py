"""Rollout throughput of one pool worker against bare `LLM.generate`.

Both sides: the same engine arguments, environment, weights, prompts and seeds; log-probs and decoded texts;
each in its own Ray actor, taking turns. The bare side keeps its completions where they are; the pool's come
to the driver as groups, through the object store, as an evaluation gets them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure
from polyray.config.run import TrainConfig
from polyray.errors import RolloutError
from polyray.types import GroupRequest

if TYPE_CHECKING:
    from polyray.orchestrator.rollout_pool import RolloutPool
    from polyray.rollout.engine import EngineSettings
    from polyray.runs.progress import ProgressDisplay

RATIO_LIMIT = 0.9
WARM_UP_SHARE = 4
"""The first, uncounted turn is this many times smaller."""


class BareEngine:
    """vLLM as a user calls it, in a Ray actor."""

    def __init__(self, settings: EngineSettings) -> None:
        from polyray.rollout.vllm_engine import build_llm, engine_arguments

        arguments = engine_arguments(replace(settings, lora_rank=None))
        self._llm = build_llm(arguments, settings.rollout)
        self._tokenizer = self._llm.get_tokenizer()

    def generate(self, requests: Sequence[GroupRequest]) -> tuple[float, int]:
        """(seconds, sampled tokens)."""
        from polyray.data.chat import encode_prompt
        from polyray.rollout.engine import group_sampling
        from polyray.rollout.vllm_engine import sampling_params

        started = time.perf_counter()
        prompts, params = [], []
        for request in requests:
            prompt = {"prompt_token_ids": encode_prompt(self._tokenizer, request.prompt)}
            prompts += [prompt] * len(request.seeds)
            shared = sampling_params(group_sampling(request))
            for seed in request.seeds:
                params.append(copied := copy.copy(shared))
                copied.seed = seed
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        tokens = [output.outputs[0].token_ids for output in outputs]
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        seconds = time.perf_counter() - started
        assert len(texts) == len(prompts)
        return seconds, sum(len(row) for row in tokens)


def rollout_measures(
    config: TrainConfig, completions: int, num_pairs: int, display: ProgressDisplay
) -> list[Measure]:
    """The ratio pool / bare over `num_pairs` interleaved pairs of `completions` each, and both speeds."""
    import ray

    from polyray.cluster.session import OUTSIDE_ANY_GROUP
    from polyray.launch.plan import plan_fleet
    from polyray.orchestrator.rollout_pool import RolloutPool
    from polyray.rollout.engine import EngineSettings

    display.section("rollout throughput", 1, 1)
    display.update(phase="starting two engines")
    rollout = config.rollout.model_copy(update={"num_workers": 1})
    pool = RolloutPool("benchmark-throughput", rollout)
    engine = plan_fleet(config.model_copy(update={"rollout": rollout})).engine
    assert isinstance(engine, EngineSettings)
    pool.build(engine)
    bare: Any = (
        ray.remote(BareEngine)
        .options(
            num_cpus=rollout.cpus_per_worker,
            num_gpus=rollout.gpus_per_worker,
            scheduling_strategy=OUTSIDE_ANY_GROUP,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(rollout.threads_per_worker or 1)}},
        )
        .remote(pool.settings)
    )
    try:
        pool.wait_until_ready()
        _serve_base(config, pool)
        num_groups = -(-completions // rollout.group_size)
        _take_turns(pool, bare, _requests(config, 0, num_groups // WARM_UP_SHARE), pool_first=True)
        pairs = []
        for pair in range(num_pairs):
            display.update(phase="pairs", step=pair, total=num_pairs)
            requests = _requests(config, (pair + 1) * num_groups, num_groups)
            pairs.append(_take_turns(pool, bare, requests, pool_first=pair % 2 == 0))
    finally:
        ray.kill(bare)
        pool.shutdown()
    ratios = tuple(bare_s / pool_s for pool_s, bare_s, _ in pairs)
    return [
        Measure("one rollout worker / bare LLM.generate", ratios, "", RATIO_LIMIT, bound="at least"),
        Measure("  rollout worker", tuple(tokens / pool_s for pool_s, _, tokens in pairs), "tokens/s"),
        Measure("  bare LLM.generate", tuple(tokens / bare_s for _, bare_s, tokens in pairs), "tokens/s"),
    ]


def _serve_base(config: TrainConfig, pool: RolloutPool) -> None:
    """The base model as it is, on both sides; here through a delivery with proof."""
    from polyray.weight_sync.probe import adapter_on_disk, probe_sequences
    from polyray.weight_sync.proof import SyncVerifier

    model_dir, dtype = Path(pool.settings.model_dir), pool.settings.dtype
    num_probes = config.delivery.num_probes
    probes = probe_sequences(config.task, config.rollout, num_probes, config.seed, model_dir, dtype)
    payload = adapter_on_disk(None, model_dir, dtype, probes, version=0)
    verifier = SyncVerifier(dtype)
    for ack in pool.deliver(payload, config.delivery.timeout_s):
        verifier.check(ack, payload)


def _requests(config: TrainConfig, first: int, count: int) -> list[GroupRequest]:
    from polyray.seeds import sample_seed
    from polyray.tasks import build_task

    task, rollout = build_task(config.task), config.rollout
    return [
        GroupRequest(
            group_id,
            task.training_prompt(group_id, config.seed),
            tuple(sample_seed(config.seed, group_id, index) for index in range(rollout.group_size)),
            rollout.max_completion_tokens,
            rollout.temperature,
        )
        for group_id in range(first, first + count)
    ]


def _take_turns(
    pool: RolloutPool, bare: Any, requests: Sequence[GroupRequest], pool_first: bool
) -> tuple[float, float, int]:
    """(seconds of the pool, seconds of the bare engine, tokens): never at the same time.

    Raises RolloutError where the two did not sample the same number of tokens: they would not be comparable.
    """
    import ray

    if pool_first:
        pool_s, pool_tokens = _time_pool(pool, requests)
        bare_s, bare_tokens = ray.get(bare.generate.remote(requests))
    else:
        bare_s, bare_tokens = ray.get(bare.generate.remote(requests))
        pool_s, pool_tokens = _time_pool(pool, requests)
    if pool_tokens != bare_tokens and pool.settings.rollout.gpus_per_worker == 0:
        raise RolloutError(
            f"the rollout worker sampled {pool_tokens} tokens and the bare engine {bare_tokens} from the "
            "same prompts, seeds and weights; set rollout.threads_per_worker=1"
        )
    return pool_s, bare_s, pool_tokens


def _time_pool(pool: RolloutPool, requests: Sequence[GroupRequest]) -> tuple[float, int]:
    started = time.perf_counter()
    groups = list(pool.sample(requests))
    return time.perf_counter() - started, sum(group.num_tokens for group in groups)
