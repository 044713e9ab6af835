"""Ray's Jobs API as jobs.submit uses it: what is sent, what is refused, errors by name (not a job itself)."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from jobs.cli import REPOSITORY_ROOT
from polyray.config.bundles import JOB_CPUS
from polyray.errors import ConfigError, ResourceError
from polyray.observability.logging import setup_logging

EXCLUDED = (
    "/.git", "/.venv", "/runs", "/data", "/shared", "/tests", "/docs", "/.ci", "*.egg-info", "__pycache__",
    ".*_cache", ".hypothesis", "*.safetensors", "*.gguf", "*.parquet", "*.jsonl.gz",
)  # fmt: skip
"""As in a .gitignore, whose own entries Ray leaves out by itself."""
PREFIX = "polyray"
JOB_KEY, ARGUMENTS_KEY, VARIABLES_KEY = "polyray_job", "polyray_arguments", "polyray_variables"
OWN_KEY = "polyray_own_resources"
SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?)$", re.IGNORECASE)
LEAST_SECRET = 8
"""Shorter values of such variables are no secrets (RAY_AUTH_MODE=token has one, too)."""
ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
RETRY_S = 2.0
AGENT_WAIT_S = 90.0
"""A head that just started takes jobs once its agent runs, later than its dashboard answers."""
NO_AGENT = "No available agent"
"""What Ray says until then."""
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

    def by_hand(self, address: str) -> str:
        """The line of Ray's own command that sends the same."""
        env = {key: value for key, value in self.runtime_env.items() if key != "working_dir"}
        options = ["--address", address, "--submission-id", self.submission_id, "--working-dir", "."]
        options += ["--runtime-env-json", json.dumps(env), "--entrypoint-num-cpus", f"{self.cpus:g}"]
        if self.memory_gb is not None:
            options += ["--entrypoint-memory", f"{_bytes(self.memory_gb)}"]
        options += ["--metadata-json", json.dumps(self.metadata)]
        return f"{shlex.join(['ray', 'job', 'submit', *options, '--'])} {self.entrypoint}"


class Cluster:
    """A head node that answers, with a Ray of the version of ours."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    @classmethod
    def open(cls, address: str, any_version: bool = False) -> Cluster:
        """Raises ResourceError where nobody answers, ConfigError for a refused token and another version."""
        import ray
        from ray.job_submission import JobSubmissionClient

        setup_logging()  # Ray tells every file that it leaves out
        address = address.rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"--address {address} is no URL of a dashboard; write e.g. http://HEAD:8265")
        with _named(address):
            client = JobSubmissionClient(address)
            there = str(client._server_ray_version)
        if there != ray.__version__ and not any_version:
            raise ConfigError(
                f"the cluster at {address} runs Ray {there} and this machine {ray.__version__}: a job could not be "
                "unpickled there; use the same image and requirements, or --any-version at your own risk"
            )
        return cls(client, address)

    def submit(self, submission: Submission) -> str:
        """Uploads and starts it; its id. A head that does not take jobs yet is waited for."""
        deadline = time.monotonic() + AGENT_WAIT_S
        with _named(self.address):
            while True:
                try:
                    return self._submit(submission)
                except RuntimeError as error:
                    if NO_AGENT not in str(error) or time.monotonic() >= deadline:
                        raise
                time.sleep(RETRY_S)

    def _submit(self, submission: Submission) -> str:
        memory_gb = submission.memory_gb
        return self._client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            runtime_env=submission.runtime_env,
            metadata=submission.metadata,
            entrypoint_num_cpus=submission.cpus,
            entrypoint_memory=None if memory_gb is None else _bytes(memory_gb),
        )

    def again(self, submission_id: str) -> Submission:
        """The same job once more. Raises ConfigError for one that still runs, or is not ours."""
        info = self._info(submission_id)
        if info.status not in ENDED:
            raise ConfigError(f"{submission_id} is {info.status}: --logs {submission_id} follows it")
        metadata = info.metadata or {}
        if JOB_KEY not in metadata:
            raise ConfigError(
                f"{submission_id} was not submitted by jobs.submit; start it as it was started before"
            )
        stem = submission_id.rpartition("-")[0] or submission_id
        return Submission(
            f"{stem}-{uuid.uuid4().hex[:8]}",
            metadata[JOB_KEY],
            tuple(json.loads(metadata[ARGUMENTS_KEY])),
            json.loads(metadata.get(VARIABLES_KEY, "{}")),
            **json.loads(metadata.get(OWN_KEY, "{}")),
        )

    def status(self, submission_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED."""
        return str(self._info(submission_id).status.value)

    def line(self, submission_id: str) -> str:
        """How it stands, on one line."""
        return _line(self._info(submission_id))

    def lines(self) -> list[str]:
        """Of all jobs of ours, the newest last."""
        with _named(self.address):
            jobs = [job for job in self._client.list_jobs() if JOB_KEY in (job.metadata or {})]
        return [_line(job) for job in sorted(jobs, key=lambda job: job.start_time or 0)]

    def stop(self, submission_id: str) -> None:
        """SIGTERM, at which a run writes its checkpoint; returns once it has ended."""
        self._info(submission_id)
        with _named(self.address):
            self._client.stop_job(submission_id)
        deadline = time.monotonic() + STOP_WAIT_S + 2 * RETRY_S
        while self.status(submission_id) not in ENDED and time.monotonic() < deadline:
            time.sleep(RETRY_S)

    def follow(self, submission_id: str) -> None:
        """Prints its log until it ends. A head that is away for a while is waited for; nothing is printed twice."""
        log = _Log()
        while self.status(submission_id) not in ENDED:
            with suppress(
                OSError, RuntimeError
            ):  # the connection: the next look says whether the job is there
                asyncio.run(self._print(submission_id, log))
            time.sleep(RETRY_S)
        log.show(self._client.get_job_logs(submission_id))

    async def _print(self, submission_id: str, log: _Log) -> None:
        text = ""
        async for part in self._client.tail_job_logs(submission_id):
            text += part
            log.show(text)

    def _info(self, submission_id: str) -> Any:
        with _named(self.address, submission_id):
            return self._client.get_job_info(submission_id)


class _Log:
    """What was printed of a log that is read from its beginning again."""

    def __init__(self) -> None:
        self._printed = 0

    def show(self, text: str) -> None:
        """The part of it that is new."""
        print(text[self._printed :], end="", flush=True)
        self._printed = max(self._printed, len(text))


def _bytes(gb: float) -> int:
    return int(gb * 2**30)


def _line(info: Any) -> str:
    status = str(getattr(info.status, "value", info.status))
    message = (info.message or "").strip().partition("\n")[0].partition(", last available logs")[0]
    why = f"  ({message})" if status in ("PENDING", "FAILED") and message else ""
    return f"{info.submission_id}  {status}  {info.entrypoint}{why}"


@contextmanager
def _named(address: str, submission_id: str = "") -> Iterator[None]:
    """What Ray's client raises, as what it means."""
    try:
        yield
    except ConnectionError as error:
        raise ResourceError(
            f"no dashboard answers at {address}; is the head up, and its port 8265 reachable from here (ssh -L "
            "8265:127.0.0.1:8265 HEAD, or kubectl port-forward svc/HEAD-svc 8265)?"
        ) from error
    except Exception as error:
        text = str(error)
        if any(code in text for code in ("401", "403", "Unauthorized", "Forbidden", "nauthenticated")):
            raise ConfigError(
                f"the cluster at {address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
                "RAY_AUTH_TOKEN_PATH) to the cluster's own"
            ) from None
        if "404" in text and submission_id:
            raise ConfigError(f"there is no job {submission_id} at {address}; --list names them") from None
        raise ResourceError(
            f"the cluster at {address} answers with an error: {text.splitlines()[0][:300]}"
        ) from error
