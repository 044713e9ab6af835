"""Samples any number of adapters on the held-out prompts: pass@k, distinct-correct@k, USQ@k, with intervals.

Reads an EvaluateConfig (configs/evaluate/), writes runs/NAME/evaluation/: samples.jsonl (every sample),
results.jsonl (verdicts), metrics.json (values, bootstrap intervals over clusters, paired comparisons). A
finished run prints its paths.

  python -m jobs.evaluate configs/evaluate/hidden_trap_grid.yaml
  python -m jobs.evaluate configs/evaluate/hidden_trap_grid.yaml evaluation.num_prompts=200 name=small
  python -m jobs.evaluate score runs/NAME/evaluation/samples.jsonl --selector reward

`score` computes metrics.json again from samples.jsonl, without Ray or torch; `score --help` explains its
options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli import JobParser, parse, run
from polyray.config.loader import build_config, load_config
from polyray.config.run import EvaluateConfig
from polyray.errors import EXIT_OK

if TYPE_CHECKING:
    from polyray.config.evaluation import EvaluationSpec
    from polyray.evaluation.sampling import Sample
    from polyray.observability.progress import ProgressDisplay
    from polyray.observability.run_directory import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of both forms."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["score"]:
        return score(arguments[1:])
    args = parse(arguments, job="evaluate", description=__doc__, config_model=EvaluateConfig)
    if args.check:
        return args.print_check(derived=derived_sizes(args.config))
    from jobs.fleet import open_ray, open_sampler
    from polyray.observability.progress import ProgressDisplay
    from polyray.observability.run_directory import RunDirectory

    with ProgressDisplay() as display, RunDirectory.open(args.config) as directory:
        if not directory.finished:
            with open_ray(args.config.ray, display), open_sampler(args.config) as sample:
                evaluate(args.config, directory, sample, display)
        show(directory, display)
    return EXIT_OK


def derived_sizes(config: EvaluateConfig) -> dict[str, int]:
    """How much is sampled."""
    from polyray.tasks import build_task

    num_prompts = len(build_task(config.task).held_out_prompts(config.evaluation.num_prompts))
    per_model = num_prompts * config.evaluation.num_samples
    return {
        "models": len(config.adapters),
        "prompts": num_prompts,
        "completions_per_model": per_model,
        "completions": per_model * len(config.adapters),
        "max_tokens": per_model * len(config.adapters) * config.rollout.max_completion_tokens,
    }


def evaluate(
    config: EvaluateConfig, directory: RunDirectory, sample: Sample, display: ProgressDisplay
) -> None:
    """Samples with `sample`, scores in this process, and writes evaluation/ and DONE."""
    from polyray.evaluation.sampling import EvaluationFiles, evaluate_models, evaluation_requests
    from polyray.rewards import build_reward, reward_source
    from polyray.rewards.groups import GroupToScore, score_groups
    from polyray.tasks import build_task
    from polyray.types import Prompt

    reward = build_reward(config.reward, config.task, reward_source(config.reward))

    def score_texts(prompt: Prompt, texts: Sequence[str]) -> tuple[Sequence[float], Sequence[int]]:
        scores = score_groups(reward, [GroupToScore(prompt, tuple(texts))])[0]
        return scores.rewards_G.tolist(), scores.classes_G.tolist()

    prompts = build_task(config.task).held_out_prompts(config.evaluation.num_prompts)
    evaluate_models(
        config.adapters,
        evaluation_requests(prompts, config.evaluation, config.rollout, config.seed),
        sample=sample,
        score=score_texts,
        files=EvaluationFiles(directory.paths.evaluation),
        spec=config.evaluation,
        seed=config.seed,
        domain=config.task.type,
        baseline=config.compare_to,
        progress=lambda name, done, total: display.update(phase=f"evaluating {name}", step=done, total=total),
    )
    directory.mark_done({"evaluation": str(directory.paths.evaluation)})


def show(directory: RunDirectory, display: ProgressDisplay) -> None:
    """The numbers of a finished evaluation and where its files lie."""
    import json

    from polyray.evaluation.sampling import EvaluationFiles
    from polyray.evaluation.summary import summary_table

    files = EvaluationFiles(directory.paths.evaluation)
    display.note(summary_table(json.loads(files.metrics.read_text(encoding="utf-8"))))
    display.note(f"samples   {files.samples}\nmetrics   {files.metrics}")
    display.note(f"report    python -m jobs.report {directory.paths.root}")


def score(argv: Sequence[str]) -> int:
    """`evaluate score SAMPLES_JSONL`, with the settings of the config.json in its run directory, if any."""
    parser = JobParser(
        "evaluate score", "Computes metrics.json again from a samples.jsonl, without Ray or torch."
    )
    parser.add_argument("samples", metavar="SAMPLES_JSONL")
    parser.add_argument(
        "--ks", metavar="1,2,4,8", help="default: those of the evaluation, else 1,2,4,8 up to n"
    )
    parser.add_argument("--selector", help="reward, logprob, length, first or random")
    parser.add_argument("--baseline", metavar="MODEL", help="the model all others are compared with")
    parser.add_argument("--seed", type=int, help="of the bootstrap")
    parser.add_argument("--resamples", type=int, help="of the bootstrap")
    parser.add_argument(
        "--pass-threshold", type=float, default=None, help="rewards from here on are passes; default 1"
    )
    parser.add_argument("--out", metavar="FILE", help="default: metrics.json beside the samples")
    parser.add_argument("--check", action="store_true", help="print the settings as JSON and exit")
    options = vars(parser.parse_strictly(argv))
    return _score_file(Path(options["samples"]), options)


def _score_file(samples: Path, options: Mapping[str, Any]) -> int:
    import json

    from polyray.evaluation.per_prompt import PASS_THRESHOLD
    from polyray.evaluation.records import read_samples
    from polyray.evaluation.scoring import score_samples
    from polyray.evaluation.summary import summary_table
    from polyray.observability.atomic import atomic_write_json

    config_file = samples.resolve().parent.parent / "config.json"
    known = load_config(EvaluateConfig, config_file) if config_file.is_file() else None
    spec = _spec(known, options)
    settings = {
        "seed": options["seed"] if options["seed"] is not None else known.seed if known else 0,
        "baseline": options["baseline"] or (known.compare_to if known else None),
        "pass_threshold": options["pass_threshold"]
        if options["pass_threshold"] is not None
        else PASS_THRESHOLD,
    }
    out = Path(options["out"]) if options["out"] else samples.with_name("metrics.json")
    if options["check"]:
        print(
            json.dumps(
                {"job": "evaluate score", "out": str(out), **settings, **spec.model_dump(mode="json")},
                indent=2,
            )
        )
        return EXIT_OK
    metrics = score_samples(read_samples(samples), spec, **settings)
    atomic_write_json(out, metrics)
    print(f"{summary_table(metrics)}\nmetrics   {out}")
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
    return build_config(EvaluationSpec, values, source="evaluate score")


if __name__ == "__main__":
    run(main)
