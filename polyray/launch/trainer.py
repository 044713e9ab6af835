"""Ray Train for every learner: RL, SFT and reward models.

    fit_trainer (driver) --> train_worker, one per rank --> the learner's own loop
                                  |
    worker raises --> after_exception, in Train's controller --permanent--> the controller fails, nothing starts again
                                                             --else-------> Train starts the workers again, at most
                                                                            learner.max_failures times

Ray Train offers no failure policy to its users, and a worker that returned instead would leave other ranks waiting
for it. An error of a callback fails the controller, which then ends all workers.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.exceptions
import ray.train
from ray.train import UserCallback

from polyray.cluster.session import CPU_ENVIRONMENT, NAMESPACE
from polyray.config.learner import LearnerSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import LearnerError, PolyrayError, is_permanent, root_cause
from polyray.runs.error_log import errors_logged
from polyray.runs.logging import log_as
from polyray.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    import torch

CALL_TIMEOUT_S = 60.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainWorker:
    """One rank of a learner, inside Ray Train.

    Example:
        TrainWorker(config=config, run_dir=Path("runs/a"), device=torch.device("cpu"), rank=0, world_size=1,
                    arguments={"model_dir": "models/tiny", "dtype": "float32"})
    """

    config: Any
    run_dir: Path
    device: torch.device
    rank: int
    world_size: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the loop, as plain values."""


Loop = Callable[[TrainWorker], None]


def fit_trainer(
    loop: Loop,
    config: Any,
    arguments: Mapping[str, Any],
    directory: RunDirectory,
    outcome: dict[str, BaseException],
    callbacks: Sequence[Any] = (),
) -> None:
    """Run Ray Train to its end, in a thread of the driver; the error that ended it early goes into `outcome`.

    `loop`: a function of a module; each rank calls it with `config` and `arguments`, which are plain values.
    `callbacks`: of ray.train.UserCallback. A permanent error (polyray/errors.py) of a worker ends it at once.

    Ray Train's own storage is .train/, under a new name for each start; a resume reads `checkpoints/`.
    """
    learner: LearnerSpec = config.learner
    resources = {
        "CPU": learner.cpus_per_worker,
        **({"GPU": learner.gpus_per_worker} if learner.use_gpu else {}),
    }
    trainer = _trainer_of(learner)(
        train_worker,
        train_loop_config={
            **arguments,
            "loop": loop,
            "config_type": type(config),
            "config": config.model_dump(mode="json"),
            "run_dir": str(directory.paths.root),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=learner.num_workers,
            use_gpu=learner.use_gpu,
            resources_per_worker=resources,
            label_selector=learner.node_labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"{directory.paths.root.name}-{uuid.uuid4().hex[:8]}",  # as the dashboard lists it
            storage_path=str(directory.paths.train_storage),
            failure_config=ray.train.FailureConfig(max_failures=learner.max_failures),
            callbacks=[*callbacks, EndAtPermanentError()],
            worker_runtime_env=None if learner.use_gpu else {"env_vars": CPU_ENVIRONMENT},
        ),
    )
    try:
        trainer.fit()
    except BaseException as error:
        outcome["error"] = training_error(error, learner.max_failures)


def _trainer_of(learner: LearnerSpec) -> Callable[..., Any]:
    """Ray Train's trainer of these ranks.

    A single rank on a CPU needs no process group of torch. Without one, neither the driver nor Train's controller
    imports torch, which takes 2.3 s and 180 MiB in each.
    """
    if learner.num_workers == 1 and not learner.use_gpu:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        return DataParallelTrainer
    from ray.train.torch import TorchConfig, TorchTrainer

    # Gradients lie on the device, counts and metrics on the CPU.
    backend = "cpu:gloo,cuda:nccl" if learner.use_gpu else "gloo"
    return partial(TorchTrainer, torch_config=TorchConfig(backend=backend))


def train_worker(arguments: dict[str, Any]) -> None:
    """Ray Train's function: one rank of any learner, from the newest checkpoint to the last step."""
    import torch

    from polyray.learner.determinism import make_reproducible

    context = ray.train.get_context()
    rank, run_dir = context.get_world_rank(), Path(arguments["run_dir"])
    with errors_logged(run_dir, f"learner-{rank}"):
        config = arguments["config_type"].model_validate(arguments["config"])
        log_as(f"learner-{rank}", config.name)
        device = torch.device("cuda") if config.learner.use_gpu else torch.device("cpu")
        make_reproducible(config.learner.num_threads, device)
        loop: Loop = arguments["loop"]
        loop(TrainWorker(config, run_dir, device, rank, context.get_world_size(), arguments))


class EndAtPermanentError(UserCallback):
    """Callback of Ray Train that prevents a restart after an error that it would repeat. The last callback."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """See ray.train.UserCallback."""
        error = permanent_error(worker_exceptions)
        if error is not None:
            raise error


def permanent_error(worker_exceptions: Mapping[int, Exception]) -> PolyrayError | None:
    """First error, by rank, that a restart would repeat, as a PolyrayError; None if a restart may help."""
    for rank, raised in sorted(worker_exceptions.items()):
        error = root_cause(raised)
        if is_permanent(error):
            return error if isinstance(error, PolyrayError) else LearnerError(_in_words(rank, error))
    return None


def first_failure(worker_exceptions: Mapping[int, Exception]) -> str:
    """One line about the first failed rank: the other ranks usually fail because of it."""
    rank, raised = min(worker_exceptions.items())
    others = f" (and {len(worker_exceptions) - 1} other ranks)" if len(worker_exceptions) > 1 else ""
    return _in_words(rank, getattr(raised, "cause", None) or raised, others)


def training_error(error: BaseException, max_failures: int) -> BaseException:
    """The error to show for what `trainer.fit` raised."""
    if isinstance(error, ray.train.WorkerGroupError):
        failures = error.worker_failures
        if (permanent := permanent_error(failures)) is not None:
            return permanent
        return LearnerError(
            f"{first_failure(failures)}; it was the last of learner.max_failures={max_failures} restarts. Run the "
            "same command again to resume from the newest checkpoint"
        )
    cause = getattr(error, "controller_failure", None)  # of ray.train.ControllerError
    return cause if isinstance(cause, PolyrayError) else error


def _in_words(rank: int, error: BaseException, others: str = "") -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"rank {rank} of the learner{others}: {type(error).__name__}: {lines[0]}"


class TellCoordinator(UserCallback):
    """Callback of Ray Train that tells a run's coordinator of a failure, and whether the learner starts again.

    Lives in the process of Train's controller, which waits for the answer."""

    def __init__(self, name: str, rollout: RolloutSpec) -> None:
        """`name`: as in `start_coordinator`."""
        self._name = name
        # An engine that shares the learner's GPU finishes what it has before it sleeps.
        self._timeout_s = CALL_TIMEOUT_S + (rollout.group_timeout_s if rollout.sleep_between_steps else 0.0)

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """See ray.train.UserCallback."""
        try:
            coordinator = ray.get_actor(self._name, namespace=NAMESPACE)
            error = permanent_error(worker_exceptions)
            told = (
                coordinator.learner_failed.remote(first_failure(worker_exceptions))
                if error is None
                else coordinator.end.remote(error)
            )
            ray.get(told, timeout=self._timeout_s)
        except (ValueError, ray.exceptions.RayError, TimeoutError) as error:
            logger.warning("the coordinator could not be told of the learner's failure: %r", error)
