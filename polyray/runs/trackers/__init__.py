"""Trackers: metrics.jsonl shown elsewhere during a run.

base.py         the protocol; the name of a run; metrics that are numbers
tensorboard.py  wandb.py  mlflow.py    one foreign system each, imported late
adapter_sync.py    reads metrics.jsonl as it grows and feeds one tracker, in a thread of its own
running.py      all trackers of a run: `open_trackers`, used by polyray train

metrics.jsonl stays the truth: a tracker is fed from it, so it can be slow, fail or be added later, and the run
neither waits nor fails.
"""
