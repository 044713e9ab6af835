"""Prometheus metrics of a replica, through Ray's metrics agent (which prefixes names with `ray_`).

    polyray_generation_requests{route, status}        polyray_generation_request_seconds{route}
    polyray_generation_rejected{reason}               reason: token, scope, rate_limit, queue_full, deadline
    polyray_generation_first_token_seconds            of streamed requests alone: from arrival to the first token
    polyray_generation_tokens_generated{model}        polyray_generation_completions{model}
    polyray_generation_queued_sequences               polyray_generation_running_sequences
    polyray_generation_cancelled                      completions that the engine gave up: client gone, or time up
    polyray_generation_adapters_loaded{outcome}       outcome: loaded, refused
    polyray_generation_delivery_difference            largest log-prob difference in the last adapter's proof
    polyray_generation_selections{outcome}            outcome: picked, edited, none, repeated

In a replica Serve adds deployment, replica and application. Tokens per second are the rate of tokens_generated.
`route` is a route's template or "other"; `model` a name that is or was served, never an alias and never an invented
name: the first MAX_MODELS of a replica's life by name, the rest (a run followed for very long) as "other".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from ray.serve.metrics import Counter, Gauge, Histogram

from polyray.serving.generation.access_log import RejectReason

MAX_MODELS = 1000
OTHER_MODEL = "other"

AdapterOutcome = Literal["loaded", "refused"]
SelectionOutcome = Literal["picked", "edited", "none", "repeated"]
"""`repeated`: its client_key was known."""

_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Output of one model in this replica since it started.

    Example:
        ModelCounts(completions=8, tokens=96)
    """

    completions: int = 0
    tokens: int = 0


class GenerationMetrics:
    """All of them; one per replica, called from its event loop."""

    def __init__(self, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        self._labels: set[str] = set()
        self._counts: OrderedDict[str, ModelCounts] = OrderedDict()
        self._difference: float | None = None
        self.requests = _counter("requests", "HTTP requests by route and status.", "route", "status")
        self.request_seconds = _histogram(
            "request_seconds", "From a request's arrival in the replica to the end of its answer.", "route"
        )
        self.rejected = _counter("rejected", "Requests that were not served.", "reason")
        self.first_token_seconds = _histogram(
            "first_token_seconds", "From a streamed request's arrival to its first token."
        )
        self.tokens_generated = _counter("tokens_generated", "Tokens of completions.", "model")
        self.completions = _counter("completions", "Completions that came to their end.", "model")
        self.queued_sequences = _gauge("queued_sequences", "Completions that wait for the engine.")
        self.running_sequences = _gauge("running_sequences", "Completions that the engine decodes.")
        self.cancelled = _counter("cancelled", "Completions that the engine gave up.")
        self.adapters_loaded = _counter("adapters_loaded", "Adapters that came, by outcome.", "outcome")
        self.delivery_difference = _gauge(
            "delivery_difference", "Largest log-prob difference in the last adapter's proof."
        )
        self.selections = _counter("selections", "Selections that were stored.", "outcome")

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request that has ended."""
        self.requests.inc(1, {"route": route, "status": str(status)})
        self.request_seconds.observe(seconds, {"route": route})

    def reject(self, reason: RejectReason) -> None:
        """One request that was not served."""
        self.rejected.inc(1, {"reason": reason})

    def first_token(self, seconds: float) -> None:
        """Record the time to the first token of one streamed request."""
        self.first_token_seconds.observe(seconds)

    def completed(self, model: str, num_completions: int, num_tokens: int) -> None:
        """Completions of a served model that came to their end, with their tokens together."""
        tags = {"model": self._label(model)}
        if num_completions:
            self.completions.inc(num_completions, tags)
        if num_tokens:
            self.tokens_generated.inc(num_tokens, tags)
        before = self._counts.pop(model, ModelCounts())
        self._counts[model] = ModelCounts(before.completions + num_completions, before.tokens + num_tokens)
        if len(self._counts) > self._max_models:
            self._counts.popitem(last=False)

    def load(self, num_queued: int, num_running: int) -> None:
        """Record the engine's current load."""
        self.queued_sequences.set(num_queued)
        self.running_sequences.set(num_running)

    def cancel(self, num_completions: int) -> None:
        """Completions that the engine gave up."""
        if num_completions:
            self.cancelled.inc(num_completions)

    def adapter(self, outcome: AdapterOutcome, difference: float | None = None) -> None:
        """One adapter that came; `difference` in nats, where its proof was measured."""
        self.adapters_loaded.inc(1, {"outcome": outcome})
        if difference is not None:
            self._difference = difference
            self.set_difference()

    def set_difference(self) -> None:
        """The newest difference once more, for polyray/serving/gauges.py; nothing before the first."""
        if self._difference is not None:
            self.delivery_difference.set(self._difference)

    def selection(self, outcome: SelectionOutcome) -> None:
        """One selection that was stored, or was stored already."""
        self.selections.inc(1, {"outcome": outcome})

    def counts_by_model(self) -> dict[str, ModelCounts]:
        """Counts of the models used last, at most `max_models`; for /v1/info. The one used last comes last."""
        return dict(self._counts)

    def _label(self, model: str) -> str:
        if model not in self._labels:
            if len(self._labels) >= self._max_models:
                return OTHER_MODEL
            self._labels.add(model)
        return model


def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(f"polyray_generation_{name}", description=description, tag_keys=tags)  # type: ignore[arg-type]


def _gauge(name: str, description: str) -> Gauge:
    return Gauge(f"polyray_generation_{name}", description=description)


def _histogram(name: str, description: str, *tags: str) -> Histogram:
    return Histogram(
        f"polyray_generation_{name}",
        description=description,
        boundaries=_SECONDS,
        tag_keys=tags,  # type: ignore[arg-type]
    )
