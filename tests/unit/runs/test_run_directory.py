"""Creating, resuming, refusing and locking runs/<name>/."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.config.learner import LearnerSpec
from polyray.config.loader import build_config
from polyray.config.paths import relative_to
from polyray.config.periodic_eval import TrainingEvaluationSpec
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.reward import VerifierRewardSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import PretrainConfig, RunBase, SftConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from polyray.runs.data_record import put_before, recorded_data
from polyray.runs.run_directory import RESUMABLE_KEYS, RunDirectory, config_difference

ROOT = Path(__file__).resolve().parents[3]

HOLDER = """
import sys, time
from polyray.config.run import TrainConfig
from polyray.runs.data_record import put_before, recorded_data
from polyray.runs.run_directory import RunDirectory
run = RunDirectory.open(TrainConfig(name="a", runs_dir=sys.argv[1]))
print("held", flush=True)
time.sleep(120)
"""


def train_config(runs: Path, **values: object) -> TrainConfig:
    return build_config(TrainConfig, {"name": "a", "runs_dir": str(runs), **values})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def begun(config: RunBase) -> None:
    """Make a run that has written its first step."""
    with RunDirectory.open(config) as run:
        run.paths.metrics.write_text('{"step": 0}\n')


def saved(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def test_new_run_holds_its_resolved_configuration_and_resumes(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path, seed=3)) as run:
        assert run.paths.root == tmp_path / "a"
        assert (saved(tmp_path / "a")["seed"], saved(tmp_path / "a")["rollout"]["group_size"]) == (3, 16)
        assert not run.finished
        assert run.paths.lock.read_text() == str(os.getpid())
        run.paths.metrics.write_text('{"step": 0}\n')
        assert not run.paths.data.exists(), "the run names no data file"
    with RunDirectory.open(train_config(tmp_path, seed=3)) as run:
        assert run.paths.metrics.read_text() == '{"step": 0}\n'


OWN_FILES = {
    "task": {"type": "jsonl", "path": "prompts.jsonl"},
    "reward": {
        "type": "composite",
        "parts": [{"name": "mine", "weight": 1.0, "reward": {"type": "python", "path": "mine.py:score"}}],
    },
    "model": {"warm_start": "runs/sft/adapter"},
}


def test_run_resumes_with_the_same_relative_paths_from_another_directory(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    other = OWN_FILES | {"task": {"type": "jsonl", "path": "other.jsonl"}}
    with relative_to(str(tmp_path / "first")):
        begun(train_config(runs, **OWN_FILES))
    assert saved(runs / "a")["base_dir"] == str(tmp_path / "first")
    assert saved(runs / "a")["task"]["path"] == str(tmp_path / "first/prompts.jsonl")
    with relative_to(str(tmp_path / "second")):
        RunDirectory.open(train_config(runs, **OWN_FILES)).close()
        assert saved(runs / "a")["task"]["path"] == str(tmp_path / "second/prompts.jsonl")
        with pytest.raises(ConfigError) as refused:
            RunDirectory.open(train_config(runs, **other))
    changed = f"task.path: {tmp_path}/second/prompts.jsonl -> {tmp_path}/second/other.jsonl"
    assert changed in str(refused.value) and "warm_start" not in str(refused.value)


def test_run_refuses_a_relative_path_that_leads_to_another_file(tmp_path: Path) -> None:
    elsewhere = {"task": {"type": "jsonl", "path": "../prompts.jsonl"}}
    with relative_to(str(tmp_path / "a/first")):
        begun(train_config(tmp_path / "runs", **elsewhere))
    with relative_to(str(tmp_path / "a/second")):
        RunDirectory.open(train_config(tmp_path / "runs", **elsewhere)).close()  # the same file
    with relative_to(str(tmp_path / "b/first")), pytest.raises(ConfigError, match=r"task\.path"):
        RunDirectory.open(train_config(tmp_path / "runs", **elsewhere))


def test_run_whose_saved_paths_are_relative_resumes(tmp_path: Path) -> None:
    with relative_to(str(tmp_path)):
        begun(train_config(tmp_path / "runs", **OWN_FILES))
        values = saved(tmp_path / "runs/a")
        del values["base_dir"]
        values["runs_dir"], values["model"]["cache_dir"] = "runs", "~/.cache/polyray"
        values["task"]["path"], values["model"]["warm_start"] = "./prompts.jsonl", "runs/sft/adapter"
        values["reward"]["parts"][0]["reward"]["path"] = "mine.py:score"
        (tmp_path / "runs/a/config.json").write_text(json.dumps(values))
        RunDirectory.open(train_config(tmp_path / "runs", **OWN_FILES)).close()


RESUMABLE: dict[str, object] = {
    "learner.steps": 120,
    "learner.checkpoint_every": 5,
    "ray.num_cpus": 64,
    "rollout.num_workers": 4,
    "reward.service.port": 9000,
    "rollouts_logged_per_step": 3,
    "logging": "json",
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
    "delivery.num_probes": 3,
    "delivery.timeout_s": 300.0,
    "reward.service.request_timeout_s": 300.0,
    "reward.service.max_unscored_share": 0.5,
}


def nested(values: dict[str, object]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return found


def test_begun_run_resumes_with_other_values_that_change_no_update(tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    before = saved(tmp_path / "a")
    RunDirectory.open(train_config(tmp_path, **nested(RESUMABLE))).close()
    changes = config_difference(before, saved(tmp_path / "a"))
    assert {key: new for key, (_, new) in changes.items()} == RESUMABLE


@pytest.mark.parametrize(
    "key", ["rollout.group_size", "rollout.max_completion_tokens", "rollout.temperature", "seed"]
)
def test_begun_run_refuses_another_sampling_or_seed(key: str, tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    with pytest.raises(ConfigError, match=rf"{key}: .* -> 4"):
        RunDirectory.open(train_config(tmp_path, **nested({**RESUMABLE, key: 4})))


def test_refused_configuration_names_every_change_and_touches_no_file(tmp_path: Path) -> None:
    begun(train_config(tmp_path))
    before = contents(tmp_path / "a")
    changed = train_config(tmp_path, seed=7, learner={"learning_rate": 0.5, "steps": 9})
    with pytest.raises(ConfigError) as caught:
        RunDirectory.open(changed)
    message = str(caught.value)
    assert "\n  seed: 0 -> 7" in message and "\n  learner.learning_rate: 0.001 -> 0.5" in message
    assert "learner.steps" not in message and f"delete {tmp_path / 'a'}" in message
    assert contents(tmp_path / "a") == before
    with pytest.raises(ConfigError, match=r"demonstrations_per_step: \(absent\) -> 64"):
        RunDirectory.open(SftConfig(name="a", runs_dir=str(tmp_path)))


def test_run_before_its_first_step_takes_another_configuration(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").write_text("1")  # of a start that was killed before it wrote config.json
    RunDirectory.open(train_config(tmp_path)).close()
    RunDirectory.open(train_config(tmp_path, seed=7)).close()
    assert saved(tmp_path / "a")["seed"] == 7


def test_sweep_whose_trials_began_refuses_other_trials(tmp_path: Path) -> None:
    values = {"name": "a", "runs_dir": str(tmp_path), "train": "t.yaml", "arms": {"x": []}, "baseline": None}
    config = build_config(SweepConfig, {**values, "seeds": [0, 1]})
    RunDirectory.open(config).close()
    (tmp_path / "a" / "tune").mkdir()
    with pytest.raises(ConfigError, match="seeds"):
        RunDirectory.open(config.model_copy(update={"seeds": (0, 1, 2)}))
    RunDirectory.open(config.model_copy(update={"max_concurrent_trials": 1, "max_failures": 5})).close()


def test_callers_may_name_their_own_resumable_keys(tmp_path: Path) -> None:
    begun(PretrainConfig(name="a", runs_dir=str(tmp_path), steps=5))
    longer = PretrainConfig(name="a", runs_dir=str(tmp_path), steps=6)
    with pytest.raises(ConfigError, match="steps: 5 -> 6"):
        RunDirectory.open(longer)
    RunDirectory.open(longer, resumable_keys=("steps",)).close()


def test_prices_and_logging_may_change_and_may_be_new_for_every_caller(tmp_path: Path) -> None:
    begun(PretrainConfig(name="a", runs_dir=str(tmp_path)))
    values = saved(tmp_path / "a")
    del values["prices"], values["logging"]  # a run of before they existed
    (tmp_path / "a" / "config.json").write_text(json.dumps(values))
    for prices in (None, {"core_hour": 0.02}, {"currency": "EUR", "gpu_hour": 2.0}, None):
        asked = {"name": "a", "runs_dir": str(tmp_path), "prices": prices, "logging": "json"}
        RunDirectory.open(build_config(PretrainConfig, asked), resumable_keys=()).close()
        after = saved(tmp_path / "a")
        assert (after["prices"] or {}).get("gpu_hour") == (prices or {}).get("gpu_hour")
        assert after["logging"] == "json"


def test_directory_that_is_no_run_or_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"config\.json"):
        RunDirectory.open(train_config(tmp_path))
    assert contents(tmp_path / "a") == {"thesis.tex": b"years of work"}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"runs_dir=.*file/a .*\(Not a directory\)"):
        RunDirectory.open(train_config(tmp_path / "file"))
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1f3a"
    with pytest.raises(ConfigError, match=r"Ray removes after the job; .* runs_dir=/mnt"):
        RunDirectory.open(train_config(copy))
    assert not copy.exists()

    def refused(self: Path, *rest: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ConfigError, match=r"theirs/a .*\(Permission denied\)"):
        RunDirectory.open(train_config(tmp_path / "theirs"))


def test_finished_run_stays_finished_until_it_gets_longer(tmp_path: Path) -> None:
    with RunDirectory.open(train_config(tmp_path)) as run:
        run.mark_done({"steps": 60})
        assert run.finished
        assert run.summary() == {"steps": 60}
    with RunDirectory.open(train_config(tmp_path, ray={"num_cpus": 2})) as run:
        assert run.finished
    with RunDirectory.open(train_config(tmp_path, learner={"steps": 61})) as run:
        assert not run.finished


def test_lock_excludes_other_drivers_until_its_driver_ends_or_is_killed(tmp_path: Path) -> None:
    with (
        RunDirectory.open(train_config(tmp_path)),
        pytest.raises(ConfigError, match=rf"process {os.getpid()}\b"),
    ):
        RunDirectory.open(train_config(tmp_path))
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"process {holder.pid}\b"):
            RunDirectory.open(train_config(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunDirectory.open(train_config(tmp_path)).close()


def test_every_resumable_key_exists_in_some_configuration() -> None:
    configs = (
        TrainConfig(
            name="a",
            reward=HttpRewardSpec(url="http://h"),
            second_opinion=VerifierRewardSpec(),
            evaluation=TrainingEvaluationSpec(),
            rollout=RolloutSpec(node_labels={"zone": "a"}),
            learner=LearnerSpec(node_labels={"zone": "b"}),
        ),
        TrainConfig(name="a"),
        SftConfig(name="a"),
        PretrainConfig(),
    )
    known = {key for config in configs for key in config_difference({}, config.model_dump(mode="json"))}
    known |= set(SweepConfig.model_fields)
    unknown = [
        key
        for key in RESUMABLE_KEYS
        if not any(name.startswith(key[:-1]) if key.endswith(".*") else name == key for name in known)
    ]
    assert unknown == []


def test_config_difference_is_by_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": None}
    new = {"a": {"b": 1, "c": [1, 3]}, "d": {"x": 1}, "e": None}
    assert config_difference(old, new) == {
        "a.c": ([1, 2], [1, 3]),
        "d": ({}, "(absent)"),
        "d.x": ("(absent)", 1),
    }


def sft_config(tmp_path: Path) -> SftConfig:
    data = {"type": "jsonl", "train": str(tmp_path / "a.jsonl"), "validation": str(tmp_path / "b.jsonl")}
    return build_config(SftConfig, {"name": "a", "runs_dir": str(tmp_path / "runs"), "data": data})


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_hashes_of_data_files_are_recorded_at_each_start_after_a_step(tmp_path: Path) -> None:
    record = tmp_path / "runs" / "a" / "data.json"
    expected: list[str] = []
    (tmp_path / "a.jsonl").write_text("a.jsonl")
    # The start without a step certifies nothing, so "malformed" is forgotten.
    for text, logged in (("malformed", ""), ("b", '{"step": 0}\n'), ("b", ""), ("c", '{"step": 1}\n')):
        (tmp_path / "b.jsonl").write_text(text)
        with RunDirectory.open(sft_config(tmp_path)) as run, run.paths.metrics.open("a") as metrics:
            metrics.write(logged)
        expected = ["b"] if text == "b" else [*expected, text]
        hashes = [sha256(each) for each in expected]
        assert recorded_data(record) == {"data.train": [sha256("a.jsonl")], "data.validation": hashes}
    with RunDirectory.open(sft_config(tmp_path)) as run:
        run.mark_done({})
    (tmp_path / "a.jsonl").write_text("of no concern to a finished run")
    RunDirectory.open(sft_config(tmp_path)).close()
    assert recorded_data(record)["data.train"] == [sha256("a.jsonl")]
    (tmp_path / "runs" / "a" / "DONE").unlink()
    record.unlink()
    RunDirectory.open(sft_config(tmp_path)).close()
    assert not record.exists(), "a missing record of the first start is not guessed later"


@pytest.mark.parametrize(
    ("earlier", "here", "merged"),
    [("a", "a", "a"), ("ab", "ab", "ab"), ("ab", "a", "ab"), ("a", "ab", "ab"),
     ("a", "b", "ab"), ("ab", "bc", "abc"), ("", "a", "a")],
)  # fmt: skip
def test_put_before_continues_a_record_that_shares_its_begin(
    earlier: str, here: str, merged: str, tmp_path: Path
) -> None:
    record = tmp_path / "data.json"
    record.write_text(json.dumps({"data.train": list(here)}))
    for _ in range(2):
        put_before(record, {"data.train": list(earlier)})
    assert recorded_data(record) == {"data.train": list(merged)}
