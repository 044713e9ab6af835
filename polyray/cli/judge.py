"""An LLM judges an evaluation's samples: pairs in both orders, a rubric, or strategies; with intervals.

Reads a JudgeConfig (configs/judge/), writes runs/NAME/judge/: judgements.jsonl (one row per item), summary.json
(win rates, position bias, means, cost), answers.jsonl (every answer, so none is paid twice). Killed or out of
budget, the same line continues where it stopped. The key is read from the environment variable that
judge.api_key_env names.

  polyray judge configs/judge/pairwise.yaml samples=runs/NAME/evaluation/samples.jsonl
  polyray judge configs/judge/rubric_local.yaml judge.base_url=http://127.0.0.1:8000/v1
  polyray judge configs/judge/pairwise.yaml --check         how many requests, about how many tokens
  polyray judge agreement runs/A runs/B                     how far two judges agree on the same samples
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.cli.arguments import JobParser, parse
from polyray.config.judge import RESUMABLE_KEYS, JudgeConfig
from polyray.errors import EXIT_OK, BudgetReached, ConfigError, MissingFile, MissingFiles

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory
    from polyray.shelf.judge.items import JudgeItem, Judgement

SUMMARY_FILE = "summary.json"
CHARS_PER_TOKEN = 4
"""Characters per token for the estimate of --check."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of both forms."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["agreement"]:
        return compare(arguments[1:])
    args = parse(arguments, job="judge", description=__doc__, config_model=JudgeConfig)
    if args.check:
        return args.print_check(derived=lambda: planned(args.config))
    from polyray.launch.cost import judge_account, show_cost
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

    with ProgressDisplay() as display, RunDirectory.open(args.config, RESUMABLE_KEYS) as directory:
        if not directory.finished:
            with judge_account(args.config):
                judge(args.config, directory, display)
        else:
            check_finished(args.config, directory)
        show(directory, display)
        show_cost(directory.paths.root, display)
    return EXIT_OK


def planned(config: JudgeConfig) -> dict[str, Any]:
    """Number of questions; tokens are estimated from characters, without retries."""
    from polyray.shelf.judge.judges import JUDGES

    missing = MissingFiles()
    for key, path in (("samples", config.samples), ("human_ratings", config.human_ratings)):
        with missing.noted():
            if path is not None and not Path(path).is_file():
                raise MissingFile(f"{path}: no such file; set {key} to an existing file")
    missing.raise_if_any()
    asked = [JUDGES[config.mode].questions(item, config.judge) for item in items_of(config)]
    requests = [question for questions in asked for question in questions]
    tokens = sum(len(question.system) + len(question.user) for question in requests) // CHARS_PER_TOKEN
    plan: dict[str, Any] = {"items": len(asked), "requests": len(requests), "input_tokens_about": tokens}
    plan["output_tokens_at_most"] = len(requests) * config.judge.max_tokens
    if config.judge.prices is not None:
        prices = config.judge.prices
        cost = tokens * prices.input + plan["output_tokens_at_most"] * prices.output
        plan["cost_usd_at_most_about"] = round(cost / 1e6, 2)
    return plan


def items_of(config: JudgeConfig) -> list[JudgeItem]:
    """Items of the configuration, in a fixed order."""
    from polyray.evaluation.records import read_samples
    from polyray.shelf.judge import from_samples

    items: list[JudgeItem] = []
    if config.samples is not None:
        records = read_samples(config.samples)
        chosen = from_samples.select_samples(records, config.models, config.num_prompts)
        count = config.samples_per_prompt
        if config.mode == "pairwise":
            items += from_samples.pair_items(chosen, config.compare_to or next(iter(chosen)), count or 1)
        elif config.mode == "rubric":
            items += from_samples.rubric_items(chosen, count or 1)
        else:
            items += from_samples.cluster_items(chosen, count)
    if config.human_ratings is not None:
        items += [rated.item for rated in from_samples.read_rated_texts(Path(config.human_ratings))]
    return items


def judge(config: JudgeConfig, directory: RunDirectory, display: ProgressDisplay) -> None:
    """Ask for missing judgements and write judge/ and, once everything is judged, DONE.

    Raises BudgetReached, or JudgeError if the judge is unusable; summary.json then covers the judgements so far.
    """
    from polyray.config.judge import ANSWERS_FILE
    from polyray.shelf.judge.log import JUDGEMENTS_FILE, JudgementLog
    from polyray.shelf.judge.runner import JudgeRunner, UnjudgedGuard

    items = items_of(config)
    folder = directory.paths.judge
    cache = Path(config.cache_dir) if config.cache_dir is not None else folder
    guard = UnjudgedGuard(config.judge.max_unjudged_share)
    status = "stopped"
    with JudgementLog(folder / JUDGEMENTS_FILE) as log:
        rows = list(log.kept)
        for row in rows:
            guard.count(row)
        missing = list(log.missing(items, config.mode, config.judge))
        with JudgeRunner(
            config.judge,
            config.mode,
            cache / ANSWERS_FILE,
            owner=config.name,
            guard=guard,
            progress=lambda done, usage: display.update(
                phase="judging", step=len(log.kept) + done, total=len(items)
            ),
        ) as runner:
            try:
                for judgement in runner.stream(missing):
                    log.append(judgement)
                    rows.append(judgement)
                status = "complete"
            except BudgetReached:
                status = "budget"
                raise
            finally:
                _write_summary(config, folder, rows, status, len(items), runner.spent.as_row())
    directory.mark_done({"judge": str(folder), "inputs": _input_sha256(config)})


def check_finished(config: JudgeConfig, directory: RunDirectory) -> None:
    """Raises ConfigError where a finished run has judged other texts than the files hold now."""
    judged = directory.summary().get("inputs", {})
    for path, digest in _input_sha256(config).items():
        if judged.get(path, digest) != digest:
            raise ConfigError(
                f"{path} has changed since {directory.paths.root} judged it (sha256 {judged[path][:12]} -> "
                f"{digest[:12]}); give this run another name (name=...), or delete {directory.paths.root}"
            )


def _input_sha256(config: JudgeConfig) -> dict[str, str]:
    from polyray.runs.data_record import sha256_of

    files = [Path(path) for path in (config.samples, config.human_ratings) if path is not None]
    return {str(file): sha256_of(file) for file in files if file.is_file()}


def show(directory: RunDirectory, display: ProgressDisplay) -> None:
    """Show the numbers of a finished run and the paths of its files."""
    import json

    from polyray.shelf.judge.log import JUDGEMENTS_FILE
    from polyray.shelf.judge.summary import summary_table

    folder = directory.paths.judge
    summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    display.note(summary_table(summary))
    display.note(f"judgements  {folder / JUDGEMENTS_FILE}\nsummary     {folder / SUMMARY_FILE}")


def compare(argv: Sequence[str]) -> int:
    """`judge agreement A B`: two runs, or two judgements.jsonl, of the same samples."""
    parser = JobParser(
        "judge agreement",
        "How far two judges agree on the same samples: share, Cohen's kappa, Krippendorff's alpha.",
    )
    parser.add_argument(
        "runs", nargs=2, metavar="RUN", help="a run of polyray judge, or its judgements.jsonl"
    )
    paths = [_judgements_file(Path(name)) for name in parser.parse_strictly(argv).runs]
    import json

    from polyray.shelf.judge import agreement, read_judgements

    print(json.dumps(agreement(*(read_judgements(path) for path in paths)), indent=2))
    return EXIT_OK


def _judgements_file(path: Path) -> Path:
    from polyray.shelf.judge.log import JUDGEMENTS_FILE

    file = path if path.is_file() else path / "judge" / JUDGEMENTS_FILE
    if not file.is_file():
        raise ConfigError(f"no judgements at {file}; give a run of polyray judge, or its {JUDGEMENTS_FILE}")
    return file


def _write_summary(
    config: JudgeConfig,
    folder: Path,
    rows: Sequence[Judgement],
    status: str,
    num_items: int,
    spent: dict[str, Any],
) -> None:
    from polyray.runs.atomic import atomic_write_json
    from polyray.shelf.judge import Intervals, human_correlation, summarise
    from polyray.shelf.judge.from_samples import read_rated_texts

    intervals = Intervals(config.bootstrap_resamples, config.confidence, config.seed)
    summary = {"status": status, "n_planned": num_items, "spent": spent} | summarise(rows, intervals)
    if config.human_ratings is not None and status == "complete":
        rated = read_rated_texts(Path(config.human_ratings))
        ratings = {text.item.item_id: text.ratings for text in rated}
        summary["human_correlation"] = human_correlation(rows, ratings, intervals)
    atomic_write_json(folder / SUMMARY_FILE, summary)
