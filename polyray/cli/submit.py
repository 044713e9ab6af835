"""Runs a job on a cluster, through the Jobs API of its head node.

A clone sends itself, an installed wheel sends the current directory, both without runs, data, environments and files
that git ignores; packages come from the cluster's image. The job itself is `python -m polyray.cli JOB CONFIG ...`
there, in a copy that Ray removes. Therefore `runs_dir`, adapters and data are absolute paths of a directory that all
machines see. The configuration is checked here first, before anything is sent.

  polyray submit train configs/train/hidden_trap_grid.yaml algorithm=@drgrpo name=first runs_dir=/shared/runs \\
      model.warm_start=/shared/runs/sft/adapter --address http://HEAD:8265
  polyray submit doctor --address http://HEAD:8265 --no-wait -- --no-engine
  polyray submit --list    --address http://HEAD:8265
  polyray submit --status polyray-train-first-1f3a --address http://HEAD:8265     also --logs, --stop
  polyray submit --resume polyray-train-first-1f3a --address http://HEAD:8265     the same command again

Without --address: RAY_API_SERVER_ADDRESS. A cluster with token authentication wants RAY_AUTH_MODE=token and its token
in RAY_AUTH_TOKEN (or a file, RAY_AUTH_TOKEN_PATH). Ctrl-C stops following the log, not the job. The exit code is the
job's own, 130 where it was stopped. Secrets never travel with a job, whose command and variables everybody reads on
the dashboard: they belong into the cluster's own environment. Files such as .env and *.pem are not sent.
"""

from __future__ import annotations

import importlib
import io
import json
import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from polyray.submission.client import Cluster
    from polyray.submission.job import Submission

CHECKED = ("curate", "evaluate", "judge", "pretrain", "quickstart", "sft", "sweep", "train", "train_reward")
"""Jobs with a CONFIG and --check."""
UNCHECKED = ("analyze", "doctor", "export", "report")
ABOUT_JOBS = ("list", "status", "logs", "stop", "resume")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    import sys

    given = list(sys.argv[1:] if argv is None else argv)
    own, _, options = _split(given)
    args = _parse(own)
    if args.about is not None:
        _refuse_without_effect(args, options)
        return _about(args)
    submission = _submission(args, options)
    return _show(submission) if args.check else _send(_open(args), submission, args)


def _split(given: list[str]) -> tuple[list[str], str, list[str]]:
    """What stands behind `--` belongs to the job."""
    at = given.index("--") if "--" in given else len(given)
    return given[:at], "--", given[at + 1 :]


def _parse(argv: Sequence[str]) -> Namespace:
    usage = "polyray submit JOB CONFIG [key=value ...] --address URL [options] [-- options of the job]"
    parser = JobParser("submit", __doc__, usage=usage)
    parser.add_argument("arguments", nargs="*", metavar="JOB CONFIG key=value", help="as for the job itself")
    parser.add_argument("--address", metavar="URL", help="of the head's dashboard, e.g. http://HEAD:8265")
    parser.add_argument("--list", action="store_true", help="polyray's jobs on the cluster, the newest last")
    for name, text in (
        ("status", "how a job stands"),
        ("logs", "what it printed, and prints until it ends"),
        ("stop", "end it in good order: it writes a checkpoint"),
        ("resume", "submit its command again: it goes on from its newest checkpoint"),
    ):
        parser.add_argument(f"--{name}", metavar="ID", help=text)
    parser.add_argument(
        "--no-wait", action="store_true", help="print the id and return; --logs ID follows it"
    )
    parser.add_argument("--cpus", type=float, help="of the job's own process (default: 1)")
    parser.add_argument("--memory-gb", type=float, help="of the job's own process")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="no secrets: everybody reads it"
    )
    parser.add_argument("--any-version", action="store_true", help="also where Ray's version differs")
    parser.add_argument("--check", action="store_true", help="print what would be sent as JSON and exit")
    args = parser.parse_strictly(argv)
    asked = [name for name in ABOUT_JOBS if getattr(args, name)]
    args.about = asked[0] if asked else None
    if len(asked) > 1 or (asked and args.arguments):
        parser.error(f"--{asked[0]} stands alone, beside --address")
    if not asked and not args.arguments:
        parser.error(f"JOB is missing: one of {', '.join((*CHECKED, *UNCHECKED))}")
    return args


def _refuse_without_effect(args: Namespace, options: Sequence[str]) -> None:
    """ConfigError for what was given beside --status, --logs, ... and would be ignored."""
    resumes = args.about == "resume"
    given = {
        "--check": args.check and not resumes,
        "--no-wait": args.no_wait and not resumes,
        "--cpus": args.cpus is not None and not resumes,
        "--memory-gb": args.memory_gb is not None and not resumes,
        "--env": bool(args.env),
        "options behind --": bool(options),
    }
    ignored = [name for name, is_given in given.items() if is_given]
    if ignored:
        known = " (beside it: --check, --no-wait, --cpus, --memory-gb)" if resumes else ""
        raise ConfigError(
            f"{', '.join(ignored)}: no effect beside --{args.about}{known}; leave it out, or submit JOB CONFIG anew"
        )


def _submission(args: Namespace, options: Sequence[str]) -> Submission:
    """The job to send, after its own --check. Raises ConfigError for a mistake in it."""
    from polyray.config.paths import paths_as_written
    from polyray.submission.job import Submission, refuse_secrets
    from polyray.submission.paths import (
        files_left_to_the_cluster,
        refuse_another_directory,
        refuse_paths_of_the_copy,
    )

    job, *rest = args.arguments
    if job not in (*CHECKED, *UNCHECKED):
        raise ConfigError(f"unknown job {job!r}; known: {', '.join((*CHECKED, *UNCHECKED))}")
    variables = {}
    for given in args.env:
        name, equals, value = given.partition("=")
        if not equals or not name:
            raise ConfigError(f"--env {given.split('=')[0]!r} has no value; write --env NAME=VALUE")
        variables[name] = value
    refuse_secrets([*rest, *options], variables, os.environ)
    config: dict[str, Any] = {}
    with paths_as_written() as written:
        if job in CHECKED:
            with redirect_stdout(io.StringIO()) as printed, files_left_to_the_cluster(printed, written):
                importlib.import_module(f"polyray.cli.{job}").main([*rest, *options, "--check"])
            config = _config_of(printed.getvalue())
        refuse_paths_of_the_copy(job, [*rest, *options], config, written)
    refuse_another_directory(written, [*rest, *options])
    name = str(config.get("name", ""))
    cpus = 1.0 if args.cpus is None else args.cpus
    return Submission.of(job, name, [*rest, *options], variables, cpus, args.memory_gb)


def _config_of(printed: str) -> dict[str, Any]:
    """Part of the run's configuration that --check printed; empty without one."""
    try:
        checked: Any = json.loads(printed)
        return dict(checked["config"])
    except (ValueError, KeyError, TypeError):
        return {}


def _open(args: Namespace) -> Cluster:
    from polyray.submission.client import Cluster

    address = args.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError("--address is missing: the head's dashboard, e.g. --address http://127.0.0.1:8265")
    return Cluster.open(address, args.any_version)


def _show(submission: Submission) -> int:
    """--check: what would be sent."""
    print(json.dumps({"job": "submit", **submission.as_json()}, indent=2))
    return EXIT_OK


def _send(cluster: Cluster, submission: Submission, args: Namespace) -> int:
    submission_id = cluster.submit(submission)
    print(f"job       {submission_id}")
    print(f"by hand   {submission.by_hand(cluster.address)}")
    print(f"page      {cluster.address}/#/jobs/{submission_id}", flush=True)
    if args.no_wait:
        print(f"log       polyray submit --logs {submission_id} --address {cluster.address}")
        return EXIT_OK
    return _follow(cluster, submission_id)


def _follow(cluster: Cluster, submission_id: str) -> int:
    """The log until the job ends; its exit code is the job's."""
    try:
        line, exit_code = cluster.follow(submission_id)
    except KeyboardInterrupt:
        print(f"\nthe job goes on; polyray submit --stop {submission_id} --address {cluster.address} ends it")
        return EXIT_INTERRUPTED
    print(line)
    return exit_code


def _about(args: Namespace) -> int:
    cluster = _open(args)
    if args.list:
        print("\n".join(cluster.lines()) or f"polyray has no job at {cluster.address}")
        return EXIT_OK
    submission_id = getattr(args, args.about)
    if args.about == "status":
        print(cluster.line(submission_id))
    elif args.about == "logs":
        return _follow(cluster, submission_id)
    elif args.about == "stop":
        cluster.stop(submission_id)
        print(cluster.line(submission_id))
    else:
        again = cluster.again(submission_id, args.cpus, args.memory_gb)
        return _show(again) if args.check else _send(cluster, again, args)
    return EXIT_OK
