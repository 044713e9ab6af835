"""Ray's Jobs API as jobs.submit uses it: jobs sent, followed and stopped, errors by name (not a job itself)."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jobs.submission import ARGUMENTS_KEY, JOB_KEY, OWN_KEY, STOP_WAIT_S, VARIABLES_KEY, Submission
from polyray.errors import ConfigError, ResourceError
from polyray.observability.logging import setup_logging

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
RETRY_S = 2.0
AGENT_WAIT_S = 90.0
"""A head that just started takes jobs once its agent runs, later than its dashboard answers."""
NO_AGENT = "No available agent"
"""What Ray says until then."""


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
        return self._client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            runtime_env=submission.runtime_env,
            metadata=submission.metadata,
            entrypoint_num_cpus=submission.cpus,
            entrypoint_memory=submission.memory_bytes,
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
