"""Every error polyray raises on purpose, in one tree.

    PolyrayError
    ├── LearnerError                  the training processes failed, and starting them again would not help
    ├── ConfigError (ValueError)      the user's configuration or command line: exit code 2
    ├── DataError (ValueError)        a task or data file: exit code 2
    │   └── MissingFile               no such file on this machine; another one may have it (a ConfigError, too)
    ├── ResourceError                 CPUs, ports, memory the machine does not have: exit code 2
    ├── MonitorStopped                a monitor with action=stop raised its alarm
    ├── RolloutError                  an engine or a rollout worker
    ├── RewardError                   a reward function or the reward service
    │   └── JudgeError                an LLM judge whose endpoint refuses, or whose answers cannot be used
    │       └── BudgetReached         the judge's budget is spent
    ├── WeightSyncError                 getting a policy version into the engines
    │   └── WeightSyncMismatch        an engine does not serve the version it was given
    ├── SandboxError                  running an untrusted program
    ├── CheckpointError               a checkpoint that cannot be written or read
    └── Stopped                       a signal asked for it; the run can be started again

Exit codes: 0 done; 1 a failure; 2 the user's input, or what this machine lacks; 130 stopped by a signal.
`is_permanent` is the rule for which errors end a run at once instead of starting its learner again.

Each message names the value, the limit and the fix. All of them pickle (they are built from one string),
because they cross process boundaries. A failed completion is data in its group, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard, TypeVar

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class PolyrayError(Exception):
    """Root of everything polyray raises on purpose."""

    exit_code: int = EXIT_FAILURE
    permanent: bool = False
    """True: another try leads to the same error, so none is made."""
    log: str | None = None
    """File with the full traceback, once it is written."""


class LearnerError(PolyrayError):
    """The training processes failed, and starting them again would not help, or has not helped."""

    permanent = True


class ConfigError(PolyrayError, ValueError):
    """The configuration, an override or a command line is wrong."""

    exit_code = EXIT_USER_ERROR
    permanent = True


class DataError(PolyrayError, ValueError):
    """A data or task file is missing or broken; the message names the file and the line."""

    exit_code = EXIT_USER_ERROR
    permanent = True


class MissingFile(DataError, ConfigError):
    """Missing file on this machine; each line of the message that names one begins with its path and MARK."""

    MARK = ": no such file"

    @property
    def paths(self) -> list[str]:
        """The files, absolute where a configuration names them."""
        lines = (line.strip() for line in str(self).splitlines())
        return [line.partition(self.MARK)[0] for line in lines if self.MARK in line]


_BETWEEN = "\n  "
"""Between the messages of a MissingFile that names several."""


class MissingFiles:
    """Several looks at files, after which all that are missing are named in one error.

    Example:
        missing = MissingFiles()
        with missing.noted():
            read(first)
        with missing.noted():
            read(second)
        missing.raise_if_any()
    """

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A MissingFile raised inside is kept; what follows it inside is left out."""
        try:
            yield
        except MissingFile as missing:
            self._messages |= dict.fromkeys(str(missing).split(_BETWEEN))

    def raise_if_any(self) -> None:
        """Raises MissingFile with every message, each once."""
        if self._messages:
            raise MissingFile(_BETWEEN.join(self._messages))


class ResourceError(PolyrayError):
    """The machine or cluster lacks what the configuration asks for."""

    exit_code = EXIT_USER_ERROR
    permanent = True


class MonitorStopped(PolyrayError):
    """A monitor with action=stop raised its alarm; the newest checkpoint stays."""

    permanent = True


class RolloutError(PolyrayError):
    """An inference engine or its worker failed."""


class RewardError(PolyrayError):
    """A reward could not be computed, or the reward service answered something else than scores."""

    permanent = True


class JudgeError(RewardError):
    """An LLM judge cannot continue: its endpoint refuses, or too many of its answers cannot be used."""


class BudgetReached(JudgeError):
    """A judge's budget is spent; what was judged stays, and a larger budget continues there."""


class WeightSyncError(PolyrayError):
    """A policy version could not be published or loaded."""


class WeightSyncMismatch(WeightSyncError):
    """An engine acknowledged a version that it demonstrably does not serve."""


class SandboxError(PolyrayError):
    """An untrusted program could not be run in isolation."""


class CheckpointError(PolyrayError):
    """A checkpoint cannot be written, or none of those present is valid."""

    permanent = True


class Stopped(PolyrayError):
    """A signal ended the run in good order; the same command resumes it."""

    exit_code = EXIT_INTERRUPTED


def is_user_error(error: BaseException) -> TypeGuard[PolyrayError]:
    """Whether only the user can mend it: trying again leads to the same."""
    return isinstance(error, PolyrayError) and error.exit_code == EXIT_USER_ERROR


REPEATED = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError,
    SyntaxError, TypeError, ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError,
)  # fmt: skip
"""Foreign errors that a computation which is the same every time raises every time, e.g. a token id out of range."""


ErrorT = TypeVar("ErrorT", bound=BaseException)


def root_cause(error: ErrorT) -> ErrorT | PolyrayError:
    """The polyray error inside Ray's wrapping (Ray keeps it as `cause`); `error` itself if there is none."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PolyrayError) else error


def is_permanent(error: BaseException) -> bool:
    """Whether another try leads to the same error.

    Dead processes, lost nodes, timeouts, devices and networks (RuntimeError, OSError, MemoryError, ...) are worth
    another try.
    """
    return error.permanent if isinstance(error, PolyrayError) else isinstance(error, REPEATED)


@contextmanager
def boundary(error_class: type[PolyrayError], what: str) -> Iterator[None]:
    """Turn any error of foreign code into one of our errors; `what` says where it happened.

    Our own errors pass unchanged: they already say it better.
    """
    try:
        yield
    except PolyrayError:
        raise
    except Exception as error:
        raise error_class(f"{what}: {type(error).__name__}: {error}") from error
