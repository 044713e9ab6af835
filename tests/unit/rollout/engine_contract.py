"""Contract of every `Engine`. A test module of an engine subclasses EngineContract and says how to build one.

Used for the simulated engine in this process, and for vLLM in a child process and in processes of that child, where
one engine serves all tests. Requests are numbered like their groups.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyray.errors import DataError, RolloutError, WeightSyncError
from polyray.learner.embedded import build_tokenizer
from polyray.models.adapter import PolicyUpdate
from polyray.rollout.engine import Answer, Engine
from polyray.types import Group, GroupRequest, Prompt, Sampling, TextDelta, TextRequest

MAX_TOKENS = 10
PROMPT_IDS = [1, 6, 10, 13, 15, 4, 22, 18, 7, 23]
"""37|b1>e4= in the embedded tokenizer, with its <bos>."""


def request(group_id: int, seeds: Sequence[int] = (5, 6, 7), text: str = "37|b1>e4=") -> GroupRequest:
    return GroupRequest(group_id, Prompt("p", text), tuple(seeds), max_completion_tokens=MAX_TOKENS)


def text(
    max_tokens: int = 8, seed: int = 5, stream: bool = False, run: str = "", **sampling: Any
) -> TextRequest:
    return TextRequest(tuple(PROMPT_IDS), Sampling(max_tokens, **sampling), seed, run, stream)


def submit(engine: Engine, asked: GroupRequest) -> None:
    engine.submit(asked.group_id, asked)


def drain(engine: Engine) -> list[Answer]:
    """Poll until the engine is idle."""
    answers: list[Answer] = []
    while not engine.idle:
        answers += engine.poll()
    return answers


def by_id(answers: Sequence[Answer]) -> dict[int, Group]:
    found = dict(groups_of(answers))
    assert len(found) == len(answers), "a group was handed over twice"
    return found


def groups_of(answers: Sequence[Answer]) -> list[tuple[int, Group]]:
    for number, answer in answers:
        assert isinstance(answer, Group) and answer.group_id == number
    return [(number, answer) for number, answer in answers if isinstance(answer, Group)]


def drained(engine: Engine) -> list[Group]:
    return [group for _, group in groups_of(drain(engine))]


def deltas_of(answers: Sequence[Answer], number: int) -> list[TextDelta]:
    found = [answer for own, answer in answers if own == number]
    assert all(isinstance(answer, TextDelta) for answer in found)
    return [answer for answer in found if isinstance(answer, TextDelta)]


def whole(engine: Engine, asked: TextRequest) -> TextDelta:
    """The answer to a text that is not streamed."""
    engine.submit(0, asked)
    (delta,) = deltas_of(drain(engine), 0)
    return delta


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

    def test_submission_before_the_first_version_is_refused(self) -> None:
        engine = self.build()
        with pytest.raises(RolloutError, match="delivered"):
            submit(engine, request(0))
        assert engine.idle

    def test_group_has_one_completion_per_seed_in_their_order(self, engine: Engine) -> None:
        submit(engine, request(7, seeds=(9, 4, 11)))
        assert not engine.idle
        (group,) = drained(engine)
        assert (group.group_id, group.policy) == (7, self.payload(3).policy)
        assert [item.seed for item in group.completions] == [9, 4, 11]
        assert group.prompt_token_ids.tolist() == PROMPT_IDS
        for item in group.completions:
            assert 1 <= len(item.token_ids) <= MAX_TOKENS
            assert item.token_ids.dtype == np.int32 and item.rollout_logprobs.dtype == np.float32
            assert item.rollout_logprobs.shape == item.token_ids.shape
            assert (item.rollout_logprobs <= 0).all()
            assert item.finish_reason in ("stop", "length")

    def test_sample_depends_on_its_seed_alone(self, engine: Engine) -> None:
        submit(engine, request(0, seeds=(5, 6, 7)))
        submit(engine, request(1, seeds=(9, 6)))
        engine.poll()
        submit(engine, request(2, seeds=(6,)))  # joins while the others run
        groups = by_id(drain(engine))
        assert tokens(groups[0])[1] == tokens(groups[1])[1] == tokens(groups[2])[0]
        assert len({tuple(item) for item in tokens(groups[0])}) == 3

    def test_every_group_is_returned_once_in_any_join_order(self, engine: Engine) -> None:
        handed = []
        for group_id in range(6):
            submit(engine, request(group_id, seeds=range(10 * group_id, 10 * group_id + 3)))
            handed += engine.poll()
        handed += drain(engine)
        assert sorted(by_id(handed)) == list(range(6))
        assert engine.idle
        assert engine.poll() == drain(engine) == []

    def test_aborted_group_never_comes_and_unknown_ids_are_ignored(self, engine: Engine) -> None:
        submit(engine, request(0))
        submit(engine, request(1))
        engine.poll()
        engine.abort(0)
        engine.abort(99)
        assert sorted(by_id(drain(engine))) == [1]
        submit(engine, request(0))  # the id is free again
        assert sorted(by_id(drain(engine))) == [0]

    def test_group_is_sampled_from_one_version(self, engine: Engine) -> None:
        submit(engine, request(0, seeds=range(8)))
        if self.keeps_versions:
            engine.load(self.payload(4))
            submit(engine, request(1))
            versions = {key: group.policy.version for key, group in by_id(drain(engine)).items()}
            assert versions == {0: 3, 1: 4}
            return
        with pytest.raises(WeightSyncError, match=r"policy-a1-v4-\w+"):
            engine.load(self.payload(4))
        (group,) = drained(engine)
        assert group.policy.version == 3
        engine.load(self.payload(4))
        submit(engine, request(1))
        assert drained(engine)[0].policy.version == 4

    def test_run_is_served_its_own_version_alone(self, engine: Engine) -> None:
        of_b = replace(self.payload(4), policy=replace(self.payload(4).policy, run="b"))
        with pytest.raises(RolloutError, match="delivered"):
            submit(engine, replace(request(0), run="b"))
        engine.load(of_b)
        submit(engine, replace(request(1), run="b"))
        if self.keeps_versions:
            submit(engine, request(2))
            groups = by_id(drain(engine))
            assert {key: group.policy for key, group in groups.items()} == {
                1: of_b.policy,
                2: self.payload(3).policy,
            }
        else:
            with pytest.raises(RolloutError, match="delivered"):
                submit(engine, request(2))
            assert drained(engine)[0].policy == of_b.policy
        engine.forget("b")
        if self.keeps_versions:
            with pytest.raises(RolloutError, match="delivered"):
                submit(engine, replace(request(3), run="b"))
        assert engine.idle

    def test_prompt_without_an_encoding_is_refused_alone(self, engine: Engine) -> None:
        submit(engine, request(0))
        with pytest.raises(DataError):
            submit(engine, request(1, text="37|b1>e4?"))
        assert sorted(by_id(drain(engine))) == [0]

    def test_engine_after_sleep_samples_and_proves_as_before(self, engine: Engine) -> None:
        sequences = self.payload(3).probe.sequences
        submit(engine, request(0))
        (before,), probed = drained(engine), engine.probe(sequences)
        engine.sleep()
        engine.wake()
        submit(engine, request(1))
        assert tokens(drained(engine)[0]) == tokens(before)
        assert engine.probe(sequences).tobytes() == probed.tobytes()
        engine.sleep()
        engine.wake()
        engine.load(self.payload(4))
        submit(engine, request(2))
        assert drained(engine)[0].policy.version == 4

    def test_probe_answers_every_token_from_the_second_on(self, engine: Engine) -> None:
        probe = self.payload(3).probe
        answer = engine.probe(probe.sequences)
        assert (answer.dtype, answer.shape) == (np.float32, probe.logprobs.shape)
        np.testing.assert_allclose(answer, probe.logprobs, atol=1e-4)
        answer += 1  # a caller's array is its own
        np.testing.assert_allclose(engine.probe(probe.sequences), probe.logprobs, atol=1e-4)


class TextContract(EngineContract):
    """Contract of an engine that samples texts, too."""

    def test_text_comes_decoded_and_without_logprobs_unless_asked(self, engine: Engine) -> None:
        answer = whole(engine, text())
        decoded = build_tokenizer().decode(list(answer.token_ids), skip_special_tokens=True)
        assert answer.text == decoded and 1 <= len(answer.token_ids) <= 8
        assert answer.finish_reason in ("stop", "length")
        assert (answer.logprobs, answer.alternatives) == ((), ())
        assert len(whole(engine, text(logprobs=0)).logprobs) == len(answer.token_ids)

    def test_text_of_a_seed_is_that_of_a_group(self, engine: Engine) -> None:
        engine.submit(0, text(MAX_TOKENS, seed=6, logprobs=0))
        engine.submit(1, request(1, seeds=(5, 6)))
        answers = drain(engine)
        (delta,) = deltas_of(answers, 0)
        group = by_id([answer for answer in answers if answer[0] == 1])[1]
        assert list(delta.token_ids) == tokens(group)[1]
        assert delta.text == group.completions[1].text
        np.testing.assert_allclose(delta.logprobs, group.completions[1].rollout_logprobs, atol=1e-6)

    def test_stream_adds_up_to_the_whole(self, engine: Engine) -> None:
        engine.submit(7, text(stream=True, logprobs=2))
        parts = deltas_of(drain(engine), 7)
        answer = whole(engine, text(logprobs=2))
        assert len(parts) > 3
        assert "".join(part.text for part in parts) == answer.text
        assert tuple(token for part in parts for token in part.token_ids) == answer.token_ids
        assert tuple(value for part in parts for value in part.logprobs) == answer.logprobs
        assert tuple(row for part in parts for row in part.alternatives) == answer.alternatives
        assert all(len(row) == 2 for row in answer.alternatives)
        assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1].finish_reason == answer.finish_reason

    @pytest.mark.parametrize("stream", [False, True])
    def test_stop_string_ends_a_text_and_is_left_out(self, engine: Engine, stream: bool) -> None:
        seeds = range(100)
        seed, full = next(
            (seed, it) for seed in seeds if len((it := whole(engine, text(seed=seed))).text) > 6
        )
        stop = full.text[3:5]
        engine.submit(7, text(seed=seed, stop=(stop,), stream=stream))
        parts = deltas_of(drain(engine), 7)
        assert "".join(part.text for part in parts) == full.text[: full.text.index(stop)]
        assert parts[-1].finish_reason == "stop"
        assert sum(len(part.token_ids) for part in parts) < len(full.token_ids)

    def test_aborted_text_never_comes_and_others_are_unchanged(self, engine: Engine) -> None:
        expected = whole(engine, text(seed=6))
        for number in (0, 1):
            engine.submit(number, text(seed=5 + number, stream=number == 0))
        answers = engine.poll()
        engine.abort(0)
        answers += drain(engine)
        assert all(delta.finish_reason is None for delta in deltas_of(answers, 0))
        assert deltas_of(answers, 1) == [expected]
        assert engine.held()[self.payload(3).policy.name] == 0

    def test_text_that_does_not_fit_is_refused_alone(self, engine: Engine) -> None:
        engine.submit(0, text())
        with pytest.raises(DataError):
            engine.submit(1, replace(text(), prompt_token_ids=(1,) * 10_000))
        with pytest.raises(RolloutError):
            engine.submit(2, text(run="unknown"))
        assert len(deltas_of(drain(engine), 0)) == 1
