"""The comparison with TRL says how to get it, and hands both sides the same completions."""

from __future__ import annotations

import json

import pytest

from jobs.benchmark import trl
from polyray.errors import ConfigError


def test_without_trl_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.importlib.util, "find_spec", lambda name: None if name == "trl" else "there")
    with pytest.raises(ConfigError, match=r"trl not installed; .*--no-deps --target DIR 'trl==1.16.\*'"):
        trl.main([])


def test_check_prints_the_plan_and_odd_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert trl.main(["--check", "--groups", "4", "--model", "random"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["job"], plan["groups"], plan["group_size"], plan["model"]) == (
        "benchmark trl",
        4,
        16,
        "random",
    )
    for odd in (["--steps", "0"], ["--mean-share", "0"], ["--groups", "3", "--micro-batch-rows", "7"]):
        with pytest.raises(ConfigError, match=r"at least 1 step, a share in \(0, 1\]"):
            trl.main(["--check", *odd])
