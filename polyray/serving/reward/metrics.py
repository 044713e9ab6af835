"""Prometheus metrics of a replica, through Ray's metrics agent (which prefixes names with `ray_`).

    polyray_reward_requests{route, model, status}     polyray_reward_request_seconds{route}
    polyray_reward_items{model}                       polyray_reward_unscored{model}
    polyray_reward_batch_items{model}                 polyray_reward_batch_tokens{model}      (estimated tokens)
    polyray_reward_score_seconds{model}               of one batch, without its time in the queue
    polyray_reward_queued{model}                      groups and requests that wait in this replica
    polyray_reward_cache_hits{model}                  polyray_reward_cache_misses{model}
    polyray_reward_reloads{outcome}                   outcome: loaded, failed

In a replica Serve adds deployment, replica and application. `route` is a path of the API or "other", `model` a
configured name or "": no tag grows with the input of callers.
"""

from __future__ import annotations

from ray.serve.metrics import Counter, Gauge, Histogram

_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
_TOKENS = [64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 262144.0]
_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class RewardMetrics:
    """All of them; one per replica."""

    def __init__(self) -> None:
        self.requests = Counter(
            "polyray_reward_requests",
            description="HTTP requests by route, model and status.",
            tag_keys=("route", "model", "status"),  # type: ignore[arg-type]
        )
        self.request_seconds = Histogram(
            "polyray_reward_request_seconds",
            description="From a request's arrival in the replica to its answer.",
            boundaries=_SECONDS,
            tag_keys=("route",),
        )
        self.items = self._counter("items", "Items that were asked for, over HTTP and over the handle.")
        self.unscored = self._counter("unscored", "Items without a score.")
        self.cache_hits = self._counter("cache_hits", "Items with a known score.")
        self.cache_misses = self._counter("cache_misses", "Items that a caching model had to score.")
        self.batch_items = self._histogram("batch_items", "Items in one batch.", _SIZES)
        self.batch_tokens = self._histogram("batch_tokens", "Estimated tokens in one batch.", _TOKENS)
        self.score_seconds = self._histogram("score_seconds", "Seconds of scoring one batch.", _SECONDS)
        self.queued = Gauge(
            "polyray_reward_queued",
            description="Groups and requests that wait in this replica.",
            tag_keys=("model",),
        )
        self.reloads = Counter(
            "polyray_reward_reloads",
            description="New configurations that this replica loaded or refused.",
            tag_keys=("outcome",),
        )

    def batch(self, model: str, num_items: int, tokens: int, seconds: float, unscored: int) -> None:
        """One batch that a model scored."""
        tags = {"model": model}
        self.items.inc(num_items, tags)
        self.batch_items.observe(num_items, tags)
        self.batch_tokens.observe(tokens, tags)
        self.score_seconds.observe(seconds, tags)
        if unscored:
            self.unscored.inc(unscored, tags)

    def cache(self, model: str, hits: int, misses: int) -> None:
        """Record hits and misses of a model's score cache for one batch."""
        if hits:
            self.cache_hits.inc(hits, {"model": model})
        if misses:
            self.cache_misses.inc(misses, {"model": model})

    def request(self, route: str, model: str, status: int, seconds: float) -> None:
        """One HTTP request that was answered."""
        self.requests.inc(1, {"route": route, "model": model, "status": str(status)})
        self.request_seconds.observe(seconds, {"route": route})

    def _counter(self, name: str, description: str) -> Counter:
        return Counter(f"polyray_reward_{name}", description=description, tag_keys=("model",))

    def _histogram(self, name: str, description: str, boundaries: list[float]) -> Histogram:
        return Histogram(
            f"polyray_reward_{name}", description=description, boundaries=boundaries, tag_keys=("model",)
        )
