"""Start what a run needs (Ray, rollout pool, reward service) and drive it to its end."""
