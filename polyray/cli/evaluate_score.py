"""`polyray evaluate score`: numbers from a file of samples, without Ray or torch (not a job itself).

Two forms: without --task the rewards in the file are taken as they are and metrics.json is made again; with --task
the samples are judged anew against a file of problems, programs in the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from polyray.cli.arguments import JobParser
from polyray.config.evaluation import ExportName
from polyray.config.loader import build_config, load_config
from polyray.config.run import EvaluateConfig
from polyray.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from polyray.config.evaluation import EvaluationSpec

OF_PROBLEMS = ("problems", "export", "set", "allow_code_execution", "timeout", "workers", "strict")
"""Options that say how samples are judged anew."""
TASKS = ("code", "math", "question_answering")
DESCRIPTION = """Scores a file of samples, without Ray or torch.

  metrics.json again, from the rewards in the file:
    polyray evaluate score runs/NAME/evaluation/samples.jsonl --ks 1,2,4 --selector first
  samples of any tool (task_id, completion or solution; repeats allowed) against a file of problems:
    polyray evaluate score samples.jsonl --task code --problems HumanEval.jsonl.gz \\
        --allow-code-execution --out scored/
  writes scored/{samples,results}.jsonl and scored/metrics.json; after a kill the same command resumes, and results of
  other samples, problems or settings are never overwritten.
"""


def score(argv: Sequence[str]) -> int:
    """The command line; settings come from the config.json of the samples' own run where there is one."""
    options = vars(_parser().parse_strictly(argv))
    samples = Path(options["samples"])
    if options["task"] is None:
        for name in OF_PROBLEMS:
            if options[name]:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} needs --task, the task of the samples, e.g. --task code")
        return _from_rewards(samples, options)
    if options["allow_self_selection"]:
        raise ConfigError("--allow-self-selection is for the rewards in the file; leave it out with --task")
    return _from_problems(samples, options)


def _parser() -> JobParser:
    parser = JobParser("evaluate score", DESCRIPTION)
    parser.add_argument("samples", metavar="SAMPLES_JSONL")
    parser.add_argument(
        "--ks", metavar="1,3,5,10", help="default: those of the run, else what the samples allow"
    )
    parser.add_argument("--selector", help="reward, logprob, length, first, random, noisy_user or diverse")
    parser.add_argument(
        "--allow-self-selection",
        action="store_true",
        help="report picks of the reward that a model was trained on, which are refused otherwise",
    )
    parser.add_argument("--baseline", metavar="MODEL", help="the model all others are compared with")
    parser.add_argument("--seed", type=int, help="of the bootstrap")
    parser.add_argument("--resamples", type=int, help="of the bootstrap")
    parser.add_argument(
        "--pass-threshold",
        type=float,
        default=None,
        help="rewards from here on are passes; default: threshold.json beside the samples (not with "
        "--task), else 1",
    )
    parser.add_argument("--task", choices=TASKS, help="judge the samples anew, as this task does")
    parser.add_argument("--problems", metavar="FILE", help="the task's problems, .jsonl or .jsonl.gz")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field of the task, e.g. --set mode=program",
    )
    parser.add_argument(
        "--allow-code-execution", action="store_true", help="run the programs, in the sandbox"
    )
    parser.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds a program may take")
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="programs run at once")
    parser.add_argument("--strict", action="store_true", help="tests and program in two processes")
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        choices=get_args(ExportName),
        help="also in this tool's format",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="with --task a directory; else default: beside the samples"
    )
    parser.add_argument("--check", action="store_true", help="print the settings as JSON and exit")
    return parser


def _from_rewards(samples: Path, options: Mapping[str, Any]) -> int:
    """metrics.json from the rewards that the file holds."""
    from polyray.evaluation.arms import training_reward
    from polyray.evaluation.passes import scorer_name
    from polyray.evaluation.pipeline import text_metrics_of
    from polyray.evaluation.sample_source import SampleFile
    from polyray.evaluation.scoring import ScoringContext, score_samples
    from polyray.tasks import build_task

    config_file = samples.resolve().parent.parent / "config.json"
    known = load_config(EvaluateConfig, config_file) if config_file.is_file() else None
    task = build_task(known.task) if known else None
    spec = _spec(known, options)
    threshold, threshold_source = _threshold(samples, options["pass_threshold"])
    context = ScoringContext(
        seed=_seed(known, options),
        baseline=options["baseline"] or (known.compare_to if known else None),
        pass_threshold=threshold,
        threshold_source=threshold_source,
        reward=scorer_name(known, task) if known and task else None,
        trained_on={name: training_reward(arm.adapter) for name, arm in known.adapters.items()}
        if known
        else {},
    )
    out = Path(options["out"]) if options["out"] else samples.with_name("metrics.json")
    if options["check"]:
        shown = {"seed": context.seed, "baseline": context.baseline, "pass_threshold": context.pass_threshold}
        return _print_check({"out": str(out), **shown, **spec.model_dump(mode="json")})
    with SampleFile(samples) as source:
        text_metrics = text_metrics_of(known, task, source) if known and task else None
        metrics = score_samples(source, spec, replace(context, text_metrics=text_metrics))
    return _finish(out, metrics)


def _threshold(samples: Path, given: float | None) -> tuple[float, Mapping[str, Any]]:
    """(threshold, its source): given on the command line, fixed by the samples' evaluation, or a reward of 1."""
    from polyray.evaluation.passes import THRESHOLD_FILE
    from polyray.metrics.groups import PASS_THRESHOLD

    file = samples.with_name(THRESHOLD_FILE)
    if given is not None:
        return given, {}
    if file.is_file():
        fixed = json.loads(file.read_text(encoding="utf-8"))
        return float(fixed["value"]), fixed
    return PASS_THRESHOLD, {}


def _from_problems(samples: Path, options: Mapping[str, Any]) -> int:
    """Judges every sample, then metrics.json."""
    from polyray.evaluation.problem_scoring import ProblemScoring, score_problems
    from polyray.metrics.groups import PASS_THRESHOLD

    if options["out"] is None:
        raise ConfigError("--out is missing: give a directory for results.jsonl and metrics.json")
    request = ProblemScoring(
        samples=samples,
        task=_task(options),
        out=Path(options["out"]),
        allow_code_execution=options["allow_code_execution"],
        timeout_s=options["timeout"],
        workers=options["workers"],
        strict=options["strict"],
        exports=tuple(options["export"]),
        ks=None if options["ks"] is None else tuple(_numbers(options["ks"])),
        selector=options["selector"],
        resamples=options["resamples"],
        baseline=options["baseline"],
        pass_threshold=PASS_THRESHOLD if options["pass_threshold"] is None else options["pass_threshold"],
        seed=_seed(None, options),
    )
    if options["check"]:
        return _print_check(request.as_json())
    return _finish(request.out / "metrics.json", score_problems(request, print_progress))


def print_progress(done: int) -> None:
    """A line every thousand samples."""
    if done % 1000 == 0:
        print(f"judged {done:,} samples", flush=True)


def _task(options: Mapping[str, Any]) -> dict[str, Any]:
    """The task's configuration: everything in the file is scored."""
    fields: dict[str, Any] = {"type": options["task"]}
    if options["problems"]:
        if not Path(options["problems"]).is_file():
            raise ConfigError(f"--problems {options['problems']}: no such file; give the task's problems")
        fields["path"] = options["problems"]
    for item in options["set"]:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write KEY=VALUE, e.g. --set mode=program")
        fields[key] = value
    return fields


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--ks {text!r}: write whole numbers with commas, e.g. --ks 1,3,5,10") from None


def _seed(known: EvaluateConfig | None, options: Mapping[str, Any]) -> int:
    if options["seed"] is not None:
        return options["seed"]
    return known.seed if known else 0


def _print_check(settings: Mapping[str, Any]) -> int:
    print(json.dumps({"job": "evaluate score", **settings}, indent=2))
    return EXIT_OK


def _finish(out: Path, metrics: Mapping[str, Any]) -> int:
    from polyray.evaluation.summary import summary_table
    from polyray.runs.atomic import atomic_write_json

    atomic_write_json(out, metrics)
    print(f"{summary_table(dict(metrics))}\nmetrics   {out}")
    return EXIT_OK


def _spec(known: EvaluateConfig | None, options: Mapping[str, Any]) -> EvaluationSpec:
    """The evaluation's settings with the options on top."""
    from polyray.config.evaluation import EvaluationSpec

    values: dict[str, Any] = known.evaluation.model_dump() if known else {}
    if options["ks"]:
        values["ks"] = [part.strip() for part in options["ks"].split(",")]
        values["num_samples"] = max(
            values.get("num_samples", 1), *(int(k) if k.isdigit() else 1 for k in values["ks"])
        )
    for name, option in (("selector", "selector"), ("bootstrap_resamples", "resamples")):
        if options[option] is not None:
            values[name] = options[option]
    if options["allow_self_selection"]:
        values["allow_self_selection"] = True
    return build_config(EvaluationSpec, values, source="evaluate score")
