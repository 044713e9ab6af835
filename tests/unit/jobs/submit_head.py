"""A head for the tests of jobs.submit: stands for Ray's client (not a test itself)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from polyray.submission.job import ARGUMENTS_KEY, JOB_KEY, VARIABLES_KEY

ADDRESS = "http://127.0.0.1:8265"


class Head:
    """Stands for Ray's client: one job, whose log comes in parts and breaks off once."""

    def __init__(self, **changes: Any) -> None:
        values = {
            "submission_id": "polyray-train-x-1f3a9c2e",
            "status": SimpleNamespace(value="RUNNING"),
            "entrypoint": "python -m polyray.cli train x.yaml",
            "message": None,
            "metadata": {JOB_KEY: "train", ARGUMENTS_KEY: '["x.yaml", "a=1"]', VARIABLES_KEY: '{"B": "2"}'},
            "start_time": 1,
            "driver_exit_code": None,
        }
        self.info = SimpleNamespace(**{**values, **changes})
        self.log = "one\ntwo\nthree\n"
        self.tails = 0

    def get_job_info(self, submission_id: str) -> Any:
        if submission_id != self.info.submission_id:
            raise RuntimeError("Request failed with status code 404: Job missing does not exist.")
        return self.info

    def list_jobs(self) -> list[Any]:
        other = SimpleNamespace(**{**vars(self.info), "submission_id": "somebody-elses", "metadata": None})
        return [other, self.info]

    def get_job_logs(self, submission_id: str) -> str:
        return self.log

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        self.tails += 1
        yield "one\n"
        if self.tails == 1:
            raise RuntimeError("connection lost")
        yield "two\n"
        self.info.status = SimpleNamespace(value="SUCCEEDED")
