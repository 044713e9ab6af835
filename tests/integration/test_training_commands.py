"""`python -m jobs.train` as people start it: ended by a real signal, started again, and two of them side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.runs.jsonl import read_jsonl
from polyray.runs.run_directory import RunPaths
from tests.conftest import MARK, REPOSITORY_ROOT, command_lines
from tests.ray_head import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # each command starts a Ray of its own
MakeValues = Callable[..., dict[str, Any]]

STEPS = 80
WAIT_S = 400.0
STARTING = "starting the learner and the engines"


class Command:
    """One start of jobs.train; everything that it prints goes to a file."""

    def __init__(self, values: dict[str, Any], work: Path) -> None:
        self.mark = f"command-{values['name']}-{os.getpid()}"
        file, self._output = work / f"{values['name']}.yaml", work / f"{values['name']}.txt"
        file.write_text(yaml.safe_dump(values))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.train", str(file)],
                cwd=REPOSITORY_ROOT,
                env={**kept, "HF_HUB_OFFLINE": "1", MARK: self.mark},
                stdout=output,
                stderr=output,
                # A pytest that a shell started in the background ignores SIGINT, and so would what it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until it holds; fails where the command ends before."""

        def holds() -> bool:
            assert self.process.poll() is None or condition(), self.printed
            return condition()

        wait_for(holds, WAIT_S)

    def end(self) -> tuple[int, str]:
        """Its exit code and its last line, once nothing that it started is left."""
        code = self.process.wait(WAIT_S)
        wait_for(lambda: command_lines(self.mark) == [], 90)
        return code, self.printed.splitlines()[-1]


@pytest.fixture
def values(train_values: MakeValues) -> MakeValues:
    """Values of a run on simulated engines without checkpoints before its end."""
    return lambda name, **changes: train_values(
        name,
        **{
            "rollout__engine": "simulated",
            "rollout__num_workers": 1,
            "learner__steps": STEPS,
            "learner__checkpoint_every": 1000,
            "ray": {"num_cpus": 8, "dashboard": False},
            **changes,
        },
    )


def test_a_run_ended_while_its_learner_starts_goes_on_and_finishes(
    values: MakeValues, tmp_path: Path
) -> None:
    settings = values("ended-at-start", runs_dir=str(tmp_path / "runs"))
    paths = RunPaths(tmp_path / "runs" / "ended-at-start")

    def steps() -> list[int]:
        return [line["step"] for line in read_jsonl(paths.metrics)]

    def ended_at_start(number: signal.Signals) -> tuple[int, str]:
        before = steps()
        command = Command(settings, tmp_path)
        command.wait_for(lambda: STARTING in command.printed)
        command.process.send_signal(number)
        outcome = command.end()
        assert steps() == before
        return outcome

    said = "while the learner was starting: ended at once; start the same command again"
    assert ended_at_start(signal.SIGTERM) == (130, f"error: SIGTERM {said}")
    assert not paths.checkpoints.exists() or not list(paths.checkpoints.iterdir())

    command = Command(settings, tmp_path)
    command.wait_for(lambda: len(steps()) >= 3)
    command.process.send_signal(signal.SIGINT)
    code, last = command.end()
    done = len(steps())
    assert steps() == list(range(done)) and 3 <= done < STEPS
    assert (code, last) == (
        130,
        f"error: SIGINT after step {done} of {STEPS}: a checkpoint is written; start the same command again to go on",
    )

    assert ended_at_start(signal.SIGINT) == (130, f"error: SIGINT {said} to go on from the newest checkpoint")
    assert [path.name for path in paths.checkpoints.iterdir()] == [f"step-{done:06d}"]

    command = Command(settings, tmp_path)
    assert command.end()[0] == 0, command.printed
    assert steps() == list(range(STEPS)) and paths.done.is_file()
    attempts = [line["attempt"] for line in read_jsonl(paths.ledger)]
    assert attempts[:done] == attempts[:1] * done and attempts[done:] == attempts[-1:] * (STEPS - done)
    assert attempts[0] < attempts[-1]


def test_two_runs_side_by_side_on_one_machine_finish(values: MakeValues, tmp_path: Path) -> None:
    """Each has a Ray, a dashboard and a reward service with the ports that nobody has chosen."""
    common = {
        "runs_dir": str(tmp_path / "runs"),
        "learner__steps": 20,
        "ray": {"num_cpus": 8},
        "reward": {"service": {"num_cpus": 0.5}},
    }
    commands = [Command(values(name, **common), tmp_path) for name in ("left", "right")]
    for command in commands:
        assert command.end()[0] == 0, command.printed
    for name in ("left", "right"):
        paths = RunPaths(tmp_path / "runs" / name)
        assert [line["step"] for line in read_jsonl(paths.metrics)] == list(range(20))
        assert paths.done.is_file() and (paths.adapter / "adapter_model.safetensors").is_file()
        assert read_jsonl(paths.incidents) == []
