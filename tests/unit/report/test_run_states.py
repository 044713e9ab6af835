"""States of runs: finished, killed, failed, begun; and commands that repeat them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from polyray.report.run_data import load_report_data
from polyray.report.run_report import build_report
from polyray.report.run_states import adapter_hashes, commands, run_states
from tests.unit.report.report_fixtures import write_evaluation, write_training_run

GRPO = {"type": "grpo"}


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


def test_states_show_progress_of_each_run(tmp_path: Path) -> None:
    write_training_run(tmp_path / "a-done", GRPO)
    (tmp_path / "a-done" / "DONE").write_text('{"steps": 4}')
    killed = begun(tmp_path / "b-killed")
    (killed / "metrics.jsonl").write_text('{"step": 0}\n{"step": 39}\n{"step": 4')
    failed = begun(tmp_path / "c-failed")
    (failed / "incidents.jsonl").write_text('{"kind": "engine", "message": "it died"}\n')
    write_evaluation(tmp_path / "d-evaluation", {"A": [[1, 0]], "B": [[1, 1]]})
    states = run_states(load_report_data([tmp_path]))
    assert [(state.name, state.kind, state.seed, state.extent, state.is_done) for state in states] == [
        ("a-done", "RL", 0, "4 of 4 steps", True),
        ("b-killed", "RL", 3, "40 of 60 steps", False),
        ("c-failed", "RL", 3, "0 of 60 steps", False),
        ("d-evaluation", "evaluation", 0, "2 models, 1 prompts, 2 samples each", True),
    ]  # fmt: skip
    assert "DONE" in states[1].state
    assert "DONE" in states[2].state and "engine: it died" in states[2].state


def test_page_has_the_state_in_place_of_numbers(tmp_path: Path) -> None:
    begun(tmp_path / "failed")
    begun(tmp_path / "scoring", adapters={"a": None}, evaluation={})
    (tmp_path / "scoring" / "config.json").write_text(
        '{"task": {}, "adapters": {"a": null}, "evaluation": {}}'
    )
    data = load_report_data([tmp_path])
    assert [path.name for path in data.unscored] == ["scoring"]
    page = build_report(data, "t")
    assert "0 of 60 steps" in page and "<b>scoring</b>: " in page
    assert "Nothing is known of the cost: no run here has a cost.json." in page
    assert 'class="plot"' not in page


def test_nan_is_named_and_not_drawn(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "a", GRPO)
    rows = [
        {"step": step, "reward_mean": None, "entropy": 0.5 if step else float("nan"), "step_s": 1.0}
        for step in range(3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = build_report(load_report_data([run]), "t")
    assert re.search("3 steps logged null", page)
    assert 'id="figure-rl-reward_mean"' not in page and 'id="figure-rl-entropy"' in page
    assert "1 of 3 steps" in page


def test_damaged_files_beside_the_metrics_do_no_harm(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "a", GRPO)
    (run / "adapter").mkdir()
    for name in ("DONE", "cost.json", "incidents.jsonl", "adapter/polyray.json"):
        (run / name).write_text("{\n")
    (state,) = run_states(load_report_data([run]))
    assert (state.is_done, state.state) == (True, "finished"), "that DONE is there says enough"


def test_commands_and_hashes_identify_each_run(tmp_path: Path) -> None:
    rl = begun(tmp_path / "my runs" / "rl-seed3", model={"warm_start": "runs/sft/adapter"})
    (rl / "adapter").mkdir()
    (rl / "adapter" / "polyray.json").write_text('{"adapter_sha256": "a7cf", "base_sha256": "5230"}')
    write_training_run(tmp_path / "my runs" / "sft-seed3", None)
    write_evaluation(tmp_path / "my runs" / "z", {"A": [[1, 0]]})
    data = load_report_data([tmp_path / "my runs"])
    root = tmp_path / "my runs"
    assert commands(data) == [
        f"polyray sft '{root}/sft-seed3/config.json' name=sft-seed3-again",
        f"polyray train '{root}/rl-seed3/config.json' name=rl-seed3-again",
        f"polyray evaluate '{root}/z/config.json' name=z-again",
    ]
    (found,) = adapter_hashes(data.training)
    assert (found.run, found.adapter_sha256, found.base_sha256) == ("rl-seed3", "a7cf", "5230")
    assert found.began_from == "runs/sft/adapter"
