"""Tables, tests and figures of docs/results.md and of README.md, from the files in docs/results (no script).

Every number between `<!-- study NAME -->`, `<!-- rates NAME -->` or `<!-- studies -->` and `<!-- end -->` comes from
here, the text around it does not. Called by study.py; a test compares the pages with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

from benchmarks.study_file import AT_K, DISTINCT, RESULTS, SFT_ONLY, USQ, Study, best_rates, rates_tried
from polyray.metrics import PairComparison, compare_metrics, hierarchical_intervals
from polyray.metrics.bootstrap import MeanInterval

DOCS = RESULTS.parent
PAGE, README = DOCS / "results.md", DOCS.parent / "README.md"
PASS_1, PASS_8, PASS_32 = "pass_at_1", f"pass_at_{AT_K}", "pass_at_32"
TESTED = {PASS_1: "pass@1", PASS_8: f"pass@{AT_K}", DISTINCT: f"distinct-correct@{AT_K}", USQ: f"USQ@{AT_K}"}
SHOWN = {
    PASS_1: "pass@1",
    PASS_8: f"pass@{AT_K}",
    PASS_32: "pass@32",
    DISTINCT: TESTED[DISTINCT],
    USQ: TESTED[USQ],
}
MARGIN_SHARE = 0.02
"""Share of the best arm's pass@1 that counts as no loss."""
README_ARMS = (
    SFT_ONLY,
    "GRPO",
    "Dr.GRPO",
    "Dr.GRPO + KL",
    "Pass@k Training",
    "PKPO",
    "Poly-EPO",
    "polychromic",
    "polychromic + KL",
    "two-phase polychromic",
)
OWN = ("polychromic", "two-phase")
"""Beginnings of the names of polychromic arms; the other RL arms are the baselines."""
ALPHA = 0.05
TITLES = {
    "grid": "hidden traps",
    "no-traps": "no traps",
    "shortest-path": "shortest paths",
    "siblings": "siblings",
    "three-words": "sentences, SmolLM2",
}
"""Study -> its task in the table of README.md, in this order."""
_BLOCK = re.compile(r"(<!-- (study|rates|studies) ?([a-z_-]*?) ?-->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH, HEIGHT, PLOT = 860, 420, (70, 20, 500, 350)
"""Of a figure, and its plot's left, top, width and height, in pixels."""


def write_pages() -> None:
    """Both pages and the figures."""
    for page in (PAGE, README):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for name in study_names():
        (RESULTS / f"{name}.svg").write_text(figure(name), encoding="utf-8")


def filled(text: str) -> str:
    """A page with its blocks made anew."""
    made = {"study": _study_block, "rates": _rates_block, "studies": lambda _: _summary()}
    return _BLOCK.sub(lambda found: found[1] + made[found[2]](found[3]) + found[4], text)


def study_names() -> list[str]:
    """Names of the studies that have a file."""
    return sorted(file.stem for file in RESULTS.glob("*.json") if not file.stem.endswith("-rates"))


@cache
def _study(name: str) -> Study:
    return Study.read(RESULTS / f"{name}.json")


@cache
def intervals(name: str) -> dict[str, dict[str, MeanInterval]]:
    """metric -> arm -> mean with its interval over seeds and clusters of prompts."""
    study = _study(name)
    found: dict[str, dict[str, MeanInterval]] = {}
    for metric in SHOWN:
        matrices = study.matrices(metric)
        found[metric] = dict(
            zip(matrices, hierarchical_intervals(list(matrices.values()), study.clusters), strict=True)
        )
    return found


@cache
def compared(name: str) -> tuple[PairComparison, ...]:
    """Every other arm against the reference, in all metrics; p-values are Holm's over all of them."""
    study = _study(name)
    best = max(interval.value for interval in intervals(name)[PASS_1].values())
    return compare_metrics(
        {metric: study.matrices(metric) for metric in TESTED},
        clusters=study.clusters,
        baseline=study.setup["reference"],
        margins={PASS_1: MARGIN_SHARE * best},
    ).pairs


def _study_block(name: str) -> str:
    study = _study(name)
    return "\n".join(
        [*_setup_lines(study), "", *_means_table(name), "", *_tests_table(name), "", *_aims(name), ""]
    )


def _rates_block(name: str) -> str:
    rows = json.loads((RESULTS / f"{name}-rates.json").read_text(encoding="utf-8"))
    chosen, tried = best_rates(rows), rates_tried(rows)
    rates = sorted({row["learning_rate"] for row in rows})
    lines = [f"| arm | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|" + "---|" * len(rates)]
    for arm, best in chosen.items():
        cells = []
        for rate in rates:
            row = tried[arm].get(rate)
            text = (
                "-" if row is None else f"{_number(row[PASS_1])} {_number(row[PASS_8])} {row[DISTINCT]:.2f}"
            )
            cells.append(f"**{text}**" if rate == best else text)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _setup_lines(study: Study) -> list[str]:
    setup, trained = study.setup, [trial for trial in study.trials if trial["seed"] is not None]
    seeds = sorted({trial["seed"] for trial in trained})
    machines = sorted({trial["machine"] for trial in trained})
    commands = dict.fromkeys(trial["command"] for trial in trained)
    hours = sum(trial["minutes"] for trial in trained) / 60
    return [
        f"{', '.join(f'`{command}`' for command in commands)}; seeds {', '.join(map(str, seeds))}: {len(trained)} "
        f"trials of {setup['steps']} steps "
        f"of {setup['completions_per_step']} completions. {len(study.clusters):,} held-out prompts in "
        f"{len(set(study.clusters))} clusters, {setup['num_samples']} samples each; USQ's selector: "
        f"{setup['selector']}. "
        f"Trials took {hours:.1f} h together, several at a time, on {'; '.join(machines)}.",
    ]


def _means_table(name: str) -> list[str]:
    study, means = _study(name), intervals(name)
    best = {metric: max(round(entry.value, 3) for entry in means[metric].values()) for metric in SHOWN}
    lines = [
        f"| arm | rate | {' | '.join(SHOWN.values())} | entropy | minutes |",
        "|---|---|" + "---|" * (len(SHOWN) + 2),
    ]
    for arm, trials in study.arms.items():
        cells = [_mean(means[metric][arm], best[metric]) for metric in SHOWN]
        rate, entropy, minutes = ("", "", "")
        if arm != SFT_ONLY:
            rate = f"{trials[0]['learning_rate']:g}"
            entropy = f"{_average(trials, 'entropy'):.2f}"
            minutes = f"{_average(trials, 'minutes'):.1f}"
        lines.append(f"| {arm} | {rate} | {' | '.join(cells)} | {entropy} | {minutes} |")
    return lines


def _mean(entry: MeanInterval, best: float) -> str:
    value = _number(entry.value)
    shown = f"**{value}**" if round(entry.value, 3) >= best else value
    return f"{shown} [{_number(entry.low)}, {_number(entry.high)}]"


def _average(trials: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(trial[name]) for trial in trials) / len(trials)


def _tests_table(name: str) -> list[str]:
    reference, pairs = _study(name).setup["reference"], compared(name)
    rows: dict[str, dict[str, PairComparison]] = {}
    for pair in pairs:
        rows.setdefault(pair.model, {})[pair.metric] = pair
    lines = [
        f"Each arm minus {reference}, with intervals over seeds and clusters, and Holm's p over these {len(pairs)} "
        f"tests. **Bold**: p < {ALPHA} and the interval excludes 0.",
        "",
        f"| minus {reference} | {' | '.join(TESTED.values())} |",
        "|---|" + "---|" * len(TESTED),
    ]
    lines += [
        f"| {arm} | {' | '.join(_difference(row[metric]) for metric in TESTED)} |"
        for arm, row in rows.items()
    ]
    return lines


def _difference(pair: PairComparison) -> str:
    interval = pair.hierarchical
    low, high = (pair.low, pair.high) if interval is None else (interval.low, interval.high)
    p = "p < .001" if pair.p_adjusted < 0.001 else f"p {_number(pair.p_adjusted)}"
    text = f"{_signed(pair.difference)} [{_signed(low)}, {_signed(high)}]"
    shown = f"**{text}**" if is_shown(pair) else text
    return f"{shown} {p}{', equal' if is_equal(pair) else ''}"


def is_equal(pair: PairComparison) -> bool:
    """Whether equivalence is shown by its tests over prompts and by the interval that covers other seeds."""
    test, interval = pair.non_inferiority, pair.hierarchical
    if test is None or not test.equivalent:
        return False
    return interval is None or (interval.low > -test.margin and interval.high < test.margin)


def is_shown(pair: PairComparison) -> bool:
    """Whether a difference is shown by its test and by the interval over seeds, and is not 0 as printed."""
    interval = pair.hierarchical
    low, high = (pair.low, pair.high) if interval is None else (interval.low, interval.high)
    return pair.p_adjusted < ALPHA and (low > 0 or high < 0) and round(pair.difference, 3) != 0


def _aims(name: str) -> list[str]:
    """Lines that say whether the aims of set objectives are met."""
    reference, means = _study(name).setup["reference"], intervals(name)
    own = {metric: means[metric][reference].value for metric in TESTED}
    first = max(means[PASS_1], key=lambda arm: means[PASS_1][arm].value)
    most = means[PASS_1][first].value
    above = [
        arm
        for arm, entry in means[PASS_8].items()
        if round(entry.value, 3) > round(own[PASS_8], 3) and not arm.startswith(OWN)
    ]
    lines = [
        f"- pass@1 of {reference} within 2 % of the best arm's: **{_yes(own[PASS_1] >= (1 - MARGIN_SHARE) * most)}** "
        f'({_number(own[PASS_1])}, {first} {_number(most)}). "Equal" in the table: two one-sided tests within this '
        "margin, and the interval lies within it.",
        f"- No baseline has a higher pass@{AT_K}: **{_yes(not above)}**"
        + (
            f" ({', '.join(f'{arm} {_number(means[PASS_8][arm].value)}' for arm in above)})."
            if above
            else "."
        ),
    ]
    if "Dr.GRPO + KL" in means[DISTINCT]:
        ratio = own[DISTINCT] / means[DISTINCT]["Dr.GRPO + KL"].value
        lines.append(
            f"- {TESTED[DISTINCT]} at least 1.5 times that of Dr.GRPO + KL: **{_yes(ratio >= 1.5)}** ({ratio:.2f})."
        )
    return lines


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _summary() -> str:
    """Arms by tasks; a cell has pass@1, pass@8 and distinct-correct@8."""
    names = [name for name in TITLES if (RESULTS / f"{name}.json").exists()]
    counts = {name: max(map(len, _study(name).arms.values())) for name in names}
    heads = [f"{TITLES[name]}, {count} seed{'s' * (count > 1)}" for name, count in counts.items()]
    lines = [f"| arm | {' | '.join(heads)} |", "|---|" + "---|" * len(names)]
    for arm in README_ARMS:
        lines.append(f"| {arm} | {' | '.join(_summary_cell(name, arm) for name in names)} |")
    return "\n".join(lines) + "\n"


def _summary_cell(name: str, arm: str) -> str:
    means = intervals(name)
    if arm not in means[PASS_1]:
        return "-"
    different = {pair.metric for pair in compared(name) if pair.model == arm and is_shown(pair)}
    return " ".join(
        _number(means[metric][arm].value) + ("*" if metric in different else "")
        for metric in (PASS_1, PASS_8, DISTINCT)
    )


def _number(value: float) -> str:
    shown = f"{value:.3f}"
    return shown.replace("0.", ".", 1) if abs(float(shown)) < 1 else f"{value:.2f}"


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "-") + _number(abs(value))


def figure(name: str) -> str:
    """SVG: pass@1 to the right, distinct correct answers upwards, each arm with its intervals."""
    means, arms = intervals(name), list(_study(name).arms)
    left, top, width, height = PLOT
    across = _Axis.of([means[PASS_1][arm] for arm in arms], left, left + width)
    upwards = _Axis.of([means[DISTINCT][arm] for arm in arms], top + height, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>',
    ]
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(f'<path d="M{x:.1f} {top}V{top + height}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in upwards.ticks:
        y = upwards.at(tick)
        parts.append(f'<path d="M{left} {y:.1f}H{left + width}" stroke="#eee"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{HEIGHT - 12}" text-anchor="middle">pass@1</text>')
    parts.append(
        f'<text x="18" y="{top + height / 2}" text-anchor="middle" transform="rotate(-90 18 {top + height / 2})">'
        f"{TESTED[DISTINCT]}</text>"
    )
    for number, arm in enumerate(arms, start=1):
        x, y = means[PASS_1][arm], means[DISTINCT][arm]
        colour = "#c2410c" if arm.startswith(OWN) else "#1d4ed8"
        centre = f"{across.at(x.value):.1f}", f"{upwards.at(y.value):.1f}"
        row = top + 14 + 22 * (number - 1)
        parts += [
            f'<path d="M{across.at(x.low):.1f} {centre[1]}H{across.at(x.high):.1f}M{centre[0]} '
            f'{upwards.at(y.low):.1f}V{upwards.at(y.high):.1f}" stroke="{colour}" stroke-opacity=".35"/>',
            f'<circle cx="{centre[0]}" cy="{centre[1]}" r="9" fill="{colour}" fill-opacity=".85"/>',
            f'<text x="{centre[0]}" y="{float(centre[1]) + 4:.1f}" text-anchor="middle" font-size="11" fill="#fff">'
            f"{number}</text>",
            f'<text x="{left + width + 20}" y="{row}" fill="{colour}">{number}  {escape(arm)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """A linear scale from values to pixels, with ticks at round values."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high, self._start, self._end = low, high, start, end

    @classmethod
    def of(cls, entries: Sequence[MeanInterval], start: float, end: float) -> _Axis:
        low, high = min(entry.low for entry in entries), max(entry.high for entry in entries)
        room = 0.05 * (high - low) or 0.01
        return cls(low - room, high + room, start, end)

    @property
    def ticks(self) -> list[float]:
        step = next(
            size
            for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
            if (self._high - self._low) / size <= 8
        )
        first, last = int(self._low / step) + 1, int(self._high / step)
        return [round(step * index, 4) for index in range(first, last + 1)]

    def at(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)
