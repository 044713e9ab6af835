"""Measures of `benchmarks reward`: the service against the same model called directly. Needs a running Ray."""

from __future__ import annotations

import asyncio
import collections
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

from benchmarks.measure import Measure
from benchmarks.reward_load import Answer, HttpSender, Request, Texts, closed_loop, fresh, open_loop, repeated
from polyray.config.remote_reward import ClientSpec
from polyray.config.serve import RewardServeConfig
from polyray.errors import RewardError
from polyray.rewards.client import AsyncRewardServiceClient
from polyray.runs.progress import ProgressDisplay
from polyray.serving.auth import token_from_environment
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service

CONCURRENCY = 32
GROUP_SIZE = 8
THROUGHPUT_SHARE = 0.75
TAIL_FACTOR = 4.0
SOAK_CALLERS = 200
SOAK_GROUPS = 256
SOAK_GROUP_SIZE = 2
MEMORY_MIB = 16.0
"""Limit of the replica's growth, from the second quarter of the soak to the last."""
ALLOWED = frozenset({200, 429, 503})
KILL_CALLERS = 16
KILL_SECONDS = 20.0
SAMPLE_S = 1.0


class RewardBenchmark:
    """One model, directly and behind a service of its own."""

    def __init__(self, config: RewardServeConfig, display: ProgressDisplay) -> None:
        import torch

        torch.set_num_threads(1)  # as Ray gives a replica of one CPU
        self._config = config
        self._display = display
        self._configuration = ReplicaConfiguration.from_config(config)
        (plan,) = self._configuration.plans.values()
        self._reward = plan.build()
        self._token = token_from_environment()
        self._seeds = itertools.count()
        _checked(self._reward.score(self._texts(GROUP_SIZE).group()))  # loads the encoder

    def speed(self, rounds: int, seconds: float, requests: int, parts: Sequence[str]) -> list[Measure]:
        """Throughput against direct batches; latency at half of it."""
        measures: list[Measure] = []
        with self._serving("speed", replicas=1) as address:
            groups_per_s = 0.0
            for size in (GROUP_SIZE, 1) if "throughput" in parts else (GROUP_SIZE,):
                few = rounds if "throughput" in parts else 1
                direct, served = self._in_turns(address, size, few, seconds)
                if size == GROUP_SIZE:
                    groups_per_s = statistics.median(served) / size
                if "throughput" in parts:
                    measures += _throughput_measures(size, direct, served)
            if "latency" in parts:
                measures += self._latency(address, groups_per_s / 2, requests)
        return measures

    def soak(self, seconds: float) -> list[Measure]:
        """Many callers with known groups: statuses, scores, memory."""
        known = self._known(SOAK_GROUPS, SOAK_GROUP_SIZE)
        with self._serving("soak", replicas=1) as address:
            self._display.update(phase=f"{SOAK_CALLERS} callers for {seconds:g} s")

            async def load() -> tuple[list[Answer], list[float]]:
                memory = _ReplicaMemory(address.app_name)
                watching = asyncio.create_task(memory.watch())
                async with HttpSender(address.url, self._secret, SOAK_CALLERS) as send:
                    answers = await closed_loop(send, repeated(known), SOAK_CALLERS, seconds)
                watching.cancel()
                return answers, memory.mib

            answers, mib = asyncio.run(load())
        quarter = max(1, len(mib) // 4)
        growth = statistics.median(mib[-quarter:]) - statistics.median(mib[quarter : 2 * quarter] or mib)
        statuses = collections.Counter(answer.status for answer in answers)
        refused = sum(count for status, count in statuses.items() if status in ALLOWED - {200})
        return [
            Measure("soak: requests", (float(len(answers)),)),
            Measure("soak: answered a second", (statuses[200] / seconds,), "1/s"),
            Measure("soak: refused with 429 or 503", (float(refused),)),
            Measure(
                "soak: other errors",
                (float(sum(answer.status not in ALLOWED for answer in answers)),),
                limit=0,
            ),
            Measure("soak: wrong or swapped scores", (float(sum(a.is_wrong for a in answers)),), limit=0),
            Measure("soak: memory of the replica", (statistics.median(mib[-quarter:]),), "MiB"),
            Measure("soak: growth of the replica", (growth,), "MiB", limit=MEMORY_MIB),
        ]

    def kill(self) -> list[Measure]:
        """Callers that retry while one of two replicas dies."""
        known = self._known(SOAK_GROUPS, SOAK_GROUP_SIZE)
        with self._serving("kill", replicas=2) as address:
            self._display.update(phase="killing a replica under load")
            scored, wrong, failures, tries = asyncio.run(self._kill_under_load(address, known))
        return [
            Measure("kill: requests", (float(scored),)),
            Measure("kill: lost in spite of retries", (float(len(failures)),), limit=0),
            Measure("kill: wrong or swapped scores", (float(wrong),), limit=0),
            Measure("kill: longest call", (tries,), "s"),
        ]

    async def _kill_under_load(
        self, address: RewardServiceAddress, known: Sequence[Request]
    ) -> tuple[int, int, list[str], float]:
        requests = repeated(known)
        scored, wrong, longest = 0, 0, 0.0
        failures: list[str] = []
        end = time.perf_counter() + KILL_SECONDS
        spec = ClientSpec(concurrency=KILL_CALLERS, deadline_s=60)
        async with AsyncRewardServiceClient(address.url, spec, token=self._secret) as client:

            async def caller() -> None:
                nonlocal scored, wrong, longest
                while time.perf_counter() < end:
                    items, expected = next(requests)
                    started = time.perf_counter()
                    answer = await client.score(items)
                    longest = max(longest, time.perf_counter() - started)
                    scored += 1
                    failures.extend(failure.message for failure in answer.failures)
                    values = tuple(score.score for score in answer.scores)
                    wrong += not answer.failures and values != tuple(expected)

            callers = [asyncio.create_task(caller()) for _ in range(KILL_CALLERS)]
            await asyncio.sleep(KILL_SECONDS / 3)
            victim = _replica_processes(address.app_name)[0]
            victim.kill()
            await asyncio.gather(*callers)
        for message, count in collections.Counter(failures).most_common(3):
            self._display.note(f"{count} x {message}")
        return scored, wrong, failures, longest

    def _in_turns(
        self, address: RewardServiceAddress, size: int, rounds: int, seconds: float
    ) -> tuple[list[float], list[float]]:
        """Items a second: rounds + 1 direct ones and, between them, those of the service."""
        direct, served = [self._direct(size, seconds)], []
        for number in range(rounds):
            self._display.update(phase=f"{CONCURRENCY} callers, {size} items each, round {number + 1}")
            served.append(asyncio.run(self._served(address, size, seconds)))
            direct.append(self._direct(size, seconds))
        return direct, served

    def _direct(self, size: int, seconds: float) -> float:
        self._display.update(phase=f"direct batches of {CONCURRENCY} x {size} items")
        texts = self._texts(size)
        items, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            batch = [item for _ in range(CONCURRENCY) for item in texts.group()]
            _checked(self._reward.score(batch))
            items += len(batch)
        return items / elapsed

    async def _served(self, address: RewardServiceAddress, size: int, seconds: float) -> float:
        async with HttpSender(address.url, self._secret, CONCURRENCY) as send:
            started = time.perf_counter()
            answers = await closed_loop(send, fresh(self._texts(size)), CONCURRENCY, seconds)
            elapsed = time.perf_counter() - started
        bad = [answer.status for answer in answers if answer.status != 200 or None in answer.scores]
        if bad:
            raise RewardError(
                f"{len(bad)} of {len(answers)} requests were not scored, the first with status {bad[0]}"
            )
        return len(answers) * size / elapsed

    def _latency(self, address: RewardServiceAddress, rate: float, requests: int) -> list[Measure]:
        self._display.update(phase=f"{requests} groups at {rate:.3g} a second")

        async def load() -> list[Answer]:
            async with HttpSender(address.url, self._secret, 4 * CONCURRENCY) as send:
                return await open_loop(send, fresh(self._texts(GROUP_SIZE)), rate, requests)

        answers = asyncio.run(load())
        seconds = np.array([answer.seconds for answer in answers if answer.status == 200])
        p50, p99 = np.percentile(seconds, [50, 99])
        return [
            Measure("latency: not answered", (float(len(answers) - len(seconds)),), limit=0),
            Measure(f"latency: p50 at {rate:.3g} groups/s", (float(p50) * 1e3,), "ms"),
            Measure("latency: p99", (float(p99) * 1e3,), "ms"),
            Measure("latency: p99 / p50", (float(p99 / p50),), limit=TAIL_FACTOR),
        ]

    def _known(self, groups: int, size: int) -> list[Request]:
        self._display.update(phase=f"direct scores of {groups * size} items")
        texts = self._texts(size)
        known = [texts.group() for _ in range(groups)]
        scores = iter(_checked(self._reward.score([item for group in known for item in group])))
        return [(group, tuple(next(scores) for _ in group)) for group in known]

    def _texts(self, size: int) -> Texts:
        return Texts(size, seed=next(self._seeds))

    @property
    def _secret(self) -> str | None:
        return None if self._token is None else self._token.get_secret_value()

    @contextmanager
    def _serving(self, part: str, replicas: int) -> Iterator[RewardServiceAddress]:
        name = f"{self._config.name}-{part}-{os.getpid()}"
        spec = self._config.how_it_runs.model_copy(update={"num_replicas": replicas, "autoscaling": None})
        self._display.update(phase=f"starting {replicas} replica(s)")
        address = start_reward_service(name, self._configuration, self._token, spec=spec)
        try:
            asyncio.run(self._served(address, 1, 1.0))  # warm up
            yield address
        finally:
            stop_reward_service(name)


class _ReplicaMemory:
    """The resident memory of an application's replicas, sampled."""

    def __init__(self, app_name: str) -> None:
        self._processes = _replica_processes(app_name)
        self.mib: list[float] = []

    async def watch(self) -> None:
        while True:
            self.mib.append(sum(process.memory_info().rss for process in self._processes) / 2**20)
            await asyncio.sleep(SAMPLE_S)


def _replica_processes(app_name: str) -> list[psutil.Process]:
    """Ray writes the application into the titles of its replicas' processes."""
    title = f"ray::ServeReplica:{app_name}:"
    found = [process for process in psutil.process_iter(["cmdline"]) if _title(process).startswith(title)]
    if not found:
        raise RewardError(f"no process is titled {title}...; is the service on this machine?")
    return found


def _title(process: Any) -> str:
    return " ".join(process.info["cmdline"] or ())


def _throughput_measures(size: int, direct: Sequence[float], served: Sequence[float]) -> list[Measure]:
    what = f"{CONCURRENCY} callers x {size} item{'s' if size > 1 else ''}"
    ratios = tuple(
        2 * rate / (before + after) for rate, before, after in zip(served, direct, direct[1:], strict=False)
    )
    limit = THROUGHPUT_SHARE if size == GROUP_SIZE else None
    return [
        Measure(f"direct, batches of {CONCURRENCY * size} items", tuple(direct), "items/s"),
        Measure(f"service, {what}", tuple(served), "items/s"),
        Measure(f"service / direct, {what}", ratios, limit=limit, bound="at least"),
    ]


def _checked(scores: Sequence[Any]) -> list[float]:
    values = [score.score for score in scores]
    if None in values:
        raise RewardError(
            f"the model leaves items unscored: {next(score.error for score in scores if score.score is None)}"
        )
    return values
