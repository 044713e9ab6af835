"""Runs as the report reads them: arms, states, costs, commands that repeat them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from polyray.errors import DataError
from polyray.report.arms import WARM_START_COLOUR, base_name, collect_arms
from polyray.report.costs import read_costs
from polyray.report.run_data import load_report_data
from polyray.report.run_report import build_report
from polyray.report.run_states import adapter_hashes, commands, run_states
from polyray.runs.cost import Cost
from tests.unit.report.report_fixtures import write_evaluation, write_training_run

GRPO = {"type": "grpo"}
TRAIN = Cost("train", 1, 7200.0, 14400.0, 7200.0, 500, 400, money=2.0)
JUDGED = Cost("judge", 1, 3600.0, 3600.0, judge_requests=9, judge_tokens=900, judge_money=0.75, money=0.75)


def begun(path: Path, **changes: Any) -> Path:
    """A run directory right after its start."""
    path.mkdir(parents=True)
    config = {
        "name": path.name,
        "seed": 3,
        "task": {},
        "model": {},
        "learner": {"steps": 60},
        "algorithm": GRPO,
    }
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def test_arms_join_runs_and_evaluated_models_by_the_adapter_path(tmp_path: Path) -> None:
    write_training_run(tmp_path / "sft-seed0", None)
    write_training_run(tmp_path / "drgrpo-seed0", {"type": "grpo", "kl_coefficient": 0.0})
    write_training_run(tmp_path / "drgrpo-seed1", {"type": "grpo", "kl_coefficient": 0.0}, seed=1)
    write_training_run(tmp_path / "kl-seed0", {"type": "grpo", "kl_coefficient": 0.1})
    evaluation = write_evaluation(tmp_path / "evaluation-seed0", {"SFT": [[1, 0]], "DrGRPO": [[1, 0]]})
    arms = collect_arms(load_report_data([tmp_path]))
    assert [(arm.label, [run.name for run in arm.runs]) for arm in arms] == [
        ("SFT", ["sft-seed0"]), ("DrGRPO", ["drgrpo-seed0", "drgrpo-seed1"]), ("kl", ["kl-seed0"]),
    ]  # fmt: skip
    assert [arm.is_warm_start for arm in arms] == [True, False, False]
    assert [arm.evaluated for arm in arms] == [True, True, False]
    assert [arm.has_kl_penalty for arm in arms] == [False, False, True]
    (evaluation / "config.json").unlink()
    by_name = collect_arms(load_report_data([tmp_path]))
    assert [[run.name for run in arm.runs] for arm in by_name] == [
        [run.name for run in arm.runs] for arm in arms
    ]


def test_every_model_of_an_evaluation_is_an_arm(tmp_path: Path) -> None:
    models = {
        "last": "runs/x/adapter",
        "best": "runs/x/best",
        "asked otherwise": "runs/x/adapter",
        "base": None,
    }
    evaluation = write_evaluation(tmp_path / "evaluation", {name: [[1, 0]] for name in models})
    config = json.loads((evaluation / "config.json").read_text())
    (evaluation / "config.json").write_text(json.dumps(config | {"adapters": models}))
    arms = collect_arms(load_report_data([tmp_path]))
    assert [arm.label for arm in arms] == list(models) and all(arm.evaluated for arm in arms)


def test_arms_have_different_colours_and_names_without_seeds(tmp_path: Path) -> None:
    for name in "abcdefg":
        write_training_run(tmp_path / name, GRPO)
    colours = [arm.colour for arm in collect_arms(load_report_data([tmp_path]))]
    assert len(set(colours)) == 7 and WARM_START_COLOUR not in colours
    assert [base_name(name) for name in ("x-seed0", "x-seed12", "x", "seed1-x")] == ["x", "x", "x", "seed1-x"]


def test_report_data_leaves_out_a_torn_line_and_refuses_a_directory_without_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        load_report_data([tmp_path])
    run = write_training_run(tmp_path / "a", GRPO, steps=3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    [training] = load_report_data([run]).training
    assert [row["step"] for row in training.rows] == [0, 1, 2]


def write_cost(run: Path, cost: Cost) -> Path:
    run.mkdir(parents=True)
    (run / "cost.json").write_text(json.dumps(asdict(cost)))
    return run


def test_costs_have_a_row_per_run_their_sum_and_named_problems(tmp_path: Path) -> None:
    first, verdicts = write_cost(tmp_path / "first", TRAIN), write_cost(tmp_path / "verdicts", JUDGED)
    for name in ("old", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "cost.json").write_text("{")
    table = read_costs([first, tmp_path / "old", tmp_path / "broken", verdicts, str(first)])
    assert [(row.run, row.cost.job) for row in table.rows] == [
        ("first", "train"), ("verdicts", "judge"), ("all", ""),
    ]  # fmt: skip
    assert table.rows[0].texts == ("120 min", "4", "2", "500", "400", "0", "2 USD")
    assert table.rows[2].texts == ("180 min", "5", "2", "500", "400", "900", "2.75 USD")
    assert "old: no " in table.problems[0] and "broken: " in table.problems[1]
    [alone] = read_costs([write_cost(tmp_path / "a", Cost("sft", 1, 30.0, 90.0))]).rows
    assert alone.texts[-1] == "unpriced"


def test_costs_of_a_run_of_runs_include_its_parts(tmp_path: Path) -> None:
    whole = write_cost(tmp_path / "s", Cost("sweep", 1, 1.0))
    write_cost(whole / "trials" / "t0", TRAIN)
    write_cost(whole / "evaluation", JUDGED)
    assert [row.run for row in read_costs([whole]).rows] == ["s", "evaluation", "t0", "all"]


def test_states_show_progress_of_each_run(tmp_path: Path) -> None:
    finished, damaged = (write_training_run(tmp_path / name, GRPO) for name in ("a-done", "d-damaged"))
    (finished / "DONE").write_text('{"steps": 4}')
    (damaged / "adapter").mkdir()
    for name in ("DONE", "cost.json", "incidents.jsonl", "adapter/polyray.json"):
        (damaged / name).write_text("{\n")
    killed = begun(tmp_path / "b-killed")
    (killed / "metrics.jsonl").write_text('{"step": 0}\n{"step": 39}\n{"step": 4')
    failed = begun(tmp_path / "c-failed")
    (failed / "incidents.jsonl").write_text('{"kind": "engine", "message": "it died"}\n')
    write_evaluation(tmp_path / "e-evaluation", {"A": [[1, 0]], "B": [[1, 1]]})
    states = run_states(load_report_data([tmp_path]))
    assert [(state.name, state.kind, state.seed, state.extent, state.is_done) for state in states] == [
        ("a-done", "RL", 0, "4 of 4 steps", True),
        ("b-killed", "RL", 3, "40 of 60 steps", False),
        ("c-failed", "RL", 3, "0 of 60 steps", False),
        ("d-damaged", "RL", 0, "4 steps", True),
        ("e-evaluation", "evaluation", 0, "2 models, 1 prompts, 2 samples each", True),
    ]  # fmt: skip
    assert states[0].state == states[3].state == "finished"
    assert "DONE" in states[1].state and "engine: it died" in states[2].state


def test_page_shows_states_of_runs_without_numbers(tmp_path: Path) -> None:
    begun(tmp_path / "failed")
    scoring = begun(tmp_path / "scoring")
    (scoring / "config.json").write_text('{"task": {}, "adapters": {"a": null}, "evaluation": {}}')
    data = load_report_data([tmp_path])
    assert [path.name for path in data.unscored] == ["scoring"]
    page = build_report(data, "t")
    assert "0 of 60 steps" in page and "<b>scoring</b>: " in page and "no run here has a cost.json" in page
    assert 'class="plot"' not in page


def test_page_names_steps_with_nan_and_draws_none(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "a", GRPO)
    entropies = (float("nan"), 0.5, 0.5)
    rows = [{"step": n, "reward_mean": None, "entropy": e, "step_s": 1.0} for n, e in enumerate(entropies)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = build_report(load_report_data([run]), "t")
    assert "3 steps logged null" in page and "1 of 3 steps" in page
    assert 'id="figure-rl-reward_mean"' not in page and 'id="figure-rl-entropy"' in page


def test_commands_and_hashes_identify_each_run(tmp_path: Path) -> None:
    root = tmp_path / "my runs"
    rl = begun(root / "rl-seed3", model={"warm_start": "runs/sft/adapter"})
    (rl / "adapter").mkdir()
    (rl / "adapter" / "polyray.json").write_text('{"adapter_sha256": "a7cf", "base_sha256": "5230"}')
    write_training_run(root / "sft-seed3", None)
    write_evaluation(root / "z", {"A": [[1, 0]]})
    data = load_report_data([root])
    assert commands(data) == [
        f"polyray sft '{root}/sft-seed3/config.json' name=sft-seed3-again",
        f"polyray train '{root}/rl-seed3/config.json' name=rl-seed3-again",
        f"polyray evaluate '{root}/z/config.json' name=z-again",
    ]
    (found,) = adapter_hashes(data.training)
    assert (found.run, found.adapter_sha256, found.base_sha256) == ("rl-seed3", "a7cf", "5230")
    assert found.began_from == "runs/sft/adapter"
