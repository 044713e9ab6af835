"""The comparison with TRL says how to get it, and has both sides sample the same lengths."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest
import torch

from benchmarks import trl, trl_trainer
from benchmarks.forced_lengths import ForcedEnds, ForcedLengths, planned_lengths, require_lengths
from polyray.errors import ConfigError, PolyrayError
from polyray.types import Prompt


def test_missing_trl_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trl_trainer.importlib.util, "find_spec", lambda name: None if name == "trl" else "there"
    )
    with pytest.raises(ConfigError, match=r"--no-deps --target DIR 'trl==1.16.\*'"):
        trl.main([])


def test_check_prints_the_plan_and_odd_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert trl.main(["--check", "--part", "learning", "--groups", "2", "--model", "random"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["job"], plan["part"], plan["model"]) == ("benchmarks trl", "learning", "random")
    assert (plan["groups"], plan["group_size"], plan["longest"]) == (2, 8, 128)
    assert trl.main(["--check"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["part"], plan["groups"], plan["group_size"], plan["longest"]) == ("steps", 16, 16, 10)
    for odd in (["--steps", "0"], ["--mean-share", "0"], ["--groups", "3", "--micro-batch-rows", "7"]):
        with pytest.raises(ConfigError, match=" ".join(odd[-2:])):
            trl.main(["--check", *odd])


def test_the_ratio_is_taken_step_by_step_after_the_first() -> None:
    options = Namespace(part="steps", model="embedded")
    seconds = {"polyray": [9.0, 1.0, 2.0, 4.0], "trl": [1.0, 2.0, 2.0, 2.0]}
    lengths = [[9, 9], [4, 2], [4, 4], [1, 3]]
    measures = {
        m.name.strip(): m for m in trl.comparison(options, seconds, lengths, {"learn": [7.0, 1, 1, 2]})
    }
    ratio = measures["steps, polyray / TRL, embedded model"]
    assert (ratio.values, ratio.limit, ratio.ok) == ((0.5, 1.0, 2.0), 1.1, True)
    assert measures["polyray, of which learn"].values == (1.0, 1.0, 2.0)
    assert measures["mean / longest completion"].values == pytest.approx((0.75, 1.0, 2 / 3))
    options.model = "random"
    assert trl.comparison(options, seconds, lengths, {})[0].ok is False


def test_the_embedded_model_is_given_the_lengths_of_its_own_answers() -> None:
    prompts = [Prompt("0", "37|b1>e4="), Prompt("1", "02|h8>f3=")]
    options = Namespace(model="embedded", groups=1, group_size=2, longest=10, mean_share=0.2)
    assert planned_lengths(prompts, options) == [[7, 7], [8, 8]]  # 3 + 3 moves, 2 + 5 moves, and an end


def test_drawn_lengths_have_one_longest_in_every_step() -> None:
    options = Namespace(model="random", groups=4, group_size=64, longest=200, mean_share=0.2)
    steps = planned_lengths([Prompt("0", "")] * 8, options)
    assert [(len(step), max(step), min(step) >= 1) for step in steps] == [(256, 200, True)] * 2
    assert all(0.15 < sum(step) / len(step) / 200 < 0.25 for step in steps)


def test_forced_ends_end_rows_at_planned_lengths() -> None:
    forced = ForcedEnds(end=1)
    forced.lengths = [1, 3]
    scores = torch.zeros(2, 4)
    first = forced(torch.zeros(2, 5, dtype=torch.long), scores.clone())
    assert first.softmax(-1).tolist() == [[0, 1, 0, 0], pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])]
    second = forced(torch.zeros(2, 6, dtype=torch.long), scores.clone())
    assert (second[:, 1] == -torch.inf).all()
    third = forced(torch.zeros(2, 7, dtype=torch.long), scores.clone())
    assert third[1].softmax(-1).tolist() == [0, 1, 0, 0]


def test_vllms_requests_stop_at_their_own_length() -> None:
    class Processor:
        seen: list[Any] = []  # noqa: RUF012

        def add_request(self, request: Any, prompt: Any) -> None:
            params = request.sampling_params
            self.seen.append(
                (request.request_id, params.max_tokens, params._eos_token_id, params.stop_token_ids)
            )

    class Engine:
        output_processor = Processor()

        def step(self) -> str:
            return "stepped"

    forced = ForcedLengths(Engine())
    forced.lengths = {81: 7}
    for request_id, seed in (("4/1", 81), ("probe/0", None)):
        params = Namespace(max_tokens=1, _eos_token_id=2, stop_token_ids=[2], seed=seed)
        forced.output_processor.add_request(Namespace(request_id=request_id, sampling_params=params), None)
    assert Processor.seen == [("4/1", 7, None, []), ("probe/0", 1, 2, [2])]
    assert forced.step() == "stepped"


def test_a_side_that_sampled_other_lengths_is_refused() -> None:
    require_lengths("TRL", [[5, 2], [2]], [2, 1])
    with pytest.raises(PolyrayError, match=r"TRL .* \[2, 1\] .* \[2, 2\] "):
        require_lengths("TRL", [[5, 2], [2]], [2, 2])
