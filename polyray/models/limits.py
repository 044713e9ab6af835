"""Limits of the learner's memory; light, so that the planner of GPU memory can import them."""

LOGITS_PER_CHUNK = 2**25
"""Logits held at once (float32): 128 MiB."""
