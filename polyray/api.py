"""The Python API behind `polyray.train` and its like: the command line's configurations and runs, from Python values.

    keys of YAML, prompts and functions as Python values --> TrainConfig --> launch.train.run_training --> Run

Nothing is computed here. docs/python-api.md explains it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from polyray.config.loader import build_config, merged_values
from polyray.config.paths import absolute, put_root_on_path
from polyray.config.run import WARM_START, EvaluateConfig, RunBase, SftConfig, TrainConfig
from polyray.errors import ConfigError, PolyrayError, boundary, root_cause
from polyray.runs.logging import choose_log_format
from polyray.runs.run_directory import RunPaths

StrPath = str | Path
Config = StrPath | Mapping[str, Any]
"""A YAML file, as the command line takes it, or its content."""
Section = Mapping[str, Any]
"""Keys of one section of YAML."""
Rows = StrPath | Iterable[Mapping[str, Any]]
"""Rows of data: dicts, a datasets.Dataset, or a path (JSON Lines, Parquet, a directory that save_to_disk wrote)."""
RewardFunction = Callable[[list[dict[str, Any]]], Sequence[float | Mapping[str, Any] | None]]
Reward = RewardFunction | str | Section
"""A function, "FILE.py:FUNCTION", or the section of YAML."""

BASE, TRAINED = "base", "trained"
"""Names of the models that `evaluate` compares, beside WARM_START."""
PROMPTS_DIR = ".prompts"
"""Below runs_dir: rows that were given in Python, by the hash of their content."""
DEFAULT_SAMPLES = 16

ConfigT = TypeVar("ConfigT", bound=RunBase)


@dataclass(frozen=True)
class Run:
    """A finished training run on disk.

    Example:
        Run(Path("runs/train")).adapter == Path("runs/train/adapter")
    """

    run_dir: Path

    @property
    def name(self) -> str:
        """Name of the run and of its directory."""
        return self.run_dir.name

    @property
    def adapter(self) -> Path:
        """Directory of the trained adapter, in PEFT's format."""
        return RunPaths(self.run_dir).adapter

    @property
    def metrics(self) -> Path:
        """metrics.jsonl, one line per step."""
        return RunPaths(self.run_dir).metrics

    @property
    def summary(self) -> dict[str, Any]:
        """Content of DONE: the adapter, the steps taken and, after validation, the best version."""
        return json.loads(RunPaths(self.run_dir).done.read_text(encoding="utf-8"))

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        from polyray.runs.jsonl import read_jsonl

        return read_jsonl(self.metrics)


@dataclass(frozen=True)
class Evaluation:
    """The results of a finished evaluation; `print` shows them as a table."""

    run_dir: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json: every value with its interval, and the comparisons."""
        return json.loads((self.run_dir / "evaluation" / "metrics.json").read_text(encoding="utf-8"))

    @property
    def samples(self) -> Path:
        """samples.jsonl, one line per completion."""
        return self.run_dir / "evaluation" / "samples.jsonl"

    @property
    def pass_at_k(self) -> dict[str, dict[int, float]]:
        """Model -> k -> probability that one of k completions passes."""
        return self._values("pass_at_k")

    @property
    def distinct_correct_at_k(self) -> dict[str, dict[int, float]]:
        """Model -> k -> expected number of different correct classes among k completions."""
        return self._values("distinct_correct_at_k")

    @property
    def usq_at_k(self) -> dict[str, dict[int, float]]:
        """Model -> k -> expected quality of the completion that a selector picks out of k; without the models that
        were trained on the reward that picks."""
        return self._values("usq_at_k")

    def _values(self, metric: str) -> dict[str, dict[int, float]]:
        models = self.metrics["models"].items()
        return {
            name: {int(k): at["value"] for k, at in found[metric].items()}
            for name, found in models
            if metric in found
        }

    def __str__(self) -> str:
        from polyray.evaluation.summary import summary_table

        return summary_table(self.metrics)


@dataclass(frozen=True)
class Sweep:
    """A finished sweep on disk: `results` is results.json, `best` the recommended adapter, `report` a page."""

    run_dir: Path

    @property
    def results(self) -> dict[str, Any]:
        """Content of results.json."""
        return json.loads((self.run_dir / "results.json").read_text(encoding="utf-8"))

    @property
    def best(self) -> Path:
        """Directory of the recommended adapter, in PEFT's format."""
        return self.run_dir / "best"

    @property
    def report(self) -> Path:
        """The page about the sweep."""
        return self.run_dir / "report.html"


@dataclass(frozen=True)
class Service:
    """A running HTTP service; `close` it, or use it in a `with` block."""

    url: str
    _stack: ExitStack = field(repr=False)

    def close(self) -> None:
        """Stops the service, and the Ray that was started for it."""
        self._stack.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train(
    config: Config | None = None,
    /,
    *,
    model: StrPath | Section | None = None,
    prompts: Rows | None = None,
    reward: Reward | None = None,
    algorithm: str | Section | None = None,
    steps: int | None = None,
    name: str | None = None,
    runs_dir: StrPath | None = None,
    dotted: Section | None = None,
    **keys: Any,
) -> Run:
    """Trains an adapter by reinforcement learning, as `polyray train` does, and returns when it is done.

    Without `config` (a YAML file or its content) the defaults are those of YAML, and the name is "train". `model` is
    model.path or the section, `steps` is learner.steps, `algorithm` a type or the section. `keys` are further keys of
    YAML, e.g. rollout={"group_size": 8}, and `dotted` has dotted ones, {"rollout.group_size": 8}. A call with the
    same name and settings continues the run, or returns it where it is finished; other settings are a ConfigError.

    `reward` is called in the reward replica of your own Ray, with all that it refers to (closures, globals): pickled
    by cloudpickle, so this executes your code there. It gets a list of {"prompt", "completion", "reference",
    "metadata", "messages"} and returns one entry each: a score in [0, 1], None for unscored, or {"score", "class",
    "components"}.

    Raises PolyrayError, as the command line reports it.
    """
    changes = _sections(model, algorithm, reward, steps, {**keys, **(dotted or {})})
    with _raising_origins():
        found = _configured(TrainConfig, config, "train", name, runs_dir, changes, prompts=prompts)

        from polyray.launch.train import run_training

        run_training(found)
    return Run(found.run_dir)


def sft(
    config: Config | None = None,
    /,
    *,
    model: StrPath | Section | None = None,
    data: Rows | None = None,
    steps: int | None = None,
    name: str | None = None,
    runs_dir: StrPath | None = None,
    dotted: Section | None = None,
    **keys: Any,
) -> Run:
    """Trains an adapter on demonstrations, as `polyray sft` does; arguments as those of `train`.

    `data` are rows of {"prompt", "completion"} or {"messages"}; without them the demonstrations of `task`.
    """
    changes = _sections(model, None, None, steps, {**keys, **(dotted or {})})
    with _raising_origins():
        found = _configured(SftConfig, config, "sft", name, runs_dir, changes, data=data)

        from polyray.launch.sft import run_sft

        run_sft(found)
    return Run(found.run_dir)


def evaluate(
    run: Run | StrPath | Mapping[str, Any],
    *,
    ks: Sequence[int] | None = None,
    num_samples: int | None = None,
    prompts: Rows | None = None,
    reward: Reward | None = None,
    name: str | None = None,
    runs_dir: StrPath | None = None,
    dotted: Section | None = None,
    **keys: Any,
) -> Evaluation:
    """Compares a run's adapter with the model that it started from, on held-out prompts, as `polyray evaluate` does.

    `run` is a Run or its directory: model, task, reward and sampling are those of the run, and the name is
    NAME-evaluation beside it. The models are "trained" and "base", or "warm start" where the run has one. Or `run` is
    a file of `polyray evaluate`, or its content. `ks` and `num_samples` are keys of `evaluation`; 16 samples, or as
    many as the largest k. `prompts` are all asked, and none may be one of those that the run was trained on; `reward`
    and `keys` replace settings of the run, as in `train`. A new process has to be given a reward function again.
    """
    changes = _sections(None, None, reward, None, {**keys, **(dotted or {})})
    if ks is not None:
        changes["evaluation.ks"] = list(ks)
        num_samples = num_samples or max(DEFAULT_SAMPLES, *ks)
    if num_samples is not None:
        changes["evaluation.num_samples"] = num_samples
    with _raising_origins():
        base = _of_run(run)
        found = _configured(EvaluateConfig, base, "evaluation", name, runs_dir, changes, prompts=prompts)

        from polyray.launch.evaluate import run_evaluate

        run_evaluate(found)
    return Evaluation(found.run_dir)


def sweep(
    config: Config,
    /,
    *,
    name: str | None = None,
    runs_dir: StrPath | None = None,
    allow_many: bool = False,
    dotted: Section | None = None,
    **keys: Any,
) -> Sweep:
    """Trains over a grid of settings and seeds, or searches, as `polyray sweep` does; `allow_many` is its --yes."""
    from polyray.config.sweep import SweepConfig

    with _raising_origins():
        found = _configured(SweepConfig, config, "sweep", name, runs_dir, {**keys, **(dotted or {})})

        from polyray.sweeps.plan import plan_trials, with_default_metric
        from polyray.sweeps.study import run_sweep

        found = with_default_metric(found)
        run_sweep(found, plan_trials(found, allow_many=allow_many))
    return Sweep(found.run_dir)


def serve(config: Config, /, *, dotted: Section | None = None, **keys: Any) -> Service:
    """Serves a trained policy or reward models over HTTP, as `polyray serve` does, until the Service is closed."""
    from polyray.config.generation import GenerationServeConfig
    from polyray.config.serve import RewardServeConfig

    with _raising_origins(), ExitStack() as stack:
        source = "polyray.serve" if isinstance(config, Mapping) else str(config)
        changes = _plain({**keys, **(dotted or {})})
        values = merged_values(GenerationServeConfig, config, changes)
        if values.get("service") == "generation":
            from polyray.launch.serve import open_generation

            generation = build_config(GenerationServeConfig, values, source)
            address, _ = stack.enter_context(open_generation(generation))
        else:
            from polyray.launch.serve import open_reward_models

            values = merged_values(RewardServeConfig, config, changes)
            address, _ = stack.enter_context(
                open_reward_models(build_config(RewardServeConfig, values, source))
            )
        return Service(address.url, stack.pop_all())


def _sections(
    model: StrPath | Section | None,
    algorithm: str | Section | None,
    reward: Reward | None,
    steps: int | None,
    keys: Mapping[str, Any],
) -> dict[str, Any]:
    """Short forms as keys of YAML; keys that are written out come after them."""
    changes: dict[str, Any] = {}
    if model is not None:
        changes["model" if isinstance(model, Mapping) else "model.path"] = model
    if algorithm is not None:
        is_type = isinstance(algorithm, str) and not algorithm.startswith("@")
        changes["algorithm"] = {"type": algorithm} if is_type else algorithm
    if reward is not None:
        changes["reward"] = {"type": "python", "path": reward} if isinstance(reward, str) else reward
    if steps is not None:
        changes["learner.steps"] = steps
    return {**changes, **keys}


def _configured(
    model: type[ConfigT],
    base: Config | None,
    default_name: str,
    name: str | None,
    runs_dir: StrPath | None,
    changes: dict[str, Any],
    *,
    prompts: Rows | None = None,
    data: Rows | None = None,
) -> ConfigT:
    """The configuration that the command line would build from the same values."""
    source = "polyray" if base is None or isinstance(base, Mapping) else str(base)
    values = merged_values(model, {} if base is None else base, {})
    changes |= {"name": name or values.get("name") or default_name}
    if runs_dir is not None:
        changes["runs_dir"] = os.fspath(runs_dir)
    kept_in = Path(absolute(str(changes.get("runs_dir") or values.get("runs_dir") or "runs"))) / PROMPTS_DIR
    for key, rows, path_key in (("task", prompts, "path"), ("data", data, "train")):
        if rows is not None:
            file = _as_path(rows, kept_in, "prompts" if key == "task" else key)
            asks_all = model is EvaluateConfig
            given = _all_held_out(file, values) if asks_all else {"type": "jsonl", path_key: file}
            changes = {key: given, **{k: v for k, v in changes.items() if k != key}, **_within(changes, key)}
    config = build_config(model, merged_values(model, values, _plain(changes)), source)
    choose_log_format(config.logging)
    return config


def _all_held_out(file: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The task of an evaluation's own prompts; none of them may be one that the run was trained on."""
    task = values.get("task") or {}
    return {
        "type": "jsonl",
        "path": task.get("path") if task.get("type") == "jsonl" else None,
        "held_out_path": file,
    }


def _within(changes: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The section as dotted keys, so that it adds to what is there instead of replacing it."""
    return {f"{key}.{inner}": value for inner, value in (changes.get(key) or {}).items()}


def _of_run(run: Run | StrPath | Mapping[str, Any]) -> Config:
    """Content of the evaluation of a run's adapter; a file or its content as it is."""
    directory = run.run_dir if isinstance(run, Run) else run
    if isinstance(directory, Mapping) or Path(absolute(str(directory))).is_file():
        return directory
    paths = RunPaths(Path(absolute(str(directory))))
    if not paths.config.is_file():
        raise ConfigError(f"{paths.root} holds no config.json; give the directory of a run of polyray.train")
    trained = json.loads(paths.config.read_text(encoding="utf-8"))
    shared = (
        "seed",
        "ray",
        "prices",
        "logging",
        "model",
        "task",
        "reward",
        "rollout",
        "delivery",
    )
    warm_start = trained["model"]["warm_start"]
    start = BASE if warm_start is None else WARM_START
    return {
        **{key: trained[key] for key in shared if key in trained},
        "name": f"{paths.root.name}-evaluation",
        "runs_dir": str(paths.root.parent),
        "adapters": {start: warm_start, TRAINED: str(paths.adapter)},
        "compare_to": start,
    }


def _as_path(rows: Any, directory: Path, stem: str) -> str:
    """Path of rows; those given in Python are written below `directory`, once for the same content."""
    if isinstance(rows, str | os.PathLike):
        return os.fspath(rows)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise ConfigError(
            f"{stem} is a {type(rows).__name__}; give a path, or dicts such as {{'prompt': '2+2=', 'reference': '4'}}"
        )
    text = "".join(map(_row_writer(stem, is_table=not isinstance(rows, list | tuple)), enumerate(rows)))
    file = directory / hashlib.sha256(text.encode()).hexdigest()[:16] / f"{stem}.jsonl"
    if not file.is_file():
        from polyray.runs.atomic import atomic_write_text

        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, text)
    return str(file)


def _row_writer(stem: str, is_table: bool) -> Callable[[tuple[int, Any]], str]:
    """(number, row) -> a line of JSON; rows of a table come without empty cells."""
    from polyray.data.tables import filled, plain_row

    def line(numbered: tuple[int, Any]) -> str:
        number, row = numbered
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"{stem}[{number}] is a {type(row).__name__}; give a dict with text under 'prompt'"
            )
        try:
            return json.dumps(filled(plain_row(row)) if is_table else dict(row)) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{stem}[{number}] cannot be written as JSON: {error}") from None

    return line


def _plain(value: Any) -> Any:
    """Values as YAML has them: paths as texts, functions as rewards of type `callable`."""
    if isinstance(value, Mapping):
        function = value.get("function")
        if callable(function):
            return _callable_reward(function) | {k: _plain(v) for k, v in value.items() if k != "function"}
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _callable_reward(value) if callable(value) else value


def _callable_reward(function: Any) -> dict[str, Any]:
    """Pickles a function for this process's runs; returns its section of the configuration."""
    from polyray.rewards.callables import Identity, cached_functions_by_value, offer

    cloudpickle = import_module("ray.cloudpickle")

    name = getattr(function, "__qualname__", type(function).__qualname__)
    identity = Identity()
    advice = "open files, locks and clients inside the function, or give reward='FILE.py:FUNCTION'"
    where = f"reward function {name} cannot be sent to the reward replica ({advice})"
    with boundary(ConfigError, where), cached_functions_by_value():
        sha256 = identity.of(function)
        try:
            for module in identity.modules.values():  # a replica cannot import the user's own modules
                cloudpickle.register_pickle_by_value(module)
            pickled = cloudpickle.dumps(function)
        finally:
            for module in identity.modules.values():
                cloudpickle.unregister_pickle_by_value(module)
    offer(sha256, pickled)
    return {"type": "callable", "name": name, "sha256": sha256}


@contextmanager
def _raising_origins() -> Iterator[None]:
    """Raises the error of a worker as it was raised there, out of Ray's wrapping."""
    put_root_on_path()
    try:
        yield
    except PolyrayError as error:
        origin = root_cause(error)
        if origin is error:
            raise
        origin.log = error.log or origin.log
        raise origin from error
