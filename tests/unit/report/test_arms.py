from __future__ import annotations

from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.report.arms import WARM_START_COLOUR, base_name, collect_arms
from polyray.report.run_data import load_report_data
from tests.unit.report.report_fixtures import write_evaluation, write_training_run


def test_runs_and_evaluated_models_meet_by_the_adapter_path(tmp_path: Path) -> None:
    write_training_run(tmp_path / "sft-seed0", None)
    write_training_run(tmp_path / "drgrpo-seed0", {"type": "grpo", "kl_coefficient": 0.0})
    write_training_run(tmp_path / "drgrpo-seed1", {"type": "grpo", "kl_coefficient": 0.0}, seed=1)
    write_training_run(tmp_path / "kl-seed0", {"type": "grpo", "kl_coefficient": 0.1})
    path = write_evaluation(tmp_path / "evaluation-seed0", {"SFT": [[1, 0]], "DrGRPO": [[1, 0]]})
    arms = collect_arms(load_report_data([tmp_path]))
    assert [(arm.label, [run.name for run in arm.runs]) for arm in arms] == [
        ("SFT", ["sft-seed0"]), ("DrGRPO", ["drgrpo-seed0", "drgrpo-seed1"]), ("kl", ["kl-seed0"]),
    ]  # fmt: skip
    assert [arm.is_warm_start for arm in arms] == [True, False, False]
    assert [arm.evaluated for arm in arms] == [True, True, False]
    assert [arm.has_kl_penalty for arm in arms] == [False, False, True]
    assert path.name == "evaluation-seed0"


def test_labels_match_run_names_where_the_configuration_is_gone(tmp_path: Path) -> None:
    write_training_run(tmp_path / "dr_grpo-seed0", {"type": "grpo"})
    (write_evaluation(tmp_path / "evaluation-seed0", {"Dr.GRPO": [[1, 0]]}) / "config.json").unlink()
    [arm] = collect_arms(load_report_data([tmp_path]))
    assert (arm.label, [run.name for run in arm.runs]) == ("Dr.GRPO", ["dr_grpo-seed0"])


def test_every_trained_arm_has_its_own_colour(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        write_training_run(tmp_path / name, {"type": "grpo"})
    colours = [arm.colour for arm in collect_arms(load_report_data([tmp_path]))]
    assert len(set(colours)) == 7 and WARM_START_COLOUR not in colours


def test_seed_suffix_is_no_part_of_an_arm() -> None:
    assert [base_name(name) for name in ("x-seed0", "x-seed12", "x", "seed1-x")] == ["x", "x", "x", "seed1-x"]


def test_a_directory_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        load_report_data([tmp_path])


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "a", {"type": "grpo"}, steps=3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    [training] = load_report_data([run]).training
    assert [row["step"] for row in training.rows] == [0, 1, 2]
