"""Jobs for a cluster: their content, and the paths that cannot be sent."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyray import __version__
from polyray.capacity.bundles import JOB_CPUS
from polyray.errors import ConfigError
from polyray.submission.paths import EXCLUDED, working_dir

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
        return shlex.join(["python", "-m", "polyray.cli", self.job, *self.arguments])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Directory that is sent, and variables."""
        ours = {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_WAIT_S}", JOB_CPUS: f"{self.cpus:g}"}
        variables = {**ours, **self.variables}
        return {"working_dir": str(working_dir()), "excludes": list(EXCLUDED), "env_vars": variables}

    @property
    def metadata(self) -> dict[str, str]:
        """What `resume` needs, and who looks at the dashboard wants to know."""
        return {
            JOB_KEY: self.job,
            ARGUMENTS_KEY: json.dumps(self.arguments),
            VARIABLES_KEY: json.dumps(self.variables),
            OWN_KEY: json.dumps({"cpus": self.cpus, "memory_gb": self.memory_gb}),
            "polyray_version": __version__,
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
