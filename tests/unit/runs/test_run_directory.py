"""Creating, resuming, refusing and locking runs/<name>/."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.config.base import as_json
from polyray.config.learner import LearnerSpec
from polyray.config.loader import build_config
from polyray.config.paths import relative_to
from polyray.config.periodic_eval import TrainingEvaluationSpec
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.reward import VerifierRewardSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import PretrainConfig, RunBase, SftConfig, TrainConfig
from polyray.errors import ConfigError
from polyray.runs.run_directory import RESUMABLE_KEYS, RunDirectory, RunPaths, config_difference

ROOT = Path(__file__).resolve().parents[3]

HOLDER = """
import sys, time
from polyray.config.run import TrainConfig
from polyray.runs.run_directory import RunDirectory
run = RunDirectory.open(TrainConfig(name="a", runs_dir=sys.argv[1]))
print("held", flush=True)
time.sleep(120)
"""


def train_config(runs: Path, **values: object) -> TrainConfig:
    return build_config(TrainConfig, {"name": "a", "runs_dir": str(runs), **values})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_new_run_holds_its_resolved_configuration(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path, seed=3)) as run:
        assert run.paths.root == tmp_path / "a"
        saved = json.loads(run.paths.config.read_text())
        assert saved["seed"] == 3
        assert saved["rollout"]["group_size"] == 16
        assert not run.finished
        assert run.paths.lock.read_text() == str(os.getpid())


def test_the_same_configuration_resumes(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path)) as run:
        run.paths.metrics.write_text('{"step": 0}\n')
    with RunDirectory.open(train_config(tmp_path)) as run:
        assert run.paths.metrics.read_text() == '{"step": 0}\n'


OWN_FILES = {
    "task": {"type": "jsonl", "path": "prompts.jsonl"},
    "reward": {
        "type": "composite",
        "parts": [{"name": "mine", "weight": 1.0, "reward": {"type": "python", "path": "mine.py:score"}}],
    },
    "model": {"warm_start": "runs/sft/adapter"},
}


def test_the_same_relative_paths_resume_from_another_directory(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with relative_to(str(tmp_path / "first")), RunDirectory.open(train_config(runs, **OWN_FILES)) as run:
        run.paths.metrics.write_text('{"step": 0}\n')
        saved = json.loads(run.paths.config.read_text())
    assert saved["base_dir"] == str(tmp_path / "first")
    assert saved["task"]["path"] == str(tmp_path / "first/prompts.jsonl")
    with relative_to(str(tmp_path / "second")), RunDirectory.open(train_config(runs, **OWN_FILES)) as run:
        saved = json.loads(run.paths.config.read_text())
    assert saved["task"]["path"] == str(tmp_path / "second/prompts.jsonl")
    other = OWN_FILES | {"task": {"type": "jsonl", "path": "other.jsonl"}}
    with relative_to(str(tmp_path / "second")), pytest.raises(ConfigError) as refused:
        RunDirectory.open(train_config(runs, **other))
    assert f"task.path: {tmp_path}/second/prompts.jsonl -> {tmp_path}/second/other.jsonl" in str(
        refused.value
    )
    assert "warm_start" not in str(refused.value)


def test_a_path_outside_of_both_directories_must_stay(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    elsewhere = {"task": {"type": "jsonl", "path": "../prompts.jsonl"}}
    with relative_to(str(tmp_path / "a/first")), RunDirectory.open(train_config(runs, **elsewhere)) as run:
        run.paths.metrics.write_text('{"step": 0}\n')
    with relative_to(str(tmp_path / "a/second")):
        RunDirectory.open(train_config(runs, **elsewhere)).close()  # the same file
    with relative_to(str(tmp_path / "b/first")), pytest.raises(ConfigError, match=r"task\.path"):
        RunDirectory.open(train_config(runs, **elsewhere))


def test_a_run_that_kept_its_paths_as_they_were_written_resumes(tmp_path: Path) -> None:
    with relative_to(str(tmp_path)), RunDirectory.open(train_config(tmp_path / "runs", **OWN_FILES)) as run:
        run.paths.metrics.write_text('{"step": 0}\n')
        values = json.loads(run.paths.config.read_text())
    del values["base_dir"]
    values["runs_dir"], values["model"]["cache_dir"] = "runs", "~/.cache/polyray"
    values["task"]["path"], values["model"]["warm_start"] = "./prompts.jsonl", "runs/sft/adapter"
    values["reward"]["parts"][0]["reward"]["path"] = "mine.py:score"
    run.paths.config.write_text(json.dumps(values))
    with relative_to(str(tmp_path)):
        RunDirectory.open(train_config(tmp_path / "runs", **OWN_FILES)).close()


def test_length_logging_and_resources_may_change(tmp_path: Path) -> None:
    RunDirectory.open(train_config(tmp_path, learner={"steps": 10})).close()
    changed = train_config(
        tmp_path,
        learner={"steps": 20, "checkpoint_every": 5},
        ray={"num_cpus": 64},
        rollout={"num_workers": 4},
        reward={"type": "verifier", "service": {"port": 9000}},
        rollouts_logged_per_step=3,
    )
    with RunDirectory.open(changed) as run:
        saved = json.loads(run.paths.config.read_text())
    assert (saved["learner"]["steps"], saved["ray"]["num_cpus"], saved["rollout"]["num_workers"]) == (
        20,
        64,
        4,
    )


LIMITS: dict[str, object] = {
    "learner.micro_batch_rows": 3,
    "learner.micro_batch_tokens": 512,
    "learner.gradient_checkpointing": True,
    "learner.gradient_parts_every": 5,
    "learner.num_threads": 1,
    "learner.max_failures": 0,
    "learner.max_checkpoint_failures": 7,
    "rollout.max_sequences": 8,
    "rollout.max_batched_tokens": 512,
    "rollout.max_prompt_tokens": 64,
    "rollout.kv_cache_mib": 256,
    "rollout.gpu_memory_utilization": 0.5,
    "rollout.threads_per_worker": 2,
    "rollout.dispatch": "tokens",
    "rollout.share": 2.0,
    "rollout.start_timeout_s": 900.0,
    "rollout.group_timeout_s": 900.0,
    "rollout.max_worker_replacements": 1,
    "delivery.num_probes": 2,
    "delivery.timeout_s": 300.0,
    "reward.service.request_timeout_s": 300.0,
    "reward.service.max_unscored_share": 0.5,
}


@pytest.mark.parametrize(("key", "value"), LIMITS.items())
def test_begun_run_resumes_with_another_limit_that_changes_no_update(
    key: str, value: object, tmp_path: Path
) -> None:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    before = as_json(train_config(tmp_path))
    begun(train_config(tmp_path))
    with RunDirectory.open(train_config(tmp_path, **nested)) as run:
        after = json.loads(run.paths.config.read_text())
    assert {name: new for name, (_, new) in config_difference(before, after).items()} == {key: value}
    with pytest.raises(ConfigError, match="seed: 0 -> 7"):
        RunDirectory.open(train_config(tmp_path, seed=7, **nested))


@pytest.mark.parametrize(
    "key", ["rollout.group_size", "rollout.max_completion_tokens", "rollout.temperature"]
)
def test_begun_run_refuses_another_sampling(key: str, tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    with pytest.raises(ConfigError, match=rf"{key}: .* -> 4"):
        RunDirectory.open(train_config(tmp_path, rollout={key.partition(".")[2]: 4}))


def begun(config: RunBase) -> None:
    """A run that has written its first step."""
    with RunDirectory.open(config) as run:
        run.paths.metrics.write_text('{"step": 0}\n')


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    before = contents(tmp_path / "a")
    changed = train_config(tmp_path, seed=7, learner={"learning_rate": 0.5, "steps": 9})
    with pytest.raises(ConfigError) as caught:
        RunDirectory.open(changed)
    message = str(caught.value)
    assert "\n  seed: 0 -> 7" in message
    assert "\n  learner.learning_rate: 0.001 -> 0.5" in message
    assert "learner.steps" not in message
    assert f"delete {tmp_path / 'a'}" in message
    assert contents(tmp_path / "a") == before
    RunDirectory.open(train_config(tmp_path)).close()


def test_a_run_without_a_first_step_takes_another_configuration(tmp_path: Path) -> None:
    RunDirectory.open(train_config(tmp_path)).close()
    with RunDirectory.open(train_config(tmp_path, seed=7)) as run:
        assert json.loads(run.paths.config.read_text())["seed"] == 7


def test_another_kind_of_configuration_is_refused(tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    with pytest.raises(ConfigError, match=r"demonstrations_per_step: \(absent\) -> 64"):
        RunDirectory.open(SftConfig(name="a", runs_dir=str(tmp_path)))


def test_callers_may_name_their_own_keys(tmp_path: Path) -> None:
    begun(PretrainConfig(name="a", runs_dir=str(tmp_path), steps=5))
    longer = PretrainConfig(name="a", runs_dir=str(tmp_path), steps=6)
    with pytest.raises(ConfigError, match="steps: 5 -> 6"):
        RunDirectory.open(longer)
    RunDirectory.open(longer, resumable_keys=("steps",)).close()


def test_prices_may_change_for_every_caller(tmp_path: Path) -> None:
    begun(PretrainConfig(name="a", runs_dir=str(tmp_path)))
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    del saved["prices"]  # a run of before there were prices
    (tmp_path / "a" / "config.json").write_text(json.dumps(saved))
    for prices in (None, {"core_hour": 0.02}, {"currency": "EUR", "gpu_hour": 2.0}, None):
        config = build_config(PretrainConfig, {"name": "a", "runs_dir": str(tmp_path), "prices": prices})
        RunDirectory.open(config, resumable_keys=()).close()
        saved = json.loads((tmp_path / "a" / "config.json").read_text())["prices"]
        assert (saved or {}).get("gpu_hour") == (prices or {}).get("gpu_hour")


def test_how_logs_look_may_change_and_may_be_new(tmp_path: Path) -> None:
    begun(PretrainConfig(name="a", runs_dir=str(tmp_path)))
    file = tmp_path / "a" / "config.json"
    saved = json.loads(file.read_text())
    del saved["logging"]  # a run of before there was a choice
    file.write_text(json.dumps(saved))
    config = PretrainConfig(name="a", runs_dir=str(tmp_path), logging="json")
    RunDirectory.open(config, resumable_keys=()).close()
    assert json.loads(file.read_text())["logging"] == "json"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"config\.json"):
        RunDirectory.open(train_config(tmp_path))
    assert contents(tmp_path / "a") == {"thesis.tex": b"years of work"}


def test_a_start_that_was_killed_before_config_json_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").write_text("1")
    with RunDirectory.open(train_config(tmp_path)) as run:
        assert run.paths.config.is_file()


def test_done_lasts_until_the_run_gets_longer(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path)) as run:
        run.mark_done({"steps": 60})
        assert run.finished
        assert run.summary() == {"steps": 60}
    with RunDirectory.open(train_config(tmp_path, ray={"num_cpus": 2})) as run:
        assert run.finished
    with RunDirectory.open(train_config(tmp_path, learner={"steps": 61})) as run:
        assert not run.finished


def test_two_drivers_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with (
        RunDirectory.open(train_config(tmp_path)),
        pytest.raises(ConfigError, match=rf"process {os.getpid()}\b"),
    ):
        RunDirectory.open(train_config(tmp_path))
    RunDirectory.open(train_config(tmp_path)).close()


def test_a_killed_driver_releases_its_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"process {holder.pid}\b"):
            RunDirectory.open(train_config(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunDirectory.open(train_config(tmp_path)).close()


def test_run_directory_in_the_copy_of_a_submitted_job_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1f3a"
    with pytest.raises(ConfigError, match=r"Ray removes after the job; give a directory .* runs_dir=/mnt"):
        RunDirectory.open(train_config(copy))
    assert not copy.exists()


def test_paths_pickle(tmp_path: Path) -> None:
    paths = pickle.loads(pickle.dumps(RunPaths(tmp_path)))
    assert paths.checkpoints == tmp_path / "checkpoints"
    assert paths.cost == tmp_path / "cost.json"
    assert paths.train_storage == tmp_path / ".train"
    assert not paths.checkpoints.exists()


def test_every_resumable_key_exists_in_some_configuration() -> None:
    elsewhere = TrainConfig(
        name="a",
        reward=HttpRewardSpec(url="http://h"),
        second_opinion=VerifierRewardSpec(),
        evaluation=TrainingEvaluationSpec(),
    )
    placed = TrainConfig(
        name="a",
        rollout=RolloutSpec(node_labels={"zone": "a"}),
        learner=LearnerSpec(node_labels={"zone": "b"}),
    )
    configs = (elsewhere, placed, TrainConfig(name="a"), SftConfig(name="a"), PretrainConfig())
    known = {key for config in configs for key in config_difference({}, config.model_dump(mode="json"))}
    unknown = [
        key
        for key in RESUMABLE_KEYS
        if not any(name.startswith(key[:-1]) if key.endswith(".*") else name == key for name in known)
    ]
    assert unknown == []


def test_difference_is_by_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": None}
    new = {"a": {"b": 1, "c": [1, 3]}, "d": {"x": 1}, "e": None}
    assert config_difference(old, new) == {
        "a.c": ([1, 2], [1, 3]),
        "d": ({}, "(absent)"),
        "d.x": ("(absent)", 1),
    }


def test_a_directory_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"runs_dir=.*file/a .*\(Not a directory\)"):
        RunDirectory.open(train_config(tmp_path / "file"))

    def refused(self: Path, *rest: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ConfigError, match=r"theirs/a .*\(Permission denied\)") as caught:
        RunDirectory.open(train_config(tmp_path / "theirs"))
    assert caught.value.exit_code == 2


def sft_config(tmp_path: Path, **learner: object) -> SftConfig:
    data = {"type": "jsonl", "train": str(tmp_path / "a.jsonl"), "validation": str(tmp_path / "b.jsonl")}
    return build_config(
        SftConfig, {"name": "a", "runs_dir": str(tmp_path / "runs"), "data": data, "learner": learner}
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_data_file_hashes_are_recorded_at_each_start(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    expected = {"data.train": [sha256("a.jsonl")], "data.validation": [sha256("b.jsonl")]}
    for _ in range(2):
        with RunDirectory.open(sft_config(tmp_path)) as run:
            assert json.loads(run.paths.data.read_text()) == expected
            run.paths.metrics.write_text('{"step": 0}\n')
    (tmp_path / "b.jsonl").write_text("another")
    with RunDirectory.open(sft_config(tmp_path)) as run:
        assert json.loads(run.paths.data.read_text())["data.validation"] == [
            sha256("b.jsonl"),
            sha256("another"),
        ]
        run.mark_done({})
    (tmp_path / "a.jsonl").write_text("of no concern to a finished run")
    with RunDirectory.open(sft_config(tmp_path)) as run:
        assert json.loads(run.paths.data.read_text())["data.train"] == [sha256("a.jsonl")]


def test_missing_start_record_is_not_guessed_later(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("a")
    with RunDirectory.open(sft_config(tmp_path)) as run:
        run.paths.data.unlink()
        run.paths.metrics.write_text('{"step": 0}\n')
    with RunDirectory.open(sft_config(tmp_path)) as run:
        assert not run.paths.data.exists()


def test_a_run_without_data_files_records_none(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path)) as run:
        assert not run.paths.data.exists()
