"""What jobs.submit sends to a cluster, and what it refuses to send (not a job itself)."""

from __future__ import annotations

import io
import json
import os
import posixpath
import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jobs.cli import REPOSITORY_ROOT
from polyray.config.bundles import JOB_CPUS
from polyray.errors import ConfigError, MissingFile

EXCLUDED = (
    "/.git", "/.venv", "/runs", "/data", "/shared", "/tests", "/docs", "/.ci", "*.egg-info", "__pycache__",
    ".*_cache", ".hypothesis", "*.safetensors", "*.gguf", "*.parquet", "*.jsonl.gz",
    ".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*", ".netrc",
    ".git-credentials", "auth_token",
)  # fmt: skip
"""As in a .gitignore, whose own entries Ray leaves out by itself. The last two lines: where secrets usually are."""
WITHOUT_RUN = ("pretrain",)
"""Jobs whose files have a `runs_dir` that they do not write to."""
PREFIX = "polyray"
JOB_KEY, ARGUMENTS_KEY, VARIABLES_KEY = "polyray_job", "polyray_arguments", "polyray_variables"
OWN_KEY = "polyray_own_resources"
SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?)$", re.IGNORECASE)
LEAST_SECRET = 8
"""Shorter values of such variables are no secrets (RAY_AUTH_MODE=token has one, too)."""
STOP_WAIT_S = 300
"""How long a job that is stopped may take to write its checkpoint, before Ray kills it (its default is 3 s)."""


def refuse_secrets(
    arguments: Sequence[str], variables: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """ConfigError where a secret would become part of a job that everybody reads; it is not repeated."""
    for name in variables:
        if SECRET.search(name):
            raise ConfigError(
                f"--env {name}=... would be shown on the dashboard; set {name} in the cluster's own environment (in "
                "Kubernetes: a Secret by reference)"
            )
    known = {
        name: value
        for name, value in environment.items()
        if SECRET.search(name) and len(value) >= LEAST_SECRET
    }
    for text in (*arguments, *variables.values()):
        for name, value in known.items():
            if value in text:
                raise ConfigError(
                    f"an argument contains the value of {name}, which would be shown on the dashboard; leave it out: "
                    f"jobs read {name} from the environment of the cluster"
                )


def refuse_paths_of_the_copy(job: str, arguments: Sequence[str], config: Mapping[str, Any]) -> None:
    """ConfigError for paths in the copy of the repository in which a submitted job runs and which Ray removes: a
    relative `runs_dir`, and what is not sent. `config` is what the job's --check shows, empty where it has none."""
    texts = [*arguments, *(f"{key}={text}" for key, text in _texts(config) if key != "runs_dir")]
    problems = [
        f"{text}: {path.partition('/')[0]}/ is not sent with a job; put it where all machines of the cluster see it "
        f"and give that path, e.g. /shared/{path}"
        for text in dict.fromkeys(texts)
        if "://" not in text
        for path in map(posixpath.normpath, (text, text.partition("=")[2]))
        if _is_left_out(path)
    ]
    runs_dir = config.get("runs_dir")
    if isinstance(runs_dir, str) and not runs_dir.startswith("/") and job not in WITHOUT_RUN:
        problems.insert(
            0,
            f"runs_dir={runs_dir} is relative: the job runs in a copy of the repository, which Ray removes with all "
            "that was written there; add runs_dir=/shared/runs, a directory that all machines of the cluster see",
        )
    if problems:
        raise ConfigError("\n  ".join(problems))


@contextmanager
def files_left_to_the_cluster(printed: io.StringIO) -> Iterator[None]:
    """Around a job's --check, which prints the configuration into `printed`: a file that is not on this machine is
    the cluster's affair, with a note on stderr. One by a relative path would be sent with the job: still an error.
    """
    try:
        yield
    except MissingFile as missing:
        path = Path(missing.path)
        if not path.is_absolute():
            raise
        config = json.loads(printed.getvalue())["config"]
        keys = [f"{key}=" for key, text in _texts(config) if Path(os.path.expanduser(text)) == path]
        print(
            f"note: {(keys or [''])[0]}{path} is not on this machine: the job will look for it on the cluster",
            file=sys.stderr,
        )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in a configuration; the items of a list have its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _is_left_out(path: str) -> bool:
    """Whether it is a relative path of two parts or more that EXCLUDED matches; a single word may be anything."""
    parts = path.split("/")
    if path.startswith(("/", "~")) or len(parts) == 1:
        return False
    return any(
        fnmatchcase(part, pattern.removeprefix("/"))
        for pattern in EXCLUDED
        for part in (parts[:1] if pattern.startswith("/") else parts)
    )


@dataclass(frozen=True, slots=True)
class Submission:
    """What is sent.

    Example:
        Submission.of("train", "first", ["configs/train/x.yaml", "name=first"], {}, cpus=1.0, memory_gb=None)
    """

    submission_id: str
    job: str
    arguments: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    cpus: float = 1.0
    memory_gb: float | None = None

    @classmethod
    def of(
        cls,
        job: str,
        name: str,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        cpus: float,
        memory_gb: float | None,
    ) -> Submission:
        """With an id that says what it is: polyray-train-first-1f3a9c2e."""
        parts = [PREFIX, job, re.sub(r"[^A-Za-z0-9_.-]+", "-", name), uuid.uuid4().hex[:8]]
        submission_id = "-".join(part for part in parts if part)
        return cls(submission_id, job, tuple(arguments), dict(variables), cpus, memory_gb)

    @property
    def entrypoint(self) -> str:
        """The command, as the cluster's shell reads it."""
        return shlex.join(["python", "-m", f"jobs.{self.job}", *self.arguments])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The repository, and variables."""
        ours = {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_WAIT_S}", JOB_CPUS: f"{self.cpus:g}"}
        variables = {**ours, **self.variables}
        return {"working_dir": str(REPOSITORY_ROOT), "excludes": list(EXCLUDED), "env_vars": variables}

    @property
    def metadata(self) -> dict[str, str]:
        """What `resume` needs, and who looks at the dashboard wants to know."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            release = version("polyray")
        except PackageNotFoundError:  # started from a checkout that is not installed
            release = "checkout"
        return {
            JOB_KEY: self.job,
            ARGUMENTS_KEY: json.dumps(self.arguments),
            VARIABLES_KEY: json.dumps(self.variables),
            OWN_KEY: json.dumps({"cpus": self.cpus, "memory_gb": self.memory_gb}),
            "polyray_version": release,
        }

    def as_json(self) -> dict[str, Any]:
        """For --check."""
        return {
            "submission_id": self.submission_id,
            "entrypoint": self.entrypoint,
            "runtime_env": self.runtime_env,
            "metadata": self.metadata,
            "entrypoint_num_cpus": self.cpus,
            "entrypoint_memory_gb": self.memory_gb,
        }

    @property
    def memory_bytes(self) -> int | None:
        """As Ray wants it."""
        return None if self.memory_gb is None else int(self.memory_gb * 2**30)

    def by_hand(self, address: str) -> str:
        """The line of Ray's own command that sends the same; --address would give way to the environment there."""
        env = {key: value for key, value in self.runtime_env.items() if key != "working_dir"}
        options = ["--submission-id", self.submission_id, "--working-dir", "."]
        options += ["--runtime-env-json", json.dumps(env), "--entrypoint-num-cpus", f"{self.cpus:g}"]
        if self.memory_bytes is not None:
            options += ["--entrypoint-memory", f"{self.memory_bytes}"]
        options += ["--metadata-json", json.dumps(self.metadata)]
        command = shlex.join(["ray", "job", "submit", *options, "--"])
        return f"RAY_API_SERVER_ADDRESS={shlex.quote(address)} {command} {self.entrypoint}"
