"""The load of benchmarks reward, and its command line, without a service."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from benchmarks.reward import main
from benchmarks.reward_load import Answer, Request, Texts, closed_loop, fresh, open_loop, repeated
from benchmarks.reward_parts import _throughput_measures
from polyray.errors import ConfigError


def test_no_two_texts_are_equal():
    texts = Texts(group_size=4, seed=3)
    groups = [texts.group() for _ in range(50)]
    assert all(len({item.prompt for item in group}) == 1 for group in groups)
    every = [item.completion for group in groups for item in group] + [group[0].prompt for group in groups]
    assert len(set(every)) == 50 * 5
    assert not {item.completion for item in Texts(4, seed=4).group()} & set(every)


def test_answer_is_wrong_only_with_other_scores():
    assert Answer(0, 1, 200, (0.5,), (0.4,)).is_wrong
    assert not Answer(0, 1, 200, (0.5,), (0.5,)).is_wrong
    assert not Answer(0, 1, 200, (0.5,), ()).is_wrong
    assert not Answer(0, 1, 429, (), (0.5,)).is_wrong


async def test_a_closed_loop_keeps_its_callers_busy():
    busy = most = 0

    async def send(request: Request) -> Answer:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return Answer(0, 0.01, 200)

    answers = await closed_loop(send, fresh(Texts(1)), callers=5, seconds=0.1)
    assert most == 5 and 5 <= len(answers) <= 55


async def test_an_open_loop_does_not_wait_for_answers():
    waiting, everyone = 0, asyncio.Event()

    async def send(request: Request) -> Answer:
        nonlocal waiting
        waiting += 1
        if waiting == 40:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), 5)  # nobody is answered before all have been sent
        return Answer(0, 0.01, 200)

    assert len(await open_loop(send, fresh(Texts(1)), rate=1e6, count=40)) == 40


def test_known_groups_are_repeated():
    known: list[Request] = [(Texts(1).group(), (0.1,)), (Texts(1, seed=1).group(), (0.2,))]
    drawn = list(itertools.islice(repeated(known), 40))
    assert {request[1] for request in drawn} == {(0.1,), (0.2,)}
    assert all(request in known for request in drawn)


def test_throughput_ratio_uses_surrounding_direct_calls():
    direct, served, ratio = _throughput_measures(8, [100.0, 200.0, 100.0], [120.0, 90.0])
    assert ratio.values == (pytest.approx(0.8), pytest.approx(0.6)) and ratio.ok is False
    assert (direct.median, served.median) == (100.0, 105.0)
    assert _throughput_measures(1, [1.0, 1.0], [0.1])[2].ok is None


def test_the_check_names_the_parts(capsys: pytest.CaptureFixture[str]):
    assert main(["--check", "--only", "soak"]) == 0
    assert json.loads(capsys.readouterr().out)["derived"] == {"parts": ["soak"]}
    with pytest.raises(ConfigError, match=r"--requests 10: .* 100 "):
        main(["--requests", "10"])
