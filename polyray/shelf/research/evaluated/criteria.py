"""The research's success criteria, each with its value, its limits, its status, and the place of the value.

A difference counts as success only upwards: a significantly or largely worse value fails. A value that an evaluation
did not measure is not_measured, with the option that would measure it. Called by results.py and by tables.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyray.shelf.research.evaluated.inputs import EvaluatedRun, Inputs
from polyray.shelf.research.evaluated.sources import JsonFile, Source

Status = Literal["pass_target", "pass", "fail", "not_measured"]
MAX_K = 10
"""Largest k for the criteria, which speak of Pass@10; the largest measured k up to it is used, and named."""
JUDGE_OPTION = (
    "judging in the evaluation's configuration, or polyray judge configs/judge/pairwise.yaml "
    "samples=RUN/evaluation/samples.jsonl and its run directory beside this one"
)
REWARD_OPTION = "a run of polyray evaluate reward configs/evaluate/reward_replies.yaml beside this one"
REWARD_METRIC = "spearman_within"


@dataclass(frozen=True, slots=True)
class Rule:
    """One criterion and its limits.

    Example:
        Rule("significance", "p after correction", "below", minimum=.05, target=.01, option="evaluation.ks: [1, 10]")
    """

    name: str
    title: str
    side: Literal["below", "above", "at least"]
    minimum: float
    target: float | None
    """None: there is no second, stricter limit."""
    option: str
    """Option that would measure it."""

    def status(self, value: float | None, is_upwards: bool = True) -> Status:
        """Status of a value; None was not measured."""
        if value is None:
            return "not_measured"
        if not is_upwards:
            return "fail"
        if self.target is not None and self._meets(value, self.target):
            return "pass_target"
        return "pass" if self._meets(value, self.minimum) else "fail"

    def _meets(self, value: float, limit: float) -> bool:
        if self.side == "below":
            return value < limit
        return value > limit if self.side == "above" else value >= limit


COMPARED = "evaluation.ks with a k of at most 10, and two models or more with 2 clusters of prompts"
SIGNIFICANCE = Rule("significance", "p of pass@{k} after correction", "below", 0.05, 0.01, COMPARED)
EFFECT_SIZE = Rule("effect_size", "Cohen's d of pass@{k}", "above", 0.3, 0.5, COMPARED)
PASS_AT_K = Rule("pass_at_k", "pass@{k}, relative to the baseline", "at least", 0.15, 0.25, COMPARED)
ROUGE = Rule(
    "rouge_l",
    "ROUGE-L, relative to the baseline",
    "at least",
    -0.10,
    None,
    "evaluation.text_metrics: [reference], in a domain with references for its prompts",
)
JUDGE = Rule("judge_win_rate", "win rate against the baseline, by a judge", "above", 0.55, None, JUDGE_OPTION)
REWARD = Rule(
    "reward_correlation",
    "correlation of the reward with engagement, within prompts",
    "above",
    0.5,
    None,
    REWARD_OPTION,
)
RULES = (SIGNIFICANCE, EFFECT_SIZE, PASS_AT_K, ROUGE, JUDGE, REWARD)


def criteria(inputs: Inputs) -> dict[str, Any]:
    """The contents of criteria.json: rules, then an entry per model and rule, and per validated reward."""
    entries = [entry for run in inputs.runs for entry in _of_run(run)]
    entries += _of_rewards(inputs.rewards)
    return {
        "rules": [
            {name: getattr(rule, name) for name in ("name", "title", "side", "minimum", "target", "option")}
            for rule in RULES
        ],
        "criteria": entries,
    }


def criteria_k(run: EvaluatedRun) -> int | None:
    """The largest measured k up to MAX_K."""
    return max((k for k in run.ks if k <= MAX_K), default=None)


def _of_run(run: EvaluatedRun) -> Iterator[dict[str, Any]]:
    """Every model but the baseline, by every rule that compares models."""
    k = criteria_k(run)
    for model in run.models:
        if model == run.baseline:
            continue
        about = {"run": run.label, "domain": run.domain, "model": model, "baseline": run.baseline}
        at = _comparison(run, model, k)
        upwards = run.metrics.number("comparisons", *at, "difference") if at else None
        for rule, keys in ((SIGNIFICANCE, ("p_adjusted",)), (EFFECT_SIZE, ("effect_sizes", "cohens_d"))):
            value = run.metrics.number("comparisons", *at, *keys) if at else None
            sources = [run.metrics.source("comparisons", *at, *keys)] if at else []
            detail = _detail(run, at) if rule is SIGNIFICANCE else ""
            if upwards is not None and upwards <= 0:
                detail = ", ".join(filter(None, [detail, "the difference is not upwards"]))
            yield about | _entry(rule, value, sources, k, detail, upwards is None or upwards > 0)
        yield about | _relative(run, PASS_AT_K, model, "pass_at_k", k)
        yield about | _relative(run, ROUGE, model, "rouge_l", "value")
        yield from (about | entry for entry in _judged(run, model))


def _comparison(run: EvaluatedRun, model: str, k: int | None) -> tuple[int, ...]:
    """Place of pass@k of this model against the baseline in `comparisons`; () if it is missing."""
    wanted = {"metric": "pass_at_k", "k": k, "model": model, "baseline": run.baseline}
    for number, entry in enumerate(run.metrics.values.get("comparisons", [])):
        if all(entry.get(name) == value for name, value in wanted.items()):
            return (number,)
    return ()


def _detail(run: EvaluatedRun, at: tuple[int, ...]) -> str:
    return str(run.metrics.values["comparisons"][at[0]].get("family", "")) if at else ""


def _relative(run: EvaluatedRun, rule: Rule, model: str, metric: str, k: int | str | None) -> dict[str, Any]:
    """value / baseline - 1, from two places of metrics.json."""
    places = [("models", name, metric, str(k), "value") for name in (model, run.baseline)]
    own, other = (run.metrics.number(*place) for place in places)
    if own is None or other is None:
        return _entry(rule, None, [], k)
    sources = [run.metrics.source(*place) for place in places]
    if other == 0:
        return _entry(rule, None, sources, k, "the baseline has 0: there is no relative difference")
    return _entry(rule, own / other - 1, sources, k, f"{own:.4g} against {other:.4g}")


def _judged(run: EvaluatedRun, model: str) -> Iterator[dict[str, Any]]:
    """One entry per judge that compared these two; one without a value where none did."""
    found = False
    for summary in run.judges:
        for number, pair in enumerate(summary.values.get("pairs", [])):
            if (pair.get("model"), pair.get("baseline")) == (model, run.baseline):
                found = True
                keys = ("pairs", number, "win_rate", "value")
                detail = f"{summary.values.get('judge')}, {summary.values.get('status')}"
                yield _entry(JUDGE, summary.number(*keys), [summary.source(*keys)], None, detail)
    if not found:
        yield _entry(JUDGE, None, [], None)


def _of_rewards(files: Sequence[JsonFile]) -> list[dict[str, Any]]:
    """Every validated reward that is no baseline; one entry without a value where there is none."""
    entries: list[dict[str, Any]] = []
    for file in files:
        for name, scorer in file.values.get("scorers", {}).items():
            if scorer.get("role") != "model":
                continue
            keys = ("models", name, REWARD_METRIC, "value", "value")
            about = {
                "run": str(file.path.parent.parent),
                "domain": "rewards",
                "model": name,
                "baseline": None,
            }
            entries.append(about | _entry(REWARD, file.number(*keys), [file.source(*keys)], None))
    if not entries:
        about = {"run": None, "domain": "rewards", "model": None, "baseline": None}
        entries.append(about | _entry(REWARD, None, [], None))
    return entries


def _entry(
    rule: Rule,
    value: float | None,
    sources: Sequence[Source],
    k: int | str | None,
    detail: str = "",
    is_upwards: bool = True,
) -> dict[str, Any]:
    status = rule.status(value, is_upwards)
    return {
        "criterion": rule.name,
        "title": rule.title.format(k=k),
        "value": value,
        "minimum": rule.minimum,
        "target": rule.target,
        "side": rule.side,
        "status": status,
        "detail": detail,
        "measured_by": rule.option if status == "not_measured" else None,
        "sources": [source.as_json() for source in sources],
    }
