"""Contract of every `Engine`. A test module of an engine subclasses EngineContract and says how to build one.

Used for the simulated engine in this process and for vLLM in a child process, whose one engine serves all tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from polyray.errors import DataError, RolloutError, WeightSyncError
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.engine import Engine
from polyray.types import Group, GroupRequest, Prompt

MAX_TOKENS = 10
PROMPT_IDS = [1, 6, 10, 13, 15, 4, 22, 18, 7, 23]
"""37|b1>e4= in the embedded tokenizer, with its <bos>."""


def request(group_id: int, seeds: Sequence[int] = (5, 6, 7), text: str = "37|b1>e4=") -> GroupRequest:
    return GroupRequest(group_id, Prompt("p", text), tuple(seeds), max_completion_tokens=MAX_TOKENS)


def by_id(groups: Sequence[Group]) -> dict[int, Group]:
    found = {group.group_id: group for group in groups}
    assert len(found) == len(groups), "a group was handed over twice"
    return found


def tokens(group: Group) -> list[list[int]]:
    return [item.token_ids.tolist() for item in group.completions]


class EngineContract:
    """Each test leaves its engine idle; the first one needs an engine to which nothing was delivered."""

    keeps_versions = False

    @abstractmethod
    def build(self) -> Engine:
        """An engine on a model with the embedded tokenizer."""

    @abstractmethod
    def payload(self, version: int) -> PolicyUpdate:
        """A version it can load."""

    @pytest.fixture
    def engine(self) -> Engine:
        engine = self.build()
        engine.load(self.payload(3))
        return engine

    def test_nothing_is_sampled_before_a_version_was_delivered(self) -> None:
        engine = self.build()
        with pytest.raises(RolloutError, match="delivered"):
            engine.submit(request(0))
        assert engine.idle

    def test_a_group_has_one_completion_per_seed_in_their_order(self, engine: Engine) -> None:
        engine.submit(request(7, seeds=(9, 4, 11)))
        assert not engine.idle
        (group,) = engine.drain()
        assert (group.group_id, group.policy) == (7, self.payload(3).policy)
        assert [item.seed for item in group.completions] == [9, 4, 11]
        assert group.prompt_token_ids.tolist() == PROMPT_IDS
        for item in group.completions:
            assert 1 <= len(item.token_ids) <= MAX_TOKENS
            assert item.token_ids.dtype == np.int32 and item.rollout_logprobs.dtype == np.float32
            assert item.rollout_logprobs.shape == item.token_ids.shape
            assert (item.rollout_logprobs <= 0).all()
            assert item.finish_reason in ("stop", "length")

    def test_a_sample_depends_on_its_seed_alone(self, engine: Engine) -> None:
        engine.submit(request(0, seeds=(5, 6, 7)))
        engine.submit(request(1, seeds=(9, 6)))
        engine.poll()
        engine.submit(request(2, seeds=(6,)))  # joins while the others run
        groups = by_id(engine.drain())
        assert tokens(groups[0])[1] == tokens(groups[1])[1] == tokens(groups[2])[0]
        assert len({tuple(item) for item in tokens(groups[0])}) == 3

    def test_every_group_is_returned_once_in_any_join_order(self, engine: Engine) -> None:
        handed = []
        for group_id in range(6):
            engine.submit(request(group_id, seeds=range(10 * group_id, 10 * group_id + 3)))
            handed += engine.poll()
        handed += engine.drain()
        assert sorted(by_id(handed)) == list(range(6))
        assert engine.idle
        assert engine.poll() == engine.drain() == []

    def test_an_aborted_group_never_comes_and_unknown_ids_are_ignored(self, engine: Engine) -> None:
        engine.submit(request(0))
        engine.submit(request(1))
        engine.poll()
        engine.abort(0)
        engine.abort(99)
        assert sorted(by_id(engine.drain())) == [1]
        engine.submit(request(0))  # the id is free again
        assert sorted(by_id(engine.drain())) == [0]

    def test_no_group_meets_two_versions(self, engine: Engine) -> None:
        engine.submit(request(0, seeds=range(8)))
        if self.keeps_versions:
            engine.load(self.payload(4))
            engine.submit(request(1))
            versions = {key: group.policy.version for key, group in by_id(engine.drain()).items()}
            assert versions == {0: 3, 1: 4}
            return
        with pytest.raises(WeightSyncError, match=r"policy-a1-v4-\w+"):
            engine.load(self.payload(4))
        (group,) = engine.drain()
        assert group.policy.version == 3
        engine.load(self.payload(4))
        engine.submit(request(1))
        assert engine.drain()[0].policy.version == 4

    def test_a_run_is_served_its_own_version_or_nothing(self, engine: Engine) -> None:
        of_b = replace(self.payload(4), policy=replace(self.payload(4).policy, run="b"))
        with pytest.raises(RolloutError, match="delivered"):
            engine.submit(replace(request(0), run="b"))
        engine.load(of_b)
        engine.submit(replace(request(1), run="b"))
        if self.keeps_versions:
            engine.submit(request(2))
            groups = by_id(engine.drain())
            assert {key: group.policy for key, group in groups.items()} == {
                1: of_b.policy,
                2: self.payload(3).policy,
            }
        else:
            with pytest.raises(RolloutError, match="delivered"):
                engine.submit(request(2))
            assert engine.drain()[0].policy == of_b.policy
        engine.forget("b")
        if self.keeps_versions:
            with pytest.raises(RolloutError, match="delivered"):
                engine.submit(replace(request(3), run="b"))
        assert engine.idle

    def test_a_prompt_it_cannot_encode_is_refused_alone(self, engine: Engine) -> None:
        engine.submit(request(0))
        with pytest.raises(DataError):
            engine.submit(request(1, text="37|b1>e4?"))
        assert sorted(by_id(engine.drain())) == [0]

    def test_engine_after_sleep_samples_and_proves_as_before(self, engine: Engine) -> None:
        sequences = self.payload(3).probe.sequences
        engine.submit(request(0))
        (before,), probed = engine.drain(), engine.probe(sequences)
        engine.sleep()
        engine.wake()
        engine.submit(request(1))
        assert tokens(engine.drain()[0]) == tokens(before)
        assert engine.probe(sequences).tobytes() == probed.tobytes()
        engine.sleep()
        engine.wake()
        engine.load(self.payload(4))
        engine.submit(request(2))
        assert engine.drain()[0].policy.version == 4

    def test_a_probe_answers_every_token_from_the_second_on(self, engine: Engine) -> None:
        probe = self.payload(3).probe
        answer = engine.probe(probe.sequences)
        assert (answer.dtype, answer.shape) == (np.float32, probe.logprobs.shape)
        np.testing.assert_allclose(answer, probe.logprobs, atol=1e-4)
        answer += 1  # a caller's array is its own
        np.testing.assert_allclose(engine.probe(probe.sequences), probe.logprobs, atol=1e-4)
