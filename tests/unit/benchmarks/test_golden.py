"""Golden runs: the comparison with a record, and refusals before a run."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import golden
from benchmarks.golden_record import (
    check_machine,
    differences,
    flat,
    read_record,
    run_differences,
    steps_of,
    this_machine,
    write_record,
)
from polyray.errors import ConfigError

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {"step 0": {"loss": 0.1, "grad_norm": 1.5}, "result": {"adapter_sha256": "ab"}},
    "grpo": {"step 0": {"loss": 0.2, "classes": [1, 2]}, "step 1": {"loss": math.nan}},
}


def changed(**paths: Any) -> dict[str, Any]:
    """RUNS after a change of `run__part__key`; ... removes."""
    runs: dict[str, Any] = copy.deepcopy(RUNS)
    for path, value in paths.items():
        *parents, last = path.replace("_0", " 0").split("__")
        node = runs
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return runs


def test_differences_of_equal_runs_are_none() -> None:
    assert differences(RUNS, copy.deepcopy(RUNS)) == []
    assert differences(RUNS, json.loads(json.dumps(RUNS))) == []


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (
            changed(sft__step_0__loss=math.nextafter(0.1, 1.0)),
            ["sft, step 0, loss: 0.1 -> 0.10000000000000002"],
        ),
        (changed(sft__result__adapter_sha256="cd"), ['sft, result, adapter_sha256: "ab" -> "cd"']),
        (changed(sft__step_0__grad_norm=...), ["sft, step 0, grad_norm: 1.5 -> absent"]),
        (changed(sft__step_0__extra=None), ["sft, step 0, extra: absent -> null"]),
        (changed(grpo__step_0__classes=[1, 3]), ["grpo, step 0, classes: [1, 2] -> [1, 3]"]),
        (changed(grpo__step_0=...), ["grpo, step 0: present -> absent"]),
        (changed(grpo=...), ["grpo: present -> absent"]),
        (changed(new={}), ["new: absent -> present"]),
    ],
)
def test_differences_name_run_part_key_and_both_values(new: dict[str, Any], expected: list[str]) -> None:
    assert differences(RUNS, new) == expected


def test_run_differences_lists_every_difference() -> None:
    new = changed(sft__step_0__loss=0.3, sft__result__adapter_sha256="cd")["sft"]
    assert run_differences(RUNS["sft"], new) == [
        "step 0, loss: 0.1 -> 0.3",
        'result, adapter_sha256: "ab" -> "cd"',
    ]


def test_steps_and_flat_values_leave_out_the_clock() -> None:
    assert steps_of([{"step": 3, "loss": 0.5, "step_s": 1.0, "idle_learn": 0.1}]) == {
        "step 3": {"step": 3, "loss": 0.5}
    }
    assert flat({"a": {"b": [1, {"c": None}], "wall_s": 3}, "d": 2.5}) == {
        "a.b.0": 1,
        "a.b.1.c": None,
        "d": 2.5,
    }


def test_check_machine_of_another_cpu_is_refused_by_name(tmp_path: Path) -> None:
    here = {"cpu": "AMD EPYC, model 17", "torch": "2.13.0"}
    check_machine(tmp_path / "record.json", here, dict(here))
    with pytest.raises(ConfigError) as caught:
        check_machine(tmp_path / "record.json", {**here, "cpu": "Intel Xeon, model 143"}, here)
    message = str(caught.value)
    assert "'Intel Xeon, model 143'" in message and "'AMD EPYC, model 17'" in message
    assert "torch" not in message and "--update" in message


def test_main_with_a_record_of_another_machine_starts_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_record(path, {**this_machine(), "cpu": "another"}, RUNS)
    monkeypatch.setattr(golden, "_run", lambda selected: pytest.fail("a run started"))
    with pytest.raises(ConfigError, match="'another'"):
        golden.main(["--record", str(path)])
    with pytest.raises(ConfigError, match=r"none\.json"):
        golden.main(["--record", str(tmp_path / "none.json"), "--only", "sft"])
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"record\.json .*golden"):
        golden.main(["--record", str(path)])


def test_main_records_then_compares_then_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "golden" / "record.json"
    results: dict[str, Any] = {name: {"step 0": {"loss": 0.1}} for name in golden.NEEDS}
    work: list[Path] = []

    def ran(selected: tuple[str, ...]) -> tuple[dict[str, Any], Path]:
        work.append(tmp_path / f"work-{len(work)}")
        work[-1].mkdir()
        return {name: copy.deepcopy(results[name]) for name in selected}, work[-1]

    monkeypatch.setattr(golden, "_run", ran)
    call = ["--record", str(path)]
    assert golden.main(call) == 0
    assert golden.main(call) == 0
    assert "equal to" in capsys.readouterr().out and not work[-1].exists()

    results["grpo"]["step 0"]["loss"] = 0.2
    assert golden.main(call) == 1
    assert "grpo, step 0, loss: 0.1 -> 0.2" in capsys.readouterr().out and work[-1].exists()
    assert golden.main([*call, "--only", "evaluation"]) == 0, "only sft and evaluation are compared"
    assert golden.main([*call, "--only", "grpo", "--update"]) == 0
    assert golden.main(call) == 0
    record = read_record(path)
    assert record is not None and set(record["runs"]) == set(golden.NEEDS)
    write_record(path, record["machine"], {**record["runs"], "dropped": {}})
    assert golden.main(call) == 1
    assert "dropped: present -> absent" in capsys.readouterr().out
    write_record(path, record["machine"], record["runs"])

    results["resumed"]["step 0"]["loss"] = 0.3
    capsys.readouterr()
    assert golden.main([*call, "--update"]) == 1, "a broken resume is never recorded"
    assert "resumed, step 0, loss: 0.1 -> 0.3 (unbroken -> resumed)" in capsys.readouterr().out
    assert read_record(path) == record


def test_plan_shares_engines_between_runs(tmp_path: Path) -> None:
    from polyray.launch.sft import as_training

    plan = golden.Plan.of(tmp_path)
    supervised = as_training(plan.polychromic_sft)
    assert supervised is not None
    for other in (plan.polychromic, plan.resumed, supervised):
        assert (other.rollout, other.task, other.reward) == (
            plan.grpo.rollout,
            plan.grpo.task,
            plan.grpo.reward,
        )
    assert plan.grpo.rollout.max_staleness == 0
    assert plan.polychromic.model_copy(update={"name": "resumed"}) == plan.resumed
    assert golden.KILL_AFTER_STEPS % golden.CHECKPOINT_EVERY != 0
    assert golden.CHECKPOINT_EVERY < golden.KILL_AFTER_STEPS < golden.STEPS
