"""Shared parts of all command lines: arguments, `--check`, and errors as one line with an exit code.

A job is

    def main(argv: Sequence[str] | None = None) -> int:
        args = parse(argv, job="train", description=__doc__, config_model=TrainConfig)
        if args.check:
            return args.print_check(derived=lambda: derived_sizes(args.config))
        ...  # the first import of torch or ray

Nothing here imports torch or ray: `--help`, `--check` and every mistake are answered at once.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
import threading
import traceback
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel

from polyray.cluster.lost import end_with_ray
from polyray.config.base import as_json
from polyray.config.loader import load_config
from polyray.config.paths import put_root_on_path
from polyray.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USER_ERROR,
    ConfigError,
    MissingFiles,
    PolyrayError,
    root_cause,
)
from polyray.extensions import naming_the_extra
from polyray.runs.logging import choose_log_format

ConfigT = TypeVar("ConfigT", bound=BaseModel)

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 your input or the machine's resources, 130 stopped by a signal"
TRACEBACK_VARIABLE = "POLYRAY_TRACEBACK"
OWN_PACKAGES = ("", "polyray", "jobs", "services", "benchmarks")


@dataclass(frozen=True)
class JobArguments(Generic[ConfigT]):
    """A parsed command line."""

    job: str
    config: ConfigT
    check: bool
    namespace: Namespace
    """All arguments that argparse parsed, with those of `extra`."""

    def print_check(
        self,
        derived: Callable[[], Mapping[str, Any]] | None = None,
        inputs: Callable[[], object] | None = None,
    ) -> int:
        """Prints the resolved configuration, and sizes that follow from it, as JSON; returns exit code 0.

        `inputs` looks at the files that the job would read. Where it or `derived` finds some missing, the rest is
        printed, and MissingFile names them: a machine of the cluster may have them.
        """
        checked = {"job": self.job, "config": as_json(self.config)}
        missing = MissingFiles()
        with missing.noted():
            if inputs is not None:
                inputs()
        with missing.noted():
            if derived is not None:
                checked["derived"] = dict(derived())
        print(json.dumps(checked, indent=2))
        missing.raise_if_any()
        return EXIT_OK


def program(job: str) -> str:
    """Command that runs a job or a benchmark, e.g. `polyray train`."""
    return f"python -m {job}" if job.startswith("benchmarks") else f"polyray {job}"


class JobParser(ArgumentParser):
    """An ArgumentParser that raises ConfigErrors; also for jobs without a CONFIG."""

    def __init__(self, job: str, description: str | None, **options: Any) -> None:
        super().__init__(
            prog=program(job),
            description=description,
            epilog=EXIT_CODES,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def parse_strictly(self, argv: Sequence[str] | None = None) -> Namespace:
        """Options and positionals in any order; raises ConfigError for an option that does not exist."""
        namespace, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(options)}"
            self.error(f"unknown argument {unknown[0]}; {hint}")
        return namespace


def parse(
    argv: Sequence[str] | None,
    *,
    job: str,
    description: str | None,
    config_model: type[ConfigT],
    default_config: str | None = None,
    extra: Callable[[ArgumentParser], None] | None = None,
    reward_key: str = "reward",
) -> JobArguments[ConfigT]:
    """Read `[CONFIG] [key=value ...] [--check]` and the options that `extra` adds.

    `argv` None means the process's own; `default_config` makes CONFIG optional. `reward_key` is the reward that
    `--allow-code-execution` is about. Raises ConfigError.
    """
    config_help = "YAML file" + (f" (default: {default_config})" if default_config else "")
    config_name = "CONFIG" if default_config is None else "[CONFIG]"
    parser = JobParser(
        job, description, usage=f"{program(job)} {config_name} [key=value ...] [--check] [options]"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG key=value",
        help=f"{config_help}; then any number of overrides, e.g. learner.steps=10 name=my-run",
    )
    parser.add_argument(
        "--check", action="store_true", help="validate, print the resolved configuration as JSON and exit"
    )
    if reward_key.partition(".")[0] in config_model.model_fields:
        parser.add_argument(
            "--allow-code-execution",
            action="store_true",
            help=f"let {reward_key}.type=sandbox run programs that a model wrote "
            f"({reward_key}.allow_code_execution=true)",
        )
    if extra is not None:
        extra(parser)
    namespace = parser.parse_strictly(argv)
    path, overrides = _split(namespace.arguments, default_config, parser)
    if getattr(namespace, "allow_code_execution", False):
        overrides.append(f"{reward_key}.allow_code_execution=true")
    config = load_config(config_model, path, overrides)
    choose_log_format(getattr(config, "logging", "text"))
    return JobArguments(job, config, namespace.check, namespace)


def _split(arguments: Sequence[str], default_config: str | None, parser: JobParser) -> tuple[str, list[str]]:
    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(files) > 1:
        parser.error(f"one CONFIG expected, got {', '.join(files)}; overrides are written key=value")
    if not files and default_config is None:
        parser.error("CONFIG is missing: give a YAML file, e.g. one of configs/")
    return (files[0] if files else str(default_config)), overrides


def wait_for_signal(on_reload: Callable[[int], object] | None = None) -> None:
    """Returns at SIGINT or SIGTERM, calls `on_reload(1)`, `(2)`, ... at SIGHUPs.

    To be called after Ray has started, which installs handlers of its own.
    """
    stopped, reload = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    if on_reload is not None:
        signal.signal(signal.SIGHUP, lambda *_: reload.set())
    reloads = 0
    while not stopped.wait(0.5):  # a wait without a limit would not let the handler run
        if on_reload is not None and reload.is_set():
            reload.clear()
            on_reload(reloads := reloads + 1)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a job and leaves the process: PolyrayError becomes one line on stderr and its exit code.

    POLYRAY_TRACEBACK=1 prints the traceback as well. SIGINT and SIGTERM exit with 130; other exceptions are
    defects and keep their traceback.
    """
    put_root_on_path()
    end_with_ray()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with naming_the_extra():
            exit_code = main()
        sys.exit(exit_code or EXIT_OK)
    except PolyrayError as error:
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            traceback.print_exc()
        origin = root_cause(error)
        print(f"error: {origin}", file=sys.stderr)
        log = error.log or origin.log
        if log is not None:
            print(f"full traceback: {log}", file=sys.stderr)
        sys.exit(origin.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        print(
            f"error: the package {package} is missing here; this environment or image has not all that polyray "
            "requires: use one that has (pip install of the wheel, make setup, docker/)",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)


def _interrupt(number: int, frame: object) -> NoReturn:
    """End the job as SIGINT does, so that everything it started ends, too."""
    raise KeyboardInterrupt
