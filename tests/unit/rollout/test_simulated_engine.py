"""The engine without a model: the protocol's promises with and without latencies, its policy, its time, its
failures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from polyray.config.rollout import RolloutSpec
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


def test_text_is_refused_alone(tokenizer_dir: Path) -> None:
    engine = build(tokenizer_dir)
    with pytest.raises(DataError, match=r"rollout\.engine=vllm"):
        engine.submit(0, text())
    submit(engine, request(1))
    assert list(by_id(drain(engine))) == [1] and engine.idle


def test_without_latencies_a_group_takes_as_many_polls_as_its_longest_completion(tokenizer_dir: Path) -> None:
    time = SimulatedTime()
    engine = build(tokenizer_dir, time)
    submit(engine, request(0))
    polls, finished = 0, []
    while not engine.idle:
        finished = list(by_id(engine.poll()).values())
        polls += 1
    assert polls == max(len(item.token_ids) for item in finished[0].completions) > 1
    assert time.slept == []


def test_stopped_completion_ends_with_the_eos_token(tokenizer_dir: Path) -> None:
    engine = build(tokenizer_dir, given_lengths=(4, 50))
    submit(engine, request(0, seeds=tuple(range(40))))
    (group,) = drained(engine)
    kinds = {(len(item.token_ids), item.finish_reason) for item in group.completions}
    assert kinds == {(4, "stop"), (10, "length")}
    assert all((item.token_ids[-1] == EOS) == (item.finish_reason == "stop") for item in group.completions)


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


def test_a_group_takes_a_step_per_token(tokenizer_dir: Path) -> None:
    time = SimulatedTime()
    engine = build(tokenizer_dir, time, **LATENCIES, given_lengths=(6,))
    started = time.now
    submit(engine, request(0, seeds=(1, 2, 3)))
    drain(engine)
    # Six steps of three sequences.
    assert time.now - started == pytest.approx(6 * (0.01 + 3 * 0.001))


def test_running_groups_continue_during_a_load_with_kept_versions(tokenizer_dir: Path) -> None:
    time = SimulatedTime()
    engine = build(tokenizer_dir, time, step_s=0.1, load_s=3.0, given_lengths=(8,), keeps_versions=True)
    assert time.slept == [3.0]
    submit(engine, request(0))
    engine.load(payload(4))
    assert list(by_id(engine.poll())) == [0]  # 8 steps passed while it loaded
    assert time.slept == [3.0, 3.0]


def test_a_long_completion_costs_few_polls_and_none_lasts_longer_than_it_may(tokenizer_dir: Path) -> None:
    for poll_s, longest, most_polls in ((60.0, 60.0, 3), (0.0, 0.25, 4000), (1.0, 1.0, 1100)):
        time = SimulatedTime()
        engine = build(tokenizer_dir, time, step_s=0.25, poll_s=poll_s, given_lengths=(4000,))
        demanding = request(0, seeds=(1,))
        submit(engine, type(demanding)(0, demanding.prompt, (1,), 4000))
        polls = 0
        while not engine.idle:
            engine.poll()
            polls += 1
        assert sum(time.slept) == pytest.approx(1000.0)
        assert max(time.slept) <= longest + 1e-9
        assert 1000 / longest - 1 <= polls <= max(most_polls, 1000 / longest + 1)


def test_a_thread_that_wakes_late_loses_nothing(tokenizer_dir: Path) -> None:
    time = SimulatedTime()
    engine = build(tokenizer_dir, time, step_s=0.1, given_lengths=(5, 9))
    submit(engine, request(0, seeds=(1,)))
    submit(engine, request(1, seeds=(2,)))
    time.now += 30
    assert sorted(by_id(engine.poll())) == [0, 1]
    submit(engine, request(2, seeds=(1,)))  # it begins now, not 30 s ago
    assert engine.poll() == []
