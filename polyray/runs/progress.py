"""Progress display of a job: live on a terminal, a plain line every few seconds elsewhere.

A display opened while another one of the same process is open draws into that one: the quickstart opens one,
and the jobs it calls need not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

HEADLINE: dict[str, str] = {
    "reward_mean": "reward",
    "pass_at_1": "pass@1",
    "pass_at_8": "pass@8",
    "loss": "loss",
    "eval_loss": "eval loss",
    "tokens_per_s": "tokens/s",
    "idle_generate": "idle rollout",
    "idle_learn": "idle learner",
    "validation": "validation",
}
"""The metrics that are shown, under which label, in this order."""


class Display(Protocol):
    """Receiver of a job's progress."""

    def update(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """See `ProgressDisplay.update`."""
        ...

    def note(self, text: str) -> None:
        """See `ProgressDisplay.note`."""
        ...


class ProgressDisplay:
    """Progress of a job: a section ([2/8] train grpo) with a phase, its steps, the time, and a few metrics.

    Example:
        with ProgressDisplay() as display:
            display.section("train grpo", index=2, count=8)
            display.update(phase="train", step=3, total=60, metrics={"reward_mean": 0.41})
    """

    _open: ClassVar[ProgressDisplay | None] = None

    def __init__(
        self,
        *,
        console: Console | None = None,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(highlight=False)
        self._interval_s = interval_s
        self._clock = clock
        self._outer: ProgressDisplay | None = None
        self._live: Live | None = None
        self._section = ""
        self._section_started = self._phase_started = clock()
        self._last_line = -float("inf")
        self._columns: tuple[str, ...] = ()
        self._rows: tuple[Sequence[str], ...] = ()
        self._begin_phase("")

    def __enter__(self) -> ProgressDisplay:
        self._outer = ProgressDisplay._open
        if self._outer is not None:
            return self
        ProgressDisplay._open = self
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer is not None:
            self._outer = None
            return
        ProgressDisplay._open = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def section(self, name: str, index: int, count: int) -> None:
        """Begins part `index` (from 1) of `count`; the time of the part before is noted."""
        if self._outer is not None:
            self._outer.section(name, index, count)
            return
        if self._section:
            self.note(f"{self._section}: done in {format_seconds(self._clock() - self._section_started)}")
        self._section = f"[{index}/{count}] {name}"
        self._section_started = self._clock()
        self._columns, self._rows = (), ()
        self._begin_phase("")
        if self._live is None:
            self._print_line()

    def update(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Show changed values; `step` counts completed steps. A new `phase` resets its steps."""
        if self._outer is not None:
            self._outer.update(phase=phase, step=step, total=total, metrics=metrics)
            return
        begins = phase is not None and phase != self._phase
        if phase is not None and begins:
            self._begin_phase(phase)
        self._total = total if total is not None else self._total
        arrives = step is not None and step != self._step and step == self._total
        if step is not None:
            self._first_step = step if self._step is None else self._first_step
            self._step = step
        if metrics is not None:
            self._metrics = headline(metrics)
        if self._live is None and (begins or arrives or self._clock() - self._last_line >= self._interval_s):
            self._print_line()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows below the bar of a terminal, until the next section; plain lines have no room for them."""
        if self._outer is not None:
            self._outer.table(columns, rows)
        else:
            self._columns, self._rows = tuple(columns), tuple(rows)

    def note(self, text: str) -> None:
        """A line that stays: above the live display, or among the plain lines."""
        if self._outer is not None:
            self._outer.note(text)
            return
        self._console.print(text, markup=False, soft_wrap=True)

    def _begin_phase(self, phase: str) -> None:
        self._phase = phase
        self._phase_started = self._clock()
        self._step: int | None = None
        self._first_step = 0
        self._total: int | None = None
        self._metrics: dict[str, str] = {}

    def _seconds_left(self) -> float | None:
        """Seconds left by the pace of this phase since its first reported step; None before there is a pace."""
        if self._step is None or self._total is None or self._step <= self._first_step:
            return None
        pace = (self._clock() - self._phase_started) / (self._step - self._first_step)
        return pace * (self._total - self._step)

    def _head(self) -> str:
        return " ".join(part for part in (self._section, self._phase) if part) or "starting"

    def _times(self) -> str:
        left = self._seconds_left()
        elapsed = f"elapsed {format_seconds(self._clock() - self._phase_started)}"
        return elapsed if left is None else f"{elapsed}, left {format_seconds(left)}"

    def _steps(self) -> str:
        if self._step is None:
            return ""
        return f"{self._step}/{self._total}" if self._total is not None else str(self._step)

    def _print_line(self) -> None:
        self._last_line = self._clock()
        shown = "  ".join(f"{label} {value}" for label, value in self._metrics.items())
        self.note("  ".join(part for part in (self._head(), self._steps(), self._times(), shown) if part))

    def _render(self) -> RenderableType:
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total, completed=self._step or 0, width=30, pulse=self._total is None)
        row.add_row(Text(self._head(), style="bold"), bar, self._steps(), self._times())
        parts: list[RenderableType] = [row]
        if self._metrics:
            shown = "   ".join(f"{label} {value}" for label, value in self._metrics.items())
            parts.append(Text(shown, style="cyan"))
        if self._rows:
            table = Table(*self._columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
            for cells in self._rows:
                table.add_row(*(Text(cell) for cell in cells))
            parts.append(table)
        return Group(*parts)


def headline(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text for those metrics of a step that a display shows."""
    shown = dict(metrics)
    tokens, step_s = shown.get("tokens_generated"), shown.get("step_s")
    if "tokens_per_s" not in shown and tokens is not None and step_s:
        shown["tokens_per_s"] = tokens / step_s
    values = {label: shown[key] for key, label in HEADLINE.items() if shown.get(key) is not None}
    return {
        label: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}" for label, value in values.items()
    }


def format_seconds(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
