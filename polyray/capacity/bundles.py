"""Parts that a run places on machines, and whether they fit: pure functions.

An engine, a learner rank or a replica is on one machine as a whole, so machines are packed, not added up. Called by
polyray/cluster/session.py, which asks Ray what there is; the memory of GPUs is placement.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

from polyray.config.gpu_share import UNITS
from polyray.config.learner import LearnerSpec
from polyray.config.node_labels import matches
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.config.service import ServiceSpec

CPU, GPU = "CPU", "GPU"
MAX_MACHINES_NAMED = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Actors of one kind, each of which needs its resources on one machine.

    Example:
        Part("engine", 2, {"CPU": 1.0, "GPU": 2.0}).text()  # "2 x engine (1 CPU, 2 GPUs)"
    """

    what: str
    count: int
    resources: Mapping[str, float]
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its machine must have, as polyray/config/node_labels.py defines them."""

    def text(self) -> str:
        """Description of the part for errors."""
        labels = "".join(f", {name}: {value}" for name, value in self.node_labels.items())
        return f"{self.count} x {self.what} ({_amounts(self.resources)}{labels})"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as it is when nothing runs, e.g. Machine({"CPU": 16.0, "GPU": 1.0}, {"rack": "7"})."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Parts that do not fit, e.g. Misfit("GPU", "the run needs 4 GPUs and Ray has 2")."""

    resource: str | None
    """The one of which there is too little in all; None: there is enough, but not on one machine."""
    text: str


def engines(rollout: RolloutSpec) -> Part:
    """The rollout workers that a run needs; those above come when there is room."""
    resources = _of(rollout.cpus_per_worker, rollout.gpus_per_worker)
    return Part("engine", rollout.num_workers, resources, rollout.node_labels)


def learner_ranks(learner: LearnerSpec) -> Part:
    """Ray Train's workers."""
    resources = _of(learner.cpus_per_worker, learner.gpus_per_worker if learner.use_gpu else 0.0)
    return Part("learner rank", learner.num_workers, resources, learner.node_labels)


def reward_replicas(service: ServiceSpec) -> Part:
    """Reward service of the run, at its initial size."""
    resources = _of(service.num_cpus, service.num_gpus)
    return Part("reward replica", service.num_replicas, resources, service.node_labels)


def fleet_parts(config: TrainConfig) -> list[Part]:
    """A training run without its learner: what several runs can share."""
    replicas = [] if config.reward_is_elsewhere else [reward_replicas(config.reward.service)]
    return [engines(config.rollout), *replicas]


def training_parts(config: TrainConfig) -> list[Part]:
    """All of polyray train."""
    return [*fleet_parts(config), learner_ranks(config.learner)]


def times(parts: Iterable[Part], factor: int) -> list[Part]:
    """The same for `factor` runs at once."""
    return [replace(part, count=part.count * factor) for part in parts]


def total(parts: Iterable[Part], resource: str) -> float:
    """Amount of a resource over all parts."""
    return sum(part.count * part.resources.get(resource, 0.0) for part in parts)


def misfit(parts: Sequence[Part], machines: Mapping[str, Machine]) -> Misfit | None:
    """Explain in words why `parts` do not fit on empty `machines` (by name); None if they do.

    The largest part goes first, each to the machine that it leaves least of. Other orders are tried before it is
    given up. Ray, which places in the order of arrival, does no better.
    """
    for resource in dict.fromkeys(name for part in parts for name in part.resources):
        needed = total(parts, resource)
        there = sum(machine.resources.get(resource, 0.0) for machine in machines.values())
        if _units(needed) > _units(there):
            return Misfit(resource, f"the run needs {needed:g} {resource}s and Ray has {there:g}")
    by_size = sorted(parts, key=_size, reverse=True)
    first = _pack(by_size, machines)
    if first is None or any(_pack(order, machines) is None for order in permutations(by_size)):
        return None
    return Misfit(None, f"the run needs {', '.join(part.text() for part in by_size)}, and {first}")


class _Rest:
    """Free resources of one machine, in units. A share of a GPU is on one GPU; more than one are whole GPUs."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self.labels, whole = name, machine.labels, machine.resources
        self.gpus = [UNITS] * int(whole.get(GPU, 0))
        self.others = Counter({key: _units(amount) for key, amount in whole.items() if key != GPU})

    def fits(self, part: Part) -> bool:
        resources = part.resources
        enough = all(
            self.others[key] >= _units(amount) for key, amount in resources.items() if key != GPU and amount
        )
        enough = enough and len(self._gpus_for(resources)) == _num_gpus(resources)
        return enough and matches(part.node_labels, self.labels)

    def take(self, resources: Mapping[str, float]) -> None:
        share = min(_units(resources.get(GPU, 0.0)), UNITS)
        for index in self._gpus_for(resources):
            self.gpus[index] -= share
        for key, amount in resources.items():
            if key != GPU:
                self.others[key] -= _units(amount)

    def left(self) -> tuple[int, int]:
        """Free resources as a sort key: the machine with least is chosen."""
        return sum(self.gpus), self.others[CPU]

    def text(self, part: Part) -> str:
        if not matches(part.node_labels, self.labels):
            return f"{self.name} has other labels"
        shares = [gpu / UNITS for gpu in self.gpus if gpu not in (0, UNITS)]
        whole = {CPU: self.others[CPU] / UNITS, GPU: float(self.gpus.count(UNITS))}
        left = _amounts(whole) + "".join(f", {share:g} of a GPU" for share in shares)
        return f"{self.name} has {left} left"

    def _gpus_for(self, resources: Mapping[str, float]) -> list[int]:
        """The fullest that have the share; as many as are needed, or fewer."""
        share = min(_units(resources.get(GPU, 0.0)), UNITS)
        fitting = sorted((left, index) for index, left in enumerate(self.gpus) if left >= share)
        return [index for _, index in fitting[: _num_gpus(resources)]]


def _pack(parts: Iterable[Part], machines: Mapping[str, Machine]) -> str | None:
    """Pack all parts; None on success, else the part without a place and the resources left for it."""
    rest = [_Rest(name, machine) for name, machine in machines.items()]
    for part in parts:
        for placed in range(part.count):
            fitting = [machine for machine in rest if machine.fits(part)]
            if not fitting:
                return f"{part.count - placed} x {part.what} fit on no machine: {_left_on(rest, part)}"
            min(fitting, key=_Rest.left).take(part.resources)
    return None


def _left_on(machines: Sequence[_Rest], part: Part) -> str:
    named = [machine.text(part) for machine in machines[:MAX_MACHINES_NAMED]]
    more = len(machines) - len(named)
    return ", ".join(named) + (f", and {more} more machines have no room either" if more else "")


def _size(part: Part) -> tuple[float, float]:
    return part.resources.get(GPU, 0.0), part.resources.get(CPU, 0.0)


def _of(cpus: float, gpus: float) -> dict[str, float]:
    return {CPU: cpus} | ({GPU: gpus} if gpus else {})


def _num_gpus(resources: Mapping[str, float]) -> int:
    return -(-_units(resources.get(GPU, 0.0)) // UNITS)


def _units(amount: float) -> int:
    return round(amount * UNITS)


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {key}{'s' * (amount != 1)}" for key, amount in resources.items())
