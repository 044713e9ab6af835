"""Ray's Jobs API as polyray submit uses it: jobs sent, followed and stopped, errors by name (not a job itself)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from polyray.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, ConfigError, PolyrayError, ResourceError
from polyray.runs.logging import setup_logging
from polyray.submission.job import ARGUMENTS_KEY, JOB_KEY, OWN_KEY, STOP_WAIT_S, VARIABLES_KEY, Submission

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
EXIT_CODES = {"SUCCEEDED": EXIT_OK, "STOPPED": EXIT_INTERRUPTED}
OTHER_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's client prefers them to the address that it is given."""
TIMEOUTS_S = {"GET": 30.0, "POST": 300.0}
"""How long an answer may take; a package (PUT) is sent for as long as it needs."""
RETRY_S = 2.0
AWAY_S = 120.0
"""How long a head that was there may not answer while a job is followed or stopped."""
TAIL_S = 30.0
"""A log that says nothing for so long is asked for anew: its connection may be dead without a word."""
AGENT_WAIT_S = 90.0
"""A head that just started takes jobs once its agent runs, later than its dashboard answers."""
NO_AGENT = "No available agent"
"""What Ray says until then."""
REFUSAL = re.compile(r"Request failed with status code (\d{3}):")
"""How Ray's client begins an error; what follows is the head's own text, and may be anything."""


class Cluster:
    """A head node that answers, with a Ray of the version of ours."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    @classmethod
    def open(cls, address: str, any_version: bool = False) -> Cluster:
        """Raises ResourceError where nobody answers, ConfigError for a refused token and another version."""
        import ray

        setup_logging()  # Ray tells every file that it leaves out
        address = address.rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"--address {address} is no URL of a dashboard; write e.g. http://HEAD:8265")
        with _named(address):
            client = _client(address)
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

    def again(
        self, submission_id: str, cpus: float | None = None, memory_gb: float | None = None
    ) -> Submission:
        """The same job once more, its own process with other CPUs or memory where they are given.

        Raises ConfigError for one that still runs, or is not ours.
        """
        info = self._info(submission_id)
        if info.status not in ENDED:
            raise ConfigError(f"{submission_id} is {info.status}: --logs {submission_id} follows it")
        metadata = info.metadata or {}
        if JOB_KEY not in metadata:
            raise ConfigError(
                f"{submission_id} was not submitted by polyray submit; start it as it was started before"
            )
        stem = submission_id.rpartition("-")[0] or submission_id
        own = {"cpus": cpus, "memory_gb": memory_gb}
        asked = {key: value for key, value in own.items() if value is not None}
        return Submission(
            f"{stem}-{uuid.uuid4().hex[:8]}",
            metadata[JOB_KEY],
            tuple(json.loads(metadata[ARGUMENTS_KEY])),
            json.loads(metadata.get(VARIABLES_KEY, "{}")),
            **(json.loads(metadata.get(OWN_KEY, "{}")) | asked),
        )

    def status(self, submission_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED."""
        return _status(self._info(submission_id))

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
        while _status(self._patiently(submission_id)) not in ENDED and time.monotonic() < deadline:
            time.sleep(RETRY_S)

    def follow(self, submission_id: str) -> tuple[str, int]:
        """Prints its log until it ends, nothing twice; (how it stands, its exit code).

        A head that is away is waited for. Raises ResourceError when it was away for AWAY_S.
        """
        from aiohttp import ClientError

        log = _Log()
        while _status(info := self._patiently(submission_id)) not in ENDED:
            with suppress(OSError, RuntimeError, ClientError):  # the next look says whether the job is there
                asyncio.run(self._print(submission_id, log))
            time.sleep(RETRY_S)
        try:
            with _named(self.address, submission_id):
                log.show(self._client.get_job_logs(submission_id))
        except PolyrayError as error:  # its machine may be gone, with the log
            print(f"note: the end of its log cannot be had: {error}", file=sys.stderr)
        return _line(info), _exit_code(info)

    def _patiently(self, submission_id: str) -> Any:
        """Its details; who does not answer, or only with errors, is asked again for AWAY_S."""
        deadline = time.monotonic() + AWAY_S
        is_told = False
        while True:
            try:
                return self._info(submission_id)
            except ResourceError as error:
                what = str(error).partition("; ")[0]
                if time.monotonic() >= deadline:
                    raise ResourceError(
                        f"{what}, for {AWAY_S:g} s; the job goes on where its cluster does: polyray submit "
                        f"--logs {submission_id} --address {self.address} follows it"
                    ) from error
            if not is_told:
                print(f"note: {what}; it is asked again for {AWAY_S:g} s", file=sys.stderr, flush=True)
                is_told = True
            time.sleep(RETRY_S)

    async def _print(self, submission_id: str, log: _Log) -> None:
        text = ""
        parts = self._client.tail_job_logs(submission_id)
        with suppress(StopAsyncIteration):
            while True:
                text += await asyncio.wait_for(anext(parts), TAIL_S)
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


def _client(address: str) -> Any:
    """Ray's client of this address, whatever the environment says, which does not wait for an answer for ever."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=TIMEOUTS_S.get(method), **options)

    hidden = {name: os.environ.pop(name) for name in OTHER_ADDRESSES if name in os.environ}
    try:
        return Client(address)
    finally:
        os.environ.update(hidden)


def _status(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))


def _exit_code(info: Any) -> int:
    """Of a job that has ended: its own where Ray knows it, and 128 + n, as shells say it, where signal n ended it."""
    status = _status(info)
    if status in EXIT_CODES:
        return EXIT_CODES[status]
    code = info.driver_exit_code or EXIT_FAILURE
    return code if code > 0 else 128 - code


def _line(info: Any) -> str:
    status = _status(info)
    message = (info.message or "").strip().partition("\n")[0].partition(", last available logs")[0]
    why = f"  ({message})" if status in ("PENDING", "FAILED") and message else ""
    return f"{info.submission_id}  {status}  {info.entrypoint}{why}"


@contextmanager
def _named(address: str, submission_id: str = "") -> Iterator[None]:
    """What Ray's client raises, as what it means."""
    import requests.exceptions
    from ray.exceptions import AuthenticationError

    away = (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout)
    try:
        yield
    except away as error:
        raise ResourceError(
            f"no dashboard answers at {address}; is the head up, and its port 8265 reachable from here (ssh -L "
            "8265:127.0.0.1:8265 HEAD, or kubectl port-forward svc/HEAD-svc 8265)?"
        ) from error
    except Exception as error:
        text = str(error)
        refusal = REFUSAL.match(text)
        status = refusal[1] if refusal else ""
        if isinstance(error, AuthenticationError) or status in ("401", "403"):
            raise ConfigError(
                f"the cluster at {address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
                "RAY_AUTH_TOKEN_PATH) to the cluster's own"
            ) from None
        if status == "404" and submission_id:
            raise ConfigError(f"there is no job {submission_id} at {address}; --list names them") from None
        first = (text.splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"the cluster at {address} answers with an error: {first[:300]}") from error
