"""What jobs.submit sends and refuses, and what it makes of a cluster's answers."""

from __future__ import annotations

import json
import shlex
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
import ray
from ray._private.runtime_env.packaging import create_package

from polyray.cli.submit import main
from polyray.errors import ConfigError, MissingFile, ResourceError
from polyray.submission import client as submit_client
from polyray.submission import paths as submit_paths
from polyray.submission.client import Cluster
from polyray.submission.job import ARGUMENTS_KEY, EXCLUDED, Submission
from tests.unit.jobs.submit_head import ADDRESS, Head

CONFIG = "configs/train/hidden_trap_grid.yaml"
EVALUATE = ["evaluate", "configs/evaluate/math.yaml", "adapters={base: null}", "compare_to=base"]
SHARED = ("runs_dir=/shared/runs", "model.warm_start=/shared/runs/sft/adapter")
ROOT = Path(__file__).resolve().parents[3]


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["--check", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_would_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(capsys, "train", CONFIG, "name=first", *SHARED, "--env", "A=b c", "--cpus", "2")
    assert found["entrypoint"] == f"python -m polyray.cli train {CONFIG} name=first {' '.join(SHARED)}"
    assert found["submission_id"].startswith("polyray-train-first-")
    assert found["runtime_env"]["env_vars"] == {
        "RAY_JOB_STOP_WAIT_TIME_S": "300", "POLYRAY_JOB_CPUS": "2", "A": "b c",
    }  # fmt: skip
    assert found["runtime_env"]["excludes"] == list(EXCLUDED)
    assert found["entrypoint_num_cpus"] == 2.0
    assert json.loads(found["metadata"][ARGUMENTS_KEY]) == [CONFIG, "name=first", *SHARED]


def test_options_behind_two_dashes_are_the_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(capsys, "doctor", "--address", ADDRESS, "--", "--fast")
    assert found["entrypoint"] == "python -m polyray.cli doctor --fast"


def test_the_line_by_hand_sends_the_same() -> None:
    submission = Submission.of("train", "x", [CONFIG, "name=a b"], {"A": "1"}, cpus=1.5, memory_gb=2.0)
    variable, *words = shlex.split(submission.by_hand(ADDRESS))
    assert variable == f"RAY_API_SERVER_ADDRESS={ADDRESS}"  # Ray's command prefers it to --address
    at = words.index("--")
    assert shlex.join(words[at + 1 :]) == submission.entrypoint
    options = dict(zip(words[3:at:2], words[4:at:2], strict=True))
    assert words[:3] == ["ray", "job", "submit"]
    assert json.loads(options["--runtime-env-json"])["env_vars"]["A"] == "1"
    assert json.loads(options["--metadata-json"]) == submission.metadata
    assert (options["--entrypoint-num-cpus"], options["--entrypoint-memory"]) == ("1.5", str(2 * 2**30))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "JOB is missing"),
        (["trian", CONFIG], "unknown job 'trian'"),
        (["train", CONFIG, "learner.stepz=3"], "did you mean 'learner.steps'"),
        (["train", CONFIG, "--env", "A"], "--env 'A' has no value"),
        (["train", CONFIG, "--env", "HF_TOKEN=abc"], "--env HF_TOKEN=... would be shown on the dashboard"),
        (["--stop", "a", "train"], "--stop stands alone"),
        (["--status", "a", "--logs", "b"], "--status stands alone"),
        (["--stop", "a", "--check"], "--check: no effect beside --stop; leave it out"),
        (["--logs", "a", "--no-wait", "--cpus", "2"], "--no-wait, --cpus: no effect beside --logs"),
        (["--list", "--memory-gb", "0"], "--memory-gb: no effect beside --list"),
        (["--status", "a", "--env", "A=1"], "--env: no effect beside --status"),
        (
            ["--resume", "a", "--env", "A=1", "--", "--yes"],
            "--env, options behind --: no effect beside --resume",
        ),
        (["train", CONFIG, *SHARED], "--address is missing"),
        (["train", CONFIG, *SHARED, "--address", "HEAD:8265"], "is no URL of a dashboard"),
    ],
)
def test_mistakes_cost_nothing(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=message):
        main(arguments)


EVALUATION = "configs/evaluate/hidden_trap_grid.yaml"
SWEEP = "configs/sweep/lambda_seed.yaml"
MATH = "configs/train/math.yaml"
WARM = [
    "runs_dir=/shared/runs",
    "task.train_path=/shared/x.jsonl",
    "model.warm_start=/shared/runs/sft/adapter",
]
NOT_SENT = "is not sent with a job; put it where all machines of the cluster see it and give that path, e.g."


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["train", CONFIG, "name=first"],
            [
                "runs_dir=runs is relative: the job runs in a copy of the repository, which Ray removes with all "
                "that was written there; add runs_dir=/shared/runs, a directory that all machines of the cluster see",
                f"model.warm_start=runs/sft/adapter: runs/ {NOT_SENT} /shared/runs/sft/adapter",
            ],
        ),
        (["train", CONFIG, *SHARED, "runs_dir=~/runs"], ["runs_dir=~/runs is relative: "]),
        (
            ["train", CONFIG, SHARED[0], "model.warm_start=./data/../runs/a"],
            [f"model.warm_start=./data/../runs/a: runs/ {NOT_SENT} /shared/runs/a"],
        ),
        (
            ["evaluate", EVALUATION, "runs_dir=/shared/runs"],
            [f"adapters.warm start.adapter=runs/sft/adapter: runs/ {NOT_SENT} /shared/runs/sft/adapter"],
        ),
        (["report", "runs/first"], [f"runs/first: runs/ {NOT_SENT} /shared/runs/first"]),
        (
            ["analyze", "lora", "/shared/runs/a", "--", "--out=data/x"],
            ["--out data/x is relative: ", f"--out=data/x: data/ {NOT_SENT} /shared/data/x"],
        ),
        (
            ["export", "/shared/runs/a", "--", "--adapter", "exported/a"],
            ["--adapter exported/a is relative: "],
        ),
        (["report", "/shared/runs/a", "--", "--out", "report.html"], ["--out report.html is relative: "]),
        (
            ["sweep", SWEEP, "runs_dir=/shared/runs"],
            [f"model.warm_start=runs/sft/adapter: runs/ {NOT_SENT} /shared/runs/sft/adapter"],
        ),
    ],
)
def test_paths_that_the_job_would_not_find_or_lose_are_refused(
    arguments: list[str], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as raised:
        main(["--check", *arguments])
    found = str(raised.value).split("\n  ")
    assert len(found) == len(lines)
    assert all(text.startswith(line) for text, line in zip(found, lines, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "configs/pretrain.yaml", "cache_dir=/shared/polyray"],  # writes to no run directory
        [
            "sft",
            "configs/sft/my_data.yaml",
            "runs_dir=/shared/runs",
        ],  # its data lie in configs/, which is sent
        [
            "sweep",
            SWEEP,
            "runs_dir=/shared/runs",
            "overrides=[algorithm.quality_weight=1, model.warm_start=/shared/runs/sft/adapter]",
        ],
        ["train", MATH, *WARM, "task.path=/shared/prompts.jsonl.gz"],
        ["train", MATH, *WARM, "task.path=~/.pytest_cache/prompts.parquet"],
        ["export", "/shared/runs/first", "s3://bucket/runs/first.parquet"],
        ["export", "/shared/runs/first", "--", "--adapter=/shared/first", "--merged", "s3://bucket/first"],
        ["export", "/shared/runs/first", "--", "--adapter", "first", "--push", "me/first"],
    ],
)
def test_what_is_there_or_is_no_path_is_sent(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word for word in arguments[1:] if word != "--"]
    assert checked(capsys, *arguments)["entrypoint"].endswith(shlex.join(words))


def test_a_secret_of_this_machine_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRAY_API_TOKEN", "planted-4711")
    monkeypatch.setenv("OTHER_API_KEY", "short")
    for arguments in (["name=planted-4711x"], ["--env", "A=planted-4711"], ["--", "--token", "planted-4711"]):
        with pytest.raises(ConfigError, match="the value of POLYRAY_API_TOKEN") as raised:
            main(["--check", "doctor", *arguments])
        assert "planted" not in str(raised.value)
    assert main(["--check", "doctor", "name=short"]) == 0


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["sft", "configs/sft/my_data.yaml"], "data.train"),
        (EVALUATE, "task.path"),
        (EVALUATE, "task.train_path"),
        (["train_reward", "configs/reward/my_pairs.yaml"], "data.path"),
        (["curate", "data", "configs/curate/upworthy.yaml"], "source.path"),
    ],
)
def test_files_of_the_cluster_need_not_be_here(
    capsys: pytest.CaptureFixture[str], arguments: list[str], key: str
) -> None:
    shared = ["name=far", "runs_dir=/shared/runs", f"{key}=/shared/none/x.jsonl"]
    assert main(["--check", *arguments, *shared]) == 0
    printed = capsys.readouterr()
    line = f"note: {key}=/shared/none/x.jsonl is not on this machine: the job will look for it on the cluster"
    assert line in printed.err.splitlines()
    found = json.loads(printed.out)
    assert found["submission_id"].startswith(f"polyray-{arguments[0]}-far-")
    assert found["entrypoint"].endswith(f"runs_dir=/shared/runs {key}=/shared/none/x.jsonl")
    with pytest.raises(ConfigError, match="did you mean 'name'"):
        main(["--check", *arguments, *shared, "nam=x"])
    with pytest.raises(MissingFile, match=r"/none/x\.jsonl: no such file"):  # it would be sent with the job
        main(["--check", *arguments, *shared, f"{key}=none/x.jsonl"])


def test_a_job_that_has_ended_is_sent_again_as_it_was() -> None:
    ended = Head(status="STOPPED")
    again = Cluster(ended, ADDRESS).again(ended.info.submission_id)
    assert (again.job, again.arguments, again.variables) == ("train", ("x.yaml", "a=1"), {"B": "2"})
    assert (
        again.submission_id.startswith("polyray-train-x-") and again.submission_id != ended.info.submission_id
    )
    assert (again.cpus, again.memory_gb) == (1.0, None)
    larger = Submission.of("train", "x", ["x.yaml"], {}, cpus=2.0, memory_gb=0.5)
    resumed = Cluster(Head(status="FAILED", metadata=larger.metadata), ADDRESS).again(
        ended.info.submission_id
    )
    assert (resumed.cpus, resumed.memory_gb) == (2.0, 0.5)
    other = Cluster(Head(status="FAILED", metadata=larger.metadata), ADDRESS)
    wanted = other.again(ended.info.submission_id, cpus=4.0)
    assert (wanted.cpus, wanted.memory_gb) == (4.0, 0.5)
    with pytest.raises(ConfigError, match="is RUNNING"):
        Cluster(Head(status="RUNNING"), ADDRESS).again(ended.info.submission_id)
    with pytest.raises(ConfigError, match=r"was not submitted by polyray submit"):
        Cluster(Head(status="FAILED", metadata={}), ADDRESS).again(ended.info.submission_id)


def test_resume_with_check_sends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Head(status="STOPPED")  # has no submit_job
    monkeypatch.setattr(Cluster, "open", lambda address, any_version: Cluster(ended, address))
    arguments = ["--resume", ended.info.submission_id, "--address", ADDRESS, "--memory-gb", "2", "--check"]
    assert main(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["entrypoint"] == "python -m polyray.cli train x.yaml a=1"
    assert (shown["entrypoint_num_cpus"], shown["entrypoint_memory_gb"]) == (1.0, 2.0)


def test_lines_are_those_of_our_jobs_and_say_why_one_failed() -> None:
    head = Head(status=SimpleNamespace(value="FAILED"), message="exit code 2, last available logs (x):\nmore")
    assert Cluster(head, ADDRESS).lines() == [
        "polyray-train-x-1f3a9c2e  FAILED  python -m polyray.cli train x.yaml  (exit code 2)"
    ]
    with pytest.raises(ConfigError, match="there is no job other at"):
        Cluster(head, ADDRESS).status("other")


def test_another_version_is_refused_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SimpleNamespace(_server_ray_version="2.9.0")
    monkeypatch.setattr(submit_client, "_client", lambda address: client)
    with pytest.raises(ConfigError, match=f"runs Ray 2.9.0 and this machine {ray.__version__}"):
        Cluster.open(ADDRESS)
    assert Cluster.open(ADDRESS + "/", any_version=True).address == ADDRESS


def test_no_module_is_left_out_and_nothing_of_this_machine_is_sent() -> None:
    """Ray reads the patterns as those of a .gitignore: with a slash in front they mean the root alone."""
    at_the_root = [pattern for pattern in EXCLUDED if pattern.startswith("/")]
    anywhere = [pattern for pattern in EXCLUDED if not pattern.startswith("/")]
    assert {"/.git", "/.venv", "/runs", "/data", "/shared"} <= set(at_the_root)
    parts = {part for path in ROOT.glob("polyray/**/*") for part in path.relative_to(ROOT).parts}
    assert "data" in parts  # the package, not the data
    assert [part for part in parts for pattern in anywhere if fnmatch(part, pattern)] in ([], ["__pycache__"])


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "prod.env", "tls.pem", "tls.key", "id_ed25519", ".netrc"]
)
def test_files_of_secrets_stay_here(tmp_path: Path, name: str) -> None:
    """As Ray packs: the excludes are those of a .gitignore."""
    (tmp_path / "jobs" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "jobs" / "deep"):
        (folder / name).write_text("planted")
        (folder / "environment.py").write_text("")
    package = tmp_path.parent / f"{tmp_path.name}.zip"
    create_package(str(tmp_path), package, include_gitignore=True, excludes=list(EXCLUDED))
    assert sorted(ZipFile(package).namelist()) == ["environment.py", "jobs/deep/environment.py"]


class Starting:
    """A head that takes jobs at the third time of asking, or never."""

    def __init__(self, refusals: int, message: str) -> None:
        self.asked, self._refusals, self._message = 0, refusals, message

    def submit_job(self, *, submission_id: str, **_: Any) -> str:
        self.asked += 1
        if self.asked <= self._refusals:
            raise RuntimeError(self._message)
        return submission_id


NO_AGENT = "Request failed with status code 500: No available agent to submit job, please try again later.."


def test_a_head_that_takes_no_jobs_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_client, "RETRY_S", 0.01)
    head = Starting(2, NO_AGENT)
    sent = Submission.of("train", "first", ["x.yaml"], {}, 1.0, None)
    assert Cluster(head, "http://head:8265").submit(sent) == sent.submission_id and head.asked == 3


@pytest.mark.parametrize(("refusals", "message", "asked"), [(9, "disk full", 1), (10**6, NO_AGENT, 2)])
def test_another_error_or_one_that_stays_is_told(
    monkeypatch: pytest.MonkeyPatch, refusals: int, message: str, asked: int
) -> None:
    monkeypatch.setattr(submit_client, "RETRY_S", 0.05)
    monkeypatch.setattr(submit_client, "AGENT_WAIT_S", 0.04)
    head = Starting(refusals, message)
    with pytest.raises(ResourceError, match=f"answers with an error: .*{message[-12:]}"):
        Cluster(head, "http://head:8265").submit(Submission.of("train", "a", [], {}, 1.0, None))
    assert head.asked == asked


def test_submission_of_an_installed_wheel_sends_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("steps: 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"own\.yaml is relative to"):
        main(["--check", "pretrain", "own.yaml"])
    monkeypatch.setattr(submit_paths, "REPOSITORY_ROOT", None)
    found = checked(capsys, "pretrain", "own.yaml")
    assert found["runtime_env"]["working_dir"] == str(tmp_path)
    assert found["entrypoint"] == "python -m polyray.cli pretrain own.yaml"
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=f"all of {tmp_path} would be sent"):
        main(["--check", "pretrain", "own.yaml"])
