"""The engine without a model keeps the protocol's promises."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from polyray.config.rollout import RolloutSpec
from polyray.delivery.adapter import AdapterPayload, Probe
from polyray.errors import DataError, DeliveryError, RolloutError
from polyray.models.embedded import build_tokenizer
from polyray.rollout.simulated_engine import SimulatedEngine
from polyray.types import GroupRequest, PolicyVersion, Prompt

PAYLOAD = AdapterPayload(
    PolicyVersion(1, 3, "0" * 64), b"", None, Probe(((1, 2),), np.array([-0.5], np.float32), None)
)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def engine(tokenizer_dir: Path) -> SimulatedEngine:
    engine = SimulatedEngine(tokenizer_dir, RolloutSpec(), "float32")
    engine.load(PAYLOAD)
    return engine


def _request(group_id: int, seeds: tuple[int, ...] = (5, 6, 7), text: str = "37|b1>e4=") -> GroupRequest:
    return GroupRequest(group_id, Prompt("p", text), seeds, max_completion_tokens=10)


def test_a_sample_depends_on_its_seed_alone(engine: SimulatedEngine) -> None:
    engine.submit(_request(0))
    engine.submit(_request(1, seeds=(9, 6)))
    by_id = {group.group_id: group for group in engine.drain()}
    first, second = by_id[0].completions[1], by_id[1].completions[1]
    assert first.text == second.text
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert len({item.text for item in by_id[0].completions}) == 3


def test_samples_are_uniform_over_the_plain_tokens(engine: SimulatedEngine) -> None:
    engine.submit(_request(0, seeds=tuple(range(400))))
    (group,) = engine.drain()
    tokens = np.concatenate([item.token_ids for item in group.completions])
    assert set(tokens.tolist()) == set(range(3, 28))  # everything but <pad>, <bos>, <eos>
    logprobs = np.concatenate([item.rollout_logprobs for item in group.completions])
    np.testing.assert_allclose(logprobs, -math.log(25), rtol=1e-6)
    assert {len(item.token_ids) for item in group.completions} == set(range(1, 11))
    assert group.prompt_token_ids.tolist() == [1, 6, 10, 13, 15, 4, 22, 18, 7, 23]
    assert group.policy == PAYLOAD.policy


def test_a_group_takes_as_many_polls_as_its_longest_completion(engine: SimulatedEngine) -> None:
    engine.submit(_request(0))
    polls, finished = 0, []
    while not engine.idle:
        finished = engine.poll()
        polls += 1
    assert polls == max(len(item.token_ids) for item in finished[0].completions) > 1


def test_loading_waits_for_nothing_and_refuses_while_groups_run(engine: SimulatedEngine) -> None:
    engine.submit(_request(0))
    with pytest.raises(DeliveryError, match="policy-a1-v3-00000000 cannot be loaded while groups run"):
        engine.load(PAYLOAD)
    engine.abort(0)
    engine.abort(99)
    engine.load(PAYLOAD)
    assert engine.idle
    assert engine.poll() == []


def test_nothing_is_sampled_before_a_version_was_delivered(tokenizer_dir: Path) -> None:
    engine = SimulatedEngine(tokenizer_dir, RolloutSpec(), "float32")
    for call in (lambda: engine.submit(_request(0)), lambda: engine.probe([[1, 2]])):
        with pytest.raises(RolloutError, match="no policy version was delivered"):
            call()


def test_a_prompt_it_cannot_encode_is_refused(engine: SimulatedEngine) -> None:
    with pytest.raises(DataError):
        engine.submit(_request(0, text="37|b1>e4="[:-1] + "?"))
    assert engine.idle


def test_the_probe_answers_the_payload(engine: SimulatedEngine) -> None:
    answer = engine.probe([[1, 2]])
    assert answer.tolist() == [-0.5]
    answer += 1  # a caller's array is its own
    assert engine.probe([[1, 2]]).tolist() == [-0.5]
