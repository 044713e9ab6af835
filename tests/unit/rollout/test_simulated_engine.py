"""The engine without a model: the protocol's promises with and without latencies, its policy, its time, its
failures."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from polyray.config.rollout import RolloutSpec
from polyray.config.simulation import SimulationSpec
from polyray.errors import DataError
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import PolicyUpdate, Probe, sha256_of
from polyray.rollout.simulated_engine import SimulatedEngine
from polyray.types import PolicyVersion
from tests.unit.rollout.engine_contract import EngineContract, by_id, drain, drained, request, submit, text

LATENCIES: dict[str, Any] = {"step_s": 0.01, "sequence_s": 0.001, "load_s": 1.5}
PAD, EOS = 0, 2


class SimulatedTime:
    """Clock that advances only during sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def payload(version: int) -> PolicyUpdate:
    probe = Probe(((1, 2), (1, 5, 6)), np.array([-0.5, -1.0, -2.0], np.float32), None)
    return PolicyUpdate(PolicyVersion(1, version, sha256_of(b"")), b"", None, probe)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(directory)
    return directory


def build(
    tokenizer_dir: Path,
    time: SimulatedTime | None = None,
    **simulation: Any,
) -> SimulatedEngine:
    """With a version, on a clock of its own."""
    time = time or SimulatedTime()
    values = {"engine": "simulated", "max_completion_tokens": 4000, "simulation": simulation}
    spec = RolloutSpec.model_validate(values)
    engine = SimulatedEngine(tokenizer_dir, spec, clock=time.clock, sleep=time.sleep)
    engine.load(payload(3))
    return engine


class SimulatedContract(EngineContract):
    simulation: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _tokenizer(self, tokenizer_dir: Path) -> None:
        self.tokenizer_dir = tokenizer_dir

    def build(self) -> SimulatedEngine:
        time = SimulatedTime()
        spec = RolloutSpec.model_validate({"simulation": self.simulation})
        return SimulatedEngine(self.tokenizer_dir, spec, clock=time.clock, sleep=time.sleep)

    def payload(self, version: int) -> PolicyUpdate:
        return payload(version)


class TestWithoutLatencies(SimulatedContract):
    simulation: ClassVar[dict[str, Any]] = {}


class TestWithLatencies(SimulatedContract):
    simulation = LATENCIES


class TestWithLatenciesAndVersionsKept(SimulatedContract):
    simulation = LATENCIES | {"keeps_versions": True, "mean_length": 4}
    keeps_versions = True


def test_samples_are_uniform_over_the_plain_tokens(tokenizer_dir: Path) -> None:
    engine = build(tokenizer_dir)
    submit(engine, request(0, seeds=tuple(range(400))))
    (group,) = drained(engine)
    sampled = np.concatenate([item.token_ids for item in group.completions])
    counts = np.bincount(sampled, minlength=28)
    assert counts[:3].sum() == 0  # <pad>, <bos>, <eos>
    expected = len(sampled) / 25
    assert (np.abs(counts[3:] - expected) < 5 * math.sqrt(expected)).all()
    logprobs = np.concatenate([item.rollout_logprobs for item in group.completions])
    np.testing.assert_allclose(logprobs, -math.log(25), rtol=1e-6)
    assert {len(item.token_ids) for item in group.completions} == set(range(1, 11))
    assert all(len(item.text) == len(item.token_ids) for item in group.completions)


def test_messages_end_with_the_closing_token_of_the_template(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<pad>{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    engine = build(tmp_path, given_lengths=(4,))
    asked = request(0, seeds=(1, 2))
    turns = ({"role": "user", "content": asked.prompt.text},)
    submit(engine, asked)
    submit(engine, replace(asked, group_id=1, prompt=replace(asked.prompt, messages=turns)))
    plain, chat = sorted(drained(engine), key=lambda group: group.group_id)
    assert [item.token_ids[-1] for item in plain.completions] == [EOS, EOS]
    assert [item.token_ids[-1] for item in chat.completions] == [PAD, PAD]


def test_long_completion_takes_few_polls_of_limited_length(tokenizer_dir: Path) -> None:
    for poll_s, longest, most_polls in ((60.0, 60.0, 3), (0.0, 0.25, 4000), (1.0, 1.0, 1100)):
        time = SimulatedTime()
        engine = build(tokenizer_dir, time, step_s=0.25, poll_s=poll_s, given_lengths=(4000,))
        submit(engine, replace(request(0, seeds=(1,)), max_completion_tokens=4000))
        polls = 0
        while not engine.idle:
            engine.poll()
            polls += 1
        assert sum(time.slept) == pytest.approx(1000.0)
        assert max(time.slept) <= longest + 1e-9
        assert 1000 / longest - 1 <= polls <= max(most_polls, 1000 / longest + 1)


def test_polls_advance_the_decoding_clock_and_loads(tokenizer_dir: Path) -> None:
    plain = SimulatedTime()
    engine = build(tokenizer_dir, plain)
    with pytest.raises(DataError, match=r"rollout\.engine=vllm"):
        engine.submit(0, text())
    submit(engine, request(0))
    polls = 0
    while not engine.idle:
        finished, polls = engine.poll(), polls + 1
    (group,) = by_id(finished).values()
    assert polls == max(len(item.token_ids) for item in group.completions) > 1
    assert plain.slept == []

    time = SimulatedTime()
    engine = build(tokenizer_dir, time, **LATENCIES, given_lengths=(6,))
    started = time.now
    submit(engine, request(0, seeds=(1, 2, 3)))
    drain(engine)
    assert time.now - started == pytest.approx(6 * (0.01 + 3 * 0.001))  # six steps of three sequences

    time = SimulatedTime()
    engine = build(tokenizer_dir, time, step_s=0.1, load_s=3.0, given_lengths=(8,), keeps_versions=True)
    submit(engine, request(0))
    engine.load(payload(4))
    assert list(by_id(engine.poll())) == [0]  # 8 steps passed during the load
    assert time.slept == [3.0, 3.0]
    submit(engine, request(1, seeds=(1,)))
    time.now += 30  # the thread wakes late
    assert list(by_id(engine.poll())) == [1]
    submit(engine, request(2, seeds=(1,)))  # starts now
    assert engine.poll() == []


def drawn(simulation: SimulationSpec, max_tokens: int) -> list[tuple[int, bool]]:
    return [simulation.draw_length(random.Random(seed), max_tokens) for seed in range(4000)]


def test_exponential_lengths_have_their_mean_and_are_cut_at_the_limit() -> None:
    unlimited = [length for length, _ in drawn(SimulationSpec(mean_length=50), 10_000)]
    # A rounded-up exponential is geometric.
    assert sum(unlimited) / len(unlimited) == pytest.approx(1 / (1 - math.exp(-1 / 50)), rel=0.05)
    cut = drawn(SimulationSpec(mean_length=50), 100)
    share = sum(not stops for _, stops in cut) / len(cut)
    assert share == pytest.approx(math.exp(-2), abs=0.02)
    assert max(length for length, _ in cut) == 100
    assert all(stops or length == 100 for length, stops in cut)


def test_given_and_uniform_lengths_are_drawn_from_their_values(tokenizer_dir: Path) -> None:
    assert set(drawn(SimulationSpec(), 4)) == {(1, False), (2, False), (3, False), (4, False)}
    assert set(drawn(SimulationSpec(given_lengths=(3, 12, 5)), 10)) == {(3, True), (5, True), (10, False)}
    with pytest.raises(ValidationError, match=r"mean_length.*given_lengths"):
        SimulationSpec(mean_length=3, given_lengths=(1,))
    with pytest.raises(ValidationError, match=r"given_lengths.*\b0\b"):
        SimulationSpec(given_lengths=(3, 0))
    engine = build(tokenizer_dir, given_lengths=(4, 50))
    submit(engine, request(0, seeds=tuple(range(40))))
    (group,) = drained(engine)
    kinds = {(len(item.token_ids), item.finish_reason) for item in group.completions}
    assert kinds == {(4, "stop"), (10, "length")}
    assert all((item.token_ids[-1] == EOS) == (item.finish_reason == "stop") for item in group.completions)
